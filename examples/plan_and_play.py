"""Plan a blueprint, play its day on the virtual clock, and read the bill."""

import tempfile
from pathlib import Path

from gigafactory.blueprint import load
from gigafactory.ledger.book import Book, write_parquet
from gigafactory.plan import make
from gigafactory.twin import simulate

plan = make(load("h100-8", ["workloads.code-model.tokens=10 G tokens"]))
for job in plan.jobs:
    quote = job.quote
    price = f"{quote.money.value:8.2f} {plan.currency}"
    print(f"{job.spec.name:12} {quote.duration_s.value:9.0f} s {price}")

with tempfile.TemporaryDirectory() as folder:
    day = Path(folder) / "day.parquet"
    write_parquet(day, "day", simulate(plan, "day", seed=7), unix_s=0.0)
    for tenant in Book.open(day).bill("day"):
        print(f"{tenant['tenant']:12} owes {tenant['total_micro'] / 1e6:.2f} {plan.currency}")
