"""Links that break in every way there is, again and again: nothing is lost, nothing comes twice. `make chaos`: more."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import Iterator

import pytest
from proxy import Proxy
from reach import ssh_to
from sshd import Sshd

from cmdop_jupyter.client import Terminal
from cmdop_jupyter.machines.base import StartRequest
from cmdop_jupyter.machines.presets import Place
from cmdop_jupyter.machines.stdio import StdioMachine
from cmdop_jupyter.runtime import runtime
from cmdop_jupyter.steady import Steady
from cmdop_jupyter.stream import Stream

CHAOS = "CHAOS" in os.environ
CUTS = 100 if CHAOS else 20
SIZE = 500_000_000 if CHAOS else 32_000_000
LINES, LINES_A_TIME = 10_000, 10 if CHAOS else 50
SILENCE = 1.0  # seconds after which a link on which nothing is heard is broken, here

pytestmark = pytest.mark.timeout(1800 if CHAOS else 120)


class Far:
    """A machine behind sshd and a proxy, and all the ways to cut the link to it."""

    def __init__(self, sshd: Sshd, proxy: Proxy) -> None:
        self.sshd, self.proxy = sshd, proxy
        command = ssh_to(sshd, Port=proxy.port, HostKeyAlias=f"[{sshd.host}]:{sshd.port}")
        self.machine = StdioMachine(Place("far", "ssh", command, silence=SILENCE))
        self.terminal = Terminal(self.machine)
        self._ways = [self.kill_ssh, self.kill_sshd, self.proxy.cut, self.stop_sshd]
        self.cuts = 0
        self._redials = 0  # that there are once the link is back from the last cut
        self._stopped: list[int] = []  # by their handles: a number may be another's by the end

    def cut(self) -> None:
        """Cut the link, each time in another way; when it is not back from the last cut yet, do nothing."""
        link = self.machine.link
        if link.state == "up" and link.redials >= self._redials and self.cuts < CUTS:
            self._redials = link.redials + 1
            self._ways[self.cuts % len(self._ways)]()
            self.cuts += 1

    def kill_ssh(self) -> None:
        link = self.machine._link
        if link is not None and link._process is not None:
            link._process.kill()

    def kill_sshd(self) -> None:
        self.sshd.kill_children()

    def stop_sshd(self) -> None:
        """Nothing is heard any more, and nothing says so."""
        for pid in self.sshd.kill_children(signal.SIGSTOP):
            with contextlib.suppress(ProcessLookupError):
                self._stopped.append(os.pidfd_open(pid))

    def close(self) -> None:
        for handle in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)
        runtime().wait(self.machine.close())


@pytest.fixture
def far() -> Iterator[Far]:
    with Sshd() as sshd, Proxy(sshd.port) as proxy:
        far = Far(sshd, proxy)
        yield far
        far.close()


async def until_up(far: Far) -> None:
    while far.machine.link.state != "up":
        await far.machine.link_change(far.machine.link)


async def noticed(far: Far) -> None:
    """The last cut may not have been yet."""
    while far.machine.link.redials < far.cuts:
        await far.machine.link_change(far.machine.link)


@pytest.mark.parametrize("tty", ["none", "split"])
async def test_every_byte_comes_and_goes_once_however_often_the_link_is_cut(far, tty):
    expected = hashlib.sha256()
    lines = b"".join(b"line %09d\n" % number for number in range(SIZE // 15))
    expected.update(lines)
    stream = await far.terminal.create(command=f"seq -f 'line %09.0f' 0 {SIZE // 15 - 1}", tty=tty)
    seen, size = hashlib.sha256(), 0
    reasons: list[str] = []
    loop, all_there = asyncio.get_running_loop(), asyncio.Event()
    stream.on_disconnect(reasons.append, thread=True)

    def take(data: bytes) -> None:
        nonlocal size
        seen.update(data)
        size += len(data)
        if size > len(lines) * (far.cuts + 1) // (CUTS + 1):
            far.cut()
        if size >= len(lines):
            loop.call_soon_threadsafe(all_there.set)

    typing = asyncio.create_task(type_lines(await far.terminal.create(command="exec cat", tty="none")))
    taking = stream.on_output(take, thread=True)
    assert (await stream).code == 0
    await all_there.wait()
    await asyncio.to_thread(lambda: runtime().wait(noticed(far)))

    assert size == len(lines)
    assert seen.hexdigest() == expected.hexdigest()
    assert taking.errors == 0
    assert await typing == "".join(f"line {n}\n" for n in range(LINES)).encode()
    assert far.cuts == CUTS <= far.machine.link.redials  # a busy machine may be silent for too long by itself
    assert len(reasons) >= CUTS


async def type_lines(stream: Stream) -> bytes:
    """Type many lines into `cat` while links break, and return what it had of them."""
    for number in range(0, LINES, LINES_A_TIME):
        await stream.send_input("".join(f"line {n}\n" for n in range(number, number + LINES_A_TIME)))
    await stream.send_eof()
    assert (await stream).code == 0
    return b"".join([chunk.data async for chunk in stream.chunks("begin")])


async def test_a_start_that_is_cut_before_its_answer_runs_the_command_once(far, tmp_path):
    other = StdioMachine(far.machine.place)
    request = StartRequest("the-id", "once", script=f"echo once >> {tmp_path}/ran; read line")
    await on_io(far.machine.connect())
    await on_io(other.connect())

    async def start_and_cut() -> str:
        link = far.machine._link
        link._stdout.pause_reading()  # so that no answer gets here
        starting = asyncio.ensure_future(Steady(far.machine).start(request))
        while "the-id" not in [facts.id for facts, _ in await other.sessions()]:
            pass
        assert not starting.done()
        far.kill_ssh()
        return (await starting).id

    assert await on_io(start_and_cut()) == "the-id"
    assert [facts.id for facts, _ in await on_io(other.sessions())] == ["the-id"]
    stream = await Stream(far.machine).attach("the-id", "begin")
    await stream.send_input("\n")
    await stream
    assert (tmp_path / "ran").read_text() == "once\n"
    await on_io(other.close())


async def on_io(work):
    return await asyncio.wrap_future(runtime().submit(work))
