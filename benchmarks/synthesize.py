"""Labelled frames per CPU-second, and label errors, over our three worlds and beside peers.

    python benchmarks/synthesize.py [--frames 3000] [--json]
        [--peer robosuite=PYTHON] [--peer blender=PYTHON]

A frame is the whole chain at 256 x 256: a fresh moment of a randomised layout (16 of each, whose
building and compiling count), colour, depth, segmentation, labels (boxes, cuboids, poses, shares
seen), its fingerprint, and the check of all labels against geometry. Formats are not written. CPU
seconds are of the whole process, warm. `plain` is the same worlds through MuJoCo's own renderer
(no shadows, one sample), RGB-D in one pass and segmentation in another, without boxes or check.

Peers run in an interpreter that has them, since they want other versions (robosuite 1.5 an older
MuJoCo): robosuite's Lift with a Panda, randomised at every step, RGB-D, instances and boxes from
them; Blender's Cycles on the CPU, 16 samples a pixel, 60 cubes, colour, depth and object index.
Their scenes are theirs: no claim is made that a frame shows as much.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import mujoco
import numpy as np

from gigafactory.jobs import synthesize, worlds
from gigafactory.jobs.worlds.scene import seed_of

WARM_PARTS = 2
PLAIN_FRAMES = 64

ROBOSUITE = """
import json, os, time
os.environ["MUJOCO_GL"] = "egl"
import numpy as np, robosuite
from robosuite.wrappers import DomainRandomizationWrapper
env = DomainRandomizationWrapper(
    robosuite.make("Lift", robots="Panda", has_renderer=False, has_offscreen_renderer=True,
        use_camera_obs=True, camera_names="agentview", camera_heights=256, camera_widths=256,
        camera_depths=True, camera_segmentations="instance", control_freq=20),
    randomize_color=False, randomize_every_n_steps=1)  # its colours want mujoco 3.1.1
env.reset()
def frame():
    seen = env.step(np.random.uniform(-1, 1, env.action_dim))[0]
    numbers = seen["agentview_segmentation_instance"][..., 0]
    for number in np.unique(numbers):
        y, x = np.nonzero(numbers == number)
        x.min(), x.max(), y.min(), y.max()
for _ in range(5):
    frame()
cpu_s, frames = time.process_time(), 60
for _ in range(frames):
    frame()
print(json.dumps({"frames": frames, "cpu_s": time.process_time() - cpu_s,
    "version": robosuite.__version__}))
"""

BLENDER = """
import json, os, random, tempfile, time
import bpy
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
scene.render.engine = "CYCLES"
scene.cycles.device, scene.cycles.samples, scene.cycles.use_denoising = "CPU", 16, False
scene.render.resolution_x = scene.render.resolution_y = 256
scene.render.image_settings.file_format = "PNG"
scene.render.filepath = os.path.join(tempfile.mkdtemp(), "frame.png")
layer = scene.view_layers[0]
layer.use_pass_z = layer.use_pass_object_index = True
bpy.ops.mesh.primitive_plane_add(size=20)
cubes = []
for number in range(60):
    bpy.ops.mesh.primitive_cube_add(size=random.uniform(0.3, 0.9))
    bpy.context.object.pass_index = number + 1
    cubes.append(bpy.context.object)
bpy.ops.object.light_add(type="SUN", rotation=(0.4, 0.3, 0))
bpy.ops.object.camera_add(location=(0, -12, 7), rotation=(1.05, 0, 0))
scene.camera = bpy.context.object
def frame():
    for cube in cubes:
        cube.location = random.uniform(-5, 5), random.uniform(-5, 5), 0.4
    bpy.ops.render.render(write_still=True)
frame()
cpu_s, frames = time.process_time(), 8
for _ in range(frames):
    frame()
print(json.dumps({"frames": frames, "cpu_s": time.process_time() - cpu_s,
    "version": bpy.app.version_string}))
