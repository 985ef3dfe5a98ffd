"""What every sink promises, whatever it forwards to: each byte once, its state, its end, what becomes of failures."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live import GO, Create, creating, go, numbered

from cmdop_jupyter import CMDOPClient, to_file
from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.errors import CmdopError, Detached, InvalidRequest, LinkLost, LogDropped
from cmdop_jupyter.machines.local import LocalMachine
from cmdop_jupyter.reading import Gap, Start, read_chunks
from cmdop_jupyter.sinks import base
from cmdop_jupyter.sinks.base import Left, Sink, TryAgain
from cmdop_jupyter.stream import Stream

LIVES = "echo one; exec sleep 1000"


@pytest.fixture
def create(state_dir) -> Iterator[Create]:
    with creating() as create:
        yield create


@pytest.fixture
def hasty(monkeypatch) -> None:
    """No pause before another try."""
    monkeypatch.setattr(base, "pause_before", lambda attempt, chance: 0.0)


class Shelf:
    """A taker that keeps what it is given, and fails as it is told.

    Args:
        ways: How its calls go, one after the other, then well: `ok`, `refuse` (nothing was taken), `part` (half of it
            was), `lost` (all was, and nobody heard of it); or an error to raise.
        at: What it has from before.
    """

    def __init__(self, ways: Iterable[str | Exception] = (), at: int | None = None) -> None:
        self.at, self.takes, self.gaps, self.calls = at, [], [], []
        self.first: int | None = None
        self.gate = asyncio.Event()  # what is taken waits for it
        self.gate.set()
        self._ways = iter(ways)
        self._busy = False

    @property
    def data(self) -> bytes:
        return b"".join(chunk.data for chunk in self.takes)

    async def resume(self) -> int | None:
        self._go("resume")
        return self.at

    async def take(self, chunks: list[Chunk], end: int) -> None:
        assert not self._busy
        self._busy = True
        try:
            await self.gate.wait()
            if self.at is None:
                assert chunks == []
                self.first = end
            way = self._go("take", "part", "lost")
            taken = chunks[: len(chunks) // 2] if way == "part" else chunks
            for chunk in taken:
                assert chunk.offset >= (self.at or 0)
                (self.gaps if isinstance(chunk, Gap) else self.takes).append(chunk)
                self.at = chunk.end
            if way == "part":
                raise TryAgain("half of it was taken")
            self.at = end
            if way == "lost":
                raise TryAgain("nobody heard of it")
        finally:
            self._busy = False

    async def finish(self) -> None:
        self._go("finish")

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.calls.append("close")

    def _go(self, call: str, *known: str) -> str:
        self.calls.append(call)
        way = next(self._ways, "ok")
        if isinstance(way, Exception):
            raise way
        if way != "ok" and way not in known:
            raise TryAgain(f"{call} was refused")
        return way


def sink_to(shelf: Shelf, stream: Stream, *, start: Start = None, channel: str | None = None, pause: float = 0) -> Sink:
    return Sink("shelf", stream, shelf, start=start, channel=channel, pause=pause)


def wait_until(is_so: Callable[[], object]) -> None:
    while not is_so():
        time.sleep(0.005)


# -- every byte once


def test_all_of_the_log_is_taken_once_and_in_order(create):
    shelf = Shelf()
    sink = sink_to(shelf, create("seq 200000", tty="none"))

    assert sink.result() == len(numbered(1, 200_000))
    assert shelf.data == numbered(1, 200_000)
    assert (sink.state, sink.lag, sink.errors, sink.problem) == ("ended", 0, 0, "")
    assert sink.pieces == len(shelf.takes)
    assert shelf.calls[-2:] == ["finish", "close"]


async def test_awaiting_it_gives_the_offset_of_its_end(create, tmp_path):
    sink = sink_to(Shelf(), await asyncio.to_thread(create, "seq 1000", tty="none"))

    assert await sink == 3893
    assert await sink == 3893


def test_several_at_once_do_not_wait_for_each_other(create):
    stream = create("seq 100000", tty="none")
    stuck, shelves = Shelf(), [Shelf() for _ in range(3)]
    stuck.gate.clear()

    with sink_to(stuck, stream) as slow:
        for sink in [sink_to(shelf, stream) for shelf in shelves]:
            sink.result()

        assert {shelf.data for shelf in shelves} == {numbered(1, 100_000)}
        assert stuck.data == b""
        assert slow.lag == len(numbered(1, 100_000))


def test_a_channel_is_taken_alone(create):
    shelf = Shelf()

    end = sink_to(shelf, create("echo out; echo err >&2; echo out", tty="none"), channel="stderr").result()

    assert shelf.data == b"err\n"
    assert end == shelf.at == 12


def test_what_was_dropped_is_taken_as_a_gap_and_told_once(create, hasty):
    stream = create(f"{GO}; seq 100000", tty="none")
    stream.limit(64 * 1024).result()
    errors: list[BaseException] = []
    stream.on_error(errors.append)
    go(stream)
    stream.wait_exit().result()
    shelf = Shelf(["ok", "ok", "ok", "refuse", "ok", "refuse"])

    sink_to(shelf, stream).result()

    (gap,) = shelf.gaps
    wait_until(lambda: errors)
    assert shelf.data == stream.read()
    assert [(type(error), error.offset, error.first) for error in errors] == [(LogDropped, gap.offset, gap.end)]


class Cutting(LocalMachine):
    """Reads of random sizes, over a link that breaks."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance

    async def read(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        if self.chance.random() < 0.2:
            raise LinkLost(self.name, "cut")
        return await super().read(session_id, offset, self.chance.randrange(1, 600))


WAYS = st.lists(st.sampled_from(["ok", "ok", "refuse", "part", "lost"]), max_size=30)


def test_whatever_is_refused_every_byte_is_taken_once(create, hasty):
    lines = "for n in 1 2 3 4 5 6 7 8 9; do seq 10; seq 50 >&2; done"
    stream = create(lines, tty="none")
    stream.wait_exit().result()
    whole = list(read_chunks(stream._machine, stream.session_id, 0, stream.status.end))

    @settings(max_examples=60)
    @given(
        ways=WAYS, seed=st.integers(0), channel=st.sampled_from([None, "stdout", "stderr"]), start=st.integers(0, 999)
    )
    def takes_all(ways: list[str], seed: int, channel: str | None, start: int) -> None:
        other = Stream(Cutting(random.Random(seed)))
        other.attach(stream.session_id, start).result()
        shelf = Shelf(ways)

        assert sink_to(shelf, other, channel=channel).result() == stream.status.end
        other.detach()

        wanted = (chunk.data[max(0, start - chunk.offset) :] for chunk in whole if channel in (None, chunk.channel))
        assert shelf.data == b"".join(wanted)
        assert shelf.calls.count("close") == 1

    takes_all()


# -- where it begins


@pytest.mark.parametrize(
    ("start", "wanted"), [(None, b"one\ntwo\n"), ("begin", b"one\ntwo\n"), (2, b"e\ntwo\n"), ("now", b"two\n")]
)
def test_it_begins_where_it_is_told_to(create, start, wanted):
    stream = create(f"echo one; {GO}; echo two", tty="none")
    stream.wait_for("one").result()
    shelf = Shelf()
    sink = sink_to(shelf, stream, start=start)

    go(stream)
    sink.result()

    assert shelf.data == wanted
    assert shelf.first == 8 - len(wanted)


def test_what_the_other_side_has_already_is_not_taken_again(create):
    shelf = Shelf(at=4)

    sink_to(shelf, create("echo one; echo two", tty="none"), start="begin").result()

    assert shelf.data == b"two\n"


# -- how far it is


def test_reached_waits_until_all_that_is_there_was_taken(create):
    stream = create(LIVES, tty="none")
    stream.wait_for("one").result()
    shelf = Shelf()

    with sink_to(shelf, stream) as sink:
        assert sink.reached().result() == 4
        assert shelf.data == b"one\n"
        assert sink.reached(2).result() == 4


def test_reached_fails_when_the_sink_is_closed_before(create):
    sink = sink_to(Shelf(), create(LIVES, tty="none"))
    sink.reached(4).result()
    waiting = sink.reached(1000)

    sink.close()

    with pytest.raises(CmdopError, match=r"shelf of command closed at byte 4, before 1000$"):
        waiting.result()


def test_result_has_a_time_limit_and_the_sink_goes_on(create):
    with sink_to(Shelf(), create(LIVES)) as sink:
        with pytest.raises(TimeoutError):
            sink.result(timeout=0.01)
        assert sink.state == "running"


async def test_an_await_that_is_cancelled_lets_the_sink_go_on(create):
    with sink_to(Shelf(), await asyncio.to_thread(create, LIVES, tty="none")) as sink:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sink, 0.01)
        assert await sink.reached(4) == 4
        assert sink.state == "running"


