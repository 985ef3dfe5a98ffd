"""A configuration for tests of clients: machines by name, each with sessions of its own, in a folder of their own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from reach import own_places

from cmdop_jupyter import directory
from cmdop_jupyter.runtime import runtime


@contextlib.contextmanager
def configured(folder: Path, *names: str, **more: str) -> Iterator[Path]:
    """Machines of those names, reached by `sh -c` on this one; of `more`, what the file says of them.

    Gives the folder that has theirs, each by its name. Nothing was reached before, and nothing is afterwards.
    """
    folder.mkdir()
    text = ""
    for name in names:
        (folder / name).mkdir()
        text += f"[machines.{name}]\nlink = {json.dumps([*own_places(folder / name), 'sh', '-c'])}\n"
    text += "".join(f"[machines.{name}]\n{lines}\n" for name, lines in more.items())
    (folder / "cmdop.toml").write_text(text)
    (folder / "home").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "home")
        patch.setenv("HOME", str(folder / "home"))
        patch.delenv("XDG_CONFIG_HOME", raising=False)
        patch.setenv("CMDOP_CONFIG", str(folder / "cmdop.toml"))
        for name in ("_machines", "_places", "_relays", "_remote"):
            patch.setattr(directory, name, {})
        patch.setattr(directory, "_asking", None)
        try:
            yield folder
        finally:
            runtime().wait(_close())


async def _close() -> None:
    for machine in (*directory.here().values(), *directory._remote.values()):
        await machine.close()
    if directory._asking is not None:
        directory._asking.close()


def cut(name: str) -> None:
    """End the process that is the link to a machine; it is dialled again by itself."""
    link = directory.machine(name)._link
    link._process.kill()
