"""Lines in, the same lines out with what looks like a secret replaced by a mark. Knows no session and no page.

A pattern is tried on the text as a person reads it: rows after folding, without escape sequences, rows that a
terminal wrapped put together again, rows of one channel as one text, so that a key over many lines is found. What is
found is mapped back to the rows and their styles. Where a row's end is not known, what could be the beginning of a
secret counts; where its beginning is not known, that part is left out.
"""

from __future__ import annotations

import time
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby, pairwise

import re2
import regex

from ...errors import InvalidRequest
from .cells import StyledLine
from .sgr import PLAIN, Style

MARK = "[redacted]"
DEFAULT = "default"  # stands for all of `SECRETS` in a list of patterns
SECONDS = 0.1  # that one text may take; what was not searched by then is not shown
LATE = 256  # characters that a row whose beginning is not known does not show
LEAST_PARTIAL = 4  # characters at the end of a row that was cut: fewer tell nothing
REACH = 128  # characters before such an end in which a secret may begin

_KEY = r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_KEY_END = r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY"
_NAMES = (
    r"pass(?:word|wd|phrase|code)|secret|token|api[_-]?key|access[_-]?key(?:[_-]?id)?|private[_-]?key|secret[_-]?key"
    r"|client[_-]?secret|auth[_-]?key|encryption[_-]?key|credentials?"
)
_NOT_BEFORE = r"(?<![A-Za-z0-9])"
# What the groups of a pattern match is replaced, or all of it where it has none.
SECRETS = (
    rf"{_KEY}([\s\S]{{0,16000}}?){_KEY_END}",
    rf"{_KEY}((?:[^\n]{{0,80}}\n(?:[ \t|>]{{0,8}}[A-Za-z0-9+/=]*+[ \t]*+(?=\n|\Z)|[A-Za-z-]{{1,20}}: [^\n]*+))*+)",
    rf"(?m)^((?:[ \t]{{0,8}}[A-Za-z0-9+/=]{{1,80}}[ \t]*+\n){{1,200}}+)[ \t]{{0,8}}{_KEY_END}",
    # A line of a key whose beginning and end are out of sight.
    r"(?m)^[ \t]{0,8}((?=[^\n]*[a-z])(?=[^\n]*[A-Z])(?=[^\n]*\d)(?:[A-Za-z0-9+/]{64}|[A-Za-z0-9+/]{70}))[ \t]*+$",
    rf"{_NOT_BEFORE}(?:A[KS]IA|A[BC]CA|ABIA|AROA|AIDA)[A-Z0-9]{{16}}",
    rf"{_NOT_BEFORE}gh[pousr]_[A-Za-z0-9]{{16,}}",
    rf"{_NOT_BEFORE}github_pat_\w{{20,}}",
    rf"{_NOT_BEFORE}gl(?:pat|ptt|dt|rt|soat|cbt|ft|imt|agent)-[\w.-]{{16,}}",
    rf"{_NOT_BEFORE}xox[a-z]-[A-Za-z0-9-]{{10,}}",
    rf"{_NOT_BEFORE}xapp-[A-Za-z0-9-]{{10,}}",
    r"hooks\.slack\.com/services/([\w/]+)",
    rf"{_NOT_BEFORE}sk-[\w-]{{20,}}",
    rf"{_NOT_BEFORE}[rs]k_(?:live|test)_\w{{16,}}",
    rf"{_NOT_BEFORE}hf_[A-Za-z0-9]{{24,}}",
    rf"{_NOT_BEFORE}AIza[\w-]{{30,}}",
    rf"{_NOT_BEFORE}npm_[A-Za-z0-9]{{30,}}",
    rf"{_NOT_BEFORE}pypi-[\w-]{{40,}}",
    rf"{_NOT_BEFORE}cmd_(?:[A-Za-z_-]{{0,40}}+\d[\w-]{{8,}}|[A-Za-z0-9]{{16,}})[\w-]*",
    rf"{_NOT_BEFORE}eyJ[\w-]{{6,}}\.[\w-]{{6,}}(?:\.[\w-]*)?",
    r"(?i)\bauthorization\\?[\"']?[ \t]*[:=][ \t]*\\?[\"']?(?:(?:bearer|basic|digest|token|negotiate|apikey)[ \t]+)?"
    r"([^\s\"',][^\s\"']*)",
    r"(?i)\bbearer[ \t]+((?=[\w.~+/=-]{0,100}\d)[\w.~+/=-]{8,}|[\w.~+/=-]{20,})",
    rf"(?i)(?:{_NAMES}|\bpwd(?=\W{{0,3}}[=:][ \t]*[^/\s]))\\*[\"']?[ \t]*(?:=>|:=|[=:])[ \t]*"
    r"(?!\[redacted\])(?:\\*\"([^\"\n]*)|\\*'([^'\n]*)|([^\s\"'&]\S*))",
    rf"(?i)--(?:{_NAMES})[ \t]+(?!-|\[redacted\])[\"']?([^\s\"']+)",
    r"://[^\s/:@\"'<>]*:([^\s/\"'<>]+)@",
    r"://([\w-]{20,})@",
)
# A text in which this is not found need not be searched for that; linear, and much faster.
_HINTS = {
    SECRETS[2]: re2.compile(r"-----END [A-Z0-9 ]+"),
    SECRETS[3]: re2.compile(r"(?m)^[ \t]{0,8}[A-Za-z0-9+/]{64}"),
    SECRETS[-4]: re2.compile(r"(?i)(?:pass|secret|token|key|credential|pwd)[a-z]*[\\\"']*[ \t]*[=:]"),
}


