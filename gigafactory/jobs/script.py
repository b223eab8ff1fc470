"""The user's own command, in a process, a folder and limits of its own.

The command starts in `work/`, with the `files` it was given and a link `inputs/NAME` to what
each job that it stands on made. It inherits no environment; it is told, in paths,

    GIGAFACTORY_OUTPUT        what it leaves there is its artifact, once it ends with code 0
    GIGAFACTORY_INPUTS        the folder of the links
    GIGAFACTORY_PROGRESS      a file for figures, a JSON object a line: {"loss": 0.5}
    GIGAFACTORY_CHECKPOINTS   for folders `5`, `10`, ...; {"checkpoint": 5} hands one in, whole
    GIGAFACTORY_RESUME        the last that an earlier attempt handed in; else not set

and GIGAFACTORY_ATTEMPT, the number that keys its side effects, GIGAFACTORY_CHIPS and HOME,
which is `work/`, and TMPDIR, which is its own. Asked to stop it gets SIGTERM, and after
`GRACE_S` its whole session SIGKILL, with all that it started.

It runs as the factory's own user, within the walls of `confined`: it writes to `work/`, its
output, its checkpoints, its TMPDIR and the file for figures, and reads, besides, its inputs and
the system.

`context.work`: `command` (words, no shell), `files` (name to text), `time_s` (wall clock),
`limits` (`memory_bytes` and `open_files` of each process, `cpu_s` of each, `processes`, and
`network`: TCP to the `ports` that the factory opens), `walled` (not without whole walls).
"""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gigafactory.jobs import confined
from gigafactory.jobs.context import Context, step_folder
from gigafactory.jobs.whole import sync

SESSION = "session.json"
LIMITED = Path(__file__).with_name("limited.py")
WATCH_S = 0.05
GRACE_S = 10.0
WHY_LINES = 5  # of the log's end, that a failure tells
NO_MEMORY = ("MemoryError", "std::bad_alloc", "Cannot allocate memory")  # how programs put it
LINE_BYTES_MAX = 65_536  # of what the command reports; longer lines are not heard
OURS = ("unix_s", "phase", "checkpoint", "ready", "endpoint")  # figures that mean more to us


class ScriptFailed(RuntimeError):
    """The command ended badly; `what`, `where`, `why` and `remedy` tell a person how."""


def run(context: Context) -> dict[str, Any]:
    """Run the command to its end; the results are its last figures and what it left."""
    context.phase("prepare")
    folder = furnish(context)
    context.phase("work")
    said = Said(context)
    before_s = cpu_s()
    code, why = supervise(context, folder, said)
    if why or code != 0:
        raise failed(
            context, why or ended_with(code) + limit_hit(context, code, cpu_s() - before_s)
        )
    if link := leads_out(context.output):
        raise failed(context, f"{link.name} in its output is a link that leads out of it")
    files = [file for file in context.output.rglob("*") if file.is_file()]
    return {
        "tokens": 0,
        "figures": said.figures,
        "output_files": len(files),
        "output_bytes": sum(file.stat().st_size for file in files),
    }


def leads_out(output: Path) -> Path | None:
    """A link in the output to something that is not in it."""
    inside = output.resolve()
    links = (path for path in output.rglob("*") if path.is_symlink())
    return next((path for path in links if not path.resolve().is_relative_to(inside)), None)


def furnish(context: Context) -> Path:
    """The folder in which the command starts, with its files and the links to its inputs."""
    folder = context.folder / "work"
    inputs = folder / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    for name, text in context.work["files"].items():
        file = folder / name
        assert file.resolve().is_relative_to(folder.resolve()), "the blueprint was checked"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    for name, made in context.inputs.items():
        with suppress(FileExistsError):
            (inputs / name).symlink_to(made, target_is_directory=True)
    return folder


