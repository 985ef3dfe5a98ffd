"""The log against a plain bytes model: what is appended is what is read, wherever it was cut, dropped or refused."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.agent import log
from cmdop_jupyter.agent.errors import InvalidRequest, LogDropped, SessionNotFound
from cmdop_jupyter.agent.log import CHANNELS, MERGE_MS, MIN_LIMIT, RECORD, Chunk, LogReader, LogWriter

DICE = random.Random(5)
TAPE = bytes(DICE.choices(b"\n\n\nabc\x00\xff\xe2\x9c\x93", k=2_000_000))  # what every log here says, from offset 0
EPOCH = 1_800_000_000_000_000_000


class Written:
    """A log of which we know, for every byte, its channel and when it was read."""

    def __init__(self, folder: str, limit: int = log.DEFAULT_LIMIT, policy: str = "drop-oldest") -> None:
        self.folder = folder
        self.writer = LogWriter(folder, limit, policy)
        self.reads: list[tuple[int, str, int]] = []  # (offset, channel, ms)
        self.ms = self.said = 0

    def append(self, channel: str, size: int, later_ms: int = 0) -> None:
        self.ms += later_ms
        data = TAPE[self.said : self.said + size]
        self.reads.append((self.said, channel, self.ms))
        self.said += size
        self.writer.append(channel, data, EPOCH + self.ms * 1_000_000, self.ms)

    def of(self, offset: int) -> tuple[str, int]:
        """Channel and time of a byte."""
        return next((channel, ms) for start, channel, ms in reversed(self.reads) if start <= offset)

    def check(self, chunks: list[Chunk], offset: int) -> None:
        """These are the bytes from `offset` on, each on its channel, at its time."""
        latest = 0
        for chunk in chunks:
            assert chunk.offset == offset
            assert chunk.data == TAPE[offset : chunk.end]
            assert chunk.mono_ms >= latest
            assert chunk.wall_ns == EPOCH + chunk.mono_ms * 1_000_000
            for byte in {*range(offset, chunk.end, 997), chunk.end - 1}:
                channel, ms = self.of(byte)
                assert chunk.channel == channel
                assert 0 <= ms - chunk.mono_ms < MERGE_MS
            offset, latest = chunk.end, chunk.mono_ms


@contextlib.contextmanager
def written(limit: int = log.DEFAULT_LIMIT, policy: str = "drop-oldest") -> Iterator[Written]:
    with tempfile.TemporaryDirectory() as folder:
        some = Written(folder, limit, policy)
        try:
            yield some
        finally:
            some.writer.close()


@contextlib.contextmanager
def reader(folder: str) -> Iterator[LogReader]:
    with contextlib.closing(LogReader(folder)) as some:
        yield some


def everything(folder: str, end: int, max_bytes: int = 1 << 20) -> list[Chunk]:
    """All that is there, what was dropped left out."""
    with reader(folder) as some:
        offset, chunks = 0, []
        while offset < end:
            try:
                piece = some.read(offset, max_bytes, end)
            except LogDropped as gap:
                offset = gap.first
                continue
            chunks += piece
            offset = piece[-1].end
        return chunks


SIZES = st.one_of(st.integers(1, 40), st.integers(1, 9000), st.integers(16_000, 70_000))
APPENDS = st.tuples(
    st.just("append"), st.sampled_from(CHANNELS), SIZES, st.sampled_from([0, 0, 1, MERGE_MS - 1, MERGE_MS, 2000])
)
READS = st.tuples(st.just("read"), st.integers(0, 3), st.floats(0, 1), st.integers(1, 50_000))
LIMITS = st.tuples(st.just("limit"), st.sampled_from([MIN_LIMIT, 2 * MIN_LIMIT, 100_001]))
STEPS = st.lists(st.one_of(APPENDS, APPENDS, READS, LIMITS), min_size=12, max_size=60)


@given(steps=STEPS)
def test_what_was_appended_is_read_back_by_any_reader_at_any_offset(steps):
    with written(MIN_LIMIT) as some, contextlib.ExitStack() as closing:
        readers = [closing.enter_context(reader(some.folder))]  # one from before the first byte
        for step in steps:
            writer = some.writer
            if step[0] == "append":
                some.append(*step[1:])
                assert writer.end == some.said
                continue
            if step[0] == "limit":
                writer.set_limit(step[1], "drop-oldest")
                continue
            number, place, size = step[1:]
            if number >= len(readers):
                readers.append(closing.enter_context(reader(some.folder)))
            offset = round(place * writer.end)
            gap_from, gap_to = writer.dropped
            try:
                chunks = readers[number % len(readers)].read(offset, size, writer.end)
            except LogDropped as error:
                gap = error
            else:
                assert bool(chunks) == (offset < writer.end)
                assert sum(len(chunk.data) for chunk in chunks) <= size
                some.check(chunks, offset)
                continue
            assert gap_from <= offset < gap_to
            assert (gap.offset, gap.first) == (offset, gap_to)
        whole = everything(some.folder, some.writer.end)
        gap_from, gap_to = some.writer.dropped
        assert sum(len(chunk.data) for chunk in whole) == some.writer.end - (gap_to - gap_from)
        assert some.writer.newlines == TAPE.count(b"\n", 0, some.said)


@given(steps=STEPS)
def test_the_head_and_the_newest_are_kept_and_one_gap_lies_between(steps):
    with written(MIN_LIMIT) as some:
        smallest = largest = MIN_LIMIT
        for step in steps:
            if step[0] == "limit":
                some.writer.set_limit(step[1], "drop-oldest")
                smallest, largest = min(smallest, step[1]), max(largest, step[1])
            elif step[0] == "append":
                some.append(*step[1:])
            gap_from, gap_to = some.writer.dropped
            if gap_to:
                assert smallest // 4 <= gap_from < gap_to < some.writer.end
                assert some.writer.end - gap_to >= smallest // 4
        assert some.writer.kept <= largest


@given(steps=STEPS, places=st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_newlines_before_an_offset_are_counted_exactly(steps, places):
    with written(MIN_LIMIT) as some:
        for step in steps:
            if step[0] == "append":
                some.append(*step[1:])
        gap_from, gap_to = some.writer.dropped
        with reader(some.folder) as any_reader:
            for offset in {round(place * some.said) for place in places} - set(range(gap_from + 1, gap_to + 1)):
                assert any_reader.newlines_before(offset) == TAPE.count(b"\n", 0, offset)


class Disk:
    """Writes as much as it is told to, then refuses; once it has nothing more to say, it writes."""

    def __init__(self, patch: pytest.MonkeyPatch, orders: list[int | None]) -> None:
        self._orders, self._pwrite, self._open = orders, os.pwrite, os.open
        patch.setattr(os, "pwrite", self.pwrite)
        patch.setattr(os, "open", self.open)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        order = self._orders.pop() if self._orders else None
        if order is None:
            return self._pwrite(fd, data, offset)
        if order == 0:
            raise OSError(errno.ENOSPC, "no space")
        return self._pwrite(fd, data[:order], offset)

    def open(self, path: str, flags: int, mode: int = 0o777, **more: object) -> int:
        if flags & os.O_CREAT and str(path).endswith((".log", ".idx")) and self._orders and self._orders.pop() == 0:
            raise OSError(errno.ENOSPC, "no space")
        return self._open(path, flags, mode)


ORDERS = st.lists(st.sampled_from([0, 0, 1, 7, 28, 29, 4096, None, None]), max_size=80)


@given(steps=st.lists(APPENDS, min_size=4, max_size=25), orders=ORDERS)
def test_a_disk_that_fills_up_at_any_write_loses_and_repeats_nothing(steps, orders):
    with written(policy="hold") as some, pytest.MonkeyPatch.context() as patch:
        Disk(patch, orders)
        for step in steps:
            with contextlib.suppress(OSError):
                some.append(*step[1:])
            while some.writer.waiting:
                assert some.writer.end + some.writer.waiting == some.said
                some.check(everything(some.folder, some.writer.end), 0)
                with contextlib.suppress(OSError):
                    some.writer.retry()
        chunks = everything(some.folder, some.writer.end)
        some.check(chunks, 0)
        assert b"".join(chunk.data for chunk in chunks) == TAPE[: some.said]
        assert some.writer.newlines == TAPE.count(b"\n", 0, some.said)


@given(steps=st.lists(APPENDS, min_size=4, max_size=25), ahead=st.integers(0, 30_000))
def test_no_reader_sees_a_byte_behind_the_end_it_was_told(steps, ahead):
    with written() as some:
        for step in steps:
            some.append(*step[1:])
        end = max(0, some.said - ahead)
        chunks = everything(some.folder, end)
        assert sum(len(chunk.data) for chunk in chunks) == end
        some.check(chunks, 0)


@given(steps=st.lists(APPENDS, min_size=4, max_size=25))
def test_cat_shows_what_was_appended(steps):
    with written(policy="hold") as some:
        for step in steps:
            some.append(*step[1:])
        files = sorted(Path(some.folder).glob("*.log"))
        assert b"".join(path.read_bytes() for path in files) == TAPE[: some.said]


@given(steps=st.lists(APPENDS, min_size=4, max_size=25))
def test_the_files_of_a_writer_that_was_killed_go_as_far_as_it_did(steps):
    with written(MIN_LIMIT) as some:
        for step in steps:
            some.append(*step[1:])
        with reader(some.folder) as any_reader:
            assert any_reader.stored_end() == some.said


@given(sizes=st.lists(st.integers(1, 400_000), min_size=1, max_size=5))
def test_no_record_is_longer_than_256_kib(sizes):
    with written() as some:
        for size in sizes:
            some.append("stdout", size)
        starts = [
            int(path.stem) if position == 0 else record[0]
            for path in sorted(Path(some.folder).glob("*.idx"))
            for position, record in enumerate(RECORD.iter_unpack(path.read_bytes()))
        ]
        assert max(later - start for start, later in zip(starts, [*starts[1:], some.said], strict=True)) <= 256 * 1024


@given(first=st.integers(0, 20 * 2**32), gaps=st.lists(st.integers(0, 3 * 2**32), max_size=5))
def test_times_go_on_where_the_index_has_no_more_bits_for_them(tmp_path_factory, first, gaps):
    folder = str(tmp_path_factory.mktemp("log"))
    writer, times = LogWriter(folder), [first]
    for gap in gaps:
        times.append(times[-1] + MERGE_MS + gap)
    for number, ms in enumerate(times):
        writer.append("stdout", b"x", EPOCH - number * 10**18, ms)  # the wall clock may do what it likes
    writer.close()

    assert [chunk.mono_ms for chunk in everything(folder, writer.end)] == times


def test_a_program_that_writes_byte_by_byte_starts_new_segments_and_keeps_its_head(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "SEGMENT_RECORDS", 500)
    some = Written(str(tmp_path), MIN_LIMIT)
    for number in range(70_000):
        some.append(CHANNELS[number % 2], 1)
    some.writer.close()

    assert some.writer.dropped[0] == MIN_LIMIT // 4
    assert some.writer.kept <= MIN_LIMIT
    assert len(everything(str(tmp_path), some.said)) == some.writer.kept


def test_a_log_that_holds_has_room_for_its_limit_and_no_more(tmp_path):
    some = Written(str(tmp_path), MIN_LIMIT, "hold")
    assert some.writer.room == MIN_LIMIT
    some.append("stdout", MIN_LIMIT - 1)
    assert some.writer.room == 1
    some.append("stdout", 1)
    assert some.writer.room == 0

    some.writer.set_limit(MIN_LIMIT + 10, "hold")
    assert some.writer.room == 10

    some.append("stdout", 10)
    some.writer.close()
    assert some.writer.dropped == (0, 0)
    assert b"".join(chunk.data for chunk in everything(str(tmp_path), some.said)) == TAPE[: MIN_LIMIT + 10]


def test_a_lower_limit_is_kept_from_the_next_bytes_on(tmp_path):
    some = Written(str(tmp_path), 64 * MIN_LIMIT)
    for _ in range(12):
        some.append("stdout", 2 * MIN_LIMIT)
    some.writer.set_limit(20 * MIN_LIMIT, "drop-oldest")
    some.append("stdout", 1)
    some.writer.close()

    assert some.writer.kept <= 20 * MIN_LIMIT
    assert some.writer.dropped[0] == 1024 * 1024  # the head as it is


def test_a_reader_keeps_two_segments_open_at_most(tmp_path):
    some = Written(str(tmp_path), MIN_LIMIT)
    for _ in range(20):
        some.append("stdout", 3000)
    some.writer.close()
    before = set(os.listdir("/proc/self/fd"))
    with reader(str(tmp_path)) as any_reader:
        for offset in range(0, some.said, 1000):
            any_reader.read(offset, 1000, some.said)
        assert len(set(os.listdir("/proc/self/fd")) - before) <= 2 * log.OPEN_SEGMENTS + 1  # and the listing itself


def test_the_log_of_a_session_that_was_removed_says_so(tmp_path):
    folder = tmp_path / "s1" / "log"
    with reader(str(folder)) as any_reader, pytest.raises(SessionNotFound, match="s1"):
        any_reader.read(0, 10, 10)


@pytest.mark.parametrize(("limit", "policy"), [(MIN_LIMIT - 1, "hold"), (MIN_LIMIT, "keep-all")])
def test_a_limit_that_cannot_be_is_refused(tmp_path, limit, policy):
    with pytest.raises(InvalidRequest):
        LogWriter(str(tmp_path), limit, policy)
