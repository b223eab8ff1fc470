"""Worlds in the one file: what they may say, what jobs of them are quoted, and how they run."""

import asyncio
import hashlib
import importlib
import json
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest
import typer.testing

from gigafactory import cli
from gigafactory.blueprint import check_worlds
from gigafactory.blueprint.check import METRICS
from gigafactory.blueprint.load import grow, parse
from gigafactory.blueprint.schema import SUITES, Blueprint
from gigafactory.faults import Refused
from gigafactory.ledger.store import Ledger
from gigafactory.plan import Measured, make
from gigafactory.stack import chips, facts, performance, worlds
from gigafactory.works import executor, history
from gigafactory.works.driver import Works
from gigafactory.works.home import Home
from tests.test_blueprint import GOOD
from tests.test_works import Stage

CORE = chips.chip("cpu-core")
HALL = """\
gigafactory: 1
name: hall
start: 2026-11-23
owner: FR
sites:
  home: {country: FR, power: 20 kW, systems: {this-machine: 1}}
tenants:
  lab: {}
worlds:
  hall: {scene: warehouse, ranges: {people: [1, 4]}}
  street: {scene: road}
  mine: {file: mine.xml}
workloads:
  frames: {kind: synthesize, tenant: lab, world: hall, frames: 1500, formats: [coco], chips: 2}
  own: {kind: synthesize, tenant: lab, world: mine, frames: 100, formats: [kitti]}
  drives: {kind: rollout, tenant: lab, world: hall, policy: expert, episodes: 200}
  eyes: {kind: pretrain, learns: detector, tenant: lab, of: [frames], steps: 600, batch: 32}
  novice: {kind: pretrain, learns: policy, tenant: lab, of: [drives], steps: 2000}
  pilot: {kind: finetune, learns: policy, tenant: lab, start: novice, world: hall, steps: 60000}
  eyes-2: {kind: finetune, learns: detector, tenant: lab, start: eyes, of: frames, steps: 200}
  judge-eyes:
    {kind: evaluate, suite: detection, tenant: lab, of: eyes-2, against: eyes, world: hall,
     examples: 200, gate: {map50: ">= 0.5"}}
  judge-pilot:
    {kind: evaluate, suite: closed_loop, tenant: lab, of: pilot, against: novice, world: hall,
     examples: 100, gate: {success_low: ">= 0.85", collisions: "<= 0.03"}}
  traffic: {kind: rollout, tenant: lab, world: street, policy: expert, episodes: 50}
  driver: {kind: pretrain, learns: policy, tenant: lab, of: traffic, steps: 500}
  break-driver:
    {kind: evaluate, suite: falsification, tenant: lab, of: driver, world: street,
     examples: 20000, gate: {failure_probability_high: "<= 1e-4"}}
  shown: {kind: rollout, tenant: lab, world: hall, of: pilot, episodes: 20, video: 2}
  service: {kind: serve, tenant: lab, of: pilot, through: [judge-pilot]}
"""


@pytest.fixture
def folder(tmp_path):
    box = '<body name="box/1" pos="0 0 1"><freejoint/><geom type="box" size=".1 .1 .1"/></body>'
    (tmp_path / "mine.xml").write_text(f"<mujoco><worldbody>{box}</worldbody></mujoco>")
    return tmp_path


def read(folder, text=HALL):
    return parse(text, folder / "hall.yaml")


def faults(folder, *changes):
    text = HALL
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    with pytest.raises(Refused) as refused:
        read(folder, text)
    return refused.value.faults


