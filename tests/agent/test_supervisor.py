"""One session from its start to its end: states, exits, who holds the output, what is told to whoever waits."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import struct
import sys
import zipapp
from pathlib import Path

import pytest

import cmdop_jupyter.agent
from cmdop_jupyter.agent.control import is_ours
from cmdop_jupyter.agent.errors import InvalidRequest, SessionOver
from cmdop_jupyter.agent.frames import encode
from cmdop_jupyter.agent.supervisor import exit_facts

from .conftest import Session, unique

PYTHON = f"{shlex.quote(sys.executable)} -I -S"
WAITS = "read x"
ONE, INNER = unique(), unique()

# -- exits


@pytest.mark.parametrize("tty", ["split", "full", "none"])
@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("true", {"code": 0}),
        ("exit 3", {"code": 3}),
        ("kill -TERM $$", {"signal": "TERM"}),
        ("kill -SEGV $$", {"signal": "SEGV"}),
        ("kill -KILL $$", {"signal": "KILL", "oom": False}),
        ("sh -c 'kill -KILL $$'", {"code": 137, "oom": False}),
        ("nosuchcommand", {"code": 127}),
        ("/etc/passwd", {"code": 126}),
    ],
    ids=["0", "3", "TERM", "SEGV", "KILL", "KILL of a child", "not found", "no program"],
)
def test_exits_by_code_and_by_signal_are_told_apart(start, tty, script, how):
    assert start(script, tty=tty).until_ended()["exit"] == how


@pytest.mark.parametrize(
    ("code", "stopped", "kills", "facts"),
    [
        (0, False, 1, {"code": 0}),
        (1, False, 1, {"code": 1}),
        (-signal.SIGKILL, False, 0, {"signal": "KILL", "oom": False}),
        (-signal.SIGKILL, False, 2, {"signal": "KILL", "oom": True}),
        (-signal.SIGKILL, True, 2, {"signal": "KILL"}),
        (137, False, 1, {"code": 137, "oom": True}),
        (137, True, 1, {"code": 137}),
        (-signal.SIGTERM, False, 1, {"signal": "TERM"}),
    ],
)
def test_out_of_memory_is_a_kill_that_we_did_not_send_while_the_system_counted_one(code, stopped, kills, facts):
    assert exit_facts(code, stopped=stopped, kills=kills) == facts


def test_an_exit_is_final_while_the_output_is_held_and_who_holds_it_is_named(start):
    session = start("echo first; (read x <&9; echo late) 9<>/dev/tty & exit 5")
    exited = session.until(lambda status: bool(status.get("held_by")))
    assert exited["state"] == "exited"
    assert exited["exit"] == {"code": 5}
    assert [name.partition("[")[0] for name in exited["held_by"]] == ["bash"]
    with pytest.raises(SessionOver):
        session.type(b"\n")
    report = session.stop(grace=0.1)  # a shell's background job ignores INT
    ended = session.until_ended()

    assert [name.partition("[")[0] for name in report["ended"]] == ["bash"]
    assert ended["held_by"] == []
    assert (ended["exit"], ended["exited_ns"]) == (exited["exit"], exited["exited_ns"])


def test_output_after_the_exit_is_logged_until_nobody_holds_it(start, tmp_path):
    os.mkfifo(tmp_path / "gate")
    session = start(f"(read x <{tmp_path}/gate; echo late) & echo early")
    session.until_state("exited")
    (tmp_path / "gate").write_text("go\n")
    session.until_ended()

    assert session.text() == b"early\nlate\n"


@pytest.mark.parametrize("tty", ["split", "none"])
def test_an_exit_is_told_behind_what_the_command_said(start, tty):
    session = start("sleep 1000 & seq 60000", tty=tty)

    assert session.until_state("exited")["end"] == 348894


def test_an_exit_is_told_although_somebody_else_goes_on_writing(start):
    session = start("yes & sleep 0.1; exit 3", tty="none", max_log=1 << 20)

    assert session.until_state("exited")["exit"] == {"code": 3}
    assert session.stop(grace=0.1)["left"] == []


def test_the_last_bytes_before_the_exit_are_all_there(start):
    for tty in ("split", "full", "none"):
        session = start("seq 20000; echo end >&2", tty=tty)
        session.until_ended()
        lines = session.text().replace(b"\r\n", b"\n")
        assert lines.startswith(b"1\n2\n")
        assert (lines + session.text("stderr")).endswith(b"20000\nend\n")


def test_times_and_states_come_in_order(start, store):
    session = start("echo x; exit 1", tty="none")
    status = session.until_ended()

    created = store.facts(session.id)["created_ns"]
    assert created < status["exited_ns"] <= status["ended_ns"]
    assert 0 <= status["output_ms"] <= status["exited_ms"] <= status["clock_ms"]
    (chunk,) = session.chunks()
    assert chunk.mono_ms == status["output_ms"]
    assert created < chunk.wall_ns <= status["exited_ns"]


# -- what is told


def test_a_status_waits_for_the_next_change_or_for_output(start):
    session = start("read x; echo out; read x; exit 0")
    with contextlib.closing(session.connect()) as wire, contextlib.closing(session.connect()) as typing:
        now = wire.ask("status")
        change, output = wire.send("status", seen=now["seq"]), wire.send("status", seen=now["seq"], past=20)
        typing.ask("write", b"\n", writer="a", offset=0)  # echo and answer: at least 6 bytes
        first = wire.ask("status", seen=now["seq"], past=now["end"])
        assert first["seq"] == now["seq"]
        assert first["end"] > now["end"]
        typing.ask("write", b"\n", writer="a", offset=1)
        assert wire.answer(change)["state"] == wire.answer(output)["state"] == "exited"


def test_many_may_wait_at_once_and_those_who_go_away_hurt_nobody(start):
    session = start("read x; echo out; read x")
    wires = [session.connect() for _ in range(30)]
    now = wires[0].ask("status")
    asked = [wire.send("status", seen=now["seq"], past=now["end"]) for wire in wires]
    for wire in wires[::2]:
        wire.close()
    session.type(b"\n")
    for wire, number in list(zip(wires, asked, strict=True))[1::2]:
        assert wire.answer(number)["end"] > now["end"]
        wire.close()

    assert session.status()["state"] == "running"


def test_a_flood_reaches_who_waits_for_it_to_the_last_byte(start):
    session = start("seq 200000; read x", tty="none")
    status = session.until(lambda status: status["end"] == 1288895, output=True)

    assert status["newlines"] == 200000


@pytest.mark.parametrize(
    ("op", "facts"),
    [
        ("nonsense", {}),
        ("write", {}),
        ("write", {"writer": "a", "offset": "x"}),
        ("write", {"writer": "a", "offset": 5}),
        ("resize", {"cols": 1}),
        ("resize", {"cols": [], "rows": {}}),
        ("signal", {"signal": "NOPE"}),
        ("stop", {"grace": "soon"}),
        ("stop", {"grace": -1}),
        ("limit", {"limit": 5}),
        ("limit", {"limit": 1 << 20, "policy": "keep"}),
        ("hello", {}),
    ],
)
def test_a_request_that_makes_no_sense_is_answered_and_changes_nothing(start, op, facts):
    session = start(WAITS)
    with contextlib.closing(session.connect()) as wire:
        before = wire.ask("status")
        with pytest.raises(InvalidRequest):
            wire.ask(op, b"abc", **facts)
        after = wire.ask("status")

    assert {**after, "clock_ms": 0, "wall_ns": 0} == {**before, "clock_ms": 0, "wall_ns": 0}


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", struct.pack(">II", 9, 0) + b"[[[[[[[[[", b"\0"],
    ids=["http", "no json", "half a frame"],
)
def test_a_client_that_talks_nonsense_is_let_go_and_hurts_nobody(start, data):
    session = start("echo out; " + WAITS)
    wire = session.connect()
    wire.sock.sendall(data)
    wire.sock.shutdown(1)
    while wire.sock.recv(4096):
        pass
    wire.close()

    assert session.until_logged(b"out")["state"] == "running"


def test_a_request_whose_number_is_none_hurts_nobody(start):
    session = start(WAITS)
    with contextlib.closing(session.connect()) as wire:
        seq = wire.ask("status")["seq"]
        wire.sock.sendall(encode({"op": "status", "id": [1], "seen": seq}))
        assert wire.sock.recv(4096)

    assert session.status()["state"] == "running"


def test_a_client_that_never_reads_its_answers_is_let_go(start):
    session = start(WAITS)
    wire = session.connect()
    with pytest.raises(OSError, match=r"[Bb]roken pipe|reset"):
        wire.sock.sendall(encode({"op": "status", "id": 1}) * 100_000)
    wire.close()

    assert session.status()["state"] == "running"


def test_a_session_whose_clients_all_went_away_goes_on(start):
    session = start("read x; echo out; read x")
    for _ in range(5):
        session.connect().close()
    session.type(b"\n")

    assert session.until_logged(b"out")["state"] == "running"


def test_only_this_user_and_root_may_connect(monkeypatch):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(b"\0" + ONE.encode())  # a name that needs no folder
    listener.listen()
    child = os.fork()
    if child == 0:  # somebody else; as root we may become that
        try:
            os.setuid(65534)
            socket.socket(socket.AF_UNIX).connect(b"\0" + ONE.encode())
        finally:
            os._exit(0)
    stranger, ours = listener.accept()[0], socket.socket(socket.AF_UNIX)
    os.waitpid(child, 0)
    ours.connect(b"\0" + ONE.encode())
    friend = listener.accept()[0]

    assert is_ours(friend)
    assert not is_ours(stranger)
    monkeypatch.setattr(os, "getuid", lambda: 65534)
    assert is_ours(stranger)
    assert is_ours(friend)  # root
    for sock in (listener, stranger, ours, friend):
        sock.close()


# -- ephemeral


def test_an_ephemeral_session_ends_after_its_owner_went_and_not_before(start):
    session = start(WAITS, ephemeral=1.0, owner="me")
    first, second, other = (session.connect() for _ in range(3))
    first.ask("hello", owner="me")
    second.ask("hello", owner="me")
    other.ask("hello", owner="somebody else")
    first.close()
    clock = other.ask("status")["clock_ms"]
    while second.ask("status")["clock_ms"] < clock + 1200:  # past its time, by the session's own clock
        pass
    gone = second.ask("status")["clock_ms"]
    second.close()
    status = session.until_ended()
    other.close()

    assert status["exited_ms"] - gone >= 1000
    assert status["stopped"]["took"] == "INT"


def test_an_ephemeral_session_whose_owner_never_came_ends_too(start):
    status = start(WAITS, ephemeral=0.1, owner="me").until_ended()

    assert status["exited_ms"] >= 100


def test_an_owner_that_comes_back_in_time_keeps_an_ephemeral_session(start):
    session = start(WAITS, ephemeral=1.5, owner="me")
    for _ in range(4):
        with contextlib.closing(session.connect()) as wire:
            wire.ask("hello", owner="me")
    with contextlib.closing(session.connect()) as wire:
        clock = wire.ask("hello", owner="me")["clock_ms"]
        while wire.ask("status")["clock_ms"] < clock + 1700:
            pass
        assert wire.ask("status")["state"] == "running"


# -- signals


def test_a_signal_reaches_the_foreground_group(start):
    session = start("trap 'echo got USR1' USR1; echo ready; while :; do read -t 60 x; done")
    session.until_logged(b"ready")
    for name in ("USR1", "sigusr1", "10"):
        session.ask("signal", signal=name)
    session.until_logged(b"got USR1")
    session.ask("signal", signal="TERM", call="c1")
    status = session.until_ended()

    assert b"got USR1" in session.text()
    assert status["exit"] == {"signal": "TERM"}


@pytest.mark.parametrize("tty", ["split", "full", "none"])
def test_a_signal_reaches_the_children_of_the_command_too(start, tty):
    session = start("sh -c 'echo ready; exec sleep 1000'; echo after", tty=tty)
    session.until_logged(b"ready")
    session.ask("signal", signal="TERM")

    assert session.until_ended()["exit"] == {"signal": "TERM"}
    assert b"after" not in session.text()


def test_a_signal_reaches_the_job_in_the_foreground_and_not_its_shell(start):
    session = start(shell="bash --norc --noprofile")
    session.type(b"sh -c 'echo in $((6 * 7)) front; exec sleep 1000'\n")
    session.until_logged(b"in 42 front")
    session.ask("signal", signal="INT")
    session.type(b"echo and $((6 * 7)) again; exit 4\n")

    assert session.until_ended()["exit"] == {"code": 4}
    assert b"and 42 again" in session.text()


def test_a_signal_repeated_with_one_call_is_sent_once(start):
    counts = """
