"""256 MB of random bytes through every path at once, 64 MB over a link: each gives exactly those bytes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy
from reach import KINDS
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from cmdop_jupyter import Stream, to_database, to_file, to_websocket
from cmdop_jupyter.client import Terminal

SIZES = {"local": 256_000_000, "sh -c": 64_000_000}


@contextlib.asynccontextmanager
async def page_of(stream: Stream) -> AsyncIterator[asyncio.Task[str]]:
    """What a page gets through a WebSocket, as its digest."""

    async def endpoint(websocket: ServerConnection) -> None:
        await to_websocket(stream, websocket, input=False)

    async def watch(port: int) -> str:
        seen = hashlib.sha256()
        async with connect(f"ws://127.0.0.1:{port}/", compression=None, proxy=None) as page:
            async for message in page:
                assert isinstance(message, bytes)
                seen.update(message)
        return seen.hexdigest()

    async with serve(endpoint, "127.0.0.1", 0, compression=None) as server:
        yield asyncio.create_task(watch(server.sockets[0].getsockname()[1]))


def stored(url: str) -> str:
    """The digest of what a database has of the only session in it."""
    seen = hashlib.sha256()
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        for (data,) in connection.execute(sqlalchemy.text('SELECT data FROM cmdop_output ORDER BY "offset"')):
            seen.update(data)
    engine.dispose()
    return seen.hexdigest()


def in_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize(("kind", "size"), SIZES.items())
async def test_every_path_gives_the_bytes_that_were_written(kind, size, state_dir, tmp_path):
    source = tmp_path / "source"
    command = f"head -c {size} /dev/urandom | tee {source}; chmod 644 {source}"
    with KINDS[kind]() as make:
        stream = await Terminal(make()).create(command=command, tty="none")
        by_handler, by_coroutine = hashlib.sha256(), hashlib.sha256()

        async def take(data: bytes) -> None:
            by_coroutine.update(data)

        handlers = [stream.on_output(by_handler.update, thread=True), stream.on_output_async(take)]
        url = f"sqlite:///{tmp_path}/log.db"
        sinks = [to_file(stream, tmp_path / "file", max_bytes=size), to_database(stream, url)]
        async with page_of(stream) as page:
            iterated = hashlib.sha256()
            async for chunk in stream:
                iterated.update(chunk.data)
            for one in (*handlers, *sinks):
                await one
            digests = {"handler": by_handler.hexdigest(), "coroutine": by_coroutine.hexdigest(), "page": await page}
        digests |= {"iterated": iterated.hexdigest(), "database": await asyncio.to_thread(stored, url)}
        digests |= {name: in_file(tmp_path / name) for name in ("file", "source")}
        await stream._machine.bare.close()

    assert digests == dict.fromkeys(digests, digests["source"])
    assert source.stat().st_size == size
