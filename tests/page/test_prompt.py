"""A session that asks, in the page: a field below its output, and notices."""

from __future__ import annotations

import re

FAKE = """permission => {
  window.told = [];
  window.Notification = class {
    static permission = permission;
    constructor(title, { body }) { window.told.push([title, body]); }
  };
}"""  # a browser without a screen shows none


def field(lab, number: int, text: str):
    """The field below the output of a cell, once it asks that."""
    asked = lab.cell(number).locator(f"input[title='{text}']")
    asked.wait_for()
    return asked


def test_what_is_entered_in_the_field_is_typed_and_the_field_goes(module_lab):
    lab = module_lab
    number = lab.run_new("%%cmdop --name plain\nread -p 'your name: ' x; echo hello $x")
    asked = field(lab, number, "your name:")
    assert asked.get_attribute("type") == "text"

    asked.fill("ada")
    asked.press("Enter")

    lab.cell(number).get_by_text("hello ada").first.wait_for()
    lab.until(lambda: asked.count() == 0)


def test_a_secret_is_masked_and_not_in_the_file(module_lab):
    lab = module_lab
    number = lab.run_new("%%cmdop --name secret\nread -s -p 'the word: ' x; echo ${#x} letters")
    asked = field(lab, number, "the word:")
    assert asked.get_attribute("type") == "password"

    asked.fill("xyzzy-plugh")
    asked.press("Enter")

    lab.cell(number).get_by_text("11 letters").first.wait_for()
    lab.until(lambda: "11 letters" in str(lab.save()))
    assert "xyzzy-plugh" not in lab.path.read_text()


def test_it_works_while_another_cell_awaits_also_when_the_field_was_left_before(module_lab):
    lab = module_lab
    number = lab.run_new("%%cmdop --name left\nread -p 'go where: ' x; echo going $x")
    field(lab, number, "go where:").fill("nowhere")
    waiting = lab.add("got = await wait_for('going (.*)', 'left', timeout=30); got[1]")
    lab.start(waiting)
    again = lab.cell(number).locator("input[placeholder*='not sent yet']")
    again.wait_for()

    again.fill("home")
    again.press("Enter")

    lab.cell(waiting).get_by_text("'home'").wait_for()


def test_a_field_that_appears_takes_no_focus(module_lab):
    lab = module_lab
    number = lab.run_new("%%cmdop --name focus\nsleep 1; read -p 'still there? ' x")
    other = lab.add("")

    lab.cell(other).locator(".cm-content").click()
    field(lab, number, "still there?").wait_for()
    lab.page.keyboard.type("x = 1")

    assert lab.cell(other).locator(".cm-content").inner_text() == "x = 1"


def test_a_notice_is_a_notification_where_the_browser_allows_it_and_a_line(module_lab):
    module_lab.page.evaluate(FAKE, "granted")
    number = module_lab.run_new("%%cmdop --name noted --notify end\nread x; exit 3")
    module_lab.cell(number).locator(".cmdop-view").wait_for()

    module_lab.run_new("%cmdop send noted x")

    module_lab.cell(number).get_by_text("noted has failed").wait_for()
    [[title, body]] = module_lab.page.evaluate("window.told")
    assert title == "noted has failed"
    assert re.match("exit 3 after ", body)


def test_where_it_is_not_allowed_yet_there_is_a_button_to_ask(module_lab):
    module_lab.page.evaluate(FAKE, "default")
    number = module_lab.run_new("%%cmdop --name ask --notify end\ntrue")

    module_lab.cell(number).get_by_text(re.compile("^Tells of: end")).wait_for()
    module_lab.cell(number).get_by_role("button", name=re.compile("allow|notif", re.IGNORECASE)).wait_for()
