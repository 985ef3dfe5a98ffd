"""One row of a terminal: characters put, overwritten and erased by column; out comes a line in pieces of one style."""

import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby

from .sgr import PLAIN, Style

MAX_COLUMNS = 2000  # what is kept of one row; the rest is only counted
MAX_MARKS = 8  # combining characters kept on one cell

# Shown as a replacement character in the end, so they take a column though Unicode gives them none.
BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@dataclass(frozen=True, slots=True)
class StyledLine:
    """One row of a picture.

    Attributes:
        channel: Who wrote it.
        spans: Its text in pieces of one style, trailing blanks left off.
        characters: How many the whole row has; more than `spans` hold when its end was cut off.
        headless: The row began before what was read, so its first characters are not known.
        wraps: It reaches the terminal's last column: what follows may be on the next row.
        trimmed: Its first known characters were left out.
        wall_ns: When it was begun: nanoseconds since the epoch; 0 where that is not known.
    """

    channel: str
    spans: tuple[tuple[str, Style], ...] = ()
    characters: int = 0
    headless: bool = False
    wraps: bool = field(default=False, compare=False)
    trimmed: bool = field(default=False, compare=False)
    wall_ns: int = field(default=0, compare=False)

    @property
    def text(self) -> str:
        """What is shown of the row."""
        return "".join([text for text, _ in self.spans])

    @property
    def cut(self) -> bool:
        """Whether the end of the row is missing in `spans`."""
        return self.characters > sum([len(text) for text, _ in self.spans])


@lru_cache(4096)
def width(char: str) -> int:
    """Return the columns a character takes: 0, 1 or 2."""
    if char in BIDI or char == "\u00ad":
        return 1
    if unicodedata.category(char) in ("Mn", "Me", "Cf") or "\u1160" <= char <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class Row:
    """Cells: one string and one style a column, "" in the second column of a wide character.

    Attributes:
        serial: Place among all rows, in order of creation.
        ended: A line feed came; nothing more is expected here.
        headless, wall_ns: See `StyledLine`.
    """

    __slots__ = ("_chars", "_hidden", "_styles", "_width", "ended", "headless", "serial", "wall_ns")

    def __init__(self, serial: int, wall_ns: int = 0) -> None:
        self.serial, self.wall_ns = serial, wall_ns
        self.ended = self.headless = False
        self._chars: list[str] = []
        self._styles: list[Style] = []
        self._width = 0  # columns reached, those past MAX_COLUMNS too
        self._hidden = 0  # characters past MAX_COLUMNS

    def put(self, col: int, cells: str | list[str], style: Style) -> int:
        """Write `cells` from column `col` on; return the column behind them."""
        chars, styles = self._chars, self._styles
        end = col + len(cells)
        if end > MAX_COLUMNS:
            cells = self._kept(col, cells)
            if not cells:
                return end
        count = len(cells)
        if col > len(chars):
            self._pad(col)
        if col == len(chars):
            chars.extend(cells)
            styles.extend([style] * count)
        else:
            self._part(col)
            self._part(col + count)
            chars[col : col + count] = cells
            styles[col : col + count] = [style] * count
        if len(chars) > self._width:
            self._width = len(chars)
        return end

    def mark(self, col: int, mark: str) -> None:
        """Add a character of no width to the one before column `col`."""
        col -= 1
        if 0 <= col < len(self._chars):
            if not self._chars[col]:
                col -= 1
            if len(self._chars[col]) <= MAX_MARKS:
                self._chars[col] += mark

    def erase(self, start: int, end: int | None = None) -> None:
        """Blank columns `start` to `end`, or all from `start` on."""
        chars, styles = self._chars, self._styles
        self._part(start)
        if end is None:
            del chars[start:], styles[start:]
            self._width = min(self._width, start)
            self._hidden = max(0, self._width - MAX_COLUMNS)
            return
        end = min(end, len(chars))
        self._part(end)
        if end > start:
            chars[start:end] = " " * (end - start)
            styles[start:end] = [PLAIN] * (end - start)

    def insert(self, col: int, count: int, limit: int) -> None:
        """Push what is at column `col` to the right by `count` blanks; what gets past column `limit` is lost."""
        if col < len(self._chars):
            self._part(col)
            self._chars[col:col] = " " * min(count, limit)
            self._styles[col:col] = [PLAIN] * min(count, limit)
            self._part(limit)
            del self._chars[limit:], self._styles[limit:]
            self._width, self._hidden = len(self._chars), 0

    def delete(self, col: int, count: int) -> None:
        """Take `count` columns out at `col`."""
        if col < len(self._chars):
            self._part(col)
            self._part(col + count)
            del self._chars[col : col + count], self._styles[col : col + count]
            self._width, self._hidden = len(self._chars), 0

    def blank(self) -> bool:
        """Whether nothing of it can be seen."""
        return not self._end() and not self._hidden

    def line(self, channel: str, columns: int | None = None) -> StyledLine:
        """Return the row as it is shown, by a terminal of so many columns."""
        chars, styles, end = self._chars, self._styles, self._end()
        if not end:
            return StyledLine(channel, (), self._hidden, self.headless, wall_ns=self.wall_ns)
        pieces = []
        if styles.count(styles[0]) == len(styles):
            pieces.append(("".join(chars[:end]), styles[0]))
        else:
            at = 0
            for style, group in groupby(styles[:end]):
                start, at = at, at + len(list(group))
                pieces.append(("".join(chars[start:at]), style))
        shown = sum([len(text) for text, _ in pieces])
        wraps = columns is not None and end >= columns - 1  # a wide character leaves the last column free
        return StyledLine(channel, tuple(pieces), shown + self._hidden, self.headless, wraps, wall_ns=self.wall_ns)

    def _end(self) -> int:
        """The column behind the last cell that shows anything."""
        chars, styles = self._chars, self._styles
        text = "".join(chars)
        end = len(chars)
        blanks = len(text) - len(text.rstrip(" "))
        if styles[end - blanks :].count(PLAIN) == blanks:
            return end - blanks
        while end and chars[end - 1] == " " and not (styles[end - 1].inverse or styles[end - 1].bg is not None):
            end -= 1
        return end

    def _kept(self, col: int, cells: str | list[str]) -> str | list[str]:
        """Count what of `cells` lies past the last column that is kept; return the rest."""
        end = col + len(cells)
        keep = max(0, MAX_COLUMNS - col)
        if 0 < keep < len(cells) and not cells[keep]:
            keep -= 1
        new = end - max(self._width, col + keep)
        if new > 0:
            self._hidden += new if isinstance(cells, str) else sum([1 for cell in cells[-new:] if cell])
            self._width = end
        return cells[:keep]

    def _pad(self, col: int) -> None:
        self._styles.extend([PLAIN] * (col - len(self._chars)))
        self._chars.extend(" " * (col - len(self._chars)))

    def _part(self, col: int) -> None:
        """Blank the wide character on both sides of the boundary before `col`, which is about to lose a half."""
        if 0 < col < len(self._chars) and not self._chars[col]:
            self._chars[col - 1] = self._chars[col] = " "
