"""The twin: the works' events without the works."""

from gigafactory.blueprint import load
from gigafactory.factory import Factory
from gigafactory.factory import events as ev
from gigafactory.plan import make
from gigafactory.twin import simulate

PLAN = make(load("laptop"))


def test_the_same_seed_gives_the_same_day_and_another_seed_another():
    assert simulate(PLAN, "r", 3) == simulate(PLAN, "r", 3)
    assert simulate(PLAN, "r", 3) != simulate(PLAN, "r", 4)


def test_every_job_of_the_plan_is_done_and_the_service_answers():
    day = simulate(PLAN, "r")
    done = {event.job for event in day if isinstance(event, ev.JobDone)}
    ready = {e.job for e in day if isinstance(e, ev.JobReported) and e.figures.get("ready")}
    assert done | ready == {job.spec.name for job in PLAN.jobs}


def test_time_never_runs_backwards():
    times = [event.at_s for event in simulate(PLAN, "r")]
    assert times == sorted(times)


def test_the_core_that_replays_the_day_ends_where_the_twin_did():
    factory = Factory(**PLAN.tables())
    for event in simulate(PLAN, "r"):
        assert not isinstance(event, ev.CoreEvent) or factory.accepts(event)
        factory.apply(event)
    assert factory.settled()


def test_the_day_lies_within_the_quotes_most_of_the_time():
    within = []
    for seed in range(40):
        day = simulate(PLAN, "r", seed)
        started = {e.job: e.at_s for e in day if isinstance(e, ev.JobStarted)}
        for event in day:
            if isinstance(event, ev.JobDone):
                quote = PLAN.job(event.job).quote.duration_s
                within.append(quote.low <= event.at_s - started[event.job] <= quote.high)
    assert 0.75 <= sum(within) / len(within) <= 0.99
