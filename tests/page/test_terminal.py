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
from terminals import Stage

pytestmark = pytest.mark.long

CAPTURED = Path(__file__).parents[1] / "captured"
COLS, ROWS = 120, 40
LEAVES = b"\x1b[?1049l"  # what a full-screen program writes last


@pytest.fixture(scope="module")
def notebook(module_lab):
    """One notebook for all tests of the module."""
    return module_lab


@pytest.fixture(scope="module")
def stage(notebook, tmp_path_factory):
    stage = Stage(notebook, tmp_path_factory.mktemp("stage"))
    yield stage
    stage.close()


@pytest.fixture
def term(stage):
    """Run a script on the module's terminal, and give that."""
    return stage.run


# -- the picture


def emulated(data: bytes) -> pyte.Screen:
    """The screen by pyte, which has no second screen, no `:` in colours, and takes what vim asks for colours."""
    known = re.sub(rb"\[([34]8):2::(\d+):(\d+):(\d+)m", rb"[\1;2;\2;\3;\4m", data)
    known = re.sub(rb"\x1b\[[?>][0-9;]*[mc]", b"", known)
    screen = pyte.Screen(COLS, ROWS)
    for number, part in enumerate(re.split(rb"\x1b\[\?1049[hl]", known)):
        shown = pyte.Screen(COLS, ROWS) if number % 2 else screen
        pyte.ByteStream(shown).feed(part)
    return shown


NAMES = {name: number - 30 for number, name in pyte.graphics.FG_ANSI.items()}
NAMES |= {name: number - 82 for number, name in pyte.graphics.FG_AIXTERM.items()}
NAMES["bfightmagenta"] = NAMES["brightmagenta"]  # so pyte 0.8 spells it as a background


def colour(of: str | int | None) -> str:
    """One word for a colour, whichever emulator tells it: the number of the first 16, digits of all others."""
    if of in (None, "default"):
        return "default"
    if isinstance(of, int):
        return str(of) if of < 16 else pyte.graphics.FG_BG_256[of]
    return str(NAMES.get(of, of))


def differences(found: list[list[list[str | int | None]]], wanted: pyte.Screen) -> list[object]:
    """Cells whose colours differ; that of the letters of a blank is none."""
    wrong: list[object] = []
    for row, line in enumerate(found):
        for col, (fore, back) in enumerate(line):
            cell = wanted.buffer[row][col]
            same_letters = cell.data in (" ", "") or colour(fore) == colour(cell.fg)
            if not same_letters or colour(back) != colour(cell.bg):
                wrong.append((row, col, fore, back, cell))
    return wrong


def recorded(name: str) -> bytes:
    if name.endswith(".jsonl"):
        lines = [json.loads(line)[1] for line in (CAPTURED / name).read_text().splitlines()]
        return "".join(lines).replace("\n", "\r\n").encode()
    return (CAPTURED / name).read_bytes()


INSIDE = ["vim.raw", "vim-edit.raw", "curses.raw", "htop.raw"]  # their picture before they leave, too
RECORDINGS = [*INSIDE, "colors.raw", "tqdm.jsonl", "tqdm-two-bars.jsonl", "layers.raw", "bash.raw", "git-clone.raw"]


def test_recorded_sessions_end_in_the_same_screen_as_in_another_emulator(term, tmp_path):
    names = [*RECORDINGS, *(f"inside {name}" for name in INSIDE)]
    pieces = []
    for number, name in enumerate(names):
        data = recorded(name.removeprefix("inside "))
        pieces.append(data[: data.rindex(LEAVES)] if name.startswith("inside") else data)
        (tmp_path / str(number)).write_bytes(pieces[-1])
    each = f"read -N 1; printf '\\033c'; cat {tmp_path}/$i; touch {tmp_path}/done$i"
    show = term(f"stty raw -echo; for i in $(seq 0 {len(names) - 1}); do {each}; done; read x")
    show.resize(COLS, ROWS)

    for name, data in zip(names, pieces, strict=True):
        show.type("x")
        wanted = emulated(data)
        lines = [unicodedata.normalize("NFC", line.rstrip()) for line in wanted.display]
        with contextlib.suppress(AssertionError):
            show.until(lambda lines=lines: show.screen == lines)
        assert show.screen == lines, name
        assert differences(show.colours, wanted) == [], name


