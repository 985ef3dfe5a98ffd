"""JupyterLab and Notebook 7 in a real browser: one server and one browser for all tests here.

Loading a page takes longer than all else, so notebooks are opened in one page after each other, and tests share a
notebook where that keeps them apart: a cell each.
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
from playwright.sync_api import BrowserContext, Locator, Page, sync_playwright
from probes import SCRIPT

PATIENCE = 30_000  # milliseconds for whatever a page does
LOADING = 90_000  # for all that a page is made of
SIZE = {"width": 1400, "height": 1000}  # of a page, in pixels
LAB = "lab/workspaces/{0.stem}/tree/{0.name}"
# Before the kernel is known, a cell that is run asks for one.
KNOWN = """path => {
    const shown = window.jupyterapp?.shell.currentWidget;
    const kernel = shown?.context?.path === path && shown.sessionContext.session?.kernel;
    return kernel && kernel.connectionStatus === "connected" && ["idle", "busy"].includes(kernel.status);
}"""
OPEN = "path => jupyterapp.commands.execute('docmanager:open', {path}).then(() => null)"
CLEAR = "() => ['main', 'down'].forEach(area => [...jupyterapp.shell.widgets(area)].forEach(one => one.dispose()))"


class Lab:
    """One notebook in JupyterLab, or in another program at `where` on the same server.

    Args:
        context: Of the browser.
        setup: What its first cell does before it loads the extension.
        script: What its pages run before all else.
        desk: A page in which JupyterLab is open already.

    Attributes:
        page: Where it is open.
        path: Its file.
    """

    def __init__(
        self,
        context: BrowserContext,
        address: str,
        folder: Path,
        cells: list[str],
        where: str = LAB,
        setup: str = "",
        script: str | None = None,
        desk: Page | None = None,
    ) -> None:
        self.path = folder / f"{uuid.uuid4().hex[:8]}.ipynb"
        self.address, self._url = address, f"{address}/{where.format(self.path)}"
        made = [nbformat.v4.new_code_cell(source) for source in [f"{setup}\n%load_ext cmdop_jupyter", *cells]]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=kernel), self.path)
        self.context, self._script = context, script
        self._pages: list[Page] = []
        self._desk = desk
        if desk is None:
            self.page = self.open()
        else:
            self.page = desk
            desk.evaluate(OPEN, self.path.name)
            self._await_loaded(desk)
        self.run(0)

    def open(self) -> Page:
        """The notebook in a new page."""
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        self._pages.append(page)
        if self._script is not None:
            page.add_init_script(self._script)
        page.goto(self._url, wait_until="commit", timeout=LOADING)
        self._await_loaded(page)
        return page

    def reload(self) -> None:
        """Load the page anew; what was not saved is not there."""
        self.page.goto(self._url, wait_until="commit", timeout=LOADING)
        self._await_loaded(self.page)

    def _await_loaded(self, page: Page) -> None:
        page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=LOADING)
        if "/notebooks/" not in self._url:
            page.wait_for_function(KNOWN, arg=self.path.name, timeout=LOADING)
        else:  # Notebook 7 says "idle" of no kernel too
            self.until(lambda: any(self._connected()), LOADING / 1000)

    def _connected(self) -> Iterator[bool]:
        for session in self._sessions():
            kernel = session["kernel"]
            yield kernel["connections"] > 0 and kernel["execution_state"] in ("idle", "busy")

    def _sessions(self) -> list[dict[str, Any]]:
        """The server's, of this notebook."""
        found = self.context.request.get(f"{self.address}/api/sessions").json()
        return [one for one in found if one["path"] == self.path.name]

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

        def is_saved() -> bool:
            self.page.keyboard.press("Control+s")  # again and again: a page that is still saving does not hear it
            self.page.wait_for_timeout(500)
            return self.path.stat().st_mtime_ns != before and self.path.read_text().endswith("}\n")

        self.until(is_saved)
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
        """Close it, and shut its kernel down."""
        for page in self._pages:
            page.close()
        if self._desk is not None:
            self._desk.evaluate(CLEAR)
        self.shut_down()

    def shut_down(self) -> None:
        """End its kernel, whatever that or the page does."""
        (token,) = [each["value"] for each in self.context.cookies(self.address) if each["name"] == "_xsrf"]
        for session in self._sessions():
            path = f"{self.address}/api/sessions/{session['id']}"
            said = self.context.request.delete(path, headers={"X-XSRFToken": token}, timeout=LOADING)
            assert said.ok, said.text()


DONE = re.compile(r"^\[\d+\]:$")


@pytest.fixture(scope="package")
def context() -> Iterator[BrowserContext]:
    """Not for longer than the tests here: while there is one, its loop runs, and no other test could have one."""
    with sync_playwright() as playwright:
        chromium = next(filter(None, map(shutil.which, screenshots.CHROMIUM)))
        browser = playwright.chromium.launch(executable_path=chromium, args=[*screenshots.QUIET])
        yield browser.new_context(viewport=SIZE)
        browser.close()


@pytest.fixture(scope="package")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="package")
def lab_address(lab_folder: Path) -> Iterator[str]:
    """A module whose server has to be another one has fixtures of these two names."""
    work = lab_folder / "work"
    work.mkdir()
    with screenshots.server(work) as address:
        yield address


@pytest.fixture(scope="package")
def desk(context: BrowserContext, lab_address: str) -> Page:
    """JupyterLab with nothing open, and a probe."""
    page = context.new_page()
    page.add_init_script(SCRIPT)
    page.set_default_timeout(PATIENCE)
    page.goto(f"{lab_address}/lab", wait_until="commit", timeout=LOADING)
    page.wait_for_function("window.jupyterapp?.restored.then(() => true)", timeout=LOADING)
    return page


@pytest.fixture(scope="module")
def labs(context: BrowserContext, desk: Page, lab_address: str, lab_folder: Path) -> Iterator[Callable[..., Lab]]:
    """Open a notebook of these cells, behind one that loads the extension; all are closed with the module.

    One at a time is in the page that all share; the others have their own.
    """
    opened: list[Lab] = []

    def labs(*cells: str, **options: Any) -> Lab:
        shared = options.keys() <= {"setup"} and not any(one.page is desk for one in opened)
        options["desk"] = desk if shared else None
        opened.append(Lab(context, lab_address, lab_folder / "work", list(cells), **options))
        return opened[-1]

    yield labs
    for one in opened:
        one.close()


@pytest.fixture(scope="module")
def module_lab(labs: Callable[..., Lab]) -> Lab:
    """One notebook for all tests of the module."""
    return labs()
