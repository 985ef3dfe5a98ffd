"""The I/O thread: what runs on it, how others wait for it, and what an interrupt or a fork does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from cmdop_jupyter import runtime as module
from cmdop_jupyter.runtime import NobodyWaits, Pending, on_main_thread, runtime


async def answer(value: object = 42) -> object:
    await asyncio.sleep(0)
    return value


async def fail(error: BaseException) -> None:
    raise error


class Never:
    """Something that does not end by itself, and tells when it was begun and when it was ended."""

    def __init__(self) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()

    async def run(self) -> None:
        self.begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.ended.set()


@pytest.fixture
def never() -> Never:
    return Never()


def functions_of(thread: threading.Thread) -> list[str]:
    """The functions that a thread is in."""
    frame = sys._current_frames().get(thread.ident)
    names = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


def script(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)


async def test_what_has_begun_can_be_awaited_on_any_loop():
    assert await Pending(answer(), "it") == 42


def test_what_has_begun_can_be_waited_for_without_a_loop():
    assert Pending(answer(), "it").result() == 42


def test_it_runs_whether_somebody_waits_or_not(never):
    Pending(never.run(), "it")

    assert never.begun.wait(10)


async def test_it_can_be_awaited_twice():
    pending = Pending(answer(), "it")

    assert [await pending, await pending] == [42, 42]


async def test_it_can_be_a_task_or_one_of_several():
    one = asyncio.create_task(Pending(answer(1), "it"))
    two, three = await asyncio.gather(Pending(answer(2), "it"), asyncio.wait_for(Pending(answer(3), "it"), 10))

    assert [await one, two, three] == [1, 2, 3]


@pytest.mark.parametrize("wait", [lambda pending: pending.result(), lambda pending: asyncio.run(as_main(pending))])
def test_an_error_reaches_whoever_waits(wait):
    with pytest.raises(LookupError, match="gone"):
        wait(Pending(fail(LookupError("gone")), "it"))


async def as_main(pending: Pending[object]) -> object:
    return await pending


async def test_cancelling_the_await_lets_the_work_go_on(never):
    task = asyncio.create_task(Pending(never.run(), "it"))
    await asyncio.to_thread(never.begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not never.ended.is_set()


async def test_cancelling_the_await_ends_a_wait(never):
    task = asyncio.create_task(Pending(never.run(), "it", tied=True))
    await asyncio.to_thread(never.begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await asyncio.to_thread(never.ended.wait, 10)


async def test_a_task_that_is_cancelled_before_it_ran_ends_its_wait(never):
    pending = Pending(never.run(), "it", tied=True)
    await asyncio.to_thread(never.begun.wait, 10)

    task = asyncio.create_task(pending)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(never.ended.wait, 10)


async def test_wait_for_of_asyncio_ends_a_wait(never):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Pending(never.run(), "it", tied=True), 0.05)

    assert await asyncio.to_thread(never.ended.wait, 10)


def test_a_loop_that_closes_ends_the_waits_of_its_tasks(never):
    async def main() -> None:
        asyncio.create_task(Pending(never.run(), "it", tied=True))  # noqa: RUF006
        await asyncio.to_thread(never.begun.wait, 10)

    asyncio.run(main())

    assert never.ended.wait(10)


def test_an_impatient_result_lets_the_work_go_on(never):
    with pytest.raises(TimeoutError):
        Pending(never.run(), "it", tied=True).result(timeout=0.05)

    assert never.begun.is_set()
    assert not never.ended.is_set()


def test_an_interrupt_ends_a_blocking_wait(never):
    def interrupt() -> None:
        while not never.begun.is_set() or "_patiently" not in functions_of(threading.main_thread()):
            time.sleep(0)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt).start()

    with pytest.raises(KeyboardInterrupt):
        Pending(never.run(), "it", tied=True).result()
    assert never.ended.wait(10)


def test_work_that_is_cancelled_ends_a_blocking_wait():
    async def cancel_itself() -> None:
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    with pytest.raises(concurrent.futures.CancelledError):
        Pending(cancel_itself(), "it").result(timeout=10)


def test_what_it_sends_belongs_to_no_cell():
    cell = contextvars.ContextVar("cell", default="none")
    cell.set("the one that called")

    async def look() -> tuple[str, str]:
        later = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: later.set_result(cell.get()))
        return cell.get(), await later

    assert Pending(look(), "it").result() == ("none", "none")


async def test_waiting_on_the_io_thread_is_refused():
    async def wait_for_itself() -> None:
        runtime().wait(answer())

    async def result() -> None:
        Pending(answer(), "it").result()

    for work in (wait_for_itself, result):
        with pytest.raises(RuntimeError, match="use `await`"):
            await Pending(work(), "it")


async def test_on_the_io_thread_it_can_be_awaited():
    async def outer() -> object:
        return await Pending(answer(), "inner")

    assert await Pending(outer(), "outer") == 42


def test_a_failure_that_nobody_looked_at_is_logged(caplog):
    caplog.set_level(logging.ERROR)
    pending = Pending(fail(LookupError("gone")), "stop api")
    while not pending.done():
        time.sleep(0)
    del pending

    assert caplog.messages == ["stop api failed, and nobody awaited it: gone"]


def test_its_repr_says_how_it_went(never):
    assert repr(Pending(answer(), "stop api")) == "<stop api: done>"
    assert repr(Pending(fail(LookupError("gone")), "stop api")) == "<stop api: gone>"
    assert repr(Pending(never.run(), "stop api")) == "<stop api: under way>"


def test_a_script_that_ends_with_work_under_way_ends_in_silence():
    done = script("""
