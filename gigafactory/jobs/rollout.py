"""Let a policy act in a world, in many layouts at once, and record what came of it.

`context.work`: `world`, `policy` (`expert` or `random`; or `of`, a job that learned one),
`episodes`, `layouts` (`train` or `heldout`), `video` (how many are filmed), `seed`.

Every second episode of the expert in training layouts is pushed: what is carried out is the
expert's action and a slow noise, what is recorded is the expert's action alone. So the dataset
holds the way back from places where the expert by itself never gets to, which is what an
imitator needs (Laskey et al. 2017, arXiv:1703.09327). The summary counts only the others, and
names the pushed ones.

Output: `episodes/` (LeRobot v3), `video/*.mp4`, `summary.json`. The same seed gives the same bytes
whatever the number of workers, so what it cost is told in the results alone.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from gigafactory.jobs.context import Context
from gigafactory.jobs.intervals import wilson
from gigafactory.jobs.policy import Policy, load
from gigafactory.jobs.spread import spread
from gigafactory.jobs.synthesize.formats import lerobot
from gigafactory.jobs.synthesize.formats.lerobot import Episode
from gigafactory.jobs.worlds import task as tasks
from gigafactory.jobs.worlds.scene import seed_of
from gigafactory.jobs.worlds.task import Floats, Task

TOGETHER = 32
"""Episodes of one part: its copies are stepped together, and it is whole or made again."""
WIDTH, HEIGHT = 480, 360
PUSH = (0.1, 0.8)
PUSH_KEPT = 0.9
"""A pushed episode's noise: its deviation, drawn once, and what of it is left a step later."""

Actor = Callable[[Task, Floats], tuple[Floats, Floats]]
"""From a task and what it observes: the actions to carry out, and those to record."""
Check = Callable[[], None]
"""Raises where the job should stop."""


@dataclass(frozen=True)
class Played:
    """One episode: T observations, each before its action, and how it ended."""

    seed: int
    drawn: dict[str, float]
    observation: Floats
    action: Floats
    reward: Floats
    success: bool
    collision: bool


