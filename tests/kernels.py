"""A real ipykernel with a front end that keeps every message: code in, what a notebook would show out.

Knows nothing of the package. Everything here may be called from async tests as well; it blocks.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager


@dataclass(frozen=True)
class Message:
    """One message that the kernel published.

    Attributes:
        time: When it came, by `time.monotonic()`.
        kind: `stream`, `display_data`, `comm_msg` …
        content: As the messaging protocol has it.
        parent: The id of the request it belongs to; "" for none.
        buffers: Binary parts, as ipywidgets uses them.
    """

    time: float
    kind: str
    content: dict[str, Any]
    parent: str
    buffers: list[bytes]

    @property
    def size(self) -> int:
        """Bytes of text and buffers in it, about what it costs on the way to a page."""
        return len(repr(self.content)) + sum(len(buffer) for buffer in self.buffers)


@dataclass(frozen=True)
class Error:
    """What a cell raised: its name, its text, and the traceback as the page shows it."""

    ename: str
    evalue: str
    traceback: list[str]

    def __str__(self) -> str:
        return "\n".join(self.traceback) or f"{self.ename}: {self.evalue}"


class Cell:
    """One request to execute code, and what has come of it so far; asked again later it may tell more.

    Attributes:
        code: What was sent.
        sent: When, by `time.monotonic()`.
        seconds: From there to the reply; None while there is none.
        reply: The reply's content; None while there is none.
    """

    def __init__(self, kernel: Kernel, code: str, msg_id: str) -> None:
        self.code, self.msg_id = code, msg_id
        self.sent = time.monotonic()
        self.seconds: float | None = None
        self.reply: dict[str, Any] | None = None
        self._kernel = kernel

    def wait(self, timeout: float = 30) -> Cell:
        """Wait for the reply and for all that was published before it, and return this cell.

        Raises:
            TimeoutError: The cell goes on.
        """
        self._kernel._await_reply(self, timeout)
        return self

    @property
    def messages(self) -> list[Message]:
        """What was published with this request as its parent."""
        return list(self._kernel.by_request.get(self.msg_id, ()))

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """The cell's outputs as a page shows them now; displays renewed by any later cell included."""
        outputs: list[dict[str, Any]] = []
        clear_first = False
        for message in self._kernel.iopub:
            content = message.content
            if message.kind == "update_display_data":
                for output in outputs:
                    if output.get("display_id") == content["transient"].get("display_id"):
                        output.update(data=content["data"], metadata=content["metadata"])
            elif message.parent != self.msg_id:
                continue
            elif message.kind == "clear_output":
                clear_first = content["wait"]
                if not clear_first:
                    outputs.clear()
            elif message.kind in ("stream", "display_data", "execute_result", "error"):
                if clear_first:
                    outputs.clear()
                    clear_first = False
                _append(outputs, message)
        return outputs

    @property
    def stdout(self) -> str:
        """All that was printed, cleared or not."""
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        """All that went to the error stream, cleared or not."""
        return self._stream("stderr")

    @property
    def text(self) -> str:
        """What the saved file has as text: streams and the plain text of displays, one after the other."""
        shown = [output for output in self.outputs if output["output_type"] != "error"]
        return "\n".join(out["text"] if "text" in out else out["data"].get("text/plain", "") for out in shown)

    @property
    def error(self) -> Error | None:
        """What was raised; None when nothing was, or nothing yet."""
        for message in self.messages:
            if message.kind == "error":
                return Error(message.content["ename"], message.content["evalue"], message.content["traceback"])
        return None

    def _stream(self, name: str) -> str:
        return "".join(m.content["text"] for m in self.messages if m.kind == "stream" and m.content["name"] == name)

    def __repr__(self) -> str:
        status = self.reply["status"] if self.reply else "not replied"
        first_line = self.code.strip().partition("\n")[0]
        return f"<Cell {first_line!r}: {status}; {self.text[-200:]!r}>"


def _append(outputs: list[dict[str, Any]], message: Message) -> None:
    content = message.content
    last = outputs[-1] if outputs else {}
    if message.kind == "stream" and last.get("name") == content["name"]:
        last["text"] += content["text"]
        return
    output = {"output_type": message.kind, **content}
    display_id = output.pop("transient", {}).get("display_id")
    outputs.append(output | ({"display_id": display_id} if display_id else {}))


