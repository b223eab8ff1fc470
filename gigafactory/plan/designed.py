"""A designed factory as data: what to buy, what runs on it, money, proof and reasons. Modelled."""

from datetime import date

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """Part of a design."""

    model_config = ConfigDict(frozen=True)


class Purchase(Frozen):
    """Nodes of a system bought for a site in a quarter."""

    site: str
    system: str
    quarter: int
    day: date
    """First day of that quarter: the order; they stand some quarters later."""
    stands: date
    nodes: int
    chips: int
    price: float
    """Of the nodes with their network and storage, without the building."""
    power_w: float


class Use(Frozen):
    """Nodes that a demand has in a quarter, the mean over it."""

    demand: str
    site: str
    system: str
    quarter: int
    nodes: float


class Speed(Frozen):
    """What a node does of a demand, or why it cannot."""

    demand: str
    system: str
    tokens_per_s_per_node: float | None = None
    tokens_per_s_per_chip: float | None = None
    nodes: int | None = None
    layout: str = ""
    mfu: float | None = None
    tpot_s: float | None = None
    ttft_s: float | None = None
    why_not: str = ""


class Place(Frozen):
    """What a site gives, with the basis and source of each figure."""

    site: str
    place: str
    country: str
    count: int
    power_w: float
    powered: date
    pue: float
    pue_hot: float
    wue_l_per_kwh: float
    energy_price_per_kwh: float
    carbon_g_per_kwh: float
    basis: dict[str, str]
    sources: dict[str, str]


class Lawful(Frozen):
    """Whether a system may be bought for a site, from a day to a day, by which rule."""

    site: str
    system: str
    first: date
    end: date
    may_stand: bool
    outcome: str
    rule: str


class Month(Frozen):
    """Money of a month, not discounted: what goes out, and what services bring in."""

    day: date
    machines: float
    facility: float
    upkeep: float
    energy: float
    revenue: float

    @property
    def net(self) -> float:
        """What comes in less what goes out."""
        return self.revenue - self.machines - self.facility - self.upkeep - self.energy


class Opening(Frozen):
    """Days of a site's first token by bring-up: one in ten before `p10`, half before `p50`."""

    site: str
    p10: date
    p50: date
    p90: date


class Designed(Frozen):
    """A factory chosen: purchases, uses, money, energy, proof and reasons. Modelled."""

    name: str
    currency: str
    blueprint_hash: str
    catalog_hash: str
    objective: str
    start: date
    quarters: list[date]
    purchases: list[Purchase]
    uses: list[Use]
    speeds: list[Speed]
    places: list[Place]
    law: list[Lawful]
    cash: list[Month]
    parts: dict[str, float]
    """Discounted money by kind; what comes in is negative. They add up to `cost`."""
    cost: float
    spent: float
    """Money for nodes and buildings, not discounted."""
    carbon_kg: float
    energy_kwh: float
    water_l: float
    tokens: float
    first_token: date | None
    """First day of the quarter in which it comes."""
    opens: list[Opening] = Field(default_factory=list)
    objective_value: float
    bound: float
    gap: float
    binding: list[tuple[str, str]]
    reasons: dict[str, str]
    basis: str = "modelled"

    @property
    def chips(self) -> int:
        """Bought in all."""
        return sum(one.chips for one in self.purchases)
