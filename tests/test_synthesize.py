"""Labelled pictures: true where they are true, caught where they are not."""

import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
from collections import Counter

import mujoco
import numpy as np
import pytest

from gigafactory.jobs import synthesize, worlds
from gigafactory.jobs.context import STOP, Context, StopJob
from gigafactory.jobs.synthesize import render
from gigafactory.jobs.synthesize.certificate import Examiner, coverage, duplicates, fingerprints
from gigafactory.jobs.synthesize.frame import Frame
from gigafactory.jobs.synthesize.labels import Labeller
from gigafactory.jobs.worlds.scene import Range, WorldRefused

ROOM = """
<mujoco>
  <visual><map znear=".01"/><headlight ambient=".2 .2 .2" diffuse=".3 .3 .3" specular="0 0 0"/>
    <quality offsamples="0" shadowsize="0"/></visual>
  <asset>
    <texture name="tiles" type="2d" builtin="checker" width="32" height="32" rgb1=".2 .3 .4"
             rgb2=".6 .5 .4"/>
    <material name="tiles" texture="tiles" texrepeat="4 4" specular="0"/>
    <material name="matt" rgba=".9 .2 .1 1" specular="0"/>
    <mesh name="wedge" vertex="0 0 0  .8 0 0  0 .8 0  0 0 .9"/>
    <hfield name="hill" nrow="5" ncol="5" size=".6 .6 .4 .1"
            elevation="0 0 0 0 0  0 1 2 1 0  0 2 3 2 0  0 1 2 1 0  0 0 0 0 0"/>
  </asset>
  <worldbody>
    <light directional="true" dir="-.3 .2 -1" diffuse=".5 .5 .5" specular="0 0 0"/>
    <light pos="0 0 4" dir="0 0 -1" cutoff="60" exponent="2" diffuse=".4 .4 .3" specular="0 0 0"/>
    <geom name="floor" type="plane" size="5 5 .1" material="tiles"/>
    <camera name="camera/0" pos="0 -4 2.2" xyaxes="1 0 0 0 .45 .9" fovy="50"/>
    <camera name="camera/1" pos="3 -2 2" xyaxes=".55 .83 0 -.4 .26 .87" fovy="60"/>
    <body name="box/1" pos="-1.2 .6 .4" euler="0 0 30">
      <geom type="box" size=".3 .5 .4" rgba=".2 .7 .3 1"/></body>
    <body name="ball/2" pos="-.4 .2 .35"><geom type="sphere" size=".35" material="matt"/></body>
    <body name="person/3" pos=".5 .5 .9">
      <geom type="capsule" size=".2 .5" rgba=".3 .3 .9 1"/>
      <body pos=".3 0 .1"><geom type="capsule" size=".06" fromto="0 0 0 .3 -.3 .3"/></body>
    </body>
    <body name="can/4" pos="1.1 -.2 .3"><geom type="cylinder" size=".2 .3" euler="20 0 0"/></body>
    <body name="egg/5" pos="0 -1.2 .3"><geom type="ellipsoid" size=".3 .2 .25" rgba=".9 .9 .7 1"/>
    </body>
    <body name="wedge/6" pos="1.4 .9 0"><geom type="mesh" mesh="wedge" rgba=".7 .3 .7 1"/></body>
    <body name="hill/7" pos="-1.6 -.9 .1">
      <geom type="hfield" hfield="hill" rgba=".4 .6 .3 1"/></body>
    <body name="box/8" pos="-.2 1.6 .3"><geom type="box" size=".5 .1 .3" rgba=".7 .7 .2 1"/></body>
    <body name="ghost/9" pos="0 -2 1"><geom type="box" size=".3 .3 .3" group="4"/></body>
  </worldbody>
</mujoco>"""


class Studio:
    """A model with all that is needed to look at it."""

    def __init__(self, mjcf=ROOM, width=192, height=144):
        self.model = mujoco.MjModel.from_xml_string(mjcf)
        self.simulated = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.simulated)
        self.labeller = Labeller(self.model)
        self.renderer = render.Renderer(width, height)
        self.renderer.load(self.model, self.labeller.numbers)

    def frame(self, camera=0):
        seen = self.renderer.draw(self.simulated, camera)
        labels = self.labeller.label(self.simulated, seen)
        return Frame(0, 0.0, seen.camera, seen.rgb, seen.depth, seen.instance, labels)

    def errors(self, frame):
        examiner = Examiner(self.model)
        for seed in range(3):
            examiner.examine(self.simulated, frame, np.random.default_rng(seed))
        return examiner.errors


@pytest.fixture(scope="module")
def studio():
    return Studio()


