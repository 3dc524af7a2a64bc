"""Reports in headless Chromium: opened from disk, with every request to anywhere else cut off and counted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Route, expect, sync_playwright

import fleet as made_up
from browser.opened import Open, Opened
from phiforge.reporting import Fleet, report_html

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_MS = 60_000  # other work may run beside
expect.set_options(timeout=TIMEOUT_MS)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = next((found for found in map(shutil.which, NAMES) if found), None)
    if program is None:
        pytest.fail("no Chromium is installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        # Without a sandbox, as containers have no user namespaces; the pages are our own.
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=TIMEOUT_MS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    return made_up.fleet(made_up.MODELS[:2])


@pytest.fixture(scope="session")
def path(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 2 models on 12 devices on disk."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report_html(fleet), encoding="utf-8", newline="\n")
    return file


@pytest.fixture
def opening(browser: Browser) -> Open:
    @contextmanager
    def opening(
        path: Path,
        *,
        width: int = 1280,
        scheme: Literal["dark", "light"] = "light",
        route: str = "",
        scripts: bool = True,
    ) -> Iterator[Opened]:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts
        )
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        opened = Opened(page, path)

        def asked(given: Route) -> None:
            opened.requests.append(given.request.url)
            if given.request.url.startswith(path.as_uri()):
                given.continue_()
            else:
                given.abort()

        context.route("**/*", asked)

        def heard(message: ConsoleMessage) -> None:
            if message.type == "error":
                opened.problems.append(message.text)

        def opened_dialog(dialog: Dialog) -> None:
            opened.problems.append(dialog.message)
            dialog.dismiss()

        page.on("pageerror", lambda error: opened.problems.append(str(error)))
        page.on("console", heard)
        page.on("dialog", opened_dialog)
        opened.load(route)
        if scripts:
            page.wait_for_selector("html[data-ready]")
        yield opened
        context.close()

    return opening
