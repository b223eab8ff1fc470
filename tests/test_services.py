"""Promises of services: who is asked in which order, and how many replicas there are.

The engine is the stand-in of `test_works`; driver, core and ledger are the real ones.
"""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from gigafactory.blueprint.load import grow, parse
from gigafactory.blueprint.schema import Tenant
from gigafactory.faults import Refused
from gigafactory.jobs.context import RESULT
from gigafactory.ledger.store import Ledger, read
from gigafactory.plan import make
from gigafactory.works import services as services_module
from gigafactory.works.driver import Works
from gigafactory.works.gateway import Gateway
from gigafactory.works.home import Home
from gigafactory.works.house import Grant
from gigafactory.works.services import DRAIN_S, FAILED_S, PATIENCE_S, Services
from tests import test_works
from tests.test_blueprint import GOOD
from tests.test_works import Crash, Fuse, FusedLedger, Stage

SERVE = "serve: {kind: serve, tenant: lab, of: train, through: judge"
MILL = GOOD.replace("this-machine: 1", "h100-8: 1").replace("100 W", "100 kW")
ROUTED = (
    MILL
    + """\
  other: {kind: serve, tenant: lab, of: train, through: judge}
routes:
  chat: {weights: {serve: 3, other: 1}, fallback: [spare]}
  spare: {weights: {other: 1}}
"""
)
IDLE_S = 60.0


def mill(text=MILL, **keys):
    """The blueprint with a service of these keys."""
    more = "".join(f", {key}: {value}" for key, value in {"idle": "60 s", **keys}.items())
    return text.replace(SERVE, SERVE + more)


class Mortal(Fuse):
    """A fuse that knows that it burned: the dead do nothing more, whoever caught it."""

    dead = False

    def burn(self, before):
        try:
            super().burn(before)
        except Crash:
            self.dead = True
        self.check()

    def check(self):
        if self.dead:
            raise Crash


class Life:
    """A works with its services, whose time passes when told."""

    def __init__(self, home, ledger, text):
        self.plan = make(parse(text, Path("mill.yaml")))
        self.works = Works(home, self.plan, "mill-1", ledger)
        self.works.engine = Stage(iter(()))
        self.now_s = 0.0

    async def open(self):
        await self.works.open("")
        self.services = Services(self.works, lambda: self.now_s)
        await self.turns()
        return self

    async def turns(self, times=8):
        for _ in range(times):
            getattr(self.works.ledger, "_fuse", Mortal()).check()
            await self.works.turn()
            await self.services.turn()
            while not self.works.sequence._pump.done():
                await asyncio.sleep(0)

    async def later(self, seconds):
        self.now_s += seconds
        await self.turns()

    async def quiet(self):
        """Nobody asks for as long as it takes to let a replica go."""
        await self.later(IDLE_S + 1)
        await self.later(DRAIN_S + 1)

    def ready(self, name="serve"):
        route = self.services.route(name)
        return sorted(replica.job for replica in route.ready)

    def submitted(self):
        rows = read(self.works.home.ledger, "mill-1", kinds=["JobSubmitted"])
        return [row.subject for row in rows if row.body["kind"] == "serve"]


def lived(tmp_path, text, story):
    """Open a works, let the story happen, close the ledger."""

    async def whole():
        life = await Life(Home(tmp_path), ledger, text).open()
        await story(life)
        return life

    ledger = Ledger(Home(tmp_path).ledger)
    try:
        return asyncio.run(whole())
    finally:
        ledger.close()


def test_a_name_that_nobody_gave_is_no_route_and_a_service_is_asked_by_its_own(tmp_path):
    async def story(life):
        assert life.services.names() == ["serve"]
        assert life.services.route("nonesuch") is None
        assert life.services.route("serve.2") is None
        (replica,) = life.services.route("serve").ready
        assert (replica.job, replica.url, replica.model) == ("serve", "http://127.0.0.1:9", "model")

    lived(tmp_path, mill(), story)


def test_the_key_of_an_engine_is_read_from_the_file_that_its_job_names(tmp_path):
    (tmp_path / "engine.key").write_text("secret")

    async def story(life):
        figures = {
            "endpoint": "http://127.0.0.1:9", "model": "model", "engine": "vllm",
            "lacks": ["embeddings"], "context_tokens": 256, "cache_tokens": 2048,
            "key_file": str(tmp_path / "engine.key"),
        }  # fmt: skip
        life.works.endpoints["serve"] = figures
        await life.turns()
        (replica,) = life.services.route("serve").ready
        assert replica.key == "secret"
        assert replica.lacks == {"embeddings"}
        assert (replica.engine, replica.seats) == ("vllm", 8)

    life = lived(tmp_path, mill(), story)
    assert "secret" not in str([row.body for row in read(life.works.home.ledger)])


