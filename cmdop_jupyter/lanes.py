"""One channel's share of a search: its chunks in, at each point that counts the best match there out.

A lane is pushed what its channel has next. `search` then looks at the points among it (the ends of lines), `pause` at
the unfinished rest, and `drop` lets go of what was searched. Which lane's match wins is for others to say: for them a
lane tells what was open, and when its next point comes, at any place of the log since the last `drop`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import regex

from .agent.log import Chunk
from .errors import PatternTooSlow
from .lines import LONGEST_LINE, Block, ChannelLines, Line, Places, line_of, span_in
from .needles import LONGEST_BYTES_MATCH, BytesNeedle, Spot, TextNeedle, source_of

_NEWLINE = regex.compile(rb"\n", regex.VERSION1)
_LINE_END = regex.compile(rb"[\r\n]", regex.VERSION1)
_LINE_HEAD = 80  # characters of a line that are shown when a pattern was too slow on it


@dataclass(frozen=True, slots=True)
class Hit:
    """A match and its place.

    Attributes:
        index: Which of the patterns, or of `fail`.
        failed: Whether it is one of `fail`.
        match: The match on `line`; for a bytes pattern, on the bytes it was tried on.
        line: The text of the line that has the match's last byte: decoded, without ANSI sequences.
        start, end: Offsets in the log of the match's first byte, and just behind its last.
        wall_ns: When its last byte was read: nanoseconds since the epoch.
        channel: `stdout`, `stderr` or `tty`.
        cut: `line` is part of one longer than 64 KiB.
        whole: False when `line` had no end yet.
    """

    index: int
    failed: bool
    match: Any
    line: str
    start: int
    end: int
    wall_ns: int
    channel: str
    cut: bool
    whole: bool


Needle = TypeVar("Needle", TextNeedle, BytesNeedle)


@dataclass(frozen=True, slots=True)
class Judge(Generic[Needle]):
    """A pattern and its place among the others; the lower rank wins."""

    rank: int
    index: int
    failed: bool
    needle: Needle


@dataclass(frozen=True, slots=True)
class Found:
    """What a lane has found: a hit, or that a pattern took too long.

    Attributes:
        event: Offset of the byte that made the place count; 0 at a pause.
        begin: Offset where its line begins.
        end: Offset just behind the match.
    """

    event: int
    rank: int
    channel: str
    begin: int
    end: int
    hit: Hit | None
    error: PatternTooSlow | None


class Lane(Protocol):
    """What a search needs of a channel.

    Attributes:
        mono_ms: The time of the newest byte.
        size: How many bytes wait for `search`, an unfinished line included.
        is_open: Whether there are bytes at the end that no point has come after.
        found: After `search`: what is found at the first of the points that came since `drop` where anything is.
    """

    channel: str
    mono_ms: int
    found: Found | None

    @property
    def size(self) -> int: ...

    @property
    def is_open(self) -> bool: ...

    def push(self, chunk: Chunk) -> None:
        """Take what the channel has next; not nothing."""

    def search(self) -> None: ...

    def drop(self) -> None: ...

    def pause(self) -> Found | None:
        """Search what is open, as it stands. After `drop` only."""

    def open_at(self, event: int) -> int | None:
        """Return where the line begins that had bytes no point came after when the log had reached `event`."""

    def next_event(self, after: int) -> int | None:
        """Return the first point behind the offset `after`; None when it has not come yet."""

    def reset(self) -> None:
        """Forget all: a gap."""


class LineLane:
    """Text patterns, on lines.

    Args:
        channel: Its channel.
        text: The patterns, best first.
        raw: Patterns that see the bytes of an unfinished line.
        prompts: Look at unfinished lines only.
    """

    def __init__(
        self,
        channel: str,
        text: Sequence[Judge[TextNeedle]],
        raw: Sequence[Judge[BytesNeedle]] = (),
        *,
        prompts: bool = False,
    ) -> None:
        self.channel, self._text, self._raw, self.prompts = channel, text, raw, prompts
        self.mono_ms = 0
        self.found: Found | None = None
        self.reset()

    def reset(self) -> None:
        self._lines = ChannelLines(self.channel, LONGEST_LINE)
        self._block: Block | None = None
        self._searched = 0  # bytes of the channel up to the last pause

    @property
    def size(self) -> int:
        return self._lines.size

    @property
    def is_open(self) -> bool:
        return self._lines.is_open and self._lines.start + self._lines.size > self._searched

    def push(self, chunk: Chunk) -> None:
        self._lines.push(chunk)
        self.mono_ms = chunk.mono_ms

    def search(self) -> None:
        self.found, self._block = None, self._lines.take()
        if self._block is not None and not self.prompts:
            self.found = self._first(self._block)

    def drop(self) -> None:
        self.found = self._block = None
        self._lines.forget()

    def pause(self) -> Found | None:
        line = self._lines.rest()
        if line is None:
            return None
        content, position = self._lines.rest_bytes(), self._lines.start
        self._searched = position + len(content)
        judges: list[Judge[Any]] = [*self._text, *self._raw]
        for judge in sorted(judges, key=lambda judge: judge.rank):
            needle: TextNeedle | BytesNeedle = judge.needle
            spot = needle.find_in_line(line, content)
            if spot is None:
                continue
            if spot.match is None:
                return _too_slow(judge, 0, line)
            span = span_in(content, *spot.match.span()) if isinstance(needle, TextNeedle) else spot.match.span()
            return _found(judge, 0, line, spot.match, span, position + spot.begin, self._lines.places)
        return None

    def open_at(self, event: int) -> int | None:
        number = self._number_behind(event)
        if self._block is not None and number < len(self._block.bounds()):
            start, stop, _ = self._block.bounds()[number]
            begin, end = self._block.position + start, self._block.position + stop
        else:
            begin, end = self._lines.start, self._lines.start + self._lines.size
        locate = self._lines.places.locate
        new = max(begin, self._searched)
        return locate(begin)[0] if new < end and locate(new)[0] < event else None

    def next_event(self, after: int) -> int | None:
        number = self._number_behind(after)
        if self._block is None or number == len(self._block.bounds()):
            return None
        return self._block.event(number)

    def _number_behind(self, event: int) -> int:
        """The first of the finished lines that was finished behind `event`."""
        if self._block is None:
            return 0
        return bisect_right(range(len(self._block.bounds())), event, key=self._block.event)

    def _first(self, block: Block) -> Found | None:
        found, stop = None, block.stop
        for judge in self._text:
            spot = judge.needle.find(block.data, 0, stop, ascii=block.ascii)
            if spot is not None:
                found, stop = (judge, spot), spot.begin - 1  # the patterns that follow must be earlier
                if stop < 0:
                    break
        if found is None:
            return None
        judge, spot = found
        number = block.number(spot.begin)
        event, line = block.event(number), block.line(number)
        if spot.match is None:
            return _too_slow(judge, event, line)
        span = span_in(block.content(number), *spot.match.span())
        position = block.position + block.bounds()[number][0]
        return _found(judge, event, line, spot.match, span, position, self._lines.places)


class BytesLane:
    """Bytes patterns, on the last 64 KiB of a channel behind each newline."""

    def __init__(self, channel: str, raw: Sequence[Judge[BytesNeedle]]) -> None:
        self.channel, self._raw = channel, raw
        self.mono_ms = 0
        self.found: Found | None = None
        self.reset()

    def reset(self) -> None:
        self._places = Places()
        self._pieces: list[bytes] = []
        self._base = self._length = 0  # where what we hold begins in the channel, and its bytes
        self._fresh = 0  # how many of them were there at the last `drop`
        self._open: int | None = None  # offset of the first byte behind the last point, now
        self._was_open: int | None = None  # and at the last `drop`
        self._points: list[int] | None = []  # those since then, in what we hold; None before they were looked for

    @property
    def size(self) -> int:
        return self._length - self._fresh

    @property
    def is_open(self) -> bool:
        return self._open is not None

    def push(self, chunk: Chunk) -> None:
        self.mono_ms = chunk.mono_ms
        self._places.add(self._base + self._length, chunk.offset, chunk.wall_ns)
        self._pieces.append(chunk.data)
        self._length += len(chunk.data)
        behind = chunk.data.rfind(b"\n") + 1
        if behind:
            self._open = self._points = None
        if behind < len(chunk.data) and self._open is None:
            self._open = chunk.offset + behind

    def search(self) -> None:
        self.found = None
        if self._points is not None:
            return
        data = self._joined()
        found, stop = None, len(data)
        for judge in self._raw:
            if judge.needle.may_match(data, 0, stop):
                spot = judge.needle.find(data, [point for point in self._ends() if point <= stop])
                if spot is not None:
                    found, stop = (judge, spot), spot.end - 1
        if found is not None:
            judge, spot = found
            self.found = self._make(judge, self._event(spot.end), data, spot)

    def drop(self) -> None:
        self.found, self._points = None, []
        self._was_open = self._open
        if self._length > 2 * LONGEST_BYTES_MATCH:
            excess = self._length - LONGEST_BYTES_MATCH
            self._pieces = [self._joined()[excess:]]
            self._base, self._length = self._base + excess, LONGEST_BYTES_MATCH
            self._places.forget(self._base)
        self._fresh = self._length

    def pause(self) -> Found | None:
        data = self._joined()
        self._open = self._was_open = None
        for judge in self._raw:
            spot = judge.needle.find(data, [len(data)])
            if spot is not None:
                return self._make(judge, 0, data, spot)
        return None

    def open_at(self, event: int) -> int | None:
        points = self._ends()
        number = bisect_right(points, event, key=self._event)
        first = points[number - 1] if number else self._fresh
        if number == 0 and self._was_open is not None:
            begin = self._was_open
        elif first < self._length:
            begin = self._places.locate(self._base + first)[0]
        else:
            return None
        return begin if begin < event else None

    def next_event(self, after: int) -> int | None:
        points = self._ends()
        number = bisect_right(points, after, key=self._event)
        return self._event(points[number]) if number < len(points) else None

    def _ends(self) -> list[int]:
        if self._points is None:
            self._points = [found.end() for found in _NEWLINE.finditer(self._joined(), self._fresh)]
        return self._points

    def _event(self, point: int) -> int:
        return self._places.locate(self._base + point - 1)[0]

    def _make(self, judge: Judge[BytesNeedle], event: int, data: bytes, spot: Spot) -> Found:
        window = data[spot.begin : spot.end]
        position = self._base + spot.begin
        span = spot.match.span() if spot.match is not None else (0, len(window))
        start, stop = _line_around(window, max(0, span[1] - 1))
        cut, whole = start == 0 and len(window) == LONGEST_BYTES_MATCH, stop < len(window)
        line = line_of(self._places, self.channel, window[start:stop], position + start, cut=cut, whole=whole)
        if spot.match is None:
            return _too_slow(judge, event, line)
        return _found(judge, event, line, spot.match, span, position, self._places)

    def _joined(self) -> bytes:
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""


def _line_around(data: bytes, position: int) -> tuple[int, int]:
    """Where the line begins and ends that has the byte at `position`; its own end is part of it."""
    stop = position
    if data[position] == 10:
        stop -= data[position - 1 : position] == b"\r"
    elif data[position] != 13:
        ends = _LINE_END.search(data, position)
        stop = ends.start() if ends is not None else len(data)
    return max(data.rfind(b"\n", 0, stop), data.rfind(b"\r", 0, stop)) + 1, stop


def _found(
    judge: Judge[Any], event: int, line: Line, match: Any, span: tuple[int, int], position: int, places: Places
) -> Found:
    """Make a hit of a match; `span` counts bytes from the channel's byte at `position`."""
    first, last = span
    start, wall_ns = end, _ = places.locate(position + first)
    if last:
        end, wall_ns = places.locate(position + last - 1)
        end += 1
        start = start if first < last else end
    hit = Hit(judge.index, judge.failed, match, line.text, start, end, wall_ns, line.channel, line.cut, line.whole)
    return Found(event, judge.rank, line.channel, line.start, end, hit, None)


def _too_slow(judge: Judge[Any], event: int, line: Line) -> Found:
    return Found(event, judge.rank, line.channel, line.start, line.end, None, slow_on(judge.needle, line))


def slow_on(needle: TextNeedle | BytesNeedle, line: Line) -> PatternTooSlow:
    return PatternTooSlow(source_of(needle.source), needle.seconds, line.text[:_LINE_HEAD], line.start)
