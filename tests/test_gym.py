"""Tasks as environments: Gymnasium's, and one of Gymnasium's own to the last bit."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from benchmarks import ant
from gigafactory.jobs.worlds import gym, task
from gigafactory.jobs.worlds.scene import WorldRefused, seed_of
from tests.point import Point

ENVIRONMENT = "gigafactory.jobs.worlds.gym:gigafactory/Warehouse-v0"


@pytest.fixture
def points(monkeypatch):
    """Whatever the world, what is to be done in it is to reach a point."""
    monkeypatch.setattr(task, "make", Point)


def test_gymnasiums_own_examiner_passes_a_world(points):
    check_env(gymnasium.make(ENVIRONMENT, render_mode="rgb_array").unwrapped)


def test_an_episode_of_one_copy_ends_where_the_task_says(points):
    env = gymnasium.make(ENVIRONMENT)
    observation, told = env.reset(seed=3)
    terminated = truncated = False
    while not terminated and not truncated:
        observation, _, terminated, truncated, told = env.step(np.sign(observation[:2]))
    assert terminated
    assert told == {"success": True, "collision": False}
    env.reset(seed=3)
    for _ in range(Point.steps_max):
        _, _, terminated, truncated, _ = env.step(np.zeros(2, np.float32))
    assert truncated
    assert not terminated


def test_what_ended_begins_a_fresh_training_layout_in_the_next_step(points):
    envs = gymnasium.make_vec(ENVIRONMENT, num_envs=3, vectorization_mode="vector_entry_point")
    first, _ = envs.reset(seed=7)
    alone = Point({}, 1)
    assert np.array_equal(first[1], alone.reset([seed_of(7, "train", 1)])[0])
    observation, ended = first, np.zeros(3, bool)
    while not ended[1]:
        action = np.zeros((3, 2), np.float32)
        action[1] = np.sign(observation[1, :2])
        observation, _, terminated, truncated, told = envs.step(action)
        ended = terminated | truncated
        assert not ended[[0, 2]].any()
    assert told["success"].tolist() == [False, True, False]
    begun, reward, terminated, truncated, told = envs.step(action)
    assert np.array_equal(begun[1], alone.reset([seed_of(7, "train", 3 + 1)])[0])
    assert reward[1] == 0
    assert not (terminated | truncated).any()
    assert told["_success"].tolist() == [True, False, True]


@pytest.mark.parametrize("action", [0.5, [0.5], [0.1, 0.2, 0.3], [[0.1, 0.2]], ["left", "right"],
                                    [np.nan, 0.0], None])  # fmt: skip
def test_what_is_no_action_of_the_world_is_refused(points, action):
    env = gymnasium.make(ENVIRONMENT).unwrapped
    env.reset(seed=1)
    with pytest.raises(WorldRefused, match=r"(?s)no action.*shape \(2,\)"):
        env.step(action)
    envs = gym.many(3, {"scene": "warehouse"})
    envs.reset(seed=1)
    with pytest.raises(WorldRefused, match=r"(?s)no action.*shape \(3, 2\)"):
        envs.step(action)


def test_the_same_seed_gives_the_same_layouts_again(points):
    envs = gym.many(4, {"scene": "warehouse"})
    first, _ = envs.reset(seed=1)
    later, _ = envs.reset()
    again, _ = envs.reset(seed=1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)


def test_a_world_with_nothing_to_do_in_it_is_refused():
    with pytest.raises(ValueError, match=r"(?s)nobody knows.*worlds\.mine.*hint: give"):
        task.make({"name": "mine"}, 1)


def test_ant_is_gymnasiums_ant_to_the_last_bit():
    """Observations, rewards, ends, infos: 100 steps of 4 copies, with falls and resets."""
    theirs = gymnasium.make_vec("Ant-v5", num_envs=4, vectorization_mode="sync")
    ours = ant.many(4)
    act = np.random.default_rng(5)
    same(theirs.reset(seed=11), ours.reset(seed=11))
    ends = 0
    for _ in range(100):
        action = act.uniform(-1, 1, (4, 8)).astype(np.float32)
        # What a copy is thrown to the ground by, so that some fall within the test.
        action[0] = 1
        expected, told = theirs.step(action), ours.step(action)
        same(expected, told)
        ends += int((expected[2] | expected[3]).sum())
    assert theirs.single_observation_space == ours.single_observation_space
    assert theirs.single_action_space == ours.single_action_space
    assert ends > 0


def same(expected, told):
    """Equal to the last bit, shapes, types and infos included."""
    for theirs, ours in zip(expected[:-1], told[:-1], strict=True):
        assert theirs.dtype == ours.dtype
        assert np.array_equal(theirs, ours)
    assert expected[-1].keys() == told[-1].keys()
    for name, theirs in expected[-1].items():
        assert theirs.dtype == told[-1][name].dtype, name
        assert np.array_equal(theirs, told[-1][name]), name
