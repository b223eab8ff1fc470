"""A policy that acts: learned from episodes of an expert, then, where asked, by practice.

A small perceptron from an observation to an action in [-1, 1]. `pretrain` imitates what
rollout jobs recorded (mean squared error); `finetune` practises in a world (`jobs/ppo.py`).

`context.work` to pretrain: `of` (rollout jobs), `steps` (of the optimiser), `batch`, `seed`,
`checkpoint_steps`. Which rows a step sees follows from the seed and the step, and the checkpoint
has all that the next step depends on, so an interrupted run ends with the bytes of one left alone.

Output: `model/config.json` and `model/model.safetensors`. To act needs numpy only.
"""

import json
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from gigafactory.jobs import engines, weights
from gigafactory.jobs.context import Context
from gigafactory.jobs.worlds import task as tasks
from gigafactory.jobs.worlds.scene import WorldRefused

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]

HIDDEN = (128, 128)
LEARNING_RATE = 1e-3
BATCH = 512
CHECKPOINT_STEPS = 500
WARMUP_STEPS = 50
REPORTED_EVERY = 50
JUDGED_EVERY = 10
"""Every so many-th episode is not learned from: the loss on those is told beside."""
INPUT_MAX = 10.0
"""In standard deviations: what lies further out is taken to lie there."""
NEAR = np.float32(0.3)
SCALE_MIN = 1e-3
ROWS = 8
"""Rows are multiplied so many at a time, always: the same sum in the same order gives an
observation the same action in any company, to the last bit."""


