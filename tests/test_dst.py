"""The simulator of bad days: seeds hold, planted bugs are found and told in a few lines."""

import asyncio
import itertools
import random
import time
from collections import Counter

import pytest

from gigafactory.factory import events as ev
from gigafactory.factory import quota, schedule, step
from gigafactory.jobs.context import PROGRESS
from gigafactory.works.driver import Works
from gigafactory.works.home import Home
from tests import dst
from tests.test_works import Crash, Fuse, FusedLedger, Stage, check, plan

SEEDS = 2000


@pytest.fixture
def compiled():
    dst.use(compiled=True)
    yield
    dst.use(compiled=False)


@pytest.mark.parametrize("first", range(0, SEEDS, 250))
def test_every_seed_holds(first, compiled):
    for seed in range(first, first + 250):
        story, fault = dst.draw(seed)
        assert fault is None, f"\n{dst.tell(dst.shortest(story))}"


def test_seeds_hold_in_plain_python_too():
    for seed in range(20):
        story, fault = dst.draw(SEEDS + seed)
        assert fault is None, f"\n{dst.tell(dst.shortest(story))}"


def test_what_the_compiled_core_lived_the_plain_one_replays(compiled):
    for seed in range(10):
        story, _ = dst.draw(seed)
        life = dst.Life(story)
        dst.live(story, life)
        dst.use(compiled=False)
        life.replay()
        dst.use(compiled=True)


def test_a_seed_is_the_same_story_every_time():
    (one, _), (other, _) = dst.draw(3), dst.draw(3)
    assert one == other
    assert len(one) > 20


def test_a_story_reads_as_it_was_written():
    for seed in range(5):
        story, _ = dst.draw(seed)
        told = dst.tell(story)
        again = dst.read(told)
        assert dst.tell(again).splitlines()[-1] == "# it holds"
        assert [line for line in dst.read(dst.tell(again)) if line.verb == "submit"] == [
            line for line in story if line.verb == "submit"
        ]


def test_seeds_bring_every_kind_of_event_and_every_command():
    verbs, commands = Counter(), Counter()
    for seed in range(40):
        story, _ = dst.draw(seed)
        verbs.update(line.verb for line in story)
        for line in dst.tell(story).splitlines():
            if line.strip().startswith(">"):
                commands[line.split()[1]] += 1
    assert set(verbs) >= {*dst.WORLD, *dst.WORDS, "submit", "lose-node", "join", "drain", "cap",
                          "open", "close", "cancel", "tick", "crash", "ask"}  # fmt: skip
    assert set(commands) >= {"start", "stop", "wake", "replace"}


# Bugs, planted: each is found by some seed, and the story that is left fails only with it.


def forget_the_cohort(state, j, entitled, now_s):
    state.jobs[j]["entitled"] = entitled
    state.tenants[state.jobs[j]["tenant"]]["used"] += state.jobs[j]["width"]


def forget_who_waits_for_quota(state, j, now_s):
    quota._count(state, j, -state.jobs[j]["width"], now_s)


PLANTED = [
    (schedule, "take", forget_the_cohort, "AssertionError"),
    (schedule, "may_pass", lambda *_: True, "AssertionError: room that others make"),
    (step, "give_back", forget_who_waits_for_quota, f"AssertionError: {dst.WAITS_FOR_EVER}"),
    (step, "touch_site", lambda *_: None, f"AssertionError: {dst.WAITS_FOR_EVER}"),
    (schedule, "freshen", lambda *_: None, f"AssertionError: {dst.WAITS_FOR_EVER}"),
    (schedule, "seconds_left", lambda *_: time.monotonic(), "AssertionError: a replay"),
]


@pytest.mark.parametrize(("module", "name", "bug", "says"), PLANTED)
def test_a_planted_bug_is_told_in_a_few_lines(module, name, bug, says, monkeypatch):
    with monkeypatch.context() as planted:
        planted.setattr(module, name, bug)
        found = (dst.draw(seed) for seed in itertools.count())
        story = next(
            story for story, fault in itertools.islice(found, 400)
            if fault and dst.name_of(fault).startswith(says)
        )  # fmt: skip
        short = dst.shortest(story)
        told = dst.tell(short)
        assert sum(line.verb not in dst.WORLD for line in short) < 15, told
        assert dst.failure(dst.read(told)).startswith(says), told
    assert dst.failure(dst.read(told)) == "", told


# The works: the real driver and ledger over an engine whose words go astray.


class Unruly(Stage):
    """Ends are told late, twice or out of order; a dying attempt leaves half a line."""

    def __init__(self, rng, script):
        super().__init__(script)
        self.rng, self.untold = rng, []

    def ended(self):
        for end in super().ended():
            if end.outcome == "lost" and self.rng.random() < 0.5:
                with open(end.folder / PROGRESS, "a") as file:
                    file.write('{"unix_s": 1')
            self.untold += [end] * self.rng.choice((1, 1, 2))
        self.rng.shuffle(self.untold)
        told = [end for end in self.untold if self.rng.random() < 0.5]
        for end in told:
            self.untold.remove(end)
        return told


async def live(home, ledger, rng, script):
    """One life of the works; its node dies and comes back, its clock jumps."""
    works = Works(home, plan(), "mill-1", ledger)
    works.engine = Unruly(rng, script)
    began_s, jumped_s = time.time(), [0.0]
    works.clock = lambda: 1000.0 * (time.time() - began_s) + jumped_s[0]
    await works.open("")
    for _ in range(2000):
        await works.turn()
        if works.factory.settled():
            return
        if rng.random() < 0.05:
            for node, at in plan().nodes().items():
                await works.happen(ev.NodeLost(works.clock(), node, "chance"))
                await works.turn()
                # Another machine each time: the same one would be given up after three.
                await works.happen(ev.NodeJoined(works.clock(), node, *at, replaced=True))
        if rng.random() < 0.05:
            jumped_s[0] += rng.choice((-30.0, 30.0, 3600.0))
        await asyncio.sleep(0.001)
    raise AssertionError("it never settled")


def live_by(seed, home):
    """Lives of the works until one settles."""
    rng = random.Random(seed)
    script = iter([rng.choice(("done", "failed", "lost")) for _ in range(rng.randint(0, 3))])
    fuses = [Fuse(rng.randint(1, 25), rng.random() < 0.5) for _ in range(rng.randint(0, 4))]
    for fuse in [*fuses, Fuse()]:
        ledger = FusedLedger(home.ledger, fuse)
        try:
            asyncio.run(live(home, ledger, rng, script))
            return
        except Crash:
            pass
        finally:
            ledger.close()


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_the_works_end_the_same_whatever_goes_astray(first, tmp_path):
    for seed in range(first, first + 20):
        home = Home(tmp_path / str(seed))
        live_by(seed, home)
        check(home)