def test_every_job_stands_on_what_it_reads(folder):
    jobs = {job.spec.name: job for job in make(read(folder)).jobs}
    assert jobs["eyes-2"].spec.after == ("frames", "eyes")
    assert jobs["pilot"].spec.after == ("novice",)
    assert jobs["judge-pilot"].spec.after == ("pilot", "novice")
    assert jobs["drives"].spec.after == ()
    assert jobs["shown"].spec.after == ("pilot",)
    assert all(jobs[one].end_s <= job.start_s for job in jobs.values() for one in job.spec.after)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("learns: detector, tenant", "learns: detecter, tenant", 17, ["did you mean detector"]),
        ("kind: synthesize", "kind: synthesise", 14, ["did you mean synthesize"]),
        ("{kind: synthesize, ", "{", 14, ["'kind' is missing"]),
        ("steps: 600", "stepz: 600", 17, ["stepz", "did you mean steps"]),
        ("steps: 600", "steps: many", 17, ["workloads.eyes.steps", "many"]),
        ("steps: 600", "tokens: 5, steps: 600", 17, ["tokens"]),
        ("world: hall, frames", "world: hal, frames", 14, ["hal", "did you mean hall"]),
        ("[frames], steps", "[framez], steps", 17, ["framez", "did you mean frames"]),
        ("start: novice", "start: novize", 19, ["novize", "did you mean novice"]),
        ("against: novice", "against: novize", 25, ["novize"]),
        ("[frames], steps", "[drives], steps", 17, ["makes no frames", "synthesize"]),
        ("[frames], steps", "[own], steps", 17, ["writes no COCO"]),
        ("[drives], steps", "[frames], steps", 18, ["makes no episodes", "rollout"]),
        ("start: novice", "start: eyes", 19, ["makes no policy", "learns: policy"]),
        ("start: novice, ", "", 19, ["no `start`"]),
        ("start: novice, world: hall", "start: novice", 19, ["no `world`"]),
        ("of: [drives]", "of: [drives], start: pilot", 18, ["cannot have `start`"]),
        ("start: eyes, of", "of", 20, ["no `start`"]),
        ("of: pilot, episodes", "of: eyes, episodes", 32, ["makes no policy"]),
        ("policy: expert, episodes", "episodes", 16, ["no policy", "policy: expert"]),
        ("policy: expert", "policy: expert, of: driver", 16, ["two policies"]),
        ("of: eyes-2, against: eyes", "of: pilot", 22, ["makes no detector"]),
        ("world: hall,\n     examples: 200", "\n     examples: 200", 21, ["no `world`"]),
        ("suite: falsification, tenant: lab, of: driver, world: street",
         "suite: falsification, tenant: lab, of: pilot, world: hall", 30, ["wants a road"]),
        ("of: driver, world: street", "of: pilot, world: street", 30, ["does not know scene road"]),
        ("world: hall,\n     examples: 200", "world: street,\n     examples: 200", 22,
         ["does not know scene road"]),
        ("of: [drives]", "of: [drives, traffic]", 18, ["learn two scenes", "road and warehouse"]),
        ("of: driver, world: street", "of: driver, world: mine", 30,
         ["wants a road", "a robot finds its way"]),
        ("of: pilot, against: novice, world: hall", "of: driver, against: novice, world: mine", 25,
         ["of 'driver' does not know", "learned in scene road"]),
        ("gate: {map50:", "gate: {map5:", 23, ["map5", "did you mean map50"]),
        ("[coco]", "[cocoa]", 14, ["cocoa", "webdataset"]),
        ("[coco]", "[]", 14, ["no `formats`"]),
        ("scene: warehouse, ranges: {people: [1, 4]}", "", 10, ["no world", "scene"]),
        ("scene: road", "scene: road, file: mine.xml", 11, ["a scene and a file"]),
        ("scene: road", "scene: raod", 11, ["raod", "road"]),
        ("file: mine.xml", "file: mine.urdf", 12, ["there is no file 'mine.urdf'"]),
        ("file: mine.xml", "file: mine.obj", 12, [".obj", ".usd"]),
        ("file: mine.xml", "file: mine.xml, ranges: {aisle: [2, 3]}", 12, ["has no 'aisle'"]),
        ("people: [1, 4]", "peeple: [1, 4]", 10, ["peeple", "did you mean people"]),
        ("people: [1, 4]", "people: [4, 1]", 10, ["write [1, 4]"]),
        ("people: [1, 4]", "people: [1, 400]", 10, ["stay in [0, 5]"]),
        ("people: [1, 4]", "people: [1, 2.5]", 10, ["whole"]),
        ("people: [1, 4]", "people: 3", 10, ["people"]),
        (", through: [judge-pilot]", "", 33, ["nothing has judged"]),
        ("through: [judge-pilot]", "through: [judge-eyes]", 33, ["judged 'pilot'", "of: pilot"]),
        ("formats: [coco]", "cameras: 10, formats: [coco]", 14, ["no 10 cameras", "4 at most"]),
        ("map50: \">= 0.5\"", "map50: \">= 1.5\"", 23, ["never >= 1.5", "share"]),
        ("collisions: \"<= 0.03\"", "collisions: \"<0\"", 26, ["never <0"]),
        ("examples: 20000", "examples: 3999", 31, ["3999 scenarios", "ask for 4000"]),
        ("failure_probability_high: \"<= 1e-4\"", "regression: \">= 0\"", 31, ["against: JOB"]),
    ],
)  # fmt: skip
def test_a_fault_names_its_line_and_a_remedy(folder, old, new, line, words):
    fault = faults(folder, (old, new))[0]
    text = " ".join((fault.what, fault.where, fault.why, fault.remedy))
    assert f"hall.yaml:{line}," in fault.where
    assert fault.remedy
    for word in words:
        assert word in text


