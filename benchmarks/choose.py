"""The choice of systems, sites and quarters: ours and the naive model, side by side.

    pip install linopy
    python -W ignore benchmarks/choose.py [--json] [--small] [--gap 0.01] [--limit 300] [--ours]

91 sites at 29 places, 12 quarters, 12 systems, 22 works, drawn with a seed: modelled, no real
place. The naive model is what one writes first, in linopy: every site by itself, every system,
whole nodes in every quarter, nothing cut, HiGHS with one thread. CPU time of the process counts,
with building and, for ours, with explaining; memory is the peak of a process of its own.
"""

import argparse
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Callable

import numpy as np

from gigafactory.plan.choose import Problem, Site, System, Work, choose

SEED = 7
MONTH_S = 365.25 * 86_400 / 12


def problem(places: int = 29, sites: int = 91, quarters: int = 12, works: int = 22) -> Problem:
    """A group of sites all over the world, some of them alike, some of them barred."""
    rng = np.random.default_rng(SEED)
    systems = _systems(quarters)
    counts = rng.multinomial(sites - places, np.full(places, 1 / places)) + 1
    records = []
    for place in range(places):
        peak_w = float(rng.choice([10e6, 20e6, 40e6, 80e6]))
        grows = 0.5 + 0.5 * np.minimum(np.arange(quarters) / rng.integers(2, 8), 1.0)
        price = rng.uniform(0.04, 0.18) / 3.6e6
        carbon = rng.uniform(20, 700) / 3.6e6
        barred = rng.random() < 0.4
        opens = int(rng.integers(3, quarters + 4))
        lawful = {
            system.name: tuple(
                not barred or system.name.startswith("home") or quarter >= opens
                for quarter in range(quarters)
            )
            for system in systems
            if barred or not system.name.startswith("home")
        }
        common = {
            "power_w": tuple((peak_w * grows).tolist()),
            "pue": round(float(rng.uniform(1.08, 1.45)), 3),
            "energy_price": tuple((price * 1.005 ** np.arange(quarters)).tolist()),
            "carbon_g_per_j": tuple((carbon * 0.985 ** np.arange(quarters)).tolist()),
            "facility_price": float(rng.uniform(9, 13)),
            "lawful": lawful,
        }
        records += [Site(f"place{place}-{each}", **common) for each in range(counts[place])]
    return Problem(
        systems,
        tuple(records),
        _works(rng, systems, places, records, works, quarters),
        quarters,
        budget=60e9,
        discount_per_quarter=0.02,
        upkeep=0.05,
        residual=0.15,
    )


def _systems(quarters: int) -> tuple[System, ...]:
    """Node price, power and speed in the order of size of 2026; two that are never better."""
    rows = (  # name, chips, price, W, first supply, growth, lead
        ("h100x8", 8, 290e3, 10.2e3, None, 1.0, 0),
        ("h200x8", 8, 315e3, 10.4e3, None, 1.0, 0),
        ("b200x8", 8, 480e3, 14.3e3, 3000, 1.1, 0),
        ("b300x8", 8, 560e3, 15.0e3, 2000, 1.2, 1),
        ("gb200x72", 72, 3.4e6, 125e3, 200, 1.2, 1),
        ("gb300x72", 72, 4.0e6, 135e3, 150, 1.3, 1),
        ("mi355x8", 8, 380e3, 14.5e3, 2000, 1.1, 0),
        ("mi300x8", 8, 250e3, 10.6e3, None, 1.0, 0),
        ("homea", 8, 260e3, 9.0e3, 4000, 1.05, 0),
        ("homeb", 384, 8.5e6, 560e3, 60, 1.1, 1),
        ("oldx8", 8, 300e3, 10.5e3, None, 1.0, 0),
        ("older", 8, 320e3, 11.0e3, None, 1.0, 0),
    )
    return tuple(
        System(
            name,
            chips,
            tuple(price * 0.985**quarter for quarter in range(quarters)),
            power_w,
            None
            if supply is None
            else tuple(float(int(supply * growth**quarter)) for quarter in range(quarters)),
            lead,
        )
        for name, chips, price, power_w, supply, growth, lead in rows
    )


