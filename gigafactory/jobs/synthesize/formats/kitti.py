"""KITTI object detection: pictures, labels and calibration, a file each for every frame.

KITTI's car stands level, so a label turns about one axis only, y, which points down. Our cameras
may look down from a ceiling. So the reference axes are those of the camera made level: the same
place, y along gravity, z ahead. `P2` takes their points to pixels and holds the tilt; a camera that
is level has `P2 = [K | 0]`. The "velodyne" axes are the world's, so `Tr_velo_to_cam` is the
camera's pose.

Metres, radians, pixels whose middle is at whole numbers. Depth is metres * 256, as in KITTI's depth
pictures.

Source: Geiger et al. 2012, doi:10.1109/CVPR.2012.6248074, readme.txt of the object devkit
"""

import math
from pathlib import Path

import numpy as np

from gigafactory.jobs.synthesize.formats import (
    camera_from_world,
    centred,
    classes_8,
    depth_16,
    link_numbered,
    png,
    save,
)
from gigafactory.jobs.synthesize.frame import Camera, Clip, Label

PARTS = ("image_2", "label_2", "calib", "depth_2", "semantic_2", "instance_2")
DEPTH_PER_M = 256.0
SEEN_FULLY, SEEN_PARTLY = 0.8, 0.4
"""Shares of a thing from which it counts as not occluded (0), partly (1); below: largely (2).
KITTI's annotators had no numbers; these are ours."""
CORNERS = np.stack(np.meshgrid((-0.5, 0.5), (-0.5, 0.5), (-0.5, 0.5)), -1).reshape(8, 3)


def shard(folder: Path, clip: Clip) -> None:
    """One clip, a frame of each camera after the other."""
    for number, frame in enumerate(clip.frames):
        reference = level(frame.camera.pose)
        projection = matrix(frame.camera, reference)
        lines = [line(label, frame.camera, reference, projection) for label in frame.labels]
        contents = (
            png(frame.rgb),
            "".join(lines).encode(),
            calibration(projection, camera_from_world(reference)).encode(),
            png(depth_16(frame, DEPTH_PER_M)),
            png(classes_8(frame, clip.classes)),
            png(frame.instance),
        )
        for part, content in zip(PARTS, contents, strict=True):
            suffix = "txt" if part in ("label_2", "calib") else "png"
            save(folder / part / f"{number:06d}.{suffix}", content)


def join(folder: Path, shards: list[Path], classes: tuple[str, ...], fps: float) -> None:
    """The whole dataset; KITTI knows no list of classes but the labels, and no rate."""
    for part in PARTS:
        link_numbered(shards, part, folder / "training" / part)


def level(pose: np.ndarray) -> np.ndarray:
    """World from reference axes, (4, 4): the camera's place, y down along gravity, z ahead."""
    down = np.array([0.0, 0.0, -1.0])
    # A camera that looks straight down has its ahead at the upper edge of its picture.
    ahead = pose[:3, 2] if abs(pose[2, 2]) < 1 - 1e-9 else -pose[:3, 1]
    right = np.cross(down, ahead)
    right /= np.linalg.norm(right)
    reference = np.eye(4)
    reference[:3, :3] = np.column_stack((right, down, np.cross(right, down)))
    reference[:3, 3] = pose[:3, 3]
    return reference


def matrix(camera: Camera, reference: np.ndarray) -> np.ndarray:
    """P2, (3, 4): pixels from reference axes."""
    tilt = camera.pose[:3, :3].T @ reference[:3, :3]
    return np.column_stack((centred(camera.intrinsics) @ tilt, np.zeros(3)))


def line(label: Label, camera: Camera, reference: np.ndarray, projection: np.ndarray) -> str:
    """One label: fifteen fields."""
    height, width, length, bottom, rotation_y = upright(label, reference)
    bearing = math.atan2(bottom[0], bottom[2])
    alpha = math.remainder(rotation_y - bearing, 2 * math.pi)
    occluded = 0 if label.visible >= SEEN_FULLY else 1 if label.visible >= SEEN_PARTLY else 2
    x0, y0, x1, y1 = label.box
    numbers = (alpha, x0, y0, x1 - 1, y1 - 1, height, width, length, *bottom, rotation_y)
    kind = label.class_.replace(" ", "_")
    share = truncated(label, camera, reference, projection)
    return f"{kind} {share:.2f} {occluded} " + " ".join(f"{n:.4f}" for n in numbers) + "\n"


def upright(label: Label, reference: np.ndarray) -> tuple[float, float, float, np.ndarray, float]:
    """Height, width, length, middle of the bottom and rotation_y of the label's upright box.

    It is the smallest upright box that holds the cuboid and heads where its x axis heads (its y
    axis, where x stands more than 45 degrees off the ground). For a thing that stands upright, or
    was tipped on a side, that is the cuboid itself.
    """
    own = reference[:3, :3].T @ label.rotation  # reference axes from the cuboid's
    heading = own[:, 0] if abs(own[1, 0]) < math.sqrt(0.5) else own[:, 1]
    rotation_y = math.atan2(-heading[2], heading[0])
    cos, sin = math.cos(rotation_y), math.sin(rotation_y)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    length, height, width = np.abs(turn.T @ own) @ label.size
    middle = reference[:3, :3].T @ (label.position - reference[:3, 3])
    return height, width, length, middle + np.array([0, height / 2, 0]), rotation_y


def truncated(label: Label, camera: Camera, reference: np.ndarray, projection: np.ndarray) -> float:
    """Share of the projected cuboid's frame that lies outside the picture; 1 where unbounded."""
    if label.full_box is None:
        return 1.0
    x0, y0, x1, y1 = label.full_box  # clipped: what ends before the edge is whole
    if x0 > 0 and y0 > 0 and x1 < camera.width and y1 < camera.height:
        return 0.0
    world = label.position + (CORNERS * label.size) @ label.rotation.T
    seen = (world - reference[:3, 3]) @ reference[:3, :3] @ projection[:, :3].T
    if (seen[:, 2] <= 0).any():
        return 1.0
    pixels = seen[:, :2] / seen[:, 2:] + 0.5
    low, high = pixels.min(0), pixels.max(0)
    edge = np.array([camera.width, camera.height])
    inside = np.clip(high, 0, edge) - np.clip(low, 0, edge)
    return float(1 - inside.prod() / (high - low).prod())


def calibration(projection: np.ndarray, reference_from_world: np.ndarray) -> str:
    """A calib file. There is one camera, so P0 to P3 are the same."""
    rows = dict.fromkeys(("P0", "P1", "P2", "P3"), projection) | {
        "R0_rect": np.eye(3),
        "Tr_velo_to_cam": reference_from_world[:3],
        "Tr_imu_to_velo": np.eye(4)[:3],
    }
    return "".join(
        f"{name}: " + " ".join(f"{number:.12e}" for number in values.ravel()) + "\n"
        for name, values in rows.items()
    )
