"""A loop over poll(2): a callback for each descriptor, a few named timers. Without a timer it sleeps for good."""

from __future__ import annotations

import select
import time

IN, OUT = select.POLLIN, select.POLLOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Loop:
    """Runs callbacks until `stop` is called."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watched: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._timers: dict[str, tuple[float, Callable[[], None]]] = {}
        self._going = True

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(what happened)` when one of `events` (or a hang-up) is there; replaces an earlier watch."""
        self._watched[fd] = (events, callback)
        self._poll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`; one that is not watched is fine."""
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, name: str, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, `seconds` from now; replaces the timer of that name."""
        self._timers[name] = (time.monotonic() + seconds, callback)

    def cancel(self, name: str) -> None:
        """Forget a timer; one that is not set is fine."""
        self._timers.pop(name, None)

    def stop(self) -> None:
        self._going = False

    def run(self) -> None:
        while self._going:
            timeout = None
            if self._timers:
                due = min(at for at, _ in self._timers.values())
                timeout = max(0.0, due - time.monotonic()) * 1000
            for fd, happened in self._poll.poll(timeout):
                watched = self._watched.get(fd)
                if watched is not None:
                    watched[1](happened)
            if self._timers:
                now = time.monotonic()
                for name, (at, callback) in list(self._timers.items()):
                    if at <= now and self._timers.get(name) == (at, callback):
                        del self._timers[name]
                        callback()
