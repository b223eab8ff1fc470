"""What people write into the console's forms, read: a job as YAML, numbers, budgets.

Everything that is wrong is `Refused`; what it means is checked where it is done.
"""

from pathlib import Path
from typing import Any

from gigafactory.blueprint.load import read_tree
from gigafactory.faults import Fault, Refused

OFFER_CHARS_MAX = 64_000
Json = dict[str, Any]


def offer(text: str, tenant: str) -> tuple[str, Json]:
    """A job's name and work from YAML: `name`, and beside it the keys of a workload.

    It is for `tenant` where it names none.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.tokens import AliasToken

    if len(text) > OFFER_CHARS_MAX:
        raise _no("the job is too long", f"it has {len(text)} characters", "write less")
    tree = read_tree(text, Path("the job"))
    if any(isinstance(token, AliasToken) for token in YAML(typ="safe", pure=True).scan(text)):
        # A few lines of them can stand for more than the machine holds.
        raise _no("the job has aliases", "a `*` stands for something else", "write it out")
    work = dict(tree)
    name = work.pop("name", None)
    if not isinstance(name, str):
        raise _no("the job has no name", "`name` is missing or no text", "name: my-job")
    return name, {"tenant": tenant, **_plain(work)}


def _plain(tree: Any) -> Any:
    """A YAML tree as the plain values that JSON has; days as text."""
    if isinstance(tree, dict):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_plain(value) for value in tree]
    if isinstance(tree, bool) or tree is None:
        return tree
    for kind in (int, float):
        if isinstance(tree, kind):
            return kind(tree)
    return str(tree)


def number(name: str, text: str) -> float | int:
    """A number of a form; underscores and blanks in it are for the eye."""
    try:
        value = float(text.replace(" ", "").replace("_", "").replace(",", ""))
        return int(value) if value == int(value) else value
    except (ValueError, OverflowError):
        raise _no(f"{name} is {text[:40]!r}", "that is no number", "write it as 12") from None


def budget(line: str) -> Json:
    """`100 EUR per month`, as the blueprint has it."""
    limit, per, window = line.strip().rpartition(" per ")
    if not per:
        raise _no(f"{line.strip()[:60]!r} is no budget", "it has no ' per '", "100 EUR per month")
    return {"limit": limit.strip(), "per": window.strip()}


def _no(what: str, why: str, remedy: str) -> Refused:
    return Refused(Fault(what, "the form", why, remedy))
