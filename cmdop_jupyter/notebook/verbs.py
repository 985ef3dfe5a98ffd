"""`%cmdop VERB`: one function a verb, each returns something to look at."""

from __future__ import annotations

import contextlib
import difflib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import directory
from ..directory import machine
from ..errors import CmdopError, InvalidRequest, SessionNotFound, UnknownMachine
from ..fleet import Fleet, FleetFront
from ..machines.base import Machine, SessionFacts
from ..machines.parcel import agent_parcel
from ..runtime import runtime
from ..steady import Steady
from ..stream import Stream
from ..streams import streams
from ..wait import wait_all
from ..words import human_bytes
from . import doctor, links
from .fleets import bring_back
from .listing import in_order, sessions_table, state_words
from .options import Parser, Usage, add_looks, read_limit, read_looks, seconds, split
from .tables import Bundle, Note, Table, Url
from .views.fleet_text import stop_words
from .views.record import link_words
from .views.sieve import Looks

_looked_at: dict[str, Stream] = {}  # by session: not among the notebook's streams, but verbs ask again

HELP = """\
%%cmdop [machine] [options]     start the cell's text as a session; returns at once, the output lives on in that cell
await wait_for(r"regex", "name")   go on when a line matches; also stream.wait_for, wait_all

%cmdop ps [--machine M]         sessions of all machines reached before: what runs, what ended; live in a page
%cmdop attach NAME              a view of a session, or a fleet, history included; binds NAME again after a restart;
                                with --include, --exclude, --highlight REGEX, --since T, --timestamps, --tail N;
                                --view output|terminal (what has one terminal, such as a shell: terminal)
%cmdop tail NAME [-n LINES]     its newest lines
%cmdop send [-n] NAME TEXT      type TEXT and a newline (-n: no newline)
%cmdop signal NAME SIG          send a signal: INT, TERM, HUP, USR1 …
%cmdop stop NAME                end it and all it started: INT, TERM, KILL; tells what it took
%cmdop wait NAME REGEX [--timeout T]   block until a line matches
%cmdop limit NAME SIZE[,hold]   change its log's size limit
%cmdop forward NAME PORT        a URL here that leads to that port on the session's machine
%cmdop keep [NAME…]             write the text of outputs into this cell
%cmdop rm NAME | rm --ended [--machine M]   delete ended sessions and their logs

%cmdop machines                 machines known by name or reached before, how, and how the link is
%cmdop shell [MACHINE] [--name NAME]   a login shell there, in a terminal; with --name the one of that name, if it runs
%cmdop connect MACHINE          reach it now and tell each step, then what there could stand in the way of sessions
%cmdop forget MACHINE           do not ask it any more for its sessions
%cmdop doctor                   what on this machine could stand in the way
%cmdop help                     this page; `%%cmdop?` explains the options of a cell

NAME is a session's name, or MACHINE:NAME where several machines have one of that name"""


