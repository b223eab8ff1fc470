"""Which systems to buy, where and when, and what runs on them: chosen, proven, explained.

    choice = choose(Problem(systems, sites, works, quarters=12))
    choice.buys["milan", "gb300", 2]     # nodes
    choice.gap                           # proven: no choice is better by more
    choice.binding                       # what one more MW is worth
    choice.reasons["h100"]               # why it lost

`problem` holds the records and the rules, `model` the linear model, `aggregate` what makes it
small, `deal` the way back, `answer` the search, `explain` the shadow prices, `conflict` the proof
that nothing is possible. Pure: the same problem has the same answer, unless time runs out.
"""

from gigafactory.plan.choose.answer import Saved, apart, choose, front, shared_saving
from gigafactory.plan.choose.problem import (
    Change,
    Choice,
    Conflict,
    Infeasible,
    OutOfTime,
    Parts,
    Problem,
    Site,
    System,
    Work,
)

__all__ = [
    "Change",
    "Choice",
    "Conflict",
    "Infeasible",
    "OutOfTime",
    "Parts",
    "Problem",
    "Saved",
    "Site",
    "System",
    "Work",
    "apart",
    "choose",
    "front",
    "shared_saving",
]
