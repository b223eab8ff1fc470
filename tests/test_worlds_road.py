"""Traffic, the road as a scene, and the task of driving on it."""

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigafactory.jobs.worlds import road, traffic
from gigafactory.jobs.worlds.drive import Drive
from gigafactory.jobs.worlds.scene import WorldRefused, seed_of, things

WORLD = {"name": "street", "scene": "road"}


def go(tables, seconds=1.0, hertz=15, action=(0.0, 0.0)):
    cars, roads, people = tables
    told = np.tile(np.array(action, float), (len(cars), 1))
    live = np.ones(len(cars), bool)
    traffic.step(cars, roads, people, told, live, 1 / hertz, round(seconds * hertz))


def heldout(count, first=0):
    return [seed_of(5, "heldout", first + i) for i in range(count)]


# Written down from highway-env 1.12.1: highway-v0, 5 vehicles, 3 lanes, seed 12.
START = {
    "X": (103.99097221949133, 125.58206488344311, 147.79251904277336, 169.81125124187213,
          192.6378577522135, 218.30545545418337),
    "Y": (4.0, 0.0, 4.0, 0.0, 4.0, 0.0),
    "SPEED": (25.0, 21.567961153619283, 23.011337228318354, 23.574391467251726, 21.77386487628297,
              22.4044397728317),
    "TIMER": (0.0, 0.5276924604615942, 0.8702626946655982, 0.4777793983561196, 0.75604933198872,
              0.8268150934362666),
    "EXPONENT": (4.0, 3.8498892405959575, 4.39630937370468, 4.041466161718795, 3.9536161218532766,
                 3.7587710894221504),
}  # fmt: skip
TOLD = (2, 1, 3, 1, 0, 1, 4, 1)  # right, idle, faster, idle, left, idle, slower, idle
END = {
    "X": (323.41336776560735, 279.0614331725327, 328.1780228468187, 336.7798513301423,
          366.8287767624773, 397.54097363683536),
    "Y": (4.000124004166209, 3.953702310033053, 7.999999978325616, 0.0, 4.0, 0.0),
    "SPEED": (25.145889422557996, 19.098995355742463, 22.987296416876195, 20.761441552663456,
              21.77386487628297, 22.4044397728317),
    "HEADING": (-1.6288757995280167e-05, 0.006907397218603259, 2.9440408987629927e-09, 0, 0, 0),
}  # fmt: skip
SEEN = (
    (1.0, 1.0, 0.33334365487098694, 0.3143236041069031, -5.119941306475084e-06),
    (1.0, 0.023823276162147522, 0.33332300186157227, -0.026982411742210388, 5.120787136547733e-06),
    (1.0, 0.06683241575956345, -0.33334365487098694, -0.05480559915304184, 5.119941306475084e-06),
    (1.0, 0.21707704663276672, -1.0333680620533414e-05, -0.042150307446718216, 5.119941306475e-06),
    (1.0, 0.37063804268836975, -0.33334365487098694, -0.03426812216639519, 5.119941306475084e-06),
)


def test_traffic_and_observation_are_those_of_highway_env():
    tables = cars, roads, _ = traffic.highway([0], vehicles=5, lanes=3)
    for name, figures in START.items():
        cars[0, :, getattr(traffic, name)] = figures
    cars[0, :, traffic.WANTED] = START["SPEED"]
    cars[0, :, traffic.LANE] = cars[0, :, traffic.TARGET] = cars[0, :, traffic.Y] / 4
    for action in TOLD:
        traffic.meta(cars, roads, np.array([action]))
        go(tables)
    for name, figures in END.items():
        np.testing.assert_allclose(cars[0, :, getattr(traffic, name)], figures, atol=1e-9)
    assert (cars[0, 1:, traffic.LANE] != np.array(START["Y"][1:]) / 4).sum() == 2, "MOBIL changed"
    np.testing.assert_allclose(traffic.kinematics(cars, roads, 5)[0], SEEN, atol=1e-6)


@given(
    st.floats(-3.0, 3.0), st.floats(1.0, 35.0), st.floats(-1.0, 1.0), st.floats(-5.0, 3.0)
)  # fmt: skip
def test_a_vehicle_moves_as_the_bicycle_model_says(heading, speed, steering, acceleration):
    tables = cars, _, _ = traffic.empty(1, 1)
    cars[0, 0, [traffic.KIND, traffic.CONTROL]] = 1.0, traffic.ACTIONS
    cars[0, 0, [traffic.X, traffic.HEADING, traffic.SPEED]] = 50.0, heading, speed
    go(tables, 1 / 15, action=(acceleration, steering))
    slip, dt_s = np.arctan(np.tan(steering) / 2), 1 / 15
    expected = (
        50.0 + speed * np.cos(heading + slip) * dt_s,
        speed * np.sin(heading + slip) * dt_s,
        heading + speed * np.sin(slip) / 2.5 * dt_s,
        speed + acceleration * dt_s,
    )
    state = cars[0, 0, [traffic.X, traffic.Y, traffic.HEADING, traffic.SPEED]]
    np.testing.assert_allclose(state, expected, atol=1e-9)


