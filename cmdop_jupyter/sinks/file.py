"""A session's log in a file here: its exact bytes, rotated by size; a restart goes on where the file ends.

Beside the file lies its sidecar, `<path>.cmdop`: how much of the log the file has, and how large it is with that. It is
replaced after each batch, so that a process killed at any moment leaves a file that is as the sidecar says, or longer,
and is cut back to that. A rotation is begun in the sidecar, and so is done again if it was not finished.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import errno
import fcntl
import functools
import itertools
import json
import os
import stat
import weakref
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..agent.log import Chunk
from ..errors import CmdopError, InvalidRequest
from ..reading import Start
from ..runtime import Worker, runtime
from ..stream import Stream
from .base import HasStream, Sink, TryAgain, stream_of

T = TypeVar("T")

# What may pass, so that another try is worth it.
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}

_sinks: weakref.WeakValueDictionary[str, Sink] = weakref.WeakValueDictionary()  # by path, of this process


def to_file(
    stream: Stream | HasStream,
    path: str | os.PathLike[str],
    *,
    channel: str | None = None,
    start: Start = None,
    max_bytes: int | None = None,
    keep: int = 5,
    flush_interval: float = 0.2,
) -> Sink:
    """Append the exact bytes of a session's log to a file on this machine, until the session ends.

    The same call again, in this process or a later one, goes on where the file ends: nothing is lost, nothing comes
    twice, also after SIGKILL. Nothing is synced to disk, so a power cut may take what the system had not written yet.
    What is dropped from the log is left out. A full disk is waited for.

    With `max_bytes`, a file that would pass it becomes `path.1`, what was `path.1` becomes `path.2`, and so on. The cut
    is behind a line where one ends in what is being written, else where the file is full; the files in a row are
    exactly the log. The file, its sidecar `path.cmdop` and the old ones belong to the sink: what others append is
    cut off or stops it, and a file that is removed or emptied is begun again with what comes next.

    Args:
        path: Its folder must exist. A symbolic link is followed; all files are beside the real one. New files have the
            permissions that the umask leaves, as any program's (a log may show secrets: `os.umask(0o077)`); after a
            rotation at most those of the file before.
        channel: `stdout`, `stderr` or `tty`; None: all, in the order they were read.
        start: Where to begin a new file; by default where the stream began.
        max_bytes: Of each file; None: no rotation.
        keep: Old files that are kept.
        flush_interval: Seconds between two writes of little.

    Raises:
        InvalidRequest: The file cannot be written, another sink writes to it, or it has something else in it, which
            is left as it is.
        Detached: The stream is not attached.
    """
    stream = stream_of(stream)
    session = stream.facts
    file = LogFile(path, session.id, session.name, channel=channel, max_bytes=max_bytes, keep=keep)
    before = _sinks.get(file.path)
    if before is not None and before.state not in ("running", "retrying") and not runtime().here():
        with contextlib.suppress(Exception):  # told already; here it only has to let go of the file
            before.result()
    with _telling(file.path, InvalidRequest):
        file.open()
    taker = FileTaker(file)
    try:
        sink = Sink(
            f"to_file {os.path.basename(file.path)}", stream, taker, start=start, channel=channel, pause=flush_interval
        )
    except BaseException:
        taker.release()
        raise
    _sinks[file.path] = sink
    return sink


class FileTaker:
    """Does a `LogFile`'s work on a thread of its own, one thing after the other, also when a call is cancelled."""

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._worker = Worker("cmdop-file")

    async def resume(self) -> int | None:
        return await self._do(self._file.resume)

    async def take(self, chunks: list[Chunk], end: int) -> None:
        await self._do(functools.partial(self._file.write, chunks, end))

    async def finish(self) -> None:
        """All is written."""

    async def close(self) -> None:
        """Let go of the file when what is under way is done."""
        try:
            await self._do(self._file.close)
        finally:
            self._worker.close()

    def release(self) -> None:
        """Close what was never used."""
        self._worker.close()
        self._file.close()

    async def _do(self, work: Callable[[], T]) -> T:
        def telling() -> T:
            with _telling(self._file.path, CmdopError):
                return work()

        return await self._worker.run(telling)


@dataclasses.dataclass(frozen=True)
class Known:
    """What a sidecar says.

    Attributes:
        session, name: Whose log it is: id, and name for people.
        channel: Which; None for all.
        offset: The log offset up to which the files have everything; None before the beginning is known.
        size: Bytes of the current file at that offset.
        files: Old files, the newest of which is number 1.
        rotating: The current file is complete, and may already be number 1.
        mode: Permissions of a new file, less what the umask takes.
    """

    session: str
    name: str
    channel: str | None
    offset: int | None = None
    size: int = 0
    files: int = 0
    rotating: bool = False
    mode: int = 0o666


