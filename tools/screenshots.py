"""A notebook in, pictures out of how it looks in a real JupyterLab while it runs and when it is done.

    python tools/screenshots.py notebooks/01_quickstart.ipynb build/screenshots

Works on a copy, with its own server, settings and sessions, and leaves nothing running. Needs Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from leftovers import end_all
from playwright.sync_api import Error, Page, sync_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync")
WIDTH, HEIGHT = 1280, 1500  # pixels of one picture
PENDING = re.compile(r"^\[[* ]\]:$")  # the prompt of a cell that runs or is to run
TO_MIDDLE = "node => node.scrollIntoView({block: 'center'})"
START_SECONDS = 60
STOP_SECONDS = 20


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """A JupyterLab of its own on `folder`; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = folder.parent
    kinds = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    env = {**os.environ, **{kind: str(own / kind) for kind in (*kinds, "IPYTHONDIR", "CMDOP_STATE_DIR")}}
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder,
        "IdentityProvider.token": "",
    }
    settings = own / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    words = [f"--{name}={value}" for name, value in options.items()]
    flags = ["--no-browser", "--allow-root", "--expose-app-in-browser"]
    command = [sys.executable, "-m", "jupyter", "lab", *flags, *words]
    with open(own / "server.log", "wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        await_server(address, process, own / "server.log")
        yield address
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:  # it waits for a kernel that does not answer
            process.kill()
            process.wait()
        end_all("CMDOP_STATE_DIR", env["CMDOP_STATE_DIR"])


def await_server(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the server answers. Raises RuntimeError with its log when it does not."""
    deadline = time.monotonic() + START_SECONDS
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None and time.monotonic() < deadline:
        try:
            direct.open(f"{address}/api", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not come up:\n{log.read_text()[-2000:]}")


class Pictures:
    """Takes numbered pictures of a page into a folder."""

    def __init__(self, page: Page, folder: Path, stem: str) -> None:
        self._page, self._folder, self._stem, self._count = page, folder, stem, 0

    def take(self, what: str) -> None:
        """One picture of what is on the screen."""
        self._count += 1
        path = self._folder / f"{self._stem}-{self._count:02}-{what}.png"
        self._page.screenshot(path=path)
        print(path, flush=True)

    def take_all(self, what: str) -> None:
        """The whole notebook, screen by screen."""
        scroller = self._page.locator(".jp-WindowedPanel-outer").first
        scroller.evaluate("node => node.scrollTo(0, 0)")
        while True:
            self._page.wait_for_timeout(400)
            self.take(what)
            at = "node => node.scrollTop"
            before = scroller.evaluate(at)
            scroller.evaluate("node => node.scrollBy(0, node.clientHeight - 60)")
            self._page.wait_for_timeout(400)
            if scroller.evaluate(at) <= before:
                return


def run_all(page: Page, address: str, name: str) -> None:
    """Open a notebook and start all its cells."""
    page.goto(f"{address}/lab/tree/{name}?reset")
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=60_000)
    page.get_by_text("| Idle").wait_for(timeout=60_000)
    for _ in range(3):  # now and then the menu's first click does nothing
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        with contextlib.suppress(Error):
            page.get_by_text("[*]:").first.wait_for(timeout=3_000)
            return
    raise RuntimeError("JupyterLab does not run the notebook")


def pictures(notebook: Path, folder: Path, every: float, seconds: float) -> bool:
    """Run `notebook` and take a picture each `every` seconds, then of all that stays; return whether all cells ran."""
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if chromium is None:
        raise SystemExit(f"no browser found: {', '.join(CHROMIUM)}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as own, sync_playwright() as playwright:
        work = Path(own) / "work"
        work.mkdir()
        shutil.copy(notebook, work)
        with server(work) as address:
            browser = playwright.chromium.launch(executable_path=chromium, args=[*QUIET])
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            shots = Pictures(page, folder, notebook.stem)
            run_all(page, address, notebook.name)
            deadline = time.monotonic() + seconds
            while (cells := page.get_by_text(PENDING)).count() and time.monotonic() < deadline:
                with contextlib.suppress(Error):  # it is done by now
                    cells.first.evaluate(TO_MIDDLE, timeout=1000)
                shots.take("running")
                page.wait_for_timeout(every * 1000)
            done = not cells.count()
            page.wait_for_timeout(1000)
            shots.take_all("done")
            page.keyboard.press("Escape")
            page.keyboard.press("Control+s")
            page.wait_for_timeout(1000)
            page.reload()
            page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=60_000)
            page.wait_for_timeout(2000)
            shots.take_all("reloaded")
            shutil.copy(work / notebook.name, folder)
            browser.close()
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("folder", type=Path, help="where the pictures go, and the notebook as JupyterLab saved it")
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="while it runs (default: 2)")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="for all cells (default: 120)")
    given = parser.parse_args()
    return 0 if pictures(given.notebook, given.folder, given.every, given.timeout) else 1


if __name__ == "__main__":
    sys.exit(main())
