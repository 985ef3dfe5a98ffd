"""How a session's processes are ended: which signal when, and what is told of it. Decides; others look and send."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tree import Process

GRACE = 2.0  # seconds between the signals, unless somebody says otherwise
LOOK_EVERY = 0.05  # seconds between two looks at the process tree while a stop is under way
LAST_WORD = 1.0  # seconds that KILL gets
MAX_NAMED = 1000  # processes that a report names


class Stopping:
    """INT, then TERM, then KILL, each with its grace. A login shell ignores INT and TERM, so it gets HUP first.

    Args:
        kind: `command` or `shell`.
        grace: Seconds between the signals.
    """

    def __init__(self, kind: str, grace: float, now: float) -> None:
        self._left = ["HUP", "TERM", "KILL"] if kind == "shell" else ["INT", "TERM", "KILL"]
        self._grace = grace
        self._began = self._due = now
        self._seen: dict[tuple[int, str], str] = {}  # pid and start -> its newest name
        self._took = ""
        self._refused: dict[tuple[int, str], str] = {}
        self.report: dict[str, object] | None = None

    def step(self, now: float, alive: list[Process]) -> str:
        """Return the signal to send to `alive` now, or ''. Sets `report` when there is nothing left to do."""
        for process in alive:
            self._seen[process.pid, process.started] = str(process)
        if alive and now < self._due:
            return "KILL" if self._took == "KILL" else ""  # once more: one may have been forked since we looked
        if alive and self._left:
            self._took = self._left.pop(0)
            self._due = now + (LAST_WORD if self._took == "KILL" else self._grace)
            return self._took
        there = {(process.pid, process.started) for process in alive}
        left = [f"{self._seen[which]}: {self._refused.get(which, 'still there')}" for which in sorted(there)]
        self.report = {
            "took": self._took,
            "seconds": round(now - self._began, 2),
            "ended": _named([name for which, name in self._seen.items() if which not in there]),
            "left": _named(left),
        }
        return ""

    def refused(self, process: Process, why: str) -> None:
        """The system did not let us send the last signal to `process`."""
        self._refused[process.pid, process.started] = why

    def add_holders(self, holders: list[Process]) -> None:
        """Tell of those who have the output open and were not among the session's processes."""
        left = (self.report or {}).get("left")
        assert isinstance(left, list)
        named = " ".join(left)
        left += [f"{process}: has the output open" for process in holders if str(process) not in named]


def told(took: str, seconds: float, ended: tuple[str, ...], left: tuple[str, ...]) -> str:
    """What a stop took, in words."""
    if not took and not left:
        return "nothing was left to stop"
    text = f"stopped by {took} in {seconds:.1f} s" if took else "nothing could be stopped"
    if len(ended) > 1:
        text += f" ({len(ended)} processes)"
    return text + (f"; could not end {', '.join(left)}" if left else "")


def _named(names: list[str]) -> list[str]:
    more = len(names) - MAX_NAMED
    return [*names[:MAX_NAMED], f"and {more} more"] if more > 0 else names
