"""A queue between threads and a loop: chunks come in by `add`, one task hands them on. What both queues have in common.

What is processed while it raises is not processed again, since part of it may have been used: it is counted, logged by
"cmdop_jupyter" the first time it comes from a place, and what waits behind it follows.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, NamedTuple

from ..errors import InvalidRequest
from ..runtime import Lock
from ..words import human_bytes
from .given import checked

LAST_SECONDS = 5.0  # that a handler has, once cancelled, to hand on what it holds

log = logging.getLogger("cmdop_jupyter")


class Until:
    """Await it, on any loop, to wait until something is so; or leave it."""

    def __init__(self, wait: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._wait = wait

    def __await__(self) -> Generator[Any, Any, None]:
        return self._wait().__await__()


class Locked:
    """A lock, `with` it. What is waited for is looked at whenever it is let go."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._awaited: dict[concurrent.futures.Future[None], Callable[[], bool]] = {}

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        ripe = [future for future, is_so in self._awaited.items() if is_so()]
        for future in ripe:
            del self._awaited[future]
        self._lock.release()
        for future in ripe:
            future.set_result(None)

    def until(self, is_so: Callable[[], bool], seconds: float | None = None) -> Until:
        """Wait until it is so, at most for so long."""

        async def wait() -> None:
            future: concurrent.futures.Future[None] = concurrent.futures.Future()
            with self:
                if is_so():
                    return
                self._awaited[future] = is_so
            try:
                await asyncio.wait([asyncio.wrap_future(future)], timeout=seconds)
            finally:
                with self:
                    self._awaited.pop(future, None)

        return Until(wait)


class Held(NamedTuple):
    """What one call of `add` brought; the channel is '' where the client does not tell."""

    number: int
    data: bytes
    channel: str


