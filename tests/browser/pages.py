"""Ways around the studio's page."""

from __future__ import annotations

from playwright.sync_api import Locator, Page

from lib_ti.bench.webui import WebUI

PATIENCE = 120_000  # milliseconds


def open_tab(page: Page, webui: WebUI) -> None:
    page.goto(webui.url)
    page.click('#tabs > .tab-nav > button:text-is("Train")', timeout=PATIENCE)
    page.click('#train_tabs > .tab-nav > button:text-is("TI Studio")')


def box(page: Page, name: str) -> Locator:
    return page.locator(f"#ti_studio_{name} :is(textarea, input[type=text], input[type=number])").first


def prompt_box(page: Page, name: str) -> Locator:
    return page.locator(f"#{name} textarea")
