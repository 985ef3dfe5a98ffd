"""`%cmdop ps` in a real kernel that a page looks at: a live table, renewed by itself, and a plain one beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from kernels import Cell
from reach import own_places

STAY = "exec sleep 1000"
VIEW = "application/vnd.jupyter.widget-view+json"


class Board:
    """The live table of a cell, as a page has it."""

    def __init__(self, kernel, cell: Cell) -> None:
        self._kernel, self.cell = kernel, cell
        (box,) = [output["data"][VIEW]["model_id"] for output in cell.outputs if VIEW in output["data"]]
        self._model, self._pane = self.children(box)

    def children(self, model: str) -> list[str]:
        return [child.removeprefix("IPY_MODEL_") for child in self._kernel.comms[model]["children"]]

    @property
    def board(self) -> dict[str, Any]:
        return self._kernel.comms[self._model]["board"]

    @property
    def opened(self) -> list[str]:
        return self.children(self._pane)

    def row(self, name: str) -> dict[str, Any]:
        return next((row for row in self.board["rows"] if row["name"] == name), {})

    def click(self, name: str, what: str) -> None:
        self._kernel.send_comm(self._model, {"kind": what, "id": self.row(name)["id"]})

    def until(self, is_so: Callable[[], Any]) -> None:
        self._kernel.wait_until(is_so, 60)


@pytest.fixture(scope="module")
def looked_at(notebook, tmp_path_factory):
    notebook.page = True
    far = tmp_path_factory.mktemp("far")
    cable = notebook.work / "cable"
    cable.touch()
    plugged = f'test -e {cable} || {{ echo the cable is out >&2; exit 1; }}; exec sh -c "$1"'
    link = [*own_places(far), "sh", "-c", plugged, "link"]
    (notebook.work / "cmdop.toml").write_text(f"[machines.far]\nlink = {json.dumps(link)}\n")
    notebook.good(f"%%cmdop --name here\necho hello; {STAY}")
    notebook.good(f"%%cmdop far --name there\necho hello; {STAY}")
    return notebook


@pytest.fixture
def board(looked_at) -> Board:
    return Board(looked_at, looked_at.good("%cmdop ps"))


def test_the_result_is_a_table_as_ever(looked_at, board):
    assert looked_at.ask("sorted(facts.name for facts, status in _ if status.live)") == ["here", "there"]
    assert looked_at.good("table = %cmdop ps").outputs == []
    assert "there  far" in looked_at.ask("repr(table)")


def test_new_sessions_and_new_states_come_by_themselves_also_while_a_cell_computes(looked_at, board):
    looked_at.good("%%cmdop far --name late\nread line; exit 3")
    looked_at.good("%%cmdop --name watched\nread line; exit 5")
    board.until(lambda: {board.row(name).get("state") for name in ("late", "watched")} == {"running"})
    busy = looked_at.start("import time; time.sleep(6)")
    looked_at.type_into("watched", b"x\n")
    board.until(lambda: board.row("watched").get("state") == "exit 5")
    assert busy.reply is None
    busy.wait(60)
    looked_at.good("%cmdop send late go")
    board.until(lambda: board.row("late").get("state") == "exit 3")

    assert (board.row("late")["machine"], board.row("late")["live"]) == ("far", False)
    looked_at.wait_until(lambda: re.search(r"^late +far +exit 3", board.cell.text, re.M), 60)


def test_a_stop_says_what_it_took_and_attach_binds(looked_at, board):
    looked_at.good(f"%%cmdop far --name brought\necho from far; {STAY}")
    looked_at.good("cmdop['brought'].detach() if 'brought' in cmdop else None; globals().pop('brought', None)")
    board.until(lambda: board.row("brought"))

    board.click("brought", "attach")
    board.until(lambda: "the variable brought is its stream" in board.board["said"])
    assert looked_at.ask("brought.machine") == "far"
    assert len(board.opened) == 1
    board.click("brought", "stop")

    board.until(lambda: "far:brought: stopped by INT in " in board.board["said"])
    board.until(lambda: board.row("brought")["glyph"] == "■")
    board.click("brought", "open")
    board.until(lambda: not board.opened)


def test_when_nobody_looks_any_more_it_asks_nobody_and_goes_on_later(looked_at, board):
    looked_at.good("import cmdop_jupyter.notebook.views.sessions as views; views.GONE_SECONDS = 0.5")
    alive = "len([one for one in __import__('asyncio').all_tasks(views.runtime().loop) if '_Follower' in repr(one)])"
    try:
        looked_at.wait_until(lambda: looked_at.ask(alive) == 0, 60)
    finally:
        looked_at.good("views.GONE_SECONDS = 60.0")
    looked_at.send_comm(board._model, {"kind": "here"})  # the page comes back
    looked_at.good(f"%%cmdop --name again\n{STAY}")
    board.until(lambda: board.row("again"))


def test_without_a_page_there_is_the_plain_table_only(looked_at):
    looked_at.page = False
    try:
        cell = looked_at.good("%cmdop ps")
    finally:
        looked_at.page = True

    assert VIEW not in str(cell.outputs)
    assert "here" in cell.text


def test_what_cannot_be_reached_is_told_and_its_sessions_stay(looked_at, board):
    (looked_at.work / "cable").unlink()
    looked_at.good(
        "import os; from cmdop_jupyter.directory import machine; pid = machine('far')._link._process.pid\n"
        "for child in open(f'/proc/{pid}/task/{pid}/children').read().split(): os.kill(int(child), 9)"
    )

    board.until(lambda: any("the cable is out" in note for note in board.board["notes"]))

    assert board.row("there")["state"] == "running"
