"""Cut-ins and merges drawn from a model of everyday traffic, driven by whoever is to be judged.

A scenario is `DIMENSIONS` standard normal numbers u; `parameters` makes of them speeds, gaps and
times. The marginals are assumed: of the size that naturalistic studies of highways report (gaps
of tens of metres, lane changes of 3 to 5 s, closing speeds of a few m/s), fitted to none of them.
So a failure probability is one per scenario of this model, not per kilometre of any road.

Units: m, s, m/s, m/s². Source of the form: Zhao et al. 2017, doi:10.1109/TITS.2016.2582208
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gigafactory.jobs.worlds import road, traffic

KINDS = ("cut_in", "merge")
DIMENSIONS = 7
STEP_S = 0.2
SUBSTEPS = 3
STEPS = 60  # 12 s
FAR_M = 100.0
ASIDE = 5.0
OFF_ROAD = -0.01  # the margin of who leaves the road unhurt

Act = Callable[[np.ndarray], np.ndarray]
"""Views (n, V) to actions (n, 2) in [-1, 1]."""


def parameters(kind: str, u: np.ndarray) -> np.ndarray:
    """(n, DIMENSIONS) standard normal to (n, SCENARIO) of `traffic.cut_in`."""
    out = np.zeros((len(u), traffic.SCENARIO))
    merging = kind == "merge"
    speed = np.clip((24.0 if merging else 28.0) + 3.5 * u[:, 0], 8.0, 42.0)
    # Who merges comes from a ramp: slower, nearer, and takes longer.
    gap = (28.0 if merging else 32.0) * np.exp((0.4 if merging else 0.45) * u[:, 1])
    slower = (2.5 if merging else 0.5) + 2.0 * u[:, 2]
    out[:, traffic.EGO_SPEED] = speed
    out[:, traffic.GAP] = np.clip(gap, 0.5, FAR_M)
    out[:, traffic.OTHER_SPEED] = other = np.clip(speed - slower, 3.0, 45.0)
    out[:, traffic.CUT_BEGIN_S] = 1.0
    out[:, traffic.CUT_TAKES_S] = np.clip((4.5 if merging else 3.5) * np.exp(0.3 * u[:, 3]), 1.2, 9)
    # One in six brakes after the change, few of them hard.
    out[:, traffic.BRAKES_M_S2] = np.clip(2.0 * (u[:, 4] - 1.0), 0.0, 8.0)
    out[:, traffic.BRAKES_AFTER_S] = np.clip(2.0 * np.exp(0.6 * u[:, 5]), 0.2, 12.0)
    down_to = other * np.clip(0.5 - 0.3 * u[:, 6], 0.0, 1.0)
    out[:, traffic.BRAKES_TO] = np.where(out[:, traffic.BRAKES_M_S2] > 0, down_to, other)
    out[:, traffic.LEAD_GAP] = np.inf
    return out


@dataclass(frozen=True)
class Outcome:
    """What came of n scenarios: `margin` (n,), below 0 where the ego hit or left the road.

    Else it is the smallest of `gaps`; where it hit, minus the closing speed in m/s. `when_s` is
    inf where nothing was.
    """

    margin: np.ndarray
    when_s: np.ndarray
    why: np.ndarray


def tables(scenarios: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cars, roads and people of scenarios, on a road whose limit is what its traffic drives."""
    cars, roads, people = traffic.cut_in_cars(scenarios)
    roads[:, traffic.LIMIT] = np.maximum(
        scenarios[:, traffic.EGO_SPEED], scenarios[:, traffic.OTHER_SPEED]
    )
    return cars, roads, people


def drive(scenarios: np.ndarray, act: Act) -> Outcome:
    """Drive every scenario with `act`, which sees what a driver of the Drive task sees."""
    return run(scenarios, lambda cars, roads, people: act(traffic.view(cars, roads, people)))


def best(scenarios: np.ndarray) -> np.ndarray:
    """(n,): whether the ego could have come through: one of three manoeuvres does.

    Each begins at the first moment of the cut: brake with all there is, that and change to the
    free lane on the left, or only change. What none of them avoids is called unavoidable; a
    manoeuvre that nobody tried here might still avoid it.
    """
    saved = np.zeros(len(scenarios), bool)
    for brake, aside in ((True, False), (True, True), (False, True)):
        left = ~saved
        saved[left] = run(scenarios[left], _escape(brake, aside)).margin >= 0
    return saved


def _escape(brake: bool, aside: bool) -> Callable[..., np.ndarray]:
    def act(cars: np.ndarray, roads: np.ndarray, people: np.ndarray) -> np.ndarray:
        ego, begun = cars[:, 0], cars[:, 1, traffic.CUT_AGE_S] >= 0
        aim = np.where(begun & aside, 0.0, roads[:, traffic.LANE_WIDTH_M])
        # Heading towards the aim, steering towards the heading.
        wanted = np.clip((aim - ego[:, traffic.Y]) / np.maximum(1.2 * ego[:, traffic.SPEED], 4.0),
                         -0.2, 0.2)  # fmt: skip
        action = np.zeros((len(cars), 2))
        action[:, 0] = np.where(begun & brake, -1.0, 0.0)
        action[:, 1] = np.clip(0.5 * ego[:, traffic.SPEED] * (wanted - ego[:, traffic.HEADING]),
                               -1, 1)  # fmt: skip
        return action

    return act


def run(scenarios: np.ndarray, act: Callable[..., np.ndarray]) -> Outcome:
    """Drive every scenario with `act(cars, roads, people)`; those that are over stand still."""
    n = len(scenarios)
    margin, when_s, why = np.full(n, FAR_M), np.full(n, np.inf), np.zeros(n)
    at = np.arange(n)
    cars, roads, people = tables(scenarios)
    for step in range(STEPS):
        if not len(at):
            break
        closing = cars[:, 0, traffic.SPEED] - cars[:, 1, traffic.SPEED]
        told = traffic.commands(cars, act(cars, roads, people))
        traffic.step(cars, roads, people, told, np.ones(len(at), bool), road.DT_S, SUBSTEPS)
        margin[at] = np.minimum(margin[at], gaps(cars))
        crashed = cars[:, 0, traffic.CRASHED]
        hit = crashed == traffic.HIT_VEHICLE
        margin[at[hit]] = -np.maximum(closing[hit], 0.01)
        margin[at[crashed == traffic.OFF_ROAD]] = OFF_ROAD
        over = crashed > 0
        when_s[at[over]], why[at[over]] = (step + 1) * STEP_S, crashed[over]
        # Compact: most are driven to their end, but those that failed are not.
        if over.any():
            at, cars, roads, people = at[~over], cars[~over], roads[~over], people[~over]
    return Outcome(margin, when_s, why)


def gaps(cars: np.ndarray) -> np.ndarray:
    """(n,): how far the other is, m along the road; a metre aside counts as ASIDE of them.

    Falls without a step from who is a lane away to who is hit, so the search can follow it.
    """
    ego, other = cars[:, 0], cars[:, 1]
    along, aside = (
        np.abs(other[:, at] - ego[:, at]) - (other[:, size] + ego[:, size]) / 2
        for at, size in ((traffic.X, traffic.LENGTH), (traffic.Y, traffic.WIDTH))
    )
    return np.hypot(np.maximum(along, 0.0), ASIDE * np.maximum(aside, 0.0))
