"""What a view knows of its session, and how often its page is told of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live import GO, Create, creating

from cmdop_jupyter.notebook.views.following import FIGURES_SECONDS, Following
from cmdop_jupyter.runtime import runtime
from cmdop_jupyter.stream import Stream

LINES = 20


@pytest.fixture
def create(state_dir) -> Iterator[Create]:
    with creating() as create:
        yield create


async def fetched(stream: Stream, known: Following, pattern: str) -> None:
    """Have it know of output that matches, as for a frame that shows it."""
    await stream.send_input("\n")
    await stream.wait_for(pattern)
    await known.fetch()
    known.drawn_end = known.status.end


def test_the_figures_of_a_flood_come_once_a_second_until_it_is_over(create):
    stream = create(f"echo begin; {GO}; seq 30; {GO}; seq 31 60; {GO}; seq 61 70; {GO}", tty="none")
    known = Following(stream._machine, stream.facts, stream._known, LINES)

    async def pauses() -> list[float]:
        await stream.wait_for("begin")
        await known.fetch()
        found = [known.figures_last]
        for last in ("30", "60", "70"):
            await fetched(stream, known, f"^{last}$")
            found.append(known.figures_last)
        return found

    assert runtime().wait(pauses()) == [0.0, FIGURES_SECONDS, FIGURES_SECONDS, 0.0]
