"""What jobs made, for the eye: pictures, films, certificate, measures beside their control arms.

In: what the works found of a job (`files`, `certificate`, `results`). Out: what the
templates and the report draw. Nothing is measured here. Shares are of 1; cost in s, kWh, gCO2e.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import PurePosixPath
from typing import Any, TypeGuard
from urllib.parse import quote

from gigafactory.console.words import FOREMOST, count, digits, label, plain, scaled

PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
ARMS = ("expert", "random", "against", "before")
"""Who a metric may be measured of besides: `expert_success`, `map50_against`."""
ENDS = ("_low", "_high")
FULL = 0.1
"""From here to 1 a bar is drawn as a share of the whole; smaller ones fill it."""
UNITS = {"_m_s": "m/s", "_s": "s"}
SMALL = 1e-3
"""Below it a number is written with a power of ten."""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
Json = dict[str, Any]
Source = Callable[[Mapping[str, Any]], str]
"""Where a page finds a file."""


def exhibit(job: Json, source: Source | None = None) -> Json | None:
    """All that there is to see of a job; None where that is nothing."""
    source = source or (lambda file: _media(job["name"], file))
    results = job["results"] or {}
    metrics = results.get("metrics") or {}
    samples = _samples(results)
    pictures, films = [], []
    for file in job["files"]:
        path = PurePosixPath(file["path"])
        if path.parts[0] == "scenarios":
            continue
        said = {"src": source(file), "caption": _caption(path, samples), "alt": _alt(path, job)}
        if path.suffix in PICTURES:
            pictures.append(said)
        elif path.suffix == ".mp4":
            films.append(said)
    shown = {
        **{key: job[key] for key in ("name", "tenant", "kind", "status", "passed")},
        "about": _about(job),
        "pictures": pictures,
        "films": films,
        "certificate": job["certificate"]
        and _certificate(job["certificate"], _artifact(job["name"], "certificate.json")),
        "measures": measures(metrics or results, job["of"], job["against"]),
        "facts": _facts(metrics),
        "drawn": _drawn(metrics or results),
        "verdicts": results.get("verdicts") or [],
        "failures": _failures(job, source, samples),
    }
    seen = ("pictures", "films", "certificate", "measures", "verdicts", "failures")
    return shown if any(shown[key] for key in seen) else None


def pictures(job: str, kept: Mapping[str, bytes]) -> list[Json]:
    """Pictures of a job for a page that must hold them itself."""
    unknown = {"name": job, "world": None, "of": None}
    return [
        {
            "src": f"data:image/{PICTURES[PurePosixPath(path).suffix]};base64,"
            + b64encode(body).decode(),
            "caption": f"{job}, {_caption(PurePosixPath(path), {})}",
            "alt": _alt(PurePosixPath(path), unknown),
        }
        for path, body in kept.items()
    ]


def measures(metrics: Mapping[str, Any], of: Any = None, against: str | None = None) -> list[Json]:
    """Metrics that have an interval or a control arm, each with a bar for all who were measured."""
    called = {"against": against} if against else {}
    told = []
    for name, value in metrics.items():
        if not _is_number(value) or _stem(name, metrics) != name:
            continue
        rows = [_row(of if isinstance(of, str) else "this job", name, metrics)]
        for arm in ARMS:
            for other in (f"{arm}_{name}", f"{name}_{arm}"):
                if _is_number(metrics.get(other)):
                    rows.append(_row(called.get(arm, arm), other, metrics))
        if len(rows) > 1 or rows[0]["interval"]:
            told.append({"name": label(name), "rows": _on_one_scale(rows)})
    return sorted(told, key=lambda measure: measure["name"] not in FOREMOST)


def number(value: float) -> str:
    """As `digits`, but a small one with its power of ten: `1.2 × 10⁻⁵`."""
    if value == 0 or not abs(value) < SMALL:
        return digits(value)
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}\u00a0×\u00a010{str(int(power)).translate(RAISED)}"


def figure(value: Any) -> str:
    """A figure of a verdict, which may be missing."""
    return number(value) if _is_number(value) else plain(value)


def _stem(name: str, metrics: Mapping[str, Any]) -> str:
    """The metric that this one is an end or a control arm of; itself, where it is neither."""
    for end in ENDS:
        if name.endswith(end) and name.removesuffix(end) in metrics:
            return _stem(name.removesuffix(end), metrics)
    for arm in ARMS:
        for other in (name.removeprefix(f"{arm}_"), name.removesuffix(f"_{arm}")):
            if other != name and other in metrics:
                return other
    return name


def _row(who: str, name: str, metrics: Mapping[str, Any]) -> Json:
    value, said = metrics[name], number(metrics[name])
    low, high = (metrics.get(f"{name}{end}") for end in ENDS)
    interval = None
    if _is_number(low) and _is_number(high):
        interval = low, high
        said += f" ({number(low)} – {number(high)})"
    return {"who": who, "value": value, "interval": interval, "said": said}


def _on_one_scale(rows: list[Json]) -> list[Json]:
    """Bars in percent of one width; none where a value is below zero, as differences are."""
    values = [value for row in rows for value in (row["value"], *(row["interval"] or ()))]
    top = max(values) if 0 < max(values) < FULL or max(values) > 1 else 1.0
    if min(values) < 0:
        return [row | {"bar": None} for row in rows]
    for row in rows:
        low, high = row["interval"] or (row["value"], row["value"])
        row["bar"] = {
            "value": 100 * row["value"] / top,
            "low": 100 * low / top,
            "width": 100 * (high - low) / top,
        }
    return rows


def _facts(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The metrics that stand alone."""
    drawn = {measure["name"] for measure in measures(metrics)}
    return {
        label(name): number(value)
        for name, value in metrics.items()
        if _is_number(value) and _stem(name, metrics) == name and label(name) not in drawn
    }


