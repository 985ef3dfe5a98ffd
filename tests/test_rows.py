"""Rows of a log, however it is cut and wherever it is gone on with: the lines of the log, each once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.lines import LONGEST_LINE, LineAssembler
from cmdop_jupyter.reading import Gap
from cmdop_jupyter.sinks.rows import ChunkRows, LineRows, Position, Row

SESSION = "20260101-000000-0badcafe"
ATOMS = [b"a", b"b", b"\n", b"\r", b"\r\n", b"\n\n", b"\xe2", b"\x9c", b"\x93", b"\xff", b"\x1b[31m", b"\0"]
PIECES = st.lists(
    st.tuples(st.sampled_from(["stdout", "stderr"]), st.lists(st.sampled_from(ATOMS), min_size=1).map(b"".join)),
    max_size=12,
)
CUTS = st.lists(st.integers(1, 9), min_size=1)  # how many bytes are read at a time, again and again


def log_of(pieces: list[tuple[str, bytes]]) -> list[Chunk]:
    """A log that has these, one after the other."""
    chunks, end = [], 0
    for number, (channel, data) in enumerate(pieces):
        chunks.append(Chunk(end, channel, 1_700_000_000_000_000_000 + number * 1000, number, data))
        end += len(data)
    return chunks


def read(log: list[Chunk], start: int, size: int) -> list[Chunk]:
    """What a log has from `start` on, `size` bytes of it."""
    found = []
    for chunk in log:
        begin, stop = max(chunk.offset, start), min(chunk.end, start + size)
        if begin < stop:
            data = chunk.data[begin - chunk.offset : stop - chunk.offset]
            found.append(Chunk(begin, chunk.channel, chunk.wall_ns, chunk.mono_ms, data))
    return found


def lines_of(log: list[Chunk]) -> list[tuple[int, str, str]]:
    """Where each line begins, its channel and text, as `stream.lines()` says."""
    assembler = LineAssembler()
    lines = [line for chunk in log for line in assembler.feed(chunk)] + assembler.end()
    return sorted((line.start, line.channel, line.text.replace("\0", "␀")) for line in lines)


def seen(rows: list[Row]) -> list[tuple[int, str, str]]:
    return sorted((row["offset"], row["channel"], row["line"]) for row in rows)


@given(pieces=PIECES)
def test_no_two_lines_of_a_log_have_the_same_offset(pieces):
    starts = [start for start, _, _ in lines_of(log_of(pieces))]

    assert len(set(starts)) == len(starts)


@given(pieces=PIECES, cuts=CUTS, restarts=st.lists(st.booleans(), min_size=1))
def test_lines_are_those_of_the_log_wherever_it_is_cut_and_gone_on_with(pieces, cuts, restarts):
    log = log_of(pieces)
    end = log[-1].end if log else 0
    rows, position, written, steps, offset = LineRows(SESSION, None), None, [], 0, 0
    while offset < end:
        size = cuts[steps % len(cuts)]
        written += rows.feed(read(log, offset, size))
        offset = min(end, offset + size)
        position = Position(max(offset, position.taken if position else 0), dict(rows.unfinished))
        if restarts[steps % len(restarts)] and steps < 10 * len(pieces):
            rows, offset = LineRows(SESSION, position), position.restart
        steps += 1
    written += rows.end()

    assert seen(written) == lines_of(log)


@given(pieces=PIECES, gap=st.integers(1, 9), restart=st.booleans())
def test_a_gap_ends_what_was_unfinished(pieces, gap, restart):
    log = log_of(pieces)
    end = log[-1].end if log else 0
    behind = [Chunk(c.offset + end + gap, c.channel, c.wall_ns, c.mono_ms, c.data) for c in log]
    rows = LineRows(SESSION, None)

    written = [*rows.feed([*log, Gap(end, end + gap)])]
    assert not rows.unfinished
    if restart:
        rows = LineRows(SESSION, Position(end + gap, rows.unfinished))
    written += [*rows.feed(behind), *rows.end()]

    assert seen(written) == lines_of(log) + lines_of(behind)


@pytest.mark.parametrize("size", [LONGEST_LINE - 1, LONGEST_LINE, LONGEST_LINE + 1, 3 * LONGEST_LINE + 5])
@pytest.mark.parametrize("letter", [b"x", "✓".encode()])
def test_a_line_that_is_too_long_is_cut_alike_when_it_is_gone_on_with(size, letter):
    data = letter * (size // len(letter))
    log = log_of([("stdout", data), ("stderr", b"note\n"), ("stdout", b"\nnext\n")])
    rows, written, offset, position = LineRows(SESSION, None), [], 0, None
    while offset < log[-1].end:
        taken = min(offset + 50_000, log[-1].end) if position is None else min(position.taken + 50_000, log[-1].end)
        written += rows.feed(read(log, offset, taken - offset))
        position = Position(taken, dict(rows.unfinished))
        rows = LineRows(SESSION, position)
        offset = position.restart if taken < log[-1].end else taken

    assert seen(written + rows.end()) == lines_of(log)


def test_a_newline_that_belongs_to_a_return_before_is_no_line_of_its_own():
    rows = LineRows(SESSION, Position(4, {"stdout": None}))

    written = [*rows.feed([Chunk(4, "stdout", 0, 0, b"\n\n")])]

    assert seen(written) == [(5, "stdout", "")]


def test_what_has_a_return_at_its_end_need_not_be_read_again():
    rows = LineRows(SESSION, None)
    [*rows.feed([Chunk(0, "stderr", 0, 0, b"50%\r"), Chunk(4, "stdout", 0, 0, b"one\n")])]

    assert Position(8, rows.unfinished).restart == 8


def test_a_restart_begins_at_the_oldest_line_that_has_no_end():
    assert Position(100, {"stdout": 70, "stderr": None, "tty": 40}).restart == 40


def test_a_chunk_is_a_row_with_its_time_in_microseconds():
    chunk = Chunk(7, "stdout", 1_700_000_000_123_456_789, 0, b"\0\xff")

    assert [*ChunkRows(SESSION, None).feed([chunk, Gap(9, 12)])] == [
        {
            "session": SESSION,
            "offset": 7,
            "time": datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC),
            "channel": "stdout",
            "data": b"\0\xff",
        }
    ]
