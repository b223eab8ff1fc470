"""Is an OpenUSD file ready to be simulated? A list of checks, each with its prim and why.

The checks are those that SimReady asks of an asset (units, labels, mass, colliders, materials),
and the validators that usd-core ships.
Source: https://docs.omniverse.nvidia.com/simready/latest/ and UsdValidation of OpenUSD 26
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pxr import Gf, Sdf, Tf, Usd, UsdGeom, UsdPhysics, UsdSemantics, UsdShade, UsdValidation

from gigafactory.jobs.worlds.scene import WorldRefused

SIZE_M = (0.01, 20_000.0)
"""Between these, the longest edge of a world is plausible."""
MEETS_M, MEETS_DEG = 0.001, 0.5
NOT_OURS = ("StageMetadataChecker",)  # Units and up axis are told by our own check.
Found = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Check:
    """One check of one prim; a check that nothing fails is told once, of the whole file."""

    name: str
    passed: bool
    prim: str
    why: str


def validate(path: Path | str) -> tuple[Check, ...]:
    """All checks of a USD file. A file that cannot be opened at all is refused."""
    stage = opened(Path(path))
    checks: list[Check] = []
    for name, (promise, find) in CHECKS.items():
        faults = [Check(name, False, prim, why) for prim, why in find(stage)]
        checks += faults or [Check(name, True, "/", promise)]
    registry = UsdValidation.ValidationRegistry()
    own = [
        v for v in registry.GetOrLoadAllValidators() if not v.GetMetadata().name.endswith(NOT_OURS)
    ]
    found = UsdValidation.ValidationContext(own).Validate(stage)
    for error in found:
        name = error.GetValidator().GetMetadata().name
        at = next((str(s.GetPrim().GetPath()) for s in error.GetSites() if s.IsPrim()), "/")
        checks.append(Check(name, False, at, error.GetMessage()))
    if not found:
        checks.append(Check("usd-core", True, "/", f"{len(own)} validators of usd-core pass"))
    return tuple(checks)


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """What the libraries of USD find wrong with a file becomes a refusal."""
    try:
        yield
    except (Tf.ErrorException, UnicodeError) as error:
        # Of a damaged file USD may tell thousands of errors; the first ones say it.
        told = " ".join(" ".join(map(str, error.args[:4]))[:4000].split())
        line = re.search(r"on line (\d+)|\.usda?:(\d+):\d+: ", told)
        why = re.sub(r"^.*?Error in '[^']*' at line \d+ in file \S+ : ", "", told)
        why = re.sub(r"^'?\S*\.usda?:\d+:\d+: ", "", why)
        why = re.split(r"'? Error in '| in <| on line | in file | at '\[", why)[0].strip("' ")
        if isinstance(error, UnicodeError):
            why = "it holds bytes that are no text"
        raise WorldRefused(
            "the file cannot be read as USD",
            f"{path.name}:{line[1] or line[2]}" if line else path.name,
            why[:300].replace(str(path.parent.resolve()), "."), "export the world again",
        ) from None  # fmt: skip


def opened(path: Path) -> Usd.Stage:
    """The stage of a file, whose layers must all lie beside or below it."""
    root = path.parent.resolve()
    if path.is_file() and not path.stat().st_size:
        raise WorldRefused("the file is empty", path.name, "it has no prim", "export it again")
    with telling(path):
        layer = Sdf.Layer.FindOrOpen(str(path.resolve()))
        if layer is None:
            raise WorldRefused("the file is no USD", path.name, "it is cut off, or another form",
                               "export the world again")  # fmt: skip
        _confined(layer, root, path.name, set())
        stage = Usd.Stage.Open(layer)
        errors = stage.GetCompositionErrors()
    if errors:
        at = getattr(errors[0], "rootSite", None)
        raise WorldRefused(
            "a part of the world cannot be composed",
            f"{path.name}, {at.path if at else '/'}",
            " ".join(str(errors[0]).split())[:300].replace(str(root), "."),
            "put the layer there, or take the reference away",
        )  # fmt: skip
    return stage


def _confined(layer: Sdf.Layer, root: Path, told: str, seen: set[str]) -> None:
    """Refuse a layer that names others outside of the world's folder, before they are read."""
    seen.add(layer.realPath)

    def clips(at: Sdf.Path) -> None:
        if at.IsPrimPath() and (spec := layer.GetPrimAtPath(at)) and spec.HasInfo("clips"):
            raise WorldRefused(
                "a world with value clips",
                f"{told}, {at}",
                "a world is read at one time",
                "flatten it: usdcat --flatten",
            )

    layer.Traverse(Sdf.Path.absoluteRootPath, clips)
    for asset in sorted(layer.GetCompositionAssetDependencies()):
        where = f"{told}, {_names(layer, asset)}"
        if "`" in asset or "://" in asset:
            raise WorldRefused(f"the layer {asset!r} is not followed", where,
                               "a world's layers are files beside it, and it is none",
                               "copy it there, and name the copy")  # fmt: skip
        try:
            # A bare name is beside its layer, wherever else USD would look for it.
            absolute = layer.ComputeAbsolutePath(asset).split("[")[0]
            real = (Path(layer.realPath).parent / absolute).resolve()
        except (OSError, ValueError, RuntimeError):
            real = Path("/")
        if not real.is_relative_to(root):
            raise WorldRefused(f"the layer {asset!r} leads out of the world's folder", where,
                               "a world reads only files beside and below it",
                               "copy the layer there, and name the copy")  # fmt: skip
        if not real.is_file():
            why = f"there is no file {real.relative_to(root)} beside the world"
            raise WorldRefused(f"a layer is missing: {asset!r}", where, why,
                               "put it there, or take the reference away")  # fmt: skip
        if str(real) in seen:
            continue
        with telling(real):
            below = Sdf.Layer.FindOrOpen(str(real))
        if below:
            _confined(below, root, real.name, seen)


