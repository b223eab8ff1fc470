"""What a course comes to: figures that a hand can check, and their intervals over seeds."""

import json
import math
import re
from base64 import b64decode
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from typer.testing import CliRunner

from gigafactory import cli
from gigafactory.console import twin
from gigafactory.console.twin_page import page
from gigafactory.factory import state as st
from gigafactory.faults import Refused
from gigafactory.ledger.book import Book
from gigafactory.stack.reliability import study
from gigafactory.twin import answers, explain, loop, played
from gigafactory.twin.bare import with_jobs
from gigafactory.twin.fate import FATE
from gigafactory.twin.held import held, jobs, waits
from gigafactory.twin.hours import Hours
from gigafactory.twin.power import Battery, Curtailment
from gigafactory.twin.run import Scene, live
from gigafactory.twin.scenario import Kind, Pool, Scenario

HOUR_S, DAY_S = 3600.0, 86_400.0
IDLE_W, ADDED_W = 100.0, 500.0
PUE, CARBON_G_PER_J, PRICE_PER_J, WATER_L_PER_J = 1.25, 1e-4, 2e-8, 5e-7
PRICE_CHIP_S = 0.001
RESEARCH, CHAT = 0, 1
BANK, LAB = 0, 1


def course(
    came,
    events=(),
    *,
    fate=(),
    loads=None,
    caps=None,
    quotas=(None, None),
    hours=24,
    overhead_s=100.0,
    every=0.0,
    write_s=0.0,
    battery=None,
    curtailed=(),
):
    """Two nodes of four chips in one rack; a chip does one token a second, 1e12 FLOP, a hundredth
    of its peak. `came` has submit_s, kind, tenant, chips, work, deadline_s."""
    tenants = [(1.0, -1 if q is None else q, 1 << 40, -1 if q is None else 0) for q in quotas]
    cap_mw = st.NO_CAP_MW if caps is None else round((caps[0][1] - 8 * IDLE_W) * 1e3)
    state = st.empty([cap_mw], [(0, 0)], tenants)
    for _ in (RESEARCH, CHAT):
        added_mw = np.array([ADDED_W * 1e3], np.int64)
        state = st.add_kind(state, (), np.ones((1, 1)), added_mw, np.zeros(1), overhead_s)
    state = st.add_node(state, 0, 4, -1, -1, st.NO_CAP_MW)
    state = st.add_node(state, 0, 4, 0, 0, st.NO_CAP_MW)
    state, life = with_jobs(state, len(came))
    for j, (submit_s, kind, tenant, chips, work, deadline_s) in enumerate(came):
        row = state.jobs[j]
        row["kind"], row["tenant"], row["work"] = kind, tenant, work
        row["chips"] = row["chips_min"] = chips
        row["service"], row["deadline_s"] = kind == CHAT, deadline_s
        row["step_work"] = work / 2**20
        life[j]["submit_s"] = submit_s
    life["overhead_s"], life["restart_s"] = overhead_s, 2 * overhead_s
    life["every"], life["write_s"] = every, write_s
    rows = [(st.JOIN, 0, 0.0, 0, 0.0), (st.JOIN, 1, 0.0, 0, 0.0), *events]
    world = np.zeros(len(rows), loop.WORLD)
    for row, (kind, where, at_s, value, frozen_s) in zip(world, rows, strict=True):
        row["event"]["kind"], row["event"]["at_s"] = kind, at_s
        row["event"]["where"] = row["event"]["job"] = where
        row["event"]["value"], row["frozen_s"] = value, frozen_s
    ones = np.ones((1, hours))
    return Scenario(
        scene=Scene(state, life, world, hours * HOUR_S),
        name="small",
        currency="EUR",
        start_unix_s=1_800_000_000.0,
        horizon_s=hours * HOUR_S,
        seed=0,
        policy="fifo",
        sites=("milan",),
        tenants=("bank", "lab"),
        weights=(1.0, 1.0),
        quotas=quotas,
        pools=(Pool("milan/h", 0, "h", 2, 4, 0, (0, 0), IDLE_W, PRICE_CHIP_S, 1e14),),
        kinds=(
            Kind("research", "train", BANK, "token", 1e12, (600.0,)),
            Kind("chat", "serve", LAB, "token", 0.0, (600.0,)),
        ),
        job_names=[f"{('research', 'chat')[row[1]]}-{j}" for j, row in enumerate(came)],
        hours=Hours(
            1_800_000_000.0,
            CARBON_G_PER_J * ones,
            PRICE_PER_J * ones,
            PUE * ones,
            WATER_L_PER_J * ones,
        ),
        power_w=(8000.0,),
        caps=(caps or [],),
        curtailments=(tuple(curtailed),),
        batteries=(battery,),
        study=study("llama3") if len(fate) else None,
        fate=np.array(list(fate), FATE),
        loads=loads or {},
        replica_tokens_per_s={"chat": 10.0},
        assumptions=("prices: assumed",),
    )


