"""A blueprint, or a plan, as a scene to be played, with the names, units and prices behind it.

`of` makes weeks of streams and workloads with all that befalls them; `of_plan` the quiet day of a
plan, as the works would have it. The same blueprint, days and seed give the same scene, and the
same jobs, luck and failures under every policy. s, W, work in the unit of a job's kind. Modelled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
from numpy.typing import NDArray

from gigafactory.blueprint.schema import Blueprint
from gigafactory.factory import Tenant
from gigafactory.factory import policy as policies
from gigafactory.factory import state as st
from gigafactory.factory.core import rows_of
from gigafactory.plan import Figure, Measured, Plan, PlannedJob
from gigafactory.plan import make as make_plan
from gigafactory.stack import reliability
from gigafactory.stack.reliability import Study
from gigafactory.twin import demand, fate, floor, kinds, world
from gigafactory.twin.bare import with_jobs
from gigafactory.twin.floor import Pool
from gigafactory.twin.hours import HOUR_S, Hours, hours
from gigafactory.twin.kinds import Kind
from gigafactory.twin.power import Battery, Curtailment
from gigafactory.twin.run import Scene

__all__ = ["Kind", "Pool", "Scenario", "of", "of_plan"]

DAY_S = 86_400.0
STEPS = 2**40
"""Of a job, in which checkpoints are told."""
RETRIES = 3
Z_OF_RANGE = 1.2816  # A range is taken as the middle 80 % of what may come.
ASSUMPTIONS = (
    "a training run is as fast as its best layout, within the model's own range: modelled",
    "a training run starts as fast as gangs were measured to here; after a failure it takes what "
    "is left of the published restart once the failure is noticed: derived",
    "a job that its scheduler stops writes a checkpoint first and loses nothing; batch jobs and "
    "traces have no other checkpoints, and start again from nothing after a failure: assumed",
    "a pool's nodes are like each other; data centers of one site share their pools: assumed",
)
Floats = NDArray[np.float64]
POLICY = str | policies.Policy


@dataclass
class Scenario:
    """A scene with what people call things. Times are seconds from midnight UTC of the start."""

    scene: Scene
    name: str
    currency: str
    start_unix_s: float
    horizon_s: float
    seed: int
    policy: str
    sites: tuple[str, ...]
    tenants: tuple[str, ...]
    weights: tuple[float, ...]
    quotas: tuple[int | None, ...]
    pools: tuple[Pool, ...]
    kinds: tuple[Kind, ...]
    job_names: list[str]
    hours: Hours
    power_w: tuple[float, ...]
    """Cap of each site at the meter."""
    caps: tuple[list[tuple[float, float]], ...]
    """(at_s, machines_w) of each site, from `power.caps`."""
    curtailments: tuple[tuple[Curtailment, ...], ...]
    batteries: tuple[Battery | None, ...]
    study: Study | None
    fate: np.ndarray
    """`fate.FATE` rows; `node` counts over all pools."""
    loads: dict[str, np.ndarray] = field(default_factory=dict)
    """Tokens/s asked of each serve stream, by hour."""
    replica_tokens_per_s: dict[str, float] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()


def of(
    blueprint: Blueprint,
    days: float,
    seed: int,
    policy: POLICY | None = None,
    measured: Measured | None = None,
) -> Scenario:
    """Weeks of the blueprint's streams and workloads, with failures, upkeep, caps and law.

    Raises `Refused` where a stream could never run, or a site not carry what stands there.
    """
    horizon_s, how = days * DAY_S, blueprint.operations
    policy = policy or how.policy
    plan = make_plan(blueprint, measured)
    sites = tuple(blueprint.sites)
    counts = {name: site.count for name, site in blueprint.sites.items()}
    racks = {name: site.racks for name, site in blueprint.sites.items()}
    stand = floor.pools(plan.places, sites, plan.measured.machine, counts, racks)
    study = reliability.study(how.failures)
    told = hours(blueprint, math.ceil(horizon_s / HOUR_S), seed)
    caps = tuple(floor.capped(blueprint, stand, told, horizon_s))
    lawful, law_rows = zip(*world.lawful(blueprint, stand, days), strict=True)

    tenants = [
        Tenant(name, one.weight, one.quota, one.borrow, one.cohort or "")
        for name, one in blueprint.tenants.items()
    ]
    names = [one.name for one in tenants]
    pue = told.pue.mean(axis=1)
    planned = list(kinds.of_jobs(plan.jobs, names, stand, lambda site: float(pue[site])))
    every = [*planned, *kinds.of_streams(blueprint, stand, study, lawful)]
    added_mw = [
        [_mw(max(w - p.idle_w, 0)) for w, p in zip(k.busy_w, stand, strict=True)] for k in every
    ]
    likes = [_likes(kind, stand, told, str(policy)) for kind in every]

    state = st.empty(
        [_mw(steps[0][1] - floor.rest_w(stand, s)) for s, steps in enumerate(caps)],
        [(pool.site, how.spares) for pool in stand],
        rows_of(tenants),
    )
    state = _with_kinds(floor.nodes(state, stand), every, added_mw, likes)
    rules = {"backfill": how.backfill, "preempt_after_s": how.preempt_after_s, "lemons": how.lemons}
    rules["elastic"] = any(kind.chips_min < kind.chips for kind in every)
    _rule(state, policy, rules)

    rng = np.random.default_rng(seed)
    asked = demand.draw(blueprint, horizon_s, rng)
    state, life = with_jobs(state, len(planned) + len(asked))
    draws = _drawn(plan.jobs, seed)
    state = _plan_rows(state, life, plan.jobs, planned, draws)
    first = len(planned)
    _stream_rows(blueprint, state.jobs[first:], life[first:], asked, every[first:], first, seed)

    fated = world.fates(study, stand, horizon_s, seed)
    wanted = np.flatnonzero((asked["until_s"] > 0) & (asked["until_s"] < horizon_s))
    nodes = int(state.counts[st.NODES])
    rows = [
        world.rows(st.JOIN, 0.0, np.arange(nodes)),
        *law_rows,
        *world.capping(caps, stand),
        *world.away(study, fated, how.maintenance, stand, horizon_s),
        *world.stragglers(fated),
        world.rows(st.CANCEL, asked["until_s"][wanted], first + wanted),
    ]
    return Scenario(
        scene=Scene(
            state=state,
            life=life,
            world=world.in_order(rows),
            horizon_s=horizon_s,
            policy=policies.POLICIES[policy] if isinstance(policy, str) else policy,
            every_s=policies.EVERY_S.get(policy, 0.0) if isinstance(policy, str) else 0.0,
            carbon_g_per_j=told.carbon_g_per_j.min(axis=0),
            flop_per_work=np.array([kind.flop_per_work for kind in every]),
        ),
        name=blueprint.name,
        currency=blueprint.currency,
        start_unix_s=told.start_unix_s,
        horizon_s=horizon_s,
        seed=seed,
        policy=_said(policy),
        sites=sites,
        tenants=tuple(names),
        weights=tuple(one.weight for one in tenants),
        quotas=tuple(one.quota for one in tenants),
        pools=stand,
        kinds=tuple(every),
        job_names=[job.spec.name for job in plan.jobs] + _names(blueprint, asked),
        hours=told,
        power_w=tuple(site.power_w * site.count for site in blueprint.sites.values()),
        caps=caps,
        curtailments=tuple(floor.curtailments(blueprint)),
        batteries=tuple(floor.batteries(blueprint)),
        study=study if study.classes else None,
        fate=fated,
        loads=demand.loads(blueprint, horizon_s, seed),
        replica_tokens_per_s={
            name: demand.replica(blueprint, name).rate
            for name, stream in blueprint.streams.items()
            if stream.kind == "serve"
        },
        assumptions=ASSUMPTIONS if blueprint.streams else (),
    )


def of_plan(plan: Plan, seed: int) -> Scenario:
    """The plan's jobs on a day when nothing fails, until all have ended and services answer.

    The works counts a busy chip at the meter and no idle one. Here both draw, and the cap is set
    so that as many chips may be busy as there; on a site of several pools rather fewer.
    """
    tables = plan.tables()
    sites = tuple(plan.sites)
    machine = plan.measured.machine
    stand = floor.pools(plan.places, sites, machine, {}, {})
    tenants = [Tenant(*share) for share in tables.get("tenants", ())]
    tenants = tenants or [Tenant(name) for name in plan.tenants]
    names = [one.name for one in tenants]
    # A place's own PUE: of all its pools the same.
    pue = {pool.site: _pue(plan, pool) for pool in stand}
    every = list(kinds.of_jobs(plan.jobs, names, stand, pue.__getitem__))
    # What a busy chip adds, and its share of what the works counts for it.
    added_w = [(w.chip_w - w.idle_w) / pue[p.site] for w, p in zip(plan.places, stand, strict=True)]
    shares = dict.fromkeys(sites, 1.0)
    for where, watts in zip(plan.places, added_w, strict=True):
        shares[where.site] = min(shares[where.site], watts / where.chip_w)
    likes = [_ranks(job.pools, stand) for job in plan.jobs]

    state = st.empty(
        [_mw(power_w * shares[site]) + 1 for site, power_w in plan.sites.items()],
        [(pool.site, tables.get("spares", 0)) for pool in stand],
        rows_of(tenants),
    )
    state = _with_kinds(
        floor.nodes(state, stand), every, [[*map(_mw, added_w)]] * len(every), likes
    )
    policy = tables.get("policy", "fifo")
    _rule(state, policy, tables.get("rules", {}))
    state, life = with_jobs(state, len(plan.jobs))
    draws = _drawn(plan.jobs, seed)
    state = _plan_rows(state, life, plan.jobs, every, draws)

    # One after the other they would take so long.
    longest_s = sum(overhead_s + work_s for overhead_s, work_s, _ in draws)
    count = math.ceil(longest_s / HOUR_S) + 1
    carbon = {where.site: where.carbon_g_per_j for where in plan.places}
    start = np.datetime64(date.fromisoformat(plan.start)).astype("M8[s]").astype(np.int64)
    nothing = np.zeros((len(sites), count))
    told = Hours(
        start_unix_s=float(start),
        carbon_g_per_j=nothing + np.array([[carbon.get(site, 0.0)] for site in sites]),
        price_per_j=nothing,
        pue=nothing + np.array([[pue.get(site, 1.0)] for site in range(len(sites))]),
        wue_l_per_j=nothing,
    )
    nodes = int(state.counts[st.NODES])
    return Scenario(
        scene=Scene(
            state=state,
            life=life,
            world=world.rows(st.JOIN, 0.0, np.arange(nodes)),
            horizon_s=count * HOUR_S,
            policy=policies.POLICIES[policy],
            every_s=policies.EVERY_S.get(policy, 0.0),
        ),
        name=plan.name,
        currency=plan.currency,
        start_unix_s=told.start_unix_s,
        horizon_s=count * HOUR_S,
        seed=seed,
        policy=policy,
        sites=sites,
        tenants=tuple(names),
        weights=tuple(one.weight for one in tenants),
        quotas=tuple(one.quota for one in tenants),
        pools=stand,
        kinds=tuple(every),
        job_names=[job.spec.name for job in plan.jobs],
        hours=told,
        power_w=tuple(plan.sites.values()),
        caps=tuple([(0.0, w / pue.get(s, 1.0))] for s, w in enumerate(plan.sites.values())),
        curtailments=((),) * len(sites),
        batteries=(None,) * len(sites),
        study=None,
        fate=np.zeros(0, fate.FATE),
    )


def _with_kinds(
    state: st.State,
    every: Sequence[Kind],
    chip_mw: Sequence[Sequence[int]],
    likes: Sequence[Floats],
) -> st.State:
    for kind, watts, liked in zip(every, chip_mw, likes, strict=True):
        state = st.add_kind(
            state, kind.widths, np.array(kind.rates), np.array(watts), liked, kind.overhead_s
        )
    return state


def _rule(state: st.State, policy: POLICY, rules: dict[str, float]) -> None:
    implied = policies.RULES.get(policy, {}) if isinstance(policy, str) else {}
    for name, value in {**implied, **rules}.items():
        state.rules[name] = value


def _likes(kind: Kind, stand: Sequence[Pool], told: Hours, policy: str) -> Floats:
    """Pools by what a unit of work costs there: lowest first, inf where it may not run.

    Money for the chip and its energy; under `carbon` gCO2e, under `goodput-per-watt` J. Energy is
    at the meter, at the mean of the hours.
    """
    site = [pool.site for pool in stand]
    busy_w = np.array(kind.busy_w)
    rent = np.array([pool.price_chip_s for pool in stand])
    chip_s = {
        "carbon": busy_w * (told.pue * told.carbon_g_per_j).mean(axis=1)[site],
        "goodput-per-watt": busy_w * told.pue.mean(axis=1)[site],
    }.get(policy, rent + busy_w * (told.pue * told.price_per_j).mean(axis=1)[site])
    rates = np.array(kind.rates[-1])
    costs = np.where(kind.allowed, chip_s / np.where(kind.allowed, rates, 1.0), np.inf)
    ranks = np.full(len(stand), np.inf)
    order = np.argsort(costs, kind="stable")[: int(kind.allowed.sum())]
    ranks[order] = np.arange(len(order))  # No two alike, so that one after the other is tried.
    return ranks


def _ranks(best_first: Sequence[str], stand: Sequence[Pool]) -> Floats:
    place = {name: float(rank) for rank, name in enumerate(best_first)}
    return np.array([place.get(pool.name, np.inf) for pool in stand])


def _plan_rows(
    state: st.State,
    life: np.ndarray,
    jobs: Sequence[PlannedJob],
    every: Sequence[Kind],
    draws: Sequence[tuple[float, float, float]],
) -> st.State:
    """The planned jobs, all submitted at once, with what stands on what."""
    edges: list[tuple[int, int, bool, int]] = []
    row = {job.spec.name: j for j, job in enumerate(jobs)}
    for j, (job, kind) in enumerate(zip(jobs, every, strict=True)):
        to, spec, serves = state.jobs[j], job.spec, job.spec.kind == "serve"
        overhead_s, work_s, tokens = draws[j]
        to["service"], to["kind"], to["tenant"] = serves, j, kind.tenant
        to["chips"] = to["chips_min"] = spec.work.chips
        to["priority"], to["retries"] = spec.work.priority, spec.work.retries
        to["deadline_s"], to["first_out"], to["first_in"] = np.inf, -1, len(edges)
        if not serves:
            to["work"], to["step_work"] = tokens, tokens / STEPS
            life[j]["luck"] = tokens / work_s / max(kind.rates[-1])
            life[j]["every"] = kind.every * tokens / job.quote.work.value
        life[j]["overhead_s"] = life[j]["restart_s"] = overhead_s
        for name in dict.fromkeys((*spec.after, *spec.work.through)):
            before = state.jobs[row[name]]
            gate = name in spec.work.through
            edges.append((row[name], j, gate, int(before["first_out"])))
            before["first_out"] = len(edges) - 1
            to["ins"] += 1
    state.counts[st.EDGES] = len(edges)
    return state._replace(edges=np.array(edges, st.EDGE) if edges else state.edges)


def _stream_rows(
    blueprint: Blueprint,
    jobs: np.ndarray,
    life: np.ndarray,
    asked: np.ndarray,
    every: Sequence[Kind],
    first_kind: int,
    seed: int,
) -> None:
    """The streams' jobs as they come. Luck is drawn by stream, so that each keeps its own."""
    jobs["retries"] = RETRIES
    for name in ("chips", "chips_min", "priority", "work"):
        jobs[name] = asked[name]
    jobs["step_work"] = asked["work"] / STEPS
    jobs["deadline_s"] = np.inf
    life["submit_s"] = asked["submit_s"]
    for number, name in enumerate(blueprint.streams):
        all_its = np.flatnonzero(asked["stream"] == number)
        own = np.random.default_rng([seed, *name.encode()])
        normal = own.standard_normal(len(all_its))
        for k, kind in enumerate(every):
            if kind.stream != name:
                continue
            mine = np.ones(len(all_its), bool)
            if kind.kind == "train":
                mine = asked["chips"][all_its] == kind.chips
            its = all_its[mine]
            jobs["kind"][its], jobs["tenant"][its] = first_kind + k, kind.tenant
            jobs["service"][its] = kind.kind == "serve"
            jobs["chips_min"][its] = np.maximum(jobs["chips_min"][its], kind.chips_min)
            fastest = max(kind.rates[-1]) * (1 if kind.widths else asked["chips"][its])
            takes_s = kind.overhead_s + asked["work"][its] / fastest
            slack = asked["slack"][its]
            due_s = asked["submit_s"][its] + slack * takes_s
            jobs["deadline_s"][its] = np.where(slack > 0, due_s, np.inf)
            life["overhead_s"][its], life["restart_s"][its] = kind.overhead_s, kind.restart_s
            life["write_s"][its], life["every"][its] = kind.write_s, kind.every
            life["luck"][its] = np.exp(math.log(kind.luck) / Z_OF_RANGE * normal[mine])


