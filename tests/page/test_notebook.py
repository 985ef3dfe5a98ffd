"""A notebook as a whole, in JupyterLab and in Notebook 7: run, looked at twice, stopped, reloaded, opened again."""

from __future__ import annotations

import html
import re
import time
from types import SimpleNamespace

import pytest
from nbconvert import HTMLExporter
from seen import Seen

pytestmark = pytest.mark.timeout(400)  # the whole life of a notebook is one fixture
COUNT = "i=0; while :; do echo line $((i+=1)); sleep 0.1; done"
HOSTILE = (
    r"printf '<script>window.hit=1</script><img src=x onerror=window.hit=2>\033]0;hit\007"
    r"\033]8;;java%s:window.hit=3\033\\link\033]8;;\033\\\033]52;c;aGk=\007\n' script"
)
DONE = re.compile(r"^\[\d+\]:$")
ERROR = re.compile("Error displaying widget|model not found")
STATES = ("exited", "failed", "lost", "running", "reloaded")
KILL = """import os, signal, time
parent = int(open(f"/proc/{lost.status.pid}/stat").read().rsplit(")", 1)[1].split()[1])
os.kill(parent, signal.SIGKILL)
while lost.state != "lost": time.sleep(0.05)"""
FACTS = {
    "exited": "exit 0",
    "failed": "failed, exit 3",
    "lost": "lost",
    "running": "running",
    "reloaded": "running",
}


def menu(lab, *words: str) -> None:
    """Choose from the menu at the top of the page."""
    for word in words:
        lab.page.get_by_role("menuitem", name=word, exact=True).click()


def stop_kernel(lab) -> None:
    menu(lab, "Kernel", "Shut Down Kernel")
    lab.page.locator(".jp-Notebook-ExecutionIndicator[data-status=unknown]").wait_for()


@pytest.fixture(scope="module")
def life(labs, lab_folder):
    """What was seen in a notebook from Run All to when it was opened again without its kernel."""
    go = lab_folder / "go"
    scripts = {
        "exited": f"echo line 1; {HOSTILE}; exit 0",
        "failed": f"echo line 1; {HOSTILE}; exit 3",
        "lost": f"echo line 1; {HOSTILE}; exec sleep 1000",
        "running": f"echo line 1; {HOSTILE}; {COUNT}",
        "reloaded": f"{HOSTILE}; echo line 1; read x; echo line 2 of {{x}}; exit 4".replace("{x}", "$x"),
    }
    cells = [f"%%cmdop --tty none --name {name}\n{script}" for name, script in scripts.items()]
    cells[4] = cells[4].replace("--tty none", "")
    busy = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)"
    lab = labs(*cells, busy, KILL)
    number = {name: at for at, name in enumerate(scripts, 1)}
    seen = SimpleNamespace(number=number, lab=lab, lines=[], texts={}, pages={}, errors={})

    menu(lab, "Run", "Run All Cells")
    lab.cell(6).get_by_text("[*]:").wait_for()
    view = Seen(lab, number["running"])
    view.reads(re.compile("line 2"))
    for _ in range(3):
        seen.lines.append(view.newest)
        lab.until(lambda: view.newest > seen.lines[-1])
    seen.busy = lab.cell(6).locator(".jp-InputPrompt").inner_text()
    go.touch()
    lab.cell(7).locator(".jp-InputPrompt").filter(has_text=DONE).wait_for()
    for name in ("exited", "failed", "lost"):
        view = lab.cell(number[name])
        lab.until(lambda view=view, name=name: f"· {FACTS[name]}" in view.locator("summary").last.text_content())
    lab.until(lambda: "line 1" in lab.cell(number["running"]).locator("details").last.text_content())
    lab.save()

    lab.reload()
    view = Seen(lab, number["running"])
    seen.again = view.newest
    lab.until(lambda: view.newest > seen.again + 2)
    seen.buttons = [button.inner_text() for button in view.cell.get_by_role("button").all()]
    seen.header = view.header.inner_text()
    lab.run_new("%cmdop send reloaded now")
    cell = lab.cell(number["reloaded"])
    seen.said = lab.until(lambda: re.search("%cmdop keep reloaded", cell.inner_text()))[0]
    kept = lab.cell(lab.run_new(seen.said))
    seen.kept = kept.locator(".jp-OutputArea").inner_text()
    lab.save()
    seen.saved = lab.save()

    stop_kernel(lab)
    lab.reload()
    for name, at in number.items():
        lab.cell(at).locator("summary").wait_for()
        seen.texts[name] = lab.cell(at).locator(".jp-OutputArea").inner_text()
    seen.whole = lab.page.locator(".jp-Notebook").inner_text()
    seen.elements = lab.page.locator(".jp-OutputArea").locator("img, script, a").count()
    return seen


