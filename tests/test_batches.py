"""Promises about batches: OpenAI's own client works, each line is answered and billed once."""

import asyncio
import errno
import json
import math
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from gigafactory.blueprint.load import parse
from gigafactory.ledger import store
from gigafactory.works.budgets import Budgets
from gigafactory.works.gateway import Gateway, batches, disputes, files
from gigafactory.works.gateway.batches import UNDER_WAY_MAX, Batches
from gigafactory.works.house import House
from tests.gateway_house import (
    HELLO,
    INPUT,
    OUTPUT,
    RUN,
    Engine,
    Rates,
    Services,
    Whole,
    listening,
    replica,
    until,
)

CHAT = "/v1/chat/completions"
PRICE = 7 * INPUT + 3 * OUTPUT
BLUEPRINT = """\
gigafactory: 1
name: mill
start: 2026-11-23
owner: FR
sites:
  home: {country: FR, power: 100 kW, systems: {h100-8: 2}}
tenants:
  mill: {}
  bank: {}
models:
  tiny: {config: qwen3-moe-tiny}
workloads:
  train: {kind: pretrain, tenant: mill, model: tiny, tokens: 1 k tokens}
"""


class Counting(Services):
    """Remembers how many were under way at most."""

    most = 0

    def used(self, job, under_way=0):
        super().used(job, under_way)
        self.most = max(self.most, self.under_way[job])


class Mill:
    """One life of a works with batches: what died before it is taken up."""

    def __init__(self, home, engine_url, cache=1 << 20):
        self.home, self.path, self.late_s = home, home / "ledger.sqlite", 0.0
        self.ledger = store.Ledger(self.path)
        self.ledger.append(RUN, *disputes(self.path, RUN)).result()
        self.house = House(self.ledger, self.path, parse(BLUEPRINT, Path("mill.yaml")))
        self.key = self.house.local("mill")
        self.services = Counting()
        self.services.serve("chat", replica(engine_url, cache=cache, engine="vllm"))
        self.gateway = Gateway(
            self.ledger, RUN, lambda: 5.0, self.services, self.house, Budgets(time.time), Rates()
        )
        self.batches = Batches(
            self.gateway, self.ledger, self.path, RUN, lambda: 5.0, home / "files",
            lambda: time.time() + self.late_s,
        )  # fmt: skip

    async def close(self):
        await self.batches.aclose()
        await self.gateway.aclose()

    def client(self, key=None):
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0, timeout=20
        )

    def post(self, path, **more):
        return httpx.post(
            self.url + path, headers={"authorization": f"Bearer {self.key}"}, timeout=20, **more
        )

    def settled(self):
        rows = store.read(self.path, RUN, kinds=["RequestSettled"])
        return [(row.subject, row.body) for row in rows]


@contextmanager
def opened(home, engine, **more):
    """A works that listens, with an engine that does as the story needs."""

    @asynccontextmanager
    async def lifespan(app):
        await mill.batches.open()
        yield
        await mill.close()

    with listening(engine.app) as url:
        mill = Mill(home, url, **more)
        app = Starlette(routes=[Mount("/", app=Whole(mill.gateway))], lifespan=lifespan)
        with listening(app) as mill.url:
            yield mill
        mill.ledger.close()


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def mill(tmp_path, engine):
    with opened(tmp_path, engine) as mill:
        yield mill


