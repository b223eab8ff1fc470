"""Commands that ask the performance model alone, without a blueprint.

`estimate` one layout, `search` the best, `predict` a table of published runs, `score` the
predictions. Thin: they read what was asked, call `stack`, and print what came back.
"""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from gigafactory.door import AS_JSON, door, out, say
from gigafactory.faults import Fault, Refused, nearest

MODEL = Annotated[str, typer.Argument(help="a shipped model, or a path to a config.json")]
ON = Annotated[str, typer.Option("--on", metavar="CHIP", help="a chip of the catalog: H100, B200")]
CHIPS = Annotated[int, typer.Option(min=1, help="how many chips")]
SEQUENCE = Annotated[int, typer.Option(min=1, help="tokens of a sequence")]
BATCH = Annotated[int, typer.Option(min=1, help="sequences of a step")]
PRECISION = Annotated[str, typer.Option(help="BF16, FP8, MXFP8, NVFP4; serving: bf16, fp8, fp4")]
TASK = Annotated[str, typer.Option(help="pretrain, sft or lora")]
LAYOUT = Annotated[
    str | None, typer.Option(help="tp=4,pp=8,vpp=5,mb=1,recompute=selective; searched if left out")
]
TOKENS = Annotated[str | None, typer.Option(help="length of the whole run: `15T`")]
PROMPT = Annotated[int, typer.Option(min=1, help="tokens of a prompt")]
NEW = Annotated[int, typer.Option(min=1, help="tokens of an answer")]
SUITE = Annotated[str, typer.Argument(metavar="SUITE", help="training or serving")]
TABLE = Annotated[Path, typer.Argument(help="a CSV file with the columns of published runs")]

LAYOUT_FIELDS = {
    "tp": "tensor",
    "pp": "pipeline",
    "cp": "context",
    "ep": "expert",
    "dp": "data",
    "vpp": "virtual",
    "mb": "microbatch",
    "zero": "zero",
}

estimate = typer.Typer(no_args_is_help=True, help="How long, how much memory, in which parts.")
search = typer.Typer(no_args_is_help=True, help="The best layout on given chips, and why.")


def mount(app: typer.Typer) -> None:
    """Add these commands to the door."""
    app.add_typer(estimate, name="estimate")
    app.add_typer(search, name="search")
    app.command()(predict)
    app.command()(score)


@estimate.command("train")
def estimate_train(
    model: MODEL,
    on: ON = "H100",
    chips: CHIPS = 8,
    sequence: SEQUENCE = 4096,
    batch: BATCH = 256,
    precision: PRECISION = "BF16",
    task: TASK = "pretrain",
    layout: LAYOUT = None,
    tokens: TOKENS = None,
    as_json: AS_JSON = False,
) -> None:
    """One training step: its parts, its memory, its power; and a whole run.

    Example: `gigafactory estimate train llama3-70b --on H100 --chips 64 --batch 128
    --sequence 8192 --precision FP8 --layout tp=4,pp=8,vpp=5 --tokens 15T`
    """
    with door(as_json), _asked():
        from gigafactory.console import estimates as screen
        from gigafactory.stack import answers

        job, chip = _job(model, on, sequence, batch, precision, task)
        told = answers.train(
            job,
            chip,
            chips,
            _layout(layout, job, chips),
            _quantity(tokens, "token", "--tokens", "15T") if tokens else None,
        )
        say(told, as_json, lambda: screen.training(told))


@search.command("training")
def search_training(
    model: MODEL,
    on: ON = "H100",
    chips: Annotated[
        list[int] | None, typer.Option(min=1, help="how many; again for more counts to choose from")
    ] = None,
    sequence: SEQUENCE = 4096,
    batch: BATCH = 256,
    precision: PRECISION = "BF16",
    task: TASK = "pretrain",
    objective: Annotated[str, typer.Option(help="time, cost or energy of a step")] = "time",
    memory: Annotated[str | None, typer.Option(help="use no more of a chip: `64 GB`")] = None,
    as_json: AS_JSON = False,
) -> None:
    """The best layout that fits, proven over the whole space, and why the next one lost.

    Example: `gigafactory search training gpt3-175b --on A100 --chips 4096 --batch 3072
    --sequence 2048`
    """
    with door(as_json), _asked():
        from gigafactory.console import estimates as screen
        from gigafactory.stack import answers
        from gigafactory.stack.training.search import OBJECTIVES

        if objective not in OBJECTIVES:
            hint = nearest(objective, OBJECTIVES)
            raise _refused(f"no objective {objective!r}", "--objective", "not one of them", hint)
        job, chip = _job(model, on, sequence, batch, precision, task)
        limit = _quantity(memory, "B", "--memory", "64 GB") if memory else None
        with _working("searching", as_json):
            told = answers.best_train(job, chip, chips or [8], objective, limit)
        say(told, as_json, lambda: screen.best_training(told))


