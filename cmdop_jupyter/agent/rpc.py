"""The store's calls over one byte stream: numbered requests come in as frames, answers go out, in any order.

A request is `{"number", "op", …}` and a body; its answer `{"number", …}` and a body, or `{"number", "error", "args"}`.
A long body comes in pieces: `{"number", "more": true}`, the last with the answer's header; frames of reads and tails
say `"bulk": true`. Without an answer are `{"op": "cancel", "number"}` and `{"op": "got", "bytes"}`: bulk so far.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence

from . import installed
from .calls import Calls
from .environment import ASKING
from .errors import CmdopError, InvalidRequest
from .frames import FrameDecoder, FrameError
from .log import CHANNELS, Chunk
from .outbox import BULK, URGENT, VIEWS, Body, Header, Outbox
from .ports import Ports
from .store import SessionStore

SMALL = 1024  # bytes of a body that goes first, whatever it is
MOST_CHUNKS = 2000  # that one answer describes; a read may give less than it was asked for
MOST_WORDS = 4000  # characters of one word of an error
READ_SIZE = 256 * 1024
SILENCE = 60.0  # seconds without a word; a client that lives says one every few

Reply = tuple[Header, Sequence[Body]]


def pack_chunks(chunks: list[Chunk]) -> Reply:
    """Chunks as the header and the body of an answer."""
    chunks = chunks[:MOST_CHUNKS]
    facts = [[CHANNELS.index(chunk.channel), chunk.wall_ns, chunk.mono_ms, len(chunk.data)] for chunk in chunks]
    return {"offset": chunks[0].offset if chunks else 0, "chunks": facts}, [chunk.data for chunk in chunks]


def unpack_chunks(header: Header, body: list[bytes]) -> list[Chunk]:
    """The chunks of an answer, whose body came in pieces. Raises FrameError when its parts do not fit."""
    length, at, chunks = sum(map(len, body)), 0, []
    pieces = _Pieces(body)
    try:
        offset = header["offset"]
        for channel, wall_ns, mono_ms, size in header["chunks"]:
            if not (0 <= size <= length - at and channel >= 0 and isinstance(offset, int)):
                raise FrameError(f"an answer of {length} bytes has a chunk of {size}, of channel {channel}")
            chunks.append(Chunk(offset + at, CHANNELS[channel], wall_ns, mono_ms, pieces.take(size)))
            at += size
    except FrameError:
        raise
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise FrameError(f"an answer with chunks makes no sense: {error!r}") from None
    if at != length:
        raise FrameError(f"an answer with chunks of {at} bytes has {length}")
    return chunks


class _Pieces:
    """Bytes in pieces, from which so many at a time are taken; one that is wanted whole is not copied."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces, self._number, self._at = pieces, 0, 0

    def take(self, size: int) -> bytes:
        """The next bytes; there are so many."""
        taken = []
        while size:
            piece = self._pieces[self._number]
            part = piece[self._at : self._at + size]
            size -= len(part)
            self._at += len(part)
            if self._at == len(piece):
                self._number, self._at = self._number + 1, 0
            taken.append(part)
        return taken[0] if len(taken) == 1 else b"".join(taken)


