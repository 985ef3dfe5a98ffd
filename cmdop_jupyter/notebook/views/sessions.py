"""The live table of all sessions in a page, one of them opened below it, and a plain table that stays in the file.

All of it but the construction runs on the I/O thread, as one view of the clock's.
"""

from __future__ import annotations

import asyncio
import html
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets

from ...agent.stopping import GRACE
from ...directory import machine
from ...errors import CmdopError
from ...machines.base import Status
from ...runtime import runtime
from ...sessions import Session
from ...stream import Stream
from ...words import human_bytes
from ..links import Heard, address
from ..listing import TITLE, cells, has_failed, seconds, sessions_table
from ..roll import Roll
from ..tables import Table
from .fleet_text import GLYPHS
from .output import OutputView, Publish
from .text import _CODE, Bundle, shown

if TYPE_CHECKING:
    from .clock import FrameClock

ENDED = 10  # of the sessions that ended, at first
LIVE = 60  # of those that run
MORE = 50  # that a click brings
LINES = 20  # of the session that is opened
GONE_SECONDS = 60.0  # without a word of a page, after which nobody looks
BEAT = 2.0  # between two looks whether somebody does
SNAPSHOT_SECONDS, CHANGE_SECONDS = 30.0, 3.0  # the plain table is renewed no more often; when a state changed
OVERHEAD = 700  # bytes of a message around its content
SOURCE = Path(__file__).parents[1] / "static" / "sessions.js"

Bind = Callable[[Stream], str]  # gives why it is not bound, or ''


class SessionsWidget(anywidget.AnyWidget):
    """What the page knows of the table."""

    _esm = SOURCE.read_text(encoding="utf-8")
    board = traitlets.Dict().tag(sync=True)


class LiveTable(Table):
    """The table as of now; shown as a cell's result it is a live one."""

    def __init__(self, table: Table, show: Callable[[], None]) -> None:
        self.__dict__.update(table.__dict__)
        self._show = show

    def _ipython_display_(self) -> None:
        self._show()


