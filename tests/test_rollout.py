"""Episodes and what they are judged by."""

import json

import numpy as np
import pytest

from gigafactory.jobs import closed_loop, evaluate, policy, rollout, worlds
from gigafactory.jobs.context import Context
from gigafactory.jobs.intervals import paired, wilson
from gigafactory.jobs.synthesize.formats import lerobot
from gigafactory.jobs.worlds import task
from gigafactory.jobs.worlds.scene import seed_of
from tests.point import PARAMETERS, Point

WORLD = {"name": "floor", "scene": "warehouse"}


@pytest.fixture
def points(monkeypatch):
    """Whatever the world, what is to be done in it is to reach a point."""
    monkeypatch.setattr(task, "make", Point)
    monkeypatch.setattr(worlds, "parameters", lambda scene: PARAMETERS)


def rolled(folder, **more):
    work = {"kind": "rollout", "world": WORLD, "policy": "expert", "episodes": 70, "video": 0}
    context = Context.alone(folder, work | more)
    return context, rollout.run(context)


def test_wilsons_interval_is_the_published_one():
    """Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<857, table I."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_interval_of_pairs_is_the_published_one():
    """Fagerland, Lydersen, Laake 2014, doi:10.1002/sim.6148: two clinical trials, by Tango."""
    assert paired(6, 16, 161) == pytest.approx((-0.1240, -0.0054), abs=5e-5)
    assert paired(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_pairs_that_never_differ_leave_a_width_and_swapping_them_turns_it_round():
    low, high = paired(0, 0, 300)
    assert low == -high < 0
    assert paired(3, 9, 100) == tuple(-end for end in reversed(paired(9, 3, 100)))
    assert paired(300, 0, 300)[1] == pytest.approx(1)


def test_the_interval_of_pairs_keeps_its_promise():
    """Of 2,000 samples of 60 pairs with a known difference, at least 94 % hold it."""
    draw = np.random.default_rng(3)
    both, first, second = 0.80, 0.12, 0.04
    held = 0
    for _ in range(2000):
        _, b, c, _ = draw.multinomial(60, [both, first, second, 1 - both - first - second])
        low, high = paired(int(b), int(c), 60)
        held += low <= first - second <= high
    assert held / 2000 > 0.94


def test_episodes_of_the_expert_are_recorded_with_what_it_would_have_done(points, tmp_path):
    context, told = rolled(tmp_path)
    episodes = list(lerobot.read(context.output / "episodes"))
    assert len(episodes) == told["episodes"] == 70
    assert told["steps"] == sum(len(each.reward) for each in episodes)
    assert told["steps_per_cpu_s"] > 0
    assert told["success"] == 1.0
    summary = json.loads((context.output / "summary.json").read_text())
    assert summary["pushed"] == list(range(1, 70, 2))
    for number, each in enumerate(episodes):
        assert each.seed == seed_of(0, "train", number)
        to = each.observation[:, :2]
        expert = to / np.maximum(np.linalg.norm(to, axis=1, keepdims=True), 0.2)
        assert each.action == pytest.approx(expert, abs=1e-6)
        moved = np.diff(each.observation[:, 2:], axis=0)
        as_told = np.allclose(moved, 0.2 * each.action[:-1], atol=1e-6)
        assert as_told != (number in summary["pushed"])


def test_the_same_seed_gives_the_same_bytes_in_parts_that_others_made(points, tmp_path):
    one, _ = rolled(tmp_path / "one", video=2)
    two = Context.alone(tmp_path / "two", one.work)
    (two.folder / "parts").mkdir()
    for index in (2, 0):  # another worker was there before
        part = two.folder / "parts" / f"{index:06d}"
        part.mkdir()
        rollout.part(index, part, one.work, None, one.check)
    rollout.run(two)
    files = sorted(each.relative_to(one.output) for each in one.output.rglob("*.*"))
    assert len(files) > 6
    for file in files:
        assert (one.output / file).read_bytes() == (two.output / file).read_bytes(), file


def test_the_first_episodes_are_filmed(points, tmp_path):
    from gigafactory.jobs.video import read

    context, told = rolled(tmp_path, episodes=3, video=2, policy="random")
    films = sorted((context.output / "video").iterdir())
    assert [film.name for film in films] == ["episode-000000.mp4", "episode-000001.mp4"]
    assert told["videos"] == 2
    (first, *_) = lerobot.read(context.output / "episodes")
    pictures = list(read(films[0]))
    assert len(pictures) == len(first.reward) + 1
    assert pictures[0].shape == (rollout.HEIGHT, rollout.WIDTH, 3)
    assert not np.array_equal(pictures[0], pictures[-1])


def test_heldout_episodes_are_not_pushed_and_share_no_layout(points, tmp_path):
    train, _ = rolled(tmp_path / "train")
    heldout, _ = rolled(tmp_path / "heldout", layouts="heldout")
    assert json.loads((heldout.output / "summary.json").read_text())["pushed"] == []
    seeds = [
        {each.seed for each in lerobot.read(context.output / "episodes")}
        for context in (train, heldout)
    ]
    assert not seeds[0] & seeds[1]


def test_a_policy_is_judged_beside_the_expert_and_chance_in_the_same_layouts(points, tmp_path):
    drives, _ = rolled(tmp_path / "drives")
    models = {}
    for name, steps in (("novice", 20), ("pilot", 300)):
        work = {"learns": "policy", "of": ["drives"], "steps": steps}
        learner = Context.alone(tmp_path / name, work, inputs={"drives": drives.output})
        policy.run(learner)
        models[name] = learner.output
    work = {
        "kind": "evaluate",
        "suite": "closed_loop",
        "of": "novice",
        "against": "pilot",
        "world": WORLD,
        "examples": 40,
        "gate": {"success_low": ">= 0.8", "coverage": ">= 0.9"},
    }
    context = Context.alone(tmp_path / "judge", work, inputs=models)
    told = evaluate.run(context)
    metrics = told["metrics"]
    assert not told["passed"]
    assert [verdict["passed"] for verdict in told["verdicts"]] == [False, True]
    assert metrics["expert_success"] == metrics["against_success"] == 1.0
    assert metrics["random_success"] < 0.5
    assert metrics["success"] + metrics["collisions"] + metrics["timeouts"] == pytest.approx(1)
    assert metrics["success_low"] < metrics["success"] < metrics["success_high"]
    assert metrics["gap_to_expert"] == pytest.approx(1 - metrics["success"])
    assert metrics["gap_to_expert"] < metrics["gap_to_expert_high"]
    assert metrics["regression_low"] < metrics["success"] - 1
    lines = (context.output / "episodes.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    seeds = {
        arm: [row["seed"] for row in rows if row["arm"] == arm]
        for arm in ("learned", "expert", "random", "against")
    }
    assert all(each == seeds["learned"] for each in seeds.values())
    failed = [sample for sample in told["samples"] if sample["outcome"] != "success"]
    films = [sample["video"] for sample in failed[: closed_loop.FILMED]]
    assert films
    for film in films:
        assert (context.output / film).stat().st_size > 1000


def test_a_failure_is_the_same_again_from_its_seed_alone(points, tmp_path):
    seeds = [seed_of(4, "heldout", number) for number in range(9)]
    together, alone = Point({}, 9), Point({}, 1)
    played = rollout.play(together, seeds, rollout.actor("random", together, seeds))
    for seed, each in zip(seeds, played, strict=True):
        (again,) = rollout.play(alone, [seed], rollout.actor("random", alone, [seed]))
        assert rollout.row(again) == rollout.row(each)


def test_coverage_counts_bins_of_what_may_be_drawn(points):
    rows = [{"drawn": {"reach": 0.5, "walls": 1}}, {"drawn": {"reach": 0.96, "walls": 4}}]
    assert closed_loop.coverage(WORLD, rows) == (2 + 2) / (10 + 4)
    narrowed = WORLD | {"ranges": {"reach": (0.5, 0.5), "walls": (4, 4)}}
    assert closed_loop.coverage(narrowed, rows[:1] and [rows[1]]) == 1.0
