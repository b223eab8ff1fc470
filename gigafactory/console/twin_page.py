"""The page of a simulated course: one HTML file in which an operator sees what a month will be.

Figures with their intervals on top; then a player that moves a floor map and the cursor of all
charts together; tenants and sources at the end. In: what the twin played, as plain data. Frames
and curves are packed, so that 12,500 nodes over 120 frames stay below 6 MB. s, W, J, kWh, kg of
CO2e, money in the course's currency. Modelled. Same course, same bytes.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from gigafactory.console import twin
from gigafactory.console.plan_charts import INKS
from gigafactory.console.plan_notes import Html, table

ASSETS = Path(__file__).parent
UNKNOWN, MOST = 65535, 65534
LONG_RUN = 256
TOTAL = "all sites"
GROUPS = {
    "jobs": "Jobs",
    "machines": "Machines",
    "energy": "Energy",
    "money": "Money",
    "service": "Service",
}
VERDICTS = {"better": "yes", "worse": "no"}
# fmt: off
PLAYER = """
<div class="player">
<button id="play" type="button">Play</button>
<input id="time" type="range" min="0" value="0" step="60" aria-label="moment of the course">
<output id="clock" for="time"></output>
<label>speed <select id="speed"></select></label>
</div>
<div class="stage" id="stage"><div class="hall">
<canvas id="floor" role="img" aria-label="floor map: every node of every site"></canvas>
<p id="pointed" class="soft">Point at a node to be told what it does.</p>
<ul id="states" class="legend"></ul></div>
<div id="charts"></div>
<div class="failing"><h3>Failures</h3><p id="failed" class="soft"></p>
<ul id="failures"></ul></div></div>
<div class="where"><h3>Power, PUE, carbon by site</h3><label id="choice" hidden>site
<select id="site"></select></label></div>
<div id="site-charts"></div>
<noscript><p class="no">To play the course this page needs its script; figures and tables stand
without it.</p></noscript>
<p class="soft">Space plays and pauses; ← and → go a frame back and on, with shift a day; Home and
End go to the ends. A chart takes a pointer, too.</p>
"""
# fmt: on

Json = Mapping[str, Any]


def page(played: Json, compared: Json | None = None) -> str:
    """The whole page; beside another course, its figures are set against that one's."""
    body = "".join(
        (
            _head(played, compared),
            _section("What it comes to", _figures(played, compared)),
            _section("The course", _words(played) + PLAYER),
            _section("Tenants", _tenants(played)),
            _section("Missed", _missed(played)),
            _section("Sources", _listed(played["sources"])),
            "</main><footer><p>Modelled throughout, from sourced figures; no promise.</p></footer>",
            f'<script type="application/json" id="played">{_in_script(_film(played))}</script>',
        )
    )
    filled = {
        "title": escape(played["name"]),
        "style": "\n".join(map(_asset, ("style.css", "plan_report.css", "twin_page.css"))),
        "body": body,
        "script": "\n".join(map(_asset, ("plan_report.js", "twin_page.js"))),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: filled[mark[1]], _asset("plan_report.html"))


