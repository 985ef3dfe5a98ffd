"""Reaching a machine: what is in the way and how it is told, then the life of the link. With a real sshd."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reach import ssh_to
from sshd import Sshd, User, fingerprint, free_port, login_user, make_key, program, wait_until

from cmdop_jupyter import directory
from cmdop_jupyter.client import Terminal
from cmdop_jupyter.errors import ConnectFailed, HostKeyChanged, LinkLost
from cmdop_jupyter.machines import far as far_machines
from cmdop_jupyter.machines.asking import Asker, Asking, Question
from cmdop_jupyter.machines.base import LinkState, SessionFacts, StartRequest
from cmdop_jupyter.machines.far import FIRST_PAUSE, LONGEST_PAUSE, pause_before
from cmdop_jupyter.machines.parcel import agent_parcel, parcel_of
from cmdop_jupyter.machines.presets import Place
from cmdop_jupyter.machines.stdio import StdioMachine
from cmdop_jupyter.runtime import runtime
from cmdop_jupyter.steady import Steady
from cmdop_jupyter.stream import Stream

PYTHON = os.path.realpath(sys.executable)
QUICK = {"KexAlgorithms": "curve25519-sha256"}  # the default takes 0.1 s more for each login
PASSWORD = "Gänse füttern 7%"
WAIT_FOR_A_LINE = "read line"
Reach = Callable[..., StdioMachine]


@dataclass
class Box:
    """A home, and programs, for the far side of a server."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home, self.bin, self.cache = self.folder / "home", self.folder / "bin", self.folder / "cache"
        self.home.mkdir()
        self.bin.mkdir()
        (self.bin / "sh").symlink_to(program("sh", "dash"))

    def has(self, name: str, script: str = "") -> Path:
        """Put a program on its PATH: this Python, or a script for sh."""
        place = self.bin / name
        if script:
            place.write_text(f"#!/bin/sh\n{script}\n")
            place.chmod(0o755)
        else:
            place.symlink_to(PYTHON)
        return place

    def has_old_python(self, name: str) -> None:
        """A Python that takes itself for 3.6, wherever it is asked."""
        old = 'import sys; sys.version_info = (3, 6, 15, "final", 0); exec(sys.argv[-1])'
        self.has(name, f'[ "$1" = -V ] && echo Python 3.6.15 && exit\nexec {PYTHON} -I -c \'{old}\' "$@"')

    def sshd(self, **options: object) -> Sshd:
        """A server whose sessions have all that: this PATH and no other, this home, this cache."""
        own = {"HOME": str(self.home), "PATH": str(self.bin), "XDG_CACHE_HOME": str(self.cache)}
        return Sshd(env={**own, **self.env}, **QUICK, **options)

    @property
    def agent(self) -> Path:
        return self.cache / "cmdop" / f"agent-{agent_parcel().digest}.pyz"


@pytest.fixture
def bare(tmp_path: Path) -> Box:
    """A far side that has nothing but `sh`."""
    return Box(tmp_path)


@pytest.fixture
def box(bare: Box) -> Box:
    """A far side with a python3 and all of this system's programs."""
    bare.has("python3")
    bare.env["PATH"] = f"{bare.bin}:/usr/bin:/bin"
    return bare


@pytest.fixture
def sshd(box: Box) -> Iterator[Sshd]:
    with box.sshd() as sshd:
        yield sshd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """As `sshd`, for tests that change nothing there."""
    box = Box(tmp_path_factory.mktemp("server"))
    box.has("python3")
    box.env["PATH"] = f"{box.bin}:/usr/bin:/bin"
    with box.sshd() as sshd:
        yield sshd


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    with login_user("bash") as user:
        user.set_password(PASSWORD)
        yield user


@pytest.fixture
async def reach() -> AsyncIterator[Reach]:
    """Makes machines on this loop: at a server, or by any command. They are closed after the test."""
    with contextlib.ExitStack() as askings:
        made: list[StdioMachine] = []

        def make(
            where: Sshd | tuple[str, ...], user: str | None = None, *, ask: Asker | None = None, **place: Any
        ) -> StdioMachine:
            ssh = place.pop("ssh", {})
            command = ssh_to(where, user, **ssh) if isinstance(where, Sshd) else where
            asking = Asking(ask) if ask is not None else None
            if asking is not None:
                askings.callback(asking.close)
            kind = "ssh" if isinstance(where, Sshd) else "link"
            made.append(StdioMachine(Place("far", place.pop("kind", kind), command, **place), asking))
            return made[-1]

        yield make
        for machine in made:
            await machine.close()


