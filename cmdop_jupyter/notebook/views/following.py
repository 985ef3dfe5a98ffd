"""One session in, what a view draws of it out: its newest tail, status and link as known now, and when that is news."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from ...errors import LogDropped
from ...machines.base import LinkState, SessionFacts, Status, Tail
from ...steady import Steady
from .cuts import last_lines
from .frames import TailSize
from .record import TAIL_BYTES, frozen, link_words
from .text import Bundle

FLOOD_PAUSE = 0.25  # seconds between two pictures that have no line in common: more often nobody reads them
FIGURES_SECONDS = 0.9  # in which a header says once how much came, then
LINK_SECONDS = 5.0  # after which a header says anew when a link is tried again


class Following:
    """Belongs to the I/O thread, but for its making.

    Args:
        status: What is known at first.
        lines: How many lines of the tail are drawn.
        pause: Seconds between two pieces of news, while there is output.

    Attributes:
        here: The session is on this machine: frames ask for their tail. Else it is asked for before.
        status: The newest that came.
        tail: The same; None before the first.
        drawn_end: Where the log ended in what is drawn; negative before.
        final: The text that stays, and its status, once the session has ended.
        rate: Bytes a second, lately.
    """

    def __init__(
        self, machine: Steady, session: SessionFacts, status: Status, lines: int, *, pause: float = 0.0
    ) -> None:
        self._machine, self._session, self._lines, self._pause = machine, session, lines, pause
        self.here = machine.name == "local"
        self.status, self._status_at = status, time.monotonic()
        self.tail: Tail | None = None
        self.drawn_end = -1
        self.final: tuple[Bundle, Status] | None = None
        self.rate = 0.0
        self._rate_from = (0.0, 0)
        self._tail_size = TailSize(TAIL_BYTES)
        self._floods = False  # all lines of the tail are new
        self._stale = True  # what is drawn is not the newest tail there is

    async def news(self) -> AsyncGenerator[bool, None]:
        """Each time a frame is due, until the session has ended: whether to go on only once it is drawn.

        There is one when there is output, another state or another link, or the header would read differently.
        """
        link = self._machine.link
        asked: dict[str, asyncio.Task[Any]] = {}
        try:
            while self.final is None and (self.status.live or not self.here):
                for name, begin in self._awaited(link).items():
                    if name not in asked and not (name == "output" and "tail" in asked):
                        asked[name] = asyncio.create_task(begin())
                done, _ = await asyncio.wait(asked.values(), timeout=self._tick(), return_when=asyncio.FIRST_COMPLETED)
                for name in [name for name, task in asked.items() if task in done]:
                    task = asked.pop(name)
                    self._stale = self._stale or name in ("state", "output")
                    if name == "link":
                        link = task.result()
                    else:
                        task.result()
                if "tail" not in asked and self._stale and not self.here:
                    continue  # a frame is worth its while when the tail is there
                yield "output" not in asked
        finally:
            for task in asked.values():
                task.cancel()
                task.add_done_callback(forget)

    def _awaited(self, link: LinkState) -> dict[str, Callable[[], Coroutine[Any, Any, object]]]:
        """What makes a frame due. One question for the tail at a time, and none for more while it is under way."""
        awaited: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {}
        if not self.here:
            awaited["link"] = lambda: self._machine.link_change(link)
        if self._stale and not self.here:
            awaited["tail"] = self.fetch
        elif self.status.live:
            awaited["output"] = self._next_output
        if self.status.live:
            awaited["state"] = self._next_state
        return awaited

    async def _next_state(self) -> None:
        self._know(await self._machine.status(self._session.id, self.status.seq))

    async def _next_output(self) -> None:
        """Return once the log goes on behind what is drawn."""
        offset = max(self.drawn_end, 0)
        with contextlib.suppress(LogDropped):
            if not await self._machine.read(self._session.id, offset, 1):
                await asyncio.get_running_loop().create_future()  # it ended; the state says so
        await asyncio.sleep(max(self._pause, FLOOD_PAUSE if self._floods else 0.0))

    async def fetch(self) -> None:
        """Ask for the tail; once the session has ended, for all that stays."""
        machine, asked, began = self._machine, TAIL_BYTES if self.here else self._tail_size.bytes, time.monotonic()
        self._stale, before = False, self.tail
        self.tail = tail = await machine.tail(self._session.id, asked)
        seconds = time.monotonic() - began
        self._floods = before is not None and tail.status.newlines - before.status.newlines > self._lines
        self._know(tail.status)
        if not tail.status.live:
            self.final = await frozen(machine, self._session)
        elif not self.here:
            size = sum(len(chunk.data) for chunk in tail.chunks)
            kept, cut = last_lines(tail.chunks, self._lines)
            whole = cut or not tail.newlines_before
            self._tail_size.came(asked, size, sum(len(chunk.data) for chunk in kept) if whole else None, seconds)
            self._stale = not whole and self._tail_size.bytes > asked

    def _know(self, status: Status) -> None:
        self.status, self._status_at = status, time.monotonic()

    def _tick(self) -> float:
        """Seconds until the header would read differently."""
        if self._machine.link.state != "up":
            return LINK_SECONDS
        return 1.0 if self._session.seconds(self.now()) < 120 or self.rate else 10.0

    @property
    def figures_last(self) -> float:
        """Seconds for which a header stays as it is when nothing but its figures would change."""
        if self._machine.link.state != "up":
            return LINK_SECONDS * 0.9
        return FIGURES_SECONDS if self._floods else 0.0

    def now(self) -> Status:
        """What is known, its clock put forward: it goes on where nothing is heard. Not while the link is away."""
        status = self.status
        if self.here or not status.clock_ms or not status.live or self._machine.link.state != "up":
            return status
        return dataclasses.replace(status, clock_ms=status.clock_ms + int((time.monotonic() - self._status_at) * 1000))

    def measure_rate(self, status: Status) -> float:
        """Bytes a second, over the last second or so."""
        now = time.monotonic()
        at, end = self._rate_from
        if now - at >= 1.0:
            self.rate = max(0, status.end - end) / (now - at) if at else 0.0
            self._rate_from = (now, status.end)
        return self.rate

    def link_words(self) -> str:
        """How its link is, while that is not up."""
        machine = self._machine
        return link_words(machine.link, machine.name, time.monotonic(), stop_waits=self.stop_waits)

    @property
    def stop_waits(self) -> bool:
        """Whether a stop is under way."""
        return self._session.id in self._machine.stops


def forget(task: asyncio.Task[Any]) -> None:
    """Nobody asks how it ended."""
    if not task.cancelled():
        task.exception()
