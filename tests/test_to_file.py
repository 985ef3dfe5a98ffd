"""`to_file` on real sessions and real disks: exact bytes, rotation, and a restart after death at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import GO, Create, creating, go, numbered

import cmdop_jupyter.sinks.file as module
from cmdop_jupyter.agent.log import Chunk
from cmdop_jupyter.errors import CmdopError, Detached, InvalidRequest
from cmdop_jupyter.machines.local import LocalMachine
from cmdop_jupyter.reading import Gap
from cmdop_jupyter.sinks.base import Sink
from cmdop_jupyter.sinks.file import FileTaker, LogFile, fitting, to_file
from cmdop_jupyter.stream import Stream


@pytest.fixture
def create(state_dir) -> Iterator[Create]:
    with creating() as create:
        yield create


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "out.log"


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A folder with room for 1 MB; needs root."""
    assert os.getuid() == 0, "mounting a small disk needs root: sudo make test"
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def files(path: Path) -> list[Path]:
    """The files of a sink, oldest first."""
    old = [one for one in path.parent.glob(f"{path.name}.*") if one.suffix[1:].isdecimal()]
    return [*sorted(old, key=lambda one: -int(one.suffix[1:])), *([path] if path.exists() else [])]


def joined(path: Path) -> bytes:
    return b"".join(one.read_bytes() for one in files(path))


def wait_until(is_so: Callable[[], object]) -> None:
    while not is_so():
        time.sleep(0.005)


def again(stream: Stream) -> Stream:
    """Another stream on the same session, as a new client has it."""
    other = Stream(LocalMachine())
    other.attach(stream.session_id, "begin").result()
    return other


# -- what is in the file


def test_the_file_has_the_exact_bytes_of_the_log(create, path):
    stream = create("printf 'a\\r\\n\\0\\377\\033[1mb'; seq 100000; printf 'no end'", tty="none")

    end = to_file(stream, path).result()

    assert path.read_bytes() == b"a\r\n\0\xff\x1b[1mb" + numbered(1, 100_000) + b"no end"
    assert end == path.stat().st_size


def test_two_files_have_a_channel_each(create, tmp_path):
    script = f"exec {sys.executable} -c \"for n in range(100000): print(n); __import__('os').write(2, b'e%d\\n' % n)\""
    stream = create(script, tty="none", env={"PYTHONUNBUFFERED": "1"})
    out, err = tmp_path / "out", tmp_path / "err"

    sinks = [to_file(stream, out, channel="stdout", max_bytes=100_000, keep=99), to_file(stream, err, channel="stderr")]

    assert {sink.result() for sink in sinks} == {stream.status.end}
    assert joined(out) == b"".join(b"%d\n" % n for n in range(100_000))
    assert err.read_bytes() == b"".join(b"e%d\n" % n for n in range(100_000))
    assert all(one.read_bytes().endswith(b"\n") for one in files(out))


def test_256_mb_of_random_bytes_come_out_of_the_rotated_files_unchanged(create, path, tmp_path):
    source, wanted, found = tmp_path / "random", hashlib.sha256(), hashlib.sha256()
    with source.open("wb") as file:
        for _ in range(256):
            block = os.urandom(1024 * 1024)
            wanted.update(block)
            file.write(block)

    to_file(create(f"exec cat {source}", tty="none"), path, max_bytes=10_000_000, keep=100).result()

    for one in files(path):
        found.update(one.read_bytes())
        assert one.stat().st_size <= 10_000_000
    assert found.digest() == wanted.digest()
    assert len(files(path)) >= 27


def test_a_session_without_output_makes_an_empty_file(create, path):
    to_file(create("true"), path).result()

    assert path.read_bytes() == b""


def test_what_comes_is_in_the_file_while_the_session_runs(create, path):
    stream = create("echo one; exec sleep 1000", tty="none")
    stream.wait_for("one").result()

    with to_file(stream, path) as sink:
        sink.reached(4).result()

        assert path.read_bytes() == b"one\n"


def test_start_says_where_a_new_file_begins(create, path):
    stream = create("printf 0123456789", tty="none")
    stream.wait_exit().result()

    to_file(stream, path, start=4).result()

    assert path.read_bytes() == b"456789"


