"""Attempts as the works sees them: started, heard from, stopped, fenced, ended. No Ray in here.

Ray lives in a child process (`executor`) that may die and be started again; an attempt speaks
through files in its own folder, so no word of it is lost with either process.

The lease goes both ways, in files whose change counts and not their date, so that clocks may
jump. The works renews `lease`; an attempt that finds it old stops at a checkpoint, one that
finds it gone was fenced off and ends at once. Each process of the attempt renews `alive-RANK`;
where one falls silent for `LEASE_S` the works fences the attempt off and starts another. What
the old one still writes lies in its own folder, where nobody looks any more.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from gigafactory.faults import Fault, Refused
from gigafactory.jobs.context import ALIVE, LEASE, PROGRESS, RESULT, STOP, step_folder
from gigafactory.jobs.whole import sync
from gigafactory.works import executor
from gigafactory.works.home import write_whole

LEASE_S = 30.0  # of silence, of the works or of a process of the attempt
LOOK_S = 1.0  # between two looks at who is silent
STILLBORN_MAX = 3  # executors that may die before Ray is up, one after another


@dataclass
class Attempt:
    """One attempt of a job, in its folder."""

    job: str
    number: int
    folder: Path
    heard: int = 0
    """Bytes of the progress file that were read."""
    _heard_s: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Of each of its processes: its last sign of life, and when it was first seen here."""
    _looked_s: float = 0.0

    def news(self) -> list[dict[str, Any]]:
        """What the attempt reported since the last call, in order; half lines wait."""
        try:
            with open(self.folder / PROGRESS, "rb") as file:
                file.seek(self.heard)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self.heard += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def result(self) -> dict[str, Any] | None:
        """What the attempt left as its last word, or None while there is none."""
        try:
            return json.loads((self.folder / RESULT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def cpu_s(self) -> float | None:
        """CPU-seconds of all its processes, or None where one did not live to say."""
        files = list(self.folder.glob("cpu-*.json"))
        # Workers that a rank asked Ray for tell nothing themselves: it counts them in one file.
        ranks = list(self.folder.glob("pid-[0-9]*.json"))
        if not ranks or any(not (self.folder / f"cpu-{r.stem[4:]}.json").exists() for r in ranks):
            return None
        return sum(json.loads(file.read_text(encoding="utf-8"))["cpu_s"] for file in files)

    def ask_to_stop(self) -> None:
        """Ask it to checkpoint and end."""
        (self.folder / STOP).touch()

    def renew_lease(self) -> None:
        """Tell it that the works still counts on it."""
        (self.folder / LEASE).touch()

    def renewed_unix_s(self) -> float:
        """When the works last renewed the lease; 0 where it never did."""
        try:
            return (self.folder / LEASE).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def expired(self) -> bool:
        """Whether a process of it, once heard, gave no sign of life for as long as a lease."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= min(LOOK_S, LEASE_S / 4):
            self._looked_s = now_s
            signs = {}
            for file in self.folder.glob(f"{ALIVE}-*"):
                with suppress(FileNotFoundError):  # it ended just now
                    signs[file.name] = file.stat().st_mtime_ns
            before = self._heard_s
            self._heard_s = {
                name: before[name] if before.get(name, (0,))[0] == sign else (sign, now_s)
                for name, sign in signs.items()
            }
        return any(now_s - seen_s > LEASE_S for _, seen_s in self._heard_s.values())

    def take_checkpoint(self, step: int, kept: Path) -> bool:
        """Take a checkpoint out of its hands, into the folder of the job; whether it is there.

        From then on no process knows a path to write to it. Said twice, it is taken once.
        """
        kept.mkdir(parents=True, exist_ok=True)
        target = kept / f"{step_folder(step)}.{self.number}"
        with suppress(OSError):
            os.rename(self.folder / "checkpoints" / step_folder(step), target)
            sync(kept)
        return target.exists()

    def fence(self) -> None:
        """It counts no more: whoever of it still lives ends when it sees its lease gone."""
        (self.folder / LEASE).unlink(missing_ok=True)
        self.kill()
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)

    def kill(self) -> None:
        """End its processes on this machine at once."""
        executor.kill(self.folder)


def kept_checkpoint(kept: Path, step: int) -> Path | None:
    """The durable checkpoint of a step that a job's attempts left, the newest one's."""
    found = kept.glob(f"{step_folder(step)}.*")
    return max(found, key=lambda path: int(path.suffix[1:]), default=None)


def drop_checkpoints(kept: Path, before_step: int, used_step: int) -> None:
    """Delete what a later checkpoint has replaced, but not what a running attempt stands on."""
    for folder in kept.glob("step-*.*"):
        if folder.stem < step_folder(before_step) and folder.stem != step_folder(used_step):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Ended:
    """An attempt ended: `done`, `stopped`, `failed`, or `lost` by no fault of its own."""

    folder: Path
    outcome: str
    error: dict[str, str]


@dataclass(frozen=True)
class Stands:
    """A node of the plan stands ready, or is gone."""

    node: str
    up: bool


class Engine:
    """Starts attempts through the executor; hears how they end, and which nodes stand.

    `chips` of each node of the plan. The first of several is this machine, and so is an only
    one; where `$RAY_ADDRESS` names a cluster, all of them are there.
    """

    def __init__(self, chips: dict[str, int], home: Path):
        self._chips = chips
        self._home = home
        self._log = home / "executor.log"
        self._process: subprocess.Popen | None = None
        self._lines: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._open: set[Path] = set()
        self._stillborn = 0
        self.ready = False

    def open(self) -> None:
        """Start the executor; commands may be given at once, it takes them when Ray is up."""
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        token = self._home / executor.TOKEN
        if not token.exists():
            handle = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(handle, secrets.token_hex(32).encode())
            os.close(handle)
        words = ["head", "--home", str(self._home), "--nodes", json.dumps(self._chips)]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gigafactory.works.executor", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
                start_new_session=True,  # Ctrl-C is for the works to handle
            )
        threading.Thread(target=self._hear, args=(self._process,), daemon=True).start()

    def start(self, folder: Path, described: dict[str, Any]) -> Attempt:
        """Start an attempt in its folder."""
        folder.mkdir(parents=True, exist_ok=True)
        attempt = Attempt(described["work"]["name"], described["attempt"], folder)
        attempt.renew_lease()
        write_whole(folder / "attempt.json", {**described, "lease_s": LEASE_S})
        self._open.add(folder)
        self._send({"start": str(folder)})
        return attempt

    def ended(self) -> list[Ended | Stands]:
        """What the executor said since the last call: attempts that ended, nodes that changed.

        Where it died, all open attempts are lost.
        """
        ended: list[Ended | Stands] = []
        while True:
            try:
                line = self._lines.get_nowait()
            except Empty:
                break
            if line.get("ready"):
                self.ready, self._stillborn = True, 0
            elif "node" in line:
                ended.append(Stands(line["node"], line["up"]))
            elif "ended" in line:
                folder = Path(line["ended"])
                self._open.discard(folder)
                ended.append(Ended(folder, line["outcome"], line.get("error", {})))
        if self._process is not None and self._process.poll() is not None:
            ended += [Ended(folder, "lost", {}) for folder in sorted(self._open)]
            for folder in self._open:
                executor.kill(folder)
            self._open.clear()
            self._stillborn += not self.ready
            self.ready = False
            if self._stillborn >= STILLBORN_MAX:
                raise Refused(self._cannot_start())
            self.open()
        return ended

    def _cannot_start(self) -> Fault:
        with open(self._log, encoding="utf-8", errors="replace") as log:
            last = [line.strip() for line in log.readlines()[-40:] if line.strip()]
        return Fault(
            "Ray does not start on this machine",
            str(self._log),
            last[-1] if last else f"it died {STILLBORN_MAX} times without a word",
            "`make install` puts Ray in place; else the log tells more",
        )

    def close(self, timeout_s: float = 20.0) -> None:
        """End Ray and every process under it."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()

    def _send(self, line: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # `ended` sees the death and tells it of all attempts
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()

    def _hear(self, process: subprocess.Popen) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(json.loads(line))
