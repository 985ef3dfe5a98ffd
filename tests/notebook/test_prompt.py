"""A field below the output while a session asks: what a page sends there is typed, and is kept nowhere."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from kernels import Kernel


class Field:
    """The widgets of one prompt, as a page has them: found in a cell by the text of its prompt."""

    def __init__(self, notebook: Kernel, text: str) -> None:
        self._notebook = notebook
        self.box, self.row = notebook.wait_until(lambda: self._find(text))

    def _find(self, text: str) -> tuple[str, list[str]] | None:
        for model, state in list(self._notebook.comms.items()):
            row = [one.removeprefix("IPY_MODEL_") for one in state.get("children") or ()]
            if len(row) == 3 and f">{text}<" in str(self._notebook.comms.get(row[0], {}).get("value")):
                return model, row
        return None

    @property
    def field(self) -> dict[str, Any]:
        return self._notebook.comms[self.row[1]]

    def renew(self) -> None:
        """Follow the row: it has another field now."""
        row = self._notebook.comms[self.box]["children"]
        self.row = [one.removeprefix("IPY_MODEL_") for one in row]

    def type(self, text: str) -> None:
        """What a page sends when a field with text in it is left, or Enter is pressed in it."""
        message = {"comm_id": self.row[1], "data": {"method": "update", "state": {"value": text}}}
        client = self._notebook._client
        client.shell_channel.send(client.session.msg("comm_msg", message))

    def enter(self) -> None:
        self._notebook.send_comm(self.row[1], {"event": "submit"})

    def click(self) -> None:
        self._notebook.send_comm(self.row[2], {"event": "click"})

    def until_gone(self) -> None:
        self._notebook.wait_until(lambda: self.box not in self._notebook.comms)


def run(notebook: Kernel, script: str, options: str = "") -> str:
    """Start a cell with that script; its name."""
    notebook.page = True
    name = f"s{uuid.uuid4().hex[:8]}"
    notebook.good(f"%%cmdop --name {name} {options}\n{script}")
    return name


def last(notebook: Kernel, name: str) -> str:
    return str(notebook.ask(f"(await {name}) and {name}.tail(1)[0].text"))


def test_what_is_entered_is_typed_and_the_field_goes(notebook):
    name = run(notebook, "read -p 'your name: ' x; echo hello $x")
    field = Field(notebook, "your name:")
    assert field.field["_view_name"] == "TextView"

    field.type("ada")
    field.enter()

    field.until_gone()
    assert last(notebook, name) == "hello ada"


@pytest.mark.parametrize("how", ["Enter first", "the button"])
def test_however_a_page_says_it(notebook, how):
    name = run(notebook, f"read -p '{how}? ' x; echo hello $x")
    field = Field(notebook, f"{how}?")

    if how == "Enter first":
        field.enter()
        field.type("bob b")
    else:
        field.type("bob b")
        field.click()

    assert last(notebook, name) == "hello bob b"


def test_the_header_says_what_is_asked_until_it_is_answered(notebook):
    name = run(notebook, "read -p 'which one? ' x; exec sleep 1000")
    field = Field(notebook, "which one?")

    def header() -> str:
        texts = [str(state.get("value")) for state in list(notebook.comms.values())]
        return next((text for text in texts if f"<b>{name}</b>" in text), "")

    notebook.wait_until(lambda: "▸" in header() and "asks 'which one?'" in header())
    field.enter()
    notebook.wait_until(lambda: "asks" not in header())


def test_enter_alone_is_an_answer(notebook):
    name = run(notebook, "read -p 'press Enter ' x; echo went on")
    field = Field(notebook, "press Enter")

    field.enter()

    assert last(notebook, name) == "went on"


def test_a_field_that_is_left_without_enter_is_followed_by_another_and_what_was_typed_waits(notebook):
    name = run(notebook, "read -p 'half: ' x; echo got $x")
    field = Field(notebook, "half:")
    before = field.row[1]

    field.type("typed before")
    notebook.wait_until(lambda: before not in notebook.comms)
    field.renew()
    assert "not sent yet" in field.field["placeholder"]
    field.enter()

    assert last(notebook, name) == "got typed before"


def test_a_secret_is_masked_and_in_no_message_trait_or_file(notebook):
    secret = uuid.uuid4().hex
    name = run(notebook, "read -s -p 'the word: ' x; echo ${#x}")
    field = Field(notebook, "the word:")
    assert field.field["_view_name"] == "PasswordView"

    field.type(secret)
    field.enter()

    field.until_gone()
    assert last(notebook, name).endswith("32")
    kept = notebook.good(f"import ipywidgets\nprint(repr({name}), ipywidgets.Widget.get_manager_state(), vars({name}))")
    assert secret not in kept.stdout
    assert secret not in json.dumps([message.content for message in notebook.iopub], default=str)
    assert secret not in notebook.ask(f"open({name}.facts.log.rsplit('/', 1)[0] + '/session.json').read()")
    assert secret not in notebook.ask(f"{name}.text()")


def test_a_field_goes_when_somebody_else_answers(notebook):
    name = run(notebook, "read -p 'who? ' x; sleep 1000")
    field = Field(notebook, "who?")

    notebook.good(f"{name}.send_input('me\\n')")

    field.until_gone()


def test_one_prompt_after_the_other_has_a_field(notebook):
    name = run(notebook, "read -p 'first: ' x; read -p 'second: ' y; echo $x$y")
    first = Field(notebook, "first:")
    first.type("1")
    first.enter()
    second = Field(notebook, "second:")
    second.type("2")
    second.enter()

    assert last(notebook, name).endswith("12")


def test_a_prompt_is_text_and_never_markup(notebook):
    name = run(notebook, "read -p '<b>bold</b>? ' x; echo done")

    Field(notebook, "&lt;b&gt;bold&lt;/b&gt;?").enter()

    assert last(notebook, name) == "done"


def test_without_a_page_there_is_no_field(notebook):
    notebook.page = False
    name = f"s{uuid.uuid4().hex[:8]}"
    notebook.good(f"%%cmdop --name {name}\nread -p 'no page? ' x")
    notebook.good(f"print(await {name}.wait_for('no page'))")
    notebook.good(
        f"import asyncio\nasked = asyncio.Event()\n{name}.on_prompt(lambda prompt: asked.set())\nawait asked.wait()"
    )

    assert not any("no page?" in str(state.get("value")) for state in notebook.comms.values())


# -- options of the magic


def test_answer_takes_the_value_of_a_variable(notebook):
    notebook.good("import os; os.environ['MY_WORD'] = 'open sesame'")

    name = run(notebook, "read -s -p 'word: ' x; echo $x | tr a-z A-Z", "--answer word=MY_WORD")

    assert last(notebook, name).endswith("OPEN SESAME")


def test_a_variable_that_is_missing_is_refused_before_anything_starts(notebook):
    cell = notebook.run("%%cmdop --name never --answer word=NO_SUCH_THING\necho hi")

    assert "no environment variable NO_SUCH_THING here" in str(cell.error)
    assert notebook.run("%cmdop tail never").error is not None


def test_notify_calls_the_function_that_is_configured(notebook):
    notebook.good("told = []\ndef note(title, text, stream):\n    told.append((title, text, stream.name))")
    notebook.good("%config CmdopMagics.notify = note")
    try:
        name = run(notebook, "echo one; exit 3", "--notify fail")
        notebook.run(f"await {name}")
        notebook.wait_until(lambda: notebook.ask("len(told)"))
    finally:
        notebook.good("%config CmdopMagics.notify = None")

    [(title, text, stream)] = notebook.ask("told")
    assert (title, stream) == (f"{name} has failed", name)
    assert text.startswith("exit 3 after ")


def test_notify_shows_a_line_in_the_page_too(notebook):
    name = run(notebook, "echo one; exit 3", "--notify end")

    shown = f"<b>{name} has failed</b>"
    notebook.wait_until(lambda: any(shown in str(state.get("value")) for state in notebook.comms.values()))
