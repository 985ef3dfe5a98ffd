"""What every kind of machine promises: the calls on its sessions, and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..agent.log import Chunk
from ..agent.status import ENDED, EXITED, HELD, LIVE, LOST, RUNNING, STARTING
from ..agent.stopping import told

__all__ = [
    "Chunk",
    "Exit",
    "Forward",
    "InputWait",
    "LinkState",
    "Machine",
    "SessionFacts",
    "StartRequest",
    "Status",
    "StopReport",
    "Tail",
]

CLOSED = "closed"  # the reason of a link that we ended
STATES = (STARTING, RUNNING, HELD, EXITED, ENDED, LOST)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended: by a code, or by a signal.

    Attributes:
        code: What it returned; None when a signal ended it.
        signal: `KILL`, `TERM` …; None when it returned.
        out_of_memory: The system's out-of-memory killer struck it, or one of its processes.
    """

    code: int | None
    signal: str | None = None
    out_of_memory: bool = False

    @property
    def ok(self) -> bool:
        return self.code == 0

    def __str__(self) -> str:
        text = f"exit {self.code}" if self.signal is None else f"ended by {self.signal}"
        return text + (" (out of memory)" if self.out_of_memory else "")


@dataclass(frozen=True, slots=True)
class StopReport:
    """What a stop took.

    Attributes:
        took: The last signal that was needed; '' when nothing was left to stop.
        seconds: How long it took.
        ended: Processes that went, as `name[pid]`.
        left: Those that did not, and why.
    """

    took: str
    seconds: float
    ended: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    def __str__(self) -> str:
        return told(self.took, self.seconds, self.ended, self.left)


@dataclass(frozen=True, slots=True)
class Status:
    """A session at one moment.

    Attributes:
        state: One of `starting, running, held, exited, ended, lost`.
        seq: Moves whenever the state does; give it back as `seen` to wait for the next change.
        end: Bytes in its log.
        newlines: Newline bytes in its log.
        output_ms: When the newest output was read, by the session's clock.
        clock_ms: The session's clock now: milliseconds since it started, as the times in its log. Once it ended: then;
            of a lost session: when the newest output was read.
        wall_ns: The machine's wall clock now.
        exit: How the command ended, once it did.
        exited_ms: When it did, by the session's clock.
        exited_ns, ended_ns: The same and the end of the log by the wall clock; 0 before.
        held: Why the log takes nothing, while it does not.
        held_by: Who keeps the output open after the exit, as `name[pid]`.
        stopping: A stop is under way.
        stopped: What the last stop took.
        dropped: The part of the log that was dropped at its limit: from, to.
        limit, policy: That limit in bytes, and what happens there.
        pid: The command's process.
    """

    state: str
    seq: int
    end: int
    newlines: int = 0
    output_ms: int = 0
    clock_ms: int = 0
    wall_ns: int = 0
    exit: Exit | None = None
    exited_ms: int = 0
    exited_ns: int = 0
    ended_ns: int = 0
    held: str = ""
    held_by: tuple[str, ...] = ()
    stopping: bool = False
    stopped: StopReport | None = None
    dropped: tuple[int, int] = (0, 0)
    limit: int = 0
    policy: str = ""
    pid: int = 0

    @property
    def live(self) -> bool:
        """Whether more output may come."""
        return self.state in LIVE

    @property
    def over(self) -> bool:
        """Whether the command is gone (its output may still be held by others)."""
        return self.state in (EXITED, ENDED, LOST)

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> Status:
        """Read what a supervisor, or its page, says."""
        ended, stopped = answer.get("exit"), answer.get("stopped")
        return cls(
            state=answer["state"],
            seq=answer["seq"],
            end=answer["end"],
            newlines=answer.get("newlines", 0),
            output_ms=answer.get("output_ms", 0),
            clock_ms=answer.get("clock_ms", 0),
            wall_ns=answer.get("wall_ns", 0),
            exit=Exit(ended.get("code"), ended.get("signal"), bool(ended.get("oom"))) if ended else None,
            exited_ms=answer.get("exited_ms", 0),
            exited_ns=answer.get("exited_ns", 0),
            ended_ns=answer.get("ended_ns", 0),
            held=answer.get("held", ""),
            held_by=tuple(answer.get("held_by", ())),
            stopping=bool(answer.get("stopping")),
            stopped=read_report(stopped) if stopped else None,
            dropped=tuple(answer.get("dropped", (0, 0))),
            limit=answer.get("limit", 0),
            policy=answer.get("policy", ""),
            pid=answer.get("pid", 0),
        )


