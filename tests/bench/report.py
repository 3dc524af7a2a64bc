"""How large a report of 5 models on 12 devices with full evidence is, and how fast it opens in headless Chromium.

Run `make bench-report`, or `PYTHONPATH=tests python -m bench.report`. Time to interactive is from the start of the
navigation until the page's script has set everything up (filters, sorting, addresses), as the page's own clock has it;
the time of a device's page is from the click until its last chart is drawn.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

import fleet as made_up
from phiforge.reporting import report_html

REPEATS = 10


def main() -> None:
    """Print the table."""
    program = next(found for found in map(shutil.which, ("chromium", "google-chrome")) if found)
    start = time.perf_counter()
    text = report_html(made_up.fleet())
    made_s = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "report.html"
        path.write_text(text, encoding="utf-8", newline="\n")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        times = [_open(browser.new_context().new_page(), path) for _ in range(REPEATS)]
        browser.close()
    ready, drawn = zip(*times, strict=True)
    lines = [
        "| | |",
        "|---|---:|",
        f"| size | {len(text.encode()) / 1e6:.2f} MB |",
        f"| time to make it | {made_s:.1f} s |",
        f"| time to interactive, median of {REPEATS} | {statistics.median(ready):.2f} s |",
        f"| time to interactive, longest | {max(ready):.2f} s |",
        f"| a device's page with 13 charts, median | {statistics.median(drawn):.2f} s |",
    ]
    print("\n".join(lines))  # noqa: T201


def _open(page: Page, path: Path) -> tuple[float, float]:
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    ready_ms = page.evaluate("performance.getEntriesByName('ready')[0].startTime")
    start = time.perf_counter()
    page.locator("#matrix tbody tr:first-child th a").click()
    page.wait_for_selector(".page.open .chart:not([data-drawn])", state="detached")
    drawn_s = time.perf_counter() - start
    page.context.close()
    return ready_ms / 1000, drawn_s


if __name__ == "__main__":
    main()
