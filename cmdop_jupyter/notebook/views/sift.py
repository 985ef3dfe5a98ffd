"""A log searched from one end to the other, off the frames' path, and followed: the lines that a view shows of it."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ...agent.log import Chunk
from ...errors import CmdopError, LogDropped
from ...lines import Line
from ...machines.base import Machine, Status
from .cells import MAX_COLUMNS, StyledLine
from .fold import fold
from .sieve import Looks, Sieve, since_ns, styled

READ_SIZE = 1024 * 1024
MOST_LINES = 2000  # that are kept of what was found
MOST_RAW = 4 * MAX_COLUMNS  # bytes of a line that is shown with its colours


class Sifting:
    """Searches the log of a session from `start` on, until it is stopped. Belongs to the I/O thread.

    Args:
        news: Called when more is known.

    Attributes:
        found: How many lines were, so far.
        whole: Whether all there was at the beginning has been searched.
        problem: Why it was given up; "" while it was not.
    """

    def __init__(
        self, machine: Machine, session_id: str, looks: Looks, status: Status, start: int, news: Callable[[], object]
    ) -> None:
        self.found, self.whole, self.problem = 0, False, ""
        self._machine, self._id, self._news = machine, session_id, news
        self._sieve, self._start, self._goal = Sieve(looks), start, status.end
        self._kept: deque[tuple[Line, bytes]] = deque(maxlen=MOST_LINES)
        self._read: list[Chunk] = []  # so much of it as a line that is shown with its colours may begin in
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        self._task.cancel()

    def lines(self, count: int) -> tuple[list[StyledLine], int]:
        """The newest lines that were found, and how many there are before them."""
        lines = list(self._kept)[-count:]
        return [in_colours(line, raw) for line, raw in lines], self.found - len(lines)

    @property
    def words(self) -> str:
        """How it stands."""
        if self.problem:
            return self.problem
        found = f"{self.found:,} {'line' if self.found == 1 else 'lines'}"
        return found if self.whole else f"{found} so far"

    async def _run(self) -> None:
        try:
            await self._follow()
        except CmdopError as error:
            self.problem = str(error)
        self.whole = True
        self._news()

    async def _follow(self) -> None:
        offset = self._start
        while True:
            self.whole = offset >= self._goal
            try:
                read = self._machine.read if self.whole else self._machine.read_nowait
                chunks = await read(self._id, offset, READ_SIZE)
            except LogDropped as gap:
                if gap.first <= offset:
                    return
                self._take(self._sieve.gap(offset, gap.first))
                self._read.clear()
                offset = gap.first
                continue
            if not chunks:
                if self.whole:  # the session has ended
                    self._take(self._sieve.end())
                    return
                self._goal = offset
                continue
            self._take(await asyncio.to_thread(self._sieve.feed, chunks), chunks)
            offset = chunks[-1].end
            self._news()

    def _take(self, lines: list[Line], chunks: Iterable[Chunk] = ()) -> None:
        self.found += len(lines)
        self._read += chunks
        ends = [chunk.end for chunk in self._read]
        self._kept.extend((line, written(line, self._read, ends)) for line in lines[-MOST_LINES:])
        if ends:
            del self._read[: bisect.bisect_right(ends, ends[-1] - MOST_RAW)]


def written(line: Line, chunks: Sequence[Chunk], ends: Sequence[int]) -> bytes:
    """The bytes of a line, from the chunks that end at `ends`; b"" where it has no colours, or is too long for them."""
    if line.end - line.start > MOST_RAW or not chunks or line.start < chunks[0].offset:
        return b""
    found = b""
    for chunk in chunks[bisect.bisect_right(ends, line.start) : bisect.bisect_left(ends, line.end) + 1]:
        if chunk.channel == line.channel:
            found += chunk.data[max(line.start - chunk.offset, 0) : line.end - chunk.offset]
    return found if b"\x1b" in found else b""


def in_colours(line: Line, raw: bytes) -> StyledLine:
    """A line that was found, as it was written where that is one row of the same text."""
    plain = styled(line)
    if raw:
        rows = fold([Chunk(0, line.channel, line.wall_ns, 0, raw)], max_lines=2, from_start=True)
        if len(rows) == 1 and rows[0].text == plain.text.rstrip():
            return dataclasses.replace(rows[0], wall_ns=line.wall_ns)
    return plain


async def offset_since(machine: Machine, session_id: str, since: str) -> tuple[int, bool]:
    """The offset of the first read from that time on, or the log's end; and whether a line begins there."""
    status = await machine.status(session_id)
    wanted = since_ns(since, status.wall_ns)
    low, high = 0, status.end
    while low < high:
        middle = (low + high) // 2
        chunk: Chunk | None = None
        with contextlib.suppress(LogDropped):
            chunks = await machine.read_nowait(session_id, middle, 1)
            chunk = chunks[0] if chunks else None
        if chunk is None or chunk.wall_ns < wanted:
            low = middle + 1
        else:
            high = middle
    begins = low == 0
    with contextlib.suppress(LogDropped):
        before = await machine.read_nowait(session_id, low - 1, 1) if low else []
        begins = begins or any(chunk.data == b"\n" for chunk in before)
    return low, begins
