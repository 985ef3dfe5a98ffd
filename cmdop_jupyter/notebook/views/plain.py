"""Views in a terminal: output is printed while somebody waits for it, and a line tells the rest."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from ...agent.log import CHANNELS, Chunk
from ...errors import CmdopError, LogDropped, NotSupported
from ...fleet import Fleet
from ...lines import LONGEST_LINE
from ...machines.base import Machine
from ...runtime import runtime
from ...stream import Stream
from ...words import human_seconds
from ..links import Heard
from ..tables import Table
from .fold import StyledLine, fold
from .last_row import LastRow
from .record import kept, kept_fleet, link_words, waited_for
from .sieve import Looks, Sieve, lit, since_ns
from .text import shown, to_ansi, to_text

READ_SIZE = 64 * 1024
REST_SECONDS = 5.0  # that the end of a wait waits for more output that is there
ROW_SECONDS = 0.2  # between two looks of the last row


class PlainViews:
    """See `Views`. What a stream printed is shown once, up to the end of each wait.

    Args:
        shell: The IPython shell of the terminal.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._printers: dict[str, Printer] = {}  # by session
        self._row = LastRow()
        shell.events.register("post_run_cell", self._after_cell)

    def close(self) -> None:
        self._shell.events.unregister("post_run_cell", self._after_cell)
        self._row.close()

    def _after_cell(self, result: object) -> None:
        self._row.flush()

    def show(self, stream: Stream, lines: int, looks: Looks | None = None) -> None:
        if stream.session_id not in self._printers:
            self._printers[stream.session_id] = Printer(stream._machine, stream.session_id, looks or Looks())
        self.say(repr(stream))

    def fleets(self, lines: int) -> PlainFleets:
        return PlainFleets(self)

    def keep_fleet(self, fleet: Fleet) -> dict[str, str]:
        return runtime().wait(kept_fleet(fleet))

    def sessions(self, table: Table, heard: Sequence[Heard], only: str | None, bind: Callable[[Stream], str]) -> Table:
        return table

    def check_terminal(self) -> None:
        raise NotSupported("a terminal view needs a notebook's page, and this is a terminal; nothing was started")

    def show_terminal(self, stream: Stream) -> None:
        self.check_terminal()

    def waiting(self, streams: Sequence[Stream], what: str) -> Printing:
        sessions = [one.session_id for one in streams if one._facts is not None]
        printers = [self._printers[session] for session in sessions if session in self._printers]
        return Printing(printers, waited_for(streams, what), self._row)

    def keep(self, stream: Stream) -> dict[str, str]:
        return runtime().wait(kept(stream._machine, stream.facts))

    def settle(self, stream: Stream) -> None:
        self.finish(stream.session_id)

    def finish(self, session_id: str) -> None:
        if session_id in self._printers:
            runtime().wait(self._printers[session_id].rest())

    def say(self, text: str) -> None:
        sys.stdout.write(shown(text) + "\n")

    def notices(self, what: str) -> Callable[[str, str], object]:
        return lambda title, text: self.say(f"{title}: {text}")

    def current_cell(self) -> tuple[Hashable, Hashable] | None:
        return None


class PlainFleets:
    """See `FleetFront`. The grid is printed when a wait for it is over."""

    def __init__(self, views: PlainViews) -> None:
        self._views = views

    def show(self, fleet: Fleet) -> None:
        self._views.say(repr(fleet))

    async def waited(self, fleet: Fleet) -> None:
        sys.stdout.write((await kept_fleet(fleet))["text/plain"] + "\n")
        sys.stdout.flush()


