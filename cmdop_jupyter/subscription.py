"""Handlers on a stream: loops over a cursor that call somebody's function where it wants to be called."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

from .agent.log import Chunk
from .errors import InvalidRequest
from .runtime import Worker, runtime

Handler = Callable[..., Any]
Event = tuple[tuple[Any, ...] | None, int | None]
"""Arguments for one call (None: no call) and the log offset behind them (None: it has nothing to do with the log)."""
Events = AsyncIterator[list[Event]]


def arity(handler: Handler, *, most: int = 2) -> int:
    """How many of `most` positional arguments a handler takes. Raises InvalidRequest when it cannot be called."""
    if not callable(handler):
        raise InvalidRequest(f"a handler must be callable, got {handler!r}")
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):  # written in C: it does not say; `bytearray.extend` takes one
        return 1
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


def is_async(handler: Handler) -> bool:
    """Whether it is a coroutine function, or an object with one to call it by."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


def piece_of(chunk: Chunk, count: int) -> tuple[Any, ...]:
    """A chunk as a handler of that many arguments takes it."""
    return (chunk.data, chunk.channel) if count == 2 else (chunk.data,)


class Place:
    """Where a handler runs: on the loop it was registered from, or on a worker; what it prints belongs to that cell.

    Args:
        thread: A worker even when there is a running loop.
    """

    def __init__(self, *, thread: bool) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: Worker | None = None
        self._context = contextvars.copy_context()
        if not thread and not runtime().here():
            try:
                self._loop = asyncio.get_running_loop()
            except RuntimeError:  # none: a worker then
                self._loop = None
        if self._loop is None:
            self._worker = Worker("cmdop-handler")

    async def run(self, functions: Sequence[Callable[[], Any]], after: Callable[[BaseException | None], bool]) -> None:
        """Call each there, await what it gives to await, tell `after` what it raised; go on while that says so.

        On the I/O thread. A worker is handed all of them at once; a loop one by one, since others are guests there too.

        Raises:
            LoopClosed: It cannot be called any more.
        """
        if self._worker is not None:
            await self._worker.run(functools.partial(self._context.run, _call_in_worker, functions, after))
            return
        for function in functions:
            if not after(await self._on_loop(function)):
                return

    async def _on_loop(self, function: Callable[[], Any]) -> BaseException | None:
        assert self._loop is not None
        answer: concurrent.futures.Future[BaseException | None] = concurrent.futures.Future()
        try:
            self._loop.call_soon_threadsafe(_call_on_loop, function, answer, context=self._context)
        except RuntimeError:
            raise LoopClosed from None
        return await asyncio.wrap_future(answer)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


class LoopClosed(Exception):
    """The loop a handler was registered from is gone, and so is its handler."""


class Subscription:
    """A registered handler: `remove()` it, or use it as a context manager.

    Attributes:
        errors: How often the handler raised.
        offset: The log offset up to which it was served; None before it began, and where it is not about output.
        removed: It is not called any more.
    """

    def __init__(self, handler: Handler, place: Place, report: Callable[[BaseException], None]) -> None:
        self.handler, self.errors, self.removed = handler, 0, False
        self.offset: int | None = None
        self._place, self._report = place, report
        self._task: asyncio.Task[None] | None = None

    def start(self, events: Events, on_end: Callable[[Subscription], None]) -> None:
        """Serve `events`, one after the other. On the I/O thread."""

        def end(_: object) -> None:
            self._place.close()
            on_end(self)

        self._task = asyncio.get_running_loop().create_task(self._serve(events))
        self._task.add_done_callback(end)
        if self.removed:
            self._task.cancel()

    def remove(self) -> None:
        """Call the handler no more; a call that is under way ends by itself."""
        self.removed = True
        runtime().call_later(lambda: self._task and self._task.cancel())

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        name = getattr(self.handler, "__qualname__", repr(self.handler))
        at = "" if self.offset is None else f" at byte {self.offset},"
        return f"<Subscription {name}:{at} {self.errors} errors>"

    async def _serve(self, events: Events) -> None:
        try:
            async for batch in events:
                calls = [event for event in batch if event[0] is not None]
                if calls:
                    functions = [functools.partial(self.handler, *arguments or ()) for arguments, _ in calls]
                    await self._place.run(functions, functools.partial(self._after, iter(calls)))
                self.offset = batch[-1][1]
        except LoopClosed:
            pass
        except Exception as error:  # its cursor met it, and cannot go on
            self._report(error)

    def _after(self, calls: Iterator[Event], error: BaseException | None) -> bool:
        """The next of `calls` is over, perhaps with an error; whether one more may be made. Here or on a worker."""
        _, self.offset = next(calls)
        if error is not None and runtime().here():
            self._raised(error)
        elif error is not None:
            runtime().call_later(lambda: self._raised(error))
        return not self.removed

    def _raised(self, error: BaseException) -> None:
        """Tell an error, then count it: who sees the count has been told. On the I/O thread."""
        self._report(error)
        self.errors += 1


