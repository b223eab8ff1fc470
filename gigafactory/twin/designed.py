"""The factory that a design bought, lived through: its demands on one day, with failures. Modelled.

What stands that day becomes a blueprint of halls, a hall for each system of a site; each demand a
stream at each hall that the plan gave it: replicas for its share of the load, or one run on so many
nodes. The rest is `scenario.of`; `held_against` sets what came beside what was planned. W, s.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple

import numpy as np

from gigafactory.blueprint.design import AnyDemand, ServeDemand, TrainDemand
from gigafactory.blueprint.operations import Battery
from gigafactory.blueprint.schema import Blueprint, Site
from gigafactory.blueprint.streams import AnyStream, ServeStream, TokenSpread, TrainStream
from gigafactory.factory import state as st
from gigafactory.faults import Fault, Refused
from gigafactory.plan import design, rates
from gigafactory.plan.choose.problem import YEAR_S
from gigafactory.plan.compiled import MONTHS
from gigafactory.plan.designed import Designed, Speed, Use
from gigafactory.plan.grounds import months_later
from gigafactory.plan.widths import widths
from gigafactory.stack import chips
from gigafactory.stack.money import build
from gigafactory.stack.money.figures import inputs, middle
from gigafactory.stack.training.goodput import goodput
from gigafactory.twin import answers, scenario
from gigafactory.twin.bare import with_jobs
from gigafactory.twin.held import Held, Jobs, end_of, held, jobs
from gigafactory.twin.run import Lived
from gigafactory.twin.scenario import DAY_S, POLICY, RETRIES, STEPS, Scenario
from gigafactory.units import show

QUARTER_S = YEAR_S / 4
DAILY = 0.5
"""Swing of a service's load about its day's mean. Assumed; its peak is the load stated."""
SERVICE_PRIORITY = 100
FAILURES = "llama3"
"""The study whose rates hold where the blueprint states none."""
WINDOW = 10_000
"""Jobs behind a blocked head that are tried: a tenant waits for a node at one site while others of
its services need one elsewhere, and here they do not wait for each other."""
J_PER_KWH = 3.6e6
ASSUMPTIONS = (
    "each demand keeps to the sites and systems that the plan gave it; a site of several systems "
    "has a hall for each, with its share of the power: assumed",
    f"a service's load swings by {DAILY:g} about its day's mean, its peak is what the design asks "
    "for, and it grows day by day, where the plan holds it for a quarter: assumed",
    "a training run has the nodes of the plan, rounded up, at the best layout on so many: modelled",
    "services go before training runs; a run shrinks to half the plan's own layout: assumed",
)


class Run(NamedTuple):
    """A training run that goes on, or begins, on the first day."""

    stream: str
    tokens: float
    """Left by the plan."""
    due_s: float


class Promise(NamedTuple):
    """A figure of the plan beside the twin's."""

    what: str
    unit: str
    plan: float
    twin: float
    why: str
    """What to know before holding one against the other."""


def of_design(
    blueprint: Blueprint,
    days: float,
    seed: int,
    policy: POLICY | None = None,
    on: date | None = None,
    designed: Designed | None = None,
) -> Scenario:
    """Days of what the plan has standing on a day; the design is made unless it is given.

    Without a day, the first of the first quarter in which the most demands run, all if may be.
    Raises `Refused` where there is no such factory, or nothing runs on that day.
    """
    designed = designed or design.make(blueprint)
    on = on or first_day(designed)
    stood = factory(blueprint, designed, on)
    came = scenario.of(stood, days, seed, policy)
    idle = set(_demands(blueprint)) - {use.demand for use in _uses(designed, on)}
    said = [*ASSUMPTIONS, *scenario.ASSUMPTIONS[1:]]
    if "failures" not in blueprint.operations.model_fields_set:
        said.append(f"failures come at the rates of {FAILURES}: the blueprint states none: assumed")
    if idle:
        said.append(f"on {on} the plan does nothing for {', '.join(sorted(idle))}")
    came.assumptions = tuple(said)
    return _with_runs(came, stood, list(_runs(blueprint, designed, on)))


def first_day(designed: Designed) -> date:
    """First day of the first quarter in which the most demands run."""
    running = Counter(quarter for _, quarter in {(u.demand, u.quarter) for u in designed.uses})
    if not running:
        why = "serving nothing was the best that its prices leave"
        hint = "ask for a service without a price, or pay more"
        raise Refused(Fault("the plan runs nothing", "design.demands", why, hint))
    return designed.quarters[min(running, key=lambda quarter: (-running[quarter], quarter))]


