"""When a site's hall stands powered and commissioned, ready for racks: stated, or by bring-up.

A stated day stands as it is; what stands already is ready from the start; otherwise the median of
the project network for its kind of building, with the catalog's range of the grid. Modelled.
"""

from datetime import date, timedelta
from typing import Any

from gigafactory.blueprint.schema import Blueprint, Site
from gigafactory.plan.designed import Designed, Opening
from gigafactory.stack import sites
from gigafactory.stack.bringup import Options, Weeks, distribution, network, time_to_power
from gigafactory.stack.bringup.answers import bringup, day

DAYS_PER_WEEK = 7
SEED, DRAWS = 0, 4000
HALL = (
    "land",
    "permits",
    "shell",
    "transformers",
    "switchgear",
    "generators",
    "fit-out",
    "factory-tests",
    "commissioning",
)
"""Phases that a hall which stands ready has behind it, besides the grid."""
LICENCES = ("case_by_case", "licence_required")
MEDIAN = 1
"""Of the percentiles of bring-up."""


def ready(blueprint: Blueprint, name: str) -> tuple[date, str, str]:
    """(day, basis, source)."""
    site = blueprint.sites[name]
    if site.powered is not None:
        return site.powered, "stated", "the blueprint"
    if site.systems:
        return blueprint.start, "stated", "systems stand there already"
    of = distribution(network(_options(blueprint, site, licence=False)), SEED, DRAWS)
    place = next(n for n, phase in enumerate(of.network.phases) if phase.id == "commissioning")
    weeks = float(of.finish_weeks[MEDIAN][place])
    figure = sites.site(site.place or site.country).figures["time_to_power"]
    source = f"median of bring-up, {site.building}; grid: {figure.source}"
    return blueprint.start + timedelta(weeks=weeks), "modelled", source


def openings(blueprint: Blueprint, designed: Designed) -> dict[str, dict[str, Any]]:
    """Site -> what bring-up answers for it: critical path, first token, records. Bought ones."""
    bought = dict.fromkeys(one.site for one in designed.purchases)
    told = {}
    for name in bought:
        options = _options(blueprint, blueprint.sites[name], _asks_licence(designed, name))
        told[name] = bringup(options, SEED, DRAWS, blueprint.start, None, name)
    return told


def first_tokens(blueprint: Blueprint, designed: Designed) -> list[Opening]:
    """When the first token of each bought site comes, by the project network."""
    days = []
    for name in dict.fromkeys(one.site for one in designed.purchases):
        options = _options(blueprint, blueprint.sites[name], _asks_licence(designed, name))
        weeks = distribution(network(options), SEED, DRAWS).token_weeks
        p10, p50, p90 = (_day(blueprint, float(one)) for one in weeks)
        days.append(Opening(site=name, p10=p10, p50=p50, p90=p90))
    return days


def _day(blueprint: Blueprint, weeks: float) -> date:
    told = day(blueprint.start, weeks)
    assert told
    return date.fromisoformat(told)


def _asks_licence(designed: Designed, name: str) -> bool:
    systems = {one.system for one in designed.purchases if one.site == name}
    return any(
        one.outcome in LICENCES
        for one in designed.law
        if one.site == name and one.system in systems
    )


def _options(blueprint: Blueprint, site: Site, licence: bool) -> Options:
    if site.powered is not None:
        weeks = max((site.powered - blueprint.start).days / DAYS_PER_WEEK, 0.0)
        said = {"basis": "stated", "source": "the blueprint: the hall is ready that day"}
        done = {phase: Weeks(0.0, 0.0, 0.0, **said) for phase in HALL}
        done["grid"] = Weeks(weeks, weeks, weeks, **said)
        return Options(building=site.building, licence=licence, weeks=done)
    figure = sites.site(site.place or site.country).figures["time_to_power"]
    months = figure.value or 0.0
    grid = time_to_power(
        months,
        figure.low or months,
        figure.high or months,
        basis=figure.basis,
        source=figure.source,
        as_of=figure.as_of,
    )
    return Options(building=site.building, licence=licence, weeks={"grid": grid})
