"""How far two places are apart, and how long a packet takes there and back. Modelled.

In: places. Out: m, s. The way is great circles through the gateways that cables take between
parts of the world (Suez for Europe and Asia), `route` times as long as these, at the speed of
light in fibre, plus an overhead. The range holds nine of ten published pairs.
Sources: each row's own, in `data/latencies.csv`, with the published pairs it was fitted to.
"""

import math
from functools import cache
from itertools import pairwise

from gigafactory.stack import facts
from gigafactory.stack.facts import Fact
from gigafactory.stack.sites import places
from gigafactory.stack.sites.places import Figure, Site

EARTH_RADIUS_M = 6_371_008.8  # mean radius, IUGG
LIGHT_M_PER_S = 299_792_458.0
Point = tuple[float, float]


def distance_m(a: Site, b: Site) -> float:
    """Great circle between two places."""
    return _arc_m((a.latitude, a.longitude), (b.latitude, b.longitude))


def round_trip_s(a: Site, b: Site) -> Figure:
    """There and back between two places, with the range of the published pairs; 0 inside one."""
    value_s = low_s = high_s = 0.0
    if a.id != b.id:
        arc_m, flight_s = distance_m(a, b), 2 * cable_m(a, b) / fibre_m_per_s()
        low_s, value_s, high_s = (
            _model("spread", of) * (_overhead_s(arc_m, of) + flight_s)
            for of in ("low", "value", "high")
        )
        low_s = max(low_s, 2 * arc_m / fibre_m_per_s())  # Light is not overtaken.
    return Figure(
        value=value_s,
        low=low_s,
        high=high_s,
        unit="s",
        basis="modelled",
        source="great circles through gateways, speed of light in fibre, route factor "
        "and overhead of data/latencies.csv",
        as_of="2026-11",
    )


def published_round_trip_s(a: Site, b: Site) -> Figure | None:
    """The published round trip between the cities of two places; None if nobody states one."""
    pairs = published()
    for one in _same_city(a):
        for other in _same_city(b):
            fact = pairs.get((one, other)) or pairs.get((other, one))
            if fact:
                return Figure(
                    *(fact.value, fact.low, fact.high, "s", fact.basis, fact.source, fact.as_of)
                )
    return None


def cable_m(a: Site, b: Site) -> float:
    """Length of the cable between two places."""
    # Always counted from the same end, so that there and back are equal to the last bit.
    a, b = sorted((a, b), key=lambda one: one.id)
    points = [
        (a.latitude, a.longitude),
        *(_gateway(name) for name in _via(_basin(a), _basin(b))),
        (b.latitude, b.longitude),
    ]
    arcs_m = [_arc_m(*leg) for leg in pairwise(points)]
    return _model("route") * sum(arcs_m)


def fibre_m_per_s() -> float:
    """Speed of light in fibre."""
    return LIGHT_M_PER_S / _model("refraction")


@cache
def published() -> dict[tuple[str, str], Fact]:
    """The published round trips, in s, by the ids of the two places."""
    found: dict[tuple[str, str], Fact] = {}
    for fact in facts.load("latencies"):
        if fact.quantity == "round_trip":
            a, _, b = fact.subject.partition("/")
            found[a, b] = fact
    return found


def _same_city(place: Site) -> list[str]:
    """Ids of the places of that city, this one first."""
    city = (place.city, place.country)
    others = [one.id for one in places.sites() if one.city and (one.city, one.country) == city]
    return list(dict.fromkeys((place.id, *others)))


def _arc_m(a: Point, b: Point) -> float:
    """Haversine formula on the sphere; points in degrees."""
    (south, west), (north, east) = (tuple(map(math.radians, point)) for point in (a, b))
    half = (
        math.sin((north - south) / 2) ** 2
        + math.cos(south) * math.cos(north) * math.sin((east - west) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_M * math.asin(math.sqrt(min(half, 1.0)))


def _overhead_s(arc_m: float, end: str = "value") -> float:
    """Grows from that of a city to its full size at `reach`: near places share their cables."""
    near_s, far_s = _model("metro", end), _model("overhead")
    return near_s + (far_s - near_s) * min(1.0, arc_m / _model("reach"))


def _basin(place: Site) -> str:
    return places.text("places", place.country, "basin")


@cache
def _via(one: str, other: str) -> tuple[str, ...]:
    """Gateways on the way from one part of the world to another, in that order."""
    there = places.text("latencies", f"{one}/{other}", "via")
    back = places.text("latencies", f"{other}/{one}", "via")
    names = tuple(name for name in (there or back).split("; ") if name)
    return names if there else names[::-1]


def _gateway(name: str) -> Point:
    return _constant(name, "latitude"), _constant(name, "longitude")


def _model(quantity: str, end: str = "value") -> float:
    return _constant("model", quantity, end)


@cache
def _constant(subject: str, quantity: str, end: str = "value") -> float:
    """One number of `data/latencies.csv`, in SI; `end` is value, low or high."""
    number = getattr(facts.by_subject("latencies")[subject][quantity], end)
    assert isinstance(number, float), (subject, quantity, end)
    return number
