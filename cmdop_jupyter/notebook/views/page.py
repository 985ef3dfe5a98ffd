"""Views in a notebook's page: one clock for all, an `OutputView` a stream and cell, a line while somebody waits."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
import uuid
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from ...errors import CmdopError
from ...fleet import Fleet
from ...machines.base import Exit
from ...runtime import runtime
from ...stream import Stream
from ...waiting import LAST_BYTES, Match, last_words
from ...words import human_seconds
from ..links import Heard
from ..tables import Table
from .clock import FrameClock
from .fleet import FleetView
from .following import LINK_SECONDS
from .output import OutputView
from .record import kept, kept_fleet, link_words, waited_for
from .sieve import Looks
from .text import shown

PATIENCE = 0.4  # seconds after which a wait is worth a line
RENEW = 1.0  # seconds between two looks of that line
FAR_BYTES = 2048  # of another machine's log that its newest line is looked for in
JOIN_SECONDS = 5.0  # how long the end of a cell may be kept for its texts
TAIL = 40  # lines of a terminal that nobody looks at
IDLE_SECONDS = 1.0  # after a cell, by which the page's server knows that it is done
OVERHEAD = 300  # bytes of a message around its text
# Opened again without its kernel, a page has an error where the widget was. The text below stands for both. Where a
# widget is, there are elements; this takes away what is words alone, in the cells that have this style.
ALONE = (
    '<style class="cmdop-alone">.jp-OutputArea:has(.cmdop-alone) '
    ".jp-OutputArea-output:is(.lm-Panel,.jupyter-widgets):not(:has(*)){display:none}</style>"
)


class PageViews:
    """See `Views`.

    Args:
        shell: The kernel's IPython shell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._clock = runtime().wait(_make_clock())
        self._views: list[OutputView] = []  # those whose text was not final when the last cell was done
        self._fleets: list[FleetView] = []  # the same
        self._joined: set[str] = set()  # sessions that somebody waited for in the cell that runs
        self._lines: set[WaitLine] = set()  # whose ending is not shown yet
        self._cell: object | None = object()  # stands for the one that runs
        self._due: dict[OutputView | FleetView, None] = {}  # are to be sent once more
        self._renewal: asyncio.TimerHandle | None = None
        self._between: dict[str, dict[str, Any]] = {}  # what was renewed while none did
        shell.events.register("pre_run_cell", self._before_cell)
        shell.events.register("post_run_cell", self._after_cell)

    def close(self) -> None:
        self._shell.events.unregister("pre_run_cell", self._before_cell)
        self._shell.events.unregister("post_run_cell", self._after_cell)

    def show(self, stream: Stream, lines: int, looks: Looks | None = None) -> None:
        view = OutputView(stream, self.publish, self._clock, lines=lines, looks=looks, watched=self._has_page())
        self._add(view)
        if self._has_page():
            view.take_answers()

    def _add(self, view: OutputView) -> None:
        self._views.append(view)
        view.show()

    def fleets(self, lines: int) -> PageFleets:
        return PageFleets(self, lines)

    def show_fleet(self, fleet: Fleet, lines: int) -> None:
        view = FleetView(fleet, self.publish, self._clock, lines=lines)
        self._fleets.append(view)
        view.show()

    def keep_fleet(self, fleet: Fleet) -> dict[str, str]:
        return runtime().wait(kept_fleet(fleet))

    def sessions(self, table: Table, heard: Sequence[Heard], only: str | None, bind: Callable[[Stream], str]) -> Table:
        """Without a page nobody could click."""
        if not self._has_page():
            return table
        from .sessions import LiveTable, SessionsView

        def show() -> None:
            SessionsView(heard, only, self.publish, self._clock, bind=bind, busy=lambda: self._cell is not None).show()

        return LiveTable(table, show)

    def check_terminal(self) -> None:
        return None

    def show_terminal(self, stream: Stream) -> None:
        """Without a page the text is all that stays, and the file need not hold a terminal's program."""
        if not self._has_page():
            return self.show(stream, TAIL)
        from .terminal import TerminalView

        self._add(TerminalView(stream, self.publish, self._clock))

    def waiting(self, streams: Sequence[Stream], what: str) -> WaitLine:
        return WaitLine(self, streams, what)

    def keep(self, stream: Stream) -> dict[str, str]:
        return runtime().wait(kept(stream._machine, stream.facts))

    def say(self, text: str) -> None:
        self.publish({"text/plain": shown(text)}, uuid.uuid4().hex, False)

    def notices(self, what: str) -> Callable[[str, str], object]:
        if not self._has_page():
            return lambda title, text: None
        from .bell import Bell

        bell = Bell(what)
        view = {"version_major": 2, "version_minor": 0, "model_id": bell.box.model_id}
        words = {"application/vnd.jupyter.widget-view+json": view, "text/plain": shown(f"Tells of: {what}")}
        self.publish(words, uuid.uuid4().hex, False)
        return bell.show

    def current_cell(self) -> tuple[Hashable, Hashable] | None:
        parent = self._parent()
        cell = (parent.get("metadata") or {}).get("cellId")
        execution = (parent.get("header") or {}).get("msg_id")
        # A front end that names no cells has none run twice: by its code, two cells alike would be one.
        return (cell, execution) if cell is not None and execution is not None else None

    def publish(self, bundle: dict[str, Any], display_id: str, update: bool) -> None:
        """Put a bundle into the page, or replace the one of that display id, in whatever cell it is."""
        cell = self._cell
        html = bundle.get("text/html")
        data = {**bundle, "text/html": html + ALONE} if html else bundle
        self._shell.display_pub.publish(data=data, metadata={}, transient={"display_id": display_id}, update=update)
        if cell is not None and cell is self._cell:
            self._between.pop(display_id, None)
        elif update:  # it was sent while no cell ran, or just when one was done
            self._between[display_id] = bundle

    def settle(self, stream: Stream) -> None:
        self._joined.add(stream.session_id)

    def finish(self, session_id: str) -> None:
        async def join() -> None:
            await asyncio.gather(*(_join(one, waited_for=True) for one in self._views if one.session_id == session_id))

        with contextlib.suppress(TimeoutError):
            runtime().wait(join(), timeout=JOIN_SECONDS)

    def _before_cell(self, _: object) -> None:
        self._cell = object()

    def _after_cell(self, _: object) -> None:
        """A cell is done: the texts of what it waited for are due, and where nobody looks they must be there now.

        Without a page, what is sent between two cells is lost: nbclient hears only what belongs to the cell that runs.
        """
        if self._has_page():
            self._between.clear()
            runtime().call_later(self._want_texts)
            shown: list[OutputView | FleetView] = [*self._views, *self._fleets]
            runtime().call_later(lambda: self._renew_soon(shown))
        elif self._joined or self._lines or self._between or self._views or self._fleets:
            with contextlib.suppress(TimeoutError):
                runtime().wait(self._catch_up(), timeout=JOIN_SECONDS)
        self._views = [one for one in self._views if not one.final]
        self._fleets = [one for one in self._fleets if not one.final]
        self._cell = None

    def _renew_soon(self, views: Sequence[OutputView | FleetView]) -> None:
        """Have the views sent once more when the cell's end is known.

        While a cell prints more than the page's server lets pass, it drops what we send as well, until the cell ends.
        """

        def renew() -> None:
            due, self._due = self._due, {}
            for view in due:
                view.renew(sure=self._cell is None)

        self._due.update(dict.fromkeys(views))
        if self._renewal is not None:
            self._renewal.cancel()
        self._renewal = asyncio.get_running_loop().call_later(IDLE_SECONDS, renew)

    def _has_page(self) -> bool:
        """Whether somebody could type an answer into the cell that runs; programs that run notebooks say no."""
        return bool((self._parent().get("content") or {}).get("allow_stdin"))

    def _parent(self) -> dict[str, Any]:
        """The request that is being answered."""
        return dict(self._shell.get_parent()) if hasattr(self._shell, "get_parent") else {}

    def _want_texts(self) -> None:
        joined, self._joined = self._joined, set()
        for view in self._views:
            if view.session_id in joined:
                view.want_text()

    async def _catch_up(self) -> None:
        between, self._between = self._between, {}
        for display_id, bundle in between.items():
            self.publish(bundle, display_id, True)
            self._clock.sent(1, sum(len(str(text)) for text in bundle.values()) + OVERHEAD)
        joined, self._joined = self._joined, set()
        for line in list(self._lines):
            self._clock.sent(*await line.draw(0))
        await asyncio.gather(
            *(_join(view, waited_for=view.session_id in joined) for view in self._views),
            *(view.join() for view in self._fleets),
        )


