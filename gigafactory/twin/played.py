"""A lived scenario as plain data: what the page and the terminal show of it. Modelled.

Frames are photographs of the floor (a byte a node, base64); curves are means of each hour; both of
the first seed. Figures are over all seeds. s, W, J, gCO2e/kWh, money of the blueprint.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from gigafactory.factory import state as st
from gigafactory.twin import answers, power
from gigafactory.twin.held import (
    Array,
    Held,
    Jobs,
    end_of,
    held,
    jobs,
    machines_w,
    node_chips,
    rates,
    standing,
    waits,
)
from gigafactory.twin.hours import HOUR_S
from gigafactory.twin.run import Lived
from gigafactory.twin.scenario import Scenario
from gigafactory.units import show, show_duration

DAY_S = 86_400.0
FEW_DONE = 0.9
"""With less of the jobs done, their times mislead: what takes long is not among them."""
MINUTE_S = 60.0
FAILURES_SHOWN = 5000
"""The dearest, where there are more: a page is to open at once."""
STRAGGLES, DRAINED, DOWN, NOT_THERE = 252, 253, 254, 255
"""What a node looks like; else 0 for idle, or its tenant's number from 1."""


def frames_of(days: float) -> int:
    """Photographs enough to follow the days: one an hour at most."""
    return int(min(max(days * 24, 24), 168))


