"""What is typed into a session arrives once and in order, on terminals and pipes; prompts can be told apart."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys

import pytest

from cmdop_jupyter.agent.errors import InputTooLong, InvalidRequest, SessionOver

PYTHON = f"{shlex.quote(sys.executable)} -I -S"
ECHOES = 'while IFS= read -r x; do printf "<%s>\\n" "$x"; done'


def test_input_asks_on_the_terminal_and_stdout_stays_clean(start):
    session = start(f'{PYTHON} -c \'name = input("who? "); print(f"hello {{name}}")\'')
    asked = session.until_logged(b"who? ", "stderr")  # where Python puts it
    assert asked["echo"] is True
    session.type(b"world\n")
    session.until_ended()

    assert session.log() == {"stderr": b"who? ", "tty": b"world\r\n", "stdout": b"hello world\n"}


def test_getpass_asks_with_echo_off_and_the_answer_is_logged_nowhere(start):
    session = start(f"{PYTHON} -c 'import getpass; print(len(getpass.getpass(\"Secret: \")))'")
    asked = session.until_logged(b"Secret: ", "tty")
    assert asked["echo"] is False
    session.type(b"hunter2\n")
    session.until_ended()

    assert session.log() == {"stdout": b"7\n", "tty": b"Secret: \r\n"}


def test_a_prompt_on_dev_tty_as_of_sudo_is_told_from_a_plain_question(start):
    script = """
    exec 3<>/dev/tty
    printf 'continue? ' >&3; read -r yes <&3
    stty -echo <&3; printf '[sudo] password for me: ' >&3; read -r word <&3; stty echo <&3; echo >&3
    echo "$yes ${#word}"
    """
    session = start(script)
    assert session.until_logged(b"continue? ", "tty")["echo"] is True
    session.type(b"yes\n")
    assert session.until_logged(b"password for me: ", "tty")["echo"] is False
    session.type(b"0123456789\n")
    session.until_ended()

    assert session.text() == b"yes 10\n"
    assert b"0123" not in session.text("tty")


@pytest.mark.parametrize(("tty", "asked"), [("none", {}), ("split", {"input": False})])
def test_without_a_terminal_for_input_there_is_no_echo_to_tell_of(start, tty, asked):
    assert start("sleep 1000", tty=tty, **asked).status()["echo"] is None


@pytest.mark.parametrize("tty", ["split", "full", "none"])
def test_a_write_that_is_repeated_types_once(start, tty):
    session = start(ECHOES, tty=tty)
    with contextlib.closing(session.connect()) as wire:
        for _ in range(3):
            assert wire.ask("write", b"one\n", writer="a", offset=0) == {"accepted": 4}
        assert wire.ask("write", b"e\ntwo\n", writer="a", offset=2) == {"accepted": 8}
        assert wire.ask("write", b"two", writer="a", offset=4) == {"accepted": 8}
        assert wire.ask("write", b"three\n", writer="b", offset=0) == {"accepted": 6}
        with pytest.raises(InvalidRequest, match="came before"):
            wire.ask("write", b"late\n", writer="a", offset=9)
    session.type(b"", eof=True)
    session.until_ended()

    assert b"".join(line for line in session.text().splitlines(True) if line.startswith(b"<")).replace(b"\r", b"") == (
        b"<one>\n<two>\n<three>\n"
    )


@pytest.mark.parametrize("tty", ["split", "full", "none"])
def test_ten_thousand_lines_arrive_once_and_in_order(start, tty):
    lines = b"".join(b"line %d\n" % number for number in range(10_000))
    session = start("stty -echo 2>/dev/null; echo ready; cat >got; cmp got wanted && wc -l <got", tty=tty, cwd=".")
    session.until_logged(b"ready")
    with contextlib.closing(session.connect()) as wire:
        numbers = [
            wire.send("write", lines[offset : offset + 1000], writer="a", offset=offset)
            for offset in range(0, len(lines), 700)  # each overlaps the next
        ]
        assert [wire.answer(number)["accepted"] for number in numbers][-1] == len(lines)
        wire.ask("write", b"", writer="a", offset=len(lines), eof=True)
    status = session.until_ended()

    assert status["exit"] == {"code": 0}
    assert session.text().split() == [b"ready", b"10000"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Commands run in a folder that has the ten thousand lines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wanted").write_bytes(b"".join(b"line %d\n" % number for number in range(10_000)))


@pytest.mark.parametrize("tty", ["split", "none"])
def test_a_command_that_does_not_read_makes_writers_wait_and_loses_nothing(start, tty):
    session = start("stty -echo 2>/dev/null; mkfifo gate; echo ready; read <gate; wc -c", tty=tty)
    session.until_logged(b"ready")
    line = b"x" * 99 + b"\n"
    with contextlib.closing(session.connect()) as wire:
        numbers = [wire.send("write", line * 100, writer="a", offset=10_000 * number) for number in range(50)]
        assert wire.answer(numbers[0])["accepted"] == 10_000
        wire.ask("status")  # answered, so all writes were heard
        assert not set(numbers) <= set(wire.answers)
        (session.folder / "../../../gate").write_text("go\n")
        assert wire.answer(numbers[-1])["accepted"] == 500_000
        wire.ask("write", b"", writer="a", offset=500_000, eof=True)
    session.until_ended()

    assert session.text() == b"ready\n500000\n"


def test_writers_that_wait_are_told_when_the_command_is_over(start):
    session = start("stty raw -echo; setsid sleep 1000 & echo ready; sleep 1001")  # its output stays held
    session.until_logged(b"ready")
    with contextlib.closing(session.connect()) as wire:
        numbers = [wire.send("write", b"y" * 60_000, writer="a", offset=60_000 * number) for number in range(4)]
        wire.ask("status")
        session.ask("signal", signal="KILL")
        with pytest.raises(SessionOver, match="exited"):
            wire.answer(numbers[-1])


def test_a_line_that_the_terminal_would_cut_is_refused_whole(start):
    session = start("read -r x; echo ${#x}; read -r y; echo ${#y}")
    with pytest.raises(InputTooLong, match="4096"):
        session.type(b"first\n" + b"x" * 4096 + b"\n")
    session.type(b"x" * 4095 + b"\nlast\n")
    session.until_ended()

    assert session.text() == b"4095\n4\n"


def test_a_pipe_takes_a_line_of_any_length(start):
    session = start("read -r x; echo ${#x}", tty="none")
    session.type(b"x" * 500_000 + b"\n")
    session.until_ended()

    assert session.text() == b"500000\n"


@pytest.mark.parametrize("tty", ["split", "full", "none"])
@pytest.mark.parametrize("text", [b"", b"a line\n", b"no end of line"])
def test_the_end_of_input_is_seen_once_also_when_it_is_repeated(start, tty, text, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    session = start(f"stty -echo 2>/dev/null; echo ready; wc -c; cat | wc -c; : < {go}", tty=tty)
    session.until_logged(b"ready")
    with contextlib.closing(session.connect()) as wire:
        for _ in range(2):
            assert wire.ask("write", text, writer="a", offset=0, eof=True) == {"accepted": len(text)}
        if tty != "none":
            session.until_logged(b"%d" % len(text))
            wire.ask("write", b"more\n", writer="b", offset=0, eof=True)
    go.write_bytes(b"")
    session.until_ended()

    more = 0 if tty == "none" else 5
    assert session.text().split() == [b"ready", b"%d" % len(text), b"%d" % more]


def test_input_where_there_is_none_or_where_it_was_closed_is_refused(start):
    without = start("sleep 1000", input=False)
    with pytest.raises(SessionOver, match="without input"):
        without.type(b"x")
    closed = start("cat; sleep 1000", tty="none")
    closed.type(b"x\n", eof=True)
    closed.until_logged(b"x\n")
    with pytest.raises(SessionOver, match="without input"):
        closed.type(b"y\n")


def test_a_key_that_interrupts_reaches_the_foreground_group(start):
    session = start("trap 'echo INT; exit 6' INT; echo ready; while :; do read -t 60 x; done")
    session.until_logged(b"ready")
    session.type(b"\x03")

    assert session.until_ended()["exit"] == {"code": 6}
    assert session.text() == b"ready\nINT\n"


def test_bytes_of_every_kind_arrive_on_a_raw_terminal_and_a_pipe(start):
    every = bytes(range(256)) * 30
    for tty in ("split", "none"):
        session = start("stty raw -echo 2>/dev/null; echo ready; head -c 7680 | cksum", tty=tty)
        session.until_logged(b"ready\n")
        session.type(every)
        session.until_ended()
        assert session.text().split()[1:] == [b"1444259374", b"7680"]
