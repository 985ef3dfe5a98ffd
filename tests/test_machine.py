"""What `Machine` promises, asked of every kind of machine: one test a promise of `machines/base.py`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import select
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from reach import KINDS, Make, open_folder

from cmdop_jupyter.client import new_id
from cmdop_jupyter.errors import (
    InvalidRequest,
    LogDropped,
    NameInUse,
    SessionNotFound,
    SessionOver,
    StartFailed,
)
from cmdop_jupyter.machines.base import Exit, InputWait, Machine, SessionFacts, StartRequest, Status, StopReport

pytestmark = pytest.mark.asyncio(loop_scope="module")
NUMBERS = itertools.count(1)
WAIT_FOR_A_LINE = "read line"  # the command does nothing until something is typed


@pytest.fixture(scope="module", params=KINDS)
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes machines of one kind, all of which reach the same sessions."""
    with KINDS[request.param]() as make:
        yield make


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_machine(make: Make) -> AsyncIterator[Machine]:
    machine = make()
    yield machine
    await machine.close()


@pytest_asyncio.fixture(loop_scope="module")
async def machine(one_machine: Machine) -> AsyncIterator[Machine]:
    """A machine without sessions. To reach one takes longer than most of these tests, so they share it."""
    yield one_machine
    for facts, status in await one_machine.sessions():
        if status.state != "ended":
            await one_machine.stop(facts.id, f"clean-{facts.id}", 0.0)
        await one_machine.remove(facts.id)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where whoever the machine's sessions belong to may write."""
    with open_folder() as path:
        yield path


async def start(machine: Machine, script: str, **more: Any) -> SessionFacts:
    return await machine.start(asked(script, **more))


def asked(script: str, **more: Any) -> StartRequest:
    """With an id of its own: another process may run these tests on another kind of machine, and has ids too."""
    return StartRequest(**{"id": new_id(), "name": f"name-{next(NUMBERS)}", "script": script, **more})


async def until(machine: Machine, session_id: str, *states: str) -> Status:
    status = await machine.status(session_id)
    while status.state not in states:
        status = await machine.status(session_id, status.seq)
    return status


async def read_all(machine: Machine, session_id: str, start: int = 0) -> bytes:
    pieces = []
    while chunks := await machine.read(session_id, start, 50_000):
        pieces += [chunk.data for chunk in chunks]
        start = chunks[-1].end
    return b"".join(pieces)


async def read_until(machine: Machine, session_id: str, wanted: bytes) -> bytes:
    data = b""
    while wanted not in data:
        chunks = await machine.read(session_id, len(data), 100_000)
        assert chunks, f"it ended with {data[-200:]!r}"
        data += b"".join(chunk.data for chunk in chunks)
    return data


async def is_waiting(call: asyncio.Task[Any], machine: Machine, session_id: str) -> bool:
    """Whether `call` has no answer, though the machine has answered others that were asked after it."""
    for _ in range(3):
        await machine.status(session_id)
    return not call.done()


async def lose(machine: Machine, session_id: str) -> None:
    """Kill the supervisor of a session, and return when it is gone."""
    kill_supervisor(session_id)
    await until(machine, session_id, "lost")


def kill_supervisor(session_id: str) -> None:
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"/sessions/{session_id}\0" in (place / "cmdline").read_text():
                os.kill(int(place.name), signal.SIGKILL)


# -- start


async def test_a_session_runs_the_script_it_was_given(machine):
    facts = await start(machine, "# adds\necho $PWD $((6 * 7))\n", name="sum", cwd="/")

    assert await read_all(machine, facts.id) == b"/ 42\n"
    assert (facts.name, facts.kind, facts.title, facts.cwd) == ("sum", "command", "echo $PWD $((6 * 7))", "/")


async def test_the_environment_is_handed_over(machine):
    facts = await start(machine, 'echo "$FIRST $SECOND"', env={"FIRST": "a b", "SECOND": "$HOME"})

    assert await read_all(machine, facts.id) == b"a b $HOME\n"


