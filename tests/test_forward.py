"""Ports here that lead to ports there: a real service answers through a real link, also across a cut."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.server
import os
import signal
import stat
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from reach import own_places, ssh_to
from services import PIECE, Listen, echo, listening
from sshd import Sshd

from cmdop_jupyter.client import Terminal
from cmdop_jupyter.errors import Detached, InvalidRequest
from cmdop_jupyter.machines.local import LocalMachine
from cmdop_jupyter.machines.presets import Place
from cmdop_jupyter.machines.stdio import StdioMachine
from cmdop_jupyter.runtime import runtime
from cmdop_jupyter.stream import Stream

GATE = """#!/bin/sh
[ -e "$0.open" ] || { echo "the gate is shut" >&2; exit 1; }
exec "$@"
"""
BODIES = [os.urandom(1_000_000 + number) for number in range(50)]
BIG = os.urandom(20_000_000)
STAY = "exec sleep 1000"


class Far:
    """A machine behind a gate that can be shut, and a session there."""

    def __init__(self, folder: Path, kind: str, command: tuple[str, ...]) -> None:
        gate = folder / "gate"
        gate.write_text(GATE)
        gate.chmod(gate.stat().st_mode | stat.S_IXUSR)
        self._open = folder / "gate.open"
        self._open.touch()
        self.machine = StdioMachine(Place("far", kind, (str(gate), *command)))

    def cut(self) -> None:
        """Kill what the link runs over, and let no other come up."""
        self._open.unlink()
        link = self.machine._link
        assert link is not None
        assert link._process is not None
        os.killpg(link._process.pid, signal.SIGKILL)

    def open(self) -> None:
        self._open.touch()

    async def until(self, *states: str) -> None:
        while (link := self.machine.link).state not in states:
            await on_io(self.machine.link_change(link))


async def on_io(work):
    return await asyncio.wrap_future(runtime().submit(work))


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with Sshd() as sshd:
        yield sshd


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> tuple[str, ...]:
    return (*own_places(tmp_path_factory.mktemp("shell")), "sh", "-c")


@pytest.fixture
def far(request, tmp_path, shell) -> Iterator[Far]:
    """Reached by `sh -c`, or as a test's parameter says."""
    if getattr(request, "param", "sh -c") == "ssh":
        far = Far(tmp_path, "ssh", ssh_to(request.getfixturevalue("sshd")))
    else:
        far = Far(tmp_path, "link", shell)
    yield far
    runtime().wait(far.machine.close())


over_both = pytest.mark.parametrize("far", ["sh -c", "ssh"], indirect=True)


@pytest.fixture
async def stream(far: Far) -> Stream:
    return await Terminal(far.machine).create(command=STAY)


