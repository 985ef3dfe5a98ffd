"""The line of a `%%cmdop` cell: what its words ask for, and what is refused with a hint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cmdop_jupyter.errors import CmdopError, InvalidRequest
from cmdop_jupyter.notebook.options import (
    CellOptions,
    Defaults,
    make_name,
    read_cell,
    read_limit,
    read_size,
    seconds,
    split,
)


def read(line: str = "", body: str = "make all\n", variables: dict[str, Any] | None = None, **more: Any) -> CellOptions:
    return read_cell(line, body, "id-1", variables or {}, Defaults(**more))


def test_without_options_it_is_a_script_for_this_machine():
    asked = read()

    request = asked.request
    assert (asked.machine, asked.view, asked.tail, asked.if_running) == ("local", "output", 40, "error")
    assert (request.script, request.tty, request.input, request.cwd) == ("make all\n", "split", True, os.getcwd())
    assert (request.max_log, request.log_policy, request.shell, request.env) == (2 * 1024**3, "drop-oldest", None, {})
    assert (asked.wait, asked.until, asked.fail, asked.timeout, request.ephemeral) == (False, None, None, None, None)


@pytest.mark.parametrize(
    "body", ["echo $HOME {x} \\n '\"' `date`\n", "%%time\nls\n", "# only\n  indented\n\n\n", "\techo 'ü'\r\n", "ls"]
)
def test_the_body_is_not_touched(body):
    assert read(body=body).request.script == body


def test_every_option_can_be_given():
    line = (
        "local --name api --tty none --no-input --shell zsh --cwd / -e A=b --env C=d=e --until 'ready (.*)' "
        r"--fail \bERROR\b --timeout 90s --view none --tail 5 --ephemeral=30 --if-running attach --max-log 1Gi,hold "
        "--keep-script --no-raise"
    )

    asked = read(line)

    request = asked.request
    assert (request.name, request.free_name, asked.named) == ("api", False, True)
    assert (request.tty, request.input, request.shell, request.cwd) == ("none", False, "zsh", "/")
    assert request.env == {"A": "b", "C": "d=e"}
    assert (asked.until, asked.fail, asked.timeout) == ("ready (.*)", r"\bERROR\b", 90.0)
    assert (asked.view, asked.tail, asked.if_running, asked.must_succeed) == ("none", 5, "attach", False)
    assert (request.ephemeral, request.max_log, request.log_policy, request.keep_script) == (
        30.0,
        1024**3,
        "hold",
        True,
    )


def test_options_have_defaults_and_a_cell_wins():
    defaults = {"if_running": "replace", "view": "none", "tail": 7, "shell": "fish", "tty": "none", "max_log": "1M"}

    asked, own = read(**defaults), read("--if-running error --view output --tail 9 --shell sh --tty full", **defaults)

    assert (asked.if_running, asked.view, asked.tail) == ("replace", "none", 7)
    assert (asked.request.shell, asked.request.tty, asked.request.max_log) == ("fish", "none", 1_000_000)
    assert (own.if_running, own.view, own.tail, own.request.shell, own.request.tty) == (
        "error",
        "output",
        9,
        "sh",
        "full",
    )


def test_ephemeral_without_seconds_is_a_minute_and_takes_no_word():
    asked = read("--ephemeral local")

    assert (asked.request.ephemeral, asked.machine) == (60.0, "local")


def test_replace_is_short_for_if_running_replace():
    assert read("--replace").if_running == "replace"


def test_the_home_folder_can_be_named(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")

    assert read("--cwd ~/work").request.cwd == "/home/ada/work"


def test_this_machine_may_have_a_folder_of_its_own_and_a_cell_wins():
    assert read(cwd="/srv").request.cwd == "/srv"
    assert read("--cwd /", cwd="/srv").request.cwd == "/"
    assert read("web1", cwd="/srv").request.cwd is None


def test_on_another_machine_the_folder_is_that_machines_to_choose_and_to_expand(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")

    assert read("web1").request.cwd is None
    assert read("web1 --cwd ~/work").request.cwd == "~/work"


def test_a_cell_may_say_that_nobody_need_be_asked():
    assert [read(line).confirmed for line in ("web1", "web1 --yes", "web1 -y")] == [False, True, True]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("--nmae api", "there is no option '--nmae'"),
        ("--untill ready", "did you mean --until"),
        ("--nam api", "did you mean --name"),
        ("local extra --at-most 0", "--at-most is how many of several machines run it at once, 1 or more, got 0"),
        ("local --at-most 2", "several machines"),
        ("a b --stop-on-failure", "goes with --at-most N"),
        ("a b --view terminal", "is for one machine"),
        ("--tty round", "invalid choice: 'round'"),
        ("--tail 0", "1 to 200"),
        ("--tail many", "invalid int"),
        ("--timeout soon --wait", "'soon' is no time; write 90, 90s, 2m or 1h"),
        ("--timeout 5", "goes with --wait or --until"),
        ("--fail ERROR", "goes with --until or --wait"),
        ("--until ready --wait", "one of the two"),
        ("--replace --if-running attach", "contradict"),
        ("--max-log big", "is no size; write 500M, 2Gi"),
        ("--until (", "is no regular expression"),
        ("--wait --fail [", "is no regular expression"),
        ("--name 'api", "cannot be read"),
        ("--name", "expected one argument"),
        ("-e 1X=2", "cannot be the name of a variable"),
        ("--shell", "expected one argument"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_hint(line, hint):
    with pytest.raises(CmdopError, match=hint):
        read(line)


def test_nothing_that_is_unknown_reaches_a_shell():
    with pytest.raises(InvalidRequest, match="nothing was passed to a shell"):
        read("--rm -rf /")


@pytest.mark.parametrize("body", ["", "\n", "  \n\t\n"])
def test_a_cell_without_a_command_is_refused(body):
    with pytest.raises(InvalidRequest, match="no command"):
        read(body=body)


# -- variables


@pytest.mark.parametrize(
    ("value", "text"), [("a b", "a b"), (7, "7"), (0.5, "0.5"), (Path("/tmp/x"), "/tmp/x"), ("$HOME\n{}", "$HOME\n{}")]
)
def test_a_variable_of_the_notebook_is_handed_over(value, text):
    assert read("-e X", variables={"X": value}).request.env == {"X": text}


def test_a_variable_that_the_notebook_has_not_comes_from_its_environment(monkeypatch):
    monkeypatch.setenv("TOKEN", "from outside")

    assert read("-e TOKEN").request.env == {"TOKEN": "from outside"}
    assert read("-e TOKEN", variables={"TOKEN": "from here"}).request.env == {"TOKEN": "from here"}


@pytest.mark.parametrize("value", [["a"], None, b"bytes", {"a": 1}, object()])
def test_other_types_are_refused_by_name(value):
    with pytest.raises(InvalidRequest, match=f"X is a {type(value).__name__} here; only str, int, float and Path"):
        read("-e X", variables={"X": value})


def test_a_variable_that_is_nowhere_is_refused(monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)

    with pytest.raises(InvalidRequest, match="neither the notebook nor its environment has a variable NOWHERE"):
        read("-e NOWHERE")


# -- names


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("./serve.sh --port 0\n", "serve"),
        ("#!/bin/bash\n# starts it\n\nset -e\nnpm install\n", "npm"),
        ("python3 train.py --epochs 3\n", "train"),
        ("sudo apt-get install -y jq", "apt-get"),
        ("X=1 make -j2 all", "make"),
        ("for i in 1 2 3; do echo $i; done", "loop"),
        ("$(true)", "true"),
        ("§§§", "command"),
        ("a" * 50, "a" * 24),
    ],
)
def test_a_name_is_made_that_people_recognise(body, name):
    assert make_name(body) == name
    assert read(body=body).request.free_name


# -- what two cells have in common


def test_the_digest_tells_the_same_command_with_the_same_options():
    base = read("--name api").request.digest

    assert read("--name api --view none --tail 3 --wait").request.digest == base
    for other in ("--tty none", "--cwd /", "--no-input", "--shell zsh", "-e A=1", "--max-log 1M", "--ephemeral"):
        assert read(f"--name api {other}").request.digest != base
    assert read("--name api", body="make some\n").request.digest != base


def test_on_another_machine_the_digest_does_not_depend_on_our_folder(tmp_path, monkeypatch):
    there, here = read("web1").request.digest, read().request.digest
    monkeypatch.chdir(tmp_path)

    assert read("web1").request.digest == there
    assert read().request.digest != here


def test_the_digest_holds_no_values():
    first, second = (read("-e TOKEN", variables={"TOKEN": value}).request.digest for value in ("a", "b"))

    assert first == second


# -- words, times, sizes


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (r"--until port\s(\d+)", ["--until", r"port\s(\d+)"]),
        (r"--until 'a b' --fail \"", None),
        (r'--until "a \d b"', ["--until", r"a \d b"]),
        ("a  b", ["a", "b"]),
        ("#1 -n x", ["#1", "-n", "x"]),
        ("", []),
    ],
)
def test_a_line_is_split_as_in_a_shell_but_keeps_backslashes(line, words):
    if words is None:
        with pytest.raises(InvalidRequest, match="cannot be read"):
            split(line)
    else:
        assert split(line) == words


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("1.5s", 1.5), ("2m", 120), ("1h", 3600), ("1d", 86400)])
def test_times_have_units(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("65536", 65536), ("500M", 5 * 10**8), ("2Gi", 2 * 1024**3), ("1.5k", 1500), ("1TB", 10**12)]
)
def test_sizes_have_units(text, value):
    assert read_size(text) == value


def test_a_limit_is_a_size_and_what_happens_there():
    assert read_limit("1Mi") == (1024**2, "drop-oldest")
    assert read_limit("1Mi, hold") == (1024**2, "hold")
