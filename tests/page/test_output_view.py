"""The Output view in a real JupyterLab, in a real browser: what is read there stays, and what output tries does not."""

from __future__ import annotations

import html
import re
import uuid

import pytest
from nbconvert import HTMLExporter
from seen import Seen

FLOOD = 'i=0; while :; do i=$((i+1)); echo "a line of the flood, number $i"; sleep 0.01; done'
HOSTILE = (
    r"printf '<script>window.hit=1</script><img src=x onerror=window.hit=2><b onclick=1>bold</b>\n"
    r"\033]8;;java%s:window.hit=3\033\\link\033]8;;\033\\\n\033]52;c;aGk=\007\033]0;hit\007&lt;after\n' script"
)


@pytest.fixture
def view(module_lab):
    def view(script: str, options: str = "") -> Seen:
        name = f"seen-{uuid.uuid4().hex[:6]}"
        return Seen(module_lab, module_lab.run_new(f"%%cmdop --tty none --name {name} {options}\n{script}"))

    yield view
    module_lab.run_new("for stream in list(cmdop.values()): stream.stop().result()")


def test_earlier_lines_can_be_scrolled_to_until_it_is_to_follow(view):
    seen = view(FLOOD, "--tail 20")
    seen.button("More").click()
    seen.reads(re.compile(r"number \d{3}"))
    seen.button("Earlier").click()
    seen.tells("paused")
    seen.lab.until(lambda: seen.area.evaluate("node => node.scrollHeight > node.clientHeight + 200"))
    seen.button("Follow").click()
    seen.tells("running ·")


def test_an_area_is_not_replaced_while_it_is_scrolled_up(view):
    seen = view("while :; do printf '%0600d\\n' $((++i)); sleep 0.02; done", "--tail 30")
    seen.lab.until(lambda: seen.area.evaluate("node => node.scrollHeight > node.clientHeight + 100"))

    seen.area.evaluate("node => node.scrollTo(0, -80)")
    seen.tells(r"paused, [\d,]+ lines? since")
    before = seen.area.evaluate("node => [node.scrollTop, node.innerText]")
    seen.tells(r"paused, \d\d+ lines since")

    assert seen.area.evaluate("node => [node.scrollTop, node.innerText]") == before
    seen.area.evaluate("node => node.scrollTo(0, 0)")
    seen.lab.until(lambda: "paused" not in seen.header.inner_text())
    seen.lab.until(lambda: seen.area.inner_text() != before[1])


def test_selected_text_stays_selected_while_a_cell_blocks_the_kernel(view):
    seen = view(FLOOD)
    seen.reads(re.compile(r"number \d{3}"))
    number = seen.lab.add("import time; time.sleep(4)")
    seen.lab.start(number)
    seen.lab.page.wait_for_timeout(500)  # a selection lasts; the flood goes on meanwhile

    seen.area.evaluate("""node => {
        const range = document.createRange();
        range.selectNodeContents(node.querySelector("code"));
        document.getSelection().removeAllRanges();
        document.getSelection().addRange(range);
    }""")
    selected = seen.lab.page.evaluate("document.getSelection().toString()")
    seen.lab.page.wait_for_timeout(2000)

    assert "number" in selected
    assert seen.lab.page.evaluate("document.getSelection().toString()") == selected
    seen.lab.page.evaluate("document.getSelection().removeAllRanges()")
    seen.lab.until(lambda: seen.area.inner_text() != selected)


def test_buttons_do_not_move_and_the_area_does_not_shrink_while_output_grows(view):
    seen = view("for i in $(seq 300); do echo $i; sleep 0.01; done; exec sleep 1000")
    places, heights = set(), []
    for _ in range(40):
        places.add(seen.button("Stop").evaluate("node => [node.offsetLeft, node.offsetTop].join()"))
        heights.append(seen.area.evaluate("node => node.clientHeight"))
        seen.lab.page.wait_for_timeout(50)

    assert len(places) == 1
    assert heights == sorted(heights)
    seen.reads(re.compile("^300$", re.MULTILINE))
    seen.button("Clear").click()
    seen.reads("300 earlier lines")
    assert seen.area.evaluate("node => node.clientHeight") >= heights[-1] - 20


def test_the_tools_work_by_keyboard_and_have_names(view):
    seen = view(f"seq 100; {FLOOD}")
    seen.button("More").focus()
    seen.lab.page.keyboard.press("Enter")
    seen.button("Times").wait_for()

    for word in ("Stop", "Pause", "Clear", "Less", "Times", "stderr", "Earlier", "Copy", "Save log"):
        assert seen.button(word).get_attribute("title"), word
    seen.button("Times").focus()
    seen.lab.page.keyboard.press("Enter")
    seen.reads(re.compile(r"\d\d:\d\d:\d\d\.\d{3}"))
    seen.button("Copy").focus()
    seen.lab.page.keyboard.press("Enter")
    assert "number" in seen.cell.locator("textarea").input_value()


def test_a_filter_is_entered_more_than_once_and_the_full_log_downloaded(view):
    seen = view("seq 5000; exec sleep 1000")
    seen.button("More").click()
    for pattern, count in (("^49", 111), ("7$", 500), ("^1$", 1)):
        field = seen.cell.get_by_placeholder(re.compile("filter"))
        field.fill(pattern)
        field.press("Enter")
        seen.tells(rf"{re.escape(pattern)}/: {count} lines?\b")
    seen.button("Save log").click()
    with seen.lab.page.expect_download() as got:
        seen.cell.get_by_role("link", name="download").click()

    with open(got.value.path()) as file:
        assert file.read() == "".join(f"{number}\n" for number in range(1, 5001))


def test_output_that_tries_to_be_a_page_is_inert_there_and_in_what_is_saved(module_lab):
    it = module_lab
    number = it.run_new(f"%%cmdop --name evil\n{HOSTILE}; read go")
    seen = Seen(it, number)
    title = it.page.title()
    seen.reads("after")
    assert "<script>window.hit=1</script>" in seen.area.inner_text()
    assert seen.area.locator("img, script, a").count() == 0

    it.run_new("%cmdop send evil x")
    seen.cell.locator("summary").get_by_text("exit 0").wait_for()

    assert "<script>" in seen.cell.inner_text()
    assert seen.cell.locator(".jp-OutputArea").locator("img, script, a").count() == 0
    assert it.page.evaluate("window.hit") is None
    assert it.page.title() in (title, title.lstrip("● "), f"● {title}") or "hit" not in it.page.title()
    notebook = it.save()
    page = HTMLExporter(template_name="lab").from_notebook_node(notebook)[0]
    fresh = it.context.new_page()
    fresh.set_content(page, wait_until="domcontentloaded")
    assert fresh.evaluate("window.hit") is None
    assert "<script>window.hit=1</script>" in html.unescape(re.sub("<[^>]*>", "", page))
    assert fresh.locator(".jp-OutputArea").locator("img, a").count() == 0
    fresh.close()