@pytest.mark.parametrize("scene", worlds.SCENES)
def test_a_scene_has_as_many_cameras_as_the_check_believes(scene):
    built = pytest.importorskip("gigafactory.jobs.worlds").build({"name": "w", "scene": scene}, 1)
    assert built.model().ncam == worlds.cameras(scene)


def test_a_falsification_has_as_many_scenarios_as_the_job_asks_for():
    falsification = pytest.importorskip("gigafactory.jobs.falsification")
    assert check_worlds.SCENARIOS_MIN == falsification.SCENARIOS_MIN


def test_frames_of_two_sizes_are_not_learned_from_together(folder):
    changes = ("[kitti]", "[coco], width: 512"), ("of: [frames]", "of: [frames, own]")
    (fault,) = faults(folder, *changes)
    assert fault.why == "they are 256 × 256 and 512 × 256"


def test_a_suite_that_judges_text_has_no_world():
    text = GOOD.replace("suite: bits_per_byte", "suite: bits_per_byte, against: train")
    with pytest.raises(Refused) as refused:
        parse(text, Path("mill.yaml"))
    (fault,) = refused.value.faults
    assert "cannot have `against`" in fault.what
    with pytest.raises(Refused) as refused:
        parse(GOOD.replace("suite: bits_per_byte", "suite: detection, world: w"), Path("mill.yaml"))
    assert {"'train' makes no detector", "world 'w' does not exist"} <= {
        fault.what for fault in refused.value.faults
    }


def test_a_job_that_comes_later_is_checked_like_one_in_the_file(folder):
    blueprint = read(folder)
    more = {"kind": "pretrain", "learns": "detector", "tenant": "lab", "of": ["frames"], "steps": 9}
    assert grow(blueprint, "more", more).of == ("frames",)
    for change in ({"of": ["drives"]}, {"learns": "detecter"}, {"start": "eyes"}):
        with pytest.raises(Refused):
            grow(blueprint, "more", more | change)


def test_the_schema_that_editors_read_takes_what_the_reader_takes(folder):
    schema = Blueprint.model_json_schema()
    said = json.loads(json.dumps(_plain(HALL)))
    jsonschema.validate(said, schema)
    said["workloads"]["eyes"]["learns"] = "nothing"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(said, schema)


def _plain(text):
    import yaml

    return yaml.safe_load(text.replace("2026-11-23", "'2026-11-23'"))


def test_the_table_of_parameters_is_what_the_scenes_draw():
    for scene in (*worlds.SCENES, "file"):
        module = "own" if scene == "file" else scene
        drawn = importlib.import_module(f"gigafactory.jobs.worlds.{module}").PARAMETERS
        table = worlds.parameters(scene)
        assert {name: (of.low, of.high, of.unit, of.whole) for name, of in table.items()} == {
            name: (of.low, of.high, of.unit, of.whole) for name, of in drawn.items()
        }
    for row in facts.rows("worlds"):
        assert row["basis"] in facts.BASES
        assert row["source"]
        assert row["as_of"]
    assert {row["world"] for row in facts.rows("worlds")} == {*worlds.SCENES, "file"}


