"""Chunks in from any thread; out on one loop, in batches or one by one, at the pace of what is done with them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import repeat
from typing import Any

from ..agent.log import Chunk
from ..errors import InvalidRequest
from ..pieces import Piece, Pieces
from ..words import human_bytes
from .base import Held, Queue, log, result_of
from .given import check_callable

MAX_BYTES = 8 * 1024 * 1024  # that a BufferedHandler holds before it holds its stream back
DROP_NEWS = 5.0  # seconds between two warnings that chunks are dropped
OVERFLOWS = ("wait", "drop_oldest", "drop_newest")


class BufferedHandler(Queue):
    """Hand output on in batches: a few large ones a second instead of thousands of small ones.

        async with BufferedHandler(page.write, flush_interval=0.05) as handler:
            await stream.on_output(handler.add)  # until the session has ended
        print(handler)

    or `asyncio.create_task(handler.run())`. Without `process`, and not overridden, it prints the text.

    Args:
        process: Called on the loop of `run()` with the bytes of a batch; may be async.
        flush_interval: Seconds between two batches, at least; the first after a pause goes at once.
        max_bytes: When so much is held, the batch being processed included, it is handed on at once and `add` holds
            its stream back. What is held never passes that by more than one chunk of each stream.
    """

    def __init__(
        self, process: Callable[[bytes], Any] | None = None, *, flush_interval: float = 0.1, max_bytes: int = MAX_BYTES
    ) -> None:
        if not 0 <= flush_interval < float("inf"):
            raise InvalidRequest(f"flush_interval is 0 seconds or more, got {flush_interval}; 0.1 is ten a second")
        if max_bytes < 1:
            raise InvalidRequest(f"max_bytes is 1 or more, got {max_bytes}; the default is {MAX_BYTES}")
        check_callable("process", process)
        super().__init__()
        self.flush_interval, self.max_bytes = flush_interval, max_bytes
        self._user = process
        self._flushed = -flush_interval  # when the last batch was, by the loop's clock
        self._text = Pieces("text")

    @property
    def buffer(self) -> tuple[bytes, ...]:
        """The chunks that wait, oldest first."""
        return self._waits()

    @property
    def buffered(self) -> int:
        """Bytes that are held: those that wait, and those being processed."""
        return self._size

    async def run(self) -> None:
        """Hand on what comes; returns after `close()`, when all was handed on.

        Cancelled, it has 5 seconds to hand on what it holds; cancelled again, it ends at once. What was not handed on
        stays, and is told by a warning.
        """
        await self._run()

    async def process_batch(self, batch: list[bytes]) -> None:
        """Process the chunks of one batch, oldest first; override it."""
        if self._user is not None:
            await result_of(self._user(b"".join(batch)))
        else:
            channels = [held.channel for held in self._in_hand] if len(batch) == len(self._in_hand) else repeat("")
            chunks = [Chunk(0, name, 0, 0, data) for data, name in zip(batch, channels, strict=False)]
            _show([piece for chunk in chunks for piece in self._text.feed(chunk)])

    def __repr__(self) -> str:
        held, gone = human_bytes(self.buffered), human_bytes(self.handed_on_bytes)
        return f"<{type(self).__name__}: {held} held, {gone} handed on{self._state()}>"

    def _is_full(self) -> bool:
        return self._size >= self.max_bytes

    async def _next(self) -> bool:
        comes = await super()._next()
        pause = self._flushed + self.flush_interval - asyncio.get_running_loop().time()
        if pause > 0:
            await self._shared.until(lambda: self._is_full() or self._closed, pause)
        return comes

    def _take(self) -> list[Held]:
        held = list(self._waiting)
        self._waiting.clear()
        return held

    async def _process(self, held: list[Held]) -> None:
        try:
            await result_of(self.process_batch([one.data for one in held]))
        finally:
            self._flushed = asyncio.get_running_loop().time()

    def _ended(self) -> None:
        if self._closed:
            _show(self._text.end())


class FlowControlledHandler(Queue):
    """Process output chunk by chunk, at the pace of the processing: what is too fast waits, or is dropped and counted.

        async with FlowControlledHandler(save) as handler:
            await stream.on_output(handler.add)  # until the session has ended
        print(handler)

    or a subclass with `async def process(self, data)` and `asyncio.create_task(handler.consume())`.

    Args:
        process: Called on the loop of `consume()` with each chunk; may be async.
        max_queue: Chunks that may wait. Those of a stream's log have up to 256 KiB.
        overflow: What happens to more: `wait` loses nothing, it holds the stream back; `drop_oldest` and
            `drop_newest` lose chunks, and say so by a warning.
        on_drop: Called with the number of chunks and of bytes whenever some were dropped, where `add` is called.

    Attributes:
        dropped, dropped_bytes: Chunks that were dropped, and their bytes.
    """

    def __init__(
        self,
        process: Callable[[bytes], Any] | None = None,
        *,
        max_queue: int = 1000,
        overflow: str = "wait",
        on_drop: Callable[[int, int], Any] | None = None,
    ) -> None:
        if max_queue < 1:
            raise InvalidRequest(f"max_queue is 1 chunk or more, got {max_queue}; the default is 1000")
        if overflow not in OVERFLOWS:
            raise InvalidRequest(f"overflow is {', '.join(OVERFLOWS)}, not {overflow!r}; `wait` loses nothing")
        check_callable("process", process)
        check_callable("on_drop", on_drop)
        super().__init__()
        self.max_queue, self.overflow, self.on_drop = max_queue, overflow, on_drop
        self.dropped = self.dropped_bytes = 0
        self._user = process
        self._told = 0  # of `dropped`
        self._tell_at = 0.0

    @property
    def queue(self) -> tuple[bytes, ...]:
        """The chunks that wait, oldest first; `len()` of it is the depth."""
        return self._waits()

    def add(self, data: bytes, *channel: str) -> Awaitable[None] | None:
        room = super().add(data, *channel)
        with self._shared:
            if self.overflow == "wait" or len(self._waiting) <= self.max_queue:
                return room
            size = len((self._waiting.popleft() if self.overflow == "drop_oldest" else self._waiting.pop()).data)
            self._size -= size
            self.dropped += 1
            self.dropped_bytes += size
        if time.monotonic() >= self._tell_at:
            self._tell_drops()
        if self.on_drop is not None:
            try:
                self.on_drop(1, size)
            except Exception as error:
                self._failed(error, "on_drop raised, and it goes on")
        return None

    async def consume(self) -> None:
        """Process what comes; returns after `close()`, when all was processed. Cancelled, as `BufferedHandler.run`."""
        await self._run()

    async def process(self, data: bytes) -> None:
        """Process one chunk; override it."""
        assert self._user is not None
        await result_of(self._user(data))

    def __repr__(self) -> str:
        drops = f", {self.dropped} dropped ({human_bytes(self.dropped_bytes)})" if self.dropped else ""
        depth = f"{len(self._waiting)} of {self.max_queue} chunks wait"
        return f"<{type(self).__name__}: {depth}, {self.handed_on} handed on{drops}{self._state()}>"

    def _check(self) -> None:
        if self._user is None and getattr(self.process, "__func__", None) is FlowControlledHandler.process:
            raise InvalidRequest(
                "there is nothing to process with: FlowControlledHandler(process), or a subclass with "
                "`async def process(self, data)`"
            )

    def _is_full(self) -> bool:
        return self.overflow == "wait" and len(self._waiting) >= self.max_queue

    def _take(self) -> list[Held]:
        return [self._waiting.popleft()]

    def _process(self, held: list[Held]) -> Any:
        return self.process(held[0].data)

    def _ended(self) -> None:
        if self.dropped > self._told:
            self._tell_drops()

    def _tell_drops(self) -> None:
        self._told, self._tell_at = self.dropped, time.monotonic() + DROP_NEWS
        log.warning(
            '%s is too slow and has dropped %d chunks (%s) by now; overflow="wait" loses nothing',
            type(self).__name__,
            self.dropped,
            human_bytes(self.dropped_bytes),
        )


def _show(pieces: Iterable[Piece]) -> None:
    text = "".join(str(text) for text, _ in pieces)
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()
