"""A handler on a stream: a loop over a cursor that calls somebody's function where it wants to be called."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from .agent.log import Chunk
from .errors import InvalidRequest
from .runtime import runtime

Handler = Callable[..., Any]


def arity(handler: Handler, *, most: int = 2) -> int:
    """How many of `most` positional arguments a handler takes. Raises InvalidRequest when it cannot be called."""
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):  # written in C: it does not say; `list.append` takes one
        if callable(handler):
            return 1
        raise InvalidRequest(f"a handler must be callable, got {handler!r}") from None
    kinds = inspect.Parameter
    if any(parameter.kind is kinds.VAR_POSITIONAL for parameter in parameters):
        return most
    positional = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    needed = sum(parameter.default is kinds.empty for parameter in positional)
    stuck = [p.name for p in parameters if p.kind is kinds.KEYWORD_ONLY and p.default is kinds.empty]
    if needed > most or not positional or stuck:
        raise InvalidRequest(
            f"a handler takes {'(data) or (data, channel)' if most == 2 else 'one argument'}; "
            f"{getattr(handler, '__qualname__', handler)} takes {inspect.signature(handler)}"
        )
    # A second parameter with a default is the author's own, not the channel: `lambda d, sink=sink: …`.
    return most if needed == most else 1


class Place:
    """Where handlers run: on the loop they were registered from, or on a worker thread.

    Args:
        thread: A worker even when there is a running loop.
    """

    def __init__(self, *, thread: bool) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: concurrent.futures.ThreadPoolExecutor | None = None
        self._context = contextvars.copy_context()
        if not thread and not runtime().here():
            try:
                self._loop = asyncio.get_running_loop()
            except RuntimeError:  # none: a worker then
                self._loop = None
        if self._loop is None:
            self._worker = concurrent.futures.ThreadPoolExecutor(1, "cmdop-handler")

    async def run(self, function: Callable[[], Any], *, is_async: bool) -> None:
        """Call `function` there and wait for it. Called on the I/O thread."""
        if self._loop is not None:
            future: concurrent.futures.Future[Any] = concurrent.futures.Future()
            if self._loop.is_closed():
                raise _LoopClosed
            if is_async:
                self._loop.call_soon_threadsafe(self._begin, function, future)
            else:
                self._loop.call_soon_threadsafe(_call, function, future)
            await asyncio.wrap_future(future)
        elif is_async:
            assert self._worker is not None
            await asyncio.get_running_loop().run_in_executor(self._worker, lambda: asyncio.run(_finish(function())))
        else:
            await asyncio.get_running_loop().run_in_executor(self._worker, function)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.shutdown(wait=False)

    def _begin(self, function: Callable[[], Awaitable[Any]], future: concurrent.futures.Future[Any]) -> None:
        assert self._loop is not None
        task = self._loop.create_task(_finish(function()), context=self._context)
        task.add_done_callback(lambda task: _settle(task, future))


class _LoopClosed(Exception):
    """The loop a handler was registered from is gone, and so is its handler."""


class Subscription:
    """A registered handler: `remove()` it, or use it as a context manager.

    Attributes:
        errors: How often the handler raised.
        offset: The log offset up to which it was served (output handlers).
    """

    def __init__(
        self, handler: Handler, place: Place, report: Callable[[BaseException], None], *, is_async: bool
    ) -> None:
        self.handler, self.errors, self.offset = handler, 0, 0
        self._place, self._report, self._is_async = place, report, is_async
        self._task: asyncio.Task[None] | None = None
        self._removed = False

    def start(
        self, events: AsyncIterator[tuple[tuple[Any, ...], int]], on_done: Callable[[Subscription], None]
    ) -> None:
        """Serve (arguments, log offset behind them) one after the other. Called on the I/O thread."""
        if not self._removed:
            self._task = asyncio.get_running_loop().create_task(self._serve(events))
            self._task.add_done_callback(lambda _: on_done(self))

    def remove(self) -> None:
        """Call the handler no more; a call that is under way ends by itself."""
        self._removed = True
        runtime().call_later(lambda: self._task and self._task.cancel())

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        name = getattr(self.handler, "__qualname__", repr(self.handler))
        return f"<Subscription {name}: at byte {self.offset}, {self.errors} errors>"

    async def _serve(self, events: AsyncIterator[tuple[tuple[Any, ...], int]]) -> None:
        try:
            async for arguments, offset in events:
                try:
                    await self._place.run(functools.partial(self.handler, *arguments), is_async=self._is_async)
                except _LoopClosed:
                    return
                except Exception as error:
                    self.errors += 1
                    self._report(error)
                self.offset = offset
        finally:
            self._place.close()


def show_error(what: str, error: BaseException) -> None:
    """Print a handler's traceback where the user sees it: on stderr, which a notebook shows in the current cell."""
    frames = traceback.format_exception(error)
    sys.stderr.write(f"cmdop_jupyter: {what} raised; the stream goes on\n{''.join(frames)}")


def piece_of(chunk: Chunk, count: int) -> tuple[Any, ...]:
    """A chunk as a handler of that many arguments takes it."""
    return (chunk.data, chunk.channel) if count == 2 else (chunk.data,)


async def _finish(work: Awaitable[Any]) -> Any:
    return await work


def _call(function: Callable[[], Any], future: concurrent.futures.Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _settle(task: asyncio.Task[Any], future: concurrent.futures.Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if task.cancelled():
        future.set_exception(InvalidRequest("the handler was cancelled"))
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())
