"""One wait on one session's log: reads from an offset on until a pattern decides. Knows machines, not streams."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .agent.log import Chunk
from .errors import InvalidRequest, LogDropped, SessionEnded
from .lines import Line, LineAssembler
from .machines.base import Machine, Status
from .patterns import Hit, Searcher

if TYPE_CHECKING:
    from .stream import Stream

READ_SIZE = 1024 * 1024  # bytes a wait asks for at a time
AFTER_FAILURE_MS = 500  # how long after an exit that was not 0 the last words may still come
LAST_LINES = 5
LAST_BYTES = 16 * 1024  # of the log that are searched for them
BEFORE_BYTES = 64 * 1024  # of the log that `Match.before` looks at

Pattern = str | bytes | re.Pattern[str] | re.Pattern[bytes]
Patterns = Pattern | Sequence[Pattern]


class Match:
    """Where a pattern was seen, and what it caught: as `re.Match`, plus its place in the log.

    Attributes:
        line: The line it was seen on: decoded, without escape sequences. For a bytes pattern, what it matched.
        pattern: The pattern that matched, as it was given; `index`: its place in the list.
        start, end: Byte offsets in the log.
        time: When its last byte was read: seconds since the epoch, by the machine's clock.
        channel: `stdout`, `stderr` or `tty`.
        cut: The line was longer than 64 KiB and is not whole.
        stream: Where it was seen.
    """

    def __init__(self, hit: Hit, pattern: Pattern, stream: Stream | None, began: int) -> None:
        self._match: Any = hit.match
        self.pattern, self.stream = pattern, stream
        self.line, self.channel, self.cut = hit.line, hit.channel, hit.cut
        self.index, self.start, self.end = hit.index, hit.start, hit.end
        self.time = hit.wall_ns / 1e9
        self._began = began

    @property
    def before(self) -> str:
        """What its channel said between the start of the wait and the match (of it, the last 64 KiB)."""
        if self.stream is None:
            return ""
        start = max(self._began, self.start - BEFORE_BYTES)
        chunks = self.stream._read_chunks(start, self.start)
        return b"".join(chunk.data for chunk in chunks if chunk.channel == self.channel).decode("utf-8", "replace")

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


def as_list(patterns: Patterns | None, what: str) -> list[Pattern]:
    """One pattern or a list of them, as a list. Raises InvalidRequest for anything else."""
    if patterns is None:
        return []
    several: list[Pattern] = list(patterns) if isinstance(patterns, (list, tuple)) else [patterns]  # type: ignore[list-item]
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


async def search(machine: Machine, session_id: str, searcher: Searcher, start: int) -> Hit | None:
    """Read the log from `start` on until `searcher` decides; None when the session ended, or failed, before it did.

    The answer depends on the log alone: its bytes and the times recorded in it.
    """
    reading = _Reading(machine, session_id, searcher, start)
    try:
        return await reading.run()
    finally:
        reading.close()


class _Reading:
    """The state of one `search`."""

    def __init__(self, machine: Machine, session_id: str, searcher: Searcher, start: int) -> None:
        self._machine, self._id, self._searcher = machine, session_id, searcher
        self._offset = start
        self._hit: Hit | None = None
        self._read: asyncio.Task[list[Chunk]] | None = None
        self._change: asyncio.Task[Status] | None = None

    async def run(self) -> Hit | None:
        status = await self._machine.status(self._id)
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while True:
            cutoff = _cutoff(status)
            if self._read is None:
                self._read = asyncio.create_task(self._machine.read(self._id, self._offset, READ_SIZE))
            if self._change is None and status.live:
                self._change = asyncio.create_task(self._machine.status(self._id, status.seq))
            due = min((ms for ms in (cutoff, self._searcher.settles_at) if ms is not None), default=None)
            clock_ms = status.clock_ms + (loop.time() - heard) * 1000  # about; what decides is asked below
            patience = None if due is None or not status.live else max(0.0, (due - clock_ms) / 1000)
            tasks = {task for task in (self._read, self._change) if task is not None}
            done, _ = await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if self._change in done or not done:
                # Only what the machine itself says after a look at its clock and its log is sure to be final.
                status, heard = await self._machine.status(self._id), loop.time()
                if self._change in done:
                    self._change = None
                cutoff = _cutoff(status)
                if status.end <= self._offset and status.live:
                    hit = await self._think(self._searcher.quiet, _earliest(status.clock_ms, cutoff))
                    if hit is not None:
                        return hit
                    if cutoff is not None and status.clock_ms >= cutoff:
                        return await self._think(self._searcher.end)
            if self._read in done and await self._take(self._read, cutoff):
                return self._hit

    async def _take(self, read: asyncio.Task[list[Chunk]], cutoff: int | None) -> bool:
        """Feed what was read; return whether that decides, one way or the other."""
        self._read = None
        try:
            chunks = read.result()
        except LogDropped as gap:
            self._searcher.gap(self._offset, gap.first)
            self._offset = gap.first
            return False
        late = not chunks or (cutoff is not None and chunks[-1].mono_ms > cutoff)
        if chunks:
            self._offset = chunks[-1].end
            in_time = [chunk for chunk in chunks if cutoff is None or chunk.mono_ms <= cutoff]
            self._hit = await self._think(self._searcher.feed, in_time)
        if self._hit is None and late:
            self._hit = await self._think(self._searcher.end)
        return late or self._hit is not None

    async def _think(self, work: Any, *args: Any) -> Hit | None:
        """Search on a worker: a pattern may be slow, and streams must go on."""
        hit: Hit | None = await asyncio.get_running_loop().run_in_executor(None, work, *args)
        return hit

    def close(self) -> None:
        for task in (self._read, self._change):
            if task is not None:
                task.cancel()


def _cutoff(status: Status) -> int | None:
    """The session's clock at which a failed command has had its last word; None when it has not failed."""
    if status.exit is None or status.exit.ok:
        return None
    return status.exited_ms + AFTER_FAILURE_MS


def _earliest(clock_ms: int, cutoff: int | None) -> int:
    return clock_ms if cutoff is None else min(clock_ms, cutoff)


async def ended(machine: Machine, session_id: str, name: str, pattern: str) -> SessionEnded:
    """The error that says how a session ended before `pattern` was seen."""
    tail = await machine.tail(session_id, LAST_BYTES)
    status = tail.status
    how = str(status.exit) if status.exit is not None else status.state
    if status.exit is not None and status.state == "lost":
        how += ", its supervisor was lost"
    return SessionEnded(pattern, name, how, tuple(line.text[:300] for line in last_words(tail.chunks)))
