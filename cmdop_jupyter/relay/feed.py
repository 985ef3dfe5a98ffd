"""A session's log as it comes from JetStream, for one cursor: in order, without holes it does not tell of, bounded."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Mapping
from typing import Any

from ..agent.answers import unpack_chunks
from ..agent.frames import FrameError
from ..agent.log import Chunk
from ..errors import CmdopError, LinkLost, Refused
from . import subjects
from .connection import consumer
from .link import RelayLink
from .mirror import END
from .seals import check_log
from .wire import Msg

BUFFER = 4 * 1024 * 1024  # bytes that may lie here before JetStream is told to wait
HEARTBEAT = 2.0  # seconds between two signs of life of an idle consumer
IDLE = 2  # of those in a row, after which nothing more will come of what is there
RENEW = 20.0  # seconds after which the machine is told that somebody still reads

__all__ = ["Feed", "FeedBroken", "Hole"]


class FeedBroken(CmdopError):
    """The feed gives no more; from where it is, there may be another.

    Attributes:
        reason: Why.
        failed: Publishing itself fails: another feed would not do better now.
    """

    def __init__(self, reason: str, *, failed: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.failed = reason, failed


class Hole(Exception):
    """What comes next on the relay lies further on in the log.

    Attributes:
        until: Where the feed goes on.
    """

    def __init__(self, until: int) -> None:
        super().__init__(until)
        self.until = until


class Feed:
    """One push consumer. On one loop.

    Args:
        at: Offset in the log that is wanted first.
        answer: Of the machine, asked from where it is: `sequence` is the number of the message to begin at, which may
            begin before `at`; `to` and `over` say how far the log is there.

    Attributes:
        link: Over which the machine is told that somebody reads.
        at: What is wanted next.
        used: When something was taken last, by the loop's clock.
        broken: Why it gives no more; None while it does.
        dropped: Messages that the machine has not signed.
    """

    def __init__(self, link: RelayLink, session: str, at: int, answer: Mapping[str, Any]) -> None:
        self.link, self._session, self._first = link, session, int(answer["sequence"])
        self._loop = asyncio.get_running_loop()
        self._subject = subjects.log(link.machine, session)
        self._chunks: deque[Chunk] = deque()
        self._size = 0
        self._end: int | None = None  # where the log ends
        self._came = self._gone = 0  # where what came ends, and what will not come any more
        self._idle = 0  # heartbeats since the last message
        self._there = answer
        self._seen = 0  # messages of the consumer
        self._owed: deque[str] = deque()  # where JetStream waits for a word that there is room
        self._more = asyncio.Event()
        self._stop: Any = None
        self._renewing: asyncio.Task[None] | None = None
        self._heard = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self.at, self.used = at, self._loop.time()
        self.broken: FeedBroken | None = None
        self.dropped = 0

    async def open(self) -> None:
        """Begin. Raises FeedBroken, LinkLost."""
        link, name = self.link, secrets.token_hex(8)
        where = f"{subjects.library_inbox(link.relay.identity.proof.name)}.{name}"
        config = {
            "name": name,
            "filter_subject": self._subject,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(1, self._first),
            "deliver_subject": where,
            "ack_policy": "none",
            "replay_policy": "instant",
            "max_deliver": 1,
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT * 1e9),
            "inactive_threshold": 10 * 10**9,
            "mem_storage": True,
            "num_replicas": 1,
        }
        self._stop = await link.wire.subscribe(where, self._hear)
        try:
            await consumer(link.wire, subjects.stream(link.machine), config)
        except LinkLost:
            raise
        except CmdopError as error:  # Refused, or no answer
            await self._stop()
            raise FeedBroken(str(error), failed=True) from None
        self._renewing = asyncio.ensure_future(self._renew())
        self._listen()

    async def next(self, max_bytes: int) -> list[Chunk]:
        """What comes at `at`, at least one chunk; `[]` at the end of the log. Cancelling loses nothing.

        Raises:
            Hole: What is at `at` will not come.
            FeedBroken: Nothing will.
        """
        while True:
            self.used = self._loop.time()
            while self._chunks and self._chunks[0].end <= self.at:
                self._size -= len(self._chunks.popleft().data)
            if self._chunks:
                if self._chunks[0].offset > self.at:
                    raise Hole(self._chunks[0].offset)
                return self._take(max_bytes)
            if self._gone > self.at:
                raise Hole(self._gone)
            if self._end is not None:
                if self._end > self.at:
                    raise Hole(self._end)
                return []
            if self.broken is not None:
                raise self.broken
            self._more.clear()
            await self._more.wait()

    def close(self) -> None:
        """Let go of it."""
        self._break(FeedBroken("closed"))

    # -- the parts

    def _take(self, max_bytes: int) -> list[Chunk]:
        taken: list[Chunk] = []
        left = max_bytes
        while self._chunks and left > 0:
            chunk = self._chunks[0]
            if chunk.offset > self.at:
                break
            skip = self.at - chunk.offset
            part = chunk.data[skip : skip + left] if skip or len(chunk.data) > left else chunk.data
            taken.append(Chunk(self.at, chunk.channel, chunk.wall_ns, chunk.mono_ms, part))
            self.at += len(part)
            left -= len(part)
            if chunk.end <= self.at:
                self._size -= len(chunk.data)
                self._chunks.popleft()
        if self._size < BUFFER:
            self._pay()
        return taken

    def _pay(self) -> None:
        while self._owed:
            self.link.later(self._word(self._owed.popleft()))

    async def _word(self, subject: str) -> None:
        with contextlib.suppress(LinkLost):
            await self.link.wire.publish(subject)

    def _hear(self, message: Msg) -> None:
        if self.broken is not None:
            return
        self._heard = self._loop.time()
        headers = message.headers or {}
        if not message.data and headers.get("Status") == "100":
            self._hear_control(message, headers)
            return
        words = message.reply.split(".")
        number = int(words[6] if len(words) == 9 else words[8])  # longer with a domain
        if number != self._seen + 1:
            self._break(FeedBroken("messages were lost on the way"))
            return
        self._seen, self._idle = number, 0
        try:
            offset, facts = check_log(self.link.proof, self._subject, headers.get(subjects.LOG_HEADER), message.data)  # type: ignore[arg-type]
            self._came = offset + len(message.data)
            if facts == END:
                self._end = offset
            else:
                fresh = unpack_chunks({"offset": offset, "chunks": facts}, [message.data])
                self._chunks.extend(fresh)
                self._size += len(message.data)
        except (Refused, FrameError):
            self.dropped += 1
            return
        self._more.set()

    def _hear_control(self, message: Msg, headers: dict[str, str]) -> None:
        subject = message.reply or headers.get("Nats-Consumer-Stalled", "")
        if subject:
            self._owed.append(subject)
            if self._size < BUFFER:
                self._pay()
        last = headers.get("Nats-Last-Consumer", "")
        if last.isdigit() and int(last) != self._seen:
            self._break(FeedBroken("messages were lost on the way"))
        elif not subject and not self._owed:
            self._idle += 1
            if self._idle >= IDLE:
                self._miss()

    def _miss(self) -> None:
        """Give up what JetStream had, and dropped before it could come: other sessions may have had much to say."""
        to = int(self._there.get("to", 0))
        if to > self._came:
            self._came = self._gone = to
            self._more.set()
        if self._there.get("over") and self._end is None:
            self._end = to
            self._more.set()

    def _listen(self) -> None:
        if self.broken is None:
            if self._loop.time() - self._heard > 3 * HEARTBEAT and not self._owed:
                self._break(FeedBroken("JetStream has gone quiet"))
                return
            self._timer = self._loop.call_later(HEARTBEAT, self._listen)

    async def _renew(self) -> None:
        """Tell the machine that somebody reads, and hear from it when it cannot publish."""
        try:
            while self._end is None:
                call = {"op": "mirror", "session": self._session, "offset": self.at, "wait": RENEW}
                answer, _ = await self.link.ask(call)
                self._there, self._idle = answer, 0
                if answer.get("failed"):
                    self._break(FeedBroken(str(answer["failed"]), failed=True))
                    return
                if answer.get("sequence") == 0:
                    self._break(FeedBroken("the session ended meanwhile"))
                    return
        except CmdopError as error:
            self._break(FeedBroken(str(error)))

    def _break(self, why: FeedBroken) -> None:
        if self.broken is not None:
            return
        self.broken = why
        self._more.set()
        self._owed.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None and self._renewing is not asyncio.current_task():
            self._renewing.cancel()
        if self._stop is not None:
            self.link.later(self._stop())
