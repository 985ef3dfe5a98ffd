"""Searching: the meaning of patterns and of time, whatever the bytes, the cuts and the moment."""

from __future__ import annotations

import pickle
import re
import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

import naive
import pytest
import regex
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from naive import Record, chunks_of, facts

from cmdop_jupyter import needles
from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.patterns import Grep, Hit, PatternError, PatternTooSlow, Searcher

# --- any cutting, any times, live or from history ---------------------------------------------------------------------

ATOMS = [b"a", b"b", b"7", b" ", b"\n", b"\n", b"\r", b"\r\n", "é".encode(), b"\xe2", b"\x9c", b"\x93", b"\xff", b"\0"]
ATOMS += [b"\x1b[31m", b"\x1b]0;", b"\x07", b"\x1b", b"[", b"m"]
PIECE = st.lists(st.sampled_from(ATOMS), max_size=4).map(b"".join)
TEXT = ["a", "b", "a+b", "ab?", "^a", "b$", r"\d+", r"\w\b", "(a)|(7)", "a(?=b)", "a(?!b)", "(?<=a)b", "^a(?=7?b)", "é"]
TEXT += [r"a\s?b", "✓", "\ufffd", "^$", ".*", "[^a]b", r"(?P<x>\w)(?P=x)", "(?i)A", r"\Aab\Z", "\0", "ba(?=.*7)", r"\B"]
RAW = [
    rb"a\r?\nb",
    rb"ab?$",
    rb"\Aab",
    rb"\x1b\[31m",
    rb"\ba",
    rb"\n\n",
    rb"b\Z",
    rb"(?s)a.*b",
    b"\xe2\x9c\x93",
    rb"^b",
    rb"7(?!\n)",
]
PATTERNS = st.lists(
    st.sampled_from([*TEXT, *[pattern.encode() for pattern in TEXT if pattern.isascii()], *RAW]), max_size=3
)
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


def bytes_of(chunk: Chunk) -> list[Chunk]:
    """The chunk in pieces of one byte."""
    return [
        Chunk(chunk.offset + at, chunk.channel, chunk.wall_ns, chunk.mono_ms, chunk.data[at : at + 1])
        for at in range(len(chunk.data))
    ]


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
            if percent is not None and any(data for data, _ in pieces[: place + 1]):
                # A record may grow for 50 ms, so that is how long nothing can be said behind one of its pieces.
                until = following if place + 1 == len(pieces) else min(now + 49, following)
                answers.append(search.quiet(now + (until - now) * percent // 100))
    return answers


def agree(drawn: Sequence[Any], patterns: Any, fail: Any, channel: str | None, ends: bool, sizes: Any) -> None:
    """Check that a log has one answer: in one piece, byte by byte, as it is written; and that it is the plain one."""
    longest, window, block, slices = sizes
    records = as_records(drawn)
    last_ms = sum(since for _, since, _ in drawn) + 2 * SETTLE_MS
    plain = naive.Search(patterns, fail, channel=channel, settle_ms=SETTLE_MS, longest=longest, window=window)
    wanted = plain.answer(records, quiet_ms=None if ends else last_ms, end=ends)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cmdop_jupyter.lanes.LONGEST_LINE", longest)
        patch.setattr("cmdop_jupyter.lanes.LONGEST_BYTES_MATCH", window)
        patch.setattr("cmdop_jupyter.needles.LONGEST_BYTES_MATCH", window)
        patch.setattr("cmdop_jupyter.patterns.BLOCK", block)
        patch.setattr("cmdop_jupyter.needles._PATIENCE", -1 if slices else 8)
        patch.setattr("cmdop_jupyter.needles._SLICE", block)
        whole, one_by_one, lively = (searcher(patterns, fail, channel=channel) for _ in range(3))
        whole.feed(chunks_of(records))
        one_by_one.feed([piece for chunk in chunks_of(records) for piece in bytes_of(chunk)])
        live(lively, drawn, last_ms)
        answers = [facts(search.end() if ends else search.quiet(last_ms)) for search in (whole, one_by_one, lively)]

    assert answers == [wanted, wanted, wanted]


LARGE = naive.LONGEST
SIZES = st.sampled_from([(LARGE, LARGE), (4, 4), (5, 8)]).flatmap(
    lambda longest: st.tuples(*map(st.just, longest), st.sampled_from([1, 7, 1 << 18]), st.booleans())
)


@settings(max_examples=200)
@given(drawn=RECORDS, patterns=PATTERNS, fail=PATTERNS, channel=st.none() | CHANNEL, ends=st.booleans(), sizes=SIZES)
def test_the_answer_depends_on_the_log_and_its_times_alone(drawn, patterns, fail, channel, ends, sizes):
    assume(patterns or fail)
    agree(drawn, patterns, fail, channel, ends, sizes)


FEW_ATOMS = [b"a", b"a", b"b", b"c", b"\n", b"\r\n", b"\r"]
FEW_PATTERNS = ["ab", "b", "ca", "a(?=b)", "^c(?=a)", "bb", b"ab", b"b\n", b"ca", rb"a(?=\r?\nb)", rb"c\s*c", rb"\Ac"]
FEW_RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["stdout", "stderr"]),
        st.sampled_from([0, 0, 60, 100]),
        st.lists(
            st.tuples(st.lists(st.sampled_from(FEW_ATOMS), max_size=3).map(b"".join), st.none() | st.integers(0, 100)),
            min_size=1,
            max_size=2,
        ),
    ),
    min_size=2,
    max_size=9,
)


