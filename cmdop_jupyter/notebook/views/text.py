"""Lines and facts of a session in, text and HTML out: for the page while it runs, for the file when it ended."""

import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby

from ...words import human_bytes, human_seconds
from .cells import BIDI, StyledLine
from .colors import PAGE, escape_sequence, tags
from .redact import Redactor
from .sgr import PLAIN

__all__ = [
    "Facts",
    "frozen_bundle",
    "header_html",
    "human_bytes",
    "human_seconds",
    "one_line",
    "set_redaction",
    "shown",
    "snapshot_bundle",
    "to_ansi",
    "to_html",
    "to_text",
]

HEAD_LINES, TAIL_LINES = 20, 80  # of the frozen text
MAX_SAVED = 60_000  # bytes of the text and the HTML that stay in a file, together
SILENT = 10.0  # seconds without output after which the header says so

Bundle = dict[str, str]

_HARMLESS = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
_HARMLESS |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), *map(ord, BIDI)], "\ufffd")
_HARMLESS |= {0x2028: "\u2424", 0x2029: "\u2424"}
_HARMFUL = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{BIDI}\u2028\u2029]")

_FONT = "font-family:var(--jp-code-font-family,var(--vscode-editor-font-family,monospace))"
# Inside `code` no page looks for mathematics between two `$`.
_CODE = f"background:none;border:0;padding:0;color:inherit;font-size:var(--jp-code-font-size,inherit);{_FONT}"
LINE_HEIGHT = 1.3  # em
_BLOCK = (
    '<code style="display:block;{}white-space:pre-wrap;overflow-wrap:anywhere;'
    f'line-height:{LINE_HEIGHT};{_CODE};padding-left:8px">'
)
_MARGIN = {
    "stderr": '<div role="group" title="stderr" aria-label="stderr" style="margin-left:-8px;padding-left:5px;'
    'border-left:3px solid #c44;background:#c4444414">',
    "tty": '<div role="group" title="terminal" aria-label="terminal" style="opacity:.7">',
}
_RED, _GREEN, _AMBER, _BLUE, _GREY = PAGE[1], PAGE[2], PAGE[3], PAGE[4], PAGE[8]
# A glyph a state, told apart by its shape too. What is to be read beside it has the colour of the page's text.
_LIVE = {
    "starting": ("○", _BLUE),
    "running": ("●", _GREEN),
    "quiet": ("◐", _BLUE),
    "held": ("▮▮", _AMBER),
    "stopping": ("■", _AMBER),
}
_AWAY, _ASKS, _FAILED, _LOST = ("↯", _AMBER), ("▸", _AMBER), ("✗", _RED), ("?", _RED)
_STOPPED, _OVER = ("■", _GREY), ("✓", _GREEN)
GLYPHS = (*_LIVE.values(), _AWAY, _ASKS, _FAILED, _LOST, _STOPPED, _OVER)
DIM = 0.82  # of what matters less; two of them, one in the other, can still be read

