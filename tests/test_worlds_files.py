# ruff: noqa: E501
"""Worlds as files: written as OpenUSD, read from MJCF, URDF and OpenUSD, refused where broken."""

import json
import math
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import typer.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

os.environ.setdefault("MUJOCO_GL", "egl")
mujoco = pytest.importorskip("mujoco")
pytest.importorskip("pxr")

import numpy as np  # noqa: E402

from gigafactory import cli  # noqa: E402
from gigafactory.jobs import worlds  # noqa: E402
from gigafactory.jobs.worlds import imported, usd  # noqa: E402
from gigafactory.jobs.worlds.scene import Scene, WorldRefused, things  # noqa: E402

ROOT = Path(__file__).parents[1]

YARD = """<mujoco>
<option timestep="0.004" integrator="implicitfast"/>
<asset><material name="red" rgba="1 0 0 1"/>
<mesh name="tet" vertex="0 0 0 .3 0 0 0 .3 0 0 0 .3"/></asset>
<worldbody>
<light pos="0 0 3"/><geom name="floor" type="plane" size="0 0 .1"/>
<camera name="camera/0" pos="0 -3 1" xyaxes="1 0 0 0 .3 1"/>
<body name="rack/1" pos="1 1 0"><geom type="box" size=".1 .1 .5" pos="0 0 .5"/>
 <body name="shelf" pos="0 0 1"><geom type="box" size=".2 .2 .01"/></body></body>
<body name="box/1" pos="0 0 .5" euler="10 20 30"><freejoint name="loose"/>
 <geom type="box" size=".1 .15 .2" material="red" friction=".6 .01 .001"/></body>
<body name="box/2" pos="1 -1 .5"><freejoint/><geom type="mesh" mesh="tet"/></body>
<body name="robot/1" pos="-1 0 .1">
 <joint name="x" type="slide" axis="1 0 0" damping="1"/>
 <joint name="y" type="slide" axis="0 1 0" damping="1"/>
 <joint name="yaw" axis="0 0 1" damping=".1"/><geom type="cylinder" size=".2 .05"/>
 <body name="arm" pos="0 0 .1">
  <joint name="lift" axis="0 -1 0" range="-60 80" armature=".01" ref="10"/>
  <geom type="capsule" fromto="0 0 0 .3 0 .1" size=".03"/>
  <body name="hand" pos=".3 0 .1"><geom type="ellipsoid" size=".03 .04 .05"/>
   <body name="ball" pos="0 0 .1"><joint name="wrist" type="ball" damping=".01"/>
    <geom size=".03" pos="0 0 .05"/></body></body></body></body>
</worldbody>
<actuator><position name="lifts" joint="lift" kp="20" kv="1" ctrlrange="-1 1"/>
<velocity name="drives" joint="x" kv="5"/><motor name="turns" joint="yaw" gear="2"/></actuator>
<contact><exclude body1="box/1" body2="box/2"/></contact>
<equality><weld name="tape" body1="box/1" body2="box/2" active="false"/></equality>
</mujoco>"""

ROBOT = """<robot name="r">
<link name="base"><collision><geometry><box size="1 1 1"/></geometry></collision></link>
<link name="arm"><inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/>
</inertial><collision><geometry><box size="1 .1 .1"/></geometry></collision></link>
<joint name="elbow" type="revolute"><parent link="base"/><child link="arm"/><axis xyz="0 0 1"/>
<limit lower="-1" upper="1" effort="10" velocity="1"/></joint></robot>"""

