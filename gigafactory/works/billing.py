"""Bills of a ledger, counted in a process of its own, which gives its memory back.

DuckDB and Arrow on a million requests take hundreds of MB and a core for seconds; the works,
which answers requests meanwhile, has neither to spare.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import orjson

COUNT = """
import sys
import orjson
from gigafactory.ledger.book import Book
sys.stdout.buffer.write(orjson.dumps(Book.open(sys.stdin.read()).months()))
"""


async def months(ledger: Path | str) -> list[dict[str, Any]]:
    """Every bill, as `Book.months` has them. The address goes by pipe: it may hold a password."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        COUNT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        said, _ = await process.communicate(str(ledger).encode())
    except asyncio.CancelledError:
        process.kill()
        raise
    assert process.returncode == 0, "bills could not be counted; the terminal says why"
    bills: list[dict[str, Any]] = orjson.loads(said)
    return bills
