"""Notices in a page: a notification of the browser where it is allowed, and a line that can be read in any case.

Allowing is for a person to click on, so there is a button until it is decided. Custom messages only: nothing is saved.
"""

from __future__ import annotations

import html
from collections.abc import Callable

import anywidget
import ipywidgets
import traitlets

from ...runtime import runtime
from .text import shown

ESM = """
function render({ model, el }) {
  const can = "Notification" in window;
  const ask = document.createElement("button");
  ask.textContent = "Allow browser notifications";
  ask.className = "jupyter-button";
  ask.style.cssText = "width:auto;height:26px";
  const line = document.createElement("span");
  line.setAttribute("role", "status");
  line.style.cssText = "font-size:var(--jp-ui-font-size1,13px);margin-left:8px";
  const draw = () => {
    ask.style.display = can && Notification.permission === "default" ? "" : "none";
    line.textContent = !can ? model.get("label") + " (this browser has no notifications)"
      : Notification.permission === "denied" ? model.get("label") + " (this browser refuses notifications)"
      : model.get("label");
  };
  ask.onclick = () => Notification.requestPermission().then(draw);
  const heard = ({ title, text, tag }) => {
    if (can && Notification.permission === "granted") {
      try { new Notification(title, { body: text, tag }); } catch { /* some browsers want a service worker */ }
    }
  };
  model.on("msg:custom", heard);
  draw();
  el.append(ask, line);
  return () => model.off("msg:custom", heard);
}
export default { render };
"""


class BellWidget(anywidget.AnyWidget):
    """What the page knows: what it will be told of, and each notice as a message."""

    _esm = ESM
    label = traitlets.Unicode().tag(sync=True)


class Bell:
    """A line in the cell that says what will be told, and then what was.

    Args:
        what: As the user wrote it.

    Attributes:
        box: The widget to show.
    """

    def __init__(self, what: str) -> None:
        self._widget = BellWidget(label=shown(f"Tells of: {what}"))
        self._line = ipywidgets.HTML()
        self.box = ipywidgets.VBox([self._widget, self._line])
        self._count = 0

    def show(self, title: str, text: str) -> None:
        """Tell one. From any thread."""
        runtime().call_later(lambda: self._show(shown(title), shown(text)))

    def _show(self, title: str, text: str) -> None:
        self._count += 1
        self._widget.send({"title": title, "text": text, "tag": f"{self._widget.model_id}-{self._count}"})
        self._line.value = f"<b>{html.escape(title)}</b> {html.escape(text)}"


Show = Callable[[str, str], object]