def test_a_flood_is_not_held_up_by_the_pause_between_batches(create):
    stream = create("head -c 30000000 /dev/zero", tty="none")
    stream.wait_exit().result()

    with sink_to(Shelf(), stream, pause=1000) as sink:
        sink.reached(29_000_000).result()


def test_a_trickle_comes_in_batches(create):
    shelf = Shelf()
    stream = create("for n in 1 2 3 4 5 6 7 8 9; do echo $n; sleep 0.02; done", tty="none")

    sink_to(shelf, stream, pause=0.5).result()

    assert shelf.data == numbered(1, 9)
    assert shelf.calls.count("take") <= 5


# -- its end


def test_closing_it_ends_it_and_the_session_goes_on(create):
    shelf = Shelf()
    stream = create(LIVES, tty="none")
    sink = sink_to(shelf, stream)
    sink.reached(4).result()

    sink.close()

    assert sink.state == "closed"
    assert sink.result() == 4
    assert shelf.calls[-1] == "close"
    assert stream.state == "running"


def test_closing_it_again_does_not_cut_short_how_the_other_side_is_let_go(create):
    shelf = Shelf()
    with sink_to(shelf, create(LIVES)) as sink:
        for _ in range(10):
            sink.close()

    sink.result()

    assert shelf.calls.count("close") == 1


