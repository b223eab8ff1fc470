"""What is said where nobody counts tokens: plans, worlds of one's own, jobs from files."""

import io
import json
import os
import stat
from dataclasses import asdict
from pathlib import Path

import pytest
import typer.testing
from rich.console import Console

os.environ.setdefault("MUJOCO_GL", "egl")
pytest.importorskip("mujoco")
pytest.importorskip("pxr")

from gigafactory import building, cli, running, show
from gigafactory.blueprint import load
from gigafactory.console import terminal, words
from gigafactory.faults import Fault, Refused
from gigafactory.jobs.worlds import gates, usd_check
from gigafactory.jobs.worlds.scene import Scene, WorldRefused
from gigafactory.plan import acts, make

FLOOR = '<geom type="plane" size="5 5 .1"/>'
BOX = '<body name="box/1" pos="0 0 .1"><freejoint/><geom type="box" size=".1 .1 .1"/></body>'
TABLE = '<geom type="box" size="1 1 .1" pos="0 0 -.1"/>'
ARM = '<body><joint axis="0 0 1"/><geom type="box" size=".1 .1 .1" pos="0 0 1"/></body>'
MINE = """\
gigafactory: 1
name: mine
currency: EUR
start: 2026-11-23
owner: FR
sites: {home: {country: FR, power: 400 W, pue: 1.0, systems: {this-machine: 1}}}
tenants: {vision: {}}
worlds: {yard: {file: yard.xml}, hall: {file: hall.usda}}
workloads:
  frames: {kind: synthesize, tenant: vision, world: yard, frames: 16, cameras: 2}
"""


def mjcf(body):
    return f"<mujoco><worldbody>{body}</worldbody></mujoco>"