def line(number, url=CHAT, **more):
    body = {"model": "chat", "messages": HELLO} | more
    return {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": body}


def jsonl(lines):
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def started(client, lines, url=CHAT, **more):
    content = lines if isinstance(lines, bytes) else jsonl(lines)
    file = client.files.create(file=("asked.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=url, completion_window="24h", **more
    )


def ended(client, batch, wait_s=120.0):
    end_s = time.monotonic() + wait_s
    while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < end_s, batch
        time.sleep(0.02)
        batch = client.batches.retrieve(batch.id)
    return batch


def content(client, file):
    said = client.files.content(file).text if file else ""
    return {one["custom_id"]: one for one in map(json.loads, said.splitlines())}


def test_the_official_client_runs_a_batch_from_upload_to_answers(mill, tmp_path):
    client = mill.client()
    lines = [line(number) for number in range(40)] + [line("bad", n=7, wat=1)]
    asked = tmp_path / "asked.jsonl"
    asked.write_bytes(jsonl(lines))
    with open(asked, "rb") as said:
        file = client.files.create(file=said, purpose="batch")
    assert (file.filename, file.bytes, file.purpose) == (
        "asked.jsonl",
        asked.stat().st_size,
        "batch",
    )
    batch = client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"for": "a test"}
    )
    assert (batch.status, batch.request_counts.total) == ("in_progress", 41)
    assert batch.expires_at - batch.created_at == 86400
    batch = ended(client, batch)
    assert (batch.status, batch.metadata) == ("completed", {"for": "a test"})
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (41, 40, 1)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    answers = content(client, batch.output_file_id)
    assert set(answers) == {f"line-{number}" for number in range(40)}
    first = answers["line-0"]["response"]
    assert first["status_code"] == 200
    assert first["body"]["model"] == "chat"
    assert first["body"]["usage"]["total_tokens"] == 10
    (wrong,) = content(client, batch.error_file_id).values()
    assert wrong["response"]["status_code"] == 400
    assert wrong["response"]["body"]["error"]["code"] == "unsupported_parameter"
    assert {name for name, _ in mill.settled()} == {f"{batch.id}:{n}" for n in range(1, 41)}
    assert sum(said["money_micro"] for _, said in mill.settled()) == 40 * PRICE
    assert 1 < mill.services.most <= UNDER_WAY_MAX
    kinds = [row.kind for row in store.read(mill.path, RUN, kinds=["BatchOpened", "BatchEnded"])]
    assert kinds == ["BatchOpened", "BatchEnded"]
    client.files.delete(batch.output_file_id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(batch.output_file_id)


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/completions", {"model": "chat", "prompt": "la"}),
        ("/v1/responses", {"model": "chat", "input": "la"}),
        ("/v1/embeddings", {"model": "chat", "input": ["la"]}),
    ],
)
def test_a_batch_asks_whatever_the_gateway_answers(mill, url, body):
    client = mill.client()
    said = {"custom_id": "one", "method": "POST", "url": url, "body": body}
    batch = ended(client, started(client, [said], url))
    (answer,) = content(client, batch.output_file_id).values()
    assert answer["response"]["body"]["usage"]
    assert batch.error_file_id is None


def test_a_file_with_faults_fails_as_a_whole_and_tells_them_by_line(mill, engine):
    client = mill.client()
    lines = [
        jsonl([line(1)]),
        b"not json\n",
        b"\n",
        jsonl([line(1)]),
        jsonl([line(2) | {"method": "GET"}]),
        jsonl([line(3, url="/v1/embeddings")]),
        jsonl([line(4) | {"body": "?"}]),
        jsonl([line(5, model="other")]),
        jsonl([line(6) | {"custom_id": 7}]),
    ]
    batch = started(client, b"".join(lines))
    assert batch.status == "failed"
    assert batch.failed_at
    assert batch.output_file_id is batch.error_file_id is None
    assert [(fault.line, fault.code) for fault in batch.errors.data] == [
        (2, "invalid_json_line"),
        (4, "duplicate_custom_id"),
        (5, "invalid_method"),
        (6, "mismatched_url"),
        (7, "missing_required_parameter"),
        (8, "model_not_found"),
        (9, "missing_required_parameter"),
    ]
    assert engine.asked == []
    assert started(client, b"\n \n").errors.data[0].code == "empty_file"
    long = started(client, jsonl([line(1, user="a" * (1 << 20)), line(2)]))
    assert [fault.code for fault in long.errors.data] == ["line_too_long"]