@settings(max_examples=300)
@given(
    drawn=FEW_RECORDS,
    patterns=st.lists(st.sampled_from(FEW_PATTERNS), min_size=1, max_size=3),
    ends=st.booleans(),
    sizes=SIZES,
)
def test_of_two_channels_the_match_that_ends_first_wins(drawn, patterns, ends, sizes):
    agree(drawn, patterns[1:], patterns[:1], None, ends, sizes)


@given(drawn=RECORDS, patterns=PATTERNS, fail=PATTERNS)
def test_what_was_answered_once_stays_the_answer(drawn, patterns, fail):
    assume(patterns or fail)
    search = searcher(patterns, fail)

    answers = [*live(search, drawn, 10_000), search.quiet(10_000), search.end()]

    hits = [hit for hit in answers if hit is not None]
    assert all(hit is hits[0] for hit in hits)
    assert answers[len(answers) - len(hits) :] == hits


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


# --- one fact each ----------------------------------------------------------------------------------------------------


def log(*records: tuple[str, int, bytes] | bytes) -> list[Chunk]:
    """A log of (channel, time in ms, data), or of data alone: stdout at time 0."""
    return chunks_of(Record(*(("stdout", 0, one) if isinstance(one, bytes) else one)) for one in records)


def search(*records: tuple[str, int, bytes] | bytes, patterns: Any, fail: Any = (), **options: Any) -> Hit | None:
    """The answer to a log that has not ended."""
    return Searcher(patterns, fail, **options).feed(log(*records))


def test_nothing_is_found_where_nothing_is():
    searcher = Searcher(["x"])

    assert searcher.feed([]) is None
    assert searcher.quiet(1_000_000) is None
    assert searcher.settles_at is None
    assert searcher.end() is None


def test_letters_are_letters_in_every_language():
    hit = search("user josé logged in\n".encode(), patterns=[r"user (\w+) logged in"])

    assert hit is not None
    assert hit.match[1] == "josé"


@pytest.mark.parametrize("pause", [0, 40, 249])
def test_a_line_that_goes_on_soon_is_searched_when_it_is_whole(pause):
    hit = search(b"ready on port 80", ("stdout", pause, b"80\n"), patterns=[r"port (\d+)"])

    assert hit is not None
    assert (hit.match[1], hit.whole) == ("8080", True)


def test_a_line_that_paused_is_searched_as_it_stood_from_history():
    hit = search(b"ready on port 80", ("stdout", 300, b"80\n"), patterns=[r"port (\d+)"])

    assert hit is not None
    assert (hit.match[1], hit.whole) == ("80", False)


def test_a_line_that_paused_is_searched_as_it_stood_live():
    searcher = Searcher([r"port (\d+)"])

    assert searcher.feed(log(b"ready on port 80")) is None
    assert searcher.settles_at == 250
    assert searcher.quiet(249) is None
    hit = searcher.quiet(250)

    assert hit is not None
    assert hit.match[1] == "80"
    assert searcher.settles_at is None
    assert searcher.feed([Chunk(16, "stdout", 0, 300, b"80\n")]) is hit


