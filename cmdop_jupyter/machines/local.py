"""This machine: the agent's calls in this process, their answers as the values that `Machine` promises."""

from __future__ import annotations

import asyncio
import platform
import socket
from collections.abc import Callable
from typing import Any

from ..agent.calls import Calls
from ..agent.log import Chunk
from ..agent.store import SessionStore
from ..errors import InvalidRequest
from .base import Forward, InputWait, LinkState, SessionFacts, StartRequest, Status, StopReport, Tail, read_report
from .presets import Place, asked_at


class LocalMachine:
    """Sessions of this user on this machine. Belongs to the loop it is first used on, in a forked child to another.

    Args:
        store: Where they are; by default the user's own.
        place: How its commands run.
    """

    name = "local"
    link = LinkState("up")

    def __init__(self, store: SessionStore | None = None, place: Place | None = None) -> None:
        self._calls, self._place = Calls(store or SessionStore()), place or Place("local", "local")

    async def keep_ended(self, seconds: float, max_bytes: int) -> None:
        self._calls.store.keep_seconds, self._calls.store.keep_bytes = seconds, max_bytes

    async def link_change(self, seen: LinkState) -> LinkState:
        await asyncio.get_running_loop().create_future()  # it never does
        return self.link

    async def connect(self, report: Callable[[str], object] | None = None) -> dict[str, Any]:
        return {"python": platform.python_version(), "host": socket.gethostname()}

    async def start(self, request: StartRequest) -> SessionFacts:
        return SessionFacts.from_answer(await self._calls.start(asked_at(self._place, request)))

    async def sessions(self) -> list[tuple[SessionFacts, Status]]:
        found = await self._calls.sessions()
        return [(SessionFacts.from_answer(answer), Status.from_answer(answer)) for answer in found]

    async def find(self, wanted: str) -> SessionFacts:
        return SessionFacts.from_answer(await self._calls.find(wanted))

    async def status(self, session_id: str, seen: int | None = None) -> Status:
        return Status.from_answer(await self._calls.status(session_id, seen))

    async def read(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        return await self._calls.read(session_id, offset, max_bytes)

    async def read_nowait(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        return await self._calls.read_nowait(session_id, offset, max_bytes)

    async def tail(self, session_id: str, max_bytes: int) -> Tail:
        chunks, before, answer = await self._calls.tail(session_id, max_bytes)
        return Tail(chunks, before, Status.from_answer(answer))

    async def write(self, session_id: str, writer: str, offset: int, data: bytes, *, eof: bool = False) -> int:
        return await self._calls.write(session_id, writer, offset, data, eof)

    async def waits_for_input(self, session_id: str) -> InputWait:
        return InputWait(**await self._calls.prompt(session_id))

    async def resize(self, session_id: str, cols: int, rows: int, call: str = "") -> None:
        await self._calls.resize(session_id, cols, rows, call)

    async def signal(self, session_id: str, name: str, call: str = "") -> None:
        await self._calls.signal(session_id, name, call)

    async def stop(self, session_id: str, call: str, grace: float) -> StopReport:
        return read_report(await self._calls.stop(session_id, call, grace))

    async def limit(self, session_id: str, max_log: int, policy: str | None = None, call: str = "") -> None:
        await self._calls.limit(session_id, max_log, policy, call)

    async def own(self, session_id: str, owner: str) -> None:
        await self._calls.own(session_id, owner)

    async def forward(self, port: int) -> Forward:
        return HerePort(port)

    async def remove(self, session_id: str) -> None:
        await self._calls.remove(session_id)

    async def close(self) -> None:
        self._calls.close()


class HerePort:
    """A port of this machine leads to itself."""

    def __init__(self, port: int) -> None:
        if not 0 < port < 65536:
            raise InvalidRequest(f"a port is 1 to 65535, not {port}")
        self.port = port

    def close(self) -> None:
        pass
