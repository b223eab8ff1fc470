"""Walls around a command of a tenant: its own folders, the system to read, and nothing else. Linux.

Two walls, because each leaves out what the other keeps:

Namespaces (user, mount, IPC and, unless ports are open, network) take away what the command
could name: only `read` and `write` are there at all, all but `write` read-only, with a /tmp and
a /dev/shm of its own; no unix socket, no address but a loopback of its own.

Landlock, from version 6, holds within these: what of the listed folders may be read or written
(of /proc nothing about any process), and no signal to and no nameless unix socket of a process
outside. Where ports are open, ordinary TCP goes to those alone. Nothing takes it off again.

Both work without privileges where kernel and administrator let them. Privileges that there are
(of root, or in the new user namespace) are given up, and no program can bring any back. What
does not hold is told and never passed over in silence. What is not covered: with ports open,
UDP, multipath TCP and TCP fast open reach any address, for Landlock knows none of them; load and
sizes of the machine can be seen; disk, memory and processors are shared; faults of the kernel.

Runs without site packages: `python -I -S confined.py` prints what this machine lacks, in JSON.
Sources: landlock(7), linux/landlock.h, user_namespaces(7), mount_namespaces(7), pivot_root(2).
"""

import ctypes
import json
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

Walls = dict[str, Any]
"""`read` and `write` are paths, `folder` the one that holds most of `write`, `tmp` what /tmp is
to be, `shm_bytes` the size of /dev/shm, `ports` the TCP ports to connect to."""

LANDLOCK_MIN = 6  # Linux 6.12: the first that keeps signals and unix sockets in
ADD_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
MOUNT_SETATTR = 442
VERSION = 1  # asks landlock_create_ruleset for its version
BENEATH, PORT = 1, 2  # kinds of rules
READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read files, read folders
ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by version
DEVICES_MAKE = 1 << 6 | 1 << 11  # character and block devices: never
OF_FILES = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # rights that a file has
BIND_TCP, CONNECT_TCP = 1, 2
UNIX_SOCKETS, SIGNALS = 1, 2
NEWNS, NEWIPC, NEWUSER, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
RDONLY, NOSUID = 1, 2  # of mount_setattr
AT_FDCWD, AT_RECURSIVE, MNT_DETACH = -100, 0x8000, 2
NO_NEW_PRIVS, CAPBSET_DROP, CHILD_SUBREAPER = 38, 24, 36
CAPABILITIES = 64
SIOCSIFFLAGS, UP = 0x8914, 1

SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix/store",
    "/sys/devices/system", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version",
    "/proc/loadavg", "/proc/filesystems", "/proc/sys",
    # Of /etc what programs look up, and nothing that could hold a secret.
    *(f"/etc/{name}" for name in (
        "alternatives", "ca-certificates", "fonts", "group", "host.conf", "hosts", "ld.so.cache",
        "ld.so.conf", "ld.so.conf.d", "localtime", "machine-id", "magic", "mime.types",
        "nsswitch.conf", "os-release", "passwd", "pki/ca-trust", "pki/tls/certs", "protocols",
        "resolv.conf", "services", "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone",
    )),
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
OF_GPUS = ("/sys", "/proc/devices", "/proc/driver")
GPUS = ("nvidia*", "dri", "kfd")


def walls(
    folder: Path, private: Path, read: Iterable[Path], write: Iterable[Path], gpus: bool
) -> Walls:
    """What a command of `folder` may touch. Nothing of `private` besides, wherever it lies."""
    system = [Path(name) for name in (*SYSTEM, *(OF_GPUS if gpus else ()))]
    for prefix in dict.fromkeys((sys.prefix, sys.base_prefix)):
        system += [Path(prefix), Path(os.path.realpath(prefix))]
    devices = [Path(name) for name in DEVICES]
    if gpus:
        devices += [path for glob in GPUS for path in Path("/dev").glob(glob)]
    allowed = [path for one in system for path in around(one, private.resolve())]
    return {
        "folder": str(folder.resolve()),
        "read": _outermost([*allowed, *(path.resolve() for path in read)]),
        "write": _outermost([*(path.resolve() for path in write), *devices]),
    }


def around(path: Path, private: Path) -> Iterator[Path]:
    """A path, or where it holds `private`, what is in it but that."""
    real = path.resolve()
    if not private.is_relative_to(real):
        if not real.is_relative_to(private) and path.exists():
            yield path
    elif real != private:
        for inner in real.iterdir():
            yield from around(inner, private)


def _outermost(paths: Iterable[Path]) -> list[str]:
    """Each path once, and none that lies within another."""
    kept = dict.fromkeys(paths)
    return [str(one) for one in kept if not any(other in kept for other in one.parents)]


@cache
def lacks() -> tuple[str, ...]:
    """What walls on this machine do not keep, in words; nothing where they are whole."""
    if sys.platform != "linux":
        return (f"{sys.platform} has no Landlock",)
    import subprocess

    words = [sys.executable, "-I", "-S", __file__]
    asked = subprocess.run(words, capture_output=True, text=True, timeout=60)
    return tuple(json.loads(asked.stdout))


