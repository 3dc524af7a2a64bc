"""A report that is open in a browser."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Locator, Page, expect


@dataclass
class Opened:
    """A page, and what it did that a report must not do."""

    page: Page
    path: Path
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def heading(self) -> Locator:
        """The heading of the page that is open."""
        return self.page.locator(".page.open h1")

    def load(self, route: str) -> None:
        """Load the report at an address within it."""
        self.page.goto(f"{self.path.as_uri()}#{route}")

    def go(self, route: str, *, page: str | None = None) -> None:
        """Follow an address within the report that is loaded, until its page (the address itself, or `page`) is open.

        The browser changes the address first and tells the script later, so whoever looks at once sees the page before.
        """
        self.load(route)
        expect(self.page.locator(".page.open")).to_have_id(page or route)

    def told(self, words: str) -> bool:
        """Wait until the browser tells of a problem, and return whether it did; it tells of it some time later."""
        for _ in range(300):
            if any(words in problem for problem in self.problems):
                return True
            self.page.wait_for_timeout(200)
        return False

    def processor_seconds(self) -> float:
        """Return what the page's process has used."""
        session = self.page.context.new_cdp_session(self.page)
        session.send("Performance.enable")
        found = session.send("Performance.getMetrics")["metrics"]
        return next(float(metric["value"]) for metric in found if metric["name"] == "ProcessTime")

    def drawn(self) -> None:
        """Wait until all charts of the page that is open are drawn."""
        self.page.wait_for_selector(".page.open .chart:not([data-drawn])", state="detached")


Open = Callable[..., AbstractContextManager[Opened]]
