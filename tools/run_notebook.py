"""A notebook in, the same notebook executed and its HTML out; what its cells say is shown on the terminal meanwhile.

    python tools/run_notebook.py notebooks/01_quickstart.ipynb build

The kernel is this Python's own, its sessions live in a folder of their own, and nothing of them is left running.
Exit code: 0 when every cell did what it should, 1 when one failed, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from leftovers import end_all, marked
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter

ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_].*?(?:\x1b\\|$)|[ -/]*[0-~])")
COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
MARGIN = "    "
LIVE_SECONDS = 2.0  # without a terminal, a line that is renewed in place is printed this often
SHOWN_HEAD, SHOWN_TAIL = 10, 30  # lines of a long text


class Screen:
    """Text that comes in pieces, shown as it comes. Its last line may be renewed in place.

    Args:
        out: Where to; colours and renewing in place only where this is a terminal.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty() and os.environ.get("TERM") != "dumb"
        self._partial = ""  # the stream's line that has not ended yet
        self._source = ""  # whose line that is
        self._live = ""  # the line that is renewed; empty when the last one was superseded
        self._live_shown = 0.0

    def line(self, text: str = "", colour: str = "") -> None:
        """Print one line for good."""
        self._finish_partial()
        self._print(self._coloured(text, colour))

    def stream(self, source: str, text: str) -> None:
        """Print what a cell wrote; a line may come in pieces, and be written over after a carriage return."""
        if source != self._source:
            self._finish_partial()
            self._source = source
        *lines, self._partial = (self._partial + text.replace("\r\n", "\n")).split("\n")
        for line in lines:
            self._print(MARGIN + self._clean(line))
        self._draw()

    def display(self, text: str) -> None:
        """Print something that a cell displayed."""
        lines = text.splitlines()
        if len(lines) > SHOWN_HEAD + SHOWN_TAIL + 1:
            left_out = len(lines) - SHOWN_HEAD - SHOWN_TAIL
            lines[SHOWN_HEAD:-SHOWN_TAIL] = [f"… {left_out} lines …"]
        for line in lines:
            self.line(MARGIN + self._clean(line))

    def renew(self, old: str, new: str) -> None:
        """Print what `new` has and `old`, which it replaces, has not; one line that took another's place is renewed."""
        before, after = old.splitlines(), new.splitlines()
        fresh, replaced = [], False
        for operation, _, _, first, last in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            if operation != "equal":
                fresh += after[first:last]
                replaced |= operation == "replace"
        if replaced and len(fresh) == 1:
            self._live = fresh[0]
            self._draw()
        elif fresh:
            self._live = ""
            self.display("\n".join(fresh))

    def settle(self) -> None:
        """What was unfinished or renewed so far stays."""
        self._finish_partial()
        if self._live:
            live, self._live = self._live, ""
            self._print(MARGIN + self._clean(live))

    def _finish_partial(self) -> None:
        if self._partial:
            partial, self._partial = self._partial, ""
            self._print(MARGIN + self._clean(partial))

    def _draw(self) -> None:
        """Show the line that has not ended, or the one that is renewed."""
        text = self._partial or self._live
        if self._terminal:
            width = shutil.get_terminal_size().columns - len(MARGIN) - 1
            self._out.write(f"\r\x1b[K{MARGIN}{ESCAPE.sub('', self._clean(text))[:width]}" if text else "\r\x1b[K")
            self._out.flush()
        elif text == self._live and text and time.monotonic() - self._live_shown > LIVE_SECONDS:
            self._live_shown = time.monotonic()
            self._print(MARGIN + self._clean(text))
            self._live = ""

    def _print(self, text: str) -> None:
        self._out.write(f"\r\x1b[K{text}\n" if self._terminal else f"{text}\n")
        self._out.flush()

    def _clean(self, line: str) -> str:
        """The line as a terminal leaves it: written over at carriage returns, with its colours if we can show them."""
        line = line.rstrip("\r").rpartition("\r")[2]
        return ESCAPE.sub(lambda found: found[0] if self._terminal and COLOUR.fullmatch(found[0]) else "", line)

    def _coloured(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if colour and self._terminal and "NO_COLOR" not in os.environ else text


class ThisPython(KernelSpecManager):
    """Knows one kernel: ipykernel in the Python that runs this, whatever kernels are registered on this machine."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3 (ipykernel)", language="python")


class Runner(NotebookClient):
    """Executes a notebook and shows each cell as it runs.

    Args:
        nb: The notebook; its outputs are replaced.
        screen: Where to show it.
        seconds: How long a cell may take.
        sockets: A folder for the kernel's sockets; its path must be short.
    """

    def __init__(self, nb: nbformat.NotebookNode, screen: Screen, seconds: int, sockets: Path) -> None:
        super().__init__(nb, timeout=seconds)
        self.on_notebook_start = self._watch_signals
        self.on_cell_execute = self._begin
        self.on_cell_executed = self._end
        self.total = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in nb.cells)
        self.ran = 0
        self.interrupted = False
        self._screen = screen
        self._sockets = sockets
        self._started = 0.0
        self._displays: dict[str, str] = {}  # display id: its text

    def create_kernel_manager(self) -> AsyncKernelManager:
        self.km = AsyncKernelManager(
            kernel_spec_manager=ThisPython(), transport="ipc", connection_file=str(self._sockets / "kernel.json")
        )
        return self.km

    def process_message(self, msg: dict[str, Any], cell: nbformat.NotebookNode, cell_index: int) -> Any:
        content, kind = msg["content"], msg["msg_type"]
        if kind == "stream":
            self._screen.stream(content["name"], content["text"])
        elif kind in ("display_data", "execute_result", "update_display_data"):
            self._show(content, renewed=kind == "update_display_data")
        return super().process_message(msg, cell, cell_index)

    def _watch_signals(self, notebook: nbformat.NotebookNode) -> None:
        # nbclient's own handlers let go of the kernel under the cell that runs, and it then trips over that.
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def interrupt() -> None:
            self.interrupted = True
            if task:
                task.cancel()

        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, interrupt)

    def _show(self, content: dict[str, Any], *, renewed: bool) -> None:
        if "application/vnd.jupyter.widget-view+json" in content["data"]:
            return  # its text is only the name of a class
        text = content["data"].get("text/plain", "")
        display_id = (content.get("transient") or {}).get("display_id")
        if renewed:
            self._screen.renew(self._displays.get(display_id or "", ""), text)
        else:
            self._screen.display(text)
        if display_id:
            self._displays[display_id] = text

    def _begin(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        self.ran += 1
        self._started = time.monotonic()
        first, *rest = cell.source.strip().splitlines()
        self._screen.line(f"[{self.ran}/{self.total}] {first[:100]}{' …' if rest or len(first) > 100 else ''}", "1")

    def _end(self, cell: nbformat.NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        reply = execute_reply["content"]
        if reply["status"] == "ok":
            self.verdict("✓")
        elif "raises-exception" in cell.metadata.get("tags", []):
            self._screen.display(f"{reply['ename']}: {reply['evalue']}")
            self.verdict("✓", ", the error is meant")
        else:
            self._screen.display("\n".join(reply.get("traceback", [])))
            self.verdict("✗")

    def verdict(self, sign: str, remark: str = "") -> None:
        """Close the cell that runs."""
        self._screen.settle()
        seconds = f"{time.monotonic() - self._started:.1f} s"
        self._screen.line(f"{MARGIN}{sign} {seconds}{remark}", "32" if sign == "✓" else "31")


def own_state(folder: Path) -> Path:
    """Make a fresh folder for the sessions of this run, and drop those of earlier runs where nothing lives any more."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if next(marked("CMDOP_STATE_DIR", str(old)), None) is None:
            shutil.rmtree(old)
    return Path(tempfile.mkdtemp(prefix="", dir=folder))


def run(notebook: Path, build: Path, seconds: int) -> int:
    """Execute `notebook`, write what came of it to `build`, and return the exit code."""
    screen = Screen(sys.stdout)
    nb = nbformat.read(notebook, as_version=4)
    sockets = Path(tempfile.mkdtemp())
    runner = Runner(nb, screen, seconds, sockets)
    state = own_state(build.resolve() / "state")
    env = {**os.environ, "CMDOP_STATE_DIR": str(state), "IPYTHONDIR": str(state / "ipython")}
    failure, code = "", 0
    started = time.monotonic()
    try:
        runner.execute(cwd=str(notebook.parent.resolve()), env=env)
    except CellExecutionError as error:
        failure, code = f"{error.ename}: {error.evalue}", 1
    except (CellTimeoutError, DeadKernelError) as error:
        runner.verdict("✗")
        failure, code = ("interrupted", 130) if runner.interrupted else (str(error).splitlines()[0], 1)
    finally:
        end_all("CMDOP_STATE_DIR", str(state))
        shutil.rmtree(sockets)

    executed, page = build / notebook.name, build / notebook.with_suffix(".html").name
    nbformat.write(nb, executed)
    page.write_text(HTMLExporter().from_notebook_node(nb)[0], encoding="utf-8")
    screen.line()
    if failure:
        screen.line(f"✗ {notebook}: cell {runner.ran} of {runner.total} failed: {failure}", "1;31")
    else:
        screen.line(f"✓ {notebook}: {runner.ran} cells in {time.monotonic() - started:.1f} s", "1;32")
    screen.line(f"  {executed}, {page}")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description="Execute a notebook and show its cells while they run.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("build", type=Path, help="the folder for the executed notebook and its HTML")
    parser.add_argument("--timeout", type=int, default=120, metavar="SECONDS", help="for one cell (default: 120)")
    given = parser.parse_args()
    if not given.notebook.is_file():
        parser.error(f"there is no notebook {given.notebook}")
    return run(given.notebook, given.build, given.timeout)


if __name__ == "__main__":
    sys.exit(main())
