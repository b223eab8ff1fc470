"""The simulator of bad days: a seed is a small factory and one life of it, checked at every step.

A life is a list of lines: what the factory is (`site`, `pool`, `tenant`, `node`, `rules`), then
what happens, by the driver's clock in seconds. Words of attempts are late, lost, doubled and
out of order; nodes die, power falls, clocks jump, the driver crashes and rebuilds itself from
its ledger. At the end the world becomes kind, and whatever can run has to end. A seed that
fails shrinks to the fewest lines that still do.

    python -m tests.dst --seeds 100000
    python -m tests.dst --seed 17 --write story.txt
    python -m tests.dst --story story.txt
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from gigafactory.factory import Command, Factory, Replace, Start, Stop, Tenant, Wake, queue
from gigafactory.factory import events as ev
from gigafactory.factory import state as st
from gigafactory.factory.preempt import below

WORLD = ("rules", "site", "pool", "tenant", "node")
WORDS = ("started", "checkpoint", "done", "failed", "lost", "stopped")
WORLDLY = (
    *("lose-node", "join", "join", "drain", "cap", "cap", "open", "close"),
    *("cancel", "tick", "tick", "crash", "word", "ask"),
)
LISTS = ("pools", "after", "through", "adopt")
ENDED = tuple(st.STATUS[status] for status in st.ENDED)
WAITS_FOR_EVER = "no job that fits waits for ever"


@dataclass(frozen=True)
class Line:
    """One line of a story. Words of attempts name theirs by age: `old=1` is the one before."""

    verb: str
    subject: str = ""
    at_s: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        at = f"{'':8}" if self.verb in WORLD else f"{self.at_s:6.10g} s"
        more = "  ".join(f"{key}={_text(value)}" for key, value in self.more.items())
        return f"{at}  {self.verb:<10}  {self.subject:<5} {more}".rstrip()


def read(story: str) -> list[Line]:
    """The lines of a story; what follows `>` or `#` is for people."""
    lines = []
    for text in story.splitlines():
        words = text.split()
        if not words or words[0][0] in ">#":
            continue
        at_s = 0.0
        if words[0] not in WORLD:
            at_s, words = float(words[0]), words[2:]
        pairs = [word.partition("=") for word in words[1:] if "=" in word]
        subject = words[1] if len(words) > 1 and "=" not in words[1] else ""
        more = {key: _value(key, value) for key, _, value in pairs}
        lines.append(Line(words[0], subject, at_s, more))
    return lines


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else json.dumps(value).strip('"')


def _value(key: str, text: str) -> Any:
    if key in LISTS:
        return tuple(text.split(",")) if text else ()
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


CORE = {"compiled": False}


class Life:
    """A factory, its driver's ledger, and what was said to it; checked after every event."""

    def __init__(self, world: Iterable[Line]):
        self.world = [line for line in world if line.verb in WORLD]
        self.nodes = {line.subject: line.more for line in self.world if line.verb == "node"}
        self.factory = self.open()
        self.ledger: list[str] = []
        self.submitted: dict[str, ev.JobSubmitted] = {}
        self.wakes: list[float] = []
        self.alone: Factory | None = None
        self.fitting: dict[tuple[Any, ...], bool] = {}
        self.answers: list[list[Command]] = []
        self.told: list[str] = []
        self.now_s = self.latest_s = 0.0
        self.stops: dict[tuple[str, int], int] = {}

    def open(self) -> Factory:
        """The factory before anything happened."""
        of: dict[str, list[Line]] = {verb: [] for verb in WORLD}
        for line in self.world:
            of[line.verb].append(line)
        rules = {key: value for line in of["rules"] for key, value in line.more.items()}
        return Factory(
            [(line.subject, line.more["cap_w"]) for line in of["site"]],
            [(line.subject, line.more["site"], line.more["chip_w"]) for line in of["pool"]],
            [Tenant(line.subject, **line.more) for line in of["tenant"]],
            rules.pop("policy", "fifo"),
            spares=rules.pop("spares", 0),
            rules=rules,
            **CORE,
        )

    def play(self, line: Line) -> list[Command]:
        """Let a line happen, if it may; what the factory answered."""
        self.now_s = line.at_s
        if line.verb == "crash":
            self.told.append(str(line))
            return self._crash(line.more.get("adopt", ()))
        if line.verb == "ask":
            self.told.append(str(line))
            self._ask()
            return []
        event = self._event(line)
        if event is None or not self.factory.accepts(event):
            return []
        self.told.append(str(line))
        return self._happen(event)

    def replay(self) -> Factory:
        """The factory that the ledger alone gives."""
        again = self.open()
        for row, answer in zip(self.ledger, self.answers, strict=True):
            event = ev.from_row(*json.loads(row))
            assert again.accepts(event), "what is in the ledger may happen again"
            assert again.apply(event) == answer, "a replay gives the same commands"
        for name, one, other in zip(
            st.State._fields, _lasting(self.factory), _lasting(again), strict=True
        ):
            assert np.array_equal(one, other), f"a replay gives the same {name}"
        return again

    def fits(self, job: ev.JobSubmitted) -> bool:
        """Whether the job, alone in the whole factory, would start."""
        like = (job.tenant, job.chips, job.chips_min, job.pools)
        if like not in self.fitting:
            alone = self._alone()
            tenant, chips, chips_min, pools = like
            name = f"j{len(self.fitting)}"
            asked = ev.JobSubmitted(0.0, name, tenant, "any", chips, pools, chips_min=chips_min)
            self.fitting[like] = any(isinstance(c, Start) for c in alone.apply(asked))
            alone.apply(ev.JobCancelled(0.0, name, "ann"))
            if self.fitting[like]:
                alone.apply(ev.JobStopped(0.0, name, 1, {}))
        return self.fitting[like]

    def _alone(self) -> Factory:
        """The whole factory, with nothing in it."""
        if self.alone is None:
            self.alone = self.open()
            for name in self.nodes:
                self.alone.apply(self._join(name, 0.0))
        return self.alone

    def _happen(self, event: ev.Event) -> list[Command]:
        kind, _, at_s, body = ev.to_row(event)
        self.ledger.append(json.dumps((kind, at_s, body)))
        self.latest_s = max(self.latest_s, at_s)
        if isinstance(event, ev.JobSubmitted):
            self.submitted[event.job] = event
        before = _glance(self.factory)
        self.answers.append([])  # So that a replay of a failure ends where it failed.
        commands = self.answers[-1] = self.factory.apply(event)
        self.told += [f"        > {_say(command)}" for command in commands]
        self.wakes += [command.at_s for command in commands if isinstance(command, Wake)]
        check(self.factory)
        self._judge(before, event, commands)
        return commands

    def _ask(self) -> None:
        """Somebody asks why every job waits."""
        before = _lasting(self.factory)
        for job in self.factory.jobs():
            reason = self.factory.why(job, self.now_s)
            assert bool(reason) == (self.factory.status(job) == "queued"), "who waits has a reason"
        for one, other in zip(before, _lasting(self.factory), strict=True):
            assert np.array_equal(one, other), "to ask why changes nothing"

    def _crash(self, adopt: tuple[str, ...]) -> list[Command]:
        """The driver forgets all but its ledger; what ran is adopted if it ended, else lost."""
        self.factory = self.replay()
        commands: list[Command] = []
        for job in self.factory.running():
            held = (self.now_s, job, self.factory.attempt(job))
            done = ev.JobDone(*held, True, {}, {})
            adopted = job in adopt and self.factory.accepts(done)
            event = done if adopted else ev.JobLost(*held, "the works restarted", {})
            self.told.append(f"        > {'adopted' if adopted else 'lost':<8}  {job}")
            if self.factory.accepts(event):  # A stop may have taken it meanwhile.
                commands += self._happen(event)
        return commands

    def _event(self, line: Line) -> ev.Event | None:
        """The event that a line means now, or None where it means nothing."""
        at_s, name, more = line.at_s, line.subject, line.more
        match line.verb:
            case "submit":
                return ev.JobSubmitted(at_s, name, kind="pretrain", **more)
            case "tick":
                return ev.Ticked(at_s)
            case "join":
                return self._join(name, at_s, **more) if name in self.nodes else None
            case "lose-node":
                return ev.NodeLost(at_s, name, "chance")
            case "drain":
                return ev.NodeDrained(at_s, name, **more)
            case "cap":
                return ev.SiteCapped(at_s, name, more["cap_w"])
            case "open" | "close":
                return ev.PoolOpened(at_s, name, line.verb == "open")
            case "cancel":
                return ev.JobCancelled(at_s, name, "ann")
        if name not in self.factory.jobs():
            return None
        held = (at_s, name, self.factory.attempt(name) - more.get("old", 0))
        match line.verb:
            case "started":
                return ev.JobStarted(*held, "", (), ())
            case "checkpoint":
                return ev.JobCheckpointed(*held, more["step"])
            case "done":
                return ev.JobDone(*held, more.get("passed", True), {}, {})
            case "failed":
                return ev.JobFailed(*held, {}, {})
            case "lost":
                return ev.JobLost(*held, "its lease ran out", {})
            case "stopped":
                return ev.JobStopped(*held, {})
        raise ValueError(f"no line of a story: {line}")

    def _join(self, name: str, at_s: float, replaced: bool = False) -> ev.NodeJoined:
        return ev.NodeJoined(at_s, name, **self.nodes[name], replaced=replaced)

    def _judge(self, before: dict[str, Any], event: ev.Event, commands: list[Command]) -> None:
        """What must be so between the moment before an event and the moment after it."""
        made, state, now = self.factory, self.factory.state, _glance(self.factory)
        for j, status in enumerate(before["status"]):
            if status in st.ENDED:
                assert now["status"][j] == status, "what has ended stays so"
                assert now["attempt"][j] == before["attempt"][j], "what has ended starts no more"
        starts = [command for command in commands if isinstance(command, Start)]
        assert len({start.job for start in starts}) == len(starts), "no job starts twice at once"
        rows = {name: j for j, name in enumerate(made.jobs())}
        for start in starts:
            self._judge_start(before, event, start, rows[start.job], commands)
        stopped = [command for command in commands if isinstance(command, Stop)]
        assert len(set(stopped)) == len(stopped), "no attempt is told to stop twice at once"
        for stop in stopped:
            told = self.stops[stop.job, stop.attempt] = (
                self.stops.get((stop.job, stop.attempt), 0) + 1
            )
            assert told <= 3, "an attempt is told to stop for room, by its owner, by a lost node"
            if not isinstance(event, ev.NodeEvent | ev.SiteCapped | ev.JobCancelled):
                v = rows[stop.job]
                j = int(state.pools[state.jobs[v]["pool"]]["claim"])
                self._judge_stop(v, j, event.at_s)

    def _judge_start(
        self, before: dict[str, Any], event: ev.Event, start: Start, j: int, commands: list[Command]
    ) -> None:
        state = self.factory.state
        p = self.factory._pools[start.pool]
        job, pool = state.jobs[j], state.pools[p]
        site = state.sites[pool["site"]]
        assert pool["open"], "nothing starts in a closed pool"
        assert not np.isinf(state.likes[job["kind"], p]), "nothing starts where it may not"
        assert site["used_mw"] <= site["cap_mw"], "no start exceeds the power cap"
        assert sum(start.chips) == job["width"], "a gang starts whole"
        assert start.from_step == job["step"], "it goes on from its last checkpoint"
        assert all(map(self.factory.takes_work, start.nodes)), "its nodes take work"
        was = before["status"][j] if j < len(before["status"]) else st.QUEUED
        number = before["attempt"][j] if j < len(before["attempt"]) else 0
        assert start.attempt == number + 1, "attempts are counted"
        over = isinstance(event, ev.AttemptEvent) and event.job == start.job
        fenced = Stop(start.job, number) in commands
        assert was not in st.HOLDS_CHIPS or over or fenced, "one attempt runs at a time"
        claim = before["claim"][p]
        if claim == pool["claim"] >= 0:
            assert claim == j, "room that others make is not taken away"

    def _judge_stop(self, v: int, j: int, now_s: float) -> None:
        """A running job was told to stop so that `j` can have its chips."""
        state = self.factory.state
        assert j >= 0, "a job is stopped for somebody"
        if v == j:
            return  # It comes back wider.
        lower = below(state, v, j, True) or below(state, v, j, False)
        assert lower, "a job is stopped only for one above it"
        ran_s = now_s - state.jobs[v]["started_s"]
        assert ran_s >= state.rules[0]["preempt_after_s"], "who has just started is safe"