def test_a_route_shares_its_requests_by_weight_without_bursts_and_without_chance(tmp_path):
    async def story(life):
        first = [life.services.route("chat").ready[0].job for _ in range(40)]
        assert Counter(first) == {"serve": 30, "other": 10}
        assert all(first[at : at + 4].count("other") == 1 for at in range(0, 40, 4))

    async def again(life):
        whole = [[r.job for r in life.services.route("chat").ready] for _ in range(8)]
        told.append(whole)
        assert all(sorted(order) == ["other", "serve"] for order in whole)

    told = []
    lived(tmp_path / "1", ROUTED, story)
    for at in "23":
        lived(tmp_path / at, ROUTED, again)
    assert told[0] == told[1]


def test_replicas_of_a_service_share_what_it_is_asked_evenly(tmp_path):
    async def story(life):
        assert life.ready() == ["serve", "serve.2", "serve.3"]
        first = Counter(life.services.route("serve").ready[0].job for _ in range(30))
        assert set(first.values()) == {10}

    lived(tmp_path, mill(replicas_min=3, replicas_max=3), story)


def test_a_replica_that_could_not_be_reached_is_asked_last_for_a_while(tmp_path):
    async def story(life):
        life.services.failed("serve")
        assert {r.job for r in life.services.route("chat").ready[:1]} == {"other"}
        assert life.services.route("chat").ready[-1].job == "serve"
        life.services.failed("other")
        assert len(life.services.route("chat").ready) == 2  # there is nobody better
        life.now_s += FAILED_S + 0.1
        first = [life.services.route("chat").ready[0].job for _ in range(4)]
        assert first.count("serve") == 3

    lived(tmp_path, ROUTED, story)


def test_a_fallback_answers_where_no_service_of_the_route_does(tmp_path):
    text = ROUTED.replace("serve: 3, other: 1", "serve: 3")
    text = text.replace("other: {kind: serve", "other: {replicas_min: 0, idle: 60 s, kind: serve")

    async def story(life):
        assert [r.job for r in life.services.route("chat").ready] == ["serve", "other"]
        assert await life.works.cancel("serve", "ann")
        await life.turns()
        assert [r.job for r in life.services.route("chat").ready] == ["other"]
        await life.quiet()
        asleep = life.services.route("chat")
        assert (asleep.ready, asleep.waking) == ([], True)
        await life.turns()
        assert [r.job for r in life.services.route("chat").ready] == ["other.2"]

    lived(tmp_path, text, story)


def test_requests_that_wait_bring_one_replica_more_and_quiet_takes_them_back(tmp_path):
    async def story(life):
        life.services.demand("serve", 5)
        await life.turns()
        assert life.ready() == ["serve"], "a moment's queue is no reason"
        await life.later(PATIENCE_S)
        assert life.ready() == ["serve", "serve.2"]
        await life.turns()
        assert life.ready() == ["serve", "serve.2"], "the new one gets its chance first"
        await life.later(PATIENCE_S)
        assert life.ready() == ["serve", "serve.2", "serve.3"]
        await life.later(10 * PATIENCE_S)
        assert len(life.ready()) == 3, "no more than `replicas_max`"
        life.services.demand("serve", 0)
        await life.quiet()
        assert life.ready() == ["serve", "serve.2"]
        await life.quiet()
        await life.quiet()
        assert life.ready() == ["serve"], "no fewer than `replicas_min`"

    life = lived(tmp_path, mill(replicas_max=3), story)
    assert life.submitted() == ["serve", "serve.2", "serve.3"]


def test_there_are_no_more_replicas_than_chips(tmp_path):
    async def story(life):
        life.services.demand("serve", 5)
        for _ in range(4):
            await life.later(PATIENCE_S)
        assert life.ready() == ["serve", "serve.2"]
        assert set(life.submitted()) == {"serve", "serve.2"}

    lived(tmp_path, mill(chips=4, replicas_max=9), story)


