"""A scene as OpenUSD: shapes, physics, materials, cameras, lights and labels by name.

m, kg, s; z up. What moves stands flat below /World and hangs together by joints; what stands still
is nested as in the scene. Angles of joints and drives are degrees there, as UsdPhysics has them.
What UsdPhysics has no place for (armature, damping, solver settings, ...) is written beside it as
attributes `mjc:*`, so that `usd_read` gives back the same physics. Lights: 1000 units are a
diffuse of 1 in MuJoCo; ours, a convention.
Source: https://openusd.org/release/api/usd_physics_page_front.html
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from pxr import Gf, Kind, Sdf, Tf, Usd, UsdGeom, UsdLux, UsdPhysics, UsdSemantics, UsdShade, Vt

from gigafactory.jobs.worlds.scene import Scene, Thing, WorldRefused, things
from gigafactory.jobs.worlds.usd_check import validate as validate

SUFFIXES = (".usd", ".usda", ".usdc")
BRIGHT = 1000.0
SIDES = 24  # of a round shape that becomes a mesh
ENDLESS_M = 100.0  # half an edge of a plane without end
GEOM = {"condim": 3, "priority": 0, "group": 0, "margin": 0.0,
        "gap": 0.0, "solmix": 1.0, "solref": (0.02, 1.0),
        "solimp": (0.9, 0.95, 0.001, 0.5, 2.0)}  # fmt: skip
"""What a geom has unless it is told, and then an `mjc:` attribute says so; as JOINT and OPTION."""
JOINT = {"damping": 0.0, "armature": 0.0, "frictionloss": 0.0, "stiffness": 0.0, "margin": 0.0,
         "springref": 0.0, "ref": 0.0, "solreflimit": (0.02, 1.0), "actfrcrange": (0.0, 0.0),
         "solimplimit": (0.9, 0.95, 0.001, 0.5, 2.0)}  # fmt: skip
OPTION = {"timestep": 0.002, "impratio": 1.0, "density": 0.0, "viscosity": 0.0, "iterations": 100,
          "ls_iterations": 50, "tolerance": 1e-8, "wind": (0.0, 0.0, 0.0)}  # fmt: skip
INTEGRATORS = ("Euler", "RK4", "implicit", "implicitfast")
CONES = ("pyramidal", "elliptic")
SOLVERS = ("PGS", "CG", "Newton")
GAINS = ("fixed", "affine")
BIASES = ("none", "affine")
DYNAMICS = ("none", "integrator", "filter", "filterexact")
HINGE, SLIDE, BALL, FREE = (
    int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE),
    int(mujoco.mjtJoint.mjJNT_BALL), int(mujoco.mjtJoint.mjJNT_FREE),
)  # fmt: skip


@dataclass
class Book:
    """What is being written."""

    stage: Usd.Stage
    model: mujoco.MjModel
    data: mujoco.MjData
    paths: list[Sdf.Path] = field(default_factory=list)  # of bodies
    shapes: list[Sdf.Path] = field(default_factory=list)  # of geoms
    joints: dict[int, tuple[Sdf.Path, str]] = field(default_factory=dict)  # prim and axis
    looks: dict[tuple[float, ...], UsdShade.Material] = field(default_factory=dict)
    rubs: dict[tuple[float, ...], UsdShade.Material] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    def prim(self, kind: Any, under: Sdf.Path, name: str, otherwise: str) -> Any:
        """A new prim of a kind; a name that USD cannot hold is kept as its display name."""
        valid = re.sub(r"\W", "_", name or otherwise, flags=re.ASCII)
        valid = wanted = valid if Tf.IsValidIdentifier(valid) else f"_{valid}"
        count = 1
        while self.stage.GetPrimAtPath(under.AppendChild(valid)):
            count += 1
            valid = f"{wanted}_{count}"
        made = kind.Define(self.stage, under.AppendChild(valid))
        if name:
            made.GetPrim().SetDisplayName(name)
        return made


def write(scene: Scene, path: Path | str) -> tuple[str, ...]:
    """Write a scene as .usda (the same scene gives the same bytes), .usdc or .usd.

    Returns what USD has no place for and was left out: tendons, sensors, pairs of contact, ...
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise WorldRefused(
            f"no USD is called {path.suffix or path.name}",
            str(path),
            "its suffix says which form",
            f"name it {', '.join(SUFFIXES)}",
        )
    model = scene.model()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    stage = Usd.Stage.CreateInMemory("world.usda")
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    UsdPhysics.SetStageKilogramsPerUnit(stage, 1.0)
    world = UsdGeom.Xform.Define(stage, "/World")
    stage.SetDefaultPrim(world.GetPrim())
    Usd.ModelAPI(world.GetPrim()).SetKind(Kind.Tokens.assembly)
    book = Book(stage, model, data)
    _physics(book)
    UsdGeom.Scope.Define(stage, "/World/Looks")
    _bodies(book, things(model))
    for geom in range(model.ngeom):
        _geom(book, geom)
    _collision_groups(book)
    UsdGeom.Scope.Define(stage, "/World/Joints")
    for body in range(1, model.nbody):
        _joints(book, body)
    _welds(book)
    _actuators(book)
    for camera in range(model.ncam):
        _camera(book, camera)
    _lights(book)
    for what, count in (
        ("tendons", model.ntendon), ("sensors", model.nsensor), ("contact pairs", model.npair),
        ("flexes", model.nflex), ("skins", model.nskin), ("plugins", model.nplugin),
    ):  # fmt: skip
        if count:
            book.lost.append(f"{count} {what}")
    if not stage.GetRootLayer().Export(str(path)):
        raise OSError(f"cannot write {path}")
    return tuple(book.lost)