def lived(scenario, **how):
    came = live(scenario.scene, compiled=False, **how)
    return came, answers.of(scenario, came)


def run(chips=8, work=8 * 3600.0, submit_s=0.0, tenant=BANK, deadline_s=math.inf):
    return (submit_s, RESEARCH, tenant, chips, work, deadline_s)


def test_two_jobs_in_a_row_give_the_figures_that_a_hand_computes():
    scenario = course([run(deadline_s=4000.0), run(deadline_s=4000.0, tenant=LAB)])
    _, told = lived(scenario)
    assert told["jct_mean_s"] == pytest.approx((3700 + 7400) / 2)
    assert told["queue_mean_s"] == pytest.approx(3700 / 2)
    assert told["tenants.lab.queue_mean_s"] == pytest.approx(3700)
    assert (told["done"], told["deadlines"]) == (1.0, 0.5)
    assert told["goodput"] == pytest.approx(3600 / 3700)
    assert told["ettr"] == told["ettr_largest"] == pytest.approx(3600 / 3700)
    assert told["utilisation"] == pytest.approx(7400 / DAY_S)
    assert told["mfu_hours"] == pytest.approx(0.01 * 16)
    assert told["mfu"] == pytest.approx(0.01 * 3600 / 3700)


def test_energy_carbon_water_and_money_are_integrals_of_what_was_drawn():
    scenario = course([run(chips=4, work=4 * 3600.0, submit_s=600.0)])
    _, told = lived(scenario)
    machines_j = 8 * IDLE_W * DAY_S + 4 * ADDED_W * 3700
    assert told["machines_kwh"] == pytest.approx(machines_j / 3.6e6)
    assert told["energy_kwh"] == pytest.approx(PUE * machines_j / 3.6e6)
    assert told["pue"] == pytest.approx(PUE)
    assert told["carbon_kg"] == pytest.approx(PUE * machines_j * CARBON_G_PER_J / 1e3)
    assert told["water_l"] == pytest.approx(machines_j * WATER_L_PER_J)
    assert told["energy_cost"] == pytest.approx(PUE * machines_j * PRICE_PER_J)
    assert told["peak_w"] == pytest.approx(PUE * (8 * IDLE_W + 4 * ADDED_W))
    assert told["ramp_w"] == pytest.approx(PUE * 4 * ADDED_W)
    assert told["cost"] == told["tenants.bank.cost"] == pytest.approx(4 * 3700 * PRICE_CHIP_S)
    assert told["train_mtoken"] == pytest.approx(1e6 * PRICE_CHIP_S * 3700 / 3600)


def test_the_chip_time_of_tenants_adds_up_to_that_of_the_attempts():
    scenario = course([run(chips=3), run(chips=2, tenant=LAB), run(chips=8)])
    came, told = lived(scenario)
    log = came.log
    held_chip_h = float((log["width"] * (log["ended_s"] - log["started_s"])).sum()) / HOUR_S
    parts = [told[f"tenants.{name}.chip_hours"] for name in scenario.tenants]
    assert sum(parts) == pytest.approx(held_chip_h)
    assert told["cost"] == pytest.approx(held_chip_h * HOUR_S * PRICE_CHIP_S)


