"""What a lived scenario comes to: times, goodput, power, energy, money, service. Modelled.

`of` answers for one seed; `over_seeds` gives means with 95 % intervals (Student's t);
`compared` sets two courses of the same seeds against each other, seed by seed: under one seed
both meet the same jobs and the same fate, so what differs between them is their own doing.
s, share, kWh, kg CO2e, L, W, money of the blueprint; docs/twin.md defines each answer.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gigafactory.factory import state as st
from gigafactory.twin import power
from gigafactory.twin.held import (
    Array,
    Held,
    Jobs,
    end_of,
    held,
    jobs,
    machines_w,
    node_chips,
    resting_w,
    standing,
)
from gigafactory.twin.hours import HOUR_S, between, cumulative
from gigafactory.twin.run import Lived
from gigafactory.twin.scenario import Scenario

Interval = tuple[float | None, float | None, float | None]
"""Mean, low, high; None where there is none."""
J_PER_KWH = 3.6e6
MINUTE_S = 60.0
SERVED_STEP_S = 300.0
"""A service's replicas are counted over such steps."""
CAP_SLACK = 1e-6
"""Over a cap by less than this share is rounding: the core reckons in whole mW."""
WITHIN = 0.95
"""Probability within an interval."""
ALL_DONE = 0.995
"""With less of the jobs done, times to completion are said to be of those."""
MONEY = "money"
"""Stands for the currency of the course."""


class Question(NamedTuple):
    """What is asked of every seed, and whether less of it is `low` better."""

    key: str
    group: str
    name: str
    unit: str
    better: str = ""


QUESTIONS = (
    Question("jct_mean_s", "jobs", "mean time to completion", "s", "low"),
    Question("jct_p50_s", "jobs", "median time to completion", "s", "low"),
    Question("jct_p95_s", "jobs", "time to completion, P95", "s", "low"),
    Question("jct_p99_s", "jobs", "time to completion, P99", "s", "low"),
    Question("queue_mean_s", "jobs", "mean wait", "s", "low"),
    Question("queue_p95_s", "jobs", "wait, P95", "s", "low"),
    Question("done", "jobs", "done by the end", "share", "high"),
    Question("deadlines", "jobs", "deadlines met", "share", "high"),
    Question("preemptions", "jobs", "stopped at a checkpoint", "1", "low"),
    Question("slo", "service", "tokens asked while enough replicas ran", "share", "high"),
    Question("first_token_s", "service", "time to first token", "s", "low"),
    Question("served_tokens", "service", "tokens served", "tokens", "high"),
    Question("goodput", "machines", "goodput", "share", "high"),
    Question("ettr", "machines", "effective time (ETTR)", "share", "high"),
    Question("ettr_largest", "machines", "effective time of the largest job", "share", "high"),
    Question("mfu_hours", "machines", "MFU-hours", "chip-h", "high"),
    Question("mfu", "machines", "MFU of held chips", "share", "high"),
    Question("utilisation", "machines", "utilisation", "share", "high"),
    Question("failures", "machines", "attempts lost to failures", "1", "low"),
    Question("lost_chip_h", "machines", "work lost to failures", "chip-h", "low"),
    Question("energy_kwh", "energy", "energy at the meter", "kWh", "low"),
    Question("machines_kwh", "energy", "energy of the machines", "kWh", "low"),
    Question("pue", "energy", "PUE", "1", "low"),
    Question("peak_w", "energy", "peak power at the meter, one minute", "W", "low"),
    Question("ramp_w", "energy", "largest change within a minute", "W", "low"),
    Question("over_cap_h", "energy", "hours above a cap", "h", "low"),
    Question("carbon_kg", "energy", "carbon", "kg CO2e", "low"),
    Question("water_l", "energy", "water", "L", "low"),
    Question("energy_cost", "money", "cost of energy", MONEY, "low"),
    Question("cost", "money", "chips held, paid by tenants", MONEY),
    Question("train_mtoken", "money", "of a million tokens trained", MONEY, "low"),
    Question("serve_mtoken", "money", "of a million tokens served", MONEY, "low"),
)
OF_TENANT = (
    "jobs",
    "chip_hours",
    "queue_mean_s",
    "jct_mean_s",
    "energy_kwh",
    "carbon_kg",
    "cost",
    "goodput",
)


