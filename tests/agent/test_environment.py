"""What a command finds in its environment, and which words run a script."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest

from cmdop_jupyter.agent import environment
from cmdop_jupyter.agent.environment import NO_PAGERS, SHIMMED, login_argv, script_argv, write_pagers
from cmdop_jupyter.agent.errors import InvalidRequest
from cmdop_jupyter.agent.tree import MARK


def made(monkeypatch, tty: str, asked: dict[str, str] | None = None, **ours: str) -> dict[str, str]:
    for key, value in ours.items():
        monkeypatch.setenv(key, value)
    return environment.environment(asked or {}, tty, "/pagers")


@pytest.mark.parametrize("tty", ["split", "none"])
def test_pagers_print_where_nobody_can_press_a_key(monkeypatch, tty):
    env = made(monkeypatch, tty, PAGER="less", GIT_PAGER="delta")

    assert {key: env[key] for key in NO_PAGERS} == NO_PAGERS


def test_a_full_terminal_keeps_the_pagers_of_the_user(monkeypatch):
    env = made(monkeypatch, "full", PAGER="less")

    assert env["PAGER"] == "less"
    assert env["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(("tty", "term"), [("split", "xterm-256color"), ("full", "xterm-256color"), ("none", "dumb")])
def test_term_says_what_the_command_is_connected_to(monkeypatch, tty, term):
    assert made(monkeypatch, tty, TERM="screen")["TERM"] == term


@pytest.mark.parametrize("tty", ["split", "full", "none"])
def test_what_the_notebook_set_for_itself_is_not_handed_on(monkeypatch, tty):
    ours = ("COLUMNS", "LINES", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "JPY_PARENT_PID", MARK)
    env = made(monkeypatch, tty, **dict.fromkeys(ours, "1"), MPLBACKEND="module://matplotlib_inline.backend_inline")

    assert not {*ours, "MPLBACKEND"} & set(env)


def test_a_backend_that_works_without_a_notebook_is_handed_on(monkeypatch):
    assert made(monkeypatch, "split", MPLBACKEND="agg")["MPLBACKEND"] == "agg"


@pytest.mark.parametrize("tty", ["split", "full", "none"])
def test_what_the_user_asked_for_wins(monkeypatch, tty):
    asked = {"PAGER": "less", "TERM": "vt100", "COLUMNS": "33", "FORCE_COLOR": "1", "PATH": "/only"}
    env = made(monkeypatch, tty, asked, PAGER="more")

    assert {key: env[key] for key in asked} == asked


def test_the_pager_shims_come_first_in_the_path_of_a_split_terminal(monkeypatch):
    assert made(monkeypatch, "split", PATH="/bin:/usr/bin")["PATH"] == "/pagers:/bin:/usr/bin"
    assert made(monkeypatch, "none", PATH="/bin:/usr/bin")["PATH"] == "/bin:/usr/bin"


def test_a_shim_runs_the_real_pager_with_its_words_into_a_pipe(tmp_path):
    shims, real = tmp_path / "shims with a space", tmp_path / "real"
    write_pagers(str(shims))
    write_pagers(str(shims))
    real.mkdir()
    for name in SHIMMED:
        (real / name).write_text('#!/bin/sh\n[ -t 1 ] || echo "piped: $0: $*: $(cat)"\n')
        (real / name).chmod(0o700)
        done = subprocess.run(
            [name, "-R", "a b"],
            env={"PATH": f"{shims}:{real}:/usr/bin:/bin"},
            input=b"text",
            stdout=subprocess.PIPE,
            check=True,
        )
        assert done.stdout.decode() == f"piped: {real}/{name}: -R a b: text\n"
        assert stat.S_IMODE((shims / name).stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (b"#!/bin/x\n", ["/bin/x"]),
        (b"#! /usr/bin/env python3\nprint()", ["/usr/bin/env", "python3"]),
        (b"#!/usr/bin/awk -f  -v x=1  \n", ["/usr/bin/awk", "-f  -v x=1"]),
        (b"#!/bin/x\targ", ["/bin/x", "arg"]),
        (b"#!/bin/j\xf6s\xe9\r\n", ["/bin/j\udcf6s\udce9"]),
    ],
)
def test_a_first_line_is_read_as_the_kernel_reads_it(script, words):
    assert script_argv(script, "/s", None, {}) == [*words, "/s"]


def test_a_first_line_without_an_interpreter_is_refused():
    with pytest.raises(InvalidRequest, match="without an interpreter"):
        script_argv(b"#!  \nls", "/s", None, {})


def test_a_shell_that_was_asked_for_wins_over_the_first_line():
    assert script_argv(b"#!/bin/x\n", "/s", "zsh -o 'no nomatch'", {}) == ["zsh", "-o", "no nomatch", "/s"]


@pytest.mark.parametrize("shell", ["  ", "sh 'x"])
def test_a_shell_that_makes_no_sense_is_refused(shell):
    with pytest.raises(InvalidRequest):
        script_argv(b"ls", "/s", shell, {})


def test_bash_runs_a_script_where_there_is_one_else_sh(tmp_path):
    assert script_argv(b"ls", "/s", None, {"PATH": str(tmp_path)}) == ["/bin/sh", "/s"]
    (tmp_path / "bash").write_text("")
    (tmp_path / "bash").chmod(0o700)
    assert script_argv(b"ls", "/s", None, {"PATH": str(tmp_path)}) == [str(tmp_path / "bash"), "/s"]


def test_a_login_shell_is_the_users_own_and_knows_that_it_is_one():
    assert login_argv(None, {"SHELL": "/bin/dash"}) == ["/bin/dash", "-l"]
    assert login_argv("fish -C x", {"SHELL": "/bin/dash"}) == ["fish", "-C", "x", "-l"]
