"""Steps of an optimiser that end with the same bytes however often they are stopped or killed.

What a step sees must follow from its number. All else that it depends on is one checkpoint, a
safetensors file that appears whole or not at all: what is learned, the optimiser's moments, and
what is told of the progress.

Source of the rate: Loshchilov & Hutter 2016, arXiv:1608.03983 (one period, after a short rise).
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gigafactory.jobs.context import Context, StopJob, step_folder

STATE = "state.safetensors"
LEARNED, MOMENTS = "learned/", "moments/"


class Learning:
    """`learned` as `optimizer` changes it in place; where there is a checkpoint, as it left them.

    `progress` is JSON and has the `step` that comes next.
    """

    def __init__(
        self,
        context: Context,
        learned: Mapping[str, torch.Tensor],
        optimizer: torch.optim.Optimizer,
        **progress: Any,
    ):
        self.context, self.learned, self.optimizer = context, learned, optimizer
        self.progress = {"step": 0, **progress}
        if whole := context.last_checkpoint():
            with safe_open(whole / STATE, framework="pt") as file:
                self.progress = json.loads(file.metadata()["progress"])
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            moments: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in kept.items():
                if name.startswith(LEARNED):
                    learned[name.removeprefix(LEARNED)].detach().copy_(tensor)
                else:
                    _, place, part = name.split("/")
                    moments.setdefault(int(place), {})[part] = tensor
            optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})

    def steps(
        self, count: int, every: int, rate: Callable[[int], float] | None = None
    ) -> Iterator[int]:
        """The steps that are left of `count`, each with its learning rate set.

        Leaves a checkpoint after `every` so many, and where the job should stop, which it then
        does.
        """
        for step in range(self.progress["step"], count):
            if self.context.should_stop():
                self.save()
                raise StopJob
            if rate:
                for group in self.optimizer.param_groups:
                    group["lr"] = rate(step)
            yield step
            self.progress["step"] = step + 1
            if (step + 1) % every == 0:
                self.save()

    def save(self) -> None:
        """Leave a checkpoint."""
        half_done = self.context.checkpoints / f"{step_folder(self.progress['step'])}.tmp"
        shutil.rmtree(half_done, ignore_errors=True)
        half_done.mkdir()
        state = {LEARNED + name: tensor.detach() for name, tensor in self.learned.items()}
        for place, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"{MOMENTS}{place}/{part}": tensor for part, tensor in moments.items()}
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(state, half_done / STATE, {"progress": json.dumps(self.progress)})
        self.context.hand_in(self.progress["step"], half_done)


def rate(step: int, steps: int, rise: int) -> float:
    """Share of the peak learning rate at `step`: up in `rise` steps, then half a cosine down."""
    return min((step + 1) / rise, 0.5 * (1 + math.cos(math.pi * step / steps)))