def factory(blueprint: Blueprint, designed: Designed, on: date) -> Blueprint:
    """What the plan has standing on a day as a blueprint of its own, and what it is to do there."""
    uses = _uses(designed, on)
    if not uses:
        best, end = first_day(designed), _end(designed, len(designed.quarters) - 1)
        why = f"it looks as far as {end}, and most of it runs on {best}"
        raise Refused(Fault(f"the plan runs nothing on {on}", "on", why, f"take {best}"))
    stands: Counter[tuple[str, str]] = Counter()
    for name, site in blueprint.sites.items():
        for system, nodes in site.systems.items():
            stands[name, system] += nodes * site.count
    for one in designed.purchases:
        if one.stands <= on:
            stands[one.site, one.system] += one.nodes
    draw_w = {key: nodes * _node_w(key[1]) for key, nodes in stands.items()}
    halls = {}
    for (name, system), nodes in stands.items():
        share = draw_w[name, system] / sum(w for key, w in draw_w.items() if key[0] == name)
        hall = _hall(stands, name, system)
        halls[hall] = _part(blueprint.sites[name], system, nodes, share, on)
    operations = blueprint.operations
    if "failures" not in operations.model_fields_set:
        operations = operations.model_copy(update={"failures": FAILURES})
    streams = {
        _stream(uses, use): _asked(
            blueprint, designed, use, on, _hall(stands, use.site, use.system)
        )
        for use in uses
    }
    change = {"start": on, "sites": halls, "streams": streams, "operations": operations}
    return blueprint.model_copy(update={**change, "design": None})


def held_against(
    blueprint: Blueprint,
    designed: Designed,
    came: Scenario,
    lived: Lived,
    figures: Mapping[str, float],
) -> tuple[list[Promise], list[str]]:
    """The plan's figures beside the twin's of one seed, and the promises that do not hold.

    `figures` are those of `answers.of`.
    """
    on = datetime.fromtimestamp(came.start_unix_s, UTC).date()
    uses, attempts, every = _uses(designed, on), held(came, lived), jobs(came, lived)
    services, days = answers.served(came, attempts), end_of(came) / DAY_S
    rows: list[Promise] = []
    broken: list[str] = []
    for name in dict.fromkeys(use.demand for use in uses):
        its, demand = [use for use in uses if use.demand == name], _demands(blueprint)[name]
        if isinstance(demand, ServeDemand):
            parts = [services[_stream(uses, use)] for use in its]
            rows += _served(name, sum(_pace(designed, use) for use in its), parts, days)
        else:
            some = _trained(blueprint, designed, came, attempts, every, its[0], on)
            rows += some
            broken += _late(name, some[-1], (demand.deadline - on).days)
    place = {one.site: one for one in designed.places}
    plan_w = sum(use.nodes * _node_w(use.system) for use in uses)
    meter_w = sum(use.nodes * _node_w(use.system) * place[use.site].pue for use in uses)
    most_w = 0.0
    for pool in came.pools:
        names = (site for site in place if came.sites[pool.site] in (site, f"{site}-{pool.system}"))
        most_w += pool.nodes * _node_w(pool.system) * place[next(names)].pue_hot
    rows += [
        Promise("energy a day at the meter", "kWh", meter_w * DAY_S / J_PER_KWH,
                figures["energy_kwh"] / days,
                "the plan: nodes in use at full load all day, none idle, with network and storage"),
        Promise("peak power at the meter", "W", most_w, figures["peak_w"],
                "the plan: all that stands at full load in the hottest hour"),
        Promise("PUE", "1", meter_w / plan_w, figures["pue"],
                "the plan: the mean of the year; the twin: these days"),
    ]  # fmt: skip
    if figures["over_cap_h"] > 0:
        broken.append(f"sites were above their caps for {figures['over_cap_h']:.3g} h")
    return rows, broken


