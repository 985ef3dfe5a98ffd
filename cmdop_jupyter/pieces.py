"""Chunks of a log in; out come the pieces a handler asked for: chunks as they are, text, or whole lines."""

from __future__ import annotations

import codecs

from .agent.log import Chunk
from .errors import InvalidRequest
from .lines import LineAssembler, check_channel

UNITS = ("chunk", "text", "line")

Piece = tuple[bytes | str, str]
"""What it is, and its channel."""


class Pieces:
    """Take the chunks of a log, give back pieces of one kind, however the chunks were cut.

    Args:
        unit: `"chunk"`: the bytes of each chunk. `"text"`: the same decoded as UTF-8, where a character that is cut in
            two comes with its second half. `"line"`: each finished line, decoded, without escape sequences and its end.
        channel: Pieces of this one only.

    Raises:
        InvalidRequest: There is no such unit or channel.
    """

    def __init__(self, unit: str = "chunk", channel: str | None = None) -> None:
        if unit not in UNITS:
            raise InvalidRequest(f"a unit is {', '.join(UNITS)}, not {unit!r}")
        check_channel(channel)
        self._unit, self._only = unit, channel
        self._lines = LineAssembler(channel)
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}

    def feed(self, chunk: Chunk) -> list[Piece]:
        """Return the pieces that `chunk` finishes, oldest first."""
        if self._only not in (None, chunk.channel):
            return []
        if self._unit == "chunk":
            return [(chunk.data, chunk.channel)]
        if self._unit == "line":
            return [(line.text, line.channel) for line in self._lines.feed(chunk)]
        decoder = self._decoders.get(chunk.channel)
        if decoder is None:
            decoder = self._decoders[chunk.channel] = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(chunk.data)
        return [(text, chunk.channel)] if text else []

    def end(self) -> list[Piece]:
        """Say that nothing follows, or that something is missing here; return what is unfinished."""
        pieces: list[Piece] = [(line.text, line.channel) for line in self._lines.end()]
        pieces += [(text, name) for name, one in self._decoders.items() if (text := one.decode(b"", True))]
        self._decoders.clear()
        return pieces
