"""Floods in a real page: what is shown of one is exact, and neither the page nor the file grows with it.

How long the page pauses is judged by `benchmarks/page.py`: a machine that does other things as well pauses by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from probes import Sent, begin, heap, sent

from benchmarks.views import KINDS, worst_second

pytestmark = pytest.mark.long
TYPED = "# typed meanwhile, and all of it arrives"
PICTURES = 15
SHOWN = 40  # lines of a view
KEPT = 100  # lines of the text that stays


@dataclass
class Seen:
    """What was seen of one flood.

    Attributes:
        pictures: What the view showed, again and again.
        sent: What the kernel sent meanwhile.
        grown: Bytes that the page's memory grew by meanwhile.
        typed: What was typed into another cell arrived as.
        sizes: Bytes of the file saved in the middle, and of the one saved after the end.
        end: The text that stays.
    """

    pictures: list[str]
    sent: list[Sent]
    grown: int
    typed: str
    sizes: list[int]
    end: str


@pytest.fixture(scope="module")
def notebook(module_lab):
    return module_lab


@pytest.fixture(scope="module")
def flood(notebook) -> Seen:
    """Numbers as fast as they come, into a log that keeps the newest 50 MB."""
    other = notebook.add("")
    number = notebook.run_new("%%cmdop --name flood --max-log 50M\nseq 1 1000000000000")
    cell = notebook.cell(number)
    picture = cell.locator(".cmdop-area code").first
    picture.get_by_text("earlier lines not shown").wait_for()
    notebook.cell(other).locator(".cm-content").click()
    before = heap(notebook.page)
    begin(notebook.page, keep=True)
    pictures, typed = [picture.text_content()], list(TYPED)
    while len(pictures) < PICTURES:
        for key in typed[:3]:
            notebook.page.keyboard.press(key)
        del typed[:3]
        pictures.append(notebook.until(lambda: (new := picture.text_content()) != pictures[-1] and new))
    got, grown = sent(notebook.page), heap(notebook.page) - before
    notebook.save()
    sizes = [notebook.path.stat().st_size]
    notebook.run_new("flood.stop().result()")
    text = cell.locator("details").filter(has_text="lines not shown, full log")
    text.wait_for()
    notebook.save()
    sizes.append(notebook.path.stat().st_size)
    arrived = notebook.cell(other).locator(".cm-content").inner_text()
    return Seen(pictures, got, grown, arrived, sizes, text.inner_text())


def count(pattern: str, text: str) -> int:
    return int(re.search(pattern, text)[1].replace(",", ""))


def test_each_picture_of_a_flood_tells_exactly_how_many_lines_are_not_in_it(flood):
    for picture in flood.pictures:
        note, *lines = picture.splitlines()
        skipped = count(r"… ([\d,]+) earlier lines not shown$", note)
        *whole, unfinished = map(int, lines)

        assert whole == list(range(skipped + 1, skipped + len(lines)))
        assert len(lines) >= SHOWN
        assert str(skipped + len(lines)).startswith(str(unfinished))


def test_the_kernel_sends_a_page_no_more_than_one_budget(flood):
    messages, size = worst_second([one for one in flood.sent if one.kind in KINDS])

    assert len(flood.sent) >= PICTURES - 1
    assert messages <= 20
    assert size <= 1_000_000


def test_a_flood_does_not_fill_the_memory_of_the_page(flood):
    assert flood.grown < 50_000_000


def test_what_is_typed_into_another_cell_meanwhile_arrives(flood):
    assert flood.typed == TYPED


def test_the_file_saved_in_a_flood_and_after_it_is_small(flood):
    assert max(flood.sizes) < 300_000


def test_the_text_that_stays_tells_exactly_what_is_not_in_it(flood):
    skipped = count(r"… ([\d,]+) lines not shown, full log", flood.end)
    kept = KEPT - ("^C" in flood.end.splitlines())  # the stop, as the terminal shows it where it comes in time
    *numbers, unfinished = [int(line) for line in flood.end.splitlines() if line.isdigit()]

    assert numbers == [*range(1, 21), *range(skipped + 21, skipped + kept)]
    assert str(skipped + kept).startswith(str(unfinished))


def test_a_log_of_100_megabytes_leaves_what_it_has_in_front_and_at_its_end(notebook):
    last = 12_345_678
    number = notebook.run_new(f"%%cmdop --tty none --name large\nseq {last}; exit 3")
    text = notebook.cell(number).locator("details").filter(has_text="failed, exit 3")

    lines = text.inner_text().splitlines()

    assert [line for line in lines if line.isdigit()] == [
        *map(str, range(1, 21)),
        *map(str, range(last - 79, last + 1)),
    ]
    assert f"… {last - KEPT:,} lines not shown" in text.inner_text()


# A server lets 3 MB pass in 3 seconds. What it drops does not count, but while that much was let pass it drops all.
PRINTS = """import pathlib, time
folder, line, told = pathlib.Path({!r}), "x" * 99 + "\\n", None
print(line * 27_000, flush=True)
print(line * 5_000, flush=True)
(folder / "go").touch()
while told is None or time.time() < told + 1:
    print(line * 5_000, flush=True)
    time.sleep(0.1)
    if told is None and len(list(folder.glob("said*"))) == 2:
        told = time.time()"""


def test_a_print_loop_that_trips_the_servers_limit_leaves_the_views_whole(notebook, tmp_path):
    words = f"echo before; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; seq 3 2 7; echo the last words"
    views = [
        notebook.run_new(f"%%cmdop --tty none --name {name}\n{words}; touch {tmp_path}/said-{name}; {end}")
        for name, end in (("silent", "exec sleep 1000"), ("failing", "exit 3"))
    ]
    silent, failing = (notebook.cell(view) for view in views)
    silent.locator(".cmdop-area").get_by_text("before").wait_for()

    loop = notebook.run_new(PRINTS.format(str(tmp_path)))

    notebook.cell(loop).get_by_text("data rate exceeded").first.wait_for()
    silent.locator(".cmdop-area").get_by_text("the last words").wait_for()
    failing.locator("summary").filter(has_text="failed, exit 3").wait_for()
    failing.locator(".cmdop-view").wait_for(state="detached")
    assert silent.locator(".cmdop-area code").first.text_content() == "before\n3\n5\n7\nthe last words\n"
    assert "the last words" in failing.locator("details code").nth(1).inner_text()
    notebook.run_new("silent.stop().result()")
