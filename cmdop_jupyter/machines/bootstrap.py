"""From the bytes of a far shell to the agent's first frame: what to send, and what went wrong. Without I/O.

The far side runs a word that reads one line and runs it; the line is the loader (`agent/loader.py`). It answers behind
a nonce, which tells it from what login shells print, asks for the agent if it has none, and becomes it.
"""

from __future__ import annotations

import base64
import inspect
import json
import re
import secrets
import zlib
from typing import Any

from ..agent import loader
from ..errors import CmdopError, InvalidRequest
from .parcel import Parcel

READER = '-I -c "import sys;exec(sys.stdin.readline())"'
WORD = f"python3 {READER}"  # passes sh, dash, bash, zsh, tcsh and fish
OLDEST = (3, 9)
NAMES = ("python3", "python", *(f"python3.{minor}" for minor in range(14, 8, -1)), "/usr/libexec/platform-python")
FOUND, END = "cmdop-pythons-found", "cmdop-pythons-end"
MAX_NOISE = 64 * 1024  # bytes; the longest message of the day we know of has 5,000
SHOWN_NOISE = 200  # bytes of it
HARMLESS = re.compile(r"(~/)?[A-Za-z0-9_./][A-Za-z0-9_./+,@:-]*")  # to every shell
WITHOUT_PYTHON = re.compile(
    rb"python[\w./]*: [^\n]*not found|xcode-select|Unknown option: -I|Fatal Python", re.IGNORECASE
)
CONFIGURE = 'name a Python from 3.9 on for this machine: `python = "/path/to/python3"`'
ELSEWHERE = "mend that, or set XDG_CACHE_HOME there to a folder of yours with 1 MB to spare"


class BootstrapError(CmdopError, ConnectionError):
    """No agent came up on the far side. Nothing was started there.

    Attributes:
        reason: What was seen.
        remedy: What to do about it; '' where that is not known.
        look_further: Another Python may serve: try again with `looking_word()`.
    """

    def __init__(self, reason: str, remedy: str = "", look_further: bool = False) -> None:
        super().__init__(reason, remedy, look_further)
        self.reason, self.remedy, self.look_further = reason, remedy, look_further

    def __str__(self) -> str:
        return self.reason + (f"; {self.remedy}" if self.remedy else "")


class NoPython(BootstrapError):
    """There is no python3, it does not run, or it is too old."""


class NoShell(BootstrapError):
    """What answered did not run our word: a forced command, a restricted shell, something that only echoes."""


class TooMuchNoise(BootstrapError):
    """The far side prints without end."""


class CacheRefused(BootstrapError):
    """The agent cannot be kept there."""


class AgentDamaged(BootstrapError):
    """What arrived, or what runs there, is not the agent that was sent."""


class AgentFailed(BootstrapError):
    """It was there, and ended before it said a word."""


def word_of(python: str | None) -> str:
    """The one word that makes a far shell wait for the loader.

    Args:
        python: As configured; by default the first `python3` of its PATH.

    Raises:
        InvalidRequest: A path that some shell would not take as it is.
    """
    if python is None:
        return WORD
    if not HARMLESS.fullmatch(python):
        raise InvalidRequest(
            f"python = {python!r} cannot be given to every shell: letters, digits and `_ . / + , @ : -` can, and `~/` "
            f"in front; make a symbolic link to it that has no others"
        )
    return f"{python} {READER}"


def looking_word() -> str:
    """As `word_of`, but it takes the first Python from 3.9 on that runs, whatever it is called; else it lists them.

    They are run, not looked up: what PATH has may be a stub that only prints how to install one.
    """
    names = " ".join(NAMES)
    enough = f'"import sys;sys.exit(sys.version_info<({OLDEST[0]},{OLDEST[1]}))"'
    return (
        f"sh -c 'set -f; for p in {names}; do "
        f'"$p" -I -c {enough} </dev/null >/dev/null 2>&1 && exec "$p" {READER}; done; '
        f"echo; echo {FOUND}; for p in {names}; do "
        f'command -v "$p" >/dev/null 2>&1 && echo "$p" $("$p" -V 2>&1 </dev/null); done; echo {END}\''
    )


