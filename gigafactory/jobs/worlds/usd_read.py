"""A user's OpenUSD file as MJCF: shapes of UsdGeom, physics of UsdPhysics, labels by name.

Becomes m, kg, s and z up, whatever the file is in. A rigid body hangs from the body that its joint
names, or is free; what is not rigid stands still. A labelled prim is a body called CLASS/NUMBER.
`mjc:` attributes, as `usd` writes them, are heeded. A mesh collides as its convex hull.
"""

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from pxr import Sdf, Usd, UsdGeom, UsdLux, UsdPhysics, UsdShade

from gigafactory.jobs.worlds.mjcf_read import Element, World
from gigafactory.jobs.worlds.scene import LABEL, WorldRefused
from gigafactory.jobs.worlds.usd import BRIGHT, ENDLESS_M, GEOM, JOINT, OPTION, SIDES, ball
from gigafactory.jobs.worlds.usd_check import (
    frames,
    joint_fault,
    labels,
    opened,
    owner,
    prims,
    telling,
)

Y_UP = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
AXES = {"X": 0, "Y": 1, "Z": 2}
THIN_M = 0.001  # what a flat mesh is given as thickness


@dataclass(eq=False)
class Body:
    """A prim that becomes a body; the world has none."""

    prim: Usd.Prim | None
    pose: Any  # (4, 4), m, without scale
    element: Element
    above: "Body | None" = None  # what holds it
    rigid: bool = False
    shapes: list[tuple[Element, float, bool]] = field(default_factory=list)  # volume, collides


@dataclass
class Reader:
    """A file on its way to MJCF."""

    stage: Usd.Stage
    world: World
    told: str
    metres: float
    kilos: float
    root: Body
    cache: UsdGeom.XformCache
    bodies: dict[Any, Body] = field(default_factory=dict)
    names: set[tuple[str, str]] = field(default_factory=set)
    numbers: dict[str, int] = field(default_factory=dict)
    looks: dict[Any, str] = field(default_factory=dict)
    joints: dict[tuple[Any, str], str] = field(default_factory=dict)

    def matrix(self, prim: Usd.Prim) -> Any:
        """Where a prim stands, in m and z up, its scale with it; columns are its axes."""
        own = np.array(self.cache.GetLocalToWorldTransform(prim)).T
        return self.settled(own, prim)

    def settled(self, own: Any, prim: Usd.Prim) -> Any:
        """A matrix of the stage as one of ours."""
        if not np.isfinite(own).all():
            self.refuse(
                "a transform is no number", prim, "nan or inf is in it", "write finite numbers"
            )
        turned = own.copy()
        if UsdGeom.GetStageUpAxis(self.stage) == UsdGeom.Tokens.y:
            turned[:3] = Y_UP @ turned[:3]
        turned[:3] *= self.metres
        return turned

    def axis(self, prim: Usd.Prim, name: str, usual: str) -> str:
        """The letter of an axis."""
        letter = str(prim.GetAttribute(name).Get() or usual)
        if letter not in AXES:
            self.refuse("an axis is none", prim, f"{name} is {letter!r}", "write X, Y or Z")
        return letter

    def unique(self, kind: str, name: str) -> str:
        """A name that no other of its kind has."""
        wanted, count = name, 1
        while (kind, name) in self.names:
            count += 1
            name = f"{wanted}_{count}"
        self.names.add((kind, name))
        return name

    def refuse(self, what: str, prim: Usd.Prim, why: str, remedy: str) -> NoReturn:
        """Say no, with the prim."""
        raise WorldRefused(what, f"{self.told}, {prim.GetPath()}", why, remedy)

    def note(self, prim: Usd.Prim, what: str) -> None:
        """Tell what is not as it is in the file."""
        self.world.notes.append(f"{self.told}, {prim.GetPath()}: {what}")


def read(path: Path) -> World:
    """The world of a USD file."""
    with telling(path):
        return _read(path, opened(path))


def _read(path: Path, stage: Usd.Stage) -> World:
    if not UsdGeom.StageHasAuthoredMetersPerUnit(stage):
        raise WorldRefused("the file has no units", f"{path.name}, /",
                           "metersPerUnit is not written: a length may be m or cm",
                           "write metersPerUnit = 1 (m) or 0.01 (cm) at its top")  # fmt: skip
    metres = UsdGeom.GetStageMetersPerUnit(stage)
    if not 1e-6 <= metres <= 1e6:
        raise WorldRefused("the file has no usable unit", f"{path.name}, /",
                           f"metersPerUnit is {metres:g}", "write metersPerUnit = 1")  # fmt: skip
    mjcf = Element("mujoco", {"model": path.stem}, path.name, 0, prim="/")
    mjcf.add("compiler", angle="radian", autolimits=True)
    world = World(mjcf, {}, [])
    root = Body(None, np.eye(4), Element("worldbody", {}, path.name, 0, prim="/"))
    reader = Reader(
        stage, world, path.name, metres, UsdPhysics.GetStageKilogramsPerUnit(stage), root,
        UsdGeom.XformCache(Usd.TimeCode.Default()),
    )  # fmt: skip
    every = list(prims(stage))
    for prim in every:
        for attribute in prim.GetAuthoredAttributes():
            if isinstance(attribute.Get(), Sdf.UnregisteredValue):
                why = f"USD knows no type of {attribute.GetName()}"
                reader.refuse(
                    "an attribute has no type", prim, why, "write double, float3, token, ..."
                )
    _option(reader, every)
    visual = mjcf.add("visual")
    mjcf.add("asset")
    mjcf.children.append(root.element)
    for prim in every:
        if _is_body(prim):
            _body(reader, prim)
    loops = _joints(reader, every)
    for body in reader.bodies.values():
        _hang(reader, body)
    groups = [
        UsdPhysics.CollisionGroup(prim) for prim in every if prim.IsA(UsdPhysics.CollisionGroup)
    ]
    for prim in every:
        if prim.IsA(UsdGeom.Gprim):
            _shape(reader, prim, _holder(reader, prim), groups)
        elif prim.IsA(UsdGeom.Camera):
            _camera(reader, prim)
        elif prim.HasAPI(UsdLux.LightAPI):
            _light(reader, prim, visual)
        elif prim.IsA(UsdGeom.PointInstancer):
            reader.note(prim, "instances of points are left out")
    for body in reader.bodies.values():
        _mass(reader, body)
    _loops(reader, loops)
    _actuators(reader, every)
    _excludes(reader, every)
    return world


