"""What a cell asks for besides running: answers to prompts, and notices for somebody who does not look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..notify import tell
from ..stream import Stream
from .options import CellOptions

if TYPE_CHECKING:
    from .views import Views


def set_up(streams: Sequence[Stream], options: CellOptions, views: Views) -> None:
    """Let streams be answered and told of as the cell says."""
    for pattern, name in options.answers:
        for stream in streams:
            stream.answer(pattern, env=name)
    if options.notify:
        show = views.notices(options.notify)

        def notify(title: str, text: str, stream: Stream) -> None:
            show(title, text)
            tell(title, text, stream)

        for stream in streams:
            stream.notify(options.notify, notify)
