"""Chunks of a log in, the first match of several patterns out, or the lines that match one.

The answer is a function of the log from where the search began: its bytes, their channels and their times. How the
chunks were cut, and whether they came while they were written or long after, changes nothing. Knows no clock: time is
what the chunks say, and `quiet`.

A text pattern is searched in each line when it has ended. An unfinished line is searched where its channel pauses:
where the log shows no byte of it for `settle` seconds; should it go on, the longer line is searched again. On channel
`tty` only unfinished lines are searched. A bytes pattern is tried on the last 64 KiB of a channel, behind each newline
and at each pause (on `tty`: on the unfinished line, at each pause). The first place of a channel where anything matches
is that channel's match; there `fail` beats `patterns`, then the order of the list decides. Of all channels the match
whose last byte lies first in the log wins: so a match waits while another channel has an unfinished line that began
before the match ended and has not paused since.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .agent.log import CHANNELS, MERGE_MS, Chunk
from .errors import PatternError, PatternTooSlow
from .lanes import BytesLane, Found, Hit, Judge, Lane, LineLane, slow_on
from .lines import LONGEST_LINE, Block, ChannelLines, Line
from .needles import LONGEST_BYTES_MATCH, SECONDS_PER_LINE, BytesNeedle, Source, TextNeedle, source_of

__all__ = ["LONGEST_BYTES_MATCH", "Grep", "Hit", "PatternError", "PatternTooSlow", "Searcher", "Source"]

BLOCK = 256 * 1024  # bytes of a channel that are searched at once
MIN_SETTLE_MS = MERGE_MS  # reads that lie closer share one time
_END = 1 << 63  # behind every offset of a log, and later than every time


class Searcher:
    """Find what comes first. After it has answered, or raised, all it does is say so again.

    Args:
        patterns: What is looked for: sources of regular expressions, or compiled ones.
        fail: What is looked for as well, and wins on one line.
        channel: Look at this one only.
        settle: Seconds of quiet after which an unfinished line counts.
        seconds_per_line: What a pattern may take on one line.

    Raises:
        PatternError: A pattern does not compile.
        PatternTooSlow: From each method that searches: a pattern took too long.
        ValueError: There is no pattern, no such channel, or `settle` is less than 0.05.
    """

    def __init__(
        self,
        patterns: Sequence[Source],
        fail: Sequence[Source] = (),
        *,
        channel: str | None = None,
        settle: float = 0.25,
        seconds_per_line: float = SECONDS_PER_LINE,
    ) -> None:
        if isinstance(patterns, (str, bytes)) or isinstance(fail, (str, bytes)):
            raise TypeError("patterns come in lists, also when there is only one")
        if not patterns and not fail:
            raise ValueError("there is no pattern to look for")
        self._settle = round(settle * 1000)
        if self._settle < MIN_SETTLE_MS:
            raise ValueError(f"settle must be at least {MIN_SETTLE_MS / 1000} s, the log is no finer; got {settle}")
        text: list[Judge[TextNeedle]] = []
        raw: list[Judge[BytesNeedle]] = []
        given = [(True, *numbered) for numbered in enumerate(fail)]
        given += [(False, *numbered) for numbered in enumerate(patterns)]
        for rank, (failed, index, source) in enumerate(given):
            if isinstance(source_of(source), bytes):
                raw.append(Judge(rank, index, failed, BytesNeedle(source, seconds_per_line)))
            else:
                text.append(Judge(rank, index, failed, TextNeedle(source, seconds_per_line)))
        lanes: list[Lane] = []
        for name in _channels(channel):
            if name == "tty":
                lanes.append(LineLane(name, text, raw, prompts=True))
                continue
            if text:
                lanes.append(LineLane(name, text))
            if raw:
                lanes.append(BytesLane(name, raw))
        self._lanes: dict[Lane, int] = dict.fromkeys(lanes, 0)  # when there is a match: those that may still beat it
        self._best: Found | None = None  # ... and where their unfinished lines begin
        self._due = _END  # no pause ends before that time
        self._hit: Hit | None = None
        self._error: PatternTooSlow | None = None

    @property
    def settles_at(self) -> int | None:
        """The session's time, in ms, at which the next unfinished line counts if nothing more comes; None: never."""
        if self._hit is not None:
            return None
        return min((lane.mono_ms + self._settle for lane in self._lanes if lane.is_open), default=None)

    def feed(self, chunks: Sequence[Chunk]) -> Hit | None:
        """Search what the log has next: the chunks of all channels, in order."""
        if self._undecided():
            for chunk in chunks:
                for piece in _pieces(chunk):
                    self._push(piece)
                if self._hit is not None:
                    return self._hit
            self._search()
        return self._hit

    def quiet(self, mono_ms: int) -> Hit | None:
        """Say that up to `mono_ms` of the session's time nothing was logged but what was fed."""
        if self._undecided():
            self._pass(mono_ms)
        return self._hit

    def gap(self, start: int, stop: int) -> Hit | None:
        """Say that the log lost its bytes from `start` to `stop`: unfinished lines end there, those of `tty` unseen."""
        if self._undecided():
            self._close([lane for lane in self._lanes if lane.channel != "tty"])
            for lane in self._lanes:
                lane.reset()
        return self._hit

    def end(self) -> Hit | None:
        """Say that nothing follows: unfinished lines count."""
        if self._undecided():
            self._close(list(self._lanes))
        return self._hit

    def _undecided(self) -> bool:
        if self._error is not None:
            raise self._error
        return self._hit is None

    def _push(self, chunk: Chunk) -> None:
        if not chunk.data:
            return
        if chunk.mono_ms >= self._due:
            self._pass(chunk.mono_ms)
        full = False
        for lane in self._lanes:
            if lane.channel == chunk.channel:
                lane.push(chunk)
                full = full or lane.size >= BLOCK
                if lane.is_open:
                    self._due = min(self._due, lane.mono_ms + self._settle)
        if full:
            self._search()

    def _search(self) -> None:
        """Search what was finished since the last time, as if each line had been searched when it was."""
        for lane in self._lanes:
            lane.search()
        after = -1
        founds = [lane.found for lane in self._lanes if lane.found is not None]
        if self._best is None and founds:
            after = min(found.event for found in founds)
            self._begin([found for found in founds if found.event == after], after)
        if self._best is not None:
            events = {lane: event for lane in self._lanes if (event := lane.next_event(after)) is not None}
            founds = [
                lane.found for lane, event in events.items() if lane.found is not None and lane.found.event == event
            ]
            self._go_on(founds, events)
        for lane in self._lanes:
            lane.drop()

    def _pass(self, mono_ms: int) -> None:
        """Search the unfinished lines of the channels that have paused by `mono_ms`, in the order of their pauses."""
        due = [lane for lane in self._lanes if lane.is_open and lane.mono_ms + self._settle <= mono_ms]
        if due:
            self._search()
        for channel in dict.fromkeys(lane.channel for lane in sorted(due, key=lambda lane: lane.mono_ms)):
            lanes = [lane for lane in due if lane.channel == channel and lane in self._lanes]
            founds = [found for lane in lanes if (found := lane.pause()) is not None]
            if self._best is not None:
                self._go_on(founds, lanes)
            elif founds:
                self._begin(founds, _END)
        self._due = min((lane.mono_ms + self._settle for lane in self._lanes if lane.is_open), default=_END)

    def _close(self, lanes: Iterable[Lane]) -> None:
        """Search what is unfinished in `lanes`; nothing else is to come before the answer, if there is one."""
        self._search()
        if self._hit is None:
            lanes = [lane for lane in lanes if lane in self._lanes and lane.is_open]
            self._take([found for lane in lanes if (found := lane.pause()) is not None])
            if self._best is not None:
                self._go_on([], list(self._lanes))

    def _begin(self, founds: list[Found], event: int) -> None:
        """Take the first match there is, and keep the lanes that were open then and may beat it."""
        self._take(founds)
        channels = {found.channel for found in founds}
        others = [lane for lane in self._lanes if lane.channel not in channels]
        self._lanes = {lane: begin for lane in others if (begin := lane.open_at(event)) is not None}
        self._go_on([], ())

    def _go_on(self, founds: list[Found], lanes: Iterable[Lane]) -> None:
        """Let `lanes`, which have come to a point, hold the match up no longer. It is final when none does."""
        self._take(founds)
        if self._best is None:
            return
        channels, done = {found.channel for found in founds}, set(lanes)
        self._lanes = {
            lane: begin
            for lane, begin in self._lanes.items()
            if lane not in done and lane.channel not in channels and begin < self._best.end
        }
        if not self._lanes:
            self._hit = self._best.hit

    def _take(self, founds: list[Found]) -> None:
        """Keep the best: on each channel what came first, of those what ends first. Raises PatternTooSlow."""
        first: dict[str, Found] = {}
        for found in sorted(founds, key=lambda found: (found.event, found.rank)):
            first.setdefault(found.channel, found)
        for found in first.values():
            if found.error is not None:
                self._error = found.error
                raise self._error
            if self._best is None or (found.end, found.begin) < (self._best.end, self._best.begin):
                self._best = found