def environment(context: Context, folder: Path) -> dict[str, str]:
    """All that the command is told."""
    told = {
        "PATH": f"{os.environ.get('PATH', os.defpath)}:{Path(sys.executable).parent}",
        "HOME": str(folder),
        "TMPDIR": str(context.folder / "tmp"),
        "LANG": "C.UTF-8",
        "GIGAFACTORY_OUTPUT": str(context.output),
        "GIGAFACTORY_INPUTS": str(folder / "inputs"),
        "GIGAFACTORY_PROGRESS": str(context.folder / "said.jsonl"),
        "GIGAFACTORY_CHECKPOINTS": str(context.checkpoints),
        "GIGAFACTORY_ATTEMPT": str(context.attempt),
        "GIGAFACTORY_CHIPS": str(context.chips),
        "OMP_NUM_THREADS": str(context.chips),
    }
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        told["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
    if last := context.last_checkpoint():
        told["GIGAFACTORY_RESUME"] = str(last)
    return told


def walls(context: Context) -> confined.Walls:
    """What the command may touch; nothing else of the home, in which the cache lies."""
    limits, tmp, said = (
        context.work["limits"],
        context.folder / "tmp",
        context.folder / "said.jsonl",
    )
    tmp.mkdir(exist_ok=True)
    said.touch()
    last = context.last_checkpoint()
    # Links that a command left in place of a checkpoint would lead out of its walls.
    resumes = [last] if last and last.is_dir() and not last.is_symlink() else []
    gpus = bool(os.environ.get("CUDA_VISIBLE_DEVICES"))
    return {
        **confined.walls(
            context.folder,
            private=context.cache.parent,
            read=[*context.inputs.values(), *resumes],
            write=[context.folder / "work", context.output, context.checkpoints, tmp, said],
            gpus=gpus,
        ),
        "tmp": str(tmp.resolve()),
        "shm_bytes": limits["memory_bytes"],
        "ports": context.work.get("ports", []) if limits.get("network") else [],
    }


def supervise(context: Context, folder: Path, said: "Said") -> tuple[int, str]:
    """The command's exit code, and why it was ended where it did not end itself."""
    limits = {
        "parent": os.getpid(),
        **context.work["limits"],
        "walls": walls(context),
        "walled": context.work.get("walled", False),
    }
    # Limits are set by a program of their own: code between fork and exec is not safe beside
    # the threads of this process.
    words = [sys.executable, "-I", "-S", str(LIMITED)]
    confined.adopt_orphans()
    others = children()
    began_s = time.monotonic()
    born_unix_s = time.time()
    with open(context.folder / "log.txt", "ab") as log:
        process = subprocess.Popen(
            [*words, json.dumps(limits), *context.work["command"]],
            cwd=folder,
            env=environment(context, folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    session = {"session": process.pid, "unix_s": born_unix_s, "host": socket.gethostname()}
    (context.folder / SESSION).write_text(json.dumps(session), "utf-8")
    why = ""
    try:
        while process.poll() is None:
            said.listen()
            if time.monotonic() - began_s > context.work["time_s"]:
                why = f"it ran for longer than its time, {context.work['time_s']:g} s"
                break
            context.check()
            time.sleep(WATCH_S)
    finally:
        # However it came to this: by its end, its time, a wish to stop, or an error of ours.
        _end(process, said)
        kill_session(process.pid, born_unix_s)
        kill_all_but(others)
        shutil.rmtree(context.folder / "tmp", ignore_errors=True)
    return process.returncode, why


def _end(process: subprocess.Popen, said: "Said") -> None:
    """Ask the command to end where it still runs, and wait as long as it was promised."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        late_s = time.monotonic() + GRACE_S
        while process.poll() is None and time.monotonic() < late_s:
            said.listen()
            time.sleep(WATCH_S)
        if process.poll() is None:
            process.kill()
            process.wait()
    said.listen()


class Said:
    """What the command reports, passed on: figures as they are, checkpoints once they are safe."""

    def __init__(self, context: Context):
        self._context = context
        self._heard = 0
        self.figures: dict[str, Any] = {}

    def listen(self) -> None:
        """Pass on what was said since the last look; half lines wait."""
        try:
            with open(self._context.folder / "said.jsonl", "rb") as file:
                file.seek(self._heard)
                text = file.read(1 << 20)
        except FileNotFoundError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        if not whole and len(text) > LINE_BYTES_MAX:
            whole = text
        self._heard += len(whole)
        for line in whole.splitlines():
            with suppress(ValueError):
                said = json.loads(line[:LINE_BYTES_MAX])
                if isinstance(said, dict):
                    self._pass_on(said)

    def _pass_on(self, said: dict[str, Any]) -> None:
        figures = {
            str(name)[:64]: value if not isinstance(value, str) else value[:1000]
            for name, value in said.items()
            if name not in OURS and isinstance(value, int | float | str)
        }
        if figures:
            self.figures.update(figures)
            self._context.report(**figures)
        step = said.get("checkpoint")
        if isinstance(step, int) and 0 < step < 10**6:
            self._hand_in(step)

    def _hand_in(self, step: int) -> None:
        """A checkpoint goes out of the command's hands; what it does there later counts not."""
        folder = self._context.checkpoints
        if (folder / str(step)).is_dir() and not (folder / str(step)).is_symlink():
            with suppress(OSError):
                for path in (folder / str(step)).rglob("*"):
                    if not path.is_symlink() and (path.is_file() or path.is_dir()):
                        sync(path)
                (folder / str(step)).rename(folder / step_folder(step))
                sync(folder)
                self._context.checkpointed(step)


def kill_session(session: int, since_unix_s: float) -> None:
    """End every process of a session, its leader dead or alive, that is not older than it."""
    import psutil

    for _ in range(3):  # who forks while we look is found the next time
        found = False
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
                if os.getsid(process.pid) != session or process.status() == "zombie":
                    continue
                if process.create_time() > since_unix_s - 1:
                    process.kill()
                    found = True
        if not found:
            return


def children() -> set[Any]:
    """Processes that this one started, or that came to it when their parents ended."""
    import psutil

    return set(psutil.Process().children(recursive=True))


def kill_all_but(others: set[Any]) -> None:
    """End what the command left that is not in its session any more."""
    import psutil

    while left := children() - others:
        for child in left:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(left)


def ended_with(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"it ended with code {code}"
    return f"it was ended by {signal.Signals(-code).name}"


def cpu_s() -> float:
    """Processor time of all children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def limit_hit(context: Context, code: int, used_s: float) -> str:
    """The limit that a command came to, as far as its end tells; of memory it is a guess."""
    limits = context.work["limits"]
    number = -code if code < 0 else code - 128  # as a shell tells the end of its own command
    if limits["cpu_s"]:
        beyond = number == signal.SIGKILL and used_s >= limits["cpu_s"]
        if beyond or number == signal.SIGXCPU:
            return f", at its limit of {limits['cpu_s']:g} s of processor time"
    died = number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)
    if died or any(word in last_lines(context) for word in NO_MEMORY):
        return f" (its limit of memory is {limits['memory_bytes'] / 1e6:,.0f} MB)"
    return ""


def last_lines(context: Context) -> str:
    """The end of the log."""
    with open(context.folder / "log.txt", "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    return " | ".join(line.strip() for line in lines[-WHY_LINES:] if line.strip())


def failed(context: Context, why: str) -> ScriptFailed:
    """A failure with the last lines of the log."""
    log, last = context.folder / "log.txt", last_lines(context)
    error = ScriptFailed(f"{why}: {last}")
    told = {
        "what": f"the command failed: {why}",
        "where": str(log),
        "why": last or "it said nothing",
        "remedy": f"run {context.work['command'][0]!r} by hand, or raise its limits",
    }
    error.__dict__.update(told)
    return error