class Served(NamedTuple):
    """Of one service, over the whole course."""

    asked_tokens: float
    in_time: float
    """Share asked for while enough replicas ran."""
    tokens: float
    """Answered at most."""


def of(scenario: Scenario, lived: Lived) -> dict[str, float]:
    """Key to figure: those of `QUESTIONS`, and `tenants.NAME.KEY` of `OF_TENANT`. nan: none."""
    came, attempts = jobs(scenario, lived), held(scenario, lived)
    services = served(scenario, attempts)
    drawn = _integrals(scenario, attempts)
    return {
        **_times(scenario, came, attempts),
        **_service(scenario, attempts, services),
        **_machines(scenario, came, attempts, services),
        **_energy(scenario, attempts, drawn),
        **_money(scenario, attempts, services),
        **dict(_tenants(scenario, came, attempts, drawn)),
    }


def served(scenario: Scenario, attempts: Held) -> dict[str, Served]:
    """How each service kept up with its load."""
    found = {}
    steps = math.ceil(end_of(scenario) / SERVED_STEP_S)
    hour = (np.arange(steps) * SERVED_STEP_S // HOUR_S).astype(int)
    for name, by_hour in scenario.loads.items():
        load = by_hour[hour]
        ran = of_stream(scenario, attempts, name)
        replicas = _mean(scenario, attempts.ready_s[ran], attempts.end_s[ran], SERVED_STEP_S)
        can = replicas * scenario.replica_tokens_per_s[name]
        enough = can >= load * (1 - CAP_SLACK)
        asked = float(load.sum())
        found[name] = Served(
            asked_tokens=asked * SERVED_STEP_S,
            in_time=float(load[enough].sum()) / asked if asked else math.nan,
            tokens=float(np.minimum(can, load).sum()) * SERVED_STEP_S,
        )
    return found


def of_stream(scenario: Scenario, rows: Held | Jobs, name: str) -> Array:
    """Which of the rows belong to a stream; a stream may have several kinds of jobs."""
    its = np.array([(kind.stream or kind.name) == name for kind in scenario.kinds], bool)
    return np.asarray(its[rows.kind])


def over_seeds(lives: Sequence[Mapping[str, float]], currency: str) -> list[dict[str, Any]]:
    """Each answer over the seeds: mean and 95 % interval; of one seed, no interval."""
    answers = []
    done = interval([one["done"] for one in lives])[0]
    partly = " of jobs done" if done is not None and done < ALL_DONE else ""
    for question in QUESTIONS:
        most = 1.0 if question.unit == "share" else math.inf
        mean, low, high = _possible(interval([one[question.key] for one in lives]), most)
        answers.append(
            {
                "key": question.key,
                "group": question.group,
                "name": question.name + partly * question.key.startswith("jct_"),
                "unit": currency if question.unit == MONEY else question.unit,
                "better": question.better,
                "value": mean,
                "low": low,
                "high": high,
                "basis": "modelled",
            }
        )
    return answers


def tenants(scenario: Scenario, lives: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Each tenant over the seeds, with `intervals` beside its means."""
    rows = []
    for t, name in enumerate(scenario.tenants):
        found = {
            key: _possible(
                interval([one[f"tenants.{name}.{key}"] for one in lives]),
                1.0 if key == "goodput" else math.inf,
            )
            for key in OF_TENANT
        }
        rows.append(
            {
                "name": name,
                "weight": scenario.weights[t],
                "quota": scenario.quotas[t],
                **{key: mean for key, (mean, _, _) in found.items()},
                "jobs": round(found["jobs"][0] or 0.0),
                "intervals": {key: [low, high] for key, (_, low, high) in found.items()},
            }
        )
    return rows


def compared(
    ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]
) -> dict[str, dict[str, Any]]:
    """Key to what we have more of than they, seed by seed: mean, 95 % interval, verdict.

    Both lists are of the same seeds in the same order.
    """
    assert len(ours) == len(theirs)
    found: dict[str, dict[str, Any]] = {}
    for question in QUESTIONS:
        pairs = zip(ours, theirs, strict=True)
        more, low, high = interval([a[question.key] - b[question.key] for a, b in pairs])
        verdict = _verdict(more, low, high, question.better)
        found[question.key] = {"value": more, "low": low, "high": high, "verdict": verdict}
    return found


def interval(values: Sequence[float]) -> Interval:
    """(mean, low, high) of what is known; no interval of one value."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None, None, None
    mean = math.fsum(known) / len(known)
    if len(known) < 2:
        return mean, None, None
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1))
    half = student_t(len(known) - 1) * spread / math.sqrt(len(known))
    return mean, mean - half, mean + half


