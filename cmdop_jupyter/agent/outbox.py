"""Answers on their way out: cut into frames, the urgent first, and no more bulk than the link carries. Does no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Union

from .frames import FrameError, encode

PIECE, MIN_PIECE = 256 * 1024, 8 * 1024  # bytes of a body in one frame, for which what is urgent has to wait
FIRST_WINDOW, MIN_WINDOW, MAX_WINDOW = 128 * 1024, 32 * 1024, 16 * 1024 * 1024  # bytes of bulk under way
QUEUE_SECONDS = 0.06  # worth of bulk that may be under way
URGENT, BULK, VIEWS = 0, 1, 2  # what goes first

Header = dict[str, Any]
Body = Union[bytes, memoryview]
Frame = list[Body]  # its head, and the buffers of its body


def frames_of(header: Header, body: Iterable[Body], piece: Callable[[], int]) -> Iterator[Frame]:
    """An answer as frames of at most `piece()` bytes of body."""
    parts = deque(memoryview(part) for part in body if part)
    more: Header = {key: header[key] for key in ("number", "bulk") if key in header}
    while True:
        room, buffers = piece(), []
        while parts and room:
            taken = parts[0][:room]
            room -= len(taken)
            parts[0] = parts[0][len(taken) :]
            buffers.append(taken)
            if not parts[0]:
                parts.popleft()
        size = sum(map(len, buffers))
        yield [encode_head({**more, "more": True} if parts else header, size), *buffers]
        if not parts:
            return


def encode_head(header: Header, body_size: int) -> bytes:
    """The bytes of a frame in front of its body."""
    head = encode(header)
    return head[:4] + body_size.to_bytes(4, "big") + head[8:]


class Window:
    """How many bytes of bulk may be under way, so that what is urgent finds a short queue.

    Learnt from acknowledgements: the queue may hold what the link carries in `QUEUE_SECONDS`, on top of the shortest
    way ever seen.
    """

    def __init__(self) -> None:
        self.size = FIRST_WINDOW
        self._sent = self._acknowledged = 0
        self._marks: deque[tuple[int, float, int]] = deque()  # bytes sent in all, when, how many were under way then
        self._shortest = float("inf")
        self._filled = False  # whether it held something back since the last acknowledgement

    @property
    def open(self) -> bool:
        if self._sent - self._acknowledged < self.size:
            return True
        self._filled = True
        return False

    @property
    def piece(self) -> int:
        """Bytes of a frame's body: what the link carries in some 10 ms."""
        return max(MIN_PIECE, min(PIECE, self.size // 8))

    def sent(self, count: int, now: float) -> None:
        self._sent += count
        self._marks.append((self._sent, now, self._sent - self._acknowledged))

    def acknowledged(self, total: int, now: float) -> None:
        """The client has had so many bytes of bulk in all. Raises FrameError for more than there were."""
        if not self._acknowledged <= total <= self._sent:
            raise FrameError(f"{total} bytes are acknowledged of {self._sent}")
        self._acknowledged = total
        mark = None
        while self._marks and self._marks[0][0] <= total:
            mark = self._marks.popleft()
        if mark is None:
            return
        _, at, under_way = mark
        took = max(now - at, 1e-6)
        self._shortest = min(self._shortest, took)
        most = self._shortest + QUEUE_SECONDS
        # What was under way when it was sent made the queue it met: that much in that time is the link's rate.
        if took > most and under_way > MIN_WINDOW:
            self.size = max(MIN_WINDOW, min(self.size, int(under_way * most / took)))
        elif took <= most and self._filled:
            factor = 2.0 if took < self._shortest + QUEUE_SECONDS / 4 else most / took
            self.size = min(MAX_WINDOW, max(self.size, int(under_way * factor)))
        self._filled = False


class Outbox:
    """Answers that wait to be written: the urgent first, then bulk by turns, then views; whole frames only."""

    def __init__(self) -> None:
        self.window = Window()
        self._urgent: deque[Iterator[Frame]] = deque()
        self._bulk: deque[Iterator[Frame]] = deque()
        self._views: deque[Iterator[Frame]] = deque()
        self._current: deque[Body] = deque()  # buffers of the frame that is being written

    def put(self, header: Header, body: Iterable[Body], urgency: int) -> None:
        queue = (self._urgent, self._bulk, self._views)[urgency]
        if urgency != URGENT:
            header = {**header, "bulk": True}
        queue.append(frames_of(header, body, lambda: self.window.piece))

    def buffers(self, now: float) -> list[Body]:
        """What is to be written next; [] when there is nothing, or the window is closed."""
        while not self._current:
            queue = self._urgent or (self.window.open and (self._bulk or self._views)) or None
            if not queue:
                return []
            answer = queue.popleft()
            frame = next(answer, None)
            if frame is None:
                continue
            self._current.extend(frame)
            queue.append(answer)
            if queue is not self._urgent:
                self.window.sent(sum(map(len, frame[1:])), now)
        return list(self._current)

    def written(self, count: int) -> None:
        """So many bytes of `buffers()` are written."""
        while count:
            first = self._current.popleft()
            if len(first) > count:
                self._current.appendleft(memoryview(first)[count:])
                return
            count -= len(first)
