"""The client for scripts: what it creates, finds and refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from live import live_terminal

from cmdop_jupyter.client import Terminal
from cmdop_jupyter.errors import NameInUse, StartFailed, UnknownMachine
from cmdop_jupyter.machines.base import Exit

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
        print(await stream, *[facts.name for facts, _ in await client.terminal.list_sessions()])
    print(made.text(), end="")

asyncio.run(main())
"""


@pytest.fixture
def terminal(state_dir) -> Iterator[Terminal]:
    with live_terminal() as terminal:
        yield terminal


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
    first, second = [await terminal.create(command="exec sleep 1000") for _ in range(2)]
    await terminal.create(command="exec sleep 1000", name="api")

    assert (first.name, second.name) == ("command", "command-2")
    with pytest.raises(NameInUse, match="api"):
        await terminal.create(command="true", name="api")
    assert [facts.name for facts, _ in await terminal.list_sessions()] == ["command", "command-2", "api"]


async def test_a_shell_may_be_any_interpreter(terminal):
    stream = await terminal.create(command="import sys; print(sys.version_info[0])", shell=sys.executable, tty="none")

    assert (await stream.wait_for(".*"))[0] == "3"


async def test_what_cannot_be_started_is_told(terminal):
    with pytest.raises(StartFailed):
        await terminal.create(command="true", cwd="/nowhere/at/all")
    with pytest.raises(UnknownMachine, match="did you mean local"):
        await terminal.create("locall", "true")
