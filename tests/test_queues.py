"""BufferedHandler, FlowControlledHandler: alone, from threads, on streams of real sessions."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import live_terminal, numbered

from cmdop_jupyter.client import Terminal
from cmdop_jupyter.errors import InvalidRequest
from cmdop_jupyter.handlers import BufferedHandler, FlowControlledHandler, base, queues

SHORT = 0.001  # seconds between flushes, where they are waited for
NEVER = 3600.0
PIECE = st.lists(st.sampled_from([b"a", b"\n", "é".encode(), b"\xe2", b"\x9c", b"\x93", b"\xff"]), max_size=6).map(
    b"".join
)
PIECES = st.lists(PIECE, max_size=12)


@pytest.fixture
def terminal(state_dir) -> Iterator[Terminal]:
    with live_terminal() as terminal:
        yield terminal


class Gate:
    """A `process` that keeps what it is given, and waits for `open` before it says it is done with it."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.began, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self, data: bytes) -> None:
        self.began.set()
        await self.open.wait()
        self.seen.append(data)


async def idle() -> None:
    """Let all that can run on this loop do so: what it waits for still waits then."""
    for _ in range(20):
        await asyncio.sleep(0)


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- BufferedHandler


@given(pieces=PIECES, stops=st.sets(st.integers(0, 12)), max_bytes=st.integers(1, 20))
def test_a_buffer_hands_on_exactly_the_bytes_in_order(pieces, stops, max_bytes):
    batches: list[bytes] = []

    async def run() -> None:
        async with BufferedHandler(batches.append, flush_interval=0, max_bytes=max_bytes) as handler:
            for number, piece in enumerate(pieces):
                room = handler.add(piece)
                if room is not None:
                    await room
                if number in stops:
                    await handler.drain()
                    assert b"".join(batches) == b"".join(pieces[: number + 1])

    asyncio.run(run())
    assert b"".join(batches) == b"".join(pieces)


async def test_what_comes_within_an_interval_is_one_batch():
    batches: list[list[bytes]] = []

    class Handler(BufferedHandler):
        async def process_batch(self, batch: list[bytes]) -> None:
            batches.append(batch)

    async with Handler(flush_interval=NEVER) as handler:
        handler.add(b"first")
        await handler.drain()
        handler.add(b"one")
        await idle()
        handler.add(b"two")

    assert batches == [[b"first"], [b"one", b"two"]]


async def test_it_is_handed_on_when_the_interval_is_over():
    seen: asyncio.Queue[bytes] = asyncio.Queue()
    async with BufferedHandler(seen.put_nowait, flush_interval=0.05) as handler:
        handler.add(b"one")
        assert await seen.get() == b"one"
        began = asyncio.get_running_loop().time()
        handler.add(b"two")
        assert await seen.get() == b"two"
        assert asyncio.get_running_loop().time() - began > 0.04


async def test_a_full_buffer_is_handed_on_at_once():
    seen: asyncio.Queue[bytes] = asyncio.Queue()
    async with BufferedHandler(seen.put_nowait, flush_interval=NEVER, max_bytes=4) as handler:
        handler.add(b"first")
        assert await seen.get() == b"first"
        handler.add(b"abc")
        handler.add(b"d")
        assert await seen.get() == b"abcd"


async def test_a_full_buffer_gives_something_to_wait_for_until_its_batch_was_processed():
    gate = Gate()
    async with BufferedHandler(gate, max_bytes=4) as handler:
        assert handler.add(b"abc") is None
        waiting = asyncio.ensure_future(handler.add(b"d"))
        await gate.began.wait()
        await idle()
        assert not waiting.done()

        gate.open.set()

        await waiting


async def test_who_ignores_that_it_is_full_loses_nothing():
    seen: list[bytes] = []
    async with BufferedHandler(seen.append, flush_interval=SHORT, max_bytes=4) as handler:
        for number in range(1000):
            handler.add(b"%d\n" % number)

    assert b"".join(seen) == b"".join(b"%d\n" % number for number in range(1000))


async def test_a_thread_is_told_that_it_is_full_and_may_wait_on_a_loop_of_its_own():
    gate = Gate()

    async def wait_for(room: Awaitable[None]) -> None:
        await room

    async with BufferedHandler(gate, max_bytes=1) as handler:
        room = await asyncio.to_thread(handler.add, b"a")
        waiting = asyncio.create_task(asyncio.to_thread(asyncio.run, wait_for(room)))
        await gate.began.wait()
        assert not waiting.done()

        gate.open.set()

        await waiting