class Redactor:
    """Finds what is not to be shown.

    Args:
        patterns: Regular expressions; `"default"` stands for `SECRETS`. What their groups match is replaced, or all
            they match where they have none.

    Raises:
        InvalidRequest: One does not compile.
    """

    def __init__(self, patterns: Iterable[str] = (DEFAULT,), *, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._patterns: list[regex.Pattern[str]] = []
        for source in patterns:
            for each in SECRETS if source == DEFAULT else (source,):
                try:
                    self._patterns.append(regex.compile(each, regex.VERSION0))
                except regex.error as error:
                    raise InvalidRequest(f"redact: {each!r} is no regular expression: {error}") from None

    def __call__(self, text: str) -> str:
        """Return a text with its secrets replaced."""
        if not self._patterns or not text:
            return text
        spans = self.find(text)
        return "".join(_pieces(text, spans)) if spans else text

    def find(self, text: str, *, cut: Sequence[int] = ()) -> list[tuple[int, int]]:
        """Return where secrets are, in order, apart; a text that took too long is one secret.

        Args:
            cut: Offsets at which something is missing in front of a line feed, or of the end.
        """
        plain, places = _without_marks(text)
        encodable = text.isascii() or not _SURROGATE.search(text)  # what google-re2 takes
        found: list[tuple[int, int]] = []
        deadline = time.monotonic() + self._seconds
        try:
            for pattern in self._patterns:
                hint = _HINTS.get(pattern.pattern)
                if hint is not None and encodable and not hint.search(plain):
                    continue
                for match in pattern.finditer(plain, timeout=max(0.001, deadline - time.monotonic())):
                    groups = [span for number in range(1, pattern.groups + 1) for span in match.spans(number)]
                    found += groups if pattern.groups else [match.span()]
            for end in cut if places is None else [bisect_right(places, end - 1) for end in cut]:
                found += self._begun(plain, end, deadline)
        except TimeoutError:
            return [(0, len(text))]
        if places is not None:
            places.append(len(text))
            found = [(places[start], places[stop - 1] + 1 if stop > start else places[start]) for start, stop in found]
        return _joined(found, text)

    def _begun(self, text: str, end: int, deadline: float) -> list[tuple[int, int]]:
        """What at the end of `text[:end]` could be the beginning of something."""
        begin = max(text.rfind("\n", 0, end) + 1, end - REACH)
        found = []
        for pattern in self._patterns:
            if pattern.pattern in SECRETS[:4]:  # of whole lines
                continue
            at = begin
            while at < end:
                left = max(0.001, deadline - time.monotonic())
                match = pattern.search(text, at, end, partial=True, timeout=left)
                if match is None:
                    break
                if match.partial:
                    if end - match.start() >= LEAST_PARTIAL:
                        found.append((match.start(), end))
                    break
                at = max(match.end(), at + 1)
        return found

    def lines(self, lines: Iterable[StyledLine]) -> list[StyledLine]:
        """Return lines with their secrets replaced. Of what was returned it changes nothing."""
        given = list(lines)
        if not self._patterns:
            return given
        made: list[StyledLine | None] = [None] * len(given)
        for channel in dict.fromkeys(line.channel for line in given):
            numbers = [number for number, line in enumerate(given) if line.channel == channel]
            for number, line in zip(numbers, self._of_one([given[number] for number in numbers]), strict=True):
                made[number] = line
        return [line for line in made if line is not None]

    def _of_one(self, lines: list[StyledLine]) -> list[StyledLine]:
        """The lines of one channel, which are one text."""
        spans = self._in_rows(lines, joined=False)
        if any(line.wraps for line in lines):
            # Whether a full row goes on in the next one is not known: it is looked at either way.
            wrapped = self._in_rows(lines, joined=True)
            spans = [_joined(one + other, "") for one, other in zip(spans, wrapped, strict=True)]
        return [
            _late(_masked(line, found)) if found or line.headless else line
            for line, found in zip(lines, spans, strict=True)
        ]

    def _in_rows(self, lines: list[StyledLine], *, joined: bool) -> list[list[tuple[int, int]]]:
        """Where secrets are in each of the lines, full rows `joined` with the next ones."""
        begins: list[int] = []
        texts: list[str] = []
        at = 0
        for line in lines:
            text = line.text
            begins.append(at)
            separator = "" if joined and line.wraps else "\n"
            texts += (text, separator)
            at += len(text) + len(separator)
        whole = "".join(texts)
        ends = [begin + len(line.text) for line, begin in zip(lines, begins, strict=True)]
        spans = self.find(whole, cut=[end for line, end in zip(lines, ends, strict=True) if line.cut])
        if spans == [(0, len(whole))] and len(lines) > 1:  # too slow, or one secret: each line for itself tells
            spans = self._one_by_one(lines, begins)
        made: list[list[tuple[int, int]]] = [[] for _ in lines]
        for start, stop in spans:
            number = max(0, bisect_right(begins, start) - 1)
            while number < len(lines) and begins[number] < stop:
                inside = max(start, begins[number]) - begins[number], min(stop, ends[number]) - begins[number]
                if inside[0] < inside[1]:
                    made[number].append(inside)
                number += 1
        return made

    def _one_by_one(self, lines: list[StyledLine], begins: list[int]) -> list[tuple[int, int]]:
        deadline = time.monotonic() + self._seconds
        spans: list[tuple[int, int]] = []
        for line, begin in zip(lines, begins, strict=True):
            text = line.text
            late = time.monotonic() > deadline
            found = [(0, len(text))] if late else self.find(text, cut=[len(text)] if line.cut else ())
            spans += [(begin + start, begin + stop) for start, stop in found]
        return spans


def restyled(line: StyledLine, spans: Sequence[tuple[int, int]], style: Style) -> StyledLine:
    """Return a line with parts of it in another style."""
    made: list[tuple[str, Style]] = []
    at = 0
    for text, own in line.spans:
        end = at + len(text)
        edges = sorted({at, end, *(edge for span in spans for edge in span if at < edge < end)})
        for start, stop in pairwise(edges):
            inside = any(begin <= start and stop <= last for begin, last in spans)
            made.append((text[start - at : stop - at], style if inside else own))
        at = end
    joined = [("".join(text for text, _ in group), own) for own, group in groupby(made, key=lambda piece: piece[1])]
    return replace(line, spans=tuple(joined))


def _masked(line: StyledLine, spans: list[tuple[int, int]]) -> StyledLine:
    """Return a line with the parts of its text replaced by marks."""
    if not spans:
        return line
    made: list[tuple[str, Style]] = []
    at = 0
    for text, style in line.spans:
        end = at + len(text)
        here = at
        for start, stop in spans:
            if stop <= at or start >= end:
                continue
            if start > here:
                made.append((text[here - at : start - at], style))
            if start >= at:
                made.append((MARK, PLAIN))
            here = min(stop, end)
        if here < end:
            made.append((text[here - at :], style))
        at = end
    hidden = line.characters - at
    return replace(line, spans=tuple(made), characters=sum(len(text) for text, _ in made) + hidden)


def _late(line: StyledLine) -> StyledLine:
    """Leave out what may be the end of a secret that began before what is known of the line."""
    if not line.headless or line.trimmed:
        return line
    text = line.text
    drop = min(LATE, len(text))
    run = regex.match(r"(?=[\w.+/=~-]*\d)(?=[\w.+/=~-]*[A-Za-z])[\w.+/=~-]*", text, pos=drop)
    if run is not None:
        drop = run.end()
    spans, left = [], drop
    for piece, style in line.spans:
        if len(piece) > left:
            spans.append((piece[left:], style))
        left = max(0, left - len(piece))
    return replace(line, spans=tuple(spans), characters=max(0, line.characters - drop), trimmed=True)


def _pieces(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    made: list[str] = []
    at = 0
    for start, stop in spans:
        # A secret over several lines leaves as many lines.
        made += (text[at:start], "\n".join(MARK if part else "" for part in text[start:stop].split("\n")))
        at = stop
    return [*made, text[at:]]


def _joined(spans: list[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """The spans in order, those that overlap or touch as one; without what is empty or a mark already."""
    made: list[tuple[int, int]] = []
    for start, stop in sorted(span for span in spans if span[0] < span[1] and text[slice(*span)] != MARK):
        if made and start <= made[-1][1]:
            made[-1] = (made[-1][0], max(stop, made[-1][1]))
        else:
            made.append((start, stop))
    return made


def _without_marks(text: str) -> tuple[str, list[int] | None]:
    """The text without characters of no width, which can hide a secret from a pattern; where its characters were."""
    if text.isascii():
        return text, None
    places = [at for at, char in enumerate(text) if char.isascii() or unicodedata.category(char) not in _NO_WIDTH]
    if len(places) == len(text):
        return text, None
    return "".join([text[at] for at in places]), places


_NO_WIDTH = {"Mn", "Me", "Cf"}
_SURROGATE = regex.compile("[\ud800-\udfff]")
