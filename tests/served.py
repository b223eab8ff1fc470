"""A works that answers on the loopback: the real driver, house, ledger, API; a stand-in engine.

Two tenants, lab and rival, that have nothing to do with each other; a key for each role.
"""

import asyncio
import threading
import time
from pathlib import Path

import httpx

from gigafactory.blueprint.load import parse
from gigafactory.client import Client
from gigafactory.ledger.store import Ledger
from gigafactory.plan import make
from gigafactory.works.api import Api, bind, serve
from gigafactory.works.driver import Works
from gigafactory.works.home import Home
from gigafactory.works.house import Grant, House
from tests.test_works import Stage

MILL = """\
gigafactory: 1
name: mill
start: 2026-11-23
owner: FR
sites:
  home: {country: FR, power: 500 W, systems: {this-machine: 1}}
tenants:
  lab: {budgets: [{limit: 100 EUR, per: month}]}
  rival: {}
models:
  tiny: {config: qwen3-moe-tiny}
workloads:
  train: {kind: pretrain, tenant: lab, model: tiny, tokens: 1 k tokens}
  judge: {kind: evaluate, tenant: lab, of: train, suite: bits_per_byte, gate: {bytes: "> 0"}}
  rivals: {kind: pretrain, tenant: rival, model: tiny, tokens: 1 k tokens}
"""
OFFER = {"kind": "evaluate", "of": "train", "suite": "bits_per_byte"}
WAITS = {**OFFER, "after": "held"}
WAIT_S = 60.0


class Held(Stage):
    """A stage whose jobs called `held...` go on until they are told to stop."""

    def ended(self):
        held = [at for at in self.open_folders if at[0].parent.name.startswith("held")]
        going = [at for at in held if not (at[0] / "stop").exists()]
        self.open_folders = [at for at in self.open_folders if at not in going]
        ended = super().ended()
        self.open_folders += going
        return ended


class Served:
    """The works in a thread of its own; `url`, `app`, and `keys` by (tenant, role)."""

    def __init__(self, folder):
        self.home = Home(Path(folder))
        self.keys = {}
        self._ready = threading.Event()
        self._ends = threading.Event()
        self._broke = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(WAIT_S), "it did not come up"
        if self._broke:
            raise self._broke
        return self

    def __exit__(self, *_):
        self._ends.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "it did not end"

    def client(self, tenant="lab", role="operator"):
        return Client(self.url, self.keys[tenant, role])

    def http(self, tenant=None, role="operator"):
        headers = {"Authorization": f"Bearer {self.keys[tenant, role]}"} if tenant else {}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=WAIT_S)

    def attempt(self, job):
        """The folder of a job's newest attempt."""
        works = self.works
        return self.home.attempt(works.run, job, works.factory.attempt(job))

    def running(self, job):
        """The folder of a job's attempt, once it runs."""
        return until(lambda: self.attempt(job).exists() and self.attempt(job))

    def _run(self):
        try:
            asyncio.run(self._live())
        except BaseException as error:
            self._broke = error
            self._ready.set()
            raise

    async def _live(self):
        self.loop = asyncio.get_running_loop()
        blueprint = parse(MILL, Path("mill.yaml"))
        ledger = Ledger(self.home.ledger)
        house = House(ledger, self.home.ledger, blueprint, self.home.path)
        self.works = works = Works(self.home, make(blueprint), "mill-1", ledger, house)
        works.engine = Held(iter(()))
        self.keys["lab", "operator"] = works.house.local("lab")
        owner = works.house.who(self.keys["lab", "operator"])
        assert isinstance(owner, Grant)
        for tenant in ("lab", "rival"):
            for role in ("viewer", "member", "admin"):
                made = await works.house.make_key(owner, tenant, f"{tenant}-{role}", role)
                self.keys[tenant, role] = made[0]
        await works.open("")
        self.api = Api(works, blueprint)
        self.app = self.api.app()
        listening = bind(0)
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server, serving = serve(self.app, listening)
        self._ready.set()
        while not self._ends.is_set():
            await works.turn()
            await asyncio.sleep(0.005)
        self.api.ending = server.should_exit = True
        await serving
        await works.close()
        ledger.close()


def until(true):
    """Wait until something is so."""
    deadline = time.monotonic() + WAIT_S
    while not (found := true()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return found
