"""What the parts of a blueprint are made of: names, quantities, what all jobs share."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from gigafactory.units import Money, NotAQuantity, Price, Quantity, parse, parse_money

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
JobName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*(\.[1-9][0-9]*)?$", max_length=72)]
"""A name, or with a number one more replica of the service that has it."""
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$", examples=["FR"])]
Watts = Annotated[float, Quantity("W"), Field(gt=0, lt=1e15)]
Joules = Annotated[float, Quantity("J"), Field(gt=0, lt=1e18)]
WattsPerS = Annotated[float, Quantity("W/s"), Field(gt=0, lt=1e15)]
Tokens = Annotated[float, Quantity("token"), Field(gt=0, lt=1e18)]
TokensPerS = Annotated[float, Quantity("token/s"), Field(gt=0, lt=1e15)]
Seconds = Annotated[float, Quantity("s"), Field(gt=0, lt=1e9)]
Bytes = Annotated[float, Quantity("B"), Field(gt=0, lt=1e18)]
GramsPerJoule = Annotated[float, Quantity("gCO2e/J"), Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Amount = Annotated[Money, Price()]
PricePerJoule = Annotated[Money, Price("J")]
PricePerChipSecond = Annotated[Money, Price("chip*s")]
PricePerToken = Annotated[Money, Price("token")]
Threshold = Annotated[
    str, Field(pattern=r"^(>=|<=|>|<)\s*-?\d+(\.\d+)?([eE][-+]?\d+)?$", examples=[">= 0.9"])
]


def _in_utc(moment: datetime) -> datetime:
    """A moment without a zone is meant in UTC."""
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)


Moment = Annotated[datetime, AfterValidator(_in_utc)]


def one_or_many(value: Any) -> Any:
    """`FR` is `[FR]`."""
    return [value] if isinstance(value, str) else value


Names = Annotated[
    tuple[Name, ...], BeforeValidator(one_or_many, json_schema_input_type=Name | tuple[Name, ...])
]


LIMITED = {"energy": "J", "carbon": "gCO2e", "tokens": "token"}


def read_limit(text: str) -> tuple[float, str, str | None]:
    """(amount in SI or money, what it is of, currency) of a budget's limit."""
    for of, unit in LIMITED.items():
        try:
            return parse(text, unit), of, None
        except NotAQuantity:
            continue
    try:
        money = parse_money(text)
    except NotAQuantity:
        why = "is no amount of money, energy, carbon or tokens"
        hint = "write it as '100 EUR', '5 kWh', '2 kgCO2e' or '3 M tokens'"
        raise NotAQuantity(f"{text!r} {why}; {hint}") from None
    return money.amount, "money", money.currency


def _limit(value: Any) -> Any:
    return read_limit(value)[0] if isinstance(value, str) else value


Limit = Annotated[
    float,
    BeforeValidator(_limit),
    Field(ge=0, lt=1e18, allow_inf_nan=False),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}], "examples": ["100 EUR"]}),
]


SI = {"_s": "s", "_bytes": "B", "_w": "W"}


class Part(BaseModel):
    """A part of the file: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _in_si_under_its_name(cls, said: Any) -> Any:
        """What was read before comes back as a number, under the name that carries its unit."""
        numbers = {
            name: f"{value!r} {unit}"
            for name, value in (said.items() if isinstance(said, dict) else ())
            for suffix, unit in SI.items()
            if type(value) in (int, float) and str(name).endswith(suffix) and "_per_" not in name
            and name in cls.model_fields and cls.model_fields[name].alias
        }  # fmt: skip
        return {**said, **numbers} if numbers else said


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
