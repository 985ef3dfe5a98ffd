"""`AsyncCMDOPClient`: sessions from a script, on this machine and on others. Knows no notebook."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from . import directory
from .agent.stopping import GRACE
from .directory import MachineInfo, machine
from .errors import InvalidRequest, LogDropped
from .execution import LIMIT, Completed, Execution, OutputTooLarge
from .finding import Finder, this_machine
from .machines.base import STATES, Machine, StartRequest, StopReport
from .reading import READ_SIZE
from .runtime import Pending, runtime
from .sessions import Session, newest_shell, once
from .steady import Steady
from .stream import Stream
from .writing import Input

if TYPE_CHECKING:
    from .relay.connection import Relay

__all__ = ["AsyncCMDOPClient", "Completed", "Machines", "Session", "Terminal", "machine", "new_id", "start"]

Mode = Literal["operator", "observer"]
MachineList = list[MachineInfo]


def new_id() -> str:
    """A session id: when it was made, and chance."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(4)


def start(where: Machine, request: StartRequest) -> Pending[Stream]:
    """Start a session; the stream begins at its beginning."""
    return Pending(_start(where, request), f"start {request.name}")


async def _start(where: Machine, request: StartRequest) -> Stream:
    where = Steady(where)
    facts = await where.start(request)
    if request.owner is not None and request.ephemeral is not None:
        await where.own(facts.id, request.owner)
    stream = Stream(where)
    stream.adopt(facts, 0)
    return stream


