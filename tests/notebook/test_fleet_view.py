"""Fleets in a real kernel: the cell, its one view, what it costs a page, and the text that stays."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kernels import Cell, Kernel, result_of
from reach import own_places
from test_plain import LOAD, SHELL

STAY = "exec sleep 1000"
HERE = "here=$(basename $(dirname $CMDOP_STATE_DIR))"


def configuration(folder: Path) -> str:
    """web01 to web06 on this machine, `dead`, which cannot be reached, and `live1` and `live2`, which ask first."""
    names = [f"web{number:02}" for number in range(1, 7)]
    text = ""
    for name in [*names, "live1", "live2"]:
        (folder / name).mkdir(parents=True)
        text += f"[machines.{name}]\nlink = {json.dumps([*own_places(folder / name), 'sh', '-c'])}\n"
        text += "confirm = true\n" if name.startswith("live") else 'tags = ["web"]\n'
    text += '[machines.dead]\nlink = ["sh", "-c", "echo the cable is out >&2; exit 1"]\n'
    return text + '[groups]\nfront = ["web[01-02]"]\n'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("fleet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        for name in ("STATE_HOME", "CACHE_HOME", "CONFIG_HOME"):
            patch.setenv(f"XDG_{name}", str(folder / name.lower()))
        yield folder


@pytest.fixture(scope="module")
def notebook(home, notebook):
    (notebook.work / "cmdop.toml").write_text(configuration(home / "machines"))
    return notebook


class FleetPage:
    """The widgets of a fleet's view in a cell."""

    def __init__(self, kernel: Kernel, cell: Cell) -> None:
        self._kernel = kernel
        (box,) = [
            message.content["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
            for message in cell.messages
            if "application/vnd.jupyter.widget-view+json" in message.content.get("data", {})
        ]
        bar, self._grid, tabs, area = self._children(box)
        (self._pane,) = self._children(area)
        self._head, self._stop = self._children(bar)
        self._buttons = {kernel.comms[button]["description"]: button for button in self._children(tabs)}

    def _children(self, model: str) -> list[str]:
        return [child.removeprefix("IPY_MODEL_") for child in self._kernel.comms[model]["children"]]

    def _text(self, model: str) -> str:
        return html.unescape(re.sub("<[^>]*>", "", self._kernel.comms[model]["value"].replace("</div>", "\n")))

    @property
    def head(self) -> str:
        return self._text(self._head)

    @property
    def grid(self) -> list[str]:
        return self._text(self._grid).splitlines()

    @property
    def pane(self) -> str:
        return self._text(self._pane)

    def open(self, machine: str) -> None:
        self._kernel.send_comm(self._buttons[machine], {"event": "click"})

    def opened(self) -> list[str]:
        return [name for name, button in self._buttons.items() if self._kernel.comms[button].get("button_style")]

    def stop(self) -> None:
        self._kernel.send_comm(self._stop, {"event": "click"})

    def until(self, is_so: Callable[[], Any]) -> None:
        self._kernel.wait_until(is_so, 60)


@pytest.fixture
def show(notebook):
    """Run a script on machines, and give the view and the cell."""

    def show(line: str, script: str) -> tuple[FleetPage, Cell]:
        cell = notebook.good(f"%%cmdop {line}\n{script}", 60)
        return FleetPage(notebook, cell), cell

    return show


# -- the cell


def test_a_cell_on_several_machines_returns_at_once_and_binds_a_fleet(show, notebook):
    view, _ = show("web[01-03] @front --name spread", f"{HERE}; echo up $here; {STAY}")
    notebook.good("ready = await wait_all('up (.*)', spread, timeout=60)")

    assert notebook.ask("{name: match[1] for name, match in ready.items()}") == {
        name: name for name in ("web01", "web02", "web03")
    }
    assert notebook.ask("(repr(spread), cmdop.fleets['spread'] is spread)") == (
        "<Fleet spread on 3 machines: 3 running>",
        True,
    )
    view.until(lambda: "spread on 3 machines · 3 running" in view.head)
    assert result_of(notebook.good("%cmdop stop spread", 60)) == "spread: stop took INT on 3"
    assert notebook.ask("(await spread).summary()") == "3 stopped"


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        ("web01 web1 wbe02", "UnknownMachines", "wbe02 (did you mean web02"),
        ("web01 @wbe", "UnknownMachines", "@wbe (did you mean @web"),
        ("web[01-", "InvalidRequest", "without its other half"),
        ("web01 web02 --at-most 0", "Usage", "1 or more"),
        ("web01 --at-most 2", "Usage", "several machines"),
        ("web01 web02 --stop-on-failure", "Usage", "--at-most N"),
        ("web01 web02 --view terminal", "Usage", "for one machine"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_starts_nothing(notebook, line, error, words):
    cell = notebook.run(f"%%cmdop {line} --name nothing\n{STAY}")

    assert (cell.error.ename, len(cell.error.traceback)) == (error, 1)
    assert words in str(cell.error)
    assert notebook.ask("'nothing' in cmdop.fleets or 'nothing' in globals()") is False


def test_waiting_for_a_fleet_raises_where_it_failed(notebook):
    cell = notebook.run(
        f"%%cmdop web01 web02 dead --name waited --wait\n{HERE}; echo from $here; test $here = web01", 60
    )

    assert cell.error.ename == "CommandFailed"
    assert "waited failed (2 of 3 machines: web02 exit 1; dead was not reached" in str(cell.error)
    assert "web02 | from web02" in str(cell.error)
    assert notebook.ask("(list(waited.ok), list(waited.failed))") == (["web01"], ["web02", "dead"])


def test_a_cell_may_wait_for_a_line_of_all(notebook):
    cell = notebook.good(f"%%cmdop web01 web02 --name lined --until 'up (\\d)'\necho up 7; {STAY}", 60)

    assert "'web01': <Match" in cell.text + str(cell.outputs)
    notebook.good("await lined.stop()", 60)


def test_what_failed_is_run_anew_with_a_view_of_its_own(show, notebook, home):
    gate = home / "gate"
    show("web01 web02 --name twice", f"{HERE}; test $here = web01 -o -e {gate}")
    notebook.good("await twice", 60)
    gate.touch()

    cell = notebook.good("again = await twice.rerun(twice.failed)", 60)

    assert notebook.ask("(list(again.ok), again.name)") == (["web02"], "twice")
    notebook.wait_until(lambda: "twice on 1 machine · 1 ok" in cell.text)


def test_machines_that_ask_are_asked_about_once_by_name(notebook):
    cell = notebook.run(f"%%cmdop live1 web01 live2 --name asked\n{STAY}")

    assert cell.error.ename == "InvalidRequest"
    assert "live1, live2 want a word before a cell runs there" in str(cell.error)
    notebook.good(  # ipykernel has an input of its own for each cell
        "import builtins; questions = []\n"
        "builtins.input = lambda question: questions.append(question) or 'y'\n"
        "get_ipython().run_cell_magic('cmdop', 'live1 web01 live2 --name asked --wait', 'true')",
        60,
    )
    (question,) = notebook.ask("questions")
    assert "on these 2, and on 1 that do not ask? [y/N]" in question
    notebook.good("%%cmdop live1 live2 --name asked --wait --yes\ntrue", 60)


def test_a_fleet_is_answered_and_its_end_told_of_once(notebook):
    notebook.good(
        "import os; os.environ['FLEET_WORD'] = 'open sesame'; told = []\n"
        "def note(title, text, about):\n    told.append((title, text, about.name)); raise ValueError('on purpose')"
    )
    notebook.good("%config CmdopMagics.notify = note")
    try:
        line = "web01 web02 dead --name asking --answer word=FLEET_WORD --notify end,match=heard"
        notebook.good(f"%%cmdop {line}\nread -p 'word? ' word; echo heard $word", 60)
        notebook.good("await asking", 60)
        notebook.wait_until(lambda: notebook.ask("len(told)") == 3)
    finally:
        notebook.good("%config CmdopMagics.notify = None")

    assert notebook.ask("[stream.tail(1)[0].text for stream in asking.ok.values()]") == ["heard open sesame"] * 2
    told = notebook.ask("sorted(told, key=lambda one: one[2])")
    assert [one[2] for one in told] == ["asking", "web01:asking", "web02:asking"]
    assert told[0][0] == "asking has failed"
    assert told[0][1].startswith("2 ok, 1 failed after ")
    notebook.wait_until(lambda: "the notifier of asking raised" in "".join(
        message.content["text"] for message in notebook.iopub if message.kind == "stream"
    ))  # fmt: skip


def test_after_a_restart_a_fleet_comes_back_from_its_sessions(show, notebook):
    show("web[01-03] --name back", f"{HERE}; echo from $here; test $here = web03 || {STAY}")
    notebook.good("await wait_all('from', back, timeout=60)")
    notebook.restart()
    notebook.load()

    cell = notebook.good("%cmdop attach back", 60)

    view = FleetPage(notebook, cell)
    view.until(lambda: "back on 3 machines · 1 ok · 2 running" in view.head)
    assert notebook.ask("(sorted(back), back['web03'].text())") == (["web01", "web02", "web03"], "from web03\n")
    assert "run its cell again" in str(notebook.run("back.rerun(['web03'])").error)
    view = FleetPage(notebook, notebook.good("%cmdop attach back", 60))
    view.until(lambda: "web02 | from web02" in view.pane)
    notebook.good("%cmdop stop back", 60)
    view.until(lambda: "back on 3 machines · 1 ok · 2 stopped" in view.head)
    notebook.good("cmdop.fleets.clear(); [stream.detach() for stream in list(cmdop.values())]")
    notebook.good("%cmdop attach web[01,04]:back", 60)
    assert notebook.ask("(list(back.stopped), list(back.failed))") == (["web01"], ["web04"])
    assert "no machine of @front has a session 'nobody'" in str(notebook.run("%cmdop attach @front:nobody", 60).error)


# -- the view


def test_trouble_is_on_top_and_each_row_says_its_state_in_a_word(show, notebook):
    script = f"{HERE}; echo from $here; case $here in web02) exit 3;; web03) exit 0;; esac; {STAY}"
    view, cell = show("web[01-03] dead --name mixed", script)

    view.until(lambda: "1 ok · 2 failed · 1 running" in view.head)

    view.until(lambda: [row.split()[1:3] for row in view.grid[1:]] == [
        ["failed", "web02"], ["failed", "dead"], ["running", "web01"], ["ok", "web03"]
    ])  # fmt: skip
    assert [row[0] for row in view.grid[1:]] == ["✗", "✗", "●", "✓"]
    view.until(lambda: re.search(r"web02 +exit 3 .*from web02", view.grid[1]))
    assert "the cable is out" in view.grid[2]
    view.until(lambda: "web01 | from web01" in view.pane)
    view.stop()
    view.until(lambda: "stop took INT on 1" in view.head)
    notebook.wait_until(lambda: "1 ok · 2 failed · 1 stopped" in cell.text)


def test_a_row_opens_for_its_output_and_stays_open(show, notebook):
    view, _ = show("web[01-02] --name opened", f'{HERE}; seq -f "$here line %.0f" 200; read go; echo more; {STAY}')
    view.until(lambda: " line 200" in view.pane)

    view.open("web02")

    view.until(lambda: "160 earlier lines" in view.pane)
    assert view.opened() == ["web02"]
    assert "web01" not in view.pane
    notebook.good("await opened['web02'].send_input('\\n')")
    view.until(lambda: view.pane.rstrip().endswith("more"))
    view.open("all")
    view.until(lambda: "web02 | more" in view.pane)
    notebook.good("await opened.stop()", 60)


def test_a_secret_of_many_lines_is_masked_among_the_lines_of_others(show, notebook):
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIshortline\nsecondline\n-----END RSA PRIVATE KEY-----"
    view, cell = show("web[01-02] --name keys", f"cat <<'END'\n{key}\nEND\necho behind; exit 1")

    notebook.good("await keys", 60)
    notebook.wait_until(lambda: "2 failed" in cell.text and "as of" not in cell.text)
    everything = view.pane + "".join(view.grid) + cell.text + result_of(notebook.good("%cmdop keep keys", 60))
    assert "behind" in everything
    assert "BEGIN RSA" in everything
    assert "MIIshort" not in everything
    assert "secondline" not in everything


def test_the_text_that_stays_is_the_grid_and_the_ends_of_what_failed(show, notebook):
    script = f'{HERE}; echo "<b>$here</b> \\$1"; test $here != web02'
    view, cell = show("web[01-03] --name kept", script)
    notebook.good("await kept", 60)

    notebook.wait_until(lambda: "kept on 3 machines · 2 ok · 1 failed" in cell.text and "as of" not in cell.text)

    lines = cell.text.splitlines()
    assert [line.split()[:3] for line in lines if line.startswith(("✗", "✓"))] == [
        ["✗", "failed", "web02"],
        ["✓", "ok", "web01"],
        ["✓", "ok", "web03"],
    ]
    assert "web02 | <b>web02</b> $1" in lines
    page = cell.outputs[-1]["data"]["text/html"]
    assert "<b>web02" not in page.replace("&lt;b&gt;", "")
    assert page.startswith("<details open>")
    view.until(lambda: "%cmdop keep kept" in view.head)
    again = notebook.good("%cmdop keep kept", 60)
    assert "web02 | <b>web02</b> $1" in str(again.outputs[0]["data"]["text/plain"])


# -- where there is no page


def test_in_a_terminal_the_grid_is_printed_when_a_wait_is_over(state_dir, tmp_path):
    (tmp_path / "cmdop.toml").write_text(configuration(tmp_path / "machines"))
    env = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython"), "HOME": str(tmp_path)}
    cells = ["%%cmdop web[01-02] dead --name plain\necho done; exit 0", "fleet = await plain; print(fleet.summary())"]
    command = [sys.executable, "-c", SHELL, LOAD, *cells]

    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=100)

    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("<Fleet plain on 3 machines: ")
    assert lines[1].startswith("plain on 3 machines · 2 ok · 1 failed")
    assert [line.split()[:3] for line in lines[3:6]] == [
        ["✗", "failed", "dead"],
        ["✓", "ok", "web01"],
        ["✓", "ok", "web02"],
    ]
    assert lines[-1] == "2 ok, 1 failed"