def _option(reader: Reader, every: list[Usd.Prim]) -> None:
    scene = next((prim for prim in every if prim.IsA(UsdPhysics.Scene)), None)
    option = reader.world.root.add("option", timestep=0.005, integrator="implicitfast")
    down, strength = np.zeros(3), -math.inf
    if scene:
        down = np.array(UsdPhysics.Scene(scene).GetGravityDirectionAttr().Get(), float)
        strength = float(UsdPhysics.Scene(scene).GetGravityMagnitudeAttr().Get())
    y_up = UsdGeom.GetStageUpAxis(reader.stage) == UsdGeom.Tokens.y
    down = Y_UP @ down if y_up else down
    if not np.isfinite(down).all() or math.isnan(strength):
        reader.refuse(
            "gravity is no number",
            scene or reader.stage.GetPseudoRoot(),
            f"{strength}",
            "write it in m/s2",
        )
    length = float(np.linalg.norm(down))
    down = down / length if length else np.array([0.0, 0.0, -1.0])
    # Below zero means that of the earth, as UsdPhysics has it.
    m_per_s2 = 9.81 if not 0 <= strength < math.inf else strength * reader.metres
    option.attributes["gravity"] = " ".join(repr(float(g) + 0.0) for g in down * m_per_s2)
    if scene:
        if any(a.GetName().startswith("mjc:") for a in scene.GetAttributes()):
            option.attributes.pop("timestep")
        for name in (*OPTION, "integrator", "cone", "solver"):
            _take(scene, f"mjc:{name}", option, name)
        flags = [a for a in scene.GetAttributes() if a.GetName().startswith("mjc:flag:")]
        if flags:
            flag = option.add("flag")
            for attribute in flags:
                _take(scene, attribute.GetName(), flag, attribute.GetName()[len("mjc:flag:") :])


def _is_body(prim: Usd.Prim) -> bool:
    if not prim.IsA(UsdGeom.Xformable) or prim.HasAPI(UsdLux.LightAPI) or prim.IsA(UsdGeom.Camera):
        return False
    if prim.HasAPI(UsdPhysics.RigidBodyAPI) or labels(prim):
        return True
    plain = prim.GetTypeName() == "Xform" and prim.GetPath().pathElementCount > 1
    return plain and owner(prim) is None


def _body(reader: Reader, prim: Usd.Prim) -> None:
    holder = _holder(reader, prim.GetParent())
    element = Element("body", {}, reader.told, 0, prim=str(prim.GetPath()))
    rigid = UsdPhysics.RigidBodyAPI(prim) if prim.HasAPI(UsdPhysics.RigidBodyAPI) else None
    enabled = rigid is not None and rigid.GetRigidBodyEnabledAttr().Get() is not False
    body = Body(prim, _straight(reader.matrix(prim)), element, holder, enabled)
    if enabled and rigid:
        body.above = reader.root
        if rigid.GetKinematicEnabledAttr().Get():
            body.rigid, element.attributes["mocap"] = False, "true"
    element.attributes["name"] = reader.unique("body", _name(reader, prim))
    _take(prim, "mjc:gravcomp", element, "gravcomp")
    reader.bodies[prim.GetPath()] = body


def _name(reader: Reader, prim: Usd.Prim) -> str:
    """CLASS/NUMBER of a labelled thing; a part of a thing, and all else, as it is called."""
    own = prim.GetDisplayName() or prim.GetName()
    named = labels(prim)
    if not named:
        return own
    instance = next(iter(labels(prim, "instance")), "")
    if instance == own or ((match := LABEL.fullmatch(own)) and match[1] == named[-1]):
        return own
    if instance and instance != own and ("body", instance) in reader.names:
        return own
    above = prim.GetParent()
    while above and not above.IsPseudoRoot():
        if not instance and labels(above) == named:
            return own
        above = above.GetParent()
    label = named[-1].replace("/", "_")
    if instance == f"{label}/{instance.rpartition('/')[2]}" and LABEL.fullmatch(instance):
        return instance
    while True:
        reader.numbers[label] = reader.numbers.get(label, 0) + 1
        name = f"{label}/{reader.numbers[label]}"
        if ("body", name) not in reader.names:
            return name


def _holder(reader: Reader, prim: Usd.Prim) -> Body:
    """The body that a prim is part of."""
    while prim and not prim.IsPseudoRoot():
        if prim.GetPath() in reader.bodies:
            return reader.bodies[prim.GetPath()]
        prim = prim.GetParent()
    return reader.root


