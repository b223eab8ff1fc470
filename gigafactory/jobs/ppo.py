"""Practice: a policy that was imitated goes on by trial, with PPO of stable-baselines3.

It goes in small steps with noise enough to find better ways, and the judge of values learns alone
before the policy moves. Every round begins all its copies in fresh training layouts, so a round
follows from the weights, the seed and its number alone, and an interrupted run ends with the bytes
of one left alone. What is kept is the best of the start and what came of it, by episodes in
training layouts that were never practised in: practice that did harm is thrown away.

`context.work`: `start`, `world`, `steps` (of the world, over all copies), `seed`.
Source: PPO, Schulman et al. 2017, arXiv:1707.06347.
"""

import time
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from gigafactory.jobs import policy as policies
from gigafactory.jobs import rollout, weights
from gigafactory.jobs.context import Context
from gigafactory.jobs.learning import Learning
from gigafactory.jobs.policy import Floats, Policy
from gigafactory.jobs.worlds import task as tasks
from gigafactory.jobs.worlds.gym import ends
from gigafactory.jobs.worlds.scene import seed_of
from gigafactory.jobs.worlds.task import Task

COPIES = 32
ROUND_STEPS = 256
"""Steps of each copy in a round, where a task's episodes are not shorter."""
JUDGED = 128
"""Episodes by which the start and what came of it are compared."""
JUDGEMENTS = 3
LEARNING_RATE, WARMUP_RATE = 1e-4, 1e-3
MINIBATCHES = 16
CLIP, DIVERGENCE = 0.1, 0.02
LOG_STD = -1.2
"""Of an action: less noise (-2.5) found nothing better in 100,000 steps of the warehouse."""
DISCOUNT = 0.99