async def test_starting_twice_with_one_id_starts_one_session(machine, folder):
    request = asked(f"echo once >> {folder}/ran; {WAIT_FOR_A_LINE}")

    first = await machine.start(request)
    second = await machine.start(request)

    assert second == first
    assert [facts.id for facts, _ in await machine.sessions()] == [first.id]
    await machine.write(first.id, "me", 0, b"\n")
    await until(machine, first.id, "ended")
    assert (folder / "ran").read_text() == "once\n"


async def test_starting_twice_at_the_same_time_starts_one_session(machine, folder):
    request = asked(f"echo once >> {folder}/ran")

    first, second = await asyncio.gather(machine.start(request), machine.start(request))

    assert second.id == first.id
    await until(machine, first.id, "ended")
    assert (folder / "ran").read_text() == "once\n"


async def test_a_name_that_is_in_use_is_refused(machine):
    first = await start(machine, WAIT_FOR_A_LINE, name="api")

    with pytest.raises(NameInUse) as raised:
        await start(machine, "true", name="api")

    assert raised.value.session_id == first.id
    assert len(await machine.sessions()) == 1


async def test_a_free_name_is_made_when_it_is_allowed(machine):
    await start(machine, WAIT_FOR_A_LINE, name="api")

    second = await start(machine, WAIT_FOR_A_LINE, name="api", free_name=True)
    third = await start(machine, "true", name="api", free_name=True)

    assert [second.name, third.name] == ["api-2", "api-3"]


async def test_the_name_of_an_ended_session_is_free(machine):
    first = await start(machine, "true", name="api")
    await until(machine, first.id, "ended")

    second = await start(machine, "true", name="api")

    assert second.name == "api"


@pytest.mark.parametrize(
    "wrong", [{"name": "-x"}, {"name": "a b"}, {"id": "../up"}, {"tty": "round"}, {"max_log": 1}, {"env": {"A=B": "c"}}]
)
async def test_what_makes_no_sense_is_refused_and_nothing_is_started(machine, wrong):
    with pytest.raises(InvalidRequest):
        await start(machine, "true", **wrong)

    assert await machine.sessions() == []


@pytest.mark.parametrize("wrong", [{"cwd": "/nowhere/at/all"}, {"script": None, "argv": ["/no/such/program"]}])
async def test_what_cannot_be_started_is_told_and_leaves_nothing(machine, wrong):
    with pytest.raises(StartFailed):
        await start(machine, **{"script": "true", **wrong})

    assert await machine.sessions() == []


# -- sessions, find


async def test_sessions_come_oldest_first_with_their_status(machine):
    first = await start(machine, "exit 3")
    second = await start(machine, WAIT_FOR_A_LINE)
    await until(machine, first.id, "ended")

    (one, ended), (other, running) = await machine.sessions()

    assert (one.id, ended.state, ended.exit) == (first.id, "ended", Exit(3))
    assert (other, running.state, running.exit) == (second, "running", None)


async def test_a_session_is_found_by_its_id(machine):
    facts = await start(machine, "true")

    assert await machine.find(facts.id) == facts


async def test_by_name_the_live_session_is_found_first(machine):
    ended = await start(machine, "true", name="api")
    await until(machine, ended.id, "ended")
    live = await start(machine, WAIT_FOR_A_LINE, name="api")

    assert await machine.find("api") == live


async def test_by_name_the_newest_ended_session_is_found(machine):
    for _ in range(2):
        newest = await start(machine, "true", name="api")
        await until(machine, newest.id, "ended")

    assert await machine.find("api") == newest


async def test_a_session_that_is_not_there_is_told_with_what_looks_like_it(machine):
    await start(machine, "true", name="server")

    with pytest.raises(SessionNotFound, match="did you mean server"):
        await machine.find("sever")


# -- status


async def test_status_waits_until_it_is_another(machine):
    facts = await start(machine, f"{WAIT_FOR_A_LINE}; exit 4")
    running = await until(machine, facts.id, "running")

    change = asyncio.create_task(machine.status(facts.id, running.seq))
    assert await is_waiting(change, machine, facts.id)
    await machine.write(facts.id, "me", 0, b"\n")

    assert (await change).seq != running.seq
    assert (await until(machine, facts.id, "ended")).exit == Exit(4)


