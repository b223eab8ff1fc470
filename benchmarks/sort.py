"""Sorting in the factory cell: how often the expert succeeds, and how fast the cells step.

    python benchmarks/sort.py [--episodes 256] [--copies 64] [--seed 0]

Held-out layouts; intervals are Wilson's, of 95 %. Steps are those of the task (0.1 s of the
world, ten of the physics), per second of CPU time of one thread, with observations, rewards and
the expert, and once more with drawing and compiling a layout for each episode. Beside the expert:
an arm that stands still, and one that acts at random.
"""

import argparse
import math
import time
from collections.abc import Callable

import numpy as np

from gigafactory.jobs.worlds.scene import seed_of
from gigafactory.jobs.worlds.sort import Sort


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--copies", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    cells = Sort({"name": "cell", "scene": "factory"}, asked.copies)
    rng = np.random.default_rng(asked.seed)
    shape = (asked.copies, cells.action_size)
    arms: dict[str, Callable[[], np.ndarray]] = {
        "expert": cells.expert,
        "still": lambda: np.zeros(shape),
        "random": lambda: rng.uniform(-1, 1, shape),
    }
    print(f"{'arm':8} {'success':>24} {'collisions':>24} {'steps/CPU-s':>12} {'with reset':>11}")
    for name, act in arms.items():
        ended: list[tuple[bool, bool]] = []
        steps, step_s, reset_s = 0, 0.0, 0.0
        while len(ended) < asked.episodes:
            seeds = [seed_of(asked.seed, "heldout", len(ended) + i) for i in range(asked.copies)]
            start = time.process_time()
            cells.reset(seeds)
            begun = time.process_time()
            while not cells.ended.all():
                steps += int((~cells.ended).sum())
                cells.step(act())
            reset_s += begun - start
            step_s += time.process_time() - begun
            ended += zip(cells.success.tolist(), cells.collision.tolist(), strict=True)
        shares = [share(sum(each), len(ended)) for each in zip(*ended, strict=True)]
        speeds = f"{steps / step_s:12.0f} {steps / (step_s + reset_s):11.0f}"
        print(f"{name:8} {shares[0]:>24} {shares[1]:>24} {speeds}")
    print(f"{len(ended)} episodes each, {asked.copies} copies stepped together")


def share(count: int, total: int, z: float = 1.96) -> str:
    """A share and its Wilson interval."""
    p = count / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return f"{p:.3f} [{max(middle - half, 0):.3f}, {min(middle + half, 1):.3f}]"


if __name__ == "__main__":
    main()