def _lasting(made: Factory) -> st.State:
    """The tables without the notes that are of use within one call only."""
    state = st.State(*(table.copy() for table in made.state))
    state.scratch[:], state.lifted[:] = 0, 0
    state.racks["mark"], state.blocks["mark"] = 0, 0
    state.counts[[st.MARK, st.SPAN, st.PICKED]] = 0
    return state


def _glance(made: Factory) -> dict[str, Any]:
    jobs = made.state.jobs[: made.state.counts[st.JOBS]]
    return {
        "status": jobs["status"].tolist(),
        "attempt": jobs["attempt"].tolist(),
        "claim": made.state.pools["claim"].tolist(),
    }


def _say(command: Command) -> str:
    match command:
        case Start():
            places = zip(command.nodes, command.chips, strict=True)
            on = ",".join(f"{node}:{chips}" for node, chips in places)
            step = f"  from_step={command.from_step}" if command.from_step else ""
            return f"start     {command.job}  attempt={command.attempt}  on={on}{step}"
        case Stop():
            return f"stop      {command.job}  attempt={command.attempt}"
        case Replace():
            return f"replace   {command.node}"
        case Wake():
            return f"wake      at={command.at_s:.10g}"


def check(made: Factory) -> None:
    """The invariants of every moment."""
    state, counts = made.state, made.state.counts
    jobs, nodes = _columns(state.jobs, counts[st.JOBS]), _columns(state.nodes, counts[st.NODES])
    pools, sites, racks = (_columns(table) for table in (state.pools, state.sites, state.racks))
    tenants, cohorts = _columns(state.tenants), _columns(state.cohorts)
    on_node, on_site = [0] * len(nodes.up), [0] * len(sites.cap_mw)
    on_rack, chip_mw = [0] * len(racks.cap_mw), state.chip_mw.tolist()
    running: list[list[int]] = [[] for _ in pools.open]
    waiting: list[list[int]] = [[] for _ in tenants.quota]
    paused, used, entitled = [], [0] * len(waiting), [0] * len(waiting)
    for j, status in enumerate(jobs.status):
        p, t, held = jobs.pool[j], jobs.tenant[j], list(made.held(j))
        width, holds = sum(chips for _, chips in held), status in st.HOLDS_CHIPS
        assert width == (jobs.width[j] if holds else 0), "a gang is whole or nothing"
        assert jobs.failures[j] <= jobs.retries[j] + 1, "a job fails no more often than it may"
        if holds:
            assert jobs.chips_min[j] <= width <= jobs.chips[j], "a gang is as wide as it asked"
            running[p].append(j)
        else:
            assert p == -1
            assert not jobs.leaving[j], "who does not run cannot leave"
        for n, chips in held:
            assert chips > 0
            assert nodes.pool[n] == p, "a gang stands in one pool"
            on_node[n] += chips
            on_rack[nodes.rack[n]] += chips * chip_mw[jobs.kind[j]][p]
        if holds:
            on_site[pools.site[p]] += width * chip_mw[jobs.kind[j]][p]
        used[t] += width
        entitled[t] += width * jobs.entitled[j]
        if status == st.QUEUED:
            waiting[t].append(j)
        elif status == st.PAUSED:
            paused.append(j)
        if jobs.claims[j] >= 0:
            assert pools.claim[jobs.claims[j]] == j, "a claim is known to both sides"
            assert status not in st.ENDED, "the dead claim nothing"
        if jobs.reserved[j] >= 0:
            assert pools.next_up[jobs.reserved[j]] == j, "a reservation is known to both sides"
            assert status == st.QUEUED, "only who waits is next"
    for n, up in enumerate(nodes.up):
        assert on_node[n] + nodes.free[n] == nodes.chips[n], "chips are neither lost nor made"
        assert nodes.free[n] >= 0
        assert up or not on_node[n], "nothing runs on a node that is down"
    for p, node_chips in enumerate(pools.node_chips):
        mine = [n for n, pool in enumerate(nodes.pool) if pool == p]
        taking = [n for n in mine if nodes.up[n] and not nodes.drained[n] and not nodes.lemon[n]]
        whole = [n for n in taking if nodes.free[n] == node_chips]
        assert pools.free[p] == sum(nodes.free[n] for n in taking), "what is free is counted"
        assert pools.whole[p] == len(whole), "whole nodes are counted"
        assert pools.leaving[p] == sum(jobs.leaving[j] for j in running[p])
        assert pools.narrow[p] == sum(jobs.width[j] < jobs.chips[j] for j in running[p])
        found = _follow(pools.first_run[p], jobs.behind)
        assert sorted(found) == running[p], "a pool knows who runs in it"
        for free in range(1, node_chips):
            on_shelf = _follow(int(state.shelves[pools.first_shelf[p] + free]), nodes.behind)
            assert sorted(on_shelf) == [n for n in taking if nodes.free[n] == free], (
                "a shelf holds the nodes with so many chips free"
            )
        in_racks = {r for n in mine for r in [nodes.rack[n]]}
        stacked = [n for r in in_racks for n in _follow(racks.first_whole[r], nodes.behind)]
        assert sorted(stacked) == whole, "a rack knows its free nodes"
        if pools.claim[p] >= 0:
            assert jobs.claims[pools.claim[p]] == p, "a claim is known to both sides"
        if pools.next_up[p] >= 0:
            assert jobs.reserved[pools.next_up[p]] == p, "a reservation is known to both sides"
    assert sites.used_mw == on_site, "power is counted"
    assert racks.used_mw == on_rack, "power of racks is counted"
    for cap_mw, used_mw in zip(racks.cap_mw, on_rack, strict=True):
        assert cap_mw == 0 or used_mw <= cap_mw, "a rack carries what stands in it"
    assert tenants.used == used, "tenants are charged for what they hold"
    for t, quota in enumerate(tenants.quota):
        line = _follow(queue.head(state, t), state.links[len(used) :, 0].tolist())
        assert line == sorted(waiting[t], key=lambda j: (-jobs.priority[j], jobs.score[j], j)), (
            "a queue holds who waits, in order"
        )
        if quota >= 0:
            assert tenants.entitled[t] == entitled[t] <= quota, "no more is granted than owned"
            assert used[t] <= quota + tenants.borrow[t], "nobody borrows too much"
    for c, quota in enumerate(cohorts.quota):
        members = [t for t, cohort in enumerate(tenants.cohort) if cohort == c]
        assert cohorts.used[c] == sum(used[t] for t in members) <= quota, "a cohort has its quota"
        assert cohorts.borrowed[c] == sum(used[t] - entitled[t] for t in members)
    assert sorted(_follow(int(counts[st.PAUSED_JOBS]), jobs.behind)) == paused
    assert not any(pools.touched), "a pass leaves nothing to look at"
    assert not any(tenants.fresh), "a pass leaves nobody to look at"
    assert (counts[st.TOUCHED], counts[st.FRESH], counts[st.NEWCOMER]) == (0, 0, st.NOBODY)


