"""The factory on the wall clock: what happened goes to the ledger, then to the core, then out.

The order is the whole of crash safety: an event is durable before the core hears of it, and a
command is carried out only after. Whatever dies, replaying the ledger gives the state, what
ran then is lost or, where its result lies whole in its folder, committed.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Sequence_
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast, get_args

from gigafactory.blueprint import JobSpec
from gigafactory.blueprint.schema import Tenant
from gigafactory.factory import Command, Factory, Replace, Start, Stop, Wake
from gigafactory.factory import events as ev
from gigafactory.failpoint import failpoint
from gigafactory.ledger.store import Ledger, Row, read
from gigafactory.plan import Plan, PlannedJob, Quote
from gigafactory.plan.quote import J_PER_KWH
from gigafactory.plan.tariff import Rates
from gigafactory.stack.chips import THIS_MACHINE
from gigafactory.works import meter, walls
from gigafactory.works.budgets import Budgets
from gigafactory.works.energy import Held, cpu_s, shares_of
from gigafactory.works.engine import (
    Attempt,
    Ended,
    Engine,
    Stands,
    drop_checkpoints,
    kept_checkpoint,
)
from gigafactory.works.home import Home
from gigafactory.works.house import Grant, House
from gigafactory.works.sequence import Sequence
from gigafactory.works.spending import Spending

if TYPE_CHECKING:
    from gigafactory.works.services import Services

POLL_S = 0.1
ENERGY_S = 1.0  # between looks at the counters of joules
REPORT_S = 1.0  # progress goes to the ledger at most this often for each job
GRACE_S = 20.0  # a job asked to stop has this long to reach its checkpoint
OF_THE_CORE = [kind.__name__ for kind in (ev.RunOpened, *get_args(ev.CoreEvent))]
RESTARTED = "the works restarted"
SILENT = "its lease ran out"

log = logging.getLogger(__name__)


class Works:
    """One run of a factory on this machine."""

    def __init__(
        self, home: Home, plan: Plan, run: str, ledger: Ledger, house: House | None = None
    ):
        self.home, self.plan, self.run, self.ledger = home, plan, run, ledger
        self._house = house
        self.factory = Factory(**plan.tables())
        chips = {node: chips for node, (_, chips) in plan.nodes().items()}
        self.engine = Engine(chips, home.path)
        self.planned: dict[str, PlannedJob] = {job.spec.name: job for job in plan.jobs}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.progress: dict[str, dict[str, Any]] = {}
        self.opened_unix_s = time.time()
        self._started_s, self._started_at_s = time.monotonic(), 0.0
        self._running: dict[str, _Running] = {}
        # An only node is this machine. Of several, those count that the executor has seen.
        self._absent = set(chips) if len(chips) > 1 else set()
        machine = plan.measured.machine or {}
        self._here = "cuda" if machine.get("kind") == "gpu" else "cpu"
        self._wakes: list[float] = []
        self.services: Services | None = None
        self.rates = Rates.of(plan)
        self.spending = Spending(self)
        # Of several machines nobody sees the joules of the others.
        self._shares = shares_of(machine) if machine and len(chips) == 1 else None
        self._counted_s = float("-inf")
        self.sequence = Sequence(ledger, run, self.factory, self._carry_out)

    def compile_core(self) -> None:
        """Have the core run compiled, before anything happens: for a thousand tenants or nodes."""
        self.factory = Factory(**self.plan.tables(), compiled=True)
        self.sequence = Sequence(self.ledger, self.run, self.factory, self._carry_out)

    def clock(self) -> float:
        """Seconds since the run was opened, restarts included; it never runs backwards."""
        return self._started_at_s + time.monotonic() - self._started_s

    def _set_clock(self, last_at_s: float) -> None:
        """Go on from the clock of the wall, or from the last event where that was set back."""
        self._started_s = time.monotonic()
        self._started_at_s = max(last_at_s, time.time() - self.opened_unix_s)

    async def open(self, blueprint_text: str) -> None:
        """Accept the plan, or pick up where the ledger ends."""
        self.engine.open()
        rows = list(read(self.home.ledger, self.run, kinds=OF_THE_CORE))
        if rows:
            await self._recover(rows)
        else:
            self._set_clock(0.0)
            self.spending.refill()
            plan = self.plan.model_dump(mode="json")
            opened = ev.RunOpened(0.0, self.run, "wall", self.opened_unix_s, blueprint_text, plan)
            submitted = [ev.JobSubmitted(0.0, **job.submission()) for job in self.plan.jobs]
            # In one transaction: a run is opened with all its jobs, or not at all.
            await asyncio.wrap_future(self.ledger.append(self.run, opened, *submitted))
            for event in submitted:
                self.factory.apply(event)
        now = self.clock()
        here = {n: at for n, at in self.plan.nodes().items() if n not in self._absent}
        await self.happen(*(ev.NodeJoined(now, node, *at) for node, at in here.items()))

    async def turn(self) -> None:
        """One look at the world: what was reported, what ended, whose pause is over."""
        for running in list(self._running.values()):
            # It may have been fenced off while another was heard: never renew that lease.
            if self._running.get(running.attempt.job) is running:
                running.attempt.renew_lease()
                await self._hear(running)
                if running.attempt.expired():
                    await self._end(Ended(running.attempt.folder, "lost", {"why": SILENT}))
        # Ends together, so that a thousand of them cost one commit.
        for kind, saids in groupby(self.engine.ended(), type):
            if kind is Stands:
                await self.happen(*self._standing(cast("Iterator[Stands]", saids)))
            else:
                await asyncio.gather(*(self._end(said) for said in cast("Iterator[Ended]", saids)))
        now = self.clock()
        if any(wake <= now for wake in self._wakes):
            self._wakes = [wake for wake in self._wakes if wake > now]
            await self.happen(ev.Ticked(now))
        await self.spending.turn()
        if time.monotonic() - self._counted_s >= ENERGY_S:
            self._count_joules()
        for running in list(self._running.values()):
            if running.stop_by_s is not None and now > running.stop_by_s:
                running.attempt.kill()

    async def submit(self, job: PlannedJob, by: str = "") -> bool:
        """Accept one more job; it is in the ledger when this returns. False for a taken name."""
        return (await self.submit_many([job], by))[0]

    async def submit_many(self, jobs: Sequence_[PlannedJob], by: str = "") -> list[bool]:
        """Accept more jobs, all in one commit; False for each whose name is taken.

        Raises `LedgerFailure` where the ledger cannot be written, and then accepts none.
        """
        new = [job for job in jobs if self.planned.setdefault(job.spec.name, job) is job]
        now = self.clock()
        events = [ev.JobSubmitted(now, by=by, **job.submission()) for job in new]
        accepted: set[str] = set()
        try:
            for job, may in zip(new, await self.sequence.accept(*events), strict=True):
                accepted |= {job.spec.name} if may else set()
        finally:
            for job in new:
                if job.spec.name not in accepted:
                    del self.planned[job.spec.name]
        mine = {id(job) for job in new}
        return [id(job) in mine and job.spec.name in accepted for job in jobs]

    async def cancel(self, job: str, by: str) -> bool:
        """Cancel a job, or a service with all its replicas; False where it has already ended."""
        if self.services is not None and self.services.has(job):
            return await self.services.end(job, by)
        return await self.cancel_one(job, by)

    async def cancel_one(self, job: str, by: str) -> bool:
        """Cancel this job alone; False where it has already ended."""
        return (await self.sequence.accept(ev.JobCancelled(self.clock(), job, by)))[0]

    async def set_tenant(self, by: Grant, name: str, changes: Mapping[str, Any]) -> Tenant:
        """Change what a tenant may use and spend, or add one; the core hears within a second."""
        tenant = await self.house.set_tenant(by, name, changes)
        await asyncio.to_thread(self.spending.refill)
        return tenant

    async def drain(self, node: str, by: Grant, now: bool = False) -> bool:
        """Let a node take no more work, and with `now` stop what it has; False if there is none."""
        event = ev.NodeDrained(self.clock(), node, now)
        if not self.factory.accepts(event):
            return False
        await self.house.act(by, "node.drain", node, {"now": now})
        return (await self.sequence.accept(event))[0]

    async def undrain(self, node: str, by: Grant) -> bool:
        """Let a drained node take work again; False if there is none."""
        at = self.plan.nodes().get(node)
        if at is None or node in self._absent:
            return False
        event = ev.NodeJoined(self.clock(), node, *at)
        await self.house.act(by, "node.undrain", node, {})
        return (await self.sequence.accept(event))[0]

    @property
    def house(self) -> House:
        """Who may do what here."""
        assert self._house is not None, "this works has no doors"
        return self._house

    @property
    def budgets(self) -> Budgets:
        """What tenants may spend, and have."""
        return self.spending.budgets

    @property
    def tenants(self) -> Mapping[str, Tenant]:
        """Tenants as they are in force now."""
        if self._house is not None:
            return self._house.tenants
        said = self.plan.blueprint["tenants"]
        return {name: Tenant.model_validate(of) for name, of in said.items()}

    def why(self, job: str) -> str:
        """What a job that does not run waits for, in words."""
        if self.factory.status(job) == "queued":
            spent = self.spending.why(self.planned[job].spec.work.tenant)
            return spent or self.factory.why(job, self.clock())
        return ""

    def running(self) -> list["_Running"]:
        """Attempts under way."""
        return list(self._running.values())

    def cost_so_far(self, running: "_Running", now_unix_s: float) -> list[dict[str, Any]]:
        """Charges of an attempt up to now, its chips taken as busy all the time."""
        began_unix_s = self.opened_unix_s + running.started.at_s
        chips, held_s = sum(running.started.chips), max(0.0, now_unix_s - began_unix_s)
        where = self.plan.where(running.started.pool)
        used = meter.used(
            where, chips, held_s, None, {}, rates=self.rates, began_unix_s=began_unix_s
        )
        return used["charges"]

    async def close(self) -> None:
        """Stop at the next checkpoints and leave everything so that `up` goes on from there."""
        now = self.clock()
        await self.happen(*(ev.NodeDrained(now, node) for node in self.plan.nodes()))
        for running in self._running.values():
            self.ask_to_stop(running)
        # Before Ray is up no attempt can hear; what does not stop in time is lost, and resumes.
        late_s = self.clock() + GRACE_S + POLL_S
        while self._running and self.engine.ready and self.clock() < late_s:
            await self.turn()
            await asyncio.sleep(POLL_S)
        await asyncio.to_thread(self.engine.close)
        for running in list(self._running.values()):
            await self._end(Ended(running.attempt.folder, "lost", {}))

    async def happen(self, *happened: ev.Event) -> None:
        """Let events happen, with all that follows from them: see `Sequence`."""
        told = (said for event in happened for said in self._with_losses(event))
        await self.sequence.happen(*told)

    def _carry_out(self, event: ev.Event, commands: list[Command]) -> Iterator[ev.Event]:
        """What an event and the core's answer to it set going."""
        self.spending.hear(event)
        if isinstance(event, ev.JobStarted):
            yield from self._launch(event)
        yield from self._answer(commands)

    def _answer(self, commands: list[Command]) -> Iterator[ev.Event]:
        """Carry out what the core commands; a start becomes an event, and then a process."""
        for command in commands:
            if isinstance(command, Wake):
                self._wakes.append(command.at_s)
            elif isinstance(command, Stop):
                if running := self._running.get(command.job):
                    self.ask_to_stop(running)
            elif isinstance(command, Replace):  # one machine has no other to put in its place
                log.warning("%s failed too often and takes no more work", command.node)
            elif isinstance(command, Start):
                yield ev.JobStarted(
                    self.clock(),
                    command.job,
                    command.attempt,
                    command.pool,
                    command.nodes,
                    command.chips,
                    command.from_step,
                )

    def _launch(self, started: ev.JobStarted) -> Iterator[ev.Event]:
        """Start the attempt's processes; an older attempt of the job counts no more."""
        if old := self._running.pop(started.job, None):
            old.attempt.fence()
        failpoint("driver.before_launch")
        folder = self.home.attempt(self.run, started.job, started.attempt)
        try:
            attempt = self.engine.start(folder, self._describe(started))
        except OSError as error:  # no disk left, say
            why = {"what": str(error), "where": str(folder), "why": "", "remedy": "free some disk"}
            used = self._used(_Running(Attempt(started.job, started.attempt, folder), started), 0.0)
            yield ev.JobFailed(self.clock(), started.job, started.attempt, why, used)
            return
        self._running[started.job] = _Running(attempt, started)
        self.progress[started.job] = {}
        failpoint("driver.launched")

    def _device_of(self, pool: str) -> str:
        """What a job runs on there: this machine as it was measured, else accelerators."""
        return self._here if self.plan.where(pool).system == THIS_MACHINE else "cuda"

    def _describe(self, started: ev.JobStarted) -> dict[str, Any]:
        """Everything a process needs to run the attempt."""
        spec = self.planned[started.job].spec
        inputs = {
            before: str(
                self.home.attempt(self.run, before, self.factory.attempt(before)) / "output"
            )
            for before in spec.after
        }
        last = None
        if started.from_step:
            kept = self.home.checkpoints(self.run, spec.name)
            last = kept_checkpoint(kept, started.from_step)
        return {
            "work": {
                "name": spec.name,
                **spec.work.model_dump(mode="json"),
                **({"world": spec.world} if spec.world else {}),
                **(self._certified(started.pool) if spec.kind == "synthesize" else {}),
                **(walls.of_scripts(self) if spec.kind == "script" else {}),
            },
            "model": spec.model.model_dump(mode="json") if spec.model else None,
            "attempt": started.attempt,
            "chips": sum(started.chips),
            "nodes": dict(zip(started.nodes, started.chips, strict=True)),
            "device": self._device_of(started.pool),
            "inputs": inputs,
            "resume_from": str(last) if last else None,
            "cache": str(self.home.cache),
        }

    def _certified(self, pool: str) -> dict[str, float]:
        """What a dataset's certificate states its energy and carbon by."""
        now_unix_s = self.opened_unix_s + self.clock()
        (kwh,) = self.rates.attempt(pool, 0.0, J_PER_KWH, now_unix_s, now_unix_s)
        power_w = self.plan.where(pool).chip_w
        return {"power_w_per_chip": power_w, "carbon_g_per_kwh": kwh["carbon_g"]}

    async def _hear(self, running: "_Running") -> None:
        """Let happen what an attempt reported; what a new checkpoint replaces is deleted."""
        if heard := list(self._heard(running)):
            await self.happen(*heard)
        if any(isinstance(event, ev.JobCheckpointed) for event in heard):
            job = running.attempt.job
            kept, step = self.home.checkpoints(self.run, job), self.factory.step_of(job)
            await asyncio.to_thread(drop_checkpoints, kept, step, running.started.from_step)

    def _heard(self, running: "_Running", last: bool = False) -> Iterator[ev.Event]:
        """What an attempt reported, as events: checkpoints all, figures now and then."""
        job, number = running.attempt.job, running.attempt.number
        figures: dict[str, Any] = {}
        urgent = last
        for news in running.attempt.news():
            at_s = news["unix_s"] - self.opened_unix_s
            if "phase" in news:
                running.enter(news["phase"], at_s)
                urgent = True
            yield from self._checkpointed(running.attempt, news)
            figures.update({k: v for k, v in news.items() if k != "unix_s"})
        if figures:
            self.progress[job] = {**self.progress.get(job, {}), **figures}
            running.unsaid.update(figures)
        if figures.get("ready"):
            self.endpoints[job] = figures
            urgent = True
        if running.unsaid and (urgent or (figures and self.clock() - running.said_s >= REPORT_S)):
            running.said_s = self.clock()
            said, running.unsaid = running.unsaid, {}
            yield ev.JobReported(self.clock(), job, number, said)

    def _standing(self, told: Iterable[Stands]) -> Iterator[ev.Event]:
        """Nodes of the plan came, or went with all that ran on them."""
        nodes = self.plan.nodes()
        for news in told:
            if news.up and news.node in self._absent:
                self._absent.discard(news.node)
                yield ev.NodeJoined(self.clock(), news.node, *nodes[news.node])
            elif not news.up:
                self._absent.add(news.node)
                yield ev.NodeLost(self.clock(), news.node, "it does not answer")

    def _with_losses(self, event: ev.Event) -> Iterator[ev.Event]:
        """An event; before a node is lost, the end of all that ran there, billed to the moment."""
        if isinstance(event, ev.NodeLost):
            there = [r for r in self._running.values() if event.node in r.started.nodes]
            if there:  # They start again at once, and must not do so there.
                yield ev.NodeDrained(event.at_s, event.node)
            for running in there:
                why = {"why": f"{event.node}: {event.reason}"}
                yield from self._over(running, Ended(running.attempt.folder, "lost", why))
        yield event

    async def _end(self, ended: Ended) -> None:
        running = self._running.get(ended.folder.parent.name)
        if running is None or running.attempt.folder != ended.folder:
            return
        events = list(self._over(running, ended))
        failpoint("driver.before_commit")
        await self.happen(*events)
        failpoint("driver.committed")
        checkpoints = running.attempt.folder / "checkpoints"
        if checkpoints.exists():
            await asyncio.to_thread(shutil.rmtree, checkpoints, ignore_errors=True)

    def _over(self, running: "_Running", ended: Ended) -> Iterator[ev.Event]:
        """The last words of an attempt and the event that its end is; from now on it is nobody."""
        job = running.attempt.job
        self._count_joules()
        del self._running[job]
        self.endpoints.pop(job, None)
        if ended.outcome in ("lost", "failed"):
            running.attempt.fence()
        yield from self._heard(running, last=True)
        yield self._verdict(running, ended)

    def _verdict(self, running: "_Running", ended: Ended) -> ev.Event:
        """The event that an end is."""
        now, attempt = self.clock(), running.attempt
        job, number = attempt.job, attempt.number
        result = attempt.result()
        if result and result["outcome"] == "done":  # said whole, whoever died after it
            return self._done(running, result["results"], now)
        used = self._used(running, now)
        if ended.outcome == "stopped":
            return ev.JobStopped(now, job, number, used)
        if ended.outcome == "lost":
            reason = ended.error.get("why", "the executor is gone")
            return ev.JobLost(now, job, number, reason, used)
        return ev.JobFailed(now, job, number, ended.error, used)

    def _count_joules(self) -> None:
        """Share out what this machine drew since the last count, where it tells."""
        self._counted_s = time.monotonic()
        if self._shares is not None:
            on_cpu = self._here == "cpu"
            held = {
                job: Held(
                    sum(running.started.chips), cpu_s(running.attempt.folder) if on_cpu else None
                )
                for job, running in self._running.items()
            }
            self._shares.turn(self._counted_s, held)

    def _used(self, running: "_Running", until_s: float) -> dict[str, Any]:
        running.enter("end", until_s)
        return meter.used(
            self.plan.where(running.started.pool),
            sum(running.started.chips),
            max(0.0, until_s - running.started.at_s),
            running.attempt.cpu_s() if self._device_of(running.started.pool) == "cpu" else None,
            running.phases,
            measured_j=self._shares.end(running.started.job) if self._shares else None,
            rates=self.rates,
            began_unix_s=self.opened_unix_s + running.started.at_s,
        )

    def ask_to_stop(self, running: "_Running") -> None:
        """Have an attempt end at its next checkpoint; one that does not is killed."""
        running.attempt.ask_to_stop()
        running.stop_by_s = self.clock() + GRACE_S

    async def _recover(self, rows: list[Row]) -> None:
        """The state from the ledger; then what ran is committed if it ended, else lost."""
        started: dict[str, ev.JobStarted] = {}
        for row in rows:
            event = row.event()
            if isinstance(event, ev.RunOpened):
                self.opened_unix_s = event.opened_unix_s
            elif isinstance(event, ev.JobSubmitted):
                self.planned.setdefault(event.job, _planned(event))
            elif isinstance(event, ev.JobStarted):
                started[event.job] = event
            elif isinstance(event, ev.TenantChanged):
                self.spending.hear(event)
            self._wakes += [c.at_s for c in self.factory.apply(event) if isinstance(c, Wake)]
        self._set_clock(rows[-1].at_s)
        self.spending.refill()
        for job in self.factory.running():
            number = self.factory.attempt(job)
            attempt = Attempt(job, number, self.home.attempt(self.run, job, number))
            held_until_s = attempt.renewed_unix_s() - self.opened_unix_s
            attempt.fence()  # which takes its lease away
            if job in started and started[job].attempt == number:
                await self._adopt(_Running(attempt, started[job]), held_until_s)
            else:  # the works died between the command and the start
                await self.happen(ev.JobLost(self.clock(), job, number, RESTARTED, {}))

    async def _adopt(self, running: "_Running", held_until_s: float) -> None:
        """Settle an attempt that ran when the works died, by what lies in its folder.

        It held its chips at least until the works last renewed its lease.
        """
        attempt = running.attempt
        until_s = max(running.started.at_s, held_until_s)
        for news in attempt.news():
            until_s = max(until_s, news["unix_s"] - self.opened_unix_s)
            if "phase" in news:
                running.enter(news["phase"], news["unix_s"] - self.opened_unix_s)
            if news.get("checkpoint", 0) > self.factory.step_of(attempt.job):
                await self.happen(*self._checkpointed(attempt, news))
        result = attempt.result()
        if result and result["outcome"] == "done":
            await self.happen(self._done(running, result["results"], until_s))
        else:
            used = self._used(running, until_s)
            lost = ev.JobLost(self.clock(), attempt.job, attempt.number, RESTARTED, used)
            await self.happen(lost)

    def _checkpointed(self, attempt: Attempt, news: dict[str, Any]) -> Iterator[ev.Event]:
        """A checkpoint counts when it lies where its attempt cannot touch it any more."""
        if step := int(news.get("checkpoint", 0)):
            kept = self.home.checkpoints(self.run, attempt.job)
            if attempt.take_checkpoint(step, kept):
                yield ev.JobCheckpointed(self.clock(), attempt.job, attempt.number, step)

    def _done(self, running: "_Running", results: dict[str, Any], until_s: float) -> ev.JobDone:
        """The commit of an attempt; only an evaluation can end well and not pass."""
        return ev.JobDone(
            self.clock(),
            running.attempt.job,
            running.attempt.number,
            bool(results.get("passed", True)),
            results,
            self._used(running, until_s),
        )


class _Running:
    """An attempt that runs, with the clock of its phases."""

    def __init__(self, attempt: Attempt, started: ev.JobStarted):
        self.attempt, self.started = attempt, started
        self.phases: dict[str, float] = {}
        self.unsaid: dict[str, Any] = {}
        self.said_s = 0.0
        self.stop_by_s: float | None = None
        self._phase, self._since_s = "wait", started.at_s

    def enter(self, phase: str, at_s: float) -> None:
        """A phase begins, so another ends."""
        spent_s = max(0.0, at_s - self._since_s)
        self.phases[self._phase] = self.phases.get(self._phase, 0.0) + spent_s
        self._phase, self._since_s = phase, max(at_s, self._since_s)


def _planned(event: ev.JobSubmitted) -> PlannedJob:
    """The planned job that a submission holds."""
    return PlannedJob(
        spec=JobSpec.model_validate(event.spec),
        quote=Quote.model_validate(event.quote),
        pools=event.pools,
    )
