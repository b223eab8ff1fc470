"""Streams: many jobs that come over time, described rather than listed. Only the twin plays them.

A stream says how often its jobs come, how large they are and how that swings with day, week and
year; `twin.demand` draws the jobs. Tokens, s, tokens/s; `hours` is a run's length in s.
"""

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from gigafactory.blueprint.design import Countries
from gigafactory.blueprint.parts import Name, Names, Part, Seconds, Share, Tokens, TokensPerS
from gigafactory.stack import law
from gigafactory.units import Quantity

if TYPE_CHECKING:
    from gigafactory.blueprint.schema import Site

Chances = Annotated[
    dict[Annotated[int, Field(gt=0, le=1_000_000)], Share], Field(min_length=1, max_length=1000)
]


class Spread(Part):
    """A log-normal quantity: half lie below the median, nine of ten below p90."""

    median: float
    p90: float


class TokenSpread(Spread):
    """Of tokens."""

    median: Tokens
    p90: Tokens


class TimeSpread(Spread):
    """Of seconds."""

    median: Seconds
    p90: Seconds


class Stream(Part):
    """What all kinds share."""

    tenant: Name
    sites: Names | None = Field(None, description="where it may run; all sites by default")
    residency: Countries = Field((), description="countries or EU, EEA it must not leave")
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0

    def allowed(self, sites: "Mapping[str, Site]", on: date) -> list[str]:
        """Of the blueprint's sites those that it may run at, by name and residency."""
        return [
            name
            for name in self.sites or sites
            if name in sites and (not self.residency or self._resides(sites[name].country, on))
        ]

    def _resides(self, country: str, on: date) -> bool:
        return any(law.in_group(country, word, on) for word in self.residency)


class Swinging(Stream):
    """What comes by day and night, week and year."""

    daily: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="swing about the day's mean; its peak is at 15:00"
    )
    weekend: Annotated[float, Field(ge=0, le=10)] = Field(
        1.0, description="of a Saturday or Sunday, times a weekday"
    )
    growth: Annotated[float, Field(gt=0, le=100)] = Field(1.0, description="times so much a year")
    burst: Annotated[float, Field(ge=1, le=10_000)] = Field(
        1.0, description="mean jobs that come together; of a service, its p90 hour over its curve"
    )


class Arriving(Swinging):
    """Jobs that come, run and go."""

    per_day: Annotated[float, Field(gt=0, le=1e8)] | None = Field(
        None, description="jobs of a weekday, at the start"
    )
    at_s: Annotated[float, Quantity("s"), Field(ge=0, lt=1e9)] | None = Field(
        None, alias="at", description="instead of `per_day`: one job, so long after the start"
    )
    chips: Chances = Field(description="chips of a gang: chance")
    slack: Annotated[float, Field(ge=1, le=1e6)] | None = Field(
        None, description="its deadline, in its own run times from when it came"
    )


class TrainStream(Arriving):
    """Training runs of one model, each of its own length."""

    kind: Literal["train"]
    model: Name
    tokens: TokenSpread
    sequence: Annotated[int, Field(gt=1, le=10**8)] = 4096
    batch_tokens: Annotated[int, Field(gt=0)] = 4_000_000
    precision: Literal["BF16", "FP8", "MXFP8", "NVFP4"] = "BF16"
    elastic: Annotated[int, Field(gt=0)] | None = Field(
        None, description="chips that it may shrink to; else it is as wide as it asks"
    )


class BatchStream(Arriving):
    """Runs of anything, known by how long they take on the chips they ask for."""

    kind: Literal["batch"]
    run_s: TimeSpread = Field(alias="hours", description="of a run")
    busy: Share = Field(0.7, description="of a chip's power between idle and full")


class ServeStream(Swinging):
    """A service: its load by the hour becomes replicas that are wanted and no longer wanted."""

    kind: Literal["serve"]
    model: Name
    output_tokens_per_s: TokensPerS = Field(
        alias="load", description="at the peak of a weekday, at the start, all users"
    )
    prompt: Annotated[int, Field(gt=0, le=10**7)] = 2000
    answer: Annotated[int, Field(gt=1, le=10**7)] = 500
    ttft_s: Seconds = Field(3.0, alias="ttft")
    tpot_s: Seconds = Field(0.05, alias="tpot")


class TraceStream(Stream):
    """Jobs as a file has them: submitted, so long, on so many chips."""

    kind: Literal["trace"]
    file: str = Field(min_length=1, description="CSV or Parquet, a path from the blueprint")
    busy: Share = Field(0.7, description="of a chip's power between idle and full")


AnyStream = Annotated[
    TrainStream | BatchStream | ServeStream | TraceStream, Field(discriminator="kind")
]
