"""One command run to its end: bytes of both channels and the exit come out, exactly as they were."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from .agent.stopping import GRACE
from .errors import CmdopError, CommandFailed, CommandTimeout, TooMuch
from .machines.base import Exit, Machine, SessionFacts, StartRequest, Status, StopReport
from .reading import batches, known
from .runtime import Pending, Runtime, runtime
from .steady import Steady
from .waiting import LAST_BYTES, LINE_SHOWN, last_words

__all__ = ["Completed", "Execution", "OutputTooLarge"]

LIMIT = 64 * 1024 * 1024  # bytes of output that are given in one piece
STOP_SECONDS = 10.0  # that a stop is waited for: it takes five, and the machine has to answer
TIDY_SECONDS = 0.25  # that it is waited for until a session is removed; after that it goes on in the background


class Completed(NamedTuple):
    """What a command said, and how it ended."""

    stdout: bytes
    stderr: bytes
    exit: Exit

    @property
    def code(self) -> int | None:
        """What it returned; None when a signal ended it."""
        return self.exit.code

    @property
    def ok(self) -> bool:
        """Whether it returned 0."""
        return self.exit.ok


class OutputTooLarge(TooMuch):
    """More output than is given in one piece; the session is kept.

    Attributes:
        session: Its name.
    """

    def __init__(self, size: int, limit: int, session: str) -> None:
        super().__init__(size, limit)
        self.args = (size, limit, session)
        self.session = session

    def __str__(self) -> str:
        return (
            f"the log of {self.session} has {self.size} bytes, above the {self.limit} that are given in one piece. It "
            f"is kept: take parts by `get_output({self.session!r}, offset, limit)`, or attach a stream to it, which "
            f"has lines(), grep() and tail()"
        )


class Execution(Pending[Completed]):
    """A command that runs; await it, or call `result()`. Who gives up the waiting stops the command.

    Args:
        machine: Where.
        request: What to start.
        timeout: Seconds until it is stopped, those that reaching the machine takes among them.
        started: Told the session once there is one. On the I/O thread.
    """

    def __init__(
        self,
        machine: Machine,
        request: StartRequest,
        timeout: float | None,
        started: Callable[[SessionFacts], object] = lambda facts: None,
    ) -> None:
        self._run = _Run(machine, request, timeout, started)
        super().__init__(self._run(), f"execute {str(request.script).strip()[:60]!r}")
        _stop_before_exit(runtime())

    def _let_go(self) -> None:
        super()._let_go()
        stopped: concurrent.futures.Future[None] = concurrent.futures.Future()
        _given_up[stopped] = self._run.machine
        stopped.add_done_callback(_given_up.pop)
        self._future.add_done_callback(lambda _: stopped.set_result(None))
        runtime().call_later(self._run.give_up)

    def _in_one_line(self, interrupt: BaseException) -> None:
        line = f"\x1b[31mInterrupted\x1b[39m: {self._what}; it is stopped"
        interrupt._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]


class _Run:
    """What an execution does on the I/O thread."""

    def __init__(
        self,
        machine: Machine,
        request: StartRequest,
        timeout: float | None,
        started: Callable[[SessionFacts], object],
    ) -> None:
        self.machine = Steady(machine)
        self._request, self._timeout, self._started = request, timeout, started
        self._said: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        self._offset = 0  # up to which the log was read
        self._task: asyncio.Task[object] | None = None
        self._given_up = False
        self._stop_call = uuid.uuid4().hex

    async def __call__(self) -> Completed:
        self._task = asyncio.current_task()
        if self._given_up:
            raise asyncio.CancelledError
        starting = asyncio.ensure_future(self.machine.start(self._request))
        try:
            async with asyncio.timeout(self._timeout) as limit:
                session = await asyncio.shield(starting)
                self._started(session)
                status = await self._follow(session.id)
                exit = await self._checked(session, status)
        except TimeoutError:
            if not limit.expired():
                raise
            raise await self._too_late(starting) from None
        except asyncio.CancelledError:
            with contextlib.suppress(CmdopError):  # it could not be started
                await self._stop(starting)
            raise
        await self._tidy(session.id, status)
        return Completed(*self._output(), exit)

    def give_up(self) -> None:
        """Stop the command; nobody waits for it any more."""
        self._given_up = True
        if self._task is not None:
            self._task.cancel()

    # -- reading

    async def _follow(self, session_id: str) -> Status:
        """Read until the command has exited, and all that it said."""
        reading = asyncio.ensure_future(self._read(session_id))
        try:
            status = await self.machine.status(session_id)
            while not status.over or (status.live and status.held):  # until the disk takes its last words
                status = await self.machine.status(session_id, status.seq)
        finally:
            reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.exception()  # what it met, the next read meets too
        await self._read(session_id, status.end)
        return status

    async def _read(self, session_id: str, end: int | None = None) -> None:
        """Read on, up to `end` if it is known, and not far beyond what can be given."""
        most = LIMIT + 1 if end is None else min(end, LIMIT + 1)
        if self._offset >= most:
            return
        async for batch in batches(self.machine, session_id, known(self._offset), follow=end is None):
            for chunk in batch:
                if chunk.data:
                    self._said.setdefault(chunk.channel, []).append(chunk.data)
            self._offset = batch[-1].end
            if self._offset >= most:
                return

    def _output(self) -> tuple[bytes, bytes]:
        return b"".join(self._said["stdout"]), b"".join(self._said["stderr"])

    async def _checked(self, session: SessionFacts, status: Status) -> Exit:
        if status.exit is None:
            lines = last_words((await self.machine.tail(session.id, LAST_BYTES)).chunks)
            raise CommandFailed(session.name, status.state, tuple(line.text[:LINE_SHOWN] for line in lines))
        if status.end > LIMIT:
            raise OutputTooLarge(status.end, LIMIT, session.name)
        return status.exit

    # -- ending

    async def _stop(self, starting: asyncio.Future[SessionFacts]) -> StopReport:
        return await self.machine.stop((await starting).id, self._stop_call, GRACE)

    async def _stop_and_read(self, starting: asyncio.Future[SessionFacts]) -> tuple[StopReport, Status]:
        report = await self._stop(starting)
        status = await self.machine.status(starting.result().id)
        await self._read(starting.result().id, status.end)
        return report, status

    async def _too_late(self, starting: asyncio.Future[SessionFacts]) -> CmdopError:
        """Stop the command, in the background where its machine is away; the error that says so, with what it said."""
        stopping = asyncio.wrap_future(runtime().submit(self._stop_and_read(starting)))
        stopping.add_done_callback(lambda done: done.cancelled() or done.exception())
        away = asyncio.ensure_future(self._away())
        either: list[asyncio.Future[Any]] = [stopping, away]
        await asyncio.wait(either, timeout=STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        away.cancel()
        stopped = ""
        if stopping.done() and stopping.exception() is None:
            report, status = stopping.result()
            stopped = str(report)
            await self._tidy(starting.result().id, status)
        elif starting.done() and isinstance(error := starting.exception(), CmdopError):
            return error
        return CommandTimeout(str(self._request.script), self._timeout or 0.0, *self._output(), stopped)

    async def _away(self) -> None:
        while (link := self.machine.link).state == "up":
            await self.machine.link_change(link)

    async def _tidy(self, session_id: str, status: Status) -> None:
        """Remove the session, once nothing it started speaks any more and if nothing was said that we did not give."""
        removing = asyncio.wrap_future(runtime().submit(self._remove(session_id, status)))
        removing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait([removing], timeout=TIDY_SECONDS)

    async def _remove(self, session_id: str, status: Status) -> None:
        while status.live:
            status = await self.machine.status(session_id, status.seq)
        if status.end == self._offset:
            await self.machine.remove(session_id)


# Executions that were given up, and whose commands may still have to be stopped: a process that is interrupted ends at
# once, and its command is to end with it.
_given_up: dict[concurrent.futures.Future[None], Machine] = {}


@functools.cache
def _stop_before_exit(_: Runtime) -> None:
    """Let this process end only after what it gave up has been stopped, where its machine can be reached now."""
    atexit.register(  # the last one goes first, so before the I/O thread ends
        lambda: concurrent.futures.wait(
            [future for future, machine in list(_given_up.items()) if machine.link.state == "up"], timeout=STOP_SECONDS
        )
    )