def _names(blueprint: Blueprint, asked: np.ndarray) -> list[str]:
    """Each job's stream and its number in it, from 1."""
    streams = list(blueprint.streams)
    number = np.zeros(len(asked), np.int64)
    for s in range(len(streams)):
        its = asked["stream"] == s
        number[its] = np.arange(1, its.sum() + 1)
    pairs = zip(asked["stream"].tolist(), number.tolist(), strict=True)
    return [f"{streams[s]}-{n}" for s, n in pairs]


def _drawn(jobs: Sequence[PlannedJob], seed: int) -> list[tuple[float, float, float]]:
    """(overhead_s, work_s, tokens) that each job turns out to take, within its quote's ranges."""
    rng = np.random.default_rng(seed)
    quotes = [job.quote for job in jobs]
    return [
        (_draw(one.overhead_s, rng), _draw(one.work_s, rng), max(1, round(_draw(one.work, rng))))
        for one in quotes
    ]


def _draw(figure: Figure, rng: np.random.Generator) -> float:
    """A figure, log-normal about its value: a time may double, but never be negative."""
    if figure.high <= figure.low:
        return figure.value
    sigma = math.log(figure.high / figure.low) / 2 / Z_OF_RANGE
    return figure.value * math.exp(rng.normal(0.0, sigma))


def _pue(plan: Plan, pool: Pool) -> float:
    """The plan's own: what an idle chip draws at the meter over what its machine does."""
    return plan.where(pool.name).idle_w / pool.idle_w if pool.idle_w else 1.0


def _mw(watts: float) -> int:
    return round(watts * 1e3)


def _said(policy: POLICY) -> str:
    return policy if isinstance(policy, str) else policy.__name__
