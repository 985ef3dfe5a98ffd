"""A log at its limit, and a disk that is full: what is kept is exact, and the session says what it waits for."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmdop_jupyter.agent import log
from cmdop_jupyter.agent.errors import LogDropped, StartFailed
from cmdop_jupyter.agent.log import MIN_LIMIT
from cmdop_jupyter.agent.store import SessionStore

from .conftest import Session, unique

ONE = unique()
LINES = b"".join(b"%d\n" % number for number in range(1, 60_001))  # what `seq 60000` prints, 348,894 bytes


@pytest.mark.parametrize("tty", ["split", "none"])
def test_a_log_that_drops_keeps_its_beginning_and_its_newest(start, tty):
    session = start("seq 60000", tty=tty, max_log=MIN_LIMIT)
    status = session.until_ended()
    gap_from, gap_to = status["dropped"]
    reader = session.store.reader(session.id)
    head, tail = reader.read(0, 1 << 20, status["end"]), reader.read(gap_to, 1 << 20, status["end"])
    with pytest.raises(LogDropped) as dropped:
        reader.read(gap_from, 1, status["end"])
    with pytest.raises(LogDropped):
        reader.read(gap_to - 1, 1, status["end"])
    reader.close()

    assert (dropped.value.offset, dropped.value.first) == (gap_from, gap_to)
    assert b"".join(chunk.data for chunk in head) == LINES[:gap_from]
    assert b"".join(chunk.data for chunk in tail) == LINES[gap_to:]
    assert gap_from == MIN_LIMIT // 4
    assert status["end"] - gap_to >= MIN_LIMIT // 2
    assert status["newlines"] == 60_000


@pytest.mark.parametrize("tty", ["split", "none"])
def test_a_log_that_holds_lets_the_command_wait_until_the_limit_is_raised(start, tty):
    session = start("seq 60000; read x; echo more", tty=tty, max_log=MIN_LIMIT, log_policy="hold")
    held = session.until_state("held")
    assert held["end"] == MIN_LIMIT
    assert held["held"] == f"the log is full ({MIN_LIMIT} bytes): raise its limit, or stop it"
    session.ask("limit", limit=2 * MIN_LIMIT)
    again = session.until(lambda status: status["state"] == "held" and status["end"] > MIN_LIMIT)
    assert again["end"] == 2 * MIN_LIMIT
    assert session.text() == LINES[: 2 * MIN_LIMIT]
    session.ask("limit", limit=1 << 20)
    session.until(lambda status: status["state"] == "running" and status["end"] == len(LINES), output=True)
    session.type(b"\n")
    status = session.until_ended()

    assert session.text() == LINES + b"more\n"
    assert status["held"] == ""


def test_a_log_that_holds_may_be_told_to_drop_instead(start):
    session = start("seq 60000", max_log=MIN_LIMIT, log_policy="hold")
    session.until_state("held")
    session.ask("limit", limit=MIN_LIMIT, policy="drop-oldest")
    status = session.until_ended()

    assert status["end"] == len(LINES)
    assert status["dropped"][0] == MIN_LIMIT // 4


def test_a_limit_below_what_is_logged_holds_at_once(start):
    session = start("seq 60000; read x; echo more; read x", tty="none", max_log=1 << 20, log_policy="hold")
    session.until(lambda status: status["end"] == len(LINES), output=True)
    session.ask("limit", limit=MIN_LIMIT)
    session.until_state("held")
    session.type(b"\n")
    session.ask("limit", limit=1 << 20)
    session.until_logged(b"more\n")

    assert session.text() == LINES + b"more\n"


@pytest.mark.parametrize("tty", ["split", "full", "none"])
def test_a_command_that_is_held_can_be_stopped(start, tty):
    session = start("yes", tty=tty, max_log=MIN_LIMIT, log_policy="hold")
    session.until_state("held")
    report = session.stop()
    status = session.until_ended()

    assert report["left"] == []
    assert status["end"] == MIN_LIMIT
    assert set(session.text()) <= set(b"y\r\n")


def test_a_command_that_exits_while_its_log_is_full_has_exited_and_its_rest_is_logged_later(start):
    session = start(
        f"head -c {MIN_LIMIT} /dev/zero; echo rest; exit 7", tty="none", max_log=MIN_LIMIT, log_policy="hold"
    )
    exited = session.until_state("exited")
    assert exited["exit"] == {"code": 7}
    assert "full" in session.until(lambda status: bool(status["held"]))["held"]
    session.ask("limit", limit=2 * MIN_LIMIT)
    session.until_ended()

    assert session.text() == bytes(MIN_LIMIT) + b"rest\n"


# -- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; needs root."""
    assert os.getuid() == 0, "mounting a small disk needs root: sudo make test"
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def room_of(folder: Path) -> int:
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def fill(folder: Path, leave: int = 0) -> Path:
    """Use up all but `leave` bytes."""
    path = folder / "ballast"
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while room_of(folder) > leave:
            file.write(bytes(4096))
    return path


