"""What a page feels and is sent: its longest task and pause, the delay of its keys, its memory, its messages.

All of it is counted in the page itself, by a script that is there before JupyterLab is: to be told of each message by
the browser's tools would cost a page that gets 300,000 of them more than the messages do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from playwright.sync_api import Page

SCRIPT = """(() => {
  if (window.top !== window) return;
  const fresh = () => ({ task: 0, gap: 0, machine: 0, keys: [], messages: 0, bytes: 0, log: [] });
  const probe = window.probe = fresh();
  new PerformanceObserver((list) => {
    for (const { startTime, duration } of list.getEntries())
      if (startTime >= probe.since) probe.task = Math.max(probe.task, duration);
  }).observe({ type: "longtask" });
  const TICK = (tell) => {
    let last = performance.now();
    setInterval(() => {
      const now = performance.now();
      tell(now - last);
      last = now;
    }, 10);
  };
  TICK((gap) => { probe.gap = Math.max(probe.gap, gap); });
  const source = `let most = 0; onmessage = () => { most = 0; };
    (${TICK})((gap) => { if (gap > most) postMessage(most = gap); });`;
  const worker = new Worker(URL.createObjectURL(new Blob([source])));
  worker.onmessage = (event) => { probe.machine = Math.max(probe.machine, event.data); };
  probe.begin = (keep) => {
    worker.postMessage(0);
    Object.assign(probe, fresh(), { since: performance.now(), keep });
  };
  document.addEventListener("keydown", (event) => {
    const pressed = event.timeStamp;
    requestAnimationFrame(() => {
      const painted = new MessageChannel();
      painted.port1.onmessage = () => probe.keys.push(performance.now() - pressed);
      painted.port2.postMessage(0);
    });
  }, true);
  // The first text that the server puts before a message of the kernel is its channel, the second its header.
  const decode = new TextDecoder();
  const header = (data) => {
    const view = new DataView(data);
    const at = (index) => Number(view.getBigUint64(8 * index, true));
    return JSON.parse(decode.decode(new Uint8Array(data, at(2), at(3) - at(2))));
  };
  const Plain = window.WebSocket;
  window.WebSocket = class extends Plain {
    constructor(...words) {
      super(...words);
      this.addEventListener("message", ({ data }) => {
        probe.messages++;
        probe.bytes += data.byteLength ?? data.length;
        if (!(data instanceof ArrayBuffer)) return;
        const { msg_type, date } = header(data);
        if (!probe.keep) return;
        probe.log.push([msg_type, Date.parse(date) / 1000, data.byteLength]);
      });
    }
  };
  // When an output area has this text, and how many lines it has until then.
  probe.await = (cell, text) => {
    const began = performance.now();
    const found = { seconds: null, lines: 0, at: 0 };
    const look = () => {
      const seen = cell.querySelector(".jp-OutputArea")?.textContent ?? "";
      found.lines = seen.split("\\n").length - 1;
      found.at = (performance.now() - began) / 1000;
      if (seen.includes(text)) found.seconds = found.at;
      console.debug("probe " + JSON.stringify({ ...found, task: probe.task, gap: probe.gap, machine: probe.machine,
        messages: probe.messages, bytes: probe.bytes }));
      if (found.seconds === null) setTimeout(look, found.lines > 5000 ? 100 : 20); // to look costs as well
    };
    look();
  };
})()"""


@dataclass(frozen=True)
class Sent:
    """A message of the kernel to the page.

    Attributes:
        kind: `stream`, `display_data`, `comm_msg` …
        time: When the kernel made it, in seconds since the epoch: a page that is late changes nothing in that.
        size: Bytes.
    """

    kind: str
    time: float
    size: int


@dataclass(frozen=True)
class Felt:
    """What a page felt since the probe began; milliseconds.

    Attributes:
        task: Its longest task; 0 where none took 50.
        gap: The longest pause of a timer of 10.
        machine: The same in a worker, which has nothing to do with the page: what the machine itself held up.
        keys: From each key to the paint behind it.
        messages: How many came, with all their bytes.
        bytes: In those.
    """

    task: float
    gap: float
    machine: float
    keys: list[float]
    messages: int
    bytes: int

    @property
    def slowest_key(self) -> float:
        """The 95th of a hundred."""
        return sorted(self.keys)[math.ceil(len(self.keys) * 0.95) - 1] if self.keys else 0.0


def begin(page: Page, *, keep: bool = False) -> None:
    """Count from now on; `keep` a note of each message, for `sent`."""
    page.evaluate("keep => probe.begin(keep)", keep)


def felt(page: Page) -> Felt:
    page.evaluate("new Promise(done => setTimeout(done, 50))")  # a task is told of when it is over
    return Felt(
        **page.evaluate(
            "(({task, gap, machine, keys, messages, bytes}) => ({task, gap, machine, keys, messages, bytes}))(probe)"
        )
    )


def sent(page: Page) -> list[Sent]:
    """What the kernel sent since the probe began."""
    return [Sent(*one) for one in page.evaluate("probe.log")]


def heap(page: Page) -> int:
    """Bytes of JavaScript that are in use, what is garbage collected."""
    tools = page.context.new_cdp_session(page)
    for _ in range(2):
        tools.send("HeapProfiler.collectGarbage")
    used = tools.send("Runtime.getHeapUsage")["usedSize"]
    tools.detach()
    return int(used)
