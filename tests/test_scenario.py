"""A blueprint as a scene: what stands, who may run where, what befalls it, and what is told."""

import math
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from gigafactory.blueprint import load
from gigafactory.blueprint.load import parse
from gigafactory.factory import Factory
from gigafactory.factory import events as ev
from gigafactory.factory import state as st
from gigafactory.faults import Refused
from gigafactory.ledger.book import Book, write_parquet
from gigafactory.plan import make
from gigafactory.stack import reliability
from gigafactory.stack.models import read
from gigafactory.stack.training.goodput import goodput
from gigafactory.twin import demand, scenario
from gigafactory.twin.run import live
from gigafactory.twin.story import events, simulate

HALLS = """
gigafactory: 1
name: halls
start: 2027-01-04
owner: IT
sites:
  milan:
    {country: IT, place: milan, count: 2, power: 60 kW, systems: {h100-8: 4},
     racks: {nodes: 2, per_block: 2, power: 18 kW},
     grid: {curtail: [{at: 2027-01-04T06:00, cut: 0.4, lasts: 3 h}]}}
  lulea: {country: SE, place: lulea, power: 80 kW, systems: {b200-8: 3}}
tenants:
  bank: {weight: 2, quota: 24, cohort: eu}
  lab: {quota: 56, cohort: eu}
models:
  own: {config: llama3.1-8b}
operations: {policy: fair, failures: llama3, maintenance: {every: 2 d, lasts: 1 h, at_once: 0.3}}
streams:
  runs: {kind: train, tenant: lab, model: own, per_day: 30, chips: {8: 0.6, 32: 0.4}, elastic: 8,
         tokens: {median: 400 M tokens, p90: 2 B tokens}, slack: 4}
  scans: {kind: batch, tenant: bank, per_day: 100, chips: {1: 0.6, 8: 0.4}, residency: IT,
          hours: {median: 20 min, p90: 1 h}}
  chat: {kind: serve, tenant: bank, model: own, load: 90 k tokens/s, prompt: 1000, answer: 300,
         ttft: 2 s, tpot: 50 ms, daily: 0.5, priority: 100}
"""


def halls(*changes):
    return parse(HALLS, Path("halls.yaml"), changes)


@pytest.fixture(scope="module")
def day():
    """One day of the halls, lived."""
    made = scenario.of(halls(), 1, 3)
    return made, live(made.scene, compiled=False, pieces=True)


def world_rows(made, *kinds):
    rows = made.scene.world["event"]
    return rows[np.isin(rows["kind"], kinds)]


# What stands


def test_data_centers_alike_multiply_nodes_power_and_racks():
    made = scenario.of(halls(), 1, 3)
    milan, lulea = made.pools
    assert (milan.nodes, lulea.nodes, lulea.first_node) == (8, 3, 8)
    assert milan.racks == (0, 0, 1, 1, 2, 2, 3, 3)
    assert milan.blocks == (0, 0, 1, 1)
    assert made.power_w == (120e3, 80e3)
    state = made.scene.state
    assert (state.counts[st.NODES], state.counts[st.RACKS], state.counts[st.BLOCKS]) == (11, 5, 3)
    for rack in range(4):  # What is left to busy chips beyond idle ones.
        assert state.racks[rack]["cap_mw"] == round((18e3 - 16 * milan.idle_w) * 1e3)
    assert state.racks[4]["cap_mw"] == st.NO_CAP_MW


