"""Work in parts that know nothing of each other, spread over the chips that the attempt holds.

`do(index, folder)` makes one part in an empty folder of its own, the same bytes whoever makes it
and whenever. A part counts once it is whole: it is made under another name and renamed. Parts lie
in `parts/` of the attempt; a checkpoint is hard links to all that are whole, so it costs no bytes,
and an attempt that goes on from it makes only what is missing.

With one chip parts are made here, with more by as many processes, the first part excepted: inside
the factory by Ray Data, on the node where the job runs. The job's own task holds the chips and
waits, so these ask Ray for none. What passes between them is numbers: parts are files.
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import closing, suppress
from multiprocessing import get_context, parent_process
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import psutil

from gigafactory.jobs.context import Context, JobRefused, StopJob, step_folder
from gigafactory.jobs.whole import sync

Do = Callable[[int, Path], None]
Making = Generator[int | None, None, None]
"""Parts as they get whole; None now and then, where there is none, to look whether to stop."""

LOOK_S = 0.5
REPORT_S = 0.25
CHECKPOINT_S = 30.0
RETRIES = 3
"""Of a part whose worker was killed."""
WORKERS_CPU = "cpu-workers.json"
"""What processes that are not ours to wait for have spent; beside it `pid-worker-PID.json` of each,
by which the factory ends those of an attempt that counts no more."""


def spread(
    context: Context,
    count: int,
    do: Do,
    told: Callable[[Path], dict[str, Any]] | None = None,
) -> list[Path]:
    """Make parts 0 to `count` - 1 and return their folders, in order.

    `told` is asked for figures to report with each part that is new to this attempt. Where the
    job should stop this leaves a checkpoint and raises `StopJob`. So may `do`, where a part takes
    seconds: what it began is made again.
    """
    parts = context.folder / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    for half in parts.glob("*.tmp"):  # of a run of this attempt that was killed
        shutil.rmtree(half, ignore_errors=True)
    durable = _bring_back(context, parts)
    missing = [index for index in range(count) if not part(parts, index).exists()]
    done, last_s, told_s = count - len(missing), time.monotonic(), 0.0
    context.check()  # nothing is new
    with suppress(StopJob), closing(_making(missing, do, context)) as made:
        for index in made:
            now_s = time.monotonic()
            if index is not None:
                done += 1
                figures = told(part(parts, index)) if told else {}
                if now_s - told_s >= REPORT_S or done == count:
                    context.report(step=done, steps=count, **figures)
                    told_s = now_s
            context.check()
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


def _making(missing: list[int], do: Do, context: Context) -> Making:
    """Make what is missing, the first one here: what is compiled for it is there for all."""
    here, others = missing[:1], missing[1:]
    if context.chips == 1 or len(others) < 2:
        here, others = missing, []
    for index in here:
        yield _make(do, context.folder / "parts", index)
    if others:
        yield from (_by_ray if _in_ray() else _by_processes)(others, do, context)


def _by_processes(missing: list[int], do: Do, context: Context) -> Making:
    # Spawned: a fork would share what a renderer or a thread pool has opened.
    pool = ProcessPoolExecutor(
        min(context.chips, len(missing)),
        mp_context=get_context("spawn"),
        initializer=_end_with_parent,
    )
    try:
        left = {pool.submit(_make, do, context.folder / "parts", index) for index in missing}
        while left:
            made, left = wait(left, LOOK_S, FIRST_COMPLETED)
            for each in made:
                yield each.result()
            if not made:
                yield None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker: who made it may be killed, and would leave it waiting for ever."""
    parent = parent_process()
    assert parent is not None, "a worker was made by someone"

    def end() -> None:
        parent.join()
        os._exit(1)

    Thread(target=end, daemon=True).start()