class _ThisPython(KernelSpecManager):
    """Knows one kernel: ipykernel in the Python that runs this, whatever kernels are registered on this machine."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3 (ipykernel)", language="python")


class Kernel:
    """A kernel of this Python, and a page without a picture that listens to it. Use it as a context manager.

    Args:
        folder: An empty folder: the kernel's working directory is `work` in it, its configuration `ipython`, `jupyter`.
        env: Added to this process's environment.

    Attributes:
        iopub: Every message published so far, over all restarts, oldest first. Read it at any time.
        by_request: The same by the request they belong to.
        comms: The widgets and other comms that are open: id to state, as merged from all messages.
        work: The kernel's working directory.
    """

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        self.iopub: list[Message] = []
        self.by_request: dict[str, list[Message]] = {}
        self.comms: dict[str, dict[str, Any]] = {}
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        own = {name: str(folder / "jupyter" / name) for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")}
        self._env = {
            **os.environ,
            **{f"JUPYTER_{name}": path for name, path in own.items()},
            "IPYTHONDIR": str(folder / "ipython"),
            **(env or {}),
        }
        self._sockets = Path(tempfile.mkdtemp(prefix="k"))  # a Unix socket's path must be short, so not in `folder`
        self._manager = KernelManager(
            kernel_spec_manager=_ThisPython(), transport="ipc", connection_file=str(self._sockets / "kernel.json")
        )
        self._client: BlockingKernelClient
        self._listener: threading.Thread | None = None
        self._listening = False
        self._news = threading.Condition()
        self._idle: set[str] = set()  # requests whose last message has come
        self._replies: dict[str, tuple[float, dict[str, Any]]] = {}

    def __enter__(self) -> Kernel:
        try:
            self._manager.start_kernel(env=self._env, cwd=str(self.work))
            self._connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._disconnect()
        if self._manager.has_kernel:
            self._manager.shutdown_kernel(now=True)
        shutil.rmtree(self._sockets, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Of the kernel's process."""
        provisioner = self._manager.provisioner
        assert provisioner is not None
        return int(provisioner.pid)  # type: ignore[attr-defined]

    def start(self, code: str) -> Cell:
        """Send code and return at once; the kernel runs cells in the order they were sent."""
        sent = time.monotonic()
        cell = Cell(self, code, self._client.execute(code, allow_stdin=False))
        cell.sent = sent
        return cell

    def run(self, code: str, timeout: float = 30) -> Cell:
        """Send code and wait until it is done, whether it raised or not.

        Raises:
            TimeoutError: The cell goes on.
        """
        return self.start(code).wait(timeout)

    def wait_until(self, predicate: Callable[[], Any], timeout: float = 30) -> Any:
        """Return what `predicate` gives once that is true; it is asked at each message, and 20 times a second.

        Raises:
            TimeoutError: With the newest messages in its text.
        """
        deadline = time.monotonic() + timeout
        with self._news:
            while not (result := predicate()):
                left = deadline - time.monotonic()
                if left <= 0:
                    newest = "\n".join(f"  {m.kind} {str(m.content)[:300]}" for m in self.iopub[-8:])
                    raise TimeoutError(f"not within {timeout:g} s; the newest messages of the kernel:\n{newest}")
                self._news.wait(min(left, 0.05))
        return result

    def send_comm(self, comm_id: str, content: dict[str, Any]) -> None:
        """Send a widget's custom message, as a page does; a click is `{"event": "click"}`."""
        message = {"comm_id": comm_id, "data": {"method": "custom", "content": content}}
        self._client.shell_channel.send(self._client.session.msg("comm_msg", message))

    def interrupt(self) -> None:
        """Interrupt as the stop button does: SIGINT to the kernel's process group."""
        self._manager.interrupt_kernel()

    def restart(self) -> None:
        """Restart as the menu does, also after `kill9`. Cells without a reply stay so."""
        self._disconnect()
        self._manager.restart_kernel(now=not self._manager.is_alive())
        self._connect()

    def kill9(self) -> None:
        """Kill the kernel's process and wait until it is gone. `restart` brings a new one."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait_until(lambda: not self._manager.is_alive())

    def _await_reply(self, cell: Cell, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        socket = self._client.shell_channel.socket
        while cell.msg_id not in self._replies:
            left = deadline - time.monotonic()
            if not self._manager.is_alive():
                raise RuntimeError(f"the kernel died while it ran {cell!r}")
            if left <= 0:
                raise TimeoutError(f"no reply within {timeout:g} s to {cell!r}")
            if socket.poll(int(min(left, 0.5) * 1000)):
                _, message = self._client.session.recv(socket)
                self._replies[message["parent_header"].get("msg_id", "")] = time.monotonic(), message["content"]
        came, cell.reply = self._replies[cell.msg_id]
        cell.seconds = came - cell.sent
        self.wait_until(lambda: cell.msg_id in self._idle, max(deadline - time.monotonic(), 5))

    def _connect(self) -> None:
        self._client = self._manager.client()
        self._client.session.session = uuid.uuid4().hex  # else message ids start anew, and old cells get new outputs
        self._client.start_channels(hb=False)
        self._client.wait_for_ready(timeout=60)
        self._listening = True
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _disconnect(self) -> None:
        if self._listener is None:
            return
        self._listening = False
        self._listener.join()
        self._listener = None
        self.comms.clear()
        self._client.stop_channels()

    def _listen(self) -> None:
        socket = self._client.iopub_channel.socket
        session = self._client.session.clone()
        while self._listening:
            if not socket.poll(50):
                continue
            _, message = session.recv(socket)
            came = Message(
                time.monotonic(),
                message["header"]["msg_type"],
                message["content"],
                message["parent_header"].get("msg_id", ""),
                [bytes(buffer) for buffer in message["buffers"]],
            )
            with self._news:
                self._note(came)
                self._news.notify_all()

    def _note(self, message: Message) -> None:
        self.iopub.append(message)
        self.by_request.setdefault(message.parent, []).append(message)
        content = message.content
        if message.kind == "status" and content["execution_state"] == "idle":
            self._idle.add(message.parent)
        elif message.kind == "comm_open":
            self.comms[content["comm_id"]] = dict(content["data"].get("state", {}))
        elif message.kind == "comm_msg" and content["data"].get("method") == "update":
            self.comms.setdefault(content["comm_id"], {}).update(content["data"]["state"])
        elif message.kind == "comm_close":
            self.comms.pop(content["comm_id"], None)


def result_of(cell: Cell, kind: str = "text/plain") -> str:
    """What a cell gave, as that kind of text."""
    (result,) = [output for output in cell.outputs if output["output_type"] == "execute_result"]
    return str(result["data"][kind])


def html_of(cell: Cell) -> str:
    """The HTML of what a cell gave."""
    return result_of(cell, "text/html")
