"""Handlers for what people do with output: hand it on in batches, hold back what is too fast, watch logs, keep it.

Each has a method that takes `(data)`, or `(data, channel)`, from any thread, on a loop or not. `stream.on_output` waits
for what that method returns, so a full handler holds its cursor back and the log keeps what is to come. A client that
ignores what it returns loses nothing either: then the handler grows.
"""

from __future__ import annotations

import asyncio
import codecs
import concurrent.futures
import inspect
import logging
import queue
import re
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import regex

from .agent.log import CHANNELS, Chunk
from .errors import InvalidRequest, PatternError, PatternTooSlow, TooMuch
from .lines import Line, LineAssembler
from .words import human_bytes

__all__ = ["BufferedHandler", "Collector", "CollectorFull", "FlowControlledHandler", "LogProcessor", "Rule"]

MAX_BYTES = 8 * 1024 * 1024  # that a BufferedHandler holds before it holds its stream back
COLLECTED_BYTES = 64 * 1024 * 1024  # that a Collector keeps; as much as `Stream.text` gives in one piece
DROP_NEWS = 5.0  # seconds between two warnings that chunks are dropped
LAST_SECONDS = 5.0  # that one batch or chunk may take once its handler was cancelled
LINE_SECONDS = 0.1  # of the processor, that a rule may take on one line
TOO_SLOW_LINES = 10  # that a rule may have before it is switched off, if they are more than 1% of its lines
RATE_SECONDS = 3600.0  # how far back `rates` can look
LINE_HEAD = 80  # characters of a line in a message
OVERFLOWS = ("wait", "drop_oldest", "drop_newest")
_LOOK = 0.1  # seconds after which a blocked thread looks whether somebody still makes room

log = logging.getLogger("cmdop_jupyter")


class Piece(NamedTuple):
    """What one call of `add` brought; the channel is '' where the client does not tell."""

    data: bytes
    channel: str


class _Lock:
    """One thread at a time, `with` it."""

    def __init__(self) -> None:
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._free.put(None)

    def __enter__(self) -> None:
        self._free.get()

    def __exit__(self, *_: object) -> None:
        self._free.put(None)


class _Shared(_Lock):
    """A lock on what threads and loops share. What they wait for is looked at whenever it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[tuple[Callable[[], bool], concurrent.futures.Future[None]]] = []

    def __exit__(self, *_: object) -> None:
        ripe = []
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for is_so, future in waiting:
                if is_so():
                    ripe.append(future)
                elif not future.cancelled():
                    self._waiting.append((is_so, future))
        self._free.put(None)
        for future in ripe:
            if future.set_running_or_notify_cancel():
                future.set_result(None)

    def when(self, is_so: Callable[[], bool]) -> concurrent.futures.Future[None]:
        """A future that is done once it is so."""
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        with self:
            self._waiting.append((is_so, future))
        return future

    async def until(self, is_so: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait until it is so, at most for so long; on any loop."""
        future = asyncio.wrap_future(self.when(is_so))
        try:
            await asyncio.wait([future], timeout=seconds)
        finally:
            future.cancel()


