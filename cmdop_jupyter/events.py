"""What the handlers of a stream are called with, as it comes: output, exit, status, and what its link does."""

from __future__ import annotations

from collections.abc import Callable

from .errors import LogDropped
from .machines.base import Machine
from .pieces import Pieces
from .reading import Begin, Gap, batches, known
from .subscription import Event, Events
from .waiting import exit_of


async def output(
    machine: Machine,
    session_id: str,
    start: Begin,
    pieces: Pieces,
    count: int,
    report: Callable[[BaseException], None],
) -> Events:
    """Pieces of the log from `start` on, with `count` arguments each: (piece) or (piece, channel)."""
    begin = await start()
    yield [(None, begin)]
    async for batch in batches(machine, session_id, known(begin), follow=True):
        events: list[Event] = []
        for chunk in batch:
            if isinstance(chunk, Gap):
                report(LogDropped(chunk.offset, chunk.end))
            found = pieces.end() if isinstance(chunk, Gap) else pieces.feed(chunk)
            events += [(piece[:count], chunk.end) for piece in found]
        begin = batch[-1].end
        yield [*events, (None, begin)]
    yield [*((piece[:count], begin) for piece in pieces.end()), (None, begin)]


async def exits(machine: Machine, session_id: str) -> Events:
    """How the command ended; once."""
    yield [((await exit_of(machine, session_id),), None)]


async def statuses(machine: Machine, session_id: str) -> Events:
    """The status now, and after each change, until the session has ended."""
    status = await machine.status(session_id)
    yield [((status,), None)]
    while status.live:
        status = await machine.status(session_id, status.seq)
        yield [((status,), None)]


async def disconnects(machine: Machine) -> Events:
    """Why the link broke, each time."""
    link = machine.link
    while True:
        was, link = link, await machine.link_change(link)
        if was.state == "up" and link.state != "up":
            yield [((link.reason,), None)]


async def reconnects(machine: Machine) -> Events:
    """How many seconds the link was away, each time it is back."""
    link = machine.link
    away = None if link.state == "up" else link.since
    while True:
        link = await machine.link_change(link)
        if link.state != "up":
            away = away or link.since
        elif away is not None:
            yield [((link.since - away,), None)]
            away = None
