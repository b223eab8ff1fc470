"""What was asked of the performance model, from words to records; refused where it is neither.

Every refusal names the option, what was given, and what would do.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

from gigafactory.faults import Fault, Refused, nearest

LAYOUT_FIELDS = {
    "tp": "tensor",
    "pp": "pipeline",
    "cp": "context",
    "ep": "expert",
    "dp": "data",
    "vpp": "virtual",
    "mb": "microbatch",
    "zero": "zero",
}
LAYOUT_WORDS = ("recompute", "offload", "sp")
OFFLOADS = ("optimizer", "activations")
WORKER_FIELDS = ("tp", "pp", "ep", "dp")
NODE = 8
"""Chips that a worker takes where nobody says how many."""


@contextmanager
def asked() -> Iterator[None]:
    """Turn what the stack does not know into a fault of what was asked."""
    from gigafactory.stack import chips, models, serving, training
    from gigafactory.stack.training.search import NothingFits

    try:
        yield
    except models.UnknownModel as error:
        if error.field == "model":
            why = "it is neither shipped nor a config that can be read"
            raise refused(f"no model {error.value!r}", "MODEL", why, error.known) from None
        what, why = f"{error.field} = {error.value!r} in the config", f"known: {error.known}"
        raise refused(what, f"MODEL, {error.field}", why, "mend the config.json") from None
    except chips.UnknownChip as error:
        hint = f"did you mean {' or '.join(error.near[:3])}?"
        raise refused(f"no chip {error.name!r}", "--on", "not in the catalog", hint) from None
    except chips.UnknownFigure as error:
        raise refused(str(error), "--on", "nobody has published it", "take another chip") from None
    except training.BadLayout as error:
        valid = ", ".join(map(str, error.valid))
        hint = f"{error.field} = {valid} would do" if valid else "change --chips or the layout"
        what = f"{error.field} = {error.value} is no layout"
        raise refused(what, f"--layout {error.field}", error.why, hint) from None
    except serving.ImpossibleLayout as error:
        hint = "give tp and dp whose product ep divides: tp=8,ep=8"
        raise refused("this is no layout", "--layout", str(error), hint) from None
    except NothingFits as error:
        raise refused("no layout fits", "--chips", error.what, error.remedy) from None


def refused(what: str, where: str, why: str, remedy: str = "see `--help`") -> Refused:
    """One fault, to be raised."""
    return Refused(Fault(what, where, why, remedy))


def job(name: str, on: str, sequence: int, batch: int, precision: str, task: str) -> Any:
    """(training job, chip)."""
    from gigafactory.stack import training

    silicon = chip(on)
    native = "float4" in silicon.flop_per_s  # Chips with FP4 are those that scale by blocks.
    known = [
        known
        for known, dtype in training.PRECISIONS.items()
        if dtype in silicon.flop_per_s and (known != "MXFP8" or native)
    ]
    wanted = precision.upper()
    if wanted not in known:
        why = f"{silicon.name} has rates for {', '.join(known)}"
        what = f"no precision {precision!r} on {silicon.name}"
        raise refused(what, "--precision", why, nearest(wanted, known))
    one_of("task", task, training.TASKS)
    return training.Job(model(name), sequence, batch, wanted, task), silicon


def enough(on: str, count: int) -> None:
    """Refuse more cores than this machine has."""
    from gigafactory.stack import chips

    if on == chips.THIS_MACHINE and count > (most := _this_machine().chips_per_node):
        why = f"this machine has {most} cores"
        raise refused(f"there are no {count} cores", "--chips", why, f"write --chips {most}")


def layout(text: str | None, wanted: Any, chips: int) -> Any:
    """The layout that was asked for, data parallel over what is left; None to search."""
    from gigafactory.stack import training

    if text is None:
        return None
    pairs = _pairs(text)
    mode = pairs.pop("recompute", "none")
    one_of("recompute", mode, training.RECOMPUTE)
    parts = [part for part in pairs.pop("offload", "").split("+") if part]
    for part in parts:
        one_of("offload", part, OFFLOADS)
    sequence_parallel = pairs.pop("sp", "1") != "0"
    numbers = _numbers(pairs, LAYOUT_FIELDS)
    used = numbers.get("tp", 1) * numbers.get("pp", 1) * numbers.get("cp", 1)
    numbers.setdefault("dp", max(chips // max(used, 1), 1))
    chosen = training.Layout(
        **{LAYOUT_FIELDS[name]: value for name, value in numbers.items()},
        recompute=training.RECOMPUTE.index(mode),
        sequence_parallel=sequence_parallel,
        offload_optimizer="optimizer" in parts,
        offload_activations="activations" in parts,
    )
    training.check(wanted, chips, chosen)
    return chosen


def worker(
    of: Any,
    silicon: Any,
    chips: int,
    precision: str | None,
    engine: str,
    text: str | None,
    **settings: Any,
) -> Any:
    """One worker as asked, else over a node as far as heads allow; `settings` of its engine."""
    from gigafactory.stack import serving

    if silicon.kind == "cpu":
        why = "cores of one machine are modelled for training alone"
        raise refused(f"no service on {silicon.name}", "--on", why, "take a GPU: H100")
    name = (precision or ("fp8" if "float8" in silicon.flop_per_s else "bf16")).lower()
    one_of("precision", name, serving.PRECISIONS)
    one_of("engine", engine, serving.ENGINES)
    kept = serving.PRECISIONS[name]
    rates = {"fp8": "float8", "fp4": "float4"}
    if kept in rates and rates[kept] not in silicon.flop_per_s:
        why = f"{silicon.name} multiplies in {', '.join(silicon.flop_per_s)}"
        hint = "take bf16, or int4 for weights alone"
        raise refused(f"no precision {name!r} on {silicon.name}", "--precision", why, hint)
    numbers = _numbers(_pairs(text) if text else {}, WORKER_FIELDS)
    room = max(min(chips, NODE) // (numbers.get("dp", 1) * numbers.get("pp", 1)), 1)
    widths = [n for n in (1, 2, 4, 8, 16, 32, 64) if of.heads % n == 0]
    tensor = numbers.get("tp", max(n for n in widths if n <= room))
    if of.heads % tensor:
        hint = f"tp = {', '.join(map(str, widths))} would do"
        why = f"does not divide {of.heads} heads"
        raise refused(f"tp = {tensor} is no layout", "--layout tp", why, hint)
    expert = numbers.get("ep", 1)
    if (of.experts or 1) % expert:
        why = f"does not divide {of.experts} experts" if of.experts else "the model has no experts"
        raise refused(f"ep = {expert} is no layout", "--layout ep", why, "write ep=1")
    chosen = serving.Deployment(
        tp=tensor,
        pp=numbers.get("pp", 1),
        dp_attention=numbers.get("dp", 1),
        ep=expert,
        precision=kept,
        engine=engine,
        **settings,
    )
    if chosen.chips > chips:
        why = f"one worker takes tp*dp*pp = {chosen.chips} chips"
        raise refused(f"{chips} chips hold no worker", "--chips", why, "take more chips")
    return chosen


def model(name: str) -> Any:
    """A shipped model, or one's own."""
    from gigafactory.stack import models

    return models.read(name)


