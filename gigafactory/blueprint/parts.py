"""What the parts of a blueprint are made of: names, quantities, and how strict a part is."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gigafactory.units import Money, Price, Quantity

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$", examples=["FR"])]
Watts = Annotated[float, Quantity("W"), Field(gt=0, lt=1e15)]
Tokens = Annotated[float, Quantity("token"), Field(gt=0, lt=1e18)]
TokensPerS = Annotated[float, Quantity("token/s"), Field(gt=0, lt=1e15)]
Seconds = Annotated[float, Quantity("s"), Field(gt=0, lt=1e9)]
GramsPerJoule = Annotated[float, Quantity("gCO2e/J"), Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Amount = Annotated[Money, Price()]
PricePerJoule = Annotated[Money, Price("J")]
PricePerChipSecond = Annotated[Money, Price("chip*s")]
PricePerToken = Annotated[Money, Price("token")]
Threshold = Annotated[str, Field(pattern=r"^(>=|<=|>|<)\s*-?\d+(\.\d+)?$", examples=[">= 0.9"])]


def one_or_many(value: Any) -> Any:
    """`FR` is `[FR]`."""
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[Name, ...], BeforeValidator(one_or_many)]


class Part(BaseModel):
    """A part of the file: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
