"""The plan: every job quoted and placed, and the tables from which the factory runs.

A plan is data and carries the hashes of what it was made from; the same blueprint, catalog
and measurements give the same plan to the byte.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from gigafactory.blueprint.schema import (
    AnyWorkload,
    Blueprint,
    Evaluate,
    Finetune,
    JobSpec,
    Model,
    Pretrain,
    PriceChange,
    Prices,
    Serve,
)
from gigafactory.blueprint.worlds import LearnDetector, LearnPolicy, Synthesize, World
from gigafactory.faults import Fault, Refused
from gigafactory.plan.measured import Measured
from gigafactory.plan.quote import Frozen, Quote, Where, in_currency, place, price
from gigafactory.stack import chips, facts, law, models


class PlannedJob(Frozen):
    """A job with its quote, the place chosen for it, and what was not chosen."""

    spec: JobSpec
    quote: Quote
    pools: tuple[str, ...]
    """Where it may run, best first."""
    rejected: tuple[str, ...] = ()
    reference: Quote | None = None
    start_s: float = 0.0
    end_s: float = 0.0

    def submission(self) -> dict[str, Any]:
        """What the event says with which the job is accepted."""
        work = self.spec.work
        return {
            "job": self.spec.name,
            "tenant": work.tenant,
            "kind": work.kind,
            "chips": work.chips,
            "chips_min": work.chips_min if isinstance(work, Pretrain) else None,
            "pools": self.pools,
            "priority": work.priority,
            "retries": work.retries,
            "service": work.kind == "serve",
            "after": self.spec.after,
            "through": work.through,
            # Nobody knows how long a service runs.
            "expected_s": 0.0 if work.kind == "serve" else self.quote.duration_s.value,
            "spec": self.spec.model_dump(mode="json"),
            "quote": self.quote.model_dump(mode="json"),
        }


class Share(NamedTuple):
    """A tenant as the core takes it: chips of quota and loan, None for no limit."""

    name: str
    weight: float
    quota: int | None
    borrow: int | None
    cohort: str


class Plan(BaseModel):
    """Decisions, quotes, reasons and tables. Times are seconds from the start of the run."""

    name: str
    currency: str
    blueprint_hash: str
    catalog_hash: str
    measured_hash: str
    start: str
    owner: str
    tenants: list[str]
    sites: dict[str, float]
    """Power cap of each, W."""
    places: list[Where]
    jobs: list[PlannedJob]
    token_prices: dict[str, float]
    """Money per `input` and `output` token."""
    token_price_changes: list[tuple[str, dict[str, float]]] = []
    """(day, the same from that day on, UTC)."""
    measured: Measured
    blueprint: dict[str, Any]

    @property
    def hash(self) -> str:
        """Identity of the plan."""
        return _hash(self.model_dump(mode="json"))

    @property
    def time_to_first_token_s(self) -> float | None:
        """When the first service answers, or None without one."""
        first = self._first_service()
        return None if first is None else first.end_s

    @property
    def first_acts(self) -> bool:
        """Whether the first service answers with actions or boxes, and so with no token."""
        first = self._first_service()
        return first is not None and acts(first.spec.name, {j.spec.name: j for j in self.jobs})

    def _first_service(self) -> PlannedJob | None:
        services = (job for job in self.jobs if job.spec.kind == "serve")
        return min(services, key=lambda job: job.end_s, default=None)

    def tables(self) -> dict[str, Any]:
        """What the factory core needs: sites with caps, pools with draws, tenants, policy.

        A plan made before there were operations has none of the last, and keeps the core's own.
        """
        said = self.blueprint.get("operations")
        tables = {
            "sites": list(self.sites.items()),
            "pools": [(where.pool, where.site, where.chip_w) for where in self.places],
        }
        if said is None:
            return tables
        return tables | {
            "tenants": [
                Share(name, of["weight"], of["quota"], of["borrow"], of["cohort"] or "")
                for name, of in self.blueprint["tenants"].items()
            ],
            "policy": said["policy"],
            "rules": {
                "elastic": True,
                **{name: said[name] for name in ("backfill", "preempt_after_s", "lemons")},
            },
            "spares": said["spares"],
        }

    def nodes(self) -> dict[str, tuple[str, int]]:
        """Pool and chips of every node, by name."""
        return {
            f"{where.pool}-{number}": (where.pool, where.chips_per_node)
            for where in self.places
            for number in range(1, where.nodes + 1)
        }

    def job(self, name: str) -> PlannedJob:
        """The planned job of that name."""
        return next(job for job in self.jobs if job.spec.name == name)

    def where(self, pool: str) -> Where:
        """The place of that pool name."""
        return next(where for where in self.places if where.pool == pool)


def make(blueprint: Blueprint, measured: Measured | None = None) -> Plan:
    """Plan a blueprint. Raises `Refused` with a reason for every job that fits nowhere.

    Streams have no jobs yet: their plan is the places.
    """
    measured = measured or Measured()
    if not blueprint.workloads and (blueprint.design or not blueprint.streams):
        what, why = "nothing is there to run", "this blueprint states a design, and no workloads"
        hint = f"`gigafactory plan {blueprint.name}` designs it"
        raise Refused(Fault(what, "workloads", why, hint))
    places = _places(blueprint, measured)
    jobs: list[PlannedJob] = []
    faults: list[Fault] = []
    for name, work in _in_order(blueprint.workloads).items():
        try:
            jobs.append(_plan_job(blueprint, resolve(blueprint, name, work), places, measured))
        except Refused as refused:
            faults += refused.faults
    if faults:
        raise Refused(*faults)
    return Plan(
        name=blueprint.name,
        currency=blueprint.currency,
        # What a later version adds, and the file leaves out, makes no other blueprint of it.
        blueprint_hash=_hash(blueprint.model_dump(mode="json", exclude_defaults=True)),
        catalog_hash=facts.catalog_hash(),
        measured_hash=_hash(measured.model_dump(mode="json")),
        start=blueprint.start.isoformat(),
        owner=blueprint.owner,
        tenants=sorted(blueprint.tenants),
        sites={name: site.power_w for name, site in blueprint.sites.items()},
        places=places,
        jobs=_timeline(jobs, places),
        token_prices=_token_prices(blueprint, blueprint.prices),
        token_price_changes=_token_price_changes(blueprint),
        measured=measured,
        blueprint=blueprint.model_dump(mode="json"),
    )


def submit(blueprint: Blueprint, name: str, work: AnyWorkload, measured: Measured) -> PlannedJob:
    """Plan one more job for a factory that already runs."""
    places = _places(blueprint, measured)
    return _plan_job(blueprint, resolve(blueprint, name, work), places, measured)


def acts(service: str, known: Mapping[str, PlannedJob]) -> bool:
    """Whether a service is of a policy or a detector: it answers, but has no tokens."""
    made = known.get(getattr(known[service].spec.work, "of", ""))
    return made is not None and isinstance(made.spec.work, LearnDetector | LearnPolicy)


def _places(blueprint: Blueprint, measured: Measured) -> list[Where]:
    """Every pool of the blueprint, priced."""
    return [
        place(blueprint, site, system, nodes, measured)
        for site, at in blueprint.sites.items()
        for system, nodes in at.systems.items()
    ]


def resolve(blueprint: Blueprint, name: str, work: AnyWorkload) -> JobSpec:
    """A workload as a job: model and world looked up, so that nothing else need be known."""
    trained = blueprint.workloads[work.of] if isinstance(work, Evaluate | Serve) else work
    model = None
    if isinstance(trained, Pretrain | Finetune):
        source = blueprint.models[trained.model]
        config = source.config
        if isinstance(config, str):
            config = models.shipped_config(config)
        model = Model(name=trained.model, config=config, weights=source.weights)
    world = getattr(work, "world", None)
    return JobSpec(
        name=name,
        work=work,
        model=model,
        world=_world(world, blueprint.worlds[world]) if world else None,
        pixels=_pixels(blueprint, work) if isinstance(work, LearnDetector) else None,
    )


def _world(name: str, world: World) -> dict[str, Any]:
    """A world as its jobs get it; a file is known by its content, not by its path."""
    ranges = {key: [low, high] for key, (low, high) in world.ranges.items()}
    if world.file is None:
        return {"name": name, "scene": world.scene, "ranges": ranges}
    try:
        content = Path(world.file).read_bytes()
    except OSError as error:
        what, hint = f"world {name!r} cannot be read", "put the file back"
        raise Refused(Fault(what, f"worlds.{name}.file", str(error), hint)) from None
    sha256 = hashlib.sha256(content).hexdigest()
    told = {"name": name, "file": world.file, "sha256": sha256}
    return told | {"ranges": ranges} if ranges else told


def _pixels(blueprint: Blueprint, work: LearnDetector) -> int:
    """Of a frame that it learns from; all are alike."""
    of = blueprint.workloads[work.of[0]]
    assert isinstance(of, Synthesize), "a detector learns from frames"
    return of.width * of.height


def _plan_job(
    blueprint: Blueprint, spec: JobSpec, places: list[Where], measured: Measured
) -> PlannedJob:
    allowed = [w for w in places if spec.work.sites is None or w.site in spec.work.sites]
    quotes: list[Quote] = []
    reasons: list[str] = []
    for where in allowed:
        chip = chips.system(where.system, measured.machine).chip
        quote = price(spec, where, chip, measured)
        least = _least(spec, where, chip, measured) or quote
        if why := _refusal(blueprint, spec, where, chip, least):
            reasons.append(f"{where.pool}: {why}")
        else:
            quotes.append(quote)
    if not quotes:
        raise Refused(_no_place(spec, allowed, reasons))
    quotes.sort(key=lambda quote: (quote.duration_s.value, quote.money.value, quote.pool))
    best = quotes[0]
    slower = [
        f"{quote.pool}: {quote.duration_s.value / best.duration_s.value:.1f} times as long"
        for quote in quotes[1:]
    ]
    return PlannedJob(
        spec=spec,
        quote=best,
        pools=tuple(quote.pool for quote in quotes),
        rejected=(*reasons, *slower),
        reference=_reference(blueprint, spec, measured),
    )


def _least(spec: JobSpec, where: Where, chip: chips.Chip, measured: Measured) -> Quote | None:
    """The quote on the fewest chips of an elastic job: there it needs the most memory on each."""
    if not isinstance(spec.work, Pretrain) or spec.work.chips_min is None:
        return None
    return price(spec, where, chip, measured, spec.work.chips_min)


def _refusal(
    blueprint: Blueprint, spec: JobSpec, where: Where, chip: chips.Chip, quote: Quote
) -> str | None:
    """Why a job cannot run in a place, or None."""
    if (why := _unlawful(blueprint, where, chip)) is not None:
        return why
    if spec.work.chips > where.chips:
        return f"it has {where.chips} chips, {spec.work.chips} are asked for"
    if not isinstance(spec.work, Pretrain) and spec.work.chips > where.chips_per_node:
        return f"a node has {where.chips_per_node} chips, and one process cannot span nodes"
    draw_w, cap_w = where.chip_w * spec.work.chips, blueprint.sites[where.site].power_w
    if draw_w > cap_w:
        return f"it would draw {draw_w:.0f} W, the site has {cap_w:.0f} W"
    if quote.memory_bytes_per_chip > chip.memory_bytes:
        needed, has = quote.memory_bytes_per_chip / 1e9, chip.memory_bytes / 1e9
        return f"it needs {needed:.1f} GB a chip, there are {has:.1f} GB"
    return None


def _unlawful(blueprint: Blueprint, where: Where, chip: chips.Chip) -> str | None:
    """Why the chip may not stand there, or None. This machine stands where it stands."""
    if where.system == chips.THIS_MACHINE:
        return None
    country = blueprint.sites[where.site].country
    ruling = law.judge(law.Question(chip, country, blueprint.owner, blueprint.start))
    if ruling.may_stand:
        return None
    verdict = ruling.strictest
    outcome = verdict.outcome.replace("_", " ")
    missing = f", {', '.join(verdict.missing)} missing" if verdict.missing else ""
    by = verdict.rule_id + missing
    return f"{chip.name} in {country} for {blueprint.owner}: {outcome} ({by})"


def _no_place(spec: JobSpec, allowed: list[Where], reasons: list[str]) -> Fault:
    most = max((where.chips for where in allowed), default=0)
    remedy = "raise the site's power, take a smaller model, or choose another site or system"
    if spec.work.chips > most:
        remedy = f"ask for {most} chips at most, or add nodes to the site"
    return Fault(
        f"{spec.name!r} fits nowhere",
        f"workloads.{spec.name}",
        "; ".join(reasons) or "it may run at no site",
        remedy,
    )


def _reference(blueprint: Blueprint, spec: JobSpec, measured: Measured) -> Quote | None:
    """The same job on one node of the reference system, at the blueprint's first site.

    Pretraining a language model takes the whole node; the rest takes one chip.
    """
    if blueprint.reference is None:
        return None
    rented = blueprint.model_copy(
        update={"prices": blueprint.prices.model_copy(update={"chip_s": None, "changes": ()})}
    )
    where = place(rented, next(iter(blueprint.sites)), blueprint.reference, 1, measured)
    chip = chips.system(where.system, measured.machine).chip
    count = where.chips if isinstance(spec.work, Pretrain) else 1
    return price(spec, where, chip, measured, count)


def _timeline(jobs: list[PlannedJob], places: list[Where]) -> list[PlannedJob]:
    """When each job would start and end: in order, each as soon as what it needs is there.

    A job holds its chips to its end, a service for ever; no failures. The twin tells more.
    """
    free_at = {where.pool: [0.0] * where.chips for where in places}
    ends: dict[str, float] = {}
    timed = []
    for job in jobs:
        chips_at = sorted(free_at[job.quote.pool])
        count = job.spec.work.chips
        ready = max((ends[name] for name in job.spec.after if name in ends), default=0.0)
        start = max(ready, chips_at[count - 1])
        end = start + job.quote.duration_s.value
        held_until = float("inf") if job.spec.kind == "serve" else end
        free_at[job.quote.pool] = [held_until] * count + chips_at[count:]
        ends[job.spec.name] = end
        timed.append(job.model_copy(update={"start_s": start, "end_s": end}))
    return timed


def _in_order(workloads: Mapping[str, AnyWorkload]) -> dict[str, AnyWorkload]:
    """Workloads as written, each after all that it stands on."""
    ordered: dict[str, AnyWorkload] = {}

    def visit(name: str) -> None:
        if name not in ordered:
            work = workloads[name]
            for before in (*work.needs, *work.after, *work.through):
                visit(before)
            ordered[name] = work

    for name in workloads:
        visit(name)
    return ordered


def _token_prices(blueprint: Blueprint, stated: Prices | PriceChange) -> dict[str, float]:
    prices = {"input": stated.input, "output": stated.output}
    return {name: in_currency(blueprint, p) if p else 0.0 for name, p in prices.items()}


def _token_price_changes(blueprint: Blueprint) -> list[tuple[str, dict[str, float]]]:
    """Both token prices from each day on; what a change leaves out stays as it was."""
    changes, prices = [], _token_prices(blueprint, blueprint.prices)
    for change in sorted(blueprint.prices.changes, key=lambda change: change.since):
        stated = _token_prices(blueprint, change)
        prices = {name: stated[name] if getattr(change, name) else prices[name] for name in prices}
        changes.append((change.since.isoformat(), prices))
    return changes


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
