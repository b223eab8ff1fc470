"""Each format is read back by its own library or derived again from its own files alone.

The clip is drawn here, by rays against boxes, so its truth owes nothing to the renderer.
"""

import functools
import io
import json
import math
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from gigafactory.jobs import video
from gigafactory.jobs.synthesize import formats
from gigafactory.jobs.synthesize.formats import coco, kitti, lerobot, smartspaces
from gigafactory.jobs.synthesize.formats import webdataset as tars
from gigafactory.jobs.synthesize.frame import Camera, Clip, Frame, Label

MODULES = {"coco": coco, "kitti": kitti, "lerobot": lerobot, "smartspaces": smartspaces}
MODULES["webdataset"] = tars
CLASSES = ("box", "pallet", "robot")
WIDTH, HEIGHT, FPS = 96, 64, 10.0
CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2


def turned(axis, angle):
    a, b = [i for i in range(3) if i != axis]
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = math.cos(angle)
    turn[b, a] = math.sin(angle) * (-1 if axis == 1 else 1)
    turn[a, b] = -turn[b, a]
    return turn


def looking(eye, target, roll=0.0):
    ahead = np.subtract(target, eye) / np.linalg.norm(np.subtract(target, eye))
    right = np.cross(ahead, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.column_stack((right, np.cross(ahead, right), ahead)) @ turned(2, roll)
    pose[:3, 3] = eye
    return pose


INTRINSICS = np.array([[80.0, 0, WIDTH / 2], [0, 80.0, HEIGHT / 2], [0, 0, 1]])
CAMERAS = (
    Camera("camera/0", WIDTH, HEIGHT, INTRINSICS, looking((0, -6, 3.5), (0, 0, 0.5))),
    Camera("camera/1", WIDTH, HEIGHT, INTRINSICS, looking((-6, 0.5, 0.6), (0, 0.5, 0.6), 0.1)),
)


def hits(camera, position, rotation, size):
    """Distance along the optical axis to a cuboid, for every pixel; inf where it is missed."""
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    pixels = np.stack((columns, rows, np.ones_like(rows)), -1)
    rays = pixels @ np.linalg.inv(camera.intrinsics).T @ camera.pose[:3, :3].T @ rotation
    start = (camera.pose[:3, 3] - position) @ rotation
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (-size / 2 - start) / rays, (size / 2 - start) / rays
    near, far = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
    return np.where((near <= far) & (near > 0), near, np.inf)


def things(index, moment):
    """What stands there: boxes tipped on their sides, a pallet turned, a robot that drives."""
    drive = 0.3 * moment + 0.1 * index
    return (
        ("box/0", "box", (0.9, 0.9, 0.3), turned(2, 0.4) @ turned(0, math.pi / 2), (0.8, 0.6, 0.9)),
        ("pallet/0", "pallet", (-1.2, 1.5, 0.1), turned(2, 1.1), (1.2, 0.8, 0.2)),
        ("robot/0", "robot", (-1 + drive, -0.5, 0.4), turned(2, drive), (1.0, 0.5, 0.8)),
        (
            "box/1",
            "box",
            (2.2, 2.0, 0.5),
            turned(2, -2.5) @ turned(1, math.pi / 2),
            (1.0, 0.9, 0.5),
        ),
    )


def frame(index, moment, camera):
    cuboids = [
        (name, class_, np.array(p), r, np.array(s))
        for name, class_, p, r, s in things(index, moment)
    ]
    depths = np.array([hits(camera, p, r, s) for _, _, p, r, s in cuboids])
    depth, nearest = depths.min(0), depths.argmin(0)
    instance = np.where(np.isfinite(depth), 100 * (1 + nearest), 0).astype(np.uint16)
    labels = []
    for number, (name, class_, position, rotation, size) in enumerate(cuboids):
        ys, xs = np.nonzero(instance == 100 * (1 + number))
        if not len(xs):
            continue
        world = position + (CORNERS * size) @ rotation.T
        seen = (world - camera.pose[:3, 3]) @ camera.pose[:3, :3] @ camera.intrinsics.T
        pixels = np.clip(seen[:, :2] / seen[:, 2:], 0, (WIDTH, HEIGHT))
        alone = np.isfinite(depths[number]).sum()
        labels.append(
            Label(
                thing=100 * (1 + number),
                name=name,
                class_=class_,
                box=(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1),
                pixels=len(xs),
                full_box=(*pixels.min(0), *pixels.max(0)),
                visible=len(xs) / alone,
                position=position,
                rotation=rotation,
                size=size,
            )
        )
    rows = np.arange(HEIGHT)[:, None]
    rgb = np.stack((instance * 5, 60 + rows + 0 * instance, 200 - instance), -1).astype(np.uint8)
    return Frame(
        moment, moment / FPS, camera, rgb, depth.astype(np.float32), instance, tuple(labels)
    )


def clip(index, moments=3):
    frames = tuple(frame(index, m, camera) for m in range(moments) for camera in CAMERAS)
    return Clip(index, 700 + index, "warehouse", {"people": 2.0}, CLASSES, FPS, frames)


CLIPS = [clip(0), clip(1)]
FRAMES = [each for one in CLIPS for each in one.frames]


def dataset(folder, module, order=(0, 1)):
    for index in order:
        (folder / "parts" / f"{index}").mkdir(parents=True)
        module.shard(folder / "parts" / f"{index}", CLIPS[index])
    parts = [folder / "parts" / f"{index}" for index in range(len(CLIPS))]
    module.join(folder / "whole", parts, CLASSES, FPS)
    return folder / "whole"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A dataset of each format, made once."""
    return functools.cache(lambda module: dataset(tmp_path_factory.mktemp("whole"), module))


def picture(source):
    """A PNG by a decoder that is not ours."""
    with av.open(source if hasattr(source, "read") else str(source)) as container:
        found = next(container.decode(video=0))
        return found.to_ndarray(format=None if found.format.name != "gray16be" else "gray16le")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", formats.NAMES)
def test_a_dataset_has_the_same_bytes_in_whatever_order_its_parts_are_made(name, whole, tmp_path):
    forward = contents(whole(MODULES[name]))
    backward = contents(dataset(tmp_path, MODULES[name], order=(1, 0)))
    assert forward
    assert forward.keys() == backward.keys()
    assert [path for path in forward if forward[path] != backward[path]] == []


@pytest.mark.parametrize("name", formats.NAMES)
def test_joining_leaves_the_parts_as_they_are(name, whole, tmp_path):
    folder = whole(MODULES[name])
    before = contents(folder.parent / "parts")
    parts = sorted((folder.parent / "parts").iterdir())
    MODULES[name].join(tmp_path / "again", parts, CLASSES, FPS)
    assert contents(folder.parent / "parts") == before
    assert contents(tmp_path / "again") == contents(folder)


@pytest.mark.parametrize("name", formats.NAMES)
def test_joining_thrice_as_much_takes_no_more_memory(name, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot, "EPISODES_BATCH", 5)
    part = whole(MODULES[name]).parent / "parts" / "0"
    peaks = []
    for count in (5, 10, 30):  # the first is to load what is loaded late
        tracemalloc.start()
        MODULES[name].join(tmp_path / f"of {count}", [part] * count, CLASSES, FPS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1] + 20_000


@pytest.mark.parametrize("kind", ["colour", "grey 8", "grey 16"])
def test_a_png_of_ours_reads_as_the_same_pixels_elsewhere(kind):
    rng = np.random.default_rng(3)
    shape = (33, 47, 3) if kind == "colour" else (33, 47)
    dtype = np.uint16 if kind == "grey 16" else np.uint8
    image = rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    assert (picture(io.BytesIO(formats.png(image))) == image).all()


def test_depth_is_whole_millimetres_and_nothing_is_zero():
    found = formats.depth_16(FRAMES[0])
    real = FRAMES[0].depth
    there = np.isfinite(real)
    assert there.any()
    assert not there.all()
    assert (found[~there] == 0).all()
    assert np.abs(found[there] / 1000 - real[there]).max() <= 0.000501


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_run_lengths_are_those_of_pycocotools(height, width, count, seed):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, count + 1, (height // 3 + 1, width // 3 + 1)).astype(np.uint16)
    instance = np.kron(blocks, np.ones((3, 3), np.uint16))[:height, :width]
    numbers = [int(number) for number in np.unique(instance) if number]
    expected = [
        coco_mask.encode(np.asfortranarray(instance == number).view(np.uint8))["counts"].decode()
        for number in numbers
    ]
    assert coco.run_lengths(instance) == dict(zip(numbers, expected, strict=True))


def test_run_lengths_of_a_mask_with_a_long_run_are_those_of_pycocotools():
    instance = np.zeros((3000, 3000), np.uint16)
    instance[2900:, 2900:] = 7
    instance[0, 0] = 7
    expected = coco_mask.encode(np.asfortranarray(instance == 7).view(np.uint8))["counts"].decode()
    assert coco.run_lengths(instance) == {7: expected}


def test_pycocotools_reads_the_masks_boxes_and_areas_that_were_drawn(whole):
    folder = whole(coco)
    found = COCO(str(folder / "annotations" / "instances.json"))
    names = [category["name"] for category in found.loadCats(found.getCatIds())]
    assert names == list(CLASSES)
    assert len(found.imgs) == len(FRAMES)
    for number, drawn in enumerate(FRAMES, start=1):
        (image,) = found.loadImgs(number)
        assert (image["width"], image["height"]) == (WIDTH, HEIGHT)
        assert (picture(folder / "images" / image["file_name"]) == drawn.rgb).all()
        annotations = found.loadAnns(found.getAnnIds(imgIds=number))
        assert len(annotations) == len(drawn.labels)
        for annotation, label in zip(annotations, drawn.labels, strict=True):
            mask = found.annToMask(annotation)
            assert (mask == (drawn.instance == label.thing)).all()
            assert annotation["area"] == coco_mask.area(found.annToRLE(annotation))
            assert annotation["bbox"] == coco_mask.toBbox(found.annToRLE(annotation)).tolist()
            assert names[annotation["category_id"] - 1] == label.class_


def test_panoptic_and_class_pictures_agree_with_the_json(whole):
    folder = whole(coco)
    table = json.loads((folder / "annotations" / "panoptic.json").read_text())
    assert len(table["annotations"]) == len(FRAMES)
    for row, drawn in zip(table["annotations"], FRAMES, strict=True):
        colour = picture(folder / "panoptic" / row["file_name"]).astype(int)
        ids = colour[..., 0] + 256 * colour[..., 1] + 65536 * colour[..., 2]
        assert (ids == drawn.instance).all()
        classes = picture(folder / "semantic" / row["file_name"])
        assert ((classes > 0) == (ids > 0)).all()
        for segment in row["segments_info"]:
            assert (ids == segment["id"]).sum() == segment["area"]
            assert (classes[ids == segment["id"]] == segment["category_id"]).all()


def kitti_frames(folder):
    """Labels and calibration of each frame, read by the words of KITTI's readme alone."""
    for path in sorted((folder / "training" / "label_2").iterdir()):
        calibration = {}
        for line in (folder / "training" / "calib" / path.name).read_text().splitlines():
            name, numbers = line.split(": ")
            calibration[name] = np.array(numbers.split(), float).reshape(3, -1)
        rows = [line.split() for line in path.read_text().splitlines()]
        yield calibration, [(row[0], np.array(row[1:], float)) for row in rows]


def kitti_corners(row):
    height, width, length, x, y, z, rotation_y = row[7:14]
    corners = np.array(
        [[a * length / 2, b, c * width / 2] for a in (-1, 1) for b in (0, -height) for c in (-1, 1)]
    )
    cos, sin = math.cos(rotation_y), math.sin(rotation_y)
    return corners @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]).T + (x, y, z)


