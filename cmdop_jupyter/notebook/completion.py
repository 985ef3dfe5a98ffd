"""Tab completion behind `%cmdop` and `%%cmdop`: verbs, options, names of sessions."""

from __future__ import annotations

from collections.abc import Sequence
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
NAMED = ("attach", "tail", "send", "signal", "stop", "limit", "rm", "keep", "wait")


def install(shell: Any, verbs: Verbs) -> None:
    """Let the shell ask us."""
    shell.set_hook(
        "complete_command", lambda _, event: complete(event.line, event.symbol, verbs.names()), re_key=r"%%?cmdop\b"
    )


def complete(line: str, symbol: str, verbs: Sequence[str]) -> list[str]:
    """What the word under the cursor may become.

    Args:
        line: The line up to the cursor.
        symbol: The word that is being typed, as the shell splits it.
    """
    words = line.split()
    typing = words[-1] if words and not line.endswith(" ") else ""
    before = words[1 : len(words) - 1 if typing else len(words)]
    cell = line.lstrip().startswith("%%")
    candidates = _for_cell(before) if cell else _for_line(before, verbs)
    # The shell replaces `symbol` only, which may begin behind a dash or a dot of the word.
    head = typing[: len(typing) - len(symbol)] if typing.endswith(symbol) else ""
    return [word[len(head) :] for word in candidates if word.startswith(typing)]


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
