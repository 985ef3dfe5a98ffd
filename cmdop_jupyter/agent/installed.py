"""The agent's own files on a machine it was sent to: what it says of itself, unpacked for supervisors, swept when old.

In the cache lie `agent-<digest>.pyz`, which was sent; `agent-<digest>/`, made from it; and `agent-<digest>.lock`, of
which whoever runs from the two holds a shared lock. When the agent runs from elsewhere, all this does nothing.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

from .loader import digest_of, line, put, python_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

KEEP_SECONDS = 30 * 24 * 3600.0  # versions that nobody came for in so long are swept out
LEFTOVER_SECONDS = 24 * 3600.0  # as is what a write that was cut short has left
DIGITS = frozenset("0123456789abcdef")
HANDED_ON = ("CMDOP_AGENT_PYTHON", "CMDOP_AGENT_PATH")  # from the loader to a login shell, not to sessions
Stamp = tuple[int, int, int]  # inode, size, time of the last change


def version_of(path: str) -> str:
    """What all files of an agent's version begin with, `…/agent-<digest>`; `""` for anything else."""
    folder, name = os.path.split(path)
    stem = name.partition(".")[0]
    known = stem.startswith("agent-") and len(stem) == 70 and DIGITS.issuperset(stem[6:])
    return os.path.join(folder, stem) if known else ""


def hello(nonce: str) -> bytes:
    """What an agent says first over a link. Also takes out of the environment what only the loader needed there."""
    import pwd
    import socket

    for name in HANDED_ON:
        os.environ.pop(name, None)
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    facts: dict[str, object] = {
        "agent": _files.digest,
        "python": python_version(),
        "path": sys.executable,
        "platform": f"{sys.platform} {os.uname().machine}",
        "hostname": socket.gethostname(),
        "user": user,
        "pid": os.getpid(),
        "cache": os.path.dirname(_files.home) if _files.version else "",
    }
    return line(nonce, facts)


class Files:
    """The files of one running agent.

    Args:
        home: The folder or zipapp that it runs from.
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self.version = version_of(home)
        self._zipped = os.path.isfile(home)
        self._data = b""
        self._seen: dict[str, Stamp] = {}  # the unpacked files, as they were when they were right
        self._lock = -1

    @property
    def digest(self) -> str:
        """Of the zipapp that we run from; `""` in a folder."""
        return digest_of(self._zip()) if self._zipped else ""

    def _zip(self) -> bytes:
        if not self._data:
            with open(self.home, "rb") as file:
                self._data = file.read()
        return self._data

    def hold(self) -> bool:
        """Keep these files from being swept out until this process ends; False where nothing could be locked."""
        if self._zipped:
            self._zip()  # supervisors can be started even when the cache is wiped under us
        if not self.version or self._lock >= 0:
            return self._lock >= 0
        try:
            self._lock = os.open(self.version + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # a read-only file system; NFS without locks; a sweeper in this moment, which then misses us
            if self._lock >= 0:
                os.close(self._lock)
            self._lock = -1
        return self._lock >= 0

    def unpacked(self) -> str:
        """Where supervisors are started from: a folder, where Python keeps what it compiled; else the zipapp."""
        if not self._zipped or not self.version:
            return self.home
        if not self._seen or _stamps(self.version, self._seen) != self._seen:
            try:
                self._seen = unpack(self._zip(), self.version)
            except OSError:  # no space, or read-only
                return self.home
        return self.version


def unpack(data: bytes, folder: str) -> dict[str, Stamp]:
    """Make `folder` hold what the zip `data` holds. Files appear as a whole, so others may do the same meanwhile.

    Raises:
        OSError: It cannot be written.
    """
    import io
    import shutil
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sources = {name: archive.read(name) for name in archive.namelist()}
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.utime(folder)
    changed = False
    for name, source in sources.items():
        path = os.path.join(folder, name)
        if _read(path) != source:
            put(path, source, last=False)
            changed = True
    if changed:  # what was compiled goes by size and second of the source: too weak when that was put right
        shutil.rmtree(os.path.join(folder, "__pycache__"), ignore_errors=True)
    return _stamps(folder, sources)


def prune(
    folder: str | None = None, *, mine: str | None = None, now: float | None = None, keep_seconds: float = KEEP_SECONDS
) -> list[str]:
    """Sweep out agents nobody came for in `keep_seconds`, unless somebody runs from them; return their names.

    Args:
        folder: The cache; by default the one that we run from, if any.
        mine: The version to keep in any case; by default the one that we run from.
        now: The time; by default the clock's.
    """
    folder = os.path.dirname(_files.version) if folder is None else folder
    mine = _files.version if mine is None else mine
    now = time.time() if now is None else now
    entries = {}
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        try:
            entries[name] = os.stat(os.path.join(folder, name)).st_mtime
        except OSError:  # another sweeps, too
            continue
    for name in leftovers(entries, now):
        _unlink(os.path.join(folder, name))
    swept = []
    for name in idle(entries, now, keep_seconds):
        version = os.path.join(folder, name)
        if version == mine:
            continue
        try:
            gone = _sweep(version, now - keep_seconds)
        except BlockingIOError:  # somebody runs from it
            continue
        except OSError:  # no locks here (NFS without them): then nobody knows who runs from what
            break
        if gone:
            swept.append(name)
    return swept


def _sweep(version: str, before: float) -> bool:
    """Remove one version, unless it is used. Raises OSError when that cannot be known."""
    import shutil

    lock = os.open(version + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if any(changed > before * 1e9 for _, _, changed in _stamps("", (version + ".pyz", version)).values()):
            return False  # somebody came just now
        for path in (version + ".pyz", version + ".lock"):
            _unlink(path)
        shutil.rmtree(version, ignore_errors=True)
        return True
    finally:
        os.close(lock)


def idle(entries: dict[str, float], now: float, keep_seconds: float) -> list[str]:
    """Names of the versions of which no file is newer than `keep_seconds`, from names and times of all files."""
    newest: dict[str, float] = {}
    for name, changed in entries.items():
        version = version_of(name)
        if version and not name.endswith(".new"):
            newest[version] = max(changed, newest.get(version, 0))
    return sorted(version for version, changed in newest.items() if now - changed > keep_seconds)


def leftovers(entries: dict[str, float], now: float) -> list[str]:
    """Names of what writes that were cut short have left."""
    old = (name for name, changed in entries.items() if now - changed > LEFTOVER_SECONDS)
    return sorted(name for name in old if version_of(name) and name.endswith(".new"))


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _stamps(folder: str, names: Iterable[str]) -> dict[str, Stamp]:
    """What changes when a file does, of those that are there."""
    stamps = {}
    for name in names:
        try:
            facts = os.stat(os.path.join(folder, name))
        except OSError:
            continue
        stamps[name] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return stamps


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # gone, or not to be removed
        pass


_files = Files(os.path.dirname(os.path.abspath(__file__)))
hold, unpacked = _files.hold, _files.unpacked