def test_kitti_boxes_in_space_project_onto_their_boxes_in_the_picture(whole):
    exact = 0
    for number, (calibration, rows) in enumerate(kitti_frames(whole(kitti))):
        drawn = FRAMES[number]
        assert [row[0] for row in rows] == [label.class_ for label in drawn.labels]
        for (_, row), label in zip(rows, drawn.labels, strict=True):
            projected = np.c_[kitti_corners(row), np.ones(8)] @ calibration["P2"].T
            pixels = projected[:, :2] / projected[:, 2:]
            # A pixel is seen where its middle is covered: half a pixel each way is not seen.
            low, high = pixels.min(0) - 0.51, pixels.max(0) + 0.51
            assert (low <= row[3:5]).all()
            assert (row[5:7] <= high).all()
            if row[0] == 0 and label.visible == 1:
                exact += 1
                assert (row[3:5] <= low + 1.6).all()
                assert (row[5:7] >= high - 1.6).all()
            assert math.isclose(
                math.cos(row[2]), math.cos(row[13] - math.atan2(row[10], row[12])), abs_tol=1e-3
            )
    assert exact >= 12


def test_kitti_boxes_stand_in_the_world_where_the_things_stand(whole):
    tilted = 0
    for number, (calibration, rows) in enumerate(kitti_frames(whole(kitti))):
        pose = calibration["Tr_velo_to_cam"]
        assert (calibration["R0_rect"] == np.eye(3)).all()
        for (_, row), label in zip(rows, FRAMES[number].labels, strict=True):
            world = (kitti_corners(row) - pose[:, 3]) @ pose[:, :3]
            expected = label.position + (CORNERS * label.size) @ label.rotation.T
            apart = np.linalg.norm(world[:, None] - expected[None], axis=-1)
            assert apart.min(0).max() < 1e-3
            assert sorted(apart.argmin(0)) == list(range(8))
            tilted += abs(label.rotation[2, 2]) < 0.5
    assert tilted


