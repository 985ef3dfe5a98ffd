"""One wait on one session's log: reads from an offset on until a pattern decides. Knows machines, not streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from . import watching
from .agent.log import MERGE_MS, Chunk
from .errors import CmdopError, InvalidRequest, LogDropped, PatternTooSlow, SessionEnded, StillRunning, WaitTimeout
from .lines import Line, LineAssembler
from .machines.base import Exit, Machine, SessionFacts, Status
from .patterns import Hit, Searcher

if TYPE_CHECKING:
    from .stream import Stream
    from .subscription import Position

READ_SIZE = 1024 * 1024  # bytes a wait asks for at a time
LAST_WORDS_MS = 500  # how long after an exit that was not 0 the last words may still come
LAST_LINES = 5
LAST_BYTES = 16 * 1024  # of the log that are searched for them
LINE_SHOWN = 300  # characters of a line in a message

Pattern = str | bytes | re.Pattern[str] | re.Pattern[bytes]
Patterns = Pattern | Sequence[Pattern]
T = TypeVar("T")
log = logging.getLogger("cmdop_jupyter")


class Match:
    """Where a pattern was seen, and what it caught: as `re.Match`, plus its place in the log.

    Attributes:
        line: The line it was seen on: decoded, without escape sequences. For a bytes pattern, that of its last byte.
        pattern: The pattern that matched, as it was given; `index`: its place in the list.
        start, end: Byte offsets in the log.
        time: When its last byte was read: seconds since the epoch, by the machine's clock.
        channel: `stdout`, `stderr` or `tty`.
        cut: The line was longer than 64 KiB and is not whole.
        stream: Where it was seen.
    """

    def __init__(self, hit: Hit, pattern: Pattern, stream: Stream, before: Callable[[], str]) -> None:
        self._match: Any = hit.match
        self._before = before
        self.pattern, self.stream = pattern, stream
        self.line, self.channel, self.cut = hit.line, hit.channel, hit.cut
        self.index, self.start, self.end = hit.index, hit.start, hit.end
        self.time = hit.wall_ns / 1e9

    @property
    def before(self) -> str:
        """What its channel said between the start of the wait and the match: of it the last 64 KiB, as text."""
        return self._before()

    def group(self, *groups: int | str) -> Any:
        return self._match.group(*groups)

    def groups(self, default: Any = None) -> tuple[Any, ...]:
        return tuple(self._match.groups(default))

    def groupdict(self, default: Any = None) -> dict[str, Any]:
        return dict(self._match.groupdict(default))

    def __getitem__(self, group: int | str) -> Any:
        return self._match[group]

    def __repr__(self) -> str:
        return f"<Match {self.group()!r} in {self.line[:80]!r}, {self.channel} at byte {self.start}>"


class Wait:
    """What is looked for, on one session, and for how long.

    Args:
        pattern, fail, channel, settle: As for `cmdop_jupyter.wait_for`; `pattern` may be empty when `fail` is not.
        timeout: Seconds until `WaitTimeout`. What is in the log when the wait begins is looked at in any case.
        exit_ends: Any exit ends the wait half a second later, not only one that was not 0.

    Raises:
        PatternError: A pattern does not compile.
        InvalidRequest: Something else makes no sense.
    """

    def __init__(
        self,
        pattern: Patterns,
        *,
        fail: Patterns | None = None,
        timeout: float | None = None,
        channel: str | None = None,
        settle: float = 0.25,
        exit_ends: bool = False,
    ) -> None:
        self.patterns, self.fails = as_list(pattern, "pattern"), as_list(fail, "fail")
        if not self.patterns and not self.fails:
            raise InvalidRequest("there is no pattern to wait for")
        if timeout is not None and not (isinstance(timeout, (int, float)) and timeout >= 0):
            raise InvalidRequest(f"timeout is a number of seconds, 0 or more, not {timeout!r}")
        try:
            self._searcher = Searcher(self.patterns, self.fails, channel=channel, settle=settle)
        except CmdopError:
            raise
        except (TypeError, ValueError) as error:
            raise InvalidRequest(str(error)) from None
        self.words = words(self.patterns or self.fails)
        self._timeout, self._exit_ends = timeout, exit_ends

    async def run(
        self,
        machine: Machine,
        session: SessionFacts,
        start: Callable[[], Awaitable[int]],
        position: Position | None = None,
    ) -> tuple[Hit, Pattern, int]:
        """Wait; return the match, its pattern, and where the wait began. Once only. `position` is moved as it reads.

        Raises:
            WaitTimeout, SessionEnded, PatternTooSlow: There is none.
        """
        offset = 0
        loop = asyncio.get_running_loop()
        deadline = None if self._timeout is None else loop.time() + self._timeout
        try:
            async with asyncio.timeout(None) as limit:
                if machine.link.state != "up":  # no history can be read
                    limit.reschedule(deadline)
                offset = await start()
                reading = _Reading(machine, session.id, self._searcher, offset, self._exit_ends, position)
                reading.when_history_is_read = lambda: limit.reschedule(deadline)
                try:
                    hit = await reading.run()
                finally:
                    reading.close()
        except PatternTooSlow:
            raise
        except TimeoutError:
            newest = [line for line in await _newest(machine, session.id) if line.end > offset]
            last = newest[-1].text[:LINE_SHOWN] if newest else None
            raise WaitTimeout(self.words, self._timeout or 0.0, session.name, last, offset) from None
        if hit is None:
            raise await ended(machine, session, self.words)
        return hit, (self.fails if hit.failed else self.patterns)[hit.index], offset


class WaitPlaces:
    """Where the waits of one stream begin: behind the last match in the log, or where the same cell began before.

    Args:
        origin: Where the first one begins.
    """

    def __init__(self, origin: int) -> None:
        self._next = origin
        self._of_cells: dict[Hashable, int] = {}
        self._runs: dict[Hashable, int] = {}  # run of a cell -> waits it has begun

    def begin(self) -> int:
        """Where a wait begins that is asked for now."""
        run = watching.current_cell()
        if run is None:
            return self._next
        cell, execution = run
        number = self._runs.get(execution, 0)
        self._runs[execution] = number + 1
        return self._of_cells.setdefault((cell, number), self._next)

    def matched(self, end: int) -> None:
        """A wait has found a match that ends there."""
        self._next = max(self._next, end)


def as_list(patterns: Patterns | None, what: str) -> list[Pattern]:
    """One pattern or a list of them, as a list. Raises InvalidRequest for anything else."""
    if patterns is None:
        return []
    several: list[Any] = list(patterns) if isinstance(patterns, (list, tuple)) else [patterns]
    for pattern in several:
        if not isinstance(pattern, (str, bytes)) and not hasattr(pattern, "pattern"):
            raise InvalidRequest(
                f"{what} must be a regular expression (str, bytes, compiled) or a list, not {pattern!r}"
            )
    return several


def words(patterns: Sequence[Pattern]) -> str:
    """Patterns as people read them in a message."""
    sources = [pattern if isinstance(pattern, (str, bytes)) else pattern.pattern for pattern in patterns]
    return "/ or /".join(source if isinstance(source, str) else repr(source)[2:-1] for source in sources)


def last_words(chunks: Sequence[Chunk]) -> list[Line]:
    """The newest lines of a tail, the unfinished one included, oldest first."""
    assembler = LineAssembler()
    lines = [line for chunk in chunks for line in assembler.feed(chunk)]
    lines += assembler.end()
    return [line for line in sorted(lines, key=lambda line: line.start) if line.text.strip()][-LAST_LINES:]


class _Reading:
    """Reads the log from `start` on until the searcher decides.

    The answer depends on the log alone: its bytes, the times recorded in it, and how the command ended.
    """

    def __init__(
        self,
        machine: Machine,
        session_id: str,
        searcher: Searcher,
        start: int,
        exit_ends: bool,
        position: Position | None,
    ) -> None:
        self._machine, self._id, self._searcher, self._exit_ends = machine, session_id, searcher, exit_ends
        self._offset, self._position = start, position
        self._hit: Hit | None = None
        self._read: asyncio.Task[list[Chunk]] | None = None
        self._change: asyncio.Task[Status] | None = None
        self.when_history_is_read: Callable[[], object] | None = None

    async def run(self) -> Hit | None:
        """The match; None when the session ended, or failed, before there was one."""
        status = await self._machine.status(self._id)
        history = status.end
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while True:
            if self._offset >= history and self.when_history_is_read is not None:
                self.when_history_is_read()
                self.when_history_is_read = None
            cutoff = self._cutoff(status)
            if self._read is None:
                self._read = asyncio.create_task(self._machine.read(self._id, self._offset, READ_SIZE))
            if self._change is None and status.live:
                self._change = asyncio.create_task(self._machine.status(self._id, status.seq))
            patience = self._patience(status, cutoff, (loop.time() - heard) * 1000)
            tasks = {task for task in (self._read, self._change) if task is not None}
            done, _ = await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if self._change in done or not done:
                # Only what the machine itself says after a look at its clock and its log is sure to be final.
                status, heard = await self._machine.status(self._id), loop.time()
                if self._change is not None and self._change.done():
                    self._change.result()
                    self._change = None
                cutoff = self._cutoff(status)
                if status.live and status.end <= self._offset and await self._pass(status.clock_ms, cutoff):
                    return self._hit
            if self._read in done and await self._take(self._read, cutoff):
                return self._hit

    def _cutoff(self, status: Status) -> int | None:
        """The session's clock at which the command has had its last word; None where that is not known."""
        if status.exit is None or (status.exit.ok and not self._exit_ends):
            return None
        return status.exited_ms + LAST_WORDS_MS

    def _patience(self, status: Status, cutoff: int | None, ago_ms: float) -> float | None:
        """Seconds until time alone may decide."""
        times = [self._searcher.settles_at, None if cutoff is None else cutoff + MERGE_MS]
        due = min((ms for ms in times if ms is not None), default=None)
        return None if due is None or not status.live else max(0.0, (due - status.clock_ms - ago_ms) / 1000)

    async def _pass(self, clock_ms: int, cutoff: int | None) -> bool:
        """All up to `clock_ms` was read; return whether that decides."""
        self._hit = await self._think(self._searcher.quiet, clock_ms if cutoff is None else min(clock_ms, cutoff))
        # A byte that comes a little later may still share a record, and so a time, with one before the cutoff.
        if self._hit is None and cutoff is not None and clock_ms >= cutoff + MERGE_MS:
            self._hit = await self._think(self._searcher.end)
            return True
        return self._hit is not None

    async def _take(self, read: asyncio.Task[list[Chunk]], cutoff: int | None) -> bool:
        """Feed what was read; return whether that decides, one way or the other."""
        self._read = None
        try:
            chunks = read.result()
        except LogDropped as gap:
            if gap.first <= self._offset:
                raise
            self._hit = await self._think(self._searcher.gap, self._offset, gap.first)
            self._offset = gap.first
            return self._hit is not None
        over = not chunks or (cutoff is not None and chunks[-1].mono_ms > cutoff)
        if chunks:
            self._offset = chunks[-1].end
            in_time = [chunk for chunk in chunks if cutoff is None or chunk.mono_ms <= cutoff]
            self._hit = await self._think(self._searcher.feed, in_time)
            if self._position is not None:
                self._position.offset = self._offset
                self._position.pieces += len(chunks)
        if self._hit is None and over and cutoff is not None:
            self._hit = await self._think(self._searcher.quiet, cutoff)
        if self._hit is None and over:
            self._hit = await self._think(self._searcher.end)
        return over or self._hit is not None

    async def _think(self, work: Callable[..., Hit | None], *args: Any) -> Hit | None:
        """Search on a worker: a pattern may be slow, and streams must go on."""
        return await asyncio.get_running_loop().run_in_executor(None, work, *args)

    def close(self) -> None:
        for task in (self._read, self._change):
            if task is not None:
                task.cancel()
                task.add_done_callback(lambda task: task.cancelled() or task.exception())


