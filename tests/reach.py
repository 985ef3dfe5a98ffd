"""Every kind of machine, each for real, for the tests of what all of them promise."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sshd import Sshd, login_user

from cmdop_jupyter.agent.store import SessionStore
from cmdop_jupyter.machines.base import Machine
from cmdop_jupyter.machines.local import LocalMachine
from cmdop_jupyter.machines.presets import Place, ssh_command, sudo_command
from cmdop_jupyter.machines.stdio import StdioMachine

Make = Callable[[], Machine]  # each call: one more object that reaches the same sessions
SHELLS = ("bash", "dash", "fish", "tcsh")


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder in which every user may write."""
    folder = Path(tempfile.mkdtemp(prefix="cmdop-test-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def own_places(folder: Path) -> list[str]:
    """Words in front of a command, so that what it starts keeps its sessions and its agent in `folder`."""
    return ["env", f"CMDOP_STATE_DIR={folder / 'state'}", f"XDG_CACHE_HOME={folder / 'cache'}"]


def ssh_to(sshd: Sshd, user: str | None = None, **options: object) -> tuple[str, ...]:
    """The command of a `Place` at that server."""
    ssh, *words = ssh_command("box")
    return (ssh, "-F", str(sshd.ssh_config(user=user, **options)), *words)


@contextlib.contextmanager
def local() -> Iterator[Make]:
    with tempfile.TemporaryDirectory() as folder:
        yield lambda: LocalMachine(SessionStore(os.path.join(folder, "state")))


@contextlib.contextmanager
def shell() -> Iterator[Make]:
    with tempfile.TemporaryDirectory() as folder:
        place = Place("far", "link", (*own_places(Path(folder)), "sh", "-c"))
        yield lambda: StdioMachine(place)


@contextlib.contextmanager
def ssh_as_ourselves() -> Iterator[Make]:
    with Sshd() as sshd:
        place = Place("far", "ssh", ssh_to(sshd))
        yield lambda: StdioMachine(place)


@contextlib.contextmanager
def ssh_as_user_of(name: str) -> Iterator[Make]:
    with login_user(name) as user, Sshd() as sshd:
        place = Place("far", "ssh", ssh_to(sshd, user.name))
        yield lambda: StdioMachine(place)


@contextlib.contextmanager
def sudo() -> Iterator[Make]:
    with login_user("bash") as user:
        place = Place("far", "sudo", sudo_command(user.name))
        yield lambda: StdioMachine(place)


@contextlib.contextmanager
def relay() -> Iterator[Make]:
    from relays import relay as open_relay
    from served import machine_at, relay_of, served

    with (
        tempfile.TemporaryDirectory() as folder,
        open_relay(Path(folder, "relay")) as it,
        served(it.machine_key("box"), Path(folder)),
    ):
        key = it.api_key("op1")
        yield lambda: machine_at(relay_of(key))


KINDS: dict[str, Callable[[], contextlib.AbstractContextManager[Make]]] = {
    "local": local,
    "sh -c": shell,
    "ssh": ssh_as_ourselves,
    **{f"ssh, {name}": lambda name=name: ssh_as_user_of(name) for name in SHELLS},
    "sudo": sudo,
    "relay": relay,
}
