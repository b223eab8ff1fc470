"""Look for the cut-ins and merges in which a driver fails, and say how probable they are.

Half of the scenarios are cut-ins, half merges, as `worlds.cutins` draws them; `rare` finds where
the driver fails and how probable that is. Every failure found is driven again by manoeuvres that
begin at the first moment of the cut: what one of them avoids was avoidable. The likeliest failures
are left as files: the scenario to replay, OpenSCENARIO with its road, and a film.

The probability is one per scenario of an assumed model of traffic: it compares drivers, it does
not say how safe one of them is on a road.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gigafactory.jobs import policy as policies
from gigafactory.jobs import rare
from gigafactory.jobs.context import Context
from gigafactory.jobs.worlds import cutins, openscenario, traffic
from gigafactory.jobs.worlds.scene import WorldRefused

SHARES = {"cut_in": 0.5, "merge": 0.5}
SCENARIOS_MIN = 4000
TOGETHER = 2000  # scenarios between two looks whether to stop: half a second
SHOWN = 8  # failures that are left as files
FILMED = 4
AFTER_S = 1.0  # of a film, once it is over
NAMES = (
    *("ego_speed", "gap", "other_speed", "cut_begin_s", "cut_takes_s", "brakes_after_s"),
    *("brakes_m_s2", "brakes_to", "lead_gap", "lead_speed"),
)
WHY = {traffic.HIT_VEHICLE: "hit a vehicle", traffic.OFF_ROAD: "left the road"}


@dataclass(frozen=True)
class Failure:
    """A scenario that the driver did not come through."""

    kind: str
    scenario: np.ndarray
    weight: float
    u: np.ndarray
    avoidable: bool


def evaluate(context: Context) -> dict[str, Any]:
    """Metrics of the policy of job `of`, beside the expert's and that of `against`."""
    work = context.work
    if work["world"].get("scene") != "road":
        raise WorldRefused(
            "only driving is falsified",
            f"workloads.{work['name']}.world",
            "the scenarios are cut-ins and merges on a road",
            "name a world with `scene: road`, or use the suite closed_loop",
        )
    if work["examples"] < SCENARIOS_MIN:
        raise WorldRefused(
            f"{work['examples']} scenarios are too few",
            f"workloads.{work['name']}.examples",
            "most of them are spent on finding where failures lie",
            f"ask for {SCENARIOS_MIN} at least; they take about a second",
        )
    judged = policies.load(context.inputs[work["of"]] / "model")
    policies.suits(judged, work)
    drivers: dict[str, cutins.Act] = {"": judged.act, "expert": traffic.expert}
    if work.get("against"):
        drivers["against"] = policies.load(context.inputs[work["against"]] / "model").act
    told = {name: Falsified(context, act) for name, act in drivers.items()}
    ours = told[""]
    failures = ours.failures(context)
    metrics = {
        "failure_probability": ours.probability,
        "failure_probability_low": ours.low,
        "failure_probability_high": ours.high,
        "failures": len(failures),
        "avoidable_failures": sum(one.avoidable for one in failures),
        "unavoidable_failures": sum(not one.avoidable for one in failures),
        "avoidable_probability": sum(one.weight for one in failures if one.avoidable),
        "scenarios": work["examples"],
        "variance_ratio": ours.variance_ratio,
    }
    for who in told.keys() - {""}:
        metrics[f"{who}_failure_probability"] = told[who].probability
        metrics[f"{who}_failure_probability_low"] = told[who].low
        metrics[f"{who}_failure_probability_high"] = told[who].high
    if "against" in told:
        metrics["regression"] = ours.probability - told["against"].probability
    shown = list(keep(context, failures, judged.act))
    return {"metrics": metrics, "samples": shown}