import signal, sys
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
print(0, flush=True)
while sys.stdin.readline():
    print(len(seen), flush=True)
"""
    session = start(f"#!{sys.executable}\n{counts}", tty="none")
    session.until_logged(b"0\n")
    for _ in range(3):
        session.ask("signal", signal="USR1", call="c1")
        session.type(b"go\n")
    session.until(lambda _: session.text().count(b"\n") == 4, output=True)

    assert session.text() == b"0\n1\n1\n1\n"


def test_a_supervisor_that_is_asked_to_end_takes_its_session_along(start):
    session = start("trap 'echo INT' INT; sleep 1000 & echo ready; while :; do read -t 60 x; done")
    os.kill(session.until_logged(b"ready")["supervisor"], signal.SIGTERM)
    status = session.until_ended()

    assert status["stopped"]["took"] == "TERM"
    assert status["stopped"]["left"] == []


# -- started otherwise


def test_a_supervisor_runs_from_a_zip_file(store, tmp_path, monkeypatch):
    source = Path(cmdop_jupyter.agent.__file__).parent
    zipped = tmp_path / "agent.pyz"
    zipapp.create_archive(source, zipped, filter=lambda path: path.suffix == ".py")
    monkeypatch.setattr("cmdop_jupyter.agent.store.__file__", str(zipped / "store.py"))
    store.start({"id": ONE, "name": "api", "script": "echo zipped; " + WAITS})

    with store.connect(ONE) as sock:
        assert store.ask(sock, {"op": "stop", "id": 1})["exit"] == {"signal": "INT"}


def test_a_session_started_in_a_session_outlives_it(start, store):
    code = (
        "from cmdop_jupyter.agent.store import SessionStore;"
        f'SessionStore().start(dict(id="{INNER}", name="inner", script="echo $CMDOP_SESSION; {WAITS}"));'
        'input("started")'
    )
    outer = start(f"{shlex.quote(sys.executable)} -c '{code}'", cwd=str(Path(cmdop_jupyter.agent.__file__).parents[2]))
    outer.until(lambda status: bool(status["end"]), output=True)
    inner = Session(store, INNER)
    inner.until_logged(INNER.encode())
    outer.stop()
    outer.until_ended()

    assert inner.status()["state"] == "running"
