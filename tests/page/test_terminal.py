"""A terminal in a real JupyterLab, in a real browser: what is on its screen, what is typed, what a flood does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import unicodedata
from pathlib import Path

import pyte
import pytest

CAPTURED = Path(__file__).parents[1] / "captured"
COLS, ROWS = 120, 40
LEAVES = b"\x1b[?1049l"  # what a full-screen program writes last

SETTLED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))"
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
STYLES = """node => {
    const buffer = node.terminal.buffer.active;
    const found = [];
    for (let row = 0; row < node.terminal.rows; row++) {
        const line = buffer.getLine(buffer.baseY + row);
        for (let col = 0; col < node.terminal.cols; col++) {
            const cell = line.getCell(col);
            if (cell.isFgRGB()) found.push([row, col, cell.getFgColor().toString(16).padStart(6, "0")]);
        }
    }
    return found;
}"""


class Term:
    """The terminal below a cell."""

    def __init__(self, lab, number: int, page=None) -> None:
        self.lab, self.page = lab, page or lab.page
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
    def says(self) -> str:
        return self.node.locator(".cmdop-says").inner_text()

    def shows(self, pattern: str, seconds: float = 10) -> re.Match[str]:
        """Wait until a pattern is on it."""
        return self.until(lambda: re.search(pattern, self.text, re.MULTILINE), seconds)

    def until(self, is_so, seconds: float = 10):
        try:
            return self.lab.until(is_so, seconds)
        except AssertionError:
            raise AssertionError(f"{self.says!r}, and on the screen:\n{self.text[-2000:]}") from None

    def focus(self) -> None:
        self.node.locator(".cmdop-screen").click()

    def type(self, text: str) -> None:
        self.focus()
        self.page.keyboard.type(text)

    def paste(self, text: str) -> None:
        self.node.evaluate("(node, text) => node.terminal.paste(text)", text)

    def size(self) -> list[int]:
        return self.node.evaluate("node => [node.terminal.cols, node.terminal.rows]")

    def resize(self, cols: int, rows: int) -> None:
        self.page.evaluate(SETTLED)
        self.node.evaluate("(node, [cols, rows]) => node.terminal.resize(cols, rows)", [cols, rows])


@pytest.fixture(scope="module")
def notebook(module_lab):
    """One notebook for all tests of the module; each takes a fresh cell."""
    return module_lab


@pytest.fixture
def term(notebook):
    """Run a script in a terminal, and give it."""

    def term(script: str, options: str = "") -> Term:
        return Term(notebook, notebook.run_new(f"%%cmdop --view terminal {options}\n{script}"))

    yield term
    notebook.run_new("for stream in list(cmdop.values()): stream.stop().result()")


def expected(data: bytes) -> list[str]:
    """The screen by another emulator, which knows one screen, no `:` in colours, and not what vim asks a terminal."""
    screen = pyte.Screen(COLS, ROWS)
    known = re.sub(rb"\x1b\[([?>][0-9;]*[mc]|[0-9;]*:[0-9:;]*m)", b"", data)
    for number, part in enumerate(re.split(rb"\x1b\[\?1049[hl]", known)):
        shown = pyte.Screen(COLS, ROWS) if number % 2 else screen
        pyte.ByteStream(shown).feed(part)
    return [unicodedata.normalize("NFC", line.rstrip()) for line in shown.display]


def recorded(name: str) -> bytes:
    if name.endswith(".jsonl"):
        lines = [json.loads(line)[1] for line in (CAPTURED / name).read_text().splitlines()]
        return "".join(lines).replace("\n", "\r\n").encode()
    return (CAPTURED / name).read_bytes()


RECORDINGS = ["vim.raw", "curses.raw", "colors.raw", "tqdm.jsonl", "tqdm-two-bars.jsonl", "layers.raw", "bash.raw"]


def test_recorded_sessions_end_in_the_same_screen_as_in_another_emulator(term, tmp_path):
    names = [*RECORDINGS, "inside vim.raw", "inside curses.raw"]
    pieces = []
    for number, name in enumerate(names):
        data = recorded(name.removeprefix("inside "))
        pieces.append(data[: data.rindex(LEAVES)] if name.startswith("inside") else data)
        (tmp_path / str(number)).write_bytes(pieces[-1])
    each = f"read -N 1; printf '\\033c'; cat {tmp_path}/$i"
    show = term(f"stty raw -echo; for i in $(seq 0 {len(names) - 1}); do {each}; done; read x")
    show.resize(COLS, ROWS)

    for name, data in zip(names, pieces, strict=True):
        show.type("x")
        wanted = expected(data)
        with contextlib.suppress(AssertionError):
            show.until(lambda wanted=wanted: show.screen == wanted, 8)
        assert show.screen == wanted, name


def test_colours_of_24_bits_are_kept(term):
    show = term(r"printf '\033[38;2;255;100;3mx\033[m done'; read x")
    show.shows("done")

    assert show.node.evaluate(STYLES)[0] == [0, 0, "ff6403"]


def test_wide_characters_take_two_columns(term):
    show = term("printf '你好😀|'; read x")
    show.shows("你好😀")

    assert show.node.evaluate("node => node.terminal.buffer.active.cursorX") == 7


def test_what_is_typed_arrives_and_comes_back(term):
    show = term("cat")

    show.type("hello wörld\n")

    show.shows(r"^hello wörld\n^hello wörld")


def test_a_shell_is_typed_into_and_the_notebook_hears_none_of_it(notebook):
    number = notebook.run_new("%cmdop shell --name typed")
    show = Term(notebook, number)
    cells = notebook.page.locator(".jp-Notebook .jp-Cell").count()

    show.type("stty size; echo $((6*7))")
    show.page.keyboard.press("Shift+Enter")
    show.shows("^42$")
    cols, rows = show.size()
    show.shows(rf"^{rows} {cols}$")
    show.page.keyboard.type("echo rea''dy; cat -v\n")
    show.shows("^ready$")
    show.page.keyboard.press("Escape")
    show.page.keyboard.type("ddjkbb")
    show.page.keyboard.press("Control+s")
    show.page.keyboard.press("Control+q")
    show.page.keyboard.press("Tab")
    show.page.keyboard.type("|\n")
    show.shows(r"^\^\[ddjkbb\s*\|$")
    assert notebook.page.locator(".jp-Notebook .jp-Cell").count() == cells

    show.page.keyboard.press("Shift+Escape")
    assert not show.node.evaluate("node => node.contains(document.activeElement)")
    notebook.run_new("typed.stop().result()")


def test_the_program_hears_of_a_new_size(term):
    show = term("trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done")
    show.shows("ready")

    show.resize(77, 11)

    show.shows("^11 77$")


def test_a_megabyte_is_pasted_exactly_where_the_program_reads_raw(term):
    text = "".join(f"{number:07d} åß\n" for number in range(90_000))
    sent = text.replace("\n", "\r").encode()
    show = term(f"stty raw -echo; echo ready; head -c {len(sent)} | sha256sum; read x")
    show.shows("ready")

    show.paste(text)

    show.shows(hashlib.sha256(sent).hexdigest())


def test_a_paste_with_a_line_too_long_is_refused_with_a_word(term):
    show = term("cat")

    show.paste("x" * 5000)

    show.until(lambda: "not typed" in show.says)
    show.type("after\n")
    show.shows("^after\nafter")


def test_a_flood_is_skipped_and_ends_at_the_newest(term, notebook):
    show = term("timeout 3 yes a line of the flood; echo; echo the end; read x")

    show.shows("^the end$", 25)

    assert re.match(r"[\d.]+ [MG]B skipped to keep up", show.says)
    assert show.screen[-2] == "the end"


def test_a_reloaded_page_has_the_scrollback_goes_on_and_tells_the_end(lab_of_its_own):
    notebook = lab_of_its_own
    number = notebook.run_new("%%cmdop --view terminal --name seen\nseq 300; read x; echo got $x; read x")
    Term(notebook, number).shows("^300$")
    notebook.save()

    notebook.page.reload()
    show = Term(notebook, number)

    show.shows(r"^1\n2\n3\n[\s\S]*\n300$")
    show.type("more\n")
    show.shows("^got more$")

    show.type("the end\n")
    show.until(lambda: "exit 0" in show.says)
    assert show.node.evaluate("node => node.terminal.options.disableStdin")


def test_two_views_show_the_same_and_follow_one_size(notebook):
    first = Term(notebook, notebook.run_new("%%cmdop --view terminal --name both\nread x; echo got $x; cat"))
    first.resize(90, 20)
    second = Term(notebook, notebook.run_new("%cmdop shell --name both"))
    second.until(lambda: second.size() != [90, 20])
    first.until(lambda: first.size() == second.size())

    second.type("one\n")

    first.shows("^got one$")
    second.shows("^got one$")
    first.focus()
    first.until(lambda: first.size() == second.size())
    notebook.run_new("both.stop().result()")


def test_a_history_is_not_answered_again(notebook):
    script = "stty -echo -icanon; printf '\\033[c'; echo asked; exec cat -v"
    first = Term(notebook, notebook.run_new(f"%%cmdop --view terminal --name asked\n{script}"))
    first.shows(r"^\^\[\[\?1;2c")
    second = Term(notebook, notebook.run_new("%cmdop shell --name asked"))
    second.shows("asked")

    second.type("x")

    second.shows("x$")
    assert second.text.split() == ["asked", "^[[?1;2cx"]
    notebook.run_new("asked.stop().result()")


def test_what_would_reach_out_of_the_terminal_is_inert(term, notebook):
    before = notebook.page.title()
    show = term(
        r"printf '\033]0;hostile title\007\033]2;hostile\033\\\033]52;c;aGFja2Vk\007"
        r"\033]8;;javascript:alert(1)\033\\link\033]8;;\033\\ <img src=x onerror=alert(2)> done'; read x"
    )
    show.shows(r"link <img src=x onerror=alert\(2\)> done")

    assert "hostile" not in notebook.page.title()
    assert notebook.page.title() == before
    assert show.node.locator("a, img").count() == 0


def test_only_web_links_are_followed(term, notebook):
    show = term("echo; echo https://example.org/here; echo javascript:alert; read x")
    show.shows("alert")
    notebook.page.evaluate("window.open = (...words) => { window.opened = words; return null; }")

    box = show.node.locator(".xterm-screen").bounding_box()
    line = box["height"] / show.size()[1]
    for row in (2, 1):
        notebook.page.mouse.move(box["x"] + 40, box["y"] + line * (row + 0.5), steps=3)
        notebook.page.wait_for_timeout(300)
        notebook.page.mouse.click(box["x"] + 40, box["y"] + line * (row + 0.5))

    opened = show.until(lambda: notebook.page.evaluate("window.opened"))
    assert opened == ["https://example.org/here", "_blank", "noopener,noreferrer"]


def test_text_is_found(term, notebook):
    show = term("seq 500; read x")
    show.shows("^500$")
    show.focus()

    notebook.page.keyboard.press("Control+Shift+F")
    notebook.page.keyboard.type("123")

    show.until(lambda: show.node.locator(".cmdop-find output").inner_text() == "1 of 1")
    assert show.node.evaluate("node => node.terminal.getSelection()") == "123"
    notebook.page.keyboard.press("Escape")
    assert show.node.locator(".cmdop-find").is_hidden()


def test_output_goes_on_while_the_kernel_is_busy_and_what_is_typed_waits(term, notebook, tmp_path):
    show = term("for i in $(seq 600); do echo number $i; sleep 0.05; done & read x; echo got $x; wait")
    show.shows("number 3")

    go = tmp_path / "go"
    notebook.start(notebook.add(f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)"))
    seen = int(re.findall("number (\\d+)", show.text)[-1])
    show.shows(f"number {seen + 30}")
    show.type("typed\n")
    show.until(lambda: "the kernel is busy" in show.says)
    show.shows(f"number {seen + 60}")
    assert "got" not in show.text
    go.touch()

    show.shows("got typed")
    assert "busy" not in show.says


def test_the_end_leaves_the_text_with_the_exit_in_the_cell(notebook):
    number = notebook.run_new("%%cmdop --view terminal --name over\nread x; echo got $x; exit 3")
    show = Term(notebook, number)

    show.type("it\n")

    text = notebook.cell(number).locator("details")
    show.lab.until(lambda: "exit 3" in text.inner_text())
    assert "got it" in text.inner_text()
    assert notebook.cell(number).locator(".cmdop-terminal").count() == 0
    saved = notebook.save()
    kinds = {kind for output in saved.cells[number].outputs for kind in output.get("data", {})}
    assert kinds == {"text/plain", "text/html"}
