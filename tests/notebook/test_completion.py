"""Tab behind `%cmdop` and `%%cmdop`: what a front end is told when it asks the kernel."""

from __future__ import annotations

import pytest

from cmdop_jupyter.notebook import completion

STAY = "exec sleep 1000"


@pytest.fixture(scope="module")
def complete(notebook):
    """What the text before the cursor may become, as whole words."""
    for name in ("api-server", "api-tests", "build"):
        notebook.good(f"%%cmdop --name {name}\n{STAY}")

    def complete(text: str) -> list[str]:
        reply = notebook._client.complete(text, len(text), reply=True, timeout=30)["content"]
        head = text[: reply["cursor_start"]]
        typing = len(head) - len(head.split(" ")[-1])
        return [(head + match)[typing:] for match in reply["matches"]]

    return complete


def test_verbs(complete):
    assert {"attach", "doctor", "ps", "send", "stop"} <= set(complete("%cmdop "))
    assert complete("%cmdop st") == ["stop"]


@pytest.mark.parametrize("verb", ["attach", "tail", "send", "signal", "stop", "limit", "rm", "keep", "wait"])
def test_names_of_sessions(complete, verb):
    assert complete(f"%cmdop {verb} bu") == ["build"]
    assert set(complete(f"%cmdop {verb} api-")) == {"api-server", "api-tests"}


def test_signals(complete):
    assert complete("%cmdop signal build US") == ["USR1", "USR2"]


def test_options(complete):
    assert complete("%%cmdop --if") == ["--if-running"]
    assert complete("%%cmdop --name x --no") == ["--no-input", "--no-raise", "--notify"]
    assert "local" in complete("%%cmdop lo")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%%cmdop --tty s", ["split"]),
        ("%%cmdop --if-running ", ["attach", "error", "replace"]),
        ("%%cmdop --view n", ["none"]),
        ("%%cmdop --name bu", ["build"]),
        ("%cmdop rm --e", ["--ended"]),
    ],
)
def test_values(complete, line, words):
    assert sorted(complete(line)) == words


def test_words_for_several_machines(complete, notebook):
    machine = '[machines.{}]\nlink = ["sh", "-c"]\ntags = ["quick"]\n'
    (notebook.work / "cmdop.toml").write_text(
        "".join(map(machine.format, ["w01", "w02", "w03"])) + '[groups]\nquiet = ["w01"]\n'
    )

    assert set(complete("%%cmdop @qui")) == {"@quick", "@quiet"}
    assert set(complete("%%cmdop --name x w")) == {"w01", "w02", "w03", "w[01-03]"}
    assert set(complete("%%cmdop w01 w0")) == {"w02", "w03"}
    assert complete("%%cmdop w[") == ["w[01-03]"]


def test_other_lines_are_left_alone(complete):
    assert "stop" not in complete("sto")
    assert complete("%%cmdopx --na") == []
    assert "attach" not in complete("x = 'cmdop att")


def test_a_body_is_left_alone(complete):
    assert "--name" not in complete("%%cmdop --name x\nls --na")


def test_an_older_ipython_is_given_what_takes_the_place_of_a_part_of_the_word():
    assert completion._old("%%cmdop --if", "if", []) == ["if-running"]
    assert completion._old("%cmdop st", "st", ["stop", "ps"]) == ["stop"]
