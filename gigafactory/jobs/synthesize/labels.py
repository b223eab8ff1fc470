"""The labels of a picture: boxes, cuboids and how much of each thing is seen.

A thing is what `worlds.scene.things` calls one, with the geoms that are drawn; what has no end
(a plane) belongs to the background. A cuboid has the axes of the thing's body and just holds the
boxes of its geoms, as MuJoCo compiled them. Metres, pixels.
"""

import mujoco
import numpy as np
from numba import njit

from gigafactory.jobs.synthesize.frame import Label
from gigafactory.jobs.synthesize.render import (
    CAPSULE,
    CYLINDER,
    ELLIPSOID,
    GROUPS_DRAWN,
    NEAR_M,
    SPHERE,
    Picture,
)
from gigafactory.jobs.worlds.scene import Thing, things

ROUND_POINTS = 24
"""On each circle by which the outline of a round thing is drawn."""


class Labeller:
    """Labels pictures of one model; `numbers` is the thing of each geom, 0 for none."""

    def __init__(self, model: mujoco.MjModel):
        self.model = model
        endless = model.geom_rbound <= 0
        self.things: list[Thing] = [
            thing for thing in things(model) if not endless[list(thing.geoms)].any()
        ]
        self.numbers = np.zeros(model.ngeom, np.int32)
        for thing in self.things:
            self.numbers[list(thing.geoms)] = thing.number
        most = max((thing.number for thing in self.things), default=0)
        assert most < 1 << 16, "an instance image has 16 bits"
        self._of = {thing.number: thing for thing in self.things}
        geoms = [self._of[n].geoms if n in self._of else () for n in range(most + 1)]
        self._starts = np.cumsum([0, *map(len, geoms)]).astype(np.int32)
        self._geoms = np.array([g for each in geoms for g in each], np.int32)
        self._bodies = np.array([self._of[n].body if n in self._of else 0 for n in range(most + 1)])

    def label(self, simulated: mujoco.MjData, picture: Picture) -> tuple[Label, ...]:
        """A label for every thing that has a pixel, by number."""
        model, camera = self.model, picture.camera
        pixels, boxes = _seen(picture.instance, len(self._bodies))
        seen = np.flatnonzero(pixels[1:]) + 1
        low, high, whole, full = _cuboids(
            seen,
            self._starts,
            self._geoms,
            self._bodies,
            model.geom_type,
            model.geom_size,
            model.geom_aabb,
            model.geom_group,
            simulated.geom_xpos,
            simulated.geom_xmat,
            simulated.xpos,
            simulated.xmat,
            camera.intrinsics,
            camera.pose,
            np.zeros((camera.height, camera.width), np.uint16),
        )
        labels = []
        for row, number in enumerate(seen.tolist()):
            thing = self._of[number]
            rotation = simulated.xmat[thing.body].reshape(3, 3).copy()
            labels.append(
                Label(
                    thing=number,
                    name=thing.name,
                    class_=thing.class_,
                    box=tuple(boxes[number].tolist()),
                    pixels=int(pixels[number]),
                    full_box=tuple(full[row].tolist()),
                    visible=min(1.0, float(pixels[number] / max(whole[row], 1))),
                    position=simulated.xpos[thing.body] + rotation @ ((low[row] + high[row]) / 2),
                    rotation=rotation,
                    size=high[row] - low[row],
                )
            )
        return tuple(labels)


@njit(cache=True)
def _seen(instance, many):  # type: ignore[no-untyped-def]
    """Pixels of each thing and the box around them."""
    height, width = instance.shape
    pixels = np.zeros(many, np.int64)
    boxes = np.zeros((many, 4), np.int64)
    boxes[:, 0], boxes[:, 1] = width, height
    for y in range(height):
        x = 0
        while x < width:
            thing, start = instance[y, x], x
            while x < width and instance[y, x] == thing:
                x += 1
            if thing:
                pixels[thing] += x - start
                box = boxes[thing]
                box[0], box[1] = min(box[0], start), min(box[1], y)
                box[2], box[3] = max(box[2], x), max(box[3], y + 1)
    return pixels, boxes


