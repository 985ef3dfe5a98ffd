"""Rows of a fleet in, text and HTML out: the grid, the merged newest lines, the text that stays in the file. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...fleet_stream import OUTCOMES, Row
from ...machines.base import StopReport
from ...words import human_bytes, human_seconds
from .cells import width
from .colors import PAGE
from .text import _CODE, MAX_SAVED, Bundle, _count, _escape, _line, _when, shown, size_of

__all__ = [
    "Entry",
    "FleetFacts",
    "NewLine",
    "bundle",
    "color",
    "grid_html",
    "grid_text",
    "header",
    "header_html",
    "in_order",
    "merged_html",
    "stop_words",
    "summary",
]

COLORS = tuple(PAGE[number] for number in (4, 3, 5, 6, 12, 11, 13, 14, 2, 10))  # red is for trouble
RED, GREEN, AMBER, BLUE, GREY = PAGE[1], PAGE[2], PAGE[3], PAGE[4], PAGE[8]
GLYPHS = {
    "failed": ("✗", RED),
    "held": ("‖", AMBER),
    "link": ("△", AMBER),
    "stopping": ("●", AMBER),
    "starting": ("○", BLUE),
    "running": ("●", GREEN),
    "waiting": ("○", GREY),
    "skipped": ("–", GREY),
    "stopped": ("■", GREY),
    "ok": ("✓", GREEN),
}
HEADINGS = ("state", "machine", "exit", "time", "output", "rate", "last line")
LONGEST_NAME, LONGEST_EXIT = 40, 18
LAST_LINES = (200, 120, 80, 50, 25, 0)  # characters of a last line, as room gets scarce
SAVED_TAILS = ((8, 5), (5, 4), (3, 2), (0, 0))  # of machines that failed: how many lines, of how many machines


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the grid.

    Attributes:
        link: How its machine is reached, in words, while it is not.
        rate: Bytes a second, lately.
        tail: Its newest lines, where it failed.
    """

    row: Row
    link: str = ""
    rate: float = 0.0
    tail: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """Its state in one word, a key of `GLYPHS`."""
        if self.row.outcome != "running":
            return self.row.outcome
        if self.link:
            return "link"
        return self.row.state if self.row.state in GLYPHS else "running"

    @property
    def said(self) -> str:
        """The last column: what stands in its way, else its newest line."""
        why = self.link or (self.row.exit if self.row.seconds is None or len(self.row.exit) > LONGEST_EXIT else "")
        return _line(why or self.row.last_line)

    @property
    def trouble(self) -> bool:
        return self.word in ("failed", "held", "link")


@dataclass(frozen=True, slots=True)
class NewLine:
    """One line of the merged tail."""

    machine: str
    color: str
    text: str
    channel: str


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """What is told of a fleet as a whole.

    Attributes:
        started: Seconds since the epoch.
        elapsed: Seconds, of the one that ran longest.
        stopped: What a stop took.
    """

    name: str
    command: str
    started: float
    elapsed: float
    stopped: str = ""


