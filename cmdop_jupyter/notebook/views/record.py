"""A session as its stream knows it: the facts of a header, how its link is, and the text that stays in the file."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

from ...agent.log import CHANNELS, Chunk
from ...agent.store import first_line
from ...errors import LinkLost, LogDropped
from ...fleet import Fleet
from ...fleet_stream import FleetStream, last_lines_of
from ...machines.base import LinkState, Machine, SessionFacts, Status
from ...stream import Stream
from .cuts import begins_with_line, first_lines, last_lines
from .fleet_text import Entry, FleetFacts
from .fleet_text import bundle as fleet_bundle
from .fold import StyledLine, fold
from .text import HEAD_LINES, TAIL_LINES, Bundle, Facts, frozen_bundle, masked

TAIL_BYTES = 64 * 1024  # of the log that a picture is made from
HEAD_BYTES = 16 * 1024


def facts_of(
    machine: Machine,
    facts: SessionFacts,
    status: Status,
    *,
    rate: float = 0.0,
    paused: bool = False,
    since: int = 0,
    filtered: str = "",
    prompt: str = "",
    link: str = "",
) -> Facts:
    """What a header tells of a session. One that was stopped has not failed; one that ended needs no link."""
    stopped = status.stopped is not None and bool(status.stopped.took)
    return Facts(
        name=facts.name,
        machine="this machine" if machine.name == "local" else machine.name,
        session_id=facts.id,
        command=facts.title,
        state="stopping" if status.stopping and not status.over else status.state,
        exit="" if status.exit is None else str(status.stopped) if stopped else str(status.exit),
        failed=status.state == "lost" or (status.exit is not None and not status.exit.ok and not stopped),
        ended_by_stop=stopped,
        started=facts.created_ns / 1e9,
        elapsed=facts.seconds(status),
        silent=(status.clock_ms - status.output_ms) / 1000 if status.clock_ms else 0.0,
        bytes=status.end,
        lines=status.newlines,
        rate=rate,
        log=f"{facts.log}/*.log",
        held=status.held,
        held_by=", ".join(status.held_by),
        paused=paused and status.live,
        since=since,
        filtered=filtered if status.live else "",
        prompt=prompt if status.live else "",
        link=link if status.live else "",
    )


def link_words(link: LinkState, machine: str, now: float, *, stop_waits: bool = False) -> str:
    """How a link that is not up stands; '' for one that is.

    Args:
        now: By `time.monotonic()`.
        stop_waits: A stop is under way.
    """
    if link.state == "up":
        return ""
    words = f"link {link.state}"
    if link.state == "retrying" and link.next_try is not None:
        words += f", next try in {max(1, math.ceil(link.next_try - now))} s"
    if link.reason:
        words += f": {link.reason}"
    if link.state == "down":
        words += f" (%cmdop connect {machine} tries again)"
    return words + (", the stop waits for the link" if stop_waits else "")


def waited_for(streams: Sequence[Stream], what: str) -> str:
    """What somebody waits for, in words: `/ready/ in api`, `api to exit`."""
    name = streams[0].name if len(streams) == 1 else f"{len(streams)} streams"
    return f"{what} in {name}" if what.startswith("/") else f"{name} {what}"


def picture_of(
    facts: SessionFacts, chunks: Sequence[Chunk], count: int, *, whole: bool = False
) -> tuple[list[StyledLine], int]:
    """The last `count` lines of a tail as they look, and how many lines of it are in front of them.

    Args:
        whole: The tail begins where a line does.
    """
    kept, cut = last_lines(chunks, count)
    whole = whole or begins_with_line(kept, cut)
    columns = facts.cols if facts.tty == "full" else None
    # Each channel may have an unfinished line, which is shown however old it is.
    lines = fold(kept, max_lines=count + len(CHANNELS), columns=columns, from_start=whole)
    return lines, cut + (not whole and has_newline(kept))


def has_newline(chunks: Sequence[Chunk]) -> bool:
    """Whether the line with which `chunks` begin ends in them."""
    return any(b"\n" in chunk.data for chunk in chunks if chunk.channel == chunks[0].channel)


async def kept(machine: Machine, facts: SessionFacts) -> Bundle:
    """The same text as of now, for somebody who asks. Raises LinkLost: it would be that of another time."""
    link = machine.link
    if link.state != "up":
        raise LinkLost(machine.name, link.reason)
    return (await frozen(machine, facts))[0]


async def frozen(machine: Machine, facts: SessionFacts) -> tuple[Bundle, Status]:
    """The text of a session's output as it stays in a file: head and tail, and where the rest is; and its status."""
    tail = await machine.tail(facts.id, TAIL_BYTES)
    lines, cut = picture_of(facts, tail.chunks, HEAD_LINES + TAIL_LINES)
    skipped = tail.newlines_before + cut
    head: list[StyledLine] = []
    if skipped:
        lines, cut = picture_of(facts, tail.chunks, TAIL_LINES)
        skipped = tail.newlines_before + cut
        try:
            begin = await machine.read_nowait(facts.id, 0, HEAD_BYTES)
        except LogDropped:
            begin = []
        first, count = first_lines(begin, min(HEAD_LINES, skipped))
        head = fold(first, max_lines=HEAD_LINES, from_start=True)
        skipped -= count
    return frozen_bundle(facts_of(machine, facts, tail.status), head, lines, skipped), tail.status


async def kept_fleet(fleet: Fleet) -> Bundle:
    """The text of a fleet as of now, for somebody who asks: the grid, and the ends of what failed."""

    async def entry(member: FleetStream) -> Entry:
        lines = masked([("", text) for text in await last_lines_of(member)])
        row = member.row(lines[-1] if lines else "")
        return Entry(row, tail=lines if row.outcome == "failed" else ())

    entries = await asyncio.gather(*map(entry, fleet.members))
    elapsed = max((one.row.seconds or 0.0 for one in entries), default=0.0)
    facts = FleetFacts(fleet.name, first_line(str(fleet.request.script)), fleet.started, elapsed)
    over = all(member.done for member in fleet.members)
    return fleet_bundle(facts, entries, as_of=None if over else time.time())