# What is drawn.


def drawn_by_mujoco(studio):
    from mujoco.egl import GLContext

    model, height, width = studio.model, 144, 192
    context = GLContext(width, height)
    context.make_current()
    drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, drawing)
    scene = mujoco.MjvScene(model, maxgeom=100)
    for effect in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        scene.flags[effect] = False
    camera = mujoco.MjvCamera()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
    every = mujoco.mjtCatBit.mjCAT_ALL.value
    mujoco.mjv_updateScene(model, studio.simulated, mujoco.MjvOption(), None, camera, every, scene)
    whole = mujoco.MjrRect(0, 0, width, height)
    mujoco.mjr_render(whole, scene, drawing)
    rgb = np.empty((height, width, 3), np.uint8)
    buffer = np.empty((height, width), np.float32)
    mujoco.mjr_readPixels(rgb, buffer, whole, drawing)
    drawing.free()
    context.free()
    near, far = np.array([model.vis.map.znear, model.vis.map.zfar]) * model.stat.extent
    depth = near / (1 - buffer[::-1] * (1 - near / far))
    return rgb[::-1].astype(int), depth


def test_the_picture_is_that_of_mujoco_s_own_renderer(studio):
    frame = studio.frame()
    rgb, depth = drawn_by_mujoco(studio)
    seen = np.isfinite(frame.depth)
    away = np.abs(np.where(seen, frame.depth, 0) - depth)[seen]
    assert np.quantile(away, 0.98) < 5e-3, "but for edges, depths are the same"
    assert np.median(np.abs(rgb - frame.rgb)[seen]) <= 6, "and colours nearly"


def test_every_shape_is_labelled_and_the_labels_are_true(studio):
    for camera in (0, 1):
        frame = studio.frame(camera)
        assert studio.errors(frame) == {}
        names = {label.name for label in frame.labels}
        assert {"box/1", "ball/2", "person/3", "can/4", "egg/5"} <= names
        assert "ghost/9" not in names, "a geom of group 4 is not drawn"
    # The two see the same cuboids.
    first, second = ({lab.name: lab for lab in studio.frame(c).labels} for c in (0, 1))
    for name in first.keys() & second.keys():
        np.testing.assert_array_equal(first[name].position, second[name].position)


def test_how_much_is_seen_is_what_the_thing_alone_would_show(studio):
    group, frame = studio.model.geom_group.copy(), studio.frame()
    for label in frame.labels:
        if label.class_ in ("wedge", "hill"):
            continue  # their outlines are those of their boxes
        mine = studio.labeller.numbers == label.thing
        studio.model.geom_group[~mine] = 4
        alone = studio.frame()
        studio.model.geom_group[:] = group
        assert label.visible == pytest.approx(label.pixels / (alone.instance > 0).sum(), abs=0.04)
    assert min(label.visible for label in frame.labels) < 0.9, "something hides something"


def test_a_round_thing_far_away_is_still_true():
    far = ROOM.replace('pos="0 -4 2.2"', 'pos="0 -40 22"').replace('fovy="50"', 'fovy="6"')
    studio = Studio(far)
    frame = studio.frame()
    assert len(frame.labels) >= 6
    assert studio.errors(frame) == {}


def test_from_inside_a_thing_its_inner_side_is_seen_as_rays_have_it():
    raised = ROOM.replace('pos="-1.2 .6 .4" euler', 'pos="-1.2 .6 .45" euler')
    inside = Studio(raised.replace('pos="0 -4 2.2"', 'pos="-1.2 .6 .4"'))
    frame = inside.frame()
    assert [label.name for label in frame.labels] == ["box/1"]
    assert inside.errors(frame) == {}


@pytest.mark.parametrize(
    ("scene", "seed", "index", "moment"),
    [
        ("factory", 101, 5, 6),  # an arm's wrist just hides a corner of a part
        ("road", 101, 22, 14),  # a tree just hides a strip of sky
        ("warehouse", 2001, 12, 0),  # the side of a person's legs was a sliver, metres too near
        ("road", 2002, 47, 8),  # the far end of a car's side, 5 m deep within a quarter of a pixel
        ("road", 2002, 51, 4),  # the same
        ("road", 0, 34, 4),  # a truck's side beyond its end, 0.3 m in 1/1000 px
        ("road", 0, 61, 13),  # a sign's underside, 1/1000 px high
        ("factory", 9006, 45, 2),  # an arm seen along its axis, its rim of facets too long
    ],
)
def test_what_is_just_hidden_and_what_is_seen_from_its_side_is_true(scene, seed, index, moment):
    seen = work(world={"name": "w", "scene": scene, "ranges": {}}, seed=seed, width=256, height=256)
    clip, _, checked = synthesize.shoot(seen, index, moment + 1)
    assert clip.frames[-1].moment == moment
    assert checked["errors"] == {}


