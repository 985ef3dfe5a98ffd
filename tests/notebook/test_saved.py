"""What is in the file of a notebook that was run without a page: text, in the cell that started it, of bounded size."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid

import nbformat
import pytest

from tools.leftovers import end_all

WIDGET = "application/vnd.jupyter.widget-view+json"
STAY = "exec sleep 1000"
COUNT = "for i in one two three four five six; do echo $i; sleep 0.02; done"
LINES = ["one", "two", "three", "four", "five", "six"]
RUN = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=60, allow_errors=True, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[1])
"""
EXITS = {
    "awaited": "await awaited",
    "blocked": "blocked.wait_exit().result()",
    "every": "await wait_all('six', 'every'); await every",
}
MATCHES = {
    "one_wait": "await wait_for('six', 'one_wait')",
    "verb": "%cmdop wait verb six",
    "many": "await wait_all('six', ['many'])",
}
STOPS = {
    "by_verb": "%cmdop stop by_verb",
    "by_await": "await by_await.stop()",
    "by_result": "by_result.stop().result()",
}
CELLS = {
    "load": "%load_ext cmdop_jupyter",
    **{name: f"%%cmdop --name {name}\n{COUNT}" for name in EXITS},
    **{f"{name} join": join for name, join in EXITS.items()},
    **{name: f"%%cmdop --name {name}\n{COUNT}; {STAY}" for name in MATCHES},
    **{f"{name} join": join for name, join in MATCHES.items()},
    **{name: f"%%cmdop --name {name}\necho hello; {STAY}" for name in STOPS},
    **{f"{name} join": f"await wait_for('hello', '{name}')" for name in STOPS},
    **{f"{name} stop": stop for name, stop in STOPS.items()},
    "waited": "%%cmdop --name waited --wait\necho hello; echo problem >&2",
    "alone": "%%cmdop --name alone\necho hello",
    "later": "import time\nwhile alone.state != 'ended': pass",
    "flood": "%%cmdop --name flood --wait\nseq -f 'line %.0f of the flood' 300000",
    "noise": "%%cmdop --name noise --wait\nhead -c 3000000 /dev/urandom | base64 -w 3000; printf '\\033[31mred\\n'",
    "evil": r"""%%cmdop --name evil --wait
printf '<script>alert(1)</script>\033]8;;%s:x\007\033[2J\000\302\205\342\200\256end\n' java''script""",
    "CommandFailed": "%%cmdop --name build --wait\necho broken; exit 3",
    "SessionEnded": "await wait_for('never', 'build')",
    "SessionNotFound": "%cmdop stop nobody",
    "Usage": "%%cmdop --nmae x\ntrue",
    "keep": "%cmdop keep verb awaited",
    "hidden": """%%cmdop --name hidden --wait
printf 'password=\\033[31mhunter\\033[0mtwo\\n'; curl() { :; }; curl -u https://me:hunter3@example.com""",
    "lost": "%%cmdop --name lost\necho hello; exec sleep 1000",
    "lost join": "await wait_for('hello', 'lost')",
    "lost kill": """import os, signal, psutil
parent = psutil.Process(lost.status.pid).parent()
parent.send_signal(signal.SIGKILL)
try: await lost
except Exception as error: print(type(error).__name__)
while lost.state != 'lost': pass""",
    "lost after": "pass",
}


class Saved:
    """The notebook as it was saved and read again."""

    def __init__(self, path) -> None:
        self.size = path.stat().st_size
        self._notebook = nbformat.read(path, as_version=4)
        nbformat.validate(self._notebook)
        self.outputs = {name: cell.outputs for name, cell in zip(CELLS, self._notebook.cells, strict=True)}

    def kinds(self, name: str) -> set[str]:
        """The mime types in a cell."""
        return {kind for output in self.outputs[name] for kind in output.get("data", {})}

    def text(self, name: str) -> str:
        """The text of a cell that is not in place of a widget."""
        shown = [output for output in self.outputs[name] if WIDGET not in output.get("data", {})]
        texts = [output.get("text") or output.get("data", {}).get("text/plain") or "" for output in shown]
        return "\n".join(texts).strip()

    def lines(self, name: str) -> list[str]:
        """The lines under the first, which tells the state."""
        return self.text(name).splitlines()[1:]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Saved:
    """All cells, run by nbclient in one notebook."""
    folder, mark = tmp_path_factory.mktemp("saved"), uuid.uuid4().hex
    path = folder / "saved.ipynb"
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    own = {"CMDOP_STATE_DIR": str(folder / "state"), "CMDOP_TEST": mark, "IPYTHONDIR": str(folder / "ipython")}
    try:
        subprocess.run([sys.executable, "-c", RUN, str(path)], check=True, env=os.environ | own, cwd=folder)
        return Saved(path)
    finally:
        end_all("CMDOP_TEST", mark)


