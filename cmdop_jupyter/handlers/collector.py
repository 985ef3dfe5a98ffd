"""Chunks in, all of them out again, by channel or as text; above a limit the newest."""

from __future__ import annotations

from collections import deque

from ..agent.log import CHANNELS, Chunk
from ..errors import InvalidRequest, TooMuch
from ..pieces import Pieces
from ..runtime import Lock
from ..words import human_bytes
from .given import checked

MAX_BYTES = 64 * 1024 * 1024  # as much as `Stream.text` gives in one piece


class CollectorFull(TooMuch):
    """A Collector was given more than it keeps, so it does not have all. `size` and `limit` are as for TooMuch."""

    def __str__(self) -> str:
        return (
            f"this collector was given {self.size} bytes and keeps the newest {self.limit} only: `tail` has those; a "
            f"larger max_bytes, or clear() now and then, keeps all, and a stream's log has it: `stream.read()`"
        )


class Collector:
    """Keep all output, and give it as bytes or text.

        collector = Collector()
        stream.on_output(collector.add)
        collector.text, collector.channel("stderr"), len(collector)

    Above `max_bytes` it keeps the newest; then `data`, `text` and `channel` raise rather than give part for all, and
    `tail` has what is kept.

    Args:
        max_bytes: What it keeps at most.

    Attributes:
        dropped: Bytes that it does not have any more.
    """

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        if max_bytes < 1:
            raise InvalidRequest(f"max_bytes is 1 or more, got {max_bytes}; the default is {MAX_BYTES}")
        self.max_bytes, self.dropped = max_bytes, 0
        self._pieces: deque[tuple[bytes, str]] = deque()
        self._size = 0
        self._gone = 0  # bytes of the oldest piece that do not count any more
        self._lock = Lock()

    def add(self, data: bytes, *channel: str) -> None:
        """Take a chunk, from any thread."""
        piece = checked(data, channel)
        with self._lock:
            self._pieces.append(piece)
            self._size += len(piece[0])
            excess = max(0, self._size - self.max_bytes)
            self._size -= excess
            self._gone += excess
            self.dropped += excess
            while self._pieces and self._gone >= len(self._pieces[0][0]):
                self._gone -= len(self._pieces.popleft()[0])

    def __call__(self, data: bytes, *channel: str) -> None:
        """As `add`."""
        self.add(data, *channel)

    @property
    def data(self) -> bytes:
        """All bytes, of all channels, as they came. Raises CollectorFull when some were dropped."""
        return b"".join(data for data, _ in self._all())

    @property
    def text(self) -> str:
        """All of it, decoded channel by channel; escape sequences stay. Raises CollectorFull as `data` does."""
        decoder = Pieces("text")
        texts = [piece for data, channel in self._all() for piece in decoder.feed(Chunk(0, channel, 0, 0, data))]
        return "".join(str(text) for text, _ in [*texts, *decoder.end()])

    def channel(self, name: str) -> bytes:
        """All bytes of `stdout`, `stderr` or `tty`.

        Raises:
            InvalidRequest: There is no such channel, or the client did not tell which the bytes are of.
            CollectorFull: Some were dropped.
        """
        if name not in CHANNELS:
            raise InvalidRequest(f"a channel is {', '.join(CHANNELS)}, not {name!r}")
        pieces = self._all()
        if any(not channel for _, channel in pieces):
            raise InvalidRequest("these bytes came without their channel: register `collector.add` itself for both")
        return b"".join(data for data, channel in pieces if channel == name)

    @property
    def tail(self) -> bytes:
        """The bytes that are kept: all, or the newest `max_bytes`."""
        with self._lock:
            return b"".join(data for data, _ in self._pieces)[self._gone :]

    def clear(self) -> None:
        """Forget all, also that some were dropped."""
        with self._lock:
            self._pieces.clear()
            self._size = self._gone = self.dropped = 0

    def __len__(self) -> int:
        """Bytes that are kept."""
        return self._size

    def __repr__(self) -> str:
        dropped = f", the {human_bytes(self.dropped)} before were dropped" if self.dropped else ""
        return f"<{type(self).__name__}: {human_bytes(self._size)} of at most {human_bytes(self.max_bytes)}{dropped}>"

    def _all(self) -> list[tuple[bytes, str]]:
        with self._lock:
            if self.dropped:
                raise CollectorFull(self._size + self.dropped, self.max_bytes)
            return list(self._pieces)
