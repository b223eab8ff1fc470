"""The process that holds Ray. The works starts it, talks to it in lines, and can lose it.

    in:   {"start": FOLDER}      run the attempt that FOLDER/attempt.json describes
    out:  {"ready": true}
          {"ended": FOLDER, "outcome": "done" | "stopped" | "failed" | "lost", "error": {...}}
          {"node": NAME, "up": true | false}

Ray is disposable: it gives processes, gangs and news of their death. What was accepted, which
attempt counts and what is committed is the works' business. When the works dies, this process
reads the end of its input and takes Ray with it.

A node of the plan is a Ray node that carries the resource `gf:NAME`, and an attempt runs on
exactly the nodes that it was given. The first node of the plan is Ray's head here; others join:

    python -m gigafactory.works.executor join --name NAME --chips 8

That is loopback, and Ray takes nobody in without the token that lies in the home. Where
`$RAY_ADDRESS` names a cluster (KubeRay) the head joins that and starts nothing; its nodes share
the home as a folder, and each was started with `--resources='{"gf:NAME": CHIPS}'`.

A dead raylet refuses connections, which is noticed at the next look; one that is frozen or cut
off is noticed by Ray's health check, `HEALTH`. An only node is never given up, however busy.
"""

import argparse
import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gigafactory.jobs.context import ALIVE, LEASE, RESULT, Context, StopJob
from gigafactory.jobs.script import SESSION, kill_session
from gigafactory.works.home import Home, write_whole