def test_a_replica_answers_its_last_request_before_it_is_let_go(tmp_path):
    async def story(life):
        life.services.used("serve.2", +1)
        await life.quiet()
        assert life.ready() == ["serve"], "it is asked no more"
        assert life.works.factory.status("serve.2") == "running"
        life.services.used("serve.2", -1)
        await life.turns()
        assert life.works.factory.status("serve.2") == "cancelled"

    async def busy(life):
        for job in ["serve", "serve.2"] * 5:
            life.services.used(job, +1)
        await life.quiet()
        await life.quiet()
        assert life.ready() == ["serve", "serve.2"], "ten requests do not fit eight seats"

    text = mill(replicas_min=2, replicas_max=2)
    figures = {"context_tokens": 10, "cache_tokens": 80}
    for name, story_of in (("last", story), ("busy", busy)):

        async def fewer(life, story_of=story_of):
            for job in ("serve", "serve.2"):
                life.works.endpoints[job] = life.works.endpoints[job] | figures
            # The blueprint is read anew where the works is: one may go now.
            first = life.works.planned["serve"]
            work = first.spec.work.model_copy(update={"replicas_min": 1})
            spec = first.spec.model_copy(update={"work": work})
            life.works.planned["serve"] = first.model_copy(update={"spec": spec})
            await life.turns()
            await story_of(life)

        lived(tmp_path / name, text, fewer)


def test_a_service_goes_to_zero_and_comes_back_with_a_request_under_a_new_number(tmp_path):
    async def story(life):
        life.services.used("serve", +1)
        await life.quiet()
        assert life.ready() == ["serve"], "it is asked something still"
        life.services.used("serve", -1)
        await life.quiet()
        assert life.works.factory.status("serve") == "cancelled"
        asleep = life.services.route("serve")
        assert (asleep.ready, asleep.known, asleep.waking) == ([], True, True)
        await life.turns()
        assert life.ready() == ["serve.2"]
        await life.quiet()
        assert life.works.factory.running() == []
        await life.quiet()
        assert life.works.factory.running() == [], "nobody asks, nobody wakes"
        life.services.route("serve")
        await life.turns()
        assert life.ready() == ["serve.3"]

    lived(tmp_path, mill(replicas_min=0), story)


def test_to_list_the_models_wakes_nothing(tmp_path):
    async def story(life):
        works, grant = life.works, Grant("ann", "lab", frozenset({"infer"}), "k1")
        house = SimpleNamespace(who=lambda key: grant, tenants={"lab": Tenant()})
        gateway = Gateway(works.ledger, works.run, lambda: 0.0, life.services, house, None, None)
        headers = {"authorization": "Bearer gf-1"}
        to = httpx.ASGITransport(gateway)
        async with httpx.AsyncClient(transport=to, base_url="http://g", headers=headers) as client:

            async def listed():
                await life.turns()
                one = (await client.get("/v1/models/serve")).json()
                assert (await client.get("/v1/models")).json()["data"] == [one]
                await life.turns()
                return one["ready"]

            assert await listed()
            await life.quiet()
            assert not await listed()
            assert life.works.factory.running() == []
            life.services.route("serve")
            assert await listed()
        assert not life.services.ready("nonesuch")

    lived(tmp_path, mill(replicas_min=0), story)


def test_asking_a_route_wakes_the_services_that_have_a_share_in_it(tmp_path):
    async def story(life):
        await life.quiet()
        assert life.works.factory.status("serve") == "cancelled"
        assert [r.job for r in life.services.route("chat").ready] == ["other"]
        await life.turns()
        assert life.ready("chat") == ["other", "serve.2"]

    lived(tmp_path, mill(ROUTED, replicas_min=0), story)


def test_a_service_that_a_person_cancelled_is_over_with_all_its_replicas(tmp_path):
    async def story(life):
        assert life.ready() == ["serve", "serve.2"]
        assert await life.works.cancel("serve", "ann")
        await life.turns()
        assert life.services.route("serve") is None
        assert life.works.factory.running() == []
        await life.quiet()
        assert life.works.factory.running() == []

    async def after(life):
        assert life.services.names() == []
        assert life.works.factory.running() == []

    lived(tmp_path, mill(replicas_min=2, replicas_max=2), story)
    lived(tmp_path, mill(replicas_min=2, replicas_max=2), after)


def test_ending_a_service_ends_what_is_left_of_it(tmp_path):
    async def story(life):
        await life.quiet()
        life.services.route("serve")
        await life.turns()
        assert life.ready() == ["serve.2"]
        assert await life.services.end("serve", "ann")
        await life.turns()
        assert life.services.names() == []
        assert not await life.services.end("serve", "ann")

    lived(tmp_path, mill(replicas_min=0), story)


def test_a_service_whose_model_is_not_made_yet_is_known_and_does_not_wake(tmp_path):
    async def story():
        life = Life(Home(tmp_path), ledger, mill())
        await life.works.open("")
        route = Services(life.works).route("serve")
        assert (route.ready, route.known, route.waking) == ([], True, False)

    ledger = Ledger(Home(tmp_path).ledger)
    asyncio.run(story())
    ledger.close()


