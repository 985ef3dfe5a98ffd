"""BufferedHandler, FlowControlledHandler, LogProcessor, Collector: alone, from threads, on streams of real sessions."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from live import live_terminal, numbered
from naive import Record, lines

from cmdop_jupyter import handlers
from cmdop_jupyter.client import Terminal
from cmdop_jupyter.errors import InvalidRequest, PatternError, PatternTooSlow, TooMuch
from cmdop_jupyter.handlers import BufferedHandler, Collector, CollectorFull, FlowControlledHandler, LogProcessor, Rule

SHORT = 0.001  # seconds between flushes, where they are waited for
NEVER = 3600.0
ATOMS = [
    b"ERROR",
    b"ERR",
    b"OR",
    b"WARN",
    b"a",
    b"\n",
    b"\r",
    b"\r\n",
    "é".encode(),
    b"\xe2",
    b"\x9c",
    b"\x93",
    b"\xff",
]
ATOMS += [b"\x1b[31m", b"\x1b", b"[0m", b"\x1b]0;ERROR\x07"]
PIECE = st.lists(st.sampled_from(ATOMS), max_size=6).map(b"".join)
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


async def in_thread(function: Callable[..., Any], *args: object) -> Any:
    """Call it on a thread of its own, without a loop."""
    loop, done = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def call() -> None:
        result = function(*args)
        loop.call_soon_threadsafe(done.set_result, result)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        return await done
    finally:
        thread.join()


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


async def test_a_thread_is_held_up_while_it_is_full():
    gate = Gate()
    async with BufferedHandler(gate, flush_interval=0, max_bytes=1) as handler:
        adding = asyncio.ensure_future(in_thread(handler.add, b"a"))
        await gate.began.wait()
        await idle()
        assert not adding.done()

        gate.open.set()

        assert await adding is None


def test_a_thread_is_not_held_up_where_nobody_would_make_room():
    seen: list[bytes] = []
    handler = BufferedHandler(seen.append, max_bytes=1)

    assert inspect.isawaitable(handler.add(b"a"))
    assert inspect.isawaitable(handler.add(b"b"))

    asyncio.run(handler.drain())
    assert seen == [b"ab"]


def test_a_thread_that_is_held_up_goes_on_when_the_loop_is_gone():
    handler = BufferedHandler(lambda data: None, max_bytes=1)
    loop, began = asyncio.new_event_loop(), threading.Event()

    async def never(data: bytes) -> None:
        began.set()
        await asyncio.sleep(NEVER)

    handler._process = never
    task = loop.create_task(handler.run())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        adding = pool.submit(handler.add, b"a")
        assert began.wait(30)
        loop.call_soon_threadsafe(loop.stop)

        assert inspect.isawaitable(adding.result(30))

    thread.join()
    task.cancel()
    loop.call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


async def test_a_process_that_adds_to_its_own_full_buffer_does_not_wait_for_itself():
    rooms: list[object] = []
    seen: list[bytes] = []

    async def process(data: bytes) -> None:
        seen.append(data)
        if len(seen) < 3:
            rooms.append(handler.add(data))

    async with BufferedHandler(process, flush_interval=0, max_bytes=1) as handler:
        handler.add(b"a")
        while len(seen) < 3:
            await handler.drain()

    assert (seen, rooms) == ([b"a", b"a", b"a"], [None, None])


async def test_what_is_added_from_many_threads_is_handed_on_once_and_in_order_of_each():
    seen: list[bytes] = []

    def add(handler: BufferedHandler, name: bytes) -> None:
        for number in range(2000):
            handler.add(b"%s%d\n" % (name, number))

    async with BufferedHandler(seen.append, flush_interval=0, max_bytes=100) as handler:
        await asyncio.gather(*(in_thread(add, handler, name) for name in (b"a", b"b", b"c", b"d")))

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
    monkeypatch.setattr(handlers, "LAST_SECONDS", 0.01)
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
    monkeypatch.setattr(handlers, "LAST_SECONDS", 0.01)

    async def main() -> None:
        gate = Gate()
        handler = FlowControlledHandler(gate)
        task = asyncio.create_task(handler.consume())
        for data in (b"one", b"two", b"three"):
            handler.add(data)
        await gate.began.wait()
        assert not task.done()

    asyncio.run(main())

    assert "was cancelled, and 5 B that wait were not handed on" in caplog.text


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
        (lambda: Collector(max_bytes=0), "1 or more, got 0"),
        (lambda: LogProcessor(rules=["ERROR"]), "a list of Rule"),
        (lambda: LogProcessor([Rule("a", "x"), Rule("a", "y")]), "two rules are called 'a'"),
        (lambda: LogProcessor({"oom": "memory"}, alert=print), "no rule would call this alert"),
        (lambda: LogProcessor(alert="mail"), "alert is a function"),
        (lambda: Rule("", "x"), "a rule has a name"),
        (lambda: Rule("a", "x", cooldown=-1), "cooldown is 0 seconds or more"),
        (lambda: LogProcessor().rates(0), "more than 0"),
        (lambda: LogProcessor().rates(4000), "up to 3600 seconds"),
        (lambda: BufferedHandler().add("text"), "takes bytes, not str"),
        (lambda: Collector().channel("stdin"), "stdout, stderr, tty, not 'stdin'"),
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

    processor = LogProcessor()
    processor.process(b"ERROR\nWARN\nok\nhalf")
    assert repr(processor) == "<LogProcessor: 18 B, lines: 1 error, 1 warning>"

    collector = Collector(max_bytes=2)
    collector.add(b"123")
    assert repr(collector) == "<Collector: 2 B of at most 2 B, the 1 B before were dropped>"


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
    monkeypatch.setattr(handlers, "DROP_NEWS", NEVER)
    async with FlowControlledHandler(lambda data: None, max_queue=1, overflow="drop_oldest") as handler:
        for _ in range(5):
            handler.add(b"12")
        assert len(caplog.records) == 1
        monkeypatch.setattr(handlers, "DROP_NEWS", 0.0)
        handler._tell_at = 0.0
        handler.add(b"12")
        assert len(caplog.records) == 2
        monkeypatch.setattr(handlers, "DROP_NEWS", NEVER)
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


async def test_the_guides_processor_counts_what_a_stream_says(terminal):
    class Processor(LogProcessor):
        def alert(self, message: str) -> None:
            alerts.append(message)

    alerts: list[str] = []
    processor = Processor()
    stream = await terminal.create(command="echo 'a FATAL one'; echo 'WARN me' >&2; echo fine; printf ERROR")

    await stream.on_output(processor.process)
    processor.finish()

    assert (processor.error_count, processor.warning_count, alerts) == (2, 1, ["a FATAL one", "ERROR"])


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


# -- LogProcessor


@given(pieces=PIECES)
def test_counts_and_alerts_do_not_depend_on_how_the_bytes_were_cut(pieces):
    def seen_in(parts: list[bytes]) -> tuple[dict[str, int], list[str]]:
        alerts: list[str] = []
        processor = LogProcessor({"error": "ERROR", "odd": r"^\w+$|\ufffd", "warning": "WARN"}, alert=alerts.append)
        for part in parts:
            processor.process(part)
        processor.finish()
        return processor.counts, alerts

    assert seen_in(pieces) == seen_in([b"".join(pieces)])


@given(pieces=st.lists(st.tuples(st.sampled_from(["stdout", "stderr", "tty"]), PIECE), max_size=12))
def test_lines_are_those_of_each_channel(pieces):
    alerts: list[str] = []
    processor = LogProcessor(alert=alerts.append)
    for channel, data in pieces:
        processor.process(data, channel)
    processor.finish()

    records = [Record(channel, 0, data) for channel, data in pieces]
    wanted = [line.text for line in lines(records) if regex.search("ERROR|FATAL", line.text)]
    assert alerts == wanted
    assert processor.error_count == len(wanted)


def test_the_first_rule_that_matches_counts_a_line():
    processor = LogProcessor({"timeout": "timed out", "error": "ERROR"})

    processor.process(b"ERROR: timed out\nERROR\nfine\n")

    assert processor.counts == {"timeout": 1, "error": 1}
    assert (processor.error_count, processor.warning_count) == (1, 0)


def test_a_line_counts_when_it_is_whole():
    processor = LogProcessor()

    processor.process(b"this is an ERR")
    assert processor.error_count == 0
    processor.process(b"OR\nWARN")
    assert (processor.error_count, processor.warning_count) == (1, 0)
    processor.finish()
    assert processor.warning_count == 1


def test_colours_inside_a_word_do_not_hide_it():
    processor = LogProcessor()

    processor.process(b"\x1b[31mERR\x1b[1mOR\x1b[0m\n")

    assert processor.error_count == 1


@pytest.mark.parametrize(
    ("pattern", "line", "found"),
    [
        (r"x{s}", "yyy", False),  # a fuzzy match, for `regex`
        (r"x{s}", "x{s}", True),
        (r"^x{2}$", "xx", True),
        (r"^x{1,2}$", "xx", True),
        (r"[{e}]", "}", True),
        (r"\N{DIGIT ONE}", "1", True),
        ('{"level": "error"', '{"level": "error"}', True),
        (re.compile("error", 2), "ERROR", True),
        (re.compile(r"^\w$", 256), "é", False),  # re.ASCII, which has another number in `regex`
        (re.compile(r"^\w$"), "é", True),
        (regex.compile(r"\p{Lu}"), "É", True),
        ("a.c", "abc", True),
        ("a|b c", "b c", True),
        ("", "anything", True),
    ],
)
def test_patterns_mean_what_python_means(pattern, line, found):
    processor = LogProcessor({"it": pattern})

    processor.process(line.encode() + b"\n")

    assert processor.counts == {"it": int(found)}


@pytest.mark.parametrize(
    ("pattern", "position"),
    [("a(", 1), ("*", 0), (b"bytes", None), (None, None), (re.compile(b"a"), None)],
)
def test_a_pattern_that_does_not_compile_is_told_at_once(pattern, position):
    with pytest.raises(PatternError) as told:
        Rule("it", pattern)

    assert position is None or told.value.position is not None


def test_a_pattern_that_is_too_slow_skips_its_line_and_no_other():
    processor = LogProcessor({"slow": r"(a|aa)+$", "error": "ERROR"})

    with pytest.raises(PatternTooSlow) as told:
        processor.process(b"ERROR first\n" + b"a" * 100 + b"! ERROR\nERROR last\naaa\n")

    assert processor.counts == {"slow": 1, "error": 3}
    assert (told.value.pattern, told.value.offset, told.value.line_head) == (r"(a|aa)+$", 12, "a" * 80)


def test_a_pattern_that_is_always_too_slow_is_switched_off_and_that_is_told(caplog):
    processor = LogProcessor({"slow": r"(a|aa)+$", "error": "ERROR"})

    with pytest.raises(PatternTooSlow):
        processor.process((b"a" * 100 + b"! ERROR\n") * 500)

    assert processor.error_count == 500
    assert "rule 'slow' was too slow on 10 lines and is off now" in caplog.text
    assert repr(processor) == "<LogProcessor: 54 kB, lines: 0 slow (off), 500 error>"


def test_rates_are_lines_a_second_of_the_last_seconds():
    now = 1000.0
    processor = LogProcessor(clock=lambda: now)
    processor.process(b"ERROR\n" * 6 + b"WARN\n")
    now += 30
    processor.process(b"ERROR\n" * 6)

    assert processor.rates() == {"error": 12 / 60, "warning": 1 / 60}
    assert processor.rates(10) == {"error": 6 / 10, "warning": 0}
    now += 45
    assert processor.rates() == {"error": 6 / 60, "warning": 0}


def test_the_memory_of_rates_is_bounded():
    now = 0.0
    processor = LogProcessor(clock=lambda: now)
    for _ in range(10_000):
        processor.process(b"ERROR\n")
        now += 0.75

    assert processor.rates(3600)["error"] == pytest.approx(1 / 0.75, rel=0.01)
    assert len(processor._tallies[0].recent) <= 3601


def test_an_alert_is_given_once_or_not_more_often_than_its_cooldown():
    now, once, calm = 0.0, [], []
    rules = [Rule("once", "A", once.append, once=True), Rule("calm", "B", calm.append, cooldown=10)]
    processor = LogProcessor(rules, clock=lambda: now)

    processor.process(b"A1\nB1\nA2\nB2\n")
    now = 9.9
    processor.process(b"A3\nB3\n")
    now = 10.0
    processor.process(b"A4\nB4\n")

    assert (once, calm) == (["A1"], ["B1", "B4"])
    assert processor.counts == {"once": 4, "calm": 4}
    assert processor.held_back == {"once": 3, "calm": 2}
    assert repr(processor).endswith("; 5 alerts held back>")


def test_a_rule_may_have_an_alert_of_its_own():
    own, usual = [], []
    processor = LogProcessor([Rule("oom", "memory", own.append), Rule("error", "ERROR")], alert=usual.append)

    processor.process(b"ERROR: out of memory\nERROR\n")

    assert (own, usual) == (["ERROR: out of memory"], ["ERROR"])


def test_an_alert_that_raises_loses_no_line(caplog):
    seen: list[str] = []

    def alert(line: str) -> None:
        seen.append(line)
        raise LookupError(line)

    processor = LogProcessor(alert=alert)

    with pytest.raises(LookupError, match="ERROR 1"):
        processor.process(b"ERROR 1\nWARN\nERROR 2\nhalf ERR")
    processor.process(b"\n")

    assert (seen, processor.counts) == (["ERROR 1", "ERROR 2"], {"error": 2, "warning": 1})
    assert "LookupError: ERROR 2" in caplog.text


async def test_async_alerts_are_done_when_what_process_returns_is_done():
    seen: list[str] = []

    class Processor(LogProcessor):
        async def alert(self, line: str) -> None:
            await asyncio.sleep(0)
            seen.append(line)

    done = Processor().process(b"ERROR 1\nERROR 2\n")

    assert seen == []
    await done
    assert seen == ["ERROR 1", "ERROR 2"]


async def test_async_alerts_are_given_though_nobody_awaits_them():
    seen: asyncio.Queue[str] = asyncio.Queue()

    LogProcessor(alert=seen.put).process(b"ERROR\n")

    assert await seen.get() == "ERROR"


def test_async_alerts_are_given_without_a_loop_too():
    seen: list[str] = []

    async def alert(line: str) -> None:
        await asyncio.sleep(0)
        seen.append(line)
        raise LookupError(line)

    with pytest.raises(LookupError):
        LogProcessor(alert=alert).process(b"ERROR 1\nERROR 2\n")
    assert seen == ["ERROR 1", "ERROR 2"]


async def test_an_async_alert_that_raises_is_reported_by_the_stream(terminal):
    async def alert(line: str) -> None:
        raise LookupError(line)

    told: asyncio.Queue[BaseException] = asyncio.Queue()
    stream = await terminal.create(command="echo ERROR")
    stream.on_error(told.put_nowait)
    stream.on_output(LogProcessor(alert=alert).process)

    assert isinstance(await told.get(), LookupError)


async def test_lines_of_several_threads_are_all_counted():
    processor = LogProcessor()

    def feed(channel: str) -> None:
        for _ in range(500):
            processor.process(b"ER", channel)
            processor.process(b"ROR\n", channel)

    await asyncio.gather(*(in_thread(feed, channel) for channel in ("stdout", "stderr", "tty")))

    assert processor.error_count == 1500


# -- Collector


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
