"""What a job sees of the world, and all that it sees: its spec, its folders, three verbs.

A job is a function `run(context) -> results`. It runs inside the factory (the engine makes
the context) or outside it (`Context.alone(folder, work)`), with the same bytes as result.
The factory and the job talk through files, so a job outlives a crash of its driver and a
crash of the job loses no word that it said.

Folders: `folder` belongs to this attempt alone, and so does `checkpoints` in it: what is told
to be there, whole, the factory takes away and hands to a later attempt as `resume_from`. So an
attempt that was given up, and writes all the same, harms no other. `cache` belongs to all jobs
of the machine (content that anyone would make the same).
"""

import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gigafactory.jobs.whole import publish

PROGRESS = "progress.jsonl"
RESULT = "result.json"
STOP = "stop"
LEASE = "lease"
ALIVE = "alive"


def step_folder(step: int) -> str:
    """Name of a checkpoint's folder in `checkpoints`."""
    return f"step-{step:06d}"


class StopJob(Exception):
    """Raised by `Context.check` where the job was asked to stop; its checkpoint stands."""


class JobRefused(ValueError):
    """What a job was asked for and cannot do, in the four parts of a fault."""

    def __init__(self, what: str, where: str, why: str, remedy: str):
        # As they came, so that pickle makes it again: a worker's refusal travels to its parent.
        super().__init__(what, where, why, remedy)
        self.what, self.where, self.why, self.remedy = what, where, why, remedy

    def __str__(self) -> str:
        return f"{self.what}\n  where  {self.where}\n  why    {self.why}\n\nhint: {self.remedy}"


@dataclass(frozen=True)
class Context:
    """One attempt of one job.

    `work` is the workload as the blueprint states it, in SI units, with the job's `name`.
    `model` is the resolved model: `name`, `config` (Hugging Face config), `weights`.
    `inputs` maps the name of each job this one stands on to that job's committed output.
    `chips` is how many chips the attempt holds (on a CPU a chip is a core, so: threads);
    `rank` and `world` tell which process of the gang this is.
    """

    work: dict[str, Any]
    folder: Path
    checkpoints: Path
    cache: Path
    model: dict[str, Any] | None = None
    inputs: dict[str, Path] = field(default_factory=dict)
    attempt: int = 1
    chips: int = 1
    rank: int = 0
    world: int = 1
    lease_s: float | None = None
    resume_from: Path | None = None
    """The last durable checkpoint of an earlier attempt; only to be read."""

    @classmethod
    def alone(cls, folder: Path, work: dict[str, Any], **more: Any) -> "Context":
        """A context outside any factory: everything lies under `folder`."""
        folder = Path(folder)
        context = cls(
            work=work,
            folder=folder / "attempt-1",
            checkpoints=folder / "checkpoints",
            cache=folder / "cache",
            **more,
        )
        context.make_folders()
        return context

    @property
    def output(self) -> Path:
        """Where the attempt leaves what it made; becomes an input of others once committed."""
        return self.folder / "output"

    def make_folders(self) -> None:
        """Make the four folders."""
        for folder in (self.folder, self.output, self.checkpoints, self.cache):
            folder.mkdir(parents=True, exist_ok=True)

    def phase(self, name: str) -> None:
        """Say what the job does now; times are told apart by it.

        `prepare` is what is done once a machine and kept in `cache`, `load` and `save` are done
        by every attempt, `work` grows with the size of the job.
        """
        self.report(phase=name)

    def report(self, **figures: Any) -> None:
        """Tell the factory figures: `step`, `steps`, `tokens`, `loss`, ... Rank 0 speaks."""
        if self.rank == 0:
            line = json.dumps({"unix_s": time.time(), **figures}) + "\n"
            with open(self.folder / PROGRESS, "a", encoding="utf-8") as progress:
                progress.write(line)

    def checkpointed(self, step: int) -> None:
        """Tell the factory that `step_folder(step)` in `checkpoints` is whole and durable.

        It may take the folder away at once.
        """
        self.report(checkpoint=step)

    def hand_in(self, step: int, half_done: Path, keep: int = 1) -> None:
        """Make a written folder the checkpoint of `step`, tell the factory, drop older ones."""
        whole = self.checkpoints / step_folder(step)
        if whole.exists():  # left by an earlier run, and the same to the bit
            shutil.rmtree(half_done)
        else:
            publish(half_done, whole)
        self.checkpointed(step)
        self.drop_checkpoints(keep)

    def last_checkpoint(self) -> Path | None:
        """Where to go on from: an own checkpoint (run again outside the factory), or as told."""
        own = sorted(self.checkpoints.glob("step-??????"))
        return own[-1] if own else self.resume_from

    def drop_checkpoints(self, keep: int) -> None:
        """Delete own checkpoints but the newest; each is gone at once, never half of it."""
        for old in sorted(self.checkpoints.glob("step-??????"))[:-keep]:
            gone = old.with_suffix(".tmp")
            with suppress(FileNotFoundError):  # the factory took it
                old.rename(gone)
                shutil.rmtree(gone)

    def should_stop(self) -> bool:
        """Whether the factory asked this attempt to stop, or forgot it (its lease ran out)."""
        if (self.folder / STOP).exists():
            return True
        if self.lease_s is None:
            return False
        try:
            age_s = time.time() - os.stat(self.folder / LEASE).st_mtime
        except FileNotFoundError:
            return True
        return age_s > self.lease_s

    def check(self) -> None:
        """Raise `StopJob` where the job should stop; call it between steps."""
        if self.should_stop():
            raise StopJob
