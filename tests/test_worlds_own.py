"""A robot in a world of one's own: what it knows of the file's floor, and that it drives there."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

os.environ.setdefault("MUJOCO_GL", "egl")
mujoco = pytest.importorskip("mujoco")

import numpy as np  # noqa: E402

from gigafactory import building  # noqa: E402
from gigafactory.blueprint.load import load  # noqa: E402
from gigafactory.faults import Refused  # noqa: E402
from gigafactory.jobs import closed_loop, policy, rollout, worlds  # noqa: E402
from gigafactory.jobs.context import Context  # noqa: E402
from gigafactory.jobs.worlds import floor_plan, imported, own, task, usd, warehouse  # noqa: E402
from gigafactory.jobs.worlds.floor_plan import BAND_M, RASTER_M  # noqa: E402
from gigafactory.jobs.worlds.navigate import CELL_M, LIDAR_M, RAYS, scan  # noqa: E402
from gigafactory.jobs.worlds.scene import WorldRefused, seed_of  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "examples" / "my-warehouse.xml"
MINE = {"name": "mine", "file": str(EXAMPLE)}
REACH = 0.85 * warehouse.REACH
LEVEL = '<geom name="ground" type="plane" size="6 6 .1"/>'
LOOSE = '<body name="ball" pos="0 0 {z}"><freejoint/><geom size=".1"/></body>'
# A room of 6 m by 5 m with a door, walls and all in one mesh: its hull is solid.
SHELL = [(-3, -2.5), (-3, 2.5), (3, 2.5), (3, -2.5), (0.7, -2.5), (0.7, -2.7), (3.2, -2.7),
         (3.2, 2.7), (-3.2, 2.7), (-3.2, -2.7), (-0.7, -2.7), (-0.7, -2.5)]  # fmt: skip


def prism(outline, tall: float) -> str:
    """An asset: walls over an outline, from the floor up."""
    n = len(outline)
    vertex = " ".join(f"{x} {y} {z}" for z in (0, tall) for x, y in outline)
    sides = [(i, (i + 1) % n, i + n) for i in range(n)]
    sides += [((i + 1) % n, (i + 1) % n + n, i + n) for i in range(n)]
    face = " ".join(str(corner) for side in sides for corner in side)
    return f'<mesh name="prism" inertia="shell" vertex="{vertex}" face="{face}"/>'


def model_of(bodies: str, assets: str = "", option: str = "") -> mujoco.MjModel:
    text = f"<mujoco>{option}<asset>{assets}</asset><worldbody>{bodies}</worldbody></mujoco>"
    return mujoco.MjModel.from_xml_string(text)


def plan_of(model: mujoco.MjModel, reach: float = REACH):
    simulation = mujoco.MjData(model)
    mujoco.mj_forward(model, simulation)
    plan = floor_plan.read(model, simulation, reach, "mine.xml")
    loose = floor_plan.rectangles(model, simulation, plan)
    return plan, np.concatenate([plan.blocks, loose]), simulation


def lidar(plan, blocks, x: float, y: float, yaw: float):
    ranges = np.zeros(RAYS, np.float32)
    scan(x, y, yaw, np.array(plan.half), blocks, np.zeros((0, 3)), ranges)
    return ranges


def run(robots, steps: int = 600):
    for _ in range(steps):
        step = robots.step(robots.expert())
        if step.ended.all():
            break
    return step


def pile(rng, kinds=("box", "cylinder", "capsule", "ellipsoid")) -> str:
    """Things that stand, lean or hang about a floor, some of them free."""
    parts = []
    for number in range(int(rng.integers(3, 10))):
        kind = str(rng.choice(kinds))
        size = rng.uniform(0.1, 0.9, 3).round(3)
        x, y = rng.uniform(-4, 4, 2).round(3)
        z, turn = rng.uniform(0, 1.6), rng.uniform(0, 360, 3)
        size = (
            f'size="{size[0]} {size[1]} {size[2]}"'
            if kind != "mesh"
            else 'mesh="{}"'.format(rng.choice(["prism", "wedge"]))
        )
        free = "<freejoint/>" if rng.random() < 0.3 else ""
        at = f'pos="{x} {y} {z:.3f}" euler="{turn[0]:.1f} {turn[1]:.1f} {turn[2]:.1f}"'
        parts.append(
            f'<body name="thing/{number}" {at}>{free}<geom type="{kind}" mass="1" {size}/></body>'
        )
    return LEVEL + "".join(parts)


# What a robot knows of a floor.


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_a_robot_could_touch_is_nearer_than_its_plan_says(seed):
    rng = np.random.default_rng(seed)
    concave = prism([(0, 0), (1.5, 0), (1.5, 0.3), (0.3, 0.3), (0.3, 1.2), (0, 1.2)], 0.5)
    wedge = '<mesh name="wedge" vertex="0 0 0 1.4 0 0 0 .8 0 .2 .1 .9"/>'
    model = model_of(
        pile(rng, ("box", "cylinder", "capsule", "ellipsoid", "mesh")), concave + wedge
    )
    try:
        plan, blocks, simulation = plan_of(model)
    except WorldRefused:
        return  # All of it is full.
    room = plan.room.copy()
    floor_plan.clear(blocks, np.array(plan.half), room)
    free = np.argwhere(room > 0.05)
    for i, j in free[rng.integers(len(free), size=10)]:
        x, y = (np.array([i, j]) + 0.5) * CELL_M - plan.half
        yaw = rng.uniform(-np.pi, np.pi)
        planned = lidar(plan, blocks, x, y, yaw)
        start = np.array([x, y, rng.uniform(*BAND_M)]) + plan.middle
        for ray in range(RAYS):
            angle = yaw + 2 * np.pi * ray / RAYS
            way = np.array([np.cos(angle), np.sin(angle), 0.0])
            far = mujoco.mj_ray(model, simulation, start, way, None, 1, -1, np.zeros(1, np.int32))
            assert far < 0 or planned[ray] <= far + 1e-3, (x, y, ray)


def test_what_stands_upright_is_planned_as_it_is():
    boxes = '<geom type="box" pos="2 1 .3" size=".6 .2 .3" euler="0 0 30"/>'
    boxes += '<geom type="box" pos="-2 1 .3" size=".3 .5 .3"/>' + LOOSE.format(z=0.1)
    model = model_of(LEVEL + boxes)
    plan, blocks, simulation = plan_of(model)
    for x, y in ((0.3, -0.9), (-0.4, 0.7), (1.0, 1.6)):
        x, y = x - plan.middle[0], y - plan.middle[1]
        planned = lidar(plan, blocks[:2], x, y, 0.1)
        for ray in range(RAYS):
            angle = 0.1 + 2 * np.pi * ray / RAYS
            way, geom = np.array([np.cos(angle), np.sin(angle), 0.0]), np.zeros(1, np.int32)
            start = np.array([x, y, 0.25]) + plan.middle
            far = mujoco.mj_ray(model, simulation, start, way, None, 1, -1, geom)
            if far > 0:
                assert planned[ray] == pytest.approx(min(far, LIDAR_M), abs=1e-3)


def test_what_hangs_high_or_lies_flat_is_in_nobodys_way():
    ends = '<geom type="box" pos="{} 0 .5" size=".1 4 .5"/>'
    hall = LEVEL + ends.format(-4) + ends.format(4) + LOOSE.format(z=0.1)
    free = plan_of(model_of(hall))[1]
    beam = '<geom type="box" pos="0 0 1" size=".2 4 .55"/>'  # its lower side at 0.45 m
    mark = '<geom type="box" pos="2 0 .005" size=".2 4 .01"/>'
    assert np.array_equal(plan_of(model_of(hall + beam + mark))[1][:, 2:], free[:, 2:])
    low = beam.replace("0 0 1", "0 0 .9")
    assert len(plan_of(model_of(hall + low))[1]) > len(free)


def test_a_building_in_one_mesh_has_an_inside():
    building = '<geom type="mesh" mesh="prism"/>'
    model = model_of(LEVEL + building + LOOSE.format(z=0.1), prism(SHELL, 2.5))
    plan, _, _ = plan_of(model, 0.6 * warehouse.REACH)
    room = floor_plan.drivable(plan.room, 0.6 * warehouse.REACH)

    def at(x, y):
        i, j = ((np.array([x, y]) - plan.middle[:2] + plan.half) / CELL_M).astype(int)
        return room[i, j]

    assert at(1.5, 1.0) > 0.8
    assert at(0.0, -2.6) > 0.3  # in the door
    assert at(2.0, -2.6) == -1  # in the wall
    assert plan.half[0] == pytest.approx(3.2 + floor_plan.EDGE_M)


def test_a_floor_ends_where_it_ends():
    slab = '<geom type="box" pos="{x} 0 -.1" size="{hx} 2 .1"/>'
    floor = slab.format(x=-2, hx=2) + slab.format(x=3.5, hx=1.5)  # 2 m of nothing between
    plan, blocks, _ = plan_of(model_of(floor + LOOSE.format(z=0.1)))
    assert (plan.half, plan.middle) == ((4.5, 2.0), (0.5, 0.0, 0.0))
    pit = blocks[np.argmax(blocks[:, 2] * blocks[:, 3])]
    assert pit[:4] == pytest.approx((0.5, 0.0, 1.0, 2.0), abs=RASTER_M)
    room = floor_plan.drivable(plan.room, REACH)
    assert (room[:20] > 0).any()
    assert not (room[22:] > 0).any()


def test_a_height_field_is_floor_where_it_is_level_and_no_mountain_is_driven_on():
    rows = [["1" if 3 <= i <= 5 and 3 <= j <= 5 else "0" for j in range(13)] for i in range(13)]
    field = f'elevation="{" ".join(" ".join(row) for row in rows)}"'
    field = f'<hfield name="land" nrow="13" ncol="13" size="6 6 1 .1" {field}/>'
    land = '<geom type="hfield" hfield="land"/>' + LOOSE.format(z=0.2).replace("0 0", "4 4")
    model = model_of(land, field)
    plan, _, simulation = plan_of(model)
    assert (plan.half, plan.middle[2]) == ((6, 6), 0)
    room = floor_plan.drivable(plan.room, REACH)
    down, geom = np.array([0, 0, -1.0]), np.zeros(1, np.int32)
    low = high = 0
    for cell in np.argwhere(np.ones_like(room)):
        x, y = (cell + 0.5) * CELL_M - plan.half
        far = mujoco.mj_ray(model, simulation, np.array([x, y, 3.0]), down, None, 1, -1, geom)
        assert (room[tuple(cell)] == -1) or far > 3 - BAND_M[0]
        low, high = low + (room[tuple(cell)] > 0), high + (0 < far < 2.5)
    assert (low > 2500, high > 100) == (True, True)


@pytest.mark.parametrize(
    ("bodies", "option", "says"),
    [
        ('<geom name="slab" type="box" size="4 4 .1" contype="0" conaffinity="0"/>', "",
         "only drawn, so that a robot falls through: 'slab'"),
        ('<geom type="box" size=".5 .5 .1"/>', "", "no level surface that is solid"),
        ('<geom type="plane" size="5 5 1" euler="20 0 0"/>', "", "no level surface"),
        (LEVEL, '<option gravity="0 -9.81 0"/>', "export it with z up"),
        (LEVEL, "", "no two places lie 2 m apart"),
        (LEVEL + "".join(f'<geom type="box" pos="{x} {y} .5" size=".3 .3 .5"/>'
                         for x in range(-3, 4) for y in range(-3, 4)), "",
         "no two places lie 2 m apart and are joined by a way 1.14 m wide"),
        (LEVEL + '<geom type="box" pos="400 300 1"/><geom type="box" pos="-400 -300 1"/>'
         .replace("box\"", "box\" size=\"1 1 1\""), "", "a plan has 250,000 cells"),
    ],
)  # fmt: skip
def test_a_world_without_floor_for_a_robot_is_refused_with_the_reason(bodies, option, says):
    with pytest.raises(WorldRefused, match=r"mine\.xml") as refused:
        plan_of(model_of(bodies + LOOSE.format(z=0.2), option=option))
    assert says in str(refused.value)


def test_check_opens_a_blueprint_s_file_and_says_where_no_robot_can_drive(tmp_path):
    (tmp_path / "mine.yaml").write_text(EXAMPLE.with_suffix(".yaml").read_text())
    hall = tmp_path / EXAMPLE.name
    hall.write_text(EXAMPLE.read_text())
    assert building.open_files(load(str(tmp_path / "mine.yaml"))) == "1 world opened"
    painted = '<geom name="floor" contype="0" conaffinity="0"'
    hall.write_text(EXAMPLE.read_text().replace('<geom name="floor"', painted))
    with pytest.raises(Refused) as refused:
        building.open_files(load(str(tmp_path / "mine.yaml")))
    (fault,) = refused.value.faults
    assert fault.what == "there is no free floor for a robot"
    assert fault.where == "worlds.mine.file: my-warehouse.xml"
    assert "only drawn, so that a robot falls through: 'floor'" in fault.why
    assert own.told({"name": "mine", "file": str(hall)}).startswith("no robot can drive here: it")


def test_a_neck_that_is_too_narrow_is_closed_and_a_wide_one_open():
    wall = '<geom type="box" pos="0 {} .5" size=".1 {} .5"/>'
    ends = '<geom type="box" pos="{} 0 .5" size=".1 3 .5"/>'
    sides = '<geom type="box" pos="0 {} .5" size="4 .1 .5"/>'
    hall = LEVEL + ends.format(-4) + ends.format(4) + sides.format(-3) + sides.format(3)
    for gap, length, opens in ((1.5, 0.85, True), (0.9, 0.85, False), (1.1, 0.6, True)):
        tall = (3 - gap / 2) / 2
        both = wall.format(3 - tall, tall) + wall.format(tall - 3, tall)
        plan, _, _ = plan_of(model_of(hall + both + LOOSE.format(z=0.1).replace("0 0", "3 2")),
                             length * warehouse.REACH)  # fmt: skip
        room = floor_plan.drivable(plan.room, length * warehouse.REACH)
        left = room[: len(room) // 2 - 5].max() > 0.5
        right = room[len(room) // 2 + 5 :].max() > 0.5
        assert (left and right) == opens, gap


# Driving there.


def test_the_expert_arrives_in_a_file_and_in_the_real_world_nothing_is_touched(tmp_path):
    rng = np.random.default_rng(5)
    mjcf = f"<mujoco><worldbody>{pile(rng)}</worldbody></mujoco>"
    (tmp_path / "pile.xml").write_text(mjcf)
    world = {"name": "pile", "file": str(tmp_path / "pile.xml"), "ranges": {"people": [0, 0]}}
    robots = task.make(world, 6)
    robots.reset([seed_of(1, "heldout", i) for i in range(6)])
    near = 0
    for number in range(robots.steps_max):
        step = robots.step(robots.expert())
        for i in np.flatnonzero(~step.ended) if number % 4 == 0 else ():
            model, simulation = robots.scene(int(i))
            chassis = model.geom(f"{own.GUEST}robot/0/chassis").id
            for contact in simulation.contact:
                assert chassis not in contact.geom
            near += bool(robots._observation[i, -RAYS:].min() < 1.0)
        if step.ended.all():
            break
    assert step.success.all()
    assert near > 5


def test_in_the_example_the_expert_arrives_whoever_walks_about():
    robots = task.make(MINE, 20)
    first = robots.reset([seed_of(3, "heldout", i) for i in range(20)])
    assert first.shape == (20, robots.observation_size)
    assert robots.observation_names == task.make({"scene": "warehouse"}, 1).observation_names
    assert len({each["robot_length"] for each in robots.drawn}) == 20
    assert max(each["people"] for each in robots.drawn) == 116 // own.PERSON_M2
    step = run(robots)
    assert step.success.mean() >= 0.95
    assert not step.collision.any()
    assert own.told(MINE) == "a robot can drive here: 116 m2 of free floor at z = 0 m"


def test_a_layout_in_a_file_repeats_from_its_seed_in_any_company():
    many, alone = task.make(MINE, 3, threads=2), task.make(MINE, 1)
    many.reset([seed_of(1, "train", i) for i in range(3)])
    trace = [many.step(many.expert()).observation[1].tobytes() for _ in range(30)]
    for _ in range(2):
        alone.reset([seed_of(1, "train", 1)])
        assert trace == [alone.step(alone.expert()).observation[0].tobytes() for _ in range(30)]
    # Loose things stand a little differently in each, what stands for good does not.
    kept = len(many._place.plan.blocks)
    assert np.array_equal(many._blocks[0, :kept], many._blocks[1, :kept])
    moved = np.abs(many._blocks[0, kept:] - many._blocks[1, kept:])[:, :2].max(1)
    assert (moved < 0.1).all()
    assert (moved > 1e-4).sum() >= 3


def test_ranges_of_a_file_are_the_robots_and_the_peoples():
    empty = task.make({**MINE, "ranges": {"people": [0, 0], "robot_length": [0.6, 0.6]}}, 2)
    empty.reset([1, 2])
    assert [(each["people"], each["robot_length"]) for each in empty.drawn] == [(0, 0.6)] * 2
    with pytest.raises(WorldRefused, match="no parameter is called 'aisle'"):
        task.make({**MINE, "ranges": {"aisle": [2, 3]}}, 1)


def test_who_drives_blindly_in_a_file_collides():
    robots = task.make({**MINE, "ranges": {"people": [0, 0]}}, 4)
    robots.reset([seed_of(3, "train", i) for i in range(4)])
    for _ in range(robots.steps_max):
        step = robots.step(np.tile(np.array([1, 0], np.float32), (4, 1)))
    assert step.collision.all()


def test_a_film_shows_the_users_world_with_robot_goal_and_people():
    robots = task.make({**MINE, "ranges": {"people": [2, 2]}}, 1)
    robots.reset([seed_of(4, "train", 0)])
    model, simulation = robots.scene(0)
    assert {"rack/1", "drum/1", "gigafactory/robot/0"} <= {
        model.body(body).name for body in range(model.nbody)
    }
    place = simulation.body("gigafactory/robot/0").xpos
    goal = simulation.geom("gigafactory/goal").xpos
    assert np.hypot(*(goal - place)[:2]) == pytest.approx(robots._observation[0, 4], abs=1e-5)
    people = [simulation.body(f"gigafactory/person/{k}").xpos[2] for k in range(5)]
    assert sorted(people) == [-20, -20, -20, 0, 0]
    # No roof: the camera looks down at all of it, from over the walls.
    assert model.camera("camera/0").pos[2] > 5
    before = place.copy()
    robots.step(np.array([[1, 0]], np.float32))
    again, simulation = robots.scene(0)
    assert again is model
    assert not np.array_equal(before, simulation.body("gigafactory/robot/0").xpos)


def test_a_camera_of_a_world_with_a_roof_is_below_it(tmp_path):
    rack, roof = '<body name="rack/1"', '<geom type="box" pos="0 0 3.1" size="7.2 5.2 .1"/>'
    roofed = EXAMPLE.read_text().replace(rack, roof + rack)
    (tmp_path / "roofed.xml").write_text(roofed)
    at, _ = own.place({"name": "roofed", "file": str(tmp_path / "roofed.xml")}).camera
    assert 2 < at[2] < 3


def test_a_cell_of_ours_as_a_file_of_usd_is_driven_in(tmp_path):
    pytest.importorskip("pxr")
    usd.write(worlds.build({"name": "cell", "scene": "factory"}, 3), tmp_path / "cell.usda")
    robots = task.make({"name": "cell", "file": str(tmp_path / "cell.usda")}, 8)
    robots.reset([seed_of(2, "heldout", i) for i in range(8)])
    assert run(robots).success.all()


def test_a_hall_in_which_nothing_moves_is_driven_in_though_it_makes_no_pictures(tmp_path):
    still = re.sub(r"<freejoint/>", "", EXAMPLE.read_text())
    (tmp_path / "still.xml").write_text(still)
    with pytest.raises(WorldRefused, match="let a robot act in it"):
        imported.read(tmp_path / "still.xml")
    robots = task.make({"name": "still", "file": str(tmp_path / "still.xml")}, 4)
    robots.reset([seed_of(2, "heldout", i) for i in range(4)])
    assert run(robots).success.all()
    assert robots.scene(0)[0].nq == 9  # the robot's


def test_a_robot_learns_in_a_file_and_is_judged_and_asked_there(tmp_path):
    world = {**MINE, "ranges": {"people": [0, 1]}}
    work = {"name": "drives", "world": world, "policy": "expert", "episodes": 10, "video": 1}
    drives = Context.alone(tmp_path / "drives", work)
    told = rollout.run(drives)
    assert (told["task"], told["videos"]) == ("navigate", 1)
    assert told["success"] == 1
    learns = Context.alone(
        tmp_path / "pilot", {"of": ["drives"], "steps": 250}, inputs={"drives": drives.output}
    )
    assert policy.run(learns)["loss_last"] < 0.2
    judged = Context.alone(
        tmp_path / "judge",
        {"of": "pilot", "world": world, "suite": "closed_loop", "examples": 4},
        inputs={"pilot": learns.output},
    )
    metrics = closed_loop.evaluate(judged)["metrics"]
    assert metrics["expert_success"] == 1
    assert metrics["random_success"] == 0
    assert metrics["success"] > 0
    assert 0.2 < metrics["coverage"] < 1
    acts = policy.load(learns.output / "model")
    robots = task.make(world, 1)
    assert np.abs(acts.act(robots.reset([7]))).max() <= 1
