"""The directory of sessions: started once, found by name, refused when unsafe, swept when old."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cmdop_jupyter.agent import places, status
from cmdop_jupyter.agent import store as store_module
from cmdop_jupyter.agent.errors import InvalidRequest, NameInUse, SessionNotFound, StartFailed, StoreRefused
from cmdop_jupyter.agent.store import SessionStore, default_root

from .conftest import unique

WAITS = "read x"  # a command that goes on until it is stopped
ONE, TWO = unique(), unique()

# -- starting


def test_start_repeated_with_one_id_runs_once(store, start, tmp_path):
    session = start(f"echo ran >> {tmp_path}/ran; echo ran; {WAITS}", id=ONE)
    session.until_logged(b"ran\n")
    again = [store.start({"id": ONE, "name": "other", "script": "exit 1"}) for _ in range(3)]
    session.stop()
    again.append(store.start({"id": ONE, "name": "other", "script": "exit 1"}))

    assert {facts["name"] for facts in again} == {"n1"}
    assert {facts["created_ns"] for facts in again} == {store.facts(ONE)["created_ns"]}
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_start_repeated_at_the_same_time_from_threads_runs_once(store, tmp_path):
    asked = {"id": ONE, "name": "api", "script": f"echo ran >>{tmp_path}/ran; {WAITS}"}
    with ThreadPoolExecutor(8) as pool:
        facts = list(pool.map(lambda _: SessionStore(store.root).start(dict(asked)), range(8)))

    store.connect(ONE).close()
    assert len({json.dumps(some, sort_keys=True) for some in facts}) == 1
    assert len(store.sessions()) == 1


def test_start_repeated_at_the_same_time_from_processes_runs_once(store, tmp_path):
    code = (
        "import sys; from cmdop_jupyter.agent.store import SessionStore; sys.stdin.readline()\n"
        f"asked = {{'id': '{ONE}', 'name': 'api', 'script': 'echo ran >>{tmp_path}/ran; {WAITS}'}}\n"
        "print(SessionStore().start(asked)['created_ns'])"
    )
    words = [sys.executable, "-c", code]
    starters = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
    for starter in starters:
        starter.stdin.write(b"now\n")
        starter.stdin.flush()
    said = [starter.communicate()[0] for starter in starters]

    assert len(set(said)) == 1
    assert int(said[0]) == store.facts(ONE)["created_ns"]


def test_different_sessions_start_at_the_same_time(store):
    def start_one(number: int) -> str:
        return store.start({"id": f"{ONE}-{number}", "name": "api", "free_name": True, "script": WAITS})["name"]

    with ThreadPoolExecutor(6) as pool:
        names = sorted(pool.map(start_one, range(6)))

    assert names == ["api", "api-2", "api-3", "api-4", "api-5", "api-6"]


def test_a_name_is_unique_among_live_sessions_and_free_again_after(store, start):
    first = start(WAITS, name="api")
    with pytest.raises(NameInUse) as refused:
        start(WAITS, name="api", id=TWO)
    assert (refused.value.name, refused.value.session_id) == ("api", first.id)
    assert [facts["id"] for facts in store.sessions()] == [first.id]
    first.stop()

    assert start("true", name="api", id=TWO).store.facts(TWO)["name"] == "api"


def test_the_next_free_name_is_taken_when_that_is_allowed(store, start):
    live = [start(WAITS, name="api", free_name=True) for _ in range(3)]
    live[1].stop()

    assert [store.facts(session.id)["name"] for session in live] == ["api", "api-2", "api-3"]
    assert store.facts(start(WAITS, name="api", free_name=True).id)["name"] == "api-2"
    assert store.facts(start(WAITS, name="x" * 64).id)["name"] == "x" * 64
    assert store.facts(start(WAITS, name="x" * 64, free_name=True).id)["name"] == "x" * 60 + "-2"


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "../up"},
        {"id": ""},
        {"id": "x" * 65},
        {"name": ".hidden"},
        {"name": "a b"},
        {"name": "a\n"},
        {"tty": "half"},
        {"max_log": 1000},
        {"log_policy": "keep"},
        {"cols": 0},
        {"rows": 70000},
        {"cols": "wide"},
        {"ephemeral": -1},
        {"ephemeral": "soon"},
        {"ephemeral": float("nan")},
        {"env": {"A=B": "1"}},
        {"env": {"": "1"}},
        {"env": {"A": "nul \0"}},
        {"env": ["A"]},
        {"cwd": "/tmp\0"},
        {"script": None, "argv": ["echo", "\0"]},
        {"script": "#!\n"},
        {"shell": "'"},
    ],
    ids=repr,
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(store, start, wrong):
    with pytest.raises(InvalidRequest):
        start(**{"script": "true", **wrong})

    assert os.listdir(store.folder) == []


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"script": "true", "cwd": "/not/there"}, "/not/there: No such file or directory"),
        ({"script": "true", "cwd": "/etc/passwd"}, "/etc/passwd: Not a directory"),
        ({"script": "#!/not/there -x\n"}, "/not/there: No such file or directory"),
        ({"script": "true", "shell": "nosuchshell -e"}, "nosuchshell: No such file or directory"),
        ({"argv": ["nosuchcommand", "x"]}, "nosuchcommand: No such file or directory"),
        ({"argv": ["/etc/passwd"]}, "/etc/passwd: Permission denied"),
    ],
    ids=["no folder", "a file", "no interpreter", "no shell", "no command", "no program"],
)
@pytest.mark.parametrize("tty", ["split", "none"])
def test_what_cannot_be_run_is_told_and_leaves_nothing(store, start, asked, reason, tty):
    with pytest.raises(StartFailed, match=reason):
        start(tty=tty, **asked)

    assert os.listdir(store.folder) == []


def test_a_folder_that_is_gone_is_told(store, start, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    with pytest.raises(InvalidRequest, match="--cwd"):
        start("true")
    start("true", cwd=str(tmp_path)).until_ended()


def test_an_environment_too_large_to_start_is_told_and_leaves_nothing(store, start):
    with pytest.raises(StartFailed, match="Argument list too long"):
        start("true", env={f"V{number}": "x" * 100_000 for number in range(30)})

    assert os.listdir(store.folder) == []


def test_a_supervisor_that_fails_at_its_start_is_told_with_its_last_word(store, start, monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho ignored >&2\necho no such luck >&2\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))

    with pytest.raises(StartFailed, match="no such luck"):
        start("true")
    assert os.listdir(store.folder) == []


def test_a_python_that_is_not_there_is_told(store, start, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/not/there/python")

    with pytest.raises(StartFailed, match="no supervisor"):
        start("true")
    assert os.listdir(store.folder) == []


def test_what_a_start_that_died_left_behind_is_swept_by_the_next(store, start):
    Path(store.folder, ONE, "log").mkdir(parents=True, mode=0o700)
    Path(store.folder, ONE, "status").write_bytes(b"")

    start("echo fresh", id=ONE).until_ended()

    assert [facts["id"] for facts in store.sessions()] == [ONE]


# -- what is on disk


def test_nothing_of_the_environment_and_nothing_for_others_is_on_disk(store, start):
    session = start(WAITS, env={"TOKEN": "s3cr3t-0f-mine", "OTHER": "x"})
    (session.folder / "status").read_bytes()

    facts = store.facts(session.id)
    assert facts["env_names"] == ["OTHER", "TOKEN"]
    for path in [Path(store.root), *Path(store.root).rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert not mode & 0o022
        if path.is_file():
            assert b"s3cr3t" not in path.read_bytes()
        if Path(store.folder) in path.parents and path.name not in ("ctl", "supervisor.err"):
            assert not mode & 0o077, path
    assert stat.S_IMODE(Path(store.folder).stat().st_mode) == 0o700
    assert "s3cr3t" not in repr(session.status())


@pytest.mark.parametrize("keep", [False, True])
def test_the_script_is_private_and_goes_with_the_session_unless_it_is_to_be_kept(start, keep):
    text = "echo '$HOME' {} \\n \"$0\"; " + WAITS  # passed on as it is, without an end of line
    session = start(text, keep_script=keep)
    script = session.folder / "script"
    assert stat.S_IMODE(script.stat().st_mode) == 0o600
    assert script.read_text() == text
    with session.supervisor():
        session.stop()

    assert script.exists() == keep
    assert sorted(path.name for path in session.folder.iterdir() if path.name != "script") == [
        "log",
        "session.json",
        "status",
    ]


def test_a_page_that_is_written_at_the_end_is_what_is_told_afterwards(store, start):
    session = start("echo out; exit 3")
    status = session.until_ended()

    assert (status["exit"], status["end"], status["newlines"]) == ({"code": 3}, 4, 1)
    assert store.status(session.id)["ended_ns"] >= status["exited_ns"] > store.facts(session.id)["created_ns"]


# -- refused, and found


def test_on_windows_the_store_can_be_imported_and_says_what_it_needs():
    code = """