def _works(
    rng: np.random.Generator,
    systems: tuple[System, ...],
    places: int,
    sites: list[Site],
    works: int,
    quarters: int,
) -> tuple[Work, ...]:
    speed = (1.0, 1.35, 2.3, 2.9, 24.0, 32.0, 2.0, 1.15, 0.6, 45.0, 0.95, 0.9)
    found = []
    for number in range(works):
        near = rng.random(places) < (1.0 if number % 4 == 0 else 0.4)
        near[int(rng.integers(places))] = True
        allowed = frozenset(
            site.name for site in sites if near[int(site.name.removeprefix("place").split("-")[0])]
        )
        fits = rng.uniform(0.8, 1.2, len(systems)) * np.array(speed)
        fits[10:] = np.array(speed[10:]) / speed[0] * fits[0]  # the two that are never better
        if number % 3 == 2:
            rate = dict(zip((s.name for s in systems), (9e3 * fits).tolist(), strict=True))
            start = int(rng.integers(0, 5))
            found.append(
                Work(
                    f"train{number}",
                    "train",
                    allowed,
                    rate,
                    (float(rng.uniform(2, 30)) * 1e12,),
                    start=start,
                    deadline=int(min(start + rng.integers(3, 7), quarters - 1)),
                    gang_nodes={s.name: max(512 // s.chips, 1) for s in systems},
                )
            )
        else:
            rate = dict(zip((s.name for s in systems), (2.5e4 * fits).tolist(), strict=True))
            peak = float(rng.uniform(0.5, 8)) * 1e7
            need = peak * np.linspace(0.05, 1.0, quarters)
            found.append(Work(f"serve{number}", "serve", allowed, rate, tuple(need.tolist())))
    return tuple(found)


def naive(given: Problem, gap: float, limit_s: float) -> tuple[float, float]:
    """Least cost and its bound by the model that one writes first."""
    import linopy
    import pandas as pd
    import xarray as xr

    q = pd.RangeIndex(given.quarters, name="q")
    s = pd.Index([each.name for each in given.systems], name="s")
    c = pd.Index([each.name for each in given.sites], name="c")
    serve = [work for work in given.works if work.kind == "serve"]
    train = [work for work in given.works if work.kind == "train"]
    v = pd.Index([work.name for work in serve], name="v")
    t = pd.Index([work.name for work in train], name="t")
    both = ((v, "v", serve), (t, "t", train))

    def array(values: object, *axes: pd.Index) -> xr.DataArray:
        return xr.DataArray(np.array(values, float), coords=[(a.name, a) for a in axes])

    lead = array([each.lead_quarters for each in given.systems], s)
    power = array([each.power_w for each in given.systems], s)
    price = array([each.prices(given.quarters) for each in given.systems], s, q)
    pue = array([each.pue for each in given.sites], c)
    cap = array([each.power_w for each in given.sites], c, q)
    energy = array([each.energy_price for each in given.sites], c, q)
    facility = array([each.facility_price for each in given.sites], c)
    lawful = array(
        [[site.lawful.get(name, (False,) * len(q)) for name in s] for site in given.sites], c, s, q
    )
    quarter = array(range(given.quarters), q)
    lawful = lawful * (quarter + lead < given.quarters)
    discount = (1 + given.discount_per_quarter) ** -quarter
    fits = np.floor(cap.max("q") / (power * pue))
    m = linopy.Model()
    x = m.add_variables(0, lawful * fits, integer=True, name="x")
    n = m.add_variables(0, coords=[c, s, q], name="n")
    latest = max(each.lead_quarters for each in given.systems)
    come = [
        x.where(lead == each).shift(q=each) if each else x.where(lead == 0)
        for each in range(latest + 1)
    ]
    m.add_constraints(n - n.shift(q=1) - sum(come[1:], come[0]) == 0, name="stands")
    use = 0
    cost = (
        x
        * (
            price
            * (1 - given.residual * (1 + given.discount_per_quarter) ** -len(q) / discount)
            * discount
            + power * facility * discount
        )
    ).sum()
    stood = given.upkeep * given.quarter_s / (12 * MONTH_S) * discount
    left = stood[::-1].cumsum("q")[::-1]
    arrives = xr.concat(
        [left.shift(q=-each.lead_quarters, fill_value=0.0) for each in given.systems], s
    )
    cost = cost + (x * (arrives * price)).sum()
    for axis, name, works in both:
        if not works:
            continue
        rate = array([[work.rate.get(k, 0.0) for k in s] for work in works], axis, s)
        may = array([[site in work.allowed for site in c] for work in works], axis, c)
        open_ = array(
            [[each in given.window(work) for each in range(len(q))] for work in works], axis, q
        )
        most = fits * may * open_ * (rate > 0)
        u = m.add_variables(0, most.transpose(name, "c", "s", "q"), name=f"u{name}")
        use = use + u.sum(name)
        joules = power * pue * given.quarter_s
        cost = cost + (u * (joules * energy * discount)).sum()
        unit = float(rate.max())
        if name == "v":
            need = array([work.need for work in works], axis, q)
            m.add_constraints((u * (rate / unit)).sum(["c", "s"]) == need / unit, name="need")
            continue
        z = m.add_variables(binary=True, coords=[axis, c, s], name="z")
        a = m.add_variables(binary=True, coords=[axis, q], name="a")
        whole = array([work.need[0] for work in works], axis) / (rate * given.quarter_s)
        gang = array([[work.gang_nodes.get(k, 0) for k in s] for work in works], axis, s)
        m.add_constraints(z.sum(["c", "s"]) == 1, name="place")
        m.add_constraints(u.sum("q") - z * whole == 0, name="job")
        m.add_constraints((u * (1 / whole)).sum(["c", "s"]) - a <= 0, name="begins")
        m.add_constraints(
            n - z * gang - a * gang >= -gang * (open_ > 0) - 2 * gang * (open_ == 0), name="gang"
        )
    m.add_constraints(use - n <= 0, name="use")
    unit_w = float(power.max())
    m.add_constraints((n * (power * pue / unit_w)).sum("s") <= cap / unit_w, name="power")
    limited = [each for each in given.systems if each.supply is not None]
    if limited:
        some = pd.Index([each.name for each in limited], name="s")
        sold = array([each.supply for each in limited], some, q)
        m.add_constraints(x.sel(s=some).sum("c") <= sold, name="supply")
    if given.budget is not None:
        spent = (x * ((price + power * facility) / 1e6)).sum()
        m.add_constraints(spent <= given.budget / 1e6, name="budget")
    m.add_objective(cost / 1e6)
    m.solve(
        "highs",
        io_api="direct",
        progress=False,
        output_flag=False,
        threads=1,
        random_seed=0,
        mip_rel_gap=gap,
        time_limit=limit_s,
    )
    info = m.solver_model.getInfo()
    return info.objective_function_value * 1e6, info.mip_dual_bound * 1e6


def ours(given: Problem, gap: float, limit_s: float) -> tuple[float, float]:
    """Least cost and its bound by `choose`."""
    found = choose(given, gap, limit_s)
    return found.objective, found.bound


def measured(
    solve: Callable[[Problem, float, float], tuple[float, float]],
    given: Problem,
    gap: float,
    limit_s: float,
) -> dict[str, float]:
    """Objective, bound, CPU seconds and peak memory, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_child, args=(there, solve, given, gap, limit_s))
    child.start()
    found = here.recv()
    child.join()
    return found


def _child(pipe, solve, given, gap, limit_s) -> None:
    os.dup2(2, 1)  # HiGHS greets on stdout, where the report goes
    start_s = time.process_time()
    objective, bound = solve(given, gap, limit_s)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe.send(
        {
            "objective": objective,
            "bound": bound,
            "gap": abs(objective - bound) / abs(objective),
            "cpu_s": round(time.process_time() - start_s, 2),
            "peak_bytes": peak_bytes,
        }
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--small", action="store_true", help="12 sites at 5 places, 6 quarters")
    parser.add_argument("--ours", action="store_true", help="leave the naive model out")
    parser.add_argument("--gap", type=float, default=0.01)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for each")
    options = parser.parse_args()
    given = problem(5, 12, 6, 9) if options.small else problem()
    report = {"ours": measured(ours, given, options.gap, options.limit)}
    if not options.ours:
        report["naive"] = measured(naive, given, options.gap, options.limit)
        report["ratio"] = round(report["naive"]["cpu_s"] / report["ours"]["cpu_s"], 1)
        # Each bound must lie under the other's answer, and the answers within the larger gap.
        a, b = report["ours"], report["naive"]
        report["bounds_agree"] = max(a["bound"], b["bound"]) <= (
            min(a["objective"], b["objective"]) * (1 + 1e-6)
        )
    print(json.dumps(report) if options.json else said(report))


def said(report: dict) -> str:
    """The report in words."""
    lines = [
        f"{name:6} cost {each['objective'] / 1e9:.4f} bn, bound {each['bound'] / 1e9:.4f} bn,"
        f" gap {each['gap'] * 100:.2f} %, {each['cpu_s']:.1f} CPU-s,"
        f" {each['peak_bytes'] / 2**30:.2f} GiB"
        for name, each in report.items()
        if isinstance(each, dict)
    ]
    if "naive" in report:
        lines.append(f"naive takes {report['ratio']} times as long")
        agree = ["no", "yes"][report["bounds_agree"]]
        lines.append(f"same optimum within the gap: {agree}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
