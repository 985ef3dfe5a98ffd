"""One page's terminal as a cursor over a log: sends what is new, waits for acknowledgements, skips under a flood.

The log is the buffer: nothing queues but one window. All of it runs on the I/O thread. The page keeps its place by
offset, so that what was lost on the way is sent again, and a cursor that was given up is made anew from any message.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ...agent.log import Chunk
from ...errors import ConnectFailed, LogDropped, SessionNotFound
from ...machines.base import Machine, SessionFacts
from ...words import human_bytes
from .replay import Modes, beginning

WINDOW = 1024 * 1024  # bytes that a page may be behind what it was sent
READ_SIZE = 256 * 1024
LAG = 1024 * 1024  # bytes behind the end of the log above which a page skips
GLANCE = 32 * 1024  # of the newest output that it is shown then, again and again while the flood lasts
REPLAY = 256 * 1024  # and behind the flood
SCROLLBACK = 1024 * 1024  # with which it begins
SEARCHED = 8 * 1024 * 1024  # bytes in front of that in which is looked for what was switched on; a tenth of it far away
PACE = 0.02  # seconds between two messages
RATE = 768 * 1024  # bytes a second above which a page would do nothing but write; what is more waits, or is skipped
SKIP_PACE = 0.25  # and between two skips
CALM = 0.4  # seconds without a skip after which a flood is over
PROBE = 2.0  # seconds without an acknowledgement after which a page is told how far it should be
PATIENCE = 30  # such words, after which it is given up

Send = Callable[[dict[str, Any], bytes | None], None]


class Flow:
    """Feeds one page.

    Args:
        send: Takes a message for the page, and bytes to go with it.
        redraw: Makes a full-screen program paint its screen anew.
        live: Whether the page answers what was asked before it was there: the session has just begun.
        start: The offset where the page is, if it was fed before; by default it begins with the newest.
        end_words: Says how the session ended.
    """

    def __init__(
        self,
        machine: Machine,
        session: SessionFacts,
        send: Send,
        *,
        redraw: Callable[[], object],
        end_words: Callable[[], Awaitable[str]],
        live: bool = False,
        start: int | None = None,
        modes: Modes | None = None,
    ) -> None:
        self._machine, self._id, self._send = machine, session.id, send
        self._redraw, self._end_words, self._live = redraw, end_words, live
        self._new = start is None
        self._at = self._acked = start or 0  # sent up to here; written out by the page up to there
        self._next_at = self._skipped_at = 0.0
        self._whole = True  # what it shows; behind a skip it is not
        self.modes = modes or Modes()
        self._news = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._probe())]

    @property
    def over(self) -> bool:
        """Whether it was given up."""
        return self._tasks[1].done()

    def acknowledge(self, offset: int) -> None:
        """The page has written everything up to `offset`."""
        if offset > self._acked:
            self._acked = offset
            self._news.set()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _run(self) -> None:
        with contextlib.suppress(SessionNotFound, ConnectFailed):  # removed, or its client was closed
            if self._new:
                await self._begin()
            while await self._step():
                pass
        self._send({"kind": "end", "text": await self._end_words()}, None)

    async def _step(self) -> bool:
        """Send what comes next; False at the end of the session."""
        while self._at - self._acked >= WINDOW:
            self._news.clear()
            await self._news.wait()
        await asyncio.sleep(self._next_at - time.monotonic())
        try:
            if not self._whole and time.monotonic() > self._skipped_at + CALM:
                await self._complete()
            read = self._machine.read if self._whole else self._machine.read_nowait
            chunks = await read(self._id, self._at, READ_SIZE)
        except LogDropped:
            return await self._skip()
        if not chunks:
            self._next_at = time.monotonic() + PACE
            return not self._whole
        data = b"".join(chunk.data for chunk in chunks)
        if not self._whole and len(data) > 2 * GLANCE:
            return await self._skip()
        if len(data) >= READ_SIZE // 2:  # there may be more than a page can take
            status = await self._machine.status(self._id)
            if status.end - self._at > LAG:
                return await self._skip()
        self._put(chunks[0].offset, data)
        return True

    def _put(self, offset: int, data: bytes) -> None:
        pace = PACE if self._whole else SKIP_PACE
        self._at, self._next_at = offset + len(data), time.monotonic() + max(pace, len(data) / RATE)
        self.modes.feed(data)
        self._send({"kind": "data", "offset": offset}, data)

    async def _begin(self) -> None:
        """Begin with the newest output."""
        tail = await self._machine.tail(self._id, SCROLLBACK)
        offset, data = newest(tail.chunks, tail.status.end)
        if offset:
            await self._look_back(offset)
        self._restart(offset, data, 0 if self._live else tail.status.end)

    async def _look_back(self, offset: int) -> None:
        """Learn what was switched on in front of `offset`."""
        at = max(0, offset - (SEARCHED if self._machine.name == "local" else SEARCHED // 10))
        while at < offset:
            try:
                chunks = await self._machine.read_nowait(self._id, at, min(READ_SIZE * 4, offset - at))
            except LogDropped as gap:
                if gap.first <= at:
                    return
                at = gap.first
                continue
            if not chunks:
                return
            self.modes.feed(b"".join(chunk.data for chunk in chunks))
            at = chunks[-1].end

    async def _skip(self) -> bool:
        """Go on with the newest output; the log has all of it."""
        await asyncio.sleep(self._skipped_at + SKIP_PACE - time.monotonic())
        await self._show_newest(REPLAY if self.modes.other_screen else GLANCE)
        self._skipped_at, self._whole = time.monotonic(), False
        return True

    async def _complete(self) -> None:
        """Behind a flood: a full-screen program paints its screen anew, else there is more to scroll back to."""
        if self.modes.other_screen:
            self._redraw()
        else:
            await self._show_newest(REPLAY)
        self._whole = True

    async def _show_newest(self, size: int) -> None:
        tail = await self._machine.tail(self._id, size)
        offset, data = newest(tail.chunks, tail.status.end)
        self._restart(offset, data, tail.status.end)

    def _restart(self, offset: int, data: bytes, live: int) -> None:
        """Begin with `data`, which is at `offset`, on an empty screen."""
        cut = beginning(data) if offset else 0
        self.modes.feed(data[:cut])
        offset, data = offset + cut, data[cut:]
        text = f"the {human_bytes(offset)} before are in the log only" if offset else ""
        self._send({"kind": "start", "offset": offset, "live": live, "text": text}, self.modes.prefix())
        # What is still on its way counts: a page that does not answer is not skipped for again and again.
        self._at, self._acked = offset, offset - (self._at - self._acked)
        self._put(offset, data)

    async def _probe(self) -> None:
        """Tell a page that is behind how far it should be, in case something was lost on its way."""
        misses, seen = 0, -1
        while misses < PATIENCE:
            await asyncio.sleep(PROBE)
            if self._acked >= self._at:
                misses = 0
                continue
            misses = misses + 1 if self._acked == seen else 0
            seen = self._acked
            self._send({"kind": "at", "offset": self._at}, None)
        self._tasks[0].cancel()


def newest(chunks: list[Chunk], end: int) -> tuple[int, bytes]:
    """The last part of `chunks` without a gap: its offset, and its bytes."""
    kept: list[bytes] = []
    offset = end if not chunks else chunks[-1].end
    for chunk in reversed(chunks):
        if chunk.end != offset:
            break
        kept.append(chunk.data)
        offset = chunk.offset
    return offset, b"".join(reversed(kept))
