"""Start times of the twin against two oracles, a loop with heapq and SimPy: equal, bit by bit.

Ten thousand traces: `python benchmarks/fifo.py --oracle 10000`.
"""

import numpy as np
import pytest

from benchmarks import fifo
from gigafactory.twin import replayed, traces


def trace(*jobs: tuple[float, float, int], vc: tuple[int, ...] = ()) -> traces.Trace:
    """Jobs of (submission in s, run time in s, GPUs)."""
    submit_s, duration_s, gpus = (np.array(column) for column in zip(*jobs, strict=True))
    of_vc = np.array(vc or (0,) * len(jobs), np.int32)
    none = np.zeros(len(jobs))
    return traces.Trace(
        "plain",
        np.arange(len(jobs)),
        submit_s.astype(float),
        duration_s.astype(float),
        gpus.astype(np.int32),
        of_vc,
        tuple("abc"[: max(of_vc) + 1]),
        none * np.nan,
        none.astype(np.int8),
    )


@pytest.mark.parametrize("tens", range(30))
def test_random_traces_start_as_both_oracles_say(tens: int):
    wrong = {}
    for seed in range(10 * tens, 10 * tens + 10):
        if found := fifo.differing(*fifo.drawn(np.random.default_rng(seed), 15), compiled=False):
            wrong[seed] = found
    assert not wrong


@pytest.mark.parametrize("seed", range(8))
def test_larger_random_traces_start_so_in_the_compiled_loop_too(seed: int):
    random = np.random.default_rng(seed)
    assert not fifo.differing(*fifo.drawn(random, 2_000), compiled=True)


def test_the_oracles_themselves_follow_this_story():
    jobs = [
        (0.0, 10.0, 3),  # starts at once
        (1.0, 5.0, 2),  # waits for it
        (2.0, 1.0, 1),  # would fit, and waits behind
        (10.0, 1.0, 4),  # all that there is: waits for the two before it, until 15
        (10.0, 0.0, 4),  # no length: starts at 16, ends at 16
        (10.0, 2.0, 4),  # and so does this one start
    ]
    want_s = [0.0, 10.0, 10.0, 15.0, 16.0, 16.0]
    assert fifo.heap_fifo(jobs, 4) == fifo.simpy_fifo(jobs, 4) == want_s
    assert fifo.heap_floor(jobs, fifo.Floor(1, 4)) == want_s
    assert fifo.simpy_floor(jobs, fifo.Floor(1, 4)) == want_s
    assert replayed.play(trace(*jobs), gpus=4).start_s.tolist() == want_s


def test_what_is_over_goes_to_the_fullest_node_so_that_whole_ones_stay_whole():
    jobs = [
        (0.0, 9.0, 5),  # a node, but for three GPUs
        (1.0, 9.0, 7),  # another, but for one
        (2.0, 9.0, 9),  # a whole third, and one on the second: the fullest that fits
        (3.0, 9.0, 3),  # so there is room on the first,
        (4.0, 9.0, 8),  # and the fourth is whole
    ]
    pool = [traces.VcPool("a", 32, 8)]
    assert fifo.heap_floor(jobs, fifo.Floor(4, 8)) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert replayed.play(trace(*jobs), pools=pool).start_s.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_scattered_gpus_do_not_make_a_whole_node():
    jobs = [(0.0, 9.0, 5), (0.0, 5.0, 5), (1.0, 1.0, 6)]
    pool = [traces.VcPool("a", 16, 8)]
    assert replayed.play(trace(*jobs), gpus=16).start_s[2] == 1.0
    assert replayed.play(trace(*jobs), pools=pool).start_s[2] == 5.0


def test_a_virtual_cluster_does_not_wait_for_another():
    jobs = [(0.0, 9.0, 8), (0.0, 9.0, 8), (1.0, 1.0, 8)]
    pools = [traces.VcPool(name, 8, 8) for name in "ba"]
    played = replayed.play(trace(*jobs, vc=(0, 0, 1)), pools=pools)
    assert played.start_s.tolist() == [0.0, 9.0, 1.0]


def test_ends_are_sums_rounded_once():
    jobs = [(0.1, 0.2, 3), (0.2, 0.7, 3), (0.3, 1e-9, 3), (0.3, 0.1, 1)]
    want_s = [0.1, 0.1 + 0.2, 0.1 + 0.2 + 0.7, 0.1 + 0.2 + 0.7 + 1e-9]
    assert replayed.play(trace(*jobs), gpus=3).start_s.tolist() == want_s


def test_a_chain_of_jobs_without_length_takes_no_time_even_at_second_0():
    jobs = [(0.0, 0.0, 2)] * 5 + [(0.0, 3.0, 2), (0.0, 0.0, 2)]
    played = replayed.play(trace(*jobs), gpus=2)
    assert played.start_s.tolist() == [0.0] * 6 + [3.0]
    assert played.end_s.tolist() == [0.0] * 5 + [3.0, 3.0]
