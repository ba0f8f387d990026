"""A real Chromium. A page must load without errors in its console, failed requests or serious accessibility faults."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Dialog, Page, ViewportSize, sync_playwright

DESKTOP: ViewportSize = {"width": 1200, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 800}
WAIT_MS = 15_000
SERIOUS = ("serious", "critical")


@contextmanager
def a_chromium() -> Iterator[Browser]:
    """Start the installed Chromium. Without one the test is skipped; with REQUIRE_SERVICES=1 it fails."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        assert os.environ.get("REQUIRE_SERVICES") != "1", "there is no Chromium"
        pytest.skip("there is no Chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()


@contextmanager
def a_page(browser: Browser, url: str, viewport: ViewportSize = DESKTOP, *, expects: str = "") -> Iterator[Page]:
    """Open a page in a new profile. Whatever went wrong in it fails the test; `expects` is a part of an error that
    may be in its console."""
    wrong: list[str] = []
    context = browser.new_context(base_url=url, viewport=viewport)
    page = context.new_page()
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda asked: wrong.append(f"{asked.url}: {asked.failure}"))
    page.set_default_timeout(WAIT_MS)
    try:
        yield page
    finally:
        context.close()  # and with it the streams that the page has open
    assert [text for text in wrong if not (expects and expects in text) and "ERR_ABORTED" not in text] == []


def questions_agreed_to(page: Page) -> list[str]:
    """Agree to whatever the page asks from now on. The list gets each question."""
    asked: list[str] = []

    def agree(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.accept()

    page.on("dialog", agree)
    return asked


def accessibility_faults(page: Page) -> list[str]:
    """Return the serious faults that axe finds in what is shown now, in both colour schemes."""
    found: list[str] = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        violations = Axe().run(page).response["violations"]
        found += [
            f"{scheme}: {one['id']}: {node['html'][:200]}"
            for one in violations
            if one["impact"] in SERIOUS
            for node in one["nodes"]
        ]
    return found
