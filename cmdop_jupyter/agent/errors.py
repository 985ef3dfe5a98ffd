"""What can go wrong where commands run: one tree of exceptions, whose messages say what happened and what to do."""

from __future__ import annotations


class CmdopError(Exception):
    """Base of every error of this package.

    Subclasses keep their facts as positional arguments (so they pickle and cross a link) and build their text from
    them in `__str__`.
    """

    def _render_traceback_(self) -> list[str]:
        """One red line in IPython: the people who see it did not write the frames below it."""
        return [f"\x1b[31m{type(self).__name__}\x1b[39m: {self}"]


class InvalidRequest(CmdopError, ValueError):
    """What was asked makes no sense; nothing was done."""


class NameInUse(CmdopError, ValueError):
    """A live session has that name.

    Attributes:
        name: The name that was asked for.
        session_id: Who has it.
    """

    def __init__(self, name: str, session_id: str) -> None:
        super().__init__(name, session_id)
        self.name, self.session_id = name, session_id

    def __str__(self) -> str:
        return (
            f"a session called {self.name!r} is running ({self.session_id}); take another --name, stop it "
            f"(`%cmdop stop {self.name}`), or say --if-running attach or --if-running replace"
        )


class SessionNotFound(CmdopError, LookupError):
    """No session has that id or name.

    Attributes:
        wanted: What was asked for.
        nearest: Names that look like it.
    """

    def __init__(self, wanted: str, nearest: tuple[str, ...] | list[str] = ()) -> None:
        super().__init__(wanted, tuple(nearest))
        self.wanted, self.nearest = wanted, tuple(nearest)

    def __str__(self) -> str:
        hint = f"; did you mean {' or '.join(self.nearest)}?" if self.nearest else ""
        return f"no session {self.wanted!r} here{hint} (`%cmdop ps` lists them)"


class StartFailed(CmdopError, OSError):
    """The command was not started; nothing runs.

    Attributes:
        reason: What the system said.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"not started: {self.reason}"


class SessionOver(CmdopError, RuntimeError):
    """Input, a size or a signal for a session that takes none any more.

    Attributes:
        session: Its name.
        state: The state it is in, in words.
    """

    def __init__(self, session: str, state: str) -> None:
        super().__init__(session, state)
        self.session, self.state = session, state

    def __str__(self) -> str:
        return f"{self.session} is {self.state}: it takes no input and no signals; its log can still be read"


class InputTooLong(CmdopError, ValueError):
    """A line longer than a terminal in canonical mode takes (4,095 bytes); none of this write was typed.

    Attributes:
        session: Its name.
        length: Bytes of the line.
    """

    def __init__(self, session: str, length: int) -> None:
        super().__init__(session, length)
        self.session, self.length = session, length

    def __str__(self) -> str:
        return (
            f"{self.session} reads its terminal line by line, and a terminal cuts a line at 4095 bytes; this one has "
            f"{self.length}. Nothing was typed. Send shorter lines, a file, or start it with --tty none"
        )


class LogDropped(CmdopError, LookupError):
    """Bytes that were asked for are older than what is kept.

    Attributes:
        offset: What was asked for.
        first: The oldest offset from there on that there is.
    """

    def __init__(self, offset: int, first: int) -> None:
        super().__init__(offset, first)
        self.offset, self.first = offset, first

    def __str__(self) -> str:
        return (
            f"bytes {self.offset} to {self.first} of the log were dropped at its size limit; "
            f"the log goes on at {self.first}"
        )


class PortClosed(CmdopError, ConnectionError):
    """A connection to a port that is not there, or not any more.

    Attributes:
        port: Its number; 0 for a connection that was open.
        reason: What the system said.
    """

    def __init__(self, port: int, reason: str) -> None:
        super().__init__(port, reason)
        self.port, self.reason = port, reason

    def __str__(self) -> str:
        return f"nothing answers at port {self.port} there ({self.reason})" if self.port else self.reason


class StoreRefused(CmdopError, PermissionError):
    """The directory of sessions is not safe to use, or cannot be made.

    Attributes:
        path: The directory.
        reason: Why not.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return (
            f"sessions cannot be kept in {self.path}: {self.reason}; "
            f"mend that, or set CMDOP_STATE_DIR to a folder of yours"
        )


class NotSupported(CmdopError, NotImplementedError):
    """This system cannot do that.

    Attributes:
        what: What is missing, and what would serve.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return self.what
