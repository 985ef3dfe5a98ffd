"""Every error of this package, one tree: those of the agent, and those that only a client can meet.

CmdopError
├── InvalidRequest, PatternError, NameInUse, SessionNotFound, UnknownMachine    asked wrongly: nothing was done
├── ConfigError, BadKey                                                         a file or key says what cannot be
├── StartFailed, StoreRefused, NotSupported, ConnectFailed (HostKeyChanged)     could not be started
│   └── of a relay: RelayUnreachable, KeyRefused, MachineOffline
├── SessionOver, InputTooLong, Detached, LogDropped, TooMuch, LinkLost, PortClosed    a stream cannot do that now
├── PromptCameBack                                                              a prompt was answered in vain
├── ObserverOnly, Refused                                                       this stream, or this key, never can
├── WaitTimeout, SessionEnded, FailPatternSeen, PatternTooSlow                  how a wait may end
└── StillRunning, CommandFailed, CommandTimeout                                 how waiting for an exit may end
"""

from __future__ import annotations

from .agent.errors import (
    CmdopError,
    InputTooLong,
    InvalidRequest,
    LogDropped,
    NameInUse,
    NotSupported,
    PortClosed,
    SessionNotFound,
    SessionOver,
    StartFailed,
    StoreRefused,
)

__all__ = [
    "BadKey",
    "CmdopError",
    "CommandFailed",
    "CommandTimeout",
    "ConfigError",
    "ConnectFailed",
    "Detached",
    "FailPatternSeen",
    "HostKeyChanged",
    "InputTooLong",
    "InvalidRequest",
    "KeyRefused",
    "LinkLost",
    "LogDropped",
    "MachineOffline",
    "NameInUse",
    "NotSupported",
    "ObserverOnly",
    "PatternError",
    "PatternTooSlow",
    "PortClosed",
    "PromptCameBack",
    "Refused",
    "RelayUnreachable",
    "SessionEnded",
    "SessionNotFound",
    "SessionOver",
    "StartFailed",
    "StillRunning",
    "StoreRefused",
    "TooMuch",
    "UnknownMachine",
    "WaitTimeout",
]


class PatternError(CmdopError, ValueError):
    """A pattern that does not compile.

    Attributes:
        pattern: As it was given.
        reason: What the compiler says.
        position: Where, in characters; None when it does not say.
    """

    def __init__(self, pattern: str | bytes, reason: str, position: int | None = None) -> None:
        super().__init__(pattern, reason, position)
        self.pattern, self.reason, self.position = pattern, reason, position

    def __str__(self) -> str:
        where = f" at position {self.position}" if self.position is not None else ""
        return f"/{_text(self.pattern)}/ is no regular expression: {self.reason}{where}"


class PatternTooSlow(CmdopError, TimeoutError):
    """A pattern that needs more than its time on one line. The session goes on.

    Attributes:
        pattern: As it was given.
        seconds: The time it had.
        line_head: How the line begins.
        offset: Where the line begins in the log, in bytes.
    """

    def __init__(self, pattern: str | bytes, seconds: float, line_head: str, offset: int) -> None:
        super().__init__(pattern, seconds, line_head, offset)
        self.pattern, self.seconds, self.line_head, self.offset = pattern, seconds, line_head, offset

    def __str__(self) -> str:
        return (
            f"/{_text(self.pattern)}/ took more than {self.seconds:g} s on the line {self.line_head!r} at byte "
            f"{self.offset}; avoid nested repeats such as (a+)+"
        )