def test_every_metric_that_a_gate_may_name_is_in_the_manual():
    manual = Path(__file__).parents[1].joinpath("docs/blueprint.md").read_text(encoding="utf-8")
    for suite in ("detection", "closed_loop", "falsification"):
        (row,) = [line for line in manual.splitlines() if line.startswith(f"| `{suite}` |")]
        assert row.count("`") == 2 * (len(METRICS[suite]) + 1)
        assert all(f"`{metric}`" in row for metric in METRICS[suite])
    assert set(SUITES) == set(METRICS)


def test_every_job_is_quoted_by_its_frames_steps_or_episodes(folder):
    quotes = {job.spec.name: job.quote for job in make(read(folder)).jobs}
    assert {name: (quote.size, quote.unit) for name, quote in quotes.items()} == {
        "frames": (1500, "frames"),
        "own": (100, "frames"),
        "drives": (200, "episodes"),
        "eyes": (600, "steps"),
        "novice": (2000, "steps"),
        "pilot": (60000, "steps"),
        "eyes-2": (200, "steps"),
        "judge-eyes": (200, "examples"),
        "judge-pilot": (100, "examples"),
        "traffic": (50, "episodes"),
        "driver": (500, "steps"),
        "break-driver": (20000, "examples"),
        "shown": (20, "episodes"),
        "service": (0, "tokens"),
    }
    for quote in quotes.values():
        assert quote.tokens.value == 0
        assert quote.reason.startswith("modelled: ")
        for figure in (quote.duration_s, quote.energy_kwh, quote.carbon_g, quote.money):
            assert 0 < figure.low < figure.value < figure.high


MORE = [
    ("frames: 1500", "frames: 3000", "frames", 2.0),
    ("frames: 1500", "width: 512, frames: 1500", "frames", 2.0),
    ("formats: [coco], chips: 2", "formats: [coco]", "frames", 2.0),
    ("episodes: 200", "episodes: 400, video: 8", "drives", 2.0),
    ("batch: 32", "batch: 64", "eyes", 2.0),
    ("steps: 2000}", "steps: 2000, chips: 2}", "novice", 1.0),
    ("examples: 20000", "examples: 40000", "break-driver", 2.0),
]


@pytest.mark.parametrize(("old", "new", "job", "times"), MORE)
def test_twice_the_work_on_as_many_cores_is_quoted_twice_the_time(folder, old, new, job, times):
    before, after = make(read(folder)), make(read(folder, HALL.replace(old, new, 1)))
    assert after.job(job).quote.work_s.value == pytest.approx(
        times * before.job(job).quote.work_s.value, rel=1e-9
    )


def test_every_policy_that_is_judged_beside_costs_as_many_episodes_again(folder):
    def judged_s(arms, examples=100):
        return performance.judge_policy("warehouse", CORE, 1, examples, arms).work_s

    one_s = judged_s(2) - judged_s(1)
    assert judged_s(3) - judged_s(2) == pytest.approx(one_s)
    assert judged_s(1, 200) - judged_s(1) == pytest.approx(3 * one_s)  # with expert and random
    both = make(read(folder)).job("judge-pilot").quote.work_s.value
    alone = HALL.replace("against: novice, world: hall", "world: hall")
    without = make(read(folder, alone)).job("judge-pilot").quote.work_s.value
    assert both - without == pytest.approx(one_s)


def test_beside_accelerators_worlds_run_on_the_hosts_cores_and_the_quote_says_so(folder):
    there = HALL.replace("this-machine: 1", "h100-8: 1")
    here, quote = make(read(folder)).job("frames").quote, make(read(folder, there)).job("frames")
    assert quote.quote.work_s.value < here.work_s.value
    assert quote.quote.work_s.basis == "assumed"
    assert "cores beside the accelerators" in quote.quote.reason
    wide = quote.quote.work_s.high / quote.quote.work_s.value
    assert wide > here.work_s.high / here.work_s.value
    assert quote.quote.memory_bytes_per_chip == 0 < here.memory_bytes_per_chip


