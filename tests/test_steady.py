"""Calls that are made again when the link breaks before their answer: each is done once, and answered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from reach import own_places

from cmdop_jupyter.errors import InvalidRequest, LinkLost, SessionNotFound
from cmdop_jupyter.machines.base import StartRequest, Status
from cmdop_jupyter.machines.presets import Place
from cmdop_jupyter.machines.stdio import StdioMachine
from cmdop_jupyter.runtime import runtime
from cmdop_jupyter.steady import Steady

COUNTER = """
count=0
trap 'count=$((count + 1)); echo "trapped $count"' USR1
echo ready
while :; do read line && echo "typed $line"; done
"""
LONG = 1024**3


class Far:
    """A machine over `sh -c`, and another one that reaches the same sessions and stays.

    Attributes:
        steady: What a stream makes of the first.
        other: The second; what is seen by it has happened.
    """

    def __init__(self, place: Place) -> None:
        self.machine, self.other = StdioMachine(place), StdioMachine(place)
        self.steady = Steady(self.machine)

    async def deafly(self, call: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Begin a call whose answer will not be heard."""
        await self.machine.connect()
        assert self.machine._link is not None
        self.machine._link._stdout.pause_reading()
        return asyncio.ensure_future(call)

    def cut(self) -> None:
        """Kill what the link runs over, and what it has said with it."""
        link = self.machine._link
        assert link is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(link._process.pid, signal.SIGKILL)
        link._stdout.close()

    async def answered(self, call: asyncio.Future[Any]) -> Any:
        """The answer to a deaf call, over the next link."""
        assert not call.done()
        redials = self.machine.link.redials
        self.cut()
        answer = await call
        assert self.machine.link.redials == redials + 1
        return answer

    async def start(self, script: str = COUNTER, *, tty: str = "split", **more: Any) -> str:
        facts = await self.other.start(StartRequest("the-id", "api", script=script, tty=tty, **more))
        await self.logged(b"ready\n")
        return facts.id

    async def log(self) -> bytes:
        """Everything that has been printed on stdout or by the terminal."""
        status = await self.other.status("the-id")
        found: list[Any] = []
        while not found or found[-1].end < status.end:
            found += await self.other.read("the-id", found[-1].end if found else 0, 100_000)
        return b"".join(chunk.data for chunk in found if chunk.channel == "stdout")

    async def logged(self, wanted: bytes, times: int = 1) -> None:
        """Wait until it has been printed."""
        end = 0
        while not end or (await self.log()).count(wanted) < times:
            end = (await self.other.read("the-id", end, 100_000))[-1].end

    async def until(self, *states: str) -> Status:
        status = await self.other.status("the-id")
        while status.state not in states:
            status = await self.other.status("the-id", status.seq)
        return status


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("shell")
    return ("env", own_places(folder)[2], "sh", "-c")


@pytest.fixture
def far(shell: tuple[str, ...], state_dir: Path) -> Iterator[Far]:
    far = Far(Place("far", "link", shell))
    yield far
    runtime().wait(closed(far))


async def closed(far: Far) -> None:
    await far.machine.close()
    await far.other.close()


def on_io_thread(test):
    """Let a test run where machines live."""

    def run(far: Far) -> None:
        runtime().wait(test(far), timeout=60)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@on_io_thread
async def test_a_signal_is_sent_once(far):
    session = await far.start()

    call = await far.deafly(far.steady.signal(session, "USR1"))
    await far.logged(b"trapped 1\n")
    assert await far.answered(call) is None
    await far.steady.signal(session, "USR1")
    await far.logged(b"trapped 2\n")

    assert b"trapped 3" not in await far.log()


SIZES = "echo ready; while read line; do stty size <&2; echo looked; done"


@on_io_thread
async def test_a_size_is_set_once(far):
    session = await far.start(SIZES)
    looks = 0

    async def size() -> bytes:
        nonlocal looks
        looks += 1
        await far.other.write(session, "them", looks - 1, b"\n")
        await far.logged(b"looked\n", times=looks)
        return (await far.log()).splitlines()[-2]

    call = await far.deafly(far.steady.resize(session, 77, 33))
    while await size() != b"33 77":
        pass
    await far.other.resize(session, 66, 22, "a later call")
    assert await far.answered(call) is None

    assert await size() == b"22 66"


@on_io_thread
async def test_a_limit_is_changed(far):
    session = await far.start()

    call = await far.deafly(far.steady.limit(session, LONG, "hold"))
    while (await far.other.status(session)).limit != LONG:
        pass

    assert await far.answered(call) is None
    status = await far.other.status(session)
    assert (status.limit, status.policy) == (LONG, "hold")


@pytest.mark.parametrize("tty", ["none", "split"])
def test_what_is_typed_is_typed_once(far, tty):
    async def test() -> None:
        session = await far.start(tty=tty)

        call = await far.deafly(far.steady.write(session, "me", 0, b"one\n"))
        await far.logged(b"typed one\n")
        assert await far.answered(call) == 4
        assert await far.steady.write(session, "me", 4, b"two\n") == 8
        await far.logged(b"typed two\n")

        assert (await far.log()).count(b"typed") == 2

    runtime().wait(test(), timeout=60)