def _names(layer: Sdf.Layer, asset: str) -> str:
    """The prim that refers to another layer; `/` where the layer itself lies on it."""
    found: list[str] = []

    def look(at: Sdf.Path) -> None:
        spec = layer.GetPrimAtPath(at) if at.IsPrimPath() else None
        for arcs in (spec.referenceList, spec.payloadList) if spec else ():
            if any(one.assetPath == asset for one in arcs.GetAddedOrExplicitItems()):
                found.append(str(at))

    layer.Traverse(Sdf.Path.absoluteRootPath, look)
    return found[0] if found else "/"


def prims(stage: Usd.Stage) -> Iterator[Usd.Prim]:
    """All prims that are there, those of instances, too."""
    return iter(
        Usd.PrimRange(stage.GetPseudoRoot(), Usd.TraverseInstanceProxies(Usd.PrimDefaultPredicate))
    )


def labels(prim: Usd.Prim, kind: str = "class") -> list[str]:
    """Semantic labels that a prim itself has, of UsdSemantics or of Omniverse's older schema."""
    if prim.HasAPI(UsdSemantics.LabelsAPI, kind):
        return [
            str(label) for label in UsdSemantics.LabelsAPI(prim, kind).GetLabelsAttr().Get() or ()
        ]
    found = []
    for attribute in prim.GetAttributes():
        name = attribute.GetName()
        if name.startswith("semantic:") and name.endswith(":params:semanticData"):
            taxonomy = prim.GetAttribute(name[: -len("semanticData")] + "semanticType")
            if attribute.Get() and taxonomy and taxonomy.Get() == kind:
                found.append(str(attribute.Get()))
    return found


def seen(prim: Usd.Prim) -> bool:
    """Whether a prim is a shape that is drawn."""
    return prim.IsA(UsdGeom.Gprim) and UsdGeom.Imageable(prim).ComputePurpose() in (
        "default",
        "render",
    )


def moves(prim: Usd.Prim) -> bool:
    """Whether a prim is a rigid body that forces move."""
    if not prim.HasAPI(UsdPhysics.RigidBodyAPI):
        return False
    rigid = UsdPhysics.RigidBodyAPI(prim)
    return bool(rigid.GetRigidBodyEnabledAttr().Get()) and not rigid.GetKinematicEnabledAttr().Get()


