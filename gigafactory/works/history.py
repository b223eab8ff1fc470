"""What earlier runs took, read from the ledger, as the next plan wants to know it."""

from pathlib import Path

from gigafactory.ledger.store import read
from gigafactory.plan import Measured, Observation
from gigafactory.works import calibrate

KINDS = ("RunOpened", "JobSubmitted", "JobStarted", "JobReported", "JobDone")


def measured(home: Path, ledger: Path) -> Measured:
    """Calibration and every undisturbed attempt in the ledger, oldest first."""
    return Measured(machine=calibrate.load(home), observations=observations(ledger))


def observations(ledger: Path) -> list[Observation]:
    """One observation for each job that ran from start to end in one attempt."""
    submitted: dict[tuple[str, str], dict] = {}
    started: dict[tuple[str, str, int], float] = {}
    found = []
    for row in read(ledger, kinds=KINDS):
        body, key = row.body, (row.run, row.subject)
        if row.kind == "JobSubmitted":
            submitted[key] = body["quote"]
        elif row.kind == "JobStarted" and body["attempt"] == 1:
            started[(*key, 1)] = row.at_s
        elif row.kind == "JobDone" and body["attempt"] == 1 and body["used"]["chip_s"] > 0:
            found.append(_of_job(submitted[key], body))
        elif row.kind == "JobReported" and body["figures"].get("ready") and body["attempt"] == 1:
            found.append(_of_service(submitted[key], row.at_s - started[(*key, 1)]))
    return found


def _of_job(quote: dict, done: dict) -> Observation:
    used, phases = done["used"], done["used"]["phases"]
    chips = quote["layout"]["chips"]
    held_s = used["chip_s"] / chips
    work_s = phases.get("work", held_s)
    once_s = phases.get("prepare", 0.0)
    return Observation(
        shape=quote["shape"],
        size=quote["size"],
        overhead_s=held_s - work_s - once_s,
        work_s=work_s,
        tokens=done["results"].get("tokens", quote["size"]),
        power_w=used["energy_j"] / held_s,
        energy_basis=used["energy_basis"],
    )


def _of_service(quote: dict, ready_s: float) -> Observation:
    power_w = quote["energy_kwh"]["value"] * 3.6e6 / quote["duration_s"]["value"]
    return Observation(
        shape=quote["shape"],
        size=0.0,
        overhead_s=ready_s,
        work_s=0.0,
        tokens=0.0,
        power_w=power_w,
        energy_basis="modelled",
    )
