"""One session's log on its way to JetStream: read from the disk from where the relay has it to, and followed.

Which message follows which is the session's own; what all of a machine share is the publisher's.
"""

from __future__ import annotations

import asyncio
import base64
import bisect
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from ..agent.log import CHANNELS, Chunk
from ..errors import CmdopError, LinkLost, LogDropped, Refused
from . import subjects
from .seals import check_log

if TYPE_CHECKING:
    from .publishing import Publisher

MOST_CHUNKS = 500  # that one message describes: its header has a line of at most 64 KiB
LEASE = 60.0  # seconds that a session is published after somebody asked for it
REMEMBERED = 8192  # messages of a session whose place is known
END = "end"  # what a message is told of behind which nothing follows

log = logging.getLogger("cmdop_jupyter.relay")


class Full(CmdopError):
    """JetStream takes nothing; says why."""


class Mirror:
    """The log of one session on the relay.

    Attributes:
        lease: Until when somebody wants it, by the loop's clock.
        over: All of the log is there, its end too.
        end: Where in the log ends what is there.
        under_way: Messages that are not confirmed yet.
    """

    def __init__(self, publisher: Publisher, session: str, offset: int) -> None:
        self._publisher, self._session = publisher, session
        self._loop = asyncio.get_running_loop()
        self.subject = subjects.log(publisher.machine, session)
        self.lease, self.over, self.end, self.under_way = 0.0, False, 0, 0
        self._wanted = offset  # where to begin when nothing is on the relay, or nobody has a lease
        self._at = -1  # where in the log the next message begins; -1: not known
        self._first = offset  # where the first one begins
        self._last = 0  # the number of the newest message of the subject
        self._offsets: deque[int] = deque()  # where messages begin that are on the relay,
        self._sequences: deque[int] = deque()  # and their numbers
        self._task: asyncio.Task[None] | None = None
        self._known = asyncio.Event()
        self._troubled: asyncio.Future[None] = self._loop.create_future()

    def renew(self, offset: int) -> None:
        fresh = self._loop.time() > self.lease
        self.lease = self._loop.time() + LEASE
        if fresh:  # nobody reads along, so that what they would not have wanted may be left out
            self._wanted, self._at = offset, -1
        if not self.over and (self._task is None or self._task.done()):
            self.start()

    def start(self) -> None:
        self.stop(told=False)
        if not self.over and self._loop.time() < self.lease:
            self._known.clear()
            self._task = asyncio.ensure_future(self._run())

    def stop(self, *, told: bool = True) -> None:
        """Publish no more for now; with `told`, those that wait for it hear of it."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            self._task = None
        if told and not self._troubled.done():
            self._troubled.set_result(None)
        if told:
            self._troubled = self._loop.create_future()

    async def ready(self) -> None:
        """Wait until it is known what is on the relay. Raises what stands in the way."""
        knowing = asyncio.ensure_future(self._known.wait())
        ways: list[asyncio.Future[Any]] = [knowing, self._troubled, *([self._task] if self._task is not None else [])]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if not self._known.is_set():
                raise Full("it cannot be published now")
        finally:
            knowing.cancel()

    async def trouble(self, seconds: float) -> None:
        """Wait for trouble, so long at most."""
        await asyncio.wait([self._troubled], timeout=seconds)

    def place(self, offset: int) -> tuple[int, int]:
        """The number of the message to begin at for `offset`, and where in the log what comes then begins."""
        at = bisect.bisect_right(self._offsets, offset) - 1
        if at >= 0:
            return self._sequences[at], offset
        if self._offsets:
            return self._sequences[0], self._offsets[0]
        return 1, max(offset, self._first)

    def stored(self, offset: int, size: int, sequence: int) -> None:
        self.end, self.over = max(self.end, offset + size), self.over or not size
        if not self._offsets or offset > self._offsets[-1]:
            self._offsets.append(offset)
            self._sequences.append(sequence)
            if len(self._offsets) > REMEMBERED:
                self._offsets.popleft()
                self._sequences.popleft()

    # -- publishing

    async def _run(self) -> None:
        publisher = self._publisher
        try:
            await publisher.synchronized()
            await self._look()
            self._known.set()
            while not self.over:
                try:
                    chunks = await publisher.calls.read(self._session, self._at, publisher.piece)
                except LogDropped as gap:
                    self._at = gap.first  # readers see it by the offset of what follows
                    continue
                await publisher.room()
                chunks = chunks[:MOST_CHUNKS]
                data = chunks[0].data if len(chunks) == 1 else b"".join(chunk.data for chunk in chunks)
                facts = _facts(chunks) if chunks else END
                at, self._at = self._at, self._at + len(data)
                self._last = await publisher.publish(self, at, facts, data, self._last)
                if not chunks:
                    return  # over it is when that is confirmed
        except (CmdopError, OSError, ValueError) as error:
            if not isinstance(error, LinkLost):
                log.warning("the log of %s cannot be published: %s", self._session, error)
                self.stop()

    async def _look(self) -> None:
        """Find out what of the log is on the relay, and where to go on."""
        answer = await self._publisher.ask_api(
            f"STREAM.MSG.GET.{subjects.stream(self._publisher.machine)}", {"last_by_subj": self.subject}
        )
        message = answer.get("message")
        if message is None:
            self._last = 0
            self._first = self._at = max(self.end, self._wanted) if self._at >= 0 else self._wanted
            self._offsets.clear()
            self._sequences.clear()
            return
        data = base64.b64decode(message.get("data") or "")
        header = _header(base64.b64decode(message.get("hdrs") or ""))
        try:
            offset, facts = check_log(self._publisher.identity.proof, self.subject, header, data)
        except Refused:  # of another key of this machine: what is there cannot be continued, only followed
            offset, facts = max(self._at, self._wanted), None
        self._last = int(message["seq"])
        self.stored(offset, len(data), self._last)
        self.over = facts == END
        self._at = max(offset + len(data), self._wanted if self._at < 0 else 0)


def _facts(chunks: list[Chunk]) -> list[list[int]]:
    return [[CHANNELS.index(chunk.channel), chunk.wall_ns, chunk.mono_ms, len(chunk.data)] for chunk in chunks]


def _header(block: bytes) -> str | None:
    """The one header of ours in a block of them."""
    begin = f"{subjects.LOG_HEADER}:".encode()
    for line in block.split(b"\r\n"):
        if line.startswith(begin):
            return line[len(begin) :].strip().decode("utf-8", "replace")
    return None