def test_output_appears_while_the_next_cell_is_busy(life):
    assert life.busy == "[*]:"
    assert len(life.lines) == len(set(life.lines)) == 3


def test_after_a_reload_the_view_of_what_runs_is_whole_and_goes_on(life):
    assert life.again >= life.lines[-1]
    assert life.buttons[:4] == ["Stop", "Pause", "Clear", "More"]
    assert re.search(r"running on this machine · running", life.header)


def test_after_a_reload_keep_does_what_the_view_says(life):
    assert "reloaded on this machine · failed, exit 4" in life.kept
    assert "line 2 of now" in life.kept


@pytest.mark.parametrize("name", STATES)
def test_opened_again_without_its_kernel_the_text_is_there_and_no_error(life, name):
    assert FACTS[name] in life.texts[name]
    assert not ERROR.search(life.texts[name])
    assert "Loading widget" not in life.texts[name]


def test_opened_again_nothing_else_is_an_error_and_nothing_came_alive(life):
    assert not ERROR.search(life.whole)
    assert life.elements == 0
    assert life.lab.page.evaluate("window.hit") is None


@pytest.mark.parametrize("name", STATES)
def test_the_saved_text_says_how_it_stood_and_what_was_printed(life, name):
    outputs = life.saved.cells[life.number[name]].outputs
    texts = [output.data.get("text/plain", "") for output in outputs]

    assert re.search(rf"{name} on this machine: {FACTS[name]}", "\n".join(texts))
    assert "<script>window.hit=1</script>" in texts[1]
    assert "line 1" in texts[1]


def test_the_file_as_html_has_all_of_it_and_nothing_comes_alive(life):
    page = HTMLExporter(template_name="lab").from_notebook_node(life.saved)[0]
    opened = life.lab.context.new_page()
    opened.route(re.compile("^http"), lambda route: route.abort())
    opened.set_content(page, wait_until="domcontentloaded")

    for fact in FACTS.values():
        assert fact in opened.locator("body").inner_text()
    assert html.unescape(page).count("<script>window.hit=1</script>") >= len(STATES)
    assert opened.evaluate("window.hit") is None
    assert opened.locator(".jp-OutputArea").locator("img, a").count() == 0
    assert not ERROR.search(opened.locator("body").inner_text())
    assert "hit" not in opened.title()
    opened.close()


def test_a_click_on_stop_ends_it_while_a_cell_awaits(module_lab):
    number = module_lab.run_new(f"%%cmdop --tty none --name clicked\n{COUNT}")
    waiting = module_lab.add("await wait_for('never', 'clicked')")
    module_lab.start(waiting)
    module_lab.cell(waiting).get_by_text("waiting for").wait_for()

    Seen(module_lab, number).button("Stop").click()

    module_lab.cell(waiting).get_by_text("SessionEnded").first.wait_for()
    module_lab.cell(number).locator("summary").get_by_text("stopped").wait_for()