def test_nobody_teleports_and_nobody_turns_faster_than_wheels_and_tyres_let_them():
    drive = Drive(WORLD, 24)
    drive.reset(heldout(24))
    rng = np.random.default_rng(0)
    for step in range(80):
        action = drive.expert() if step % 4 else rng.uniform(-1, 1, (24, 2))
        told = traffic.commands(drive.cars, action.astype(np.float32))
        before = drive.cars.copy()
        live = np.ones(24, bool)
        traffic.step(drive.cars, drive.roads, drive.people, told, live, road.DT_S, 1)
        there = before[:, :, traffic.KIND] > 0
        change = (drive.cars[:, :, : traffic.CONTROL] - before[:, :, : traffic.CONTROL])[there]
        speed = before[there][:, traffic.SPEED]
        way_m = np.hypot(change[:, traffic.X], change[:, traffic.Y])
        assert (way_m <= speed * road.DT_S + 1e-9).all()
        grip = np.repeat(drive.roads[:, traffic.GRIP, None], road.CARS, 1)[there]
        assert (np.abs(change[:, traffic.SPEED]) <= grip * road.DT_S + 1e-9).all()
        free = drive.cars[there][:, traffic.CUT_AGE_S] < 0
        free &= before[there][:, traffic.CUT_AGE_S] < 0
        rate = np.abs(change[:, traffic.HEADING]) / road.DT_S
        assert (rate * speed <= grip + 1e-6)[free].all()
        assert (rate <= speed / (0.5 * before[there][:, traffic.LENGTH]) + 1e-9)[free].all()
        assert (rate < 1.0).all(), "nor do those who follow a script"


@given(
    speed=st.floats(5, 35), slower=st.floats(0, 6), brake=st.floats(1, 5), more_m=st.floats(0, 60)
)
@settings(max_examples=150, deadline=None)
def test_idm_never_hits_a_leader_who_brakes_from_a_safe_gap(speed, slower, brake, more_m):
    tables = cars, roads, _ = traffic.empty(1, 2)
    cars[0, :, traffic.KIND] = 1.0
    cars[0, :, traffic.CONTROL] = traffic.IDM_ONLY
    cars[0, :, [traffic.JAM_GAP_M]] = 2.0
    roads[0, [traffic.CENTRE_GAPS, traffic.GRIP, traffic.LIMIT]] = 0.0, 8.0, 50.0
    leader = max(speed - slower, 0.0)
    # Safe: IDM's own gap at that speed, and what the difference in speed takes to brake away.
    gap_m = 2.0 + 1.5 * speed + slower * speed / (2 * np.sqrt(15)) + more_m
    cars[0, :, traffic.SPEED] = cars[0, :, traffic.WANTED] = speed, leader
    cars[0, 1, traffic.X] = 5.0 + gap_m
    cars[0, 1, [traffic.CUT_S, traffic.CUT_DURATION_S, traffic.BRAKE_AFTER_S]] = 0.5, 1.0, 0.0
    cars[0, 1, [traffic.BRAKE_M_S2, traffic.BRAKE_TO]] = brake, 0.0
    go(tables, seconds=40)
    assert cars[0, 1, traffic.SPEED] == pytest.approx(0.0, abs=0.3), "the leader did stop"
    assert cars[0, 0, traffic.CRASHED] == 0
    assert cars[0, 1, traffic.X] - cars[0, 0, traffic.X] > 5.0


@given(
    st.floats(-7, 7), st.floats(-7, 7), st.floats(-3.2, 3.2), st.floats(-3.2, 3.2),
    st.floats(3, 12), st.floats(1.5, 2.6),
)  # fmt: skip
def test_rectangles_overlap_exactly_where_they_share_a_point(dx, dy, h1, h2, length, width):
    """A grid over the second one: a point of it inside the first is an overlap, and only then."""
    a, b = np.meshgrid(np.linspace(-0.5, 0.5, 61), np.linspace(-0.5, 0.5, 31))
    x = dx + a * length * np.cos(h2) - b * width * np.sin(h2)
    y = dy + a * length * np.sin(h2) + b * width * np.cos(h2)
    # How far out of the first (5 m by 2 m) each point is.
    out_m = np.maximum(
        np.abs(x * np.cos(h1) + y * np.sin(h1)) - 2.5, np.abs(y * np.cos(h1) - x * np.sin(h1)) - 1.0
    )
    found = traffic.overlap(dx, dy, h1, 5.0, 2.0, h2, length, width)
    if out_m.min() <= 0:
        assert found
    elif out_m.min() > 0.2:  # the grid's mesh
        assert not found


