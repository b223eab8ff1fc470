"""What a tenant's command cannot reach: real processes, real attempts to get out.

Each attempt is made behind both walls, and behind Landlock alone, as where an administrator
lets nobody make namespaces.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gigafactory.jobs import confined, script
from gigafactory.jobs.context import Context

LIMITS = {"memory_bytes": 4e9, "open_files": 256, "cpu_s": None, "processes": 64}
SECRET = "gf-canary-of-an-operator"
needs_walls = pytest.mark.skipif(bool(confined.lacks()), reason=f"here: {confined.lacks()}")
pytestmark = needs_walls

WITHOUT_NAMESPACES = """
import sys
sys.path.append({jobs!r})
import confined, limited
def refused(walls):
    raise OSError(1, "Operation not permitted")
confined._unshare = refused
limited.main()
"""
TRY = """
import json, os, sys, socket, signal, ctypes
said = {}
def attempt(name, act):
    try:
        said[name] = str(act())
    except Exception as error:
        said[name] = type(error).__name__
"""
SAY = "\nprint(json.dumps(said))\n"
NO = {
    "PermissionError",
    "FileNotFoundError",
    "OSError",
    "ProcessLookupError",
    "ConnectionRefusedError",
}


@pytest.fixture
def home(tmp_path):
    """A home with what must not be read, and one attempt of one job."""
    home = tmp_path / "home"
    for name in ("key", "ledger.db", "ray.token", "works.json", "cache/text"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(SECRET)
    for job in ("other", "mine", "before"):
        for folder in ("attempt-1/output", "checkpoints/step-000001.1"):
            (home / "runs/run" / job / folder).mkdir(parents=True)
            (home / "runs/run" / job / folder / "made").write_text(SECRET)
    (home / "runs/run/mine/attempt-2").mkdir()
    return home


@pytest.fixture(params=["both walls", "Landlock alone"])
def run(request, home, tmp_path, monkeypatch):
    """Run a command of job `mine`; what it printed, as JSON."""
    if request.param == "Landlock alone":
        shim = tmp_path / "limited.py"
        shim.write_text(WITHOUT_NAMESPACES.format(jobs=str(Path(script.__file__).parent)))
        monkeypatch.setattr(script, "LIMITED", shim)

    def run(code, command=None, limits=(), **work):
        folder = home / "runs/run/mine/attempt-2"
        context = Context(
            work={
                "name": "mine",
                "command": command or [sys.executable, "main.py", str(home), str(tmp_path)],
                "files": {"main.py": TRY + code + SAY},
                "time_s": 30.0,
                "limits": {**LIMITS, **dict(limits)},
                **work,
            },
            folder=folder,
            checkpoints=folder / "checkpoints",
            cache=home / "cache",
            inputs={"before": home / "runs/run/before/attempt-1/output"},
            resume_from=home / "runs/run/mine/checkpoints/step-000001.1",
            attempt=2,
        )
        context.make_folders()
        run.context, run.walls = context, request.param
        try:
            script.run(context)
        except script.ScriptFailed:
            pytest.fail((folder / "log.txt").read_text())
        lines = (folder / "log.txt").read_text().splitlines()
        return json.loads(next(line for line in lines if line.startswith("{")))

    return run


READING = """
home, tmp = sys.argv[1:]
secrets = [f"{home}/{name}" for name in (
    "key", "ledger.db", "ray.token", "works.json", "cache/text",
    "runs/run/other/attempt-1/output/made", "runs/run/other/checkpoints/step-000001.1/made",
    "runs/run/mine/attempt-1/output/made", "runs/run/mine/attempt-2/attempt.json",
    "runs/run/mine/attempt-2/progress.jsonl")]
secrets += ["/etc/shadow", "/etc/ssh/sshd_config", os.path.expanduser("~root/.ssh/id_rsa"),
            os.path.expanduser("~root/.bashrc"), f"{tmp}/outside"]
up = "/.." * 20
for path in secrets:
    attempt(path, lambda: open(path).read())
    os.symlink(path, "link")
    attempt("by a link, " + path, lambda: open("link").read())
    os.unlink("link")
    attempt("by .., " + path, lambda: open(os.path.relpath(path)).read())
    attempt("by the root, " + path, lambda: open("/proc/self/root" + path).read())
    attempt("by an own root, " + path, lambda: open("/proc/thread-self/cwd" + up + path).read())
    attempt("by another name, " + path, lambda: os.link(path, "hard") or open("hard").read())
