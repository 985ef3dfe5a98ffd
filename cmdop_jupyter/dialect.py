"""A pattern as Python's `re` means it, said in the words of `regex` and of google-re2.

`regex` gets an expression that means the same, google-re2 one that is found wherever the pattern is, and perhaps
elsewhere: it tells where to look. Both are written from the tree that `re` parses, with every set of characters as `re`
understands it, so that neither the syntax nor the Unicode tables of the other two matter. What still differs from `re`
is rare: back-references under `(?i)` compare letters outside ASCII as `regex` folds case; `re`'s faults with groups in
possessive repeats, and with `(?a:…)` where a match begins, are not repeated.

A text pattern is written for one line, or for many joined by newlines, each matched for itself: nothing in it matches a
newline, and `^`, `$`, `\\A` and `\\Z` are the ends of a line.
"""

from __future__ import annotations

import re
import warnings
from array import array
from collections.abc import Iterable
from functools import cache, lru_cache
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import re2
import regex

from .errors import PatternError

Ranges = tuple[tuple[int, int], ...]  # of code points, both ends included, ascending, apart

REPEATS = 1000  # google-re2 refuses to count further
_LAST = 0x10FFFF
_LAST_NAMED = 0x3FFFF  # Unicode has no letters, digits and spaces behind its fourth plane
_NEWLINE = ((10, 10),)
_ASCII_WORD = ((48, 57), (65, 90), (95, 95), (97, 122))
_CHARACTERS = {op.LITERAL, op.NOT_LITERAL, op.IN, op.ANY}
_CLASSES = {
    op.CATEGORY_DIGIT: r"\d",
    op.CATEGORY_NOT_DIGIT: r"\D",
    op.CATEGORY_SPACE: r"\s",
    op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_WORD: r"\w",
    op.CATEGORY_NOT_WORD: r"\W",
}
_NEAREST = {r"\w": r"\p{L}\p{N}_", r"\d": r"\p{Nd}"}  # what `regex` has that comes close; it knows a newer Unicode
_B_IN_EMPTY = re.search(r"\B", "") is not None  # before Python 3.14 it is not


class Expression:
    """One pattern, in both dialects.

    Args:
        pattern: The source: str for text, bytes for raw bytes.
        flags: As `re.compile` takes them.

    Raises:
        PatternError: `re` does not compile it, or it depends on the locale.
    """

    def __init__(self, pattern: str | bytes, flags: int = 0) -> None:
        flags &= ~re.DEBUG
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of a meaning that some Python to come may change
                re.compile(pattern, flags)
                self._tree = _parser.parse(pattern, flags)
        except re.error as error:
            raise PatternError(pattern, error.msg, error.pos) from None
        except (OverflowError, RecursionError, ValueError) as error:
            raise PatternError(pattern, str(error), None) from None
        if self._tree.state.flags & re.LOCALE:
            raise PatternError(pattern, "it depends on the locale", None)
        if _asks_open_group(self._tree, frozenset()):  # `re` and `regex` differ in what that means
            raise PatternError(pattern, "a condition asks for the group that it stands in", None)
        self.pattern = pattern
        self._raw = isinstance(pattern, bytes)
        self._exact: dict[bool, regex.Pattern[Any]] = {}
        self._loose: dict[bool, Any] = {}

    def exact(self, *, ascii: bool) -> regex.Pattern[Any]:
        """Return what means the same, for ASCII text only (which is faster) or for any."""
        ascii = ascii and not self._raw
        if ascii not in self._exact:
            try:
                source = _Writer(self._tree, raw=self._raw, ascii=ascii, loose=False).source
                if self._raw:
                    self._exact[ascii] = regex.compile(source.encode("latin-1"), regex.VERSION1)
                else:
                    self._exact[ascii] = regex.compile(source, regex.VERSION1 | regex.MULTILINE)
            except (regex.error, RecursionError) as error:
                raise PatternError(self.pattern, f"too much for `regex` ({error})", None) from None
        return self._exact[ascii]

    def loose(self, *, ascii: bool) -> Any:
        """Return a google-re2 pattern for bytes (UTF-8 for text) that is found in every line or window that matches.

        None where google-re2 refuses. `ascii` as in `exact`.
        """
        ascii = ascii and not self._raw
        if ascii not in self._loose:
            options = re2.Options()
            options.log_errors = False
            if self._raw:
                options.encoding = re2.Options.Encoding.LATIN1
            source = _Writer(self._tree, raw=self._raw, ascii=ascii, loose=True).source
            try:
                self._loose[ascii] = re2.compile(f"(?m)(?:{source})".encode("ascii"), options)
            except re2.error:
                self._loose[ascii] = None
        return self._loose[ascii]


