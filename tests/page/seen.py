"""The Output view below a cell, as somebody sees it who looks at the page."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page


class Seen:
    """The view below a cell of a `Lab`; in another `page` than its first where that is given.

    Attributes:
        cell, area, header: Parts of the page.
    """

    def __init__(self, lab, number: int, page: Page | None = None, at: Locator | None = None) -> None:
        self.lab, self.cell = lab, at or lab.cell(number, page)
        self.area = self.cell.locator(".cmdop-area")
        self.header = self.cell.locator(".cmdop-view code").first

    def button(self, word: str) -> Locator:
        return self.cell.get_by_role("button", name=word, exact=True)

    def reads(self, text: str | re.Pattern[str]) -> None:
        """Wait until it is in the area."""
        self.area.get_by_text(text).first.wait_for()

    def tells(self, pattern: str) -> str:
        """Wait until the header matches."""
        return self.lab.until(lambda: re.search(pattern, self.header.inner_text()))[0]

    @property
    def newest(self) -> int:
        """The number at the end of the last line."""
        return int(re.findall(r"\d+", self.area.inner_text())[-1])
