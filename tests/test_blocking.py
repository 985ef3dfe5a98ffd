"""The blocking client: as the other one, with results instead of things to await; and how it is interrupted."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import configured, cut
from kernels import Kernel
from live import GO

from cmdop_jupyter.blocking import BlockingStream, BlockingTerminal, CMDOPClient
from cmdop_jupyter.client import Terminal
from cmdop_jupyter.errors import (
    BadKey,
    CommandTimeout,
    InvalidRequest,
    ObserverOnly,
    SessionNotFound,
    StillRunning,
    UnknownMachine,
    WaitTimeout,
)
from cmdop_jupyter.machines.base import Exit
from cmdop_jupyter.runtime import runtime
from cmdop_jupyter.stream import Stream

PACKAGE = Path(__file__).parents[1]
TYPED = """
from cmdop_jupyter.blocking import CMDOPClient

with CMDOPClient() as client:
    done = client.terminal.execute("true", timeout=3)
    reveal_type(done.stdout)
    reveal_type(client.terminal.get_active_session("far"))
    reveal_type(client.terminal.create("far", "true", tty="none").wait_for("x", timeout=3))
    reveal_type(client.machines.list())
    client.terminal.execute(3)
    client.terminal.stream().stop(graze=3)
"""
INTERRUPTED = """
from cmdop_jupyter.blocking import CMDOPClient
stream = CMDOPClient.local().terminal.create(command="echo up; exec sleep 1000", tty="none")
try:
    for chunk in stream:
        print(stream.session_id, flush=True)
except KeyboardInterrupt:
    print(stream.state, stream.metrics.lag)
