"""The tools for network files in a real browser: what one writes, the WebUI and the next one offer."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from lib_ti.bench.webui import WebUI
from lib_ti.hosts.checkpoints import BUILTIN
from lib_ti.networks.prompt_files import metadata_of
from tests.browser.pages import PATIENCE, box, choose

pytestmark = [pytest.mark.host, pytest.mark.browser]


@pytest.fixture
def networks(page: Page) -> Page:
    """The page with the tools for network files open."""
    page.click('#ti_studio > .tab-nav > button:text-is("LoRAs")')
    return page


def open_tool(page: Page, name: str) -> None:
    page.click(f'#ti_studio_tools_of_lora > .tab-nav > button:text-is("{name}")')


def add(page: Page, name: str, value: str) -> None:
    """To a list of several."""
    entry = page.locator(f"#ti_studio_{name} input")
    entry.fill(value)
    entry.press("Enter")
    expect(page.locator(f"#ti_studio_{name} .token")).to_contain_text([value])


def use(page: Page, tool: str) -> Locator:
    """Press its button; what it said."""
    page.click(f"#ti_studio_tool_lora_{tool}_go")
    return page.locator(f"#ti_studio_tool_lora_{tool}_said .ti-studio-status")


def test_merge_into_a_checkpoint_extract_and_look(networks: Page, webui: WebUI) -> None:
    page, models = networks, webui.data / "models"
    open_tool(page, "Merge into checkpoint")
    choose(page, "tool_lora_merge-into-checkpoint_checkpoint", BUILTIN.name)
    add(page, "tool_lora_merge-into-checkpoint_files", "strong.safetensors")
    box(page, "tool_lora_merge-into-checkpoint_to").fill("zqx-merged")
    box(page, "tool_lora_merge-into-checkpoint_ratios").fill("0.5")
    said = use(page, "merge-into-checkpoint")
    expect(said).to_contain_text("strong: applied 2 of 2 modules", timeout=PATIENCE)
    assert "zqx-merged" in {model["model_name"] for model in webui.call("/sdapi/v1/sd-models")}

    said = use(page, "merge-into-checkpoint")
    expect(said).to_contain_text("exists", timeout=PATIENCE)

    open_tool(page, "Extract")
    choose(page, "tool_lora_extract_original", BUILTIN.name)
    choose(page, "tool_lora_extract_tuned", "zqx-merged.safetensors")
    box(page, "tool_lora_extract_to").fill("zqx-extracted")
    said = use(page, "extract")
    expect(said).to_contain_text(re.compile(r"Extracted 2 modules .*zqx-extracted"), timeout=PATIENCE)
    (models / "Stable-diffusion" / "zqx-merged.safetensors").unlink()

    open_tool(page, "Inspect")
    choose(page, "tool_lora_inspect_file", "zqx-extracted.safetensors")
    said = use(page, "inspect")
    expect(said).to_contain_text("zqx-extracted: LoRA of rank 4 in 2 layers; for sd1", timeout=PATIENCE)
    assert webui.txt2img("a star <lora:zqx-extracted:1>") != webui.txt2img("a star"), "the WebUI finds it"
    for left in (models / "Lora").glob("zqx-extracted*"):  # and what the WebUI keeps beside it
        left.unlink()


def test_metadata_are_read_and_changed(page: Page, webui: WebUI) -> None:
    folder = webui.data / "models" / "Lora"
    file = Path(shutil.copy(folder / "strong.safetensors", folder / "zqx-told.safetensors"))
    page.click('#ti_studio > .tab-nav > button:text-is("LoRAs")')
    open_tool(page, "Edit metadata")
    choose(page, "metadata_file", file.name)
    page.keyboard.press("Enter")
    text = page.locator("#ti_studio_metadata_text textarea")
    expect(text).to_have_value(re.compile(r"^\{"), timeout=PATIENCE)
    told = {**json.loads(text.input_value()), "ss_training_comment": "<b>mine</b>"}
    text.fill("{")
    page.click("#ti_studio_metadata_save")
    said = page.locator("#ti_studio_metadata_said .ti-studio-status")
    expect(said).to_contain_text("this is not JSON", timeout=PATIENCE)
    text.fill(json.dumps(told))
    page.click("#ti_studio_metadata_save")
    expect(said).to_contain_text("Saved into", timeout=PATIENCE)
    assert metadata_of(file)["ss_training_comment"] == "<b>mine</b>"
    file.unlink()