import asyncio
from cmdop_jupyter.runtime import Pending
async def main():
    waits = [Pending(asyncio.sleep(1000), "it", tied=True) for _ in range(3)]
    asyncio.create_task(waits[0])
    await asyncio.sleep(0)
asyncio.run(main())
""")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_forked_child_has_an_io_thread_of_its_own():
    done = script("""
import asyncio, os, sys
from cmdop_jupyter import runtime as module
from cmdop_jupyter.runtime import NobodyWaits, Pending, on_main_thread, runtime
async def pid():
    return os.getpid()
assert Pending(pid(), "it").result() == os.getpid()
child = os.fork()
if child == 0:
    assert Pending(pid(), "it").result(timeout=20) == os.getpid()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert Pending(pid(), "it").result(timeout=20) == os.getpid()
""")

    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_child_uses_the_sessions_of_its_parent(state_dir):
    done = script("""
import asyncio, os, sys
from cmdop_jupyter import AsyncCMDOPClient
async def main():
    async with AsyncCMDOPClient.local() as client:
        return await client.terminal.create(command="exec cat", tty="none", name="cat")
stream = asyncio.run(main())
stream.send_input("one\\n").result()
stream.wait_for("one").result()
child = os.fork()
if child == 0:
    stream.send_input("from the child\\n").result()
    stream.wait_for("from the child").result()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
stream.send_input("from the parent\\n").result()
print(stream.wait_for("from the parent").result().before, end="")
print(stream.text(), end="")
stream.stop().result()
""")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "\nfrom the child\none\nfrom the child\nfrom the parent\n"


async def on_main_thread_soon(work: Callable[[], object]) -> object:
    """Ask until somebody waits there."""
    while True:
        with contextlib.suppress(NobodyWaits):
            return await on_main_thread(work)
        await asyncio.sleep(0)


def name_of_thread() -> str:
    return threading.current_thread().name


def test_what_the_main_thread_is_asked_for_is_done_where_it_waits():
    assert Pending(on_main_thread_soon(name_of_thread), "it").result() == "MainThread"
    assert asyncio.run(as_main(Pending(on_main_thread_soon(name_of_thread), "it"))) == "MainThread"


def test_it_is_done_by_any_call_that_waits_and_the_wait_goes_on():
    """One asks, another one waits."""
    waited = threading.Event()

    async def end() -> str:
        await asyncio.to_thread(waited.wait, 10)
        return "what was awaited"

    asked = runtime().submit(on_main_thread_soon(name_of_thread))
    asked.add_done_callback(lambda _: waited.set())

    assert Pending(end(), "it").result() == "what was awaited"
    assert asked.result(0) == "MainThread"


def test_several_things_are_done_one_after_the_other():
    under_way, most = 0, 0

    def work() -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        under_way -= 1
        return most

    async def ask() -> list[int]:
        return await asyncio.gather(*(on_main_thread_soon(work) for _ in range(10)))

    assert Pending(ask(), "it").result() == [1] * 10


@pytest.mark.parametrize("error", [LookupError("gone"), KeyboardInterrupt()])
def test_what_goes_wrong_there_reaches_who_asked(error):
    def work() -> None:
        raise error

    async def ask() -> str:
        try:
            await on_main_thread_soon(work)
        except BaseException as seen:
            return repr(seen)

    assert Pending(ask(), "it").result() == repr(error)


def test_while_nobody_waits_on_the_main_thread_it_is_told():
    with pytest.raises(NobodyWaits):
        runtime().submit(on_main_thread(name_of_thread)).result(10)


def test_who_waits_on_another_thread_does_not_count(never):
    pending = Pending(never.run(), "it", tied=True)

    def wait() -> None:
        with pytest.raises(concurrent.futures.CancelledError):
            pending.result()

    thread = threading.Thread(target=wait)
    thread.start()
    while "_patiently" not in functions_of(thread):
        time.sleep(0)

    with pytest.raises(NobodyWaits):
        runtime().submit(on_main_thread(name_of_thread)).result(10)
    pending._future.cancel()
    thread.join()


def queued(work: Callable[[], object]) -> concurrent.futures.Future[object]:
    """Something that the main thread is asked for and has not begun."""
    asked = runtime().submit(on_main_thread(work))
    while module._asked.empty():
        time.sleep(0)
    return asked


def test_when_who_waited_went_away_it_is_told_and_nothing_is_done_later():
    done = []
    with module._waiting():
        asked = queued(lambda: done.append("asked"))

    with pytest.raises(NobodyWaits):
        asked.result(10)
    module._do_asked()
    assert done == []


def test_what_nobody_wants_any_more_is_not_begun():
    """A question whose answer came from elsewhere must not be put to anybody."""
    done = []
    with module._waiting():
        asked = queued(lambda: done.append("asked"))
        asked.cancel()
        runtime().wait(answer())  # the loop has seen it
        module._do_asked()

    assert done == []


def test_there_is_one_io_thread():
    assert runtime() is runtime()
    assert sum(thread.name == "cmdop-io" for thread in threading.enumerate()) == 1
    assert os.getpid() == Pending(answer(os.getpid()), "it").result()


def test_what_is_asked_of_a_result_that_is_not_there_yet_says_to_await_it():
    pending = Pending(asyncio.sleep(0), "create api")

    with pytest.raises(AttributeError, match=r"create api, under way: `await` it.*'on_output'"):
        pending.on_output(print)
    pending.result()
