"""Policies: imitated, practised, saved, loaded; interrupted runs end with the same bytes."""

import json

import numpy as np
import pytest

from gigafactory.jobs import policy, ppo, rollout
from gigafactory.jobs.context import STOP, Context, StopJob
from gigafactory.jobs.worlds import task
from tests.point import Point

WORLD = {"name": "floor", "scene": "warehouse"}


@pytest.fixture(autouse=True)
def points(monkeypatch):
    """Whatever the world, what is to be done in it is to reach a point."""
    monkeypatch.setattr(task, "make", Point)
    # Enough to see that it learns.
    monkeypatch.setattr(ppo, "COPIES", 8)
    monkeypatch.setattr(ppo, "JUDGED", 16)


@pytest.fixture
def drives(tmp_path):
    work = {"kind": "rollout", "world": WORLD, "policy": "expert", "episodes": 40, "video": 0}
    context = Context.alone(tmp_path / "drives", work)
    rollout.run(context)
    return context.output


def imitation(folder, drives, steps=400, **more):
    work = {"kind": "pretrain", "learns": "policy", "of": ["drives"], "steps": steps, **more}
    return Context.alone(folder, work, inputs={"drives": drives})


def practice(folder, novice, steps=500):
    work = {"kind": "finetune", "learns": "policy", "start": "novice", "world": WORLD}
    return Context.alone(folder, work | {"steps": steps}, inputs={"novice": novice})


def reached(model, layouts=range(1000, 1040)):
    """The share of fresh layouts in which the policy reaches the point."""
    world = Point({}, len(layouts))
    played = rollout.play(world, layouts, rollout.actor(str(model), world, layouts))
    return np.mean([each.success for each in played])


def interrupted(run, context, asked_to_stop_after):
    """Run, be asked to stop after some reports, and run again from the checkpoint."""
    reports = 0
    context_report = Context.report

    def report(self, **figures):
        nonlocal reports
        context_report(self, **figures)
        reports += "step" in figures
        if reports == asked_to_stop_after:
            (self.folder / STOP).touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "report", report)
        with pytest.raises(StopJob):
            run(context)
    (context.folder / STOP).unlink()
    return run(context)


def test_an_imitator_does_what_its_expert_did(tmp_path, drives):
    context = imitation(tmp_path / "novice", drives)
    told = policy.run(context)
    assert told["loss_judged"] < 0.05 < told["loss_first"]
    assert reached(context.output / "model") == 1.0


def test_an_interrupted_imitation_ends_with_the_same_bytes(tmp_path, drives):
    whole = policy.run(imitation(tmp_path / "whole", drives))
    parted = interrupted(policy.run, imitation(tmp_path / "parted", drives), 2)
    assert parted["weights_sha256"] == whole["weights_sha256"]
    assert parted["loss_first"] == whole["loss_first"]


def test_practice_never_ends_worse_than_its_start(tmp_path, drives):
    novice = imitation(tmp_path / "novice", drives, steps=20)
    policy.run(novice)
    context = practice(tmp_path / "pilot", novice.output, steps=1500)
    told = policy.run(context)
    assert told["success_start"] < 1.0
    assert told["success"] >= told["success_start"]
    pilot, start = context.output / "model", novice.output / "model"
    assert reached(pilot) >= reached(start)
    config = json.loads((pilot / "config.json").read_text())
    assert config["learned"].startswith("practice" if told["kept_round"] else "imitation")


def test_practice_that_did_harm_is_thrown_away(tmp_path, drives, monkeypatch):
    novice = imitation(tmp_path / "novice", drives)
    policy.run(novice)
    monkeypatch.setattr(ppo, "LEARNING_RATE", 1.0)
    monkeypatch.setattr(ppo, "CLIP", 100.0)
    monkeypatch.setattr(ppo, "DIVERGENCE", None)
    context = practice(tmp_path / "pilot", novice.output)
    assert policy.run(context)["kept_round"] == 0
    before, after = (
        policy.load(each.output / "model").act(np.ones((3, 4), np.float32))
        for each in (novice, context)
    )
    assert np.array_equal(before, after)


def test_an_interrupted_practice_ends_with_the_same_bytes(tmp_path, drives):
    novice = imitation(tmp_path / "novice", drives, steps=20)
    policy.run(novice)
    whole = policy.run(practice(tmp_path / "whole", novice.output))
    parted = interrupted(policy.run, practice(tmp_path / "parted", novice.output), 2)
    assert parted["weights_sha256"] == whole["weights_sha256"]
    assert parted["reward"] == whole["reward"]


def test_an_observation_is_answered_alike_in_any_company(tmp_path, drives):
    context = imitation(tmp_path / "novice", drives, steps=20)
    policy.run(context)
    acts = policy.load(context.output / "model")
    rows = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    together = acts.act(rows)
    alone = np.concatenate([acts.act(row[None]) for row in rows])
    assert np.array_equal(together, alone)
    assert np.array_equal(together[7:20], acts.act(rows[7:20]))
    assert (np.abs(together) <= 1).all()


def test_a_policy_is_refused_where_it_has_nothing_to_do(tmp_path, drives, monkeypatch):
    novice = imitation(tmp_path / "novice", drives, steps=1)
    policy.run(novice)
    other = type("Other", (Point,), {"name": "sort"})
    monkeypatch.setattr(task, "make", other)
    with pytest.raises(ValueError, match=r"(?s)learned to reach cannot sort.*hint: name a world"):
        policy.run(practice(tmp_path / "pilot", novice.output))


def test_episodes_of_two_tasks_teach_nothing_together(tmp_path, drives, monkeypatch):
    monkeypatch.setattr(task, "make", type("Other", (Point,), {"name": "sort"}))
    work = {"kind": "rollout", "world": WORLD, "policy": "expert", "episodes": 4, "video": 0}
    sorts = Context.alone(tmp_path / "sorts", work)
    rollout.run(sorts)
    context = Context.alone(
        tmp_path / "novice",
        {"learns": "policy", "of": ["drives", "sorts"], "steps": 1},
        inputs={"drives": drives, "sorts": sorts.output},
    )
    with pytest.raises(ValueError, match="the episodes of sorts are of another task"):
        policy.run(context)


def test_what_is_no_policy_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"gigafactory": "detector"}')
    with pytest.raises(ValueError, match=r"(?s)this model is no policy.*'detector'"):
        policy.load(tmp_path)
