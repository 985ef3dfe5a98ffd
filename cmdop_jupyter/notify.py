"""Telling somebody who does not look: of an end, a failure, a line that matches, silence. Words in, notices out."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from .agent.log import Chunk
from .errors import InvalidRequest
from .lines import Line
from .machines.base import Exit, Machine, SessionFacts, Status
from .patterns import Grep
from .reading import Begin, Gap, batches
from .subscription import Events
from .waiting import exit_of
from .words import human_seconds

if TYPE_CHECKING:
    from .stream import Stream

COOLDOWN = 60.0  # seconds between two notices of lines that match; those between are counted in the next
TEXT = 200  # characters of a line in a notice
_TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_KNOWN = "end, fail, match=REGEX, silence=10m"

Notice = tuple[str, str]  # title and text
Notifier = Callable[[str, str, Any], object]  # title, text, stream; or the fleet, of its end

_notifier: Notifier | None = None


def set_notifier(function: Notifier | None) -> None:
    """Call `function(title, text, stream)` with each notice that has no handler of its own. None: nobody."""
    global _notifier
    if function is not None and not callable(function):
        raise InvalidRequest(f"a notifier is a function of (title, text, stream), not {function!r}")
    _notifier = function


def notifier() -> Notifier | None:
    """The function that was set."""
    return _notifier


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants to be told of.

    Attributes:
        end: That the command has exited, however.
        fail: That it has failed, or was lost.
        match: A line that matches this.
        silence: Seconds without output; 0: it may be silent.
    """

    end: bool = False
    fail: bool = False
    match: str | None = None
    silence: float = 0.0


def read_wanted(text: str) -> Wanted:
    """Read `end,fail,match=REGEX,silence=10m`; a comma in REGEX stays, if none of these words stands behind it.

    Raises:
        InvalidRequest, PatternError: It makes no sense.
    """
    wanted: dict[str, Any] = {}
    for part in re.split(r",(?=\s*(?:end|fail)\s*(?:,|$)|\s*(?:match|silence)=)", text):
        word, equals, value = part.strip().partition("=")
        if word in wanted:
            raise InvalidRequest(f"--notify says {word} twice; several patterns are one: match=one|two")
        if word in ("end", "fail") and not equals:
            wanted[word] = True
        elif word == "match" and value:
            Grep(value)  # one that does not compile is told now
            wanted[word] = value
        elif word == "silence" and (found := re.fullmatch(r"(\d+(?:\.\d*)?)([smhd]?)", value)) and float(found[1]) > 0:
            wanted[word] = float(found[1]) * _TIMES[found[2]]
        else:
            raise InvalidRequest(f"--notify takes {_KNOWN}, separated by commas; {part.strip()!r} is none of them")
    return Wanted(**wanted)


def exit_notice(name: str, exit: Exit | None, seconds: float, wanted: Wanted) -> Notice | None:
    """What is told of an exit: title and text; None when that is not wanted."""
    good = exit is not None and exit.ok
    if not (wanted.end or (wanted.fail and not good)):
        return None
    how = str(exit) if exit is not None else "lost"
    return f"{name} has {'finished' if good else 'failed'}", f"{how} after {human_seconds(seconds)}"


def silent_for(status: Status) -> float:
    """Seconds since the newest output, by the session's clock; since its start when there was none."""
    return (status.clock_ms - status.output_ms) / 1000


async def notices(machine: Machine, session: SessionFacts, wanted: Wanted, start: Begin, stream: Stream) -> Events:
    """Each notice as an event: title, text, stream. Ends with the command."""
    kinds: list[AsyncIterator[Notice]] = []
    if wanted.end or wanted.fail:
        kinds.append(_exits(machine, session, wanted))
    if wanted.match is not None:
        kinds.append(_matches(machine, session, wanted.match, start))
    if wanted.silence:
        kinds.append(_silences(machine, session, wanted.silence))
    queue: asyncio.Queue[Notice | None] = asyncio.Queue()

    async def pump(kind: AsyncIterator[Notice]) -> None:
        try:
            async for notice in kind:
                queue.put_nowait(notice)
        finally:
            queue.put_nowait(None)

    tasks = [asyncio.create_task(pump(kind)) for kind in kinds]
    try:
        running = len(tasks)
        while running:
            notice = await queue.get()
            if notice is None:
                running -= 1
            else:
                yield [((*notice, stream), None)]
        for task in tasks:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


async def _exits(machine: Machine, session: SessionFacts, wanted: Wanted) -> AsyncIterator[Notice]:
    exit = await exit_of(machine, session.id)
    notice = exit_notice(session.name, exit, session.seconds(await machine.status(session.id)), wanted)
    if notice is not None:
        yield notice


async def _matches(machine: Machine, session: SessionFacts, pattern: str, start: Begin) -> AsyncIterator[Notice]:
    """Lines that match: no more often than the cooldown allows; those between are counted in the next notice."""
    grep, title = Grep(pattern), f"{session.name}: /{pattern}/"
    told_at, newest, more = -COOLDOWN, "", 0
    async for batch in batches(machine, session.id, start, follow=True):
        for line in [line for chunk in batch for line in await _lines(grep, chunk)]:
            newest, more = line.text[:TEXT], more + 1
            if time.monotonic() - told_at >= COOLDOWN:
                yield title, _with_more(newest, more)
                told_at, more = time.monotonic(), 0
    if more:
        yield title, _with_more(newest, more)


async def _lines(grep: Grep, chunk: Chunk) -> list[Line]:
    """What a chunk gives; looked for on a worker, since a pattern may be slow."""
    work = partial(grep.gap, chunk.offset, chunk.end) if isinstance(chunk, Gap) else partial(grep.feed, [chunk])
    return list(await asyncio.get_running_loop().run_in_executor(None, work))


async def _silences(machine: Machine, session: SessionFacts, seconds: float) -> AsyncIterator[Notice]:
    """Each time that a command says nothing for so long, once."""
    told = -1  # the end of the log then
    status = await machine.status(session.id)
    while not status.over:
        left = seconds - silent_for(status)
        if left <= 0 and told != status.end:
            told = status.end
            yield f"{session.name} is silent", f"no output for {human_seconds(seconds)}, and it is running"
        await _news(machine, session.id, status, left if told != status.end else None)
        status = await machine.status(session.id)


async def _news(machine: Machine, session_id: str, status: Status, seconds: float | None) -> None:
    """Wait for so long, or, when that is open, for output or another state."""
    changes: set[asyncio.Task[Any]] = {asyncio.create_task(machine.status(session_id, status.seq))}
    if seconds is None:
        changes.add(asyncio.create_task(machine.read(session_id, status.end, 1)))
    try:
        await asyncio.wait(changes, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in changes:
            task.cancel()
            task.add_done_callback(lambda done: done.cancelled() or done.exception())


def _with_more(newest: str, count: int) -> str:
    return newest if count == 1 else f"{newest} (and {count - 1} more before it)"


def tell(title: str, text: str, stream: Any) -> object:
    """Hand a notice to whoever was set."""
    return _notifier(title, text, stream) if _notifier is not None else None
