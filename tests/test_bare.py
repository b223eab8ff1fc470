"""Bare traces replayed: what is told of them, by each policy, and what is refused."""

import csv
import json

import numpy as np
import pytest

from benchmarks import kueue
from gigafactory.faults import Refused
from gigafactory.twin import replayed, traces
from tests.test_oracle import trace

LONG_THEN_SHORT = trace((0.0, 50.0, 4), (1.0, 1_000.0, 4), (2.0, 10.0, 4), (3.0, 100.0, 4))


def test_the_figures_of_three_jobs_are_those_done_by_hand():
    played = replayed.play(trace((5.0, 10.0, 2), (6.0, 4.0, 2), (20.0, 5.0, 1)), gpus=2)
    told = played.to_json()
    assert played.jct_s.tolist() == [10.0, 13.0, 5.0]
    assert played.queue_s.tolist() == [0.0, 9.0, 0.0]
    assert told["mean_jct_s"] == pytest.approx(28 / 3)
    assert told["mean_queue_s"] == 3.0
    assert (told["p50_jct_s"], told["p95_jct_s"]) == (10.0, pytest.approx(12.7))
    assert told["makespan_s"] == 20.0
    assert told["utilisation"] == (20 + 8 + 5) / (2 * 20)
    assert (told["jobs"], told["gpus"], told["preemptions"]) == (3, 2, 0)
    assert told["simulate_cpu_s"] > 0
    assert json.loads(json.dumps(told)) == told


def test_more_gpus_than_anybody_asks_for_are_idle_not_lost():
    told = replayed.play(trace((0.0, 10.0, 2), (0.0, 10.0, 2)), gpus=2_000_000_000)
    assert told.start_s.tolist() == [0.0, 0.0]
    assert (told.gpus, told.utilisation) == (2_000_000_000, 2e-9)


def test_the_shortest_goes_first_under_sjf_and_nothing_is_stopped():
    played = replayed.play(LONG_THEN_SHORT, gpus=4, policy="sjf")
    assert played.start_s.tolist() == [0.0, 160.0, 50.0, 60.0]
    assert played.preemptions == 0


def test_the_shortest_remaining_takes_the_gpus_under_srtf_and_nothing_is_lost():
    long_then_short = trace((0.0, 5_000.0, 4), (1_000.0, 100.0, 4))
    played = replayed.play(long_then_short, gpus=4, policy="srtf")
    assert played.start_s.tolist() == [0.0, 1_000.0]
    assert played.end_s[1] == 1_100.0
    assert played.end_s[0] == pytest.approx(5_100.0, abs=1e-6)
    assert played.queue_s.tolist() == pytest.approx([100.0, 0.0], abs=1e-6)
    assert played.preemptions == 1


def test_a_job_of_no_length_is_the_shortest_of_all():
    played = replayed.play(trace((0.0, 9.0, 1), (1.0, 5.0, 1), (2.0, 0.0, 1)), gpus=1, policy="sjf")
    assert played.start_s.tolist() == [0.0, 9.0, 9.0]


def test_fair_gives_the_turn_to_who_had_less():
    greedy = [(0.0, 100.0, 4), (1.0, 100.0, 4), (2.0, 100.0, 4), (3.0, 100.0, 4)]
    shared = trace(*greedy, vc=(0, 0, 0, 1))
    assert replayed.play(shared, gpus=4).start_s[3] == 300.0
    assert replayed.play(shared, gpus=4, policy="fair").start_s[3] == 100.0


@pytest.mark.parametrize("policy", ["deadline", "carbon", "goodput-per-watt"])
def test_a_policy_that_a_bare_trace_cannot_feed_is_fifo_and_says_so(policy: str):
    played = replayed.play(LONG_THEN_SHORT, gpus=4, policy=policy)
    assert played.start_s.tolist() == replayed.play(LONG_THEN_SHORT, gpus=4).start_s.tolist()
    assert f"{policy} is fifo here" in played.assumptions[0]


def test_both_ways_of_running_the_core_give_the_same_times():
    made = traces.like("Venus", 300, 0.01, seed=3)
    for policy in ("fifo", "srtf"):
        plain, fast = (replayed.play(made, 512, policy=policy, compiled=c) for c in (False, True))
        assert plain.start_s.tolist() == fast.start_s.tolist()
        assert plain.end_s.tolist() == fast.end_s.tolist()
        assert plain.queue_s.max() > 0
        assert (plain.preemptions > 0) == (policy == "srtf")


def test_a_policy_of_ones_own_is_a_function_in_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def longest(asked):\n    return -asked.whole_s\n")
    played = replayed.play(LONG_THEN_SHORT, gpus=4, policy=f"{path}:longest")
    assert played.start_s.tolist() == [0.0, 50.0, 1_150.0, 1_050.0]