class _Room:
    """What a full handler's `add` returns: await it, on any loop, to wait for room; or leave it."""

    def __init__(self, wait: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._wait = wait

    def __await__(self) -> Generator[Any, Any, None]:
        return self._wait().__await__()


class _Queue:
    """What BufferedHandler and FlowControlledHandler have in common: pieces come in by `add`, a task hands them on.

    Attributes:
        handed_on, handed_on_bytes: Chunks that were processed, and their bytes.
        errors, failed_bytes: How often processing raised, and the bytes it was given then.
    """

    _closed = False

    def __init__(self) -> None:
        self.handed_on = self.handed_on_bytes = self.errors = self.failed_bytes = 0
        self._shared = _Shared()
        self._pieces: deque[Piece] = deque()
        self._bytes = 0  # in `_pieces`
        self._in_hand: list[Piece] = []  # taken, and being processed
        self._accepted = 0  # pieces that ever were in `_pieces`
        self._stop_at: int | None = None  # the task ends when so many have left it again
        self._loop: asyncio.AbstractEventLoop | None = None  # where pieces are handed on, while they are
        self._worker: asyncio.Task[None] | None = None  # ... and by whom
        self._runs = False  # ... and whether somebody called run() or consume(), rather than drain()
        self._entered: asyncio.Task[None] | None = None
        self._reported: set[tuple[object, ...]] = set()

    # -- in

    def add(self, data: bytes, *channel: str) -> Awaitable[None] | None:
        """Take a chunk, from any thread. While the handler is full, it returns what can be awaited until there is room.

        On a thread without a loop it blocks until there is room, as long as a loop of another thread hands on.

        Raises:
            InvalidRequest: The handler is closed, or `data` is not bytes.
        """
        piece = _piece(data, channel)
        with self._shared:
            if self._closed:
                raise InvalidRequest(
                    f"{type(self).__name__} is closed, and {len(piece.data)} bytes came too late: "
                    f"remove its subscription, or wait until it has served all output, before the handler is closed"
                )
            gone, full = self._accept(piece), self._is_full()
        if gone:
            self._gave_way(gone)
        return self._room() if full else None

    def close(self) -> None:
        """Take nothing more. The background task ends when all that is held was handed on. From any thread."""
        with self._shared:
            self._closed = True

    def _accept(self, piece: Piece) -> list[Piece]:
        """Put it in; return what had to give way."""
        self._pieces.append(piece)
        self._bytes += len(piece.data)
        self._accepted += 1
        return []

    def _room(self) -> Awaitable[None] | None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            room = self._shared.when(self._has_room)
            while (loop := self._loop) is not None and loop.is_running() and not room.done():
                concurrent.futures.wait([room], _LOOK)
            if not room.cancel():
                return None
        else:
            if self._worker is not None and asyncio.current_task() is self._worker:
                return None  # it would wait for itself
        return _Room(self._wait_for_room)

    async def _wait_for_room(self) -> None:
        if self._is_full():
            await self._shared.until(self._has_room)

    def _has_room(self) -> bool:
        return self._closed or not self._is_full()

    # -- out

    async def drain(self) -> None:
        """Wait until all that was added before this call was handed on; where no task does that, begin one for it."""
        self._check()
        accepted, done = self._accepted, False

        def is_done() -> bool:  # and stays so, whatever comes behind
            nonlocal done
            done = done or (self._has_left(accepted) and not self._in_hand)
            return done

        while not is_done():
            if self._claim(accepted):
                self._begin()
            await self._shared.until(lambda: is_done() or self._loop is None)

    async def __aenter__(self) -> Any:
        self._check()
        self._entered = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        if self._entered is not None:
            await self._entered

    async def _run(self) -> None:
        """Process what comes until closed. Cancelled, end when what is held then was processed; once more, at once."""
        self._check()
        if self._claim(None):
            worker = self._begin()
        elif not self._runs and self._worker is not None and self._loop is asyncio.get_running_loop():
            worker, self._stop_at = self._worker, None  # a drain began it; it goes on
        else:
            raise InvalidRequest(f"{type(self).__name__} has a task that hands on already; one is enough")
        self._runs = True
        try:
            await asyncio.shield(worker)
        except asyncio.CancelledError:
            self._stop_soon()
            try:
                await self._see_off(worker)
            except asyncio.CancelledError:
                await self._end_now()
            raise

    async def _see_off(self, worker: asyncio.Task[None]) -> None:
        """Wait for its end, as long as it gets on."""
        while not worker.done() or self._loop is not None:
            if worker.done():  # it was cancelled before it began
                worker = self._begin()
            processed = self.handed_on + self.errors
            await asyncio.wait([worker], timeout=LAST_SECONDS)
            if not worker.done() and self.handed_on + self.errors == processed:
                await self._end_now()
                return

    async def _end_now(self) -> None:
        self._stop_at = 0
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        if self._pieces:
            log.warning(
                "%s was cancelled, and %s that wait were not handed on", type(self).__name__, human_bytes(self._bytes)
            )

    def _claim(self, stop_at: int | None) -> bool:
        """Whether this loop shall process now, until so many pieces have left; another one may do so already."""
        with self._shared:
            if self._loop is not None and not self._loop.is_closed():
                return False
            self._loop, self._stop_at, self._runs = asyncio.get_running_loop(), stop_at, False
            return True

    def _begin(self) -> asyncio.Task[None]:
        """Begin to process, in a task of its own: who waits for it may be cancelled."""
        worker = asyncio.create_task(self._work())
        if not worker.done():  # some loops begin a task at once
            self._worker = worker
        return worker

    async def _work(self) -> None:
        self._worker = asyncio.current_task()
        try:
            while await self._next():
                await self._process_next()
        except asyncio.CancelledError:  # all tasks of its loop are, or somebody is impatient
            self._stop_soon()
            while self._runs and not self._is_over():
                await self._process_next()
            raise
        finally:
            with self._shared:
                self._worker = self._loop = None
            self._ended()

    async def _process_next(self) -> None:
        with self._shared:
            self._in_hand = self._take()
        pieces, size = len(self._in_hand), sum(len(piece.data) for piece in self._in_hand)
        task = asyncio.current_task()
        assert task is not None
        cancels = task.cancelling()
        try:
            result = self._process_pieces(self._in_hand)
            if inspect.isawaitable(result):
                await result
        except (Exception, asyncio.CancelledError) as error:
            self.failed_bytes += size
            self._failed(error, f"processing raised; its {human_bytes(size)} are not handed on again, and it goes on")
            if task.cancelling() > cancels:
                raise
        else:
            self.handed_on += pieces
            self.handed_on_bytes += size
        finally:
            with self._shared:
                self._in_hand = []
        await asyncio.sleep(0)  # one that never waits must not stop the loop

    def _stop_soon(self) -> None:
        with self._shared:
            if self._stop_at is None:
                self._stop_at = self._accepted

    def _has_left(self, count: int) -> bool:
        """Whether so many pieces, counted from the first, have left the queue."""
        return self._accepted - len(self._pieces) >= count

    def _is_over(self) -> bool:
        if self._stop_at is not None and self._has_left(self._stop_at):
            return True
        return self._closed and not self._pieces

    def _failed(self, error: BaseException, what: str) -> None:
        """Count an error, and tell it the first time it comes from its place."""
        self.errors += 1
        frames = traceback.extract_tb(error.__traceback__)
        place = (type(error), *(frames[-1][:2] if frames else [repr(error)]))
        if place not in self._reported:
            self._reported.add(place)
            log.error("%s: %s", type(self).__name__, what, exc_info=error)

    def _state(self) -> str:
        if self._closed:
            return "closed"
        return "nothing hands on" if self._loop is None else "handing on"

    # -- what the two differ in

    def _check(self) -> None:
        """Raise InvalidRequest where there is nothing that would process."""

    def _is_full(self) -> bool:
        raise NotImplementedError

    async def _next(self) -> bool:
        """Wait until there is something to process; False: it is over."""
        raise NotImplementedError

    def _take(self) -> list[Piece]:
        """Take out what is to be processed next."""
        raise NotImplementedError

    def _process_pieces(self, pieces: list[Piece]) -> Any:
        raise NotImplementedError

    def _gave_way(self, pieces: list[Piece]) -> None:
        """Tell what was dropped."""

    def _ended(self) -> None:
        """The task has ended."""


class BufferedHandler(_Queue):
    """Hand output on in batches: a few large ones a second instead of thousands of small ones.

        async with BufferedHandler(page.write, flush_interval=0.05) as handler:
            await stream.on_output(handler.add)  # until the session has ended
        print(handler)

    or `asyncio.create_task(handler.run())`. Without `process`, and not overridden, it prints the text. A batch whose
    processing raises is not handed on again, since part of it may have been used: it is counted (`errors`,
    `failed_bytes`), logged by "cmdop_jupyter" the first time it comes from a place, and the next batch follows.

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
            raise InvalidRequest(
                f"flush_interval is 0 seconds or more, got {flush_interval}; 0.1 is ten times a second"
            )
        if max_bytes < 1:
            raise InvalidRequest(f"max_bytes is 1 or more, got {max_bytes}; the default is {MAX_BYTES}")
        _check_callable("process", process)
        super().__init__()
        self.flush_interval, self.max_bytes = flush_interval, max_bytes
        self._process = process
        self._flushed = -flush_interval  # when the last batch was, by the loop's clock
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}
        self._batch: list[bytes] = []

    @property
    def buffer(self) -> tuple[bytes, ...]:
        """The chunks that wait, oldest first."""
        with self._shared:
            return tuple(piece.data for piece in self._pieces)

    @property
    def buffered(self) -> int:
        """Bytes that are held: those that wait, and those being processed."""
        with self._shared:
            return self._held()

    async def run(self) -> None:
        """Hand on what comes; returns after `close()`, when all was handed on.

        Cancelled, it lets the batch under way end and hands on what is held, as long as that gets on: not if it takes
        5 seconds. Cancelled again, it ends at once. What was not handed on stays, and is told by a warning.
        """
        await self._run()

    async def process_batch(self, batch: list[bytes]) -> None:
        """Process the chunks of one batch, oldest first; override it."""
        if self._process is None:
            self._print(batch)
            return
        result = self._process(b"".join(batch))
        if inspect.isawaitable(result):
            await result

    def __repr__(self) -> str:
        failed = f", {self.errors} errors ({human_bytes(self.failed_bytes)})" if self.errors else ""
        held, gone = human_bytes(self.buffered), human_bytes(self.handed_on_bytes)
        return f"<{type(self).__name__}: {held} held, {gone} handed on{failed}, {self._state()}>"

    def _is_full(self) -> bool:
        return self._held() >= self.max_bytes

    def _held(self) -> int:
        return self._bytes + sum(len(piece.data) for piece in self._in_hand)

    async def _next(self) -> bool:
        await self._shared.until(lambda: bool(self._pieces) or self._is_over())
        clock = asyncio.get_running_loop().time
        pause = self._flushed + self.flush_interval - clock()
        if pause > 0 and not self._is_over():
            await self._shared.until(lambda: self._is_full() or self._closed or self._stop_at is not None, pause)
        return not self._is_over()

    def _take(self) -> list[Piece]:
        pieces = list(self._pieces)
        self._pieces.clear()
        self._bytes = 0
        return pieces

    async def _process_pieces(self, pieces: list[Piece]) -> None:
        self._batch = [piece.data for piece in pieces]
        try:
            result: Any = self.process_batch(self._batch)  # which somebody may have overridden by a plain function
            if inspect.isawaitable(result):
                await result
        finally:
            self._batch = []
            self._flushed = asyncio.get_running_loop().time()

    def _print(self, batch: list[bytes]) -> None:
        channels = [piece.channel for piece in self._in_hand] if batch is self._batch else [""] * len(batch)
        _show("".join(_decoded(zip(batch, channels, strict=True), self._decoders)))

    def _ended(self) -> None:
        if self._closed:
            _show("".join(decoder.decode(b"", final=True) for decoder in self._decoders.values()))
            self._decoders.clear()


class FlowControlledHandler(_Queue):
    """Process output chunk by chunk, at the pace of the processing: what is too fast waits, or is dropped and counted.

        async with FlowControlledHandler(save) as handler:
            await stream.on_output(handler.add)  # until the session has ended
        print(handler)

    or a subclass with `async def process(self, data)` and `asyncio.create_task(handler.consume())`. A chunk whose
    processing raises is counted (`errors`, `failed_bytes`), logged by "cmdop_jupyter" the first time it comes from a
    place, and not processed again; the next one follows.

    Args:
        process: Called on the loop of `consume()` with each chunk; may be async.
        max_queue: Chunks that may wait. Those of a stream's log have up to 256 KiB.
        overflow: What happens to more: `wait` loses nothing, it holds the stream back (a client that ignores what
            `add` returns makes the queue grow); `drop_oldest` and `drop_newest` lose chunks, and say so by a warning.
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
        _check_callable("process", process)
        _check_callable("on_drop", on_drop)
        super().__init__()
        self.max_queue, self.overflow, self.on_drop = max_queue, overflow, on_drop
        self.dropped = self.dropped_bytes = 0
        self._process = process
        self._told = 0  # of `dropped`
        self._tell_at = 0.0

    @property
    def queue(self) -> tuple[bytes, ...]:
        """The chunks that wait, oldest first; `len()` of it is the depth."""
        with self._shared:
            return tuple(piece.data for piece in self._pieces)

    async def consume(self) -> None:
        """Process what comes; returns after `close()`, when all was processed.

        Cancelled, it lets the chunk under way end and processes what waits, as long as that gets on: no chunk may take
        5 seconds. Cancelled again, it ends at once. What was not processed stays, and is told by a warning.
        """
        await self._run()

    async def process(self, data: bytes) -> None:
        """Process one chunk; override it."""
        assert self._process is not None
        result = self._process(data)
        if inspect.isawaitable(result):
            await result

    def __repr__(self) -> str:
        failed = f", {self.errors} errors ({human_bytes(self.failed_bytes)})" if self.errors else ""
        drops = f", {self.dropped} dropped ({human_bytes(self.dropped_bytes)})" if self.dropped else ""
        depth = f"{len(self._pieces)} of {self.max_queue} chunks wait"
        return f"<{type(self).__name__}: {depth}, {self.handed_on} handed on{drops}{failed}, {self._state()}>"

    def _check(self) -> None:
        if self._process is None and getattr(self.process, "__func__", None) is FlowControlledHandler.process:
            raise InvalidRequest(
                "there is nothing to process with: FlowControlledHandler(process), or a subclass with "
                "`async def process(self, data)`"
            )

    def _is_full(self) -> bool:
        return self.overflow == "wait" and len(self._pieces) >= self.max_queue

    def _has_room(self) -> bool:
        return self._closed or len(self._pieces) <= self.max_queue // 2  # so that not each chunk wakes its stream

    def _accept(self, piece: Piece) -> list[Piece]:
        super()._accept(piece)
        if self.overflow == "wait" or len(self._pieces) <= self.max_queue:
            return []
        if self.overflow == "drop_oldest":
            gone = self._pieces.popleft()
        else:
            gone = self._pieces.pop()
            self._accepted -= 1
        self._bytes -= len(gone.data)
        self.dropped += 1
        self.dropped_bytes += len(gone.data)
        return [gone]

    def _gave_way(self, pieces: list[Piece]) -> None:
        self._tell_drops()
        if self.on_drop is not None:
            try:
                self.on_drop(len(pieces), sum(len(piece.data) for piece in pieces))
            except Exception as error:
                self._failed(error, "on_drop raised, and it goes on")

    def _tell_drops(self, *, last: bool = False) -> None:
        with self._shared:
            if self.dropped == self._told or (time.monotonic() < self._tell_at and not last):
                return
            self._told, self._tell_at = self.dropped, time.monotonic() + DROP_NEWS
        log.warning(
            '%s is too slow and has dropped %d chunks (%s) by now; overflow="wait" loses nothing',
            type(self).__name__,
            self.dropped,
            human_bytes(self.dropped_bytes),
        )

    async def _next(self) -> bool:
        if not self._pieces:
            await self._shared.until(lambda: bool(self._pieces) or self._is_over())
        return not self._is_over()

    def _take(self) -> list[Piece]:
        piece = self._pieces.popleft()
        self._bytes -= len(piece.data)
        return [piece]

    def _process_pieces(self, pieces: list[Piece]) -> Any:
        return self.process(pieces[0].data)

    def _ended(self) -> None:
        self._tell_drops(last=True)


Source = str | re.Pattern[str] | regex.Pattern[str]


@dataclass(frozen=True)
class Rule:
    """Lines to count, and perhaps to alert somebody about: `Rule("oom", r"Out of memory", alert=page_me, once=True)`.

    Args:
        name: What its count is called.
        pattern: A regular expression, searched in the line.
        alert: Called with the line's text; None: nobody is, but of rule `error` the processor's own `alert`.
        once: Alert on the first line only.
        cooldown: Seconds after an alert in which there is no other.

    Raises:
        PatternError: The pattern does not compile.
        InvalidRequest: All else that cannot be.
    """

    name: str
    pattern: Source
    alert: Callable[[str], Any] | None = None
    once: bool = False
    cooldown: float = 0.0

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise InvalidRequest(f"a rule has a name, under which it is counted; got {self.name!r}")
        if not self.cooldown >= 0:
            raise InvalidRequest(f"a cooldown is 0 seconds or more, got {self.cooldown} for rule {self.name!r}")
        _check_callable(f"the alert of rule {self.name!r}", self.alert)
        _compiled(self.pattern)


DEFAULT_RULES = {"error": r"ERROR|FATAL", "warning": r"WARN"}


@dataclass
class _Tally:
    """A rule at work."""

    rule: Rule
    matches: Callable[[str], object]
    count: int = 0
    held_back: int = 0
    asked: int = 0
    slow: int = 0
    alerted: float | None = None  # when
    recent: deque[tuple[float, int]] = field(default_factory=deque)  # when, and how many from then on; one a second

    @property
    def off(self) -> bool:
        return self.slow >= TOO_SLOW_LINES and self.slow * 100 > self.asked

    def saw(self, now: float) -> bool:
        """Count a line; whether there may be an alert."""
        self.count += 1
        if self.recent and now - self.recent[-1][0] < 1.0:
            self.recent[-1] = (self.recent[-1][0], self.recent[-1][1] + 1)
        else:
            self.recent.append((now, 1))
        while now - self.recent[0][0] > RATE_SECONDS:
            self.recent.popleft()
        if self.alerted is not None and (self.rule.once or now - self.alerted < self.rule.cooldown):
            return False
        self.alerted = now
        return True


class LogProcessor:
    """Count the lines of a log by rules, and alert somebody.

        processor = LogProcessor(alert=notify)
        stream.on_output(processor.process)
        processor.error_count, processor.rates()["warning"]

    A line is what a channel says up to its end, decoded, without ANSI sequences, however the bytes were cut; one above
    64 KiB comes in parts. The first rule that matches counts it. `stream.on_output(processor.process, thread=True)`
    keeps the search off your loop.

    Alerts are called where `process` is, with the line's text, in order. They may be async: on a loop they run in a
    task that `process` returns (a stream waits for it, a client that ignores it need not), without a loop `process`
    runs them to their end. One that raises stops no other: when all lines of a chunk were processed, the first error is
    raised, so that the stream reports it; others are logged.

    Args:
        rules: Patterns by name, or `Rule`s, in order; by default `error` (ERROR or FATAL) and `warning` (WARN).
        alert: Called with each line of rule `error`; or override `alert`.
        clock: Seconds, for rates and cooldowns.

    Raises:
        PatternError, InvalidRequest: A rule cannot be.
        PatternTooSlow: From `process`: a pattern took more than 0.1 s on a line, which then does not count for it. A
            rule with 10 such lines, if they are more than 1% of all it saw, is switched off, and that is logged.
    """

    def __init__(
        self,
        rules: Mapping[str, Source] | Iterable[Rule] | None = None,
        *,
        alert: Callable[[str], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check_callable("alert", alert)
        own = DEFAULT_RULES if rules is None else rules
        if isinstance(own, Mapping):
            own = [Rule(name, pattern) for name, pattern in own.items()]
        own = list(own)
        for rule in own:
            if not isinstance(rule, Rule):
                raise InvalidRequest(f"rules are patterns by name, or a list of Rule(name, pattern); got {rule!r}")
        twice = [name for name, count in Counter(rule.name for rule in own).items() if count > 1]
        if twice:
            raise InvalidRequest(f"two rules are called {twice[0]!r}; `a|b` is one rule for two patterns")
        if alert is not None and all(rule.name != "error" or rule.alert is not None for rule in own):
            raise InvalidRequest(
                "no rule would call this alert: it is for rule `error`; Rule(name, pattern, alert=…) is for others"
            )
        self._alert, self._clock = alert, clock
        self._tallies = [_Tally(rule, _compiled(rule.pattern)) for rule in own]
        self._lines = LineAssembler()
        self._offset = 0  # bytes that came so far
        self._lock = _Lock()
        self._alerting: set[asyncio.Task[None]] = set()  # a loop itself does not keep its tasks alive

    def process(self, data: bytes, *channel: str) -> Awaitable[None] | None:
        """Take output, and look at the lines it finishes."""
        piece = _piece(data, channel)
        with self._lock:
            lines = self._lines.feed(Chunk(self._offset, piece.channel or CHANNELS[0], 0, 0, piece.data))
            self._offset += len(piece.data)
            found = self._look_at(lines)
        return self._tell(*found)

    def finish(self) -> Awaitable[None] | None:
        """Look at the unfinished last line too: nothing follows. Raises and returns as `process` does."""
        with self._lock:
            found = self._look_at(self._lines.end())
        return self._tell(*found)

    def alert(self, line: str) -> Any:
        """Tell somebody of a line that matched rule `error`; override it. May be async."""
        return self._alert(line) if self._alert is not None else None

    @property
    def counts(self) -> dict[str, int]:
        """Lines by rule."""
        return {tally.rule.name: tally.count for tally in self._tallies}

    @property
    def held_back(self) -> dict[str, int]:
        """Lines by rule that nobody was alerted about, because of `once` or `cooldown`."""
        return {tally.rule.name: tally.held_back for tally in self._tallies}

    @property
    def error_count(self) -> int:
        return self.counts.get("error", 0)

    @property
    def warning_count(self) -> int:
        return self.counts.get("warning", 0)

    def rates(self, seconds: float = 60.0) -> dict[str, float]:
        """Lines a second, by rule, over the last `seconds`, of which there may be 3,600; exact to a second of them."""
        if not 0 < seconds <= RATE_SECONDS:
            raise InvalidRequest(f"rates look back more than 0 and up to {RATE_SECONDS:g} seconds, got {seconds}")
        with self._lock:
            since = self._clock() - seconds
            return {
                tally.rule.name: sum(count for when, count in tally.recent if when > since) / seconds
                for tally in self._tallies
            }

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}{' (off)' * tally.off}" for tally, (name, count) in self._counted())
        held_back = sum(self.held_back.values())
        held = f"; {held_back} alerts held back" if held_back else ""
        return f"<{type(self).__name__}: {human_bytes(self._offset)}, lines: {counts or 'no rules'}{held}>"

    def _counted(self) -> Iterator[tuple[_Tally, tuple[str, int]]]:
        return zip(self._tallies, self.counts.items(), strict=True)

    def _look_at(self, lines: list[Line]) -> tuple[list[tuple[Callable[[str], Any], str]], list[Exception]]:
        """Count lines; return what is to be called with which line, and what went wrong."""
        alerts: list[tuple[Callable[[str], Any], str]] = []
        errors: list[Exception] = []
        now = self._clock() if lines else 0.0
        for line in lines:
            for tally in self._tallies:
                if tally.off:
                    continue
                tally.asked += 1
                try:
                    found = tally.matches(line.text)
                except TimeoutError:
                    errors.append(self._too_slow(tally, line))
                    continue
                if found:
                    alert = tally.rule.alert or (self.alert if tally.rule.name == "error" else None)
                    if tally.saw(now) and alert is not None:
                        alerts.append((alert, line.text))
                    elif alert is not None:
                        tally.held_back += 1
                    break
        return alerts, errors

    def _too_slow(self, tally: _Tally, line: Line) -> PatternTooSlow:
        tally.slow += 1
        if tally.off:
            log.error("rule %r was too slow on %d lines and is off now", tally.rule.name, tally.slow)
        return PatternTooSlow(_source(tally.rule.pattern), LINE_SECONDS, line.text[:LINE_HEAD], line.start)

    def _tell(self, alerts: list[tuple[Callable[[str], Any], str]], errors: list[Exception]) -> Awaitable[None] | None:
        later: list[Awaitable[Any]] = []
        for alert, text in alerts:
            try:
                result = alert(text)
            except Exception as error:
                errors.append(error)
            else:
                if inspect.isawaitable(result):
                    later.append(result)
        if not later:
            _raise_first(errors)
            return None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(_finish(later, errors))
            return None
        task = loop.create_task(_finish(later, errors))
        self._alerting.add(task)
        task.add_done_callback(self._alerting.discard)
        return task


class Collector:
    """Keep all output, and give it as bytes or text.

        collector = Collector()
        stream.on_output(collector.add)
        collector.text, collector.channel("stderr"), len(collector)

    Above `max_bytes` it keeps the newest; then `data`, `text` and `channel` raise rather than give part for all, and
    `tail` has what is kept.

    Args:
        max_bytes: What it keeps at most.

    Attributes:
        dropped: Bytes that it does not have any more.
    """

    def __init__(self, *, max_bytes: int = COLLECTED_BYTES) -> None:
        if max_bytes < 1:
            raise InvalidRequest(f"max_bytes is 1 or more, got {max_bytes}; the default is {COLLECTED_BYTES}")
        self.max_bytes, self.dropped = max_bytes, 0
        self._pieces: deque[Piece] = deque()
        self._size = 0
        self._gone = 0  # bytes of the oldest piece that do not count any more
        self._lock = _Lock()

    def add(self, data: bytes, *channel: str) -> None:
        """Take a chunk, from any thread."""
        piece = _piece(data, channel)
        with self._lock:
            self._pieces.append(piece)
            self._size += len(piece.data)
            excess = self._size - self.max_bytes
            if excess > 0:
                self._size -= excess
                self._gone += excess
                self.dropped += excess
            while self._pieces and self._gone >= len(self._pieces[0].data):
                self._gone -= len(self._pieces.popleft().data)

    def __call__(self, data: bytes, *channel: str) -> None:
        """As `add`."""
        self.add(data, *channel)

    @property
    def data(self) -> bytes:
        """All bytes, of all channels, as they came. Raises CollectorFull when some were dropped."""
        return b"".join(piece.data for piece in self._all())

    @property
    def text(self) -> str:
        """All of it, decoded channel by channel; escape sequences stay. Raises CollectorFull as `data` does."""
        decoders: dict[str, codecs.IncrementalDecoder] = {}
        text = "".join(_decoded(self._all(), decoders))
        return text + "".join(decoder.decode(b"", final=True) for decoder in decoders.values())

    def channel(self, name: str) -> bytes:
        """All bytes of `stdout`, `stderr` or `tty`.

        Raises:
            InvalidRequest: There is no such channel, or the client did not tell which the bytes are of.
            CollectorFull: Some were dropped.
        """
        if name not in CHANNELS:
            raise InvalidRequest(f"a channel is {', '.join(CHANNELS)}, not {name!r}")
        pieces = self._all()
        if any(not piece.channel for piece in pieces):
            raise InvalidRequest("these bytes came without their channel: register `collector.add` itself for both")
        return b"".join(piece.data for piece in pieces if piece.channel == name)

    @property
    def tail(self) -> bytes:
        """The bytes that are kept: all, or the newest `max_bytes`."""
        with self._lock:
            return b"".join(piece.data for piece in self._pieces)[self._gone :]

    def clear(self) -> None:
        """Forget all, also that some were dropped."""
        with self._lock:
            self._pieces.clear()
            self._size = self._gone = self.dropped = 0

    def __len__(self) -> int:
        """Bytes that are kept."""
        return self._size

    def __repr__(self) -> str:
        dropped = f", the {human_bytes(self.dropped)} before were dropped" if self.dropped else ""
        return f"<{type(self).__name__}: {human_bytes(self._size)} of at most {human_bytes(self.max_bytes)}{dropped}>"

    def _all(self) -> list[Piece]:
        with self._lock:
            if self.dropped:
                raise CollectorFull(self._size + self.dropped, self.max_bytes)
            return list(self._pieces)


class CollectorFull(TooMuch):
    """A Collector was given more than it keeps, so it does not have all. `size` and `limit` are as for TooMuch."""

    def __str__(self) -> str:
        return (
            f"this collector was given {self.size} bytes and keeps the newest {self.limit} only: `tail` has those; a "
            f"larger max_bytes, or clear() now and then, keeps all, and a stream's log has it: `stream.read()`"
        )


def _piece(data: bytes, channel: tuple[str, ...]) -> Piece:
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InvalidRequest(
            f'this takes bytes, not {type(data).__name__}: leave `unit` at "chunk", or give it `text.encode()`'
        )
    if len(channel) > 1:
        raise InvalidRequest(f"a chunk comes with one channel, not with {channel}")
    return Piece(bytes(data), channel[0] if channel else "")


def _check_callable(what: str, value: object) -> None:
    if value is not None and not callable(value):
        raise InvalidRequest(f"{what} is a function, not {value!r}; all other settings are given by name")


def _decoded(pieces: Iterable[tuple[bytes, str]], decoders: dict[str, codecs.IncrementalDecoder]) -> Iterator[str]:
    """The text of each; a character that is cut in two comes with its second half, though others come between."""
    for data, channel in pieces:
        if channel not in decoders:
            decoders[channel] = codecs.getincrementaldecoder("utf-8")("replace")
        yield decoders[channel].decode(data)


def _show(text: str) -> None:
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def _raise_first(errors: list[Exception]) -> None:
    """Raise the first, log the others."""
    for error in errors[1:]:
        log.error("LogProcessor: %s: %s", type(error).__name__, error)
    if errors:
        raise errors[0]


async def _finish(works: list[Awaitable[Any]], errors: list[Exception]) -> None:
    for work in works:
        try:
            await work
        except Exception as error:
            errors.append(error)
    _raise_first(errors)


_NO_SYNTAX = regex.compile(r"[\w |:/,=@%!\"'<>;-]+")
_BRACE = regex.compile(r"\\N\{[^}]*\}|\\.|(\{)(?!\d*,?\d*\})", regex.DOTALL)


def _source(pattern: Source) -> str:
    return pattern if isinstance(pattern, str) else pattern.pattern


def _compiled(pattern: Source) -> Callable[[str], object]:
    """A function that tells whether a line matches; it raises TimeoutError when that takes too long."""
    if isinstance(pattern, str) and _NO_SYNTAX.fullmatch(pattern):
        words = pattern.split("|")
        return lambda text: any(word in text for word in words)
    if not isinstance(pattern, (str, re.Pattern, regex.Pattern)):
        raise PatternError(repr(pattern), "it is neither text nor compiled")
    if not isinstance(_source(pattern), str):
        raise PatternError(_source(pattern), "lines are text, and so is a rule's pattern")
    compiled = pattern if isinstance(pattern, regex.Pattern) else _by_regex(pattern)
    return lambda text: compiled.search(text, timeout=LINE_SECONDS, concurrent=True)


def _by_regex(pattern: str | re.Pattern[str]) -> regex.Pattern[str]:
    flags = 0
    for flag in "IMSXA":  # their numbers differ
        if isinstance(pattern, re.Pattern) and pattern.flags & getattr(re, flag):
            flags |= getattr(regex, flag)
    source = _source(pattern)
    # Where `re` sees a brace, `regex` sees a fuzzy match: `x{s}` would match everything.
    exact = _BRACE.sub(lambda found: r"\{" if found[1] else found[0], source)
    try:
        return regex.compile(exact, flags | regex.VERSION0)
    except regex.error as error:
        raise PatternError(source, getattr(error, "msg", str(error)), getattr(error, "pos", None)) from None
    except (OverflowError, RecursionError, ValueError) as error:
        raise PatternError(source, str(error)) from None