class Queue:
    """What BufferedHandler and FlowControlledHandler have in common: chunks come in by `add`, a task hands them on.

    Attributes:
        handed_on, handed_on_bytes: Chunks that were processed, and their bytes.
        errors, failed_bytes: How often processing raised, and the bytes it was given then.
    """

    def __init__(self) -> None:
        self.handed_on = self.handed_on_bytes = self.errors = self.failed_bytes = 0
        self._shared = Locked()
        self._waiting: deque[Held] = deque()
        self._in_hand: list[Held] = []  # taken, and being processed
        self._size = 0  # bytes of both
        self._came = self._left = 0  # how many ever came; of those, the oldest that are not held any more
        self._closed = False
        self._runs = False  # somebody called run() or consume()
        self._turn: asyncio.Task[Any] | None = None  # who hands on now: they, or a drain()
        self._work: asyncio.Task[None] | None = None  # ... and processes what is in hand
        self._entered: asyncio.Task[None] | None = None
        self._reported: set[str] = set()

    def add(self, data: bytes, *channel: str) -> Awaitable[None] | None:
        """Take a chunk, from any thread. While the handler is full, it returns what can be awaited until there is room.

        Raises:
            InvalidRequest: The handler is closed, or `data` is not bytes.
        """
        data, name = checked(data, channel)
        with self._shared:
            if self._closed:
                raise InvalidRequest(
                    f"{type(self).__name__} is closed, and {len(data)} bytes came too late: "
                    f"remove its subscription, or wait until it has served all output, before the handler is closed"
                )
            self._waiting.append(Held(self._came, data, name))
            self._came += 1
            self._size += len(data)
            if not self._is_full():
                return None
        return self._shared.until(lambda: self._closed or not self._is_full())

    def close(self) -> None:
        """Take nothing more. The background task ends when all that is held was handed on. From any thread."""
        with self._shared:
            self._closed = True

    async def drain(self) -> None:
        """Wait until all that was added before this call was handed on; where no task does that, do it here."""
        self._check()
        came = self._came
        while self._left < came:
            if not self._begin():
                await self._shared.until(lambda: self._left >= came or self._turn is None)
                continue
            try:
                while self._left < came:
                    await self._hand_on()
            except asyncio.CancelledError:
                if self._work is not None and self._work.cancel():
                    await asyncio.wait([self._work])
                raise
            finally:
                self._end()

    async def __aenter__(self) -> Any:
        self._check()
        self._entered = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        if self._entered is not None:
            await self._entered

    async def _run(self) -> None:
        """Hand on what comes, until closed. Cancelled, hand on what is held then, for a while; once more, end."""
        self._check()
        if self._runs:
            raise InvalidRequest(f"{type(self).__name__} has a task that hands on already; one is enough")
        self._runs = True
        try:
            while not self._begin():
                await self._shared.until(lambda: self._turn is None)
            while await self._next():
                await self._hand_on()
        except asyncio.CancelledError:
            try:
                async with asyncio.timeout(LAST_SECONDS):
                    await self.drain()
            except TimeoutError:
                pass  # the warning says so
            finally:
                if self._left < self._came:
                    size = human_bytes(self._size)
                    log.warning("%s was cancelled, and %s that wait were not handed on", type(self).__name__, size)
            raise
        finally:
            self._runs = False
            self._end()

    def _begin(self) -> bool:
        """Whether this task hands on now; another one may do so already."""
        with self._shared:
            self._turn = self._turn or asyncio.current_task()
        return self._turn is asyncio.current_task()

    def _end(self) -> None:
        """Let others hand on."""
        if self._turn is asyncio.current_task():
            with self._shared:
                self._turn = None
            self._ended()

    async def _hand_on(self) -> None:
        """Process what waits now. Cancelled, that goes on, and the next call waits for it."""
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._process_before(self._came))
        await asyncio.wait([self._work])

    async def _process_before(self, number: int) -> None:
        while self._left < number:
            with self._shared:
                held = self._in_hand = self._take()
            size = sum(len(one.data) for one in held)
            try:
                await result_of(self._process(held))
            except (Exception, asyncio.CancelledError) as error:
                self.failed_bytes += size
                self._failed(error, f"processing raised; its {human_bytes(size)} are not handed on again")
                if isinstance(error, asyncio.CancelledError):
                    return
            else:
                self.handed_on += len(held)
                self.handed_on_bytes += size
            finally:
                with self._shared:
                    self._in_hand = []
                    self._size -= size
                    self._left = self._waiting[0].number if self._waiting else self._came
            await asyncio.sleep(0)  # one that never waits must not stop the loop

    def _failed(self, error: BaseException, what: str) -> None:
        """Count an error, and tell it the first time it comes from its place."""
        self.errors += 1
        place = repr((type(error), traceback.extract_tb(error.__traceback__)[-1:]))
        if place not in self._reported:
            self._reported.add(place)
            log.error("%s: %s", type(self).__name__, what, exc_info=error)

    def _state(self) -> str:
        failed = f", {self.errors} errors ({human_bytes(self.failed_bytes)})" if self.errors else ""
        return f"{failed}, {'closed' if self._closed else 'handing on' if self._turn else 'nothing hands on'}"

    def _waits(self) -> tuple[bytes, ...]:
        with self._shared:
            return tuple(held.data for held in self._waiting)

    # -- what the two differ in

    def _check(self) -> None:
        """Raise InvalidRequest where there is nothing that would process."""

    def _is_full(self) -> bool:
        raise NotImplementedError

    async def _next(self) -> bool:
        """Wait until it is time to process something; False: nothing will come."""
        await self._shared.until(lambda: self._left < self._came or self._closed)
        return self._left < self._came

    def _take(self) -> list[Held]:
        """Take out what is to be processed next."""
        raise NotImplementedError

    def _process(self, held: list[Held]) -> Any:
        raise NotImplementedError

    def _ended(self) -> None:
        """Nothing is handed on any more."""


async def result_of(result: Any) -> None:
    """Await it, if it is for that: functions of users may be async."""
    if inspect.isawaitable(result):
        await result
