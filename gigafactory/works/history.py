"""What earlier jobs took, read from the ledger, as the next plan wants to know it."""

from collections import defaultdict, deque
from operator import itemgetter
from pathlib import Path

from gigafactory.ledger.store import read
from gigafactory.plan import Measured, Observation
from gigafactory.plan.measured import RECENT
from gigafactory.works import calibrate

KINDS = ("JobSubmitted", "JobStarted", "JobReported", "JobDone")


def measured(home: Path, ledger: Path | str) -> Measured:
    """Calibration, and the recent undisturbed attempts of each shape, oldest first."""
    return History(home, ledger).measured()


class History:
    """What jobs took, kept up to date: each look reads only the rows since the last."""

    def __init__(self, home: Path, ledger: Path | str):
        self._home, self._ledger = home, ledger
        self._after = 0
        self._submitted: dict[tuple[str, str], dict] = {}
        self._started: dict[tuple[str, str], float] = {}
        self._count = 0
        # What is older than the last few of its shape counts for no quote: it is forgotten.
        self._found: defaultdict[str, deque[tuple[int, Observation]]] = defaultdict(
            lambda: deque(maxlen=RECENT)
        )

    def measured(self) -> Measured:
        """Calibration and history up to now."""
        for row in read(self._ledger, after=self._after, kinds=KINDS):
            self._after = row.seq
            self._hear(row.kind, (row.run, row.subject), row.at_s, row.body)
        recent = sorted((one for of in self._found.values() for one in of), key=itemgetter(0))
        return Measured(machine=calibrate.load(self._home), observations=[o for _, o in recent])

    def _hear(self, kind: str, job: tuple[str, str], at_s: float, body: dict) -> None:
        """A job is an observation where it ran from start to end in one attempt."""
        if kind == "JobSubmitted":
            self._submitted[job] = body["quote"]
        elif body["attempt"] != 1:
            self._submitted.pop(job, None)  # It was disturbed.
        elif kind == "JobStarted":
            self._started[job] = at_s
        elif kind == "JobReported" and body["figures"].get("ready") and job in self._submitted:
            self._add(_of_service(self._submitted[job], at_s - self._started[job]))
        elif kind == "JobDone" and job in self._submitted:
            quote, _ = self._submitted.pop(job), self._started.pop(job, None)
            if body["used"]["chip_s"] > 0:
                self._add(_of_job(quote, body))

    def _add(self, observation: Observation) -> None:
        self._count += 1
        self._found[observation.shape].append((self._count, observation))


def _of_job(quote: dict, done: dict) -> Observation:
    used, phases = done["used"], done["used"]["phases"]
    chips = quote["layout"]["chips"]
    held_s = used["chip_s"] / chips
    work_s = phases.get("work", held_s)
    once_s = phases.get("prepare", 0.0)
    tokens = quote["size"] if quote["tokens"]["value"] else 0.0  # where the job says nothing
    return Observation(
        shape=quote["shape"],
        size=quote["size"],
        overhead_s=held_s - work_s - once_s,
        work_s=work_s,
        tokens=done["results"].get("tokens", tokens),
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
