"""A user's own command: what it is told, what it may take, and that it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gigafactory.blueprint.load import parse
from gigafactory.blueprint.schema import JobSpec
from gigafactory.faults import Refused
from gigafactory.jobs import script
from gigafactory.jobs.context import PROGRESS, STOP, Context, StopJob, step_folder
from gigafactory.plan import make
from gigafactory.plan.measured import Measured, Observation

LIMITS = {"memory_bytes": 4e9, "open_files": 256, "cpu_s": None, "processes": 512}
MILL = """\
gigafactory: 1
name: mill
start: 2026-11-23
owner: FR
sites: {home: {country: FR, power: 100 W, systems: {this-machine: 1}}}
tenants: {lab: {}}
workloads:
  count: {kind: script, tenant: lab, command: [python3, count.py], expects: 10 min%s}
"""


def of(tmp_path, code, time_s=20.0, limits=LIMITS, **more):
    """A context whose command runs `code`."""
    work = {
        "name": "count",
        "kind": "script",
        "command": [sys.executable, "-S", "main.py", str(tmp_path)],
        "files": {"main.py": code},
        "time_s": time_s,
        "limits": {**LIMITS, **limits},
    }
    return Context.alone(tmp_path, work, **more)


def log(context):
    return (context.folder / "log.txt").read_text()


def progress(context):
    return [json.loads(line) for line in (context.folder / PROGRESS).read_text().splitlines()]


def is_gone(pid):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie":
            return True
        time.sleep(0.05)
    return False


def test_what_it_leaves_in_its_output_is_its_artifact_and_what_it_reports_its_figures(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    (made / "numbers").write_text("1 2 3")
    code = """
import json, os
total = sum(map(int, open("inputs/before/numbers").read().split()))
open(os.environ["GIGAFACTORY_OUTPUT"] + "/total", "w").write(str(total))
with open(os.environ["GIGAFACTORY_PROGRESS"], "a") as told:
    for loss in (3.5, 0.5):
        told.write(json.dumps({"loss": loss}) + "\\n")
print("counted")
"""
    context = of(tmp_path, code, inputs={"before": made})
    results = script.run(context)
    assert results["figures"] == {"loss": 0.5}
    assert (results["output_files"], results["output_bytes"]) == (1, 1)
    assert (context.output / "total").read_text() == "6"
    assert log(context) == "counted\n"
    assert [line["loss"] for line in progress(context) if "loss" in line] == [3.5, 0.5]


def test_it_is_told_nothing_of_the_factorys_own(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/secret")
    monkeypatch.setenv("GIGAFACTORY_HOME", "/home/of/the/factory")
    context = of(tmp_path, "import os, json; print(json.dumps(dict(os.environ)))", chips=2)
    script.run(context)
    told = json.loads(log(context))
    assert "RAY_AUTH_TOKEN_PATH" not in told
    assert "GIGAFACTORY_HOME" not in told
    assert told["HOME"] == str(context.folder / "work")
    assert told["GIGAFACTORY_CHIPS"] == "2"
    assert "GIGAFACTORY_RESUME" not in told


def test_a_failure_tells_its_code_and_the_last_lines_of_its_log(tmp_path):
    with pytest.raises(script.ScriptFailed) as failure:
        script.run(of(tmp_path, "import sys; print('no flour'); sys.exit(3)"))
    assert failure.value.what == "the command failed: it ended with code 3"
    assert failure.value.why == "no flour"
    assert failure.value.where.endswith("log.txt")


def test_a_command_that_is_not_there_fails_as_a_shell_would_say(tmp_path):
    context = of(tmp_path, "")
    context.work["command"] = ["no-such-command"]
    with pytest.raises(script.ScriptFailed, match="ended with code 127: no-such-command: No such"):
        script.run(context)


ENDLESS = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def test_after_its_time_its_whole_session_is_ended_also_what_ignores_the_asking(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(script, "GRACE_S", 0.2)
    context = of(tmp_path, ENDLESS, time_s=0.5)
    with pytest.raises(script.ScriptFailed, match=r"longer than its time, 0.5 s"):
        script.run(context)
    assert all(is_gone(int(pid)) for pid in log(context).split())


def test_what_it_left_running_ends_with_it(tmp_path):
    context = of(tmp_path, ENDLESS.removesuffix("time.sleep(600)\n"))
    script.run(context)
    assert all(is_gone(int(pid)) for pid in log(context).split())


def test_where_its_watcher_is_killed_the_command_dies_too(tmp_path):
    context = of(tmp_path, ENDLESS.replace("child =", "child = None #").replace("child.pid", "0"))
    watcher = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, json; from pathlib import Path; from gigafactory.jobs import script;"
            "from gigafactory.jobs.context import Context;"
            "script.run(Context.alone(Path(sys.argv[1]), json.loads(sys.argv[2])))",
            str(tmp_path),
            json.dumps(context.work),
        ]
    )
    while not (context.folder / "log.txt").exists() or not log(context).strip():
        time.sleep(0.05)
    watcher.send_signal(signal.SIGKILL)
    watcher.wait()
    assert is_gone(int(log(context).split()[0]))


COUNTING = """
import json, os, signal, sys, time
last = os.environ.get("GIGAFACTORY_RESUME")
count = int(open(last + "/count").read()) if last else 0
stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
while count < 60:
    count += 1
    if count % 5 == 0 or stopping:
        folder = f"{os.environ['GIGAFACTORY_CHECKPOINTS']}/{count}"
        os.mkdir(folder)
        open(folder + "/count", "w").write(str(count))
        with open(os.environ["GIGAFACTORY_PROGRESS"], "a") as told:
            told.write(json.dumps({"checkpoint": count}) + "\\n")
    if stopping:
        sys.exit(1)
    time.sleep(0.03)