def scenarios(count, seed=0):
    rng = np.random.default_rng(seed)
    p = np.zeros((count, traffic.SCENARIO))
    p[:, traffic.EGO_SPEED] = rng.uniform(15, 30, count)
    p[:, traffic.GAP] = rng.uniform(1, 30, count)
    p[:, traffic.OTHER_SPEED] = p[:, traffic.EGO_SPEED] - rng.uniform(-1, 8, count)
    p[:, traffic.CUT_BEGIN_S] = rng.uniform(0.1, 1.0, count)
    p[:, traffic.CUT_TAKES_S] = rng.uniform(1.5, 4.0, count)
    p[:, traffic.BRAKES_AFTER_S] = rng.uniform(0.5, 3.0, count)
    p[:, traffic.BRAKES_M_S2] = rng.uniform(0.0, 6.0, count)
    p[:, traffic.BRAKES_TO] = 5.0
    p[:, traffic.LEAD_GAP] = np.inf
    return p


def test_the_fast_cut_in_and_the_whole_simulation_tell_the_same_story():
    p = scenarios(400)
    driver = traffic.EGO_IDM.copy()
    driver[[traffic.EGO_REACTION_S, traffic.EGO_BRAKE_MAX]] = 0.0, traffic.ACCEL_LIMIT
    fast = traffic.cut_in(p, driver, 1 / 15, 10.0)
    tables = cars, _, _ = traffic.cut_in_cars(p)
    cars[:, 0, traffic.CONTROL] = traffic.IDM_ONLY
    go(tables, seconds=10)
    slow = cars[:, 0, traffic.CRASHED] > 0
    collided = fast[:, traffic.COLLIDED] > 0
    assert 0.05 < collided.mean() < 0.8
    # The ego of the whole simulation sees the script begin one substep later.
    assert (slow == collided).mean() > 0.97
    assert ((fast[:, traffic.MARGIN_M] < 0) == collided).all()
    assert np.array_equal(traffic.cut_in(p[7:9], driver, 1 / 15, 10.0), fast[7:9])


def test_what_neither_braking_at_once_nor_going_on_escapes_nobody_escapes():
    p = scenarios(3000)
    p[:, traffic.GAP] -= 3.0  # some begin beside the ego
    human, best, on = (
        traffic.cut_in(p, driver, 1 / 15, 10.0)[:, traffic.COLLIDED] > 0
        for driver in (traffic.EGO_IDM, traffic.EGO_BEST, traffic.EGO_ON)
    )
    unavoidable = best & on
    assert 0 < unavoidable.sum() < 0.5 * human.sum()
    assert not (unavoidable & ~human).any()


def drive_all(drive, policy, seeds):
    observation = drive.reset(seeds)
    steps, trail = None, []
    for _ in range(drive.steps_max):
        steps = drive.step(policy(observation))
        observation = steps.observation
        trail.append(np.concatenate([observation, steps.reward[:, None]], 1))
    assert steps.ended.all()
    return steps, np.array(trail)


def test_the_expert_drives_and_who_keeps_its_speed_or_stands_does_not():
    drive, seeds = Drive(WORLD, 60), heldout(60)
    expert, _ = drive_all(drive, traffic.expert, seeds)
    assert expert.success.mean() >= 0.95
    assert expert.collision.mean() <= 0.02
    steady, _ = drive_all(drive, lambda o: np.zeros((60, 2), np.float32), seeds)
    assert steady.collision.mean() > 0.5
    standing, _ = drive_all(drive, lambda o: np.tile(np.float32([-1, 0]), (60, 1)), seeds)
    assert not standing.success.any()


def test_traffic_has_cut_ins_merges_and_people_who_cross():
    drive = Drive({**WORLD, "ranges": {"cut_ins": [2, 2], "ramp": [1, 1], "people": [2, 2]}}, 40)
    observation = drive.reset(heldout(40))
    cuts = np.zeros((40, road.CARS), bool)
    merging = drive.cars[:, :, traffic.LANE] >= drive.roads[:, traffic.LANES, None]
    for _ in range(drive.steps_max):
        observation = drive.step(traffic.expert(observation)).observation
        cuts |= drive.cars[:, :, traffic.CUT_AGE_S] >= 0
    merged = merging & (drive.cars[:, :, traffic.LANE] < drive.roads[:, traffic.LANES, None])
    assert cuts.sum() >= 10
    assert merged.sum() >= 0.8 * merging.sum() > 10
    assert (drive.people[:, :, traffic.WALK] > 0).mean() > 0.5