def test_a_level_camera_has_the_plain_matrix_and_a_turned_one_labels_that_still_fit():
    still = looking((0, -5, 1), (0, 0, 1))
    camera = Camera("camera/0", WIDTH, HEIGHT, INTRINSICS, still)
    expected = np.column_stack((formats.centred(INTRINSICS), np.zeros(3)))
    assert np.allclose(kitti.matrix(camera, kitti.level(still)), expected, atol=1e-12)
    down = np.eye(4)
    down[:3, :3] = np.diag((1.0, -1.0, -1.0))
    reference = kitti.level(down)
    assert np.allclose(reference[:3, 2], (0, 1, 0))
    assert np.isclose(np.linalg.det(reference[:3, :3]), 1)


def test_kitti_tells_in_steps_how_much_is_hidden_and_how_much_is_outside():
    camera = Camera("camera/0", WIDTH, HEIGHT, INTRINSICS, looking((0, -5, 1), (0, 0, 1)))
    reference = kitti.level(camera.pose)
    projection = kitti.matrix(camera, reference)

    def fields(visible, x, full_box):
        size = np.array([1.0, 1e-6, 1.0])
        place = np.array([x, 0.0, 1.0])
        label = Label(
            1, "box/0", "tall box", (1, 2, 9, 9), 9, full_box, visible, place, np.eye(3), size
        )
        return kitti.line(label, camera, reference, projection).split()

    inside = (40.0, 24.0, 56.0, 40.0)
    assert [fields(visible, 0, inside)[2] for visible in (1, 0.8, 0.5, 0.4, 0.3)] == list("00112")
    assert fields(1, 0, inside)[:2] == ["tall_box", "0.00"]
    # The right edge of the picture is three metres out, five ahead: half of it is beyond.
    assert fields(1, 3, (88.0, 24.0, 96.0, 40.0))[1] == "0.50"
    assert fields(1, 3, None)[1] == "1.00"