def below(prim: Usd.Prim) -> Iterator[Usd.Prim]:
    """A prim and what is fixed to it: not the bodies that it holds."""
    yield prim
    for child in prim.GetFilteredChildren(Usd.TraverseInstanceProxies(Usd.PrimDefaultPredicate)):
        if not child.HasAPI(UsdPhysics.RigidBodyAPI):
            yield from below(child)


def _of(test: Callable[[Usd.Prim], str]) -> Callable[[Usd.Stage], Found]:
    """A check of each prim: `test` says what is wrong with it, or nothing."""

    def find(stage: Usd.Stage) -> Found:
        for prim in prims(stage):
            if why := test(prim):
                yield str(prim.GetPath()), why

    return find


def _units(stage: Usd.Stage) -> Found:
    if not UsdGeom.StageHasAuthoredMetersPerUnit(stage):
        yield "/", "metersPerUnit is not written: a length may be m or cm"
    elif not 0 < UsdGeom.GetStageMetersPerUnit(stage) < math.inf:
        yield "/", f"metersPerUnit is {UsdGeom.GetStageMetersPerUnit(stage)}"


def _up_axis(stage: Usd.Stage) -> Found:
    if not stage.HasAuthoredMetadata(UsdGeom.Tokens.upAxis):
        yield "/", "upAxis is not written: Y or Z may be up"


def _default_prim(stage: Usd.Stage) -> Found:
    if not stage.GetDefaultPrim():
        yield "/", "there is no default prim, so nobody can refer to the file"


def _labels(stage: Usd.Stage) -> Found:
    if not any(labels(prim) for prim in prims(stage)):
        yield "/", "no prim has a semantic label of the class"


def _box(stage: Usd.Stage) -> Found:
    box = UsdGeom.BBoxCache(Usd.TimeCode.Default(), ["default", "render"])
    size = box.ComputeWorldBound(stage.GetPseudoRoot()).ComputeAlignedRange().GetSize()
    edge_m = max(size) * UsdGeom.GetStageMetersPerUnit(stage)
    if not SIZE_M[0] <= edge_m <= SIZE_M[1]:
        yield (
            "/",
            f"its longest edge is {edge_m:.6g} m; plausible are {SIZE_M[0]:g} to {SIZE_M[1]:g}",
        )


def _something_moves(stage: Usd.Stage) -> Found:
    if not any(prim.HasAPI(UsdPhysics.RigidBodyAPI) for prim in prims(stage)):
        yield "/", "no prim is a rigid body"


def _physics_scene(stage: Usd.Stage) -> Found:
    if not any(prim.IsA(UsdPhysics.Scene) for prim in prims(stage)):
        yield "/", "there is no PhysicsScene, so gravity is not told"


def _name(prim: Usd.Prim) -> str:
    legal = prim.IsPseudoRoot() or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", prim.GetName())
    return "" if legal else "its name is not letters, digits and _ throughout"


def _scale(prim: Usd.Prim) -> str:
    if not prim.IsA(UsdGeom.Xformable):
        return ""
    matrix = UsdGeom.Xformable(prim).GetLocalTransformation()
    numbers = [value for row in range(4) for value in matrix.GetRow(row)]
    if not all(map(math.isfinite, numbers)):
        return "its transform is not of finite numbers"
    volume = matrix.GetDeterminant3()
    return f"its scale has the volume {volume:.6g}: mirrored or flat" if volume <= 0 else ""


