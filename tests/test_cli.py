"""The door: help that teaches, JSON everywhere, one clear error and exit code 2."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.testing

from gigafactory import cli
from gigafactory.contracts import CONTRACTS
from gigafactory.works.home import Home

COMMANDS = sorted(command.callback.__name__ for command in cli.app.registered_commands)
GROUPED = sorted(
    f"{group.name} {command.name}"
    for group in cli.app.registered_groups
    for command in group.typer_instance.registered_commands
)
ROOT = Path(__file__).parents[1]
runner = typer.testing.CliRunner()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GIGAFACTORY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(*words, code=0):
    result = runner.invoke(cli.app, list(words))
    assert result.exit_code == code, result.output
    return result


def refusal(*words):
    """The one fault, in its four parts, that a command ends with."""
    result = run(*words, "--json", code=2)
    (fault,) = json.loads(result.stdout)["errors"]
    assert set(fault) == {"what", "where", "why", "remedy"}
    return fault


def test_importing_gigafactory_is_fast_and_light():
    program = "import sys, gigafactory.cli; print([m for m in ('torch','ray','duckdb','plotly','transformers') if m in sys.modules])"  # noqa: E501
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS + GROUPED)
def test_every_command_has_help_with_an_example(command):
    assert f"gigafactory {command}" in run(*command.split(), "--help").output


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(page):
    """The command lines in a page's blocks of shell: words after `gigafactory`."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("gigafactory "):
                words = shlex.split(line, comments=True)[1:]
                while "|" in words:  # `jobs | logs JOB`: one line for several
                    yield words[: words.index("|")]
                    words = words[words.index("|") + 1 :]
                yield words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_manual_shows_only_commands_and_options_that_there_are(page):
    for words in commands_of(page):
        command, rest = typer.main.get_command(cli.app), words
        while rest and (inner := getattr(command, "commands", {}).get(rest[0])):
            command, rest = inner, rest[1:]
        assert not hasattr(command, "commands"), f"no such command: {words}"
        try:
            command.make_context(words[0], list(rest))
        except Exception as error:
            pytest.fail(f"gigafactory {shlex.join(words)}: {error}")


def test_the_commands_are_those_of_the_manual():
    assert (
        sorted(
            [
                "check",
                "plan",
                "simulate",
                "up",
                "submit",
                "jobs",
                "watch",
                "logs",
                "cancel",
                "artifacts",
                "events",
                "nodes",
                "drain",
                "tenants",
                "users",
                "budgets",
                "bill",
                "audit",
                "report",
                "calibrate",
                "predict",
                "score",
                "law",
                "site",
                "sites",
                "pue",
                "bringup",
                "cost",
                "invest",
                "whatif",
                "accept",
                "schema",
                "failures",
                "trace",
                "replay",
                "world",
            ]
        )
        == COMMANDS
    )


def test_the_grouped_commands_are_those_of_the_manual():
    assert GROUPED == [
        "estimate serve",
        "estimate train",
        "keys list",
        "keys make",
        "keys revoke",
        "render kubernetes",
        "search serving",
        "search training",
    ]


def test_a_model_is_planned_by_any_name_that_has_a_config():
    name = "models.mini-moe.config"
    assert json.loads(run("plan", "h100-8", "--set", f"{name}=llama3-8b", "--json").stdout)["jobs"]
    assert "mini-moe" in refusal("plan", "h100-8", "--set", f"{name}=gpt3-175b")["what"]


def test_check_says_that_a_good_blueprint_is_good():
    assert json.loads(run("check", "laptop", "--json").stdout)["ok"]


@pytest.mark.parametrize("command", ["plan", "simulate"])
def test_plan_and_simulate_answer_for_every_job(command):
    for name in ("laptop", "h100-8"):
        shown = run(command, name).output
        answer = json.loads(run(command, name, "--json").stdout)
        jobs = [job.get("name") or job["spec"]["name"] for job in answer["jobs"]]
        assert len(jobs) == 5
        assert "assistant" in jobs
        assert "assistant" in shown


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_every_contract_has_a_schema(name):
    assert json.loads(run("schema", name).stdout)


def test_the_example_of_the_schema_command_is_a_good_blueprint(tmp_path):
    (tmp_path / "mine.yaml").write_text(run("schema", "example").stdout)
    run("check", str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("check", "labtop"), "no blueprint"),
        (("plan", "laptop", "--set", "sites.home.power=1 parsec"), "power"),
        (("plan", "laptop", "--set", "workloads.code-model.chips=99"), "fits nowhere"),
        (("up", "laptop", "--set", "sites.hme.power=1W"), "leads nowhere"),
        (("jobs",), "nothing has run"),
        (("bill",), "nothing has run"),
        (("report",), "nothing has run"),
        (("logs", "code-model"), "nothing has run"),
        (("events",), "nothing has run"),
        (("bill", "--month", "2026-11"), "nothing has run"),
        (("cancel", "code-model"), "no factory runs"),
        (("keys", "list"), "no factory runs"),
        (("submit", "nothing.yaml"), "cannot be read"),
    ],
)
def test_what_cannot_be_done_ends_in_one_fault_and_code_2(words, what):
    assert what in refusal(*words)["what"]


def test_an_unknown_contract_is_refused_with_the_nearest():
    result = run("schema", "blueprnt", code=2)
    assert "blueprint" in result.stderr


def test_a_port_in_use_is_told_before_anything_starts(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        fault = refusal("up", "tiny", "--port", str(port))
    assert f"port {port}" in fault["what"]
    assert not (home / "ledger.db").exists()


def test_a_plan_for_chips_that_do_not_stand_here_is_not_run(home):
    fault = refusal("up", "h100-8", "--port", "0")
    assert "does not stand here" in fault["what"]
    assert not (home / "ledger.db").exists()


def test_a_home_that_cannot_be_written_is_told(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GIGAFACTORY_HOME", str(tmp_path / "file" / "home"))
    assert "nowhere to keep" in refusal("up", "tiny", "--port", "0")["what"]


def test_a_second_factory_in_the_same_home_is_refused(home):
    program = "from gigafactory.works.home import Home; Home.default().claim(); print(1, flush=True); import time; time.sleep(60)"  # noqa: E501
    first = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=os.environ
    )
    first.stdout.readline()
    try:
        assert "already runs" in refusal("up", "tiny", "--port", "0")["what"]
    finally:
        first.kill()
        first.wait()
    time.sleep(0)
    os.close(Home.default().claim())