def _physics(book: Book) -> None:
    option = book.model.opt
    scene = UsdPhysics.Scene.Define(book.stage, "/World/Physics")
    strength = float(np.linalg.norm(option.gravity))
    down = option.gravity / strength if strength else np.array([0.0, 0.0, -1.0])
    scene.CreateGravityDirectionAttr(Gf.Vec3f(*map(float, down)))
    scene.CreateGravityMagnitudeAttr(strength)
    prim = scene.GetPrim()
    _extras(prim, "mjc:", {name: getattr(option, name) for name in OPTION}, OPTION)
    _note(prim, "mjc:integrator", INTEGRATORS[option.integrator])
    _note(prim, "mjc:cone", CONES[option.cone])
    _note(prim, "mjc:solver", SOLVERS[option.solver])
    for bits, kind, word in ((option.disableflags, mujoco.mjtDisableBit, "disable"),
                             (option.enableflags, mujoco.mjtEnableBit, "enable")):  # fmt: skip
        for name, bit in kind.__members__.items():
            if not name.startswith("mjN") and bits & int(bit):
                _note(prim, f"mjc:flag:{name.split('_', 1)[1].lower()}", word)


def _bodies(book: Book, labelled: tuple[Thing, ...]) -> None:
    model, data = book.model, book.data
    named = {thing.body: thing for thing in labelled}
    thing_of: list[Thing | None] = [None]
    root = Sdf.Path("/World")
    book.paths.append(root)
    for body in range(1, model.nbody):
        parent = int(model.body_parentid[body])
        moves = bool(model.body_weldid[body]) or model.body_mocapid[body] >= 0
        under = root if moves else book.paths[parent]
        xform = book.prim(UsdGeom.Xform, under, model.body(body).name, f"body_{body}")
        prim = xform.GetPrim()
        book.paths.append(prim.GetPath())
        if moves:
            _place(xform, data.xpos[body], data.xquat[body])
            rigid = UsdPhysics.RigidBodyAPI.Apply(prim)
            if model.body_mocapid[body] >= 0:
                rigid.CreateKinematicEnabledAttr(True)
            if model.body_gravcomp[body]:
                _note(prim, "mjc:gravcomp", float(model.body_gravcomp[body]))
            if model.body_mass[body] > 0:
                mass = UsdPhysics.MassAPI.Apply(prim)
                mass.CreateMassAttr(float(model.body_mass[body]))
                mass.CreateCenterOfMassAttr(_vec3f(model.body_ipos[body]))
                mass.CreateDiagonalInertiaAttr(_vec3f(model.body_inertia[body]))
                mass.CreatePrincipalAxesAttr(_quatf(model.body_iquat[body]))
            if model.body_rootid[body] == body and body in model.body_parentid[1:]:
                UsdPhysics.ArticulationRootAPI.Apply(prim)
        else:
            _place(xform, model.body_pos[body], model.body_quat[body])
        thing = named.get(body, thing_of[parent])
        thing_of.append(thing)
        if thing:
            for kind, label in (("class", thing.class_), ("instance", thing.name)):
                UsdSemantics.LabelsAPI.Apply(prim, kind).CreateLabelsAttr([label])
    for signature in model.exclude_signature:
        pair = [book.stage.GetPrimAtPath(book.paths[b]) for b in divmod(int(signature), 1 << 16)]
        UsdPhysics.FilteredPairsAPI.Apply(pair[0]).CreateFilteredPairsRel().AddTarget(
            pair[1].GetPath()
        )


