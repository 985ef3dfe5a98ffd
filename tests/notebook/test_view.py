"""The view in a real kernel: what it shows, what it costs a page, and what its buttons do."""

from __future__ import annotations

import html
import re

import pytest
from kernels import Cell, Kernel

GO = "read go"
STAY = "exec sleep 1000"
FLOOD = "while :; do seq -f 'a numbered line of the flood, and some words behind it: %.0f' 1 2000; sleep 0.05; done"
RECORD = """
import time
from jupyter_client.session import Session
sent, original = [], Session.send
def send(self, stream, msg_or_type, *args, **kwargs):
    message = original(self, stream, msg_or_type, *args, **kwargs)
    kind = message["header"]["msg_type"]
    if kind in ("comm_msg", "display_data", "update_display_data", "clear_output"):
        sent.append((time.monotonic(), len(repr(message["content"]))))
    return message
Session.send = send
"""


class View:
    """The widgets of the view in a cell."""

    def __init__(self, kernel: Kernel, cell: Cell) -> None:
        self._kernel = kernel
        (box,) = [
            message.content["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
            for message in cell.messages
            if "application/vnd.jupyter.widget-view+json" in message.content.get("data", {})
        ]
        self._box = box
        bar, self._area = self._children(box)[:2]
        (self._out,) = self._children(self._area)
        self._header, buttons = self._children(bar)
        self._buttons = {kernel.comms[button]["description"]: button for button in self._children(buttons)}

    def _children(self, model: str) -> list[str]:
        return [child.removeprefix("IPY_MODEL_") for child in self._kernel.comms[model]["children"]]

    @property
    def picture(self) -> str:
        """The HTML of the output area."""
        outputs = self._kernel.comms[self._out].get("outputs") or [{"data": {"text/html": ""}}]
        return outputs[0]["data"]["text/html"]

    @property
    def text(self) -> str:
        """What is read in it."""
        return html.unescape(re.sub("<[^>]*>", "", self.picture))

    @property
    def header(self) -> str:
        return html.unescape(re.sub("<[^>]*>", "", self._kernel.comms[self._header]["value"]))

    @property
    def header_html(self) -> str:
        return self._kernel.comms[self._header]["value"]

    def open_tools(self) -> None:
        """Show the row of tools, whose buttons can then be clicked as the others."""
        self.click("More")
        self.until(lambda: self._children(self._box)[1] != self._area)
        for button in self._row():
            self._buttons.setdefault(self._kernel.comms[button].get("description") or "field", button)

    def _row(self) -> list[str]:
        return self._children(self._children(self._children(self._box)[1])[0])

    @property
    def said(self) -> str:
        """What is told beside the tools."""
        outputs = self._kernel.comms[self._row()[-1]].get("outputs")
        return outputs[0]["data"]["text/plain"] if outputs else ""

    def search(self, pattern: str) -> None:
        """Enter a regular expression into the field, as a page does."""
        (field,) = self._children(self._row()[0])
        data = {"method": "update", "state": {"value": pattern}, "buffer_paths": []}
        client = self._kernel._client
        client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": field, "data": data}))

    def click(self, button: str) -> None:
        self._kernel.send_comm(self._buttons[button], {"event": "click"})

    def described(self, button: str) -> str:
        """What stands on the button that was called so at first."""
        return self._kernel.comms[self._buttons[button]]["description"]

    def until(self, is_so) -> None:
        self._kernel.wait_until(is_so)


def shown_and_skipped(text: str) -> tuple[list[str], int]:
    """The lines of a picture, and how many it says that it left out."""
    lines = text.rstrip("\n").split("\n")
    skipped = re.fullmatch(r"… ([\d,]+) earlier lines? not shown", lines[0])
    return (lines[1:], int(skipped[1].replace(",", ""))) if skipped else (lines, 0)


@pytest.fixture
def show(notebook):
    """Run a script in a cell, and give its view."""

    def show(name: str, script: str, options: str = "") -> View:
        return View(notebook, notebook.good(f"%%cmdop --name {name} --tty none {options}\n{script}"))

    return show


# -- what it costs


def worst_second(sent: list[tuple[float, int]]) -> tuple[int, int]:
    """The most messages, and the most bytes, that were sent within one second."""
    windows = [[size for time, size in sent if begin <= time < begin + 1] for begin, _ in sent]
    return max(map(len, windows)), max(map(sum, windows))


@pytest.mark.parametrize(("count", "least", "most"), [(1, 2, 10), (10, 10, 20)])
def test_a_flood_stays_within_the_budget(own_notebook, count, least, most, record_property):
    """One view's pictures have no line in common: four of them a second are enough."""
    own_notebook.page = True
    own_notebook.load()
    views = []
    for number in range(count):
        cell = own_notebook.good(f"%%cmdop --name flood{number} --max-log 20M\n{FLOOD}")
        views.append(View(own_notebook, cell))
    own_notebook.good(RECORD)

    own_notebook.good("time.sleep(2.5); flooded = list(sent)")
    own_notebook.good("stops = [stream.stop() for stream in cmdop.values()]\nfor stop in stops: await stop", timeout=60)
    own_notebook.wait_until(lambda: all("%cmdop keep" in view.header for view in views))

    messages, _ = worst_second(own_notebook.ask("flooded"))
    assert least <= messages <= most
    messages, size = worst_second(own_notebook.ask("sent"))
    record_property("worst second", (messages, size))
    print(f"{count} views: at most {messages} messages and {size / 1e6:.2f} MB in a second")
    assert messages <= 20
    assert size <= 1_000_000


# -- what it shows


def test_it_says_exactly_how_many_lines_it_leaves_out(show):
    view = show("counted", f"seq 100000; {GO}", "--tail 30")

    view.until(lambda: view.text.rstrip().endswith("\n100000"))

    assert shown_and_skipped(view.text) == ([str(number) for number in range(99_971, 100_001)], 99_970)
    assert "100,000 lines" in view.header


def test_of_lines_too_long_for_all_to_be_shown_none_is_lost_from_the_count(show):
    view = show("long", f"for i in $(seq 100); do printf '%03d%03000d\\n' $i 0; done; {GO}")

    view.until(lambda: "100" + "0" * 100 in view.text and len(shown_and_skipped(view.text)[0]) > 5)

    lines, skipped = shown_and_skipped(view.text)
    assert len(lines) < 40
    assert len(lines) + skipped == 100
    assert [line[:3] for line in lines] == [f"{number:03}" for number in range(skipped + 1, 101)]


def test_one_line_without_an_end_is_shown_by_its_end(show):
    view = show("endless", f"head -c 300000 /dev/zero | tr '\\0' x; printf the-end; {GO}")

    view.until(lambda: "300,007" in view.header or "300 kB" in view.header)
    view.until(lambda: view.text.startswith("… x"))

    assert shown_and_skipped(view.text)[1] == 0


def test_little_output_is_shown_whole(show):
    view = show("little", f"echo one; echo two; printf 'three? '; {GO}")

    view.until(lambda: "three?" in view.text)

    assert shown_and_skipped(view.text) == (["one", "two", "three?"], 0)


def test_progress_is_folded_in_place(show):
    view = show("progress", rf"printf ' 10%%\r 50%%\r100%%'; printf '\nlayer a\nlayer b\033[1A\rlayer A\n\n'; {GO}")

    view.until(lambda: "layer A" in view.text)

    assert shown_and_skipped(view.text)[0] == ["100%", "layer A", "layer b"]


def test_stderr_is_told_apart_and_colours_are_kept(show):
    view = show("coloured", rf"printf '\033[31mred\033[0m\n'; echo problem >&2; {GO}")

    view.until(lambda: "problem" in view.text and "red" in view.text)

    assert re.search(r'title="stderr"[^>]*>.*problem', view.picture)
    assert re.search(r"<[^>]*color[^>]*>red<", view.picture)


def test_what_would_do_something_to_the_page_is_inert(show):
    script = (
        r"printf '<script>alert(1)</script> <img src=x onerror=alert(2)> &lt;\n'; "
        r"printf '\033]8;;javascript:alert(3)\033\\link\033]8;;\033\\\n\033]52;c;aGk=\007\033]0;title\007after\n'; "
        rf"printf 'a\342\200\256b\000c\n'; {GO}"
    )
    view = show("inert", script)

    view.until(lambda: "after" in view.text and "c" in view.text.splitlines()[-1])

    assert "<script>alert(1)</script> <img src=x onerror=alert(2)> &lt;" in view.text
    assert "&lt;script&gt;" in view.picture
    assert "<img" not in view.picture
    assert "javascript" not in view.picture
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", view.picture)


def test_the_header_tells_the_state(show, notebook):
    view = show("told", f"echo one; {GO}; exit 3")
    view.until(lambda: "4 B" in view.header)
    assert view.header.startswith("● told on this machine · running · ")
    assert "1 line" in view.header
    alive = view.header_html

    notebook.type_into("told", b"\n")

    view.until(lambda: "exit 3" in view.header)
    assert "running" not in view.header
    assert "<b" in view.header_html.replace("<b>told</b>", "")
    assert "<b" not in alive.replace("<b>told</b>", "")


def test_the_header_tells_why_a_command_is_held(show):
    view = show("held", "seq 1000000", "--max-log 100k,hold")

    view.until(lambda: "the log is full" in view.header)

    assert "100 kB" in view.header


def test_the_header_tells_who_holds_the_output(show):
    view = show("holding", "sleep 1000 & exit 0")

    view.until(lambda: "output held by sleep[" in view.header)

    assert "exit 0" in view.header


def test_an_ended_view_leaves_only_text_and_says_how_to_get_it_again(show, notebook):
    cell = notebook.good("%%cmdop --name finished\necho hello")
    view = View(notebook, cell)

    view.until(lambda: "%cmdop keep finished" in view.header)

    assert [list(output["data"]) for output in cell.outputs] == [["text/plain", "text/html"]] * 2
    assert view.picture == ""
    assert "hello\n" in cell.text


# -- what its buttons do


def test_clicks_arrive_while_a_cell_awaits(show, notebook):
    view = show("clicked", f"echo one; {GO}; echo two; {STAY}")
    waiter = notebook.start("await wait_for('never', 'clicked')")
    view.until(lambda: "one" in view.text and "… waiting" in waiter.text)

    view.click("Clear")
    view.until(lambda: "one" not in view.text)
    view.click("Pause")
    view.until(lambda: view.described("Pause") == "Follow")
    notebook.type_into("clicked", b"\n")
    view.until(lambda: "8 B" in view.header)
    assert "two" not in view.text
    view.click("Pause")
    view.until(lambda: "two" in view.text)
    view.click("Stop")
    waiter.wait()

    assert shown_and_skipped(view.text)[0] == ["two"] or "%cmdop keep" in view.header
    assert waiter.error.ename == "SessionEnded"
    assert notebook.ask("clicked.status.stopped.took") == "INT"


def test_what_was_cleared_counts_as_not_shown(show, notebook):
    view = show("cleared", f"seq 100; {GO}; seq 101 110; {STAY}")
    view.until(lambda: "\n100" in view.text)

    view.click("Clear")
    view.until(lambda: "\n100" not in view.text)
    notebook.type_into("cleared", b"\n")
    view.until(lambda: "110" in view.text)

    assert shown_and_skipped(view.text) == ([str(number) for number in range(101, 111)], 100)


def test_the_text_follows_what_was_waited_for(own_notebook):
    own_notebook.page = True
    own_notebook.load()
    cell = own_notebook.good(f"%%cmdop --name joined\necho one; {GO}; echo two; {GO}; echo three; {STAY}")
    for line in ("one", "two", "three"):
        own_notebook.good(f"await wait_for('^{line}$', 'joined')")
        own_notebook.wait_until(lambda line=line: f"\n{line}" in cell.text)
        own_notebook.good("await joined.send_input('\\n')")


def test_two_views_of_one_session_show_the_same(show, notebook):
    first = show("doubled", f"seq 50; {GO}")
    second = View(notebook, notebook.good("%cmdop attach doubled"))

    first.until(lambda: "\n50" in first.text and "\n50" in second.text)

    assert first.text == second.text


# -- what the tools do


MANY = 'for i in $(seq 3000); do echo "line $i"; [ $((i % 100)) = 0 ] && echo "warn $i" >&2; done'


def test_a_filter_searches_all_of_the_log_and_tells_how_many_there_are(show):
    view = show("sifted", f"{MANY}; {GO}; echo line 9999; {STAY}")
    view.until(lambda: "line 3000" in view.text)
    view.open_tools()

    view.search("line 1?99+$")

    found = ["line 99", "line 199", "line 999", "line 1999"]
    view.until(lambda: shown_and_skipped(view.text) == (found, 0))
    assert "/line 1?99+$/: 4 lines" in view.header


def test_a_filter_goes_on_with_what_comes(show, notebook):
    view = show("sifting", f"{MANY}; {GO}; echo line 9999; {STAY}", "--include 'line 9999?$'")
    view.until(lambda: "/line 9999?$/: 1 line" in view.header)

    notebook.type_into("sifting", b"\n")

    view.until(lambda: shown_and_skipped(view.text)[0] == ["line 999", "line 9999"])


def test_a_filter_that_is_no_pattern_is_told_and_changes_nothing(show):
    view = show("unsifted", f"echo one; {GO}; {STAY}")
    view.until(lambda: "one" in view.text)
    view.open_tools()

    view.search("(")

    view.until(lambda: "(" in view.said)
    assert "one" in view.text


def test_lines_can_be_left_out_and_pieces_of_them_stand_out(show):
    options = "--include line --exclude 9 --exclude 'line 1' --highlight '8+$' --timestamps --tail 3"
    view = show("excluded", f"{MANY}; {GO}; {STAY}", options)

    view.until(lambda: "line 3000" in view.text)

    lines = shown_and_skipped(view.text)[0]
    assert [line.split(" ", 1)[1] for line in lines] == ["line 2887", "line 2888", "line 3000"]
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} ", line) for line in lines)
    assert re.search(r"background:#ffd93d[^>]*>888</b>", view.picture)


