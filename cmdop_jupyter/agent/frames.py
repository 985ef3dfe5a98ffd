"""A header and bytes, to and from one byte stream: framing without I/O.

A frame is `header length u32 | body length u32` (big endian), a JSON object in UTF-8, and the body as it is.
"""

from __future__ import annotations

import struct

from .errors import CmdopError
from .light import dumps, loads

MAX_HEADER = 256 * 1024  # bytes; a status is under 4 KiB, a list of sessions may be long
MAX_BODY = 1024 * 1024
ROOM = 256 * 1024  # bytes that are read at a time
_LENGTHS = struct.Struct(">II")


class FrameError(CmdopError, ValueError):
    """Bytes that are no frame; nothing behind them can be trusted, so the connection must be closed."""


def encode(header: dict[str, object], body: bytes = b"") -> bytes:
    """Return the bytes of one frame."""
    head = dumps(header).encode()
    if len(head) > MAX_HEADER or len(body) > MAX_BODY:
        raise FrameError(f"a frame of {len(head)} and {len(body)} bytes is above {MAX_HEADER} and {MAX_BODY}")
    return _LENGTHS.pack(len(head), len(body)) + head + body


class FrameDecoder:
    """Take bytes, give back the frames they finish, however the bytes were cut.

    Who reads from a file may read straight into `room()`, and say by `took()` how much came; `feed` does both.

    Raises:
        FrameError: From `feed` and `took`, when the bytes make no sense.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._begin = self._end = 0  # what of it is not decoded yet

    def room(self, size: int = ROOM) -> memoryview:
        """Where at least `size` bytes can be put; release it before the next call."""
        if len(self._buffer) - self._end < size:
            rest = self._buffer[self._begin : self._end]
            if len(rest) + size > len(self._buffer):
                self._buffer = bytearray(2 * len(rest) + 4 * size)  # so that what is unfinished is seldom moved
            self._buffer[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        return memoryview(self._buffer)[self._end :]

    def feed(self, data: bytes) -> list[tuple[dict[str, object], bytes]]:
        """Return the (header, body) pairs that `data` finishes, oldest first."""
        with self.room(len(data)) as room:
            room[: len(data)] = data
        return self.took(len(data))

    def took(self, size: int) -> list[tuple[dict[str, object], bytes]]:
        """As `feed`, with `size` bytes that were put into `room()`."""
        self._end += size
        buffer, at, end = self._buffer, self._begin, self._end
        frames = []
        with memoryview(buffer) as view:
            while end - at >= _LENGTHS.size:
                head_size, body_size = _LENGTHS.unpack_from(buffer, at)
                if head_size > MAX_HEADER or body_size > MAX_BODY:
                    raise FrameError(f"not a frame: it would have {head_size} and {body_size} bytes")
                body_at = at + _LENGTHS.size + head_size
                if end < body_at + body_size:
                    break
                try:
                    header = loads(bytes(view[at + _LENGTHS.size : body_at]))
                except (ValueError, RecursionError) as error:
                    raise FrameError(f"not a frame: its header is no JSON ({error})") from None
                if not isinstance(header, dict):
                    raise FrameError("not a frame: its header is no JSON object")
                at = body_at + body_size
                frames.append((header, bytes(view[body_at:at])))
        self._begin, self._end = (0, 0) if at == end else (at, end)
        return frames
