"""The choice against every choice there is, and against sense."""

import dataclasses
import itertools
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from gigafactory.plan import choose as chosen
from gigafactory.plan.choose import (
    Infeasible,
    Problem,
    Site,
    System,
    Work,
    aggregate,
    apart,
    choose,
    conflict,
    front,
    shared_saving,
)
from gigafactory.plan.choose.problem import YEAR_S

QUARTER_S = 1000.0  # round numbers in tests; the year of upkeep stays a year
EXACT = 1e-6


# Small problems at random


@st.composite
def problems(draw, sites=2, systems=2, quarters=2, works=2, loose=False):
    quarters = draw(st.integers(1, quarters))
    by_quarter = lambda each: st.tuples(*[each] * quarters)  # noqa: E731
    kinds = tuple(
        System(
            name,
            8,
            draw(st.one_of(st.integers(1, 9), by_quarter(st.integers(1, 9)))),
            draw(st.integers(1, 3)),
            draw(st.one_of(st.none(), by_quarter(st.integers(0, 2)))) if not loose else None,
            draw(st.sampled_from([0, 0, 0, 1])) if not loose else 0,
        )
        for name in "ab"[: draw(st.integers(1, systems))]
    )
    names = [each.name for each in kinds]
    places = tuple(
        Site(
            name,
            draw(by_quarter(st.integers(0, 5))) if not loose else (1000,) * quarters,
            draw(st.sampled_from([1.0, 1.25])),
            draw(by_quarter(st.sampled_from([0.0, 1e-4, 5e-4]))),
            draw(by_quarter(st.sampled_from([1e-3, 1e-2]))),
            draw(st.sampled_from([0.0, 0.5])),
            {
                each: draw(by_quarter(st.booleans() if not loose else st.just(True)))
                for each in names
            },
            {each: draw(st.sampled_from([0, 0, 0, 1])) for each in names} if not loose else {},
            draw(st.sampled_from([1, 1, 2])) if not loose else 1,
        )
        for name in "xy"[: draw(st.integers(1, sites))]
    )
    where = st.frozensets(st.sampled_from([each.name for each in places]), min_size=1)
    found = []
    for number in range(draw(st.integers(1, works))):
        kind = draw(st.sampled_from(["serve", "serve", "train"]))
        rate = {each: draw(st.sampled_from([1.0, 2.0, 3.0])) for each in names}
        start = draw(st.integers(0, quarters - 1))
        train = kind == "train"
        amount = st.sampled_from([0.0, 0.5, 1.0, 2.5, 4.0])
        found.append(
            Work(
                f"w{number}",
                kind,
                draw(where),
                rate if loose else dict(list(rate.items())[draw(st.sampled_from([0, 0, 0, 1])) :]),
                (draw(amount) * QUARTER_S,) if train else draw(by_quarter(amount)),
                start=start if train else 0,
                deadline=draw(st.integers(start, quarters - 1)) if train else None,
                gang_nodes={each: draw(st.sampled_from([0, 1, 2])) for each in names},
                revenue=draw(st.sampled_from([0.0, 2e-3])),
                optional=draw(st.sampled_from([False, False, True])),
            )
        )
    return Problem(
        kinds,
        places,
        tuple(found),
        quarters,
        QUARTER_S,
        budget=draw(st.sampled_from([None, None, 5.0, 20.0])) if not loose else None,
        discount_per_quarter=draw(st.sampled_from([0.0, 0.05])),
        upkeep=draw(st.sampled_from([0.0, 1000.0])),
        residual=draw(st.sampled_from([0.0, 0.25])),
    )


def cases(count):
    """So many, however long one takes."""
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))


def answer(problem, **options):
    """The exact choice, or None where nothing is possible."""
    try:
        return choose(problem, gap=0.0, **options)
    except Infeasible:
        return None


# Every choice there is