def test_bytes_that_were_dropped_are_left_out(create, path):
    stream = create(f"{GO}; seq 100000", tty="none")
    stream.limit(64 * 1024).result()
    go(stream)
    stream.wait_exit().result()

    to_file(stream, path).result()

    assert path.read_bytes() == stream.read()
    assert stream.status.dropped[1] > stream.status.dropped[0]


# -- a restart


def test_the_same_call_goes_on_where_the_file_ends(create, path):
    stream = create(f"seq 1000; {GO}; seq 1001 2000", tty="none")
    with to_file(stream, path) as sink:
        sink.reached(len(numbered(1, 1000))).result()
    go(stream)

    to_file(again(stream), path).result()

    assert path.read_bytes() == numbered(1, 2000)


def test_a_start_at_now_is_the_first_ones_after_a_restart(create, path):
    stream = create(f"echo before; {GO}; echo between", tty="none")
    stream.wait_for("before").result()
    with to_file(stream, path, start="now") as sink:
        sink.reached().result()
    go(stream)
    stream.wait_exit().result()

    to_file(again(stream), path, start="now").result()

    assert path.read_bytes() == b"between\n"


def test_a_complete_file_is_left_as_it_is(create, path):
    stream = create("seq 100000")
    size = to_file(stream, path, max_bytes=100_000).result()
    before = {one: one.read_bytes() for one in files(path)}

    assert to_file(again(stream), path, max_bytes=100_000).result() == size
    assert {one: one.read_bytes() for one in files(path)} == before


CLIENT = """
import sys
from cmdop_jupyter.machines.local import LocalMachine
from cmdop_jupyter.sinks.file import to_file
from cmdop_jupyter.stream import Stream

stream = Stream(LocalMachine())
stream.attach(sys.argv[1], "begin").result()
to_file(stream, sys.argv[2], max_bytes=30_000, keep=10**6, flush_interval=0).result()
"""