def _possible(of: Interval, most: float) -> Interval:
    """Without what cannot be: nothing asked here is below 0, and no share above 1."""
    mean, low, high = of
    if low is None or high is None:
        return of
    return mean, max(low, 0.0), min(high, most)


def student_t(freedom: int, within: float = WITHIN) -> float:
    """The t that a variable of so many degrees of freedom stays within, either way.

    Exact for whole degrees: Abramowitz and Stegun 26.7.3 and 26.7.4, inverted by halving.
    """
    assert freedom > 0
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < within else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _t_within(angle: float, freedom: int) -> float:
    """Probability that |t| <= tan(angle) * sqrt(freedom)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, freedom, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if odd:
        return 2 / math.pi * (angle + (sine * total if freedom > 1 else 0.0))
    return sine * total


def _verdict(more: float | None, low: float | None, high: float | None, better: str) -> str:
    if more is None:
        return ""
    if low is None or high is None:
        return "same" if more == 0 else "one seed: no telling"
    if low <= 0 <= high:
        return "same" if low == high else "undecided"
    less = {"low": more < 0, "high": more > 0}.get(better)
    return "differs" if less is None else "better" if less else "worse"


def _times(scenario: Scenario, came: Jobs, attempts: Held) -> dict[str, float]:
    """Waits count to the end for who waits still, so a jam cannot hide in what never started."""
    until_s, work = end_of(scenario), ~came.service
    done = work & came.done
    took_s = (came.end_s - came.submit_s)[done]
    wait_s = _first_waits(came, until_s)[work & (came.free_s < until_s)]
    decided = work & (np.minimum(came.deadline_s, came.end_s) <= until_s)
    decided &= np.isfinite(came.deadline_s)
    stopped = (attempts.outcome == st.STOPPED) & (came.end_s[attempts.job] > attempts.end_s)
    median, p95, p99 = _quantiles(took_s, 0.5, 0.95, 0.99)
    return {
        "jct_mean_s": _average(took_s),
        "jct_p50_s": median,
        "jct_p95_s": p95,
        "jct_p99_s": p99,
        "queue_mean_s": _average(wait_s),
        "queue_p95_s": _quantiles(wait_s, 0.95)[0],
        "done": _average(came.done[work]),
        "deadlines": _average((came.done & (came.end_s <= came.deadline_s))[decided]),
        "preemptions": float(stopped.sum()),
    }


def _first_waits(came: Jobs, until_s: float) -> Array:
    return np.asarray(np.maximum(np.minimum(came.start_s, until_s) - came.free_s, 0.0))


def _service(
    scenario: Scenario, attempts: Held, services: Mapping[str, Served]
) -> dict[str, float]:
    serves = np.array([kind.kind == "serve" for kind in scenario.kinds], bool)[attempts.kind]
    stood = serves & (attempts.end_s > attempts.ready_s)
    asked = sum(one.asked_tokens for one in services.values())
    in_time = sum(one.in_time * one.asked_tokens for one in services.values())
    return {
        "slo": _ratio(in_time, asked),
        "first_token_s": float(attempts.ready_s[stood].min(initial=math.inf)),
        "served_tokens": sum(one.tokens for one in services.values()) if services else math.nan,
    }


def _machines(
    scenario: Scenario, came: Jobs, attempts: Held, services: Mapping[str, Served]
) -> dict[str, float]:
    node, from_s, to_s = standing(scenario)
    up_chip_s = float((node_chips(scenario)[node] * (to_s - from_s)).sum())
    held_chip_s = float(attempts.chip_s.sum())
    works = ~came.service[attempts.job]
    useful_chip_s = attempts.chips * attempts.useful_s
    # ETTR: productive over wall time, job by job, weighted by the chips it asked for.
    count = len(came.submit_s)
    productive_s = np.bincount(attempts.job[works], attempts.useful_s[works], count)
    last_s = np.zeros(count)
    np.maximum.at(last_s, attempts.job[works], attempts.end_s[works])
    wall_s = np.where(last_s > came.start_s, last_s - came.start_s, 0.0)
    size = came.chips * wall_s
    largest = int(size.argmax()) if count else -1
    mfu_h, known_chip_s = _mfu(scenario, attempts, services)
    return {
        "goodput": _ratio(float(useful_chip_s.sum()), held_chip_s),
        "ettr": _ratio(float(came.chips @ productive_s), float(size.sum())),
        "ettr_largest": _ratio(productive_s[largest], wall_s[largest]) if count else math.nan,
        "mfu_hours": mfu_h if known_chip_s else math.nan,
        "mfu": _ratio(mfu_h * HOUR_S, known_chip_s),
        "utilisation": _ratio(held_chip_s, up_chip_s),
        "failures": float((attempts.outcome == st.LOSE_NODE).sum()),
        "lost_chip_h": float(attempts.chips @ attempts.lost_s) / HOUR_S,
    }


def _mfu(scenario: Scenario, attempts: Held, services: Mapping[str, Served]) -> tuple[float, float]:
    """Useful FLOP in hours of a chip at its peak, and the chip-seconds that did them."""
    flop = np.array([kind.flop_per_work for kind in scenario.kinds])[attempts.kind]
    peak = np.array([pool.peak_flop_per_s for pool in scenario.pools])[attempts.pool]
    work = attempts.kept.astype(float)
    for name, one in services.items():  # Its tokens fall to its replicas by their chip-time.
        ran = of_stream(scenario, attempts, name)
        share = attempts.chip_s[ran] / max(attempts.chip_s[ran].sum(), 1e-9)
        work[ran] = one.tokens * share
    known = (flop > 0) & (peak > 0)
    done_s = work[known] * flop[known] / peak[known]
    return float(done_s.sum()) / HOUR_S, float(attempts.chip_s[known].sum())


class _Drawn(NamedTuple):
    """What a W of machines makes: over the time of each attempt; of each site, over the course."""

    meter_s: Array
    carbon_g: Array
    price: Array
    water_l: Array
    whole: Array
    """(4, sites), in the same order."""


def _integrals(scenario: Scenario, attempts: Held) -> _Drawn:
    hours, until_s = scenario.hours, end_of(scenario)
    rates = (
        hours.pue,
        hours.pue * hours.carbon_g_per_j,
        hours.pue * hours.price_per_j,
        hours.wue_l_per_j,
    )
    each, whole = [], []
    for rate in rates:
        sums = cumulative(rate)
        each.append(between(sums, attempts.start_s, attempts.end_s, attempts.site))
        whole.append(between(sums, 0.0, until_s))
    return _Drawn(each[0], each[1], each[2], each[3], np.array(whole))


def _energy(scenario: Scenario, attempts: Held, drawn: _Drawn) -> dict[str, float]:
    until_s, rest_w, added_w = end_of(scenario), resting_w(scenario), attempts.added_w
    machines_j = float(rest_w.sum() * until_s + added_w @ (attempts.end_s - attempts.start_s))
    meter_j = float(rest_w @ drawn.whole[0] + added_w @ drawn.meter_s)
    site_w = machines_w(scenario, attempts, MINUTE_S)
    meter_w = power.meter(site_w, _whole_steps(scenario, site_w.shape[1]), MINUTE_S)
    together_w = meter_w.sum(axis=0)
    # The quiet day of a plan has neither prices nor weather: nothing is said then, rather than 0.
    priced = bool(scenario.hours.price_per_j.any())
    return {
        "energy_kwh": meter_j / J_PER_KWH,
        "machines_kwh": machines_j / J_PER_KWH,
        "pue": _ratio(meter_j, machines_j),
        "peak_w": float(together_w.max(initial=0.0)),
        "ramp_w": float(power.ramps(meter_w, MINUTE_S).max(initial=0.0)) * MINUTE_S,
        "over_cap_h": over_cap_s(scenario, attempts) / HOUR_S,
        "carbon_kg": float(rest_w @ drawn.whole[1] + added_w @ drawn.carbon_g) / 1e3,
        "water_l": float(rest_w @ drawn.whole[3] + added_w @ drawn.water_l) if priced else math.nan,
        "energy_cost": float(rest_w @ drawn.whole[2] + added_w @ drawn.price)
        if priced
        else math.nan,
    }


def over_cap_s(scenario: Scenario, attempts: Held) -> float:
    """Seconds in which the machines of a site drew more than its cap, summed over sites. Exact."""
    until_s, rest_w = end_of(scenario), resting_w(scenario)
    total_s = 0.0
    for site, steps in enumerate(scenario.caps):
        if not steps:
            continue
        here = attempts.site == site
        cap_s, cap_w = np.array(steps, float).T
        added_w = attempts.added_w[here]
        at_s = np.concatenate([attempts.start_s[here], attempts.end_s[here], cap_s[1:]])
        change_w = np.concatenate([added_w, -added_w, -np.diff(cap_w)])
        order = np.argsort(at_s, kind="stable")
        above_w = rest_w[site] - cap_w[0] + np.cumsum(change_w[order])
        lasts_s = np.diff(np.append(np.minimum(at_s[order], until_s), until_s))
        total_s += float(lasts_s[above_w > CAP_SLACK * cap_w.max()].sum())
    return total_s


def _money(scenario: Scenario, attempts: Held, services: Mapping[str, Served]) -> dict[str, float]:
    paid = _paid(scenario, attempts)
    trains = np.array([k.kind != "serve" and k.unit == "token" for k in scenario.kinds], bool)
    trained = trains[attempts.kind]
    served_tokens = sum(one.tokens for one in services.values())
    served_paid = sum(float(paid[of_stream(scenario, attempts, name)].sum()) for name in services)
    return {
        "cost": float(paid.sum()),
        "train_mtoken": _ratio(
            float(paid[trained].sum()) * 1e6, float(attempts.kept[trained].sum())
        ),
        "serve_mtoken": _ratio(served_paid * 1e6, served_tokens),
    }


def _paid(scenario: Scenario, attempts: Held) -> Array:
    """What each attempt costs its tenant: every chip that it held."""
    price = np.array([pool.price_chip_s for pool in scenario.pools])
    return np.asarray(price[attempts.pool] * attempts.chip_s)


def _tenants(
    scenario: Scenario, came: Jobs, attempts: Held, drawn: _Drawn
) -> Iterator[tuple[str, float]]:
    """A tenant's energy is that of the chips it holds, their idle draw included."""
    count, until_s = len(scenario.tenants), end_of(scenario)
    idle_w = np.array([pool.idle_w for pool in scenario.pools])[attempts.pool]
    watts = attempts.added_w + idle_w * attempts.chips

    def summed(values: Array) -> Array:
        return np.bincount(attempts.tenant, values, count)

    sums = {
        "chip_hours": summed(attempts.chip_s) / HOUR_S,
        "energy_kwh": summed(watts * drawn.meter_s) / J_PER_KWH,
        "carbon_kg": summed(watts * drawn.carbon_g) / 1e3,
        "cost": summed(_paid(scenario, attempts)),
    }
    useful_chip_h = summed(attempts.chips * attempts.useful_s) / HOUR_S
    wait_s, took_s = _first_waits(came, until_s), came.end_s - came.submit_s
    for t, name in enumerate(scenario.tenants):
        its = (came.tenant == t) & ~came.service & (came.free_s < until_s)
        figures = {
            "jobs": float(((came.tenant == t) & ~came.service).sum()),
            "queue_mean_s": _average(wait_s[its]),
            "jct_mean_s": _average(took_s[its & came.done]),
            "goodput": _ratio(useful_chip_h[t], sums["chip_hours"][t]),
            **{key: float(column[t]) for key, column in sums.items()},
        }
        for key in OF_TENANT:
            yield f"tenants.{name}.{key}", figures[key]


def _mean(scenario: Scenario, from_s: Array, to_s: Array, step_s: float) -> Array:
    """How many at a time, in the mean of each step."""
    rows = np.zeros(len(from_s), np.int64)
    ones = np.ones(len(from_s))
    return np.asarray(power.series(from_s, to_s, rows, ones, [0.0], step_s, end_of(scenario))[0])


def _whole_steps(scenario: Scenario, steps: int) -> Array:
    """PUE by the hour for so many minutes: the last hour goes on where the horizon cuts it."""
    hours = math.ceil(steps * MINUTE_S / HOUR_S)
    return scenario.hours.pue[:, :hours]


def _average(values: Array) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _quantiles(values: Array, *shares: float) -> list[float]:
    if not len(values):
        return [math.nan] * len(shares)
    return [float(value) for value in np.quantile(values, shares)]


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan
