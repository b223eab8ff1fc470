"""The sorting cell: its physics, its moments, and the task of sorting in it."""

import mujoco
import numpy as np
import pytest

from gigafactory.jobs.worlds import factory
from gigafactory.jobs.worlds.scene import WorldRefused, seed_of, things
from gigafactory.jobs.worlds.sort import Sort

WORLD = {"name": "cell", "scene": "factory"}
OPEN = -1


@pytest.fixture(scope="module")
def cells():
    """Four copies, at the start of held-out layouts in each test that resets them."""
    return Sort(WORLD, 4)


def heldout(count, first=0):
    return [seed_of(3, "heldout", first + i) for i in range(count)]


def until(cells, happened, steps=400):
    """Let the expert work until `happened(cells)`."""
    for _ in range(steps):
        if happened(cells):
            return
        cells.step(cells.expert())
    pytest.fail("the expert never came that far")


def test_a_seed_is_a_cell_to_the_byte_and_every_seed_has_the_same_structure():
    assert factory.build(7).mjcf == factory.build(7).mjcf
    models = [factory.build(seed).model() for seed in heldout(12)]

    def structure(model):
        bodies = [(model.body(i).name, model.body_parentid[i]) for i in range(model.nbody)]
        geoms = list(zip(model.geom_type.tolist(), model.geom_bodyid.tolist(), strict=True))
        return bodies, geoms, model.jnt_type.tolist(), model.nmat, model.nlight, model.ncam

    assert all(structure(model) == structure(models[0]) for model in models)
    assert any((model.body_pos != models[0].body_pos).any() for model in models)


def test_looks_can_be_kept_while_layouts_vary():
    for seed in heldout(4):
        plain = factory.build(seed, randomise=False).model()
        wild = factory.build(seed).model()
        assert (plain.body_pos == wild.body_pos).all()
        assert (plain.geom_size == wild.geom_size).all()
        assert (plain.mat_rgba != wild.mat_rgba).any()
        assert (plain.cam_pos != wild.cam_pos).any()


def test_ranges_are_kept_and_impossible_ones_refused():
    for seed in heldout(5):
        drawn = factory.build(seed, {"parts": (5, 5), "belt_speed": (0.1, 0.11)}).drawn
        assert drawn["parts"] == 5
        assert 0.1 <= drawn["belt_speed"] <= 0.11
    with pytest.raises(WorldRefused, match="belt_sped"):
        factory.build(1, {"belt_sped": (0.1, 0.2)})


@pytest.mark.parametrize("seed", heldout(3))
def test_the_belt_carries_parts_at_its_own_speed(seed):
    model = factory.build(seed).model()
    data = mujoco.MjData(model)
    factory.show(model, range(9))
    cell = factory.read([model])
    poses = factory.parts_of(data.qpos[None])[0]
    poses[:6, 0] = np.linspace(-0.6, 0.3, 6)
    poses[:6, 2] = factory.BELT_Z + cell.height[0, :6] / 2

    def run(seconds):
        for step in range(round(100 * seconds)):
            if step % 10 == 0:
                factory.tend(data.qpos[None], data.qvel[None], cell.speed, poses[None, :, 2] < -1)
                data.ctrl[0] = cell.speed[0]
            mujoco.mj_step(model, data)
        return poses[:6, 0].copy()

    start = run(0.5)
    speed = (run(1.5) - start) / 1.5
    assert np.abs(speed / cell.speed[0] - 1).max() < 0.03


def test_a_held_part_stays_held_and_falls_when_let_go(cells):
    cells.reset(heldout(4))
    until(cells, lambda cells: cells.expert()[0, 3] > 0 and cells._held()[0] >= 0)
    slot = cells._held()[0]
    action = np.zeros((4, 4), np.float32)
    action[:, 2:] = 0.5, 1.0
    for _ in range(3):
        cells.step(action)
    action[:, 0], action[:, 2] = 1.0, 0.0
    for _ in range(4):
        cells.step(action)
        action[:, 0] *= -1  # There and back at full speed.
        assert cells._held()[0] == slot
    held_z = cells._parts()[0, slot, 2]
    assert held_z > factory.BELT_Z + 0.05

    action[:, 0], action[:, 3] = 0.0, -1.0
    cells.step(action)
    cells.step(action)
    assert cells._held()[0] == -1
    assert cells._parts()[0, slot, 2] < held_z - 0.05


def test_a_part_let_go_over_its_bin_comes_to_lie_in_it(cells):
    cells.reset(heldout(4))
    right = (factory.BIN_OF >= 0) & (cells.cell.enter_s > 0)
    until(cells, lambda cells: ((cells.place == factory.BIN_OF) & right)[0].any())
    slot = np.argmax((cells.place == factory.BIN_OF)[0] & right[0])
    for _ in range(10):
        cells.step(cells.expert())
    x, y, z = cells._parts()[0, slot]
    away = np.abs(np.array([x, y]) - cells.cell.bin_xy[0, factory.BIN_OF[slot]])
    assert away.max() < factory.BIN_HALF * np.sqrt(2)
    assert factory.BIN_FLOOR < z < factory.BIN_FLOOR + 0.12


def test_the_expert_sorts_held_out_layouts_and_who_does_nothing_never_does(cells):
    cells.reset(heldout(4, first=100))
    while not cells.ended.all():
        step = cells.step(cells.expert())
    assert step.success.all()
    assert not step.collision.any()

    cells.reset(heldout(4, first=100))
    while not cells.ended.all():
        step = cells.step(np.zeros((4, 4)))
    assert not step.success.any()
    assert not step.collision.any()
    assert (cells.steps <= cells.steps_max).all()


