"""JupyterLab and Notebook 7 in a real browser: one server for all tests of a process, a browser for those of a module.

Loading a page takes longer than all else here, so tests share one where that keeps them apart: a cell each.
"""

from __future__ import annotations

import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import screenshots
from playwright.sync_api import Browser, Locator, Page, sync_playwright

PATIENCE = 30_000  # milliseconds for whatever a page does
LOADING = 90_000  # for all that a page is made of
KNOWN = re.compile(r"\| (Idle|Busy)")  # before the kernel is, a cell that is run asks for one


class Lab:
    """One notebook in JupyterLab, or in another program at `where` on the same server.

    Attributes:
        page: Where it is open.
        path: Its file.
    """

    def __init__(
        self,
        browser: Browser,
        address: str,
        folder: Path,
        cells: list[str],
        where: str = "lab/workspaces/{0.stem}/tree/{0.name}",
        **options: Any,
    ) -> None:
        self.path = folder / f"{uuid.uuid4().hex[:8]}.ipynb"
        self.address, self._url = address, f"{address}/{where.format(self.path)}"
        made = [nbformat.v4.new_code_cell(source) for source in ["%load_ext cmdop_jupyter", *cells]]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=kernel), self.path)
        self.context = browser.new_context(viewport={"width": 1400, "height": 1000}, **options)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.open()
        self.run(0)

    def open(self) -> Page:
        """The notebook in a new page."""
        page = self.context.new_page()
        page.goto(self._url, wait_until="commit", timeout=LOADING)
        self._await_loaded(page)
        return page

    def reload(self) -> None:
        """Load the page anew; what was not saved is not there."""
        self.page.reload(wait_until="commit", timeout=LOADING)
        self._await_loaded(self.page)

    def _await_loaded(self, page: Page) -> None:
        page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=LOADING)
        if "/notebooks/" not in self._url:
            page.get_by_text(KNOWN).first.wait_for(timeout=LOADING)
        else:  # Notebook 7 has no status bar, and says "idle" of no kernel too
            self.until(lambda: any(self._connected(page)), LOADING / 1000)

    def _connected(self, page: Page) -> Iterator[bool]:
        for session in page.request.get(f"{self.address}/api/sessions").json():
            kernel = session["kernel"]
            if session["path"] == self.path.name:
                yield kernel["connections"] > 0 and kernel["execution_state"] in ("idle", "busy")

    def cell(self, number: int, page: Page | None = None) -> Locator:
        return (page or self.page).locator(".jp-Notebook .jp-Cell").nth(number)

    def start(self, number: int) -> None:
        """Run a cell and do not wait for it."""
        self.cell(number).scroll_into_view_if_needed()
        self.cell(number).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def run(self, number: int) -> Locator:
        """Run a cell to its end."""
        self.start(number)
        cell = self.cell(number)
        cell.locator(".jp-InputPrompt").filter(has_text=DONE).wait_for()
        return cell

    def add(self, source: str) -> int:
        """A new last cell; gives its number."""
        cells = self.page.locator(".jp-Notebook .jp-Cell")
        count = cells.count()
        self.page.locator(".jp-Notebook-footer").click()
        self.until(lambda: cells.count() == count + 1)
        self.cell(count).locator(".cm-content").click()
        self.page.keyboard.insert_text(source)
        return count

    def run_new(self, source: str) -> int:
        """Run a new last cell to its end."""
        number = self.add(source)
        self.run(number)
        return number

    def choose(self, menu: str, item: str) -> None:
        """Choose what a menu has."""
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.get_by_text(item, exact=True).click()

    def save(self) -> nbformat.NotebookNode:
        """The notebook as the page saves it now."""
        before = self.path.stat().st_mtime_ns
        self.cell(0).locator(".jp-InputPrompt").click()
        self.page.keyboard.press("Control+s")
        self.until(lambda: self.path.stat().st_mtime_ns != before and self.path.read_text().endswith("}\n"))
        return nbformat.read(self.path, as_version=4)

    def until(self, is_so: Callable[[], Any], seconds: float = 30) -> Any:
        """Return what `is_so` gives once that is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if result := is_so():
                return result
            self.context.pages[-1].wait_for_timeout(50)
        raise AssertionError(f"not so within {seconds} s")

    def close(self) -> None:
        self.context.close()


DONE = re.compile(r"^\[\d+\]:$")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for longer than a module: while there is one, its loop runs, and no test of another module could have one."""
    with sync_playwright() as playwright:
        chromium = next(filter(None, map(shutil.which, screenshots.CHROMIUM)))
        browser = playwright.chromium.launch(executable_path=chromium, args=[*screenshots.QUIET])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="session")
def lab_address(lab_folder: Path) -> Iterator[str]:
    """A module whose server has to be another one has fixtures of these two names."""
    work = lab_folder / "work"
    work.mkdir()
    with screenshots.server(work) as address:
        yield address


@pytest.fixture(scope="module")
def labs(browser: Browser, lab_address: str, lab_folder: Path) -> Iterator[Callable[..., Lab]]:
    """Open a notebook of these cells, behind one that loads the extension; all are closed with the module."""
    opened: list[Lab] = []

    def labs(*cells: str, **options: Any) -> Lab:
        opened.append(Lab(browser, lab_address, lab_folder / "work", list(cells), **options))
        return opened[-1]

    yield labs
    for one in opened:
        one.close()


@pytest.fixture(scope="module")
def module_lab(labs: Callable[..., Lab]) -> Lab:
    """One notebook for all tests of the module."""
    return labs()


@pytest.fixture
def lab_of_its_own(browser: Browser, lab_address: str, lab_folder: Path) -> Iterator[Lab]:
    """A notebook for this test alone."""
    one = Lab(browser, lab_address, lab_folder / "work", [])
    yield one
    one.close()
