"""What the command line prints of the performance model: bars of where the time goes, errors."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gigafactory.stack.score import Errors, Report
from gigafactory.units import show, show_duration

Json = Mapping[str, Any]
BAR = 36
LABELS = {
    "linear_s": "matrix products",
    "experts_s": "experts' products",
    "elementwise_s": "norms, casts, routing",
    "launch_s": "host too slow",
    "tensor_s": "tensor-parallel traffic",
    "expert_s": "experts' all-to-all",
    "context_s": "context-parallel traffic",
    "pipeline_s": "pipeline traffic",
    "data_s": "data-parallel traffic",
    "bubble_s": "pipeline bubble",
    "offload_s": "offloading",
    "jitter_s": "waiting for the slowest",
    "states_bytes": "optimizer states",
}
FRONT = 12  # points of a front that fit a screen
SHOWN = 0.003  # a part below that share of the whole is not worth a line


def training(told: Json) -> RenderableType:
    """A training step, its parts and its memory, and the run if one was asked for."""
    needs, has = _gigabytes(told["memory_bytes"]), _gigabytes(told["usable_bytes"])
    lines: list[RenderableType] = _misfit(told, f"the fullest rank needs {needs} of {has}")
    lines += [_heading(told), Text(f"layout by {told['layout_by']}: {told['layout_text']}"), ""]
    lines += [_figures(told), "", _bars("where the step goes", told["parts_s"], _seconds), ""]
    lines.append(_bars("memory of the fullest rank", told["memory_parts_bytes"], _gigabytes))
    lines.append(_room(told))
    if "goodput" in told:
        lost = told["goodput"]
        said = (
            f"goodput {lost['share']:.1%} with failures, one each {show_duration(lost['mtbf_s'])}"
        )
        said += f", and a checkpoint each {show_duration(lost['checkpoint_interval_s'])}"
        lines.append(Text(said, style="dim"))
    if "run" in told:
        run = told["run"]
        span = run["duration_s"]
        said = f"{run['tokens']:.3g} tokens take {_days(span['value'])} [{_span(span, _days)}]"
        lines.append(Text(f"{said} and {run['energy_kwh'] / 1e3:,.1f} MWh of chips"))
    return Group(*lines, _modelled())


def best_training(told: Json) -> RenderableType:
    """The best layout, why the next one lost, and the front."""
    best = Text.assemble(
        f"best {told['objective']} of {told['points']:,} layouts: ", (told["layout_text"], "bold")
    )
    lines: list[RenderableType] = [_heading(told), best, "", _figures(told), ""]
    lines += [_bars("where the step goes", told["parts_s"], _seconds), _room(told)]
    lines += [Text(f"runner-up: {told['why']}"), ""]
    table = _front("chips", "step", "memory", "front: less time, fewer chips or less memory")
    front = sorted(told["front"], key=lambda point: (point["chips"], point["step_s"]))
    for point in _spread(front):
        figures = (
            f"{point['chips']:,}",
            _seconds(point["step_s"]),
            _gigabytes(point["memory_bytes"]),
        )
        table.add_row(*figures, point["layout_text"])
    lines.append(table)
    more = len(front) - FRONT
    note = f"{told['evaluated']:,} points evaluated; bounds rule the others out"
    if more > 0:
        note += f"; {more} more on the front with --json"
    return Group(*lines, Text(note, style="dim"), _modelled())


def serving(told: Json) -> RenderableType:
    """A service under load: times, throughput, memory, and where a request's time goes."""
    load = f"{told['prompt_tokens']:,} tokens in, {told['new_tokens']:,} out, "
    at_once = told["concurrency"]
    load += f"{at_once:,} at once" if at_once else f"as many as fit ({told['batch']:,.0f})"
    where = f"{told['layout_text']} with {told['engine']}; {load}"
    table = _table("", "mean", "80 %", "P90", "P99")
    for name, key in (("time to first token", "ttft"), ("time per token", "tpot")):
        figure = told[f"{key}_s"]
        tail = (_seconds(told[f"{key}_p90_s"]), _seconds(told[f"{key}_p99_s"]))
        table.add_row(name, _seconds(figure["value"]), _span(figure, _seconds), *tail)
    for name, key in (("tokens/s out", ""), ("tokens/s out, a chip", "_per_chip")):
        figure = told[f"output_tokens_per_s{key}"]
        table.add_row(name, f"{figure['value']:,.0f}", _span(figure, "{:,.0f}".format), "", "")
    power = f"{told['joules_per_token']:.3g} J a token"
    table.add_row("power a chip", show(told["power_w_per_chip"], "W"), power, "", "")
    room = f"weights {_gigabytes(told['weight_bytes_per_chip'])} a chip, cache "
    room += _gigabytes(told["cache_bytes_per_chip"])
    room += f": {told['sequences_that_fit']:,.0f} such requests"
    if told["chips_idle"]:
        room += f"; {told['chips_idle']} of the chips idle"
    bars = _bars("where a request's time goes", told["parts_s"], _seconds)
    first = _misfit(told, told["reason"])
    parts = (_heading(told), Text(where), "", table, "", bars, Text(room, style="dim"))
    return Group(*first, *parts, _modelled())