class _Writer:
    """Writes a parsed pattern down again.

    Args:
        raw: For bytes, all of which count; otherwise for lines.
        ascii: For text that is known to be ASCII.
        loose: In google-re2's words, and free to match more.
    """

    def __init__(self, tree: Any, *, raw: bool, ascii: bool, loose: bool) -> None:
        self._raw, self._ascii, self._loose = raw, ascii, loose
        self._names = {number: name for name, number in tree.state.groupdict.items()}
        self._nothing = "(?!)" if not loose else r"[^\x00-\xff]" if raw else r"[^\x00-\x{10ffff}]"
        self.source = self._sequence(tree, tree.state.flags, True, True)

    def _sequence(self, items: Any, flags: int, head: bool, tail: bool) -> str:
        """Write `items`. At the `head` nothing of the pattern comes before them, at the `tail` nothing behind."""
        last = len(items) - 1
        return "".join(
            self._item(kind, facts, flags, head and number == 0, tail and number == last)
            for number, (kind, facts) in enumerate(items)
        )

    def _item(self, kind: Any, facts: Any, flags: int, head: bool, tail: bool) -> str:
        if kind in _CHARACTERS:
            return self._character(kind, facts, flags)
        if kind is op.AT:
            return self._place(facts, flags)
        if kind is op.BRANCH:
            return f"(?:{'|'.join(self._sequence(branch, flags, head, tail) for branch in facts[1])})"
        if kind is op.SUBPATTERN:
            return self._group(facts, flags, head, tail)
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            return self._repeat(kind, facts, flags)
        if kind is op.ATOMIC_GROUP:
            return f"(?{':' if self._loose else '>'}{self._sequence(facts, flags, head, tail)})"
        if kind in (op.ASSERT, op.ASSERT_NOT):
            return self._look(kind is op.ASSERT, facts, flags, head, tail)
        if kind is op.GROUPREF:
            if self._loose:
                return "(?s:.)*" if self._raw else ".*"
            return rf"(?i-f:\g<{facts}>)" if flags & re.IGNORECASE else rf"\g<{facts}>"
        if kind is op.GROUPREF_EXISTS:
            number, yes, no = facts
            choices = f"{self._sequence(yes, flags, head, tail)}|{self._sequence(no or [], flags, head, tail)}"
            return f"(?:{choices})" if self._loose else f"(?({number}){choices})"
        if kind is op.FAILURE:
            return self._nothing
        raise NotImplementedError(f"a Python with something new in its patterns: {kind}")

    def _group(self, facts: Any, flags: int, head: bool, tail: bool) -> str:
        number, add, remove, body = facts
        if add & _parser.TYPE_FLAGS:
            flags &= ~_parser.TYPE_FLAGS
        text = self._sequence(body, (flags | add) & ~remove, head, tail)
        if number is None or self._loose:
            return f"(?:{text})"
        return f"(?P<{self._names[number]}>{text})" if number in self._names else f"({text})"

    def _repeat(self, kind: Any, facts: Any, flags: int) -> str:
        least, most, body = facts
        text = self._sequence(body, flags, False, False)
        if len(body) != 1 or body[0][0] not in _CHARACTERS:
            text = f"(?:{text})"
        endless = most is op.MAXREPEAT
        if self._loose:
            least, endless = min(least, REPEATS), endless or most > REPEATS
        times = f"{{{least},{'' if endless else most}}}"
        greed = "?" if kind is op.MIN_REPEAT else "+" if kind is op.POSSESSIVE_REPEAT and not self._loose else ""
        return text + {"{0,}": "*", "{1,}": "+", "{0,1}": "?"}.get(times, times) + greed

    def _look(self, wanted: bool, facts: Any, flags: int, head: bool, tail: bool) -> str:
        direction, body = facts
        if self._loose:
            # What must come just before or behind the match may as well be part of it; all else is left out.
            if wanted and (head if direction < 0 else tail):
                return f"(?:{self._sequence(body, flags, head, tail and direction > 0)})"
            return ""
        text = self._sequence(body, flags, False, False)
        if direction > 0:
            return f"(?{'=' if wanted else '!'}{text})"
        width = body.getwidth()[0]
        if any(kind not in _CHARACTERS for kind, _ in body):
            # `regex` reads what is behind from right to left, `re` steps back and reads from left to right.
            text = f"(?={text})(?s:.){{{width}}}"
        return f"(?<{'=' if wanted else '!'}{text})"

    def _place(self, where: Any, flags: int) -> str:
        if where in (op.AT_BOUNDARY, op.AT_NON_BOUNDARY):
            return self._boundary(where is op.AT_BOUNDARY, flags)
        if not self._raw:
            return "^" if where in (op.AT_BEGINNING, op.AT_BEGINNING_STRING) else "$"
        if self._loose:
            return ""
        if flags & re.MULTILINE and where in (op.AT_BEGINNING, op.AT_END):
            return "(?m:^)" if where is op.AT_BEGINNING else "(?m:$)"
        return {op.AT_END: "$", op.AT_END_STRING: r"\Z"}.get(where, r"\A")

    def _boundary(self, wanted: bool, flags: int) -> str:
        guard = "" if wanted or _B_IN_EMPTY else r"(?!\A\Z)" if self._raw else "(?!^$)"
        if self._ascii:
            return r"\b" if wanted else r"\B" if self._loose else guard + r"\B"
        if self._loose:
            return ""
        word = _set(_ASCII_WORD) if self._raw or flags & re.ASCII else _wide(r"\w")
        if wanted:
            return f"(?:(?<={word})(?!{word})|(?<!{word})(?={word}))"
        return f"(?:(?<={word})(?={word})|{guard}(?<!{word})(?!{word}))"

    def _character(self, kind: Any, facts: Any, flags: int) -> str:
        if kind is op.ANY:
            return "(?s:.)" if self._raw and flags & re.DOTALL else "."
        if kind is op.LITERAL and not flags & re.IGNORECASE:
            members: Ranges = ((facts, facts),)
            if self._ascii and facts > 127:
                members = ()
        else:
            negated = kind is op.NOT_LITERAL or (kind is op.IN and facts[0][0] is op.NEGATE)
            items = tuple(facts if kind is op.IN else [(op.LITERAL, facts)])[int(negated and kind is op.IN) :]
            flags &= re.IGNORECASE | re.ASCII
            if self._raw or self._ascii:
                members = _closed_members(_source(items, negated), flags, self._raw)
            elif self._loose or flags & re.ASCII or not any(item[0] is op.CATEGORY for item in items):
                members = _members(items, negated, flags)
            else:
                return _symbolic(items, negated, flags)
        if not self._raw:
            members = _without(members, _NEWLINE)
        return _set(members, braces=self._loose) if members else self._nothing


