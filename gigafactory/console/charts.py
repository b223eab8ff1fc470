"""The report's charts as plotly figures: plain dicts of `data` and `layout`.

A colour is the name of a variable of `style.css` (`--accent`); the page puts in what it stands
for by day or by night. In: what `view` says of a run, by day ("lived", "simulated").
"""

from typing import Any

from gigafactory.units import show_duration

Json = dict[str, Any]
Days = dict[str, Json]

COLOURS = {"lived": "--accent", "simulated": "--band"}
MARKERS = {"lived": "circle", "simulated": "diamond-open"}
OUTCOME_COLOURS = {"failed": "--bad", "lost": "--warn", "stopped": "--soft"}
ROW_PX, MARGIN_PX = 40, 112


def gantt(days: Days) -> Json:
    """Every attempt of both days on one axis of time; a service runs to the end of its day."""
    rows = _job_names(days)
    firsts = sorted(_first_tokens(days).items(), key=lambda first: first[1])
    return {
        "data": [_attempts(day, run) for day, run in days.items()],
        "layout": {
            "barmode": "group",
            "bargap": 0.35,
            "height": MARGIN_PX + ROW_PX * len(rows),
            "xaxis": _axis("time since the run was opened, s"),
            "yaxis": _rows(rows),
            "shapes": [_upright(first_s, COLOURS[day]) for day, first_s in firsts],
            # The earlier one is written to the left of its line, the later one to the right.
            "annotations": [
                _above(first_s, f"first answer, {day}", anchor)
                for (day, first_s), anchor in zip(firsts, ("right", "left"), strict=False)
            ],
        },
    }


def _attempts(day: str, run: Json) -> Json:
    attempts = run["attempts"]
    ends = [run["at_s"] if it["ended_s"] is None else it["ended_s"] for it in attempts]
    outcomes = [it["outcome"] or "running" for it in attempts]
    return {
        "type": "bar",
        "orientation": "h",
        "name": day,
        "offsetgroup": day,
        "y": [it["job"] for it in attempts],
        "base": [it["at_s"] for it in attempts],
        "x": [end_s - it["at_s"] for it, end_s in zip(attempts, ends, strict=True)],
        "marker": {
            "color": [OUTCOME_COLOURS.get(word, COLOURS[day]) for word in outcomes],
            # Not by colour alone: what did not end well is hatched, and says so.
            "pattern": {
                "shape": ["/" if word in OUTCOME_COLOURS else "" for word in outcomes],
                "fillmode": "overlay",
                "solidity": 0.2,
            },
        },
        "text": [word if word in OUTCOME_COLOURS else "" for word in outcomes],
        "textposition": "inside",
        "textfont": {"color": "--sheet"},
        "hovertext": [
            f"{it['job']}, attempt {it['attempt']}: {word}, {show_duration(end_s - it['at_s'])}"
            for it, word, end_s in zip(attempts, outcomes, ends, strict=True)
        ],
        "hoverinfo": "text",
    }


def predicted_measured(days: Days) -> Json:
    """Each job's duration: the quote with its range, and what either day took."""
    quoted = next(iter(days.values()))["jobs"]
    ranges = [job["quote"]["duration_s"] for job in quoted]
    predicted = {
        "type": "scatter",
        "mode": "markers",
        "name": "predicted, with range",
        "y": [job["name"] for job in quoted],
        "x": [figure["value"] for figure in ranges],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [figure["high"] - figure["value"] for figure in ranges],
            "arrayminus": [figure["value"] - figure["low"] for figure in ranges],
            "color": "--soft",
            "thickness": 2,
            "width": 6,
        },
        "marker": {"color": "--soft", "symbol": "line-ns-open", "size": 16, "line": {"width": 3}},
    }
    return {
        "data": [predicted, *(_measured(day, run) for day, run in days.items())],
        "layout": {
            "height": MARGIN_PX + ROW_PX * len(quoted),
            "xaxis": _axis("duration, s (logarithmic)") | {"type": "log"},
            "yaxis": _rows([job["name"] for job in quoted]),
        },
    }