def _geom(book: Book, geom: int) -> None:
    model = book.model
    body = int(model.geom_bodyid[geom])
    kind = mujoco.mjtGeom(int(model.geom_type[geom]))
    size = [float(s) for s in model.geom_size[geom]]
    scale = None
    shapes: dict[int, Any] = {
        mujoco.mjtGeom.mjGEOM_PLANE: UsdGeom.Plane, mujoco.mjtGeom.mjGEOM_SPHERE: UsdGeom.Sphere,
        mujoco.mjtGeom.mjGEOM_BOX: UsdGeom.Cube, mujoco.mjtGeom.mjGEOM_CAPSULE: UsdGeom.Capsule,
        mujoco.mjtGeom.mjGEOM_CYLINDER: UsdGeom.Cylinder,
    }  # fmt: skip
    shape = book.prim(
        shapes.get(kind, UsdGeom.Mesh), book.paths[body], model.geom(geom).name, f"geom_{geom}"
    )
    prim = shape.GetPrim()
    book.shapes.append(prim.GetPath())
    if kind == mujoco.mjtGeom.mjGEOM_PLANE:
        shape.CreateAxisAttr("Z")
        shape.CreateWidthAttr(2 * (size[0] or ENDLESS_M))
        shape.CreateLengthAttr(2 * (size[1] or ENDLESS_M))
        shape.CreateDoubleSidedAttr(True)
    elif kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        shape.CreateRadiusAttr(size[0])
    elif kind == mujoco.mjtGeom.mjGEOM_BOX:
        scale = size
        shape.CreateSizeAttr(2.0)
    elif kind in (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_CYLINDER):
        shape.CreateAxisAttr("Z")
        shape.CreateRadiusAttr(size[0])
        shape.CreateHeightAttr(2 * size[1])
    else:
        if kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID:
            # No engine touches a sphere that is not round: it is a mesh, and says what it was.
            points, faces = ball()
            points = points * size
            _note(prim, "mjc:ellipsoid", size)
        else:
            points, faces = _mesh(book, geom)
        shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(points.astype(np.float32)))
        shape.CreateFaceVertexCountsAttr(Vt.IntArray(len(faces), 3))
        shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(faces.astype(np.int32).ravel()))
        shape.CreateSubdivisionSchemeAttr("none")
    _place(shape, model.geom_pos[geom], model.geom_quat[geom], scale)
    extent = UsdGeom.Boundable.ComputeExtentFromPlugins(shape, Usd.TimeCode.Default())
    if extent is not None:
        shape.CreateExtentAttr(extent)
    told = {name: getattr(model, f"geom_{name}")[geom] for name in GEOM}
    _extras(prim, "mjc:", told, GEOM)
    if model.geom_group[geom] > 2:
        shape.CreatePurposeAttr(UsdGeom.Tokens.guide)
    UsdShade.MaterialBindingAPI.Apply(prim).Bind(_look(book, geom))
    if model.geom_contype[geom] or model.geom_conaffinity[geom]:
        UsdPhysics.CollisionAPI.Apply(prim)
        if kind not in shapes:
            UsdPhysics.MeshCollisionAPI.Apply(prim).CreateApproximationAttr("convexHull")
        UsdShade.MaterialBindingAPI(prim).Bind(
            _friction(book, geom), UsdShade.Tokens.weakerThanDescendants, "physics"
        )


