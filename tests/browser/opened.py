"""A report that is open in a browser."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page


@dataclass
class Opened:
    """A page, and what it did that a report must not do."""

    page: Page
    path: Path
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def go(self, route: str) -> None:
        """Follow an address within the report."""
        self.page.goto(f"{self.path.as_uri()}#{route}")

    def drawn(self) -> None:
        """Wait until all charts of the page that is open are drawn."""
        self.page.wait_for_selector(".page.open .chart:not([data-drawn])", state="detached")


Open = Callable[..., AbstractContextManager[Opened]]
