"""A job's price before it runs: time, tokens, energy, carbon, money, each with a range.

Where jobs of the same shape have run here, the quote is what they took, scaled by size;
elsewhere it is modelled by `stack.performance`, with the wider range that models deserve.
"""

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from gigafactory.blueprint.schema import (
    Blueprint,
    Evaluate,
    Finetune,
    JobSpec,
    Pretrain,
    Script,
    Serve,
    Site,
)
from gigafactory.blueprint.worlds import LearnDetector, LearnPolicy, Rollout, Synthesize
from gigafactory.plan.measured import Measured
from gigafactory.stack import chips, facts, models, money, performance, sites
from gigafactory.units import Money

MODELLED_SPREAD = 0.9  # our models of small jobs have been off by up to that: docs/numbers.md
J_PER_KWH = 3.6e6
ASSUMED_SPREAD = 2.0  # somebody's word on how long a command takes: a third of it to three times
Basis = Literal["measured", "modelled", "assumed"]


class Frozen(BaseModel):
    """A record that never changes."""

    model_config = ConfigDict(frozen=True)


class Figure(Frozen):
    """A number with its range and where it comes from."""

    value: float
    low: float
    high: float
    basis: Basis

    def times(self, factor: float) -> "Figure":
        """The figure in another unit, or at another price."""
        return Figure(
            value=self.value * factor,
            low=self.low * factor,
            high=self.high * factor,
            basis=self.basis,
        )


class Layout(Frozen):
    """How a job lies on its chips."""

    chips: int
    ranks: int
    threads: int
    parallel: Literal["fsdp", "threads", "engine"]


class Where(Frozen):
    """A place a job may run: chips of one system at one site, with what they cost there."""

    pool: str
    site: str
    system: str
    nodes: int
    chips_per_node: int
    chip_w: float
    """Draw of one busy chip at the meter: its share of the node, times PUE."""
    idle_w: float
    """The same while it does nothing."""
    carbon_g_per_j: float
    price_chip_s: float
    """Money for a chip held for a second, in the blueprint's currency."""
    pue: float = 1.0
    """What the draws are times that of the machines alone."""
    carbon_changes: tuple[tuple[str, float], ...] = ()
    """(day, gCO2e/J) from that day on, UTC."""
    price_changes: tuple[tuple[str, float], ...] = ()
    """(day, money for a chip-second) from that day on, UTC."""

    @property
    def chips(self) -> int:
        """Chips in the pool."""
        return self.nodes * self.chips_per_node


class Quote(Frozen):
    """What one job will take in one place."""

    job: str
    pool: str
    system: str
    layout: Layout
    shape: str
    size: float
    unit: str = "tokens"
    """Of `size`: tokens, frames, steps, episodes, examples, run."""
    overhead_s: Figure
    work_s: Figure
    duration_s: Figure
    """Of a service: until it answers."""
    tokens: Figure
    energy_kwh: Figure
    carbon_g: Figure
    money: Figure
    memory_bytes_per_chip: float
    reason: str

    @property
    def work(self) -> Figure:
        """Tokens; of a job that has none, its size."""
        size = Figure(value=self.size, low=self.size, high=self.size, basis=self.tokens.basis)
        return self.tokens if self.tokens.value else size


def price(
    spec: JobSpec, where: Where, chip: chips.Chip, measured: Measured, count: int | None = None
) -> Quote:
    """The quote of a job on `count` chips (those it asks for by default) of a place."""
    count = count or spec.work.chips
    layout = _layout(spec, chip, count)
    work = _foreseen(spec, chip, layout)
    name = shape(spec, where.system, count)
    seen = measured.like(name)
    if seen:
        overhead_s = _range(seen.overhead_s, seen.spread, "measured")
        work_s = _range(seen.s_per_size * work.size, seen.spread, "measured")
        tokens = _range(seen.tokens_per_size * work.size, 0.02, "measured")
        power_w, spread = seen.power_w, seen.spread
        reason = f"measured on {seen.count} earlier run{'s' * (seen.count > 1)}"
    else:
        basis = work.basis
        spread = ASSUMED_SPREAD if basis == "assumed" else MODELLED_SPREAD
        overhead_s = _range(work.overhead_s, spread, basis)
        work_s = _range(work.work_s, spread, basis)
        tokens = _range(work.tokens, 0.0 if work.exact else 0.25, basis)
        power_w, reason = where.chip_w * count, work.reason
    duration_s = _range(overhead_s.value + work_s.value, spread, overhead_s.basis)
    energy_kwh = duration_s.times(power_w / J_PER_KWH).model_copy(update={"basis": "modelled"})
    return Quote(
        job=spec.name,
        pool=where.pool,
        system=where.system,
        layout=layout,
        shape=name,
        size=work.size,
        unit=work.unit,
        overhead_s=overhead_s,
        work_s=work_s,
        duration_s=duration_s,
        tokens=tokens,
        energy_kwh=energy_kwh,
        carbon_g=energy_kwh.times(J_PER_KWH * where.carbon_g_per_j),
        money=duration_s.times(count * where.price_chip_s),
        memory_bytes_per_chip=work.memory_bytes_per_chip,
        reason=reason,
    )