# A pendulum of 1 m and a box, in cm and with y up, as other tools export them.
HALL = """#usda 1.0
(
 defaultPrim = "Hall"
 metersPerUnit = 0.01
 upAxis = "Y"
)
def Xform "Hall" {
 def PhysicsScene "Physics" {
  float physics:gravityMagnitude = 981
 }
 def Xform "floor" { def Mesh "top" (prepend apiSchemas = ["PhysicsCollisionAPI"]) {
  point3f[] points = [(-500, 0, -500), (500, 0, -500), (500, 0, 500), (-500, 0, 500)]
  int[] faceVertexCounts = [4]
  int[] faceVertexIndices = [3, 2, 1, 0]
  }
 }
 def Cube "Crate" (prepend apiSchemas = ["PhysicsRigidBodyAPI", "PhysicsCollisionAPI",
   "PhysicsMassAPI", "SemanticsLabelsAPI:class"]) {
  double size = 20
  float physics:mass = 3
  token[] semantics:labels:class = ["crate"]
  double3 xformOp:translate = (100, 10, 0)
  uniform token[] xformOpOrder = ["xformOp:translate"]
 }
 def Xform "Rod" (prepend apiSchemas = ["PhysicsRigidBodyAPI", "PhysicsMassAPI"]) {
  float physics:mass = 2
  double3 xformOp:translate = (0, 300, 0)
  uniform token[] xformOpOrder = ["xformOp:translate"]
  def Sphere "bob" (prepend apiSchemas = ["PhysicsCollisionAPI"]) {
   double radius = 5
   double3 xformOp:translate = (100, 0, 0)
   uniform token[] xformOpOrder = ["xformOp:translate"]
  }
 }
 def PhysicsRevoluteJoint "pivot" (prepend apiSchemas = ["PhysicsDriveAPI:angular"]) {
  rel physics:body0 = </Hall/floor>
  rel physics:body1 = </Hall/Rod>
  point3f physics:localPos0 = (0, 300, 0)
  uniform token physics:axis = "Z"
  float physics:lowerLimit = -90
  float physics:upperLimit = 45
  float drive:angular:physics:damping = 0.01
 }
}
"""


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path):
    """As `imported.look`, but in this process."""
    return imported.answer(imported.here(path))


def refusal(path):
    with pytest.raises(WorldRefused) as caught:
        read(path)
    return caught.value


def scene_of(mjcf):
    return Scene("import", 0, mjcf, {}, ())


def apart_m(ours, other, seconds):
    """How far bodies of the same name are apart at most, both driven alike."""
    ids = [other.body(name).id for name in names(ours)]
    positions = []
    for model in (ours, other):
        data = mujoco.MjData(model)
        data.ctrl[:] = 0.3
        while data.time < seconds - 1e-9:
            mujoco.mj_step(model, data)
        mujoco.mj_forward(model, data)
        positions.append(data.xpos)
    return np.abs(positions[0] - positions[1][ids]).max()


def names(model):
    return [model.body(body).name for body in range(model.nbody)]


@pytest.mark.parametrize("suffix", usd.SUFFIXES)
def test_a_world_comes_back_from_usd_with_the_same_parts_and_the_same_physics(tmp_path, suffix):
    scene = scene_of(YARD)
    assert usd.write(scene, tmp_path / f"yard{suffix}") == ()
    ours, back = scene.model(), read(tmp_path / f"yard{suffix}").scene.model()
    for count in ("nbody", "njnt", "ngeom", "nu", "ncam", "nlight", "neq", "nv", "nexclude"):
        assert getattr(back, count) == getattr(ours, count), count
    assert [thing.name for thing in things(back)] == [thing.name for thing in things(ours)]
    moving = [name for name in names(ours) if ours.body(name).weldid]
    for name in moving:
        assert back.body(name).mass == pytest.approx(ours.body(name).mass, rel=1e-6)
        assert back.body(name).inertia == pytest.approx(ours.body(name).inertia, rel=1e-5)
    assert apart_m(ours, back, 2.0) < 1e-4


@pytest.mark.parametrize("name", worlds.SCENES)
def test_our_worlds_come_back_from_usd_and_move_as_before(tmp_path, name):
    scene = worlds.build({"name": name, "scene": name}, 7)
    usd.write(scene, tmp_path / "world.usdc")
    ours, back = scene.model(), read(tmp_path / "world.usdc").scene.model()
    assert sorted(names(back)) == sorted(names(ours))
    assert (back.njnt, back.ngeom, back.nu) == (ours.njnt, ours.ngeom, ours.nu)
    assert {t.name: t.class_ for t in things(back)} == {t.name: t.class_ for t in things(ours)}
    assert apart_m(ours, back, 1.0) < 1e-3


@pytest.mark.parametrize("name", worlds.SCENES)
def test_our_worlds_are_ready_for_simulators_and_the_same_scene_is_the_same_bytes(tmp_path, name):
    scene = worlds.build({"name": name, "scene": name}, 3)
    for copy in ("one", "two"):
        usd.write(scene, tmp_path / f"{copy}.usda")
    assert (tmp_path / "one.usda").read_bytes() == (tmp_path / "two.usda").read_bytes()
    failed = [check for check in usd.validate(tmp_path / "one.usda") if not check.passed]
    # The links of the factory's arm are only seen: nothing reaches them.
    assert {check.name for check in failed} <= ({"colliders"} if name == "factory" else set())


