"""What could end sessions: what is read of systemd and of containers, and what is made of it."""

from __future__ import annotations

import os
import socket
import sys
from types import SimpleNamespace

import pytest

from cmdop_jupyter.agent import surroundings
from cmdop_jupyter.agent.store import SessionStore
from cmdop_jupyter.agent.surroundings import container_words, examine, shall_kill, unit_of, verdict

LOGIN = "0::/user.slice/user-1000.slice/session-3.scope\n"


@pytest.fixture
def store(state_dir):
    return SessionStore()


def found(store, *detach):
    return {check["what"]: check for check in examine(store, detach)}


def test_it_looks_at_all_of_it_and_leaves_nothing_behind(store):
    before = os.listdir(store.folder)

    checks = found(store)

    assert {"state folder", "control sockets", "sessions", "terminals", "shell", "logout"} <= set(checks)
    assert store.root in checks["state folder"]["found"]
    assert checks["control sockets"] == {"what": "control sockets", "ok": True, "found": "in the state folder"}
    assert os.listdir(store.folder) == before


def test_a_full_disk_is_told(store, monkeypatch):
    monkeypatch.setattr(surroundings.shutil, "disk_usage", lambda path: SimpleNamespace(free=5000))

    assert found(store)["state folder"] == {
        "what": "state folder",
        "ok": False,
        "found": f"{store.root}, 5 kB free",
    }


def test_sockets_that_the_folder_refuses_go_to_the_temp_folder_or_are_told(store, monkeypatch):
    real = socket.socket.bind
    refused = [store.folder, "/proc/self/fd"]

    class Socket(socket.socket):
        def bind(self, address):
            if any(address.startswith(place) for place in refused):
                raise PermissionError(1, "Operation not permitted")
            real(self, address)

    monkeypatch.setattr(socket, "socket", Socket)
    assert "in the temp folder" in found(store)["control sockets"]["found"]
    refused.append("/")

    check = found(store)["control sockets"]

    assert not check["ok"]
    assert "set CMDOP_STATE_DIR" in check["found"]


def test_words_that_detach_are_tried(store, tmp_path):
    mark = tmp_path / "mark"

    good = found(store, "env", f"MARK={mark}", "sh", "-c", 'echo tried > "$MARK"; exec "$@"', "sh")["detach"]
    bad = found(store, "sh", "-c", "echo no bus here >&2; exit 1")["detach"]
    missing = found(store, "/no/such/thing")["detach"]

    assert good["ok"]
    assert mark.read_text() == "tried\n"
    assert (bad["ok"], missing["ok"]) == (False, False)
    assert "no bus here; no session starts so" in bad["found"]
    assert "/no/such/thing cannot be run: No such file or directory" in missing["found"]


def test_a_tool_that_hangs_is_left(store, monkeypatch):
    monkeypatch.setattr(surroundings, "ASK_SECONDS", 0.1)

    assert "no answer in 0.1 s" in found(store, sys.executable, "-c", "import time; time.sleep(100)")["detach"]["found"]


@pytest.mark.parametrize(
    ("cgroup", "whose"),
    [
        (LOGIN, ("login", "session-3.scope")),
        ("12:pids:/x\n1:name=systemd:/user.slice/user-0.slice/session-c1.scope\n0::/\n", ("login", "session-c1.scope")),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-u7.scope\n", ("manager", "user@1000.service")),
        ("0::/system.slice/jupyterhub.service\n", ("service", "jupyterhub.service")),
        ("0::/system.slice/system-sshd.slice/sshd@4.service\n", ("service", "sshd@4.service")),
        ("0::/\n", ("", "")),
        ("0::/docker/0123abc\n", ("", "")),
        ("", ("", "")),
    ],
)
def test_a_cgroup_tells_whose_processes_we_are(cgroup, whose):
    assert unit_of(cgroup) == whose


@pytest.mark.parametrize(
    ("user", "logind", "kills"),
    [
        ("ada", {"KillUserProcesses": "yes", "KillExcludeUsers": "root", "KillOnlyUsers": ""}, True),
        ("ada", {"KillUserProcesses": "no", "KillExcludeUsers": "root"}, False),
        ("ada", {"KillUserProcesses": "yes", "KillExcludeUsers": "root ada"}, False),
        ("ada", {"KillUserProcesses": "yes", "KillOnlyUsers": "bob"}, False),
        ("ada", {"KillUserProcesses": "no", "KillOnlyUsers": "bob ada"}, True),
        ("root", {"KillUserProcesses": "yes"}, False),
        ("root", {"KillUserProcesses": "yes", "KillExcludeUsers": "bob"}, True),
        ("ada", {}, False),
    ],
)
def test_logind_is_read_as_it_reads_itself(user, logind, kills):
    assert shall_kill(user, logind) is kills


@pytest.mark.parametrize(
    ("whose", "facts", "ok", "words"),
    [
        ("login", {"kills": True}, False, ["KillUserProcesses=yes", "loginctl enable-linger", 'detach = "systemd"']),
        ("login", {"kills": True, "linger": True}, False, ["lingering or not", 'detach = "systemd"']),
        ("login", {}, True, ["ends no session"]),
        ("service", {"kill_mode": "control-group"}, False, ["a.service takes its sessions", 'detach = "systemd"']),
        ("service", {"kill_mode": "process"}, True, ["KillMode=process"]),
        ("manager", {}, False, ["loginctl enable-linger"]),
        ("manager", {"linger": True}, True, ["lingering is on"]),
        ("", {}, True, ["ends no session"]),
    ],
)
def test_what_would_end_sessions_is_told_with_its_remedy(whose, facts, ok, words):
    given = {"kills": False, "linger": False, "kill_mode": "", **facts}

    well, told = verdict(whose, "a.service", **given)

    assert well is ok
    assert [word for word in words if word not in told] == []


def test_lingering_alone_is_no_remedy_and_is_not_asked_for_twice():
    _, told = verdict("login", "session-1.scope", kills=True, linger=True, kill_mode="")

    assert "enable-linger" not in told


def test_the_login_is_judged_by_what_logind_says(store, monkeypatch):
    real = os.path.isdir
    monkeypatch.setattr(os.path, "isdir", lambda path: path == "/run/systemd/system" or real(path))
    answers = {"sh": ("", LOGIN), "loginctl": ("", "KillUserProcesses=yes\nKillOnlyUsers=\nKillExcludeUsers=nobody\n")}
    monkeypatch.setattr(surroundings, "_run", lambda command: answers[command[0]])
    assert not found(store)["logout"]["ok"]

    answers["loginctl"] = ("Host is down", "")

    assert "not known" in found(store)["logout"]["found"]
    assert "Host is down" in found(store)["logout"]["found"]


@pytest.mark.parametrize(
    ("file", "environment", "words"),
    [
        (".dockerenv", {}, "a Docker container"),
        ("run/.containerenv", {}, "a Podman container"),
        (".dockerenv", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "a pod"),
        ("run/systemd/system/x", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ""),
        ("etc/hosts", {}, ""),
    ],
)
def test_containers_are_known_by_what_is_in_them(tmp_path, file, environment, words):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()

    assert container_words(str(tmp_path), environment) == words


def test_a_container_takes_its_sessions_with_it(store, monkeypatch):
    monkeypatch.setattr(surroundings, "container_words", lambda: "a pod")
    monkeypatch.setattr(surroundings, "_on_a_volume", lambda path: False)

    check = found(store)["container"]

    assert check["ok"]
    assert check["found"].startswith("a pod: it takes its sessions with it when it stops; ")
    assert "on no volume" in check["found"]
