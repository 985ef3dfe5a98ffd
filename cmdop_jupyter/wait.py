"""`wait_for` and `wait_all`: hold until output says so, on one stream or on several."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from .errors import InvalidRequest, SessionEnded
from .reading import Start
from .runtime import Pending
from .stream import Stream
from .streams import streams
from .waiting import Match, Patterns, Wait
from .watching import watched

__all__ = ["Match", "wait_all", "wait_for"]


def wait_for(
    pattern: Patterns,
    stream: Stream | str | None = None,
    *,
    fail: Patterns | None = None,
    timeout: float | None = None,
    start: Start = None,
    channel: str | None = None,
    settle: float = 0.25,
) -> Pending[Match]:
    """Wait until a line of a stream matches `pattern`: `ready = await wait_for(r"port (\\d+)", "api", timeout=60)`.

    A line is tried when it is whole, decoded and without escape sequences; an unfinished one (a prompt) once its
    channel was quiet for `settle` seconds. What was printed before the call counts: a wait begins behind the last match
    of the waits before it, the first one at the beginning, and the same cell run again where it began the first time.
    The answer depends on the log and its times alone, so it is the same live and afterwards.

    Args:
        pattern: A regular expression with the meaning of `re` (str for lines, bytes for raw output), or a list of
            them; the first match in the log wins.
        stream: A stream or its name; the latest one when it is not given.
        fail: Patterns that end the wait with `FailPatternSeen`; on one line they win.
        timeout: Seconds until `WaitTimeout`; it limits the waiting, never the command. What is in the log when the wait
            begins is looked at in any case.
        start: `"begin"`, `"now"` or a byte offset, instead of the place told above.
        channel: Look at `"stdout"`, `"stderr"` or `"tty"` only.
        settle: Seconds of quiet after which an unfinished line counts; at least 0.05.

    Returns:
        Something to await (`result()` blocks instead) for a `Match`.

    Raises:
        WaitTimeout, SessionEnded, FailPatternSeen, PatternTooSlow: From the await. The session goes on, if it does.
        PatternError, SessionNotFound: At the call.
    """
    target = streams.find(stream)
    return target.wait_for(pattern, fail=fail, timeout=timeout, start=start, channel=channel, settle=settle)


def wait_all(
    pattern: Patterns,
    of: Iterable[Stream | str] | None = None,
    *,
    any: bool = False,
    fail: Patterns | None = None,
    timeout: float | None = None,
    start: Start = None,
    channel: str | None = None,
    settle: float = 0.25,
) -> Pending[list[Match]]:
    """Wait until a line of every stream matches `pattern`; gives their matches, in the order of `of`.

    Args:
        of: Streams or names; all of this process when not given.
        any: Be done with the first match of any stream; the list has just that one. Streams that end without it are
            passed over as long as one is left.

    The first stream that fails ends the wait with its error; the rest as for `wait_for`.
    """
    if isinstance(of, (str, Stream)):
        of = [of]
    targets = [streams.find(one) for one in (streams.values() if of is None else of)]
    if not targets:
        raise InvalidRequest("there is no stream to wait for; `%%cmdop` starts one")
    waits = [Wait(pattern, fail=fail, timeout=timeout, channel=channel, settle=settle) for target in targets]
    names = [target.name for target in targets]  # all of them are attached
    works = [target._begin_wait(wait, start) for target, wait in zip(targets, waits, strict=True)]
    what = f"/{waits[0].words}/"
    work = watched(targets, what, _first(works) if any else _every(works))
    return Pending(work, f"wait_all {what} in {', '.join(names)}", tied=True)


async def _every(works: list[Coroutine[Any, Any, Match]]) -> list[Match]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _first(works: list[Coroutine[Any, Any, Match]]) -> list[Match]:
    tasks = [asyncio.create_task(work) for work in works]
    ended: SessionEnded | None = None
    try:
        for task in asyncio.as_completed(tasks):
            try:
                return [await task]
            except SessionEnded as error:
                ended = ended or error
        assert ended is not None
        raise ended
    finally:
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
