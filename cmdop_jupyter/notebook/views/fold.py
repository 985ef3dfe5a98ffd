"""Chunks of a log in, its last lines out as a terminal would show them. Knows no time, no page and no files."""

import codecs
import re
from collections.abc import Iterable, Iterator
from itertools import count, groupby

from ...agent.log import Chunk
from .cells import MAX_COLUMNS, Row, StyledLine, width
from .sgr import PLAIN, Color, Style, number, sgr

__all__ = ["MAX_COLUMNS", "PLAIN", "Color", "Style", "StyledLine", "fold"]

MAX_STRING = 4 * 1024  # characters that an OSC, DCS or APC string without an end can hide
SCREEN_ROWS = 40  # sessions start on terminals of 120×40

Cursor = tuple[int, int, Style]


def fold(
    chunks: Iterable[Chunk],
    *,
    max_lines: int = 200,
    columns: int | None = None,
    screen_rows: int = SCREEN_ROWS,
    from_start: bool = False,
) -> list[StyledLine]:
    """Return the last rows that `chunks` leave on the terminals of their channels, in order of creation.

    Every channel is a terminal of its own: its cursor moves among its own rows. An unfinished row is continued where it
    stands, whoever wrote in between, and stays in the picture however old it is. How the bytes of a channel were cut
    changes nothing; a character or escape sequence whose end has not come is not shown.

    Args:
        chunks: Of one log, without holes.
        max_lines: How many rows to return, and how far up a cursor can move.
        columns: Where rows wrap, for a session with one terminal for everything; None: they do not.
        screen_rows: Height of the terminals, for sequences that count from the top of the screen.
        from_start: The first chunk begins with a line (that a log does, at offset 0, is known). Else it may begin
            inside a line, a character or an escape sequence: that line is left out, or shown as `headless` where its
            channel has no other.

    Raises:
        ValueError: If `max_lines`, `columns` or `screen_rows` is less than 1.
    """
    if min(max_lines, screen_rows, 1 if columns is None else columns) < 1:
        raise ValueError(f"sizes must be at least 1, got {max_lines=}, {columns=}, {screen_rows=}")
    serial = count()
    screens: dict[str, _Screen] = {}
    for channel, run in groupby((chunk for chunk in chunks if chunk.data), key=lambda chunk: chunk.channel):
        parts = list(run)
        if channel not in screens:
            from_start = from_start or (not screens and parts[0].offset == 0)
            screens[channel] = _Screen(serial, max_lines, columns and min(columns, MAX_COLUMNS), screen_rows)
            if not from_start:
                # Only the first chunk was cut just anywhere; other channels begin with a read of their own.
                screens[channel].come_late(mid_line=len(screens) == 1)
        for wall_ns, same in groupby(parts, key=lambda chunk: chunk.wall_ns):
            screens[channel].wall_ns = wall_ns
            screens[channel].feed(b"".join([chunk.data for chunk in same]))
    live: list[tuple[int, str, Row]] = []
    done: list[tuple[int, str, Row]] = []
    for channel, screen in screens.items():
        rows = screen.finish()
        done += [(row.serial, channel, row) for row in rows[:-2]]
        for row in rows[-2:]:
            (done if row.ended else live).append((row.serial, channel, row))
    done.sort(key=lambda entry: entry[0])
    room = max(0, max_lines - len(live))
    picture = sorted(done[max(0, len(done) - room) :] + live, key=lambda entry: entry[0])
    return [row.line(channel, columns) for _, channel, row in picture[-max_lines:]]


