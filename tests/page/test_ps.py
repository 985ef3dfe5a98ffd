"""`%cmdop ps` in a real page: a table renewed by itself, with buttons, and a plain one that stays in the file."""

from __future__ import annotations

import re
import shutil
import uuid

import pytest
from reach import own_places

pytestmark = pytest.mark.long
STAY = "exec sleep 1000"


class Seen:
    """The live table below a cell."""

    def __init__(self, lab, number: int) -> None:
        self.lab, self.cell = lab, lab.cell(number)
        self.table = self.cell.locator(".cmdop-ps table")

    def row(self, name: str):
        return self.table.locator("tbody tr").filter(has=self.cell.page.locator(f'td.name[title="{name}"]'))

    def click(self, name: str, word: str) -> None:
        self.row(name).get_by_role("button", name=re.compile(f"^{word} ")).click()

    def tells(self, name: str, pattern: str) -> None:
        self.lab.until(lambda: self.row(name).count() and re.search(pattern, self.row(name).inner_text()))

    def said(self, pattern: str) -> None:
        said = self.cell.locator('.cmdop-ps [role="status"]')
        self.lab.until(lambda: re.search(pattern, said.inner_text()))


@pytest.fixture(scope="module")
def it(labs, lab_folder):
    """A notebook with a machine besides this one, that is reached but not by the kernel that runs.

    Its sessions are in a folder of their own: the table has all there are.
    """
    folder = lab_folder / "ps"
    folder.mkdir()
    words = ", ".join(f'"{word}"' for word in [*own_places(folder), "sh", "-c"])
    configuration = lab_folder / "work" / "cmdop.toml"
    configuration.write_text(f"[machines.far]\nlink = [{words}]\n")
    cells = [
        f"%%cmdop --name api\necho hello from api; {STAY}",
        f"%%cmdop far --name away\necho hello from far; {STAY}",
        "%%cmdop --name gone --wait --no-raise\necho last words; exit 3",
        "%cmdop ps",
    ]
    one = labs(*cells, setup=f"import os; os.environ['CMDOP_STATE_DIR'] = {str(folder / 'here')!r}")
    for number in range(1, 4):
        one.run(number)
    yield one
    configuration.unlink()


@pytest.fixture(scope="module")
def seen(it) -> Seen:
    it.run(4)
    return Seen(it, 4)


def test_the_table_is_renewed_by_itself_and_sees_all_machines(it, seen):
    seen.tells("api", r"● running.*\b\d+s.*echo hello from api")
    seen.tells("away", r"far.*● running")
    seen.tells("gone", "✗ exit 3")
    assert seen.row("gone").get_by_role("button", name="Stop").is_disabled()

    it.run_new("%%cmdop far --name late\nread line; exit 4")
    seen.tells("late", r"far.*● running")
    it.run_new("%cmdop send far:late x")
    seen.tells("late", "✗ exit 4")


def test_a_row_opens_for_its_live_output_and_closes(it, seen):
    seen.click("away", "Open")
    seen.cell.locator(".cmdop-area").get_by_text("hello from far").wait_for()
    assert seen.row("away").get_by_role("button", name="Close far:away").get_attribute("aria-expanded") == "true"

    seen.click("gone", "Open")
    seen.cell.locator(".widget-html details").get_by_text("last words", exact=True).wait_for()
    assert seen.cell.locator(".cmdop-area").count() == 0

    seen.click("gone", "Close")
    seen.cell.locator(".widget-html details").wait_for(state="hidden")


def test_attach_binds_the_name_as_the_magic_does(it, seen):
    it.run_new("del away, late; cmdop['far:away'].detach() if 'far:away' in cmdop else None; late2 = 1")
    seen.click("away", "Attach")
    seen.said("far:away: the variable away is its stream")
    seen.cell.locator(".cmdop-area").get_by_text("hello from far").wait_for()

    number = it.run_new("print(away.tail(1)[0].text, '|', away.machine)")

    it.cell(number).get_by_text("hello from far | far").wait_for()
    it.run_new("away = 5")
    seen.click("away", "Attach")
    seen.said("away would hide a variable of yours")
    seen.click("away", "Close")


def test_clicks_work_while_a_cell_awaits_and_a_stop_says_what_it_took(it, seen):
    number = it.add("await wait_for('never', 'api')")
    it.start(number)

    seen.click("away", "Stop")

    seen.said(r"far:away: stopped by INT")
    seen.tells("away", "■ stopped by INT")
    assert it.cell(number).locator(".jp-InputPrompt").inner_text() == "[*]:"
    it.page.keyboard.press("Escape")
    seen.click("api", "Stop")
    seen.said(r"api: stopped by INT")


def test_a_shell_opens_as_a_terminal(it, seen):
    it.run_new("%cmdop shell local --name bash1")
    seen.tells("bash1", "running")

    seen.click("bash1", "Open")

    seen.cell.locator(".xterm").wait_for()
    seen.click("bash1", "Stop")
    seen.tells("bash1", "stopped by")


def test_many_that_ended_are_folded_and_told(it, seen):
    it.run_new(
        "from cmdop_jupyter.client import machine, new_id, start\n"
        "from cmdop_jupyter.machines.base import StartRequest\n"
        "asked = [StartRequest(id=new_id(), name=f'many{n}', script='true', tty='none') for n in range(15)]\n"
        "many = [start(machine(), one) for one in asked]\n"
        "for one in many: one.result().wait_exit().result()"
    )
    rest = seen.cell.locator(".cmdop-ps").get_by_text(re.compile(r"… and \d+ that ended"))
    rest.wait_for()
    it.until(lambda: seen.table.locator("tbody tr").count() == 10)

    seen.cell.get_by_role("button", name="Show more").click()

    for number in range(15):
        seen.tells(f"many{number}", "✓ exit 0")
    rest.wait_for(state="hidden")


def test_the_file_has_the_plain_table_and_a_later_page_no_error(it, seen):
    def texts() -> str:
        return it.save().cells[4].outputs[-1].data["text/plain"]

    ended = it.until(lambda: len(re.findall(r"^many\d+ +local +exit 0", text := texts(), re.M)) == 15 and text)
    assert re.search(r"^gone +local +exit 3 .* echo last words", ended, re.M)

    copy = it.path.with_name(f"{uuid.uuid4().hex}.ipynb")
    shutil.copy(it.path, copy)
    page = it.context.new_page()
    page.goto(f"{it.address}/lab/workspaces/{copy.stem}/tree/{copy.name}")
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
    page.get_by_text("| Idle").wait_for()
    it.cell(4, page).locator("summary").click()
    it.cell(4, page).get_by_text("last words").first.wait_for()
    assert "Error displaying widget" not in it.cell(4, page).inner_text()
    page.close()
