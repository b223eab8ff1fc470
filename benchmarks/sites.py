"""The hours of all sites: CPU-seconds of `year()`, beside psychrolib called hour by hour.

    OMP_NUM_THREADS=1 python benchmarks/sites.py [--json] [--rounds 5] [--without-numba]

`year()` gives carbon, price, dry bulb, wet bulb, PUE and WUE of 91 sites x 8,760 hours: the 91 data
centers of the 29 regions, and 91 places that all differ (the catalogue, and places of it moved a
little), so that nothing is shared. The first call of a fresh process counts as `cold` (after
imports; files are read and curves made), the median of the rounds as `warm`. psychrolib is asked
for the wet bulb alone, of a sample of the same hours, and extrapolated; it is compiled where numba
is installed, and compiling does not count. CPU time of the process.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gigafactory.stack.sites import places
from gigafactory.stack.sites.weather import weather
from gigafactory.stack.sites.year import year

SAMPLE = 20_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--without-numba", action="store_true", help="psychrolib in plain Python")
    parser.add_argument("--cold", choices=("centers", "distinct"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cold:
        print(timed(lambda: year(asked(options.cold)), 1))
        return
    if options.without_numba:
        sys.modules["numba"] = None  # type: ignore[assignment]
    cold = {which: cold_s(which) for which in ("centers", "distinct")}
    centers, distinct = asked("centers"), asked("distinct")
    warm_s = timed(lambda: year(centers), options.rounds)
    warm_distinct_s = timed(lambda: year(distinct), options.rounds)
    psychrolib_us, error_k = psychrolib_alone(distinct)
    hours = len(distinct) * 8760
    report = {
        "sites": len(centers),
        "hours": hours,
        "places_among_them": len({site.id for site in centers}),
        "cold_cpu_s": round(cold["centers"], 3),
        "warm_cpu_s": round(warm_s, 3),
        "distinct_cold_cpu_s": round(cold["distinct"], 3),
        "distinct_warm_cpu_s": round(warm_distinct_s, 3),
        "psychrolib_us_per_wet_bulb": round(psychrolib_us, 2),
        "psychrolib_wet_bulb_cpu_s_extrapolated": round(psychrolib_us * hours / 1e6, 2),
        "psychrolib_compiled_by_numba": bool(sys.modules.get("numba")),
        "ratio_to_psychrolib": round(psychrolib_us * hours / 1e6 / warm_distinct_s, 1),
        "wet_bulb_off_psychrolib_k_max": round(error_k, 4),
    }
    print(json.dumps(report) if options.json else said(report))


def asked(which: str) -> list[places.Site]:
    """The 91 data centers, or as many places that all differ."""
    centers = places.data_centers()
    if which == "centers":
        return centers
    catalogue = places.sites()
    moved = [
        dataclasses.replace(site, id=f"{site.id}-moved", elevation_m=site.elevation_m + 50)
        for site in catalogue
    ]
    return (catalogue + moved)[: len(centers)]


def cold_s(which: str) -> float:
    """CPU seconds of the first call in a fresh process."""
    command = [sys.executable, __file__, "--cold", which]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def timed(work: Callable[[], Any], rounds: int) -> float:
    """The median of its CPU seconds."""
    taken_s = []
    for _ in range(rounds):
        start_s = time.process_time()
        work()
        taken_s.append(time.process_time() - start_s)
    return statistics.median(taken_s)


def psychrolib_alone(sites: list[places.Site]) -> tuple[float, float]:
    """(microseconds a wet bulb, K that ours is off at most), over a sample of the hours."""
    import psychrolib

    psychrolib.SetUnitSystem(psychrolib.SI)
    outside = weather(sites)
    chosen = np.random.default_rng(0).choice(outside.dry_bulb_c.size, SAMPLE, replace=False)
    fields = (outside.dry_bulb_c, outside.relative_humidity, outside.pressure_pa)
    hours = list(zip(*(field.ravel()[chosen].tolist() for field in fields), strict=True))
    psychrolib.GetTWetBulbFromRelHum(20.0, 0.5, 101_325.0)
    start_s = time.process_time()
    theirs = np.array([psychrolib.GetTWetBulbFromRelHum(*hour) for hour in hours])
    taken_s = time.process_time() - start_s
    ours = outside.wet_bulb_c.ravel()[chosen]
    alike = ~((theirs < 0) & (ours >= 0))  # Just above 0 degC their equations have two solutions.
    return taken_s / SAMPLE * 1e6, float(np.abs(ours - theirs)[alike].max())


def said(report: dict) -> str:
    """The report in words."""
    compiled = "compiled by numba" if report["psychrolib_compiled_by_numba"] else "plain Python"
    return (
        f"{report['sites']} data centers in {report['places_among_them']} places, 8,760 hours: "
        f"{report['cold_cpu_s']:.3f} CPU-s cold, {report['warm_cpu_s']:.3f} warm\n"
        f"as many places that all differ: {report['distinct_cold_cpu_s']:.3f} CPU-s cold, "
        f"{report['distinct_warm_cpu_s']:.3f} warm\n"
        f"psychrolib ({compiled}), wet bulb alone: {report['psychrolib_us_per_wet_bulb']:.2f} us"
        f" an hour, so {report['psychrolib_wet_bulb_cpu_s_extrapolated']:.2f} CPU-s for all"
        f" (extrapolated from {SAMPLE:,}): {report['ratio_to_psychrolib']:.1f} times as long as all"
        " six arrays here\n"
        f"wet bulb off psychrolib by at most {report['wet_bulb_off_psychrolib_k_max']:.4f} K"
    )


if __name__ == "__main__":
    main()