def _hang(reader: Reader, body: Body) -> None:
    """Put a body's element into that of what holds it."""
    above = body.above or reader.root
    relative = np.linalg.inv(above.pose) @ body.pose
    pos, quat = _pose(relative)
    body.element.attributes |= {"pos": pos, "quat": quat}
    if body.prim is not None and body.rigid and above is reader.root and not any(
        child.tag in ("joint", "fixed") for child in body.element.children
    ):  # fmt: skip
        free = body.element.add("joint", type="free")
        for name in ("name", *JOINT):
            _take(body.prim, f"mjc:free:{name}", free, name)
    body.element.children = [child for child in body.element.children if child.tag != "fixed"]
    above.element.children.append(body.element)


def _joints(reader: Reader, every: list[Usd.Prim]) -> list[tuple[Usd.Prim, Body, Body]]:
    """Make a tree of the joints; those that close a loop are given back."""
    loops = []
    for prim in every:
        if not prim.IsA(UsdPhysics.Joint):
            continue
        if why := joint_fault(prim):
            reader.refuse("a joint without a body", prim, why, "name the prims that it joins")
        joint = UsdPhysics.Joint(prim)
        ends = [
            _holder(reader, reader.stage.GetPrimAtPath(t[0]))
            if (t := rel.GetTargets())
            else reader.root
            for rel in (joint.GetBody0Rel(), joint.GetBody1Rel())
        ]
        if joint.GetExcludeFromArticulationAttr().Get():
            loops.append((prim, *ends))
        elif joint.GetJointEnabledAttr().Get() is False:
            reader.note(prim, "a joint that is switched off is left out")
        elif prim.GetTypeName() == "PhysicsDistanceJoint":
            reader.note(prim, "a distance joint is left out")
        elif ends[0] is ends[1]:
            reader.refuse("a joint without a second body", prim, "both of its ends are one body",
                          "name another body0")  # fmt: skip
        elif _can_hang(reader, ends[1], ends[0]):
            ends[1].above = ends[0]
            _joint(reader, prim, ends[1], 1)
        elif _can_hang(reader, ends[0], ends[1]):
            ends[0].above = ends[1]
            _joint(reader, prim, ends[0], 0)
        else:
            loops.append((prim, *ends))
    return loops


def _can_hang(reader: Reader, child: Body, parent: Body) -> bool:
    """Whether `child` is held by no joint yet, and does not itself hold `parent`."""
    if not child.rigid or any(c.tag in ("joint", "fixed") for c in child.element.children):
        return False
    above: Body | None = parent
    while above:
        if above is child:
            return False
        above = above.above
    return True


def _joint(reader: Reader, prim: Usd.Prim, child: Body, end: int) -> None:
    """What lets `child` move; `end` says which of the joint's two bodies it is."""
    kind = prim.GetTypeName()
    own = [reader.settled(np.array(frame).T, prim) for frame in frames(UsdPhysics.Joint(prim))]
    own = [_straight(frame) for frame in own]
    local = np.linalg.inv(child.pose) @ own[end]
    gap = np.linalg.inv(own[0]) @ own[1]
    sign = 1.0 if end else -1.0
    pos = [float(p) for p in local[:3, 3]]
    name = prim.GetDisplayName() or prim.GetName()
    path = prim.GetPath()

    def put(
        type_: str, letter: str, axis: str, prefix: str, low: Any, high: Any, name: str
    ) -> None:
        number = AXES[letter]
        turns = type_ == "hinge"
        unit = math.radians(1.0) if turns else reader.metres
        made = child.element.add(
            "joint", prim=str(path), name=reader.unique("joint", name), type=type_, pos=pos,
            axis=sign * local[:3, number],
        )  # fmt: skip
        for key in JOINT:
            _take(prim, f"{prefix}{key}", made, "actuatorfrcrange" if key == "actfrcrange" else key)
        other, next_ = (number + 1) % 3, (number + 2) % 3
        at = math.atan2(gap[next_, other], gap[other, other]) if turns else float(gap[number, 3])
        ref = float(made.attributes.pop("ref", 0))
        if abs(at + ref) > 1e-5:
            made.attributes["ref"] = repr(at + ref)
        if low is not None and high is not None and (math.isfinite(low) or math.isfinite(high)):
            low, high = (float(np.clip(value * unit, -1e6, 1e6)) + ref for value in (low, high))
            if math.isnan(low) or math.isnan(high) or low >= high:
                reader.refuse(
                    "a joint cannot move",
                    prim,
                    f"its limits are {low:g} to {high:g}",
                    "write the lower first; a joint that is fast is a FixedJoint",
                )
            made.attributes["range"] = f"{low!r} {high!r}"
        reader.joints[path, axis] = made.attributes["name"]

    if kind in ("PhysicsRevoluteJoint", "PhysicsPrismaticJoint"):
        letter = reader.axis(prim, "physics:axis", "X")
        low, high = (prim.GetAttribute(f"physics:{w}Limit").Get() for w in ("lower", "upper"))
        turns = kind == "PhysicsRevoluteJoint"
        put(
            "hinge" if turns else "slide",
            letter,
            "angular" if turns else "linear",
            "mjc:",
            low,
            high,
            name,
        )
    elif kind == "PhysicsFixedJoint":
        child.element.add("fixed")
    elif kind == "PhysicsSphericalJoint":
        made = child.element.add(
            "joint", prim=str(path), name=reader.unique("joint", name), type="ball", pos=pos
        )
        cone = prim.GetAttribute("physics:coneAngle0Limit").Get()
        if cone is not None and 0 < cone < 180:
            made.attributes["range"] = f"0 {math.radians(cone)!r}"
        for key in JOINT:
            if key not in ("ref", "springref"):
                _take(prim, f"mjc:{key}", made, key)
        reader.joints[path, "angular"] = made.attributes["name"]
    else:
        limits = {
            a: UsdPhysics.LimitAPI(prim, a) if prim.HasAPI(UsdPhysics.LimitAPI, a) else None
            for way in ("trans", "rot")
            for a in (f"{way}X", f"{way}Y", f"{way}Z")
        }
        ends = {a: (limit.GetLowAttr().Get(), limit.GetHighAttr().Get()) if limit else (None, None)
                for a, limit in limits.items()}  # fmt: skip
        free = [a for a, (low, high) in ends.items() if low is None or low <= high]
        if len(free) == 6:
            child.above = reader.root  # It holds nothing.
        if not free:
            child.element.add("fixed")
        for axis in free:
            own_name = str(prim.GetAttribute(f"mjc:{axis}:name").Get() or f"{name}_{axis}")
            way = "slide" if axis[:-1] == "trans" else "hinge"
            low, high = ends[axis]
            put(way, axis[-1], axis, f"mjc:{axis}:", low, high, own_name)


