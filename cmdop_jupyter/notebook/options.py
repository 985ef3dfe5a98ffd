"""The words behind `%%cmdop`, and the cell below them, as a request: parses and checks, starts nothing."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InvalidRequest
from ..fleet_names import expand
from ..machines.base import StartRequest
from ..notify import read_wanted
from ..patterns import Searcher
from ..prompts import Answer, from_environment
from .views.sieve import Looks

EPHEMERAL_SECONDS = 60.0
SIZES = {
    "": 1,
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "t": 1000**4,
    "ki": 1024,
    "mi": 1024**2,
    "gi": 1024**3,
    "ti": 1024**4,
}
_SKIPPED = {
    "sudo",
    "env",
    "exec",
    "time",
    "nohup",
    "nice",
    "cd",
    "set",
    "export",
    "source",
    "uv",
    "run",
    "python",
    "python3",
    "if",
    "then",
    "case",
    "function",
    "trap",
    "[",
    "[[",
    "!",
    ".",
}


class Usage(InvalidRequest):
    """The line of a magic makes no sense; nothing was started."""


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises instead of leaving, and never guesses an abbreviated option."""

    def __init__(self, *, words: str = "", **options: Any) -> None:
        super().__init__(add_help=False, allow_abbrev=False, exit_on_error=False, **options)
        self._words = words  # what plain words are called, wherever they stand; '': there are none

    def error(self, message: str) -> NoReturn:
        page = f"{self.prog}?" if self.prog.startswith("%%") else "%cmdop help"
        raise Usage(f"{message} (`{page}` explains)")

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse words; raise Usage for what is not known."""
        try:
            found, unknown = self.parse_known_args(words)
        except argparse.ArgumentError as error:
            self.error(str(error))
        if self._words and not any(word.startswith("-") for word in unknown):
            setattr(found, self._words, unknown)
            return found
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            word = next((word for word in unknown if word.startswith("-")), unknown[0])
            if not word.startswith("-"):
                self.error(f"{word!r} is one word too many; a command goes below the first line")
            near = difflib.get_close_matches(word.split("=")[0], options, 2)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            self.error(f"there is no option {word!r}, and nothing was passed to a shell{hint}")
        return found


@dataclass(frozen=True, slots=True)
class CellOptions:
    """What one `%%cmdop` cell asks for.

    Attributes:
        machines: Words for them, as they were written; none is this one.
    """

    machines: tuple[str, ...]
    request: StartRequest
    if_running: str
    named: bool
    until: str | None
    fail: str | None
    timeout: float | None
    wait: bool
    view: str
    tail: int
    looks: Looks
    dry_run: bool
    confirmed: bool
    must_succeed: bool
    at_most: int | None = None
    stop_on_failure: bool = False
    answers: tuple[tuple[str, str], ...] = ()  # patterns of prompts, and the environment variables that answer them
    notify: str = ""

    @property
    def machine(self) -> str:
        """The one that is meant, where it is one."""
        return self.machines[0] if self.machines else "local"

    @property
    def fleet(self) -> bool:
        """Whether a fleet is meant: several words, a group or tag, or a word with brackets."""
        return is_fleet(self.machines)


def is_fleet(words: Sequence[str]) -> bool:
    return len(words) > 1 or any(word.startswith("@") or expand(word) != [word] for word in words)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the options are when the cell does not say: the traits of `CmdopMagics`, and the folder on this machine."""

    if_running: str = "error"
    view: str = "output"
    tail: int = 40
    shell: str = ""
    tty: str = "split"
    max_log: str = "2Gi"
    cwd: str = ""
    owner: str = field(default="")


