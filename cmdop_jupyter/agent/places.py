"""Where sessions lie: folders and files for us alone, and sockets that can be reached however long their path is."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator

from .errors import StoreRefused

LONGEST_SOCKET_PATH = 100  # bytes; sockaddr_un has 104 to 108


def default_root() -> str:
    """Where sessions are kept unless somebody says otherwise."""
    chosen = os.environ.get("CMDOP_STATE_DIR")
    if chosen:
        return chosen
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "cmdop", socket.gethostname())


def make_private(folder: str) -> None:
    """Make `folder` (0700), or refuse one that somebody else could change or read."""
    try:
        os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        for path in (os.path.dirname(folder), folder):
            facts = os.lstat(path)
            if facts.st_uid != os.getuid():
                raise StoreRefused(path, f"it belongs to uid {facts.st_uid}, not to you")
            if path == folder and (not stat.S_ISDIR(facts.st_mode) or stat.S_IMODE(facts.st_mode) & 0o077):
                raise StoreRefused(path, f"its mode is {stat.S_IMODE(facts.st_mode):o}, it must be 700")
            if path != folder and stat.S_IMODE(facts.st_mode) & 0o022:
                raise StoreRefused(path, f"its mode is {stat.S_IMODE(facts.st_mode):o}: others could change it")
    except StoreRefused:
        raise
    except OSError as error:
        raise StoreRefused(folder, error.strerror or str(error)) from None


def write_private(path: str, data: bytes) -> None:
    """Write a new file that only we can read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)


@contextlib.contextmanager
def reachable(place: str) -> Iterator[str]:
    """A path of a socket that fits into a socket address."""
    if len(os.fsencode(place)) <= LONGEST_SOCKET_PATH or not os.path.isdir("/proc/self/fd"):
        yield place
        return
    fd = os.open(os.path.dirname(place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{os.path.basename(place)}"
    finally:
        os.close(fd)


def listen(folder: str) -> tuple[socket.socket, str]:
    """A listening socket, and where: in the session's folder, or in the temp folder where that one refuses sockets."""
    place = os.path.join(folder, "ctl")
    try:
        return _listen_at(place), place
    except OSError:
        place = os.path.join(tempfile.mkdtemp(prefix="cmdop-"), "ctl")
    try:
        return _listen_at(place), place
    except OSError:
        drop_socket(place, folder)
        raise


def _listen_at(place: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with reachable(place) as path:
            listener.bind(path)
        listener.listen(64)
    except BaseException:
        listener.close()
        raise
    return listener


def drop_socket(place: str, folder: str) -> None:
    """Remove the folder of a socket that is not in its session's own."""
    if os.path.dirname(place) != folder:
        shutil.rmtree(os.path.dirname(place), ignore_errors=True)
