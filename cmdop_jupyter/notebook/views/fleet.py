"""The view of a fleet in a cell: a row a machine, the newest lines of all or of one, and a text that stays in the file.

All of it but the construction runs on the I/O thread, as one view of the clock's.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ipywidgets

from ...agent.stopping import GRACE
from ...agent.store import first_line
from ...errors import CmdopError, LogDropped
from ...fleet import Fleet
from ...runtime import runtime
from .fleet_lines import Watched
from .fleet_text import (
    Entry,
    FleetFacts,
    NewLine,
    bundle,
    grid_html,
    header,
    header_html,
    merged_html,
    stop_words,
)
from .record import picture_of
from .text import Bundle, size_of, to_html

if TYPE_CHECKING:
    from .clock import FrameClock

TAILS_A_SECOND = 40  # that are asked for, of all machines together
OPEN_SECONDS = 0.25  # between two tails of the machine that is looked at
REST_SECONDS = 0.2  # between two frames
TAIL_BYTES = 4096  # of a machine's log: its last line, and what goes into the merged tail
OPEN_BYTES = 32 * 1024  # of the one that is looked at
MERGED = 200  # newest lines that are kept
SHOWN = 14  # of them in the page
SNAPSHOT_SECONDS, CHANGE_SECONDS = 30.0, 3.0  # the text is renewed no more often; when something changed
END_SECONDS = 1.0  # that the end of a cell waits for the end of a fleet
FRAME_MESSAGES = 3  # what the clock's budget counts on
LEAST_BYTES = 4096
OVERHEAD = 700  # bytes of a message around its content
CHIPS = 200  # machines that have a button

Publish = Callable[[dict[str, Any], str, bool], None]


class FleetView:
    """Shows `fleet` in the cell that runs now.

    Args:
        publish: Puts a bundle into the page: (bundle, display id, whether it replaces the one there).
        clock: Gives this view its frames.
        lines: How many lines of a machine that is looked at are shown.
    """

    def __init__(self, fleet: Fleet, publish: Publish, clock: FrameClock, *, lines: int) -> None:
        self.fleet = fleet
        self._publish, self._clock, self._lines = publish, clock, lines
        self._widget_id, self._text_id = uuid.uuid4().hex, uuid.uuid4().hex
        self._began_at = fleet.started
        self._over_at: float | None = None  # seconds since the epoch
        if all(member.done for member in fleet.members):  # it is looked at again
            self._over_at = self._began_at + max([0.0, *(one.ran() for one in fleet.members if one.attached)])
        self._watched = [Watched(member, number) for number, member in enumerate(fleet.members)]
        self._merged: list[tuple[float, int, NewLine]] = []
        self._count = 0
        self._open: Watched | None = None
        self._drawn = {"head": "", "grid": "", "pane": ""}
        self._snapshot_at, self._snapshot_of = 0.0, ""
        self._news: asyncio.Event
        self._ended = self._frozen = self._retired = False
        self._again = False  # all is to be sent once more
        self._stopped = ""
        self._task: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._make_widgets()

    @property
    def final(self) -> bool:
        """Whether the text that stays is there."""
        return self._frozen

    def _make_widgets(self) -> None:
        name = self.fleet.name
        small = ipywidgets.Layout(width="auto", height="26px")
        chip = ipywidgets.Layout(width="auto", height="22px", padding="0 8px", margin="1px")
        self._head = ipywidgets.HTML(header_html(self._facts(), self._entries()))
        self._stop = ipywidgets.Button(
            description="Stop all", tooltip=f"End it on all machines (%cmdop stop {name})", layout=small
        )
        self._stop.on_click(lambda _: runtime().call_later(self._on_stop))
        # One layout and one style for all of them: a widget each is what they cost.
        self._chips = [ipywidgets.Button(description="all", tooltip="The newest lines of all machines", layout=chip)]
        style = self._chips[0].style
        for one in self._watched[:CHIPS]:
            machine = one.member.machine
            self._chips.append(
                ipywidgets.Button(description=machine, tooltip=f"The output of {machine}", layout=chip, style=style)
            )
        for button, shown in zip(self._chips, [None, *self._watched], strict=False):
            button.on_click(lambda _, shown=shown: runtime().call_later(lambda: self._on_open(shown)))
        self._chips[0].button_style = "info"
        self._grid = ipywidgets.HTML(layout=ipywidgets.Layout(max_height="32em", overflow="auto", margin="0"))
        self._pane = ipywidgets.HTML(layout=ipywidgets.Layout(flex="0 0 auto"))
        area = ipywidgets.VBox(  # its newest line stays at its lower edge, and what is scrolled to where it is
            [self._pane],
            layout=ipywidgets.Layout(
                display="flex", flex_flow="column-reverse", max_height="32em", overflow="auto", margin="4px 0 0 0"
            ),
        )
        self._tabs = ipywidgets.HBox(
            self._chips,
            layout=ipywidgets.Layout(flex_flow="row wrap", max_height="78px", overflow="auto", margin="6px 0 2px 0"),
        )
        spread = ipywidgets.Layout(justify_content="space-between", align_items="center", flex_flow="row wrap")
        bar = ipywidgets.HBox([self._head, self._stop], layout=spread)
        self._box = ipywidgets.VBox([bar, self._grid, self._tabs, area])

    def show(self) -> None:
        """Put both outputs into the cell and begin to follow. On the main thread."""
        text = header(self._facts(), self._entries())
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        self._publish({"application/vnd.jupyter.widget-view+json": view, "text/plain": text}, self._widget_id, False)
        self._publish({"text/plain": text, "text/html": ""}, self._text_id, False)
        runtime().call_later(self._begin)

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._live())

    # -- following

    async def _live(self) -> None:
        """Follow all to the end; then two frames more, in which the text is frozen and the widgets retire."""
        self._news = asyncio.Event()
        with self.fleet.heard(self._news.set):
            followers = [asyncio.create_task(self._follow(one)) for one in self._watched]
            while not all(task.done() for task in followers):
                self._news.clear()
                self._clock.dirty(self)
                await self._clock.drawn(self)
                await asyncio.sleep(REST_SECONDS)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), 1.0 if self._elapsed() < 120 else 5.0)
        if self._stopping is not None:
            await asyncio.wait([self._stopping])
        self._ended = True
        for _ in range(2):
            self._clock.dirty(self)
            await self._clock.drawn(self)

    async def _follow(self, one: Watched) -> None:
        """Ask for the tail of one machine when there is something new, and not too often."""
        member = one.member
        await member.settled()
        with contextlib.suppress(CmdopError):  # there is no session, or not any more
            session_id = member.session_id
            while True:
                await self._turn(one)
                size = OPEN_BYTES if one is self._open else TAIL_BYTES
                tail = await member._machine.tail(session_id, size)
                for when, line in one.take(tail):
                    self._merge(when, line)
                member.know(tail.status)
                if not tail.status.live:
                    break
                with contextlib.suppress(LogDropped):
                    await self._output(one, session_id, tail.status.end)
        while not member.done:
            one.hurry.clear()
            await asyncio.sleep(REST_SECONDS)
        self._news.set()

    async def _turn(self, one: Watched) -> None:
        """Wait until its tail may be asked for again."""
        wait = one.due - time.monotonic()
        if wait > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(one.hurry.wait(), wait)
        one.hurry.clear()
        live = sum(not other.member.done for other in self._watched)
        one.due = time.monotonic() + (OPEN_SECONDS if one is self._open else max(1.0, live / TAILS_A_SECOND))

    async def _output(self, one: Watched, session_id: str, end: int) -> None:
        """Return once its log goes on behind `end`, or has ended, or somebody opens it."""
        reading = asyncio.create_task(one.member._machine.read(session_id, end, 1))
        opened = asyncio.create_task(one.hurry.wait())
        either: list[asyncio.Task[Any]] = [reading, opened]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
        finally:
            for task in either:
                task.cancel()
            await asyncio.gather(*either, return_exceptions=True)

    def _merge(self, when: float, line: NewLine) -> None:
        self._count += 1
        bisect.insort(self._merged, (when, self._count, line), key=lambda one: one[:2])
        del self._merged[:-MERGED]

    # -- frames, called by the clock; they wait for no link

    async def draw(self, max_bytes: int) -> tuple[int, int]:
        """Bring the widgets up to date, with at most about `max_bytes`; return messages and bytes sent."""
        if self._frozen and self._again:
            if not self._retired:
                self._clock.dirty(self)
            return self._publish_final()
        if self._frozen:
            return self._retire()
        if self._ended:
            return self._freeze()
        if self._again:
            self._again, self._drawn = False, dict.fromkeys(self._drawn, "")
        sent = []
        entries = self._entries()
        if self._snapshot_due(entries):
            sent.append(self._snapshot(entries))
        room = max(LEAST_BYTES, max_bytes - sum(sent) - FRAME_MESSAGES * OVERHEAD)
        parts = {"head": header_html(self._facts(), entries), "grid": grid_html(entries, room * 2 // 3)}
        parts["pane"] = self._paint(max(LEAST_BYTES // 2, room - len(parts["grid"].encode())))
        for name, widget in (("head", self._head), ("grid", self._grid), ("pane", self._pane)):
            if parts[name] == self._drawn[name]:
                continue
            if len(sent) == FRAME_MESSAGES:
                self._news.set()  # what is left is in the next one
                break
            self._drawn[name] = parts[name]
            if widget.value == parts[name]:
                widget.send_state("value")
            else:
                widget.value = parts[name]
            sent.append(len(parts[name].encode()))
        return len(sent), sum(sent) + OVERHEAD * len(sent)

    def _paint(self, max_bytes: int) -> str:
        """The newest lines of all machines, or of the one that is looked at."""
        one = self._open
        if one is None:
            return merged_html([line for _, _, line in self._merged[-SHOWN:]], max_bytes)
        if one.tail is None or not one.member.attached:
            row = one.member.row()
            return merged_html([NewLine(row.machine, one.color, row.exit or row.state, "")], max_bytes)
        count = self._lines
        while True:
            lines, skipped = picture_of(one.member.facts, one.tail.chunks, count)
            picture = to_html(lines, skipped=one.tail.newlines_before + skipped)
            if len(picture.encode()) <= max_bytes or count <= 1:
                return picture
            count = max(1, min(count - 1, count * max_bytes // len(picture.encode())))

    def _entries(self) -> list[Entry]:
        return [one.entry() for one in self._watched]

    def _facts(self) -> FleetFacts:
        return FleetFacts(
            self.fleet.name, first_line(str(self.fleet.request.script)), self._began_at, self._elapsed(), self._stopped
        )

    def _elapsed(self) -> float:
        if self._over_at is None and all(member.done for member in self.fleet.members):
            self._over_at = time.time()
        return max(0.0, (self._over_at or time.time()) - self._began_at)

    # -- the text that stays

    def _snapshot_due(self, entries: list[Entry]) -> bool:
        age = time.monotonic() - self._snapshot_at
        return age >= SNAPSHOT_SECONDS or (age >= CHANGE_SECONDS and self._state() != self._snapshot_of)

    def _state(self) -> str:
        return self.fleet.summary() + self._stopped

    def _snapshot(self, entries: list[Entry]) -> int:
        self._snapshot_at, self._snapshot_of = time.monotonic(), self._state()
        made = bundle(self._facts(), entries, as_of=time.time())
        self._publish(made, self._text_id, True)
        return size_of(made)

    async def join(self) -> None:
        """Bring the text that stays up to date now: a cell is done, and nobody looks."""
        if self._frozen or self._task is None:
            return
        if all(member.done for member in self.fleet.members):
            await asyncio.wait([self._task], timeout=END_SECONDS)
        if not self._frozen and self._state() != self._snapshot_of:
            self._clock.sent(1, self._snapshot(self._entries()) + OVERHEAD)

    def kept(self) -> Bundle:
        """The text as of now. On the I/O thread."""
        return bundle(self._facts(), self._entries(), as_of=None if self._ended else time.time())

    def _freeze(self) -> tuple[int, int]:
        self._frozen = True
        return self._publish_final()

    def _publish_final(self) -> tuple[int, int]:
        self._again, made = False, self.kept()
        self._publish(made, self._text_id, True)
        self._publish({"text/plain": "", "text/html": ""}, self._widget_id, True)
        return 2, size_of(made) + 2 * OVERHEAD

    def renew(self, *, sure: bool) -> None:
        """See `OutputView`."""
        self._again = True
        self._clock.dirty(self)

    def _retire(self) -> tuple[int, int]:
        """Leave in the widget what is seen where the page has forgotten the display ids, as it does on a reload."""
        if self._retired:
            return 0, 0
        self._retired = True
        remedy = f"the page was reloaded, so the text of this output is not here: %cmdop keep {self.fleet.name}"
        self._head.value = header_html(self._facts(), self._entries(), note=remedy)
        self._stop.layout.display = "none"
        self._box.children = self._box.children[:1]
        return 3, len(self._head.value.encode()) + 3 * OVERHEAD

    # -- the buttons

    def _on_stop(self) -> None:
        if self._stopping is None or self._stopping.done():
            self._stop.disabled = True
            self._stop.description = "Stopping"
            self._stopping = asyncio.get_running_loop().create_task(self._stop_all())

    async def _stop_all(self) -> None:
        reports = await self.fleet._stop(GRACE)
        self._stopped = stop_words(reports)
        self._news.set()

    def _on_open(self, one: Watched | None) -> None:
        for button, shown in zip(self._chips, [None, *self._watched], strict=False):
            style = "info" if shown is one else ""
            if button.button_style != style:
                button.button_style = style
        self._open = one
        if one is not None:
            one.hurry.set()
        self._clock.dirty(self)
