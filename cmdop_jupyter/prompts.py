"""When a session waits for somebody to type: its newest output and who reads its terminal in, prompts out.

Nothing is looked at while there is output, and nothing at all while the newest line is finished.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .agent.log import Chunk
from .agent.status import HELD, RUNNING
from .errors import InvalidRequest, LogDropped, PatternTooSlow, PromptCameBack
from .lines import clean
from .machines.base import InputWait, Machine, SessionFacts, Status
from .needles import Source, TextNeedle
from .subscription import Events

QUIET_MS = 300  # without output before a line counts as a prompt
TOGETHER_MS = 100  # output that was read so close together may be in another order than it was written
TAIL_BYTES = 8192  # that are looked at
TEXT = 1000  # characters of a prompt
LOOK_SECONDS = (0.3, 3.0)  # until it is looked at again who reads: at first, and at most
MOST_TIMES = 3  # that one prompt is answered

_ASKS = (":", "?", ">", "❯", "»", "$ ", "# ", "y/n]", "y/n)", "yes/no]", "yes/no)")
_SECRETS = ("password", "passphrase", "passcode", "secret", "token", "pin", "otp", "key")
_SCREENS = (b"\x1b[?1049", b"\x1b[?1047", b"\x1b[?47")  # the second screen of full-screen programs; `h` is on, `l` off
_PASTE = (b"\x1b[?2004",)  # that a paste is marked: line editors say so at their prompt, and show what is typed


@dataclass(frozen=True, slots=True)
class Prompt:
    """A session waits for what is typed.

    Attributes:
        text: The unfinished line, without escape sequences.
        secret: What is typed is not shown.
        offset: Where it ends in the log, in bytes: a prompt that came later has another.
        enter: What the Enter key is there.
    """

    text: str
    secret: bool
    offset: int
    enter: bytes = b"\n"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The newest line of a session, when it has no end yet.

    Attributes:
        edited: A line editor said so: it switches the terminal's echo off, and shows what is typed itself.
    """

    text: str
    offset: int
    edited: bool


def unfinished(chunks: Sequence[Chunk], since: int = 0) -> Unfinished | None:
    """The newest unfinished line of a log's tail; what lies in front of byte `since` does not count.

    None where the newest line is finished or blank, and where a full-screen program has drawn it.
    """
    rests: dict[str, bytes] = {}
    last: dict[str, Chunk] = {}
    whole: dict[str, bytes] = {}
    for chunk in chunks:
        channel = chunk.channel
        whole[channel] = whole.get(channel, b"") + chunk.data
        fresh = chunk.data[max(0, since - chunk.offset) :]
        rest = rests.get(channel, b"") + fresh
        rests[channel] = rest[max(rest.rfind(b"\n"), rest.rfind(b"\r")) + 1 :]
        if fresh:
            last[channel] = chunk
        if channel == "tty" and b"\n" in fresh:  # somebody typed: what asked before on other channels was answered
            for name, other in last.items():
                if name != "tty" and chunk.mono_ms - other.mono_ms > TOGETHER_MS:
                    rests[name] = b""
    newest = max((chunk.mono_ms for chunk in chunks), default=0)
    found = [(chunk.end, name) for name, chunk in last.items() if newest - chunk.mono_ms <= TOGETHER_MS]
    for offset, channel in sorted(found, reverse=True):
        text = clean(rests[channel])
        if text.strip():
            if _is_on(whole[channel], _SCREENS) or _places_cursor(rests[channel]):
                return None
            return Unfinished(text[-TEXT:], offset, _is_on(whole[channel], _PASTE))
    return None