RAY_ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # else jobs run at nice 15
    "RAY_raylet_start_wait_time_s": "400",  # busy laptops start slowly
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    # Threads that spin while they wait cost a factor of ten where cores are shared.
    "OMP_WAIT_POLICY": "PASSIVE",
}
PATIENCE = {"RAY_health_check_failure_threshold": "1000"}  # an only node is busy, not dead
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # Ray's only switch for 127.0.0.1
HEALTH = {  # given up after 3 x (0.5 + 1) s without an answer; Ray's own is 5 x (3 + 10) s
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
OBJECT_STORE_BYTES = 80_000_000  # jobs exchange files, not objects
GANGS = ("pretrain",)  # modules that run one process a chip under Ray Train
NODE = "gf:"  # the resource of a node is this and its name
NODE_LABEL = "ray.io/node-id"  # Ray's own, on every node
TOKEN = "ray.token"
ADDRESS = "ray.json"
LOOK_S = 0.3  # between two looks at the nodes
JOIN_S = 60.0  # a node of the plan that has not come by then is told to be gone
HEARTBEAT_S = 1.0

Say = Callable[[dict[str, Any]], None]


def main() -> None:
    """Be Ray's head for the works, or a further node."""
    parser = argparse.ArgumentParser(description="The process that holds Ray.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("head", "join"):
        words = verbs.add_parser(verb)
        words.add_argument("--home", type=Path, default=Home.default().path)
        if verb == "head":
            words.add_argument("--nodes", type=json.loads, help="chips of each node of the plan")
        else:
            words.add_argument("--name", required=True, help="of the node in the plan")
            words.add_argument("--chips", type=int, required=True)
    said = parser.parse_args()
    if said.verb == "head":
        head(said.home, said.nodes)
    else:
        join(said.home, said.name, said.chips)


def head(home: Path, chips: dict[str, int]) -> None:
    """Read commands until the works is gone."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print; the pipe is for our lines alone
    os.environ.update(environment(home, len(chips) > 1))
    import ray

    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, log_to_driver=False)
    else:
        here = next(iter(chips))
        ray.init(
            address="local",
            num_cpus=chips[here],
            resources={NODE + here: chips[here]},
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=OBJECT_STORE_BYTES,
            ignore_reinit_error=False,
            _node_ip_address="127.0.0.1",
        )
        gcs = ray.get_runtime_context().gcs_address
        write_whole(home / ADDRESS, {"address": gcs, "pid": os.getpid()})
    speaking = threading.Lock()

    def say(line: dict[str, Any]) -> None:
        with speaking:
            out.write(json.dumps(line) + "\n")

    nodes = _Nodes(chips, say)
    nodes.look()
    over = threading.Event()
    watching = threading.Thread(target=nodes.watch, args=(over,), daemon=True)
    watching.start()
    say({"ready": True})
    for line in sys.stdin:
        folder = Path(json.loads(line)["start"])
        threading.Thread(target=_attempt, args=(folder, nodes, say), daemon=True).start()
    (home / ADDRESS).unlink(missing_ok=True)
    over.set()
    watching.join()
    ray.shutdown()


def join(home: Path, name: str, chips: int) -> None:
    """Be a node on this machine, again after each death of the raylet or the head, until told.

    Through Ray's own class: `ray start` insists on an address that others can reach.
    """
    os.environ.update(environment(home, True))
    # Ended by the kernel, since a handler would wait for Ray's C code, which may wait for a head
    # that is gone; the reaper then ends what this process started.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    while True:
        if address := _address(home):
            words = RayParams(
                gcs_address=address,
                node_ip_address="127.0.0.1",
                node_manager_port=0,
                dashboard_agent_listen_port=None,
                min_worker_port=0,
                max_worker_port=0,
                num_cpus=chips,
                resources={NODE + name: chips},
                object_store_memory=OBJECT_STORE_BYTES,
            )
            with suppress(Exception):  # the head may be gone again: there is another look
                node = Node(words, head=False, shutdown_at_exit=False, spawn_reaper=True)
                while node.remaining_processes_alive() and address == _address(home):
                    time.sleep(LOOK_S)
                node.kill_all_processes(check_alive=False)
        time.sleep(LOOK_S)


def _address(home: Path) -> str:
    """Where the head of this home answers, or nothing."""
    try:
        return json.loads((home / ADDRESS).read_text(encoding="utf-8"))["address"]
    except (OSError, ValueError):
        return ""


def environment(home: Path, several: bool) -> dict[str, str]:
    """What every process of Ray is to know: the token, unless the cluster brings its own."""
    known = RAY_ENVIRONMENT | (HEALTH if several else PATIENCE)
    if "RAY_ADDRESS" not in os.environ:
        known = known | LOOPBACK
    if "RAY_AUTH_MODE" in os.environ:
        return known
    return known | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home / TOKEN)}


class _Nodes:
    """Which nodes of the plan stand, by Ray's word and our own."""

    def __init__(self, chips: dict[str, int], say: Say):
        self._chips, self._say = chips, say
        self._began_s = time.monotonic()
        self._looking = threading.Lock()
        self._dead: set[str] = set()
        self._told: dict[str, bool] = {}
        self.standing: dict[str, str] = {}
        """Ray's identity of each node of the plan that stands."""

    def watch(self, over: threading.Event) -> None:
        """Look again and again; where Ray itself is dead here, so is this process."""
        own = _own_ports()
        while not over.wait(LOOK_S):
            if any(_refuses(*at) for at in own):
                os._exit(1)
            self.look()

    def look(self) -> None:
        """Tell what changed since the last look."""
        with self._looking:
            self._look()

    def _look(self) -> None:
        import ray

        standing = {}
        for node in ray.nodes():
            name = next((n for n in self._chips if NODE + n in node["Resources"]), None)
            if name is None or not node["Alive"] or node["NodeID"] in self._dead:
                continue
            at = node["NodeManagerAddress"], node["NodeManagerPort"]
            if len(self._chips) > 1 and _refuses(*at):
                self._dead.add(node["NodeID"])
                continue
            standing[name] = node["NodeID"]
        self.standing = standing
        late = time.monotonic() - self._began_s > JOIN_S
        for name in self._chips:
            up = name in standing
            if self._told.get(name) != up and (up or name in self._told or late):
                self._told[name] = up
                self._say({"node": name, "up": up})

    def identities(self, names: list[str], folder: Path) -> list[str]:
        """Ray's identities of these nodes, when all of them stand; waits for them."""
        while not set(names) <= self.standing.keys():
            if _fenced(folder):
                raise Fenced
            time.sleep(LOOK_S)
        return [self.standing[name] for name in names]


def _own_ports() -> list[tuple[str, int]]:
    """Where the GCS and the raylet of this machine listen; nothing of a cluster of others."""
    import ray

    if "RAY_ADDRESS" in os.environ:
        return []
    here = ray.get_runtime_context()
    host, _, port = here.gcs_address.rpartition(":")
    raylets = [
        (node["NodeManagerAddress"], node["NodeManagerPort"])
        for node in ray.nodes()
        if node["NodeID"] == here.get_node_id()
    ]
    return [(host, int(port)), *raylets]


class Fenced(Exception):
    """The attempt counts no more."""


def _refuses(host: str, port: int) -> bool:
    """Whether nobody listens there any more; one who is slow to answer is another matter."""
    try:
        socket.create_connection((host, port), 1.0).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _fenced(folder: Path) -> bool:
    return not (folder / LEASE).exists()


def kill(folder: Path) -> None:
    """End every process that an attempt started on this machine, if it still lives."""
    import psutil

    for file in folder.glob("pid-*.json"):
        born = json.loads(file.read_text(encoding="utf-8"))
        if born.get("host") != socket.gethostname():
            continue
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(born["pid"])
            if abs(process.create_time() - born["created_unix_s"]) < 1:
                children = process.children(recursive=True)
                process.kill()  # first, so that it starts no more
                for child in children:
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
    if (session := folder / SESSION).exists():
        born = json.loads(session.read_text(encoding="utf-8"))
        if born["host"] == socket.gethostname():
            kill_session(born["session"], born["unix_s"])


def _attempt(folder: Path, nodes: _Nodes, say: Say) -> None:
    """Run one attempt on Ray and say how it ended."""
    described = json.loads((folder / "attempt.json").read_text(encoding="utf-8"))
    names, where = list(described["nodes"]), []
    try:
        where = nodes.identities(names, folder)
        gang = module_of(described["work"]) in GANGS
        outcome = (_run_gang if gang else _run_alone)(folder, described, where)
        say({"ended": str(folder), "outcome": outcome})
    except Fenced:
        say({"ended": str(folder), "outcome": "lost", "error": {"why": "it was fenced off"}})
    except Exception as error:
        nodes.look()
        if [nodes.standing.get(name) for name in names] == where:
            say({"ended": str(folder), "outcome": "failed", "error": _explain(folder, error)})
        else:  # told as the loss of the node, which came first
            say({"ended": str(folder), "outcome": "lost", "error": {"why": "its node is gone"}})


def _run_gang(folder: Path, described: dict[str, Any], where: list[str]) -> str:
    """One process a chip, under Ray Train, which sets up `torch.distributed`."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    seats = [
        {NODE_LABEL: node}
        for node, chips in zip(where, described["nodes"].values(), strict=True)
        for _ in range(chips)
    ]
    trainer = TorchTrainer(
        _rank_of_gang,
        train_loop_config={"folder": str(folder)},
        scaling_config=ScalingConfig(
            num_workers=described["chips"],
            use_gpu=described["device"] == "cuda",
            resources_per_worker={"CPU": 1},
            label_selector=seats,  # type: ignore[call-arg] # of Ray Train's second version
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    trainer.fit()
    return _outcome(folder)


def _rank_of_gang(config: dict[str, Any]) -> None:
    from ray import train

    context = train.get_context()
    run_rank(Path(config["folder"]), context.get_world_rank(), context.get_world_size())


def _run_alone(folder: Path, described: dict[str, Any], where: list[str]) -> str:
    """One process with a thread a chip, on the first of its nodes."""
    import ray

    chips = next(iter(described["nodes"].values()))
    task = ray.remote(
        max_retries=0,
        max_calls=1,
        num_cpus=chips,
        num_gpus=chips if described["device"] == "cuda" else 0,
        label_selector={NODE_LABEL: where[0]},
    )
    running = task(run_rank).remote(folder, 0, 1)
    while not ray.wait([running], timeout=HEARTBEAT_S)[0]:
        if _fenced(folder):
            ray.cancel(running, force=True)
            raise Fenced
    ray.get(running)
    return _outcome(folder)


def _outcome(folder: Path) -> str:
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))["outcome"]


def run_rank(folder: Path, rank: int, world: int) -> None:
    """Run one process of an attempt: the job, its output to `log.txt`, its result to a file.

    The result is written last and whole; where it is missing, the attempt did not end.
    """
    import psutil

    if _fenced(folder):
        raise Fenced
    started = psutil.Process()
    write_whole(
        folder / f"pid-{rank}.json",
        {
            "pid": started.pid,
            "created_unix_s": started.create_time(),
            "host": socket.gethostname(),
        },
    )
    _log_to(folder / ("log.txt" if rank == 0 else f"log-{rank}.txt"))
    ended = threading.Event()
    living = threading.Thread(target=_live, args=(folder, rank, ended), daemon=True)
    living.start()
    described = json.loads((folder / "attempt.json").read_text(encoding="utf-8"))
    resume_from = described["resume_from"]
    context = Context(
        work=described["work"],
        model=described["model"],
        folder=folder,
        checkpoints=folder / "checkpoints",
        cache=Path(described["cache"]),
        inputs={name: Path(path) for name, path in described["inputs"].items()},
        attempt=described["attempt"],
        chips=next(iter(described["nodes"].values())) if world == 1 else 1,
        rank=rank,
        world=world,
        lease_s=described["lease_s"],
        resume_from=Path(resume_from) if resume_from else None,
    )
    os.environ["OMP_NUM_THREADS"] = str(context.chips)
    context.make_folders()
    context.phase("start")
    begun_cpu_s = _cpu_s()
    outcome: dict[str, Any] = {"outcome": "done", "results": {}}
    try:
        outcome["results"] = job_entry(context.work)(context) or {}
    except StopJob:
        outcome = {"outcome": "stopped", "results": {}}
    finally:
        ended.set()
    living.join()
    write_whole(folder / f"cpu-{rank}.json", {"cpu_s": _cpu_s() - begun_cpu_s})
    (folder / f"{ALIVE}-{rank}").unlink(missing_ok=True)
    if rank == 0:
        write_whole(folder / RESULT, {**outcome, "unix_s": time.time()})


def _live(folder: Path, rank: int, ended: threading.Event) -> None:
    """Give signs of life, and end this process where the attempt was fenced off."""
    sign = folder / f"{ALIVE}-{rank}"
    while not ended.is_set():
        if _fenced(folder):
            os._exit(1)
        with suppress(OSError):  # a full disk is no death
            sign.touch()
        ended.wait(HEARTBEAT_S)


def module_of(work: dict[str, Any]) -> str:
    """The module of `gigafactory.jobs` that runs a job: by what it learns, else by its kind."""
    return work.get("learns") or work["kind"]


def job_entry(work: dict[str, Any]) -> Any:
    """The `run` function of a job."""
    from importlib import import_module

    return import_module(f"gigafactory.jobs.{module_of(work)}").run


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _log_to(path: Path) -> None:
    """Everything that this process and its children print goes to the attempt's log."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)


def _explain(folder: Path, error: Exception) -> dict[str, str]:
    """An exception of a job in four parts; jobs that know better say so themselves."""
    cause: Any = error
    while not hasattr(cause, "remedy"):
        inner = getattr(cause, "cause", None) or cause.__cause__
        if not isinstance(inner, BaseException):
            break
        cause = inner
    log = folder / "log.txt"
    raised = [line.strip() for line in str(error).splitlines() if line.strip().startswith("File ")]
    full = isinstance(cause, OSError) and cause.errno == errno.ENOSPC
    return {
        "what": str(getattr(cause, "what", f"{type(cause).__name__}: {cause}")).splitlines()[0],
        "where": str(getattr(cause, "where", log)),
        "why": str(
            getattr(cause, "why", raised[-1] if raised else f"raised by the job in {folder}")
        ),
        "remedy": str(getattr(cause, "remedy", "free some disk" if full else f"read {log}")),
    }


if __name__ == "__main__":
    main()
