"""What is known of a session in, the lines of it that a view shows out: filtered, paused, cleared, drawn as HTML."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ...machines.base import SessionFacts, Tail
from ...steady import Steady
from .cells import StyledLine
from .cuts import from_offset, up_to
from .following import Following
from .record import TAIL_BYTES, picture_of
from .sieve import Looks, lit
from .sift import MOST_LINES, Sifting, offset_since
from .text import to_html

EARLIER_LINES = 200  # that one click on Earlier brings
EARLIER_BYTES = 1024 * 1024  # of the log that they are looked for in, at most


class Picture:
    """Belongs to the I/O thread, but for its making.

    Args:
        known: What is known of the session.
        lines: How many of its newest lines are shown.
        news: Called when it would look otherwise.

    Attributes:
        looks: What of the output is shown, and how.
        paused: It stays as it is.
        repaint: It is to be drawn all the same.
        painted: The lines that were drawn last, and how many lie before them.
        more: How many lines are wanted while it is paused; 0: as many as else.
    """

    def __init__(
        self,
        machine: Steady,
        session: SessionFacts,
        known: Following,
        looks: Looks,
        lines: int,
        news: Callable[[], object],
    ) -> None:
        self._machine, self._session, self._known = machine, session, known
        self._lines, self._news = lines, news
        self.looks = looks
        self.paused = self.repaint = False
        self.painted: tuple[list[StyledLine], int] = ([], 0)
        self.more = 0
        self._paused_at = (0, 0)  # the end of the log, and its newlines, then
        self._earlier: Tail | None = None  # more than the tail, while it is paused
        self._sifting: Sifting | None = None  # where not all lines are shown
        self._from = 0  # the log offset that Clear, or a time, moved to
        self._from_line = True  # a line begins there
        self._rows = 0  # the most lines that were shown; it never gets lower

    async def begin(self) -> None:
        """Find out where it begins, and search for what is to be shown."""
        if self.looks.since:
            self._from, self._from_line = await offset_since(self._machine, self._session.id, self.looks.since)
        self._sift()

    def end(self) -> None:
        """Search no more."""
        if self._sifting is not None:
            self._sifting.stop()

    @property
    def since(self) -> int:
        """How many lines came since it was paused."""
        return self._known.status.newlines - self._paused_at[1]

    @property
    def filtered(self) -> str:
        """Which lines are shown, in words; "" for all."""
        return f"{self.looks.words}: {self._sifting.words}" if self._sifting is not None else ""

    def paint(self, tail: Tail, max_bytes: int) -> str:
        """Draw it as HTML of about `max_bytes` at most; says exactly how many lines are not in it."""
        count = self.more or self._lines
        while True:
            lines, skipped = self._lines_of(tail, count)
            lines = lit(lines, (*self.looks.highlight, self.looks.search))
            self._rows = max(self._rows, min(len(lines) + (skipped > 0), self._lines))
            picture = to_html(lines, skipped=skipped, times=self.looks.times, rows=self._rows)
            size = len(picture.encode())
            if size <= max_bytes or count <= 1:
                self.painted = lines, skipped
                return picture
            count = max(1, min(count - 1, count * max_bytes // size))

    def _lines_of(self, tail: Tail, count: int) -> tuple[list[StyledLine], int]:
        """The last `count` lines to be shown, and how many lie before them."""
        if self._sifting is not None:
            return self._sifting.lines(count)
        if self.paused and self._earlier is not None:
            tail = dataclasses.replace(self._earlier, chunks=up_to(self._earlier.chunks, self._paused_at[0]))
        chunks, before = from_offset(tail.chunks, self._from)
        cleared = bool(chunks) and chunks[0].offset == self._from and self._from_line
        lines, skipped = picture_of(self._session, chunks, count, whole=cleared)
        return lines, tail.newlines_before + before + skipped

    def _sift(self) -> None:
        """Search the log anew for what is to be shown, where that is not all."""
        self.end()
        self._sifting = None
        if self.looks.sifts:
            status = self._known.status
            self._sifting = Sifting(self._machine, self._session.id, self.looks, status, self._from, self._news)

    def pause(self, paused: bool) -> None:
        """Leave it as it is, or follow the output again."""
        self.paused = paused
        self._paused_at = max(self._known.drawn_end, 0), self._known.tail.status.newlines if self._known.tail else 0
        if not paused:
            self._earlier, self.more = None, 0
        self._news()

    def clear(self) -> None:
        """Show what comes from now on."""
        self._from, self._from_line = self._unfinished(), True
        self._sift()
        self._news()

    def _unfinished(self) -> int:
        """Where the line begins that has not ended yet: it stays, as on a terminal, and what is secret in it too."""
        end = max(self._known.drawn_end, 0)
        for chunk in reversed(self._known.tail.chunks if self._known.tail is not None else ()):
            at = chunk.data.rfind(b"\n")
            if at >= 0:
                return chunk.offset + at + 1
            end = chunk.offset
        return end

    def look(self, **changes: object) -> None:
        """Show something else of the output from now on. Raises InvalidRequest where that makes no sense."""
        before = self.looks
        self.looks = dataclasses.replace(before, **changes)  # type: ignore[arg-type]
        if dataclasses.replace(self.looks, times=before.times) != before:
            self._sift()
        self.repaint = True
        self._news()

    def want_earlier(self) -> None:
        """Make it longer at its beginning, by `load_earlier`. To be paused before."""
        self.more = min(MOST_LINES, max(self.more, self._lines) + EARLIER_LINES)

    async def load_earlier(self) -> None:
        """Fetch what is wanted, and draw it."""
        wanted = TAIL_BYTES * (1 + self.more // EARLIER_LINES)
        self._earlier = await self._machine.tail(self._session.id, min(EARLIER_BYTES, wanted))
        self.repaint = True
        self._news()

    @property
    def at_most(self) -> bool:
        """Whether there are more lines before those that were drawn, which cannot be had so."""
        lines, skipped = self.painted
        return bool(skipped) and (self.more >= MOST_LINES or len(lines) < self.more)