def _columns(table: np.ndarray, rows: int | None = None) -> SimpleNamespace:
    """The table by its columns, as plain lists: for small ones quicker than numpy's own."""
    table = table[:rows]
    return SimpleNamespace(**{name: table[name].tolist() for name in table.dtype.names or ()})


def _follow(first: int, after: list[int]) -> list[int]:
    found: list[int] = []
    while first >= 0:
        assert len(found) <= len(after), "a list ends"
        found.append(first)
        first = after[first]
    return found


def draw_world(rng: random.Random) -> list[Line]:
    """A small factory."""
    policy = rng.choice(("fifo", "fifo", "fair", "sjf", "srtf", "deadline"))
    rules: dict[str, Any] = {
        "policy": policy, "backfill": rng.random() < 0.7, "elastic": rng.random() < 0.5,
        "preempt_after_s": rng.choice((0.0, 5.0, 600.0)), "grow_after_s": rng.choice((0.0, 5.0)),
        "lemons": rng.choice((0, 0, 1, 2)), "spares": rng.choice((0, 0, 0, 1)),
    }  # fmt: skip
    world, nodes = [Line("rules", more=rules)], rng.randint(2, 8)
    tight = rng.choice((0, 0, 0, 1.0, 1.5))
    places: list[tuple[str, float, int]] = []
    for s in range(1, rng.randint(1, 3) + 1):
        for _ in range(rng.randint(1, max(1, 4 - s))):
            if len(places) < 3:
                chip_w = rng.choice((5.0, 10.0))
                places.append((f"s{s}/{'abc'[len(places)]}", chip_w, rng.choice((1, 2, 4, 4, 8))))
    full_w = dict.fromkeys((name.split("/")[0] for name, _, _ in places), 0.0)
    for n in range(1, nodes + 1):
        name, chip_w, chips = places[n % len(places)]
        full_w[name.split("/")[0]] += chips * chip_w
        more = {"pool": name, "chips": chips, "rack": f"r{n % 2}", "block": f"b{n % 3 // 2}"}
        if tight:  # All nodes of a rack must agree on it.
            more["rack_w"] = chips * chip_w * tight
        world.append(Line("node", f"n{n}", more=more))
    for site, watts in full_w.items():
        cap_w = max(10.0, watts * rng.choice((0.5, 0.8, 1.0, 1.5)))
        world.insert(1, Line("site", site, more={"cap_w": cap_w}))
    for name, chip_w, _ in places:
        world.append(Line("pool", name, more={"site": name.split("/")[0], "chip_w": chip_w}))
    for tenant in ("lab", "mill", "own", "bank")[: rng.randint(1, 4)]:
        more = {"weight": rng.choice((1.0, 2.0))}
        if rng.random() < 0.6:
            more |= {"quota": rng.randint(0, 12), "cohort": rng.choice(("", "both", "both"))}
            if rng.random() < 0.7:
                more["borrow"] = rng.randint(0, 8)
        world.append(Line("tenant", tenant, more=more))
    rng.shuffle(world)  # In this order all is mended in the end.
    return world