LONG = """
<mujoco>
  <asset>
    <mesh name="long" vertex="-1 -5 -4  1 -5 -4  -1 5 -4  1 5 -4  -1 -5 4  1 -5 4  -1 5 4  1 5 4"/>
  </asset>
  <worldbody>
    <camera name="camera/0" pos="0 0 0" xyaxes="1 0 0 0 0 1" fovy="50"/>
    <body name="truck/1" mocap="true"><geom type="box" size="1 5 4"/></body>
    <body name="ship/2" mocap="true"><geom type="mesh" mesh="long"/></body>
  </worldbody>
</mujoco>"""


def test_a_face_seen_from_its_side_shows_no_depth_beyond_its_ends():
    long, rng, seen_px = Studio(LONG, 256, 256), np.random.default_rng(0), 0
    focal_px = 128 / np.tan(np.radians(25))
    for _ in range(200):
        # The far end of each left side within 1/250 px of a pixel's middle, its near end but a
        # part of a pixel beside it.
        far_y = rng.uniform(80, 250, 2)
        far_x = far_y * (np.array([8.5, 40.5]) + rng.uniform(-1, 1, 2) / 250) / focal_px
        turn = rng.uniform(0.001, 0.005, 2) - np.arctan2(far_x, far_y)
        across, along = (np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))
        long.simulated.mocap_pos[:, 0] = far_x + across[0] - 5 * along[0]
        long.simulated.mocap_pos[:, 1] = far_y + across[1] - 5 * along[1]
        long.simulated.mocap_quat[:, 0], long.simulated.mocap_quat[:, 3] = (
            np.cos(turn / 2),
            np.sin(turn / 2),
        )
        mujoco.mj_forward(long.model, long.simulated)
        frame = long.frame()
        for label in frame.labels:
            depth = frame.depth[frame.instance == label.thing]
            half_m = np.abs(label.rotation[1]) @ label.size / 2
            assert np.abs(depth - label.position[1]).max() < half_m + 0.01, label.name
            seen_px += len(depth)
    assert seen_px > 10_000


def test_a_can_looked_at_along_its_axis_has_a_round_rim():
    can = Studio("""
    <mujoco><worldbody>
      <camera name="camera/0" pos="0 0 3" xyaxes="1 0 0 0 1 0" fovy="60"/>
      <body name="can/1" mocap="true"><geom type="cylinder" size=".4 .5"/></body>
    </worldbody></mujoco>""", 256, 256)  # fmt: skip
    x, y = np.meshgrid(np.arange(256) + 0.5, np.arange(256) + 0.5)
    px_per_m = 128 / np.tan(np.radians(30)) / 2.5
    for beside_m in np.linspace(0, 0.8, 21):
        can.simulated.mocap_pos[0, 0] = beside_m
        mujoco.mj_forward(can.model, can.simulated)
        off_px = np.hypot(x - 128 - beside_m * px_per_m, y - 128) - 0.4 * px_per_m
        missing = (can.frame().instance == 0) & (off_px < 0)
        assert off_px[missing].min(initial=0) > -2 * render.FACET_PX, f"{beside_m} m beside it"


def test_a_texture_that_changes_is_drawn_anew(studio):
    before = studio.frame().rgb
    texels = studio.model.tex_data.copy()
    studio.model.tex_data[:] = 255 - texels
    after = studio.frame().rgb
    studio.model.tex_data[:] = texels
    assert (before != after).any()
    np.testing.assert_array_equal(studio.frame().rgb, before)


# What is caught.


def shifted(frame, px=3):
    return dataclasses.replace(frame, instance=np.roll(frame.instance, px, axis=1))


def all_shifted(frame):
    """By one pixel, and so that picture, depth and labels agree with each other."""
    labels = [
        dataclasses.replace(label, box=tuple(np.add(label.box, (1, 0, 1, 0)).tolist()))
        for label in frame.labels
    ]
    return dataclasses.replace(
        shifted(frame, 1), depth=np.roll(frame.depth, 1, axis=1), labels=tuple(labels)
    )


def swapped(frame):
    one, other = (label.thing for label in sorted(frame.labels, key=lambda lab: -lab.pixels)[:2])
    swap = np.arange(100, dtype=np.uint16)
    swap[[one, other]] = other, one
    return dataclasses.replace(frame, instance=swap[frame.instance])


