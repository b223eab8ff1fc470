"""`up`: from a blueprint to the first token, and on until Ctrl-C.

The door shows; this file does. `Watcher` is what it tells the door while it works.
"""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
from starlette.routing import Route

from gigafactory import plan as planning
from gigafactory.blueprint import Blueprint
from gigafactory.blueprint.schema import Serve
from gigafactory.factory import Factory
from gigafactory.factory.events import FirstToken, JobSubmitted
from gigafactory.faults import Fault, Refused
from gigafactory.ledger.store import HOUSE, Ledger, LedgerFailure, read
from gigafactory.plan import Plan
from gigafactory.stack import chips
from gigafactory.works import calibrate, history, walls
from gigafactory.works.api import Api, bind, serve, split, url_of
from gigafactory.works.board import Board
from gigafactory.works.driver import OF_THE_CORE, POLL_S, Works
from gigafactory.works.gateway import Gateway, disputes
from gigafactory.works.gateway.batches import Batches
from gigafactory.works.home import Home, write_whole
from gigafactory.works.house import House
from gigafactory.works.services import Services, service_of

SHOWN_MAX = 400  # characters of an observation or a detection
ANSWER_TOKENS_MAX = 64
ANSWER_S_MAX = 120.0
LARGE = 100  # nodes and tenants together, from which on the core as Python is too slow
OPENED = "works.open"
OVER = ("done", "failed", "cancelled", "blocked")
Pages = Callable[[Board], list[Route]]


class Watcher(Protocol):
    """Who is told how far `up` has come."""

    def calibrating(self, thing: str) -> None:
        """Something of this machine is being measured."""

    def planned(self, plan: Plan, run: str, resumed: bool) -> None:
        """The plan stands; nothing has run yet."""

    def opened(self, url: str, key: str) -> None:
        """The console and the gateway answer."""

    def turned(self, works: Works) -> None:
        """A turn of the wheel: time to redraw."""

    def answered(self, first: dict[str, Any]) -> None:
        """The first question was answered."""


@dataclass(frozen=True)
class Wish:
    """What the user asked of `up`."""

    again: bool = False
    once: bool = False
    recalibrate: bool = False
    port: int = 0


async def up(
    home: Home,
    blueprint: Blueprint,
    text: str,
    wish: Wish,
    watcher: Watcher,
    pages: Pages,
) -> str:
    """Bring the factory up; returns the name of the run when it is down again.

    With `once` that is when everything ended or answers, else on SIGINT or SIGTERM. Raises
    `Refused` where it cannot go on; what was accepted is in the ledger and waits there.
    """
    began_unix_s = time.time()
    home.claim()
    listening = bind(wish.port)
    try:
        calibrate.calibrate(home.path, wish.recalibrate, watcher.calibrating)
    except calibrate.CalibrationFailed as failure:
        raise Refused(
            Fault(
                "this machine cannot be measured",
                "calibration",
                str(failure),
                "`make install` puts PyTorch in place; else the line above tells more",
            )
        ) from failure
    run, plan, resumed = _choose(home, blueprint, wish.again)
    _stands_here(plan)
    watcher.planned(plan, run, resumed)
    try:
        ledger = Ledger(home.ledger)
        house = House(ledger, home.ledger, blueprint, home.path)
        works = Works(home, plan, run, ledger, house)
        if len(plan.nodes()) + len(house.tenants) > LARGE:
            works.compile_core()
        if faults := [fault for job in plan.jobs if (fault := walls.refusal(works, job))]:
            raise Refused(*faults)
        works.opened_unix_s = began_unix_s
        factory = _Factory(works, blueprint, text, listening)
        await _live(factory, wish, watcher, pages)
        ledger.close()
    except LedgerFailure as failure:
        raise Refused(
            Fault(
                "the ledger cannot be written",
                str(home.ledger),
                str(failure),
                "free some disk; `gigafactory up` then goes on where it was",
            )
        ) from failure
    finally:
        home.address_file.unlink(missing_ok=True)
    return run


