"""`%cmdop VERB`: one function a verb, each returns something to look at."""

from __future__ import annotations

import contextlib
import difflib
import re
import time
from collections.abc import Callable, Iterable

from ..client import machine
from ..errors import CmdopError, InvalidRequest, SessionNotFound
from ..machines.base import SessionFacts, Status
from ..runtime import runtime
from ..stream import Stream
from ..streams import streams
from ..words import human_bytes, human_seconds
from . import doctor
from .options import Parser, Usage, read_limit, seconds, split
from .tables import Bundle, Note, Table
from .views.text import shown

_looked_at: dict[str, Stream] = {}  # by session: not among the notebook's streams, but verbs ask again

HELP = """\
%%cmdop [machine] [options]     start the cell's text as a session; returns at once, the output lives on in that cell
await wait_for(r"regex", "name")   go on when a line matches; also stream.wait_for, wait_all

%cmdop ps                       sessions: what runs, what ended
%cmdop attach NAME              a view of a session, history included; binds NAME again after a kernel restart
%cmdop tail NAME [-n LINES]     its newest lines
%cmdop send [-n] NAME TEXT      type TEXT and a newline (-n: no newline)
%cmdop signal NAME SIG          send a signal: INT, TERM, HUP, USR1 …
%cmdop stop NAME                end it and all it started: INT, TERM, KILL; tells what it took
%cmdop wait NAME REGEX [--timeout T]   block until a line matches
%cmdop limit NAME SIZE[,hold]   change its log's size limit
%cmdop keep [NAME…]             write the text of outputs into this cell
%cmdop rm NAME | rm --ended     delete ended sessions and their logs
%cmdop doctor                   what on this machine could stand in the way
%cmdop help                     this page; `%%cmdop?` explains the options of a cell"""


class Verbs:
    """The verbs.

    Args:
        show: Shows a stream in the current cell.
        bind: Puts a stream into the notebook's namespace under its name, if it may.
        keep: The text of a stream's output, as it is frozen.
        settle: Brings what is shown of a stream up to date.
    """

    def __init__(
        self,
        show: Callable[[Stream], None],
        bind: Callable[[Stream], None],
        keep: Callable[[Stream], dict[str, str]],
        settle: Callable[[Stream], None],
    ) -> None:
        self._show, self._bind, self._keep, self._settle = show, bind, keep, settle

    @classmethod
    def names(cls) -> list[str]:
        """All verbs, in alphabetical order."""
        return sorted(name[3:] for name in vars(cls) if name.startswith("do_"))

    def run(self, line: str) -> object:
        """Do what a `%cmdop` line says. Raises Usage when it makes no sense."""
        verb, _, rest = line.strip().partition(" ")
        if not verb:
            return self.do_help("")
        do = getattr(self, f"do_{verb}", None)
        if do is None:
            near = difflib.get_close_matches(verb, self.names(), 2)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(self.names())}"
            raise Usage(f"%cmdop has no verb {verb!r}{hint} (to run a command: `%%cmdop`, the command below it)")
        return do(rest.lstrip())

    def do_help(self, rest: str) -> Note:
        return Note(HELP)

    def do_ps(self, rest: str) -> Table:
        _read("ps", rest)
        found = runtime().wait(machine().sessions())
        return sessions_table(found)

    def do_attach(self, rest: str) -> Stream:
        asked = _read("attach", rest, "name")
        stream = attached(asked.name)
        self._bind(stream)
        self._show(stream)
        return stream

    def do_tail(self, rest: str) -> Note:
        asked = _read("tail", rest, "name", lines=10)
        lines = find(asked.name).tail(asked.lines)
        return Note("\n".join(line.text for line in lines) or f"{asked.name} has printed nothing")

    def do_send(self, rest: str) -> Note:
        found = re.fullmatch(r"(-n\s+)?(\S+)(?: (.*))?", rest, re.DOTALL)
        if not found:
            raise Usage("%cmdop send NAME TEXT: a name is missing")
        text = (found[3] or "") + ("" if found[1] else "\n")
        stream = find(found[2])
        stream.send_input(text).result()
        return Note(f"typed {len(text.encode())} bytes into {stream.name}")

    def do_signal(self, rest: str) -> Note:
        asked = _read("signal", rest, "name", "signal")
        stream = find(asked.name)
        stream.send_signal(asked.signal).result()
        return Note(f"sent {asked.signal.upper().removeprefix('SIG')} to {stream.name}")

    def do_stop(self, rest: str) -> Note:
        asked = _read("stop", rest, "name")
        stream = find(asked.name)
        if stream.state == "ended":
            return Note(f"{stream.name} had ended already ({state_words(stream.status)})")
        report = stream.stop().result()
        self._settle(stream)
        return Note(f"{stream.name}: {report}")

    def do_limit(self, rest: str) -> Note:
        asked = _read("limit", rest, "name", "size")
        stream = find(asked.name)
        size, policy = read_limit(asked.size)
        stream.limit(size, policy if "," in asked.size else None).result()
        status = stream.status
        return Note(f"the log of {stream.name} keeps {human_bytes(status.limit)} ({status.policy})")

    def do_wait(self, rest: str) -> object:
        name, _, after = rest.partition(" ")
        if not after.strip():
            raise Usage("%cmdop wait NAME REGEX: a name and a regular expression")
        parser = Parser(prog="%cmdop wait")
        parser.add_argument("pattern")
        parser.add_argument("--timeout", type=seconds)
        parser.add_argument("--fail")
        parser.add_argument("--start", choices=("begin", "now"))
        asked = parser.read(split(after))
        wait = find(name).wait_for(asked.pattern, fail=asked.fail, timeout=asked.timeout, start=asked.start)
        return wait.result()

    def do_keep(self, rest: str) -> Bundle:
        names = split(rest) or list(streams)
        if not names:
            raise Usage("%cmdop keep NAME: there is no stream in this notebook yet, so it needs a name")
        bundles = [self._keep(find(name)) for name in names]
        return Bundle({kind: "\n".join(bundle[kind] for bundle in bundles) for kind in ("text/plain", "text/html")})

    def do_rm(self, rest: str) -> Note:
        words = split(rest)
        if words == ["--ended"]:
            found = [facts for facts, status in runtime().wait(machine().sessions()) if not status.live]
        elif words and not words[0].startswith("-"):
            found = [runtime().wait(machine().find(word)) for word in words]
        else:
            raise Usage("%cmdop rm NAME…, or %cmdop rm --ended")
        for facts in found:
            runtime().wait(machine().remove(facts.id))
            streams.forget(facts.id)
        return Note(f"removed {', '.join(facts.name for facts in found) or 'nothing'}")

    def do_doctor(self, rest: str) -> Table:
        _read("doctor", rest)
        checks = doctor.examine()
        rows = [["ok" if check.ok else "!!", check.what, check.found] for check in checks]
        bad = frozenset(number for number, check in enumerate(checks) if not check.ok)
        return Table(["", "what", "found"], rows, objects=checks, bad=bad)