class Driver:
    """Draws what happens next. Words of attempts lie in `mail` until they come, if they do."""

    def __init__(self, rng: random.Random, life: Life):
        self.rng, self.life, self.now_s = rng, life, 0.0
        self.mail: list[tuple[str, str, int, dict[str, Any]]] = []
        self.pools = [line.subject for line in life.world if line.verb == "pool"]
        self.caps = {line.subject: line.more["cap_w"] for line in life.world if line.verb == "site"}
        names = [line.subject for line in life.world if line.verb == "tenant"]
        self.tenants = [*names, *names, "stranger"]
        self.jobs, self.heard = 0, rng.choice((0.25, 0.4, 0.55))

    def lines(self, count: int) -> Generator[Line, list[Command], None]:
        """`count` lines, each drawn when the answer to the one before is known."""
        for node in self.life.nodes:
            if self.rng.random() < 0.9:
                self.hear((yield Line("join", node, self.now_s)))
        for _ in range(count):
            self.tick()
            self.hear((yield self.draw()))

    def tick(self) -> None:
        """The driver's clock goes on, mostly; sometimes it jumps."""
        jump_s = self.rng.choice((0, 0, 1, 1, 2, 10, 70, 700))
        if self.rng.random() < 0.03:
            jump_s = self.rng.choice((-3600, -50, 86_400))
        self.now_s = max(0.0, self.now_s + jump_s)

    def hear(self, commands: list[Command]) -> None:
        """Carry out commands: each becomes words that come later, or never."""
        for command in commands:
            if isinstance(command, Start | Stop):
                word = "started" if isinstance(command, Start) else "stopped"
                held = (command.job, command.attempt)
                if self.rng.random() < 0.1:
                    word = "lost"
                self.mail.append((word, *held, {}))
                if word == "started":
                    self.mail += self._work(*held)

    def _work(self, job: str, attempt: int) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
        rng = self.rng
        for step in range(1, rng.randint(0, 2) + 1):
            yield "checkpoint", job, attempt, {"step": 10 * attempt + step}
        if rng.random() < 0.8:
            word = rng.choice(("done", "done", "done", "failed", "lost"))
            yield word, job, attempt, {"passed": False} if rng.random() < 0.1 else {}

    def draw(self) -> Line:
        """The next line."""
        rng, roll = self.rng, self.rng.random()
        if roll < self.heard and self.mail:
            return self._word()
        if roll < 0.8:
            return self._submit()
        what = rng.choice(WORLDLY)
        if what == "cap":
            site = rng.choice(list(self.caps))
            watts = self.caps[site] * rng.choice((0.0, 0.3, 0.6, 1.0, 1.0))
            return Line("cap", site, self.now_s, {"cap_w": watts})
        if what in ("open", "close"):
            return Line(what, rng.choice(self.pools), self.now_s)
        if what in ("lose-node", "join", "drain"):
            node = rng.choice(list(self.life.nodes))
            flag = {"join": "replaced", "drain": "now"}.get(what, "")
            more = {flag: True} if flag and rng.random() < 0.4 else {}
            return Line(what, node, self.now_s, more)
        if what == "crash":
            jobs = tuple(job for job in self.life.factory.running() if rng.random() < 0.3)
            return Line("crash", "", self.now_s, {"adopt": jobs} if jobs else {})
        if what in ("tick", "ask") or not self.jobs:
            return Line("ask" if what == "ask" else "tick", "", self.now_s)
        job = f"j{rng.randrange(self.jobs)}"
        if what == "cancel":
            return Line("cancel", job, self.now_s)
        more = dict[str, Any](old=1) if rng.random() < 0.3 else {}  # A word out of nowhere.
        word = rng.choice(WORDS)
        return Line(word, job, self.now_s, {**more, "step": 7} if word == "checkpoint" else more)

    def _word(self) -> Line:
        rng = self.rng
        i = 0 if rng.random() < 0.7 else rng.randrange(len(self.mail))
        word, job, attempt, more = self.mail[i]
        if rng.random() > 0.05:  # Else it is heard twice.
            del self.mail[i]
        old = self.life.factory.attempt(job) - attempt
        return Line(word, job, self.now_s, {**more, "old": old} if old else more)

    def _submit(self) -> Line:
        rng, job = self.rng, f"j{self.jobs}"
        pools = rng.sample(self.pools, rng.randint(1, len(self.pools)))
        chips = rng.choice((1, 1, 2, 2, 3, 4, 4, 5, 8, 12))
        more: dict[str, Any] = {
            "tenant": rng.choice(self.tenants), "chips": chips, "pools": tuple(pools),
        }  # fmt: skip
        if rng.random() < 0.4:
            more["priority"] = rng.choice((1, 2, 5))
        if rng.random() < 0.4:
            more["chips_min"] = rng.randint(1, chips)
        if rng.random() < 0.7:
            more["expected_s"] = rng.choice((1.0, 20.0, 100.0, 5000.0))
        if rng.random() < 0.2:
            more["retries"] = rng.randint(0, 1)
        if rng.random() < 0.1:
            more["service"] = True
        if rng.random() < 0.2:
            more["deadline_s"] = self.now_s + rng.choice((10.0, 1000.0))
        if self.jobs and rng.random() < 0.2:
            more[rng.choice(("after", "through"))] = (f"j{rng.randrange(self.jobs)}",)
        self.jobs += 1
        return Line("submit", job, self.now_s, more)