def best_serving(told: Json) -> RenderableType:
    """The front of a search, fastest for one user first, and what each option beat."""
    load = f"{told['prompt_tokens']:,} tokens in, {told['new_tokens']:,} out"
    table = _front("tokens/s a user", "a chip", "TTFT", "TPOT", "J a token", "layout")
    rows = told["front"]
    shown = _spread(rows)
    for row in shown:
        figures = (f"{row['tokens_per_s_per_user']:.1f}", f"{row['tokens_per_s_per_chip']:,.0f}")
        times = (_seconds(row["ttft_s"]), _seconds(row["tpot_s"]))
        joules = f"{row['joules_per_token']:.3g}"
        table.add_row(*figures, *times, joules, row["layout_text"])
    why = [
        Text(f"{row['layout_text']}: {row['why']}", style="dim")
        for row in shown[:: max(FRONT // 3, 1)]
    ]
    note = f"{told['considered']:,} ways considered, {len(rows)} on the front; "
    note += f"{told['engine']}, {load}"
    return Group(_heading(told), "", table, "", *why, Text(note, style="dim"), _modelled())


def errors(report: Report) -> RenderableType:
    """Error tables, the floor, and what was not answered."""
    parts: list[RenderableType] = []
    groups: Sequence[tuple[str, Sequence[Errors]]] = (
        ("all scored rows, suites alike", report.overall),
        ("by suite", report.by_suite),
        ("by chip", report.by_gpu),
        ("by model", report.by_model),
        ("apart: runs not fully described", report.apart),
    )
    for title, rows in groups:
        if rows:
            parts += [_errors(title, rows), ""]
    if report.floor_median is not None and report.floor_worst is not None:
        parts.append(
            Text(
                f"floor: {report.floor_groups} groups of rows with identical inputs differ by "
                f"±{report.floor_median:.1%} in the median, ±{report.floor_worst:.0%} at worst"
            )
        )
    parts.append(
        Text(
            f"answered {report.answered} of {report.asked} figures that are scored; not scored are "
            f"{report.not_scored} rows: not fully described, of tier C, or older reruns. "
            f"Said impossible, but ran: {report.said_impossible}"
        )
    )
    return Group(*parts)


def _errors(title: str, rows: Sequence[Errors]) -> Table:
    table = Table(
        box=None,
        pad_edge=False,
        header_style="bold dim",
        title=title,
        title_justify="left",
        title_style="bold",
    )
    table.add_column("", no_wrap=True)
    for name in ("rows", "MAPE", "median", "P90", "bias", "in 80 %", "rank"):
        table.add_column(name, justify="right")
    for row in rows:
        rank = "" if row.rank is None else f"{row.rank:.2f}"
        figures = (
            f"{row.mape:.1%}",
            f"{row.median:.1%}",
            f"{row.p90:.1%}",
            f"{row.bias:+.1%}",
            f"{row.coverage:.0%}",
        )
        table.add_row(row.group, str(row.rows), *figures, rank)
    return table


def _heading(told: Json) -> Text:
    what = f"{told['parameters'] / 1e9:.4g} B parameters"
    if told["parameters_active"] < 0.95 * told["parameters"]:
        what += f", {told['parameters_active'] / 1e9:.3g} B active"
    text = Text.assemble(
        (str(told["model"]), "bold cyan"),
        f"  {what}, {told['precision']}, on {told['chips']:,} × {told['chip']}",
    )
    for assumption in told["assumptions"]:
        text.append(f"\nassumed: {assumption}", style="yellow")
    return text


def _figures(told: Json) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, key, form in (
        ("step", "step_s", _seconds),
        ("tokens/s", "tokens_per_s", lambda value: f"{value:,.0f}"),
        ("tokens/s a chip", "tokens_per_s_per_chip", lambda value: f"{value:,.0f}"),
        (f"MFU of {told['mfu_of_peak']}", "mfu", "{:.1%}".format),
    ):
        figure = told[key]
        table.add_row(name, form(figure["value"]), f"80 %: {_span(figure, form)}")
    table.add_row(
        "power a chip",
        show(told["power_w_per_chip"], "W"),
        f"{told['joules_per_token']:.3g} J a token",
    )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def _front(*columns: str) -> Table:
    """Figures, then the layout that they are of, which may take more than a line."""
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for name in columns[:-1]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(columns[-1])
    return table


def _spread(rows: Sequence[Json]) -> list[Json]:
    """As many rows as fit a screen, evenly from the first to the last."""
    count = min(len(rows), FRONT)
    return [rows[round(number * (len(rows) - 1) / max(count - 1, 1))] for number in range(count)]


def _span(figure: Mapping[str, float], form: Any) -> str:
    return f"{form(figure['low'])} to {form(figure['high'])}"


def _bars(title: str, parts: Mapping[str, float], form: Any) -> Table:
    whole = sum(parts.values()) or 1.0
    table = Table(
        box=None,
        pad_edge=False,
        show_header=False,
        title=title,
        title_justify="left",
        title_style="bold",
    )
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    table.add_column(justify="right", style="dim")
    for name, value in sorted(parts.items(), key=lambda part: -part[1]):
        if value / whole >= SHOWN:
            label = LABELS.get(name) or name.rsplit("_", 1)[0].replace("_", " ")
            table.add_row(label, _bar(value / whole), f"{value / whole:.1%}", form(value))
    return table


def _bar(share: float) -> Text:
    eighths = round(share * BAR * 8)
    last = " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    return Text("█" * (eighths // 8) + last, style="cyan")


def _room(told: Json) -> Text:
    said = f"{_gigabytes(told['memory_bytes'])} of {_gigabytes(told['usable_bytes'])} usable"
    if told.get("batch_with_padding", told["batch"]) != told["batch"]:
        padded = told["batch_with_padding"]
        said += f"; data ranks do not divide the batch: set --batch {padded}, or pad to it"
    return Text(said, style="dim")


def _misfit(told: Json, why: str) -> list[RenderableType]:
    """First of all, where the question has no good answer."""
    return [] if told["fits"] else [Text(f"does not fit: {why}", style="bold red")]


def _modelled() -> Text:
    return Text(
        "modelled; intervals from published runs left out of the fit: docs/performance.md",
        style="dim",
    )


def _seconds(value: float) -> str:
    if value >= 600:
        return _days(value)
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.1f} GB"


def _days(seconds: float) -> str:
    return f"{seconds / 86400:,.1f} days" if seconds > 2 * 86400 else show_duration(seconds)
