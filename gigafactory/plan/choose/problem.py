"""What is chosen from and what is chosen: systems, sites, works, and the answer.

All money in one currency; SI: W, J, s, token, g of CO2e. Quarters are 0..Q-1. A node is what one
buys: a server or a rack, with its share of network and storage.

The rules of this world, all modelled. A node is bought and paid in a quarter, with the building
around it, and stands `lead_quarters` later until the end. The cap of a site holds for all that
stands, busy or not: breakers see no schedule. Energy and carbon count for nodes in use only. What
stands already costs energy alone. A training job runs at one site on one system, at any pace
between its start and deadline; in a quarter in which it runs, its gang of nodes stands there.
Serving is spread freely and in every quarter is exactly what is wanted. Works take turns on a
node within a quarter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from gigafactory.faults import nearest

YEAR_S = 365.25 * 86_400.0
Objective = Literal["cost", "carbon", "first-token", "tokens-per-joule"]
Kind = Literal["power", "budget", "law", "residency", "deadline", "supply", "demand"]


@dataclass(frozen=True)
class System:
    """A kind of node."""

    name: str
    chips: int
    price: float | tuple[float, ...]
    """Money per node delivered, with its network and storage; a tuple holds one per quarter."""
    power_w: float
    """At load, on the IT side."""
    supply: tuple[float, ...] | None = None
    """Nodes that can be bought in each quarter, over all sites; None is unlimited."""
    lead_quarters: int = 0

    def prices(self, quarters: int) -> tuple[float, ...]:
        """One price per quarter."""
        return self.price if isinstance(self.price, tuple) else (self.price,) * quarters


@dataclass(frozen=True)
class Site:
    """A place, or `count` places alike."""

    name: str
    power_w: tuple[float, ...]
    """Cap of one site at the meter by quarter, cooling included."""
    pue: float
    energy_price: tuple[float, ...]
    """Money per J at the meter, by quarter."""
    carbon_g_per_j: tuple[float, ...]
    facility_price: float
    """Money per W of IT power built."""
    lawful: Mapping[str, tuple[bool, ...]]
    """System to: may be bought in the quarter. A system that is absent may not."""
    installed: Mapping[str, int] = field(default_factory=dict)
    """Nodes that stand at each of the sites already."""
    count: int = 1


@dataclass(frozen=True)
class Work:
    """A demand: tokens served in each quarter, or tokens trained in all."""

    name: str
    kind: Literal["serve", "train"]
    allowed: frozenset[str]
    """Sites where it may run: residency and latency."""
    rate: Mapping[str, float]
    """System to tokens per second per node; a system that is absent cannot."""
    need: tuple[float, ...]
    """Serve: tokens/s in each quarter. Train: one number, tokens in all."""
    start: int = 0
    """First quarter in which a training job may run."""
    deadline: int | None = None
    """Last quarter in which a training job may run; None is the last of all."""
    gang_nodes: Mapping[str, int] = field(default_factory=dict)
    """Train: nodes of the system that must stand at its site while it runs."""
    revenue: float = 0.0
    """Money per token."""
    optional: bool = False
    """Done as far as it helps, a training job wholly or not at all."""


@dataclass(frozen=True)
class Problem:
    """What to choose from, and what for."""

    systems: tuple[System, ...]
    sites: tuple[Site, ...]
    works: tuple[Work, ...]
    quarters: int
    quarter_s: float = YEAR_S / 4
    budget: float | None = None
    """Money for nodes and buildings in all quarters, not discounted."""
    discount_per_quarter: float = 0.0
    upkeep: float = 0.0
    """Share of the purchase price paid per year while a node stands."""
    residual: float = 0.0
    """Share of the purchase price that a node is worth at the end, whatever its age."""
    facility_residual: float = 0.0
    """The same of the building, which outlives its nodes."""
    objective: Objective = "cost"

    def __post_init__(self) -> None:
        """What a caller got wrong; people's mistakes were found in the blueprint."""
        quarters, names = self.quarters, [each.name for each in self.systems]
        for kind in (self.systems, self.sites, self.works):
            assert len({each.name for each in kind}) == len(kind), "two of the same name"
        assert 0 <= self.residual <= 1
        assert self.discount_per_quarter >= 0 <= self.upkeep
        for system in self.systems:
            assert len(system.prices(quarters)) == quarters, system.name
            assert system.power_w > 0 <= system.lead_quarters, system.name
            assert system.supply is None or len(system.supply) == quarters, system.name
        for site in self.sites:
            by_quarter = (site.power_w, site.energy_price, site.carbon_g_per_j)
            assert all(len(each) == quarters for each in (*by_quarter, *site.lawful.values()))
            assert site.pue >= 1 <= site.count, site.name
            for name in (*site.lawful, *site.installed):
                assert name in names, f"{site.name}: {name}: {nearest(name, names)}"
        for work in self.works:
            assert all(rate > 0 for rate in work.rate.values()), work.name
            assert len(work.need) == (quarters if work.kind == "serve" else 1), work.name
            assert 0 <= work.start < quarters > self.last(work), work.name
            for name in work.rate:
                assert name in names, f"{work.name}: {name}: {nearest(name, names)}"

    def last(self, work: Work) -> int:
        """Last quarter in which `work` may run."""
        return self.quarters - 1 if work.deadline is None else work.deadline

    def window(self, work: Work) -> range:
        """Quarters in which `work` may run."""
        if work.kind == "serve":
            return range(self.quarters)
        return range(work.start, self.last(work) + 1)