def every_choice(problem, measure):
    """Least cost or carbon over all whole purchases and places, each site by itself."""
    quarters = problem.quarters
    places = [(site, each) for site in problem.sites for each in range(site.count)]
    slots = [
        (place, system, quarter)
        for place in range(len(places))
        for system in problem.systems
        for quarter in range(quarters - system.lead_quarters)
        if places[place][0].lawful[system.name][quarter]
    ]
    most = [
        int(
            min(
                min(places[place][0].power_w[quarter + system.lead_quarters :])
                / (system.power_w * places[place][0].pue)
                + 1e-9,
                np.inf if system.supply is None else system.supply[quarter],
            )
        )
        for place, system, quarter in slots
    ]
    # The cheapest purchases come first and end the search; for carbon all must be tried.
    assume(math.prod(n + 1 for n in most) <= (40_000 if measure == "cost" else 300))
    all_buys = np.array(list(itertools.product(*(range(n + 1) for n in most))), int)
    all_buys = all_buys.reshape(math.prod(n + 1 for n in most), len(slots))
    stands = np.zeros((len(all_buys), len(places), len(problem.systems), quarters))
    price = np.zeros(len(slots))
    spent = np.zeros(len(slots))
    kinds = list(problem.systems)
    discount = [(1 + problem.discount_per_quarter) ** -q for q in range(quarters + 1)]
    for at, (site, _) in enumerate(places):
        for kind, system in enumerate(kinds):
            stands[:, at, kind, :] += site.installed.get(system.name, 0)
    for slot, (place, system, quarter) in enumerate(slots):
        comes = quarter + system.lead_quarters
        stands[:, place, kinds.index(system), comes:] += all_buys[:, slot, None]
        paid = system.prices(quarters)[quarter]
        building = system.power_w * places[place][0].facility_price
        spent[slot] = paid + building
        price[slot] = (paid + building) * discount[quarter]
        price[slot] -= problem.residual * paid * discount[quarters]
        for each in range(comes, quarters):
            price[slot] += problem.upkeep * QUARTER_S / YEAR_S * paid * discount[each]
    fits = np.ones(len(all_buys), bool)
    for at, (site, _) in enumerate(places):
        load_w = sum(stands[:, at, k, :] * s.power_w * site.pue for k, s in enumerate(kinds))
        fits &= (load_w <= np.array(site.power_w) + 1e-9).all(axis=1)
    for system in kinds:
        for quarter in range(quarters):
            if system.supply is not None:
                here = [s[1] is system and s[2] == quarter for s in slots]
                fits &= all_buys[:, here].sum(axis=1) <= system.supply[quarter]
    if problem.budget is not None:
        fits &= all_buys @ spent <= problem.budget + 1e-9
    for work in problem.works:  # what cannot do a work alone cannot do all
        if work.optional:
            continue
        speed = np.array(
            [
                [work.rate.get(s.name, 0) * (site.name in work.allowed) for s in kinds]
                for site, _ in places
            ]
        )
        rate = np.einsum("npkq,pk->nq", stands, speed)
        if work.kind == "serve":
            fits &= (rate >= np.array(work.need) - 1e-9).all(axis=1)
        else:
            window = list(problem.window(work))
            fits &= rate[:, window].sum(axis=1) * QUARTER_S >= work.need[0] - 1e-6
    bought = all_buys[fits] @ price
    order = np.argsort(bought, kind="stable")
    best = math.inf
    income = sum(
        work.revenue * (sum(work.need) * (QUARTER_S if work.kind == "serve" else 1.0))
        for work in problem.works
    )
    for index in order:
        if measure == "cost" and bought[index] - income >= best:
            break
        nodes = stands[fits][index]
        base = bought[index] if measure == "cost" else 0.0
        best = min(best, base + least_use(problem, places, nodes, measure))
    return best


def least_use(problem, places, stands, measure):
    """Least cost or carbon of running the works on nodes that stand."""
    trains = [work for work in problem.works if work.kind == "train" and work.need[0] > 0]
    spots = [
        [
            (at, kind)
            for at, (site, _) in enumerate(places)
            for kind, system in enumerate(problem.systems)
            if site.name in work.allowed and system.name in work.rate
        ]
        + ([None] if work.optional else [])
        for work in trains
    ]
    best = math.inf
    for spot in itertools.product(*spots):
        best = min(best, least_energy(problem, places, stands, trains, spot, measure))
    return best