class Server:
    """Answers one client. Everything runs on one loop.

    Args:
        calls: The store's; or why there are none, which every request is answered with.
        on_output: Called when there is something in `outbox`.
    """

    def __init__(self, calls: Calls | CmdopError, on_output: Callable[[], object]) -> None:
        self._given, self._ports, self._on_output = calls, Ports(), on_output
        self._loop = asyncio.get_running_loop()
        self._decoder = FrameDecoder()
        self._tasks: dict[object, asyncio.Task[None]] = {}
        self.outbox = Outbox()
        self._ops: dict[str, Callable[[Header, bytes], Awaitable[Reply]]] = {
            name[4:]: getattr(self, name) for name in dir(self) if name.startswith("_op_")
        }

    def feed(self, data: bytes) -> None:
        """Take what the client sent. Raises FrameError when it makes no sense: the link must end."""
        for header, body in self._decoder.feed(data):
            number = header.get("number")
            if header.get("op") == "got":
                self.outbox.window.acknowledged(_whole(header.get("bytes")), self._loop.time())
                self._on_output()
                continue
            if not isinstance(number, int) or (number in self._tasks and header.get("op") != "cancel"):
                raise FrameError(f"a request needs a number of its own, not {number!r}")
            if header.get("op") == "cancel":
                if number in self._tasks:
                    self._tasks.pop(number).cancel()
            else:
                self._tasks[number] = asyncio.ensure_future(self._serve(number, header, body))

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._ports.close()
        if isinstance(self._given, Calls):
            self._given.close()

    @property
    def _calls(self) -> Calls:
        if isinstance(self._given, CmdopError):
            raise self._given
        return self._given

    async def _serve(self, number: int, header: Header, body: bytes) -> None:
        op = str(header.get("op"))
        urgency = URGENT
        try:
            if op not in self._ops:
                raise InvalidRequest(f"this agent knows no {op!r}")
            answer, parts = await self._ops[op](header, body)
            if sum(map(len, parts)) <= SMALL:
                pass  # an echo, a prompt: it delays nobody
            elif op in ("read", "read_nowait", "recv"):
                urgency = BULK
            elif op == "tail":
                urgency = VIEWS
        except CmdopError as error:
            answer, parts = {"error": type(error).__name__, "args": list(error.args)}, ()
        except (KeyError, TypeError, ValueError) as error:
            words = f"{op} makes no sense: {type(error).__name__} {error}"
            answer, parts = {"error": "InvalidRequest", "args": [words]}, ()
        except OSError as error:
            answer, parts = {"error": "InvalidRequest", "args": [f"{op} was refused: {error}"]}, ()
        except Exception as error:
            traceback.print_exc()
            answer, parts = {"error": "InvalidRequest", "args": [f"{op} failed there: {error!r}"]}, ()
        finally:
            self._tasks.pop(number, None)
        if "error" in answer:  # what was asked may be too long to be told in a header
            answer["args"] = [word[:MOST_WORDS] if isinstance(word, str) else word for word in answer["args"]]
        self.outbox.put({**answer, "number": number}, parts, urgency)
        self._on_output()

    # -- the calls

    async def _op_ping(self, header: Header, body: bytes) -> Reply:
        return {"root": self._calls.store.root}, ()

    async def _op_keep_ended(self, header: Header, body: bytes) -> Reply:
        self._calls.store.keep_seconds, self._calls.store.keep_bytes = header["seconds"], header["max_bytes"]
        return {}, ()

    async def _op_start(self, header: Header, body: bytes) -> Reply:
        return {}, [json.dumps(await self._calls.start(json.loads(body))).encode()]

    async def _op_sessions(self, header: Header, body: bytes) -> Reply:
        return {}, [json.dumps(await self._calls.sessions()).encode()]

    async def _op_find(self, header: Header, body: bytes) -> Reply:
        return {}, [json.dumps(await self._calls.find(header["wanted"])).encode()]

    async def _op_status(self, header: Header, body: bytes) -> Reply:
        return await self._calls.status(header["session"], header.get("seen")), ()

    async def _op_read(self, header: Header, body: bytes) -> Reply:
        return pack_chunks(await self._calls.read(header["session"], header["offset"], header["max_bytes"]))

    async def _op_read_nowait(self, header: Header, body: bytes) -> Reply:
        return pack_chunks(await self._calls.read_nowait(header["session"], header["offset"], header["max_bytes"]))

    async def _op_tail(self, header: Header, body: bytes) -> Reply:
        chunks, before, status = await self._calls.tail(header["session"], header["max_bytes"])
        last: list[Chunk] = []
        if len(chunks) > MOST_CHUNKS:
            dropped, last = chunks[:-MOST_CHUNKS], chunks[-MOST_CHUNKS:]
            before += sum(chunk.data.count(b"\n") for chunk in dropped)
        answer, parts = pack_chunks(last or chunks)
        return {**answer, "before": before, "status": status}, parts

    async def _op_write(self, header: Header, body: bytes) -> Reply:
        accepted = await self._calls.write(
            header["session"], header["writer"], header["offset"], body, bool(header.get("eof"))
        )
        return {"accepted": accepted}, ()

    async def _op_resize(self, header: Header, body: bytes) -> Reply:
        await self._calls.resize(header["session"], header["cols"], header["rows"], header["call"])
        return {}, ()

    async def _op_signal(self, header: Header, body: bytes) -> Reply:
        await self._calls.signal(header["session"], header["name"], header["call"])
        return {}, ()

    async def _op_stop(self, header: Header, body: bytes) -> Reply:
        return dict(await self._calls.stop(header["session"], header["call"], header["grace"])), ()

    async def _op_limit(self, header: Header, body: bytes) -> Reply:
        await self._calls.limit(header["session"], header["max_log"], header["policy"], header["call"])
        return {}, ()

    async def _op_prompt(self, header: Header, body: bytes) -> Reply:
        return await self._calls.prompt(header["session"]), ()

    async def _op_own(self, header: Header, body: bytes) -> Reply:
        await self._calls.own(header["session"], header["owner"])
        return {}, ()

    async def _op_remove(self, header: Header, body: bytes) -> Reply:
        await self._calls.remove(header["session"])
        return {}, ()

    async def _op_surroundings(self, header: Header, body: bytes) -> Reply:
        from . import surroundings

        checks = await asyncio.to_thread(surroundings.examine, self._calls.store, header.get("detach") or ())
        return {"checks": checks}, ()

    async def _op_dial(self, header: Header, body: bytes) -> Reply:
        return {"connection": await self._ports.dial(int(header["port"]))}, ()

    async def _op_recv(self, header: Header, body: bytes) -> Reply:
        return {}, [await self._ports.recv(header["connection"])]

    async def _op_send(self, header: Header, body: bytes) -> Reply:
        await self._ports.send(header["connection"], body, bool(header.get("eof")))
        return {}, ()

    async def _op_hang_up(self, header: Header, body: bytes) -> Reply:
        self._ports.hang_up(header["connection"])
        return {}, ()


