"""The view of one session in a cell: a widget that shows its tail, and a text that stays in the file.

All of it but the construction runs on the I/O thread, so that output is live while a cell computes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import ipywidgets

from ...agent.status import EXITED
from ...agent.stopping import GRACE
from ...errors import CmdopError, ConnectFailed, SessionNotFound
from ...machines.base import Status, StopReport, Tail
from ...runtime import runtime
from .following import Following, forget
from .picture import Picture
from .prompt import PromptField
from .record import facts_of, picture_of
from .saving import save_log
from .sieve import Looks
from .text import LINE_HEIGHT, TAIL_LINES, Facts, header_html, one_line, size_of, snapshot_bundle, to_text
from .tools import Tools
from .watch import AREA, VIEW, watcher

if TYPE_CHECKING:
    from ...stream import Stream
    from .clock import FrameClock

SNAPSHOT_SECONDS = 1.0, 30.0  # the text is renewed no more often, unless the state changes: at first, and later
END_SECONDS = 0.5  # how long a wait that is over may be kept for the end of the log
LEAST_BYTES = 4096  # that a picture gets, whatever else is sent with it
OVERHEAD = 700  # bytes of a widget message around its content
FONT = 13  # pixels of a letter's height, about
EARLIER_SENT = 400_000  # bytes of a picture that somebody asked for, which is not one of many

Publish = Callable[[dict[str, Any], str, bool], None]


class OutputView:
    """Shows `stream` in the cell that runs now.

    Args:
        publish: Puts a bundle into the page: (bundle, display id, whether it replaces the one there).
        clock: Gives this view its frames.
        lines: How many lines of the tail are shown.
        looks: What of the output, and how.
        watched: Somebody may look at it in a page.
    """

    tooled = True  # it has an area to search, to scroll and to copy from
    pause = 0.0  # see `Following`

    def __init__(
        self,
        stream: Stream,
        publish: Publish,
        clock: FrameClock,
        *,
        lines: int,
        looks: Looks | None = None,
        watched: bool = False,
    ) -> None:
        self._session, self._machine = stream.facts, stream._machine
        self._publish, self._clock, self._lines = publish, clock, lines
        self._widget_id, self._text_id = uuid.uuid4().hex, uuid.uuid4().hex
        self._known = Following(self._machine, self._session, stream._known, lines, pause=self.pause)
        self._picture = Picture(
            self._machine, self._session, self._known, looks or Looks(), lines, lambda: clock.dirty(self)
        )
        self._watched = watched
        self._held = False  # paused by the page: somebody reads there
        self._tools: Tools | None = None
        self._chores: set[asyncio.Task[None]] = set()
        self._frozen = self._retired = self._text_wanted = False
        self._unsure = self._again = False  # whether the page has what was sent; it is to be sent once more
        self._html = self._head = ""
        self._head_at, self._head_of = 0.0, tuple[object, ...]()
        self._begun_at, self._snapshot_at, self._snapshot_end = time.monotonic(), 0.0, -1
        self._snapshot_state: tuple[object, ...] = ()
        self._follower: asyncio.Task[None] | None = None
        self._stopper: asyncio.Task[StopReport] | None = None
        self._drawing = asyncio.Lock()
        self._prompt = PromptField(stream, lambda: self._clock.dirty(self))
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
        # As wide as the page gives, whatever it says: else the buttons would move with its text.
        self._header = ipywidgets.HTML(
            header_html(self._facts()), layout=ipywidgets.Layout(flex="1 1 20em", min_width="0", height="28px")
        )
        self._stop = ipywidgets.Button(
            description="Stop", tooltip=f"End it and all it started (%cmdop stop {name})", **small
        )
        self._pause = ipywidgets.Button(
            description="Pause", tooltip="Leave the picture as it is, to read or copy", **small
        )
        self._clear = ipywidgets.Button(
            description="Clear", tooltip="Hide what is shown so far; the log keeps it", **small
        )
        self._more_tools = ipywidgets.Button(
            description="More", tooltip="Filter, times, stderr, earlier lines, copy, save the log", **small
        )
        # Its newest line stays at its lower edge while it grows, and what is scrolled to where it is, without a script.
        height = f"{(self._lines + 2) * LINE_HEIGHT * FONT:.0f}px"
        area = ipywidgets.Layout(display="flex", flex_flow="column-reverse", max_height=height, overflow="auto")
        self._out = ipywidgets.Output(layout=ipywidgets.Layout(flex="0 0 auto"))
        self._area = ipywidgets.VBox([self._out], layout=area)
        self._area.add_class(AREA)
        # Clicks come on the main thread or on a subshell's; what they do is done on the I/O thread.
        self._stop.on_click(lambda _: runtime().call_later(self._on_stop))
        self._pause.on_click(lambda _: runtime().call_later(self._on_pause))
        self._clear.on_click(lambda _: runtime().call_later(self._picture.clear))
        self._more_tools.on_click(lambda _: runtime().call_later(self._on_more))
        self._buttons = [self._stop, self._pause, self._clear, *([self._more_tools] if self.tooled else [])]
        self._bar = ipywidgets.HBox(
            [self._header, ipywidgets.HBox(self._buttons)],
            layout=ipywidgets.Layout(justify_content="space-between", align_items="center", flex_flow="row wrap"),
        )
        self._watcher = None
        if self.tooled and self._watched:
            self._watcher = watcher(self._out, lambda held: runtime().call_later(lambda: self._on_held(held)))
        hidden = [ipywidgets.HBox([self._watcher], layout=ipywidgets.Layout(display="none"))] if self._watcher else []
        self._parts = [self._area, self._prompt.box, *hidden]
        self._box = ipywidgets.VBox([self._bar, *self._parts])
        self._box.add_class(VIEW)

    def show(self) -> None:
        """Put both outputs into the cell and begin to follow. On the main thread."""
        text = one_line(self._facts())
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        self._publish({"application/vnd.jupyter.widget-view+json": view, "text/plain": text}, self._widget_id, False)
        self._publish({"text/plain": text, "text/html": ""}, self._text_id, False)
        runtime().call_later(self._begin)

    def embed(self) -> ipywidgets.Widget:
        """Begin to follow, in a box among somebody's own widgets, who calls `leave` in the end. On the I/O thread."""
        self._begin()
        if self.tooled:  # a terminal is typed into
            self._prompt.begin()
        return self._box

    async def over(self) -> None:
        """Wait until nothing more will be shown. On the I/O thread."""
        if self._follower is not None:
            await asyncio.wait([self._follower])

    def leave(self) -> None:
        """Follow no more, and take its widgets away. On the I/O thread."""
        if self._follower is not None:
            self._follower.cancel()
        self._picture.end()
        self._clock.forget(self)
        self._prompt.close()
        close_all(self._box)

    def take_answers(self) -> None:
        """Let whoever looks at the page answer what the session asks."""
        runtime().call_later(self._prompt.begin)

    def _begin(self) -> None:
        self._follower = asyncio.get_running_loop().create_task(self._live())

    # -- following: what makes a frame due

    async def _live(self) -> None:
        """Follow the session to its end; then two frames more, in which its text is frozen and the widget retires."""
        with contextlib.suppress(SessionNotFound, ConnectFailed):  # somebody removed it, or closed its client
            await self._picture.begin()
            async with contextlib.aclosing(self._known.news()) as news:
                async for at_its_pace in news:
                    self._clock.dirty(self)
                    if at_its_pace:
                        await self._clock.drawn(self)
        self._picture.end()
        for _ in range(2):
            self._clock.dirty(self)
            await self._clock.drawn(self)

    # -- frames, called by the clock; they wait for no link

    async def draw(self, max_bytes: int) -> tuple[int, int]:
        """Bring the widget up to date, with at most about `max_bytes`; return messages and bytes sent."""
        async with self._drawing:
            if self._frozen and self._again:
                if not self._retired:
                    self._clock.dirty(self)
                return self._publish_final()
            if self._frozen:
                return self._retire()
            if self._known.here:
                try:
                    await self._known.fetch()
                except SessionNotFound:  # somebody removed it
                    return 0, 0
            if self._known.final is not None:
                return self._freeze(self._known.final[1])
            tail, sent = self._known.tail, []
            if tail is not None:
                self._known.drawn_end = tail.status.end
            if self._snapshot_due():
                sent.append(self._snapshot())
            if head := self._new_head():
                self._head = self._header.value = head
                sent.append(len(head.encode()))
            before = self._html
            if tail is not None and self.tooled and (not self._picture.paused or self._picture.repaint):
                room = EARLIER_SENT if self._picture.repaint else max(LEAST_BYTES, max_bytes - sum(sent) - 3 * OVERHEAD)
                picture = self._picture.paint(tail, room)
                if picture != self._html:
                    self._html = picture
                    data = {"text/html": picture, "text/plain": ""}
                    self._out.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)
                    sent.append(len(picture.encode()))
                if self._picture.repaint and self._watcher is not None:
                    self._watcher.send({"show": True})  # though the page holds it
                self._picture.repaint = False
            self._unsure = self._unsure or bool(sent)
            if self._again:
                self._again = False
                sent += self._resend(head=not head, picture=self._html == before)
            return len(sent), sum(sent) + OVERHEAD * len(sent)

    def renew(self, *, sure: bool) -> None:
        """Send with the next frame what the page may have lost.

        Args:
            sure: It will not lose that too.
        """
        if self._unsure:
            self._unsure, self._again = not sure, True
            self._clock.dirty(self)

    def _resend(self, *, head: bool, picture: bool) -> list[int]:
        """Send what has not changed; return the bytes of each message."""
        sent = []
        if head:
            self._header.send_state("value")
            sent.append(len(self._header.value.encode()))
        if picture:
            self._out.send_state("outputs")
            sent.append(len(self._html.encode()))
        return sent

    # -- the header

    def _facts(self) -> Facts:
        status, link = self._known.now(), self._known.link_words()
        rate = 0.0 if link else self._known.measure_rate(status)
        return facts_of(
            self._machine,
            self._session,
            status,
            rate=rate,
            paused=self._picture.paused,
            since=self._picture.since,
            filtered=self._picture.filtered,
            prompt=self._prompt.text,
            link=link,
        )

    def _new_head(self) -> str:
        """The header, where it is worth a message; '' else: figures alone are not, again and again."""
        now, about = time.monotonic(), (self._picture.paused, *self._text_state())
        if about == self._head_of and now - self._head_at < self._known.figures_last:
            return ""
        head = header_html(self._facts())
        if head == self._head:
            return ""
        self._head_at, self._head_of = now, about
        return head

    # -- the text that stays

    def _snapshot_due(self) -> bool:
        end = self._known.tail.status.end if self._known.tail is not None else -1
        if self._text_state() != self._snapshot_state or (self._text_wanted and end != self._snapshot_end):
            return True
        first, later = SNAPSHOT_SECONDS
        pause = min(max(first, self._snapshot_at - self._begun_at), later)  # it doubles
        return self._machine.link.state == "up" and time.monotonic() - self._snapshot_at >= pause

    def _text_state(self) -> tuple[object, ...]:
        status, link = self._known.status, self._machine.link.state
        return status.state, status.exit, status.held, self._prompt.text, link, self._known.stop_waits

    def _snapshot(self) -> int:
        """Renew the text; return its bytes."""
        tail = self._known.tail or Tail([], 0, self._known.status)
        self._text_wanted = False
        self._snapshot_at, self._snapshot_end = time.monotonic(), tail.status.end
        self._snapshot_state = self._text_state()
        lines, skipped = picture_of(self._session, tail.chunks, TAIL_LINES)
        bundle = snapshot_bundle(self._facts(), lines, time.time(), skipped_lines=tail.newlines_before + skipped)
        self._publish(bundle, self._text_id, True)
        return size_of(bundle)

    def want_text(self) -> None:
        """Bring the text that stays up to date with the next frame: somebody waited for the session."""
        self._text_wanted = True
        self._clock.dirty(self)

    async def join(self, *, waited_for: bool) -> None:
        """Bring the text that stays up to date now: a cell is done that waited for it, or the session has ended.

        Cancelling leaves it as it was. While the link is away it says so.
        """
        if self.final:
            return
        machine, session_id = self._machine, self._session.id
        if machine.link.state != "up":
            if self._snapshot_due():
                self._clock.sent(1, self._snapshot() + OVERHEAD)
            return
        status = await machine.status(session_id)
        if status.live and not waited_for:
            return
        if status.state == EXITED and not status.held_by:  # about to end: the text that stays is worth a moment
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    status = await machine.status(session_id, status.seq)
        if status.live and status.end == self._snapshot_end and not self._snapshot_due():
            return
        await self._known.fetch()
        async with self._drawing:
            if self._frozen:
                return
            if self._known.final is not None:
                self._clock.sent(*self._freeze(self._known.final[1]))
            else:
                self._clock.sent(1, self._snapshot() + OVERHEAD)

    def _freeze(self, status: Status) -> tuple[int, int]:
        """The session ended: its text stays, the widget goes. Returns messages and bytes sent."""
        self._known.status = status
        self._frozen = self._unsure = True
        self._prompt.close()
        return self._publish_final()

    def _publish_final(self) -> tuple[int, int]:
        self._again = False
        bundle = self._known.final[0] if self._known.final is not None else {}
        self._publish(bundle, self._text_id, True)
        self._publish({"text/plain": "", "text/html": ""}, self._widget_id, True)
        return 2, size_of(bundle) + 2 * OVERHEAD

    def _retire(self) -> tuple[int, int]:
        """Leave in the widget what is seen where the page has forgotten the display ids, as it does on a reload."""
        if self._retired:
            return 0, 0
        self._retired = True
        remedy = f"the page was reloaded, so the text of this output is not here: %cmdop keep {self._session.name}"
        self._out.outputs, self._html = (), ""
        self._header.value = header_html(self._facts(), note=remedy)
        for button in self._buttons:
            button.layout.display = "none"  # one layout, so one message
        if self._tools is not None:
            self._tools = None
            self._box.children = (self._bar, *self._parts)
        return 3, len(self._header.value.encode()) + 3 * OVERHEAD

    # -- the buttons

    def _on_stop(self) -> None:
        self._stop.disabled = True
        self._stop.description = "Stopping"
        call = self._machine.stop(self._session.id, uuid.uuid4().hex, GRACE)
        self._stopper = asyncio.get_running_loop().create_task(call)
        self._stopper.add_done_callback(forget)
        self._clock.dirty(self)

    def _on_pause(self) -> None:
        self._held = False
        self._set_paused(not self._picture.paused)
        if not self._picture.paused and self._watcher is not None:
            self._watcher.send({"end": True})

    def _on_held(self, held: bool) -> None:
        """Somebody scrolled up or selects text in the page, or has done so."""
        if held and not self._picture.paused:
            self._held = True
            self._set_paused(True)
        elif not held and self._held and not self._picture.more:
            self._held = False
            self._set_paused(False)

    def _set_paused(self, paused: bool) -> None:
        self._picture.pause(paused)
        self._pause.description = "Follow" if paused else "Pause"

    # -- the tools

    def _on_more(self) -> None:
        self._more_tools.description = "Less" if self._tools is None else "More"
        if self._tools is not None:
            self._tools = None
            self._box.children = (self._bar, *self._parts)
            return
        clicks: dict[str, Callable[[], object]] = {
            "Times": lambda: self._look(times=not self._picture.looks.times),
            "stderr": lambda: self._look(channel="" if self._picture.looks.channel else "stderr"),
            "Earlier": self._on_earlier,
            "Copy": self._on_copy,
            "Save log": lambda: self._begin_chore(self._save()),
        }
        self._tools = Tools(self._picture.looks.search, self._on_search, clicks)
        self._mark_tools()
        self._box.children = (self._bar, self._tools.box, *self._parts)

    def _mark_tools(self) -> None:
        if self._tools is not None:
            self._tools.mark("Times", self._picture.looks.times)
            self._tools.mark("stderr", bool(self._picture.looks.channel))

    def _look(self, **changes: object) -> None:
        self._picture.look(**changes)
        self._mark_tools()

    def _on_search(self, text: str) -> None:
        if self._tools is None or text == self._picture.looks.search:
            return
        try:
            self._look(search=text)
        except CmdopError as error:
            self._tools.say(str(error))
            return
        self._tools.say("")
        self._tools.renew_field(text)

    def _on_earlier(self) -> None:
        if not self._picture.paused:
            self._set_paused(True)
        self._picture.want_earlier()
        self._begin_chore(self._load_earlier())

    async def _load_earlier(self) -> None:
        await self._picture.load_earlier()
        await self._clock.drawn(self)
        if self._tools is not None and self._picture.at_most:
            self._tools.say("no more is shown here: filter, or save the log")

    def _on_copy(self) -> None:
        if self._tools is not None:
            lines, skipped = self._picture.painted
            self._tools.copy(to_text(lines, skipped=skipped, times=self._picture.looks.times))

    async def _save(self) -> None:
        tools = self._tools
        if tools is not None:
            path = await save_log(self._machine, self._session, tools.say)
            tools.say(f"{path}: the full log, not redacted", link=path)

    def _begin_chore(self, work: Coroutine[Any, Any, None]) -> None:
        async def do() -> None:
            try:
                await work
            except (CmdopError, OSError) as error:
                if self._tools is not None:
                    self._tools.say(str(error))

        task = asyncio.get_running_loop().create_task(do())
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


def close_all(widget: ipywidgets.Widget) -> None:
    """Take a widget and all in it out of the page."""
    for child in getattr(widget, "children", ()):
        close_all(child)
    widget.close()
