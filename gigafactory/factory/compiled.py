"""The core a second time, compiled by numba: the same source, for the twin's loop.

Every function of the core's modules becomes a compiled one that calls the others compiled. The
cache lies in a folder named by a hash of all the sources, since numba looks only at the
file of the function itself and not at those that it calls. `GIGAFACTORY_BOUNDS=1` checks
every index (CI does).
"""

import hashlib
import inspect
import os
import sys
import types
from functools import cache
from importlib import util
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path

MODULES = ("state", "speed", "queue", "quota", "place", "preempt", "schedule", "why", "step")
PACKAGE = "gigafactory.factory"


@cache
def core() -> dict[str, types.ModuleType]:
    """The modules of the core by their short names, their functions compiled when first called."""
    return compile_modules({name: f"{PACKAGE}.{name}" for name in MODULES}, {})


def compile_modules(
    names: dict[str, str], known: dict[str, types.ModuleType]
) -> dict[str, types.ModuleType]:
    """Fresh copies of modules with every function of theirs compiled; `known` are such already."""
    import numba

    files = [Path(__file__), *(_spec(name)[2] for name in names.values())]
    bounds = os.environ.get("GIGAFACTORY_BOUNDS") == "1"
    numba.config.CACHE_DIR = str(  # type: ignore[attr-defined]
        _cache_folder([*files, *_files(known)], bounds)
    )
    fast: dict[tuple[str, str], object] = {
        (module.__name__, name): value
        for module in known.values()
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
    }
    made: dict[str, types.ModuleType] = {}
    for short, name in names.items():
        spec, loader, file = _spec(name)
        module = util.module_from_spec(spec)
        loader.exec_module(module)
        source = file.read_text(encoding="utf-8")
        for title, value in list(vars(module).items()):
            if not inspect.isfunction(value):
                continue
            key = (value.__module__, value.__name__)
            if value.__module__ == name:
                # Tables are many, so handing them over costs more than most functions: what is
                # called from one place only becomes a part of its caller.
                once = title.startswith("_") and source.count(f"{title}(") == 2
                # Nothing in the core is allocated, so nothing need be counted (`_nrt`).
                compiled = numba.njit(  # type: ignore[call-overload]
                    cache=True, boundscheck=bounds, forceinline=once, _nrt=False
                )
                fast[key] = compiled(value)
            setattr(module, title, fast.get(key, value))
        made[short] = module
    return made


def _spec(name: str) -> tuple[ModuleSpec, Loader, Path]:
    spec = util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    assert spec.origin is not None
    return spec, spec.loader, Path(spec.origin)


def _files(known: dict[str, types.ModuleType]) -> list[Path]:
    return [Path(str(module.__file__)) for module in known.values()]


def _cache_folder(files: list[Path], bounds: bool) -> Path:
    digest = hashlib.sha256(repr((bounds, sys.version)).encode())
    for file in sorted(files):
        digest.update(file.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "gigafactory" / "numba" / digest.hexdigest()[:16]