def prompt_of(line: Unfinished, wait: InputWait) -> Prompt | None:
    """The prompt that an unfinished line is while somebody waits so; None: it is none."""
    if wait.reading == "read":
        asks = True
    elif wait.reading == "hidden":  # of sudo and the like only the terminal can be seen
        asks = _looks_asking(line.text) or (wait.canonical and not wait.echo)
    else:
        asks = wait.reading == "poll" and _looks_asking(line.text)
    if not asks:
        return None
    # A line editor takes each key but ^C; what takes that too, as ssh does, has to say that it is one.
    editor = not wait.canonical and (wait.signals or line.edited)
    shows_itself = editor and not _names_secret(line.text)
    return Prompt(line.text, not wait.echo and not shows_itself, line.offset, b"\n" if wait.canonical else b"\r")


def _looks_asking(text: str) -> bool:
    return text.rstrip().lower().endswith(_ASKS) or text.endswith(_ASKS)


def _names_secret(text: str) -> bool:
    words = "".join(char if char.isalnum() else " " for char in text.lower()).split()
    return any(word.startswith(_SECRETS[0]) or word in _SECRETS for word in words)


def _is_on(data: bytes, switches: tuple[bytes, ...]) -> bool:
    """Whether the last of these switches in the output says on."""
    last = max((data.rfind(switch), len(switch)) for switch in switches)
    return last[0] >= 0 and data[sum(last) : sum(last) + 1] == b"h"


def _places_cursor(line: bytes) -> bool:
    """Whether a line was put together by jumping about the screen."""
    for piece in line.split(b"\x1b[")[1:]:
        rest = piece.lstrip(b"0123456789;")
        if rest[:1] in (b"H", b"f"):
            return True
    return False


@dataclass(slots=True)
class Mark:
    """What lies in front of byte `offset` of the log was answered: it is no prompt, nor a part of one."""

    offset: int = 0


class PromptWatch:
    """The prompts of one session, as they come and go. On the I/O thread.

    Args:
        answered: Shared by all who answer; moved by them.
    """

    def __init__(self, machine: Machine, session: SessionFacts, answered: Mark | None = None) -> None:
        self._machine, self._session = machine, session
        self.answered = answered or Mark()

    async def changes(self) -> AsyncIterator[Prompt | None]:
        """Each prompt when it is there, None when it is gone. Ends when the command has; asks for nothing meanwhile."""
        if not self._session.input or self._session.tty == "none":
            return
        machine, session_id = self._machine, self._session.id
        shown: Prompt | None = None
        seen, pause = -1, 0.0
        status = await machine.status(session_id)
        while status.state in (RUNNING, HELD) or (status.live and not status.over):
            quiet = status.clock_ms - status.output_ms
            line: Unfinished | None = None
            prompt: Prompt | None = None
            if status.end and quiet < QUIET_MS:
                if shown is not None and seen != status.end:
                    shown = None
                    yield None
                await asyncio.sleep((QUIET_MS - quiet) / 1000)
                status = await machine.status(session_id)
                continue
            if status.end:
                line, prompt, status = await self._look(status)
            if prompt != shown:
                shown = prompt
                yield prompt
            pause = min(pause * 2, LOOK_SECONDS[1]) if seen == status.end else LOOK_SECONDS[0]
            seen = status.end
            await self._output(status, pause if line is not None else None)
            status = await machine.status(session_id)
        if shown is not None:
            yield None

    async def _look(self, status: Status) -> tuple[Unfinished | None, Prompt | None, Status]:
        """The newest line, and what it is when nothing was said meanwhile."""
        tail = await self._machine.tail(self._session.id, TAIL_BYTES)
        line = unfinished(tail.chunks, self.answered.offset)
        if line is None or tail.status.end != status.end:
            return line, None, tail.status
        wait = await self._machine.waits_for_input(self._session.id)
        return line, prompt_of(line, wait) if wait.end == status.end else None, tail.status

    async def _output(self, status: Status, patience: float | None) -> None:
        """Wait until the log goes on, or for so many seconds."""
        try:
            async with asyncio.timeout(patience):
                await self._machine.read(self._session.id, status.end, 1)
        except LogDropped:
            pass
        except TimeoutError:
            pass


