"""Promises of the detector and its judge: it learns, resumes to the byte, scores as COCO does."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from gigafactory.jobs import detection, detector, synthesize
from gigafactory.jobs.act_child import detector as engine
from gigafactory.jobs.context import Context, StopJob
from gigafactory.jobs.engines import EXAMPLE, config
from gigafactory.jobs.synthesize.frame import Label
from gigafactory.jobs.worlds.scene import WorldRefused

CELL = {"name": "cell", "scene": "factory", "ranges": {}}
STEPS = 80


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """48 small pictures of a factory cell."""
    work = {
        "name": "frames", "world": CELL, "frames": 48, "formats": ["coco"], "width": 128,
        "height": 128, "cameras": 1, "clip": 1, "fps": 10.0, "randomise": True,
        "layouts": "train", "seed": 0,
    }  # fmt: skip
    context = Context.alone(tmp_path_factory.mktemp("frames"), work)
    synthesize.run(context)
    return context.output


def learning(folder, frames, **more):
    work = {"name": "eyes", "of": ["frames"], "steps": STEPS, "batch": 8, "seed": 0} | more
    inputs = {"frames": frames} | ({"eyes": more["begun"]} if "begun" in more else {})
    return Context.alone(folder, work, inputs=inputs)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory, frames):
    context = learning(tmp_path_factory.mktemp("eyes"), frames)
    return context, detector.run(context)


def losses(context):
    lines = (context.folder / "progress.jsonl").read_text().splitlines()
    return [said["loss"] for said in map(json.loads, lines) if "loss" in said]


def test_the_loss_falls(eyes):
    context, results = eyes
    told = losses(context)
    assert told[-1] < 0.8 * told[0]
    assert results["steps"] == STEPS
    assert results["frames"] == 48
    assert results["things"] > 48


def test_an_interrupted_run_ends_with_the_bytes_of_one_left_alone(tmp_path, frames, eyes):
    """Stopped after step 12, gone on from the checkpoint that this leaves."""
    first = learning(tmp_path, frames)
    stopping = replace(first)
    asked = iter([False] * (48 + 12) + [True] * 10)  # before each picture, and each step
    object.__setattr__(stopping, "should_stop", lambda: next(asked))
    with pytest.raises(StopJob):
        detector.run(stopping)
    (kept,) = first.checkpoints.glob("step-*")
    assert kept.name == "step-000012"
    detector.run(first)
    for name in ("model.safetensors", "config.json", EXAMPLE):
        there = eyes[0].output / "model" / name
        assert (first.output / "model" / name).read_bytes() == there.read_bytes()


def test_finetuning_goes_on_from_what_was_learned(tmp_path, frames, eyes):
    context = learning(tmp_path, frames, start="eyes", begun=eyes[0].output, steps=10)
    detector.run(context)
    assert losses(context)[0] < losses(eyes[0])[0]


def test_a_detector_of_other_things_is_no_start(tmp_path, frames, eyes):
    other = tmp_path / "other"
    detector.save(
        other / "model", detector.Net(2), ("cat", "dog"), np.zeros((1, 64, 64, 3), np.uint8), 1
    )
    with pytest.raises(WorldRefused, match="other things"):
        detector.run(learning(tmp_path / "job", frames, start="eyes", begun=other))


def judge(folder, eyes, **more):
    work = {"name": "judge", "of": "eyes", "world": CELL, "examples": 40, "seed": 0} | more
    return Context.alone(folder, work, inputs={"eyes": eyes.output})


def test_the_judge_sees_held_out_layouts_and_a_detector_is_no_better_than_itself(tmp_path, eyes):
    context = judge(tmp_path, eyes[0], against="eyes")
    judged = detection.evaluate(context)
    metrics = judged["metrics"]
    assert metrics["frames"] == 40
    assert 0 <= metrics["map50_low"] < metrics["map50_high"] <= 1
    assert metrics["map50"] == metrics["map50_against"]
    assert metrics["regression_low"] == 0.0
    assert all((context.output / one["picture"]).exists() for one in judged["samples"])


def test_of_few_layouts_the_interval_is_everything_so_that_a_gate_stays_shut(tmp_path, eyes):
    metrics = detection.evaluate(judge(tmp_path, eyes[0], against="eyes", examples=8))["metrics"]
    assert (metrics["map50_low"], metrics["map50_high"]) == (0.0, 1.0)
    assert (metrics["regression_low"], metrics["regression_high"]) == (-1.0, 1.0)


def label(class_, box, pixels=None):
    x0, y0, x1, y1 = box
    pixels = (x1 - x0) * (y1 - y0) if pixels is None else pixels
    nothing = np.zeros(3)
    return Label(1, f"{class_}/1", class_, box, pixels, None, 1.0, nothing, np.eye(3), nothing)


class Seen:
    """A frame of which only the labels matter."""

    def __init__(self, *labels):
        self.labels = labels


def scored(frames, found, layouts=None):
    return detection.Scored(frames, layouts or [0] * len(frames), ("box", "man"), found)


def hit(class_, box, score):
    return {"class": class_, "box": list(box), "score": score}


BOX, MAN = (10, 10, 40, 40), (60, 20, 80, 90)


def test_all_found_is_one_nothing_found_is_zero_and_half_the_classes_is_half():
    frames = [Seen(label("box", BOX), label("man", MAN))]
    whole = [[hit("box", BOX, 0.9), hit("man", MAN, 0.8)]]
    assert scored(frames, whole).metrics()["map50"] == pytest.approx(1.0)
    assert scored(frames, [[]]).metrics()["map50"] == 0.0
    assert scored(frames, [whole[0][:1]]).metrics()["map50"] == pytest.approx(0.5)


def test_what_is_too_small_neither_counts_nor_hurts():
    frames = [Seen(label("box", BOX), label("box", (100, 100, 103, 103)))]
    found = [[hit("box", BOX, 0.9), hit("box", (100, 100, 103, 103), 0.95)]]
    assert scored(frames, found).metrics()["map50"] == pytest.approx(1.0)
    assert scored(frames, [found[0][:1]]).metrics()["map50"] == pytest.approx(1.0)


def test_resampling_every_layout_once_is_coco_s_own_mean():
    rng = np.random.default_rng(0)
    frames, found, layouts = [], [], []
    for at in range(40):
        boxes = [tuple(int(v) for v in (x, y, x + w, y + h)) for x, y, w, h in
                 rng.integers((0, 0, 10, 10), (60, 60, 60, 60), (4, 4))]  # fmt: skip
        names = rng.choice(["box", "man"], 4)
        frames.append(Seen(*map(label, names, boxes)))
        seen = [(n, tuple(np.array(b) + rng.integers(-8, 9, 4))) for n, b in
                zip(names, boxes, strict=True) if rng.random() < 0.8]  # fmt: skip
        seen += [("box", (5, 5, 30, 25))] * (rng.random() < 0.3)
        found.append([hit(n, [float(v) for v in b], float(rng.random())) for n, b in seen])
        layouts.append(at // 8)
    judged = scored(frames, found, layouts)
    once = judged.map50(np.ones((1, 5), int))
    assert once[0] == pytest.approx(judged.metrics()["map50"], abs=1e-9)
    assert 0.1 < once[0] < 0.9
    # A layout drawn twice is as good as its frames standing there twice.
    doubled = scored(frames + frames[:8], found + found[:8], layouts + [0] * 8)
    assert judged.map50(np.array([[2, 1, 1, 1, 1]]))[0] == pytest.approx(
        doubled.metrics()["map50"], abs=1e-9
    )


def test_of_boxes_that_overlap_in_one_class_the_best_stands():
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [50, 50, 60, 60.0]])
    scores = torch.tensor([0.5, 0.9, 0.8, 0.01])
    kinds = torch.tensor([0, 0, 1, 0])
    assert detector.kept(boxes, scores, kinds) == [1, 2]


def test_a_cell_answers_for_the_smallest_thing_near_it():
    at = detector.middles(8, 8)
    boxes = torch.tensor([[0, 0, 0, 64, 64], [1, 28, 28, 36, 36.0]])
    cells, things = detector.assigned(at, boxes)
    answers = dict(zip(cells.tolist(), things.tolist(), strict=True))
    assert answers[4 * 8 + 4] == 1
    assert set(answers.values()) == {0, 1}
    assert detector.assigned(at, torch.zeros(0, 5))[0].numel() == 0


def test_each_picture_is_seen_once_before_any_is_seen_again():
    work = {"seed": 3, "batch": 7}
    order = np.concatenate([detector.epoch_order(20, step, work) for step in range(20)])
    for epoch in range(7):
        assert sorted(order[20 * epoch : 20 * (epoch + 1)]) == list(range(20))


def test_a_served_detector_answers_the_picture_beside_it(eyes):
    folder = eyes[0].output / "model"
    answer = engine(folder)(json.loads((folder / EXAMPLE).read_text()))
    assert answer["object"] == "detections"
    for one in answer["detections"]:
        x0, y0, x1, y1 = one["box"]
        assert 0 <= x0 <= x1 <= 128
        assert 0 <= y0 <= y1 <= 128
        assert one["class"] in config(folder)["classes"]
