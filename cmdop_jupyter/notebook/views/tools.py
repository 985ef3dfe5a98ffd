"""The row of a view that somebody asked for: a filter, what is shown, copies. Made of ordinary widgets only.

Belongs to the I/O thread. From the page it hears clicks, and what is entered into the field.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import quote

import ipywidgets

from ...runtime import runtime
from .text import shown

SMALL = "26px"


class FilterField(ipywidgets.Text):  # type: ignore[misc]
    """A field whose text is handed on when it is entered.

    Args:
        entered: Called on the I/O thread.
    """

    def __init__(self, text: str, entered: Callable[[str], object]) -> None:
        self._entered = entered
        super().__init__(
            value=text,
            continuous_update=False,
            placeholder="filter by regex: all of the log",
            tooltip="Show only lines that match a regular expression; Enter searches all of the log",
            layout=ipywidgets.Layout(width="18em", height=SMALL),
        )

    def set_state(self, sync_data: dict[str, Any]) -> None:
        super().set_state(sync_data)
        if "value" in sync_data:
            text = str(sync_data["value"])
            runtime().call_later(lambda: self._entered(text))


class Tools:
    """The row.

    Args:
        search: What the field says.
        searched: Called with what was entered.
        clicks: What to call for each button, by its word.
    """

    TIPS: ClassVar = {
        "Times": "Show when each line came",
        "stderr": "Show only what went to stderr, of all of the log",
        "Earlier": "Load earlier lines; the picture pauses",
        "Copy": "The lines as plain text, to select and copy",
        "Save log": "Write the full log, byte for byte and not redacted, into a file beside the notebook",
    }

    def __init__(self, search: str, searched: Callable[[str], object], clicks: dict[str, Callable[[], object]]) -> None:
        self._searched = searched
        self._layout = ipywidgets.Layout(width="auto", height=SMALL)
        self._buttons = {word: self._button(word, does) for word, does in clicks.items()}
        self._said = ipywidgets.Output(layout=ipywidgets.Layout(margin="0 0 0 6px"))
        self._text: ipywidgets.Textarea | None = None
        self._field = ipywidgets.HBox([FilterField(search, searched)])  # in a box: what is beside it stays as it is
        self._row = ipywidgets.HBox(
            [self._field, *self._buttons.values(), self._said],
            layout=ipywidgets.Layout(flex_flow="row wrap", align_items="center"),
        )
        self.box = ipywidgets.VBox([self._row])

    def _button(self, word: str, does: Callable[[], object]) -> ipywidgets.Button:
        button = ipywidgets.Button(description=word, tooltip=self.TIPS[word], layout=self._layout)
        button.on_click(lambda _: runtime().call_later(does))
        return button

    def renew_field(self, search: str) -> None:
        """Put a fresh field there: a page may wait for ever for the answer to what the old one sent."""
        self._field.children = (FilterField(search, self._searched),)

    def mark(self, word: str, on: bool) -> None:
        """Say whether what a button switches is on."""
        self._buttons[word].description = f"✓ {word}" if on else word

    def say(self, text: str, link: str = "") -> None:
        """Tell one thing beside the buttons, perhaps with a link to a file beside the notebook."""
        words = f"<code>{html.escape(shown(text))}</code>"
        if link:  # an output's links are relative to the notebook; a widget's to the page
            words += f' <a href="{html.escape(quote(link))}" download="{html.escape(link)}">download</a>'
        data = {"text/html": words, "text/plain": shown(text)}
        self._said.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},) if text else ()

    def copy(self, text: str) -> None:
        """Offer a text to be copied; the second time, take it away."""
        if self._text is not None:
            self._text = None
            self.box.children = (self._row,)
            return
        self._text = ipywidgets.Textarea(
            value=text,
            tooltip="Ctrl+A, Ctrl+C",
            rows=8,
            layout=ipywidgets.Layout(width="auto"),
        )
        self.box.children = (self._row, self._text)