class LogFile:
    """A file, its old ones and its sidecar. Its calls block, raise OSError, and are made one at a time.

    Killed anywhere in a call, a new object on the same path has the same log in its files after `open` and `resume`.

    Args:
        session: Id of the session.
        name: Its name, for people.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        session: str,
        name: str,
        *,
        channel: str | None = None,
        max_bytes: int | None = None,
        keep: int = 5,
    ) -> None:
        if max_bytes is not None and (not isinstance(max_bytes, int) or max_bytes < 1):
            raise InvalidRequest(
                f"max_bytes is a number of bytes, 1 or more, or None for no rotation, not {max_bytes!r}"
            )
        if not isinstance(keep, int) or keep < 0:
            raise InvalidRequest(f"keep is a number of old files, 0 or more, not {keep!r}")
        given = os.fspath(path)
        if not isinstance(given, str) or not given or "\0" in given:
            raise InvalidRequest(f"{given!r} is not the path of a file")
        self.path = os.path.realpath(os.path.expanduser(given))
        self._sidecar = f"{self.path}.cmdop"
        self._known = Known(session, name, channel)
        self._max_bytes, self._keep = max_bytes, keep
        self._lock = -1  # the sidecar, open and locked: whoever has it may write here

    def open(self) -> None:
        """Lock the file for us, and look whether it is ours. Changes nothing in it.

        Raises:
            InvalidRequest: It is not, or it cannot be a file of ours.
        """
        folder = os.path.dirname(self.path)
        if os.path.isdir(self.path):
            raise InvalidRequest(f"{self.path} is a folder; say the name of a file in it")
        if not os.path.isdir(folder):
            raise InvalidRequest(f"{self.path}: there is no folder {folder}; make it first")
        self._take_lock()
        text = os.pread(self._lock, 1024 * 1024, 0)
        try:
            self._claim(text)
        except BaseException:
            if not text:
                os.unlink(self._sidecar)
            self._let_go()
            raise

    def resume(self) -> int | None:
        """Mend what a killed process left; gives the log offset up to which all is here, None before the beginning."""
        known = self._known
        if known.rotating:
            self._finish_rotation()
        elif known.offset is not None and self._size() > known.size:
            os.truncate(self.path, known.size)
        return known.offset

    def write(self, chunks: list[Chunk], end: int) -> None:
        """Append the data of `chunks`, with which the files have the log up to `end`. The first time: none."""
        data = b"".join(chunk.data for chunk in chunks)
        ends = list(itertools.accumulate(len(chunk.data) for chunk in chunks))
        done = 0
        while True:
            fd, size = self._open_current()
            try:
                count = self._fitting(fd, size, data, done)
                _write(fd, memoryview(data)[done : done + count])
            finally:
                os.close(fd)
            done, size = done + count, size + count
            if done == len(data):
                self._record(offset=end, size=size)
                return
            index = bisect.bisect_right(ends, done)  # of the chunk with the next byte
            self._rotate(chunks[index].end - (ends[index] - done), size)

    def close(self) -> None:
        """Let others write here."""
        if self._lock >= 0:
            if self._known.offset is None:
                os.unlink(self._sidecar)  # it says nothing
            self._let_go()

    # -- whose it is

    def _take_lock(self) -> None:
        while True:
            fd = os.open(self._sidecar, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(fd, self._sidecar):  # else it was replaced meanwhile
                    self._lock = fd
                    return
            except BlockingIOError:
                whose = _read(os.pread(fd, 1024 * 1024, 0))
                of = f" of {whose.name}" if whose else ""
                raise InvalidRequest(
                    f"another sink{of} writes to {self.path}; close() that one first, or take another path"
                ) from None
            finally:
                if self._lock != fd:
                    os.close(fd)

    def _claim(self, text: bytes) -> None:
        remedy = "take another path, or remove it"
        wanted, found = self._known, _read(text)
        if text and found is None:
            raise InvalidRequest(f"{self._sidecar} is none of ours; {remedy}")
        ours = found is not None and found.session == wanted.session
        known = found if found is not None and ours else wanted
        if known.channel != wanted.channel:
            raise InvalidRequest(
                f"{self.path} has {known.channel or 'all channels'} of {known.name}, not {wanted.channel or 'all'}; "
                f"take another path"
            )
        size = self._size()
        if size and not ours:
            whose = f"of session {found.name} ({found.session})" if found else "of something else"
            raise InvalidRequest(f"{self.path} has {size} bytes {whose}, which are left alone; {remedy}")
        if 0 < size < known.size and not known.rotating:
            raise InvalidRequest(_changed(self.path, size, known.size))
        if self._max_bytes is not None:
            own = known.files + known.rotating
            for number in self._numbers():
                if own < number <= max(self._keep, known.files) + 1:
                    raise InvalidRequest(f"{self._old(number)} is in the way of a rotation; {remedy}")
        if os.path.exists(self.path):
            os.close(os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC))  # or it is told now
        self._known = known
        if not ours:
            self._record()

    def _let_go(self) -> None:
        os.close(self._lock)
        self._lock = -1

    # -- the current file

    def _size(self) -> int:
        """Bytes of the current file, 0 where there is none. Raises InvalidRequest when it is no file."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return 0
        if not stat.S_ISREG(found.st_mode):
            raise InvalidRequest(f"{self.path} is no regular file; take another path")
        return found.st_size

    def _open_current(self) -> tuple[int, int]:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_CREAT
        fd = os.open(self.path, flags, self._known.mode)
        try:
            size = os.fstat(fd).st_size
            if size and size != self._known.size:
                raise CmdopError(_changed(self.path, size, self._known.size))
            if size != self._known.size:  # removed, or emptied
                self._record(size=0)
        except BaseException:
            os.close(fd)
            raise
        return fd, size

    def _fitting(self, fd: int, size: int, data: bytes, start: int) -> int:
        if self._max_bytes is None:
            return len(data) - start
        whole_line = size > 0 and os.pread(fd, 1, size - 1) == b"\n"
        return fitting(data, start, max(0, self._max_bytes - size), whole_line=whole_line)

    # -- rotation

    def _old(self, number: int) -> str:
        return f"{self.path}.{number}" if number else self.path

    def _numbers(self) -> list[int]:
        """Which old files there are, ours or not."""
        folder, name = os.path.split(self.path)
        ends = (entry.removeprefix(f"{name}.") for entry in os.listdir(folder) if entry.startswith(f"{name}."))
        return sorted(int(end) for end in ends if end.isascii() and end.isdecimal() and end[0] != "0")

    def _rotate(self, offset: int, size: int) -> None:
        mode = stat.S_IMODE(os.stat(self.path).st_mode) & 0o666
        self._record(offset=offset, size=size, rotating=True, mode=mode)
        self._finish_rotation()

    def _finish_rotation(self) -> None:
        """Move each file up by one. Killed anywhere and done again, it goes on at the first number that is missing."""
        known = self._known
        if os.path.lexists(self.path):
            missing = next(number for number in itertools.count(1) if not os.path.lexists(self._old(number)))
            for number in reversed(range(missing)):
                os.rename(self._old(number), self._old(number + 1))
        for number in range(self._keep + 1, known.files + 2):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._old(number))
        self._record(size=0, files=min(known.files + 1, self._keep), rotating=False)

    # -- the sidecar

    def _record(self, **changes: int | bool) -> None:
        """Replace the sidecar at once by one that says so, which is locked as the one before."""
        known = dataclasses.replace(self._known, **changes)  # type: ignore[arg-type]  # each is of its field's type
        fresh = f"{self._sidecar}.new"
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(fd, memoryview(json.dumps(dataclasses.asdict(known)).encode()))
            os.replace(fresh, self._sidecar)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise
        self._let_go()
        self._lock, self._known = fd, known


def fitting(data: bytes, start: int, room: int, *, whole_line: bool) -> int:
    """How many bytes of `data` from `start` on still go into a file that has room for `room`.

    All that fit, else up to the last line end among those that do; without one none, if the file ends with a whole
    line, else as many as fit.
    """
    left = len(data) - start
    if left <= room:
        return left
    line = data.rfind(b"\n", start, start + room)
    if line >= 0:
        return line + 1 - start
    return 0 if whole_line else room


def _changed(path: str, size: int, known: int) -> str:
    return (
        f"{path} has {size} bytes where {known} were written: somebody else changed it, or power was cut. It is left "
        f"as it is; move it away, and the same call goes on in a new one"
    )


def _read(text: bytes) -> Known | None:
    try:
        return Known(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def _telling(path: str, error: type[CmdopError]) -> Iterator[None]:
    """Raise what the system says as `error`; what may pass as TryAgain."""
    try:
        yield
    except OSError as problem:
        if isinstance(problem, CmdopError):
            raise
        text = f"{problem.filename or path}: {problem.strerror or problem}"
        if problem.errno in PASSING:
            raise TryAgain(text) from problem
        raise error(f"{text}; {path} and its neighbours have to be writable, or take another path") from problem