class UnknownMachine(CmdopError, LookupError):
    """No machine has that name.

    Attributes:
        wanted: What was asked for.
        nearest: Names that look like it.
    """

    def __init__(self, wanted: str, nearest: tuple[str, ...] = ()) -> None:
        super().__init__(wanted, nearest)
        self.wanted, self.nearest = wanted, nearest

    def __str__(self) -> str:
        hint = f"; did you mean {' or '.join(self.nearest)}?" if self.nearest else "."
        if self.wanted.startswith("relay:"):
            name = self.wanted.removeprefix("relay:")
            return (
                f"no machine called {name!r} was ever on the relay, as far as this key sees{hint} "
                f"`cmdop-relay serve --machine {name}` there puts it on"
            )
        if self.wanted.startswith("@"):
            return f"no group or tag is called {self.wanted!r}{hint} They are what cmdop.toml says they are"
        if " " in self.wanted.strip():
            return f"no machine is called {self.wanted!r}; is it a command? `create(command=…)` runs one here"
        return (
            f"no machine is called {self.wanted!r}{hint} Names come from cmdop.toml and from the Host lines of "
            f"~/.ssh/config, or say how to get there: user@host, ssh://host:port, docker://container, "
            f"k8s://namespace/pod, sudo://user. `local`, or no name at all, is this machine"
        )


class UnknownMachines(UnknownMachine):
    """Some of the names that were given are no machines; nothing was started on any.

    Attributes:
        errors: What is wrong with each, in the order of their names.
        wanted, nearest: Of the first.
    """

    def __init__(self, errors: tuple[CmdopError, ...]) -> None:
        first = next((error for error in errors if isinstance(error, UnknownMachine)), UnknownMachine("?"))
        super().__init__(first.wanted, first.nearest)
        self.args = (errors,)
        self.errors = errors

    def __str__(self) -> str:
        unknown = [error for error in self.errors if isinstance(error, UnknownMachine)]
        others = [str(error) for error in self.errors if not isinstance(error, UnknownMachine)]
        told = [
            f"{error.wanted} (did you mean {' or '.join(error.nearest)}?)" if error.nearest else error.wanted
            for error in unknown
        ]
        words = ([f"no machine is called {', '.join(told)}"] if told else []) + others
        return (
            f"{'; '.join(words)}. Nothing was started; `%cmdop machines` lists the names there are, and in a cell the "
            f"command goes below the first line"
        )


class ConfigError(CmdopError, ValueError):
    """A configuration file says something that cannot be; none of it was used.

    Attributes:
        path: The file.
        key: Where in it, as in `machines.web1.python`; '' for the file as a whole.
        reason: What is wrong there, and what would be right.
    """

    def __init__(self, path: str, key: str, reason: str) -> None:
        super().__init__(path, key, reason)
        self.path, self.key, self.reason = path, key, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.key + ': ' if self.key else ''}{self.reason}"


class BadKey(CmdopError, ValueError):
    """A key for a relay that is none, or not whole; nothing was tried with it. The key itself is in no message.

    Attributes:
        reason: What is wrong with it, and what to do.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Detached(CmdopError, RuntimeError):
    """The stream is not attached to a session, or let go of it; `attach` brings it back."""


class ObserverOnly(CmdopError, PermissionError):
    """A stream that only observes was asked to change something; nothing was done.

    Attributes:
        stream: Name of the session.
        what: What was asked for: `type`, `stop` …
    """

    def __init__(self, stream: str, what: str) -> None:
        super().__init__(stream, what)
        self.stream, self.what = stream, what

    def __str__(self) -> str:
        return f'this stream only observes {self.stream} and cannot {self.what}; take stream(mode="operator")'


class Refused(CmdopError, PermissionError):
    """A call on a relay that its machine does not obey, or an answer that is not of who it should be; nothing was done.

    Attributes:
        reason: What is wrong with it.
        who: Who sent it, as far as that is proven; '' where it is not.
        answer: Whether the caller is proven, so that it may be told.
    """

    def __init__(self, reason: str, who: str = "", *, answer: bool = False) -> None:
        super().__init__(reason, who)
        self.reason, self.who, self.answer = reason, who, answer

    def __str__(self) -> str:
        return f"refused{f' for {self.who}' if self.who else ''}: {self.reason}"


class TooMuch(CmdopError, ValueError):
    """A text too large to give in one piece.

    Attributes:
        size: Its bytes.
        limit: What is given in one piece.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size, self.limit = size, limit

    def __str__(self) -> str:
        return (
            f"the log has {self.size} bytes, above the {self.limit} that are given in one piece; take `lines()`, "
            f"`grep(pattern)`, `tail(n)`, or `read(start, max_bytes)`"
        )


