"""What can be wrong with worlds, and with what jobs hand to each other: frames, policies, models.

`learned` tells what a job makes that can be judged and served.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from gigafactory.blueprint.parts import Workload, one_or_many
from gigafactory.blueprint.schema import SUITES, Blueprint, Evaluate, Finetune, Pretrain, Serve
from gigafactory.blueprint.worlds import LearnDetector, LearnPolicy, Rollout, Synthesize, World
from gigafactory.faults import nearest
from gigafactory.stack import worlds

Found = tuple[tuple, str, str, str]
SUFFIXES = (".usd", ".usda", ".usdc", ".xml", ".urdf")
MAKERS = {
    "frames": "a synthesize job",
    "episodes": "a rollout job",
    "detector": "a pretrain or finetune job with `learns: detector`",
    "policy": "a pretrain or finetune job with `learns: policy`",
    "language model": "a pretrain or finetune job with a `model`",
    "model": "a pretrain or finetune job",
}
"""Who makes what."""
SCENARIOS_MIN = 4000
"""Of a falsification."""


def check(blueprint: Blueprint, folder: Path) -> Iterator[Found]:
    """Every fault of the worlds themselves."""
    for name, world in blueprint.worlds.items():
        here = ("worlds", name)
        if (world.scene is None) == (world.file is None):
            what = f"{name!r} is {'a scene and a file' if world.scene else 'no world'}"
            why = "a world has either `scene` or `file`"
            yield here, what, why, f"`scene: {'|'.join(worlds.SCENES)}`, or `file: hall.usd`"
        elif world.file is not None:
            yield from _file(here, world, folder / world.file)
        elif world.scene is not None:
            yield from _ranges(here, world.ranges, worlds.parameters(world.scene), world.scene)


def check_job(blueprint: Blueprint, name: str, work: Workload) -> Iterator[Found]:
    """Every fault of one job in what it reads, and where it acts."""
    here = ("workloads", name)
    yield from _stated(blueprint, here, work)
    for key, job in inputs(work):
        made = blueprint.workloads.get(job)
        wanted = _wanted(work, key)
        if made is None or _makes(made) == wanted or (wanted == "model" and learned(made)):
            continue
        what, it_is = f"{job!r} makes no {wanted}", f"it is a {made.kind}"
        if learned(made):
            it_is += f" of a {_makes(made)}"
        yield (*here, key), what, it_is, f"name {MAKERS[wanted]}"
    if isinstance(work, LearnDetector):
        yield from _frames(blueprint, (*here, "of"), work)
    yield from _falsifies(blueprint, here, work)
    yield from _knows(blueprint, here, work)


def inputs(work: Workload) -> Iterator[tuple[str, str]]:
    """Every job that this one reads, with the key that names it."""
    for key in ("of", "start", "against"):
        for job in one_or_many(getattr(work, key, None) or ()):
            yield key, job


def learned(work: Workload) -> str | None:
    """What a job learns: `language`, `detector`, `policy`, or None where it learns nothing."""
    if isinstance(work, Pretrain | Finetune):
        return "language"
    return getattr(work, "learns", None)


def _makes(work: Workload) -> str | None:
    if isinstance(work, Synthesize | Rollout):
        return "frames" if isinstance(work, Synthesize) else "episodes"
    what = learned(work)
    return "language model" if what == "language" else what


def _wanted(work: Workload, key: str) -> str:
    """What the job that `key` names must make."""
    if isinstance(work, Serve):
        return "model"
    if isinstance(work, Evaluate):
        return {"language": "language model"}.get(SUITES[work.suite], SUITES[work.suite])
    if isinstance(work, LearnDetector | LearnPolicy):
        data = "frames" if work.learns == "detector" else "episodes"
        return work.learns if key == "start" else data
    return "policy"


def _file(here: tuple, world: World, path: Path) -> Iterator[Found]:
    if path.suffix.lower() not in SUFFIXES:
        why = f"it ends in {path.suffix!r}" if path.suffix else "its name has no ending"
        yield (*here, "file"), f"{path.name!r} is no world", why, f"one of {', '.join(SUFFIXES)}"
    elif not path.is_file():
        what, why = f"there is no file {world.file!r}", "a path is taken from the blueprint"
        yield (*here, "file"), what, why, "give a path from there, or a whole one"
    yield from _ranges(here, world.ranges, worlds.parameters("file"), "file")


def _ranges(
    here: tuple,
    ranges: Mapping[str, tuple[float, float]],
    known: Mapping[str, worlds.Parameter],
    scene: str,
) -> Iterator[Found]:
    for key, (low, high) in ranges.items():
        place = (*here, "ranges", key)
        if key not in known:
            yield place, f"a {scene} has no {key!r}", "it draws no such thing", nearest(key, known)
            continue
        of = known[key]
        possible = f"[{of.low:g}, {of.high:g}]"
        if low > high:
            why, hint = f"{low:g} is more than {high:g}", f"write [{high:g}, {low:g}]"
            yield place, f"the range of {key} is empty", why, hint
        elif not of.low <= low <= high <= of.high:
            why = f"possible is {possible} {of.unit}".rstrip()
            yield place, f"{key} cannot lie in [{low:g}, {high:g}]", why, f"stay in {possible}"
        elif of.whole and (low % 1 or high % 1):
            why = "it is a count"
            yield place, f"{key} cannot lie in [{low:g}, {high:g}]", why, "write whole numbers"


def _stated(blueprint: Blueprint, here: tuple, work: Workload) -> Iterator[Found]:
    """Which keys a job must have, and which it cannot, as it is what it is."""
    name, needed, refused, why = here[-1], set(), set(), ""
    if isinstance(work, LearnDetector | LearnPolicy) and work.kind == "pretrain":
        needed, refused, why = {"of"}, {"start", "world"}, "to pretrain is to learn from data"
    elif isinstance(work, Synthesize):
        needed, why = {"formats"}, "a dataset is written in one at least"
    elif isinstance(work, LearnDetector):
        needed, why = {"start"}, "to finetune is to go on from what a job learned"
    elif isinstance(work, LearnPolicy):
        needed, refused, why = {"start", "world"}, {"of"}, "to finetune a policy is to practise"
    elif isinstance(work, Evaluate) and SUITES[work.suite] == "language":
        refused, why = {"world", "against"}, f"{work.suite} judges a language model by text"
    elif isinstance(work, Evaluate):
        needed, why = {"world"}, f"{work.suite} judges what is done there"
    elif isinstance(work, Rollout) and (work.policy is None) == (work.of is None):
        what = f"{name!r} has {'two policies' if work.of else 'no policy'}"
        remedy = "`policy: expert`, `policy: random`, or `of: JOB` with a learned one"
        yield here, what, "an episode is of one policy", remedy
    if isinstance(work, Synthesize):
        yield from _cameras(blueprint, here, work)
    for key in sorted(needed):
        if not getattr(work, key):
            yield here, f"{name!r} has no `{key}`", why, f"add `{key}: ...`"
    for key in sorted(refused):
        if getattr(work, key, None):
            yield (*here, key), f"{name!r} cannot have `{key}`", why, f"drop `{key}`"


def _cameras(blueprint: Blueprint, here: tuple, work: Synthesize) -> Iterator[Found]:
    """How many cameras a file has is known only once it is read."""
    world = blueprint.worlds.get(work.world)
    scene = world.scene if world else None
    if scene and work.cameras > (there := worlds.cameras(scene)):
        what, why = f"there are no {work.cameras} cameras", f"a {scene} has {there}"
        yield (*here, "cameras"), what, why, f"ask for {there} at most"


def _frames(blueprint: Blueprint, place: tuple, work: LearnDetector) -> Iterator[Found]:
    """Frames that can be read, and be put into one batch."""
    found = {name: blueprint.workloads.get(name) for name in work.of}
    made = {name: one for name, one in found.items() if isinstance(one, Synthesize)}
    for name, one in made.items():
        if "coco" not in one.formats:
            why = "a detector reads its frames from COCO"
            yield place, f"{name!r} writes no COCO", why, f"add `coco` to the formats of {name!r}"
    sizes = {f"{one.width} × {one.height}" for one in made.values()}
    if len(sizes) > 1:
        what, why = "the frames differ in size", f"they are {' and '.join(sorted(sizes))}"
        yield place, what, why, "learn from frames of one size"


def _falsifies(blueprint: Blueprint, here: tuple, work: Workload) -> Iterator[Found]:
    """Only driving is falsified, by scenarios enough."""
    if not (isinstance(work, Evaluate) and work.suite == "falsification"):
        return
    if (world := blueprint.worlds.get(work.world or "")) is None:
        return
    if world.scene != "road":
        is_ = f"a {world.scene}" if world.scene else "a file, in which a robot finds its way"
        why = f"its scenarios are traffic, and {work.world!r} is {is_}"
        yield (*here, "world"), "falsification wants a road", why, "name a world with `scene: road`"
    elif work.examples < SCENARIOS_MIN:
        what = f"{work.examples} scenarios are too few"
        why = "most of them are spent on finding where failures lie"
        yield (*here, "examples"), what, why, f"ask for {SCENARIOS_MIN} at least: a second's work"


def _knows(blueprint: Blueprint, here: tuple, work: Workload) -> Iterator[Found]:
    """What was learned in one scene is of no use in another: other things, other tasks."""
    own = _scenes(blueprint, work)
    if len(own) > 1:
        what, why = f"{here[-1]!r} would learn two scenes", f"they are {' and '.join(sorted(own))}"
        yield (*here, "of"), what, why, "learn each in a job of its own"
    for key, job in inputs(work):
        made = blueprint.workloads.get(job)
        if not isinstance(made, LearnDetector | LearnPolicy):
            continue
        elsewhere = _scenes(blueprint, made) - own
        if own and elsewhere:
            what = f"the {made.learns} of {job!r} does not know scene {' and '.join(sorted(own))}"
            why = f"it has learned in scene {' and '.join(sorted(elsewhere))}"
            if (world := blueprint.worlds.get(getattr(work, "world", None) or "")) and world.file:
                why += "; what is done in a file is to find a way, as in a warehouse"
            yield (*here, key), what, why, "name a job or a world of the same scene"


def _scenes(blueprint: Blueprint, work: Workload) -> set[str]:
    """Scenes that a job is about, as far as the blueprint tells; a file is none to look at.

    To act in, it is like a warehouse: a robot finds its way.
    """
    judges = isinstance(work, Evaluate) and SUITES[work.suite] == "policy"
    acts = judges or isinstance(work, Rollout | LearnPolicy)
    data = [blueprint.workloads.get(job) for key, job in inputs(work) if key == "of"]
    made = [one for one in data if isinstance(one, Synthesize | Rollout)]
    named = [getattr(one, "world", None) for one in (work, *made)]
    found = [blueprint.worlds[name] for name in named if name in blueprint.worlds]
    scenes = {world.scene or ("warehouse" if world.file and acts else None) for world in found}
    return {scene for scene in scenes if scene}
