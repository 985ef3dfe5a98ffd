"""Every byte of a session, on disk, read back by offset. Knows no lines and no encodings.

A log is a folder of segments. A segment is two files named by the offset of its first byte: `<20 digits>.log` holds the
raw bytes (read them with `cat` or `less`), `<20 digits>.idx` one record for each read that made them:

    offset u64 | wall clock ns i64 | monotonic ms u32 | newlines before offset u64 | channel u8      (little endian)

The monotonic time counts from the start of the session; how often its 32 bits were full (after 49 days) is kept in the
upper six bits of the channel. Bytes are written before their record. The beginning (the head) is never dropped.
"""

from __future__ import annotations

import bisect
import errno
import os
import struct

from .errors import InvalidRequest, LogDropped, SessionNotFound

CHANNELS = ("stdout", "stderr", "tty")
RECORD = struct.Struct("<QqIQB")
MERGE_MS = 50  # reads of one channel that lie closer share a record; the patterns' `settle` may rely on it
RECORD_BYTES = 256 * 1024  # a record is ended here too, so that counting lines inside one stays cheap
HEAD_BYTES = 1024 * 1024  # what `drop-oldest` always keeps of the beginning
SEGMENT_BYTES = 64 * 1024 * 1024
SEGMENT_RECORDS = 256 * 1024  # 7 MiB of index: a program that writes byte by byte fills this first
MIN_LIMIT = 64 * 1024
DEFAULT_LIMIT = 2 * 1024**3
POLICIES = ("drop-oldest", "hold")
_MS_BITS, _CHANNEL_BITS = 32, 2
OPEN_SEGMENTS = 2  # that a reader keeps open: of a log that is followed from its beginning, the head and the newest


class Chunk:
    """Bytes of one channel, with their offset in the log and the time they were read.

    Attributes:
        offset: Of `data[0]` in the log.
        channel: `stdout`, `stderr` or `tty`.
        wall_ns: Nanoseconds since the epoch.
        mono_ms: The same moment in milliseconds since the session started; never goes back within a log.
        data: The bytes.
    """

    __slots__ = ("channel", "data", "mono_ms", "offset", "wall_ns")

    def __init__(self, offset: int, channel: str, wall_ns: int, mono_ms: int, data: bytes) -> None:
        self.offset, self.channel, self.wall_ns, self.mono_ms, self.data = offset, channel, wall_ns, mono_ms, data

    @property
    def end(self) -> int:
        """The offset just behind the last byte."""
        return self.offset + len(self.data)

    def _facts(self) -> tuple[int, str, int, int, bytes]:
        return (self.offset, self.channel, self.wall_ns, self.mono_ms, self.data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chunk) and self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash(self._facts())

    def __repr__(self) -> str:
        return f"<Chunk {self.channel} {self.offset}..{self.end}>"


def check_limit(limit: int, policy: str) -> None:
    """Raise `InvalidRequest` for a size limit (bytes) or a policy that cannot be."""
    if limit < MIN_LIMIT:
        raise InvalidRequest(f"a log needs at least {MIN_LIMIT // 1024} KiB, got {limit} bytes")
    if policy not in POLICIES:
        raise InvalidRequest(f"a full log can {' or '.join(POLICIES)}, not {policy!r}")


