"""The I/O thread and its loop, one a process, also in scripts: coroutines go in, awaitables for any caller come out."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

T = TypeVar("T")

TICK = 0.1  # seconds; ipykernel's interrupt reaches an await only when its loop wakes (so we wake it)
WORKERS = 16  # threads for what computes or blocks: searches, starts
# For those who are called from any thread; all other modules leave threads to this one.
Lock, ReentrantLock, thread_id = threading.Lock, threading.RLock, threading.get_ident
log = logging.getLogger("cmdop_jupyter")


class Runtime:
    """A thread with a loop of its own. Take the process's one by `runtime()`."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()  # a loop itself does not keep its tasks alive
        self.loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(WORKERS, "cmdop-worker"))
        self._thread = threading.Thread(target=self._run, name="cmdop-io", daemon=True)
        contextvars.Context().run(self._thread.start)

    def here(self) -> bool:
        """Whether the caller is on the I/O thread."""
        return threading.current_thread() is self._thread

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run `coroutine` on the I/O thread, beginning now. In an empty context: what it sends belongs to no cell."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def begin() -> None:
            task = self.loop.create_task(coroutine, context=contextvars.Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda task: _pass_on(task, future))
            future.add_done_callback(lambda future: future.cancelled() and self.loop.call_soon_threadsafe(task.cancel))

        self.loop.call_soon_threadsafe(begin, context=contextvars.Context())
        return future

    def wait(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run `coroutine` on the I/O thread and block until it is done.

        Raises:
            RuntimeError: The caller is the I/O thread, which would wait for itself.
        """
        if self.here():
            coroutine.close()
            raise RuntimeError("this call waits, and cannot be made where streams are served; use `await`")
        future = self.submit(coroutine)
        try:
            return _patiently(future, timeout)
        except BaseException:
            future.cancel()
            raise

    def call_later(self, callback: Callable[[], object]) -> None:
        """Run `callback` on the I/O thread soon."""
        self.loop.call_soon_threadsafe(callback, context=contextvars.Context())

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # closed already
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(1.0)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


class Pending(Coroutine[Any, Any, T], Generic[T]):
    """Something that has begun on the I/O thread. Await it for its result, call `result()` to block, or let it be.

    Cancelling the `await` (an interrupt does) lets the work go on, unless it is a wait, which ends then.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], what: str, *, tied: bool = False) -> None:
        self._future = runtime().submit(coroutine)
        self._what, self._tied = what, tied
        self._inner: Coroutine[Any, Any, T] | None = None
        self._claimed = False

    def done(self) -> bool:
        """Whether it is finished."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> T:
        """Block until it is done; for people without a loop.

        Raises:
            TimeoutError: It takes longer than `timeout` seconds (and goes on).
        """
        if runtime().here():
            raise RuntimeError("result() waits, and cannot be called where streams are served; use `await`")
        try:
            self._claimed = True
            return _patiently(self._future, timeout)
        except KeyboardInterrupt as interrupt:
            self._let_go()
            self._in_one_line(interrupt)
            raise

    def send(self, value: Any) -> Any:
        if self._inner is None:
            self._inner = self._wait()
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        if self._inner is None:  # its task was cancelled before it ran
            self._let_go()
            self._inner = self._wait()
        return self._inner.throw(*error)

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._wait().__await__()

    if not TYPE_CHECKING:  # which knows better

        def __getattr__(self, name: str) -> NoReturn:
            what = self.__dict__.get("_what", "it")
            raise AttributeError(f"this is {what}, under way: `await` it, or take its `result()`, which has {name!r}")

    def __repr__(self) -> str:
        if not runtime().here():
            concurrent.futures.wait([self._future], timeout=0.05)
        if not self._future.done():
            return f"<{self._what}: under way>"
        if self._future.cancelled():
            return f"<{self._what}: cancelled>"
        error = self._future.exception()
        self._claimed = True
        return f"<{self._what}: {error or 'done'}>"

    def __del__(self) -> None:
        future = getattr(self, "_future", None)
        if future is not None and not self._claimed and future.done() and not future.cancelled() and future.exception():
            log.error("%s failed, and nobody awaited it: %s", self._what, future.exception())

    async def _wait(self) -> T:
        self._claimed = True
        future = asyncio.wrap_future(self._future)
        tick = None if runtime().here() else TICK
        try:
            with _waiting():
                while not future.done():
                    await asyncio.wait([future], timeout=tick)
                    _do_asked()
            return future.result()
        except asyncio.CancelledError as interrupt:
            self._let_go()
            self._in_one_line(interrupt)
            raise
        except GeneratorExit:
            self._let_go()
            raise
        finally:
            if not future.done():
                future.add_done_callback(lambda future: future.cancelled() or future.exception())

    def _in_one_line(self, interrupt: BaseException) -> None:
        """Let IPython show an interrupt by what it means: our frames below it say nothing to the person who did it."""
        line = f"\x1b[31mInterrupted\x1b[39m: {self._what}; what runs goes on"
        interrupt._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]

    def _let_go(self) -> None:
        self._claimed = True
        if self._tied:
            self._future.cancel()


# What has to be done on the user's own thread, by whoever waits there: asking somebody at the keyboard.
_asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
_waiters = 0  # waits under way on the main thread


class NobodyWaits(Exception):
    """No call of ours is waiting on the main thread."""


async def on_main_thread(work: Callable[[], T]) -> T:
    """Do `work` on the main thread, while somebody waits there for us. Called on the I/O thread.

    Raises:
        NobodyWaits: The main thread does something else.
    """
    if not _waiters:
        raise NobodyWaits
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    _asked.put(lambda: _answer(work, future))
    wrapped = asyncio.wrap_future(future)
    try:
        while not wrapped.done():
            if not _waiters and not future.running() and future.cancel():  # who waited went away
                raise NobodyWaits
            await asyncio.wait([wrapped], timeout=TICK)
        return wrapped.result()
    finally:
        future.cancel()  # nobody wants it any more; under way or done it is not touched


def is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def _waiting() -> Iterator[None]:
    global _waiters
    count = is_main_thread()
    _waiters += count
    try:
        yield
    finally:
        _waiters -= count


def _do_asked() -> None:
    if is_main_thread():
        with contextlib.suppress(queue.Empty):
            while True:
                _asked.get_nowait()()


def _patiently(future: concurrent.futures.Future[T], timeout: float | None) -> T:
    """Block for the result, and do meanwhile what the main thread is asked for."""
    until = None if timeout is None else time.monotonic() + timeout
    with _waiting():
        while True:
            left = TICK if until is None else min(TICK, until - time.monotonic())
            concurrent.futures.wait([future], timeout=max(0.0, left))
            if future.done() or (until is not None and time.monotonic() >= until):
                return future.result(0)
            _do_asked()


class Worker:
    """A thread that does one thing after another. The process does not wait for it when it ends."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        contextvars.Context().run(threading.Thread(target=self._run, name=name, daemon=True).start)

    async def run(self, work: Callable[[], T]) -> T:
        """Do `work` there and wait for it. Called on the I/O thread."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._jobs.put(lambda: _answer(work, future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Let the thread end once it has done what it was given."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


_current: Runtime | None = None
_making = threading.Lock()


def runtime() -> Runtime:
    """The I/O thread of this process; a forked child gets its own."""
    global _current
    with _making:
        if _current is None:
            _current = Runtime()
            atexit.register(_current.close)
        return _current


def _forget_after_fork() -> None:
    global _current, _making
    _current, _making = None, threading.Lock()


def after_fork(callback: Callable[[], object]) -> None:
    """Call back in each child that this process forks, for locks that nobody there could release."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=callback)


after_fork(_forget_after_fork)


def _answer(work: Callable[[], T], future: concurrent.futures.Future[T]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)


def _pass_on(task: asyncio.Task[T], future: concurrent.futures.Future[T]) -> None:
    if task.cancelled():
        future.cancel()
        future.set_running_or_notify_cancel()  # else those who wait for it hear nothing
    elif not future.set_running_or_notify_cancel():
        task.exception()  # nobody wants it any more
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())