def least_energy(problem, places, stands, trains, spot, measure):
    columns, cost, bounds = [], [], []
    equal, above = {}, {}
    for work in problem.works:
        for at, (site, _) in enumerate(places):
            for kind, system in enumerate(problem.systems):
                rate = work.rate.get(system.name, 0)
                if site.name not in work.allowed or not rate:
                    continue
                for quarter in problem.window(work):
                    nodes = stands[at, kind, quarter]
                    if work.kind == "train":
                        if work not in trains or spot[trains.index(work)] != (at, kind):
                            continue
                        if nodes < work.gang_nodes.get(system.name, 0):
                            continue
                    column = len(columns)
                    columns.append(column)
                    bounds.append((0, nodes))
                    joules = system.power_w * site.pue * QUARTER_S
                    tokens = rate * QUARTER_S
                    money = joules * site.energy_price[quarter] - work.revenue * tokens
                    money *= (1 + problem.discount_per_quarter) ** -quarter
                    carbon = joules * site.carbon_g_per_j[quarter]
                    cost.append(money if measure == "cost" else carbon)
                    above.setdefault(("nodes", at, kind, quarter), (nodes, []))[1].append(
                        (column, 1)
                    )
                    if work.kind == "serve":
                        rows = above if work.optional else equal
                        row = rows.setdefault((work.name, quarter), (work.need[quarter], []))
                        row[1].append((column, rate))
                    else:
                        row = equal.setdefault((work.name,), (work.need[0], []))
                        row[1].append((column, tokens))
    for work in problem.works:
        if work.kind == "serve" and not work.optional:
            for quarter in range(problem.quarters):
                if work.need[quarter] > 0 and (work.name, quarter) not in equal:
                    return math.inf
        placed = work in trains and spot[trains.index(work)] is not None
        if placed and (work.name,) not in equal:
            return math.inf
    if not columns:
        return 0.0

    def matrix(rows):
        dense = np.zeros((len(rows), len(columns)))
        for at, (_, terms) in enumerate(rows.values()):
            for column, value in terms:
                dense[at, column] += value
        return (dense, [need for need, _ in rows.values()]) if rows else (None, None)

    (a_eq, b_eq), (a_ub, b_ub) = matrix(equal), matrix(above)
    found = linprog(cost, a_ub, b_ub, a_eq, b_eq, bounds, method="highs")
    return found.fun if found.status == 0 else math.inf


@pytest.mark.parametrize("measure", ["cost", "carbon"])
@cases(400)
@given(problem=problems())
def test_no_choice_is_better(measure, problem):
    best = every_choice(problem, measure)
    found = answer(replace(problem, objective=measure))
    if found is None:
        assert best == math.inf
    else:
        assert found.objective == pytest.approx(best, rel=EXACT, abs=1e-5)
        assert found.bound <= best + 1e-5


@cases(100)
@given(problems())
def test_tokens_per_joule_are_the_most_that_there_can_be(problem):
    works = tuple(replace(work, optional=False) for work in problem.works)
    problem = replace(problem, works=works)
    # With all demands fixed, the most tokens per joule are the fewest joules: carbon of 1 g/J.
    even = tuple(replace(s, carbon_g_per_j=(1.0,) * problem.quarters) for s in problem.sites)
    joules = every_choice(replace(problem, sites=even), "carbon")
    found = answer(replace(problem, objective="tokens-per-joule"))
    if found is None:
        assert joules == math.inf or joules == 0
    elif joules > 0:
        assert found.tokens / found.objective == pytest.approx(joules, rel=1e-5)
        assert found.bound >= found.objective


@cases(100)
@given(problems())
def test_the_first_token_comes_no_earlier_and_at_no_higher_cost(problem):
    first = answer(replace(problem, objective="first-token"))
    cheap = answer(problem)
    assert (first is None) == (cheap is None)
    if first is not None and cheap.first_token_quarter is not None:
        assert first.first_token_quarter <= cheap.first_token_quarter
        assert first.objective == first.first_token_quarter
        assert first.parts.cost >= cheap.parts.cost - 1e-5
        if first.first_token_quarter == cheap.first_token_quarter:
            assert first.parts.cost == pytest.approx(cheap.parts.cost, abs=1e-2)


# What an answer says is so


