"""Handlers on a stream: loops over a cursor that call somebody's function where it wants to be called."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import inspect
import sys
import traceback
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import InvalidRequest
from .runtime import Pending, Worker, runtime

AHEAD = 1000  # errors that an error handler may be behind; what comes then is only counted

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


def name_of(handler: Handler) -> str:
    return getattr(handler, "__qualname__", None) or type(handler).__name__


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

    async def run(self, functions: Sequence[Callable[[], Any]], after: Callable[[BaseException | None], bool]) -> None:
        """Call each there, await what it gives to await, tell `after` what it raised; go on while that says so.

        On the I/O thread. A worker is handed all of them at once; a loop one by one, since others are guests there too.

        Raises:
            LoopClosed: It cannot be called any more.
        """
        if self._loop is None:
            self._worker = self._worker or Worker("cmdop-handler")
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
        """Let its thread end, if it has one; the next `run` has another."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class LoopClosed(Exception):
    """The loop a handler was registered from is gone, and so is its handler."""


class Subscription:
    """A registered handler: `remove()` it, or use it as a context manager; `await` it for its end.

    It ends when the session has ended and the handler was called with all of it, or when it is removed.

    Attributes:
        name: What the handler is called.
        errors: How often the handler raised.
        offset: The log offset up to which it was served; None before it began, and where it is not about output.
        pieces: How many pieces of the log it was called with.
        removed: It is not called any more.
    """

    def __init__(
        self,
        handler: Handler,
        place: Place,
        report: Callable[[BaseException], None],
        log_end: Callable[[], int],
        on_end: Callable[[Subscription], None],
    ) -> None:
        self.handler, self.name, self.errors, self.removed = handler, name_of(handler), 0, False
        self.offset: int | None = None
        self.pieces = 0
        self._place, self._report, self._log_end, self._on_end = place, report, log_end, on_end
        self._task: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    @property
    def lag(self) -> int:
        """Bytes of the log that it was not served yet; 0 where it is not about output."""
        return 0 if self.offset is None else max(0, self._log_end() - self.offset)

    def start(self, events: Events) -> None:
        """Serve `events`, one after the other. On the I/O thread."""
        if not self.removed:
            self._task = asyncio.get_running_loop().create_task(self._serve(events))
            self._task.add_done_callback(self._end)

    def remove(self) -> None:
        """Call the handler no more; a call that is under way ends by itself."""
        self.removed = True
        runtime().call_later(self._stop)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:
            self._end()

    def _end(self, _: object = None) -> None:
        self._place.close()
        if not self._ended.is_set():
            self._ended.set()
            self._on_end(self)

    def result(self, timeout: float | None = None) -> None:
        """Block until it has ended, as `await` does; for people without a loop."""
        self._over().result(timeout)

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until it has ended."""
        yield from self._over().__await__()

    def _over(self) -> Pending[bool]:
        return Pending(self._ended.wait(), f"the end of {self.name}", tied=True)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        at = "" if self.offset is None else f" at byte {self.offset},"
        return f"<Subscription {self.name}:{at} {self.errors} errors>"

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
        self.pieces += self.offset is not None
        if error is not None and runtime().here():
            self._raised(error)
        elif error is not None:
            runtime().call_later(lambda: self._raised(error))
        return not self.removed

    def _raised(self, error: BaseException) -> None:
        """Tell an error, then count it: who sees the count has been told. On the I/O thread."""
        self._report(error)
        self.errors += 1


class ErrorSubscription(Subscription):
    """A handler of what others raise. It has no task while there is nothing to tell, so that nothing keeps it alive."""

    def tell(self, error: BaseException) -> None:
        """Call the handler with it, behind what it was told before. On the I/O thread."""
        if len(self._told) < AHEAD:
            self._told.append(error)
        if self._task is None and not self.removed:
            self._task = asyncio.get_running_loop().create_task(self._serve(self._telling()))
            self._task.add_done_callback(self._rest)

    @functools.cached_property
    def _told(self) -> deque[BaseException]:
        return deque()

    async def _telling(self) -> Events:
        while self._told:
            yield [((self._told.popleft(),), None)]

    def _rest(self, _: object) -> None:
        self._task = None
        self._place.close()
        if self.removed:
            self._end()


class Cursor(Protocol):
    """A reader's place in the log: of a handler, a wait, an iteration, a sink.

    Attributes:
        name: For people.
        offset: The log offset up to which it is served; None while that is not known.
        errors: How often it failed.
        pieces: How many pieces of the log it handed on.
    """

    name: str
    offset: int | None
    errors: int
    pieces: int

    def remove(self) -> None:
        """Read no more."""
        ...


@dataclass(slots=True, eq=False)
class Position:
    """A cursor of somebody who reads by himself: a wait, an iteration."""

    name: str
    offset: int | None = None
    errors: int = 0
    pieces: int = 0

    def remove(self) -> None:
        """Nothing: who reads finds the stream detached."""


class Subscriptions:
    """The cursors of one stream. Handlers begin when it is attached; what they raise is reported and counted.

    Args:
        end: Gives the bytes in the log.
    """

    def __init__(self, end: Callable[[], int]) -> None:
        self.all: list[Cursor] = []
        self._log_end = end
        self._errors = self._pieces = 0  # of those that are no more
        self._name = "a stream"
        self._attached = False
        self._waiting: list[tuple[Subscription, Callable[[], Events]]] = []
        self._told: list[ErrorSubscription] = []
        self._shown: set[tuple[object, ...]] = set()

    @property
    def errors(self) -> int:
        """How often handlers raised."""
        return self._errors + sum(cursor.errors for cursor in self.all)

    @property
    def pieces(self) -> int:
        """How many pieces of the log were handed on."""
        return self._pieces + sum(cursor.pieces for cursor in self.all)

    def lags(self, end: int) -> dict[str, int]:
        """Bytes that each cursor is behind `end`, in the order they came, by name; the second of a name is `name#2`."""
        lags: dict[str, int] = {}
        for cursor in list(self.all):
            if cursor.offset is not None:
                same = sum(name == cursor.name or name.startswith(f"{cursor.name}#") for name in lags)
                lags[f"{cursor.name}#{same + 1}" if same else cursor.name] = max(0, end - cursor.offset)
        return lags

    def add(self, handler: Handler, events: Callable[[], Events], *, thread: bool) -> Subscription:
        """Call `handler` for each of `events`, which are asked for once the stream is attached."""
        subscription = Subscription(handler, Place(thread=thread), self.report, self._log_end, self.leave)
        self.all.append(subscription)
        runtime().call_later(lambda: self._begin(subscription, events))
        return subscription

    def on_error(self, handler: Handler, *, thread: bool) -> Subscription:
        """Call `handler` with each error; while there is one, none is printed. What it raises itself is printed."""

        def report(error: BaseException) -> None:
            show_error("an error handler", error)

        def end(ended: Subscription) -> None:
            self._told = [one for one in self._told if one is not ended]
            self.leave(ended)

        subscription = ErrorSubscription(handler, Place(thread=thread), report, self._log_end, end)
        self.all.append(subscription)
        self._told.append(subscription)
        return subscription

    def join(self, cursor: Cursor) -> None:
        """Count a cursor in."""
        self.all.append(cursor)

    def leave(self, cursor: Cursor) -> None:
        """It is at its end."""
        self.all.remove(cursor)
        self._errors += cursor.errors
        self._pieces += cursor.pieces

    @contextlib.contextmanager
    def at(self, name: str) -> Iterator[Position]:
        """A cursor that is counted in meanwhile."""
        position = Position(name)
        self.join(position)
        try:
            yield position
        finally:
            self.leave(position)

    def attach(self, name: str) -> None:
        """The stream is attached to a session of that name. On the I/O thread."""
        self._name, self._attached = name, True
        waiting, self._waiting = self._waiting, []
        for subscription, events in waiting:
            self._begin(subscription, events)

    def detach(self) -> None:
        """Remove all."""
        self._attached = False
        for cursor in list(self.all):
            cursor.remove()

    def report(self, error: BaseException) -> None:
        """Tell an error where the user sees it; one that comes again from the same place is only counted."""
        for told in self._told:
            told.tell(error)
        place = _place_of(error)
        if not self._told and place not in self._shown:
            self._shown.add(place)
            show_error(f"a handler of {self._name}", error)

    def _begin(self, subscription: Subscription, events: Callable[[], Events]) -> None:
        if self._attached:
            subscription.start(events())
        elif not subscription.removed:
            self._waiting.append((subscription, events))


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
