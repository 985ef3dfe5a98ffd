"""Machines by name: where names come from, who is remembered, and who is asked what a link asks."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import live_terminal
from reach import own_places

from cmdop_jupyter import directory
from cmdop_jupyter.client import Terminal
from cmdop_jupyter.errors import ConfigError, ConnectFailed, InvalidRequest, UnknownMachine
from cmdop_jupyter.machines.asking import Question
from cmdop_jupyter.machines.local import LocalMachine
from cmdop_jupyter.machines.stdio import StdioMachine
from cmdop_jupyter.runtime import Pending, runtime

ASKS = 'word=$("$SSH_ASKPASS" "me@box password: ") || exit 9; [ "$word" = sesame ] || exit 8; exec sh -c "$0"'
CONNECT = """
import sys
from cmdop_jupyter import directory
from cmdop_jupyter.client import Terminal
from cmdop_jupyter.runtime import Pending
for name in sys.argv[1:]:
    Pending(directory.machine(name).connect(), name).result()
print(directory.reached_before())
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without a configuration, which is the current folder as well, and no machine asked for yet."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "CMDOP_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"_machines": {}, "_places": {}, "_asker": None, "_asking": None}.items():
        monkeypatch.setattr(directory, name, value)
    yield home
    machines = directory.here().values()
    runtime().wait(close_all([*machines]))
    if directory._asking is not None:
        runtime().wait(closed(directory._asking))


async def close_all(machines) -> None:
    for machine in machines:
        await machine.close()


async def closed(asking) -> None:
    asking.close()


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> list[str]:
    """A link on this machine, whose sessions are those of whoever makes it."""
    return ["env", own_places(tmp_path_factory.mktemp("shell"))[2], "sh", "-c"]


def configure(home: Path, **links: list[str]) -> None:
    lines = [f"[machines.{name}]\nlink = {json.dumps(words)}\n" for name, words in links.items()]
    (home / "cmdop.toml").write_text("".join(lines))


def connect(name: str) -> None:
    runtime().wait(directory.machine(name).connect(), timeout=60)


# -- names


def test_without_a_name_it_is_this_machine():
    machine = directory.machine()

    assert isinstance(machine, LocalMachine)
    assert directory.machine("local") is machine


