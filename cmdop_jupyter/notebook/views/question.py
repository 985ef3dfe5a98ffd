"""What ssh asks while nobody waits in a cell: a question in the page; its answer is kept nowhere."""

from __future__ import annotations

import asyncio
import contextlib
import html
import uuid
from collections.abc import Callable
from typing import Any

import ipywidgets

from ...machines.asking import Question
from ...runtime import runtime
from .text import shown

ANSWER_SECONDS = 120.0
LATE_SECONDS = 0.5  # that a page may take to send what was typed behind the Enter that ended it
WIDGET = "application/vnd.jupyter.widget-view+json"
TEXT = '<code style="background:none;padding:0;color:inherit;white-space:pre-wrap;overflow-wrap:anywhere">{}</code>'


class PageAsker:
    """Asks in the output of the cell that ran last. Nobody is asked where programs run the cells.

    Args:
        shell: The kernel's IPython shell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._page = False
        shell.events.register("pre_run_cell", self._look)
        self._look(None)

    def close(self) -> None:
        self._shell.events.unregister("pre_run_cell", self._look)
        self._page = False

    async def __call__(self, question: Question) -> str | None:
        """The answer; None: none in two minutes, or nobody is there. Cancelling takes the question back."""
        if not self._page:
            return None
        display_id, answered = uuid.uuid4().hex, False
        asked = Asked(question)
        line = shown(question.text).partition("\n")[0].rstrip(": ")
        view = {"version_major": 2, "version_minor": 0, "model_id": asked.box.model_id}
        try:
            self._publish({WIDGET: view, "text/plain": f"{line}: not answered yet"}, display_id, update=False)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await asked.done.wait()
            answer = asked.take()
            answered = answer is not None
            return answer
        finally:
            asked.close()
            self._publish({"text/plain": f"{line}: {'' if answered else 'not '}answered"}, display_id, update=True)

    def _look(self, _: object) -> None:
        """Note whether the cell that runs was sent by somebody who could type an answer."""
        parent = self._shell.get_parent() if hasattr(self._shell, "get_parent") else {}
        self._page = bool((parent.get("content") or {}).get("allow_stdin"))

    def _publish(self, bundle: dict[str, Any], display_id: str, *, update: bool) -> None:
        self._shell.display_pub.publish(data=bundle, metadata={}, transient={"display_id": display_id}, update=update)


class Asked:
    """One question as widgets: a masked field, or two buttons where it is yes or no. Belongs to the I/O thread.

    Attributes:
        box: The widget to show.
        done: Set when it is answered, or given up.
    """

    def __init__(self, question: Question) -> None:
        self.done = asyncio.Event()
        self._answer: str | None = None  # not in a future: its repr would show it
        self._typed: str | None = None
        text = ipywidgets.HTML(TEXT.format(html.escape(shown(question.text), quote=False)))
        yes, no = ("Yes", "No") if question.kind == "host key" else ("OK", "Cancel")
        accept = ipywidgets.Button(description=yes, layout=ipywidgets.Layout(width="auto"))
        cancel = ipywidgets.Button(description=no, layout=ipywidgets.Layout(width="auto"))
        cancel.on_click(lambda _: runtime().call_later(self.done.set))
        row = [accept, cancel]
        if question.secret:
            accept.on_click(lambda _: runtime().call_later(self._accept_typed))
            row.insert(0, SecretField(self._keep_typed, self._enter))
        else:
            accept.on_click(lambda _: runtime().call_later(lambda: self._accept("yes")))
        buttons = ipywidgets.HBox(row)
        self.box = ipywidgets.VBox([text, buttons])
        self._widgets = [self.box, text, buttons, *row]

    def take(self) -> str | None:
        """The answer, once."""
        answer, self._answer, self._typed = self._answer, None, None
        return answer

    def close(self) -> None:
        """Take it out of the page, and of what a page may save."""
        for widget in self._widgets:
            for part in (getattr(widget, "style", None), widget.layout, widget):
                if isinstance(part, ipywidgets.Widget):
                    part.close()

    def _keep_typed(self, text: str) -> None:
        self._typed = text

    def _enter(self) -> None:
        """Enter was pressed. Pages send what was typed before it, or just behind."""
        if self._typed is not None:
            self._accept_typed()
        else:
            asyncio.get_running_loop().call_later(LATE_SECONDS, self._accept_typed)

    def _accept_typed(self) -> None:
        self._accept(self._typed or "")

    def _accept(self, answer: str) -> None:
        if not self.done.is_set():
            self._answer = answer
            self.done.set()


class SecretField(ipywidgets.Password):  # type: ignore[misc]
    """A field that never has a value here: what is typed is handed on, and the page is told to forget it.

    A page has no other message for text than a change of state. So that is taken before it becomes one: no trait has
    it, it is not echoed to other pages, nor is it in what `repr` or a saved notebook says.

    Args:
        typed: Called on the I/O thread with what was typed, when the field is left or Enter is pressed.
        enter: Called there when Enter is pressed.
    """

    def __init__(self, typed: Callable[[str], object], enter: Callable[[], object]) -> None:
        self._typed, self._enter = typed, enter
        super().__init__(continuous_update=False, layout=ipywidgets.Layout(width="24em"))
        self.on_msg(self._hear)

    def _hear(self, _: object, content: dict[str, Any], buffers: object) -> None:
        if content.get("event") == "submit":
            runtime().call_later(self._enter)

    def set_state(self, sync_data: dict[str, Any]) -> None:
        others = {name: value for name, value in sync_data.items() if name != "value"}
        if others:
            super().set_state(others)
        text = sync_data.get("value")
        if text:  # else the page has just forgotten it
            runtime().call_later(lambda: self._typed(text))
            self.send_state("value")
            self.placeholder = "typed, and not shown"