@pytest.mark.parametrize("tty", ["split", "none"])
def test_a_full_disk_holds_the_command_and_loses_nothing(small_disk, tty):
    store = SessionStore(str(small_disk))
    ballast = fill(small_disk, leave=400_000)
    store.start({"id": ONE, "name": "api", "script": "seq 60000; seq 60000; echo end; exit 9", "tty": tty})
    session = Session(store, ONE)
    held = session.until(lambda status: bool(status.get("held")))
    assert held["state"] == "held" if tty == "split" else "exited"  # a pipe takes it all before
    assert held["held"] == f"the log cannot be written: {os.strerror(errno.ENOSPC)}"
    assert session.text() == (LINES * 2)[: held["end"]]
    ballast.unlink()
    status = session.until_ended()

    assert session.text() == LINES * 2 + b"end\n"
    assert status["exit"] == {"code": 9}
    assert status["held"] == ""


def test_an_exit_is_recorded_on_a_full_disk(small_disk):
    store = SessionStore(str(small_disk))
    store.start({"id": ONE, "name": "api", "script": "read x; exit 3", "tty": "none"})
    session = Session(store, ONE)
    fill(small_disk)
    assert room_of(small_disk) == 0
    with session.supervisor():
        session.type(b"\n")

    status = store.status(ONE)
    assert status["state"] == "ended"
    assert status["exit"] == {"code": 3}


def test_a_stop_on_a_full_disk_tells_what_is_lost(small_disk):
    store = SessionStore(str(small_disk))
    store.start({"id": ONE, "name": "api", "script": "echo begin; read x; seq 60000; sleep 1000", "tty": "none"})
    session = Session(store, ONE)
    session.until_logged(b"begin\n")
    fill(small_disk)
    session.type(b"\n")
    session.until_state("held")
    report = session.stop()
    status = session.until_ended()

    assert report["left"] == []
    assert session.text() == (b"begin\n" + LINES)[: status["end"]]
    assert "of output are lost: No space left" in status["held"]


def test_a_session_that_cannot_be_written_down_is_not_started(small_disk):
    store = SessionStore(str(small_disk))
    fill(small_disk)
    with pytest.raises(StartFailed, match="No space left"):
        store.start({"id": ONE, "name": "api", "script": "true"})
    assert os.listdir(store.folder) == []


def test_a_log_whose_folder_was_deleted_ends_its_command(start):
    session = start("echo there; read x; seq 1000000; sleep 1000", max_log=MIN_LIMIT)
    session.until_logged(b"there")
    wire = session.connect()
    with session.supervisor():
        shutil.rmtree(session.folder)
        wire.ask("write", b"\n", writer="a", offset=0)
    wire.close()


def test_reads_that_are_logged_as_one_lie_within_50_ms(start):
    session = start("for i in 1 2 3 4 5 6; do echo $i; sleep 0.03; done")
    session.until_ended()
    times = [chunk.mono_ms for chunk in session.chunks()]

    assert len(times) >= 3
    assert all(later - earlier >= log.MERGE_MS for earlier, later in itertools.pairwise(times))
