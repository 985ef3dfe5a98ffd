"""What a handler may ask for: a channel, text or lines; and what it may do to a session it only observes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pandas
import pytest
from live import GO, Create, creating, go, live_terminal

from cmdop_jupyter.client import Terminal
from cmdop_jupyter.errors import InvalidRequest, ObserverOnly
from cmdop_jupyter.stream import Stream

ALTERNATING = """exec python3 -c '
import os
for number in range(100_000):
    os.write(1 + number % 2, b"%d\\n" % number)
'"""


@pytest.fixture
def create(state_dir) -> Iterator[Create]:
    with creating() as create:
        yield create


@pytest.fixture
def terminal(state_dir) -> Iterator[Terminal]:
    with live_terminal() as terminal:
        yield terminal


def collect(stream: Stream, **options: Any) -> list[Any]:
    """All that a handler gets until the session has ended."""
    pieces: list[Any] = []
    stream.on_output(pieces.append, **options).result(60)
    return pieces


def test_each_channel_alone_is_exact(create):
    stream = create(ALTERNATING, tty="none")

    out, err = collect(stream, channel="stdout"), collect(stream, channel="stderr")

    assert b"".join(out) == b"".join(b"%d\n" % number for number in range(0, 100_000, 2))
    assert b"".join(err) == b"".join(b"%d\n" % number for number in range(1, 100_000, 2))
    assert collect(stream, channel="tty") == []


def test_lines_are_whole_and_know_their_channel(create):
    stream = create("printf 'one\\ntw'; printf 'bad\\n' >&2; printf 'o\\r\\n\\033[31mthree\\033[0m'", tty="none")
    seen: list[tuple[str, str]] = []

    def handler(line: str, channel: str) -> None:
        seen.append((line, channel))

    stream.on_output(handler, unit="line").result(60)

    assert sorted(seen) == [("bad", "stderr"), ("one", "stdout"), ("three", "stdout"), ("two", "stdout")]
    assert [line for line, channel in seen if channel == "stdout"] == ["one", "two", "three"]


def test_text_never_has_half_a_character(create):
    stream = create(f"printf '\\342\\234'; {GO}; printf '\\223 done'", tty="none")
    stream.wait_for(rb"\xe2\x9c").result()
    go(stream)

    text = collect(stream, unit="text")

    assert "".join(text) == "✓ done"
    assert "\ufffd" not in "".join(text)