def ball() -> tuple[Any, Any]:
    """Points and triangles of a sphere of radius 1."""
    angle = 2 * math.pi * np.arange(SIDES) / SIDES
    tilt = np.pi * (np.arange(1, SIDES // 2) / (SIDES // 2) - 0.5)
    rings = [np.stack([np.cos(angle) * math.cos(t), np.sin(angle) * math.cos(t),
                       np.full(SIDES, math.sin(t))], 1) for t in tilt]  # fmt: skip
    points = np.concatenate([*rings, [[0, 0, -1], [0, 0, 1]]])
    south, north = len(points) - 2, len(points) - 1
    last = (len(rings) - 1) * SIDES
    faces = []
    for i in range(SIDES):
        j = (i + 1) % SIDES
        faces += [(south, j, i), (north, last + i, last + j)]
        for low in range(0, last, SIDES):
            faces += [
                (low + i, low + j, low + SIDES + j),
                (low + i, low + SIDES + j, low + SIDES + i),
            ]
    return points, np.array(faces)


def _mesh(book: Book, geom: int) -> tuple[Any, Any]:
    """Points and triangles of a mesh, or of a height field's upper side."""
    model = book.model
    number = int(model.geom_dataid[geom])
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_HFIELD:
        book.lost.append(f"the height field of geom {geom} is a mesh there")
        rows, columns = int(model.hfield_nrow[number]), int(model.hfield_ncol[number])
        at = int(model.hfield_adr[number])
        x, y, top = model.hfield_size[number][:3]
        grid = np.meshgrid(np.linspace(-x, x, columns), np.linspace(-y, y, rows))
        height = model.hfield_data[at : at + rows * columns] * top
        corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
        faces = np.stack([corner, corner + 1, corner + columns + 1,
                          corner, corner + columns + 1, corner + columns], 1)  # fmt: skip
        return np.stack([grid[0].ravel(), grid[1].ravel(), height], 1), faces.reshape(-1, 3)
    first, count = int(model.mesh_vertadr[number]), int(model.mesh_vertnum[number])
    face, faces_count = int(model.mesh_faceadr[number]), int(model.mesh_facenum[number])
    return model.mesh_vert[first : first + count], model.mesh_face[face : face + faces_count]


def _look(book: Book, geom: int) -> UsdShade.Material:
    """The visible material of a geom; a texture becomes its mean colour."""
    model = book.model
    material = int(model.geom_matid[geom])
    rgba = [float(c) for c in model.geom_rgba[geom]]
    rough, metal, glow = 0.5, 0.0, 0.0
    if material >= 0:
        rgba = [float(c) for c in model.mat_rgba[material]]
        rough = 1 - float(model.mat_shininess[material])
        metal, glow = float(model.mat_metallic[material]), float(model.mat_emission[material])
        texture = int(max(model.mat_texid[material]))
        if texture >= 0:
            told = f"texture {model.tex(texture).name!r} is its mean colour there"
            if told not in book.lost:
                book.lost.append(told)
            at, channels = int(model.tex_adr[texture]), int(model.tex_nchannel[texture])
            count = int(model.tex_width[texture]) * int(model.tex_height[texture]) * channels
            mean = model.tex_data[at : at + count].reshape(-1, channels).mean(0) / 255
            rgba[:3] = [c * float(mean[min(i, channels - 1)]) for i, c in enumerate(rgba[:3])]
    key = tuple(round(value, 6) for value in (*rgba, rough, max(metal, 0.0), glow))
    if key not in book.looks:
        looks = Sdf.Path("/World/Looks")
        made = UsdShade.Material.Define(
            book.stage, looks.AppendChild(f"material_{len(book.looks)}")
        )
        shader = UsdShade.Shader.Define(book.stage, made.GetPath().AppendChild("surface"))
        shader.CreateIdAttr("UsdPreviewSurface")
        colour = Gf.Vec3f(*key[:3])
        shader.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).Set(colour)
        for name, value in zip(("opacity", "roughness", "metallic"), key[3:6], strict=True):
            shader.CreateInput(name, Sdf.ValueTypeNames.Float).Set(value)
        if glow:
            shader.CreateInput("emissiveColor", Sdf.ValueTypeNames.Color3f).Set(colour * glow)
        made.CreateSurfaceOutput().ConnectToSource(shader.ConnectableAPI(), "surface")
        book.looks[key] = made
    return book.looks[key]


def _friction(book: Book, geom: int) -> UsdShade.Material:
    slide, torsion, roll = key = tuple(float(f) for f in book.model.geom_friction[geom])
    if key not in book.rubs:
        path = Sdf.Path(f"/World/Looks/friction_{len(book.rubs)}")
        made = UsdShade.Material.Define(book.stage, path)
        physics = UsdPhysics.MaterialAPI.Apply(made.GetPrim())
        physics.CreateStaticFrictionAttr(slide)
        physics.CreateDynamicFrictionAttr(slide)
        _note(made.GetPrim(), "mjc:torsionalfriction", torsion)
        _note(made.GetPrim(), "mjc:rollingfriction", roll)
        book.rubs[key] = made
    return book.rubs[key]


def _collision_groups(book: Book) -> None:
    """MuJoCo's bits as groups that pass through each other."""
    model = book.model
    kinds: dict[tuple[int, int], list[Sdf.Path]] = {}
    for geom, path in enumerate(book.shapes):
        bits = (int(model.geom_contype[geom]), int(model.geom_conaffinity[geom]))
        if any(bits):
            kinds.setdefault(bits, []).append(path)
    if set(kinds) <= {(1, 1)}:
        return
    UsdGeom.Scope.Define(book.stage, "/World/Groups")
    groups = {}
    for contype, conaffinity in sorted(kinds):
        path = f"/World/Groups/bits_{contype & 0xFFFFFFFF}_{conaffinity & 0xFFFFFFFF}"
        groups[contype, conaffinity] = group = UsdPhysics.CollisionGroup.Define(book.stage, path)
        members = group.GetCollidersCollectionAPI()
        members.CreateIncludesRel().SetTargets(kinds[contype, conaffinity])
        for path in kinds[contype, conaffinity]:
            _note(book.stage.GetPrimAtPath(path), "mjc:contype", contype)
            _note(book.stage.GetPrimAtPath(path), "mjc:conaffinity", conaffinity)
    for mine, group in groups.items():
        passes = [other.GetPath() for bits, other in groups.items()
                  if not (mine[0] & bits[1] or bits[0] & mine[1])]  # fmt: skip
        group.CreateFilteredGroupsRel().SetTargets(passes)


def _joints(book: Book, body: int) -> None:
    """What holds a body to its parent: nothing, one joint, or one with several free axes."""
    model = book.model
    if not model.body_weldid[body] or model.body_mocapid[body] >= 0:
        return
    first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
    joints = list(range(first, first + count))
    if joints and model.jnt_type[first] == FREE:
        _dof(book, book.stage.GetPrimAtPath(book.paths[body]), first, "mjc:free:")
        return
    parent = int(model.body_parentid[body])
    kinds = [int(model.jnt_type[joint]) for joint in joints]
    anchor = model.jnt_pos[joints[-1]] if joints else np.zeros(3)
    turn = np.array([1.0, 0.0, 0.0, 0.0])
    name = model.jnt(first).name if joints else f"{model.body(body).name or f'body_{body}'}_fixed"
    kind: Any = {
        (): UsdPhysics.FixedJoint,
        (HINGE,): UsdPhysics.RevoluteJoint,
        (SLIDE,): UsdPhysics.PrismaticJoint,
        (BALL,): UsdPhysics.SphericalJoint,
    }.get(tuple(kinds), UsdPhysics.Joint)
    axes: list[str] = []
    if kind is UsdPhysics.Joint:
        turn, letters = _axes(book, body, joints)
        axes = [
            f"{'trans' if k == SLIDE else 'rot'}{x}" for k, x in zip(kinds, letters, strict=True)
        ]
        name = "+".join(model.jnt(joint).name for joint in joints)
    joint = book.prim(kind, Sdf.Path("/World/Joints"), name, f"joint_{body}")
    prim = joint.GetPrim()
    if kind in (UsdPhysics.RevoluteJoint, UsdPhysics.PrismaticJoint):
        axis = model.jnt_axis[first]
        straight = [i for i in range(3) if axis[i] > 1 - 1e-9]
        joint.CreateAxisAttr("XYZ"[straight[0]] if straight else "X")
        if not straight:
            turn = _onto(np.array([1.0, 0.0, 0.0]), axis)
        if model.jnt_limited[first]:
            low, high = _unit(kinds[0]) * (model.jnt_range[first] - _ref(model, first))
            joint.CreateLowerLimitAttr(float(low))
            joint.CreateUpperLimitAttr(float(high))
    elif kinds == [BALL] and model.jnt_limited[first]:
        cone = math.degrees(float(model.jnt_range[first][1]))
        joint.CreateConeAngle0LimitAttr(cone)
        joint.CreateConeAngle1LimitAttr(cone)
    _ends(book, joint, parent, body, anchor, turn)
    if kind is not UsdPhysics.Joint:
        for one in joints:
            _dof(book, prim, one, "mjc:")
            book.joints[one] = (prim.GetPath(), "angular" if kinds[0] == HINGE else "linear")
        return
    for axis_name in (f"{way}{x}" for way in ("trans", "rot") for x in "XYZ"):
        if axis_name not in axes:
            limit = UsdPhysics.LimitAPI.Apply(prim, axis_name)
            limit.CreateLowAttr(1.0)  # Low above high: locked.
            limit.CreateHighAttr(-1.0)
    for one, axis_name in zip(joints, axes, strict=True):
        if model.jnt_limited[one]:
            limit = UsdPhysics.LimitAPI.Apply(prim, axis_name)
            low, high = _unit(int(model.jnt_type[one])) * (model.jnt_range[one] - _ref(model, one))
            limit.CreateLowAttr(float(low))
            limit.CreateHighAttr(float(high))
        _dof(book, prim, one, f"mjc:{axis_name}:")
        if model.jnt(one).name:
            _note(prim, f"mjc:{axis_name}:name", model.jnt(one).name)
        book.joints[one] = (prim.GetPath(), axis_name)


def _axes(book: Book, body: int, joints: list[int]) -> tuple[Any, list[str]]:
    """A frame in which each joint moves along or about X, Y or Z, and which."""
    model = book.model
    axes: list[Any] = []
    for joint in joints:
        axis = model.jnt_axis[joint]
        if not any(axis @ known > 1 - 1e-6 for known in axes):
            axes.append(axis)
    if all(axis.max() > 1 - 1e-6 for axis in axes):
        axes = list(np.eye(3))  # They are those of the body.
    elif len(axes) == 2:
        axes.append(np.cross(axes[0], axes[1]))
    frame = np.array(axes).T
    kinds = [int(model.jnt_type[joint]) for joint in joints]
    letters = [int(np.argmax(frame.T @ model.jnt_axis[joint])) for joint in joints]
    order = [(kind == HINGE, letter) for kind, letter in zip(kinds, letters, strict=True)]
    turned = [model.jnt_pos[j] for j, kind in zip(joints, kinds, strict=True) if kind == HINGE]
    if (
        frame.shape != (3, 3)
        or np.abs(frame.T @ frame - np.eye(3)).max() > 1e-5
        or np.linalg.det(frame) < 0
        or order != sorted(set(order))
        or not set(kinds) <= {HINGE, SLIDE}
        or any(np.abs(at - turned[-1]).max() > 1e-6 for at in turned)
    ):
        raise WorldRefused(
            "USD has no joint that moves so", f"body {model.body(body).name or body!r}",
            "its joints are not slides, then hinges in one point, along one frame's X, Y and Z",
            "give each joint a body of its own",
        )  # fmt: skip
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, frame.ravel())
    return quat, ["XYZ"[letter] for letter in letters]