def first_line(parcel: Parcel, nonce: str, *, login: bool) -> bytes:
    """The loader as one line of Python.

    What looks at the version is older than the versions it refuses: Python 2.7 can run it. The nonce is in two pieces
    or packed, so that no echo of this line can be taken for an answer.
    """
    call = f"\nrun({nonce!r}, {parcel.digest!r}, {len(parcel.data)}, {login})\n"
    packed = base64.b64encode(zlib.compress((inspect.getsource(loader) + call).encode(), 9)).decode()
    look = (
        "import base64, json, os, sys, zlib\n"
        f"if sys.version_info < {OLDEST}:\n"
        "    said = {'error': 'old', 'python': '%d.%d.%d' % sys.version_info[:3], 'path': sys.executable}\n"
        f"    said = '\\n%s %s\\n' % ('{nonce[:8]}' + '{nonce[8:]}', json.dumps(said))\n"
        "    os.write(1, said.encode('ascii'))\n"
        "    sys.exit(1)\n"
        f"exec(zlib.decompress(base64.b64decode('{packed}')))\n"
    )
    return f"exec({look!r})\n".encode("ascii")


class Bootstrap:
    """Take what a far side that runs the word says; give what to send it, until its agent is there.

    Args:
        parcel: The agent that shall run there.
        login: Start it by way of the user's login shell, for its environment.
        nonce: What answers begin with; by default a new one.

    Attributes:
        first: What to send at once. Nothing more until `feed` says so: the far side would lose it.
        was: How the agent was found: `here`, `missing`, `damaged` (then it was replaced); '' until that is known.
        done: The agent is there. Feed nothing more.
        hello: Once done: `python`, `path` (of Python), `platform`, `hostname`, `user`, `pid`, `agent` (its digest),
            `was`, `cache`.
        rest: Once done: what came behind its hello, the first bytes of frames.
        noise: The first 200 bytes of what was printed by others.

    Raises:
        BootstrapError: From `feed`; the link must be closed.
    """

    def __init__(self, parcel: Parcel, *, login: bool = False, nonce: str | None = None) -> None:
        self._nonce = nonce or secrets.token_hex(16)
        self._mark = f"\n{self._nonce} ".encode("ascii")
        self._parcel, self._login = parcel, login
        self.first = first_line(parcel, self._nonce, login=login)
        self.was, self.hello, self.rest, self.done = "", dict[str, Any](), b"", False
        self._heard = bytearray()  # not understood yet
        self._noise = bytearray()

    @property
    def noise(self) -> bytes:
        return bytes(self._noise[:SHOWN_NOISE])

    def feed(self, data: bytes) -> bytes:
        """Return what to send next; `b""` for nothing."""
        if self.done:
            raise ValueError("the agent is there: what it says is frames")
        self._heard += data
        answer = b""
        while not self.done:
            said = self._next_line()
            if said is None:
                break
            answer += self._take(said)
        return answer

    def end(self, code: int | None = None, said: bytes = b"") -> BootstrapError:
        """Why the stream ended before the agent was there.

        Args:
            code: What the command of the link returned, where that is known.
            said: The last of what it printed on stderr.
        """
        noise, words = bytes(self._noise + self._heard), _shown(said[-SHOWN_NOISE:])
        if f"\n{END}\n".encode() in noise:
            return _none_found(noise)
        how = (f"exit {code}" if code is not None else "the stream ended") + (f", {words}" if words else "")
        if self.was and self._login:
            remedy = "see what its profile does, or leave `login` out"
            return AgentFailed(f"its login shell ended before the agent ran ({how}){_printed(noise)}", remedy)
        if self.was:
            return AgentFailed(f"its agent ended at once ({how}){_printed(noise)}")
        lost = f"it ended before anything of ours ran there ({how}){_printed(noise)}"
        if code == 255:  # ssh's own
            return BootstrapError(lost)
        silent = not noise.strip() and not words
        if code in (126, 127) or WITHOUT_PYTHON.search(said) or (code is None and silent):
            return NoPython(f"python3 does not run there ({how})", CONFIGURE, True)
        if noise.strip() or silent:
            return NoShell(
                lost, "a login there has to run the command it is given: no ForceCommand, no restricted shell"
            )
        return BootstrapError(lost)

    def _next_line(self) -> bytes | None:
        """The next line that is meant for us; None when it is not there yet."""
        heard, mark = self._heard, self._mark
        at = heard.find(mark)
        noise = at if at >= 0 else max(0, len(heard) - len(mark) + 1)
        if heard.find(self.first[:SHOWN_NOISE], 0, at if at >= 0 else None) >= 0:
            raise NoShell(
                "it sends back what we send",
                "a link has no terminal (leave out `-t` of docker, kubectl and ssh) and runs the word it is given",
            )
        if len(self._noise) + noise > MAX_NOISE:
            self._noise += heard[:noise]
            raise TooMuchNoise(
                f"it printed more than {MAX_NOISE} bytes before the agent could answer{_printed(self.noise)}",
                "a shell that runs a command should print nothing: see its profile and rc files",
            )
        if at < 0:
            return None
        begin = at + len(mark)
        end = heard.find(b"\n", begin)
        if (end if end >= 0 else len(heard)) - begin > MAX_NOISE:
            raise NoShell("its answer has no end")
        if end < 0:
            return None
        line = bytes(heard[begin:end])
        self._noise += heard[:at]
        del heard[: end + 1]
        return line

    def _take(self, line: bytes) -> bytes:
        """Understand one line; return what to answer."""
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise NoShell(f"its answer makes no sense: {_shown(line[:SHOWN_NOISE])}")
        if "error" in said:
            raise _refused(said)
        if "agent" in said:
            if said["agent"] != self._parcel.digest:
                raise AgentDamaged(
                    f"the agent that runs there is not ours (SHA-256 {said['agent']}, sent {self._parcel.digest})",
                    "somebody replaced it in this moment: see who else can write to its cache",
                )
            self.hello = {**said, "was": self.was}
            self.rest, self.done = bytes(self._heard), True
            self._heard.clear()
            return b""
        if self.was or said.get("was") not in ("here", "missing", "damaged"):
            raise NoShell(f"its answer makes no sense: {_shown(line[:SHOWN_NOISE])}")
        self.was = said["was"]
        return b"" if self.was == "here" else self._parcel.data


