"""Lines: whatever the bytes are and however they were cut, the same lines, and the place of each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import Record, characters, chunks_of, lines, wall, without_escapes

from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.lines import LONGEST_LINE, LONGEST_STRING, Line, LineAssembler, clean, span_in

ATOMS = [
    b"a",
    b"7",
    b" ",
    b"\n",
    b"\r",
    b"\r\n",
    "é".encode(),
    "😀".encode(),
    b"\xe2",
    b"\x9c",
    b"\x93",
    b"\xff",
    b"\0",
]
ATOMS += [b"\x1b", b"[", b"31m", b"\x1b[31m", b"\x1b[0m", b"\x1b]0;", b"\x07", b"\x1b\\", b"\x1bP", b"\x1b(B", b"\x18"]
PIECE = st.lists(st.sampled_from(ATOMS), max_size=5).map(b"".join)
CHANNELS = st.sampled_from(["stdout", "stderr", "tty"])
PIECES = st.lists(st.tuples(CHANNELS, PIECE), max_size=12)


def all_lines(chunks: list[Chunk], **options) -> list[Line]:
    assembler = LineAssembler(**options)
    return [line for chunk in chunks for line in assembler.feed(chunk)] + assembler.end()


def texts(*pieces: bytes, **options) -> list[str]:
    return [line.text for line in all_lines(chunks_of(Record("stdout", 0, piece) for piece in pieces), **options)]


@given(pieces=PIECES, longest=st.sampled_from([4, 5, 7, 9, LONGEST_LINE]))
def test_lines_are_what_reading_byte_by_byte_makes_of_them(pieces, longest):
    records = [Record(channel, number * 3, data) for number, (channel, data) in enumerate(pieces)]

    assert all_lines(chunks_of(records), longest=longest) == lines(records, longest=longest)


@given(pieces=PIECES, only=CHANNELS)
def test_one_channel_can_be_had_alone(pieces, only):
    records = [Record(channel, number * 3, data) for number, (channel, data) in enumerate(pieces)]

    assert all_lines(chunks_of(records), channel=only) == lines(records, channel=only)


@given(pieces=st.lists(PIECE, max_size=12), longest=st.sampled_from([4, 5, 7, LONGEST_LINE]))
def test_lines_do_not_depend_on_how_the_bytes_were_cut(pieces, longest):
    whole = all_lines([Chunk(5, "stdout", 1, 0, b"".join(pieces))], longest=longest)
    offsets = [5]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    cut = [Chunk(offset, "stdout", 1, 0, piece) for offset, piece in zip(offsets, pieces, strict=False)]

    assert all_lines(cut, longest=longest) == whole


@given(
    data=st.lists(st.sampled_from([a for a in ATOMS if b"\n" not in a and b"\r" not in a]), max_size=30).map(b"".join)
)
def test_every_character_of_a_line_is_found_in_its_bytes(data):
    kept = without_escapes(characters(data))

    assert clean(data) == "".join(char for char, _, _ in kept)
    assert [span_in(data, at, at + 1) for at in range(len(kept))] == [(start, stop) for _, start, stop in kept]
    ends = [0, *(stop for _, _, stop in kept)]
    assert [span_in(data, at, at) for at in range(len(kept) + 1)] == [(end, end) for end in ends]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_line_ends_with_any_of_the_three_ends(end):
    assert texts(b"one" + end + b"two" + end) == ["one", "two"]


def test_a_carriage_return_and_a_newline_are_one_end_even_cut_in_two():
    assert texts(b"one\r", b"\ntwo\n") == ["one", "two"]
    assert texts(b"one\r", b"", b"\n", b"\n") == ["one", ""]


def test_other_channels_do_not_come_between_the_two_halves_of_an_end():
    records = [Record("stdout", 0, b"one\r"), Record("stderr", 0, b"\n"), Record("stdout", 0, b"\ntwo\n")]

    assert [(line.channel, line.text) for line in all_lines(chunks_of(records))] == [
        ("stdout", "one"),
        ("stderr", ""),
        ("stdout", "two"),
    ]


def test_a_line_says_where_it_is_and_when_its_last_byte_was_read():
    records = [Record("stdout", 0, b"a\nb"), Record("stderr", 7, b"xyz"), Record("stdout", 9, b"c\r\n")]

    first, second, third = all_lines(chunks_of(records))

    assert first == Line("a", "stdout", 0, 1, wall(0), False, True)
    assert second == Line("bc", "stdout", 2, 7, wall(9), False, True)
    assert third == Line("xyz", "stderr", 3, 6, wall(7), False, False)


def test_an_empty_line_is_where_its_end_is():
    assert all_lines([Chunk(10, "tty", 3, 0, b"\n\r\n")]) == [
        Line("", "tty", 10, 10, 3, False, True),
        Line("", "tty", 11, 11, 3, False, True),
    ]


def test_a_character_cut_in_two_is_one_character():
    assert texts(b"\xe2\x9c", b"\x93\n") == ["✓"]


def test_bytes_that_are_no_utf_8_become_replacement_characters():
    assert texts(b"a\xffb\xe2\x9c\nc\xe2\n") == ["a\ufffdb\ufffd", "c\ufffd"]


def test_nuls_and_other_controls_stay():
    assert texts(b"a\0b\x08\x0b\x0c\x1c\xc2\x85\xe2\x80\xa8c\n") == ["a\0b\x08\x0b\x0c\x1c\x85\u2028c"]


@pytest.mark.parametrize(
    "sequence",
    [
        b"\x1b[31m",
        b"\x1b[38;2;1;2;3m",
        b"\x1b[?25l",
        b"\x1b[2 q",
        b"\x1b]0;a title\x07",
        b"\x1b]8;;http://x/\x1b\\",
        b"\x1bPq#0\x07\x1b\\",
        b"\x1b_x\x1b\\",
        b"\x1b^x\x1b\\",
        b"\x1b(B",
        b"\x1b#8",
        b"\x1b7",
        b"\x1bM",
        b"\x1b\x1b[m",
    ],
)
def test_ansi_sequences_are_not_part_of_the_text(sequence):
    assert texts(b"so" + sequence + b"me\n") == ["some"]


def test_an_osc_without_an_end_takes_no_more_than_its_line():
    assert texts(b"shown\x1b]0;not shown\nport 80\n") == ["shown", "port 80"]


def test_an_osc_without_an_end_takes_no_more_than_4_kib():
    assert texts(b"\x1b]" + b"x" * LONGEST_STRING + b"port 80\n") == ["port 80"]
    assert texts(b"\x1b]" + b"x" * LONGEST_STRING + b"\x07port 80\n") == ["port 80"]


def test_a_sequence_inside_an_osc_ends_it():
    assert texts(b"\x1b]0;title\x1b[0mport\x07 80\n") == ["port\x07 80"]


def test_leaving_out_a_sequence_makes_no_new_one_of_what_is_around_it():
    assert texts(b"\x1b[3\x1b[0m1mport\n") == ["1mport"]
    assert texts(b"\x1b\x1b[0m[31mport\n") == ["[31mport"]


def test_a_sequence_that_its_line_cuts_is_left_out():
    assert texts(b"port 80\x1b[3", b"\n\x1b\n") == ["port 80", ""]


def test_many_different_colours_are_left_out_as_well():
    text = b"".join(b"\x1b[38;5;%dm%d" % (number, number % 10) for number in range(100))

    assert texts(text + b"\n") == ["0123456789" * 10]


def test_a_line_of_64_kib_is_whole():
    [line] = all_lines([Chunk(0, "stdout", 0, 0, b"x" * LONGEST_LINE + b"\n")])

    assert (len(line.text), line.cut, line.whole) == (LONGEST_LINE, False, True)


def test_a_longer_line_is_cut_and_each_part_says_so():
    first, second, third = all_lines([Chunk(0, "stdout", 0, 0, b"x" * LONGEST_LINE + b"yz\nshort\n")])

    assert (first.end, first.cut) == (LONGEST_LINE, True)
    assert (second.text, second.start, second.cut) == ("yz", LONGEST_LINE, True)
    assert (third.text, third.cut) == ("short", False)


def test_a_cut_does_not_cut_a_character():
    first, second = all_lines([Chunk(0, "stdout", 0, 0, b"x" * (LONGEST_LINE - 1) + "é".encode() + b"\n")])

    assert (len(first.text), second.text) == (LONGEST_LINE - 1, "é")


def test_memory_is_bounded_when_no_line_ever_ends():
    assembler = LineAssembler()
    piece = bytes(range(33, 127)) * 500

    found = [assembler.feed(Chunk(number * len(piece), "stdout", 0, 0, piece)) for number in range(100)]

    lengths = [len(line.text) for lines in found for line in lines]
    assert len(lengths) == 100 * len(piece) // LONGEST_LINE
    assert set(lengths) == {LONGEST_LINE}
    assert max(map(len, found)) == 1
    [rest] = assembler.end()
    assert len(rest.text) < LONGEST_LINE


def test_a_gap_ends_unfinished_lines():
    assembler = LineAssembler()
    assembler.feed(Chunk(0, "stdout", 0, 0, b"half\r"))
    assembler.feed(Chunk(5, "stderr", 0, 0, b"an err"))

    [line] = assembler.gap(11, 500)

    assert (line.text, line.whole) == ("an err", False)
    after = assembler.feed(Chunk(500, "stdout", 0, 0, b"\nor\n"))
    assert [(line.text, line.start) for line in after] == [("", 500), ("or", 501)]
    assert assembler.end() == []


def test_lines_come_in_the_order_in_which_they_ended():
    records = [Record("stdout", 0, b"first"), Record("stderr", 1, b"second\n"), Record("stdout", 2, b"\n")]

    assert [line.text for line in all_lines(chunks_of(records))] == ["second", "first"]


def test_a_line_must_have_room_for_a_character():
    with pytest.raises(ValueError, match="4 bytes"):
        LineAssembler(longest=3)


def test_lines_share_nothing_with_the_next_log():
    assembler = LineAssembler()
    assembler.feed(Chunk(0, "stdout", 0, 0, b"x\r"))
    assembler.end()

    assert [line.text for line in assembler.feed(Chunk(0, "stdout", 0, 0, b"\n"))] == [""]
