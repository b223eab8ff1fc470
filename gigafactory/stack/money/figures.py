"""Every uncertain figure that money asks, with its range, basis, source and date.

An input is one number; the models take a mapping name -> number, or name -> column of draws, so
that ten thousand futures are one calculation. Money is USD, power W of the machines' nameplate.
Source: `data/economics.csv`, `price` and `rent` in `data/chips.csv`, `data/prices.csv`, and the
place's own price of electricity and modelled PUE.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gigafactory.stack import facts
from gigafactory.stack.chips import System, UnknownFigure
from gigafactory.stack.facts import Fact
from gigafactory.stack.money import currency, prices
from gigafactory.stack.sites import Site

Number = float | NDArray[np.float64]
Values = Mapping[str, Number]

GIVEN = "given"
"""Basis of what the caller said."""
RACK = 32
"""From so many chips a node is a rack that has its own network inside."""
# Name -> what it is, the least and the most that it can be.
KNOWN = {
    "node_price": ("price of a node", 0, math.inf),
    "fee": ("export fee or duty on the nodes", 0, 1),
    "network": ("network, share of the nodes' price", 0, 10),
    "storage": ("storage, share of the nodes' price", 0, 10),
    "facility": ("shell, power and cooling", 0, math.inf),
    "shell_share": ("shell, share of the facility", 0, 1),
    "cooling_share": ("cooling, share of the facility", 0, 1),
    "commissioning": ("commissioning, share of the facility", 0, 1),
    "beside": ("power beside the nodes, share", 0, 10),
    "fill": ("power drawn at most, share of nameplate", 0.1, 1),
    "electricity_price": ("electricity", 0, math.inf),
    "pue": ("PUE", 1, 10),
    "load": ("utilisation", 0, 1),
    "staff": ("staff", 0, math.inf),
    "maintenance_machines": ("maintenance of machines", 0, 1),
    "maintenance_facility": ("maintenance of the facility", 0, 1),
    "inflation": ("inflation of running costs", -0.5, 1),
    "machine_life": ("life of machines", 1, 50),
    "facility_life": ("life of the facility", 1, 100),
    "resale": ("resale, share of book value", 0, 1),
    "discount_rate": ("discount rate", 0, 1),
    "rent": ("rent of a GPU, on demand", 0, math.inf),
    "rent_drift": ("drift of rents", -0.95, 1),
    "contract": ("contract over on-demand rent", 0, 1),
    "token_price": ("a million output tokens with their input, list", 0, math.inf),
    "token_drift": ("drift of token prices", -0.95, 1),
    "realised": ("share of the list price that is paid", 0, 1),
    "tokens_per_s": ("output tokens of a busy chip", 0, math.inf),
    "ramp_months": ("ramp", 0.1, 60),
    "delay_months": ("delay", 0, 60),
    "machine_drift": ("drift of the price of the same work", -0.95, 1),
}
OWNING = (
    *("node_price", "fee", "network", "storage", "facility", "shell_share", "cooling_share"),
    *("commissioning", "beside", "fill", "electricity_price", "pue", "load", "staff"),
    *("maintenance_machines", "maintenance_facility", "machine_life", "facility_life"),
    "discount_rate",
)
"""What the cost of owning asks; a project asks all."""
SUBJECTS = ("build", "run", "finance", "sale")
MODEL = "qwen3.6-plus"
"""Whose list price tokens have where nobody says."""


@dataclass(frozen=True)
class Input:
    """One figure. `low` and `high` equal `value` where it is taken as certain."""

    name: str
    words: str
    value: float
    low: float
    high: float
    unit: str
    basis: str
    source: str
    as_of: str

    @property
    def certain(self) -> bool:
        """It has no range."""
        return self.low == self.high


def inputs(
    system: System,
    site: Site | None = None,
    cooling: str = "direct-to-chip",
    model: str = MODEL,
    given: Mapping[str, float] | None = None,
    origin: str = "asked for",
    names: Collection[str] = tuple(KNOWN),
) -> dict[str, Input]:
    """The inputs for `system` at `site`; those `given` have their value and no range.

    A facility with `air` cooling is a conventional one. Raises `UnknownFigure` where the system's
    price or rent is not known and not given, `prices.UnknownSeller` for a `model` without price.
    """
    given = dict(given or {})
    rack = system.chips_per_node >= RACK
    rows = {fact.quantity: fact for fact in facts.load("economics") if fact.subject in SUBJECTS}
    rows["facility"] = rows["facility_conventional" if cooling == "air" else "facility"]
    rows["network"] = rows["network_rack" if rack else "network_board"]
    found = {name: _of(name, rows[name]) for name in KNOWN if name in rows}
    none = "none is asked for"
    found["fee"] = Input("fee", KNOWN["fee"][0], 0.0, 0.0, 0.0, "1", "assumed", none, "2026-11")
    for name, unit, make in (
        ("node_price", "USD", lambda: _node_price(system, rows)),
        ("rent", "USD/GPU-h", lambda: _rent(system)),
        ("tokens_per_s", "token/s", lambda: _tokens_per_s(system)),
        ("token_price", "USD/Mtoken", lambda: _token_price(model, rows)),
    ):
        # What is given need not be known.
        stated = Input(name, KNOWN[name][0], 0.0, 0.0, 0.0, unit, GIVEN, origin, "")
        if name in names:
            found[name] = stated if name in given else make()
    if site is not None:
        found["electricity_price"] = _electricity(site, rows)
        found["pue"] = _pue(site, cooling, rows)
    for name, value in given.items():
        if name not in names:
            continue
        known = replace(found[name], value=value, low=value, high=value)
        found[name] = replace(known, basis=GIVEN, source=origin, as_of="")
    return {name: found[name] for name in KNOWN if name in names}


def middle(asked: Mapping[str, Input]) -> dict[str, float]:
    """Name -> value of each."""
    return {name: one.value for name, one in asked.items()}


def term(quantity: str) -> float:
    """A figure of `data/economics.csv` that has no range in the models, such as `build_months`."""
    for subject in SUBJECTS:
        of = facts.by_subject("economics")[subject]
        if quantity in of:
            value = of[quantity].value
            assert value is not None
            return value
    raise KeyError(quantity)


def hottest_pue(site: Site, cooling: str) -> float:
    """PUE in the hour of the year that needs most, for which the connection has to do."""
    return float(_year(site, cooling).max())


def _of(name: str, fact: Fact) -> Input:
    assert fact.value is not None, name
    return Input(
        name=name,
        words=KNOWN[name][0],
        value=fact.value,
        low=fact.value if fact.low is None else fact.low,
        high=fact.value if fact.high is None else fact.high,
        unit=fact.unit,
        basis=fact.basis,
        source=fact.source,
        as_of=fact.as_of,
    )


def _node_price(system: System, rows: Mapping[str, Fact]) -> Input:
    """Of a rack where one is known, else of its chips and what a server adds to them."""
    racks = facts.by_subject("economics").get(system.name, {})
    if "price" in racks:
        return _of("node_price", racks["price"])
    fact = facts.by_subject("chips")[system.chip.name].get("price")
    if fact is None or fact.value is None:
        raise UnknownFigure(system.chip.name, "price")
    spread, host = (rows[name].value for name in ("price_spread", "host"))
    assert spread is not None
    assert host is not None
    # A rack's price over its chips is the rack's already.
    dearer = 1.0 if system.chips_per_node >= RACK else host
    scale = dearer * system.chips_per_node
    low = fact.value * (1 - spread) if fact.low is None else fact.low
    high = fact.value * (1 + spread) if fact.high is None else fact.high
    made = _of("node_price", fact)
    return replace(
        made,
        value=fact.value * scale,
        low=low * scale,
        high=high * scale,
        basis="estimate",
        source=f"{system.chips_per_node} x {fact.text} USD x {dearer:g} for the server around "
        f"them; chip: {fact.source}",
    )


def _rent(system: System) -> Input:
    fact = currency.chip_hour_price(system.chip.name)
    if fact.value is None:
        raise UnknownFigure(system.chip.name, "rent")
    return _of("rent", fact)


def _tokens_per_s(system: System) -> Input:
    """Measured where it is; else B200's, by bandwidth of memory, which bounds decoding."""
    measured = facts.by_subject("economics").get(system.chip.name, {})
    if "tokens_per_s" in measured:
        return _of("tokens_per_s", measured["tokens_per_s"])
    ours, theirs = (
        facts.by_subject("chips")[name].get("memory_bandwidth")
        for name in (system.chip.name, "B200")
    )
    if ours is None or ours.value is None:
        raise UnknownFigure(system.chip.name, "tokens a second")
    assert theirs is not None
    assert theirs.value
    ratio = ours.value / theirs.value
    like = _of("tokens_per_s", facts.by_subject("economics")["B200"]["tokens_per_s"])
    return replace(
        like,
        value=like.value * ratio,
        low=like.low * ratio,
        high=like.high * ratio,
        basis="estimate",
        source=f"as B200 by memory bandwidth; {like.source}",
    )