for folder in (home, home + "/runs/run/other", "/root", "/home", tmp, "/tmp", "/var/log"):
    attempt("list " + folder, lambda: [os.listdir(folder)] and "listed")
"""


def test_it_reads_no_key_no_ledger_and_no_folder_of_another_by_whatever_name(run, home, tmp_path):
    (home / "runs/run/mine/attempt-2/attempt.json").write_text(SECRET)
    (tmp_path / "outside").write_text(SECRET)
    said = run(READING)
    assert {what for what, found in said.items() if found not in NO} == set()
    assert len(said) > 90
    assert SECRET not in (run.context.folder / "log.txt").read_text()


WRITING = """
home, tmp = sys.argv[1:]
own = f"{home}/runs/run/mine/attempt-2"
for path in (f"{home}/key", f"{home}/ledger.db", f"{home}/new", f"{own}/result.json",
             f"{own}/progress.jsonl", f"{own}/pid-0.json", f"{tmp}/new", "/etc/new",
             "/usr/bin/new", sys.prefix + "/new", "inputs/before/new", "inputs/before/made",
             os.environ["GIGAFACTORY_RESUME"] + "/made"):
    attempt("write " + path, lambda: open(path, "w").write("x"))
    attempt("append " + path, lambda: open(path, "a").write("x"))
    attempt("truncate " + path, lambda: os.truncate(path, 0))
    attempt("unlink " + path, lambda: os.unlink(path))
    attempt("replace " + path, lambda: (open("mine", "w").close(), os.rename("mine", path)))
for folder in ("work", "output", "checkpoints"):
    attempt("swap " + folder, lambda: os.rename(f"{own}/{folder}", f"{own}/{folder}-2"))
attempt("device", lambda: os.mknod("disk", 0o60600, os.makedev(254, 0)))
"""
CHANGING = """
home, tmp = sys.argv[1:]
for path in (f"{home}/key", home, "/usr/bin", sys.prefix):
    attempt("mode " + path, lambda: os.chmod(path, 0o777))
    attempt("times " + path, lambda: os.utime(path, (0, 0)))
    attempt("owner " + path, lambda: os.chown(path, 1, 1))
"""


def test_it_writes_nowhere_but_in_its_own_folders(run, home):
    said = run(WRITING)
    assert {what for what, found in said.items() if found not in NO} == set()
    assert (home / "key").read_text() == SECRET
    assert (home / "runs/run/before/attempt-1/output/made").read_text() == SECRET


def test_it_changes_no_mode_time_or_owner_of_what_is_not_its_own(run, home):
    (home / "key").chmod(0o600)
    said = run(CHANGING)
    if run.walls == "Landlock alone":  # which knows nothing of these: said in docs/safety.md
        (home / "key").chmod(0o600)
        return
    assert {what for what, found in said.items() if found not in NO} == set()
    assert (home / "key").stat().st_mode & 0o777 == 0o600


def test_it_reads_its_inputs_and_writes_its_output_checkpoints_and_temporary_files(run):
    said = run("""
import multiprocessing, subprocess, tempfile, shutil, ssl, sqlite3, zoneinfo, threading
attempt("input", lambda: open("inputs/before/made").read())
attempt("list", lambda: os.listdir("inputs/before"))
attempt("resume", lambda: open(os.environ["GIGAFACTORY_RESUME"] + "/made").read())
def put():
    open("half", "w").write("whole")
    os.rename("half", os.environ["GIGAFACTORY_OUTPUT"] + "/whole")
attempt("output", put)
attempt("checkpoint", lambda: os.makedirs(os.environ["GIGAFACTORY_CHECKPOINTS"] + "/7"))
attempt("figure", lambda: open(os.environ["GIGAFACTORY_PROGRESS"], "a").write('{"loss": 1}\\n'))
attempt("temporary", lambda: tempfile.TemporaryFile().write(b"1234"))
attempt("child", lambda: subprocess.check_output([sys.executable, "-c", "print(6 * 7)"], text=True))
attempt("shell", lambda: subprocess.check_output("cat < /dev/null; echo $HOME | wc -l", shell=True))
attempt("database", lambda: sqlite3.connect("own.db").execute("select 1").fetchone())
attempt("certificates", lambda: bool(ssl.create_default_context().get_ca_certs()) or "none")
attempt("random", lambda: len(os.urandom(4)) + len(open("/dev/urandom", "rb").read(4)))
attempt("null", lambda: open("/dev/null", "w").write("x"))
attempt("cores", lambda: "MHz" in open("/proc/cpuinfo").read() or "Features")
attempt("user", lambda: __import__("pwd").getpwuid(os.getuid()).pw_name)
""")
    left = {"figure": "12", "null": "1", "random": "8", "child": "42\n", "temporary": "4"}
    assert {name: said[name] for name in left} == left
    assert said["input"] == said["resume"] == SECRET
    assert (run.context.output / "whole").read_text() == "whole"
    assert not (run.context.folder / "tmp").exists()
    failed = {name: found for name, found in said.items() if found.endswith("Error")}
    assert failed == {}


def test_its_processes_may_share_memory_that_nobody_else_has(run):
    shared = Path("/dev/shm/gigafactory-of-another")
    shared.write_text(SECRET)
    try:
        said = run("""
