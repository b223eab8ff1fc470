"""A works with everything a browser meets: house, budgets, services, gateway, pages; on the
loopback, with a stand-in engine that answers. Its jobs called `held...` go on until stopped."""

import asyncio
from pathlib import Path

from gigafactory.blueprint.load import parse
from gigafactory.console.live import routes
from gigafactory.jobs.context import PROGRESS
from gigafactory.ledger.store import Ledger
from gigafactory.plan import make
from gigafactory.works.api import Api, bind, serve, split
from gigafactory.works.board import Board
from gigafactory.works.driver import Works
from gigafactory.works.gateway import Gateway
from gigafactory.works.house import House
from gigafactory.works.services import Services
from tests.gateway_house import Engine, listening
from tests.served import MILL, Held, Served
from tests.test_works import say

CHAT = MILL + "  chat: {kind: serve, tenant: lab, of: train, through: judge}\n"


class Answering(Held):
    """Its services answer."""

    def __init__(self, url):
        super().__init__(iter(()))
        self.url = url

    def ended(self):
        for folder, kind in self.open_folders:
            if kind == "serve" and not (folder / PROGRESS).exists():
                say(
                    folder, ready=True, endpoint=self.url, model="model", context_tokens=512,
                    cache_tokens=8192,
                )  # fmt: skip
        return super().ended()


class Shown(Served):
    """The same as `Served`, with gateway and pages."""

    async def _live(self):
        with listening(Engine().app) as engine_url:
            await self._with(engine_url)

    async def _with(self, engine_url):
        self.loop = asyncio.get_running_loop()
        blueprint = parse(CHAT, Path("mill.yaml"))
        ledger = Ledger(self.home.ledger)
        house = House(ledger, self.home.ledger, blueprint, self.home.path)
        self.works = works = Works(self.home, make(blueprint), "mill-1", ledger, house)
        works.engine = Answering(engine_url)
        self.keys["lab", "operator"] = house.local("lab")
        owner = house.who(self.keys["lab", "operator"])
        for tenant in ("lab", "rival"):
            for role in ("viewer", "member", "admin"):
                made = await house.make_key(owner, tenant, f"{tenant}-{role}", role)
                self.keys[tenant, role] = made[0]
        await works.open("")
        services = Services(works)
        self.gateway = Gateway(
            ledger, works.run, works.clock, services, house, works.budgets, works.rates,
            self.home.path / "prompts",
        )  # fmt: skip
        api = Api(works, blueprint)
        self.board = Board(api, self.gateway)
        self.app = split(api.app(routes(self.board)), self.gateway)
        listener = bind(0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server, serving = serve(self.app, listener)
        self._ready.set()
        while not self._ends.is_set():
            await works.turn()
            await services.turn()
            await asyncio.sleep(0.02)
        api.ending = True
        await self.gateway.aclose()
        server.should_exit = True
        await serving
        await works.close()
        ledger.close()
