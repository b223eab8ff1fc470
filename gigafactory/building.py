"""The command `world`: build a world or read a user's file, look at it, judge it, write it.

Thin: `jobs.worlds` builds, reads, writes and checks; here it is told, and drawn once.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gigafactory.door import AS_JSON, as_open_as_theirs, door, say, working, write_whole
from gigafactory.faults import Fault, Refused, nearest
from gigafactory.running import table

if TYPE_CHECKING:
    from gigafactory.blueprint import Blueprint
    from gigafactory.jobs.worlds.scene import Scene

WIDTH, HEIGHT = 640, 480


def mount(app: typer.Typer) -> None:
    """Add this command to the door."""
    app.command()(world)


def world(
    name: Annotated[
        str, typer.Argument(help="warehouse, factory or road; or your .xml, .urdf, .usd file")
    ],
    seed: Annotated[int, typer.Option(min=0, help="draws the layout of a built world")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="a folder for MJCF, OpenUSD, the report and pictures"),
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """Build a 3D world, or read yours: what is in it, and whether it is fit to be simulated.

    Gates try its physics (nothing sinks, nothing explodes); checks judge it as OpenUSD, SimReady's
    way. Exit code 1 if a gate fails, 2 if the file cannot be used.

    Examples: `gigafactory world warehouse --seed 7 -o hall`, `gigafactory world my.usd --json`
    """
    with door(as_json), refusing(), working("building", as_json):
        told, scene, notes = _read(name, seed)
        told |= _judged(scene, name if notes is not None else None)
        told["notes"] = [*(notes or ()), *told["notes"]]
        told["files"] = []
        if output is not None:
            with as_open_as_theirs():
                told["files"] = _write(scene, output, told)
    say(told, as_json, lambda: _shown(told))
    if not all(gate["passed"] for gate in told["gates"]):
        raise typer.Exit(1)


def open_files(read: "Blueprint") -> str:
    """Open each world of a blueprint that is a file; what came of it, in words.

    Raises `Refused` with what is wrong with all of them.
    """
    files = {name: one.file for name, one in read.worlds.items() if one.file}
    if not files:
        return ""
    try:
        from gigafactory.jobs.worlds import imported, own
        from gigafactory.jobs.worlds.scene import WorldRefused
    except ImportError as error:
        return f"worlds not opened: {_lacking(error).why}"
    faults = []
    for name, file in files.items():
        try:
            acting = [
                _acts(work)
                for work in read.workloads.values()
                if getattr(work, "world", None) == name
            ]
            still = bool(acting) and all(acting)
            there = imported.look(file, still).scene.model().ncam
            if any(acting):
                own.place({"name": name, "file": file, "ranges": read.worlds[name].ranges})
        except WorldRefused as no:
            faults.append(Fault(no.what, f"worlds.{name}.file: {no.where}", no.why, no.remedy))
            continue
        for job, work in read.workloads.items():
            if getattr(work, "world", None) == name and getattr(work, "cameras", 1) > there:
                what, why = f"there are no {work.cameras} cameras", f"{Path(file).name} has {there}"  # type: ignore[union-attr]
                where, hint = f"workloads.{job}.cameras", f"ask for {there} at most"
                faults.append(Fault(what, where, why, hint))
    if faults:
        raise Refused(*faults)
    return f"{len(files)} world{'s' * (len(files) > 1)} opened"


def _acts(work: Any) -> bool:
    """Whether a job puts a robot into its world, rather than take pictures of it."""
    drives = work.kind == "rollout" or getattr(work, "learns", "") == "policy"
    return drives or getattr(work, "suite", "") == "closed_loop"


@contextmanager
def refusing() -> Iterator[None]:
    """A world's refusal as one of the house; so is a library that is not installed."""
    try:
        from gigafactory.jobs.worlds.scene import WorldRefused
    except ImportError as error:
        raise Refused(_lacking(error)) from None
    try:
        yield
    except WorldRefused as refused:
        why, remedy = refused.why, refused.remedy
        raise Refused(Fault(refused.what, refused.where, why, remedy)) from None
    except ImportError as error:
        raise Refused(_lacking(error)) from None


def _lacking(error: ImportError) -> Fault:
    what = "worlds need libraries that are not installed"
    return Fault(what, str(error.name), str(error), "pip install 'gigafactory[physical]'")


def _read(name: str, seed: int) -> tuple[dict[str, Any], "Scene", tuple[str, ...] | None]:
    """What was asked for; of a file also what is to be told about it."""
    from gigafactory.jobs import worlds
    from gigafactory.jobs.worlds import imported, own

    if name in worlds.SCENES:
        scene = worlds.build({"name": name, "scene": name}, seed)
        parameters = {
            parameter: {**asdict(range_), "drawn": scene.drawn.get(parameter)}
            for parameter, range_ in worlds.parameters(name).items()
        }
        return {"world": name, "seed": seed, "parameters": parameters}, scene, None
    if not Path(name).suffix and not Path(name).exists():
        known = ", ".join(imported.READERS)
        hint = f"a file ends in {known}; of ours, {nearest(name, worlds.SCENES)}"
        raise Refused(
            Fault(f"no world is called {name!r}", name, "it is neither ours nor a file", hint)
        )
    read = imported.look(name)
    drives = own.told({"name": name, "file": name})
    parameters = {key: asdict(range_) for key, range_ in imported.PARAMETERS.items()}
    told = {"world": name, "seed": None, "parameters": parameters}
    return told, read.scene, (*read.notes, drives)


