"""What a relay costs: a session's bytes beside bare NATS, ten watchers beside one, a full house, a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from cmdop_jupyter.client import Terminal
from cmdop_jupyter.machines.relay import RelayMachine
from cmdop_jupyter.relay import subjects
from cmdop_jupyter.relay.keys import read_machine_key
from cmdop_jupyter.relay.seals import seal_card
from cmdop_jupyter.relay.wire import Wire
from cmdop_jupyter.runtime import Pending, runtime
from cmdop_jupyter.stream import Stream
from cmdop_jupyter.subscription import Subscription
from tests.proxy import Proxy
from tests.relay.relays import TestRelay, free_ports, program
from tests.relay.relays import relay as open_relay
from tests.served import Served, machine_at, relay_of, served

from .delivery import _write_log

ROUNDS = 3  # pairs
PIECE = 64 * 1024
IN_FLIGHT = 64
LINES_A_SECOND = 2  # of each session of the full house; 5 of 200 fill two cores, see docs/relay.md
TICKING = f"""
import sys, time
sys.stdin.readline()
for number in range(int(sys.argv[1])):
    sys.stdout.write("%d %d\\n" % (number, time.time_ns()))
    sys.stdout.flush()
    time.sleep({1 / LINES_A_SECOND})
"""
BARE = """
import asyncio, sys, nats
async def main(url, path, piece, window):
    connection = await nats.connect(url)
    stream, room, under_way = connection.jetstream(), asyncio.Semaphore(window), set()
    print("ready", flush=True)
    sys.stdin.readline()
    with open(path, "rb") as file:
        while data := file.read(piece):
            await room.acquire()
            task = asyncio.ensure_future(stream.publish("bare.log", data))
            under_way.add(task)
            task.add_done_callback(lambda done: (under_way.discard(done), room.release()))
    await asyncio.gather(*under_way)
    await connection.close()
asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


