"""A machine's logs on their way to JetStream: in order, each byte once, while somebody has asked for them.

The log on disk is the truth. What is on the relay is found out by the last message of a session's subject, and the next
message says which one it follows there (`Nats-Expected-Last-Subject-Sequence`), so that none is stored twice or out of
order. A replicated stream takes one such message of a subject at a time; those behind it under a flood say only what
they are (`Nats-Msg-Id`). Whatever happens, each tells its offset: readers leave out what they had, and ask the machine
for a hole.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from dataclasses import dataclass
from typing import Any

from ..agent.calls import Calls
from ..agent.outbox import Window
from ..agent.status import LIVE
from ..errors import CmdopError, LinkLost
from . import subjects
from .mirror import LEASE, Full, Mirror
from .proofs import Identity
from .seals import seal_log
from .wire import Msg, Silent, Wire

LEAST_PIECE, PIECE = 64 * 1024, 224 * 1024  # bytes of one message; above the least, where the way is fast
IN_FLIGHT = 64  # messages that JetStream has not confirmed yet
CONFIRM_SECONDS = 10.0  # that JetStream may take
PAUSE = 10.0  # seconds in which a JetStream that fails is left alone
TRIED_SECONDS = 1.0  # that somebody waits for whether one that has stored nothing stores again
WRONG_LAST_SEQUENCE = (10071, 10164)  # JetStream's errors where another message came between
NOT_FOUND = 10037

log = logging.getLogger("cmdop_jupyter.relay")


@dataclass(slots=True)
class _Sent:
    mirror: Mirror
    sequence: int  # that it will have
    offset: int
    size: int
    at: float


class Publisher:
    """Publishes the logs of one machine's sessions. On one loop.

    Args:
        calls: The store's.
        always: Publish every session that runs, asked for or not.

    Attributes:
        published: Bytes of logs that were handed to the relay.
    """

    def __init__(self, identity: Identity, calls: Calls, *, always: bool = False) -> None:
        self.identity, self.calls, self.always = identity, calls, always
        self.machine = identity.proof.name
        self.published = 0
        self._loop = asyncio.get_running_loop()
        self._wire: Wire | None = None
        self._inbox = ""
        self._mirrors: dict[str, Mirror] = {}
        self._numbers = itertools.count(1)
        self._sent: dict[int, _Sent] = {}
        self._window = Window()
        self._bytes_confirmed = 0
        self._room = asyncio.Event()
        self._next = 0  # the sequence that the next message will have
        self._replicated = False
        self._resetting: asyncio.Task[None] | None = None
        self._failed, self._failed_until = "", 0.0
        self._stores = asyncio.Event()  # not set when what was published last was not stored
        self._stores.set()

    # -- the wire

    async def begin(self, wire: Wire) -> None:
        """Publish over this wire from now on. Raises LinkLost."""
        self.end()
        self._wire = wire
        self._inbox = f"{subjects.machine_inbox(self.machine)}.log"
        self._failed_until = 0.0
        await wire.subscribe(f"{self._inbox}.*", self._confirmed)
        await self._synchronize()
        if self._next:
            for mirror in self._mirrors.values():
                mirror.start()

    def end(self) -> None:
        """The wire is gone, or is to be let alone."""
        self._wire = None
        if self._resetting is not None:
            self._resetting.cancel()
            self._resetting = None
        for mirror in self._mirrors.values():
            mirror.stop()
        self._forget_sent()

    async def run(self) -> None:
        """What is to be done from time to time: end leases, notice that nothing is confirmed, find what is new."""
        while True:
            await asyncio.sleep(1.0)
            now = self._loop.time()
            oldest = next(iter(self._sent.values()), None)
            if oldest is not None and now - oldest.at > CONFIRM_SECONDS:
                self._fail_silent()
            for session, mirror in list(self._mirrors.items()):
                if now > mirror.lease:
                    mirror.stop()
                    if mirror.over or now > mirror.lease + 60 * LEASE:
                        del self._mirrors[session]
            if self.always and self._wire is not None and now >= self._failed_until:
                with contextlib.suppress(CmdopError, OSError):
                    for facts in await self.calls.sessions():
                        if facts["state"] in LIVE:
                            await self.mirror(str(facts["id"]), 0, 0.0)

    # -- asked for

    async def mirror(self, session: str, offset: int, wait: float) -> dict[str, Any]:
        """Publish a session for a while, and say where on the relay its log is from `offset` on.

        Args:
            wait: Seconds to hold the answer back unless publishing fails before.

        Returns:
            `sequence`: of the message to begin at, 0 where `offset` will not come by the relay. `from`: where in the
            log what comes by the relay begins, at or behind `offset`. `to`: where it ends so far; `over`: for good.
            `failed`: why nothing comes, else ''.
        """
        answer: dict[str, Any] = {"sequence": 0, "from": offset, "failed": self._problem()}
        if answer["failed"] and (self._wire is None or self._loop.time() < self._failed_until):
            return answer
        mirror = self._mirrors.get(session)
        if mirror is None:
            status = await self.calls.status(session)  # raises SessionNotFound
            mirror = self._mirrors.get(session)
            if mirror is None:
                if status["state"] not in LIVE:
                    return answer  # it is over: nobody else waits for it
                mirror = self._mirrors[session] = Mirror(self, session, offset)
        mirror.renew(offset)
        try:
            await mirror.ready()
        except CmdopError as error:
            return {**answer, "failed": self._problem() or str(error)}
        if wait:
            await mirror.trouble(wait)
        elif not self._stores.is_set():  # it is tried, and who reads is not to wait for it
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TRIED_SECONDS):
                    await self._stores.wait()
        answer["failed"] = self._problem()
        sequence, begin = mirror.place(offset)
        return {**answer, "sequence": sequence, "from": begin, "to": mirror.end, "over": mirror.over}

    def forget(self, session: str) -> None:
        """It was removed."""
        mirror = self._mirrors.pop(session, None)
        if mirror is not None:
            mirror.stop()

    def _problem(self) -> str:
        if self._wire is None:
            return "the machine is not connected to the relay"
        good = self._stores.is_set() and self._loop.time() >= self._failed_until
        return "" if good else self._failed

    # -- messages

    @property
    def piece(self) -> int:
        """Bytes of the next message: for so long what is urgent waits behind it."""
        return max(LEAST_PIECE, min(PIECE, self._window.size // 2))

    async def room(self) -> None:
        """Wait until one more message may be under way."""
        while len(self._sent) >= IN_FLIGHT or (self._sent and not self._window.open):
            self._room.clear()
            await self._room.wait()

    async def publish(self, mirror: Mirror, offset: int, facts: object, data: bytes, after: int) -> int:
        """Send a message that follows number `after` of its subject; return the number it will have."""
        wire = self._wire
        if wire is None:
            raise LinkLost("the relay", "not connected")
        header = seal_log(self.identity, mirror.subject, offset, facts, data)
        number, sequence = next(self._numbers), self._next
        self._next += 1
        self._sent[number] = _Sent(mirror, sequence, offset, len(data), self._loop.time())
        self.published += len(data)
        self._window.sent(len(data), self._loop.time())
        headers = {subjects.LOG_HEADER: header}
        if self._replicated and mirror.under_way:
            headers["Nats-Msg-Id"] = f"{mirror.subject}:{offset}:{after}"
        else:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(after)
        mirror.under_way += 1
        await wire.publish(mirror.subject, data, f"{self._inbox}.{number}", headers)
        return sequence

    def _confirmed(self, message: Msg) -> None:
        sent = self._sent.pop(int(message.subject.rpartition(".")[2]), None)
        if sent is None:
            return
        sent.mirror.under_way -= 1
        self._bytes_confirmed += sent.size
        self._window.acknowledged(self._bytes_confirmed, self._loop.time())
        self._room.set()
        if message.headers and message.headers.get("Status") == "503":
            self._fail(
                f"there is no stream {subjects.stream(self.machine)} on the relay; "
                "`cmdop-relay keys FOLDER provision` makes it"
            )
            return
        answer = json.loads(message.data)
        error = answer.get("error")
        if error is None:
            self._stores.set()
        if error is None and answer.get("seq") == sent.sequence:
            sent.mirror.stored(sent.offset, sent.size, sent.sequence)
        elif error is None or error.get("err_code") in WRONG_LAST_SEQUENCE:
            self._reset()
        else:
            self._fail(f"JetStream takes nothing: {error.get('description', error)}")

    def _forget_sent(self) -> None:
        for mirror in self._mirrors.values():
            mirror.under_way = 0
        self._sent.clear()
        self._window = Window()
        self._bytes_confirmed = 0
        self._room.set()

    def _fail(self, reason: str) -> None:
        """Leave JetStream alone for a while; who reads is told, and reads from the machine."""
        if self._loop.time() >= self._failed_until:
            log.warning("%s; logs are read from this machine meanwhile", reason)
        self._failed, self._failed_until = reason, self._loop.time() + PAUSE
        for mirror in self._mirrors.values():
            mirror.stop()
        self._forget_sent()
        self._next = 0

    def _fail_silent(self) -> None:
        """A nats-server that cannot write says so in its own log only, and stores nothing until it is restarted."""
        self._stores.clear()
        self._fail(
            f"JetStream has confirmed nothing for {CONFIRM_SECONDS:g} s; is the disk of the relay full? "
            "Its log says so; make room there, and restart it"
        )

    def _reset(self) -> None:
        """What is on the relay is not what was thought: look, and go on from there."""
        if self._resetting is None or self._resetting.done():
            self._resetting = asyncio.ensure_future(self._begin_anew())

    async def _begin_anew(self) -> None:
        for mirror in self._mirrors.values():
            mirror.stop(told=False)
        deadline = self._loop.time() + CONFIRM_SECONDS
        while self._sent and self._loop.time() < deadline:  # what is under way may still be stored
            self._room.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await self._room.wait()
        if self._sent:
            self._fail_silent()
            return
        self._forget_sent()
        try:
            await self._synchronize()
        except LinkLost:
            return
        for mirror in self._mirrors.values():
            if self._loop.time() < mirror.lease:
                mirror.start()

    async def _synchronize(self) -> None:
        """Learn which number the next message will have."""
        self._next = 0
        try:
            answer = await self.ask_api(f"STREAM.INFO.{subjects.stream(self.machine)}")
            self._next = int(answer["state"]["last_seq"]) + 1
            self._replicated = int(answer["config"].get("num_replicas", 1)) > 1
        except Silent:
            self._fail("JetStream does not answer")
        except Full as error:
            self._fail(str(error))

    async def synchronized(self) -> None:
        if not self._next:
            await self._synchronize()
        if not self._next:
            raise Full(self._problem() or "JetStream does not answer")

    async def ask_api(self, call: str, asked: object = None) -> dict[str, Any]:
        """Ask JetStream. Raises Silent, LinkLost, Full for what it refuses."""
        if self._wire is None:
            raise LinkLost("the relay", "not connected")
        message = await self._wire.request(f"$JS.API.{call}", json.dumps(asked).encode() if asked else b"")
        answer = dict(json.loads(message.data))
        error = answer.get("error")
        if error is not None and error.get("err_code") != NOT_FOUND:
            raise Full(f"JetStream refuses {call}: {error.get('description', error)}")
        return answer
