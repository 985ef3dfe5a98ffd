"""Sessions of several machines: what is told of one, and which one is meant by a name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .errors import SessionNotFound
from .machines.base import Exit, SessionFacts, Status
from .words import human_bytes, human_seconds

__all__ = ["Session", "SessionNotSeen", "meant", "newest_shell", "once"]

ACTIVE = ("starting", "running", "held")


@dataclass(frozen=True, slots=True, repr=False)
class Session:
    """A session at the moment it was asked for.

    Attributes:
        machine: Name of a machine that has it.
        facts: What is known of it from its start on.
        status: What may change.
    """

    machine: str
    facts: SessionFacts
    status: Status

    @property
    def session_id(self) -> str:
        return self.facts.id

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def kind(self) -> str:
        """`command` or `shell` (a login shell)."""
        return self.facts.kind

    @property
    def title(self) -> str:
        """The first line of its script that does something."""
        return self.facts.title

    @property
    def state(self) -> str:
        """`starting`, `running`, `held`, `exited`, `ended` or `lost`."""
        return self.status.state

    @property
    def exit(self) -> Exit | None:
        """How the command ended; None while it runs, and where it was lost."""
        return self.status.exit

    @property
    def seconds(self) -> float:
        """How long the command has run, or ran."""
        return self.facts.seconds(self.status)

    def __repr__(self) -> str:
        where = "this machine" if self.machine == "local" else self.machine
        exit = f", {self.exit}" if self.exit is not None else ""
        ran, size = human_seconds(self.seconds), human_bytes(self.status.end)
        return f"<Session {self.name} ({self.session_id}) on {where}: {self.kind}, {self.state} {ran}, {size}{exit}>"


class SessionNotSeen(SessionNotFound):
    """No session of that name on the machines that answered; others did not.

    Attributes:
        unasked: Why not, a sentence each.
    """

    def __init__(self, wanted: str, nearest: Sequence[str], unasked: Sequence[str]) -> None:
        super().__init__(wanted, tuple(nearest))
        self.args = (wanted, tuple(nearest), tuple(unasked))
        self.unasked = tuple(unasked)

    def __str__(self) -> str:
        return f"{super().__str__()}; not everywhere was looked: {'; '.join(self.unasked)}"


def meant(wanted: str, found: Iterable[Session]) -> list[Session]:
    """The session that is meant: by id, else what runs by that name, else the newest that ended; this machine's first.

    One of each machine that has one, where several others do.
    """
    named = [one for one in once(found) if wanted in (one.facts.id, one.facts.name)]
    named = [one for one in named if one.facts.id == wanted] or named
    named = [one for one in named if one.status.live] or named
    named = [one for one in named if one.machine == "local"] or named
    newest: dict[str, Session] = {}
    for one in sorted(named, key=lambda one: one.facts.created_ns):
        newest[one.machine] = one
    return list(newest.values())


def newest_shell(found: Iterable[Session]) -> Session | None:
    """The login shell that was started last, of those that run and that nobody is stopping."""
    shells = [one for one in found if one.kind == "shell" and one.state in ACTIVE and not one.status.stopping]
    return max(shells, key=lambda one: one.facts.created_ns, default=None)


def once(found: Iterable[Session]) -> list[Session]:
    """Each session once, by the first of the machines that have it: two names may lead to one folder of sessions."""
    by_id: dict[str, Session] = {}
    for one in found:
        by_id.setdefault(one.facts.id, one)
    return list(by_id.values())
