"""From one request to its answer, by the store's calls: a header and a body go in, a header and parts come out."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Awaitable, Callable, Sequence

from .calls import Calls
from .errors import CmdopError, InvalidRequest
from .frames import FrameError
from .log import CHANNELS, Chunk
from .outbox import BULK, URGENT, VIEWS, Body, Header
from .ports import Ports

SMALL = 1024  # bytes of a body that goes first, whatever it is
MOST_CHUNKS = 2000  # that one answer describes; a read may give less than it was asked for
MOST_WORDS = 4000  # characters of one word of an error

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


class Answers:
    """Answers the requests of one client, of one loop, many at a time; what it dialled is closed with it.

    Args:
        calls: The store's; or why there are none, which every request is answered with.
    """

    def __init__(self, calls: Calls | CmdopError) -> None:
        self._given, self._ports = calls, Ports()
        self._ops: dict[str, Callable[[Header, bytes], Awaitable[Reply]]] = {
            name[4:]: getattr(self, name) for name in dir(self) if name.startswith("_op_")
        }

    async def answer(self, header: Header, body: bytes) -> tuple[Header, Sequence[Body], int]:
        """The answer's header and body, and how urgent it is; what went wrong is an answer too."""
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
        if "error" in answer:  # what was asked may be too long to be told in a header
            answer["args"] = [word[:MOST_WORDS] if isinstance(word, str) else word for word in answer["args"]]
        return answer, parts, urgency

    def close(self) -> None:
        self._ports.close()

    @property
    def _calls(self) -> Calls:
        if isinstance(self._given, CmdopError):
            raise self._given
        return self._given

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
