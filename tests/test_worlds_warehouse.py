"""The warehouse: what a seed gives, what the gates let through, and a robot that finds its way."""

import os
import re
from dataclasses import replace

os.environ.setdefault("MUJOCO_GL", "egl")

import mujoco
import numpy as np
import pytest

from gigafactory.jobs import worlds
from gigafactory.jobs.worlds import gates, navigate, warehouse
from gigafactory.jobs.worlds.fleet import Fleet
from gigafactory.jobs.worlds.navigate import Navigate
from gigafactory.jobs.worlds.scene import PARKED_Z, Scene, WorldRefused, seed_of, things

HALL = {"name": "hall", "scene": "warehouse"}
FEW, MANY = {"people": (0, 0), "boxes": (12, 12)}, {"people": (5, 5), "robots": (4, 4)}


def failed(scene: Scene) -> set[str]:
    return {gate.name for gate in gates.check(scene) if not gate.passed}


def scene_of(bodies: str, seed: int = 0) -> Scene:
    floor = '<geom type="plane" size="5 5 1"/>'
    mjcf = f"<mujoco><worldbody>{floor}{bodies}</worldbody></mujoco>"
    return Scene("import", seed, mjcf, {}, ())


# What a seed gives.


def test_a_seed_gives_the_same_bytes_and_another_seed_another_hall():
    assert worlds.build(HALL, 7).mjcf == worlds.build(HALL, 7).mjcf
    assert worlds.build(HALL, 7).mjcf != worlds.build(HALL, 8).mjcf


def test_what_is_drawn_stays_within_what_was_asked():
    for seed in range(20):
        drawn = worlds.build({**HALL, "ranges": {"people": [1, 2], "aisle": [3, 3]}}, seed).drawn
        assert drawn["people"] in (1, 2)
        assert drawn["aisle"] == 3
        for name, range_ in worlds.parameters("warehouse").items():
            assert range_.low <= drawn[name] <= range_.high


def test_without_randomisation_the_layout_stays_and_the_looks_are_nominal():
    wild, plain = warehouse.build(3), warehouse.build(3, randomise=False)
    for name, range_ in warehouse.PARAMETERS.items():
        if name in warehouse.LOOKS:
            assert plain.drawn[name] == range_.middle
        else:
            assert plain.drawn[name] == wild.drawn[name]
    assert np.array_equal(plain.model().geom_size, wild.model().geom_size)


@pytest.mark.parametrize(
    ("ranges", "says"),
    [
        ({"peple": (1, 2)}, "peple"),
        ({"people": (1, 99)}, "whole numbers from 0 to 5"),
        ({"people": (1.5, 2)}, "whole numbers"),
        ({"aisle": (3, 2.5)}, "the lower first"),
        ({"aisle": 3}, "two numbers"),
    ],
)
def test_a_range_that_cannot_be_is_refused_by_name(ranges, says):
    with pytest.raises(WorldRefused, match=says):
        worlds.build({**HALL, "ranges": ranges}, 0)


def test_an_unknown_scene_is_refused_with_those_there_are():
    with pytest.raises(WorldRefused, match="warehouse, factory, road"):
        worlds.build({"name": "sea", "scene": "harbour"}, 0)


def test_the_splits_share_no_seed():
    train = {seed_of(5, "train", i) for i in range(2000)}
    heldout = {seed_of(s, "heldout", i) for s in (5, 6) for i in range(2000)}
    assert len(train) == 2000
    assert len(heldout) == 4000
    assert not train & heldout
    # Not by luck: the last bit is the split.
    assert {seed % 2 for seed in train} == {0}
    assert max(train | heldout) < 2**53


def test_every_seed_gives_the_same_structure():
    first = warehouse.build(0).model()
    sizes = [name for name in dir(first) if re.fullmatch(r"n[a-zA-Z_]+", name)]
    sizes = [name for name in sizes if isinstance(getattr(first, name), int)]
    names = [first.body(b).name for b in range(first.nbody)]
    for seed, ranges in enumerate([FEW, MANY, {}, {"rack_rows": (2, 2), "rack_columns": (2, 2)}]):
        model = warehouse.build(seed, ranges).model()
        # A paging of memory aside (and what is weightless, which no array counts).
        differ = [n for n in sizes if getattr(model, n) != getattr(first, n)]
        assert set(differ) <= {"nbuffer", "ngravcomp"}
        assert [model.body(b).name for b in range(model.nbody)] == names
        batch = mujoco.batch.Batch(first, 2, 1)
        batch.set_models([first, model])
        batch.step()


