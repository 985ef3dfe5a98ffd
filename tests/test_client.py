"""The client for scripts: the machines it reaches, the sessions it creates and finds, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from clients import configured, cut
from live import GO, live_terminal

from cmdop_jupyter import client as client_module
from cmdop_jupyter import directory
from cmdop_jupyter.client import AsyncCMDOPClient, Terminal
from cmdop_jupyter.errors import (
    BadKey,
    ConfigError,
    ConnectFailed,
    InputTooLong,
    InvalidRequest,
    LogDropped,
    NameInUse,
    ObserverOnly,
    SessionNotFound,
    SessionOver,
    StartFailed,
    TooMuch,
    UnknownMachine,
)
from cmdop_jupyter.machines.base import Exit, StartRequest
from cmdop_jupyter.runtime import runtime

SCRIPT = """
import asyncio
from cmdop_jupyter import AsyncCMDOPClient

async def main():
    async with AsyncCMDOPClient.local() as client:
        made = await client.terminal.create("local", "echo hello; read; echo bye", name="api")
        stream = client.terminal.stream()
        said = []
        stream.on_output(said.append)
        await stream.attach(made.session_id, start="begin")
        await stream.wait_for("hello")
        await stream.send_input("\\n")
        print(await stream, *[one.name for one in await client.terminal.list_sessions()])
    print(made.text(), end="")

asyncio.run(main())
"""
STAY = "exec sleep 1000"
ASKS_FIRST = 'link = ["sh", "-c"]\nconfirm = true'


@pytest.fixture
def terminal(state_dir) -> Iterator[Terminal]:
    with live_terminal() as terminal:
        yield terminal


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the sessions of `my-server` and `other` are; `gone` cannot be reached."""
    with configured(tmp_path / "machines", "my-server", "other", gone='link = ["false"]') as folder:
        yield folder


@pytest.fixture
async def client(folder) -> AsyncIterator[AsyncCMDOPClient]:
    async with AsyncCMDOPClient() as client:
        yield client


# -- creating


def test_a_script_runs_a_session_from_its_start_to_its_exit(state_dir):
    done = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, timeout=60)

    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == "exit 0 api\nhello\n\nbye\n"


async def test_a_created_stream_begins_at_the_beginning(terminal):
    stream = await terminal.create(command="echo $GREETING in $PWD", env={"GREETING": "hello"}, cwd="/")

    assert [line.text async for line in stream.lines()] == ["hello in /"]


async def test_without_a_command_it_is_a_login_shell_on_one_terminal(terminal):
    stream = await terminal.create(shell="bash", env={"PS1": "$ "}, cols=90, rows=20)

    await stream.send_input("stty size; shopt login_shell; exit 5\n")

    assert await stream == Exit(5)
    assert (stream.facts.kind, stream.facts.tty, stream.name) == ("shell", "full", "shell")
    assert "20 90" in stream.text()
    assert (await stream.wait_for(r"^login_shell\s+on")).channel == "stdout"


async def test_names_are_made_up_or_unique(terminal):
    first, second = [await terminal.create(command=STAY) for _ in range(2)]
    await terminal.create(command=STAY, name="api")

    assert (first.name, second.name) == ("command", "command-2")
    with pytest.raises(NameInUse, match="api"):
        await terminal.create(command="true", name="api")
    assert [one.name for one in await terminal.list_sessions()] == ["command", "command-2", "api"]


async def test_a_shell_may_be_any_interpreter(terminal):
    stream = await terminal.create(command="import sys; print(sys.version_info[0])", shell=sys.executable, tty="none")

    assert (await stream.wait_for(".*"))[0] == "3"


async def test_what_cannot_be_started_is_told(terminal):
    with pytest.raises(StartFailed):
        await terminal.create(command="true", cwd="/nowhere/at/all")
    with pytest.raises(UnknownMachine, match="did you mean local"):
        await terminal.create("locall", "true")
    with pytest.raises(InvalidRequest, match=r"shlex\.join"):
        await terminal.create(command=["ls", "-l"])
    with pytest.raises(InvalidRequest, match="a machine is called by its name"):
        await terminal.create(7, "true")
    assert await terminal.list_sessions() == []


# -- machines


