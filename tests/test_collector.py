"""Collector: what it keeps, and how it says that it does not have all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import live_terminal, numbered

from cmdop_jupyter.client import Terminal
from cmdop_jupyter.errors import InvalidRequest, TooMuch
from cmdop_jupyter.handlers import Collector, CollectorFull

PIECES = st.lists(
    st.lists(st.sampled_from([b"a", b"\n", b"\xe2", b"\x9c", b"\x93", b"\xff"]), max_size=6).map(b"".join)
)


@pytest.fixture
def terminal(state_dir) -> Iterator[Terminal]:
    with live_terminal() as terminal:
        yield terminal


async def test_a_collector_keeps_the_channels_of_a_stream_apart(terminal):
    collector = Collector()
    stream = await terminal.create(command="seq 1000; seq 1000 2000 >&2; printf '\\342\\234\\223'", tty="none")

    await stream.on_output(collector.add)

    assert collector.data == stream.read()
    assert collector.channel("stdout") == numbered(1, 1000) + "✓".encode()
    assert collector.channel("stderr") == numbered(1000, 2000)
    assert collector.channel("tty") == b""
    assert len(collector) == len(collector.data)


async def test_a_collector_can_be_a_handler_itself(terminal):
    collector = Collector()

    await (await terminal.create(command="echo hello", tty="none")).on_output(collector)

    assert (collector.text, collector.channel("stdout")) == ("hello\n", b"hello\n")


@given(pieces=PIECES, max_bytes=st.integers(1, 30))
def test_a_collector_has_all_or_says_so_and_keeps_the_newest(pieces, max_bytes):
    collector, whole = Collector(max_bytes=max_bytes), b"".join(pieces)
    for piece in pieces:
        collector.add(piece)
        assert len(collector) <= max_bytes

    assert collector.tail == whole[-max_bytes:]
    assert len(collector) + collector.dropped == len(whole)
    if len(whole) <= max_bytes:
        assert collector.data == whole
        assert collector.text == whole.decode(errors="replace")
    else:
        for read in (lambda: collector.data, lambda: collector.text, lambda: collector.channel("stdout")):
            with pytest.raises(CollectorFull) as full:
                read()
            assert (full.value.size, full.value.limit) == (len(whole), max_bytes)


def test_a_full_collector_says_what_to_do():
    collector = Collector(max_bytes=4)
    collector.add(b"123456")

    with pytest.raises(
        TooMuch, match=r"given 6 bytes and keeps the newest 4 only: `tail` has those; a larger max_bytes"
    ):
        collector.data  # noqa: B018
    collector.clear()
    collector.add(b"12")
    assert collector.data == b"12"


def test_the_text_of_a_collector_is_decoded_channel_by_channel():
    collector = Collector()
    for data, channel in ((b"\xe2\x9c", "stdout"), (b"err ", "stderr"), (b"\x93", "stdout"), (b"\xe2", "tty")):
        collector.add(data, channel)

    assert collector.text == "err ✓\ufffd"


def test_a_collector_that_was_not_told_channels_says_so():
    collector = Collector()
    collector.add(b"data")

    with pytest.raises(InvalidRequest, match=r"register `collector.add` itself"):
        collector.channel("stdout")


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: Collector(max_bytes=0), "1 or more, got 0"),
        (lambda: Collector().channel("stdin"), "stdout, stderr, tty, not 'stdin'"),
    ],
)
def test_what_cannot_be_is_refused_with_its_remedy(make, remedy):
    with pytest.raises(InvalidRequest) as refused:
        make()

    assert remedy in str(refused.value)


def test_a_repr_tells_the_size_in_one_line():
    collector = Collector(max_bytes=2)
    collector.add(b"123")
    assert repr(collector) == "<Collector: 2 B of at most 2 B, the 1 B before were dropped>"
