"""Calls that are made again when the link breaks before their answer: each is done once, and answered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from reach import own_places

from cmdop_jupyter.client import new_id
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
        self.session = ""

    async def deafly(self, call: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Begin a call whose answer will not be heard."""
        await self.up()
        self.machine._link._stdout.pause_reading()
        return asyncio.ensure_future(call)

    async def up(self) -> None:
        await self.machine.connect()
        assert self.machine._link is not None

    def cut(self) -> None:
        """Kill what the link runs over, and what it has said with it."""
        link = self.machine._link
        assert link is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(link._process.pid, signal.SIGKILL)
        link._ended()

    async def answered(self, call: asyncio.Future[Any]) -> Any:
        """The answer to a deaf call, over the next link."""
        assert not call.done()
        redials = self.machine.link.redials
        self.cut()
        answer = await call
        assert self.machine.link.redials == redials + 1
        return answer

    async def start(self, script: str = COUNTER, *, tty: str = "split", **more: Any) -> str:
        """Start a session that says when it is ready."""
        await self.other.start(self.request(script, tty=tty, **more))
        await self.logged(b"ready\n")
        return self.session

    def request(self, script: str, **more: Any) -> StartRequest:
        self.session = new_id()
        return StartRequest(self.session, f"name-{self.session}", script=script, **more)

    async def log(self) -> bytes:
        """Everything that has been printed on stdout or by the terminal."""
        status = await self.other.status(self.session)
        found: list[Any] = []
        while not found or found[-1].end < status.end:
            found += await self.other.read(self.session, found[-1].end if found else 0, 100_000)
        return b"".join(chunk.data for chunk in found if chunk.channel == "stdout")

    async def logged(self, wanted: bytes, times: int = 1) -> None:
        """Wait until it has been printed."""
        end = 0
        while not end or (await self.log()).count(wanted) < times:
            end = (await self.other.read(self.session, end, 100_000))[-1].end

    async def until(self, *states: str) -> Status:
        status = await self.other.status(self.session)
        while status.state not in states:
            status = await self.other.status(self.session, status.seq)
        return status

    async def clean(self) -> None:
        for facts, status in await self.other.sessions():
            if status.state != "ended":
                await self.other.stop(facts.id, f"clean {facts.id}", 0.0)
            await self.other.remove(facts.id)

    async def close(self) -> None:
        await self.machine.close()
        await self.other.close()


@pytest.fixture(scope="module")
def one_far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    # what is dialled in one test serves the next: it must not carry the mark by which a test's processes are ended
    words = ("env", "-u", "CMDOP_TEST", *own_places(tmp_path_factory.mktemp("far"))[1:], "sh", "-c")
    far = Far(Place("far", "link", words))
    yield far
    runtime().wait(far.close())


@pytest.fixture
def far(one_far: Far) -> Iterator[Far]:
    yield one_far
    runtime().wait(one_far.clean())


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
    await far.up()
    far.cut()  # before it is noticed
    stopping = asyncio.ensure_future(far.steady.stop(session, "the-call", 5.0))
    await asyncio.sleep(0)
    assert far.steady.stops == {session}

    assert (await stopping).took == "INT"

    assert (await far.other.status(session)).state == "ended"


@on_io_thread
async def test_a_start_starts_once(far):
    request = far.request("echo started; exec sleep 1000", tty="none")

    call = await far.deafly(far.steady.start(request))
    while not await far.other.sessions():
        pass
    await far.logged(b"started\n")
    facts = await far.answered(call)

    assert [one.id for one, _ in await far.other.sessions()] == [facts.id] == [request.id]


@on_io_thread
async def test_an_owner_stays_the_owner_over_the_next_link(far):
    mine = Far(far.machine.place)
    far.session = await mine.start("echo ready; exec sleep 1000", ephemeral=1.0, owner="me")
    await mine.other.own(far.session, "me")

    await mine.answered(await mine.deafly(mine.steady.own(far.session, "me")))
    await mine.other.close()  # from here on there is one connection of the owner's, that of the new link
    alone_since = (await far.other.status(far.session)).clock_ms
    while (status := await far.other.status(far.session)).clock_ms < alone_since + 1500:
        pass

    assert (status.state, status.stopping) == ("running", False)
    await mine.close()
    await far.until("ended")


READS = {
    "status": lambda steady, session, seq: steady.status(session),
    "a status that is waited for": lambda steady, session, seq: steady.status(session, seq - 1),
    "sessions": lambda steady, session, seq: steady.sessions(),
    "find": lambda steady, session, seq: steady.find(session),
    "read": lambda steady, session, seq: steady.read(session, 0, 6),
    "read_nowait": lambda steady, session, seq: steady.read_nowait(session, 0, 6),
    "tail": lambda steady, session, seq: steady.tail(session, 6),
}


@pytest.mark.parametrize("what", READS)
def test_what_is_only_asked_is_asked_again(far, what):
    async def test() -> None:
        session = await far.start("echo ready; exec sleep 1000", tty="none")
        seq = (await far.other.status(session)).seq
        expected = await READS[what](far.other, session, seq)

        call = await far.deafly(READS[what](far.steady, session, seq))
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
    await far.up()
    begun = far.machine.link.redials
    reading = asyncio.ensure_future(far.steady.read(session, status.end, 100))
    changing = asyncio.ensure_future(far.steady.status(session, status.seq))
    for redials in range(begun + 1, begun + 4):
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
    await far.up()
    redials = far.machine.link.redials

    with pytest.raises(InvalidRequest, match="NOSUCH"):
        await far.steady.signal(session, "NOSUCH")

    assert far.machine.link.redials == redials


def test_steady_of_steady_is_one():
    machine = StdioMachine(Place("far", "link", ("sh", "-c")))
    steady = Steady(machine)

    assert Steady(steady).bare is machine
    assert (steady.name, steady.link) == ("far", machine.link)
