"""A user's MJCF or URDF, made one self-contained MJCF text with its assets beside it in memory.

Files are confined: a mesh, texture or include that leads out of the folder of the model (of a
URDF: of its package) is refused, as is a DOCTYPE, so that a world cannot read what is not its own.
Each element keeps the file and line that it came from, for what MuJoCo finds wrong with it later.
Source of the rules: https://mujoco.readthedocs.io/en/stable/XMLreference.html (include, compiler)
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

import mujoco

from gigafactory.jobs.worlds.scene import WorldRefused

BYTES_MAX = 256 << 20  # of one file
DEPTH_MAX = 200
COUNT_MAX = 10_000  # of what one element repeats
MESHES = (".stl", ".obj", ".msh")
FOLDER_OF = {"mesh": "meshdir", "hfield": "meshdir", "skin": "meshdir", "flexcomp": "meshdir",
             "texture": "texturedir"}  # fmt: skip
UNBOUNDED = ("range", "limit", "cutoff")  # may say inf


@dataclass(eq=False)
class Element:
    """One element of XML, and where it stands."""

    tag: str
    attributes: dict[str, str]
    file: str
    line: int
    children: "list[Element]" = field(default_factory=list)
    prim: str = ""
    """Where it comes from USD, which has no lines."""

    def walk(self) -> "Iterator[Element]":
        """This element and all below it, in the order of the text."""
        yield self
        for child in self.children:
            yield from child.walk()

    def child(self, tag: str) -> "Element":
        """The first child called `tag`; made where there is none."""
        for child in self.children:
            if child.tag == tag:
                return child
        return self.add(tag)

    def add(self, tag: str, prim: str = "", **attributes: object) -> "Element":
        """One more child; numbers are written whole, what is None is left out."""
        named = {k.rstrip("_"): _written(v) for k, v in attributes.items() if v is not None}
        made = Element(tag, named, self.file, self.line, prim=prim or self.prim)
        self.children.append(made)
        return made

    @property
    def where(self) -> str:
        """A place to look at."""
        if self.prim:
            return f"{self.file}, {self.prim}"
        name = self.attributes.get("name")
        return f"{self.file}:{self.line}, <{self.tag}{f' name={name!r}' if name else ''}>"


@dataclass
class World:
    """MJCF as elements, its files, and what a person should be told about both."""

    root: Element
    assets: dict[str, bytes]
    notes: list[str]

    def text(self) -> tuple[str, list[Element]]:
        """The MJCF, and for each of its lines the element that stands there."""
        lines: list[str] = []
        origins: list[Element] = []

        def put(element: Element, depth: int) -> None:
            written = "".join(f" {k}={quoteattr(v)}" for k, v in element.attributes.items())
            end = ">" if element.children else "/>"
            lines.append(f"{' ' * depth}<{element.tag}{written}{end}")
            origins.append(element)
            for child in element.children:
                put(child, depth + 1)
            if element.children:
                lines.append(f"{' ' * depth}</{element.tag}>")
                origins.append(element)

        put(self.root, 0)
        return "\n".join(lines) + "\n", origins

    def compiled(self) -> mujoco.MjModel:
        """What MuJoCo makes of it; what it finds wrong, with the place in the user's file."""
        text, origins = self.text()
        try:
            return mujoco.MjModel.from_xml_string(text, self.assets)
        except (ValueError, mujoco.FatalError, MemoryError) as error:
            told = " ".join(str(error).split()) or "there is not memory enough for it"
            line = re.search(r"[Ll]ine (?:number=)?(\d+)", told)
            at = origins[int(line[1]) - 1] if line and int(line[1]) <= len(origins) else self.root
            if not line and (named := re.search(r"Element name '(.+?)', id \d+$", told)):
                has_it = (e for e in self.root.walk() if e.attributes.get("name") == named[1])
                at = next(has_it, at)
            why = re.sub(r"^((XML |URDF )?Error: )+|Schema violation: ", "", told)
            why = re.sub(r",? line (number=)?\d+.*$", "", why)
            why = re.sub(r",? ?Element (name '.*?', id \d+|'\w+')$", "", why)
            raise WorldRefused(
                "MuJoCo cannot compile this world", at.where, why.strip(" ,"),
                "correct this element, or what it names",
            ) from None  # fmt: skip


def read(path: Path) -> World:
    """The world of an MJCF or URDF file."""
    root = parse(path, path.name)
    if root.tag == "robot":
        return _urdf(path, root)
    if root.tag != "mujoco":
        refuse(
            f"{path.name} is no world", root, f"it begins with <{root.tag}>",
            "give MJCF (<mujoco>) or URDF (<robot>)",
        )  # fmt: skip
    world = World(root, {}, [])
    _settle(world, path.parent.resolve(), path.parent.resolve())
    check(root)
    return world