"""

PEERS = {"robosuite": ROBOSUITE, "blender": BLENDER}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--frames", type=int, default=3000, help="over the three worlds")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    words.add_argument("--json", action="store_true")
    said = words.parse_args()
    told = {"ours": {}, "peers": {}}
    for scene in worlds.SCENES:
        told["ours"][scene] = ours(scene, -(-said.frames // len(worlds.SCENES)), said.seed)
        told["ours"][scene]["plain_frames_per_cpu_s"] = plain(scene)
    for peer in said.peer:
        name, _, python = peer.partition("=")
        told["peers"][name] = beside(name, python)
    if said.json:
        print(json.dumps(told, indent=1))
        return
    for scene, of in told["ours"].items():
        print(
            f"{scene:10} {of['frames_per_cpu_s']:6.1f} frames/CPU-s, {of['label_errors']} label"
            f" errors in {of['frames']} frames ({of['labels']} labels, {of['rays']} rays);"
            f" MuJoCo's renderer alone {of['plain_frames_per_cpu_s']:.1f}"
        )
        for example in of["examples"]:
            print(f"    {example}")
    for name, of in told["peers"].items():
        print(f"{name:10} " + (of.get("unable") or f"{of['frames_per_cpu_s']:6.1f} frames/CPU-s"))


def ours(scene: str, frames: int, seed: int) -> dict[str, Any]:
    """The chain over so many frames; the first parts warm it up and are checked, but not timed."""
    work = {
        "world": {"name": scene, "scene": scene, "ranges": {}},
        **{"width": 256, "height": 256, "cameras": 1, "clip": 1, "fps": 10.0},
        **{"randomise": True, "layouts": "train", "seed": seed, "name": "frames"},
    }
    from gigafactory.jobs.synthesize.certificate import fingerprints

    errors = labels = rays = timed = done = 0
    examples: list[str] = []
    cpu_s = 0.0
    while done < frames:
        wanted = min(synthesize.SCENE_FRAMES, frames - done)
        index, start_s = done // synthesize.SCENE_FRAMES, time.process_time()
        clip, _, checked = synthesize.shoot(work, index, wanted)
        for frame in clip.frames:
            fingerprints(frame.rgb)
        if index >= WARM_PARTS:
            cpu_s += time.process_time() - start_s
            timed += wanted
        done += wanted
        errors += checked["errors"].total()
        labels += checked["checked"]["labels"]
        rays += checked["checked"]["rays"]
        examples += checked["examples"]
    return {
        "frames": done,
        "frames_per_cpu_s": timed / cpu_s,
        "label_errors": errors,
        "labels": labels,
        "rays": rays,
        "examples": examples[:5],
    }


def plain(scene: str) -> float:
    """Frames per CPU-second of MuJoCo's own renderer: RGB-D and segmentation, nothing else."""
    from mujoco.egl import GLContext

    world = {"name": scene, "scene": scene, "ranges": {}}
    model = worlds.build(world, seed_of(0, "train", 0)).model()
    model.vis.quality.offsamples = 0
    simulated, rng = mujoco.MjData(model), np.random.default_rng(0)
    gl = GLContext(256, 256)
    gl.make_current()
    model.vis.global_.offwidth = model.vis.global_.offheight = 256
    drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, drawing)
    shown, camera = mujoco.MjvScene(model, maxgeom=2000), mujoco.MjvCamera()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
    flags, whole = mujoco.mjtRndFlag, mujoco.MjrRect(0, 0, 256, 256)
    for effect in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION):
        shown.flags[effect] = False
    rgb, numbers = (np.empty((256, 256, 3), np.uint8) for _ in range(2))
    depth = np.empty((256, 256), np.float32)
    every, module = mujoco.mjtCatBit.mjCAT_ALL.value, worlds.module(world)
    for frame in range(PLAIN_FRAMES + 5):
        if frame == 5:
            start_s = time.process_time()
        module.moment(model, simulated, rng)
        mujoco.mjv_updateScene(model, simulated, mujoco.MjvOption(), None, camera, every, shown)
        for segmented in (False, True):
            shown.flags[flags.mjRND_SEGMENT] = shown.flags[flags.mjRND_IDCOLOR] = segmented
            mujoco.mjr_render(whole, shown, drawing)
            mujoco.mjr_readPixels(numbers if segmented else rgb, depth, whole, drawing)
    took_s = time.process_time() - start_s
    drawing.free()
    gl.free()
    return PLAIN_FRAMES / took_s


def beside(name: str, python: str) -> dict[str, Any]:
    """A peer in its own interpreter, or why it could not be measured."""
    if name not in PEERS:
        return {"unable": f"no such peer; there are {', '.join(PEERS)}"}
    try:
        ran = subprocess.run(
            [python, "-c", PEERS[name]], capture_output=True, text=True, timeout=300
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"unable": f"not measured: {error}"}
    if ran.returncode:
        return {"unable": f"not measured: {ran.stderr.strip().splitlines()[-1]}"}
    told = json.loads(ran.stdout.strip().splitlines()[-1])
    return told | {"frames_per_cpu_s": told["frames"] / told["cpu_s"]}


if __name__ == "__main__":
    sys.exit(main())