class Terminal:
    """Sessions on a client's machines: `client.terminal`.

    What starts or changes something does so at the call; what it returns is awaited for the answer. While the link to
    a machine is away calls wait for it, and are done once.

    A machine is `local`, a name of cmdop.toml or of ~/.ssh/config, or says how to get there: `ssh://me@host:2222` …
    Where none is named it is this one, until `set_machine`. One with `confirm = true` in cmdop.toml is not asked about,
    as a cell would: a program that names it has said so.

    A session is called by its id, or by its name, on whichever of the client's machines it is. These are `local` and
    those that it has reached.

    Args:
        where: The machine where none is named.
        lookup: Gives the machine of a name.
        home: Name of the machine that always is among the client's; None: none is.
    """

    def __init__(
        self,
        where: Machine | None = None,
        lookup: Callable[[str], Machine] = machine,
        home: str | None = "local",
    ) -> None:
        given = {} if where is None else {where.name: where}
        self.finder = Finder(lookup, given, next(iter(given), home), home)
        self._inputs: dict[str, Input] = {}
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}

    # -- machines

    def set_machine(self, name: str) -> Pending[None]:
        """Reach a machine; where none is named from then on, that one is meant.

        Raises:
            UnknownMachine: Nothing has that name.
            ConnectFailed: It was not reached; all is as before.
        """
        return Pending(self._set_machine(self.finder.at(name)), f"set_machine {name}")

    async def _set_machine(self, where: Machine) -> None:
        await where.connect()
        self.finder.reached(where)
        self.finder.default = where.name

    # -- sessions

    def get_active_session(self, machine: str | None = None) -> Pending[Session]:
        """The login shell on that machine that was started last, of those that run; none does: a new one.

        Never a session that was made for a command. Two calls at once of one client start one.

        Raises:
            UnknownMachine, ConnectFailed, StartFailed: There is none, and nothing was started.
        """
        where = self.finder.at(machine)
        return Pending(self._active(where), f"get_active_session on {where.name}")

    async def _active(self, where: Machine) -> Session:
        async with self._turn("start", where.name):
            shell = newest_shell(await self.finder.ask(where))
            if shell is None:
                steady = Steady(where)
                facts = await steady.start(StartRequest(id=new_id(), name="shell", free_name=True))
                self.finder.tell(where, facts)
                shell = Session(where.name, facts, await steady.status(facts.id))
        return shell

    def create(
        self,
        machine: str | None = None,
        command: str | None = None,
        *,
        name: str | None = None,
        shell: str | None = None,
        tty: str | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        cols: int | None = None,
        rows: int | None = None,
    ) -> Pending[Stream]:
        """Start `command` (the text of a script) or, without one, a login shell; gives its stream, from its beginning.

        Args:
            name: To be unique among live sessions; made up when not given.
            shell: By default bash where there is one, else sh; a `#!` line in the script wins over that.
            tty: `split` (default for commands), `full` (default for shells) or `none`.
            env: Variables on top of the machine's own; their values are stored nowhere.

        Raises:
            UnknownMachine, ConnectFailed, NameInUse, StartFailed, InvalidRequest: Nothing was started.
        """
        request = StartRequest(
            id=new_id(),
            name=name or ("shell" if command is None else "command"),
            free_name=name is None,
            script=command if command is None else _script(command),
            shell=shell,
            tty=tty,
            cwd=cwd,
            env=dict(env or {}),
            cols=cols,
            rows=rows,
        )
        return Pending(self._create(self.finder.at(machine), request), f"create {request.name}")

    async def _create(self, where: Machine, request: StartRequest) -> Stream:
        stream = await _start(where, request)
        self.finder.tell(where, stream.facts)
        return stream

    def list_sessions(self, machine: str | None = None, state: str | None = None) -> Pending[list[Session]]:
        """The sessions of a machine, by default of all that this client has reached (`local` always), oldest first.

        Args:
            state: Those only: `starting`, `running`, `held`, `exited`, `ended` or `lost`.

        Raises:
            ConnectFailed: A machine cannot be asked; name others one by one.
        """
        if state not in (None, *STATES):
            raise InvalidRequest(f"a state is one of {', '.join(STATES)}, not {state!r}")
        where = self.finder.own() if machine is None else [self.finder.at(machine)]
        return Pending(self._list(where, state), "list_sessions", tied=True)

    async def _list(self, where: Sequence[Machine], state: str | None) -> list[Session]:
        heard = await asyncio.gather(*map(self.finder.ask, where))
        found = [one for one in once(itertools.chain(*heard)) if state in (None, one.state)]
        return sorted(found, key=lambda one: one.facts.created_ns)

    def execute(
        self,
        command: str,
        *,
        machine: str | None = None,
        timeout: float | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        shell: str | None = None,
    ) -> Pending[Completed]:
        """Run a command to its end; gives stdout, stderr and exit exactly as they were: no terminal, nothing is typed.

        It is over when the command has exited, whatever it left running; with all that was said until then. Its session
        is removed when nothing of it runs any more and all output was given. Who gives up the waiting (`task.cancel()`,
        an interrupt) stops the command and all it started, in the background.

        Args:
            timeout: Seconds after which it and all it started is stopped, INT first. Counted from the call, while the
                link is away too; the stop is then done when the link is back.

        Raises:
            CommandTimeout: It was stopped at its timeout; has what it said until then, at most the first 64 MiB of it.
            TooMuch: It said more than 64 MiB; its session, which the error names, is kept.
            CommandFailed: The session was lost with its machine, so that nobody knows how it ended.
            UnknownMachine, ConnectFailed, StartFailed, InvalidRequest: Nothing was started.
        """
        if timeout is not None and not (isinstance(timeout, (int, float)) and timeout >= 0):
            raise InvalidRequest(f"timeout is a number of seconds, 0 or more, not {timeout!r}")
        where = self.finder.at(machine)
        request = StartRequest(
            id=new_id(),
            name=f"execute-{secrets.token_hex(3)}",
            free_name=True,
            script=_script(command),
            shell=shell,
            tty="none",
            input=False,
            cwd=cwd,
            env=dict(env or {}),
        )
        return Execution(where, request, timeout, lambda facts: self.finder.tell(where, facts))

    def stream(self, mode: Mode = "operator") -> Stream:
        """A stream to register handlers on before it is attached: `await stream.attach(session_id)`.

        Args:
            mode: An `"observer"` cannot type, resize, signal or stop.
        """
        return Stream(self.finder.somewhere(), mode=mode, locate=self.finder.locate)

    # -- one session

    def get_output(self, session_id: str, offset: int = 0, limit: int | None = None) -> Pending[bytes]:
        """Bytes of its log, all channels as they were read: from `offset` on, at most `limit`.

        Raises:
            SessionNotFound: None of the client's machines has it.
            LogDropped: Some of them were dropped at the log's size limit; it says which.
            TooMuch: They are more than 64 MiB, and there is no `limit`.
        """
        for what, number in (("offset", offset), ("limit", 0 if limit is None else limit)):
            if not isinstance(number, int) or number < 0:
                raise InvalidRequest(f"{what} is a number of bytes, 0 or more, not {number!r}")
        return Pending(self._get_output(session_id, offset, limit), f"get_output of {session_id}", tied=True)

    async def _get_output(self, wanted: str, offset: int, limit: int | None) -> bytes:
        where, session_id = await self.finder.find(wanted)
        end = (await where.status(session_id)).end
        if limit is None and end - offset > LIMIT:
            raise OutputTooLarge(end - offset, LIMIT, wanted)
        pieces, end = [], end if limit is None else min(end, offset + limit)
        while offset < end:
            chunks = await where.read_nowait(session_id, offset, min(end - offset, READ_SIZE))
            if not chunks:
                raise LogDropped(offset, end)
            pieces += [chunk.data for chunk in chunks]
            offset = chunks[-1].end
        return b"".join(pieces)

    def send_input(self, session_id: str, data: bytes | str) -> Pending[None]:
        """Type `data`, exactly: no newline is added. Calls for one session keep their order.

        Raises:
            SessionNotFound: None of the client's machines has it.
            SessionOver: The command is gone, or takes no input.
            InputTooLong: A line is longer than a terminal takes.
        """
        if not isinstance(data, (bytes, bytearray, memoryview, str)):
            raise InvalidRequest(f"input is bytes or str, not {type(data).__name__}")
        exact = data.encode() if isinstance(data, str) else bytes(data)
        return Pending(self._send_input(session_id, exact), f"send_input to {session_id}")

    async def _send_input(self, wanted: str, data: bytes) -> None:
        async with self._turn("type", wanted):
            where, session_id = await self.finder.find(wanted)
            known = self._inputs.get(session_id)
            if known is None or known.pid != os.getpid():  # a forked child is a writer of its own
                known = self._inputs[session_id] = Input()
            await known.send(where, session_id, data)

    def resize(self, session_id: str, cols: int, rows: int) -> Pending[None]:
        """Set the size of its terminals, in characters. Raises SessionNotFound, SessionOver, InvalidRequest."""
        return Pending(self._resize(session_id, cols, rows), f"resize {session_id}")

    async def _resize(self, wanted: str, cols: int, rows: int) -> None:
        where, session_id = await self.finder.find(wanted)
        await where.resize(session_id, cols, rows)

    def send_signal(self, session_id: str, signal: str | int) -> Pending[None]:
        """Send a signal (`"INT"`, `"SIGUSR1"`, 15) to its terminal's foreground group, else to the command's.

        Raises:
            SessionNotFound, SessionOver, InvalidRequest: It was not sent.
        """
        return Pending(self._send_signal(session_id, str(signal)), f"send_signal to {session_id}")

    async def _send_signal(self, wanted: str, signal: str) -> None:
        where, session_id = await self.finder.find(wanted)
        await where.signal(session_id, signal)

    def stop(self, session_id: str, grace: float = GRACE) -> Pending[StopReport]:
        """End the command and all it started: INT, TERM, KILL, `grace` seconds apart. Gives what it took.

        Raises:
            SessionNotFound: None of the client's machines has it.
        """
        if not grace >= 0:
            raise InvalidRequest(f"grace must not be negative, got {grace}")
        return Pending(self._stop(session_id, grace), f"stop {session_id}")

    async def _stop(self, wanted: str, grace: float) -> StopReport:
        where, session_id = await self.finder.find(wanted)
        return await where.stop(session_id, uuid.uuid4().hex, grace)

    def _turn(self, what: str, of: str) -> asyncio.Lock:
        """One after the other. On the I/O thread."""
        return self._turns.setdefault((what, of), asyncio.Lock())


