"""A relay whose servers, machines and networks break again and again: nothing is lost, nothing comes twice.

`make chaos`: more of it, and a cluster of three servers of which one after the other is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from proxy import Proxy
from relays import TestRelay
from relays import relay as open_relay
from served import Served, machine_at, relay_of, served
from tasks import waits

from cmdop_jupyter.client import Terminal
from cmdop_jupyter.machines import far as far_machines
from cmdop_jupyter.relay.feed import Feed
from cmdop_jupyter.runtime import runtime
from cmdop_jupyter.stream import Stream

T = TypeVar("T")

CHAOS = "CHAOS" in os.environ
CUTS = 50 if CHAOS else 20
SIZE = 200_000_000
LINES, LINES_A_TIME = 10_000, 10 if CHAOS else 100
SILENCE = 1.0  # seconds after which a connection on which nothing is heard is broken, here
PATIENCE = 60.0  # seconds in which something must have gone on; far more than it ever takes

pytestmark = pytest.mark.timeout(1800 if CHAOS else 240)


class Far:
    """A machine on a relay, and what to say of all of it when nothing goes on."""

    def __init__(self, relay: TestRelay, machine_side: Served, port: int | None = None) -> None:
        self.relay, self.machine_side = relay, machine_side
        url = f"nats://127.0.0.1:{port}" if port else None
        self.machine = machine_at(relay_of(relay.api_key("op1"), url=url, silence=SILENCE))
        self.terminal = Terminal(self.machine)
        self.broken: list[str] = []  # what was, in which order
        self._breaking: asyncio.Task[None] | None = None
        self._began = time.monotonic()

    async def wait(self, work: Awaitable[T], what: str) -> T:
        """The outcome of `work`; a failure that says who waits for what when it takes too long."""
        working = asyncio.ensure_future(work)
        done, _ = await asyncio.wait([working], timeout=PATIENCE)
        if not done:
            told = await asyncio.to_thread(self.tell)
            working.cancel()
            pytest.fail(f"waited {PATIENCE:g} s for {what}\n{told}")
        return working.result()

    def begin(self, way: Callable[[], object]) -> None:
        """Break something, and go on meanwhile; see `mended`."""

        async def work() -> None:
            await asyncio.to_thread(way)

        self.broken.append(f"{time.monotonic() - self._began:.1f} s: {way.__qualname__}")
        self._breaking = asyncio.create_task(work())

    async def mended(self) -> None:
        """Wait until what was broken last works again, and the machine is reached."""
        if self._breaking is not None:
            await self.wait(self._breaking, f"breaking and mending: {self.broken[-1]}")
        await self.wait(on_io(self._up()), f"the machine to be reached after {self.broken[-1:]}")

    async def _up(self) -> None:
        while (link := self.machine.link).state != "up":
            await self.machine.link_change(link)

    def tell(self) -> str:
        machine, link = self.machine, self.machine._link
        lines = [f"broken so far: {len(self.broken)}, last {self.broken[-3:]}", f"link: {machine.link}"]
        if link is not None:
            calls = {number: call.subject for number, call in link._calls.items()}
            lines.append(f"its newest: lost {link.lost!r}, wire lost {link.wire.lost!r}, calls {calls}")
        lines += [f"read from the machine: {machine._directly}", "feeds that nobody waits on:"]
        for session, feeds in machine._feeds.items():
            lines += [
                f"  {session} at {feed.at}: {feed._seen} messages, {feed._size} bytes here, end {feed._end}, "
                f"broken {feed.broken!r}, {len(feed._owed)} words owed"
                for feed in feeds
            ]
        lines += ["here:", runtime().wait(tasks_here()), "there:", self.machine_side.waits()]
        lines += ["its last words:", *self.machine_side.said[-20:]]
        for server in self.relay.servers:
            lines += [
                f"{server.name} ({'runs' if server.runs else 'is down'}):",
                *server.log.read_text().split("\n")[-12:],
            ]
        return "\n".join(lines)

    def close(self) -> None:
        runtime().wait(self.machine.close(), PATIENCE)


class BreakableFar(Far):
    """It is reached by a proxy as its relay is by another, and there are many ways to break that."""

    def __init__(self, relay: TestRelay, here: Proxy, there: Proxy, machine_side: Served) -> None:
        super().__init__(relay, machine_side, here.port)
        self.here, self.there = here, there
        self.ways: list[Callable[[], object]] = [
            self.cut_here,
            self.cut_there,
            self.freeze_here,
            self.restart_machine,
            self.freeze_there,
            self.restart_server,
            self.kill_server,
            self.kill_machine,
        ]

    def cut_here(self) -> None:
        self.here.cut()

    def cut_there(self) -> None:
        self.there.cut()

    def freeze_here(self) -> None:
        self._freeze(self.here)

    def freeze_there(self) -> None:
        self._freeze(self.there)

    def _freeze(self, proxy: Proxy) -> None:
        """Nothing is heard any more, and nothing says so, until it has been noticed."""
        link = self.machine._link
        proxy.freeze()
        end = time.monotonic() + PATIENCE / 2
        while link is not None and link.lost is None:
            assert time.monotonic() < end, "nobody noticed that nothing is heard"
            time.sleep(0.02)
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


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BreakableFar]:
    monkeypatch.setattr(far_machines, "FIRST_PAUSE", 0.1)
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(open_relay(tmp_path / "relay"))
        here, there = stack.enter_context(Proxy(relay.port)), stack.enter_context(Proxy(relay.port))
        options = ("--url", f"nats://127.0.0.1:{there.port}", "--silence", str(SILENCE))
        machine_side = stack.enter_context(served(relay.machine_key("box"), tmp_path, *options))
        far = BreakableFar(relay, here, there, machine_side)
        yield far
        far.close()


async def test_every_byte_and_every_line_comes_once_whatever_breaks_on_the_way(
    far: BreakableFar, tmp_path: Path
) -> None:
    ways = [far.ways[number % len(far.ways)] for number in range(CUTS)]
    await everything_comes_once_while_it_breaks(far, ways, tmp_path)


@pytest.mark.long
async def test_a_cluster_goes_on_with_whichever_server_is_killed(tmp_path: Path) -> None:
    with open_relay(tmp_path / "relay", servers=3) as relay, served(relay.machine_key("box"), tmp_path) as machine_side:
        far = Far(relay, machine_side)

        def kill(number: int) -> Callable[[], None]:
            def kill_one() -> None:
                relay.servers[number].kill()
                relay.servers[number].start()

            return kill_one

        ready = await far.terminal.create(command="read line; echo ready $line", tty="none")
        waiting = asyncio.create_task(ready.wait_for(r"ready (\w+)", timeout=600))
        await everything_comes_once_while_it_breaks(far, [kill(number) for number in range(3)], tmp_path)
        assert not waiting.done()
        await far.wait(ready.send_input("now\n"), "the last line to be typed")

        assert (await far.wait(waiting, "what was waited for all the time"))[1] == "now"
        await asyncio.to_thread(far.close)


class Output:
    """A session that puts out what it is asked for, and a cursor that sees whether it comes, each byte once.

    Attributes:
        at: Bytes that came.
    """

    def __init__(self, far: Far, stream: Stream, folder: Path) -> None:
        self._far, self._stream, self._folder = far, stream, folder
        self._chunks = aiter(stream.chunks("begin"))
        self.at = 0

    @classmethod
    async def begin(cls, far: Far, folder: Path) -> Output:
        command = f"while read -r name; do cat {folder}/$name; done"
        return cls(far, await far.wait(far.terminal.create(command=command, tty="none"), "a session to start"), folder)

    async def put_out(self, data: bytes) -> AsyncIterator[int]:
        """Have it put out, and take it; gives how much of it has come, at first 0."""
        part = self._folder / f"from-{self.at}"
        part.write_bytes(data)
        await self._far.wait(
            self._stream.send_input(f"{part.name}\n"), f"output from byte {self.at} on to be asked for"
        )
        at = 0
        while at < len(data):
            yield at
            chunk = await self._far.wait(anext(self._chunks), f"byte {self.at}, which is {at} of {part.name}")
            assert chunk.data == data[at : at + len(chunk.data)], f"other bytes than those put out from {self.at} on"
            at, self.at = at + len(chunk.data), self.at + len(chunk.data)
        part.unlink()

    async def come_by_the_relay(self) -> None:
        """Have a little put out until it comes by the relay, not from the machine."""
        end = time.monotonic() + PATIENCE
        while not any(feed.at == self.at and not feed.broken for feed in self._feeds()):
            assert time.monotonic() < end, f"output comes from the machine itself\n{self._far.tell()}"
            async for _ in self.put_out(b"a little more\n"):
                await asyncio.sleep(0.1)

    async def end(self) -> None:
        await self._far.wait(self._stream.send_eof(), "the input of what puts out to be ended")
        assert await self._far.wait(anext(self._chunks, None), "the end of the output") is None
        assert (await self._far.wait(self._stream, "what puts out to end")).code == 0

    def _feeds(self) -> list[Feed]:
        return list(self._far.machine._feeds.get(self._stream.session_id, ()))


async def everything_comes_once_while_it_breaks(far: Far, ways: list[Callable[[], object]], folder: Path) -> None:
    """At each break output is on its way, more or less of it, lines are typed, and somebody waits for the last one."""
    output = await Output.begin(far, folder)
    echo = await far.wait(far.terminal.create(command="exec cat", tty="none"), "another session to start")

    for number, way in enumerate(ways):
        share = range(number * LINES // len(ways), (number + 1) * LINES // len(ways))
        part = os.urandom(SIZE // len(ways))
        waiting = echo.wait_for(f"^line {share[-1]}$")
        doing: asyncio.Future[object] | None = None
        await output.come_by_the_relay()
        async for at in output.put_out(part):
            if doing is None and at >= len(part) * (number % 5) // 6:
                far.begin(way)
                doing = asyncio.gather(type_lines(echo, share), waiting)
        await far.wait(doing, "lines to be typed, and the last one to be seen")
        await far.mended()
    far.begin(ways[-1])  # and once more while all ends
    await output.end()
    await far.wait(echo.send_eof(), "the input of what is typed into to be ended")

    assert await far.wait(output_of(echo), "what was typed") == b"".join(
        b"line %d\n" % number for number in range(LINES)
    )
    assert (await far.wait(echo, "what is typed into to end")).code == 0
    await far.mended()


async def type_lines(stream: Stream, numbers: range) -> None:
    for at in range(0, len(numbers), LINES_A_TIME):
        await stream.send_input("".join(f"line {number}\n" for number in numbers[at : at + LINES_A_TIME]))


async def output_of(stream: Stream) -> bytes:
    return b"".join([chunk.data async for chunk in stream.chunks("begin")])


async def on_io(work: Awaitable[T]) -> T:
    return await asyncio.wrap_future(runtime().submit(work))


async def tasks_here() -> str:
    return waits(asyncio.all_tasks())
