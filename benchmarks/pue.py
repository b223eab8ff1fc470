"""Fit the model of cooling to published PUE and WUE, and redraw docs/pue.md: how far off it is.

    python benchmarks/pue.py CASES.csv [--fit]

In: a table of published sites with the columns that `gigafactory pue --cases` reads, and `pue`,
`wue_l_kwh`, `operator`, `site_key`, and `ground_truth_ok` (1 where fit to judge a model). With
`--fit` the fitted constants and the intervals go to `gigafactory/stack/data/cooling.csv`, then
the page is drawn with them. Sites weigh alike, however many years they published.
One minute of one core.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from gigafactory.stack import facts
from gigafactory.stack.sites import cooling, pue_cases

DOCS = Path(__file__).parent.parent / "docs"
TABLE = facts.FOLDER / "cooling.csv"
AS_OF = "2026-11"
# What is fitted to PUE, and to WUE: where to start, and how far it may go.
PUE_FITTED = {
    ("air", "movers"): (0.08, 0.0, 0.2),
    ("air", "free_to"): (15.0, 10.0, 21.0),
    ("evaporative", "movers"): (0.05, 0.0, 0.2),
    ("evaporative", "free_to"): (21.0, 16.0, 26.0),
    ("chilled-water", "movers"): (0.2, 0.0, 0.5),
    ("mixed", "leased_share"): (0.2, 0.0, 0.6),
}
WUE_FITTED = {
    ("all", "assist_from"): (22.0, 12.0, 27.0),
    ("all", "wet_chillers"): (0.5, 0.0, 1.0),
}
FEW_SITES = 5
"""With fewer, a design's interval is that of all designs together."""
Fitted = Mapping[tuple[str, str], tuple[float, float, float]]