class Type(Protocol):
    """How something is typed into the session: the data, and who says so; a second call by the same one is none."""

    async def __call__(self, data: bytes, writer: str, /) -> None: ...


class Answer:
    """Types a value at each prompt that a pattern is found in: once a prompt, three times the same one.

    Args:
        pattern: What to look for in the prompt's text.
        value: Gives what is typed; asked each time, and kept nowhere.

    Raises:
        PatternError: It does not compile.
        InvalidRequest: It is no text pattern.
    """

    def __init__(self, pattern: Source, value: Callable[[], str]) -> None:
        if not isinstance(getattr(pattern, "pattern", pattern), str):
            raise InvalidRequest(f"a prompt is text: its pattern must be one for str, not {pattern!r}")
        self._needle, self._value = TextNeedle(pattern), value
        self._words = str(getattr(pattern, "pattern", pattern))
        self._times: Counter[str] = Counter()

    def takes(self, prompt: Prompt) -> bool:
        """Whether it answers that prompt, or would have."""
        try:
            return self._times[prompt.text] < MOST_TIMES and self._matches(prompt.text)
        except PatternTooSlow:  # told where it is answered
            return False

    async def run(self, watch: PromptWatch, type_in: Type, report: Callable[[BaseException], None]) -> Events:
        """Answer until the command has exited; each answer is an event without arguments."""
        async for prompt in watch.changes():
            if prompt is None or prompt.offset <= watch.answered.offset:
                continue
            try:
                value = self._value()
                check_answer(value)
                text = prompt.text.removeprefix(value) if value else prompt.text  # a program's own echo
                if not await asyncio.get_running_loop().run_in_executor(None, self._matches, text):
                    continue
                if prompt.offset <= watch.answered.offset:  # another answer was faster
                    continue
                watch.answered.offset = prompt.offset
                self._times[prompt.text] += 1
                if self._times[prompt.text] > MOST_TIMES:
                    if self._times[prompt.text] == MOST_TIMES + 1:
                        report(PromptCameBack(prompt.text, MOST_TIMES))
                    continue
                data = value.encode() + prompt.enter
                await type_in(data, f"prompt-{prompt.offset}-{len(data)}")
            except Exception as error:
                report(error)
            else:
                yield [(None, None)]

    def told(self, prompt: Prompt) -> None:
        """What a subscription needs as its handler; an answer calls none."""

    def _matches(self, text: str) -> bool:
        data = text.replace("\n", " ").encode("utf-8", "replace")
        spot = self._needle.find(data, 0, len(data), ascii=data.isascii())
        if spot is not None and spot.match is None:
            raise PatternTooSlow(self._words, self._needle.seconds, text[:80], 0)
        return spot is not None

    def __repr__(self) -> str:
        return f"<Answer to /{self._words}/>"


def from_environment(name: str) -> Callable[[], str]:
    """What gives the value of an environment variable here, now and later. Raises InvalidRequest: there is none."""

    def value() -> str:
        held = os.environ.get(name)
        if held is None:
            raise InvalidRequest(f"there is no environment variable {name} here to answer with; set it before")
        return held

    check_answer(value(), f"the environment variable {name}")
    return value


def given(value: str | Callable[[], str] | None) -> Callable[[], str]:
    """What gives an answer that is at hand."""
    if callable(value):
        return value
    check_answer(value)
    return lambda: str(value)


async def asked(watch: PromptWatch) -> Events:
    """Each prompt as an event, once."""
    last = -1
    async for prompt in watch.changes():
        if prompt is not None and prompt.offset > last:
            last = prompt.offset
            yield [((prompt,), None)]


def check_answer(value: object, what: str = "an answer") -> None:
    """Raise InvalidRequest if it cannot be typed as one line."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} is a str, not {type(value).__name__}")
    if "\n" in value or "\r" in value:
        raise InvalidRequest(f"{what} has a line end in it; a prompt is answered with one line")