def _shape(reader: Reader, prim: Usd.Prim, body: Body, groups: list[Any]) -> None:
    """A geom; what MuJoCo has no shape for becomes a mesh."""
    matrix = np.linalg.inv(body.pose) @ reader.matrix(prim)
    kind = prim.GetTypeName()
    letter = (
        reader.axis(prim, "axis", "Z") if kind in ("Capsule", "Cylinder", "Cone", "Plane") else "Z"
    )
    if letter != "Z":
        # Bring its axis to z; a turn, so that nothing is mirrored.
        matrix[:3, :3] = matrix[:3, :3] @ np.roll(np.eye(3), 1 if letter == "X" else 2, axis=0).T
    scale = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite(scale).all() or (kind != "Plane" and scale.min() <= 0):
        reader.refuse("a shape is flat", prim, f"its scale is {scale.tolist()}", "give it a size")
    unit = matrix[:3, :3] / np.where(scale > 0, scale, 1)
    sheared = np.abs(unit.T @ unit - np.eye(3)).max() > 1e-4
    even = scale.max() - scale.min() <= 1e-4 * scale.max()
    round_ = abs(scale[0] - scale[1]) <= 1e-4 * scale.max()

    def value(name: str) -> float:
        told = prim.GetAttribute(name).Get()
        if told is None or not 0 < float(told) < math.inf:
            reader.refuse(f"{name} is no length", prim, f"it is {told}", "write one above 0")
        return float(told)

    size: Any = None
    volume = 0.0
    ellipsoid = prim.GetAttribute("mjc:ellipsoid").Get() if kind == "Mesh" else None
    if ellipsoid is not None and not sheared and len(ellipsoid) == 3 and min(ellipsoid) > 0:
        type_, size = "ellipsoid", scale * np.array(ellipsoid)
        volume = 4 / 3 * math.pi * float(np.prod(size))
    elif kind == "Cube" and not sheared:
        type_, size = "box", scale * value("size") / 2
        volume = 8 * float(np.prod(size))
    elif kind == "Sphere" and not sheared:
        size = scale * value("radius")
        volume = 4 / 3 * math.pi * float(np.prod(size))
        type_, size = ("sphere", [size[0]]) if even else ("ellipsoid", size)
    elif kind in ("Capsule", "Cylinder") and not sheared and (round_ or kind == "Capsule"):
        radius, half = (
            float(scale[:2].mean()) * value("radius"),
            float(scale[2]) * value("height") / 2,
        )
        type_, size = kind.lower(), [radius, half]
        volume = math.pi * radius**2 * 2 * half + (4 / 3 * math.pi * radius**3) * (
            kind == "Capsule"
        )
        if not round_:
            reader.note(prim, "a capsule that is not round is made round")
    elif kind == "Plane":
        half = np.array([value("width"), value("length")]) / 2 * scale[:2]
        type_, size = "plane", [*np.where(half >= ENDLESS_M, 0.0, half), 1.0]
    elif kind in ("Cube", "Sphere", "Cylinder", "Cone", "Capsule", "Mesh"):
        type_ = "mesh"
    else:
        reader.note(prim, f"a {kind} is left out")
        return
    collides = (
        prim.HasAPI(UsdPhysics.CollisionAPI)
        and UsdPhysics.CollisionAPI(prim).GetCollisionEnabledAttr().Get() is not False
    )
    geom = Element("geom", {"type": type_}, reader.told, 0, prim=str(prim.GetPath()))
    if type_ == "mesh":
        points, faces = _mesh_of(reader, prim, kind, value)
        points = points @ matrix[:3, :3].T + matrix[:3, 3]
        if np.linalg.det(matrix[:3, :3]) < 0:
            faces = faces[:, ::-1]
        corners = points[faces]
        volume = (
            abs(
                float(
                    np.einsum(
                        "ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])
                    ).sum()
                )
            )
            / 6
        )
        geom.attributes["mesh"] = _asset(reader, prim, points, faces)
        if (
            collides
            and UsdPhysics.MeshCollisionAPI(prim).GetApproximationAttr().Get() != "convexHull"
        ):
            reader.note(prim, "it collides as its convex hull")
    else:
        pos, quat = _pose(_straight(matrix))
        geom.attributes |= {
            "pos": pos,
            "quat": quat,
            "size": " ".join(repr(float(s)) for s in size),
        }
    if prim.GetDisplayName():
        geom.attributes["name"] = reader.unique("geom", prim.GetDisplayName())
    image = UsdGeom.Imageable(prim)
    hidden = image.ComputeVisibility() == "invisible" or image.ComputePurpose() in (
        "guide",
        "proxy",
    )
    geom.attributes["group"] = "4" if hidden else "0" if collides else "2"
    if not collides:
        geom.attributes |= {"contype": "0", "conaffinity": "0"}
    elif groups:
        _bits(geom, prim, groups)
    _coloured(reader, prim, geom)
    density = 0.0
    rub, _ = UsdShade.MaterialBindingAPI(prim).ComputeBoundMaterial("physics")
    if rub and rub.GetPrim().HasAPI(UsdPhysics.MaterialAPI):
        physics = UsdPhysics.MaterialAPI(rub.GetPrim())
        slide = float(physics.GetDynamicFrictionAttr().Get() or 0)
        torsion = rub.GetPrim().GetAttribute("mjc:torsionalfriction").Get()
        roll = rub.GetPrim().GetAttribute("mjc:rollingfriction").Get()
        told = (slide, 0.005 if torsion is None else torsion, 0.0001 if roll is None else roll)
        if not all(0 <= f < math.inf for f in told):
            reader.refuse(
                "friction is no number", rub.GetPrim(), f"it is {slide:g}", "write 0 or more"
            )
        geom.attributes["friction"] = " ".join(map(repr, told))
        density = float(physics.GetDensityAttr().Get() or 0)
    # As UsdPhysics has it: 1000 kg/m3 where nothing is told.
    told_kg_per_m3 = density * reader.kilos / reader.metres**3
    geom.attributes["density"] = repr(told_kg_per_m3 or 1000.0)
    for key in (*GEOM, "contype", "conaffinity"):
        _take(prim, f"mjc:{key}", geom, key)
    body.element.children.append(geom)
    body.shapes.append((geom, volume, collides))