def follows_the_rules(problem, found):
    """Every rule, from the answer alone."""
    systems = {each.name: each for each in problem.systems}
    sites = {each.name: each for each in problem.sites}
    works = {each.name: each for each in problem.works}
    stands = {
        (site.name, each, name): np.full(problem.quarters, float(site.installed.get(name, 0)))
        for site in problem.sites
        for each in range(site.count)
        for name in systems
    }
    for (site, each, name, quarter), nodes in found.dealt.items():
        assert nodes > 0
        assert sites[site].lawful[name][quarter]
        stands[site, each, name][quarter + systems[name].lead_quarters :] += nodes
    for (site, name, quarter), nodes in found.buys.items():
        parts = [n for (s, _, k, q), n in found.dealt.items() if (s, k, q) == (site, name, quarter)]
        assert sum(parts) == nodes
    for site in problem.sites:
        for each in range(site.count):
            load_w = sum(
                stands[site.name, each, name] * system.power_w * site.pue
                for name, system in systems.items()
            )
            assert (load_w <= np.array(site.power_w) * (1 + EXACT)).all()
    for name, system in systems.items():
        for quarter in range(problem.quarters if system.supply is not None else 0):
            bought = sum(n for (_, k, q), n in found.buys.items() if (k, q) == (name, quarter))
            assert bought <= system.supply[quarter]
    if problem.budget is not None:
        assert found.spent <= problem.budget * (1 + EXACT)
    for site in problem.sites:
        for name in systems:
            for quarter in range(problem.quarters):
                used = sum(
                    n
                    for (_, s, k, q), n in found.uses.items()
                    if (s, k, q) == (site.name, name, quarter)
                )
                there = sum(stands[site.name, each, name][quarter] for each in range(site.count))
                assert used <= there + 1e-5
    tokens = dict.fromkeys(works, 0.0)
    for (work, site, name, quarter), nodes in found.uses.items():
        assert site in works[work].allowed
        assert quarter in problem.window(works[work])
        tokens[work] += nodes * works[work].rate[name] * QUARTER_S
    for work in problem.works:
        wanted = work.need[0] if work.kind == "train" else sum(work.need) * QUARTER_S
        assert tokens[work.name] <= wanted * (1 + EXACT) + 1e-3
        if not work.optional:
            assert tokens[work.name] == pytest.approx(wanted, rel=EXACT, abs=1e-2)
        if work.kind == "train":
            spots = {key[1:3] for key in found.uses if key[0] == work.name}
            assert len(spots) <= 1
            for site, name in spots:
                quarters = [key[3] for key in found.uses if key[0] == work.name]
                gang = work.gang_nodes.get(name, 0)
                assert any(
                    all(
                        stands[site, each, name][q]
                        >= max(gang, found.uses[work.name, site, name, q] - 1e-5)
                        for q in quarters
                    )
                    for each in range(sites[site].count)
                )


@cases(100)
@given(problems(works=3))
def test_an_answer_follows_all_rules_and_its_parts_add_up(problem):
    found = answer(problem)
    assume(found is not None)
    follows_the_rules(problem, found)
    parts = dataclasses.asdict(found.parts)
    assert math.fsum(parts.values()) == pytest.approx(found.parts.cost, abs=1e-9)
    assert found.objective == pytest.approx(found.parts.cost, rel=EXACT, abs=1e-6)
    systems = {each.name: each for each in problem.systems}
    sites = {each.name: each for each in problem.sites}
    capex = sum(
        nodes * systems[name].prices(problem.quarters)[q] * (1 + problem.discount_per_quarter) ** -q
        for (_, name, q), nodes in found.buys.items()
    )
    assert found.parts.capex == pytest.approx(capex, abs=1e-6)
    joules = sum(
        nodes * systems[name].power_w * sites[site].pue * QUARTER_S
        for (_, site, name, _), nodes in found.uses.items()
    )
    assert found.energy_j == pytest.approx(joules, rel=1e-5, abs=1e-2)
    unchosen = {each.name for each in problem.systems} - {name for _, name, _ in found.buys}
    assert unchosen <= set(found.reasons)


@cases(100)
@given(problems(), st.sampled_from([0.02, 0.1, 0.5]))
def test_the_gap_is_kept_and_the_bound_holds(problem, gap):
    exact = answer(problem)
    assume(exact is not None)
    found = choose(problem, gap=gap)
    assert found.gap <= gap + EXACT or abs(found.objective - found.bound) < 1e-5
    assert found.bound <= exact.objective + 1e-5
    assert found.objective >= exact.objective - 1e-5


# Sense


def changed_site(problem, **changes):
    first = problem.sites[0]
    return replace(problem, sites=(replace(first, **changes), *problem.sites[1:]))