class Verbs:
    """The verbs.

    Args:
        show: Shows a stream in the current cell; the last word is the view that is asked for, None leaves it open.
        bind: Puts a stream into the notebook's namespace under its name, if it may.
        keep: The text of a stream's output, as it is frozen.
        settle: Brings what is shown of a stream up to date.
        finish: Brings what is shown of a session to its end, before it is removed; by its id.
        say: Tells one line in the current cell.
        keep_fleet: The text of a fleet, as it is frozen.
        fleet_front: What shows a fleet in the current cell.
        open_shell: Shows a login shell in the current cell: (machine, its name or None, whether not to ask first).
        sessions: Makes a table live, where it can be: (table, what machines said, the one machine that was named).
    """

    def __init__(
        self,
        show: Callable[[Stream, int | None, Looks, str | None], None],
        bind: Callable[[Stream | Fleet], None],
        keep: Callable[[Stream], dict[str, str]],
        settle: Callable[[Stream], None],
        finish: Callable[[str], None],
        say: Callable[[str], None],
        open_shell: Callable[[str, str | None, bool], object],
        sessions: Callable[[Table, Sequence[links.Heard], str | None], Table],
        keep_fleet: Callable[[Fleet], dict[str, str]],
        fleet_front: Callable[[], FleetFront],
    ) -> None:
        self._show, self._bind, self._keep, self._say = show, bind, keep, say
        self._settle, self._finish = settle, finish
        self._open_shell, self._keep_fleet, self._sessions = open_shell, keep_fleet, sessions
        self._fleet_front = fleet_front

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
        asked = _read("ps", rest, machine=True)
        heard = [links.ask_one(asked.machine)] if asked.machine else [links.ask_local(), *links.ask_others()]
        ours = {stream.session_id: stream.machine for stream in streams.values()}
        ordered = in_order((one for each in heard for one in each.found), ours)
        table = sessions_table(ordered, [each.problem for each in heard if each.problem])
        return self._sessions(table, heard, asked.machine)

    def do_attach(self, rest: str) -> Stream | Fleet:
        parser = Parser(prog="%cmdop attach")
        parser.add_argument("name")
        parser.add_argument("--tail", type=int)
        parser.add_argument("--view", choices=("output", "terminal"))
        add_looks(parser)
        asked = parser.read(split(rest))
        looks = read_looks(asked)
        fleet = self._attach_fleet(asked.name)
        if fleet is not None:
            if looks != Looks():
                raise Usage(f"{asked.name} is a fleet: attach one machine of it to filter its output")
            self._bind(fleet)
            return fleet
        stream = attached(asked.name)
        self._bind(stream)
        self._show(stream, asked.tail, looks, asked.view)
        return stream

    def _attach_fleet(self, name: str) -> Fleet | None:
        """The fleet that is meant, shown; None where it is one session."""
        fleet = fleet_of(name)
        if fleet is not None:
            self._fleet_front().show(fleet)
            return fleet
        return None if _ours(name) or not _on_several(name) else bring_back(name, self._fleet_front())

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
        fleet = fleet_of(asked.name)
        if fleet is not None:
            return Note(f"{fleet.name}: {stop_words(fleet.stop().result())}")
        stream = find(asked.name)
        if stream.link != "up" and stream._known.state != "ended":  # it would wait here for as long as the link is away
            stream.stop()
            link = link_words(stream._machine.link, stream.machine, time.monotonic(), stop_waits=True)
            return Note(f"{stream.name}: {link}")
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
        fleet = fleet_of(name)
        if fleet is not None:
            options = {"fail": asked.fail, "timeout": asked.timeout, "start": asked.start}
            return wait_all(asked.pattern, fleet, **options).result()
        wait = find(name).wait_for(asked.pattern, fail=asked.fail, timeout=asked.timeout, start=asked.start)
        return wait.result()

    def do_keep(self, rest: str) -> Bundle:
        names = split(rest) or list(streams)
        if not names:
            raise Usage("%cmdop keep NAME: there is no stream in this notebook yet, so it needs a name")
        fleets = {name: fleet for name in names if (fleet := fleet_of(name)) is not None}
        bundles = [self._keep_fleet(fleets[name]) if name in fleets else self._keep(find(name)) for name in names]
        return Bundle({kind: "\n".join(bundle[kind] for bundle in bundles) for kind in ("text/plain", "text/html")})

    def do_rm(self, rest: str) -> Note:
        parser = Parser(prog="%cmdop rm")
        parser.add_argument("names", nargs="*")
        parser.add_argument("--ended", action="store_true")
        parser.add_argument("--machine", default="local")
        asked = parser.read(split(rest))
        if asked.ended == bool(asked.names):
            raise Usage("%cmdop rm NAME…, or %cmdop rm --ended")
        if asked.ended:
            where = machine(asked.machine)
            found = [(where, one.facts) for one in links.ask_one(asked.machine).found if not one.status.live]
        else:
            found = [where_is(name) for name in asked.names]
        for where, facts in found:
            self._finish(facts.id)
            runtime().wait(Steady(where).remove(facts.id))
            streams.forget(facts.id)
        return Note(
            f"removed {', '.join(links.address(where.name, facts.name) for where, facts in found) or 'nothing'}"
        )

    def do_forward(self, rest: str) -> Url:
        asked = _read("forward", rest, "name", "port")
        if not asked.port.isdecimal():
            raise Usage(f"%cmdop forward NAME PORT: a port is a number, not {asked.port!r}")
        stream = find(asked.name)
        url = stream.forward(int(asked.port)).result()
        where = "this machine" if stream.machine == "local" else stream.machine
        return Url(
            url, f"leads to port {asked.port} on {where}, as long as this kernel has the stream of {stream.name}"
        )

    def do_machines(self, rest: str) -> Table:
        _read("machines", rest)
        return machines_table()

    def do_shell(self, rest: str) -> None:
        parser = Parser(prog="%cmdop shell")
        parser.add_argument("machine", nargs="?", default="local")
        parser.add_argument("--name", "-n")
        parser.add_argument("--yes", "-y", action="store_true")
        asked = parser.read(split(rest))
        self._open_shell(asked.machine, asked.name, asked.yes)

    def do_connect(self, rest: str) -> Table:
        where = machine(_read("connect", rest, "machine").machine)
        facts, checks = links.connect(where, self._say)
        return checks_table(checks, [f"{where.name} is up: {', '.join(self_words(facts))}"])

    def do_forget(self, rest: str) -> Note:
        name = _read("forget", rest, "machine").machine
        before = directory.reached_before()
        if name not in before:
            raise Usage(f"{name!r} is not among the machines reached before: {', '.join(before) or 'there are none'}")
        directory.forget(name)
        if name in directory.reached_before():
            return Note(f"{name} is forgotten, once this kernel ends: its link is up here")
        return Note(f"{name} is forgotten: it is asked for its sessions when it was reached again")

    def do_doctor(self, rest: str) -> Table:
        _read("doctor", rest)
        return checks_table(doctor.examine())


