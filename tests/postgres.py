"""A real PostgreSQL server on a private socket, with a folder and databases of its own."""

from __future__ import annotations

import itertools
import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
import psycopg

INSTALL = "apt-get install -y --no-install-recommends postgresql"
SETTINGS = {"listen_addresses": "", "fsync": "off", "full_page_writes": "off", "shared_buffers": "16MB"}
READY = "ready to accept connections"
READY_SECONDS = 60
USER, PASSWORD = "cmdop", "not/this:one"
RUN_MARK = "CMDOP_TEST_RUN"  # by which conftest ends it, at the latest with the run; it may serve several tests
GUARDED = "guarded"  # a user who needs PASSWORD


def program(name: str) -> str:
    """The newest of a PostgreSQL program; Debian keeps them out of PATH."""
    versions = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if (folder / name).exists()]
    newest = sorted(versions, key=lambda folder: float(folder.parent.name))[-1:]
    found = shutil.which(name, path=os.pathsep.join([*map(str, newest), os.environ.get("PATH", os.defpath)]))
    if not found:
        raise FileNotFoundError(f"the tests need PostgreSQL's {name}; install it: {INSTALL}")
    return found


class Postgres:
    """A server that runs between `start` and `kill`, or within `with`. Nobody but this machine's users reaches it.

    PostgreSQL refuses to run as root; then its own system user runs it, whom its package makes.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cmdop-pg-"))
        self._data = self.folder / "data"
        self._numbers = itertools.count(1)
        environment = {name: value for name, value in os.environ.items() if name in ("PATH", RUN_MARK)}
        self._as: dict[str, Any] = {"cwd": "/", "stdin": subprocess.DEVNULL, "env": environment}
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Postgres:
        try:
            self._run("initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
            rules = self._data / "pg_hba.conf"
            rules.write_text(f"local all {GUARDED} scram-sha-256\n{rules.read_text()}")
            self.start()
            self.execute(f"CREATE USER {GUARDED} PASSWORD '{PASSWORD}'")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        """Serve; returns once it does."""
        options = [f"--{name}={value}" for name, value in SETTINGS.items()]
        words = [program("postgres"), "-D", self._data, "-k", self.folder, *options]
        self._server = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, errors="replace", **self._as)
        said: list[str] = []
        ready = threading.Event()
        threading.Thread(target=_listen_to, args=(self._server, said, ready), daemon=True).start()
        if not ready.wait(READY_SECONDS) or self._server.poll() is not None:
            raise RuntimeError(f"postgres does not start: {''.join(said)}")

    def kill(self) -> None:
        """Kill all of it at once, as a power failure would."""
        if self._server is None:
            return
        self._server.send_signal(signal.SIGSTOP)  # so that it starts no more of them
        others = [os.pidfd_open(child.pid) for child in psutil.Process(self._server.pid).children(recursive=True)]
        for handle in others:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        self._server.kill()
        self._server.wait()
        for handle in others:  # readable when its process has ended
            select.select([handle], [], [], READY_SECONDS)
            os.close(handle)
        self._server = None

    def url(self, name: str, user: str = USER, password: str = "") -> str:
        """The URL of a database, which need not be there."""
        secret = ":" + password.replace("/", "%2F").replace(":", "%3A") if password else ""
        return f"postgresql+psycopg://{user}{secret}@/{name}?host={self.folder}"

    def database(self) -> str:
        """The URL of a new database."""
        name = f"test{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str) -> None:
        with psycopg.connect(host=str(self.folder), user=USER, dbname="postgres", autocommit=True) as connection:
            connection.execute(statement)

    def _run(self, name: str, *words: object) -> None:
        command = [program(name), *map(str, words)]
        said = self.folder / "said"
        with said.open("w") as output:
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False, **self._as)
        if done.returncode:
            raise RuntimeError(f"{name} ended with {done.returncode}: {said.read_text()}")


def _listen_to(server: subprocess.Popen[str], said: list[str], ready: threading.Event) -> None:
    """Keep what a server says, until it is gone, and tell when it is ready or gone."""
    with server.stderr as lines:
        for line in lines:
            said.append(line)
            if READY in line:
                ready.set()
    ready.set()
