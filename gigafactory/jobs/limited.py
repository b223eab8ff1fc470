"""Become a command within limits and walls: `limited.py LIMITS COMMAND...`, LIMITS in JSON.

Runs without site packages and imports nothing of ours but `confined`, beside it. Linux: when the
process that watches over the command dies, however it dies, the kernel ends the command.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from importlib import import_module

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the limits, put up the walls, then be the command."""
    limits, command = json.loads(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != limits["parent"]:  # it died before we could ask
            os._exit(1)
    # Of what a process may write to; address space is reserved freely by threads and runtimes.
    limit(resource.RLIMIT_DATA, limits["memory_bytes"])
    limit(resource.RLIMIT_NOFILE, limits["open_files"])
    if limits["cpu_s"]:
        # SIGXCPU at the limit says what ended it; who does not heed that is killed a second later.
        limit(resource.RLIMIT_CPU, limits["cpu_s"], more=1)
    limit(resource.RLIMIT_CORE, 0)
    others = threads_of_user()
    sys.path.append(os.path.dirname(__file__))
    if lacking := import_module("confined").enter(limits["walls"]):
        print("gigafactory: not kept by walls:", "; ".join(lacking), file=sys.stderr, flush=True)
        if limits["walled"]:
            sys.exit(126)
    # Without a user namespace the kernel counts all processes and threads of the user: the limit
    # is so many more.
    limit(resource.RLIMIT_NPROC, limits["processes"] + (others if lacking else 0))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


def limit(what: int, value: float, more: int = 0) -> None:
    """Lower a limit, and the hard one `more` above it; what the machine forbids stays forbidden."""
    _, hard = resource.getrlimit(what)
    most = int(value) + more if hard == resource.RLIM_INFINITY else min(int(value) + more, hard)
    resource.setrlimit(what, (min(int(value), most), most))


def threads_of_user() -> int:
    """Processes and threads that this user runs now."""
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            if os.stat(f"/proc/{pid}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{pid}/task"))
        except OSError:
            continue
    return count


if __name__ == "__main__":
    main()