def _refused(said: dict[str, Any]) -> BootstrapError:
    """What the loader said was in its way, as an error."""
    kind = said["error"]
    if kind == "old":
        reason = f"python3 there is too old: {said.get('python')} ({said.get('path')}); 3.9 or newer is needed"
        return NoPython(reason, CONFIGURE, True)
    if kind == "cache":
        return CacheRefused(f"the agent cannot be kept there: {said.get('text')} ({said.get('path')})", ELSEWHERE)
    if kind == "digest":
        return AgentDamaged(
            f"the agent arrived damaged (SHA-256 {said.get('got')})",
            "the link changes bytes, as terminals do: leave out `-t` of docker, kubectl and ssh",
        )
    if kind == "exec":
        return AgentFailed(f"{said.get('path')} cannot be run there: {said.get('text')}", CONFIGURE)
    return BootstrapError(f"its loader failed: {said}")


def _none_found(noise: bytes) -> NoPython:
    """The error for what `looking_word` lists when it found none."""
    text = noise.decode("utf-8", "replace").rpartition(f"\n{FOUND}\n")[2].partition(f"{END}\n")[0]
    seen = []
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        version = re.match(r"Python (\d[\w.+]*)", rest)
        seen.append(f"{name} is {version[1]}" if version else f"{name} does not run")
    if seen:
        return NoPython(f"no Python from 3.9 on there: {', '.join(seen)}", f"install one, or {CONFIGURE}")
    return NoPython(f"no Python there; tried {', '.join(NAMES)}", f"install Python 3.9 or newer, or {CONFIGURE}")


def _printed(noise: bytes) -> str:
    text = _shown(noise[:SHOWN_NOISE])
    return f"; it printed: {text}" if text else ""


def _shown(data: bytes) -> str:
    """Bytes of strangers as one line that does nothing to a screen."""
    text = " ".join(data.decode("utf-8", "replace").split())
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