def where_is(name: str) -> tuple[Machine, SessionFacts]:
    """The session that has that name now, and its machine: this notebook's, else as `links.locate` finds it."""
    for stream in _ours(name):
        if stream.link != "up":  # what was known last must do: a question would wait for the link
            return stream._machine, stream.facts
        with contextlib.suppress(CmdopError):
            return stream._machine, runtime().wait(stream._machine.find(stream.name))
    found = links.locate(name)
    return machine(found.machine), found.facts


def _on_several(name: str) -> bool:
    """Whether sessions of that name are on several machines."""
    where = name.rpartition(":")[0]
    if where.startswith("@") or "[" in where:
        return True
    try:
        links.locate(name)
    except SessionNotFound:
        pass
    except InvalidRequest:
        return True
    return False


def fleet_of(name: str) -> Fleet | None:
    """This notebook's fleet of that name, where no stream has it."""
    fleet = streams.fleets.get(name)
    return fleet if isinstance(fleet, Fleet) and name not in streams else None


def find(name: str) -> Stream:
    """A stream on the session that has that name now: this notebook's, else one that is not among its streams."""
    for stream in _ours(name):
        with contextlib.suppress(CmdopError):
            if stream.link != "up" or stream.status.live:
                return stream
    where, facts = where_is(name)
    for stream in (*streams.values(), *_looked_at.values()):
        if stream._facts is not None and stream._facts.id == facts.id:
            return stream
    stream = Stream(where)
    runtime().wait(stream._attach(facts.id, "begin", listed=False))
    _looked_at[facts.id] = stream
    return stream


def attached(name: str) -> Stream:
    """A fresh stream on a session, from its beginning on. Raises SessionNotFound."""
    where, facts = where_is(name)
    return Stream(where).attach(facts.id, "begin").result()


def _ours(name: str) -> list[Stream]:
    """This notebook's streams of that name, or MACHINE:NAME; one at most."""
    where, _, bare = name.rpartition(":")
    stream = streams.get(name) or streams.get(bare)  # the streams of a fleet are known by machine and name
    return [stream] if stream is not None and where in ("", stream.machine) else []


def machines_table() -> Table:
    """The machines that are known, as their links are now; nothing is dialled."""
    rows, bad = [], set()
    for number, one in enumerate(directory.known()):
        if one.error is not None:
            bad.add(number)
            gone = isinstance(one.error, UnknownMachine)
            rows.append([one.name, links.gone(one.name) if gone else str(one.error), *[""] * 5])
            continue
        state = link_words(one.link_state, one.name, time.monotonic()).removeprefix("link ") or one.link
        if one.link == "down":
            state = f"down: {one.link_state.reason}"
        versions = f"{one.agent}, {one.python}" if one.python else ""
        trip = human_trip(one.round_trip)
        rows.append([one.name, one.reached_by, state, versions, trip, ", ".join(one.tags), one.source])
    headings = ["name", "reached by", "link", "agent, Python", "round trip", "tags", "known from"]
    return Table(headings, rows, bad=frozenset(bad))


def human_trip(seconds: float | None) -> str:
    """`3.1 ms`, or nothing where it is not known."""
    return "" if seconds is None else f"{seconds * 1000:.3g} ms"


def self_words(facts: Mapping[str, Any]) -> list[str]:
    """What a machine says of itself when it is reached."""
    words = [f"Python {facts.get('python')} on {facts.get('hostname') or facts.get('host')}"]
    words += [f"as {facts['user']}"] if facts.get("user") else []
    words += [f"agent {agent_parcel().version}"]
    return words + ([f"round trip {human_trip(facts['round_trip'])}"] if facts.get("round_trip") else [])


def checks_table(checks: Sequence[doctor.Check], notes: Sequence[str] = ()) -> Table:
    """What was looked at, and what was found."""
    rows = [["ok" if check.ok else "!!", check.what, check.found] for check in checks]
    bad = frozenset(number for number, check in enumerate(checks) if not check.ok)
    return Table(["", "what", "found"], rows, objects=checks, bad=bad, notes=notes)


def _read(  # type: ignore[no-untyped-def]
    verb: str, rest: str, *words: str, lines: int | None = None, machine: bool = False
):
    parser = Parser(prog=f"%cmdop {verb}")
    for word in words:
        parser.add_argument(word)
    if lines is not None:
        parser.add_argument("-n", "--lines", type=int, default=lines)
    if machine:
        parser.add_argument("--machine")
    return parser.read(split(rest))


__all__ = ["HELP", "Verbs", "attached", "find"]
