"""Failure probability of a driver: importance sampling beside crude Monte Carlo.

    python benchmarks/falsify.py [--crude 4000000] [--scenarios 20000] [--seeds 10]

The driver is an IDM with half a second of reaction (`traffic.EGO_IDM`), the scenarios are cut-ins.
Printed: crude Monte Carlo's probability with its interval; for each seed ours, with its interval,
whether it lies inside crude's, and how much less variance it has for the same scenarios (those of
the search count, too).
"""

import argparse
import time

import numpy as np

from gigafactory.jobs import rare
from gigafactory.jobs.intervals import wilson
from gigafactory.jobs.worlds import cutins, traffic

AT_ONCE = 100_000


def margin(u):
    told = cutins.parameters("cut_in", u)
    return traffic.cut_in(told, traffic.EGO_IDM, 1 / 15, 12.0)[:, traffic.MARGIN_M]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crude", type=int, default=4_000_000)
    parser.add_argument("--scenarios", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=10)
    asked = parser.parse_args()
    margin(np.zeros((2, cutins.DIMENSIONS)))  # compile
    rng, failures, began_s = np.random.default_rng(0), 0, time.process_time()
    for _ in range(0, asked.crude, AT_ONCE):
        failures += int((margin(rng.standard_normal((AT_ONCE, cutins.DIMENSIONS))) < 0).sum())
    took_s = time.process_time() - began_s
    low, high = wilson(failures, asked.crude)
    print(f"crude  {failures / asked.crude:.3e} ({low:.3e} to {high:.3e}), {failures} failures of "
          f"{asked.crude:,}, {took_s:.1f} CPU-s")  # fmt: skip
    ratios, inside = [], 0
    for seed in range(asked.seeds):
        began_s = time.process_time()
        ours = rare.estimate(margin, cutins.DIMENSIONS, asked.scenarios, seed)
        inside += low <= ours.probability <= high
        ratios.append(ours.variance_ratio)
        print(f"ours   {ours.probability:.3e} ({ours.low:.3e} to {ours.high:.3e}), "
              f"{len(ours.weights)} failures of {asked.scenarios:,}, "
              f"{time.process_time() - began_s:.1f} CPU-s, variance {ours.variance_ratio:.0f} "
              "times less")  # fmt: skip
    print(f"variance at least {min(ratios):.0f} times less, median {np.median(ratios):.0f}; "
          f"inside crude's interval in {inside} of {asked.seeds}")  # fmt: skip


if __name__ == "__main__":
    main()
