"""Searching: the meaning of patterns and of time, whatever the bytes, the cuts and the moment."""

from __future__ import annotations

import pickle
import re
import time
import warnings
from collections.abc import Sequence
from typing import Any

import naive
import pytest
import regex
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from naive import Record, chunks_of, facts

from cmdop_jupyter import needles
from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.dialect import Expression
from cmdop_jupyter.patterns import Grep, Hit, PatternError, PatternTooSlow, Searcher

# --- any cutting, any times, live or from history ---------------------------------------------------------------------

ATOMS = [b"a", b"b", b"7", b" ", b"\n", b"\n", b"\r", b"\r\n", "é".encode(), b"\xe2", b"\x9c", b"\x93", b"\xff", b"\0"]
ATOMS += [b"\x1b[31m", b"\x1b]0;", b"\x07", b"\x1b", b"[", b"m"]
PIECE = st.lists(st.sampled_from(ATOMS), max_size=4).map(b"".join)
TEXT = ["a", "b", "a+b", "ab?", "^a", "b$", r"\d+", r"\w\b", "(a)|(7)", "a(?=b)", "a(?!b)", "(?<=a)b", "^a(?=7?b)", "é"]
TEXT += [r"a\s?b", "✓", "\ufffd", "^$", ".*", "[^a]b", r"(?P<x>\w)(?P=x)", "(?i)A", r"\Aab\Z", "\0", "ba(?=.*7)", r"\B"]
RAW = [rb"a\r?\nb", rb"ab?$", rb"\Aab", rb"\x1b\[31m", rb"\ba", rb"\n\n", rb"b\Z", rb"(?s)a.*b", b"\xe2\x9c\x93", rb"^b", rb"7(?!\n)"]
PATTERNS = st.lists(st.sampled_from([*TEXT, *[pattern.encode() for pattern in TEXT if pattern.isascii()], *RAW]), max_size=3)
CHANNEL = st.sampled_from(["stdout", "stdout", "stderr", "tty"])
# For each record: its channel, the time since the one before it, and the pieces in which a live reader gets it. Of
# each piece: how long after it the machine is asked whether there is more, in percent of what is possible.
RECORDS = st.lists(
    st.tuples(
        CHANNEL,
        st.sampled_from([0, 1, 40, 99, 100, 101, 260]),
        st.lists(st.tuples(PIECE, st.none() | st.integers(0, 100)), min_size=1, max_size=3),
    ),
    max_size=7,
)
SETTLE_MS = 100


def as_records(drawn: Sequence[Any]) -> list[Record]:
    records, now = [], 0
    for channel, since, pieces in drawn:
        now += since
        records.append(Record(channel, now, b"".join(piece for piece, _ in pieces)))
    return records


def searcher(patterns: Sequence[Any], fail: Sequence[Any] = (), **options: Any) -> Searcher:
    return Searcher(patterns, fail, settle=SETTLE_MS / 1000, **options)


def live(search: Searcher, drawn: Sequence[Any], last_ms: int) -> list[Hit | None]:
    """What the searcher says as the log is written, piece by piece, with questions to the machine in between."""
    answers = []
    now = offset = 0
    for number, (channel, since, pieces) in enumerate(drawn):
        now += since
        following = now + drawn[number + 1][1] if number + 1 < len(drawn) else last_ms
        for place, (piece, percent) in enumerate(pieces):
            answers.append(search.feed([Chunk(offset, channel, naive.wall(now), now, piece)]))
            offset += len(piece)
            if percent is not None:
                # A record may grow for 50 ms, so that is how long nothing can be said behind one of its pieces.
                until = following if place + 1 == len(pieces) else min(now + 49, following)
                answers.append(search.quiet(now + (until - now) * percent // 100))
    return answers


@settings(max_examples=400)
@given(drawn=RECORDS, patterns=PATTERNS, fail=PATTERNS, channel=st.none() | CHANNEL, ends=st.booleans())
def test_the_answer_is_the_same_live_from_history_and_by_the_plain_meaning(drawn, patterns, fail, channel, ends):
    assume(patterns or fail)
    records = as_records(drawn)
    last_ms = sum(since for _, since, _ in drawn) + 2 * SETTLE_MS
    wanted = naive.Search(patterns, fail, channel=channel, settle_ms=SETTLE_MS)
    wanted = wanted.answer(records, quiet_ms=None if ends else last_ms, end=ends)

    def finish(search: Searcher) -> Hit | None:
        return search.end() if ends else search.quiet(last_ms)

    whole, one_by_one, lively = (searcher(patterns, fail, channel=channel) for _ in range(3))
    whole.feed(chunks_of(records))
    for chunk in chunks_of(records):
        for at in range(len(chunk.data)):
            one_by_one.feed([Chunk(chunk.offset + at, chunk.channel, chunk.wall_ns, chunk.mono_ms, chunk.data[at : at + 1])])
    live(lively, drawn, last_ms)

    assert facts(finish(whole)) == wanted
    assert facts(finish(one_by_one)) == wanted
    assert facts(finish(lively)) == wanted


@given(drawn=RECORDS, patterns=PATTERNS, fail=PATTERNS)
def test_what_was_answered_once_stays_the_answer(drawn, patterns, fail):
    assume(patterns or fail)
    search = searcher(patterns, fail)

    answers = [*live(search, drawn, 10_000), search.quiet(10_000), search.end()]

    hits = [hit for hit in answers if hit is not None]
    assert all(hit is hits[0] for hit in hits)
    assert answers[len(answers) - len(hits) :] == hits


@settings(max_examples=15)
@given(
    pieces=st.lists(
        st.tuples(CHANNEL, st.sampled_from([b"x" * 30_000, b"y" * 65_535, "é".encode() * 20_000, b"\n", b"\r\n", b"ab"])),
        max_size=6,
    ),
    patterns=st.lists(st.sampled_from(["ab", "^y+$", "xé", "y(?!y)", "é$", b"xy", b"ab\n", rb"\Axx"]), min_size=1, max_size=2),
)
def test_long_lines_have_the_plain_meaning_too(pieces, patterns):
    records = [Record(channel, 0, data) for channel, data in pieces]

    search = searcher(patterns)
    search.feed(chunks_of(records))

    wanted = naive.Search(patterns, settle_ms=SETTLE_MS).answer(records, end=True)
    assert facts(search.end()) == wanted


@given(drawn=RECORDS, pattern=st.sampled_from([*TEXT, b"a", rb"b\Z", rb"(?i)A"]), channel=st.none() | CHANNEL)
def test_grep_gives_every_line_that_matches(drawn, pattern, channel):
    records = as_records(drawn)
    wanted = [line for line in naive.lines(records, channel=channel) if found_in(pattern, line, records)]
    whole, lively = Grep(pattern, channel), Grep(pattern, channel)
    lines = []
    offset = 0
    for name, _, pieces in drawn:
        for piece, _ in pieces:
            now = next(r.mono_ms for r in chunks_of(records) if r.offset <= offset < r.end or not piece)
            lines += lively.feed([Chunk(offset, name, naive.wall(now), now, piece)])
            offset += len(piece)

    assert whole.feed(chunks_of(records)) + whole.end() == wanted
    assert lines + lively.end() == wanted


def found_in(pattern: str | bytes, line: naive.Line, records: Sequence[Record]) -> bool:
    if isinstance(pattern, str):
        return re.search(pattern, line.text) is not None
    log = [byte for name, byte in naive.log_bytes(records) if name == line.channel]
    return re.search(pattern, bytes(byte.value for byte in log if line.start <= byte.offset < line.end)) is not None