def _ends(book: Book, joint: Any, parent: int, body: int, anchor: Any, turn: Any) -> None:
    """Both bodies of a joint, and its frame in each."""
    data = book.data
    if parent:
        joint.CreateBody0Rel().SetTargets([book.paths[parent]])
    joint.CreateBody1Rel().SetTargets([book.paths[body]])
    pos, quat = np.zeros(3), np.zeros(4)
    back, back_quat = np.zeros(3), np.zeros(4)
    mujoco.mju_negPose(back, back_quat, data.xpos[parent], data.xquat[parent])
    mujoco.mju_mulPose(pos, quat, back, back_quat, data.xpos[body], data.xquat[body])
    at, to = np.zeros(3), np.zeros(4)
    mujoco.mju_mulPose(at, to, pos, quat, np.array(anchor, float), np.array(turn, float))
    joint.CreateLocalPos0Attr(_vec3f(at))
    joint.CreateLocalRot0Attr(_quatf(to))
    joint.CreateLocalPos1Attr(_vec3f(anchor))
    joint.CreateLocalRot1Attr(_quatf(turn))


def _dof(book: Book, prim: Usd.Prim, joint: int, prefix: str) -> None:
    model = book.model
    dof, qpos = int(model.jnt_dofadr[joint]), int(model.jnt_qposadr[joint])
    straight = int(model.jnt_type[joint]) in (HINGE, SLIDE)
    # Since 3.4 stiffness and damping may be polynomials; the first coefficient is the linear one.
    told = {
        "damping": np.ravel(model.dof_damping[dof])[0], "armature": model.dof_armature[dof],
        "frictionloss": model.dof_frictionloss[dof],
        "stiffness": np.ravel(model.jnt_stiffness[joint])[0], "margin": model.jnt_margin[joint],
        "ref": _ref(model, joint), "springref": model.qpos_spring[qpos] if straight else 0.0,
        "solreflimit": model.jnt_solref[joint], "solimplimit": model.jnt_solimp[joint],
        "actfrcrange": model.jnt_actfrcrange[joint],
    }  # fmt: skip
    _extras(prim, prefix, told, JOINT)
    if prefix == "mjc:free:" and model.jnt(joint).name:
        _note(prim, "mjc:free:name", model.jnt(joint).name)


