"""`cmdop-agent`, as it is run from a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cmdop_jupyter.agent
from cmdop_jupyter.agent.log import MIN_LIMIT

FOLDER = Path(cmdop_jupyter.agent.__file__).parent
WAITS = "echo out; read x"


def agent(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(FOLDER), *words]
    return subprocess.run(command, capture_output=True, text=True, **more)


def test_sessions_are_listed_oldest_first(start):
    start("echo one", name="first").until_ended()
    start(WAITS, name="second").until_logged(b"out")
    said = agent("sessions")

    lines = [line.split() for line in said.stdout.splitlines()]
    assert [(words[0], words[1], words[4], words[5]) for words in lines] == [
        ("first", "ended", "4", "B"),
        ("second", "running", "4", "B"),
    ]
    assert said.returncode == 0


def test_a_log_is_printed_as_it_is(start, tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path / "data").write_bytes(data)
    session = start(f"cat {tmp_path}/data", name="api", tty="none")
    session.until_ended()
    with open(tmp_path / "copy", "wb") as copy:
        subprocess.run([sys.executable, "-I", "-S", str(FOLDER), "log", "api"], stdout=copy, check=True)

    assert (tmp_path / "copy").read_bytes() == data


def test_what_was_dropped_of_a_log_is_said_and_the_rest_is_printed(start):
    session = start("seq 60000", name="api", max_log=MIN_LIMIT)
    status = session.until_ended()
    said = agent("log", session.id)

    gap_from, gap_to = status["dropped"]
    assert len(said.stdout) == status["end"] - (gap_to - gap_from)
    assert f"bytes {gap_from} to {gap_to} of the log were dropped" in said.stderr


def test_whoever_reads_a_log_may_stop_reading(start):
    session = start("seq 300000", name="api", tty="none")
    session.until_ended()
    command = f"{sys.executable} -I -S {FOLDER} log api | head -n 1"
    said = subprocess.run(["bash", "-c", command], capture_output=True, check=True)

    assert (said.stdout, said.stderr) == (b"1\n", b"")


def test_a_session_is_stopped_by_name_and_removed_by_id(start, store):
    session = start(WAITS, name="api")
    stopped = agent("stop", "api")
    session.until_ended()
    again, removed = agent("stop", "api"), agent("remove", session.id)

    assert stopped.stdout.startswith("api: stopped by INT in ")
    assert again.stdout == "api had ended already\n"
    assert (stopped.returncode, again.returncode, removed.returncode) == (0, 0, 0)
    assert store.sessions() == []


def test_a_lost_session_is_stopped_too(start):
    session = start("trap '' HUP; echo out; sleep 1000", name="api", tty="none")
    session.until_logged(b"out")
    session.kill_supervisor()

    assert agent("stop", "api").stdout.startswith("api: stopped by INT in ")


def test_sweeping_says_how_many_went(start):
    session = start("true")
    session.until_ended()
    os.utime(session.folder / "status", (0, 0))

    assert agent("prune").stdout == "1 sessions removed\n"


@pytest.mark.parametrize("words", [["log", "nope"], ["stop", "nope"], ["remove", "nope"]])
def test_what_fails_is_one_line_and_status_1(words):
    said = agent(*words)

    assert said.returncode == 1
    assert said.stderr.startswith("cmdop-agent: no session 'nope' here")
    assert said.stderr.count("\n") == 1


def test_what_makes_no_sense_is_status_2():
    assert agent("frobnicate").returncode == 2
