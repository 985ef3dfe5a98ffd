"""Services on ports of this machine, for tests of what leads to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

PIECE = 64 * 1024  # bytes read at a time

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Listen = Callable[[Serve], Awaitable[int]]


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[Listen]:
    """Listens on a port of its own, and serves every connection there; gives the port."""
    servers, tasks = [], []

    async def listen_with(serve: Serve) -> int:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.append(asyncio.ensure_future(serve(reader, writer)))
            tasks[-1].add_done_callback(lambda _: writer.close())

        servers.append(await asyncio.start_server(accepted, "127.0.0.1", 0))
        return int(servers[-1].sockets[0].getsockname()[1])

    yield listen_with
    for server in servers:
        server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(PIECE):
        writer.write(data)
        await writer.drain()