def cell_parser() -> Parser:
    """The parser of `%%cmdop`."""
    parser = Parser(prog="%%cmdop", words="machines")
    add = parser.add_argument
    add("--name", "-n")
    add("--tty", choices=("split", "full", "none"))
    add("--no-input", action="store_true")
    add("--shell")
    add("--cwd")
    add("--env", "-e", action="append", default=[])
    add("--until")
    add("--fail")
    add("--timeout", type=seconds)
    add("--wait", action="store_true")
    add("--view", choices=("output", "terminal", "none"))
    add("--tail", type=int)
    add_looks(parser)
    add("--ephemeral", type=seconds)
    add("--if-running", choices=("error", "attach", "replace"))
    add("--replace", action="store_true")
    add("--max-log")
    add("--keep-script", action="store_true")
    add("--dry-run", action="store_true")
    add("--yes", "-y", action="store_true")
    add("--no-raise", action="store_true")
    add("--at-most", type=int)
    add("--stop-on-failure", action="store_true")
    add("--answer", action="append", default=[])
    add("--notify", default="")
    return parser


def read_cell(
    line: str, body: str, session_id: str, variables: Mapping[str, Any], defaults: Defaults, interactive: bool = True
) -> CellOptions:
    """Read the line and the body of a cell.

    Args:
        variables: The notebook's namespace, for `-e X`.
        interactive: Somebody is there who could type.

    Raises:
        InvalidRequest: It makes no sense; says what, and what would.
    """
    words = ["--ephemeral=" + str(EPHEMERAL_SECONDS) if word == "--ephemeral" else word for word in split(line)]
    asked = cell_parser().read(words)
    if not body.strip():
        raise Usage("the cell has no command below its first line")
    if asked.timeout is not None and not (asked.wait or asked.until or asked.fail):
        raise Usage("--timeout limits the waiting, never the command: it goes with --wait or --until")
    if asked.fail and not asked.until and not asked.wait:
        raise Usage("--fail goes with --until or --wait; for later cells there is `await wait_for(…, fail=…)`")
    if asked.until and asked.wait:
        raise Usage("--until goes on at a line and --wait at the exit: take one of the two")
    if asked.replace and asked.if_running not in (None, "replace"):
        raise Usage(f"--replace and --if-running {asked.if_running} contradict each other")
    if asked.until or asked.fail:  # what cannot be awaited must not start
        Searcher(*([pattern] if pattern else [] for pattern in (asked.until, asked.fail)))
    answers = tuple(read_answer(word) for word in asked.answer)
    if answers and asked.no_input:
        raise Usage("--answer types, and --no-input lets nobody: take one of the two")
    if asked.notify:
        read_wanted(asked.notify)
    tail = defaults.tail if asked.tail is None else asked.tail
    if not 1 <= tail <= 200:
        raise Usage(f"--tail is 1 to 200 lines, got {tail}")
    max_log, policy = read_limit(asked.max_log or defaults.max_log)
    env = dict(variable(word, variables) for word in asked.env)
    view = asked.view or defaults.view
    tty = asked.tty or ("full" if view == "terminal" else defaults.tty)
    cwd = asked.cwd  # elsewhere it is that machine's to expand, and by default its own choice
    fleet = is_fleet(asked.machines)
    if asked.at_most is not None and (not fleet or asked.at_most < 1):
        raise Usage(f"--at-most is how many of several machines run it at once, 1 or more, got {asked.at_most}")
    if asked.stop_on_failure and asked.at_most is None:
        raise Usage("--stop-on-failure goes with --at-most N: without it all machines start at once")
    if fleet and view == "terminal":
        raise Usage("--view terminal is for one machine; a fleet has a view of its own")
    if asked.machines in ([], ["local"]):
        cwd = os.path.expanduser(cwd or defaults.cwd) or os.getcwd()
    shell = asked.shell or defaults.shell or None
    facts = [body, tty, shell, cwd, not asked.no_input, sorted(env), max_log, policy, asked.ephemeral]
    request = StartRequest(
        id=session_id,
        name=asked.name or make_name(body),
        free_name=asked.name is None,
        script=body,
        shell=shell,
        tty=tty,
        input=interactive and not asked.no_input,
        cwd=cwd,
        env=env,
        max_log=max_log,
        log_policy=policy,
        ephemeral=asked.ephemeral,
        owner=defaults.owner,
        keep_script=asked.keep_script,
        digest=hashlib.sha256(json.dumps(facts).encode("utf-8", "surrogateescape")).hexdigest(),
    )
    return CellOptions(
        machines=tuple(asked.machines),
        request=request,
        if_running="replace" if asked.replace else asked.if_running or defaults.if_running,
        named=asked.name is not None,
        until=asked.until,
        fail=asked.fail,
        timeout=asked.timeout,
        wait=asked.wait,
        view=view,
        tail=tail,
        looks=read_looks(asked),
        dry_run=asked.dry_run,
        confirmed=asked.yes,
        must_succeed=not asked.no_raise,
        at_most=asked.at_most,
        stop_on_failure=asked.stop_on_failure,
        answers=answers,
        notify=asked.notify,
    )


