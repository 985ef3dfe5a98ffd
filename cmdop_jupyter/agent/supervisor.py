"""The small process that owns one session: it runs the command, appends what it prints to the log, and answers.

Started by the store with the session's folder, a listening socket and a pipe to say on whether the command runs.
"""

from __future__ import annotations

import errno
import os
import termios
import time

from . import prompting, status, terminals, tree
from .control import Connection, Control
from .errors import InvalidRequest, SessionOver
from .keyboard import Keyboard
from .light import loads, signal, socket
from .log import LogWriter
from .poll import IN, OUT, Loop
from .stopping import GRACE, LOOK_EVERY, Stopping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .control import Handler

READ_SIZE = 64 * 1024  # bytes; a terminal gives about 4 KiB at a time
PIPE_SIZE = 256 * 1024
DISK_RETRY = 1.0  # seconds between two tries while the disk is full
HOLDER_LOOK = 0.1  # seconds after the exit until we ask who still holds the output
MAX_HOLDERS = 20  # of them that are named
LAST_WRITERS = 8  # whose last word stays known, for those who missed the answer to it
DRAIN = 2 * 1024 * 1024  # bytes; more than a terminal or a pipe of ours holds


class Supervisor:
    """Runs the session described by `session.json` in `folder` until its log closes."""

    def __init__(self, folder: str, listener: socket.socket) -> None:
        with open(os.path.join(folder, "session.json"), "rb") as file:
            self.facts = loads(file.read())
        self._folder = folder
        self._began = time.monotonic()
        self._page = os.open(os.path.join(folder, "status"), os.O_WRONLY | os.O_CLOEXEC)
        self._log = LogWriter(os.path.join(folder, "log"), self.facts["max_log"], self.facts["log_policy"])
        self._state = status.STARTING
        self._more: dict[str, object] = {}  # facts of the state that only some states have
        self._seq = 1
        self._output_ms = 0  # when the newest output was read
        self._reason = ""  # why the log takes nothing, and nothing is read
        self._disk_says = ""
        self._stopping: Stopping | None = None
        self._stop_calls: list[tuple[Connection, dict[str, object]]] = []
        self._keyboard = Keyboard(self.facts["name"])
        self._writes: list[tuple[Connection, dict[str, object], bytes]] = []  # no room for them yet
        self._kills = tree.oom_kills()
        self._loop = Loop()
        handlers: dict[str, Handler] = {
            "write": self._on_write,
            "resize": self._on_resize,
            "signal": self._on_signal,
            "stop": self._on_stop,
            "limit": self._on_limit,
            "hello": self._on_hello,
            "prompt": self._on_prompt,
        }
        self._control = Control(self._loop, listener, handlers, self.status, self._on_gone)
        self._ends = terminals.Ends()
        self._buffer = memoryview(bytearray(PIPE_SIZE if self.facts["tty"] == "none" else READ_SIZE))

    def start(self) -> None:
        """Start the command.

        Raises:
            OSError: It cannot be started.
        """
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTTOU, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        woken, waker = os.pipe()
        os.set_blocking(waker, False)
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        self._loop.watch(woken, IN, lambda _: self._on_signals(os.read(woken, 64)))
        facts = self.facts
        self._ends = terminals.start(
            facts["tty"],
            facts["argv"],
            {**os.environ, tree.MARK: facts["id"]},
            facts["cwd"],
            has_input=facts["input"],
            columns=facts["cols"],
            rows=facts["rows"],
        )
        self._move(status.RUNNING, pid=self._ends.pid)
        self._watch_readers()
        if facts.get("ephemeral"):
            self._loop.after("ephemeral", facts["ephemeral"], self._begin_stop)

    def run(self) -> None:
        """Serve until the session has ended."""
        self._loop.run()
        self._control.close(patience=1.0)
        folder, place = self._folder, self.facts["socket"]
        try:
            for path in (place, os.path.join(folder, "supervisor.err")):
                remove(path)
            if os.path.dirname(place) != folder:
                os.rmdir(os.path.dirname(place))
        except OSError:  # somebody else put something there: it is theirs to sweep
            pass

    def status(self) -> dict[str, object]:
        """Everything that may change, as clients are told it.

        `echo` is whether the input terminal shows what is typed (at a question for a secret it does not); None without.
        """
        return {
            "state": self._state,
            "seq": self._seq,
            "end": self._log.end,
            "newlines": self._log.newlines,
            "output_ms": self._output_ms,
            "dropped": list(self._log.dropped),
            "limit": self._log.limit,
            "policy": self._log.policy,
            "clock_ms": self._mono_ms(),
            "wall_ns": time.time_ns(),
            "echo": self._ends.modes()[1] if self._ends.control >= 0 else None,
            "supervisor": os.getpid(),
            **self._more,
        }

    # -- the state

    def _mono_ms(self) -> int:
        return int((time.monotonic() - self._began) * 1000)

    def _move(self, state: str, **more: object) -> None:
        if state != self._state:
            status.check_move(self._state, state)
        self._state = state
        self._changed(**more)

    def _changed(self, **more: object) -> None:
        self._more.update(more)
        self._seq += 1
        try:
            status.write_page(self._page, self.status())
        except OSError:  # a file system that needs room even for this; who is connected is told all the same
            pass
        self._control.publish(self._seq, self._log.end)

    # -- output

    def _watch_readers(self) -> None:
        for channel, fd in self._ends.readers.items():
            events = 0 if self._reason else IN
            if self._keyboard.unread and fd == self._ends.writer:
                events |= OUT
            self._loop.watch(fd, events, self._on_ready_of(channel))

    def _on_ready_of(self, channel: str) -> Callable[[int], None]:
        return lambda happened: self._on_ready(channel, happened)

    def _on_ready(self, channel: str, happened: int) -> None:
        if happened & OUT:
            self._type()
        if not happened & ~OUT or channel not in self._ends.readers:
            return
        if not self._reason:
            self._read(channel)
        elif happened & ~(IN | OUT):
            # Hung up while we cannot log: poll would say so for ever.
            self._loop.unwatch(self._ends.readers[channel])

    def _read(self, channel: str) -> None:
        fd = self._ends.readers[channel]
        room, want = self._log.room, len(self._buffer)
        if room is not None:
            want = min(want, room)
        # Into one buffer: else the C library maps 256 KiB of fresh pages for each 8 KiB that a program writes.
        size, closed = 0, False
        while size < want:
            try:
                count = os.readv(fd, [self._buffer[size:want]])
            except BlockingIOError:
                break
            except OSError:  # EIO: nobody has the other end of this terminal any more
                count = 0
            if not count:
                closed = True
                break
            size += count
        if size:
            data = bytes(self._buffer[:size])
            self._output_ms = self._mono_ms()
            try:
                self._log.append(channel, data, time.time_ns(), self._output_ms)
            except OSError as error:
                self._wait_for_disk(error)
            self._control.publish(self._seq, self._log.end)
            if self._log.room == 0:
                self._settle()
        if closed:
            self._loop.unwatch(fd)
            self._ends.close(channel)
            self._maybe_end()

    def _wait_for_disk(self, error: OSError) -> None:
        if error.errno in (errno.ENOENT, errno.EBADF):  # not full but gone, and this session with it
            raise error
        self._disk_says = os.strerror(error.errno or errno.EIO)
        self._loop.after("disk", DISK_RETRY, self._retry_disk)
        self._settle()

    def _retry_disk(self) -> None:
        try:
            self._log.retry()
        except OSError as error:
            self._wait_for_disk(error)
            return
        self._control.publish(self._seq, self._log.end)
        self._settle()

    def _settle(self) -> None:
        """Read on while the log takes what is read; else hold the command, and say why."""
        reason = ""
        if self._log.waiting:
            reason = f"the log cannot be written: {self._disk_says}"
        elif self._log.room == 0:
            reason = f"the log is full ({self._log.limit} bytes): raise its limit, or stop it"
        if reason == self._reason:
            return
        self._reason = reason
        self._watch_readers()
        if self._state in (status.RUNNING, status.HELD):
            self._move(status.HELD if reason else status.RUNNING, held=reason)
        else:
            self._changed(held=reason)
        self._maybe_end()

    # -- the command's end

    def _on_signals(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers:  # somebody wants this supervisor gone: take the session along
            self._begin_stop()
        if self._state in (status.RUNNING, status.HELD):
            pid, result = os.waitpid(self._ends.pid, os.WNOHANG)
            if pid:
                self._on_exit(result)
        if self._stopping is not None:
            self._step_stop()

    def _on_exit(self, result: int) -> None:
        self._drain()  # so that an exit is told behind what the command said
        code = os.waitstatus_to_exitcode(result)
        facts = exit_facts(code, stopped=self._stopping is not None, kills=tree.oom_kills() - self._kills)
        self._move(status.EXITED, exit=facts, exited_ns=time.time_ns(), exited_ms=self._mono_ms())
        self._ends.release()
        self._serve_writes()
        if not self._maybe_end():
            self._loop.after("holders", HOLDER_LOOK, self._look_for_holders)

    def _look_for_holders(self) -> None:
        if self._state == status.EXITED:
            names = [str(process) for process in tree.holders(set(self._ends.places.values()), os.getpid())]
            more = len(names) - MAX_HOLDERS
            self._changed(held_by=[*names[:MAX_HOLDERS], f"{more} more"] if more > 0 else names)

    def _maybe_end(self) -> bool:
        if self._state != status.EXITED or self._ends.readers or self._log.waiting or self._stopping is not None:
            return False
        self._end()
        return True

    def _end(self) -> None:
        if not self.facts.get("keep_script"):
            remove(os.path.join(self._folder, "script"))
        self._log.close()
        lost = self._log.waiting
        held = f"{lost} bytes of output are lost: {self._disk_says}" if lost else ""
        typed = self._keyboard.newest(LAST_WRITERS)
        self._move(status.ENDED, ended_ns=time.time_ns(), held_by=[], held=held, typed=typed)
        self._loop.stop()

    # -- stopping

    def _on_stop(self, connection: Connection, header: dict[str, object], _: bytes) -> None:
        grace = GRACE if header.get("grace") is None else float(str(header["grace"]))
        if not grace >= 0:
            raise InvalidRequest(f"a grace is seconds, not {grace}")
        self._stop_calls.append((connection, header))
        self._begin_stop(grace)

    def _begin_stop(self, grace: float = GRACE) -> None:
        if self._stopping is None:
            self._stopping = Stopping(self.facts["kind"], grace, time.monotonic())
            self._changed(stopping=True)
            self._step_stop()

    def _step_stop(self) -> None:
        stopping = self._stopping
        if stopping is None:
            return
        alive = list(tree.members(self.facts["id"], os.getpid(), os.getpid()).values())
        name = stopping.step(time.monotonic(), alive)
        if name:
            self._send_stop_signal(stopping, name, alive)
        if stopping.report is None:
            self._loop.after("stop", LOOK_EVERY, self._step_stop)
            return
        if self._state in (status.RUNNING, status.HELD):  # KILL did not reach it, or it is about to be reaped
            pid, result = os.waitpid(self._ends.pid, os.WNOHANG)
            if pid:
                self._on_exit(result)
        self._stopping = None
        self._loop.cancel("stop")
        self._more["stopped"] = stopping.report
        self._more["stopping"] = False
        if self._state == status.EXITED:
            self._drain()
            if self._ends.readers:
                stopping.add_holders(tree.holders(set(self._ends.places.values()), os.getpid()))
        for connection, header in self._stop_calls:
            self._control.answer(connection, header, {**self.status(), "report": stopping.report})
        self._stop_calls.clear()
        if self._state == status.EXITED:
            self._end()
        else:
            self._changed()

    def _send_stop_signal(self, stopping: Stopping, name: str, alive: list[tree.Process]) -> None:
        number, group = tree.signal_number(name), 0
        if name == "INT":
            # ^C on the terminal, as a person would: one INT for its foreground group, and only one (a second one makes
            # some programs give up without saving).
            self._keyboard.clear()
            while self._writes:  # typed before it, so it goes with it
                self._serve_writes()
                self._keyboard.clear()
            group = self._ends.interrupt()
        pressed = bool(group)
        if not group and self._ends.pid in {process.group for process in alive}:
            group = self._ends.pid
            try:
                os.killpg(group, number)  # all at once: a shell goes by what its child died of
            except OSError:  # they went meanwhile, or we may not: the loop finds out
                pass
        for process in alive:
            if process.group != group or not pressed:
                why = tree.send(process, 0 if process.group == group else number)
                if why:
                    stopping.refused(process, why)
        if name != "INT":
            for process in alive:
                if process.state == "T":
                    tree.send(process, signal.SIGCONT)

    def _drain(self) -> None:
        """Log what the ends still hold, whoever keeps them open, and goes on writing."""
        for channel in list(self._ends.readers):
            before, goal = -1, self._log.end + DRAIN
            while channel in self._ends.readers and before != self._log.end < goal and not self._reason:
                before = self._log.end
                self._read(channel)

    # -- input and the rest of control

    def _refuse_when_over(self) -> None:
        if self._state not in (status.RUNNING, status.HELD):
            raise SessionOver(self.facts["name"], self._state)

    def _on_write(self, connection: Connection, header: dict[str, object], body: bytes) -> object:
        writer, offset, eof = str(header["writer"]), int(str(header["offset"])), bool(header.get("eof"))
        if self._keyboard.full and self._takes_input:
            self._writes.append((connection, header, body))
            return None
        accepted = self._keyboard.repeats(writer, offset, body, eof=eof)
        if accepted is None:
            self._refuse_when_over()
            if self._ends.writer < 0:
                raise SessionOver(self.facts["name"], "without input (--no-input, or nobody reads it any more)")
            end_key = self._ends.control_character(termios.VEOF) if self._ends.control >= 0 else b""
            canonical = self._ends.modes()[0]
            accepted = self._keyboard.accept(writer, offset, body, eof=eof, canonical=canonical, end_key=end_key)
            self._watch_writer()
        return {"accepted": accepted}

    @property
    def _takes_input(self) -> bool:
        return self._ends.writer >= 0 and self._state in (status.RUNNING, status.HELD)

    def _watch_writer(self) -> None:
        ends = self._ends
        if ends.writer in ends.readers.values():
            self._watch_readers()
        elif ends.writer >= 0 and (self._keyboard.unread or self._keyboard.closing):
            self._loop.watch(ends.writer, OUT, lambda _: self._type())
        elif ends.writer >= 0:
            self._loop.unwatch(ends.writer)

    def _type(self) -> None:
        unread = self._keyboard.unread
        try:
            while unread:
                del unread[: os.write(self._ends.writer, unread[:READ_SIZE])]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more
            unread.clear()
            self._close_writer()
        if self._keyboard.closing and not unread:
            self._close_writer()
        self._serve_writes()
        self._watch_writer()

    def _close_writer(self) -> None:
        if self._ends.writer >= 0 and self._ends.writer not in self._ends.readers.values():
            self._loop.unwatch(self._ends.writer)
        self._ends.close_writer()

    def _serve_writes(self) -> None:
        """Do the writes that had to wait, as far as there is room; all of them, to refuse them, when it is over."""
        while self._writes and not (self._keyboard.full and self._takes_input):
            self._control.serve(*self._writes.pop(0))

    def _on_resize(self, _: Connection, header: dict[str, object], body: bytes) -> object:
        self._refuse_when_over()
        columns, rows = int(str(header["cols"])), int(str(header["rows"]))
        if not (0 < columns < 65536 and 0 < rows < 65536):
            raise InvalidRequest(f"a terminal cannot be {columns} by {rows}")
        self._ends.resize(columns, rows)
        return self.status()

    def _on_signal(self, _: Connection, header: dict[str, object], body: bytes) -> object:
        self._refuse_when_over()
        number = tree.signal_number(str(header["signal"]))
        try:
            os.killpg(self._ends.foreground() or self._ends.pid, number)
        except ProcessLookupError:
            os.kill(self._ends.pid, number)
        return self.status()

    def _on_limit(self, _: Connection, header: dict[str, object], body: bytes) -> object:
        self._log.set_limit(int(str(header["limit"])), str(header.get("policy") or self._log.policy))
        self._settle()
        self._changed()
        return self.status()

    def _on_hello(self, connection: Connection, header: dict[str, object], body: bytes) -> object:
        connection.owner = str(header["owner"])
        if connection.owner == self.facts.get("owner"):
            self._loop.cancel("ephemeral")
        return self.status()

    def _on_prompt(self, _: Connection, header: dict[str, object], body: bytes) -> object:
        """How somebody waits for input, how the terminal takes it, and how far the log is at that moment."""
        ends, reading = self._ends, prompting.NOBODY
        if self._takes_input and not self._keyboard.unread and ends.control >= 0:
            reading = prompting.reading(ends.device(), os.getpid(), ends.foreground())
        self._drain()  # who waits has said all it had to say
        canonical, echo, signals = ends.modes()  # last: who asks for a secret sets them just before it reads
        modes = {"echo": echo, "canonical": canonical, "signals": signals}
        return {"reading": reading, **modes, "end": self._log.end}

    def _on_gone(self, connection: Connection) -> None:
        owners = {self.facts.get("owner")}.intersection(other.owner for other in self._control.connections)
        if self.facts.get("ephemeral") and connection.owner == self.facts.get("owner") and not owners:
            self._loop.after("ephemeral", self.facts["ephemeral"], self._begin_stop)


def exit_facts(code: int, *, stopped: bool, kills: int) -> dict[str, object]:
    """How the command ended, for its status.

    Args:
        code: What it returned, or minus the signal that ended it.
        stopped: Whether we sent it signals.
        kills: What the out-of-memory killer took of our control group meanwhile.
    """
    facts: dict[str, object] = {"code": code} if code >= 0 else {"signal": tree.signal_name(-code)}
    if not stopped and code in (-signal.SIGKILL, 128 + signal.SIGKILL):  # the second is how a shell says it
        facts["oom"] = kills > 0
    return facts


def remove(path: str) -> None:
    """Delete a file that may be gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def main(folder: str, listener_fd: int, ready_fd: int) -> None:
    """Supervise the session in `folder`; say on `ready_fd` that the command runs, or why not."""
    if os.fork():
        os._exit(0)  # nobody has to wait for us
    os.setsid()
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the thread that started us may block some
    listener = socket.socket(fileno=listener_fd)
    os.set_inheritable(listener_fd, False)
    os.set_inheritable(ready_fd, False)
    supervisor = Supervisor(folder, listener)
    try:
        supervisor.start()
    except OSError as error:
        os.write(ready_fd, str(error.strerror or error).encode())
        return
    os.close(ready_fd)
    supervisor.run()