def enter(walls: Walls) -> list[str]:
    """Put this process, and all that it starts, within walls, for ever. What does not hold.

    To be called in a process with one thread.
    """
    if sys.platform != "linux":
        return [f"{sys.platform} has no Landlock"]
    lacking = []
    try:
        _unshare(walls)
    except OSError as error:
        lacking.append(
            f"namespaces ({error.strerror}): networks, unix sockets, and names, modes and times"
            " of files are open"
        )
    version = _libc().syscall(ADD_RULESET, None, ctypes.c_size_t(0), VERSION)
    # What root could do, also in its own namespace, programs it runs cannot.
    _call(_libc().prctl(NO_NEW_PRIVS, 1, 0, 0, 0))
    for capability in range(CAPABILITIES):
        _libc().prctl(CAPBSET_DROP, capability, 0, 0, 0)
    if version > 0:
        _landlock(walls, version, in_own_network=not (lacking or walls["ports"]))
    if version < 1:
        lacking.append("Landlock: whatever the factory's user may read or write is open")
    elif version < LANDLOCK_MIN:
        lacking.append(f"Landlock {LANDLOCK_MIN} (it has {version}): signals are open")
    return lacking


def adopt_orphans() -> None:
    """Be the parent of what children of this process leave behind, so that it can be ended."""
    if sys.platform == "linux":
        _call(_libc().prctl(CHILD_SUBREAPER, 1, 0, 0, 0))


def _unshare(walls: Walls) -> None:
    """A root of its own in which only what is allowed is there; a network without anything."""
    libc, root = _libc(), f"{walls['tmp']}/root"
    user, group = os.getuid(), os.getgid()
    os.makedirs(root, exist_ok=True)
    _call(libc.unshare(NEWUSER | NEWNS | NEWIPC | (0 if walls["ports"] else NEWNET)))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    if not walls["ports"]:
        _raise_loopback()
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    # From the outside in: what is mounted later may lie within what came before.
    outside = {path: path for path in (*walls["read"], "/proc", *walls["write"], walls["folder"])}
    if not any(place.startswith("/tmp/") for place in outside):
        # Else what lies there could be written: Landlock's rights reach through mounts.
        outside["/tmp"] = walls["tmp"]
    writable = {"/tmp", *walls["write"], walls["folder"]}
    for place, source in sorted(outside.items()):
        if place != walls["folder"] and place.startswith(walls["folder"] + "/"):
            continue  # there already, in one mount: files may be moved within it
        # A folder to write to is shown without what is mounted in it: the new root may be.
        _show(source, root + place, 0 if place in writable else MS_REC)
        if place not in writable and not os.path.islink(root + place):
            _read_only(root + place)
    os.makedirs(f"{root}/dev/shm", exist_ok=True)
    size = f"size={int(walls['shm_bytes'])},mode=1777"
    _mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, size)
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    here = os.getcwd()
    os.chdir(root)
    _call(libc.pivot_root(b".", b"."))
    _call(libc.umount2(b".", MNT_DETACH))
    os.chdir("/")
    _read_only("/", recursive=False)
    os.chdir(here)


def _show(source: str, place: str, deep: int) -> None:
    """Let a path be seen in the new root; a link to a folder (/bin) stays a link."""
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.islink(source) and os.path.isdir(source):
        if not os.path.lexists(place):
            os.symlink(os.readlink(source), place)
        return
    if os.path.isdir(source):
        os.makedirs(place, exist_ok=True)
    elif not os.path.exists(place):
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(source, place, None, MS_BIND | deep)


def _read_only(place: str, recursive: bool = True) -> None:
    attributes = struct.pack("=QQQQ", RDONLY | NOSUID, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(len(attributes))
    _call(
        _libc().syscall(MOUNT_SETATTR, AT_FDCWD, os.fsencode(place), flags, attributes, size), place
    )


def _raise_loopback() -> None:
    import fcntl
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", UP))


def _landlock(walls: Walls, version: int, in_own_network: bool) -> None:
    """Rules for the paths, for TCP unless the network is its own, and for what it may reach."""
    every = ALL[max(known for known in ALL if known <= version)]
    net = 0 if in_own_network else BIND_TCP | CONNECT_TCP
    handled = struct.pack("=QQQ", every, net, UNIX_SOCKETS | SIGNALS)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _call(_libc().syscall(ADD_RULESET, handled, ctypes.c_size_t(size), 0))
    own = [*walls["write"], walls["tmp"], *(["/dev/shm"] if in_own_network else [])]
    for path in walls["read"]:
        _allow(rules, path, READ & every)
    for path in own:
        _allow(rules, path, every & ~DEVICES_MAKE)
    if net and version >= 4:
        for port in walls["ports"]:
            _rule(rules, PORT, struct.pack("=QQ", CONNECT_TCP, port))
    _call(_libc().syscall(RESTRICT_SELF, rules, 0))
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    """Rights on a path and all beneath it; a path that is not there needs none."""
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= OF_FILES
    _rule(rules, BENEATH, struct.pack("=Qi", rights, handle))
    os.close(handle)


def _rule(rules: int, kind: int, rule: bytes) -> None:
    _call(_libc().syscall(ADD_RULE, rules, kind, rule, 0))


def _mount(source: str | None, place: str, kind: str | None, flags: int, more: str = "") -> None:
    words = [os.fsencode(word) if word else None for word in (source, place, kind)]
    _call(_libc().mount(*words, ctypes.c_ulong(flags), more.encode() or None), place)


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _call(result: int, about: str = "") -> int:
    """The result of a call of the kernel; OSError where it refused."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error) + (f", {about}" if about else ""))
    return result


def main() -> None:
    """Try the walls and print what they do not keep."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if child == 0:
            os.chdir(folder)
            asked = walls(Path(folder), Path(folder), (), [Path(folder)], gpus=False)
            lacking = enter({**asked, "tmp": folder, "shm_bytes": 1e6, "ports": ()})
            print(json.dumps(lacking), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
