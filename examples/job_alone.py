"""Run a job outside any factory: the same code, the same bytes, no Ray and no ledger."""

import tempfile
from pathlib import Path

from gigafactory.blueprint import load
from gigafactory.jobs import pretrain
from gigafactory.jobs.context import Context
from gigafactory.plan.plan import resolve

blueprint = load("tiny", ["workloads.code-model.tokens=4 k tokens"])
spec = resolve(blueprint, "code-model", blueprint.workloads["code-model"])

with tempfile.TemporaryDirectory() as folder:
    context = Context.alone(
        Path(folder),
        {"name": spec.name, **spec.work.model_dump(mode="json")},
        model=spec.model.model_dump(),
    )
    results = pretrain.run(context)
    print(
        f"{results['steps']} steps, loss {results['loss_first']:.2f} to {results['loss_last']:.2f}"
    )
    print(sorted(file.name for file in (context.output / "model").iterdir()))