# A stretch of text and line feeds | an SGR | another CSI | a string and perhaps its end | another escape sequence |
# controls that do nothing | one that does. What matches no group is a sequence that lacks its end.
_TOKEN = re.compile(
    r"([^\x00-\x09\x0b-\x1f\x7f-\x9f]+)"
    r"|\x1b\[([0-9;:]{0,100})m"
    r"|\x1b\[([0-?]*)[ -/]*([@-~])"
    r"|\x1b[\]PX^_]([^\x07\x18\x1a\x1b\x9c\n\r]*)(\x07|\x9c|\x1b\\)?"
    r"|\x1b([ -/]+[0-~]|[0-OQ-WYZ\\`-~])"
    r"|([\x00-\x07\x0e-\x1a\x1c-\x1f\x7f-\x9f]+)"
    r"|([\x08\x09\x0b-\x0d])"
    r"|\x1b\[[0-?]*[ -/]*|\x1b[ -/]*"
)
_TEXT, _SGR, _CSI, _OPEN, _STRING, _ESCAPE, _IDLE, _CONTROL = 1, 2, 4, 5, 6, 7, 8, 9  # the last group of each
_COLORS = re.compile(r"\x1b\[([0-9;:]{0,100})m")
_MOVES = re.compile(r"[\x00-\x09\x0b-\x1a\x1c-\x1f\x7f-\x9f]|\x1b(?!\[[0-9;:]{0,100}m)")  # anything but lines and SGR
_LINE_END = re.compile(r"\r*\n|\r+(?=[^\r\n])")
# What a tail can begin with: the rest of a string, of a CSI, of a change of character set.
_REMNANT = re.compile(
    rf"[^\x07\x1b\x9c]{{0,{MAX_STRING}}}(?:\x07|\x9c|\x1b\\)"
    r"|\[?[0-9;:?<=>]*[@-Z\\^-~]"
    r"|[()*+][0-9A-Z]"
)
_CONTINUATION = re.compile(rb"[\x80-\xbf]{1,3}")
# Bell, changes of character set and delete show nothing; what else a terminal has no use for is made visible.
_PICTURES = {code: chr(0x2400 + code) for code in range(32)} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
_PICTURES |= dict.fromkeys((0x07, 0x0E, 0x0F, 0x7F), "")
_ALTERNATE = {"47", "1047", "1049"}
_LAST = 1 << 62  # the serial of a status line: below everything