def test_only_stderr_can_be_shown(show):
    view = show("wrong", f"{MANY}; {GO}; {STAY}", "--tail 5")
    view.until(lambda: "3,030 lines" in view.header)
    view.open_tools()

    view.click("stderr")

    view.until(lambda: "stderr: 30 lines" in view.header)
    view.until(lambda: shown_and_skipped(view.text) == ([f"warn {n}00" for n in range(26, 31)], 25))


def test_earlier_lines_come_page_by_page_while_the_picture_is_paused(show, notebook):
    view = show("earlier", f"seq 3000; {GO}; echo later; {STAY}")
    view.until(lambda: "\n3000" in view.text)
    view.open_tools()

    view.click("Earlier")
    view.until(lambda: len(shown_and_skipped(view.text)[0]) == 240)
    notebook.type_into("earlier", b"\n")
    view.until(lambda: "paused, 1 line since" in view.header)
    view.click("Earlier")
    view.until(lambda: len(shown_and_skipped(view.text)[0]) == 440)
    assert shown_and_skipped(view.text) == ([str(number) for number in range(2561, 3001)], 2560)
    view.click("Pause")

    view.until(lambda: shown_and_skipped(view.text)[0][-1] == "later" and len(shown_and_skipped(view.text)[0]) == 40)