def _welds(book: Book) -> None:
    """Equalities of two bodies: joints that close a loop."""
    model = book.model
    for row in range(model.neq):
        kind, is_body = int(model.eq_type[row]), model.eq_objtype[row] == mujoco.mjtObj.mjOBJ_BODY
        parent, body = int(model.eq_obj1id[row]), int(model.eq_obj2id[row])
        data = model.eq_data[row]
        name = model.eq(row).name
        where = Sdf.Path("/World/Joints")
        if kind == mujoco.mjtEq.mjEQ_CONNECT and is_body:
            joint = book.prim(UsdPhysics.SphericalJoint, where, name, f"connect_{row}")
            first, second, turn0 = data[:3], data[3:6], np.array([1.0, 0, 0, 0])
        elif kind == mujoco.mjtEq.mjEQ_WELD and is_body:
            joint = book.prim(UsdPhysics.FixedJoint, where, name, f"weld_{row}")
            second, first, turn0 = data[:3], data[3:6], data[6:10]
        else:
            book.lost.append(f"equality {name or row}")
            continue
        for number, one in ((0, parent), (1, body)):
            if one:
                rel = joint.CreateBody0Rel() if number == 0 else joint.CreateBody1Rel()
                rel.SetTargets([book.paths[one]])
        joint.CreateLocalPos0Attr(_vec3f(first))
        joint.CreateLocalRot0Attr(_quatf(turn0))
        joint.CreateLocalPos1Attr(_vec3f(second))
        joint.CreateLocalRot1Attr(Gf.Quatf(1.0))
        joint.CreateExcludeFromArticulationAttr(True)
        joint.CreateJointEnabledAttr(bool(model.eq_active0[row]))
        told = {"solref": model.eq_solref[row], "solimp": model.eq_solimp[row]}
        _extras(joint.GetPrim(), "mjc:", told, GEOM)