def _mesh_of(reader: Reader, prim: Usd.Prim, kind: str, value: Any) -> tuple[Any, Any]:
    """Points, and triangles counter-clockwise from outside."""
    if kind == "Mesh":
        mesh = UsdGeom.Mesh(prim)
        points = np.array(mesh.GetPointsAttr().Get() or [], float).reshape(-1, 3)
        counts = np.array(mesh.GetFaceVertexCountsAttr().Get() or [], int)
        corners = np.array(mesh.GetFaceVertexIndicesAttr().Get() or [], int)
        why = ""
        if len(points) < 3 or not len(counts):
            why = f"it has {len(points)} points and {len(counts)} faces"
        elif counts.min() < 3 or counts.sum() != len(corners):
            why = "the counts of its faces' corners do not fit its corners"
        elif corners.min() < 0 or corners.max() >= len(points):
            why = f"a face names point {corners.max()} of {len(points)}"
        elif not np.isfinite(points).all():
            why = "a point of it is no number"
        if why:
            reader.refuse("a mesh is broken", prim, why, "export it again")
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        fans = [np.stack([corners[starts[counts > n - 1]], corners[starts[counts > n - 1] + n - 2],
                          corners[starts[counts > n - 1] + n - 1]], 1)
                for n in range(3, counts.max() + 1)]  # fmt: skip
        faces = np.concatenate(fans)
        left = mesh.GetOrientationAttr().Get() == "leftHanded"
        return points, faces[:, ::-1] if left else faces
    if kind in ("Sphere", "Capsule"):
        points, faces = ball()
        points = points * value("radius")
        if kind == "Capsule":
            points[:, 2] += np.sign(points[:, 2]) * value("height") / 2
        return points, faces
    if kind == "Cube":
        rings = [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1.0]]) * value("size") / 2] * 2
        heights = [-value("size") / 2, value("size") / 2]
    else:
        angle = 2 * math.pi * np.arange(SIDES) / SIDES
        circle = np.stack([np.cos(angle), np.sin(angle)], 1) * value("radius")
        half = value("height") / 2
        rings, heights = [circle, circle * (1e-3 if kind == "Cone" else 1)], [-half, half]
    n = len(rings[0])
    points = np.concatenate(
        [np.c_[ring, np.full(n, z)] for ring, z in zip(rings, heights, strict=True)]
    )
    made = []
    for i in range(n):
        j = (i + 1) % n
        made += [(i, j, j + n), (i, j + n, i + n)]
    top = n
    made += [(0, i + 1, i) for i in range(1, n - 1)] + [
        (top, top + i, top + i + 1) for i in range(1, n - 1)
    ]
    return points, np.array(made)


def _asset(reader: Reader, prim: Usd.Prim, points: Any, faces: Any) -> str:
    """A mesh among the assets, in MuJoCo's own binary form; a flat one is given a thickness."""
    used, faces = np.unique(faces, return_inverse=True)
    points, faces = points[used], faces.reshape(-1, 3)
    middle = points.mean(0)
    _, extents, turn = np.linalg.svd(points - middle, full_matrices=False)
    if len(points) < 4 or extents[2] <= 1e-6 * max(extents[0], 1e-9):
        normal = turn[2] if len(turn) > 2 else np.array([0.0, 0.0, 1.0])
        count = len(points)
        points = np.concatenate([points, points - normal * THIN_M])
        faces = np.concatenate([faces, faces[:, ::-1] + count])
    name = f"mesh-{len(reader.world.assets)}"
    flat = np.ascontiguousarray(faces, np.int32)
    reader.world.assets[f"{name}.msh"] = (
        struct.pack("<4i", len(points), 0, 0, len(flat))
        + points.astype("<f4").tobytes()
        + flat.tobytes()
    )
    reader.world.root.child("asset").add("mesh", prim=str(prim.GetPath()), name=name,
                                         file=f"{name}.msh", inertia="convex")  # fmt: skip
    return name


