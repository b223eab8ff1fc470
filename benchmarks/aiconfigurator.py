"""Searching for a serving layout: ours beside NVIDIA's aiconfigurator, in CPU-seconds.

    python -m venv PEER && PEER/bin/pip install aiconfigurator
    python benchmarks/aiconfigurator.py --peer PEER/bin/python

Qwen3-235B-A22B on 64 H200, prompts of 4,000 tokens and answers of 1,000. Each runs as a user
would call it, through its command and in a process of its own; user and system time of it and of
its children count, and so does its start. The best of a few runs is shown: other things that
the machine does only add to it. Both print what they found, which is to be read, not compared by
machine: they do not model the same engine.
"""

import argparse
import re
import resource
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MODEL, GPUS, PROMPT, ANSWER = "Qwen/Qwen3-235B-A22B", 64, 4000, 1000
TTFT_MS, TPOT_MS = 2000, 30
OURS = (
    f"gigafactory search serving qwen3-235b-a22b --on H200 --chips {GPUS}"
    f" --prompt {PROMPT} --new {ANSWER} --ttft-ms {TTFT_MS} --tpot-ms {TPOT_MS}"
)


@dataclass(frozen=True)
class Run:
    """One run of a command, and what it said."""

    cpu_s: float
    wall_s: float
    code: int
    said: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, help="python of the environment with aiconfigurator")
    parser.add_argument("--engine", default="trtllm", choices=["trtllm", "vllm", "sglang"])
    parser.add_argument("--ours", default=OURS, help="our command (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--show", type=int, default=12, help="lines of each answer to print")
    asked = parser.parse_args()

    print(f"{MODEL} on {GPUS} H200, {PROMPT} + {ANSWER} tokens")
    ours = measured("gigafactory", here(asked.ours), asked.runs, asked.show)
    if asked.peer is None:
        print("aiconfigurator: give its python by --peer")
        return ours.code
    peer = measured("aiconfigurator", peers(asked.peer, asked.engine), asked.runs, asked.show)
    if ours.code or peer.code:
        return 1
    found = re.search(r"completed in ([\d.]+) seconds", peer.said)
    if found:
        print(f"aiconfigurator says that its search alone took {found[1]} s")
    print(f"ratio, CPU-seconds: {peer.cpu_s / ours.cpu_s:.1f}")
    return 0


def here(command: str) -> list[str]:
    """Our command, run by the Python that runs this."""
    words = shlex.split(command)
    if words[0] == "gigafactory":
        call = "from gigafactory.cli import main; main()"
        words = [sys.executable, "-c", call, *words[1:]]
    return words


def peers(python: Path, engine: str) -> list[str]:
    """Aggregated against disaggregated, with the Pareto front: what its guide begins with."""
    command = Path(python).with_name("aiconfigurator")
    return shlex.split(
        f"{command} cli default --model {MODEL} --total-gpus {GPUS} --system h200_sxm"
        f" --backend {engine} --isl {PROMPT} --osl {ANSWER} --ttft {TTFT_MS} --tpot {TPOT_MS}"
        " --no-color"
    )


def measured(name: str, command: list[str], runs: int, lines: int) -> Run:
    """The cheapest of `runs`, printed; the first that fails ends it."""
    done: list[Run] = []
    while len(done) < runs and not (done and done[-1].code):
        done.append(run(command))
    best = done[-1] if done[-1].code else min(done, key=lambda one: one.cpu_s)
    others = ", ".join(f"{one.cpu_s:.2f}" for one in done)
    print(f"\n{name}: {best.cpu_s:.2f} CPU-seconds ({others}), {best.wall_s:.2f} s on the wall")
    if best.code:
        print(f"it ended with {best.code}")
    said = best.said.strip().splitlines()
    table = [line for line in said if re.match(r"\| +(Rank|\d+) ", line)] or said
    print("\n".join(f"  {line[:150]}" for line in (said[-lines:] if best.code else table[:lines])))
    return best


def run(command: list[str]) -> Run:
    """Run it to its end; CPU time is that of its process and all it waited for."""
    before, start = children_s(), time.perf_counter()
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    wall_s = time.perf_counter() - start
    return Run(children_s() - before, wall_s, ended.returncode, ended.stdout)


def children_s() -> float:
    """CPU-seconds of the children that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    sys.exit(main())