def test_things_have_names_classes_and_all_their_geoms():
    model = warehouse.build(1, MANY).model()
    found = things(model)
    assert {thing.class_ for thing in found} == set(warehouse.CLASSES)
    assert [thing.number for thing in found] == list(range(1, len(found) + 1))
    robot = next(thing for thing in found if thing.name == "robot/0")
    owners = {model.body(model.geom_bodyid[geom]).name for geom in robot.geoms}
    assert owners == {"robot/0", "robot/0/left", "robot/0/right"}
    geoms = [geom for thing in found for geom in thing.geoms]
    assert len(geoms) == len(set(geoms))


# Moments.


def test_a_moment_puts_everyone_where_there_is_room_and_repeats_from_its_seed():
    scene = warehouse.build(4, MANY)
    model = scene.model()
    simulation = mujoco.MjData(model)
    for seed in range(20):
        drawn = warehouse.moment(model, simulation, np.random.default_rng(seed))
        assert set(drawn) == set(warehouse.LOOKS)
        # Nobody within anything: all that touches is wheels on the floor.
        assert not simulation.sensordata.any()
    before = simulation.qpos.copy(), model.geom_rgba.copy(), simulation.mocap_pos.copy()
    other = scene.model()
    again = mujoco.MjData(other)
    warehouse.moment(other, again, np.random.default_rng(19))
    assert np.array_equal(before[0], again.qpos)
    assert np.array_equal(before[1], other.geom_rgba)
    assert np.array_equal(before[2], again.mocap_pos)


def test_people_walk_and_robots_drive_and_nobody_is_touched():
    model = warehouse.build(2, MANY).model()
    simulation = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    warehouse.moment(model, simulation, rng)
    walked, driven = np.zeros(5), np.zeros(4)
    for _ in range(40):
        people = simulation.mocap_pos[:, :2].copy()
        robots = warehouse.poses(simulation.qpos, 4)[:, :2]
        warehouse.advance(model, simulation, rng, 0.5)
        walked += np.linalg.norm(simulation.mocap_pos[:, :2] - people, axis=1)
        driven += np.linalg.norm(warehouse.poses(simulation.qpos, 4)[:, :2] - robots, axis=1)
        assert not simulation.sensordata.any()
    assert simulation.time == pytest.approx(20)
    assert (walked > 4).all()
    assert (driven > 2).all()


# The gates.


def test_twenty_halls_pass_every_gate():
    for seed in range(20):
        measured = gates.check(warehouse.build(seed))
        assert {"goes straight", "wheels grip"} <= {gate.name for gate in measured}
        assert [gate for gate in measured if not gate.passed] == [], f"seed {seed}"


def test_casters_that_rub_are_found_out():
    sane = warehouse.build(0)
    floor = re.search(r'<geom name="floor"[^>]*>', sane.mjcf)[0]
    rubs = sane.mjcf.replace(floor, floor.replace('condim="1"', 'condim="3"'))
    assert "wheels grip" in failed(replace(sane, mjcf=rubs))


def test_a_wheel_of_another_size_does_not_go_straight():
    sane = warehouse.build(0)
    wheel = re.search(
        r'<body name="robot/0/left".*?type="ellipsoid" size="([^ "]+)', sane.mjcf, re.S
    )
    smaller = wheel[0].replace(wheel[1], str(0.9 * float(wheel[1])))
    bent = replace(sane, mjcf=sane.mjcf.replace(wheel[0], smaller))
    assert "goes straight" in failed(bent)


def test_a_pallet_in_the_floor_is_found_out():
    sane = warehouse.build(0)
    sunk = re.sub(r'(name="pallet/0" pos="\S+ \S+) \S+"', r'\1 0.02"', sane.mjcf)
    assert sunk != sane.mjcf
    assert failed(replace(sane, mjcf=sunk)) == {"nothing sinks"}