def _drawn(metrics: Mapping[str, Any]) -> set[str]:
    """What `measures` shows, in words: with the ends of intervals and the control arms."""
    shown = {measure["name"] for measure in measures(metrics)}
    return {label(name) for name in metrics if label(_stem(name, metrics)) in shown}


def _certificate(told: Json, href: str) -> Json:
    """The certificate in short."""
    cost, duplicates = told.get("cost") or {}, told.get("duplicates") or {}
    spent = [f"{digits(cost['cpu_s'])} CPU-s"] if _is_number(cost.get("cpu_s")) else []
    for key, factor, unit in (("energy_kwh", 1e3, "Wh"), ("carbon_g", 1.0, "gCO₂e")):
        if _is_number(cost.get(key)):
            spent.append(scaled(cost[key] * factor, unit))
    return {
        "href": href,
        "frames": told.get("frames"),
        "errors": told.get("label_errors"),
        "kinds": told.get("errors") or {},
        "examples": told.get("examples") or [],
        "checked": [count(n, noun) for noun, n in _counts(told.get("checked"))],
        "things": [f"{digits(n)} × {noun}" for noun, n in (told.get("things") or {}).items()],
        "covered": told.get("coverage_share"),
        "coverage": [_covered(*each) for each in (told.get("coverage") or {}).items()],
        "duplicates": f"{duplicates.get('exact')} to the bit, {duplicates.get('alike')} to the eye"
        if duplicates
        else "not looked for",
        "cost": ", ".join(spent),
        "basis": cost.get("energy_basis") or "",
        "seed": told.get("seed"),
        "layouts": told.get("layouts"),
        "engines": ", ".join(f"{name} {version}" for name, version in _counts(told.get("engines"))),
    }


