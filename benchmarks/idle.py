"""What 200 sessions that do nothing cost: private memory of their supervisors, and whether anything wakes them."""

from __future__ import annotations

import asyncio
from typing import Any

from cmdop_jupyter import AsyncCMDOPClient

QUIET_SECONDS = 3.0


def main(full: bool = False) -> list[dict[str, Any]]:
    """Measure with 200 sessions, or 40 scaled up."""
    count = 200 if full else 40
    private, wakeups = asyncio.run(_measure(count))
    detail = f"{private / count / 1e6:.2f} MB each, {count} sessions"
    return [
        {
            "name": "200 idle sessions, private memory",
            "value": private / count * 200 / 1e6,
            "unit": "MB",
            "bound": "<= 1000",
            "detail": detail,
        },
        {
            "name": f"wake-ups of all of them in {QUIET_SECONDS:g} s",
            "value": wakeups,
            "unit": "",
            "bound": "<= 0",
            "detail": "",
        },
    ]


async def _measure(count: int) -> tuple[float, int]:
    async with AsyncCMDOPClient.local() as client:
        streams = [await client.terminal.create(command="exec sleep 1000") for _ in range(count)]
        pids = [_supervisor(stream.status.pid) for stream in streams]
        private = sum(_private(pid) for pid in pids)
        await asyncio.sleep(1)
        before = sum(map(_switches, pids))
        await asyncio.sleep(QUIET_SECONDS)
        wakeups = sum(map(_switches, pids)) - before
        await asyncio.gather(*(stream.stop() for stream in streams))
    return private, wakeups


def _supervisor(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def _private(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Private"))


def _switches(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt"))
