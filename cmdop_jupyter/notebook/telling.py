"""What IPython itself shows of ours, errors and values of cells: it passes `shown` there. The objects stay exact."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

from ..agent.log import Chunk
from ..errors import CmdopError
from ..execution import Completed
from ..fleet_stream import Row
from ..lines import Line
from ..machines.base import SessionFacts, StartRequest
from ..prompts import Prompt
from ..waiting import LINE_SHOWN, Match
from .views.cells import StyledLine
from .views.fold import fold
from .views.sgr import PLAIN
from .views.text import shown, shown_lines, to_ansi

HAVE_OUTPUT = (Completed, Line, Prompt, Row, SessionFacts, StartRequest)  # or a command, in their repr
LONGEST = 10_000  # lines of a traceback
SOURCE = 80  # characters of its line that the repr of a match has
RED, DEFAULT = "\x1b[31m", "\x1b[39m"


def install(shell: Any) -> Callable[[], None]:
    """Let a shell show our errors and objects without secrets; gives what takes that back."""
    show = shell._showtraceback

    def show_traceback(self: Any, kind: type[BaseException], error: BaseException, lines: list[str]) -> None:
        if ours := list(_ours(error)):
            lines = _traceback(kind, error, lines, ours)
            show(kind, _words(error), lines)
        elif hasattr(error, "_render_traceback_"):  # an interrupt of ours: it names what was waited for
            show(kind, error, _redacted("\n".join(lines)))
        else:
            show(kind, error, lines)

    def show_any(self: Any, exc_tuple: Any = None, *args: Any, **options: Any) -> None:
        """IPython prints groups of exceptions past all this."""
        error = (exc_tuple or sys.exc_info())[1]
        if _has_group(error) and any(_ours(error)):
            shell._showtraceback(type(error), error, "".join(traceback.format_exception(error)).split("\n"))
        else:
            show_whole(exc_tuple, *args, **options)

    show_whole = shell.showtraceback
    shell._showtraceback = MethodType(show_traceback, shell)
    shell.showtraceback = MethodType(show_any, shell)
    printers: dict[type, Callable[[Any], str]] = {kind: lambda it: shown(repr(it)) for kind in HAVE_OUTPUT}
    printers |= {Match: _match, CmdopError: _error}
    formatter = shell.display_formatter.formatters["text/plain"]
    for kind, tell in printers.items():
        formatter.for_type(kind, lambda it, printer, cycle, tell=tell: printer.text(tell(it)))

    def uninstall() -> None:
        del shell._showtraceback, shell.showtraceback
        for kind in printers:
            formatter.pop(kind, None)

    return uninstall


def _ours(error: BaseException | None) -> Iterator[CmdopError]:
    """Our errors that a traceback tells of: this one, what led to it, and those of a group."""
    seen: set[int] = set()
    asked = [error]
    while asked:
        one = asked.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, CmdopError):
            yield one
        if isinstance(one, BaseExceptionGroup):
            asked += one.exceptions
        asked += (one.__cause__, one.__context__)


def _has_group(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, BaseExceptionGroup) or _has_group(error.__context__))


def _traceback(kind: type, error: BaseException, lines: list[str], ours: list[CmdopError]) -> list[str]:
    if isinstance(error, CmdopError):
        return [f"{RED}{kind.__name__}{DEFAULT}: {_words(error)}"]
    whole = "\n".join(lines)
    for one in ours:
        whole = whole.replace(str(one), _words(one))
    return _redacted(whole)


def _redacted(text: str) -> list[str]:
    chunk = Chunk(0, "stdout", 0, 0, text.encode("utf-8", "replace"))
    return to_ansi(fold([chunk], max_lines=LONGEST, from_start=True)).split("\n")


def _words(error: BaseException) -> str:
    """The text of an error; one of ours makes it anew from its arguments, of which each was looked at for itself."""
    if isinstance(error, CmdopError):
        try:
            error = type(error)(*map(_masked, error.args))
        except Exception:  # its arguments are not what it was made of
            return shown(str(error))
    return shown(str(error))


def _masked(argument: object) -> object:
    if isinstance(argument, str):
        return "\n".join(_masked_lines(argument.split("\n")))
    if isinstance(argument, tuple) and all(isinstance(item, str) for item in argument):
        return _masked_lines(argument)
    return argument


def _masked_lines(lines: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """The lines are one text; those as long as a message takes may have been cut in a secret."""
    styled = [StyledLine("stdout", ((line, PLAIN),), len(line) + (len(line) == LINE_SHOWN)) for line in lines]
    return tuple(line.text for line in shown_lines(styled))


def _error(error: CmdopError) -> str:
    return f"{type(error).__name__}({_words(error)!r})"


def _match(match: Match) -> str:
    """As its repr; what it caught is looked at where it stood."""
    line, caught = shown(match.line), shown(str(match.group()))
    if caught not in line:
        caught = "[redacted]" if "[redacted]" in line else caught
    return f"<Match {caught!r} in {line[:SOURCE]!r}, {match.channel} at byte {match.start}>"
