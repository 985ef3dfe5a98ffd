"""What is typed into a session: by whom, how far it was accepted, and what the command has not taken. Does no I/O."""

from __future__ import annotations

from .errors import InputTooLong, InvalidRequest, SessionOver

CANONICAL_LINE = 4095  # bytes of a line that a terminal in canonical mode takes, without its end; termios(3)
AHEAD = 64 * 1024  # bytes that are held for a command that does not read; more has to wait
_ENDS_LINE = bytes.maketrans(b"\r\x03\x04\x1a\x1c", b"\n\n\n\n\n")  # so do return, ^D, and the keys that empty a line


class Keyboard:
    """Input of a session, from any number of writers, each with offsets of its own.

    Args:
        session: Its name.

    Attributes:
        unread: Accepted, and not yet taken by the terminal or pipe.
        closing: The pipe is to be closed once that is empty.
    """

    def __init__(self, session: str) -> None:
        self.unread = bytearray()
        self.closing = False
        self._session = session
        self._accepted: dict[str, int] = {}
        self._ended: set[tuple[str, int]] = set()  # (writer, offset behind which it ended the input)
        self._line = 0  # bytes of the line that is being typed

    @property
    def full(self) -> bool:
        """Whether more has to wait."""
        return len(self.unread) >= AHEAD

    def repeats(self, writer: str, offset: int, data: bytes, *, eof: bool) -> int | None:
        """How far `writer` is accepted if all of this was accepted before, else None."""
        accepted, end = self._accepted.get(writer, 0), offset + len(data)
        if end > accepted or (eof and (writer, end) not in self._ended):
            return None
        return accepted

    def accept(self, writer: str, offset: int, data: bytes, *, eof: bool, canonical: bool, end_key: bytes) -> int:
        """Take what is new of it, all or nothing; return how far `writer` is accepted now.

        Args:
            canonical: Whether the terminal hands on whole lines.
            end_key: What says "no more input" to a terminal; empty for a pipe.

        Raises:
            InvalidRequest: Something before `offset` never came.
            InputTooLong: The terminal would cut a line of it.
            SessionOver: The input was closed before.
        """
        accepted, end = self._accepted.get(writer, 0), offset + len(data)
        if not 0 <= offset <= accepted:
            raise InvalidRequest(f"input of {writer} from {offset} on came before its input from {accepted} on")
        fresh = data[accepted - offset :]
        if self.closing:
            raise SessionOver(self._session, "without input (it was closed)")
        line = 0
        if canonical:
            lines = fresh.translate(_ENDS_LINE).split(b"\n")
            lengths = [self._line + len(lines[0]), *map(len, lines[1:])]
            if max(lengths) > CANONICAL_LINE:
                raise InputTooLong(self._session, max(lengths))
            line = lengths[-1]
        self._line = line
        self.unread += fresh
        self._accepted[writer] = max(accepted, end)
        if eof:
            self._ended.add((writer, end))
            self.closing = not end_key
            self.unread += end_key * (2 if line else 1)  # behind an unfinished line the first one only hands that on
            self._line = 0
        return self._accepted[writer]

    def newest(self, count: int) -> dict[str, list[object]]:
        """Of the last writers that came: how far each is accepted, and whether it ended the input there."""
        last = list(self._accepted.items())[-count:]
        return {writer: [accepted, (writer, accepted) in self._ended] for writer, accepted in last}

    def clear(self) -> None:
        """Forget what the command has not taken."""
        self.unread.clear()
        self._line = 0
