"""Forms in which labelled pictures are kept, one module a format.

Each has `shard(folder, clip)`, which writes one clip into its own empty folder, and
`join(folder, shards, classes, fps)`, which makes the whole dataset of such parts. A part does not
know where its pictures will stand, so parts are made by any number of workers, in any order; the
parts are numbered by their order in `shards` alone, and only their index is read to join them:
pictures are hard links (copies where the disk has none), so joining costs no memory and little
time. Parts stay as they are.

Here: what the formats share. Pictures are PNG without loss: 8-bit RGB, 8-bit classes (0: none,
else 1 + place in `classes`), 16-bit things (0: none), 16-bit depth.
"""

import os
import shutil
import struct
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any
from zlib import compress, crc32

import numpy as np

from gigafactory.jobs.synthesize.frame import Clip, Frame, Label

NAMES = ("coco", "kitti", "lerobot", "smartspaces", "webdataset")
DEPTH_MM = 1000.0


def png(image: np.ndarray) -> bytes:
    """A PNG of (H, W) uint8 or uint16, or (H, W, 3) uint8.

    Rows are stored as differences from the row above and compressed by zlib. ISA-L takes an eighth
    of its time, but one picture in a thousand came out otherwise in another process.
    """
    height, width = image.shape[:2]
    big_endian = np.ascontiguousarray(image, image.dtype.newbyteorder(">"))
    rows = big_endian.view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2  # filter "up"
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    kind = 2 if image.ndim == 3 else 0  # colour or grey
    header = struct.pack(">IIBBxxx", width, height, 8 * image.dtype.itemsize, kind)
    body = compress(filtered.data, 1)
    parts = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc32(name + content))
        for name, content in parts
    )


def save(path: Path, content: bytes) -> None:
    """Write a file, making its folder with the first one."""
    try:
        path.write_bytes(content)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def depth_16(frame: Frame, per_m: float = DEPTH_MM) -> np.ndarray:
    """Depth in steps of 1 / `per_m` metres; 0 where nothing is, 65535 for all that is farther."""
    steps = frame.depth * np.float32(per_m)
    steps += np.float32(0.5)
    found = np.minimum(steps, np.float32(65535), out=steps).astype(np.uint16)
    found[np.isinf(frame.depth)] = 0
    return found


def classes_8(frame: Frame, classes: tuple[str, ...]) -> np.ndarray:
    """The class of each pixel, by its place in `classes` from 1; 0: none."""
    assert len(classes) < 256, f"{len(classes)} classes do not fit 8 bits"
    table = np.zeros(1 + max((label.thing for label in frame.labels), default=0), np.uint8)
    for label in frame.labels:
        table[label.thing] = 1 + classes.index(label.class_)
    return table[frame.instance]


def moments(clip: Clip) -> Iterator[list[Frame]]:
    """The frames of each moment; a camera's place in the list is its number in the formats."""
    for _, frames in groupby(clip.frames, key=lambda frame: frame.moment):
        yield list(frames)


def numbered(clip: Clip) -> Iterator[tuple[int, int, Frame]]:
    """Each frame with the number of its moment, from 0, and of its camera."""
    for moment, frames in enumerate(moments(clip)):
        for camera, frame in enumerate(frames):
            yield moment, camera, frame


def truth(clip: Clip, frame: Frame) -> dict[str, Any]:
    """All that is known of a frame but its pixels, for JSON; metres, the world's axes."""
    camera = frame.camera
    return {
        "clip": clip.index,
        "seed": clip.seed,
        "world": clip.world,
        "moment": frame.moment,
        "time_s": frame.time_s,
        "camera": camera.name,
        "intrinsics": camera.intrinsics.tolist(),
        "world_from_camera": camera.pose.tolist(),
        "labels": [thing(label) for label in frame.labels],
    }


def thing(label: Label) -> dict[str, Any]:
    """A label for JSON."""
    return {
        "thing": label.thing,
        "name": label.name,
        "class": label.class_,
        "box": [int(edge) for edge in label.box],
        "full_box": None if label.full_box is None else [float(edge) for edge in label.full_box],
        "pixels": int(label.pixels),
        "visible": float(label.visible),
        "position": label.position.tolist(),
        "rotation": label.rotation.tolist(),
        "size": label.size.tolist(),
    }


def camera_from_world(pose: np.ndarray) -> np.ndarray:
    """The inverse of a rigid pose, (4, 4)."""
    inverse = np.eye(4)
    inverse[:3, :3] = pose[:3, :3].T
    inverse[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return inverse


def centred(intrinsics: np.ndarray) -> np.ndarray:
    """Intrinsics for formats in which the middle of the first pixel is (0, 0), not (0.5, 0.5)."""
    shifted = intrinsics.copy()
    shifted[:2, 2] -= 0.5
    return shifted


def link(source: Path, target: Path) -> None:
    """The same file under a second name."""
    os.makedirs(target.parent, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def link_tree(source: Path, target: Path) -> None:
    """All files of a folder under a second one."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            link(path, target / path.relative_to(source))


def link_numbered(shards: list[Path], part: str, target: Path, digits: int = 6) -> None:
    """The files of `part` of all shards, numbered through from 0."""
    paths = (path for shard in shards for path in sorted((shard / part).iterdir()))
    for number, path in enumerate(paths):
        link(path, target / f"{number:0{digits}d}{path.suffix}")
