"""What each task of a loop waits for, in words: for tests that fail instead of hanging.

As a program, `python tasks.py MODULE …` runs a module as `python -m` does, which tells it on stderr at SIGUSR1.
"""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import sys
from types import FrameType
from typing import Any


def waits(tasks: set[asyncio.Task[Any]]) -> str:
    """A line a task: the calls it is in, the innermost last."""
    return "\n".join(sorted(f"  {task.get_name()}: {' > '.join(_calls(task.get_coro()))}" for task in tasks))


def _calls(awaited: Any) -> list[str]:
    calls = []
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None:
            calls.append(f"{awaited.__qualname__}:{frame.f_lineno}")
        inner = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
        if inner is None and frame is None:
            calls.append(repr(awaited)[:100])
        awaited = inner
    return calls


def _tell(number: int, frame: FrameType | None) -> None:
    loop = asyncio._get_running_loop()
    text = waits(asyncio.all_tasks(loop)) if loop is not None else "no loop runs"
    os.write(2, f"process {os.getpid()}:\n{text}\ntold\n".encode())


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _tell)
    sys.path[0] = ""  # as `-m` has it
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