def _actuators(book: Book) -> None:
    """Position and speed servos as drives; each actuator, exactly, as `mjc:` attributes."""
    model = book.model
    driven: set[tuple[Sdf.Path, str]] = set()
    for number in range(model.nu):
        joint = int(model.actuator_trnid[number][0])
        name = model.actuator(number).name
        forms = (model.actuator_gaintype, model.actuator_biastype, model.actuator_dyntype)
        known = all(int(form[number]) < len(words) for form, words in
                    zip(forms, (GAINS, BIASES, DYNAMICS), strict=True))  # fmt: skip
        on_joint = model.actuator_trntype[number] == mujoco.mjtTrn.mjTRN_JOINT
        on_body = model.actuator_trntype[number] == mujoco.mjtTrn.mjTRN_BODY
        if not (known and (on_body or (on_joint and joint in book.joints))):
            book.lost.append(f"actuator {name or number}")
            continue
        if not book.stage.GetPrimAtPath("/World/Actuators"):
            UsdGeom.Scope.Define(book.stage, "/World/Actuators")
        prim = book.prim(
            UsdGeom.Scope, Sdf.Path("/World/Actuators"), name, f"actuator_{number}"
        ).GetPrim()
        path, axis = (book.paths[joint], "body") if on_body else book.joints[joint]
        prim.CreateRelationship("mjc:target", True).SetTargets([path])
        if axis[-1] in "XYZ":
            _note(prim, "mjc:axis", axis)
        for key, form, words in zip(("gaintype", "biastype", "dyntype"), forms,
                                    (GAINS, BIASES, DYNAMICS), strict=True):  # fmt: skip
            _note(prim, f"mjc:{key}", words[int(form[number])])
        for key in ("gainprm", "biasprm", "dynprm", "gear"):
            _note(prim, f"mjc:{key}", getattr(model, f"actuator_{key}")[number])
        for key in ("ctrl", "force"):
            if getattr(model, f"actuator_{key}limited")[number]:
                _note(prim, f"mjc:{key}range", getattr(model, f"actuator_{key}range")[number])
        stiffness, damping = -model.actuator_biasprm[number][1:3]
        if (
            on_body
            or not (stiffness or damping)
            or (path, axis) in driven
            or int(model.jnt_type[joint]) not in (HINGE, SLIDE)
        ):
            continue
        driven.add((path, axis))
        per_unit = 1 / _unit(int(model.jnt_type[joint]))  # per degree, where it turns
        drive = UsdPhysics.DriveAPI.Apply(book.stage.GetPrimAtPath(path), axis)
        drive.CreateTypeAttr("force")
        drive.CreateStiffnessAttr(float(stiffness) * per_unit)
        drive.CreateDampingAttr(float(damping) * per_unit)
        if model.actuator_forcelimited[number]:
            drive.CreateMaxForceAttr(float(model.actuator_forcerange[number][1]))


def _camera(book: Book, camera: int) -> None:
    model = book.model
    under = book.paths[int(model.cam_bodyid[camera])]
    made = book.prim(UsdGeom.Camera, under, model.cam(camera).name, f"camera_{camera}")
    _place(made, model.cam_pos[camera], model.cam_quat[camera])
    width, height = (int(n) for n in model.cam_resolution[camera])
    focal_mm = 24.0  # Only its ratio to the aperture matters.
    aperture_mm = 2 * focal_mm * math.tan(math.radians(float(model.cam_fovy[camera])) / 2)
    made.CreateFocalLengthAttr(focal_mm)
    made.CreateVerticalApertureAttr(aperture_mm)
    made.CreateHorizontalApertureAttr(aperture_mm * width / height)
    near, far = (
        float(d) * float(model.stat.extent) for d in (model.vis.map.znear, model.vis.map.zfar)
    )
    made.CreateClippingRangeAttr(Gf.Vec2f(near, far))
    if model.cam_mode[camera] != mujoco.mjtCamLight.mjCAMLIGHT_FIXED:
        book.lost.append(f"camera {model.cam(camera).name or camera} follows nothing there")