def test_a_line_that_went_on_after_a_pause_is_searched_again():
    searcher = Searcher(["login: $"])
    searcher.feed(log(b"log"))
    assert searcher.quiet(1000) is None
    assert searcher.settles_at is None

    searcher.feed([Chunk(3, "stdout", 0, 1000, b"in: ")])
    assert searcher.settles_at == 1250

    hit = searcher.quiet(1250)
    assert hit is not None
    assert (hit.start, hit.end, hit.wall_ns) == (0, 7, 0)


def test_what_another_channel_says_tells_how_late_it_is():
    hit = search(b"login: ", ("stderr", 250, b"x"), patterns=["login"])

    assert hit is not None
    assert not hit.whole


def test_channels_that_are_not_looked_at_tell_how_late_it_is_too():
    hit = search(b"login: ", ("tty", 250, b"x"), patterns=["login"], channel="stdout")

    assert hit is not None


def test_an_unfinished_line_counts_when_the_session_ends():
    searcher = Searcher(["done"])
    assert searcher.feed(log(b"done")) is None

    hit = searcher.end()

    assert hit is not None
    assert not hit.whole


def test_an_echo_never_matches():
    echo = log(("tty", 0, b"yes, ready\r\n"), ("tty", 5000, b"\r\n"))
    searcher = Searcher(["ready", b"ready"])

    assert searcher.feed(echo) is None
    assert searcher.quiet(100_000) is None
    assert searcher.end() is None


@pytest.mark.parametrize("pattern", ["assword: $", rb"assword: \Z"])
def test_a_prompt_on_the_terminal_matches_when_it_waits(pattern):
    searcher = Searcher([pattern])
    assert searcher.feed(log(("tty", 0, b"secret\r\n[sudo] password: "))) is None

    hit = searcher.quiet(250)

    assert hit is not None
    assert (hit.channel, hit.line, hit.start) == ("tty", "[sudo] password: ", 16)


def test_in_one_line_fail_beats_pattern_and_then_the_list_decides():
    both = search(b"error: not ready\n", patterns=["error", "ready"], fail=["none", "not"])
    first = search(b"error: not ready\n", patterns=["ready", "error"])

    assert both is not None
    assert (both.failed, both.index) == (True, 1)
    assert first is not None
    assert (first.failed, first.index) == (False, 0)


def test_the_earlier_line_beats_fail_and_the_list():
    hit = search(b"third\nsecond\nfirst\n", patterns=["first", "second", "third"], fail=["second"])

    assert hit is not None
    assert (hit.failed, hit.index, hit.line) == (False, 2, "third")


def test_a_match_waits_for_an_older_unfinished_line_of_another_channel():
    searcher = Searcher(["ready"], ["Traceback"])
    assert searcher.feed(log(("stderr", 0, b"Trace"), ("stdout", 10, b"ready\n"))) is None
    assert searcher.settles_at == 250

    hit = searcher.feed([Chunk(11, "stderr", 0, 20, b"back\n")])

    assert hit is not None
    assert (hit.line, hit.failed) == ("ready", False)  # its last byte came first


def test_an_older_line_whose_match_ends_first_wins():
    searcher = Searcher(["ready"], ["Trace"])
    assert searcher.feed(log(("stderr", 0, b"Trace"), ("stdout", 10, b"ready\n"))) is None

    hit = searcher.feed([Chunk(11, "stderr", 0, 20, b"back\n")])

    assert hit is not None
    assert (hit.line, hit.failed) == ("Traceback", True)


@pytest.mark.parametrize("how", ["whole", "settled", "ended", "gap"])
def test_a_match_waits_no_longer_than_the_other_line_is_undecided(how):
    searcher = Searcher(["ready"])
    assert searcher.feed(log(("stderr", 0, b"10%"), ("stdout", 240, b"ready\n"))) is None

    if how == "whole":
        hit = searcher.feed([Chunk(9, "stderr", 0, 241, b"\r")])
    elif how == "settled":
        hit = searcher.quiet(250)
    elif how == "ended":
        hit = searcher.end()
    else:
        hit = searcher.gap(9, 20)

    assert hit is not None
    assert hit.line == "ready"


