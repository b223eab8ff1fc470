"""The truth certificate: labels held against geometry, by ways that share nothing with drawing.

Rays are cast from the camera as the label states it, through pixels drawn at random and through
pixels just inside and outside of boxes, and met with the exact shapes (formulas for six of them,
MuJoCo's `mj_rayMesh` and `mj_rayHfield` for meshes and height fields; its `mj_multiRay` will not
do, for it misses geoms that reach out of what of their body collides). Where a
ray and the picture disagree, 121 rays up to `EDGE_PX` around it are met with each geom alone:
outlines of facets lie that near to the true ones, and rasterisers move corners by 1/256 px. A
geom that not all of these rays meet has an edge there, so it may hide what is behind it or not: a
part of it too narrow for any sample of rays can be seen past such an edge. What all of them meet
surely hides. A pixel is true if a geom of the thing that it shows is met there, before what surely
hides, at the depth that it shows (nothing: if nothing surely hides). A face seen from its side has
many depths within a part of a pixel, and ends between two rays: it goes on for one step more as
steeply as from ray to ray, and for another, 5/256 px, as its corners were moved. At its edge, the
point that a pixel shows may also lie anywhere in the geom, as facets do.

Besides: boxes hold every pixel of their thing and touch it on all four sides; every number in the
picture has a label and every label a pixel; points that rays meet lie in their thing's cuboid;
cuboid, box of the cuboid and pose are computed again, from other formulas.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import mujoco
import numpy as np
from numba import njit

from gigafactory.jobs.synthesize.frame import Frame
from gigafactory.jobs.worlds.scene import Range, things

RAYS = 64
"""Through pixels of a frame drawn at random; those at boxes come on top."""
BORDERED = 12
"""Labels of a frame, drawn at random, of which the borders are looked at by rays."""
EXACT_M = 1e-6
SURFACE_M = 2e-3
SURFACE_PX = 0.15
"""Round things are drawn with facets inside: of outlines 0.05 px, of balls, bent both ways, 0.1."""
BOX_PX = 0.05
"""By which a pixel's middle may lie outside the box of its cuboid."""
FAR_M = 1000.0
GROUPS = 3
"""Geoms of groups 0 to 2 are to be seen."""
BINS = 10
EXAMPLES = 5
EDGE_PX = 0.1
"""By which an edge may be off: twice what its facets may be, and a few 1/256 px."""
_STEPS = 11
_AWAY_PX = np.linspace(-EDGE_PX, EDGE_PX, _STEPS)
_AROUND = np.array([(x, y) for y in _AWAY_PX for x in _AWAY_PX])
_SIGNS = np.array([[1 if corner >> axis & 1 else -1 for axis in range(3)] for corner in range(8)])