def main(full: bool = False) -> list[dict[str, Any]]:
    """Measure all, on nats-servers of its own."""
    size = 200_000_000 if full else 50_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source.log"
        _write_log(source, size)
        size = source.stat().st_size  # whole lines
        with open_relay(folder / "relay") as relay:
            rows = _throughput(relay, source, size, folder)
            rows += _cluster(relay, source, size, folder)
            rows += _watchers(relay, source, size // 5, folder)
        with open_relay(folder / "big") as relay:
            rows += _full_house(relay, folder, *((200, 1000, 20) if full else (50, 200, 8)))
    return rows


# -- one session


def _throughput(relay: TestRelay, source: Path, size: int, folder: Path) -> list[dict[str, Any]]:
    ours, bare = [], []
    with served(relay.machine_key("box"), folder) as box, _bare_server(folder) as url:
        machine = machine_at(relay_of(relay.api_key("op1")))
        spent = dict.fromkeys(_spent(relay, box), 0.0)
        for _ in range(ROUNDS):
            bare.append(size / asyncio.run(_bare(url, source, size)) / 1e6)
            before = _spent(relay, box)
            ours.append(size / _live(machine, source, size) / 1e6)
            spent = {who: spent[who] + now - before[who] for who, now in _spent(relay, box).items()}
        runtime().wait(machine.close())
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    hundreds = ROUNDS * size / 1e8
    return [
        _row("a session's bytes to a handler, MB/s", statistics.median(ours), "MB/s", None, _list(ours)),
        _row("nats-py publishing and reading them bare", statistics.median(bare), "MB/s", None, _list(bare)),
        _row("the first beside the second", statistics.median(ratios), "", ">= 0.6", _list(ratios)),
        _cost("processor time of nats-server, of 100 MB", spent, 1 / hundreds, "s"),
    ]


def _cluster(relay: TestRelay, source: Path, size: int, folder: Path) -> list[dict[str, Any]]:
    """The same over three servers that each keep it, beside one, by turns."""
    speeds: dict[TestRelay, list[float]] = {}
    with open_relay(folder / "three", servers=3) as three, contextlib.ExitStack() as stack:
        machines = {}
        for number, each in enumerate((relay, three)):
            stack.enter_context(served(each.machine_key("cluster"), folder / f"cluster{number}"))
            machines[each] = machine_at(relay_of(each.api_key("cluster-op")), "cluster")
            speeds[each] = []
        for _ in range(ROUNDS):
            for each, machine in machines.items():
                speeds[each].append(size / _live(machine, source, size) / 1e6)
        for machine in machines.values():
            runtime().wait(machine.close())
    ratios = [many / one for one, many in zip(speeds[relay], speeds[three], strict=True)]
    detail = f"{_list(speeds[three])} MB/s, of {_list(speeds[relay])}"
    return [_row("three servers that keep all, beside one", statistics.median(ratios), "", None, detail)]


def _live(machine: RelayMachine, source: Path, size: int) -> float:
    """Seconds from the line that lets a command print a file until a handler has had it all."""

    async def measure() -> float:
        stream = await Terminal(machine).create(command=f"read line; exec cat {source}", tty="none")
        feeds = machine.feeds
        reading = asyncio.ensure_future(_all_of(stream))
        await _has_feeds([machine], feeds + 1)
        began = time.monotonic()
        await stream.send_input("\n")
        assert await reading == size
        return time.monotonic() - began

    return asyncio.run(measure())


async def _all_of(stream: Stream) -> int:
    seen = 0

    def take(data: bytes) -> None:
        nonlocal seen
        seen += len(data)

    subscription = stream.on_output(take, thread=True)
    await stream
    await subscription
    return seen


async def _has_feeds(machines: list[RelayMachine], count: int) -> None:
    """Wait until so many cursors in all get their output from the relay on each machine."""

    def wait() -> None:
        while any(one.feeds < count for one in machines):
            time.sleep(0.01)

    await asyncio.to_thread(wait)


@contextlib.contextmanager
def _bare_server(folder: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    words = [
        program(),
        "-js",
        "-a",
        "127.0.0.1",
        "-p",
        str(port),
        "-sd",
        str(folder / "bare"),
        "-l",
        str(folder / "log"),
    ]
    process = subprocess.Popen(words)
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


async def _bare(url: str, source: Path, size: int) -> float:
    """Seconds that nats-py takes to publish a file from one process and read it in another."""
    import nats

    connection = await nats.connect(url)
    stream = connection.jetstream()
    await stream.add_stream(name="bare", subjects=["bare.*"])
    await stream.purge_stream("bare")
    seen, all_there = 0, asyncio.Event()

    async def take(message: Any) -> None:
        nonlocal seen
        seen += len(message.data)
        if seen == size:
            all_there.set()

    await stream.subscribe("bare.log", cb=take, ordered_consumer=True, pending_bytes_limit=0, pending_msgs_limit=0)
    words = [sys.executable, "-c", BARE, url, str(source), str(PIECE), str(IN_FLIGHT)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    began = time.monotonic()
    process.stdin.write(b"\n")
    await all_there.wait()
    took = time.monotonic() - began
    await process.communicate()
    await connection.close()
    return took


# -- watchers


def _watchers(relay: TestRelay, source: Path, size: int, folder: Path) -> list[dict[str, Any]]:
    sent = {}
    with Proxy(relay.port) as proxy:
        options = ("--url", f"nats://127.0.0.1:{proxy.port}")
        with served(relay.machine_key("watched"), folder / "watched", *options):
            for count in (1, 10):
                sent[count] = asyncio.run(_watched(relay, proxy, count, source, size))
    return [
        _row(
            "ten watchers cost their machine, of one",
            sent[10] / sent[1],
            "",
            "<= 1.2",
            f"{sent[10] / 1e6:.1f} MB and {sent[1] / 1e6:.1f} MB to the relay, of {size / 1e6:.1f} MB",
        )
    ]


async def _watched(relay: TestRelay, proxy: Proxy, count: int, source: Path, size: int) -> int:
    """Bytes that a machine sends for one session that so many watch."""
    keys = [await asyncio.to_thread(relay.api_key, f"watcher-{count}-{number}") for number in range(count)]
    machines = [machine_at(relay_of(key), "watched") for key in keys]
    stream = await Terminal(machines[0]).create(command=f"read line; head -c {size} {source}", tty="none")
    streams = [stream]
    for machine in machines[1:]:
        streams.append(Terminal(machine).stream())
        await streams[-1].attach(stream.session_id, "begin")
    watching = [asyncio.ensure_future(_all_of(one)) for one in streams]
    await _has_feeds(machines, 1)
    before = proxy.forwarded[0]
    await stream.send_input("\n")
    assert await asyncio.gather(*watching) == [size] * count
    sent = proxy.forwarded[0] - before
    for machine in machines:
        await Pending(machine.close(), "close")
    return sent


# -- many


def _full_house(relay: TestRelay, folder: Path, sessions: int, machines: int, seconds: int) -> list[dict[str, Any]]:
    paths = relay.machine_keys([f"m{number}" for number in range(machines)], keep_bytes=2**20)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each machine is a connection of this process
    with served(relay.machine_key("house"), folder / "house") as house:
        lines = seconds * LINES_A_SECOND
        found, took, waits, lost, spent, memory = asyncio.run(_house(relay, house, paths, folder, sessions, lines))
    assert found >= machines, f"the roster has {found} of {machines}"
    waits.sort()
    p99 = waits[int(len(waits) * 0.99)] * 1e3
    return [
        _row(f"the roster of {machines} machines", took, "s", "<= 1", f"while {sessions} sessions stream"),
        _row(
            f"{sessions} sessions at once: a line's way, p99",
            p99,
            "ms",
            "<= 100",
            f"median {waits[len(waits) // 2] * 1e3:.1f} ms, of {len(waits)} lines",
        ),
        _row("lines of them that were lost", lost, "", "<= 0", ""),
        _cost("processor time of nats-server, of a line", spent, 1e3 / len(waits), "ms"),
        _cost("memory of nats-server then", memory, 1, "MB"),
    ]


async def _announce(paths: list[Path]) -> list[Wire]:
    """The connections of machines, of which each has said once what it is."""
    wires = []
    for path in paths:
        key = read_machine_key(path)
        name = key.identity.proof.name
        wire = await Wire.open(key.url, key.identity, subjects.machine_inbox(name), silence=15.0, name=name)
        facts = {"hostname": name, "platform": "linux", "agent": "0", "tags": [], "load": 0.0}
        facts |= {"renewed_ns": time.time_ns(), "lease_s": 600.0, "state": "up"}
        await wire.request(subjects.roster(name), seal_card(key.identity, facts))
        wires.append(wire)
    return wires


async def _house(
    relay: TestRelay, house: Served, others: list[Path], folder: Path, sessions: int, lines: int
) -> tuple[int, float, list[float], int, dict[str, float], dict[str, float]]:
    wires = await _announce(others)
    key = await asyncio.to_thread(relay.api_key, "host")
    way = relay_of(key)
    machine = machine_at(way, "house")
    terminal = Terminal(machine)
    script = folder / "ticking.py"
    script.write_text(TICKING)
    waits: list[float] = []

    seen = [0] * sessions

    def watch(number: int, stream: Stream) -> Subscription:
        def take(line: str) -> None:
            count, at = line.split()
            assert int(count) == seen[number]
            seen[number] += 1
            waits.append((time.time_ns() - int(at)) / 1e9)

        return stream.on_output(take, unit="line")

    command = f"exec {sys.executable} {script} {lines}"
    streams = [await terminal.create(command=command, tty="none") for _ in range(sessions)]
    watching = [watch(number, stream) for number, stream in enumerate(streams)]
    await _has_feeds([machine], sessions)
    before = _spent(relay, house)
    for stream in streams:
        await stream.send_input("\n")
    await asyncio.sleep(1.0)
    began = time.monotonic()
    cards = await asyncio.wrap_future(runtime().submit(way.roster()))
    took = time.monotonic() - began
    for subscription in watching:
        await subscription
        assert not subscription.errors
    spent = {who: now - before[who] for who, now in _spent(relay, house).items()}
    memory = {who: process.memory_info().rss / 1e6 for who, process in _processes(relay, house).items()}
    await Pending(machine.close(), "close")
    for wire in wires:
        assert wire.lost is None, wire.lost
        await wire.close()
    return len(cards), took, waits, sessions * lines - sum(seen), spent, memory


# -- what it costs


def _processes(relay: TestRelay, machine: Served) -> dict[str, psutil.Process]:
    pids = {"nats-server": relay.pid, "cmdop-relay": machine.pid, "the client": os.getpid()}
    return {who: psutil.Process(pid) for who, pid in pids.items()}


def _spent(relay: TestRelay, machine: Served) -> dict[str, float]:
    """Seconds of processor time so far."""
    return {who: sum(process.cpu_times()[:2]) for who, process in _processes(relay, machine).items()}


def _cost(name: str, costs: dict[str, float], scale: float, unit: str) -> dict[str, Any]:
    """A row of what nats-server takes; the others in its detail."""
    others = (f"{who} {cost * scale:.3g}" for who, cost in costs.items() if who != "nats-server")
    return _row(name, costs["nats-server"] * scale, unit, None, ", ".join(others))


def _row(name: str, value: float, unit: str, bound: str | None, detail: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "bound": bound, "detail": detail}


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