def test_a_failure_costs_the_work_since_the_checkpoint_and_is_told_with_its_node():
    lost = (st.LOSE_NODE, 0, 2010.0, 1, 2000.0)
    scenario = course(
        [run()],
        [lost, (st.JOIN, 0, 5000.0, 0, 0.0)],
        fate=[(2000.0, 0, 0, 10.0, 2990.0, 1.0)],
        every=8 * 1000.0,
    )
    came, told = lived(scenario, frames=48)
    # 1910 s of work, of which the checkpoint held 1000; a restart of 200 s, then the rest.
    assert told["failures"] == 1
    assert told["lost_chip_h"] == pytest.approx(8 * 910 / HOUR_S)
    assert told["jct_mean_s"] == pytest.approx(5000 + 200 + 2600, abs=1)
    assert told["goodput"] == pytest.approx(3600 / (2010 + 2800), rel=1e-3)
    assert told["ettr"] == pytest.approx(3600 / 7800, rel=1e-3)
    assert told["utilisation"] == pytest.approx(
        8 * (2010 + 2800) / (8 * DAY_S - 4 * 2990), rel=1e-3
    )
    shown = played.of(scenario, came, [told])
    (failure,) = shown["failures"]
    assert failure["lost_s"] == pytest.approx(910)
    assert (failure["node"], failure["at_s"]) == (0, 2000.0)
    assert failure["class"] == study("llama3").classes[0].name
    frames = np.frombuffer(b64decode(shown["frames"]["node"]), np.uint8).reshape(48, 2)
    assert frames[0].tolist() == [1, 1]
    assert frames[2].tolist() == [254, 0]


def test_the_writing_of_checkpoints_is_no_goodput():
    scenario = course([run()], every=8 * 600.0, write_s=60.0, overhead_s=0.0)
    _, told = lived(scenario)
    assert told["goodput"] == pytest.approx(600 / 660)


def test_a_service_is_in_time_while_enough_of_its_replicas_stand():
    loads = {"chat": np.concatenate([np.full(12, 10.0), np.full(12, 20.0)])}
    replica = (0.0, CHAT, LAB, 4, 0.0, math.inf)
    second = (18 * HOUR_S, CHAT, LAB, 4, 0.0, math.inf)
    _, told = lived(course([replica, second], loads=loads, overhead_s=600.0))
    # The first 600 s nothing stands; from the 12th hour on one is too few, until 18:10.
    short = 10 * 600 + 20 * (6 * HOUR_S + 600)
    asked = 10 * 12 * HOUR_S + 20 * 12 * HOUR_S
    assert told["slo"] == pytest.approx(1 - short / asked)
    assert told["first_token_s"] == 600.0
    assert told["served_tokens"] == pytest.approx(asked - 10 * 600 - 10 * (6 * HOUR_S + 600))
    assert math.isnan(told["jct_mean_s"])


def test_what_never_starts_waits_to_the_end_and_is_missed():
    scenario = course([run(work=8 * 2 * DAY_S), run(submit_s=10.0, deadline_s=HOUR_S)])
    came, told = lived(scenario)
    assert told["queue_mean_s"] == pytest.approx((DAY_S - 10) / 2)
    assert (told["done"], told["deadlines"]) == (0.0, 0.0)
    missed = [one["what"] for one in played.of(scenario, came, [told])["missed"]]
    assert missed[0].startswith("research: 1 of 1 deadline; the worst is research-1, 23 h 0 min")
    assert "1 of 2 jobs had not started by the end" in missed


def test_times_of_a_part_of_the_jobs_say_so():
    scenario = course([run(), run(work=8 * 2 * DAY_S)])
    came, told = lived(scenario)
    shown = played.of(scenario, came, [told])
    assert shown["answers"][0]["name"] == "mean time to completion of jobs done"
    (missed,) = (one["what"] for one in shown["missed"])
    assert missed.startswith("1 of 2 jobs were done by the end: the times are of those that are")
    whole = course([run()])
    came, told = lived(whole)
    shown = played.of(whole, came, [told])
    assert shown["answers"][0]["name"] == "mean time to completion"
    assert not shown["missed"]


def test_a_replica_of_a_service_is_no_job():
    replica = (0.0, CHAT, LAB, 4, 0.0, math.inf)
    scenario = course([run(chips=4), replica], loads={"chat": np.full(24, 5.0)})
    came, told = lived(scenario)
    shown = played.of(scenario, came, [told])
    assert (shown["jobs"], shown["replicas"]) == (1, 1)
    assert [row["jobs"] for row in shown["tenants"]] == [1, 0]
    assert "1 job and 1 replica, " in twin.course(shown)


