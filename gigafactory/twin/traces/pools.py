"""Virtual clusters: parts of a cluster, each with GPUs of its own. Units: GPUs."""

from dataclasses import dataclass
from pathlib import Path

from gigafactory.faults import Fault, Refused


@dataclass(frozen=True)
class VcPool:
    """One virtual cluster, of whole nodes."""

    vc: str
    gpus: int
    gpus_per_node: int


def pools(path: str | Path) -> list[VcPool]:
    """Read `vc,gpus,gpus_per_node`. Raises `Refused` with all that is wrong, by line."""
    from gigafactory.twin.traces.sheet import open_sheet

    sheet = open_sheet(Path(path))
    names = ("vc", "gpus", "gpus_per_node")
    if missing := [name for name in names if not sheet.has(name)]:
        why = f"columns missing: {', '.join(missing)}"
        what = f"{sheet.path.name} is no list of virtual clusters"
        raise Refused(Fault(what, str(path), why, f"give the columns {','.join(names)}"))
    faults = [_fault(path, torn.line, torn.why) for torn in sheet.torn]
    found: dict[str, VcPool] = {}
    sizes, nodes = sheet.numbers("gpus")[0], sheet.numbers("gpus_per_node")[0]
    for line, vc, gpus, node in zip(
        sheet.line, sheet.text("vc").to_pylist(), sizes, nodes, strict=True
    ):
        if vc is None:
            faults.append(_fault(path, line, "the name is missing"))
        elif vc in found:
            faults.append(_fault(path, line, f"{vc!r} is there twice"))
        elif not (gpus > 0 and gpus % 1 == 0 and node > 0 and gpus % node == 0 and node % 1 == 0):
            why = f"{vc!r} has {gpus:g} GPUs on nodes of {node:g}; it must be whole nodes"
            faults.append(_fault(path, line, why))
        else:
            found[vc] = VcPool(vc, int(gpus), int(node))
    if faults:
        raise Refused(*faults)
    return list(found.values())


def _fault(path: str | Path, line: int, why: str) -> Fault:
    return Fault("no virtual cluster", f"{path}, line {line}", why, "mend the line")
