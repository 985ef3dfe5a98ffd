"""IPython in a terminal, where there is no page: what was waited for is printed, once, as text."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
import termios
import time

import pyte
import pytest

SHELL = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.autoawait = True
for cell in sys.argv[1:]:
    shell.run_cell(cell, store_history=True)
"""
LOAD = "%load_ext cmdop_jupyter"
GO = "read go"


@pytest.fixture
def run(state_dir, tmp_path):
    """Run cells in a shell that is no kernel's."""

    def run(*cells: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")}
        command = [sys.executable, "-c", SHELL, LOAD, *cells]
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=100)

    return run


def test_what_was_waited_for_is_printed_once(run):
    done = run(
        "%%cmdop --name api --tty none\nseq 3; printf 'go? '; read go; seq 4 6; exec sleep 1000",
        "print('first'); match = await wait_for('go', 'api'); print('matched', match[0])",
        "api.send_input('\\n').result(); match = wait_for('6', 'api').result(); print('last')",
        "%cmdop stop api",
    )

    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("<Stream api on this machine: ")
    assert lines[1:12] == ["first", "1", "2", "3", "go?", "matched go", "4", "5", "6", "last", *lines[11:12]]
    assert "api: stopped by INT" in lines[11]


def test_wait_prints_the_output_and_an_error_is_one_line(run):
    done = run("%%cmdop --name build --tty none --wait\necho compiling; echo warning >&2; exit 3", "print('after')")

    lines = done.stdout.splitlines()
    assert "compiling" in lines
    assert done.stderr == "warning\n"
    assert "after" in lines
    failure = lines.index("\x1b[31mCommandFailed\x1b[39m: build failed (exit 3); its last lines:")
    assert lines[failure - 1] in ("compiling", "")


def test_what_is_printed_can_do_nothing_to_the_terminal(run):
    done = run(
        "%%cmdop --name evil --tty none --wait\n"
        r"printf '\033]52;c;aGk=\007\033[31mred\033[0m\033[2J \303\274 10%%\r20%%\n\000end\n'"
    )

    shown = done.stdout.partition("\n")[2]
    assert "20%" in shown
    assert "end" in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)


def test_a_flood_is_printed_whole_and_in_order(run):
    done = run("%%cmdop --name flood --wait\nseq 20000")

    assert [line for line in done.stdout.splitlines() if line.isdigit()] == [str(number) for number in range(1, 20_001)]


def test_several_waits_at_once_print_each_line_once(run):
    done = run(
        f"%%cmdop --name api --tty none\n{GO}; seq 100; exec sleep 1000",
        "waits = [wait_for('^100$', 'api') for _ in range(3)]; _ = api.send_input('\\n')",
        "for wait in waits: wait.result()",
        "_ = api.stop().result()",
    )

    assert [line for line in done.stdout.splitlines() if line.isdigit()] == [str(number) for number in range(1, 101)]


def test_lines_of_several_threads_stay_whole(run):
    done = run(
        f"%%cmdop --name api --tty none\n{GO}; seq 1000; exec sleep 1000",
        "for _ in range(3): api.on_output(lambda line: print(line.strip()), unit='line', thread=True)",
        "wait = wait_for('^1000$', 'api'); _ = api.send_input('\\n')",
        "for number in range(1000): print('here', number)",
        "wait.result(); _ = api.stop().result()",
    )

    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert {line for line in lines if line.isdigit()} == {str(number) for number in range(1, 1001)}
    assert [line for line in lines if line.startswith("here")] == [f"here {number}" for number in range(1000)]


def test_half_a_line_is_shown_when_it_is_flushed(run):
    done = run("import sys; sys.stderr.write('b'); print('a', end='')", "print('c')", "print('d', end='')")

    assert done.stdout.endswith("ac\nd")
    assert done.stderr == "b"


def test_keep_and_the_verbs_read_well_as_text(run):
    done = run("%%cmdop --name api --wait\necho hello", "%cmdop keep api", "%cmdop ps", "%cmdop tail api")

    assert "api on this machine: exit 0, " in done.stdout
    assert re.search(r"^api +local +exit 0 ", done.stdout, re.MULTILINE)
    assert done.stdout.count("hello") >= 4


def test_in_a_terminal_the_last_row_says_what_is_waited_for_and_what_is_printed_goes_above_it(state_dir, tmp_path):
    wait = "until test -e go; do sleep 0.05; done"
    script = f"echo first; printf half; {wait}; printf '\\rwhole\\n'; echo done; sleep 1000"
    cells = [
        LOAD,
        f"%%cmdop --name api --tty none\n{script}",
        "_ = api.on_output(lambda data: print('handled'), channel='stdout', unit='line')",
        "match = await wait_for('^done$', 'api')",
        "_ = api.stop().result(); print('over')",
    ]
    screen = pyte.Screen(100, 40)
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython"), "TERM": "xterm-256color"}

    with pty_of([sys.executable, "-c", SHELL, *cells], screen, environment, tmp_path) as until:
        waiting = until(lambda rows: any(row.startswith("… waiting for /^done$/ in api") for row in rows[-1:]))
        until(lambda rows: rows[-1].endswith(" · half"))
        (tmp_path / "go").touch()
        rows = until(lambda rows: rows[-1:] == ["over"])

    assert "first" in waiting[:-1]
    assert [row for row in rows if row in ("first", "whole", "done")] == ["first", "whole", "done"]
    assert rows.count("handled") == 4  # `half` was a line too
    assert not any("waiting" in row for row in rows)


@contextlib.contextmanager
def pty_of(command, screen, environment, folder):
    """Run a command on a terminal; gives what waits until the screen's rows are as wanted, and returns them."""
    stream = pyte.ByteStream(screen)
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (screen.lines, screen.columns))
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=folder, start_new_session=True
    )
    os.close(theirs)

    def until(wanted):
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # it has ended
                if select.select([ours], [], [], 0.1)[0]:
                    stream.feed(os.read(ours, 65536))
            rows = [row.rstrip() for row in screen.display if row.strip()]
            if wanted(rows or [""]):
                return rows
        raise AssertionError(screen.display)

    try:
        yield until
    finally:
        process.kill()
        process.wait()
        os.close(ours)
