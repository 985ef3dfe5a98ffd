"""What a front end adds to waits: which cell runs, and something to see while somebody waits. Plain without one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from .stream import Stream

T = TypeVar("T")
log = logging.getLogger("cmdop_jupyter")


def no_cell() -> tuple[Hashable, Hashable] | None:
    """Outside a notebook there are no cells."""
    return None


current_cell: Callable[[], tuple[Hashable, Hashable] | None] = no_cell


def set_current_cell(function: Callable[[], tuple[Hashable, Hashable] | None]) -> None:
    """Tell how to know which cell runs, and which run of it this is: for "the same cell run again"."""
    global current_cell
    current_cell = function


class WaitWatch(Protocol):
    """What a front end does about one wait."""

    async def done(self, outcome: object) -> None:
        """The wait is over, with a result or an exception; called on the I/O thread before it is given out."""
        ...


_begin_watch: Callable[[Sequence[Stream], str], WaitWatch] | None = None


def set_wait_hook(function: Callable[[Sequence[Stream], str], WaitWatch] | None) -> None:
    """Call `function(streams, what)` whenever somebody begins to wait: the notebook's part of showing it."""
    global _begin_watch
    _begin_watch = function


def watched(streams: Sequence[Stream], what: str, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Let the front end show that somebody waits, and have its say before the answer is given out."""
    watch = _begin_watch(streams, what) if _begin_watch is not None else None
    return work if watch is None else _watched(watch, work)


async def _watched(watch: WaitWatch, work: Coroutine[Any, Any, T]) -> T:
    outcome: object = None
    try:
        outcome = result = await work
    except BaseException as error:
        outcome = error
        raise
    finally:
        try:
            await watch.done(outcome)
        except Exception:
            log.exception("showing that a wait is over failed")
    return result