@dataclass(frozen=True)
class Case:
    """A published site in one year."""

    row: Mapping[str, str]
    design: str
    dry_c: Any
    wet_c: Any

    @property
    def site(self) -> str:
        return self.row["site_key"]

    @property
    def operator(self) -> str:
        return self.row["operator"]

    @property
    def pue(self) -> float:
        return float(self.row["pue"])

    @property
    def wue(self) -> float:
        return float(self.row["wue_l_kwh"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("--fit", action="store_true", help="write the constants found")
    args = parser.parse_args()
    with open(args.cases, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    known = [row for row in rows if row["t_mean_c"] and row["iso2"]]
    cases = [case(row) for row in known if row["pue"] and row["ground_truth_ok"] == "1"]
    watered = [case(row) for row in known if row["wue_l_kwh"] and row["operator"] in judged(cases)]
    unseen = left_out(cases, _site, PUE_FITTED, pues)
    if args.fit:
        write(cases, watered, unseen)
    shown = report(cases, watered, unseen, len(rows))
    print(shown)
    others = [row for row in rows if row["pue"] and row["ground_truth_ok"] != "1"]
    drawn = page(cases, watered, others, unseen, shown)
    (DOCS / "pue.md").write_text(drawn, encoding="utf-8")
    (DOCS / "pue.svg").write_text(svg(cases, unseen), encoding="utf-8")
    return 0


def case(row: Mapping[str, str]) -> Case:
    climate = [float(row[column]) for column in pue_cases.CLIMATE]
    return Case(row, pue_cases.design_of(row["cooling_type"]), *pue_cases.hours(*climate))


def judged(cases: Sequence[Case]) -> set[str]:
    return {one.operator for one in cases}


# The fit


def pues(of: cooling.Constants, cases: Sequence[Case]) -> np.ndarray:
    """Predicted less published."""
    return _annual(of, cases, cooling.pue) - np.array([one.pue for one in cases])


def wues(of: cooling.Constants, cases: Sequence[Case]) -> np.ndarray:
    return _annual(of, cases, cooling.wue_l_per_kwh) - np.array([one.wue for one in cases])


def _annual(of: cooling.Constants, cases: Sequence[Case], of_hours: Callable) -> np.ndarray:
    designs, means = cooling.build(of), np.empty(len(cases))
    for design in {one.design for one in cases}:
        which = [number for number, one in enumerate(cases) if one.design == design]
        dry_c = np.array([cases[number].dry_c for number in which])
        wet_c = np.array([cases[number].wet_c for number in which])
        means[which] = of_hours(dry_c, wet_c, designs[design]).mean(axis=1)
    return means


def fit(cases: Sequence[Case], fitted: Fitted, errors: Callable, scale: float = 0.05) -> dict:
    """All constants, the fitted ones at their best. Far-off sites pull no harder than near ones."""
    weights = _weights(cases)
    names = list(fitted)
    start, low, high = (np.array([fitted[name][k] for name in names]) for k in range(3))
    fixed = {name: value for name, value in cooling.constants().items() if name not in fitted}

    def residuals(unit: np.ndarray) -> np.ndarray:
        of = fixed | dict(zip(names, low + unit * (high - low), strict=True))
        # A whisper of a prior, for constants that the sites at hand say nothing about.
        prior = 0.02 * scale / 0.05 * 2 * (unit - (start - low) / (high - low))
        return np.concatenate([weights * errors(of, cases), prior])

    best = least_squares(
        residuals, (start - low) / (high - low), bounds=(0, 1), loss="soft_l1", f_scale=scale
    )
    return fixed | dict(zip(names, (low + best.x * (high - low)).tolist(), strict=True))


def left_out(cases: Sequence[Case], group: Callable, fitted: Fitted, errors: Callable) -> Any:
    """Error of each case by constants fitted without its group."""
    found = np.empty(len(cases))
    scale = 0.05 if errors is pues else 0.4
    for name in {group(one) for one in cases}:
        inside = [number for number, one in enumerate(cases) if group(one) == name]
        rest = [one for one in cases if group(one) != name]
        found[inside] = errors(
            fit(rest, fitted, errors, scale), [cases[number] for number in inside]
        )
    return found


def _weights(cases: Sequence[Case]) -> np.ndarray:
    sites = [one.site for one in cases]
    return np.array([sites.count(site) ** -0.5 for site in sites])


def baselines(cases: Sequence[Case], group: Callable) -> dict[str, np.ndarray]:
    """Errors of two models without physics, each case's group left out."""
    published = np.array([one.pue for one in cases])
    warmth = np.array([[1.0, float(one.row["t_mean_c"])] for one in cases])
    groups = np.array([group(one) for one in cases])
    median, line = np.empty(len(cases)), np.empty(len(cases))
    for name in set(groups):
        out = groups == name
        median[out] = np.median(published[~out]) - published[out]
        slope = np.linalg.lstsq(warmth[~out], published[~out], rcond=None)[0]
        line[out] = warmth[out] @ slope - published[out]
    return {"the median of all others": median, "a line through mean temperature": line}


def band(cases: Sequence[Case], errors: np.ndarray) -> tuple[float, float, float]:
    """10 %, 50 % and 90 % of published less predicted, sites alike, a little wide for few."""
    sites = len({one.site for one in cases})
    weights = _weights(cases) ** 2
    order = np.argsort(-errors)
    levels = (np.cumsum(weights[order]) - 0.5 * weights[order]) / weights.sum()
    # Of n sites a new one falls outside the k-th lowest with chance k/(n+1), not k/n.
    low = max(0.1 - 0.5 / (sites + 1), 0.0)
    return tuple(np.interp([low, 0.5, 1 - low], levels, -errors[order]).tolist())


def bands(cases: Sequence[Case], errors: np.ndarray) -> dict[str, tuple[float, float, float]]:
    found = {"unjudged": band(cases, errors)}
    for design in sorted({one.design for one in cases}):
        inside = [number for number, one in enumerate(cases) if one.design == design]
        own = [cases[number] for number in inside]
        if len({one.site for one in own}) >= FEW_SITES:
            found[design] = band(own, errors[inside])
    return found


def covered(cases: Sequence[Case], errors: np.ndarray) -> float:
    """Share of cases within an interval made from the other sites alone."""
    hits = 0
    for number, one in enumerate(cases):
        rest = [k for k, other in enumerate(cases) if other.site != one.site]
        known = bands([cases[k] for k in rest], errors[rest])
        low, _, high = known.get(one.design, known["unjudged"])
        hits += low <= -errors[number] <= high
    return hits / len(cases)


def write(cases: Sequence[Case], watered: Sequence[Case], unseen: np.ndarray) -> None:
    """Put what was fitted into the table of constants; ranges from leaving out each site."""
    with open(TABLE, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns, rows = list(reader.fieldnames or []), list(reader)
    for fitted, errors, seen, scale in (
        (PUE_FITTED, pues, cases, 0.05),
        (WUE_FITTED, wues, watered, 0.4),
    ):
        best = fit(seen, fitted, errors, scale)
        others = [
            fit([one for one in seen if one.site != site], fitted, errors, scale)
            for site in sorted({one.site for one in seen})
        ]
        for row in rows:
            name = (row["cooling"], row["quantity"])
            if name in fitted:
                tried = [best[name], *(other[name] for other in others)]
                row["value"], row["low"], row["high"] = (
                    f"{value:.4g}" for value in (best[name], min(tried), max(tried))
                )
                row["as_of"] = AS_OF
    rows = [row for row in rows if row["quantity"] != "pue_error"]
    source = "published less predicted, sites left out of the fit: 10 %, 50 %, 90 %"
    for design, (low, middle, high) in bands(cases, unseen).items():
        basis = "assumed" if design == "unjudged" else "derived"
        values = [f"{value:.4f}" for value in (middle, low, high)]
        cells = [design, "pue_error", *values, "1", basis, f"{source}; benchmarks/pue.py", AS_OF]
        rows.append(dict(zip(columns, cells, strict=True)))
    with open(TABLE, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for cached in (facts.rows, facts.load, facts.by_subject):
        cached.cache_clear()


# The page


HEAD = """\
# How good the model of cooling is

*Written by `python benchmarks/pue.py CASES.csv`; not by hand.*

PUE and WUE in `gigafactory site`, `sites`, `pue`, the planner and the twin are **modelled** by
`gigafactory/stack/sites/cooling.py` from the weather outside and the design of the cooling. This
page holds the model against {count} published annual PUE of {sites} sites ({rows} rows were read;
the others are fleets, claims, design values and quarters). An error is predicted less published.
*Site left out*: the constants were fitted without that site, in all its years, so that is what a
site never seen will get.

No constant belongs to an operator or a city: what differs is the climate, and the design that the
row's words name. But in this table nearly every design has one operator (Google `evaporative`,
AWS `mixed`, Microsoft `air`, Scaleway `chilled-water`), and most of the words are an analyst's
assumption, so a design's constants carry that operator's habits, too. With an operator left out,
constants that it alone informs stay where the fit starts, which was chosen with the table in view.

To ask for your own sites: `gigafactory pue --cases CASES.csv --out OUT.csv`. Read are
{columns}.

![Predicted, site left out, against published](pue.svg)

```text
{shown}```

## How an hour is made

    PUE = 1 + losses + fans and pumps + mechanical share / COP
    COP = carnot share x cold in kelvin / (outside + lift - cold)

The mechanical share is 0 up to `free_to` outside, and 1 from `ramp` above it: wet bulb for outside
air and cooling towers, dry bulb for closed loops; older halls run chillers always. Water: towers
evaporate all year; outside air is sprayed above `assist_from`, and part of its chillers give their
heat to water. The designs:

{designs}

## Constants

`derived`: fitted to published figures here, their ranges those of fits without each site. Others
are looked up or assumed, and were not touched by the fit.

{constants}

### What the assumed constants matter

Error of sites left out of the fit, with one assumed constant at either end of its range and the
others fitted anew.

{sensitivity}

## What it misses

- How much of a region is leased, and how old the halls are. `mixed` takes one share for all, so
  regions of own halls come out too high and regions of leased halls too low.
- How full a site is. A young, half empty site has a higher PUE than its design.
- Whether the operator runs its halls warm, and how humid it lets them be; Singapore does better
  than its climate, and Microsoft's design values for humid places do, too.
- Hours. A published case has four numbers of climate; its year is two harmonics and three kinds
  of days. Wet bulbs of gridded climates are about 0.8 K off, in deserts 1 to 2 K too high.
- Elevation, fresh water bans, heat reuse, and the year: no trend over 2022 to 2025 could be told
  from noise.
- Liquid cooling, immersion, sea water, dry coolers and colocation have no published site here
  that is fit to judge by. Their constants are assumed and their intervals are those of all others.
- Water: far less sure than power, see below. The model does not know who waters old towers.
"""


def report(cases: Sequence[Case], watered: Sequence[Case], unseen: Any, rows: int) -> str:
    """The errors as lines of text."""
    shipped = pues(cooling.constants(), cases)
    foreign = left_out(cases, _operator, PUE_FITTED, pues)
    lines = [
        f"{len(cases)} cases of {len({one.site for one in cases})} sites, of {rows} rows read",
        "",
        _line("absolute error of PUE", None),
        _line("constants as shipped", shipped),
        _line("site left out", unseen),
        _line("operator left out", foreign),
    ]
    for word, group in (("site", _site), ("operator", _operator)):
        for name, errors in baselines(cases, group).items():
            lines.append(_line(f"{name}, {word} left out", errors))
    for word, group in (("operator", _operator), ("design", _design)):
        lines += ["", _line(f"by {word}, site left out", None)]
        for name in sorted({group(one) for one in cases}):
            inside = np.array([group(one) == name for one in cases])
            lines.append(_line(name, unseen[inside]))
    water = wues(cooling.constants(), watered)
    water_unseen = left_out(watered, _site, WUE_FITTED, wues)
    lines += [
        "",
        _line("absolute error of WUE, l/kWh", None),
        _line("constants as shipped", water),
        _line("site left out", water_unseen),
        "",
        f"published PUE within the 80 % interval of the other sites: {covered(cases, unseen):.0%}",
    ]
    return "\n".join(lines) + "\n"


def _site(one: Case) -> str:
    return one.site


def _operator(one: Case) -> str:
    return one.operator


def _design(one: Case) -> str:
    return one.design


def _line(name: str, errors: Any) -> str:
    if errors is None:
        return f"{name:<56}{'cases':>6}{'median':>8}{'mean':>8}{'worst':>8}{'bias':>8}"
    size = np.abs(errors)
    figures = (np.median(size), size.mean(), size.max())
    shown = "".join(f"{figure:>8.3f}" for figure in figures)
    return f"{name:<56}{len(size):>6}{shown}{errors.mean():>+8.3f}"


def page(
    cases: Sequence[Case],
    watered: Sequence[Case],
    others: Sequence[Mapping[str, str]],
    unseen: Any,
    shown: str,
) -> str:
    designs = "\n".join(f"- `{name}`: {one.says}" for name, one in cooling.COOLINGS.items())
    rows = facts.rows("cooling")
    constants = ["|of|constant|value|low|high|unit|basis|source|", "|-|-|-:|-:|-:|-|-|-|"]
    order = ("cooling", "quantity", "value", "low", "high", "unit", "basis", "source")
    constants += ["|" + "|".join(row[name] for name in order) + "|" for row in rows]
    columns = ", ".join(f"`{name}`" for name in ("pue_id", *pue_cases.READ))
    count, sites = len(cases), len({one.site for one in cases})
    total = shown.split(", of ")[1].split(" ")[0]
    head = HEAD.format(
        count=count,
        sites=sites,
        rows=total,
        columns=columns,
        shown=shown,
        designs=designs,
        constants="\n".join(constants),
        sensitivity="\n".join(sensitivity(cases)),
    )
    shipped = pues(cooling.constants(), cases)
    parts = [
        head,
        "## Each published PUE\n",
        "|case|operator|site|year|design|published|predicted|off|off, site left out|why|source|",
        "|-|-|-|-|-|-:|-:|-:|-:|-|-|",
    ]
    for one, error, far in zip(cases, shipped, unseen, strict=True):
        row = one.row
        said = " ".join(other.row["notes"] for other in cases if other.site == one.site)
        parts.append(
            f"|{row['pue_id']}|{one.operator}|{row['site']}|{row['year']}|{one.design}|{one.pue:.3f}"
            f"|{one.pue + error:.3f}|{error:+.3f}|{far:+.3f}|{why(error, said)}|{_source(row)}|"
        )
    parts += [
        "\n## Design values, claims, quarters and fleets\n",
        "They judge nothing: planned, not lived, or no place. A fleet gets the mean over the",
        "catalogued places, of which many are in Asia.\n",
        "|case|operator|site|year|design|climate|said|predicted|80 % interval|source|",
        "|-|-|-|-|-|-|-:|-:|-|-|",
    ]
    for row, answer in zip(others, pue_cases.predict_cases(others), strict=True):
        parts.append(
            f"|{row['pue_id']}|{row['operator']}|{row['site']}|{row['year']}|{answer['design']}"
            f"|{answer['climate']}|{float(row['pue']):.3f}|{answer['pue']:.3f}"
            f"|{answer['low']:.3f} to {answer['high']:.3f}|{_source(row)}|"
        )
    parts += [
        "\n## Each published WUE\n",
        "Design values of regions not yet built are among them.\n",
        "|case|operator|site|year|design|published, l/kWh|predicted|off|source|",
        "|-|-|-|-|-|-:|-:|-:|-|",
    ]
    for one, error in zip(watered, wues(cooling.constants(), watered), strict=True):
        row = one.row
        parts.append(
            f"|{row['pue_id']}|{one.operator}|{row['site']}|{row['year']}|{one.design}|{one.wue:.2f}"
            f"|{one.wue + error:.2f}|{error:+.2f}|{_source(row)}|"
        )
    return "\n".join(parts) + "\n"


def why(error: float, notes: str) -> str:
    """The reason for a large error where the source gives one."""
    if abs(error) < 0.05:
        return ""
    if "operated by" in notes:
        return "run by another operator"
    if error < 0 and "leased" in notes:
        return "leased halls, more than the mean share"
    return "not known"


def sensitivity(cases: Sequence[Case]) -> list[str]:
    """Median and mean error of sites left out, by assumed constant and end of its range."""
    lines = ["|of|constant|at|median|mean|", "|-|-|-:|-:|-:|"]
    tried = (("all", "carnot_share"), ("all", "lift"), ("all", "cold"), ("all", "ramp"))
    for name in tried:
        fact = facts.by_subject("cooling")[name[0]][name[1]]
        for end in (fact.low, fact.high):
            assert end is not None, f"{name} has no range"
            pinned = {**PUE_FITTED, name: (end, end - 1e-6, end + 1e-6)}
            size = np.abs(left_out(cases, _site, pinned, pues))
            lines.append(
                f"|{name[0]}|{name[1]}|{end:g} {fact.unit}|{np.median(size):.3f}|{size.mean():.3f}|"
            )
    return lines


def _source(row: Mapping[str, str]) -> str:
    title = row["source_title"].split(",")[0].split(" @")[0]
    return f"[{title}]({row['source_url']}), {row['source_date']}"


# The plot


SIZE, LEFT, TOP, RIGHT, BOTTOM = 560, 52, 28, 190, 44
LEAST, MOST = 1.0, 1.6
STYLE = """
svg { font: 12px system-ui, sans-serif; fill: #24292f; background: #fff }
.grid { stroke: #d0d7de; stroke-width: 1 } .one { stroke: #57606a; stroke-width: 1.5 }
.band { fill: #57606a; opacity: .09 } .range { stroke-width: 1; opacity: .3 }
circle { opacity: .8 }
@media (prefers-color-scheme: dark) {
  svg { fill: #e6edf3; background: #0d1117 } .grid { stroke: #30363d }
  .one { stroke: #9198a1 } .band { fill: #9198a1 }
}
"""


def svg(cases: Sequence[Case], unseen: Any) -> str:
    """Published across, predicted with its interval up; the band is 0.05 to either side."""
    designs = sorted({one.design for one in cases})
    ink = {
        design: f"hsl({number * 137.5 % 360:.0f} 62% {38 + 16 * (number % 2)}%)"
        for number, design in enumerate(designs)
    }
    end = TOP + SIZE
    corners = ((1.0, 1.05), (1.55, 1.6), (1.6, 1.6), (1.6, 1.55), (1.05, 1.0), (1.0, 1.0))
    band_path = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in corners)
    title = "PUE predicted (site left out of the fit) against published; band: 0.05"
    parts = [
        f'<text x="{LEFT}" y="16" font-weight="600">{title}</text>',
        f'<polygon class="band" points="{band_path}"/>',
    ]
    for tick in np.arange(LEAST, MOST + 0.01, 0.1):
        x, y = _x(tick), _y(tick)
        parts += [
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{end}"/>',
            f'<line class="grid" x1="{LEFT}" x2="{LEFT + SIZE}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text x="{x:.1f}" y="{end + 18}" text-anchor="middle">{tick:.1f}</text>',
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.1f}</text>',
        ]
    parts.append(
        f'<line class="one" x1="{_x(LEAST)}" y1="{_y(LEAST)}" x2="{_x(MOST)}" y2="{_y(MOST)}"/>'
    )
    for one, error in zip(cases, unseen, strict=True):
        predicted, (below, above) = one.pue + error, pue_cases.interval(one.design)
        x, colour = _x(one.pue), ink[one.design]
        row = one.row
        said = f"{row['pue_id']} {one.operator} {row['site']} {row['year']}: "
        said += f"{predicted:.3f} predicted, {one.pue:.3f} published"
        parts.append(
            f'<line class="range" stroke="{colour}" x1="{x:.1f}" x2="{x:.1f}" '
            f'y1="{_y(predicted + below):.1f}" y2="{_y(predicted + above):.1f}"/>'
            f'<circle cx="{x:.1f}" cy="{_y(predicted):.1f}" r="3.5" fill="{colour}">'
            f"<title>{escape(said)}</title></circle>"
        )
    for number, design in enumerate(designs):
        x, y = LEFT + SIZE + 18, TOP + 10 + 18 * number
        parts.append(
            f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{ink[design]}"/>'
            f'<text x="{x + 16}" y="{y}">{design}</text>'
        )
    parts.append(
        f'<text x="{LEFT + SIZE / 2}" y="{end + 38}" text-anchor="middle">published PUE</text>'
    )
    width, height = LEFT + SIZE + RIGHT, end + BOTTOM
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{title}"><style>{STYLE}</style>{"".join(parts)}</svg>\n'
    )


def _x(value: float) -> float:
    return LEFT + SIZE * (value - LEAST) / (MOST - LEAST)


def _y(value: float) -> float:
    inside = min(max(value, LEAST), MOST)
    return TOP + SIZE * (MOST - inside) / (MOST - LEAST)


if __name__ == "__main__":
    sys.exit(main())
