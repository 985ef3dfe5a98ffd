"""A log searched from one end to the other, off the frames' path, and followed: the lines that a view shows of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from ...agent.log import Chunk
from ...errors import CmdopError, LogDropped
from ...lines import Line
from ...machines.base import Machine, Status
from .cells import StyledLine
from .sieve import Looks, Sieve, since_ns, styled

READ_SIZE = 1024 * 1024
MOST_LINES = 2000  # that are kept of what was found


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
        self._kept: deque[StyledLine] = deque(maxlen=MOST_LINES)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        self._task.cancel()

    def lines(self, count: int) -> tuple[list[StyledLine], int]:
        """The newest lines that were found, and how many there are before them."""
        lines = list(self._kept)[-count:]
        return lines, self.found - len(lines)

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
                offset = gap.first
                continue
            if not chunks:
                if self.whole:  # the session has ended
                    self._take(self._sieve.end())
                    return
                self._goal = offset
                continue
            self._take(await asyncio.to_thread(self._sieve.feed, chunks))
            offset = chunks[-1].end
            self._news()

    def _take(self, lines: list[Line]) -> None:
        self.found += len(lines)
        self._kept.extend(styled(line) for line in lines[-MOST_LINES:])


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
