"""What here could stand in the way: this Python's packages, the configuration, and what is around sessions."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from ..agent import surroundings
from ..agent.store import SessionStore
from ..config import Config
from ..errors import CmdopError

FLOORS = {"ipykernel": (6, 17), "ipython": (7, 34), "ipywidgets": (7, 7)}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what, whether it is well, and what was found, with the remedy where it is not."""

    what: str
    ok: bool
    found: str


def examine() -> list[Check]:
    """Look at everything."""
    return [*_packages(), *_reaching(), *around()]


def around() -> list[Check]:
    """What is around the sessions of this machine."""
    try:
        store = SessionStore()
    except CmdopError as error:
        return [Check("state folder", False, str(error))]
    return read(surroundings.examine(store))


def read(checks: list[dict[str, object]]) -> list[Check]:
    """What an agent found."""
    return [Check(str(one["what"]), bool(one["ok"]), str(one["found"])) for one in checks]


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


def _reaching() -> Iterator[Check]:
    yield Check("ssh", True, shutil.which("ssh") or "not installed: machines behind ssh cannot be reached")
    try:
        known = [name for name in Config.load().names() if not name.startswith("@")]
    except CmdopError as error:
        yield Check("configuration", False, str(error))
    else:
        yield Check("configuration", True, f"{len(known)} machines known by name (`%cmdop machines`)")
