"""Navigating the warehouse: how often the expert arrives, and how fast the halls step.

    python benchmarks/navigate.py [--episodes 300] [--copies 60] [--seed 0]

Held-out layouts; intervals are Wilson's, of 95 %. Steps are those of the task (0.1 s of the
world, ten of the physics), per second of CPU time of one thread, with observations and rewards;
once more with building and planning a layout for each episode. Beside the expert: one that
steers for the goal as the crow flies, and one that acts at random.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from gigafactory.jobs.intervals import wilson
from gigafactory.jobs.worlds.navigate import Navigate
from gigafactory.jobs.worlds.scene import seed_of


def crow(observation: np.ndarray) -> np.ndarray:
    """Turn to the goal, drive when it is ahead."""
    cos, sin = observation[:, 5], observation[:, 6]
    return np.stack([np.clip(cos, 0, 1), np.clip(2 * np.arctan2(sin, cos), -1, 1)], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--copies", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    halls = Navigate({"name": "hall", "scene": "warehouse"}, asked.copies)
    rng = np.random.default_rng(asked.seed)
    arms: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "expert": lambda _: halls.expert(),
        "crow": crow,
        "random": lambda seen: rng.uniform(-1, 1, (len(seen), halls.action_size)),
    }
    # Compiled before the clock starts.
    halls.reset([seed_of(asked.seed, "train", i) for i in range(asked.copies)])
    halls.step(halls.expert())
    print(
        f"{'arm':8} {'success':>22} {'collisions':>22} {'late':>5} {'s':>5} {'steps/CPU-s':>12}"
        f" {'with reset':>11}"
    )
    for name, act in arms.items():
        arrived = touched = episodes = steps = 0
        step_s = reset_s = 0.0
        while episodes < asked.episodes:
            seeds = [seed_of(asked.seed, "heldout", episodes + i) for i in range(asked.copies)]
            start = time.process_time()
            seen = halls.reset(seeds)
            begun = time.process_time()
            ended = np.zeros(asked.copies, bool)
            while not ended.all():
                steps += int((~ended).sum())
                step = halls.step(act(seen))
                seen, ended = step.observation, step.ended
            reset_s += begun - start
            step_s += time.process_time() - begun
            arrived += int(step.success.sum())
            touched += int(step.collision.sum())
            episodes += asked.copies
        shares = []
        for hits in (arrived, touched):
            low, high = wilson(hits, episodes)
            shares.append(f"{hits / episodes:.3f} [{low:.3f}, {high:.3f}]")
        print(
            f"{name:8} {shares[0]:>22} {shares[1]:>22} {episodes - arrived - touched:5}"
            f" {steps / episodes * halls.step_s:5.1f} {steps / step_s:12.0f}"
            f" {steps / (step_s + reset_s):11.0f}"
        )


if __name__ == "__main__":
    main()
