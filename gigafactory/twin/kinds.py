"""Jobs alike: how fast they go at each width in each pool, what they draw, how they checkpoint.

Speeds and powers are the plan's (`plan.widths`, quotes). A stream's training runs are a kind for
each number of chips asked for, since layout and power change with it. Modelled. s, W, FLOP; work
in the kind's unit.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gigafactory.blueprint.schema import Blueprint, Finetune, Pretrain, Workload
from gigafactory.blueprint.streams import AnyStream, ServeStream, TrainStream
from gigafactory.faults import Fault, Refused
from gigafactory.plan import PlannedJob, rates
from gigafactory.plan.widths import Width, widths
from gigafactory.stack import chips, models, performance
from gigafactory.stack.reliability import Study, best_interval_s, mttf_s
from gigafactory.stack.training import Job, flops_per_token
from gigafactory.stack.training.goodput import goodput
from gigafactory.twin import demand
from gigafactory.twin.floor import Pool

Floats = NDArray[np.float64]
WEIGHT_BYTES = 2
"""Per parameter, of what a replica reads when it starts."""


@dataclass(frozen=True)
class Kind:
    """Jobs alike: a stream or a workload. Row `k` of the core's kinds."""

    name: str
    kind: str
    """train, batch, serve, trace, or a workload's kind."""
    tenant: int
    unit: str
    """Of its work: token, chip*s, s, frames, steps, ..."""
    flop_per_work: float
    """Useful FLOP of a unit of work, 0 where unknown."""
    busy_w: tuple[float, ...]
    """Of a busy chip in each pool; machines only, without PUE."""
    stream: str = ""
    """The stream or workload that it belongs to: a stream has a kind for each width asked for."""
    chips: int = 0
    """Asked for; 0 where that differs from job to job."""
    chips_min: int = 0
    """The fewest that fit everywhere it may run; 0 where that is the job's to say."""
    widths: tuple[int, ...] = ()
    """On which it runs; none where work goes with the number of chips."""
    rates: tuple[tuple[float, ...], ...] = ()
    """Work a second at each width, or of a chip, in each pool; 0 where it may not run."""
    overhead_s: float = 0.0
    """From start to work."""
    restart_s: float = 0.0
    """The same after a failure, once that is known."""
    write_s: float = 0.0
    """How long a checkpoint stops the work."""
    every: float = 0.0
    """Work between two, 0 for none."""
    luck: float = 1.0
    """How much faster or slower than its table a run may be: 80 % lie within this factor."""

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """Pools where it may run."""
        return np.array(self.rates[-1]) > 0


def of_streams(
    blueprint: Blueprint, stand: Sequence[Pool], study: Study, lawful: Sequence[bool]
) -> Iterator[Kind]:
    """Every kind of every stream. Raises `Refused` where one could never start."""
    sites, tenants = list(blueprint.sites), list(blueprint.tenants)
    for name, stream in blueprint.streams.items():
        at = stream.allowed(blueprint.sites, blueprint.start)
        found: list[dict[int, Width]] = []
        why: list[str] = []
        for pool, may in zip(stand, lawful, strict=True):
            told: dict[int, Width] = {}
            if not may or sites[pool.site] not in at:
                why.append(f"{pool.name}: {'it may not run there' if may else 'not lawful'}")
            elif isinstance(of := widths(blueprint, stream, chips.system(pool.system)), tuple):
                room = pool.nodes * pool.chips_per_node
                told = {one.chips: one for one in of if one.chips <= room}
                why.append(f"{pool.name}: fits on {', '.join(map(str, told)) or 'no'} chips")
            else:
                why.append(f"{pool.name}: {of.why}")
            found.append(told)
        tenant = tenants.index(stream.tenant)
        for count in sorted(stream.chips) if isinstance(stream, TrainStream) else (None,):
            able = [of if count is None or count in of else {} for of in found]
            if not any(able):
                what = f"{name!r} could never start" + (f" on {count} chips" if count else "")
                hint = "give it another site or system, or other `chips`"
                raise Refused(Fault(what, f"streams.{name}", "; ".join(why), hint))
            if isinstance(stream, TrainStream) and count is not None:
                yield _training(blueprint, name, stream, tenant, count, stand, study, able)
            elif isinstance(stream, ServeStream):
                yield _serving(blueprint, name, stream, tenant, stand, able)
            else:
                yield _running(name, stream, tenant, stand, able)