@estimate.command("serve")
def estimate_serve(
    model: MODEL,
    on: ON = "H100",
    chips: CHIPS = 8,
    prompt: PROMPT = 1024,
    new: NEW = 256,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="requests at once; as many as fit if left out")
    ] = None,
    precision: PRECISION = "fp8",
    engine: Annotated[str, typer.Option(help="vllm, sglang or trtllm")] = "vllm",
    layout: Annotated[
        str | None, typer.Option(help="tp=8,ep=8,dp=8 of one replica; else one over all chips")
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """A service under load: time to first token, time per token, tokens a second, memory.

    Example: `gigafactory estimate serve qwen3-235b-a22b --on H200 --chips 8 --prompt 4000
    --new 1000 --concurrency 64`
    """
    with door(as_json), _asked():
        from gigafactory.console import estimates as screen
        from gigafactory.stack import answers
        from gigafactory.stack.serving import Load

        asked = _model(model)
        worker = _worker(asked, chips, precision, engine, layout)
        load = Load(prompt_tokens=prompt, new_tokens=new, concurrency=concurrency)
        told = answers.serve(asked, _chip(on), chips, load, worker)
        say(told, as_json, lambda: screen.serving(told))


@search.command("serving")
def search_serving(
    model: MODEL,
    on: ON = "H200",
    chips: CHIPS = 8,
    prompt: PROMPT = 4000,
    new: NEW = 1000,
    precision: PRECISION = "fp8",
    engine: Annotated[str, typer.Option(help="vllm, sglang or trtllm")] = "vllm",
    ttft_ms: Annotated[float | None, typer.Option(min=0, help="at most this long")] = None,
    tpot_ms: Annotated[float | None, typer.Option(min=0, help="at most this long")] = None,
    as_json: AS_JSON = False,
) -> None:
    """Layouts that no other beats in both tokens/s for one user and tokens/s for one chip.

    Example: `gigafactory search serving qwen3-235b-a22b --on H200 --chips 64 --prompt 4000
    --new 1000`
    """
    with door(as_json), _asked():
        from gigafactory.console import estimates as screen
        from gigafactory.stack import answers
        from gigafactory.stack.serving import Load

        asked, chip = _model(model), _chip(on)
        load = Load(prompt_tokens=prompt, new_tokens=new)
        limits = _seconds(ttft_ms), _seconds(tpot_ms)
        with _working("searching", as_json):
            told = answers.best_serve(
                asked, chip, chips, load, _worker(asked, 1, precision, engine, None), *limits
            )
        if not told["front"]:
            why = f"{told['considered']} ways were tried on {chips} × {chip.name}"
            hint = "take more chips, a lower precision or longer limits"
            raise _refused("no way to serve meets the limits", "--chips", why, hint)
        say(told, as_json, lambda: screen.best_serving(told))


def predict(
    suite: SUITE,
    table: TABLE,
    output: Annotated[Path, typer.Option("--out", help="where the predictions go")],
    as_json: AS_JSON = False,
) -> None:
    """Predict every run of a table: a line for each metric, with its 80 % interval.

    Reads what was set, never what was measured. Example:
    `gigafactory predict training runs.csv --out predictions.csv`
    """
    with door(as_json):
        from gigafactory.stack import predict as stack

        name = _suite(suite)
        rows = _rows(table)
        try:
            with _progress(f"predicting {table.name}", len(rows), as_json) as done:
                lines = stack.predict(name, rows, done)
        except stack.MissingColumns as error:
            raise Refused(
                Fault(
                    f"{table} is no table of {suite} runs",
                    str(table),
                    str(error),
                    "see docs/performance.md for the columns",
                )
            ) from None
        with output.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(stack.COLUMNS)
            writer.writerows(line.cells() for line in lines)
        without = sum(line.predicted is None for line in lines)
        told = {
            "rows": len(rows),
            "lines": len(lines),
            "without_prediction": without,
            "out": str(output),
        }
        say(
            told,
            as_json,
            lambda: f"{output}: {len(lines)} lines for {len(rows)} rows, {without} say why not",
        )


def score(
    predictions: Annotated[Path, typer.Argument(help="what `predict` wrote")],
    truth: Annotated[Path, typer.Argument(help="the table with what was measured")],
    plot: Annotated[
        Path | None, typer.Option(help="draw predicted against measured into this SVG file")
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """Errors of predictions by suite, chip and model, beside the floor that the rows set.

    Example: `gigafactory score predictions.csv runs.csv --plot errors.svg`
    """
    with door(as_json):
        from gigafactory.console import estimates as screen
        from gigafactory.console import scatter
        from gigafactory.stack import score as stack

        try:
            report = stack.score(_rows(predictions), _rows(truth))
        except (ValueError, KeyError) as error:
            where = f"{predictions}, {truth}"
            why = f"column {error} is missing" if isinstance(error, KeyError) else str(error)
            raise Refused(
                Fault("these tables do not belong together", where, why, "`predict` that table")
            ) from None
        if plot:
            plot.write_text(scatter.svg(report.pairs), encoding="utf-8")
        say(report.as_json(), as_json, lambda: screen.errors(report))


@contextmanager
def _asked() -> Iterator[None]:
    """Turn what the stack does not know into a fault of what was asked."""
    from gigafactory.stack import chips, models, training
    from gigafactory.stack.training.search import NothingFits

    try:
        yield
    except models.UnknownModel as error:
        what, why = f"{error.field} = {error.value!r} is not known", "no such model or form of one"
        raise _refused(what, "MODEL", why, f"known: {error.known}") from None
    except chips.UnknownFigure as error:
        raise _refused(
            str(error), "--on", "its catalog row says unknown", "take another chip"
        ) from None
    except chips.UnknownChip as error:
        hint = f"did you mean {' or '.join(error.near[:3])}?"
        raise _refused(
            f"no chip {error.name!r}", "--on", "it is not in the catalog", hint
        ) from None
    except training.BadLayout as error:
        valid = ", ".join(map(str, error.valid))
        hint = f"{error.field} = {valid} would do" if valid else "change --chips or the layout"
        what = f"{error.field} = {error.value} is no layout"
        raise _refused(what, f"--layout {error.field}", error.why, hint) from None
    except NothingFits as error:
        raise _refused("no layout fits", "--chips", error.what, error.remedy) from None


def _refused(what: str, where: str, why: str, remedy: str = "see `--help`") -> Refused:
    return Refused(Fault(what, where, why, remedy))


def _job(
    model: str, on: str, sequence: int, batch: int, precision: str, task: str
) -> tuple[Any, Any]:
    from gigafactory.stack import training

    chip = _chip(on)
    name = precision.upper()
    known = [known for known, dtype in training.PRECISIONS.items() if dtype in chip.flop_per_s]
    if name not in known:
        why = f"{chip.name} has rates for {', '.join(known)}"
        raise _refused(
            f"no precision {precision!r} on {chip.name}", "--precision", why, nearest(name, known)
        )
    if task not in training.TASKS:
        raise _refused(
            f"no task {task!r}", "--task", "it is not modelled", nearest(task, training.TASKS)
        )
    return training.Job(_model(model), sequence, batch, name, task), chip


def _layout(text: str | None, job: Any, chips: int) -> Any:
    """The layout that was asked for, data parallel over what is left; None to search."""
    from gigafactory.stack import training

    if text is None:
        return None
    words = dict(part.partition("=")[::2] for part in text.split(","))
    mode = words.pop("recompute", "none")
    if mode not in training.RECOMPUTE:
        raise _refused(
            f"no recompute {mode!r}",
            "--layout recompute",
            "not a mode",
            nearest(mode, training.RECOMPUTE),
        )
    numbers = _numbers(",".join(f"{k}={v}" for k, v in words.items()) or None, LAYOUT_FIELDS)
    used = numbers.get("tp", 1) * numbers.get("pp", 1) * numbers.get("cp", 1)
    numbers.setdefault("dp", max(chips // max(used, 1), 1))
    fields = {LAYOUT_FIELDS[name]: value for name, value in numbers.items()}
    layout = training.Layout(**fields, recompute=training.RECOMPUTE.index(mode))
    training.check(job, chips, layout)
    return layout


def _numbers(text: str | None, known: Sequence[str] | dict[str, str]) -> dict[str, int]:
    """`tp=4,pp=8` as numbers; refuses what is not known, or no number."""
    numbers = {}
    for part in text.split(",") if text else ():
        name, _, value = part.partition("=")
        if name not in known:
            raise _refused(
                f"no field {name!r} in a layout", "--layout", "it is not one", nearest(name, known)
            )
        if not value.isdigit() or int(value) < 0:
            raise _refused(
                f"{name} = {value!r} is no number",
                f"--layout {name}",
                "it must be a whole number",
                f"write {name}=1",
            )
        numbers[name] = int(value)
    return numbers


def _model(name: str) -> Any:
    from gigafactory.stack import models

    return models.read(name)


def _chip(name: str) -> Any:
    from gigafactory.stack import chips

    if name == chips.THIS_MACHINE:
        from gigafactory.works import calibrate
        from gigafactory.works.home import Home

        return chips.system(name, calibrate.load(Home.default().path)).chip
    return chips.chip(name)


def _worker(model: Any, chips: int, precision: str, engine: str, layout: str | None) -> Any:
    """One worker as asked; else over all chips of a node, experts dealt out over them."""
    from gigafactory.stack import serving

    name = precision.lower()
    if name not in serving.PRECISIONS:
        hint = nearest(name, serving.PRECISIONS)
        raise _refused(f"no precision {precision!r}", "--precision", "it is not modelled", hint)
    if engine not in serving.ENGINES:
        hint = nearest(engine, serving.ENGINES)
        raise _refused(f"no engine {engine!r}", "--engine", "it is not modelled", hint)
    numbers = _numbers(layout, ("tp", "pp", "ep", "dp"))
    width = chips if layout is None else 1
    tensor = numbers.get("tp", max(n for n in (1, 2, 4, 8) if n <= width and model.heads % n == 0))
    worker = serving.Deployment(
        tp=tensor,
        pp=numbers.get("pp", 1),
        dp_attention=numbers.get("dp", 1),
        ep=numbers.get("ep", 1),
        precision=serving.PRECISIONS[name],
        engine=engine,
    )
    if model.heads % tensor:
        valid = [n for n in (1, 2, 4, 8, 16, 32, 64) if model.heads % n == 0]
        hint = f"tp = {', '.join(map(str, valid))} would do"
        why = f"does not divide {model.heads} heads"
        raise _refused(f"tp = {tensor} is no layout", "--layout tp", why, hint)
    if worker.stage_chips % worker.ep or (model.experts and model.experts % worker.ep):
        why = f"{model.experts} experts, and {worker.stage_chips} chips a stage, do not divide"
        raise _refused(f"ep = {worker.ep} is no layout", "--layout ep", why, "write ep=1")
    if chips > 1 and worker.chips > chips:
        why = f"one worker takes tp*dp*pp = {worker.chips} chips"
        raise _refused(f"{chips} chips hold no worker", "--chips", why, "take more chips")
    return worker


def _quantity(text: str, unit: str, where: str, example: str) -> float:
    from gigafactory import units

    try:
        return units.parse(text, unit)
    except units.NotAQuantity as error:
        what = f"{text!r} is no quantity"
        raise _refused(what, where, str(error), f"write `{example}`") from None


def _seconds(milliseconds: float | None) -> float:
    return math.inf if milliseconds is None else milliseconds / 1e3


def _suite(name: str) -> Literal["training", "serving"]:
    if name in ("training", "serving"):
        return cast(Literal["training", "serving"], name)
    raise _refused(
        f"no suite {name!r}", "SUITE", "there are two", nearest(name, ["training", "serving"])
    )


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file. Raises `Refused` for what is none."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _refused(
            f"{path} cannot be read as CSV", str(path), str(error), "save it as UTF-8 CSV"
        ) from None
    if not rows:
        raise _refused(
            f"{path} has no rows", str(path), "it is empty", "give a table with a header and rows"
        )
    return [{name: value or "" for name, value in row.items() if name} for row in rows]


@contextmanager
def _working(what: str, quiet: bool) -> Iterator[None]:
    """A sign of life while a search runs."""
    from rich.console import Console

    if quiet:
        yield
        return
    with Console(stderr=True).status(what, spinner="line"):
        yield


@contextmanager
def _progress(what: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on the screen while a table is worked through."""
    from rich.progress import Progress

    with Progress(console=out, transient=True, disable=quiet) as bar:
        task = bar.add_task(what, total=total)
        yield lambda number: bar.update(task, completed=number)
