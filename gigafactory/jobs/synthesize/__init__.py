"""Labelled pictures of a world, with a certificate that their labels are true.

A part of the dataset is one scene, drawn from `seed_of(seed, layouts, index)`, and what its cameras
see of it: at fresh moments, or with `clip` at moments that follow each other at `fps`. Parts are
spread over the chips (`jobs.spread`); each writes its share of every format and what its
certificate needs, and joining them renames and numbers. So `output/dataset` is the same to the
byte, whoever made which part and however often the job was stopped; of `output/certificate.json`
all but `cost` and `engines` is.

`context.work`: `world`, `frames` (pictures, of all cameras), `formats`, `width`, `height`,
`cameras`, `clip`, `fps`, `randomise`, `layouts`, `seed`; to state energy, `power_w_per_chip` and
`carbon_g_per_kwh` of the place.
"""

import json
import platform
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gigafactory.jobs.context import Context
from gigafactory.jobs.spread import spread
from gigafactory.jobs.whole import writing

if TYPE_CHECKING:
    from gigafactory.jobs.synthesize.frame import Clip, Frame
    from gigafactory.jobs.synthesize.render import Renderer
    from gigafactory.jobs.worlds.scene import Range

FORMATS = {
    name: f"gigafactory.jobs.synthesize.formats.{name}"
    for name in ("coco", "kitti", "lerobot", "smartspaces", "webdataset")
}
SCENE_FRAMES = 16
"""Pictures of one scene where moments do not follow each other; compiling it costs half a one."""
PREVIEWS = 6
PART, COST = "part.json", "cost.json"
INKS = ((255, 196, 0), (0, 208, 255), (255, 82, 160), (120, 255, 90), (190, 140, 255))
"""Of boxes in previews, by class."""


def run(context: Context) -> dict[str, Any]:
    """Make all parts, join them and certify the whole."""
    work, begun_s = context.work, time.monotonic()
    context.phase("prepare")
    parts_wanted = Parts(work)
    shoot(work, 0, 1)  # what is compiled is compiled once a machine, here, before many need it
    made = {"frames": 0, "cpu_s": 0.0}

    def told(part: Path) -> dict[str, Any]:
        made["frames"] += len(_read(part / PART)["prints"])
        made["cpu_s"] += _read(part / COST)["cpu_s"]
        return made | {"frames_per_cpu_s": made["frames"] / made["cpu_s"]}

    context.phase("work")
    parts = spread(context, parts_wanted.count, parts_wanted, told)
    context.phase("save")
    reports = [_read(part / PART) for part in parts]
    joining_cpu_s = time.process_time()
    dataset = context.output / "dataset"
    with writing(dataset) as joined:
        for name in work["formats"]:
            (joined / name).mkdir()
            shards = [part / name for part in parts]
            import_module(FORMATS[name]).join(
                joined / name, shards, reports[0]["classes"], work["fps"]
            )
    with open(context.output / "scenes.jsonl", "w", encoding="utf-8") as scenes:
        for report in reports:
            row = {key: report[key] for key in ("index", "seed", "frames", "drawn", "moments")}
            scenes.write(json.dumps(row) + "\n")
    previews = context.output / "preview"
    previews.mkdir(exist_ok=True)
    for part in parts[:PREVIEWS]:
        (previews / f"{part.name}.png").write_bytes((part / "preview.png").read_bytes())
    costs = [_read(part / COST) for part in parts]
    joining_cpu_s = time.process_time() - joining_cpu_s
    certificate = certify(work, reports) | {
        "engines": engines(),
        "cost": cost(work, costs, joining_cpu_s, time.monotonic() - begun_s),
    }
    text = json.dumps(certificate, indent=1) + "\n"
    (context.output / "certificate.json").write_text(text, encoding="utf-8")
    # Of the middle part: the first in a process load the libraries and may compile.
    rates = [r["frames"] / c["drawing_cpu_s"] for r, c in zip(reports, costs, strict=True)]
    files = [path for path in dataset.rglob("*") if path.is_file()]
    return {
        "frames": certificate["frames"],
        "labels": certificate["checked"].get("labels", 0),
        "label_errors": certificate["label_errors"],
        "duplicates": certificate["duplicates"]["exact"],
        "coverage": certificate["coverage_share"],
        "frames_per_cpu_s": float(np.median(rates)),
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        **certificate["cost"],
    }


