"""Commands that ask the performance model alone, without a blueprint.

`estimate` one layout, `search` the best, `predict` a table of published runs, `score` the
predictions. Thin: they read what was asked, call `stack`, and print what came back.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from gigafactory import asked as asking
from gigafactory.door import AS_JSON, door, out, say, working, write_table, write_whole

MODEL = Annotated[str, typer.Argument(help="a shipped model, or a path to a config.json")]
ON = Annotated[str, typer.Option("--on", metavar="CHIP", help="a chip of the catalog: H100, B200")]
CHIPS = Annotated[int, typer.Option(min=1, max=10**7, help="how many chips")]
SEQUENCE = Annotated[int, typer.Option(min=1, max=10**8, help="tokens of a sequence")]
BATCH = Annotated[int, typer.Option(min=1, max=10**6, help="sequences of a step")]
PRECISION = Annotated[str, typer.Option(help="BF16, FP8, MXFP8 or NVFP4")]
SERVED = Annotated[
    str | None,
    typer.Option(help="bf16, fp8, fp4 or int4 (weights alone); fp8 where the chip has it"),
]
ENGINE = Annotated[str, typer.Option(help="vllm, sglang or trtllm")]
TASK = Annotated[str, typer.Option(help="pretrain, sft or lora")]
LAYOUT = Annotated[
    str | None,
    typer.Option(
        help="tp, pp, cp, ep, dp, vpp, mb, zero, recompute, offload, sp: `tp=4,pp=8,vpp=5`; "
        "dp takes the rest; searched if left out"
    ),
]
TOKENS = Annotated[str | None, typer.Option(help="length of the whole run: `15T`")]
PROMPT = Annotated[int, typer.Option(min=1, max=10**7, help="tokens of a prompt")]
NEW = Annotated[int, typer.Option(min=2, max=10**7, help="tokens of an answer")]
SUITE = Annotated[str, typer.Argument(metavar="SUITE", help="training or serving")]
TABLE = Annotated[Path, typer.Argument(help="a CSV file with the columns of published runs")]

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
    with door(as_json), asking.asked():
        from gigafactory.console import estimates as screen
        from gigafactory.stack import answers

        job, chip = asking.job(model, on, sequence, batch, precision, task)
        asking.enough(on, chips)
        length = asking.quantity(tokens, "token", "--tokens", "15T", 1) if tokens else None
        told = answers.train(job, chip, chips, asking.layout(layout, job, chips), length)
        say(told, as_json, lambda: screen.training(told))


@search.command("training")
def search_training(
    model: MODEL,
    on: ON = "H100",
    chips: Annotated[
        list[int] | None,
        typer.Option(min=1, max=10**7, help="how many; again for more counts to choose from"),
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
    with door(as_json), asking.asked():
        from gigafactory.console import estimates as screen
        from gigafactory.stack import answers
        from gigafactory.stack.training.search import OBJECTIVES

        asking.one_of("objective", objective, OBJECTIVES)
        job, chip = asking.job(model, on, sequence, batch, precision, task)
        if chip.kind == "cpu":
            why = "ranks on cores all lie alike"
            hint = "`gigafactory estimate train` tells how long"
            raise asking.refused(f"nothing to search on {chip.name}", "--on", why, hint)
        limit = asking.quantity(memory, "B", "--memory", "64 GB", 1e9) if memory else None
        with working("searching", as_json):
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
        int | None,
        typer.Option(min=1, max=10**7, help="requests at once; as many as fit if left out"),
    ] = None,
    precision: SERVED = None,
    engine: ENGINE = "vllm",
    layout: Annotated[
        str | None, typer.Option(help="tp, pp, ep, dp of one worker: `tp=8,ep=8`; else one node")
    ] = None,
    prefill: Annotated[
        str | None, typer.Option(help="workers of their own for prompts: `tp=2`; see the next")
    ] = None,
    prefill_workers: Annotated[int, typer.Option(min=1, max=10**5, help="how many of them")] = 1,
    prefix_hit: Annotated[
        float, typer.Option(min=0, max=0.99, help="share of prompt tokens found in the cache")
    ] = 0.0,
    chunk: Annotated[
        int, typer.Option(min=16, max=10**6, help="prompt tokens that one step takes at most")
    ] = 8192,
    drafts: Annotated[
        int, typer.Option(min=0, max=16, help="tokens drafted ahead in a step (speculative)")
    ] = 0,
    acceptance: Annotated[
        float, typer.Option(min=0, max=1, help="chance that a drafted token stands")
    ] = 0.7,
    as_json: AS_JSON = False,
) -> None:
    """A service under load: time to first token, time per token, tokens a second, memory.

    With `--prefill` prompts have workers of their own, and the other chips decode.

    Example: `gigafactory estimate serve qwen3-235b-a22b --on H200 --chips 8 --prompt 4000
    --new 1000 --concurrency 64`
    """
    with door(as_json), asking.asked():
        from gigafactory.console import estimates as screen
        from gigafactory.stack import answers
        from gigafactory.stack.serving import Load

        asked, chip = asking.model(model), asking.chip(on)
        settings = {
            "prefix_hit": prefix_hit,
            "chunk_tokens": chunk,
            "speculative_tokens": drafts,
            "acceptance": acceptance,
        }
        first = None
        if prefill:
            first = asking.worker(asked, chip, chips, precision, engine, prefill, **settings)
        rest = chips - (prefill_workers * first.chips if first else 0)
        if rest < 1:
            why = f"{prefill_workers} workers for prompts take them all"
            raise asking.refused("no chip is left to decode", "--chips", why, "take more chips")
        worker = asking.worker(asked, chip, rest, precision, engine, layout, **settings)
        load = Load(prompt_tokens=prompt, new_tokens=new, concurrency=concurrency)
        told = answers.serve(asked, chip, chips, load, worker, first, prefill_workers)
        say(told, as_json, lambda: screen.serving(told))


@search.command("serving")
def search_serving(
    model: MODEL,
    on: ON = "H200",
    chips: Annotated[int, typer.Option(min=1, max=4096, help="how many chips")] = 8,
    prompt: PROMPT = 4000,
    new: NEW = 1000,
    precision: SERVED = None,
    engine: ENGINE = "vllm",
    ttft_ms: Annotated[float | None, typer.Option(min=0, help="at most this long")] = None,
    tpot_ms: Annotated[float | None, typer.Option(min=0, help="at most this long")] = None,
    as_json: AS_JSON = False,
) -> None:
    """Layouts that no other beats in both tokens/s for one user and tokens/s for one chip.

    Example: `gigafactory search serving qwen3-235b-a22b --on H200 --chips 64 --prompt 4000
    --new 1000`
    """
    with door(as_json), asking.asked():
        from gigafactory.console import estimates as screen
        from gigafactory.stack import answers
        from gigafactory.stack.serving import Load

        asked, chip = asking.model(model), asking.chip(on)
        base = asking.worker(asked, chip, 1, precision, engine, None)
        load = Load(prompt_tokens=prompt, new_tokens=new)
        limits_s = [math.inf if ms is None else ms / 1e3 for ms in (ttft_ms, tpot_ms)]
        with working("searching", as_json):
            told = answers.best_serve(asked, chip, chips, load, base, *limits_s)
        if not told["front"]:
            ways = told["considered"]
            why = f"{ways} ways fit, none meets the limits" if ways else "the weights do not fit"
            hint = "take more chips, a lower precision or longer limits"
            raise asking.refused(f"no way to serve on {chips} × {chip.name}", "--chips", why, hint)
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

        name, rows = asking.suite(suite), asking.table(table)
        if output.exists() and output.samefile(table):
            why = "the predictions would take the table's place"
            raise asking.refused(f"{output} is the table", "--out", why, "name another file")
        try:
            with _progress(f"predicting {table.name}", len(rows), as_json) as done:
                lines = stack.predict(name, rows, done)
        except stack.MissingColumns as error:
            what, hint = f"{table} is no table of {suite} runs", "docs/performance.md lists them"
            raise asking.refused(what, str(table), str(error), hint) from None
        write_table(output, stack.COLUMNS, [line.cells() for line in lines])
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
            report = stack.score(asking.table(predictions), asking.table(truth))
        except (ValueError, KeyError) as error:
            where = f"{predictions}, {truth}"
            why = f"column {error} is missing" if isinstance(error, KeyError) else str(error)
            what = "these tables do not belong together"
            raise asking.refused(what, where, why, "`gigafactory predict` that table") from None
        if plot:
            write_whole(plot, scatter.svg(report.pairs))
        say(report.as_json(), as_json, lambda: screen.errors(report))


@contextmanager
def _progress(what: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on the screen while a table is worked through."""
    from rich.progress import Progress

    with Progress(console=out, transient=True, disable=quiet) as bar:
        task = bar.add_task(what, total=total)
        yield lambda number: bar.update(task, completed=number)