def _lights(book: Book) -> None:
    model = book.model
    head = model.vis.headlight
    if head.active:
        dome = UsdLux.DomeLight.Define(book.stage, "/World/headlight")
        _shine(dome, head.ambient)
        _note(dome.GetPrim(), "mjc:diffuse", head.diffuse)
        _note(dome.GetPrim(), "mjc:specular", head.specular)
    for light in range(model.nlight):
        under = book.paths[int(model.light_bodyid[light])]
        directional = int(model.light_type[light]) == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
        kind = UsdLux.DistantLight if directional else UsdLux.SphereLight
        made = book.prim(kind, under, model.light(light).name, f"light_{light}")
        prim = made.GetPrim()
        _place(
            made, model.light_pos[light], _onto(np.array([0.0, 0.0, -1.0]), model.light_dir[light])
        )
        _shine(made, model.light_diffuse[light])
        if not directional:
            made.CreateRadiusAttr(max(float(model.light_bulbradius[light]), 0.01))
        if int(model.light_type[light]) == mujoco.mjtLightType.mjLIGHT_SPOT:
            shaping = UsdLux.ShapingAPI.Apply(prim)
            shaping.CreateShapingConeAngleAttr(float(model.light_cutoff[light]))
        _note(prim, "mjc:ambient", model.light_ambient[light])
        _note(prim, "mjc:specular", model.light_specular[light])
        _note(prim, "mjc:attenuation", model.light_attenuation[light])
        _note(prim, "mjc:exponent", float(model.light_exponent[light]))
        _note(prim, "mjc:castshadow", bool(model.light_castshadow[light]))
        _note(prim, "mjc:active", bool(model.light_active[light]))


def _shine(light: Any, diffuse: Any) -> None:
    strength = float(max(diffuse))
    colour = [float(c) / strength if strength else 1.0 for c in diffuse]
    light.CreateColorAttr(Gf.Vec3f(*colour))
    light.CreateIntensityAttr(BRIGHT * strength)


def _extras(prim: Usd.Prim, prefix: str, told: dict[str, Any], usual: dict[str, Any]) -> None:
    """Write down what is not as usual."""
    for name, value in told.items():
        # MuJoCo keeps some of these as float32.
        if not np.allclose(value, usual[name], rtol=1e-6, atol=1e-12):
            _note(prim, prefix + name, value)


def _note(prim: Usd.Prim, name: str, value: Any) -> None:
    """An attribute of ours."""
    kinds = Sdf.ValueTypeNames
    if isinstance(value, str):
        prim.CreateAttribute(name, kinds.Token, True).Set(value)
    elif isinstance(value, bool | np.bool_):
        prim.CreateAttribute(name, kinds.Bool, True).Set(bool(value))
    elif np.ndim(value):
        numbers = Vt.DoubleArray([float(v) for v in value])
        prim.CreateAttribute(name, kinds.DoubleArray, True).Set(numbers)
    elif isinstance(value, int | np.integer):
        prim.CreateAttribute(name, kinds.Int, True).Set(int(value))
    else:
        prim.CreateAttribute(name, kinds.Double, True).Set(float(value))


def _place(xform: Any, pos: Any, quat: Any, scale: list[float] | None = None) -> None:
    # Adding 0.0 turns -0.0 into 0.0.
    xform.AddTranslateOp().Set(Gf.Vec3d(*(float(p) + 0.0 for p in pos)))
    w, *xyz = (float(q) + 0.0 for q in quat)
    xform.AddOrientOp(UsdGeom.XformOp.PrecisionDouble).Set(Gf.Quatd(w, *xyz))
    if scale is not None:
        xform.AddScaleOp(UsdGeom.XformOp.PrecisionDouble).Set(Gf.Vec3d(*scale))


def _vec3f(value: Any) -> Gf.Vec3f:
    return Gf.Vec3f(*(float(v) + 0.0 for v in value))


def _quatf(value: Any) -> Gf.Quatf:
    w, *xyz = (float(v) + 0.0 for v in value)
    return Gf.Quatf(w, *xyz)


def _onto(start: Any, end: Any) -> Any:
    """The shortest turn of one unit vector onto another, as a quaternion (w, x, y, z)."""
    turn = Gf.Rotation(Gf.Vec3d(*map(float, start)), Gf.Vec3d(*map(float, end))).GetQuat()
    return np.array([turn.GetReal(), *turn.GetImaginary()])


def _unit(kind: int) -> float:
    """Units of USD in one of MuJoCo: degrees where a joint turns."""
    return math.degrees(1.0) if kind == HINGE else 1.0


def _ref(model: mujoco.MjModel, joint: int) -> float:
    """The position that a joint's body is drawn at."""
    if int(model.jnt_type[joint]) not in (HINGE, SLIDE):
        return 0.0
    return float(model.qpos0[model.jnt_qposadr[joint]])