def test_a_cap_is_exceeded_only_for_as_long_as_it_is():
    caps = [(0.0, 8 * IDLE_W + 8 * ADDED_W), (1000.0, 8 * IDLE_W + 6 * ADDED_W)]
    scenario = course([run()], caps=caps)
    came, told = lived(scenario)
    # Nobody told the core: the job runs on for 2700 s after the cap fell.
    assert told["over_cap_h"] == pytest.approx(2700 / HOUR_S)
    assert any("cap was exceeded" in one["what"] for one in
               played.of(scenario, came, [told])["missed"])  # fmt: skip
    cut = (st.CAP, 0, 1000.0, round(6 * ADDED_W * 1e3), 0.0)
    _, heard = lived(course([run()], [cut], caps=caps))
    assert heard["over_cap_h"] == 0


def test_curves_add_up_to_what_the_answers_say_and_the_page_takes_them():
    scenario = course(
        [run(), run(tenant=LAB), run(chips=3, submit_s=7000.0)],
        caps=[(0.0, 6000.0)],
        battery=Battery(1000.0, 2 * HOUR_S * 1000.0),
        curtailed=[Curtailment(HOUR_S, 0.5, HOUR_S)],
    )
    came, told = lived(scenario, frames=24)
    shown = played.of(scenario, came, [told])
    series = shown["series"]
    assert sum(series["power_w"]["milan"]) / 1e3 == pytest.approx(told["energy_kwh"])
    busy_chip_h = sum(map(sum, series["busy"].values()))
    assert busy_chip_h == pytest.approx(told["cost"] / PRICE_CHIP_S / HOUR_S)
    came_jobs, attempts = jobs(scenario, came), held(scenario, came)
    _, from_s, to_s = waits(came_jobs, attempts, DAY_S)
    assert sum(series["waiting"]) * HOUR_S == pytest.approx((to_s - from_s).sum())
    assert series["chips"] == [8.0] * 24
    assert series["cap_w"]["milan"] == [6000.0 * PUE] * 24
    # The machines draw 6 kW at the meter, the grid gives 4 for an hour, the battery one of the two.
    levels = series["battery_j"]["milan"]
    assert levels[1] - levels[2] == pytest.approx(1000.0 * HOUR_S)
    assert "modelled throughout" in page(shown)


def test_a_job_s_wait_is_told_with_its_reasons_and_who_holds_the_quota():
    scenario = course(
        [run(chips=6, tenant=LAB), run(chips=4, tenant=BANK, submit_s=600.0)],
        quotas=(4, 4),
        hours=6,
    )
    scenario.scene.state.rules["preempt_after_s"] = 1e9
    watched = explain.row(scenario, "research-1")
    came, _ = lived(scenario, watched=watched)
    story = explain.story(scenario, came, "research-1")
    assert story["waited_s"] == pytest.approx(came.starts_s[1] - 600.0)
    assert story["waited_s"] == sum(one["to_s"] - one["from_s"] for one in story["spells"])
    assert story["text"].startswith("research-1 waited ")
    assert "lab had borrowed 2" in story["spells"][0]["why"]
    reasons = [one["why"] for one in story["spells"]]
    assert all(one != after for one, after in pairwise(reasons))


def test_a_job_that_starts_when_it_comes_has_no_story_and_an_unknown_one_is_refused():
    scenario = course([run(), run()])
    came, _ = lived(scenario, watched=0)
    assert "did not wait" in explain.story(scenario, came, "research-0")["text"]
    with pytest.raises(Refused) as refused:
        explain.row(scenario, "reserch-1")
    assert "did you mean research-1" in refused.value.faults[0].remedy
    assert "research-0 to research-1" in refused.value.faults[0].remedy


def test_a_job_that_was_stopped_and_waited_again_is_told_from_its_first_start():
    scenario = course(
        [run(chips=8, tenant=LAB), run(chips=4, tenant=BANK, submit_s=600.0)],
        quotas=(4, 4),
        hours=6,
    )
    came, _ = lived(scenario, watched=0)
    story = explain.story(scenario, came, "research-0")
    assert story["came_s"] == story["started_s"] == 0.0
    assert story["stops"][0]["why"] == "was preempted"
    assert story["spells"][0]["from_s"] >= story["stops"][0]["to_s"] >= 600.0
    assert story["text"].startswith("research-0 started at once, was preempted after ")
    assert "; it waited " in story["text"]


