"""A terminal below a cell as tests see it, and a program in it that runs one script after the other.

One page, one notebook, one session for many facts: a fresh cell takes a second or two, a fresh script none.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

SCREEN = """node => {
    const buffer = node.terminal.buffer.active;
    return Array.from({length: node.terminal.rows}, (_, row) =>
        (buffer.getLine(buffer.baseY + row)?.translateToString(true) ?? "").trimEnd());
}"""
ALL = """node => {
    const buffer = node.terminal.buffer.active;
    const from = Math.max(0, buffer.length - 600);
    return Array.from({length: buffer.length - from}, (_, row) => buffer.getLine(from + row).translateToString(true))
        .join("\\n");
}"""
# Of each cell: foreground and background, as null, a number of the palette or six digits.
COLOURS = """node => {
    const buffer = node.terminal.buffer.active;
    const one = (rgb, palette, value) => rgb ? value.toString(16).padStart(6, "0") : palette ? value : null;
    return JSON.stringify(Array.from({length: node.terminal.rows}, (_, row) => {
        const line = buffer.getLine(buffer.baseY + row);
        return Array.from({length: node.terminal.cols}, (_, col) => {
            const cell = line.getCell(col);
            return [one(cell.isFgRGB(), cell.isFgPalette(), cell.getFgColor()),
                    one(cell.isBgRGB(), cell.isBgPalette(), cell.getBgColor())];
        });
    }));
}"""
PASTE = """(node, text) => {
    const data = new DataTransfer();
    data.setData("text/plain", text);
    const event = new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
    node.querySelector("textarea").dispatchEvent(event);
}"""
HAS_KEYS = "node => node.querySelector('textarea') === document.activeElement"

DRIVER = """
import os, signal, subprocess, sys, termios
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
modes = termios.tcgetattr(0)

def others():
    "Processes of this terminal, in whatever group: a shell makes some of its own."
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            state, _, _, session = open(f"/proc/{pid}/stat").read().rpartition(") ")[2].split()[:4]
        except OSError:
            continue
        if int(session) == os.getsid(0) and state != "Z":
            yield int(pid)

def begin():
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpgid(0))
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)

before = set(others())
for line in open(sys.argv[1]):
    word, path = line.split()
    if word == "end":
        while left := set(others()) - before:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        os.tcsetpgrp(0, os.getpgrp())
        termios.tcsetattr(0, termios.TCSAFLUSH, modes)
        print("\\033c\\033[?1000;1002;1003;2004lfresh", path, flush=True)
    else:
        print("\\033c", end="", flush=True)
        subprocess.Popen(["bash", path], preexec_fn=begin)
"""


class Term:
    """The terminal below a cell."""

    def __init__(self, lab: Any, number: int, page: Any = None) -> None:
        self.lab, self.number, self.page = lab, number, page or lab.page
        self.cell = lab.cell(number, self.page)
        self.node = self.cell.locator(".cmdop-terminal")
        self.node.locator(".xterm-screen").wait_for()

    @property
    def screen(self) -> list[str]:
        return [unicodedata.normalize("NFC", line) for line in self.node.evaluate(SCREEN)]

    @property
    def text(self) -> str:
        """The screen and the lines above it."""
        return self.node.evaluate(ALL)

    @property
    def colours(self) -> list[list[list[str | int | None]]]:
        """Foreground and background of each cell."""
        return json.loads(self.node.evaluate(COLOURS))

    @property
    def says(self) -> str:
        return self.node.locator(".cmdop-says").inner_text()

    def shows(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        """Wait until a pattern is on it."""
        return self.until(lambda: re.search(pattern, self.text, re.MULTILINE), seconds)

    def until(self, is_so: Any, seconds: float = 30) -> Any:
        try:
            return self.lab.until(is_so, seconds)
        except AssertionError:
            raise AssertionError(f"{self.says!r}, and on the screen:\n{self.text[-2000:]}") from None

    def focus(self) -> None:
        if not self.node.evaluate(HAS_KEYS):
            self.node.locator(".cmdop-screen").click()
            self.until(lambda: self.node.evaluate(HAS_KEYS))

    def type(self, text: str) -> None:
        self.focus()
        self.page.keyboard.type(text)

    def press(self, *keys: str) -> None:
        self.focus()
        for key in keys:
            self.page.keyboard.press(key)

    def paste(self, text: str) -> None:
        self.node.evaluate(PASTE, text)

    @property
    def size(self) -> list[int]:
        return self.node.evaluate("node => [node.terminal.cols, node.terminal.rows]")

    def resize(self, cols: int, rows: int) -> None:
        """To an exact size, which no page may have room for."""
        self.node.evaluate("(node, [cols, rows]) => node.terminal.resize(cols, rows)", [cols, rows])

    def drag(self, pixels: int) -> None:
        """Make it as high as that, as its corner does."""
        height = "(node, pixels) => node.style.height = `${pixels}px`"
        self.node.locator(".cmdop-screen").evaluate(height, pixels)


class Stage:
    """Runs scripts in one terminal, each on a fresh screen; what the last one left running is ended."""

    def __init__(self, lab: Any, folder: Path) -> None:
        self._folder, self._count = folder, 0
        (folder / "driver.py").write_text(DRIVER)
        os.mkfifo(folder / "scripts")
        self._scripts = os.open(folder / "scripts", os.O_RDWR)  # so that neither side waits for the other
        script = f"exec python3 -I {folder}/driver.py {folder}/scripts"
        self.term = Term(lab, lab.run_new(f"%%cmdop --view terminal --name stage\n{script}"))

    def run(self, script: str) -> Term:
        """Begin a script."""
        self._count += 1
        path = self._folder / f"script{self._count}"
        path.write_text(script)
        os.write(self._scripts, f"end {self._count}\n".encode())
        self.term.until(lambda: self.term.screen[0] == f"fresh {self._count}")
        os.write(self._scripts, f"run {path}\n".encode())
        self.term.until(lambda: self.term.screen[0] != f"fresh {self._count}")  # else what is typed now is cleared, too
        return self.term

    def close(self) -> None:
        os.close(self._scripts)