def test_a_copy_does_not_depend_on_its_neighbours_or_on_threads():
    seeds = heldout(5, first=100)
    together, trail = drive_all(Drive(WORLD, 5, threads=2), traffic.expert, seeds)
    again, same = drive_all(Drive(WORLD, 5), traffic.expert, seeds)
    alone, own = drive_all(Drive(WORLD, 1), traffic.expert, seeds[3:4])
    assert trail.tobytes() == same.tobytes()
    assert trail[:, 3].tobytes() == own[:, 0].tobytes()
    assert together.success[3] == again.success[3] == alone.success[0]


def test_an_ended_copy_stays_as_it_is_until_its_reset():
    drive = Drive(WORLD, 2)
    drive.reset(heldout(2))
    for _ in range(60):  # into the rail
        step = drive.step(np.float32([[1, -1], [0, 0]]))
    assert step.collision[0]
    assert step.ended[0]
    cars = drive.cars[0].copy()
    step = drive.step(np.float32([[1, 1], [0, 0]]))
    assert drive.cars[0].tobytes() == cars.tobytes()
    assert step.reward[0] == 0
    drive.reset(heldout(1), ids=[0])
    assert not drive.ended[0]
    assert drive.steps[0] == 0


def test_the_same_seed_gives_the_same_road_and_all_roads_have_the_same_parts():
    models = []
    for seed in heldout(6):
        scene = road.build(seed)
        assert scene.mjcf == road.build(seed).mjcf
        assert set(scene.drawn) == set(road.PARAMETERS)
        models.append(scene.model())
    first = models[0]
    for model in models[1:]:
        assert [model.body(b).name for b in range(model.nbody)] == [
            first.body(b).name for b in range(first.nbody)
        ]
        assert np.array_equal(model.geom_type, first.geom_type)
        assert np.array_equal(model.geom_bodyid, first.geom_bodyid)
    assert {thing.class_ for thing in things(first)} == set(road.CLASSES)


def test_looks_stay_nominal_where_nothing_is_randomised():
    a, b = (road.build(seed, randomise=False) for seed in heldout(2))
    assert all(a.drawn[name] == b.drawn[name] for name in road.LOOKS)
    assert a.drawn["limit_m_s"] != b.drawn["limit_m_s"]


def test_a_moment_is_plausible_and_goes_on():
    model = road.build(seed_of(1, "train", 0)).model()
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(20):
        drawn = road.moment(model, data, rng)
        assert road.PARAMETERS["camera_fov_deg"].low <= drawn["camera_fov_deg"]
        cars, _, _ = road.tables_of(data)
        assert not cars[:, traffic.CRASHED].any()
        np.testing.assert_allclose(data.mocap_pos[0, :2], (cars[0, 0], -cars[0, 1]))
        copy = mujoco.MjData(model)
        copy.userdata[:] = data.userdata
        road.advance(model, copy, rng, 0.5)
        road.advance(model, data, rng, 0.5)
        moved = road.tables_of(data)
        assert moved[0][0, traffic.X] > cars[0, traffic.X] or cars[0, traffic.SPEED] < 1
        assert not moved[0][0, traffic.CRASHED]
        assert data.mocap_pos.tobytes() == copy.mocap_pos.tobytes()
    there = np.flatnonzero(model.geom_group[model.body_geomadr[1 : 1 + road.CARS]] == 2)
    assert len(there) + (cars[:, traffic.KIND] == 2).sum() == (cars[:, traffic.KIND] > 0).sum()


def test_a_drive_can_be_looked_at():
    drive = Drive(WORLD, 2)
    drive.reset(heldout(2))
    drive.step(drive.expert())
    model, data = drive.scene(1)
    np.testing.assert_allclose(data.mocap_pos[0, 0], drive.cars[1, 0, traffic.X])
    eye = data.cam_xpos[model.camera("camera/0").id]
    assert 1.0 < eye[2] < 2.0
    assert eye[0] > drive.cars[1, 0, traffic.X]


def test_what_no_road_can_be_is_refused():
    with pytest.raises(WorldRefused, match="lanes"):
        road.build(1, {"lanes": (1, 9)})
    with pytest.raises(WorldRefused, match="camels"):
        Drive({**WORLD, "ranges": {"camels": [1, 2]}}, 1).reset([1])
