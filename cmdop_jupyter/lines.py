"""Chunks of a log in, the lines they finish out, however the bytes were cut. Knows no patterns and no clock.

A line is what one channel says up to `\\n`, `\\r\\n` or `\\r`, decoded as UTF-8 (what is none becomes U+FFFD), without
ANSI sequences. After 64 KiB it is cut as if it had ended, before a character rather than inside it. Of the sequences,
CSI, OSC, DCS, APC, PM, SOS, charset selections and those of two characters are left out. One that its line does not
finish is left out as far as it goes, and of an OSC, DCS, APC, PM or SOS without an end 4,096 characters at most.
"""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import regex

from .agent.log import CHANNELS, Chunk
from .errors import InvalidRequest

LONGEST_LINE = 64 * 1024  # bytes of a line, before it is decoded; then it is cut. Bounds memory
LONGEST_STRING = 4096  # characters of an OSC or the like; xterm and VTE keep about as much

_NEVER = 1 << 63
_CANCEL = "\x18"  # ends every sequence
_FEW = 12  # different colours in a block
_CSI = regex.compile(r"\x1b\[[0-?]*+[ -/]*+[@-~]", regex.VERSION1)
_ESCAPE = regex.compile(
    "\x1b(?:"
    r"\[[0-?]*+[ -/]*+[@-~]?"  # CSI
    rf"|\][^\x07\x18\x1b\n]{{0,{LONGEST_STRING}}}+\x07?"  # OSC; an ESC \ at its end is a sequence of two characters
    rf"|[PX^_][^\x18\x1b\n]{{0,{LONGEST_STRING}}}+"  # DCS, SOS, PM, APC
    r"|[ -/]++[0-~]?"  # charsets, and all else with an intermediate
    r"|[0-~])?",
    regex.VERSION1,
)
_WIDTH = "cmdop_jupyter.width"
codecs.register_error(_WIDTH, lambda error: (chr(0xDC00 + error.end - error.start), error.end))  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of one channel.

    Attributes:
        text: Decoded, without ANSI sequences and without its end.
        channel: `stdout`, `stderr` or `tty`.
        start: Offset in the log of its first byte; of its end when it is empty.
        end: Just behind its last byte, the line's end not counted. Other channels may have written in between.
        wall_ns: When its last byte was read, of an empty line its end: nanoseconds since the epoch.
        cut: Part of a line longer than 64 KiB.
        whole: False when it had no end yet but counted: the session ended, or its channel was quiet.
    """

    text: str
    channel: str
    start: int
    end: int
    wall_ns: int
    cut: bool
    whole: bool


def check_channel(channel: str | None) -> None:
    """Raise InvalidRequest unless it is a channel, or None for all of them."""
    if channel not in (None, *CHANNELS):
        raise InvalidRequest(f"a channel is {', '.join(CHANNELS)}, not {channel!r}")


class LineAssembler:
    """Take the chunks of a log, give back the lines they finish.

    Args:
        channel: Look at this one only.
        longest: Bytes after which a line is cut.
    """

    def __init__(self, channel: str | None = None, *, longest: int = LONGEST_LINE) -> None:
        if longest < 4:
            raise ValueError(f"a line must have room for any character, 4 bytes; got {longest}")
        self._only, self._longest = channel, longest
        self._channels: dict[str, ChannelLines] = {}

    def feed(self, chunk: Chunk) -> list[Line]:
        """Return the lines that `chunk` finishes, oldest first."""
        if self._only not in (None, chunk.channel):
            return []
        channel = self._channels.get(chunk.channel)
        if channel is None:
            channel = self._channels[chunk.channel] = ChannelLines(chunk.channel, self._longest)
        channel.push(chunk)
        block = channel.take()
        if block is None:
            return []
        lines = block.lines()
        channel.forget()
        return lines

    def gap(self, start: int, stop: int) -> list[Line]:
        """Say that the log has lost its bytes from `start` to `stop`; return the lines that end there unfinished."""
        return self.end()

    def end(self) -> list[Line]:
        """Say that nothing follows; return the unfinished lines, in the order in which they began."""
        lines = [line for channel in self._channels.values() if (line := channel.rest()) is not None]
        self._channels.clear()
        return sorted(lines, key=lambda line: line.start)


class ChannelLines:
    """The bytes of one channel, given out as blocks of finished lines.

    Attributes:
        is_open: Whether the last line that was pushed has not ended.
        start: How many bytes of the channel lie before the unfinished line; `size`: how many it has.
        places: Where the channel's bytes are in the log.
    """

    def __init__(self, channel: str, longest: int = LONGEST_LINE) -> None:
        self.channel, self.longest = channel, longest
        self.places = Places()
        self.is_open = False
        self.start = self.size = 0
        self._pieces: list[bytes] = []
        self._ripe = False  # there may be something to take
        self._after_return = False  # what was taken ended with \r: a newline that comes next belongs to it
        self._continued = False  # the unfinished line began with a cut

    def push(self, chunk: Chunk) -> None:
        data = chunk.data
        if data:
            self.places.add(self.start + self.size, chunk.offset, chunk.wall_ns)
            self._pieces.append(data)
            self.size += len(data)
            self.is_open = data[-1] not in b"\r\n"
            self._ripe = self._ripe or b"\n" in data or b"\r" in data or self.size > self.longest

    def take(self) -> Block | None:
        """Return the lines that are finished by now; None when there are none."""
        if not self._ripe:
            return None
        self._ripe = False
        raw, position = self._joined(), self.start
        if self._after_return and raw[0] == 10:
            raw, position = raw[1:], position + 1
        cuts = _cuts(raw, self.longest)
        newline = raw.rfind(b"\n")
        stop = max(newline, raw.rfind(b"\r", newline + 1), cuts[-1] - 1 if cuts else -1) + 1
        self._after_return = raw[-1:] == b"\r"
        rest = raw[stop:]
        self._pieces = [rest] if rest else []
        self.start, self.size = position + stop, len(rest)
        if not stop:
            return None
        block = Block(self, raw[:stop], position, cuts, self._continued)
        self._continued = bool(cuts) and cuts[-1] == stop
        return block

    def rest(self) -> Line | None:
        """Return the unfinished line as it stands, None when there is none. What is finished must have been taken."""
        if not self.size:
            return None
        return line_of(self.places, self.channel, self._joined(), self.start, cut=self._continued, whole=False)

    def rest_bytes(self) -> bytes:
        """Return the bytes of the unfinished line."""
        return self._joined()

    def forget(self) -> None:
        """Forget where bytes are that have been taken."""
        self.places.forget(self.start)

    def _joined(self) -> bytes:
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""


class Block:
    """Lines that one channel has finished, still in one piece.

    Attributes:
        data: Their texts in UTF-8, joined by newlines; what lies behind `stop` does not count.
        ascii: Whether all of them are ASCII.
        raw: What they were made of.
        position: How many bytes of the channel lie before it.
    """

    def __init__(self, source: ChannelLines, raw: bytes, position: int, cuts: list[int], continued: bool) -> None:
        self.position = position
        self._source, self.raw, self._cuts, self._continued = source, raw, cuts, continued
        self._bounds: list[tuple[int, int, bool]] = []
        self.ascii = raw.isascii()
        if self.ascii and not cuts and b"\x1b" not in raw and b"\r" not in raw:
            self.data, self.stop = raw, len(raw) - 1
            return
        if cuts:
            raw = b"\n".join(raw[start:stop] for start, stop, _ in self.bounds())
        else:
            raw = b"\n".join(raw.splitlines()) if b"\r" in raw else raw[:-1]
        if b"\x1b" in raw or not (self.ascii or _is_utf8(raw)):
            text = clean(raw)
            raw = text.encode()
            self.ascii = len(text) == len(raw)
        self.data, self.stop = raw, len(raw)

    def bounds(self) -> list[tuple[int, int, bool]]:
        """Where each line begins and ends in the block's bytes, its end not counted; and whether it is part of one."""
        if not self._bounds:
            self._bounds = list(self._find_bounds())
        return self._bounds

    def number(self, position: int) -> int:
        """Return which line, from 0, has the byte of `data` at `position`."""
        return self.data.count(b"\n", 0, position)

    def content(self, number: int) -> bytes:
        """Return the bytes of a line as they were logged, without its end."""
        start, stop, _ = self.bounds()[number]
        return self.raw[start:stop]

    def line(self, number: int) -> Line:
        start, stop, cut = self.bounds()[number]
        content, source = self.raw[start:stop], self._source
        return line_of(source.places, source.channel, content, self.position + start, cut=cut, whole=True)

    def lines(self) -> list[Line]:
        """Return all of them."""
        texts = self.data[: self.stop].decode().split("\n")
        places, channel, position = self._source.places, self._source.channel, self.position
        shift = wall_ns = until = -1
        lines = []
        for text, (start, stop, cut) in zip(texts, self.bounds(), strict=True):
            if position + start >= until:
                shift, wall_ns, until = places.piece(position + start)
            first = last = position + start + shift
            if stop > start:
                if position + stop > until:
                    shift, wall_ns, until = places.piece(position + stop - 1)
                last = position + stop + shift
            lines.append(Line(text, channel, first, last, wall_ns, cut, True))
        return lines

    def event(self, number: int) -> int:
        """Return the offset in the log of the byte that made the line finished."""
        start, stop, cut = self.bounds()[number]
        if cut and (stop == len(self.raw) or self.raw[stop] not in b"\r\n"):
            stop = start + self._source.longest
        return self._source.places.locate(self.position + stop)[0]

    def _find_bounds(self) -> Iterator[tuple[int, int, bool]]:
        start, part = 0, self._continued
        cuts = iter([*self._cuts, len(self.raw) + 1])
        cut = next(cuts)
        for line in self.raw.splitlines(keepends=True):  # of bytes: at the three ends only, and it is fast
            stop = start + len(line)
            while cut <= stop:
                yield start, cut, True
                start, cut, part = cut, next(cuts), True
            if start < stop:
                yield start, stop - len(line) + len(line.rstrip(b"\r\n")), part
            start, part = stop, False


