"""Views in a terminal: output is printed while somebody waits for it, and a line tells the rest."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Hashable, Sequence

from ...errors import CmdopError, LogDropped
from ...runtime import runtime
from ...stream import Stream
from .record import frozen

READ_SIZE = 64 * 1024


class PlainViews:
    """See `Views`. What a stream printed is shown once, up to the end of each wait."""

    def __init__(self) -> None:
        self._printed: dict[str, int] = {}  # by session: the offset up to which it was shown

    def show(self, stream: Stream, lines: int) -> None:
        self._printed.setdefault(stream.session_id, 0)
        self.say(repr(stream))

    def waiting(self, streams: Sequence[Stream], what: str) -> Printing:
        return Printing(self._printed, streams[0])

    def keep(self, stream: Stream) -> dict[str, str]:
        return runtime().wait(frozen(stream._machine, stream.facts))[0]

    def settle(self, stream: Stream) -> None:
        if stream.session_id in self._printed:
            runtime().wait(Printing(self._printed, stream).rest())

    def say(self, text: str) -> None:
        sys.stdout.write(text + "\n")

    def current_cell(self) -> tuple[Hashable, Hashable] | None:
        return None


class Printing:
    """Prints a stream's output as it comes, for as long as a wait lasts."""

    def __init__(self, printed: dict[str, int], stream: Stream) -> None:
        self._printed, self._stream = printed, stream
        self._task: asyncio.Task[None] | None = None
        if stream.session_id in printed:
            runtime().call_later(self._begin)

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._print(follow=True))

    async def done(self, outcome: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self.rest()

    async def rest(self) -> None:
        """Print what is there and was not shown."""
        await self._print(follow=False)

    async def _print(self, *, follow: bool) -> None:
        machine, session_id = self._stream._machine, self._stream.session_id
        read = machine.read if follow else machine.read_nowait
        while True:
            offset = self._printed[session_id]
            try:
                chunks = await read(session_id, offset, READ_SIZE)
            except LogDropped as gap:
                sys.stdout.write(f"\n[{gap}]\n")
                self._printed[session_id] = gap.first
                continue
            except CmdopError:
                return
            if not chunks:
                return
            for chunk in chunks:
                out = sys.stderr if chunk.channel == "stderr" else sys.stdout
                out.write(chunk.data.decode("utf-8", "replace"))
                out.flush()
            self._printed[session_id] = chunks[-1].end
