"""The client's handle on one session: cursors over its log, input, control. Knows no notebook."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from .agent.log import Chunk
from .agent.tree import signal_number
from .errors import Detached, FailPatternSeen, InvalidRequest, LogDropped, StillRunning, TooMuch, WaitTimeout
from .lines import Line, LineAssembler
from .machines.base import Exit, Machine, SessionFacts, Status, StopReport
from .patterns import Searcher
from .reading import Gap, Lines, Start, offset_of
from .runtime import Pending, runtime
from .subscription import Handler, Place, Subscription, arity, piece_of, show_error
from .waiting import LAST_BYTES, Match, Pattern, Patterns, as_list, ended, last_words, search, words
from .words import human_bytes, human_seconds

__all__ = ["Gap", "Metrics", "Stream", "Streams", "TerminalStream", "streams"]

READ_SIZE = 256 * 1024  # bytes a cursor asks for at a time
TEXT_LIMIT = 64 * 1024 * 1024  # bytes that `text` gives in one piece
GRACE = 2.0  # seconds between INT, TERM and KILL
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of a stream at one moment.

    Attributes:
        bytes, lines: In the log.
        seconds: Since the session started, until it ended.
        lag: Bytes each handler is behind, in the order they were registered.
        handler_errors: How often handlers raised.
        dropped: Bytes of the log that were dropped at its limit.
    """

    bytes: int
    lines: int
    seconds: float
    lag: tuple[int, ...]
    handler_errors: int
    dropped: int


