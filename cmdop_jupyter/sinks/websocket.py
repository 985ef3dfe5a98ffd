"""A session on a WebSocket: its bytes go out as binary messages, what the page sends is typed.

Knows Starlette's `WebSocket` and the asyncio connections of the `websockets` library by what they can do.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from ..agent.log import Chunk
from ..errors import CmdopError, InvalidRequest, SessionOver
from ..reading import Gap, Start
from ..runtime import Pending, runtime
from ..stream import Stream
from ..subscription import LoopClosed, Place
from .base import HasStream, Left, Sink, stream_of

MESSAGE_SIZE = 64 * 1024  # bytes of a message at most
AHEAD = 64 * 1024  # bytes that are taken from the page before the machine has taken those in front of them
CALL_COST = 256  # bytes that a message from the page counts for besides its own: the task that types it
SHARE = 0.005  # seconds of sending after which others on the websocket's loop have their turn
NORMAL = 1000  # the close code of an end as it should be; RFC 6455, section 7.4.1
NO_INPUT = "what you send is not typed: this page only watches"
EVENT_HELP = 'an event is {"input": "text"}, {"resize": [cols, rows]} or {"signal": "INT"}'

Turn = contextlib.AbstractAsyncContextManager[Any]


def to_websocket(
    stream: Stream | HasStream,
    websocket: Any,
    *,
    channel: str | None = None,
    start: Start = None,
    input: bool = True,
    events: bool = False,
) -> Sink:
    """Forward the session to a WebSocket, and what the other side sends to the session.

    Binary messages of up to 64 KiB are the bytes of the log, each once and in order; how they are cut means nothing. A
    slow page slows only itself: its flow control is awaited, and what it has not taken stays in the log. Messages from
    the page are typed: binary ones as they are, text as UTF-8. Typing waits while the command does not read. From an
    observer, or without `input`, they are ignored; so they are once the command has exited.

    When the session has ended and all was sent, the websocket is closed with code 1000 and the sink is `ended`. When
    the page leaves it is `closed`, which is no error: `await sink` gives the offset in both cases. `sink.close()`
    leaves the websocket open. Until then nobody else may receive from it.

    A page that counts the bytes it got goes on where it was:

        @app.websocket("/api")
        async def api(websocket: WebSocket, offset: int = 0):
            await websocket.accept()
            await to_websocket(stream, websocket, start=offset)

    With `events` text messages are JSON; others of the page are refused by an event. From here:

    - `{"session": id, "offset": n}` first, and `{"offset": n}` where the next byte is not the one behind the last (as
      with `channel`): a page is at the newest offset that it was told, plus the bytes it got since;
    - `{"gap": [from, to]}` where the log dropped bytes; it goes on at `to`;
    - `{"exit": {"code": 0, "signal": null}}` at the end; `{"exit": null}` of a session that was lost;
    - `{"error": "…"}` for what the page sent and should not have.

    From the page: `{"input": "text"}`, `{"resize": [cols, rows]}`, `{"signal": "INT"}`. Without `events` a gap is only
    told to the stream's `on_error`.

    Args:
        websocket: A `WebSocket` of Starlette or FastAPI, accepted, or an asyncio connection of `websockets`, of either
            side. To be called on the loop it belongs to.
        channel: Output of `"stdout"`, `"stderr"` or `"tty"` only.
        start: `"begin"`, `"now"`, an offset; by default where the stream began.
        input: Whether the page may type, resize and signal.

    Raises:
        InvalidRequest: It cannot be used so, or there is no running loop.
        Detached: The stream is not attached to a session.
    """
    stream, socket = stream_of(stream), _socket(websocket)
    page = _Page(stream, socket, start, input=input and stream.mode == "operator", events=events)
    sink = Sink("to_websocket", stream, page, start=start, channel=channel)
    page.listen(sink.close)
    return sink


def messages(chunks: list[Chunk], at: int, *, events: bool) -> tuple[list[bytes | str], int]:
    """What to send for `chunks` to a page that is at byte `at` of the log; and where it is then."""
    found: list[bytes | str] = []
    run: list[bytes] = []

    def cut() -> None:
        data = b"".join(run)
        run.clear()
        found.extend(data[begin : begin + MESSAGE_SIZE] for begin in range(0, len(data), MESSAGE_SIZE))

    def tell(**event: Any) -> None:
        if events:
            cut()
            found.append(json.dumps(event))

    for chunk in chunks:
        if isinstance(chunk, Gap):
            tell(gap=[chunk.offset, chunk.end])
        else:
            if chunk.offset != at:
                tell(offset=chunk.offset)
            run.append(chunk.data)
        at = chunk.end
    cut()
    return found, at


class _Socket(Protocol):
    """A WebSocket, on the loop it belongs to."""

    async def send(self, message: bytes | str) -> None:
        """Done when there is room for more. Raises whatever its library does when the page has left."""
        ...

    async def receive(self) -> bytes | str | None:
        """The next message; None: the page has left."""
        ...

    async def arrived(self) -> None:
        """Wait until the page has what was sent, where there is a way to know."""
        ...

    async def close(self) -> None: ...


class _Starlette:
    def __init__(self, websocket: Any) -> None:
        self._websocket = websocket

    async def send(self, message: bytes | str) -> None:
        await (self._websocket.send_text if isinstance(message, str) else self._websocket.send_bytes)(message)

    async def receive(self) -> bytes | str | None:
        try:
            message = await self._websocket.receive()
        except RuntimeError:  # somebody else has seen it leave
            return None
        if message["type"] != "websocket.receive":
            return None
        data: bytes | None = message.get("bytes")
        text: str = message.get("text") or ""
        return text if data is None else data

    async def arrived(self) -> None:
        return None

    async def close(self) -> None:
        await self._websocket.close(NORMAL)


class _Websockets:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def send(self, message: bytes | str) -> None:
        await self._connection.send(message)

    async def receive(self) -> bytes | str | None:
        try:
            message: bytes | str = await self._connection.recv()
        except Exception:
            if self._connection.close_code is None:  # open: somebody else receives from it
                raise
            return None
        return message

    async def arrived(self) -> None:
        await (await self._connection.ping())

    async def close(self) -> None:
        await self._connection.close(NORMAL)


def _socket(websocket: Any) -> _Socket:
    if all(_is_async(websocket, name) for name in ("send_bytes", "send_text", "receive")):
        if getattr(getattr(websocket, "application_state", None), "name", "") == "CONNECTING":
            raise InvalidRequest("this WebSocket is not accepted yet: `await websocket.accept()` first")
        return _Starlette(websocket)
    if all(_is_async(websocket, name) for name in ("send", "recv", "ping")):
        return _Websockets(websocket)
    raise InvalidRequest(
        f"to_websocket takes a WebSocket of Starlette or FastAPI, or an asyncio connection of the `websockets` "
        f"library, not {websocket!r}"
    )


def _is_async(websocket: Any, name: str) -> bool:
    return inspect.iscoroutinefunction(getattr(websocket, name, None))


class _Page:
    """The other side: what a `Sink` hands it is sent on the websocket's loop, one visit there a batch."""

    def __init__(self, stream: Stream, socket: _Socket, start: Start, *, input: bool, events: bool) -> None:
        if runtime().here():
            raise InvalidRequest("to_websocket is called on the loop of its websocket, not where streams are served")
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise InvalidRequest(
                "there is no running loop: call to_websocket on the loop of its websocket, as in the endpoint itself"
            ) from None
        self._stream, self._session, self._machine = stream, stream.facts, stream._machine
        self._socket, self._input, self._events = socket, input, events
        self._begin = stream._start_of(start)
        self._place = Place(thread=False)
        self._at = 0
        self._left = self._over = False
        self._greeted = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()  # on its loop
        self._owed, self._room = 0, asyncio.Event()  # what was received and is not typed yet
        self._control = asyncio.Lock()

    def listen(self, leave: Callable[[], None]) -> None:
        """Receive from now on, and call `leave` when the page has left. On its loop."""
        self._keep(self._loop.create_task(self._listen(leave)))

    # -- to the page

    async def resume(self) -> int:
        self._at = await self._begin()
        first = json.dumps({"session": self._session.id, "offset": self._at})
        await self._there(functools.partial(self._greet, [first] if self._events else []))
        return self._at

    async def take(self, chunks: list[Chunk], end: int) -> None:
        found, self._at = messages(chunks, self._at, events=self._events)
        if found:
            await self._there(functools.partial(self._send, found))

    async def finish(self) -> None:
        how = (await self._machine.status(self._session.id)).exit
        last = {"exit": None if how is None else {"code": how.code, "signal": how.signal}}
        await self._there(functools.partial(self._part, [json.dumps(last)] if self._events else []))

    async def close(self) -> None:
        self._over = True
        with contextlib.suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self._stop)

    async def _there(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it on the websocket's loop. Raises Left when it fails, which it only does when the page has left."""
        failed: list[BaseException | None] = []

        def after(error: BaseException | None) -> bool:
            failed.append(error)
            return False

        try:
            await self._place.run([functools.partial(self._visit, work)], after)
        except LoopClosed:
            raise Left from None
        if failed[0] is not None:
            raise Left from failed[0]

    async def _visit(self, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._keep(task)
        await work()

    async def _send(self, found: list[bytes | str]) -> None:
        try:
            began = self._loop.time()
            for message in found:
                await self._socket.send(message)
                if self._loop.time() - began > SHARE:
                    await asyncio.sleep(0)
                    began = self._loop.time()
        except Exception:
            self._left = True
            raise

    async def _greet(self, first: list[bytes | str]) -> None:
        await self._send(first)
        self._greeted.set()

    async def _part(self, last: list[bytes | str]) -> None:
        await self._socket.arrived()
        await self._send(last)
        self._over = True
        with contextlib.suppress(Exception):  # the page was faster
            await self._socket.close()

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stop(self) -> None:
        if self._left:
            return  # what it sent before is still typed; then receiving ends by itself
        for task in self._tasks:
            task.cancel()

    # -- from the page; all on its loop, where nothing else is said

    async def _listen(self, leave: Callable[[], None]) -> None:
        deaf = False
        try:
            while (message := await self._socket.receive()) is not None:
                await self._received(message)
                while self._owed > AHEAD:
                    self._room.clear()
                    await self._room.wait()
        except Exception as error:  # what the page says is heard no more, but it still sees
            deaf = True
            self._report(error)
        finally:
            if not (deaf or self._over):
                leave()

    async def _received(self, message: bytes | str) -> None:
        if not self._input:
            await self._answer(NO_INPUT)
        elif self._events and isinstance(message, str):
            try:
                self._obey(message)
            except (ValueError, RecursionError) as error:
                await self._answer(str(error))
        else:
            self._type(message)

    def _obey(self, text: str) -> None:
        """Do what an event says. Raises ValueError."""
        event = json.loads(text)
        match event:
            case {"input": str(data), **rest} if not rest:
                self._type(data)
            case {"resize": [int(cols), int(rows)], **rest} if not rest:
                if not (0 < cols < 65536 and 0 < rows < 65536):
                    raise ValueError(f"a terminal has 1 to 65535 columns and rows, not {cols} and {rows}")
                self._begin_call(lambda: self._stream.send_resize(cols, rows), 0, self._control)
            case {"signal": str(name), **rest} if not rest:
                self._begin_call(lambda: self._stream.send_signal(name), 0, self._control)
            case _:
                raise ValueError(f"{EVENT_HELP}, not {text[:100]!r}")

    def _type(self, data: bytes | str) -> None:
        data = data.encode() if isinstance(data, str) else data
        self._begin_call(lambda: self._stream.send_input(data), len(data), contextlib.nullcontext())

    def _begin_call(self, call: Callable[[], Pending[None]], size: int, turn: Turn) -> None:
        """Call it on the I/O thread, in the order of their beginnings; a blocked command blocks no signal."""
        cost = size + CALL_COST
        self._owed += cost

        def pay() -> None:
            self._owed -= cost
            self._room.set()

        def done(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                self._loop.call_soon_threadsafe(pay)

        runtime().submit(self._call(call, turn)).add_done_callback(done)

    async def _call(self, call: Callable[[], Pending[None]], turn: Turn) -> None:
        """On the I/O thread."""
        try:
            async with turn:
                await call()
        except SessionOver:
            pass
        except CmdopError as error:
            if not self._events:
                self._report(error)
                return
            with contextlib.suppress(Left):
                await self._there(functools.partial(self._answer, str(error)))

    async def _answer(self, problem: str) -> None:
        if self._events:
            await self._greeted.wait()
            with contextlib.suppress(Exception):  # it has left, as receiving will say
                await self._socket.send(json.dumps({"error": problem}))

    def _report(self, error: BaseException) -> None:
        runtime().call_later(lambda: self._stream._subscriptions.report(error))