async def test_what_is_logged_after_a_status_has_a_later_time(machine):
    facts = await start(machine, f"while {WAIT_FOR_A_LINE}; do echo $line; done")
    typed = 0
    for _ in range(5):
        status = await machine.status(facts.id)
        typed = await machine.write(facts.id, "me", typed, b"hello\n")

        chunks = await machine.read(facts.id, status.end, 1000)

        # Reads of one channel less than 50 ms apart share the time of the first.
        assert chunks[0].mono_ms > status.clock_ms - 50


async def test_an_exit_by_signal_is_told_apart_from_one_by_code(machine):
    killed, left = await start(machine, "kill -TERM $$"), await start(machine, "exit 143")

    assert (await until(machine, killed.id, "ended")).exit == Exit(None, "TERM")
    assert (await until(machine, left.id, "ended")).exit == Exit(143)


async def test_a_session_that_nobody_knows_has_no_status(machine):
    with pytest.raises(SessionNotFound):
        await machine.status("never-started")


async def test_output_held_by_a_child_keeps_the_session_from_ending(machine):
    facts = await start(machine, "sleep 1000 & exit 0", tty="none")

    status = await until(machine, facts.id, "exited")
    while not status.held_by:
        status = await machine.status(facts.id, status.seq)

    assert status.exit == Exit(0)
    assert status.live
    assert status.over
    assert [name.partition("[")[0] for name in status.held_by] == ["sleep"]


async def test_a_session_without_its_supervisor_is_lost_and_keeps_its_log(machine):
    facts = await start(machine, f"echo before; {WAIT_FOR_A_LINE}")
    await read_until(machine, facts.id, b"before\n")

    await lose(machine, facts.id)

    status = await machine.status(facts.id)
    assert (status.state, status.end, status.newlines) == ("lost", 7, 1)
    assert await read_all(machine, facts.id) == b"before\n"


# -- read


async def test_read_gives_what_there_is_from_the_offset_on_and_nothing_at_the_end(machine):
    facts = await start(machine, "printf 0123456789")
    await until(machine, facts.id, "ended")

    chunks = await machine.read(facts.id, 4, 3)

    assert b"".join(chunk.data for chunk in chunks) == b"456"
    assert chunks[0].offset == 4
    assert await machine.read(facts.id, 10, 100) == []


async def test_read_waits_while_there_is_nothing_new(machine):
    facts = await start(machine, f"echo first; {WAIT_FOR_A_LINE}; echo second", tty="none")
    first = await read_until(machine, facts.id, b"first\n")

    read = asyncio.create_task(machine.read(facts.id, len(first), 100))
    assert await is_waiting(read, machine, facts.id)
    await machine.write(facts.id, "me", 0, b"\n")

    assert (await read)[0].data == b"second\n"


async def test_a_read_that_was_cancelled_lost_nothing(machine):
    facts = await start(machine, f"{WAIT_FOR_A_LINE}; echo after", tty="none")
    for _ in range(3):
        read = asyncio.create_task(machine.read(facts.id, 0, 100))
        assert await is_waiting(read, machine, facts.id)
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
    await machine.write(facts.id, "me", 0, b"\n")

    assert await read_all(machine, facts.id) == b"after\n"


async def test_many_may_read_at_once_each_from_its_own_place(machine):
    facts = await start(machine, f"{WAIT_FOR_A_LINE}; seq 1000", tty="none")
    readers = [asyncio.create_task(read_all(machine, facts.id)) for _ in range(10)]
    await machine.write(facts.id, "me", 0, b"\n")

    wanted = "".join(f"{number}\n" for number in range(1, 1001)).encode()
    assert await asyncio.gather(*readers) == [wanted] * 10


async def test_channels_are_told_apart(machine):
    facts = await start(machine, "echo out; echo err >&2", tty="none")
    await until(machine, facts.id, "ended")

    chunks = await machine.read(facts.id, 0, 100)

    assert {(chunk.channel, chunk.data) for chunk in chunks} == {("stdout", b"out\n"), ("stderr", b"err\n")}


