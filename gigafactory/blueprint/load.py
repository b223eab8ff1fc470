"""Reading a blueprint: YAML to records, with file and line for everything that is wrong."""

import json
from collections.abc import Iterable, Mapping, MutableMapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gigafactory.blueprint.check import check, check_job
from gigafactory.blueprint.schema import FORMS, TRAINING, AnyWorkload, Blueprint, NewJob, form
from gigafactory.blueprint.streams import TraceStream
from gigafactory.faults import Fault, Refused, nearest

# Where blueprints lie: beside the package in a checkout, inside it in a wheel.
FOLDERS = (Path(__file__).parents[2] / "blueprints", resources.files("gigafactory") / "blueprints")


def load(source: str | Path, overrides: Iterable[str] = ()) -> Blueprint:
    """The blueprint at a path, or a shipped one by name, with `PATH=VALUE` overrides applied.

    Raises `Refused` with every fault found, each with its line.
    """
    path = find(source)
    return parse(read_text(path), path, overrides)


def parse(text: str, path: Path, overrides: Iterable[str] = ()) -> Blueprint:
    """A blueprint from its text; `path` names it in faults and anchors relative paths."""
    tree = read_changed(text, path, overrides)
    try:
        blueprint = Blueprint.model_validate(tree)
    except ValidationError as error:
        # A misspelt key is missing under its right name too: tell of the misspelling first.
        found = sorted(error.errors(), key=lambda e: e["type"] == "missing")
        raise Refused(*(_fault(tree, path.name, e) for e in found)) from None
    faults = [
        Fault(what, f"{path.name}{_line(tree, place)}, {_dotted(place)}", why, remedy)
        for place, what, why, remedy in check(blueprint, path.parent)
    ]
    if faults:
        raise Refused(*faults)
    return _anchor(blueprint, path.parent)


def grow(blueprint: Blueprint, name: str, work: Any) -> AnyWorkload:
    """One more workload of a blueprint, checked as one in the file is, and nothing else is.

    It may stand on what is in `blueprint.workloads`; being new, it closes no circle. Raises
    `Refused` with every fault.
    """
    try:
        new = NewJob.model_validate({"name": name, "work": work})
    except ValidationError as error:
        found = [_fault({"work": work}, "the job", e) for e in error.errors()]
        raise Refused(*found) from None
    faults = [
        Fault(what, f"the job, {_dotted(place)}", why, remedy)
        for place, what, why, remedy in check_job(blueprint, name, new.work)
    ]
    if faults:
        raise Refused(*faults)
    return new.work