def find(name: str) -> Stream:
    """A stream on the session that has that name now: this notebook's, else one that is not among its streams."""
    with contextlib.suppress(CmdopError):
        if name in streams and streams[name].status.live:
            return streams[name]
    facts = runtime().wait(machine().find(name))
    for stream in (*streams.values(), *_looked_at.values()):
        if stream._facts is not None and stream._facts.id == facts.id:
            return stream
    stream = Stream(machine())
    runtime().wait(stream._attach(facts.id, "begin", listed=False))
    _looked_at[facts.id] = stream
    return stream


def attached(name: str) -> Stream:
    """A fresh stream on a session, from its beginning on. Raises SessionNotFound."""
    return Stream(machine()).attach(name, "begin").result()


def sessions_table(found: Iterable[tuple[SessionFacts, Status]]) -> Table:
    """Sessions, the running first, then the newest ended."""
    ordered = sorted(found, key=lambda one: (not one[1].live, -one[0].created_ns))
    rows, bad = [], set()
    for number, (facts, status) in enumerate(ordered):
        ran = (status.exited_ms or status.clock_ms) / 1000 or max(0.0, (status.ended_ns - facts.created_ns) / 1e9)
        stopped = status.stopped is not None and status.stopped.took
        if status.state == "lost" or (status.exit is not None and not status.exit.ok and not stopped):
            bad.add(number)
        began = time.strftime("%d %b %H:%M", time.localtime(facts.created_ns / 1e9))
        ran_text = human_seconds(ran) if ran else ""
        state = state_words(status)
        rows.append([facts.name, "local", state, began, ran_text, human_bytes(status.end), facts.title[:60]])
    return Table(
        ["name", "machine", "state", "began", "ran", "output", "command"],
        rows,
        objects=ordered,
        empty="no sessions; `%%cmdop` starts one",
        bad=frozenset(bad),
    )


def state_words(status: Status) -> str:
    """State and exit in a few words: `running`, `exit 0`, `exit 3, output held by node[12]`."""
    if status.state == "held":
        return f"held: {status.held}"
    if status.state == "lost":
        return "lost"
    if status.exit is None:
        return status.state
    if status.stopped is not None and status.stopped.took:
        return f"stopped by {status.stopped.took}"
    held = f", output held by {', '.join(status.held_by)}" if status.state == "exited" and status.held_by else ""
    return f"{status.exit}{held}"


def _read(verb: str, rest: str, *words: str, lines: int | None = None):  # type: ignore[no-untyped-def]
    parser = Parser(prog=f"%cmdop {verb}")
    for word in words:
        parser.add_argument(word)
    if lines is not None:
        parser.add_argument("-n", "--lines", type=int, default=lines)
    return parser.read(split(rest))


__all__ = [
    "HELP",
    "InvalidRequest",
    "SessionNotFound",
    "Verbs",
    "attached",
    "find",
    "sessions_table",
    "shown",
    "state_words",
]