def _served(
    name: str, plan_per_s: float, parts: Sequence[answers.Served], days: float
) -> list[Promise]:
    asked = sum(part.asked_tokens for part in parts)
    in_time = sum(part.in_time * part.asked_tokens for part in parts) / asked
    return [
        Promise(f"{name}: tokens a day", "tokens", plan_per_s * DAY_S,
                sum(part.tokens for part in parts) / days,
                f"the plan: its peak all day; asked for were {show(asked / days, 'tokens')} a day"),
        Promise(f"{name}: asked while enough replicas ran", "share", 1.0, in_time,
                "the plan: nothing fails, nothing starts, no growth within a quarter"),
    ]  # fmt: skip


def _trained(
    blueprint: Blueprint,
    designed: Designed,
    came: Scenario,
    attempts: Held,
    every: Jobs,
    use: Use,
    on: date,
) -> list[Promise]:
    """A run's pace, goodput, and when it would be done: as much later as its pace is lower."""
    name, demand = use.demand, _demands(blueprint)[use.demand]
    assert isinstance(demand, TrainDemand)
    ran = answers.of_stream(came, attempts, name)
    until_s = np.minimum(every.end_s[answers.of_stream(came, every, name)], end_of(came)).max()
    pace, planned = float(attempts.kept[ran].sum() / until_s), _pace(designed, use)
    held_s = float(attempts.chip_s[ran].sum())
    useful_s = float((attempts.chips * attempts.useful_s)[ran].sum())
    kind = next(kind for kind in came.kinds if kind.stream == name)
    laid = _speed(designed, use).nodes
    assert laid
    of = chips.system(use.system)
    model = rates.read(blueprint.models[demand.model].config)
    last = max(one.quarter for one in designed.uses if one.demand == name)
    plan_s = (min(_end(designed, last), demand.deadline) - on).days * DAY_S
    at_best = max(kind.rates[-1]) / planned
    return [
        Promise(f"{name}: tokens a day", "tokens", planned * DAY_S, pace * DAY_S,
                f"the plan: {use.nodes:.4g} nodes, each as fast as one of {laid}; on all its "
                f"chips, nothing failing, the best layout does {at_best:.1%} of that"),
        Promise(f"{name}: goodput", "share", goodput(model, laid * of.chips_per_node).share,
                useful_s / held_s if held_s else 0.0, f"the plan: of a gang of {laid} nodes"),
        Promise(f"{name}: done after", "s", plan_s, plan_s * planned / pace if pace else math.inf,
                "the twin: at the pace of these days"),
    ]  # fmt: skip


def _late(name: str, done: Promise, due_days: int) -> Iterator[str]:
    late_days = done.twin / DAY_S - due_days
    if late_days > 0:
        when = f"{late_days:.3g} days late" if math.isfinite(late_days) else "never"
        yield f"{name} would be done {when} at the pace of these days"


def _demands(blueprint: Blueprint) -> Mapping[str, AnyDemand]:
    assert blueprint.design
    return blueprint.design.demands


def _uses(designed: Designed, on: date) -> list[Use]:
    """What the plan runs on a day."""
    begun = [number for number, day in enumerate(designed.quarters) if day <= on]
    if not begun or on >= _end(designed, begun[-1]):
        return []
    return [use for use in designed.uses if use.quarter == begun[-1]]


def _end(designed: Designed, quarter: int) -> date:
    return months_later(designed.quarters[quarter], MONTHS)


def _stream(uses: Sequence[Use], use: Use) -> str:
    """A demand's name, with its place where it has several."""
    alone = sum(one.demand == use.demand for one in uses) == 1
    return use.demand if alone else f"{use.demand}-{use.site}-{use.system}"


def _hall(stands: Mapping[tuple[str, str], int], site: str, system: str) -> str:
    return site if sum(at == site for at, _ in stands) == 1 else f"{site}-{system}"


def _node_w(system: str) -> float:
    """Draw of a busy node with what stands beside it, as the plan has it."""
    of = chips.system(system)
    return build.node_w(of) * (1 + middle(inputs(of))["beside"])


def _part(site: Site, system: str, nodes: int, share: float, on: date) -> Site:
    """The hall of one system: its nodes, and its share of all data centers' power."""
    share *= site.count
    opening = datetime.combine(on, time(), UTC)
    ramp = site.grid.ramp_w_per_s
    grid = {
        "curtail": tuple(one for one in site.grid.curtail if one.at >= opening),
        "ramp_w_per_s": ramp and ramp * share,
    }
    of = site.battery
    change = {
        "count": 1,
        "power_w": site.power_w * share,
        "systems": {system: nodes},
        "battery": of
        and Battery.model_construct(power_w=of.power_w * share, energy_j=of.energy_j * share),
        "grid": site.grid.model_copy(update=grid),
    }
    return site.model_copy(update=change)