class PageFleets:
    """See `FleetFront`."""

    def __init__(self, views: PageViews, lines: int) -> None:
        self._views, self._lines = views, lines

    def show(self, fleet: Fleet) -> None:
        if self._lines:
            self._views.show_fleet(fleet, self._lines)
        else:
            self._views.say(repr(fleet))

    async def waited(self, fleet: Fleet) -> None:
        return None  # the view itself says it


class WaitLine:
    """One line in the cell that waits: pattern, stream, elapsed, newest line; then how it ended."""

    def __init__(self, views: PageViews, streams: Sequence[Stream], what: str) -> None:
        self._views, self._machines = views, [one._machine for one in streams]
        self._sessions = [one.session_id for one in streams if one._facts is not None]  # of a fleet some have none yet
        self._name = streams[0].name if len(streams) == 1 else f"{len(streams)} streams"
        self._where = waited_for(streams, what)
        self._began = time.monotonic()
        self._id = uuid.uuid4().hex
        self._cell = contextvars.copy_context()  # what it shows first belongs to the cell that called
        self._shown = False
        self._ending: str | None = None  # how it ended, once it did
        self._newest = ""
        self._looking: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        runtime().call_later(self._begin)

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        await asyncio.sleep(PATIENCE)
        while True:
            link = self._link_words()
            if not link and len(self._sessions) == len(self._machines) == 1:
                if self._looking is None or self._looking.done():
                    self._looking = asyncio.create_task(self._look())
                await asyncio.wait([self._looking], timeout=RENEW)
            self._views._clock.dirty(self)
            await asyncio.sleep(LINK_SECONDS if link else RENEW)

    async def draw(self, max_bytes: int) -> tuple[int, int]:
        """See `Drawable`."""
        if self._ending is None:
            text = f"… waiting for {self._where}, {self._elapsed()}{self._link_words() or self._newest}"
        elif self._shown:
            text = self._ending
        else:
            return 0, 0  # over before there was a line
        bundle = {"text/plain": shown(text)}
        if self._shown:
            self._views.publish(bundle, self._id, True)
        else:
            self._shown = True
            self._cell.run(self._views.publish, bundle, self._id, False)
        if self._ending is not None:
            self._views._lines.discard(self)
        return 1, len(text) + OVERHEAD

    async def _look(self) -> None:
        """Find out the newest line."""
        machine = self._machines[0]
        size = LAST_BYTES if machine.name == "local" else FAR_BYTES
        with contextlib.suppress(CmdopError):
            lines = last_words((await machine.tail(self._sessions[0], size)).chunks)
            self._newest = f" · {shown(lines[-1].text)[:100]}" if lines else ""

    def _link_words(self) -> str:
        """How the first link is that is not up."""
        for machine in self._machines:
            if words := link_words(machine.link, machine.name, time.monotonic()):
                return f" · {machine.name}: {words}"
        return ""

    async def done(self, outcome: object) -> None:
        for task in (self._task, self._looking):
            if task is not None:
                task.cancel()
        self._views._joined.update(self._sessions)
        self._ending = self._words(outcome)
        if self._shown:
            self._views._lines.add(self)
            self._views._clock.dirty(self)

    def _words(self, outcome: object) -> str:
        where = self._where
        if isinstance(outcome, Match):
            return f"✓ {where} after {self._elapsed()} · {shown(outcome.line)[:100]}"
        if isinstance(outcome, asyncio.CancelledError):
            return f"– stopped waiting for {where} after {self._elapsed()}; it goes on"
        if isinstance(outcome, BaseException):
            return ""  # the error says it
        if outcome is None:  # no exit will ever be known
            return f"✗ {self._name}: lost after {self._elapsed()}"
        if isinstance(outcome, Exit):
            return f"{'✓' if outcome.ok else '✗'} {self._name}: {outcome} after {self._elapsed()}"
        return f"✓ {where} after {self._elapsed()}"

    def _elapsed(self) -> str:
        return human_seconds(time.monotonic() - self._began)


async def _join(view: OutputView, *, waited_for: bool) -> None:
    with contextlib.suppress(CmdopError):
        await view.join(waited_for=waited_for)


async def _make_clock() -> FrameClock:
    return FrameClock()