def parse(path: Path, told: str) -> Element:
    """The elements of an XML file; one with a DOCTYPE, or that is too deep, is refused."""
    text = _bytes(path, told)
    if not text.strip():
        raise WorldRefused("the file is empty", told, "it has no element", "export the world again")
    parser = expat.ParserCreate()
    parser.buffer_text = True
    stack: list[Element] = []
    roots: list[Element] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes, told, parser.CurrentLineNumber)
        (stack[-1].children if stack else roots).append(element)
        stack.append(element)
        if len(stack) > DEPTH_MAX:
            refuse("the file is too deep", element, f"it nests more than {DEPTH_MAX} elements",
                   "flatten it")  # fmt: skip

    def doctype(*_: object) -> NoReturn:
        raise WorldRefused(
            "the file has a DOCTYPE", f"{told}:{parser.CurrentLineNumber}",
            "one can make a file read others, or grow without bound; worlds need none",
            "delete the DOCTYPE",
        )  # fmt: skip

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, WorldRefused):
            raise
        raise WorldRefused(
            "the file is not whole XML", f"{told}:{parser.ErrorLineNumber}",
            expat.ErrorString(parser.ErrorCode) or str(error), "export the world again",
        ) from None  # fmt: skip
    return roots[0]


def check(root: Element) -> None:
    """What MuJoCo would let pass, or tell without saying how to mend it."""
    for element in root.walk():
        for key, value in element.attributes.items():
            numbers = _numbers(value) if key != "name" else []
            if any(math.isnan(n) for n in numbers) or (
                any(map(math.isinf, numbers)) and not any(word in key for word in UNBOUNDED)
            ):
                refuse(f"{key} is no number", element, f'{key}="{value}"', "write a finite number")
            if key == "count" and math.prod(numbers) > COUNT_MAX:
                refuse("there is too much of it", element, f'{key}="{value}"',
                       f"write {COUNT_MAX} at most")  # fmt: skip
            of = element.tag if key == "value" else key  # URDF's <mass value="1"/>
            if of in ("mass", "diaginertia", "density") and any(n < 0 for n in numbers):
                refuse(f"{of} is negative", element, f'{key}="{value}"', "write what it weighs")
    if root.tag == "mujoco":
        _no_joint_of_the_world(root)


def _no_joint_of_the_world(root: Element) -> None:
    held = [child for child in root.children if child.tag in ("worldbody", "frame")]
    for parent in [root, *held]:
        for child in parent.children:
            if child.tag in ("joint", "freejoint"):
                refuse("a joint without a body", child, f"it stands in <{parent.tag}>, not a body",
                       "move it into the <body> that it moves")  # fmt: skip
            if child.tag == "frame" and parent is not root:
                _no_joint_of_the_world(Element("worldbody", {}, "", 0, [child]))


def refuse(what: str, at: Element, why: str, remedy: str) -> NoReturn:
    """Say no, with the element."""
    raise WorldRefused(what, at.where, why, remedy)


def inside(root: Path, folder: Path, name: str, at: Element) -> Path:
    """The file that `name` means; it must lie in `root`, links followed, and be there."""
    try:
        path = (folder / name.replace("\\", "/")).resolve()
        lies_inside = path.is_relative_to(root)
    except (OSError, ValueError, RuntimeError):
        lies_inside = False
    if not lies_inside:
        refuse(f"{name!r} leads out of the world's folder", at,
               "a world reads only files beside and below it", "copy the file there")  # fmt: skip
    if not path.is_file():
        what = "an included file" if at.tag == "include" else f"a {at.tag}"
        refuse(f"{what} is missing", at, f"there is no file {name!r} in {folder.name}/",
               "put it there, or correct the name")  # fmt: skip
    return path


def keep(assets: dict[str, bytes], path: Path, at: Element) -> str:
    """Put a file's bytes among the assets; the name that MuJoCo finds it by."""
    content = _bytes(path, at.where)
    for name, known in assets.items():
        if known == content and Path(name).suffix == path.suffix.lower():
            return name
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)
    name = f"{len(assets)}-{safe}{path.suffix.lower()}"
    assets[name] = content
    return name


def _settle(world: World, root: Path, folder: Path) -> None:
    """Put in what the model includes, and its files among the assets."""
    seen: set[Path] = set()

    def spliced(element: Element, within: tuple[Path, ...]) -> list[Element]:
        if element.tag != "include":
            held = element.children
            element.children = [new for child in held for new in spliced(child, within)]
            return [element]
        path = inside(root, folder, element.attributes.get("file", ""), element)
        if path in within:
            refuse("a file includes itself", element, f"{path.name} is being read here already",
                   "take this <include> away")  # fmt: skip
        if path in seen:
            refuse("a file is included twice", element, "names in it would not be unique",
                   "include it once")  # fmt: skip
        seen.add(path)
        held = parse(path, path.name).children
        return [new for child in held for new in spliced(child, (*within, path))]

    spliced(world.root, ((folder / world.root.file).resolve(),))
    paths: dict[str, str] = {}
    strips = False
    for element in world.root.walk():
        if element.tag == "compiler":
            own = element.attributes
            paths |= {k: v for k in ("assetdir", "meshdir", "texturedir") if (v := own.pop(k, ""))}
            strips = own.pop("strippath", str(strips).lower()) == "true"
    for element in world.root.walk():
        for key, name in list(element.attributes.items()):
            if not re.fullmatch("file(right|left|up|down|front|back)?", key) or not name:
                continue
            below = paths.get(FOLDER_OF.get(element.tag, ""), paths.get("assetdir", ""))
            name = re.split(r"[\\/]", name)[-1] if strips else name
            path = inside(root, folder / (below if element.tag in FOLDER_OF else ""), name, element)
            _known_form(path, element)
            if element.tag in ("mesh", "hfield", "texture") and key == "file":
                element.attributes.setdefault("name", path.stem)
            if element.tag == "model":
                part = World(parse(path, path.name), world.assets, world.notes)
                _settle(part, root, path.parent)
                check(part.root)
                kept = f"{len(world.assets)}-model.xml"
                world.assets[kept] = part.text()[0].encode()
                element.attributes[key] = kept
            else:
                element.attributes[key] = keep(world.assets, path, element)