def test_a_thing_that_leans_gets_the_smallest_upright_box_that_holds_it():
    reference = kitti.level(looking((0, -5, 1), (0, 0, 1)))
    size, lean = np.array([1.0, 0.5, 2.0]), 0.3
    label = Label(1, "box/0", "box", (0, 0, 1, 1), 1, None, 1.0, np.zeros(3), turned(0, lean), size)
    height, width, length, bottom, rotation_y = kitti.upright(label, reference)
    assert math.isclose(height, 2 * math.cos(lean) + 0.5 * math.sin(lean))
    assert math.isclose(width, 0.5 * math.cos(lean) + 2 * math.sin(lean))
    assert math.isclose(length, 1.0)
    assert math.isclose(rotation_y, 0.0, abs_tol=1e-12)
    assert np.allclose(bottom, (0, 1 + height / 2, 5))


def test_smartspaces_objects_project_into_their_box_of_every_camera(whole):
    folder = whole(smartspaces) / "train"
    assert [scene.name for scene in sorted(folder.iterdir())] == ["Warehouse_000", "Warehouse_001"]
    landed = 0
    for scene, one in zip(sorted(folder.iterdir()), CLIPS, strict=True):
        sensors = json.loads((scene / "calibration.json").read_text())["sensors"]
        cameras = {sensor["id"]: sensor for sensor in sensors}
        truth = json.loads((scene / "ground_truth.json").read_text())
        assert list(truth) == ["0", "1", "2"]
        for moment, found in truth.items():
            frames = [each for each in one.frames if each.moment == int(moment)]
            for thing in found:
                for camera, box in thing["2d bounding box visible"].items():
                    sensor = cameras[camera]
                    labels = frames[int(camera[-4:])].labels
                    (label,) = [each for each in labels if each.thing == thing["object id"]]
                    point = np.array(sensor["cameraMatrix"]) @ [*thing["3d location"], 1]
                    x, y = point[:2] / point[2]
                    if label.visible == 1:
                        landed += 1
                        assert box[0] <= x <= box[2]
                        assert box[1] <= y <= box[3]
                    pitch, roll, yaw = thing["3d bounding box rotation"]
                    turn = turned(2, yaw) @ turned(1, pitch) @ turned(0, roll)
                    corners = (CORNERS * thing["3d bounding box scale"]) @ turn.T
                    corners = np.c_[corners + thing["3d location"], np.ones(8)]
                    seen = corners @ np.array(sensor["cameraMatrix"]).T
                    pixels = seen[:, :2] / seen[:, 2:]
                    low = np.maximum(pixels.min(0), -0.5)
                    high = np.minimum(pixels.max(0), (WIDTH - 0.5, HEIGHT - 0.5))
                    assert np.allclose(thing["2d bounding box"][camera], [*low, *high])
                    # A pixel is seen where its middle is covered.
                    assert (low - 1e-6 <= box[:2]).all()
                    assert (box[2:] <= high + 1e-6).all()
                    composed = np.array(sensor["intrinsicMatrix"]) @ sensor["extrinsicMatrix"]
                    assert np.allclose(composed, sensor["cameraMatrix"])
                    ground = np.array(sensor["cameraMatrix"]) @ [*thing["3d location"][:2], 0, 1]
                    other = np.array(sensor["homography"]) @ [*thing["3d location"][:2], 1]
                    assert np.allclose(ground[:2] / ground[2], other[:2] / other[2])
        for camera in cameras:
            assert len(list(video.read(scene / "videos" / f"{camera}.mp4"))) == 3
            assert len(list((scene / "depth_maps" / camera).iterdir())) == 3
    assert landed >= 12