class _Screen:
    """The rows, cursor and parser of one channel."""

    def __init__(self, serial: Iterator[int], max_lines: int, columns: int | None, screen_rows: int) -> None:
        self._serial, self._max_lines, self._columns, self._screen_rows = serial, max_lines, columns, screen_rows
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self.wall_ns = 0  # of what is fed
        self._rest = ""  # an escape sequence that has not ended
        self._late = False  # something may have come before the first byte
        self._lost: str | None = None  # text before the first line end, while that has not come
        self._rows: list[Row] = []
        self._y = self._x = 0  # a row is made when something is written there
        self._style = PLAIN
        self._saved: Cursor = (0, 0, PLAIN)
        self._between = False  # saving the cursor and restoring it
        self._footer: Row | None = None  # a status line on the last line of the screen, as apt has one
        self._in_footer = False
        self._behind: Cursor | None = None  # the cursor of the normal screen, while the alternate one is shown
        self._base = 0  # the first row of the alternate screen

    def come_late(self, *, mid_line: bool) -> None:
        """Say that bytes came before the first; with `mid_line` that they end anywhere."""
        self._late, self._lost = True, "" if mid_line else None

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._late:
            self._late = False
            if cut := _CONTINUATION.match(data):
                data = data[cut.end() :]
        text = self._decode(data)
        if self._lost is None:
            self._read(text)
            return
        before = max(0, len(self._lost) - 1)
        self._lost += text
        if end := _LINE_END.search(self._lost, before):
            text, self._lost = self._lost[end.end() :], None
            self._read(text)

    def finish(self) -> list[Row]:
        """Return the rows; nothing follows."""
        if self._lost:
            remnant = _REMNANT.match(self._lost)
            self._read(self._lost[remnant.end() if remnant else 0 :])
            for row in self._rows[:1]:
                row.headless = True
        rows = self._rows[-self._max_lines - 1 :]
        while rows and not rows[-1].ended and rows[-1].blank():
            rows.pop()
        return rows if self._footer is None or self._footer.blank() else [*rows, self._footer]

    def _read(self, text: str) -> None:
        text = self._reachable((self._rest + text).replace("\r\n", "\n"))
        self._rest = ""
        for token in _TOKEN.finditer(text):
            kind = token.lastindex
            if kind == _TEXT:
                self._lines(token[0])
            elif kind == _SGR:
                self._style = sgr(self._style, token[2])
            elif kind == _CSI:
                self._csi(token[3], token[4])
            elif kind == _CONTROL:
                self._control(token[0])
            elif kind == _ESCAPE:
                self._escape(token[7])
            elif kind == _IDLE:
                if pictures := token[0].translate(_PICTURES):
                    self._write(pictures)
            elif kind != _STRING:
                left = len(text) - token.end()
                if len(token[0]) <= MAX_STRING and (not left or (left == 1 and text.endswith("\x1b"))):
                    self._rest = text[token.start() :]
                    return
                if kind == _OPEN:
                    self._read(token[0][MAX_STRING:])

    def _reachable(self, text: str) -> str:
        """Return `text` without the lines that will be out of reach at its end; only colours are taken from them."""
        limit = self._max_lines
        if text.count("\n") <= limit or self._y < len(self._rows) - 1 or self._in_footer or _MOVES.search(text):
            return text
        old = text.rsplit("\n", limit + 1)[0]
        for params in _COLORS.findall(old):
            self._style = sgr(self._style, params)
        self._forget(len(self._rows))
        self._x = self._y = 0
        return text[len(old) + 1 :]

    def _lines(self, text: str) -> None:
        """Write text that has no controls but line feeds."""
        *lines, last = text.split("\n")
        at = 0
        while at < len(lines):
            if len(lines) - at > self._max_lines and self._y >= len(self._rows) and not self._in_footer:
                # All rows up to here will be out of reach, and so will the next ones.
                self._forget(len(self._rows))
                self._x, at = 0, len(lines) - self._max_lines
            if lines[at]:
                self._write(lines[at])
            self._line_feed()
            at += 1
        if last:
            self._write(last)

    def _write(self, text: str) -> None:
        if text.isascii():
            self._place(text)
            return
        for start in range(0, len(text), MAX_COLUMNS):
            if self._x >= MAX_COLUMNS:
                self._place(text[start:])
                return
            piece = text[start : start + MAX_COLUMNS]
            widths = [width(char) for char in piece]
            cells: list[str] = list(piece)
            if widths.count(1) != len(widths):
                cells = []
                for char, columns in zip(piece, widths, strict=True):
                    if columns:
                        cells += (char, "")[:columns]
                    else:
                        self._place(cells)
                        self._row().mark(self._x, char)
                        cells = []
            self._place(cells)

    def _place(self, cells: str | list[str]) -> None:
        if self._columns is None or self._x + len(cells) <= self._columns:
            if cells:
                self._x = self._row().put(self._x, cells, self._style)
            return
        at = 0
        while at < len(cells):
            if self._x >= self._columns:
                self._line_feed()
            end = min(len(cells), at + self._columns - self._x)
            if end < len(cells) and not cells[end]:
                end -= 1
                if end == at and self._x == 0:  # a wide character, and a single column
                    at += 2
                    continue
            self._x = self._row().put(self._x, cells[at:end], self._style)
            if end < len(cells):
                self._x = self._columns
            at = end

    def _row(self) -> Row:
        """The row under the cursor, made if there is none yet."""
        if self._in_footer and self._footer:
            return self._footer
        rows = self._rows
        while len(rows) <= self._y:
            rows.append(Row(next(self._serial), self.wall_ns))
        return rows[self._y]

    def _line_feed(self) -> None:
        self._x = 0
        if self._in_footer:
            return
        self._row().ended = True
        self._y += 1
        if len(self._rows) > 2 * self._max_lines:
            self._forget(len(self._rows) - self._max_lines)

    def _forget(self, rows: int) -> None:
        """Drop the oldest rows."""
        del self._rows[:rows]
        self._y -= rows
        self._base = max(0, self._base - rows)
        y, x, style = self._saved
        self._saved = (max(0, y - rows), x, style)
        if self._behind:
            y, x, style = self._behind
            self._behind = (max(0, y - rows), x, style)

    def _highest(self) -> int:
        """The first row that the cursor can reach."""
        return max(self._base, len(self._rows) - self._max_lines, 0)

    def _top(self) -> int:
        """The first row of the screen."""
        return max(self._highest(), max(len(self._rows), self._y + 1) - self._screen_rows)

    def _move(self, rows: int) -> None:
        bottom = self._base + self._screen_rows - 1 if self._behind else len(self._rows)
        self._y = max(self._highest(), min(self._y + rows, max(bottom, self._y)))
        self._in_footer = False

    def _column(self, x: int) -> None:
        """Go to a column; never further than the terminal is wide or than text already goes."""
        self._x = max(0, min(x, max(self._x, MAX_COLUMNS) if self._columns is None else self._columns - 1))

    def _back(self, columns: int) -> None:
        if self._x == self._columns:
            self._x -= 1  # behind the last column is still on it
        self._column(self._x - columns)

    def _control(self, char: str) -> None:
        if char == "\r":
            self._x = 0
        elif char == "\b":
            self._back(1)
        elif char == "\t":
            self._column(self._x - self._x % 8 + 8)
        else:
            self._line_feed()  # form feed and vertical tab, as in xterm

    def _escape(self, name: str) -> None:
        if name == "7":
            self._save()
        elif name == "8":
            self._restore()
        elif name == "M":
            self._move(-1)
        elif name == "D":
            self._move(1)
        elif name == "E":
            self._line_feed()
        elif name == "c":
            self._style, self._x, self._y = PLAIN, 0, self._top()
            self._erase_display(2)

    def _csi(self, params: str, final: str) -> None:
        if params[:1] in ("<", "=", ">", "?"):
            if final in "hl" and not _ALTERNATE.isdisjoint(params[1:].split(";")):
                self._alternate(final == "h")
            return
        numbers = [number(param) for param in params.split(";")]
        first, n = numbers[0], numbers[0] or 1
        if final in "AF":
            self._move(-n)
        elif final in "BEe":
            self._move(n)
        elif final in "Ca":
            self._column(self._x + n)
        elif final == "D":
            self._back(n)
        elif final in "G`":
            self._column(n - 1)
        elif final in "Hf":
            self._go(n, (numbers[1:2] or [1])[0] or 1)
        elif final == "d":
            self._go(n, self._x + 1)
        elif final == "K":
            self._erase_line(first)
        elif final == "J":
            self._erase_display(first)
        elif final in "XP@":
            self._shift(final, n)
        elif final == "s" and not params:
            self._save()
        elif final == "u" and not params:
            self._restore()
        elif final == "r":
            self._footer, self._in_footer = None, False
        if final in "EF":
            self._x = 0

    def _go(self, row: int, col: int) -> None:
        if self._between and row >= self._screen_rows:
            self._footer = self._footer or Row(_LAST)
            self._in_footer = True
        else:
            self._y = self._top() + min(row, self._screen_rows) - 1
            self._in_footer = False
        self._column(col - 1)

    def _save(self) -> None:
        self._saved, self._between = (self._y, self._x, self._style), True

    def _restore(self) -> None:
        y, self._x, self._style = self._saved
        self._y, self._between, self._in_footer = max(y, self._highest()), False, False

    def _written(self) -> bool:
        """Whether there is a row under the cursor."""
        return self._in_footer or self._y < len(self._rows)

    def _shift(self, how: str, cells: int) -> None:
        if self._written():
            row = self._row()
            if how == "X":
                row.erase(self._x, self._x + cells)
            elif how == "P":
                row.delete(self._x, cells)
            else:
                row.insert(self._x, cells, self._columns or MAX_COLUMNS)

    def _erase_line(self, what: int) -> None:
        if self._written():
            if what == 1:
                self._row().erase(0, self._x + 1)
            else:
                self._row().erase(self._x if what == 0 else 0)

    def _erase_display(self, what: int) -> None:
        top = self._top()
        if what == 1:
            doomed = self._rows[top : self._y]
        elif what in (0, 2):
            doomed = self._rows[self._y + 1 if what == 0 else top :]
            self._footer, self._in_footer = None, False
        else:
            return
        for row in doomed:
            row.erase(0)
            row.ended = row.ended and what == 1
        self._erase_line(what)

    def _alternate(self, on: bool) -> None:
        if on and not self._behind:
            self._behind = (self._y, self._x, self._style)
            self._base = self._y = len(self._rows)
            self._x = 0
        elif self._behind and not on:
            del self._rows[self._base :]
            (self._y, self._x, self._style), self._behind, self._base = self._behind, None, 0
        self._in_footer = False
