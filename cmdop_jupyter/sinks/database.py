"""A session's chunks or lines into a table of a database, each once, whatever breaks on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from ..agent.log import Chunk
from ..errors import InvalidRequest, NotSupported
from ..reading import Start
from ..runtime import Worker
from ..stream import Stream
from .base import HasStream, Sink, stream_of
from .rows import ChunkRows, LineRows, Position, Row, Rows

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

    from .tables import Tables

T = TypeVar("T")

BATCH_BYTES = 1024 * 1024  # in one INSERT, at most; a single row may be more
COLUMNS = {"chunk": "data", "line": "line"}  # what each unit is kept in


def to_database(
    stream: Stream | HasStream,
    database: str | URL | Engine,
    *,
    table: str = "cmdop_output",
    unit: str = "chunk",
    channel: str | None = None,
    start: Start = None,
    batch_rows: int = 1000,
    flush_interval: float = 0.5,
) -> Sink:
    """Write the output of a session into a table, as it comes. Each chunk or line is there once, whatever fails.

    The table has `session`, `offset` (in the log, in bytes; unique within a session), `time` (UTC), `channel`, and
    `data` for chunks or `line` for lines. It is made when it is missing. Beside it `<table>_offsets` says how far each
    session is in it, and changes in the same transaction. So a sink that begins later, elsewhere or after a crash goes
    on where the last one was, and two at once share the work. A database that does not answer is asked until it does.

    Chunks are bytes, exactly; how they are cut means nothing. Lines are those of `stream.lines()`: decoded (what is no
    UTF-8 becomes U+FFFD), without ANSI sequences, at most 64 KiB; a NUL in them becomes `␀` (U+2400), since databases
    keep none in text. The last line of a session that has no end is written when the session ends.

    Args:
        database: A URL, as `sqlite:///file.db` or `postgresql+psycopg://user:password@host/name`, or an `Engine` of
            `create_engine`, which stays yours.
        unit: `chunk` or `line`.
        channel: `stdout`, `stderr` or `tty` only.
        start: Where to begin with a session that is not in the table yet; by default where the stream began.
        batch_rows: Rows in one INSERT, at most; they have 1 MiB at most.
        flush_interval: Seconds between two transactions at least, while little comes.

    Raises:
        InvalidRequest: It cannot work so: no such driver, no such folder, a table made for something else …
        NotSupported: SQLAlchemy is not installed.
    """
    if unit not in COLUMNS:
        raise InvalidRequest(f"a unit is chunk or line, not {unit!r}")
    if not isinstance(batch_rows, int) or batch_rows < 1:
        raise InvalidRequest(f"a batch has 1 row or more, got {batch_rows!r}")
    stream = stream_of(stream)
    tables = _tables(database, table, COLUMNS[unit])
    taker = DatabaseTaker(stream.session_id, tables, unit, channel or "all", batch_rows)
    taker.look()
    return Sink(f"to_database {table}", stream, taker, start=start, channel=channel, pause=flush_interval)


def _tables(database: object, table: str, column: str) -> Tables:
    try:
        import sqlalchemy
    except ModuleNotFoundError as error:
        if error.name != "sqlalchemy":
            raise
        raise NotSupported("to_database needs SQLAlchemy: `pip install 'cmdop-jupyter[database]'`") from None
    if int(sqlalchemy.__version__.partition(".")[0]) < 2:
        raise NotSupported(
            f"to_database needs SQLAlchemy 2, this is {sqlalchemy.__version__}: `pip install 'cmdop-jupyter[database]'`"
        )
    from .tables import Tables

    return Tables(database, table, column)


class DatabaseTaker:
    """What a sink hands a session's log to. Its blocking work is done by one thread."""

    def __init__(self, session: str, tables: Tables, unit: str, channel: str, batch_rows: int) -> None:
        self._session, self._tables, self._channel, self._batch_rows = session, tables, channel, batch_rows
        self._make = LineRows if unit == "line" else ChunkRows
        self._rows: Rows = self._make(session, None)
        self._position: Position | None = None
        self._worker: Worker | None = None

    def look(self) -> None:
        """Tell now what can be known now: whether the tables of a file will do. Others are far away, or not up yet."""
        if self._tables.is_file:
            self._tables.look()

    async def resume(self) -> int | None:
        position = await self._do(self._resume)
        return None if position is None else position.restart

    async def take(self, chunks: list[Chunk], end: int) -> None:
        await self._do(lambda: self._write(self._rows.feed(chunks), end))

    async def finish(self) -> None:
        if self._rows.unfinished:
            await self._do(self._finish)

    async def close(self) -> None:
        if self._worker is not None:
            worker, self._worker = self._worker, None
            try:
                await worker.run(self._tables.dispose)  # after what is under way
            finally:
                worker.close()

    async def _do(self, work: Callable[[], T]) -> T:
        if self._worker is None:
            self._worker = Worker("cmdop-database")
        return await self._worker.run(work)

    def _resume(self) -> Position | None:
        self._tables.prepare()
        self._position = self._tables.position(self._session, self._channel)
        self._rows = self._make(self._session, self._position)
        return self._position

    def _write(self, rows: Iterable[Row], end: int) -> None:
        was = self._position
        taken = end if was is None else max(end, was.taken)
        self._position = self._tables.write(
            self._session, self._channel, was, taken, self._batches(rows), lambda: self._rows.unfinished
        )

    def _finish(self) -> None:
        assert self._position is not None, "what is unfinished was taken"
        self._write(self._rows.end(), self._position.taken)

    def _batches(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        batch: list[Row] = []
        size, column = 0, "line" if self._make is LineRows else "data"
        for row in rows:
            weight = len(row[column])
            if len(batch) == self._batch_rows or (batch and size + weight > BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(row)
            size += weight
        if batch:
            yield batch
