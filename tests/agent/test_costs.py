"""What a session costs that nobody looks at: little memory of its own, and no wake-ups."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from .conftest import Session

WAITS = "exec sleep 1000"


def private_kb(pid: int) -> int:
    """Memory that only this process has, in kB; see proc(5), smaps_rollup."""
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    return sum(int(words[1]) for words in lines if words[0] in ("Private_Clean:", "Private_Dirty:"))


def switches(pid: int) -> int:
    """How often a process went to sleep so far, told when it sleeps."""
    while "\nState:\tS" not in Path(f"/proc/{pid}/status").read_text():
        pass
    return int(Path(f"/proc/{pid}/status").read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def test_a_supervisor_that_idles_has_less_than_5_mb_of_its_own(start):
    start(WAITS)  # it compiles what is not compiled yet
    first = start(WAITS)  # with two of them what they share is not counted

    assert private_kb(first.status()["supervisor"]) * 1024 < 5_000_000


@pytest.mark.parametrize("tty", ["split", "full", "none"])
def test_a_supervisor_that_idles_never_wakes_up(start, tty):
    idle: Session = start(WAITS, tty=tty)
    other = start("read x", tty=tty)
    with contextlib.closing(idle.connect()) as waiting, contextlib.closing(other.connect()) as clock:
        waiting.send("hello", owner="me")
        now = waiting.ask("status")
        waiting.send("status", seen=now["seq"], past=now["end"])  # somebody waits for output
        idle.status()  # answered, so that was heard
        pid = now["supervisor"]
        begin = clock.ask("status")["clock_ms"]
        before = switches(pid)
        while clock.ask("status")["clock_ms"] < begin + 1500:  # time passes for another session
            pass

        assert switches(pid) == before
