"""`wait_for` and `wait_all`: hold until output says so, on one stream or on several."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterable

from .errors import InvalidRequest, SessionNotFound
from .runtime import Pending
from .reading import Start
from .stream import Stream, streams
from .waiting import Match, Patterns, as_list, words

__all__ = ["Match", "find_stream", "wait_all", "wait_for"]


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
    channel was quiet for `settle` seconds. What was printed before the call counts: a wait begins behind the match of
    the wait before it, the first one at the beginning, and the same cell run again where it began the first time. The
    answer depends on the log and its times alone, so it is the same live and afterwards.

    Args:
        pattern: A regular expression with the meaning of `re` (str for lines, bytes for raw output), or a list of
            them; the first match in the log wins.
        stream: A stream or its name; the latest one when it is not given.
        fail: Patterns that end the wait with `FailPatternSeen`; on one line they win.
        timeout: Seconds until `WaitTimeout`; it limits the waiting, never the command.
        start: `"begin"`, `"now"` or a byte offset, instead of the place told above.
        channel: Look at `"stdout"`, `"stderr"` or `"tty"` only.
        settle: Seconds of quiet after which an unfinished line counts; at least 0.05.

    Returns:
        Something to await (`result()` blocks instead) for a `Match`.

    Raises:
        WaitTimeout, SessionEnded, FailPatternSeen, PatternTooSlow: From the await. The session goes on, if it does.
        PatternError, SessionNotFound: At the call.
    """
    target = find_stream(stream)
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
    targets = [find_stream(one) for one in (streams.values() if of is None else of)]
    if not targets:
        raise InvalidRequest("there is no stream to wait for; `%%cmdop` starts one")
    waits = [
        target.wait_for(pattern, fail=fail, timeout=timeout, start=start, channel=channel, settle=settle)
        for target in targets
    ]
    what = f"wait_all /{words(as_list(pattern, 'pattern'))}/ on {len(waits)} streams"
    return Pending(_gather(waits, any), what, tied=True)


async def _gather(waits: list[Pending[Match]], just_one: bool) -> list[Match]:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        if not just_one:
            return list(await asyncio.gather(*tasks))
        failure: BaseException | None = None
        for task in asyncio.as_completed(tasks):
            try:
                return [await task]
            except Exception as error:
                failure = failure or error
        assert failure is not None
        raise failure
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def find_stream(wanted: Stream | str | None) -> Stream:
    """The stream of that name, or the latest. Raises SessionNotFound."""
    if isinstance(wanted, Stream):
        return wanted
    if wanted is None:
        latest = streams.latest
        if latest is None:
            raise SessionNotFound("the latest", ())
        return latest
    if not isinstance(wanted, str):
        raise InvalidRequest(f"a stream or the name of one is wanted, not {wanted!r}")
    if wanted not in streams:
        raise SessionNotFound(wanted, tuple(difflib.get_close_matches(wanted, list(streams), 3)))
    return streams[wanted]
