"""The agent's files on a machine: held while somebody runs from them, unpacked, put right, swept when old."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmdop_jupyter.agent import installed
from cmdop_jupyter.agent.installed import Files, idle, leftovers, prune, unpack, version_of
from cmdop_jupyter.machines.parcel import parcel_of

AGENT = Path(installed.__file__).parent
DAY = 24 * 3600.0
NOW = 1_000 * DAY

# What runs the parcel of these tests: holds its files, says where supervisors are started from, ends with its stdin.
HOLDS = """
from . import installed
print(installed.hold(), installed.unpacked(), flush=True)
sys.stdin.read()
"""
PACKAGE = (AGENT / "__main__.py").read_text().partition("\ndef main")[0]
SOURCES = {
    **{name: (AGENT / name).read_bytes() for name in ("__init__.py", "installed.py", "light.py", "loader.py")},
    "__main__.py": (PACKAGE + HOLDS).encode(),
}
PARCEL = parcel_of(SOURCES, "0")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def zipapp(cache: Path) -> Path:
    """An agent that was sent here."""
    path = cache / f"agent-{PARCEL.digest}.pyz"
    path.write_bytes(PARCEL.data)
    return path


@pytest.fixture
def unpacked(zipapp: Path) -> Path:
    """Its folder."""
    return Path(Files(str(zipapp)).unpacked())


@contextlib.contextmanager
def running(home: Path) -> Iterator[list[str]]:
    """A process that runs from a folder or zipapp; gives the words it says."""
    command = [sys.executable, "-I", "-S", str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().split()
        process.stdin.close()
        assert process.wait() == 0


def sources_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def make_old(folder: Path, days: float) -> None:
    """Let everything in the cache be so old."""
    for path in folder.iterdir():
        os.utime(path, (NOW - days * DAY, NOW - days * DAY))


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


# -- names


@pytest.mark.parametrize("end", ["", ".pyz", ".lock", ".pyz.12-ab.new"])
def test_all_files_of_a_version_are_known(end):
    assert version_of(f"/cache/agent-{'a' * 64}{end}") == f"/cache/agent-{'a' * 64}"


@pytest.mark.parametrize("name", ["", "agent", "agent-", "agent-" + "a" * 63, "agent-" + "g" * 64, "x" + "a" * 69])
def test_nothing_else_is_taken_for_a_version(name):
    assert version_of(f"/cache/{name}") == ""


# -- hello


def test_hello_tells_who_and_where(zipapp, monkeypatch):
    monkeypatch.setattr(installed, "_files", Files(str(zipapp)))
    monkeypatch.setenv("CMDOP_AGENT_PATH", "/from/the/loader")

    facts = json.loads(installed.hello("nonce").removeprefix(b"\nnonce "))

    assert facts["agent"] == PARCEL.digest
    assert facts["python"] == "{}.{}.{}".format(*sys.version_info)
    assert facts["path"] == sys.executable
    assert facts["platform"].startswith(sys.platform)
    assert facts["pid"] == os.getpid()
    assert facts["cache"] == str(zipapp.parent)
    assert facts["hostname"]
    assert facts["user"]
    assert "CMDOP_AGENT_PATH" not in os.environ


def test_an_agent_that_was_not_sent_has_no_digest():
    facts = json.loads(installed.hello("nonce").removeprefix(b"\nnonce "))

    assert (facts["agent"], facts["cache"]) == ("", "")


# -- unpacked


def test_supervisors_run_from_a_folder_beside_the_zipapp(zipapp):
    folder = Files(str(zipapp)).unpacked()

    assert folder == str(zipapp)[:-4]
    assert sources_in(Path(folder)) == SOURCES
    assert os.stat(folder).st_mode & 0o777 == 0o700


def test_a_folder_of_somebodys_own_is_used_as_it_is(tmp_path):
    assert Files(str(tmp_path)).unpacked() == str(tmp_path)
    assert not Files(str(tmp_path)).hold()
    assert list(tmp_path.iterdir()) == []


def test_what_runs_from_the_folder_is_the_agent_and_its_start_is_compiled_once(unpacked):
    with running(unpacked) as words:
        assert words == ["True", str(unpacked)]

    assert list((unpacked / "__pycache__").glob("installed.*.pyc"))


@pytest.mark.parametrize("harm", ["other", "shorter", "gone"])
def test_a_new_process_puts_a_damaged_folder_right(zipapp, unpacked, harm):
    with running(unpacked):
        pass
    file = unpacked / "light.py"
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(b"#" * len(SOURCES["light.py"]) if harm == "other" else b"")

    Files(str(zipapp)).unpacked()

    assert sources_in(unpacked) == SOURCES
    assert not (unpacked / "__pycache__").exists()


def test_an_intact_folder_stays_as_it_is(zipapp, unpacked):
    with running(unpacked):
        pass
    before = {path: path.stat().st_ino for path in unpacked.rglob("*")}

    Files(str(zipapp)).unpacked()

    assert {path: path.stat().st_ino for path in unpacked.rglob("*")} == before


def test_a_running_agent_survives_that_the_cache_is_wiped(zipapp):
    files = Files(str(zipapp))
    files.hold()
    for path in sorted(zipapp.parent.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    zipapp.parent.rmdir()

    folder = Path(files.unpacked())

    assert sources_in(folder) == SOURCES
    with running(folder) as words:
        assert words == ["True", str(folder)]


def test_where_nothing_can_be_written_supervisors_run_from_the_zipapp(zipapp):
    (zipapp.parent / zipapp.stem).write_text("a file where the folder would be")

    assert Files(str(zipapp)).unpacked() == str(zipapp)


def test_two_may_unpack_at_once(zipapp):
    with running(zipapp) as one, running(zipapp) as two:
        assert one == two == ["True", str(zipapp)[:-4]]

    assert sources_in(zipapp.parent / zipapp.stem) == SOURCES


def test_unpacking_leaves_files_of_its_own_alone(cache):
    stamps = unpack(PARCEL.data, str(cache / "folder"))

    assert set(stamps) == set(SOURCES)


# -- pruning


def test_only_versions_of_which_every_file_is_old_are_idle():
    one, two, three = ("agent-" + digit * 64 for digit in "123")
    entries = {one: 50.0, f"{one}.pyz": 10.0, f"{two}.pyz": 50.0, f"{two}.lock": 95.0, f"{three}.pyz": 51.0, "x": 0.0}

    assert idle(entries, 100.0, 49.0) == [one]


def test_only_what_a_write_left_a_day_ago_is_a_leftover():
    name = "agent-" + "1" * 64
    entries = {f"{name}.pyz": 0.0, f"{name}.pyz.1-a.new": 0.0, f"{name}.pyz.2-b.new": 2 * DAY, "mine.new": 0.0}

    assert leftovers(entries, 2 * DAY) == [f"{name}.pyz.1-a.new"]


def test_an_old_version_is_swept_out_whole(cache, zipapp, unpacked):
    (cache / f"{zipapp.name}.1-a.new").write_text("")
    (cache / "notes").write_text("not ours")
    make_old(cache, 31)

    assert prune(str(cache), now=NOW) == [zipapp.stem]
    assert left(cache) == ["notes"]


def test_a_version_in_use_lately_is_kept(cache, zipapp, unpacked):
    make_old(cache, 31)
    os.utime(zipapp, (NOW - 29 * DAY, NOW - 29 * DAY))

    assert prune(str(cache), now=NOW) == []
    assert left(cache) == [zipapp.stem, zipapp.name]


def test_the_own_version_is_kept_however_old(cache, zipapp):
    make_old(cache, 31)

    assert prune(str(cache), mine=str(cache / zipapp.stem), now=NOW) == []
    assert zipapp.exists()


@pytest.mark.parametrize("home", ["zipapp", "unpacked"])
def test_a_version_that_somebody_runs_from_is_kept(cache, zipapp, unpacked, home):
    with running({"zipapp": zipapp, "unpacked": unpacked}[home]):
        make_old(cache, 31)
        kept = prune(str(cache), now=NOW)
        names = left(cache)
    make_old(cache, 31)

    assert kept == []
    assert names == [zipapp.stem, f"{zipapp.stem}.lock", zipapp.name]
    assert prune(str(cache), now=NOW) == [zipapp.stem]


def test_somebody_who_comes_while_it_is_swept_is_seen(cache, zipapp, monkeypatch):
    make_old(cache, 31)
    lock = fcntl.flock

    def come_and_lock(fd: int, how: int) -> None:
        os.utime(zipapp, (NOW, NOW))
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", come_and_lock)

    assert prune(str(cache), now=NOW) == []
    assert zipapp.exists()


def test_where_locks_say_nothing_nothing_is_swept(cache, zipapp, monkeypatch):
    def refuse(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    make_old(cache, 31)
    monkeypatch.setattr(fcntl, "flock", refuse)

    assert prune(str(cache), now=NOW) == []
    assert zipapp.exists()
    assert not Files(str(zipapp)).hold()


def test_an_agent_that_was_not_sent_sweeps_nothing():
    assert prune() == []