def relabelled(frame, **change):
    worst = max(frame.labels, key=lambda label: label.pixels)
    labels = [
        dataclasses.replace(label, **{k: v(label) for k, v in change.items()})
        if label is worst
        else label
        for label in frame.labels
    ]
    return dataclasses.replace(frame, labels=tuple(labels))


def aimed(frame, scale):
    bent = frame.camera.intrinsics.copy()
    bent[0, 0] *= scale
    return dataclasses.replace(frame, camera=dataclasses.replace(frame.camera, intrinsics=bent))


def nearest_thing_deeper(frame):
    """By 3 cm; all else is true."""
    nearest = min(
        (label for label in frame.labels if label.pixels > 500),
        key=lambda label: frame.depth[frame.instance == label.thing].min(),
    )
    off = np.where(frame.instance == nearest.thing, np.float32(0.03), np.float32(0))
    return dataclasses.replace(frame, depth=frame.depth + off)


LIES = {
    "segmentation moved by 3 px": (shifted, "segmentation"),
    "segmentation moved by 1 px": (lambda frame: shifted(frame, 1), "segmentation"),
    "all moved by 1 px": (all_shifted, "segmentation"),
    "two things take each other's number": (swapped, "segmentation"),
    "depth 2 % too great": (
        lambda frame: dataclasses.replace(frame, depth=frame.depth * np.float32(1.02)),
        "depth",
    ),
    "one thing's depth 3 cm too great": (nearest_thing_deeper, "depth"),
    "a box 2 px too wide": (
        lambda frame: relabelled(frame, box=lambda lab: (lab.box[0] - 2, *lab.box[1:])),
        "box",
    ),
    "a box 2 px off": (
        lambda frame: relabelled(
            frame, box=lambda lab: tuple(np.add(lab.box, (2, 0, 2, 0)).tolist())
        ),
        "box",
    ),
    "a label left out": (
        lambda frame: dataclasses.replace(frame, labels=frame.labels[1:]),
        "unlabelled",
    ),
    "a wrong class": (lambda frame: relabelled(frame, class_=lambda lab: "forklift"), "name"),
    "a cuboid 5 cm off": (
        lambda frame: relabelled(frame, position=lambda lab: lab.position + np.array([0.05, 0, 0])),
        "cuboid",
    ),
    "a cuboid a tenth too large": (
        lambda frame: relabelled(frame, size=lambda lab: lab.size * 1.1),
        "cuboid",
    ),
    "a cuboid's box 2 px off": (
        lambda frame: relabelled(
            frame, full_box=lambda lab: tuple(np.add(lab.full_box, 2).tolist())
        ),
        "projection",
    ),
    "a focal length 3 % too great": (lambda frame: aimed(frame, 1.03), "projection"),
}


@pytest.fixture(scope="module", params=["room", "warehouse", "factory", "road"])
def place(request):
    """A studio, and a picture of it that is true."""
    if request.param == "room":
        studio = Studio()
    else:
        scene = worlds.build({"name": "w", "scene": request.param, "ranges": {}}, 21)
        studio = Studio(scene.mjcf, 256, 256)
    frame = studio.frame()
    assert studio.errors(frame) == {}
    return studio, frame


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_caught(place, lie):
    studio, frame = place
    tell, kind = LIES[lie]
    assert studio.errors(tell(frame))[kind] > 0


def test_coverage_counts_tenths_and_whole_numbers():
    told = coverage(
        {"light": Range(0, 1), "people": Range(1, 4, whole=True)},
        [{"light": 0.05, "people": 1.0}, {"light": 1.0, "people": 4.0}],
    )
    assert told["light"]["histogram"] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert told["light"]["bins_hit"] == pytest.approx(0.2)
    assert told["people"]["histogram"] == [1, 0, 0, 1]


def test_a_picture_that_comes_twice_is_counted(studio):
    one, other = fingerprints(studio.frame(0).rgb), fingerprints(studio.frame(1).rgb)
    assert duplicates([one, other, one]) == {"exact": 1, "alike": 1}


# What is refused.


def test_without_opengl_the_refusal_says_what_to_install(monkeypatch):
    import threading

    import mujoco.egl

    def missing(*_):
        raise ImportError("libEGL.so.1 is not there")

    monkeypatch.setattr(mujoco.egl, "GLContext", missing)
    monkeypatch.setattr(render, "_THREAD", threading.local())
    with pytest.raises(WorldRefused) as refused:
        render.Renderer(8, 8)
    assert "libegl1 libgl1-mesa-dri" in refused.value.remedy
    assert "libEGL.so.1" in refused.value.why


