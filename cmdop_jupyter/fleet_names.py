"""One word in, the names it stands for out: `web[01-03]` is `web01`, `web02`, `web03`. Knows no machines."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable

from .errors import InvalidRequest

__all__ = ["MOST", "counted", "expand"]

MOST = 10_000  # names that one word may stand for; a slip of the keyboard is more
BRACKET = re.compile(r"\[([^\[\]]*)\]")
RANGE = re.compile(r"(\d+)-(\d+)", re.ASCII)


def expand(word: str) -> list[str]:
    """The names a word stands for, in order, each once.

    `[01-20]` counts, with the zeros of its first number; `[a,b,07-09]` is a list, of ranges too; of several brackets
    the last moves fastest. A bracket with a colon in it, as in `ssh://[fe80::1]:22`, is an address and stays.

    Raises:
        InvalidRequest: A bracket does not close, is empty or counts down, or the names are more than `MOST`.
    """
    pieces: list[list[str]] = []
    rest = 0
    for found in BRACKET.finditer(word):
        pieces += [[word[rest : found.start()]], _choices(word, found[1])]
        rest = found.end()
    pieces.append([word[rest:]])
    for [piece] in pieces[::2]:
        for sign in "[]":
            if sign in piece:
                raise InvalidRequest(f"{word!r} has a {sign!r} without its other half; brackets are as in web[01-20]")
    count = math.prod(map(len, pieces))
    if count > MOST:
        raise InvalidRequest(f"{word!r} stands for {count} names, more than {MOST}")
    return list(dict.fromkeys(map("".join, itertools.product(*pieces))))


def counted(names: Iterable[str]) -> list[str]:
    """Words for the names that differ in a number only, without a gap: of `web01`, `web02`, `web03` `web[01-03]`."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in names:
        for hit in re.finditer(r"\d+", name, re.ASCII):
            found.setdefault((name[: hit.start()], name[hit.end() :]), []).append(hit[0])
    words = []
    for (head, rest), numbers in found.items():
        first, last = min(numbers, key=int), max(numbers, key=int)
        if (
            len(numbers) > 1
            and int(last) - int(first) < MOST
            and expand(f"[{first}-{last}]") == sorted(set(numbers), key=int)
        ):
            words.append(f"{head}[{first}-{last}]{rest}")
    return words


def _choices(word: str, inside: str) -> list[str]:
    """What may stand in place of one bracket."""
    if ":" in inside:
        return [f"[{inside}]"]
    choices: list[str] = []
    for item in inside.split(","):
        if not item:
            raise InvalidRequest(f"[{inside}] in {word!r} has nothing in one place; brackets are as in web[01-20,db]")
        found = RANGE.fullmatch(item)
        choices += _count(word, item, *found.groups()) if found else [item]
    return choices


def _count(word: str, item: str, first: str, last: str) -> list[str]:
    low, high = int(first[:20]), int(last[:20])
    if low > high:
        raise InvalidRequest(f"[{item}] in {word!r} counts down; it is [{last}-{first}]")
    if high - low >= MOST:
        raise InvalidRequest(f"[{item}] in {word!r} is more than {MOST} names")
    padded = first.startswith("0") or last.startswith("0")
    width = max(len(first), len(last)) if padded else 0
    return [f"{number:0{width}}" for number in range(low, high + 1)]