class Subscriptions:
    """The handlers of one stream. They begin when it is attached; what they raise is reported and counted."""

    def __init__(self) -> None:
        self.all: list[Subscription] = []
        self._errors = 0  # of handlers that are no more
        self._name = "a stream"
        self._attached = False
        self._waiting: list[tuple[Subscription, Callable[[], Events]]] = []
        self._error_handlers: list[Handler] = []
        self._shown: set[tuple[object, ...]] = set()

    @property
    def errors(self) -> int:
        """How often handlers raised."""
        return self._errors + sum(subscription.errors for subscription in self.all)

    def add(self, handler: Handler, events: Callable[[], Events], *, thread: bool) -> Subscription:
        """Call `handler` for each of `events`, which are asked for once the stream is attached."""
        subscription = Subscription(handler, Place(thread=thread), self.report)
        self.all.append(subscription)
        runtime().call_later(lambda: self._begin(subscription, events))
        return subscription

    def on_error(self, handler: Handler) -> None:
        self._error_handlers.append(handler)

    def attach(self, name: str) -> None:
        """The stream is attached to a session of that name. On the I/O thread."""
        self._name, self._attached = name, True
        waiting, self._waiting = self._waiting, []
        for subscription, events in waiting:
            self._begin(subscription, events)

    def detach(self) -> None:
        """Remove all."""
        self._attached = False
        for subscription in list(self.all):
            subscription.remove()

    def report(self, error: BaseException) -> None:
        """Tell an error where the user sees it; one that comes again from the same place is only counted."""
        for handler in self._error_handlers:
            try:
                handler(error)
            except BaseException as second:
                show_error("an error handler", second)
        place = _place_of(error)
        if not self._error_handlers and place not in self._shown:
            self._shown.add(place)
            show_error(f"a handler of {self._name}", error)

    def _begin(self, subscription: Subscription, events: Callable[[], Events]) -> None:
        if self._attached or subscription.removed:
            subscription.start(events(), self._end)
        else:
            self._waiting.append((subscription, events))

    def _end(self, subscription: Subscription) -> None:
        self.all.remove(subscription)
        self._errors += subscription.errors


def show_error(what: str, error: BaseException) -> None:
    """Print a handler's traceback where the user sees it: on stderr, which a notebook shows in the current cell."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next  # ours, which say nothing
    lines = traceback.format_exception(type(error), error, frames)
    sys.stderr.write(f"cmdop_jupyter: {what} raised; the stream goes on\n{''.join(lines)}")


def _place_of(error: BaseException) -> tuple[object, ...]:
    """What is raised, and where: the same for an error that comes again with other words."""
    frames = traceback.extract_tb(error.__traceback__)
    return (type(error), frames[-1].filename, frames[-1].lineno) if frames else (repr(error),)


async def _finish(work: Awaitable[Any]) -> Any:
    return await work


def _call_in_worker(functions: Sequence[Callable[[], Any]], after: Callable[[BaseException | None], bool]) -> None:
    for function in functions:
        raised: BaseException | None = None
        try:
            result = function()
            if inspect.isawaitable(result):
                asyncio.run(_finish(result))
        except BaseException as error:
            raised = error
        if not after(raised):
            return


def _call_on_loop(function: Callable[[], Any], answer: concurrent.futures.Future[BaseException | None]) -> None:
    if not answer.set_running_or_notify_cancel():
        return  # it was removed
    try:
        result = function()
    except BaseException as error:
        answer.set_result(error)
        if isinstance(error, KeyboardInterrupt):  # somebody wants this program to end
            raise
        return
    if not inspect.isawaitable(result):
        answer.set_result(None)
        return
    task = asyncio.ensure_future(_finish(result))
    task.add_done_callback(lambda task: answer.set_result(_raised_by(task)))


def _raised_by(task: asyncio.Future[Any]) -> BaseException | None:
    return asyncio.CancelledError("the handler was cancelled") if task.cancelled() else task.exception()
