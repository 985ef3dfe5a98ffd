"""A TCP proxy on loopback that does what bad networks do: cuts, silence, little room, nobody there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

HOST = "127.0.0.1"
READ_SIZE = 256 * 1024
SEGMENT = 1400  # bytes; as on an Ethernet. With loopback's 64 kB a sender's system buffers megabytes
BUFFER = 64 * 1024  # bytes in the proxy's own sockets, where it is to be slow
TICKS = 50  # pieces a second that a throttled direction sends
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST, whatever was still to be sent


class Proxy:
    """Leads every connection to `port` on to `target_port`, on a thread and a loop of its own, within `with`.

    All methods may be called from any thread, and have taken effect when they return.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.forwarded = [0, 0]  # bytes to the server, to the client
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], list[socket.socket]] = {}
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._rate = 0.0
        self._free_at = [0.0, 0.0]  # when each direction may send again
        self.accept()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many go through it now."""
        return self._call(lambda: len(self._connections))

    def cut(self) -> int:
        """Reset all connections, to both sides; return how many. New ones are taken."""
        return self._do(self._cut())

    def freeze(self) -> None:
        """Forward nothing more, neither bytes nor ends; connections stay, and new ones are taken and stay silent."""
        self._call(self._thawed.clear)

    def thaw(self) -> None:
        """Forward again, what lay meanwhile first."""
        self._call(self._thawed.set)

    def throttle(self, bytes_per_second: float) -> None:
        """Let through so much in each direction, over all connections; 0: as much as goes."""
        self._rate = bytes_per_second

    def refuse(self) -> None:
        """Refuse new connections; those there are stay."""
        self._do(self._refuse())

    def accept(self) -> None:
        """Take connections (again), on the same port."""
        self._call(self._accept)

    def close(self) -> None:
        """Reset everything, and end."""
        if self._loop.is_closed():
            return
        self.refuse()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, function: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return function()

        return self._do(call())

    def _accept(self) -> None:
        if self._listener is not None:
            return
        listener = self._socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self.port))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._accepting = self._loop.create_task(self._take(listener))

    def _socket(self) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._rate:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        return sock

    async def _refuse(self) -> None:
        if self._listener is None:
            return
        assert self._accepting is not None
        self._accepting.cancel()
        await asyncio.wait([self._accepting])
        self._listener.close()
        self._listener = None

    async def _cut(self) -> int:
        connections = dict(self._connections)
        for task, socks in connections.items():
            for sock in socks:
                with contextlib.suppress(OSError):  # closed a moment ago
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            task.cancel()
        if connections:
            await asyncio.wait(connections)
        return len(connections)

    async def _take(self, listener: socket.socket) -> None:
        while True:
            client, _ = await self._loop.sock_accept(listener)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            socks = [client]
            task = self._loop.create_task(self._lead(socks))
            self._connections[task] = socks
            task.add_done_callback(self._connections.pop)

    async def _lead(self, socks: list[socket.socket]) -> None:
        try:
            server = self._socket()
            socks.append(server)
            await self._loop.sock_connect(server, (HOST, self.target_port))
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(socks[0], server, 0))
                both.create_task(self._pump(server, socks[0], 1))
        except* OSError:  # one side is gone: so is the other
            for sock in socks:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        finally:
            for sock in socks:
                sock.close()

    async def _pump(self, source: socket.socket, sink: socket.socket, direction: int) -> None:
        while True:
            rate = self._rate
            data = await self._loop.sock_recv(source, max(1, int(rate / TICKS)) if rate else READ_SIZE)
            await self._thawed.wait()
            if rate:
                start = max(time.monotonic(), self._free_at[direction])
                self._free_at[direction] = start + len(data) / rate
                await asyncio.sleep(self._free_at[direction] - time.monotonic())
                await self._thawed.wait()
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            await self._loop.sock_sendall(sink, data)
            self.forwarded[direction] += len(data)