def test_a_camera_that_moves_has_its_place_at_every_frame():
    moved = looking((1, -6, 3.5), (0, 0, 0.5))
    second = replace(frame(0, 1, CAMERAS[0]), camera=replace(CAMERAS[0], pose=moved))
    still = smartspaces.sensor(0, (FRAMES[0], FRAMES[2]), FPS)
    assert "extrinsicMatrixByFrame" not in still
    first, other = smartspaces.sensor(0, (FRAMES[0], second), FPS)["extrinsicMatrixByFrame"]
    assert first == still["extrinsicMatrix"]
    assert np.allclose(np.array(other) @ moved[:, 3], 0)


@given(*(st.floats(-3.1, 3.1) for _ in range(3)))
def test_three_angles_give_the_rotation_back(roll, pitch, yaw):
    rotation = turned(2, yaw) @ turned(1, pitch) @ turned(0, roll)
    pitch, roll, yaw = smartspaces.pitch_roll_yaw(rotation)
    assert np.allclose(turned(2, yaw) @ turned(1, pitch) @ turned(0, roll), rotation, atol=1e-6)


def test_webdataset_reads_every_sample_in_order(whole):
    folder = whole(tars)
    urls = [str(path) for path in sorted(folder.iterdir())]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(samples) == len(FRAMES)
    for sample, drawn in zip(samples, FRAMES, strict=True):
        assert (picture(io.BytesIO(sample["png"])) == drawn.rgb).all()
        assert (picture(io.BytesIO(sample["seg.png"])) == drawn.instance).all()
        there = np.isfinite(drawn.depth)
        metres = picture(io.BytesIO(sample["depth.png"])) / 1000
        assert np.abs(metres - drawn.depth)[there].max() < 0.001
        about = json.loads(sample["json"])
        assert [label["thing"] for label in about["labels"]] == [x.thing for x in drawn.labels]
        assert np.array_equal(about["world_from_camera"], drawn.camera.pose)