def be_kind(life: Life) -> None:
    """All is well from now on: every job that can run has to end.

    Only what is amiss is mended, one thing at a time, and time is told only when the factory asked
    to be woken, so that nothing wakes who was forgotten.
    """
    made = life.factory
    now_s = life.latest_s + 1.0
    life.told.append("# from here on all is well")
    for job in made.jobs():
        if made.status(job) not in ENDED and not life.fits(life.submitted[job]):
            life.play(Line("cancel", job, now_s))
    for line in life.world:
        if line.verb == "site":
            row = made.state.sites[made._sites[line.subject]]
            if row["cap_mw"] != round(line.more["cap_w"] * 1e3):
                life.play(Line("cap", line.subject, now_s, line.more))
        if line.verb == "pool" and not made.state.pools[made._pools[line.subject]]["open"]:
            life.play(Line("open", line.subject, now_s))
        if line.verb == "node" and not (
            line.subject in made._nodes and made.takes_work(line.subject)
        ):
            life.play(Line("join", line.subject, now_s, {"replaced": True}))
    while any(made.status(job) not in ENDED for job in made.jobs()):
        running = made.running()
        for job in running:
            if made.status(job) in ("starting", "stopping"):
                now_s += 1.0
                life.play(Line("started", job, now_s))
            now_s += 1.0
            leaves = made.state.jobs[made._jobs[job]]["leaving"]
            life.play(Line("stopped" if leaves else "done", job, now_s))
        if not running:
            if not life.wakes:  # It waits for nothing that could come.
                break
            now_s = max(now_s, *life.wakes) + 1.0
            life.wakes.clear()
            life.play(Line("tick", "", now_s))
    waiting = [job for job in made.jobs() if made.status(job) not in ENDED]
    for job in waiting:
        life.told.append(f"# {job} is {made.status(job)}: {made.why(job, now_s)}")
    assert not waiting, WAITS_FOR_EVER


