"""Cells in, the README's pictures out: each of a part of a real JupyterLab in which they have just been run.

    python tools/readme_pictures.py docs/pictures

Works in a folder of its own, with its own server, settings and sessions, and leaves nothing running. Needs Chromium.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
from leftovers import end_all
from playwright.sync_api import Browser, Page, sync_playwright
from screenshots import CHROMIUM, QUIET, server

DONE = re.compile(r"^\[\d+\]:$")
WIDTH, HEIGHT = 1100, 1100  # pixels of the page

MACHINE = """
[machines.{name}]
link = ["env", "CMDOP_STATE_DIR={folder}/state", "XDG_CACHE_HOME={folder}/cache", "sh", "-c"]
env = {{ HOST = "{name}" }}
"""
TRAIN = r"""echo 'warning: learning rate is high' >&2
bar=#########################
for epoch in 1 2 3; do
    for step in $(seq 0 25); do
        printf '\repoch %d  \033[32m%-25.*s\033[0m %3d %%' $epoch $step $bar $((step * 4))
        sleep 0.0$((epoch * epoch))
        test $step != 17 || test $epoch != 3 || exec sleep 1000
    done
    printf '\repoch %d  loss 0.%03d, accuracy 0.%d\033[K\n' $epoch $((420 / epoch)) $((80 + 5 * epoch))
done
"""
DEPLOY = r"""%%cmdop web[01-06] --name deploy
echo "stopping web server"; sleep 0.$((RANDOM % 9))
echo "unpacking release 2.4.1 ..."; sleep 1
test $HOST != web05 || { echo "no space left on device" >&2; exit 1; }
echo "starting web server"; sleep 0.$((RANDOM % 9))
test $HOST != web03 || sleep 1000
echo 'healthy: 200 OK in 38 ms'"""
SERVE = r"""import http.server, sys

class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        # answer at once: the load balancer asks each second
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok\n")

http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
"""


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        cells: What is run, one after the other.
        ready: Whether the page looks as it should.
        keys: What is typed into the terminal then.
    """

    name: str
    cells: list[str]
    ready: Callable[[Page], bool]
    keys: str = ""


def has(text: str) -> Callable[[Page], bool]:
    return lambda page: page.get_by_text(text).count() > 0


PICTURES = [
    Picture(
        "output",
        [
            "%%cmdop --name train\nsh train.sh --epochs 3",
            'good = await wait_for(r"accuracy (?P<accuracy>0\\.9\\d)", "train", fail="Traceback", timeout=3600)\n'
            'good["accuracy"]',
        ],
        has("68 %"),
    ),
    Picture("fleet", [DEPLOY], has("4 ok")),
    Picture("terminal", ["%cmdop shell"], lambda page: page.locator(".xterm-screen").count() > 0, "vim serve.py\r"),
]


def take(browser: Browser, address: str, work: Path, picture: Picture, folder: Path) -> None:
    """Run the cells in a fresh notebook, and take the picture of them."""
    path = work / f"{picture.name}.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in ["%load_ext cmdop_jupyter", *picture.cells]]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=1.5)
    page.goto(f"{address}/lab/workspaces/{picture.name}/tree/{path.name}")
    shown = page.locator(".jp-Notebook .jp-Cell")
    shown.first.wait_for()
    page.get_by_text("| Idle").wait_for()
    page.keyboard.press("Control+b")  # the file browser goes
    for number in range(len(cells)):
        shown.nth(number).locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        shown.nth(number).locator(".jp-InputPrompt").filter(has_text=DONE).wait_for()
    while not picture.ready(page):
        page.wait_for_timeout(100)
    if picture.keys:
        page.locator(".xterm-screen").click()
        page.wait_for_timeout(1000)
        page.keyboard.type(picture.keys)
    page.wait_for_timeout(2500)
    boxes = [box for number in range(1, len(cells)) if (box := shown.nth(number).bounding_box())]
    top, bottom = boxes[0]["y"], boxes[-1]["y"] + boxes[-1]["height"]
    clip = {"x": boxes[0]["x"], "y": top, "width": boxes[0]["width"], "height": min(bottom, HEIGHT) - top}
    page.screenshot(path=folder / f"{picture.name}.png", clip=clip)
    page.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("names", nargs="*", help="of pictures; all of them by default")
    given = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if chromium is None:
        raise SystemExit(f"no browser found: {', '.join(CHROMIUM)}")
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as own, sync_playwright() as playwright:
        work = Path(own) / "work"
        work.mkdir()
        names = [f"web{number:02}" for number in range(1, 7)]
        machines = "".join(MACHINE.format(name=name, folder=Path(own) / name) for name in names)
        (work / "cmdop.toml").write_text(machines)
        (work / "serve.py").write_text(SERVE)
        (work / "train.sh").write_text(TRAIN)
        with server(work) as address:
            browser = playwright.chromium.launch(executable_path=chromium, args=[*QUIET])
            for picture in PICTURES:
                if not given.names or picture.name in given.names:
                    take(browser, address, work, picture, given.folder)
                    print(given.folder / f"{picture.name}.png", flush=True)
            browser.close()
        for name in names:
            end_all("CMDOP_STATE_DIR", f"{own}/{name}/state")
    return 0


if __name__ == "__main__":
    sys.exit(main())