class Examiner:
    """Examines frames of one model: `checked` counts what was looked at, `errors` what is wrong."""

    def __init__(self, model: mujoco.MjModel):
        self.model = model
        self.checked: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.examples: list[str] = []
        endless = model.geom_rbound <= 0
        self._things = {
            thing.number: thing for thing in things(model) if not endless[list(thing.geoms)].any()
        }
        self._number = np.zeros(model.ngeom + 1, np.int64)  # the last: where no geom was met
        for thing in self._things.values():
            self._number[list(thing.geoms)] = thing.number

    def examine(self, simulated: mujoco.MjData, frame: Frame, rng: np.random.Generator) -> int:
        """Hold a frame against the world as it stands; how many errors were found."""
        before = self.errors.total()
        self.checked["frames"] += 1
        self.checked["labels"] += len(frame.labels)
        self._boxes(frame)
        self._cuboids(simulated, frame)
        self._rays(simulated, frame, rng)
        return self.errors.total() - before

    def _wrong(self, kind: str, frame: Frame, said: str, count: int = 1) -> None:
        if count:
            self.errors[kind] += count
            if len(self.examples) < EXAMPLES:
                self.examples.append(f"moment {frame.moment}, {frame.camera.name}: {said}")

    def _boxes(self, frame: Frame) -> None:
        most = max([*self._things, *(label.thing for label in frame.labels)], default=0)
        boxes = np.zeros((most + 2, 5), np.int64)
        for label in frame.labels:
            boxes[label.thing] = *label.box, label.pixels
            thing = self._things.get(label.thing)
            if thing is None or (thing.name, thing.class_) != (label.name, label.class_):
                self._wrong("name", frame, f"{label.name} is no {label.class_} of this world")
            if not 0 < label.visible <= 1:
                self._wrong("visible", frame, f"{label.name} is seen by {label.visible}")
        outside, loose = _tight(frame.instance, boxes)
        self.checked["pixels"] += frame.instance.size
        self._wrong("unlabelled", frame, "a pixel's thing has no label", int(outside[-1] > 0))
        for label in frame.labels:
            if outside[label.thing] or loose[label.thing]:
                self._wrong("box", frame, f"the box of {label.name} does not just hold its pixels")

    def _cuboids(self, simulated: mujoco.MjData, frame: Frame) -> None:
        """Each cuboid again, by the support of its geoms' boxes along the body's axes."""
        labels = [label for label in frame.labels if label.thing in self._things]
        model, camera = self.model, frame.camera
        group = model.geom_group
        geoms = [
            [g for g in self._things[label.thing].geoms if group[g] < GROUPS] for label in labels
        ]
        if hidden := [label for label, mine in zip(labels, geoms, strict=True) if not mine]:
            self._wrong("name", frame, f"{hidden[0].name} is not to be seen", len(hidden))
            labels = [label for label, mine in zip(labels, geoms, strict=True) if mine]
            geoms = [mine for mine in geoms if mine]
        if not labels:
            return
        flat = np.concatenate(geoms).astype(int)
        starts = np.cumsum([0, *map(len, geoms[:-1])])
        bodies = [self._things[label.thing].body for label in labels]
        turns = simulated.xmat[bodies].reshape(-1, 3, 3)
        many = np.repeat(np.arange(len(labels)), [len(each) for each in geoms])
        of_geom = simulated.geom_xmat[flat].reshape(-1, 3, 3)
        turned = np.swapaxes(turns, 1, 2)[many] @ of_geom
        from_body = simulated.geom_xpos[flat] - simulated.xpos[bodies][many]
        middles = (from_body[:, None] @ turns[many])[:, 0] + (
            turned @ model.geom_aabb[flat, :3, None]
        )[..., 0]
        reach = (np.abs(turned) @ model.geom_aabb[flat, 3:, None])[..., 0]
        low = np.minimum.reduceat(middles - reach, starts)
        high = np.maximum.reduceat(middles + reach, starts)
        positions = simulated.xpos[bodies] + (turns @ ((low + high) / 2)[..., None])[..., 0]
        said_at = np.array([label.position for label in labels])
        said_turn = np.array([label.rotation for label in labels])
        said_size = np.array([label.size for label in labels])
        off = np.maximum.reduce(
            [
                np.abs(said_at - positions).max(axis=1),
                np.abs(said_turn - turns).max(axis=(1, 2)),
                np.abs(said_size - (high - low)).max(axis=1),
            ]
        )
        for row in np.flatnonzero(off > EXACT_M):
            self._wrong("cuboid", frame, f"the cuboid of {labels[row].name} is off by {off[row]}")
        corners = said_at[:, None] + (_SIGNS * said_size[:, None] / 2) @ np.swapaxes(
            said_turn, 1, 2
        )
        near = (corners - camera.pose[:3, 3]) @ camera.pose[:3, :3]
        ahead = (near[..., 2] > 0.05).all(axis=1)
        near[~ahead, :, 2] = 1
        at = near @ camera.intrinsics.T
        at = at[..., :2] / at[..., 2:]
        ends = np.concatenate([at.min(axis=1), at.max(axis=1)], axis=1)
        ends = np.clip(ends, 0, (camera.width, camera.height) * 2)
        boxes = np.array([label.box for label in labels]) + np.array([0.5, 0.5, -0.5, -0.5])
        full = np.array(
            [end if label.full_box is None else label.full_box
             for label, end in zip(labels, ends, strict=True)]
        )  # fmt: skip
        amiss = np.abs(full - ends).max(axis=1) > BOX_PX
        amiss |= (boxes[:, :2] < full[:, :2] - BOX_PX).any(axis=1)
        amiss |= (boxes[:, 2:] > full[:, 2:] + BOX_PX).any(axis=1)
        self.checked["projected cuboids"] += int(ahead.sum())
        for row in np.flatnonzero(amiss & ahead):
            self._wrong("projection", frame, f"{labels[row].name} reaches out of its cuboid's box")

    def _rays(self, simulated: mujoco.MjData, frame: Frame, rng: np.random.Generator) -> None:
        camera = frame.camera
        size = np.array([camera.width, camera.height])
        bordered = rng.permutation(len(frame.labels))[:BORDERED]
        at = np.concatenate(
            [
                (rng.random((RAYS, 2)) * size).astype(np.int64),
                _borders(
                    frame.instance,
                    np.array([frame.labels[i].box for i in bordered], np.int64).reshape(-1, 4),
                    np.array([frame.labels[i].thing for i in bordered], np.int64),
                ),
            ]
        )
        shown = frame.instance[at[:, 1], at[:, 0]].astype(np.int64)
        depth = frame.depth[at[:, 1], at[:, 0]].astype(float)
        met, met_depth, points = self._cast(simulated, frame, at)
        self.checked["rays"] += len(at)
        tolerance_m = SURFACE_M + SURFACE_PX / camera.intrinsics[0, 0] * met_depth
        with np.errstate(invalid="ignore"):
            near = np.abs(depth - met_depth) <= tolerance_m
        right = (met == shown) & (near | (np.isinf(depth) & np.isinf(met_depth)))
        self._points_in_cuboids(frame, met[right], points[right])
        doubtful = np.flatnonzero(~right)
        if not len(doubtful):
            return
        around = (at[doubtful, None] + _AROUND).reshape(-1, 2)
        self.checked["rays"] += len(around)
        each = self._each(simulated, frame, around)[0].reshape(-1, len(doubtful), len(_AROUND))
        for row, pixel in enumerate(doubtful):
            said = f"pixel {at[pixel].tolist()} shows thing {shown[pixel]} at {depth[pixel]:.3f} m"
            self._doubtful(simulated, frame, at[pixel], each[:, row], said)

    def _doubtful(
        self,
        simulated: mujoco.MjData,
        frame: Frame,
        at: np.ndarray,
        each: np.ndarray,
        said: str,
    ) -> None:
        """A pixel where its ray and the picture disagree, by how far `each` geom is around it."""
        shown, depth = int(frame.instance[at[1], at[0]]), float(frame.depth[at[1], at[0]])
        geoms = np.flatnonzero(np.isfinite(each).any(axis=1))
        met = np.where(np.isfinite(each[geoms]), each[geoms], np.nan)
        edge = np.isnan(met).any(axis=1)
        grid = met.reshape(-1, _STEPS, _STEPS)
        steep = 2 * np.maximum(
            *(np.abs(np.nan_to_num(np.diff(grid, axis=way))).max(axis=(1, 2)) for way in (1, 2))
        )
        slack = steep + SURFACE_M + SURFACE_PX / frame.camera.intrinsics[0, 0] * np.nanmin(met, 1)
        least, most = np.nanmin(met, axis=1) - slack, np.nanmax(met, axis=1) + slack
        hidden = most[~edge].min(initial=np.inf)
        if np.isinf(depth):
            if shown or np.isfinite(hidden):
                self._wrong("segmentation", frame, f"{said}, though {hidden:.3f} m away is an end")
            return
        mine = (self._number[geoms] == shown) & (least <= hidden)
        if not mine.any():
            self._wrong("segmentation", frame, f"{said}, which no ray meets near it")
            return
        near = mine & (least <= depth) & (depth <= most)
        if depth > hidden or not (
            near.any()
            or self._within(simulated, frame, at, geoms[mine & edge], (slack - steep)[mine].min())
        ):
            nearest, farthest = least[mine].min(), most[mine].max()
            self._wrong(
                "depth", frame, f"{said}, which rays meet at {nearest:.3f} to {farthest:.3f}"
            )

    def _within(
        self,
        simulated: mujoco.MjData,
        frame: Frame,
        at: np.ndarray,
        geoms: np.ndarray,
        tolerance_m: float,
    ) -> bool:
        """Whether the point that a pixel shows lies in one of these geoms."""
        model, camera = self.model, frame.camera
        across = (at + 0.5 - camera.intrinsics[:2, 2]) / camera.intrinsics[[0, 1], [0, 1]]
        ahead = camera.pose[:3, :3] @ np.array([*across, 1])
        point = camera.pose[:3, 3] + ahead * frame.depth[at[1], at[0]]
        for geom in geoms.tolist():
            local = (point - simulated.geom_xpos[geom]) @ simulated.geom_xmat[geom].reshape(3, 3)
            size, end = model.geom_size[geom], np.zeros(3)
            kind = model.geom_type[geom]
            if kind in (SPHERE, CAPSULE, CYLINDER):
                half = 0.0 if kind == SPHERE else size[1]
                end[2] = np.clip(local[2], -half, half)
                inside = np.linalg.norm(local - end) <= size[0] + tolerance_m
                inside &= kind != CYLINDER or abs(local[2] - end[2]) <= tolerance_m
            elif kind == ELLIPSOID:
                inside = np.linalg.norm(local / (size + tolerance_m)) <= 1
            elif kind == PLANE:
                inside = abs(local[2]) <= tolerance_m
            else:
                middle, reach = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
                inside = (np.abs(local - middle) <= reach + tolerance_m).all()
            if inside:
                return True
        return False

    def _cast(
        self, simulated: mujoco.MjData, frame: Frame, at: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What rays through the middles of pixels meet: the thing, the depth, the point."""
        each, eye, ahead = self._each(simulated, frame, at)
        geoms = each.argmin(axis=0)
        depth = each[geoms, np.arange(len(at))]
        nothing = np.isinf(depth)
        things_met = np.where(nothing, 0, self._number[geoms])
        return things_met, depth, eye + ahead * np.where(nothing, 0, depth)[:, None]

    def _each(
        self, simulated: mujoco.MjData, frame: Frame, at: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How deep each geom lies on rays through the middles of pixels; the eye, their ways."""
        camera = frame.camera
        across = (at + 0.5 - camera.intrinsics[:2, 2]) / camera.intrinsics[[0, 1], [0, 1]]
        ahead = np.concatenate([across, np.ones((len(at), 1))], axis=1) @ camera.pose[:3, :3].T
        model, eye = self.model, np.ascontiguousarray(camera.pose[:3, 3])
        seen = (model.geom_group < GROUPS) & (_alpha(model) > 0)
        each = _met(
            eye, ahead, seen, model.geom_type, model.geom_size, model.geom_rbound,
            simulated.geom_xpos, simulated.geom_xmat,
        )  # fmt: skip
        for geom in np.flatnonzero(seen & np.isin(model.geom_type, SURFACES)).tolist():
            for ray in _aimed(eye, ahead, simulated.geom_xpos[geom], model.geom_rbound[geom]):
                away = _surface(model, simulated, geom, eye, ahead[ray])
                if away >= 0:
                    each[geom, ray] = away
        each[each > FAR_M] = np.inf
        return each, eye, ahead

    def _points_in_cuboids(self, frame: Frame, met: np.ndarray, points: np.ndarray) -> None:
        labels = {label.thing: label for label in frame.labels}
        rows = [labels[thing] for thing in met.tolist() if thing in labels]
        points = points[np.isin(met, list(labels))]
        if not rows:
            return
        turns = np.array([label.rotation for label in rows])
        away = points - np.array([label.position for label in rows])
        local = np.abs((away[:, None] @ turns)[:, 0])
        outside = (local > np.array([label.size for label in rows]) / 2 + 1e-4).any(axis=1)
        self.checked["points in cuboids"] += len(rows)
        for row in np.flatnonzero(outside):
            self._wrong("cuboid", frame, f"a point of {rows[row].name} lies outside its cuboid")


PLANE, HFIELD, SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX, MESH, SDF = range(9)
"""MuJoCo's numbers of its shapes (`mjtGeom`)."""
SURFACES = (HFIELD, MESH, SDF)


def _alpha(model: mujoco.MjModel) -> np.ndarray:
    """How opaque each geom is; its own colour counts where it is not the default."""
    own = (model.geom_matid < 0) | (model.geom_rgba != (0.5, 0.5, 0.5, 1)).any(axis=1)
    if not model.nmat:
        return model.geom_rgba[:, 3]
    return np.where(own, model.geom_rgba[:, 3], model.mat_rgba[model.geom_matid, 3])


def _surface(
    model: mujoco.MjModel, simulated: mujoco.MjData, geom: int, eye: np.ndarray, ahead: np.ndarray
) -> float:
    if model.geom_type[geom] == HFIELD:
        return float(mujoco.mj_rayHfield(model, simulated, geom, eye, ahead, None))
    return float(mujoco.mj_rayMesh(model, simulated, geom, eye, ahead, None))


def _aimed(eye: np.ndarray, ahead: np.ndarray, middle: np.ndarray, bound: float) -> list[int]:
    """The rays that pass a ball."""
    off = middle - eye
    along = ahead @ off
    squared = off @ off - along**2 / (ahead**2).sum(axis=1)
    return np.flatnonzero(squared <= bound * bound).tolist()


@njit(cache=True)
def _met(eye, ahead, seen, kinds, sizes, bounds, xpos, xmat):  # type: ignore[no-untyped-def]
    """How far each ray first meets each geom that has a formula, in the ray's lengths."""
    each = np.full((len(kinds), len(ahead)), np.inf)
    start, way, off = np.empty(3), np.empty(3), np.empty(3)
    for g in range(len(kinds)):
        kind = kinds[g]
        if not seen[g] or kind == HFIELD or kind > BOX:
            continue
        turn = xmat[g]
        for axis in range(3):
            off[axis] = eye[axis] - xpos[g, axis]
        reach = (off**2).sum()
        for axis in range(3):
            start[axis] = turn[axis] * off[0] + turn[3 + axis] * off[1] + turn[6 + axis] * off[2]
        for ray in range(len(ahead)):
            d = ahead[ray]
            if kind != PLANE:
                along = off[0] * d[0] + off[1] * d[1] + off[2] * d[2]
                length = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
                if reach - along * along / length > 1.0001 * bounds[g] ** 2:
                    continue
            for axis in range(3):
                way[axis] = turn[axis] * d[0] + turn[3 + axis] * d[1] + turn[6 + axis] * d[2]
            each[g, ray] = _meeting(kind, sizes[g], start, way)
    return each


@njit(cache=True)
def _meeting(kind, size, start, way):  # type: ignore[no-untyped-def]
    """Where a ray in a geom's own axes first meets its surface, from before or from within."""
    best = np.inf
    if kind == PLANE:
        if way[2] < 0 and start[2] > 0:
            away = -start[2] / way[2]
            x, y = start[0] + away * way[0], start[1] + away * way[1]
            if (size[0] <= 0 or abs(x) <= size[0]) and (size[1] <= 0 or abs(y) <= size[1]):
                best = away
    elif kind == BOX:
        first, last = -np.inf, np.inf
        for axis in range(3):
            if way[axis] == 0:
                if abs(start[axis]) > size[axis]:
                    return np.inf
                continue
            one = (-size[axis] - start[axis]) / way[axis]
            other = (size[axis] - start[axis]) / way[axis]
            first, last = max(first, min(one, other)), min(last, max(one, other))
        if first <= last and last >= 0:
            best = first if first >= 0 else last
    elif kind == SPHERE:
        best = _ball(start, way, size[0], size[0], size[0], 0.0, 0.0)
    elif kind == ELLIPSOID:
        best = _ball(start, way, size[0], size[1], size[2], 0.0, 0.0)
    else:
        a = way[0] * way[0] + way[1] * way[1]
        b = way[0] * start[0] + way[1] * start[1]
        c = start[0] * start[0] + start[1] * start[1] - size[0] * size[0]
        if a > 0 and b * b >= a * c:
            for sign in (-1.0, 1.0):
                away = (-b + sign * np.sqrt(b * b - a * c)) / a
                if away >= 0 and abs(start[2] + away * way[2]) <= size[1]:
                    best = min(best, away)
        for end in (-1.0, 1.0):
            if kind == CAPSULE:
                ball = _ball(start, way, size[0], size[0], size[0], end * size[1], end)
                best = min(best, ball)
            elif way[2] != 0:
                away = (end * size[1] - start[2]) / way[2]
                x, y = start[0] + away * way[0], start[1] + away * way[1]
                if away >= 0 and x * x + y * y <= size[0] * size[0]:
                    best = min(best, away)
    return best


@njit(cache=True)
def _ball(start, way, x, y, z, up, side):  # type: ignore[no-untyped-def]
    """A ball of lengths x, y, z at height `up`; only what lies on its `side`, where not 0."""
    a = (way[0] / x) ** 2 + (way[1] / y) ** 2 + (way[2] / z) ** 2
    b = way[0] * start[0] / x**2 + way[1] * start[1] / y**2 + way[2] * (start[2] - up) / z**2
    c = (start[0] / x) ** 2 + (start[1] / y) ** 2 + ((start[2] - up) / z) ** 2 - 1
    if b * b < a * c:
        return np.inf
    for sign in (-1.0, 1.0):
        away = (-b + sign * np.sqrt(b * b - a * c)) / a
        if away >= 0 and (start[2] + away * way[2] - up) * side >= 0:
            return away
    return np.inf


@njit(cache=True)
def _tight(instance, boxes):  # type: ignore[no-untyped-def]
    """Which things have a pixel outside their box (the last: no label), and which a loose side."""
    outside = np.zeros(len(boxes), np.bool_)
    sides = np.zeros((len(boxes), 4), np.bool_)
    pixels = np.zeros(len(boxes), np.int64)
    for y in range(instance.shape[0]):
        for x in range(instance.shape[1]):
            thing = np.int64(instance[y, x])
            if thing == 0:
                continue
            if thing >= len(boxes) - 1 or boxes[thing, 4] == 0:
                outside[-1] = True
                continue
            left, top, right, bottom = boxes[thing, :4]
            pixels[thing] += 1
            if x < left or x >= right or y < top or y >= bottom:
                outside[thing] = True
            sides[thing, 0] |= x == left
            sides[thing, 1] |= y == top
            sides[thing, 2] |= x == right - 1
            sides[thing, 3] |= y == bottom - 1
    loose = np.zeros(len(boxes), np.bool_)
    for row in range(len(boxes)):
        if boxes[row, 4]:
            loose[row] = pixels[row] != boxes[row, 4] or not sides[row].all()
    return outside, loose


@njit(cache=True)
def _borders(instance, boxes, numbers):  # type: ignore[no-untyped-def]
    """On each side of each box a pixel of the thing, and the pixel beyond the side."""
    height, width = instance.shape
    out = np.empty((8 * len(boxes), 2), np.int64)
    many = 0
    for row in range(len(boxes)):
        left, top, right, bottom = boxes[row]
        for side in range(4):
            upright = side % 2 == 0
            line = (left, top, right - 1, bottom - 1)[side]
            beyond = line + (-1 if side < 2 else 1)
            for along in range(top if upright else left, bottom if upright else right):
                x, y = (line, along) if upright else (along, line)
                if x < 0 or y < 0 or x >= width or y >= height:
                    continue
                if instance[y, x] == numbers[row]:
                    out[many] = x, y
                    many += 1
                    if 0 <= beyond < (width if upright else height):
                        out[many, 0] = beyond if upright else along
                        out[many, 1] = along if upright else beyond
                        many += 1
                    break
    return out[:many]


def fingerprints(rgb: np.ndarray) -> tuple[str, str]:
    """Of a picture: exact, and of how its brightness changes over 8 x 8 fields."""
    height, width = rgb.shape[0] // 8 * 8, rgb.shape[1] // 9 * 9
    green = rgb[:height, :width, 1]
    fields = green.reshape(8, height // 8, 9, width // 9).mean(axis=(1, 3))
    rises = np.packbits(fields[:, 1:] > fields[:, :-1]).tobytes().hex()
    return hashlib.blake2b(rgb.data, digest_size=8).hexdigest(), rises


def coverage(
    parameters: dict[str, Range], drawn: Iterable[dict[str, float]]
) -> dict[str, dict[str, Any]]:
    """Of each parameter how often each tenth of its range was drawn, and the share that was."""
    drawn = list(drawn)
    told = {}
    for name, span in sorted(parameters.items()):
        values = np.array([each[name] for each in drawn if name in each], float)
        bins = BINS
        if span.whole:
            bins = int(min(BINS, span.high - span.low + 1))
        elif span.high == span.low:
            bins = 1
        reach = (span.high - span.low + (1 if span.whole else 0)) or 1.0
        places = np.clip(((values - span.low) / reach * bins).astype(int), 0, bins - 1)
        histogram = np.bincount(places, minlength=bins)
        told[name] = {
            "low": span.low,
            "high": span.high,
            "unit": span.unit,
            "histogram": histogram.tolist(),
            "bins_hit": float((histogram > 0).mean()),
        }
    return told


def duplicates(prints: Iterable[tuple[str, str]]) -> dict[str, int]:
    """How many pictures repeat an earlier one: to the bit, and to the eye."""
    exact, alike = zip(*prints, strict=True)
    return {
        "exact": len(exact) - len(set(exact)),
        "alike": len(alike) - len(set(alike)),
    }
