"""What a command finds its stdin, stdout and stderr to be, in each mode; and that its bytes come out unchanged."""

from __future__ import annotations

import os
import shlex
import signal
import sys

import pytest

from cmdop_jupyter.agent.terminals import Ends

PYTHON = f"{shlex.quote(sys.executable)} -I -S"
FACTS = f"""{PYTHON} -c '
import os
for fd in 0, 1, 2:
    print(fd, os.ttyname(fd) if os.isatty(fd) else "no terminal", *(os.get_terminal_size(fd) if os.isatty(fd) else ()))
try:
    print("/dev/tty", os.tcgetpgrp(os.open("/dev/tty", os.O_RDWR)) == os.getpgrp())
except OSError as error:
    print("/dev/tty", error.strerror)
'"""


def told(session) -> list[str]:
    session.until_ended()
    return session.text().decode().replace("\r\n", "\n").splitlines()


def test_split_is_three_terminals_of_120_by_40_and_the_third_controls(start):
    lines = told(start(FACTS))

    names = [line.split()[1] for line in lines[:3]]
    assert len(set(names)) == 3
    assert all(line.endswith(" 120 40") for line in lines[:3])
    assert lines[3] == "/dev/tty True"


def test_full_is_one_terminal(start):
    lines = told(start(FACTS, tty="full"))

    assert len({line.split()[1] for line in lines[:3]}) == 1
    assert lines[0].endswith(" 120 40")
    assert lines[3] == "/dev/tty True"


def test_none_is_pipes_without_a_controlling_terminal(start):
    lines = told(start(FACTS, tty="none"))

    assert lines == ["0 no terminal", "1 no terminal", "2 no terminal", "/dev/tty No such device or address"]


def test_a_size_can_be_asked_for(start):
    lines = told(start(FACTS, cols=90, rows=12))

    assert all(line.endswith(" 90 12") for line in lines[:3])


@pytest.mark.parametrize("tty", ["split", "full", "none"])
def test_without_input_stdin_is_dev_null_and_no_terminal_controls(start, tty):
    session = start(
        "readlink /proc/self/fd/0; (: </dev/tty) 2>/dev/null || echo none; cat; echo end", tty=tty, input=False
    )

    assert told(session) == ["/dev/null", "none", "end"]


@pytest.mark.parametrize("tty", ["split", "none"])
def test_stdout_and_stderr_stay_apart_and_exact(start, tty, tmp_path):
    data = {
        "stdout": os.urandom(300_000) + bytes(range(256)) * 20,
        "stderr": b"\r\n\n\x00\x04\x03\x1a\x11\x13\xff" * 9000,
    }
    for channel, bytes_of in data.items():
        (tmp_path / channel).write_bytes(bytes_of)
    session = start(f"cat {tmp_path}/stderr >&2 & cat {tmp_path}/stdout; wait", tty=tty)
    session.until_ended()

    assert session.log() == data


def test_what_is_written_to_dev_tty_is_a_channel_of_its_own(start):
    session = start("echo out; echo err >&2; echo terminal >/dev/tty")
    session.until_ended()

    assert session.log() == {"stdout": b"out\n", "stderr": b"err\n", "tty": b"terminal\r\n"}


def test_python_does_not_block_buffer_its_output(start):
    session = start(f"{PYTHON} -c 'import sys; print(1); print(2, file=sys.stderr); print(3, end=\"\\n\"); input()'")
    session.until_logged(b"1\n3\n")
    session.type(b"\n")
    session.until_ended()

    assert session.log()["stderr"] == b"2\n"


def test_a_new_size_reaches_the_command(start):
    session = start("trap 'stty size </dev/tty; exit' WINCH; echo ready; while :; do read -t 60 x; done")
    session.until_logged(b"ready")
    session.ask("resize", cols=77, rows=33)
    session.until_ended()

    assert session.text() == b"ready\n33 77\n"


@pytest.mark.parametrize(("cols", "rows"), [(0, 10), (10, -1), (70000, 10)])
def test_a_size_that_cannot_be_is_refused(start, cols, rows):
    session = start("read x")

    with pytest.raises(ValueError, match="cannot be"):
        session.ask("resize", cols=cols, rows=rows)


def test_a_login_shell_has_one_terminal_and_job_control(start):
    session = start(shell="bash --norc --noprofile")
    session.type(b"sleep 1000 & jobs; echo $((6 * 7)) $0 $-\n")
    session.until_logged(b"\r\n42 bash")
    session.type(b"kill %1; exit 5\n")
    status = session.until_ended()

    assert status["exit"] == {"code": 5}
    assert b"[1]+  Running" in session.text()


def test_signals_that_a_notebook_ignores_or_blocks_work_in_the_command(start):
    old = signal.signal(signal.SIGQUIT, signal.SIG_IGN), signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR2})
    try:
        session = start("grep -E 'Sig(Blk|Ign)' /proc/self/status")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGQUIT, old[0])
        signal.signal(signal.SIGUSR1, old[1])
    session.until_ended()

    blocked, ignored = [int(line.split()[1], 16) for line in session.text().splitlines()]
    reserved = 0b11 << 31  # 32 and 33 belong to the C library: what a parent ignores of them cannot be undone
    assert (blocked, ignored & ~reserved) == (0, 0)


def test_a_command_inherits_no_file_of_its_supervisor(start):
    session = start(f"{PYTHON} -c 'import os; print(sorted(os.listdir(\"/proc/self/fd\")))'", tty="none")
    session.until_ended()

    assert session.text() == b"['0', '1', '2', '3']\n"  # 3 is the listing's own


def test_a_program_may_close_its_terminals_and_go_on(start):
    session = start("exec >&- 2>&- </dev/null; echo lost; echo still here >/dev/tty; exit 4")
    status = session.until_ended()

    assert status["exit"] == {"code": 4}
    assert session.text("tty") == b"still here\r\n"


def test_the_name_of_a_terminal_that_is_closed_is_not_looked_for():
    ends, (reader, writer) = Ends(), os.pipe()
    ends.readers["tty"], ends.places[reader] = reader, ("/dev/pts/3", 1)

    ends.close("tty")

    assert not ends.places  # it is the next terminal's name
    os.close(writer)
