"""Where a factory keeps what it must not forget: one folder, one owner at a time.

$GIGAFACTORY_HOME/ledger.db            everything that happened (or $GIGAFACTORY_LEDGER)
                  machine.json         this machine as a chip
                  key                  this user's key, an operator's
                  works.json, lock     who runs the factory now, and where it answers
                  executor.log         what Ray said
                  cache/               what anyone would make the same
                  ray.token, ray.json  what lets a node join Ray, and where it answers
                  runs/RUN/JOB/        attempt-N/, checkpoints/ (taken from attempts)
                  files/TENANT/        what came and went by /v1/files
                  prompts/             of tenants that asked to have them kept
                  simulated/           ledgers of days that were only played
"""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigafactory.faults import Fault, Refused


@dataclass(frozen=True)
class Home:
    """The state folder, and the paths in it that more than one part uses."""

    path: Path

    @classmethod
    def default(cls) -> "Home":
        """`$GIGAFACTORY_HOME`, or `~/.gigafactory`."""
        return cls(Path(os.environ.get("GIGAFACTORY_HOME") or Path.home() / ".gigafactory"))

    @property
    def ledger(self) -> Path | str:
        """The event store: a file, or the PostgreSQL database of `$GIGAFACTORY_LEDGER`."""
        return os.environ.get("GIGAFACTORY_LEDGER") or self.path / "ledger.db"

    @property
    def cache(self) -> Path:
        """Shared by all jobs: tokenised text, converted weights."""
        return self.path / "cache"

    @property
    def address_file(self) -> Path:
        """Where a running works says how to reach it."""
        return self.path / "works.json"

    def job(self, run: str, job: str) -> Path:
        """Folder of a job."""
        return Path(f"{self.path}/runs/{run}/{job}")

    def attempt(self, run: str, job: str, attempt: int) -> Path:
        """Folder of one attempt, which no other attempt writes to."""
        return Path(f"{self.path}/runs/{run}/{job}/attempt-{attempt}")

    def checkpoints(self, run: str, job: str) -> Path:
        """Where a job's durable checkpoints lie; its attempts only read there."""
        return self.job(run, job) / "checkpoints"

    def address(self) -> dict[str, Any] | None:
        """The running works: `pid`, `url`, `run`; None where none runs."""
        try:
            address = json.loads(self.address_file.read_text(encoding="utf-8"))
            os.kill(address["pid"], 0)
        except (OSError, ValueError):
            return None
        return address

    def claim(self) -> int:
        """Become the only works of this home; the claim ends with the process."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise Refused(
                Fault(
                    "the factory has nowhere to keep its state",
                    str(self.path),
                    error.strerror or str(error),
                    "set GIGAFACTORY_HOME to a folder that can be written",
                )
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            running = self.address() or {}
            raise Refused(
                Fault(
                    "a factory already runs from this home",
                    str(self.path),
                    f"process {running.get('pid', '?')} answers at {running.get('url', '?')}",
                    "use that one, stop it with Ctrl-C, or set another GIGAFACTORY_HOME",
                )
            ) from None
        return handle


def write_whole(path: Path, value: Any) -> None:
    """Write JSON so that a crash leaves the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