def add_looks(parser: Parser) -> None:
    """Let a parser take what is wanted of the output."""
    for option in ("--include", "--exclude", "--highlight"):
        parser.add_argument(option, action="append", default=[])
    parser.add_argument("--since", default="")
    parser.add_argument("--timestamps", action="store_true")


def read_looks(asked: argparse.Namespace) -> Looks:
    """What is wanted of the output. Raises InvalidRequest, PatternError: it makes no sense."""
    include, exclude, highlight = map(tuple, (asked.include, asked.exclude, asked.highlight))
    return Looks(include, exclude=exclude, highlight=highlight, since=asked.since, times=asked.timestamps)


def split(line: str) -> list[str]:
    """The words of a magic's line; quotes as in a shell, and a backslash in a regular expression is kept."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    lexer.escape = ""
    try:
        return list(lexer)
    except ValueError as error:
        raise Usage(f"the line cannot be read ({error}): {line}") from None


def seconds(text: str) -> float:
    """`90`, `90s`, `2m`, `1h`, as seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(s|m|h|d|)", text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 90, 90s, 2m or 1h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def read_size(text: str) -> int:
    """`500M`, `2Gi`, `65536`, as bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    if not found or found[2] == "i":
        raise Usage(f"{text!r} is no size; write 500M, 2Gi or a number of bytes")
    return int(float(found[1]) * SIZES[found[2]])


def read_limit(text: str) -> tuple[int, str]:
    """`2Gi` or `2Gi,hold`: bytes, and what happens there."""
    size, _, policy = text.partition(",")
    return read_size(size), policy.strip() or "drop-oldest"


def variable(word: str, variables: Mapping[str, Any]) -> tuple[str, str]:
    """`K=V` as it is; `X` with the value of the notebook's variable X, or of the environment's."""
    name, equals, value = word.partition("=")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise Usage(f"-e takes X or K=V, and {name!r} cannot be the name of a variable")
    if equals:
        return name, value
    if name in variables:
        held = variables[name]
        if isinstance(held, (str, int, float, Path)):
            return name, str(held)
        kind = type(held).__name__
        raise Usage(f"-e {name}: {name} is a {kind} here; only str, int, float and Path can be handed over")
    if name in os.environ:
        return name, os.environ[name]
    raise Usage(f"-e {name}: neither the notebook nor its environment has a variable {name}")


def read_answer(word: str) -> tuple[str, str]:
    """`REGEX=ENV_NAME`: a pattern that compiles, and a variable that the environment has here."""
    pattern, _, name = word.rpartition("=")
    if not pattern or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise Usage("--answer is 'REGEX=ENV_NAME': the variable's name, never the answer itself")
    Answer(pattern, from_environment(name))
    return pattern, name


def make_name(body: str) -> str:
    """A name that people recognise, from the first words of a script: `serve` for `./serve.sh --port 0`."""
    for line in body.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if re.match(r"(for|while|until)\b", line.strip()):
            return "loop"
        for word in re.split(r"[\s;|&(){}]+", line.strip()):
            base = re.sub(r"\.(sh|bash|py|pl|rb|js)$", "", os.path.basename(word))
            name = re.sub(r"[^A-Za-z0-9_-]+", "", base).lstrip("-_")[:24]
            if name and base not in _SKIPPED and not word.startswith("-") and "=" not in word:
                return name
    return "command"