class Printing:
    """Prints the output of sessions as it comes, for as long as a wait lasts; the last row says what is waited for.

    Args:
        what: That, in words.
    """

    def __init__(self, printers: Sequence[Printer], what: str, row: LastRow) -> None:
        self._printers, self._what, self._row = printers, what, row
        self._began = time.monotonic()
        row.begin()
        self._tasks: list[asyncio.Task[None]] = []
        runtime().call_later(self._begin)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        machines = {printer.machine.name: printer.machine for printer in self._printers}
        self._tasks = [loop.create_task(printer.follow()) for printer in self._printers]
        self._tasks += [loop.create_task(_tell_link(machine)) for machine in machines.values()]
        self._tasks.append(loop.create_task(self._renew()))

    async def _renew(self) -> None:
        """Keep the last row up to date: what is waited for, since when, and the newest line that has not ended."""
        while True:
            await asyncio.sleep(ROW_SECONDS)
            newest = next((words for printer in self._printers if (words := printer.unfinished)), "")
            said = [f"… waiting for {self._what}", human_seconds(time.monotonic() - self._began), newest]
            self._row.say(shown(" · ".join(filter(None, said))))

    async def done(self, outcome: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._row.end()
        for printer in self._printers:
            await printer.rest()


async def _tell_link(machine: Machine) -> None:
    """Print a line when the link to a machine breaks, or is broken, and one when it is back."""
    link, gone, told = machine.link, 0.0, ""
    while True:
        if link.state == "up":
            if gone:
                _tell(machine, f"link up again after {human_seconds(time.monotonic() - gone)}, nothing is lost")
            gone, told = 0.0, ""
        elif not gone or (link.state == "down" != told):
            gone, told = gone or time.monotonic(), link.state
            _tell(machine, link_words(link, machine.name, time.monotonic()))
        link = await machine.link_change(link)


def _tell(machine: Machine, words: str) -> None:
    sys.stdout.write(shown(f"[{machine.name}: {words}]") + "\n")
    sys.stdout.flush()


class Printer:
    """Prints what one session printed, each line once and whole: as text, in colour where there is a terminal."""

    def __init__(self, machine: Machine, session_id: str, looks: Looks) -> None:
        self.machine, self._id = machine, session_id
        self._looks, self._sieve = looks, Sieve(looks)
        self._since = since_ns(looks.since, time.time_ns()) if looks.since else 0
        self._offset = 0  # up to which the log was taken
        self._unfinished: dict[str, bytes] = {}  # by channel: what has no newline yet

    @property
    def unfinished(self) -> str:
        """The newest line that has not ended, as it looks now."""
        for channel, data in reversed(self._unfinished.items()):
            lines = fold([Chunk(0, channel, 0, 0, data)], max_lines=1, from_start=True)
            if lines and self._sieve.takes(lines[-1].text):
                return to_text(lines[-1:])
        return ""

    async def follow(self) -> None:
        """Print what comes until the session has ended."""
        while await self._step(follow=True):
            pass

    async def rest(self) -> None:
        """Print what is there, unfinished lines too; without a link, what came before."""
        with contextlib.suppress(TimeoutError):
            while self.machine.link.state == "up":
                async with asyncio.timeout(REST_SECONDS):
                    if not await self._step(follow=False):
                        break
        for channel, data in self._unfinished.items():
            self._write(channel, [Chunk(0, channel, time.time_ns(), 0, data)])
        self._unfinished.clear()

    async def _step(self, *, follow: bool) -> bool:
        offset = self._offset
        try:
            read = self.machine.read if follow else self.machine.read_nowait
            chunks = await read(self._id, offset, READ_SIZE)
        except LogDropped as gap:
            if self._offset == offset and gap.first > offset:
                self._offset = gap.first
                sys.stdout.write(f"[{gap}]\n")
                return True
            return False
        except CmdopError:
            return False
        if self._offset == offset and chunks:  # else another wait has printed it meanwhile
            self._offset = chunks[-1].end
            self._print(chunks)
        return bool(chunks)

    def _print(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            data = self._unfinished.pop(chunk.channel, b"") + chunk.data
            end = data.rfind(b"\n") + 1
            if end:
                self._write(chunk.channel, [Chunk(0, chunk.channel, chunk.wall_ns, 0, data[:end])])
            rest = data[end:]
            if len(rest) > LONGEST_LINE:
                self._write(chunk.channel, [Chunk(0, chunk.channel, chunk.wall_ns, 0, rest)])
            elif rest:
                self._unfinished[chunk.channel] = rest

    def _write(self, channel: str, chunks: Sequence[Chunk]) -> None:
        """Print finished lines, as they look in the end."""
        count = sum(chunk.data.count(b"\n") for chunk in chunks) + len(CHANNELS)
        lines: list[StyledLine] = fold(chunks, max_lines=count, from_start=True)
        lines = [line for line in lines if line.wall_ns >= self._since and self._sieve.takes(line.text)]
        if not lines:
            return
        lines = lit(lines, self._looks.highlight)
        out = sys.stderr if channel == "stderr" else sys.stdout
        render = to_ansi if out.isatty() else to_text
        out.write(render(lines, times=self._looks.times) + "\n")
        out.flush()
