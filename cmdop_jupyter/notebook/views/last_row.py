"""The last row of a terminal, rewritten in place while somebody waits; what is printed meanwhile goes above it."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

from ...runtime import ReentrantLock, after_fork, is_main_thread, thread_id
from .cells import width

CLEAR = "\r\x1b[K"


class LastRow:
    """Has stdout and stderr write whole lines, one thread at a time. Where stdout is no terminal it shows nothing.

    `print` writes its text and its newline apart, so lines of two threads mix; and Python before 3.12.5 ends with a
    segmentation fault when two threads write to one text stream (gh-119506). Handlers print on threads.
    """

    def __init__(self) -> None:
        self._renew_lock()
        after_fork(self._renew_lock)
        self._shown = ""
        self._users = 0
        self._unfinished = False  # somebody has printed half a line: it is not to be overwritten
        self._out = sys.stdout
        self._streams = {name: _Lines(self, getattr(sys, name)) for name in ("stdout", "stderr")}
        for name, stream in self._streams.items():
            setattr(sys, name, stream)

    def close(self) -> None:
        """Give stdout and stderr back as they were."""
        self.flush()
        for name, stream in self._streams.items():
            if getattr(sys, name) is stream:  # else somebody else has put something there
                setattr(sys, name, stream.below)

    def flush(self) -> None:
        """Write what threads have printed without a newline."""
        for stream in self._streams.values():
            stream.flush()

    def begin(self) -> None:
        """Make room; each `begin` needs an `end`."""
        self._users += 1

    def end(self) -> None:
        """Take it away, with the last who began."""
        self._users -= 1
        if not self._users:
            self._clear()

    def say(self, text: str) -> None:
        """Show one line, as much of it as a row holds."""
        with self._lock:
            if not self._users or self._unfinished or not self._out.isatty():
                return
            text = _cut(text, _columns(self._out) - 1)
            if text != self._shown:
                self._shown = text
                self._out.write(CLEAR + text)
                self._out.flush()

    def put(self, text: str, stream: TextIO, *, flush: bool) -> None:
        """Write a text to one of the streams, above the row."""
        with self._lock:
            if text:
                self._clear()
                self._unfinished = not text.endswith("\n")
                stream.write(text)
            if flush:
                stream.flush()

    def _renew_lock(self) -> None:
        self._lock = ReentrantLock()

    def _clear(self) -> None:
        with self._lock:
            if self._shown:
                self._shown = ""
                self._out.write(CLEAR)
                self._out.flush()


class _Lines:
    """A stream that is written line by line: what a thread has not ended waits for the rest, or for a flush."""

    def __init__(self, row: LastRow, below: TextIO) -> None:
        self._row, self.below = row, below
        self._begun: dict[int, str] = {}  # by thread: its line that has not ended

    def write(self, text: str) -> int:
        begun = self._begun.pop(thread_id(), "") + text
        end = begun.rfind("\n") + 1
        if begun[end:]:
            self._begun[thread_id()] = begun[end:]
        if end:
            self._row.put(begun[:end], self.below, flush=False)
        return len(text)

    def flush(self) -> None:
        """Write the caller's line as it is; on the main thread all threads' (the process may be about to end)."""
        threads = list(self._begun) if is_main_thread() else [thread_id()]
        begun = "".join(self._begun.pop(thread, "") for thread in threads)
        self._row.put(begun, self.below, flush=True)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


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
