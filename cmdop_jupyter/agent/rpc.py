"""The store's calls over one byte stream: numbered requests come in as frames, answers go out, in any order.

A request is `{"number", "op", …}` and a body; its answer `{"number", …}` and a body, or `{"number", "error", "args"}`.
A long body comes in pieces: `{"number", "more": true}`, the last with the answer's header; frames of reads and tails
say `"bulk": true`. Without an answer are `{"op": "cancel", "number"}` and `{"op": "got", "bytes"}`: bulk so far.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from . import installed
from .answers import MOST_CHUNKS, Answers, pack_chunks, unpack_chunks
from .calls import Calls
from .environment import ASKING
from .errors import CmdopError
from .frames import FrameDecoder, FrameError
from .outbox import Header, Outbox
from .store import SessionStore

__all__ = ["MOST_CHUNKS", "Server", "keep_agent_socket", "pack_chunks", "serve", "unpack_chunks"]

READ_SIZE = 256 * 1024
SILENCE = 60.0  # seconds without a word; a client that lives says one every few


class Server:
    """Answers one client. Everything runs on one loop.

    Args:
        calls: The store's; or why there are none, which every request is answered with.
        on_output: Called when there is something in `outbox`.
    """

    def __init__(self, calls: Calls | CmdopError, on_output: Callable[[], object]) -> None:
        self._given, self._answers, self._on_output = calls, Answers(calls), on_output
        self._loop = asyncio.get_running_loop()
        self._decoder = FrameDecoder()
        self._tasks: dict[object, asyncio.Task[None]] = {}
        self.outbox = Outbox()

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
        self._answers.close()
        if isinstance(self._given, Calls):
            self._given.close()

    async def _serve(self, number: int, header: Header, body: bytes) -> None:
        try:
            answer, parts, urgency = await self._answers.answer(header, body)
        finally:
            self._tasks.pop(number, None)
        self.outbox.put({**answer, "number": number}, parts, urgency)
        self._on_output()


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