def test_a_wrong_wish_is_refused_at_once(mill):
    client = mill.client()
    batch = ended(client, started(client, [line(1)]))
    sound = {"input_file_id": batch.input_file_id, "endpoint": CHAT, "completion_window": "24h"}
    for wrong in (
        {"endpoint": "/v1/models"},
        {"completion_window": "1h"},
        {"metadata": {"a": 1}},
        {"metadata": {str(key): "" for key in range(17)}},
        {"input_file_id": batch.output_file_id},
        {"output_expires_after": {"anchor": "created_at", "seconds": 3600}},
    ):
        with pytest.raises(openai.BadRequestError):
            client.batches.create(**(sound | wrong))
    with pytest.raises(openai.NotFoundError):
        client.batches.create(**(sound | {"input_file_id": "../ledger.sqlite"}))
    with pytest.raises(openai.BadRequestError, match="completed already"):
        client.batches.cancel(batch.id)


def test_lists_come_in_pages_the_newest_first(mill):
    client = mill.client()
    made = [started(client, [line(1)]) for _ in range(5)]
    page = client.batches.list(limit=2)
    assert page.has_more
    assert [batch.id for batch in page] == [batch.id for batch in reversed(made)]
    for batch in made:
        ended(client, batch)
    inputs = [file.id for file in client.files.list(purpose="batch", order="asc", limit=2)]
    assert inputs == [batch.input_file_id for batch in made]
    assert len(list(client.files.list())) == 10
    with pytest.raises(openai.BadRequestError):
        client.batches.list(limit=101)
    with pytest.raises(openai.BadRequestError):
        client.batches.list(after="batch_unknown")


def test_what_is_another_tenants_does_not_exist(mill):
    grant = mill.house.who(mill.key)
    key, _ = asyncio.run(mill.house.make_key(grant, "bank", "bob", "member"))
    client, other = mill.client(), mill.client(key)
    batch = ended(client, started(client, [line(1)]))
    for ask in (
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
        lambda: other.files.retrieve(batch.input_file_id),
        lambda: other.files.content(batch.output_file_id),
        lambda: other.files.delete(batch.output_file_id),
        lambda: other.batches.create(
            input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"
        ),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    assert list(other.files.list()) == list(other.batches.list()) == []
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"
    reader, _ = asyncio.run(mill.house.make_key(grant, "mill", "eve", "viewer"))
    with pytest.raises(openai.PermissionDeniedError):
        mill.client(reader).files.list()


def test_a_file_lies_under_a_name_of_ours_for_its_owner_alone(mill):
    client = mill.client()
    name = "../../../" + "x" * 300
    file = client.files.create(file=(name, b"{}\n" * 100_000), purpose="batch")
    assert file.filename == name[:255]
    found = list((mill.home / "files").rglob("*"))
    assert {path.name for path in found} == {"mill", file.id, f"{file.id}.json"}
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in found)
    assert client.files.content(file.id).content == b"{}\n" * 100_000
    assert client.files.delete(file.id).deleted
    assert [path.name for path in (mill.home / "files").rglob("*")] == ["mill"]


