"""Ways around the studio's page."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

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


def choose(page: Page, name: str, value: str) -> None:
    """In a dropdown, by typing, as soon as it offers that."""
    entry = page.locator(f"#ti_studio_{name} input")
    offered = page.locator(f"#ti_studio_{name} li", has_text=value)
    for _ in range(40):
        entry.click()
        entry.fill(value)
        if offered.count():
            offered.first.dispatch_event("mousedown")
            break
        page.keyboard.press("Escape")
        page.locator("#ti_studio").click(position={"x": 1, "y": 1})
        page.wait_for_timeout(500)
    expect(entry).to_have_value(value)
