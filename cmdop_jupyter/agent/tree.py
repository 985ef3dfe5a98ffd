"""Which processes belong to a session, and who holds its terminals: read from /proc (Linux) or `ps` (elsewhere)."""

from __future__ import annotations

import os
import time

from .light import signal

EXEC_LOOKS = 3  # at a process without an environment
KERNEL = 2  # the parent of its threads, which have none
MARK = "CMDOP_SESSION"  # every process of a session has it in its environment, unless it cleaned it


class Process:
    """One process as seen a moment ago; `started` tells it from a later one with the same number."""

    __slots__ = ("group", "name", "parent", "pid", "session", "started", "state")

    def __init__(self, pid: int, parent: int, group: int, session: int, state: str, name: str, started: str) -> None:
        self.pid, self.parent, self.group, self.session = pid, parent, group, session
        self.state, self.name, self.started = state, name, started

    def __str__(self) -> str:
        return f"{self.name}[{self.pid}]"


def processes() -> dict[int, Process]:
    """All processes that we can see, by pid."""
    if not os.path.isdir("/proc/self"):
        return _ask_ps()
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            process = _read_stat(int(entry))
            if process is not None:
                found[process.pid] = process
    return found


def _read_stat(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), fields[0], name, fields[19])


def _ask_ps() -> dict[int, Process]:
    import subprocess  # slow to import, and only needed where there is no /proc

    columns = "pid=,ppid=,pgid=,sess=,stat=,lstart=,comm="
    with subprocess.Popen(["ps", "-axo", columns], stdout=subprocess.PIPE, env={**os.environ, "LC_ALL": "C"}) as asked:
        lines = asked.communicate()[0].decode("utf-8", "replace").splitlines()
    found = {}
    for line in lines:
        fields = line.split(None, 10)
        pid, parent, group = (int(field) for field in fields[:3])
        session = int(fields[3]) if fields[3].isdigit() else 0
        name = os.path.basename(fields[10].strip()) if len(fields) > 10 else "?"
        if pid != asked.pid:
            found[pid] = Process(pid, parent, group, session, fields[4][:1], name, " ".join(fields[5:10]))
    return found


def _is_marked(process: Process, session_id: str) -> bool:
    mark = f"{MARK}={session_id}".encode()
    for _ in range(EXEC_LOOKS):
        try:
            with open(f"/proc/{process.pid}/environ", "rb") as file:
                variables = file.read()
        except OSError:  # gone, or not ours
            return False
        if variables or process.state in "ZX" or KERNEL in (process.pid, process.parent):
            return mark in variables.split(b"\0")
        time.sleep(0.001)  # it has none, or just becomes another program and has none yet
    return False


def members(session_id: str, leader: int = 0, spare: int = 0) -> dict[int, Process]:
    """The living processes of a session: all of its process session, whoever carries its mark, and their descendants.

    Args:
        leader: Pid of its supervisor, which leads that process session; 0 when it is gone, since the number may by now
            be somebody else's.
        spare: A pid that never counts: the supervisor asking.
    """
    everyone = processes()
    children: dict[int, list[int]] = {}
    for process in everyone.values():
        children.setdefault(process.parent, []).append(process.pid)
    found = {pid for pid, process in everyone.items() if leader and process.session == leader}
    found |= {pid for pid, process in everyone.items() if _is_marked(process, session_id)}
    heap = [*found, leader] if leader else [*found]
    while heap:
        for child in children.get(heap.pop(), ()):
            if child not in found:
                found.add(child)
                heap.append(child)
    found -= {spare, os.getpid()}
    return {pid: everyone[pid] for pid in found if everyone[pid].state not in "ZX"}


def send(process: Process, number: int) -> str:
    """Send a signal; return why it could not be sent, or ''. A process that is gone is no failure."""
    now = _read_stat(process.pid) if os.path.isdir("/proc/self") else process
    if now is None or now.started != process.started:
        return ""
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "not permitted"
    return ""


def holders(places: set[tuple[str, int]], spare: int) -> list[Process]:
    """Who has one of these terminals or pipes open; nobody where there is no /proc.

    Args:
        places: The terminals and pipes, as /proc/<pid>/fd shows them, with their devices.
    """
    found: list[Process] = []
    if not os.path.isdir("/proc/self"):
        return found
    paths = {path for path, _ in places}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == spare:
            continue
        try:
            fds = os.listdir(f"/proc/{entry}/fd")
        except OSError:
            continue
        for fd in fds:
            link = f"/proc/{entry}/fd/{fd}"
            try:
                path = os.readlink(link)
                held = path in paths and (path, os.stat(link).st_dev) in places
            except OSError:
                continue
            if held:
                process = _read_stat(int(entry))
                if process is not None:
                    found.append(process)
                break
    return found


def oom_kills(groups: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup", system: str = "/proc/vmstat") -> int:
    """How many processes the out-of-memory killer took, counted in our control group and on this system.

    A command may have a group of its own, which only the system's counter sees; in a container it may be the other way.

    Args:
        groups, root, system: Where that is told; see cgroups(7).
    """
    in_group = next((count for path in _group_counters(groups, root) if (count := _read_kills(path)) is not None), 0)
    return in_group + (_read_kills(system) or 0)


def _read_kills(path: str) -> int | None:
    try:
        with open(path) as file:
            words = [line.split() for line in file]
    except OSError:
        return None
    return next((int(line[1]) for line in words if line[:1] == ["oom_kill"]), None)


def _group_counters(groups: str, root: str) -> list[str]:
    files = []
    try:
        with open(groups) as file:
            for line in file:
                number, controllers, path = line.rstrip("\n").split(":", 2)
                if number == "0":
                    files += [f"{root}{path}/memory.events", f"{root}/unified{path}/memory.events"]
                elif "memory" in controllers.split(","):
                    # In a container the path may be that of the host, and the group itself is mounted.
                    files += [f"{root}/memory{path}/memory.oom_control", f"{root}/memory/memory.oom_control"]
    except OSError:
        pass
    return files


def signal_number(name: str | int) -> int:
    """`INT`, `SIGINT`, `sigint` or 2, as the number.

    Raises:
        ValueError: There is no such signal.
    """
    word = str(name).upper()
    if not word.startswith("SIG"):
        word = "SIG" + word
    for number, known in _SIGNALS:
        if word == known or word == f"SIG{number}":
            return number
    raise ValueError(f"there is no signal {name!r}; `kill -l` lists them")


def signal_name(number: int) -> str:
    """`INT` for 2; the number as text when it has no name."""
    return next((known[3:] for value, known in _SIGNALS if value == number), str(number))


# Where a number has two names the usual one comes first: ABRT before IOT, CHLD before CLD.
_SIGNALS = sorted(
    (int(value), known)
    for known, value in vars(signal).items()
    if known.startswith("SIG") and known[3:].isalnum() and known.isupper()
)
