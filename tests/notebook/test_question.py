"""What ssh asks while nobody waits in a cell: asked in the page, answered by messages, and kept nowhere."""

from __future__ import annotations

import html
import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from kernels import Kernel, Message

ASK = """
from cmdop_jupyter import directory, runtime
from cmdop_jupyter.machines.asking import Question
def ask(text, secret=True, kind="password"):
    return runtime.runtime().submit(directory._asker(Question("far", text, secret, kind)))
"""
PASSWORD = "far: ada@far's password:"
HOST_KEY = "far: The authenticity of host 'far' can't be established.\nED25519 key fingerprint is SHA256:abc<b>.\nSure?"


class Dialog:
    """The widgets of the question in a cell."""

    def __init__(self, notebook: Kernel, code: str) -> None:
        self._notebook = notebook
        self.cell = notebook.good(code)
        self._box = notebook.wait_until(self._shown)
        text, row = self._children(self._box)
        self.text = html.unescape(re.sub("<[^>]*>", "", notebook.comms[text]["value"]))
        self.html = notebook.comms[text]["value"]
        self._row = {notebook.comms[one].get("description") or "field": one for one in self._children(row)}

    def _shown(self) -> str | None:
        for output in self.cell.outputs:
            view = output.get("data", {}).get("application/vnd.jupyter.widget-view+json")
            if view:
                return view["model_id"]
        return None

    def _children(self, model: str) -> list[str]:
        return [child.removeprefix("IPY_MODEL_") for child in self._notebook.comms[model]["children"]]

    @property
    def names(self) -> list[str]:
        return list(self._row)

    @property
    def field(self) -> dict[str, Any]:
        return self._notebook.comms[self._row["field"]]

    def type(self, text: str) -> None:
        """What a page sends when a field with text in it is left."""
        message = {"comm_id": self._row["field"], "data": {"method": "update", "state": {"value": text}}}
        client = self._notebook._client
        client.shell_channel.send(client.session.msg("comm_msg", message))

    def empties(self, message: Message) -> bool:
        """Whether a message tells the page to forget what was typed."""
        content = message.content
        return content.get("comm_id") == self._row["field"] and content["data"].get("state") == {"value": ""}

    def enter(self) -> None:
        self._notebook.send_comm(self._row["field"], {"event": "submit"})

    def click(self, button: str) -> None:
        self._notebook.send_comm(self._row[button], {"event": "click"})

    def ended(self) -> str:
        """The line that stands in its place."""
        self._notebook.wait_until(lambda: self._box not in self._notebook.comms)
        self._notebook.wait_until(lambda: not self.cell.text.endswith("yet"))
        return self.cell.text


@pytest.fixture
def asked(notebook: Kernel) -> Callable[..., Dialog]:
    """Ask a question in the background, and give what is seen of it. `answer` is then a future in the kernel."""
    notebook.page = True
    notebook.good(ASK)
    return lambda *words: Dialog(notebook, f"answer = ask({', '.join(map(repr, words))})")


def test_a_password_is_typed_into_a_masked_field_and_given_when_ok_is_clicked(notebook, asked):
    dialog = asked(PASSWORD)
    assert dialog.text == PASSWORD
    assert dialog.names == ["field", "OK", "Cancel"]
    assert dialog.field["_view_name"] == "PasswordView"
    assert dialog.cell.text == "far: ada@far's password: not answered yet"

    dialog.type("open sesame")
    dialog.click("OK")

    assert dialog.ended() == "far: ada@far's password: answered"
    assert notebook.ask("answer.result()") == "open sesame"


@pytest.mark.parametrize("enter_first", [False, True])
def test_enter_gives_it_too_whichever_the_page_sends_first(notebook, asked, enter_first):
    dialog = asked(PASSWORD)

    for step in (
        (dialog.enter, lambda: dialog.type("x y")) if enter_first else (lambda: dialog.type("x y"), dialog.enter)
    ):
        step()

    assert dialog.ended().endswith("password: answered")
    assert notebook.ask("answer.result()") == "x y"