class Stream:
    """One session, as a client sees it. Several streams may look at one session; none of them owns it.

    What starts something (`send_input`, `stop` …) does so at the call and returns an awaitable, which may be
    ignored in a notebook cell. What reads (`read`, `text`, `tail` …) blocks for as long as the disk or the link needs.

    Args:
        machine: Where its session is.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._facts: SessionFacts | None = None
        self._origin = 0  # where cursors begin when nothing else is said
        self._known = Status("starting", -1, 0)
        self._writer, self._typed = uuid.uuid4().hex, 0
        self._typing = asyncio.Lock()
        self._subscriptions: list[Subscription] = []
        self._wanted: list[Callable[[], None]] = []  # handlers registered before there was a session
        self._error_handlers: list[Handler] = []
        self._errors_shown: set[str] = set()
        self._wait_from: int | None = None
        self._cell_starts: dict[Hashable, int] = {}
        self._cell_counts: dict[Hashable, int] = {}

    # -- life

    def attach(self, session_id: str, start: Start = "now") -> Pending[Stream]:
        """Attach to a session, by id or name; handlers begin at `start`: `"now"` (the default), `"begin"` or an offset.

        Raises:
            SessionNotFound: There is none.
            Detached: This stream is attached already.
        """
        return Pending(self._attach(session_id, start), f"attach {session_id}")

    async def _attach(self, session_id: str, start: Start) -> Stream:
        if self._facts is not None:
            raise Detached(f"this stream is attached to {self._facts.name} already; take another, or detach() it first")
        facts = await self._machine.find(session_id)
        status = await self._machine.status(facts.id)
        self.adopt(facts, offset_of(start, status.end), status)
        return self

    def adopt(self, facts: SessionFacts, origin: int, status: Status | None = None) -> None:
        """Take a session that is known to be there. Called on the I/O thread."""
        self._facts, self._origin = facts, origin
        if status is not None:
            self._known = status
        streams.add(self)
        for begin in self._wanted:
            begin()
        self._wanted.clear()

    def detach(self) -> None:
        """Let go of the session: no handler is called any more; it goes on, and `attach` works again."""
        for subscription in list(self._subscriptions):
            subscription.remove()
        self._facts = None

    def close(self) -> None:
        """End this object, as `detach`."""
        self.detach()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- facts

    @property
    def facts(self) -> SessionFacts:
        """What is known of the session from its start on. Raises Detached."""
        if self._facts is None:
            raise Detached("this stream is not attached to a session; `await stream.attach(session_id)` does it")
        return self._facts

    @property
    def session_id(self) -> str:
        return self.facts.id

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def machine(self) -> str:
        """The name of the machine it is on."""
        return self._machine.name

    @property
    def link(self) -> str:
        """`connecting`, `up`, `retrying` or `down`."""
        return self._machine.link

    @property
    def status(self) -> Status:
        """The session now; on the I/O thread, or while the link is slow, the newest that is known."""
        if self._facts is not None and not runtime().here():
            try:
                runtime().wait(self.refresh(), timeout=1.0)
            except TimeoutError:
                return self._known
        return self._known

    async def refresh(self) -> Status:
        """Ask the machine for the status. On the I/O thread."""
        self._known = await self._machine.status(self.session_id)
        return self._known

    @property
    def state(self) -> str:
        """`starting`, `running`, `held`, `exited`, `ended` or `lost`."""
        return self.status.state

    @property
    def exit(self) -> Exit | None:
        """How the command ended; None while it runs."""
        return self.status.exit

    @property
    def metrics(self) -> Metrics:
        """Figures at this moment."""
        status = self.status
        return Metrics(
            bytes=status.end,
            lines=status.newlines,
            seconds=self.seconds(status),
            lag=tuple(max(0, status.end - subscription.offset) for subscription in self._subscriptions),
            handler_errors=sum(subscription.errors for subscription in self._subscriptions),
            dropped=status.dropped[1] - status.dropped[0],
        )

    def seconds(self, status: Status) -> float:
        """How long the command has run, or ran, by its machine's clock."""
        if status.exited_ms:
            return status.exited_ms / 1000
        if status.clock_ms:
            return status.clock_ms / 1000
        until = status.ended_ns or status.wall_ns or time.time_ns()
        return max(0.0, (until - self.facts.created_ns) / 1e9)

    def __repr__(self) -> str:
        if self._facts is None:
            return "<Stream, not attached>"
        status = self.status
        text = f"<Stream {self.name} on {'this machine' if self.machine == 'local' else self.machine}: {status.state}"
        text += f" {human_seconds(self.seconds(status))}, {human_bytes(status.end)}"
        if status.exit is not None:
            text += f", {status.exit}"
        elif status.clock_ms and status.end:
            text += f", last output {human_seconds((status.clock_ms - status.output_ms) / 1000)} ago"
        return text + ">"

    def __await__(self) -> Generator[Any, Any, Exit | None]:
        """Wait until the command has exited; gives the `Exit` (None when the session was lost)."""
        return self.wait_exit().__await__()

    def wait_exit(self, timeout: float | None = None) -> Pending[Exit | None]:
        """As `await stream`, with a time limit; `.result()` blocks. Raises StillRunning."""
        return Pending(self._watched(self._exit_in(timeout), "its exit"), f"exit of {self.name}", tied=True)

    async def _exit_in(self, timeout: float | None) -> Exit | None:
        try:
            async with asyncio.timeout(timeout):
                return await self._exit()
        except TimeoutError:
            raise StillRunning(self.name, timeout or 0.0) from None

    async def _exit(self) -> Exit | None:
        status = await self.refresh()
        while not status.over:
            status = self._known = await self._machine.status(self.session_id, status.seq)
        return status.exit

    def _watched(self, work: Coroutine[Any, Any, T], what: str) -> Coroutine[Any, Any, T]:
        """Let the front end show that somebody waits, and have its say before the answer is given out."""
        watch = _begin_watch(self, what) if _begin_watch is not None and not runtime().here() else None

        async def watched() -> T:
            outcome: object = None
            try:
                outcome = result = await work
                return result
            except BaseException as error:
                outcome = error
                raise
            finally:
                if watch is not None:
                    await watch.done(outcome)

        return watched()

    # -- cursors

    def chunks(self, start: Start = None, *, follow: bool = True) -> AsyncIterator[Chunk]:
        """The log from `start` on (`"begin"`, `"now"`, an offset; by default where this stream began), as it grows.

        Ends when the session has ended; without `follow`, with what is there. A `Gap` stands for dropped bytes.
        """
        return self._on_caller(self._batches(self._start_of(start), follow))

    async def _on_caller(self, batches: AsyncIterator[list[Chunk]]) -> AsyncIterator[Chunk]:
        """Walk `batches` on the I/O thread for a caller on any loop."""
        while True:
            step = anext(batches, None)
            batch = await (step if runtime().here() else Pending(_finish(step), "chunks", tied=True))
            if batch is None:
                return
            for chunk in batch:
                yield chunk

    async def _batches(self, start: Callable[[], Any], follow: bool) -> AsyncIterator[list[Chunk]]:
        """The one primitive: what the log holds from `start` on, a list at a time. On the I/O thread."""
        offset = await start()
        session_id = self.session_id
        read = self._machine.read if follow else self._machine.read_nowait
        while True:
            try:
                batch = await read(session_id, offset, READ_SIZE)
            except LogDropped as gap:
                batch = [Gap(offset, gap.first)]
            if not batch:
                return
            offset = batch[-1].end
            yield batch

    def _start_of(self, start: Start) -> Callable[[], Any]:
        """Pin where a cursor begins, as of this call."""
        if start == "now":
            pinned = runtime().submit(self.refresh())

            async def end() -> int:
                return (await asyncio.wrap_future(pinned)).end

            return end
        offset = self._origin if start is None else offset_of(start, 0)

        async def known() -> int:
            return offset

        return known

    def _read_chunks(self, start: int, end: int) -> Iterator[Chunk]:
        """What is in the log between two offsets. Blocks."""
        while start < end:
            try:
                batch = runtime().wait(self._machine.read_nowait(self.session_id, start, min(end - start, 1024 * 1024)))
            except LogDropped as gap:
                batch = [Gap(start, min(gap.first, end))]
            if not batch:
                return
            yield from batch
            start = batch[-1].end

    def read(self, start: int = 0, max_bytes: int | None = None) -> bytes:
        """The bytes of the log from `start` on, all channels as they were read; what was dropped is left out."""
        end = self.status.end
        if max_bytes is not None:
            end = min(end, start + max_bytes)
        return b"".join(chunk.data for chunk in self._read_chunks(start, end))

    def text(self) -> str:
        """All output as text: decoded, without escape sequences.

        Raises:
            TooMuch: The log is above 64 MiB.
        """
        size = self.status.end
        if size > TEXT_LIMIT:
            raise TooMuch(size, TEXT_LIMIT)
        return "".join(line.text + "\n" for line in self.lines())

    def lines(self, start: Start = "begin", *, channel: str | None = None) -> Lines:
        """The lines of the log: plain iteration gives what is there, `async for` follows until the session ends."""
        return Lines(self, start, channel, None)

    def grep(self, pattern: Pattern, *, channel: str | None = None) -> Lines:
        """The lines that match a regular expression; as `lines()`. Searches the full log at hundreds of MB/s."""
        return Lines(self, "begin", channel, pattern)

    def tail(self, n: int = 10) -> list[Line]:
        """The newest `n` lines, oldest first; the last may be unfinished."""
        size = 64 * 1024
        while True:
            tail = runtime().wait(self._machine.tail(self.session_id, size))
            assembler = LineAssembler()
            lines = [line for chunk in tail.chunks for line in assembler.feed(chunk)] + assembler.end()
            begin = tail.chunks[0].offset if tail.chunks else 0
            if len(lines) > n or begin == 0 or size > TEXT_LIMIT:
                return sorted(lines, key=lambda line: line.start)[-n:] if n > 0 else []
            size *= 4

    # -- handlers

    def on_output(self, handler: Handler, *, start: Start = None, thread: bool = False) -> Subscription:
        """Call `handler(data)` or `handler(data, channel)` with every chunk from `start` on, in order, once.

        It runs on the loop it was registered from; without a running loop, or with `thread`, on a worker of its own. A
        slow one delays nobody: it has its own cursor. One that raises is reported and counted; the stream goes on.

        Raises:
            InvalidRequest: It cannot be called so.
        """
        if inspect_async(handler):
            raise InvalidRequest("this handler is `async`: register it by on_output_async")
        return self._on_output(handler, start, thread, is_async=False)

    def on_output_async(self, handler: Handler, *, start: Start = None, thread: bool = False) -> Subscription:
        """As `on_output`, for a coroutine function; the next chunk comes when it has returned."""
        return self._on_output(handler, start, thread, is_async=True)

    def _on_output(self, handler: Handler, start: Start, thread: bool, *, is_async: bool) -> Subscription:
        count = arity(handler)

        async def events() -> AsyncIterator[tuple[tuple[Any, ...], int]]:
            async for batch in self._batches(first(), True):
                for chunk in batch:
                    if isinstance(chunk, Gap):
                        self._report_error(LogDropped(chunk.offset, chunk.end))
                    else:
                        yield piece_of(chunk, count), chunk.end

        pinned = self._start_of(start) if self._facts is not None or start == "begin" else None

        def first() -> Callable[[], Any]:
            return pinned or self._start_of(start)

        return self._subscribe(handler, Place(thread=thread), events, is_async=is_async)

    def on_exit(self, handler: Handler, *, thread: bool = False) -> Subscription:
        """Call `handler(exit)` once when the command has exited: an `Exit`, or None when the session was lost."""
        arity(handler, most=1)

        async def events() -> AsyncIterator[tuple[tuple[Any, ...], int]]:
            yield (await self._exit(),), self._known.end

        return self._subscribe(handler, Place(thread=thread), events, is_async=inspect_async(handler))

    def on_error(self, handler: Handler) -> None:
        """Call `handler(error)` when a handler raised or a cursor met a gap, on the thread where that is noticed."""
        arity(handler, most=1)
        self._error_handlers.append(handler)

    def _subscribe(
        self, handler: Handler, place: Place, events: Callable[[], AsyncIterator[Any]], *, is_async: bool
    ) -> Subscription:
        subscription = Subscription(handler, place, self._report_error, is_async=is_async)
        self._subscriptions.append(subscription)

        def done(which: Subscription) -> None:
            if which in self._subscriptions:
                self._subscriptions.remove(which)

        def begin() -> None:
            runtime().call_later(lambda: subscription.start(events(), done))

        if self._facts is not None:
            begin()
        else:
            self._wanted.append(begin)
        return subscription

    def _report_error(self, error: BaseException) -> None:
        for handler in self._error_handlers:
            try:
                handler(error)
            except Exception as second:
                show_error("an error handler", second)
        text = repr(error)
        if not self._error_handlers and text not in self._errors_shown:
            self._errors_shown.add(text)  # the same error on every chunk is told once, and counted
            show_error(f"a handler of {self.name}", error)

    # -- input and control

    def send_input(self, data: bytes | str) -> Pending[None]:
        """Type `data`, exactly: no newline is added. Calls keep their order. Done when its machine has all of it.

        Raises:
            SessionOver: The command is gone, or takes no input.
            InputTooLong: A line is longer than a terminal takes.
        """
        if not isinstance(data, (bytes, bytearray, memoryview, str)):
            raise InvalidRequest(f"input is bytes or str, not {type(data).__name__}")
        return self._pending(self._send(data.encode() if isinstance(data, str) else bytes(data), False), "send_input")

    def send_eof(self) -> Pending[None]:
        """End the input: ^D on a terminal, closed for a pipe."""
        return self._pending(self._send(b"", True), "send_eof")

    async def _send(self, data: bytes, eof: bool) -> None:
        async with self._typing:
            begin = self._typed
            end = begin + len(data)
            at = begin
            while True:
                piece = data[at - begin : at - begin + 32 * 1024]
                last = at + len(piece) == end
                at = await self._machine.write(self.session_id, self._writer, at, piece, eof=eof and last)
                self._typed = at
                if at >= end:
                    return

    def send_resize(self, cols: int, rows: int) -> Pending[None]:
        """Set the size of its terminals, in characters."""
        return self._pending(self._machine.resize(self.session_id, cols, rows), "send_resize")

    def send_signal(self, signal: str | int) -> Pending[None]:
        """Send a signal (`"INT"`, `"SIGUSR1"`, 15) to its terminal's foreground group, else to the command's."""
        try:
            signal_number(signal)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        return self._pending(self._machine.signal(self.session_id, str(signal)), "send_signal")

    def stop(self, grace: float = GRACE) -> Pending[StopReport]:
        """End the command and all it started: INT, TERM, KILL, `grace` seconds apart. Gives what it took.

        Works on a session whose command has exited and left something running, and on a lost one.
        """
        if grace < 0:
            raise InvalidRequest(f"grace must not be negative, got {grace}")
        call = uuid.uuid4().hex
        return self._pending(self._machine.stop(self.session_id, call, grace), f"stop {self.name}")

    def limit(self, max_log: int, policy: str | None = None) -> Pending[None]:
        """Change the log's size limit (bytes) and what happens there: `drop-oldest` or `hold`."""
        return self._pending(self._machine.limit(self.session_id, max_log, policy), "limit")

    def _pending(self, coroutine: Any, what: str, *, tied: bool = False) -> Pending[Any]:
        return Pending(coroutine, what, tied=tied)

    # -- waiting

    def wait_for(
        self,
        pattern: Patterns,
        *,
        fail: Patterns | None = None,
        timeout: float | None = None,
        start: Start = None,
        channel: str | None = None,
        settle: float = 0.25,
    ) -> Pending[Match]:
        """Wait until a line matches `pattern`; see `cmdop_jupyter.wait_for`."""
        patterns, fails = as_list(pattern, "pattern"), as_list(fail, "fail")
        if not patterns and not fails:
            raise InvalidRequest("there is no pattern to wait for")
        searcher = Searcher(patterns, fails, channel=channel, settle=settle)
        if timeout is not None and timeout < 0:
            raise InvalidRequest(f"timeout must not be negative, got {timeout}")
        session_id = self.session_id
        first = self._wait_start(start)
        what = f"/{words(patterns or fails)}/"
        work = self._wait_for(session_id, searcher, patterns, fails, first, timeout)
        return Pending(self._watched(work, what), f"wait_for {what} in {self.name}", tied=True)

    async def _wait_for(
        self,
        session_id: str,
        searcher: Searcher,
        patterns: list[Pattern],
        fails: list[Pattern],
        first: Callable[[], Any],
        timeout: float | None,
    ) -> Match:
        said = words(patterns or fails)
        try:
            async with asyncio.timeout(timeout):
                offset = await first()
                hit = await search(self._machine, session_id, searcher, offset)
        except TimeoutError as error:
            if not isinstance(error.__cause__, asyncio.CancelledError):
                raise  # a pattern that is too slow is one of ours
            tail = await self._machine.tail(session_id, LAST_BYTES)
            newest = last_words(tail.chunks)
            last = newest[-1].text[:300] if newest else None
            raise WaitTimeout(said, timeout or 0.0, self.name, last) from None
        if hit is None:
            raise await ended(self._machine, session_id, self.name, said)
        pattern = (fails if hit.failed else patterns)[hit.index]
        match = Match(hit, pattern, self, offset)
        if hit.failed:
            raise FailPatternSeen(words([pattern]), self.name, match.line, match)
        self._wait_from = match.end
        return match

    def _wait_start(self, start: Start) -> Callable[[], Any]:
        """Where a wait begins, taken at the call: behind the last match, or where this cell began before."""
        if start is not None:
            return self._start_of(start)
        offset = self._origin if self._wait_from is None else self._wait_from
        run = current_cell()
        if run is not None:
            cell, execution = run
            count = self._cell_counts.get(execution, 0)
            self._cell_counts = {execution: count + 1}
            offset = self._cell_starts.setdefault((cell, count), offset)
        return self._start_of(offset)


