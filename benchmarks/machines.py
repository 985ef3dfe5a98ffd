"""What the way to another machine costs: throughput beside bare ssh, keys, first bytes, a view over a slow link."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cmdop_jupyter.client import Terminal
from cmdop_jupyter.machines.presets import Place, ssh_command
from cmdop_jupyter.machines.stdio import StdioMachine
from cmdop_jupyter.runtime import Pending, runtime
from cmdop_jupyter.stream import Stream
from tests.kernels import Kernel
from tests.proxy import Proxy
from tests.sshd import Sshd

from .delivery import _write_log

ROUNDS = 5  # pairs
SLOW = 1_000_000  # bytes a second
KEYS = 50
PACED = """
import os, sys, time
line = b"%016d " + b"x" * 82 + b"\\n"
began, sent, seconds = time.monotonic(), 0, {seconds}
while (now := time.monotonic()) - began < seconds:
    if sent < (now - began) * 50e6:
        sent += os.write(1, (line % time.monotonic_ns()) * 500)
    else:
        time.sleep(0.001)
with open({path!r}, "w") as file:
    file.write(str(sent / (time.monotonic() - began)))
"""


def main(full: bool = False) -> list[dict[str, Any]]:
    """Measure all, on an sshd of its own."""
    size = 500_000_000 if full else 50_000_000
    with tempfile.TemporaryDirectory() as name, Sshd(env={"XDG_CACHE_HOME": f"{name}/cache"}) as sshd:
        folder = Path(name)
        source = folder / "source.log"
        _write_log(source, size)
        command = _command(sshd)
        rows = _cold_and_warm(command, folder)
        rows += _throughput(command, source, size, folder)
        rows += _keys("loopback", command, 10)
        with Proxy(sshd.port) as proxy:
            proxy.throttle(SLOW)
            slow = _command(sshd, Port=proxy.port, HostKeyAlias=f"[{sshd.host}]:{sshd.port}")
            rows += _keys("1 MB/s and a flood", slow, 150, flood=True)
            rows += _view(slow, folder, 10 if full else 5)
    return rows


def _command(sshd: Sshd, **options: object) -> tuple[str, ...]:
    ssh, *words = ssh_command("box")
    return (ssh, "-F", str(sshd.ssh_config(**options)), *words)


def _cold_and_warm(command: tuple[str, ...], folder: Path) -> list[dict[str, Any]]:
    """Seconds until a session's first byte: on a machine that lacks the agent, and over a link that is up."""
    cold, warm = [], []
    for _ in range(3):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        machine = StdioMachine(Place("far", "ssh", command))
        cold.append(_first_byte(machine))
        warm += [_first_byte(machine) for _ in range(5)]
        runtime().wait(machine.close())
    return [
        _row("a cold machine, agent sent: first byte", statistics.median(cold), "s", "<= 2", _list(cold)),
        _row("a session on a warm link: first byte", statistics.median(warm), "s", "<= 0.2", _list(warm)),
    ]


def _first_byte(machine: StdioMachine) -> float:
    began = time.perf_counter()

    async def first() -> float:
        stream = await Terminal(machine).create(command="echo hello")
        async for _ in stream.chunks("begin"):
            return time.perf_counter() - began
        raise AssertionError("it said nothing")

    return asyncio.run(first())


def _throughput(command: tuple[str, ...], source: Path, size: int, folder: Path) -> list[dict[str, Any]]:
    machine = StdioMachine(Place("far", "ssh", command))
    ended = asyncio.run(Terminal(machine).create(command=f"exec cat {source}", tty="none"))
    ended.wait_exit().result()
    copy = folder / "copy.log"

    def bare_live() -> float:
        seconds = _bare([*command, f"cat {source} | tee {copy}"])
        copy.unlink()
        return seconds

    rows = [
        _pairs(
            f"an ended session's log to a handler, {size / 1e6:.0f} MB",
            ">= 0.7",
            size,
            lambda: _handled(ended, size),
            lambda: _bare([*command, f"cat {source}"]),
        ),
        _pairs(
            f"live to a handler, {size / 1e6:.0f} MB", ">= 0.6", size, lambda: _live(machine, source, size), bare_live
        ),
    ]
    runtime().wait(machine.close())
    return rows