import os, select, socket, sys
for name in ("fcntl", "termios", "pty", "tty", "resource", "pwd", "grp"):
    sys.modules[name] = None
del select.poll, socket.AF_UNIX, os.fork, os.openpty, os.O_CLOEXEC
from cmdop_jupyter.agent import cli, store
os.name = "nt"
try:
    store.SessionStore("nowhere")
except store.NotSupported as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "need Linux or macOS" in done.stdout


@pytest.mark.parametrize("mode", [0o750, 0o707, 0o777])
def test_a_folder_that_is_too_open_is_refused(tmp_path, mode):
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "sessions").mkdir()
    (tmp_path / "state" / "sessions").chmod(mode)

    with pytest.raises(StoreRefused, match="must be 700"):
        SessionStore(str(tmp_path / "state"))


def test_a_folder_in_one_that_others_may_write_is_refused(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)

    with pytest.raises(StoreRefused, match="others could change it") as refused:
        SessionStore(str(tmp_path / "state"))
    assert refused.value.path == str(tmp_path / "state")


def test_a_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    SessionStore(str(tmp_path / "state"))
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)

    with pytest.raises(StoreRefused, match="not to you"):
        SessionStore(str(tmp_path / "state"))


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "sessions").write_text("")
    (tmp_path / "state" / "sessions").chmod(0o700)
    (tmp_path / "file").write_text("")

    for root in ("state", "file/state"):
        with pytest.raises(StoreRefused):
            SessionStore(str(tmp_path / root))


