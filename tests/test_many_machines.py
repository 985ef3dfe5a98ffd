"""Many machines at once, many sessions on one, and two notebooks that arrive in the same moment. With a real sshd."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from reach import ssh_to
from sshd import Sshd

from cmdop_jupyter.machines.base import SessionFacts, StartRequest
from cmdop_jupyter.machines.parcel import agent_parcel
from cmdop_jupyter.machines.presets import Place
from cmdop_jupyter.machines.stdio import DIALS, StdioMachine

MACHINES, SESSIONS = 40, 50
ROOT = Path(__file__).parents[1]
Make = Callable[[str, tuple[str, ...]], StdioMachine]

# A notebook's kernel, as far as it matters here: dials when it is told to, and says what it found.
NOTEBOOK = """
import asyncio, json, sys
from cmdop_jupyter.machines.base import StartRequest
from cmdop_jupyter.machines.presets import Place
from cmdop_jupyter.machines.stdio import StdioMachine

async def main():
    name, *command = sys.argv[1:]
    machine = StdioMachine(Place("far", "ssh", tuple(command)))
    print("ready", flush=True)
    sys.stdin.readline()
    hello = await machine.connect()
    await machine.start(StartRequest(name, name, script="read line"))
    print(json.dumps(hello), flush=True)
    sys.stdin.readline()
    print(json.dumps(sorted(facts.name for facts, _ in await machine.sessions())), flush=True)
    await machine.close()

asyncio.run(main())
"""


@pytest.fixture
def far_home(tmp_path: Path) -> dict[str, str]:
    """Variables of a far side where nobody has been yet."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(Path(sys.executable).resolve())
    return {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": f"{programs}:/usr/bin:/bin"}


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes machines, which are closed after the test."""
    made: list[StdioMachine] = []

    def one(name: str, command: tuple[str, ...]) -> StdioMachine:
        made.append(StdioMachine(Place(name, "ssh" if command[0] == "ssh" else "link", command)))
        return made[-1]

    yield one
    await asyncio.gather(*(machine.close() for machine in made))


async def start(machine: StdioMachine, script: str) -> SessionFacts:
    return await machine.start(StartRequest(uuid.uuid4().hex, "a", free_name=True, script=script, tty="none"))


async def output(machine: StdioMachine, session_id: str) -> bytes:
    said = b""
    while chunks := await machine.read(session_id, len(said), 64 * 1024):
        said += b"".join(chunk.data for chunk in chunks)
    return said


async def test_50_sessions_share_one_link_where_a_server_allows_one(far_home: dict[str, str], make: Make) -> None:
    with Sshd(env=far_home, MaxSessions=1) as sshd:
        machine = make("far", ssh_to(sshd))
        started = await asyncio.gather(
            *(start(machine, f"read line; echo {number} $line") for number in range(SESSIONS))
        )
        reading = [asyncio.create_task(output(machine, facts.id)) for facts in started]
        states = [status.state for _, status in await machine.sessions()]
        await asyncio.gather(*(machine.write(facts.id, "me", 0, b"typed\n") for facts in started))
        said = await asyncio.gather(*reading)

    assert states == ["running"] * SESSIONS
    assert len({facts.name for facts in started}) == SESSIONS
    assert said == [f"{number} typed\n".encode() for number in range(SESSIONS)]


async def test_40_machines_dialled_at_once_all_come_up_on_a_server_that_drops_what_comes_too_fast(
    far_home: dict[str, str], make: Make, record_property: Callable[[str, object], None]
) -> None:
    with Sshd(env=far_home, MaxStartups="10:30:100") as sshd:
        machines = [make(f"far{number}", ssh_to(sshd)) for number in range(MACHINES)]
        began = time.monotonic()
        hellos = await asyncio.gather(*(machine.connect() for machine in machines))
        record_property("seconds", time.monotonic() - began)

        assert len({hello["pid"] for hello in hellos}) == MACHINES
        assert [machine.link.state for machine in machines] == ["up"] * MACHINES
        await asyncio.gather(*(machine.close() for machine in machines))


async def test_no_more_dials_than_8_are_under_way_at_once(far_home: dict[str, str], make: Make, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    wait = f'while [ -e {gate} ]; do sleep 0.02; done; eval "$1"'
    under_way, most = 0, 0
    full = asyncio.Event()

    def told(step: str) -> None:
        nonlocal under_way, most
        under_way += 1 if step.startswith("running ") else -1
        most = max(most, under_way)
        if under_way == DIALS:
            full.set()

    own = [f"{name}={value}" for name, value in far_home.items()]
    command = ("env", *own, f"CMDOP_STATE_DIR={tmp_path}/far", "sh", "-c", wait, "sh")
    machines = [make(f"far{number}", command) for number in range(2 * DIALS)]
    dialling = [asyncio.create_task(machine.connect(told)) for machine in machines]
    await full.wait()
    gate.unlink()
    await asyncio.gather(*dialling)

    assert (most, under_way) == (DIALS, 0)
    assert DIALS == 8


async def test_a_dial_that_fails_makes_room_for_the_next(make: Make, tmp_path: Path) -> None:
    machines = [make(f"far{number}", ("sh", "-c", "exit 1", "sh")) for number in range(2 * DIALS)]

    failures = await asyncio.gather(*(machine.connect() for machine in machines), return_exceptions=True)

    assert [type(failure).__name__ for failure in failures] == ["ConnectFailed"] * len(machines)


@contextlib.contextmanager
def notebook(name: str, command: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, told what to do by lines."""
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", NOTEBOOK, name, *command]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def go_on(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def test_two_notebooks_may_arrive_at_once_where_the_agent_is_not_yet(far_home: dict[str, str]) -> None:
    with Sshd(env=far_home) as sshd, notebook("a", ssh_to(sshd)) as one, notebook("b", ssh_to(sshd)) as other:
        assert [said(one), said(other)] == ["ready\n"] * 2
        go_on(one, other)
        hellos = [json.loads(said(one)), json.loads(said(other))]
        go_on(one, other)
        assert [json.loads(said(one)), json.loads(said(other))] == [["a", "b"]] * 2
        cache = Path(hellos[0]["cache"])
        agents = list(cache.glob("*.pyz"))

        assert "missing" in {hello["was"] for hello in hellos}
        assert {hello["agent"] for hello in hellos} == {agent_parcel().digest}
        assert [hashlib.sha256(agent.read_bytes()).hexdigest() for agent in agents] == [agent_parcel().digest]
        assert not list(cache.glob("*.new"))