def read_report(report: Mapping[str, Any]) -> StopReport:
    """Read what a stop took, as a supervisor says it."""
    return StopReport(report["took"], report["seconds"], tuple(report["ended"]), tuple(report["left"]))


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What is known of a session from its start on.

    Attributes:
        kind: `command` or `shell` (a login shell).
        title: The first line of its script that does something.
        tty: `split`, `full` or `none`.
        digest: Of the script and the options that matter, so that "the same command" can be told.
        log: Where its log lies on the machine that runs it.
        cols: Characters in a line of its terminals, at the start.
    """

    id: str
    name: str
    kind: str
    title: str
    tty: str
    cwd: str
    input: bool
    created_ns: int
    host: str
    digest: str
    log: str
    argv: tuple[str, ...] = ()
    cols: int = 0
    ephemeral: float | None = None

    def seconds(self, status: Status) -> float:
        """How long the command has run, or ran, by its machine's clock; until its end where that is not known."""
        if status.exited_ms or status.clock_ms:
            return (status.exited_ms or status.clock_ms) / 1000
        return max(0.0, ((status.ended_ns or status.wall_ns) - self.created_ns) / 1e9)

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> SessionFacts:
        """Read what a store says."""
        return cls(
            id=answer["id"],
            name=answer["name"],
            kind=answer["kind"],
            title=answer["title"],
            tty=answer["tty"],
            cwd=answer["cwd"],
            input=answer["input"],
            created_ns=answer["created_ns"],
            host=answer["host"],
            digest=answer.get("digest") or "",
            log=answer["log"],
            argv=tuple(answer["argv"]),
            cols=answer["cols"],
            ephemeral=answer.get("ephemeral"),
        )


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What to start. Neither `script` nor `argv`: the user's login shell.

    Attributes:
        id: Made by the client; asking twice with one id starts one session.
        free_name: Take the next free name (`api-2`) instead of refusing one in use.
        script: Text for `shell` (bash where there is one, else sh) or for the interpreter of its `#!` line.
        tty: `split` (three terminals), `full` (one) or `none` (pipes); by default split for commands, full for shells.
        input: Whether somebody may type.
        env: Variables on top of the machine's; their values are stored nowhere.
        cols, rows: Size of its terminals.
        max_log: Bytes of output to keep; `log_policy`: `drop-oldest` or `hold`.
        ephemeral: Seconds that the session outlives the last connection of `owner`; None: it does not care.
        keep_script: Leave the script on disk when the session ends.
        detach: Words in front of the command that starts its supervisor, such as `systemd-run --user --scope`.
        digest: See `SessionFacts`.
    """

    id: str
    name: str
    free_name: bool = False
    script: str | None = None
    argv: list[str] | None = None
    shell: str | None = None
    tty: str | None = None
    input: bool = True
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cols: int | None = None
    rows: int | None = None
    max_log: int | None = None
    log_policy: str | None = None
    ephemeral: float | None = None
    owner: str | None = None
    keep_script: bool = False
    digest: str | None = None
    title: str | None = None
    detach: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tail:
    """The newest part of a log.

    Attributes:
        chunks: Oldest first.
        newlines_before: Newline bytes in front of the first chunk.
        status: At the moment it was read.
    """

    chunks: list[Chunk]
    newlines_before: int
    status: Status


@dataclass(frozen=True, slots=True)
class InputWait:
    """How a session waits for input at one moment.

    Attributes:
        reading: `read`: a process sleeps until something is typed; `poll`: it waits for other things too, or for a
            while; `hidden`: its system does not tell in what it sleeps; '': nobody waits.
        echo: The terminal shows what is typed.
        canonical: It hands on whole lines; else each key, and programs show what is typed by themselves, or do not.
        signals: ^C is a signal there, and not a key as any other.
        end: Bytes in the log at that moment.
    """

    reading: str
    echo: bool
    canonical: bool
    signals: bool
    end: int


@dataclass(frozen=True, slots=True)
class LinkState:
    """A link at one moment.

    Attributes:
        state: `connecting`, `up`, `retrying` or `down`.
        reason: Why it is not up, as far as it is known.
        next_try: When it is tried again, by `time.monotonic()`; None when that is not planned.
        since: When the state began, by the same clock.
        redials: How often it came up again.
    """

    state: str
    reason: str = ""
    next_try: float | None = None
    since: float = 0.0
    redials: int = 0


class Forward(Protocol):
    """A port here that leads to a port on a machine.

    Attributes:
        port: The one here, on 127.0.0.1.
    """

    port: int

    def close(self) -> None:
        """Listen no more, and end the connections through it. On the I/O thread."""
        ...


class Machine(Protocol):
    """Somewhere commands run. Nothing here decodes, retries input, or knows of notebooks.

    All calls belong to the I/O thread's loop. Cancelling one loses nothing but its answer.
    """

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    @property
    def link(self) -> LinkState:
        """How it is reached now."""
        ...

    async def link_change(self, seen: LinkState) -> LinkState:
        """Wait until the link is not as in `seen`."""
        ...

    async def connect(self, report: Callable[[str], object] | None = None) -> dict[str, Any]:
        """Reach it now, if it is not; tell each step to `report`; return what the far side says of itself.

        Raises:
            ConnectFailed: It cannot be reached.
        """
        ...

    async def start(self, request: StartRequest) -> SessionFacts:
        """Start a session; again with the same id: return the one the first call started.

        Raises:
            InvalidRequest, NameInUse, StartFailed: Nothing was started.
        """
        ...

    async def sessions(self) -> list[tuple[SessionFacts, Status]]:
        """All sessions there are, oldest first."""
        ...

    async def find(self, wanted: str) -> SessionFacts:
        """The session of that id, or the live one of that name, or the newest ended one. Raises SessionNotFound."""
        ...

    async def status(self, session_id: str, seen: int | None = None) -> Status:
        """The session now; with `seen`, wait until its `seq` is another. What is logged later is later."""
        ...

    async def read(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        """Return what the log holds from `offset` on, at least one chunk; `[]` once the session ended there.

        Waits while there is nothing new. Cancelling loses nothing: ask again with the same offset.

        Raises:
            LinkLost: The connection broke; the session goes on.
            LogDropped: `offset` is older than what is kept; has `.first`, the oldest offset from there on.
        """
        ...

    async def read_nowait(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        """As `read`, without waiting: `[]` when there is nothing there now."""
        ...

    async def tail(self, session_id: str, max_bytes: int) -> Tail:
        """The newest `max_bytes`, or what there is."""
        ...

    async def write(self, session_id: str, writer: str, offset: int, data: bytes, *, eof: bool = False) -> int:
        """Type `data`, which begins at `offset` of what `writer` has to say; return how far it is accepted.

        The supervisor keeps what it has not seen yet, so repeating a call types nothing twice. Waits while the command
        does not read. `eof` ends the input behind it: ^D on a terminal, closed for a pipe.
        """
        ...

    async def waits_for_input(self, session_id: str) -> InputWait:
        """How somebody waits for what is typed at its terminal now. Changes nothing, and costs that machine a look."""
        ...

    async def resize(self, session_id: str, cols: int, rows: int, call: str = "") -> None:
        """Set the size of its terminals. Repeated with the same `call` it is done once, as the next two."""
        ...

    async def signal(self, session_id: str, name: str, call: str = "") -> None:
        """Send a signal to the foreground group of its terminal, or to the command's group."""
        ...

    async def stop(self, session_id: str, call: str, grace: float) -> StopReport:
        """End the command and all that belongs to it: INT, TERM, KILL, `grace` seconds apart.

        Repeated with the same `call` it is done once. Works for a lost session too.
        """
        ...

    async def limit(self, session_id: str, max_log: int, policy: str | None = None, call: str = "") -> None:
        """Change the log's size limit, in bytes."""
        ...

    async def keep_ended(self, seconds: float, max_bytes: int) -> None:
        """Set how long ended sessions are kept, and how much of all of them; reaches nobody that is not reached yet."""
        ...

    async def own(self, session_id: str, owner: str) -> None:
        """Stay connected as `owner`, for whom an ephemeral session lives."""
        ...

    async def forward(self, port: int) -> Forward:
        """Open a port here that leads to `port` there. Raises InvalidRequest for a port that cannot be."""
        ...

    async def remove(self, session_id: str) -> None:
        """Delete a session that has ended, its log with it."""
        ...

    async def close(self) -> None:
        """Let go of everything; sessions go on."""
        ...
