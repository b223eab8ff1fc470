"""The floor plan of a world of one's own: where a robot can drive, and what stands in its way.

The floor is the lowest level surface that holds a robot up and leaves it room. What reaches into
the band above it that a robot moves in (`BAND_M`), drawn or solid, is an obstacle and becomes
rectangles: what is convex the smallest one around its part in the band, what is not (a building in
one mesh, a height field) those of the cells of `RASTER_M` that its surface touches. Where there is
no floor is an obstacle, too. So a plan may show more than there is, never less.

Lengths m. A plan's origin is the middle of its floor, its axes are the file's; a rectangle is
x, y, half length, half width, yaw.
"""

import math
from dataclasses import dataclass

import mujoco
import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from gigafactory.jobs.worlds.navigate import CELL_M, clear
from gigafactory.jobs.worlds.scene import WorldRefused

BAND_M = (0.02, 0.4)
"""Above the floor: wheels roll over what is lower, the robot passes below what is higher."""
RASTER_M = CELL_M / 2
LEVEL = 0.99  # cosine: 8 degrees from level is no floor
STEP_M = 0.02  # by which one floor may be uneven
FLOOR_M2, HEIGHTS_MOST = 4.0, 24  # of a level surface that may be the floor, and how many are tried
EDGE_M = 1.3  # beyond what stands on a floor without end: a way round it, and little more
CELLS_MOST, BLOCKS_MOST = 250_000, 2_000
LONGEST_M = 10.0  # half a rectangle: what is far is told by its middle
SIDES = 24  # of a round shape; its polygon lies around it
CONVEX_MOST = 2_000  # vertices of a mesh that is asked whether it is convex
ENDLESS_M = 1_000.0
Geom = mujoco.mjtGeom
MESHES = (int(Geom.mjGEOM_MESH), int(Geom.mjGEOM_SDF))
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FloorPlan:
    """A floor, and what stands on it for good; `loose` geoms are those of free bodies."""

    middle: tuple[float, float, float]
    half: tuple[float, float]
    blocks: Floats
    room: NDArray[np.float32]
    """From each cell's middle to what stands for good, m; -1 outside."""
    loose: tuple[int, ...]


def read(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    reach: float,
    where: str,
    shift: float = 0.0,
    turn: float = 0.0,
) -> FloorPlan:
    """The plan of a world as it stands, for a robot whose corners are `reach` from its middle.

    A floor must leave it room wherever free bodies stand, moved by `shift` and `turn` at most.
    """
    down = model.opt.gravity
    if down[2] >= 0 or np.abs(down[:2]).max() > 0.1 * -down[2]:
        raise WorldRefused(
            "nothing stands on a floor in this world", where,
            f"gravity is {down[0]:g} {down[1]:g} {down[2]:g}; a floor is level where it is -z",
            "export it with z up, and gravity downward",
        )  # fmt: skip
    solid = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
    drawn = (model.geom_group <= 2) & (_alpha(model) > 0)
    free = np.array([_floats(model, body) for body in model.geom_bodyid], bool)
    shapes = {int(g): surface(model, data, int(g)) for g in np.flatnonzero(solid | drawn)}
    for_good = {geom: shape for geom, shape in shapes.items() if not free[geom]}
    loose = tuple(geom for geom in shapes if free[geom])
    floors = _levels([shape for geom, shape in for_good.items() if solid[geom]])
    why, widest = "it has no level surface that is solid", 0.0
    drawn_only = [
        (repr(_name(model, geom)), area)
        for geom, shape in for_good.items() if not solid[geom] for _, area in _levels([shape])
    ]  # fmt: skip
    if drawn_only:
        names = ", ".join(list(dict.fromkeys(name for name, _ in drawn_only))[:3])
        why += f" and as wide as its floor; only drawn, so that a robot falls through: {names}"
        widest = max(area for _, area in drawn_only)
    for z, area in floors[:HEIGHTS_MOST]:
        plan = _plan(model, for_good, shapes, loose, solid, z, where)
        if plan is None:
            continue
        room = plan.room.copy()
        clear(rectangles(model, data, plan, shift, turn), np.array(plan.half), room)
        places = errands(drivable(np.minimum(room, plan.room), reach), reach)
        if len(places) and np.ptp(places, axis=0).max() >= 2.0:
            return plan
        if area >= widest:
            wide = 2 * (reach + 0.05)
            why = f"on its floor at z = {z:.3g} m no two places lie 2 m apart and are joined by a"
            why, widest = f"{why} way {wide:.2f} m wide", area
    raise WorldRefused(
        "there is no free floor for a robot", where, why,
        "give the floor a collider, level and without steps, move things apart, or narrow"
        " the `ranges` of robot_length",
    )  # fmt: skip


