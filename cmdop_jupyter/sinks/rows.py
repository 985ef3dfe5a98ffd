"""Chunks of a log in, rows for a table out, and what has to be known to go on with them elsewhere. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from ..agent.log import Chunk
from ..lines import ChannelLines, Line
from ..reading import Gap

PIECE = 64 * 1024  # bytes that are made into lines at a time: they may be as many lines
NUL = "\N{SYMBOL FOR NULL}"  # what stands for a NUL in text: PostgreSQL refuses it, SQLite's functions end there

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Position:
    """How far rows were made of a log.

    Attributes:
        taken: The log offset up to which all bytes were seen.
        unfinished: For each channel whose last line has no end yet, where that line begins. None for one that ended
            with a `\\r`: a `\\n` that comes next belongs to it.
    """

    taken: int
    unfinished: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def restart(self) -> int:
        """The log offset from which one must read to go on."""
        return min([self.taken, *(offset for offset in self.unfinished.values() if offset is not None)])


class Rows(Protocol):
    """Makes rows of chunks that lie behind the position it was made with.

    Attributes:
        unfinished: As of `Position`, after what was fed.
    """

    unfinished: dict[str, int | None]

    def feed(self, chunks: Iterable[Chunk]) -> Iterator[Row]:
        """The rows that `chunks` finish. They are fed as the rows are taken."""
        ...

    def end(self) -> list[Row]:
        """The rows that are not finished, when nothing follows."""
        ...


class ChunkRows:
    """A row for each chunk."""

    def __init__(self, session: str, position: Position | None) -> None:
        self._session = session
        self.unfinished: dict[str, int | None] = {}

    def feed(self, chunks: Iterable[Chunk]) -> Iterator[Row]:
        for chunk in chunks:
            if chunk.data:
                yield {
                    "session": self._session,
                    "offset": chunk.offset,
                    "time": moment(chunk.wall_ns),
                    "channel": chunk.channel,
                    "data": chunk.data,
                }

    def end(self) -> list[Row]:
        return []


class LineRows:
    """A row for each line, with the offset that `Line.start` has: no two lines of a log have the same."""

    def __init__(self, session: str, position: Position | None) -> None:
        self._session = session
        self._taken = position.taken if position else 0
        self.unfinished = dict(position.unfinished) if position else {}
        self._begins = {name: offset for name, offset in self.unfinished.items() if offset is not None}
        self._channels: dict[str, ChannelLines] = {}

    def feed(self, chunks: Iterable[Chunk]) -> Iterator[Row]:
        for chunk in chunks:
            if isinstance(chunk, Gap):
                yield from self._rows(self._break(chunk))
            else:
                for piece in _pieces(chunk, self._begins.get(chunk.channel, self._taken)):
                    yield from self._rows(self._lines(piece))

    def end(self) -> list[Row]:
        lines = [line for channel in self._channels.values() if (line := channel.rest()) is not None]
        self._channels.clear()
        self.unfinished.clear()
        return list(self._rows(sorted(lines, key=lambda line: line.start)))

    def _lines(self, chunk: Chunk) -> list[Line]:
        name, data = chunk.channel, chunk.data
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = ChannelLines(name)
            if self.unfinished.get(name, 0) is None and data[0] == 10:
                chunk = Chunk(chunk.offset + 1, name, chunk.wall_ns, chunk.mono_ms, data[1:])
        channel.push(chunk)
        block = channel.take()
        lines = block.lines() if block is not None else []
        channel.forget()
        if channel.size:
            self.unfinished[name] = channel.places.locate(channel.start)[0]
        elif data[-1] == 13:
            self.unfinished[name] = None
        else:
            self.unfinished.pop(name, None)
        return lines

    def _break(self, gap: Gap) -> list[Line]:
        """Nothing in front of a gap goes on behind it."""
        lines = [line for channel in self._channels.values() if (line := channel.rest()) is not None]
        self._channels.clear()
        begins = {name: self._taken if offset is None else offset for name, offset in self.unfinished.items()}
        self.unfinished = {name: self.unfinished[name] for name, begin in begins.items() if begin >= gap.end}
        return lines

    def _rows(self, lines: Iterable[Line]) -> Iterator[Row]:
        session, wall_ns, time = self._session, -1, EPOCH
        for line in lines:
            if line.wall_ns != wall_ns:
                wall_ns, time = line.wall_ns, moment(line.wall_ns)
            yield {
                "session": session,
                "offset": line.start,
                "time": time,
                "channel": line.channel,
                "line": line.text.replace("\0", NUL),
            }


def moment(wall_ns: int) -> datetime:
    """Nanoseconds since the epoch as a time in UTC, whole microseconds of it."""
    return EPOCH + timedelta(microseconds=wall_ns // 1000)


def _pieces(chunk: Chunk, begin: int) -> Iterator[Chunk]:
    """What of a chunk lies behind `begin`, in pieces."""
    data, skipped = chunk.data, max(0, begin - chunk.offset)
    if not skipped and len(data) <= PIECE:
        if data:
            yield chunk
        return
    for at in range(skipped, len(data), PIECE):
        yield Chunk(chunk.offset + at, chunk.channel, chunk.wall_ns, chunk.mono_ms, data[at : at + PIECE])