def test_centimetres_and_y_up_become_metres_and_z_up(tmp_path):
    found = read(put(tmp_path, "hall.usda", HALL))
    model = found.scene.model()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert model.opt.gravity == pytest.approx([0, 0, -9.81])
    assert data.body("Rod").xpos == pytest.approx([0, 0, 3])
    assert data.body("crate/1").xpos == pytest.approx([1, 0, 0.1])
    assert model.body("crate/1").mass == pytest.approx(3)
    assert model.jnt_range[model.joint("pivot").id] == pytest.approx([-math.pi / 2, math.pi / 4])
    assert (model.ncam, model.nlight) == (1, 1)
    assert [
        "no camera" in note or "no light" in note or "convex hull" in note for note in found.notes
    ]
    # It swings as a pendulum of 1 m does: down from the horizontal at sqrt(2 g l).
    model.dof_damping[:], model.actuator_biasprm[:] = 0, 0
    fastest = 0.0
    for _ in range(200):
        mujoco.mj_step(model, data)
        fastest = max(fastest, abs(data.joint("pivot").qvel[0]))
    bob = model.body("Rod")
    arm_m, mass = float(np.linalg.norm(bob.ipos)), float(bob.mass[0])
    inertia = mass * arm_m**2 + float(bob.inertia.max())
    assert fastest == pytest.approx(math.sqrt(2 * mass * 9.81 * arm_m / inertia), rel=0.02)
    # Its floor is flat, and holds the crate.
    assert data.body("crate/1").xpos[2] == pytest.approx(0.1, abs=0.005)


def test_a_drive_becomes_a_servo_in_radians(tmp_path):
    model = read(put(tmp_path, "hall.usda", HALL)).scene.model()
    # 0.01 kg cm2/s per degree.
    per_radian = 0.01 * 1e-4 * 180 / math.pi
    assert -model.actuator_biasprm[0][2] == pytest.approx(per_radian)


def test_things_are_called_by_their_labels_and_else_by_their_prims(tmp_path):
    many = HALL.replace('def Cube "Crate"', 'def Cube "Crate2"').rstrip()[:-1]
    crate = HALL[HALL.index(' def Cube "Crate"') : HALL.index(' def Xform "Rod"')]
    model = read(put(tmp_path, "hall.usda", many + crate + "}\n")).scene.model()
    assert [thing.name for thing in things(model)] == ["crate/1", "crate/2"]
    plain = HALL.replace(', "SemanticsLabelsAPI:class"', "").replace('token[] semantics:labels:class = ["crate"]', "")  # fmt: skip
    found = read(put(tmp_path, "plain.usda", plain)).scene
    assert set(found.classes) == {"floor", "Crate", "Rod"}


def test_a_robot_of_urdf_keeps_its_joints_and_finds_meshes_in_its_package(tmp_path):
    package = tmp_path / "arms"
    (package / "urdf").mkdir(parents=True)
    (package / "meshes").mkdir()
    corners = np.array([[0, 0, 0], [0, 0.3, 0], [0.3, 0, 0], [0, 0, 0.3]], "<f4")
    faces = [(0, 1, 2), (0, 2, 3), (0, 3, 1), (1, 3, 2)]
    stl = bytes(80) + struct.pack("<I", 4) + b"".join(
        bytes(12) + corners[list(face)].tobytes() + bytes(2) for face in faces)  # fmt: skip
    (package / "meshes" / "arm.stl").write_bytes(stl)
    meshed = ROBOT.replace(
        '<box size="1 .1 .1"/>', '<mesh filename="package://arms/meshes/arm.stl"/>'
    )
    scene = read(put(package / "urdf", "robot.urdf", meshed)).scene
    model = scene.model()
    assert (model.njnt, model.nmesh, len(scene.assets)) == (1, 1, 1)
    assert model.jnt_range[0] == pytest.approx([-1, 1])
    assert scene.classes == ("base", "arm")
    (package / "meshes" / "arm.stl").unlink()
    refused = refusal(package / "urdf" / "robot.urdf")
    assert "missing" in refused.what
    assert refused.where.startswith("robot.urdf:4, <mesh")