@cases(120)
@given(problems(), st.sampled_from(["power", "budget", "time", "supply", "law"]), st.data())
def test_more_never_makes_it_worse(problem, what, draw):
    if what == "power":
        more = changed_site(problem, power_w=tuple(each + 1.5 for each in problem.sites[0].power_w))
    elif what == "budget":
        more = replace(problem, budget=None if problem.budget is None else problem.budget * 1.5)
    elif what == "time":
        works = (
            replace(w, deadline=None if w.kind == "train" else w.deadline) for w in problem.works
        )
        more = replace(problem, works=tuple(works))
    elif what == "supply":
        systems = (replace(each, supply=None) for each in problem.systems)
        more = replace(problem, systems=tuple(systems))
    else:
        lawful = {each.name: (True,) * problem.quarters for each in problem.systems}
        more = changed_site(problem, lawful=lawful)
    before, after = answer(problem), answer(more)
    if before is not None:
        assert after is not None
        assert after.objective <= before.objective + 1e-5


@cases(100)
@given(problems())
def test_a_stricter_law_is_never_better(problem):
    barred = {problem.systems[0].name: (False,) * problem.quarters}
    stricter = changed_site(problem, lawful={**problem.sites[0].lawful, **barred})
    before, after = answer(problem), answer(stricter)
    if after is not None:
        assert before is not None
        assert after.objective >= before.objective - 1e-5


@cases(100)
@given(problems(loose=True, works=3))
def test_sharing_never_costs_more_than_apart(problem):
    tenants = {work.name: f"tenant {number % 2}" for number, work in enumerate(problem.works)}
    alone = apart(problem, tenants, gap=0.0)
    together = choose(problem, gap=0.0)
    saved = shared_saving(together, alone)
    assert saved.money >= -1e-5
    assert set(alone) == set(tenants.values())
    for name, each in alone.items():
        assert all(tenants[work] == name for work, *_ in each.uses)


@cases(100)
@given(problems(loose=True, systems=1, works=3))
def test_sharing_one_kind_of_node_at_one_price_never_needs_more_of_them(problem):
    # Where time is money, nodes differ: equal prices in all quarters, no upkeep, no discount.
    system = replace(problem.systems[0], price=1.0)
    sites = tuple(
        replace(s, energy_price=(0.0,) * problem.quarters, facility_price=0.0)
        for s in problem.sites
    )
    works = tuple(replace(w, revenue=0.0) for w in problem.works)
    problem = replace(
        problem,
        systems=(system,),
        sites=sites,
        works=works,
        upkeep=0.0,
        discount_per_quarter=0.0,
    )
    tenants = {work.name: work.name for work in works}
    alone = apart(problem, tenants, gap=0.0)
    assert shared_saving(choose(problem, gap=0.0), alone).nodes >= 0


@cases(40)
@given(problems())
def test_a_front_trades_one_for_the_other(problem):
    assume(answer(problem) is not None)
    found = front(problem, points=4, gap=0.0)
    for clean, cheap in itertools.pairwise(found):
        assert clean.carbon_g <= cheap.carbon_g * (1 + EXACT) + 1e-6
        assert clean.parts.cost >= cheap.parts.cost - 1e-4


# Why not


@cases(120)
@given(problems())
def test_a_conflict_is_one_and_none_of_it_is_needless(problem):
    with_conflict = impossible(problem)
    assume(with_conflict is not None)
    case, refused = with_conflict
    groups = [(each.kind, each.of) for each in refused.conflicts]
    others = [each for each in conflict._groups(case) if each not in groups]
    assert answer(conflict._without(case, others)) is None
    for each in groups:
        assert answer(conflict._without(case, [*others, each])) is not None, each


@cases(120)
@given(problems())
def test_the_cheapest_change_makes_it_possible(problem):
    with_conflict = impossible(problem)
    assume(with_conflict is not None)
    _, refused = with_conflict
    assert answer(refused.cheapest.problem) is not None
    assert refused.cheapest.share > 0
    assert refused.cheapest.words


def impossible(problem):
    """The case and the refusal of a problem without an answer, whatever stands there."""
    try:
        choose(problem, gap=0.0)
    except Infeasible as refused:
        members = aggregate.small(problem).members.values()
        alike = {places[0][0]: frozenset(name for name, _ in places) for places in members}
        every = frozenset(site.name for site in problem.sites)
        return conflict.Case(problem, every, alike), refused
    return None


# One factory in Milan


