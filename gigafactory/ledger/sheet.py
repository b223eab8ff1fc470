"""Bills as a table for other programs. Imports nothing heavy, unlike `bills`, which counts them."""

import csv
import io
from collections.abc import Iterable
from typing import Any

SUMS = ("energy_measured_kwh", "energy_modelled_kwh", "carbon_g", "requests", "input_tokens",
        "output_tokens", "disputed")  # fmt: skip


def table(bills: Iterable[dict[str, Any]]) -> str:
    """The lines of bills as a table for other programs; money with its six decimals."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["month", "tenant", "what", "run", "name", "pool", "chip_h", *SUMS, "money", "currency"]
    )
    for bill in bills:
        for item in bill["items"]:
            writer.writerow(
                [bill["month"], bill["tenant"]]
                + [item[name] for name in ("what", "run", "name", "pool", "chip_h", *SUMS)]
                + [money(item["money_micro"]), bill["currency"]]
            )
    return file.getvalue()


def money(micro: int) -> str:
    """Micro-units as the decimal number that they are: `1.250000`."""
    return f"{'-' * (micro < 0)}{abs(micro) // 10**6}.{abs(micro) % 10**6:06}"