def test_an_upload_that_is_too_large_or_no_form_leaves_nothing(mill, monkeypatch):
    monkeypatch.setattr(files, "FILE_BYTES_MAX", 1000)
    monkeypatch.setattr(files, "TENANT_BYTES_MAX", 3000)
    sound = {"files": {"file": ("a", b"x" * 900)}, "data": {"purpose": "batch"}}
    assert mill.post("/v1/files", **sound).status_code == 200
    kept = sorted((mill.home / "files").rglob("*"))
    for status, wrong in (
        (413, sound | {"files": {"file": ("a", b"x" * 1001)}}),
        (413, sound | {"files": {"file": ("a", b"x" * 100_000)}}),
        (400, sound | {"data": {"purpose": "fine-tune"}}),
        (400, sound | {"data": {}}),
        (400, {"data": {"purpose": "batch"}}),
        (400, sound | {"data": {"purpose": "batch", "expires_after[anchor]": "created_at"}}),
        (400, sound | {"files": [("file", ("a", b"1")), ("file", ("b", b"2"))]}),
        (400, {"json": {"purpose": "batch"}}),
        (400, {"content": b"--b\r\nnonsense", "more": "multipart/form-data; boundary=b"}),
        (400, {"content": b"", "more": "multipart/form-data; boundary=b"}),
    ):
        kind = wrong.pop("more", None)
        headers = {"authorization": f"Bearer {mill.key}"} | ({"content-type": kind} if kind else {})
        said = httpx.post(f"{mill.url}/v1/files", headers=headers, timeout=20, **wrong)
        assert said.status_code == status, (wrong, said.text)
        assert sorted((mill.home / "files").rglob("*")) == kept
    statuses = [mill.post("/v1/files", **sound).status_code for _ in range(4)]
    assert statuses[0] == 200
    assert statuses[-1] == 400  # the quota is full


def test_a_line_that_is_turned_away_is_asked_again_and_billed_once(mill, engine, monkeypatch):
    monkeypatch.setattr(batches, "RETRY_S_MAX", 0.05)
    client = mill.client()
    engine.fault = 503
    batch = started(client, [line(1)])
    until(lambda: len(engine.asked) > 3)
    engine.fault = None
    batch = ended(client, batch)
    assert batch.request_counts.completed == 1
    bills = mill.settled()
    assert [said["money_micro"] for _, said in bills if said["money_micro"]] == [PRICE]
    assert len({name for name, _ in bills}) == len(bills) > 3  # a bill counts a name once
    engine.fault = 500
    batch = ended(client, started(client, [line(1)]))
    assert (batch.status, batch.request_counts.failed) == ("completed", 1)
    assert batch.output_file_id is None


def test_who_is_limited_waits_and_no_line_is_lost(mill, monkeypatch):
    monkeypatch.setattr(batches, "RETRY_S_MAX", 0.05)
    grant = mill.house.who(mill.key)
    asyncio.run(mill.house.set_tenant(grant, "mill", {"requests_per_minute": 2400}))
    mill.gateway.limits.request("mill", mill.house.tenants["mill"], time.monotonic())
    mill.gateway.limits._requests["mill"].level = 5.0  # this minute's are nearly used up
    client = mill.client()
    batch = ended(client, started(client, [line(number) for number in range(20)]))
    assert batch.request_counts.completed == 20
    assert sum(said["money_micro"] for _, said in mill.settled()) == 20 * PRICE


def test_lines_wait_while_a_replica_is_half_full_of_live_requests(tmp_path, engine):
    with opened(tmp_path, engine, cache=2048) as mill:
        client = mill.client()
        engine.free = 0
        live = {"model": "chat", "messages": HELLO, "max_tokens": 500}
        with ThreadPoolExecutor() as people:
            asking = people.submit(client.chat.completions.create, **live)
            until(lambda: engine.asked)
            batch = started(client, [line(1, max_tokens=5)])
            time.sleep(0.2)
            assert len(engine.asked) == 1
            engine.free = math.inf
            asking.result()
        assert ended(client, batch).request_counts.completed == 1
        assert len(engine.asked) == 2


