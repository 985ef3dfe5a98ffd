"""A real OpenSSH server on a free loopback port, with keys of its own, and system users to log in as."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.leftovers import end_all

SBIN = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
INSTALL = "apt-get install -y --no-install-recommends"
HOST = "127.0.0.1"
READY_SECONDS = 20
MARK = "CMDOP_TEST_SSHD"
KEPT = ("CMDOP_TEST_RUN", "CMDOP_TEST")  # marks by which conftest finds what a test leaves running
USER_PREFIX = "cmdopt"


def program(name: str, package: str) -> str:
    found = shutil.which(name, path=SBIN)
    if not found:
        raise FileNotFoundError(f"the tests need {name}; install it: {INSTALL} {package}")
    return found


def make_key(path: Path, *, passphrase: str = "", kind: str = "ed25519") -> Path:
    """A new private key at `path`, its public half beside it."""
    keygen = program("ssh-keygen", "openssh-client")
    words = [keygen, "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    return path


def fingerprint(public_key: Path) -> str:
    """`SHA256:…` of a public key, as ssh shows it."""
    keygen = program("ssh-keygen", "openssh-client")
    return subprocess.run(
        [keygen, "-l", "-f", public_key], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()[1]


def lines(options: Mapping[str, object]) -> list[str]:
    """`Keyword value`, once for each value; None: no line."""
    found = []
    for keyword, value in options.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        found += [f"{keyword} {one}" for one in values if one is not None]
    return found


def set_env(variables: Mapping[str, str]) -> str:
    return "SetEnv " + " ".join(f'"{name}={value}"' for name, value in variables.items())


def marks() -> dict[str, str]:
    return {name: os.environ[name] for name in KEPT if name in os.environ}


class Sshd:
    """An sshd on loopback, running between `start` and `stop`, or within `with`.

    As root any user may log in whose key is in `authorized_keys`; else only the user who runs it. Its folder may be
    entered by anybody: sshd reads `authorized_keys` as the user who logs in. The user who runs the tests gets a
    `CMDOP_STATE_DIR` of the server's own on the far side.

    Args:
        env: Variables for every session there.
        options: Of sshd_config; they win over the fixture's own. A list gives a line for each value.
    """

    def __init__(self, *, env: Mapping[str, str] | None = None, **options: object) -> None:
        self._sshd = program("sshd", "openssh-server")
        self.host = HOST
        self.port = 0
        self.folder = Path(tempfile.mkdtemp(prefix="cmdop-sshd-"))
        self.folder.chmod(0o711)
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.state = self.folder / "state"  # of the sessions of the user who runs the tests
        self.host_key = make_key(self.folder / "host_key")
        self.identity = make_key(self.folder / "identity")
        self.authorized_keys = self.folder / "authorized_keys"
        self.known_hosts = self.folder / "known_hosts"
        self.authorize(self.identity)
        self._env, self._options = dict(env or {}), options
        self._process: subprocess.Popen[str] | None = None
        self._said: list[str] = []
        self._reader: threading.Thread | None = None
        self._mark = secrets.token_hex(8)
        self._numbers = itertools.count()

    def __enter__(self) -> Sshd:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()
        if kind is not None:
            print(f"sshd on port {self.port} said:\n{self.log}")

    @property
    def log(self) -> str:
        """All that it said since it was made."""
        return "".join(self._said)

    @property
    def pid(self) -> int:
        """The listening process."""
        assert self._process is not None, "this sshd is not running"
        return self._process.pid

    def authorize(self, identity: Path) -> None:
        """Let whoever has this private key in, as anybody."""
        with self.authorized_keys.open("a") as file:
            file.write(identity.with_name(identity.name + ".pub").read_text())
        self.authorized_keys.chmod(0o644)

    def start(self) -> None:
        """Listen: on a free port at first, on the same one ever after. Returns once it does."""
        assert self._process is None, "this sshd is running"
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)  # what it separates privileges in
        for _ in range(10):
            port = self.port or free_port()
            if self._listen_on(port):
                self.port = port
                key = self.host_key.with_name("host_key.pub").read_text()
                self.known_hosts.write_text(f"[{self.host}]:{port} {key}")
                return
            if self.port:  # it was ours, others do not take it: something else is wrong
                break
        raise RuntimeError(f"sshd does not start; it said:\n{self.log}")

    def _listen_on(self, port: int) -> bool:
        config = self.folder / "sshd_config"
        config.write_text(self._config(port))
        self._process = subprocess.Popen(
            [self._sshd, "-D", "-e", "-f", config],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={"PATH": os.environ.get("PATH", os.defpath), **self._marks()},
        )
        ready = threading.Event()
        self._reader = threading.Thread(target=self._listen_to, args=(self._process, ready), daemon=True)
        self._reader.start()
        in_time = ready.wait(READY_SECONDS)
        if in_time and self._process.poll() is None:
            return True
        self.stop()
        return False

    def _listen_to(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self._said.append(line)
            if line.startswith("Server listening"):
                ready.set()
        process.wait()
        ready.set()

    def _marks(self) -> dict[str, str]:
        return {MARK: self._mark, **marks()}

    def _config(self, port: int) -> str:
        everybody = {**self._marks(), **self._env}
        own = {"CMDOP_STATE_DIR": str(self.state), **everybody}
        options: dict[str, object] = {
            "ListenAddress": HOST,
            "Port": port,
            "HostKey": self.host_key,
            "AuthorizedKeysFile": self.authorized_keys,
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "UseDNS": "no",
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PrintMotd": "no",
            "KexAlgorithms": "curve25519-sha256",  # half the time of a login
            "PrintLastLog": "no",
            "PerSourcePenalties": "no" if self._version() >= (9, 8) else None,
        }
        options.update(self._options)
        matches = [f"Match User {self.user}", f"    {set_env(own)}", "Match all", f"    {set_env(everybody)}", ""]
        return "\n".join([*lines(options), *matches])

    def _version(self) -> tuple[int, int]:
        # old ones do not know -V, and say their version as they refuse it
        said = subprocess.run([self._sshd, "-V"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
        found = re.search(r"OpenSSH_(\d+)\.(\d+)", said)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def ssh_config(self, alias: str = "box", user: str | None = None, **options: object) -> Path:
        """A configuration for `ssh -F`, in which `alias` is this server; `options` win, None leaves a line out."""
        own: dict[str, object] = {
            "HostName": self.host,
            "Port": self.port,
            "User": user or self.user,
            "IdentityFile": self.identity,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": self.known_hosts,
            "GlobalKnownHostsFile": "none",
        }
        path = self.folder / f"ssh_config-{next(self._numbers)}"
        path.write_text(f"Host {alias}\n" + "".join(f"    {line}\n" for line in lines({**own, **options})))
        path.chmod(0o644)
        return path

    def children(self) -> list[int]:
        """Pids of the sshd processes that serve connections: for a normal user two each, one as root."""
        return [] if self._process is None else [pid for pid, name in descendants(self.pid) if name.startswith("sshd")]

    def kill_children(self, how: int = signal.SIGKILL) -> list[int]:
        """Send `how` to all of them, and see it take effect where it ends or stops them; return who got it."""
        struck = []
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
                struck.append(pid)
        wanted = {signal.SIGKILL: "", signal.SIGSTOP: "Tt"}.get(signal.Signals(how))
        if wanted is not None:
            wait_until(lambda: all(state(pid) in ("", *wanted) for pid in struck))
        return struck

    def stop(self) -> None:
        """End it and every connection, at once. What runs behind them goes on, or notices."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGSTOP)  # so that it takes no more connections
            while serving := [pid for pid, name in descendants(process.pid) if name.startswith("sshd")]:
                for pid in serving:
                    end(pid)
        process.kill()
        process.wait()
        assert self._reader is not None
        self._reader.join(READY_SECONDS)
        assert process.stderr is not None
        process.stderr.close()

    def close(self) -> None:
        """End it and all that still runs behind its connections, and remove its folder."""
        self.stop()
        end_all(MARK, self._mark)
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def wait_until(true: Callable[[], bool]) -> None:
    """Look until it is true, for what the system tells nobody of."""
    deadline = time.monotonic() + READY_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"not true in {READY_SECONDS} s"
        select.select([], [], [], 0.002)


