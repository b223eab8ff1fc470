"""What docs/safety.md claims and no other test holds against it."""

import ast
import json
import logging
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

import gigafactory
from gigafactory.blueprint.load import parse
from gigafactory.blueprint.schema import Tenant
from gigafactory.faults import Refused
from gigafactory.jobs import confined
from gigafactory.plan import make
from gigafactory.works import walls
from gigafactory.works.api import bind, url_of
from tests.gateway_house import INPUT, OUTPUT, open_house
from tests.test_script import MILL

CANARY = "canary-7f3a-never-to-be-kept"
SOURCE = Path(gigafactory.__file__).parent


def holding(folder, text):
    return [file for file in folder.rglob("*") if file.is_file() and text in file.read_bytes()]


def asked(house, stream, fault=None):
    house.engine.fault = fault
    return house.chat(
        messages=[
            {"role": "system", "content": f"be kind, {CANARY}"},
            {"role": "user", "content": CANARY},
        ],
        stream=stream,
        user=CANARY,
        metadata={"note": CANARY},
    )


def test_a_prompt_is_in_no_file_no_log_and_no_metric_unless_its_tenant_asks_for_it(
    tmp_path, caplog
):
    caplog.set_level(logging.DEBUG)
    with open_house(tmp_path) as house:
        for stream in (False, True):
            assert asked(house, stream).status_code == 200
            assert asked(house, stream, fault=500).status_code >= 500
            assert asked(house, stream, fault=400).status_code == 400
        house.engine.fault, house.engine.dies_after = None, 1
        asked(house, True)
        house.rows(14)
        house.ledger.close()
        assert CANARY in json.dumps(house.engine.asked)  # so it was asked
        from prometheus_client import generate_latest

        assert CANARY.encode() not in generate_latest(house.gateway.metrics.registry)
        assert holding(tmp_path, CANARY.encode()) == []
        assert CANARY not in caplog.text


def test_a_tenant_that_keeps_prompts_has_its_own_and_only_its_owner_reads_the_file(tmp_path):
    with open_house(tmp_path) as house:
        house.doors.tenants["mill"] = Tenant(keep_prompts=True)
        asked(house, False)
        assert house.chat(key="gf-bank").status_code == 200
        house.rows(4)
    (kept,) = holding(tmp_path, CANARY.encode())
    assert kept == tmp_path / "prompts/mill.jsonl"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in (tmp_path / "prompts").iterdir()] == ["mill.jsonl"]


@pytest.mark.parametrize(("prompt", "completion"), [(10**9, 3), (7, 10**9), (10**9, 10**9)])
@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_lies_about_its_usage_bills_no_more_than_was_reserved(
    tmp_path, prompt, completion, stream
):
    with open_house(tmp_path) as house:
        total = prompt + completion
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
        house.engine.usage = lambda: usage
        house.chat(max_tokens=5, stream=stream)
        reserved, settled = (row.body for row in house.rows(2))
    billed = settled["prompt_tokens"] + settled["completion_tokens"]
    assert billed <= reserved["tokens_max"]
    assert settled["completion_tokens"] <= 5
    assert 0 < settled["money_micro"] <= reserved["money_micro_max"]
    assert settled["money_micro"] <= INPUT * billed + OUTPUT * 5


def test_nothing_of_ours_runs_code_that_comes_with_a_model_or_reads_a_pickle():
    calls = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not {one.name.split(".")[0] for one in node.names} & calls, file
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in calls, file
            elif isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("eval", "exec", "torch.load"), (file, node.lineno)
                assert not [
                    one
                    for one in node.keywords
                    if one.arg in ("trust_remote_code", "shell")
                    and ast.unparse(one.value) != "False"
                ], (file, node.lineno)
        text = file.read_text(encoding="utf-8")
        assert "--trust-remote-code" not in text, file
        assert '"trust_remote_code": True' not in text, file


def test_it_listens_on_the_loopback_unless_told_an_address(monkeypatch):
    for said, url in (
        (None, "http://127.0.0.1:"),
        ("", "http://127.0.0.1:"),
        ("0.0.0.0", "http://127.0.0.1:"),
        ("127.0.0.2", "http://127.0.0.2:"),
    ):
        monkeypatch.delenv("GIGAFACTORY_HOST", raising=False)
        if said is not None:
            monkeypatch.setenv("GIGAFACTORY_HOST", said)
        with bind(0) as listening:
            assert listening.getsockname()[0] == (said or "127.0.0.1")
            assert url_of(listening).startswith(url)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_address_of_ipv6_is_written_as_urls_have_it(monkeypatch):
    monkeypatch.setenv("GIGAFACTORY_HOST", "::1")
    with bind(0) as listening:
        assert url_of(listening) == f"http://[::1]:{listening.getsockname()[1]}"


@pytest.mark.parametrize("said", ["localhost", "all", "127.0.0.1:80", "0", "127.1", "*"])
def test_what_is_no_address_is_refused_before_anything_listens(monkeypatch, said):
    monkeypatch.setenv("GIGAFACTORY_HOST", said)
    with pytest.raises(Refused) as refused:
        bind(0)
    assert refused.value.faults[0].where == "GIGAFACTORY_HOST"


TWO = "tenants: {lab: {}, rival: {}}"


def works(text):
    """What is asked of a works about its walls."""
    plan = make(parse(text, Path("mill.yaml")))
    return SimpleNamespace(plan=plan, tenants=plan.blueprint["tenants"])


def test_where_walls_are_missing_commands_of_several_tenants_are_refused(monkeypatch):
    mill = MILL % ""
    shared = mill.replace("tenants: {lab: {}}", TWO)
    opened = shared + "access: {scripts: open, ports: [443]}\n"
    several = works(shared)
    assert walls.of_scripts(several) == {"walled": True, "ports": []}
    monkeypatch.setattr(confined, "lacks", lambda: ())
    assert walls.refusal(several, several.plan.jobs[0]) is None
    monkeypatch.setattr(confined, "lacks", lambda: ("Landlock: all is open",))
    fault = walls.refusal(several, several.plan.jobs[0])
    assert "Landlock" in fault.why
    assert "scripts: open" in fault.remedy
    for one in (works(mill), works(opened)):
        assert walls.refusal(one, one.plan.jobs[0]) is None
        assert walls.of_scripts(one)["walled"] is False
    assert walls.of_scripts(works(opened))["ports"] == [443]
