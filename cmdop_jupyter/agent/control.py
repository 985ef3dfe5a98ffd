"""The control socket of one session: requests come in as frames, answers go out, in any order, by number.

Every request carries `id` (the number its answer carries) and `op`; every answer is a status, or `error` and `args`.
"""

from __future__ import annotations

import errno
import os
import struct

from .errors import CmdopError, InvalidRequest
from .frames import FrameDecoder, FrameError, encode
from .light import accept, socket
from .poll import IN, OUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .poll import Loop

    Handler = Callable[["Connection", dict[str, object], bytes], object]

READ_SIZE = 256 * 1024
REMEMBERED = 1000  # answers kept, so that a repeated call is done once
MAX_UNSENT = 4 * 1024 * 1024  # bytes of answers; a client that leaves more unread is let go
ACCEPT_AGAIN = 1.0  # seconds, when the system has no descriptor for another client
FLOOD = 64 * 1024  # new bytes in one answer; then
PAUSE = 0.025  # seconds pass until the next one about output: told of every read, clients would slow down the reading


class Connection:
    """One client. `owner` is the notebook it belongs to, when it said so."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.owner = ""
        self.decoder = FrameDecoder()
        self.unsent = bytearray()
        self.waiting: dict[object, tuple[object, object]] = {}  # request -> (status seen, log end seen)


class Control:
    """Serves the socket.

    Args:
        handlers: By op: takes (connection, header, body) and returns the answer, or None when it will `answer` later.
        status: Gives the facts that `status` requests are answered with, the state's number as `seq`, the log's `end`.
        on_gone: Called when a connection is gone.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        handlers: dict[str, Handler],
        status: Callable[[], dict[str, object]],
        on_gone: Callable[[Connection], None],
    ) -> None:
        self._loop, self._listener, self._handlers = loop, listener, handlers
        self._status, self._on_gone = status, on_gone
        self._done: dict[str, object] = {}  # call id -> the answer it was given; None while it is under way
        self._also: dict[str, list[tuple[Connection, object]]] = {}  # repeated while the first is still under way
        self.connections: set[Connection] = set()
        self._seq = self._end = 0  # of the newest status
        self._told_end = 0
        self._pausing = False
        self._anybody_waits = False
        listener.setblocking(False)
        self._listen()

    def answer(self, connection: Connection, header: dict[str, object], reply: object) -> None:
        """Answer a request, and whoever repeated it meanwhile; remember the answer if it has a call id."""
        call = str(header.get("call", ""))
        if call:
            self._done[call] = reply
            while len(self._done) > REMEMBERED:
                self._done.pop(next(iter(self._done)))
            for other, number in self._also.pop(call, ()):
                self._send(other, number, reply)
        self._send(connection, header.get("id"), reply)

    def publish(self, seq: int, end: int) -> None:
        """Answer the waiting whose status or log end is behind; called whenever either moved."""
        news = seq != self._seq
        self._seq, self._end = seq, end
        if not self._anybody_waits or (self._pausing and not news):
            return
        self._anybody_waits = False
        status = None
        for connection in list(self.connections):
            for number, (seen, past) in list(connection.waiting.items()):
                if seen != seq or (isinstance(past, int) and end > past):
                    del connection.waiting[number]
                    status = status or self._status()
                    self._send(connection, number, status)
            self._anybody_waits = self._anybody_waits or bool(connection.waiting)
        if status is not None:
            if end - self._told_end > FLOOD:
                self._pausing = True
                self._loop.after("publish", PAUSE, self._resume)
            self._told_end = end

    def _resume(self) -> None:
        self._pausing = False
        self.publish(self._seq, self._end)

    def serve(self, connection: Connection, header: dict[str, object], body: bytes) -> None:
        """Do a request now, without asking whether it was done before."""
        op = str(header.get("op"))
        try:
            if op not in self._handlers:
                raise InvalidRequest(f"this session knows no {op!r}")
            reply = self._handlers[op](connection, header, body)
        except CmdopError as error:
            reply = {"error": type(error).__name__, "args": list(error.args)}
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            reply = {"error": "InvalidRequest", "args": [f"{op} makes no sense: {type(error).__name__} {error}"]}
        except OSError as error:
            reply = {"error": "InvalidRequest", "args": [f"{op} was refused: {error.strerror}"]}
        if reply is not None:
            self.answer(connection, header, reply)

    def close(self, patience: float) -> None:
        """Stop serving; give each client `patience` seconds to take what it was told."""
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        for connection in list(self.connections):
            connection.sock.settimeout(patience)
            try:
                connection.sock.sendall(connection.unsent)
            except OSError:  # it went away, or does not read: the status page says the same
                pass
            connection.sock.close()
        self.connections.clear()

    def _listen(self) -> None:
        self._loop.watch(self._listener.fileno(), IN, self._accept)

    def _accept(self, _: int) -> None:
        try:
            sock = accept(self._listener)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                self._loop.unwatch(self._listener.fileno())  # it would be ready for ever
                self._loop.after("accept", ACCEPT_AGAIN, self._listen)
            return
        if not is_ours(sock):
            sock.close()
            return
        sock.setblocking(False)
        connection = Connection(sock)
        self.connections.add(connection)
        self._loop.watch(sock.fileno(), IN, lambda happened: self._on_event(connection, happened))

    def _on_event(self, connection: Connection, happened: int) -> None:
        if happened & OUT:
            self._flush(connection)
        if not happened & ~OUT or connection not in self.connections:
            return
        try:
            data = connection.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            frames = connection.decoder.feed(data)
        except FrameError:  # not one of ours; there is nobody to tell
            data, frames = b"", []
        for header, body in frames:
            self._handle(connection, header, body)
        if not data:
            self._drop(connection)

    def _handle(self, connection: Connection, header: dict[str, object], body: bytes) -> None:
        op, call, number = str(header.get("op")), str(header.get("call", "")), header.get("id")
        if call in self._done:
            if self._done[call] is None:
                self._also.setdefault(call, []).append((connection, number))
            else:
                self._send(connection, number, self._done[call])
            return
        if op == "status" and isinstance(number, (int, str)):
            if header.get("seen") != self._seq:
                self._send(connection, number, self._status())
            else:
                connection.waiting[number] = self._seq, header.get("past")
                self._anybody_waits = True
                self.publish(self._seq, self._end)
            return
        if call:
            self._done[call] = None
        self.serve(connection, header, body)

    def _send(self, connection: Connection, number: object, reply: object) -> None:
        if connection not in self.connections:
            return
        facts = dict(reply) if isinstance(reply, dict) else {}
        connection.unsent += encode({**facts, "id": number})
        self._flush(connection)
        if len(connection.unsent) > MAX_UNSENT:
            self._drop(connection)

    def _flush(self, connection: Connection) -> None:
        try:
            while connection.unsent:
                sent = connection.sock.send(connection.unsent)
                del connection.unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(connection)
            return
        events = IN | OUT if connection.unsent else IN
        self._loop.watch(connection.sock.fileno(), events, lambda happened: self._on_event(connection, happened))

    def _drop(self, connection: Connection) -> None:
        if connection in self.connections:
            self.connections.discard(connection)
            self._loop.unwatch(connection.sock.fileno())
            connection.sock.close()
            self._on_gone(connection)


def is_ours(sock: socket.socket) -> bool:
    """Whether the peer is this user (or root), as the kernel says it."""
    if not hasattr(socket, "SO_PEERCRED"):  # macOS: the 0700 directory is the fence
        return True
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid in (os.getuid(), 0)
