"""What single change would make a delivery lawful, and what may stand there instead.

A number is lowered to the next limit of any rule under which the chip may stand. Lowering TPP is
done on the same die: performance density falls with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from gigafactory.stack import chips
from gigafactory.stack.chips import Chip
from gigafactory.stack.law import rules as book
from gigafactory.stack.law import stacks
from gigafactory.stack.law.rules import Book
from gigafactory.stack.law.stacks import Stack
from gigafactory.stack.law.verdict import READ_UP_TO, ROUTES, Question, Ruling, judge, over

# Field of conditions -> field of the chip, and the rules' unit in SI.
LOWERED = {
    "tpp": ("tpp", 1.0),
    "pd": ("performance_density", 1.0),
    "mem_bw": ("peak_memory_bytes_per_s", 1e9),
    "interconnect": ("interconnect_bytes_per_s", 1e9),
}
LOOK_AHEAD = timedelta(days=366)


@dataclass(frozen=True)
class Way:
    """One field changed, alone, and what is then said."""

    field: str
    now: Any
    becomes: Any
    below: bool
    """`becomes` is a limit to stay below, not one that may be reached."""
    ruling: Ruling

    @property
    def lowered_by(self) -> float | None:
        """Share of the present figure; None for what is no number."""
        numbers = isinstance(self.now, int | float) and isinstance(self.becomes, int | float)
        return 1 - self.becomes / self.now if numbers and self.now else None


def ways(question: Question, rules: Book | None = None) -> list[Way]:
    """Every single change that makes it lawful; none if it is so already, or if none would do."""
    rules = book.shipped() if rules is None else rules
    if judge(question, rules).may_stand:
        return []
    found = [*_numbers(question, rules), *_words(question, rules), *_later(question, rules)]
    return [way for way in found if way.ruling.is_free]


def fastest(
    question: Question, rules: Book | None = None, datacenter: bool = False
) -> tuple[Chip | Stack, Ruling] | None:
    """What may stand in the question's stead: of chips the highest dense 16-bit rate.

    With `datacenter` only chips made for data centres. Of memory stacks the highest bandwidth.
    """
    rules = book.shipped() if rules is None else rules
    for thing in _by_speed(question.chip, question.on):
        if datacenter and not thing.datacenter:
            continue
        ruling = judge(replace(question, chip=thing), rules)
        if ruling.is_free:
            return thing, ruling
    return None


def _by_speed(like: Chip | Stack, on: date) -> Sequence[Chip | Stack]:
    """The catalog's things of that kind, the fastest first: of known speed, and sold by then."""
    if isinstance(like, Stack):
        bare = [one for one in map(stacks.stack, stacks.names()) if one]
        return sorted(bare, key=lambda one: -(one.bandwidth_bytes_per_s or 0))
    every = map(chips.chip, chips.chip_names())
    fit = [
        chip
        for chip in every
        if chip.kind != "cpu" and chip.peak_flop_per_s and chip.released and chip.released <= on
    ]
    return sorted(fit, key=lambda chip: -(chip.peak_flop_per_s or 0))


def _numbers(question: Question, rules: Book) -> Iterator[Way]:
    """For each number the highest value below the present one that is lawful."""
    stack = isinstance(question.chip, Stack)
    for field in ("hbm_bw_density",) if stack else (*LOWERED, "n_gpus"):
        now = question.facts().get(field)
        if now is None:
            continue
        for limit, below in _limits(question, field, now, rules):
            value = limit * (1 - 1e-9) if below else limit
            if field == "n_gpus":
                value = int(limit) - 1 if below else int(limit)
            ruling = judge(_lowered(question, field, value), rules)
            if ruling.is_free:
                yield Way(field, now, limit, below, ruling)
                break


def _limits(question: Question, field: str, now: float, rules: Book) -> list[tuple[float, bool]]:
    """(limit, stay below it) from high to low, at most the present figure."""
    limits = {limit for rule in rules for name, limit in rule.condition.limits if name == field}
    if field == "tpp" and isinstance(question.chip, Chip) and question.chip.performance_density:
        die_mm2 = now / question.chip.performance_density
        limits |= {
            limit * die_mm2
            for rule in rules
            for name, limit in rule.condition.limits
            if name == "pd"
        }
    return [
        (limit, below)
        for limit in sorted(limits, reverse=True)
        if limit <= now
        for below in ((False, True) if limit < now else (True,))
    ]


def _lowered(question: Question, field: str, value: float) -> Question:
    chip = question.chip
    if field == "n_gpus":
        return replace(question, gpus=int(value))
    if isinstance(chip, Stack):
        return replace(question, chip=replace(chip, bandwidth_density=value))
    name, unit = LOWERED[field]
    changed: dict[str, float] = {name: value * unit}
    if field == "tpp" and chip.tpp and chip.performance_density:
        changed["performance_density"] = chip.performance_density * value / chip.tpp
    return replace(question, chip=chips.changed(chip, **changed))


def _words(question: Question, rules: Book) -> Iterator[Way]:
    """Another owner, out of the US itself, or no state's money."""
    changes: list[tuple[str, Any, Any]] = [
        ("owner", question.owner, question.destination),
        ("owner", question.owner, "US"),
        ("state_funded", question.state_funded, False),
        ("route", question.route, ROUTES[0]),
    ]
    done = set()
    for field, now, becomes in changes:
        if now == becomes or field in done:
            continue
        change: dict[str, Any] = {field: becomes}
        ruling = judge(replace(question, **change), rules)
        if ruling.is_free:
            yield Way(field, now, becomes, False, ruling)
            done.add(field)


def _later(question: Question, rules: Book) -> Iterator[Way]:
    """The first later day on which it is lawful, among the days of the rules."""
    end = max(READ_UP_TO, question.on) + LOOK_AHEAD
    for interval in over(question, question.on, min(end, date.max), rules)[1:]:
        if interval.ruling.is_free:
            yield Way("day", question.on, interval.first, False, interval.ruling)
            return
