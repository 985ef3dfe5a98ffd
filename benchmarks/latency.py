"""From a byte written to a wait resolved, and from a cell run to the first byte."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from typing import Any

from cmdop_jupyter import AsyncCMDOPClient

TICKER = """
import sys, time
for number in range({count}):
    time.sleep(0.01)
    sys.stdout.write(f"tick {{time.monotonic_ns()}}\\n")
    sys.stdout.flush()
"""
CELLS = """
import asyncio, json, time
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "cmdop_jupyter")

async def first_byte(stream):
    async for chunk in stream.chunks("begin"):
        return chunk.wall_ns

taken = []
for name in ("first", "second", "third"):
    began = time.time_ns()
    shell.run_cell_magic("cmdop", f"--name {name} --view none", "echo hello")
    taken.append((asyncio.run(first_byte(shell.user_ns["cmdop"][name])) - began) / 1e9)
print(json.dumps(taken))
"""


def main(full: bool = False) -> list[dict[str, Any]]:
    """Measure both."""
    samples = sorted(asyncio.run(_ticks(1000 if full else 300)))
    p99 = samples[int(len(samples) * 0.99) - 1]
    detail = f"{len(samples)} lines, worst {samples[-1]:.1f} ms"
    first, *later = _first_bytes()
    return [
        _row("a line written to wait_for resolved, median", statistics.median(samples), "ms", 3, detail),
        _row("a line written to wait_for resolved, p99", p99, "ms", 20, detail),
        _row("first stream of a kernel: cell to first byte", first, "s", 0.5, ""),
        _row("later streams: cell to first byte", max(later), "s", 0.15, f"{len(later)} cells"),
    ]


def _row(name: str, value: float, unit: str, bound: float, detail: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "bound": f"<= {bound}", "detail": detail}


async def _ticks(count: int) -> list[float]:
    """Milliseconds from the write in the command to the match here; both read the system's monotonic clock."""
    samples = []
    async with AsyncCMDOPClient.local() as client:
        stream = await client.terminal.create(command=TICKER.format(count=count), shell=sys.executable)
        for _ in range(count):
            match = await stream.wait_for(r"tick (\d+)", timeout=30)
            samples.append((time.monotonic_ns() - int(match[1])) / 1e6)
        await stream
    return samples


def _first_bytes() -> list[float]:
    """Seconds from the cell to the first byte in the log, for three cells of a fresh shell."""
    done = subprocess.run([sys.executable, "-c", CELLS], stdout=subprocess.PIPE, text=True, check=True)
    return [float(taken) for taken in json.loads(done.stdout.splitlines()[-1])]
