"""What the parts of a blueprint are made of: names, quantities, and how strict a part is."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from gigafactory.units import Money, Price, Quantity

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$", examples=["FR"])]
Watts = Annotated[float, Quantity("W"), Field(gt=0, lt=1e15)]
Joules = Annotated[float, Quantity("J"), Field(gt=0, lt=1e18)]
WattsPerS = Annotated[float, Quantity("W/s"), Field(gt=0, lt=1e15)]
Tokens = Annotated[float, Quantity("token"), Field(gt=0, lt=1e18)]
TokensPerS = Annotated[float, Quantity("token/s"), Field(gt=0, lt=1e15)]
Seconds = Annotated[float, Quantity("s"), Field(gt=0, lt=1e9)]
GramsPerJoule = Annotated[float, Quantity("gCO2e/J"), Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Amount = Annotated[Money, Price()]
PricePerJoule = Annotated[Money, Price("J")]
PricePerChipSecond = Annotated[Money, Price("chip*s")]
PricePerToken = Annotated[Money, Price("token")]
Threshold = Annotated[str, Field(pattern=r"^(>=|<=|>|<)\s*-?\d+(\.\d+)?$", examples=[">= 0.9"])]


def _in_utc(moment: datetime) -> datetime:
    """A moment without a zone is meant in UTC."""
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)


Moment = Annotated[datetime, AfterValidator(_in_utc)]


def one_or_many(value: Any) -> Any:
    """`FR` is `[FR]`."""
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[Name, ...], BeforeValidator(one_or_many)]


class Part(BaseModel):
    """A part of the file: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
