"""Frames: whatever was put in comes out, however the bytes were cut; what is no frame is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.agent.frames import MAX_BODY, MAX_HEADER, FrameDecoder, FrameError, encode

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
FRAMES = st.lists(st.tuples(st.dictionaries(st.text(), VALUES, max_size=3), st.binary(max_size=60)), max_size=4)


@given(frames=FRAMES, data=st.data())
def test_frames_come_out_as_they_went_in_however_they_were_cut(frames, data):
    rest = b"".join(encode(header, body) for header, body in frames)
    decoder, found = FrameDecoder(), []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += decoder.feed(rest[:size])
        rest = rest[size:]

    assert found == frames


def test_a_frame_comes_out_with_its_last_byte():
    decoder = FrameDecoder()
    frame = encode({"op": "write"}, b"hello")

    assert decoder.feed(frame[:-1]) == []
    assert decoder.feed(frame[-1:]) == [({"op": "write"}, b"hello")]


@pytest.mark.parametrize(
    ("header", "body"),
    [({"op": "x" * MAX_HEADER}, b""), ({}, b"x" * (MAX_BODY + 1))],
    ids=["header", "body"],
)
def test_a_frame_that_is_too_large_is_not_made(header, body):
    with pytest.raises(FrameError, match="above"):
        encode(header, body)


def frame_of(head: bytes) -> bytes:
    return struct.pack(">II", len(head), 0) + head


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        struct.pack(">II", 2, MAX_BODY + 1),
        frame_of(b"{"),
        frame_of(b""),
        frame_of(b"[1]"),
        frame_of(b'{"a": 1} x'),
        frame_of(b"\xff\xff"),
        frame_of(b"[" * 100_000),
    ],
    ids=["http", "long body", "half", "empty", "list", "two", "no utf-8", "deep"],
)
def test_bytes_that_are_no_frame_are_refused(data):
    with pytest.raises(FrameError, match="not a frame"):
        FrameDecoder().feed(data)
