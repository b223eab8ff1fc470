"""Quantities and times as the pages write them; the filters and tests of their templates.

In: SI, money in micro-units, Unix seconds. A quantity and its unit do not break over two lines.
"""

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from gigafactory.units import show_duration

SIGNS = {
    "waiting": "○", "queued": "◔", "starting": "◑", "running": "●", "stopping": "◐",
    "paused": "‖", "done": "✓", "failed": "✕", "cancelled": "–", "blocked": "⊘", "lost": "?",
    "stopped": "‖", "ready": "●", "waking": "◔", "leaving": "◐",
}  # fmt: skip
SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))
UNITS = {"energy": (3.6e6, "kWh"), "carbon": (1e3, "kgCO2e"), "tokens": (1.0, "tokens")}
SAID_ELSEWHERE = (
    "tokens", "steps", "cpu_s", "wall_s", "energy_kwh", "carbon_g", "passed", "modelled",
)  # fmt: skip
FOREMOST = ("label errors", "success", "map50", "failure probability")
LABELS = {
    "bytes": "size",
    "map50_95": "map50-95",
    "frames_per_cpu_s": "frames a CPU-second",
    "steps_per_cpu_s": "steps a CPU-second",
}
SHARE_HIGH, SHARE_FULL = 0.8, 1.0  # of a budget that is spent


def duration(s: float | None) -> str:
    """`4 min 10 s`."""
    return "–" if s is None else show_duration(max(0.0, s)).replace(" ", "\u00a0")


def digits(value: float | None, most: int = 3) -> str:
    """At most so many significant digits, thousands apart, and never an exponent."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    places = max(0, most - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def scaled(value: float, unit: str) -> str:
    """`1.2 kWh` of 1200 and `Wh`."""
    factor, prefix = next(
        ((f, p) for f, p in SCALES if abs(value) >= f), (1.0, "") if not value else SCALES[-1]
    )
    return f"{digits(value / factor)}\u00a0{prefix}{unit}"


def money(micro: float, currency: str, places: int | None = None) -> str:
    """Micro-units as money: to the cent from one unit on, else to four digits."""
    value = micro / 1e6
    if places is None:
        text = f"{value:,.2f}" if abs(value) >= 1 else digits(value, 4)
    else:
        text = f"{value:,.{places}f}"
    return f"{text}\u00a0{currency}".rstrip()


def percent(share: float) -> str:
    """`+12 %`."""
    return f"{share:+.0%}".replace("%", "\u00a0%")


def when(unix_s: float | None) -> str:
    """A moment, UTC."""
    if unix_s is None:
        return "–"
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M}\u00a0UTC"


def count(number: float, noun: str) -> str:
    """`1 chip`, `2 chips`."""
    return f"{digits(number)}\u00a0{noun}{'s' * (number != 1)}"


def plain(value: Any) -> str:
    """A value of a spec or a result as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, int | float):
        return digits(value)
    if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
        return f"{plain(value['value'])} ({plain(value['low'])} – {plain(value['high'])})"
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    if isinstance(value, Mapping) and all(isinstance(one, str) for one in value.values()):
        return "; ".join(f"{name} {one}" for name, one in value.items())  # a gate
    return value if isinstance(value, str) else json.dumps(value, default=str)


def verdict(verdicts: Iterable[Mapping[str, Any]] | None) -> str:
    """How a gate judged, each threshold with what was measured; empty where there was none.

    Where it did not pass, those alone that were not kept.
    """
    said = list(verdicts or ())
    passed = all(one["passed"] for one in said)
    told = "; ".join(
        f"{one['metric']} {_found(one['value'])}, wanted {one['threshold']}"
        + (f" ({one['reason']})" if one.get("reason") else "")
        for one in said
        if one["passed"] == passed
    )
    return f"{'passed' if passed else 'did not pass'}, {told}" if said else ""


def _found(value: Any) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def budget(value: float, of: Mapping[str, Any]) -> str:
    """An amount of what a budget limits, in its unit."""
    factor, unit = UNITS.get(of["of"], (1.0, of.get("currency") or ""))
    return f"{digits(value / factor, 4)}\u00a0{unit}"


def budget_line(of: Mapping[str, Any]) -> str:
    """A budget as the blueprint writes it, exactly: `100 EUR per month`."""
    factor, unit = UNITS.get(of["of"], (1.0, of.get("currency") or ""))
    return f"{of['limit'] / factor:.15g} {unit} per {of['per']}"


def highlights(results: Mapping[str, Any] | None) -> dict[str, str]:
    """The results that fit on a line; a metric with its interval."""
    flat = dict(results or {})
    flat |= flat.pop("metrics", None) or {}
    short = {
        name: value
        for name, value in flat.items()
        if name not in SAID_ELSEWHERE
        and (isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 40))
    }
    found = {}
    for name, value in short.items():
        ends = [short.get(f"{name}_low"), short.get(f"{name}_high")]
        if name.removesuffix("_low").removesuffix("_high") in short.keys() - {name}:
            continue
        said = plain(value)
        if name == "bytes" and not isinstance(value, str):
            said = scaled(value, "B")
        if all(isinstance(end, int | float) for end in ends):
            said += f" ({plain(ends[0])} – {plain(ends[1])})"
        found[label(name)] = said
    return dict(sorted(found.items(), key=lambda one: one[0] not in FOREMOST))


def counted(quote: Mapping[str, Any]) -> tuple[str, Mapping[str, float]] | None:
    """What a quote counts a job's work in, and how much that is; None of what has no size."""
    if quote["tokens"]["value"]:
        return "tokens", quote["tokens"]
    if not quote["size"] or quote["unit"] in ("tokens", "run"):
        return None
    return quote["unit"], dict.fromkeys(("value", "low", "high"), quote["size"])


def label(name: str) -> str:
    """The name of a figure in words."""
    return LABELS.get(name) or name.replace("_", " ")


def level(share: float) -> str:
    """How near a budget is to its end, as a class."""
    return "failed" if share >= SHARE_FULL else "paused" if share >= SHARE_HIGH else ""
