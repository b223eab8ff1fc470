"""Drives the factory in virtual time: what the works learns from Ray is drawn here. Modelled.

Durations come from the plan's quotes, scattered over their range by a seeded generator. Equal
times are taken in the order in which they were set, so the same plan and seed give the same
events. Nothing fails here yet: the twin's day is a quiet one.
"""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gigafactory.factory import Factory, Start, Stop, Wake
from gigafactory.factory import events as ev
from gigafactory.plan import Figure, Plan, PlannedJob

REPORTS = 20  # progress rows of a job; enough to draw its curve
Z_OF_RANGE = 1.2816  # a quote's range is taken as the middle 80 % of what may come


def simulate(plan: Plan, run: str, seed: int = 0, blueprint: str = "") -> list[ev.Event]:
    """Everything that would happen: the events that the works would write for this plan.

    The run starts at midnight UTC of the plan's first day and ends when every job has ended
    and every service answers.
    """
    return list(_Twin(plan, seed).live(run, blueprint))


@dataclass
class _Twin:
    plan: Plan
    seed: int
    queue: list[tuple[float, int, ev.Event]] = field(default_factory=list)

    def live(self, run: str, blueprint: str) -> Iterator[ev.Event]:
        self.factory = Factory(**self.plan.tables())
        self.random = np.random.default_rng(self.seed)
        self.jobs = {job.spec.name: job for job in self.plan.jobs}
        self.order = 0
        opened_unix_s = np.datetime64(self.plan.start, "s").astype(float)
        plan = self.plan.model_dump(mode="json")
        yield ev.RunOpened(0.0, run, "virtual", float(opened_unix_s), blueprint, plan)
        for job in self.plan.jobs:
            self._expect(ev.JobSubmitted(0.0, **job.submission()))
        for node, (pool, chips) in self.plan.nodes().items():
            self._expect(ev.NodeJoined(0.0, node, pool, chips))
        while self.queue:
            _, _, event = heapq.heappop(self.queue)
            if isinstance(event, ev.CoreEvent) and not self.factory.accepts(event):
                continue
            yield event
            for command in self.factory.apply(event):
                self._carry_out(event.at_s, command)

    def _expect(self, event: ev.Event) -> None:
        heapq.heappush(self.queue, (event.at_s, self.order, event))
        self.order += 1

    def _carry_out(self, now_s: float, command: Start | Stop | Wake) -> None:
        if isinstance(command, Wake):
            self._expect(ev.Ticked(command.at_s))
        elif isinstance(command, Stop):
            self._expect(ev.JobStopped(now_s, command.job, command.attempt, {}))
        else:
            self._run(now_s, command)

    def _run(self, now_s: float, start: Start) -> None:
        """Draw the life of an attempt: its load, its curve, its end."""
        job = self.jobs[start.job]
        quote, who = job.quote, (start.job, start.attempt)
        self._expect(
            ev.JobStarted(now_s, *who, start.pool, start.nodes, start.chips, start.from_step)
        )
        overhead_s = self._draw(quote.overhead_s)
        if job.spec.kind == "serve":
            self._expect(ev.JobReported(now_s + overhead_s, *who, {"ready": True}))
            return
        work_s, tokens = self._draw(quote.work_s), round(self._draw(quote.tokens))
        for part in range(1, REPORTS + 1):
            share = part / REPORTS
            at_s = now_s + overhead_s + work_s * share
            figures = {"step": part, "steps": REPORTS, "tokens": round(tokens * share)}
            self._expect(ev.JobReported(at_s, *who, figures))
        end_s = now_s + overhead_s + work_s
        used = self._used(job, start, overhead_s, work_s)
        results = {"tokens": tokens, "modelled": True}
        self._expect(ev.JobDone(end_s, *who, True, results, used))

    def _draw(self, figure: Figure) -> float:
        """A figure, log-normal about its value: a time may double, but never be negative."""
        if figure.high <= figure.low:
            return figure.value
        sigma = math.log(figure.high / figure.low) / 2 / Z_OF_RANGE
        return figure.value * math.exp(self.random.normal(0.0, sigma))

    def _used(
        self, job: PlannedJob, start: Start, overhead_s: float, work_s: float
    ) -> dict[str, Any]:
        held_s, chips = overhead_s + work_s, sum(start.chips)
        power_w = job.quote.energy_kwh.value * 3.6e6 / job.quote.duration_s.value
        return {
            "chip_s": round(held_s * chips, 6),
            "cpu_s": None,
            "energy_j": round(power_w * held_s, 3),
            "energy_basis": "modelled",
            "pool": start.pool,
            "phases": {"load": round(overhead_s, 3), "work": round(work_s, 3)},
        }
