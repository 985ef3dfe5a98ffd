"""Handlers on real sessions: what they are given, where they run, and what becomes of those that fail or are slow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from live import GO, Create, creating, go, live_terminal, numbered

from cmdop_jupyter.client import Terminal
from cmdop_jupyter.errors import InvalidRequest, LogDropped
from cmdop_jupyter.machines.base import Exit
from cmdop_jupyter.stream import Stream


@pytest.fixture
def create(state_dir) -> Iterator[Create]:
    with creating() as create:
        yield create


@pytest.fixture
def terminal(state_dir) -> Iterator[Terminal]:
    with live_terminal() as terminal:
        yield terminal


class Collector:
    """A handler that keeps what it is given, and tells when it had `size` bytes."""

    def __init__(self, size: int) -> None:
        self.pieces: list[bytes] = []
        self.channels: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.done = threading.Event()
        self._size = size

    def __call__(self, data: bytes, channel: str) -> None:
        self.pieces.append(data)
        self.channels.append(channel)
        self.threads.add(threading.current_thread())
        if len(self.data) >= self._size:
            self.done.set()

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


def wait(event: threading.Event) -> None:
    assert event.wait(30)


# -- what they are given


def test_a_handler_of_one_argument_gets_the_bytes(create):
    seen, done = [], threading.Event()

    def handler(data: bytes) -> None:
        seen.append(data)
        done.set()

    create("echo hello").on_output(handler)

    wait(done)
    assert seen == [b"hello\n"]


def test_a_handler_of_two_arguments_gets_the_channel_too(create):
    collector = Collector(8)

    create("echo out; echo err >&2", tty="none").on_output(collector)

    wait(collector.done)
    assert dict(zip(collector.channels, collector.pieces, strict=True)) == {"stdout": b"out\n", "stderr": b"err\n"}


def test_a_handler_of_any_arguments_gets_the_channel_too(create):
    seen, done = [], threading.Event()

    def handler(*args: object) -> None:
        seen.append(args)
        done.set()

    create("echo hello").on_output(handler)

    wait(done)
    assert seen == [(b"hello\n", "stdout")]


def test_a_second_argument_with_a_default_is_the_authors_own(create):
    seen, done = [], threading.Event()

    create("echo hello").on_output(lambda data, seen=seen: (seen.append(data), done.set()))

    wait(done)
    assert seen == [b"hello\n"]


def test_a_method_written_in_c_gets_the_bytes(create):
    seen: list[bytes] = []
    stream = create("echo hello")

    with stream.on_output(seen.append), stream.on_exit(lambda exit: None):
        stream.wait_for("hello").result()
        while not seen:
            stream.status  # noqa: B018

    assert seen == [b"hello\n"]


@pytest.mark.parametrize(
    "handler", [lambda: None, lambda a, b, c: None, lambda *, data: None, lambda data, *, channel: None, "print", None]
)
def test_what_cannot_be_called_so_is_refused_at_once(create, handler):
    with pytest.raises(InvalidRequest, match=r"\(data\) or \(data, channel\)|must be callable"):
        create("true").on_output(handler)


def test_on_exit_takes_one_argument(create):
    with pytest.raises(InvalidRequest, match="takes one argument"):
        create("true").on_exit(lambda exit, channel: None)


def test_an_async_handler_is_sent_to_its_own_method(create):
    async def handler(data: bytes) -> None: ...

    with pytest.raises(InvalidRequest, match="on_output_async"):
        create("true").on_output(handler)


# -- order, and every byte once


def test_each_handler_gets_every_byte_once_and_in_order(create):
    wanted = numbered(1, 700_000)  # 4.8 MB
    stream = create(f"{GO}; seq 700000", tty="none")
    collectors = [Collector(len(wanted)) for _ in range(3)]
    for collector in collectors:
        stream.on_output(collector)

    go(stream)

    for collector in collectors:
        wait(collector.done)
        assert collector.data == wanted


def test_a_slow_handler_delays_nobody(create):
    stream = create("seq 100000")
    may_go_on, slow_began = threading.Event(), threading.Event()

    def slow(data: bytes) -> None:
        slow_began.set()
        wait(may_go_on)

    quick, wanted = Collector(len(numbered(1, 100_000))), numbered(1, 100_000)
    stream.on_output(slow)
    stream.on_output(quick)

    wait(slow_began)
    wait(quick.done)
    assert stream.wait_for("^100000$").result()[0] == "100000"
    assert quick.data == wanted
    assert [lag for name, lag in stream.metrics.lag.items() if name.endswith("slow")] == [len(wanted)]
    may_go_on.set()


def test_a_handler_registered_late_is_given_all_from_the_beginning(create):
    stream = create("seq 1000")
    stream.wait_exit().result()
    collector = Collector(len(numbered(1, 1000)))

    stream.on_output(collector)

    wait(collector.done)
    assert collector.data == numbered(1, 1000)


def test_a_handler_may_begin_now_or_at_an_offset(create):
    stream = create(f"echo before; {GO}; echo after", tty="none")
    stream.wait_for("before").result()
    now, offset = Collector(6), Collector(9)
    stream.on_output(now, start="now")
    stream.on_output(offset, start=4)

    go(stream)

    wait(now.done)
    wait(offset.done)
    assert (now.data, offset.data) == (b"after\n", b"re\nafter\n")


@pytest.mark.parametrize("start", ["then", -1, 1.5, True])
def test_a_start_that_makes_no_sense_is_refused_at_once(create, start):
    with pytest.raises(InvalidRequest, match=r"begin|negative"):
        create("true").on_output(print, start=start)


def test_handlers_may_be_registered_before_there_is_a_session(create, terminal):
    session_id = create(f"echo before; {GO}; echo after", tty="none").session_id
    stream = terminal.stream()
    collector, exits, left = Collector(13), [], threading.Event()
    stream.on_output(collector)
    stream.on_exit(lambda exit: (exits.append(exit), left.set()))

    stream.attach(session_id, start="begin").result()
    go(stream)

    wait(collector.done)
    wait(left)
    assert collector.data == b"before\nafter\n"
    assert exits == [Exit(0)]


def test_what_attaches_now_hands_on_what_comes_then(create, terminal):
    first = create(f"echo before; {GO}; echo after", tty="none")
    first.wait_for("before").result()
    stream, collector = terminal.stream(), Collector(6)
    stream.on_output(collector)

    stream.attach(first.name).result()
    go(stream)

    wait(collector.done)
    assert collector.data == b"after\n"


# -- where they run


async def test_a_handler_runs_on_the_loop_it_was_registered_from(terminal):
    stream = await terminal.create(command="echo hello")
    seen: asyncio.Queue[object] = asyncio.Queue()

    stream.on_output(lambda data: seen.put_nowait((data, threading.current_thread(), asyncio.get_running_loop())))

    assert await seen.get() == (b"hello\n", threading.current_thread(), asyncio.get_running_loop())


def test_without_a_loop_a_handler_runs_on_a_worker(create):
    collector = Collector(1)

    create("echo hello").on_output(collector)

    wait(collector.done)
    assert {thread.name for thread in collector.threads} == {"cmdop-handler"}


async def test_a_handler_may_have_a_worker_though_there_is_a_loop(terminal):
    collector = Collector(1)

    (await terminal.create(command="echo hello")).on_output(collector, thread=True)

    wait(collector.done)  # this blocks the loop
    assert {thread.name for thread in collector.threads} == {"cmdop-handler"}


async def test_an_async_handler_is_awaited_before_the_next_piece_comes(terminal):
    stream = await terminal.create(command="seq 1000; seq 1000 >&2", tty="none")
    under_way, most, data, done = 0, 0, b"", asyncio.Event()

    async def handler(piece: bytes) -> None:
        nonlocal under_way, most, data
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        data += piece
        under_way -= 1
        if len(data) == 2 * len(numbered(1, 1000)):
            done.set()

    stream.on_output_async(handler)

    await done.wait()
    assert data == numbered(1, 1000) * 2
    assert most == 1


def test_an_async_handler_runs_without_a_loop_too(create):
    seen, done = [], threading.Event()

    async def handler(data: bytes, channel: str) -> None:
        await asyncio.sleep(0)
        seen.append((data, channel))
        done.set()

    create("echo hello").on_output_async(handler)

    wait(done)
    assert seen == [(b"hello\n", "stdout")]


async def test_a_handler_may_ask_its_stream(terminal):
    stream = await terminal.create(command="echo hello")
    seen: asyncio.Queue[str] = asyncio.Queue()

    stream.on_output(lambda data: seen.put_nowait(stream.text()))

    assert await seen.get() == "hello\n"


async def test_the_handlers_of_a_loop_that_is_gone_are_gone(terminal):
    stream = await terminal.create(command=f"{GO}; echo hello", tty="none")
    seen = []

    async def register() -> None:
        stream.on_output(seen.append)

    await asyncio.to_thread(asyncio.run, register())
    await stream.send_input("\n")
    await stream

    while "list.append" in stream.metrics.lag:
        await stream.chunks("begin").__anext__()
    assert seen == []


# -- what raises


def test_one_that_raises_is_reported_once_counted_and_goes_on(create, capfd):
    stream = create("echo out; echo err >&2", tty="none", name="api")
    seen = []

    def handler(data: bytes) -> None:
        seen.append(data)
        raise LookupError(f"no use for {data!r}")

    stream.on_output(handler)
    stream.wait_exit().result()
    while stream.metrics.handler_errors < 2:
        assert len(seen) <= 2

    told = capfd.readouterr().err
    assert sorted(seen) == [b"err\n", b"out\n"]
    assert told.count("LookupError: ") == 1
    assert "a handler of api raised; the stream goes on" in told
    assert 'raise LookupError(f"no use for {data!r}")' in told
    assert "subscription.py" not in told


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()])
def test_no_error_of_a_handler_ends_the_stream(create, error):
    stream = create(f"echo one; {GO}; echo two", tty="none")
    errors: list[BaseException] = []
    collector, told = Collector(8), threading.Event()

    def handler(data: bytes, channel: str) -> None:
        collector(data, channel)
        raise error

    stream.on_error(lambda error: (errors.append(error), told.set()))
    stream.on_output(handler)
    stream.wait_for("one").result()
    go(stream)

    wait(collector.done)
    wait(told)
    assert stream.wait_for("two").result()
    assert set(errors) == {error}


def test_on_error_is_told_every_error_instead_of_the_page(create, capfd):
    stream = create(f"{GO}; echo one", tty="none")
    told, done = [], threading.Event()
    stream.on_error(lambda error: (told.append(error), done.set()))
    problem = LookupError("gone")

    def handler(data: bytes) -> None:
        raise problem

    stream.on_output(handler)
    go(stream)

    wait(done)
    assert told == [problem]
    assert "LookupError" not in capfd.readouterr().err


async def test_an_async_handler_that_raises_is_counted(terminal):
    stream = await terminal.create(command="echo one")
    told: asyncio.Queue[BaseException] = asyncio.Queue()
    stream.on_error(told.put_nowait)

    async def handler(data: bytes) -> None:
        raise LookupError("gone")

    stream.on_output_async(handler)

    assert isinstance(await told.get(), LookupError)
    assert stream.metrics.handler_errors == 1


async def test_bytes_that_were_dropped_are_told_to_on_error(terminal):
    stream = await terminal.create(command=f"{GO}; seq 100000")
    await stream.limit(64 * 1024)
    await stream.send_input("\n")
    await stream
    errors: list[BaseException] = []
    collector = Collector(len(stream.read()))
    told = threading.Event()
    stream.on_error(lambda error: (errors.append(error), told.set()), thread=True)

    stream.on_output(collector, thread=True)

    wait(collector.done)
    wait(told)
    assert [(type(error), error.offset, error.first) for error in errors] == [(LogDropped, *stream.status.dropped)]
    assert collector.data == stream.read()


# -- how they end


def test_on_exit_is_called_once_with_the_exit(create):
    stream = create(f"{GO}; exit 3", tty="none")
    exits, done = [], threading.Event()
    stream.on_exit(lambda exit: (exits.append(exit), done.set()))

    go(stream)

    wait(done)
    stream.wait_exit().result()
    assert exits == [Exit(3)]


def test_a_handler_that_was_removed_is_called_no_more(create):
    stream = create(f"echo one; {GO}; echo two", tty="none")
    removed, stays = Collector(4), Collector(8)
    stream.on_output(stays)
    with stream.on_output(removed):
        wait(removed.done)

    go(stream)

    wait(stays.done)
    stream.wait_exit().result()
    assert removed.data == b"one\n"


def test_detaching_ends_all_handlers_and_attaching_again_works(create):
    stream = create(f"echo one; {GO}; echo two", tty="none")
    session_id, before, after = stream.session_id, Collector(4), Collector(8)
    stream.on_output(before)
    wait(before.done)

    stream.detach()
    assert repr(stream) == "<Stream, not attached>"
    stream.on_output(after)
    stream.attach(session_id, start="begin").result()
    go(stream)

    wait(after.done)
    assert after.data == b"one\ntwo\n"
    assert before.data == b"one\n"


def test_its_repr_tells_where_it_is(create):
    stream: Stream = create("echo one")
    collector = Collector(4)
    subscription = stream.on_output(collector.__call__)
    wait(collector.done)
    stream.wait_exit().result()
    while subscription.offset != 4:
        stream.status  # noqa: B018

    assert repr(subscription) == "<Subscription Collector.__call__: at byte 4, 0 errors>"
