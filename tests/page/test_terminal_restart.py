"""A terminal whose kernel is restarted, then gone, in a notebook of a real JupyterLab that nobody else uses."""

from __future__ import annotations

import pytest
from terminals import Term

pytestmark = pytest.mark.long


def restart(lab) -> None:
    """Restart the kernel of a notebook, as its menu does."""
    lab.choose("Kernel", "Restart Kernel…")
    lab.page.get_by_role("button", name="Confirm Kernel Restart").click()
    number = lab.add("%load_ext cmdop_jupyter")
    lab.start(number)
    lab.cell(number).locator(".jp-InputPrompt").get_by_text("[1]:").wait_for()  # the first of the new kernel


def test_a_shell_is_there_again_after_the_kernel_was_restarted_and_its_text_when_it_is_gone(module_lab):
    notebook = module_lab
    before = Term(notebook, notebook.run_new("%cmdop shell --name work"))
    before.type("kept=42; echo rea''dy\n")
    before.shows("^ready$")

    restart(notebook)
    after = Term(notebook, notebook.run_new("%cmdop attach work"))
    after.shows("^ready$")
    after.type("echo it is $kept\n")
    after.shows("^it is 42$")

    kept = notebook.run_new("%cmdop keep work")
    notebook.save()
    notebook.choose("Kernel", "Shut Down Kernel")
    notebook.page.get_by_text("No Kernel").first.wait_for()
    notebook.reload()
    cell = notebook.cell(kept)
    notebook.until(lambda: "it is 42" in cell.inner_text())
    assert "Error displaying widget" not in notebook.page.locator(".jp-Notebook").inner_text()
