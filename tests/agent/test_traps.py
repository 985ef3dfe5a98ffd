"""What has broken other tools, in real sessions: pagers, odd bytes, huge scripts and lines, programs that ask."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

PYTHON = f"{shlex.quote(sys.executable)} -I -S"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository whose log is longer than a page."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(folder)]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    for number in range(30):
        (folder / "file").write_text(f"{number}\n" * 5)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "-m", f"change {number}"], check=True)
    return folder


def test_git_log_prints_all_and_ends(start, repository):
    session = start("git -c core.pager=less log -p", cwd=str(repository), env={"GIT_CONFIG_GLOBAL": "/dev/null"})
    status = session.until_ended()

    assert status["exit"] == {"code": 0}
    for number in range(30):
        assert b"change %d\n" % number in session.text()


@pytest.mark.parametrize("pager", ["less", "less -R", "more", "/usr/bin/env less"])
@pytest.mark.parametrize("tty", ["split", "none"])
def test_a_pipe_into_a_pager_prints_all_and_ends(start, pager, tty):
    session = start(f"seq 3000 | {pager}", tty=tty)
    session.until_ended()

    assert session.text() == b"".join(b"%d\n" % number for number in range(1, 3001))


def test_a_file_in_a_pager_is_printed(start, tmp_path):
    (tmp_path / "file").write_text("one\ntwo\n" * 100)
    session = start("less file; more file", cwd=str(tmp_path))
    session.until_ended()

    assert session.text().count(b"two\n") >= 200


def test_a_character_may_be_cut_in_two_and_odd_bytes_are_kept_exactly(start):
    session = start(r"printf 'caf\303'; read x; printf '\251 \303\n\000\000\033]0;title\n\377'")
    session.until_logged(b"caf\xc3")
    session.type(b"\n")
    session.until_ended()

    assert session.text() == b"caf\xc3\xa9 \xc3\n\x00\x00\x1b]0;title\n\xff"


def test_dollars_braces_and_backslashes_reach_the_shell_untouched(start):
    session = start("""x='a  b'; echo "$x" {1,2} '{}' '\\n' "\\\\" $((1+1)) `echo q` %s !! ${x%b}""", env={"x": "no"})
    session.until_ended()

    assert session.text() == b"a  b 1 2 {} \\n \\ 2 q %s !! a\n"


def test_a_script_of_300_kb_runs_to_its_end(start):
    lines = "\n".join(f": line {number} '$HOME' {{}} \\\\" for number in range(10_000))
    session = start(f"{lines}\necho end\n{'#' * 100_000}")
    status = session.until_ended()

    assert status["exit"] == {"code": 0}
    assert session.text() == b"end\n"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (f"#!{sys.executable}\nimport sys; print(len(sys.argv), sys.flags.isolated)", b"1 0\n"),
        (f"#!{sys.executable} -I\nimport sys; print(len(sys.argv), sys.flags.isolated)", b"1 1\n"),
        ("#! /bin/sh -e\nfalse\necho no", b""),
        ("#!/usr/bin/env cat\njosé", "#!/usr/bin/env cat\njosé".encode()),
        ("#!/bin/echo a  b\n", None),
    ],
)
def test_a_first_line_says_what_runs_the_script(start, script, says):
    session = start(script)
    session.until_ended()

    assert session.text() == (says if says is not None else f"a  b {session.folder}/script\n".encode())


@pytest.mark.parametrize(
    ("shell", "script", "says"),
    [("bash -e", "echo $-; false; echo no", b"ehB\n"), (PYTHON, "print('python')", b"python\n")],
)
def test_a_shell_can_be_chosen(start, shell, script, says):
    session = start(script, shell=shell)
    session.until_ended()

    assert session.text() == says


def test_a_line_of_100_mb_is_kept_exactly_in_little_memory(start):
    code = "import os, hashlib; b = bytes(range(11, 256)) * 4082; [os.write(1, b) for _ in range(100)]"
    session = start(f"exec {PYTHON} -c '{code}; input()'", tty="none")
    block = bytes(range(11, 256)) * 4082  # 1,000,090 bytes, no newline
    status = session.until(lambda status: status["end"] == 100 * len(block), output=True)
    facts = Path(f"/proc/{status['supervisor']}/status").read_text()
    peak = int(facts.partition("VmHWM:")[2].split()[0])

    assert status["newlines"] == 0
    assert peak < 30_000  # kB
    with contextlib.closing(session.store.reader(session.id)) as reader:
        for number in range(100):
            chunks = reader.read(number * len(block), len(block), status["end"])
            assert b"".join(chunk.data for chunk in chunks) == block


def test_the_last_line_may_leave_a_server_behind(start):
    server = (
        'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1], flush=True); s.accept()'
    )
    session = start(f"{PYTHON} -c '{server}' &")
    session.until_logged(b"\n")
    status = session.until(lambda status: bool(status.get("held_by")))

    assert (status["state"], status["exit"]) == ("exited", {"code": 0})
    socket.create_connection(("127.0.0.1", int(session.text()))).close()
    assert session.until_ended()["held_by"] == []


# -- out of memory, where a control group can be made


def memory_groups() -> Path | None:
    """A folder of the system in which we may make control groups with a memory limit; None where there is none."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        folder = Path(f"/sys/fs/cgroup/memory{path}" if "memory" in controllers.split(",") else f"/sys/fs/cgroup{path}")
        group = folder / f"cmdop-try-{uuid.uuid4().hex}"
        try:
            group.mkdir()
        except OSError:
            continue
        found = [folder for name in ("memory.limit_in_bytes", "memory.max") if os.access(group / name, os.W_OK)]
        group.rmdir()
        if found:
            return folder
    return None


GROUPS = memory_groups()

if GROUPS is not None:  # else the counting and the telling are tested alone, in test_tree and test_supervisor

    @pytest.fixture
    def small_memory() -> Iterator[Path]:
        """A control group with 48 MiB."""
        group = GROUPS / f"cmdop-test-{uuid.uuid4().hex}"
        group.mkdir()
        limit = group / "memory.limit_in_bytes"
        (limit if limit.exists() else group / "memory.max").write_text(str(48 << 20))
        yield group
        group.rmdir()

    def test_a_command_out_of_memory_is_told_as_that(start, small_memory):
        hog = "x = []\nwhile True: x.append(bytearray(1 << 20))"
        session = start(f"echo $$ >{small_memory}/cgroup.procs; exec {PYTHON} -c '{hog}'")
        direct = session.until_ended()
        session = start(f"echo $$ >{small_memory}/cgroup.procs; {PYTHON} -c '{hog}'")
        by_shell = session.until_ended()

        assert direct["exit"] == {"signal": "KILL", "oom": True}
        assert by_shell["exit"] == {"code": 137, "oom": True}
