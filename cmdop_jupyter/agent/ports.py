"""Ports of this machine for others: each connection is a number that is asked for bytes and given bytes."""

from __future__ import annotations

import asyncio
import itertools
import os

from .errors import InvalidRequest, PortClosed

PIECE = 64 * 1024  # bytes of one answer


class Ports:
    """Connections to services that listen on this machine's loopback."""

    def __init__(self) -> None:
        self._numbers = itertools.count(int.from_bytes(os.urandom(6), "big"))  # no other agent's, before or after a cut
        self._open: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def dial(self, port: int) -> int:
        """Connect to `port`; return the connection's number.

        Raises:
            PortClosed: Nothing listens there.
        """
        if not 0 < port < 65536:
            raise InvalidRequest(f"a port is 1 to 65535, not {port}")
        try:
            ends = await asyncio.open_connection("localhost", port)
        except OSError as error:
            raise PortClosed(port, error.strerror or str(error)) from None
        number = next(self._numbers)
        self._open[number] = ends
        return number

    async def recv(self, number: int) -> bytes:
        """The next bytes from there; b"" once there are no more."""
        reader, _ = self._ends(number)
        try:
            return await reader.read(PIECE)
        except OSError:
            raise PortClosed(0, "the connection was reset") from None

    async def send(self, number: int, data: bytes, eof: bool) -> None:
        """Hand bytes over; done when they may be followed by more."""
        _, writer = self._ends(number)
        writer.write(data)
        if eof and writer.can_write_eof():
            writer.write_eof()
        try:
            await writer.drain()
        except OSError:
            raise PortClosed(0, "the connection was reset") from None

    def hang_up(self, number: int) -> None:
        """Close a connection; one that is not open is fine."""
        ends = self._open.pop(number, None)
        if ends is not None:
            ends[1].close()

    def close(self) -> None:
        for number in list(self._open):
            self.hang_up(number)

    def _ends(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return self._open[number]
        except KeyError:
            raise PortClosed(0, "the connection is closed") from None