def test_webdataset_files_are_cut_between_clips_and_each_is_a_whole_tar(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "SHARD_BYTES", 1)
    folder = dataset(tmp_path, tars)
    files = sorted(folder.iterdir())
    assert [path.name for path in files] == ["shard-000000.tar", "shard-000001.tar"]
    for path, one in zip(files, CLIPS, strict=True):
        assert path.read_bytes().endswith(bytes(1024))
        with tarfile.open(path) as tar:
            assert len(tar.getnames()) == 4 * len(one.frames)
            assert {member.mtime for member in tar} == {0}


def episodes(filmed, count=3):
    rng = np.random.default_rng(5)
    for index in range(count):
        steps = 7 + index
        yield lerobot.Episode(
            index=index,
            seed=2**40 + index,
            observation=rng.normal(size=(steps, 5)).astype(np.float32),
            action=rng.uniform(-1, 1, (steps, 1)).astype(np.float32),
            reward=rng.normal(size=steps).astype(np.float32),
            success=index == 1,
            collision=index == 2,
            step_s=0.1,
            task="reach the goal" if index else "stay",
            rgb=np.repeat(FRAMES[0].rgb[None], steps, 0) if filmed else None,
        )


@pytest.mark.parametrize("filmed", [False, True])
def test_an_episode_is_read_as_it_was_written(filmed, tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot, "DATA_BYTES", 500)
    lerobot.write(tmp_path / "a", episodes(filmed), ["a", "b", "c", "d", "e"], ["drive"])
    assert len(list((tmp_path / "a" / "data").rglob("*.parquet"))) == 3
    for found, made in zip(lerobot.read(tmp_path / "a"), episodes(filmed), strict=True):
        for name in ("observation", "action", "reward"):
            one, other = getattr(found, name), getattr(made, name)
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)
        for name in ("index", "seed", "success", "collision", "step_s", "task"):
            assert getattr(found, name) == getattr(made, name)
    lerobot.write(tmp_path / "b", episodes(filmed), ["a", "b", "c", "d", "e"], ["drive"])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_lerobot_tables_follow_its_schema(tmp_path):
    lerobot.write(tmp_path, episodes(True), ["a", "b", "c", "d", "e"], ["drive"])
    info = json.loads((tmp_path / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["fps"]) == ("v3.0", 10)
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 24, 2)
    rows = pq.read_table(tmp_path / "data" / "chunk-000" / "file-000.parquet")
    films = {key for key, feature in info["features"].items() if feature["dtype"] == "video"}
    assert set(rows.column_names) == set(info["features"]) - films
    assert str(rows.schema.field("observation.state").type) == "fixed_size_list<element: float>[5]"
    assert str(rows.schema.field("action").type) == "float"
    assert rows["index"].to_pylist() == list(range(24))
    assert np.flatnonzero(rows["next.done"].to_pylist()).tolist() == [6, 14, 23]
    assert np.flatnonzero(rows["next.success"].to_pylist()).tolist() == [14]
    meta = pq.read_table(tmp_path / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    for number, episode in enumerate(meta.to_pylist()):
        first, end = episode["dataset_from_index"], episode["dataset_to_index"]
        own = rows.slice(first, end - first)
        assert own["episode_index"].unique().to_pylist() == [number]
        assert own["frame_index"].to_pylist() == list(range(episode["length"]))
        (key,) = films
        place = {name: episode[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
        with av.open(str(tmp_path / info["video_path"].format(video_key=key, **place))) as film:
            shown = [float(frame.pts * frame.time_base) for frame in film.decode(video=0)]
        assert np.abs(np.array(own["timestamp"]) - shown).max() < 1e-4
    tasks = pq.read_table(tmp_path / "meta" / "tasks.parquet")
    of_pandas = json.loads(tasks.schema.metadata[b"pandas"])
    (index,) = of_pandas["index_columns"]
    assert tasks[index].to_pylist() == ["stay", "reach the goal"]
    assert tasks["task_index"].to_pylist() == [0, 1]


def test_statistics_of_all_episodes_are_those_of_all_rows(tmp_path):
    lerobot.write(tmp_path, episodes(False), ["a", "b", "c", "d", "e"], ["drive"])
    stats = json.loads((tmp_path / "meta" / "stats.json").read_text())["observation.state"]
    rows = np.concatenate([episode.observation for episode in episodes(False)]).astype(float)
    assert stats["count"] == [len(rows)]
    assert np.allclose(stats["mean"], rows.mean(0))
    assert np.allclose(stats["std"], rows.std(0))
    assert np.array_equal(stats["min"], rows.min(0))
    assert np.array_equal(stats["max"], rows.max(0))


def test_a_clip_is_an_episode_with_a_film_for_each_camera(whole):
    folder = whole(lerobot)
    info = json.loads((folder / "meta" / "info.json").read_text())
    rows = pq.read_table(folder / "data" / "chunk-000" / "file-000.parquet")
    assert len(rows) == 6
    poses = np.array(rows["observation.state"].to_pylist()).reshape(6, 2, 3, 4)
    for row, camera in np.ndindex(6, 2):
        assert np.allclose(poses[row, camera], CAMERAS[camera].pose[:3], atol=1e-6)
    for number, one in enumerate(CLIPS):
        beside = folder / "truth" / f"episode-{number:06d}"
        labels = [json.loads(line) for line in (beside / "labels.jsonl").read_text().splitlines()]
        assert [len(row["labels"]) for row in labels] == [len(each.labels) for each in one.frames]
        for camera in range(2):
            key = f"observation.images.camera_{camera}"
            path = info["video_path"].format(video_key=key, chunk_index=0, file_index=number)
            mine = one.frames[camera::2]
            for moment, rgb in enumerate(video.read(folder / path)):
                assert np.abs(rgb.astype(int) - mine[moment].rgb).mean() < 8
                instance = picture(beside / f"camera_{camera}" / f"instance-{moment:06d}.png")
                assert (instance == mine[moment].instance).all()


def test_a_film_has_the_same_bytes_each_time_and_shows_what_was_put_in(tmp_path):
    rng = np.random.default_rng(1)
    smooth = np.kron(rng.integers(0, 255, (9, 5, 7, 3)), np.ones((1, 7, 9, 1))).astype(np.uint8)
    for name in ("one.mp4", "two.mp4"):
        with video.Writer(tmp_path / name, 63, 35, 29.97) as film:
            for rgb in smooth:
                film.add(rgb)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    found = list(video.read(tmp_path / "one.mp4"))
    assert len(found) == 9
    for shown, rgb in zip(found, smooth, strict=True):
        assert shown.shape == (36, 64, 3)
        assert np.abs(shown[:35, :63].astype(int) - rgb).mean() < 16


def test_a_film_refuses_a_picture_of_another_size(tmp_path: Path):
    film = video.Writer(tmp_path / "film.mp4", 64, 64, 10)
    with pytest.raises(AssertionError, match=r"in a film of \(64, 64, 3\)"):
        film.add(np.zeros((32, 64, 3), np.uint8))
    film.close()
