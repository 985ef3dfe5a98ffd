"""What runs first on another machine: sees to an intact agent in the user's cache and becomes it.

Its source is sent as text, as bytes are on a new link, so it stands alone. It answers with `line`s on stdout.
"""

from __future__ import annotations

import os
import sys


def line(nonce: str, facts: dict[str, object]) -> bytes:
    """What is said over a link before there are frames. In front of it there may be what login shells print."""
    import json

    return f"\n{nonce} {json.dumps(facts)}\n".encode()


def python_version() -> str:
    return "{}.{}.{}".format(*sys.version_info)


def cache_folder() -> str:
    """Where agents are kept: a folder of ours that nobody else can change, made if it is not there.

    Raises:
        OSError: It cannot be made, or is not safe.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    above = chosen if os.path.isabs(chosen) else os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(above, "cmdop")
    try:
        os.makedirs(above, mode=0o700, exist_ok=True)
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    for path, facts in ((above, os.stat(above)), (folder, os.lstat(folder))):
        mode = facts.st_mode
        theirs = facts.st_uid != os.getuid() and (path == folder or facts.st_uid != 0)
        writable = mode & 0o022 if path == folder else mode & 0o002 and not mode & 0o1000  # 1000: as /tmp is
        if theirs:
            raise PermissionError(1, f"it belongs to uid {facts.st_uid}, not to you (uid {os.getuid()})", path)
        if mode & 0o170000 != 0o040000:
            raise NotADirectoryError(20, "it is not a folder", path)
        if writable:
            raise PermissionError(1, f"its mode is {mode & 0o7777:o}: others could change it", path)
    return folder


def digest_of(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def look(path: str, digest: str) -> str:
    """How the agent at `path` is: `here`, `missing`, or `damaged`. Leaves word that it is in use."""
    try:
        os.utime(path)  # whoever sweeps out old ones sees that somebody came
        with open(path, "rb") as file:
            return "here" if digest_of(file.read()) == digest else "damaged"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "damaged"


def receive(size: int) -> bytes:
    """The next `size` bytes of stdin, and not one more; fewer when it ends."""
    parts = []
    while size:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def put(path: str, data: bytes, *, last: bool = True) -> None:
    """Write a private file that is there as a whole or not at all, whoever else does the same.

    Args:
        last: It shall also outlast a power cut.
    """
    fresh = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            if last:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(fresh, path)
    except OSError:
        os.unlink(fresh)
        raise


def login_shell() -> str:
    """The user's, where it can run a command."""
    import pwd

    try:
        shell = pwd.getpwuid(os.getuid()).pw_shell
    except KeyError:
        shell = ""
    refuses = os.path.basename(shell) in ("false", "nologin") or not os.access(shell, os.X_OK)
    return "/bin/sh" if refuses else shell


def become(agent: str, nonce: str, shell: str) -> None:
    """Go on as the agent; with a `shell`, by way of it as a login shell, so that the agent has its environment.

    The paths go in variables: there is no quoting that bash, dash, zsh, fish and tcsh agree on for any text.
    """
    import signal

    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is ignored stays so
        signal.signal(number, signal.SIG_DFL)
    if not shell:
        os.execv(sys.executable, [sys.executable, "-I", "-S", agent, "serve", nonce])
    env = {**os.environ, "CMDOP_AGENT_PYTHON": sys.executable, "CMDOP_AGENT_PATH": agent}
    command = f'exec "$CMDOP_AGENT_PYTHON" -I -S "$CMDOP_AGENT_PATH" serve {nonce}'
    os.execve(shell, ["-" + os.path.basename(shell), "-c", command], env)


def run(nonce: str, digest: str, size: int, login: bool) -> None:
    """See to the agent with that digest, of that size, and become it; or say what is in the way."""

    def say(**facts: object) -> None:
        rest = line(nonce, facts)
        while rest:
            rest = rest[os.write(1, rest) :]

    folder = "the cache folder"
    try:
        folder = cache_folder()
        path = os.path.join(folder, f"agent-{digest}.pyz")
        was = look(path, digest)
        say(was=was, cache=folder, python=python_version(), path=sys.executable)
        if was != "here":
            data = receive(size)
            if len(data) < size:
                return  # nobody is there any more
            if digest_of(data) != digest:
                return say(error="digest", got=digest_of(data))
            put(path, data)
    except OSError as error:
        where = os.fsdecode(error.filename or folder)
        return say(error="cache", path=where, text=error.strerror or str(error), errno=error.errno)
    shell = login_shell() if login else ""
    try:
        become(path, nonce, shell)
    except OSError as error:
        say(error="exec", path=shell or sys.executable, text=error.strerror or str(error))