def test_closing_it_after_its_end_changes_nothing(create):
    with sink_to(Shelf(), create("true")) as sink:
        sink.result()

    assert sink.state == "ended"


def test_closing_it_at_once_lets_the_other_side_go(create):
    shelf = Shelf()
    sink = sink_to(shelf, create(LIVES))

    sink.close()
    sink.result()

    assert shelf.calls[-1] == "close"


def test_closing_it_ends_a_pause_before_another_try(create, monkeypatch):
    monkeypatch.setattr(base, "pause_before", lambda attempt, chance: 1000.0)
    sink = sink_to(Shelf(["refuse"]), create(LIVES))
    wait_until(lambda: sink.state == "retrying")

    sink.close()
    sink.result()

    assert sink.state == "closed"


@pytest.mark.parametrize("at_once", [True, False])
def test_detaching_the_stream_closes_its_sinks(create, at_once):
    stream = create(LIVES, tty="none")
    sinks = [sink_to(Shelf(), stream) for _ in range(3)]
    if not at_once:
        for sink in sinks:
            sink.reached(4).result()

    stream.detach()
    for sink in sinks:
        sink.result()

    assert [sink.state for sink in sinks] == ["closed"] * 3
    assert repr(sinks[0]).startswith("<shelf of command: closed, ")


def test_the_other_side_may_leave_which_is_no_failure(create, capfd):
    shelf = Shelf([Left()])
    sink = sink_to(shelf, create(LIVES))

    sink.result()

    assert (sink.state, sink.errors) == ("closed", 0)
    assert shelf.calls[-1] == "close"
    assert capfd.readouterr().err == ""


def test_a_stream_that_is_not_attached_has_nothing_to_forward(state_dir):
    with pytest.raises(Detached):
        sink_to(Shelf(), Stream(LocalMachine()))


# -- failures


