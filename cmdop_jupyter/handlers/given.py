"""What clients and users hand to a handler, checked."""

from __future__ import annotations

from ..errors import InvalidRequest


def checked(data: bytes, channel: tuple[str, ...]) -> tuple[bytes, str]:
    """Return a chunk and its channel, '' where the client does not tell. Raises InvalidRequest for all else."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InvalidRequest(
            f'this takes bytes, not {type(data).__name__}: leave `unit` at "chunk", or give it `text.encode()`'
        )
    if len(channel) > 1:
        raise InvalidRequest(f"a chunk comes with one channel, not with {channel}")
    return bytes(data), channel[0] if channel else ""


def check_callable(what: str, value: object) -> None:
    """Raise InvalidRequest unless it is a function, or None."""
    if value is not None and not callable(value):
        raise InvalidRequest(f"{what} is a function, not {value!r}; all other settings are given by name")