class ConnectFailed(CmdopError, ConnectionError):
    """A machine could not be reached; nothing was started there.

    Attributes:
        machine: Its name.
        reason: What was seen.
        remedy: What to do about it; '' where that is not known.
        busy: The far side had too much to do: worth another try at once.
        needs_you: Another try would end the same until a person has done something.
    """

    busy = needs_you = False

    def __init__(self, machine: str, reason: str, remedy: str = "") -> None:
        super().__init__(machine, reason, remedy)
        self.machine, self.reason, self.remedy = machine, reason, remedy

    def __str__(self) -> str:
        return f"{self.machine} was not reached: {self.reason}" + (f"; {self.remedy}" if self.remedy else "")


class HostKeyChanged(ConnectFailed):
    """A machine shows another host key than the one known of it. It may be somebody in between.

    Attributes:
        offered: Fingerprint of the key it shows.
        known: Fingerprints of those known of it; () where they cannot be read.
        file: The known_hosts file that has them; '' where ssh does not say.
        line: The first one's line there; 0 where ssh does not say.
    """

    needs_you = True

    def __init__(
        self, machine: str, reason: str, remedy: str, offered: str, known: tuple[str, ...], file: str, line: int
    ) -> None:
        super().__init__(machine, reason, remedy)
        self.args = (machine, reason, remedy, offered, known, file, line)
        self.offered, self.known, self.file, self.line = offered, known, file, line


class RelayUnreachable(ConnectFailed):
    """No server of a relay answers; what runs on its machines goes on.

    Attributes:
        url: Where it was looked for.
    """

    def __init__(self, url: str, reason: str) -> None:
        remedy = "look whether nats-server runs there and this network lets you out to it"
        super().__init__(f"the relay {url}", reason, remedy)
        self.args = (url, reason)
        self.url = url


class KeyRefused(ConnectFailed):
    """A relay does not know the key that it was shown; it was revoked, or is another relay's.

    Attributes:
        url: The relay.
    """

    needs_you = True

    def __init__(self, url: str) -> None:
        super().__init__(
            f"the relay {url}",
            "it refuses the key",
            "ask whoever runs `cmdop-relay keys` there for a new one; `list` shows whether yours was revoked",
        )
        self.args = (url,)
        self.url = url


class MachineOffline(ConnectFailed):
    """A machine that the relay knows is not connected to it; its sessions go on.

    Attributes:
        since_ns: When it was heard of last, by the relay's clock; 0 where that is not known.
        said_so: It was stopped in order, and did not just vanish.
    """

    def __init__(self, machine: str, reason: str, since_ns: int = 0, said_so: bool = False) -> None:
        name = machine.removeprefix("relay:")
        remedy = f"look there whether `cmdop-relay serve --machine {name}` runs and gets out to the relay"
        super().__init__(machine, reason, remedy)
        self.args = (machine, reason, since_ns, said_so)
        self.since_ns, self.said_so = since_ns, said_so


class LinkLost(CmdopError, ConnectionError):
    """The connection to a machine broke. Sessions there go on.

    Attributes:
        machine: Its name.
        reason: What was seen.
    """

    def __init__(self, machine: str, reason: str) -> None:
        super().__init__(machine, reason)
        self.machine, self.reason = machine, reason

    def __str__(self) -> str:
        return f"the link to {self.machine} broke ({self.reason}); sessions there go on"


class WaitTimeout(CmdopError, TimeoutError):
    """The pattern was not seen in time. The session goes on.

    Attributes:
        pattern: What was awaited.
        seconds: How long we waited.
        stream: Name of the session.
        last_line: The newest line since the wait began; None when there was none.
        start: Where in the log it began.
    """

    def __init__(self, pattern: str, seconds: float, stream: str, last_line: str | None, start: int = 0) -> None:
        super().__init__(pattern, seconds, stream, last_line, start)
        self.pattern, self.seconds, self.stream, self.last_line = pattern, seconds, stream, last_line
        self.start = start

    def __str__(self) -> str:
        if self.last_line is not None:
            seen = f"last line {self.last_line!r}"
        elif self.start:
            seen = f'no line came behind byte {self.start}, where this wait began (start="begin" looks at all of it)'
        else:
            seen = "no line came"
        return f"no line of {self.stream} matched /{self.pattern}/ in {self.seconds:g} s; {seen}. It goes on"


