"""What a terminal's page is sent: a window at most, whatever it does; then the newest, and all is sent or counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live import GO, Create, creating, go

from cmdop_jupyter.notebook.views.flow import GLANCE, READ_SIZE, REPLAY, WINDOW, Flow
from cmdop_jupyter.runtime import runtime
from cmdop_jupyter.stream import Stream
from cmdop_jupyter.words import human_bytes

FLOOD = f"{GO}; stty -opost; yes a line of the flood | head -c 20000000; echo; echo the end"


@pytest.fixture
def create(state_dir) -> Iterator[Create]:
    with creating() as create:
        yield create


class Page:
    """A page that is sent a stream's output, and answers when it is told to."""

    def __init__(self, stream: Stream) -> None:
        self.sent: list[tuple[dict[str, Any], bytes]] = []
        self.painted = asyncio.Event()
        self.answers = False
        self.over = asyncio.Event()
        runtime().wait(self._begin(stream))

    async def _begin(self, stream: Stream) -> None:
        self.flow = Flow(stream._machine, stream.facts, self._take, redraw=self._redraw, end_words=self._end)

    def _take(self, content: dict[str, Any], data: bytes | None) -> None:
        self.sent.append((content, data or b""))
        if self.answers:
            self._acknowledge()
        if content["kind"] == "end":
            self.over.set()

    def _acknowledge(self) -> None:
        at = [content["offset"] + len(data) for content, data in self.sent if content["kind"] == "data"]
        self.flow.acknowledge(at[-1] if at else 0)

    def _redraw(self) -> None:
        self.painted.set()

    async def _end(self) -> str:
        return "it ended"

    def answer(self) -> None:
        """Answer all from now on, and what was sent before."""

        def begin() -> None:
            self.answers = True
            self.painted.clear()
            self._acknowledge()

        runtime().call_later(begin)

    @property
    def bytes(self) -> int:
        return sum(len(data) for content, data in self.sent if content["kind"] == "data")

    @property
    def starts(self) -> list[int]:
        """Where it began anew, in its messages."""
        return [at for at, (content, _) in enumerate(self.sent) if content["kind"] == "start"]


@pytest.fixture
def page() -> Iterator[Callable[[Stream], Page]]:
    pages: list[Page] = []

    def page(stream: Stream) -> Page:
        pages.append(Page(stream))
        return pages[-1]

    yield page
    for one in pages:
        runtime().call_later(one.flow.close)


def test_a_command_ends_though_its_page_never_answers_and_is_sent_a_window_at_most(create, page):
    stream = create(FLOOD, tty="full")
    seen = page(stream)

    go(stream)

    assert stream.wait_exit().result().ok
    assert seen.bytes <= WINDOW + READ_SIZE
    assert stream.metrics.bytes > 20_000_000


def test_a_page_that_answers_again_goes_on_with_the_newest_and_is_told_what_is_only_in_the_log(create, page):
    stream = create(FLOOD, tty="full")
    seen = page(stream)
    go(stream)
    stream.wait_exit().result()

    seen.answer()
    runtime().wait(seen.over.wait())

    assert seen.sent[-2][1].endswith(b"the end\n")
    assert seen.sent[-1] == ({"kind": "end", "text": "it ended"}, b"")
    (start, _), *shown = seen.sent[seen.starts[-1] : -1]
    assert start["offset"] == stream.metrics.bytes - sum(len(data) for _, data in shown) > 10_000_000
    assert start["text"] == f"the {human_bytes(start['offset'])} before are in the log only"


def test_a_flood_is_shown_in_glances_and_behind_it_there_is_more_to_scroll_back_to(create, page):
    stream = create(FLOOD, tty="full")
    seen = page(stream)
    seen.answers = True

    go(stream)

    runtime().wait(seen.over.wait())
    sizes = [len(seen.sent[at + 1][1]) for at in seen.starts[1:]]
    assert GLANCE - 100 < min(sizes) <= GLANCE
    assert REPLAY - 100 < sizes[-1] <= REPLAY


def test_a_full_screen_program_paints_anew_after_a_skip(create, page):
    stream = create(f"printf '\\033[?1049h'; {FLOOD}; {GO}", tty="full")
    seen = page(stream)
    go(stream)
    stream.wait_for("the end").result()

    seen.answer()
    runtime().wait(seen.painted.wait())

    starts = [data for content, data in seen.sent if content["kind"] == "start"]
    assert b"\x1b[?1049h" in starts[-1]