def read_text(path: Path) -> str:
    """The text of a file. Raises `Refused` where it is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise Refused(
            Fault(f"{path.name} cannot be read", str(path), str(error), "give a UTF-8 text file")
        ) from None


def read_tree(text: str, path: Path) -> Any:
    """The YAML tree, which knows its lines. Raises `Refused` where it is no YAML mapping."""
    try:
        tree = YAML(typ="rt").load(text)
    except (YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise Refused(
            Fault(
                "the file is not YAML",
                f"{path.name}:{line}",
                getattr(error, "problem", None) or str(error),
                "mind indentation, quotes and dates; docs/blueprint.md has an example",
            )
        ) from None
    if not isinstance(tree, Mapping):
        is_ = "a list" if isinstance(tree, list) else "empty" if tree is None else "one value"
        raise Refused(
            Fault(
                "the file holds no keys",
                f"{path.name}:1",
                f"it is {is_}, not `key: value` lines",
                "`gigafactory schema example` is a blueprint; docs/blueprint.md explains its keys",
            )
        )
    return tree


def find(source: str | Path) -> Path:
    """Path of a blueprint given by path or by shipped name."""
    path = Path(source)
    if path.is_file():
        return path
    ready = shipped()
    if str(source) in ready:
        return ready[str(source)]
    raise Refused(
        Fault(
            f"there is no blueprint {str(source)!r}",
            str(source),
            "it is neither a file nor the name of a shipped blueprint",
            nearest(str(source), ready),
        )
    )


def shipped() -> dict[str, Path]:
    """Ready blueprints by name."""
    return {
        file.stem: file
        for folder in map(Path, map(str, FOLDERS))
        if folder.is_dir()
        for file in sorted(folder.glob("*.yaml"))
    }


def read_changed(text: str, path: Path, overrides: Iterable[str]) -> Any:
    """The YAML tree with `PATH=VALUE` overrides applied, unchecked."""
    tree = read_tree(text, path)
    for override in overrides:
        _override(tree, override)
    return tree


def _override(tree: Any, override: str) -> None:
    """Set `a.b.c=value` in the tree; the value is read as YAML, like the file."""
    place, sign, value = override.partition("=")
    *above, last = place.strip().split(".")
    if not sign or not last:
        raise Refused(
            Fault(
                f"--set {override!r} sets nothing",
                "--set",
                "it has no '='" if not sign else "it names no key",
                "write it as --set sites.milan.power=62MW",
            )
        )
    node: Any = tree
    for depth, key in enumerate(above):
        left_out = isinstance(node, MutableMapping) and key not in node
        if left_out and key in _keys(tree, above[:depth]):
            node[key] = {}  # A part that the file leaves out.
        if not isinstance(node, Mapping) or key not in node:
            known = node if isinstance(node, Mapping) else ()
            raise Refused(
                Fault(
                    f"--set {override!r} leads nowhere",
                    f"--set {place}",
                    f"{key!r} is not in the blueprint",
                    nearest(key, known),
                )
            )
        node = node[key]
    try:
        node[last] = YAML(typ="safe").load(value)
    except (YAMLError, ValueError, TypeError) as error:
        raise Refused(
            Fault(
                f"--set {override!r} cannot be set",
                f"--set {place}",
                str(error).splitlines()[0],
                "write it as --set sites.milan.power=62MW",
            )
        ) from None


def _anchor(blueprint: Blueprint, folder: Path) -> Blueprint:
    """Make relative paths absolute, so that the blueprint no longer needs its file."""
    models = {}
    for name, source in blueprint.models.items():
        config = source.config
        if isinstance(config, str) and (folder / config).exists():
            config = json.loads(_config_file(folder / config).read_text(encoding="utf-8"))
        weights = source.weights
        if weights and (folder / weights).exists():
            weights = str((folder / weights).resolve())
        models[name] = source.model_copy(update={"config": config, "weights": weights})
    streams = {
        name: stream.model_copy(update={"file": str((folder / stream.file).resolve())})
        if isinstance(stream, TraceStream)
        else stream
        for name, stream in blueprint.streams.items()
    }
    worlds = {
        name: world.model_copy(update={"file": str((folder / world.file).resolve())})
        if world.file
        else world
        for name, world in blueprint.worlds.items()
    }
    access = blueprint.access
    if access.oidc and not access.oidc.jwks.startswith("https://"):
        file = str((folder / access.oidc.jwks).resolve())
        access = access.model_copy(update={"oidc": access.oidc.model_copy(update={"jwks": file})})
    return blueprint.model_copy(
        update={"models": models, "worlds": worlds, "streams": streams, "access": access}
    )


def _config_file(path: Path) -> Path:
    return path / "config.json" if path.is_dir() else path


def _fault(tree: Any, file: str, error: Mapping[str, Any]) -> Fault:
    """A pydantic error as a fault with its line."""
    place = _real_place(tree, error["loc"])
    if error["type"].startswith("union_tag") and "form()" in error["ctx"]["discriminator"]:
        return _formless(tree, file, place, error["input"])
    where = f"{file}{_line(tree, place)}, {_dotted(place)}"
    key, kind = str(place[-1]) if place else "", error["type"]
    if kind == "extra_forbidden":
        parent, remedy = _dotted(place[:-1]) or "a blueprint", nearest(key, _keys(tree, place[:-1]))
        return Fault(f"unknown key {key!r}", where, f"{parent} has no such key", remedy)
    if kind == "missing":
        return Fault(
            f"{key!r} is missing",
            where,
            "it has no default",
            f"add `{key}: ...`; see docs/blueprint.md",
        )
    value = error.get("input")
    kinds = {list: "a list", dict: "a mapping"}
    shown = next((said for kind, said in kinds.items() if isinstance(value, kind)), repr(value))
    why = error["msg"].removeprefix("Value error, ")
    return Fault(f"{_dotted(place)} cannot be {shown}", where, why, _remedy(error))


def _formless(tree: Any, file: str, place: tuple, said: Any) -> Fault:
    """A workload that is of no kind, or learns what nothing does."""
    learns = isinstance(said, Mapping) and said.get("kind") in TRAINING
    key = "learns" if learns else "kind"
    tags = [tag.removeprefix("learns ") for tag in FORMS if tag.startswith("learns ") == learns]
    known = tags if learns else dict.fromkeys([*TRAINING, *tags])
    where = f"{file}{_line(tree, (*place, key))}, {_dotted((*place, key))}"
    if not isinstance(said, Mapping):
        return Fault(f"{_dotted(place)} is no workload", where, "it has no keys", "see `kind`")
    if key not in said:
        return Fault("'kind' is missing", where, "it has no default", f"one of {', '.join(known)}")
    why = f"there is {', '.join(known)}"
    return Fault(f"no workload has {key} {said[key]!r}", where, why, nearest(str(said[key]), known))


def _remedy(error: Mapping[str, Any]) -> str:
    context = error.get("ctx") or {}
    if "expected_tags" in context:
        return f"one of {context['expected_tags']}"
    if "expected" in context:
        return f"write {context['expected']}"
    if error["type"] == "string_pattern_mismatch":
        return f"it must match {context.get('pattern')}"
    return "`gigafactory schema blueprint` prints what every key takes"


def _real_place(tree: Any, loc: tuple) -> tuple:
    """`loc` without the tags that pydantic adds for unions."""
    place, node = [], tree
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        inside = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if inside or (isinstance(node, Mapping) and part in node):
            node = node[part]
        elif not last or part == "[key]":
            continue
        place.append(part)
    return tuple(place)


def _line(tree: Any, place: tuple) -> str:
    """`:12`, the line of the last part of `place` that stands in the file."""
    line, node = 1, tree
    for part in place:
        try:
            found = node.lc.item(part) if isinstance(part, int) else node.lc.key(part)
            node, line = node[part], found[0] + 1
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return f":{line}"


def _dotted(place: Iterable[Any]) -> str:
    return ".".join(map(str, place))


def _keys(tree: Any, place: Iterable[Any]) -> list[str]:
    """Keys that the schema knows at `place`."""
    schema = Blueprint.model_json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    node: Any = schema
    value = tree
    for part in place:
        inside = isinstance(value, list) and isinstance(part, int)
        value = value.get(part) if isinstance(value, Mapping) else value[part] if inside else None
        named = node.get("patternProperties", {}).values()  # what stands under people's names
        node = node.get("properties", {}).get(part) or next(iter(named), node.get("items", {}))
        node = next((n for n in node.get("anyOf", ()) if "$ref" in n), node)
        if "discriminator" in node and isinstance(value, Mapping):
            reference = node["discriminator"]["mapping"].get(value.get("kind"), "")
            node = {"$ref": reference}
        elif "oneOf" in node and isinstance(value, Mapping) and form(value) in FORMS:
            node = {"$ref": FORMS[str(form(value))].__name__}
        if "$ref" in node:
            node = definitions.get(node["$ref"].rsplit("/", 1)[-1], {})
    return list(node.get("properties", ()))