def run(context: Context) -> dict[str, Any]:
    """Practise round by round, and leave the best policy in `output/model`."""
    work, cpu_s = context.work, time.process_time()
    seed = work.get("seed", 0)
    torch.set_num_threads(1)
    context.phase("load")
    start = policies.load(context.inputs[work["start"]] / "model")
    policies.suits(start, work)
    task = tasks.make(work["world"], COPIES, context.chips)
    practice = Practice(task, start, seed)
    length = min(ROUND_STEPS, task.steps_max)
    rounds = 1 + max(1, work["steps"] // (length * COPIES))
    ppo, lines = learner(practice, length, seed)
    network: Any = ppo.policy
    moved = [parameter for line in lines for parameter in line.parameters()] + [network.log_std]

    context.phase("work")
    best = {name: torch.tensor(part) for name, part in flat(start).items()}
    learning = Learning(context, network.state_dict() | best, network.optimizer)
    progress = learning.progress
    if "best" not in progress:
        score, scale = judge(context, task, start, seed)
        progress |= {"best": score, "best_step": 0, "start": score, "scale": scale}
    practice.scale = progress["scale"]
    judged_at = {round(rounds * each / JUDGEMENTS) for each in range(1, JUDGEMENTS + 1)}
    for number in learning.steps(rounds, every=1):
        warming = number == 0
        for parameter in moved:
            parameter.requires_grad_(not warming)
        ppo.lr_schedule = constant(WARMUP_RATE if warming else LEARNING_RATE)
        ppo.set_random_seed((seed * 1_000_003 + number) % 2**32)
        practice.begin(number)
        ppo.learn(length * COPIES, callback=Stop(context))
        context.check()
        context.report(
            step=(number + 1) * length * COPIES,
            steps=rounds * length * COPIES,
            success=practice.succeeded / max(practice.ended, 1),
            collisions=practice.collided / max(practice.ended, 1),
        )
        if number + 1 in judged_at and not warming:
            now = Policy(start.config, start.mean, start.scale, layers(lines))
            score, _ = judge(context, task, now, seed)
            if score > progress["best"]:
                for name, part in flat(now).items():
                    best[name].copy_(torch.from_numpy(part))
                progress |= {"best": score, "best_step": number + 1}

    context.phase("save")
    model = context.output / "model"
    config = start.config | {
        "learned": "practice"
        if progress["best_step"]
        else "imitation, which practice did not better",
        "practice_steps": progress["best_step"] * length * COPIES,
    }
    policies.save(model, config, {name: part.numpy() for name, part in best.items()})
    return {
        "steps": rounds * length * COPIES,
        "rounds": rounds,
        "kept_round": progress["best_step"],
        "success_start": progress["start"][1],
        "success": progress["best"][1],
        "collisions_start": progress["start"][2],
        "collisions": progress["best"][2],
        "reward_start": progress["start"][3],
        "reward": progress["best"][3],
        "weights_sha256": weights.sha256(model / "model.safetensors"),
        "cpu_s": time.process_time() - cpu_s,
    }


def learner(practice: "Practice", length: int, seed: int) -> tuple[PPO, list[Any]]:
    """PPO whose policy begins as the one that is to practise, and that policy's layers in it."""
    ppo = PPO(
        "MlpPolicy",
        practice,
        learning_rate=WARMUP_RATE,
        n_steps=length,
        batch_size=length * COPIES // MINIBATCHES,
        gamma=DISCOUNT,
        clip_range=CLIP,
        target_kl=DIVERGENCE,
        policy_kwargs={
            "net_arch": list(policies.HIDDEN),
            "activation_fn": torch.nn.ReLU,
            "log_std_init": LOG_STD,
        },
        device="cpu",
        seed=seed,
    )
    network: Any = ppo.policy
    lines = [*network.mlp_extractor.policy_net, network.action_net]
    lines = [line for line in lines if hasattr(line, "weight")]
    with torch.no_grad():
        for line, (weight, bias) in zip(lines, practice.policy.layers, strict=True):
            line.weight.copy_(torch.from_numpy(weight.T.copy()))
            line.bias.copy_(torch.from_numpy(bias))
    return ppo, lines


def judge(context: Context, task: Task, policy: Policy, seed: int) -> tuple[list[float], float]:
    """A policy's score (success less collisions, both apart, mean reward), and its returns' scale.

    Layouts are of the training split, with numbers that no round has.
    """

    act = rollout.heeding(context.check, rollout.following(policy))
    played = []
    for first in range(0, JUDGED, task.n):
        layouts = [seed_of(seed, "train", -1 - first - copy) for copy in range(task.n)]
        played += rollout.play(task, layouts, act)
    success = sum(each.success for each in played) / len(played)
    collisions = sum(each.collision for each in played) / len(played)
    reward = float(np.mean([each.reward.sum(dtype=np.float64) for each in played]))
    scale = float(np.std(np.concatenate([returns(each.reward) for each in played])))
    return [success - collisions, success, collisions, reward], max(scale, 1e-6)


def returns(reward: Floats) -> np.ndarray:
    """What was still to be earned at each step, discounted."""
    total, told = 0.0, np.zeros(len(reward))
    for at in range(len(reward) - 1, -1, -1):
        total = told[at] = reward[at] + DISCOUNT * total
    return told


def layers(lines: list[Any]) -> tuple[tuple[Floats, Floats], ...]:
    """The network's layers as a policy has them, copied."""
    return tuple(
        (line.weight.detach().numpy().T.copy(), line.bias.detach().numpy().copy()) for line in lines
    )


def flat(policy: Policy) -> dict[str, Floats]:
    """A policy's tensors under their names in a file."""
    named = {"mean": policy.mean, "scale": policy.scale}
    for number, (weight, bias) in enumerate(policy.layers):
        named |= {f"{number}.weight": np.ascontiguousarray(weight.T), f"{number}.bias": bias}
    return named


def constant(rate: float) -> Any:
    """A learning rate that does not change."""
    return lambda _: rate


class Practice(VecEnv):
    """A task as stable-baselines3 knows environments; what ended begins anew in the same step.

    Observations are the policy's normalised inputs, rewards are in deviations of its returns.
    """

    def __init__(self, task: Task, policy: Policy, seed: int):
        self.task, self.policy, self.layout_seed = task, policy, seed
        self.scale = 1.0
        self.begin(0)
        size = policy.mean.shape
        limit = policies.INPUT_MAX
        self.render_mode = None
        super().__init__(
            task.n,
            Box(-limit, limit, size, np.float32),
            Box(-1.0, 1.0, (task.action_size,), np.float32),
        )

    def begin(self, number: int) -> None:
        """Set out for a round with layouts of its own."""
        self.number, self.episodes = number, 0
        self.ended = self.succeeded = self.collided = 0

    def reset(self) -> Any:
        """Begin everywhere."""
        return self._seen(self.task.reset(self._layouts(self.task.n)))

    def step_async(self, actions: np.ndarray) -> None:
        """Remember what is to be done."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Do it; the last observation of what ended is in its info."""
        step = self.task.step(self._actions)
        observation = self._seen(step.observation)
        infos: list[dict[str, Any]] = [{} for _ in range(self.task.n)]
        _, truncated = ends(step)
        ids = np.flatnonzero(step.ended).tolist()
        self.ended += len(ids)
        self.succeeded += int(step.success[ids].sum())
        self.collided += int(step.collision[ids].sum())
        for i in ids:
            infos[i] = {
                "terminal_observation": observation[i].copy(),
                "TimeLimit.truncated": bool(truncated[i]),
            }
        reward, ended = step.reward / np.float32(self.scale), step.ended.copy()
        if len(ids):
            observation = self._seen(self.task.reset(self._layouts(len(ids)), ids))
        return observation, reward, ended, infos

    def _layouts(self, count: int) -> list[int]:
        first, self.episodes = self.episodes, self.episodes + count
        # A round has far fewer than a million episodes.
        return [
            seed_of(self.layout_seed, "train", (self.number + 1) * 1_000_000 + first + each)
            for each in range(count)
        ]

    def _seen(self, observation: Floats) -> Floats:
        plain = policies.both_ways(observation)
        return policies.normalised(plain, self.policy.mean, self.policy.scale)

    def close(self) -> None:
        """Nothing is held."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute, the same of all copies."""
        return [getattr(self, attr_name)] * self.task.n

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of all copies."""
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **more: Any
    ) -> list[Any]:
        """Call a method, once for all copies."""
        return [getattr(self, method_name)(*args, **more)] * self.task.n

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Copies are bare."""
        return [False] * self.task.n


class Stop(BaseCallback):
    """Ends a round at once where the factory wants the job to stop."""

    def __init__(self, context: Context):
        super().__init__()
        self.context = context

    def _on_step(self) -> bool:
        return not self.context.should_stop()
