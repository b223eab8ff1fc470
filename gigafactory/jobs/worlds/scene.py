"""A scene: one world drawn from a seed, as MJCF text, and the things in it that have a label.

Lengths m, masses kg, times s, angles rad, z up. A body called `CLASS/NUMBER` (`pallet/3`) is a
labelled thing. Geoms that are only to be seen have contype = conaffinity = 0 and group 2, those
that must not be drawn group 4. Cameras are called `camera/0`, `camera/1`, ...

Every seed of a world gives the same bodies, geoms and joints in the same order, so that
`mujoco.batch.Batch.set_models` can step many layouts together: what a layout does not need is
parked below the floor (`PARKED`).
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import mujoco
import numpy as np

from gigafactory.jobs.context import JobRefused

SPLITS = ("train", "heldout")
PARKED_Z = -20.0
PARKED = {"contype": 0, "conaffinity": 0, "group": 4}
"""Attributes of a geom to be seen that this layout does not need; its body is at `PARKED_Z`."""
PARKED_SOLID = {**PARKED, "conaffinity": 1 << 20}
"""The same of a geom that collides. Nothing has that bit, but with no bit at all the model would
lack a leaf in its tree of bounding volumes, and with it the structure of its siblings."""

ESCAPES = {ord("&"): "&amp;", ord('"'): "&quot;", ord("<"): "&lt;"}
LABEL = re.compile(r"([^/]+)/(\d+)")


class WorldRefused(JobRefused):
    """A world that was asked for and cannot be built."""


@dataclass(frozen=True)
class Range:
    """What a parameter may be: uniform from `low` to `high`, both possible where `whole`."""

    low: float
    high: float
    unit: str = ""
    whole: bool = False

    @property
    def middle(self) -> float:
        """The nominal value."""
        middle = (self.low + self.high) / 2
        return float(round(middle)) if self.whole else middle


@dataclass(frozen=True)
class Scene:
    """One world. `drawn` is the value of each parameter that was drawn, for coverage."""

    world: str
    """warehouse | factory | road | import"""
    seed: int
    mjcf: str
    drawn: dict[str, float]
    classes: tuple[str, ...]
    assets: dict[str, bytes] = field(default_factory=dict)

    def model(self) -> mujoco.MjModel:
        """The model, compiled anew; the caller keeps it."""
        return mujoco.MjModel.from_xml_string(self.mjcf, self.assets)


@dataclass(frozen=True)
class Thing:
    """A labelled thing: its number counts from 1 in the order of bodies."""

    number: int
    name: str
    class_: str
    body: int
    geoms: tuple[int, ...]


def seed_of(seed: int, layouts: str, index: int) -> int:
    """The seed of layout `index` of a split.

    Its last bit is the split, so that no layout is ever in both; below 2**53, so that every
    reader of JSON keeps it whole.
    """
    if layouts not in SPLITS:
        raise WorldRefused(
            f"there are no layouts {layouts!r}", "layouts", "a layout is of one split or the other",
            f"write {' or '.join(SPLITS)}",
        )  # fmt: skip
    digest = hashlib.blake2b(f"{seed}/{layouts}/{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 12) * 2 + SPLITS.index(layouts)


def draw(
    rng: np.random.Generator,
    parameters: Mapping[str, Range],
    ranges: Mapping[str, tuple[float, float]] | None = None,
    fixed: Collection[str] = (),
) -> dict[str, float]:
    """A value for each parameter, those in `fixed` at the middle of their range.

    The stream is consumed alike whatever is fixed, so that layouts are the same with and without.
    """
    drawn = {}
    for name, range_ in within(parameters, ranges or {}).items():
        u = float(rng.random())
        if name in fixed:
            value = range_.middle
        elif range_.whole:
            value = float(
                min(np.floor(range_.low + u * (range_.high - range_.low + 1)), range_.high)
            )
        else:
            value = range_.low + u * (range_.high - range_.low)
        drawn[name] = value
    return drawn


def within(
    parameters: Mapping[str, Range],
    ranges: Mapping[str, tuple[float, float]],
    where: str = "ranges",
) -> dict[str, Range]:
    """The parameters, each narrowed to what the user asked for; refuses what is impossible."""
    narrowed = dict(parameters)
    for name, asked in ranges.items():
        if name not in parameters:
            raise WorldRefused(
                f"no parameter is called {name!r}",
                f"{where}.{name}",
                f"this world draws {', '.join(sorted(parameters))}",
                "name one of these",
            )
        possible = parameters[name]
        try:
            low, high = (float(end) for end in asked)
        except (TypeError, ValueError):
            low, high = np.nan, np.nan
        if not possible.low <= low <= high <= possible.high or (
            possible.whole and (low % 1 or high % 1)
        ):
            kind = "whole numbers" if possible.whole else "numbers"
            raise WorldRefused(
                f"{name} cannot be drawn from {asked!r}",
                f"{where}.{name}",
                f"possible are two {kind} from {possible.low:g} to {possible.high:g}"
                f" {possible.unit}".rstrip()
                + ", the lower first",
                f"write {name}: [{possible.low:g}, {possible.high:g}], or less",
            )
        narrowed[name] = Range(low, high, possible.unit, possible.whole)
    return narrowed


def things(model: mujoco.MjModel) -> tuple[Thing, ...]:
    """The labelled things: bodies called CLASS/NUMBER.

    Where no body is called so (an imported world), every named body is one, its class the name
    without digits at its end. The geoms of a body belong to the nearest thing above it.
    """
    names = [model.body(body).name for body in range(model.nbody)]
    labels = {b: match[1] for b, name in enumerate(names) if (match := LABEL.fullmatch(name))}
    if not labels:
        labels = {
            body: re.sub(r"[\d_-]+$", "", name) or name
            for body, name in enumerate(names)
            if body and name
        }
    geoms: dict[int, list[int]] = {body: [] for body in labels}
    owner = [0] * model.nbody
    for body in range(1, model.nbody):
        # A parent's number is lower than its children's.
        owner[body] = body if body in labels else owner[model.body_parentid[body]]
    for geom in range(model.ngeom):
        if mine := owner[model.geom_bodyid[geom]]:
            geoms[mine].append(geom)
    return tuple(
        Thing(number, names[body], labels[body], body, tuple(geoms[body]))
        for number, body in enumerate(sorted(labels), start=1)
    )


def element(tag: str, *inside: str, **attributes: object) -> str:
    """An XML element; numbers are written alike on every machine, a None is left out.

    `class_` and `type` as Python lets them be written: a trailing underscore is dropped.
    """
    written = "".join(
        f' {name.rstrip("_")}="{text(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{written}>{''.join(inside)}</{tag}>\n" if inside else f"<{tag}{written}/>\n"


def text(value: object) -> str:
    """A value of an attribute: a number to a millionth, several with spaces between."""
    kind = type(value)
    if kind is float:
        # Adding 0.0 turns -0.0 into 0.0.
        return f"{round(value, 6) + 0.0:.8g}"  # type: ignore[call-overload]
    if kind is str:
        return value.translate(ESCAPES)  # type: ignore[attr-defined]
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return text(value.tolist())
    return " ".join(map(text, value))  # type: ignore[call-overload]