async def test_what_is_added_from_many_threads_is_handed_on_once_and_in_order_of_each():
    seen: list[bytes] = []

    def add(handler: BufferedHandler, name: bytes) -> None:
        for number in range(2000):
            handler.add(b"%s%d\n" % (name, number))

    async with BufferedHandler(seen.append, flush_interval=0, max_bytes=100) as handler:
        await asyncio.gather(*(asyncio.to_thread(add, handler, name) for name in (b"a", b"b", b"c", b"d")))

    got = b"".join(seen).splitlines()
    for name in (b"a", b"b", b"c", b"d"):
        assert [line[1:] for line in got if line[:1] == name] == [b"%d" % number for number in range(2000)]


async def test_a_cancelled_run_hands_on_what_it_holds():
    seen: list[bytes] = []
    handler = BufferedHandler(seen.append, flush_interval=NEVER)
    task = asyncio.create_task(handler.run())
    handler.add(b"first")
    await handler.drain()
    handler.add(b"last")

    await cancel(task)

    assert seen == [b"first", b"last"]


async def test_a_cancelled_run_lets_the_batch_under_way_end():
    gate = Gate()
    handler = BufferedHandler(gate, flush_interval=NEVER)
    task = asyncio.create_task(handler.run())
    handler.add(b"one")
    await gate.began.wait()
    handler.add(b"two")

    task.cancel()
    await idle()
    gate.open.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.seen == [b"one", b"two"]


async def test_a_run_that_is_cancelled_while_a_drain_is_at_work_hands_on_what_it_holds():
    gate = Gate()
    handler = BufferedHandler(gate, flush_interval=NEVER)
    handler.add(b"one")
    draining = asyncio.create_task(handler.drain())
    await gate.began.wait()
    task = asyncio.create_task(handler.run())
    await idle()
    handler.add(b"two")

    task.cancel()
    await idle()
    gate.open.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    await draining
    assert gate.seen == [b"one", b"two"]


async def test_a_run_that_is_cancelled_twice_ends_at_once_and_keeps_what_it_holds(caplog):
    gate = Gate()
    handler = BufferedHandler(gate, flush_interval=NEVER)
    task = asyncio.create_task(handler.run())
    handler.add(b"one")
    await gate.began.wait()
    handler.add(b"two")

    task.cancel()
    await idle()
    await cancel(task)

    assert (handler.buffer, handler.errors, handler.failed_bytes) == ((b"two",), 1, 3)
    assert "its 3 B are not handed on again" in caplog.text
    assert "was cancelled, and 3 B that wait were not handed on" in caplog.text


async def test_a_cancelled_run_does_not_wait_for_ever_for_what_is_stuck(caplog, monkeypatch):
    monkeypatch.setattr(base, "LAST_SECONDS", 0.01)
    gate = Gate()
    handler = BufferedHandler(gate, flush_interval=0)
    task = asyncio.create_task(handler.run())
    handler.add(b"one")
    await gate.began.wait()
    handler.add(b"two")

    await cancel(task)

    assert handler.buffer == (b"two",)
    assert "was cancelled, and 3 B that wait were not handed on" in caplog.text


def test_a_program_ends_though_its_handler_is_stuck(caplog, monkeypatch):
    monkeypatch.setattr(base, "LAST_SECONDS", 0.01)

    async def main() -> None:
        gate = Gate()
        handler = FlowControlledHandler(gate)
        task = asyncio.create_task(handler.consume())
        for data in (b"one", b"two", b"three"):
            handler.add(data)
        await gate.began.wait()
        assert not task.done()

    asyncio.run(main())

    assert re.search("was cancelled, and [58] B that wait were not handed on", caplog.text)  # the first may count still


def test_what_is_held_when_a_program_ends_is_handed_on():
    seen: list[bytes] = []

    async def main() -> None:
        handler = BufferedHandler(seen.append, flush_interval=NEVER)
        task = asyncio.create_task(handler.run())
        handler.add(b"first")
        await handler.drain()
        handler.add(b"last")
        assert not task.done()

    asyncio.run(main())

    assert seen == [b"first", b"last"]


