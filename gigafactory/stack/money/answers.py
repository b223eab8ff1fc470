"""What is told of money: one answer for `cost`, one for `invest`, in a currency. Modelled.

Plain dictionaries, ready for `--json`, which the screens and plots draw.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigafactory.stack import facts
from gigafactory.stack.chips import System
from gigafactory.stack.law import Ruling
from gigafactory.stack.money import build, cash, choices, currency, risk
from gigafactory.stack.money.figures import GIVEN, Input, middle
from gigafactory.stack.sites import Site

Json = dict[str, Any]
BINS = 40
TAX = "before tax, without land; amounts are of their month (nominal)"
FEES = ("value", "revenue")


def cost(
    system: System,
    nodes: int,
    asked: Mapping[str, Input],
    money: str = "USD",
    site: Site | None = None,
    cooling: str = "direct-to-chip",
) -> Json:
    """Capex, a year, an hour of a GPU, each in parts that add up."""
    values = middle(asked)
    worth = _worth(money)
    capex = _in(worth, build.capex(system, nodes, values))
    year = _in(worth, build.yearly(system, nodes, values))
    chips = nodes * system.chips_per_node
    hours = chips * build.HOURS
    owned = {name: amount / hours for name, amount in year.items()}
    return {
        **_head(system, nodes, values, money, site, cooling),
        "capex": {"parts": capex, "total": sum(capex.values())},
        "capex_per_w": sum(capex.values()) / float(build.nameplate_w(system, nodes, values)),
        "opex": {
            "parts": {name: year[name] for name in build.RUNNING},
            "total": sum(year[name] for name in build.RUNNING),
        },
        "yearly": {"parts": year, "total": sum(year.values())},
        "gpu_hour": {
            "parts": owned,
            "owned": sum(owned.values()),
            "owned_before_capital": sum(owned.values()) - owned["capital"],
            "sold": sum(owned.values()) / values["load"] if values["load"] else None,
        },
        "inputs": {name: asdict(one) for name, one in asked.items()},
        "terms": _rate(money),
    }


def invest(
    project: cash.Project,
    asked: Mapping[str, Input],
    money: str = "USD",
    site: Site | None = None,
    cooling: str = "direct-to-chip",
    draws: int = risk.DRAWS,
    seed: int = 0,
    model: str = "",
    ruling: Ruling | None = None,
) -> Json:
    """Cash by month and what it is worth, what moves it, and the ways of not investing."""
    values, worth = middle(asked), _worth(money)
    terms = ["machine_months"] + ["build_months"] * (project.building_months is None)
    flow = cash.flow(project, values)
    rate = values["discount_rate"]
    start = np.datetime64(project.start, "M")
    months = [str(start + month) for month in range(flow.net.size)]
    hours = float(cash.npv(flow.gpu_hours, rate))
    costs = float(cash.npv(flow.costs, rate))
    each = costs / hours if hours else None
    tokens = values["tokens_per_s"] * 3600 / 1e6
    return {
        **_head(project.system, project.nodes, values, money, site, cooling),
        "sell": project.sell,
        "model": model,
        "start": months[0],
        "build_months": project.build_months,
        "first_token": project.first_token.isoformat(),
        "years": project.months / 12,
        "discount_rate": rate,
        "debt": {
            "share": project.debt,
            "rate": project.debt_rate,
            "years": project.debt_years,
        },
        "project": _worth_of(flow.net, rate, worth, months),
        "equity": _worth_of(flow.equity, rate, worth, months),
        "levelised": {
            "gpu_hour": None if each is None else each / worth,
            "million_tokens": None if each is None or not tokens else each / tokens / worth,
            "sold_at_first": float(flow.price[project.build_months]) / worth,
            "sold_at_last": float(flow.price[-1]) / worth,
        },
        "cash": {
            "months": months,
            "parts": {name: _list(part / worth) for name, part in flow.parts.items()},
            "loan": {name: _list(part / worth) for name, part in flow.loan.items()},
            "net": _list(flow.net / worth),
            "equity": _list(flow.equity / worth),
        },
        "tornado": [
            {
                "name": bar.asked.name,
                "words": bar.asked.words,
                "low": bar.asked.low,
                "high": bar.asked.high,
                "unit": bar.asked.unit,
                "npv_at_low": bar.at_low / worth,
                "npv_at_high": bar.at_high / worth,
            }
            for bar in risk.tornado(project, asked)
        ],
        "monte_carlo": _futures(risk.monte_carlo(project, asked, draws, seed) / worth, seed),
        "choices": _choices(choices.choose(project, values), values, worth),
        "law": None if ruling is None else _law(ruling),
        "inputs": {name: asdict(one) for name, one in asked.items()},
        "terms": [*_rate(money), *map(_term, terms)],
    }


def with_fee(asked: dict[str, Input], ruling: Ruling) -> dict[str, Input]:
    """The inputs with what the law takes of the nodes' price; what is given stays.

    A seller's share of revenue is taken as passed on to the buyer, like a duty on the value.
    """
    owed = [
        (rule, term) for rule, term in ruling.terms if term.fraction is not None and term.of in FEES
    ]
    if not owed or asked["fee"].basis == GIVEN:
        return asked
    share = sum(term.fraction or 0.0 for _, term in owed)
    said = "; ".join(f"{rule}: {term.text}" for rule, term in owed)
    fee = Input("fee", asked["fee"].words, share, share, share, "1", "published", said, "")
    return {**asked, "fee": fee}


def _head(
    system: System,
    nodes: int,
    values: Mapping[str, float],
    money: str,
    site: Site | None,
    cooling: str,
) -> Json:
    nameplate_w = float(build.nameplate_w(system, nodes, values))
    return {
        "basis": "modelled",
        "leaves_out": TAX,
        "system": system.name,
        "nodes": nodes,
        "chips": nodes * system.chips_per_node,
        "nameplate_w": nameplate_w,
        "site_w": nameplate_w * values["pue"],
        "at": None if site is None else site.id,
        "at_name": None if site is None else site.name,
        "cooling": cooling,
        "currency": money,
    }


def _worth_of(flows: NDArray[np.float64], rate: float, worth: float, months: list[str]) -> Json:
    paid = cash.payback_month(flows)
    return {
        "npv": float(cash.npv(flows, rate)) / worth,
        "irr": cash.irr(flows),
        "payback_month": paid,
        "payback": None if paid is None else months[paid],
    }


def _futures(worths: NDArray[np.float64], seed: int) -> Json:
    counts, edges = np.histogram(worths, BINS)
    low, half, high = np.quantile(worths, (0.1, 0.5, 0.9))
    return {
        "draws": worths.size,
        "seed": seed,
        "p10": float(low),
        "p50": float(half),
        "p90": float(high),
        "mean": float(worths.mean()),
        "chance_of_gain": float((worths > 0).mean()),
        "counts": counts.tolist(),
        "edges": _list(edges),
    }


def _choices(choice: choices.Choice, values: Mapping[str, float], worth: float) -> Json:
    hours, tokens = choice.discounted_hours, values["tokens_per_s"] * 3600 / 1e6
    return {
        "costs": {
            way: {
                "total": cost / worth,
                "per_gpu_hour": cost / hours / worth if hours else None,
                "per_million_tokens": cost / hours / tokens / worth if hours and tokens else None,
            }
            for way, cost in choice.costs.items()
        },
        "cheapest": choice.cheapest,
        "tokens": choice.tokens,
        "gpu_hours": choice.gpu_hours,
        "break_even_load": dict(choice.break_even),
    }


def _law(ruling: Ruling) -> Json:
    return {
        "outcome": ruling.outcome,
        "may_stand": ruling.may_stand,
        "terms": [{"rule": rule, "text": term.text} for rule, term in ruling.terms],
    }


def _worth(money: str) -> float:
    """USD that one unit of `money` is worth. Raises `currency.UnknownCurrency`."""
    return currency.convert(1.0, money, "USD", currency.rates())


def _in(worth: float, parts: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(amount) / worth for name, amount in parts.items()}


def _rate(money: str) -> list[Json]:
    """The exchange rate, as a figure with its source; none from USD to USD."""
    if money == "USD":
        return []
    return [_figure(f"USD for one {money}", facts.by_subject("exchange_rates")[money]["worth"])]


def _term(quantity: str) -> Json:
    fact = next(fact for fact in facts.load("economics") if fact.quantity == quantity)
    return _figure(quantity.replace("_", " "), fact)


def _figure(words: str, fact: facts.Fact) -> Json:
    return {
        "words": words,
        "value": fact.value,
        "unit": fact.unit,
        "basis": fact.basis,
        "source": fact.source,
        "as_of": fact.as_of,
    }


def _list(values: NDArray[Any]) -> list[float]:
    return [float(value) for value in values]
