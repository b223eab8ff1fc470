"""Parts that are made by any number of workers, stopped, and gone on with."""

import json
import os
import pickle
import time
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

from gigafactory.jobs.context import STOP, Context, JobRefused, StopJob, step_folder
from gigafactory.jobs.engines import EngineRefused
from gigafactory.jobs.spread import spread
from gigafactory.jobs.weights import ModelRefused
from gigafactory.jobs.worlds.scene import WorldRefused


def write(index, folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "number").write_text(str(index**2))
    (folder / "maker").write_text(str(os.getpid()))


def write_and_stop(index, folder, at, stop):
    write(index, folder)
    if index == at:
        Path(stop).touch()


def refuse(index, folder):
    if index == 2:
        raise WorldRefused("no wheels", "hall.xml", "robot 1 has none", "add some")


def numbers(parts):
    return [int((part / "deep" / "number").read_text()) for part in parts]


def reported(context):
    return [json.loads(line) for line in (context.folder / "progress.jsonl").open()]


def test_parts_come_back_in_order_and_progress_is_told(tmp_path):
    context = Context.alone(tmp_path, {})
    parts = spread(context, 5, write, told=lambda part: {"name": part.name})
    assert numbers(parts) == [0, 1, 4, 9, 16]
    last = reported(context)[-1]
    assert (last["step"], last["steps"], last["name"]) == (5, 5, "000004")


def test_two_chips_are_two_processes_that_make_the_same(tmp_path):
    parts = spread(Context.alone(tmp_path, {}, chips=2), 8, write)
    assert numbers(parts) == [index**2 for index in range(8)]
    makers = [int((part / "maker").read_text()) for part in parts]
    assert [maker == os.getpid() for maker in makers] == [True] + [False] * 7


def test_a_stop_keeps_whole_parts_and_another_attempt_makes_only_the_rest(tmp_path):
    first = Context.alone(tmp_path / "first", {})
    stopping = partial(write_and_stop, at=2, stop=first.folder / STOP)
    with pytest.raises(StopJob):
        spread(first, 6, stopping)
    kept = first.checkpoints / step_folder(3)
    assert reported(first)[-1]["checkpoint"] == 3
    number = kept / "parts" / "000002" / "deep" / "number"
    assert (
        number.stat().st_ino
        == (first.folder / "parts" / "000002" / "deep" / "number").stat().st_ino
    ), "a checkpoint must cost no second copy"

    (first.folder / "parts").rename(tmp_path / "gone")
    second = Context.alone(tmp_path / "second", {}, resume_from=kept)
    made = []
    parts = spread(second, 6, lambda index, folder: (made.append(index), write(index, folder)))
    assert made == [3, 4, 5]
    assert numbers(parts) == [0, 1, 4, 9, 16, 25]


def write_slowly(index, folder):
    write(index, folder)
    time.sleep(0.2 if index < 11 else 600)  # it is killed before it is done


def spread_slowly(folder):
    spread(Context.alone(Path(folder), {}, chips=2), 12, write_slowly)


def await_end(process):
    """Or until nobody but its new parent has to look at it."""
    until_s = time.monotonic() + 60
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until_s, "a worker lives on"
            time.sleep(0.01)


def test_a_run_that_is_killed_takes_its_workers_along_and_is_gone_on_with(tmp_path):
    run = get_context("spawn").Process(target=spread_slowly, args=[tmp_path])
    run.start()
    parts = tmp_path / "attempt-1" / "parts"
    while len(list(parts.glob("??????"))) < 3:
        assert run.is_alive()
        time.sleep(0.01)
    workers = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.join()
    for worker in workers:
        await_end(worker)
    made = {part.name for part in parts.glob("??????")}
    assert made < {f"{index:06d}" for index in range(12)}
    again = []
    spread(
        Context.alone(tmp_path, {}), 12, lambda index, to: (again.append(index), write(index, to))
    )
    assert {f"{index:06d}" for index in again} == {f"{index:06d}" for index in range(12)} - made
    assert len(list(parts.iterdir())) == 12, "nothing half is left"


def test_what_was_half_made_does_not_count(tmp_path):
    context = Context.alone(tmp_path, {})

    def dies(index, folder):
        write(index, folder)
        if index == 1:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        spread(context, 3, dies)
    assert numbers(spread(context, 3, write)) == [0, 1, 4]


def test_a_job_that_is_to_stop_at_once_makes_nothing(tmp_path):
    context = Context.alone(tmp_path, {})
    (context.folder / STOP).touch()
    with pytest.raises(StopJob):
        spread(context, 3, write)
    assert not list((context.folder / "parts").iterdir())
    assert not list(context.checkpoints.iterdir())


def test_a_worker_s_refusal_reaches_the_person(tmp_path):
    with pytest.raises(WorldRefused) as refused:
        spread(Context.alone(tmp_path, {}, chips=2), 3, refuse)
    assert refused.value.remedy == "add some"


@pytest.mark.parametrize("refused", [EngineRefused, ModelRefused, WorldRefused])
def test_a_refusal_says_the_same_on_the_other_side(refused):
    said = refused("no wheels", "hall.xml", "robot 1 has none", "add some")
    heard = pickle.loads(pickle.dumps(said))
    assert type(heard) is refused
    assert (
        str(heard)
        == str(said)
        == ("no wheels\n  where  hall.xml\n  why    robot 1 has none\n\nhint: add some")
    )
    assert (heard.what, heard.where, heard.why, heard.remedy) == said.args


def in_a_task(folder):
    made = spread(Context.alone(Path(folder) / "made", {}, chips=2), 6, write)
    with pytest.raises(JobRefused) as refused:
        spread(Context.alone(Path(folder) / "refused", {}, chips=2), 3, refuse)
    return [str(part) for part in made], refused.value.remedy


def test_in_a_task_that_holds_every_chip_ray_still_makes_the_parts(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80_000_000,
    )
    try:
        task = ray.remote(num_cpus=2, max_retries=0)(in_a_task)
        parts, remedy = ray.get(task.remote(str(tmp_path)), timeout=120)
    finally:
        ray.shutdown()
    parts = [Path(part) for part in parts]
    assert numbers(parts) == [0, 1, 4, 9, 16, 25]
    assert len({(part / "maker").read_text() for part in parts[1:]}) <= 2
    assert remedy == "add some"