def state(pid: int) -> str:
    """One letter, as in proc(5): `R`, `S`, `T` …; '' for a process that has ended."""
    try:
        found = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2][0]
    except OSError:
        return ""
    return "" if found in "ZX" else found


def processes() -> Iterator[tuple[int, int, str]]:
    """Every process but those that only wait to be reaped: pid, parent, name."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        name, _, rest = text.partition("(")[2].rpartition(")")
        state, parent = rest.split()[:2]
        if state != "Z":
            yield int(path.parent.name), int(parent), name


def descendants(pid: int) -> list[tuple[int, str]]:
    """Its children and theirs: pid, name."""
    everybody, found, parents = list(processes()), [], {pid}
    while parents:
        born = [(child, name) for child, parent, name in everybody if parent in parents]
        found += born
        parents = {child for child, _ in born}
    return found


@dataclass
class User:
    """A user of this system, made for a test."""

    name: str
    uid: int
    gid: int
    home: Path
    shell: str

    def set_password(self, password: str) -> None:
        """Give them one: they had none, and could log in by key only."""
        change = program("chpasswd", "passwd")
        subprocess.run([change, "-c", "SHA512"], check=True, input=f"{self.name}:{password}\n", text=True)

    def owns(self, path: Path) -> Path:
        """Make a file or a folder with all in it theirs."""
        for one in (path, *path.rglob("*")):
            os.chown(one, self.uid, self.gid, follow_symlinks=False)
        return path

    @property
    def variables(self) -> dict[str, str]:
        """What login(1) would set, and the marks of this test."""
        path = os.environ.get("PATH", os.defpath)
        return {"USER": self.name, "LOGNAME": self.name, "HOME": str(self.home), "PATH": path, **marks()}


@contextlib.contextmanager
def login_user(shell: str = "bash") -> Iterator[User]:
    """A new system user with `shell` (bash, dash, fish, tcsh, zsh) as login shell; removed with all that is theirs."""
    if os.getuid() != 0:
        raise PermissionError("system users can be made by root only: run these tests as root, e.g. in a container")
    path = program(shell, shell)
    remove_left_over_users()
    name = f"{USER_PREFIX}{secrets.token_hex(4)}"
    home = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    try:
        words = ["--home-dir", home, "--no-create-home", "--shell", path, "--user-group", "--password", "*"]
        comment = ["--comment", f"for a test of process {os.getpid()}"]
        subprocess.run([program("useradd", "passwd"), *words, *comment, name], check=True, stderr=subprocess.PIPE)
        facts = pwd.getpwnam(name)
        os.chown(home, facts.pw_uid, facts.pw_gid)
        yield User(name, facts.pw_uid, facts.pw_gid, home, path)
    finally:
        remove_user(name, home)


@contextlib.contextmanager
def sudo_rule(who: User, as_whom: str, *, password: bool = True) -> Iterator[None]:
    """Let a user run everything as another one by sudo, with their password or without."""
    path = Path("/etc/sudoers.d", who.name)
    path.write_text(f"{who.name} ALL=({as_whom}) {'' if password else 'NOPASSWD: '}ALL\n")
    path.chmod(0o440)
    try:
        yield
    finally:
        path.unlink()


def remove_user(name: str, home: Path) -> None:
    """End all that they run, and remove them."""
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        pass
    else:
        assert name.startswith(USER_PREFIX), name
        assert uid != 0, name
        while running := list(pids_of(uid)):
            for pid in running:
                end(pid)
        subprocess.run([program("userdel", "passwd"), "--force", name], check=True, capture_output=True)
    shutil.rmtree(home, ignore_errors=True)


def remove_left_over_users() -> None:
    """Remove the users of test runs that were killed."""
    for facts in pwd.getpwall():
        made_by = re.fullmatch(r"for a test of process (\d+)", facts.pw_gecos)
        if facts.pw_name.startswith(USER_PREFIX) and made_by and not Path("/proc", made_by[1]).exists():
            remove_user(facts.pw_name, Path(facts.pw_dir))


def pids_of(uid: int) -> Iterator[int]:
    for pid, _, _ in processes():
        with contextlib.suppress(FileNotFoundError):
            if Path(f"/proc/{pid}").stat().st_uid == uid:
                yield pid


def end(pid: int) -> None:
    """Kill a process, if it is still there, and see it gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        if not select.select([handle], [], [], READY_SECONDS)[0]:
            raise TimeoutError(f"process {pid} does not end")
    finally:
        os.close(handle)
