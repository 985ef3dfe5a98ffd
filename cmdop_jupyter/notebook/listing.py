"""Sessions in, a table of them out. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from ..machines.base import Status
from ..sessions import Session, once
from ..words import human_bytes, human_seconds
from .tables import Table

HEADINGS = ("name", "machine", "state", "began", "ran", "output", "command")
TITLE = 60  # characters of a command


def in_order(found: Iterable[Session], ours: dict[str, str]) -> list[Session]:
    """Each session once: the running first, then the newest ended.

    Args:
        ours: Machines by session, of those that have a stream here: two names may lead to one folder of sessions.
    """
    found = sorted(found, key=lambda one: ours.get(one.session_id) != one.machine)
    return sorted(once(found), key=lambda one: (not one.status.live, -one.facts.created_ns))


def sessions_table(ordered: Sequence[Session], problems: Iterable[str] = (), notes: Iterable[str] = ()) -> Table:
    """Sessions, a row each, and below them which machines could not be asked."""
    return Table(
        HEADINGS,
        [cells(one) for one in ordered],
        objects=[(one.facts, one.status) for one in ordered],
        empty="no sessions; `%%cmdop` starts one",
        bad=frozenset(number for number, one in enumerate(ordered) if has_failed(one.status)),
        notes=[*notes, *(f"not asked: {problem}" for problem in problems)],
    )


def cells(one: Session) -> list[str]:
    """What a row says, as `HEADINGS`."""
    facts, status = one.facts, one.status
    began = time.strftime("%d %b %H:%M", time.localtime(facts.created_ns / 1e9))
    ran, size = seconds(one), human_bytes(status.end)
    return [
        facts.name,
        one.machine,
        state_words(status),
        began,
        human_seconds(ran) if ran else "",
        size,
        facts.title[:TITLE],
    ]


def seconds(one: Session) -> float:
    """How long it ran; 0 where that is not known."""
    status = one.status
    return (status.exited_ms or status.clock_ms) / 1000 or max(0.0, (status.ended_ns - one.facts.created_ns) / 1e9)


def has_failed(status: Status) -> bool:
    """Whether it is lost, or its command failed and nobody stopped it."""
    stopped = status.stopped is not None and status.stopped.took
    return status.state == "lost" or (status.exit is not None and not status.exit.ok and not stopped)


def state_words(status: Status) -> str:
    """State and exit in a few words: `running`, `exit 0`, `exit 3, output held by node[12]`."""
    if status.state == "held":
        return f"held: {status.held}"
    if status.state == "lost":
        return "lost"
    if status.exit is None:
        return "stopping" if status.stopping else status.state
    if status.stopped is not None and status.stopped.took:
        return f"stopped by {status.stopped.took}"
    held = f", output held by {', '.join(status.held_by)}" if status.state == "exited" and status.held_by else ""
    return f"{status.exit}{held}"