def test_the_same_for_async_handlers(create):
    stream, lines, done = create("seq 3"), [], threading.Event()

    async def handler(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            done.set()

    stream.on_output_async(handler, unit="line", channel="stdout")

    assert done.wait(30)
    assert lines == ["1", "2", "3"]


@pytest.mark.parametrize(("options", "told"), [({"unit": "lines"}, "line"), ({"channel": "out"}, "stdout")])
def test_what_there_is_not_is_refused_at_once(create, options, told):
    with pytest.raises(InvalidRequest, match=told):
        create("true").on_output(print, **options)


def test_binary_output_comes_through_every_unit_of_bytes_as_it_was(create):
    stream = create("head -c 32000000 /dev/urandom", tty="none")
    digest = hashlib.sha256(b"".join(collect(stream))).hexdigest()

    assert digest == hashlib.sha256(stream.read()).hexdigest()
    assert len(stream.read()) == 32_000_000


# -- status


def test_on_status_tells_how_it_is_and_each_change_up_to_the_end(create):
    stream = create(f"{GO}; exit 3", tty="none")
    states: list[str] = []
    subscription = stream.on_status(lambda status: states.append(status.state))
    while not states:
        stream.status  # noqa: B018
    go(stream)

    subscription.result(60)
    assert states[0] in ("starting", "running")
    assert states[-1] == "ended"
    assert sorted(set(states), key=["starting", "running", "exited", "ended"].index) == list(dict.fromkeys(states))


# -- iterations


async def test_a_stream_can_be_iterated(terminal):
    stream = await terminal.create(command="echo one; echo two", tty="none")

    assert b"".join([chunk.data async for chunk in stream]) == b"one\ntwo\n"


async def test_every_cursor_has_its_lag(terminal):
    stream = await terminal.create(command=f"{GO}; seq 1000; {GO}", tty="none")
    waiting = stream.wait_for("never", start="begin")
    blocked, reached = threading.Event(), threading.Event()

    def slow(data: bytes) -> None:
        reached.set()
        blocked.wait(30)

    stream.on_output(slow, thread=True)
    chunks = aiter(stream)
    await stream.send_input("\n")
    await anext(chunks)
    await asyncio.to_thread(reached.wait, 30)

    lag = stream.metrics.lag
    blocked.set()
    names = [name.rsplit(".", 1)[-1] for name in lag]
    assert {"slow", "chunks"} <= set(names)
    assert lag[next(name for name in lag if name.endswith("slow"))] > 0
    assert not waiting.done()
    await stream.stop()


def test_metrics_count_the_chunks_that_were_handed_on(create):
    stream = create("seq 10", tty="none")

    pieces = collect(stream)

    assert stream.metrics.chunks == len(pieces) > 0


# -- for analysis


def test_lines_as_json_are_dicts_and_the_others_are_counted(create):
    records = [{"step": 1, "loss": {"train": 0.5}}, {"step": 2, "loss": {"train": 0.25}}]
    said = "\n".join(["starting", json.dumps(records[0]), "", "[1, 2]", json.dumps(records[1]), "12"])
    stream = create(f"cat <<'END'\n{said}\nEND", tty="none")
    stream.wait_exit().result()

    lines = stream.lines(as_="json")

    assert list(lines) == records
    assert lines.skipped == 3
    assert list(lines.to_pandas()["loss.train"]) == [0.5, 0.25]
    with pytest.raises(InvalidRequest, match="json"):
        stream.lines(as_="yaml")


async def test_json_lines_can_be_followed(terminal):
    stream = await terminal.create(command="echo '{\"a\": 1}'; echo no; echo '{\"a\": 2}'", tty="none")

    assert [record["a"] async for record in stream.lines(as_="json")] == [1, 2]


def test_the_log_is_a_table(create):
    stream = create("echo one; echo two >&2; echo three", tty="none", name="api")
    stream.wait_exit().result()

    table = stream.to_pandas()

    assert list(table.columns) == ["offset", "time", "channel", "line"]
    assert list(table.sort_values("line")["line"]) == ["one", "three", "two"]
    assert dict(zip(table["line"], table["channel"], strict=True)) == {
        "one": "stdout",
        "two": "stderr",
        "three": "stdout",
    }
    assert isinstance(table["time"].dtype, pandas.DatetimeTZDtype)
    assert (abs(table["time"] - pandas.Timestamp.now("UTC")) < pandas.Timedelta(minutes=5)).all()
    assert list(stream.grep("t").to_pandas().sort_values("line")["line"]) == ["three", "two"]
    assert list(stream.to_pandas(channel="stderr")["line"]) == ["two"]


def test_an_empty_log_is_an_empty_table(create):
    stream = create("true", tty="none")
    stream.wait_exit().result()

    assert list(stream.to_pandas().columns) == ["offset", "time", "channel", "line"]
    assert len(stream.to_pandas()) == 0


# -- observers


@pytest.mark.parametrize(
    "act",
    [
        lambda stream: stream.send_input("x"),
        lambda stream: stream.send_eof(),
        lambda stream: stream.send_resize(80, 24),
        lambda stream: stream.send_signal("INT"),
        lambda stream: stream.stop(),
        lambda stream: stream.forward(80),
        lambda stream: stream.limit(10**6),
    ],
)
def test_an_observer_changes_nothing(create, terminal, act):
    session = create(f"{GO}; echo done", tty="none", name="api")
    observer = Stream(session._machine.bare, mode="observer")
    observer.attach("api", start="begin").result()

    with pytest.raises(ObserverOnly, match=r'observes api and cannot .*mode="operator"') as caught:
        act(observer)

    assert isinstance(caught.value, PermissionError)
    go(session)
    assert observer.wait_for("done").result()[0] == "done"


def test_there_are_two_modes(create):
    with pytest.raises(InvalidRequest, match="operator"):
        Stream(create("true")._machine.bare, mode="viewer")