def _counts(told: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """Pairs; names of what is counted in the singular."""
    return [(name.removesuffix("s"), value) for name, value in (told or {}).items()]


def _covered(name: str, told: Json) -> Json:
    """One parameter: its range, and how often each part of it was drawn."""
    histogram, unit = told["histogram"], told.get("unit") or ""
    most = max([*histogram, 1])
    return {
        "name": name.replace("_", " "),
        "range": f"{plain(told['low'])} – {plain(told['high'])} {unit}".strip(),
        "hit": sum(n > 0 for n in histogram),
        "of": len(histogram),
        "bins": [100 * n / most for n in histogram],
    }


def _failures(job: Json, source: Source, samples: Mapping[str, Json]) -> list[Json]:
    """Each scenario in which a policy failed: its film, its files, whether it was avoidable."""
    found: dict[str, Json] = {}
    shared = []
    for file in job["files"]:
        path = PurePosixPath(file["path"])
        if path.parts[0] != "scenarios":
            continue
        href = _artifact(job["name"], file["path"])
        if path.suffix not in (".json", ".xosc", ".mp4"):
            shared.append({"name": path.name, "href": href})  # the road of them all
            continue
        one = found.setdefault(path.stem, {"name": path.stem, "film": None, "files": []})
        if path.suffix == ".mp4":
            one["film"] = source(file)
        else:
            one["files"].append({"name": path.name, "href": href})
    for stem, one in found.items():
        told = samples.get(stem, {})
        one["files"] += shared
        one["avoidable"] = told.get("avoidable")
        one["facts"] = [
            *(told[name].replace("_", " ") for name in ("kind", "why") if name in told),
            *(_measured(name, value) for name, value in told.items() if _is_number(value)),
        ]
    return list(found.values())


def _measured(name: str, value: float) -> str:
    """`when 3.2 s`, from a name that carries its unit."""
    for end, unit in UNITS.items():
        if name.endswith(end):
            return f"{name.removesuffix(end).replace('_', ' ')} {number(value)}\u00a0{unit}"
    return f"{name.replace('_', ' ')} {number(value)}"


def _samples(results: Json) -> dict[str, Json]:
    """What results say of a file that a job shows, by the file's stem."""
    told = {}
    for sample in results.get("samples") or ():
        if not isinstance(sample, dict):
            continue
        for key in ("picture", "video", "scenario"):
            if isinstance(path := sample.get(key), str):
                told[PurePosixPath(path).stem] = sample
    return told


def _caption(path: PurePosixPath, samples: Mapping[str, Json]) -> str:
    words, _, place = path.stem.rpartition("-")
    said = f"{words or 'scene'} {int(place)}" if place.isdecimal() else path.stem
    sample = samples.get(path.stem, {})
    if "found" in sample:
        said += f": {sample['found']} found"
    if "outcome" in sample:
        said += f": {sample['outcome']} after {count(sample['steps'], 'step')}"
    return said


def _alt(path: PurePosixPath, job: Json) -> str:
    """What somebody who does not see it should know."""
    world = job["world"] or "a world"
    match path.parts[0]:
        case "preview":
            return f"{world} as drawn, with the box of each labelled thing"
        case "pictures":
            return f"{world} with the boxes that {job['of'] or job['name']} found"
        case "video":
            return f"film of an episode in {world}"
        case _:
            return f"film of {job['of'] or job['name']} failing in {world}"


def _about(job: Json) -> str:
    """A line: `closed loop of pilot in hall, against novice`."""
    of = job["of"] if isinstance(job["of"], str) else ", ".join(job["of"] or ())
    said = (job["suite"] or job["kind"]).replace("_", " ")
    said += f" of {of}" if of else ""
    said += f" in {job['world']}" if job["world"] else ""
    return said + (f", against {job['against']}" if job["against"] else "")


def _artifact(job: str, path: str) -> str:
    return f"/api/jobs/{quote(job)}/artifacts/{quote(path)}"


def _media(job: str, file: Mapping[str, Any]) -> str:
    # The time makes it another address when a later attempt writes another picture.
    at_ms = round(1000 * file["changed_unix_s"])
    return f"/jobs/{quote(job)}/media/{quote(file['path'])}?{at_ms}"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