def head_size(limit: int) -> int:
    """Bytes of the beginning that are never dropped under a limit of `limit` bytes."""
    return min(HEAD_BYTES, limit // 4)


def segment_size(start: int, head: int, limit: int) -> int:
    """Bytes that the segment beginning at `start` may hold, in a log of at most `limit` bytes whose head has `head`."""
    if start < head:
        return head - start
    return min(SEGMENT_BYTES, (limit - head_size(limit)) // 8)


def _base(folder: str, start: int) -> str:
    return os.path.join(folder, f"{start:020d}")


class LogWriter:
    """Append bytes to a log. Only the supervisor has one.

    Args:
        folder: The log's directory; must exist and be empty.
        limit: Bytes to keep.
        policy: `drop-oldest` deletes whole segments behind the head; `hold` has `room` for no more than `limit`.
    """

    def __init__(self, folder: str, limit: int = DEFAULT_LIMIT, policy: str = "drop-oldest") -> None:
        check_limit(limit, policy)
        self.folder, self.limit, self.policy = folder, limit, policy
        self.end = 0  # bytes that are in the log together with their record
        self.newlines = 0
        self.dropped = (0, 0)  # the one gap there can be: from, to
        self._head = head_size(limit)  # bytes; settled once something was dropped behind it
        self._segments: list[tuple[int, int]] = []  # (start, bytes), oldest first, without the current one
        self._pending: list[tuple[int, int, int, bytes]] = []  # (channel, wall_ns, mono_ms, bytes) the disk refused
        self._unwritten_record = b""
        self._uncounted = 0, 0  # bytes and newlines that wait for that record
        self._record_channel, self._record_ms, self._record_end = -1, 0, 0
        self._data = self._index = -1
        self._start = 0
        self._capacity = self._records = 0

    @property
    def room(self) -> int | None:
        """Bytes that may be appended before a `hold` log is full; None when there is no such end."""
        if self.policy != "hold":
            return None
        return max(0, self.limit - self.kept)

    @property
    def kept(self) -> int:
        """Bytes that are in the log now."""
        return self.end - (self.dropped[1] - self.dropped[0])

    @property
    def waiting(self) -> int:
        """Bytes that wait for room on the disk."""
        return sum(len(data) for *_, data in self._pending) + (self._uncounted[0] if self._unwritten_record else 0)

    def append(self, channel: str, data: bytes, wall_ns: int, mono_ms: int) -> None:
        """Write `data`, or keep what the disk refuses until `retry`.

        Raises:
            OSError: The disk is full (ENOSPC, EDQUOT) or fails; nothing is lost, call `retry` later.
        """
        self._pending.append((CHANNELS.index(channel), wall_ns, mono_ms, data))
        self.retry()

    def retry(self) -> None:
        """Write what waits. Raises OSError as `append` does."""
        self._finish_record()
        while self._pending:
            channel, wall_ns, mono_ms, data = self._pending[0]
            if self._data < 0 or self.end - self._start >= self._capacity or self._records >= SEGMENT_RECORDS:
                self._open_segment()
            written = self._write_piece(channel, wall_ns, mono_ms, data)
            if written < len(data):
                self._pending[0] = (channel, wall_ns, mono_ms, data[written:])
            else:
                del self._pending[0]
            self._finish_record()

    def set_limit(self, limit: int, policy: str) -> None:
        """Keep `limit` bytes from now on; what is above, and may be dropped, goes when the next bytes come."""
        check_limit(limit, policy)
        self.limit, self.policy = limit, policy
        if not self.dropped[1]:
            self._head = head_size(limit)
        self._capacity = min(self._capacity, segment_size(self._start, self._head, limit))

    def close(self) -> None:
        for fd in (self._data, self._index):
            if fd >= 0:
                os.close(fd)
        self._data = self._index = -1

    def _write_piece(self, channel: int, wall_ns: int, mono_ms: int, data: bytes) -> int:
        merge = channel == self._record_channel and mono_ms - self._record_ms < MERGE_MS and self.end < self._record_end
        space = min(self._start + self._capacity, self._record_end if merge else self.end + RECORD_BYTES) - self.end
        piece = data if len(data) <= space else data[:space]
        # The place is given, not "append": after a write that failed half-way the next one covers the torn part.
        written = os.pwrite(self._data, piece, self.end - self._start)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        newlines = (piece if written == len(piece) else piece[:written]).count(b"\n")
        if merge:
            self.end += written
            self.newlines += newlines
            return written
        wraps, ms = mono_ms >> _MS_BITS, mono_ms & (1 << _MS_BITS) - 1
        self._unwritten_record = RECORD.pack(
            self.end, wall_ns, ms, self.newlines, channel | (wraps << _CHANNEL_BITS) & 255
        )
        self._uncounted = written, newlines
        self._record_channel, self._record_ms = channel, mono_ms
        self._record_end = self.end + RECORD_BYTES
        return written

    def _finish_record(self) -> None:
        if not self._unwritten_record:
            return
        place = self._records * RECORD.size
        written = os.pwrite(self._index, self._unwritten_record, place)
        if written < RECORD.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._records += 1
        self._unwritten_record = b""
        self.end += self._uncounted[0]
        self.newlines += self._uncounted[1]

    def _open_segment(self) -> None:
        if self._data >= 0:
            if self._start < self.end:
                self._segments.append((self._start, self.end - self._start))
            self.close()
        self._start, self._records, self._record_channel = self.end, 0, -1
        self._capacity = segment_size(self._start, self._head, self.limit)
        if self.policy == "drop-oldest":
            self._drop(self.limit - self._capacity)
        base = _base(self.folder, self._start)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        index = os.open(base + ".idx", flags, 0o600)
        try:
            self._data = os.open(base + ".log", flags, 0o600)
        except BaseException:
            os.close(index)
            raise
        self._index = index

    def _drop(self, keep: int) -> None:
        """Delete the oldest segments behind the head until at most `keep` bytes are left."""
        first = sum(start < self._head for start, _ in self._segments)
        while len(self._segments) > first and self.kept > keep:
            start, size = self._segments.pop(first)
            self.dropped = (self.dropped[0] or start, start + size)
            for suffix in (".idx", ".log"):  # without its index a segment is not there for a reader
                try:
                    os.unlink(_base(self.folder, start) + suffix)
                except FileNotFoundError:
                    pass


class LogReader:
    """Read a log by offset, while it is written or after. Has no state that a second reader would miss.

    Args:
        folder: The log's directory.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._starts: list[int] = []  # of the segments we know of
        self._open: dict[int, tuple[int, int]] = {}  # start -> (data fd, index fd), the last used at the end

    def read(self, offset: int, max_bytes: int, end: int) -> list[Chunk]:
        """Return the chunks from `offset` on: at most `max_bytes`, none of it behind `end`; `[]` when there is nothing.

        Args:
            end: How far the log goes, as its supervisor (or `stored_end`) says.

        Raises:
            LogDropped: `offset` lies in the part that was dropped at the size limit.
        """
        chunks: list[Chunk] = []
        while max_bytes > 0 and offset < end:
            try:
                piece = self._read_segment(offset, min(max_bytes, end - offset))
            except LogDropped:
                if chunks:
                    break
                raise
            if not piece:
                break
            chunks += piece
            max_bytes -= piece[-1].end - offset
            offset = piece[-1].end
        return chunks

    def newlines_before(self, offset: int) -> int:
        """Newline bytes in front of `offset`, dropped ones included; `offset` must be readable or the end."""
        if offset == 0:
            return 0
        start, data, index = self._segment_of(offset - 1)
        count = os.fstat(index).st_size // RECORD.size
        record = RECORD.unpack(os.pread(index, RECORD.size, self._find(index, count, offset - 1) * RECORD.size))
        return int(record[3]) + os.pread(data, offset - record[0], record[0] - start).count(b"\n")

    def stored_end(self) -> int:
        """How far the files go: the end of a log whose supervisor is gone."""
        self._list()
        for start in reversed(self._starts):
            data, index = self._files(start)
            if os.fstat(index).st_size >= RECORD.size:
                return start + os.fstat(data).st_size
        return 0

    def size_on_disk(self) -> int:
        """Bytes of all files of the log."""
        with os.scandir(self._folder) as entries:
            return sum(entry.stat().st_size for entry in entries)

    def close(self) -> None:
        for fds in self._open.values():
            for fd in fds:
                os.close(fd)
        self._open.clear()

    def _read_segment(self, offset: int, max_bytes: int) -> list[Chunk]:
        start, data, index = self._segment_of(offset)
        body = os.pread(data, max_bytes, offset - start)
        count = os.fstat(index).st_size // RECORD.size
        if not body or not count:
            return []
        number = self._find(index, count, offset)
        chunks: list[Chunk] = []
        stop = offset + len(body)
        base = offset
        while offset < stop:
            block = os.pread(index, min(count - number, 1024) * RECORD.size, number * RECORD.size)
            records = list(RECORD.iter_unpack(block))
            last = number + len(records) >= count
            for position, (_, wall_ns, ms, _, channel) in enumerate(records):
                if position + 1 < len(records):
                    until = records[position + 1][0]
                elif last:
                    until = stop
                else:
                    break
                until = min(until, stop)
                if until > offset:
                    piece = body[offset - base : until - base]
                    mono_ms = ms + (channel >> _CHANNEL_BITS << _MS_BITS)
                    name = CHANNELS[channel & (1 << _CHANNEL_BITS) - 1]
                    chunks.append(Chunk(offset, name, wall_ns, mono_ms, piece))
                    offset = until
                if offset >= stop:
                    break
            number += max(1, len(records) - 1)
        return chunks

    def _find(self, index: int, count: int, offset: int) -> int:
        """The number of the last record that begins at or before `offset`."""
        low, high = 0, count
        while high - low > 1:
            middle = (low + high) // 2
            if RECORD.unpack(os.pread(index, RECORD.size, middle * RECORD.size))[0] <= offset:
                low = middle
            else:
                high = middle
        return low

    def _segment_of(self, offset: int) -> tuple[int, int, int]:
        """(start, data fd, index fd) of the segment that holds `offset`."""
        for fresh in (False, True):  # a list from before may lack newer segments, and name dropped ones
            if fresh:
                self._list()
            number = bisect.bisect_right(self._starts, offset)
            if number:
                start = self._starts[number - 1]
                try:
                    data, index = self._files(start)
                except FileNotFoundError:
                    continue
                if offset - start < os.fstat(data).st_size:
                    return start, data, index
        after = bisect.bisect_right(self._starts, offset)
        raise LogDropped(offset, self._starts[after] if after < len(self._starts) else offset)

    def _files(self, start: int) -> tuple[int, int]:
        files = self._open.pop(start, None)
        if files is None:
            base = _base(self._folder, start)
            index = os.open(base + ".idx", os.O_RDONLY | os.O_CLOEXEC)
            try:
                files = os.open(base + ".log", os.O_RDONLY | os.O_CLOEXEC), index
            except BaseException:
                os.close(index)
                raise
        self._open[start] = files
        while len(self._open) > OPEN_SEGMENTS:
            for fd in self._open.pop(next(iter(self._open))):
                os.close(fd)
        return files

    def _list(self) -> None:
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            raise SessionNotFound(os.path.basename(os.path.dirname(self._folder))) from None
        self._starts = sorted(int(name[:-4]) for name in names if name.endswith(".idx"))