def test_a_service_whose_gate_was_not_passed_is_gone_and_one_that_may_come_is_not(
    tmp_path, monkeypatch
):
    def judged(passed):
        results = {"tokens": 10, "passed": passed}
        said = json.dumps({"outcome": "done", "results": results, "unix_s": 0})
        monkeypatch.setattr(
            test_works, "write_result", lambda folder, _: (folder / RESULT).write_text(said)
        )

        async def story(life):
            route = life.services.route("serve")
            assert (bool(route.ready), route.waking, route.gone) == (passed, False, not passed)

        lived(tmp_path / str(passed), mill(), story)

    judged(passed=True)
    judged(passed=False)


async def day(home, ledger):
    """Up, down, to zero and back, as far as a crash lets it."""
    life = await Life(home, ledger, mill(replicas_min=0, replicas_max=2)).open()
    life.services.route("serve")
    await life.turns()
    life.services.demand("serve", 9)
    await life.later(PATIENCE_S)
    await life.later(PATIENCE_S)
    assert len(life.ready()) == 2
    life.services.demand("serve", 0)
    await life.quiet()
    await life.quiet()
    assert life.works.factory.running() == []
    life.services.route("serve")
    await life.turns()
    assert len(life.ready()) == 1


def test_after_a_crash_at_any_word_the_day_goes_on_and_no_number_is_used_twice(tmp_path):
    counting = Mortal()
    ledger = FusedLedger(Home(tmp_path / "count").ledger, counting)
    asyncio.run(day(Home(tmp_path / "count"), ledger))
    ledger.close()
    assert counting.words > 20
    for at in range(1, counting.words + 1):
        home = Home(tmp_path / str(at))
        for fuse in (Mortal(at, before=bool(at % 2)), Mortal()):
            ledger = FusedLedger(home.ledger, fuse)
            with suppress(Crash):
                asyncio.run(day(home, ledger))
            ledger.close()
        submitted = [
            row.subject
            for row in read(home.ledger, kinds=["JobSubmitted"])
            if row.body["kind"] == "serve"
        ]
        assert len(submitted) == len(set(submitted))
        assert submitted == ["serve", *(f"serve.{n}" for n in range(2, len(submitted) + 1))]


def test_a_turn_looks_at_new_jobs_only(tmp_path, monkeypatch):
    async def story(life):
        looked = []
        monkeypatch.setattr(services_module, "service_of", looked.append)
        await life.turns()
        assert looked == []

    lived(tmp_path, mill(), story)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("serve: 3, other: 1", "serv: 3", 17, ["no service 'serv'", "did you mean serve"]),
        ("serve: 3, other: 1", "train: 3", 17, ["no service 'train'"]),
        ("serve: 3, other: 1", "serve: 0, other: 0", 17, ["sum to 0", "above 0"]),
        ("serve: 3, other: 1", "serve: -1", 17, ["-1"]),
        ("fallback: [spare]", "fallback: [spar]", 17, ["'spar'", "did you mean spare"]),
        ("{other: 1}}", "{other: 1}, fallback: chat}", 17, ["circle", "chat → spare → chat"]),
        ("  chat: {", "  serve: {", 17, ["a route and a workload", "rename"]),
        (SERVE, SERVE + ", replicas_min: 2", 14, ["at least 2", "`replicas_max: 2`"]),
        (SERVE, SERVE + ", engine: sglang", 14, ["engine", "'vllm'"]),
        (SERVE, SERVE + ", context: 2 kW", 14, ["context"]),
        (SERVE, SERVE + ", idle: 5 kg", 14, ["idle"]),
    ],
)
def test_what_is_wrong_with_a_service_or_a_route_is_told_with_its_line(old, new, line, words):
    assert old in ROUTED
    with pytest.raises(Refused) as refused:
        parse(ROUTED.replace(old, new), Path("mill.yaml"))
    fault = refused.value.faults[0]
    text = " ".join((fault.what, fault.where, fault.why, fault.remedy))
    assert f"mill.yaml:{line}" in fault.where
    assert fault.remedy
    for word in words:
        assert word in text


def test_a_service_that_is_submitted_is_checked_as_one_in_the_file_is():
    work = {"kind": "serve", "tenant": "lab", "of": "train", "through": "judge", "replicas_min": 2}
    with pytest.raises(Refused, match="at least 2"):
        grow(parse(MILL, Path("mill.yaml")), "more", work)


def test_a_service_reads_in_si():
    text = mill(context="2 k tokens", idle="5 min", replicas_min=0, engine="vllm")
    text = text.replace(", idle: 60 s", "")
    work = parse(text, Path("mill.yaml")).workloads["serve"]
    assert (work.context_tokens, work.idle_s, work.replicas_min) == (2000, 300, 0)