def test_a_name_comes_from_the_file_in_the_current_folder_or_above(home, shell, monkeypatch):
    configure(home, far=shell)
    (home / "work" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(home / "work" / "deeper")

    machine = directory.machine("far")

    assert isinstance(machine, StdioMachine)
    assert (machine.name, machine.place.command) == ("far", tuple(shell))
    assert machine.place.source == "cmdop.toml in ~"


def test_a_name_is_one_machine_however_often_it_is_asked_for(home, shell):
    configure(home, far=shell, near=shell)

    assert directory.machine("far") is directory.machine("far")
    assert directory.machine("far") is not directory.machine("near")
    assert set(directory.here()) == {"far", "near"}


def test_a_way_to_get_there_is_a_name_too():
    machine = directory.machine("docker://box")

    assert isinstance(machine, StdioMachine)
    assert machine.place.kind == "docker"
    assert directory.machine("docker://box") is machine


def test_a_host_of_ssh_is_a_name_too(home):
    (home / ".ssh").mkdir()
    (home / ".ssh" / "config").write_text("Host box\n    HostName 192.0.2.1\n")

    machine = directory.machine("box")

    assert isinstance(machine, StdioMachine)
    assert machine.place.kind == "ssh"


def test_what_nothing_is_called_is_told_with_what_looks_like_it(home, shell):
    configure(home, webserver=shell)

    with pytest.raises(UnknownMachine) as unknown:
        directory.machine("websever")

    assert unknown.value.nearest == ("webserver",)
    assert directory.here() == {}


def test_a_way_that_cannot_be_is_refused():
    with pytest.raises(InvalidRequest):
        directory.machine("ssh://")


def test_a_file_that_is_wrong_does_not_keep_from_this_machine(home, caplog):
    (home / "cmdop.toml").write_text("[machines\n")

    assert isinstance(directory.machine("local"), LocalMachine)
    assert str(home / "cmdop.toml") in caplog.text
    with pytest.raises(ConfigError):
        directory.machine("far")


def test_how_commands_run_on_this_machine_may_be_configured(home, tmp_path):
    (home / "cmdop.toml").write_text(f'[machines.local]\ncwd = "{tmp_path}"\nenv = {{ GREETING = "hello" }}\n')
    stream = Terminal().create(command="pwd; echo $GREETING", tty="none").result()
    stream.wait_exit(60).result()

    assert stream.text() == f"{tmp_path}\nhello\n"


# -- changes


def test_a_changed_configuration_is_taken_up_before_the_first_dial(home, shell):
    configure(home, far=["false"])
    old = directory.machine("far")
    configure(home, far=shell)

    assert directory.machine("far") is not old
    assert directory.machine("far").place.command == tuple(shell)


def test_a_changed_configuration_is_taken_up_after_a_failed_dial(home, shell):
    configure(home, far=["false"])
    with pytest.raises(ConnectFailed):
        connect("far")
    configure(home, far=shell)

    connect("far")

    assert directory.machine("far").link.state == "up"


def test_a_changed_configuration_waits_while_the_link_is_up(home, shell):
    configure(home, far=shell)
    connect("far")
    machine = directory.machine("far")
    configure(home, far=["false"])

    assert directory.machine("far") is machine

    runtime().wait(machine.close())
    assert directory.machine("far").place.command == ("false",)


# -- who was reached before


def test_nobody_was_reached_before(home, shell):
    configure(home, far=shell)
    directory.machine("far")

    assert directory.reached_before() == []


def test_who_was_reached_is_remembered_by_other_processes_too_the_newest_first(home, shell):
    configure(home, one=shell, two=shell, three=["false"])

    other = subprocess.run([sys.executable, "-c", CONNECT, "one", "two"], capture_output=True, text=True, timeout=60)
    assert (other.stdout, other.stderr) == ("['two', 'one']\n", "")
    assert directory.reached_before() == ["two", "one"]

    with pytest.raises(ConnectFailed):
        connect("three")
    assert directory.reached_before() == ["two", "one"]

    connect("one")
    assert directory.reached_before() == ["one", "two"]


def test_who_is_forgotten_is_not_listed(home, shell):
    configure(home, one=shell, two=shell)
    subprocess.run([sys.executable, "-c", CONNECT, "one", "two"], check=True, stdout=subprocess.PIPE, timeout=60)

    directory.forget("two")
    directory.forget("nobody")

    assert directory.reached_before() == ["one"]


@pytest.mark.parametrize("text", ["", "{", "{}", "[1, null]", "\xff"], ids=repr)
def test_a_memory_that_makes_no_sense_is_none(home, shell, state_dir, text):
    state_dir.mkdir(mode=0o700)
    (state_dir / "machines.json").write_bytes(text.encode("latin-1"))
    configure(home, far=shell)

    assert directory.reached_before() == []
    connect("far")
    assert directory.reached_before() == ["far"]
    assert json.loads((state_dir / "machines.json").read_text()) == ["far"]


def test_so_many_are_remembered(home, shell, state_dir, monkeypatch):
    monkeypatch.setattr(directory, "RECENT", 2)
    configure(home, one=shell, two=shell, three=shell)

    for name in ("one", "two", "three"):
        connect(name)

    assert json.loads((state_dir / "machines.json").read_text()) == ["three", "two"]


# -- questions


class Person:
    """Answers what is asked in the page."""

    def __init__(self, answer: str | None) -> None:
        self.answer, self.questions = answer, []

    async def __call__(self, question: Question) -> str | None:
        self.questions.append(question)
        return self.answer


def asking(shell: list[str]) -> list[str]:
    """A link that wants a password."""
    return [*shell, ASKS]


def test_while_nobody_waits_on_the_main_thread_the_asker_is_asked(home, shell):
    configure(home, far=asking(shell))
    person = Person("sesame")
    directory.set_asker(person)

    runtime().submit(directory.machine("far").connect()).result(60)

    ((question,)) = person.questions
    assert (question.machine, question.secret) == ("far", True)
    assert "password" in question.text


def test_an_asker_may_be_taken_away(home, shell):
    configure(home, far=asking(shell))
    person = Person("sesame")
    directory.set_asker(person)
    directory.set_asker(None)

    with pytest.raises(ConnectFailed):
        runtime().submit(directory.machine("far").connect()).result(60)
    assert person.questions == []


def test_an_asker_that_has_no_answer_ends_the_dial(home, shell):
    configure(home, far=asking(shell))
    person = Person(None)
    directory.set_asker(person)

    with pytest.raises(ConnectFailed):
        runtime().submit(directory.machine("far").connect()).result(60)
    assert len(person.questions) == 1


def test_without_a_keyboard_who_waits_is_told_so(home, shell):
    configure(home, far=asking(shell))

    done = subprocess.run(
        [sys.executable, "-c", CONNECT, "far"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 1
    assert "ConnectFailed: far was not reached" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("waiting", ["result", "await"])
def test_who_waits_at_a_terminal_is_asked_there(home, shell, waiting, tmp_path):
    configure(home, far=asking(shell))
    code = CONNECT
    if waiting == "await":
        code = "import asyncio\n" + CONNECT.replace(
            "Pending(directory.machine(name).connect(), name).result()",
            "asyncio.run(asyncio.wait_for(Pending(directory.machine(name).connect(), name), 60))",
        )
    (tmp_path / "connect.py").write_text(code)
    with live_terminal() as terminal:
        command = f"cd {home}; {sys.executable} {tmp_path}/connect.py far"
        stream = asyncio.run(terminal.create(command=command, tty="full"))
        stream.wait_for(r"far.*password", timeout=60).result()
        stream.send_input("sesame\n").result()

        assert stream.wait_exit(60).result().code == 0, stream.text()
        assert "['far']" in stream.text()
        assert "sesame" not in stream.text()


def test_who_waits_is_asked_before_the_page(home, shell, monkeypatch):
    """Where nobody can be asked, the one who waits says so, and the page is not asked."""
    configure(home, far=asking(shell))
    person = Person("sesame")
    directory.set_asker(person)
    monkeypatch.setattr(directory, "_ask_here", lambda question: "sesame")

    Pending(directory.machine("far").connect(), "connect").result(60)

    assert person.questions == []