@pytest.mark.parametrize(
    "other",
    [
        ("stderr", 0, b"10%\n"),  # finished
        ("stderr", 0, b""),
    ],
)
def test_a_match_does_not_wait_for_a_finished_line(other):
    assert search(other, ("stdout", 10, b"ready\n"), patterns=["ready"]) is not None


def test_a_match_does_not_wait_for_a_younger_line():
    assert search(b"ready", ("stderr", 0, b"10%"), b"\n", patterns=["ready"]) is not None


def test_a_match_does_not_wait_for_a_line_that_paused():
    assert search(("stderr", 0, b"10%"), ("stdout", 250, b"ready\n"), patterns=["ready"]) is not None


def test_what_comes_after_a_match_was_final_changes_nothing():
    log_of_both = ("stderr", 0, b"10%"), ("stdout", 250, b"ready\n"), ("stderr", 260, b"x\n")

    hit = search(*log_of_both, patterns=["ready", "10(?=%x)"])

    assert hit is not None
    assert hit.line == "ready"  # at 250 ms the other line had paused, and did not match


def test_where_a_channel_matches_first_counts_not_which_pattern():
    hit = search(b"ab", ("stderr", 0, b"x\n"), b"\r\n", patterns=[b"ab", "ab", "x"])

    assert hit is not None
    assert hit.index == 1  # the text pattern saw the line at its \r, the bytes pattern at its \n


def test_a_match_does_not_wait_for_a_channel_that_is_not_looked_at():
    assert search(("stderr", 0, b"10%"), b"ready\n", patterns=["ready"], channel="stdout") is not None


@pytest.mark.parametrize(
    ("pattern", "pieces", "matched", "start"),
    [
        (r"foo\b", [b"foo", b"bar foo\n"], "foo", 7),
        ("a.*b", [b"abb ", b"cb\n"], "abb cb", 0),
        ("o$", [b"foo", b"d\no\n"], "o", 5),
        ("foo(?!bar)", [b"foo", b"bar foox\n"], "foo", 7),
        ("ab|abcd", [b"ab", b"cd\n"], "ab", 0),
        ("✓ done", [b"\xe2", b"\x9c\x93 done\n"], "✓ done", 0),
    ],
)
def test_where_a_read_ended_means_nothing(pattern, pieces, matched, start):
    hit = search(*pieces, patterns=[pattern])

    assert hit is not None
    assert (hit.match[0], hit.start) == (matched, start)


def test_a_hit_says_where_its_bytes_are_and_when_the_last_was_read():
    hit = search(
        b"\x1b[1mport \x1b[32m8",
        ("stderr", 30, b"noise\n"),
        ("stdout", 60, b"0\x1b[0m80\xff\n"),
        patterns=[r"port (\d+)"],
    )

    assert hit is not None
    assert hit.match.span() == (0, 9)
    assert (hit.start, hit.end) == (4, 28)
    assert hit.wall_ns == naive.wall(60)
    assert hit.line == "port 8080\ufffd"


def test_bytes_that_no_text_has_do_no_harm():
    hit = search(b"\0\xff\xe2\nport\0 80\xe2\n", patterns=["port\0 80\ufffd$"])

    assert hit is not None
    assert (hit.start, hit.end) == (4, 13)


def test_an_osc_without_an_end_hides_its_line_only():
    hit = search(b"\x1b]0;port 79\nport 80\n", patterns=[r"port \d+"])

    assert hit is not None
    assert hit.line == "port 80"


def test_a_match_in_a_line_that_was_cut_says_so():
    hit = search(b"x" * 70_000 + b" ready\n", patterns=["ready"])

    assert hit is not None
    assert (hit.cut, hit.start, len(hit.line)) == (True, 70_001, 70_006 - 65_536)


@pytest.mark.parametrize("place", [0, 1, 2_000, 9_999])
@pytest.mark.parametrize("text", ["line {} of a log", "\x1b[32mline\x1b[0m {} of a log\r", "лог {}"])
@pytest.mark.parametrize("pattern", [r"needle (\d+)", r"needle (?!x)\w+$", r"(?<=needle )(\d)(?!\1)"])
def test_the_one_line_of_many_is_found_wherever_it_is(place, text, pattern):
    lines = [text.format(number) for number in range(10_000)]
    lines[place] = "a needle 123"
    data = "\n".join(lines).encode() + b"\n"

    hit = search(data, patterns=["nothing", pattern])

    assert hit is not None
    assert hit.line == "a needle 123"
    assert data[hit.start : hit.end] in (b"needle 123", b"1")


