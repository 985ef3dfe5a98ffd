"""A session as its stream knows it: the facts of a header, and the text that stays in the file."""

from __future__ import annotations

from collections.abc import Sequence

from ...agent.log import Chunk
from ...errors import LogDropped
from ...machines.base import SessionFacts, Status
from ...stream import Stream
from .cuts import begins_with_line, first_lines, last_lines
from .fold import StyledLine, fold
from .text import HEAD_LINES, TAIL_LINES, Bundle, Facts, frozen_bundle

TAIL_BYTES = 64 * 1024  # of the log that a picture is made from
HEAD_BYTES = 16 * 1024


def facts_of(stream: Stream, status: Status, *, rate: float = 0.0) -> Facts:
    """What a header tells of a session."""
    facts = stream.facts
    return Facts(
        name=facts.name,
        machine="this machine" if stream.machine == "local" else stream.machine,
        session_id=facts.id,
        command=facts.title,
        state="stopping" if status.stopping and not status.over else status.state,
        exit=str(status.exit) if status.exit is not None else "",
        failed=status.state == "lost" or (status.exit is not None and not status.exit.ok),
        started=facts.created_ns / 1e9,
        elapsed=stream.seconds(status),
        silent=(status.clock_ms - status.output_ms) / 1000 if status.clock_ms else 0.0,
        bytes=status.end,
        lines=status.newlines,
        rate=rate,
        log=facts.log,
        held=status.held,
        held_by=", ".join(status.held_by),
        stopped=str(status.stopped) if status.stopped is not None and status.stopped.took else "",
    )


def picture_of(facts: SessionFacts, chunks: Sequence[Chunk], count: int) -> tuple[list[StyledLine], int]:
    """The last `count` lines of a tail as they look, and how many lines of it are in front of them."""
    kept, cut = last_lines(chunks, count)
    whole = begins_with_line(kept, cut)
    columns = facts.cols if facts.tty == "full" else None
    return fold(kept, max_lines=count, columns=columns, from_start=whole), cut + (bool(kept) and not whole)


async def frozen(stream: Stream) -> Bundle:
    """The text of a session's output as it stays in a file: head and tail, and where the rest is. On the I/O thread."""
    machine, session_id, facts = stream._machine, stream.session_id, stream.facts
    tail = await machine.tail(session_id, TAIL_BYTES)
    stream._known = tail.status
    lines, cut = picture_of(facts, tail.chunks, HEAD_LINES + TAIL_LINES)
    skipped = tail.newlines_before + cut
    head: list[StyledLine] = []
    if skipped:
        lines, cut = picture_of(facts, tail.chunks, TAIL_LINES)
        skipped = tail.newlines_before + cut
        try:
            begin = await machine.read_nowait(session_id, 0, HEAD_BYTES)
        except LogDropped:
            begin = []
        first, count = first_lines(begin, min(HEAD_LINES, skipped))
        head = fold(first, max_lines=HEAD_LINES, from_start=True)
        skipped -= count
    return frozen_bundle(facts_of(stream, tail.status), head, lines, skipped)
