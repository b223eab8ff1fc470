"""Learning: killed at any moment, or stopped, it ends with the bytes of a run left alone."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from gigafactory.jobs import learning
from gigafactory.jobs.context import PROGRESS, STOP, Context, StopJob
from gigafactory.jobs.learning import Learning

STEPS, EVERY, STOPPED_AT = 5, 2, 3


def run(context):
    """A small net with running means and some frozen weights, whose loss is added up."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    net[2].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters())
    learning = Learning(context, net.state_dict(), optimizer, lost=0.0)
    for step in learning.steps(STEPS, EVERY, lambda step: 0.1 / (step + 1)):
        rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        loss = net(rows).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        learning.progress["lost"] += loss.item()
        context.report(step=step + 1)
    return learning.progress, {name: tensor.tolist() for name, tensor in net.state_dict().items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(Context.alone(tmp_path_factory.mktemp("alone"), {}))


class Killed(BaseException):
    """Nothing of ours catches it."""


def killed(patch, context, at):
    """Die before the so many-th thing that is done to the disk; whether there are so many."""
    left = at

    def dying(original):
        def does(*words, **more):
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return original(*words, **more)

        return does

    with patch.context() as moment:
        for where, name in (
            *((os, "fsync"), (os, "rename"), (Path, "mkdir"), (Path, "rename")),
            *((shutil, "rmtree"), (learning, "save_file"), (Context, "report")),
        ):
            moment.setattr(where, name, dying(getattr(where, name)))
        try:
            run(context)
        except Killed:
            return True
    return False


def test_killed_before_anything_it_writes_it_ends_with_the_same_bytes(alone, tmp_path, monkeypatch):
    at = 1
    while True:
        context = Context.alone(tmp_path / f"{at}", {})
        if not killed(monkeypatch, context, at):
            break
        assert run(context) == alone, f"killed before {at}"
        at += 1
    assert at > 4 * STEPS


def test_stopped_it_hands_in_what_it_has_and_goes_on_elsewhere(alone, tmp_path):
    first = Context.alone(tmp_path / "first", {})

    class Asked(Context):
        def report(self, **figures):
            super().report(**figures)
            if figures.get("step") == STOPPED_AT:
                (self.folder / STOP).touch()

    with pytest.raises(StopJob):
        run(Asked.alone(tmp_path / "first", {}))
    (kept,) = first.checkpoints.iterdir()
    told = [json.loads(line) for line in (first.folder / PROGRESS).read_text().splitlines()]
    assert [each["checkpoint"] for each in told if "checkpoint" in each] == [EVERY, STOPPED_AT]
    assert kept.name == f"step-{STOPPED_AT:06d}"
    assert run(Context.alone(tmp_path / "second", {}, resume_from=kept)) == alone


def test_the_rate_rises_shortly_and_falls_to_nothing():
    rates = [learning.rate(step, 20, rise=2) for step in range(20)]
    assert max(rates) == rates[1]
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert 0 < rates[-1] < 0.02