class Machines:
    """The machines of a client: `client.machines`.

    Args:
        names: Of these only.
        way: Of this relay only, whose machines `lookup` gives.
    """

    def __init__(
        self,
        names: Sequence[str] | None = None,
        way: Relay | None = None,
        lookup: Callable[[str], Machine] = machine,
    ) -> None:
        self._names, self._way, self._lookup = names, way, lookup

    def list(self) -> Pending[MachineList]:
        """Those that have a name: of cmdop.toml and ~/.ssh/config, those reached before, `local`. Dials nothing.

        Of a client of a relay: those of its roster, with `present` and `heard`. Raises RelayUnreachable, KeyRefused.
        """
        if self._way is not None:
            return Pending(self._roster(self._way), "machines.list", tied=True)
        return Pending(asyncio.to_thread(directory.known, self._names), "machines.list", tied=True)

    async def _roster(self, way: Relay) -> MachineList:
        return directory.announced(way, await way.roster(), self._lookup)


class AsyncCMDOPClient:
    """Sessions for a script, on every machine that `%%cmdop` accepts: `async with AsyncCMDOPClient() as client`.

    Leaving the block ends nothing: sessions go on, and streams can be read as long as the process lives. So it may be
    used without one as well. `CMDOPClient` is the same for code without a loop.

    Attributes:
        terminal: Sessions.
        machines: Where they may be.
    """

    def __init__(self) -> None:
        self.terminal = Terminal()
        self.machines = Machines()
        self._relay: Relay | None = None

    @classmethod
    def local(cls) -> AsyncCMDOPClient:
        """A client of this machine only."""
        client = cls()
        client.terminal = Terminal(lookup=this_machine)
        client.machines = Machines(["local"])
        return client

    @classmethod
    def remote(cls, api_key: str | None = None, url: str | None = None) -> AsyncCMDOPClient:
        """A client of the machines on a relay, by their names there.

        Args:
            api_key: As `cmdop-relay keys` printed it; by default what CMDOP_API_KEY has.
            url: Of the relay; by default CMDOP_RELAY_URL, else cmdop.toml, else what the key says.

        Raises:
            BadKey: There is no key, or it is none. Whether the relay knows it shows when it is reached.
            NotSupported: `cmdop-jupyter[relay]` is not installed.
        """
        client, way = cls(), directory.relay(api_key, url)
        lookup = directory.machines_on(way)
        client.terminal = Terminal(lookup=lookup, home=None)
        client.machines = Machines(way=way, lookup=lookup)
        client._relay = way
        return client

    async def __aenter__(self) -> AsyncCMDOPClient:
        runtime()
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def __repr__(self) -> str:
        if self._relay is not None:
            return f"<{type(self).__name__}.remote: {self._relay.identity.proof} at {self._relay.url}>"
        local = ".local" if self.terminal.finder.lookup is this_machine else ""
        return f"<{type(self).__name__}{local}: where no machine is named, {self.terminal.finder.default}>"


def _script(command: str) -> str:
    if not isinstance(command, str):
        raise InvalidRequest(
            f"a command is the text of a script, not {command!r}; shlex.join(words) makes one of words"
        )
    return command