@pytest.mark.parametrize("turns", range(1, 5))
async def test_what_is_held_when_all_tasks_are_cancelled_is_handed_on(turns):
    seen: list[bytes] = []
    handler = BufferedHandler(seen.append, flush_interval=NEVER)
    task = asyncio.create_task(handler.run())
    for _ in range(turns):
        await asyncio.sleep(0)
    handler.add(b"data")

    for one in asyncio.all_tasks() - {asyncio.current_task()}:
        one.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [b"data"]


def test_a_run_may_be_cancelled_and_begun_again_on_another_loop():
    seen: list[bytes] = []
    handler = BufferedHandler(seen.append, flush_interval=SHORT)

    async def once(data: bytes) -> None:
        task = asyncio.create_task(handler.run())
        handler.add(data)
        await handler.drain()
        await cancel(task)

    asyncio.run(once(b"a"))
    asyncio.run(once(b"b"))

    assert seen == [b"a", b"b"]


async def test_run_returns_after_close_when_all_was_handed_on():
    seen: list[bytes] = []
    handler = BufferedHandler(seen.append, flush_interval=NEVER)
    handler.add(b"one")
    handler.close()

    await handler.run()

    assert seen == [b"one"]


async def test_what_comes_after_close_is_refused_loudly():
    handler = BufferedHandler(print)
    handler.close()

    with pytest.raises(InvalidRequest, match="closed, and 4 bytes came too late: remove its subscription"):
        handler.add(b"late")


async def test_two_runs_at_once_are_refused():
    async with BufferedHandler(print) as handler:
        await idle()
        with pytest.raises(InvalidRequest, match="one is enough"):
            await handler.run()


async def test_a_batch_that_raises_is_counted_and_told_once_and_the_next_follows(caplog):
    seen: list[bytes] = []

    def process(data: bytes) -> None:
        seen.append(data)
        raise LookupError(f"no use for {data!r}")

    async with BufferedHandler(process, flush_interval=0) as handler:
        for data in (b"one", b"three"):
            handler.add(data)
            await handler.drain()

    assert seen == [b"one", b"three"]
    assert (handler.errors, handler.failed_bytes, handler.handed_on) == (2, 8, 0)
    assert [(record.name, record.levelno) for record in caplog.records] == [("cmdop_jupyter", logging.ERROR)]
    assert "no use for b'one'" in caplog.text


async def test_a_batch_whose_work_was_cancelled_by_others_does_not_end_the_run(caplog):
    seen: list[bytes] = []

    async def process(data: bytes) -> None:
        if data == b"one":
            raise asyncio.CancelledError
        seen.append(data)

    async with BufferedHandler(process, flush_interval=0) as handler:
        handler.add(b"one")
        await handler.drain()
        handler.add(b"two")

    assert (seen, handler.errors) == ([b"two"], 1)


async def test_a_plain_function_may_stand_in_for_process_batch():
    class Handler(BufferedHandler):
        def process_batch(self, batch: list[bytes]) -> None:  # type: ignore[override]
            seen.extend(batch)

    seen: list[bytes] = []
    async with Handler() as handler:
        handler.add(b"one")

    assert seen == [b"one"]


@given(pieces=st.lists(st.tuples(st.sampled_from(["stdout", "stderr", None]), PIECE), max_size=10))
def test_what_is_printed_does_not_depend_on_how_the_bytes_of_a_channel_were_cut(pieces):
    shown: list[str] = []

    class Out:
        def write(self, text: str) -> None:
            shown.append(text)

        def flush(self) -> None: ...

    async def run() -> None:
        async with BufferedHandler(flush_interval=0) as handler:
            for channel, data in pieces:
                handler.add(*(data, channel) if channel else (data,))
                await handler.drain()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", Out())
        asyncio.run(run())

    channels = {channel for channel, _ in pieces}
    whole = [b"".join(data for one, data in pieces if one == channel).decode(errors="replace") for channel in channels]
    assert sorted("".join(shown)) == sorted("".join(whole))


