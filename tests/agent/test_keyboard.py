"""What is typed arrives once and in order, whoever repeats it; a line that a terminal would cut is refused whole."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.agent.errors import InputTooLong, InvalidRequest, SessionOver
from cmdop_jupyter.agent.keyboard import AHEAD, CANONICAL_LINE, Keyboard

WORDS = random.Random(3).randbytes(500)


def type_into(keyboard: Keyboard, offset: int, data: bytes, *, writer="w", eof=False, canonical=True, end_key=b"\x04"):
    accepted = keyboard.repeats(writer, offset, data, eof=eof)
    if accepted is not None:
        return accepted
    return keyboard.accept(writer, offset, data, eof=eof, canonical=canonical, end_key=end_key)


@given(calls=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 90)), max_size=30), canonical=st.booleans())
def test_repeated_and_overlapping_writes_type_every_byte_once(calls, canonical):
    keyboard, typed = Keyboard("api"), 0
    for place, size in calls:
        offset = round(place * typed)
        accepted = type_into(keyboard, offset, WORDS[offset : offset + size], canonical=canonical)
        typed = max(typed, min(offset + size, len(WORDS)))
        assert accepted == typed

    assert keyboard.unread == WORDS[:typed]


def test_each_writer_has_offsets_of_its_own():
    keyboard = Keyboard("api")
    type_into(keyboard, 0, b"one ", writer="a")
    type_into(keyboard, 0, b"two ", writer="b")
    type_into(keyboard, 4, b"three", writer="a")

    assert keyboard.unread == b"one two three"


@pytest.mark.parametrize("offset", [4, -1])
def test_a_gap_is_refused(offset):
    keyboard = Keyboard("api")
    type_into(keyboard, 0, b"abc")

    with pytest.raises(InvalidRequest, match="came before"):
        type_into(keyboard, offset, b"xxxxx")
    assert keyboard.unread == b"abc"


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\x04", b"\x03"])
def test_a_line_of_4095_bytes_is_taken_and_one_more_is_refused_whole(end):
    keyboard = Keyboard("api")
    line = b"x" * CANONICAL_LINE + end
    type_into(keyboard, 0, line * 3)

    with pytest.raises(InputTooLong) as refused:
        type_into(keyboard, len(line) * 3, b"short" + end + b"y" + line)

    assert refused.value.length == CANONICAL_LINE + 1
    assert keyboard.unread == line * 3


def test_a_line_typed_in_pieces_counts_as_one():
    keyboard = Keyboard("api")
    type_into(keyboard, 0, b"x" * 4000)

    with pytest.raises(InputTooLong):
        type_into(keyboard, 4000, b"y" * 96)
    assert type_into(keyboard, 4000, b"y" * 95) == CANONICAL_LINE


def test_a_terminal_that_is_not_canonical_takes_any_line():
    keyboard = Keyboard("api")
    type_into(keyboard, 0, b"x" * 10_000, canonical=False)

    assert type_into(keyboard, 10_000, b"y" * CANONICAL_LINE) == 10_000 + CANONICAL_LINE


@pytest.mark.parametrize(("text", "keys"), [(b"", b"\x04"), (b"line\n", b"\x04"), (b"no end", b"\x04\x04")])
def test_the_end_is_typed_so_that_the_terminal_sees_it(text, keys):
    keyboard = Keyboard("api")
    type_into(keyboard, 0, text, eof=True)

    assert keyboard.unread == text + keys
    assert not keyboard.closing


def test_an_end_that_is_repeated_is_typed_once():
    keyboard = Keyboard("api")
    for _ in range(3):
        assert type_into(keyboard, 0, b"line\n", eof=True) == 5

    assert keyboard.unread == b"line\n\x04"


def test_an_end_may_follow_what_was_accepted_without_one():
    keyboard = Keyboard("api")
    type_into(keyboard, 0, b"line\n")
    type_into(keyboard, 0, b"line\n", eof=True)

    assert keyboard.unread == b"line\n\x04"


def test_an_end_that_comes_late_takes_nothing_back():
    keyboard = Keyboard("api")
    type_into(keyboard, 0, b"one\ntwo\n")

    assert type_into(keyboard, 0, b"one\n", eof=True) == 8
    assert type_into(keyboard, 8, b"three\n") == 14
    assert keyboard.unread == b"one\ntwo\n\x04three\n"


def test_a_pipe_is_closed_at_the_end_and_takes_nothing_more():
    keyboard = Keyboard("api")
    for _ in range(2):
        assert type_into(keyboard, 0, b"all", eof=True, canonical=False, end_key=b"") == 3

    assert keyboard.closing
    with pytest.raises(SessionOver, match="closed"):
        type_into(keyboard, 3, b"more", canonical=False, end_key=b"")
    assert keyboard.unread == b"all"


def test_it_is_full_when_64_kib_wait_and_empty_when_cleared():
    keyboard = Keyboard("api")
    type_into(keyboard, 0, b"x" * (AHEAD - 1), canonical=False)
    assert not keyboard.full
    type_into(keyboard, AHEAD - 1, b"x", canonical=False)
    assert keyboard.full

    keyboard.clear()

    assert not keyboard.full
    assert not keyboard.unread
