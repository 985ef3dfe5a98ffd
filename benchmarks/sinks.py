"""`to_database` beside the same rows inserted by hand, by SQLAlchemy Core, in the same batches and transactions."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cmdop_jupyter import AsyncCMDOPClient
from cmdop_jupyter.reading import READ_SIZE
from cmdop_jupyter.sinks.database import COLUMNS, DatabaseTaker, to_database
from cmdop_jupyter.sinks.rows import ChunkRows, LineRows, Row
from cmdop_jupyter.sinks.tables import Tables
from cmdop_jupyter.stream import Stream
from tests.postgres import Postgres

BATCH_ROWS = 1000
ROUNDS = 5  # pairs

Transactions = list[list[list[Row]]]  # the batches of each


def main(full: bool = False) -> list[dict[str, Any]]:
    """Measure both units in both databases, with a log that is there already."""
    sizes = {"line": 50_000_000 if full else 5_000_000, "chunk": 500_000_000 if full else 50_000_000}
    rows = []
    with tempfile.TemporaryDirectory() as folder, Postgres() as server:
        numbers = itertools.count()
        databases = {
            "SQLite": lambda: f"sqlite:///{folder}/{next(numbers)}.db",
            "PostgreSQL": server.database,
        }
        for unit, size in sizes.items():
            stream = asyncio.run(_log(size))
            transactions = list(_transactions(stream, unit))
            count = sum(len(batch) for transaction in transactions for batch in transaction)
            for name, new in databases.items():
                pairs = []
                for number in range(ROUNDS):
                    seconds = {}
                    for way in (_ours, _by_hand) if number % 2 else (_by_hand, _ours):
                        url = new()
                        seconds[way] = way(url, unit, stream, transactions)
                        _check(url, count)
                        for left in Path(folder).iterdir():
                            left.unlink()
                    pairs.append((seconds[_ours], seconds[_by_hand]))
                rate = size / 1e6 if unit == "chunk" else count
                rows.append(
                    {
                        "name": f"to_database, {name}, {count:,} {unit}s, {size / 1e6:.0f} MB",
                        "value": statistics.median(raw / ours for ours, raw in pairs),
                        "unit": "of by hand",
                        "bound": ">= 0.5",
                        "detail": ", ".join(f"{rate / ours:,.0f}:{rate / raw:,.0f}" for ours, raw in pairs)
                        + (" MB/s" if unit == "chunk" else " lines/s"),
                    }
                )
    return rows


async def _log(size: int) -> Stream:
    """A session that has ended, with numbered lines of 100 bytes."""
    command = f"seq -f '%099.0f' {size // 100}"
    async with AsyncCMDOPClient.local() as client:
        stream = await client.terminal.create(command=f"exec {command}", tty="none")
        await stream
        await stream.stop()  # gives its report once the session has ended
    return stream


def _ours(url: str, unit: str, stream: Stream, transactions: Transactions) -> float:
    began = time.perf_counter()
    to_database(stream, url, unit=unit, batch_rows=BATCH_ROWS).result()
    return time.perf_counter() - began


def _by_hand(url: str, unit: str, stream: Stream, transactions: Transactions) -> float:
    began = time.perf_counter()
    engine = sa.create_engine(url)
    metadata = sa.MetaData()
    table = sa.Table(
        "cmdop_output",
        metadata,
        sa.Column("session", sa.String(64), primary_key=True),
        sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("channel", sa.String(8), nullable=False),
        sa.Column(COLUMNS[unit], sa.LargeBinary if unit == "chunk" else sa.Text, nullable=False),
    )
    metadata.create_all(engine)
    for batches in transactions:
        with engine.begin() as connection:
            for batch in batches:
                connection.execute(table.insert(), batch)
    engine.dispose()
    return time.perf_counter() - began


def _transactions(stream: Stream, unit: str) -> Iterator[list[list[Row]]]:
    """The rows as `to_database` makes them of a log that is there: what each read gives is one transaction."""

    async def reads() -> list[list[Any]]:
        found: list[list[Any]] = [[]]
        async for chunk in stream.chunks("begin"):
            if found[-1] and chunk.offset // READ_SIZE != found[-1][-1].offset // READ_SIZE:
                found.append([])
            found[-1].append(chunk)
        return found

    rows = LineRows(stream.session_id, None) if unit == "line" else ChunkRows(stream.session_id, None)
    taker = DatabaseTaker(stream.session_id, Tables("sqlite:///unused", "t", COLUMNS[unit]), unit, "all", BATCH_ROWS)
    for chunks in asyncio.run(reads()):
        yield list(taker._batches(rows.feed(chunks)))


def _check(url: str, count: int) -> None:
    """Both must have done the work."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT count(*) FROM cmdop_output")).scalar_one()
    if found != count:
        raise RuntimeError(f"{found} rows in the table, not {count}")