open(os.environ["GIGAFACTORY_OUTPUT"] + "/count", "w").write(str(count))
print("from", int(open(last + "/count").read()) if last else 0)
"""


def test_asked_to_stop_it_may_leave_a_checkpoint_and_goes_on_from_it(tmp_path):
    context = of(tmp_path, COUNTING)

    class Impatient(Context):
        def check(self):
            if (self.checkpoints / step_folder(5)).exists():
                (self.folder / STOP).touch()
            super().check()

    with pytest.raises(StopJob):
        script.run(Impatient(**vars(context)))
    left = max(line.get("checkpoint", 0) for line in progress(context))
    assert 5 <= left < 60
    (context.folder / STOP).unlink()
    kept = tmp_path / "kept"
    (context.checkpoints / step_folder(left)).rename(kept)
    again = of(tmp_path / "again", COUNTING, resume_from=kept)
    script.run(again)
    assert (again.output / "count").read_text() == "60"
    assert log(again) == f"from {left}\n"


def test_its_limits_hold_for_memory_files_and_processor_time(tmp_path):
    small = {"memory_bytes": 200e6, "open_files": 40, "cpu_s": 1.0, "processes": 7}
    code = """
import resource, sys
try:
    bytearray(400_000_000)
    print("much memory")
except MemoryError:
    pass
try:
    files = [open("/dev/null") for _ in range(60)]
    print("many files")
except OSError:
    pass
files = None
assert resource.getrlimit(resource.RLIMIT_NPROC)[0] >= 7
while True:
    pass
