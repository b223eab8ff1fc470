"""WebDataset: tar files of samples, a sample all members of one key.

A sample is a frame: `KEY.png` (RGB), `KEY.depth.png` (16-bit, mm), `KEY.seg.png` (16-bit, number of
the thing), `KEY.json` (camera, labels). The key is clip, moment and camera. Headers carry no date
and no owner.

Source: https://github.com/webdataset/webdataset; POSIX ustar
"""

import json
import shutil
import tarfile
from contextlib import ExitStack
from pathlib import Path

from gigafactory.jobs.synthesize.formats import depth_16, numbered, png, truth
from gigafactory.jobs.synthesize.frame import Clip

SHARD_BYTES = 256 * 1024**2
"""A file is closed before the clip that would make it longer."""
PART = "members"
BLOCK = 512


def shard(folder: Path, clip: Clip) -> None:
    """One clip: members without the end of an archive, so that parts can be put in line."""
    with open(folder / PART, "wb") as part:
        for moment, camera, frame in numbered(clip):
            key = f"{clip.index:06d}-{moment:05d}-{camera:02d}"
            about = truth(clip, frame) | {"classes": list(clip.classes), "drawn": clip.drawn}
            members = {
                "depth.png": png(depth_16(frame)),
                "json": json.dumps(about).encode(),
                "png": png(frame.rgb),
                "seg.png": png(frame.instance),
            }
            for suffix, content in members.items():
                header = tarfile.TarInfo(f"{key}.{suffix}")
                header.size = len(content)
                part.write(header.tobuf(tarfile.USTAR_FORMAT))
                part.write(content + bytes(-len(content) % BLOCK))


def join(folder: Path, shards: list[Path], classes: tuple[str, ...], fps: float) -> None:
    """The whole dataset; `classes` and `fps` are in the samples already."""
    folder.mkdir(parents=True, exist_ok=True)
    count, size = 0, SHARD_BYTES
    with ExitStack() as open_file:
        for part in shards:
            length = (part / PART).stat().st_size
            if size + length > SHARD_BYTES:
                open_file.close()
                tar = open_file.enter_context(open(folder / f"shard-{count:06d}.tar", "wb"))
                # Runs before the file is closed: two empty blocks end an archive.
                open_file.callback(tar.write, bytes(2 * BLOCK))
                count, size = count + 1, 0
            with open(part / PART, "rb") as members:
                shutil.copyfileobj(members, tar, 1024**2)
            size += length