def test_reasons_are_summed_and_adjacent_like_spells_are_one():
    next_up = "a job before it would start later"
    parts = [
        (0.0, 10.0, f"{next_up}; next is a-1"),
        (10.0, 40.0, f"{next_up}; next is a-2"),
        (40.0, 50.0, "too few chips are free"),
        (60.0, 70.0, "too few chips are free"),
    ]
    spells = explain._merged(parts)
    assert spells[0] == (0.0, 40.0, f"{next_up} (the longest while next is a-2)")
    assert spells[1:] == parts[2:]
    assert explain._summed(spells) == [(next_up, 40.0), ("too few chips are free", 20.0)]


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (19, 2.0930), (1000, 1.9623)]
)
def test_quantiles_of_t_are_those_of_the_tables(freedom, t):
    assert answers.student_t(freedom) == pytest.approx(t, abs=5e-5)


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(2000):
        _, low, high = answers.interval(rng.normal(3.0, 2.0, 5).tolist())
        hits += low <= 3.0 <= high
    assert 0.94 <= hits / 2000 <= 0.96


def test_one_seed_has_no_interval_and_no_figure_is_said_to_be_none():
    assert answers.interval([2.0]) == (2.0, None, None)
    assert answers.interval([math.nan, math.inf]) == (None, None, None)
    assert answers.interval([2.0, math.nan, 4.0])[0] == 3.0


def lives(*figures):
    keys = [question.key for question in answers.QUESTIONS]
    return [dict.fromkeys(keys, figure) for figure in figures]


def test_paired_differences_see_what_overlapping_intervals_hide():
    ours, theirs = lives(10.0, 20.0, 30.0), lives(11.0, 21.1, 31.0)
    found = answers.compared(ours, theirs)
    assert found["jct_mean_s"]["verdict"] == "better"
    assert found["done"]["verdict"] == "worse"
    assert found["cost"]["verdict"] == "differs"
    mixed = answers.compared(ours, lives(9.0, 21.0, 30.0))
    assert mixed["jct_mean_s"]["verdict"] == "undecided"
    assert answers.compared(ours, ours)["done"]["verdict"] == "same"


