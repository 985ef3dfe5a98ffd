"""`wait_for` and `wait_all`: hold until output says so, on one stream or on several."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, overload

from .errors import CmdopError, FailPatternSeen, InvalidRequest, PatternTooSlow, WaitTimeout
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


@overload
def wait_all(  # type: ignore[overload-overlap]  # a mapping is iterable too
    pattern: Patterns,
    of: Mapping[str, Stream],
    *,
    any: bool = ...,
    at_least: int | None = ...,
    fail: Patterns | None = ...,
    timeout: float | None = ...,
    start: Start = ...,
    channel: str | None = ...,
    settle: float = ...,
) -> Pending[dict[str, Match]]: ...
@overload
def wait_all(
    pattern: Patterns,
    of: Iterable[Stream | str] | None = ...,
    *,
    any: bool = ...,
    at_least: int | None = ...,
    fail: Patterns | None = ...,
    timeout: float | None = ...,
    start: Start = ...,
    channel: str | None = ...,
    settle: float = ...,
) -> Pending[list[Match]]: ...


def wait_all(
    pattern: Patterns,
    of: Mapping[str, Stream] | Iterable[Stream | str] | None = None,
    *,
    any: bool = False,
    at_least: int | None = None,
    fail: Patterns | None = None,
    timeout: float | None = None,
    start: Start = None,
    channel: str | None = None,
    settle: float = 0.25,
) -> Pending[Any]:
    """Wait until a line of every stream matches `pattern`; gives their matches, in the order of `of`.

    Args:
        of: A fleet, or its name: then it gives a mapping of machine names to matches. Else streams or names; all of
            this process when not given.
        any: Be done with the first match of any stream; there is just that one then. Streams that end without it, or
            were not started, are passed over as long as one is left.
        at_least: The same for so many of them: the first that match.

    The first stream that fails ends the wait with its error; the rest as for `wait_for`.
    """
    if isinstance(of, str) and of not in streams and of in streams.fleets:
        of = streams.fleets[of]
    if isinstance(of, (str, Stream)):
        of = [of]
    keys = list(of) if isinstance(of, Mapping) else None
    given: Iterable[Stream | str] = of.values() if isinstance(of, Mapping) else streams.values() if of is None else of
    targets = [streams.find(one) for one in given]
    if not targets:
        raise InvalidRequest("there is no stream to wait for; `%%cmdop` starts one")
    if any and at_least not in (None, 1):
        raise InvalidRequest(f"any is at_least=1, which contradicts at_least={at_least}")
    count = 1 if any else len(targets) if at_least is None else at_least
    if not 1 <= count <= len(targets):
        raise InvalidRequest(f"at_least is 1 to {len(targets)}, as many as there are streams, not {at_least}")
    waits = [Wait(pattern, fail=fail, timeout=timeout, channel=channel, settle=settle) for target in targets]
    names = [target.name for target in targets]
    works = [target._begin_wait(wait, start) for target, wait in zip(targets, waits, strict=True)]
    what = f"/{waits[0].words}/"
    work = watched(targets, what, _matches(works, count, keys, patient=any or at_least is not None))
    return Pending(work, f"wait_all {what} in {', '.join(names)}", tied=True)


async def _matches(
    works: list[Coroutine[Any, Any, Match]], count: int, keys: list[str] | None, *, patient: bool
) -> list[Match] | dict[str, Match]:
    found = await (_some(works, count) if patient else _every(works))
    if keys is None:
        return [found[number] for number in sorted(found)]
    return {keys[number]: found[number] for number in sorted(found)}


async def _every(works: list[Coroutine[Any, Any, Match]]) -> dict[int, Match]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return {number: task.result() for number, task in enumerate(tasks)}


async def _some(works: list[Coroutine[Any, Any, Match]], count: int) -> dict[int, Match]:
    """The first `count` matches, by the number of the work that gave them."""

    async def numbered(number: int, work: Coroutine[Any, Any, Match]) -> tuple[int, Match]:
        return number, await work

    tasks = [asyncio.create_task(numbered(number, work)) for number, work in enumerate(works)]
    left, found = len(tasks), dict[int, Match]()
    try:
        for task in asyncio.as_completed(tasks):
            try:
                number, match = await task
                found[number] = match
            except (FailPatternSeen, PatternTooSlow, WaitTimeout):
                raise
            except CmdopError:  # it ended, or was never started
                left -= 1
                if left < count:
                    raise
            if len(found) == count:
                return found
        raise AssertionError("as many matched, or one raised")
    finally:
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
