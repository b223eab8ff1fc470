"""What a design bought, lived through before it is built."""

import json
from datetime import date

import pytest
from typer.testing import CliRunner

from gigafactory.blueprint import load
from gigafactory.cli import app
from gigafactory.faults import Refused
from gigafactory.plan import design
from gigafactory.twin import answers
from gigafactory.twin.designed import factory, first_day, held_against, of_design
from gigafactory.twin.held import held
from gigafactory.twin.run import live

MILAN = load("milan-50mw")
QUIET = load("milan-50mw", ["operations.failures=none"])
BOUGHT = design.make(MILAN)
DAY = first_day(BOUGHT)
NODES = sum(one.nodes for one in BOUGHT.purchases if one.stands <= DAY)
RUN = next(use for use in BOUGHT.uses if use.demand == "foundation")


def lived(blueprint, bought=BOUGHT, days=2.0, seed=0):
    came = of_design(blueprint, days, seed, designed=bought)
    life = live(came.scene, compiled=False)
    rows, broken = held_against(blueprint, bought, came, life, answers.of(came, life))
    return came, {row.what: row for row in rows}, broken


def with_more(nodes):
    first, *others = BOUGHT.purchases
    more = first.model_copy(update={"nodes": first.nodes + nodes})
    return BOUGHT.model_copy(update={"purchases": [more, *others]})


def test_it_is_played_on_the_first_day_of_the_first_quarter_in_which_all_demands_run():
    running = [{u.demand for u in BOUGHT.uses if u.quarter == q} for q in range(12)]
    all_run = [number for number, names in enumerate(running) if len(names) == 4]
    assert BOUGHT.quarters[all_run[0]] == DAY


def test_what_was_delivered_by_the_day_stands_there_and_nothing_else():
    stood = factory(MILAN, BOUGHT, DAY)
    assert stood.start == DAY
    assert stood.sites["milan"].systems == {"gb300-nvl72": NODES}
    assert sum(one.nodes for one in BOUGHT.purchases) > NODES
    assert stood.sites["milan"].power_w == MILAN.sites["milan"].power_w


def test_a_site_of_two_systems_has_two_halls_that_share_all_its_power():
    milan = MILAN.sites["milan"].model_copy(update={"systems": {"h200-8": 10}, "count": 2})
    halls = factory(MILAN.model_copy(update={"sites": {"milan": milan}}), BOUGHT, DAY).sites
    assert halls["milan-h200-8"].systems == {"h200-8": 20}
    assert halls["milan-gb300-nvl72"].systems == {"gb300-nvl72": NODES}
    assert sum(hall.power_w for hall in halls.values()) == pytest.approx(2 * milan.power_w)
    # A tray of eight draws far less than a rack of 72.
    assert halls["milan-h200-8"].power_w < halls["milan-gb300-nvl72"].power_w / 50


def test_the_load_of_a_service_peaks_at_what_the_plan_serves_and_grows_from_there():
    came = of_design(MILAN, 14, 0, designed=BOUGHT)
    demand = MILAN.design.demands["citizens"]
    use = next(u for u in BOUGHT.uses if u.demand == "citizens" and u.quarter == RUN.quarter)
    speed = next(s for s in BOUGHT.speeds if (s.demand, s.system) == ("citizens", use.system))
    planned = use.nodes * speed.tokens_per_s_per_node
    assert came.loads["citizens"][:24].max() == pytest.approx(planned, rel=0.01)
    grown = demand.growth ** (13 / 365.25)
    assert came.loads["citizens"][-24:].max() == pytest.approx(planned * grown, rel=0.01)
    assert came.loads["citizens"][:24].min() == pytest.approx(planned / 3, rel=0.05)


def test_a_run_is_one_job_with_all_tokens_that_the_plan_has_left_and_its_own_deadline():
    came = of_design(MILAN, 2, 0, designed=BOUGHT)
    assert came.job_names.count("foundation") == 1
    run = came.scene.state.jobs[came.job_names.index("foundation")]
    demand = MILAN.design.demands["foundation"]
    assert run["work"] == pytest.approx(demand.tokens, rel=0.005)
    assert run["deadline_s"] == (demand.deadline - DAY).days * 86_400
    assert run["chips_min"] < run["chips"]
    assert run["chips"] / 72 - 1 < RUN.nodes <= run["chips"] / 72


