"""A fleet in a real page: sixty machines of this one and twenty real sshd's, within one budget."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from reach import own_places, ssh_to
from sshd import Sshd

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]  # eighty machines are dialled
MANY, SERVERS = 60, 20
HERE = "here=$(basename $(dirname $CMDOP_STATE_DIR))"
DEAD = '[machines.dead]\nlink = ["sh", "-c", "echo the cable is out >&2; exit 1"]\n'
WINDOW = 4.0  # seconds in which messages are counted
BUDGET = 20 * 1.25 + 5  # messages a second that a page gets, with what else a kernel says


class Fleet:
    """The view of a fleet below a cell."""

    def __init__(self, lab, number: int) -> None:
        self.lab, self.cell = lab, lab.cell(number)
        self.table = self.cell.locator('.jupyter-widgets [role="table"]')

    def tells(self, pattern: str) -> None:
        """Wait until the cell says so, in its view or in the text that stays."""
        outputs = self.cell.locator(".jp-Cell-outputArea")
        self.lab.until(lambda: re.search(pattern, outputs.inner_text()), 200)

    def rows(self) -> list[str]:
        return self.table.locator('[role="row"]').all_inner_texts()[1:]

    def pane(self) -> str:
        return self.cell.locator(".widget-html").last.inner_text()

    def open(self, machine: str) -> None:
        self.cell.get_by_role("button", name=machine, exact=True).click()


@pytest.fixture(scope="module")
def it(labs, lab_folder: Path) -> Iterator:
    """One notebook for all; what comes to its page is counted in `it.frames`."""
    text = DEAD
    with contextlib.ExitStack() as stack:
        for number in range(1, MANY + 1):
            folder = lab_folder / "machines" / f"n{number:02}"
            folder.mkdir(parents=True)
            words = [*own_places(folder), f"XDG_CACHE_HOME={lab_folder / 'machines'}", "sh", "-c"]
            text += f"[machines.n{number:02}]\nlink = {json.dumps(words)}\n"
        for number in range(1, SERVERS + 1):
            text += f"[machines.box{number:02}]\nlink = {json.dumps(ssh_to(stack.enter_context(Sshd())))}\n"
        configuration = lab_folder / "work" / "cmdop.toml"
        configuration.write_text(text)
        one = labs()
        one.frames = []
        one.page.on("websocket", lambda socket: socket.on("framereceived", lambda data: one.frames.append(len(data))))
        one.reload()
        yield one
        one.run_new("for fleet in cmdop.fleets.values(): fleet.stop().result()")
        configuration.unlink()


def memory(it) -> int:
    """Kilobytes that the kernel has."""
    number = it.run_new(
        "import os; print('rss', open('/proc/self/status').read().split('VmRSS:')[1].split()[0], os.getpid())"
    )
    return int(re.search(r"rss (\d+)", it.cell(number).locator(".jp-OutputArea").inner_text())[1])


def test_sixty_machines_of_which_some_fail_are_a_true_grid_with_trouble_on_top(it):
    script = f"{HERE}; echo $here says hello; case $here in n07) exit 3;; n2?) exit 0;; esac; exec sleep 1000"
    view = Fleet(it, it.run_new(f"%%cmdop n[01-60] dead --name grid\n{script}"))

    view.tells("10 ok · 2 failed · 49 running")

    rows = it.until(lambda: len(made := view.rows()) == MANY + 1 and all("hello" in one for one in made[2:]) and made)
    assert [row.split()[:3] for row in rows[:2]] == [["✗", "failed", "n07"], ["✗", "failed", "dead"]]
    assert re.search(r"n07 +exit 3 .*n07 says hello", rows[0])
    assert "the cable is out" in rows[1]
    names = {word: [row.split()[2] for row in rows if row.split()[1] == word] for word in ("running", "ok")}
    assert names["ok"] == [f"n{number}" for number in range(20, 30)]
    assert len(names["running"]) == 49
    assert all(re.search(rf" {row.split()[2]} says hello$", row.rstrip()) for row in rows[2:])
    it.run_new("grid.stop().result()")
    view.tells("10 ok · 2 failed · 49 stopped")
    again = Fleet(it, it.run_new("again = grid.rerun()"))
    again.tells("grid on 2 machines · 2 failed")


def test_twenty_real_servers_are_a_fleet(it):
    view = Fleet(it, it.run_new("%%cmdop box[01-20] --name boxes\necho up; exec sleep 1000"))

    view.tells("boxes on 20 machines · 20 running")
    assert it.until(lambda: sum(row.rstrip().endswith(" up") for row in view.rows()) == SERVERS)
    view.open("box07")
    it.until(lambda: view.pane().strip() == "up")
    it.run_new("boxes.stop().result()")
    view.tells("20 stopped")


def test_a_flood_of_sixty_stays_within_the_budget_and_a_row_opens(it, record_property):
    flood = f'{HERE}; while :; do seq -f "$here says %.0f" 200; sleep 0.5; done'  # 24,000 lines a second of all
    view = Fleet(it, it.run_new(f"%%cmdop n[01-60] --name flood --max-log 2M\n{flood}"))
    view.tells(f"{MANY} running")
    before = memory(it)
    it.page.wait_for_timeout(1000)
    at = len(it.frames)
    began = time.monotonic()

    it.page.wait_for_timeout(WINDOW * 1000)

    seconds = time.monotonic() - began
    frames = it.frames[at:]
    record_property("frames a second, bytes a second", (len(frames) / seconds, sum(frames) / seconds))
    print(f"{len(frames) / seconds:.1f} frames and {sum(frames) / seconds / 1e6:.2f} MB a second")
    assert len(frames) / seconds <= BUDGET
    assert sum(frames) / seconds <= 1_250_000
    view.open("n33")
    it.until(lambda: "n33" in view.pane() and "n34" not in view.pane())
    grown = memory(it) - before
    print(f"the kernel grew by {grown / 1000:.1f} MB")
    assert grown < 60_000
    it.run_new("flood.stop().result()")
    view.tells(f"{MANY} stopped")
