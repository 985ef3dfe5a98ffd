"""A stream on a real session: reading its log, typing into it, steering it, and what it says of itself."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator

import pytest
from live import GO, Create, creating, first, go, live_terminal, numbered

from cmdop_jupyter import stream as stream_module
from cmdop_jupyter.client import Terminal
from cmdop_jupyter.errors import (
    Detached,
    InputTooLong,
    InvalidRequest,
    PatternError,
    SessionNotFound,
    SessionOver,
    StillRunning,
    TooMuch,
)
from cmdop_jupyter.machines.base import Exit
from cmdop_jupyter.stream import Gap
from cmdop_jupyter.streams import streams


@pytest.fixture
def create(state_dir) -> Iterator[Create]:
    with creating() as create:
        yield create


@pytest.fixture
def terminal(state_dir) -> Iterator[Terminal]:
    with live_terminal() as terminal:
        yield terminal


# -- reading


def test_the_bytes_of_the_log_can_be_read(create):
    stream = create("printf 0123456789")
    stream.wait_exit().result()

    assert stream.read() == b"0123456789"
    assert stream.read(4) == b"456789"
    assert stream.read(4, max_bytes=3) == b"456"


def test_five_megabytes_are_read_as_they_were_written(create):
    stream = create("seq 700000")
    stream.wait_exit().result()

    assert stream.read() == numbered(1, 700_000)


def test_the_text_is_decoded_and_has_no_escape_sequences(create):
    stream = create(r"printf '\033[31mgr\303\274n\033[0m\nno end'")
    stream.wait_exit().result()

    assert stream.text() == "grün\nno end"


def test_a_text_that_is_too_large_names_the_other_ways(create, monkeypatch):
    monkeypatch.setattr(stream_module, "TEXT_LIMIT", 100)
    stream = create("seq 1000")
    stream.wait_exit().result()

    with pytest.raises(TooMuch, match=r"3893 bytes.*`lines\(\)`") as raised:
        stream.text()

    assert (raised.value.size, raised.value.limit) == (3893, 100)


def test_lines_give_what_is_there(create):
    stream = create(f"echo one; echo two; printf 'three? '; {GO}", tty="none")
    stream.wait_for("three").result()

    lines = list(stream.lines())

    assert [(line.text, line.start, line.whole) for line in lines] == [
        ("one", 0, True),
        ("two", 4, True),
        ("three? ", 8, False),
    ]


async def test_lines_can_be_followed_to_the_end(terminal):
    stream = await terminal.create(command=f"echo one; {GO}; echo two; echo three", tty="none")
    following = aiter(stream.lines())

    assert (await anext(following)).text == "one"
    await stream.send_input("\n")
    assert [line.text async for line in following] == ["two", "three"]


def test_lines_of_one_channel(create):
    stream = create("echo out; echo err >&2", tty="none")
    stream.wait_exit().result()

    assert [line.text for line in stream.lines(channel="stderr")] == ["err"]
    with pytest.raises(InvalidRequest, match="stdout, stderr, tty"):
        stream.lines(channel="error")


def test_grep_gives_the_lines_that_match(create):
    stream = create("seq 1000")
    stream.wait_exit().result()

    assert [line.text for line in stream.grep(r"^(\d)\1\1$")] == [str(111 * digit) for digit in range(1, 10)]
    assert repr(stream.grep("x.z")).startswith("<lines that match /x.z/ of ")
    with pytest.raises(PatternError):
        stream.grep("(")


async def test_grep_can_follow(terminal):
    stream = await terminal.create(command=f"seq 9; {GO}; seq 9", tty="none")
    following = aiter(stream.grep("5|7"))

    assert [line.text for line in await first(2, following)] == ["5", "7"]


def test_tail_gives_the_newest_lines(create):
    stream = create("seq 20000")
    stream.wait_exit().result()

    assert [line.text for line in stream.tail(3)] == ["19998", "19999", "20000"]
    assert [line.text for line in stream.tail(15_000)][::14_999] == ["5001", "20000"]
    assert stream.tail(30_000)[0].text == "1"


def test_tail_of_no_lines_is_refused(create):
    with pytest.raises(InvalidRequest, match="1 or more"):
        create("true").tail(0)


async def test_chunks_follow_the_log_to_its_end(terminal):
    stream = await terminal.create(command=f"echo one; {GO}; echo two", tty="none")
    following = stream.chunks()

    assert (await anext(following)).data == b"one\n"
    await stream.send_input("\n")
    assert b"".join([chunk.data async for chunk in following]) == b"two\n"


async def test_chunks_need_not_follow(terminal):
    stream = await terminal.create(command=f"echo one; {GO}", tty="none")
    await stream.wait_for("one")

    assert [chunk.data async for chunk in stream.chunks(follow=False)] == [b"one\n"]


async def test_chunks_begin_where_they_were_told_to(terminal):
    stream = await terminal.create(command=f"echo before; {GO}; echo after", tty="none")
    await stream.wait_for("before")
    now, offset, begin = (stream.chunks(start) for start in ("now", 3, "begin"))
    await stream.send_input("\n")
    await stream

    async def data(chunks) -> bytes:
        return b"".join([chunk.data async for chunk in chunks])

    assert [await data(now), await data(offset), await data(begin)] == [
        b"after\n",
        b"ore\nafter\n",
        b"before\nafter\n",
    ]


async def test_a_gap_stands_for_bytes_that_were_dropped(terminal):
    stream = await terminal.create(command=f"{GO}; seq 100000")
    await stream.limit(64 * 1024)
    await stream.send_input("\n")
    await stream
    whole = numbered(1, 100_000)

    chunks = [chunk async for chunk in stream.chunks()]

    (gap,) = [chunk for chunk in chunks if isinstance(chunk, Gap)]
    assert (gap.offset, gap.end) == stream.status.dropped
    assert gap.data == b""
    assert repr(gap) == f"<Gap {gap.offset}..{gap.end}>"
    kept = [chunk for chunk in chunks if chunk is not gap and chunk.channel != "tty"]
    echo = stream.status.end - len(whole)  # what was typed comes first
    assert b"".join(chunk.data for chunk in kept) == whole[: gap.offset - echo] + whole[gap.end - echo :]
    assert stream.metrics.dropped == gap.end - gap.offset
    assert stream.read() == b"".join(chunk.data for chunk in chunks)


async def test_a_reader_that_stops_leaves_nothing_behind(terminal):
    stream = await terminal.create(command="seq 100000; exec sleep 1000")

    assert (await anext(stream.chunks())).offset == 0
    assert [line.text for line in await first(2, aiter(stream.lines()))] == ["1", "2"]

    assert (await stream.wait_for("^100000$")).line == "100000"


# -- the exit


async def test_awaiting_a_stream_gives_the_exit(terminal):
    stream = await terminal.create(command="exit 3")

    assert await stream == Exit(3)
    assert stream.exit == Exit(3)


async def test_the_exit_does_not_wait_for_who_holds_the_output(terminal):
    stream = await terminal.create(command="sleep 1000 & exit 0", tty="none")

    assert await stream == Exit(0)
    assert stream.state == "exited"


def test_the_exit_can_be_waited_for_so_long(create):
    stream = create(f"{GO}; exit 3", tty="none", name="api")

    with pytest.raises(StillRunning, match=r"api has not exited in 0.05 s and goes on"):
        stream.wait_exit(timeout=0.05).result()
    go(stream)
    assert stream.wait_exit(timeout=30).result() == Exit(3)
    assert stream.wait_exit(timeout=0).result() == Exit(3)


# -- input


def test_input_is_typed_exactly(create):
    stream = create("exec cat", tty="none")

    stream.send_input("grün").result()
    stream.send_input(b"\x00\xff\n").result()
    stream.send_eof().result()

    stream.wait_exit().result()
    assert stream.read() == "grün".encode() + b"\x00\xff\n"


def test_input_keeps_its_order_though_nobody_waits(create):
    stream = create("exec cat", tty="none")

    for number in range(1, 2001):
        stream.send_input(f"{number}\n")
    stream.send_eof()

    stream.wait_exit().result()
    assert stream.read() == numbered(1, 2000)


def test_large_input_arrives_whole(create):
    data = numbered(1, 300_000)  # 2 MB
    stream = create("exec sha256sum", tty="none")

    stream.send_input(data)
    stream.send_eof().result()

    stream.wait_exit().result()
    assert stream.text().split()[0] == hashlib.sha256(data).hexdigest()


def test_a_line_that_the_terminal_would_cut_is_refused(create):
    stream = create(f"{GO}; {GO}")

    with pytest.raises(InputTooLong, match="Nothing was typed"):
        stream.send_input("x" * 5000 + "\n").result()


@pytest.mark.parametrize("wrong", [5, None, ["a"]])
def test_input_is_bytes_or_str(create, wrong):
    with pytest.raises(InvalidRequest, match="bytes or str"):
        create("true").send_input(wrong)


def test_input_for_what_has_ended_is_refused(create):
    stream = create("true", name="quick")
    stream.wait_exit().result()

    with pytest.raises(SessionOver, match="quick is ended"):
        stream.send_input("hello\n").result()


# -- control


def test_its_terminal_can_be_resized(create):
    stream = create(f"stty size; {GO}; stty size", tty="full")
    stream.wait_for("^40 120$").result()

    stream.send_resize(100, 30).result()
    go(stream)

    assert stream.wait_for("^30 100$").result()


@pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "usr1", 10])
def test_signals_go_by_name_or_number(create, name):
    stream = create("trap 'exit 7' USR1; echo ready; while :; do sleep 0.02; done", tty="none")
    stream.wait_for("ready").result()

    stream.send_signal(name).result()

    assert stream.wait_exit().result() == Exit(7)


def test_a_signal_there_is_not_is_refused_at_once(create):
    with pytest.raises(InvalidRequest, match="NOPE"):
        create(GO).send_signal("NOPE")


def test_stop_reports_what_it_took(create):
    stream = create("echo ready; exec sleep 1000")
    stream.wait_for("ready").result()

    report = stream.stop().result()

    assert str(report).startswith("stopped by INT in ")
    assert (stream.state, stream.exit) == ("ended", Exit(None, "INT"))
    assert str(stream.stop().result()) in (str(report), "nothing was left to stop")


# -- attaching and letting go


async def test_what_is_attached_now_begins_there(create, terminal):
    session = await terminal.create(command=f"echo before; {GO}; echo after", tty="none", name="api")
    await session.wait_for("before")

    stream = await terminal.stream().attach("api")
    await stream.send_input("\n")

    assert b"".join([chunk.data async for chunk in stream.chunks()]) == b"after\n"
    assert stream.read() == b"before\nafter\n"


def test_a_stream_is_attached_to_one_session(create, terminal):
    first, second = create("true"), create("true")

    with pytest.raises(Detached, match=f"attached to {first.name} already"):
        first.attach(second.session_id).result()


def test_what_is_not_there_cannot_be_attached(create, terminal):
    create("true", name="server")

    with pytest.raises(SessionNotFound, match="did you mean server"):
        terminal.stream().attach("sever").result()


@pytest.mark.parametrize("start", ["soon", -5, 0.5])
def test_a_place_that_makes_no_sense_is_refused_at_the_call(terminal, start):
    with pytest.raises(InvalidRequest, match=r"begin|negative"):
        terminal.stream().attach("api", start=start)


def test_a_detached_stream_says_so_and_its_session_goes_on(create):
    stream = create(f"{GO}; echo after", tty="none")
    session_id = stream.session_id

    with stream:
        pass

    with pytest.raises(Detached, match="attach"):
        stream.read()
    with pytest.raises(Detached):
        stream.wait_for("x")
    assert stream.attach(session_id).result().state == "running"


def test_what_is_typed_after_attaching_again_arrives(create):
    stream = create("exec cat", tty="none")
    session_id = stream.session_id
    stream.send_input("one\n").result()
    stream.detach()

    stream.attach(session_id, start="begin").result()
    stream.send_input("two\n").result()

    assert stream.wait_for("two").result().before == "one\n"


def test_streams_are_found_by_name(create):
    older, newer = create("true", name="older"), create("true", name="newer")

    assert (streams["older"], streams.latest) == (older, newer)
    assert streams.find(None) is newer
    assert streams.find("older") is older
    assert "older on this machine" in repr(streams)
    with pytest.raises(SessionNotFound, match="did you mean newer"):
        streams.find("never")
    newer.detach()
    assert "newer" not in streams


# -- what it says of itself


def test_metrics_count_what_there_is(create):
    stream = create("seq 100")
    stream.wait_exit().result()

    metrics = stream.metrics

    assert (metrics.bytes, metrics.lines, metrics.lag, metrics.handler_errors, metrics.dropped) == (292, 100, {}, 0, 0)
    assert 0 < metrics.seconds < 60


def test_its_repr_tells_the_state_in_one_line(create):
    stream = create(f"seq 100; {GO}; exit 3", name="api", tty="none")
    stream.wait_for("^100$").result()
    running = repr(stream)
    go(stream)
    stream.wait_exit().result()

    assert running.startswith("<Stream api on this machine: running ")
    assert ", 292 B, last output " in running
    assert repr(stream).startswith("<Stream api on this machine: e")
    assert repr(stream).endswith("s, 292 B, exit 3>")


async def test_its_repr_tells_that_the_session_was_removed(terminal):
    stream = await terminal.create(command="true", name="api")
    assert await stream.stop()
    await asyncio.to_thread(stream_module.runtime().wait, stream._machine.remove(stream.session_id))

    assert repr(stream) == "<Stream api on this machine: removed>"
