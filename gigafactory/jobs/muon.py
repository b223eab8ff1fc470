"""Muon: momentum, made orthogonal, for the matrices inside a network; sharded or whole.

An update whose singular values are all about one moves every direction of a weight alike,
where Adam's is carried by a few.

Sources: Jordan et al. 2024, kellerjordan.github.io/posts/muon (the quintic iteration and its
coefficients); Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982 (decay, and
the scale that gives Muon the update size of AdamW, so that both take one learning rate).
"""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ADAM_UPDATE_RMS = 0.2
"""Root mean square of what AdamW adds to a weight, in learning rates (arXiv 2502.16982)."""


class Muon(torch.optim.Optimizer):
    """Muon over matrices: (rows, columns), or stacked, (matrices, rows, columns).

    Qwen3-MoE stacks an expert's gate on its up projection; `split` parameters are taken as
    twice as many matrices.
    """

    def __init__(self, groups, lr: float, momentum: float = 0.95, weight_decay: float = 0.1):
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "split": 1}
        super().__init__(groups, settings)

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One update of each parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict) -> None:
        """Nesterov momentum, orthogonal, added to the weight."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        direction = parameter.grad.lerp(momentum, group["momentum"])
        update = _per_matrix(direction, group["split"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"])


def _per_matrix(direction: Tensor, split: int) -> Tensor:
    """`orthogonal` of each matrix, where shards hold whole ones without communication."""
    if not isinstance(direction, DTensor):
        return orthogonal(direction, split)
    mesh, placements = direction.device_mesh, direction.placements
    if direction.ndim == 3 and len(direction) % mesh.size() == 0:  # FSDP2 shards the first axis.
        local = orthogonal(direction.to_local(), split)
        return DTensor.from_local(local, mesh, placements, run_check=False)
    whole = orthogonal(direction.full_tensor(), split)
    return distribute_tensor(whole, mesh, placements, src_data_rank=None)


def orthogonal(direction: Tensor, split: int = 1) -> Tensor:
    """The nearest orthogonal matrices, roughly, by Newton-Schulz in bfloat16, scaled for use."""
    *_, rows, columns = direction.shape
    x = direction.reshape(-1, rows // split, columns).bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    if tall:
        x = x.mT
    scale = ADAM_UPDATE_RMS * max(x.shape[1:]) ** 0.5
    return x.reshape(direction.shape).to(direction.dtype) * scale