async def test_read_says_what_was_dropped_and_where_the_log_goes_on(machine):
    facts = await start(machine, "seq 100000", max_log=64 * 1024)
    status = await until(machine, facts.id, "ended")
    whole = "".join(f"{number}\n" for number in range(1, 100_001)).encode()

    with pytest.raises(LogDropped) as raised:
        await machine.read(facts.id, status.dropped[0], 100)

    first = raised.value.first
    assert (raised.value.offset, first) == status.dropped
    assert await read_all(machine, facts.id, first) == whole[first:]


async def test_read_nowait_gives_nothing_when_nothing_is_there(machine):
    facts = await start(machine, f"echo first; {WAIT_FOR_A_LINE}", tty="none")
    await read_until(machine, facts.id, b"first\n")

    assert [chunk.data for chunk in await machine.read_nowait(facts.id, 0, 100)] == [b"first\n"]
    assert await machine.read_nowait(facts.id, 6, 100) == []
    assert await machine.read_nowait(facts.id, 1000, 100) == []


# -- tail


async def test_tail_gives_the_newest_and_counts_the_newlines_before_it(machine):
    facts = await start(machine, "seq 1000")
    await until(machine, facts.id, "ended")
    whole = "".join(f"{number}\n" for number in range(1, 1001)).encode()

    tail = await machine.tail(facts.id, 103)

    assert b"".join(chunk.data for chunk in tail.chunks) == whole[-103:]
    assert tail.newlines_before == whole[:-103].count(b"\n")
    assert (tail.status.state, tail.status.newlines) == ("ended", 1000)


async def test_tail_gives_what_there_is_when_that_is_less(machine):
    facts = await start(machine, "echo little")
    await until(machine, facts.id, "ended")

    tail = await machine.tail(facts.id, 1_000_000)

    assert [chunk.data for chunk in tail.chunks] == [b"little\n"]
    assert tail.newlines_before == 0


async def test_tail_of_a_log_without_a_byte_is_empty(machine):
    facts = await start(machine, "true")
    await until(machine, facts.id, "ended")

    tail = await machine.tail(facts.id, 100)

    assert (tail.chunks, tail.newlines_before) == ([], 0)


async def test_tail_never_reaches_across_the_part_that_was_dropped(machine):
    facts = await start(machine, "seq 20000", max_log=64 * 1024)
    status = await until(machine, facts.id, "ended")
    whole = "".join(f"{number}\n" for number in range(1, 20_001)).encode()
    first = status.dropped[1]

    tail = await machine.tail(facts.id, 1_000_000)

    assert b"".join(chunk.data for chunk in tail.chunks) == whole[first:]
    assert tail.newlines_before == whole[:first].count(b"\n")


# -- write


async def test_what_is_written_is_typed_once_however_often_it_is_sent(machine):
    facts = await start(machine, "cat; exec sleep 1000", tty="none")
    assert await machine.write(facts.id, "me", 0, b"one\n") == 4
    assert await machine.write(facts.id, "me", 0, b"one\n") == 4
    assert await machine.write(facts.id, "me", 2, b"e\ntwo\n") == 8
    assert await machine.write(facts.id, "other", 0, b"three\n") == 6
    assert await machine.write(facts.id, "me", 8, b"", eof=True) == 8
    assert await machine.write(facts.id, "me", 8, b"", eof=True) == 8

    assert await read_until(machine, facts.id, b"three\n") == b"one\ntwo\nthree\n"


async def test_a_write_waits_while_the_command_does_not_read(machine, folder):
    os.mkfifo(folder / "go")
    facts = await start(machine, f"read line < {folder}/go; exec wc -c", tty="none")
    typed, piece = 0, bytes(32 * 1024)
    write = asyncio.create_task(machine.write(facts.id, "me", typed, piece))
    while not await is_waiting(write, machine, facts.id):
        typed = await write
        write = asyncio.create_task(machine.write(facts.id, "me", typed, piece))

    (folder / "go").write_text("\n")

    typed = await write
    await machine.write(facts.id, "me", typed, b"", eof=True)
    assert int(await read_all(machine, facts.id)) == typed


