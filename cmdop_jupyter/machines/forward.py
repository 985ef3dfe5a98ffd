"""A port here that leads to a port on a machine: each connection asks the far side for bytes, and hands it bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ..errors import CmdopError, InvalidRequest

PIECE = 64 * 1024  # bytes that are handed over at a time

Ask = Callable[..., Awaitable[tuple[dict[str, Any], bytes]]]


class PortHere:
    """Listens on 127.0.0.1; a connection waits while the link is away, one that was open at a cut is closed.

    Args:
        there: The port on the machine.
        ask: Asks the agent: `await ask(op, body, **facts)`.
    """

    def __init__(self, there: int, ask: Ask) -> None:
        self._there, self._ask = there, ask
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Future[None]] = set()
        self.port = 0

    @classmethod
    async def open(cls, there: int, ask: Ask) -> PortHere:
        if not 0 < there < 65536:
            raise InvalidRequest(f"a port is 1 to 65535, not {there}")
        self = cls(there, ask)
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=PIECE)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._begin(self._serve(reader, writer))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, whole = None, False
        try:
            answer, _ = await self._ask("dial", port=self._there)
            number = answer["connection"]
            async with asyncio.TaskGroup() as both:
                both.create_task(self._there_to_here(number, writer))
                both.create_task(self._here_to_there(number, reader))
            whole = True
        except* (CmdopError, OSError):  # cut, or nothing listens there: to whoever connected it is a broken connection
            pass
        finally:
            if not whole:
                _reset(writer)
            writer.close()
            if number is not None:
                self._begin(self._hang_up(number))

    async def _here_to_there(self, number: int, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(PIECE):
            await self._ask("send", data, connection=number)
        await self._ask("send", connection=number, eof=True)

    async def _there_to_here(self, number: int, writer: asyncio.StreamWriter) -> None:
        while True:
            _, data = await self._ask("recv", connection=number)
            if not data:
                break
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def _hang_up(self, number: int) -> None:
        with contextlib.suppress(CmdopError):
            await self._ask("hang_up", connection=number)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that it does not look like a proper end."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