def of_jobs(
    jobs: Sequence[PlannedJob],
    tenants: Sequence[str],
    stand: Sequence[Pool],
    pue: Callable[[int], float],
) -> Iterator[Kind]:
    """A kind for each planned job: in all its pools it takes what was quoted for the best."""
    for job in jobs:
        spec, quote = job.spec, job.quote
        work, serves = quote.work.value, spec.kind == "serve"
        here = [pool.name in job.pools for pool in stand]
        rate = 1.0 if serves else work / quote.work_s.value
        drawn_w = quote.energy_kwh.value * 3.6e6 / quote.duration_s.value / spec.work.chips
        yield Kind(
            name=spec.name,
            kind=spec.kind,
            tenant=tenants.index(spec.work.tenant),
            unit="token" if quote.unit == "tokens" else quote.unit,
            flop_per_work=0.0,
            busy_w=tuple(drawn_w / pue(pool.site) for pool in stand),
            stream=spec.name,
            chips=spec.work.chips,
            chips_min=spec.work.chips,
            widths=(spec.work.chips,),
            rates=(tuple(rate * may for may in here),),
            overhead_s=quote.overhead_s.value,
            restart_s=quote.overhead_s.value,
            every=work * _saved_share(spec.work),
        )


def _training(
    blueprint: Blueprint,
    name: str,
    stream: TrainStream,
    tenant: int,
    count: int,
    stand: Sequence[Pool],
    study: Study,
    found: Sequence[dict[int, Width]],
) -> Kind:
    """Runs that ask for `count` chips; they shrink to what fits in all pools where that does."""
    model = rates.read(blueprint.models[stream.model].config)
    least = stream.elastic or count
    everywhere = set.intersection(*(set(of) for of in found if of))
    runs_on = tuple(sorted(width for width in everywhere if least <= width <= count))
    table = tuple(tuple(of[width].rate if of else 0.0 for of in found) for width in runs_on)
    told = goodput(model, count)
    stated_s = blueprint.operations.checkpoint_s
    interval_s = stated_s or best_interval_s(told.checkpoint_s, mttf_s(study, count))
    sequences = max(1, stream.batch_tokens // stream.sequence)
    job = Job(model, stream.sequence, sequences, stream.precision)
    start_s = performance.gang_start_s() + performance.load_s(0.0)
    return Kind(
        name=f"{name} on {count} chips",
        kind="train",
        tenant=tenant,
        unit="token",
        flop_per_work=flops_per_token(job),
        busy_w=_machines_w(stand, [of[count].power_w if of else None for of in found]),
        stream=name,
        chips=count,
        chips_min=runs_on[0],
        widths=runs_on,
        rates=table,
        overhead_s=start_s,
        restart_s=max(study.relaunch_s, start_s),
        write_s=told.checkpoint_s,
        every=0.0 if interval_s == math.inf else interval_s * max(table[-1]),
        luck=max(performance.time_range(chips.system(p.system).chip, stream.precision)[1]
                 for p, of in zip(stand, found, strict=True) if of),
    )  # fmt: skip


def _serving(
    blueprint: Blueprint,
    name: str,
    stream: ServeStream,
    tenant: int,
    stand: Sequence[Pool],
    found: Sequence[dict[int, Width]],
) -> Kind:
    """Replicas, as `demand.replica` has them: wherever they stand, the slowest one's chips."""
    model = rates.read(blueprint.models[stream.model].config)
    count, load_s = demand.replica(blueprint, name).chips, performance.load_s(
        WEIGHT_BYTES * model.parameters
    )  # fmt: skip
    one = [next(iter(of.values())) if of else None for of in found]
    asked = stream.prompt + stream.answer
    return Kind(
        name=name,
        kind="serve",
        tenant=tenant,
        unit="token",
        flop_per_work=models.forward_flops(model, asked) / stream.answer,
        busy_w=_machines_w(stand, [of.power_w if of else None for of in one]),
        stream=name,
        chips=count,
        chips_min=count,
        widths=(count,),
        rates=(tuple(of.rate if of else 0.0 for of in one),),
        overhead_s=load_s,
        restart_s=load_s,
    )


def _running(
    name: str,
    stream: AnyStream,
    tenant: int,
    stand: Sequence[Pool],
    found: Sequence[dict[int, Width]],
) -> Kind:
    """Anything else: wherever it runs, its time is as the stream or file says, start included."""
    one = [next(iter(of.values())) if of else None for of in found]
    return Kind(
        name=name,
        kind=stream.kind,
        tenant=tenant,
        unit="chip*s",
        flop_per_work=0.0,
        busy_w=_machines_w(stand, [of.power_w if of else None for of in one]),
        stream=name,
        rates=(tuple(float(of is not None) for of in one),),
        restart_s=performance.load_s(0.0),
    )


def _machines_w(stand: Sequence[Pool], chip_w: Sequence[float | None]) -> tuple[float, ...]:
    """Of a busy chip with its share of the node; where it may not run, of an idle one."""
    watts = []
    for pool, busy_w in zip(stand, chip_w, strict=True):
        idle_w = chips.system(pool.system).chip.idle_w
        watts.append(pool.idle_w + max((busy_w or idle_w) - idle_w, 0.0))
    return tuple(watts)


def _saved_share(work: Workload) -> float:
    """Share of a workload between two checkpoints, 0 where it has none."""
    if isinstance(work, Pretrain):
        return work.checkpoint_steps / -(-int(work.tokens) // work.batch_tokens)
    return work.checkpoint_steps / work.steps if isinstance(work, Finetune) else 0.0
