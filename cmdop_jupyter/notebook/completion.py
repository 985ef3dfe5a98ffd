"""Tab completion behind `%cmdop` and `%%cmdop`: verbs, options, names of machines and of sessions. Dials nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from .. import directory
from ..directory import reached_before
from ..errors import CmdopError
from . import links
from .options import cell_parser
from .verbs import Verbs

SECONDS = 0.5  # a key press may not wait longer for the names of sessions
VALUES = {
    "--tty": ("split", "full", "none"),
    "--view": ("output", "terminal", "none"),
    "--if-running": ("error", "attach", "replace"),
}
SIGNALS = ("INT", "TERM", "HUP", "KILL", "USR1", "USR2", "STOP", "CONT")
LINE = re.compile(r"\s*%%?cmdop\s")
NAMED = ("attach", "tail", "send", "signal", "stop", "limit", "rm", "keep", "wait", "forward")


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
        return [name for name in session_names() if ":" not in name]
    actions = cell_parser()._actions
    options = [word for action in actions for word in action.option_strings if word.startswith("--")]
    taking = {word for action in actions if action.nargs != 0 for word in action.option_strings}
    if before and before[-1] in taking - {"--ephemeral"}:
        return []
    plain = [word for last, word in zip(["", *before], before, strict=False) if last not in taking]
    named = {word for word in plain if not word.startswith("-")}
    return [*options, *(name for name in [*machine_names(), *fleet_words()] if name not in named)]


def _for_line(before: Sequence[str], verbs: Sequence[str]) -> list[str]:
    if not before:
        return list(verbs)
    verb = before[0]
    if before[-1] == "--machine" or (verb in ("connect", "shell") and len(before) == 1):
        return machine_names()
    if verb == "shell" and before[-1] == "--name":
        return session_names()
    if verb == "forget" and len(before) == 1:
        return reached_before()
    if verb == "signal" and len(before) == 2:
        return list(SIGNALS)
    more = {"ps": ["--machine"], "shell": ["--name"], "rm": ["--ended", "--machine"]}.get(verb, [])
    return [*(session_names() if verb in NAMED else []), *more]


def session_names() -> list[str]:
    """Names of the sessions on machines that are up; none of those that take too long for a key press."""
    try:
        return links.names_now(SECONDS)
    except CmdopError:
        return []


def fleet_words() -> list[str]:
    """Words for several of them at once."""
    try:
        return directory.fleet_words()
    except CmdopError:
        return []


def machine_names() -> list[str]:
    """Names of the machines there are; none where the configuration makes no sense."""
    try:
        return directory.machine_names()
    except CmdopError:
        return []