def _char(code: int, braces: bool = False) -> str:
    """Write one character so that it can mean nothing else."""
    if code < 128 and chr(code).isalnum():
        return chr(code)
    if braces:
        return f"\\x{{{code:x}}}"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def _inside(members: Iterable[tuple[int, int]], braces: bool = False) -> str:
    return "".join(
        _char(low, braces) if low == high else f"{_char(low, braces)}-{_char(high, braces)}" for low, high in members
    )


def _set(members: Ranges, *, braces: bool = False) -> str:
    if len(members) == 1 and members[0][0] == members[0][1]:
        return _char(members[0][0], braces)
    return f"[{_inside(members, braces)}]"


def _source(items: Any, negated: bool) -> str:
    """Write a set of characters as `re` reads it."""
    parts = []
    for kind, facts in items:
        if kind is op.CATEGORY:
            parts.append(_CLASSES[facts])
        else:
            parts.append(_inside([facts if kind is op.RANGE else (facts, facts)]))
    return f"[{'^' if negated else ''}{''.join(parts)}]"


@lru_cache(maxsize=1024)
def _closed_members(source: str, flags: int, raw: bool) -> Ranges:
    """Ask `re` which bytes, or which ASCII characters, a set has."""
    if raw:
        return _ranges(found[0] for found in re.findall(source.encode("latin-1"), bytes(range(256)), flags))
    return _ranges(map(ord, re.findall(source, bytes(range(128)).decode("ascii"), flags)))


@lru_cache(maxsize=1024)
def _members(items: Any, negated: bool, flags: int) -> Ranges:
    """Which characters of all a set has."""
    members = list(_listed(items, flags))
    for name in _classes_in(items):
        found = _class(name.lower(), bool(flags & re.ASCII))
        members += found if name.islower() else _without(((0, _LAST),), found)
    joined = _union(members)
    return _without(((0, _LAST),), joined) if negated else joined


