"""One pattern, looking: text patterns for the first line of many that they match, bytes patterns for the first place.

google-re2 tells where to look, `regex` decides, with a time limit and without the interpreter's lock. `re` never sees
output: it would hold the lock until it is done.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from functools import partial
from typing import Any, NamedTuple

import regex

from .dialect import Expression
from .errors import PatternError
from .lines import Line

SECONDS_PER_LINE = 1.0  # of the processor, as `regex` counts them
LONGEST_BYTES_MATCH = 64 * 1024
_SLICE = 32 * 1024  # bytes of many lines that `regex` sees at once
_SLICE_SECONDS = 0.1  # what it may take then; after that it sees line by line
_DENSE = 512  # where google-re2 stops for nothing more often than once in so many bytes, `regex` sees slices
_PATIENCE = 8  # stops for nothing before that is asked

Source = str | bytes | re.Pattern[str] | re.Pattern[bytes] | regex.Pattern[str] | regex.Pattern[bytes]


class Spot(NamedTuple):
    """What was found, from `begin` to `end` in the bytes that were searched; without a match it took too long there."""

    begin: int
    end: int
    match: Any


class TextNeedle:
    """A text pattern.

    Args:
        source: The pattern. One that was compiled by `regex` keeps the meaning it has there.
        seconds: What it may take on one line.

    Raises:
        PatternError: Python's `re` does not compile it.
    """

    def __init__(self, source: Source, seconds: float = SECONDS_PER_LINE) -> None:
        self.source, self.seconds = source, seconds
        self._expression = _expression(source)
        self._by_slice = self._expression is not None  # `regex` may be asked about many lines at once
        self._exact(True)  # so that what it refuses is told now, and the first match need not wait for it

    def find(self, data: bytes, start: int, stop: int, *, ascii: bool) -> Spot | None:
        """Return the first line of `data[start:stop]` that matches, or takes too long.

        `data` is UTF-8, its lines are joined by newlines; `start` is where a line begins, `stop` where one ends.
        """
        loose = self._expression.loose(ascii=ascii) if self._expression is not None else None
        begin, misses = start, 0
        while loose is not None:
            if begin > stop:
                return None
            found = loose.search(data, begin, stop)
            if found is None:
                return None
            spot = self._look(data, found.start(), stop)
            if spot is not None:
                return spot
            begin = _line_end(data, found.start(), stop) + 1
            misses += 1
            if self._by_slice and misses > _PATIENCE and misses * _DENSE > begin - start:
                break
        return self._find_slowly(data, begin, stop, ascii)

    def find_in_line(self, line: Line, content: bytes) -> Spot | None:
        """Search one line, which was made of the bytes `content`."""
        data = line.text.encode()
        return self.find(data, 0, len(data), ascii=line.text.isascii())

    def _find_slowly(self, data: bytes, begin: int, stop: int, ascii: bool) -> Spot | None:
        """As `find`, without google-re2."""
        while begin <= stop:
            position = begin
            if self._by_slice:
                end = _line_end(data, min(stop, begin + _SLICE), stop)
                text = data[begin:end].decode()
                try:
                    found = self._exact(ascii).search(text, timeout=_SLICE_SECONDS, concurrent=True)
                except TimeoutError:
                    self._by_slice = False
                else:
                    if found is None:
                        begin = end + 1
                        continue
                    position += found.start() if ascii else len(text[: found.start()].encode())
            spot = self._look(data, position, stop)
            if spot is not None:
                return spot
            begin = _line_end(data, position, stop) + 1
        return None

    def _look(self, data: bytes, position: int, stop: int) -> Spot | None:
        """Search the one line that `position` is in."""
        begin, end = data.rfind(b"\n", 0, position) + 1, _line_end(data, position, stop)
        line = data[begin:end].decode()
        try:
            match = self._exact(line.isascii()).search(line, timeout=self.seconds, concurrent=True)
        except TimeoutError:
            return Spot(begin, end, None)
        return None if match is None else Spot(begin, end, match)

    def _exact(self, ascii: bool) -> regex.Pattern[Any]:
        if self._expression is None:
            assert isinstance(self.source, regex.Pattern)
            return self.source
        return self._expression.exact(ascii=ascii)


class BytesNeedle:
    """A bytes pattern. `source`, `seconds` and what is raised are as for `TextNeedle`."""

    def __init__(self, source: Source, seconds: float = SECONDS_PER_LINE) -> None:
        self.source, self.seconds = source, seconds
        expression = _expression(source)
        self._loose = expression.loose(ascii=False) if expression is not None else None
        self._exact: Any = expression.exact(ascii=False) if expression is not None else source

    def find_in_line(self, line: Line, content: bytes) -> Spot | None:
        """As `TextNeedle.find_in_line`, but looks at the bytes."""
        return self.find(content, [len(content)])

    def may_match(self, data: bytes, start: int, stop: int) -> bool:
        """Whether the pattern could match anywhere within `data[start:stop]`."""
        return self._loose is None or self._loose.search(data, start, stop) is not None

    def find(self, data: bytes, points: list[int]) -> Spot | None:
        """Return the first of the `points` up to which the last 64 KiB match; what it returns ends there.

        The match is within `data[begin:end]`.
        """
        index = 0
        while index < len(points):
            begin = max(0, points[index] - LONGEST_BYTES_MATCH)
            if not self.may_match(data, begin, points[index]):
                if not self.may_match(data, begin, points[-1]):
                    return None
                # What may match may still do so with more behind it, so the first point can be bisected.
                may_match = partial(self.may_match, data, begin)
                index = bisect_left(points, True, lo=index, key=may_match)
                begin = max(0, points[index] - LONGEST_BYTES_MATCH)
            window = data[begin : points[index]]
            try:
                match = self._exact.search(window, timeout=self.seconds, concurrent=True)
            except TimeoutError:
                return Spot(begin, points[index], None)
            if match is not None:
                return Spot(begin, points[index], match)
            index += 1
        return None


def source_of(pattern: Source) -> str | bytes:
    """Return the text of a pattern, however it was given. Raises PatternError for what is none."""
    if isinstance(pattern, (re.Pattern, regex.Pattern)):
        return pattern.pattern
    if isinstance(pattern, (str, bytes)):
        return pattern
    raise PatternError(repr(pattern), "it is neither text, bytes, nor compiled", None)


def _expression(source: Source) -> Expression | None:
    if isinstance(source, regex.Pattern):
        return None
    return Expression(source_of(source), source.flags if isinstance(source, re.Pattern) else 0)


def _line_end(data: bytes, position: int, stop: int) -> int:
    end = data.find(b"\n", position, stop)
    return stop if end < 0 else end
