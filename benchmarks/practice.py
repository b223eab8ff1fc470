"""What practice adds to a policy that imitated few episodes.

    python benchmarks/practice.py [--scene warehouse] [--episodes 4] [--steps 100000] [--judged 256]

An expert's episodes are imitated, the imitation practises with PPO, and both are judged in the
same held-out layouts. Printed: the success of each, and the interval of the paired difference.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")

from gigafactory.jobs import closed_loop, policy, ppo, rollout
from gigafactory.jobs.context import Context


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scene", default="warehouse")
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--judged", type=int, default=256)
    asked = parser.parse_args()
    world = {"name": asked.scene, "scene": asked.scene, "ranges": {}}
    with tempfile.TemporaryDirectory() as home:
        inputs = {}

        def alone(run, name, **work):
            """A job by itself, which may read what those before it left."""
            began_s = time.process_time()
            told = {"name": name, "seed": 0} | work
            attempt = Context.alone(Path(home) / name, told, inputs=inputs)
            told = run(attempt)
            inputs[name] = attempt.output
            print(f"{name}: {time.process_time() - began_s:.1f} CPU-s", flush=True)
            return told

        alone(rollout.run, "drives", world=world, policy="expert", episodes=asked.episodes)
        alone(policy.run, "novice", of=["drives"], steps=1500)
        alone(ppo.run, "pilot", start="novice", world=world, steps=asked.steps)
        judge = {"of": "pilot", "against": "novice", "world": world, "examples": asked.judged}
        told = alone(closed_loop.evaluate, "judge", **judge)["metrics"]
    low, high = told["success_low"], told["success_high"]
    print(f"{asked.scene}, {asked.judged} held-out layouts, {asked.episodes} episodes imitated")
    print(f"success {told['against_success']:.3f} imitated")
    print(f"success {told['success']:.3f} ({low:.3f} to {high:.3f}) after practice")
    print(f"expert {told['expert_success']:.3f}, chance {told['random_success']:.3f}")
    better = told["regression"], told["regression_low"], told["regression_high"]
    print("practice adds {:.3f} ({:.3f} to {:.3f})".format(*better))


if __name__ == "__main__":
    main()
