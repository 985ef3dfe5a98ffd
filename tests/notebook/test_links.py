"""What is seen of a link that breaks: state and next try, the last picture, and nothing that looks like success."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernels import Kernel
from test_plain import LOAD, SHELL
from test_view import View, shown_and_skipped

from cmdop_jupyter.machines.base import LinkState
from cmdop_jupyter.notebook.views.frames import LEAST_BYTES, TailSize
from cmdop_jupyter.notebook.views.record import link_words

GATE = """#!/bin/sh
[ -e "$0.open" ] || { echo "the gate is shut" >&2; exit 1; }
echo $$ > "$0.pid"
exec sh -c "$1"
"""
CONNECT = """
from cmdop_jupyter import directory, runtime
_ = runtime.runtime().wait(directory.machine("far").connect())
"""
STAY = "exec sleep 1000"
RECORD_TAILS = """
from cmdop_jupyter.machines.stdio import StdioMachine
tails, under_way, ask = [], 0, StdioMachine.tail
async def tail(self, session_id, max_bytes):
    global under_way
    under_way += 1
    tails.append((max_bytes, under_way))
    try:
        return await ask(self, session_id, max_bytes)
    finally:
        under_way -= 1
StdioMachine.tail = tail
"""


class Far:
    """A machine called `far`, behind a command that can be shut."""

    def __init__(self, folder: Path) -> None:
        self._gate, self._open, self._pid = (folder / name for name in ("gate", "gate.open", "gate.pid"))
        self._gate.write_text(GATE)
        self._gate.chmod(self._gate.stat().st_mode | stat.S_IXUSR)
        self.config = f'[machines.far]\nlink = ["{self._gate}"]\n'
        self.open()

    def open(self) -> None:
        self._open.touch()

    def cut(self) -> None:
        """Kill what the link runs over, and let no other come up."""
        self._open.unlink()
        os.killpg(int(self._pid.read_text()), signal.SIGKILL)


@pytest.fixture(scope="module")
def gate(notebook: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Far:
    far = Far(tmp_path_factory.mktemp("far"))
    (notebook.work / "cmdop.toml").write_text(far.config)
    return far


@pytest.fixture
def far(notebook: Kernel, gate: Far) -> Far:
    """It is up, whatever the test before did to it."""
    gate.open()
    notebook.good(CONNECT)
    return gate


# -- the view


@pytest.fixture
def never_quiet(notebook: Kernel) -> Iterator[None]:
    """However long a busy machine takes, a session that prints nothing meanwhile is not called quiet."""
    notebook.good("from cmdop_jupyter.notebook.views import text\nsilent, text.SILENT = text.SILENT, 1000.0")
    yield
    notebook.good("text.SILENT = silent")


@pytest.mark.usefixtures("never_quiet")
def test_the_view_tells_the_link_and_keeps_its_picture_until_it_is_back(notebook, far):
    cell = notebook.good(f"%%cmdop far --name kept --tty none\nseq 50; read go; seq 51 60; {STAY}")
    view = View(notebook, cell)
    view.until(lambda: "\n50" in view.text)
    picture = view.text
    assert view.header.startswith("● kept on far · running · ")

    far.cut()

    view.until(lambda: re.search(r"running, link retrying, next try in \d+ s: .*the gate is shut", view.header))
    assert view.text == picture
    assert "exit" not in view.header
    notebook.wait_until(lambda: re.search(r"^kept on far: running, link retrying.*\(as of ", cell.text, re.MULTILINE))

    far.open()
    view.until(lambda: "link" not in view.header)
    notebook.wait_until(lambda: re.search(r"^kept on far: running, \d.*\(as of ", cell.text, re.MULTILINE))
    notebook.type_into("kept", b"\n")
    view.until(lambda: "\n60" in view.text)

    assert shown_and_skipped(view.text) == ([str(number) for number in range(21, 61)], 20)


def test_a_stop_waits_for_the_link_and_says_so(notebook, far):
    cell = notebook.good(f"%%cmdop far --name halted --tty none\necho one; {STAY}")
    view = View(notebook, cell)
    view.until(lambda: "one" in view.text)
    far.cut()

    view.click("Stop")
    view.until(lambda: "the stop waits for the link" in view.header)
    assert "stopped" not in view.header
    assert "one" in view.text

    far.open()
    view.until(lambda: "%cmdop keep halted" in view.header)
    assert "stopped by INT" in view.header
    assert "stopped by INT" in cell.text
    assert "link" not in cell.text


def test_while_a_link_is_away_other_views_and_cells_go_on(notebook, far):
    away = View(notebook, notebook.good(f"%%cmdop far --name away --tty none\necho one; {STAY}"))
    away.until(lambda: "one" in away.text)
    far.cut()
    away.until(lambda: "link retrying" in away.header)

    here = View(notebook, notebook.good("%%cmdop --name here --tty none\nwhile read x; do echo got $x; done"))
    for word in ("a", "b", "c"):
        notebook.good(f"await here.send_input('{word}\\n'); await wait_for('got {word}', 'here')")
        here.until(lambda word=word: f"got {word}" in here.text)
    quick = notebook.good("1")

    assert quick.seconds < 2
    assert "link retrying" in away.header


def test_a_cell_that_ends_meanwhile_has_text_that_says_so(notebook, far):
    cell = notebook.good("%%cmdop far --name unseen --tty none\necho one; read go; exit 0")
    notebook.good("await wait_for('one', 'unseen')")
    far.cut()
    notebook.type_into("unseen", b"\n")
    notebook.wait_until(lambda: "link retrying" in cell.text)

    assert "unseen on far: running, link retrying" in cell.text
    assert "exit 0" not in cell.text

    far.open()
    notebook.wait_until(lambda: "unseen on far: exit 0" in cell.text)


def test_keep_tells_that_the_link_is_away_instead_of_waiting(notebook, far):
    notebook.good(f"%%cmdop far --name stored --tty none\necho one; {STAY}")
    far.cut()

    kept = notebook.run("%cmdop keep stored")

    assert kept.error is not None
    assert kept.error.ename == "LinkLost"


def test_a_closed_machine_leaves_a_view_that_says_so(own_notebook, tmp_path):
    (own_notebook.work / "cmdop.toml").write_text(Far(tmp_path).config)
    own_notebook.load()
    view = View(own_notebook, own_notebook.good(f"%%cmdop far --name left --tty none\necho one; {STAY}"))
    view.until(lambda: "one" in view.text)

    own_notebook.good(CONNECT.replace("connect", "close"))

    view.until(lambda: "link down: closed" in view.header)
    assert "one" in view.text
    assert own_notebook.good("1").stderr == ""


# -- waits


def test_a_wait_tells_the_link_and_goes_on_when_it_is_back(notebook, far):
    notebook.good(f"%%cmdop far --name awaited --tty none\necho one; read go; echo two; {STAY}")
    waiter = notebook.start("found = await wait_for('two', 'awaited')")
    notebook.wait_until(lambda: "… waiting for /two/ in awaited" in waiter.text)
    far.cut()

    notebook.wait_until(lambda: "far: link retrying" in waiter.text)
    notebook.type_into("awaited", b"\n")
    assert "✓" not in waiter.text
    assert waiter.reply is None

    far.open()
    waiter.wait()
    assert waiter.error is None
    assert "✓ /two/ in awaited" in waiter.text


def test_in_a_terminal_a_wait_tells_when_the_link_breaks_and_when_it_is_back(state_dir, tmp_path):
    far = Far(tmp_path)
    (tmp_path / "cmdop.toml").write_text(far.config)
    cells = [
        "%%cmdop far --name api --tty none\necho one; read go; echo two; exec sleep 1000",
        "_ = await wait_for('one', 'api')",
        "import os, signal, time\n"
        "wait = wait_for('two', 'api'); os.killpg(int(open('gate.pid').read()), signal.SIGKILL)\n"
        "while api.link == 'up': time.sleep(0.01)\n"
        "while api.link != 'up': time.sleep(0.01)\n"
        "_ = api.send_input('\\n'); match = await wait; print('matched', match[0])",
        "_ = api.stop().result()",
    ]
    env = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")}
    command = [sys.executable, "-c", SHELL, LOAD, *cells]

    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=100)

    assert done.stderr == ""
    lines = done.stdout.splitlines()[1:]
    broken, back = (
        next(number for number, line in enumerate(lines) if words in line)
        for words in ("[far: link retrying", "[far: link up again after")
    )
    assert broken < back < lines.index("two") < lines.index("matched two")
    assert lines.count("one") == lines.count("two") == 1


# -- what is asked for


def test_a_view_asks_for_what_it_shows_and_for_one_tail_at_a_time(notebook, far):
    notebook.good(RECORD_TAILS)
    flood = "while :; do seq -f 'line %.0f of the flood' 100000; done"
    view = View(notebook, notebook.good(f"%%cmdop far --name flooding --tty none --max-log 20M\n{flood}"))

    while notebook.ask("len(tails)") < 10:
        view.until(lambda seen=view.text: view.text != seen)
    asked, most = notebook.ask("([size for size, _ in tails], max(count for _, count in tails))")
    notebook.good("await flooding.stop()")

    assert most == 1
    assert max(asked) <= 16 * 1024
    assert max(asked[2:]) < 8 * 1024


def test_what_is_asked_for_follows_the_lines_that_are_shown():
    size = TailSize(64 * 1024)
    size.came(size.bytes, 16_384, 1200, 0.01)
    assert size.bytes == LEAST_BYTES

    size.came(4096, 4096, None, 0.01)
    assert size.bytes == 8192

    for _ in range(9):
        size.came(size.bytes, size.bytes, None, 0.01)
    assert size.bytes == 64 * 1024


def test_what_is_asked_for_is_no_more_than_the_link_brings_soon():
    size = TailSize(64 * 1024, seconds=0.3)
    size.came(size.bytes, 16_384, None, 0.1)  # the way there and back
    size.came(size.bytes, 32_768, None, 1.1)

    assert size.bytes == pytest.approx(32_768 * 0.3, abs=1)

    size.came(size.bytes, 9830, None, 0.2)  # the link has become faster
    assert size.bytes > 16_384


def test_a_slow_answer_of_a_far_machine_does_not_shrink_the_picture():
    size = TailSize(64 * 1024)
    for _ in range(5):
        size.came(size.bytes, 9000, 9000, 2.0)

    assert size.bytes == 13_500


# -- words


@pytest.mark.parametrize(
    ("link", "stop_waits", "words"),
    [
        (LinkState("up", since=90.0), True, ""),
        (LinkState("retrying", "no word in 15 s", 103.2), False, "link retrying, next try in 4 s: no word in 15 s"),
        (LinkState("retrying", "reset", 99.0), False, "link retrying, next try in 1 s: reset"),
        (LinkState("retrying", "reset"), True, "link retrying: reset, the stop waits for the link"),
        (LinkState("connecting"), False, "link connecting"),
        (LinkState("down", "wrong password"), False, "link down: wrong password (%cmdop connect far tries again)"),
    ],
)
def test_the_words_for_a_link(link, stop_waits, words):
    assert link_words(link, "far", 100.0, stop_waits=stop_waits) == words