def _bits(geom: Element, prim: Usd.Prim, groups: list[Any]) -> None:
    """Collision groups as bits: a shape touches those of the groups that its own do not filter."""
    paths = [group.GetPrim().GetPath() for group in groups[:30]]
    mine = [
        i
        for i, group in enumerate(groups[:30])
        if group.GetCollidersCollectionAPI().ComputeMembershipQuery().IsPathIncluded(prim.GetPath())
    ]
    passes = {
        paths.index(t)
        for i in mine
        for t in groups[i].GetFilteredGroupsRel().GetTargets()
        if t in paths
    }
    passes |= {
        i
        for i, group in enumerate(groups[:30])
        if any(paths[m] in group.GetFilteredGroupsRel().GetTargets() for m in mine)
    }
    # Bit 30 is of what is in no group, and touches all.
    geom.attributes["contype"] = str(sum(1 << i for i in mine) or 1 << 30)
    geom.attributes["conaffinity"] = str(sum(1 << i for i in range(31) if i not in passes))


def _coloured(reader: Reader, prim: Usd.Prim, geom: Element) -> None:
    bound, _ = UsdShade.MaterialBindingAPI(prim).ComputeBoundMaterial()
    source = bound.ComputeSurfaceSource()[0] if bound else None
    if not source:
        colours = UsdGeom.Gprim(prim).GetDisplayColorAttr().Get()
        colour = [float(c) for c in colours[0]] if colours else [0.6, 0.6, 0.6]
        opacity = UsdGeom.Gprim(prim).GetDisplayOpacityAttr().Get()
        geom.attributes["rgba"] = _rgba(colour, float(opacity[0]) if opacity else 1.0)
        return
    path = bound.GetPath()
    if path not in reader.looks:

        def number(name: str, usual: Any) -> Any:
            wanted = source.GetInput(name)
            told = wanted.Get() if wanted else None
            if wanted and wanted.HasConnectedSource():
                reader.note(bound.GetPrim(), f"what {name} is connected to is left out")
            return usual if told is None else told

        colour = [float(c) for c in number("diffuseColor", (0.18, 0.18, 0.18))]
        glow = max((float(c) for c in number("emissiveColor", (0, 0, 0))), default=0.0)
        opacity = float(number("opacity", 1.0))
        name = reader.looks[path] = reader.unique("material", bound.GetPrim().GetName())
        strongest = max(colour) or 1.0
        reader.world.root.child("asset").add(
            "material", prim=str(path), name=name, rgba=_rgba(colour, opacity),
            shininess=float(np.clip(1 - float(number("roughness", 0.5)), 0, 1)),
            metallic=float(np.clip(float(number("metallic", 0.0)), 0, 1)) or None,
            emission=float(np.clip(glow / strongest, 0, 1)) or None,
        )  # fmt: skip
    geom.attributes["material"] = reader.looks[path]


def _rgba(colour: list[float], opacity: float) -> str:
    whole = np.nan_to_num(np.array([*colour[:3], opacity]), nan=0.6)
    return " ".join(repr(round(float(c), 6)) for c in np.clip(whole, 0, 1))


def _mass(reader: Reader, body: Body) -> None:
    """Mass as it is told; else from the density of its colliders, or of what is seen of it."""
    prim = body.prim
    assert prim is not None
    weighs = [shape for shape in body.shapes if shape[2]] or body.shapes
    for geom, _, _ in body.shapes:
        if not any(geom is other for other, _, _ in weighs):
            geom.attributes["mass"] = "0"
    if prim.HasAPI(UsdPhysics.MassAPI) and prim.HasAPI(UsdPhysics.RigidBodyAPI):
        api = UsdPhysics.MassAPI(prim)
        mass = float(api.GetMassAttr().Get() or 0) * reader.kilos
        density = float(api.GetDensityAttr().Get() or 0) * reader.kilos / reader.metres**3
        moments = np.array(api.GetDiagonalInertiaAttr().Get() or (0, 0, 0), float)
        centre = np.array(api.GetCenterOfMassAttr().Get(), float)
        for what, value in (("mass", mass), ("density", density), ("inertia", moments.min())):
            if not 0 <= value < math.inf:
                reader.refuse(
                    f"{what} is negative, or no number",
                    prim,
                    f"it is {value:g}",
                    "write what it weighs",
                )
        if density:
            for geom, _, _ in weighs:
                geom.attributes["density"] = repr(density)
        if mass and moments.max() > 0:
            matrix = np.linalg.inv(body.pose) @ reader.matrix(prim)
            centre = centre if np.isfinite(centre).all() else np.zeros(3)
            # The axes of inertia, where they are told; (0, 0, 0, 0) means that they are not.
            turn = api.GetPrincipalAxesAttr().Get()
            quat = np.array([turn.GetReal(), *turn.GetImaginary()])
            quat = (
                quat / np.linalg.norm(quat)
                if np.linalg.norm(quat) > 0
                else np.array([1.0, 0, 0, 0])
            )
            body.element.add(
                "inertial", mass=mass, pos=matrix[:3, :3] @ centre, quat=quat,
                diaginertia=moments * reader.kilos * reader.metres**2,
            )  # fmt: skip
        elif mass:
            whole = sum(volume for _, volume, _ in weighs)
            if not whole > 0:
                reader.refuse("a mass without a shape", prim, "its inertia follows from nothing",
                              "write physics:diagonalInertia, or give it a collider")  # fmt: skip
            for geom, volume, _ in weighs:
                geom.attributes["mass"] = repr(mass * volume / whole)
    for geom, _, _ in body.shapes:
        own = reader.stage.GetPrimAtPath(geom.prim)
        if own != prim and own.HasAPI(UsdPhysics.MassAPI) and "mass" not in geom.attributes:
            mass = float(UsdPhysics.MassAPI(own).GetMassAttr().Get() or 0) * reader.kilos
            density = float(UsdPhysics.MassAPI(own).GetDensityAttr().Get() or 0)
            if mass:
                geom.attributes["mass"] = repr(mass)
            elif density:
                geom.attributes["density"] = repr(density * reader.kilos / reader.metres**3)