def place(
    blueprint: Blueprint, site_name: str, system_name: str, nodes: int, measured: Measured
) -> Where:
    """A system at a site of the blueprint, with power, carbon and price filled in."""
    site = blueprint.sites[site_name]
    system = chips.system(system_name, measured.machine)
    pue, carbon_g_per_j = _local(site)
    overhead_w = system.node_overhead_w / system.chips_per_node
    return Where(
        pool=f"{site_name}/{system_name}",
        site=site_name,
        system=system_name,
        nodes=nodes,
        chips_per_node=system.chips_per_node,
        chip_w=(system.chip.busy_w + overhead_w) * pue,
        idle_w=(system.chip.idle_w + overhead_w) * pue,
        carbon_g_per_j=carbon_g_per_j,
        price_chip_s=_chip_price(blueprint, system.chip),
        pue=pue,
        carbon_changes=tuple(
            (change.since.isoformat(), change.carbon_g_per_j) for change in site.carbon_changes
        ),
        price_changes=tuple(
            (change.since.isoformat(), in_currency(blueprint, change.chip_s))
            for change in blueprint.prices.changes
            if change.chip_s
        ),
    )


def shape(spec: JobSpec, system: str, count: int) -> str:
    """Hash of what makes two jobs alike: all of the work but its length, name, owner and order."""
    size = {"tokens", "steps", "tenant", "sites", "after", "through", "of", "priority", "retries"}
    size |= {"frames", "episodes", "start", "layouts", "world", "against"}
    said = {"expects_s", "time_s", "limits", "chips_min", "replicas_min", "replicas_max", "idle_s"}
    if spec.world:
        size.add("examples")
    work = spec.work.model_dump(
        mode="json", exclude=size | said | {"seed", "gate", "prompt", "chips"}
    )
    model = [spec.model.config, spec.model.weights] if spec.model else [None, None]
    what: list[Any] = [work, *model, system, count]
    world = {k: v for k, v in (spec.world or {}).items() if k not in ("name", "file")}
    if world or spec.pixels:
        what.append([world, spec.pixels, bool(getattr(spec.work, "against", None))])
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


class _Work(Frozen):
    """What a model of the job says: its size in `unit`, seconds and memory."""

    size: float
    unit: str = "tokens"
    basis: Basis = "modelled"
    tokens: float
    exact: bool
    overhead_s: float
    work_s: float
    memory_bytes_per_chip: float
    reason: str


def _foreseen(spec: JobSpec, chip: chips.Chip, layout: Layout) -> _Work:
    """A job before any like it has run: a command by its owner's word, the rest modelled."""
    if isinstance(spec.work, Script):
        return _Work(
            size=1.0,
            unit="run",
            basis="assumed",
            tokens=0.0,
            exact=True,
            overhead_s=0.0,
            work_s=spec.work.expects_s,
            memory_bytes_per_chip=0.0,
            reason="assumed: as its owner expects",
        )
    if spec.model is None:
        return _physical(spec, chip, layout.chips)
    return _modelled(spec, models.read(spec.model.config), chip, layout)


