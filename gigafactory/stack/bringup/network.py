"""The phases from site selection to first token, how long each takes, what each waits for.

A phase has low, likely and high weeks with their source, and starts when all that it waits for
has finished. A variant (another building, another source of power) is a row that replaces these.
Racks come in `waves`: firmware, burn-in and fabric of one go on while the next is delivered.
Weeks. Source: `data/bringup.csv`, each row its own.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from gigafactory.stack import facts

BUILDINGS = ("greenfield", "existing", "modular")
POWERS = ("grid", "on-site", "rented", "ready")
"""`rented`: turbines and batteries by the month, as one record had; `ready`: it is there."""
GRIDS = ("typical", "virginia", "us-average", "europe-hubs")
IN_WAVES = ("racks", "firmware", "burn-in", "fabric")
MOST_WAVES = 64
FIRST, LAST = "land", "token"
WEEKS_PER_MONTH = 365.25 / 12 / 7


class UnknownPhase(LookupError):
    """No such phase, or it is not part of this project."""

    def __init__(self, name: str, known: Iterable[str]):
        self.name, self.known = name, sorted(known)
        super().__init__(f"no phase {name!r}; known: {', '.join(self.known)}")


@dataclass(frozen=True)
class Weeks:
    """How long: what it takes at the least, most likely and at the most."""

    low: float
    likely: float
    high: float
    basis: str = "assumed"
    source: str = "as asked"
    as_of: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.likely <= self.high < math.inf:
            raise ValueError(f"{self.low}, {self.likely}, {self.high}: low, likely, high in weeks")


@dataclass(frozen=True)
class Phase:
    """One step of the project."""

    id: str
    name: str
    weeks: Weeks
    after: tuple[str, ...]
    """It starts when the last of these has finished."""


@dataclass(frozen=True)
class Options:
    """What kind of project: which rows apply."""

    building: str = "greenfield"
    power: str = "grid"
    grid: str = "typical"
    licence: bool = False
    """Whether the law asks a licence for the chips."""
    waves: int = 1
    """In how many waves the racks come."""
    weeks: Mapping[str, Weeks] = field(default_factory=dict)
    """Phase -> what is known better than the table has it."""


USUAL = Options()


@dataclass(frozen=True)
class Activity:
    """A phase, or its part for one wave of racks."""

    phase: int
    """Place in `Network.phases`."""
    wave: int
    share: float
    """Of the weeks of its phase."""
    after: tuple[int, ...]
    """Places in `Network.activities`, all before its own."""


@dataclass(frozen=True)
class Network:
    """Phases in an order in which each stands behind what it waits for; the last is the goal."""

    phases: tuple[Phase, ...]
    waves: int

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for phase in self.phases:
            if missing := set(phase.after) - seen:
                raise ValueError(f"{phase.id} waits for {missing}, which no phase before it is")
            seen.add(phase.id)

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the phases, in their order."""
        return tuple(phase.id for phase in self.phases)

    def place(self, phase: str) -> int:
        """Column of that phase. Raises `UnknownPhase`."""
        if phase not in self.ids:
            raise UnknownPhase(phase, self.ids)
        return self.ids.index(phase)

    @property
    def activities(self) -> tuple[Activity, ...]:
        """The phases, those of the racks once for each wave."""
        at: dict[tuple[str, int], int] = {}
        made: list[Activity] = []
        waved = [phase for phase in self.phases if phase.id in IN_WAVES]
        todo = [(phase, 0) for phase in self.phases if phase.id not in IN_WAVES]
        if waved:
            place = next(n for n, (phase, _) in enumerate(todo) if set(phase.after) & set(IN_WAVES))
            every = [(phase, wave) for wave in range(self.waves) for phase in waved]
            todo[place:place] = every
        for phase, wave in todo:
            waits = []
            for name in phase.after:
                of = wave if phase.id in IN_WAVES else self.waves - 1
                waits.append(at[name, of if name in IN_WAVES else 0])
            if phase.id in IN_WAVES and wave:
                waits.append(at[phase.id, wave - 1])  # One crew, one wave at a time.
            share = 1 / self.waves if phase.id in IN_WAVES else 1.0
            at[phase.id, wave] = len(made)
            made.append(Activity(self.ids.index(phase.id), wave, share, tuple(waits)))
        return tuple(made)


def network(options: Options = USUAL) -> Network:
    """The project of that kind. Raises `ValueError` for an option that is none."""
    for given, known in (
        (options.building, BUILDINGS),
        (options.power, POWERS),
        (options.grid, GRIDS),
    ):
        if given not in known:
            raise ValueError(f"{given!r} is none of {', '.join(known)}")
    if not 1 <= options.waves <= MOST_WAVES:
        raise ValueError(f"{options.waves} waves: from 1 to {MOST_WAVES}")
    grid = options.grid if options.power == "grid" else options.power
    phases = []
    for (name, variant), phase in _table().items():
        if variant or (name == "licence" and not options.licence):
            continue
        wanted = grid if name == "grid" else options.building
        phase = _table().get((name, wanted), phase)
        after = tuple(one for one in phase.after if one != "licence" or options.licence)
        phases.append(replace(phase, weeks=options.weeks.get(name, phase.weeks), after=after))
    made = Network(tuple(phases), options.waves)
    for name in options.weeks:
        made.place(name)
    return made


def time_to_power(months: float, low: float, high: float, **basis: str) -> Weeks:
    """A place's own time to power, in weeks, to stand for the phase `grid`."""
    likely = months * WEEKS_PER_MONTH
    return Weeks(
        min(low * WEEKS_PER_MONTH, likely), likely, max(high * WEEKS_PER_MONTH, likely), **basis
    )


def rows(kind: str) -> list[dict[str, str]]:
    """Rows of the table of one kind: phase, part, record or rate."""
    return [row for row in facts.rows("bringup") if row["kind"] == kind]


@cache
def _table() -> dict[tuple[str, str], Phase]:
    """(phase, variant) -> the phase; the variant is empty for the row that holds by default."""
    return {
        (row["id"], row["variant"]): Phase(
            id=row["id"],
            name=row["name"],
            weeks=Weeks(
                float(row["low"]),
                float(row["likely"]),
                float(row["high"]),
                row["basis"],
                row["source"],
                row["as_of"],
                row["note"],
            ),
            after=tuple(row["after"].split()),
        )
        for row in rows("phase")
    }