def test_an_mjcf_is_whole_with_its_includes_and_meshes(tmp_path):
    (tmp_path / "parts").mkdir()
    put(
        tmp_path / "parts",
        "tet.obj",
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n",
    )
    put(tmp_path / "parts", "thing.xml", '<mujoco><worldbody><body name="tet_1"><freejoint/><geom type="mesh" mesh="tet"/></body></worldbody></mujoco>')  # fmt: skip
    path = put(tmp_path, "whole.xml", '<mujoco><compiler meshdir="parts"/><asset><mesh file="tet.obj"/></asset><include file="parts/thing.xml"/><worldbody><camera name="eye" pos="0 0 3" resolution="4 4"/></worldbody><sensor><camprojection site="s" camera="eye"/></sensor><worldbody><site name="s"/></worldbody></mujoco>')  # fmt: skip
    scene = read(path).scene
    for file in tmp_path.rglob("*.*"):
        file.unlink()
    assert scene.model().nmesh == 1
    assert scene.model().cam(0).name == "camera/0"


BODY = '<mujoco><worldbody><body name="b"><freejoint/>{}</body></worldbody></mujoco>'
GEOM = '<geom size=".1"/>'
BROKEN = [
    ("empty.xml", "", "empty", "empty.xml"),
    ("empty.usda", "", "empty", "empty.usda"),
    ("empty.usdc", "", "empty", "empty.usdc"),
    ("cut.xml", BODY[:40], "not whole XML", "cut.xml:1"),
    ("other.xml", "<html/>", "no world", "other.xml:1, <html"),
    ("text.usda", "hello", "cannot be read", "text.usda"),
    ("cut.usdc", b"PXR-USDC\0\0\0\0", "cannot be read", "cut.usdc"),
    ("world.blend", "x", "no world is read", "world.blend"),
    ("mesh.xml", '<mujoco><asset><mesh name="m" file="no.stl"/></asset></mujoco>', "mesh is missing", "mesh.xml:1, <mesh name='m'>"),
    ("unnamed.xml", BODY.format('\n<geom type="mesh" mesh="q"/>'), "cannot compile", "unnamed.xml:2, <geom>"),
    ("joint.xml", f'<mujoco><worldbody>\n<joint/>{GEOM}</worldbody></mujoco>', "joint without a body", "joint.xml:2, <joint>"),
    ("joint.urdf", ROBOT.replace('child link="arm"', 'child link="leg"'), "joint without its child", "joint.urdf:5, <joint name='elbow'>"),
    ("still.xml", f"<mujoco><worldbody>{GEOM}</worldbody></mujoco>", "nothing in this world can move", "still.xml"),
    ("still.usda", HALL.replace("PhysicsRigidBodyAPI", "GeomModelAPI").replace('def PhysicsRevoluteJoint', 'def Scope'), "nothing in this world can move", "still.usda"),
    ("nan.xml", BODY.format('<geom size=".1"\n friction="nan"/>'), "friction is no number", "nan.xml:1, <geom>"),
    ("mass.xml", BODY.format('<geom size=".1" mass="-1"/>'), "mass is negative", "mass.xml:1, <geom>"),
    ("mass.usda", HALL.replace("mass = 3", "mass = -3"), "mass is negative", "mass.usda, /Hall/Crate"),
    ("bomb.xml", BODY.format(GEOM).replace("<body", '<replicate count="999999999"><body').replace("</body>", "</body></replicate>"), "too much", "bomb.xml:1, <replicate>"),
    ("type.usda", HALL.replace("double size", "doubel size"), "no type", "type.usda, /Hall/Crate"),
    ("nan.usda", HALL.replace("(100, 10, 0)", "(100, nan, 0)"), "transform is no number", "nan.usda, /Hall/Crate"),
    ("units.usda", HALL.replace(" metersPerUnit = 0.01\n", ""), "no units", "units.usda, /"),
    ("body.usda", HALL.replace("body1 = </Hall/Rod>", "body1 = </Hall/Gone>"), "joint without a body", "body.usda, /Hall/pivot"),
    ("nobody.usda", HALL.replace("rel physics:body1 = </Hall/Rod>", "").replace("rel physics:body0 = </Hall/floor>", ""), "joint without a body", "nobody.usda, /Hall/pivot"),
    ("mesh.usda", HALL.replace("[3, 2, 1, 0]", "[3, 2, 1, 9]"), "mesh is broken", "mesh.usda, /Hall/floor/top"),
    ("layer.usda", HALL.replace('def Xform "Rod" (', 'def Xform "Rod" (references = @gone.usda@\n'), "layer is missing", "layer.usda"),
    ("line.usda", HALL.replace("double size = 20", "double size = twenty"), "cannot be read", f"line.usda:{HALL[: HALL.index('double size')].count(chr(10)) + 1}"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "what", "where"), BROKEN, ids=[row[0] for row in BROKEN]
)
def test_a_broken_file_gets_one_clear_error_with_its_place(tmp_path, name, content, what, where):
    refused = refusal(put(tmp_path, name, content))
    assert what in refused.what
    assert where in refused.where
    assert all((refused.why, refused.remedy))
    assert str(tmp_path) not in refused.where + refused.why or name.endswith(".blend")


