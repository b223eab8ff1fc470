"""Colour, depth and whose pixel it is, from one pass over the geometry.

MuJoCo's own renderer draws each geom alone, and everything again for the segmentation. Here all
geoms of a shape are one instanced draw into three targets at once, so that a frame costs what its
pixels cost. Every pixel is sampled at its middle and blended with nothing: colour, depth and
number tell of the same point. What MuJoCo's renderer has and this has not: shadows, reflections,
gloss, glass (what is not wholly transparent is opaque), tendons, sites.

Drawn through EGL: by the GPU where there is one, else by Mesa's llvmpipe, in the thread that asks
(workers are processes, one a core). Metres, pixels; geoms of groups 0 to 2 are drawn.
"""

import atexit
import math
import os
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

import mujoco
import numpy as np
from numba import njit

from gigafactory.jobs.synthesize.frame import Camera
from gigafactory.jobs.worlds.scene import WorldRefused

NEAR_M = 0.01
FAR_M = 1000.0
"""Beyond it is nothing."""
SLICES = (128, 96, 64, 48, 32, 24, 16, 12, 8)
"""Of round things: the fewest that look round to within `FACET_PX`."""
FACET_PX = 0.05
"""By which an outline of facets may lie inside the true one: it shows what that just hides."""
ROUND_PX = tuple(FACET_PX / (1 - math.cos(math.pi / slices)) for slices in SLICES[1:])
"""The greatest radius that so many slices do for."""
SLIVER_PX = 0.03
"""Flat faces that look thinner than this are not drawn: their depth is too steep to be told."""
SUBPIXELS = 256.0
"""To a pixel: corners are drawn where this grid has them (eight bits, as rasterisers have)."""
LIGHTS_MAX = 8
TEXTURE_PX_MAX = 256
GROUPS_DRAWN = 3
INSTANCE_FLOATS = 24

VERTEX = """
#version 330
layout(location=0) in vec3 p; layout(location=1) in vec4 n_end; layout(location=2) in vec2 mapped;
layout(location=3) in vec4 m0; layout(location=4) in vec4 m1; layout(location=5) in vec4 m2;
layout(location=6) in vec4 scale; layout(location=7) in vec4 paint; layout(location=8) in vec4 tex;
uniform mat4 clip_from_eye;
uniform vec2 half_px;
uniform vec4 light[33];
const float PI = 3.14159265;
out vec3 at; out vec3 normal; out vec2 uv; flat out vec4 colour; flat out float layer;
flat out uint number;
void main() {
  // Rows of the geom's axes with its middle relative to the eye, in the world's directions.
  vec3 middle = vec3(m0.w, m1.w, m2.w), q = p, n = n_end.xyz, lengths = scale.xyz;
  vec3 eye = -(m0.xyz * middle.x + m1.xyz * middle.y + m2.xyz * middle.z), shift = vec3(0);
  if (n_end.w == BALL) {
    // What is seen of a ball is a cap, whose last ring is its outline. In the ball's own lengths.
    float end = n.z, half_length = end == 0.0 ? 0.0 : scale.z;
    if (end != 0.0) lengths = scale.www;
    shift.z = end * half_length;
    vec3 nearest = vec3(0, 0, clamp(eye.z, -half_length, half_length));
    bool inside = length((eye - nearest) / lengths) <= 1.0;
    vec3 from = (eye - shift) / lengths;
    vec3 up = inside ? vec3(0, 0, end < 0.0 ? -1 : 1) : normalize(from);
    float down = p.z * (inside ? end == 0.0 ? PI : PI / 2 : acos(min(1.0 / length(from), 1.0)));
    vec3 side = normalize(cross(up, abs(up.x) < 0.7 ? vec3(1, 0, 0) : vec3(0, 1, 0)));
    q = n = up * cos(down) + (side * p.x + cross(up, side) * p.y) * sin(down);
  } else if (n_end.w >= ROD) {
    // Of a rod, the first and the last facet that are seen end at its true outline, and none is
    // seen from its side: the corners nearest to the outline move there, the others make room.
    vec2 from = eye.xy / lengths.xy;
    float away = length(from), seen = away > 1.0 ? acos(1.0 / away) : PI / 2;
    float facet = 2 * PI / mapped.x, last = max(round(seen / facet), 1.0) * facet;
    float turn = atan(p.y, p.x), beyond = max(abs(turn) - last, 0.0);
    turn = sign(turn) * ((abs(turn) - beyond) * seen / last + beyond * (PI - seen) / (PI - last));
    turn += away > 0.0 ? atan(from.y, from.x) : 0.0;
    q.xy = length(p.xy) * vec2(cos(turn), sin(turn));
    if (n_end.w == ROD) n = vec3(q.xy, 0);
  }
  vec3 local = q * lengths + shift;
  at = vec3(dot(m0.xyz, local) + m0.w, dot(m1.xyz, local) + m1.w, dot(m2.xyz, local) + m2.w);
  vec3 a = abs(n), side = n;
  vec2 face = a.z >= max(a.x, a.y) ? q.xy : a.x >= a.y ? q.yz : q.xz;
  n /= max(lengths, 1e-6);
  normal = vec3(dot(m0.xyz, n), dot(m1.xyz, n), dot(m2.xyz, n));
  uv = tex.y == 0.0 ? mapped : (vec2(0.5, -0.5) * face + 0.5) * tex.yz;
  colour = paint; number = uint(tex.w + 0.5); layer = tex.x;
  gl_Position = clip_from_eye * vec4(at, 1);
  // Rasterisers round corners to a grid, but may take depth from where they were: a pixel that only
  // the rounded face holds would show a depth beyond the face's ends. So both get the rounded; but
  // what reaches behind the eye is cut there first, and its far corners would swing the near part.
  if ((clip_from_eye * vec4(middle, 1)).w > length(scale.xyz) + scale.w) {
    vec2 grid = SUBPIXELS * half_px / gl_Position.w;
    gl_Position.xy = round(gl_Position.xy * grid) / grid;
  }
  if (n_end.w == FLAT || n_end.w == ROD_END) {
    // How long it is towards the eye, and how thin that looks from beside. From the same numbers at
    // all its corners, or some would go and others stay.
    vec3 within = abs(eye) * (1.0 - a);
    float beside = abs(dot(side, eye) - dot(a, scale.xyz)), deep = 2.0 * dot(within, scale.xyz);
    float nearest = max(length(eye) - length(scale.xyz), 0.0);
    if (light[0].w * beside * deep < SLIVER_PX * nearest * nearest * length(within)) {
      gl_Position = vec4(2, 2, 2, 1);
    }
  }
}"""

