"""Tab completion behind `%cmdop` and `%%cmdop`: verbs, options, names of sessions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from ..client import machine
from ..errors import CmdopError
from ..runtime import runtime
from .options import cell_parser
from .verbs import Verbs

SECONDS = 0.5  # a key press may not wait longer for the names of sessions
VALUES = {
    "--tty": ("split", "full", "none"),
    "--view": ("output", "none"),
    "--if-running": ("error", "attach", "replace"),
}
SIGNALS = ("INT", "TERM", "HUP", "KILL", "USR1", "USR2", "STOP", "CONT")
LINE = re.compile(r"\s*%%?cmdop\s")
NAMED = ("attach", "tail", "send", "signal", "stop", "limit", "rm", "keep", "wait")


def install(shell: Any, verbs: Verbs) -> Callable[[], None]:
    """Let the shell ask us; what is returned takes that back."""
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher
    except ImportError:  # IPython before 8.6, which adds words of its own to ours
        shell.set_hook(
            "complete_command", lambda _, event: _old(event.line, event.symbol, verbs.names()), re_key=LINE.pattern
        )
        return lambda: None

    @context_matcher(identifier="cmdop", priority=1000)  # type: ignore[untyped-decorator]
    def matcher(context: Any) -> dict[str, Any]:
        line = context.text_until_cursor
        words = complete(line, verbs.names()) if LINE.match(line) else []
        return {
            "completions": [SimpleCompletion(word, type="magic") for word in words],
            "matched_fragment": _typing(line),
            "suppress": True,
        }

    matchers = shell.Completer.custom_matchers
    matchers.append(matcher)
    return lambda: matchers.remove(matcher)


def complete(line: str, verbs: Sequence[str]) -> list[str]:
    """What the word at the end of `line`, which ends at the cursor, may become."""
    typing = _typing(line)
    before = line[: len(line) - len(typing)].split()[1:]
    candidates = _for_cell(before) if line.lstrip().startswith("%%") else _for_line(before, verbs)
    return [word for word in candidates if word.startswith(typing)]


def _typing(line: str) -> str:
    """The word under the cursor."""
    return re.split(r"\s", line)[-1]


def _old(line: str, symbol: str, verbs: Sequence[str]) -> list[str]:
    """What is to take the place of `symbol`, which may begin behind a dash or a dot of the word."""
    typing = _typing(line)
    head = typing[: len(typing) - len(symbol)] if typing.endswith(symbol) else ""
    return [word[len(head) :] for word in complete(line, verbs)]


def _for_cell(before: Sequence[str]) -> list[str]:
    if before and before[-1] in VALUES:
        return list(VALUES[before[-1]])
    if before and before[-1] in ("--name", "-n"):
        return session_names()
    options = [word for action in cell_parser()._actions for word in action.option_strings if word.startswith("--")]
    return [*options, "local"]


def _for_line(before: Sequence[str], verbs: Sequence[str]) -> list[str]:
    if not before:
        return list(verbs)
    if before[0] == "signal" and len(before) == 2:
        return list(SIGNALS)
    if before[0] in NAMED:
        return [*session_names(), *(["--ended"] if before[0] == "rm" else [])]
    return []


def session_names() -> list[str]:
    """Names of the sessions there are; none when the answer takes too long for a key press."""
    try:
        return sorted({facts.name for facts, _ in runtime().wait(machine().sessions(), timeout=SECONDS)})
    except (CmdopError, TimeoutError):
        return []
