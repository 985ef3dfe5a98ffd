"""Pieces: whatever the bytes are and however they were cut, the same text and the same lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.errors import InvalidRequest
from cmdop_jupyter.lines import LineAssembler
from cmdop_jupyter.pieces import Pieces

ATOMS = [b"a", b"\n", b"\r", b"\xe2", b"\x9c", b"\x93", b"\xff", "é😀".encode(), b"\x1b[31m"]
CHANNELS = ["stdout", "stderr", "tty"]
PIECE = st.lists(st.sampled_from(ATOMS), min_size=1, max_size=5).map(b"".join)
OUTPUT = st.lists(st.tuples(st.sampled_from(CHANNELS), PIECE), max_size=12)


def chunks_of(output: list[tuple[str, bytes]]) -> list[Chunk]:
    chunks, offset = [], 0
    for channel, data in output:
        chunks.append(Chunk(offset, channel, 1, 0, data))
        offset += len(data)
    return chunks


def all_pieces(chunks: list[Chunk], unit: str, channel: str | None = None) -> list[tuple[bytes | str, str]]:
    pieces = Pieces(unit, channel)
    return [piece for chunk in chunks for piece in pieces.feed(chunk)] + pieces.end()


def joined(output: list[tuple[str, bytes]], channel: str) -> bytes:
    return b"".join(data for name, data in output if name == channel)


@given(output=OUTPUT)
def test_chunks_are_handed_on_as_they_are(output):
    assert all_pieces(chunks_of(output), "chunk") == [(data, channel) for channel, data in output]


@given(output=OUTPUT, channel=st.sampled_from(CHANNELS))
def test_a_channel_can_be_had_alone(output, channel):
    assert all_pieces(chunks_of(output), "chunk", channel) == [(data, name) for name, data in output if name == channel]


@given(output=OUTPUT)
def test_text_is_what_each_channel_decodes_to_however_it_was_cut(output):
    pieces = all_pieces(chunks_of(output), "text")

    for channel in CHANNELS:
        text = "".join(str(piece) for piece, name in pieces if name == channel)
        assert text == joined(output, channel).decode("utf-8", "replace")


@given(output=OUTPUT)
def test_no_piece_of_text_is_empty(output):
    assert all(piece for piece, _ in all_pieces(chunks_of(output), "text"))


@given(output=OUTPUT)
def test_lines_are_those_of_the_log(output):
    assembler = LineAssembler()
    lines = [line for chunk in chunks_of(output) for line in assembler.feed(chunk)] + assembler.end()

    assert all_pieces(chunks_of(output), "line") == [(line.text, line.channel) for line in lines]


def test_nothing_is_joined_across_the_end():
    pieces = Pieces("text")

    assert pieces.feed(Chunk(0, "stdout", 1, 0, b"a\xe2")) == [("a", "stdout")]
    assert pieces.end() == [("\ufffd", "stdout")]
    assert pieces.feed(Chunk(9, "stdout", 1, 0, b"\x9c\x93")) == [("\ufffd\ufffd", "stdout")]


@pytest.mark.parametrize(("unit", "channel"), [("word", None), ("chunk", "stdin"), (None, None)])
def test_what_there_is_not_is_refused_with_what_there_is(unit, channel):
    with pytest.raises(InvalidRequest, match=r"chunk, text, line|stdout, stderr, tty"):
        Pieces(unit, channel)
