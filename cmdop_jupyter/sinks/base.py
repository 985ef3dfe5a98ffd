"""A sink: a cursor that hands a session's log to somebody else, who says how far he took it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Generator
from typing import Any, Protocol

from ..agent.log import CHANNELS, Chunk
from ..errors import CmdopError, InvalidRequest, LogDropped
from ..machines.stdio import pause_before
from ..reading import Gap, Start, batches, known, offset_of
from ..runtime import Pending, runtime
from ..stream import Stream

log = logging.getLogger("cmdop_jupyter")


class TryAgain(CmdopError, ConnectionError):
    """The other side does not answer now; nothing is lost, and it will be asked again."""


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
            end: The log offset up to which this is all there is.

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
        state: `running`, `retrying`, `ended` (all was taken), `closed` (by us) or `failed`.
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
            pause: Seconds that pass between two takes at least, so that a trickle comes in batches.
        """
        offset_of("begin" if start is None else start, 0)  # one that makes no sense is told now
        if channel not in (None, *CHANNELS):
            raise InvalidRequest(f"a channel is {', '.join(CHANNELS)}, not {channel!r}")
        if pause < 0:
            raise InvalidRequest(f"the seconds between two batches must not be negative, got {pause:g}")
        self.name, self.errors, self.pieces, self.state, self.problem = name, 0, 0, "running", ""
        self.offset: int | None = None
        self._stream, self._taker, self._channel, self._pause = stream, taker, channel, pause
        self._session, self._machine = stream.facts, stream._machine
        self._begin = stream._start_of(start)
        self._moved = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._pending = Pending(self._run(), f"{name} of {stream.name}")

    @property
    def lag(self) -> int:
        """Bytes of the log that the other side does not have yet."""
        return max(0, self._stream.status.end - (self.offset or 0))

    def close(self) -> None:
        """End it; what is under way may or may not be taken."""
        if self.state in ("running", "retrying"):
            self.state = "closed"
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
        cursors.join(self)
        attempt = 0
        try:
            while self.state != "closed":
                before = self.offset
                try:
                    await self._forward()
                    await self._taker.finish()
                    self.state = "ended"
                    return
                except TryAgain as problem:
                    self.errors += 1
                    attempt = 1 if self.offset != before else attempt + 1
                    if self.state == "running":
                        log.warning("%s of %s: %s; trying again", self.name, self._session.name, problem)
                    self.state, self.problem = "retrying", str(problem)
                    await asyncio.sleep(pause_before(attempt, random.random()))
        except asyncio.CancelledError:
            if self.state != "closed":
                raise
        except Exception as error:
            self.state, self.problem = "failed", str(error)
            self.errors += 1
            self._pending._claimed = True  # told here
            cursors.report(error)
            raise
        finally:
            cursors.leave(self)
            self._tell()
            await self._taker.close()

    async def _forward(self) -> None:
        taken = await self._taker.resume()
        self.offset = await self._begin() if taken is None else taken
        self._tell()
        async for batch in batches(self._machine, self._session.id, known(self.offset), follow=True):
            for chunk in batch:
                if isinstance(chunk, Gap):
                    self._stream._subscriptions.report(LogDropped(chunk.offset, chunk.end))
            wanted = [one for one in batch if isinstance(one, Gap) or self._channel in (None, one.channel)]
            await self._taker.take(wanted, batch[-1].end)
            self.offset = batch[-1].end
            self.pieces += len(wanted)
            if self.state == "retrying":
                self.state, self.problem = "running", ""
            self._tell()
            await asyncio.sleep(self._pause)

    async def _reach(self, offset: int | None) -> int:
        wanted = (await self._machine.status(self._session.id)).end if offset is None else offset
        while self.offset is None or self.offset < wanted:
            if self.state not in ("running", "retrying"):
                why = self.problem or "the log ends there"
                raise CmdopError(f"{self.name} of {self._session.name} {self.state} at byte {self.offset}: {why}")
            await self._moved.wait()
        return self.offset

    def _tell(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