import multiprocessing
attempt("other", lambda: open("/dev/shm/gigafactory-of-another").read())
def pool():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2])
attempt("pool", pool)
""")
    finally:
        shared.unlink()
    assert said["other"] in NO
    assert said["pool"] == ("[1, 2]" if run.walls == "both walls" else "PermissionError")


@pytest.fixture
def gateway():
    """A server on the loopback that counts who came, by TCP and by UDP."""
    came = []
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", tcp.getsockname()[1]))
    tcp.settimeout(20)

    def accept():
        while True:
            try:
                came.append(tcp.accept())
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    udp.setblocking(False)
    yield tcp.getsockname()[1], came, udp
    tcp.shutdown(socket.SHUT_RDWR)
    tcp.close()
    thread.join()
    udp.close()


CONNECTING = """
port = %d
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", port), 2) and "in")
attempt("tcp6", lambda: socket.create_connection(("::ffff:127.0.0.1", port), 2) and "in")
def fast():
    one = socket.socket()
    one.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", port))
    return "in"
attempt("fast open", fast)
def multipath():
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    one.connect(("127.0.0.1", port))
    return "in"
attempt("multipath", multipath)
attempt("udp", lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)))
attempt("bind", lambda: socket.create_server(("127.0.0.1", 0)) and "bound")
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) and "raw")
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW) and "raw")
def own():
    server = socket.create_server(("127.0.0.1", 0))
    return socket.create_connection(server.getsockname()) and "in"
attempt("own", own)
"""


def test_it_reaches_no_port_of_the_gateway_or_of_an_engine(run, gateway):
    port, came, udp = gateway
    said = run(CONNECTING % port)
    assert {said[how] for how in ("tcp", "tcp6", "raw", "packet")} <= NO
    if run.walls == "both walls":
        assert {said[how] for how in ("fast open", "multipath")} <= NO
        assert came == []
        with pytest.raises(BlockingIOError):
            udp.recv(1)
        assert said["own"] == "in"  # its processes may talk among themselves
    else:  # Landlock knows nothing of fast open, multipath TCP and UDP: docs/safety.md says so
        assert said["bind"] in NO


def test_ports_that_the_factory_opens_are_reached_by_who_asks_for_them_and_no_others(run, gateway):
    port, came, _ = gateway
    other = socket.create_server(("127.0.0.1", 0))
    ask = f"""
for port in ({port}, {other.getsockname()[1]}):
    attempt(f"{{port}}", lambda: socket.create_connection(("127.0.0.1", port), 2) and "in")
attempt("bind", lambda: socket.create_server(("127.0.0.1", 0)) and "bound")
"""
    said = run(ask, ports=[port])
    assert set(said.values()) - {"bound"} <= NO
    assert came == []
    (run.context.folder / "log.txt").unlink()
    said = run(ask, ports=[port], limits={"network": True})
    other.close()
    assert list(said.values()) == ["in", "PermissionError", "PermissionError"]


def test_it_reaches_no_unix_socket_of_the_machine(run, tmp_path):
    """PostgreSQL and Ray listen on these, and believe whoever is the factory's user."""
    path = str(tmp_path / "s")
    named, nameless = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    named.bind(path)
    nameless.bind("\0gigafactory-test")
    for server in (named, nameless):
        server.listen()
    said = run(f"""
def connect(to):
    one = socket.socket(socket.AF_UNIX)
    one.connect(to)
    return "in"
attempt("named", lambda: connect({path!r}))
attempt("nameless", lambda: connect("\\0gigafactory-test"))
""")
    named.close()
    nameless.close()
    assert said["nameless"] in NO
    if run.walls == "both walls":  # Landlock says nothing of sockets that have a path
        assert said["named"] in NO