async def test_a_machine_of_the_configuration_is_reached(client, folder):
    stream = await client.terminal.create("my-server", "echo $CMDOP_STATE_DIR", tty="none")

    assert await stream == Exit(0)
    assert stream.text() == f"{folder}/my-server/state\n"


async def test_all_that_it_takes_may_be_used_without_a_block(folder):
    client = AsyncCMDOPClient()

    assert (await client.terminal.execute("echo here")).stdout == b"here\n"


async def test_it_may_be_used_from_any_loop(folder):
    client = AsyncCMDOPClient()

    async def name() -> str:
        return (await client.terminal.get_active_session("my-server")).name

    assert await asyncio.to_thread(asyncio.run, name()) == await name() == "shell"


async def test_leaving_the_block_ends_nothing(folder):
    async with AsyncCMDOPClient() as client:
        stream = await client.terminal.create("my-server", f"{GO}; echo later", tty="none")

    await stream.send_input("\n")

    assert await stream == Exit(0)
    assert stream.text() == "later\n"


async def test_a_local_client_reaches_this_machine_only(folder):
    client = AsyncCMDOPClient.local()

    assert (await client.terminal.execute("true", machine="local")).ok
    for call in (client.terminal.create, client.terminal.get_active_session, client.terminal.set_machine):
        with pytest.raises(InvalidRequest, match=r"cannot reach 'my-server': take AsyncCMDOPClient\(\)"):
            await call("my-server")
    assert [one.name for one in await client.machines.list()] == ["local"]


def test_a_remote_client_says_what_is_wrong_with_its_key_and_nothing_of_it():
    with pytest.raises(BadKey, match="the API key is not whole") as wrong:
        AsyncCMDOPClient.remote(api_key="cmd_secret", url="nats://relay.example")

    assert "secret" not in repr(wrong.value) + str(wrong.value)


async def test_where_no_machine_is_named_it_is_this_one_until_another_is_set(client, folder):
    where = "echo ${CMDOP_STATE_DIR%/state}"
    here = (await client.terminal.execute(where)).stdout
    await client.terminal.set_machine("my-server")
    there = (await client.terminal.execute(where)).stdout

    assert here.decode() == f"{os.environ['CMDOP_STATE_DIR'].removesuffix('/state')}\n"
    assert there.decode() == f"{folder}/my-server\n"
    assert (await client.terminal.create(command="true")).machine == "my-server"
    assert (await client.terminal.get_active_session()).machine == "my-server"


async def test_a_machine_that_cannot_be_reached_is_not_set(client):
    with pytest.raises(UnknownMachine, match="did you mean my-server"):
        await client.terminal.set_machine("my-sever")
    with pytest.raises(ConnectFailed, match="gone was not reached"):
        await client.terminal.set_machine("gone")

    assert (await client.terminal.create(command="true")).machine == "local"


async def test_the_machines_are_listed_as_they_are_and_none_is_dialled(client):
    before = {one.name: one for one in await client.machines.list()}
    await client.terminal.set_machine("my-server")
    after = {one.name: one for one in await client.machines.list()}

    assert list(before) == ["local", "my-server", "other", "gone"]
    assert [one.link for one in before.values()] == ["up", "down", "down", "down"]
    assert [one.kind for one in before.values()] == ["local", "link", "link", "link"]
    assert (before["my-server"].agent, before["my-server"].round_trip) == ("", None)
    assert [after[name].link for name in ("my-server", "other")] == ["up", "down"]
    assert after["my-server"].agent == after["local"].agent != ""
    assert after["my-server"].round_trip > 0
    assert repr(before["gone"]) == "<Machine gone: false, down (not dialled yet)>"
    assert repr(after["my-server"]).endswith(", up>")


async def test_hosts_of_ssh_machines_reached_before_and_what_is_wrong_with_one_are_listed(tmp_path):
    with configured(tmp_path / "machines", "far", odd="tags = ['web']", box='ssh = "me@h"\ntags = ["web"]') as folder:
        (folder / "home" / ".ssh").mkdir()
        (folder / "home" / ".ssh" / "config").write_text("Host jump\n    HostName 192.0.2.1\n")
        client = AsyncCMDOPClient()
        (Path(os.environ["CMDOP_STATE_DIR"]).parent / "state").mkdir(mode=0o700, exist_ok=True)
        await client.terminal.set_machine("far")
        directory._write(["docker://cache", *directory.reached_before()])
        listed = {one.name: one for one in await client.machines.list()}

    assert list(listed) == ["local", "far", "odd", "box", "jump", "docker://cache"]
    assert isinstance(listed["odd"].error, ConfigError)
    assert "~/.ssh/config has no such Host" in repr(listed["odd"])
    assert (listed["box"].kind, listed["box"].reached_by, listed["box"].tags) == ("ssh", "ssh me@h", ("web",))
    assert listed["jump"].source == "~/.ssh/config"
    assert listed["docker://cache"].reached_by == "docker exec -i cache"


