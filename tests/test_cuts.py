"""Cutting chunks at newlines: against the same cut of the joined bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.notebook.views.cuts import begins_with_line, first_lines, from_offset, last_lines

PIECES = st.lists(st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b"bb"]), min_size=1, max_size=5).map(b"".join))


def chunks_of(pieces: list[bytes], start: int = 0) -> list[Chunk]:
    chunks = []
    for piece in pieces:
        chunks.append(Chunk(start, "stdout", 0, 0, piece))
        start += len(piece)
    return chunks


def joined(chunks: list[Chunk]) -> bytes:
    return b"".join(chunk.data for chunk in chunks)


@given(pieces=PIECES, count=st.integers(1, 6))
def test_the_last_lines_are_those_of_the_joined_bytes(pieces: list[bytes], count: int) -> None:
    data = b"".join(pieces)

    kept, cut = last_lines(chunks_of(pieces), count)

    lines = data.split(b"\n")
    ends = data.endswith(b"\n")
    wanted = lines[-count - ends :] if count + ends < len(lines) else lines
    assert joined(kept) == b"\n".join(wanted)
    assert cut + joined(kept).count(b"\n") == data.count(b"\n")
    assert begins_with_line(kept, cut) == bool(kept)


@given(pieces=PIECES, count=st.integers(1, 6))
def test_the_first_lines_are_finished_ones(pieces: list[bytes], count: int) -> None:
    data = b"".join(pieces)

    kept, seen = first_lines(chunks_of(pieces), count)

    assert data.startswith(joined(kept))
    assert seen == min(count, data.count(b"\n")) == joined(kept).count(b"\n")
    assert seen < count or joined(kept).endswith(b"\n")


@given(pieces=PIECES, start=st.integers(0, 5), offset=st.integers(0, 40))
def test_what_lies_behind_an_offset_and_the_newlines_in_front(pieces: list[bytes], start: int, offset: int) -> None:
    data = b"".join(pieces)

    kept, before = from_offset(chunks_of(pieces, start), offset)

    skip = min(max(0, offset - start), len(data))
    assert joined(kept) == data[skip:]
    assert before == data[:skip].count(b"\n")
    assert all(chunk.offset >= offset for chunk in kept)