@pytest.mark.parametrize("tty", ["split", "full", "none"])
async def test_the_input_can_be_ended(machine, tty):
    facts = await start(machine, "stty -echo 2> /dev/null; cat > /dev/null; echo over", tty=tty)

    await machine.write(facts.id, "me", 0, b"some\n", eof=True)

    assert b"over" in await read_until(machine, facts.id, b"over")
    assert (await until(machine, facts.id, "ended")).exit == Exit(0)


async def test_input_for_a_command_that_is_over_is_refused(machine):
    facts = await start(machine, "true", name="quick")
    await until(machine, facts.id, "ended")

    with pytest.raises(SessionOver, match="quick is ended"):
        await machine.write(facts.id, "me", 0, b"late\n")


async def test_input_for_a_command_without_one_is_refused(machine):
    facts = await start(machine, "exec sleep 1000", input=False)

    with pytest.raises(SessionOver, match="without input"):
        await machine.write(facts.id, "me", 0, b"hello\n")


# -- waits_for_input


async def input_wait(machine: Machine, session_id: str) -> InputWait:
    """How it waits for input, once it does and what it asked is in the log."""
    while not ((wait := await machine.waits_for_input(session_id)).reading and wait.end):
        assert not (await machine.status(session_id)).over
    return wait


async def test_who_waits_for_a_line_is_seen_and_how_far_the_log_was(machine):
    facts = await start(machine, "read -p 'name: ' line", shell="bash")

    assert await input_wait(machine, facts.id) == InputWait("read", True, True, True, end=len("name: "))


async def test_who_waits_for_a_secret_has_switched_the_echo_off(machine):
    facts = await start(machine, "read -s -p 'word: ' line", shell="bash")

    assert not (await input_wait(machine, facts.id)).echo


async def test_who_does_not_read_does_not_wait_for_input(machine):
    facts = await start(machine, "printf 'name: '; sleep 1000")
    await read_until(machine, facts.id, b"name: ")

    assert {(await machine.waits_for_input(facts.id)).reading for _ in range(5)} == {""}


async def test_asking_who_waits_for_input_changes_nothing(machine):
    facts = await start(machine, "read -p 'name: ' line; echo got $line", shell="bash")
    first = await input_wait(machine, facts.id)

    assert await machine.waits_for_input(facts.id) == first
    await machine.write(facts.id, "me", 0, b"ada\n")
    assert (await read_all(machine, facts.id)).endswith(b"got ada\n")


async def test_nobody_waits_for_input_in_a_session_that_has_ended(machine):
    facts = await start(machine, "echo done")
    await until(machine, facts.id, "ended")

    wait = await machine.waits_for_input(facts.id)

    assert (wait.reading, wait.end) == ("", len("done\n"))


# -- resize, signal


async def test_the_size_of_a_terminal_can_be_set(machine):
    facts = await start(machine, f"stty size; {WAIT_FOR_A_LINE}; stty size", tty="full")
    await read_until(machine, facts.id, b"40 120")

    await machine.resize(facts.id, 100, 30)
    await machine.write(facts.id, "me", 0, b"\n")

    assert b"30 100" in await read_all(machine, facts.id)


@pytest.mark.parametrize("tty", ["split", "none"])
async def test_a_signal_reaches_the_command(machine, tty):
    script = "trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.05; done"
    facts = await start(machine, script, tty=tty)
    await read_until(machine, facts.id, b"ready\n")

    await machine.signal(facts.id, "USR1")

    assert b"caught" in await read_until(machine, facts.id, b"caught")
    assert (await until(machine, facts.id, "ended")).exit == Exit(5)


async def test_a_signal_that_does_not_exist_is_refused(machine):
    facts = await start(machine, WAIT_FOR_A_LINE)

    with pytest.raises(InvalidRequest):
        await machine.signal(facts.id, "NONSENSE")


# -- stop


async def test_stop_ends_the_command_and_tells_what_it_took(machine):
    facts = await start(machine, "exec sleep 1000")

    report = await machine.stop(facts.id, "call-1", 2.0)

    assert report.took == "INT"
    (ended,) = report.ended
    assert ended.partition("[")[0] in ("sleep", "bash", "sh")  # the shell is not yet another program at once
    assert report.left == ()
    status = await machine.status(facts.id)
    assert (status.state, status.exit, status.stopped) == ("ended", Exit(None, "INT"), report)


