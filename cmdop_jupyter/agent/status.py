"""What a session's state is, on one page of disk that is rewritten in place. Knows the legal moves and no process."""

from __future__ import annotations

import binascii
import os

from .light import dumps, loads

PAGE = 4096  # bytes; made at the start, so that an exit can be recorded on a full disk
STARTING, RUNNING, HELD, EXITED, ENDED, LOST = "starting", "running", "held", "exited", "ended", "lost"
LIVE = (STARTING, RUNNING, HELD, EXITED)

NEXT = {  # every legal move; any other is a bug, and raises. "lost" is what a reader computes, never written
    STARTING: (RUNNING, ENDED),
    RUNNING: (HELD, EXITED),
    HELD: (RUNNING, EXITED),
    EXITED: (ENDED,),
    ENDED: (),
}


def check_move(old: str, new: str) -> None:
    """Raise ValueError unless a session may go from `old` to `new`."""
    if new not in NEXT[old]:
        raise ValueError(f"a session cannot go from {old} to {new}")


def write_page(fd: int, facts: dict[str, object]) -> None:
    """Rewrite the page. What does not fit is cut: the longest text or list first, also one inside another fact."""
    body = dumps(facts).encode()
    if len(body) > PAGE - 10:
        facts = loads(body)  # a copy, all the way down
        while len(body) > PAGE - 10:
            _cut_longest(facts)
            body = dumps(facts).encode()
    page = b"%08x " % binascii.crc32(body) + body
    os.pwrite(fd, page.ljust(PAGE - 1) + b"\n", 0)


def _cut_longest(facts: dict[str, object]) -> None:
    holders, at = [facts], 0
    while at < len(holders):
        holders += [value for value in holders[at].values() if isinstance(value, dict)]
        at += 1
    length, holder, key = 0, facts, ""
    for some in holders:
        for name, value in some.items():
            if isinstance(value, (str, list)) and len(dumps(value)) > length:
                length, holder, key = len(dumps(value)), some, name
    value = holder[key]
    assert isinstance(value, (str, list))
    holder[key] = value[: len(value) // 2]


def read_page(path: str) -> dict[str, object]:
    """Return the facts of the page at `path`.

    Raises:
        OSError: There is none.
        ValueError: It is damaged.
    """
    for _ in range(20):  # a read may meet a write half-way
        with open(path, "rb") as file:
            page = file.read(PAGE)
        body = page[9:].rstrip()
        if page[:8] == b"%08x" % binascii.crc32(body):
            facts = loads(body)
            if isinstance(facts, dict):
                return facts
    raise ValueError(f"{path} is damaged")