def _observed(quote, seconds, results):
    used = {"chip_s": seconds * quote.layout.chips, "energy_j": 50.0, "energy_basis": "modelled"}
    phases = {"load": seconds / 5, "work": seconds * 4 / 5}
    done = {"used": {**used, "phases": phases}, "results": results}
    return history._of_job(quote.model_dump(mode="json"), done)


def test_a_job_alike_is_quoted_by_what_the_last_one_took_scaled_by_its_size(folder):
    first = make(read(folder))
    for name, old, new in [
        ("frames", "frames: 1500", "frames: 3000"),
        ("drives", "episodes: 200", "episodes: 400"),
        ("eyes", "steps: 600", "steps: 1200"),
        ("pilot", "steps: 60000", "steps: 120000"),
        ("judge-pilot", "examples: 100,", "examples: 200,"),
    ]:
        seen = _observed(first.job(name).quote, 100.0, {"steps": 5})
        again = make(read(folder, HALL.replace(old, new)), Measured(observations=[seen]))
        quote = again.job(name).quote
        assert quote.duration_s.basis == "measured"
        assert quote.duration_s.value == pytest.approx(20 + 2 * 80)
        assert quote.tokens.value == 0


def test_a_command_that_ran_is_not_said_to_take_tokens():
    text = GOOD.replace("  train:", "  count: {kind: script, tenant: lab, command: [ls]}\n  train:")
    count = make(parse(text, Path("mill.yaml"))).job("count").quote
    seen = _observed(count, 7.0, {"exit_code": 0})
    again = make(parse(text, Path("mill.yaml")), Measured(observations=[seen])).job("count").quote
    assert again.duration_s.value == pytest.approx(7.0)
    assert again.tokens.value == 0


@pytest.mark.parametrize(
    ("old", "new", "alike"),
    [
        ("name: hall", "name: hell", True),
        ("frames: 1500", "frames: 99, layouts: heldout, seed: 7", True),
        ("people: [1, 4]", "people: [0, 1]", False),
        ("frames: 1500", "width: 128, frames: 1500", False),
        ("frames: 1500", "cameras: 2, frames: 1500", False),
    ],
)
def test_jobs_are_alike_that_differ_in_length_and_name_alone(folder, old, new, alike):
    before, after = make(read(folder)), make(read(folder, HALL.replace(old, new, 1)))
    assert (before.job("frames").quote.shape == after.job("frames").quote.shape) is alike


def test_a_file_is_known_by_its_content_wherever_it_lies(folder):
    before = make(read(folder)).job("own")
    content = (folder / "mine.xml").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    assert before.spec.world == {
        "name": "mine", "file": str((folder / "mine.xml").resolve()), "sha256": sha256,
    }  # fmt: skip
    (folder / "mine.xml").rename(folder / "other.xml")
    moved = make(read(folder, HALL.replace("mine.xml", "other.xml"))).job("own")
    assert moved.quote.shape == before.quote.shape
    (folder / "other.xml").write_text("<mujoco model='b'/>")
    changed = make(read(folder, HALL.replace("mine.xml", "other.xml"))).job("own")
    assert changed.quote.shape != before.quote.shape


def test_a_file_that_went_after_the_check_is_told_as_a_fault(folder):
    blueprint = read(folder)
    (folder / "mine.xml").unlink()
    with pytest.raises(Refused) as refused:
        make(blueprint)
    (fault,) = refused.value.faults
    assert fault.where == "worlds.mine.file"


