"""Work in parts that know nothing of each other, spread over the chips that the attempt holds.

`do(index, folder)` makes one part in an empty folder of its own, the same bytes whoever makes it
and whenever. A part counts once it is whole: it is made under another name and renamed. Parts lie
in `parts/` of the attempt; a checkpoint is hard links to all that are whole, so it costs no bytes,
and an attempt that goes on from it makes only what is missing.

With one chip parts are made here, with more by as many processes: inside the factory by Ray Data,
on the node where the job runs. The job's own task holds the chips and waits, so these ask Ray for
none. What passes between them is numbers: parts are files.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from gigafactory.jobs.context import Context, StopJob, step_folder

Do = Callable[[int, Path], None]

REPORT_S = 0.25
CHECKPOINT_S = 30.0
WORKERS_CPU = "cpu-workers.json"
"""Beside the parts: what processes that are not ours to wait for have spent."""


def spread(
    context: Context,
    count: int,
    do: Do,
    told: Callable[[Path], dict[str, Any]] | None = None,
) -> list[Path]:
    """Make parts 0 to `count` - 1 and return their folders, in order.

    `told` is asked for figures to report with each part that is new to this attempt. Where the
    job should stop this leaves a checkpoint and raises `StopJob`.
    """
    parts = context.folder / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    durable = _bring_back(context, parts)
    missing = [index for index in range(count) if not part(parts, index).exists()]
    done, last_s, told_s = count - len(missing), time.monotonic(), 0.0
    if context.should_stop():
        raise StopJob  # nothing is new
    making = _here
    if context.chips > 1 and len(missing) > 1:
        making = _by_ray if _in_ray() else _by_processes
    with closing(making(missing, do, parts, context.chips)) as made:
        for index in made:
            done += 1
            now_s = time.monotonic()
            figures = told(part(parts, index)) if told else {}
            if now_s - told_s >= REPORT_S or done == count:
                context.report(step=done, steps=count, **figures)
                told_s = now_s
            if context.should_stop():
                break
            if now_s - last_s >= CHECKPOINT_S:
                _checkpoint(context, parts, count, durable)
                last_s = time.monotonic()
    if any(not part(parts, index).exists() for index in range(count)):
        _checkpoint(context, parts, count, durable)
        raise StopJob
    return [part(parts, index) for index in range(count)]


def part(parts: Path, index: int) -> Path:
    """The folder of a part that is whole."""
    return parts / f"{index:06d}"


def _make(do: Do, parts: Path, index: int) -> int:
    """Make one part, unless it is there."""
    whole = part(parts, index)
    if not whole.exists():
        half = parts / f"{index:06d}.{os.getpid()}.tmp"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir()
        do(index, half)
        half.rename(whole)
    return index


def _here(missing: list[int], do: Do, parts: Path, chips: int) -> Generator[int, None, None]:
    for index in missing:
        yield _make(do, parts, index)


def _by_processes(
    missing: list[int], do: Do, parts: Path, chips: int
) -> Generator[int, None, None]:
    # Spawned: a fork would share what a renderer or a thread pool has opened.
    pool = ProcessPoolExecutor(min(chips, len(missing)), mp_context=get_context("spawn"))
    try:
        for made in as_completed(pool.submit(_make, do, parts, index) for index in missing):
            yield made.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _in_ray() -> bool:
    """Whether this is a process of Ray's; Ray is not imported to find out."""
    import sys

    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _by_ray(missing: list[int], do: Do, parts: Path, chips: int) -> Generator[int, None, None]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    settings = ray.data.DataContext.get_current()
    settings.enable_progress_bars = False
    settings.log_internal_stack_trace_to_stdout = False
    indices = ray.data.from_items(missing, override_num_blocks=len(missing))
    made = indices.map(
        lambda row: _told(do, parts, row["item"]),
        num_cpus=0,
        concurrency=min(chips, len(missing)),
        scheduling_strategy=here,
        max_retries=0,
    )
    spent_s = 0.0
    for row in made.iter_rows():
        spent_s += row["cpu_s"]
        # These are no children of this process: what they spend is told to the meter here.
        _replace(parts.with_name(WORKERS_CPU), json.dumps({"cpu_s": spent_s}))
        if len(row["refused"]):
            from gigafactory.jobs.worlds.scene import WorldRefused

            raise WorldRefused(*map(str, row["refused"]))
        yield row["item"]


def _told(do: Do, parts: Path, index: int) -> dict[str, Any]:
    """A refusal in words: Ray Data hands on the text of an exception, not what it holds."""
    from gigafactory.jobs.worlds.scene import WorldRefused

    refused = []
    try:
        _make(do, parts, index)
    except WorldRefused as said:
        refused = [said.what, said.where, said.why, said.remedy]
    spent_s, _Spent.told_s = time.process_time() - _Spent.told_s, time.process_time()
    return {"item": index, "refused": refused, "cpu_s": spent_s}


class _Spent:
    """Of this process, in CPU-seconds."""

    told_s = 0.0


def _replace(path: Path, text: str) -> None:
    half = path.with_name(f"{path.name}.tmp")
    half.write_text(text, encoding="utf-8")
    half.replace(path)


def _bring_back(context: Context, parts: Path) -> set[int]:
    """Link the parts of the last checkpoint to here; which they are."""
    last = context.last_checkpoint()
    if last is None:
        return set()
    kept = sorted((last / "parts").iterdir())
    for there in kept:
        if not (parts / there.name).exists():
            _linked(there, parts / there.name)
    return {int(there.name) for there in kept}


def _linked(source: Path, target: Path) -> None:
    """The same files under another name, all at once."""
    half = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(source, half, copy_function=_link)
    half.rename(target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


def _checkpoint(context: Context, parts: Path, count: int, durable: set[int]) -> None:
    """Hand in all whole parts, unless none is new since the last time."""
    whole = {index for index in range(count) if part(parts, index).exists()}
    if whole == durable:
        return
    target = context.checkpoints / step_folder(len(whole))
    half = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(half, ignore_errors=True)
    for index in sorted(whole):
        if index not in durable:
            _sync(part(parts, index))
        shutil.copytree(part(parts, index), part(half / "parts", index), copy_function=_link)
    _sync(half, names_only=True)
    half.rename(target)
    durable |= whole
    context.checkpointed(len(whole))
    context.drop_checkpoints(keep=1)


def _sync(folder: Path, names_only: bool = False) -> None:
    """Wait until a folder is on the disk."""
    for place, _, files in os.walk(folder):
        for path in [place] if names_only else [*(os.path.join(place, f) for f in files), place]:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
