"""How long the control plane takes to answer, and what it holds; Ray's processes are not counted.

    python benchmarks/start.py [--times 5]

Starts `gigafactory up tiny` in a home of its own again and again, until its first answer over HTTP.
The first start, which measures the machine, is not counted.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

from gigafactory.works import calibrate

LATE_S = 120.0
SETTLED_S = 3.0


def started(home: Path, port: int) -> tuple[float, float, float]:
    """Seconds to the first answer, CPU-seconds to it, and MB a moment later."""
    began_s = time.perf_counter()
    works = subprocess.Popen(
        [sys.executable, "-m", "gigafactory.cli", "up", "tiny", "--port", str(port)],
        env={**os.environ, "GIGAFACTORY_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            assert works.poll() is None, "it ended before it answered"
            assert time.perf_counter() - began_s < LATE_S, "it does not answer"
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.01)
        took_s = time.perf_counter() - began_s
        process = psutil.Process(works.pid)
        cpu = process.cpu_times()
        time.sleep(SETTLED_S)
        return took_s, cpu.user + cpu.system, process.memory_info().rss / 1e6
    finally:
        works.send_signal(signal.SIGINT)
        works.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--port", type=int, default=8642)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        calibrate.calibrate(home, False, lambda thing: None)
        rows = [started(home, asked.port) for _ in range(asked.times)]
    for took_s, cpu_s, memory_mb in rows:
        print(f"answers after {took_s:.2f} s ({cpu_s:.2f} CPU-s), {memory_mb:.0f} MB")
    print(f"median {sorted(row[0] for row in rows)[len(rows) // 2]:.2f} s")


if __name__ == "__main__":
    main()