def rectangles(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    plan: FloorPlan,
    shift: float = 0.0,
    turn: float = 0.0,
) -> Floats:
    """A rectangle for each loose geom where it stands in `data`; those out of the way are far.

    It is as much larger as its body may be moved.
    """
    found = np.tile([1e3, 1e3, 0.01, 0.01, 0.0], (len(plan.loose), 1))
    for row, geom in enumerate(plan.loose):
        points = _in_band(surface(model, data, geom), plan.middle[2])
        if len(points):
            found[row] = rectangle(points)
            at = data.xpos[model.body_rootid[model.geom_bodyid[geom]], :2]
            far = np.linalg.norm(found[row, :2] - at) + np.linalg.norm(found[row, 2:4])
            found[row, 2:4] += math.sqrt(2) * shift + turn * far
            found[row, :2] -= plan.middle[:2]
    return found


def drivable(room: NDArray[np.float32], reach: float) -> NDArray[np.float32]:
    """`room` without what the robot cannot come out of: one floor, and no neck too narrow.

    Kept beside the floor's largest part are cells from which straight away from the obstacle it is
    no farther to that part than the room that they lack: from a neck it is.
    """
    need = reach + 0.05
    parts, count = ndimage.label(room >= need, np.ones((3, 3)))
    if not count:
        return np.full_like(room, -1.0)
    places = ndimage.sum_labels(room > reach + 0.25, parts, np.arange(1, count + 1))
    away = ndimage.distance_transform_edt(parts != 1 + np.argmax(places)) * CELL_M
    kept = (room > 1e-3) & (away <= np.maximum(need - room, 0) + CELL_M)
    return np.where(kept & ((room < need) | (away == 0)), room, np.float32(-1.0))


def errands(room: NDArray[np.float32], reach: float) -> Floats:
    """Middles of the cells where a way may begin or end, m from the plan's corner."""
    return (np.argwhere(room > reach + 0.25).astype(np.float64) + 0.5) * CELL_M


# Shapes.