"""
    context = of(tmp_path, code, limits=small)
    with pytest.raises(script.ScriptFailed, match="by SIGXCPU, at its limit of 1 s of processor"):
        script.run(context)
    assert log(context) == ""


SPIN = "while True: pass"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (f"import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\n{SPIN}",
         "by SIGKILL, at its limit of 1 s of processor time"),
        ("import os; os.execv('/bin/sh', ['sh', '-c', 'sh -c \"while :; do :; done\"; exit $?'])",
         "code 152, at its limit of 1 s of processor time"),
        ("bytearray(400_000_000)", "code 1 (its limit of memory is 200 MB)"),
        ("import os; os.kill(os.getpid(), 9)", "by SIGKILL (its limit of memory is 200 MB)"),
        ("raise SystemExit(2)", "it ended with code 2"),
    ],
)  # fmt: skip
def test_a_failure_names_the_limit_that_it_likely_came_to(tmp_path, code, words):
    small = {"memory_bytes": 200e6, "cpu_s": 1.0}
    with pytest.raises(script.ScriptFailed) as failure:
        script.run(of(tmp_path, code, limits=small))
    assert failure.value.what.removeprefix("the command failed: ").endswith(words)


def test_it_cannot_speak_in_the_factorys_name(tmp_path):
    code = """
import os
with open(os.environ["GIGAFACTORY_PROGRESS"], "a") as told:
    told.write('{"ready": true, "endpoint": "http://evil", "phase": "save", "unix_s": 0}\\n')
    told.write('{"checkpoint": 7}\\n{"checkpoint": "7"}\\n[1]\\nno json\\n{"deep": {"a": 1}}\\n')
    told.write('{"long": "' + "x" * 100_000 + '"}\\n{"loss": 1.5}\\n{"half": ')
"""
    context = of(tmp_path, code)
    assert script.run(context)["figures"] == {"loss": 1.5}
    ours = [set(line) - {"unix_s"} for line in progress(context)]
    assert ours == [{"phase"}, {"phase"}, {"loss"}]


def test_an_artifact_holds_no_link_that_leads_out_of_it(tmp_path):
    code = """
import os
os.chdir(os.environ["GIGAFACTORY_OUTPUT"])
open("real", "w").close()
os.symlink("real", "inside")
os.symlink("/etc/passwd", "{}")
"""
    with pytest.raises(script.ScriptFailed, match="users in its output is a link that leads out"):
        script.run(of(tmp_path, code.format("users")))


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "inputs/x", ""])
def test_its_files_lie_in_its_own_folder(name):
    with pytest.raises(Refused):
        parse(MILL % f", files: {{'{name}': text}}", Path("mill.yaml"))


def test_its_first_quote_is_its_owners_word_and_the_next_what_it_took():
    blueprint = parse(MILL % "", Path("mill.yaml"))
    (job,) = make(blueprint).jobs
    duration = job.quote.duration_s
    assert (duration.value, duration.basis) == (600, "assumed")
    assert duration.high / duration.low == pytest.approx(9)
    took = Observation(
        shape=job.quote.shape, size=1.0, overhead_s=1.0, work_s=39.0, tokens=0.0,
        power_w=10.0, energy_basis="modelled",
    )  # fmt: skip
    longer = parse(MILL % ", time: 2 h", Path("mill.yaml"))
    (again,) = make(longer, Measured(observations=[took])).jobs
    assert (again.quote.duration_s.value, again.quote.duration_s.basis) == (40, "measured")
    assert again.quote.tokens.value == 0


def test_it_has_no_model_and_survives_the_ledger():
    (job,) = make(parse(MILL % ", limits: {memory: 1 GB, cpu: 1 min}", Path("mill.yaml"))).jobs
    assert job.spec.model is None
    said = json.loads(json.dumps(job.submission()["spec"]))
    again = JobSpec.model_validate(said)
    assert again == job.spec
    assert (again.work.limits.memory_bytes, again.work.limits.cpu_s) == (1e9, 60)


def test_one_process_is_not_put_on_two_nodes():
    two = MILL.replace("this-machine: 1", "this-machine: 2")
    with pytest.raises(Refused) as refused:
        make(parse(two % ", chips: 3", Path("mill.yaml")))
    assert "one process cannot span nodes" in refused.value.faults[0].why


def test_the_factorys_own_user_environment_is_untouched(tmp_path):
    before = dict(os.environ)
    script.run(of(tmp_path, "import os; os.environ.clear()"))
    assert dict(os.environ) == before
