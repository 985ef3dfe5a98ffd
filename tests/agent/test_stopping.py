"""How a stop goes on: which signal when, and what is told of it."""

from __future__ import annotations

import pytest

from cmdop_jupyter.agent.stopping import LAST_WORD, MAX_NAMED, Stopping, told
from cmdop_jupyter.agent.tree import Process


def process(pid: int, name: str = "sleep") -> Process:
    return Process(pid, 1, pid, pid, "S", name, "0")


def test_signals_go_from_int_over_term_to_kill_each_after_its_grace():
    stopping, alive = Stopping("command", 2.0, 100.0), [process(7)]

    sent = [(now, stopping.step(now, alive)) for now in (100.0, 101.9, 102.0, 103.9, 104.0)]

    assert sent == [(100.0, "INT"), (101.9, ""), (102.0, "TERM"), (103.9, ""), (104.0, "KILL")]


def test_a_login_shell_gets_hup_first():
    assert Stopping("shell", 2.0, 0.0).step(0.0, [process(7)]) == "HUP"


def test_the_report_comes_when_nobody_is_left():
    stopping = Stopping("command", 2.0, 0.0)
    stopping.step(0.0, [process(7), process(8)])
    stopping.step(1.0, [process(8), process(9)])
    assert stopping.report is None
    stopping.step(1.5, [])

    assert stopping.report == {
        "took": "INT",
        "seconds": 1.5,
        "ended": ["sleep[7]", "sleep[8]", "sleep[9]"],
        "left": [],
    }


def test_a_process_that_runs_another_program_meanwhile_is_told_once():
    stopping = Stopping("command", 2.0, 0.0)
    stopping.step(0.0, [process(7, "bash")])
    stopping.step(0.1, [process(7, "sleep")])
    stopping.step(0.2, [])

    assert stopping.report["ended"] == ["sleep[7]"]


def test_nothing_to_stop_is_told_as_such():
    stopping = Stopping("command", 2.0, 0.0)

    assert stopping.step(0.0, []) == ""
    assert stopping.report == {"took": "", "seconds": 0.0, "ended": [], "left": []}


def test_without_grace_the_signals_follow_at_once():
    stopping = Stopping("command", 0.0, 0.0)

    assert [stopping.step(0.0, [process(7)]) for _ in range(3)] == ["INT", "TERM", "KILL"]


def test_kill_reaches_those_who_were_forked_while_we_looked():
    stopping = Stopping("command", 0.0, 0.0)
    for _ in range(3):
        stopping.step(0.0, [process(7)])

    assert stopping.step(LAST_WORD / 2, [process(8)]) == "KILL"


def test_those_who_are_left_are_named_with_the_reason():
    stopping = Stopping("command", 0.0, 0.0)
    for _ in range(3):
        stopping.step(0.0, [process(7), process(8)])
    stopping.refused(process(7), "not permitted")
    stopping.step(LAST_WORD, [process(7), process(8)])

    assert stopping.report["took"] == "KILL"
    assert stopping.report["left"] == ["sleep[7]: not permitted", "sleep[8]: still there"]


def test_who_holds_the_output_is_told_once():
    stopping = Stopping("command", 0.0, 0.0)
    for _ in range(3):
        stopping.step(0.0, [process(7)])
    stopping.refused(process(7), "not permitted")
    stopping.step(LAST_WORD, [process(7)])
    stopping.add_holders([process(7), process(9, "node")])

    assert stopping.report["left"] == ["sleep[7]: not permitted", "node[9]: has the output open"]


@pytest.mark.parametrize("many", [MAX_NAMED, MAX_NAMED + 5])
def test_a_report_names_a_thousand_processes_at_most(many):
    stopping = Stopping("command", 0.0, 0.0)
    stopping.step(0.0, [process(pid) for pid in range(many)])
    stopping.step(0.0, [])

    ended = stopping.report["ended"]
    assert len(ended) == min(many, MAX_NAMED + 1)
    assert (ended[-1] == "and 5 more") == (many > MAX_NAMED)


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (("", 0.0, (), ()), "nothing was left to stop"),
        (("INT", 0.12, ("a[1]",), ()), "stopped by INT in 0.1 s"),
        (("KILL", 4.0, ("a[1]", "b[2]"), ()), "stopped by KILL in 4.0 s (2 processes)"),
        (
            ("KILL", 5.0, ("a[1]",), ("b[2]: not permitted",)),
            "stopped by KILL in 5.0 s; could not end b[2]: not permitted",
        ),
        (
            ("", 0.0, (), ("b[2]: has the output open",)),
            "nothing could be stopped; could not end b[2]: has the output open",
        ),
    ],
)
def test_a_report_is_one_line(report, words):
    assert told(*report) == words