async def _newest(machine: Machine, session_id: str) -> list[Line]:
    """The newest lines, where they can be had within a second."""
    if machine.link.state == "up":
        with contextlib.suppress(CmdopError, TimeoutError):
            async with asyncio.timeout(1.0):
                return last_words((await machine.tail(session_id, LAST_BYTES)).chunks)
    return []


async def exit_of(machine: Machine, session_id: str) -> Exit | None:
    """Wait until the command has exited; None when its session was lost."""
    status = await machine.status(session_id)
    while not status.over:
        status = await machine.status(session_id, status.seq)
    return status.exit


async def exit_in(machine: Machine, session: SessionFacts, timeout: float | None) -> Exit | None:
    """As `exit_of`, for at most `timeout` seconds. Raises StillRunning."""
    status = await machine.status(session.id)
    if status.over:
        return status.exit
    try:
        async with asyncio.timeout(timeout):
            return await exit_of(machine, session.id)
    except TimeoutError:
        raise StillRunning(session.name, timeout or 0.0) from None


async def exit_unless(
    failing: Awaitable[object], machine: Machine, session: SessionFacts, timeout: float | None
) -> Exit | None:
    """As `exit_in`, unless `failing` raises: a wait for a line that is an error, which any exit ends."""
    try:
        await failing
    except WaitTimeout:
        raise StillRunning(session.name, timeout or 0.0) from None
    except SessionEnded:
        pass
    return await exit_of(machine, session.id)


async def ended(machine: Machine, session: SessionFacts, pattern: str) -> SessionEnded:
    """The error that says how a session ended before `pattern` was seen."""
    tail = await machine.tail(session.id, LAST_BYTES)
    status = tail.status
    how = str(status.exit) if status.exit is not None else status.state
    if status.exit is not None and status.state == "lost":
        how += ", its supervisor was lost"
    return SessionEnded(pattern, session.name, how, tuple(line.text[:LINE_SHOWN] for line in last_words(tail.chunks)))
