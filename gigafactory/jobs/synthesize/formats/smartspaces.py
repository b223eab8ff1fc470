"""NVIDIA PhysicalAI-SmartSpaces, in the layout of MTMC_Tracking_2025: many cameras, one scene.

A clip is a scene: a film for each camera, `calibration.json`, `ground_truth.json` by frame. Metres
and radians in the world's axes; boxes are x0, y0, x1, y1 of pixels, the last inside; the middle of
a pixel is at whole numbers, as in OpenCV. Depth is a 16-bit PNG a frame in millimetres, in a folder
for each camera where the original has them in one HDF5 file; things are kept the same way. There
is no map.png: the world's metres are the map's.

Source: https://huggingface.co/datasets/nvidia/PhysicalAI-SmartSpaces
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from gigafactory.jobs.synthesize.formats import (
    camera_from_world,
    centred,
    depth_16,
    link_tree,
    moments,
    png,
    save,
)
from gigafactory.jobs.synthesize.frame import Clip, Frame, Label
from gigafactory.jobs.video import Writer


def shard(folder: Path, clip: Clip) -> None:
    """One clip as a scene, in a folder with the name of the world."""
    scene = folder / clip.world.capitalize()
    by_moment = list(moments(clip))
    cameras = list(zip(*by_moment, strict=True))  # each camera's frames
    (scene / "videos").mkdir(parents=True)
    for camera, frames in enumerate(cameras):
        name, first = identifier(camera), frames[0].camera
        with Writer(scene / "videos" / f"{name}.mp4", first.width, first.height, clip.fps) as film:
            for number, frame in enumerate(frames):
                film.add(frame.rgb)
                depth = scene / "depth_maps" / name / f"distance_to_image_plane_{number:05d}.png"
                save(depth, png(depth_16(frame)))
                save(scene / "instance_maps" / name / f"{number:05d}.png", png(frame.instance))
    sensors = [sensor(camera, frames, clip.fps) for camera, frames in enumerate(cameras)]
    (scene / "calibration.json").write_text(json.dumps({"sensors": sensors}, indent=1) + "\n")
    found = {str(number): objects(frames) for number, frames in enumerate(by_moment)}
    (scene / "ground_truth.json").write_text(json.dumps(found) + "\n")


def join(folder: Path, shards: list[Path], classes: tuple[str, ...], fps: float) -> None:
    """The whole dataset: scenes, numbered through."""
    for number, part in enumerate(shards):
        (scene,) = part.iterdir()
        link_tree(scene, folder / "train" / f"{scene.name}_{number:03d}")


def identifier(camera: int) -> str:
    """What a camera is called in every file."""
    return f"Camera_{camera:04d}"


def sensor(camera: int, frames: tuple[Frame, ...], fps: float) -> dict[str, Any]:
    """A camera's calibration at the first frame. One that moves has those of all frames, too."""
    first = frames[0].camera
    intrinsics = centred(first.intrinsics)
    extrinsics = [camera_from_world(frame.camera.pose)[:3] for frame in frames]
    projection = intrinsics @ extrinsics[0]
    ground = projection[:, [0, 1, 3]]
    attributes = {"fps": fps, "frameWidth": first.width, "frameHeight": first.height}
    calibration = {
        "type": "camera",
        "id": identifier(camera),
        "coordinates": {"x": float(first.pose[0, 3]), "y": float(first.pose[1, 3])},
        "scaleFactor": 1.0,
        "translationToGlobalCoordinates": {"x": 0.0, "y": 0.0},
        "attributes": [{"name": name, "value": str(value)} for name, value in attributes.items()],
        "intrinsicMatrix": intrinsics.tolist(),
        "extrinsicMatrix": extrinsics[0].tolist(),
        "cameraMatrix": projection.tolist(),
        # Pixels from the ground z = 0. Its scale is free; the files of NVIDIA end in 1.
        "homography": (ground / (ground[2, 2] or 1.0)).tolist(),
    }
    if any((each != extrinsics[0]).any() for each in extrinsics):
        calibration["extrinsicMatrixByFrame"] = [each.tolist() for each in extrinsics]
    return calibration


def objects(frames: list[Frame]) -> list[dict[str, Any]]:
    """What any camera sees at one moment, by number."""
    labels: dict[int, Label] = {}
    full: dict[int, dict[str, Any]] = {}
    seen: dict[int, dict[str, Any]] = {}
    for camera, frame in enumerate(frames):
        for label in frame.labels:
            labels.setdefault(label.thing, label)
            x0, y0, x1, y1 = (int(edge) for edge in label.box)
            seen.setdefault(label.thing, {})[identifier(camera)] = [x0, y0, x1 - 1, y1 - 1]
            if label.full_box is not None:
                edges = [float(edge) - 0.5 for edge in label.full_box]
                full.setdefault(label.thing, {})[identifier(camera)] = edges
    return [
        {
            "object type": label.class_,
            "object id": number,
            "object name": label.name,
            "3d location": label.position.tolist(),
            "3d bounding box scale": label.size.tolist(),
            "3d bounding box rotation": pitch_roll_yaw(label.rotation),
            "2d bounding box": full.get(number, {}),
            "2d bounding box visible": seen[number],
        }
        for number, label in sorted(labels.items())
    ]


def pitch_roll_yaw(rotation: np.ndarray) -> list[float]:
    """In the order of the dataset, of which readers take the last; Rz(yaw) Ry(pitch) Rx(roll)."""
    pitch = math.asin(min(1.0, max(-1.0, -rotation[2, 0])))
    roll = math.atan2(rotation[2, 1], rotation[2, 2])
    yaw = math.atan2(rotation[1, 0], rotation[0, 0])
    return [pitch, roll, yaw]
