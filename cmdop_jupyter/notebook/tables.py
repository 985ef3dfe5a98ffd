"""What `%cmdop` verbs return: small objects that read well as text and as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from .views.text import shown

CELL = "text-align:left;padding:1px 12px 1px 0;vertical-align:top"
CODE = '<code style="background:none;padding:0;color:inherit">{}</code>'  # in it, no page takes `$` for mathematics
FAILED = "color:var(--jp-error-color1,#c62828)"


class Note:
    """One line."""

    def __init__(self, text: str) -> None:
        self.text = shown(text)

    def __repr__(self) -> str:
        return self.text


class Table:
    """Rows under headings.

    Attributes:
        rows: Their cells, as text.
        objects: What each row is about.
        bad: Numbers of rows that are shown in red.
        notes: Lines below them, shown without rows too.
    """

    def __init__(
        self,
        headings: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        objects: Sequence[Any] = (),
        empty: str = "nothing",
        bad: frozenset[int] = frozenset(),
        notes: Sequence[str] = (),
    ) -> None:
        self.headings, self.objects, self.empty, self.bad = list(headings), list(objects), empty, bad
        self.notes = [shown(note) for note in notes]
        self.rows = [[shown(cell) for cell in row] for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        return self.objects[number]

    def __repr__(self) -> str:
        if not self.rows:
            return "\n".join([self.empty, *self.notes])
        lines = [self.headings, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.headings))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        return "\n".join([*text, *self.notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{CODE.format(html.escape(note))}</p>" for note in self.notes)
        if not self.rows:
            return f"<p>{html.escape(self.empty)}</p>{notes}"
        head = "".join(f'<th style="{CELL}">{html.escape(heading)}</th>' for heading in self.headings)
        body = ""
        for number, row in enumerate(self.rows):
            style = f"{CELL};{FAILED}" if number in self.bad else CELL
            styles = [f"{style};white-space:nowrap"] * (len(row) - 1) + [style]
            cells = zip(styles, row, strict=True)
            body += "<tr>" + "".join(f'<td style="{how}">{CODE.format(html.escape(cell))}</td>' for how, cell in cells)
            body += "</tr>"
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


class Url(str):
    """A URL, to use as a string; shown as a link, with a word on what it leads to.

    Attributes:
        what: That word.
    """

    what: str

    def __new__(cls, url: str, what: str) -> Url:
        self = super().__new__(cls, url)
        self.what = shown(what)
        return self

    def __repr__(self) -> str:
        return f"{self}  {self.what}"

    def _repr_html_(self) -> str:
        url = html.escape(self)
        what = CODE.format(html.escape(self.what))
        return f'<a href="{url}" target="_blank" rel="noopener noreferrer">{url}</a> {what}'


class Bundle:
    """Something with a ready text and HTML."""

    def __init__(self, data: dict[str, str]) -> None:
        self.data = data

    def __repr__(self) -> str:
        return self.data["text/plain"]

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return self.data