@pytest.mark.parametrize("name", EXITS)
def test_what_was_waited_for_to_its_exit_is_whole_in_the_cell_that_started_it(saved, name):
    assert saved.lines(name)[:6] == LINES
    assert saved.text(name).startswith(f"{name} on this machine: exit 0, ")
    assert f"$ {COUNT}" in saved.lines(name)
    assert WIDGET not in saved.kinds(name)


@pytest.mark.parametrize("name", MATCHES)
def test_all_up_to_a_match_is_in_the_cell_that_started_it(saved, name):
    assert saved.lines(name) == LINES


@pytest.mark.parametrize("name", MATCHES)
def test_what_still_runs_has_a_snapshot_that_says_when(saved, name):
    state = saved.text(name).splitlines()[0]
    assert re.fullmatch(rf"{name} on this machine: running, .*, 6 lines \(as of \d{{4}}-\d\d-\d\d .* UTC\)", state)
    assert WIDGET in saved.kinds(name)


@pytest.mark.parametrize("name", STOPS)
def test_what_was_stopped_is_whole(saved, name):
    assert saved.lines(name)[0] == "hello"
    assert saved.text(name).startswith(f"{name} on this machine: stopped by INT")
    assert WIDGET not in saved.kinds(name)


def test_a_wait_in_the_cell_itself_joins_as_well(saved):
    assert {"hello", "problem"} <= set(saved.lines("waited"))
    assert WIDGET not in saved.kinds("waited")


def test_a_session_that_nobody_waited_for_is_in_its_cell_once_a_later_one_has_run(saved):
    assert saved.lines("alone")[0] == "hello"
    assert "exit 0" in saved.text("alone")
    assert WIDGET not in saved.kinds("alone")


def test_a_flood_leaves_its_beginning_and_its_end(saved):
    lines = saved.lines("flood")

    assert lines[:20] == [f"line {number} of the flood" for number in range(1, 21)]
    assert lines[20].startswith("… 299,900 lines not shown, full log: ")
    assert lines[21:101] == [f"line {number} of the flood" for number in range(299_921, 300_001)]


def test_what_was_lost_says_so_and_has_what_it_printed(saved):
    assert saved.lines("lost")[0] == "hello"
    assert saved.text("lost").startswith("lost on this machine: lost, after ")
    assert "full log: " in saved.text("lost")
    assert WIDGET not in saved.kinds("lost")


def test_what_failed_has_its_exit_in_the_first_line(saved):
    assert saved.text("CommandFailed").startswith("build on this machine: failed, exit 3, after ")


def test_no_secret_is_in_the_file(saved):
    assert saved.lines("hidden")[0] == "password=[redacted]"
    for output in saved.outputs["hidden"]:
        assert "hunter" not in repr(output)
    assert "https://me:[redacted]@example.com" in saved.text("hidden")


def test_the_file_is_small(saved):
    assert len(repr(saved.outputs["flood"])) < 30_000
    assert len(repr(saved.outputs["noise"])) < 100_000
    assert saved.size < 600_000  # of sixteen sessions


@pytest.mark.parametrize("ename", ["CommandFailed", "SessionEnded", "SessionNotFound", "Usage"])
def test_an_error_is_a_real_error_of_one_line(saved, ename):
    (error,) = [output for output in saved.outputs[ename] if output.output_type == "error"]

    assert error.ename == ename
    assert len(error.traceback) == 1


def test_what_failed_is_in_the_cell_that_started_it(saved):
    assert saved.lines("CommandFailed")[0] == "broken"


def test_keep_writes_the_text_into_its_own_cell(saved):
    text = saved.text("keep")

    assert re.search("verb on this machine: (running|quiet)", text)
    assert "awaited on this machine: exit 0" in text
    assert text.count("three\n") == 2
    assert saved.kinds("keep") == {"text/plain", "text/html"}


def test_nothing_that_is_saved_can_do_more_than_be_read(saved):
    assert "end" in saved.text("evil")
    for output in saved.outputs["evil"]:
        text, page = output.data.get("text/plain", ""), output.data.get("text/html", "")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text + page)
        assert "<script" not in page
        assert "javascript" not in page
