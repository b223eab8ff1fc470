"""The blueprint: sites, chips, tenants, models and workloads, as typed records.

A field is written in people's units under its plain name (`power: 50 MW`) and read in SI
under a name that carries the unit (`site.power_w`). docs/blueprint.md explains the file.
"""

from collections.abc import Mapping
from datetime import date
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from gigafactory.blueprint.design import Design
from gigafactory.blueprint.operations import Battery, Grid, Operations, Racks
from gigafactory.blueprint.parts import (
    Bytes,
    Country,
    GramsPerJoule,
    JobName,
    Limit,
    Name,
    Names,
    Part,
    PricePerChipSecond,
    PricePerJoule,
    PricePerToken,
    Rate,
    Seconds,
    Threshold,
    Tokens,
    Watts,
    Workload,
    read_limit,
)
from gigafactory.blueprint.streams import AnyStream
from gigafactory.blueprint.worlds import LearnDetector, LearnPolicy, Rollout, Synthesize, World

Cooling = Literal[
    "air", "evaporative", "dry", "chilled-water", "direct-to-chip", "immersion", "colocation"
]


class Exchange(Part):
    """Rates of a day: what one unit of each currency costs in the blueprint's."""

    on: date
    rates: dict[str, Annotated[float, Field(gt=0)]]


class CarbonChange(Part):
    """Another carbon intensity from a day on, UTC."""

    since: date = Field(alias="from")
    carbon_g_per_j: GramsPerJoule = Field(alias="carbon")


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
    carbon_changes: tuple[CarbonChange, ...] = ()
    energy_price: PricePerJoule | None = None
    powered: date | None = Field(None, description="day on which its hall is ready for racks")
    building: Literal["greenfield", "existing", "modular"] = "greenfield"
    racks: Racks | None = None
    battery: Battery | None = None
    grid: Grid = Field(default_factory=Grid)


class Budget(Part):
    """What a tenant may use in a calendar window, UTC: `{limit: 100 EUR, per: month}`.

    `of`, and the `currency` of money, follow from the unit that the limit is written in.
    """

    limit: Limit = Field(description="of money, energy, carbon or tokens")
    of: Literal["money", "energy", "carbon", "tokens"] = "tokens"
    currency: str | None = None
    per: Literal["hour", "day", "week", "month", "quarter", "year"]

    @model_validator(mode="before")
    @classmethod
    def _unit_of_limit(cls, said: Any) -> Any:
        """A limit that cannot be read is left to its own field, which says why."""
        if not isinstance(said, dict) or not isinstance(said.get("limit"), str):
            return said
        try:
            _, of, currency = read_limit(said["limit"])
        except ValueError:
            return said
        return {**said, "of": of, "currency": currency}


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
    budgets: tuple[Budget, ...] = ()
    requests_per_minute: Annotated[int, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[int, Field(gt=0)] | None = None
    keep_prompts: bool = Field(False, description="prompts and answers may be kept and logged")


class PriceChange(Part):
    """Other prices from a day on, UTC; what it leaves out stays as it was."""

    since: date = Field(alias="from")
    chip_s: PricePerChipSecond | None = Field(None, alias="chip_hour")
    input: PricePerToken | None = None
    output: PricePerToken | None = None


class Prices(Part):
    """What tenants pay. Without `chip_hour` the catalog's rental price of the chip holds."""

    chip_s: PricePerChipSecond | None = Field(None, alias="chip_hour")
    input: PricePerToken | None = None
    output: PricePerToken | None = None
    changes: tuple[PriceChange, ...] = ()


class ModelSource(Part):
    """A model: the architecture from a Hugging Face config, and where weights come from.

    `config` is a shipped name, a path beside the blueprint, or the config itself; without
    `weights` a model starts from random ones.
    """

    config: str | dict[str, Any]
    weights: str | None = None


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
    chips_min: Annotated[int, Field(gt=0)] | None = Field(
        None, description="where it is elastic: goes on with half its chips and half again"
    )

    @model_validator(mode="after")
    def _shares_its_batch(self) -> "Pretrain":
        """Every width that it may run on takes an equal share of the same batch."""
        width, sequences = self.chips, self.batch_tokens // self.sequence
        least = self.chips if self.chips_min is None else self.chips_min
        if least > width:
            raise ValueError(f"chips_min {least} is more than chips, {width}")
        while self.chips_min is not None:
            if sequences % width:
                raise ValueError(f"{width} chips cannot share a batch of {sequences} sequences")
            if width == least:
                break
            width = max(width // 2, least)
        return self


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
    suite: Literal["bits_per_byte", "tool_calls", "detection", "closed_loop", "falsification"]
    world: Name | None = Field(None, description="where a detector or a policy is judged")
    against: Name | None = Field(
        None, description="a job whose detector or policy is judged beside it: the one now served"
    )
    examples: Annotated[int, Field(gt=0)] = Field(
        48, description="answers, frames, episodes or scenarios"
    )
    gate: dict[str, Threshold] = Field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """The judged jobs."""
        return (self.of, self.against) if self.against else (self.of,)


class Serve(Workload):
    """Answer requests with what a job made, for as long as the factory is up."""

    kind: Literal["serve"]
    of: Name
    prompt: str = Field("Hello", description="the question `up` asks for its first token")
    engine: Literal["auto", "transformers", "vllm"] = Field(
        "auto", description="vLLM where there are a GPU and vLLM, else transformers"
    )
    context_tokens: Tokens | None = Field(
        None, alias="context", description="prompt and answer together; 2048 where left out"
    )
    replicas_min: Annotated[int, Field(ge=0, le=1000)] = Field(
        1, description="with 0 it is let go when nobody asks, and comes back with a request"
    )
    replicas_max: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="while requests wait and chips are free; each a job of its own"
    )
    idle_s: Seconds = Field(
        300.0, alias="idle", description="without a request until a replica too many is let go"
    )

    @property
    def needs(self) -> tuple[str, ...]:
        """The job whose model is served."""
        return (self.of,)


def _inside(name: str) -> str:
    """A file's name that leads nowhere else."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or path.parts[0] == "inputs":
        raise ValueError("a file lies in the command's own folder, and not in `inputs`")
    return name


class Limits(Part):
    """What a command may take; left out: no limit."""

    memory_bytes: Bytes = Field(4e9, alias="memory", description="of each process, to write to")
    open_files: Annotated[int, Field(gt=0)] = Field(1024, description="of each process")
    cpu_s: Seconds | None = Field(None, alias="cpu", description="processor time of each process")
    processes: Annotated[int, Field(gt=0)] = Field(512, description="and threads, at once")
    network: bool = Field(False, description="reach the `ports` that `access` opens to scripts")


class Script(Workload):
    """The user's own command, in its own process, folder and limits."""

    kind: Literal["script"]
    command: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)] = Field(
        description="words, no shell: `[python3, train.py]`"
    )
    files: dict[
        Annotated[str, AfterValidator(_inside)], Annotated[str, Field(max_length=1_000_000)]
    ] = Field(default_factory=dict, max_length=256, description="files to start with, by name")
    expects_s: Seconds = Field(
        600.0, alias="expects", description="how long it may take, for the first quote"
    )
    time_s: Seconds = Field(86_400.0, alias="time", description="after which it is ended")
    limits: Limits = Field(default_factory=Limits)


