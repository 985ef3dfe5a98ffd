"""One frame clock for all views of a kernel: it draws those that have something new, within one budget."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Hashable
from typing import Protocol, cast

from .frames import FrameBudget

log = logging.getLogger("cmdop_jupyter")


class Drawable(Protocol):
    """What the clock draws."""

    def __hash__(self) -> int: ...

    async def draw(self, max_bytes: int) -> tuple[int, int]:
        """Bring it up to date; return messages and bytes sent."""
        ...


class FrameClock:
    """Belongs to the I/O thread."""

    def __init__(self, budget: FrameBudget[Hashable] | None = None) -> None:
        self._budget = budget or FrameBudget[Hashable]()
        self._dirty: dict[Drawable, asyncio.Event] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def dirty(self, view: Drawable) -> None:
        """`view` has something new to show."""
        loop = asyncio.get_running_loop()
        if view not in self._dirty:
            self._dirty[view] = asyncio.Event()
            self._budget.mark(view, loop.time())
            self._wake.set()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())

    async def drawn(self, view: Drawable) -> None:
        """Wait until `view` is up to date."""
        event = self._dirty.get(view)
        if event is not None:
            await event.wait()

    def sent(self, messages: int, size: int) -> None:
        """Something was sent beyond the frames: it counts as well."""
        self._budget.sent(asyncio.get_running_loop().time(), self, size, messages)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._dirty:
            for key, max_bytes in self._budget.plan(loop.time()):
                view = cast(Drawable, key)
                event = self._dirty.pop(view)
                messages = sent = 0
                try:
                    messages, sent = await view.draw(max_bytes)
                except Exception:  # one view must not stop the others; it is told of, and tried again when it changes
                    log.exception("a view could not be drawn")
                finally:
                    event.set()
                    self._budget.sent(loop.time(), view, sent, messages)
            due = self._budget.next_due(loop.time())
            if due is not None:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), max(0.001, due - loop.time()))

    def forget(self, view: Drawable) -> None:
        """`view` will never be drawn again."""
        self._budget.forget(view)
        event = self._dirty.pop(view, None)
        if event is not None:
            event.set()