SPYING = [
    ("up.xml", '<mujoco><include file="../secret.xml"/></mujoco>', "leads out"),
    ("root.xml", '<mujoco><include file="/etc/passwd"/></mujoco>', "leads out"),
    ("mesh.xml", '<mujoco><asset><mesh file="/etc/passwd"/></asset></mujoco>', "leads out"),
    ("dir.xml", '<mujoco><compiler meshdir="/etc"/><asset><mesh file="passwd"/></asset></mujoco>', "leads out"),
    ("sky.xml", '<mujoco><asset><texture type="cube" fileright="..\\\\secret.png"/></asset></mujoco>', "leads out"),
    ("link.xml", '<mujoco><include file="link"/></mujoco>', "leads out"),
    ("entity.xml", '<!DOCTYPE m [<!ENTITY x SYSTEM "file:///etc/passwd">]><mujoco>&x;</mujoco>', "DOCTYPE"),
    ("bomb.xml", '<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><mujoco model="&b;"/>', "DOCTYPE"),
    ("deep.xml", "<mujoco>" + "<a>" * 100_000, "too deep"),
    ("robot.urdf", ROBOT.replace('<box size="1 .1 .1"/>', '<mesh filename="file:///etc/passwd"/>'), "leads out"),
    ("package.urdf", ROBOT.replace('<box size="1 .1 .1"/>', '<mesh filename="package://x/../../a.stl"/>'), "leads out"),
    ("refer.usda", HALL.replace('def Xform "Rod" (', 'def Xform "Rod" (references = @../secret.usda@\n'), "leads out"),
    ("sub.usda", HALL.replace('upAxis = "Y"', 'upAxis = "Y"\nsubLayers = [@/etc/passwd@]'), "leads out"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "what"), SPYING, ids=[row[0] for row in SPYING])
def test_a_world_reads_nothing_that_is_not_its_own(tmp_path, name, content, what):
    (tmp_path / "own").mkdir()
    put(tmp_path, "secret.xml", BODY.format(GEOM))
    put(tmp_path, "secret.usda", HALL)
    (tmp_path / "own" / "link").symlink_to(tmp_path / "secret.xml")
    assert what in refusal(put(tmp_path / "own", name, content)).what