async def test_a_configuration_that_makes_no_sense_is_told(client, folder):
    (folder / "cmdop.toml").write_text("[machines\n")

    with pytest.raises(ConfigError):
        await client.machines.list()
    with pytest.raises(ConfigError):
        await client.terminal.create("my-server", "true")
    assert (await client.terminal.execute("true")).ok


async def test_a_program_that_names_a_machine_is_not_asked_whether_it_means_it(tmp_path):
    with configured(tmp_path / "machines", production=ASKS_FIRST):
        assert (await AsyncCMDOPClient().terminal.execute("echo done", machine="production")).stdout == b"done\n"


# -- the active session


async def test_where_no_shell_runs_the_active_session_is_a_new_one_and_then_stays_it(client):
    made = await client.terminal.get_active_session("my-server")
    again = await client.terminal.get_active_session("my-server")

    assert made.session_id == again.session_id
    assert (made.machine, made.kind, made.name) == ("my-server", "shell", "shell")
    assert made.state in ("starting", "running")
    assert await client.terminal.list_sessions("local") == []


async def test_the_active_session_is_the_newest_shell_whoever_started_it(client):
    for _ in range(2):
        newest = await AsyncCMDOPClient().terminal.create("my-server")

    assert (await client.terminal.get_active_session("my-server")).session_id == newest.session_id


async def test_the_active_session_is_none_that_was_made_for_a_command(client):
    shell = await client.terminal.create("my-server")
    await client.terminal.create("my-server", STAY, tty="full")

    assert (await client.terminal.get_active_session("my-server")).session_id == shell.session_id


async def test_the_active_session_is_none_whose_shell_has_exited(client):
    older = await client.terminal.create()
    newer = await client.terminal.create(env={"HISTFILE": ""})
    await newer.send_input("trap '' HUP; sleep 1000 & disown; exit\n")  # something goes on, and holds its terminal
    assert await newer is not None
    assert newer.state == "exited"

    assert (await client.terminal.get_active_session()).session_id == older.session_id


async def test_calls_at_once_start_one_shell(client):
    found = await asyncio.gather(*(client.terminal.get_active_session("my-server") for _ in range(5)))

    assert len({one.session_id for one in found}) == 1
    assert len(await client.terminal.list_sessions("my-server")) == 1


async def test_the_guides_first_steps_work(client):
    session = await client.terminal.get_active_session("my-server")
    stream = client.terminal.stream()
    said: list[bytes] = []
    stream.on_output(said.append)

    await stream.attach(session.session_id)
    await stream.send_input(b"echo $((6 * 7))\n")

    await stream.wait_for("^42$")
    assert b"42" in b"".join(said)


async def test_a_machine_that_cannot_be_reached_has_no_active_session(client):
    with pytest.raises(ConnectFailed, match="gone was not reached"):
        await client.terminal.get_active_session("gone")
    with pytest.raises(UnknownMachine, match="did you mean my-server"):
        await client.terminal.get_active_session("my-sever")


# -- listing


async def test_all_machines_that_it_has_reached_are_asked_for_their_sessions(client):
    await client.terminal.create("my-server", STAY, name="far")
    await client.terminal.create(command=STAY, name="near")
    await AsyncCMDOPClient().terminal.create("other", STAY, name="not-ours")

    assert [(one.machine, one.name) for one in await client.terminal.list_sessions()] == [
        ("my-server", "far"),
        ("local", "near"),
    ]
    assert [one.name for one in await client.terminal.list_sessions("other")] == ["not-ours"]
    assert [one.name for one in await client.terminal.list_sessions()] == ["far", "near", "not-ours"]