def test_a_stack_that_bursts_is_found_out():
    box = '<body pos="0 0 {z}"><freejoint/><geom type="box" size=".2 .2 .2" mass="5"/></body>'
    sound = "".join(box.format(z=0.2 + 0.4 * i) for i in range(4))
    assert failed(scene_of(sound)) == set()
    pressed = "".join(box.format(z=0.2 + 0.2 * i) for i in range(4))
    assert {"apart", "nothing explodes"} <= failed(scene_of(pressed))


def test_a_body_that_falls_through_the_floor_is_found_out():
    ghost = '<geom type="box" size=".1 .1 .1" contype="0" conaffinity="0"/>'
    body = f'<body pos="0 0 1"><freejoint/>{ghost}</body>'
    assert failed(scene_of(body)) == {"nothing sinks"}


def test_a_world_in_which_nothing_can_move_is_found_out():
    assert failed(scene_of('<geom type="box" size="1 1 1" pos="0 0 1"/>')) == {"can move"}


@pytest.mark.parametrize(
    ("inertial", "gate"),
    [
        ('mass="1e6" diaginertia="1e3 1e3 1e3"', "masses"),
        ('mass="1e-6" diaginertia="1e-9 1e-9 1e-9"', "masses"),
        ('mass="1" diaginertia="9 9 9"', "inertias"),
    ],
)
def test_a_unit_mistaken_is_found_out(inertial, gate):
    body = f'<inertial pos="0 0 0" {inertial}/><geom type="box" size=".1 .1 .1"/>'
    assert gate in failed(scene_of(f'<body pos="0 0 .1"><freejoint/>{body}</body>'))


def test_what_does_not_compile_says_why():
    (gate,) = gates.check(scene_of("<body><joint/></body>"))
    assert (gate.name, gate.passed) == ("compiles", False)
    assert "mass and inertia" in gate.why


# The way to a goal.


def run(task: Navigate, steps: int) -> list[bytes]:
    seen = []
    for _ in range(steps):
        step = task.step(task.expert())
        seen.append(b"".join(getattr(step, name).tobytes() for name in ("observation", "reward")))
    return seen


def test_a_copy_does_not_depend_on_its_neighbours():
    seeds = [seed_of(1, "train", i) for i in range(3)]
    many = Navigate(HALL, 3, threads=2)
    many.reset(seeds)
    trace = [many.step(many.expert()).observation[1].tobytes() for _ in range(30)]
    # Another one begins anew in the middle; the one looked at does not notice.
    many.reset([seeds[0]], [2])
    trace += [many.step(many.expert()).observation[1].tobytes() for _ in range(30)]
    single = Navigate(HALL, 1)
    single.reset([seeds[1]])
    assert trace == [single.step(single.expert()).observation[0].tobytes() for _ in range(60)]
    # Nor what was there before: the same seed again gives the same bytes.
    single.reset([seeds[1]])
    assert trace == [single.step(single.expert()).observation[0].tobytes() for _ in range(60)]


def test_the_expert_reaches_goals_in_layouts_it_never_saw():
    task = Navigate(HALL, 8)
    first = task.reset([seed_of(2, "heldout", i) for i in range(8)])
    assert first.shape == (8, task.observation_size)
    gained = np.zeros(8)
    for _ in range(task.steps_max):
        step = task.step(task.expert())
        gained += step.reward
        if step.ended.all():
            break
    assert step.success.all()
    assert not step.collision.any()
    assert (gained > 5).all()
    # What has ended stays as it is.
    after = task.step(np.ones((8, 2), np.float32))
    assert np.array_equal(after.observation, step.observation)
    assert not after.reward.any()


def test_who_drives_blindly_collides_and_who_stands_runs_out_of_time():
    task = Navigate({**HALL, "ranges": {"people": [0, 0]}}, 2)
    task.reset([seed_of(3, "train", i) for i in range(2)])
    for _ in range(task.steps_max):
        step = task.step(np.array([[1, 0], [0, 0]], np.float32))
    assert step.ended.all()
    assert list(step.collision) == [True, False]
    assert not step.success.any()


