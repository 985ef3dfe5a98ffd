"""The small process that owns one session: it runs the command, appends what it prints to the log, and answers.

Started by the store with the session's folder, a listening socket and a pipe to say on whether the command runs.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import termios
import time

from . import status, terminals, tree
from .control import Connection, Control
from .errors import InputTooLong, InvalidRequest, SessionOver
from .log import LogWriter
from .poll import IN, OUT, Loop
from .stopping import LOOK_EVERY, Stopping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .control import Handler

READ_SIZE = 64 * 1024  # bytes; a terminal gives about 4 KiB at a time, the default pipe holds this much
INPUT_AHEAD = 64 * 1024  # bytes of input we hold for a command that does not read
DISK_RETRY = 1.0  # seconds between two tries while the disk is full
HOLDER_LOOK = 0.1  # seconds after the exit until we ask who still holds the output
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
GRACE = 2.0


class Supervisor:
    """Runs the session described by `session.json` in `folder` until its log closes."""

    def __init__(self, folder: str, listener: socket.socket) -> None:
        with open(os.path.join(folder, "session.json"), encoding="utf-8") as file:
            self.facts = json.load(file)
        self._folder = folder
        self._began = time.monotonic()
        self._page = os.open(os.path.join(folder, "status"), os.O_WRONLY | os.O_CLOEXEC)
        self._log = LogWriter(os.path.join(folder, "log"), self.facts["max_log"], self.facts["log_policy"])
        self._state = status.STARTING
        self._more: dict[str, object] = {}  # facts of the state that only some states have
        self._seq = 1
        self._output_ms = 0  # when the newest output was read
        self._reason = ""  # why the log takes nothing
        self._reading = True
        self._stopping: Stopping | None = None
        self._stop_calls: list[tuple[Connection, dict[str, object]]] = []
        self._input = bytearray()
        self._input_ends = False
        self._line = 0  # bytes of the line that is being typed
        self._writers: dict[str, int] = {}
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
        }
        self._control = Control(self._loop, listener, handlers, self.status, self._on_gone)
        self._ends = terminals.Ends()

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

    def status(self) -> dict[str, object]:
        """Everything that may change, as clients are told it."""
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
        status.write_page(self._page, self.status())
        self._control.publish(self._seq, self._log.end)

    # -- output

    def _watch_readers(self) -> None:
        for channel, fd in self._ends.readers.items():
            events = IN if self._reading else 0
            if self._input and fd == self._ends.writer:
                events |= OUT
            self._loop.watch(fd, events, self._on_ready_of(channel))

    def _on_ready_of(self, channel: str) -> Callable[[int], None]:
        return lambda happened: self._on_ready(channel, happened)

    def _on_ready(self, channel: str, happened: int) -> None:
        if happened & OUT:
            self._type()
        if self._reading and happened & ~OUT:
            self._read(channel)
        elif happened & ~(IN | OUT) and not self._reading:
            # Hung up while we cannot log: poll would say so for ever.
            self._loop.unwatch(self._ends.readers[channel])

    def _read(self, channel: str) -> None:
        fd = self._ends.readers.get(channel)
        if fd is None:
            return
        room = self._log.room
        want = READ_SIZE if room is None else min(READ_SIZE, room)
        parts, size, closed = [], 0, False
        while size < want:
            try:
                data = os.read(fd, want - size)
            except BlockingIOError:
                break
            except OSError:  # EIO: nobody has the other end of this terminal any more
                data = b""
            if not data:
                closed = True
                break
            parts.append(data)
            size += len(data)
        if parts:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            self._output_ms = self._mono_ms()
            try:
                self._log.append(channel, data, time.time_ns(), self._output_ms)
            except OSError as error:
                self._hold_for_disk(error)
            self._control.publish(self._seq, self._log.end)
            if self._log.room == 0:
                self._hold(f"the log is full ({self._log.limit} bytes): raise its limit, or stop it")
        if closed:
            self._loop.unwatch(fd)
            self._ends.close(channel)
            self._maybe_end()

    def _hold_for_disk(self, error: OSError) -> None:
        if error.errno not in FULL_DISK:
            raise error
        self._hold(f"the log cannot be written: {os.strerror(error.errno)}")
        self._loop.after("disk", DISK_RETRY, self._retry_disk)

    def _retry_disk(self) -> None:
        try:
            self._log.retry()
        except OSError as error:
            self._hold_for_disk(error)
            return
        self._control.publish(self._seq, self._log.end)
        self._release()

    def _hold(self, reason: str) -> None:
        if self._reason == reason:
            return
        self._reason, self._reading = reason, False
        self._watch_readers()
        if self._state == status.RUNNING:
            self._move(status.HELD, held=reason)
        else:
            self._changed(held=reason)

    def _release(self) -> None:
        if not self._reason or self._log.blocked or self._log.room == 0:
            return
        self._reason, self._reading = "", True
        self._watch_readers()
        if self._state == status.HELD:
            self._move(status.RUNNING, held="")
        else:
            self._changed(held="")
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
        code = os.waitstatus_to_exitcode(result)
        exit_facts: dict[str, object] = {"code": code} if code >= 0 else {"signal": tree.signal_name(-code)}
        if (code == -signal.SIGKILL and self._stopping is None) or code == 128 + signal.SIGKILL:
            exit_facts["oom"] = tree.oom_kills() > self._kills
        self._move(status.EXITED, exit=exit_facts, exited_ns=time.time_ns(), exited_ms=self._mono_ms())
        self._ends.release()
        if not self._maybe_end():
            self._loop.after("holders", HOLDER_LOOK, self._look_for_holders)

    def _look_for_holders(self) -> None:
        if self._state == status.EXITED:
            self._changed(held_by=[str(process) for process in tree.holders(self._ends.paths, os.getpid())])

    def _maybe_end(self) -> bool:
        if self._state != status.EXITED or self._ends.readers or self._log.blocked or self._stopping is not None:
            return False
        self._end()
        return True

    def _end(self) -> None:
        if not self.facts.get("keep_script"):
            remove(os.path.join(self._folder, "script"))
        self._log.close()
        self._fail_writes()
        self._move(status.ENDED, ended_ns=time.time_ns(), held_by=[])
        self._loop.stop()

    # -- stopping

    def _on_stop(self, connection: Connection, header: dict[str, object], _: bytes) -> None:
        self._stop_calls.append((connection, header))
        self._begin_stop(float(str(header.get("grace") or GRACE)))

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
        self._stopping = None
        self._loop.cancel("stop")
        self._more["stopped"] = stopping.report
        self._more["stopping"] = False
        if self._state in (status.RUNNING, status.HELD):  # KILL did not reach it, or it is about to be reaped
            pid, result = os.waitpid(self._ends.pid, os.WNOHANG)
            if pid:
                self._on_exit(result)
        for connection, header in self._stop_calls:
            self._control.answer(connection, header, {**self.status(), "report": stopping.report})
        self._stop_calls.clear()
        if self._state == status.EXITED:
            self._drain()
            self._end()
        elif self._state != status.ENDED:
            self._changed()

    def _send_stop_signal(self, stopping: Stopping, name: str, alive: list[tree.Process]) -> None:
        reached = 0
        if name == "INT" and self._ends.modes()[2]:
            # ^C on the terminal, as a person would: one INT for its foreground group, and only one (a second one makes
            # some programs give up without saving).
            reached = self._ends.foreground()
            self._input.clear()
            os.write(self._ends.control, self._ends.control_character(termios.VINTR))
        for process in alive:
            if not reached or process.group != reached:
                why = tree.send(process, tree.signal_number(name))
                if why:
                    stopping.refused(process, why)
        if name != "INT":
            for process in alive:
                if process.state == "T":
                    tree.send(process, signal.SIGCONT)

    def _drain(self) -> None:
        """Log what the ends still hold, whoever keeps them open."""
        for channel in list(self._ends.readers):
            before = -1
            while channel in self._ends.readers and self._log.end != before and self._reading:
                before = self._log.end
                self._read(channel)

    # -- input and the rest of control

    def _refuse_when_over(self) -> None:
        if self._state not in (status.RUNNING, status.HELD):
            raise SessionOver(self.facts["name"], self._state)

    def _on_write(self, connection: Connection, header: dict[str, object], body: bytes) -> object:
        self._refuse_when_over()
        if len(self._input) >= INPUT_AHEAD:
            self._writes.append((connection, header, body))
            return None
        writer, offset = str(header["writer"]), int(str(header["offset"]))
        accepted = self._writers.get(writer, 0)
        if offset > accepted:
            raise InvalidRequest(f"input from {offset} on came before {accepted} to {offset}")
        fresh = body[accepted - offset :]
        if not fresh and not header.get("eof"):
            return {"accepted": accepted}
        if self._ends.writer < 0 or self._input_ends:
            raise SessionOver(self.facts["name"], "without input (--no-input, or its input was closed)")
        if self._ends.modes()[0]:
            self._check_lines(fresh)
        self._input += fresh
        self._writers[writer] = accepted + len(fresh)
        if header.get("eof"):
            if self._ends.control >= 0:
                self._input += self._ends.control_character(termios.VEOF)
            else:
                self._input_ends = True
        self._type()
        return {"accepted": self._writers[writer]}

    def _check_lines(self, data: bytes) -> None:
        """Raise if the terminal would cut a line of `data` (they end by newline, return or ^D here)."""
        lines = data.replace(b"\r", b"\n").replace(b"\x04", b"\n").split(b"\n")
        first = self._line + len(lines[0])
        longest = max([first, *map(len, lines[1:])])
        if longest > terminals.CANONICAL_LINE:
            raise InputTooLong(self.facts["name"], longest)
        self._line = first if len(lines) == 1 else len(lines[-1])

    def _type(self) -> None:
        ends = self._ends
        try:
            while self._input and ends.writer >= 0:
                written = os.write(ends.writer, self._input[:4096])
                del self._input[:written]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more
            self._input.clear()
            self._forget_writer()
        if self._input_ends and not self._input:
            self._forget_writer()
        if ends.writer in ends.readers.values():
            self._watch_readers()
        elif ends.writer >= 0:
            if self._input:
                self._loop.watch(ends.writer, OUT, lambda _: self._type())
            else:
                self._loop.unwatch(ends.writer)
        while self._writes and len(self._input) < INPUT_AHEAD:
            self._serve_write()

    def _serve_write(self) -> None:
        connection, header, body = self._writes.pop(0)
        self._control.handle(connection, header, body)

    def _forget_writer(self) -> None:
        if self._ends.writer >= 0 and self._ends.writer not in self._ends.readers.values():
            self._loop.unwatch(self._ends.writer)
        self._ends.close_writer()

    def _fail_writes(self) -> None:
        while self._writes:
            self._serve_write()

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
        self._release()
        self._changed()
        return self.status()

    def _on_hello(self, connection: Connection, header: dict[str, object], body: bytes) -> object:
        connection.owner = str(header["owner"])
        if connection.owner == self.facts.get("owner"):
            self._loop.cancel("ephemeral")
        return self.status()

    def _on_gone(self, connection: Connection) -> None:
        owner = self.facts.get("owner")
        if self.facts.get("ephemeral") and connection.owner == owner:
            if not any(other.owner == owner for other in self._control.connections):
                self._loop.after("ephemeral", self.facts["ephemeral"], self._begin_stop)


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