def test_a_link_to_a_folder_of_ours_is_followed(store, start, tmp_path):
    session = start(WAITS)
    (tmp_path / "link").symlink_to(store.root)

    assert [facts["id"] for facts in SessionStore(str(tmp_path / "link")).sessions()] == [session.id]


def test_the_root_is_where_the_environment_says_else_by_host_in_the_state_folder(monkeypatch):
    monkeypatch.setenv("CMDOP_STATE_DIR", "/chosen")
    assert default_root() == "/chosen"
    monkeypatch.delenv("CMDOP_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert default_root() == f"/xdg/cmdop/{socket.gethostname()}"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_root() == f"/home/me/.local/state/cmdop/{socket.gethostname()}"


def test_a_session_is_found_by_id_then_live_name_then_newest_name(store, start):
    old = start("true", name="api")
    old.until_ended()
    newer = start("true", name="api")
    newer.until_ended()
    assert store.find("api")["id"] == newer.id
    live = start(WAITS, name="api")
    start(WAITS, name=old.id)  # a name that is somebody's id

    assert store.find("api")["id"] == live.id
    assert store.find(old.id)["id"] == old.id
    assert [facts["id"] for facts in store.sessions()][:3] == [old.id, newer.id, live.id]


def test_a_session_that_is_not_there_is_told_with_names_like_it(store, start):
    start(WAITS, name="server")

    with pytest.raises(SessionNotFound, match="did you mean server"):
        store.find("servre")
    for call in (store.facts, store.status, store.reader, store.remove):
        with pytest.raises(SessionNotFound):
            call("nope")
        with pytest.raises(SessionNotFound):
            call("../../etc")


def test_a_supervisor_that_does_not_answer_is_not_lost(start, monkeypatch):
    session = start("echo out; " + WAITS)
    status = session.until_logged(b"out")
    monkeypatch.setattr(store_module, "ANSWER_SECONDS", 0.1)
    os.kill(status["supervisor"], signal.SIGSTOP)
    try:
        assert session.status()["state"] == "running"
    finally:
        os.kill(status["supervisor"], signal.SIGCONT)


# -- sockets


def test_a_path_of_200_bytes_works(tmp_path):
    root = tmp_path / ("x" * (199 - len(str(tmp_path))))
    store = SessionStore(str(root))
    store.start({"id": ONE, "name": "api", "script": f"echo out; {WAITS}"})

    assert len(store.root) == 200
    assert len(str(store.facts(ONE)["socket"])) > 200
    with store.connect(ONE) as sock:
        assert store.ask(sock, {"op": "stop", "id": 1})["state"] == "ended"


def test_where_the_folder_refuses_sockets_one_is_made_in_the_temp_folder_and_goes_with_the_session(
    store, start, monkeypatch, tmp_path
):
    class Refusing(socket.socket):
        def bind(self, address: str) -> None:
            if not address.startswith(str(tmp_path / "temp")):
                raise PermissionError(1, "Operation not permitted")
            super().bind(address)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(places.socket, "socket", Refusing)
    session = start(WAITS)
    place = Path(str(store.facts(session.id)["socket"]))
    assert place.parent.parent == tmp_path / "temp"
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert session.status()["state"] == "running"
    session.stop()
    session.until_ended()
    with pytest.raises(StartFailed):
        start("#!/not/there\n")
    monkeypatch.setattr(status, "PAGE", "no size")  # whatever fails once there is a socket
    with pytest.raises(TypeError):
        start(WAITS)

    assert list((tmp_path / "temp").iterdir()) == []


def test_where_no_socket_can_be_made_nothing_is_left(store, start, monkeypatch, tmp_path):
    class Refusing(socket.socket):
        def bind(self, address: str) -> None:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(places.socket, "socket", Refusing)

    with pytest.raises(StartFailed, match="not permitted"):
        start(WAITS)
    assert list((tmp_path / "temp").iterdir()) == []
    assert os.listdir(store.folder) == []


# -- lost, removed, swept


def test_a_session_whose_supervisor_was_killed_is_lost_and_its_log_is_whole(store, start):
    session = start("seq 100000; echo end; " + WAITS, tty="none")
    before = session.until_logged(b"end\n")
    session.kill_supervisor()
    status = session.status()

    assert status["state"] == "lost"
    assert (status["end"], status["newlines"]) == (before["end"], before["newlines"])
    assert session.text() == b"".join(b"%d\n" % number for number in range(1, 100001)) + b"end\n"
    assert [facts["state"] for facts in store.sessions()] == ["lost"]


def test_the_command_of_a_lost_session_can_be_ended(store, start):
    session = start("trap '' HUP INT; setsid sleep 1000 & echo $!; sleep 1001 & wait; wait", tty="none")
    session.until_logged(b"\n")
    session.kill_supervisor()
    report = store.stop_lost(session.id, 1.0)

    assert report["took"] == "TERM"
    assert {name.partition("[")[0] for name in report["ended"]} >= {"bash", "sleep"}
    assert report["left"] == []
    assert store.stop_lost(session.id, 0.3)["ended"] == []


def test_a_live_session_is_not_removed_and_an_ended_one_goes_with_its_log(store, start):
    session = start(WAITS, name="api")
    with pytest.raises(InvalidRequest, match="api is running"):
        store.remove(session.id)
    session.stop()
    session.until_ended()
    store.remove(session.id)

    assert os.listdir(store.folder) == []
    with pytest.raises(SessionNotFound):
        store.status(session.id)


def test_old_ended_and_lost_sessions_are_swept_and_live_ones_are_not(store, start):
    names = ["old", "new", "live", "lost", "fresh"]
    sessions = {name: start("echo x" if name in ("old", "new") else WAITS, name=name) for name in names}
    for name in ("old", "new"):
        sessions[name].until_ended()
    for name in ("lost", "fresh"):
        sessions[name].kill_supervisor()
    long_ago = time.time() - store.keep_seconds - 60
    for name in ("old", "live", "lost"):
        os.utime(sessions[name].folder / "status", (long_ago, long_ago))

    assert sorted(store.prune()) == sorted(sessions[name].id for name in ("old", "lost"))
    assert {facts["name"] for facts in store.sessions()} == {"new", "live", "fresh"}


def test_the_oldest_ended_sessions_are_swept_until_all_fit(store, start):
    sessions = []
    for number in range(4):
        sessions.append(start(f"head -c 100000 /dev/zero; test {number} != 3 || {WAITS}"))
        sessions[-1].until(lambda status: status["end"] == 100_000, output=True)
    for session, age in zip(sessions[:3], (20, 30, 10), strict=True):
        session.until_ended()
        os.utime(session.folder / "status", (time.time() - age, time.time() - age))

    assert SessionStore(store.root, keep_bytes=250_000).prune() == [sessions[1].id, sessions[0].id]
    assert SessionStore(store.root, keep_bytes=1).prune() == [sessions[2].id]
    assert [facts["state"] for facts in store.sessions()] == ["running"]


def test_what_a_start_that_died_left_behind_is_swept_after_an_hour(store, start):
    start(WAITS)
    for name in ("fresh", "old"):
        Path(store.folder, name).mkdir(mode=0o700)
    os.utime(Path(store.folder, "old"), (0, 0))

    assert store.prune() == []
    assert len(os.listdir(store.folder)) == 2
    assert Path(store.folder, "fresh").exists()


def test_a_start_sweeps_once_an_hour(store, start):
    session = start("true")
    session.until_ended()
    os.utime(session.folder / "status", (0, 0))

    start("true")
    assert session.folder.exists()  # this store has swept before, at its first start
    SessionStore(store.root).start({"id": TWO, "name": "x", "script": "true"})
    assert not session.folder.exists()