def _extent(prim: Usd.Prim) -> str:
    if not prim.IsA(UsdGeom.Boundable):
        return ""
    boundable = UsdGeom.Boundable(prim)
    told, real = boundable.GetExtentAttr(), UsdGeom.Boundable.ComputeExtentFromPlugins(
        boundable, Usd.TimeCode.Default()
    )  # fmt: skip
    if not prim.IsA(UsdGeom.Gprim) or real is None:
        return ""
    if not told.HasAuthoredValue():
        return "extent is not written"
    box, least = Gf.Range3d(*map(Gf.Vec3d, told.Get())), Gf.Range3d(*map(Gf.Vec3d, real))
    slack = Gf.Vec3d(1e-4 * (1 + least.GetSize().GetLength()))
    whole = Gf.Range3d(box.GetMin() - slack, box.GetMax() + slack).Contains(least)
    return "" if whole else f"extent {box} does not hold {least}"


def _mass(prim: Usd.Prim) -> str:
    if prim.HasAPI(UsdPhysics.MassAPI):
        api = UsdPhysics.MassAPI(prim)
        for what, value in (
            ("mass", api.GetMassAttr().Get()),
            ("density", api.GetDensityAttr().Get()),
        ):
            if value is not None and not 0 <= value < math.inf:
                return f"its {what} is {value:g}"
    if not moves(prim):
        return ""
    weighed = [UsdPhysics.MassAPI(each) for each in below(prim) if each.HasAPI(UsdPhysics.MassAPI)]
    if any(
        (api.GetMassAttr().Get() or 0) > 0 or (api.GetDensityAttr().Get() or 0) > 0
        for api in weighed
    ):
        return ""
    return "it moves, and neither a mass nor a density is written"


def _inertia(prim: Usd.Prim) -> str:
    if not moves(prim):
        return ""
    inertia = UsdPhysics.MassAPI(prim).GetDiagonalInertiaAttr()
    moments = inertia.Get() if inertia and inertia.HasAuthoredValue() else None
    if moments is None or not any(moments):
        shaped = any(each.HasAPI(UsdPhysics.CollisionAPI) for each in below(prim))
        return "" if shaped else "neither an inertia nor a collider that it follows from"
    small, middle, large = sorted(moments)
    if not 0 < small <= large < math.inf:
        return f"its inertia is {tuple(moments)}"
    whole = large <= (small + middle) * (1 + 1e-4)
    return (
        "" if whole else f"no body has the inertia {tuple(moments)}: one is above the others' sum"
    )


def _collider(prim: Usd.Prim) -> str:
    if not moves(prim) or any(each.HasAPI(UsdPhysics.CollisionAPI) for each in below(prim)):
        return ""
    if not any(each.IsA(UsdGeom.Gprim) for each in below(prim)):
        return ""  # A link without a shape touches nothing, and is not seen to.
    return "it is seen and moves, but nothing can touch it"


def joint_fault(prim: Usd.Prim) -> str:
    """What is wrong with the bodies of a joint; nothing where nothing is, or it is no joint."""
    if not prim.IsA(UsdPhysics.Joint):
        return ""
    joint = UsdPhysics.Joint(prim)
    ends = []
    for name, rel in (("body0", joint.GetBody0Rel()), ("body1", joint.GetBody1Rel())):
        targets = rel.GetTargets()
        if len(targets) > 1:
            return f"{name} names {len(targets)} prims"
        if targets and not prim.GetStage().GetPrimAtPath(targets[0]):
            return f"{name} is {targets[0]}, and no such prim is there"
        ends += targets
    if not ends:
        return "neither body0 nor body1 is named"
    rigid = any(owner(prim.GetStage().GetPrimAtPath(end)) for end in ends)
    return "" if rigid else "neither of its bodies is a rigid body"


def owner(prim: Usd.Prim) -> Usd.Prim | None:
    """The rigid body that a prim belongs to."""
    while prim and not prim.IsPseudoRoot():
        if prim.HasAPI(UsdPhysics.RigidBodyAPI):
            return prim
        prim = prim.GetParent()
    return None


