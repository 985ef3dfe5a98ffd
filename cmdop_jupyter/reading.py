"""Ways to read a stream's log: the gap where bytes were dropped, lines there and to come, places to start at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from .agent.log import Chunk
from .errors import InvalidRequest
from .lines import Line, LineAssembler
from .patterns import Grep
from .waiting import Pattern, words

if TYPE_CHECKING:
    from .stream import Stream

Start = str | int | None


class Gap(Chunk):
    """A place in the log whose bytes were dropped at its size limit: from `offset` to `end`; no data."""

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
        self._sieve()  # a pattern that does not compile is told now

    def __iter__(self) -> Iterator[Line]:
        end = self._stream.status.end
        sieve = self._sieve()
        for chunk in self._stream._read_chunks(offset_of(self._start, end), end):
            yield from self._feed(sieve, chunk)
        yield from self._only(sieve.end())

    async def __aiter__(self) -> AsyncIterator[Line]:
        sieve = self._sieve()
        async for chunk in self._stream.chunks(self._start):
            for line in self._feed(sieve, chunk):
                yield line
        for line in self._only(sieve.end()):
            yield line

    def __repr__(self) -> str:
        what = "lines" if self._pattern is None else f"lines that match {words([self._pattern])!r}"
        return f"<{what} of {self._stream.name}: iterate, or `async for` to follow>"

    def _sieve(self) -> LineAssembler | Grep:
        return LineAssembler() if self._pattern is None else Grep(self._pattern)

    def _feed(self, sieve: LineAssembler | Grep, chunk: Chunk) -> list[Line]:
        if isinstance(chunk, Gap):
            return self._only(sieve.gap(chunk.offset, chunk.end))
        return self._only(sieve.feed([chunk]) if isinstance(sieve, Grep) else sieve.feed(chunk))

    def _only(self, lines: list[Line]) -> list[Line]:
        return [line for line in lines if self._channel in (None, line.channel)]


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