def test_one_that_does_not_answer_is_asked_again_and_told_of_once(create, hasty, caplog):
    shelf = Shelf(["refuse", "ok", "refuse", "refuse", "ok", "lost", "refuse"])

    with caplog.at_level(logging.WARNING, "cmdop_jupyter"):
        sink = sink_to(shelf, create("seq 1000", tty="none", name="api"))
        sink.result()

    assert shelf.data == numbered(1, 1000)
    assert (sink.state, sink.errors, sink.problem) == ("ended", 5, "")
    assert caplog.messages[0] == "shelf of api: resume was refused; trying again"


def test_while_it_is_asked_again_the_repr_says_why(create, monkeypatch):
    monkeypatch.setattr(base, "pause_before", lambda attempt, chance: 1000.0)
    with sink_to(Shelf(["refuse"]), create(LIVES, name="api")) as sink:
        wait_until(lambda: sink.state == "retrying")

        assert repr(sink) == "<shelf of api: retrying (resume was refused), nothing yet, 1 errors>"


def test_when_it_answers_again_the_sink_is_running_without_new_output(create, hasty):
    stream = create(LIVES, tty="none")
    stream.wait_for("one").result()

    with sink_to(Shelf(["ok", "ok", "lost"]), stream) as sink:
        wait_until(lambda: sink.errors == 1 and sink.state == "running")

        assert sink.problem == ""
        assert sink.reached().result() == 4


def test_a_refusal_at_the_very_end_is_asked_again(create, hasty):
    shelf = Shelf(["ok", "ok", "ok", "refuse", "ok", "refuse", "refuse"])
    stream = create("echo one", tty="none")
    stream.wait_exit().result()

    sink = sink_to(shelf, stream)
    sink.result()

    assert shelf.data == b"one\n"
    assert sink.errors == 3
    assert shelf.calls[-2:] == ["finish", "close"]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_one_that_fails_ends_the_sink_and_nothing_else(create, after):
    stream = create("echo one; exec sleep 1000", tty="none", name="api")
    errors: list[BaseException] = []
    stream.on_error(errors.append)
    shelf, other = Shelf([*["ok"] * after, ValueError("no such table")]), Shelf()

    sink = sink_to(shelf, stream)
    with pytest.raises(ValueError, match="no such table"):
        sink.result()

    assert (sink.state, sink.errors, shelf.calls[-1]) == ("failed", 1, "close")
    assert repr(sink).startswith("<shelf of api: failed (no such table), ")
    with pytest.raises(CmdopError, match=r"failed at byte (None|0|4), before 4: no such table"):
        sink.reached(4).result()
    wait_until(lambda: errors)
    assert str(errors[0]) == "no such table"
    with sink_to(other, stream) as second:
        second.reached(4).result()


def test_a_failure_that_nobody_awaits_is_printed(create, capfd):
    sink = sink_to(Shelf([ValueError("no such table")]), create(LIVES, name="api"))

    wait_until(lambda: sink.state == "failed")

    wait_until(lambda text=[]: text.append(capfd.readouterr().err) or "ValueError: no such table" in "".join(text))


# -- what is asked wrongly


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"channel": "out"}, "a channel is stdout, stderr, tty, not 'out'"),
        ({"start": "end"}, "start is"),
        ({"start": -1}, "an offset cannot be negative"),
        ({"pause": -0.1}, "must not be negative, got -0.1"),
        ({"pause": float("nan")}, "must not be negative, got nan"),
    ],
)
def test_options_that_cannot_be_are_told_at_the_call(create, options, text):
    with pytest.raises(InvalidRequest, match=text):
        sink_to(Shelf(), create("true"), **options)


def test_a_stream_of_a_client_that_blocks_will_do(state_dir, tmp_path):
    with CMDOPClient.local() as client:
        stream = client.terminal.create(command="echo hello", tty="none")

        to_file(stream, tmp_path / "out.log").result(30)

    assert (tmp_path / "out.log").read_bytes() == b"hello\n"


def test_what_is_no_stream_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match="await"):
        to_file("api", tmp_path / "out.log")
