"""What went wrong, said in four parts: what, where, why, remedy.

People's mistakes become faults, all of them at once; our mistakes stay assertions.
"""

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Fault:
    """One thing wrong. `where` is a place to look at: `laptop.yaml:12, sites.home.power`."""

    what: str
    where: str
    why: str
    remedy: str


class Refused(Exception):
    """The door says no; nothing was changed and nothing is lost. Exit code 2."""

    def __init__(self, *faults: Fault):
        super().__init__("; ".join(fault.what for fault in faults))
        self.faults = faults

    def to_json(self) -> dict[str, Any]:
        """The form of every `--json` error."""
        return {"errors": [asdict(fault) for fault in self.faults]}


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for a name that is not known: the likely ones first, else all."""
    known = sorted(map(str, known))
    likely = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    if likely:
        return f"did you mean {' or '.join(likely)}?"
    return f"known: {', '.join(known)}" if known else "none is declared yet"