def test_a_pattern_that_nearly_matches_every_line_is_decided_by_every_line():
    data = b"".join(b"GET /%d status=200\n" % number for number in range(20_000)) + b"GET / status=500\n"

    hit = search(data, patterns=[r"status=(?!200)\d+"])

    assert hit is not None
    assert hit.match[0] == "status=500"


def test_lines_are_searched_one_by_one_where_many_at_once_take_too_long(monkeypatch):
    monkeypatch.setattr(needles, "_SLICE_SECONDS", 1e-9)
    data = b"".join(b"GET /%d status=200\n" % number for number in range(2_000)) + b"GET / status=500\n"

    hit = search(data, patterns=[r"status=(?!200)\d+"])

    assert hit is not None
    assert hit.match[0] == "status=500"


def test_a_compiled_pattern_keeps_its_flags():
    hit = search(b"READY\n", patterns=[re.compile("r e a d y", re.IGNORECASE | re.VERBOSE)])

    assert hit is not None


def test_a_pattern_compiled_by_regex_keeps_the_meaning_it_has_there():
    hit = search(b"raedy\n", "é1\n".encode(), patterns=[regex.compile(r"\p{L}\d"), regex.compile("(?:ready){e<=2}")])

    assert hit is not None
    assert hit.index == 1


def test_evil_patterns_are_no_danger_where_google_re2_decides():
    assert search(b"a" * 5_000 + b"!\n", patterns=[r"(a+)+$", r"^(a|a)*$"]) is None


@pytest.mark.parametrize("unfinished", [False, True])
def test_a_pattern_that_takes_too_long_is_told_with_its_line(unfinished):
    evil = b"fine\n" + b"a" * 40 + (b"!" if unfinished else b"!\n")
    searcher = Searcher([r"(a|a)+(?!.)"], seconds_per_line=0.05)
    before = time.process_time()

    with pytest.raises(PatternTooSlow) as raised:
        searcher.feed(log(evil)) or searcher.quiet(250)

    assert time.process_time() - before < 5
    error = raised.value
    assert (error.pattern, error.seconds, error.line_head, error.offset) == (r"(a|a)+(?!.)", 0.05, "a" * 40 + "!", 5)
    with pytest.raises(PatternTooSlow):
        searcher.quiet(1000)


def test_a_pattern_that_takes_too_long_does_so_only_when_its_turn_comes():
    evil = b"ready\n" + b"a" * 40 + b"!\n"

    assert search(evil, patterns=[r"(a|a)+(?!.)", "ready"], seconds_per_line=0.05) is not None


def test_slow_bytes_patterns_are_told_too():
    with pytest.raises(PatternTooSlow) as raised:
        search(b"fine\n" + b"a" * 40 + b"!\n", patterns=[rb"(a|a)+(?!.)$"], seconds_per_line=0.05)

    assert (raised.value.line_head, raised.value.offset) == ("a" * 40 + "!", 5)


def test_a_bytes_pattern_sees_ends_and_escapes_and_several_lines():
    hit = search(b"x\n\x1b[1mone\r", b"\ntwo\n", patterns=[rb"\x1b\[1mone\r\ntwo"])

    assert hit is not None
    assert (hit.match[0], hit.start, hit.end, hit.line) == (b"\x1b[1mone\r\ntwo", 2, 14, "two")


def test_a_bytes_pattern_is_tried_behind_each_newline_only():
    assert search(b"one", patterns=[b"one"]) is None
    assert search(b"one\r", patterns=[b"one"]) is None
    assert search(b"one\n", patterns=[b"one"]) is not None


def test_the_end_for_a_bytes_pattern_is_where_it_is_tried():
    hit = search(b"$ ls\n$ pwd\n", b"$ ", ("stdout", 250, b"x"), patterns=[rb"\$ \Z"])

    assert hit is not None
    assert (hit.start, hit.whole) == (11, False)