async def test_sessions_are_listed_by_state(client):
    ended = await client.terminal.create(command="true", tty="none", name="ended")
    await client.terminal.create(command=STAY, name="running")
    assert [chunk async for chunk in ended] == []

    assert [one.name for one in await client.terminal.list_sessions(state="running")] == ["running"]
    assert [one.name for one in await client.terminal.list_sessions("local", state="ended")] == ["ended"]
    with pytest.raises(InvalidRequest, match="starting, running, held, exited, ended, lost, not 'dead'"):
        await client.terminal.list_sessions(state="dead")


async def test_a_session_says_what_it_is(client):
    stream = await client.terminal.create("my-server", "# why\nexit 3", tty="none", name="api")
    assert [chunk async for chunk in stream] == []
    (session,) = await client.terminal.list_sessions("my-server")

    assert (session.session_id, session.name, session.title) == (stream.session_id, "api", "exit 3")
    assert (session.kind, session.state, session.exit) == ("command", "ended", Exit(3))
    assert repr(session).startswith(f"<Session api ({stream.session_id}) on my-server: command, ended ")
    assert repr(session).endswith(", 0 B, exit 3>")
    assert pickle.loads(pickle.dumps(session)) == session


# -- one session, wherever it is


@pytest.mark.parametrize("where", ["local", "my-server"])
@pytest.mark.parametrize("called", ["name", "session_id"])
async def test_a_session_is_steered_by_its_id_or_name_on_whichever_machine_it_is(client, where, called):
    script = "trap 'stty size; exit 7' USR1; echo up; while read line; do echo got $line; done"
    stream = await client.terminal.create(where, script, name="api", tty="full")
    session = getattr(stream, called)
    await stream.wait_for("up")

    await client.terminal.send_input(session, "one\n")
    await client.terminal.send_input(session, b"two\n")
    await stream.wait_for("got two")
    await client.terminal.resize(session, 77, 33)
    await client.terminal.send_signal(session, "USR1")

    assert await stream == Exit(7)
    assert "33 77" in stream.text()
    assert b"got one\r\n" in await client.terminal.get_output(session)
    with pytest.raises(SessionOver):
        await client.terminal.send_input(session, "three\n")


async def test_a_session_is_stopped_by_its_name(client):
    stream = await client.terminal.create("my-server", "sleep 1000 & wait", name="api")

    report = await client.terminal.stop("api", grace=0.2)

    assert report.took
    assert stream.state == "ended"


async def test_another_client_finds_a_session_on_the_machines_it_has_reached(client):
    made = await client.terminal.create("my-server", "echo far", tty="none", name="api")
    await made
    other = AsyncCMDOPClient()
    await other.terminal.set_machine("other")
    await other.terminal.set_machine("my-server")
    await other.terminal.set_machine("local")

    assert await other.terminal.get_output("api") == b"far\n"
    assert (await other.terminal.stream().attach(made.session_id)).machine == "my-server"


async def test_input_that_is_sent_without_waiting_keeps_its_order(client):
    stream = await client.terminal.create("my-server", "exec cat", tty="none", name="api")
    other = AsyncCMDOPClient()
    await other.terminal.set_machine("my-server")

    sent = [other.terminal.send_input("api", f"{number}\n") for number in range(100)]
    await asyncio.gather(*sent)
    await stream.wait_for("^99$")

    assert stream.read() == "".join(f"{number}\n" for number in range(100)).encode()


async def test_a_session_that_is_nowhere_is_told_with_what_looks_like_it_and_where_was_looked(client):
    await client.terminal.create("my-server", STAY, name="server")
    calls = [
        client.terminal.stream().attach,
        client.terminal.get_output,
        client.terminal.stop,
        lambda name: client.terminal.send_input(name, "x"),
        lambda name: client.terminal.resize(name, 80, 24),
        lambda name: client.terminal.send_signal(name, "INT"),
    ]
    for call in calls:
        with pytest.raises(SessionNotFound, match="did you mean server") as missing:
            await call("sever")

    assert "only on local, my-server" in str(missing.value)
    assert "set_machine(name)" in str(missing.value)
    with pytest.raises(SessionNotFound) as missing:
        await AsyncCMDOPClient.local().terminal.stop("sever")
    assert "set_machine" not in str(missing.value)