class Falsified:
    """A driver's failures in all kinds of scenario."""

    def __init__(self, context: Context, act: cutins.Act):
        work = context.work
        each = work["examples"] // len(SHARES)
        self.found: dict[str, rare.Estimate] = {}
        for at, kind in enumerate(SHARES):

            def margin(u: np.ndarray, kind: str = kind) -> np.ndarray:
                scenarios = cutins.parameters(kind, u)
                return in_turn(context, scenarios, lambda some: cutins.drive(some, act).margin)

            seed = work.get("seed", 0) * len(SHARES) + at
            self.found[kind] = rare.estimate(margin, cutins.DIMENSIONS, each, seed)
            context.report(scenarios=(at + 1) * each)
        self.probability = sum(SHARES[k] * one.probability for k, one in self.found.items())
        error = math.hypot(*(SHARES[k] * one.error for k, one in self.found.items()))
        failures = sum(rare.count(one.weights) for one in self.found.values())
        counted = sum(one.counted for one in self.found.values())
        self.low, self.high = rare.interval(self.probability, error, failures, counted)
        crude = self.probability * (1 - self.probability) / work["examples"]
        self.variance_ratio = crude / error**2 if error else 0.0

    def failures(self, context: Context) -> list[Failure]:
        """Every failure that was counted, the likeliest first."""
        out = []
        for kind, one in self.found.items():
            scenarios = cutins.parameters(kind, one.failures)
            saved = in_turn(context, scenarios, cutins.best)
            weights = SHARES[kind] * one.weights
            rows = zip(scenarios, weights.tolist(), one.failures, saved.tolist(), strict=True)
            out += [Failure(kind, *row) for row in rows]
        return sorted(out, key=lambda one: (one.u**2).sum())


def in_turn(
    context: Context, scenarios: np.ndarray, of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """What each scenario comes to, some at a time, unless the job should stop."""
    out: list[np.ndarray] = []
    for at in range(0, max(1, len(scenarios)), TOGETHER):
        context.check()
        out.append(of(scenarios[at : at + TOGETHER]))
    return np.concatenate(out)


def chosen(failures: list[Failure]) -> list[Failure]:
    """The likeliest of each kind, avoidable or not, in turn."""
    heaps: dict[tuple[str, bool], list[Failure]] = {}
    for one in failures:
        heaps.setdefault((one.kind, one.avoidable), []).append(one)
    in_turn = [heap[rank] for rank in range(SHOWN) for heap in heaps.values() if rank < len(heap)]
    return in_turn[:SHOWN]


def keep(context: Context, failures: list[Failure], act: cutins.Act) -> Iterator[dict[str, Any]]:
    """Write the failures that are shown; what each is."""
    folder = context.output / "scenarios"
    folder.mkdir(parents=True, exist_ok=True)
    openscenario.write_road(folder / openscenario.ROAD)
    for number, one in enumerate(chosen(failures)):
        context.check()
        outcome = cutins.drive(one.scenario[None], act)
        name = f"{number:03d}-{one.kind}"
        told = {
            "kind": one.kind,
            "avoidable": one.avoidable,
            "parameters": {
                key: value
                for key, value in zip(NAMES, one.scenario.tolist(), strict=True)
                if math.isfinite(value)
            },
            "why": WHY.get(float(outcome.why[0]), "nothing"),
            "when_s": round(float(outcome.when_s[0]), 6),
        }
        if outcome.why[0] == traffic.HIT_VEHICLE:
            told["closing_m_s"] = round(-float(outcome.margin[0]), 6)
        (folder / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        openscenario.write(folder / f"{name}.xosc", one.scenario, name)
        if number < FILMED:
            film(folder / f"{name}.mp4", context.work["world"], one.scenario, act)
            told["video"] = f"scenarios/{name}.mp4"
        yield told | {"scenario": f"scenarios/{name}.json", "xosc": f"scenarios/{name}.xosc"}


def replay(file: Path, act: cutins.Act) -> cutins.Outcome:
    """Drive a kept scenario again."""
    said = json.loads(file.read_text(encoding="utf-8"))["parameters"]
    scenario = np.array([said.get(name, math.inf) for name in NAMES])
    return cutins.drive(scenario[None], act)


def film(path: Path, world: dict[str, Any], scenario: np.ndarray, act: cutins.Act) -> None:
    """What happens, seen from behind the wheel and above as rollouts are."""
    from gigafactory.jobs.rollout import Film
    from gigafactory.jobs.worlds.drive import Drive

    task = Drive(world, 1)
    task.reset([0])
    cars, roads, people = cutins.tables(scenario[None])
    task.place(0, cars[0], roads[0], people[0])
    camera = Film(path, task.step_s)
    for _ in range(cutins.STEPS):
        camera.shoot(task, 0)
        if task.step(act(task.observe())).ended[0]:
            break
    for _ in range(round(AFTER_S / task.step_s)):
        camera.shoot(task, 0)
    camera.close()
