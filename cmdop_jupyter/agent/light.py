"""What `signal`, `socket` and `json` are made of, without the packages: those load `enum` and `re`, unused by us.

That is a quarter of a supervisor's memory and a third of its start. An interpreter made otherwise gets the packages.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    import socket
    from collections.abc import Callable
    from typing import Any
else:
    try:
        import _signal as signal
        import _socket as socket
    except ImportError:
        import signal
        import socket

__all__ = ["accept", "dumps", "loads", "signal", "socket"]


class _Rules:  # what the scanner asks for
    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_float, parse_int, parse_constant = float, int, float


def _parts_of_json() -> tuple[Callable[[str, int], tuple[Any, int]], Callable[[str], str]]:
    """A scanner (text, start -> value, end) and what puts text in quotes."""
    try:
        import _json
    except ImportError:
        import json

        return json.JSONDecoder().raw_decode, json.dumps
    return _json.make_scanner(_Rules), _json.encode_basestring_ascii  # type: ignore[arg-type]


_scan, _quoted = _parts_of_json()


def loads(data: bytes | bytearray) -> Any:
    """What the JSON text `data` says. Raises ValueError when it is none."""
    text = data.decode().strip(" \t\r\n")
    try:
        value, end = _scan(text, 0)
    except (StopIteration, SystemError, ValueError):
        end = -1
    if end == len(text):
        return value
    import json

    return json.loads(text)  # raises, and says what is wrong


def dumps(value: object) -> str:
    """`value` as JSON without spaces, in ASCII. Raises TypeError or ValueError for what JSON cannot say."""
    if isinstance(value, str):
        return _quoted(value)
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and value - value != 0:
        raise ValueError(f"JSON has no {value}")
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join([f"{_quoted(key)}:{dumps(value[key])}" for key in value]) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join([dumps(item) for item in value]) + "]"
    raise TypeError(f"{type(value).__name__} is nothing that JSON can say")


def accept(listener: socket.socket) -> socket.socket:
    """The next connection of `listener`."""
    return socket.socket(fileno=listener._accept()[0])  # type: ignore[attr-defined]