FRAGMENT = """
#version 330
in vec3 at; in vec3 normal; in vec2 uv; flat in vec4 colour; flat in float layer;
flat in uint number;
// Ambient and focal length, then of each: place, direction and cutoff, colour, fading.
uniform vec4 light[33];
uniform sampler2DArray textures;
layout(location=0) out vec4 rgb; layout(location=1) out uint thing;
void main() {
  vec3 n = normalize(normal);
  if (dot(n, at) > 0.0) n = -n;
  vec3 base = colour.rgb;
  if (layer >= 0.0) base *= texture(textures, vec3(uv, layer)).rgb;
  vec3 sum = light[0].rgb + colour.a, to;
  float away, inside;
  LAMPS
  rgb = vec4(base * sum, 1);
  thing = number;
}"""

# A line of the shader for each light, by MuJoCo's number of its kind: a loop that asks costs half.
FADED = """
  to = light[{place}].xyz - at; away = length(to); to /= away;
  away = 1.0 / (light[{fade}].x + away * (light[{fade}].y + away * light[{fade}].z));"""
FACED = "sum += light[{shine}].rgb * (max(dot(n, to), 0.0) * away);"
LAMPS = {
    0: FADED
    + """
  inside = dot(-to, light[{along}].xyz);
  away *= inside < light[{along}].w ? 0.0 : pow(inside, light[{fade}].w);"""
    + FACED,
    1: "sum += light[{shine}].rgb * max(-dot(n, light[{along}].xyz), 0.0);",
    2: FADED + FACED,
}


@dataclass(frozen=True)
class Picture:
    """What a camera sees: (H, W, 3) uint8, (H, W) float32 m, (H, W) uint16 number of the thing."""

    camera: Camera
    rgb: np.ndarray
    depth: np.ndarray
    instance: np.ndarray