async def failure(machine: StdioMachine) -> ConnectFailed:
    """Why it is not reached."""
    with pytest.raises(ConnectFailed) as raised:
        await machine.connect()
    assert machine.link.state == "down"
    assert raised.value.reason == machine.link.reason
    return raised.value


async def start(machine: StdioMachine, script: str, **options: Any) -> SessionFacts:
    return await machine.start(
        StartRequest(uuid.uuid4().hex, "a", free_name=True, script=script, tty="none", **options)
    )


async def output(machine: StdioMachine | Steady, session_id: str) -> str:
    """All that a session says until it ends."""
    said = b""
    while chunks := await machine.read(session_id, len(said), 64 * 1024):
        said += b"".join(chunk.data for chunk in chunks)
    return said.decode()


async def says(machine: StdioMachine, script: str) -> str:
    """All that a command prints there."""
    return await output(machine, (await start(machine, script)).id)


async def until(machine: StdioMachine, true: Callable[[LinkState], bool]) -> LinkState:
    """Wait until the link is so."""
    while not true(machine.link):
        await machine.link_change(machine.link)
    return machine.link


class Person:
    """Answers from a list, in order, and remembers what was asked."""

    def __init__(self, *answers: str | None) -> None:
        self.answers, self.questions = list(answers), list[Question]()

    async def __call__(self, question: Question) -> str | None:
        self.questions.append(question)
        return self.answers.pop(0)


# -- no way there


async def test_a_host_that_nobody_knows_is_told(server: Sshd, reach: Reach) -> None:
    nowhere = "x" * 64 + ".example"  # no name has a part so long, so that nobody need be asked

    error = await failure(reach(server, ssh={"HostName": nowhere}))

    assert error.reason.startswith(f"no host is called {nowhere}")
    assert "VPN" in error.remedy


async def test_a_port_where_nobody_listens_is_told(server: Sshd, reach: Reach) -> None:
    port = free_port()

    error = await failure(reach(server, ssh={"Port": port}))

    assert error.reason.startswith(f"nothing listens on port {port} of 127.0.0.1")
    assert not error.needs_you


