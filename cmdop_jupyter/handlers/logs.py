"""Chunks of a log in; counts of its lines by rules, and alerts, out."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import regex

from ..agent.log import CHANNELS, Chunk
from ..errors import InvalidRequest, PatternError, PatternTooSlow
from ..lines import Block, ChannelLines, Line
from ..needles import TextNeedle, source_of
from ..runtime import Lock
from ..words import human_bytes
from .given import check_callable, checked

LINE_SECONDS = 0.1  # of the processor, that a rule may take on one line
TOO_SLOW_LINES = 10  # that a rule may have before it is switched off, if they are more than 1% of its lines
RATE_SECONDS = 3600.0  # how far back `rates` can look
LINE_HEAD = 80  # characters of a line in a message

log = logging.getLogger("cmdop_jupyter")


@dataclass(frozen=True)
class Rule:
    """Lines to count, and perhaps to alert somebody about: `Rule("oom", r"Out of memory", alert=page_me, once=True)`.

    Args:
        name: What its count is called.
        pattern: A regular expression, searched in the line; it means what `wait_for` takes it to mean.
        alert: Called with the line's text; None: nobody is, but of rule `error` the processor's own `alert`.
        once: Alert on the first line only.
        cooldown: Seconds after an alert in which there is no other.

    Raises:
        PatternError: The pattern does not compile.
        InvalidRequest: All else that cannot be.
    """

    name: str
    pattern: str | re.Pattern[str] | regex.Pattern[str]
    alert: Callable[[str], Any] | None = None
    once: bool = False
    cooldown: float = 0.0

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise InvalidRequest(f"a rule has a name, under which it is counted; got {self.name!r}")
        if not self.cooldown >= 0:
            raise InvalidRequest(f"a cooldown is 0 seconds or more, got {self.cooldown} for rule {self.name!r}")
        check_callable(f"the alert of rule {self.name!r}", self.alert)
        if isinstance(source_of(self.pattern), bytes):
            raise PatternError(source_of(self.pattern), "lines are text, and so is a rule's pattern")
        TextNeedle(self.pattern)


Span = tuple[int, int]

DEFAULT_RULES = {"error": r"ERROR|FATAL", "warning": r"WARN"}


class _Tally:
    """A rule at work."""

    def __init__(self, rule: Rule) -> None:
        self.rule, self.needle = rule, TextNeedle(rule.pattern, LINE_SECONDS)
        self.count = self.held_back = self.asked = self.slow = 0
        self.alerted: float | None = None  # when
        self.recent: deque[tuple[float, int]] = deque()  # when, and how many lines from then on; one a second

    @property
    def off(self) -> bool:
        return self.slow >= TOO_SLOW_LINES and self.slow * 100 > self.asked

    def search(self, block: Block, spans: list[Span], errors: list[Exception]) -> tuple[list[Span], list[Span]]:
        """Search the lines within these spans of `block.data`. Return the lines that match, and the spans of others."""
        found, others, data = [], [], block.data
        for start, stop in spans:
            while start <= stop and not self.off:
                spot = self.needle.find(data, start, stop, ascii=block.ascii)
                end = stop if spot is None else spot.end
                self.asked += data.count(b"\n", start, end) + 1
                if spot is None:
                    break
                if spot.match is None:
                    errors.append(self._too_slow(block.line(block.number(spot.begin))))
                    others.append((start, end))
                else:
                    found.append((spot.begin, end))
                    if start < spot.begin:
                        others.append((start, spot.begin - 1))
                start = end + 1
            if start <= stop:
                others.append((start, stop))
        return found, others

    def _too_slow(self, line: Line) -> PatternTooSlow:
        self.slow += 1
        if self.off:
            log.error("rule %r was too slow on %d lines and is off now", self.rule.name, self.slow)
        return PatternTooSlow(source_of(self.needle.source), LINE_SECONDS, line.text[:LINE_HEAD], line.start)

    def saw(self, now: float) -> bool:
        """Count a line; whether there may be an alert."""
        self.count += 1
        if self.recent and now - self.recent[-1][0] < 1.0:
            self.recent[-1] = (self.recent[-1][0], self.recent[-1][1] + 1)
        else:
            self.recent.append((now, 1))
        while now - self.recent[0][0] > RATE_SECONDS:
            self.recent.popleft()
        if self.alerted is not None and (self.rule.once or now - self.alerted < self.rule.cooldown):
            return False
        self.alerted = now
        return True


Alerts = list[tuple[Callable[[str], Any], str]]
"""What is to be called with which line."""


class LogProcessor:
    """Count the lines of a log by rules, and alert somebody.

        processor = LogProcessor(alert=notify)
        stream.on_output(processor.process)
        processor.error_count, processor.rates()["warning"]

    A line is what a channel says up to its end, decoded, without ANSI sequences, however the bytes were cut; one above
    64 KiB comes in parts. The first rule that matches counts it. `stream.on_output(processor.process, thread=True)`
    keeps the search off your loop.

    Alerts are called where `process` is, with the line's text, in order. They may be async: on a loop they run in a
    task that `process` returns (a stream waits for it, a client that ignores it need not), without a loop `process`
    runs them to their end. One that raises stops no other: when all lines of a chunk were processed, the first error is
    raised, so that the stream reports it; others are logged.

    Args:
        rules: Patterns by name, or `Rule`s, in order; by default `error` (ERROR or FATAL) and `warning` (WARN).
        alert: Called with each line of rule `error`; or override `alert`.
        clock: Seconds, for rates and cooldowns.

    Raises:
        PatternError, InvalidRequest: A rule cannot be.
        PatternTooSlow: From `process`: a pattern took more than 0.1 s on a line, which then does not count for it. A
            rule with 10 such lines, if they are more than 1% of all it saw, is switched off, and that is logged.
    """

    def __init__(
        self,
        rules: Mapping[str, str | re.Pattern[str] | regex.Pattern[str]] | Iterable[Rule] | None = None,
        *,
        alert: Callable[[str], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_callable("alert", alert)
        rules = DEFAULT_RULES if rules is None else rules
        own = [Rule(*pair) for pair in rules.items()] if isinstance(rules, Mapping) else list(rules)
        for rule in own:
            if not isinstance(rule, Rule):
                raise InvalidRequest(f"rules are patterns by name, or a list of Rule(name, pattern); got {rule!r}")
        twice = [name for name, count in Counter(rule.name for rule in own).items() if count > 1]
        if twice:
            raise InvalidRequest(f"two rules are called {twice[0]!r}; `a|b` is one rule for two patterns")
        if alert is not None and all(rule.name != "error" or rule.alert is not None for rule in own):
            raise InvalidRequest(
                "no rule would call this alert: it is for rule `error`; Rule(name, pattern, alert=…) is for others"
            )
        self._alert, self._clock = alert, clock
        self._tallies = [_Tally(rule) for rule in own]
        self._channels: dict[str, ChannelLines] = {}
        self._offset = 0  # bytes that came so far
        self._lock = Lock()
        self._alerting: set[asyncio.Task[None]] = set()  # a loop itself does not keep its tasks alive

    def process(self, data: bytes | str, *channel: str) -> Awaitable[None] | None:
        """Take output, and look at the lines it finishes. A str is one line, as `unit="line"` gives them."""
        given, name = checked(f"{data}\n".encode(errors="replace") if isinstance(data, str) else data, channel)
        alerts: Alerts = []
        errors: list[Exception] = []
        with self._lock:
            name = name or CHANNELS[0]
            if name not in self._channels:
                self._channels[name] = ChannelLines(name)
            self._look_at(self._channels[name], given, alerts, errors)
            self._offset += len(given)
        return self._tell(alerts, errors)

    def finish(self) -> Awaitable[None] | None:
        """Look at the unfinished last line too: nothing follows. Raises and returns as `process` does."""
        alerts: Alerts = []
        errors: list[Exception] = []
        with self._lock:
            rests = [(rest.start, lines) for lines in self._channels.values() if (rest := lines.rest()) is not None]
            for _, lines in sorted(rests, key=itemgetter(0)):
                self._look_at(lines, b"\n", alerts, errors)
            self._channels.clear()
        return self._tell(alerts, errors)

    def alert(self, line: str) -> Any:
        """Tell somebody of a line that matched rule `error`; override it. May be async."""
        return self._alert(line) if self._alert is not None else None

    @property
    def counts(self) -> dict[str, int]:
        """Lines by rule."""
        return {tally.rule.name: tally.count for tally in self._tallies}

    @property
    def held_back(self) -> dict[str, int]:
        """Lines by rule that nobody was alerted about, because of `once` or `cooldown`."""
        return {tally.rule.name: tally.held_back for tally in self._tallies}

    @property
    def error_count(self) -> int:
        return self.counts.get("error", 0)

    @property
    def warning_count(self) -> int:
        return self.counts.get("warning", 0)

    def rates(self, seconds: float = 60.0) -> dict[str, float]:
        """Lines a second, by rule, over the last `seconds`, of which there may be 3,600; exact to a second of them."""
        if not 0 < seconds <= RATE_SECONDS:
            raise InvalidRequest(f"rates look back more than 0 and up to {RATE_SECONDS:g} seconds, got {seconds}")
        with self._lock:
            since = self._clock() - seconds
            return {
                tally.rule.name: sum(count for when, count in tally.recent if when > since) / seconds
                for tally in self._tallies
            }

    def __repr__(self) -> str:
        counts = ", ".join(f"{tally.count} {tally.rule.name}{' (off)' * tally.off}" for tally in self._tallies)
        held_back = sum(self.held_back.values())
        held = f"; {held_back} alerts held back" if held_back else ""
        return f"<{type(self).__name__}: {human_bytes(self._offset)}, lines: {counts or 'no rules'}{held}>"

    def _look_at(self, lines: ChannelLines, data: bytes, alerts: Alerts, errors: list[Exception]) -> None:
        """Give `lines` what they have next, and count those it finishes."""
        lines.push(Chunk(self._offset, lines.channel, 0, 0, data))
        block = lines.take()
        if block is None:
            return
        seen: list[tuple[int, int, _Tally]] = []
        spans = [(0, block.stop)]  # where the lines are that no rule has matched yet
        for tally in self._tallies:
            found, spans = tally.search(block, spans, errors)
            seen += [(begin, end, tally) for begin, end in found]
        lines.forget()
        now = self._clock()
        for begin, end, tally in sorted(seen, key=itemgetter(0)):
            alert = tally.rule.alert or (self.alert if tally.rule.name == "error" else None)
            if tally.saw(now) and alert is not None:
                alerts.append((alert, block.data[begin:end].decode()))
            elif alert is not None:
                tally.held_back += 1

    def _tell(self, alerts: Alerts, errors: list[Exception]) -> Awaitable[None] | None:
        later: list[Awaitable[Any]] = []
        for alert, text in alerts:
            try:
                result = alert(text)
            except Exception as error:
                errors.append(error)
            else:
                if inspect.isawaitable(result):
                    later.append(result)
        if not later:
            _raise_first(errors)
            return None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(_finish(later, errors))
            return None
        task = loop.create_task(_finish(later, errors))
        self._alerting.add(task)
        task.add_done_callback(self._alerting.discard)
        return task


def _raise_first(errors: list[Exception]) -> None:
    """Raise the first, log the others."""
    for error in errors[1:]:
        log.error("LogProcessor: %s: %s", type(error).__name__, error)
    if errors:
        raise errors[0]


async def _finish(works: list[Awaitable[Any]], errors: list[Exception]) -> None:
    for work in works:
        try:
            await work
        except Exception as error:
            errors.append(error)
    _raise_first(errors)
