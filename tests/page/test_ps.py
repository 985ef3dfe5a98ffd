"""`%cmdop ps` in a real page: a table that is renewed by itself, with buttons, and a plain one that stays in the file."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from reach import own_places

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
def it(browser, lab_address, lab_folder) -> Iterator:
    """A notebook with a machine besides this one, that is reached but not by the kernel that runs."""
    from conftest import Lab

    folder = lab_folder / "far"
    folder.mkdir()
    words = ", ".join(f'"{word}"' for word in [*own_places(folder), "sh", "-c"])
    (lab_folder / "work" / "cmdop.toml").write_text(f"[machines.far]\nlink = [{words}]\n")
    cells = [
        f"%%cmdop --name api\necho hello from api; {STAY}",
        f"%%cmdop far --name away\necho hello from far; {STAY}",
        "%%cmdop --name gone --wait --no-raise\necho last words; exit 3",
        "%cmdop ps",
    ]
    one = Lab(browser, lab_address, lab_folder / "work", cells)
    for number in range(1, 4):
        one.run(number)
    yield one
    one.close()


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
