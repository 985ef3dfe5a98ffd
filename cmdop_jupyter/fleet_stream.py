"""The stream of one machine of a fleet: it is there before its session is, and knows what was heard last."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from .agent.log import Chunk
from .errors import CmdopError, Detached
from .machines.base import Machine, SessionFacts, Status
from .reading import Start
from .stream import Stream
from .waiting import LAST_BYTES, LINE_SHOWN, Match, Wait, last_words

__all__ = ["OUTCOMES", "FleetStream", "Row", "last_lines_of", "newest"]

OUTCOMES = ("failed", "running", "waiting", "skipped", "stopped", "ok")  # as trouble comes first
ANSWER_SECONDS = 5.0  # that a machine has to say its newest lines


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """What there is to tell of one machine of a fleet.

    Attributes:
        machine: Its name.
        outcome: One of `OUTCOMES`.
        state: The session's, or `waiting`, `starting`, `skipped`, `not started`.
        exit: How the command ended, in words; why it was not started; '' while it runs.
        seconds: That it ran; None where it never did.
        bytes, lines: In its log.
        last_line: The newest; '' while none is known.
    """

    machine: str
    outcome: str
    state: str
    exit: str = ""
    seconds: float | None = None
    bytes: int = 0
    lines: int = 0
    last_line: str = ""


class FleetStream(Stream):
    """The stream of one machine of a fleet. Its name is `machine:name`.

    It is there before its session is: handlers may be registered on it, and what needs the session raises why there
    is none.

    Attributes:
        error: Why the command was not started, or is not heard of any more; None where nothing went wrong.
        skipped: Why it will not be started; '' while it may be.
    """

    def __init__(self, machine: Machine, base: str) -> None:
        super().__init__(machine)
        self.error: CmdopError | None = None
        self.skipped = ""
        self.begun = False  # it was asked for
        self.known_at = 0.0  # when what is known was heard, by `time.monotonic()`
        self.listeners: set[Callable[[], object]] = set()  # called on the I/O thread when something is heard
        self._base = base
        self._settled = asyncio.Event()  # it has a session, or never will

    @property
    def facts(self) -> SessionFacts:
        if self._facts is None:
            if self.error is not None:
                raise self.error
            raise Detached(f"{self.name} has no session: {self.skipped or self._stage()}")
        return self._facts

    @property
    def name(self) -> str:
        return f"{self.machine}:{self._base}" if self._facts is None else self._facts.name

    @property
    def attached(self) -> bool:
        """Whether it has a session."""
        return self._facts is not None

    @property
    def known(self) -> Status:
        """What was heard last; never asks."""
        return self._known

    @property
    def status(self) -> Status:
        if self._facts is None:
            _ = self.facts  # raises why there is none
        return super().status

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`, by what was heard last."""
        if self._facts is None or (self.error is not None and not self._known.over):
            if self.error is not None:
                return "failed"
            return "skipped" if self.skipped else "running" if self.begun else "waiting"
        status = self._known
        if not status.over:
            return "running"
        if status.exit is not None and status.exit.ok:
            return "ok"
        return "stopped" if status.stopped is not None and status.stopped.took and status.state != "lost" else "failed"

    @property
    def done(self) -> bool:
        """Whether nothing more will come of it."""
        return self.outcome not in ("running", "waiting")

    def row(self, last_line: str = "") -> Row:
        """What there is to tell of it, by what was heard last."""
        outcome, status = self.outcome, self._known
        if self._facts is None:
            if self.error is not None:
                return Row(self.machine, outcome, "not started", str(self.error))
            return Row(self.machine, outcome, "skipped" if self.skipped else self._stage(), self.skipped)
        how = str(status.exit) if status.exit is not None else str(self.error or "")
        if outcome == "stopped" and status.stopped is not None:
            how = f"stopped by {status.stopped.took}"
        state = "stopping" if status.stopping and not status.over else status.state
        return Row(self.machine, outcome, state, how, self.ran(), status.end, status.newlines, last_line)

    def ran(self) -> float:
        """Seconds that the command has run, its clock put forward while nothing is heard."""
        status = self._known
        seconds = self.facts.seconds(status)
        if status.live and not status.exited_ms and status.clock_ms and self._machine.link.state == "up":
            seconds += time.monotonic() - self.known_at
        return seconds

    def know(self, status: Status) -> None:
        """Take what was heard. On the I/O thread."""
        self._known, self.known_at = status, time.monotonic()
        self.tell()

    def tell(self) -> None:
        """Something is new. On the I/O thread."""
        for listener in list(self.listeners):
            listener()

    def begin(self) -> None:
        """It is asked for. On the I/O thread."""
        self.begun = True
        self.tell()

    async def refresh(self) -> Status:
        self.know(await self._machine.status(self.session_id))
        return self._known

    def adopt(self, facts: SessionFacts, origin: int, status: Status | None = None, *, listed: bool = True) -> None:
        """As `Stream.adopt`; messages are to say on which machine."""
        facts = dataclasses.replace(facts, name=f"{self.machine}:{facts.name}")
        super().adopt(facts, origin, status, listed=listed)
        self.known_at = time.monotonic()
        self._settled.set()
        self.tell()

    def fail(self, error: CmdopError) -> None:
        """Nothing came of it. On the I/O thread."""
        self.error = error
        self._settled.set()
        self.tell()

    def skip(self, why: str) -> None:
        """It is not to be started. On the I/O thread."""
        self.skipped = why
        self._settled.set()
        self.tell()

    async def settled(self) -> None:
        """Wait until it has a session, or never will. On the I/O thread."""
        await self._settled.wait()

    def _stage(self) -> str:
        return "starting" if self.begun else "waiting"

    def _begin_wait(self, wait: Wait, start: Start) -> Coroutine[Any, Any, Match]:
        return super()._begin_wait(wait, start) if self._facts is not None else self._wait_later(wait, start)

    async def _wait_later(self, wait: Wait, start: Start) -> Match:
        await self.settled()
        return await super()._begin_wait(wait, "begin" if start == "now" else start)

    def __repr__(self) -> str:
        if self._facts is None:
            return f"<Stream {self.name}: {self.error or self.skipped or self._stage()}>"
        return super().__repr__()


def newest(chunks: Sequence[Chunk]) -> tuple[str, ...]:
    """The newest lines of a tail, oldest first, without the `^C` that a terminal echoes when a command is stopped."""
    lines = [line for line in last_words(chunks) if not (line.channel == "tty" and line.text.startswith("^"))]
    return tuple(line.text[:LINE_SHOWN] for line in lines)


async def last_lines_of(member: FleetStream) -> tuple[str, ...]:
    """Its newest lines, oldest first; none where there is no session, or no answer in time. On the I/O thread."""
    if member.attached and member.link == "up":
        with contextlib.suppress(CmdopError, TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                tail = await member._machine.tail(member.session_id, LAST_BYTES)
                member.know(tail.status)
                return newest(tail.chunks)
    return ()