async def _live(factory: "_Factory", wish: Wish, watcher: Watcher, pages: Pages) -> None:
    """Open, turn the wheel until it is over, close; what runs stops at its next checkpoint."""
    works = factory.works
    stopped = asyncio.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sign, stopped.set)
    try:
        await _dispute(works)
        await works.open(factory.text)
        await factory.answer(pages)
        watcher.opened(factory.url, factory.key)
        question: asyncio.Task | None = None
        told = False
        while not stopped.is_set():
            await works.turn()
            await factory.services.turn()
            watcher.turned(works)
            if works.endpoints and question is None:
                question = asyncio.create_task(factory.ask())  # the wheel goes on turning
            if question is not None and question.done() and not told:
                told = True
                watcher.answered(question.result())
            if wish.once and works.factory.settled() and (told or not works.factory.running()):
                break
            await asyncio.sleep(POLL_S)
        await factory.hang_up()
    finally:
        await works.close()


class _Factory:
    """The works with its address: API, gateway and console on one port."""

    def __init__(self, works: Works, blueprint: Blueprint, text: str, listening: socket.socket):
        self.works, self.blueprint, self.text = works, blueprint, text
        self.listening = listening
        self.url = url_of(listening)
        self.key = works.house.local(_tenant(blueprint))

    async def answer(self, pages: Pages) -> None:
        """Start answering requests."""
        works = self.works
        self.services = works.services = Services(works)
        self.gateway = Gateway(
            works.ledger,
            works.run,
            works.clock,
            self.services,
            works.house,
            works.budgets,
            works.rates,
            works.home.path / "prompts",
        )
        self.batches = Batches(
            self.gateway,
            works.ledger,
            works.home.ledger,
            works.run,
            works.clock,
            works.home.path / "files",
        )
        await self.batches.open()
        self.api = Api(works, self.blueprint)
        self.api.registries.append(self.gateway.metrics.registry)
        board = Board(self.api, self.gateway)
        app = split(self.api.app(pages(board)), self.gateway)
        self.server, self.serving = serve(app, self.listening)
        address = {"pid": os.getpid(), "url": self.url, "run": works.run}
        write_whole(works.home.address_file, address)

    async def hang_up(self) -> None:
        """Let answers under way end, then answer no more."""
        self.api.ending = True
        await self.batches.aclose()
        await self.gateway.aclose()
        self.server.should_exit = True
        await self.serving

    async def ask(self) -> dict[str, Any]:
        """Ask the first service its question through the gateway, as any client would."""
        works = self.works
        job = service_of(next(iter(works.endpoints)))
        work = works.planned[job].spec.work
        example = next(iter(works.endpoints.values())).get("example")
        prompt = work.prompt if isinstance(work, Serve) and not example else ""
        answer, first_s = "", None
        if example:
            said = json.loads(Path(example).read_text(encoding="utf-8"))
            prompt, pieces = "a picture that it learned from", self._act(job, said)
            if "observation" in said:
                prompt = f"an observation of {len(said['observation'])} numbers"
        else:
            pieces = self._pieces(job, prompt)
        try:
            async for piece in pieces:
                first_s = works.clock() if first_s is None else first_s
                answer += piece
        except httpx.HTTPError as error:
            answer += f"(no answer: {error!r})"
        if _asked_before(works):
            first_s = None  # The run goes on: its first token was another day's.
        elif first_s is not None:
            await works.happen(FirstToken(works.clock(), job, first_s, prompt, answer))
        told = {"job": job, "prompt": prompt, "answer": answer, "first_s": first_s}
        return told | {"acts": bool(example)}

    async def _act(self, job: str, said: dict[str, Any]) -> AsyncIterator[str]:
        """What a policy or a detector answers, whole."""
        async with self._client() as client:
            reply = await client.post(f"/v1/policies/{job}/act", json=said)
            reply.raise_for_status()
            heard = reply.json()
            names = ("action", "actions", "detections")
            yield _short(json.dumps({name: _brief(heard[name]) for name in names if name in heard}))

    def _client(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=ANSWER_S_MAX, trust_env=False
        )

    async def _pieces(self, job: str, prompt: str) -> AsyncIterator[str]:
        """The words of a streamed answer, as they come."""
        body = {
            "model": job,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": ANSWER_TOKENS_MAX,
            "temperature": 0,
            "stream": True,
        }
        async with (
            self._client() as client,
            client.stream("POST", "/v1/chat/completions", json=body) as reply,
        ):
            async for line in reply.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                for choice in json.loads(line[len("data: ") :]).get("choices", ()):
                    if piece := choice["delta"].get("content"):
                        yield piece


