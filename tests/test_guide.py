"""Each example of the streaming guide, as written: only what it leaves open is supplied.

On a machine behind sshd, and on one that is on a relay.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import sys
import tempfile
import types
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from clients import configured
from fastapi import FastAPI, WebSocket
from live import until
from reach import ssh_to
from relays import relay
from served import Served
from sshd import Sshd, login_user
from starlette.websockets import WebSocketDisconnect
from webserver import serving
from websockets.asyncio.client import connect

from cmdop_jupyter import AsyncCMDOPClient
from cmdop_jupyter.handlers import BufferedHandler
from cmdop_jupyter.streams import streams

EXAMPLES = Path(__file__).parent / "guide"

PROFILE = """
PS1='$ '
cat() { command cat "$HOME$1"; }
tail() { command tail "$1" "$HOME$2"; }
"""
BUILD = """#!/bin/sh
for step in Installing Compiling Testing; do echo "[Step] $step..."; done
echo 'naïve ✓'; echo build error >&2; echo BUILD DONE
"""
BINARY = bytes(range(256)).replace(b"\n", b"") * 100  # a terminal makes \r\n of \n


FILES = {
    ".bash_profile": PROFILE.encode(),
    "long_build.sh": BUILD.encode(),
    "path/to/binary.file": BINARY,
    "var/log/app.log": b"INFO up\nWARN slow\nERROR broken\nFATAL gone\n",
}
Way = tuple[str, str, Callable[[], AsyncCMDOPClient]]  # what cmdop.toml says, the API key, and what makes a client


def furnish(home: Path) -> None:
    """Put there what the examples ask for: a build, a log, a binary file."""
    for name, data in FILES.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o755)
    (home / "app").mkdir()


@contextlib.contextmanager
def behind_sshd() -> Iterator[Way]:
    with login_user("bash") as user, Sshd() as sshd:
        furnish(user.home)
        words = ssh_to(sshd, user.name)
        yield f"link = {list(words)!r}".replace("'", '"'), "", AsyncCMDOPClient


@contextlib.contextmanager
def on_a_relay() -> Iterator[Way]:
    with tempfile.TemporaryDirectory() as folder, relay(Path(folder, "relay")) as it:
        home = Path(folder, "home")
        home.mkdir()
        furnish(home)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(home))
            patch.setenv("SHELL", "/bin/bash")
            machine = Served(it.machine_key("my-server"), Path(folder))
        try:
            key = it.api_key("op1")
            yield 'relay = "my-server"', key, lambda: AsyncCMDOPClient.remote(key)
        finally:
            machine.end()


WAYS = {"sshd": behind_sshd, "relay": on_a_relay}


@pytest.fixture(scope="module", params=WAYS)
def far(request: pytest.FixtureRequest) -> Iterator[Way]:
    """How my-server is reached."""
    with WAYS[request.param]() as way:
        yield way


@pytest.fixture
async def client(far, state_dir, tmp_path) -> AsyncIterator[AsyncCMDOPClient]:
    """A client that has my-server; what runs there ends with the test."""
    said, key, make = far
    with configured(tmp_path / "configured", **{"my-server": said}), pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMDOP_API_KEY", key)  # for examples that make a client of their own
        async with make() as client:
            yield client
            for stream in list(streams.values()):
                stream.close()
            for session in await client.terminal.list_sessions("my-server"):
                await client.terminal.stop(session.session_id)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Where the examples write their files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass
class Example:
    """An example of the guide, running in a module of its own.

    Attributes:
        names: What is supplied, and what it makes.
        printed: What it has printed.
    """

    name: str
    names: dict[str, Any] = field(default_factory=dict)
    printed: io.StringIO = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        self._more = asyncio.Event()
        self.names = {"asyncio": asyncio, "sys": sys, "print": self._print, **self.names}

    def _print(self, *values: object, **options: Any) -> None:
        print(*values, file=self.printed, **options)
        self._more.set()

    async def run(self) -> None:
        source = (EXAMPLES / f"{self.name}.py").read_text()
        code = compile(source, f"{self.name}.py", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = types.FunctionType(code, self.names)()
        if inspect.iscoroutine(result):
            await result

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """It runs meanwhile; then it is cancelled, for it may well wait for five minutes."""
        task = asyncio.create_task(self.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def until(self, is_so: Callable[[], object]) -> None:
        while not is_so():
            await self._more.wait()
            self._more.clear()

    def supply(self, **names: Any) -> None:
        """Names that the guide leaves open; each call of one may make something so."""
        for name, value in names.items():
            self.names[name] = self._telling(value) if callable(value) else value

    def _telling(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def asynchronous(*args: Any) -> None:
            await function(*args)
            self._more.set()

        def plain(*args: Any) -> None:
            function(*args)
            self._more.set()

        return asynchronous if inspect.iscoroutinefunction(function) else plain


async def attached(client: AsyncCMDOPClient) -> dict[str, Any]:
    """A shell on my-server, and a stream that is attached to it."""
    session = await client.terminal.get_active_session("my-server")
    stream = client.terminal.stream()
    await stream.attach(session.session_id)
    return {"client": client, "session": session, "stream": stream}


async def to_attach(client: AsyncCMDOPClient) -> dict[str, Any]:
    """The same, for examples that attach it themselves."""
    session = await client.terminal.get_active_session("my-server")
    return {"client": client, "session": session, "stream": client.terminal.stream()}


async def test_basic_output_streaming(client):
    example = Example("basic")

    async with example.running():
        await example.until(lambda: "BUILD DONE" in example.printed.getvalue())

    assert "[Step] Compiling...\r\n" in example.printed.getvalue()
    assert "naïve ✓" in example.printed.getvalue()


async def test_async_output_handlers(client):
    example = Example("async_handler", await attached(client))
    saved, sent, alerts = [], [], []

    async def save_to_database(text: str) -> None:
        await asyncio.sleep(0)
        saved.append(text)

    async def send_to_websocket(text: str) -> None:
        sent.append(text)

    async def send_alert(text: str) -> None:
        alerts.append(text)

    example.supply(save_to_database=save_to_database, send_to_websocket=send_to_websocket, send_alert=send_alert)
    await example.run()
    await example.names["stream"].send_input(b"./long_build.sh\n")
    await example.until(lambda: "BUILD DONE" in "".join(sent))

    assert saved == sent
    assert "build error" in "".join(alerts)


async def test_all_output_in_a_buffer(client):
    example = Example("collect", await to_attach(client))

    await example.run()

    assert "long_build.sh" in example.printed.getvalue()
    assert example.names["full_output"].encode() == b"".join(example.names["output_buffer"])


async def test_waiting_for_a_pattern(client):
    example = Example("pattern", await to_attach(client))

    await example.run()
    await example.names["wait_for_prompt"]()

    assert example.printed.getvalue() == "Command completed!\n"


async def test_stdout_apart_from_stderr(client, capfdbinary):
    stream = await client.terminal.create("my-server", "echo to out; echo to err >&2", tty="none")
    example = Example("channels", {"stream": stream})

    await example.run()
    for subscription in stream._subscriptions.all:
        await subscription
    sys.stdout.buffer.flush()
    sys.stderr.buffer.flush()

    assert capfdbinary.readouterr() == (b"to out\n", b"to err\n")


async def test_binary_output(client, here):
    example = Example("binary", await attached(client))
    stream = example.names["stream"]

    await example.run()
    await stream.wait_for(rb"\xfd\xfe\xff", start="begin")
    await until(lambda: BINARY in (here / "output.bin").read_bytes(), lambda: anext(stream.chunks("begin")))


async def test_processing_logs(client):
    example = Example("logs", await to_attach(client))
    notes: list[str] = []

    example.supply(send_notification=notes.append)
    await example.run()
    await example.until(lambda: len(notes) == 2)

    processor = example.names["processor"]
    assert [note.strip() for note in notes] == ["ERROR broken", "FATAL gone"]
    assert (processor.error_count, processor.warning_count) == (2, 1)


async def test_several_handlers(client, here):
    example = Example("several", await attached(client))
    alerts: list[bytes] = []

    example.supply(alert_if_error=alerts.append)
    await example.run()
    await example.names["stream"].send_input(b"./long_build.sh\n")
    await example.until(lambda: "BUILD DONE" in example.printed.getvalue() and b"BUILD DONE" in b"".join(alerts))

    with example.names["log_file"] as file:
        stream = example.names["stream"]
        await until(lambda: file.tell() >= len(b"".join(alerts)), lambda: anext(stream.chunks("begin")))
    assert (here / "session.log").read_bytes().startswith(b"".join(alerts))
    assert example.printed.getvalue().encode().startswith(b"".join(alerts)[: len(example.printed.getvalue())])


async def run_buffered(client: AsyncCMDOPClient, example: Example) -> None:
    before = asyncio.all_tasks()
    await example.run()
    await example.names["stream"].send_input(b"./long_build.sh\n")
    await example.until(lambda: "BUILD DONE" in example.printed.getvalue())
    for task in asyncio.all_tasks() - before:
        if task.get_coro().__qualname__ == "BufferedHandler.run":
            task.cancel()
            await asyncio.wait([task])


async def test_buffered_streaming(client):
    example = Example("buffered", await attached(client))

    await run_buffered(client, example)

    assert "naïve ✓" in example.printed.getvalue()


async def test_forwarding_to_a_websocket(client):
    example = Example("websocket", {"AsyncCMDOPClient": AsyncCMDOPClient})
    await example.run()

    app = FastAPI()

    @app.websocket("/")
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            await example.names["stream_to_websocket"](websocket, "my-server")

    with serving(app) as address:
        seen = await read_page(f"ws://{address}/")

    assert b"[Step] Testing...\r\n" in seen


async def read_page(url: str) -> bytes:
    """What a page sees that types the command."""
    async with connect(url) as page:
        await page.send(b"./long_build.sh\n")
        seen = b""
        while b"BUILD DONE" not in seen:
            seen += await page.recv()
    return seen


async def test_backpressure(client):
    example = Example("backpressure", await attached(client))
    await example.run()
    seen: list[bytes] = []

    async def process(self: Any, data: bytes) -> None:
        seen.append(data)
        example._more.set()

    handler = type("Handler", (example.names["FlowControlledHandler"],), {"process": process})(max_queue=1000)
    example.names["stream"].on_output(handler.add)
    consuming = asyncio.create_task(handler.consume())
    await example.names["stream"].send_input(b"./long_build.sh\n")
    await example.until(lambda: b"BUILD DONE" in b"".join(seen))
    consuming.cancel()
    await asyncio.wait([consuming])

    assert b"[Step] Compiling..." in b"".join(seen)


async def test_output_that_is_flushed_at_once(client):
    example = Example("flush", await attached(client))

    await example.run()
    example.names["stream"].on_output(example.names["on_output"])
    await example.names["stream"].send_input(b"./long_build.sh\n")
    await example.until(lambda: "BUILD DONE" in example.printed.getvalue())


async def test_async_handlers_for_io(client):
    """Both ways work; the second definition is the one that stays."""
    example = Example("sync_or_async", await attached(client))
    first, second = (EXAMPLES / "sync_or_async.py").read_text().split("# Avoid")
    saved: dict[str, list[bytes]] = {"async": [], "sync": []}

    async def save_to_db(data: bytes) -> None:
        saved["async"].append(data)

    example.supply(save_to_db=save_to_db, save_to_db_sync=saved["sync"].append)
    stream = example.names["stream"]
    exec(first, example.names)
    stream.on_output_async(example.names["on_output"])
    exec("#" + second, example.names)
    stream.on_output(example.names["on_output"])
    await stream.send_input(b"./long_build.sh\n")
    await example.until(lambda: all(b"BUILD DONE" in b"".join(pieces) for pieces in saved.values()))

    first, second = sorted((b"".join(pieces) for pieces in saved.values()), key=len)
    assert second.startswith(first)  # one of them may have had the prompt behind it already


async def test_short_flush_intervals(client):
    """With our class of that name."""
    example = Example("buffering", await attached(client))
    example.names["BufferedHandler"] = BufferedHandler
    await example.run()
    seen: list[bytes] = []

    async def process_batch(batch: list[bytes]) -> None:
        seen.extend(batch)
        example._more.set()

    handler = example.names["handler"]
    handler.process_batch = process_batch
    async with handler:
        example.names["stream"].on_output(handler.add)
        await example.names["stream"].send_input(b"./long_build.sh\n")
        await example.until(lambda: b"BUILD DONE" in b"".join(seen))

    assert b"[Step] Installing..." in b"".join(seen)


def test_every_example_is_tested():
    names = [path.stem for path in EXAMPLES.glob("*.py")]

    assert [name for name in names if f'"{name}"' not in Path(__file__).read_text()] == []
    assert len(names) == 14