async def test_stop_ends_all_that_the_command_started(machine):
    facts = await start(machine, "setsid sleep 1000 & echo started; exit 0")
    await until(machine, facts.id, "exited")

    report = await machine.stop(facts.id, "call-1", 0.1)

    assert (report.took, report.left) == ("TERM", ())  # what a shell puts into the background ignores INT
    assert len(report.ended) == 1
    assert (await machine.status(facts.id)).exit == Exit(0)


async def test_stop_goes_on_to_kill(machine):
    facts = await start(machine, "trap '' INT TERM; echo ready; while :; do sleep 0.05; done")
    await read_until(machine, facts.id, b"ready\n")

    report = await machine.stop(facts.id, "call-1", 0.1)

    assert report.took == "KILL"
    assert (await machine.status(facts.id)).exit == Exit(None, "KILL")


async def test_stop_repeated_with_the_same_call_is_done_once(machine, folder):
    script = f"trap 'echo stopped >> {folder}/stops' INT; echo ready; while :; do sleep 0.05; done"
    facts = await start(machine, script)
    await read_until(machine, facts.id, b"ready\n")

    first, second = await asyncio.gather(machine.stop(facts.id, "call-1", 0.3), machine.stop(facts.id, "call-1", 0.3))

    assert first == second
    assert (folder / "stops").read_text() == "stopped\n"


async def test_stopping_what_has_ended_says_that_nothing_was_left(machine):
    facts = await start(machine, "true")
    await until(machine, facts.id, "ended")

    assert await machine.stop(facts.id, "call-1", 2.0) == StopReport("", 0.0)


async def test_the_command_of_a_lost_session_can_be_stopped(machine):
    facts = await start(machine, "echo $$; exec sleep 1000", tty="none")
    pid = int(await read_until(machine, facts.id, b"\n"))
    handle = os.pidfd_open(pid)
    await lose(machine, facts.id)

    report = await machine.stop(facts.id, "call-1", 2.0)

    gone, _, _ = select.select([handle], [], [], 10)
    os.close(handle)
    assert gone
    assert report.took == "INT"
    assert [name.partition("[")[2] for name in report.ended] == [f"{pid}]"]


# -- limit, own, remove, close


async def test_a_full_log_holds_the_command_until_its_limit_is_raised(machine):
    facts = await start(machine, "seq 1000000; echo done", max_log=64 * 1024, log_policy="hold", tty="none")
    held = await until(machine, facts.id, "held")
    assert held.end == 64 * 1024
    assert "full" in held.held

    await machine.limit(facts.id, 10_000_000)

    assert (await until(machine, facts.id, "ended")).exit == Exit(0)
    assert (await read_all(machine, facts.id)).endswith(b"1000000\ndone\n")


async def test_an_ephemeral_session_ends_when_its_owner_has_gone(machine, make):
    other = make()
    await other.connect()
    facts = await start(machine, "exec sleep 1000", ephemeral=0.5, owner="me")
    await other.own(facts.id, "me")
    running = await machine.status(facts.id)
    assert running.state == "running"

    await other.close()

    assert (await until(machine, facts.id, "ended")).stopped is not None


async def test_a_session_is_removed_with_its_log_once_it_has_ended(machine):
    facts = await start(machine, f"echo some; {WAIT_FOR_A_LINE}")
    await read_until(machine, facts.id, b"some\n")
    with pytest.raises(InvalidRequest, match="stop it first"):
        await machine.remove(facts.id)
    await machine.write(facts.id, "me", 0, b"\n")
    await until(machine, facts.id, "ended")

    await machine.remove(facts.id)

    assert await machine.sessions() == []
    assert not Path(facts.log).exists()  # noqa: ASYNC240
    with pytest.raises(SessionNotFound):
        await machine.read(facts.id, 0, 100)


async def test_closing_ends_no_session(machine, make):
    other = make()
    facts = await start(other, f"{WAIT_FOR_A_LINE}; echo still here", tty="none")
    await other.close()

    await machine.write(facts.id, "me", 0, b"\n")

    assert await read_all(machine, facts.id) == b"still here\n"
