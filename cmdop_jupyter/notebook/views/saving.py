"""A session's log in, the same bytes in a file beside the notebook out."""

from __future__ import annotations

import os
from collections.abc import Callable

from ...errors import LogDropped
from ...machines.base import Machine, SessionFacts
from ...words import human_bytes

READ_SIZE = 1024 * 1024
EVERY = 32  # reads between two words


async def save_log(machine: Machine, facts: SessionFacts, say: Callable[[str], object]) -> str:
    """Write what the log holds now into a new file in the working directory; return its name.

    Args:
        say: Told how far it is.

    Raises:
        OSError: The file cannot be written; what there is of it is removed.
        LinkLost: The machine went out of reach.
    """
    status = await machine.status(facts.id)
    descriptor, name = _new_file(facts.name)
    offset, reads = status.dropped[1] if status.dropped[0] == 0 else 0, 0
    try:
        with os.fdopen(descriptor, "wb") as file:
            while offset < status.end:
                if reads % EVERY == 0:
                    say(f"{name}: {human_bytes(offset)} of {human_bytes(status.end)}")
                reads += 1
                try:
                    chunks = await machine.read_nowait(facts.id, offset, min(READ_SIZE, status.end - offset))
                except LogDropped as gap:
                    if gap.first <= offset:
                        break
                    offset = gap.first
                    continue
                if not chunks:
                    break
                for chunk in chunks:
                    file.write(chunk.data)
                offset = chunks[-1].end
    except BaseException:
        os.unlink(name)
        raise
    return name


def _new_file(stem: str) -> tuple[int, str]:
    """A file that only we can read, named as nothing else is."""
    number = 1
    while True:
        name = f"{stem}.log" if number == 1 else f"{stem}-{number}.log"
        try:
            return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), name
        except FileExistsError:
            number += 1
