"""Judge a policy by letting it act, in layouts that were in nobody's training data.

Beside it, in the very same layouts: the expert (what could be done), chance (what is done without
knowing anything) and, where named, the policy of `against` (what is served now). Differences are
of pairs, so a hard layout is hard for both. All intervals are at 95 %: Wilson's for shares,
Tango's for differences.

Metrics are shares of episodes: `success`, `collisions`, `timeouts` (the rest); `gap_to_expert` is
the expert's success less the policy's; `regression_low` the lower end of the policy's success less
that of `against`; `coverage` the share of the bins of all parameters (ten of each, or its whole
numbers) in which a layout lay. Output: `episodes.jsonl`, a line an episode with the seed that plays
it again, and `failures/`, films of the first ones that failed.
"""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from gigafactory.jobs import policy as policies
from gigafactory.jobs import rollout, worlds
from gigafactory.jobs.context import Context
from gigafactory.jobs.intervals import paired
from gigafactory.jobs.rollout import TOGETHER
from gigafactory.jobs.spread import spread
from gigafactory.jobs.synthesize import certificate
from gigafactory.jobs.worlds import task as tasks
from gigafactory.jobs.worlds.scene import seed_of, within

FILMED = 4
SHOWN = 6

Rows = list[dict[str, Any]]


def evaluate(context: Context) -> dict[str, Any]:
    """Metrics of the policy of the job `of`, over `examples` held-out layouts."""
    work, cpu_s = context.work, time.process_time()
    arms = {"learned": work["of"], "expert": "expert", "random": "random"}
    if work.get("against"):
        arms["against"] = work["against"]
    who = {
        arm: name if arm == name else str(context.inputs[name] / "model")
        for arm, name in arms.items()
    }
    for arm in ("learned", "against"):
        if arm in who:
            policies.suits(policies.load(Path(who[arm])), work)
    count = work["examples"]
    chunks = -(-count // TOGETHER)
    do = partial(part, work=work, who=list(who.values()), chunks=chunks, check=context.check)
    folders = spread(context, chunks * len(who), do)
    told = [json.loads((folder / "part.json").read_text("utf-8")) for folder in folders]
    played: dict[str, Rows] = {}
    for number, arm in enumerate(who):
        mine = told[number * chunks : (number + 1) * chunks]
        played[arm] = [row for rows in mine for row in rows]
    with open(context.output / "episodes.jsonl", "w", encoding="utf-8") as table:
        for arm, rows in played.items():
            table.writelines(json.dumps({"arm": arm, **row}) + "\n" for row in rows)
    return {
        "metrics": metrics(played) | {"coverage": coverage(work["world"], played["learned"])},
        "samples": samples(context, played["learned"], who["learned"]),
        "cpu_s": time.process_time() - cpu_s,
    }


def part(
    index: int,
    folder: Path,
    work: dict[str, Any],
    who: list[str],
    chunks: int,
    check: rollout.Check,
) -> None:
    """One arm in some of the layouts."""
    arm, chunk = divmod(index, chunks)
    numbers = range(chunk * TOGETHER, min((chunk + 1) * TOGETHER, work["examples"]))
    seeds = [seed_of(work.get("seed", 0), "heldout", number) for number in numbers]
    task = tasks.make(work["world"], len(seeds))
    act = rollout.heeding(check, rollout.actor(who[arm], task, seeds))
    played = rollout.play(task, seeds, act)
    rows = [rollout.row(each) for each in played]
    (folder / "part.json").write_text(json.dumps(rows), "utf-8")


def metrics(played: dict[str, Rows]) -> dict[str, float]:
    """Shares and differences; the arms have the same layouts in the same order."""
    learned = played["learned"]
    count = len(learned)
    assert all([row["seed"] for row in rows] == [row["seed"] for row in learned]
               for rows in played.values())  # fmt: skip
    told = rollout.shares(learned)
    told["timeouts"] = sum(not row["success"] and not row["collision"] for row in learned) / count
    told["episodes"] = count
    for arm in ("expert", "random", "against"):
        if arm in played:
            told[f"{arm}_success"] = sum(row["success"] for row in played[arm]) / count
    told["gap_to_expert"] = told["expert_success"] - told["success"]
    told["gap_to_expert_low"], told["gap_to_expert_high"] = difference(played["expert"], learned)
    if "against" in played:
        told["regression"] = told["success"] - told["against_success"]
        told["regression_low"], told["regression_high"] = difference(learned, played["against"])
    return told


def difference(first: Rows, second: Rows) -> tuple[float, float]:
    """Ends of the first's success less the second's."""
    pairs = [(one["success"], two["success"]) for one, two in zip(first, second, strict=True)]
    return paired(pairs.count((True, False)), pairs.count((False, True)), len(pairs))


def coverage(world: dict[str, Any], rows: Rows) -> float:
    """The share of all parameters' bins in which some layout lay."""
    among = within(worlds.parameters(world.get("scene") or "file"), world.get("ranges") or {})
    told = certificate.coverage(among, [row["drawn"] for row in rows])
    bins = [times > 0 for each in told.values() for times in each["histogram"]]
    return sum(bins) / len(bins)


def samples(context: Context, rows: Rows, who: str) -> Rows:
    """Some episodes to look at, failures first, the first of which are filmed."""
    work = context.work
    failed = [(number, row) for number, row in enumerate(rows) if not row["success"]]
    passed = [(number, row) for number, row in enumerate(rows) if row["success"]]
    shown: Rows = []
    for number, row in [*failed[: max(FILMED, SHOWN - len(passed))], *passed][:SHOWN]:
        told = {
            "layout": number,
            "seed": row["seed"],
            "outcome": "success" if row["success"]
            else "collision" if row["collision"] else "out of time",
            "steps": row["steps"],
        }  # fmt: skip
        if not row["success"] and len(shown) < FILMED:
            film = context.output / "failures" / f"layout-{number:05d}.mp4"
            film.parent.mkdir(exist_ok=True)
            task = tasks.make(work["world"], 1)
            seeds = [row["seed"]]
            act = rollout.heeding(context.check, rollout.actor(who, task, seeds))
            (again,) = rollout.play(task, seeds, act, {0: film})
            assert rollout.row(again) == row, f"layout {number} is not what it was"
            told["video"] = str(film.relative_to(context.output))
        shown.append(told)
    return shown