def _loops(reader: Reader, loops: list[tuple[Usd.Prim, Body, Body]]) -> None:
    if not loops:
        return
    equality = reader.world.root.add("equality")
    for prim, first, second in loops:
        own = [
            _straight(reader.settled(np.array(f).T, prim)) for f in frames(UsdPhysics.Joint(prim))
        ]
        local = [
            np.linalg.inv(b.pose) @ frame for b, frame in zip((first, second), own, strict=True)
        ]
        names = {"body1": first.element.attributes.get("name", "world"),
                 "body2": second.element.attributes.get("name", "world")}  # fmt: skip
        active = UsdPhysics.Joint(prim).GetJointEnabledAttr().Get() is not False
        kind = prim.GetTypeName()
        if kind == "PhysicsFixedJoint":
            relative = local[0] @ np.linalg.inv(
                np.block([[local[1][:3, :3], np.zeros((3, 1))], [np.zeros((1, 3)), np.eye(1)]])
            )
            pos, quat = _pose(relative)
            made = [equality.add("weld", prim=str(prim.GetPath()), active=active,
                                 anchor=local[1][:3, 3], relpose=f"{pos} {quat}")]  # fmt: skip
        else:
            # Two points of a hinge's axis are held, one of all else.
            letter = AXES[reader.axis(prim, "physics:axis", "X")]
            ways = (0.0, 0.1) if kind == "PhysicsRevoluteJoint" else (0.0,)
            made = [
                equality.add(
                    "connect",
                    prim=str(prim.GetPath()),
                    active=active,
                    anchor=local[0][:3, 3] + way * local[0][:3, letter],
                )
                for way in ways
            ]
            if kind not in ("PhysicsRevoluteJoint", "PhysicsSphericalJoint"):
                reader.note(prim, "it closes a loop, and holds one point there")
        for one in made:
            one.attributes |= names
            for key in ("solref", "solimp"):
                _take(prim, f"mjc:{key}", one, key)
        if len(made) == 1 and prim.GetDisplayName():
            made[0].attributes["name"] = reader.unique("equality", prim.GetDisplayName())


def _actuators(reader: Reader, every: list[Usd.Prim]) -> None:
    """The exact ones that `usd` wrote, else the drives: a servo each."""
    exact = [prim for prim in every if prim.HasRelationship("mjc:target")]
    made = Element("actuator", {}, reader.told, 0, prim="/")
    for prim in exact:
        targets = prim.GetRelationship("mjc:target").GetTargets()
        axis = str(prim.GetAttribute("mjc:axis").Get() or "")
        known = {}
        for (path, its), name in reader.joints.items():
            if targets and path == targets[0] and axis in ("", its):
                known["joint"] = name
        if targets and targets[0] in reader.bodies:  # It sticks to what it touches.
            known = {"body": reader.bodies[targets[0]].element.attributes["name"]}
        if not known:
            reader.refuse("an actuator without a joint", prim, "mjc:target names none", "name one")
        general = made.add("general", prim=str(prim.GetPath()), **known)
        general.attributes["name"] = reader.unique(
            "actuator", prim.GetDisplayName() or prim.GetName()
        )
        for key in ("gaintype", "biastype", "dyntype", "gainprm", "biasprm", "dynprm", "gear",
                    "ctrlrange", "forcerange"):  # fmt: skip
            _take(prim, f"mjc:{key}", general, key)
    targets_of: list[float] = []
    for (path, axis), name in reader.joints.items() if not exact else ():
        prim = reader.stage.GetPrimAtPath(path)
        if not prim.HasAPI(UsdPhysics.DriveAPI, axis):
            continue
        drive = UsdPhysics.DriveAPI(prim, axis)
        turns = axis == "angular" or axis.startswith("rot")
        # N/m and N s/m; for a turn, per degree there and per radian here.
        unit = reader.kilos * (reader.metres**2 * math.degrees(1.0) if turns else 1.0)
        stiffness, damping, most, target = (
            float(a.Get() or 0) for a in (drive.GetStiffnessAttr(), drive.GetDampingAttr(),
                                          drive.GetMaxForceAttr(), drive.GetTargetPositionAttr())
        )  # fmt: skip
        if not all(map(math.isfinite, (stiffness, damping, target))) or math.isnan(most):
            reader.refuse(
                "a drive is no number", prim, "nan or inf is in it", "write finite numbers"
            )
        if not stiffness and not damping:
            continue
        gain = stiffness * unit or damping * unit
        strongest = most * reader.kilos * (reader.metres**2 if turns else reader.metres)
        made.add(
            "general", prim=str(path), joint=name, name=reader.unique("actuator", name),
            gaintype="fixed", biastype="affine", gainprm=[gain],
            biasprm=[0.0, -stiffness * unit, -damping * unit],
            forcerange=[-strongest, strongest] if 0 < strongest < math.inf else None,
        )  # fmt: skip
        targets_of.append(
            target * (math.radians(1.0) if turns else reader.metres) if stiffness else 0.0
        )
    if made.children:
        reader.world.root.children.append(made)
    if any(targets_of):
        reader.world.root.add("keyframe").add("key", name="drives", ctrl=targets_of)


