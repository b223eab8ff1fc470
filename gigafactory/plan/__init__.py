"""What will happen, said before anything does: quotes, layouts, a timeline, tables.

plan = make(blueprint, measured)
plan.quotes[0].duration_s            # Figure(value=..., low=..., high=..., basis=...)
"""

from gigafactory.plan.measured import Measured, Observation
from gigafactory.plan.plan import Plan, PlannedJob, acts, make, submit
from gigafactory.plan.quote import Figure, Quote
from gigafactory.plan.tariff import Rates

__all__ = [
    "Figure",
    "Measured",
    "Observation",
    "Plan",
    "PlannedJob",
    "Quote",
    "Rates",
    "acts",
    "make",
    "submit",
]
