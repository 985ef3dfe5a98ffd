"""What on this machine could stand in the way of sessions: it looks, and leaves nothing changed."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..agent.store import SessionStore, default_root
from ..errors import CmdopError
from ..words import human_bytes

LOW_DISK = 1024**3  # bytes
FLOORS = {"ipykernel": (6, 17), "ipython": (7, 34), "ipywidgets": (7, 7)}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what, whether it is well, and what was found, with the remedy where it is not."""

    what: str
    ok: bool
    found: str


def examine() -> list[Check]:
    """Look at everything."""
    return [*_packages(), *_state(), *_system()]


def _packages() -> Iterator[Check]:
    yield Check("Python", sys.version_info >= (3, 11), sys.version.split()[0])
    for name, floor in FLOORS.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, False, f"not installed: pip install {name}")
            continue
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        yield Check(name, numbers >= floor, version)


def _state() -> Iterator[Check]:
    root = default_root()
    try:
        store = SessionStore()
    except CmdopError as error:
        yield Check("state folder", False, str(error))
        return
    free = shutil.disk_usage(root).free
    yield Check("state folder", free > LOW_DISK, f"{root}, {human_bytes(free)} free")
    yield Check("control sockets", *_sockets(store.folder))
    sessions = store.sessions()
    total = sum(int(str(facts["end"])) for facts in sessions)
    lost = [str(facts["name"]) for facts in sessions if facts["state"] == "lost"]
    words = f"{len(sessions)}, {human_bytes(total)} of output"
    remedy = f"; lost: {', '.join(lost)} (`%cmdop stop NAME` ends what is left of one)" if lost else ""
    yield Check("sessions", not lost, words + remedy)


def _sockets(folder: str) -> tuple[bool, str]:
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as place:
        fd = os.open(place, os.O_RDONLY)
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                path = f"/proc/self/fd/{fd}/ctl" if os.path.isdir("/proc/self/fd") else os.path.join(place, "ctl")
                listener.bind(path)
        except OSError as error:
            return True, f"in the temp folder (the state folder refuses them: {error.strerror})"
        finally:
            os.close(fd)
    return True, "in the state folder"


def _system() -> Iterator[Check]:
    try:
        for fd in os.openpty():
            os.close(fd)
        yield Check("terminals", True, "can be opened")
    except OSError as error:
        yield Check("terminals", False, f"{error.strerror}: use --tty none, or ask for a larger kernel.pty.max")
    shell = shutil.which("bash")
    yield Check("shell", True, shell or "no bash: cells run by /bin/sh")
    kills = _kills_at_logout()
    yield Check(
        "logout",
        not kills,
        "systemd ends a user's processes at logout: `loginctl enable-linger` lets sessions live"
        if kills
        else "ends no session",
    )


def _kills_at_logout() -> bool:
    """Whether logind is told to kill what a user leaves behind."""
    if not os.path.isdir("/run/systemd/system") or os.getuid() == 0:
        return False
    if os.path.exists(f"/var/lib/systemd/linger/{os.environ.get('USER', '')}"):
        return False
    folder = Path("/etc/systemd")
    for path in [folder / "logind.conf", *sorted((folder / "logind.conf.d").glob("*.conf"))]:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        if any(line.replace(" ", "").lower() == "killuserprocesses=yes" for line in lines):
            return True
    return False
