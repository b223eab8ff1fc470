"""The typed contracts by name, as JSON schemas: what `gigafactory schema NAME` prints."""

from typing import Any

from pydantic import TypeAdapter

from gigafactory.blueprint import Blueprint, JobSpec, shipped
from gigafactory.factory.events import KINDS, AnyEvent
from gigafactory.faults import Fault, Refused, nearest
from gigafactory.jobs.context import Context
from gigafactory.plan import Measured, Plan, PlannedJob, Quote
from gigafactory.plan.consolidation import Consolidation
from gigafactory.plan.designed import Designed

CONTRACTS: dict[str, Any] = {
    "blueprint": Blueprint,
    "job": JobSpec,
    "quote": Quote,
    "plan": Plan,
    "planned-job": PlannedJob,
    "design": Designed,
    "consolidation": Consolidation,
    "measured": Measured,
    "context": Context,
    "event": AnyEvent,
    "fault": Fault,
    **KINDS,
}


def schema(name: str) -> dict[str, Any]:
    """JSON schema of a contract. Raises `Refused` for a name that is none."""
    if name not in CONTRACTS:
        raise Refused(
            Fault(
                f"there is no contract {name!r}", "schema", "no such name", nearest(name, CONTRACTS)
            )
        )
    return TypeAdapter(CONTRACTS[name]).json_schema()


def example() -> str:
    """A blueprint to start from."""
    return shipped()["laptop"].read_text(encoding="utf-8")
