"""Reads that several cursors make of one log: made once, and kept for those that come a little later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .agent.log import Chunk

KEPT = 8 * 1024 * 1024  # bytes of what was read last

Read = Callable[[str, int, int], Awaitable[list[Chunk]]]
Key = tuple[str, int, int]


class SharedReads:
    """Ten handlers of one stream fetch its output once, as long as they are not far apart.

    Args:
        read: The machine's.
        several: Whether there is more than one cursor now; a single one has nothing to share.
    """

    def __init__(self, read: Read, several: Callable[[], bool]) -> None:
        self._read, self._several = read, several
        self._under_way: dict[Key, tuple[asyncio.Task[list[Chunk]], list[None]]] = {}
        self._kept: dict[Key, list[Chunk]] = {}  # the oldest first
        self._size = 0

    async def read(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        """As `Machine.read`; the list is for all who ask, and not to be changed."""
        if not self._several():
            self._forget()
            return await self._read(session_id, offset, max_bytes)
        key = (session_id, offset, max_bytes)
        if key in self._kept:
            return self._kept[key]
        if key not in self._under_way:
            self._under_way[key] = asyncio.ensure_future(self._fetch(key)), []
        task, waiting = self._under_way[key]
        waiting.append(None)
        try:
            return await asyncio.shield(task)
        finally:
            waiting.pop()
            if not waiting and not task.done():  # nobody wants it any more
                self._under_way.pop(key)
                task.cancel()

    async def _fetch(self, key: Key) -> list[Chunk]:
        task = asyncio.current_task()
        try:
            chunks = await self._read(*key)
        finally:
            if key in self._under_way and self._under_way[key][0] is task:
                del self._under_way[key]
        if chunks:
            self._kept[key] = chunks
            self._size += _size(chunks)
            while self._size > KEPT:
                self._size -= _size(self._kept.pop(next(iter(self._kept))))
        return chunks

    def _forget(self) -> None:
        if self._kept:
            self._kept.clear()
            self._size = 0


def _size(chunks: list[Chunk]) -> int:
    return sum(len(chunk.data) for chunk in chunks)
