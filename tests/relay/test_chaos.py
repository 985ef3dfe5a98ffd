"""A relay whose servers, machines and networks break again and again: nothing is lost, nothing comes twice.

`make chaos`: more of it, and a cluster of three servers of which one after the other is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from proxy import Proxy
from relays import TestRelay
from relays import relay as open_relay
from served import Served, machine_at, relay_of, served

from cmdop_jupyter.client import Terminal
from cmdop_jupyter.machines import far as far_machines
from cmdop_jupyter.machines.relay import RelayMachine
from cmdop_jupyter.runtime import runtime
from cmdop_jupyter.stream import Stream

CHAOS = "CHAOS" in os.environ
CUTS = 50 if CHAOS else 20
SIZE = 200_000_000 if CHAOS else 20_000_000
LINES, LINES_A_TIME = (10_000, 10) if CHAOS else (2_000, 10)
SILENCE = 1.0  # seconds after which a connection on which nothing is heard is broken, here

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800 if CHAOS else 120)]


class Far:
    """A machine on a relay, reached by a proxy as its relay is by another, and all the ways to break that."""

    def __init__(self, relay: TestRelay, here: Proxy, there: Proxy, machine_side: Served, key: str) -> None:
        self.relay, self.here, self.there, self.machine_side = relay, here, there, machine_side
        way = relay_of(key, url=f"nats://127.0.0.1:{here.port}", silence=SILENCE)
        self.machine = machine_at(way)
        self.terminal = Terminal(self.machine)
        self._ways: list[Callable[[], object]] = [
            here.cut,
            there.cut,
            self.freeze_here,
            self.restart_machine,
            self.freeze_there,
            self.restart_server,
            self.kill_server,
            self.kill_machine,
        ]
        self.cuts = 0
        self._working: threading.Thread | None = None

    @property
    def wants_cut(self) -> bool:
        """Whether the last one is done, and there is one left."""
        done = self._working is None or not self._working.is_alive()
        return done and self.cuts < CUTS and self.machine.link.state == "up"

    def cut(self) -> None:
        way = self._ways[self.cuts % len(self._ways)]
        self.cuts += 1
        self._working = threading.Thread(target=way)
        self._working.start()

    def freeze_here(self) -> None:
        self._freeze(self.here)

    def freeze_there(self) -> None:
        self._freeze(self.there)

    def _freeze(self, proxy: Proxy) -> None:
        """Nothing is heard any more, and nothing says so, until it has been noticed."""
        proxy.freeze()
        deadline = threading.Event()
        while proxy.connections and not deadline.wait(0.1):
            if self.machine.link.state != "up":
                break
        proxy.cut()
        proxy.thaw()

    def restart_machine(self) -> None:
        self.machine_side.end(signal.SIGTERM)
        self.machine_side.start()

    def kill_machine(self) -> None:
        self.machine_side.end(signal.SIGKILL)
        self.machine_side.start()

    def restart_server(self) -> None:
        self.relay.stop()
        self.relay.start()

    def kill_server(self) -> None:
        self.relay.kill()
        self.relay.start()

    def close(self) -> None:
        if self._working is not None:
            self._working.join(60)
        runtime().wait(self.machine.close())


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    monkeypatch.setattr(far_machines, "FIRST_PAUSE", 0.1)
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(open_relay(tmp_path / "relay"))
        here, there = stack.enter_context(Proxy(relay.port)), stack.enter_context(Proxy(relay.port))
        options = ("--url", f"nats://127.0.0.1:{there.port}", "--silence", str(SILENCE))
        machine_side = stack.enter_context(served(relay.machine_key("box"), tmp_path, *options))
        far = Far(relay, here, there, machine_side, relay.api_key("op1"))
        yield far
        far.close()


async def test_every_byte_and_every_line_comes_once_whatever_breaks_on_the_way(far: Far) -> None:
    lines = b"".join(b"line %09d\n" % number for number in range(SIZE // 15))
    stream = await far.terminal.create(command=f"seq -f 'line %09.0f' 0 {SIZE // 15 - 1}", tty="none")
    typing = asyncio.create_task(type_lines(await far.terminal.create(command="exec cat", tty="none"), far))
    seen, size = hashlib.sha256(), 0

    async for chunk in stream.chunks("begin"):
        seen.update(chunk.data)
        size += len(chunk.data)
        while far.cuts < CUTS and size > len(lines) * (far.cuts + 1) // (CUTS + 1):
            if far.wants_cut:
                far.cut()
            else:
                await asyncio.sleep(0.01)

    assert size == len(lines)
    assert seen.hexdigest() == hashlib.sha256(lines).hexdigest()
    assert (await stream).code == 0
    assert await typing == "".join(f"line {n}\n" for n in range(LINES)).encode()
    assert far.cuts == CUTS


async def type_lines(stream: Stream, far: Far) -> bytes:
    """Type many lines into `cat` while all breaks, and return what it had of them."""
    for number in range(0, LINES, LINES_A_TIME):
        await stream.send_input("".join(f"line {n}\n" for n in range(number, number + LINES_A_TIME)))
    await stream.send_eof()
    assert (await stream).code == 0
    return b"".join([chunk.data async for chunk in stream.chunks("begin")])


async def test_a_cluster_goes_on_with_whichever_server_is_killed(tmp_path: Path) -> None:
    lines = b"".join(b"line %09d\n" % number for number in range(SIZE // 15))
    with open_relay(tmp_path / "relay", servers=3) as relay, served(relay.machine_key("box"), tmp_path):
        machine: RelayMachine = machine_at(relay_of(relay.api_key("op1"), silence=SILENCE))
        terminal = Terminal(machine)
        ready = await terminal.create(command="read line; echo ready $line", tty="none")
        waiting = asyncio.create_task(ready.wait_for(r"ready (\w+)", timeout=600))
        stream = await terminal.create(command=f"seq -f 'line %09.0f' 0 {SIZE // 15 - 1}", tty="none")
        seen, size, killed = hashlib.sha256(), 0, 0

        async for chunk in stream.chunks("begin"):
            seen.update(chunk.data)
            size += len(chunk.data)
            if killed < 3 and size > len(lines) * (killed + 1) // 4:
                server = relay.servers[killed]
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                killed += 1
        await ready.send_input("now\n")

        assert (await waiting)[1] == "now"
        assert (size, seen.hexdigest()) == (len(lines), hashlib.sha256(lines).hexdigest())
        assert killed == 3
        await asyncio.to_thread(lambda: runtime().wait(machine.close()))