@pytest.fixture(scope="module")
def website() -> Iterator[int]:
    """The port of a web server that has BODIES."""

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = BODIES[int(self.path.strip("/"))]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 100

    with Server(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
async def listen() -> AsyncIterator[Listen]:
    async with listening() as listen:
        yield listen


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return bytes(answer.read())


def port_of(url: str) -> int:
    assert url.startswith("http://127.0.0.1:")
    assert url.endswith("/")
    return int(url.removeprefix("http://127.0.0.1:").removesuffix("/"))


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
    try:
        yield reader, writer
    finally:
        writer.close()


async def is_refused(url: str) -> bool:
    try:
        async with connected(url):
            return False
    except ConnectionRefusedError:
        return True


async def settled(machine: StdioMachine) -> None:
    """Let everything take effect that was asked of the I/O thread, and of the far side."""
    for _ in range(3):
        await on_io(machine.sessions())


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@over_both
async def test_fifty_connections_at_once_are_each_answered(stream, website):
    url = await stream.forward(website)

    async def fetch(number: int) -> str:
        async with connected(url) as (reader, writer):
            writer.write(b"GET /%d HTTP/1.0\r\n\r\n" % number)
            answer = await reader.read(-1)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert b" 200 " in head
            return digest(body)

    found = await asyncio.gather(*(fetch(number) for number in range(len(BODIES))))

    assert found == [digest(body) for body in BODIES]


@over_both
async def test_across_a_cut_open_connections_break_and_new_ones_wait(far, stream, website, listen):
    url, echoing = await stream.forward(website), await stream.forward(await listen(echo))
    assert digest(await asyncio.to_thread(get, f"{url}1")) == digest(BODIES[1])
    async with connected(echoing) as (reader, writer):
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"

        far.cut()

        with pytest.raises(ConnectionResetError):  # an end would look as if all had come
            await reader.read(-1)

    await far.until("retrying")
    async with connected(echoing) as (reader, writer):
        writer.write(b"meanwhile")
        answer = asyncio.ensure_future(reader.readexactly(9))
        page = asyncio.ensure_future(asyncio.to_thread(get, f"{url}2"))
        assert far.machine.link.state == "retrying"
        assert not answer.done()
        assert not page.done()
        far.open()

        assert await answer == b"meanwhile"
        assert digest(await page) == digest(BODIES[2])
    assert await stream.forward(website) == url


@over_both
async def test_much_goes_both_ways_at_once(stream, listen):
    url = await stream.forward(await listen(echo))

    async with connected(url) as (reader, writer):

        async def send() -> None:
            for at in range(0, len(BIG), PIECE):
                writer.write(BIG[at : at + PIECE])
                await writer.drain()
            writer.write_eof()

        came, _ = await asyncio.gather(reader.read(-1), send())

    assert digest(came) == digest(BIG)


async def until_still(machine: StdioMachine, count: Callable[[], int]) -> int:
    """Wait until a count has not moved while the link answered many times; return it."""
    seen, same = -1, 0
    while same < 50:
        same = same + 1 if count() == seen else 0
        seen = count()
        await on_io(machine.sessions())
    return seen


@over_both
async def test_what_nobody_reads_here_stays_there(far, stream, listen):
    said, end, hashed = 0, 100_000_000, hashlib.sha256()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal said
        while said < end:
            data = os.urandom(PIECE)
            hashed.update(data)
            writer.write(data)
            said += PIECE
            await writer.drain()

    url = await stream.forward(await listen(talk))
    async with connected(url) as (reader, _):
        pausing = reader._transport
        pausing.pause_reading()
        stood = await until_still(far.machine, lambda: said)
        assert stood < 50_000_000  # what the system's own buffers take, of three connections
        end = stood + 10 * PIECE
        pausing.resume_reading()
        came = await reader.read(-1)

    assert len(came) == said
    assert digest(came) == hashed.hexdigest()


@over_both
async def test_what_nobody_reads_there_stays_here(far, stream, listen):
    may_read = asyncio.Event()
    came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def listen_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()
        await may_read.wait()
        reader._transport.resume_reading()
        came.set_result(await reader.read(-1))

    url = await stream.forward(await listen(listen_later))
    async with connected(url) as (_, writer):
        said, end, hashed = 0, 100_000_000, hashlib.sha256()

        async def send() -> None:
            nonlocal said
            while said < end:
                data = os.urandom(PIECE)
                hashed.update(data)
                writer.write(data)
                said += PIECE
                await writer.drain()
            writer.write_eof()

        sending = asyncio.ensure_future(send())
        stood = await until_still(far.machine, lambda: said)
        assert stood < 50_000_000
        end = stood + 10 * PIECE
        may_read.set()
        await sending

        assert digest(await came) == hashed.hexdigest()


async def test_a_connection_may_end_in_one_direction_only(stream, listen):
    async def say_what_came(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(digest(await reader.read(-1)).encode())

    url = await stream.forward(await listen(say_what_came))
    async with connected(url) as (reader, writer):
        writer.write(BODIES[0])
        writer.write_eof()

        assert await reader.read(-1) == digest(BODIES[0]).encode()


async def test_the_far_side_may_end_first_and_go_on_listening(stream, listen):
    came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def end_and_listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        came.set_result(await reader.read(-1))

    url = await stream.forward(await listen(end_and_listen))
    async with connected(url) as (reader, writer):
        assert await reader.read(-1) == b"hello"
        writer.write(BODIES[0])
        writer.write_eof()

        assert digest(await came) == digest(BODIES[0])


async def test_where_nothing_listens_a_connection_is_closed_at_once(stream):
    listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()

    async with connected(await stream.forward(port)) as (reader, _):
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(-1), 10) == b""


@pytest.mark.parametrize("end", [Stream.close, Stream.detach])
async def test_a_port_is_closed_with_its_stream(far, stream, listen, end):
    url = await stream.forward(await listen(echo))
    async with connected(url) as (reader, writer):
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"

        end(stream)
        await settled(far.machine)

        assert await is_refused(url)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
    with pytest.raises(Detached):
        await stream.forward(1)


async def test_a_port_that_was_asked_for_as_the_stream_ended_is_closed_too(far, stream, monkeypatch):
    opened = []
    forward = StdioMachine.forward

    async def remember(self: StdioMachine, port: int):
        opened.append(await forward(self, port))
        return opened[-1]

    monkeypatch.setattr(StdioMachine, "forward", remember)
    asked = stream.forward(4242)
    stream.detach()
    with contextlib.suppress(Detached):
        await asked
    await settled(far.machine)

    for one in opened:
        assert await is_refused(f"http://127.0.0.1:{one.port}/")


async def test_the_same_port_has_the_same_url_however_it_is_asked_for(stream):
    urls = await asyncio.gather(*(stream.forward(4242) for _ in range(10)))
    other = await stream.forward(4243)

    assert set(urls) == {await stream.forward(4242)}
    assert other not in urls


async def test_what_is_no_port_is_refused(stream):
    for port in (0, -1, 65536):
        with pytest.raises(InvalidRequest, match="1 to 65535"):
            await stream.forward(port)


async def test_a_port_of_this_machine_leads_to_itself(website):
    machine = LocalMachine()
    stream = await Terminal(machine).create(command=STAY)

    url = await stream.forward(website)

    assert port_of(url) == website
    assert await asyncio.to_thread(get, f"{url}3") == BODIES[3]
    stream.close()
    assert await asyncio.to_thread(get, f"{url}4") == BODIES[4]
    await on_io(machine.close())