def test_a_character_cut_in_two_is_printed_whole_though_another_channel_comes_between(capsys):
    async def run() -> None:
        async with BufferedHandler(flush_interval=0) as handler:
            for data, channel in ((b"\xe2\x9c", "stdout"), (b"err ", "stderr"), (b"\x93", "stdout"), (b"\xe2", "tty")):
                handler.add(data, channel)
                await handler.drain()

    asyncio.run(run())

    assert capsys.readouterr().out == "err ✓\ufffd"


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: BufferedHandler(flush_interval=-1), "0 seconds or more, got -1"),
        (lambda: BufferedHandler(flush_interval=float("nan")), "0 seconds or more"),
        (lambda: BufferedHandler(max_bytes=0), "1 or more, got 0"),
        (lambda: BufferedHandler(0.05), "process is a function, not 0.05; all other settings are given by name"),
        (lambda: FlowControlledHandler(print, max_queue=0), "1 chunk or more, got 0"),
        (lambda: FlowControlledHandler(print, overflow="drop"), "wait, drop_oldest, drop_newest, not 'drop'"),
        (lambda: FlowControlledHandler(print, on_drop=3), "on_drop is a function"),
        (lambda: BufferedHandler().add("text"), "takes bytes, not str"),
    ],
)
def test_what_cannot_be_is_refused_with_its_remedy(make, remedy):
    with pytest.raises(InvalidRequest) as refused:
        make()

    assert remedy in str(refused.value)


def test_reprs_tell_the_state_in_one_line():
    handler = BufferedHandler(lambda data: None)
    handler.add(b"12345")
    assert repr(handler) == "<BufferedHandler: 5 B held, 0 B handed on, nothing hands on>"
    asyncio.run(handler.drain())
    handler.close()
    assert repr(handler) == "<BufferedHandler: 0 B held, 5 B handed on, closed>"

    dropping = FlowControlledHandler(print, max_queue=1, overflow="drop_newest")
    dropping.add(b"1")
    dropping.add(b"22")
    assert repr(dropping) == (
        "<FlowControlledHandler: 1 of 1 chunks wait, 0 handed on, 1 dropped (2 B), nothing hands on>"
    )


# -- FlowControlledHandler


@given(
    steps=st.lists(st.one_of(PIECE, st.none()), max_size=30),
    max_queue=st.integers(1, 4),
    overflow=st.sampled_from(["wait", "drop_oldest", "drop_newest"]),
)
def test_what_is_added_is_handed_on_or_dropped_and_counted_and_order_is_kept(steps, max_queue, overflow):
    seen: list[int] = []
    dropped: list[tuple[int, int]] = []
    added: list[bytes] = []

    async def run() -> FlowControlledHandler:
        handler = FlowControlledHandler(
            lambda data: seen.append(int.from_bytes(data[:4])),
            max_queue=max_queue,
            overflow=overflow,
            on_drop=lambda *counts: dropped.append(counts),
        )
        async with handler:
            for step in steps:
                if step is None:
                    await handler.drain()
                    continue
                added.append(len(added).to_bytes(4) + step)
                handler.add(added[-1])
                assert overflow == "wait" or len(handler.queue) <= max_queue
        return handler

    handler = asyncio.run(run())
    assert seen == sorted(set(seen))
    assert handler.handed_on == len(seen)
    assert handler.handed_on + handler.dropped == len(added)
    assert handler.handed_on_bytes + handler.dropped_bytes == sum(map(len, added))
    assert (handler.dropped, handler.dropped_bytes) == (sum(n for n, _ in dropped), sum(n for _, n in dropped))
    if overflow == "wait":
        assert handler.dropped == 0


@pytest.mark.parametrize(("overflow", "kept"), [("drop_oldest", (b"b", b"c")), ("drop_newest", (b"a", b"b"))])
def test_what_gives_way_is_the_oldest_or_the_newest(overflow, kept):
    handler = FlowControlledHandler(print, max_queue=2, overflow=overflow)

    assert [handler.add(data) for data in (b"a", b"b", b"c")] == [None, None, None]

    assert handler.queue == kept
    assert (handler.dropped, handler.dropped_bytes) == (1, 1)


async def test_a_full_queue_gives_something_to_wait_for_until_there_is_room():
    gate = Gate()
    async with FlowControlledHandler(gate, max_queue=1) as handler:
        assert isinstance(handler.add(b"one"), Awaitable)
        await gate.began.wait()
        waiting = asyncio.ensure_future(handler.add(b"two"))
        await idle()
        assert not waiting.done()

        gate.open.set()

        await waiting


