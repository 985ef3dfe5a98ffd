"""What a view shows of a log, as words of people, and the chunks of a log in, its lines that are shown out.

Knows no page and no clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import regex

from ...agent.log import Chunk
from ...errors import InvalidRequest, PatternTooSlow
from ...lines import Line
from ...patterns import Grep
from .cells import MAX_COLUMNS, StyledLine
from .redact import restyled
from .sgr import PLAIN, Style

SECONDS = 1.0  # that a pattern may take on one line
LIT_SECONDS = 0.05  # that highlights may take in one picture
LIT = Style(fg=(0, 0, 0), bg=(255, 217, 61), bold=True)
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FLAGS = re.compile(r"\(\?([aimsux]+)\)")


@dataclass(frozen=True, slots=True)
class Looks:
    """What a view shows of the output, and how.

    Attributes:
        include: Regular expressions of which a line must match one.
        search: One more that it must match.
        exclude: Regular expressions of which it may match none.
        highlight: Regular expressions whose matches stand out.
        since: Only what came since then: `10m`, `14:05`, or as ISO 8601 writes it.
        times: When each line was begun is told.
        channel: The only one whose lines are shown; "" for all.

    Raises:
        InvalidRequest: A time or a pattern makes no sense.
    """

    include: tuple[str, ...] = ()
    search: str = ""
    exclude: tuple[str, ...] = ()
    highlight: tuple[str, ...] = ()
    since: str = ""
    times: bool = False
    channel: str = ""

    def __post_init__(self) -> None:
        for pattern in (*self.include, self.search, *self.exclude, *self.highlight):
            Grep(pattern)
        if self.since:
            since_ns(self.since, 0)

    @property
    def sifts(self) -> bool:
        """Whether it leaves lines out, so that all of the log has to be searched."""
        return bool(self.include or self.search or self.exclude or self.channel)

    @property
    def words(self) -> str:
        """What lines are shown; "" for all."""
        words = [f"/{pattern}/" for pattern in (*self.include, self.search) if pattern]
        words += [f"without /{pattern}/" for pattern in self.exclude]
        if self.channel:
            words.insert(0, self.channel)
        return " ".join(words)


class Sieve:
    """Take the chunks of a log, give back the finished lines that are to be shown.

    Raises:
        PatternTooSlow: From `feed` and `end`: a pattern took over a second on one line.
    """

    def __init__(self, looks: Looks) -> None:
        wanted = [pattern for pattern in (_either(looks.include), looks.search) if pattern]
        self._grep = Grep(wanted[0] if wanted else "", looks.channel or None)
        self._wanted = [regex.compile(pattern) for pattern in wanted]
        self._unwanted = regex.compile(_either(looks.exclude)) if looks.exclude else None

    def feed(self, chunks: Sequence[Chunk]) -> list[Line]:
        return self._kept(self._grep.feed(chunks))

    def gap(self, start: int, stop: int) -> list[Line]:
        return self._kept(self._grep.gap(start, stop))

    def end(self) -> list[Line]:
        return self._kept(self._grep.end())

    def _kept(self, lines: list[Line]) -> list[Line]:
        wanted = self._wanted[1:]
        if not wanted and self._unwanted is None:
            return lines
        return [line for line in lines if self._passes(line.text, line.start, wanted)]

    def takes(self, text: str) -> bool:
        """Whether a line of that text is to be shown; its channel is not asked for."""
        return self._passes(text, 0, self._wanted)

    def _passes(self, text: str, start: int, wanted: Sequence[regex.Pattern[str]]) -> bool:
        pattern = self._unwanted
        try:
            if pattern is not None and pattern.search(text, timeout=SECONDS):
                return False
            for pattern in wanted:
                if not pattern.search(text, timeout=SECONDS):
                    return False
        except TimeoutError:
            raise PatternTooSlow(pattern.pattern if pattern else "", SECONDS, text[:80], start) from None
        return True


def lit(lines: Iterable[StyledLine], patterns: Sequence[str]) -> list[StyledLine]:
    """Return lines in which what a pattern matches stands out; as many as can be looked at in a moment."""
    made = list(lines)
    compiled = [regex.compile(pattern) for pattern in patterns if pattern]
    try:
        for number, line in enumerate(made if compiled else ()):
            text = line.text
            spans = [match.span() for each in compiled for match in each.finditer(text, timeout=LIT_SECONDS)]
            if spans := [span for span in spans if span[0] < span[1]]:
                made[number] = restyled(line, spans, LIT)
    except TimeoutError:
        pass
    return made


def styled(line: Line) -> StyledLine:
    """A line that was found, as one of a picture."""
    text = line.text[:MAX_COLUMNS]
    return StyledLine(line.channel, ((text, PLAIN),) if text else (), len(line.text), wall_ns=line.wall_ns)


def since_ns(words: str, now_ns: int) -> int:
    """The time that `10m`, `14:05` (the newest one) or an ISO time means: nanoseconds since the epoch.

    Raises:
        InvalidRequest: It is none of them.
    """
    if ago := _AGO.fullmatch(words.strip()):
        return now_ns - int(float(ago[1]) * _UNITS[ago[2]] * 1e9)
    now = datetime.fromtimestamp(now_ns / 1e9)
    for form in ("%H:%M", "%H:%M:%S"):
        try:
            clock = datetime.strptime(words.strip(), form)
        except ValueError:
            continue
        then = now.replace(hour=clock.hour, minute=clock.minute, second=clock.second, microsecond=0)
        return int((then.timestamp() - (86400 if then > now else 0)) * 1e9)
    try:
        return int(datetime.fromisoformat(words.strip()).timestamp() * 1e9)
    except ValueError:
        raise InvalidRequest(f"{words!r} is no time: write 10m, 14:05 or 2026-11-22T14:05") from None


def _either(patterns: Sequence[str]) -> str:
    """One pattern that matches where one of them does; flags at the front of each stay its own."""
    parts: list[str] = []
    for pattern in patterns:
        flags = _FLAGS.match(pattern)
        parts.append(f"(?{flags[1]}:{pattern[flags.end() :]})" if flags else f"(?:{pattern})")
    return "|".join(parts)