@settings(deadline=None)
@given(hs.lists(hs.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_comparing_the_other_way_round_turns_every_verdict(figures):
    ours, theirs = lives(*figures), lives(*reversed(figures))
    turned = {"better": "worse", "worse": "better"}
    there, back = answers.compared(ours, theirs), answers.compared(theirs, ours)
    for key in there:
        verdict = there[key]["verdict"]
        assert back[key]["verdict"] == turned.get(verdict, verdict)


def test_a_paired_difference_is_what_terminal_and_page_show():
    scenario = course([run(), run(tenant=LAB)])
    came, told = lived(scenario, frames=4)
    slower = course([run(), run(tenant=LAB)], overhead_s=700.0)
    beside, worse = lived(slower, frames=4)
    ours = played.of(scenario, came, [told, told])
    theirs = played.of(slower, beside, [worse, worse])
    for one in ours["answers"]:
        one["paired"] = answers.compared([told, told], [worse, worse])[one["key"]]
    jct = ours["answers"][0]
    assert twin.against(jct, theirs["answers"][0], 2)[1] == "better"
    assert "seed by seed" in page(ours, theirs)
    assert "their intervals part" not in page(ours, theirs)


COMMAND = re.compile(r"^gigafactory (.+)$", re.M)
MANUAL = Path(__file__).parents[1] / "docs" / "twin.md"
runner = CliRunner()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of one's own, with the manual's policies and a trace in it."""
    monkeypatch.setenv("GIGAFACTORY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (policies,) = re.findall(r"```python\n(.*?)```", MANUAL.read_text(), re.S)
    (tmp_path / "my_policies.py").write_text(policies)
    said("trace --like Philly --jobs 300 --days 5 --out jobs.csv")
    return tmp_path


def said(words, code=0):
    result = runner.invoke(cli.app, words.split())
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def refused(words):
    (fault,) = json.loads(said(f"{words} --json", 2))["errors"]
    return fault


# A morning is enough here, and short enough for the scheduler that is not compiled.
MORNING = "--days 0.3 --seeds 2"


@pytest.mark.parametrize("words", COMMAND.findall(MANUAL.read_text()))
def test_every_command_of_the_manual_runs(place, words):
    short = " --days 0.3" if "campus" in words else ""
    assert said(words + short)


def test_every_answer_of_a_course_has_its_interval_and_two_runs_are_alike(place):
    one, again = (json.loads(said(f"simulate campus {MORNING} --json")) for _ in range(2))
    assert [each["key"] for each in one["answers"]] == [q.key for q in answers.QUESTIONS]
    jct = one["answers"][0]
    assert jct["low"] <= jct["value"] <= jct["high"]
    assert one["answers"] == again["answers"]
    assert {row["name"] for row in one["tenants"]} == {"bank", "lab", "studio", "clinic"}
    assert one["sources"]


def test_a_policy_is_compared_under_the_same_seeds_and_a_course_is_like_itself(place):
    told = json.loads(said(f"simulate campus {MORNING} --compare policy=fair --json"))
    assert {each["paired"]["verdict"] for each in told["answers"]} <= {"same", ""}
    other = json.loads(said(f"simulate campus {MORNING} --compare policy=sjf --json"))
    assert (other["policy"], other["compared"]["policy"]) == ("fair", "sjf")


def test_a_ledger_of_a_course_has_every_job(place):
    told = json.loads(said("simulate campus --days 0.2 --seeds 1 --ledger day.parquet --json"))
    assert len(Book.open(Path("day.parquet")).jobs(told["run"])) == told["jobs"] + told["replicas"]


def test_two_currencies_are_not_compared_and_only_equal_streams_draw_alike(place):
    campus = (Path(cli.__file__).parents[1] / "blueprints" / "campus.yaml").read_text()
    Path("dear.yaml").write_text(re.sub(r"^currency: .*$", "currency: GBP", campus, flags=re.M))
    fault = refused("simulate campus --days 0.2 --compare dear.yaml")
    assert "campus is in EUR, campus in GBP" in fault["what"]
    Path("same.yaml").write_text(campus)
    beside = f"simulate campus {MORNING} --compare"
    same = " ".join(said(f"{beside} same.yaml").split())
    assert "figure this other" in same
    assert "both courses draw alike" in same
    Path("later.yaml").write_text(re.sub(r"^start: .*$", "start: 2027-01-05", campus, flags=re.M))
    later = " ".join(said(f"{beside} later.yaml").split())
    assert "differences are taken seed by seed" in later
    assert "draw alike" not in later


def test_a_trace_s_starts_are_written_and_its_figures_told(place):
    told = json.loads(said("simulate --trace jobs.csv --gpus 480 --starts out.csv --json"))
    assert {"mean_jct_s", "makespan_s", "simulate_cpu_s"} <= set(told)
    assert len((place / "out.csv").read_text().splitlines()) == 301


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("simulate", "nothing is named"),
        ("simulate campus --gpus 8 --skip", "--gpus, --skip: not of a blueprint"),
        ("simulate campus --trace jobs.csv --days 3", "BLUEPRINT, --days: not of a trace"),
        ("simulate --trace jobs.csv", "one size is needed"),
        ("simulate campus --explain scans-1 --html x.html", "--explain goes without --html"),
        ("simulate campus --explain scans-1 --seeds 3", "--explain goes without --seeds"),
        ("simulate campus --days 0.2 --explain scns-1", "there is no job 'scns-1'"),
        ("simulate campus --policy fof", "fof is no policy"),
        ("simulate campus --policy none.py:f", "none.py:f is no policy"),
        ("simulate campus --policy my_policies.py:wide", "wide is no policy"),
        ("simulate campus --days 0.2 --compare speed=2", "nothing to compare with"),
        ("simulate campus --days 0.2 --compare policy=fof", "fof is no policy"),
    ],
)
def test_what_does_not_go_together_ends_in_one_fault(place, words, what):
    assert what in refused(words)["what"]


@pytest.mark.parametrize(
    ("scores", "why"), [("np.zeros(1)", "shape (1,)"), ("np.full(len(asked.chips), np.nan)", "nan")]
)
def test_a_policy_s_mistake_is_told_as_such(place, scores, why):
    text = f"import numpy as np\n\n\ndef mine(asked):\n    return {scores}\n"
    (place / "mine.py").write_text(text)
    fault = refused("simulate campus --days 0.2 --policy mine.py:mine")
    assert why.replace("nan", "not a number") in fault["why"]
