"""Processes that carry a mark in their environment, found and ended. For what a notebook or a test leaves running.

Knows nothing of the package: what is to be cleaned up after must not be what cleans up. Without /proc it finds nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path


def marked(name: str, value: str) -> Iterator[int]:
    """Pids of the processes, other than this one, that were started with `name=value` in their environment."""
    wanted = f"{name}={value}".encode()
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        try:
            variables = Path("/proc", entry, "environ").read_bytes() if entry.isdigit() else b""
        except OSError:  # it ended meanwhile, or it is not ours
            continue
        if wanted in variables and wanted in variables.split(b"\0") and int(entry) != os.getpid():
            yield int(entry)


def end_all(name: str, value: str, *, seconds: float = 10) -> list[int]:
    """Kill every process so marked, and those they start meanwhile; return their pids once all are gone.

    Raises:
        TimeoutError: One is still there after `seconds`, e.g. stuck in the kernel.
    """
    ended: list[int] = []
    for _ in range(100):
        handles = []
        for pid in marked(name, value):
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            handles.append(handle)
            ended.append(pid)
        if not handles:
            return ended
        try:
            for handle in handles:
                _kill(handle)
            for handle in handles:  # a process's handle becomes readable when it ends
                if not select.select([handle], [], [], seconds)[0]:
                    raise TimeoutError(f"a process marked {name}={value} does not end; pids so far: {ended}")
        finally:
            for handle in handles:
                os.close(handle)
    raise TimeoutError(f"processes marked {name}={value} come up faster than they can be ended; pids so far: {ended}")


def _kill(handle: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, signal.SIGKILL)
