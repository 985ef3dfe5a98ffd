"""A machine that is reached over a link: dials, redials, asks its agent; what the link is, is said by who inherits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from ..agent.answers import unpack_chunks
from ..agent.frames import MAX_BODY
from ..agent.log import Chunk
from ..errors import CmdopError, ConnectFailed, InvalidRequest
from .base import (
    CLOSED,
    Forward,
    InputWait,
    LinkState,
    SessionFacts,
    StartRequest,
    Status,
    StopReport,
    Tail,
    read_report,
)
from .forward import PortHere
from .presets import Place, asked_at

DIAL_TRIES = 6  # of a first dial, when the far side was just busy
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two tries
LEAST_AHEAD = 16 * 1024  # bytes a read must ask for, to be followed by reads ahead
MOST_AHEAD = 4  # of them, and what they ask for comes in
AHEAD_SECONDS = 0.2
AHEAD = 32  # reads that are asked for before anybody wants them

log = logging.getLogger("cmdop_jupyter")
Report = Callable[[str], object]


def pause_before(attempt: int, chance: float) -> float:
    """Seconds before try number `attempt` (from 1): doubling, up to half of it left to `chance` (0 to 1)."""
    longest: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempt, 10))
    return longest * (0.5 + chance / 2)


class FarLink(Protocol):
    """A way to the agent of a machine. It breaks once.

    Attributes:
        round_trip: Seconds of the newest ping; None before.
        rate: Bytes of bulk a second, lately.
        lost: Why it broke; None while it is up.
    """

    round_trip: float | None
    rate: float
    lost: str | None

    async def ask(self, header: dict[str, Any], body: bytes = b"") -> tuple[dict[str, Any], list[bytes]]:
        """Ask the agent, and wait for the answer, whose body comes in pieces. Cancelling tells it that nobody waits.

        Raises:
            LinkLost: The link broke before the answer.
            CmdopError: What the agent answered.
        """
        ...

    async def ping(self) -> float | None:
        """Seconds that a question and its answer take; None when the link broke."""
        ...

    def later(self, work: Coroutine[Any, Any, object]) -> None:
        """Do something that nobody waits for."""
        ...

    def close(self, reason: str = "closed") -> None:
        """End it; calls under way raise LinkLost."""
        ...


class FarMachine(ABC):
    """Sessions somewhere else, over one link however many they are. Belongs to the loop of its first call.

    Args:
        place: How it is reached, and how commands run there.
        on_up: Called whenever the link has come up.
    """

    def __init__(self, place: Place, on_up: Callable[[], object] = lambda: None) -> None:
        self.place, self._on_up = place, on_up
        self.name = place.name
        self._begin()

    @abstractmethod
    async def _dial_once(self, tell: Report) -> FarLink:
        """A new link, up, and `_hello` what its agent says of itself. Raises ConnectFailed."""

    def _let_go(self) -> None:
        """What else is to be closed with the machine."""
        return None

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._link: FarLink | None = None
        self._hello: dict[str, Any] = {}
        self._state = LinkState("down", "not dialled yet", since=time.monotonic())
        self._changed = asyncio.Event()
        self._dialling: asyncio.Task[FarLink] | None = None
        self._retrying: asyncio.Task[None] | None = None
        self._was_up = False
        self._closed = False
        self._owned: dict[str, str] = {}
        self._kept: dict[str, object] | None = None
        self._ahead: dict[tuple[str, int], asyncio.Task[list[Chunk]]] = {}

    # -- the link

    @property
    def link(self) -> LinkState:
        return self._state

    @property
    def round_trip(self) -> float | None:
        """Seconds that the newest ping took."""
        return self._link.round_trip if self._link is not None else None

    @property
    def hello(self) -> dict[str, Any]:
        """What the far side said of itself; {} before it was reached."""
        return self._hello

    async def link_change(self, seen: LinkState) -> LinkState:
        while self._state is seen:
            await self._changed.wait()
        return self._state

    async def connect(self, report: Report | None = None) -> dict[str, Any]:
        link = await self._ready(dial=True, report=report)
        await link.ping()
        return {**self._hello, "round_trip": link.round_trip}

    async def close(self) -> None:
        self._closed = True
        for task in (self._dialling, self._retrying, *self._ahead.values()):
            if task is not None:
                task.cancel()
        self._ahead.clear()
        if self._link is not None:
            self._link.close()
        self._let_go()
        self._set("down", CLOSED)
        await asyncio.sleep(0.0)  # the loop closes what the link had open
        await asyncio.sleep(0.0)

    def _set(self, state: str, reason: str = "", next_try: float | None = None, *, again: bool = False) -> None:
        redials = self._state.redials + again
        self._state = LinkState(state, reason, next_try, time.monotonic(), redials)
        self._changed.set()
        self._changed = asyncio.Event()

    async def _ready(self, *, dial: bool, report: Report | None = None) -> FarLink:
        """The link, once it is up. A machine that was never reached is dialled, else only where `dial` says so.

        Raises:
            ConnectFailed: A dial failed.
        """
        if self._pid != os.getpid():  # a forked child: the link is its parent's
            self._begin()
        while self._link is None or self._link.lost is not None:
            if self._closed:
                raise ConnectFailed(self.name, "its client was closed")
            if dial or not self._was_up:
                if self._dialling is None or self._dialling.done():
                    self._dialling = asyncio.ensure_future(self._dial(DIAL_TRIES, report))
                    self._dialling.add_done_callback(lambda done: done.cancelled() or done.exception())
                dialling = self._dialling
                try:
                    await asyncio.shield(dialling)
                except asyncio.CancelledError:
                    if not (dialling.cancelled() and self._closed):
                        raise
            else:
                await self.link_change(self._state)
        return self._link

    async def _dial(self, tries: int, report: Report | None = None) -> FarLink:
        """Bring the link up; in vain, raise ConnectFailed."""
        tell = report or (lambda _: None)
        self._set("retrying" if self._was_up else "connecting", self._state.reason)
        for attempt in range(1, tries + 1):
            try:
                link = await self._dial_once(tell)
                break
            except ConnectFailed as failed:
                if attempt == tries or not failed.busy:
                    if failed.needs_you or self._retrying is None or self._retrying.done():
                        self._set("down", failed.reason)
                    else:
                        self._set("retrying", failed.reason, self._state.next_try)
                    raise
                tell(f"{failed.reason}; once more")
                await asyncio.sleep(pause_before(attempt, random.random()))
        self._link = link
        for session_id, owner in self._owned.items():
            link.later(_quietly(link.ask({"op": "own", "session": session_id, "owner": owner})))
        self._set("up", again=self._was_up)
        self._was_up = True
        self._on_up()
        return link

    def _on_lost(self, link: FarLink, reason: str) -> None:
        if link is not self._link or self._closed:
            return
        self._ahead.clear()  # they have failed
        self._set("retrying", reason)
        if self._retrying is None or self._retrying.done():
            self._retrying = asyncio.ensure_future(self._retry(reason))

    async def _retry(self, reason: str) -> None:
        """Dial until the link is up again, or somebody has to see to it: then it is `down` until it is asked for."""
        attempt = 0
        while not self._closed and (self._link is None or self._link.lost is not None):
            if attempt:
                pause = pause_before(attempt, random.random())
                self._set("retrying", reason, time.monotonic() + pause)
                try:
                    async with asyncio.timeout(pause):
                        while self._state.state != "up":
                            await self.link_change(self._state)
                    return
                except TimeoutError:
                    pass
            attempt += 1
            try:
                if self._dialling is None or self._dialling.done():
                    self._dialling = asyncio.ensure_future(self._dial(1))
                await asyncio.shield(self._dialling)
            except ConnectFailed as failed:
                reason = failed.reason
                if failed.needs_you:
                    return
            except Exception as error:  # a fault of ours must not end the trying, and with it every wait
                log.exception("dialling %s failed", self.name)
                reason = repr(error)

    # -- the calls

    async def _ask(
        self, op: str, body: bytes = b"", *, dial: bool = False, **facts: object
    ) -> tuple[dict[str, Any], bytes]:
        answer, pieces = await self._ask_much(op, body, dial=dial, **facts)
        return answer, b"".join(pieces)

    async def _ask_much(
        self, op: str, body: bytes = b"", *, dial: bool = False, **facts: object
    ) -> tuple[dict[str, Any], list[bytes]]:
        """As `_ask`, the body of the answer in pieces."""
        link = await self._ready(dial=dial)
        return await link.ask({"op": op, **facts}, body)

    async def keep_ended(self, seconds: float, max_bytes: int) -> None:
        self._kept = {"op": "keep_ended", "seconds": seconds, "max_bytes": max_bytes}
        if self._link is not None and self._link.lost is None:
            await self._link.ask(self._kept)

    async def start(self, request: StartRequest) -> SessionFacts:
        asked = json.dumps(asked_at(self.place, request)).encode()
        if len(asked) > MAX_BODY:
            most, size = MAX_BODY // 1024, len(asked) // 1024
            raise InvalidRequest(f"a script and its variables may have {most} KiB over a link, these have {size}")
        _, body = await self._ask("start", asked, dial=True)
        return SessionFacts.from_answer(json.loads(body))

    async def sessions(self) -> list[tuple[SessionFacts, Status]]:
        _, body = await self._ask("sessions", dial=True)
        return [(SessionFacts.from_answer(one), Status.from_answer(one)) for one in json.loads(body)]

    async def find(self, wanted: str) -> SessionFacts:
        _, body = await self._ask("find", wanted=wanted, dial=True)
        return SessionFacts.from_answer(json.loads(body))

    async def status(self, session_id: str, seen: int | None = None) -> Status:
        answer, _ = await self._ask("status", session=session_id, seen=seen)
        return Status.from_answer(answer)

    async def read(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        ahead = self._ahead.pop((session_id, offset), None)
        if ahead is None:
            chunks = await self._read(session_id, offset, max_bytes)
        else:
            chunks = await ahead
        if chunks and chunks[-1].end - offset == max_bytes:
            for number in range(self._reads_ahead(max_bytes)):
                self._read_ahead(session_id, chunks[-1].end + number * max_bytes, max_bytes)
        return chunks

    def _reads_ahead(self, max_bytes: int) -> int:
        """How many reads of that size may be asked for ahead: of what the link carries in a while."""
        rate = self._link.rate if self._link is not None else 0.0
        return min(MOST_AHEAD, int(rate * AHEAD_SECONDS / max_bytes)) if max_bytes >= LEAST_AHEAD else 0

    async def _read(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        return unpack_chunks(*await self._ask_much("read", session=session_id, offset=offset, max_bytes=max_bytes))

    def _read_ahead(self, session_id: str, offset: int, max_bytes: int) -> None:
        """Ask for what will be wanted next, so that the link is not idle while this is looked at."""
        key = (session_id, offset)
        if key not in self._ahead:
            while len(self._ahead) >= AHEAD:
                self._ahead.pop(next(iter(self._ahead))).cancel()
            task = self._ahead[key] = asyncio.ensure_future(self._read(session_id, offset, max_bytes))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def read_nowait(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        answer = await self._ask_much("read_nowait", session=session_id, offset=offset, max_bytes=max_bytes)
        return unpack_chunks(*answer)

    async def tail(self, session_id: str, max_bytes: int) -> Tail:
        answer, body = await self._ask_much("tail", session=session_id, max_bytes=max_bytes)
        return Tail(unpack_chunks(answer, body), answer["before"], Status.from_answer(answer["status"]))

    async def write(self, session_id: str, writer: str, offset: int, data: bytes, *, eof: bool = False) -> int:
        answer, _ = await self._ask("write", data, session=session_id, writer=writer, offset=offset, eof=eof)
        return int(answer["accepted"])

    async def waits_for_input(self, session_id: str) -> InputWait:
        answer, _ = await self._ask("prompt", session=session_id)
        names = ("reading", "echo", "canonical", "signals", "end")
        return InputWait(**{name: answer[name] for name in names})

    async def resize(self, session_id: str, cols: int, rows: int, call: str = "") -> None:
        await self._ask("resize", session=session_id, cols=cols, rows=rows, call=call)

    async def signal(self, session_id: str, name: str, call: str = "") -> None:
        await self._ask("signal", session=session_id, name=name, call=call)

    async def stop(self, session_id: str, call: str, grace: float) -> StopReport:
        answer, _ = await self._ask("stop", session=session_id, call=call, grace=grace)
        return read_report(answer)

    async def limit(self, session_id: str, max_log: int, policy: str | None = None, call: str = "") -> None:
        await self._ask("limit", session=session_id, max_log=max_log, policy=policy, call=call)

    async def own(self, session_id: str, owner: str) -> None:
        self._owned[session_id] = owner
        await self._ask("own", session=session_id, owner=owner)

    async def remove(self, session_id: str) -> None:
        await self._ask("remove", session=session_id)
        self._owned.pop(session_id, None)

    async def surroundings(self) -> list[dict[str, Any]]:
        """What there could stand in the way of sessions: `what`, `ok`, `found` of each thing looked at."""
        answer, _ = await self._ask("surroundings", detach=list(self.place.detach))
        return list(answer["checks"])

    async def forward(self, port: int) -> Forward:
        return await PortHere.open(port, self._ask)


async def _quietly(work: Coroutine[Any, Any, object]) -> None:
    with contextlib.suppress(CmdopError):  # the session is over, or the link broke again: whoever cares asks again
        await work
