"""What a command is started with: terminals, environment and argument list, from what was asked. Runs nothing."""

from __future__ import annotations

import os
import shlex
import shutil

from .errors import InvalidRequest
from .tree import MARK

MODES = ("split", "full", "none")  # of terminals: three, one, or pipes
COLUMNS, ROWS = 120, 40
# A pager waits for a key that nobody presses in a notebook. `-e PAGER=less` brings it back.
NO_PAGERS = {
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "SYSTEMD_PAGER": "cat",
    "MANPAGER": "cat",
    "GH_PAGER": "cat",
    "AWS_PAGER": "",
    "DEBIAN_FRONTEND": "noninteractive",
}
# What ipykernel put there for itself, sizes that would be wrong, and the session that we may be in ourselves: what is
# started here is not a part of it.
NOT_FOR_COMMANDS = (
    MARK,
    "COLUMNS",
    "LINES",
    "JPY_PARENT_PID",
    "JPY_SESSION_NAME",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "FORCE_COLOR",
)
ASK_TOKEN, ASK_SOCKET = "CMDOP_ASK_TOKEN", "CMDOP_ASK_SOCKET"
# By these ssh and sudo ask while a link is dialled; they are good for that dial alone, so what is behind it drops them.
ASKING = ("SSH_ASKPASS", "SUDO_ASKPASS", "SSH_ASKPASS_REQUIRE", ASK_TOKEN, ASK_SOCKET)
PAGER_SHIM = """#!/bin/sh
# `... | less` waits for a key, for ever, where nobody sees its screen. With its output in a pipe it prints and ends.
PATH=${PATH#"${0%/*}":}
"${0##*/}" "$@" | cat
"""
SHIMMED = ("less", "more", "most")


def environment(asked: dict[str, str], tty: str, pagers: str) -> dict[str, str]:
    """The environment of a command: ours without what is the notebook's, then defaults, then what was asked.

    Args:
        asked: Variables that were given by the user; they win.
        tty: The terminal mode.
        pagers: The folder with the pager shims, put in front of PATH where they are wanted.
    """
    env = {key: value for key, value in os.environ.items() if key not in NOT_FOR_COMMANDS}
    if env.get("MPLBACKEND", "").startswith("module://"):
        del env["MPLBACKEND"]
    if tty != "full":
        env.update(NO_PAGERS)
    if tty == "split":
        env["PATH"] = pagers + os.pathsep + env.get("PATH", os.defpath)
    env["TERM"] = "dumb" if tty == "none" else "xterm-256color"
    env.update(asked)
    return env


def write_pagers(folder: str) -> None:
    """Make the folder of pager shims, if it is not there."""
    if os.path.isdir(folder):
        return
    os.makedirs(folder + ".new", mode=0o700, exist_ok=True)
    for name in SHIMMED:
        with open(
            os.open(os.path.join(folder + ".new", name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "w"
        ) as file:
            file.write(PAGER_SHIM)
    os.rename(folder + ".new", folder)


def default_shell(env: dict[str, str]) -> str:
    """bash where there is one, else sh."""
    return shutil.which("bash", path=env.get("PATH")) or "/bin/sh"


def script_argv(script: bytes, path: str, shell: str | None, env: dict[str, str]) -> list[str]:
    """How to run a script: by its `#!` line, as the kernel reads one, else by a shell.

    Args:
        path: Where the script will be.
        shell: Words of the shell that was asked for; it wins over the `#!` line.
    """
    if shell:
        return [*split_words(shell), path]
    if script.startswith(b"#!"):
        words = script[2:].split(b"\n", 1)[0].decode("utf-8", "surrogateescape").strip().split(None, 1)
        if not words:
            raise InvalidRequest("the first line is `#!` without an interpreter")
        return [*words, path]
    return [default_shell(env), path]


def login_argv(shell: str | None, env: dict[str, str]) -> list[str]:
    """The user's login shell, or the one that was asked for, told that it is one."""
    if shell:
        return [*split_words(shell), "-l"]
    return [env.get("SHELL") or default_shell(env), "-l"]


def split_words(text: str) -> list[str]:
    """Words as a shell splits them."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidRequest(f"cannot read {text!r} as words: {error}") from None
    if not words:
        raise InvalidRequest("the shell's name is empty")
    return words
