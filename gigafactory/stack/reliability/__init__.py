"""How often what breaks, and what that costs a job: studies of failures, checkpoint intervals.

In: chips, s. Out: 1/s, s. Rates and their basis: `data/failures.csv`; what is made of them is
modelled: failures are independent of each other and as frequent on every day.
"""

from gigafactory.stack.reliability.checkpoint import best_interval_s, daly_s, ettr, young_s
from gigafactory.stack.reliability.rates import (
    FailureClass,
    Published,
    Study,
    expected_failures,
    mttf_s,
    published,
    studies,
    study,
)

__all__ = [
    "FailureClass",
    "Published",
    "Study",
    "best_interval_s",
    "daly_s",
    "ettr",
    "expected_failures",
    "mttf_s",
    "published",
    "studies",
    "study",
    "young_s",
]
