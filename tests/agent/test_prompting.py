"""Who waits for what is typed, as the supervisor finds out: real programs on real terminals."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from cmdop_jupyter.agent import prompting

from .conftest import Session

PYTHON = f"exec {shlex.quote(sys.executable)} -I -c "
POLLS = "import select, sys\nwhile True:\n    select.select([0], [], [], 0.05)\n    print('.', end='', flush=True)"
LOOP = """import asyncio
async def main():
    asyncio.get_running_loop().add_reader(0, print)
    print("ready? ", flush=True)
    await asyncio.sleep(100)
asyncio.run(main())"""
THREAD = "import threading, time; threading.Thread(target=input, args=('n? ',)).start(); time.sleep(100)"
READERS = {
    "read of bash": ("read -p 'name: ' x", True),
    "read -s of bash": ("read -s -p 'word: ' x", False),
    "read of sh": ("exec sh -c 'read x'", True),
    "input": (f"{PYTHON}'input(\"n? \")'", True),
    "getpass": (f"{PYTHON}'import getpass; getpass.getpass()'", False),
    "a thread": (PYTHON + shlex.quote(THREAD), True),
    "cat": ("cat", True),
    "a child of a child": ("(bash -c 'read x; echo $x'; true); true", True),
    "select without end": (f"{PYTHON}'import select; select.select([0], [], [])'", True),
    "poll without end": (f"{PYTHON}'import select; p = select.poll(); p.register(0, 1); p.poll()'", True),
}


def until_read(session: Session, *how: str) -> dict[str, Any]:
    """The answer, once somebody waits so."""
    while (answer := session.ask("prompt"))["reading"] not in how:
        assert session.status()["state"] == "running", session.text()
    return answer


@pytest.mark.parametrize("tty", ["split", "full"])
@pytest.mark.parametrize("program", READERS)
def test_who_sleeps_in_a_read_of_its_terminal_is_found(start, program, tty):
    script, echo = READERS[program]
    session = start(script, tty=tty)

    answer = until_read(session, "read")

    assert (answer["echo"], answer["canonical"]) == (echo, True)


def test_readline_waits_for_keys_and_shows_them_itself(start):
    session = start(f"{PYTHON}'import readline; input(\"n? \")'", tty="full")

    answer = until_read(session, "read")

    assert (answer["echo"], answer["canonical"]) == (False, False)


def test_a_shell_at_its_prompt_waits(start):
    session = start(argv=["bash", "--norc", "-i"], tty="full")

    assert until_read(session, "read")["canonical"] is False


@pytest.mark.parametrize("program", [LOOP, POLLS], ids=["a loop", "polls and prints"])
def test_who_waits_for_input_among_other_things_is_told_apart(start, program):
    session = start(PYTHON + shlex.quote(program))

    until_read(session, "poll")


@pytest.mark.parametrize("script", ["sleep 1000", "while :; do :; done", "sleep 1000 < /dev/tty", "cat <(sleep 1000)"])
def test_who_computes_or_sleeps_does_not_wait_for_input(start, script):
    session = start(f"printf working...; {script}")
    session.until_logged(b"working...")

    assert {session.ask("prompt")["reading"] for _ in range(20)} == {""}


@pytest.mark.parametrize("more", [{"tty": "none"}, {"input": False}], ids=["pipes", "no input"])
def test_without_a_terminal_to_type_at_nobody_waits(start, more):
    session = start("echo begin; cat <(sleep 1000)", **more)
    session.until_logged(b"begin")

    assert session.ask("prompt")["reading"] == ""


def test_a_job_in_the_background_does_not_wait_for_what_is_typed(start):
    session = start("set -m; cat & echo begin; sleep 1000")
    session.until_logged(b"begin")

    assert {session.ask("prompt")["reading"] for _ in range(20)} == {""}


def test_a_command_that_has_exited_waits_for_nothing(start):
    session = start("sleep 1000 & exit 0")
    session.until_state("exited")

    assert session.ask("prompt")["reading"] == ""


def test_the_answer_says_how_far_the_log_was(start):
    session = start("read -p 'name: ' x")

    assert until_read(session, "read")["end"] == len("name: ")


def test_asking_costs_the_supervisor_milliseconds(start):
    session = start("read x")
    until_read(session, "read")
    pid = session.status()["supervisor"]

    def used() -> int:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(words[11]) + int(words[12])

    before = used()
    for _ in range(20):
        session.ask("prompt")

    assert (used() - before) / os.sysconf("SC_CLK_TCK") / 20 < 0.05


# -- where the system tells less


@pytest.fixture
def waiting(start) -> tuple[int, int, int]:
    """The terminal, the process session and the foreground group of a command that reads."""
    session = start("exec cat")
    until_read(session, "read")
    status = session.status()
    return os.stat(f"/proc/{status['pid']}/fd/0").st_rdev, status["supervisor"], status["pid"]


def refuse(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    text = prompting._text

    def refusing(path: str) -> str:
        if os.path.basename(path) in names:
            raise PermissionError(path)
        return text(path)

    monkeypatch.setattr(prompting, "_text", refusing)


def test_without_syscall_the_kernel_s_function_tells(waiting, monkeypatch):
    refuse(monkeypatch, "syscall")

    assert prompting.reading(*waiting) in ("read", "poll")


def test_without_either_a_sleeper_is_hidden(waiting, monkeypatch):
    refuse(monkeypatch, "syscall", "wchan")

    assert prompting.reading(*waiting) == "hidden"


def test_an_unknown_kind_of_machine_goes_by_the_function_too(waiting, monkeypatch):
    monkeypatch.setattr(prompting, "_CALLS", {})

    assert prompting.reading(*waiting) in ("read", "poll")


def test_nothing_at_all_is_told_where_there_is_no_proc(waiting, monkeypatch):
    monkeypatch.setattr(os.path, "isdir", lambda _: False)

    assert prompting.reading(*waiting) == "hidden"
