"""The report of a day: one HTML file that needs nothing else, to be kept and sent on.

The lived day stands beside the simulated one: the same queries answer for both. Times in s,
energy in kWh, carbon in gCO2e, money in the run's currency.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from gigafactory.console import charts, gallery, words
from gigafactory.console.view import view
from gigafactory.ledger.book import Book
from gigafactory.units import show, show_duration

ASSETS = Path(__file__).parent
NOTHING = "–"
BILLED = {
    "chip_s": "chip-s",
    "energy_kwh": "energy, modelled",
    "requests": "requests",
    "disputed": "disputed",
    "input_tokens": "tokens in",
    "output_tokens": "tokens out",
    "chips_micro": "for chips",
    "tokens_micro": "for tokens",
    "total_micro": "total",
}

Json = dict[str, Any]


def report(
    lived: tuple[Book, str] | None,
    simulated: tuple[Book, str] | None,
    path: Path,
    left: Mapping[str, Mapping[str, bytes]] | None = None,
) -> None:
    """Write the report of a run, of its simulation, or of both side by side.

    `left` is the pictures that jobs left, by job and path.
    """
    asked = {"lived": lived, "simulated": simulated}
    days = {day: view(*which) for day, which in asked.items() if which}
    if not days:
        raise ValueError("a report needs a lived or a simulated run")
    requests = lived[0].requests(lived[1]) if lived else []
    figures = _figures(days, requests)
    parts = {
        "title": escape(" and ".join(run["run"] for run in days.values())),
        "style": _asset("style.css"),
        "body": "\n".join(_sections(days, figures, left or {})),
        "plotly": get_plotlyjs(),
        "charts": _in_script(json.dumps(figures)),
        "script": _asset("report.js"),
    }
    # In one go: a mark that a model wrote into its answer stays what it is.
    text = re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _asset("report.html"))
    Path(path).write_text(text, encoding="utf-8")


def _figures(days: dict[str, Json], requests: list[Json]) -> dict[str, Json]:
    """The charts by the id of the element that each is drawn in."""
    figures = {
        "gantt": charts.gantt(days),
        "compared": charts.predicted_measured(days),
        "usage": charts.usage(days),
    }
    if "lived" in days:
        curves = charts.losses(days["lived"])
        figures |= {f"loss-{place}": chart for place, chart in enumerate(curves.values())}
    if requests:
        figures["latency"] = charts.latency(requests)
    return figures


def _sections(
    days: dict[str, Json], figures: dict[str, Json], left: Mapping[str, Mapping[str, bytes]]
) -> Iterable[str]:
    yield _head(days)
    yield "<main>"
    yield _section("The day", _chart("gantt"), _jobs(days))
    if "lived" in days:
        yield _first_token(days["lived"])
    yield _section("Predicted against measured", _chart("compared"), _compared(days))
    if curves := [name for name in figures if name.startswith("loss-")]:
        yield _section("Loss", f'<div class="charts">{"".join(map(_chart, curves))}</div>')
    yield _section("Energy, carbon, money", _chart("usage"), _usage(days))
    yield _section("Bill by tenant", *(_bill(day, run) for day, run in days.items()))
    if "lived" in days and (samples := _samples(days["lived"])):
        yield _section("What was judged", samples)
    if shown := [one for job, kept in left.items() for one in gallery.pictures(job, kept)]:
        yield _section("Gallery", _pictures(shown))
    if "latency" in figures:
        yield _section("Gateway", _chart("latency"), _gateway(days["lived"]["requests"]))
    yield _section("Provenance", _provenance(days))
    yield "</main>"


def _head(days: dict[str, Json]) -> str:
    lines = []
    for day, run in days.items():
        opened = datetime.fromtimestamp(run["opened_unix_s"], UTC)
        lasted = show_duration(run["at_s"])
        lines.append(f"{run['run']}: {day}, opened {opened:%Y-%m-%d %H:%M} UTC, {lasted} long")
    said = "".join(f"<p>{escape(line)}</p>" for line in lines)
    title = escape(next(iter(days.values()))["blueprint"])
    return f'<header><div class="brand"><h1>{title}</h1>{said}</div></header>'


def _jobs(days: dict[str, Json]) -> str:
    """Where every job ended on either day, and why where it did not end well."""
    rows = []
    for name in _names(days):
        found = {day: job for day, run in days.items() if (job := _of(run, name))}
        job = next(iter(found.values()))
        said = [_ended(found.get(day)) for day in days]
        results = found["lived"]["results"] if "lived" in found else {}
        rows.append([name, job["kind"], job["tenant"], job["chips"], *said, _results(results)])
    head = ["job", "kind", "tenant", "chips", *days, "results"]
    return _table(head, rows, numbers=[3], prose=range(4, len(head)))


def _ended(job: Json | None) -> str:
    if job is None:
        return NOTHING
    attempts = f", attempt {job['attempts']}" if job["attempts"] > 1 else ""
    verdict = f", {job['verdict']}" if job["verdict"] else ""
    return job["status"] + verdict + attempts + (f": {job['reason']}" if job["reason"] else "")


def _results(results: Json) -> str:
    return ", ".join(
        f"{words.label(name)} {show(value, 'B') if name == 'bytes' else _plain(value)}"
        for name, value in results.items()
    )


def _first_token(lived: Json) -> str:
    first = lived["first_token"]
    title = "First answer" if first["acts"] or first["measured_s"] is None else "First token"
    if first["measured_s"] is None:
        return _section(title, "<p>No question was answered.</p>")
    planned = show_duration(first["predicted_s"]) if first["predicted_s"] else NOTHING
    return _section(
        title,
        f'<p class="soft">asked of {escape(first["job"])}: <q>{escape(first["prompt"])}</q></p>'
        f"<pre>{escape(first['answer'])}</pre>"
        f"<p>{show_duration(first['measured_s'])} after the start; planned {planned}.</p>",
    )


def _compared(days: dict[str, Json]) -> str:
    rows = []
    for day, run in days.items():
        for row in run["predicted_measured"]:
            errors = [_error(row.get(f"error_{unit}")) for unit in ("s", "tokens", "kwh")]
            took = show_duration(row["measured_s"])
            rows.append([row["name"], day, _predicted(row), took, *errors, row["basis"]])
    head = ["job", "day", "predicted", "took", "off by", "tokens off", "kWh off", "quote is"]
    return _table(head, rows, numbers=range(2, 7)) + (
        '<p class="soft">Of a service: until it answered. Energy is modelled on both sides.</p>'
    )


def _predicted(row: Json) -> str:
    value, low, high = (show_duration(row[f"predicted_s{end}"]) for end in ("", "_low", "_high"))
    return f"{value} ({low} – {high})"


def _usage(days: dict[str, Json]) -> str:
    currency = next(iter(days.values()))["currency"]
    rows = []
    for name in _names(days):
        for day, run in days.items():
            if (job := _of(run, name)) is None:
                continue
            used = [
                _plain(job["chip_s"]),
                show(job["energy_kwh"] * 3.6e6, "J"),
                show(job["carbon_g"], "g"),
                _money(job["money_micro"], currency),
            ]
            rows.append([name, day, *(used if job["chip_s"] else [NOTHING] * len(used))])
            rows[-1].append(_elsewhere(job["reference"], currency))
    head = ["job", "day", "chip-s", "energy, modelled", "CO₂e, modelled", "money"]
    return _table([*head, "elsewhere, modelled"], rows, numbers=range(2, 6)) + (
        '<p class="soft">An attempt is metered when it ends; a service that runs, later.</p>'
    )


def _elsewhere(reference: Json | None, currency: str) -> str:
    """The same job quoted on the reference system of the blueprint."""
    if reference is None:
        return NOTHING
    duration_s, money = reference["duration_s"]["value"], reference["money"]["value"]
    return f"{reference['system']}: {show_duration(duration_s)}, {_plain(money)} {currency}"


def _bill(day: str, run: Json) -> str:
    bill, currency = run["bill"], run["currency"]
    total = {key: sum(row[key] for row in bill) for key in BILLED}
    rows = [[row["tenant"], *_billed(row, currency)] for row in bill]
    head = ["tenant", *BILLED.values()]
    table = _table(head, [*rows, ["all", *_billed(total, currency)]], numbers=range(1, len(head)))
    return f"<h3>{day}</h3>{table}"


def _billed(row: Json, currency: str) -> list[str]:
    """What a tenant used and owes, in the columns of `BILLED`."""
    counts = ("requests", "disputed", "input_tokens", "output_tokens")
    return [
        _plain(row["chip_s"]),
        show(row["energy_kwh"] * 3.6e6, "J"),
        *(_plain(row[count]) for count in counts),
        *(_money(row[f"{part}_micro"], currency) for part in ("chips", "tokens", "total")),
    ]


def _samples(lived: Json) -> str:
    """What the judged models answered, right and wrong."""
    head = ["prompt", "answer", "expected", "exact"]
    return "".join(
        f"<h3>{escape(job['name'])}</h3>"
        + _table(head, [[sample[key] for key in head] for sample in job["samples"]], prose=range(3))
        for job in lived["jobs"]
        if job["samples"]
    )


def _pictures(shown: list[Json]) -> str:
    """What jobs made; films stay in their folders."""
    rows = (
        f'<li><img src="{one["src"]}" alt="{escape(one["alt"])}">'
        f"<p>{escape(one['caption'])}</p></li>"
        for one in shown
    )
    return f'<ul class="pictures">{"".join(rows)}</ul>'


def _gateway(requests: Json) -> str:
    shown = {"requests settled": requests["settled"]}
    if requests["output_tokens"]:
        shown |= {
            "first token, median": _duration(requests["ttft_s_median"]),
            "first token, 95th percentile": _duration(requests["ttft_s_p95"]),
        }
    shown |= {
        "whole answer, median": _duration(requests["duration_s_median"]),
        "errors": requests["errors"],
        "disputed, billed 0": requests["disputed"],
    }
    return _table(list(shown), [list(shown.values())], numbers=range(len(shown)))


def _provenance(days: dict[str, Json]) -> str:
    """What the plans were made from, and which figures are measured, modelled or exact."""
    rows = [
        [of, *(run["hashes"][of][:16] for run in days.values())]
        for of in ("blueprint", "catalog", "measured")
    ]
    rows.append(["machine", *(_machine(run["machine"]) for run in days.values())])
    notes = dict.fromkeys(note for run in days.values() for note in run["notes"])
    said = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return _table(["made from", *days], rows, prose=range(1, len(days) + 1)) + said


def _machine(machine: Json | None) -> str:
    if machine is None:
        return "not calibrated"
    basis = ", ".join(f"{name} {basis}" for name, basis in sorted(machine["basis"].items()))
    return f"{machine['chips']} × {machine['model']}, {machine['when']} ({basis})"


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{title}</h2>{''.join(parts)}</section>"


def _chart(name: str) -> str:
    return f'<div class="chart" id="{name}" role="img" aria-label="chart: {name}"></div>'


def _table(
    head: list[str],
    rows: list[list[Any]],
    numbers: Collection[int] = (),
    prose: Collection[int] = (),
) -> str:
    """A table; the columns `numbers` are set to the right, those of `prose` may wrap."""

    def line(tag: str, cells: list[Any]) -> str:
        kinds = (
            "number" if place in numbers else "prose" if place in prose else ""
            for place in range(len(head))
        )
        return "".join(
            f'<{tag} class="{kind}">{escape(_plain(cell))}</{tag}>'
            for kind, cell in zip(kinds, cells, strict=True)
        )

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return (
        '<div class="wide" tabindex="0"><table>'
        f"<thead><tr>{line('th', head)}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _plain(value: Any) -> str:
    if isinstance(value, dict):  # a figure with its range
        return f"{_plain(value['value'])} ({_plain(value['low'])} – {_plain(value['high'])})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return words.digits(float(f"{value:.4g}"), 4)  # never 1.2e+03
    return f"{value:,}" if isinstance(value, int) else str(value)


def _money(micro: int, currency: str) -> str:
    return f"{_plain(micro / 1e6)} {currency}"


def _error(share: float | None) -> str:
    return NOTHING if share is None else f"{round(share, 2) + 0.0:+.0%}"  # + 0.0: no minus zero


def _duration(seconds: float | None) -> str:
    return NOTHING if seconds is None else show_duration(seconds)


def _names(days: dict[str, Json]) -> list[str]:
    return list(dict.fromkeys(job["name"] for run in days.values() for job in run["jobs"]))


def _of(run: Json, name: str) -> Json | None:
    return next((job for job in run["jobs"] if job["name"] == name), None)


def _in_script(text: str) -> str:
    """JSON that may stand in a script element: nothing in it can end the element."""
    return text.replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