@dataclass(frozen=True)
class Parts:
    """Money discounted to quarter 0; what comes in is negative. They add up to the cost."""

    capex: float = 0.0
    facility: float = 0.0
    energy: float = 0.0
    upkeep: float = 0.0
    residual: float = 0.0
    revenue: float = 0.0

    @property
    def cost(self) -> float:
        """Their sum."""
        return sum(getattr(self, part.name) for part in fields(self))


@dataclass(frozen=True)
class Choice:
    """What to buy, where and when, and what runs on it; proven to `gap`."""

    buys: Mapping[tuple[str, str, int], int]
    """(site, system, quarter) to nodes bought, over all sites of that name."""
    dealt: Mapping[tuple[str, int, str, int], int]
    """(site, which of its `count`, system, quarter) to nodes: the same purchases dealt out."""
    uses: Mapping[tuple[str, str, str, int], float]
    """(work, site, system, quarter) to nodes in use, the mean over the quarter."""
    parts: Parts
    spent: float
    """Money for nodes and buildings, not discounted: what the budget bounds."""
    carbon_g: float
    energy_j: float
    """At the meter."""
    tokens: float
    first_token_quarter: int | None
    objective: float
    """Money, g, a quarter, or tokens per J, as the problem asked."""
    bound: float
    """No choice is better than this."""
    gap: float
    """Share of the objective between it and the bound."""
    binding: tuple[tuple[str, str], ...] = ()
    """A constraint in words and what a little more of it is worth, the most valuable first."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """System or site that was not chosen to why not, in a sentence."""
    cpu_s: float = field(default=0.0, compare=False)

    def nodes(self) -> int:
        """Nodes bought."""
        return sum(self.buys.values())


@dataclass(frozen=True)
class Conflict:
    """One of the constraints that cannot all hold."""

    kind: Kind
    of: str
    """Site, work or system; empty for the budget."""
    words: str


@dataclass(frozen=True)
class Change:
    """Something that would make it possible."""

    words: str
    share: float
    """Size of the change in shares of what there was: 0.24 is a quarter more power."""
    problem: Problem
    """The problem after the change."""


class Infeasible(Exception):
    """Nothing meets all constraints: the few that cannot all hold, and what would help."""

    def __init__(self, conflicts: tuple[Conflict, ...], cheapest: Change):
        super().__init__("; ".join(each.words for each in conflicts) + f"; {cheapest.words}")
        self.conflicts = conflicts
        self.cheapest = cheapest


class OutOfTime(Exception):
    """No choice was found in the time given; that says nothing about whether there is one."""
