"""A sink: a cursor that hands a session's log to somebody else, who says how far he took it."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Generator
from typing import Any, Protocol

from ..agent.log import Chunk
from ..errors import CmdopError, InvalidRequest, LogDropped
from ..lines import check_channel
from ..machines.far import pause_before
from ..reading import Gap, Start, batches, known, offset_of
from ..runtime import Pending, runtime
from ..stream import Stream

TRICKLE = 64 * 1024  # bytes; a read that gives less is worth a pause, so that more comes together

log = logging.getLogger("cmdop_jupyter")


class TryAgain(CmdopError, ConnectionError):
    """The other side does not answer now; nothing is lost, and it will be asked again."""


class Left(Exception):
    """The other side has gone for good, which is no failure: the sink is closed."""


class HasStream(Protocol):
    """A stream in another shape: that of a client that blocks."""

    @property
    def stream(self) -> Stream: ...


def stream_of(given: Stream | HasStream) -> Stream:
    """The stream itself. Raises InvalidRequest where there is none."""
    stream = given if isinstance(given, Stream) else getattr(given, "stream", None)
    if not isinstance(stream, Stream):
        raise InvalidRequest(f"a sink takes a stream, not {given!r}; did you forget an `await`?")
    return stream


class Taker(Protocol):
    """The other side of a sink. Everything here runs on the I/O thread, and must not block it."""

    async def resume(self) -> int | None:
        """The log offset up to which the other side has everything; None: nothing yet.

        Asked at the beginning, and after each failure.

        Raises:
            TryAgain: It does not answer now.
        """
        ...

    async def take(self, chunks: list[Chunk], end: int) -> None:
        """Take what comes next; done when the other side has it all.

        Args:
            chunks: In order; a `Gap` stands for dropped bytes. May be empty.
            end: The log offset up to which this is all there is. The first time nothing comes: it begins there.

        Raises:
            TryAgain: It does not answer now. `resume` is asked how much of it was taken.
        """
        ...

    async def finish(self) -> None:
        """The session has ended, and all of its log was taken."""
        ...

    async def close(self) -> None:
        """Let go of everything. Called once, at the end."""
        ...


class Sink:
    """A forwarder of one stream's log: `await sink` for its end, `close()` to end it, or use it as a context manager.

    It ends when the session has ended and the other side has everything.

    Attributes:
        name: What it forwards to.
        offset: The log offset up to which the other side has everything; None before that is known.
        errors: How often the other side failed.
        pieces: How many pieces of the log it took.
        problem: What it said last; '' while all is well.
    """

    def __init__(
        self, name: str, stream: Stream, taker: Taker, *, start: Start, channel: str | None, pause: float = 0.0
    ) -> None:
        """Begin now.

        Args:
            start: Where to begin when the other side has nothing; None: where the stream began.
            pause: Seconds between two takes of little, so that a trickle comes in batches.
        """
        offset_of("begin" if start is None else start, 0)  # one that makes no sense is told now
        check_channel(channel)
        if not 0 <= pause < math.inf:
            raise InvalidRequest(f"the seconds between two batches must not be negative, got {pause:g}")
        self.name, self.errors, self.pieces, self.problem = name, 0, 0, ""
        self.offset: int | None = None
        self._stream, self._taker, self._channel, self._pause = stream, taker, channel, pause
        self._session, self._machine = stream.facts, stream._machine
        self._begin = stream._start_of(start)
        self._moved = asyncio.Event()
        self._state, self._closed = "running", False
        self._task: asyncio.Task[Any] | None = None
        stream._subscriptions.join(self)
        self._pending = Pending(self._run(), f"{name} of {stream.name}")
        self._pending._claimed = True  # what it fails with is told where the user sees it

    @property
    def state(self) -> str:
        """`running`, `retrying`, `ended` (all was taken), `closed` (by us, or the other side left) or `failed`."""
        return "closed" if self._closed and self._state in ("running", "retrying") else self._state

    @property
    def lag(self) -> int:
        """Bytes of the log that the other side does not have yet."""
        return max(0, self._stream.status.end - (self.offset or 0))

    def close(self) -> None:
        """End it; what is under way may or may not be taken."""
        if self.state in ("running", "retrying"):
            self._closed = True
            runtime().call_later(lambda: self._task and self._task.cancel())

    remove = close

    def reached(self, offset: int | None = None) -> Pending[int]:
        """Wait until the other side has the log up to `offset`, by default all that is in it now; gives where it is.

        Raises:
            CmdopError: The sink has ended before.
        """
        return Pending(self._reach(offset), f"{self.name} of {self._session.name} to get there", tied=True)

    def result(self, timeout: float | None = None) -> int:
        """Block until it has ended, as `await` does; for people without a loop."""
        self._pending.result(timeout)
        return self.offset or 0

    def __await__(self) -> Generator[Any, Any, int]:
        """Wait for its end; gives the offset. Raises what it failed with."""
        yield from self._pending.__await__()
        return self.offset or 0

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        problem = f" ({self.problem})" if self.problem else ""
        at = "nothing yet" if self.offset is None else f"{self.offset} bytes of the log"
        return f"<{self.name} of {self._session.name}: {self.state}{problem}, {at}, {self.errors} errors>"

    async def _run(self) -> None:
        self._task = asyncio.current_task()
        cursors = self._stream._subscriptions
        attempt = 0
        try:
            while not self._closed:
                before = self.offset
                try:
                    await self._forward()
                    await self._taker.finish()
                    self._state = "ended"
                    return
                except TryAgain as problem:
                    self.errors += 1
                    attempt = 1 if self.offset != before else attempt + 1
                    if self._state == "running":
                        log.warning("%s of %s: %s; trying again", self.name, self._session.name, problem)
                    self._state, self.problem = "retrying", str(problem)
                    await asyncio.sleep(pause_before(attempt, random.random()))
        except Left:
            self._closed = True
        except asyncio.CancelledError:
            if not self._closed:
                raise
        except Exception as error:
            self._state, self.problem = "failed", str(error)
            self.errors += 1
            cursors.report(error)
            raise
        finally:
            self._task = None  # what follows is not to be cancelled
            cursors.leave(self)
            self._tell()
            await self._taker.close()

    async def _forward(self) -> None:
        taken = await self._taker.resume()
        if taken is None:
            taken = await self._begin()
            await self._taker.take([], taken)  # so that a later `resume` knows where this began
        self.offset = taken
        if self._state == "retrying" and taken >= (await self._machine.status(self._session.id)).end:
            self._state, self.problem = "running", ""
        self._tell()
        async for batch in batches(self._machine, self._session.id, known(self.offset), follow=True):
            wanted = [one for one in batch if isinstance(one, Gap) or self._channel in (None, one.channel)]
            await self._taker.take(wanted, batch[-1].end)
            for chunk in batch:
                if isinstance(chunk, Gap):
                    self._stream._subscriptions.report(LogDropped(chunk.offset, chunk.end))
            self.offset = batch[-1].end
            self.pieces += len(wanted)
            if self._state == "retrying":
                self._state, self.problem = "running", ""
            self._tell()
            if batch[-1].end - batch[0].offset < TRICKLE:
                await asyncio.sleep(self._pause)

    async def _reach(self, offset: int | None) -> int:
        wanted = (await self._machine.status(self._session.id)).end if offset is None else offset
        while self.offset is None or self.offset < wanted:
            if self.state not in ("running", "retrying"):
                why = f": {self.problem}" if self.problem else ""
                raise CmdopError(
                    f"{self.name} of {self._session.name} {self.state} at byte {self.offset}, before {wanted}{why}"
                )
            await self._moved.wait()
        return self.offset

    def _tell(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
