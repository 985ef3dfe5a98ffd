"""Shared reads: several cursors fetch a log once, whatever their pace, and get it whole."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import until

from cmdop_jupyter import shared
from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.shared import SharedReads

SIZE = 100


class Log:
    """A log of 100 bytes; each read takes as many turns of the loop as it is told, or waits."""

    def __init__(self, turns: list[int] | None = None) -> None:
        self.reads: list[int] = []
        self.cancelled = 0
        self.hold: asyncio.Event | None = None
        self._turns = turns or [0]

    async def read(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        self.reads.append(offset)
        try:
            for _ in range(self._turns[len(self.reads) % len(self._turns)]):
                await asyncio.sleep(0)
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        end = min(SIZE, offset + max_bytes)
        return [Chunk(offset, "stdout", 1, 0, bytes(range(offset, end)))] if offset < end else []


async def turn() -> None:
    await asyncio.sleep(0)


async def follow(reads: SharedReads, start: int, size: int, pauses: list[int]) -> bytes:
    data = b""
    while chunks := await reads.read("s", start + len(data), size):
        data += b"".join(chunk.data for chunk in chunks)
        for _ in range(pauses[len(data) % len(pauses)]):
            await asyncio.sleep(0)
    return data


@given(
    starts=st.lists(st.integers(0, SIZE), min_size=2, max_size=5),
    size=st.integers(1, 40),
    turns=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    pauses=st.lists(st.integers(0, 4), min_size=1, max_size=4),
)
def test_each_cursor_gets_all_from_its_start_once_and_in_order(starts, size, turns, pauses):
    async def run() -> list[bytes]:
        reads = SharedReads(Log(turns).read, lambda: True)
        return await asyncio.gather(
            *(follow(reads, start, size, pauses[n:] + pauses[:n]) for n, start in enumerate(starts))
        )

    assert asyncio.run(run()) == [bytes(range(start, SIZE)) for start in starts]


async def test_cursors_of_one_start_fetch_it_once():
    log = Log([3])
    reads = SharedReads(log.read, lambda: True)

    await asyncio.gather(*(follow(reads, 0, 10, [n]) for n in range(5)))

    assert sorted(set(log.reads)) == list(range(0, 101, 10))
    assert len([offset for offset in log.reads if offset < SIZE]) == 10


async def test_a_single_cursor_shares_nothing():
    log = Log()
    reads = SharedReads(log.read, lambda: False)

    await follow(reads, 0, 50, [0])
    await follow(reads, 0, 50, [0])

    assert log.reads == [0, 50, 100] * 2


async def test_who_goes_away_takes_nothing_from_the_others_and_the_last_ends_the_read():
    log = Log()
    log.hold = asyncio.Event()
    reads = SharedReads(log.read, lambda: True)
    first, second = [asyncio.create_task(reads.read("s", 0, 10)) for _ in range(2)]
    await until(lambda: log.reads, turn)

    first.cancel()
    await asyncio.wait([first])
    assert log.cancelled == 0
    second.cancel()
    await asyncio.wait([second])
    await until(lambda: log.cancelled, turn)
    log.hold = None

    assert (await reads.read("s", 0, 10))[0].data == bytes(range(10))
    assert log.reads == [0, 0]


async def test_an_error_is_told_to_all_and_not_kept():
    answers = [LookupError("gone"), []]

    async def read(*_: object) -> list[Chunk]:
        await asyncio.sleep(0)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    reads = SharedReads(read, lambda: True)
    both = await asyncio.gather(*(reads.read("s", 0, 10) for _ in range(2)), return_exceptions=True)

    assert [type(one) for one in both] == [LookupError, LookupError]
    assert await reads.read("s", 0, 10) == []


async def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(shared, "KEPT", 25)
    log = Log()
    reads = SharedReads(log.read, lambda: True)

    await follow(reads, 0, 10, [0])
    await reads.read("s", 80, 10)
    await reads.read("s", 0, 10)

    assert log.reads[11:] == [0]


@pytest.mark.parametrize("several", [True, False])
async def test_the_end_of_a_session_is_the_end_for_all(several):
    assert await SharedReads(Log().read, lambda: several).read("s", SIZE, 10) == []