def test_a_job_sees_its_world_resolved_and_the_folders_of_all_that_it_reads(folder):
    async def life():
        works = Works(home, planned, "hall-1", ledger)
        works.engine = Stage(iter(()))
        await works.open("")
        for _ in range(500):
            await works.turn()
            if works.factory.settled():
                return works.engine.described
            await asyncio.sleep(0.001)
        raise AssertionError("it never settled")

    planned, home = make(read(folder)), Home(folder / "home")
    home.path.mkdir()
    ledger = Ledger(home.ledger)
    described = asyncio.run(life())
    ledger.close()
    said = described["frames"]["work"]
    assert said["world"] == {"name": "hall", "scene": "warehouse", "ranges": {"people": [1.0, 4.0]}}
    assert (said["frames"], said["width"], said["formats"]) == (1500, 256, ["coco"])
    where = planned.where(planned.job("frames").quote.pool)
    assert said["power_w_per_chip"] == where.chip_w
    assert said["carbon_g_per_kwh"] == pytest.approx(where.carbon_g_per_j * 3.6e6)
    assert described["own"]["work"]["world"]["file"] == str((folder / "mine.xml").resolve())
    assert set(described["eyes-2"]["inputs"]) == {"frames", "eyes"}
    assert set(described["judge-pilot"]["inputs"]) == {"pilot", "novice"}
    assert described["shown"]["inputs"]["pilot"].endswith("pilot/attempt-1/output")
    assert set(described) == {job.spec.name for job in planned.jobs}


def test_what_a_job_learns_says_what_runs_and_only_language_models_are_trained_by_gangs():
    assert executor.module_of({"kind": "pretrain"}) in executor.GANGS
    for learns in ("detector", "policy"):
        for kind in ("pretrain", "finetune"):
            assert executor.module_of({"kind": kind, "learns": learns}) == learns
    assert executor.module_of({"kind": "synthesize"}) == "synthesize"


def test_plan_simulate_and_check_answer_for_every_kind_of_job(folder, monkeypatch):
    monkeypatch.setenv("GIGAFACTORY_HOME", str(folder / "home"))
    (folder / "hall.yaml").write_text(HALL)

    def said(*words):
        result = typer.testing.CliRunner().invoke(cli.app, [*words])
        assert result.exit_code == 0, result.output
        return result.output

    path = str(folder / "hall.yaml")
    said("check", path)
    table = said("plan", path)
    for words in ("1,500 frames", "200 episodes", "60,000 steps", "20,000 examples"):
        assert words in table
    page = folder / "day.html"
    said("simulate", path, "--html", str(page), "--ledger", str(folder / "day.parquet"))
    told = page.read_text(encoding="utf-8")
    assert "hall" in told
    assert "learns" in said("schema", "blueprint")


def test_the_twin_plays_a_command_for_as_long_as_its_owner_expects():
    from gigafactory.factory import events as ev
    from gigafactory.twin import simulate

    text = GOOD.replace("  train:", "  count: {kind: script, tenant: lab, command: [ls]}\n  train:")
    planned = make(parse(text, Path("mill.yaml")))
    (done,) = [e for e in simulate(planned, "r") if isinstance(e, ev.JobDone) and e.job == "count"]
    assert 600 / 5 < done.used["chip_s"] < 600 * 5
    assert "tokens" not in done.results


def test_the_twin_plays_every_job_for_as_long_as_it_was_quoted(folder):
    from gigafactory.factory import events as ev
    from gigafactory.twin import simulate

    planned = make(read(folder))
    day = simulate(planned, "r")
    done = {event.job: event for event in day if isinstance(event, ev.JobDone)}
    ready = {e.job for e in day if isinstance(e, ev.JobReported) and e.figures.get("ready")}
    assert done.keys() | ready == {job.spec.name for job in planned.jobs}
    assert not any("tokens" in event.results for event in done.values())
    for before, after in pairwise(["drives", "novice", "pilot", "judge-pilot"]):
        assert done[before].at_s < done[after].at_s
    for job in planned.jobs:
        if job.spec.name in done:
            took_s = done[job.spec.name].used["chip_s"] / job.spec.work.chips
            assert job.quote.duration_s.value / 5 < took_s < job.quote.duration_s.value * 5


def test_practice_is_quoted_by_whole_rounds_and_the_episodes_that_judge_it(folder):
    def work_s(steps):
        changed = HALL.replace("steps: 60000", f"steps: {steps}", 1)
        return make(read(folder, changed)).job("pilot").quote.work_s.value

    # A first round that only learns to value states, then at least one.
    assert work_s(100) == work_s(8192) < work_s(2 * 8192)
    a_round_s = work_s(2 * 8192) - work_s(8192)
    assert work_s(20 * 8192) - work_s(8192) == pytest.approx(19 * a_round_s)
    assert work_s(8192) > 2 * a_round_s  # the judging episodes
