"""What a cell asks for besides running: answers to prompts, and notices for somebody who does not look."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..fleet import Fleet
from ..notify import Notifier, Wanted, read_wanted, tell
from ..runtime import runtime
from ..stream import Stream
from ..subscription import show_error
from ..words import human_seconds
from .options import CellOptions

if TYPE_CHECKING:
    from .views import Views


def set_up(streams: Sequence[Stream], options: CellOptions, views: Views) -> Notifier | None:
    """Let streams be answered and told of as the cell says; gives what tells, where anything is to be told.

    That all of a fleet have exited is told once, by `tell_end`.
    """
    for pattern, name in options.answers:
        for stream in streams:
            stream.answer(pattern, env=name)
    if not options.notify:
        return None
    show = views.notices(options.notify)

    def notify(title: str, text: str, stream: Any) -> None:
        show(title, text)
        tell(title, text, stream)

    wanted = read_wanted(options.notify)
    wanted = dataclasses.replace(wanted, end=wanted.end and not options.fleet)
    for stream in streams if wanted != Wanted() else ():
        stream.notify(wanted, notify)
    return notify


def tell_end(fleet: Fleet, notify: Notifier) -> None:
    """Tell once that all of a fleet have exited."""

    async def watch() -> None:
        await fleet._over()
        bad = fleet.those("failed", "skipped")
        text = f"{fleet.summary()} after {human_seconds(time.time() - fleet.started)}"
        try:
            await asyncio.to_thread(notify, f"{fleet.name} has {'failed' if bad else 'finished'}", text, fleet)
        except Exception as error:  # whatever the user's function raises is theirs to see
            show_error(f"the notifier of {fleet.name}", error)

    runtime().submit(watch())
