"""One change followed through chip, interconnect, model and application: before and after.

Two designs of one blueprint, with and without the change, told side by side. Modelled.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from gigafactory.plan.designed import Designed, Speed

LAYERS = ("chip", "interconnect", "model", "application")


class Row(BaseModel):
    """One figure or word, before and after; `ratio` where both are numbers above 0."""

    model_config = ConfigDict(frozen=True)

    layer: str
    what: str
    unit: str
    before: float | str | None
    after: float | str | None

    @property
    def ratio(self) -> float | None:
        """After over before."""
        numbers = isinstance(self.before, float) and isinstance(self.after, float)
        if not numbers or not self.before:
            return None
        assert isinstance(self.before, float)
        assert isinstance(self.after, float)
        return self.after / self.before

    def told(self) -> dict[str, Any]:
        """With its ratio."""
        return {**self.model_dump(), "ratio": self.ratio}

    @property
    def changed(self) -> bool:
        """By more than rounding."""
        if self.ratio is None:
            return self.before != self.after
        return abs(self.ratio - 1) > 1e-6


def compare(before: Designed, after: Designed) -> list[Row]:
    """Every figure of both designs, layer by layer."""
    return [
        *_chips(before, after),
        *_interconnect(before, after),
        *_models(before, after),
        *_application(before, after),
    ]


def _chips(before: Designed, after: Designed) -> Iterator[Row]:
    bought = [_bought(one) for one in (before, after)]
    for system in dict.fromkeys((*bought[0], *bought[1])):
        yield _row("chip", f"chips of {system}", "", *(float(one[system]) for one in bought))
    power = [sum(buy.power_w for buy in one.purchases) for one in (before, after)]
    yield _row("chip", "IT power bought", "W", *power)
    forbidden = [
        ", ".join(sorted({f"{no.system} in {no.site}" for no in one.law if not no.may_stand}))
        for one in (before, after)
    ]
    if any(forbidden):
        yield _row("chip", "forbidden at some time", "", *forbidden)


def _interconnect(before: Designed, after: Designed) -> Iterator[Row]:
    for demand in _demands(before, after):
        main = [_main(one, demand) for one in (before, after)]
        layouts = [f"{speed.layout} on {speed.system}" if speed else None for speed in main]
        yield _row("interconnect", f"layout of {demand}", "", *layouts)


def _models(before: Designed, after: Designed) -> Iterator[Row]:
    for demand in _demands(before, after):
        main = [_main(one, demand) for one in (before, after)]
        each = [speed.tokens_per_s_per_chip if speed else None for speed in main]
        yield _row("model", f"tokens a chip of {demand}", "token/s", *each)
        for what, unit, field in (
            ("MFU", "", "mfu"),
            ("TPOT", "s", "tpot_s"),
            ("TTFT", "s", "ttft_s"),
        ):
            figures = [getattr(speed, field) if speed else None for speed in main]
            if any(figure is not None for figure in figures):
                yield _row("model", f"{what} of {demand}", unit, *figures)


def _application(before: Designed, after: Designed) -> Iterator[Row]:
    both = (before, after)
    money = before.currency
    yield _row("application", "first token", "", *(str(one.first_token) for one in both))
    yield _row("application", "spent on machines and buildings", money, *(x.spent for x in both))
    yield _row("application", "cost, discounted", money, *(one.cost for one in both))
    yield _row("application", "tokens", "token", *(one.tokens for one in both))
    per_million = [one.cost / one.tokens * 1e6 if one.tokens else None for one in both]
    yield _row("application", "cost of a million tokens", money, *per_million)
    yield _row("application", "energy", "J", *(one.energy_kwh * 3.6e6 for one in both))
    yield _row("application", "carbon", "kg CO2e", *(one.carbon_kg for one in both))
    yield _row("application", "water", "L", *(one.water_l for one in both))


def _row(
    layer: str, what: str, unit: str, before: float | str | None, after: float | str | None
) -> Row:
    return Row(layer=layer, what=what, unit=unit, before=before, after=after)


def _bought(made: Designed) -> Counter[str]:
    chips: Counter[str] = Counter()
    for one in made.purchases:
        chips[one.system] += one.chips
    return chips


def _demands(before: Designed, after: Designed) -> list[str]:
    return list(dict.fromkeys(use.demand for one in (before, after) for use in one.uses))


def _main(made: Designed, demand: str) -> Speed | None:
    """How the demand runs where most of its nodes are."""
    nodes: Counter[str] = Counter()
    for use in made.uses:
        if use.demand == demand:
            nodes[use.system] += use.nodes  # type: ignore[assignment]
    if not nodes:
        return None
    system = nodes.most_common(1)[0][0]
    return next(one for one in made.speeds if (one.demand, one.system) == (demand, system))