def _token_price(model: str, rows: Mapping[str, Fact]) -> Input:
    """List price of a million output tokens and of the input that is billed with them."""
    seller = prices.seller(model)
    asked = _of("token_price", rows["input_per_output"])  # How much input comes with an output.
    return Input(
        name="token_price",
        words=KNOWN["token_price"][0],
        value=seller.output_usd + asked.value * seller.input_usd,
        low=seller.output_usd + asked.low * seller.input_usd,
        high=seller.output_usd + asked.high * seller.input_usd,
        unit="USD/Mtoken",
        basis="derived",
        source=f"{model}: {seller.output_usd:g} USD + {asked.value:g} "
        f"[{asked.low:g}-{asked.high:g}, assumed] x {seller.input_usd:g} of input; {seller.source}",
        as_of=seller.as_of,
    )


def _electricity(site: Site, rows: Mapping[str, Fact]) -> Input:
    figure = site.figures["electricity_price"]
    spread = rows["electricity_spread"].value
    assert spread is not None
    if figure.value is None:
        return _of("electricity_price", rows["electricity_price"])
    stand_in = f"stand-in, {figure.proxy}: " if figure.proxy else ""
    return Input(
        name="electricity_price",
        words=f"{KNOWN['electricity_price'][0]}, {site.city or site.country_name}",
        value=figure.value,
        low=figure.value * (1 - spread) if figure.low is None else figure.low,
        high=figure.value * (1 + spread) if figure.high is None else figure.high,
        unit="USD/kWh",
        basis=figure.basis,
        source=stand_in + figure.source,
        as_of=figure.as_of,
    )


def _pue(site: Site, cooling: str, rows: Mapping[str, Fact]) -> Input:
    mean, spread = float(_year(site, cooling).mean()), rows["pue_spread"].value
    assert spread is not None
    return Input(
        name="pue",
        words=f"PUE, {cooling} in {site.city or site.country_name}",
        value=mean,
        low=max(mean - spread, 1.0),
        high=mean + spread,
        unit="1",
        basis="modelled",
        source="weather and cooling of the place, mean of the year",
        as_of="2026-11",
    )


def _year(site: Site, cooling: str) -> NDArray[np.float64]:
    """PUE by hour."""
    from gigafactory.stack.sites.year import year

    return np.asarray(year([site], cooling).pue[0], np.float64)