class Renderer:
    """Draws a model at one size of picture. `load` a model, then `draw` it as often as it moves."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        gl = opened()
        self._frame = gl.glGenFramebuffers(1)
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._frame)
        self._targets = gl.glGenRenderbuffers(3)
        for target, form, place in zip(
            self._targets,
            (gl.GL_RGBA8, gl.GL_R16UI, gl.GL_DEPTH_COMPONENT32F),
            (gl.GL_COLOR_ATTACHMENT0, gl.GL_COLOR_ATTACHMENT1, gl.GL_DEPTH_ATTACHMENT),
            strict=True,
        ):
            gl.glBindRenderbuffer(gl.GL_RENDERBUFFER, target)
            gl.glRenderbufferStorage(gl.GL_RENDERBUFFER, form, width, height)
            gl.glFramebufferRenderbuffer(gl.GL_FRAMEBUFFER, place, gl.GL_RENDERBUFFER, target)
        whole = gl.glCheckFramebufferStatus(gl.GL_FRAMEBUFFER)
        assert whole == gl.GL_FRAMEBUFFER_COMPLETE, f"incomplete framebuffer: {whole}"
        gl.glDrawBuffers(2, np.array([gl.GL_COLOR_ATTACHMENT0, gl.GL_COLOR_ATTACHMENT1], np.uint32))
        self._vertices, self._indices, self._instances = gl.glGenBuffers(3)
        self._array = gl.glGenVertexArrays(1)
        self._texture = gl.glGenTextures(1)
        self._rgba = np.empty((height, width, 4), np.uint8)
        self._mesh_key: Any = None
        self._textures = np.zeros(0, np.uint8)
        self._buffer = np.empty((0, INSTANCE_FLOATS), np.float32)

    def load(self, model: mujoco.MjModel, numbers: np.ndarray) -> None:
        """Take a model; `numbers` is the thing of each geom, 0 for none."""
        if model.nflex or model.nskin:
            raise WorldRefused(
                "this world has soft bodies, which cannot be labelled",
                "the world's <deformable> or <flexcomp>",
                f"{model.nflex} flexes and {model.nskin} skins have no rigid geometry to check",
                "take them out, or make them of rigid bodies",
            )
        self.model = model
        self._numbers = np.ascontiguousarray(numbers, np.int32)
        opened()
        self._load_shapes()
        self._load_textures()

    def draw(self, simulated: mujoco.MjData, camera: int | str = 0) -> Picture:
        """The picture of a camera, given by number or by name."""
        gl, model = opened(), self.model
        camera = int(model.camera(camera).id)
        seen = _camera(model, simulated, camera, self.width, self.height)
        eye = simulated.cam_xpos[camera]
        counts = np.zeros(len(self._shapes), np.int32)
        many, outside = _instances(
            self._shape_of,
            seen.intrinsics[1, 1],
            seen.pose[:3, 2],
            simulated.geom_xpos,
            simulated.geom_xmat,
            model.geom_type,
            model.geom_size,
            model.geom_rgba,
            model.geom_matid,
            model.geom_group,
            self._numbers,
            model.mat_rgba,
            model.mat_emission,
            model.mat_texrepeat,
            model.mat_texuniform,
            self._layers,
            eye,
            model.geom_rbound,
            self._buffer,
            counts,
        )
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._frame)
        gl.glViewport(0, 0, self.width, self.height)
        gl.glClearBufferfv(gl.GL_COLOR, 0, self._sky)
        gl.glClearBufferuiv(gl.GL_COLOR, 1, _NOTHING)
        gl.glClearBufferfv(gl.GL_DEPTH, 0, _FARTHEST)
        kinds, lights = _lights(model, simulated, eye, seen.pose[:3, 2])
        lights[0, 3] = seen.intrinsics[1, 1]
        program, at_matrix, at_half, at_lights = _program(kinds)
        gl.glUseProgram(program)
        gl.glBindVertexArray(self._array)
        gl.glBindTexture(gl.GL_TEXTURE_2D_ARRAY, self._texture)
        if len(model.tex_data) and not np.array_equal(self._textures, model.tex_data):
            self._load_textures()
        gl.glBindBuffer(gl.GL_ARRAY_BUFFER, self._instances)
        gl.glBufferData(
            gl.GL_ARRAY_BUFFER, many * INSTANCE_FLOATS * 4, self._buffer, gl.GL_STREAM_DRAW
        )
        gl.glUniformMatrix4fv(at_matrix, 1, True, _clip_from_eye(seen))
        gl.glUniform2f(at_half, self.width / 2, self.height / 2)
        gl.glUniform4fv(at_lights, len(lights), lights)
        first = 0
        # Within a closed shape its inner side is seen, as a ray would have it.
        (gl.glEnable if outside else gl.glDisable)(gl.GL_CULL_FACE)
        for (index, size, closed), count in zip(self._shapes, counts.tolist(), strict=True):
            if count:
                if not closed:
                    gl.glDisable(gl.GL_CULL_FACE)
                gl.glDrawElementsInstancedBaseInstance(
                    gl.GL_TRIANGLES, size, gl.GL_UNSIGNED_INT, _pointer(index * 4), count, first
                )
            first += count
        rgb = np.empty((self.height, self.width, 3), np.uint8)
        depth = np.empty((self.height, self.width), np.float32)
        instance = np.empty((self.height, self.width), np.uint16)
        whole = 0, 0, self.width, self.height
        gl.glReadBuffer(gl.GL_COLOR_ATTACHMENT0)
        gl.glReadPixels(*whole, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE, self._rgba)
        gl.glReadBuffer(gl.GL_COLOR_ATTACHMENT1)
        gl.glReadPixels(*whole, gl.GL_RED_INTEGER, gl.GL_UNSIGNED_SHORT, instance)
        gl.glReadPixels(*whole, gl.GL_DEPTH_COMPONENT, gl.GL_FLOAT, depth)
        _finish(self._rgba, rgb, depth, instance)
        return Picture(seen, rgb, depth, instance)

    def close(self) -> None:
        """Give the memory of the drawing back."""
        gl = opened()
        gl.glDeleteFramebuffers(1, [self._frame])
        gl.glDeleteRenderbuffers(3, self._targets)
        gl.glDeleteBuffers(3, [self._vertices, self._indices, self._instances])
        gl.glDeleteVertexArrays(1, [self._array])
        gl.glDeleteTextures(1, [self._texture])

    def _load_shapes(self) -> None:
        """Triangles of the shapes that the model's geoms have, once for models alike."""
        model = self.model
        keys = [
            (int(kind), int(data) if kind in _BY_DATA else -1)
            for kind, data in zip(model.geom_type, model.geom_dataid, strict=True)
        ]
        # Floors and meshes last: what stands on a floor hides much of it.
        shapes = sorted(set(keys), key=lambda key: (key[0] not in ROUND, key[0] != BOX, key))
        drawn = [
            (*key, slices)
            for key in shapes
            for slices in (SLICES if key[0] in ROUND else SLICES[:1])
        ]
        self._shape_of = np.array([drawn.index((*key, SLICES[0])) for key in keys], np.int32)
        self._buffer = np.empty((model.ngeom, INSTANCE_FLOATS), np.float32)
        same = (tuple(shapes), model.mesh_vert.tobytes(), model.hfield_data.tobytes())
        if same == self._mesh_key:
            return
        self._mesh_key = same
        gl = opened()
        vertices, indices, self._shapes = [], [], []
        base = start = 0
        for kind, dataid, slices in drawn:
            points, faces = _shape(model, kind, dataid, slices)
            faces = _outward(points, faces)
            vertices.append(points)
            indices.append(faces.ravel() + base)
            self._shapes.append((start, faces.size, kind in CLOSED))
            base += len(points)
            start += faces.size
        gl.glBindVertexArray(self._array)
        packed = np.ascontiguousarray(np.concatenate(vertices), np.float32)
        gl.glBindBuffer(gl.GL_ARRAY_BUFFER, self._vertices)
        gl.glBufferData(gl.GL_ARRAY_BUFFER, packed.nbytes, packed, gl.GL_STATIC_DRAW)
        for place, size, offset in ((0, 3, 0), (1, 4, 12), (2, 2, 28)):
            gl.glEnableVertexAttribArray(place)
            gl.glVertexAttribPointer(place, size, gl.GL_FLOAT, False, 36, _pointer(offset))
        gl.glBindBuffer(gl.GL_ARRAY_BUFFER, self._instances)
        for row in range(INSTANCE_FLOATS // 4):
            gl.glEnableVertexAttribArray(3 + row)
            gl.glVertexAttribPointer(
                3 + row, 4, gl.GL_FLOAT, False, INSTANCE_FLOATS * 4, _pointer(row * 16)
            )
            gl.glVertexAttribDivisor(3 + row, 1)
        packed = np.ascontiguousarray(np.concatenate(indices), np.uint32)
        gl.glBindBuffer(gl.GL_ELEMENT_ARRAY_BUFFER, self._indices)
        gl.glBufferData(gl.GL_ELEMENT_ARRAY_BUFFER, packed.nbytes, packed, gl.GL_STATIC_DRAW)

    def _load_textures(self) -> None:
        """The textures that materials use, as layers of one array; the sky's mean colour."""
        gl, model = opened(), self.model
        self._textures = model.tex_data.copy()
        role = int(mujoco.mjtTextureRole.mjTEXROLE_RGB)
        used = [int(t) for t in np.unique(model.mat_texid[:, role]) if t >= 0]
        self._layers = np.array(
            [used.index(t) if t >= 0 else -1 for t in model.mat_texid[:, role]], np.int32
        )
        skies = np.flatnonzero(model.tex_type == int(mujoco.mjtTexture.mjTEXTURE_SKYBOX))
        self._sky = np.zeros(4, np.float32)
        if len(skies):
            self._sky[:3] = _texels(model, int(skies[0])).mean(axis=(0, 1)) / 255
        if not used:
            return
        side = min(TEXTURE_PX_MAX, max(int(model.tex_width[t]) for t in used))
        layers = np.stack([_squared(_texels(model, t), side) for t in used])
        gl.glBindTexture(gl.GL_TEXTURE_2D_ARRAY, self._texture)
        gl.glPixelStorei(gl.GL_UNPACK_ALIGNMENT, 1)
        gl.glTexImage3D(
            gl.GL_TEXTURE_2D_ARRAY, 0, gl.GL_RGB8, side, side, len(used), 0,
            gl.GL_RGB, gl.GL_UNSIGNED_BYTE, layers,
        )  # fmt: skip
        gl.glGenerateMipmap(gl.GL_TEXTURE_2D_ARRAY)
        for setting, value in (
            (gl.GL_TEXTURE_MIN_FILTER, gl.GL_LINEAR_MIPMAP_NEAREST),
            (gl.GL_TEXTURE_MAG_FILTER, gl.GL_LINEAR),
            (gl.GL_TEXTURE_WRAP_S, gl.GL_REPEAT),
            (gl.GL_TEXTURE_WRAP_T, gl.GL_REPEAT),
        ):
            gl.glTexParameteri(gl.GL_TEXTURE_2D_ARRAY, setting, value)


_NOTHING = np.zeros(4, np.uint32)
_FARTHEST = np.zeros(1, np.float32)
_BY_DATA = tuple(
    int(kind)
    for kind in (
        mujoco.mjtGeom.mjGEOM_MESH,
        mujoco.mjtGeom.mjGEOM_SDF,
        mujoco.mjtGeom.mjGEOM_HFIELD,
    )
)
_THREAD = threading.local()


def opened() -> Any:
    """OpenGL, with a context of this thread; refuses where there is none."""
    if not hasattr(_THREAD, "gl"):
        # One worker is one core: threads of the renderer's own would take it from a neighbour.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        try:
            from mujoco.egl import GLContext

            context = GLContext(1, 1)
            context.make_current()
            from OpenGL import GL

            version = GL.glGetString(GL.GL_VERSION).decode()
            GL.glClipControl(GL.GL_LOWER_LEFT, GL.GL_ZERO_TO_ONE)
        except Exception as error:
            raise WorldRefused(
                "no picture can be drawn on this machine",
                "EGL, the way to draw without a screen",
                f"{type(error).__name__}: {error}",
                "apt-get install libegl1 libgl1-mesa-dri (OpenGL 4.5, in software), or run on a"
                " machine with a GPU and its driver",
            ) from error
        atexit.register(context.free)
        GL.glEnable(GL.GL_DEPTH_TEST)
        GL.glDepthFunc(GL.GL_GREATER)
        GL.glFrontFace(GL.GL_CW)  # as the picture is built from its first row
        GL.glPixelStorei(GL.GL_PACK_ALIGNMENT, 1)
        _THREAD.gl, _THREAD.context, _THREAD.programs = GL, context, {}
        _THREAD.drawn_by = f"{GL.glGetString(GL.GL_RENDERER).decode()}, OpenGL {version}"
    else:
        _THREAD.context.make_current()  # others draw, too
    return _THREAD.gl


def drawn_by() -> str:
    """What draws: a GPU's name, or llvmpipe."""
    opened()
    return str(_THREAD.drawn_by)


def _program(kinds: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The program for lights of these kinds, and where it keeps matrix, half a picture, lights."""
    gl = opened()
    if kinds not in _THREAD.programs:
        from OpenGL.GL import shaders

        names = ("place", "along", "shine", "fade")
        lamps = "\n  ".join(
            LAMPS[kind].format(**{name: 4 * i + 1 + j for j, name in enumerate(names)})
            for i, kind in enumerate(kinds)
        )
        vertex = VERTEX
        for name in ("SLIVER_PX", "SUBPIXELS", "FLAT", "BALL", "ROD_END", "ROD"):
            vertex = vertex.replace(name, str(globals()[name]))
        program = shaders.compileProgram(
            shaders.compileShader(vertex, gl.GL_VERTEX_SHADER),
            shaders.compileShader(FRAGMENT.replace("LAMPS", lamps), gl.GL_FRAGMENT_SHADER),
            validate=False,
        )
        _THREAD.programs[kinds] = (
            int(program),
            gl.glGetUniformLocation(program, "clip_from_eye"),
            gl.glGetUniformLocation(program, "half_px"),
            gl.glGetUniformLocation(program, "light"),
        )
    return _THREAD.programs[kinds]


@cache
def _pointer(offset: int) -> Any:
    import ctypes

    return ctypes.c_void_p(offset)


def _camera(
    model: mujoco.MjModel, simulated: mujoco.MjData, camera: int, width: int, height: int
) -> Camera:
    """A camera of the model as a pinhole, in OpenCV's axes."""
    intrinsics = np.eye(3)
    if model.cam_sensorsize[camera, 1] > 0:
        focal, shift = model.cam_intrinsic[camera, :2], model.cam_intrinsic[camera, 2:]
        per_m = np.array([width, height]) / model.cam_sensorsize[camera]
        intrinsics[[0, 1], [0, 1]] = focal * per_m
        intrinsics[:2, 2] = np.array([width, height]) / 2 + shift * per_m * (1, -1)
    else:
        focal_px = height / 2 / np.tan(np.radians(model.cam_fovy[camera]) / 2)
        intrinsics[[0, 1], [0, 1]] = focal_px
        intrinsics[:2, 2] = width / 2, height / 2
    pose = np.eye(4)
    # MuJoCo's camera looks along -z with y up.
    pose[:3, :3] = simulated.cam_xmat[camera].reshape(3, 3) * (1, -1, -1)
    pose[:3, 3] = simulated.cam_xpos[camera]
    return Camera(model.camera(camera).name, width, height, intrinsics, pose)


def _clip_from_eye(camera: Camera) -> np.ndarray:
    """To the clip space of an infinite, reversed depth: near / depth, whose error is even.

    The first row of the buffer is the first of the picture, so nothing is turned over later.
    """
    across = 2 / np.array([camera.width, camera.height])
    clip = np.zeros((4, 4))
    clip[:2, :3] = camera.intrinsics[:2] * across[:, None]
    clip[:2, 2] -= 1
    clip[2, 3] = NEAR_M
    clip[3, 2] = 1
    turned = np.eye(4)
    turned[:3, :3] = camera.pose[:3, :3].T
    return np.ascontiguousarray(clip @ turned, np.float32)


def _lights(
    model: mujoco.MjModel, simulated: mujoco.MjData, eye: np.ndarray, ahead: np.ndarray
) -> tuple[tuple[int, ...], np.ndarray]:
    """The model's lights as MuJoCo's renderer takes them, relative to the eye; their kinds."""
    lamps = np.zeros((1 + 4 * LIGHTS_MAX, 4), np.float32)
    head, kinds = model.vis.headlight, []
    if head.active:
        lamps[0, :3] += head.ambient
        lamps[2, :3], lamps[3, :3] = ahead, head.diffuse
        kinds.append(DIRECTIONAL)
    for light in np.flatnonzero(model.light_active)[: LIGHTS_MAX - len(kinds)].tolist():
        kind = int(model.light_type[light])
        if kind > POINT:  # an image around the world
            continue
        if kind == SPOT and model.light_cutoff[light] >= 180:
            kind = POINT
        at = 1 + 4 * len(kinds)
        lamps[0, :3] += model.light_ambient[light]
        lamps[at, :3] = simulated.light_xpos[light] - eye
        lamps[at + 1, :3] = simulated.light_xdir[light]
        lamps[at + 1, 3] = np.cos(np.radians(model.light_cutoff[light]))
        lamps[at + 2, :3] = model.light_diffuse[light]
        lamps[at + 3, :3] = model.light_attenuation[light]
        lamps[at + 3, 3] = model.light_exponent[light]
        kinds.append(kind)
    return tuple(kinds), lamps[: 1 + 4 * len(kinds)]


SPOT, DIRECTIONAL, POINT = range(3)
"""MuJoCo's numbers of its lights (`mjtLightType`)."""


@njit(cache=True)
def _instances(  # type: ignore[no-untyped-def]
    shape_of, focal_px, ahead, xpos, xmat, kinds, sizes, rgba, matid, group, numbers,
    mat_rgba, mat_emission, mat_texrepeat, mat_texuniform, layers, eye, bounds, out, counts,
):  # fmt: skip
    """What each drawn geom is: axes, middle, scale, paint, texture, number.

    By shape, the nearest first, so that little is painted over. Returns how many there are, and
    whether the eye is outside all that is closed.
    """
    key = np.full(len(kinds), np.inf)
    for g in range(len(kinds)):
        mat = matid[g]
        own = rgba[g, 0] != 0.5 or rgba[g, 1] != 0.5 or rgba[g, 2] != 0.5 or rgba[g, 3] != 1
        alpha = rgba[g, 3] if mat < 0 or own else mat_rgba[mat, 3]
        if group[g] >= GROUPS_DRAWN or alpha == 0:
            continue
        away = 0.0
        for axis in range(3):
            away += (xpos[g, axis] - eye[axis]) * ahead[axis]
        if bounds[g] > 0 and away + bounds[g] < NEAR_M:
            continue  # behind the camera
        shape = shape_of[g]
        if kinds[g] in ROUND:
            radius = sizes[g].max() if kinds[g] == ELLIPSOID else sizes[g, 0]
            for limit in ROUND_PX:
                shape += focal_px * radius <= limit * (away - bounds[g])
        key[g] = 1e6 * shape + away
        counts[shape] += 1
    outside = True
    many = counts.sum()
    for row, g in enumerate(np.argsort(key)[:many]):
        mat, colour = matid[g], rgba[g]
        emission, layer = np.float32(0), np.float32(-1)
        if mat >= 0:
            # A geom's own colour counts where it is not the default.
            if colour[0] == 0.5 and colour[1] == 0.5 and colour[2] == 0.5 and colour[3] == 1:
                colour = mat_rgba[mat]
            emission = mat_emission[mat]
            layer = layers[mat]
        kind, size, it = kinds[g], sizes[g], out[row]
        for axis in range(3):
            for other in range(3):
                it[4 * axis + other] = xmat[g, 3 * axis + other]
            it[4 * axis + 3] = xpos[g, axis] - eye[axis]
        it[12:16] = 1
        it[15] = 0
        boundless = False
        if kind == PLANE:
            it[14] = 1
            for axis in range(2):
                boundless = boundless or size[axis] <= 0
                it[12 + axis] = size[axis] if size[axis] > 0 else FAR_M
        elif kind in (SPHERE, CAPSULE):
            it[12:15] = size[0]
            if kind == CAPSULE:
                it[14], it[15] = size[1], size[0]
        elif kind == CYLINDER:
            it[12:14] = size[0]
            it[14] = size[1]
        elif kind in (BOX, ELLIPSOID):
            for axis in range(3):
                it[12 + axis] = size[axis]
        else:
            it[15] = bounds[g]  # its lengths are 1: by this the shader knows how far it reaches
        for channel in range(3):
            it[16 + channel] = colour[channel]
        it[19] = emission
        it[20] = layer
        it[21:23] = 0
        if layer >= 0 and kind <= BOX:
            for axis in range(2):
                whole = it[12 + axis] if mat_texuniform[mat] or boundless else 1.0
                it[21 + axis] = mat_texrepeat[mat, axis] * whole
        it[23] = numbers[g]
        if kind > HFIELD and kind <= BOX:
            within = True
            for axis in range(3):
                local = 0.0
                for other in range(3):
                    local -= it[4 * other + axis] * it[4 * other + 3]
                end = it[12 + axis] + (it[15] if axis == 2 else 0)
                within = within and abs(local) < end + NEAR_M
            outside = outside and not within
    return many, outside


PLANE, HFIELD, SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX = range(7)
"""MuJoCo's numbers of its shapes (`mjtGeom`)."""
ROUND = (SPHERE, CAPSULE, ELLIPSOID, CYLINDER)
CLOSED = (*ROUND, BOX)
FLAT, BALL, ROD, ROD_END = 2.0, 3.0, 4.0, 5.0
"""What the vertex shader does to a vertex: looks whether its face is a sliver; makes a sheet of
(around, down) a ball's cap, at a rod's end where the normal's z says so; turns a rod to the eye."""


@njit(cache=True)
def _finish(rgba, rgb, depth, instance):  # type: ignore[no-untyped-def]
    """Three channels of four, and metres of reversed depth; nothing is infinitely far."""
    for y in range(depth.shape[0]):
        for x in range(depth.shape[1]):
            rgb[y, x, 0] = rgba[y, x, 0]
            rgb[y, x, 1] = rgba[y, x, 1]
            rgb[y, x, 2] = rgba[y, x, 2]
            near = depth[y, x]
            if near > NEAR_M / FAR_M:
                depth[y, x] = NEAR_M / near
            else:
                depth[y, x] = np.inf
                instance[y, x] = 0


def _shape(
    model: mujoco.MjModel, kind: int, dataid: int, slices: int
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (place, normal, end of a capsule, texture) of a shape of size 1, and its faces."""
    if kind == PLANE:
        points = np.zeros((4, 9))
        points[:, :2] = (-1, -1), (1, -1), (-1, 1), (1, 1)
        points[:, 5] = 1
        return points, _quads(1, 1)
    if kind == BOX:
        return _box()
    if kind in (SPHERE, ELLIPSOID):
        return _cap(slices)
    if kind == CAPSULE:
        return _joined(_rod(slices), _cap(slices, 1), _cap(slices, -1))
    if kind == CYLINDER:
        return _joined(_rod(slices), _rod(slices, 1), _rod(slices, -1))
    if kind == HFIELD:
        return _heights(model, dataid)
    return _mesh(model, dataid)


def _outward(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces that have an area, each turned the way its normals point."""
    a, b, c = (points[faces[:, corner], :3] for corner in range(3))
    across = np.cross(b - a, c - a)
    faces, across = faces[keep := (across**2).sum(1) > 1e-20], across[keep]
    inward = (across * points[faces, 3:6].sum(axis=1)).sum(axis=1) < 0
    return np.where(inward[:, None], faces[:, ::-1], faces)


def _quads(rows: int, columns: int) -> np.ndarray:
    """Faces over a sheet of (rows + 1) x (columns + 1) vertices."""
    corner = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).ravel()
    beside, below = corner + 1, corner + columns + 1
    return np.concatenate(
        [np.stack([corner, beside, below + 1], 1), np.stack([corner, below + 1, below], 1)]
    )


def _box() -> tuple[np.ndarray, np.ndarray]:
    points: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    for axis in range(3):
        for side in (-1.0, 1.0):
            sheet = np.zeros((4, 9))
            sheet[:, axis] = sheet[:, 3 + axis] = side
            sheet[:, 6] = FLAT
            sheet[:, (axis + 1) % 3] = -1, 1, -1, 1
            sheet[:, (axis + 2) % 3] = -1, -1, 1, 1
            faces.append(_quads(1, 1) + 4 * len(points))
            points.append(sheet)
    return np.concatenate(points), np.concatenate(faces)


def _cap(slices: int, end: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Of a ball what the eye sees: around, and how far down from what is nearest to the outline."""
    around, down = np.linspace(0, 2 * np.pi, slices + 1), np.linspace(0, 1, slices // 4 + 1)
    points = np.zeros((len(down), slices + 1, 9))
    points[..., 0], points[..., 1], points[..., 2] = np.cos(around), np.sin(around), down[:, None]
    points[..., 3:5] = -points[..., :2]  # the vertex shader bends it inside out
    points[..., 5], points[..., 6] = end, BALL
    return points.reshape(-1, 9), _quads(len(down) - 1, slices)


def _rod(slices: int, end: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The round side of a rod, or its flat end; for texture, of which it has none, its facets."""
    around = np.linspace(0, 2 * np.pi, slices + 1)
    points = np.zeros((2, slices + 1, 9))
    points[..., 7] = slices
    points[..., 0], points[..., 1] = np.cos(around), np.sin(around)
    if end:
        points[0, :, :2] *= 1e-12  # the middle, which has a direction still
        points[..., 2] = points[..., 5] = end
        points[..., 6] = ROD_END
    else:
        points[0, :, 2], points[1, :, 2] = 1, -1
        points[..., 3:5] = points[..., :2]
        points[..., 6] = ROD
    return points.reshape(-1, 9), _quads(1, slices)


def _joined(*parts: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    starts = np.cumsum([0, *(len(points) for points, _ in parts)])
    faces = [faces + start for (_, faces), start in zip(parts, starts, strict=False)]
    return np.concatenate([points for points, _ in parts]), np.concatenate(faces)


def _mesh(model: mujoco.MjModel, mesh: int) -> tuple[np.ndarray, np.ndarray]:
    """A mesh's faces, each with corners of its own: normals and texture may differ there."""
    rows = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
    corners = model.mesh_face[rows].ravel()
    points = np.zeros((len(corners), 9))
    points[:, :3] = model.mesh_vert[model.mesh_vertadr[mesh] + corners]
    points[:, 3:6] = model.mesh_normal[
        model.mesh_normaladr[mesh] + model.mesh_facenormal[rows].ravel()
    ]
    # A corner's normal is the mean of its faces' where that is no edge to be seen.
    a, b, c = points[0::3, :3], points[1::3, :3], points[2::3, :3]
    across = np.cross(b - a, c - a)
    across = np.repeat(across / np.maximum(np.linalg.norm(across, axis=1), 1e-20)[:, None], 3, 0)
    sharp = (across * points[:, 3:6]).sum(axis=1) < 0.5
    points[sharp, 3:6] = across[sharp]
    if model.mesh_texcoordadr[mesh] >= 0:
        points[:, 7:9] = model.mesh_texcoord[
            model.mesh_texcoordadr[mesh] + model.mesh_facetexcoord[rows].ravel()
        ]
    return points, np.arange(len(corners)).reshape(-1, 3)


def _heights(model: mujoco.MjModel, field: int) -> tuple[np.ndarray, np.ndarray]:
    """The surface of a height field and the sides of its base."""
    rows, columns = int(model.hfield_nrow[field]), int(model.hfield_ncol[field])
    start = model.hfield_adr[field]
    half_x, half_y, top, base = model.hfield_size[field]
    z = model.hfield_data[start : start + rows * columns].reshape(rows, columns) * top
    x, y = np.meshgrid(np.linspace(-half_x, half_x, columns), np.linspace(-half_y, half_y, rows))
    points = np.zeros((rows, columns, 9))
    points[..., 0], points[..., 1], points[..., 2] = x, y, z
    slope_y = np.gradient(z, 2 * half_y / (rows - 1), axis=0)
    slope_x = np.gradient(z, 2 * half_x / (columns - 1), axis=1)
    points[..., 3], points[..., 4], points[..., 5] = -slope_x, -slope_y, 1
    parts, faces = [points.reshape(-1, 9)], [_quads(rows - 1, columns - 1)]
    for edge, away in (
        (points[0], (0, -1, 0)),
        (points[-1], (0, 1, 0)),
        (points[:, 0], (-1, 0, 0)),
        (points[:, -1], (1, 0, 0)),
    ):
        side = np.stack([edge, edge])
        side[1, :, 2] = -base
        side[:, :, 3:6] = away
        faces.append(_quads(1, len(edge) - 1) + sum(map(len, parts)))
        parts.append(side.reshape(-1, 9))
    return np.concatenate(parts), np.concatenate(faces)


def _texels(model: mujoco.MjModel, texture: int) -> np.ndarray:
    """A texture's colours, (height, width, 3)."""
    height, width = int(model.tex_height[texture]), int(model.tex_width[texture])
    channels = int(model.tex_nchannel[texture])
    start = int(model.tex_adr[texture])
    flat = model.tex_data[start : start + height * width * channels]
    return np.ascontiguousarray(flat.reshape(height, width, channels)[..., [0, 1, 2][:channels]])


def _squared(texels: np.ndarray, side: int) -> np.ndarray:
    """The first face of a texture (a cube's six stand below each other), at `side` px."""
    height, width = texels.shape[:2]
    height = width if height == 6 * width else height
    rows, columns = np.arange(side) * height // side, np.arange(side) * width // side
    square = texels[rows[:, None], columns]
    return np.broadcast_to(square, (side, side, 3)) if square.shape[2] == 1 else square