async def _dispute(works: Works) -> None:
    """Settle what crashes left open, in any run; then put on record that this works is open.

    Nothing before that record need be looked at again.
    """
    where = works.home.ledger
    opened = (row for row in read(where, HOUSE, kinds=["Acted"]) if row.body["did"] == OPENED)
    after = max((row.seq for row in opened), default=0)
    for run in {row.run for row in read(where, kinds=["RunOpened"])}:
        if open_still := disputes(where, run, after):
            await asyncio.wrap_future(works.ledger.append(run, *open_still))
    await works.house.act("house", OPENED, works.run, {})


def _choose(home: Home, blueprint: Blueprint, again: bool) -> tuple[str, Plan, bool]:
    """The run to go on with, or a new one with a plan that knows all that was measured."""
    opened = [
        row
        for row in read(home.ledger, kinds=["RunOpened"])
        if row.body["plan"]["name"] == blueprint.name
    ]
    fresh = planning.make(blueprint, history.measured(home.path, home.ledger))
    if opened and not again:
        last = Plan.model_validate(opened[-1].body["plan"])
        if last.blueprint_hash == fresh.blueprint_hash:
            return opened[-1].run, last, True
        _must_be_over(home, opened[-1].run, last)
    return f"{blueprint.name}-{len(opened) + 1}", fresh, False


def _must_be_over(home: Home, run: str, plan: Plan) -> None:
    """Refuse to leave a run behind whose jobs have not ended; services have no end."""
    factory = Factory(**plan.tables())
    services = set()
    for row in read(home.ledger, run, kinds=OF_THE_CORE):
        event = row.event()
        factory.apply(event)
        if isinstance(event, JobSubmitted) and event.service:
            services.add(event.job)
    left = [job for job in factory.jobs() if factory.status(job) not in OVER]
    left = [job for job in left if job not in services]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise Refused(
            Fault(
                f"the blueprint changed since {run} began",
                run,
                f"a run keeps the blueprint that it began with, and {', '.join(left[:3])}{more}"
                " of it have not ended",
                "take the change back and `up` goes on there; `--again` begins a new run and"
                " leaves them",
            )
        )


def _stands_here(plan: Plan) -> None:
    """Refuse a plan for chips that this machine does not have."""
    here = chips.system(chips.THIS_MACHINE, plan.measured.machine)
    nodes = sum(where.nodes for where in plan.places)
    if os.environ.get("RAY_ADDRESS"):
        return  # a cluster: its nodes are those that join it
    faults = [
        Fault(
            f"{nodes} machines are planned and there is one",
            "sites",
            "each system would be this same machine, and its chips counted again",
            f"keep one site with `systems: {{{chips.THIS_MACHINE}: 1}}`",
        )
    ] * (nodes > 1 and any(where.system == chips.THIS_MACHINE for where in plan.places))
    faults += [
        Fault(
            f"{where.pool} does not stand here",
            f"sites.{where.site}.systems",
            f"this machine is {here.chips_per_node} × {here.chip.name}",
            f"write `systems: {{{chips.THIS_MACHINE}: 1}}`, or `gigafactory simulate` it instead",
        )
        for where in plan.places
        if where.system != chips.THIS_MACHINE
        and (chips.system(where.system).chip.name, where.chips)
        != (here.chip.name, here.chips_per_node)
    ]
    if faults:
        raise Refused(*faults)


def _tenant(blueprint: Blueprint) -> str:
    """Whose key the command line asks with: the owner of the first service, else the first."""
    services = [work.tenant for work in blueprint.workloads.values() if work.kind == "serve"]
    return next(iter([*services, *blueprint.tenants]))


def _brief(said: Any) -> Any:
    """The same with four digits of each number."""
    if isinstance(said, dict):
        return {name: _brief(inner) for name, inner in said.items()}
    if isinstance(said, list):
        return [_brief(inner) for inner in said]
    return float(f"{said:.4g}") if isinstance(said, float) else said


def _short(said: str) -> str:
    return said if len(said) <= SHOWN_MAX else said[: SHOWN_MAX - 1] + "…"


def _asked_before(works: Works) -> bool:
    return any(read(works.home.ledger, works.run, kinds=["FirstToken"]))