TerminalStream = Stream


class Streams(Mapping[str, Stream]):
    """The streams of this process by name; `latest` is the one that came last."""

    def __init__(self) -> None:
        self._by_name: dict[str, Stream] = {}

    @property
    def latest(self) -> Stream | None:
        return next(reversed(self._by_name.values()), None)

    def add(self, stream: Stream) -> None:
        """Put a stream in, as the latest."""
        self._by_name.pop(stream.name, None)
        self._by_name[stream.name] = stream

    def __getitem__(self, name: str) -> Stream:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self._by_name.values())) or "no streams yet; `%%cmdop` starts one"


streams = Streams()


def no_cell() -> tuple[Hashable, Hashable] | None:
    """Outside a notebook there are no cells."""
    return None


current_cell: Callable[[], tuple[Hashable, Hashable] | None] = no_cell  # (cell, execution); the notebook puts its own


def set_current_cell(function: Callable[[], tuple[Hashable, Hashable] | None]) -> None:
    """Tell how to know which cell is running: the notebook's part of "the same cell run again"."""
    global current_cell
    current_cell = function


class WaitWatch(Protocol):
    """What a front end does about one wait."""

    async def done(self, outcome: object) -> None:
        """The wait is over, with a result or an exception; called on the I/O thread before it is given out."""
        ...


_begin_watch: Callable[[Stream, str], WaitWatch] | None = None


def set_wait_hook(function: Callable[[Stream, str], WaitWatch] | None) -> None:
    """Call `function(stream, what)` whenever somebody begins to wait: the notebook's part of showing it."""
    global _begin_watch
    _begin_watch = function


def inspect_async(handler: Handler) -> bool:
    """Whether calling it gives something to await."""
    return asyncio.iscoroutinefunction(handler) or asyncio.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


async def _finish(step: Any) -> Any:
    return await step