@on_io_thread
async def test_a_stop_tells_what_it_took(far):
    session = await far.start()

    call = await far.deafly(far.steady.stop(session, "the-call", 5.0))
    ended = await far.until("ended")
    assert far.steady.stops == {session}
    report = await far.answered(call)

    assert report == ended.stopped
    assert report.took == "INT"
    assert far.steady.stops == set()


@on_io_thread
async def test_a_stop_that_was_never_heard_arrives_when_the_link_is_back(far):
    session = await far.start()
    await far.machine.connect()
    assert far.machine._link is not None
    far.cut()  # before it is noticed
    stopping = asyncio.ensure_future(far.steady.stop(session, "the-call", 5.0))
    await asyncio.sleep(0)
    assert far.steady.stops == {session}

    assert (await stopping).took == "INT"

    assert (await far.other.status(session)).state == "ended"


@on_io_thread
async def test_a_start_starts_once(far):
    request = StartRequest("the-id", "api", script="echo started; exec sleep 1000", tty="none")

    call = await far.deafly(far.steady.start(request))
    while not await far.other.sessions():
        pass
    await far.logged(b"started\n")
    facts = await far.answered(call)

    assert [one.id for one, _ in await far.other.sessions()] == [facts.id] == ["the-id"]


@on_io_thread
async def test_an_owner_stays_the_owner_over_the_next_link(far):
    session = await far.start(ephemeral=0.0, owner="me", script="echo ready; exec sleep 1000")
    await far.other.own(session, "me")

    await far.answered(await far.deafly(far.steady.own(session, "me")))
    await far.other.close()  # now there is one connection of the owner's, and it is the new link's
    far.other = StdioMachine(far.machine.place)

    status = await far.other.status(session)
    assert (status.state, status.stopping) == ("running", False)
    await far.machine.close()
    await far.until("ended")


READS = {
    "status": lambda steady, seq: steady.status("the-id"),
    "a status that is waited for": lambda steady, seq: steady.status("the-id", seq - 1),
    "sessions": lambda steady, seq: steady.sessions(),
    "find": lambda steady, seq: steady.find("api"),
    "read": lambda steady, seq: steady.read("the-id", 0, 6),
    "read_nowait": lambda steady, seq: steady.read_nowait("the-id", 0, 6),
    "tail": lambda steady, seq: steady.tail("the-id", 6),
}


@pytest.mark.parametrize("what", READS)
def test_what_is_only_asked_is_asked_again(far, what):
    async def test() -> None:
        session = await far.start("echo ready; exec sleep 1000", tty="none")
        seq = (await far.other.status(session)).seq
        expected = await READS[what](far.other, seq)

        call = await far.deafly(READS[what](far.steady, seq))
        await far.other.sessions()
        answer = await far.answered(call)

        assert alike(answer) == alike(expected)

    runtime().wait(test(), timeout=60)


def alike(answer: Any) -> Any:
    """An answer without the time at which it was given."""
    if isinstance(answer, Status):
        return (answer.state, answer.seq, answer.end, answer.newlines)
    if isinstance(answer, (tuple, list)):
        return [alike(one) for one in answer]
    if hasattr(answer, "status"):
        return (answer.chunks, answer.newlines_before, alike(answer.status))
    return answer


@on_io_thread
async def test_calls_that_wait_are_answered_however_often_the_link_breaks(far):
    session = await far.start("echo ready; read go; echo went; read x", tty="none")
    status = await far.other.status(session)
    await far.machine.connect()
    reading = asyncio.ensure_future(far.steady.read(session, status.end, 100))
    changing = asyncio.ensure_future(far.steady.status(session, status.seq))
    for redials in range(1, 4):
        far.cut()
        while far.machine.link.redials < redials or far.machine.link.state != "up":
            await far.machine.link_change(far.machine.link)
        assert not reading.done()
        assert not changing.done()

    await far.other.write(session, "them", 0, b"\n\n")

    assert [chunk.data for chunk in await reading] == [b"went\n"]
    assert (await changing).seq != status.seq


@on_io_thread
async def test_a_removal_is_not_made_again(far):
    session = await far.start("echo ready", tty="none")
    await far.until("ended")

    call = await far.deafly(far.steady.remove(session))
    while await far.other.sessions():
        pass
    far.cut()

    with pytest.raises(LinkLost):
        await call
    with pytest.raises(SessionNotFound):
        await far.steady.find(session)


@on_io_thread
async def test_what_is_refused_is_not_asked_again(far):
    session = await far.start()

    with pytest.raises(InvalidRequest, match="NOSUCH"):
        await far.steady.signal(session, "NOSUCH")

    assert far.machine.link.redials == 0


def test_steady_of_steady_is_one():
    machine = StdioMachine(Place("far", "link", ("sh", "-c")))
    steady = Steady(machine)

    assert Steady(steady).bare is machine
    assert (steady.name, steady.link) == ("far", machine.link)
