"""Data sets in a real browser: make one, look at it, write a caption, train on it by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from lib_ti.bench.webui import WebUI
from tests.browser.pages import PATIENCE, box

pytestmark = [pytest.mark.host, pytest.mark.browser]


def open_data_sets(page: Page) -> None:
    page.click('#ti_studio > .tab-nav > button:text-is("Data sets")')


def open_tool(page: Page, name: str) -> None:
    page.click(f'#ti_studio_tools_of_images > .tab-nav > button:text-is("{name}")')


def said(page: Page, name: str) -> Locator:
    return page.locator(f"#ti_studio_{name} .ti-studio-status")


def test_a_folder_becomes_a_data_set_with_captions_of_ones_own(
    page: Page, webui: WebUI, pictures: str
) -> None:
    before = {path: path.read_bytes() for path in Path(pictures).iterdir()}
    open_data_sets(page)
    open_tool(page, "Make")
    box(page, "tool_images_make_source").fill(pictures)
    box(page, "tool_images_make_to").fill("zqx things")
    page.click("#ti_studio_tool_images_make_go")
    expect(said(page, "tool_images_make_said")).to_contain_text("4 pictures with captions", timeout=PATIENCE)
    folder = webui.data / ".ti-studio" / "datasets" / "zqx things"
    assert len(list(folder.glob("*.png"))) == 4

    open_tool(page, "Write caption")
    with page.expect_response("**/run/predict*", timeout=PATIENCE):
        page.click("#ti_studio_captions_of_again")
    choice = page.locator("#ti_studio_captions_of input")
    choice.fill("zqx")
    choice.press("Enter")
    expect(said(page, "captions_facts")).to_contain_text("1 of 4: a red thing 0.png", timeout=PATIENCE)
    caption = page.locator("#ti_studio_captions_text textarea")
    expect(caption).to_have_value("a red thing 0")
    page.click("#ti_studio_captions_on")
    expect(said(page, "captions_facts")).to_contain_text("2 of 4", timeout=PATIENCE)
    caption.fill("<b>a [name]</b>, grass")
    page.click("#ti_studio_captions_save")
    expect(said(page, "captions_said")).to_contain_text("Saved", timeout=PATIENCE)
    expect(page.locator("#ti_studio_captions_tags .ti-studio-tags")).to_contain_text("<b>a [name]</b> 1")
    assert (folder / "a red thing 1.txt").read_text() == "<b>a [name]</b>, grass"
    page.click("#ti_studio_captions_back")
    expect(caption).to_have_value("a red thing 0", timeout=PATIENCE)
    page.click("#ti_studio_captions_back")  # beyond the first comes the last
    expect(said(page, "captions_facts")).to_contain_text("4 of 4", timeout=PATIENCE)
    shown = page.locator("#ti_studio_captions_picture img")
    assert shown.evaluate("image => image.naturalWidth") == 64
    assert {path: path.read_bytes() for path in Path(pictures).iterdir()} == before

    page.click('#ti_studio > .tab-nav > button:text-is("Train")')
    for name, value in {
        "name": "zqx-set",
        "images": "zqx things",
        "steps": "2",
        "preview_every": "0",
    }.items():
        box(page, name).fill(value)
    page.click("#ti_studio_train")
    expect(said(page, "status")).to_contain_text("Done: zqx-set", timeout=PATIENCE)


def test_a_page_that_names_another_folder_writes_nothing(page: Page, webui: WebUI, tmp_path: Path) -> None:
    """What a hostile page could send to the editor: it may look into a folder, as a form may."""
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    config = webui.call("/config")
    ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}

    def send(name: str, trigger: str, *given: Any) -> str:
        (event,) = (
            i
            for i, made in enumerate(config["dependencies"])
            if made["targets"] == [ids[name]] and made["trigger"] == trigger
        )
        asked = {"fn_index": event, "data": given, "session_hash": "hostile"}
        return str(webui.call("/run/predict", asked)["data"])

    assert "1 of 1: a.png" in send("ti_studio_captions_of", "change", str(tmp_path))
    assert "is none of the datasets" in send("ti_studio_captions_save", "click", str(tmp_path), 1, None, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