@njit(cache=True)
def _cuboids(  # type: ignore[no-untyped-def]
    seen, starts, geoms, bodies, kinds, sizes, aabb, group, geom_xpos, geom_xmat, xpos, xmat,
    intrinsics, pose, stamp,
):  # fmt: skip
    """Ends of each cuboid along its body's axes, pixels of the whole thing, its cuboid's box."""
    low, high = np.full((len(seen), 3), np.inf), np.full((len(seen), 3), -np.inf)
    whole, full = np.zeros(len(seen), np.int64), np.zeros((len(seen), 4))
    corner, point = np.empty(3), np.empty(3)
    corners = np.empty((8, 3))
    outline = np.empty((2 * ROUND_POINTS, 3))
    for row in range(len(seen)):
        thing = seen[row]
        turn, middle = xmat[bodies[thing]], xpos[bodies[thing]]
        for g in geoms[starts[thing] : starts[thing + 1]]:
            if group[g] >= GROUPS_DRAWN:
                continue
            for c in range(8):
                for axis in range(3):
                    side = 1 if c >> axis & 1 else -1
                    corner[axis] = aabb[g, axis] + side * aabb[g, 3 + axis]
                for axis in range(3):
                    point[axis] = geom_xpos[g, axis]
                    for other in range(3):
                        point[axis] += geom_xmat[g, 3 * axis + other] * corner[other]
                corners[c] = point
                for axis in range(3):
                    along = 0.0
                    for other in range(3):
                        along += turn[3 * other + axis] * (point[other] - middle[other])
                    low[row, axis] = min(low[row, axis], along)
                    high[row, axis] = max(high[row, axis], along)
            kind = kinds[g]
            if kind >= SPHERE and kind <= CYLINDER:
                many = _outline(kind, sizes[g], geom_xpos[g], geom_xmat[g], pose[:, 3], outline)
                shown = outline[:many]
            else:
                shown = corners
            whole[row] += _stamp(_projected(shown, intrinsics, pose), stamp, thing)
        for c in range(8):
            for axis in range(3):
                corner[axis] = high[row, axis] if c >> axis & 1 else low[row, axis]
            for axis in range(3):
                corners[c, axis] = middle[axis]
                for other in range(3):
                    corners[c, axis] += turn[3 * axis + other] * corner[other]
        points = _projected(corners, intrinsics, pose)
        full[row, 0] = min(max(points[:, 0].min(), 0.0), stamp.shape[1])
        full[row, 1] = min(max(points[:, 1].min(), 0.0), stamp.shape[0])
        full[row, 2] = min(max(points[:, 0].max(), 0.0), stamp.shape[1])
        full[row, 3] = min(max(points[:, 1].max(), 0.0), stamp.shape[0])
    return low, high, whole, full


@njit(cache=True)
def _outline(kind, size, middle, turn, eye, out):  # type: ignore[no-untyped-def]
    """Points whose hull looks like the round geom: the circle where sight touches a ball.

    An ellipsoid is a ball in axes of its own lengths, a capsule's hull is that of two balls, a
    cylinder's that of its two rims.
    """
    many = 0
    scale = np.empty(3)
    scale[:] = size[0]
    if kind == ELLIPSOID:
        scale[:] = size
    local = np.empty(3)
    for end in (1.0, -1.0):
        shift = 0.0
        if kind in (CAPSULE, CYLINDER):
            shift = end * size[1]
        elif end < 0:
            break
        first, second, centre = np.zeros(3), np.zeros(3), np.zeros(3)
        radius = 1.0
        if kind == CYLINDER:
            first[0], second[1] = 1, 1
        else:
            for axis in range(3):
                local[axis] = 0
                for other in range(3):
                    local[axis] += turn[3 * other + axis] * (eye[other] - middle[other])
            local[2] -= shift
            local /= scale
            away = max(np.sqrt((local**2).sum()), 1 + 1e-6)
            local /= np.sqrt((local**2).sum())
            centre[:] = local / away
            radius = np.sqrt(1 - 1 / away**2)
            first[np.argmin(np.abs(local))] = 1
            first -= local * (first * local).sum()
            first /= np.sqrt((first**2).sum())
            second[0] = local[1] * first[2] - local[2] * first[1]
            second[1] = local[2] * first[0] - local[0] * first[2]
            second[2] = local[0] * first[1] - local[1] * first[0]
        for step in range(ROUND_POINTS):
            angle = 2 * np.pi * step / ROUND_POINTS
            across, up = radius * np.cos(angle), radius * np.sin(angle)
            for axis in range(3):
                local[axis] = scale[axis] * (
                    centre[axis] + across * first[axis] + up * second[axis]
                )
            local[2] += shift
            for axis in range(3):
                out[many, axis] = middle[axis]
                for other in range(3):
                    out[many, axis] += turn[3 * axis + other] * local[other]
            many += 1
    return many