async def test_drain_waits_for_what_was_added_before_and_for_nothing_else():
    may_end: asyncio.Queue[None] = asyncio.Queue()
    seen: list[bytes] = []

    async def process(data: bytes) -> None:
        await may_end.get()
        seen.append(data)

    handler = FlowControlledHandler(process, max_queue=2, overflow="drop_newest")
    task = asyncio.create_task(handler.consume())
    for data in (b"a", b"b"):
        handler.add(data)
    draining = asyncio.create_task(handler.drain())
    await idle()
    for data in (b"c", b"d", b"e", b"f"):  # of which one has room
        handler.add(data)
    may_end.put_nowait(None)
    await idle()
    assert (seen, draining.done()) == ([b"a"], False)

    may_end.put_nowait(None)
    await draining

    assert seen == [b"a", b"b"]
    may_end.put_nowait(None)
    await cancel(task)
    assert seen == [b"a", b"b", b"c"]


async def test_drops_are_told_at_once_then_now_and_then_with_the_counts(caplog, monkeypatch):
    monkeypatch.setattr(queues, "DROP_NEWS", NEVER)
    async with FlowControlledHandler(lambda data: None, max_queue=1, overflow="drop_oldest") as handler:
        for _ in range(5):
            handler.add(b"12")
        assert len(caplog.records) == 1
        monkeypatch.setattr(queues, "DROP_NEWS", 0.0)
        handler._tell_at = 0.0
        handler.add(b"12")
        assert len(caplog.records) == 2
        monkeypatch.setattr(queues, "DROP_NEWS", NEVER)
        handler.add(b"12")
        handler.add(b"12")

    told = [record.getMessage() for record in caplog.records]
    assert [text[: text.index(";")] for text in told] == [
        "FlowControlledHandler is too slow and has dropped 1 chunks (2 B) by now",
        "FlowControlledHandler is too slow and has dropped 5 chunks (10 B) by now",
        "FlowControlledHandler is too slow and has dropped 6 chunks (12 B) by now",
        "FlowControlledHandler is too slow and has dropped 7 chunks (14 B) by now",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_an_on_drop_that_raises_is_told_and_stops_nothing(caplog):
    def on_drop(chunks: int, size: int) -> None:
        raise LookupError("gone")

    handler = FlowControlledHandler(print, max_queue=1, overflow="drop_newest", on_drop=on_drop)
    for data in (b"a", b"b", b"c"):
        handler.add(data)

    assert (handler.queue, handler.dropped, handler.errors) == ((b"a",), 2, 2)
    assert caplog.text.count("on_drop raised") == 1


async def test_the_guides_subclass_works():
    class Handler(FlowControlledHandler):
        async def process(self, data: bytes) -> None:
            seen.append(data)

    seen: list[bytes] = []
    handler = Handler()
    task = asyncio.create_task(handler.consume())
    handler.add(b"one")
    handler.add(b"two")
    await handler.drain()

    assert seen == [b"one", b"two"]
    await cancel(task)


async def test_a_process_that_never_waits_does_not_stop_the_loop():
    handler = FlowControlledHandler(lambda data: handler.add(data), max_queue=10)
    handler.add(b"for ever")
    task = asyncio.create_task(handler.consume())

    await idle()

    assert handler.handed_on > 1
    handler.close()
    await task


async def test_nothing_to_process_with_is_told_before_it_begins():
    with pytest.raises(InvalidRequest, match="async def process"):
        await FlowControlledHandler().consume()
    with pytest.raises(InvalidRequest, match="async def process"):
        async with FlowControlledHandler():
            pass


async def test_a_chunk_that_raises_is_counted_and_the_next_is_processed(caplog):
    seen: list[bytes] = []

    async def process(data: bytes) -> None:
        if data == b"bad":
            raise LookupError("gone")
        seen.append(data)

    async with FlowControlledHandler(process) as handler:
        for data in (b"one", b"bad", b"bad", b"two"):
            handler.add(data)

    assert seen == [b"one", b"two"]
    assert (handler.handed_on, handler.errors, handler.failed_bytes) == (2, 2, 6)
    assert caplog.text.count("LookupError: gone") == 1


async def test_cancelling_consume_ends_though_its_stream_goes_on():
    seen: list[bytes] = []

    async def process(data: bytes) -> None:
        seen.append(data)
        handler.add(data)
        await asyncio.sleep(0)

    handler = FlowControlledHandler(process, max_queue=10)
    for data in (b"a", b"b"):
        handler.add(data)
    task = asyncio.create_task(handler.consume())
    await asyncio.sleep(0)

    await cancel(task)

    assert seen[:2] == [b"a", b"b"]
    assert len(handler.queue) == 2


# -- on streams


FLOOD = 2_780_000  # numbers: 21 MB


async def test_a_slow_buffer_holds_its_stream_back_and_loses_nothing_of_a_flood(terminal):
    max_bytes, most, largest = 1024 * 1024, 0, 0
    digest: list[bytes] = []

    class Handler(BufferedHandler):
        def add(self, data: bytes, *channel: str) -> Awaitable[None] | None:
            nonlocal most, largest
            room = super().add(data, *channel)
            most, largest = max(most, self.buffered), max(largest, len(data))
            return room

        async def process_batch(self, batch: list[bytes]) -> None:
            await asyncio.sleep(0.02)
            digest.extend(batch)

    stream = await terminal.create(command=f"seq {FLOOD}", tty="none")
    async with Handler(max_bytes=max_bytes) as handler:
        await stream.on_output(handler.add)

    assert b"".join(digest) == numbered(1, FLOOD)
    assert most < max_bytes + largest


async def test_a_slow_consumer_holds_its_stream_back_and_loses_nothing_of_a_flood(terminal):
    most, seen = 0, []

    class Handler(FlowControlledHandler):
        def add(self, data: bytes, *channel: str) -> Awaitable[None] | None:
            nonlocal most
            room = super().add(data, *channel)
            most = max(most, len(self.queue))
            return room

        async def process(self, data: bytes) -> None:
            await asyncio.sleep(0.001)
            seen.append(data)

    stream = await terminal.create(command=f"seq {FLOOD}", tty="none")
    async with Handler(max_queue=4) as handler:
        await stream.on_output(handler.add)

    assert b"".join(seen) == numbered(1, FLOOD)
    assert (handler.dropped, most) == (0, 4)


async def test_a_stream_is_held_back_on_a_worker_too(terminal):
    most, seen = 0, []

    class Handler(FlowControlledHandler):
        def add(self, data: bytes, *channel: str) -> Awaitable[None] | None:
            nonlocal most
            most = max(most, len(self.queue) + 1)
            return super().add(data, *channel)

        async def process(self, data: bytes) -> None:
            await asyncio.sleep(0)
            seen.append(data)

    stream = await terminal.create(command="seq 700000", tty="none")
    async with Handler(max_queue=2) as handler:
        await stream.on_output(handler.add, thread=True)

    assert b"".join(seen) == numbered(1, 700_000)
    assert most <= 2


@pytest.mark.parametrize("thread", [False, True])
async def test_a_stream_waits_for_a_handler_that_nobody_runs_yet(terminal, thread):
    seen: list[bytes] = []
    handler = BufferedHandler(seen.append, max_bytes=1)
    stream = await terminal.create(command="seq 700000", tty="none")
    subscription = stream.on_output(handler.add, thread=thread)
    await stream
    while not handler.buffered:
        await stream.chunks("begin").__anext__()
    assert len(handler.buffer) == 1

    async with handler:
        await subscription

    assert b"".join(seen) == numbered(1, 700_000)


async def test_dropping_never_holds_a_stream_back_and_says_what_is_missing(terminal):
    gate = Gate()
    handler = FlowControlledHandler(gate, max_queue=1, overflow="drop_oldest")
    stream = await terminal.create(command="seq 700000", tty="none")
    async with handler:
        await stream.on_output(handler.add)  # though not one chunk was processed
        gate.open.set()

    assert handler.dropped > 0
    assert handler.handed_on_bytes + handler.dropped_bytes == len(numbered(1, 700_000))
    assert gate.seen[-1].endswith(b"700000\n")


async def test_a_handler_that_was_closed_too_early_is_reported_by_its_stream(terminal):
    handler, errors = BufferedHandler(print), []
    handler.close()
    stream = await terminal.create(command="echo hello")
    stream.on_error(errors.append)

    subscription = stream.on_output(handler.add)
    await subscription

    assert subscription.errors == 1


async def test_the_guides_buffer_prints_what_a_stream_says(terminal, capsys):
    stream = await terminal.create(command="printf 'caf\\303'; printf '\\251\\n'; seq 3", tty="none")

    handler = BufferedHandler(flush_interval=0.05)
    subscription = stream.on_output(handler.add)
    task = asyncio.create_task(handler.run())

    await subscription
    await cancel(task)
    assert capsys.readouterr().out == "café\n1\n2\n3\n"