def printed(shown, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(shown)
    return console.file.getvalue()


def run(*arguments):
    return typer.testing.CliRunner().invoke(cli.app, [str(one) for one in arguments])


@pytest.mark.parametrize(
    ("blueprint", "first", "work"),
    [
        ("warehouse", "First answer after", "1,280 frames"),
        ("laptop", "First token after", "901,120"),
    ],
)
def test_a_plan_counts_in_what_its_jobs_make_and_says_what_its_first_service_gives(
    blueprint, first, work
):
    plan = make(load(blueprint))
    said = printed(terminal.quotes(plan))
    assert first in said
    assert work in said
    known = {job.spec.name: job for job in plan.jobs}
    service = next(name for name, job in known.items() if job.spec.kind == "serve")
    assert acts(service, known) == plan.first_acts == (blueprint == "warehouse")


def test_the_first_answer_of_a_policy_is_no_token():
    told = {"job": "driver", "prompt": "an observation", "answer": "{}", "first_s": 61.0}
    for policy, title in ((True, "first answer from driver after 1 min 1 s"),
                          (False, "first token from driver after 1 min 1 s")):  # fmt: skip
        console = Console(width=80, file=io.StringIO())
        show.Screen(console).answered(told | {"acts": policy})
        assert title in console.file.getvalue()


def test_a_verdict_names_what_was_kept_or_only_what_was_not():
    low = {"metric": "success_low", "value": 0.80639, "threshold": ">= 0.85", "passed": False}
    hits = {"metric": "collisions", "value": 0.0, "threshold": "<= 0.05", "passed": True}
    gap = {"metric": "gap", "value": None, "threshold": "> 0", "passed": False, "reason": "no arm"}
    assert words.verdict([hits]) == "passed, collisions 0, wanted <= 0.05"
    assert words.verdict([low, hits]) == "did not pass, success_low 0.8064, wanted >= 0.85"
    assert words.verdict([gap]) == "did not pass, gap not measured, wanted > 0 (no arm)"
    assert words.verdict(None) == ""


def test_a_narrow_screen_breaks_long_names_and_no_word_beside_them():
    row = {"name": "a-judge-of-the-pilot-with-a-long-name", "kind": "synthesize", "chips": 1,
           "tenant": "robots", "status": "cancelled", "attempts": 1, "progress": {}}  # fmt: skip
    said = printed(terminal.jobs([row | {"why": "judge-pilot did not pass its gate"}]))
    for word in ("synthesize", "robots", "cancelled", "attempts", "progress"):
        assert word in said


def test_a_gate_that_nothing_can_fail_is_not_tried_and_says_why():
    def sinks(body):
        found = gates.check(Scene("mine", 0, mjcf(body), {}, ()))
        return next(gate for gate in found if gate.name == "nothing sinks")

    assert sinks(FLOOR + BOX).tried
    assert not sinks(FLOOR + BOX.replace('pos="0 0 .1"', 'pos="0 0 -.5"')).passed
    for body, why in ((TABLE + BOX, "no level plane"), (FLOOR + ARM, "no body is free")):
        gate = sinks(body)
        assert (gate.tried, gate.passed) == (False, True)
        assert why in gate.why


def test_a_world_is_written_as_open_as_other_files_and_says_what_was_not_tried(tmp_path):
    (tmp_path / "table.xml").write_text(mjcf(TABLE + ARM))
    found = run("world", tmp_path / "table.xml", "-o", tmp_path / "out", "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    (sinks,) = [gate for gate in told["gates"] if gate["name"] == "nothing sinks"]
    assert (sinks["tried"], sinks["value"]) == (False, None)
    modes = {stat.S_IMODE(Path(file).stat().st_mode) for file in told["files"]}
    assert len(told["files"]) >= 3
    assert modes == {0o644}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755
    assert "not tried" in printed(building._shown(told))


def test_check_opens_the_files_of_worlds_and_tells_all_that_is_wrong_with_them(tmp_path):
    (tmp_path / "yard.xml").write_text(mjcf(FLOOR + BOX))
    (tmp_path / "hall.usda").write_text("#usda 1.0\n")
    (tmp_path / "mine.yaml").write_text(MINE)
    found = run("check", tmp_path / "mine.yaml", "--json")
    assert found.exit_code == 2
    wheres = {fault["where"]: fault["what"] for fault in json.loads(found.stdout)["errors"]}
    assert wheres == {
        "worlds.hall.file: hall.usda, /": "the file has no units",
        "workloads.frames.cameras": "there are no 2 cameras",
    }
    right = MINE.replace(", hall: {file: hall.usda}", "").replace(", cameras: 2", "")
    (tmp_path / "mine.yaml").write_text(right)
    assert "1 world opened, no fault" in run("check", tmp_path / "mine.yaml").output
    assert "opened" not in run("check", "warehouse").output


@pytest.mark.parametrize(
    ("layers", "what", "where"),
    [
        ("references = @a/none.usda@", "layer is missing: 'a/", "hall.usda, /World/Robot"),
        ("references = @broken.usda@", "cannot be read as USD", "broken.usda:3"),
        ("payload = @../out.usda@", "leads out of the world's folder", "hall.usda, /World/Robot"),
    ],
)  # fmt: skip
def test_a_refused_layer_is_named_with_the_prim_that_wants_it(tmp_path, layers, what, where):
    folder = tmp_path / "world"
    folder.mkdir()
    (folder / "broken.usda").write_text('#usda 1.0\n( metersPerUnit = 1 )\ndef Xform "A" { oops')
    hall = '#usda 1.0\n( metersPerUnit = 1 )\ndef Xform "World" {\n def Xform "Robot" (\n  '
    (folder / "hall.usda").write_text(f"{hall}{layers}\n ) {{\n }}\n}}\n")
    with pytest.raises(WorldRefused) as refused:
        usd_check.opened(folder / "hall.usda")
    assert what in refused.value.what
    assert refused.value.where == where


def test_what_is_wrong_with_a_submitted_job_is_told_of_its_file(tmp_path):
    file = tmp_path / "again.yaml"
    file.write_text("kind: rollout\n")
    assert running._offer(file) == {"name": "again", "work": {"kind": "rollout"}}
    fault = Fault("no such world", "the job, workloads.again.world", "none", "look")
    for where, told in (
        ("the job, workloads.again.world", f"{file}, world"),
        ("the job:1, work.policy", f"{file}, policy"),
        ("the job, workloads.again", str(file)),
        ("name", f"{file}, name"),
        ("http://mill", "http://mill"),
    ):
        with pytest.raises(Refused) as refused, running._in_file(file):
            raise Refused(Fault(**asdict(fault) | {"where": where}))
        assert refused.value.faults[0].where == told
    for text, why in (("", "it is empty"), ("- a", "it is a list"), ("7", "it is one value")):
        file.write_text(text)
        with pytest.raises(Refused) as refused:
            running._offer(file)
        assert refused.value.faults[0].why.startswith(why)
    file.write_text("name: [a]\nkind: rollout\n")
    with pytest.raises(Refused, match="name cannot be read"):
        running._offer(file)