def _measured(day: str, run: Json) -> Json:
    measured = [job for job in run["jobs"] if job["measured_s"] is not None]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": day,
        "y": [job["name"] for job in measured],
        "x": [job["measured_s"] for job in measured],
        "marker": {"color": "--accent", "symbol": MARKERS[day], "size": 12, "line": {"width": 2}},
    }


def losses(run: Json) -> dict[str, Json]:
    """The loss of each job that told one, over its steps."""
    charts = {}
    for name, curve in run["curves"].items():
        points = [point for point in curve if point["loss"] is not None]
        told = any(point["tokens"] for point in points)
        if points:
            charts[name] = {
                "data": [
                    {
                        "type": "scatter",
                        "mode": "lines",
                        "name": name,
                        "x": [point["step"] for point in points],
                        "y": [point["loss"] for point in points],
                        "line": {"color": "--accent", "width": 2},
                    }
                ],
                "layout": {
                    "title": {"text": name},
                    "height": 300,
                    "showlegend": False,
                    "xaxis": _axis("step"),
                    "yaxis": _axis("loss, nats a token" if told else "loss"),
                },
            }
    return charts


def usage(days: Days) -> Json:
    """Energy and money of each job, side by side."""
    rows = _job_names(days)
    currency = next(iter(days.values()))["currency"]
    panels = {"x": ("energy_kwh", 1e3), "x2": ("money_micro", 1e-6)}
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": day,
                "legendgroup": day,
                "showlegend": axis == "x",
                "offsetgroup": day,
                "xaxis": axis,
                "y": [job["name"] for job in run["jobs"]],
                "x": [job[column] * scale for job in run["jobs"]],
                "marker": {"color": COLOURS[day]},
            }
            for axis, (column, scale) in panels.items()
            for day, run in days.items()
        ],
        "layout": {
            "barmode": "group",
            "bargap": 0.35,
            "height": MARGIN_PX + ROW_PX * len(rows),
            "xaxis": _axis("energy, Wh (modelled)") | {"domain": [0, 0.47]},
            "xaxis2": _axis(f"money, {currency}") | {"domain": [0.53, 1]},
            "yaxis": _rows(rows),
        },
    }


def latency(requests: list[Json]) -> Json:
    """Each answered request: when it ended, its first token if it has any, its whole answer."""
    answered = [request for request in requests if request["outcome"] != "error"]
    series = [("whole answer", "duration_s", "--soft", "x-thin-open")]
    if any(request["completion_tokens"] for request in answered):
        series.insert(0, ("first token", "ttft_s", "--accent", "circle"))
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [request["at_s"] for request in answered],
                "y": [request[column] for request in answered],
                "marker": {"color": colour, "symbol": symbol, "size": 8, "line": {"width": 2}},
            }
            for name, column, colour, symbol in series
        ],
        "layout": {
            "height": 320,
            "xaxis": _axis("time since the run was opened, s"),
            "yaxis": _axis("seconds after the request") | {"rangemode": "tozero"},
        },
    }


def _job_names(days: Days) -> list[str]:
    return list(dict.fromkeys(job["name"] for run in days.values() for job in run["jobs"]))


def _first_tokens(days: Days) -> dict[str, float]:
    """When each day answered first; the simulated day asks nothing, so there it is readiness."""
    firsts = {day: run["first_token"] for day, run in days.items()}
    found = {
        day: first["measured_s"] if day == "lived" else first["ready_s"]
        for day, first in firsts.items()
    }
    return {day: first_s for day, first_s in found.items() if first_s is not None}


def _upright(x: float, colour: str) -> Json:
    line = {"color": colour, "dash": "dot", "width": 2}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _above(x: float, text: str, anchor: str) -> Json:
    place = {"x": x, "xanchor": anchor, "y": 1, "yref": "paper", "yanchor": "bottom"}
    return {"text": text, "showarrow": False, **place}


def _axis(title: str) -> Json:
    return {"title": {"text": title}, "automargin": True}


def _rows(names: list[str]) -> Json:
    """A row for each job, the first on top."""
    return {
        "categoryorder": "array",
        "categoryarray": names,
        "autorange": "reversed",
        "automargin": True,
    }
