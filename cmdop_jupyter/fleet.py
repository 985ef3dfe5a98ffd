"""One command on many machines: names and a command in, a mapping of streams out. Knows no notebook."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .agent.stopping import GRACE
from .directory import several
from .errors import (
    CmdopError,
    CommandFailed,
    FailPatternSeen,
    InvalidRequest,
    PatternTooSlow,
    StillRunning,
)
from .fleet_starter import Starter
from .fleet_stream import OUTCOMES, FleetStream, Row, last_lines_of
from .machines.base import StartRequest, StopReport
from .reading import _pandas
from .runtime import Pending, runtime
from .streams import streams
from .waiting import Patterns, Wait

if TYPE_CHECKING:
    import pandas

__all__ = ["Fleet", "FleetFront", "FleetStream", "Row", "Starter", "run_fleet"]


class FleetFront(Protocol):
    """What a front end does about fleets."""

    def show(self, fleet: Fleet) -> None:
        """One was made. Called where it was."""
        ...

    async def waited(self, fleet: Fleet) -> None:
        """A wait for it is over. On the I/O thread, before the answer is given out."""
        ...


class Fleet(Mapping[str, FleetStream]):
    """One command on many machines: a mapping of machine names, in the order they were asked for, to streams.

    `await fleet` waits until all have exited, and gives the fleet. A machine that cannot be reached is `failed` with
    its error; the others go on. What is told is what was heard last: nothing here asks a machine, but where it says so.

    Attributes:
        name: Of the command; the session on each machine is called so.
        request: What is run.
        at_most: Machines under way at once; None: all.
        stop_on_failure: None is started any more once one has failed.
        started: When, in seconds since the epoch; 0 for a part of another fleet.
    """

    def __init__(
        self,
        members: Sequence[FleetStream],
        request: StartRequest,
        *,
        at_most: int | None = None,
        stop_on_failure: bool = False,
        starter: Starter | None = None,
        front: FleetFront | None = None,
    ) -> None:
        if at_most is not None and at_most < 1:
            raise InvalidRequest(f"at_most is 1 or more machines at once, got {at_most}")
        self.name, self.request, self.at_most, self.stop_on_failure = request.name, request, at_most, stop_on_failure
        self._members = {member.machine: member for member in members}
        self._starter, self._front = starter or Starter(request), front
        self.started = 0.0

    # -- the mapping

    def __getitem__(self, machine: str) -> FleetStream:
        return self._members[machine]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    @property
    def members(self) -> list[FleetStream]:
        """Its streams."""
        return list(self._members.values())

    def those(self, *outcomes: str) -> Fleet:
        """The part of it with one of these outcomes, as of now."""
        part = [member for member in self.members if member.outcome in outcomes]
        return self._like(part)

    @property
    def ok(self) -> Fleet:
        """Where it exited with 0."""
        return self.those("ok")

    @property
    def failed(self) -> Fleet:
        """Where it could not be started, exited with another code, was killed or lost."""
        return self.those("failed")

    @property
    def running(self) -> Fleet:
        """Where it is under way, the starting among them."""
        return self.those("running")

    @property
    def waiting(self) -> Fleet:
        """Where it waits for its turn."""
        return self.those("waiting")

    @property
    def skipped(self) -> Fleet:
        """Where it was not started and will not be: another failed, or the fleet was stopped."""
        return self.those("skipped")

    @property
    def stopped(self) -> Fleet:
        """Where it was stopped by one of us."""
        return self.those("stopped")

    @property
    def not_started(self) -> dict[str, str]:
        """Why, where it has no session."""
        return {
            name: str(member.error or member.skipped or member.row().state)
            for name, member in self._members.items()
            if member._facts is None
        }

    # -- running

    def begin(self, started: float | None = None) -> Fleet:
        """Start it on all machines, as many at a time as may be, list it, and show it. Once only; gives itself."""
        self.started = time.time() if started is None else started
        streams.fleets.pop(self.name, None)
        streams.fleets[self.name] = self
        runtime().submit(self._drive())
        if self._front is not None:
            self._front.show(self)
        return self

    async def _drive(self) -> None:
        room = asyncio.Semaphore(self.at_most or max(1, len(self)))
        await asyncio.gather(*(self._run(member, room) for member in self.members))

    async def _run(self, member: FleetStream, room: asyncio.Semaphore) -> None:
        """Start one and follow its states to its end."""
        async with room:
            if member.skipped:
                return
            member.begin()
            try:
                await self._starter.start(member)
                while not member.known.over:
                    await _next_status(member)
            except CmdopError as error:  # not reached, not started, or removed by somebody
                member.fail(error)
            if self.stop_on_failure and member.outcome == "failed":
                self._skip(f"not started: {member.machine} had failed")
        with contextlib.suppress(CmdopError):
            while member.attached and member.known.live:
                await _next_status(member)

    def _skip(self, why: str) -> None:
        for member in self.members:
            if not member.begun and not member.skipped:
                member.skip(why)

    @contextlib.contextmanager
    def heard(self, listener: Callable[[], object]) -> Iterator[None]:
        """Call `listener()` whenever something is heard of one of its machines. On the I/O thread."""
        for member in self.members:
            member.listeners.add(listener)
        try:
            yield
        finally:
            for member in self.members:
                member.listeners.discard(listener)

    def __await__(self) -> Generator[Any, Any, Fleet]:
        """Wait until all have exited; gives the fleet. None is raised for those that failed."""
        return self.wait_exit().__await__()

    def wait_exit(self, timeout: float | None = None, *, fail: Patterns | None = None) -> Pending[Fleet]:
        """As `await fleet`, with a time limit, and with patterns for lines that are an error; `.result()` blocks.

        Raises:
            StillRunning: They have not all exited in `timeout` seconds.
            FailPatternSeen: A line matched `fail`; says on which machine.
        """
        if fail is not None:
            Wait([], fail=fail)  # what cannot be awaited is told now
        return Pending(self._wait_exit(timeout, fail), f"exits of {self.name}", tied=True)

    async def _wait_exit(self, timeout: float | None, fail: Patterns | None) -> Fleet:
        failing = [] if fail is None else [asyncio.create_task(_no_line(member, fail)) for member in self.members]
        over = asyncio.create_task(self._over())
        try:
            async with asyncio.timeout(timeout):
                either: set[asyncio.Task[Any]] = {over, *failing}
                while not over.done():
                    done, either = await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                for task in failing:
                    await task
        except TimeoutError:
            raise StillRunning(self.name, timeout or 0.0) from None
        finally:
            for task in (over, *failing):
                task.cancel()
            await asyncio.gather(over, *failing, return_exceptions=True)
            if self._front is not None:
                await self._front.waited(self)
        return self

    async def _over(self) -> None:
        news = asyncio.Event()
        with self.heard(news.set):
            while not all(member.done for member in self.members):
                await news.wait()
                news.clear()

    def stop(self, grace: float = GRACE) -> Pending[dict[str, StopReport]]:
        """Start none any more, and end all that run: INT, TERM, KILL, `grace` seconds apart. Gives what each took.

        Machines that are not reached now are stopped when they are, and the answer waits for that.
        """
        if grace < 0:
            raise InvalidRequest(f"grace must not be negative, got {grace}")
        return Pending(self._stop(grace), f"stop {self.name}")

    async def _stop(self, grace: float) -> dict[str, StopReport]:
        self._skip("the fleet was stopped")

        async def stop(member: FleetStream) -> StopReport | None:
            with contextlib.suppress(CmdopError):  # never started, or removed
                await member.settled()
                report = await member._machine.stop(member.session_id, uuid.uuid4().hex, grace)
                await member.refresh()
                return report
            return None

        ending = [
            member for member in self.members if member.outcome == "running" or (member.attached and member.known.live)
        ]
        reports = await asyncio.gather(*map(stop, ending))
        return {member.machine: report for member, report in zip(ending, reports, strict=True) if report is not None}

    def rerun(self, machines: Iterable[str] | None = None) -> Fleet:
        """Run it anew on some of its machines, by default where it failed or was skipped; gives a fleet of those.

        Args:
            machines: Names, or a part of this fleet: `fleet.rerun(fleet.failed)`.

        Raises:
            InvalidRequest: There are none, or one is not of this fleet; nothing was started.
        """
        self._starter.check_again()
        if isinstance(machines, str):
            machines = [machines]
        names = list(self.those("failed", "skipped") if machines is None else machines)
        strange = [name for name in names if name not in self]
        if strange:
            raise InvalidRequest(f"{', '.join(strange)}: not of the fleet {self.name}, so nothing was started")
        if not names:
            raise InvalidRequest(f"there is nothing to run anew: {self.summary()}")
        members = [FleetStream(self._members[name]._machine, self.name) for name in names]
        return self._like(members).begin()

    def _like(self, members: Sequence[FleetStream]) -> Fleet:
        return Fleet(
            members,
            self.request,
            at_most=self.at_most,
            stop_on_failure=self.stop_on_failure,
            starter=self._starter,
            front=self._front,
        )

    # -- what there is to tell

    def summary(self) -> str:
        """`18 ok, 1 failed, 1 running`, by what was heard last."""
        outcomes = [member.outcome for member in self.members]
        return ", ".join(f"{outcomes.count(one)} {one}" for one in reversed(OUTCOMES) if one in outcomes)

    def rows(self) -> list[Row]:
        """What there is to tell of each machine, with its newest line. Asks the machines that can be reached."""
        return runtime().wait(self.ask_rows())

    async def ask_rows(self) -> list[Row]:
        """As `rows`. On the I/O thread."""
        return await asyncio.gather(*map(_row, self.members))

    def to_pandas(self) -> pandas.DataFrame:
        """A table: machine, outcome, state, exit (words), seconds, bytes, lines, last_line. Needs pandas."""
        rows = [dataclasses.asdict(row) for row in self.rows()]
        names = [field.name for field in dataclasses.fields(Row)]
        return _pandas().DataFrame(rows, columns=names)

    def check(self) -> Fleet:
        """Raise where a machine failed or was skipped; gives itself. Asks the first of them for its last lines.

        Raises:
            CommandFailed: Says which machines, and how.
        """
        bad = [member for member in self.members if member.outcome in ("failed", "skipped")]
        if bad:
            rows = [member.row() for member in bad[:5]]
            words = [(row.machine, row.exit or row.state) for row in rows]
            told = [how if how.startswith(f"{name} ") else f"{name} {how}" for name, how in words]
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            lines = runtime().wait(last_lines_of(bad[0]))
            shown = tuple(f"{bad[0].machine} | {line}" for line in lines)
            raise CommandFailed(self.name, f"{len(bad)} of {len(self)} machines: {'; '.join(told)}{more}", shown)
        return self

    def __repr__(self) -> str:
        count = f"{len(self)} machine{'' if len(self) == 1 else 's'}"
        bad = [member.machine for member in self.members if member.outcome == "failed"]
        failed = f"; failed: {', '.join(bad)}" if bad else ""
        return f"<Fleet {self.name} on {count}: {self.summary() or 'empty'}{failed}>"


def run_fleet(
    machines: str | Iterable[str],
    command: str,
    *,
    name: str | None = None,
    at_most: int | None = None,
    stop_on_failure: bool = False,
    shell: str | None = None,
    tty: str | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Fleet:
    """Start `command` (the text of a script) on several machines: `fleet = await run_fleet("web[01-20]", "uptime")`.

    It has begun when this returns; `await` waits until all have exited. Machines with `confirm = true` are not asked
    about: a program that names them has said so.

    Args:
        machines: Names, `@group`, `@tag`, `web[01-20]`; one, or several in a list. Each machine is taken once.
        name: Of the session on each machine; made up when not given.
        at_most: Machines that run it at once. By default all do, since a command that never exits would keep the
            others from starting; dials are few at a time in any case.
        stop_on_failure: Once one has failed no more are started. Those that run go on: `fleet.stop()` ends them.
        shell, tty, cwd, env: As for `client.terminal.create`.

    Raises:
        UnknownMachine, UnknownMachines, InvalidRequest, ConfigError: Nothing was started.
    """
    if not isinstance(command, str):
        raise InvalidRequest(f"a command is the text of a script, not {command!r}")
    words = [machines] if isinstance(machines, str) else list(machines)
    request = StartRequest(
        id="",
        name=name or "command",
        free_name=name is None,
        script=command,
        shell=shell,
        tty=tty,
        cwd=cwd,
        env=dict(env or {}),
    )
    members = [FleetStream(where, request.name) for _, where in several(words)]
    if not members:
        raise InvalidRequest("no machine is named, so nothing was started")
    return Fleet(members, request, at_most=at_most, stop_on_failure=stop_on_failure).begin()


async def _next_status(member: FleetStream) -> None:
    known = member.known
    member.know(await member._machine.status(member.session_id, known.seq if known.seq >= 0 else None))


async def _no_line(member: FleetStream, fail: Patterns) -> None:
    """Return once it has ended without a line that matches. Raises FailPatternSeen."""
    try:
        await member._begin_wait(Wait([], fail=fail, exit_ends=True), "begin")
    except (FailPatternSeen, PatternTooSlow):
        raise
    except CmdopError:  # it ended, or was never started
        return


async def _row(member: FleetStream) -> Row:
    lines = await last_lines_of(member)
    return member.row(lines[-1] if lines else "")