def test_the_log_can_be_saved_byte_for_byte(show, notebook):
    view = show("exact", rf"printf 'a\000b\377 token=seen\033[31m\n'; {GO}; {STAY}")
    view.until(lambda: "token=[redacted]" in view.text)
    view.open_tools()

    view.click("Save log")
    view.until(lambda: "not redacted" in view.said)
    view.click("Save log")
    view.until(lambda: "exact-2.log" in view.said)

    assert (notebook.work / "exact.log").read_bytes() == b"a\0b\xff token=seen\x1b[31m\n"
    assert (notebook.work / "exact.log").stat().st_mode & 0o077 == 0


def test_only_what_came_since_a_time_is_shown(show, notebook):
    show("recent", f"echo old; sleep 1.2; echo new; {STAY}").until(lambda: notebook.ask("recent.metrics.lines") == 2)
    times = notebook.ask("[line.wall_ns / 1e9 for line in recent.lines()]")
    between = notebook.ask(f"__import__('datetime').datetime.fromtimestamp({sum(times) / 2}).isoformat()")

    view = View(notebook, notebook.good(f"%cmdop attach recent --since {between}"))

    view.until(lambda: view.text.rstrip().endswith("new"))
    assert "old" not in view.text


def test_what_is_redacted_can_be_set(own_notebook):
    own_notebook.load()
    own_notebook.good("%config CmdopMagics.redact = ['default', r'acme-(\\w+)']")
    cell = own_notebook.good("%%cmdop --name hiding --wait\necho acme-corp token=seen; echo $0")
    assert "acme-[redacted] token=[redacted]" in cell.text
    assert own_notebook.ask("hiding.text()").startswith("acme-corp token=seen")

    own_notebook.good("%config CmdopMagics.redact = ['(']")

    assert own_notebook.ask("len(get_ipython().find_cell_magic('cmdop').__self__.redact)") == 2


def test_the_view_needs_no_widgets_but_those_every_front_end_has(own_notebook):
    notebook = own_notebook
    notebook.page = True
    notebook.load()
    view = View(notebook, notebook.good(f"%%cmdop --name plain --tty none\necho one; {GO}; {STAY}"))
    view.until(lambda: "one" in view.text)
    view.open_tools()
    ours = [state for state in notebook.comms.values() if "_model_module" in state]

    modules = {state["_model_module"] for state in ours}
    kinds = {kind for message in notebook.iopub for kind in message.content.get("data", {}) if "/" in kind}

    assert modules <= {"@jupyter-widgets/base", "@jupyter-widgets/controls", "@jupyter-widgets/output", "anywidget"}
    assert kinds <= {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    assert not any("http" in str(state.get("_esm", "")) for state in ours)


def test_without_the_watcher_the_view_is_the_same(own_notebook):
    own_notebook.page = True
    own_notebook.good("import sys; sys.modules['anywidget'] = None")
    own_notebook.load()
    view = View(own_notebook, own_notebook.good(f"%%cmdop --name blind --tty none\necho one; {GO}; {STAY}"))

    view.until(lambda: "one" in view.text)

    view.click("Pause")
    view.until(lambda: view.described("Pause") == "Follow")