def test_a_bytes_match_is_at_most_64_kib_long():
    short, long = (b"BEGIN\n" + b"x" * size + b"\nEND\n" for size in (60_000, 70_000))

    assert search(short, patterns=[rb"(?s)BEGIN.*END"]) is not None
    assert search(long, patterns=[rb"(?s)BEGIN.*END"]) is None


def test_bytes_and_text_patterns_of_one_line_are_ranked_as_any():
    hit = search(b"ready, error\n", patterns=["ready", b"ready"], fail=[b"error"])

    assert hit is not None
    assert (hit.failed, hit.match[0]) == (True, b"error")


def test_a_gap_ends_a_line():
    searcher = Searcher([r"port \d+$", rb"port \d+80"])
    assert searcher.feed(log(b"port 80")) is None

    hit = searcher.gap(7, 100)

    assert hit is not None
    assert (hit.match[0], hit.whole) == ("port 80", False)


def test_nothing_reaches_across_a_gap():
    searcher = Searcher(["port 8080", b"port 8080"])
    searcher.feed(log(b"port 80"))

    assert searcher.gap(7, 100) is None
    assert searcher.feed([Chunk(100, "stdout", 0, 0, b"80\n")]) is None
    assert searcher.settles_at is None


def test_an_echo_that_a_gap_cuts_does_not_match():
    searcher = Searcher(["ready", b"ready"])
    searcher.feed(log(("tty", 0, b"yes, ready")))

    assert searcher.gap(10, 20) is None
    assert searcher.end() is None


@pytest.mark.parametrize(
    ("pattern", "position"), [("a(b", 1), ("[z-a]", 1), ("(?<=a+)b", None), (b"a(b", 1), ("a{99999999999999}", None)]
)
def test_a_pattern_that_does_not_compile_is_told_before_anything_is_read(pattern, position):
    for make in (lambda: Searcher([pattern]), lambda: Searcher(["a"], [pattern]), lambda: Grep(pattern)):
        with pytest.raises(PatternError) as raised:
            make()
        assert raised.value.pattern == pattern
        assert raised.value.position == position
        assert isinstance(pickle.loads(pickle.dumps(raised.value)), PatternError)


def test_a_pattern_that_depends_on_the_locale_is_refused():
    with pytest.raises(PatternError, match="locale"):
        Searcher([re.compile(rb"\w", re.LOCALE)])


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"0\.05"):
        Searcher(["a"], settle=0.04)
    with pytest.raises(ValueError, match="stdout, stderr, tty"):
        Searcher(["a"], channel="stdin")
    with pytest.raises(ValueError, match="no pattern"):
        Searcher([])
    with pytest.raises(TypeError, match="lists"):
        Searcher("abc")
    with pytest.raises(PatternError):
        Searcher([7])


def test_grep_finds_unfinished_lines_at_the_end_and_echo_as_well():
    grep = Grep("o")
    found = grep.feed(log(b"one\ntwo\nthree\nfo", ("tty", 0, b"echo\r\n"), ("stderr", 0, b"oh")))

    assert [line.text for line in found] == ["one", "two", "echo"]
    assert [(line.text, line.whole) for line in grep.end()] == [("fo", False), ("oh", False)]
    assert grep.end() == []


def test_grep_gives_lines_in_the_order_in_which_they_were_finished():
    long = b"x" * (naive.LONGEST - 1)
    found = Grep("^[xy]").feed(log(long + b"\xc3", ("stderr", 0, b"y\n"), b"\xa9", ("stderr", 0, b"yy\n"), b"\n"))

    # Where the long line was to be cut nobody knew before the second byte of its last character.
    assert [(len(line.text), line.cut) for line in found] == [(1, False), (len(long), True), (2, False)]


def test_grep_tells_of_a_pattern_that_takes_too_long():
    grep = Grep(r"(a|a)+(?!.)", seconds_per_line=0.05)

    with pytest.raises(PatternTooSlow, match="at byte 5"):
        grep.feed(log(b"fine\n" + b"a" * 40 + b"!\n"))


def test_memory_is_bounded_however_much_is_searched():
    piece = bytes(range(33, 127)) * 1_000
    searcher = Searcher(["needle", r"(?<!x)needle", b"needle"])
    tracemalloc.start()
    try:
        for number in range(200):
            assert searcher.feed([Chunk(number * len(piece), "stdout", 0, number * 100, piece)]) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 * 1024 * 1024
