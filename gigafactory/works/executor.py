"""The process that holds Ray. The works starts it, talks to it in lines, and can lose it.

    in:   {"start": FOLDER}      run the attempt that FOLDER/attempt.json describes
    out:  {"ready": true}
          {"ended": FOLDER, "outcome": "done" | "stopped" | "failed", "error": {...}}

Ray is disposable: it gives processes, gangs and news of their death. What was accepted, which
attempt counts and what is committed is the works' business. When the works dies, this process
reads the end of its input and takes Ray with it.
"""

import errno
import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gigafactory.jobs.context import RESULT, Context, StopJob
from gigafactory.works.home import write_whole

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
OBJECT_STORE_BYTES = 80_000_000  # jobs exchange files, not objects
GANGS = ("pretrain",)  # kinds that run one process a chip under Ray Train


def main() -> None:
    """Read commands until the works is gone."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print; the pipe is for our lines alone
    os.environ.update(RAY_ENVIRONMENT)
    import ray

    ray.init(
        address="local",
        num_cpus=int(sys.argv[1]),
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=OBJECT_STORE_BYTES,
        ignore_reinit_error=False,
        _node_ip_address="127.0.0.1",
    )
    speaking = threading.Lock()

    def say(line: dict[str, Any]) -> None:
        with speaking:
            out.write(json.dumps(line) + "\n")

    say({"ready": True})
    for line in sys.stdin:
        folder = Path(json.loads(line)["start"])
        threading.Thread(target=_attempt, args=(folder, say), daemon=True).start()
    ray.shutdown()


def kill(folder: Path) -> None:
    """End every process that an attempt started on this machine, if it still lives."""
    import psutil

    for file in folder.glob("pid-*.json"):
        born = json.loads(file.read_text(encoding="utf-8"))
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(born["pid"])
            if abs(process.create_time() - born["created_unix_s"]) < 1:
                children = process.children(recursive=True)
                process.kill()  # first, so that it starts no more
                for child in children:
                    with suppress(psutil.NoSuchProcess):
                        child.kill()


def _attempt(folder: Path, say: Any) -> None:
    """Run one attempt on Ray and say how it ended."""
    try:
        described = json.loads((folder / "attempt.json").read_text(encoding="utf-8"))
        gang = described["work"]["kind"] in GANGS
        outcome = (_run_gang if gang else _run_alone)(folder, described)
        say({"ended": str(folder), "outcome": outcome})
    except Exception as error:
        say({"ended": str(folder), "outcome": "failed", "error": _explain(folder, error)})


def _run_gang(folder: Path, described: dict[str, Any]) -> str:
    """One process a chip, under Ray Train, which sets up `torch.distributed`."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _rank_of_gang,
        train_loop_config={"folder": str(folder)},
        scaling_config=ScalingConfig(
            num_workers=described["chips"],
            use_gpu=described["device"] == "cuda",
            resources_per_worker={"CPU": 1},
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


def _run_alone(folder: Path, described: dict[str, Any]) -> str:
    """One process with a thread a chip."""
    import ray

    gpus = described["chips"] if described["device"] == "cuda" else 0
    task = ray.remote(max_retries=0, max_calls=1, num_cpus=described["chips"], num_gpus=gpus)
    ray.get(task(run_rank).remote(folder, 0, 1))
    return _outcome(folder)


def _outcome(folder: Path) -> str:
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))["outcome"]


def run_rank(folder: Path, rank: int, world: int) -> None:
    """Run one process of an attempt: the job, its output to `log.txt`, its result to a file.

    The result is written last and whole; where it is missing, the attempt did not end.
    """
    import psutil

    started = psutil.Process()
    write_whole(
        folder / f"pid-{rank}.json",
        {"pid": started.pid, "created_unix_s": started.create_time()},
    )
    _log_to(folder / ("log.txt" if rank == 0 else f"log-{rank}.txt"))
    described = json.loads((folder / "attempt.json").read_text(encoding="utf-8"))
    context = Context(
        work=described["work"],
        model=described["model"],
        folder=folder,
        checkpoints=Path(described["checkpoints"]),
        cache=Path(described["cache"]),
        inputs={name: Path(path) for name, path in described["inputs"].items()},
        attempt=described["attempt"],
        chips=described["chips"] if world == 1 else 1,
        rank=rank,
        world=world,
        lease_s=described["lease_s"],
    )
    os.environ["OMP_NUM_THREADS"] = str(context.chips)
    context.make_folders()
    context.phase("start")
    begun_cpu_s = _cpu_s()
    outcome: dict[str, Any] = {"outcome": "done", "results": {}}
    try:
        outcome["results"] = job_entry(context.work["kind"])(context) or {}
    except StopJob:
        outcome = {"outcome": "stopped", "results": {}}
    write_whole(folder / f"cpu-{rank}.json", {"cpu_s": _cpu_s() - begun_cpu_s})
    if rank == 0:
        write_whole(folder / RESULT, {**outcome, "unix_s": time.time()})


def job_entry(kind: str) -> Any:
    """The `run` function of a kind of job."""
    from importlib import import_module

    return import_module(f"gigafactory.jobs.{kind}").run


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