def frames(joint: UsdPhysics.Joint) -> list[Gf.Matrix4d]:
    """The two frames of a joint in the world."""
    stage, found = joint.GetPrim().GetStage(), []
    for rel, pos, rot in (
        (joint.GetBody0Rel(), joint.GetLocalPos0Attr(), joint.GetLocalRot0Attr()),
        (joint.GetBody1Rel(), joint.GetLocalPos1Attr(), joint.GetLocalRot1Attr()),
    ):  # fmt: skip
        local = Gf.Matrix4d().SetRotate(Gf.Quatd(rot.Get()).GetNormalized())
        targets = rel.GetTargets()
        world = Gf.Matrix4d(1.0)
        at = Gf.Vec3d(pos.Get())
        if targets:
            world = UsdGeom.Xformable(stage.GetPrimAtPath(targets[0])).ComputeLocalToWorldTransform(
                Usd.TimeCode.Default()
            )
            at = world.Transform(at)
            world = world.RemoveScaleShear()
        else:
            at = Gf.Vec3d(pos.Get())
        frame = local * world
        frame.SetTranslateOnly(at)
        found.append(frame)
    return found


def _meets(prim: Usd.Prim) -> str:
    if not prim.IsA(UsdPhysics.Joint) or joint_fault(prim):
        return ""
    first, second = frames(UsdPhysics.Joint(prim))
    gap = second * first.GetInverse()
    metres = UsdGeom.GetStageMetersPerUnit(prim.GetStage())
    apart, turn = gap.ExtractTranslation() * metres, gap.ExtractRotation()
    free = prim.GetTypeName()
    along = "XYZ".find(str(prim.GetAttribute("physics:axis").Get() or "")) if free in (
        "PhysicsRevoluteJoint", "PhysicsPrismaticJoint") else -1  # fmt: skip
    if free == "PhysicsPrismaticJoint":
        apart[along] = 0.0
    if free in ("PhysicsJoint", "PhysicsDistanceJoint"):
        return ""
    if apart.GetLength() > MEETS_M:
        return f"its two frames are {apart.GetLength():.4g} m apart"
    if free == "PhysicsSphericalJoint":
        return ""
    axis = Gf.Vec3d(0.0)
    if free == "PhysicsRevoluteJoint" and along >= 0:
        axis[along] = 1.0
        tilt = math.degrees(math.acos(max(-1.0, min(1.0, turn.TransformDir(axis) * axis))))
    else:
        tilt = turn.GetAngle()
    return (
        f"its two frames are turned by {tilt:.4g} degrees"
        if MEETS_DEG < tilt < 360 - MEETS_DEG
        else ""
    )


def _limits(prim: Usd.Prim) -> str:
    if not prim.IsA(UsdPhysics.RevoluteJoint) and not prim.IsA(UsdPhysics.PrismaticJoint):
        return ""
    low, high = (prim.GetAttribute(f"physics:{end}Limit").Get() for end in ("lower", "upper"))
    return "" if low <= high else f"its lower limit {low:g} is above its upper limit {high:g}"


def _material(prim: Usd.Prim) -> str:
    if not seen(prim):
        return ""
    bound, _ = UsdShade.MaterialBindingAPI(prim).ComputeBoundMaterial()
    return "" if bound else "no material is bound to it"


CHECKS: dict[str, tuple[str, Callable[[Usd.Stage], Found]]] = {
    "units": ("metersPerUnit is written", _units),
    "up axis": ("upAxis is written", _up_axis),
    "default prim": ("there is one", _default_prim),
    "names": ("letters, digits and _", _of(_name)),
    "labels": ("classes are labelled", _labels),
    "size": ("the world has a plausible size", _box),
    "transforms": ("finite, not mirrored", _of(_scale)),
    "extents": ("written, and they hold their shapes", _of(_extent)),
    "materials": ("each shape that is seen has one", _of(_material)),
    "physics scene": ("there is one", _physics_scene),
    "moves": ("something moves", _something_moves),
    "mass": ("each body that moves has one", _of(_mass)),
    "inertia": ("each body that moves has one", _of(_inertia)),
    "colliders": ("each body that moves and is seen has one", _of(_collider)),
    "joint bodies": ("each joint has its bodies", _of(joint_fault)),
    "joint frames": ("they meet", _of(_meets)),
    "joint limits": ("the lower is below the upper", _of(_limits)),
}