def _asked(blueprint: Blueprint, designed: Designed, use: Use, on: date, hall: str) -> AnyStream:
    """A demand at one hall, as a stream."""
    demand = _demands(blueprint)[use.demand]
    common: dict[str, Any] = {"tenant": demand.tenant, "model": demand.model, "sites": (hall,)}
    if isinstance(demand, ServeDemand):
        years = (on - designed.quarters[use.quarter]).days / 365.25
        return ServeStream.model_construct(
            kind="serve",
            output_tokens_per_s=_pace(designed, use) * demand.growth**years,
            growth=demand.growth,
            daily=DAILY,
            prompt=demand.prompt,
            answer=demand.answer,
            ttft_s=demand.ttft_s,
            tpot_s=demand.tpot_s,
            priority=SERVICE_PRIORITY,
            **common,
        )
    shape = {name: getattr(demand, name) for name in ("sequence", "batch_tokens", "precision")}
    per_node = chips.system(use.system).chips_per_node
    speed = _speed(designed, use)
    assert speed.nodes
    most = max(math.ceil(use.nodes - 1e-9), speed.nodes)
    for nodes in range(most, speed.nodes - 1, -1):
        stream = TrainStream.model_construct(
            kind="train",
            per_day=0.0,  # None comes: the one run there is stands at the head of the jobs.
            tokens=TokenSpread.model_construct(median=demand.tokens, p90=demand.tokens),
            chips={nodes * per_node: 1.0},
            elastic=max(speed.nodes // 2, 1) * per_node,
            **shape,
            **common,
        )
        found = widths(blueprint, stream, chips.system(use.system))
        if isinstance(found, tuple) and found[-1].chips == nodes * per_node:
            return stream
    raise AssertionError(f"{use.demand} was laid out on {speed.nodes} nodes by the plan")


def _speed(designed: Designed, use: Use) -> Speed:
    return next(s for s in designed.speeds if (s.demand, s.system) == (use.demand, use.system))


def _pace(designed: Designed, use: Use) -> float:
    """Tokens/s of a use, by the plan."""
    return use.nodes * (_speed(designed, use).tokens_per_s_per_node or 0.0)


def _runs(blueprint: Blueprint, designed: Designed, on: date) -> Iterator[Run]:
    uses = _uses(designed, on)
    for use in uses:
        demand = _demands(blueprint)[use.demand]
        if isinstance(demand, TrainDemand):
            of = [one for one in designed.uses if one.demand == use.demand]
            to_come = [one for one in of if one.quarter >= use.quarter]
            tokens = sum(_pace(designed, one) for one in to_come) * QUARTER_S
            gone_s = (on - designed.quarters[use.quarter]).days * DAY_S
            tokens -= _pace(designed, use) * gone_s
            yield Run(_stream(uses, use), tokens, (demand.deadline - on).days * DAY_S)


def _with_runs(came: Scenario, stood: Blueprint, runs: Sequence[Run]) -> Scenario:
    """The scenario with the runs as its first jobs, all submitted at its start."""
    scene, count = came.scene, len(runs)
    before, lives = scene.state.jobs, scene.life
    state, life = with_jobs(scene.state, count + len(lives))
    state.jobs[count:], life[count:] = before, lives
    event = scene.world["event"]
    event["job"][event["kind"] == st.CANCEL] += count
    for j, run in enumerate(runs):
        k = next(k for k, kind in enumerate(came.kinds) if kind.stream == run.stream)
        kind, to = came.kinds[k], state.jobs[j]
        to["kind"], to["tenant"], to["retries"] = k, kind.tenant, RETRIES
        to["chips"], to["chips_min"] = kind.chips, kind.chips_min
        to["work"], to["step_work"] = run.tokens, run.tokens / STEPS
        to["deadline_s"] = run.due_s
        life["overhead_s"][j], life["restart_s"][j] = kind.overhead_s, kind.restart_s
        life["write_s"][j], life["every"][j] = kind.write_s, kind.every
    state.rules["window"] = WINDOW
    scene.state, scene.life = state, life
    came.job_names = [run.stream for run in runs] + came.job_names
    return came