@dataclass(frozen=True)
class Parts:
    """Makes any part of the dataset that `work` asks for."""

    work: dict[str, Any]

    @property
    def frames_each(self) -> int:
        """Pictures of one scene, of all its cameras."""
        cameras, clip = self.work["cameras"], self.work["clip"]
        return int(cameras * (clip if clip > 1 else max(1, SCENE_FRAMES // cameras)))

    @property
    def count(self) -> int:
        """How many parts there are; the last may be short."""
        return -(-int(self.work["frames"]) // self.frames_each)

    def __call__(self, index: int, folder: Path) -> None:
        """Make one part."""
        from gigafactory.jobs.synthesize.certificate import fingerprints
        from gigafactory.jobs.synthesize.formats import png

        cpu_s, wall_s = time.process_time(), time.monotonic()
        wanted = min(self.frames_each, self.work["frames"] - index * self.frames_each)
        clip, moments, checked = shoot(self.work, index, wanted)
        report = {
            "index": index,
            "seed": clip.seed,
            "classes": clip.classes,
            "frames": len(clip.frames),
            "drawn": clip.drawn,
            "moments": moments,
            "prints": [fingerprints(frame.rgb) for frame in clip.frames],
            "things": Counter(label.class_ for frame in clip.frames for label in frame.labels),
            **checked,
        }
        drawing_cpu_s = time.process_time() - cpu_s
        for name in self.work["formats"]:
            (folder / name).mkdir()
            import_module(FORMATS[name]).shard(folder / name, clip)
        (folder / PART).write_text(json.dumps(report), encoding="utf-8")
        (folder / "preview.png").write_bytes(png(boxed(clip.frames[0], clip.classes)))
        took = {
            "drawing_cpu_s": drawing_cpu_s,
            "cpu_s": time.process_time() - cpu_s,
            "wall_s": time.monotonic() - wall_s,
        }
        (folder / COST).write_text(json.dumps(took), encoding="utf-8")


def shoot(
    work: dict[str, Any], index: int, wanted: int
) -> tuple["Clip", list[dict[str, float]], dict[str, Any]]:
    """The frames of a scene, labelled; what was drawn at each moment; what was checked of them."""
    import mujoco

    from gigafactory.jobs import worlds
    from gigafactory.jobs.synthesize.certificate import Examiner
    from gigafactory.jobs.synthesize.frame import Clip, Frame
    from gigafactory.jobs.synthesize.labels import Labeller
    from gigafactory.jobs.worlds.scene import WorldRefused, seed_of

    world, randomise = work["world"], work["randomise"]
    seed = seed_of(work["seed"], work["layouts"], index)
    scene = worlds.build(world, seed, randomise)
    model = scene.model()
    simulated = mujoco.MjData(model)
    if work["cameras"] > model.ncam:
        raise WorldRefused(
            f"{work['cameras']} cameras were asked for and there are {model.ncam}",
            f"workloads.{work['name']}.cameras",
            f"the world {world['name']} has {', '.join(camera_names(model)) or 'no camera'}",
            f"ask for at most {model.ncam}" if model.ncam else "add a <camera> to its file",
        )
    labeller, examiner = Labeller(model), Examiner(model)
    drawer = renderer(work["width"], work["height"])
    drawer.load(model, labeller.numbers)
    # Streams of their own: what is checked must not change what is drawn.
    rng, checking = (np.random.default_rng([seed, stream]) for stream in range(2))
    module = worlds.module(world)
    frames: list[Frame] = []
    moments: list[dict[str, float]] = []
    while len(frames) < wanted:
        number = len(moments)
        if number and work["clip"] > 1:
            module.advance(model, simulated, rng, 1 / work["fps"])
            moments.append({})
        else:
            moments.append(module.moment(model, simulated, rng, randomise))
        time_s = number / work["fps"] if work["clip"] > 1 else 0.0
        for camera in range(min(work["cameras"], wanted - len(frames))):
            picture = drawer.draw(simulated, camera)
            labels = labeller.label(simulated, picture)
            frame = Frame(
                number, time_s, picture.camera, picture.rgb, picture.depth, picture.instance, labels
            )
            examiner.examine(simulated, frame, checking)
            frames.append(frame)
    clip = Clip(index, seed, world["name"], scene.drawn, scene.classes, work["fps"], tuple(frames))
    checked = {
        "checked": examiner.checked,
        "errors": examiner.errors,
        "examples": [f"scene {index} of seed {seed}, {said}" for said in examiner.examples],
    }
    return clip, moments, checked


@cache
def renderer(width: int, height: int) -> "Renderer":
    """One for each size of picture in this process."""
    from gigafactory.jobs.synthesize.render import Renderer

    return Renderer(width, height)


def camera_names(model: Any) -> list[str]:
    """The cameras of a model."""
    return [model.camera(camera).name for camera in range(model.ncam)]


def certify(work: dict[str, Any], reports: list[dict[str, Any]]) -> dict[str, Any]:
    """What all parts say together: it depends on the work alone."""
    from gigafactory.jobs.synthesize.certificate import coverage, duplicates

    checked, errors, things = Counter[str](), Counter[str](), Counter[str]()
    for report in reports:
        checked.update(report["checked"])
        errors.update(report["errors"])
        things.update(report["things"])
    drawn = [report["drawn"] | moment for report in reports for moment in report["moments"]]
    covered = coverage(ranges(work["world"]), drawn)
    examples = [said for report in reports for said in report["examples"]]
    return {
        "certificate": 1,
        "world": {key: value for key, value in work["world"].items() if key != "file"},
        "frames": sum(report["frames"] for report in reports),
        "label_errors": errors.total(),
        "errors": dict(sorted(errors.items())),
        "examples": examples[:10],
        "checked": dict(sorted(checked.items())),
        "things": dict(sorted(things.items())),
        "coverage_share": float(np.mean([each["bins_hit"] for each in covered.values()]))
        if covered
        else None,
        "coverage": covered,
        "duplicates": duplicates(each for report in reports for each in report["prints"]),
        "seed": work["seed"],
        "layouts": work["layouts"],
        "seeds": [report["seed"] for report in reports],
    }


def ranges(world: dict[str, Any]) -> dict[str, "Range"]:
    """Between which ends each parameter of the world is drawn."""
    from gigafactory.jobs import worlds
    from gigafactory.jobs.worlds.scene import within

    parameters = getattr(worlds.module(world), "PARAMETERS", {})
    # A file's are those of a robot that acts there; it is in no picture.
    return within(parameters, {} if world.get("file") else world.get("ranges") or {})


def engines() -> dict[str, str]:
    """Versions of all that had a part in the pictures."""
    from gigafactory.jobs.synthesize.render import drawn_by

    versions = {
        name: metadata.version(name) for name in ("gigafactory", "mujoco", "numpy", "numba")
    }
    return versions | {"python": platform.python_version(), "gl": drawn_by()}


def cost(
    work: dict[str, Any], costs: list[dict[str, float]], joining_cpu_s: float, wall_s: float
) -> dict[str, Any]:
    """Seconds as measured, of all attempts; energy and carbon as modelled from them."""
    cpu_s = sum(each["cpu_s"] for each in costs) + joining_cpu_s
    power_w, carbon = work.get("power_w_per_chip"), work.get("carbon_g_per_kwh")
    told: dict[str, Any] = {"cpu_s": cpu_s, "wall_s": wall_s}
    if power_w is None or carbon is None:
        return told | {
            "energy_kwh": None,
            "carbon_g": None,
            "energy_basis": "unknown: the job was not told a chip's power and the grid's carbon",
        }
    energy_kwh = cpu_s * power_w / 3.6e6
    return told | {
        "energy_kwh": energy_kwh,
        "carbon_g": energy_kwh * carbon,
        "energy_basis": f"modelled: CPU-seconds at {power_w:g} W a chip, {carbon:g} gCO2/kWh",
    }


def boxed(frame: "Frame", classes: tuple[str, ...]) -> np.ndarray:
    """The picture with the boxes of what is seen, an ink a class."""
    shown = frame.rgb.copy()
    for label in frame.labels:
        ink = INKS[classes.index(label.class_) % len(INKS)]
        x0, y0, x1, y1 = label.box
        shown[[y0, y1 - 1], x0:x1] = ink
        shown[y0:y1, [x0, x1 - 1]] = ink
    return shown


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