def test_the_magic_ends_it_while_a_cell_blocks(module_lab, tmp_path):
    lab, go = module_lab, tmp_path / "go"
    number = lab.run_new(f"%%cmdop --tty none --name blocked\n{COUNT}")
    blocking = lab.add(f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)")
    lab.cell(number).locator(".jp-InputArea-editor").click(button="right")
    lab.page.get_by_text("New Subshell Console for Notebook").click()
    console = lab.page.locator(".jp-CodeConsole-promptCell .cm-content")
    console.click()
    lab.page.keyboard.insert_text("1 + 1")
    lab.page.keyboard.press("Shift+Enter")
    lab.page.locator(".jp-CodeConsole-content .jp-OutputArea").get_by_text("2").wait_for()
    lab.start(blocking)
    lab.cell(blocking).get_by_text("[*]:").wait_for()

    console.click()
    lab.page.keyboard.insert_text("%cmdop stop blocked")
    lab.page.keyboard.press("Shift+Enter")

    try:
        lab.cell(number).locator("summary").get_by_text("stopped").wait_for()
        assert lab.cell(blocking).locator(".jp-InputPrompt").inner_text() == "[*]:"
    finally:
        go.touch()
    lab.cell(blocking).locator(".jp-InputPrompt").filter(has_text=DONE).wait_for()


def test_the_interrupt_button_ends_a_wait_and_the_session_goes_on(module_lab):
    number = module_lab.run_new("%%cmdop --tty none --name quiet\necho ready; exec sleep 1000")
    waiting = module_lab.add("await wait_for('never', 'quiet')")
    module_lab.start(waiting)
    module_lab.cell(waiting).get_by_text("waiting for").wait_for()
    module_lab.page.wait_for_timeout(500)  # nothing wakes the kernel but the button

    began = time.monotonic()
    module_lab.page.locator('[data-command="notebook:interrupt-kernel"]').click()
    module_lab.cell(waiting).get_by_text("stopped waiting").wait_for()
    module_lab.cell(waiting).locator(".jp-InputPrompt").filter(has_text=DONE).wait_for()
    took = time.monotonic() - began

    print(f"the button ended the wait in {took:.2f} s")
    assert took < 10
    assert module_lab.cell(waiting).get_by_text("Interrupted").count()
    Seen(module_lab, number).tells("running|quiet")


def test_views_of_one_stream_show_the_same_in_one_page_and_in_another(module_lab):
    lab = module_lab
    number = lab.run_new("%%cmdop --name twice\nwhile read x; do echo got $x; done")
    other = lab.run_new("%cmdop attach twice")
    lab.save()
    lab.cell(number).locator(".cmdop-view").click(button="right")
    lab.page.get_by_text("Create New View for Cell Output").click()
    page = lab.open()
    views = [
        Seen(lab, number),
        Seen(lab, other),
        Seen(lab, 0, at=lab.page.locator(".jp-LinkedOutputView")),
        Seen(lab, number, page),
        Seen(lab, other, page),
    ]

    lab.run_new("%cmdop send twice one")
    for view in views:
        view.reads("got one")
    views[3].button("Stop").click()

    for view in (*views[:2], *views[3:]):
        lab.until(lambda view=view: "stopped" in view.cell.inner_text())
    page.close()


def test_in_notebook_7_it_runs_is_stopped_and_comes_back(labs):
    cells = [f"%%cmdop --tty none --name {name}\n{COUNT}" for name in ("stopped", "stays")]
    lab = labs(*cells, where="notebooks/{0.name}")
    lab.run(1)
    lab.run(2)
    view = Seen(lab, 2)
    view.reads(re.compile("line 3"))
    Seen(lab, 1).button("Stop").click()
    lab.cell(1).locator("summary").get_by_text("stopped").wait_for()
    lab.save()
    before = view.newest

    lab.reload()

    view = Seen(lab, 2)
    view.area.wait_for(timeout=60_000)
    lab.until(lambda: view.area.inner_text() and view.newest > before)
    assert "stopped on this machine" in lab.cell(1).inner_text()
    assert not ERROR.search(lab.page.locator(".jp-Notebook").inner_text())