def color(number: int) -> str:
    """The colour of the machine with that number."""
    return COLORS[number % len(COLORS)]


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Trouble first, then what runs, then what waits, then what is done; else as they were asked for."""
    rank = {outcome: place for place, outcome in enumerate(OUTCOMES)}
    return sorted(entries, key=lambda entry: (not entry.trouble, rank[entry.row.outcome]))


def summary(entries: Sequence[Entry]) -> str:
    """`18 ok · 1 failed · 1 running`."""
    outcomes = [entry.row.outcome for entry in entries]
    said = [f"{outcomes.count(one)} {one}" for one in ("ok", "failed", "stopped", "skipped", "running", "waiting")]
    links = sum(entry.word == "link" for entry in entries)
    return " · ".join(
        [one for one in said if not one.startswith("0 ")] + ([f"{links} not reached now"] if links else [])
    )


def header(facts: FleetFacts, entries: Sequence[Entry]) -> str:
    """The fleet in one line."""
    said = [f"{_line(facts.name)} on {_count(len(entries), 'machine')}", summary(entries), human_seconds(facts.elapsed)]
    return " · ".join([*said, *([_line(facts.stopped)] if facts.stopped else [])])


def header_html(facts: FleetFacts, entries: Sequence[Entry], note: str = "") -> str:
    """The same as HTML, and perhaps a `note` below it."""
    name, _, rest = header(facts, entries).partition(" · ")
    glyph, shade = GLYPHS[overall(entries)]
    below = f'<code style="display:block;white-space:normal;{_CODE};opacity:.7">{_escape(note)}</code>' if note else ""
    style = f"display:block;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;{_CODE}"
    said = f'<span style="color:{shade}">{glyph}</span> <b>{_escape(name)}</b> · {_escape(rest)}'
    return f'<code style="{style}">{said}</code>{below}'


def overall(entries: Sequence[Entry]) -> str:
    """The word of the fleet: of its worst, and of what runs before what is done."""
    words = [entry.word for entry in in_order(entries)] or ["ok"]
    return words[0]


def grid_html(entries: Sequence[Entry], max_bytes: int) -> str:
    """The grid as HTML of at most about `max_bytes`: last lines shrink first, then rows at the end are only counted."""
    ordered, widths = in_order(entries), _widths(entries, live=True)
    count = len(ordered)
    for most in LAST_LINES:
        made = _grid_html(ordered, widths, most, count)
        if len(made.encode()) <= max_bytes:
            return made
    while count > 1 and len(made.encode()) > max_bytes:
        count = max(1, min(count - 1, count * max_bytes // len(made.encode())))
        made = _grid_html(ordered, widths, 0, count)
    return made


def grid_text(entries: Sequence[Entry], longest: int = 80, count: int | None = None) -> str:
    """The grid as text."""
    ordered, widths = in_order(entries), _widths(entries)
    count = len(ordered) if count is None else count
    lines = ["  " + _padded(HEADINGS[:-1], widths) + HEADINGS[-1]]
    lines += [
        f"{GLYPHS[one.word][0]} {_padded(_cells(one), widths)}{_cut(one.said, longest)}" for one in ordered[:count]
    ]
    lines += [_left(ordered, count)] if count < len(ordered) else []
    return "\n".join(line.rstrip() for line in lines)


def merged_html(lines: Sequence[NewLine], max_bytes: int) -> str:
    """The newest lines of all machines, each behind the name of its own, of at most about `max_bytes`."""
    room = max((_width(line.machine) for line in lines), default=0)
    made: list[str] = []
    size = 0
    for line in reversed(lines):
        bar = f'<b style="color:{RED}" title="stderr">|</b>' if line.channel == "stderr" else "|"
        name = f'<span style="color:{line.color}">{_escape(_fill(line.machine, room))}</span>'
        piece = f"{name} {bar} {_escape(_cut(_line(line.text), 400))}\n"
        size += len(piece.encode())
        if size > max_bytes and made:
            break
        made.append(piece)
    block = f"display:block;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.3;{_CODE}"
    return f'<code style="{block}">{"".join(reversed(made))}</code>'


def bundle(facts: FleetFacts, entries: Sequence[Entry], *, as_of: float | None = None) -> Bundle:
    """What stays in the file, or, `as_of` a time, what is there while it runs: the grid, and of what failed the end."""
    note = f" (as of {_when(as_of)})" if as_of is not None else ""
    for tails, longest in zip((*SAVED_TAILS, (0, 0), (0, 0)), LAST_LINES, strict=True):
        made = _bundle(facts, entries, note, tails, longest, len(entries))
        if size_of(made) <= MAX_SAVED:
            return made
    count = len(entries)
    while size_of(made) > MAX_SAVED and count > 1:
        count = max(1, count * 2 // 3)
        made = _bundle(facts, entries, note, (0, 0), 0, count)
    return made


def stop_words(reports: dict[str, StopReport]) -> str:
    """`stop took INT on 18, KILL on 2`."""
    took = [report.took for report in reports.values() if report.took]
    left = sum(bool(report.left) for report in reports.values())
    words = [f"{signal} on {took.count(signal)}" for signal in dict.fromkeys(took)]
    return f"stop took {', '.join(words) or 'nothing'}" + (f"; something is left on {left}" if left else "")


def _bundle(
    facts: FleetFacts, entries: Sequence[Entry], note: str, tails: tuple[int, int], longest: int, count: int
) -> Bundle:
    lines, machines = tails
    failed = [entry for entry in in_order(entries) if entry.row.outcome == "failed" and entry.tail][:machines]
    ends = [f"{_line(one.row.machine)} | {_cut(_line(line), 400)}" for one in failed for line in one.tail[-lines:]]
    ordered, widths = in_order(entries), _widths(entries)
    grid = grid_text(entries, longest, count)
    about = [f"$ {_line(facts.command)}", f"started {_when(facts.started)}"]
    head = header(facts, entries) + note
    opened = "" if note else " open"
    dim = ' style="opacity:.6"' if note else ""
    said = header_html(facts, entries).replace(
        "display:block;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;", ""
    )
    page = f'<div style="padding-left:8px;overflow-x:auto">{_grid_html(ordered, widths, longest, count)}</div>'
    when = f'<code style="{_CODE}">{_escape(note)}</code>' if note else ""
    block = f"display:block;white-space:pre;overflow-x:auto;{_CODE};padding-left:8px"
    pages = "".join(
        f'<code style="{block}{more}">{_escape(text)}</code>'
        for text, more in (("\n".join(ends), ";margin-top:4px"), ("\n".join(about), ";opacity:.7"))
        if text
    )
    return {
        "text/plain": "\n".join([head, grid, *map(shown, ends), *map(shown, about)]),
        "text/html": f"<details{opened}{dim}><summary>{said}{when}</summary>{page}{pages}</details>",
    }


def _grid_html(ordered: Sequence[Entry], widths: Sequence[int], longest: int, count: int) -> str:
    least = sum(widths) + 34  # where there is less room, all of it can be scrolled
    made = [
        f'<code role="table" aria-label="machines" style="display:block;min-width:{least}ch;white-space:pre;'
        f'line-height:1.45;{_CODE}">'
        f'<div role="row" style="opacity:.6">  {_escape(_padded(HEADINGS[:-1], widths) + HEADINGS[-1])}</div>'
    ]
    for one in ordered[:count]:
        glyph, shade = GLYPHS[one.word]
        cells = [_fill(cell, room) for cell, room in zip(_cells(one), widths, strict=True)]
        word = _escape(cells[0])
        state = f'<b style="color:{shade}">{word}</b>' if one.trouble else word
        said = _escape(_cut(one.said, longest))
        made.append(
            '<div role="row" style="overflow:hidden;text-overflow:ellipsis">'
            f'<span style="color:{shade}">{glyph}</span> '
            f"{state}{_escape(''.join(cells[1:]))}{said}</div>"
        )
    if count < len(ordered):
        made.append(f'<div style="opacity:.6">  {_escape(_left(ordered, count))}</div>')
    return "".join(made) + "</code>"


def _left(ordered: Sequence[Entry], count: int) -> str:
    return f"… and {_count(len(ordered) - count, 'machine')}: {summary(ordered[count:])}"


def _cells(entry: Entry) -> tuple[str, ...]:
    """All columns but the last."""
    row = entry.row
    exit = "" if row.seconds is None or len(row.exit) > LONGEST_EXIT else row.exit
    seconds = "" if row.seconds is None else human_seconds(row.seconds)
    size = human_bytes(row.bytes) if row.seconds is not None else ""
    rate = f"{human_bytes(entry.rate)}/s" if entry.rate >= 1 and row.outcome == "running" else ""
    return entry.word, _cut(_line(row.machine), LONGEST_NAME), exit, seconds, size, rate


def _widths(entries: Sequence[Entry], *, live: bool = False) -> list[int]:
    """Columns, with two blanks behind each; one that says nothing is left out, but not while that may change."""
    lines = [_cells(entry) for entry in entries]
    least = [len("stopping"), len("machine"), 0, len("59m59s"), len("3.4 MB"), 0]
    if live:
        least[2], least[5] = len("exit 127"), len("3.4 MB/s")
    widths = []
    for number, heading in enumerate(HEADINGS[:-1]):
        widest = max((_width(line[number]) for line in lines), default=0)
        widths.append(max(widest, len(heading), least[number]) + 2 if widest or least[number] else 0)
    return widths


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(_fill(cell, room) if room else "" for cell, room in zip(cells, widths, strict=True))


def _fill(text: str, room: int) -> str:
    return text + " " * (room - _width(text))


def _width(text: str) -> int:
    return sum(map(width, text))


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: max(0, longest - 1)]}…" if longest else ""
