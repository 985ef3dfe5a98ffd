"""Commands that are executed: what they say comes exactly, and those that take too long, or that nobody wants, end."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pickle
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import configured
from live import live_terminal
from proxy import Proxy
from reach import ssh_to
from sshd import Sshd

from cmdop_jupyter import execution
from cmdop_jupyter.client import AsyncCMDOPClient, Terminal
from cmdop_jupyter.errors import CommandFailed, CommandTimeout, ConnectFailed, InvalidRequest, StartFailed, TooMuch
from cmdop_jupyter.execution import OutputTooLarge
from cmdop_jupyter.machines.base import Exit
from cmdop_jupyter.machines.presets import Place
from cmdop_jupyter.machines.stdio import StdioMachine
from cmdop_jupyter.runtime import runtime

MEGABYTES = 32
# To both channels at once, each from a generator that its reader can run again.
WRITER = f"""
import os, random, threading
def write(fd, seed):
    pieces = random.Random(seed)
    for _ in range({MEGABYTES}):
        data = pieces.randbytes(1_000_000)
        while data:
            data = data[os.write(fd, data):]
threads = [threading.Thread(target=write, args=(fd, fd)) for fd in (1, 2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
os._exit(7)
"""
INTERRUPTED = """
import asyncio, sys
from cmdop_jupyter.blocking import CMDOPClient
from cmdop_jupyter.client import AsyncCMDOPClient
command = sys.argv[2]
if sys.argv[1] == "blocking":
    CMDOPClient.local().terminal.execute(command)
else:
    async def main():
        await AsyncCMDOPClient.local().terminal.execute(command)
    asyncio.run(main())
"""


@pytest.fixture
def terminal(state_dir) -> Iterator[Terminal]:
    with live_terminal() as terminal:
        yield terminal


class Far:
    """A machine behind sshd and a proxy."""

    def __init__(self, sshd: Sshd, proxy: Proxy) -> None:
        command = ssh_to(sshd, Port=proxy.port, HostKeyAlias=f"[{sshd.host}]:{sshd.port}")
        self.proxy, self.machine = proxy, StdioMachine(Place("far", "ssh", command, silence=1.0))
        self.terminal = Terminal(self.machine)


@pytest.fixture
def far() -> Iterator[Far]:
    with Sshd() as sshd, Proxy(sshd.port) as proxy:
        far = Far(sshd, proxy)
        yield far
        runtime().wait(far.machine.close())


def holding(path: Path) -> str:
    """A script that holds the pipe at `path`, as its children do, until all are gone; it waits for a reader first."""
    os.mkfifo(path)
    return f"exec 9> {path}; sleep 1000 & setsid sleep 1000 & echo up; wait"


# -- what it gives


async def test_what_a_command_says_and_how_it_ends_are_given_exactly(terminal):
    done = await terminal.execute("printf 'a\\r\\n\\377\\0'; printf b >&2; exit 3")

    assert done == (b"a\r\n\xff\x00", b"b", Exit(3))
    assert (done.stdout, done.stderr, done.exit) == done
    assert (done.code, done.ok) == (3, False)
    assert (await terminal.execute("true")).ok


async def test_it_runs_where_and_by_what_it_is_told(terminal, tmp_path):
    script = "import os; print(os.getcwd(), os.environ['COLOUR'])"

    done = await terminal.execute(script, shell=sys.executable, cwd=str(tmp_path), env={"COLOUR": "red"})

    assert done.stdout == f"{tmp_path} red\n".encode()


async def test_it_has_no_terminal_and_nothing_to_read(terminal):
    assert (await terminal.execute("cat; test -t 1 || test -t 2 || test -t 0 || echo none")).stdout == b"none\n"


async def test_a_command_that_a_signal_ends_says_so(terminal):
    done = await terminal.execute("kill -KILL $$")

    assert (done.exit, done.code, done.ok) == (Exit(None, "KILL"), None, False)


async def test_all_that_a_fast_writer_says_until_its_exit_is_there(terminal):
    done = await terminal.execute(WRITER, shell=sys.executable)

    assert done.exit == Exit(7)
    for fd, said in ((1, done.stdout), (2, done.stderr)):
        pieces, expected = random.Random(fd), hashlib.sha256()
        for _ in range(MEGABYTES):
            expected.update(pieces.randbytes(1_000_000))
        assert hashlib.sha256(said).hexdigest() == expected.hexdigest()


async def test_the_last_words_in_front_of_an_exit_are_never_missed(terminal):
    writer = f"{sys.executable} -c \"import os; os.write(1, b'x' * 60000); os.write(2, b'y' * 60000); os._exit(0)\""
    for _ in range(20):
        done = await terminal.execute(f"exec {writer}")
        assert (len(done.stdout), len(done.stderr)) == (60_000, 60_000)


async def test_it_is_over_when_the_command_exits_whoever_still_holds_its_output(terminal):
    done = await terminal.execute("sleep 1000 & echo $!")

    assert done.stdout.strip().isdigit()
    os.kill(int(done.stdout), signal.SIGKILL)


async def test_many_may_run_at_once(terminal):
    done = await asyncio.gather(*(terminal.execute(f"echo {number}") for number in range(20)))

    assert [int(one.stdout) for one in done] == list(range(20))


async def test_its_session_is_gone_once_all_was_given(terminal):
    await terminal.execute("echo hello")

    while await terminal.list_sessions():  # soon, where the machine is too busy for at once
        pass


async def test_a_session_whose_background_says_more_is_kept(terminal):
    done = await terminal.execute(f"{{ read go < {'/dev/null'}; sleep 0.5; echo later; }} & echo now")
    (session,) = await terminal.list_sessions()
    stream = await terminal.stream().attach(session.session_id, "begin")
    await stream.wait_for("later")
    assert [chunk async for chunk in stream.chunks(stream.status.end)] == []

    assert done.stdout == b"now\n"
    assert await terminal.get_output(session.session_id) == b"now\nlater\n"


async def test_more_output_than_is_given_in_one_piece_stays_in_its_session(terminal, monkeypatch):
    monkeypatch.setattr(execution, "LIMIT", 1_000_000)

    with pytest.raises(TooMuch) as much:
        await terminal.execute("seq 300000")

    (session,) = await terminal.list_sessions()
    assert much.value.session == session.name
    assert f"get_output({session.name!r}" in str(much.value)
    assert (await terminal.get_output(session.name)).endswith(b"\n300000\n")
    again = pickle.loads(pickle.dumps(much.value))
    assert (type(again), str(again)) == (OutputTooLarge, str(much.value))


# -- what it refuses


async def test_what_makes_no_sense_starts_nothing(terminal):
    with pytest.raises(InvalidRequest, match=r"shlex\.join"):
        await terminal.execute(["ls", "-l"])
    for timeout in (-1, "soon"):
        with pytest.raises(InvalidRequest, match="timeout is a number of seconds"):
            await terminal.execute("true", timeout=timeout)
    with pytest.raises(StartFailed):
        await terminal.execute("true", cwd="/nowhere/at/all")
    assert await terminal.list_sessions() == []


async def test_a_machine_that_cannot_be_reached_is_told_at_its_timeout_too(tmp_path):
    with configured(tmp_path / "machines", gone='link = ["false"]'):
        terminal = AsyncCMDOPClient().terminal
        for timeout in (None, 60):
            with pytest.raises(ConnectFailed, match="gone was not reached"):
                await terminal.execute("true", machine="gone", timeout=timeout)


async def test_a_command_whose_session_is_lost_is_not_said_to_have_ended(terminal):
    running = terminal.execute("echo $PPID; exec sleep 1000")

    while not (found := await terminal.list_sessions()):
        pass
    stream = await terminal.stream().attach(found[0].session_id, "begin")
    os.kill(int((await stream.wait_for(r"^\d+$"))[0]), signal.SIGKILL)

    with pytest.raises(CommandFailed, match=r"execute-.* failed \(lost\)"):
        await running
    (session,) = await terminal.list_sessions()
    await terminal.stop(session.session_id)


# -- timeouts


async def test_at_its_timeout_all_that_was_started_is_stopped(terminal, tmp_path):
    script = holding(tmp_path / "held")

    running = asyncio.ensure_future(terminal.execute(f"echo oh >&2; {script}", timeout=5))
    pipe = await asyncio.to_thread(open, tmp_path / "held", "rb")
    with pytest.raises(CommandTimeout) as late:
        await running

    with pipe:
        os.set_blocking(pipe.fileno(), False)
        assert pipe.read() == b""  # it would be None, if somebody still held it
    assert (late.value.stdout, late.value.stderr, late.value.seconds) == (b"up\n", b"oh\n", 5)
    assert late.value.stopped.startswith("stopped by ")
    assert "did not exit in 5 s: stopped by" in str(late.value)
    assert await terminal.list_sessions() == []


async def test_what_was_said_on_the_way_out_is_said(terminal):
    with pytest.raises(CommandTimeout) as late:
        await terminal.execute("trap 'echo bye; exit 1' INT; while true; do sleep 0.1; done", timeout=0.5)

    assert late.value.stdout == b"bye\n"
    assert late.value.stopped.startswith("stopped by INT")


async def test_no_time_at_all_is_a_timeout(terminal):
    with pytest.raises(CommandTimeout):
        await terminal.execute("exec sleep 1000", timeout=0)

    assert [one for one in await terminal.list_sessions() if one.status.live] == []


async def test_a_command_that_is_in_time_is_not_stopped(terminal):
    assert (await terminal.execute("echo done", timeout=60)).stdout == b"done\n"


# -- giving up


@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_who_gives_up_stops_the_command(terminal, tmp_path, how):
    running = asyncio.ensure_future(terminal.execute(holding(tmp_path / "held")))
    with await asyncio.to_thread(open, tmp_path / "held", "rb") as pipe:  # opens when the command has opened it
        if how == "cancel":
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(running, 0.01)

        assert await asyncio.to_thread(pipe.read) == b""


async def test_a_command_that_was_given_up_before_it_ran_leaves_nothing(terminal):
    running = asyncio.ensure_future(terminal.execute("exec sleep 1000"))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    while execution._given_up or [one for one in await terminal.list_sessions() if one.status.live]:
        pass


@pytest.mark.parametrize("how", ["blocking", "asyncio"])
def test_an_interrupted_program_takes_its_command_along(state_dir, tmp_path, how):
    script = holding(tmp_path / "held")
    words = [sys.executable, "-c", INTERRUPTED, how, script]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as program:
        with open(tmp_path / "held", "rb") as pipe:
            program.send_signal(signal.SIGINT)
            assert select.select([pipe], [], [], 60)[0]
            assert pipe.read() == b""
        _, said = program.communicate(timeout=60)

    assert said.strip().endswith("KeyboardInterrupt")


# -- links that break


async def test_output_is_exact_and_comes_once_when_the_link_is_cut_in_the_middle(far, tmp_path):
    os.mkfifo(tmp_path / "go")
    script = f"echo ran >> {tmp_path}/ran; seq 100000; read go < {tmp_path}/go; seq 100001 400000; echo end >&2"
    running = asyncio.ensure_future(far.terminal.execute(script))
    go = await asyncio.to_thread(open, tmp_path / "go", "w")
    far.proxy.cut()
    with go:
        go.write("\n")

    done = await running

    assert done.stdout == "".join(f"{number}\n" for number in range(1, 400_001)).encode()
    assert (done.stderr, done.exit) == (b"end\n", Exit(0))
    assert (tmp_path / "ran").read_text() == "ran\n"
    assert far.machine.link.redials >= 1


async def test_a_timeout_counts_while_the_link_is_away_and_the_stop_comes_when_it_is_back(far, tmp_path):
    script = holding(tmp_path / "held")
    await far.terminal.set_machine("far")
    running = asyncio.ensure_future(far.terminal.execute(script, timeout=5))
    pipe = await asyncio.to_thread(open, tmp_path / "held", "rb")
    far.proxy.refuse()
    far.proxy.cut()

    with pytest.raises(CommandTimeout, match="it is stopped as soon as it is") as late:
        await running
    assert late.value.stopped == ""
    far.proxy.accept()

    with pipe:
        assert await asyncio.to_thread(pipe.read) == b""


async def test_a_command_that_is_given_up_while_the_link_is_away_is_stopped_when_it_is_back(far, tmp_path):
    script = holding(tmp_path / "held")
    running = asyncio.ensure_future(far.terminal.execute(script))
    pipe = await asyncio.to_thread(open, tmp_path / "held", "rb")
    far.proxy.refuse()
    far.proxy.cut()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    far.proxy.accept()

    with pipe:
        assert await asyncio.to_thread(pipe.read) == b""
