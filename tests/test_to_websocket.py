"""Sessions on real WebSockets: uvicorn with FastAPI, and the `websockets` library on either side."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import websockets
import websockets.sync.client
from fastapi import FastAPI, WebSocket
from hypothesis import given
from hypothesis import strategies as st
from live import GO, go, live_terminal, numbered
from webserver import serving
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import serve

from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.client import Terminal
from cmdop_jupyter.errors import Detached, InputTooLong, InvalidRequest, LogDropped
from cmdop_jupyter.reading import Gap
from cmdop_jupyter.runtime import runtime
from cmdop_jupyter.sinks.base import Sink
from cmdop_jupyter.sinks.websocket import MESSAGE_SIZE, messages, to_websocket
from cmdop_jupyter.stream import Stream

MB = 1_000_000
WHOLE = {"max_size": None, "compression": None}  # of a client here


@pytest.fixture
def terminal(state_dir):
    with live_terminal() as terminal:
        yield terminal


@dataclass
class Site:
    """A server that forwards a stream to whoever connects.

    Attributes:
        url: Where; `?offset=` is where to begin.
        options: Of `to_websocket`.
        sinks: One for each that came.
    """

    stream: Stream
    url: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    sinks: list[Sink] = field(default_factory=list)
    results: asyncio.Queue[int] = field(default_factory=asyncio.Queue)

    def connect(self, **options: Any) -> connect:
        return connect(self.url, **{**WHOLE, **options})

    async def forward(self, websocket: Any, offset: int | None) -> None:
        options = self.options if offset is None else {**self.options, "start": offset}
        sink = to_websocket(self.stream, websocket, **options)
        self.sinks.append(sink)
        await sink


@contextlib.asynccontextmanager
async def by_fastapi(stream: Stream, **options: Any) -> AsyncIterator[Site]:
    site, app = Site(stream, options=options), FastAPI()

    @app.websocket("/watch")
    async def watch(websocket: WebSocket, offset: int | None = None) -> None:
        await websocket.accept()
        await site.forward(websocket, offset)

    with contextlib.ExitStack() as stack:
        server = serving(app)
        site.url = f"ws://{await asyncio.to_thread(stack.enter_context, server)}/watch"
        try:
            yield site
        finally:
            await asyncio.to_thread(stack.close)


@contextlib.asynccontextmanager
async def by_websockets(stream: Stream, **options: Any) -> AsyncIterator[Site]:
    site = Site(stream, options=options)

    async def watch(connection: websockets.ServerConnection) -> None:
        path = connection.request.path
        await site.forward(connection, int(path.partition("=")[2]) if "=" in path else None)

    async with serve(watch, "127.0.0.1", 0, compression=None) as server:
        site.url = url_of(server)
        yield site


Serving = Callable[..., contextlib.AbstractAsyncContextManager[Site]]


@pytest.fixture(params=[by_fastapi, by_websockets])
def forwarding(request) -> Serving:
    """Both kinds of server: `async with forwarding(stream, **options) as site`."""
    return request.param


async def rest(connection: ClientConnection) -> bytes:
    """All bytes that come until the other side closes; it must do so as one does at an end."""
    found = [message async for message in connection]
    assert connection.close_code == 1000
    assert all(isinstance(message, bytes) for message in found)
    return b"".join(found)


async def until_bytes(connection: ClientConnection, wanted: bytes, seen: bytes = b"") -> bytes:
    """Receive until `wanted` has come; gives all that came."""
    while wanted not in seen:
        seen += await connection.recv(decode=False)
    return seen


async def event(connection: ClientConnection) -> dict[str, Any]:
    """The next event; bytes in front of it are passed over."""
    while not isinstance(message := await connection.recv(), str):
        pass
    return json.loads(message)


def url_of(server: websockets.Server) -> str:
    return f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/watch"


def small_buffer(connection: ClientConnection) -> None:
    """Let the system receive only a little ahead of the reader; by itself it may take tens of megabytes."""
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)


async def ended(sink: Sink) -> None:
    """Wait for a sink of any loop."""
    await asyncio.to_thread(sink.result)


async def random_bytes(terminal: Terminal, path: Path, size: int) -> Stream:
    await asyncio.to_thread(path.write_bytes, os.urandom(size))
    return await terminal.create(command=f"cat {path}", tty="none")


# -- every byte once


async def test_a_page_gets_every_byte_and_then_a_close(terminal, forwarding):
    stream = await terminal.create(command=f"{GO}; seq 100000", tty="none")
    async with forwarding(stream) as site, site.connect() as page:
        go(stream)

        assert await rest(page) == numbered(1, 100_000)


async def test_64_mb_of_random_bytes_arrive_as_they_were(terminal, forwarding, tmp_path):
    source = tmp_path / "random"
    stream = await random_bytes(terminal, source, 64 * MB)
    digest, longest = hashlib.sha256(), 0
    async with forwarding(stream) as site, site.connect() as page:
        async for message in page:
            digest.update(message)
            longest = max(longest, len(message))

    assert digest.digest() == hashlib.sha256(source.read_bytes()).digest()
    assert longest == MESSAGE_SIZE


async def test_they_arrive_compressed_too(terminal, tmp_path):
    stream = await random_bytes(terminal, tmp_path / "random", MB)
    async with by_fastapi(stream) as site, site.connect(compression="deflate") as page:
        assert await rest(page) == (tmp_path / "random").read_bytes()


async def test_a_client_connection_may_be_what_is_forwarded_to(terminal, tmp_path):
    stream = await random_bytes(terminal, tmp_path / "random", 5 * MB)
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def collect(connection: websockets.ServerConnection) -> None:
        await connection.send("stop here, please\n")  # typed into a command that has no use for it
        got.set_result(b"".join([message async for message in connection]))

    async with serve(collect, "127.0.0.1", 0, **WHOLE) as server, connect(url_of(server)) as connection:
        offset = await to_websocket(stream, connection)

    assert (await got, offset) == ((tmp_path / "random").read_bytes(), 5 * MB)


async def test_a_command_writes_to_both_channels_and_the_page_gets_the_log(terminal, forwarding):
    stream = await terminal.create(command="for i in {1..500}; do echo $i; echo $i >&2; done", tty="none")
    async with forwarding(stream) as site, site.connect() as page:
        got = await rest(page)

    assert got == stream.read()
    assert len(got) == 2 * len(numbered(1, 500))


async def test_a_page_may_have_one_channel(terminal, forwarding):
    stream = await terminal.create(command="for i in {1..500}; do echo out; echo $i >&2; done", tty="none")
    async with forwarding(stream, channel="stderr") as site, site.connect() as page:
        assert await rest(page) == numbered(1, 500)


async def test_ten_pages_watch_one_session(terminal, forwarding):
    stream = await terminal.create(command=f"{GO}; seq 200000", tty="none")
    async with forwarding(stream) as site, contextlib.AsyncExitStack() as stack:
        pages = [await stack.enter_async_context(site.connect()) for _ in range(10)]
        go(stream)

        assert set(await asyncio.gather(*map(rest, pages))) == {numbered(1, 200_000)}
        for sink in site.sinks:
            await ended(sink)
    assert [sink.state for sink in site.sinks] == ["ended"] * 10


# -- cutting; pure

PIECES = st.lists(
    st.one_of(
        st.binary(max_size=5),
        st.sampled_from([MESSAGE_SIZE - 1, MESSAGE_SIZE, MESSAGE_SIZE + 1, 3 * MESSAGE_SIZE]).map(lambda n: b"x" * n),
        st.integers(1, 9),  # bytes of a gap
        st.integers(-9, -1),  # bytes of another channel
    ),
    max_size=6,
)


def as_chunks(pieces: list[bytes | int], at: int) -> tuple[list[Chunk], int]:
    """What a sink hands on of that, from `at` on, and where it ends."""
    chunks: list[Chunk] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            chunks.append(Chunk(at, "stdout", 0, 0, piece))
            at += len(piece)
        else:
            chunks += [Gap(at, at + piece)] if piece > 0 else []
            at += abs(piece)
    return chunks, at


@given(batches=st.lists(PIECES, max_size=3), begin=st.integers(0, 3), events=st.booleans())
def test_messages_are_the_bytes_however_they_came(batches, begin, events):
    at, place, found, wanted = begin, begin, [], b""
    for batch in batches:
        chunks, place = as_chunks(batch, place)
        wanted += b"".join(chunk.data for chunk in chunks)
        sent, at = messages(chunks, at, events=events)
        found += sent

    assert b"".join(one for one in found if isinstance(one, bytes)) == wanted
    assert all(0 < len(one) <= MESSAGE_SIZE for one in found if isinstance(one, bytes))
    assert events or all(isinstance(one, bytes) for one in found)


@given(pieces=PIECES, begin=st.integers(0, 3))
def test_a_page_that_counts_knows_the_place_of_each_byte(pieces, begin):
    chunks, _ = as_chunks(pieces, begin)
    wanted = {chunk.offset + i: chunk.data[i] for chunk in chunks for i in range(len(chunk.data))}

    at, seen = begin, {}
    for message in messages(chunks, begin, events=True)[0]:
        if isinstance(message, bytes):
            seen.update({at + i: byte for i, byte in enumerate(message)})
            at += len(message)
        else:
            said = json.loads(message)
            at = said["offset"] if "offset" in said else said["gap"][1]

    assert seen == wanted


# -- what the page sends


async def test_lines_are_typed_once_and_in_order(terminal, forwarding):
    stream = await terminal.create(command="cat", tty="none")
    async with forwarding(stream) as site, site.connect() as page:

        async def type_all() -> None:
            for line in numbered(1, 1000).splitlines(keepends=True):
                await page.send(line)

        _, got = await asyncio.gather(type_all(), until_bytes(page, b"\n1000\n"))

    assert got == numbered(1, 1000)


async def test_a_text_message_is_typed_as_utf_8(terminal, forwarding):
    stream = await terminal.create(command="head -n 1 | od -An -tx1", tty="none")
    async with forwarding(stream) as site, site.connect() as page:
        await page.send("✓\n")

        assert await rest(page) == b" e2 9c 93 0a\n"


async def test_what_a_page_typed_before_it_left_is_typed(terminal, forwarding):
    stream = await terminal.create(command="head -n 2000 | tail -n 1; sleep 1000", tty="none")
    async with forwarding(stream) as site, site.connect() as page:
        for line in numbered(1, 2000).splitlines(keepends=True):
            await page.send(line)
        await page.close()

        await stream.wait_for("^2000$")


async def test_typing_waits_while_the_command_does_not_read(terminal, forwarding, tmp_path):
    flag, data = tmp_path / "read", os.urandom(64 * 1024)
    count = 512
    script = f"until [ -e {flag} ]; do sleep 0.05; done; head -c {count * len(data)} | sha256sum"
    stream = await terminal.create(command=script, tty="none")
    async with forwarding(stream) as site, site.connect() as page:

        async def type_all() -> None:
            for _ in range(count):
                await page.send(data)

        typing = asyncio.ensure_future(type_all())
        await asyncio.wait([typing], timeout=1)
        assert not typing.done()
        flag.touch()
        await typing

        assert await rest(page) == hashlib.sha256(data * count).hexdigest().encode() + b"  -\n"


async def test_a_line_that_is_too_long_is_told_to_on_error_and_the_rest_goes_on(terminal, forwarding):
    stream = await terminal.create(command="head -n 1; echo done")
    errors: asyncio.Queue[BaseException] = asyncio.Queue()
    stream.on_error(errors.put_nowait)
    async with forwarding(stream) as site, site.connect() as page:
        await page.send("x" * 5000 + "\n")
        assert isinstance(await errors.get(), InputTooLong)
        await page.send("short\n")

        assert (await rest(page)).endswith(b"short\ndone\n")


async def test_input_to_a_command_that_has_exited_is_ignored(terminal, forwarding, tmp_path):
    flag, errors = tmp_path / "end", []
    script = f"(until [ -e {flag} ]; do sleep 0.05; done; echo late) & echo early"
    stream = await terminal.create(command=script, tty="none")
    stream.on_error(errors.append)
    await stream
    async with forwarding(stream, events=True) as site, site.connect() as page:
        await page.send(b"anybody?\n")
        await page.send("no event")
        assert "session" in await event(page)
        assert "error" in await event(page)  # it has come to that, and the line in front of it said nothing
        flag.touch()

        assert await event(page) == {"exit": {"code": 0, "signal": None}}
    assert errors == []


@pytest.mark.parametrize("mode", ["input=False", "observer"])
async def test_a_page_that_only_watches_is_not_heard(terminal, forwarding, mode):
    made = await terminal.create(command=f"{GO}; echo $REPLY", tty="none")
    watching, options = made, {"input": False}
    if mode == "observer":
        watching, options = terminal.stream(mode="observer"), {}
        await watching.attach(made.session_id)
    async with forwarding(watching, events=True, **options) as site, site.connect() as page:
        await page.send(b"mine\n")
        await page.send(json.dumps({"signal": "KILL"}))
        first, *errors = [await event(page) for _ in range(3)]
        await made.send_input("yours\n")
        await ended(site.sinks[0])

    assert first == {"session": made.session_id, "offset": 0}
    assert errors == [{"error": "what you send is not typed: this page only watches"}] * 2
    assert (made.text(), str(made.exit)) == ("\n", "exit 0")


# -- events


async def test_a_page_may_resize_and_type_into_a_shell(terminal, forwarding):
    stream = await terminal.create()
    async with forwarding(stream, events=True) as site, site.connect() as page:
        assert await event(page) == {"session": stream.session_id, "offset": 0}
        await page.send(json.dumps({"resize": [91, 33]}))
        script = "until [ \"$(stty size)\" = '33 91' ]; do sleep 0.05; done; echo re''sized; exit 3\n"
        await page.send(json.dumps({"input": script}))

        await until_bytes(page, b"resized\r\n")
        assert await event(page) == {"exit": {"code": 3, "signal": None}}
        await page.wait_closed()
    assert page.close_code == 1000


async def test_a_signal_overtakes_what_the_command_does_not_read(terminal, forwarding):
    stream = await terminal.create(command="exec sleep 1000", tty="none")
    async with forwarding(stream, events=True) as site, site.connect() as page:
        await page.send(b"x" * 100_000)
        await page.send(json.dumps({"signal": "TERM"}))

        assert await event(page) == {"session": stream.session_id, "offset": 0}
        assert await event(page) == {"exit": {"code": None, "signal": "TERM"}}


@pytest.mark.parametrize(
    "said",
    [
        "hello",
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        '{"input": 1}',
        '{"input": "\\ud800"}',
        '{"input": "a", "signal": "TERM"}',
        '{"resize": [80]}',
        '{"resize": [80, 0]}',
        '{"resize": ["80", "24"]}',
        '{"signal": "NOPE"}',
        '{"exit": {}}',
    ],
)
async def test_what_is_no_event_is_told_and_ends_nothing(terminal, said):
    stream = await terminal.create(command="head -n 1", tty="none")
    async with by_websockets(stream, events=True) as site, site.connect() as page:
        await page.send(said)
        assert await event(page) == {"session": stream.session_id, "offset": 0}
        assert list(await event(page)) == ["error"]
        await page.send(json.dumps({"input": "go on\n"}))

        assert await until_bytes(page, b"\n") == b"go on\n"


async def test_a_gap_is_an_event(terminal, forwarding):
    stream = await terminal.create(command=f"{GO}; seq 100000; {GO}", tty="none")
    await stream.limit(64 * 1024)
    go(stream)
    await stream.wait_for("^100000$")
    errors: asyncio.Queue[BaseException] = asyncio.Queue()
    stream.on_error(errors.put_nowait)
    async with forwarding(stream, events=True) as site, site.connect() as page:
        assert await event(page) == {"session": stream.session_id, "offset": 0}

        assert await event(page) == {"gap": list(stream.status.dropped)}
        assert isinstance(await errors.get(), LogDropped)


async def test_without_events_a_gap_is_no_message(terminal, forwarding):
    stream = await terminal.create(command=f"{GO}; seq 100000", tty="none")
    await stream.limit(64 * 1024)
    go(stream)
    await stream
    stream.on_error(lambda error: None)
    async with forwarding(stream) as site, site.connect() as page:
        assert await rest(page) == stream.read()


# -- slow pages, and those that leave


async def test_a_page_that_stops_reading_delays_nobody_and_costs_no_memory(terminal, forwarding, tmp_path):
    size, source, all_there = 100 * MB, tmp_path / "random", threading.Event()
    stream = await random_bytes(terminal, source, size)
    await stream
    async with forwarding(stream) as site, site.connect(max_queue=1) as page:
        small_buffer(page)
        await page.recv()
        before, seen = psutil.Process().memory_info().rss, 0

        def count(data: bytes) -> None:
            nonlocal seen
            seen += len(data)
            if seen >= size:
                all_there.set()

        stream.on_output(count, thread=True)
        await asyncio.to_thread(all_there.wait)
        more = psutil.Process().memory_info().rss - before
        (sink,) = site.sinks
        behind = sink.lag
        page.transport.abort()
        await ended(sink)

    assert behind > size / 2
    assert more < 32 * MB
    assert sink.state == "closed"


async def test_a_page_that_leaves_and_comes_back_goes_on_where_it_was(terminal, forwarding, tmp_path):
    stream, got = await random_bytes(terminal, tmp_path / "random", 30 * MB), b""
    async with forwarding(stream) as site:
        for share in range(1, 5):
            async with connect(f"{site.url}?offset={len(got)}", **WHOLE) as page:
                small_buffer(page)
                while len(got) < share * 3 * MB:
                    got += await page.recv()
                page.transport.abort()
        async with connect(f"{site.url}?offset={len(got)}", **WHOLE) as page:
            got += await rest(page)
        for sink in site.sinks:
            await ended(sink)

    assert got == (tmp_path / "random").read_bytes()
    assert [sink.state for sink in site.sinks] == ["closed"] * 4 + ["ended"]


async def test_a_page_of_one_channel_knows_where_to_go_on(terminal, forwarding):
    script = "for i in {1..2000}; do echo $i; echo $i >&2; done"
    stream = await terminal.create(command=script, tty="none")
    await stream
    got, at = b"", 0
    async with forwarding(stream, channel="stderr", events=True) as site:
        while True:
            async with connect(f"{site.url}?offset={at}", **WHOLE) as page:
                for _ in range(7):
                    message = await page.recv()
                    if isinstance(message, bytes):
                        got, at = got + message, at + len(message)
                    elif "exit" in message:
                        assert got == numbered(1, 2000)
                        return
                    else:
                        at = json.loads(message)["offset"]
                page.transport.abort()


async def test_a_page_may_leave_a_session_that_says_nothing(terminal, forwarding):
    stream = await terminal.create(command=f"echo hi; {GO}", tty="none")
    async with forwarding(stream) as site:
        async with site.connect() as page:
            await until_bytes(page, b"hi\n")
            (sink,) = site.sinks
            await sink.reached(3)

        assert await asyncio.to_thread(sink.result) == 3
    assert (sink.state, sink.offset, sink.errors) == ("closed", 3, 0)


async def test_a_page_may_come_when_all_is_over(terminal, forwarding):
    stream = await terminal.create(command="echo hi", tty="none")
    await stream
    async with forwarding(stream) as site, site.connect() as page:
        assert await rest(page) == b"hi\n"


async def test_a_closed_sink_leaves_the_websocket_open(terminal):
    stream = await terminal.create(command=f"echo hi; {GO}", tty="none")
    app, states, closed = FastAPI(), [], threading.Event()

    @app.websocket("/")
    async def watch(websocket: WebSocket) -> None:
        await websocket.accept()
        with to_websocket(stream, websocket) as sink:
            await sink.reached(3)
        await sink
        states.append(sink.state)
        closed.set()
        await websocket.send_bytes(b"mine again: " + await websocket.receive_bytes())
        await websocket.close()

    with serving(app) as address:
        async with connect(f"ws://{address}/") as page:
            assert await page.recv() == b"hi\n"
            await asyncio.to_thread(closed.wait)
            await page.send(b"you")

            assert await rest(page) == b"mine again: you"
    assert states == ["closed"]


async def test_when_the_loop_of_a_websocket_ends_so_does_the_sink(terminal):
    stream = await terminal.create(command=f"echo hi; {GO}", tty="none")

    async def forward(url: str) -> Sink:
        connection = await connect(url)
        sink = to_websocket(stream, connection)
        await sink.reached(3)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:  # as `asyncio.run` does at its end
            task.cancel()
        await connection.close()
        return sink

    async def read(connection: websockets.ServerConnection) -> None:
        await connection.wait_closed()

    async with serve(read, "127.0.0.1", 0) as server:
        sink = await asyncio.to_thread(asyncio.run, forward(url_of(server)))

    assert (await sink, sink.state) == (3, "closed")


async def test_when_somebody_else_receives_the_page_is_not_heard_but_sees(terminal):
    stream = await terminal.create(command=f"{GO}; echo hi", tty="none")
    errors: asyncio.Queue[BaseException] = asyncio.Queue()
    stream.on_error(errors.put_nowait)

    async def watch(connection: websockets.ServerConnection) -> None:
        mine = asyncio.ensure_future(connection.recv())
        await asyncio.sleep(0)
        await to_websocket(stream, connection)
        with contextlib.suppress(websockets.ConnectionClosed):
            await mine

    async with serve(watch, "127.0.0.1", 0) as server, connect(url_of(server)) as page:
        assert isinstance(await errors.get(), websockets.ConcurrencyError)
        go(stream)

        assert await rest(page) == b"hi\n"


# -- what cannot be used


@pytest.mark.parametrize("thing", [None, object(), "ws://127.0.0.1", socket.socket])
async def test_what_is_no_websocket_is_refused(terminal, thing):
    stream = await terminal.create(command="true")

    with pytest.raises(InvalidRequest, match=r"Starlette or FastAPI, or .* `websockets`"):
        to_websocket(stream, thing)


async def test_a_blocking_connection_is_refused(terminal):
    stream = await terminal.create(command="true")

    with pytest.raises(InvalidRequest, match="asyncio connection"):
        to_websocket(stream, websockets.sync.client.ClientConnection.__new__(websockets.sync.client.ClientConnection))


@pytest.fixture
async def page() -> AsyncIterator[ClientConnection]:
    """A connection to somebody who says nothing."""

    async def wait(connection: websockets.ServerConnection) -> None:
        await connection.wait_closed()

    async with serve(wait, "127.0.0.1", 0) as server, connect(url_of(server)) as connection:
        yield connection


async def test_without_a_loop_it_is_refused(terminal, page):
    stream = await terminal.create(command="true")

    with pytest.raises(InvalidRequest, match="no running loop"):
        await asyncio.to_thread(to_websocket, stream, page)


async def test_where_streams_are_served_it_is_refused(terminal, page):
    stream = await terminal.create(command="true")

    async def call() -> None:
        to_websocket(stream, page)

    with pytest.raises(InvalidRequest, match="loop of its websocket"):
        await asyncio.wrap_future(runtime().submit(call()))


async def test_a_stream_that_is_not_attached_is_refused(terminal, page):
    with pytest.raises(Detached):
        to_websocket(terminal.stream(), page)


@pytest.mark.parametrize("options", [{"channel": "both"}, {"start": -1}, {"start": "then"}])
async def test_options_that_make_no_sense_are_refused(terminal, page, options):
    stream = await terminal.create(command="true")

    with pytest.raises(InvalidRequest):
        to_websocket(stream, page, **options)


async def test_a_websocket_that_is_not_accepted_is_refused(terminal):
    stream = await terminal.create(command="true")
    app, said = FastAPI(), []

    @app.websocket("/")
    async def watch(websocket: WebSocket) -> None:
        try:
            to_websocket(stream, websocket)
        except InvalidRequest as error:
            said.append(str(error))
        await websocket.accept()

    with serving(app) as address:
        async with connect(f"ws://{address}/"):
            pass
    assert said == ["this WebSocket is not accepted yet: `await websocket.accept()` first"]
