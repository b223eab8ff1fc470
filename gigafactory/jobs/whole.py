"""Folders that are there whole or not at all, whoever is killed when."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of `folder` at the end."""
    half_done = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(half_done, ignore_errors=True)
    half_done.mkdir(parents=True)
    yield half_done
    shutil.rmtree(folder, ignore_errors=True)
    publish(half_done, folder)


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made by whoever comes first; the others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Let go by the kernel, should we die.
        if not folder.exists():
            with writing(folder) as half_done:
                make(half_done)
    return folder


def publish(half_done: Path, folder: Path) -> None:
    """Give a written folder its name, after all of it is on the disk."""
    for path in (*half_done.iterdir(), half_done):
        sync(path)
    half_done.rename(folder)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until a file's or a folder's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