def _in_ray() -> bool:
    """Whether this is a process of Ray's; Ray is not imported to find out."""
    import sys

    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _by_ray(missing: list[int], do: Do, context: Context) -> Making:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    settings = ray.data.DataContext.get_current()
    settings.enable_progress_bars = False
    settings.log_internal_stack_trace_to_stdout = False
    indices = ray.data.from_items(missing, override_num_blocks=len(missing))
    made = indices.map(
        lambda row: _told(do, context, row["item"]),
        num_cpus=0,
        concurrency=min(context.chips, len(missing)),
        scheduling_strategy=here,
        max_retries=RETRIES,
        # An environment of their own makes Ray give these processes to nobody else: they are ended
        # with the attempt, and a task that had just been given one would die with it.
        runtime_env={"env_vars": {"GIGAFACTORY_ATTEMPT": str(context.folder)}},
    )
    heard: SimpleQueue[Any] = SimpleQueue()

    def hear() -> None:
        try:
            for row in made.iter_rows():
                heard.put(row)
        except Exception as error:
            heard.put(error)

    # Ray Data takes seconds to come up, and its rows cannot be waited for with a limit.
    Thread(target=hear, daemon=True).start()
    workers, left = _Workers(context.folder), len(missing)
    try:
        while left:
            try:
                row = heard.get(timeout=LOOK_S)
            except Empty:
                yield None
                continue
            if isinstance(row, Exception):
                raise row
            if row["stopped"]:
                raise StopJob
            if len(row["refused"]):
                raise JobRefused(*map(str, row["refused"]))
            workers.count()
            left -= 1
            yield row["item"]
    finally:
        workers.end()


def _told(do: Do, context: Context, index: int) -> dict[str, Any]:
    """A refusal in words: Ray Data hands on the text of an exception, not what it holds."""
    refused: list[str] = []
    stopped = False
    _Workers.sign(context.folder)
    try:
        context.check()
        _make(do, context.folder / "parts", index)
    except StopJob:
        stopped = True
    except JobRefused as said:
        refused = list(said.args)
    return {"item": index, "refused": refused, "stopped": stopped}


class _Workers:
    """Processes of Ray's that made parts of this attempt: no children of ours, but our cost.

    They make nothing for anyone else: they are ended with what they were started for.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._spent_s: dict[str, float] = {}

    @staticmethod
    def sign(folder: Path) -> None:
        """Tell who this process is, in the form in which ranks of a gang do."""
        signed = folder / f"pid-worker-{os.getpid()}.json"
        if not signed.exists():
            told = {
                "pid": os.getpid(),
                "created_unix_s": psutil.Process().create_time(),
                "host": socket.gethostname(),
            }
            _replace(signed, json.dumps(told))

    def count(self) -> None:
        """Tell the meter what they have spent until now, those that are gone too."""
        for name, process in self._living():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self._spent_s[name] = times.user + times.system
        total = {"cpu_s": sum(self._spent_s.values())}
        _replace(self._folder / WORKERS_CPU, json.dumps(total))

    def end(self) -> None:
        """Count, and end them."""
        self.count()
        for _, process in self._living():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _living(self) -> Generator[tuple[str, psutil.Process], None, None]:
        for file in sorted(self._folder.glob("pid-worker-*.json")):
            said = json.loads(file.read_text(encoding="utf-8"))
            # A number may have gone to another process since.
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(said["pid"])
                if abs(process.create_time() - said["created_unix_s"]) < 1:
                    yield file.name, process


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
    half = context.checkpoints / f"{step_folder(len(whole))}.tmp"
    shutil.rmtree(half, ignore_errors=True)
    for index in sorted(whole):
        if index not in durable:
            _sync(part(parts, index))
        shutil.copytree(part(parts, index), part(half / "parts", index), copy_function=_link)
    _sync(half, names_only=True)
    context.hand_in(len(whole), half)
    durable |= whole


def _sync(folder: Path, names_only: bool = False) -> None:
    """Wait until a folder is on the disk."""
    for place, _, files in os.walk(folder):
        for path in [place] if names_only else [*(os.path.join(place, f) for f in files), place]:
            sync(Path(path))
