"""A day of Frontier, power and cooling every 15 s: CPU-seconds, beside those quoted for RAPS.

    OMP_NUM_THREADS=1 python benchmarks/power.py [--json] [--seed 0]

Jobs drawn at random come to 9,408 nodes and start first come, first served (a bare loop here: it
is no scheduler of the twin's). From their attempts: power of each rack and of the site every 15 s,
wet bulb, PUE and water at each of these steps, power at the meter, largest ramp. All of it counts,
the reading of tables too; imports do not. RAPS's 13.6 s for a simulated hour of the same machine
is quoted, not measured here, and does more in it: it goes second by second, and its cooling
follows the water through pipes and towers, where ours has settled at each step.

Then `series` alone, on two million attempts at 91 sites, an hour a step.

Figures of a node: ExaDigiT/RAPS, config/frontier.yaml (Brewer et al., SC '24, arXiv:2410.05133):
626 W at rest and 2,704 W at most before its converters, whose losses are added as RAPS does; those
farther up are in the PUE. That is of our `evaporative` design (cooling towers, by wet bulb) in a
July of Memphis, the nearest place in the catalogue, and not Frontier's own.
"""

import argparse
import heapq
import json
import time

import numpy as np

from gigafactory.stack import sites
from gigafactory.stack.sites import cooling
from gigafactory.stack.sites.weather import weather
from gigafactory.twin import power

RAPS_S_PER_HOUR = 13.6
NODES, NODES_PER_RACK = 9408, 128
RACKS = -(-NODES // NODES_PER_RACK)
STEP_S, DAY_S = 15.0, 86_400.0
BEFORE_S = DAY_S / 2
"""Jobs come from so long before the day on, so that it begins on a machine at work."""
LOAD = 0.9
JULY = 190
# W of a node's parts: at rest, and more when busy.
NODE_REST_W = 90 + 4 * 88 + 74.26 + 4 * 20 + 30
CPU_MORE_W, GPUS_MORE_W = 280 - 90, 4 * (560 - 88)
SWITCHES_W_PER_RACK = 8 * 4 * 250
# (loss at rest in W, efficiency): the converter of each node, the rectifier of each four.
CONVERTER, RECTIFIER, NODES_PER_RECTIFIER = (13, 0.98), (17, 0.96), 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began_s = time.process_time()
    report = day(np.random.default_rng(options.seed))
    per_hour_s = (time.process_time() - began_s) / (DAY_S / 3600)
    report |= {
        "cpu_s_per_simulated_hour": round(per_hour_s, 5),
        "raps_s_per_simulated_hour_quoted": RAPS_S_PER_HOUR,
        "ratio_to_raps": round(RAPS_S_PER_HOUR / per_hour_s),
        "series_of_2m_attempts_cpu_s": round(many_s(np.random.default_rng(options.seed)), 3),
    }
    if options.json:
        print(json.dumps(report))
    else:
        print("\n".join(f"{name:34} {value:,}" for name, value in report.items()))


def day(chance: np.random.Generator) -> dict[str, float]:
    """The day, from drawing its jobs to the meter."""
    rest_w = at_rectifier(NODE_REST_W)
    starts_s, ends_s, rack, watts = attempts(chance)
    base_w = np.bincount(np.arange(NODES) // NODES_PER_RACK) * rest_w
    base_w += SWITCHES_W_PER_RACK / RECTIFIER[1]
    racks_w = power.series(starts_s, ends_s, rack, watts, base_w, STEP_S, DAY_S)
    machines_w = racks_w.sum(axis=0)
    seen = weather([sites.site("memphis")])
    hour = np.arange(machines_w.size) * STEP_S / 3600
    dry_c, wet_c = (
        np.interp(hour, np.arange(25), bulb[0, JULY * 24 : JULY * 24 + 25])
        for bulb in (seen.dry_bulb_c, seen.wet_bulb_c)
    )
    pue = cooling.pue(dry_c, wet_c, "evaporative")
    meter_w = machines_w * pue
    litres = machines_w * STEP_S / 3.6e6 * cooling.wue_l_per_kwh(dry_c, wet_c, "evaporative")
    return {
        "jobs_at_work": len(np.unique(np.column_stack((starts_s, ends_s)), axis=0)),
        "machines_mw_mean": round(machines_w.mean() / 1e6, 3),
        "meter_mw_max": round(meter_w.max() / 1e6, 3),
        "rack_kw_max": round(racks_w.max() / 1e3, 1),
        "pue_mean": round(float(pue.mean()), 4),
        "water_m3": round(litres.sum() / 1e3, 1),
        "ramp_mw_per_min_max": round(float(power.ramps(meter_w, STEP_S)) * 60 / 1e6, 3),
    }


def attempts(chance: np.random.Generator) -> tuple[np.ndarray, ...]:
    """(start, end, rack, W above rest there): a row for each rack of each job."""
    nodes = np.exp(chance.uniform(0, np.log(1000), 4000)).astype(int)
    lasts_s = np.exp(chance.uniform(np.log(60), np.log(12 * 3600), 4000))
    gap_s = nodes.mean() * lasts_s.mean() / (LOAD * NODES)
    submit_s = np.cumsum(chance.exponential(gap_s, 4000)) - BEFORE_S
    assert submit_s[-1] > DAY_S
    busy = chance.random((4000, 2))
    node_w = at_rectifier(NODE_REST_W + busy @ [CPU_MORE_W, GPUS_MORE_W])
    watts = node_w - at_rectifier(NODE_REST_W)
    free = np.ones(NODES, bool)
    running: list[tuple[float, int, np.ndarray]] = []
    rows = []
    now_s, unused = -BEFORE_S, NODES
    for job in range(int(np.searchsorted(submit_s, DAY_S))):
        now_s = max(now_s, submit_s[job])
        while running and (running[0][0] <= now_s or unused < nodes[job]):
            end_s, _, gone = heapq.heappop(running)
            now_s = max(now_s, end_s)
            free[gone] = True
            unused += len(gone)
        held = np.flatnonzero(free)[: nodes[job]]
        free[held] = False
        unused -= len(held)
        heapq.heappush(running, (now_s + lasts_s[job], job, held))
        for rack, count in enumerate(np.bincount(held // NODES_PER_RACK)):
            if count:
                rows.append((now_s, now_s + lasts_s[job], rack, count * watts[job]))
    starts_s, ends_s, rack, rack_w = np.array(rows).T
    today = (ends_s > 0) & (starts_s < DAY_S)
    return starts_s[today], ends_s[today], rack[today].astype(int), rack_w[today]


def at_rectifier(node_w):
    """What a node draws from the alternating current, as RAPS reckons it."""
    converted_w = (node_w + CONVERTER[0]) / CONVERTER[1]
    return (converted_w + RECTIFIER[0] / NODES_PER_RECTIFIER) / RECTIFIER[1]


def many_s(chance: np.random.Generator) -> float:
    """CPU seconds of `series` on two million attempts at 91 sites over six weeks."""
    horizon_s, count = 42 * DAY_S, 2_000_000
    starts_s = chance.uniform(0, horizon_s, count)
    ends_s = starts_s + chance.exponential(4 * 3600, count)
    site, watts = chance.integers(0, 91, count), chance.uniform(1e3, 1e6, count)
    began_s = time.process_time()
    power.series(starts_s, ends_s, site, watts, np.zeros(91), 3600.0, horizon_s)
    return time.process_time() - began_s


if __name__ == "__main__":
    main()