def test_it_signals_and_looks_into_no_process_but_its_own(run):
    works = subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(60)"], env={"TOKEN": SECRET}
    )
    try:
        said = run(f"""
for pid in ({works.pid}, {os.getpid()}):
    for name in ("environ", "root/etc/hostname", "cwd", "maps", "mem", "cmdline", "fd", "status"):
        attempt(f"{{name}} of {{pid}}", lambda: open(f"/proc/{{pid}}/{{name}}", "rb").read(64))
    for sign in (0, signal.SIGTERM, signal.SIGKILL) if pid == {works.pid} else (0,):
        attempt(f"signal {{sign}} to {{pid}}", lambda: os.kill(pid, sign))
    attempt(f"handle of {{pid}}", lambda: os.readlink(f"/proc/{{pid}}/exe"))
libc = ctypes.CDLL(None, use_errno=True)
said["ptrace"] = "OSError" if libc.ptrace(16, {works.pid}, None, None) < 0 else "traced"
said["read memory"] = "OSError" if libc.syscall(310, {works.pid}, None, 0, None, 0, 0) < 0 else "0"
attempt("processes", lambda: os.listdir("/proc"))
said.pop("read memory")  # of nothing: it may say yes
""")
        assert works.poll() is None
    finally:
        works.kill()
        works.wait()
    assert {what for what, found in said.items() if found not in NO} == set()


def test_no_program_gives_it_privileges_back_and_no_namespace_a_way_out(run, home):
    said = run("""
libc = ctypes.CDLL(None, use_errno=True)
status = {}
attempt("mount", lambda: libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None))
said["new privileges"] = libc.prctl(39, 0, 0, 0, 0)
libc.unshare(0x10000000 | 0x20000)
said["mount in another namespace"] = libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None)
said["remount"] = libc.mount(None, b"/", None, 32 | 4096, None)
libc.chroot(b".")
for _ in range(20):
    os.chdir("..")
attempt("out of a root", lambda: open("." + sys.argv[1] + "/key").read())
""")
    assert said["mount"] == "-1"
    assert said["new privileges"] == 1
    assert said["mount in another namespace"] == said["remount"] == -1
    assert said["out of a root"] in NO


def test_a_link_in_place_of_a_checkpoint_opens_nothing_to_the_next_attempt(run, home):
    kept = home / "runs/run/mine/checkpoints/step-000001.1"
    (kept / "made").unlink()
    kept.rmdir()
    kept.symlink_to(home / "runs/run/other/attempt-1/output")
    said = run("""
attempt("resume", lambda: open(os.environ["GIGAFACTORY_RESUME"] + "/made").read())
os.symlink(sys.argv[1], os.environ["GIGAFACTORY_CHECKPOINTS"] + "/5")
open(os.environ["GIGAFACTORY_PROGRESS"], "a").write('{"checkpoint": 5}\\n')
""")
    assert said["resume"] in NO
    assert os.path.islink(run.context.checkpoints / "5")  # not taken


def test_what_leaves_its_session_ends_with_it_all_the_same(run):
    said = run("""
import subprocess
words = [sys.executable, "-c", "import time; time.sleep(60)"]
left = subprocess.Popen(words, start_new_session=True)
said["pid"] = left.pid
""")
    with pytest.raises(ProcessLookupError):
        os.kill(said["pid"], 0)


def test_walls_that_are_not_whole_are_told_and_where_they_must_be_whole_nothing_runs(
    run, home, request
):
    if "Landlock alone" not in request.node.name:
        run("", walled=True)
        return
    run("")
    assert "not kept by walls: namespaces" in (run.context.folder / "log.txt").read_text()
    (run.context.folder / "log.txt").unlink()
    run.context.work["walled"] = True
    with pytest.raises(script.ScriptFailed, match="code 126: gigafactory: not kept by walls"):
        script.run(run.context)


def test_a_home_within_what_may_be_read_stays_shut(tmp_path):
    """As where somebody keeps it in /opt, or Python in the folder above it."""
    for name in ("prefix/lib/site", "prefix/var/home/runs", "prefix/var/log", "prefix/bin"):
        (tmp_path / name).mkdir(parents=True)
    opened = set(confined.around(tmp_path / "prefix", tmp_path / "prefix/var/home"))
    assert opened == {tmp_path / f"prefix/{name}" for name in ("lib", "bin", "var/log")}
    inside = tmp_path / "prefix/var/home"
    assert list(confined.around(inside / "runs", inside)) == []
