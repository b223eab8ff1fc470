"""A PostgreSQL server for tests: its own folder, a socket and no port, killed as cables are pulled.

`BINARIES` is None where PostgreSQL is not installed; its tests are then not collected.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
FOUND = shutil.which("postgres") or (INSTALLED and INSTALLED[-1])
BINARIES = Path(FOUND).resolve().parent if FOUND else None
# PostgreSQL refuses to run as root, as containers do.
AS = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}


class Server:
    """Starts at once; `database()` gives the URL of a new, empty one."""

    def __init__(self):
        assert BINARIES
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))  # a socket's path must be short
        if AS:
            shutil.chown(self.folder, AS["user"], AS["group"])
        asked = ["-D", self.folder / "data", "-A", "trust", "-U", "postgres", "--no-sync"]
        subprocess.run([BINARIES / "initdb", *asked], check=True, stdout=subprocess.DEVNULL, **AS)
        self.databases = 0
        self.start()

    def start(self):
        # Processes die here, no machine does: what was written is there without fsync.
        set_to = {"listen_addresses": "", "unix_socket_directories": self.folder, "fsync": "off"}
        settings = [word for name in set_to for word in ("-c", f"{name}={set_to[name]}")]
        command = [BINARIES / "postgres", "-D", self.folder / "data", *settings]
        self.process, deadline = None, time.monotonic() + 60
        while True:
            # It ends at once where a killed one's process is not quite gone and holds its memory.
            if self.process is None or self.process.poll() is not None:
                with open(self.folder / "log", "ab") as log:
                    self.process = subprocess.Popen(command, stderr=log, **AS)
            with contextlib.suppress(Exception):
                self.ask("select 1")
                return
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def url(self, database="postgres"):
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def database(self):
        self.databases += 1
        self.ask(f"create database test{self.databases}")
        return self.url(f"test{self.databases}")

    def ask(self, query, url=None):
        import psycopg

        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else None

    def kill(self):
        """Every process of it, with -9: nothing is flushed, nobody is told."""
        for process in [self.process, *psutil.Process(self.process.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self.process.wait()

    def limit(self, pid, largest_file):
        """No file that a server's process writes may grow beyond this (bytes, or "unlimited")."""
        limits = f"--fsize={largest_file}:unlimited"
        subprocess.run(["prlimit", "--pid", str(pid), limits], check=True, **AS)

    def end(self):
        if self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder)
