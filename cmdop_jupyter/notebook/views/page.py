"""Views in a notebook's page: one clock for all, an `OutputView` a stream and cell, a line while somebody waits."""

from __future__ import annotations

import asyncio
import contextvars
import time
import uuid
from collections.abc import Hashable, Sequence
from typing import Any

from ...errors import CmdopError
from ...machines.base import Exit
from ...runtime import runtime
from ...stream import Stream
from ...waiting import LAST_BYTES, Match, last_words
from ...words import human_seconds
from .clock import FrameClock
from .output import OutputView
from .record import frozen
from .text import shown

PATIENCE = 0.4  # seconds after which a wait is worth a line
RENEW = 1.0  # seconds between two looks of that line


class PageViews:
    """See `Views`.

    Args:
        shell: The kernel's IPython shell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._clock = runtime().wait(_make_clock())
        self._views: dict[str, list[OutputView]] = {}

    def show(self, stream: Stream, lines: int) -> None:
        view = OutputView(stream, self.publish, self._clock, lines=lines)
        self._views.setdefault(stream.session_id, []).append(view)
        view.show()

    def waiting(self, streams: Sequence[Stream], what: str) -> WaitLine:
        return WaitLine(self, streams[0], what)

    def keep(self, stream: Stream) -> dict[str, str]:
        return runtime().wait(frozen(stream._machine, stream.facts))[0]

    def say(self, text: str) -> None:
        self.publish({"text/plain": shown(text)}, uuid.uuid4().hex, False)

    def current_cell(self) -> tuple[Hashable, Hashable] | None:
        parent = self._shell.get_parent() if hasattr(self._shell, "get_parent") else {}
        cell = (parent.get("metadata") or {}).get("cellId")
        execution = (parent.get("header") or {}).get("msg_id")
        # A front end that names no cells has none run twice: by its code, two cells alike would be one.
        return (cell, execution) if cell is not None and execution is not None else None

    def publish(self, bundle: dict[str, Any], display_id: str, update: bool) -> None:
        """Put a bundle into the page, or replace the one of that display id, in whatever cell it is."""
        self._shell.display_pub.publish(data=bundle, metadata={}, transient={"display_id": display_id}, update=update)

    def settle(self, stream: Stream) -> None:
        runtime().wait(self.catch_up(stream))

    async def catch_up(self, stream: Stream) -> None:
        """Bring the texts of a stream up to date: somebody waited for it."""
        for view in self._views.get(stream.session_id, []):
            await view.settle()


class WaitLine:
    """One line in the cell that waits: pattern, stream, elapsed, newest line; then how it ended."""

    def __init__(self, views: PageViews, stream: Stream, what: str) -> None:
        self._views, self._stream = views, stream
        self._where = f"{what} in {stream.name}" if what.startswith("/") else f"{stream.name} {what}"
        self._began = time.monotonic()
        self._id = uuid.uuid4().hex
        self._cell = contextvars.copy_context()  # what it shows first belongs to the cell that called
        self._shown = False
        self._task: asyncio.Task[None] | None = None
        runtime().call_later(self._begin)

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        await asyncio.sleep(PATIENCE)
        while True:
            try:
                tail = await self._stream._machine.tail(self._stream.session_id, LAST_BYTES)
            except CmdopError:
                return
            newest = last_words(tail.chunks)
            last = f" · {newest[-1].text[:100]}" if newest else ""
            self._put(f"… waiting for {self._where}, {self._elapsed()}{last}")
            await asyncio.sleep(RENEW)

    async def done(self, outcome: object) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._shown:
            self._put(self._ending(outcome))
        await self._views.catch_up(self._stream)

    def _ending(self, outcome: object) -> str:
        where = self._where
        if isinstance(outcome, Match):
            return f"✓ {where} after {self._elapsed()} · {outcome.line[:100]}"
        if isinstance(outcome, asyncio.CancelledError):
            return f"– stopped waiting for {where} after {self._elapsed()}; it goes on"
        if isinstance(outcome, BaseException):
            return ""  # the error says it
        if isinstance(outcome, Exit):
            return f"{'✓' if outcome.ok else '✗'} {self._stream.name}: {outcome} after {self._elapsed()}"
        return f"✓ {where} after {self._elapsed()}"

    def _elapsed(self) -> str:
        return human_seconds(time.monotonic() - self._began)

    def _put(self, text: str) -> None:
        bundle = {"text/plain": shown(text)}
        if self._shown:
            self._views.publish(bundle, self._id, True)
        else:
            self._shown = True
            self._cell.run(self._views.publish, bundle, self._id, False)


async def _make_clock() -> FrameClock:
    return FrameClock()
