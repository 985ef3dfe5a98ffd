"""One link: a process whose stdin and stdout reach an agent, and the calls under way on it. It breaks once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import IO, Any

from ..agent.frames import FrameDecoder, FrameError, encode
from ..agent.store import raise_answer
from ..errors import LinkLost
from .bootstrap import Bootstrap, BootstrapError

PIPE_SIZE = 1024 * 1024  # bytes, where the system allows it
ACKNOWLEDGE, ACKNOWLEDGE_AT_ONCE = 16 * 1024, 1024 * 1024  # bytes of bulk after which the far side is told of them
ACKNOWLEDGE_SECONDS = 0.005  # pass between two such words, each of which wakes up everybody on the way
RATE_SECONDS = 0.1  # over which the rate is measured
LAST_WORDS = 8 * 1024  # bytes of stderr that are kept
CLOSE_SECONDS = 2.0  # for the process to end by itself once its stdin is closed

Header = dict[str, Any]


class Link:
    """Starts `command` and brings the agent up behind it; then `ask`s it. On one loop.

    Args:
        machine: Its name, for errors.
        silence: Seconds without a word after which the link counts as broken.
        on_lost: Called once with this link and the reason when it has broken after it was opened.

    Attributes:
        heard: When the last byte came, by the loop's clock.
        round_trip: Seconds of the newest ping; None before.
        rate: Bytes of bulk a second, lately.
        lost: Why it broke; None while it is up.
    """

    def __init__(
        self, machine: str, bootstrap: Bootstrap, silence: float, on_lost: Callable[[Link, str], object]
    ) -> None:
        self._machine, self._bootstrap, self._silence, self._on_lost = machine, bootstrap, silence, on_lost
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._stdout: _Source | None = None
        self._stderr: asyncio.ReadTransport | None = None
        self._errors = _LastWords()
        self._decoder = FrameDecoder()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[asyncio.Future[tuple[Header, list[bytes]]], list[bytes]]] = {}
        self._bulk = self._told = 0  # bytes of bulk that came, and that the far side knows of
        self._telling: asyncio.TimerHandle | None = None
        self._measured = (self._loop.time(), 0)  # when the rate was, and the bulk that had come
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._tasks: set[asyncio.Future[object]] = set()
        self._tick: asyncio.TimerHandle | None = None
        self._up = False
        self._ended_by_us = False
        self.heard = self._loop.time()
        self.round_trip: float | None = None
        self.rate = 0.0
        self.lost: str | None = None

    async def open(self, command: Sequence[str], environment: Mapping[str, str]) -> Header:
        """Start the command and wait for the agent's hello; return it. Cancelling ends the process.

        Raises:
            BootstrapError: What is there is no agent, and cannot become one.
            OSError: The command cannot be started.
        """
        with contextlib.ExitStack() as files:  # those that no transport has taken yet
            far_stdin, stdin = _pipe(files)
            stdout, far_stdout = _pipe(files)
            # A session of its own: the user's ^C is not for it, and it finds no terminal to ask at.
            self._process = subprocess.Popen(  # noqa: ASYNC220  # a fork, of milliseconds
                command,
                stdin=far_stdin,
                stdout=far_stdout,
                stderr=subprocess.PIPE,
                env=dict(environment),
                start_new_session=True,
            )
            assert self._process.stderr is not None
            files.enter_context(self._process.stderr)
            self._stdin, _ = await self._loop.connect_write_pipe(asyncio.BaseProtocol, stdin)
            self._stdout = _Source(stdout, self._readable)
            self._stderr, _ = await self._loop.connect_read_pipe(lambda: self._errors, self._process.stderr)
            files.pop_all()
            far_stdin.close()
            far_stdout.close()
        self._stdin.write(self._bootstrap.first)
        try:
            await self._opened
        except BaseException:
            self.close()
            raise
        self._up = True
        self._watch()
        return self._bootstrap.hello

    async def last_words(self) -> tuple[str, int | None]:
        """What the process said on stderr, and its exit code, once it has ended."""
        process = self._process
        if process is None:
            return "", None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._errors.closed.wait()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, CLOSE_SECONDS)
        self.close()
        return self._errors.text, None if self._ended_by_us else process.poll()

    async def ask(self, header: Header, body: bytes = b"") -> tuple[Header, list[bytes]]:
        """Ask the agent, and wait for the answer, whose body comes in pieces. Cancelling tells it that nobody waits.

        Raises:
            LinkLost: The link broke before the answer.
            CmdopError: What the agent answered.
        """
        if self.lost is not None or self._stdin is None:
            raise LinkLost(self._machine, self.lost or "closed")
        number = next(self._numbers)
        frame = encode({**header, "number": number}, body)
        future: asyncio.Future[tuple[Header, list[bytes]]] = self._loop.create_future()
        self._waiting[number] = future, []
        self._stdin.write(frame)
        try:
            answer, data = await future
        except asyncio.CancelledError:
            if number in self._waiting and self._stdin is not None:
                self._stdin.write(encode({"op": "cancel", "number": number}))
            raise
        finally:
            self._waiting.pop(number, None)
        return raise_answer(answer), data

    def later(self, work: Coroutine[Any, Any, object]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self, reason: str = "closed") -> None:
        """End the process; calls under way raise LinkLost."""
        self._lose(reason)
        process, stdin = self._process, self._stdin
        stdout, stderr = self._stdout, self._stderr
        self._stdin = self._stdout = self._stderr = None
        if stdin is not None and not stdin.is_closing():
            stdin.abort()
        if stdout is not None:
            stdout.close()
        if stderr is not None and not stderr.is_closing():
            stderr.close()
        if process is not None and process.poll() is None:
            self._ended_by_us = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL if self._silent() else signal.SIGTERM)
            self._loop.run_in_executor(None, _reap, process)

    # -- reading: into the buffer that frames are decoded from, since gigabytes come this way

    def _readable(self, file: int) -> None:
        self.heard = self._loop.time()
        try:
            with self._decoder.room() as room:
                size = os.readv(file, [room])
                begin = b"" if self._opened.done() else bytes(room[:size])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            size = 0
        if not size:
            self._ended()
            return
        try:
            if self._opened.done():
                self._take(self._decoder.took(size))
            else:
                self._begin(begin)
        except BootstrapError as error:
            if not self._opened.done():
                self._opened.set_exception(error)
        except FrameError as error:
            self.close(str(error))

    def _begin(self, data: bytes) -> None:
        """Bring the agent up with what the far side says first."""
        answer = self._bootstrap.feed(data)
        if answer and self._stdin is not None:
            self._stdin.write(answer)
        if self._bootstrap.done:
            self._opened.set_result(None)
            self._take(self._decoder.feed(self._bootstrap.rest))

    def _take(self, frames: list[tuple[Header, bytes]]) -> None:
        for header, body in frames:
            self._hear(header, body)
        if self._bulk - self._told >= ACKNOWLEDGE_AT_ONCE:
            self._acknowledge()
        elif self._bulk - self._told >= ACKNOWLEDGE and self._telling is None:
            self._telling = self._loop.call_later(ACKNOWLEDGE_SECONDS, self._acknowledge)
        since, before = self._measured
        if self.heard - since >= RATE_SECONDS:
            self.rate = (self._bulk - before) / (self.heard - since)
            self._measured = self.heard, self._bulk

    def _ended(self) -> None:
        if self._stdout is not None:
            self._stdout.close()
        if not self._opened.done():
            if self.lost is None:
                self.later(self._fail())
            return
        self._lose(self._why())
        self.close()

    # -- the parts

    async def _fail(self) -> None:
        """It ended before the agent said a word: find out why."""
        said, code = await self.last_words()
        if not self._opened.done():
            self._opened.set_exception(self._bootstrap.end(code, said.encode()))

    def _acknowledge(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        if self._stdin is not None and self._told < self._bulk:
            self._told = self._bulk
            self._stdin.write(encode({"op": "got", "bytes": self._bulk}))

    def _hear(self, header: Header, body: bytes) -> None:
        if header.get("bulk"):
            self._bulk += len(body)
        waiting = self._waiting.get(header.get("number", 0))
        if waiting is None:
            return  # of a call that was cancelled
        future, pieces = waiting
        if header.get("more"):
            pieces.append(body)
        elif not future.done():
            future.set_result((header, [*pieces, body]))

    def _watch(self) -> None:
        """Ask for a sign of life where there was none for a while; without one the link is broken."""
        if self.lost is not None:
            return
        quiet = self._loop.time() - self.heard
        if quiet >= self._silence:
            self.close(f"no word in {self._silence:g} s")
            return
        if quiet >= self._silence / 3 * 0.9 or not self.round_trip:
            self.later(self.ping())
        self._tick = self._loop.call_later(self._silence / 3, self._watch)

    async def ping(self) -> float | None:
        """Seconds that a question and its answer take; None when the link broke."""
        began = self._loop.time()
        with contextlib.suppress(LinkLost):
            await self.ask({"op": "ping"})
            self.round_trip = self._loop.time() - began
            return self.round_trip
        return None

    def _silent(self) -> bool:
        return self._loop.time() - self.heard >= self._silence

    def _why(self) -> str:
        """Why the stream ended, as far as the process says so."""
        words = self._errors.text.strip().splitlines()
        return words[-1][:200] if words else "the connection was closed"

    def _lose(self, reason: str) -> None:
        if self.lost is not None:
            return
        self.lost = reason
        for timer in (self._tick, self._telling):
            if timer is not None:
                timer.cancel()
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(LinkLost(self._machine, reason))
        if self._up:
            self._on_lost(self, reason)


class _Source:
    """A pipe's reading end: `readable` is called with its descriptor whenever there is something in it."""

    def __init__(self, file: IO[bytes], readable: Callable[[int], object]) -> None:
        self._file, self._loop = file, asyncio.get_running_loop()
        os.set_blocking(file.fileno(), False)
        self._loop.add_reader(file.fileno(), readable, file.fileno())

    def pause_reading(self) -> None:
        self._loop.remove_reader(self._file.fileno())

    def close(self) -> None:
        if not self._file.closed:
            self._loop.remove_reader(self._file.fileno())
            self._file.close()


class _LastWords(asyncio.Protocol):
    """Keeps the end of what a process says on stderr."""

    def __init__(self) -> None:
        self._data = b""
        self.closed = asyncio.Event()

    @property
    def text(self) -> str:
        return self._data.decode("utf-8", "replace")

    def data_received(self, data: bytes) -> None:
        self._data = (self._data + data)[-LAST_WORDS:]

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set()


def _pipe(files: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """What is read, and what is written; `files` closes both."""
    import fcntl

    reading, writing = os.pipe()
    with contextlib.suppress(OSError):  # not Linux, or the user's share of pipe memory is used up
        fcntl.fcntl(reading, getattr(fcntl, "F_SETPIPE_SZ", 1031), PIPE_SIZE)
    return files.enter_context(os.fdopen(reading, "rb", 0)), files.enter_context(os.fdopen(writing, "wb", 0))


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that was told to end; make it end."""
    try:
        process.wait(CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
