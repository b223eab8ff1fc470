"""What failures cost the Llama 3 run in the twin, beside what was published. Modelled.

    python benchmarks/failures.py [--seeds 20] [--days 54] [--json]

1. `llama3-405b` by its own study's rates (a reproduction) and by the RSC clusters' (a transfer;
   those rates are recalled). Published: 419 unplanned and 47 planned interruptions, over 90 %
   effective time; projected for RSC-1: 1.8 h between failures at 16,384 chips.
2. Mean time to failure of jobs of 8, 1,024 and 16,384 chips by RSC-1's rate, beside published ones.
3. The checkpoint interval that takes the twin the least time, beside Young, Daly and the optimum.
4. The same run with one trouble at a time taken away, and with fewer nodes that stand by.

Intervals are of 95 %: of a mean over seeds, and of a single course. s, chip-h, shares.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gigafactory.blueprint import load
from gigafactory.factory import state as st
from gigafactory.stack import reliability
from gigafactory.twin import answers, fate, loop, world
from gigafactory.twin.bare import scene_of
from gigafactory.twin.held import held
from gigafactory.twin.run import Lived, Scene, live
from gigafactory.twin.scenario import Scenario, of

NAME, CHIPS = "llama3-405b", 16_384
STUDIES = ("llama3", "rsc-1", "rsc-2")
SIZES = (8, 1024)
REGIMES = ((5.0, 3 * 3600.0), (300.0, 6 * 3600.0))
"""(write_s, mtbf_s)."""
POINTS, REACH = 12, 1.5
"""Intervals that are tried, from the optimum over `REACH` to `REACH` times as much."""
SWEEPS = 5
"""Seeds of a sweep."""
DAY_S, HOUR_S = 86_400.0, 3600.0
RESTART_S = 600.0
NO_UPKEEP = "operations.maintenance=null"
STAND_BY = "sites.east.systems={{h100-8: {}}}"


class Course(NamedTuple):
    """The one job of a course, by the end of it."""

    unplanned: float
    planned: float
    ettr: float
    """Work that was kept, at full speed, over the time since the start."""
    effective: float
    """The same where slow work is work: time in training that was kept, no checkpoints."""
    undone_chip_h: float
    """Worked in vain."""
    idle_chip_h: float
    """Until a gang of nodes was there again, and until it worked."""


def course(made: Scenario, lived: Lived) -> Course:
    """What became of the only job of a scenario."""
    attempts, hours_s = held(made, lived), made.horizon_s
    job, working_s = lived.life[0], attempts.end_s - attempts.ready_s
    rate = attempts.kept.sum() / attempts.useful_s.sum()
    writes = job["write_s"] * rate / job["every"] if job["every"] else 0.0
    all_s = attempts.useful_s * (1 + writes) + attempts.lost_s
    share = np.divide(attempts.useful_s, all_s, out=np.zeros(len(all_s)), where=all_s > 0)
    chips = int(lived.state.jobs[0]["chips"])
    return Course(
        unplanned=float((attempts.outcome == st.LOSE_NODE).sum()),
        planned=float((attempts.outcome == st.STOPPED).sum()),
        ettr=float(attempts.useful_s.sum() / hours_s),
        effective=float(working_s @ share / hours_s),
        undone_chip_h=float(attempts.lost_s.sum()) * chips / HOUR_S,
        idle_chip_h=float(hours_s - working_s.sum()) * chips / HOUR_S,
    )


def courses(
    changes: Sequence[str],
    days: float,
    seeds: int,
    keep: Callable[[np.ndarray, reliability.Study], np.ndarray] | None = None,
    compiled: bool = True,
) -> list[Course]:
    """The run under so many seeds; `keep` says which rows of its fate befall it."""
    blueprint, found = load(NAME, list(changes)), []
    for seed in range(seeds):
        made = of(blueprint, days, seed)
        if keep is not None and made.study is not None:
            fated = made.fate[keep(made.fate, made.study)]
            befall(made, fated, blueprint.operations.maintenance)
        found.append(course(made, live(made.scene, compiled=compiled)))
    return found


def befall(made: Scenario, fated: np.ndarray, upkeep: Any) -> None:
    """Give a scenario another fate than the one it drew."""
    assert made.study is not None
    event = made.scene.world["event"]
    drawn = np.isin(event["kind"], (st.LOSE_NODE, st.DRAIN, loop.SLOW, loop.MEND))
    drawn |= (event["kind"] == st.JOIN) & (event["at_s"] > 0)
    away = world.away(made.study, fated, upkeep, made.pools, made.horizon_s)
    made.scene.world = world.in_order([made.scene.world[~drawn], *away, *world.stragglers(fated)])


def gang(
    nodes: int,
    spares: int,
    fated: Sequence[np.ndarray],
    horizon_s: float,
    *,
    write_s: float = 0.0,
    interval_s: float = 0.0,
    restart_s: float = RESTART_S,
) -> Scene:
    """One job on all but `spares` nodes of a chip each, with work for ever; of work, s are told."""
    work_s = np.array([2.0 * horizon_s])
    scene = scene_of(np.zeros(1), work_s, np.array([nodes]), pools=[(nodes + spares, 1)])
    scene.life["write_s"], scene.life["every"] = write_s, interval_s
    scene.life["restart_s"] = restart_s
    scene.world, scene.horizon_s = world.in_order([scene.world, *fated]), horizon_s
    return scene


def met(
    study: reliability.Study, chips: int, horizon_s: float, seed: int, compiled: bool = True
) -> tuple[int, float]:
    """(failures met, s of holding nodes) of one job of so many chips; nodes are all alike."""
    nodes = math.ceil(chips / study.chips_per_node)
    spares = 2 + nodes // 32
    rng = np.random.default_rng([seed, chips])
    fated = fate.draw(study, nodes + spares, horizon_s, rng, lemon_share=0.0)
    away = [*world.away(study, fated, None, (), horizon_s)]
    scene = gang(nodes, spares, away, horizon_s, restart_s=study.relaunch_s)
    log = live(scene, compiled=compiled).log
    return int((log["outcome"] == st.LOSE_NODE).sum()), float(
        (log["ended_s"] - log["started_s"]).sum()
    )


def ettr(
    write_s: float, mtbf_s: float, interval_s: float, failures: int, seed: int, compiled: bool
) -> float:
    """Of a job that fails so often, played; the same seed fails at the same times."""
    rng = np.random.default_rng(seed)
    at_s = np.cumsum(rng.exponential(mtbf_s, failures))
    lost, back = world.rows(st.LOSE_NODE, at_s, 0), world.rows(st.JOIN, at_s, 0)
    lost["frozen_s"] = at_s
    timing = {"write_s": write_s, "interval_s": interval_s}
    scene = gang(1, 0, [lost, back], float(at_s[-1]), **timing)
    lived = live(scene, compiled=compiled)
    return float(lived.log["kept"].sum() / at_s[-1])


def best_played_s(
    write_s: float,
    mtbf_s: float,
    *,
    points: int = POINTS,
    failures: int = 20_000,
    seed: int = 0,
    compiled: bool = True,
) -> tuple[float, list[tuple[float, float]]]:
    """(interval of least time, by a parabola in its logarithm; all tried, with their ETTR)."""
    middle_s = math.sqrt(2 * write_s * mtbf_s)
    tried = middle_s * np.geomspace(1 / REACH, REACH, points)
    found = [ettr(write_s, mtbf_s, float(t), failures, seed, compiled) for t in tried]
    a, b, _ = np.polyfit(np.log(tried / middle_s), 1 / np.array(found), 2)
    return middle_s * math.exp(-b / (2 * a)), list(zip(tried.tolist(), found, strict=True))


def loud(fated: np.ndarray, study: reliability.Study) -> np.ndarray:
    """Without silent corruption."""
    return ~np.array([one.silent for one in study.classes])[fated["klass"]]


def swift(fated: np.ndarray, study: reliability.Study) -> np.ndarray:
    """Without stragglers."""
    return np.asarray(fated["slow"] == 1.0)


VARIANTS: tuple[tuple[str, tuple[str, ...], Any], ...] = (
    ("as it is", (), None),
    ("no silent corruption", (), loud),
    ("no stragglers", (), swift),
    ("checkpoints twice as often", ("operations.checkpoint=168 s",), None),
    ("checkpoints half as often", ("operations.checkpoint=672 s",), None),
    ("lemons stay", ("operations.lemons=1000",), None),
    ("no upkeep, 52 stand by", (NO_UPKEEP,), None),
    *(
        (f"no upkeep, {n} stand by", (NO_UPKEEP, STAND_BY.format(2048 + n)), None)
        for n in (16, 4, 1, 0)
    ),
    ("nothing fails, no upkeep", (NO_UPKEEP, "operations.failures=none"), None),
)  # fmt: skip


def told(found: Sequence[Course]) -> dict[str, dict[str, float | None]]:
    """Each figure: mean, 95 % interval of it, and where 95 % of single courses lie."""
    figures: dict[str, dict[str, float | None]] = {}
    for key in Course._fields:
        values = [getattr(one, key) for one in found]
        mean, low, high = answers.interval(values)
        # A single course scatters by sqrt(n + 1) of the mean's own uncertainty.
        half = (high - low) / 2 * math.sqrt(len(values) + 1) if low is not None and high else 0.0
        figures[key] = {"mean": mean, "low": low, "high": high}
        figures[key] |= {"one_low": max((mean or 0) - half, 0), "one_high": (mean or 0) + half}
    return figures


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--days", type=float, default=54)
    asked.add_argument("--seeds", type=int, default=20)
    asked.add_argument("--json", action="store_true")
    given = asked.parse_args()
    result: dict[str, Any] = {"days": given.days, "seeds": given.seeds}
    result["studies"] = {
        name: told(courses((f"operations.failures={name}",), given.days, given.seeds))
        for name in STUDIES
    }
    result["mttf"] = _sizes(given.seeds, given.days, result["studies"]["rsc-1"])
    result["intervals"] = [_regime(*regime) for regime in REGIMES]
    result["without"] = {
        name: told(courses(changes, given.days, given.seeds, keep))
        for name, changes, keep in VARIANTS
    }
    if given.json:
        print(json.dumps(result))
    else:
        _print(result)


def _sizes(seeds: int, days: float, rsc_1: dict[str, Any]) -> list[dict[str, Any]]:
    study = reliability.study("rsc-1")
    rows = []
    for one in reliability.published():
        if one.study != "rsc-1" or one.chips > CHIPS:
            continue
        if one.chips == CHIPS:
            # The run's own seconds, waits and all: what its operator would see.
            played_s = days * DAY_S / rsc_1["unplanned"]["mean"]
        else:
            long_s = 100 * one.ours_s
            found = [met(study, one.chips, long_s, seed) for seed in range(seeds)]
            played_s = sum(ran_s for _, ran_s in found) / sum(count for count, _ in found)
        told = {"chips": one.chips, "published_s": one.published_s, "kind": one.kind}
        rows.append({**told, "basis": one.basis, "rate_s": one.ours_s, "played_s": played_s})
    return rows


def _regime(write_s: float, mtbf_s: float) -> dict[str, Any]:
    found = [best_played_s(write_s, mtbf_s, seed=seed)[0] for seed in range(SWEEPS)]
    mean_s, low_s, high_s = answers.interval(found)
    told = {"write_s": write_s, "mtbf_s": mtbf_s, "played_s": mean_s}
    told |= {"low_s": low_s, "high_s": high_s}
    told["young_s"] = reliability.young_s(write_s, mtbf_s)
    told["daly_s"] = reliability.daly_s(write_s, mtbf_s)
    told["exact_s"] = reliability.best_interval_s(write_s, mtbf_s)
    return told


def _print(result: dict[str, Any]) -> None:
    print(f"{NAME}, {result['days']:g} days, {result['seeds']} seeds. Modelled.\n")
    print("published: 419 unplanned, 47 planned, over 90 % effective time\n")
    head = f"{'':27}{'unplanned':>24}{'planned':>9}{'ETTR':>22}{'effective':>11}"
    print(f"{head}{'undone':>11}{'idle chip-h':>13}")
    for name, row in (*result["studies"].items(), *result["without"].items()):
        print(f"{name:27}{_row(row)}")
    print("\nchips  published      kind     rate alone     played")
    for one in result["mttf"]:
        hours = [f"{one[key] / HOUR_S:10.2f} h" for key in ("published_s", "rate_s", "played_s")]
        print(
            f"{one['chips']:6,} {hours[0]} {one['basis'][0]} {one['kind']:10} {hours[1]} {hours[2]}"
        )
    print("\nwrite, MTBF  best played (95 % of its mean)     Young      Daly     exact")
    for one in result["intervals"]:
        times = "".join(f"{one[key]:10.1f}" for key in ("young_s", "daly_s", "exact_s"))
        played = f"{one['played_s']:10.1f} ({one['low_s']:.1f}-{one['high_s']:.1f})"
        regime = f"{one['write_s']:g} s, {one['mtbf_s'] / HOUR_S:g} h"
        print(f"{regime:12}{played:30}{times}")


def _row(row: dict[str, Any]) -> str:
    count, share = row["unplanned"], row["ettr"]
    one = f"({count['one_low']:.0f}-{count['one_high']:.0f})"
    apart = f"{count['low'] or 0:.1f}-{count['high'] or 0:.1f}"
    return (
        f"{count['mean']:7.1f} {apart:>11} {one:9}{row['planned']['mean']:7.1f}"
        f"{share['mean']:9.4f} {share['low'] or 0:.4f}-{share['high'] or 0:.4f}"
        f"{row['effective']['mean']:9.4f}{row['undone_chip_h']['mean']:12,.0f}"
        f"{row['idle_chip_h']['mean']:13,.0f}"
    )


if __name__ == "__main__":
    main()
