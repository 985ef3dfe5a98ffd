"""The ends a command is started on: terminals or pipes, one reading end a channel. Knows no log and no protocol."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios

from .light import signal

_OFLAG, _LFLAG, _CC = 1, 3, 6


class Ends:
    """What the supervisor keeps of a started command.

    Attributes:
        readers: Reading ends, by channel. A channel leaves when its end closes.
        writer: Where input goes; -1 when there is none (any more).
        control: The master of the terminal that has the foreground group; -1 without one.
        places: Where whoever holds an output of ours has it: what /proc/<pid>/fd shows, and its device (containers have
            a /dev/pts/0 too). By reading end, since the name of a terminal that is closed is the next one's.
        pid: The command.
    """

    def __init__(self) -> None:
        self.readers: dict[str, int] = {}
        self.writer = self.control = -1
        self.places: dict[int, tuple[str, int]] = {}
        self.pid = 0
        self._sizes: list[int] = []  # masters that have a size
        self._kept = -1  # a slave of the controlling terminal: it may be reopened as /dev/tty while the command lives

    def resize(self, columns: int, rows: int) -> None:
        for master in self._sizes:
            try:
                fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            except OSError:  # closed since
                continue

    def release(self) -> None:
        """The command is gone: let go of what only kept its terminal open."""
        if self._kept >= 0:
            os.close(self._kept)
            self._kept = -1

    def close(self, channel: str) -> None:
        """Close one reading end."""
        fd = self.readers.pop(channel)
        self.places.pop(fd, None)
        if fd in self._sizes:
            self._sizes.remove(fd)
        if fd == self.control:
            self.control = -1
        if fd == self.writer:
            self.writer = -1
        os.close(fd)

    def close_writer(self) -> None:
        """Close a pipe that leads to the command's stdin."""
        if self.writer >= 0 and self.writer not in self.readers.values():
            os.close(self.writer)
        self.writer = -1

    def foreground(self) -> int:
        """The process group that ^C would reach; 0 without a terminal."""
        if self.control < 0:
            return 0
        try:
            return int(struct.unpack("i", fcntl.ioctl(self.control, termios.TIOCGPGRP, b"\0\0\0\0"))[0])
        except OSError:
            return 0

    def device(self) -> int:
        """The input terminal as `st_rdev` shows it; 0 without one."""
        return os.fstat(self._kept).st_rdev if self._kept >= 0 else 0

    def modes(self) -> tuple[bool, bool, bool]:
        """Whether the input terminal is (canonical, echoing, turning ^C into a signal); all False without one."""
        if self.control < 0:
            return False, False, False
        try:
            flags = termios.tcgetattr(self.control)[_LFLAG]
        except termios.error:
            return False, False, False
        return bool(flags & termios.ICANON), bool(flags & termios.ECHO), bool(flags & termios.ISIG)

    def control_character(self, which: int) -> bytes:
        """The character the input terminal takes for `which` (`termios.VINTR`, `VEOF`)."""
        character = termios.tcgetattr(self.control)[_CC][which]
        return character if isinstance(character, bytes) else bytes([character])

    def interrupt(self) -> int:
        """Press ^C, ahead of what was typed and not read; return the process group that it reaches, 0 for none."""
        group = self.foreground()
        if not group or not self.modes()[2]:
            return 0
        try:
            key = self.control_character(termios.VINTR)
            if key == b"\0":  # switched off
                return 0
            if self._kept >= 0:  # a key behind a full line of unread input would wait there
                termios.tcflush(self._kept, termios.TCIFLUSH)
            os.write(self.control, key)
        except (OSError, termios.error):
            return 0
        return group


def start(
    mode: str, argv: list[str], env: dict[str, str], cwd: str, *, has_input: bool, columns: int, rows: int
) -> Ends:
    """Start `argv` on fresh ends and return them.

    The caller must be the leader of a session without a terminal: it becomes the leader of the command's terminal, so
    that nothing is hung up when the command goes and leaves something running.

    Raises:
        OSError: The command could not be started; nothing is left open.
    """
    ends = Ends()
    ours: list[int] = []  # closed if anything fails
    theirs: list[int] = []  # closed in any case
    try:
        files = _open_ends(ends, mode, has_input, ours, theirs)
        ends.resize(columns, rows)
        ends.pid = _spawn(argv, env, cwd, files, ends._kept)
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    for fd in ends.readers.values():
        os.set_blocking(fd, False)
    if ends.writer >= 0:
        os.set_blocking(ends.writer, False)
    return ends


