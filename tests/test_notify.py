"""What is told of a session to somebody who does not look: words, and then real sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from live import GO, Create, creating, go

from cmdop_jupyter import notify
from cmdop_jupyter.errors import InvalidRequest, PatternError
from cmdop_jupyter.machines.base import Exit
from cmdop_jupyter.notify import Wanted, exit_notice, read_wanted, set_notifier
from cmdop_jupyter.stream import Stream


@pytest.fixture
def create(state_dir) -> Iterator[Create]:
    with creating() as create:
        yield create


class Told:
    """A notifier that hands on what it is told."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def __call__(self, title: str, text: str, stream: Stream) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, (title.replace(stream.name, "NAME"), text))

    async def next(self) -> tuple[str, str]:
        return await self._queue.get()

    def rest(self) -> list[tuple[str, str]]:
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]


# -- the words


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("end", Wanted(end=True)),
        ("end, fail", Wanted(end=True, fail=True)),
        ("match=ERROR", Wanted(match="ERROR")),
        (r"match=a{1,3},b,end", Wanted(end=True, match="a{1,3},b")),
        ("match=the end,fail", Wanted(fail=True, match="the end")),
        ("match=a=b,silence=10m", Wanted(match="a=b", silence=600.0)),
        ("silence=1.5h", Wanted(silence=5400.0)),
    ],
)
def test_the_words_are_read(text, wanted):
    assert read_wanted(text) == wanted


@pytest.mark.parametrize("text", ["", "ends", "end=1", "match=", "silence=", "silence=0", "silence=soon", "end,end"])
def test_other_words_are_refused(text):
    with pytest.raises(InvalidRequest):
        read_wanted(text)


def test_a_pattern_that_does_not_compile_is_refused():
    with pytest.raises(PatternError):
        read_wanted("match=(")


@pytest.mark.parametrize(
    ("exit", "wanted", "title"),
    [
        (Exit(0), "end", "api has finished"),
        (Exit(0), "fail", None),
        (Exit(1), "fail", "api has failed"),
        (Exit(None, "KILL"), "end", "api has failed"),
        (None, "fail", "api has failed"),
    ],
)
def test_an_exit_is_told_of_where_it_is_wanted(exit, wanted, title):
    notice = exit_notice("api", exit, 90.0, read_wanted(wanted))

    assert (notice and notice[0]) == title


# -- of sessions


async def test_an_end_is_told_of_once(create):
    stream = await asyncio.to_thread(create, f"{GO}; exit 4")
    told = Told()
    subscription = stream.notify("end,fail", told)

    await asyncio.to_thread(go, stream)
    await subscription

    title, text = await told.next()
    assert title == "NAME has failed"
    assert text.startswith("exit 4 after ")
    assert told.rest() == []


async def test_a_line_that_matches_is_told_of_and_those_right_behind_are_counted(create):
    stream = await asyncio.to_thread(create, "echo ok; echo ERROR 1; echo ERROR 2; echo ERROR 3")
    told = Told()

    await stream.notify("match=ERROR", told)

    assert [await told.next(), *told.rest()] == [
        ("NAME: /ERROR/", "ERROR 1"),
        ("NAME: /ERROR/", "ERROR 3 (and 1 more before it)"),
    ]


async def test_after_the_cooldown_the_next_line_is_told_of(create, monkeypatch):
    monkeypatch.setattr(notify, "COOLDOWN", 0.0)
    stream = await asyncio.to_thread(create, "seq 3")
    told = Told()

    await stream.notify("match=.", told)

    assert [(await told.next())[1], *(text for _, text in told.rest())] == ["1", "2", "3"]


async def test_silence_is_told_of_once_until_there_is_output_again(create):
    stream = await asyncio.to_thread(create, "echo on; sleep 0.8; echo again; sleep 0.8; sleep 0.8; echo end")
    told = Told()

    await stream.notify("silence=0.4s", told)

    assert [await told.next(), *told.rest()] == [("NAME is silent", "no output for 0.4s, and it is running")] * 2


async def test_without_a_handler_the_function_that_was_set_is_called(create):
    told = Told()
    set_notifier(told)
    try:
        stream = await asyncio.to_thread(create, "true")
        await stream.notify("end")
        title, _ = await told.next()
    finally:
        set_notifier(None)

    assert title == "NAME has finished"


async def test_without_anybody_to_tell_nothing_happens(create):
    stream = await asyncio.to_thread(create, "true")

    await stream.notify("end")

    assert stream.metrics.handler_errors == 0


def test_a_notifier_has_to_be_called():
    with pytest.raises(InvalidRequest):
        set_notifier("me")  # type: ignore[arg-type]
