"""The folder in which a relay's keys are kept: workspaces, people, machines, and what nats-server is to know of them.

`relay.json` has the seeds of workspaces, and none of people or machines: what was given out cannot be shown again.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ConfigError, InvalidRequest
from .configuring import ACCOUNTS_FILE, Member, Node, Workspace, accounts, server
from .keys import ApiKey, MachineKey
from .proofs import Identity, Proof, issue, new_user, new_workspace, public_of
from .subjects import check_name

FILE, LOCK = "relay.json", ".lock"
VERSION = 1
KEEP_BYTES = 256 * 1024 * 1024  # of a machine's logs, on the relay


@dataclass
class Relay:
    """All that is known of one relay. Changes are made to it within `changing`.

    Attributes:
        name: Of the relay; of its cluster, where there are several servers.
        url: Where people and machines reach it; several with commas between.
        replicas: Servers that keep each stream.
        cluster_secret: By which the servers know each other.
        nodes: Servers by name.
        workspaces: By name.
    """

    name: str
    url: str
    replicas: int = 1
    cluster_secret: str = field(default="", repr=False)
    nodes: dict[str, Node] = field(default_factory=dict)
    workspaces: dict[str, Workspace] = field(default_factory=dict)

    def workspace(self, name: str) -> Workspace:
        """Raises InvalidRequest when there is none."""
        if name not in self.workspaces:
            there = ", ".join(sorted(self.workspaces)) or "none yet"
            raise InvalidRequest(f"no workspace is called {name!r}; there are: {there}")
        return self.workspaces[name]

    def add_workspace(self, name: str) -> None:
        """Raises InvalidRequest when there is one of that name, or it cannot be one."""
        check_name(name, "a workspace")
        if name in self.workspaces:
            raise InvalidRequest(f"there is a workspace {name!r} already")
        seed, admin_seed = new_workspace(), new_user()
        self.workspaces[name] = Workspace(seed, public_of(seed), admin_seed, public_of(admin_seed))

    def add_person(self, workspace: str, name: str, role: str) -> ApiKey:
        """Return the key of a new person, which is kept nowhere. Raises InvalidRequest."""
        seed, proof = self._add(workspace, name, role, 0)
        return ApiKey(self.url, workspace, Identity(seed, proof), self.workspace(workspace).public)

    def add_machine(self, workspace: str, name: str, keep_bytes: int = KEEP_BYTES) -> MachineKey:
        """Return the key of a new machine, which is kept nowhere. Raises InvalidRequest."""
        seed, proof = self._add(workspace, name, "machine", keep_bytes)
        return MachineKey(self.url, workspace, Identity(seed, proof), self.workspace(workspace).public)

    def _add(self, workspace: str, name: str, role: str, keep_bytes: int) -> tuple[str, Proof]:
        check_name(name, "a machine" if role == "machine" else "a person")
        its = self.workspace(workspace)
        there = its.good().get(name)
        if there is not None:
            raise InvalidRequest(
                f"{workspace} has {_an(there.role)} called {name!r}; take another name, or `revoke` that one first"
            )
        seed = new_user()
        proof = issue(its.seed, workspace, role, name, seed)
        its.members[name] = Member(role, public_of(seed), proof.public_key, _now(), keep_bytes=keep_bytes)
        return seed, proof

    def revoke(self, workspace: str, name: str) -> Member:
        """Say that a key is no longer good. Raises InvalidRequest when there is none."""
        its = self.workspace(workspace)
        if name not in its.good():
            there = ", ".join(sorted(its.good())) or "none"
            raise InvalidRequest(f"{workspace} has no key of {name!r}; there are: {there}")
        its.members[name].revoked = _now()
        return its.members[name]


class Folder:
    """Where a relay is kept, 0700.

    Args:
        path: Of the folder; made by `create`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def create(self, relay: Relay) -> None:
        """Keep a new relay here. Raises InvalidRequest when there is one, ConfigError when that cannot be."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(str(self.path), "", f"cannot be made ({error.strerror})") from None
        with self._locked():
            if (self.path / FILE).exists():
                raise InvalidRequest(f"{self.path} has a relay already; `list` shows it")
            relay.cluster_secret = relay.cluster_secret or secrets.token_hex(24)
            self._write(relay)

    def read(self) -> Relay:
        """Return what is kept here. Raises ConfigError."""
        path = self.path / FILE
        try:
            said: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            reason = f"has no {FILE}: `cmdop-relay keys {self.path} init` begins a relay there"
            raise ConfigError(str(self.path), "", reason) from None
        except (OSError, ValueError) as error:
            raise ConfigError(str(path), "", f"cannot be read: {error}") from None
        try:
            if said.pop("version") != VERSION:
                raise ConfigError(str(path), "version", f"this package knows {VERSION} only; install a newer one")
            nodes = {name: Node(**facts) for name, facts in said.pop("nodes").items()}
            workspaces = {
                name: Workspace(**{**facts, "members": {each: Member(**its) for each, its in facts["members"].items()}})
                for name, facts in said.pop("workspaces").items()
            }
            return Relay(**said, nodes=nodes, workspaces=workspaces)
        except (AttributeError, KeyError, TypeError):  # without its words, which may be of a secret
            raise ConfigError(str(path), "", "makes no sense; take it from a copy of the folder") from None

    @contextmanager
    def changing(self) -> Iterator[Relay]:
        """The relay, written at the end of `with` if it did not fail; nobody else changes it meanwhile."""
        self.read()
        with self._locked():
            relay = self.read()
            yield relay
            self._write(relay)

    def config(self, node: str) -> Path:
        """The configuration of a server."""
        return self.path / f"{node}.conf"

    def pid_file(self, node: str) -> Path:
        """Where a server writes its process id."""
        return (self.path / f"{node}.pid").absolute()

    def _write(self, relay: Relay) -> None:
        text = json.dumps({"version": VERSION, **asdict(relay)}, indent=1)
        self._replace(self.path / FILE, text + "\n")  # first: the rest is made of it
        self._replace(self.path / ACCOUNTS_FILE, accounts(relay.workspaces))
        for name, node in relay.nodes.items():
            self._replace(
                self.config(name), server(relay.name, name, node, relay.cluster_secret, str(self.pid_file(name)))
            )

    def _replace(self, path: Path, text: str) -> None:
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            write_secret(fresh, text)
            os.replace(fresh, path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise ConfigError(str(path), "", f"cannot be written ({error.strerror})") from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            mode = self.path.stat().st_mode
            if mode & 0o077:
                raise ConfigError(str(self.path), "", f"can be read by others: `chmod 700 {self.path}`")
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(str(self.path), "", f"cannot be used ({error.strerror})") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def write_secret(path: Path, text: str) -> None:
    """Write a new file that only we can read. Raises OSError, FileExistsError when there is one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _an(role: str) -> str:
    return f"a{'n' if role[0] == 'o' else ''} {role}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
