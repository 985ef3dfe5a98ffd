"""What lines and searches mean, said byte by byte and with `re`: too slow to use, plain enough to believe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.lines import Line
from cmdop_jupyter.patterns import Hit

LONGEST = 64 * 1024


@dataclass(frozen=True)
class Record:
    """What one or several reads of one channel logged under one time."""

    channel: str
    mono_ms: int
    data: bytes


def chunks_of(records: Iterable[Record]) -> list[Chunk]:
    """The log of the records, each whole."""
    chunks: list[Chunk] = []
    for record in records:
        offset = chunks[-1].end if chunks else 0
        chunks.append(Chunk(offset, record.channel, wall(record.mono_ms), record.mono_ms, record.data))
    return chunks


def wall(mono_ms: int) -> int:
    return 1_700_000_000_000_000_000 + mono_ms * 1_000_000


def characters(data: bytes) -> list[tuple[str, int, int]]:
    """Each character with the bytes it was made of, from and to."""
    found, at = [], 0
    while at < len(data):
        for size in (1, 2, 3, 4):
            try:
                found.append((data[at : at + size].decode(), at, at + size))
                break
            except UnicodeDecodeError:
                pass
        else:
            try:
                data[at:].decode()
            except UnicodeDecodeError as error:
                size = error.end
            found.append(("\ufffd", at, at + size))
        at = found[-1][2]
    return found


def without_escapes(chars: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    text = [char for char, _, _ in chars]
    kept, at = [], 0

    def skip(low: str, high: str) -> None:
        nonlocal at
        while at < len(text) and low <= text[at] <= high:
            at += 1

    while at < len(text):
        if text[at] != "\x1b":
            kept.append(chars[at])
            at += 1
            continue
        at += 1
        kind = text[at] if at < len(text) else ""
        if kind == "[":
            at += 1
            skip("0", "?")
            skip(" ", "/")
            at += at < len(text) and "@" <= text[at] <= "~"
        elif kind and kind in "]PX^_":
            at += 1
            start = at
            ends = "\x1b\x18\x07" if kind == "]" else "\x1b\x18"
            while at < len(text) and at - start < 4096 and text[at] not in ends:
                at += 1
            at += at < len(text) and kind == "]" and text[at] == "\x07"
        elif kind and " " <= kind <= "/":
            skip(" ", "/")
            at += at < len(text) and "0" <= text[at] <= "~"
        elif kind and "0" <= kind <= "~":
            at += 1
    return kept


def cut_before(data: bytes, position: int) -> int:
    """Where to cut at `position` at the latest, so that no character of UTF-8 is cut in two."""
    for back in (1, 2, 3):
        lead = data[position - back]
        size = (
            2 if lead >> 5 == 0b110 else 3 if lead >> 4 == 0b1110 else 4 if lead >> 3 == 0b11110 or lead > 0xF7 else 0
        )
        between = data[position - back + 1 : position + 1]
        if size > back and all(byte >> 6 == 0b10 for byte in between):
            return position - back
    return position


@dataclass(slots=True)
class Byte:
    value: int
    offset: int
    mono_ms: int


@dataclass
class Channel:
    name: str
    longest: int
    line: list[Byte] = field(default_factory=list)  # the unfinished line
    part: bool = False
    after_return: bool = False
    paused: int = 0  # bytes of the unfinished line that were there at its last pause
    raw: list[Byte] = field(default_factory=list)
    tried: int = 0  # how many of `raw` were there at the last try
    mono_ms: int = 0

    def take(self, byte: Byte) -> tuple[list[Byte], Line, bool] | None:
        """Add a byte; return the line it finishes, if it does."""
        after_return, self.after_return = self.after_return, byte.value == 13
        if byte.value == 10 and after_return:
            return None
        if byte.value in b"\r\n":
            finished, part = self.line, self.part
            self.line, self.part, self.paused = [], False, 0
            return finished, line_of(self.name, finished, byte, part, True), True
        self.line.append(byte)
        if len(self.line) <= self.longest:
            return None
        stop = cut_before(bytes(byte.value for byte in self.line), self.longest)
        finished, self.line = self.line[:stop], self.line[stop:]
        self.part, self.paused = True, 0
        return finished, line_of(self.name, finished, byte, True, True), True


def line_of(channel: str, content: list[Byte], end: Byte | None, part: bool, whole: bool) -> Line:
    text = "".join(char for char, _, _ in without_escapes(characters(bytes(byte.value for byte in content))))
    first, last = (content[0], content[-1]) if content else (end, end)
    assert first is not None
    assert last is not None
    return Line(text, channel, first.offset, last.offset + bool(content), wall(last.mono_ms), part, whole)


def log_bytes(records: Iterable[Record]) -> Iterable[tuple[str, Byte]]:
    offset = 0
    for record in records:
        for value in record.data:
            yield record.channel, Byte(value, offset, record.mono_ms)
            offset += 1


def lines(records: Iterable[Record], *, channel: str | None = None, longest: int = LONGEST) -> list[Line]:
    """The lines in the order in which they were finished, then the unfinished ones."""
    channels: dict[str, Channel] = {}
    found = []
    for name, byte in log_bytes(records):
        if channel in (None, name):
            taken = channels.setdefault(name, Channel(name, longest)).take(byte)
            if taken is not None:
                found.append(taken[1])
    rest = [line_of(one.name, one.line, None, one.part, False) for one in channels.values() if one.line]
    return found + sorted(rest, key=lambda line: line.start)


Answer = tuple[Any, ...] | None


def facts(hit: Hit | None) -> Answer:
    """All of a hit that can be compared."""
    if hit is None:
        return None
    match = (hit.match[0], hit.match.span(), hit.match.groups(), hit.match.groupdict())
    place = (hit.start, hit.end, hit.wall_ns, hit.channel)
    return hit.failed, hit.index, match, hit.line, place, hit.cut, hit.whole


class Search:
    """The meaning of a Searcher. Ask `answer` of all the records, with `end` or `quiet_ms` for what came after."""

    def __init__(
        self,
        patterns: Sequence[Any],
        fail: Sequence[Any] = (),
        *,
        channel: str | None = None,
        settle_ms: int = 250,
        longest: int = LONGEST,
        window: int = LONGEST,
    ) -> None:
        self._patterns = [(True, number, re.compile(one)) for number, one in enumerate(fail)]
        self._patterns += [(False, number, re.compile(one)) for number, one in enumerate(patterns)]
        names = ("stdout", "stderr", "tty") if channel is None else (channel,)
        self._channels = {name: Channel(name, longest) for name in names}
        self._settle, self._window = settle_ms, window
        self._best: tuple[tuple[int, int], Answer] | None = None
        self._holding: dict[tuple[str, str], int] | None = None

    def answer(self, records: Iterable[Record], *, quiet_ms: int | None = None, end: bool = False) -> Answer:
        now = 0
        for name, byte in log_bytes(records):
            if byte.mono_ms > now:
                now = byte.mono_ms
                self._pass(now)
            if self._final():
                break
            self._take(name, byte)
        if not self._final() and quiet_ms is not None:
            self._pass(quiet_ms)
        if not self._final() and end:
            found = []
            for channel in self._channels.values():
                found += self._unfinished(channel, [lane for lane, _ in self._open(channel)])
            best = min(found, default=None, key=lambda one: one[0])
            if best is not None and (self._best is None or best[0] < self._best[0]):
                self._best = best
            self._holding = {}
        return self._best[1] if self._best is not None and self._final() else None

    def _final(self) -> bool:
        if self._best is None or self._holding is None:
            return False
        return all(begin >= self._best[0][0] for begin in self._holding.values())

    def _take(self, name: str, byte: Byte) -> None:
        channel = self._channels.get(name)
        if channel is None:
            return
        channel.mono_ms = byte.mono_ms
        channel.raw.append(byte)
        taken = channel.take(byte)
        if name == "tty":
            if taken is not None:
                self._decide(channel, ["text"], [])
            return
        lanes, tries = [], []
        if taken is not None:
            lanes.append("text")
            tries.append(("text", taken[0], taken[1]))
        if byte.value == 10:
            lanes.append("raw")
            tries.append(("raw", channel.raw[-self._window :], None))
            channel.tried = len(channel.raw)
        if lanes:
            self._decide(channel, lanes, self._best_of(channel, tries))

    def _pass(self, mono_ms: int) -> None:
        for channel in sorted(self._channels.values(), key=lambda channel: channel.mono_ms):
            lanes = [lane for lane, _ in self._open(channel)]
            if lanes and mono_ms - channel.mono_ms >= self._settle and not self._final():
                found = self._unfinished(channel, lanes)
                channel.paused, channel.tried = len(channel.line), len(channel.raw)
                self._decide(channel, lanes, found)

    def _unfinished(self, channel: Channel, lanes: list[str]) -> list[tuple[tuple[int, int], Answer]]:
        tries: list[Any] = []
        if "text" in lanes:
            tries.append(("text", channel.line, line_of(channel.name, channel.line, None, channel.part, False)))
        if "raw" in lanes:
            tries.append(("raw", channel.raw[-self._window :], None))
        if channel.name == "tty" and tries:
            tries.append(("raw", channel.line, tries[0][2]))
        return self._best_of(channel, tries)

    def _open(self, channel: Channel) -> list[tuple[str, int]]:
        """Where each kind of pattern has something it has not been tried on, and where that begins."""
        lanes = []
        kinds = {type(pattern.pattern) for _, _, pattern in self._patterns}
        if (str in kinds or channel.name == "tty") and len(channel.line) > channel.paused:
            lanes.append(("text", channel.line[0].offset))
        if bytes in kinds and channel.name != "tty" and len(channel.raw) > channel.tried:
            lanes.append(("raw", channel.raw[channel.tried].offset))
        if self._holding is not None:
            lanes = [(lane, begin) for lane, begin in lanes if (channel.name, lane) in self._holding]
        return lanes

    def _decide(self, channel: Channel, lanes: list[str], found: list[tuple[tuple[int, int], Answer]]) -> None:
        """Take what was found at a point of `lanes` of a channel."""
        if self._holding is not None:
            known = [lane for lane in lanes if (channel.name, lane) in self._holding]
            if not known:
                return
            for lane in known:
                del self._holding[channel.name, lane]
        if not found:
            return
        if self._best is None or found[0][0] < self._best[0]:
            self._best = found[0]
        if self._holding is None:
            self._holding = {
                (other.name, lane): begin
                for other in self._channels.values()
                if other is not channel
                for lane, begin in self._open(other)
            }
        self._holding = {lane: begin for lane, begin in self._holding.items() if lane[0] != channel.name}

    def _best_of(self, channel: Channel, tries: list[Any]) -> list[tuple[tuple[int, int], Answer]]:
        for failed, number, pattern in self._patterns:
            for kind, content, line in tries:
                if kind == "text" and isinstance(pattern.pattern, str):
                    chars = without_escapes(characters(bytes(byte.value for byte in content)))
                    match: Any = pattern.search("".join(char for char, _, _ in chars))
                    spans = [(start, stop) for _, start, stop in chars]
                elif kind == "raw" and isinstance(pattern.pattern, bytes):
                    match = pattern.search(bytes(byte.value for byte in content))
                    spans = [(at, at + 1) for at in range(len(content))]
                else:
                    continue
                if match is None:
                    continue
                first, last = match.span()
                if line is None:
                    line = self._around(channel, content, max(0, last - 1))
                if last == 0:
                    byte = content[0] if content else None
                    start = end = line.start
                    when = line.wall_ns if byte is None else wall(byte.mono_ms)
                else:
                    byte = content[spans[last - 1][1] - 1]
                    end, when = byte.offset + 1, wall(byte.mono_ms)
                    start = content[spans[first][0]].offset if first < last else end
                about = (match[0], match.span(), match.groups(), match.groupdict())
                place = (start, end, when, channel.name)
                return [((end, line.start), (failed, number, about, line.text, place, line.cut, line.whole))]
        return []

    def _around(self, channel: Channel, window: list[Byte], at: int) -> Line:
        """The line of the byte at `at` of a window; its own end is part of it."""
        pieces = re.findall(rb"[^\r\n]*(?:\r\n|\r|\n|\Z)", bytes(byte.value for byte in window))
        start = 0
        for piece in pieces:
            if start <= at < start + len(piece):
                content = window[start : start + len(piece.rstrip(b"\r\n"))]
                end = window[start + len(content)] if len(piece) > len(content) else None
                cut = start == 0 and len(window) == self._window
                return line_of(channel.name, content, end, cut, end is not None)
            start += len(piece)
        raise AssertionError(at)