def of(scenario: Scenario, lived: Lived, lives: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The course of the first of the seeds, and the answers over all of them."""
    came, attempts = jobs(scenario, lived), held(scenario, lived)
    return {
        "name": scenario.name,
        "policy": scenario.policy,
        "start": datetime.fromtimestamp(scenario.start_unix_s, UTC).strftime("%Y-%m-%d"),
        "days": end_of(scenario) / DAY_S,
        "seeds": len(lives),
        "seed": scenario.seed,
        "jobs": int((~came.service).sum()),
        "replicas": int(came.service.sum()),
        "events": lived.events,
        "currency": scenario.currency,
        "answers": answers.over_seeds(lives, scenario.currency),
        "tenants": answers.tenants(scenario, lives),
        "pools": [
            {
                "name": pool.name,
                "site": scenario.sites[pool.site],
                "system": pool.system,
                "nodes": pool.nodes,
                "chips_per_node": pool.chips_per_node,
                "racks": list(pool.racks),
                "first_node": pool.first_node,
            }
            for pool in scenario.pools
        ],
        "sites": list(scenario.sites),
        "frames": _frames(scenario, lived),
        "series": _series(scenario, came, attempts),
        "failures": _failures(scenario, lived),
        "curtailments": [
            {"site": scenario.sites[site], "at_s": at_s, "lasts_s": lasts_s, "cut": cut}
            for site, each in enumerate(scenario.curtailments)
            for at_s, cut, lasts_s in each
        ],
        "missed": [{"what": what} for what in _missed(scenario, came, attempts)],
        "sources": list(_sources(scenario)),
    }


def _frames(scenario: Scenario, lived: Lived) -> dict[str, Any]:
    at_s, looks, busy = lived.frames_s, lived.frames.copy(), lived.busy
    joined_s = np.full(looks.shape[1], np.inf)
    event = scenario.scene.world["event"]
    joins = event[event["kind"] == st.JOIN]
    np.minimum.at(joined_s, joins["where"], joins["at_s"])
    looks[at_s[:, None] < joined_s] = NOT_THERE
    for row in scenario.fate[scenario.fate["slow"] < 1]:
        since_s = row["at_s"] + row["detect_s"]
        slow = (at_s >= row["at_s"]) & (at_s < since_s + row["repair_s"])
        # Only where it works: what is down or drained is so first.
        looks[slow & (looks[:, row["node"]] < STRAGGLES), row["node"]] = STRAGGLES
    return {
        "at_s": at_s.tolist(),
        "node": b64encode(looks.tobytes()).decode(),
        "busy": b64encode(busy.tobytes()).decode(),
    }


def _series(scenario: Scenario, came: Jobs, attempts: Held) -> dict[str, Any]:
    until_s = end_of(scenario)
    waiting, from_s, to_s = waits(came, attempts, until_s)
    node, up_s, down_s = standing(scenario)

    def mean(start_s: Array, end_s: Array, weight: Any, row: Any = None, rows: int = 1) -> Array:
        row = np.zeros(len(start_s), np.int64) if row is None else row
        weight = np.broadcast_to(weight, len(start_s))
        return power.series(start_s, end_s, row, weight, np.zeros(rows), HOUR_S, until_s)

    start_s, end_s = attempts.start_s, attempts.end_s
    tenants = len(scenario.tenants)
    busy = mean(start_s, end_s, attempts.chips, attempts.tenant, tenants)
    machines = machines_w(scenario, attempts, HOUR_S)
    steps = machines.shape[1]
    pue = scenario.hours.pue[:, :steps]
    told: dict[str, Any] = {
        "at_s": (np.arange(steps) * HOUR_S).tolist(),
        "waiting": _plain(mean(from_s, to_s, 1.0)[0]),
        "waiting_chips": _plain(mean(from_s, to_s, came.chips[waiting])[0]),
        "running": _plain(mean(start_s, end_s, 1.0)[0]),
        "chips": _plain(mean(up_s, down_s, node_chips(scenario)[node])[0]),
        "busy": dict(zip(scenario.tenants, map(_plain, busy), strict=True)),
        "power_w": {},
        "cap_w": {},
        "pue": {},
        "carbon_g_per_kwh": {},
        "battery_j": {},
    }
    for site, name in enumerate(scenario.sites):
        told["power_w"][name] = _plain(machines[site] * pue[site])
        told["pue"][name] = _plain(pue[site])
        carbon = scenario.hours.carbon_g_per_j[site, :steps] * answers.J_PER_KWH
        told["carbon_g_per_kwh"][name] = _plain(carbon)
        if scenario.caps[site]:
            told["cap_w"][name] = _plain(_cap_w(scenario, site, steps) * pue[site])
        battery = scenario.batteries[site]
        if battery is not None:
            told["battery_j"][name] = _plain(_battery_j(scenario, attempts, site, battery))
    return told


def _cap_w(scenario: Scenario, site: int, steps: int) -> Array:
    """What machines might draw, in the mean of each hour."""
    at_s, watts = np.array(scenario.caps[site], float).T
    zero, until_s = np.zeros(len(at_s), np.int64), end_of(scenario)
    to_s = np.append(at_s[1:], until_s)
    return power.series(at_s, np.maximum(to_s, at_s), zero, watts, [0.0], HOUR_S, until_s)[
        0, :steps
    ]


def _battery_j(scenario: Scenario, attempts: Held, site: int, battery: power.Battery) -> Array:
    """What is stored when each hour begins."""
    until_s = end_of(scenario)
    here = attempts.site == site
    zero = np.zeros(int(here.sum()), np.int64)
    rest_w = [answers.resting_w(scenario)[site]]
    machines = power.series(
        attempts.start_s[here], attempts.end_s[here], zero, attempts.added_w[here],
        rest_w, MINUTE_S, until_s,
    )  # fmt: skip
    hours = -(-machines.shape[1] // 60)
    meter_w = power.meter(machines, scenario.hours.pue[site : site + 1, :hours], MINUTE_S)[0]
    at_s = np.arange(len(meter_w)) * MINUTE_S
    given_w = power.grid_w(
        scenario.power_w[site], scenario.curtailments[site], None, at_s, at_s + MINUTE_S
    )
    levels_j = np.append(battery.energy_j, power.stored(meter_w, given_w, battery, MINUTE_S))
    return np.asarray(levels_j[:-1:60])


def _failures(scenario: Scenario, lived: Lived) -> list[dict[str, Any]]:
    """What broke, and what the job on it lost, in seconds of that job."""
    fate, until_s = scenario.fate, end_of(scenario)
    if scenario.study is None or not len(fate):
        return []
    fate = fate[fate["at_s"] < until_s]
    lost = lived.log[lived.log["outcome"] == st.LOSE_NODE]
    rate = np.maximum(_rate(scenario, lived, lost), 1e-12)
    times_s, where = np.unique(lost["ended_s"], return_inverse=True)
    lost_s = np.append(np.bincount(where, lost["lost"] / rate, len(times_s)), 0.0)
    noticed_s = fate["at_s"] + fate["detect_s"]
    place = np.searchsorted(times_s, noticed_s)
    met = np.append(times_s, np.inf)[place] == noticed_s
    cost_s = np.where(met, lost_s[np.where(met, place, -1)], 0.0)
    dearest = np.sort(np.argsort(-cost_s, kind="stable")[:FAILURES_SHOWN])
    return [
        {
            "at_s": float(fate["at_s"][i]),
            "node": int(fate["node"][i]),
            "class": scenario.study.classes[fate["klass"][i]].name,
            "lost_s": float(cost_s[i]),
        }
        for i in dearest
    ]


def _missed(scenario: Scenario, came: Jobs, attempts: Held) -> Iterator[str]:
    until_s = end_of(scenario)
    for name in dict.fromkeys(kind.stream or kind.name for kind in scenario.kinds):
        its = answers.of_stream(scenario, came, name) & ~came.service & (came.deadline_s <= until_s)
        late_s = np.where(its, np.minimum(came.end_s, until_s) - came.deadline_s, 0.0)
        of_them = f"{its.sum():,} deadline{'' if its.sum() == 1 else 's'}"
        late = its & ((came.end_s > came.deadline_s) | ~came.done)
        if late.any():
            worst = int(late_s.argmax())
            yield (
                f"{name}: {late.sum():,} of {of_them}; the worst is "
                f"{scenario.job_names[worst]}, {show_duration(float(late_s[worst]))} late"
                f"{'' if came.done[worst] else ' and not done yet'}"
            )
    for name, one in answers.served(scenario, attempts).items():
        if one.in_time < 1:
            short = (1 - one.in_time) * one.asked_tokens
            yield (
                f"{name}: {show(short, 'tokens')} of {show(one.asked_tokens, 'tokens')} were asked "
                f"for while too few replicas ran ({1 - one.in_time:.2%})"
            )
    over_s = answers.over_cap_s(scenario, attempts)
    if over_s:
        yield f"a site's cap was exceeded for {show_duration(over_s)}, while jobs stopped"
    work = ~came.service
    count = int(work.sum())
    of_jobs = f"{count:,} job{'s' * (count != 1)}"
    open_ = work & np.isinf(came.start_s)
    if open_.any():
        yield f"{open_.sum():,} of {of_jobs} had not started by the end"
    done = int((work & came.done).sum())
    if 0 < done < FEW_DONE * count:
        yield (
            f"{done:,} of {of_jobs} were done by the end: the times are of those that are done; "
            "the longer ones are not"
        )


def _sources(scenario: Scenario) -> Iterator[str]:
    if scenario.study is not None and scenario.study.classes:
        found: dict[tuple[str, str], list[str]] = {}
        for one in scenario.study.classes:
            found.setdefault((one.basis, one.source), []).append(one.name)
        for (basis, source), names in found.items():
            what = names[0] if len(names) == 1 else f"{len(names)} classes"
            yield f"rates of failure {scenario.study.name}, {what}: {basis}; {source}"
        yield "detection and repair times of failures: assumed, row by row, in failures.csv"
    yield from scenario.assumptions


def _rate(scenario: Scenario, lived: Lived, log: Array) -> Array:
    """Work a second of the attempts of these rows at full speed."""
    kind = lived.state.jobs["kind"][log["job"]]
    return rates(lived.state, kind, log["pool"], log["width"]) * lived.life["luck"][log["job"]]


def _plain(curve: Array) -> list[float]:
    return [round(value, 6) + 0.0 for value in curve.tolist()]