@contextlib.contextmanager
def client(stream: Stream, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that writes the file; killed at the end."""
    with subprocess.Popen([sys.executable, "-c", CLIENT, stream.session_id, str(path)]) as process:
        try:
            yield process
        finally:
            process.kill()


def offset_in_sidecar(path: Path) -> int:
    try:
        said = Path(f"{path}.cmdop").read_bytes()
    except FileNotFoundError:
        return 0
    return (json.loads(said)["offset"] or 0) if said else 0  # it is empty until the first record is written


def test_a_client_that_is_killed_again_and_again_leaves_every_byte_once(create, path):
    stream = create("seq 500000", tty="none")  # 3.4 MB, 113 files
    stream.wait_exit().result()
    end = stream.status.end
    chance = random.Random(4)
    for at in sorted(chance.randrange(end * 9 // 10) for _ in range(5)):
        with client(stream, path) as process:
            wait_until(lambda at=at, process=process: process.poll() or offset_in_sidecar(path) > at)
            assert not process.poll()
            process.send_signal(signal.SIGKILL)
            process.wait()

    with client(stream, path) as process:
        assert process.wait() == 0

    assert joined(path) == numbered(1, 500_000)
    assert max(one.stat().st_size for one in files(path)) <= 30_000


def test_a_file_that_another_process_writes_is_refused(create, path):
    stream = create("echo one; exec sleep 1000", name="api")

    with client(stream, path):
        wait_until(lambda: offset_in_sidecar(path))

        with pytest.raises(InvalidRequest, match="another sink of api writes to"):
            to_file(stream, path)


# -- death at any moment: the same calls, cut off at each call of the system in turn

LOG = b"one\ntwo\nthree\nfour four four\n\nfive"


class Killed(BaseException):
    pass


class Mortal:
    """`os`, with which a process dies at its `count`-th call: not done, half done, or done."""

    TOUCHING = ("open", "write", "pread", "replace", "rename", "unlink", "truncate", "stat", "fstat", "listdir")

    def __init__(self, count: int, how: str) -> None:
        self.left, self.how = count, how

    def __getattr__(self, name: str) -> object:
        call = getattr(os, name)
        return (lambda *given: self._do(name, call, *given)) if name in self.TOUCHING else call

    def _do(self, name: str, call: Callable[..., object], *given: object) -> object:
        self.left -= 1
        if self.left > 0:
            return call(*given)
        if self.left == 0 and self.how == "half" and name == "write":
            fd, data = given
            call(fd, data[: len(data) // 2])
        elif self.left == 0 and self.how == "after":
            result = call(*given)
            if name == "open":
                os.close(result)
        raise Killed


def chunks_from(at: int, log: list[Chunk], size: int) -> list[Chunk]:
    """What a read of at most `size` bytes gives."""
    found = []
    for chunk in log:
        if isinstance(chunk, Gap) and chunk.offset == at:
            return [*found, chunk]
        if chunk.offset <= at < chunk.end and size:
            data = chunk.data[at - chunk.offset :][:size]
            found.append(Chunk(at, chunk.channel, 0, 0, data))
            at, size = at + len(data), size - len(data)
    return found


def forward(
    path: Path, log: list[Chunk], *, dies: Mortal | None = None, read: int = 16, channel: str | None = None, **options
) -> bool:
    """What a sink does until it has the log, or dies: whether it lived."""
    file = LogFile(path, "id", "api", channel=channel, **options)
    with pytest.MonkeyPatch.context() as patch:
        if dies is not None:
            patch.setattr(module, "os", dies)
        try:
            file.open()
            at = file.resume()
            if at is None:
                file.write([], at := 0)
            while batch := chunks_from(at, log, read):
                at = batch[-1].end
                wanted = [one for one in batch if isinstance(one, Gap) or channel in (None, one.channel)]
                file.write(wanted, at)
            file.close()
        except Killed:
            if file._lock >= 0:
                os.close(file._lock)  # as the system does
            return False
    return True


@pytest.mark.parametrize("keep", [0, 2, 100])
@pytest.mark.parametrize("how", ["before", "half", "after"])
def test_death_at_any_call_of_the_system_loses_nothing_and_repeats_nothing(tmp_path, how, keep):
    log = [Chunk(0, "stdout", 0, 0, LOG)]
    for count in itertools.count(1):
        path = tmp_path / str(count)
        lived = forward(path, log, dies=Mortal(count, how), max_bytes=10, keep=keep)
        if lived:
            break

        assert forward(path, log, max_bytes=10, keep=keep)

        found = joined(path)
        assert LOG.endswith(found)
        assert found == LOG if keep == 100 else len(files(path)) == keep + 1
        assert {one.name for one in tmp_path.glob(f"{count}.cmdop*")} == {f"{count}.cmdop"}
    assert count > 50


ATOMS = [b"a", b"bc", b"\n", b"\r\n", b"\xff", b"line\n"]
PIECES = st.lists(
    st.tuples(st.sampled_from(["stdout", "stderr", "gap"]), st.lists(st.sampled_from(ATOMS), min_size=1, max_size=6)),
    max_size=12,
)
DEATHS = st.lists(st.tuples(st.integers(1, 80), st.sampled_from(["before", "half", "after"])), max_size=6)


def log_of(pieces: list[tuple[str, list[bytes]]]) -> list[Chunk]:
    log: list[Chunk] = []
    for channel, atoms in pieces:
        at, data = log[-1].end if log else 0, b"".join(atoms)
        log.append(Gap(at, at + len(data)) if channel == "gap" else Chunk(at, channel, 0, 0, data))
    return log


@given(
    pieces=PIECES,
    deaths=DEATHS,
    max_bytes=st.integers(1, 12),
    keep=st.integers(0, 6),
    read=st.integers(1, 40),
    channel=st.sampled_from([None, "stdout"]),
)
def test_the_files_in_a_row_are_the_end_of_the_log(pieces, deaths, max_bytes, keep, read, channel):
    log = log_of(pieces)
    wanted = b"".join(chunk.data for chunk in log if channel in (None, chunk.channel))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.log"
        for count, how in deaths:
            forward(path, log, dies=Mortal(count, how), read=read, channel=channel, max_bytes=max_bytes, keep=keep)

        assert forward(path, log, read=read, channel=channel, max_bytes=max_bytes, keep=keep)

        sizes = [one.stat().st_size for one in files(path)]
        assert wanted.endswith(joined(path))
        assert max(sizes) <= max_bytes
        assert len(sizes) <= keep + 1
        assert all(sizes) or not wanted
        assert joined(path) == wanted or len(sizes) == keep + 1


@given(
    pieces=PIECES, first=st.tuples(st.integers(1, 9), st.integers(0, 5)), second=st.integers(0, 5), cut=st.integers(0)
)
def test_a_restart_may_keep_more_or_fewer_files(pieces, first, second, cut):
    log = log_of([piece for piece in pieces if piece[0] != "gap"])
    wanted = b"".join(chunk.data for chunk in log)
    max_bytes, keep = first
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.log"
        forward(path, log, dies=Mortal(cut % 200, "before"), max_bytes=max_bytes, keep=keep)

        forward(path, log, max_bytes=max_bytes, keep=second)

        assert wanted.endswith(joined(path))


# -- where it is cut


@pytest.mark.parametrize(
    ("data", "room", "whole_line", "count"),
    [
        (b"abc", 3, False, 3),
        (b"abcd", 3, False, 3),
        (b"ab\ncd", 4, False, 3),
        (b"a\nb\ncd", 4, False, 4),
        (b"abcd", 3, True, 0),
        (b"abcd", 0, False, 0),
        (b"\nabc", 1, True, 1),
    ],
)
def test_a_full_file_is_cut_behind_a_line_where_there_is_one(data, room, whole_line, count):
    assert fitting(data, 0, room, whole_line=whole_line) == count


def test_a_line_that_has_no_room_goes_into_the_next_file(path):
    log = [Chunk(0, "stdout", 0, 0, b"12345\n"), Chunk(6, "stdout", 0, 0, b"67890\n")]

    forward(path, log, max_bytes=10, read=6)

    assert [one.read_bytes() for one in files(path)] == [b"12345\n", b"67890\n"]


def test_a_line_longer_than_a_file_is_split(path):
    forward(path, [Chunk(0, "stdout", 0, 0, b"x" * 25)], max_bytes=10, read=100)

    assert [one.read_bytes() for one in files(path)] == [b"x" * 10, b"x" * 10, b"x" * 5]


# -- files that are in the way


def test_a_file_with_something_else_in_it_is_left_alone(create, path):
    path.write_bytes(b"my notes")

    with pytest.raises(InvalidRequest, match="8 bytes of something else, which are left alone; take another path, or"):
        to_file(create("echo hi"), path)

    assert path.read_bytes() == b"my notes"
    assert [one.name for one in path.parent.glob("out.log*")] == ["out.log"]


def test_an_empty_file_is_taken(create, path):
    path.touch()

    to_file(create("echo hi", tty="none"), path).result()

    assert path.read_bytes() == b"hi\n"


def test_the_file_of_another_session_is_left_alone(create, path):
    to_file(create("echo one", name="first", tty="none"), path).result()

    with pytest.raises(InvalidRequest, match=r"has 4 bytes of session first \("):
        to_file(create("echo two"), path)

    assert path.read_bytes() == b"one\n"


def test_when_that_file_is_removed_another_session_may_have_its_place(create, path):
    to_file(create("echo one", tty="none"), path).result()
    path.unlink()

    to_file(create("echo two", tty="none"), path).result()

    assert path.read_bytes() == b"two\n"


def test_the_old_files_of_another_session_are_never_moved(create, path):
    Path(f"{path}.2").write_bytes(b"mine")
    stream = create("seq 1000", tty="none")

    with pytest.raises(InvalidRequest, match=r"out\.log\.2 is in the way of a rotation"):
        to_file(stream, path, max_bytes=100)
    to_file(stream, path).result()

    assert Path(f"{path}.2").read_bytes() == b"mine"


def test_an_old_file_that_is_none_of_ours_is_in_the_way_of_a_restart_that_keeps_more(create, path):
    stream = create("seq 1000", tty="none")
    to_file(stream, path, max_bytes=100, keep=1).result()
    Path(f"{path}.2").write_bytes(b"mine")

    with pytest.raises(InvalidRequest, match=r"out\.log\.2 is in the way of a rotation"):
        to_file(stream, path, max_bytes=100, keep=5)


def test_a_file_of_another_channel_is_left_alone(create, path):
    stream = create("echo one; echo two >&2", tty="none")
    to_file(stream, path, channel="stderr").result()

    with pytest.raises(InvalidRequest, match="has stderr of command, not all; take another path"):
        to_file(stream, path)

    assert path.read_bytes() == b"two\n"


@pytest.mark.parametrize("text", [b"mine", b"[]", b'{"session": "x"}', b"\xff", b"null"])
def test_a_sidecar_that_is_none_of_ours_is_left_alone(create, path, text):
    sidecar = Path(f"{path}.cmdop")
    sidecar.write_bytes(text)

    with pytest.raises(InvalidRequest, match=r"out\.log\.cmdop is none of ours"):
        to_file(create("echo hi"), path)

    assert sidecar.read_bytes() == text


def test_a_file_that_somebody_cut_is_left_alone(create, path):
    stream = create("seq 1000", tty="none")
    to_file(stream, path).result()
    os.truncate(path, 100)

    with pytest.raises(InvalidRequest, match="has 100 bytes where 3893 were written"):
        to_file(stream, path)

    assert path.read_bytes() == numbered(1, 1000)[:100]


@pytest.mark.parametrize("take_away", [os.unlink, lambda path: os.truncate(path, 0)], ids=["removed", "emptied"])
def test_a_file_that_was_taken_away_is_begun_again_with_what_comes_next(create, path, take_away):
    stream = create(f"echo one; {GO}; echo two", tty="none")
    sink = to_file(stream, path)
    sink.reached(4).result()
    take_away(path)
    go(stream)

    sink.result()

    assert path.read_bytes() == b"two\n"
    to_file(stream, path).result()


def test_a_sink_stops_when_somebody_else_writes_into_its_file(create, path, capfd):
    stream = create(f"echo one; {GO}; echo two", tty="none")
    sink = to_file(stream, path)
    sink.reached(4).result()
    with path.open("ab") as file:
        file.write(b"mine")
    go(stream)

    with pytest.raises(CmdopError, match="has 8 bytes where 4 were written: somebody else changed it"):
        sink.result()

    assert path.read_bytes() == b"one\nmine"
    assert sink.state == "failed"


# -- two at once


def test_a_second_sink_on_the_same_file_is_refused(create, path, tmp_path):
    stream = create("echo one; exec sleep 1000", name="api")
    link = tmp_path / "link"
    link.symlink_to(path)

    with to_file(stream, path):
        for same in (path, f"{path.parent}/./out.log", link):
            with pytest.raises(InvalidRequest, match=r"another sink of api writes to .*/out\.log; close\(\) that one"):
                to_file(stream, same)


def test_a_file_is_free_as_soon_as_its_sink_is_closed(create, path):
    stream = create("seq 100000; exec sleep 1000", tty="none")

    for _ in range(20):
        to_file(stream, path, max_bytes=10_000, keep=1000).close()
    with to_file(stream, path, max_bytes=10_000, keep=1000) as sink:
        sink.reached(len(numbered(1, 100_000))).result()

    assert joined(path) == numbered(1, 100_000)


async def test_a_write_whose_call_is_cancelled_ends_before_the_file_is_free(path):
    started, go_on = threading.Event(), threading.Event()

    class Slow(LogFile):
        def write(self, chunks: list[Chunk], end: int) -> None:
            started.set()
            go_on.wait()
            super().write(chunks, end)

    file = Slow(path, "id", "api")
    file.open()
    taker = FileTaker(file)
    taking = asyncio.create_task(taker.take([Chunk(0, "stdout", 0, 0, b"hello")], 5))
    await asyncio.to_thread(started.wait)

    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    closing = asyncio.create_task(taker.close())
    with pytest.raises(InvalidRequest, match="another sink of api"):
        LogFile(path, "id", "api").open()
    assert not closing.done()
    go_on.set()
    await closing

    assert path.read_bytes() == b"hello"
    LogFile(path, "id", "api").open()


# -- what a disk says


def test_a_full_disk_is_waited_for(create, small_disk):
    filler, path = small_disk / "filler", small_disk / "out.log"
    filler.write_bytes(bytes(700_000))
    sink = to_file(create("seq 100000", tty="none"), path, max_bytes=50_000, keep=100)
    wait_until(lambda: sink.state == "retrying")
    assert "No space left on device" in repr(sink)

    filler.unlink()
    sink.result()

    assert joined(path) == numbered(1, 100_000)
    assert sink.state == "ended"
    assert sink.errors >= 1


def test_a_sink_whose_folder_is_taken_away_fails(create, tmp_path, capfd):
    folder = tmp_path / "logs"
    folder.mkdir()
    stream = create(f"echo one; {GO}; echo two", tty="none")
    sink = to_file(stream, folder / "out.log")
    sink.reached(4).result()
    folder.rename(tmp_path / "elsewhere")
    go(stream)

    with pytest.raises(CmdopError, match=r"logs/out\.log: No such file or directory"):
        sink.result()

    assert (tmp_path / "elsewhere" / "out.log").read_bytes() == b"one\n"


def test_a_missing_folder_is_told_at_the_call(create, tmp_path):
    with pytest.raises(InvalidRequest, match=r"there is no folder .*/none; make it first"):
        to_file(create("true"), tmp_path / "none" / "out.log")


def test_a_folder_is_no_file(create, tmp_path):
    with pytest.raises(InvalidRequest, match="is a folder; say the name of a file in it"):
        to_file(create("true"), tmp_path)


def test_a_pipe_is_no_file(create, path):
    os.mkfifo(path)

    with pytest.raises(InvalidRequest, match="is no regular file"):
        to_file(create("true"), path)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("/sys/kernel/out.log", "Permission denied"),
        ("/dev/null/out", "no folder"),
        ("{}/" + "x" * 250, "name too long"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_told_at_the_call(create, tmp_path, place, text):
    with pytest.raises(InvalidRequest, match=text):
        to_file(create("true"), place.format(tmp_path))

    assert list(tmp_path.glob("x*")) == []


# -- permissions


def test_new_files_have_the_permissions_that_the_umask_leaves(create, path):
    before = os.umask(0o027)
    try:
        to_file(create("seq 10000"), path, max_bytes=10_000).result()
    finally:
        os.umask(before)

    assert {one.stat().st_mode & 0o777 for one in files(path)} == {0o640}


@pytest.mark.parametrize("keep", [0, 5])
def test_a_file_closed_to_others_stays_so_when_it_is_rotated(create, path, keep):
    path.touch(mode=0o600)

    to_file(create("seq 10000"), path, max_bytes=10_000, keep=keep).result()

    assert {one.stat().st_mode & 0o777 for one in files(path)} == {0o600}


# -- what is asked wrongly


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_bytes": 0}, "max_bytes is a number of bytes"),
        ({"max_bytes": 1e6}, "max_bytes is a number of bytes"),
        ({"keep": -1}, "keep is a number of old files"),
        ({"flush_interval": -1}, "must not be negative"),
        ({"flush_interval": float("nan")}, "must not be negative"),
        ({"channel": "out"}, "a channel is stdout, stderr, tty"),
        ({"start": "end"}, "start is"),
        ({"start": -1}, "cannot be negative"),
    ],
)
def test_options_that_cannot_be_are_refused_and_leave_nothing(create, path, options, text):
    with pytest.raises(InvalidRequest, match=text):
        to_file(create("true"), path, **options)

    assert list(path.parent.glob("out.log*")) == []


@pytest.mark.parametrize("path", ["", "a\0b", b"bytes"])
def test_what_is_no_path_is_refused(create, path):
    with pytest.raises(InvalidRequest, match="is not the path of a file"):
        to_file(create("true"), path)


def test_a_stream_that_is_not_attached_has_no_log(path):
    with pytest.raises(Detached):
        to_file(Stream(LocalMachine()), path)


def test_its_repr_says_the_file_and_how_far_it_is(create, path):
    sink = to_file(create("echo hi", name="api", tty="none"), path)
    assert isinstance(sink, Sink)
    sink.result()

    assert repr(sink) == "<to_file out.log of api: ended, 3 bytes of the log, 0 errors>"