def test_an_empty_answer_is_an_answer(notebook, asked):
    dialog = asked("far: Enter passphrase for key 'k':", True, "passphrase")

    dialog.enter()

    assert dialog.ended().endswith("'k': answered")
    assert notebook.ask("answer.result()") == ""


def test_what_was_typed_last_counts(notebook, asked):
    dialog = asked(PASSWORD)

    dialog.type("wrong")
    notebook.wait_until(lambda: dialog.field["placeholder"] == "typed, and not shown")
    dialog.type("right")
    dialog.click("OK")

    assert dialog.ended().endswith(": answered")
    assert notebook.ask("answer.result()") == "right"


def test_cancel_gives_nothing_also_when_something_was_typed(notebook, asked):
    dialog = asked(PASSWORD)

    dialog.type("changed my mind")
    dialog.click("Cancel")

    assert dialog.ended() == "far: ada@far's password: not answered"
    assert notebook.ask("answer.result()") is None


def test_what_is_typed_is_in_no_message_no_trait_and_no_repr(notebook, asked):
    secret = uuid.uuid4().hex
    dialog = asked(PASSWORD)
    notebook.good(
        "import gc, ipywidgets\n"
        "[field] = [one for one in gc.get_objects() if type(one).__name__ == 'SecretField' and one.comm]"
    )

    dialog.type(secret)
    notebook.wait_until(lambda: dialog.field["placeholder"] == "typed, and not shown")
    emptied = [message for message in notebook.iopub if dialog.empties(message)]
    kept = notebook.good("print(repr(field), field.value, field.get_state(), ipywidgets.Widget.get_manager_state())")
    dialog.enter()
    dialog.ended()
    notebook.good("print(repr(field), field.value, field._trait_values)")

    assert len(emptied) == 1
    assert "SecretField" in kept.stdout
    assert secret not in json.dumps([message.content for message in notebook.iopub], default=str)
    assert notebook.ask("answer.result()") == secret


def test_a_host_key_is_shown_whole_and_asked_about_by_two_buttons(notebook, asked):
    dialog = asked(HOST_KEY, False, "host key")
    assert dialog.text == HOST_KEY
    assert "<b>" not in dialog.html
    assert dialog.names == ["Yes", "No"]

    dialog.click("Yes")

    assert dialog.ended() == "far: The authenticity of host 'far' can't be established.: answered"
    assert notebook.ask("answer.result()") == "yes"


def test_a_host_key_that_is_not_believed_is_no_answer(notebook, asked):
    dialog = asked(HOST_KEY, False, "host key")

    dialog.click("No")

    assert dialog.ended().endswith("not answered")
    assert notebook.ask("answer.result()") is None


def test_nobody_there_is_no_answer_after_a_while(notebook, asked):
    notebook.good("from cmdop_jupyter.notebook.views import question\nquestion.ANSWER_SECONDS = 0.2")
    try:
        cell = notebook.good(f"answer = ask({PASSWORD!r})\nprint(answer.result(10))")
    finally:
        notebook.good("question.ANSWER_SECONDS = 120.0")

    assert cell.stdout == "None\n"
    assert "password: not answered" in cell.text


def test_a_question_that_is_taken_back_leaves_the_page(notebook, asked):
    dialog = asked(PASSWORD)

    notebook.good("answer.cancel()")

    assert dialog.ended().endswith("not answered")


def test_where_no_person_runs_the_cells_nobody_is_asked(notebook, asked):
    notebook.page = False
    cell = notebook.good(f"answer = ask({PASSWORD!r})")

    assert notebook.ask("answer.result(10)") is None
    assert cell.outputs == []


def test_the_extension_unloaded_asks_nobody(own_notebook):
    own_notebook.page = True
    own_notebook.load()
    assert own_notebook.ask("__import__('cmdop_jupyter.directory').directory._asker is not None")

    own_notebook.good("%unload_ext cmdop_jupyter")

    assert own_notebook.ask("__import__('cmdop_jupyter.directory').directory._asker") is None