def _open_ends(ends: Ends, mode: str, has_input: bool, ours: list[int], theirs: list[int]) -> tuple[int, int, int]:
    """Open what `mode` wants; return the command's stdin, stdout and stderr."""

    def terminal(*, raw: bool) -> tuple[int, int]:
        master, slave = os.openpty()
        ours.append(master)
        ends._sizes.append(master)
        ends.places[master] = os.ttyname(slave), os.fstat(slave).st_dev
        if raw:
            attributes = termios.tcgetattr(slave)
            attributes[_OFLAG] &= ~termios.OPOST
            attributes[_LFLAG] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
            termios.tcsetattr(slave, termios.TCSANOW, attributes)
        return master, slave

    def controlling() -> tuple[int, int]:
        master, slave = terminal(raw=False)
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        ends.control = ends.writer = master
        ends._kept = slave
        ours.append(slave)
        return master, slave

    def nothing() -> int:
        fd = os.open(os.devnull, os.O_RDONLY)
        theirs.append(fd)
        return fd

    if mode == "full":
        if has_input:
            master, slave = controlling()
        else:
            master, slave = terminal(raw=False)
            theirs.append(slave)
        ends.readers["stdout"] = master
        return (slave if has_input else nothing()), slave, slave
    stdin = -1
    if mode == "split" and has_input:
        # The first reader, so read first of those that are ready: an echo comes before the answer to what was typed.
        ends.readers["tty"], stdin = controlling()
    files = []
    for channel in ("stdout", "stderr"):
        if mode == "split":
            reader, writer = terminal(raw=True)
        else:
            reader, writer = os.pipe()
            ours.append(reader)
            _widen(reader)
            if os.path.isdir("/proc/self/fd"):
                ends.places[reader] = os.readlink(f"/proc/self/fd/{writer}"), os.fstat(writer).st_dev
        theirs.append(writer)
        ends.readers[channel] = reader
        files.append(writer)
    if not has_input:
        stdin = nothing()
    elif mode == "none":
        stdin, ends.writer = os.pipe()
        theirs.append(stdin)
        ours.append(ends.writer)
    return stdin, files[0], files[1]


def _widen(pipe: int) -> None:
    """Give a pipe 1 MiB where the system lets us: a third more throughput."""
    try:
        fcntl.fcntl(pipe, getattr(fcntl, "F_SETPIPE_SZ", 1031), 1024 * 1024)
    except OSError:  # not Linux, or the user's share of pipe memory is used up
        pass


def _spawn(argv: list[str], env: dict[str, str], cwd: str, files: tuple[int, int, int], terminal: int) -> int:
    """Fork and run; the child leads a process group of its own, in the foreground of `terminal` if there is one."""
    said, saying = os.pipe()  # both close on exec: an end without a word means that the command runs
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            if terminal >= 0:
                os.tcsetpgrp(terminal, os.getpid())  # SIGTTOU is ignored here, as in our parent
            for number, fd in enumerate([os.dup(fd) for fd in files]):
                os.dup2(fd, number)
            os.chdir(cwd)
            signal.set_wakeup_fd(-1)
            for signum in range(1, signal.NSIG):  # also what the notebook ignores, as after `nohup`
                try:
                    signal.signal(signum, signal.SIG_DFL)
                except (OSError, ValueError):  # KILL, STOP, and two that libc keeps to itself
                    pass
            os.execvpe(argv[0], argv, env)
        except Exception as error:  # whatever it is, the parent must hear of it
            number = getattr(error, "errno", 0) or 0
            what = os.strerror(number) if number else str(error)
            os.write(saying, f"{number} {argv[0] if os.path.isdir(cwd) else cwd}: {what}".encode()[:4000])
        finally:
            os._exit(127)
    os.close(saying)
    try:
        try:
            os.setpgid(pid, pid)  # both sides do it, whoever comes first
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.ESRCH):
                raise
        words = os.read(said, 4096).decode()
    finally:
        os.close(said)
    if words:
        os.waitpid(pid, 0)
        code, _, reason = words.partition(" ")
        raise OSError(int(code), reason)
    return pid
