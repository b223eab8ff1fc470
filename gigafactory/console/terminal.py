"""What the command line prints: the factory, its quotes, its jobs, its bills. Rich tables."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gigafactory.console.words import digits, verdict
from gigafactory.faults import Fault
from gigafactory.plan import Figure, Plan, Quote
from gigafactory.units import show, show_duration

WELL_PREDICTED = 0.25  # relative error up to which a prediction counts as good
QUOTED = {
    "modelled": "a model, not a measurement",
    "measured": "an earlier run",
    "assumed": "assumed, as its owner expects",
}
STATUS_STYLE = {"done": "green", "running": "cyan", "failed": "red", "blocked": "red"}


def factory(plan: Plan) -> RenderableType:
    """The factory that a plan describes, in one screen."""
    sites = _table("site", "system", "chips", "power", "carbon", "chip-hour")
    for where in plan.places:
        cap_w = plan.sites[where.site]
        sites.add_row(
            where.site,
            f"{where.nodes} × {where.system}",
            str(where.chips),
            f"{show(where.chips * where.chip_w, 'W')} of {show(cap_w, 'W')}",
            f"{where.carbon_g_per_j * 3.6e6:.0f} gCO2e/kWh",
            f"{where.price_chip_s * 3600:.4f} {plan.currency}",
        )
    return Group(
        Text.assemble(("factory ", "bold"), (plan.name, "bold cyan"), f"  owner {plan.owner}"),
        sites,
        Text(_machine(plan.measured.machine), style="dim"),
    )


def quotes(plan: Plan) -> RenderableType:
    """Every job's price before it runs, the same on the reference system, and the reasons."""
    counted = any(job.quote.size and not job.quote.tokens.value for job in plan.jobs)
    work = "work" if counted else "tokens"
    table = _table("job", "takes", work, "Wh", "gCO2e", plan.currency)
    reference = next((job.reference.system for job in plan.jobs if job.reference), None)
    if reference:
        table.add_column(f"on {reference}", justify="right")
    else:
        _fold(table)
    for job in plan.jobs:
        quote = job.quote
        row = [
            job.spec.name,
            _ranged(quote.duration_s, show_duration),
            _work(quote, " tokens" if counted else ""),
            f"{quote.energy_kwh.value * 1e3:.3g}",
            f"{quote.carbon_g.value:.2g}",
            _money(quote.money.value),
        ]
        if reference:
            row.append(_reference(job.reference))
        table.add_row(*row)
    first = plan.time_to_first_token_s
    begins = "First answer" if plan.first_acts else "First token"
    note = f"{begins} after {show_duration(first)}. " if first is not None else ""
    why = [f"{j.spec.name}: {layout(j.quote)}; {j.quote.reason}" for j in plan.jobs]
    note += "The ± of the time holds for energy, carbon and money; energy and carbon are modelled."
    return Group(table, Text(note, style="dim"), Text("\n".join(why), style="dim"))


def _work(quote: Quote, tokens: str) -> str:
    """Tokens; of a job that has none, frames or steps."""
    if quote.tokens.value:
        return f"{quote.tokens.value:,.0f}{tokens}"
    return f"{quote.size:,.0f} {quote.unit}" if quote.size else "–"


def layout(quote: Quote) -> str:
    """How a job lies on its chips, in words."""
    at = quote.layout
    if at.parallel == "fsdp":
        return f"{at.ranks} ranks, FSDP"
    return f"{at.threads} thread{'s' * (at.threads > 1)}"


def jobs(rows: Iterable[Mapping[str, Any]]) -> RenderableType:
    """Where every job stands, and how what judges judged."""
    table = _table("job", "kind", "tenant", "chips", "status", "attempts", "progress")
    _fold(table)
    table.columns[-1].justify, table.columns[-1].no_wrap = "left", False
    for job in rows:
        progress = job.get("progress") or {}
        step = progress.get("step")
        far = "" if step is None else f"{step}/{progress.get('steps') or '?'}"
        stands = verdict(job.get("verdicts")) or job.get("why") or job.get("reason") or far
        status = job["status"]
        table.add_row(
            job["name"],
            job["kind"],
            job["tenant"],
            str(job["chips"]),
            Text(status, style=STATUS_STYLE.get(status, "")),
            str(job["attempts"]),
            Text(stands),
        )
    return table


def compared(rows: Iterable[Mapping[str, Any]]) -> RenderableType:
    """Predicted against measured, of every job: time, then the errors of tokens and energy."""
    rows = list(rows)
    told = any(row.get("measured_tokens") for row in rows)  # Of frames and steps nobody counts any.
    counts = ("tokens", "error") if told else ()
    table = _table("job", "kind", "predicted", "measured", "error", *counts, "Wh error")
    _fold(table)
    late = []
    for row in rows:
        service = "predicted_kwh" not in row
        tokens = None if service else row["measured_tokens"]
        counted = ("–" if tokens is None else f"{tokens:,.0f}",
                   "–" if service else _error(row["error_tokens"]))  # fmt: skip
        table.add_row(
            row["name"],
            row["kind"],
            show_duration(row["predicted_s"]),
            show_duration(row["measured_s"]),
            _error(row["error_s"]),
            *(counted if told else ()),
            "–" if service else _error(row["error_kwh"]),
        )
        if abs(row["error_s"]) > WELL_PREDICTED:
            late.append(
                f"{row['name']}: off by more than 25 %; its quote was {QUOTED[row['basis']]}"
            )
    notes = ["A service's time is until it answers. Wh are modelled on both sides.", *late]
    return Group(table, Text("\n".join(notes), style="dim"))


