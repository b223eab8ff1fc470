"""What a factory is to be designed for: demands of tenants over years, and what may be bought.

A blueprint with a `design` need not have systems at its sites: `plan` chooses them.
"""

from datetime import date
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gigafactory.blueprint.parts import (
    Amount,
    Name,
    Names,
    Part,
    PricePerToken,
    Seconds,
    Tokens,
    TokensPerS,
    one_or_many,
)

Countries = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9]*$")], ...], BeforeValidator(one_or_many)
]


class Demand(Part):
    """What both kinds share."""

    tenant: Name
    model: Name
    starts: date | None = Field(None, description="first day it is wanted; else from the start")
    residency: Countries = Field((), description="countries or EU, EEA it must not leave")


class ServeDemand(Demand):
    """A service that must answer so many tokens a second, within its limits, for years."""

    kind: Literal["serve"]
    output_tokens_per_s: TokensPerS = Field(alias="load", description="at its peak, all users")
    growth: Annotated[float, Field(gt=0, le=100)] = Field(1.0, description="of the load, a year")
    prompt: Annotated[int, Field(gt=0, le=10**7)] = 2000
    answer: Annotated[int, Field(gt=1, le=10**7)] = 500
    ttft_s: Seconds = Field(3.0, alias="ttft")
    tpot_s: Seconds = Field(0.05, alias="tpot")
    users: Name | None = Field(None, description="the place where they are, for `latency`")
    latency_s: Seconds | None = Field(None, alias="latency", description="longest round trip")
    price: PricePerToken | None = Field(
        None, description="of an output token; with it the demand is served where it pays"
    )


class TrainDemand(Demand):
    """A model to be trained once, by a day."""

    kind: Literal["train"]
    tokens: Tokens
    sequence: Annotated[int, Field(gt=1, le=10**8)] = 4096
    batch_tokens: Annotated[int, Field(gt=0)] = 16_000_000
    precision: Literal["BF16", "FP8", "MXFP8", "NVFP4"] = "BF16"
    deadline: date


AnyDemand = Annotated[ServeDemand | TrainDemand, Field(discriminator="kind")]


class Design(Part):
    """What is to be decided, over which time, with which money, to which end."""

    quarters: Annotated[int, Field(ge=1, le=40)] = 12
    systems: Names = Field((), description="what may be bought; every priced system if left out")
    licensed: Names = Field(
        (), description="systems for which a licence is taken to be won where the law asks one"
    )
    budget: Amount | None = None
    discount: Annotated[float, Field(ge=0, lt=1)] = Field(0.08, description="of money, a year")
    objective: Literal["cost", "carbon", "first-token", "tokens-per-joule"] = "cost"
    gap: Annotated[float, Field(gt=0, le=0.5)] = Field(0.01, description="proven at most")
    demands: dict[Name, AnyDemand] = Field(min_length=1)
