"""Handlers of any pace, that raise, over links that break: each gets the log from its start, in order, once."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.errors import LinkLost
from cmdop_jupyter.machines.base import Exit, LinkState, SessionFacts, Status
from cmdop_jupyter.stream import Stream

SESSION = SessionFacts("s1", "api", "command", "", "none", "/", True, 0, "here", "", "/log")


class FlakyMachine:
    """A session whose log grows by `chunks`; every read may find the link broken. Says what the real ones may say."""

    name, link = "far", LinkState("up")

    def __init__(self, chunks: list[Chunk], chance: random.Random) -> None:
        self._chunks, self._chance, self._there = chunks, chance, 0

    async def find(self, wanted: str) -> SessionFacts:
        return SESSION

    async def status(self, session_id: str, seen: int | None = None) -> Status:
        over = self._there == len(self._chunks)
        end = self._chunks[self._there - 1].end if self._there else 0
        return Status("ended" if over else "running", self._there, end, exit=Exit(0) if over else None)

    async def read(self, session_id: str, offset: int, max_bytes: int) -> list[Chunk]:
        for _ in range(self._chance.randrange(3)):
            await asyncio.sleep(0)
        if self._chance.random() < 0.3:
            raise LinkLost(self.name, "cut")
        self._there = min(len(self._chunks), self._there + self._chance.randrange(3))
        while self._there < len(self._chunks) and self._chunks[self._there].offset <= offset:
            self._there += 1
        found = []
        for chunk in self._chunks[: self._there]:
            if chunk.end > offset:
                skipped = max(0, offset - chunk.offset)
                found.append(Chunk(chunk.offset + skipped, chunk.channel, 1, 0, chunk.data[skipped:]))
        return found[: self._chance.randrange(1, 4)]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), max_size=20),
    starts=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_each_handler_gets_exactly_the_log_from_its_start(sizes, starts, seed):
    chance, chunks, offset = random.Random(seed), [], 0
    for size in sizes:
        data = bytes(chance.randrange(256) for _ in range(size))
        chunks.append(Chunk(offset, chance.choice(["stdout", "stderr"]), 1, 0, data))
        offset += size
    log = b"".join(chunk.data for chunk in chunks)
    starts = [min(start, len(log)) for start in starts]

    async def run() -> tuple[list[bytes], list[int], list[int]]:
        stream = Stream(FlakyMachine(chunks, random.Random(seed)))
        stream.on_error(lambda error: None)
        seen, raised, subscriptions = [bytearray() for _ in starts], [0] * len(starts), []

        def handler(number: int, asynchronous: bool) -> Any:
            def take(data: bytes) -> None:
                seen[number] += data
                if chance.random() < 0.3:
                    raised[number] += 1
                    raise LookupError("no use for it")

            async def take_slowly(data: bytes) -> None:
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                take(data)

            return take_slowly if asynchronous else take

        for number, start in enumerate(starts):
            asynchronous = chance.random() < 0.5
            register = stream.on_output_async if asynchronous else stream.on_output
            subscriptions.append(register(handler(number, asynchronous), start=start, thread=chance.random() < 0.3))
        await stream.attach("api", start="begin")
        for subscription in subscriptions:
            await subscription
        return [bytes(one) for one in seen], raised, [one.errors for one in subscriptions]

    seen, raised, counted = asyncio.run(run())

    assert seen == [log[start:] for start in starts]
    assert counted == raised


GIGABYTE = """
import asyncio, json, resource, time
from cmdop_jupyter import AsyncCMDOPClient

async def main():
    async with AsyncCMDOPClient.local() as client:
        stream = await client.terminal.create("local", "head -c 1000000000 /dev/zero", tty="none")
        sizes, behind = [], [0]
        def sleepy(data):
            time.sleep(0.0005)
            sizes.append(len(data))
        def quick(data):
            behind[0] += len(data)
        stream.on_output(quick, thread=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        slow = stream.on_output(sleepy, thread=True)
        await stream
        late = 1_000_000_000 - sum(sizes)
        await slow
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"seen": sum(sizes), "quick": behind[0], "late": late, "grown_kb": after - before}))

asyncio.run(main())
"""


def test_a_gigabyte_through_a_handler_that_sleeps_takes_no_memory(state_dir):
    """The handler lags by hundreds of megabytes; they stay in the log."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", GIGABYTE], capture_output=True, text=True, timeout=110)

    assert (done.stderr, done.returncode) == ("", 0)
    told = json.loads(done.stdout)
    assert (told["seen"], told["quick"]) == (1_000_000_000, 1_000_000_000)
    assert told["grown_kb"] < 64 * 1024, told