"""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[CMDOPClient]:
    with configured(tmp_path / "machines", "my-server"), CMDOPClient() as client:
        yield client


def test_a_session_is_run_without_a_loop(client):
    stream = client.terminal.create("my-server", "echo up; read line; echo got $line; exit 3", tty="none")

    assert stream.wait_for("up")[0] == "up"
    stream.send_input("hello\n")
    assert stream.wait_exit() == Exit(3)
    assert (stream.machine, stream.state, stream.exit, stream.mode) == ("my-server", "ended", Exit(3), "operator")
    assert stream.text() == "up\ngot hello\n"
    assert [line.text for line in stream.tail(1)] == ["got hello"]
    assert [line.text for line in stream.grep("got")] == ["got hello"]
    assert [line.text for line in stream.lines()] == ["up", "got hello"]
    assert stream.read(3) == b"got hello\n"
    assert stream.metrics.lines == 2


def test_iteration_follows_until_the_session_ends(client):
    stream = client.terminal.create(command=f"echo one; {GO}; echo two", tty="none")
    seen = b""
    for chunk in stream:
        seen += chunk.data
        if chunk.data == b"one\n":
            stream.send_input("\n")

    assert seen == b"one\ntwo\n"
    assert [chunk.data for chunk in stream.chunks(4)] == [b"two\n"]
    assert b"".join(chunk.data for chunk in stream.chunks("begin", follow=False)) == seen


def test_an_iteration_that_is_left_leaves_no_cursor(client):
    stream = client.terminal.create(command="echo one; exec sleep 1000", tty="none")
    for chunk in stream:
        assert chunk.data == b"one\n"
        assert stream.metrics.lag.keys() == {"chunks"}
        break

    del chunk
    while stream.metrics.lag:
        pass


def test_a_stream_is_attached_detached_and_attached_again(client):
    made = client.terminal.create("my-server", "echo up; exec cat", tty="none", name="api")

    with client.terminal.stream().attach("api", "begin") as stream:
        assert isinstance(stream, BlockingStream)
        assert (stream.session_id, stream.name, stream.facts) == (made.session_id, "api", made.facts)
        stream.send_input(b"x\n")
        stream.wait_for("x")
        stream.send_eof()
        assert stream.wait_exit() == Exit(0)
        stream.detach()
        assert stream.attach(made.session_id) is stream

    assert repr(stream) == "<Stream, not attached>"


def test_a_stream_is_steered(client):
    script = "trap 'stty size' USR1; echo up; while true; do sleep 0.1; done"
    stream = client.terminal.create("my-server", script, tty="full")
    stream.wait_for("up")
    stream.send_resize(77, 33)
    stream.send_signal("USR1")
    stream.wait_for("33 77")
    stream.limit(8_000_000, "hold")

    assert (stream.status.limit, stream.status.policy) == (8_000_000, "hold")
    assert stream.forward(9).startswith("http://127.0.0.1:")
    with pytest.raises(StillRunning):
        stream.wait_exit(0)
    with pytest.raises(WaitTimeout):
        stream.wait_for("never", timeout=0)
    assert stream.stop(grace=0.1).took
    assert stream.link == "up"


def test_handlers_run_on_workers(client):
    stream = client.terminal.stream()
    said, states, done = [], [], threading.Event()
    stream.on_output(lambda data, channel: said.append((data, channel, threading.current_thread().name)))
    stream.on_output(lambda line: said.append(line), unit="line", channel="stderr")
    stream.on_status(lambda status: states.append(status.state))
    stream.on_exit(lambda exit: done.set())

    async def take(data: bytes) -> None:
        said.append(len(data))

    stream.on_output_async(take)
    made = client.terminal.create(command=f"{GO}; echo out; echo err >&2", tty="none")
    stream.attach(made.session_id)
    made.send_input("\n")

    assert done.wait(60)
    stream.wait_exit()
    while len(said) < 5 or states[-1] != "ended":
        pass
    assert (b"out\n", "stdout", "cmdop-handler") in said
    assert "err" in said
    assert said.count(4) == 2


def test_the_terminal_has_all_that_the_other_one_has(client):
    terminal = client.terminal
    session = terminal.get_active_session("my-server")
    terminal.set_machine("my-server")
    terminal.send_input(session.session_id, "trap 'stty size; exit 4' USR1; echo re''ady\n")
    stream = terminal.stream().attach(session.name, "begin")
    stream.wait_for("ready")
    terminal.resize(session.session_id, 77, 33)
    terminal.send_signal(session.session_id, "USR1")
    terminal.send_input(session.session_id, "\n")

    assert stream.wait_exit() == Exit(4)
    assert b"33 77" in terminal.get_output(session.session_id)
    assert [one.session_id for one in terminal.list_sessions("my-server")] == [session.session_id]
    assert terminal.stop(session.session_id).left == ()
    assert terminal.execute("echo $0", shell="sh").ok
    assert [one.name for one in client.machines.list()] == ["local", "my-server"]


def test_what_asks_is_told_of_and_answered_and_notices_come_with_the_stream_that_blocks(client):
    prompts, notices = [], []
    stream = client.terminal.create(command='for it in go again; do read -p "$it? " word; echo got $word; done')

    def asked(prompt):
        prompts.append(prompt.text)
        if prompt.text == "go? ":
            stream.send_input("yes\n")

    stream.on_prompt(asked)
    stream.answer("again", value="also")
    subscription = stream.notify("end", lambda *notice: notices.append(notice))

    assert stream.wait_for("got yes")
    assert stream.wait_for("got also")
    subscription.result()
    assert prompts[0] == "go? "
    assert [notice[2] for notice in notices] == [stream]


def test_both_clients_have_the_same_methods():
    for mine, other in ((BlockingTerminal, Terminal), (BlockingStream, Stream)):
        names = {name for name in vars(other) if not name.startswith("_")} - {"refresh", "adopt", "seconds"}
        assert names - set(dir(mine)) - {"finder"} == set()
        for name in names:
            if callable(getattr(other, name)):
                parameters = dict(inspect.signature(getattr(other, name)).parameters)
                parameters.pop("thread", None)
                assert list(inspect.signature(getattr(mine, name)).parameters) == list(parameters), name


def test_help_says_what_a_call_gives():
    assert inspect.signature(BlockingTerminal.execute).return_annotation == "Completed"
    assert inspect.signature(BlockingTerminal.create).return_annotation == "BlockingStream"
    assert inspect.signature(BlockingStream.wait_for).return_annotation == "Match"


def test_a_type_checker_knows_what_each_call_takes_and_gives(tmp_path):
    (tmp_path / "typed.py").write_text(TYPED)
    words = [sys.executable, "-m", "mypy", "--strict", "--config-file", PACKAGE / "pyproject.toml"]
    done = subprocess.run([*words, tmp_path / "typed.py"], capture_output=True, text=True, cwd=PACKAGE)

    revealed = [line.split('"')[1].split(".")[-1] for line in done.stdout.splitlines() if "Revealed" in line]
    assert revealed == ["bytes", "Session", "Match", "MachineInfo]"], done.stdout
    assert 'Argument 1 has incompatible type "int"; expected "str"' in done.stdout
    assert 'Unexpected keyword argument "graze"' in done.stdout
    assert "Found 2 errors" in done.stdout


# -- what it refuses


def test_errors_are_those_of_the_other_client(client):
    with pytest.raises(UnknownMachine, match="did you mean my-server"):
        client.terminal.create("my-sever", "true")
    with pytest.raises(SessionNotFound):
        client.terminal.stream().attach("nobody")
    with pytest.raises(CommandTimeout):
        client.terminal.execute("exec sleep 1000", timeout=0.1)
    with pytest.raises(InvalidRequest, match=r"CMDOPClient\(\) instead of CMDOPClient.local\(\)"):
        CMDOPClient.local().terminal.create("my-server", "true")
    with pytest.raises(BadKey) as wrong:
        CMDOPClient.remote(api_key="cmd_secret")
    assert "secret" not in str(wrong.value)
    made = client.terminal.create(command="exec sleep 1000")
    with pytest.raises(ObserverOnly):
        client.terminal.stream("observer").attach(made.session_id).stop()


def test_where_streams_are_served_it_is_refused_before_anything_is_done(client):
    stream = client.terminal.create(command="exec cat", name="api", tty="none")

    async def calls() -> None:
        for call in (lambda: client.terminal.execute("true"), lambda: stream.send_input("x"), stream.stop):
            with pytest.raises(RuntimeError, match="use AsyncCMDOPClient, and `await`"):
                call()

    runtime().wait(calls())
    assert (stream.state, stream.status.end) == ("running", 0)
    assert len(client.terminal.list_sessions()) == 1


async def test_inside_a_running_loop_it_blocks_that_loop_and_nothing_else(client):
    stream = client.terminal.create(command=f"echo one; {GO}; echo two", tty="none")
    said, done = [], threading.Event()
    stream.on_output(said.append)
    stream.on_exit(lambda exit: done.set())
    stream.wait_for("one")
    stream.send_input("\n")

    assert stream.wait_exit() == Exit(0)
    assert done.wait(60)
    while b"".join(said) != b"one\ntwo\n":
        pass


def test_in_a_cell_of_a_notebook_it_may_be_used(kernel: Kernel):
    kernel.run("from cmdop_jupyter.blocking import CMDOPClient")

    cell = kernel.run("print(CMDOPClient.local().terminal.execute('echo hello').stdout)")

    assert cell.error is None
    assert cell.stdout == "b'hello\\n'\n"


# -- links and interrupts


def test_calls_survive_a_link_that_is_cut(client):
    stream = client.terminal.create("my-server", "seq 100000; read line; seq 100001 200000", tty="none")
    seen = b""
    for chunk in stream:
        if not seen:
            cut("my-server")
            stream.send_input("\n")
            cut("my-server")
        seen += chunk.data

    assert seen == "".join(f"{number}\n" for number in range(1, 200_001)).encode()


def test_an_interrupt_ends_the_waiting_and_not_the_session(state_dir):
    words = [sys.executable, "-c", INTERRUPTED]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as program:
        session_id = program.stdout.readline().strip()
        os.kill(program.pid, signal.SIGINT)
        said, _ = program.communicate(timeout=60)

    assert said == "running {}\n"
    assert program.returncode == 0
    assert session_id
