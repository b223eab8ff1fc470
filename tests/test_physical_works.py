"""Jobs of worlds under the real executor: killed and stopped, they end as if left alone."""

import hashlib
import json
import os
import signal
import time
from itertools import pairwise

import numpy as np
import psutil
import pytest

from gigafactory.jobs import (
    closed_loop,
    detection,
    detector,
    falsification,
    policy,
    rollout,
    synthesize,
    worlds,
)
from gigafactory.jobs.context import STOP, Context, StopJob
from gigafactory.jobs.worlds import task
from gigafactory.jobs.worlds.drive import Drive
from gigafactory.works.driver import GRACE_S
from gigafactory.works.engine import Ended, Engine, kept_checkpoint
from tests.point import PARAMETERS, Point

WAIT_S_MAX = 120
PARTS = 8
FRAMES = {
    "kind": "synthesize", "name": "frames", "world": {"name": "cell", "scene": "factory"},
    "frames": 4 * PARTS, "formats": ["coco"], "width": 64, "height": 48, "cameras": 1, "clip": 4,
    "fps": 10.0, "randomise": True, "layouts": "train", "seed": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Ray with two chips."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        engine = Engine({"here": 2}, tmp_path_factory.mktemp("home"))
        engine.open()
        yield engine
        engine.close()


def started(engine, home, number, resume_from=None, work=FRAMES, chips=2, **inputs):
    """An attempt, if nothing else is said to draw the frames with two chips."""
    described = {
        "work": work,
        "model": None,
        "attempt": number,
        "chips": chips,
        "nodes": {"here": chips},
        "device": "cpu",
        "inputs": {name: str(folder) for name, folder in inputs.items()},
        "resume_from": str(resume_from) if resume_from else None,
        "cache": str(home / "cache"),
    }
    return engine.start(home / f"attempt-{number}", described)


def until(attempt, there):
    """Wait for something, and keep the attempt's lease."""
    deadline = time.monotonic() + WAIT_S_MAX
    while not (found := there()):
        assert time.monotonic() < deadline, (attempt.folder / "log.txt").read_text()[-3000:]
        attempt.renew_lease()
        time.sleep(0.02)
    return found


def end_of(engine, attempt):
    """How an attempt ended."""
    heard = until(attempt, lambda: [e for e in engine.ended() if isinstance(e, Ended)])
    assert [each.folder for each in heard] == [attempt.folder]
    return heard[0].outcome


def processes(attempt):
    """Those of the job and of Ray Data, as far as they have told of themselves."""
    told = [json.loads(file.read_text())["pid"] for file in attempt.folder.glob("pid-*.json")]
    return [psutil.Process(pid) for pid in told if psutil.pid_exists(pid)]


def workers(attempt):
    return list(attempt.folder.glob("pid-worker-*.json"))


def handed_in(attempt):
    """The steps of the checkpoints that it has told of since the last look."""
    return [news["checkpoint"] for news in attempt.news() if "checkpoint" in news]


def tree(folder):
    """Every file of a folder by its name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_a_dataset_whose_makers_were_killed_and_stopped_is_that_of_one_left_alone(engine, tmp_path):
    killed = started(engine, tmp_path, 1)
    until(killed, lambda: workers(killed))
    first = processes(killed)
    for process in first:
        os.kill(process.pid, signal.SIGKILL)
    assert end_of(engine, killed) == "failed"
    killed.fence()
    assert not psutil.wait_procs(first, timeout=60)[1]

    stopped = started(engine, tmp_path, 2)
    until(stopped, lambda: workers(stopped))
    second = processes(stopped)
    stopped.ask_to_stop()
    asked_s = time.monotonic()
    assert end_of(engine, stopped) == "stopped"
    assert time.monotonic() - asked_s < GRACE_S
    assert not psutil.wait_procs(second, timeout=60)[1], "a worker outlived its attempt"
    (step,) = handed_in(stopped)
    assert 1 <= step < PARTS
    kept = tmp_path / "kept"
    assert stopped.take_checkpoint(step, kept)

    last = started(engine, tmp_path, 3, kept_checkpoint(kept, step))
    assert end_of(engine, last) == "done"
    made = [news["step"] for news in last.news() if "step" in news]
    assert made[0] > step, "what was kept was made again"
    assert not psutil.wait_procs(processes(last), timeout=60)[1]

    told = json.loads((last.folder / "cpu-workers.json").read_text())["cpu_s"]
    assert told > 0.5, "a process that draws needs more than that to begin"
    own = json.loads((last.folder / "cpu-0.json").read_text())["cpu_s"]
    assert last.cpu_s() == pytest.approx(told + own)

    alone = Context.alone(tmp_path / "alone", FRAMES)
    synthesize.run(alone)
    assert len(tree(alone.output / "dataset")) > 4 * PARTS
    assert tree(last.folder / "output" / "dataset") == tree(alone.output / "dataset")
    assert (last.folder / "output" / "scenes.jsonl").read_bytes() == (
        alone.output / "scenes.jsonl"
    ).read_bytes()


@pytest.fixture
def points(monkeypatch):
    """Whatever the world, what is to be done in it is to reach a point."""
    monkeypatch.setattr(task, "make", Point)
    monkeypatch.setattr(worlds, "parameters", lambda scene: PARAMETERS)


def test_an_imitator_that_was_killed_ends_with_the_bytes_of_one_left_alone(
    engine, points, tmp_path
):
    work = {"world": {"name": "floor"}, "policy": "expert", "episodes": 30, "video": 0}
    drives = Context.alone(tmp_path / "drives", work)
    rollout.run(drives)
    work = {"kind": "pretrain", "name": "novice", "learns": "policy", "of": ["drives"]}
    work |= {"steps": 3000, "checkpoint_steps": 100, "batch": 64}
    killed = started(engine, tmp_path, 1, None, work, 1, drives=drives.output)
    told = until(killed, lambda: handed_in(killed))
    for process in processes(killed):
        os.kill(process.pid, signal.SIGKILL)
    assert end_of(engine, killed) == "failed"
    step = [*told, *handed_in(killed)][-1]
    assert step < work["steps"]
    kept = tmp_path / "kept"
    assert killed.take_checkpoint(step, kept)
    killed.fence()
    last = started(engine, tmp_path, 2, kept_checkpoint(kept, step), work, 1, drives=drives.output)
    assert end_of(engine, last) == "done"
    assert min(news["step"] for news in last.news() if "step" in news) > step
    alone = Context.alone(tmp_path / "alone", work, inputs={"drives": drives.output})
    policy.run(alone)
    assert tree(last.folder / "output") == tree(alone.output)


def stopped_within(patch, context, run, where, name, after):
    """Ask a job to stop at the so many-th call of what it does; how often that is called."""
    calls, original = [], getattr(where, name)

    def called(*words, **more):
        calls.append(words)
        if len(calls) == after:
            (context.folder / STOP).touch()
        return original(*words, **more)

    patch.setattr(where, name, called)
    with pytest.raises(StopJob):
        run(context)
    patch.setattr(where, name, original)
    (context.folder / STOP).unlink()
    return len(calls)


def test_a_rollout_stops_within_an_episode_and_ends_with_the_same_bytes(
    points, tmp_path, monkeypatch
):
    work = {"world": {"name": "floor"}, "policy": "random", "episodes": 70, "video": 0}
    alone, cut = Context.alone(tmp_path / "alone", work), Context.alone(tmp_path / "cut", work)
    rollout.run(alone)
    assert stopped_within(monkeypatch, cut, rollout.run, Point, "step", 25) == 25
    assert [kept.name for kept in cut.checkpoints.iterdir()] == ["step-000001"]
    rollout.run(cut)
    assert tree(cut.output) == tree(alone.output)


def holding_still(output, what):
    """Leave a policy that does nothing, for a task of this class."""
    sizes = (2 * what.observation_size, *policy.HIDDEN, what.action_size)
    tensors = {"mean": np.zeros(sizes[0], np.float32), "scale": np.ones(sizes[0], np.float32)}
    for at, (before, after) in enumerate(pairwise(sizes)):
        tensors[f"{at}.weight"] = np.zeros((after, before), np.float32)
        tensors[f"{at}.bias"] = np.zeros(after, np.float32)
    config = {
        "gigafactory": "policy",
        "task": what.name,
        "observation_names": what.observation_names,
        "action_names": what.action_names,
        "observation_size": what.observation_size,
        "action_size": what.action_size,
        "hidden": policy.HIDDEN,
    }
    policy.save(output / "model", config, tensors)
    return output


def test_a_judge_of_policies_stops_within_an_episode_and_judges_the_same(
    points, tmp_path, monkeypatch
):
    still = holding_still(tmp_path / "still", Point)
    world = {"name": "floor", "scene": "warehouse"}
    work = {"name": "judge", "of": "still", "world": world, "examples": 40}
    alone, cut = (
        Context.alone(tmp_path / name, work, inputs={"still": still}) for name in ("alone", "cut")
    )
    judged = closed_loop.evaluate(alone)
    # Two parts of 20 steps, and the third, the expert's first, is under way.
    assert stopped_within(monkeypatch, cut, closed_loop.evaluate, Point, "step", 43) == 43
    assert [kept.name for kept in cut.checkpoints.iterdir()] == ["step-000002"]
    again = closed_loop.evaluate(cut)
    assert again["metrics"] == judged["metrics"]
    assert tree(cut.output) == tree(alone.output)


def test_a_search_for_failures_stops_between_some_scenarios_and_finds_the_same(
    tmp_path, monkeypatch
):
    still = holding_still(tmp_path / "still", Drive)
    work = {"name": "break", "of": "still", "world": {"name": "road", "scene": "road"}}
    alone, cut = (
        Context.alone(tmp_path / name, work | {"examples": 4000}, inputs={"still": still})
        for name in ("alone", "cut")
    )
    found = falsification.evaluate(alone)
    monkeypatch.setattr(falsification, "TOGETHER", 300)
    evaluate = falsification.evaluate
    assert stopped_within(monkeypatch, cut, evaluate, falsification.cutins, "drive", 5) == 5
    assert evaluate(cut)["metrics"] == found["metrics"]
    assert tree(cut.output) == tree(alone.output)


def test_a_judge_of_detectors_stops_after_the_layout_that_it_draws(tmp_path, monkeypatch):
    pictures = np.zeros((1, 32, 32, 3), np.uint8)
    classes = worlds.module(FRAMES["world"]).CLASSES
    detector.save(tmp_path / "eyes" / "model", detector.Net(len(classes)), classes, pictures, 1)
    work = {"name": "judge", "of": "eyes", "world": FRAMES["world"], "examples": 64}
    context = Context.alone(tmp_path / "judge", work, inputs={"eyes": tmp_path / "eyes"})
    assert stopped_within(monkeypatch, context, detection.evaluate, detection, "shoot", 2) == 2