class SessionEnded(CmdopError, RuntimeError):
    """The session ended, or its command failed, before the pattern was seen.

    Attributes:
        pattern: What was awaited.
        stream: Name of the session.
        how: `exit 3`, `ended by KILL`, `lost` …
        last_lines: The newest lines, oldest first.
    """

    def __init__(self, pattern: str, stream: str, how: str, last_lines: tuple[str, ...] = ()) -> None:
        super().__init__(pattern, stream, how, last_lines)
        self.pattern, self.stream, self.how, self.last_lines = pattern, stream, how, last_lines

    def __str__(self) -> str:
        return _with_lines(f"{self.stream} ended ({self.how}) and no line matched /{self.pattern}/", self.last_lines)


class FailPatternSeen(CmdopError, RuntimeError):
    """A line matched `fail` first.

    Attributes:
        pattern: The fail pattern.
        stream: Name of the session.
        line: The line.
        match: The `Match`; None after pickling.
    """

    def __init__(self, pattern: str, stream: str, line: str, match: object = None) -> None:
        super().__init__(pattern, stream, line)
        self.pattern, self.stream, self.line, self.match = pattern, stream, line, match

    def __str__(self) -> str:
        return f"{self.stream} printed a line that matches fail=/{self.pattern}/: {self.line!r}"


class StillRunning(CmdopError, TimeoutError):
    """The command has not exited in time. It goes on.

    Attributes:
        stream: Name of the session.
        seconds: How long we waited.
    """

    def __init__(self, stream: str, seconds: float) -> None:
        super().__init__(stream, seconds)
        self.stream, self.seconds = stream, seconds

    def __str__(self) -> str:
        return f"{self.stream} has not exited in {self.seconds:g} s and goes on; `%cmdop stop {self.stream}` ends it"


class CommandFailed(CmdopError, RuntimeError):
    """A command that was waited for did not exit with 0.

    Attributes:
        stream: Name of the session.
        how: `exit 3`, `ended by KILL`, `lost`.
        last_lines: The newest lines, oldest first.
    """

    def __init__(self, stream: str, how: str, last_lines: tuple[str, ...] = ()) -> None:
        super().__init__(stream, how, last_lines)
        self.stream, self.how, self.last_lines = stream, how, last_lines

    def __str__(self) -> str:
        return _with_lines(f"{self.stream} failed ({self.how})", self.last_lines)


class CommandTimeout(CmdopError, TimeoutError):
    """A command that was executed took longer than it may, and was stopped.

    Attributes:
        command: Its text.
        seconds: How long it had.
        stdout, stderr: What it said until then.
        stopped: What the stop took, as a text; '' where its machine could not be asked.
    """

    def __init__(self, command: str, seconds: float, stdout: bytes, stderr: bytes, stopped: str) -> None:
        super().__init__(command, seconds, stdout, stderr, stopped)
        self.command, self.seconds, self.stdout, self.stderr, self.stopped = command, seconds, stdout, stderr, stopped

    def __str__(self) -> str:
        first = self.command.strip().splitlines()[0][:80] if self.command.strip() else ""
        how = self.stopped or "its machine is not reached now; it is stopped as soon as it is"
        return f"{first!r} did not exit in {self.seconds:g} s: {how}"


def _with_lines(text: str, lines: tuple[str, ...]) -> str:
    if not lines:
        return text + "; it printed nothing"
    return text + "; its last lines:\n" + "\n".join("  " + line for line in lines)


def _text(pattern: str | bytes) -> str:
    return pattern if isinstance(pattern, str) else repr(pattern)[2:-1]


class PromptCameBack(CmdopError):
    """A prompt that was answered several times and asks again: it is left to you. The session goes on.

    Attributes:
        text: What it asks.
        times: How often it was answered.
    """

    def __init__(self, text: str, times: int) -> None:
        super().__init__(text, times)
        self.text, self.times = text, times

    def __str__(self) -> str:
        return f"{self.text.strip()!r} was answered {self.times} times and asks again; it is left to you (send_input)"