def test_a_tool_pushed_into_the_belt_is_a_collision(cells):
    cells.reset(heldout(4))
    down = np.tile(np.array([0, 0, -1, -1], np.float32), (4, 1))
    for _ in range(15):
        step = cells.step(down)
    assert step.collision.all()
    assert step.ended.all()
    assert not step.success.any()


def test_a_part_in_the_wrong_bin_costs_and_can_not_be_made_good(cells):
    cells.reset(heldout(4))
    slot = int(np.argmax(cells.place[0] == OPEN))
    wrong = (factory.BIN_OF[slot] + 1) % factory.BINS
    factory.parts_of(cells.qpos)[0, slot, :3] = *cells.cell.bin_xy[0, wrong], 0.25
    step = cells.step(cells.expert())
    assert cells.place[0, slot] == wrong
    assert step.reward[0] < -0.9
    while not cells.ended[0]:
        step = cells.step(cells.expert())
    assert not step.success[0]


def test_a_copy_depends_on_its_seed_and_actions_alone():
    seeds = heldout(3)
    many = Sort(WORLD, 3, threads=2)
    many.reset(heldout(3, first=50))
    for _ in range(5):
        many.step(many.expert())
    many.reset(seeds)
    alone = Sort(WORLD, 1)
    seen = alone.reset(seeds[1:2])
    noise = np.random.default_rng(0)
    for step in range(120):
        action = np.clip(many.expert() + noise.normal(0, 0.2, (3, 4)), -1, 1).astype(np.float32)
        ours, theirs = alone.step(action[1:2]), many.step(action)
        assert ours.observation.tobytes() == theirs.observation[1:2].tobytes(), step
        assert ours.reward[0] == theirs.reward[1]
        if step == 40:
            many.reset(heldout(1, first=60), [0])
    assert seen.dtype == np.float32
    assert many.drawn[1] == alone.drawn[0]


def test_the_observation_tells_where_the_next_part_is_and_whether_it_is_bad(cells):
    observation = cells.reset(heldout(4))
    assert observation.shape == (4, cells.observation_size)
    assert np.isfinite(observation).all()
    seen = dict(zip(cells.observation_names, observation.T, strict=True))
    for copy in range(4):
        slot = int(
            np.argmax(np.where(factory.on_belt(cells._parts()), cells._parts()[..., 0], -9)[copy])
        )
        x, y, _ = cells._parts()[copy, slot]
        assert seen["next0_turn"][copy] * 1.5 == pytest.approx(np.arctan2(-x, y), abs=1e-5)
        assert seen["next0_defect"][copy] == factory.DEFECT[slot]
        kinds = [seen[f"next0_{kind}"][copy] for kind in factory.KINDS]
        assert int(np.argmax(kinds)) == factory.KIND[slot]
        assert sum(kinds) == 1


def test_a_moment_is_plausible_and_the_same_for_the_same_stream():
    model = factory.build(5).model()
    data = mujoco.MjData(model)
    first = [factory.moment(model, data, np.random.default_rng(i)) for i in range(20)]
    deepest = []
    for i in range(20):
        assert factory.moment(model, data, np.random.default_rng(i)) == first[i]
        deepest.append(data.contact.dist.min() if data.ncon else 0.0)
        poses = data.qpos.copy()
        factory.advance(model, data, np.random.default_rng(0), 0.1)
        # Nothing explodes: in a tenth of a second nothing but a falling part moves far.
        assert np.abs(data.qpos - poses)[factory.PARTS_Q :].max() < 0.9
        assert np.abs(data.qvel[factory.PARTS_V :].reshape(9, 6)[:, :3]).max() < 2.5
    assert min(deepest) > -0.003
    assert len({str(each) for each in first}) == 20
    assert all(each.keys() <= factory.PARAMETERS.keys() for each in first)
    classes = {thing.class_ for thing in things(model)}
    assert classes == set(factory.CLASSES)


def test_in_a_clip_the_arm_sorts_what_lies_on_the_belt():
    model = factory.build(5).model()
    data = mujoco.MjData(model)
    rng = np.random.default_rng(1)
    factory.moment(model, data, rng)
    cell = factory.read([model])

    def in_bins():
        parts = factory.parts_of(data.qpos[None])[0, :, :3]
        away = np.linalg.norm(parts[:, None, :2] - cell.bin_xy[0], axis=-1)
        return (away[np.arange(9), factory.BIN_OF] < 0.15) & (parts[:, 2] < factory.BIN_RIM)

    before = in_bins() & (factory.parts_of(data.qpos[None])[0, :, 2] > -1)
    for _ in range(60):
        factory.advance(model, data, rng, 0.2)
    after = in_bins() & (factory.parts_of(data.qpos[None])[0, :, 2] > -1)
    assert after.sum() >= before.sum() + 2
    assert (after | ~before).all()


def test_a_copy_can_be_drawn_as_it_stands(cells):
    cells.reset(heldout(4))
    until(cells, lambda cells: cells._held()[2] >= 0)
    model, data = cells.scene(2)
    assert np.allclose(data.qpos, cells.qpos[2])
    slot = cells._held()[2]
    class_ = factory.SLOTS[slot][0]
    body = model.body(f"{class_}/{slot if class_ == 'part' else slot - 6}").id
    assert np.linalg.norm(data.xpos[body][:2] - data.body("tool").xpos[:2]) < 0.02