def test_more_cameras_than_there_are_is_refused(tmp_path):
    with pytest.raises(WorldRefused, match="99 cameras were asked for"):
        synthesize.run(Context.alone(tmp_path, work(cameras=99)))


# The job.


def work(**more):
    return {
        "name": "frames",
        "kind": "synthesize",
        "world": {"name": "hall", "scene": "warehouse", "ranges": {}},
        "frames": 40,
        "formats": ["coco"],
        "width": 64,
        "height": 48,
        "cameras": 1,
        "clip": 1,
        "fps": 10.0,
        "randomise": True,
        "layouts": "train",
        "seed": 3,
    } | more


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert files
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
        whole.update(path.read_bytes())
    return whole.hexdigest()


def certificate(context):
    return json.loads((context.output / "certificate.json").read_text())


def test_the_same_seed_gives_the_same_bytes_however_it_was_made(tmp_path):
    alone = Context.alone(tmp_path / "alone", work())
    results = synthesize.run(alone)
    assert (results["frames"], results["label_errors"]) == (40, 0)
    stated = certificate(alone)
    assert len(stated["seeds"]) == 3
    assert Counter(stated["checked"])["frames"] == 40

    together = Context.alone(tmp_path / "together", work(), chips=2)
    synthesize.run(together)
    assert digest(together.output / "dataset") == digest(alone.output / "dataset")

    stopped = Context.alone(tmp_path / "stopped", work())
    make = synthesize.Parts.__call__

    def stop_after_one(self, index, folder):
        make(self, index, folder)
        (stopped.folder / STOP).touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesize.Parts, "__call__", stop_after_one)
        with pytest.raises(StopJob):
            synthesize.run(stopped)
    kept = stopped.last_checkpoint()
    assert len(list((kept / "parts").iterdir())) == 1
    resumed = Context.alone(tmp_path / "resumed", work(), resume_from=kept)
    synthesize.run(resumed)
    assert digest(resumed.output / "dataset") == digest(alone.output / "dataset")
    for other in (together, resumed):
        assert certificate(other) | {"cost": 0} == stated | {"cost": 0}


def test_a_run_that_is_killed_while_it_joins_leaves_no_dataset_and_can_be_run_again(tmp_path):
    every = work(frames=3, formats=list(synthesize.FORMATS))
    whole, killed = (Context.alone(tmp_path / name, every) for name in ("whole", "killed"))
    synthesize.run(whole)
    # Its last format is never joined.
    ended = "from gigafactory.jobs.synthesize.formats import webdataset\nimport os, signal\n"
    ended += "webdataset.join = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    run = "from gigafactory.jobs import synthesize\nfrom gigafactory.jobs.context import Context\n"
    run += f"synthesize.run(Context.alone({str(tmp_path / 'killed')!r}, {every!r}))"
    assert subprocess.run([sys.executable, "-c", ended + run]).returncode == -signal.SIGKILL
    assert not (killed.output / "dataset").exists()
    for _ in range(2):  # run again once it has ended, it makes the same
        synthesize.run(killed)
        assert digest(killed.output / "dataset") == digest(whole.output / "dataset")


def test_another_seed_gives_other_pictures_and_the_certificate_says_what_they_cost(tmp_path):
    first = Context.alone(tmp_path / "a", work(frames=2))
    other = Context.alone(
        tmp_path / "b", work(frames=2, seed=4, power_w_per_chip=20.0, carbon_g_per_kwh=400.0)
    )
    for context in (first, other):
        synthesize.run(context)
    assert digest(first.output / "dataset") != digest(other.output / "dataset")
    assert certificate(first)["cost"]["energy_kwh"] is None
    spent = certificate(other)["cost"]
    assert spent["energy_kwh"] == pytest.approx(spent["cpu_s"] * 20 / 3.6e6)
    assert spent["carbon_g"] == pytest.approx(spent["energy_kwh"] * 400)
    assert list((first.output / "preview").glob("*.png"))


@pytest.mark.parametrize("scene", ["warehouse", "factory", "road"])
def test_a_clip_is_moments_in_a_row_of_the_same_things(scene):
    wanted = work(world={"name": "w", "scene": scene, "ranges": {}}, clip=4, frames=4)
    clip, moments, checked = synthesize.shoot(wanted, 0, 4)
    assert [frame.time_s for frame in clip.frames] == [0.0, 0.1, 0.2, pytest.approx(0.3)]
    assert checked["errors"] == {}
    names: dict[int, str] = {}
    for frame in clip.frames:
        for label in frame.labels:
            assert names.setdefault(label.thing, label.name) == label.name
            assert label.class_ in clip.classes
    assert moments[1:] == [{}, {}, {}]
