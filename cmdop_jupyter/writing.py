"""What one stream types into its session: bytes in, each of them typed once and in order."""

from __future__ import annotations

import asyncio
import os
import uuid

from .machines.base import Machine

PIECE = 32 * 1024  # bytes that are sent at a time


class Input:
    """One writer of a session. Belongs to the process it was made in: a forked child is a writer of its own."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._writer, self._typed = uuid.uuid4().hex, 0
        self._turn = asyncio.Lock()

    async def send(self, machine: Machine, session_id: str, data: bytes, *, eof: bool = False) -> None:
        """Type `data` behind all that was sent before; done when the machine has it. On the I/O thread."""
        async with self._turn:
            begin = at = self._typed
            end = begin + len(data)
            while True:
                piece = data[at - begin : at - begin + PIECE]
                last = at + len(piece) == end
                at = self._typed = await machine.write(session_id, self._writer, at, piece, eof=eof and last)
                if at >= end:
                    return