@dataclass(frozen=True)
class Policy:
    """What to do, given what is observed."""

    config: dict[str, Any]
    mean: Floats
    scale: Floats
    """Of `both_ways`, over the observations that it learned from."""
    layers: tuple[tuple[Floats, Floats], ...]
    """Weight (in, out) and bias of each layer; between them negatives become 0."""

    def act(self, observation: Floats) -> Floats:
        """Actions (n, A) in [-1, 1] for observations (n, O)."""
        rows = np.asarray(observation, np.float32)
        count = len(rows)
        flow = np.zeros((-(-count // ROWS) * ROWS, len(self.mean)), np.float32)
        flow[:count] = normalised(both_ways(rows), self.mean, self.scale)
        for number, (weight, bias) in enumerate(self.layers):
            if number:
                np.maximum(flow, 0, out=flow)
            # One matrix product a block: numpy gives each its own call of the same shape.
            flow = (flow.reshape(-1, ROWS, len(weight)) @ weight).reshape(len(flow), -1) + bias
        return np.clip(flow[:count], -1, 1)


def both_ways(observation: Floats) -> Floats:
    """An observation, and how near to nothing each of its numbers is, (n, 2 O).

    Most numbers are distances, and of those the small ones count: a third less error on the
    episodes kept to judge by, in the warehouse, than with the numbers alone.
    """
    return np.hstack([observation, 1 / (NEAR + np.abs(observation))])


def normalised(inputs: Floats, mean: Floats, scale: Floats) -> Floats:
    """Inputs in standard deviations of those that were learned from."""
    return np.clip((inputs - mean) / scale, -INPUT_MAX, INPUT_MAX)


def load(folder: Path) -> Policy:
    """The policy that a job left in its `output/model`."""
    config = engines.config(folder)
    if config.get("gigafactory") != "policy":
        raise WorldRefused(
            "this model is no policy",
            str(folder),
            f"its config.json says {config.get('gigafactory')!r}",
            "name a pretrain or finetune job with `learns: policy`",
        )
    tensors = load_file(folder / "model.safetensors")
    layers = tuple(
        (np.ascontiguousarray(tensors[f"{number}.weight"].T), tensors[f"{number}.bias"])
        for number in range(len(config["hidden"]) + 1)
    )
    return Policy(config, tensors["mean"], tensors["scale"], layers)


def suits(policy: Policy, work: dict[str, Any]) -> None:
    """Refuse a world in which the policy has nothing to do."""
    task, config = tasks.make(work["world"], 1), policy.config
    where = f"workloads.{work.get('name', 'policy')}.world"
    if config["task"] != task.name:
        raise WorldRefused(
            f"a policy that learned to {config['task']} cannot {task.name}",
            where,
            f"to {task.name} is what is to be done in {work['world'].get('name', 'this world')}",
            f"name a world in which to {config['task']}",
        )
    for what in ("observation_names", "action_names"):
        learned, there = config[what], list(getattr(task, what))
        if learned != there:
            raise WorldRefused(
                "a policy of another version of this task cannot act in it",
                where,
                f"it learned with {len(learned)} {what.replace('_', ' ')}, there are {len(there)}:"
                f" {', '.join(sorted(set(learned) ^ set(there))[:6]) or 'in another order'}",
                "roll out and learn again",
            )


def save(folder: Path, config: dict[str, Any], tensors: dict[str, Floats]) -> None:
    """Leave a policy where `load` finds it."""
    # What it can be asked: the mean of what it learned from.
    mean = [float(one) for one in tensors["mean"][: config["observation_size"]]]
    engines.leave(folder, config, {"observation": mean}, tensors)


def run(context: Context) -> dict[str, Any]:
    """Learn by practice where there is a policy to start from, else by imitation."""
    if context.work.get("start"):
        from gigafactory.jobs import ppo

        return ppo.run(context)
    return imitate(context)


def imitate(context: Context) -> dict[str, Any]:
    """Learn to do what the episodes' expert did."""
    import torch

    from gigafactory.jobs.learning import Learning, rate

    work, cpu_s = context.work, time.process_time()
    seed, steps = work.get("seed", 0), work["steps"]
    torch.set_num_threads(1)
    context.phase("load")
    observation, action, judged, config = recorded(context)
    plain = both_ways(observation)
    mean = plain[~judged].mean(0, dtype=np.float64).astype(np.float32)
    scale = plain[~judged].std(0, dtype=np.float64).astype(np.float32)
    scale[scale < SCALE_MIN] = 1.0
    inputs = torch.from_numpy(normalised(plain, mean, scale))
    targets = torch.from_numpy(action)
    learned, told = np.flatnonzero(~judged), torch.from_numpy(np.flatnonzero(judged))

    torch.manual_seed(seed)
    network = perceptron(inputs.shape[1], action.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    learning = Learning(context, network.state_dict(), optimizer, losses=[])
    losses = learning.progress["losses"]

    context.phase("work")
    for step in learning.steps(
        steps,
        work.get("checkpoint_steps", CHECKPOINT_STEPS),
        lambda step: LEARNING_RATE * rate(step, steps, WARMUP_STEPS),
    ):
        rows = np.random.default_rng((seed, step)).choice(learned, work.get("batch", BATCH))
        loss = torch.nn.functional.mse_loss(network(inputs[rows]), targets[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % REPORTED_EVERY == 0 or step + 1 == steps:
            losses.append(loss.item())
            context.report(step=step + 1, steps=steps, loss=loss.item())

    context.phase("save")
    with torch.no_grad():
        loss_judged = float(torch.nn.functional.mse_loss(network(inputs[told]), targets[told]))
    model = context.output / "model"
    save(model, config, {"mean": mean, "scale": scale, **tensors(network)})
    return {
        "steps": steps,
        "episodes": config["episodes"],
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "loss_judged": loss_judged,
        "parameters": sum(p.numel() for p in network.parameters()),
        "weights_sha256": weights.sha256(model / "model.safetensors"),
        "cpu_s": time.process_time() - cpu_s,
    }


def recorded(context: Context) -> tuple[Floats, Floats, NDArray[np.bool_], dict[str, Any]]:
    """Observations, actions, which rows are kept to judge by, and the policy's config.

    What led to a collision is no example.
    """
    from gigafactory.jobs.synthesize.formats import lerobot

    kept, seeds = [], []
    about: dict[str, Any] = {}
    for name in context.work["of"]:
        folder = context.inputs[name] / "episodes"
        features = json.loads((folder / "meta/info.json").read_text("utf-8"))["features"]
        told = {
            "observation_names": features["observation.state"]["names"],
            "action_names": features["action"]["names"],
        }
        episodes = list(lerobot.read(folder))
        told |= {"task": episodes[0].task, "step_s": episodes[0].step_s}
        if about and told != about:
            raise WorldRefused(
                f"the episodes of {name} are of another task",
                f"workloads.{context.work.get('name', 'policy')}.of",
                f"{told['task']} beside {about['task']}, or other observations or actions",
                "imitate episodes of one task only",
            )
        about = told
        kept += [episode for episode in episodes if not episode.collision]
        seeds += [episode.seed for episode in episodes]
    if len(kept) < 2:
        raise WorldRefused(
            "there is nothing to imitate",
            f"workloads.{context.work.get('name', 'policy')}.of",
            f"{len(kept)} of {len(seeds)} episodes ended without a collision",
            "roll out more episodes, of an expert",
        )
    lengths = [len(episode.reward) for episode in kept]
    every = min(JUDGED_EVERY, len(kept))
    judged = np.repeat([number % every == every - 1 for number in range(len(kept))], lengths)
    observation = np.concatenate([episode.observation for episode in kept])
    action = np.concatenate([episode.action for episode in kept])
    config = {
        "gigafactory": "policy",
        **about,
        "observation_size": observation.shape[1],
        "action_size": action.shape[1],
        "hidden": HIDDEN,
        "episodes": len(kept),
        "learned": "imitation",
    }
    return observation, action, judged, config


def perceptron(inputs: int, outputs: int) -> "torch.nn.Sequential":
    """The network: ReLU between layers, nothing after the last."""
    from torch import nn

    sizes = (inputs, *HIDDEN, outputs)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def tensors(network: "torch.nn.Sequential") -> dict[str, Floats]:
    """The network's weights under the names of a policy."""
    lines = [layer for layer in network if hasattr(layer, "weight")]
    return {
        f"{number}.{part}": getattr(line, part).detach().numpy()
        for number, line in enumerate(lines)
        for part in ("weight", "bias")
    }