def _judged(scene: "Scene", file: str | None) -> dict[str, Any]:
    """What is in it; its gates; its checks as OpenUSD (as written by us, if it is no USD)."""
    import tempfile

    from gigafactory.jobs.worlds import gates, usd
    from gigafactory.jobs.worlds.scene import things

    model = scene.model()
    # Spare ones are parked, and not to be seen.
    seen = [thing for thing in things(model) if (model.geom_group[list(thing.geoms)] != 4).any()]
    classes = Counter(thing.class_ for thing in seen)
    by_itself = model.body_mocapid[model.body_rootid] < 0
    notes: tuple[str, ...] = ()
    if file is not None and Path(file).suffix.lower() in usd.SUFFIXES:
        checks = usd.validate(file)
    else:
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "world.usda"
            notes = tuple(f"not in OpenUSD: {lost}" for lost in usd.write(scene, written))
            checks = usd.validate(written)
    return {
        "bodies": model.nbody - 1, "joints": model.njnt, "geoms": model.ngeom,
        "actuators": model.nu, "cameras": model.ncam,
        # What is placed by hand, as traffic is, has no weight that counts.
        "moving_kg": float(model.body_mass[(model.body_weldid > 0) & by_itself].sum()),
        "classes": dict(classes), "notes": list(notes),
        "gates": [_told(gate) for gate in map(asdict, gates.check(scene))],
        "checks": [asdict(check) for check in checks],
    }  # fmt: skip


def _told(gate: dict[str, Any]) -> dict[str, Any]:
    """A gate as JSON, which has no infinity; one that was not tried has no value."""
    value = gate["value"]
    return gate | {"value": value if gate["tried"] and math.isfinite(value) else None}


def _write(scene: "Scene", folder: Path, told: dict[str, Any]) -> list[str]:
    """The world in both forms, a report, and how it looks."""
    import json

    from gigafactory.jobs.worlds import usd
    from gigafactory.jobs.worlds.scene import WorldRefused

    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "world.xml", scene.mjcf)
    for name, content in scene.assets.items():
        (folder / name).write_bytes(content)
    usd.write(scene, folder / "world.usda")
    try:
        pictures = _draw(scene, folder)
    except WorldRefused as error:
        # A machine without OpenGL still has the world, its gates and its checks.
        pictures = []
        told["notes"].append(f"no pictures: {str(error).splitlines()[0]}")
    write_whole(folder / "report.json", json.dumps(told, indent=1, default=str) + "\n")
    names = ("world.xml", *scene.assets, "world.usda", "report.json", *pictures)
    return [str(folder / name) for name in names]


def _draw(scene: "Scene", folder: Path) -> list[str]:
    """What camera/0 sees, and the same in a colour for each thing."""
    import mujoco
    import numpy as np
    from PIL import Image

    from gigafactory.jobs import worlds
    from gigafactory.jobs.synthesize.render import Renderer
    from gigafactory.jobs.worlds.scene import things

    model = scene.model()
    data = mujoco.MjData(model)
    world = {"file": True} if scene.world == "import" else {"scene": scene.world}
    worlds.module(world).moment(model, data, np.random.default_rng(scene.seed), randomise=False)
    thing_of_geom = np.zeros(model.ngeom, int)
    for thing in things(model):
        thing_of_geom[list(thing.geoms)] = thing.number
    # Colours far apart: a golden step around the wheel for each number.
    hue = (np.arange(thing_of_geom.max() + 1) * 0.618034) % 1
    wheel = np.clip(np.abs((hue[:, None] * 6 + [0, 4, 2]) % 6 - 3) - 1, 0, 1) * 200 + 55
    wheel[0] = 0
    renderer = Renderer(WIDTH, HEIGHT)
    renderer.load(model, thing_of_geom)
    seen = renderer.draw(data)
    Image.fromarray(seen.rgb).save(folder / "camera-0.png")
    Image.fromarray(wheel[seen.instance].astype(np.uint8)).save(folder / "camera-0-things.png")
    return ["camera-0.png", "camera-0-things.png"]


def _went(gate: dict[str, Any]) -> str:
    return ("passed" if gate["passed"] else "FAILED") if gate["tried"] else "not tried"


def _shown(told: dict[str, Any]) -> Any:
    from rich.console import Group

    of = f", seed {told['seed']}" if told["seed"] is not None else ""
    parts = ", ".join(
        f"{told[key]} {key}" for key in ("bodies", "joints", "geoms", "actuators", "cameras")
    )
    classes = ", ".join(f"{count} {name}" for name, count in told["classes"].items()) or "none"
    mass = f"{told['moving_kg']:,.4g} kg of it can move"
    head = f"{told['world']}{of}: {parts}, {mass}\nlabelled: {classes}"
    ranges = [
        (name, f"{one['low']:.4g}", f"{one['high']:.4g}", one["unit"], f"{drawn:.4g}"
         if (drawn := one.get("drawn")) is not None else "–")
        for name, one in told["parameters"].items()
    ]  # fmt: skip
    gates = [
        (gate["name"], _went(gate), "–" if gate["value"] is None else f"{gate['value'] + 0.0:.4g}",
         gate["why"])
        for gate in told["gates"]
    ]  # fmt: skip
    failed = [check for check in told["checks"] if not check["passed"]]
    passed = len({check["name"] for check in told["checks"]} - {check["name"] for check in failed})
    checks = [(check["name"], check["prim"], check["why"]) for check in failed]
    shown: list[Any] = [head, *(f"note: {note}" for note in told["notes"])]
    shown += [table(("parameter", "from", "to", "unit", "drawn"), ranges)]
    shown += [table(("gate", "", "value", "why"), gates)]
    shown += [f"as OpenUSD: {passed} checks passed, {len(failed)} faults"]
    shown += [table(("check", "prim", "why"), checks)] if checks else []
    return Group(*shown, *(f"wrote {name}" for name in told["files"]))