def test_the_cap_of_a_site_leaves_what_stands_its_rest_and_falls_while_the_grid_gives_less():
    made = scenario.of(halls(), 1, 3)
    caps = world_rows(made, st.CAP)
    milan = caps[caps["where"] == 0]
    left_w = {float(row["at_s"]): row["value"] / 1e3 for row in milan}
    rest_w = 64 * made.pools[0].idle_w
    for at_s, machines_w in made.caps[0]:
        assert left_w[at_s] == pytest.approx(machines_w - rest_w)
        share = machines_w * made.hours.pue[0, int(at_s // 3600)] / 120e3
        within = 6 * 3600 <= at_s < 9 * 3600
        assert share == pytest.approx(0.6 if within else 1.0, rel=0.01)


def test_what_cannot_even_stand_idle_is_refused():
    with pytest.raises(Refused) as refused:
        scenario.of(halls("sites.lulea.power=5 kW"), 1, 3)
    assert "lulea cannot carry" in refused.value.faults[0].what


# Who may run where


def test_jobs_run_only_where_residency_and_law_let_them(day):
    made, lived = day
    ran = {name: set() for name in ("runs", "scans", "chat")}
    for row in lived.log:
        kind = made.kinds[lived.state.jobs[row["job"]]["kind"]]
        ran[kind.stream].add(made.pools[row["pool"]].name)
    assert ran["scans"] == {"milan/h100-8"}
    assert ran["runs"] == {"milan/h100-8", "lulea/b200-8"}


def test_what_the_law_forbids_all_the_time_is_refused():
    with pytest.raises(Refused) as refused:
        scenario.of(halls("owner=CN"), 1, 3)
    (fault,) = refused.value.faults
    assert "'runs' could never start" in fault.what
    assert "milan/h100-8: not lawful" in fault.why


def test_a_law_that_changes_closes_the_pool_on_its_day():
    saudi = "owner=SA", "start=2023-11-13", "sites.milan.country=SA", "sites.milan.place=riyadh"
    made = scenario.of(halls(*saudi, "streams.scans.residency=SA"), 6, 3)
    closed = world_rows(made, st.CLOSE)
    # On 2023-11-17 the United States began to ask a licence for such chips there.
    assert {(int(row["where"]), float(row["at_s"])) for row in closed} >= {(0, 4 * 86400.0)}
    lived = live(made.scene, compiled=False)
    starts_s = lived.log["started_s"][lived.log["pool"] == 0]
    assert len(starts_s) > 0
    assert starts_s.max() < 4 * 86400


def test_a_gang_that_fits_nowhere_is_refused_with_the_widths_that_do():
    with pytest.raises(Refused) as refused:
        scenario.of(halls("models.own.config=llama3.1-405b"), 1, 3)
    (fault,) = refused.value.faults
    assert "on 8 chips" in fault.what
    assert "fits on" in fault.why


def test_pools_are_liked_by_price_by_carbon_or_by_energy():
    def best(policy):
        made = scenario.of(halls(), 1, 3, policy)
        runs = next(k for k, kind in enumerate(made.kinds) if kind.stream == "runs")
        return made.pools[int(np.argmin(made.scene.state.likes[runs]))].name

    dear = "prices.chip_hour=3 EUR/chip-h"
    assert best("carbon") == best("goodput-per-watt") == "lulea/b200-8"
    made = scenario.of(halls(dear), 1, 3)  # At one price, what is faster is cheaper.
    assert made.pools[int(np.argmin(made.scene.state.likes[0]))].name == "lulea/b200-8"


# Jobs


def test_the_same_seed_gives_the_same_course_and_a_policy_changes_neither_jobs_nor_fate():
    one, same = scenario.of(halls(), 2, 5), scenario.of(halls(), 2, 5)
    other, next_seed = scenario.of(halls(), 2, 5, "sjf"), scenario.of(halls(), 2, 6)
    assert one.scene.state.jobs.tolist() == same.scene.state.jobs.tolist()
    for rows in (lambda s: s.scene.life, lambda s: s.scene.world, lambda s: s.fate):
        assert rows(one).tolist() == rows(same).tolist() == rows(other).tolist()
    assert one.scene.life.tolist() != next_seed.scene.life.tolist()


def test_rows_are_in_order_of_submission_and_deadlines_come_from_slack():
    made = scenario.of(halls(), 1, 3)
    jobs, life = made.scene.state.jobs, made.scene.life
    assert (np.diff(life["submit_s"]) >= 0).all()
    runs = [k for k, kind in enumerate(made.kinds) if kind.stream == "runs"]
    for j in np.flatnonzero(np.isin(jobs["kind"], runs)):
        kind = made.kinds[jobs[j]["kind"]]
        assert jobs[j]["chips"] == kind.chips
        takes_s = kind.overhead_s + jobs[j]["work"] / max(kind.rates[-1])
        assert jobs[j]["deadline_s"] == pytest.approx(life[j]["submit_s"] + 4 * takes_s)
    others = jobs["deadline_s"][~np.isin(jobs["kind"], runs)]
    assert np.isinf(others).all()


def test_checkpoints_come_at_the_best_interval_for_the_jobs_failures_or_as_stated():
    def interval_s(made, kind):
        return kind.every / max(kind.rates[-1])

    model = read(load("campus").models["own"].config)
    made = scenario.of(halls(), 1, 3)
    for kind in made.kinds[:2]:
        write_s = goodput(model, kind.chips).checkpoint_s
        assert kind.write_s == write_s
        best_s = reliability.best_interval_s(
            write_s, reliability.mttf_s(reliability.study("llama3"), kind.chips)
        )
        assert interval_s(made, kind) == pytest.approx(best_s)
    stated = scenario.of(halls("operations.checkpoint=20 min"), 1, 3)
    assert interval_s(stated, stated.kinds[0]) == pytest.approx(1200)
    quiet = scenario.of(halls("operations.failures=none"), 1, 3)
    assert quiet.kinds[0].every == 0
    assert len(quiet.fate) == 0


def test_replicas_stand_from_when_they_are_wanted_until_they_are_not(day):
    made, lived = day
    asked = demand.draw(halls(), 86400.0, np.random.default_rng(3))
    cancels = world_rows(made, st.CANCEL)
    chat = [j for j, name in enumerate(made.job_names) if name.startswith("chat-")]
    until_s = {int(row["job"]): float(row["at_s"]) for row in cancels}
    wanted = asked["until_s"][asked["stream"] == 2]
    assert [until_s.get(j, 86400.0) for j in chat] == wanted.tolist()
    assert 0 < len(until_s) < len(chat)
    for row in lived.log[np.isin(lived.log["job"], chat)]:
        assert row["ended_s"] <= until_s.get(int(row["job"]), 86400.0)


def test_luck_scatters_training_within_its_range_and_spares_what_has_its_own_times():
    made = scenario.of(halls("streams.runs.per_day=3000"), 1, 3)
    luck, kinds = made.scene.life["luck"], made.scene.state.jobs["kind"]
    trains = np.isin(kinds, [0, 1])
    within = made.kinds[0].luck
    assert within == pytest.approx(1.11)
    inside = (luck[trains] > 1 / within) & (luck[trains] < within)
    assert 0.76 < inside.mean() < 0.84
    assert (luck[~trains] == 1).all()


# What befalls it


def test_a_node_that_is_away_neither_fails_nor_is_drained_until_it_is_back():
    worn = halls("operations.maintenance={every: 8 h, lasts: 2 h, at_once: 0.25}")
    made = scenario.of(worn, 60, 3)
    away = set()
    rows = world_rows(made, st.JOIN, st.LOSE_NODE, st.DRAIN)
    for row in rows[rows["at_s"] > 0]:
        node = int(row["where"])
        assert (node in away) == (row["kind"] == st.JOIN)
        (away.discard if row["kind"] == st.JOIN else away.add)(node)
    assert len(world_rows(made, st.LOSE_NODE)) > 0


def test_maintenance_reaches_every_node_once_a_round_a_few_at_a_time():
    made = scenario.of(halls("operations.failures=none"), 4, 3)
    drains = world_rows(made, st.DRAIN)
    assert np.bincount(drains["where"]).tolist() == [2] * 11
    assert (drains["value"] == 1).all()  # What runs there moves.
    milan = drains[drains["where"] < 8]
    for at_s in milan["at_s"]:
        down = (milan["at_s"] <= at_s) & (at_s < milan["at_s"] + 3600)
        assert down.sum() <= 0.3 * 8


def test_failures_are_noticed_late_and_come_as_often_as_the_study_says():
    made = scenario.of(halls("streams.runs.per_day=1", "streams.scans.per_day=1"), 3650, 3)
    study = made.study
    lost = made.scene.world[made.scene.world["event"]["kind"] == st.LOSE_NODE]
    assert (lost["frozen_s"] < lost["event"]["at_s"]).all()
    # A decade: some hundred failures, whose scatter is a tenth.
    stops = (made.fate["slow"] == 1).sum()
    assert stops == pytest.approx(study.rate_per_node_s * 11 * 3650 * 86400, rel=0.25)
    back = lost["event"]["value"] == 0  # The program's fault: the node is up again at once.
    joins = {(int(r["where"]), float(r["at_s"])) for r in world_rows(made, st.JOIN)}
    for row in lost[back]["event"]:
        assert (int(row["where"]), float(row["at_s"])) in joins


# Both, and what is told


def test_workloads_and_streams_share_one_factory():
    both = halls(
        "workloads.first={kind: pretrain, tenant: lab, model: tiny, tokens: 40 k tokens}",
        "models.tiny={config: qwen3-moe-tiny}",
        "workloads.second={kind: evaluate, tenant: lab, of: first, suite: bits_per_byte}",
    )
    made = scenario.of(both, 1, 3)
    assert made.job_names[:2] == ["first", "second"]
    lived = live(made.scene, compiled=False)
    assert lived.state.jobs["status"][:2].tolist() == [st.DONE, st.DONE]
    ended_s = {int(r["job"]): float(r["ended_s"]) for r in lived.log if r["outcome"]}
    assert lived.starts_s[1] >= ended_s[0]
    plain = scenario.of(halls(), 1, 3)
    assert made.scene.life["luck"][2:].tolist() == plain.scene.life["luck"].tolist()


def test_the_events_never_put_two_attempts_on_one_chip(day):
    made, lived = day
    told = events(made, lived, make(halls()), "r")
    assert [e.at_s for e in told] == sorted(e.at_s for e in told)
    started = {(e.job, e.attempt): e for e in told if isinstance(e, ev.JobStarted)}
    assert len(started) == len(lived.log)
    free = defaultdict(lambda: 8)
    for event in told:
        if isinstance(event, ev.JobStarted):
            for node, chips in zip(event.nodes, event.chips, strict=True):
                free[node] -= chips
                assert node.startswith(event.pool)
        if isinstance(event, ev.JobDone | ev.JobStopped | ev.JobLost):
            held = started[event.job, event.attempt]
            for node, chips in zip(held.nodes, held.chips, strict=True):
                free[node] += chips
        assert min(free.values(), default=0) >= 0 or not isinstance(event, ev.JobReported)
    assert all(0 <= chips <= 8 for chips in free.values())
    for row, held in zip(lived.log, started.values(), strict=True):
        assert row["width"] == sum(held.chips)


def test_the_ledger_of_a_course_answers_like_a_lived_one(day, tmp_path):
    made, lived = day
    told = events(made, lived, make(halls()), "halls-3")
    write_parquet(tmp_path / "day.parquet", "halls-3", told, made.start_unix_s)
    book = Book.open(tmp_path / "day.parquet")
    jobs = {job["name"]: job for job in book.jobs("halls-3")}
    assert list(jobs) == made.job_names
    states = np.array([job["state"] for job in jobs.values()])
    assert (states == "done").sum() == (lived.state.jobs["status"] == st.DONE).sum() > 50
    ended = lived.log[lived.log["outcome"] > 0]
    used = float(((ended["ended_s"] - ended["started_s"]) * ended["width"]).sum())
    assert sum(job["chip_s"] for job in jobs.values()) == pytest.approx(used)
    assert datetime.fromtimestamp(made.start_unix_s, UTC) == datetime(2027, 1, 4, tzinfo=UTC)


def test_a_planned_day_reports_twentieths_and_ends_with_the_tokens_it_made():
    plan = make(load("tiny"))
    told = simulate(plan, "r", 2)
    reports = [e for e in told if isinstance(e, ev.JobReported) and e.job == "code-model"]
    assert [e.figures["step"] for e in reports] == list(range(1, 21))
    (done,) = (e for e in told if isinstance(e, ev.JobDone) and e.job == "code-model")
    assert reports[-1].figures["tokens"] == done.results["tokens"] > 0
    assert reports[-1].at_s == pytest.approx(done.at_s)
    assert done.used["phases"]["load"] + done.used["phases"]["work"] == pytest.approx(
        done.used["chip_s"] / plan.job("code-model").spec.work.chips, abs=0.01
    )


# The plan and the file


def test_streams_alone_have_a_plan_of_places_and_the_works_gets_the_same_rules():
    plan = make(halls("operations.policy=sjf"))
    assert plan.jobs == []
    assert [where.pool for where in plan.places] == ["milan/h100-8", "lulea/b200-8"]
    tables = plan.tables()
    assert [share.name for share in tables["tenants"]] == ["bank", "lab"]
    state, twin = Factory(**tables).state, scenario.of(halls(), 1, 3, "sjf").scene.state
    for name in ("backfill", "fair", "preempts", "lemons", "preempt_after_s"):
        assert state.rules[0][name] == twin.rules[0][name]
    for name in ("weight", "quota", "borrow", "cohort"):
        assert state.tenants[name].tolist() == twin.tenants[name].tolist()


def test_an_old_plan_has_no_operations_and_keeps_the_cores_own_rules():
    plan = make(load("tiny"))
    old = {key: value for key, value in plan.blueprint.items() if key != "operations"}
    assert set(plan.model_copy(update={"blueprint": old}).tables()) == {"sites", "pools"}


def test_what_a_file_leaves_out_can_be_set_and_a_misspelling_cannot():
    assert load("tiny", ["operations.policy=sjf"]).operations.policy == "sjf"
    assert load("h100-8", ["sites.paris.racks.nodes=2"]).sites["paris"].racks.nodes == 2
    with pytest.raises(Refused) as refused:
        load("tiny", ["operation.policy=sjf"])
    assert "leads nowhere" in refused.value.faults[0].what


def test_a_trace_lies_beside_its_blueprint(tmp_path, monkeypatch):
    (tmp_path / "jobs.csv").write_text("submit_s,duration_s,num_gpus\n0,60,8\n30,600,16\n")
    file = tmp_path / "halls.yaml"
    file.write_text(HALLS + "  old: {kind: trace, tenant: lab, file: jobs.csv}\n")
    made = scenario.of(load(file), 0.5, 3)
    lived = live(made.scene, compiled=False)
    old = made.job_names.index("old-2")
    assert lived.state.jobs["chips"][old] == 16
    (ran,) = lived.log[lived.log["job"] == old]
    assert ran["ended_s"] - ran["started_s"] == pytest.approx(600)
    assert math.isclose(ran["kept"], 9600)