def test_what_kills_or_holds_up_the_reader_is_one_refusal(tmp_path, monkeypatch):
    path = put(tmp_path, "yard.xml", YARD)
    assert imported.read(path).model().nbody == 9
    huge = BODY.format(GEOM).replace("<mujoco>", '<mujoco><size memory="900G"/>')
    with pytest.raises(WorldRefused):
        imported.read(put(tmp_path, "huge.xml", huge))
    monkeypatch.setattr(imported, "READ_S", 0.01)
    with pytest.raises(WorldRefused, match="takes more than"):
        imported.read(put(tmp_path, "late.xml", YARD))
    monkeypatch.setattr(imported, "READ_S", 60.0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorldRefused, match="reader ended"):
        imported.read(put(tmp_path, "dead.xml", YARD))


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A reading process that stays up from file to file, and is started again where one kills it."""
    folder = tmp_path_factory.mktemp("fuzz")
    usd.write(scene_of(YARD), folder / "valid.usda")
    usd.write(scene_of(YARD), folder / "valid.usdc")
    put(folder, "valid.xml", YARD)
    put(folder, "valid.urdf", ROBOT)
    started = []

    def ask(path):
        """What the process says; None where it died."""
        if not started:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "gigafactory.jobs.worlds.imported"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                    text=True, cwd=folder,
                )
            )  # fmt: skip
        process = started[-1]
        process.stdin.write(json.dumps(str(path)) + "\n")
        process.stdin.flush()
        if line := process.stdout.readline():
            return json.loads(line)
        started.clear()
        assert process.wait(30) < 0, "it went of its own accord"
        return None

    yield folder, ask
    for process in started:
        process.stdin.close()
        assert process.wait(30) == 0


NUMBER = re.compile(rb"-?\d+\.?\d*(e-?\d+)?")


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["usda", "usdc", "xml", "urdf"]), st.data())
def test_no_mutation_of_a_file_leaves_a_person_without_an_answer(reader, suffix, data):
    folder, ask = reader
    content = bytearray((folder / f"valid.{suffix}").read_bytes())
    how = data.draw(st.sampled_from(["cut", "bytes", "number"]))
    if how == "cut":
        content = content[: data.draw(st.integers(0, len(content)))]
    elif how == "bytes" or suffix == "usdc":
        for _ in range(data.draw(st.integers(1, 6))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    else:
        places = list(NUMBER.finditer(bytes(content)))
        place = places[data.draw(st.integers(0, len(places) - 1))]
        strange = ["nan", "-1", "0", "1e308", "inf", "99999999999", "", "'x'", "1e-300"]
        content[place.start() : place.end()] = data.draw(st.sampled_from(strange)).encode()
    path = put(folder, f"mutant.{suffix}", bytes(content))
    told = ask(path)
    if told is None:
        # One in a thousand damaged crates kills OpenUSD itself; no text does.
        assert suffix == "usdc"
        with pytest.raises(WorldRefused, match="could not be read"):
            imported.look(path)
    elif "refused" in told:
        assert list(map(bool, told["refused"])) == [True] * 4
        assert f"mutant.{suffix}" in told["refused"][1]
        assert "Error:" not in told["refused"][2], told["refused"]
    else:
        imported.answer(told).scene.model()


def test_a_moment_of_a_users_world_is_drawn_by_its_seed_and_jitter_does_not_add_up(tmp_path):
    path = put(tmp_path, "loose.xml", YARD.replace('<camera name="camera/0" pos="0 -3 1" xyaxes="1 0 0 0 .3 1"/>', ""))  # fmt: skip
    model = read(path).scene.model()
    data = mujoco.MjData(model)
    usual = model.geom_rgba.copy()
    shots = []
    for seed in [1, *range(2, 30), 1]:
        drawn = imported.moment(model, data, np.random.default_rng(seed))
        shots.append((drawn, data.qpos.copy(), model.cam_pos.copy(), model.geom_rgba.copy()))
    assert shots[0][0] == shots[-1][0] != shots[1][0]
    assert all(np.array_equal(*pair) for pair in zip(shots[0][1:], shots[-1][1:], strict=True))
    assert set(shots[0][0]) == set(imported.PARAMETERS)
    assert np.abs(shots[-2][3] - usual).max() <= imported.PARAMETERS["colour"].high
    # The camera looks at the middle of the world.
    low, high = imported._usual(model).low, imported._usual(model).high
    ahead = -data.cam_xmat[0].reshape(3, 3)[:, 2]
    to = (low + high) / 2 - data.cam_xpos[0]
    assert ahead @ to / np.linalg.norm(to) == pytest.approx(1)
    before = data.time
    imported.advance(model, data, np.random.default_rng(1), 0.5)
    assert data.time - before == pytest.approx(0.5, abs=0.01)
    assert np.isfinite(data.qpos).all()


UNREADY = [
    ("units", HALL.replace(" metersPerUnit = 0.01\n", ""), "/"),
    ("up axis", HALL.replace(' upAxis = "Y"\n', ""), "/"),
    ("default prim", HALL.replace(' defaultPrim = "Hall"\n', ""), "/"),
    ("labels", HALL.replace(', "SemanticsLabelsAPI:class"', ""), "/"),
    ("size", HALL.replace("0.01", "1e6"), "/"),
    ("mass", HALL.replace("float physics:mass = 2", ""), "/Hall/Rod"),
    ("materials", HALL, "/Hall/Crate"),
    ("extents", HALL, "/Hall/floor/top"),
    ("colliders", HALL.replace('"bob" (prepend apiSchemas = ["PhysicsCollisionAPI"])', '"bob"'), "/Hall/Rod"),
    ("joint bodies", HALL.replace("body1 = </Hall/Rod>", "body1 = </Hall/Gone>"), "/Hall/pivot"),
    ("joint frames", HALL.replace("(0, 300, 0)\n  uniform token physics:axis", "(0, 310, 0)\n  uniform token physics:axis"), "/Hall/pivot"),
    ("joint limits", HALL.replace("lowerLimit = -90", "lowerLimit = 90"), "/Hall/pivot"),
    ("transforms", HALL.replace('double3 xformOp:translate = (100, 10, 0)\n  uniform token[] xformOpOrder = ["xformOp:translate"]', 'double3 xformOp:scale = (-1, 1, 1)\n  uniform token[] xformOpOrder = ["xformOp:scale"]'), "/Hall/Crate"),
    ("physics scene", HALL.replace("def PhysicsScene", "def Scope"), "/"),
    ("inertia", HALL.replace("float physics:mass = 2", "float physics:mass = 2\n float3 physics:diagonalInertia = (1, 1, 9)"), "/Hall/Rod"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "content", "prim"), UNREADY, ids=[row[0] for row in UNREADY])
def test_a_check_fails_at_the_prim_that_is_not_ready(tmp_path, check, content, prim):
    checks = usd.validate(put(tmp_path, "hall.usda", content))
    assert (check, False, prim) in [(c.name, c.passed, c.prim) for c in checks]


def run(*words, code):
    result = typer.testing.CliRunner().invoke(cli.app, ["world", *map(str, words), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_the_command_writes_a_world_with_its_report_and_pictures(tmp_path):
    # In a process of its own, as a person does: MuJoCo looks for OpenGL when it is imported.
    ran = subprocess.run(
        [sys.executable, "-m", "gigafactory.cli", "world", "warehouse", "--seed", "7", "--json",
         "-o", tmp_path / "hall"],
        env=os.environ | {"MUJOCO_GL": "egl"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(ran.stdout)
    assert json.loads((tmp_path / "hall" / "report.json").read_text())["gates"] == told["gates"]
    assert told["parameters"]["robots"]["drawn"] >= 1
    assert all(gate["passed"] for gate in told["gates"])
    assert all(check["passed"] for check in told["checks"])
    for name in ("world.xml", "world.usda"):
        assert read(tmp_path / "hall" / name).scene.model().nbody - 1 == told["bodies"]
    from PIL import Image

    darkest, brightest = Image.open(tmp_path / "hall" / "camera-0.png").convert("L").getextrema()
    assert brightest - darkest > 50
    # Nothing, and at least some of its racks, boxes and people.
    assert len(Image.open(tmp_path / "hall" / "camera-0-things.png").getcolors()) > 4


def test_the_command_reads_a_users_file_and_fails_with_a_gate(tmp_path):
    yard = YARD.replace('<geom type="mesh" mesh="tet"/>', '<geom type="box" size=".1 .1 .1"/>')
    told = run(put(tmp_path, "yard.xml", yard), code=0)
    assert (told["bodies"], told["joints"], told["actuators"]) == (8, 7, 3)
    assert told["classes"] == {"rack": 1, "box": 2, "robot": 1}
    sinks = yard.replace('<body name="box/1" pos="0 0 .5"', '<body name="box/1" pos="0 0 -.1"')
    failed = [
        gate["name"]
        for gate in run(put(tmp_path, "sunk.xml", sinks), code=1)["gates"]
        if not gate["passed"]
    ]
    assert "nothing sinks" in failed


def test_the_command_refuses_in_four_parts(tmp_path):
    for name in ("warehaus", tmp_path / "gone.xml", put(tmp_path, "empty.usd", "")):
        (fault,) = run(name, code=2)["errors"]
        assert [key for key in fault if fault[key]] == ["what", "where", "why", "remedy"]
    assert "warehouse" in run("warehaus", code=2)["errors"][0]["remedy"]


def test_the_manual_names_every_parameter_with_its_range():
    page = (ROOT / "docs" / "worlds.md").read_text()
    rows = set(re.findall(r"^\| (\w+) \| (\w+) \| (\S+) \| (\S+) \| (\S*) ?\|$", page, re.M))
    modules = {name: worlds.parameters(name) for name in worlds.SCENES}
    modules["file"] = imported.PARAMETERS
    assert rows - {("world", "parameter", "from", "to", "unit")} == {
        (name, parameter, f"{of.low:.4g}", f"{of.high:.4g}", of.unit)
        for name, parameters in modules.items()
        for parameter, of in parameters.items()
    }
    for name in worlds.SCENES:
        for class_ in worlds.module({"scene": name}).CLASSES:
            assert f"`{class_}`" in page