def test_a_cancelled_batch_keeps_what_was_answered_also_over_a_restart(tmp_path, engine):
    lines = [line(number) for number in range(60)]
    engine.free = 20
    with opened(tmp_path, engine) as mill:
        client = mill.client()
        batch = started(client, lines)
        until(lambda: client.batches.retrieve(batch.id).request_counts.completed > 0)
        until(lambda: mill.services.under_way["job-chat"] > 0)
        with pytest.raises(openai.BadRequestError, match="reads"):
            client.files.delete(batch.input_file_id)
        cancelled = client.batches.cancel(batch.id)
        assert cancelled.cancelling_at
        engine.free = math.inf
    with opened(tmp_path, engine) as mill:
        client = mill.client()
        batch = ended(client, client.batches.retrieve(batch.id))
        assert batch.status == "cancelled"
        assert batch.cancelling_at <= batch.cancelled_at
        answers = content(client, batch.output_file_id)
        assert 0 < len(answers) == batch.request_counts.completed < 60
        assert sum(said["money_micro"] for _, said in mill.settled()) == len(answers) * PRICE
        assert len(engine.asked) == len(answers)


def test_what_is_left_after_24_hours_is_told_as_expired(mill, engine):
    client = mill.client()
    engine.free = 20
    batch = started(client, [line(number) for number in range(60)])
    until(lambda: len(engine.asked) > 3)
    mill.late_s = 86400.0
    engine.free = math.inf
    batch = ended(client, batch)
    counts = batch.request_counts
    assert batch.status == "expired"
    assert batch.expired_at
    assert counts.completed + counts.failed == 60
    assert counts.completed > 3
    late = content(client, batch.error_file_id)
    assert {said["error"]["code"] for said in late.values()} == {"batch_expired"}
    assert not late.keys() & content(client, batch.output_file_id).keys()
    assert len(late) == counts.failed > 0


def test_a_revoked_key_asks_no_further_line(mill, engine):
    grant = mill.house.who(mill.key)
    key, made = asyncio.run(mill.house.make_key(grant, "mill", "ann", "member"))
    engine.free = 0
    batch = started(mill.client(key), [line(number) for number in range(60)])
    until(lambda: engine.asked)
    asyncio.run(mill.house.revoke(grant, made.id))
    engine.free = math.inf
    batch = ended(mill.client(), batch)
    assert batch.status == "cancelled"
    assert len(engine.asked) < 60


def test_an_answer_that_the_disk_does_not_take_is_not_billed_and_asked_again(
    mill, engine, monkeypatch
):
    monkeypatch.setattr(batches, "RETRY_S_MAX", 0.05)
    write, broken = os.write, []

    def half(handle, said):
        if bytes(said[:13]) == b'{"id":"batch_' and not broken:
            broken.append(write(handle, said[:20]))
            raise OSError(errno.ENOSPC, "no space left on device")
        return write(handle, said)

    monkeypatch.setattr(os, "write", half)
    client = mill.client()
    batch = ended(client, started(client, [line(number) for number in range(3)]))
    assert broken == [20]
    assert len(content(client, batch.output_file_id)) == 3
    assert sum(said["money_micro"] for _, said in mill.settled()) == 3 * PRICE
    assert len(engine.asked) > 3


