"""The WebUI's page in a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

from lib_ti.bench.webui import WebUI
from tests.browser.pages import open_tab


@pytest.fixture(scope="session")
def chromium() -> str:
    named = os.environ.get("CHROMIUM")
    found = named or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if not found:
        pytest.skip("no Chromium; install one or name it in CHROMIUM to run this")
    return found


@pytest.fixture
def page(webui: WebUI, chromium: str) -> Iterator[Page]:
    """The WebUI's page with the studio's tab open; an error in a script fails the test."""
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.on("pageerror", lambda error: errors.append(error.stack or str(error)))
        open_tab(page, webui)
        yield page
        browser.close()
    assert errors == []