def live(lines: Iterable[Line], life: Life) -> None:
    """Play the lines, then be kind, then replay it all."""
    for line in lines:
        if line.verb not in WORLD:
            life.play(line)
    be_kind(life)
    life.replay()


def draw(seed: int, events: int = 40) -> tuple[list[Line], BaseException | None]:
    """The story of a seed, and what failed in it, if anything did."""
    rng = random.Random(seed)
    world = draw_world(rng)
    story, life = list(world), Life(world)
    try:
        lines = Driver(rng, life).lines(rng.randint(5, 2 * events - 5))
        answer: list[Command] | None = None
        while True:
            try:
                line = lines.send(answer) if answer is not None else next(lines)
            except StopIteration:
                break
            story.append(line)
            answer = life.play(line)
        live((), life)
    except Exception as fault:
        return story, fault
    return story, None


def failure(story: list[Line]) -> str:
    """What fails when the story is played, or nothing."""
    try:
        live(story, Life(story))
    except Exception as fault:
        return name_of(fault)
    return ""


def name_of(fault: BaseException) -> str:
    """What went wrong in a line; faults alike have names alike."""
    return f"{type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else ''}"


def shrink(story: list[Line], fails: Callable[[list[Line]], bool]) -> list[Line]:
    """The story without the lines that it fails without (Zeller and Hildebrandt 2002)."""
    size = max(1, len(story) // 2)
    while True:
        at, shorter = 0, False
        while at < len(story):
            less = story[:at] + story[at + size :]
            if fails(less):
                story, shorter = less, True
            else:
                at += size
        if size == 1 and not shorter:
            return story
        size = max(1, size // 2) if not shorter or size > 1 else 1


def shortest(story: list[Line]) -> list[Line]:
    """The fewest lines of the story that fail in the same way."""
    wanted = failure(story)
    return shrink(story, lambda less: failure(less) == wanted)


def tell(story: list[Line]) -> str:
    """The story with what the factory answered, for people and for `read`."""
    life, ends = Life(story), "# it holds"
    told = [str(line) for line in life.world]
    try:
        live(story, life)
    except Exception as fault:
        ends = f"# {name_of(fault)}"
    return "\n".join([*told, *life.told, ends]) + "\n"


def use(compiled: bool) -> None:
    """Let every `Factory` from now on run the compiled core, or the plain one."""
    CORE["compiled"] = compiled


def main() -> int:
    """Play seeds until all have held or one has failed."""
    asked = argparse.ArgumentParser(prog="python -m tests.dst", description=__doc__)
    asked.add_argument("--seeds", type=int, default=2000, help="how many")
    asked.add_argument("--first", type=int, default=0, help="the first of them")
    asked.add_argument("--seed", type=int, help="this one, told whole")
    asked.add_argument("--story", help="play the story in this file")
    asked.add_argument("--write", help="write a failing story to this file")
    asked.add_argument("--all", action="store_true", help="go on after a failure")
    asked.add_argument("--plain", action="store_true", help="the core as plain Python")
    told = asked.parse_args()
    use(compiled=not (told.plain or told.story))
    if told.story:
        with open(told.story, encoding="utf-8") as file:
            story = read(file.read())
        print(tell(story), end="")
        return 1 if failure(story) else 0
    if told.seed is not None:
        story, fault = draw(told.seed)
        return _show(told.seed, story, fault, told.write) if fault else print(tell(story)) or 0
    failed, began_s = 0, time.monotonic()
    names: dict[str, int] = {}
    for seed in range(told.first, told.first + told.seeds):
        story, fault = draw(seed)
        if fault:
            failed += 1
            names[name_of(fault)] = names.get(name_of(fault), 0) + 1
            if names[name_of(fault)] == 1:
                _show(seed, story, fault, told.write)
            if not told.all:
                return 1
        if (done := seed - told.first + 1) % 1000 == 0:
            rate = done / (time.monotonic() - began_s)
            print(f"{done:,} of {told.seeds:,} seeds, {rate:.0f} a second, {failed} failed")
            sys.stdout.flush()
    for name, count in names.items():
        print(f"{count:6} x {name}")
    return 1 if failed else 0


def _show(seed: int, story: list[Line], fault: BaseException, path: str | None) -> int:
    text = f"# seed {seed}: {name_of(fault)}\n{tell(shortest(story))}"
    print(text, end="", flush=True)
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    return 1


if __name__ == "__main__":
    sys.exit(main())
