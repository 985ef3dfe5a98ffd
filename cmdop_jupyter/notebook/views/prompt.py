"""A field below a session's output while it waits for input; what is typed goes there, and is kept nowhere."""

from __future__ import annotations

import asyncio
import contextlib
import html
from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets
import traitlets

from ...errors import CmdopError
from ...prompts import Prompt, PromptWatch
from ...runtime import runtime
from .question import LATE_SECONDS, TEXT, SecretField
from .text import shown

if TYPE_CHECKING:
    from ...stream import Stream

LABEL = 200  # characters of a prompt that are shown, its last


class PromptField:
    """Shows what `stream` asks for, and types what is entered. Belongs to the I/O thread, but for its making.

    Args:
        told: Called when another prompt is shown, or none.

    Attributes:
        box: The widget to show; it is empty while nothing is asked.
        text: What is asked; "" for nothing.
    """

    def __init__(self, stream: Stream, told: Callable[[], object] = lambda: None) -> None:
        self.box = ipywidgets.VBox()
        self.text = ""
        self._stream, self._told = stream, told
        self._session = stream.facts
        self._watch = PromptWatch(stream._machine, stream.facts)
        self._task: asyncio.Task[None] | None = None
        self._typing: set[asyncio.Task[None]] = set()
        self._asking: _Asking | None = None

    def begin(self) -> None:
        """Show what it asks, from now on until its command has exited."""
        if self._task is None and self._stream.mode == "operator":
            self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
        self._hide()

    async def _run(self) -> None:
        try:
            with contextlib.suppress(CmdopError):  # it was removed, or its client closed
                async for prompt in self._watch.changes():
                    self._hide()
                    if prompt is not None and not self._stream._answers_to(prompt):
                        self._show(prompt)
        finally:
            self._hide()

    def _show(self, prompt: Prompt) -> None:
        self.text = shown(prompt.text.strip())[-LABEL:]
        self._asking = _Asking(self.text, prompt.secret, lambda text: self._answer(prompt, text))
        self.box.children = (self._asking.box,)
        self._told()

    def _hide(self) -> None:
        if self._asking is not None:
            asking, self._asking = self._asking, None
            self.text = ""
            self.box.children = ()
            asking.close()
            self._told()

    def _answer(self, prompt: Prompt, text: str) -> None:
        if self._asking is not None and self._watch.answered.offset < prompt.offset:
            self._watch.answered.offset = prompt.offset
            self._hide()
            typing = asyncio.get_running_loop().create_task(self._type(prompt, text.encode() + prompt.enter))
            self._typing.add(typing)
            typing.add_done_callback(self._typing.discard)

    async def _type(self, prompt: Prompt, data: bytes) -> None:
        try:
            await self._stream._input.send(self._stream._machine, self._session.id, data)
        except CmdopError as error:  # too long a line, or it has ended
            self.box.children = (ipywidgets.HTML(TEXT.format(html.escape(shown(f"not typed: {error}"), quote=False))),)
            self._watch.answered.offset = prompt.offset - 1


class _Asking:
    """One prompt as widgets.

    A page sends a change of a field once only while a cell waits; so each change is taken from a field of its own.
    """

    def __init__(self, text: str, secret: bool, answer: Callable[[str], object]) -> None:
        self._text, self._secret, self._answer = text, secret, answer
        self._typed: str | None = None
        self._closed = False
        self._fresh = False  # what was typed came from the field that is there now
        self._entered = False  # Enter came before what was typed
        self._late: asyncio.TimerHandle | None = None
        self._label = ipywidgets.HTML(TEXT.format(html.escape(text, quote=False)))
        self._send = ipywidgets.Button(
            description="Send", tooltip=f"Type it, and Enter: {text}", layout=ipywidgets.Layout(width="auto")
        )
        self._send.on_click(lambda _: runtime().call_later(self._enter))
        self._field = self._make_field("not shown as you type" if secret else "Enter sends it")
        self.box = ipywidgets.HBox(
            [self._label, self._field, self._send],
            layout=ipywidgets.Layout(flex_flow="row wrap", align_items="center"),
        )

    def close(self) -> None:
        """Take it out of the page, and of what a page may save."""
        self._closed, self._typed = True, None
        if self._late is not None:
            self._late.cancel()
        for widget in (self.box, self._label, self._field, self._send):
            _close(widget)

    def _make_field(self, placeholder: str) -> SecretField:
        field = (SecretField if self._secret else PlainField)(self._keep, self._enter)
        field.placeholder, field.tooltip = placeholder, self._text
        return field

    def _keep(self, text: str) -> None:
        """The field was left, or Enter comes right behind."""
        if not self._closed:
            self._typed, self._fresh = text, True
            self._wait(self._give if self._entered else self._renew, 0.0 if self._entered else LATE_SECONDS)

    def _enter(self) -> None:
        """Enter or the button was pressed; pages send what was typed before it, or right behind."""
        if not self._closed:
            self._entered = True
            self._wait(self._give, 0.0 if self._fresh else LATE_SECONDS)

    def _wait(self, then: Callable[[], object], seconds: float) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = asyncio.get_running_loop().call_later(seconds, then)

    def _give(self) -> None:
        if not self._closed:
            text, self._typed = self._typed or "", None
            self._answer(text)

    def _renew(self) -> None:
        """The field was left without Enter."""
        if not self._closed:
            self._late, self._fresh = None, False
            before, self._field = self._field, self._make_field("typed, and not sent yet: Enter sends it")
            self.box.children = (self._label, self._field, self._send)
            _close(before)


class PlainField(SecretField):
    """As a field for secrets, but it can be read while it is typed."""

    _view_name = traitlets.Unicode("TextView").tag(sync=True)


def _close(widget: ipywidgets.Widget) -> None:
    for part in (getattr(widget, "style", None), widget.layout, widget):
        if isinstance(part, ipywidgets.Widget):
            part.close()
