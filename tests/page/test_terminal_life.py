"""A terminal whose page, kernel or link goes, and comes back, in a real JupyterLab: what is seen, and what stays."""

from __future__ import annotations

import json
import re

import pytest
from proxy import Proxy
from reach import ssh_to
from sshd import Sshd
from terminals import Term

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def notebook(module_lab):
    """One notebook for all tests of the module."""
    return module_lab


def test_a_reloaded_page_has_the_scrollback_goes_on_and_tells_the_end(notebook):
    number = notebook.run_new("%%cmdop --view terminal --name seen\nseq 300; read x; echo got $x; read x")
    Term(notebook, number).shows("^300$")
    notebook.save()

    notebook.reload()
    show = Term(notebook, number)

    show.shows(r"^1\n2\n3\n[\s\S]*\n300$")
    show.type("more\n")
    show.shows("^got more$")
    show.type("the end\n")
    show.until(lambda: "exit 0" in show.says)
    assert show.node.evaluate("node => node.terminal.options.disableStdin")
    show.until(lambda: "%cmdop keep seen" in show.cell.inner_text())
    notebook.page.get_by_text("| Idle").wait_for()


def test_two_views_show_the_same_follow_one_size_and_answer_no_question_of_old(notebook):
    ask = "stty -icanon -echo; printf '\\033[c'; head -c 7 | cat -v; echo; stty icanon"
    script = f"{ask}; read x; echo got $x; exec cat"
    first = Term(notebook, notebook.run_new(f"%%cmdop --view terminal --name both\n{script}"))
    first.shows(r"^\^\[\[\?1;2c")
    first.resize(90, 20)
    second = Term(notebook, notebook.run_new("%cmdop attach both"))
    second.until(lambda: second.size != [90, 20])
    first.until(lambda: first.size == second.size)
    second.shows(r"^\^\[\[\?1;2c")

    second.type("one\n")

    first.shows("^got one$")
    second.shows("^got one$")
    first.focus()
    first.until(lambda: first.size == second.size)
    notebook.run_new("both.stop().result()")


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


def test_a_link_that_is_down_is_told_and_what_is_typed_waits_for_it(notebook):
    with Sshd() as sshd, Proxy(sshd.port) as proxy:
        link = [*ssh_to(sshd, Port=proxy.port, HostKeyAlias=f"[{sshd.host}]:{sshd.port}")]
        (notebook.path.parent / "cmdop.toml").write_text(f"[machines.far]\nlink = {json.dumps(link)}\n")
        show = Term(notebook, notebook.run_new("%%cmdop far --view terminal --name afar\nread x; echo got $x; read y"))
        show.type("one\n")
        show.shows("^got one$")

        proxy.refuse()
        proxy.cut()
        show.until(lambda: re.search("link (retrying|down|connecting): what you type waits for it", show.says))
        assert "link" in show.cell.locator(".cmdop-view").inner_text()
        show.type("two\n")
        proxy.accept()
        notebook.run_new("%cmdop connect far")

        text = show.cell.locator("details")
        show.lab.until(lambda: "exit 0" in text.inner_text())
        show.lab.until(lambda: "two" in text.text_content())  # also where it is folded
        notebook.run_new("%cmdop forget far")