@lru_cache(maxsize=1024)
def _symbolic(items: Any, negated: bool, flags: int) -> str:
    """Write a set with its classes in `regex`'s words: spelled out they would be slow."""
    inside = _inside(_without(_listed(items, flags), _NEWLINE))
    for name in _classes_in(items):
        inside += _wide(name) if name.islower() else f"[^{_wide(name.lower())}\\n]"
    return f"[^{inside}\\n]" if negated else f"[{inside}]"


def _classes_in(items: Any) -> list[str]:
    return [_CLASSES[facts] for kind, facts in items if kind is op.CATEGORY]


def _listed(items: Any, flags: int) -> Ranges:
    """The members of a set that its classes have not."""
    members = [facts if kind is op.RANGE else (facts, facts) for kind, facts in items if kind is not op.CATEGORY]
    if flags & re.IGNORECASE:
        members += _ranges(map(ord, re.findall(_source(items, False), _cased(), flags)))
    return _union(members)


@cache
def _wide(name: str) -> str:
    """Write `\\w`, `\\d` or `\\s` of all Unicode so that `regex` understands what this Python does."""
    wanted = _without(_class(name, False), _NEWLINE)
    if name not in _NEAREST:
        return f"[{_inside(wanted)}]"
    near = _ranges_of(regex.compile(f"[{_NEAREST[name]}]+", regex.VERSION1))
    excess, lack = _without(near, wanted), _without(wanted, near)
    quick = _inside(_without(wanted, ((128, _LAST),)))  # looked at first
    base = f"[[{_NEAREST[name]}]--[{_inside(excess)}]]" if excess else _NEAREST[name]
    return f"[{quick}{base}{_inside(lack)}]"


@cache
def _class(name: str, ascii: bool) -> Ranges:
    return _ranges_of(re.compile(f"{name}+", re.ASCII if ascii else 0))


@cache
def _everything() -> str:
    """Every character that a class may have, each at the index that is its code."""
    return array("I", range(_LAST_NAMED + 1)).tobytes().decode("utf-32", "surrogatepass")


@cache
def _cased() -> str:
    """Every character that may match another one under `(?i)`."""
    found = []
    for start in range(0, _LAST_NAMED + 1, 256):
        block = _everything()[start : start + 256]
        if not block.lower() == block == block.upper() == block.casefold():
            found += [char for char in block if not char.lower() == char == char.upper() == char.casefold()]
    return "".join(found)


def _ranges_of(pattern: Any) -> Ranges:
    return tuple((found.start(), found.end() - 1) for found in pattern.finditer(_everything()))


def _ranges(codes: Iterable[int]) -> Ranges:
    return _union((code, code) for code in codes)


def _union(members: Iterable[tuple[int, int]]) -> Ranges:
    joined: list[tuple[int, int]] = []
    for low, high in sorted(members):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(high, joined[-1][1])
        else:
            joined.append((low, high))
    return tuple(joined)


def _without(members: Ranges, less: Ranges) -> Ranges:
    left: list[tuple[int, int]] = []
    for low, high in members:
        for cut_low, cut_high in less:
            if cut_high < low:
                continue
            if cut_low > high:
                break
            if low < cut_low:
                left.append((low, cut_low - 1))
            low = cut_high + 1
        if low <= high:
            left.append((low, high))
    return tuple(left)


def _asks_open_group(items: Any, around: frozenset[int]) -> bool:
    """Whether a condition `(?(1)…)` stands within the group it asks for; `around` are the groups around `items`."""
    for kind, facts in items:
        parts: list[Any] = []
        inside = around
        if kind is op.SUBPATTERN:
            inside, parts = around | {facts[0]}, [facts[3]]
        elif kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            parts = [facts[2]]
        elif kind is op.ATOMIC_GROUP:
            parts = [facts]
        elif kind in (op.ASSERT, op.ASSERT_NOT):
            parts = [facts[1]]
        elif kind is op.BRANCH:
            parts = facts[1]
        elif kind is op.GROUPREF_EXISTS:
            if facts[0] in around:
                return True
            parts = [part for part in facts[1:] if part is not None]
        if any(_asks_open_group(part, inside) for part in parts):
            return True
    return False
