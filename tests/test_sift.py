"""Lines that a filter finds keep the colours they were written in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.notebook.views.fold import PLAIN, fold
from cmdop_jupyter.notebook.views.sieve import Looks, Sieve
from cmdop_jupyter.notebook.views.sift import MOST_RAW, in_colours, written

PIECES = ["plain", "\x1b[31m", "\x1b[1;32m", "\x1b[0m", "é", "\x1b[m\n", "\x1b[m\r\n", "x" * 50]


def cut(data: bytes, sizes: list[int]) -> list[Chunk]:
    """A log of one channel in chunks of these sizes, the last as long as it has to be."""
    chunks, at = [], 0
    for size in [*sizes, len(data)]:
        if part := data[at : at + size]:
            chunks.append(Chunk(at, "stdout", 5, 0, part))
        at += size
    return chunks


def found(chunks: list[Chunk], pattern: str = ""):
    ends = [chunk.end for chunk in chunks]
    sieve = Sieve(Looks(search=pattern))
    lines = sieve.feed(chunks) + sieve.end()
    return [in_colours(line, written(line, chunks, ends)) for line in lines]


@given(st.lists(st.sampled_from(PIECES), max_size=30), st.lists(st.integers(1, 20), max_size=20))
def test_a_line_is_as_it_is_without_a_filter_however_the_log_was_cut(pieces, sizes):
    # Each line begins plain: what colour the one before it left is not known where lines are left out.
    data = "".join(pieces).encode() + b"\n"
    chunks = cut(data, sizes)

    assert [line.spans for line in found(chunks)] == [line.spans for line in fold(chunks, from_start=True)]


def test_another_channel_between_its_bytes_is_not_in_a_line():
    texts = ["\x1b[31mred ", "\x1b[32mgreen\n", "line\x1b[0m\n"]
    chunks = [Chunk(0, "stdout", 5, 0, texts[0].encode())]
    chunks.append(Chunk(chunks[-1].end, "stderr", 5, 0, texts[1].encode()))
    chunks.append(Chunk(chunks[-1].end, "stdout", 5, 0, texts[2].encode()))

    green, red = found(chunks)

    assert [(text, style.fg) for text, style in red.spans] == [("red line", 1)]
    assert [(text, style.fg) for text, style in green.spans] == [("green", 2)]


def test_what_is_too_long_is_plain():
    (line,) = found(cut(b"\x1b[31m" + b"y" * MOST_RAW + b"\n", []))

    assert [style for _, style in line.spans] == [PLAIN]
    assert line.text.startswith("yyy")
    assert line.cut