TRAINING = ("pretrain", "finetune")
SUITES = {
    "bits_per_byte": "language",
    "tool_calls": "language",
    "detection": "detector",
    "closed_loop": "policy",
    "falsification": "policy",
}
"""What each suite judges."""


def form(said: Any) -> str | None:
    """Which record a workload is: by its kind, or by what it `learns` if no language model."""
    of = said if isinstance(said, Mapping) else vars(said) if isinstance(said, Part) else {}
    kind, learns = of.get("kind"), of.get("learns")
    if kind in TRAINING and learns is not None:
        return f"learns {learns}"
    return None if kind is None else str(kind)


AnyWorkload = Annotated[
    Annotated[Pretrain, Tag("pretrain")]
    | Annotated[Finetune, Tag("finetune")]
    | Annotated[LearnDetector, Tag("learns detector")]
    | Annotated[LearnPolicy, Tag("learns policy")]
    | Annotated[Synthesize, Tag("synthesize")]
    | Annotated[Rollout, Tag("rollout")]
    | Annotated[Evaluate, Tag("evaluate")]
    | Annotated[Serve, Tag("serve")]
    | Annotated[Script, Tag("script")],
    Discriminator(form),
]
FORMS: dict[str, type[Workload]] = {
    get_args(each)[1].tag: get_args(each)[0] for each in get_args(get_args(AnyWorkload)[0])
}
"""The records by what `form` calls them."""


class Oidc(Part):
    """Whose tokens are believed, and which of their claims say tenant and role.

    Signing keys are re-read hourly and when a token names an unknown one. `internal` lets the
    address of `jwks` lie in a private network; other than that it must be public.
    """

    issuer: Annotated[str, Field(min_length=1, max_length=500)]
    audience: Annotated[str, Field(min_length=1, max_length=500)]
    jwks: str = Field(
        pattern=r"^(https://[^@\s]+|[^:]+)$",
        description="its key set: a file, or an https address",
    )
    tenant_claim: str | None = None
    role_claim: str | None = None
    internal: bool = False


class Access(Part):
    """Who may come in besides the holders of keys, and what commands of tenants reach."""

    oidc: Oidc | None = None
    scripts: Literal["walled", "open"] = Field(
        "walled", description="`open`: run for several tenants where this machine lacks walls too"
    )
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = Field(
        (), description="TCP ports of other machines that scripts may ask for; none by default"
    )


class Route(Part):
    """A name to ask for that stands for services: by weight, and others where none answers."""

    weights: dict[Name, Annotated[float, Field(ge=0, le=1e6)]] = Field(
        min_length=1, description="services, and each one's share of the requests"
    )
    fallback: Names = Field((), description="services or routes to ask where these do not answer")


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
    worlds: dict[Name, World] = Field(default_factory=dict)
    workloads: dict[Name, AnyWorkload] = Field(default_factory=dict)
    routes: dict[Name, Route] = Field(default_factory=dict)
    streams: dict[Name, AnyStream] = Field(default_factory=dict)
    operations: Operations = Field(default_factory=Operations)
    design: Design | None = None
    access: Access = Field(default_factory=Access)


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

    name: JobName
    work: AnyWorkload
    model: Model | None = None
    world: dict[str, Any] | None = Field(
        None, description="`name`, and `scene` with `ranges` or `file` with `sha256`"
    )
    pixels: int | None = Field(None, description="of a frame that it learns from")

    @property
    def kind(self) -> str:
        """What kind of job it is."""
        return self.work.kind

    @property
    def after(self) -> tuple[str, ...]:
        """Every job that must be done before this one starts."""
        return tuple(dict.fromkeys((*self.work.needs, *self.work.after, *self.work.through)))
