"""Tails of one machine of a fleet in; its newest lines, those that are new, its rate and its row out."""

from __future__ import annotations

import asyncio
import time

from ...agent.log import Chunk
from ...fleet_stream import FleetStream, newest
from ...lines import Line, LineAssembler
from ...machines.base import Tail
from .fleet_text import Entry, NewLine, color
from .record import link_words
from .text import masked

FAILED_LINES = 8  # that are shown of a machine that failed


class Watched:
    """What is seen of one machine's output."""

    def __init__(self, member: FleetStream, number: int) -> None:
        self.member, self.color = member, color(number)
        self.tail: Tail | None = None
        self.lines: tuple[str, ...] = ()  # its newest, oldest first
        self.rate = 0.0
        self.due = 0.0  # when its tail may be asked for again
        self.hurry = asyncio.Event()
        self._merged_to = 0
        self._rate_from = (0.0, 0)

    def take(self, tail: Tail) -> list[tuple[float, NewLine]]:
        """Take its newest tail; return the whole lines that are new, each with when it came by our clock."""
        now, status = time.monotonic(), tail.status
        self.tail = tail
        at, end = self._rate_from
        if now - at >= 0.5:
            self.rate = max(0, status.end - end) / (now - at) if at else 0.0
            self._rate_from = (now, status.end)
        self.lines = masked([("", text) for text in newest(tail.chunks)])
        return [
            (
                now - max(0, status.wall_ns - line.wall_ns) / 1e9,
                NewLine(self.member.machine, self.color, text, line.channel),
            )
            for line, text in self._fresh(tail.chunks)
        ]

    def _fresh(self, chunks: list[Chunk]) -> list[tuple[Line, str]]:
        """The whole lines that are new, and how each is shown: what is secret may be more than one line."""
        if not chunks:
            return []
        assembler, begin = LineAssembler(), chunks[0].offset
        lines = [line for chunk in chunks for line in assembler.feed(chunk)]
        known, self._merged_to = self._merged_to, max([self._merged_to, *(line.end + 1 for line in lines)])
        # What a tail begins with may be the end of a line.
        return [
            (line, text)
            for line, text in zip(lines, masked([(line.channel, line.text) for line in lines]), strict=True)
            if line.start >= known and (line.start > begin or begin in (0, known))
        ]

    def entry(self) -> Entry:
        """Its row as of now."""
        member = self.member
        link = ""
        if member.attached and not member.known.over:
            link = link_words(member._machine.link, member.machine, time.monotonic())
        fresh = time.monotonic() - self._rate_from[0] < 3.0
        row = member.row(self.lines[-1] if self.lines else "")
        return Entry(
            row, link, self.rate if fresh else 0.0, self.lines[-FAILED_LINES:] if row.outcome == "failed" else ()
        )
