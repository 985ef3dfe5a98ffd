"""A machine whose link may break: each call is made again until it has an answer, which every call allows."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from .agent.log import Chunk
from .errors import ConnectFailed, LinkLost
from .machines.base import (
    CLOSED,
    Forward,
    InputWait,
    LinkState,
    Machine,
    SessionFacts,
    StartRequest,
    Status,
    StopReport,
    Tail,
)
from .shared import SharedReads

T = TypeVar("T")


class Steady:
    """What a `Stream` makes of its machine: a call waits while the link is away, and is done once.

    Args:
        several: Whether more than one cursor reads now; what they read is fetched once.

    Attributes:
        stops: Sessions that are being stopped, by id: while the link is away, a stop waits for it.
    """

    def __init__(self, machine: Machine, several: Callable[[], bool] = lambda: False) -> None:
        self.bare: Machine = machine.bare if isinstance(machine, Steady) else machine
        self.stops: set[str] = set()
        self._reads = SharedReads(self._read, several)

    @property
    def name(self) -> str:
        return self.bare.name

    @property
    def link(self) -> LinkState:
        return self.bare.link

    async def link_change(self, seen: LinkState) -> LinkState:
        return await self.bare.link_change(seen)

    async def connect(self, report: Callable[[str], object] | None = None) -> dict[str, Any]:
        return await self.bare.connect(report)

    async def start(self, request: StartRequest) -> SessionFacts:
        asked = False  # it may have been done, so that "not reached: nothing was started" would not be true
        while True:
            try:
                return await self.bare.start(request)
            except LinkLost:
                asked = True
            except ConnectFailed:
                if not asked or self.link.reason == CLOSED:
                    raise
            while (link := self.link).state != "up" and link.reason != CLOSED:
                await self.link_change(link)

    async def sessions(self) -> list[tuple[SessionFacts, Status]]:
        return await _until_answered(self.bare.sessions)

    async def find(self, wanted: str) -> SessionFacts:
        return await _until_answered(lambda: self.bare.find(wanted))

    async def status(self, session_id: str, seen: int | None = None) -> Status:
        return await _until_answered(lambda: self.bare.status(session_id, seen))

    async def read(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        return await self._reads.read(session_id, offset, max_bytes)

    async def _read(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        return await _until_answered(lambda: self.bare.read(session_id, offset, max_bytes))

    async def read_nowait(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        return await _until_answered(lambda: self.bare.read_nowait(session_id, offset, max_bytes))

    async def tail(self, session_id: str, max_bytes: int) -> Tail:
        return await _until_answered(lambda: self.bare.tail(session_id, max_bytes))

    async def write(self, session_id: str, writer: str, offset: int, data: bytes, *, eof: bool = False) -> int:
        return await _until_answered(lambda: self.bare.write(session_id, writer, offset, data, eof=eof))

    async def waits_for_input(self, session_id: str) -> InputWait:
        return await _until_answered(lambda: self.bare.waits_for_input(session_id))

    async def resize(self, session_id: str, cols: int, rows: int, call: str = "") -> None:
        call = call or uuid.uuid4().hex
        await _until_answered(lambda: self.bare.resize(session_id, cols, rows, call))

    async def signal(self, session_id: str, name: str, call: str = "") -> None:
        call = call or uuid.uuid4().hex
        await _until_answered(lambda: self.bare.signal(session_id, name, call))

    async def stop(self, session_id: str, call: str, grace: float) -> StopReport:
        self.stops.add(session_id)
        try:
            return await _until_answered(lambda: self.bare.stop(session_id, call, grace))
        finally:
            self.stops.discard(session_id)

    async def limit(self, session_id: str, max_log: int, policy: str | None = None, call: str = "") -> None:
        call = call or uuid.uuid4().hex
        await _until_answered(lambda: self.bare.limit(session_id, max_log, policy, call))

    async def keep_ended(self, seconds: float, max_bytes: int) -> None:
        await self.bare.keep_ended(seconds, max_bytes)

    async def own(self, session_id: str, owner: str) -> None:
        await _until_answered(lambda: self.bare.own(session_id, owner))

    async def forward(self, port: int) -> Forward:
        return await self.bare.forward(port)

    async def remove(self, session_id: str) -> None:
        await self.bare.remove(session_id)  # not repeated: the second time it would not be there

    async def close(self) -> None:
        await self.bare.close()


async def _until_answered(call: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await call()
        except LinkLost:  # the next call waits until the link is up, or raises what stands in its way
            continue