LINES = 32
CHILD = """
import asyncio, importlib, os, sys, time
from pathlib import Path
from gigafactory import failpoint
from tests.test_batches import life
for order in sys.stdin:
    home, url, point, kill_s = order.split()
    child = os.fork()
    if not child:
        os.environ["GIGAFACTORY_FAILPOINT"] = "" if point == "-" else point
        importlib.reload(failpoint)
        asyncio.run(life(Path(home), url))
        os._exit(0)
    if float(kill_s):
        time.sleep(float(kill_s))
        os.kill(child, 9)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


async def life(home, url):
    """A works that takes up what is there, or begins a batch, and goes on until it has ended."""
    mill = Mill(home, url)
    await mill.batches.open()
    grant = mill.house.who(mill.key)
    kept = mill.batches.files
    if not mill.batches._batches:
        path = kept.path("mill", "file-asked")
        path.write_bytes(jsonl([line(number) for number in range(LINES)]))
        kept._add(kept.publish("mill", "file-asked", "asked.jsonl", "batch"))
        said = {"input_file_id": "file-asked", "endpoint": CHAT, "completion_window": "24h"}
        await mill.batches._create(grant, said)
    while any(batch.ended is None for batch in mill.batches._batches.values()):
        await asyncio.sleep(0.005)
    await mill.close()
    mill.ledger.close()


@pytest.fixture(scope="module")
def live():
    """Lives of a works, each a real process that may really be killed; the exit status of one."""
    command = [sys.executable, "-c", CHILD]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )

    def live(home, url, point="-", kill_s=0.0):
        child.stdin.write(f"{home} {url} {point} {kill_s}\n")
        child.stdin.flush()
        return int(child.stdout.readline())

    yield live
    child.stdin.close()
    child.wait(60)


def judge(home, engine, deaths):
    """What holds after the last life, however many there were."""
    rows = list(store.read(home / "ledger.sqlite", RUN))
    ends = [row.body for row in rows if row.kind == "BatchEnded"]
    assert [(end["outcome"], end["answered"], end["failed"]) for end in ends] == [
        ("completed", LINES, 0)
    ]
    output = (home / "files" / "mill" / ends[0]["output"]).read_bytes()
    answered = [json.loads(said)["custom_id"] for said in output.splitlines()]
    assert sorted(answered) == sorted(f"line-{number}" for number in range(LINES))
    told, bills = Counter(), Counter()
    for row in rows:
        if row.kind == "RequestSettled":
            told[row.subject] += 1
            number = int(row.subject.split(":")[1])
            bills[number] += row.body["money_micro"]
        elif row.kind == "RequestDisputed":
            told[row.subject] += 1
    assert set(told.values()) == {1}  # a name is settled or disputed, and once
    assert set(bills.values()) == {PRICE}
    disputed = sum(row.kind == "RequestDisputed" for row in rows)
    assert LINES - len(bills) <= disputed <= UNDER_WAY_MAX * deaths
    assert LINES <= len(engine.asked) <= LINES + UNDER_WAY_MAX * deaths
    left = {path.name for path in (home / "files" / "mill").iterdir()}
    wanted = {"file-asked", "file-asked.json", ends[0]["output"], ends[0]["output"] + ".json"}
    assert left == wanted


def test_kill_9_at_any_failpoint_loses_no_line_and_bills_none_twice(tmp_path, live):
    for point in (
        "batch.before_line:20", "batch.line_written", "batch.line_written:20",
        "gateway.reserved:20", "gateway.before_settle:20", "gateway.settled:20",
        "batch.before_end", "batch.ended", "files.before_entry:2",
    ):  # fmt: skip
        engine, home = Engine(), tmp_path / point
        home.mkdir()
        with listening(engine.app) as url:
            assert live(home, url, point) == -signal.SIGKILL, point
            assert live(home, url) == 0, point
        judge(home, engine, 1)


def test_kill_9_at_random_times_loses_no_line_and_bills_none_twice(tmp_path, live):
    times, engine, deaths = random.Random(7), Engine(), 0
    engine.pause_s = 0.02
    engine.free = LINES - 1  # the first life does not come to the end
    with listening(engine.app) as url:
        # Each life may last longer than the one before, so one comes to the end.
        while live(tmp_path, url, kill_s=times.uniform(0.03, 0.1 * 1.15**deaths)) != 0:
            deaths += 1
            engine.free = math.inf
    judge(tmp_path, engine, deaths)


def test_half_a_line_that_a_crash_left_is_cut_off(tmp_path):
    path = tmp_path / "output"
    whole = b'{"id":"batch_1:3","custom_id":"a"}\n'
    path.write_bytes(whole + b'{"id":"batch_1:4","cus')
    output = batches._Output(path)
    output.close()
    assert output.lines == {3}
    assert path.read_bytes() == whole
    path.write_bytes(whole + b"\0" * 100 + b"\n")  # a power cut may leave this
    output = batches._Output(path)
    output.close()
    assert path.read_bytes() == whole
