"""The streams of this process by name, how one is found, and figures of one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import Detached, InvalidRequest, SessionNotFound

if TYPE_CHECKING:
    from .stream import Stream


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of a stream at one moment.

    Attributes:
        bytes, lines: In the log.
        chunks: Handed on by this stream's cursors so far: to handlers, waits, iterations and sinks.
        seconds: Since the session started, until it ended.
        lag: Bytes that each of those cursors is behind, by name; `name#2` is the second of that name.
        redials: How often the link to its machine came up again.
        handler_errors: How often handlers raised, and sinks failed.
        dropped: Bytes of the log that were dropped at its limit.
    """

    bytes: int
    lines: int
    chunks: int
    seconds: float
    lag: Mapping[str, int]
    redials: int
    handler_errors: int
    dropped: int


class Streams(Mapping[str, "Stream"]):
    """Streams by name; `latest` is the one that came last. Any thread may look while the I/O thread adds one."""

    def __init__(self) -> None:
        self._by_name: dict[str, Stream] = {}
        self.fleets: dict[str, Mapping[str, Stream]] = {}  # by name; their streams are here as `machine:name`
        self.attach: Callable[[str], Stream] | None = None  # finds a session that has no stream here yet

    @property
    def latest(self) -> Stream | None:
        return next(reversed(list(self._by_name.values())), None)

    def add(self, stream: Stream) -> None:
        """Put a stream in, as the latest."""
        self._by_name.pop(stream.name, None)
        self._by_name[stream.name] = stream

    def forget(self, session_id: str) -> None:
        """Take the streams of a session out."""
        for name, one in list(self._by_name.items()):
            if one._facts is not None and one._facts.id == session_id:
                del self._by_name[name]

    def drop(self, stream: Stream) -> None:
        """Take a stream out."""
        for name, one in list(self._by_name.items()):
            if one is stream:
                del self._by_name[name]

    def find(self, wanted: Stream | str | None) -> Stream:
        """That stream, or the one of that name, or the latest. Raises SessionNotFound."""
        if wanted is None:
            latest = self.latest
            if latest is None:
                raise Detached(
                    "there is no stream in this process yet; `%%cmdop` starts one, `%cmdop attach NAME` finds one"
                )
            return latest
        if not isinstance(wanted, str):
            return wanted
        if wanted not in self._by_name:
            if wanted in self.fleets:
                one = next(iter(self.fleets[wanted]), "web1")
                raise InvalidRequest(
                    f"{wanted} is a fleet of {len(self.fleets[wanted])} machines: `wait_all(pattern, {wanted!r})` "
                    f"waits for all of them, `{one}:{wanted}` is one"
                )
            if self.attach is not None:
                return self.attach(wanted)
            raise SessionNotFound(wanted, difflib.get_close_matches(wanted, list(self), 3))
        return self._by_name[wanted]

    def __getitem__(self, name: str) -> Stream:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._by_name))

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return "\n".join(map(repr, list(self._by_name.values()))) or "no streams yet; `%%cmdop` starts one"


streams = Streams()
