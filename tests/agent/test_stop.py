"""A stop takes the whole tree, asks nicely first, and tells what it took and what it could not."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys

import pytest

from cmdop_jupyter.agent.errors import SessionOver

COUNTS_INTS = """
import signal, sys, time
seen = []
def count(*_):
    seen.append(1)
    signal.setitimer(signal.ITIMER_REAL, 0.3)  # would a second one come?
def tell(*_):
    print("INT came", len(seen), "times", flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, count)
signal.signal(signal.SIGALRM, tell)
print("ready", flush=True)
while True:
    time.sleep(1000)
"""


SLEEPS = "sh -c 'echo ready; exec sleep 1000'; exit 5"  # a shell that waits for its child


def names(report: dict, key: str = "ended") -> list[str]:
    return sorted(name.partition("[")[0] for name in report[key])


@pytest.mark.parametrize("tty", ["split", "full", "none"])
def test_a_command_that_heeds_int_ends_by_it(start, tty):
    session = start(SLEEPS, tty=tty)
    session.until_logged(b"ready")
    report = session.stop()
    status = session.until_ended()

    assert report["took"] == "INT"
    assert len(report["ended"]) == 2
    assert report["left"] == []
    assert status["exit"] == {"signal": "INT"}
    assert status["stopped"] == report


@pytest.mark.parametrize("tty", ["split", "full", "none"])
def test_a_program_gets_one_int_only(start, tty):
    session = start(f"#!{sys.executable}\n{COUNTS_INTS}", tty=tty)
    session.until_logged(b"ready")
    report = session.stop(grace=30.0)
    session.until_ended()

    assert report["took"] == "INT"
    assert b"INT came 1 times" in session.text()


@pytest.mark.parametrize("mode", ["raw -echo", "intr undef"])
def test_a_program_whose_terminal_makes_no_int_of_a_key_gets_it_too(start, mode):
    session = start(f"stty {mode}; exec {shlex.quote(sys.executable)} -c {shlex.quote(COUNTS_INTS)}")
    session.until_logged(b"ready")
    session.stop(grace=30.0)
    session.until_ended()

    assert b"INT came 1 times" in session.text()


def test_a_command_whose_input_is_full_gets_its_int_too(start):
    session = start(SLEEPS)
    session.until_logged(b"ready")
    with contextlib.closing(session.connect()) as wire:
        for number in range(60):
            wire.send("write", b"x" * 99 + b"\n" + b"y" * 3900 + b"\n", writer="a", offset=4001 * number)
        wire.ask("status")
        report = session.stop(grace=30.0)

    assert report["took"] == "INT"


def test_what_was_typed_before_a_stop_goes_with_it(start):
    session = start("trap : INT; stty -echo; echo ready; sleep 1000; cat")
    session.until_logged(b"ready")
    with contextlib.closing(session.connect()) as wire:
        for number in range(60):
            wire.send("write", b"x" * 3999 + b"\n", writer="a", offset=4000 * number)
        wire.ask("status")
        session.stop(grace=1.0)
    session.until_ended()

    assert session.text() == b"ready\n"


@pytest.mark.parametrize("tty", ["split", "full", "none"])
def test_a_command_that_ignores_int_and_term_is_killed_and_the_report_says_so(start, tty):
    session = start("trap '' INT TERM; echo ready; while :; do sleep 1000; done", tty=tty)
    session.until_logged(b"ready")
    report = session.stop(grace=0.2)
    status = session.until_ended()

    assert report["took"] == "KILL"
    assert report["seconds"] >= 0.4
    assert report["left"] == []
    assert "bash" in names(report)
    assert status["exit"] == {"signal": "KILL"}  # ours: not taken for the out-of-memory killer's


def test_grace_may_be_none_at_all(start):
    session = start("trap '' INT TERM; echo ready; sleep 1000; sleep 1000")
    session.until_logged(b"ready")

    assert session.stop(grace=0)["took"] == "KILL"


def test_a_loop_that_forks_all_the_time_is_killed_to_the_last_child(start):
    session = start("trap '' INT TERM; echo ready; while :; do sleep 0.01 & done 2>/dev/null", tty="none")
    session.until_logged(b"ready")
    report = session.stop(grace=0.1)
    session.until_ended()

    assert report["left"] == []


def test_a_grandchild_that_called_setsid_is_taken_too(start):
    session = start("sh -c 'setsid sleep 1000 & echo $!; wait'; sleep 1000")
    session.until_logged(b"\n")
    report = session.stop(grace=1.0)

    assert any(one.endswith(f"[{int(session.text())}]") for one in report["ended"])  # `sh` until it is `sleep`
    assert report["left"] == []


def test_a_daemon_that_forked_twice_and_closed_all_its_files_is_taken_too(start):
    daemon = "(setsid sh -c 'echo $$; exec sleep 1000 </dev/null >/dev/null 2>&1' &)"
    session = start(f"{daemon}; sleep 1001")
    session.until_logged(b"\n")
    report = session.stop(grace=1.0)

    assert any(one.endswith(f"[{int(session.text())}]") for one in report["ended"])
    assert report["left"] == []


def test_a_stopped_job_is_woken_so_that_it_can_end(start):
    session = start("trap '' INT HUP; sleep 1000 & kill -STOP $!; echo ready; wait")
    session.until_logged(b"ready")
    report = session.stop(grace=1.0)

    assert report["took"] == "TERM"
    assert len(report["ended"]) == 2
    assert report["left"] == []


def test_a_server_in_the_background_survives_the_script_and_goes_with_a_stop(start, tmp_path):
    server = "import time; print('listening', flush=True); open('ready', 'w').close(); time.sleep(1000)"
    python = f"{shlex.quote(sys.executable)} -c {shlex.quote(server)}"
    session = start(f"{python} & until [ -e ready ]; do sleep 0.01; done", cwd=str(tmp_path))
    status = session.until(lambda status: bool(status.get("held_by")))
    assert status["state"] == "exited"
    assert status["exit"] == {"code": 0}
    assert len(status["held_by"]) == 1
    assert status["held_by"][0].startswith("python")
    report = session.stop(grace=1.0)
    ended = session.until_ended()

    assert report["ended"] == status["held_by"]
    assert report["took"] == "TERM"  # a shell lets its background jobs ignore INT
    assert ended["exit"] == {"code": 0}


def test_who_left_every_trace_behind_but_holds_the_output_is_told(start):
    session = start("(env -i setsid -f sh -c 'echo there; exec sleep 1000')", tty="none")
    session.until_logged(b"there")
    session.until(lambda status: bool(status.get("held_by")))
    report = session.stop(grace=0.1)
    session.until_ended()
    pid = int(report["left"][0].partition("[")[2].partition("]")[0])
    subprocess.run(["kill", str(pid)], check=True)

    assert report["left"] == [f"sleep[{pid}]: has the output open"]


def test_a_login_shell_is_hung_up_with_its_jobs(start):
    session = start(shell="bash --norc --noprofile")
    session.type(b"sleep 1000 &\nsleep 1001 & echo $((6 * 7))\n")
    session.until_logged(b"\n42")
    report = session.stop()
    status = session.until_ended()

    assert report["took"] == "HUP"
    assert len(report["ended"]) == 3
    assert status["exit"] == {"signal": "HUP"}


def test_a_shell_at_its_prompt_is_stopped_as_a_command_too(start):
    session = start(argv=["bash", "--norc", "--noprofile", "-i"], tty="full")
    session.until(lambda status: status["end"] > 0, output=True)
    report = session.stop(grace=0.2)

    assert report["took"] == "KILL"  # an interactive shell ignores INT and TERM
    assert session.until_ended()["exit"] == {"signal": "KILL"}


def test_a_stop_repeated_with_one_call_is_done_once_and_both_are_answered(start):
    session = start(f"#!{sys.executable}\n{COUNTS_INTS}")
    session.until_logged(b"ready")
    with contextlib.closing(session.connect()) as one, contextlib.closing(session.connect()) as two:
        first = one.send("stop", call="c1", grace=30.0)
        second = two.send("stop", call="c1", grace=30.0)
        third = two.send("stop", call="c2", grace=30.0)
        answers = one.answer(first), two.answer(second), two.answer(third)
    session.until_ended()

    assert len({repr(answer["report"]) for answer in answers}) == 1
    assert session.text() == b"ready\nINT came 1 times\n"


def test_a_call_that_was_answered_gets_the_same_answer_when_it_is_repeated(start):
    session = start("echo ready; read x")
    session.until_logged(b"ready")
    with contextlib.closing(session.connect()) as wire:
        assert wire.ask("signal", signal="CONT", call="c1") == wire.ask("signal", signal="KILL", call="c1")

    assert session.status()["state"] == "running"


def test_while_a_stop_is_under_way_that_is_told(start):
    session = start("trap '' INT; echo ready; while :; do sleep 1000; done", tty="none")
    session.until_logged(b"ready")
    with contextlib.closing(session.connect()) as wire:
        asked = wire.send("stop", grace=0.5)
        told = wire.ask("status")
        assert (told["state"], told["stopping"]) == ("running", True)
        assert wire.answer(asked)["stopping"] is False


def test_a_session_that_is_over_takes_no_signals_and_no_sizes(start):
    session = start("sleep 1000 &")
    session.until_state("exited")
    for op, facts in (("signal", {"signal": "INT"}), ("resize", {"cols": 10, "rows": 10})):
        with pytest.raises(SessionOver, match="exited"):
            session.ask(op, **facts)