class Places:
    """Where the bytes of one channel are in the log."""

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._shifts: list[int] = []  # what offsets have more than positions
        self._times: list[int] = []

    def add(self, position: int, offset: int, wall_ns: int) -> None:
        """Say that the channel's bytes from `position` on lie at `offset`, and when they were read."""
        if self._positions and offset - position == self._shifts[-1] and wall_ns == self._times[-1]:
            return
        self._positions.append(position)
        self._shifts.append(offset - position)
        self._times.append(wall_ns)

    def locate(self, position: int) -> tuple[int, int]:
        """Return the offset and the time of the byte at `position`."""
        shift, wall_ns, _ = self.piece(position)
        return position + shift, wall_ns

    def piece(self, position: int) -> tuple[int, int, int]:
        """Return how much larger offsets are than positions, and the time, from `position` up to the third number."""
        index = bisect_right(self._positions, position)
        until = self._positions[index] if index < len(self._positions) else _NEVER
        return self._shifts[index - 1], self._times[index - 1], until

    def forget(self, position: int) -> None:
        """Forget all before `position`."""
        index = bisect_right(self._positions, position) - 1
        if index > 0:
            del self._positions[:index], self._shifts[:index], self._times[:index]


def line_of(places: Places, channel: str, content: bytes, position: int, *, cut: bool, whole: bool) -> Line:
    """Make the line with the bytes `content`, the first of which is the channel's byte at `position`."""
    start, wall_ns = end, _ = places.locate(position)
    if content:
        last, wall_ns = places.locate(position + len(content) - 1)
        end = last + 1
    return Line(clean(content), channel, start, end, wall_ns, cut, whole)