@pytest.mark.parametrize(("command", "package"), [("ssh", "openssh-client"), ("docker", "docker.io")])
async def test_a_command_that_is_not_installed_is_told(
    reach: Reach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, package: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    error = await failure(reach((command, "box")))

    assert error.reason == f"there is no program '{command}' here"
    assert package in error.remedy
    assert error.needs_you


async def test_what_was_not_reached_is_tried_anew_by_the_next_call(box: Box, reach: Reach) -> None:
    with box.sshd() as sshd:
        machine = reach(sshd)
        sshd.stop()
        await failure(machine)
        sshd.start()

        assert await says(machine, "echo there") == "there\n"


# -- host keys


async def test_a_host_key_that_is_not_known_is_refused_where_nobody_can_be_asked(
    server: Sshd, reach: Reach, tmp_path: Path
) -> None:
    error = await failure(reach(server, ssh={"UserKnownHostsFile": tmp_path / "known"}))

    assert "is not known here" in error.reason
    assert fingerprint(server.host_key.with_name("host_key.pub")) in error.reason
    assert "nobody is there to say whether it is right" in error.reason
    assert error.needs_you
    assert not (tmp_path / "known").exists()


async def test_a_host_key_that_somebody_accepts_is_kept(server: Sshd, reach: Reach, tmp_path: Path) -> None:
    person, known = Person("yes"), {"UserKnownHostsFile": tmp_path / "known"}

    await reach(server, ask=person, ssh=known).connect()

    assert [(question.machine, question.kind, question.secret) for question in person.questions] == [
        ("far", "host key", False)
    ]
    assert fingerprint(server.host_key.with_name("host_key.pub")) in person.questions[0].text
    await reach(server, ssh=known).connect()


async def test_a_host_key_that_somebody_does_not_accept_is_refused(server: Sshd, reach: Reach, tmp_path: Path) -> None:
    error = await failure(reach(server, ask=Person("no"), ssh={"UserKnownHostsFile": tmp_path / "known"}))

    assert "not accepted" in error.reason
    assert error.needs_you


async def test_a_host_key_that_changed_is_told_with_both_fingerprints_and_the_way_out(
    server: Sshd, reach: Reach, tmp_path: Path
) -> None:
    known, other, person = tmp_path / "known", make_key(tmp_path / "other"), Person("yes")
    known.write_text(f"# kept by hand\n[{server.host}]:{server.port} {other.with_name('other.pub').read_text()}")

    error = await failure(reach(server, ask=person, ssh={"UserKnownHostsFile": known}))

    assert isinstance(error, HostKeyChanged)
    assert error.offered == fingerprint(server.host_key.with_name("host_key.pub"))
    assert error.known == (fingerprint(other.with_name("other.pub")),)
    assert (error.file, error.line) == (str(known), 2)
    assert error.offered in str(error)
    assert error.known[0] in str(error)
    assert f"ssh-keygen -R {shlex.quote(f'[{server.host}]:{server.port}')} -f {known}" in str(error)
    assert person.questions == []


# -- passwords


@pytest.fixture(scope="module")
def with_passwords() -> Iterator[Sshd]:
    with Sshd(PasswordAuthentication="yes", PubkeyAuthentication="no", **QUICK) as sshd:
        yield sshd


async def test_a_password_is_asked_for_once_for_a_link(with_passwords: Sshd, user: User, reach: Reach) -> None:
    person = Person(PASSWORD)
    machine = reach(with_passwords, user.name, ask=person)

    assert await says(machine, "whoami") == f"{user.name}\n"
    environment = await says(machine, "env")

    assert [(question.kind, question.secret) for question in person.questions] == [("password", True)]
    assert not re.search(f"{PASSWORD}|ASKPASS|CMDOP_ASK", environment)


async def test_a_wrong_password_is_told(with_passwords: Sshd, user: User, reach: Reach) -> None:
    person = Person("wrong", "wrong again")

    error = await failure(reach(with_passwords, user.name, ask=person, ssh={"NumberOfPasswordPrompts": 2}))

    assert error.reason.startswith("the password was not accepted")
    assert error.needs_you
    assert len(person.questions) == 2


async def test_a_password_that_nobody_is_there_to_give_is_told_at_once(
    with_passwords: Sshd, user: User, reach: Reach
) -> None:
    error = await failure(reach(with_passwords, user.name))

    assert "it asks for a password" in error.reason
    assert "nobody is there to answer" in error.reason
    assert error.needs_you


async def test_a_key_that_is_not_accepted_is_told(server: Sshd, reach: Reach, tmp_path: Path) -> None:
    error = await failure(reach(server, ssh={"IdentityFile": make_key(tmp_path / "stranger")}))

    assert "it accepted no key of yours" in error.reason
    assert "ssh-copy-id" in error.remedy
    assert error.needs_you


# -- Pythons


async def test_a_machine_without_any_python_is_told(bare: Box, reach: Reach) -> None:
    with bare.sshd() as sshd:
        error = await failure(reach(sshd))

    assert error.reason.startswith("no Python there; tried python3, python, python3.14")
    assert 'python = "/path/to/python3"' in error.remedy


async def test_a_machine_without_any_path_is_told(reach: Reach) -> None:
    error = await failure(reach(("env", "-i", "PATH=/nowhere", "/bin/sh", "-c")))

    assert error.reason.startswith("python3 does not run there (exit 127")
    assert "not found" in error.reason
    assert 'python = "/path/to/python3"' in error.remedy


async def test_pythons_that_are_too_old_are_told(bare: Box, reach: Reach) -> None:
    bare.has_old_python("python3")
    bare.has("python", "echo install it >&2; exit 127")

    with bare.sshd() as sshd:
        error = await failure(reach(sshd))

    assert error.reason == "no Python from 3.9 on there: python3 is 3.6.15, python does not run"
    assert not bare.cache.exists()


@pytest.mark.parametrize("first", ["missing", "old"])
async def test_another_python_is_found_by_looking_further(bare: Box, reach: Reach, first: str) -> None:
    if first == "old":
        bare.has_old_python("python3")
    good, steps = bare.has("python3.11"), list[str]()

    with bare.sshd() as sshd:
        hello = await reach(sshd).connect(steps.append)

    assert hello["path"] == str(good)
    assert [step for step in steps if step.endswith("looking for another Python")]


async def test_the_configured_python_wins(bare: Box, reach: Reach, tmp_path: Path) -> None:
    bare.has("python3", f'echo ran > {tmp_path}/ran; exec {PYTHON} "$@"')
    mine = tmp_path / "mine"
    mine.symlink_to(PYTHON)

    with bare.sshd() as sshd:
        hello = await reach(sshd, python=str(mine)).connect()

    assert hello["path"] == str(mine)
    assert not (tmp_path / "ran").exists()


async def test_a_configured_python_that_is_not_there_is_told_and_no_other_is_taken(box: Box, reach: Reach) -> None:
    with box.sshd() as sshd:
        error = await failure(reach(sshd, python="/opt/none/python3"))

    assert "/opt/none/python3" in error.reason
    assert "does not run there" in error.reason


# -- folders


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size; needs root."""
    assert os.getuid() == 0, "mounting a small disk needs root: sudo make test"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_cache_without_room_is_told(box: Box, reach: Reach) -> None:
    with disk(box.cache, "128k") as small, box.sshd() as sshd:
        with open(small / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):  # noqa: ASYNC230
            while True:
                file.write(bytes(4096))
        error = await failure(reach(sshd))
        left = list((small / "cmdop").glob("*"))

    assert "the agent cannot be kept there: No space left on device" in error.reason
    assert "XDG_CACHE_HOME" in error.remedy
    assert left == []


async def test_a_home_that_is_read_only_is_told(box: Box, reach: Reach, tmp_path: Path) -> None:
    with disk(tmp_path / "ro", "1m") as home:
        subprocess.run(["mount", "-o", "remount,ro", str(home)], check=True)  # noqa: ASYNC221
        box.env.update(HOME=str(home), XDG_CACHE_HOME="")
        with box.sshd() as sshd:
            error = await failure(reach(sshd))

    assert "the agent cannot be kept there: Read-only file system" in error.reason
    assert f"{home}/.cache" in error.reason


@pytest.mark.parametrize(("mode", "why"), [(0o755, "its mode is 755, it must be 700"), (None, "Read-only file system")])
async def test_a_folder_for_sessions_that_cannot_be_is_told(
    box: Box, reach: Reach, tmp_path: Path, mode: int | None, why: str
) -> None:
    with disk(tmp_path / "disk", "1m") as state:
        box.env["CMDOP_STATE_DIR"] = str(state)
        if mode is None:
            subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)  # noqa: ASYNC221
        else:
            (state / "sessions").mkdir()
            (state / "sessions").chmod(mode)
        with box.sshd() as sshd:
            error = await failure(reach(sshd))

    assert why in error.reason
    assert str(state) in error.reason


async def test_an_agent_that_was_tampered_with_never_runs_and_is_replaced(
    box: Box, sshd: Sshd, reach: Reach, tmp_path: Path
) -> None:
    assert (await reach(sshd).connect())["was"] == "missing"
    evil = f"open({str(tmp_path / 'ran')!r}, 'w')"
    box.agent.write_bytes(parcel_of({"__main__.py": evil.encode()}, "0").data)

    machine = reach(sshd)
    hello = await machine.connect()

    assert hello["was"] == "damaged"
    assert hashlib.sha256(box.agent.read_bytes()).hexdigest() == hello["agent"] == agent_parcel().digest
    assert await says(machine, "echo well") == "well\n"
    assert not (tmp_path / "ran").exists()


async def test_each_step_is_reported(sshd: Sshd, reach: Reach) -> None:
    steps = list[str]()

    hello = await reach(sshd).connect(steps.append)

    assert steps[0].startswith("running ssh -F ")
    assert steps[1:] == [f"Python {hello['python']} on {hello['hostname']}, agent missing"]
    assert hello["round_trip"] > 0


# -- what answers is no shell


async def test_a_forced_command_is_told_with_its_first_bytes(box: Box, reach: Reach) -> None:
    with box.sshd(ForceCommand="echo This account is restricted to backups") as sshd:
        error = await failure(reach(sshd))

    assert "it printed: This account is restricted to backups" in error.reason
    assert "ForceCommand" in error.remedy


async def test_a_login_shell_that_lets_nobody_in_is_told(reach: Reach) -> None:
    with login_user("nologin") as user, Sshd(**QUICK) as sshd:
        error = await failure(reach(sshd, user.name))

    assert "it printed: This account is currently not available." in error.reason
    assert "restricted shell" in error.remedy


# -- the user's own ssh_config, shell and place


async def test_no_option_of_the_users_spoils_the_link(server: Sshd, reach: Reach, tmp_path: Path) -> None:
    options: dict[str, object] = {
        "RequestTTY": "force",
        "RemoteCommand": "echo another command",
        "LocalForward": f"127.0.0.1:{server.port} 127.0.0.1:1",  # that port is taken
        "ExitOnForwardFailure": "yes",
        "PermitLocalCommand": "yes",
        "LocalCommand": f"touch {tmp_path}/ran",
        "SessionType": "none",
        "StdinNull": "yes",
        "ForkAfterAuthentication": "yes",
        "EscapeChar": "a",
    }

    machine = reach(server, ssh=options)

    assert await says(machine, "printf 'a~.\\r\\n\\0b'") == "a~.\r\n\0b"
    assert not (tmp_path / "ran").exists()
    assert machine._link._process.poll() is None  # it did not leave the link to a child


async def test_no_master_is_made_whatever_the_user_has_set(server: Sshd, reach: Reach) -> None:
    path = server.folder / "master"
    machine = reach(server, ssh={"ControlMaster": "auto", "ControlPath": path, "ControlPersist": "yes"})

    assert await says(machine, "echo there") == "there\n"
    assert not path.exists()


async def test_a_master_of_the_users_is_used_and_left_alone(server: Sshd, reach: Reach) -> None:
    path = server.folder / "master"
    config = server.ssh_config(ControlPath=path)
    with subprocess.Popen(["ssh", "-F", config, "-M", "-N", "box"], stdin=subprocess.DEVNULL) as master:  # noqa: ASYNC220
        wait_until(path.exists)
        serving = server.children()
        machine = reach(server, ssh={"ControlPath": path})

        assert await says(machine, "echo there") == "there\n"
        assert server.children() == serving
        await machine.close()
        assert master.poll() is None
        master.terminate()


async def test_a_bashrc_that_prints_before_and_after_harms_nothing(user: User, reach: Reach) -> None:
    bashrc = user.home / ".bashrc"
    bashrc.write_text("echo welcome; printf 'no newline'; trap 'echo and goodbye' EXIT\n")
    user.owns(bashrc)
    with Sshd(**QUICK) as sshd:
        machine = reach(sshd, user.name)
        try:
            assert await says(machine, "printf exactly this") == "exactly"
            await machine.close()
        finally:
            bashrc.unlink()

    assert machine.link == LinkState("down", "closed", since=machine.link.since)


async def test_a_login_shells_environment_is_taken_where_that_is_asked(user: User, reach: Reach) -> None:
    profile = user.home / ".profile"
    profile.write_text("export FROM_LOGIN='by the profile'; echo welcome\n")
    user.owns(profile)
    with Sshd(**QUICK) as sshd:
        assert await says(reach(sshd, user.name, login=True), 'echo "<$FROM_LOGIN>"') == "<by the profile>\n"


async def test_what_a_place_says_of_sessions_reaches_them(server: Sshd, reach: Reach, tmp_path: Path) -> None:
    shell = Path(program("dash", "dash")).resolve()  # noqa: ASYNC240
    machine = reach(
        server, cwd=str(tmp_path), env={"COLOUR": "dark blue"}, shell=str(shell), detach=("env", "DETACHED=by env")
    )

    said = await says(machine, 'pwd; echo "$COLOUR, $DETACHED"; readlink /proc/$$/exe')

    assert said.splitlines() == [str(tmp_path), "dark blue, by env", str(shell)]


async def test_what_a_session_asks_for_wins_over_its_place(server: Sshd, reach: Reach, tmp_path: Path) -> None:
    machine = reach(server, cwd=str(tmp_path), env={"COLOUR": "blue", "SHAPE": "round"}, shell=program("dash", "dash"))

    facts = await start(machine, "pwd; echo $COLOUR $SHAPE", cwd="/", env={"COLOUR": "red"}, shell="/bin/bash")

    assert facts.argv[0] == "/bin/bash"
    assert await output(machine, facts.id) == "/\nred round\n"


@pytest.fixture
def ssh_agent(tmp_path: Path) -> Iterator[Path]:
    """The socket of an agent that holds one key."""
    socket = tmp_path / "agent"
    words = [program("ssh-agent", "openssh-client"), "-D", "-a", str(socket)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        wait_until(socket.exists)
        env = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
        subprocess.run(["ssh-add", "-q", make_key(tmp_path / "carried")], env=env, check=True, stdin=subprocess.DEVNULL)
        yield socket
        process.terminate()


async def test_a_forwarded_agent_serves_a_session_across_redials(
    sshd: Sshd, reach: Reach, ssh_agent: Path, tmp_path: Path
) -> None:
    machine = reach(sshd, ssh={"ForwardAgent": "yes", "IdentityAgent": ssh_agent})
    steady = Steady(machine)
    facts = await start(machine, 'while read go; do echo "$SSH_AUTH_SOCK"; ssh-add -l; done')
    await steady.write(facts.id, "me", 0, b"\n")
    status = await steady.status(facts.id)
    while status.newlines < 2:
        await steady.read(facts.id, status.end, 1)
        status = await steady.status(facts.id)

    sshd.kill_children()
    await until(machine, lambda link: link.redials == 1)
    await steady.write(facts.id, "me", 1, b"\n", eof=True)

    key = fingerprint(tmp_path / "carried.pub")
    lines = (await output(steady, facts.id)).splitlines()
    assert lines[::2] == [str(sshd.state / "ssh-agent")] * 2
    assert [line.split()[1] for line in lines[1::2]] == [key, key]


# -- by name


async def test_a_machine_of_the_configuration_is_reached_by_its_name_and_remembered(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    words = ", ".join(f'"{word}"' for word in ssh_to(server))
    config.write_text(f"[machines.web1]\nlink = [{words}]\nenv = {{ COLOUR = 'red' }}\n")
    monkeypatch.setenv("CMDOP_CONFIG", str(config))
    monkeypatch.setattr(directory, "_machines", {})
    monkeypatch.setattr(directory, "_asking", None)
    machine = directory.machine("web1")
    assert directory.reached_before() == []

    stream = await Terminal(machine).create(command="echo $COLOUR")
    await stream.wait_for("^red$", timeout=30)

    assert directory.machine("web1") is machine
    assert directory.reached_before() == ["web1"]
    runtime().wait(machine.close())
    monkeypatch.setattr(directory, "_machines", {})
    assert directory.reached_before() == ["web1"]
    directory.forget("web1")
    assert directory.reached_before() == []
    runtime().wait(closed_on_io(directory._asking))


async def closed_on_io(asking: Asking | None) -> None:
    assert asking is not None
    asking.close()


# -- the life of a link


@given(attempt=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_a_pause_is_at_least_half_of_the_longest_it_may_be(attempt: int, chance: float) -> None:
    shortest, longest = pause_before(attempt, 0.0), pause_before(attempt, 1.0)

    assert shortest <= pause_before(attempt, chance) <= longest == 2 * shortest
    assert FIRST_PAUSE <= shortest <= longest <= LONGEST_PAUSE


@given(attempt=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_pauses_double_up_to_the_longest(attempt: int, chance: float) -> None:
    doubled = 2 * pause_before(attempt, chance)
    assert pause_before(attempt + 1, chance) == min(doubled, pause_before(10_000, chance))


@contextlib.asynccontextmanager
async def watched(machine: StdioMachine) -> AsyncIterator[list[LinkState]]:
    """All that the link is meanwhile."""
    seen = [machine.link]

    async def watch() -> None:
        while True:
            seen.append(await machine.link_change(seen[-1]))

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        if seen[-1] is not machine.link:
            seen.append(machine.link)


def words(links: list[LinkState]) -> list[str]:
    """The states, each once however long it lasted."""
    states = [link.state for link in links]
    return [state for at, state in enumerate(states) if states[at - 1 : at] != [state]]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """The shortest pause between two tries, shorter than it is."""
    monkeypatch.setattr(far_machines, "FIRST_PAUSE", 0.1)
    return 0.1


async def test_a_first_dial_goes_by_connecting(server: Sshd, reach: Reach) -> None:
    machine = reach(server)
    async with watched(machine) as seen:
        await machine.connect()

    assert words(seen) == ["down", "connecting", "up"]
    assert machine.link.redials == 0
    assert machine.link.reason == ""


async def test_a_link_that_is_cut_comes_back_by_itself(sshd: Sshd, reach: Reach) -> None:
    machine = reach(sshd)
    await machine.connect()
    async with watched(machine) as seen:
        for count in (1, 2):
            sshd.kill_children()
            await until(machine, lambda link, count=count: link.redials == count)

    assert words(seen) == ["up", "retrying", "up", "retrying", "up"]
    assert all(link.reason for link in seen if link.state == "retrying")
    assert [link.since for link in seen] == sorted(link.since for link in seen)


async def test_while_nobody_is_there_the_next_try_is_shown_and_calls_wait(
    sshd: Sshd, reach: Reach, impatient: float
) -> None:
    machine = reach(sshd)
    facts = await start(machine, WAIT_FOR_A_LINE)
    async with watched(machine) as seen:
        sshd.stop()
        waiting = await until(machine, lambda link: link.next_try is not None)
        call = asyncio.create_task(Steady(machine).status(facts.id))
        later = await until(machine, lambda link: link.next_try not in (None, waiting.next_try))
        assert not call.done()
        sshd.start()
        status = await call

    assert (waiting.state, later.state) == ("retrying", "retrying")
    assert "nothing listens on port" in later.reason
    assert waiting.next_try is not None
    assert impatient <= waiting.next_try - waiting.since <= 2 * impatient
    assert status.state == "running"
    assert words(seen) == ["up", "retrying", "up"]


async def test_a_call_that_a_cut_met_says_that_sessions_go_on(sshd: Sshd, reach: Reach) -> None:
    machine = reach(sshd)
    facts = await start(machine, WAIT_FOR_A_LINE)
    status = await machine.status(facts.id)
    call = asyncio.create_task(machine.status(facts.id, status.seq))
    await machine.status(facts.id)  # by now the first is there

    sshd.kill_children()

    with pytest.raises(LinkLost, match=r"the link to far broke \(.+\); sessions there go on"):
        await call


async def test_a_silent_peer_is_noticed(sshd: Sshd, reach: Reach) -> None:
    machine = reach(sshd, silence=1.0)
    await machine.connect()
    async with watched(machine) as seen:
        sshd.kill_children(signal.SIGSTOP)
        await until(machine, lambda link: link.redials == 1)

    assert next(link.reason for link in seen if link.state == "retrying") == "no word in 1 s"


async def test_a_failure_that_somebody_has_to_see_to_is_not_repeated(sshd: Sshd, reach: Reach) -> None:
    machine = reach(sshd)
    facts = await start(machine, WAIT_FOR_A_LINE + "; echo mended")
    waiting = asyncio.create_task(output(Steady(machine), facts.id))
    sshd.authorized_keys.write_text("")
    sshd.kill_children()

    down = await until(machine, lambda link: link.state == "down")
    error = await failure(machine)

    assert "it accepted no key of yours" in down.reason
    assert error.needs_you
    assert not waiting.done()
    sshd.authorize(sshd.identity)
    await machine.connect()
    assert (machine.link.state, machine.link.redials) == ("up", 1)
    await machine.write(facts.id, "me", 0, b"\n")
    assert await waiting == "mended\n"


async def test_a_start_that_was_cut_off_is_answered_when_the_machine_is_back(
    sshd: Sshd, reach: Reach, impatient: float
) -> None:
    machine = reach(sshd, silence=1.0)
    await machine.connect()
    machine._link._stdout.pause_reading()  # so that no answer gets here
    starting = asyncio.create_task(Steady(machine).start(StartRequest("the-id", "once", script=WAIT_FOR_A_LINE)))
    other = reach(sshd)
    while "the-id" not in [facts.id for facts, _ in await other.sessions()]:
        pass

    sshd.stop()
    await until(machine, lambda link: link.next_try is not None)
    sshd.start()

    assert (await starting).id == "the-id"


async def test_closing_ends_a_start_that_waits_for_the_link(sshd: Sshd, reach: Reach) -> None:
    machine = reach(sshd, silence=1.0)
    await machine.connect()
    sshd.kill_children(signal.SIGSTOP)
    starting = asyncio.create_task(Steady(machine).start(StartRequest("the-id", "once", script="true")))
    sshd.authorized_keys.write_text("")
    await until(machine, lambda link: link.state == "down")

    await machine.close()

    with pytest.raises(ConnectFailed, match="its client was closed"):
        async with asyncio.timeout(20):
            await starting


async def test_words_between_the_frames_end_the_link_with_a_clear_reason(reach: Reach, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    script = f'(read go < {tmp_path}/go; printf "%s" "$go") & eval "$1"'
    own = ("env", f"CMDOP_STATE_DIR={tmp_path}/far", f"XDG_CACHE_HOME={tmp_path}/cache")
    machine = reach((*own, "sh", "-c", script, "sh"))
    await machine.connect()
    async with watched(machine) as seen:
        (tmp_path / "go").write_text("job 1 is done\n")
        await until(machine, lambda link: link.redials == 1)

    broken = next(link for link in seen if link.state == "retrying")
    assert broken.reason.startswith("not a frame: it would have ")


async def test_calls_at_once_share_one_dial(server: Sshd, reach: Reach) -> None:
    machine = reach(server)

    hellos = await asyncio.gather(*(machine.connect() for _ in range(5)), machine.sessions())

    assert len({hello["pid"] for hello in hellos[:5]}) == 1
    assert machine.link.redials == 0


async def test_closing_leaves_no_process_but_the_sessions(server: Sshd, reach: Reach) -> None:
    machine = reach(server)
    hello = await machine.connect()
    facts = await start(machine, WAIT_FOR_A_LINE)
    command = (await machine.status(facts.id)).pid
    ours, theirs = os.pidfd_open(machine._link._process.pid), os.pidfd_open(hello["pid"])
    try:
        await machine.close()

        for handle in (ours, theirs):
            assert (await asyncio.to_thread(select.select, [handle], [], [], 20))[0]
    finally:
        os.close(ours)
        os.close(theirs)
    assert machine.link.state == "down"
    with pytest.raises(ConnectFailed, match="its client was closed"):
        await machine.connect()
    other = reach(server)
    status = await other.status(facts.id)
    assert (status.state, status.pid) == ("running", command)


async def test_closing_ends_a_dial_under_way_and_tells_who_waits_for_it(reach: Reach, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never")
    machine = reach(("sh", "-c", f"read go < {tmp_path}/never", "sh"))
    steps: asyncio.Queue[str] = asyncio.Queue()
    dialling = asyncio.create_task(machine.connect(steps.put_nowait))
    await steps.get()

    await machine.close()

    with pytest.raises(ConnectFailed, match="its client was closed"):
        await dialling


# -- as streams show it


@pytest.fixture
def far(sshd: Sshd) -> Iterator[StdioMachine]:
    """A machine of the I/O thread, for streams."""
    machine = StdioMachine(Place("far", "ssh", ssh_to(sshd)))
    yield machine
    runtime().wait(machine.close())


async def on_io(work: Any) -> Any:
    return await asyncio.wrap_future(runtime().submit(work))


async def test_handlers_are_told_of_cuts_and_returns(sshd: Sshd, far: StdioMachine, impatient: float) -> None:
    stream = await Terminal(far).create(command="exec cat", tty="none")
    told: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    stream.on_disconnect(lambda reason: told.put_nowait(("gone", reason)))
    stream.on_reconnect(lambda gap: told.put_nowait(("back", gap)))
    await stream.send_input("before\n")  # by now the handlers look

    sshd.stop()
    gone = await told.get()
    await on_io(until(far, lambda link: link.next_try is not None))
    assert stream.link == "retrying"
    sshd.start()
    back = await told.get()
    await stream.send_input("after\n")
    await stream.send_eof()
    await stream

    assert (gone[0], back[0]) == ("gone", "back")
    assert gone[1]
    assert impatient < back[1] < 60
    assert stream.link == "up"
    assert stream.read() == b"before\nafter\n"
    stream.close()


async def test_a_stop_made_while_the_link_is_away_arrives_when_it_is_back(
    sshd: Sshd, far: StdioMachine, impatient: float
) -> None:
    stream = await Terminal(far).create(command="echo up; exec sleep 1000", name="api")
    await stream.wait_for("up", timeout=30)
    assert stream.state == "running"
    sshd.stop()
    await on_io(until(far, lambda link: link.next_try is not None))

    stopping = stream.stop()
    assert await on_io(stops(stream)) == {stream.session_id}
    shown = repr(stream)
    assert not stopping.done()
    sshd.start()
    report = await stopping

    assert re.fullmatch(r"<Stream api on far: running, link retrying \(.+\), a stop waits for it>", shown)
    assert [name.partition("[")[0] for name in report.ended] == ["sleep"]
    assert (stream.state, await on_io(stops(stream))) == ("ended", set())


async def stops(stream: Stream) -> set[str]:
    return set(stream._machine.stops)


async def test_a_cut_ends_no_wait_and_no_handler(sshd: Sshd, far: StdioMachine) -> None:
    stream = await Terminal(far).create(command="while read line; do echo got $line; done", tty="none")
    heard = list[bytes]()
    stream.on_output(heard.append, thread=True)
    wait = stream.wait_for(r"got second", timeout=60)
    await stream.send_input("first\n")

    sshd.kill_children()
    await stream.send_input("second\n")
    match = await wait
    await stream.send_eof()
    await stream

    assert match.line == "got second"
    assert stream.read() == b"got first\ngot second\n"
    assert far.link.redials == 1


async def test_a_machine_that_needs_somebody_is_told_to_who_starts_something(sshd: Sshd, far: StdioMachine) -> None:
    stream = await Terminal(far).create(command="exec cat", tty="none", name="api")
    sshd.authorized_keys.write_text("")
    sshd.kill_children()
    await on_io(until(far, lambda link: link.state == "down"))

    assert "link down (it accepted no key of yours" in repr(stream)
    with pytest.raises(ConnectFailed, match="ssh-copy-id"):
        await Terminal(far).create(command="true")
    sshd.authorize(sshd.identity)
    assert str(await (await Terminal(far).create(command="true"))) == "exit 0"
    assert stream.state == "running"