def _modelled(spec: JobSpec, model: models.Model, chip: chips.Chip, layout: Layout) -> _Work:
    """The job by the roofline of `stack.performance`."""
    work, count = spec.work, layout.chips
    weights_bytes = 4.0 * model.parameters
    gang_s = performance.gang_start_s() if layout.parallel == "fsdp" else 0.0
    exact = isinstance(work, Pretrain)
    if isinstance(work, Pretrain):
        step = performance.train(
            model,
            chip,
            count,
            work.sequence,
            work.batch_tokens,
            work.precision,
            ranks=layout.ranks,
        )
        steps = -(-int(work.tokens) // work.batch_tokens)
        tokens, work_s = float(steps * work.batch_tokens), steps * step.step_s
        memory_bytes, weights_bytes = step.memory_bytes_per_chip, 0.0
        reason = f"{steps} steps of {work.batch_tokens} tokens at {step.mfu:.0%} MFU"
    elif isinstance(work, Finetune):
        length = _of_task(work.data, "example_tokens")
        step = performance.train(
            model,
            chip,
            count,
            length,
            work.batch * length,
            "bfloat16",
            "lora",
            rank=work.rank,
            ranks=layout.ranks,
        )
        tokens, work_s = float(work.steps * work.batch * length), work.steps * step.step_s
        memory_bytes = step.memory_bytes_per_chip
        reason = f"{work.steps} steps of {work.batch} examples at {step.mfu:.0%} MFU"
    elif isinstance(work, Evaluate) and work.suite == "tool_calls":
        prompt, new = _of_task("warehouse", "prompt_tokens"), _of_task("warehouse", "answer_tokens")
        at_once = _of_task("warehouse", "answers_at_once")
        answers = performance.generate(model, chip, count, prompt, new, at_once)
        batches = 2 * -(-work.examples // at_once)
        tokens, work_s = float(2 * work.examples * (prompt + new)), batches * answers.total_s
        memory_bytes = answers.memory_bytes_per_chip
        reason = f"{work.examples} answers before and {work.examples} after"
    elif isinstance(work, Evaluate):
        held_out = _of_task("stdlib", "held_out_tokens")
        scoring = performance.score(model, chip, count, 256, held_out, "float32")
        tokens, work_s = float(held_out), scoring.total_s
        memory_bytes = scoring.memory_bytes_per_chip
        reason = f"{held_out:,} held-out tokens"
    else:
        tokens = work_s = 0.0
        memory_bytes = performance.generate(model, chip, count, 1024, 64).memory_bytes_per_chip
        reason = "until it answers"
    return _Work(
        size=tokens,
        tokens=tokens,
        exact=exact,
        overhead_s=performance.load_s(weights_bytes) + gang_s,
        work_s=work_s,
        memory_bytes_per_chip=memory_bytes,
        reason=f"modelled: {reason}",
    )


def _physical(spec: JobSpec, chip: chips.Chip, count: int) -> _Work:
    """A job of worlds, frames, detectors and policies, by rates of each in `performance`."""
    work, scene = spec.work, (spec.world or {}).get("scene") or "file"
    arms = 2 if getattr(work, "against", None) else 1
    if isinstance(work, Synthesize):
        pixels = work.width * work.height
        took = performance.synthesize(scene, chip, count, work.frames, pixels, len(work.formats))
        size, unit = work.frames, "frames"
    elif isinstance(work, Rollout):
        took = performance.rollout(scene, chip, count, work.episodes, work.video)
        size, unit = work.episodes, "episodes"
    elif isinstance(work, LearnDetector):
        assert spec.pixels, "a detector learns from frames"
        took = performance.learn_detector(chip, count, work.steps * work.batch, spec.pixels)
        size, unit = work.steps, "steps"
    elif isinstance(work, LearnPolicy):
        if work.world:
            took = performance.practise(scene, chip, count, work.steps)
        else:
            took = performance.imitate(chip, count, work.steps)
        size, unit = work.steps, "steps"
    elif isinstance(work, Evaluate):
        judge = {
            "detection": performance.judge_detector,
            "closed_loop": performance.judge_policy,
            "falsification": performance.falsify,
        }[work.suite]
        took = judge(scene, chip, count, work.examples, arms)
        size, unit = work.examples, "examples"
    else:
        took, size, unit = performance.answer(chip, count), 0, "tokens"
    return _Work(
        size=size,
        unit=unit,
        basis="modelled" if took.own else "assumed",
        tokens=0.0,
        exact=True,
        overhead_s=performance.load_s(0.0),
        work_s=took.work_s,
        memory_bytes_per_chip=took.memory_bytes_per_chip,
        reason=f"{'modelled' if took.own else 'assumed'}: {took.reason}",
    )


def _of_task(task: str, quantity: str) -> int:
    return int(facts.by_subject("tasks")[task][quantity].value or 0)


def _layout(spec: JobSpec, chip: chips.Chip, count: int) -> Layout:
    """Training is sharded over all its chips; the rest is one process with threads."""
    if isinstance(spec.work, Pretrain):
        return Layout(chips=count, ranks=count, threads=1, parallel="fsdp")
    return Layout(
        chips=count,
        ranks=1,
        threads=count,
        parallel="engine" if isinstance(spec.work, Serve) else "threads",
    )


def _local(site: Site) -> tuple[float, float]:
    """PUE and gCO2e/J of a site: the blueprint's word, else the catalog's."""
    if site.pue is not None and site.carbon_g_per_j is not None:
        return site.pue, site.carbon_g_per_j
    known = sites.place(site.country)
    carbon_g_per_j = known.carbon_g_per_kwh / J_PER_KWH
    return (
        known.pue if site.pue is None else site.pue,
        carbon_g_per_j if site.carbon_g_per_j is None else site.carbon_g_per_j,
    )


def exchange(blueprint: Blueprint) -> dict[str, float]:
    """What a unit of each currency costs in the blueprint's: its own rates, else the catalog's."""
    catalog = money.rates()
    base = catalog[blueprint.currency]
    stated = blueprint.exchange.rates if blueprint.exchange else {}
    return {**{name: rate / base for name, rate in catalog.items()}, **stated}


def in_currency(blueprint: Blueprint, price: Money) -> float:
    """A price in the blueprint's currency."""
    return money.convert(price.amount, price.currency, blueprint.currency, exchange(blueprint))


def _chip_price(blueprint: Blueprint, chip: chips.Chip) -> float:
    """Money per chip-second: the blueprint's price, else the catalog's rent of the chip."""
    if stated := blueprint.prices.chip_s:
        return in_currency(blueprint, stated)
    rent = money.chip_hour_price(chip.name)
    assert rent.value is not None, f"{chip.name} has no rent"
    return in_currency(blueprint, Money(rent.value, rent.unit.partition("/")[0])) / 3600


def _range(value: float, spread: float, basis: Basis) -> Figure:
    return Figure(value=value, low=value / (1 + spread), high=value * (1 + spread), basis=basis)
