"""What the command line prints of money: the pages of `cost` and `invest`.

They show what `stack/money/answers.py` tells and add nothing to it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gigafactory import units
from gigafactory.console.cash_plots import BARS, short, unit_words

Json = Mapping[str, Any]

BLOCKS = "▁▂▃▄▅▆▇█"
HALF_BAR = 9
"""How long half of the longest bar is, in letters."""
BEST, WORST = "green", "red"
MEANING = {
    "machines": "depreciation, machines",
    "facility": "depreciation, facility",
    "capital": "cost of capital",
}


def cost(told: Json, sources: bool = False) -> RenderableType:
    """Capex, a year and an hour of a GPU, in parts."""
    money, hour = told["currency"], told["gpu_hour"]
    year = told["yearly"]
    capex = _table("to build", f"M {money}", "share", f"{money} a GPU")
    for name, amount in told["capex"]["parts"].items():
        if amount:
            share = f"{amount / told['capex']['total']:.0%}"
            capex.add_row(name, _millions(amount), share, f"{amount / told['chips']:,.0f}")
    total = told["capex"]["total"]
    capex.add_row(
        *_bold("in all", _millions(total), "", f"{total / told['chips']:,.0f}"), end_section=True
    )
    running = _table("by the year", f"M {money}", "share", f"{money}/GPU-h")
    for name, amount in year["parts"].items():
        share = f"{amount / year['total']:.0%}"
        words = MEANING.get(name, name)
        running.add_row(words, _millions(amount), share, f"{hour['parts'][name]:.3f}")
    running.add_row(*_bold("in all", _millions(year["total"]), "", f"{hour['owned']:.3f}"))
    load = told["inputs"]["load"]["value"]
    sold = "never sold" if hour["sold"] is None else f"{hour['sold']:.2f} {money}"
    hours = Text.assemble(
        ("a GPU-hour costs ", ""),
        (f"{hour['owned']:.2f} {money}", "bold"),
        f" owned ({hour['owned_before_capital']:.2f} before the cost of capital), ",
        (sold, "bold"),
        f" sold, at {load:.0%} utilisation",
    )
    each = Text(f"{told['capex_per_w']:.1f} {money} a watt of the machines' nameplate")
    return Group(
        _heading(told), "", capex, "", running, "", hours, each, "", *_inputs(told, sources)
    )


def invest(told: Json, sources: bool = False) -> RenderableType:
    """What it is worth, by year; what moves it; whether another way is cheaper."""
    parts: list[RenderableType] = [_heading(told), _plan(told), "", _worth(told), "", _years(told)]
    parts += ["", _tornado(told), "", _futures(told), "", _choices(told)]
    if told["law"] is not None:
        parts += ["", _law(told["law"])]
    return Group(*parts, "", *_inputs(told, sources))


def _heading(told: Json) -> Text:
    where = f" in {told['at_name']}" if told["at_name"] else ""
    said = Text.assemble(
        (f"{told['nodes']:,} × {told['system']}", "bold cyan"),
        f"{where}: {told['chips']:,} GPUs, {units.show(told['nameplate_w'], 'W')} of machines, "
        f"{units.show(told['site_w'], 'W')} in all, {told['cooling']}",
    )
    said.append(f"\nmodelled, {told['leaves_out']}", style="dim")
    return said


def _plan(told: Json) -> Text:
    sold = (
        f"tokens at the list price of {told['model']}" if told["sell"] == "tokens" else "GPU-hours"
    )
    said = f"first token {told['first_token']}, {told['years']:g} years of {sold}"
    if told["debt"]["share"]:
        debt = told["debt"]
        said += f"; {debt['share']:.0%} debt at {debt['rate']:.1%} for {debt['years']:g} years"
    return Text(said)


def _worth(told: Json) -> Table:
    money = told["currency"]
    table = _table("what it is worth", f"NPV, M {money}", "IRR", "paid back")
    whose = {"project": "the project"}
    if told["debt"]["share"]:
        whose["equity"] = "its owners, after the loan"
    for key, words in whose.items():
        of = told[key]
        irr = "none" if of["irr"] is None else f"{of['irr']:.1%}"
        worth = Text(_millions(of["npv"]), style=BEST if of["npv"] >= 0 else WORST)
        table.add_row(words, worth, irr, of["payback"] or "never")
    level = told["levelised"]
    if level["gpu_hour"] is not None:
        said = f"levelised: {level['gpu_hour']:.2f} {money} a GPU-hour sold"
        if level["million_tokens"] is not None:
            said += f", {level['million_tokens']:.2f} {money} a million output tokens"
        said += (
            f"; sold for {level['sold_at_first']:.2f} at first, {level['sold_at_last']:.2f} at last"
        )
        table.caption = said
        table.caption_justify, table.caption_style = "left", ""
    return table


def _years(told: Json) -> Table:
    """Cash summed by calendar year."""
    money, cash = told["currency"], told["cash"]
    table = _table(f"cash by year, M {money}", "capex", "running", "sales", "net", "in all")
    in_all = 0.0
    for year in sorted({month[:4] for month in cash["months"]}):
        at = [number for number, month in enumerate(cash["months"]) if month[:4] == year]
        by = {name: sum(values[number] for number in at) for name, values in cash["parts"].items()}
        net = sum(by.values())
        in_all += net
        table.add_row(
            year,
            _millions(by["machines"] + by["facility"]),
            _millions(by["energy"] + by["staff"] + by["maintenance"]),
            _millions(by["revenue"] + by["residual"]),
            _millions(net),
            Text(_millions(in_all), style=BEST if in_all >= 0 else WORST),
        )
    return table


def _tornado(told: Json) -> Table:
    money = told["currency"]
    table = _table(f"moves the NPV, M {money}", "at low", "", "at high", "low to high")
    table.columns[2].justify, table.columns[2].no_wrap = "left", True
    table.columns[4].justify = "left"
    bars, base = told["tornado"][:BARS], told["project"]["npv"]
    ends = ("npv_at_low", "npv_at_high")
    widest = max((abs(bar[end] - base) for bar in bars for end in ends), default=1.0) or 1.0
    for bar in bars:
        least, most = sorted((bar["npv_at_low"], bar["npv_at_high"]))
        down = round(HALF_BAR * max(base - least, 0) / widest)
        up = round(HALF_BAR * max(most - base, 0) / widest)
        drawn = Text.assemble(
            (" " * (HALF_BAR - down) + "█" * down, WORST),
            ("█" * up + " " * (HALF_BAR - up), BEST),
        )
        span = f"{_plain(bar['low'])} to {_plain(bar['high'])} {unit_words(bar['unit'])}"
        low, high = _millions(bar["npv_at_low"]), _millions(bar["npv_at_high"])
        table.add_row(short(bar), low, drawn, high, span)
    return table


def _futures(told: Json) -> Text:
    money, futures = told["currency"], told["monte_carlo"]
    most = max(futures["counts"])
    said = Text(f"{futures['draws']:,} futures, seed {futures['seed']}\n", style="bold")
    edges = futures["edges"]
    for number, count in enumerate(futures["counts"]):
        gain = edges[number] + edges[number + 1] >= 0
        block = BLOCKS[min(int(count / most * 8), 7)] if count else " "
        said.append(block, style=BEST if gain else WORST)
    said.append(
        f"\nNPV {_millions(edges[0]).strip()} to {_millions(edges[-1]).strip()} M {money}; one in "
        f"ten below {_millions(futures['p10'])}, half below {_millions(futures['p50'])}, one in "
        f"ten above {_millions(futures['p90'])}\n"
    )
    said.append(f"{futures['chance_of_gain']:.0%} of them gain", style="bold")
    said.append("; each input is drawn by itself, from a triangle", style="dim")
    return said


def _choices(told: Json) -> RenderableType:
    money, ways = told["currency"], told["choices"]
    table = _table("the same work, by", f"M {money}", f"{money}/GPU-h", f"{money}/M tokens")
    for way, cost in ways["costs"].items():
        each, tokens = cost["per_gpu_hour"], cost["per_million_tokens"]
        cells = [
            _millions(cost["total"]),
            "-" if each is None else f"{each:.2f}",
            "-" if tokens is None else f"{tokens:.3f}",
        ]
        best = way == ways["cheapest"]
        table.add_row(*(_bold(f"{way}  ← cheapest", *cells) if best else (way, *cells)))
    lines = []
    for way, load in ways["break_even_load"].items():
        market = {"rent": "renting GPUs", "tokens": "buying tokens"}[way]
        if load is None:
            lines.append(f"{market} is cheaper than building at any utilisation")
        else:
            lines.append(f"building beats {market} from {load:.0%} utilisation on")
    lines.append(f"work: {units.show(ways['tokens'], 'tokens')} of output; worth on the first day")
    return Group(table, *(Text(line) for line in lines))


def _law(law: Json) -> Text:
    style = "" if law["may_stand"] else "bold yellow"
    said = Text(f"law: {law['outcome'].replace('_', ' ')} on that day", style=style)
    for term in law["terms"]:
        said.append(f"\n{term['rule']}: {term['text']}", style="")
    return said


def _inputs(told: Json, sources: bool) -> Iterable[RenderableType]:
    """Every figure that it hangs on, with its range and basis; with `sources`, where from."""
    table = Table(box=None, pad_edge=False, show_header=False, title_justify="left")
    table.title, table.title_style = "what it was asked with", "bold"
    table.add_column(style="dim", overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(style="dim", overflow="fold")
    records = [*told["inputs"].values(), *told["terms"]]
    for one in records:
        ends = [one.get("low"), one.get("high")]
        spread = (
            ""
            if None in ends or ends[0] == ends[1]
            else f" [{_plain(ends[0])} to {_plain(ends[1])}]"
        )
        table.add_row(
            one["words"], _plain(one["value"]), unit_words(one["unit"]) + spread, one["basis"]
        )
    if not sources:
        yield table
        yield Text("--sources says where each figure is from", style="dim")
        return
    yield table
    yield ""
    origins = Table(box=None, pad_edge=False, show_header=False, title_justify="left")
    origins.title, origins.title_style = "sources", "bold"
    origins.add_column(max_width=26, overflow="fold")
    origins.add_column(overflow="fold")
    for one in records:
        whence = Text(one["source"])
        whence.append(f" ({', '.join(filter(None, (one['basis'], one['as_of'])))})", style="dim")
        origins.add_row(one["words"], whence)
    yield origins


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", title_justify="left")
    table.add_column(Text(title, style="bold"), overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    return table


def _bold(*cells: str) -> list[Text]:
    return [Text(cell, style="bold") for cell in cells]


def _millions(amount: float) -> str:
    size = abs(amount) / 1e6
    form = "{:,.0f}" if size >= 1e4 else "{:,.1f}" if size >= 10 else "{:,.2f}"
    return form.format(amount / 1e6)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