def test_the_lidar_measures_what_mujoco_measures():
    task = Navigate({**HALL, "ranges": {"people": [5, 5], "pallets": [8, 8]}}, 4)
    task.reset([seed_of(4, "train", i) for i in range(4)])
    for _ in range(25):
        task.step(task.expert())
    hits = 0
    for i in range(4):
        model, simulation = task.scene(i)
        body = model.body("robot/0").id
        # A ray ignores what is seen through, here the robot's own wheels.
        model.geom_rgba[np.isin(model.geom_bodyid, [body + 1, body + 2]), 3] = 0
        x, y, yaw = warehouse.poses(simulation.qpos, 1)[0]
        start = np.array([x, y, 0.12])  # below the top of a pallet
        seen = task._observation[i, navigate.FIRST_RAY :]
        for ray in range(navigate.RAYS):
            angle = yaw + 2 * np.pi * ray / navigate.RAYS
            way, geom = np.array([np.cos(angle), np.sin(angle), 0.0]), np.zeros(1, np.int32)
            groups = np.array([1, 1, 0, 1, 0, 1], np.uint8)
            far = mujoco.mj_ray(model, simulation, start, way, groups, 1, body, geom)
            assert seen[ray] == pytest.approx(min(far, navigate.LIDAR_M), abs=1e-3)
            hits += far < navigate.LIDAR_M
    assert hits > 80


def test_a_scene_of_a_copy_is_the_copy_with_its_goal():
    task = Navigate(HALL, 2)
    task.reset([seed_of(5, "train", i) for i in range(2)])
    model, simulation = task.scene(1)
    assert model.geom("goal").group < 3  # it is drawn
    goal = simulation.geom("goal").xpos[:2]
    place = simulation.body("robot/0").xpos[:2]
    assert np.linalg.norm(goal - place) == pytest.approx(task._observation[1, 4], abs=1e-5)
    absent = [simulation.mocap_pos[k, 2] == PARKED_Z for k in range(5)]
    assert sum(absent) == 5 - task.drawn[1]["people"]


# Many robots.


def test_pettingzoo_accepts_the_fleet():
    from pettingzoo.test import parallel_api_test

    parallel_api_test(Fleet(HALL, 3), 100)


def test_a_fleet_drives_in_a_warehouse_alone():
    for world in ({"scene": "road"}, {"name": "mine", "file": "hall.xml"}):
        with pytest.raises(WorldRefused, match="drives in a warehouse"):
            Fleet(world)


def test_a_fleet_reaches_its_goals_and_repeats_from_its_seed():
    fleet = Fleet(HALL, 3)
    runs = []
    for _ in range(2):
        seen, infos = fleet.reset(seed=11)
        trace, arrived = [seen], {}
        while fleet.agents:
            seen, _, _, _, infos = fleet.step(fleet.expert())
            trace.append(seen)
            arrived |= {agent: info["success"] for agent, info in infos.items()}
        runs.append(b"".join(row.tobytes() for seen in trace for row in seen.values()))
        assert arrived == dict.fromkeys(fleet.possible_agents, True)
    assert runs[0] == runs[1]


def test_robots_that_meet_collide_both():
    fleet = Fleet({**HALL, "ranges": {"people": [0, 0]}}, 2)
    fleet.reset(seed=1)
    qpos = fleet.state_now.qpos.reshape(2, 9)
    # Face to face, two metres apart.
    (x, y), radius = fleet._routes[5, 0], fleet._radius
    qpos[0, :7] = x - 0.5, y, radius, *warehouse.turned(0.0)
    qpos[1, :7] = x + 0.5, y, radius, *warehouse.turned(np.pi)
    ahead = np.array([1, 0], np.float32)
    for _ in range(40):
        _, rewards, ended, _, infos = fleet.step(dict.fromkeys(fleet.agents, ahead))
        if all(ended.values()):
            break
    assert all(info["collision"] for info in infos.values())
    assert max(rewards.values()) < -9
    assert fleet.agents == []


def test_more_robots_than_a_hall_takes_are_refused():
    with pytest.raises(WorldRefused, match="robots"):
        Fleet(HALL, 9)
