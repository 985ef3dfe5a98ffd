"""The directory of sessions: starts them, finds them, reads them, sweeps out old ones. It is the only registry."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from . import environment, status, tree
from .errors import CmdopError, InvalidRequest, NameInUse, NotSupported, SessionNotFound, StartFailed
from .frames import FrameDecoder, encode
from .log import DEFAULT_LIMIT, POLICIES, LogReader, check_limit
from .places import default_root as default_root
from .places import drop_socket, listen, make_private, reachable, write_private
from .stopping import LOOK_EVERY, Stopping

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEEP_SECONDS = 14 * 24 * 3600.0  # ended sessions older than this are swept out
KEEP_BYTES = 10 * 1024**3  # and the oldest ended ones, while all together are above this
ANSWER_SECONDS = 5.0  # a supervisor that says nothing for so long is not asked again
SWEEP_EVERY = 3600.0  # seconds between two sweeps that starts do by themselves
TITLE = 200  # characters of the command's first line that are kept for people to recognise it


class SessionStore:
    """Sessions of this user on this machine. Several stores, also in several processes, may share a directory.

    Args:
        root: The directory; by default `$CMDOP_STATE_DIR`, else `$XDG_STATE_HOME/cmdop/<hostname>`.
        keep_seconds: Age at which an ended session is swept out.
        keep_bytes: Size of all sessions above which the oldest ended ones are swept out.

    Raises:
        StoreRefused: The directory is not ours alone, or cannot be made.
        NotSupported: This system has no terminals and Unix sockets.
    """

    def __init__(
        self, root: str | None = None, *, keep_seconds: float = KEEP_SECONDS, keep_bytes: int = KEEP_BYTES
    ) -> None:
        if os.name != "posix":
            raise NotSupported(
                "sessions on this machine need Linux or macOS (on Windows: WSL); other machines can be reached"
            )
        self.root = os.path.realpath(root or default_root())
        self.folder = os.path.join(self.root, "sessions")
        self._pagers = os.path.join(self.root, "pagers")
        self.keep_seconds, self.keep_bytes = keep_seconds, keep_bytes
        self._swept = -SWEEP_EVERY
        make_private(self.folder)

    # -- starting

    def start(self, asked: dict[str, object]) -> dict[str, object]:
        """Start a session and return its facts; asked again with the same id, return what the first call started.

        Args:
            asked: `id`, `name`; `script` (text) or `argv`, neither for a login shell; and, with sound defaults,
                `shell`, `tty`, `input`, `cwd`, `env`, `cols`, `rows`, `max_log`, `log_policy`, `ephemeral` (seconds),
                `owner`, `keep_script`, `free_name` (take the next free name instead of refusing one in use), `title`,
                `detach` (words in front of the supervisor's command, such as `systemd-run --user --scope`).

        Raises:
            InvalidRequest: Something makes no sense.
            NameInUse: A live session has that name.
            StartFailed: The command cannot be run.
        """
        facts, script, env = self._plan(asked)
        folder = self._path(str(facts["id"]))
        with self._locked():
            if os.path.exists(os.path.join(folder, "session.json")):
                first = True
            else:
                first = False
                shutil.rmtree(folder, ignore_errors=True)  # of a start that died half-way
                facts["name"] = self._claim_name(str(facts["name"]), bool(asked.get("free_name")))
                try:
                    listener = self._make(folder, facts, script)
                except OSError as error:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise StartFailed(f"{error.strerror or error} ({error.filename or folder})") from None
        if first:
            return self._started_before(str(facts["id"]))
        try:
            with listener:
                self._spawn(folder, listener, env, _words(asked, "detach"))
            self._check_alive(folder)
        except BaseException:
            self._forget(folder)
            raise
        if time.monotonic() - self._swept > SWEEP_EVERY:
            self._swept = time.monotonic()
            self.prune()
        return facts

    def _plan(self, asked: dict[str, object]) -> tuple[dict[str, object], bytes | None, dict[str, str]]:
        """Check what was asked; return the session's facts, its script, and its environment."""
        session_id, name = str(asked.get("id")), str(asked.get("name"))
        check_name("session id", session_id)
        check_name("name", name)
        script = asked.get("script")
        argv = asked.get("argv")
        tty = str(asked.get("tty") or ("split" if script is not None or argv else "full"))
        if tty not in environment.MODES:
            raise InvalidRequest(f"a terminal mode is one of {', '.join(environment.MODES)}, not {tty!r}")
        given = asked.get("env") or {}
        if not isinstance(given, dict):
            raise InvalidRequest("env must be a mapping")
        for key in given:
            if not key or "=" in str(key) or "\0" in f"{key}{given[key]}":
                raise InvalidRequest(f"{key!r} cannot be set: a name has no `=`, and neither it nor a value has a NUL")
        env = environment.environment({str(key): str(value) for key, value in given.items()}, tty, self._pagers)
        shell = str(asked["shell"]) if asked.get("shell") else None
        try:
            cwd = os.path.abspath(os.path.expanduser(str(asked.get("cwd") or os.curdir)))
        except FileNotFoundError:
            raise InvalidRequest("the folder we are in is gone: say in which one to run it (--cwd)") from None
        max_log = _number(asked, "max_log", DEFAULT_LIMIT, 2**63)
        policy = str(asked.get("log_policy") or POLICIES[0])
        check_limit(max_log, policy)
        body = None
        if script is not None:
            body = str(script).encode("utf-8", "surrogateescape")
            words = environment.script_argv(body, os.path.join(self._path(session_id), "script"), shell, env)
        elif isinstance(argv, list) and argv:
            words = [str(word) for word in argv]
        else:
            words = environment.login_argv(shell, env)
        if "\0" in cwd or any("\0" in word for word in words):
            raise InvalidRequest("a folder, or a word of a command, cannot have a NUL in it")
        title = str(asked.get("title") or first_line(str(script) if script is not None else " ".join(words)))
        facts: dict[str, object] = {
            "id": session_id,
            "name": name,
            "kind": "command" if body is not None or argv else "shell",
            "title": title[:TITLE],
            "argv": words,
            "tty": tty,
            "input": bool(asked.get("input", True)),
            "cwd": cwd,
            "env_names": sorted(given),
            "cols": _number(asked, "cols", environment.COLUMNS, 65535),
            "rows": _number(asked, "rows", environment.ROWS, 65535),
            "max_log": max_log,
            "log_policy": policy,
            "ephemeral": _seconds(asked, "ephemeral"),
            "owner": asked.get("owner"),
            "keep_script": bool(asked.get("keep_script")),
            "digest": asked.get("digest"),
            "created_ns": time.time_ns(),
            "host": socket.gethostname(),
        }
        return facts, body, env

    def _claim_name(self, name: str, free_name: bool) -> str:
        having: dict[str, list[str]] = {}  # who has or had a name
        for entry in os.listdir(self.folder):
            with contextlib.suppress(SessionNotFound):
                having.setdefault(str(self.facts(entry)["name"]), []).append(entry)
        wanted, number = name, 2
        while True:
            live = [entry for entry in having.get(wanted, ()) if self._is_live(entry)]
            if not live:
                return wanted
            if not free_name:
                raise NameInUse(wanted, live[0])
            wanted, number = f"{name[:60]}-{number}", number + 1

    def _is_live(self, entry: str) -> bool:
        with contextlib.suppress(SessionNotFound):  # it is being removed
            return self.status(entry)["state"] in status.LIVE
        return False

    def _make(self, folder: str, facts: dict[str, object], script: bytes | None) -> socket.socket:
        """Put everything a supervisor needs on disk; the socket already listens, so the session counts as alive."""
        os.mkdir(folder, 0o700)
        os.mkdir(os.path.join(folder, "log"), 0o700)
        environment.write_pagers(self._pagers)
        listener, facts["socket"] = listen(folder)
        try:
            if script is not None:
                write_private(os.path.join(folder, "script"), script)
            write_private(os.path.join(folder, "status"), b"")
            fd = os.open(os.path.join(folder, "status"), os.O_WRONLY)
            try:
                status.write_page(fd, {"state": status.STARTING, "seq": 0, "end": 0})
            finally:
                os.close(fd)
            write_private(os.path.join(folder, "session.json"), json.dumps(facts, indent=1).encode())
        except BaseException:
            listener.close()
            drop_socket(str(facts["socket"]), folder)
            raise
        return listener

    def _spawn(self, folder: str, listener: socket.socket, env: dict[str, str], detach: list[str]) -> None:
        from .installed import unpacked

        said, saying = os.pipe()
        fds = (listener.fileno(), saying)
        command = [*detach, sys.executable, "-I", "-S", unpacked(), "supervise", folder, *map(str, fds)]
        try:
            with open(os.path.join(folder, "supervisor.err"), "wb") as errors:
                starter = subprocess.Popen(
                    command,
                    env=env,
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                )
        except OSError as error:
            os.close(said)
            raise StartFailed(f"no supervisor: {error}") from None
        finally:
            os.close(saying)
        with open(said, "rb") as pipe:
            problem = pipe.read().decode("utf-8", "replace")
        starter.wait()
        if problem:
            raise StartFailed(problem)

    def _check_alive(self, folder: str) -> None:
        """Raise StartFailed if the supervisor is gone already, and not because the session has ended."""
        with contextlib.suppress(OSError):
            self.connect(os.path.basename(folder)).close()
            return
        if self._page(folder)["state"] != status.ENDED:
            with open(os.path.join(folder, "supervisor.err"), "rb") as errors:
                last = errors.read()[-2000:].decode("utf-8", "replace").strip().splitlines()
            raise StartFailed(f"its supervisor failed: {last[-1] if last else 'without a word'}")

    def _started_before(self, session_id: str) -> dict[str, object]:
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                facts = self.facts(session_id)
                state = self.status(session_id)["state"]
            except SessionNotFound:
                raise StartFailed("the first call could not start it") from None
            if state == status.LOST:
                raise StartFailed("the first call could not start it")
            if state != status.STARTING or time.monotonic() > deadline:
                return facts
            time.sleep(0.01)

    def _forget(self, folder: str) -> None:
        with contextlib.suppress(SessionNotFound):
            drop_socket(str(self.facts(os.path.basename(folder))["socket"]), folder)
        shutil.rmtree(folder, ignore_errors=True)

    # -- finding

    def sessions(self) -> list[dict[str, object]]:
        """Facts and status of all sessions, oldest first."""
        found = []
        for entry in os.listdir(self.folder):
            with contextlib.suppress(SessionNotFound):
                found.append({**self.facts(entry), **self.status(entry)})
        return sorted(found, key=lambda facts: int(str(facts["created_ns"])))

    def facts(self, session_id: str) -> dict[str, object]:
        """What was known at its start. Raises SessionNotFound."""
        try:
            with open(os.path.join(self._path(session_id), "session.json"), "rb") as file:
                facts = json.load(file)
        except (OSError, ValueError):
            raise SessionNotFound(session_id) from None
        return dict(facts)

    def find(self, wanted: str) -> dict[str, object]:
        """Facts and status of the session with that id, or the live one of that name, or the newest of that name.

        Raises:
            SessionNotFound: None has; carries the nearest names.
        """
        everyone = self.sessions()
        exact = [facts for facts in everyone if facts["id"] == wanted]
        named = [facts for facts in everyone if facts["name"] == wanted]
        live = [facts for facts in named if facts["state"] in status.LIVE]
        if not (exact or named):
            names = sorted({str(facts["name"]) for facts in everyone})
            raise SessionNotFound(wanted, difflib.get_close_matches(wanted, names, 3))
        return (exact or live or named)[-1]

    def status(self, session_id: str) -> dict[str, object]:
        """The session's status as its supervisor says it, else as its page does. Raises SessionNotFound."""
        folder = self._path(session_id)
        page = self._page(folder)
        if page["state"] != status.ENDED:
            try:
                with self.connect(session_id) as sock:
                    return self.ask(sock, {"op": "status", "id": 1})
            except (ConnectionError, FileNotFoundError):
                page = self._page(folder)  # it may have ended just now
                if page["state"] != status.ENDED:
                    page["state"] = status.LOST
                    with contextlib.closing(self.reader(session_id)) as reader:
                        page["end"] = reader.stored_end()
                        page["newlines"] = reader.newlines_before(int(str(page["end"])))
            except OSError:  # it is there, and too busy to answer: what it wrote last will do
                pass
        page["wall_ns"] = time.time_ns()
        return page

    def connect(self, session_id: str) -> socket.socket:
        """A connection to the session's supervisor. Raises OSError when there is none: it ended, or is lost."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(ANSWER_SECONDS)
        try:
            with reachable(str(self.facts(session_id)["socket"])) as place:
                sock.connect(place)
        except BaseException:
            sock.close()
            raise
        return sock

    def reader(self, session_id: str) -> LogReader:
        """A reader of its log. Raises SessionNotFound."""
        folder = os.path.join(self._path(session_id), "log")
        if not os.path.isdir(folder):
            raise SessionNotFound(session_id)
        return LogReader(folder)

    def log_folder(self, session_id: str) -> str:
        """Where its log lies; read it with `cat` or `less`."""
        return os.path.join(self._path(session_id), "log")

    # -- ending

    def stop_lost(self, session_id: str, grace: float) -> dict[str, object]:
        """End what is left of a session whose supervisor is gone; return the report as `stop` does. Takes seconds."""
        stopping = Stopping(str(self.facts(session_id)["kind"]), grace, time.monotonic())
        while True:
            alive = list(tree.members(session_id).values())
            name = stopping.step(time.monotonic(), alive)
            for process in alive if name else ():
                why = tree.send(process, tree.signal_number(name))
                if why:
                    stopping.refused(process, why)
            if stopping.report is not None:
                return stopping.report
            time.sleep(LOOK_EVERY)

    def remove(self, session_id: str) -> None:
        """Delete a session that has ended, its log with it.

        Raises:
            InvalidRequest: It is still alive.
        """
        facts, state = self.facts(session_id), self.status(session_id)["state"]
        if state in status.LIVE:
            raise InvalidRequest(f"{facts['name']} is {state}: stop it first (`%cmdop stop {facts['name']}`)")
        self._forget(self._path(session_id))

    def prune(self) -> list[str]:
        """Sweep out ended sessions by age, then by total size, oldest first; return their ids."""
        removed, total = [], 0
        ended = []
        for facts in self.sessions():
            with (
                contextlib.suppress(OSError, SessionNotFound),
                contextlib.closing(self.reader(str(facts["id"]))) as reader,
            ):
                size = reader.size_on_disk()
                total += size
                if facts["state"] not in status.LIVE:
                    ended.append((self._last_change_ns(str(facts["id"])), size, str(facts["id"])))
        for ended_ns, size, session_id in sorted(ended):
            if time.time_ns() - ended_ns > self.keep_seconds * 1e9 or total > self.keep_bytes:
                self._forget(self._path(session_id))
                removed.append(session_id)
                total -= size
        for entry in os.listdir(self.folder):
            folder = os.path.join(self.folder, entry)
            with contextlib.suppress(OSError):
                old = time.time() - os.stat(folder).st_mtime > SWEEP_EVERY
                if old and not os.path.exists(os.path.join(folder, "session.json")):
                    shutil.rmtree(folder)  # of a start that died half-way
        return removed

    # -- helpers

    def _path(self, session_id: str) -> str:
        if not NAME.fullmatch(session_id):
            raise SessionNotFound(session_id)
        return os.path.join(self.folder, session_id)

    def _page(self, folder: str) -> dict[str, object]:
        try:
            return status.read_page(os.path.join(folder, "status"))
        except (OSError, ValueError):
            raise SessionNotFound(os.path.basename(folder)) from None

    def _last_change_ns(self, session_id: str) -> int:
        """When its status was written last: at its end, unless its supervisor was killed."""
        return os.stat(os.path.join(self._path(session_id), "status")).st_mtime_ns

    def ask(self, sock: socket.socket, header: dict[str, object]) -> dict[str, object]:
        """Send one request over a `connect`ed socket and return its answer."""
        sock.sendall(encode(header))
        decoder = FrameDecoder()
        while True:
            data = sock.recv(65536)
            if not data:
                raise ConnectionError("the supervisor went away")
            for answer, _ in decoder.feed(data):
                answer.pop("id", None)
                return answer

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        import fcntl

        fd = os.open(os.path.join(self.root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def check_name(what: str, name: str) -> None:
    """Raise InvalidRequest unless `name` can be a session's id or name."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} cannot be a {what}: letters, digits, `.`, `_`, `-`, at most 64, not a sign first"
        )


