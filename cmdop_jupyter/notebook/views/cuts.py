"""Chunks cut at newlines: the first or the last lines of what was read, and how many newlines are on the other side."""

from __future__ import annotations

from collections.abc import Sequence

from ...agent.log import Chunk


def last_lines(chunks: Sequence[Chunk], count: int) -> tuple[list[Chunk], int]:
    """The last `count` lines (an unfinished one counts), and the number of newlines in what was cut off in front."""
    kept: list[Chunk] = []
    wanted = count
    for number in range(len(chunks) - 1, -1, -1):
        chunk = chunks[number]
        at = len(chunk.data)
        if not kept and chunk.data.endswith(b"\n"):
            at -= 1  # this newline ends the last line; it does not begin another
        while True:
            at = chunk.data.rfind(b"\n", 0, at)
            if at < 0:
                break
            wanted -= 1
            if wanted == 0:
                before = sum(other.data.count(b"\n") for other in chunks[:number])
                rest = _part(chunk, at + 1, len(chunk.data))
                return [*([rest] if rest.data else []), *kept], before + chunk.data.count(b"\n", 0, at + 1)
        kept.insert(0, chunk)
    return kept, 0


def from_offset(chunks: Sequence[Chunk], offset: int) -> tuple[list[Chunk], int]:
    """What lies at `offset` or behind it, and the number of newlines in front."""
    kept, before = [], 0
    for chunk in chunks:
        skip = min(max(0, offset - chunk.offset), len(chunk.data))
        before += chunk.data.count(b"\n", 0, skip)
        if skip < len(chunk.data):
            kept.append(_part(chunk, skip, len(chunk.data)) if skip else chunk)
    return kept, before


def up_to(chunks: Sequence[Chunk], offset: int) -> list[Chunk]:
    """What lies in front of `offset`."""
    kept = [chunk for chunk in chunks if chunk.offset < offset]
    if kept and kept[-1].end > offset:
        kept[-1] = _part(kept[-1], 0, offset - kept[-1].offset)
    return kept


def begins_with_line(chunks: Sequence[Chunk], cut: int) -> bool:
    """Whether what `last_lines` left begins where a line does: at the log's beginning, or behind a newline."""
    return bool(chunks) and (chunks[0].offset == 0 or cut > 0)


def first_lines(chunks: Sequence[Chunk], count: int) -> tuple[list[Chunk], int]:
    """The first `count` finished lines, and how many there were."""
    kept: list[Chunk] = []
    seen = 0
    for chunk in chunks:
        at = -1
        while seen < count:
            following = chunk.data.find(b"\n", at + 1)
            if following < 0:
                break
            at = following
            seen += 1
        if seen == count:
            kept.append(_part(chunk, 0, at + 1))
            break
        kept.append(chunk)
    return kept, seen


def _part(chunk: Chunk, start: int, stop: int) -> Chunk:
    return Chunk(chunk.offset + start, chunk.channel, chunk.wall_ns, chunk.mono_ms, chunk.data[start:stop])
