"""The view of one session in a cell: a widget that shows its tail, and a text that stays in the file.

All of it but the construction runs on the I/O thread, so that output is live while a cell computes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ipywidgets

from ...agent.status import EXITED
from ...agent.stopping import GRACE
from ...errors import LogDropped, SessionNotFound
from ...machines.base import Status, StopReport, Tail
from ...runtime import runtime
from .cuts import from_offset
from .record import TAIL_BYTES, facts_of, frozen, picture_of
from .text import TAIL_LINES, Bundle, Facts, header_html, one_line, snapshot_bundle, to_html

if TYPE_CHECKING:
    from ...stream import Stream
    from .clock import FrameClock

SNAPSHOT_SECONDS = 30.0  # the text is renewed no more often, unless the state changes
END_SECONDS = 0.5  # how long a wait that is over may be kept for the end of the log
LEAST_BYTES = 4096  # that a picture gets, whatever else is sent with it
OVERHEAD = 700  # bytes of a widget message around its content

Publish = Callable[[dict[str, Any], str, bool], None]


class OutputView:
    """Shows `stream` in the cell that runs now.

    Args:
        publish: Puts a bundle into the page: (bundle, display id, whether it replaces the one there).
        clock: Gives this view its frames.
        lines: How many lines of the tail are shown.
    """

    def __init__(self, stream: Stream, publish: Publish, clock: FrameClock, *, lines: int) -> None:
        self._session, self._machine = stream.facts, stream._machine
        self._publish, self._clock, self._lines = publish, clock, lines
        self._widget_id, self._text_id = uuid.uuid4().hex, uuid.uuid4().hex
        self._status = stream._known
        self._from = 0  # the log offset that Clear moved to
        self._paused = False
        self._frozen = self._retired = self._text_wanted = False
        self._drawn_end = -1
        self._picture = self._head = ""
        self._snapshot_at, self._snapshot_end = 0.0, -1
        self._snapshot_state: tuple[object, ...] = ()
        self._follower: asyncio.Task[None] | None = None
        self._stopper: asyncio.Task[StopReport] | None = None
        self._drawing = asyncio.Lock()
        self._rate = 0.0
        self._rate_from = (0.0, 0)
        self._make_widgets()

    @property
    def session_id(self) -> str:
        return self._session.id

    @property
    def final(self) -> bool:
        """Whether the text that stays is there."""
        return self._frozen

    def _make_widgets(self) -> None:
        name = self._session.name
        small = {"layout": ipywidgets.Layout(width="auto", height="26px")}
        self._header = ipywidgets.HTML(header_html(self._facts()))
        self._stop = ipywidgets.Button(
            description="Stop", tooltip=f"End it and all it started (%cmdop stop {name})", **small
        )
        self._pause = ipywidgets.Button(
            description="Pause", tooltip="Leave the picture as it is, to read or copy", **small
        )
        self._clear = ipywidgets.Button(
            description="Clear", tooltip="Hide what is shown so far; the log keeps it", **small
        )
        self._out = ipywidgets.Output()
        # Clicks come on the main thread or on a subshell's; what they do is done on the I/O thread.
        self._stop.on_click(lambda _: runtime().call_later(self._on_stop))
        self._pause.on_click(lambda _: runtime().call_later(self._on_pause))
        self._clear.on_click(lambda _: runtime().call_later(self._on_clear))
        bar = ipywidgets.HBox(
            [self._header, ipywidgets.HBox([self._stop, self._pause, self._clear])],
            layout=ipywidgets.Layout(justify_content="space-between", align_items="center", flex_flow="row wrap"),
        )
        self._box = ipywidgets.VBox([bar, self._out])

    def show(self) -> None:
        """Put both outputs into the cell and begin to follow. On the main thread."""
        text = one_line(self._facts())
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        self._publish({"application/vnd.jupyter.widget-view+json": view, "text/plain": text}, self._widget_id, False)
        self._publish({"text/plain": text, "text/html": ""}, self._text_id, False)
        runtime().call_later(self._begin)

    def _begin(self) -> None:
        self._follower = asyncio.get_running_loop().create_task(self._live())

    # -- following: what makes a frame due

    async def _live(self) -> None:
        """Follow the session to its end; then two frames more, in which its text is frozen and the widget retires."""
        with contextlib.suppress(SessionNotFound):  # somebody removed it
            await self._follow()
        for _ in range(2):
            self._clock.dirty(self)
            await self._clock.drawn(self)

    async def _follow(self) -> None:
        """Mark the view dirty when there is output or another state; sleeps while there is neither."""
        machine, session_id = self._machine, self._session.id
        self._status = await machine.status(session_id)
        self._clock.dirty(self)
        state = output = None
        try:
            while self._status.live:
                if state is None:
                    state = asyncio.create_task(machine.status(session_id, self._status.seq))
                if output is None:
                    output = asyncio.create_task(self._next_output())
                tick = self._tick()
                done, _ = await asyncio.wait({state, output}, timeout=tick, return_when=asyncio.FIRST_COMPLETED)
                if state in done:
                    self._status = state.result()
                    state = None
                if output in done:
                    output.result()
                    output = None
                self._clock.dirty(self)
                if output is None and self._status.live:
                    await self._clock.drawn(self)
        finally:
            for task in (state, output):
                if task is not None:
                    task.cancel()
                    task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _next_output(self) -> None:
        """Return once the log goes on behind what is drawn."""
        offset = max(self._drawn_end, 0)
        with contextlib.suppress(LogDropped):
            if not await self._machine.read(self._session.id, offset, 1):
                await asyncio.get_running_loop().create_future()  # it ended; the state says so

    def _tick(self) -> float:
        """Seconds until the header would read differently."""
        return 1.0 if self._session.seconds(self._status) < 120 or self._rate else 10.0

    # -- frames, called by the clock

    async def draw(self, max_bytes: int) -> tuple[int, int]:
        """Bring the widget up to date, with at most about `max_bytes`; return messages and bytes sent."""
        async with self._drawing:
            if self._frozen:
                return self._retire()
            tail = await self._machine.tail(self._session.id, TAIL_BYTES)
            self._status = tail.status
            self._drawn_end = tail.status.end
            if not tail.status.live:
                return await self._freeze()
            sent = []
            if self._snapshot_due():
                sent.append(self._snapshot(tail))
            head = header_html(self._facts())
            if head != self._head:
                self._head = self._header.value = head
                sent.append(len(head.encode()))
            if not self._paused:
                picture = self._paint(tail, max(LEAST_BYTES, max_bytes - sum(sent) - 3 * OVERHEAD))
                if picture != self._picture:
                    self._picture = picture
                    data = {"text/html": picture, "text/plain": ""}
                    self._out.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)
                    sent.append(len(picture.encode()))
            return len(sent), sum(sent) + OVERHEAD * len(sent)

    def _paint(self, tail: Tail, max_bytes: int) -> str:
        """The picture of the tail, as HTML of about `max_bytes` at most; says exactly how many lines are not in it."""
        chunks, before = from_offset(tail.chunks, self._from)
        cleared = bool(chunks) and chunks[0].offset == self._from
        count = self._lines
        while True:
            lines, skipped = picture_of(self._session, chunks, count, whole=cleared)
            picture = to_html(lines, skipped=tail.newlines_before + before + skipped)
            size = len(picture.encode())
            if size <= max_bytes or count <= 1:
                return picture
            count = max(1, min(count - 1, count * max_bytes // size))

    # -- the header

    def _facts(self) -> Facts:
        status = self._status
        return facts_of(self._machine, self._session, status, rate=self._measure_rate(status), paused=self._paused)

    def _measure_rate(self, status: Status) -> float:
        """Bytes a second, over the last second or so."""
        now = time.monotonic()
        at, end = self._rate_from
        if now - at >= 1.0:
            self._rate = max(0, status.end - end) / (now - at) if at else 0.0
            self._rate_from = (now, status.end)
        return self._rate

    # -- the text that stays

    def _snapshot_due(self) -> bool:
        state = (self._status.state, self._status.exit, self._status.held)
        if state != self._snapshot_state or (self._text_wanted and self._status.end != self._snapshot_end):
            return True
        return time.monotonic() - self._snapshot_at >= SNAPSHOT_SECONDS

    def _snapshot(self, tail: Tail) -> int:
        """Renew the text; return its bytes."""
        self._text_wanted = False
        self._snapshot_at, self._snapshot_end = time.monotonic(), tail.status.end
        self._snapshot_state = (self._status.state, self._status.exit, self._status.held)
        lines, skipped = picture_of(self._session, tail.chunks, TAIL_LINES)
        bundle = snapshot_bundle(self._facts(), lines, time.time(), skipped_lines=tail.newlines_before + skipped)
        self._publish(bundle, self._text_id, True)
        return _size(bundle)

    def want_text(self) -> None:
        """Bring the text that stays up to date with the next frame: somebody waited for the session."""
        self._text_wanted = True
        self._clock.dirty(self)

    async def join(self, *, waited_for: bool) -> None:
        """Bring the text that stays up to date now: a cell is done that waited for it, or the session has ended."""
        if self.final:
            return
        machine, session_id = self._machine, self._session.id
        status = await machine.status(session_id)
        if status.live and not waited_for:
            return
        if status.state == EXITED and not status.held_by:  # about to end: the text that stays is worth a moment
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    status = await machine.status(session_id, status.seq)
        async with self._drawing:
            if self._frozen:
                return
            messages, size = 0, 0
            if not status.live:
                messages, size = await self._freeze()
            elif status.end != self._snapshot_end or self._snapshot_due():
                tail = await machine.tail(session_id, TAIL_BYTES)
                self._status = tail.status
                messages, size = 1, self._snapshot(tail) + OVERHEAD
            self._clock.sent(messages, size)

    async def _freeze(self) -> tuple[int, int]:
        """The session ended: its text stays, the widget goes. Returns messages and bytes sent."""
        bundle, self._status = await frozen(self._machine, self._session)
        self._publish(bundle, self._text_id, True)
        self._publish({"text/plain": "", "text/html": ""}, self._widget_id, True)
        self._frozen = True
        return 2, _size(bundle) + 2 * OVERHEAD

    def _retire(self) -> tuple[int, int]:
        """Leave in the widget what is seen where the page has forgotten the display ids, as it does on a reload."""
        if self._retired:
            return 0, 0
        self._retired = True
        remedy = f"the page was reloaded, so the text of this output is not here: %cmdop keep {self._session.name}"
        self._out.outputs, self._picture = (), ""
        self._header.value = header_html(self._facts(), note=remedy)
        for button in (self._stop, self._pause, self._clear):
            button.layout.display = "none"  # one layout, so one message
        return 3, len(self._header.value.encode()) + 3 * OVERHEAD

    # -- the buttons

    def _on_stop(self) -> None:
        self._stop.disabled = True
        self._stop.description = "Stopping"
        call = self._machine.stop(self._session.id, uuid.uuid4().hex, GRACE)
        self._stopper = asyncio.get_running_loop().create_task(call)
        self._clock.dirty(self)

    def _on_pause(self) -> None:
        self._paused = not self._paused
        self._pause.description = "Follow" if self._paused else "Pause"
        self._clock.dirty(self)

    def _on_clear(self) -> None:
        self._from = max(self._drawn_end, 0)
        self._clock.dirty(self)


def _size(bundle: Bundle) -> int:
    return sum(len(text.encode()) for text in bundle.values())