def _pairs(name: str, bound: str, size: int, ours: Callable[[], float], bare: Callable[[], float]) -> dict[str, Any]:
    pairs = [(ours(), bare()) for _ in range(ROUNDS)]
    ratio = statistics.median(raw / mine for mine, raw in pairs)
    detail = ", ".join(f"{size / mine / 1e6:.0f}:{size / raw / 1e6:.0f}" for mine, raw in pairs) + " MB/s"
    return _row(name, ratio, "of bare ssh", bound, detail)


def _bare(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began


def _handled(stream: Stream, size: int) -> float:
    """Seconds until a handler has had everything."""

    async def handled() -> float:
        began, seen, done, loop = time.perf_counter(), 0, asyncio.Event(), asyncio.get_running_loop()

        def count(data: bytes) -> None:
            nonlocal seen
            seen += len(data)
            if seen >= size:
                loop.call_soon_threadsafe(done.set)

        with stream.on_output(count, start="begin", thread=True):
            await done.wait()
        return time.perf_counter() - began

    return asyncio.run(handled())


def _live(machine: StdioMachine, source: Path, size: int) -> float:
    began = time.perf_counter()
    stream = asyncio.run(Terminal(machine).create(command=f"exec cat {source}", tty="none"))
    _handled(stream, size)
    seconds = time.perf_counter() - began
    stream.wait_exit().result()
    stream.stop().result()
    Pending(machine.remove(stream.session_id), "remove").result()
    return seconds


def _keys(what: str, command: tuple[str, ...], bound: float, *, flood: bool = False) -> list[dict[str, Any]]:
    """Milliseconds from a key to its echo, as a handler sees it."""
    machine = StdioMachine(Place("far", "ssh", command))
    samples = asyncio.run(_echoes(machine, flood))
    runtime().wait(machine.close())
    name = f"keystroke to echo, {what}, median"
    return [_row(name, statistics.median(samples), "ms", f"<= {bound:g}", f"worst of {KEYS}: {max(samples):.0f} ms")]


async def _echoes(machine: StdioMachine, flood: bool) -> list[float]:
    terminal = Terminal(machine)
    noise = None
    if flood:
        noise = await terminal.create(command="exec cat /dev/zero", tty="none", name="flood")
        noise.on_output(lambda data: None, thread=True)
    stream = await terminal.create(command="exec cat", tty="full")
    echoes: asyncio.Queue[bytes] = asyncio.Queue()
    stream.on_output(echoes.put_nowait)
    samples = []
    for number in itertools.islice(itertools.cycle(b"abcdefgh"), KEYS):
        began = time.perf_counter()
        typed = stream.send_input(bytes([number]))
        await echoes.get()
        samples.append((time.perf_counter() - began) * 1000)
        await typed
    await stream.stop(0.0)
    if noise is not None:
        await noise.stop(0.0)
        noise.detach()
    return samples


def _view(command: tuple[str, ...], folder: Path, seconds: int) -> list[dict[str, Any]]:
    """How far a view is behind what is printed, over a slow link, and whether the command minds."""
    words = ", ".join(f'"{word}"' for word in command)
    rate = folder / "rate"
    with Kernel(folder / "kernel") as kernel:
        config = folder / "cmdop.toml"
        config.write_text(f"[machines.far]\nlink = [{words}]\n")
        kernel.run(f"import os; os.environ['CMDOP_CONFIG'] = {str(config)!r}")
        kernel.run("%load_ext cmdop_jupyter")
        kernel.run("%%cmdop far --name warm --wait\ntrue")
        script = PACED.format(seconds=seconds, path=str(rate))
        kernel.run(f"%%cmdop far --name paced --tty none --max-log 200M\n#!/usr/bin/env python3\n{script}")
        kernel.run(f"import time; time.sleep({seconds} - 1)", timeout=seconds + 60)
        lags = [
            message.time - max(map(int, stamps)) / 1e9
            for message in kernel.iopub
            if (stamps := re.findall(r"(?<!\d)(\d{16}) x", str(message.content)))
        ]
        kernel.run("paced.wait_exit().result()", timeout=seconds + 60)
    return [
        _row("a view over 1 MB/s, 50 MB/s printed: most behind", max(lags), "s", "<= 1", f"{len(lags)} frames"),
        _row("... the command's rate", float(rate.read_text()) / 50e6, "of 50 MB/s", ">= 0.95", ""),
    ]


def _row(name: str, value: float, unit: str, bound: str, detail: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "bound": bound, "detail": detail}


def _list(seconds: list[float]) -> str:
    return ", ".join(f"{one:.2f}" for one in seconds)
