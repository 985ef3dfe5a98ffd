"""What people see: widgets and text in a notebook, plain text in a terminal. Which one is decided here."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ...fleet import Fleet, FleetFront
    from ...stream import Stream
    from ...watching import WaitWatch
    from ..links import Heard
    from ..tables import Table
    from .sieve import Looks


class Views(Protocol):
    """How streams are shown to the person at this front end."""

    def show(self, stream: Stream, lines: int, looks: Looks | None = None) -> None:
        """Show a stream in the current cell, or what is wanted of it."""
        ...

    def fleets(self, lines: int) -> FleetFront:
        """What shows a fleet in the current cell, `lines` of a machine that is looked at; 0: in one line."""
        ...

    def keep_fleet(self, fleet: Fleet) -> dict[str, str]:
        """The text of a fleet, as it stays in a file."""
        ...

    def sessions(self, table: Table, heard: Sequence[Heard], only: str | None, bind: Callable[[Stream], str]) -> Table:
        """The table of all sessions, or `only` one machine's, live where somebody may look; `bind` as `Verbs`."""
        ...

    def check_terminal(self) -> None:
        """Raise NotSupported where nobody could see a terminal, and type into it."""
        ...

    def show_terminal(self, stream: Stream) -> None:
        """Show a stream as a terminal in the current cell."""
        ...

    def waiting(self, streams: Sequence[Stream], what: str) -> WaitWatch:
        """Somebody begins to wait on streams."""
        ...

    def keep(self, stream: Stream) -> dict[str, str]:
        """The text of a stream's output, as it stays in a file."""
        ...

    def settle(self, stream: Stream) -> None:
        """Bring what is shown of a stream up to date, at the latest when the cell is done."""
        ...

    def finish(self, session_id: str) -> None:
        """The session is about to be removed: what is shown of it stays as it is now."""
        ...

    def close(self) -> None:
        """The extension is unloaded."""
        ...

    def say(self, text: str) -> None:
        """Tell one line."""
        ...

    def notices(self, what: str) -> Callable[[str, str], object]:
        """Make room for notices of a cell; gives what shows one: a title and a text."""
        ...

    def current_cell(self) -> tuple[Hashable, Hashable] | None:
        """The running cell and this run of it; None when that cannot be known."""
        ...


def make_views(shell: Any) -> Views:
    """The views for a shell: those of a notebook when it is a kernel's."""
    if getattr(shell, "kernel", None) is not None:
        from .page import PageViews

        return PageViews(shell)
    from .plain import PlainViews

    return PlainViews(shell)