def _known_form(path: Path, at: Element) -> None:
    forms = {"mesh": MESHES, "model": (".xml",)}.get(at.tag)
    if forms and path.suffix.lower() not in forms:
        refuse(f"MuJoCo reads no {path.suffix or 'such'} {at.tag}", at,
               f"it reads {', '.join(forms)}", f"convert {path.name}")  # fmt: skip


def _urdf(path: Path, root: Element) -> World:
    """A robot: MuJoCo's own URDF compiler makes it MJCF."""
    assets: dict[str, bytes] = {}
    notes: list[str] = []
    links = {each.attributes.get("name") for each in root.children if each.tag == "link"}
    below = ""
    for element in root.walk():
        if element.tag.startswith("xacro:"):
            refuse("the file is xacro, not URDF", element, "its macros are not expanded",
                   "run `xacro FILE > robot.urdf` first")  # fmt: skip
        if element.tag == "compiler":
            below = element.attributes.pop("meshdir", below)
        if element.tag == "joint" and element in root.children:
            for end in ("parent", "child"):
                named = next((c for c in element.children if c.tag == end), None)
                link = named.attributes.get("link") if named else None
                if link not in links:
                    why = f"no link is called {link!r}" if link else "it is left out"
                    refuse(f"a joint without its {end}", element, why, f"name a <link> as {end}")
        for visual in [child for child in element.children if child.tag == "visual"]:
            for mesh in visual.walk():
                name = mesh.attributes.get("filename", "") if mesh.tag == "mesh" else ""
                if name and Path(name).suffix.lower() not in MESHES:
                    # What is only to be seen may be left out; what is touched may not.
                    element.children.remove(visual)
                    notes.append(f"{mesh.where}: {name} is left out; MuJoCo reads "
                                 f"{', '.join(MESHES)}")  # fmt: skip
                    break
        element.children = [child for child in element.children if child.tag != "texture"]
        if element.tag == "mesh":
            found = _in_package(path.parent.resolve(), below, element)
            _known_form(found, element)
            element.attributes["filename"] = keep(assets, found, element)
    check(root)
    settings = root.child("mujoco").child("compiler").attributes
    settings |= {"strippath": "false", "fusestatic": "false"}
    settings.setdefault("discardvisual", "false")
    world = World(root, assets, notes)
    world.compiled()  # Refuses what is wrong with it, in its own lines.
    spec = mujoco.MjSpec.from_string(world.text()[0], assets=assets)
    spec.compile()
    lines = {e.attributes.get("name"): e for e in reversed([*root.walk()]) if e.tag != "material"}
    made = _parsed(spec.to_xml(), path.name)
    for element in made.walk():
        origin = lines.get(element.attributes.get("name"), root)
        element.line = origin.line
    return World(made, assets, notes)


def _parsed(text: str, told: str) -> Element:
    """Elements of a text of MuJoCo's own."""
    stack = [Element("", {}, told, 1)]
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        stack.append(Element(tag, attributes, told, 1))
        stack[-2].children.append(stack[-1])

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.Parse(text, True)
    return stack[0].children[0]


def _in_package(folder: Path, below: str, mesh: Element) -> Path:
    """The file of a URDF's mesh. `package://NAME/` is a folder NAME above or beside the file."""
    name = mesh.attributes.get("filename", "")
    if not (package := re.match(r"(?:package|model)://([^/]+)/(.*)", name)):
        return inside(folder, folder / below, name.removeprefix("file://"), mesh)
    for above in (folder, *folder.parents[:3]):
        if above.name == package[1] or (above / "package.xml").is_file():
            return inside(above, above, package[2], mesh)
    return inside(folder, folder / package[1], package[2], mesh)


def _bytes(path: Path, told: str) -> bytes:
    if path.stat().st_size > BYTES_MAX:
        raise WorldRefused("the file is too big", told, f"more than {BYTES_MAX >> 20} MiB",
                           "make its meshes simpler")  # fmt: skip
    return path.read_bytes()


def _written(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Iterable):
        return " ".join(map(_written, value))
    return repr(value) if isinstance(value, int) else repr(float(value))  # type: ignore[arg-type]


def _numbers(value: str) -> list[float]:
    """The numbers of an attribute; none where it is not numbers all through."""
    try:
        return [float(word) for word in value.split()]
    except ValueError:
        return []