def test_a_month_into_the_run_only_what_is_left_is_asked_for():
    later = date(DAY.year, DAY.month + 1, DAY.day)
    whole, rest = (
        of_design(MILAN, 1, 0, on=day, designed=BOUGHT).scene.state.jobs[0]["work"]
        for day in (DAY, later)
    )
    assert rest == pytest.approx(whole * (1 - 31 / (365.25 / 4)), rel=0.001)


def test_with_nodes_to_spare_and_nothing_failing_every_service_has_its_replicas():
    came, rows, _ = lived(QUIET, with_more(10))
    for name in came.loads:
        # But for the minutes in which the first replicas of all start.
        assert rows[f"{name}: asked while enough replicas ran"].twin > 0.99
    assert not len(came.fate)


def test_with_nodes_to_spare_and_nothing_failing_a_run_is_as_fast_as_its_best_layout():
    came, rows, _ = lived(QUIET, with_more(10))
    kind = next(kind for kind in came.kinds if kind.stream == "foundation")
    pace = rows["foundation: tokens a day"].twin / 86_400
    assert 0.99 * max(kind.rates[-1]) < pace < max(kind.rates[-1])


def test_without_a_node_to_spare_the_run_waits_at_peaks_and_would_be_late():
    _, spare, _ = lived(QUIET, with_more(10))
    _, rows, broken = lived(MILAN)
    assert rows["foundation: tokens a day"].twin < 0.9 * spare["foundation: tokens a day"].twin
    late = rows["foundation: done after"]
    assert late.twin > late.plan
    assert [word for word in broken if word.startswith("foundation would be done ")]


def test_power_stays_below_what_the_plan_asked_the_grid_for():
    _, rows, _ = lived(MILAN)
    peak = rows["peak power at the meter"]
    assert 0.5 * peak.plan < peak.twin < peak.plan < MILAN.sites["milan"].power_w
    assert rows["PUE"].twin == pytest.approx(rows["PUE"].plan, rel=0.05)


def test_replicas_that_wait_at_one_site_do_not_hold_up_the_same_tenants_elsewhere():
    """Milan has 5 of its nodes, Rome all: Milan's 57 that wait are no reason for Rome to."""
    rome = [u.model_copy(update={"site": "rome"}) for u in BOUGHT.uses if u.demand == "citizens"]
    milan = [u for u in BOUGHT.uses if u.demand == "citizens"]
    some = BOUGHT.purchases[0]
    bought = BOUGHT.model_copy(
        update={
            "uses": milan + rome,
            "purchases": [
                some.model_copy(update={"nodes": 5}),
                some.model_copy(update={"nodes": 90, "site": "rome"}),
            ],
            "places": [BOUGHT.places[0], BOUGHT.places[0].model_copy(update={"site": "rome"})],
        }
    )
    sites = dict.fromkeys(("milan", "rome"), QUIET.sites["milan"])
    came = of_design(QUIET.model_copy(update={"sites": sites}), 1, 0, on=DAY, designed=bought)
    kept_up = answers.served(came, held(came, live(came.scene, compiled=False)))
    assert kept_up["citizens-milan-gb300-nvl72"].in_time < 0.1
    assert kept_up["citizens-rome-gb300-nvl72"].in_time > 0.99


def test_failures_come_unless_the_blueprint_says_otherwise_and_it_is_said():
    came = of_design(MILAN, 2, 0, designed=BOUGHT)
    assert came.study.name == "llama3"
    assert len(came.fate) > 0
    assert any("llama3" in line for line in came.assumptions)
    assert of_design(QUIET, 2, 0, designed=BOUGHT).study is None


def test_the_same_seed_gives_the_same_days():
    (_, first, _), (_, again, _), (_, other, _) = (lived(MILAN, seed=seed) for seed in (3, 3, 4))
    assert first == again != other


def test_a_day_on_which_nothing_runs_is_refused_with_a_day_that_would_do():
    with pytest.raises(Refused) as refused:
        of_design(MILAN, 2, 0, on=MILAN.start, designed=BOUGHT)
    assert str(DAY) in refused.value.faults[0].remedy


def test_the_command_tells_what_the_plan_says_beside_what_the_twin_says():
    answer = CliRunner().invoke(
        app, ["simulate", "milan-50mw", "--days", "0.5", "--seeds", "1", "--json"]
    )
    assert answer.exit_code == 0, answer.output
    planned = {row["what"]: row for row in json.loads(answer.stdout)["planned"]}
    assert planned["foundation: done after"]["plan"] == 92 * 86_400
    assert planned["citizens: tokens a day"]["twin"] > 0
