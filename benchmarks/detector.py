"""A detector learned from randomised frames beside one from frames that all look alike.

    python benchmarks/detector.py [--scene warehouse] [--frames 960] [--steps 500] [--threads 2]

Both see as many layouts, frames and steps, from the same seed; both are judged on the same frames
of held-out layouts, randomised. Printed: mAP50 of each with its 95 % interval (by layout), the
lower end of the paired difference, and what each step took in CPU-seconds.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")

from gigafactory.jobs import detection, detector, synthesize
from gigafactory.jobs.context import Context


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scene", default="warehouse")
    parser.add_argument("--frames", type=int, default=960)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--examples", type=int, default=320)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    world = {"name": asked.scene, "scene": asked.scene, "ranges": {}}
    with tempfile.TemporaryDirectory() as home:
        inputs = {}
        for randomise in (True, False):
            name = "varied" if randomise else "alike"
            frames = alone(
                home, f"{name}-frames", synthesize.run, world=world, frames=asked.frames,
                formats=["coco"], width=256, height=256, cameras=1, clip=1, fps=10.0,
                randomise=randomise, layouts="train",
            )  # fmt: skip
            inputs[name] = alone(
                home, name, detector.run, {"frames": frames}, asked.threads, kind="pretrain",
                of=["frames"], steps=asked.steps, batch=16,
            )  # fmt: skip
        judge = context(home, "judge", inputs, asked.threads, world=world, of="varied",
                        against="alike", examples=asked.examples)  # fmt: skip
        told = detection.evaluate(judge)["metrics"]
    print(f"{asked.scene}, {asked.examples} frames of held-out layouts")
    low, high = told["map50_low"], told["map50_high"]
    print(f"mAP50 {told['map50']:.3f} ({low:.3f} to {high:.3f}) randomised")
    print(f"mAP50 {told['map50_against']:.3f} without")
    print(f"the first is better by {told['regression_low']:.3f} at least")


def alone(home, name, run, inputs=None, chips=1, **work):
    began_s = time.process_time()
    attempt = context(home, name, inputs, chips, **work)
    run(attempt)
    print(f"{name}: {time.process_time() - began_s:.1f} CPU-s", flush=True)
    return attempt.output


def context(home, name, inputs=None, chips=1, **work):
    told = {"name": name, "seed": 0} | work
    return Context.alone(Path(home) / name, told, inputs=inputs or {}, chips=chips)


if __name__ == "__main__":
    main()