def bill(rows: Iterable[Mapping[str, Any]], currency: str) -> RenderableType:
    """What each tenant used and owes."""
    table = _table(
        "tenant", "chip\nhours", "kWh", "gCO2e", "requests", "tokens\nin", "tokens\nout", currency
    )
    disputed = 0
    for row in rows:
        disputed += row["disputed"]
        table.add_row(
            row["tenant"],
            digits(round(row["chip_s"] / 3600, 5), 5),
            digits(round(row["energy_kwh"], 5), 5),
            digits(row["carbon_g"]),
            str(row["requests"]) + f" + {row['disputed']}" * bool(row["disputed"]),
            f"{row['input_tokens']:,}",
            f"{row['output_tokens']:,}",
            f"{row['total_micro'] / 1e6:.6f}",
        )
    if not table.rows:
        return Text("nobody used anything")
    money = table.columns[-1]
    money.min_width = max(map(len, map(str, money.cells)))  # never cut short
    note = "gCO2e are modelled, and kWh where nothing meters them"
    if disputed:
        note += f"; + {disputed} disputed, which a crash left open: billed 0"
    return Group(table, Text(note, style="dim"))


def machine(snapshot: Mapping[str, Any]) -> RenderableType:
    """What calibration measured, and what it took from elsewhere."""
    basis, each = snapshot["basis"], f"one of {snapshot['chips']}"
    table = _table("", "", "", "")
    rates = snapshot["flop_per_s"].items()
    rows = [
        (f"products, {dtype}", show(rate, "FLOP/s"), each, "flop_per_s") for dtype, rate in rates
    ]
    for product in snapshot.get("products", ()):
        shape = " × ".join(map(str, product["shape"]))
        rate = show(product["flop_per_s"], "FLOP/s")
        rows.append((f"products, {product['dtype']}", rate, shape, "products"))
    rows.append(("memory", show(snapshot["memory_bytes_per_s"], "B/s"), each, "memory_bytes_per_s"))
    if "launch_s" in snapshot:
        rows.append(("smallest operation", f"{snapshot['launch_s'] * 1e6:.1f} us", "", "launch_s"))
    for it in snapshot.get("collectives", ()):
        what = f"{it['collective'].replace('_', '-')}, {it['ranks']} ranks"
        speed = show(it["bus_bytes_per_s"], "B/s")
        rows.append((what, speed, show(it["payload_bytes"], "B"), "collectives"))
    for name in ("idle_w", "busy_w"):
        rows.append((f"power, {name.removesuffix('_w')}", show(snapshot[name], "W"), each, name))
    for what, figure, of, key in rows:
        table.add_row(what, figure, of, basis[key])
    kept = f"{snapshot['model']}: kept as `this-machine`, with {snapshot['measured_with']}"
    return Group(Text(kept, style="bold"), table)


def faults(console: Console, found: Iterable[Fault]) -> None:
    """Print what is wrong: what, where, why, then the remedy as a hint."""
    for fault in found:
        console.print(Text.assemble(("error: ", "bold red"), fault.what))
        console.print(f"  where  {fault.where}", markup=False, highlight=False)
        console.print(f"  why    {fault.why}", markup=False, highlight=False)
        console.print(Text.assemble("\n", ("hint: ", "bold green"), fault.remedy, "\n"))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < 2 else "right", no_wrap=number == 0)
    return table


def _fold(table: Table) -> None:
    """A narrow screen breaks the names in the first column, and no word or number beside them."""
    for number, column in enumerate(table.columns):
        column.no_wrap, column.overflow = number > 0, "fold"


def _money(value: float) -> str:
    """Four places; more where they would show nothing of it."""
    return f"{value:.4f}" if value >= 5e-5 or not value else digits(value, 1)


def _ranged(figure: Figure, as_text: Any) -> str:
    half = (figure.high - figure.low) / 2 / figure.value if figure.value else 0.0
    return f"{as_text(figure.value)} ±{half:.0%}"


def _reference(quote: Quote | None) -> str:
    if quote is None:
        return "–"
    return f"{show_duration(quote.duration_s.value)}, {quote.money.value:.3f}"


def _error(error: float | None) -> Text:
    if error is None:
        return Text("–")
    return Text(f"{error:+.0%}", style="" if abs(error) <= WELL_PREDICTED else "yellow")


def _machine(machine: Mapping[str, Any] | None) -> str:
    if machine is None:
        return "this machine is not calibrated yet; figures for it are those of a generic CPU"
    rates = ", ".join(
        f"{show(rate, 'FLOP/s')} {dtype}" for dtype, rate in machine["flop_per_s"].items()
    )
    power = machine["basis"]["busy_w"]
    return (
        f"{machine['model']}: {machine['chips']} chips of {rates}, "
        f"{show(machine['memory_bytes_per_s'], 'B/s')}, "
        f"{show(machine['memory_bytes_per_chip'], 'B')} and {show(machine['busy_w'], 'W')}"
        f" each (power {power})"
    )