def clean(content: bytes) -> str:
    """Return one line's text, or that of several joined by newlines: decoded, without ANSI sequences."""
    text = content.decode("utf-8", "replace")
    if "\x1b" not in text:
        return text
    if _CANCEL in text:
        return _ESCAPE.sub("", text, concurrent=True)
    # Most of them are a few colours. Something must stay in their places, lest what is around them become a sequence.
    for _ in range(_FEW):
        colour = _CSI.match(text, text.find("\x1b"))
        if colour is None:
            break
        text = text.replace(colour[0], _CANCEL)
        if "\x1b" not in text:
            return text.replace(_CANCEL, "")
    return _ESCAPE.sub("", text, concurrent=True).replace(_CANCEL, "")


def span_in(content: bytes, start: int, end: int) -> tuple[int, int]:
    """Return where the characters from `start` to `end` of `clean(content)` lie in the bytes of `content`.

    Nothing, when `start == end`, lies behind the character before it.
    """
    if b"\x1b" not in content and content.isascii():
        return start, end
    text = content.decode("utf-8", _WIDTH)
    kept = [0, *(edge for found in _ESCAPE.finditer(text) for edge in found.span()), len(text)]

    def behind(count: int) -> int:
        """The index in `text` just behind the first `count` characters that are kept."""
        for first, last in zip(kept[::2], kept[1::2], strict=True):
            if count <= last - first:
                return first + count
            count -= last - first
        raise IndexError(count)

    stop = behind(end)
    begin = stop if start == end else behind(start + 1) - 1
    widths = [_width(ord(char)) for char in text[:stop]]
    return sum(widths[:begin]), sum(widths)


def _width(code: int) -> int:
    """Bytes of a character; what was no UTF-8 has its width in its code."""
    if 0xDC00 <= code <= 0xDFFF:
        return code - 0xDC00
    return 1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _cuts(raw: bytes, longest: int) -> list[int]:
    """Where lines of more than `longest` bytes are cut. Looks at few of the bytes when there are none."""
    cuts = []
    start = 0
    while len(raw) - start > longest:
        stop = raw.rfind(b"\n", start, start + longest + 1)
        if stop < 0:
            stop = raw.rfind(b"\r", start, start + longest + 1)
        if stop >= 0:
            start = stop + 1
        else:
            start = _before_character(raw, start + longest)
            cuts.append(start)
    return cuts


def _before_character(raw: bytes, position: int) -> int:
    """Return `position`, or where the UTF-8 character begins that it would cut."""
    if raw[position] & 0xC0 != 0x80:
        return position
    for back in (1, 2, 3):
        byte = raw[position - back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return position - back if length > back else position
        if byte < 0x80:
            break
    return position