def chip(name: str) -> Any:
    """A chip of the catalog, or this machine's."""
    from gigafactory.stack import chips

    return _this_machine().chip if name == chips.THIS_MACHINE else chips.chip(name)


def _this_machine() -> Any:
    from gigafactory.stack import chips
    from gigafactory.works import calibrate
    from gigafactory.works.home import Home

    return chips.system(chips.THIS_MACHINE, calibrate.load(Home.default().path))


def quantity(text: str, unit: str, where: str, example: str, least: float) -> float:
    """An amount of at least `least`, in SI."""
    from gigafactory import units

    try:
        value = units.parse(text, unit)
    except units.NotAQuantity as error:
        raise refused(f"{text!r} is no quantity", where, str(error), f"write `{example}`") from None
    if not least <= value < 1e30:
        why = f"it must be at least {least:g} and finite"
        raise refused(f"{text!r} is out of range", where, why, f"write `{example}`")
    return value


def one_of(what: str, given: str, known: Iterable[str]) -> None:
    """Refuse a word that is not among the known ones."""
    if given not in known:
        why = f"known: {', '.join(known)}"
        raise refused(f"no {what} {given!r}", f"--{what}", why, nearest(given, known))


def suite(name: str) -> Literal["training", "serving"]:
    """Which of the two tables."""
    one_of("suite", name, ("training", "serving"))
    return cast(Literal["training", "serving"], name)


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file. Raises `Refused` for what is none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        what = f"{path} cannot be read as CSV"
        raise refused(what, str(path), str(error), "save it as CSV in UTF-8") from None
    if not rows:
        hint = "give a table with a header and rows"
        raise refused(f"{path} has no rows", str(path), "it is empty", hint)
    header = list(reader.fieldnames or ())
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        why = "its meaning would be anybody's guess"
        what = f"{path} has column {', '.join(twice)} twice"
        raise refused(what, str(path), why, "rename one of them")
    return [{name: value or "" for name, value in row.items() if name} for row in rows]


def _pairs(text: str) -> dict[str, str]:
    """`tp=4, pp=8` as words; refuses a field given twice."""
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (word.strip() for word in part.partition("="))
        if name in pairs:
            why = f"{name}={pairs[name]} and {name}={value}"
            raise refused(f"{name} is given twice", f"--layout {name}", why, "keep one of them")
        pairs[name] = value
    return pairs


def _numbers(pairs: dict[str, str], known: Sequence[str] | dict[str, str]) -> dict[str, int]:
    numbers = {}
    for name, value in pairs.items():
        if name not in known:
            every = (*known, *LAYOUT_WORDS) if known is LAYOUT_FIELDS else known
            what = f"no field {name!r} in a layout"
            raise refused(what, "--layout", "it is not one", nearest(name, every))
        lowest = 0 if name == "zero" else 1
        if not value.isdigit() or not lowest <= int(value) <= 10**7:
            why = f"it must be a whole number of at least {lowest}"
            what = f"{name} = {value!r} is no number"
            raise refused(what, f"--layout {name}", why, f"write {name}=1")
        numbers[name] = int(value)
    return numbers
