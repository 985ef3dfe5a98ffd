"""Ways to read a session's log: pieces as they come, the gap where bytes were dropped, lines, places to start at."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .agent.log import Chunk
from .errors import InvalidRequest, LogDropped, NotSupported
from .lines import Line, LineAssembler, check_channel
from .machines.base import Machine
from .patterns import Grep
from .runtime import Pending, runtime
from .waiting import Pattern, words

if TYPE_CHECKING:
    import pandas

    from .stream import Stream

READ_SIZE = 1024 * 1024  # bytes a cursor asks for at a time
FIRST_TAIL = 64 * 1024  # bytes in which the newest lines are looked for at first
LAST_TAIL = 64 * 1024 * 1024  # and at last

Start = str | int | None
Begin = Callable[[], Awaitable[int]]  # where a cursor begins; "now" has to be asked for


class Gap(Chunk):
    """A place in the log whose bytes were dropped at its size limit: from `offset` to `end`; no data."""

    __slots__ = ("_end",)

    def __init__(self, offset: int, end: int) -> None:
        super().__init__(offset, "", 0, 0, b"")
        self._end = end

    @property
    def end(self) -> int:
        return self._end

    def __repr__(self) -> str:
        return f"<Gap {self.offset}..{self.end}>"


class Lines:
    """Lines of a stream: `for` gives what is there, `async for` follows until the session has ended."""

    def __init__(self, stream: Stream, start: Start, channel: str | None, pattern: Pattern | None) -> None:
        self._stream, self._start, self._channel, self._pattern = stream, start, channel, pattern
        offset_of(start, 0)
        check_channel(channel)
        self._sieve()  # a pattern that does not compile is told now

    def __iter__(self) -> Iterator[Line]:
        stream = self._stream
        end = stream.status.end
        sieve = self._sieve()
        for chunk in read_chunks(stream._machine, stream.session_id, offset_of(self._start, end), end):
            yield from _feed(sieve, chunk)
        yield from sieve.end()

    async def __aiter__(self) -> AsyncIterator[Line]:
        sieve = self._sieve()
        async for chunk in self._stream.chunks(self._start):
            for line in _feed(sieve, chunk):
                yield line
        for line in sieve.end():
            yield line

    def to_pandas(self) -> pandas.DataFrame:
        """Those that are there as a table: offset (bytes), time (UTC), channel, line.

        Raises:
            NotSupported: pandas is not installed.
        """
        table = _pandas().DataFrame(
            ((line.start, line.wall_ns, line.channel, line.text) for line in self),
            columns=["offset", "time", "channel", "line"],
        )
        table["time"] = _pandas().to_datetime(table["time"], unit="ns", utc=True)
        return table

    def __repr__(self) -> str:
        what = "lines" if self._pattern is None else f"lines that match /{words([self._pattern])}/"
        return f"<{what} of {self._stream.name}: iterate, or `async for` to follow>"

    def _sieve(self) -> LineAssembler | Grep:
        return LineAssembler(self._channel) if self._pattern is None else Grep(self._pattern, self._channel)


class Records:
    """What the lines of a stream say that are JSON objects: `for` gives what is there, `async for` follows.

    Attributes:
        skipped: Lines that were none, and not blank, in the last iteration.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.skipped = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.skipped = 0
        for line in self._lines:
            if (record := self._read(line)) is not None:
                yield record

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        self.skipped = 0
        async for line in self._lines:
            if (record := self._read(line)) is not None:
                yield record

    def to_pandas(self) -> pandas.DataFrame:
        """Those that are there as a table, a column a key, nested ones as `outer.inner`. Raises NotSupported."""
        return _pandas().json_normalize(list(self))

    def __repr__(self) -> str:
        return f"{self._lines!r}, as JSON objects"

    def _read(self, line: Line) -> dict[str, Any] | None:
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line.text)
            if isinstance(record, dict):
                return record
        self.skipped += bool(line.text.strip())
        return None


def _pandas() -> ModuleType:
    try:
        return importlib.import_module("pandas")
    except ImportError:
        raise NotSupported("this needs pandas; `pip install pandas` brings it") from None


def _feed(sieve: LineAssembler | Grep, chunk: Chunk) -> list[Line]:
    if isinstance(chunk, Gap):
        return sieve.gap(chunk.offset, chunk.end)
    return sieve.feed([chunk]) if isinstance(sieve, Grep) else sieve.feed(chunk)


def offset_of(start: Start, end: int) -> int:
    """The offset that `"begin"`, `"now"` (which is `end`) or a number means. Raises InvalidRequest."""
    if isinstance(start, int) and not isinstance(start, bool):
        if start < 0:
            raise InvalidRequest(f"an offset cannot be negative, got {start}")
        return start
    if start == "begin":
        return 0
    if start == "now":
        return end
    raise InvalidRequest(f'start is "begin", "now" or a byte offset, not {start!r}')


def known(offset: int) -> Begin:
    """A place to begin that is known."""

    async def begin() -> int:
        return offset

    return begin


async def batches(machine: Machine, session_id: str, start: Begin, *, follow: bool) -> AsyncIterator[list[Chunk]]:
    """The one primitive: what the log holds from `start` on, a list at a time. On the I/O thread.

    Ends when the session has ended; without `follow`, with what is there. A `Gap` stands for dropped bytes.
    """
    offset = await start()
    read = machine.read if follow else machine.read_nowait
    while True:
        try:
            batch = await read(session_id, offset, READ_SIZE)
        except LogDropped as gap:
            batch = [_gap(offset, gap)]
        if not batch:
            return
        offset = batch[-1].end
        yield batch


async def on_caller(batches: AsyncIterator[list[Chunk]]) -> AsyncIterator[Chunk]:
    """Walk `batches` on the I/O thread for a caller on any loop."""
    while True:
        step = _next(batches)
        batch = await (step if runtime().here() else Pending(step, "chunks", tied=True))
        if batch is None:
            return
        for chunk in batch:
            yield chunk


def read_chunks(machine: Machine, session_id: str, start: int, end: int) -> Iterator[Chunk]:
    """What is in the log between two offsets. Blocks."""
    while start < end:
        try:
            batch = runtime().wait(machine.read_nowait(session_id, start, min(end - start, READ_SIZE)))
        except LogDropped as gap:
            batch = [_gap(start, gap)]
        if not batch:
            return
        yield from batch
        start = batch[-1].end


def tail_lines(machine: Machine, session_id: str, count: int) -> list[Line]:
    """The newest `count` lines, oldest first; the last may be unfinished. Blocks."""
    size = FIRST_TAIL
    while True:
        chunks = runtime().wait(machine.tail(session_id, size)).chunks
        assembler = LineAssembler()
        lines = [line for chunk in chunks for line in assembler.feed(chunk)] + assembler.end()
        if len(lines) > count or not chunks or chunks[0].offset == 0 or size >= LAST_TAIL:
            return sorted(lines, key=lambda line: line.start)[-count:]
        size *= 4


def _gap(offset: int, error: LogDropped) -> Gap:
    if error.first <= offset:  # nothing is left behind it
        raise error
    return Gap(offset, error.first)


async def _next(batches: AsyncIterator[list[Chunk]]) -> list[Chunk] | None:
    return await anext(batches, None)
