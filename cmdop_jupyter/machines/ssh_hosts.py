"""From an ssh_config to the hosts that it names. Knows no other option: what they mean is for ssh itself."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidRequest
from .presets import ssh_command

__all__ = ["HostLine", "SshHosts", "read_ssh_hosts"]

MOST_INCLUDES = 16  # files within files; as ssh has it (readconf.c, READCONF_MAX_DEPTH)

# A keyword, then blanks or one `=`, then words, of which those in double quotes may hold blanks, up to a `#`.
LINE = re.compile(r"\s*([A-Za-z]\w*)(?:\s*=\s*|\s+)(\S.*)")
WORD = re.compile(r'"([^"]*)"|(#.*)|([^\s"]+)')

Patterns = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostLine:
    """The patterns of one Host line.

    Attributes:
        within: Those of the Host lines under which its file was included: they must match as well.
    """

    patterns: Patterns
    within: tuple[Patterns, ...] = ()

    def matches(self, name: str) -> bool:
        """Whether ssh would heed what stands below this line, for that name."""
        return all(_matches(patterns, name) for patterns in (self.patterns, *self.within))

    @property
    def for_all(self) -> bool:
        """Whether it names nobody in particular."""
        return not any(pattern.strip("*?") for pattern in self.patterns if not pattern.startswith("!"))


@dataclass(frozen=True, slots=True)
class SshHosts:
    """What an ssh_config knows.

    Attributes:
        lines: Its Host lines.
        ignore_unknown: Its IgnoreUnknown patterns.
    """

    lines: tuple[HostLine, ...] = ()
    ignore_unknown: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Hosts that are called by their name, and can be."""
        plain = ((line, word) for line in self.lines for word in line.patterns if not re.search(r"[*?!]", word))
        return [name for name in dict.fromkeys(word for line, word in plain if line.matches(word)) if _callable(name)]

    def knows(self, name: str) -> bool:
        """Whether a Host line matches that name, other than one for all hosts."""
        return any(line.matches(name) and not line.for_all for line in self.lines)


def read_ssh_hosts(path: Path) -> SshHosts:
    """Read a user's ssh_config and what it includes. What is not there, or cannot be read, has no hosts."""
    lines: list[HostLine] = []
    ignored: list[str] = []
    for line in _walk(str(path), path.parent, (), ()):
        if isinstance(line, HostLine):
            lines.append(line)
        else:
            ignored += line.split(",")
    return SshHosts(tuple(lines), tuple(dict.fromkeys(word for word in ignored if word)))


def _walk(path: str, home: Path, within: tuple[Patterns, ...], above: tuple[str, ...]) -> Iterator[HostLine | str]:
    """Host lines, and IgnoreUnknown patterns, in the order in which ssh meets them."""
    if path in above or len(above) > MOST_INCLUDES or not os.path.isfile(path):
        return
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    below = within
    for keyword, words in _statements(text):
        if keyword == "host":
            below = (*within, words)
            yield HostLine(words, within)
        elif keyword == "match":
            below = within  # whether it matches only ssh can tell; what it includes may well be meant
        elif keyword == "include":
            for word in words:
                pattern = os.path.join(home, os.path.expanduser(os.path.expandvars(word)))
                for included in sorted(glob.glob(pattern)):
                    yield from _walk(included, home, below, (*above, path))
        elif keyword == "ignoreunknown":
            yield words[0]


def _statements(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for line in text.splitlines():
        matched = LINE.match(line)
        if matched:
            words = tuple(quoted or bare for quoted, _, bare in WORD.findall(matched[2]) if quoted or bare)
            if words:
                yield matched[1].lower(), words


def _matches(patterns: Patterns, name: str) -> bool:
    """One of them matches, and none with a `!`; `*` is any characters, `?` is one."""
    against = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    return any(_match(pattern, name) for pattern in wanted) and not any(_match(pattern, name) for pattern in against)


def _match(pattern: str, name: str) -> bool:
    if "*" not in pattern and "?" not in pattern:
        return pattern == name
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), name) is not None


def _callable(name: str) -> bool:
    try:
        ssh_command(name)
    except InvalidRequest:
        return False
    return "@" not in name and name != "local"
