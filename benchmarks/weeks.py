"""Six weeks of a million jobs on 100,000 GPUs at 91 sites: failures, checkpoints, power, money.

    OMP_NUM_THREADS=1 python benchmarks/weeks.py [--days 42] [--per-day 26000] [--json]

91 data centers of the catalogue, one site each, with 137 or 138 nodes of eight GPUs that the law
of the day lets stand there; twelve tenants with quotas in one cohort; eight streams, half of
them bound to countries. CPU-seconds of each part (the compiled loop warm), peak memory, and
what came out. There is no peer that does this; the loop's own rate is events a CPU-second.
"""

import argparse
import json
import resource
import time
from datetime import date

from gigafactory.blueprint.schema import Blueprint
from gigafactory.stack import chips, law, sites
from gigafactory.twin import answers, run, scenario

SYSTEMS = ("h100-8", "h20-8", "ascend-910b-8")
TENANTS = 12
NODES = 12_500
SHOWN = (
    "jct_mean_s", "queue_mean_s", "done", "deadlines", "preemptions", "goodput", "utilisation",
    "failures", "lost_chip_h", "energy_kwh", "pue", "over_cap_h", "carbon_kg", "cost",
)  # fmt: skip
SHAPES = {"tune": ({1: 0.7, 8: 0.3}, 11000), "train": ({8: 0.6, 64: 0.35, 256: 0.05}, 28000)}
HOMES = ([], ["CN"], ["JP", "KR", "SG", "MY", "ID", "TH", "PH"], [])


def lawful(country: str, on: date) -> str:
    """The first system that may stand there for a Singaporean owner."""
    for name in SYSTEMS:
        question = law.Question(chips.system(name).chip, country, "SG", on)
        if law.judge(question).may_stand:
            return name
    raise SystemExit(f"nothing may stand in {country}")


def blueprint(per_day: float, start: date) -> Blueprint:
    """The network, as a blueprint."""
    places = sites.data_centers()
    system = {country: lawful(country, start) for country in {site.country for site in places}}
    per_site = [NODES // len(places) + (i < NODES % len(places)) for i in range(len(places))]
    at = {
        f"{site.id}-{i}": {
            "country": site.country, "place": site.id, "power": "3 MW", "cooling": "direct-to-chip",
            "systems": {system[site.country]: per_site[i]},
            "racks": {"nodes": 4, "per_block": 8},
        }
        for i, site in enumerate(places)
    }  # fmt: skip
    streams = {}
    for tenant in range(TENANTS):
        for name, (widths, median_s) in SHAPES.items():
            share = (0.9 if name == "tune" else 0.1) / TENANTS
            streams[f"{name}-{tenant}"] = {
                "kind": "batch", "tenant": f"t{tenant}", "per_day": per_day * share,
                "hours": {"median": f"{median_s} s", "p90": f"{5 * median_s} s"},
                "chips": widths, "daily": 0.4, "weekend": 0.7, "burst": 2,
                "residency": HOMES[tenant % len(HOMES)], "busy": 0.8, "slack": 6,
            }  # fmt: skip
    quota = 8 * NODES // TENANTS
    return Blueprint.model_validate(
        {
            "gigafactory": 1, "name": "weeks", "currency": "USD", "start": start, "owner": "SG",
            "sites": at, "streams": streams,
            "tenants": {
                f"t{i}": {"weight": 1 + i % 3, "quota": quota, "borrow": quota, "cohort": "all"}
                for i in range(TENANTS)
            },
            "operations": {"failures": "rsc-1", "spares": 1, "policy": "fair"},
        }
    )  # fmt: skip


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--days", type=float, default=42)
    asked.add_argument("--per-day", type=float, default=26_000)
    asked.add_argument("--json", action="store_true")
    given = asked.parse_args()
    run.warm()
    spent, began = {}, time.process_time()

    def lap(name: str) -> None:
        nonlocal began
        now = time.process_time()
        spent[name], began = round(now - began, 2), now

    made = blueprint(given.per_day, date(2026, 11, 23))
    lap("blueprint")
    scene = scenario.of(made, given.days, seed=1)
    lap("scenario")
    lived = run.live(scene.scene)
    lap("loop")
    told = answers.of(scene, lived)
    lap("answers")
    result = {
        "jobs": len(scene.job_names),
        "events": lived.events,
        "events_per_cpu_s": round(lived.events / lived.cpu_s),
        "cpu_s": spent,
        "cpu_s_in_all": round(sum(spent.values()), 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "answers": {name: told[name] for name in SHOWN},
    }
    if given.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:18} {value}")


if __name__ == "__main__":
    main()