def first_line(script: str) -> str:
    """The first line of a script that does something, for people to recognise it by."""
    lines = [line.strip() for line in script.splitlines()]
    return next((line for line in lines if line and not line.startswith("#")), lines[0] if lines else "")


def raise_answer(answer: dict[str, object]) -> dict[str, object]:
    """Return an answer of a supervisor, or raise the error that it is."""
    if "error" not in answer:
        return answer
    known = {kind.__name__: kind for kind in _all_kinds(CmdopError)}
    args = answer.get("args")
    words = args if isinstance(args, list) else []
    raise known.get(str(answer["error"]), InvalidRequest)(*words)


def _all_kinds(kind: type[CmdopError]) -> list[type[CmdopError]]:
    kinds = [kind]
    for child in kind.__subclasses__():
        kinds += _all_kinds(child)
    return kinds


def _words(asked: dict[str, object], key: str) -> list[str]:
    words = asked.get(key) or []
    if not isinstance(words, (list, tuple)):
        raise InvalidRequest(f"{key} is a list of words, not {words!r}")
    return [str(word) for word in words]


def _number(asked: dict[str, object], key: str, otherwise: int, most: int) -> int:
    try:
        number = otherwise if asked.get(key) is None else int(str(asked[key]))
    except ValueError:
        number = 0
    if not 0 < number <= most:
        raise InvalidRequest(f"{key} is a whole number from 1 to {most}, not {asked[key]!r}")
    return number


def _seconds(asked: dict[str, object], key: str) -> float | None:
    if not asked.get(key):
        return None
    try:
        seconds = float(str(asked[key]))
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise InvalidRequest(f"{key} is seconds, not {asked[key]!r}")
    return seconds
