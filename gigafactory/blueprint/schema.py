"""The blueprint: sites, chips, tenants, models and workloads, as typed records.

A field is written in people's units under its plain name (`power: 50 MW`) and read in SI
under a name that carries the unit (`site.power_w`). docs/blueprint.md explains the file.
"""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field

from gigafactory.blueprint.design import Design
from gigafactory.blueprint.operations import Battery, Grid, Operations, Racks
from gigafactory.blueprint.parts import (
    Country,
    GramsPerJoule,
    Name,
    Names,
    Part,
    PricePerChipSecond,
    PricePerJoule,
    PricePerToken,
    Rate,
    Threshold,
    Tokens,
    Watts,
)
from gigafactory.blueprint.streams import AnyStream

Cooling = Literal[
    "air", "evaporative", "dry", "chilled-water", "direct-to-chip", "immersion", "colocation"
]


class Exchange(Part):
    """Rates of a day: what one unit of each currency costs in the blueprint's."""

    on: date
    rates: dict[str, Annotated[float, Field(gt=0)]]


class Site(Part):
    """A place with power and systems. What is left out comes from the catalog.

    That is by `place` of `gigafactory sites` where one is named, else by country.
    """

    country: Country
    place: Name | None = None
    count: Annotated[int, Field(ge=1, le=1000)] = Field(1, description="data centers all alike")
    power_w: Watts = Field(alias="power", description="of each: the cap on everything there")
    systems: dict[Name, Annotated[int, Field(gt=0, le=100_000)]] = Field(
        default_factory=dict,
        description="nodes of each that stand there, `{this-machine: 1}`",
    )
    cooling: Cooling = "air"
    pue: Annotated[float, Field(ge=1, le=3)] | None = None
    carbon_g_per_j: GramsPerJoule | None = Field(None, alias="carbon")
    energy_price: PricePerJoule | None = None
    powered: date | None = Field(None, description="day on which its hall is ready for racks")
    building: Literal["greenfield", "existing", "modular"] = "greenfield"
    racks: Racks | None = None
    battery: Battery | None = None
    grid: Grid = Field(default_factory=Grid)


class Tenant(Part):
    """Somebody who pays, and what they may use of what is shared."""

    weight: Annotated[float, Field(gt=0, le=1e6)] = Field(1.0, description="of its fair share")
    quota: Annotated[int, Field(gt=0)] | None = Field(
        None, description="chips that are its own; all that is free where left out"
    )
    borrow: Annotated[int, Field(ge=0)] | None = Field(
        None, description="chips beyond its quota at most; all its cohort lends where left out"
    )
    cohort: Name | None = Field(None, description="tenants of one cohort lend each other")


class Prices(Part):
    """What tenants pay. Without `chip_hour` the catalog's rental price of the chip holds."""

    chip_s: PricePerChipSecond | None = Field(None, alias="chip_hour")
    input: PricePerToken | None = None
    output: PricePerToken | None = None


class ModelSource(Part):
    """A model: the architecture from a Hugging Face config, and where weights come from.

    `config` is a shipped name, a path beside the blueprint, or the config itself; without
    `weights` a model starts from random ones.
    """

    config: str | dict[str, Any]
    weights: str | None = None


class Workload(Part):
    """What all kinds of job share."""

    tenant: Name
    chips: Annotated[int, Field(gt=0)] = 1
    sites: Names | None = Field(None, description="where it may run; all sites by default")
    after: Names = ()
    through: Names = Field((), description="evaluations that must have passed first")
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    seed: int = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the jobs whose output this one reads."""
        return ()


class Pretrain(Workload):
    """Train a model from random weights on text."""

    kind: Literal["pretrain"]
    model: Name
    data: Literal["stdlib"] = "stdlib"
    tokens: Tokens
    sequence: Annotated[int, Field(gt=1)] = 256
    batch_tokens: Annotated[int, Field(gt=0)] = 4096
    learning_rate: Rate = 8e-3
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint_steps: Annotated[int, Field(gt=0)] = 50


class Finetune(Workload):
    """Teach a pretrained model a task, by low-rank adapters merged at the end."""

    kind: Literal["finetune"]
    model: Name
    data: Literal["warehouse"] = "warehouse"
    steps: Annotated[int, Field(gt=0)]
    batch: Annotated[int, Field(gt=0)] = 8
    rank: Annotated[int, Field(gt=0)] = 16
    learning_rate: Rate = 5e-3
    checkpoint_steps: Annotated[int, Field(gt=0)] = 10


class Evaluate(Workload):
    """Judge what a job made. The gate is fail-closed: a metric it names must be there."""

    kind: Literal["evaluate"]
    of: Name
    suite: Literal["bits_per_byte", "tool_calls"]
    examples: Annotated[int, Field(gt=0)] = 48
    gate: dict[str, Threshold] = Field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """The judged job."""
        return (self.of,)


class Serve(Workload):
    """Answer requests with what a job made, for as long as the factory is up."""

    kind: Literal["serve"]
    of: Name
    prompt: str = Field("Hello", description="the question `up` asks for its first token")

    @property
    def needs(self) -> tuple[str, ...]:
        """The job whose model is served."""
        return (self.of,)


AnyWorkload = Annotated[Pretrain | Finetune | Evaluate | Serve, Field(discriminator="kind")]


class Blueprint(Part):
    """A factory, whole: what stands where, for whom, and what it is to do."""

    gigafactory: Literal[1] = Field(description="version of this format")
    name: Name
    currency: Literal["EUR", "USD", "CNY", "GBP", "CHF", "JPY"] = "EUR"
    exchange: Exchange | None = None
    start: date = Field(description="first day of the plan")
    owner: Country = Field(description="country of the ultimate parent")
    reference: Name | None = Field(None, description="a system to quote every job on as well")
    sites: dict[Name, Site] = Field(min_length=1)
    tenants: dict[Name, Tenant] = Field(min_length=1)
    prices: Prices = Field(default_factory=Prices)
    models: dict[Name, ModelSource] = Field(default_factory=dict)
    workloads: dict[Name, AnyWorkload] = Field(default_factory=dict)
    streams: dict[Name, AnyStream] = Field(default_factory=dict)
    operations: Operations = Field(default_factory=Operations)
    design: Design | None = None


class NewJob(Part):
    """A job that is given to a factory that runs already."""

    name: Name
    work: AnyWorkload


class Model(Part):
    """A model looked up: its name in the blueprint, its whole config, its weights' source."""

    name: Name
    config: dict[str, Any]
    weights: str | None = None


class JobSpec(Part):
    """One job, resolved: everything that running it takes, whoever submitted it."""

    name: Name
    work: AnyWorkload
    model: Model

    @property
    def kind(self) -> str:
        """What kind of job it is."""
        return self.work.kind

    @property
    def after(self) -> tuple[str, ...]:
        """Every job that must be done before this one starts."""
        return tuple(dict.fromkeys((*self.work.needs, *self.work.after, *self.work.through)))