def _excludes(reader: Reader, every: list[Usd.Prim]) -> None:
    pairs = set()
    for prim in every:
        if prim.HasAPI(UsdPhysics.FilteredPairsAPI):
            for target in UsdPhysics.FilteredPairsAPI(prim).GetFilteredPairsRel().GetTargets():
                other = reader.stage.GetPrimAtPath(target)
                both = [
                    _holder(reader, each).element.attributes.get("name", "world")
                    for each in (prim, other)
                ]
                if other and both[0] != both[1] and (both[1], both[0]) not in pairs:
                    pairs.add((both[0], both[1]))
    if pairs:
        contact = reader.world.root.add("contact")
        for first, second in sorted(pairs):
            contact.add("exclude", body1=first, body2=second)


def _camera(reader: Reader, prim: Usd.Prim) -> None:
    body, camera = _holder(reader, prim), UsdGeom.Camera(prim)
    pos, quat = _pose(_straight(np.linalg.inv(body.pose) @ reader.matrix(prim)))
    focal, aperture = (
        float(a.Get() or 0) for a in (camera.GetFocalLengthAttr(), camera.GetVerticalApertureAttr())
    )
    fovy = math.degrees(2 * math.atan2(aperture, 2 * focal))
    if not 0 < fovy < 180:
        reader.refuse("a camera sees nothing", prim, f"its field of view is {fovy:g} degrees",
                      "write a focal length and an aperture")  # fmt: skip
    name = reader.unique("camera", prim.GetDisplayName() or prim.GetName())
    body.element.add("camera", prim=str(prim.GetPath()), name=name, pos=pos, quat=quat, fovy=fovy)


def _light(reader: Reader, prim: Usd.Prim, visual: Element) -> None:
    light = UsdLux.LightAPI(prim)
    strength = float(light.GetIntensityAttr().Get() or 0) * 2 ** float(
        light.GetExposureAttr().Get() or 0
    )
    colour = np.array(light.GetColorAttr().Get() or (1, 1, 1), float)
    diffuse = np.clip(np.nan_to_num(colour * strength / BRIGHT, posinf=1.0), 0, 1)
    if prim.IsA(UsdLux.DomeLight) or prim.GetTypeName() == "DomeLight_1":
        if any(child.tag == "headlight" for child in visual.children):
            reader.note(prim, "of several domes the first counts")
            return
        # Ambient light of our own making is dim; that of others is bright, and would drown all.
        own = prim.HasAttribute("mjc:diffuse")
        head = visual.add("headlight", ambient=diffuse if own else diffuse * 0.4)
        head.attributes["diffuse"] = "0.2 0.2 0.2"
        _take(prim, "mjc:diffuse", head, "diffuse")
        _take(prim, "mjc:specular", head, "specular")
        return
    body = _holder(reader, prim)
    matrix = _straight(np.linalg.inv(body.pose) @ reader.matrix(prim))
    made = body.element.add(
        "light", prim=str(prim.GetPath()),
        name=reader.unique("light", prim.GetDisplayName() or prim.GetName()),
        pos=matrix[:3, 3], dir=-matrix[:3, 2], diffuse=diffuse,
        type="directional" if prim.IsA(UsdLux.DistantLight) else "point", castshadow=False,
    )  # fmt: skip
    if prim.HasAPI(UsdLux.ShapingAPI) and made.attributes["type"] == "point":
        cone = float(UsdLux.ShapingAPI(prim).GetShapingConeAngleAttr().Get() or 90)
        made.attributes |= {"type": "spot", "cutoff": repr(min(max(cone, 1.0), 90.0))}
    for key in ("ambient", "specular", "attenuation", "exponent", "castshadow", "active"):
        _take(prim, f"mjc:{key}", made, key)


def _take(prim: Usd.Prim, name: str, element: Element, key: str) -> None:
    """An `mjc:` attribute as an attribute of MJCF."""
    attribute = prim.GetAttribute(name)
    value = attribute.Get() if attribute else None
    if value is None:
        return
    if isinstance(value, str | bool):
        element.attributes[key] = str(value).lower() if isinstance(value, bool) else value
        return
    numbers = [float(v) for v in value] if hasattr(value, "__len__") else [float(value)]
    if not all(map(math.isfinite, numbers)):
        where = f"{element.file}, {prim.GetPath()}"
        raise WorldRefused(f"{name} is no number", where, f"it is {value}",
                           "write a finite number")  # fmt: skip
    element.attributes[key] = " ".join(
        str(int(n)) if isinstance(value, int) else repr(n) for n in numbers
    )


def _straight(matrix: Any) -> Any:
    """A pose without scale and shear: the nearest turn."""
    axes = matrix[:3, :3]
    if np.linalg.det(axes) < 0:
        axes = axes * [1.0, 1.0, -1.0]  # Mirrored; all our shapes look alike from both ends of z.
    left, _, right = np.linalg.svd(axes)
    turn = left @ right
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, matrix[:3, 3]
    return pose


def _pose(matrix: Any) -> tuple[str, str]:
    """Position and quaternion as MJCF writes them."""
    import mujoco

    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, np.ascontiguousarray(matrix[:3, :3]).ravel())
    return (" ".join(repr(float(p) + 0.0) for p in matrix[:3, 3]),
            " ".join(repr(float(q) + 0.0) for q in quat))  # fmt: skip
