"""A session's log to a WebSocket, beside the same server sending the same bytes from memory in messages as large.

Both send to a client in a process of its own, which only counts. Nothing is compressed: deflate would take most of the
time of either side, and say nothing of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvicorn
from fastapi import FastAPI, WebSocket
from websockets.asyncio.server import serve

from cmdop_jupyter import AsyncCMDOPClient, Stream
from cmdop_jupyter.client import machine
from cmdop_jupyter.runtime import Pending
from cmdop_jupyter.sinks.websocket import MESSAGE_SIZE, to_websocket

ROUNDS = 7  # pairs; on a shared machine the same work takes twice as long a minute later
CLIENT = """
import asyncio, sys
from websockets.asyncio.client import connect

async def count():
    async with connect(sys.argv[1], compression=None, max_size=None) as connection:
        print(sum([len(message) async for message in connection]), flush=True)

asyncio.run(count())
"""

Send = Callable[[Any], Awaitable[None]]
Server = Callable[[Send], contextlib.AbstractAsyncContextManager[int]]


def main(full: bool = False) -> list[dict[str, Any]]:
    """Measure `to_websocket` on connections of `websockets`, and on FastAPI in uvicorn."""
    return asyncio.run(_main(400_000_000 if full else 80_000_000))


async def _main(size: int) -> list[dict[str, Any]]:
    async with AsyncCMDOPClient.local() as client:
        stream = await client.terminal.create(command=f"exec head -c {size} /dev/urandom", tty="none")
        await stream
        data = stream.read()
        rows = [
            await _compare("the websockets library", _websockets, stream, data),
            await _compare("FastAPI on uvicorn", _uvicorn, stream, data),
        ]
        await stream.stop()
        await Pending(machine().remove(stream.session_id), "remove")
    return rows


async def _compare(name: str, server: Server, stream: Stream, data: bytes) -> dict[str, Any]:
    async def forward(websocket: Any) -> None:
        nonlocal began
        began = time.perf_counter()
        await to_websocket(stream, websocket)

    async def from_memory(websocket: Any) -> None:
        nonlocal began
        began = time.perf_counter()
        send = getattr(websocket, "send_bytes", None) or websocket.send
        for begin in range(0, len(data), MESSAGE_SIZE):
            await send(data[begin : begin + MESSAGE_SIZE])
        await websocket.close()

    began, pairs = 0.0, []
    for _ in range(ROUNDS):
        pair = []
        for send in (forward, from_memory):
            async with server(send) as port:
                client = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", CLIENT, f"ws://127.0.0.1:{port}/", stdout=subprocess.PIPE
                )
                assert client.stdout is not None
                seen = int(await client.stdout.readline())
                pair.append(time.perf_counter() - began)
                await client.wait()
            if seen != len(data):
                raise RuntimeError(f"{seen} bytes of {len(data)} arrived")
        pairs.append(pair)
    rates = ", ".join(f"{len(data) / ours / 1e6:.0f}:{len(data) / raw / 1e6:.0f}" for ours, raw in pairs)
    return {
        "name": f"forwarded to a WebSocket by {name}, {len(data) / 1e6:.0f} MB",
        "value": statistics.median(raw / ours for ours, raw in pairs),
        "unit": "of from memory",
        "bound": ">= 0.5",
        "detail": f"{rates} MB/s, uncompressed",
    }


@contextlib.asynccontextmanager
async def _websockets(send: Send) -> AsyncIterator[int]:
    async with serve(send, "127.0.0.1", 0, compression=None) as server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def _uvicorn(send: Send) -> AsyncIterator[int]:
    app = FastAPI()

    @app.websocket("/")
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        await send(websocket)

    config = uvicorn.Config(app, log_level="warning", lifespan="off", ws_per_message_deflate=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        yield listener.getsockname()[1]  # connections wait until it has started
        server.should_exit = True
        await serving