def milan(**changes):
    """50 MW, two systems that make sense and one that does not."""
    always = (True,) * 8
    systems = (
        System("b200", 8, 480e3, 14.3e3),
        System("gb300", 72, 4.0e6, 135e3, supply=(40.0,) * 8, lead_quarters=1),
        System("old", 8, 500e3, 15e3),
    )
    site = Site(
        "milan",
        (50e6,) * 8,
        1.2,
        (0.12 / 3.6e6,) * 8,
        (300 / 3.6e6,) * 8,
        11.0,
        {system.name: always for system in systems},
    )
    speed = {"b200": 1.0, "gb300": 14.0, "old": 0.9}
    chat = Work(
        "chat",
        "serve",
        frozenset({"milan"}),
        {name: 5e4 * each for name, each in speed.items()},
        tuple(1e7 * quarter for quarter in range(1, 9)),
    )
    pretrain = Work(
        "pretrain",
        "train",
        frozenset({"milan"}),
        {name: 2e4 * each for name, each in speed.items()},
        (36e12 / 4,),
        deadline=5,
        gang_nodes={"b200": 64, "gb300": 8, "old": 64},
    )
    return replace(
        Problem(systems, (site,), (chat, pretrain), 8, discount_per_quarter=0.02, upkeep=0.04),
        **changes,
    )


def test_milan_is_chosen_within_the_gap_and_says_why():
    found = choose(milan())
    assert found.gap <= 0.01
    assert found.reasons["old"] == "nowhere better than b200: no cheaper, no faster, draws no less"
    said = dict(found.binding)
    assert any(what.startswith("demand of chat") for what in said)
    assert found.first_token_quarter == 0


def test_one_more_megawatt_is_worth_what_it_saves():
    """A lean node costs 100 more than a hungry one; a MW lets 200 be hungry instead."""
    systems = (System("hungry", 8, 100.0, 10e3), System("lean", 8, 200.0, 5e3))
    lawful = {"hungry": (True,), "lean": (True,)}
    rate = {"hungry": 10.0, "lean": 10.0}
    work = Work("chat", "serve", frozenset({"milan"}), rate, (1e4,))

    def cost(power_w):
        site = Site("milan", (power_w,), 1.0, (0.0,), (0.0,), 0.0, lawful)
        return choose(Problem(systems, (site,), (work,), 1), gap=0.0)

    tight, wide = cost(7.5e6), cost(8.5e6)
    assert tight.parts.cost - wide.parts.cost == pytest.approx(20e3)
    assert dict(tight.binding)["power of milan: 7.5 MW"] == (
        "one more MW at milan in quarter 0 is worth 20 k"
    )


def test_too_little_power_is_said_with_the_power_it_takes():
    problem = milan()
    small = replace(problem.sites[0], power_w=(12e6,) * 8)
    with pytest.raises(Infeasible) as refused:
        choose(replace(problem, sites=(small,)))
    words = [each.words for each in refused.value.conflicts]
    assert words[0].startswith("site milan: 12 MW < ")
    assert "needed by chat" in words[0]
    assert refused.value.cheapest.words


def test_a_site_without_law_or_work_says_so():
    problem = milan()
    extra = replace(problem.sites[0], name="nowhere", lawful={})
    far = replace(problem.sites[0], name="far")
    works = (*problem.works,)
    allowed = replace(works[0], allowed=frozenset({"milan", "nowhere"}))
    found = choose(replace(problem, sites=(*problem.sites, extra, far), works=(allowed, works[1])))
    assert found.reasons["nowhere"] == "no system may be bought for it in any quarter"
    assert found.reasons["far"] == "none of the works may run there"


def test_optional_work_is_done_where_it_pays():
    problem = milan()
    dear = replace(problem.works[0], optional=True, revenue=1e-4)
    cheap = replace(problem.works[0], optional=True, revenue=1e-12)
    assert choose(replace(problem, works=(dear,))).tokens > 0
    nothing = choose(replace(problem, works=(cheap,)))
    assert nothing.tokens == 0
    assert nothing.first_token_quarter is None
    assert nothing.parts.cost == 0


def test_the_same_problem_has_the_same_bytes():
    code = (
        "from tests.test_choose import milan; from gigafactory.plan.choose import choose;"
        "from dataclasses import replace;"
        "print(repr(replace(choose(milan()), cpu_s=0.0)))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert len(runs[0]) > 1000


def test_a_caller_may_know_what_there_is():
    assert set(chosen.__all__) <= set(dir(chosen))
