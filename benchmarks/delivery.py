"""Bytes of a command to a handler, through supervisor, log and stream, beside the raw system on the same ends.

What either side wrote to disk is removed before the next is measured: gigabytes of it in memory slow the kernel down.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import tempfile
import termios
import time
from pathlib import Path
from typing import Any

from cmdop_jupyter import AsyncCMDOPClient
from cmdop_jupyter.client import machine
from cmdop_jupyter.runtime import Pending

READ_SIZE = 64 * 1024
ROUNDS = 7  # pairs; on a shared machine the same command takes twice as long a minute later


def main(full: bool = False) -> list[dict[str, Any]]:
    """Measure `split` against a bare loop on a terminal, and `none` against `tee`; and what it costs in memory."""
    sizes = {"split": 200_000_000 if full else 40_000_000, "none": 1_000_000_000 if full else 200_000_000}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.log"
        _write_log(source, max(sizes.values()))
        before = _resident()
        peak = before
        for mode, bare in (("split", _bare_terminal), ("none", _tee)):
            size = sizes[mode]
            command = f"head -c {size} {source}"
            pairs = []
            for _ in range(ROUNDS):
                raw = bare(command, size, Path(folder))
                ours = asyncio.run(_ours(command, mode, size))
                peak = max(peak, _resident())
                pairs.append((ours, raw))
            ratio = statistics.median(raw / ours for ours, raw in pairs)
            detail = ", ".join(f"{size / ours / 1e6:.0f}:{size / raw / 1e6:.0f}" for ours, raw in pairs) + " MB/s"
            rows.append(
                {
                    "name": f"delivered to a handler, {mode}, {size / 1e6:.0f} MB",
                    "value": ratio,
                    "unit": "of raw",
                    "bound": ">= 0.85" if mode == "split" else ">= 0.7",
                    "detail": detail,
                }
            )
    rows.append(
        {
            "name": "memory of the client doing so",
            "value": (peak - before) / 1e6,
            "unit": "MB more",
            "bound": "<= 64",
            "detail": f"{before / 1e6:.0f} MB before",
        }
    )
    return rows


async def _ours(command: str, mode: str, size: int) -> float:
    """Seconds from the start of the session until a handler has had every byte."""
    seen, done = 0, asyncio.Event()
    loop = asyncio.get_running_loop()

    def count(data: bytes) -> None:
        nonlocal seen
        seen += len(data)
        if seen >= size:
            loop.call_soon_threadsafe(done.set)

    async with AsyncCMDOPClient.local() as client:
        began = time.perf_counter()
        stream = await client.terminal.create(command=f"exec {command}", tty=mode)
        subscription = stream.on_output(count, thread=True)
        await done.wait()
        seconds = time.perf_counter() - began
        subscription.remove()
        await stream
        await stream.stop()  # gives its report once the session has ended
        await Pending(machine().remove(stream.session_id), "remove")
    return seconds


def _bare_terminal(command: str, size: int, folder: Path) -> float:
    """The same command on a raw terminal, read by a loop of `os.read`."""
    began = time.perf_counter()
    master, slave = os.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST
    attributes[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    process = subprocess.Popen(["bash", "-c", f"exec {command}"], stdout=slave, stderr=slave, stdin=subprocess.DEVNULL)
    os.close(slave)
    seen = 0
    while seen < size:
        seen += len(os.read(master, READ_SIZE))
    seconds = time.perf_counter() - began
    os.close(master)
    process.wait()
    return seconds


def _tee(command: str, size: int, folder: Path) -> float:
    began = time.perf_counter()
    copy = folder / "tee.log"
    subprocess.run(["bash", "-c", f"{command} | tee {copy} | cat > /dev/null"], check=True)
    seconds = time.perf_counter() - began
    copy.unlink()
    return seconds


def _write_log(path: Path, size: int) -> None:
    """A log of numbered lines of about 100 bytes."""
    with path.open("wb") as file:
        number = 0
        while file.tell() < size:
            lines = (
                f"2026-01-01 00:00:00 INFO worker-{n % 16:02} request {n:012} took {n % 977} ms: 200, {n * 7:020}\n"
                for n in range(number, number + 10_000)
            )
            file.write("".join(lines).encode())
            number += 10_000


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