class SessionsView:
    """Shows the sessions of all machines that were reached in the cell that runs now.

    Args:
        heard: What machines said just now.
        only: Show those of this machine alone.
        publish: Puts a bundle into the page: (bundle, display id, whether it replaces the one there).
        clock: Gives this view its frames.
        bind: Gives a stream a variable.
        busy: Whether a cell runs: then nothing can be heard of a page.
    """

    def __init__(
        self,
        heard: Sequence[Heard],
        only: str | None,
        publish: Publish,
        clock: FrameClock,
        *,
        bind: Bind,
        busy: Callable[[], bool],
    ) -> None:
        self._publish, self._clock, self._bind, self._busy = publish, clock, bind, busy
        self._roll = Roll(heard, only, lambda: self._clock.dirty(self), lambda: self._shown)
        self._shown: set[str] = set()
        self._live, self._ended = LIVE, ENDED
        self._stopping: set[str] = set()
        self._said = ""
        self._open = ""  # the session that is opened
        self._inner: OutputView | None = None
        self._heard_at = time.monotonic()
        self._chores: set[asyncio.Task[None]] = set()
        self._text_id = uuid.uuid4().hex
        self._snapshot_at, self._snapshot_of = 0.0, ""
        self._final = False  # nobody looks: the plain table is to be as of now
        self._widget = SessionsWidget(board=self._board())
        # Clicks come on the main thread or on a subshell's; what they do is done on the I/O thread.
        self._widget.on_msg(lambda _, content, buffers: runtime().call_later(lambda: self._hear(content)))
        self._pane = ipywidgets.VBox([], layout=ipywidgets.Layout(margin="6px 0 0 0"))
        self._box = ipywidgets.VBox([self._widget, self._pane])

    def show(self) -> None:
        """Put both outputs into the cell and begin to follow. On the main thread."""
        made = self._bundle()
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        words = {"application/vnd.jupyter.widget-view+json": view, "text/plain": ""}
        self._publish(words, uuid.uuid4().hex, False)
        self._publish(made, self._text_id, False)
        self._snapshot_at, self._snapshot_of = time.monotonic(), self._states()
        runtime().call_later(lambda: self._do(self._watch()))

    async def _watch(self) -> None:
        """Keep it up to date as long as somebody may look."""
        self._roll.begin()
        while time.monotonic() - self._heard_at < GONE_SECONDS:
            await asyncio.sleep(BEAT)
            if self._busy():
                self._heard_at = max(self._heard_at, time.monotonic() - GONE_SECONDS / 2)
            if self._snapshot_due():
                self._clock.dirty(self)
        await self._leave()

    async def _leave(self) -> None:
        await self._roll.end()
        self._final = True
        self._clock.dirty(self)

    # -- what a page says

    def _hear(self, content: dict[str, Any]) -> None:
        """Do what a page says. A page is not trusted to make sense."""
        kind, wanted = content.get("kind"), content.get("id")
        if kind == "bye":  # another page may look: it says so soon
            self._heard_at = min(self._heard_at, time.monotonic() - GONE_SECONDS + 2 * BEAT)
            return
        self._heard_at = time.monotonic()
        if not self._roll.begun:
            self._do(self._watch())
        if kind == "more":
            self._live, self._ended = self._live + MORE, self._ended + MORE
        found = next((one for one in self._roll.sessions if one.session_id == wanted), None)
        if found is not None and kind == "open":
            self._do(self._show_or_hide(found))
        elif found is not None and kind == "attach":
            self._do(self._attach(found))
        elif found is not None and kind == "stop" and found.status.live:
            self._do(self._stop(found))
        self._clock.dirty(self)

    async def _stop(self, one: Session) -> None:
        name = _address(one)
        self._stopping.add(one.session_id)
        self._say(f"{name}: stopping")
        try:
            where = self._roll.reached(one.machine)
            if where is None:
                where = await asyncio.to_thread(machine, one.machine)
            self._say(f"{name}: {await where.stop(one.session_id, uuid.uuid4().hex, GRACE)}")
        finally:
            self._stopping.discard(one.session_id)
            self._roll.look_again(one.machine)

    async def _attach(self, one: Session) -> None:
        stream = await self._stream(one, listed=True)
        refused = self._bind(stream)
        name = stream.name
        bound = f"the variable {name} is its stream" if name.isidentifier() else f"cmdop[{name!r}] is its stream"
        self._say(f"{_address(one)}: {refused or bound}")
        if self._open != one.session_id:
            self._embed(stream)

    async def _show_or_hide(self, one: Session) -> None:
        if self._open == one.session_id:
            self._close_inner()
            return
        if one.machine != "local":
            self._say(f"{_address(one)}: reaching {one.machine}")
        self._embed(await self._stream(one, listed=False))
        self._say("")

    async def _stream(self, one: Session, *, listed: bool) -> Stream:
        stream = Stream(await asyncio.to_thread(machine, one.machine))
        return await stream._attach(one.session_id, "begin", listed=listed)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        async def do() -> None:
            try:
                await work
            except (CmdopError, OSError) as error:
                self._say(str(error))

        task = asyncio.get_running_loop().create_task(do())
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    def _say(self, text: str) -> None:
        self._said = text
        self._clock.dirty(self)

    # -- the session that is opened

    def _embed(self, stream: Stream) -> None:
        self._close_inner()
        frozen: list[Bundle] = []

        def take(bundle: Bundle, display_id: str, update: bool) -> None:
            if bundle.get("text/html"):
                frozen[:] = [bundle]

        self._open = stream.session_id
        if stream.facts.tty == "full" and stream._known.live:
            from .terminal import TerminalView

            view: OutputView = TerminalView(stream, take, self._clock)
        else:
            view = OutputView(stream, take, self._clock, lines=LINES, watched=True)
        self._inner = view
        self._pane.children = (view.embed(),)
        self._do(self._until_over(view, frozen))
        self._clock.dirty(self)

    async def _until_over(self, view: OutputView, frozen: list[Bundle]) -> None:
        """Show the text that stays once the session has ended."""
        await view.over()
        if view is self._inner and frozen:
            self._pane.children = (ipywidgets.HTML(frozen[0]["text/html"]),)
            view.leave()

    def _close_inner(self) -> None:
        inner, self._inner, self._open = self._inner, None, ""
        self._pane.children = ()
        if inner is not None:
            inner.leave()
        self._clock.dirty(self)

    # -- frames, called by the clock

    async def draw(self, max_bytes: int) -> tuple[int, int]:
        """Bring the table up to date; return messages and bytes sent."""
        sent = []
        board = self._board()
        if board != self._widget.board:
            self._widget.board = board
            sent.append(len(repr(board)))
        if self._snapshot_due():
            self._final = False
            self._snapshot_at, self._snapshot_of = time.monotonic(), self._states()
            made = self._bundle()
            self._publish(made, self._text_id, True)
            sent.append(sum(map(len, made.values())))
        return len(sent), sum(sent) + OVERHEAD * len(sent)

    def _rows(self) -> tuple[list[Session], str]:
        """The sessions that are shown, and how many are not, in words."""
        found = self._roll.sessions
        live = [one for one in found if one.status.live]
        ended = [one for one in found if not one.status.live]
        rest = [(len(live) - self._live, "that run"), (len(ended) - self._ended, "that ended")]
        words = " and ".join(f"{count} {what}" for count, what in rest if count > 0)
        return live[: self._live] + ended[: self._ended], f"… and {words} " if words else ""

    def _board(self) -> dict[str, Any]:
        rows, rest = self._rows()
        self._shown = {one.session_id for one in rows}
        return {
            "rows": [self._row(one) for one in rows],
            "rest": rest,
            "notes": [shown(f"not asked: {problem}") for problem in self._roll.problems],
            "said": shown(self._said),
            "open": self._open,
        }

    def _row(self, one: Session) -> dict[str, Any]:
        name, where, state, began, *_ = map(shown, cells(one))
        glyph, color = GLYPHS[_word(one.status)]
        ran = seconds(one)
        return {
            "id": one.session_id,
            "address": shown(_address(one)),
            "name": name,
            "machine": where,
            "state": state,
            "began": began,
            "seconds": int(ran) if one.status.live else ran and max(0.1, round(ran, 1)),  # 0: not known
            "live": one.status.live and not one.status.over,
            "stopping": one.session_id in self._stopping or one.status.stopping,
            "output": human_bytes(one.status.end),
            "command": shown(one.facts.title)[: 2 * TITLE],
            "glyph": glyph,
            "color": color,
        }

    # -- the table that stays

    def _snapshot_due(self) -> bool:
        age = time.monotonic() - self._snapshot_at
        changed = self._states() != self._snapshot_of
        return self._final or (changed and age >= CHANGE_SECONDS) or (self._roll.begun and age >= SNAPSHOT_SECONDS)

    def _states(self) -> str:
        return repr([(one.session_id, one.status.state) for one in self._rows()[0]])

    def _bundle(self) -> Bundle:
        rows, rest = self._rows()
        table = sessions_table(rows, self._roll.problems, [rest.strip()] if rest else [])
        running = sum(one.status.live for one in self._roll.sessions)
        count = len(self._roll.sessions)
        told = f"{count} session{'' if count == 1 else 's'}, {running} running, as of {time.strftime('%H:%M:%S')}"
        summary = f'<summary style="opacity:.6"><code style="{_CODE}">{html.escape(told)}</code></summary>'
        return {"text/plain": f"{told}\n{table!r}", "text/html": f"<details>{summary}{table._repr_html_()}</details>"}


def _address(one: Session) -> str:
    return address(one.machine, one.name)


def _word(status: Status) -> str:
    """The state as a key of `GLYPHS`."""
    if has_failed(status):
        return "failed"
    if status.over:
        return "stopped" if status.stopped is not None and status.stopped.took else "ok"
    return "stopping" if status.stopping else status.state if status.state in GLYPHS else "running"
