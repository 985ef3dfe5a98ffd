"""`AsyncCMDOPClient`: sessions from a script. Opens and closes what it uses."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping

from .directory import machine
from .machines.base import Machine, SessionFacts, StartRequest, Status
from .runtime import Pending, runtime
from .steady import Steady
from .stream import Stream

__all__ = ["AsyncCMDOPClient", "Terminal", "machine", "new_id", "start"]


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
    """Sessions of a client's machines: `client.terminal`."""

    def __init__(self, where: Machine) -> None:
        self._machine = where

    async def create(
        self,
        machine_name: str | None = None,
        command: str | None = None,
        *,
        name: str | None = None,
        shell: str | None = None,
        tty: str | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        cols: int | None = None,
        rows: int | None = None,
    ) -> Stream:
        """Start `command` (the text of a script) or, without one, a login shell; return its stream, from its beginning.

        Args:
            machine_name: Where, if not on the client's own: `local`, a name of the configuration or of ~/.ssh/config,
                `ssh://me@host:2222` …
            name: To be unique among live sessions; made up when not given.
            shell: By default bash where there is one, else sh; a `#!` line in the script wins over that.
            tty: `split` (default for commands), `full` (default for shells) or `none`.
            env: Variables on top of the machine's own; their values are stored nowhere.

        Raises:
            UnknownMachine, ConnectFailed, NameInUse, StartFailed, InvalidRequest: Nothing was started.
        """
        where = self._machine if machine_name in (None, self._machine.name) else machine(machine_name)
        request = StartRequest(
            id=new_id(),
            name=name or ("shell" if command is None else "command"),
            free_name=name is None,
            script=command,
            shell=shell,
            tty=tty,
            cwd=cwd,
            env=dict(env or {}),
            cols=cols,
            rows=rows,
        )
        return await start(where, request)

    def stream(self) -> Stream:
        """A stream to register handlers on before it is attached: `await stream.attach(session_id)`."""
        return Stream(self._machine)

    async def list_sessions(self) -> list[tuple[SessionFacts, Status]]:
        """All sessions, oldest first, with their status."""
        return await Pending(self._machine.sessions(), "list_sessions")


class AsyncCMDOPClient:
    """Sessions for a script: `async with AsyncCMDOPClient.local() as client`.

    Leaving the block ends nothing: sessions go on, and streams of it can be read as long as the process lives.
    """

    def __init__(self, where: Machine) -> None:
        self.terminal = Terminal(where)

    @classmethod
    def local(cls) -> AsyncCMDOPClient:
        """A client whose machine, where none is named, is this one."""
        return cls(machine("local"))

    async def __aenter__(self) -> AsyncCMDOPClient:
        runtime()
        return self

    async def __aexit__(self, *_: object) -> None:
        return None
