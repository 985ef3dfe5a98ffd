"""Eyes in the page, where there are any to be had: whether somebody reads what is scrolled up, or selects text.

The view works without: then there is the Pause button. A page that cannot show the watcher shows nothing of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

import ipywidgets

VIEW, AREA = "cmdop-view", "cmdop-area"  # classes in the page

# The area holds its newest line at its lower edge by CSS: there its scrollTop is 0, above it is negative.
ESM = """
function render({ model, el }) {
  const stop = new AbortController();
  let held = false, scrolled = false, missed = false, output = null;
  const area = () => el.closest(".cmdop-view")?.querySelector(".cmdop-area");
  const selects = (node) => {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && node.contains(selection.anchorNode);
  };
  const show = () => { if (missed) { missed = false; output.setOutputs(); } };
  // To ask where it is scrolled lays out the page: not at each key in another cell, and not with each picture.
  const look = (event) => {
    const node = area();
    if (!node || (event?.type === "scroll" && event.target !== node)) return;
    if (scrolled || event?.type !== "selectionchange") scrolled = node.scrollTop < -4;
    const holds = scrolled || selects(node);
    if (holds === held) return;
    held = holds;
    if (!held) show();
    model.send({ pause: held });
  };
  const gate = () => {
    look({ type: "selectionchange" });
    if (held) missed = true; else output.setOutputs();
  };
  model.widget_manager.get_model(model.get("area")).then((found) => {
    if (stop.signal.aborted || typeof found.setOutputs !== "function") return;
    output = found;
    output.off("change:outputs", output.setOutputs);
    output.on("change:outputs", gate);
    look(); // it may have been scrolled before this was here
  });
  document.addEventListener("selectionchange", look, { signal: stop.signal });
  document.addEventListener("scroll", look, { signal: stop.signal, capture: true });
  const hear = (message) => {
    if (message.show) show();
    if (message.end) area()?.scrollTo(0, 0);
  };
  model.on("msg:custom", hear);
  return () => {
    stop.abort();
    model.off("msg:custom", hear);
    if (output) {
      output.off("change:outputs", gate);
      output.on("change:outputs", output.setOutputs, output);
    }
  };
}
export default { render };
"""


def watcher(area: ipywidgets.Widget, heard: Callable[[bool], object]) -> ipywidgets.Widget | None:
    """A widget that watches `area`, to be put somewhere in the box with it; None where there can be none.

    Args:
        heard: Called with whether the area is to be left as it is; on any thread.
    """
    if "google.colab" in sys.modules or "VSCODE_PID" in os.environ:
        return None  # such pages load it from elsewhere, and ask, or refuse
    with contextlib.suppress(ImportError):
        import anywidget
        import traitlets

        class Watcher(anywidget.AnyWidget):
            _esm = ESM
            area = traitlets.Unicode().tag(sync=True)

        made = Watcher(area=area.model_id)

        def hear(_: object, content: dict[str, Any], buffers: object) -> None:
            if isinstance(content.get("pause"), bool):
                heard(content["pause"])

        made.on_msg(hear)
        return made
    return None
