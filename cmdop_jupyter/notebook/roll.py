"""Which sessions there are, on all machines that were reached, kept up to date while somebody looks. Knows no page."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Collection, Iterable

from ..errors import CmdopError
from ..machines.asking import Asking
from ..machines.base import Machine, Status
from ..sessions import Session
from ..streams import streams
from .links import Ear, Heard, others
from .listing import in_order

LIST_SECONDS = 3.0  # after which a machine is asked for new sessions
LIST_SHARE, LIST_MOST = 5, 15.0  # times as long as listing took, where that is longer; but no longer than that
PAUSE_SECONDS = 0.3  # before a machine is listed anew that could not say how a session is
AGAIN_SECONDS = 20.0  # after which one that did not answer is asked again


class Roll:
    """The sessions of all machines that were reached. All of it belongs to the I/O thread.

    Changes of those that are looked at are waited for over there; others, and new ones, are found by listing.

    Args:
        heard: What machines said just now.
        only: Of this machine alone.
        news: Called when something is new.
        shown: Ids of the sessions that are looked at.
    """

    def __init__(
        self,
        heard: Iterable[Heard],
        only: str | None,
        news: Callable[[], object],
        shown: Callable[[], Collection[str]],
    ) -> None:
        self._heard = {one.machine: one for one in heard}
        self._only, self._news, self._shown = only, news, shown
        self._followers: dict[str, _Follower] = {}
        self._task: asyncio.Task[None] | None = None
        self._quiet: Asking | None = None

    @property
    def sessions(self) -> list[Session]:
        """As heard last: the running first, then the newest ended."""
        ours = {stream.session_id: stream.machine for stream in streams.values()}
        return in_order((one for each in self._heard.values() for one in each.found), ours)

    @property
    def problems(self) -> list[str]:
        """Which machines said nothing, and why."""
        return [one.problem for one in self._heard.values() if one.problem]

    @property
    def begun(self) -> bool:
        return self._task is not None

    def reached(self, machine: str) -> Machine | None:
        """How a machine was reached last; None where it was not."""
        return self._followers[machine].ear.where if machine in self._followers else None

    def begin(self) -> None:
        """Keep it up to date from now on."""
        if self._task is None:
            self._quiet = Asking(None)
            self._task = asyncio.get_running_loop().create_task(self._run(self._quiet))

    async def end(self) -> None:
        """Ask nobody any more; what was heard stays. `begin` goes on."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def look_again(self, machine: str) -> None:
        """Something was done to a session there."""
        if machine in self._followers:
            self._followers[machine].hurry.set()

    async def _run(self, quiet: Asking) -> None:
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                names = [self._only] if self._only else ["local", *await asyncio.to_thread(others)]
                for name in names:
                    if name not in tasks:
                        self._followers[name] = _Follower(self, Ear(name, quiet))
                        tasks[name] = asyncio.create_task(self._followers[name].run())
                for name in set(tasks) - set(names):  # it was forgotten
                    tasks.pop(name).cancel()
                    self._heard.pop(name, None)
                    self._news()
                await asyncio.sleep(LIST_SECONDS)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            self._followers.clear()
            quiet.close()


class _Follower:
    """Keeps the sessions of one machine up to date."""

    def __init__(self, roll: Roll, ear: Ear) -> None:
        self.ear, self.hurry = ear, asyncio.Event()
        self._roll = roll
        self._waits: dict[str, asyncio.Task[Status]] = {}

    async def run(self) -> None:
        try:
            while True:
                began = time.monotonic()
                self.hurry.clear()
                heard = await self.ear.ask()
                took = time.monotonic() - began
                if heard.problem and (before := self._roll._heard.get(self.ear.name)):
                    heard = dataclasses.replace(heard, found=before.found)  # they go on, as far as we know
                self._know(heard)
                rest = AGAIN_SECONDS if heard.problem else min(LIST_MOST, max(LIST_SECONDS, LIST_SHARE * took))
                await self._changes(time.monotonic() + rest)
        finally:
            self._let_go()
            await self.ear.close()

    def _know(self, heard: Heard) -> None:
        self._roll._heard[self.ear.name] = heard
        self._roll._news()

    async def _changes(self, until: float) -> None:
        """Take what changes up to then, or until somebody is in a hurry, or a link breaks."""
        hurry = asyncio.create_task(self.hurry.wait())
        try:
            while (left := until - time.monotonic()) > 0 and not hurry.done():
                if self.ear.where is not None:
                    self._wait(self.ear.where)
                done, _ = await asyncio.wait(
                    [hurry, *self._waits.values()], timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                if not self._take(done):
                    self._let_go()
                    await asyncio.sleep(PAUSE_SECONDS)
                    return
        finally:
            hurry.cancel()

    def _wait(self, where: Machine) -> None:
        """Wait for the next state of each session that is looked at and goes on."""
        shown = self._roll._shown()
        live = {one.session_id: one.status for one in self._found if one.status.live and one.session_id in shown}
        for gone in set(self._waits) - set(live):
            self._waits.pop(gone).cancel()
        for session, status in live.items():
            if session not in self._waits:
                self._waits[session] = asyncio.create_task(where.status(session, status.seq))

    def _take(self, done: Collection[asyncio.Task[object]]) -> bool:
        """Take new states; whether all could be had."""
        new: dict[str, Status] = {}
        for session, task in list(self._waits.items()):
            if task in done:
                del self._waits[session]
                with contextlib.suppress(CmdopError):
                    new[session] = task.result()
                    continue
                return False
        if new:
            heard = self._roll._heard[self.ear.name]
            found = [dataclasses.replace(one, status=new.get(one.session_id, one.status)) for one in heard.found]
            self._know(dataclasses.replace(heard, found=tuple(found)))
        return True

    @property
    def _found(self) -> tuple[Session, ...]:
        return self._roll._heard[self.ear.name].found

    def _let_go(self) -> None:
        for task in self._waits.values():
            task.cancel()
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._waits.clear()