def test_wide_characters_take_two_columns(term):
    show = term("printf '你好😀|'; read x")
    show.shows("你好😀")

    assert show.node.evaluate("node => node.terminal.buffer.active.cursorX") == 7


# -- what is typed


def test_what_is_typed_arrives_and_comes_back(term):
    show = term("cat")

    show.type("hello wörld\n")

    show.shows(r"^hello wörld\n^hello wörld")


def test_the_notebook_hears_nothing_of_what_is_typed(term, notebook):
    cells = notebook.page.locator(".jp-Notebook .jp-Cell").count()
    show = term("PS1='$ ' exec bash --norc --noprofile -i")
    show.shows(r"^\$ $")

    show.type("echo $((6*7))")
    show.press("Shift+Enter")
    show.shows("^42$")
    show.type("echo rea''dy; cat -v\n")
    show.shows("^ready$")
    show.press("Escape", *"ddjkbb", "Control+s", "Control+q", "Tab")
    show.type("|\n")

    show.shows(r"^\^\[ddjkbb\s*\|$")
    assert notebook.page.locator(".jp-Notebook .jp-Cell").count() == cells
    show.press("Shift+Escape")
    assert not show.node.evaluate("node => node.contains(document.activeElement)")


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

    show.until(lambda: "a terminal cuts a line at 4095" in show.says)
    show.type("after\n")
    show.shows("^after\nafter")
    assert "x" not in show.text
    assert "not typed" not in show.says


def test_a_secret_that_is_typed_is_in_no_state_and_no_file(term, notebook):
    show = term("read -rsp 'Password: ' x; echo; echo ${#x} characters; read x")
    show.shows("Password: ")

    show.type("hunter-and-gatherer\n")

    show.shows("^19 characters")
    look = "import ipywidgets; state = str(ipywidgets.Widget.get_manager_state())"
    number = notebook.run_new(f"{look}; print('Terminal of stage' in state, 'hunter' '-and-gatherer' in state)")
    notebook.until(lambda: "True False" in notebook.cell(number).inner_text())
    assert "hunter-and-gatherer" not in str(notebook.save())


# -- full-screen programs


