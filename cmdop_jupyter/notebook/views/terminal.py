"""The view of one session as a terminal: xterm.js in the page, below the header of the Output view.

Output goes to each page as bytes of the log with acknowledgements (`flow`), keys come back the same way; neither is
ever part of a widget's state. The text that stays in the file is the Output view's.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from ...errors import CmdopError, ConnectFailed, SessionNotFound
from ...runtime import runtime
from ...writing import Input
from .flow import Flow
from .output import OutputView, Publish
from .record import facts_of
from .text import one_line, shown

if TYPE_CHECKING:
    from ...stream import Stream
    from .clock import FrameClock

ROWS = 24
FRESH = 15.0  # seconds after its start in which a session's questions wait for the first page
FIGURES = 0.5  # seconds between two looks at the figures of the header, while output comes
LARGEST = 1000  # columns or rows

BUNDLE = Path(__file__).parents[1] / "static" / "terminal.js"


class TerminalWidget(anywidget.AnyWidget):
    """What the page knows of a terminal."""

    _esm = BUNDLE.read_text(encoding="utf-8")
    label = traitlets.Unicode().tag(sync=True)
    eol = traitlets.Bool(help="A line feed also goes to the first column: nobody did that for us.").tag(sync=True)
    rows = traitlets.Int(ROWS).tag(sync=True)


_views: weakref.WeakSet[TerminalView] = weakref.WeakSet()


class TerminalView(OutputView):
    """Shows `stream` in the cell that runs now, and types into it; see `OutputView`."""

    tooled = False
    pause = FIGURES

    def __init__(self, stream: Stream, publish: Publish, clock: FrameClock) -> None:
        self._flows: dict[str, Flow] = {}  # by the page's id of its view
        self._leader = ""  # the view that has the size, and answers what programs ask
        self._size = (0, 0)
        self._away = ""  # what was said of a link that is not up
        self._input = Input()
        self._typing: set[asyncio.Task[None]] = set()
        self._kept: set[asyncio.Task[None]] = set()  # a loop itself does not keep its tasks alive
        self._resizing = asyncio.Lock()
        self._terminal: TerminalWidget
        super().__init__(stream, publish, clock, lines=1)
        for other in self._together():
            self._leader, self._size = other._leader, other._size
        _views.add(self)

    def _make_widgets(self) -> None:
        super()._make_widgets()
        session, where = self._session, self._facts().machine
        label = shown(f"Terminal of {session.name} on {where}")
        self._terminal = TerminalWidget(label=label, eol=session.tty != "full")
        # Messages come on the main thread or on a subshell's; what they do is done on the I/O thread.
        self._terminal.on_msg(lambda _, content, buffers: runtime().call_later(lambda: self._hear(content, buffers)))
        self._box.children = tuple(self._terminal if child is self._area else child for child in self._box.children)
        for button in (self._pause, self._clear):
            button.layout = ipywidgets.Layout(display="none")

    def _together(self) -> list[TerminalView]:
        """The views of this session: they have one size."""
        return [one for one in _views if one.session_id == self.session_id]

    # -- what the Output view does otherwise

    def leave(self) -> None:
        super().leave()
        for flow in self._flows.values():
            flow.close()
        self._flows.clear()

    async def draw(self, max_bytes: int) -> tuple[int, int]:
        drawn = await super().draw(max_bytes)
        self._tell_link()
        return drawn

    def _retire(self) -> tuple[int, int]:
        self._header.layout.height = "auto"  # its last words take two lines
        return super()._retire()

    def _tell_link(self) -> None:
        """Say below the terminal where what is typed waits for the link."""
        state = self._machine.link.state
        away = "" if state == "up" or not self._known.status.live else f"link {state}: what you type waits for it"
        if away != self._away:
            self._away = away
            for view in self._flows:
                self._send(view, {"kind": "link", "text": away})

    # -- the pages

    def _hear(self, content: Mapping[str, Any], buffers: Sequence[memoryview]) -> None:
        """Do what a page says. A page is not trusted to make sense."""
        kind, view = content.get("kind"), str(content.get("view"))
        cols, rows, offset = (_number(content.get(name)) for name in ("cols", "rows", "offset"))
        if kind == "ready":
            self._feed(view, None)
            self._lead(view, cols, rows)
        elif kind in ("ack", "resume"):
            flow = self._flows.get(view)
            if kind == "resume" or flow is None or flow.over:
                self._feed(view, offset)
            else:
                flow.acknowledge(offset)
        elif kind == "lead" or (kind == "resize" and view == self._leader):
            self._lead(view, cols, rows)
        elif kind == "input":
            self._send(view, {"kind": "typed"})
            if buffers:
                self._begin_typing(view, bytes(buffers[0]))
        elif kind == "bye":
            if flow := self._flows.pop(view, None):
                flow.close()
            left = [other for one in self._together() for other in one._flows]
            if view == self._leader and left:
                self._follow_leader(left[-1], self._size)

    def _feed(self, view: str, start: int | None) -> None:
        """Let the log flow into a page, from where it is, or from the newest."""
        before = self._flows.pop(view, None)
        modes = before.modes if before is not None and start is not None else None
        if before is not None:
            before.close()
        fresh = not self._leader and time.time() - self._session.created_ns / 1e9 < FRESH
        self._flows[view] = Flow(
            self._machine,
            self._session,
            lambda content, data: self._send(view, content, data),
            redraw=self._redraw,
            end_words=self._end_words,
            live=fresh,
            start=start,
            modes=modes,
        )
        self._send(view, {"kind": "link", "text": self._away})

    def _send(self, view: str, content: dict[str, Any], data: bytes | None = None) -> None:
        self._terminal.send({**content, "view": view}, None if data is None else [data])

    async def _end_words(self) -> str:
        with contextlib.suppress(SessionNotFound, ConnectFailed):
            status = await self._machine.status(self._session.id)
            return shown(one_line(facts_of(self._machine, self._session, status)))
        return f"{self._session.name} was removed"

    # -- its size

    def _lead(self, view: str, cols: int, rows: int) -> None:
        """A view has the size from now on, the others follow it."""
        if not (1 < cols <= LARGEST and 0 < rows <= LARGEST):
            return
        changed = (cols, rows) != self._size
        self._follow_leader(view, (cols, rows))
        if changed:
            self._do(self._resize())

    def _follow_leader(self, view: str, size: tuple[int, int]) -> None:
        for one in self._together():
            one._leader, one._size = view, size
            one._send(view, {"kind": "leads", "cols": size[0], "rows": size[1]})

    def _redraw(self) -> None:
        """A program that has the whole screen paints it anew when the size changes."""
        self._do(self._resize(twice=True))

    async def _resize(self, *, twice: bool = False) -> None:
        async with self._resizing:
            cols, rows = self._size
            if twice:
                await self._machine.resize(self._session.id, cols, max(1, rows - 1))
            await self._machine.resize(self._session.id, cols, rows)

    # -- its keys

    def _begin_typing(self, view: str, data: bytes) -> None:
        if data == b"\x03" and self._typing:  # what was pasted waits for a program that does not read
            for task in self._typing:
                task.cancel()
            self._input = Input()  # how much of it was taken is not known
            self._do(self._machine.signal(self._session.id, "INT"))
            return
        task = asyncio.get_running_loop().create_task(self._type(view, self._input, data))
        self._typing.add(task)
        task.add_done_callback(self._typing.discard)

    async def _type(self, view: str, typist: Input, data: bytes) -> None:
        try:
            await typist.send(self._machine, self._session.id, data)
        except CmdopError as error:
            self._send(view, {"kind": "refused", "text": shown(f"not typed: {error}").replace("\n", " ")})

    def _do(self, work: Any) -> None:
        async def quietly() -> None:
            with contextlib.suppress(CmdopError):  # it ended meanwhile
                await work

        task = asyncio.get_running_loop().create_task(quietly())
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