def surface(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> Floats:
    """Triangles (n, 3, 3) of a geom, where it stands; a round one lies within them.

    Their corners turn left seen from outside; a mesh's may turn either way, and so look upward.
    """
    size, kind = model.geom_size[geom], int(model.geom_type[geom])
    match kind:
        case _ if kind in MESHES:
            mesh = model.geom_dataid[geom]
            vertex, face = model.mesh_vertadr[mesh], model.mesh_faceadr[mesh]
            points = model.mesh_vert[vertex : vertex + model.mesh_vertnum[mesh]].astype(float)
            corners = points[model.mesh_face[face : face + model.mesh_facenum[mesh]]]
        case Geom.mjGEOM_HFIELD:
            corners = _field(model, int(model.geom_dataid[geom]))
        case Geom.mjGEOM_PLANE:
            x = ENDLESS_M
            corners = np.array([[[-x, -x, 0], [x, -x, 0], [x, x, 0]],
                                [[-x, -x, 0], [x, x, 0], [-x, x, 0]]], float)  # fmt: skip
        case _:
            points = _round(kind, size)
            hull = ConvexHull(points)
            corners = points[hull.simplices]
            inward = np.einsum("nk,nk->n", _normals(corners), hull.equations[:, :3]) < 0
            corners[inward] = corners[inward, ::-1]
    placed = corners @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
    if kind in MESHES:
        down = _normals(placed)[:, 2] < 0
        placed[down] = placed[down, ::-1]
    return placed


def _round(kind: int, size: Floats) -> Floats:
    """Corners of a primitive."""
    if kind == Geom.mjGEOM_BOX:
        return np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * size
    # Points on a circle, or a ball, so far out that what they span holds it.
    turn = 2 * np.pi * np.arange(SIDES) / SIDES
    out = 1 / math.cos(np.pi / SIDES)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    if kind == Geom.mjGEOM_CYLINDER:
        ends = [np.full(SIDES, side * size[1]) for side in (-1, 1)]
        return np.concatenate([np.column_stack([out * size[0] * circle, end]) for end in ends])
    tilts = np.pi * np.arange(-(SIDES // 4), SIDES // 4 + 1) / (SIDES // 2)
    rings = [np.column_stack([circle * math.cos(t), np.full(SIDES, math.sin(t))]) for t in tilts]
    ball = out**2 * np.concatenate(rings)
    if kind == Geom.mjGEOM_CAPSULE:
        return np.concatenate([size[0] * ball + [0, 0, z * size[1]] for z in (-1, 1)])
    return ball * (size if kind == Geom.mjGEOM_ELLIPSOID else size[0])


def _field(model: mujoco.MjModel, field: int) -> Floats:
    """The top of a height field."""
    rows, columns = int(model.hfield_nrow[field]), int(model.hfield_ncol[field])
    x, y, tall, _ = model.hfield_size[field]
    first = model.hfield_adr[field]
    points = np.empty((rows, columns, 3))
    points[..., 0] = np.linspace(-x, x, columns)
    points[..., 1] = np.linspace(-y, y, rows)[:, None]
    heights = model.hfield_data[first : first + rows * columns].reshape(rows, columns)
    points[..., 2] = tall * heights
    a, b, c, d = points[:-1, :-1], points[:-1, 1:], points[1:, 1:], points[1:, :-1]
    return np.concatenate(
        [np.stack(three, 2).reshape(-1, 3, 3) for three in ((a, b, c), (a, c, d))]
    )


def _convex(model: mujoco.MjModel, geom: int, corners: Floats) -> bool:
    """Whether no corner lies before any of the faces' planes."""
    kind = int(model.geom_type[geom])
    if kind not in MESHES:
        return kind != Geom.mjGEOM_HFIELD
    points = np.unique(corners.reshape(-1, 3).round(6), axis=0)
    if len(points) > CONVEX_MOST:
        return False
    normal = _normals(corners)
    far = np.einsum("fk,fpk->fp", normal, points[None] - corners[:, :1])
    return bool(np.minimum(far.max(1), -far.min(1)).max() < 1e-3)


def _normals(corners: Floats) -> Floats:
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)


def _in_band(corners: Floats, z: float) -> Floats:
    """Points (n, 2) that span the part of triangles in the band above the floor `z`."""
    low, high = z + BAND_M[0], z + BAND_M[1]
    if corners[..., 2].max() < low or corners[..., 2].min() > high:
        return np.zeros((0, 2))
    found = [corners.reshape(-1, 3)]
    a, b = corners.reshape(-1, 3), np.roll(corners, -1, axis=1).reshape(-1, 3)
    for level in (low, high):
        crosses = (a[:, 2] - level) * (b[:, 2] - level) < 0
        one, two = a[crosses], b[crosses]
        part = (level - one[:, 2]) / (two[:, 2] - one[:, 2])
        point = one + part[:, None] * (two - one)
        point[:, 2] = level
        found.append(point)
    points = np.concatenate(found)
    return points[(points[:, 2] >= low) & (points[:, 2] <= high), :2]


def rectangle(points: Floats) -> Floats:
    """The smallest rectangle around points (n, 2): one of its sides is a side of their hull."""
    hull = _hull(points)
    side = np.roll(hull, -1, axis=0) - hull
    yaws = np.arctan2(side[:, 1], side[:, 0]) % (np.pi / 2)
    ahead = np.stack([np.cos(yaws), np.sin(yaws)], 1)
    aside = np.stack([-ahead[:, 1], ahead[:, 0]], 1)
    along, across = hull @ ahead.T, hull @ aside.T
    long, wide = np.ptp(along, axis=0), np.ptp(across, axis=0)
    k = int(np.argmin((long + 1e-3) * (wide + 1e-3)))
    x, y = (along[:, k].min() + long[k] / 2), (across[:, k].min() + wide[k] / 2)
    middle = x * ahead[k] + y * aside[k]
    return np.array([*middle, max(long[k] / 2, 0.01), max(wide[k] / 2, 0.01), yaws[k]])


def _hull(points: Floats) -> Floats:
    """Corners of the convex hull, in order (Andrew's chain); of points in a line its ends."""
    some = sorted(set(map(tuple, points.round(6).tolist())))

    def half(way: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
        chain: list[tuple[float, ...]] = []
        for x, y in way:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                chain.pop()
            chain.append((x, y))
        return chain[:-1]

    return np.array(half(some) + half(some[::-1]) or some)


# The plan.


def _alpha(model: mujoco.MjModel) -> Floats:
    material = model.geom_matid
    own = model.geom_rgba[:, 3].astype(float)
    if model.nmat:
        return np.where(material >= 0, model.mat_rgba[material, 3], own)
    return own


def _floats(model: mujoco.MjModel, body: int) -> bool:
    """Whether the body hangs on a free joint."""
    root = model.body_rootid[body]
    first = model.body_jntadr[root]
    return bool(first >= 0 and model.jnt_type[first] == mujoco.mjtJoint.mjJNT_FREE)


def _name(model: mujoco.MjModel, geom: int) -> str:
    """What the user calls it, or its body."""
    body = model.body(model.geom_bodyid[geom]).name
    return str(model.geom(geom).name or body or f"geom {geom}")


def _levels(shapes: list[Floats]) -> list[tuple[float, float]]:
    """Heights of level surfaces that may be a floor, the lowest first, and their areas, m2."""
    area: dict[int, float] = {}
    height: dict[int, float] = {}
    for corners in shapes:
        across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        twice = np.linalg.norm(across, axis=1)
        level = across[:, 2] > LEVEL * np.maximum(twice, 1e-12)
        for z, m2 in zip(corners[level].mean(1)[:, 2].tolist(), twice[level] / 2, strict=True):
            near = round(z / STEP_M)
            area[near] = area.get(near, 0.0) + float(m2)
            height.setdefault(near, z)
    return sorted((height[near], m2) for near, m2 in area.items() if m2 >= FLOOR_M2)


def _plan(
    model: mujoco.MjModel, for_good: dict[int, Floats], shapes: dict[int, Floats],
    loose: tuple[int, ...], solid: NDArray[np.bool_], z: float, where: str,
) -> FloorPlan | None:  # fmt: skip
    """The plan of the floor at `z`; None where nothing stands, or all does."""
    endless = model.geom_type == Geom.mjGEOM_PLANE
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    floor_low, floor_high = low.copy(), high.copy()
    for geom, corners in shapes.items():
        points = corners.reshape(-1, 3)
        if not endless[geom] and points[:, 2].max() > z + BAND_M[0] and points[:, 2].min() < z + 3:
            low, high = np.minimum(low, points.min(0)[:2]), np.maximum(high, points.max(0)[:2])
    grounds = {geom: _ground(corners, z) for geom, corners in for_good.items() if solid[geom]}
    for ground in grounds.values():
        flat = ground.reshape(-1, 3)[:, :2]
        floor_low = np.minimum(floor_low, flat.min(0, initial=np.inf))
        floor_high = np.maximum(floor_high, flat.max(0, initial=-np.inf))
    size = floor_high - floor_low
    if any(endless[g] and len(ground) for g, ground in grounds.items()) or (
        np.prod(size) > CELLS_MOST * CELL_M**2
    ):
        floor_low = np.maximum(floor_low, low - EDGE_M)
        floor_high = np.minimum(floor_high, high + EDGE_M)
        size = floor_high - floor_low
    if not (size > 2 * CELL_M).all() or not np.isfinite(size).all():
        return None
    if np.prod(size) > CELLS_MOST * CELL_M**2:
        raise WorldRefused(
            "the floor is too large for a robot's plan", where,
            f"{size[0]:,.0f} m x {size[1]:,.0f} m; a plan has {CELLS_MOST:,} cells of {CELL_M:g} m",
            "leave in the file only the part in which the robot is to drive",
        )  # fmt: skip
    middle, half = (floor_low + floor_high) / 2, size / 2
    cells = np.ceil(size / RASTER_M).astype(int)
    floor, taken = np.zeros(cells, np.bool_), np.zeros(cells, np.bool_)
    convex = []
    for geom, corners in for_good.items():
        if solid[geom]:
            mark(grounds[geom], z - STEP_M, z + STEP_M, floor_low, RASTER_M / 2, floor)
        points = _in_band(corners, z)
        if len(points) and _convex(model, geom, corners):
            convex.append(rectangle(points))
        elif len(points):
            mark(corners, z + BAND_M[0], z + BAND_M[1], floor_low, 0.0, taken)
    blocks = np.concatenate([np.reshape(convex, (-1, 5)), merged(taken | ~floor, floor_low)])
    blocks[:, :2] -= middle
    blocks = _near(_pieces(blocks), half)
    if len(blocks) + len(loose) > BLOCKS_MOST:
        raise WorldRefused(
            "there is too much in a robot's way", where,
            f"{len(blocks) + len(loose):,} rectangles on the floor at z = {z:.3g} m;"
            f" a plan holds {BLOCKS_MOST:,}",
            "leave out what is small, or give things simpler shapes than meshes",
        )  # fmt: skip
    room = np.zeros(tuple(int(2 * side / CELL_M) + 2 for side in half), np.float32)
    clear(blocks, half, room)
    return FloorPlan((*middle.tolist(), z), tuple(half.tolist()), blocks, room, loose)


def _ground(corners: Floats, z: float) -> Floats:
    """The triangles that are floor at `z`."""
    level = _normals(corners)[:, 2] > LEVEL
    return corners[level & (np.abs(corners[..., 2] - z).max(1) <= STEP_M)]


def _pieces(blocks: Floats) -> Floats:
    """Rectangles no longer than `LONGEST_M` from their middles."""
    found = []
    for x, y, hx, hy, yaw in blocks:
        n, m = (max(1, math.ceil(side / LONGEST_M)) for side in (hx, hy))
        c, s = math.cos(yaw), math.sin(yaw)
        for i in range(n):
            for j in range(m):
                u, v = ((2 * i + 1) / n - 1) * hx, ((2 * j + 1) / m - 1) * hy
                found.append((x + c * u - s * v, y + s * u + c * v, hx / n, hy / m, yaw))
    return np.reshape(found, (-1, 5))


def _near(blocks: Floats, half: Floats) -> Floats:
    """Those that reach into the floor."""
    around = np.hypot(blocks[:, 2], blocks[:, 3])[:, None]
    return blocks[(np.abs(blocks[:, :2]) < half + around).all(1)]


def merged(taken: NDArray[np.bool_], corner: Floats) -> Floats:
    """Rectangles over the cells that are taken: runs of a row, as many alike rows as follow."""
    runs = np.zeros((int(taken.sum()), 4), np.int64)
    i, j, k, m = runs[: _runs(taken.copy(), runs)].T  # from row i to j, from column k to m
    x, y = corner[0] + (i + j) / 2 * RASTER_M, corner[1] + (k + m) / 2 * RASTER_M
    return np.column_stack([x, y, (j - i) / 2 * RASTER_M, (m - k) / 2 * RASTER_M, np.zeros(len(x))])


@njit(cache=True)
def _runs(taken: NDArray[np.bool_], runs: NDArray[np.int64]) -> int:
    count = 0
    for i in range(taken.shape[0]):
        for k in range(taken.shape[1]):
            if not taken[i, k]:
                continue
            m = k
            while m < taken.shape[1] and taken[i, m]:
                m += 1
            j = i
            while j < taken.shape[0] and taken[j, k:m].all():
                taken[j, k:m] = False
                j += 1
            runs[count] = i, j, k, m
            count += 1
    return count


@njit(cache=True)
def cut(points: Floats, count: int, axis: int, limit: float, side: float, out: Floats) -> int:
    """The part of a convex polygon on one side of a plane across an axis (Sutherland, Hodgman)."""
    kept = 0
    for k in range(count):
        a, b = points[k], points[(k + 1) % count]
        da, db = side * (a[axis] - limit), side * (b[axis] - limit)
        if da >= 0:
            out[kept] = a
            kept += 1
        if (da > 0 and db < 0) or (da < 0 and db > 0):
            out[kept] = a + da / (da - db) * (b - a)
            kept += 1
    return kept


@njit(cache=True)
def mark(
    corners: Floats, low: float, high: float, corner: Floats, inset: float,
    grid: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Mark the cells whose square, less `inset` on each side, meets a triangle between two heights.

    An inset of 0 marks all that is touched, one of half a cell those whose middle is covered.
    """
    one, two, strip = np.empty((16, 3)), np.empty((16, 3)), np.empty((16, 3))
    slack = 1e-9
    for triangle in corners:
        n = cut(triangle, 3, 2, low - slack, 1.0, one)
        n = cut(one, n, 2, high + slack, -1.0, two)
        if n == 0:
            continue
        least, most = two[:n, 0].min() - corner[0], two[:n, 0].max() - corner[0]
        first = max(math.ceil((least + inset - slack) / RASTER_M - 1), 0)
        last = min(math.floor((most - inset + slack) / RASTER_M), grid.shape[0] - 1)
        for i in range(first, last + 1):
            x = corner[0] + i * RASTER_M
            m = cut(two, n, 0, x + inset - slack, 1.0, one)
            m = cut(one, m, 0, x + RASTER_M - inset + slack, -1.0, strip)
            if m == 0:
                continue
            least, most = strip[:m, 1].min() - corner[1], strip[:m, 1].max() - corner[1]
            k = max(math.ceil((least + inset - slack) / RASTER_M - 1), 0)
            end = min(math.floor((most - inset + slack) / RASTER_M), grid.shape[1] - 1)
            while k <= end:
                grid[i, k] = True
                k += 1
