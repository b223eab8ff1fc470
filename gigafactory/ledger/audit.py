"""The chain of `Acted` events: each digest covers the one before, so no act can be changed alone.

A chain shows any change, removal, insertion and swap of its rows, but not that its end was cut
off: what is left is a shorter chain, as whole as before. So `head` (how many acts, and the last
digest) is to be noted where a forger of the ledger does not write: on a bill, in a mail, in a
log elsewhere. `verify` then holds the chain against what was noted.

Who can write the whole ledger can also forge the whole chain anew: that, too, only a noted head
shows. Outside the chain lie `seq` and `unix_s` of the rows; an act's own time is `at_s`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gigafactory.faults import Fault
from gigafactory.ledger.store import HOUSE, Row

FIELDS = ("at_s", "by", "did", "about", "said")


class Head(NamedTuple):
    """How many acts a chain has, and the digest of the last."""

    acts: int
    digest: str


def link(previous: str, act: Mapping[str, Any]) -> str:
    """The digest of an act (the fields of an `Acted`) that follows the digest `previous`."""
    said = json.loads(json.dumps(act["said"]))  # as the ledger will give it back
    whole = {**{name: act[name] for name in FIELDS}, "at_s": float(act["at_s"]), "said": said}
    text = json.dumps(whole, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return hashlib.sha256((previous + text).encode()).hexdigest()


def head(rows: Iterable[Row]) -> Head:
    """What to note elsewhere of a chain of `Acted` rows, in order."""
    acts, digest = 0, ""
    for row in rows:
        acts, digest = acts + 1, row.body["digest"]
    return Head(acts, digest)


def verify(rows: Iterable[Row], noted: Head | None = None) -> Fault | None:
    """The first place where a chain of `Acted` rows, in order, is not as it was written.

    With a head noted earlier, also whether the chain still holds what it held then.
    """
    previous, acts = "", 0
    for acts, row in enumerate(rows, start=1):
        if why := _wrong(row, previous):
            return _broken(f"row {row.seq} of the ledger, act {acts}", why)
        previous = row.body["digest"]
        if noted and noted.acts == acts and noted.digest != previous:
            return _broken(f"row {row.seq} of the ledger, act {acts}", "another digest was noted")
    if noted and noted.acts > acts:
        return _broken(f"after act {acts}", f"{noted.acts} acts were noted")
    return None


def _wrong(row: Row, previous: str) -> str | None:
    if row.body.get("previous") != previous:
        return "it does not follow the act before it: one was removed, put in or moved"
    try:
        digest = link(previous, {**row.body, "at_s": row.at_s})
    except (KeyError, TypeError, ValueError):
        return "it is no act"
    if row.body.get("digest") != digest or set(row.body) != {*FIELDS[1:], "previous", "digest"}:
        return "its digest is not that of what it says: it was changed"
    if (row.run, row.kind, row.subject) != (HOUSE, "Acted", row.body["about"]):
        return "it lies in the ledger as something else than it is: it was changed"
    return None


def _broken(where: str, why: str) -> Fault:
    return Fault(
        "the audit was tampered with", where, why, "compare with a copy made before; ask who wrote"
    )
