"""How a factory is run from day to day: policy, failures, upkeep, racks, battery and grid.

W, J, s; moments in UTC.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gigafactory.blueprint.parts import Joules, Moment, Part, Seconds, Share, Watts, WattsPerS


class Racks(Part):
    """How the nodes of a site are grouped: what is near to what, and what shares a feed."""

    nodes: Annotated[int, Field(ge=1, le=1000)] = Field(description="of a rack")
    per_block: Annotated[int, Field(ge=1, le=10_000)] = Field(8, description="racks of a block")
    power_w: Watts | None = Field(None, alias="power", description="cap of a rack, of machines")


class Battery(Part):
    """What carries a site through a curtailment."""

    power_w: Watts = Field(alias="power")
    energy_j: Joules = Field(alias="energy")


class Curtailment(Part):
    """A time in which the grid gives less."""

    at: Moment
    cut: Share = Field(description="of the site's power")
    lasts_s: Seconds = Field(alias="lasts")


class Grid(Part):
    """What the contract with the grid allows."""

    ramp_w_per_s: WattsPerS | None = Field(None, alias="ramp", description="fastest change")
    curtail: tuple[Curtailment, ...] = ()


class Maintenance(Part):
    """Every node is drained and looked after, a few at a time, round after round."""

    every_s: Seconds = Field(alias="every")
    lasts_s: Seconds = Field(alias="lasts", description="of one node")
    at_once: Share = Field(0.02, description="of the nodes")


class Operations(Part):
    """What decides who runs next, and what is done about what breaks."""

    policy: Literal["fifo", "sjf", "srtf", "fair", "deadline", "carbon", "goodput-per-watt"] = (
        "fifo"
    )
    backfill: bool = Field(True, description="what fits may pass what waits, if it delays nothing")
    preempt_after_s: Seconds = Field(
        600.0, alias="preempt_after", description="a job runs so long before it may be preempted"
    )
    checkpoint_s: Annotated[
        Seconds | None, BeforeValidator(lambda value: None if value == "auto" else value)
    ] = Field(None, alias="checkpoint", description="work between two; auto: the best interval")
    failures: Literal["llama3", "rsc-1", "rsc-2", "none"] = Field(
        "none", description="the study whose rates hold"
    )
    spares: Annotated[int, Field(ge=0, le=10_000)] = Field(
        0, description="nodes of each pool kept free for restarts"
    )
    lemons: Annotated[int, Field(ge=1, le=1000)] = Field(
        3, description="failures within 30 days after which a node is taken out"
    )
    maintenance: Maintenance | None = None