class Grep:
    """Take the chunks of a log, give back the finished lines that a pattern matches.

    A bytes pattern is searched in a line's bytes as they were logged, its end not counted.

    Args:
        pattern, channel, seconds_per_line: As for `Searcher`.

    Raises:
        PatternError, PatternTooSlow, ValueError: As for `Searcher`.
    """

    def __init__(
        self, pattern: Source, channel: str | None = None, *, seconds_per_line: float = SECONDS_PER_LINE
    ) -> None:
        raw = isinstance(source_of(pattern), bytes)
        self._needle = BytesNeedle(pattern, seconds_per_line) if raw else TextNeedle(pattern, seconds_per_line)
        self._lines = {name: ChannelLines(name, LONGEST_LINE) for name in _channels(channel)}

    def feed(self, chunks: Sequence[Chunk]) -> list[Line]:
        """Return the lines that match, of those that `chunks` finish, in the order in which they were finished."""
        lines: list[Line] = []
        for chunk in chunks:
            for piece in _pieces(chunk):
                channel = self._lines.get(piece.channel)
                if channel is not None:
                    channel.push(piece)
                    if channel.size >= BLOCK:
                        lines += self._search()
        return lines + self._search()

    def gap(self, start: int, stop: int) -> list[Line]:
        """Say that the log has lost its bytes from `start` to `stop`; return what `end` would."""
        return self.end()

    def end(self) -> list[Line]:
        """Say that nothing follows; return the unfinished lines that match, in the order in which they began."""
        lines = []
        for name, channel in self._lines.items():
            line = channel.rest()
            if line is not None and self._matches(line, channel.rest_bytes()):
                lines.append(line)
            self._lines[name] = ChannelLines(name, LONGEST_LINE)
        return sorted(lines, key=lambda line: line.start)

    def _search(self) -> list[Line]:
        found: list[tuple[int, Line]] = []
        for channel in self._lines.values():
            block = channel.take()
            if block is not None:
                found += [(block.event(number), block.line(number)) for number in self._find(block)]
                channel.forget()
        return [line for _, line in sorted(found, key=lambda pair: pair[0])]

    def _find(self, block: Block) -> Iterator[int]:
        """The numbers of the lines that match."""
        needle = self._needle
        if isinstance(needle, BytesNeedle):
            if needle.may_match(block.raw, 0, len(block.raw)):
                yield from (
                    number
                    for number in range(len(block.bounds()))
                    if self._matches(block.line(number), block.content(number))
                )
            return
        number = start = 0
        while start <= block.stop:
            spot = needle.find(block.data, start, block.stop, ascii=block.ascii)
            if spot is None:
                return
            number += block.data.count(b"\n", start, spot.begin)
            if spot.match is None:
                raise slow_on(needle, block.line(number))
            yield number
            number, start = number + 1, spot.end + 1

    def _matches(self, line: Line, content: bytes) -> bool:
        spot = self._needle.find_in_line(line, content)
        if spot is not None and spot.match is None:
            raise slow_on(self._needle, line)
        return spot is not None


def _channels(channel: str | None) -> tuple[str, ...]:
    if channel is None:
        return CHANNELS
    if channel not in CHANNELS:
        raise ValueError(f"a channel is {', '.join(CHANNELS)}, not {channel!r}")
    return (channel,)


def _pieces(chunk: Chunk) -> list[Chunk]:
    """The chunk, in pieces of no more than a block."""
    if len(chunk.data) <= BLOCK:
        return [chunk]
    return [
        Chunk(chunk.offset + start, chunk.channel, chunk.wall_ns, chunk.mono_ms, chunk.data[start : start + BLOCK])
        for start in range(0, len(chunk.data), BLOCK)
    ]