@pytest.mark.parametrize(
    ("source", "name", "why"),
    [
        ("def mine(asked): return asked.whole", "mine", "AttributeError"),
        ("def mine(asked): return [1.0]", "mine", "shape (1,) for 4 jobs"),
        ("def mine(asked): return asked.whole_s * float('nan')", "mine", "not a number"),
        ("def mine(asked): return asked.whole_s * float('inf')", "mine", "to the end"),
        ("def mine(asked): return asked.whole_s", "main", "no function 'main'"),
        ("def mine(asked) return 1", "mine", "SyntaxError"),
    ],
)
def test_a_policy_of_ones_own_that_cannot_be_is_refused(tmp_path, source, name, why):
    path = tmp_path / "mine.py"
    path.write_text(source + "\n")
    with pytest.raises(Refused) as refused:
        replayed.play(LONG_THEN_SHORT, gpus=4, policy=f"{path}:{name}")
    assert why in refused.value.faults[0].why


def test_a_policy_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    for policy, remedy in (("fif", "fifo"), (f"{tmp_path}/none.py:mine", "file.py:function")):
        with pytest.raises(Refused) as refused:
            replayed.play(LONG_THEN_SHORT, gpus=4, policy=policy)
        assert remedy in refused.value.faults[0].remedy


def test_how_large_the_cluster_is_must_be_said_once():
    pools = [traces.VcPool("a", 8, 8)]
    for sizes in ({}, {"gpus": 8, "pools": pools}):
        with pytest.raises(Refused, match="how large"):
            replayed.play(LONG_THEN_SHORT, **sizes)


def test_a_job_that_could_never_start_is_refused_and_never_dropped():
    with pytest.raises(Refused, match="4 jobs could never start"):
        replayed.play(LONG_THEN_SHORT, gpus=3)
    with pytest.raises(Refused, match="4 jobs could never start"):
        replayed.play(LONG_THEN_SHORT, pools=[traces.VcPool("a", 2, 2)])
    with pytest.raises(Refused, match="1 unknown virtual cluster"):
        replayed.play(LONG_THEN_SHORT, pools=[traces.VcPool("b", 8, 8)])


def test_what_was_skipped_is_told_with_the_answers(tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_text("submit_s,duration_s,num_gpus\n0,10,1\n1,-5,1\n2,10,9\n3,10,0\n4,10,1\n")
    read = traces.load(path, on_fault="skip", gpus=8)
    told = replayed.play(read, gpus=8).to_json()
    assert told["skipped"] == {"bad duration": 1, "larger than the cluster": 1}
    assert told["noted"]["cpu_only"] == 1
    assert told["jobs"] == 2


def test_starts_are_written_to_the_last_digit(tmp_path):
    read = trace((0.1, 0.2, 1), (0.2, 1e-7, 1), (0.25, 1.0, 1))
    played = replayed.play(read, gpus=1)
    replayed.write_starts(tmp_path / "starts.csv", played)
    with open(tmp_path / "starts.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["job_id"]) for row in rows] == [0, 1, 2]
    assert [float(row["start_s"]) for row in rows] == [0.1, 0.1 + 0.2, 0.1 + 0.2 + 1e-7]


def test_ids_are_written_as_the_file_has_them(tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_text('job_id,submit_s,duration_s,num_gpus\n"a,1",5,1,1\n007,6,1,1\n')
    replayed.write_starts(tmp_path / "starts.csv", replayed.play(traces.load(path), gpus=1))
    assert (tmp_path / "starts.csv").read_text() == 'job_id,start_s\n"a,1",5.0\n007,6.0\n'


def test_a_trace_is_played_the_same_however_often():
    made = traces.like("Venus", 200, 1, seed=5)
    starts_s = [replayed.play(made, 512, compiled=False).start_s for _ in range(2)]
    assert np.array_equal(*starts_s)


def test_the_benchmark_of_quotas_tells_what_one_works_out_by_hand():
    queue_of_three = kueue.Class("only", 3, every_ms=10, runtime_ms=30, priority=0, units=20)
    told = kueue.played(kueue.Scenario(1, 1, (queue_of_three,), 1.0, 1.0, {"only": 1.0}))
    # Created at 10, 20 and 30 ms, each as large as the quota: they start at 10, 40 and 70.
    assert told["wall_ms"]["twin"] == 100.0
    assert told["admission_ms_mean"]["only"]["twin"] == (0 + 20 + 40) / 3
    assert told["usage_percent"]["twin"] == 90.0
    assert told["preemptions"] == 0
