"""What ten handlers of one stream cost beside one: each gets all of the output."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from cmdop_jupyter import AsyncCMDOPClient

ROUNDS = 5  # pairs
HANDLERS = 10


def main(full: bool = False) -> list[dict[str, Any]]:
    """Measure a command that prints while its handlers read, and handlers on a log that is there."""
    size = 200_000_000 if full else 50_000_000
    rows = []
    for name, live, bound in (("while it is printed", True, "<= 3"), ("of an ended session", False, None)):
        pairs = [asyncio.run(_both(size, live)) for _ in range(ROUNDS)]
        rows.append(
            {
                "name": f"{HANDLERS} handlers beside one, {size / 1e6:.0f} MB {name}",
                "value": statistics.median(ten / one for one, ten in pairs),
                "unit": "times as long",
                "bound": bound,
                "detail": ", ".join(f"{one:.2f}:{ten:.2f}" for one, ten in pairs) + " s",
            }
        )
    return rows


async def _both(size: int, live: bool) -> tuple[float, float]:
    return await _seconds(size, live, 1), await _seconds(size, live, HANDLERS)


async def _seconds(size: int, live: bool, count: int) -> float:
    async with AsyncCMDOPClient.local() as client:
        stream = await client.terminal.create("local", f"read go; yes | head -c {size}", tty="none")
        if not live:
            await stream.send_input("\n")
            await stream
        seen = [0] * count

        def handler(number: int) -> Any:
            def take(data: bytes) -> None:
                seen[number] += len(data)

            return take

        began = time.perf_counter()
        subscriptions = [stream.on_output(handler(number), thread=True) for number in range(count)]
        if live:
            await stream.send_input("\n")
        for subscription in subscriptions:
            await subscription
        took = time.perf_counter() - began
        assert seen == [size] * count, seen
        stream.close()
        return took