def test_a_file_is_edited_with_vim(term, tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text("one\nthree\n")
    show = term(f"vim -u NONE -i NONE -n {path}; echo left")
    show.shows("^three$")

    show.type("otwo 二\x1b")
    show.shows("^one\n^two 二\n^three")
    show.drag(300)
    show.until(lambda: show.screen[:4] == ["one", "two 二", "three", "~"] and show.screen[-2] == "~")
    rows = show.size[1]
    show.drag(420)
    show.until(lambda: show.size[1] > rows and show.screen[-2] == "~")
    show.type(":wq\n")

    show.shows("^left$")
    assert path.read_text() == "one\ntwo 二\nthree\n"


def test_less_turns_pages_finds_and_is_whole_after_a_resize_in_the_middle(term):
    show = term("seq -f 'line %g' 500 | LESS= LESSHISTFILE=- less; echo left")
    show.shows("^line 1$")
    page = show.size[1] - 1

    show.type(" ")
    show.until(lambda: show.screen[0] == f"line {page + 1}")
    show.type("/line 300\n")
    show.until(lambda: show.screen[0] == "line 300")
    show.drag(250)
    show.until(lambda: show.size[1] < page)
    rows = show.size[1]
    show.until(lambda: show.screen[: rows - 1] == [f"line {300 + row}" for row in range(rows - 1)])
    show.drag(420)
    show.until(lambda: show.size[1] > rows)
    rows = show.size[1]
    show.until(lambda: show.screen[: rows - 1] == [f"line {300 + row}" for row in range(rows - 1)])
    show.type("q")

    show.shows("^left$")


def test_htop_is_drawn_and_quits_by_its_keys(term):
    show = term("export HTOPRC=/dev/null; htop; echo left; read x; htop; echo left again")
    show.shows(r"^F1Help .*F10Quit")

    show.press("F10")
    show.shows("^left$")
    show.type("\n")
    show.shows(r"^F1Help .*F10Quit")
    show.drag(300)
    show.until(lambda: show.screen[-1].startswith("F1Help"))
    show.drag(420)
    show.until(lambda: show.screen[-1].startswith("F1Help"))
    show.type("q")

    show.shows("^left again$")


# -- floods, a busy kernel


def test_a_flood_is_skipped_and_ends_at_the_newest(term):
    show = term("yes a line of the flood | head -c 40000000; echo; echo the end; read x")

    show.shows("^the end$", 60)

    assert re.match(r"the [\d.]+ MB before are in the log only", show.says)
    assert show.screen[-2] == "the end"


def test_output_goes_on_while_the_kernel_is_busy_and_what_is_typed_arrives_or_is_said_to_wait(term, notebook, tmp_path):
    go, got = tmp_path / "go", tmp_path / "got"
    numbers = "for i in $(seq 9999); do echo number $i; sleep 0.05; done"
    show = term(f"{numbers} & read x; echo got $x > {got}; wait")
    show.shows("number 3")

    busy = notebook.add(f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)")
    notebook.start(busy)
    notebook.cell(busy).get_by_text("[*]:").wait_for()
    seen = int(re.findall("number (\\d+)", show.text)[-1])
    show.shows(f"number {seen + 10}")
    show.type("typed\n")
    # The kernel takes it on its main thread, or in a subshell: by which one the view used last.
    show.until(lambda: "the kernel is busy" in show.says or got.exists())
    show.shows(f"number {seen + 20}")
    go.touch()

    show.until(lambda: got.exists() and got.read_text() == "got typed\n")
    show.until(lambda: "busy" not in show.says)


# -- what reaches out of a terminal


def test_what_would_reach_out_of_the_terminal_is_inert(term, notebook):
    before = notebook.page.title()
    show = term(
        r"printf '\033]0;hostile title\007\033]2;hostile\033\\\033]52;c;aGFja2Vk\007"
        r"\033]1337;File=inline=1:aGFja2Vk\007"
        r"\033]8;;javascript:window.hit=1\033\\link\033]8;;\033\\ <img src=x onerror=window.hit=1> done'; read x"
    )
    show.shows(r"link <img src=x onerror=window.hit=1> done")

    show.node.locator(".xterm-screen").click(position={"x": 15, "y": 8})
    assert notebook.page.title().lstrip("● ") == before.lstrip("● ")
    assert show.node.locator("a, img").count() == 0
    assert notebook.page.evaluate("window.hit") is None


def test_only_web_links_are_followed(term, notebook):
    show = term("echo; echo https://example.org/here; echo javascript:alert; read x")
    show.shows("alert")
    notebook.page.evaluate("window.open = (...words) => { window.opened = words; return null; }")

    box = show.node.locator(".xterm-screen").bounding_box()
    line = box["height"] / show.size[1]

    def click(row: int) -> object:
        notebook.page.mouse.move(box["x"] + 40, box["y"] + line * (row + 0.5), steps=3)
        notebook.page.mouse.click(box["x"] + 40, box["y"] + line * (row + 0.5))
        return notebook.page.evaluate("window.opened")

    click(2)
    opened = show.until(lambda: click(1))
    assert opened == ["https://example.org/here", "_blank", "noopener,noreferrer"]


def test_text_is_found(term):
    show = term("seq 500; read x")
    show.shows("^500$")

    show.press("Control+Shift+F")
    show.page.keyboard.type("123")

    show.until(lambda: show.node.locator(".cmdop-find output").inner_text() == "1 of 1")
    assert show.node.evaluate("node => node.terminal.getSelection()") == "123"
    show.page.keyboard.press("Escape")
    assert show.node.locator(".cmdop-find").is_hidden()
