"""Whether a process waits for what is typed at a terminal: read from /proc when somebody asks; elsewhere unknown.

What the system tells depends on who asks: syscall and mem of a process are for its ancestors (ptrace(2), Yama), so the
supervisor looks; wchan and fd are for its user; of a set-user-ID program such as sudo one sees neither.
"""

from __future__ import annotations

import os
import struct

from . import tree

READ, POLL, HIDDEN, NOBODY = "read", "poll", "hidden", ""

_READ, _POLL, _SELECT, _EPOLL = range(4)
_GENERIC = {63: _READ, 65: _READ, 73: _POLL, 72: _SELECT, 22: _EPOLL, 441: _EPOLL}
# The system calls in which one may wait for input, and their variants, by number; see syscalls(2).
_CALLS = {
    "x86_64": {0: _READ, 19: _READ, 7: _POLL, 271: _POLL, 23: _SELECT, 270: _SELECT}
    | {232: _EPOLL, 281: _EPOLL, 441: _EPOLL},
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
}
_BY_POINTER = (271, 23, 270, 441, 73, 72)  # their timeout is a pointer, null for none; of others below 0 is none
_READS_IN = ("n_tty_read", "tty_read")  # wchan of who reads a terminal, where it is told so exactly
_MAY_READ_IN = ("wait_woken",)  # so is who reads a socket
_POLLS_IN = ("poll_schedule_timeout", "do_select", "do_sys_poll", "do_poll", "do_epoll_wait", "ep_poll")
_DEV_TTY = os.makedev(5, 0)
MOST_FDS = 1024  # of one poll that are looked at
MOST_THREADS = 200


def reading(device: int, session: int, group: int) -> str:
    """How a process waits for input of a terminal now.

    Args:
        device: The terminal, as `st_rdev`.
        session: The process session it controls.
        group: Its foreground process group: nobody else may read it.

    Returns:
        READ: One sleeps until something is typed, and for nothing else. POLL: one waits for it among other things, or
        for a while. HIDDEN: one sleeps, and the system does not tell in what. NOBODY.
    """
    if not os.path.isdir("/proc/self"):
        return HIDDEN if group else NOBODY
    numbers = _CALLS.get(os.uname().machine, {})
    found = NOBODY
    for process in tree.processes().values():
        if process.session == session and process.group == group and process.state not in "ZXT":
            how = _of_process(process.pid, device, numbers)
            if how == READ:
                return READ
            found = POLL if POLL in (how, found) else how or found
    return found


def _of_process(pid: int, device: int, numbers: dict[int, int]) -> str:
    try:
        threads = os.listdir(f"/proc/{pid}/task")[:MOST_THREADS]
    except OSError:
        return NOBODY
    found = NOBODY
    for thread in threads:
        try:
            how = _of_thread(pid, f"/proc/{pid}/task/{thread}", device, numbers)
        except OSError:  # it went away
            continue
        if how == READ:
            return READ
        found = POLL if POLL in (how, found) else how or found
    return found


def _of_thread(pid: int, place: str, device: int, numbers: dict[int, int]) -> str:
    try:
        words = _text(f"{place}/syscall").split()
    except OSError:  # not permitted, or not built in
        return _by_wchan(pid, place, device)
    if not words or not words[0].isdigit():  # it runs, or sleeps outside of a call
        return NOBODY
    number, arguments = int(words[0]), [int(word, 16) for word in words[1:7]]
    if not numbers:
        return _by_wchan(pid, place, device)
    if number not in numbers:
        return NOBODY
    what = numbers[number]
    if what == _READ:
        return READ if _is_terminal(pid, arguments[0], device) else NOBODY
    try:
        awaited = _awaited(pid, what, arguments)
    except (OSError, struct.error):  # its memory is not for us
        return POLL if _has_terminal(pid, device) else NOBODY
    if not any(_is_terminal(pid, fd, device) for fd in awaited):
        return NOBODY
    timeout = arguments[4 if what == _SELECT else 3 if what == _EPOLL else 2]
    endless = not timeout if number in _BY_POINTER else bool(timeout & 0x80000000)
    return READ if endless and len(awaited) == 1 else POLL


def _awaited(pid: int, what: int, arguments: list[int]) -> list[int]:
    """The descriptors of which a process awaits that they can be read."""
    if what == _EPOLL:
        rows = [row.split() for row in _text(f"/proc/{pid}/fdinfo/{arguments[0]}").splitlines()]
        return [int(row[1]) for row in rows if row[:1] == ["tfd:"] and int(row[3], 16) & 1]
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if what == _SELECT:
            count, start = min(arguments[0], MOST_FDS), arguments[1]
            bits = os.pread(memory, (count + 7) // 8, start) if start else b""
            return [fd for fd in range(min(count, 8 * len(bits))) if bits[fd // 8] >> fd % 8 & 1]
        count = min(arguments[1], MOST_FDS)
        asked = struct.iter_unpack("ihh", os.pread(memory, 8 * count, arguments[0]))
        return [fd for fd, events, _ in asked if fd >= 0 and events & 1]
    finally:
        os.close(memory)


def _by_wchan(pid: int, place: str, device: int) -> str:
    """By the kernel's function it sleeps in."""
    with open(f"{place}/stat", "rb") as file:
        asleep = file.read().rpartition(b")")[2].split()[:1] == [b"S"]
    try:
        where = _text(f"{place}/wchan").partition(".")[0]
    except OSError:
        where = "0"
    if where == "0":
        return HIDDEN if asleep else NOBODY
    if where not in (*_READS_IN, *_MAY_READ_IN, *_POLLS_IN) or not _has_terminal(pid, device):
        return NOBODY
    return READ if where in _READS_IN else POLL


def _has_terminal(pid: int, device: int) -> bool:
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return True  # that is not told either
    return any(_is_terminal(pid, fd, device) for fd in fds)


def _is_terminal(pid: int, fd: int | str, device: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/fd/{fd}").st_rdev in (device, _DEV_TTY)
    except OSError:
        return False


def _text(path: str) -> str:
    with open(path, "rb") as file:
        return file.read().decode("ascii", "replace").strip()
