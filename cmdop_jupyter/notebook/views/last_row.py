"""The last row of a terminal, rewritten in place while somebody waits; what is printed meanwhile goes above it."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

from .cells import width

CLEAR = "\r\x1b[K"


class LastRow:
    """Where stdout is no terminal it shows nothing."""

    def __init__(self) -> None:
        self._shown = ""
        self._users = 0
        self._unfinished = False  # somebody has printed half a line: it is not to be overwritten
        self._before: tuple[TextIO, TextIO] | None = None

    def begin(self) -> None:
        """Make room; each `begin` needs an `end`."""
        self._users += 1
        if self._users == 1 and sys.stdout.isatty():
            self._before = sys.stdout, sys.stderr
            sys.stdout, sys.stderr = (_Above(self, stream) for stream in self._before)

    def end(self) -> None:
        """Take it away, with the last who began."""
        self._users -= 1
        if self._users or self._before is None:
            return
        self.clear()
        for name, before in zip(("stdout", "stderr"), self._before, strict=True):
            if isinstance(getattr(sys, name), _Above):  # else somebody else has put something there
                setattr(sys, name, before)
        self._before, self._unfinished = None, False

    def say(self, text: str) -> None:
        """Show one line, as much of it as a row holds."""
        if self._before is None or self._unfinished:
            return
        out = self._before[0]
        text = _cut(text, _columns(out) - 1)
        if text != self._shown:
            self._shown = text
            out.write(CLEAR + text)
            out.flush()

    def clear(self) -> None:
        """Leave the row to somebody who prints."""
        if self._shown and self._before is not None:
            self._shown = ""
            self._before[0].write(CLEAR)
            self._before[0].flush()

    def printed(self, text: str) -> None:
        """Somebody printed that."""
        if text:
            self._unfinished = not text.endswith("\n")


class _Above:
    """A stream that clears the row before anything is written to it."""

    def __init__(self, row: LastRow, stream: TextIO) -> None:
        self._row, self._stream = row, stream

    def write(self, text: str) -> int:
        self._row.clear()
        self._row.printed(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _cut(text: str, columns: int) -> str:
    """As much of a text as fits, with `…` where it does not."""
    used, fits = 0, 0  # `fits`: characters that leave room for the mark
    for char in text:
        used += width(char)
        if used > columns:
            return text[:fits] + "…"
        fits += used < columns
    return text
