"""Which views may send a frame now, and how large: one budget for all of a kernel; how much of a log a view asks for.

Knows no clock and no page.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

SECOND = 1.0  # the window in which messages and bytes are counted
FRAME_SECONDS = 0.1  # between two frames of one view
PEAK = 1.25  # no window ever holds more than this many times what we aim at
RESERVE = 0.25  # of the budget, left by views shown in the last second to those that have been quiet
LEAST_BYTES = 4_000  # a frame of less is not worth sending

K = TypeVar("K", bound=Hashable)


class FrameBudget(Generic[K]):
    """Tell it which views have something new; it says which are to send, and takes what they sent.

    Views that have been quiet for a second come first, in the order they were marked, and at once where a quarter of
    the budget does; then those shown longest ago. What a view may send is its share of the bytes, so bytes do not run
    out before messages do; where more was sent than planned, shares shrink before anybody waits. While all others
    together send fewer than `max_messages` messages with one frame each, no view that has something new waits over a
    second. No second holds more than 1.25 times the budget.

    Every grant of `plan` must be answered by `sent`, or the view forgotten: it counts as under way until then.

    Args:
        max_messages: A second.
        max_bytes: A second.
        frame_messages: The most that one frame may send.

    Raises:
        ValueError: If a number is less than 1, or a frame does not fit into the budget.
    """

    def __init__(self, *, max_messages: int = 16, max_bytes: int = 800_000, frame_messages: int = 3) -> None:
        if not 1 <= frame_messages <= max_messages or max_bytes < max_messages * LEAST_BYTES:
            raise ValueError(f"not enough for a frame: {max_messages=}, {max_bytes=}, {frame_messages=}")
        self._max_messages, self._max_bytes, self._frame_messages = max_messages, max_bytes, frame_messages
        self._marked: dict[K, float] = {}  # views with something new, and since when
        self._shown: dict[K, float] = {}  # when views sent last, within the last second
        self._granted: dict[K, int] = {}  # frames under way, and how large they may be
        self._sent: deque[tuple[float, int, int]] = deque()  # within the last second: time, bytes, messages

    def mark(self, key: K, now: float) -> None:
        """Note that a view has something new."""
        self._marked.setdefault(key, now)

    def forget(self, key: K) -> None:
        """Drop a view; what it sent still counts."""
        for known in (self._marked, self._shown, self._granted):
            known.pop(key, None)

    def plan(self, now: float) -> list[tuple[K, int]]:
        """Return the views that are to send a frame now, with the bytes it may have.

        They count as shown: what comes after this must be marked again.
        """
        self._expire(now)
        grants = []
        waiting = self._in_order(now)
        for place, key in enumerate(waiting):
            if now < self._interval_end(key) or not self._has_room(key, now):
                break  # those behind it may not overtake
            self._granted[key] = self._share(key, now, len(waiting) - place)
            del self._marked[key]
            grants.append((key, self._granted[key]))
        return grants

    def sent(self, now: float, key: K, size: int, messages: int) -> None:
        """Take what a view sent: the answer to its grant, or something beyond the plan.

        A frame that turned out to be nothing new counts as one message: it was work all the same.
        """
        if self._granted.pop(key, None) is not None:
            self._shown[key] = now
            messages = max(1, messages)
        self._sent.append((now, size, messages))

    def next_due(self, now: float) -> float | None:
        """Return when `plan` will have something; None when no view waits, or only an answer can make room."""
        self._expire(now)
        waiting = self._in_order(now)
        if not waiting:
            return None
        first = waiting[0]
        begin = max(now, self._interval_end(first))
        times = {begin, *(time + SECOND for time, _, _ in self._sent), self._shown.get(first, now) + SECOND}
        return next((time for time in sorted(times) if time >= begin and self._has_room(first, time)), None)

    def _expire(self, now: float) -> None:
        while self._sent and self._sent[0][0] + SECOND <= now:
            self._sent.popleft()
        for key in [key for key, time in self._shown.items() if time + SECOND <= now]:
            del self._shown[key]

    def _in_order(self, now: float) -> list[K]:
        waiting = [key for key in self._marked if key not in self._granted]
        return sorted(waiting, key=lambda key: (self._shown.get(key, float("-inf")), self._marked[key]))

    def _interval_end(self, key: K) -> float:
        return self._shown.get(key, float("-inf")) + FRAME_SECONDS

    def _limit(self, key: K, now: float) -> float:
        """The part of the budget that a view may use up."""
        return 1.0 if self._shown.get(key, float("-inf")) + SECOND <= now else 1.0 - RESERVE

    def _used(self, now: float) -> tuple[int, int]:
        """Bytes and messages in the second up to `now`."""
        recent = [(size, messages) for time, size, messages in self._sent if time + SECOND > now]
        return sum(size for size, _ in recent), sum(messages for _, messages in recent)

    def _has_room(self, key: K, now: float) -> bool:
        size, messages = self._used(now)
        limit, under_way = self._limit(key, now), len(self._granted) + 1
        return (
            messages + under_way <= limit * self._max_messages
            and messages + under_way * self._frame_messages <= PEAK * self._max_messages
            and size + sum(self._granted.values()) + LEAST_BYTES <= limit * self._max_bytes
        )

    def _share(self, key: K, now: float, waiting: int) -> int:
        size, messages = self._used(now)
        limit = self._limit(key, now)
        free = int(limit * self._max_bytes) - size - sum(self._granted.values())
        frames = max(1, min(waiting, self._max_messages - messages - len(self._granted)))
        return max(LEAST_BYTES, min(self._max_bytes // self._max_messages, free // frames))


class TailSize:
    """How many bytes of a log's end a view asks for: as many as the lines it shows have, and as the link brings soon.

    Where more are needed than were asked for it asks for twice as many; what the link carries is learnt from how much
    longer an answer took than the shortest one.

    Args:
        most: Bytes that are never exceeded.
        first: Bytes that are asked for while nothing is known.
        seconds: How long an answer may take beyond the way there and back.
    """

    def __init__(self, most: int, *, first: int = 16 * 1024, seconds: float = 0.3) -> None:
        self._most, self._seconds = most, seconds
        self._needed = min(most, first)
        self._shortest = float("inf")
        self._carried = float("inf")  # bytes that the link brings in that time

    @property
    def bytes(self) -> int:
        """What to ask for."""
        return int(max(LEAST_BYTES, min(self._needed, self._carried)))

    def came(self, asked: int, size: int, shown: int | None, seconds: float) -> None:
        """Take an answer.

        Args:
            asked: Bytes that were asked for.
            size: Bytes that came.
            shown: Those in the lines that are shown; None: there are more such lines than came.
            seconds: How long it took.
        """
        self._shortest = min(self._shortest, seconds)
        longer = seconds - self._shortest
        if longer > 0:
            self._carried = size / longer * self._seconds
        self._needed = min(self._most, 2 * asked if shown is None else max(LEAST_BYTES, shown * 3 // 2))