@njit(cache=True)
def _projected(points, intrinsics, pose):  # type: ignore[no-untyped-def]
    """Where a convex body's corners are seen, px; cut off at the plane just before the eye."""
    many = len(points)
    near = np.empty((many, 3))
    for p in range(many):
        for axis in range(3):
            near[p, axis] = 0
            for other in range(3):
                near[p, axis] += pose[other, axis] * (points[p, other] - pose[other, 3])
    front = 0
    for p in range(many):
        front += near[p, 2] > NEAR_M
    out = np.empty((max(front + front * (many - front), 1), 2))
    out[0] = -1e9
    row = 0
    for p in range(many):
        if near[p, 2] <= NEAR_M:
            continue
        for q in range(-1, many):
            x, y, z = near[p]
            if q >= 0:
                if near[q, 2] > NEAR_M:
                    continue
                share = (z - NEAR_M) / (z - near[q, 2])
                x += share * (near[q, 0] - x)
                y += share * (near[q, 1] - y)
                z = NEAR_M
            out[row, 0] = intrinsics[0, 0] * x / z + intrinsics[0, 2]
            out[row, 1] = intrinsics[1, 1] * y / z + intrinsics[1, 2]
            row += 1
    return out


@njit(cache=True)
def _stamp(points, stamp, thing):  # type: ignore[no-untyped-def]
    """Mark the pixels in the hull of `points`; how many were not yet marked by the same thing."""
    many = len(points)
    order = np.argsort(points[:, 0])
    hull = np.empty((2 * many + 1, 2))
    length = 0
    for way in range(2):
        begin = length
        for step in range(many):
            x, y = points[order[step if way == 0 else many - 1 - step]]
            while length - begin >= 2 and (hull[length - 1, 0] - hull[length - 2, 0]) * (
                y - hull[length - 2, 1]
            ) <= (hull[length - 1, 1] - hull[length - 2, 1]) * (x - hull[length - 2, 0]):
                length -= 1
            hull[length, 0], hull[length, 1] = x, y
            length += 1
        if way == 0:
            length -= 1
    height, width = stamp.shape
    top = min(max(points[:, 1].min(), 0.0), float(height))
    bottom = min(max(points[:, 1].max(), 0.0), float(height))
    fresh = 0
    for y in range(int(np.ceil(top - 0.5)), int(np.ceil(bottom - 0.5))):
        left, right = np.inf, -np.inf
        for a in range(length - 1):
            y0, y1 = hull[a, 1], hull[a + 1, 1]
            if (y0 <= y + 0.5) != (y1 <= y + 0.5):
                x = hull[a, 0] + (y + 0.5 - y0) / (y1 - y0) * (hull[a + 1, 0] - hull[a, 0])
                left, right = min(left, x), max(right, x)
        if left > right:
            continue
        left, right = min(max(left, 0.0), float(width)), min(max(right, 0.0), float(width))
        for x in range(int(np.ceil(left - 0.5)), int(np.ceil(right - 0.5))):
            if stamp[y, x] != thing:
                stamp[y, x] = thing
                fresh += 1
    return fresh