async def test_a_name_that_two_machines_have_is_told_apart_by_ids(client):
    ids = [(await client.terminal.create(where, STAY, name="api")).session_id for where in ("my-server", "other")]

    with pytest.raises(InvalidRequest, match="several sessions are called 'api'") as several:
        await client.terminal.stop("api")

    assert all(session_id in str(several.value) for session_id in ids)
    await client.terminal.stop(ids[0], grace=0.1)
    assert (await client.terminal.stream().attach("api")).session_id == ids[1]


async def test_what_is_to_be_typed_sent_or_set_is_checked(client):
    stream = await client.terminal.create(command="exec cat", name="api")
    with pytest.raises(InvalidRequest, match="bytes or str"):
        await client.terminal.send_input("api", 3)
    with pytest.raises(InputTooLong):
        await client.terminal.send_input("api", b"x" * 5000 + b"\n")
    with pytest.raises(InvalidRequest, match="signal"):
        await client.terminal.send_signal("api", "NOPE")
    with pytest.raises(InvalidRequest):
        await client.terminal.resize("api", 0, 24)
    with pytest.raises(InvalidRequest, match="grace"):
        await client.terminal.stop("api", grace=-1)
    assert stream.state == "running"


async def test_calls_on_a_session_survive_a_link_that_is_cut(client):
    stream = await client.terminal.create("my-server", "while read line; do echo got $line; done", tty="none")
    for number in range(3):
        cut("my-server")
        await client.terminal.send_input(stream.session_id, f"{number}\n")
        cut("my-server")
        await stream.wait_for(f"got {number}")
    cut("my-server")

    assert await client.terminal.get_output(stream.session_id) == b"got 0\ngot 1\ngot 2\n"
    cut("my-server")
    assert len(await client.terminal.list_sessions()) == 1
    assert (await client.terminal.stop(stream.session_id)).took


async def test_an_observer_sees_and_cannot_type(client):
    made = await client.terminal.create("my-server", f"echo up; {GO}")
    stream = await client.terminal.stream(mode="observer").attach(made.session_id, "begin")

    await stream.wait_for("up")
    with pytest.raises(ObserverOnly):
        stream.send_input("x")
    with pytest.raises(InvalidRequest, match="operator"):
        client.terminal.stream(mode="boss")


# -- output


async def test_output_is_given_in_parts_as_it_was_read(terminal):
    stream = await terminal.create(command="printf 0123456789; printf '\\377\\0' >&2", tty="none")
    await stream
    output = terminal.get_output

    assert sorted(await output(stream.session_id)) == sorted(b"0123456789\xff\x00")
    stream = await terminal.create(command="printf 0123456789", tty="none", name="digits")
    await stream
    assert await output("digits", 4) == b"456789"
    assert await output("digits", 4, 3) == b"456"
    assert await output("digits", 4, 0) == b""
    assert await output("digits", 100) == b""
    for wrong in ({"offset": -1}, {"limit": -1}, {"offset": "begin"}):
        with pytest.raises(InvalidRequest, match="a number of bytes"):
            await output("digits", **wrong)


async def test_output_that_was_dropped_is_told(terminal):
    size, head = 30_000_000, 1024 * 1024
    request = StartRequest("dropped", "dropped", script=f"head -c {size} /dev/zero", tty="none", max_log=8_000_000)
    stream = await client_module.start(terminal.finder.at(None), request)
    await stream
    begin, end = stream.status.dropped

    assert await terminal.get_output("dropped", 0, head) == bytes(head)
    assert await terminal.get_output("dropped", end) == bytes(size - end)
    for offset in (0, begin, end - 1):
        with pytest.raises(LogDropped) as dropped:
            await terminal.get_output("dropped", offset)
        assert dropped.value.first == end


async def test_more_output_than_is_given_in_one_piece_is_taken_in_parts(terminal, monkeypatch):
    monkeypatch.setattr(client_module, "LIMIT", 1_000_000)
    stream = await terminal.create(command="seq 200000", tty="none", name="much")
    await stream

    with pytest.raises(TooMuch, match=r"get_output\('much', offset, limit\)"):
        await terminal.get_output("much")
    end = stream.status.end
    assert len(await terminal.get_output("much", 0, end)) == end
    assert len(await terminal.get_output("much", end - 1_000_000)) == 1_000_000


def test_it_may_be_used_where_streams_are_served():
    async def listed() -> list[str]:
        return [one.name for one in await AsyncCMDOPClient.local().machines.list()]

    assert runtime().wait(listed()) == ["local"]
