"""Ports of this machine as others reach them: every byte both ways, each end told, nothing kept that is not read."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator

import pytest
from services import Listen, echo, listening

from cmdop_jupyter.agent.errors import InvalidRequest, PortClosed
from cmdop_jupyter.agent.ports import PIECE, Ports

BIG = os.urandom(20_000_000)


@pytest.fixture
async def ports() -> AsyncIterator[Ports]:
    ports = Ports()
    yield ports
    ports.close()


@pytest.fixture
async def listen() -> AsyncIterator[Listen]:
    async with listening() as listen:
        yield listen


async def say_what_came(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers once all has come, with its digest."""
    writer.write(hashlib.sha256(await reader.read(-1)).hexdigest().encode())


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.get_running_loop().create_future()


async def all_of(ports: Ports, number: int) -> bytes:
    pieces = []
    while data := await ports.recv(number):
        assert len(data) <= PIECE
        pieces.append(data)
    return b"".join(pieces)


async def send(ports: Ports, number: int, data: bytes) -> None:
    """Hand bytes over a piece at a time, as a client does, and end."""
    for at in range(0, len(data), PIECE):
        await ports.send(number, data[at : at + PIECE], False)
    await ports.send(number, b"", True)


async def test_every_byte_comes_both_ways_at_once(ports, listen):
    number = await ports.dial(await listen(echo))

    came, _ = await asyncio.gather(all_of(ports, number), send(ports, number, BIG))

    assert hashlib.sha256(came).digest() == hashlib.sha256(BIG).digest()


async def test_connections_are_told_apart(ports, listen):
    port = await listen(echo)
    numbers = [await ports.dial(port) for _ in range(20)]
    assert len(set(numbers)) == 20

    await asyncio.gather(*(send(ports, number, b"for %d" % number) for number in numbers))
    came = await asyncio.gather(*(all_of(ports, number) for number in numbers))

    assert came == [b"for %d" % number for number in numbers]


async def test_the_end_of_what_is_sent_is_not_the_end_of_what_comes(ports, listen):
    number = await ports.dial(await listen(say_what_came))

    await send(ports, number, b"a question")

    assert await all_of(ports, number) == hashlib.sha256(b"a question").hexdigest().encode()


async def test_the_end_of_what_comes_is_not_the_end_of_what_is_sent(ports, listen):
    came = asyncio.get_running_loop().create_future()

    async def listen_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        came.set_result(await reader.read(-1))

    number = await ports.dial(await listen(listen_only))

    assert await ports.recv(number) == b""
    assert await ports.recv(number) == b""
    await send(ports, number, b"all the same")
    assert await came == b"all the same"


async def test_a_send_waits_while_the_service_does_not_read(ports, listen):
    number = await ports.dial(await listen(say_nothing))

    accepted = 0

    async def send_all() -> None:
        nonlocal accepted
        while accepted < 100_000_000:
            await asyncio.wait_for(ports.send(number, bytes(PIECE), False), 0.2)
            accepted += PIECE

    with pytest.raises(TimeoutError):
        await send_all()
    assert accepted < 50_000_000  # what the system's own buffers take


async def test_what_nobody_asks_for_stays_with_the_service(ports, listen):
    said = 0
    blocked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal said
        while said < 100_000_000:
            writer.write(bytes(PIECE))
            try:
                await asyncio.wait_for(asyncio.shield(writer.drain()), 0.2)
            except TimeoutError:
                blocked.set()
                await asyncio.get_running_loop().create_future()
            said += PIECE

    number = await ports.dial(await listen(talk))
    await asyncio.wait_for(blocked.wait(), 60)

    assert said < 50_000_000
    assert await ports.recv(number)


async def test_where_nothing_listens_it_is_told(ports):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # taken, so that nobody else listens there
        port = sock.getsockname()[1]

        with pytest.raises(PortClosed) as closed:
            await ports.dial(port)

    assert closed.value.port == port
    assert str(port) in str(closed.value)


@pytest.mark.parametrize("port", [0, -1, 65536])
async def test_what_is_no_port_is_refused(ports, port):
    with pytest.raises(InvalidRequest, match=f"1 to 65535, not {port}"):
        await ports.dial(port)


async def test_a_connection_that_the_service_resets_is_told_as_such(ports, listen):
    """Half an answer must not look like a whole one."""

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"half of")
        await writer.drain()
        await reader.readexactly(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    number = await ports.dial(await listen(reset))
    assert await ports.recv(number) == b"half of"
    await ports.send(number, b"x", False)

    with pytest.raises(PortClosed):
        await all_of(ports, number)


async def test_what_is_sent_into_a_connection_that_was_reset_is_refused(ports, listen):
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    number = await ports.dial(await listen(reset))

    with pytest.raises(PortClosed):
        await send(ports, number, bytes(20_000_000))


async def test_a_connection_that_was_hung_up_is_gone_at_both_ends(ports, listen):
    ended = asyncio.get_running_loop().create_future()

    async def until_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.set_result(await reader.read(-1))

    number = await ports.dial(await listen(until_end))

    ports.hang_up(number)
    ports.hang_up(number)

    assert await ended == b""
    with pytest.raises(PortClosed):
        await ports.recv(number)
    with pytest.raises(PortClosed):
        await ports.send(number, b"x", False)


async def test_closing_hangs_up_on_all(ports, listen):
    ended = []

    async def until_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(await reader.read(-1))
        everyone.release()

    everyone = asyncio.Semaphore(0)
    port = await listen(until_end)
    for _ in range(5):
        await ports.dial(port)

    ports.close()

    for _ in range(5):
        await everyone.acquire()
    assert ended == [b""] * 5


async def test_a_number_that_was_never_given_is_no_connection(ports):
    with pytest.raises(PortClosed):
        await ports.recv(1)
