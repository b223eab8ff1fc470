"""Attempts as the works sees them: started, heard from, stopped, ended. No Ray in here.

Ray lives in a child process (`executor`) that may die and be started again; an attempt speaks
through files in its own folder, so no word of it is lost with either process.
"""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from gigafactory.faults import Fault, Refused
from gigafactory.jobs.context import LEASE, PROGRESS, RESULT, STOP
from gigafactory.works import executor
from gigafactory.works.home import write_whole

LEASE_S = 30.0  # an attempt that the works has not renewed for so long stops by itself
STILLBORN_MAX = 3  # executors that may die before Ray is up, one after another


@dataclass
class Attempt:
    """One attempt of a job, in its folder."""

    job: str
    number: int
    folder: Path
    heard: int = 0
    """Bytes of the progress file that were read."""

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
        if not files or len(files) < len(list(self.folder.glob("pid-*.json"))):
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

    def kill(self) -> None:
        """End its processes on this machine at once."""
        executor.kill(self.folder)


@dataclass(frozen=True)
class Ended:
    """An attempt ended: `done`, `stopped`, `failed`, or `lost` with the executor."""

    folder: Path
    outcome: str
    error: dict[str, str]


class Engine:
    """Starts attempts through the executor and hears how they end."""

    def __init__(self, chips: int, log: Path):
        self._chips = chips
        self._log = log
        self._process: subprocess.Popen | None = None
        self._lines: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._open: set[Path] = set()
        self._stillborn = 0
        self.ready = False

    def open(self) -> None:
        """Start the executor; commands may be given at once, it takes them when Ray is up."""
        environment = {
            **os.environ,
            **executor.RAY_ENVIRONMENT,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gigafactory.works.executor", str(self._chips)],
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

    def ended(self) -> list[Ended]:
        """Attempts that ended since the last call; all open ones where the executor died."""
        ended = []
        while True:
            try:
                line = self._lines.get_nowait()
            except Empty:
                break
            if line.get("ready"):
                self.ready, self._stillborn = True, 0
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