def packed_frames(text: str, frames: int, nodes: int) -> dict[str, Any]:
    """Frames of a byte a node (base64, frame by frame), node by node, as runs where that is less.

    A run is a value and its length less one; a node does the same for many frames.
    """
    rows = np.frombuffer(b64decode(text), np.uint8).reshape(frames, nodes)
    seen = rows.T.ravel()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(seen)) + 1])
    lengths = np.diff(np.append(starts, seen.size))
    pieces = -(-lengths // LONG_RUN)
    runs = np.full(pieces.sum(), LONG_RUN)
    runs[np.cumsum(pieces) - 1] = lengths - LONG_RUN * (pieces - 1)
    pairs = np.stack([np.repeat(seen[starts], pieces), runs - 1], axis=1).astype(np.uint8)
    less = pairs.size < seen.size
    return {"runs": less, "bytes": _base64(pairs if less else seen)}


def packed_curve(values: Sequence[float | None]) -> dict[str, Any]:
    """A curve in 65,535 steps from its low to its high; nothing more where it is flat."""
    curve = np.array([np.nan if value is None else value for value in values], float)
    known = curve[np.isfinite(curve)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if known.size == curve.size and low == high:
        return {"low": low, "high": high, "steps": ""}
    scaled = (curve - low) / ((high - low) or 1.0) * MOST
    codes = np.where(np.isfinite(curve), np.round(scaled), UNKNOWN)
    return {"low": low, "high": high, "steps": _base64(codes.astype("<u2"))}


def _film(played: Json) -> dict[str, Any]:
    """What the script plays."""
    pools, frames, series = played["pools"], played["frames"], played["series"]
    count, nodes = len(frames["at_s"]), sum(pool["nodes"] for pool in pools)
    inks = _inks(played["tenants"])
    return {
        "start_unix_s": _unix_s(played["start"]),
        "end_s": played["days"] * 86_400,
        "tenants": [[one["name"], inks[one["name"]]] for one in played["tenants"]],
        "pools": pools,
        "sites": played["sites"],
        "frames": {
            "at_s": frames["at_s"],
            "nodes": nodes,
            "node": packed_frames(frames["node"], count, nodes),
            "busy": packed_frames(frames["busy"], count, nodes),
        },
        "at_s": series["at_s"],
        "curves": {
            name: packed_curve(series[name])
            for name in ("waiting", "waiting_chips", "running", "chips")
        },
        "busy": {name: packed_curve(curve) for name, curve in series["busy"].items()},
        "by_site": {
            site: {name: packed_curve(curve) for name, curve in curves.items()}
            for site, curves in _by_site(series, played["sites"]).items()
        },
        "failures": [
            [one["at_s"], one["node"], one["class"], one["lost_s"]]
            for one in sorted(played["failures"], key=lambda one: one["at_s"])
        ],
        "curtailments": played["curtailments"],
    }


def _unix_s(day: str) -> float:
    """Of an ISO moment; without a zone it is UTC."""
    moment = datetime.fromisoformat(day)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _by_site(series: Json, sites: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Site -> quantity -> curve; where there are several, the total goes first.

    PUE of the total is meter over machines, its carbon that of the mean kWh.
    """
    names = {
        "power": "power_w",
        "cap": "cap_w",
        "pue": "pue",
        "carbon": "carbon_g_per_kwh",
        "battery_wh": "battery_j",
    }
    found = {
        site: {
            name: np.array(series[key][site], float) / (3600 if name == "battery_wh" else 1)
            for name, key in names.items()
            if site in series.get(key, {})
        }
        for site in sites
    }
    if len(sites) < 2:
        return found
    power = sum(one["power"] for one in found.values())
    machines = sum(one["power"] / one["pue"] for one in found.values())
    carbon = sum(one["power"] * one["carbon"] for one in found.values())
    with np.errstate(invalid="ignore"):
        total = {"power": power, "pue": power / machines, "carbon": carbon / power}
    if all("cap" in one for one in found.values()):
        total["cap"] = sum(one["cap"] for one in found.values())
    if batteries := [one["battery_wh"] for one in found.values() if "battery_wh" in one]:
        total["battery_wh"] = sum(batteries)
    return {TOTAL: total} | found


def _inks(tenants: Sequence[Json]) -> dict[str, int]:
    """Tenant -> colour; the largest have one of their own, the others share grey."""
    ranked = sorted(tenants, key=lambda one: (-one["chip_hours"], one["name"]))
    return {one["name"]: min(number, INKS) for number, one in enumerate(ranked)}


def _head(played: Json, compared: Json | None) -> str:
    beside = (
        f"<p>Beside it: {escape(compared['name'])}, {twin.course(compared)}</p>" if compared else ""
    )
    return (
        f'<header><div class="brand"><h1>{escape(played["name"])}</h1>'
        f"<p>Simulated: {escape(twin.course(played))}; modelled throughout</p>{beside}"
        "</div></header><main>"
    )


def _figures(played: Json, compared: Json | None) -> str:
    """Every answer with its interval, by group."""
    parts = []
    for group, each in groupby(played["answers"], key=lambda one: one["group"]):
        found = list(each)
        title = escape(GROUPS.get(group, group))
        inside = _beside(found, played, compared) if compared else _alone(found)
        parts.append(f"<div><h3>{title}</h3>{inside}</div>")
    kind = "compared" if compared else "groups"
    note = f'<p class="soft">{escape(_capital(twin.footnote(played)))}.'
    if compared and not twin.is_paired(played):
        note += (
            " Two courses differ where their intervals part; where they overlap, more seeds tell."
        )
    return f'<div class="{kind}">{"".join(parts)}</div>{note}</p>'


def _alone(answers: Iterable[Json]) -> str:
    return "<dl>" + "".join(
        f"<div><dt>{escape(one['name'])}</dt><dd>{escape(twin.said(one['value'], one['unit']))}"
        f" <small>{escape(twin.interval(one))}{_basis(one)}</small></dd></div>"
        for one in answers
    ) + "</dl>"  # fmt: skip


def _beside(answers: Iterable[Json], played: Json, compared: Json) -> str:
    rows = []
    for one in answers:
        other = twin.counterpart(one, compared)
        difference, verdict = twin.against(one, other, min(played["seeds"], compared["seeds"]))
        rows.append(
            [
                Html(escape(one["name"]) + _basis(one)),
                *(_ranged(each) for each in (one, other)),
                difference,
                Html(f'<span class="{VERDICTS.get(verdict, "soft")}">{escape(verdict)}</span>'),
            ]
        )
    return table(["figure", *twin.labels(played, compared), "difference", "verdict"], rows)


def _ranged(one: Json | None) -> Html:
    if one is None:
        return Html(twin.NOTHING)
    value, ends = twin.said(one["value"], one["unit"]), twin.interval(one)
    return Html(f"<span><b>{escape(value)}</b> <small>{escape(ends)}</small></span>")


def _basis(one: Json) -> str:
    return "" if one["basis"] == "modelled" else f" ({escape(one['basis'])})"


def _words(played: Json) -> str:
    seeds = played["seeds"]
    which = (
        f"One course of the {seeds} that the figures are taken over" if seeds > 1 else "The course"
    )
    return f'<p class="soft">{which}; times are UTC; modelled.</p>'


def _tenants(played: Json) -> str:
    inks = _inks(played["tenants"])
    rows = []
    for one in played["tenants"]:
        name, *figures = twin.tenant_row(one)
        mark = f'<i class="ink" style="--ink-of: var(--s{inks[one["name"]]})"></i>'
        rows.append([Html(f"{mark}{escape(name)}"), *figures])
    head = twin.tenant_head(played["currency"])
    return table(head, rows, numbers=range(1, len(head)))


def _missed(played: Json) -> str:
    which = twin.of_seed(played).strip()
    note = f'<p class="soft">{escape(_capital(which))}.</p>' if which else ""
    return note + _listed(one["what"] for one in played["missed"])


def _listed(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else '<p class="soft">Nothing.</p>'


def _section(title: str, body: str) -> str:
    name = re.sub(r"\W+", "-", title.lower())
    return f'<section id="{name}"><h2>{escape(title)}</h2>{body}</section>'


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _base64(array: Any) -> str:
    return b64encode(array.tobytes()).decode("ascii")


def _in_script(film: dict[str, Any]) -> str:
    """JSON that may stand in a script element: nothing in it can end the element."""
    return json.dumps(film, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
