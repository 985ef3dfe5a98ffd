"""Which processes belong to a session, told from the real process table; and what signals and kills are called."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from cmdop_jupyter.agent import tree

Run = Callable[..., subprocess.Popen[bytes]]
SAY = "import sys, os; print(os.getpid(), flush=True); sys.stdin.read()"


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts a process that waits for its stdin to close, as a Python one-liner in a chain of shells."""
    started = []

    def start(*words: str, **more: object) -> subprocess.Popen[bytes]:
        words = words or (sys.executable, "-I", "-S", "-c", SAY)
        started.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **more))
        return started[-1]

    yield start
    for process in started:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def pid_of(process: subprocess.Popen[bytes]) -> int:
    return int(process.stdout.readline())


def test_whoever_carries_the_mark_belongs_with_all_descendants(run):
    marked = run(env={tree.MARK: "s1"}, start_new_session=True)
    code = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-ISc', {SAY!r}], env={{}}, start_new_session=True)"
    )
    parent = run(sys.executable, "-I", "-S", "-c", code, env={tree.MARK: "s1"})
    other = run(env={tree.MARK: "s11"})
    pids = {pid_of(marked), parent.pid, pid_of(parent)}
    pid_of(other)

    assert set(tree.members("s1")) == pids


def test_whoever_is_in_the_session_of_its_supervisor_belongs(run):
    leader = run(env={}, start_new_session=True)
    pid = pid_of(leader)

    assert set(tree.members("s1", leader=pid)) == {pid}
    assert set(tree.members("s1", leader=pid, spare=pid)) == set()


def test_children_of_the_supervisor_belong_also_where_nothing_else_is_known(run, monkeypatch):
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-ISc', {SAY!r}], start_new_session=True)"
    parent = run(sys.executable, "-I", "-S", "-c", code, env={})
    child = pid_of(parent)
    monkeypatch.setattr(tree, "processes", tree._ask_ps)

    assert set(tree.members("s1", leader=parent.pid, spare=parent.pid)) == {child}


def test_a_process_that_ended_does_not_count(run):
    zombie = run("true", env={tree.MARK: "s1"}, start_new_session=True)
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)

    assert tree.members("s1", leader=zombie.pid) == {}


def test_ps_and_proc_tell_the_same(run):
    process = run(start_new_session=True)
    pid = pid_of(process)
    mine, asked = tree.processes()[pid], tree._ask_ps()[pid]

    facts = ("pid", "parent", "group", "session", "name")
    assert {fact: getattr(asked, fact) for fact in facts} == {fact: getattr(mine, fact) for fact in facts}
    assert {mine.state, asked.state} <= {"R", "S"}


def test_ps_does_not_count_itself():
    assert "ps" not in {process.name for process in tree._ask_ps().values() if process.parent == os.getpid()}


def test_a_signal_reaches_the_process_that_was_seen_and_no_later_one_of_its_number(run):
    process = run()
    pid_of(process)
    seen = tree.processes()[process.pid]
    later = tree.Process(seen.pid, seen.parent, seen.group, seen.session, seen.state, seen.name, "another start")

    assert tree.send(later, signal.SIGKILL) == ""
    assert process.poll() is None
    assert tree.send(seen, signal.SIGKILL) == ""
    assert process.wait() == -signal.SIGKILL
    assert tree.send(seen, signal.SIGKILL) == ""  # gone is no failure


def test_a_signal_that_is_not_permitted_says_so(monkeypatch):
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)

    assert tree.send(tree.processes()[os.getpid()], signal.SIGTERM) == "not permitted"


def test_who_has_a_terminal_open_is_found(run):
    master, slave = os.openpty()
    process = run(stderr=slave)
    pid_of(process)
    path, device = os.ttyname(slave), os.fstat(slave).st_dev
    os.close(slave)

    assert [holder.pid for holder in tree.holders({(path, device)}, spare=0)] == [process.pid]
    assert tree.holders({(path, device)}, spare=process.pid) == []
    assert tree.holders({(path, device + 1)}, spare=0) == []  # a container's terminal of the same name
    os.close(master)


def test_the_whole_process_table_is_asked_for_where_there_is_no_proc(monkeypatch):
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    monkeypatch.setattr(os, "listdir", None)

    assert os.getpid() in tree.processes()
    assert tree.holders({("/dev/pts/0", 1)}, spare=0) == []


# -- out of memory


@pytest.mark.parametrize(
    ("groups", "counters", "kills"),
    [
        ("0::/user.slice\n", {"user.slice/memory.events": "low 0\noom 9\noom_kill 3\noom_group_kill 1\n"}, 10),
        ("0::/\n4:memory:/x\n", {"memory/x/memory.oom_control": "under_oom 0\noom_kill 2\n"}, 9),
        ("4:cpu,memory:/host/path\n", {"memory/memory.oom_control": "oom_kill 4\n"}, 11),
        ("0::/a:b\n", {"unified/a:b/memory.events": "oom_kill 5\n"}, 12),
        ("0::/gone\n4:cpu:/x\n", {}, 7),
        ("", {}, 7),
    ],
    ids=["v2", "v1", "v1 in a container", "hybrid", "no counter", "no groups"],
)
def test_out_of_memory_kills_are_counted_in_our_control_group_and_on_the_system(tmp_path, groups, counters, kills):
    (tmp_path / "groups").write_text(groups)
    (tmp_path / "vmstat").write_text("pgfault 5\noom_kill 7\n")
    for path, text in counters.items():
        (tmp_path / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / path).write_text(text)

    assert tree.oom_kills(str(tmp_path / "groups"), str(tmp_path / "root"), str(tmp_path / "vmstat")) == kills


def test_where_nothing_counts_kills_there_are_none(tmp_path):
    assert tree.oom_kills(str(tmp_path / "none"), str(tmp_path), str(tmp_path / "none")) == 0


# -- names


@pytest.mark.parametrize("name", ["INT", "int", "SIGINT", "sigint", "2", 2])
def test_a_signal_is_known_by_any_of_its_names(name):
    assert tree.signal_number(name) == signal.SIGINT


@pytest.mark.parametrize("name", ["INTT", "0", "-9", "999", "", "SIG", "_DFL", "SIG_IGN", 0])
def test_a_signal_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="no signal"):
        tree.signal_number(name)


@pytest.mark.parametrize(("number", "name"), [(6, "ABRT"), (9, "KILL"), (17, "CHLD"), (29, "IO"), (50, "50")])
def test_a_signal_is_told_by_its_usual_name(number, name):
    assert tree.signal_name(number) == name