class _Pipes:
    """Moves bytes between a server and two descriptors until one of them ends."""

    def __init__(self, calls: Calls | CmdopError, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._loop = asyncio.get_running_loop()
        self._server = Server(calls, self._write)
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._heard = self._loop.time()
        self._writing = False

    async def run(self) -> None:
        for fd in (self._reader, self._writer):
            os.set_blocking(fd, False)
        self._loop.add_reader(self._reader, self._read)
        self._end_in_silence()
        try:
            await self._done
        finally:
            self._listening.cancel()
            self._loop.remove_reader(self._reader)
            self._loop.remove_writer(self._writer)
            self._server.close()

    def _end(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _read(self) -> None:
        try:
            data = os.read(self._reader, READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._heard = self._loop.time()
        try:
            self._server.feed(data)
        except FrameError as error:
            sys.stderr.write(f"cmdop-agent: {error}\n")
            data = b""
        if not data:
            self._end()

    def _write(self) -> None:
        outbox = self._server.outbox
        try:
            while True:
                buffers = outbox.buffers(self._loop.time())
                if not buffers:
                    break
                outbox.written(os.writev(self._writer, buffers))
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._writer, self._write)
            return
        except OSError:
            self._end()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._writer)

    def _end_in_silence(self) -> None:
        """A client that vanished without a word leaves nothing here for long."""
        if self._loop.time() - self._heard > SILENCE:
            self._end()
        else:
            self._listening = self._loop.call_later(SILENCE / 4, self._end_in_silence)


def _whole(number: object) -> int:
    if not isinstance(number, int):
        raise FrameError(f"{number!r} is no number of bytes")
    return number


def keep_agent_socket(root: str) -> None:
    """Let sessions find a forwarded ssh agent under one name, whichever link it came by last."""
    place = os.environ.get("SSH_AUTH_SOCK")
    stable = os.path.join(root, "ssh-agent")
    if not place or "SSH_CONNECTION" not in os.environ or place == stable:
        return
    fresh = f"{stable}.{os.getpid()}"
    try:
        os.symlink(place, fresh)
        os.replace(fresh, stable)
    except OSError:  # sessions get the link's own name then, good until it ends
        return
    os.environ["SSH_AUTH_SOCK"] = stable


def serve(nonce: str) -> int:
    """Serve the store on stdin and stdout until they end; `nonce` is said first, so that our words can be told."""
    for name in ASKING:
        os.environ.pop(name, None)
    home = os.path.expanduser("~")
    os.chdir(home if os.access(home, os.X_OK) else "/")
    installed.hold()
    os.write(1, installed.hello(nonce))
    asyncio.run(_serve())
    return 0


async def _serve() -> None:
    calls: Calls | CmdopError
    try:
        store = SessionStore()
        keep_agent_socket(store.root)
        calls = Calls(store)
    except CmdopError as error:  # the client is told so whatever it asks
        calls = error
    sweeping = asyncio.get_running_loop().run_in_executor(None, installed.prune)
    await _Pipes(calls, 0, 1).run()
    await sweeping