# How lines are cut to fit into a file: characters, and whether they lose their colours.
_LIMITS = ((2000, False), (1000, False), (500, False), (250, False), (250, True), (120, True), (60, True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What header, snapshot and frozen text say of a session.

    Attributes:
        name: Of the session.
        machine: As people call it.
        session_id: Of the session.
        command: What runs, in one line.
        state: One of the session states, or `stopping`.
        started: Seconds since the epoch.
        elapsed: Seconds the command has run, or ran.
        exit: How the command ended, in words (`exit 3`); "" while it has not.
        failed: Whether it ended badly.
        ended_by_stop: Whether somebody stopped it.
        silent: Seconds since the last output.
        bytes, lines: In the log.
        rate: Bytes a second, lately; 0 is not shown.
        log: Where the whole log is, on the machine.
        held: Why the log takes nothing, while it does not.
        held_by: Who keeps the output open after the exit.
        stopped: What a stop took.
        prompt: What it asks for and waits to be told.
        paused: The picture is left as it is.
        since: How many lines came since then.
        filtered: What the picture shows of the output, in words; "" for all.
        link: How its machine is reached, while it is not: all else is what was known before.
    """

    name: str
    machine: str
    session_id: str
    command: str
    state: str
    started: float
    elapsed: float
    exit: str = ""
    failed: bool = False
    ended_by_stop: bool = False
    silent: float = 0.0
    bytes: int = 0
    lines: int = 0
    rate: float = 0.0
    log: str = ""
    held: str = ""
    held_by: str = ""
    stopped: str = ""
    prompt: str = ""
    paused: bool = False
    since: int = 0
    filtered: str = ""
    link: str = ""


_redactor = Redactor()


def set_redaction(patterns: Iterable[str]) -> None:
    """Set what `shown` replaces, from now on; see `Redactor`. Raises InvalidRequest."""
    global _redactor
    _redactor = Redactor(patterns)


def shown(text: str) -> str:
    """Return `text` as it may be shown or saved: all that is passes here, or as lines by `shown_lines`.

    What looks like a secret is replaced by `[redacted]`. Nothing is left that could do more than be read: line feeds
    and tabs stay; other controls, what turns the direction of text round, and lone surrogates become visible ones.
    """
    return _harmless(_redactor(text))


def shown_lines(lines: Iterable[StyledLine]) -> list[StyledLine]:
    """Return lines without their secrets; to be done before anything is cut off. Controls in them stay."""
    return _redactor.lines(lines)


def masked(lines: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the texts of lines, each with its channel, without secrets that are in several of them."""
    return tuple(line.text for line in shown_lines(StyledLine(one, ((text, PLAIN),), len(text)) for one, text in lines))


def _harmless(text: str) -> str:
    return text.translate(_HARMLESS) if _HARMFUL.search(text) else text


def size_of(bundle: Bundle) -> int:
    """Return how many bytes it adds to a file or a message."""
    return sum([len(text.encode()) for text in bundle.values()])


def to_text(lines: Iterable[StyledLine], *, skipped: int = 0, times: bool = False) -> str:
    """Return the lines as plain text; before them how many were `skipped`; with `times` when each was begun."""
    made = [_time(line, times) + _before(line) + _harmless(line.text) + _behind(line) for line in shown_lines(lines)]
    return "\n".join([_skipped(skipped), *made] if skipped else made)


def to_ansi(lines: Iterable[StyledLine], *, skipped: int = 0, times: bool = False) -> str:
    """Return the same for a terminal, colours as sequences of our own making."""
    made = [_skipped(skipped)] if skipped else []
    for line in shown_lines(lines):
        pieces = [_time(line, times), _before(line)]
        for text, style in line.spans:
            sequence = escape_sequence(style)
            pieces.append(f"{sequence}{_harmless(text)}\x1b[0m" if sequence else _harmless(text))
        made.append("".join(pieces) + _behind(line))
    return "\n".join(made)


def to_html(lines: Iterable[StyledLine], *, skipped: int = 0, times: bool = False, rows: int = 0) -> str:
    """Return the same as one block that needs no style sheet. Its text is that of `to_text`, and a line feed.

    Args:
        rows: How many lines it is high at least.
    """
    made = [_BLOCK.format(f"min-height:{rows * LINE_HEIGHT:.1f}em;" if rows else "")]
    if skipped:
        made += (_note(_skipped(skipped)), "\n")
    for channel, group in groupby(shown_lines(lines), key=lambda line: line.channel):
        opening = _MARGIN.get(channel, "")
        made.append(opening)
        for line in group:
            if times:
                made.append(f'<span style="opacity:{DIM}">{_time(line, times)}</span>')
            _add_html(made, line)
        made.append("</div>" if opening else "")
    made.append("</code>")
    return "".join(made)


def one_line(facts: Facts) -> str:
    """Return the facts for a terminal, in one line."""
    return f"{_line(facts.name)} on {_line(facts.machine)}: {_state(facts)}, {', '.join(_figures(facts))}"


def header_html(facts: Facts, *, note: str = "") -> str:
    """Return the facts as one line of HTML, and perhaps a `note` below it."""
    # The width is what there is: else it would be that of the text, and reach under the buttons.
    style = f"display:block;width:0;min-width:100%;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;{_CODE}"
    below = f'<code style="display:block;white-space:normal;{_CODE}">{_note(_line(note))}</code>' if note else ""
    return f'<code style="{style}">{_facts_html(facts)}</code>{below}'


def snapshot_bundle(facts: Facts, lines: Sequence[StyledLine], now: float, *, skipped_lines: int = 0) -> Bundle:
    """Return what a file saved while the session runs will hold: one line, with the newest output folded into it.

    Args:
        facts: Of the moment.
        lines: The newest; the last 80 are used.
        now: Seconds since the epoch.
        skipped_lines: How many came before `lines`.
    """
    as_of = f"as of {_when(now)}"
    newest = shown_lines(lines)[-TAIL_LINES:]
    skipped = skipped_lines + len(lines) - len(newest)

    def render(lines: list[StyledLine]) -> Bundle:
        text = [to_text(lines, skipped=skipped)] if lines else []
        body = to_html(lines, skipped=skipped) if lines else ""
        return {
            "text/plain": "\n".join([f"{one_line(facts)} ({as_of})", *text]),
            # Dim: while the session runs, the view above says the same.
            "text/html": f"<details>{_summary(facts, as_of, dim=True)}{body}{_about_html(facts)}</details>",
        }

    return _bounded(render, newest)


def frozen_bundle(
    facts: Facts, head: Sequence[StyledLine], tail: Sequence[StyledLine], skipped_lines: int, skipped_bytes: int = 0
) -> Bundle:
    """Return what stays in the file when the session has ended: at most 20 lines, what was left out, at most 80 lines.

    Args:
        facts: Of the end.
        head: The first lines of the output.
        tail: The last ones. Where nothing is left out it does not matter which of the two has how many.
        skipped_lines: How many lie between them; those of `head` and `tail` that are too many are added.
        skipped_bytes: How much that is; 0 if it is not known.
    """
    head, tail = shown_lines(head), shown_lines(tail)
    given = [*head, *tail]
    if skipped_lines:
        begin, end = list(head[:HEAD_LINES]), list(tail[-TAIL_LINES:])
    elif len(given) > HEAD_LINES + TAIL_LINES:
        begin, end = given[:HEAD_LINES], given[-TAIL_LINES:]
    else:
        begin, end = given, []
    skipped = skipped_lines + len(given) - len(begin) - len(end)
    size = f" ({human_bytes(skipped_bytes)})" if skipped_bytes else ""
    where = f", full log: {_line(facts.log)}" if facts.log else ""
    gap = f"… {_count(skipped, 'line')}{size} not shown{where} …" if skipped else ""

    def render(lines: list[StyledLine]) -> Bundle:
        parts = [lines[: len(begin)], lines[len(begin) :]]
        texts, pages = (
            [[to_text(part)] if part else [] for part in parts],
            [to_html(part) if part else "" for part in parts],
        )
        texts.insert(1, [gap] if gap else [])
        pages.insert(1, f'<code style="display:block;{_CODE};padding-left:8px">{_note(gap)}</code>' if gap else "")
        return {
            "text/plain": "\n".join([one_line(facts), *(line for lines in texts for line in lines), *_about(facts)]),
            "text/html": f"<details open>{_summary(facts)}{''.join(pages)}{_about_html(facts)}</details>",
        }

    return _bounded(render, [*begin, *end])


def _bounded(render: Callable[[list[StyledLine]], Bundle], lines: list[StyledLine]) -> Bundle:
    """Render, with lines cut as far as it takes to stay within what a file should hold."""
    for limit, plain in _LIMITS:
        if _least(lines, limit, plain) < MAX_SAVED:
            bundle = render([_shortened(line, limit, plain) for line in lines])
            if size_of(bundle) <= MAX_SAVED:
                return bundle
    return render([_shortened(line, 25, True) for line in lines])


def _least(lines: list[StyledLine], limit: int, plain: bool) -> int:
    """Bytes that shortened lines take at least: each character is there twice, and a style costs 7."""
    size = 0
    for line in lines:
        left = limit
        for text, style in line.spans:
            if left <= 0 or size >= MAX_SAVED:
                break
            size += 2 * min(len(text), left) + (0 if plain or style == PLAIN else 7)
            left -= len(text)
    return size


def _shortened(line: StyledLine, limit: int, plain: bool) -> StyledLine:
    spans, left = [], limit
    for text, style in line.spans:
        if left <= 0:
            break
        spans.append((text[:left], PLAIN if plain else style))
        left -= len(text)
    return replace(line, spans=tuple(spans))


def _before(line: StyledLine) -> str:
    return "… " if line.headless else ""


def _behind(line: StyledLine) -> str:
    if not line.cut:
        return ""
    return f" … {'more than ' if line.headless else ''}{_count(line.characters, 'character')}"


def _skipped(lines: int) -> str:
    return f"… {_count(lines, 'earlier line')} not shown"


def _time(line: StyledLine, wanted: bool) -> str:
    if not wanted:
        return ""
    if not line.wall_ns:
        return " " * 13
    return datetime.fromtimestamp(line.wall_ns / 1e9).strftime("%H:%M:%S.%f")[:12] + " "


def _note(text: str) -> str:
    return f'<i style="opacity:{DIM}">{_escape(text)}</i>' if text else ""


def _add_html(made: list[str], line: StyledLine) -> None:
    made.append(_note(_before(line)))
    for text, style in line.spans:
        opening, closing = tags(style)
        made += (opening, html.escape(_harmless(text), quote=False), closing)
    made += (_note(_behind(line)), "\n")


def _escape(text: str) -> str:
    return html.escape(shown(text), quote=False)


def _line(text: str) -> str:
    """Names and paths can have line feeds in them; a line cannot."""
    return shown(text).replace("\n", "\u240a").replace("\t", " ")


def _state(facts: Facts) -> str:
    word = _word(facts)
    said = [f"failed, {word}" if facts.failed and facts.exit else word, facts.held]
    said += [
        facts.held_by and f"output held by {facts.held_by}",
        facts.stopped,
        facts.prompt and f"asks {facts.prompt!r}",
    ]
    said += [_paused(facts), facts.filtered, facts.link]
    return _line(", ".join(filter(None, said)))


def _word(facts: Facts) -> str:
    if facts.exit or facts.state != "running" or facts.link or facts.prompt or facts.silent <= SILENT:
        return facts.exit or facts.state
    return "quiet"


def _paused(facts: Facts) -> str:
    if not facts.paused:
        return ""
    return f"paused, {_count(facts.since, 'line')} since" if facts.since else "paused"


def _figures(facts: Facts) -> list[str]:
    live = facts.state in _LIVE and not facts.exit
    figures = [f"{'' if live else 'after '}{human_seconds(facts.elapsed)}"]
    figures += [human_bytes(facts.bytes), _count(facts.lines, "line")]
    if live and facts.rate > 0:
        figures.append(f"{human_bytes(facts.rate)}/s")
    if live and facts.silent > SILENT:
        ago = f"{int(facts.silent)} s" if facts.silent < 60 else human_seconds(facts.silent)
        figures.append(f"last output {ago} ago" if facts.bytes else f"no output for {ago}")
    return figures


def _glyph(facts: Facts) -> tuple[str, str]:
    if facts.link:
        return _AWAY
    if facts.state == "lost":
        return _LOST
    if facts.failed:
        return _FAILED
    if facts.exit:
        return _STOPPED if facts.ended_by_stop else _OVER
    if facts.prompt:
        return _ASKS
    return _LIVE.get(_word(facts), _OVER)


def _facts_html(facts: Facts, note: str = "") -> str:
    glyph, color = _glyph(facts)
    state = _escape(_state(facts))
    if facts.failed or facts.held or facts.link or facts.paused or facts.prompt:
        state = f"<b>{state}</b>"
    name = f"<b>{_escape(_line(facts.name))}</b> on {_escape(_line(facts.machine))}"
    said = [name, state, *_figures(facts), *([_escape(_line(note))] if note else [])]
    return f'<span style="color:{color}">{glyph}</span> {" · ".join(said)}'


def _summary(facts: Facts, note: str = "", *, dim: bool = False) -> str:
    opacity = f' style="opacity:{DIM}"' if dim else ""
    return f'<summary{opacity}><code style="{_CODE}">{_facts_html(facts, note)}</code></summary>'


def _about(facts: Facts) -> list[str]:
    log = f", full log: {_line(facts.log)} on {_line(facts.machine)}" if facts.log else ""
    about = f"session {_line(facts.session_id)}, started {_when(facts.started)}{log}"
    return [f"$ {_line(facts.command)}", about] if facts.command else [about]


def _about_html(facts: Facts) -> str:
    lines = "<br>".join(_escape(line) for line in _about(facts))
    return f'<code style="display:block;opacity:{DIM};{_CODE};padding-left:8px">{lines}</code>'


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
