"""Training that shrinks and grows: 2 chips, then 1, then 2, against one left in peace."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from gigafactory.blueprint.load import parse
from gigafactory.faults import Refused
from gigafactory.jobs import corpus, pretrain
from gigafactory.jobs.context import STOP, Context, StopJob
from gigafactory.plan import make
from gigafactory.works.engine import Attempt, kept_checkpoint
from tests import test_pretrain
from tests.test_blueprint import GOOD
from tests.test_pretrain import CONFIG, WORK

library = test_pretrain.library


class Asked(Context):
    """An attempt whose factory wants its chips back after a step."""

    def report(self, **figures):
        super().report(**figures)
        if figures.get("step", 0) >= self.work["stop_after"]:
            (self.folder / STOP).touch()


def run(folder, number, stop_after, resume_from=None, rank=0, world=1):
    """A rank of an attempt, until it is done or asked to stop."""
    attempt = folder / f"attempt-{number}"
    context = Asked(
        work=WORK | {"stop_after": stop_after},
        folder=attempt,
        checkpoints=attempt / "checkpoints",
        cache=folder / "cache",
        model={"name": "small", "config": CONFIG},
        rank=rank,
        world=world,
        resume_from=resume_from,
    )
    context.make_folders()
    try:
        results = pretrain.run(context)
        if rank == 0:
            (folder / "results.json").write_text(json.dumps(results))
    except StopJob:
        pass
    return folder / "results.json"


def rank_of(rank, library, folder, number, stop_after, resume_from):
    """One of two ranks, in a process of its own, as the engine would start it."""
    torch.set_num_threads(1)
    corpus.sysconfig.get_path = lambda name: str(library)
    corpus.HELD_OUT_SHARE_MAX = 0.2
    pretrain.REPORT_S = 0
    store = dist.FileStore(str(folder / f"store-{number}"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    run(folder, number, stop_after, resume_from, rank, 2)
    dist.destroy_process_group()


def test_two_chips_then_one_then_two_end_as_a_run_left_in_peace(library, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "REPORT_S", 0)
    kept, last = tmp_path / "kept", None
    for number, (world, stop_after) in enumerate([(2, 3), (1, 5), (2, 99)], start=1):
        if world == 2:
            words = (library, tmp_path, number, stop_after, last)
            multiprocessing.spawn(rank_of, args=words, nprocs=2)
        else:
            run(tmp_path, number, stop_after, last)
        attempt = Attempt("small", number, tmp_path / f"attempt-{number}")
        for news in attempt.news():
            if step := news.get("checkpoint"):
                assert attempt.take_checkpoint(step, kept)
                last = kept_checkpoint(kept, step)
    elastic = json.loads((tmp_path / "results.json").read_text())
    assert elastic["tokens"] == WORK["tokens"]
    assert last.name == "step-000006.3", "the third went on from the fifth step"
    peace = json.loads(run(tmp_path / "peace", 1, 99).read_text())
    assert elastic["loss_first"] == pytest.approx(peace["loss_first"], abs=1e-4)
    assert elastic["loss_last"] == pytest.approx(peace["loss_last"], abs=1e-3)


def test_every_width_of_an_elastic_job_must_share_its_batch():
    text = GOOD.replace("tokens: 1 k tokens", "tokens: 1 k tokens, %s")
    with pytest.raises(Refused) as refused:
        parse(text % "chips: 4, chips_min: 1, sequence: 256, batch_tokens: 1536", Path("mill.yaml"))
    assert "4 chips cannot share a batch of 6 sequences" in refused.value.faults[0].why


def test_the_submission_says_how_narrow_a_job_may_be():
    text = GOOD.replace("tokens: 1 k tokens", "tokens: 1 k tokens, chips: 2, chips_min: 1")
    assert make(parse(text, Path("mill.yaml"))).job("train").submission()["chips_min"] == 1
    assert make(parse(GOOD, Path("mill.yaml"))).job("judge").submission()["chips_min"] is None