def run(context: Context) -> dict[str, Any]:
    """Play all episodes, part by part, and join them."""
    work = context.work
    count = work["episodes"]
    learned = str(context.inputs[work["of"]] / "model") if work.get("of") else None
    context.phase("work")
    do = partial(part, work=work, learned=learned, check=context.check)
    parts = spread(context, -(-count // TOGETHER), do)
    context.phase("save")
    told = [json.loads((folder / "part.json").read_text("utf-8")) for folder in parts]
    about = told[0]
    lerobot.write(
        context.output / "episodes",
        episodes(parts, about),
        about["observation_names"],
        about["action_names"],
    )
    films = context.output / "video"
    films.mkdir(exist_ok=True)
    for folder in parts:
        for film in sorted(folder.glob("*.mp4")):
            (films / film.name).write_bytes(film.read_bytes())
    rows = [row for each in told for row in each["episodes"]]
    summary = {
        "task": about["task"],
        "policy": work.get("of") or work["policy"],
        "world": work["world"]["name"],
        "layouts": work.get("layouts", "train"),
        "episodes": len(rows),
        "steps": sum(row["steps"] for row in rows),
        **shares([row for row in rows if not row["pushed"]]),
        "pushed": [number for number, row in enumerate(rows) if row["pushed"]],
    }
    text = json.dumps(summary, indent=1) + "\n"
    (context.output / "summary.json").write_text(text, "utf-8")
    cpu_s = sum(json.loads((folder / "cost.json").read_text("utf-8"))["cpu_s"] for folder in parts)
    return {
        **{name: value for name, value in summary.items() if name != "pushed"},
        "videos": len(list(films.glob("*.mp4"))),
        "steps_per_cpu_s": summary["steps"] / cpu_s,
        "cpu_s": cpu_s,
    }


def part(index: int, folder: Path, work: dict[str, Any], learned: str | None, check: Check) -> None:
    """Play the episodes of one part and leave them in its folder."""
    cpu_s = time.process_time()
    first = index * TOGETHER
    numbers = range(first, min(first + TOGETHER, work["episodes"]))
    split, seed = work.get("layouts", "train"), work.get("seed", 0)
    seeds = [seed_of(seed, split, number) for number in numbers]
    task = tasks.make(work["world"], len(seeds))
    pushed = np.zeros(len(seeds), bool)
    if not learned and work["policy"] == "expert" and split == "train":
        pushed = np.array([number % 2 == 1 for number in numbers])
    who = learned or work["policy"]
    films = {
        number - first: folder / f"episode-{number:06d}.mp4"
        for number in numbers
        if number < work.get("video", 0)
    }
    played = play(task, seeds, heeding(check, actor(who, task, seeds, pushed)), films)
    arrays = {
        name: np.concatenate([getattr(one, name) for one in played])
        for name in ("observation", "action", "reward")
    }
    save_file(arrays, folder / "part.safetensors")
    about = {
        "task": task.name,
        "step_s": task.step_s,
        "observation_names": task.observation_names,
        "action_names": task.action_names,
        "episodes": [row(one) | {"pushed": bool(p)} for one, p in zip(played, pushed, strict=True)],
    }
    (folder / "part.json").write_text(json.dumps(about), "utf-8")
    cost = {"cpu_s": time.process_time() - cpu_s}
    (folder / "cost.json").write_text(json.dumps(cost), "utf-8")


def play(
    task: Task, seeds: Sequence[int], act: Actor, films: dict[int, Path] | None = None
) -> list[Played]:
    """One episode in each copy, all in step; `films` says which copies are filmed, and where."""
    observation = task.reset(seeds)
    drawn = [dict(each) for each in task.drawn]
    alive = np.ones(task.n, bool)
    steps = np.zeros(task.n, int)
    success, collision = np.zeros(task.n, bool), np.zeros(task.n, bool)
    seen, done, earned = [], [], []
    cameras = {i: Film(path, task.step_s) for i, path in (films or {}).items()}
    while alive.any():
        for i, camera in cameras.items():
            if alive[i]:
                camera.shoot(task, i)
        action, recorded = act(task, observation)
        seen.append(observation.copy())
        done.append(recorded.copy())
        step = task.step(action)
        earned.append(step.reward.copy())
        steps += alive
        over = alive & step.ended
        success |= over & step.success
        collision |= over & step.collision
        alive &= ~step.ended
        observation = step.observation
        assert len(seen) <= task.steps_max, f"{task.name} does not end"
    for i, camera in cameras.items():
        camera.shoot(task, i)
        camera.close()
    seen_all, done_all, earned_all = np.stack(seen), np.stack(done), np.stack(earned)
    return [
        Played(
            int(seeds[i]),
            drawn[i],
            seen_all[: steps[i], i],
            done_all[: steps[i], i],
            earned_all[: steps[i], i],
            bool(success[i]),
            bool(collision[i]),
        )
        for i in range(task.n)
    ]


def heeding(check: Check, act: Actor) -> Actor:
    """Who acts, unless the job should stop: many episodes take a while."""

    def acts(task: Task, observation: Floats) -> tuple[Floats, Floats]:
        check()
        return act(task, observation)

    return acts


def actor(
    who: str, task: Task, seeds: Sequence[int], pushed: NDArray[np.bool_] | None = None
) -> Actor:
    """Who acts: `expert`, `random`, or the policy in the folder of that name.

    What is drawn belongs to the episode's seed, so an episode is the same in any company.
    """
    if who not in ("expert", "random"):
        return following(load(Path(who)))
    draws = [np.random.default_rng((seed, len(who))) for seed in seeds]
    size = task.action_size
    if who == "random":

        def at_random(task: Task, observation: Floats) -> tuple[Floats, Floats]:
            action = np.stack([draw.uniform(-1, 1, size) for draw in draws]).astype(np.float32)
            return action, action

        return at_random
    deviation = np.array([draw.uniform(*PUSH) for draw in draws])
    if pushed is not None:
        deviation *= pushed
    push = np.zeros((len(draws), size))

    def expert(task: Task, observation: Floats) -> tuple[Floats, Floats]:
        action = task.expert()
        if pushed is None or not pushed.any():
            return action, action
        fresh = np.stack([draw.standard_normal(size) for draw in draws])
        kept = np.sqrt(1 - PUSH_KEPT**2)
        push[:] = PUSH_KEPT * push + kept * deviation[:, None] * fresh
        return np.clip(action + push, -1, 1).astype(np.float32), action

    return expert


def following(policy: Policy) -> Actor:
    """Who does what a policy says."""

    def learned(task: Task, observation: Floats) -> tuple[Floats, Floats]:
        action = policy.act(observation)
        return action, action

    return learned


class Film:
    """What `camera/0` sees of one copy, into an MP4."""

    def __init__(self, path: Path, step_s: float):
        from gigafactory.jobs.synthesize.render import Renderer
        from gigafactory.jobs.video import Writer

        self._renderer = Renderer(WIDTH, HEIGHT)
        self._writer = Writer(path, WIDTH, HEIGHT, lerobot.rate(step_s))
        self._loaded: Any = None

    def shoot(self, task: Task, i: int) -> None:
        """Add a picture of copy `i` as it stands."""
        model, simulated = task.scene(i)
        if model is not self._loaded:
            self._renderer.load(model, np.zeros(model.ngeom, np.int32))
            self._loaded = model
        self._writer.add(self._renderer.draw(simulated, "camera/0").rgb)

    def close(self) -> None:
        """Finish the film."""
        self._writer.close()
        self._renderer.close()


def row(played: Played) -> dict[str, Any]:
    """An episode as a line of a table: from its seed it can be played again."""
    return {
        "seed": played.seed,
        "success": played.success,
        "collision": played.collision,
        "steps": len(played.reward),
        "reward": float(played.reward.sum(dtype=np.float64)),
        "drawn": played.drawn,
    }


def shares(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How many succeeded and how many collided, with 95 % intervals."""
    told: dict[str, float] = {}
    for name, key in (("success", "success"), ("collisions", "collision")):
        hits = sum(row[key] for row in rows)
        low, high = wilson(hits, len(rows))
        told |= {name: hits / max(len(rows), 1), f"{name}_low": low, f"{name}_high": high}
    return told


def episodes(parts: list[Path], about: dict[str, Any]) -> Iterator[Episode]:
    """All episodes of the parts, in order."""
    index = 0
    for folder in parts:
        arrays = load_file(folder / "part.safetensors")
        start = 0
        for each in json.loads((folder / "part.json").read_text("utf-8"))["episodes"]:
            rows = slice(start, start + each["steps"])
            start = rows.stop
            yield Episode(
                index=index,
                seed=each["seed"],
                observation=arrays["observation"][rows],
                action=arrays["action"][rows],
                reward=arrays["reward"][rows],
                success=each["success"],
                collision=each["collision"],
                step_s=about["step_s"],
                task=about["task"],
            )
            index += 1
