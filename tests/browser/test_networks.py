"""Networks in a prompt, in a real browser: slots that are sent and pasted, cards that are searched."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from lib_ti.bench.webui import WebUI
from tests.browser.pages import PATIENCE, prompt_box
from tests.webui import probe

pytestmark = [pytest.mark.host, pytest.mark.browser]

PICTURE = "a star\nSteps: 1, Sampler: Euler, CFG scale: 5, Seed: 7, Size: 512x512, "


@pytest.fixture
def network(webui: WebUI) -> Path:
    return Path(probe(webui, "write_network", name="zqx slot", seed=0xABCDEF012345))


def open_page(page: Page, name: str) -> None:
    page.click(f'#tabs > .tab-nav > button:text-is("{name}")')


def control(page: Page, tab: str, name: str) -> Locator:
    kind = "checkbox" if name == "networks_on" else "number" if "net" not in name else ""
    return page.locator(f"#ti_studio_{tab}_{name} input" + (f"[type={kind}]" if kind else "")).first


def expect_slots(page: Page, tab: str, slots: dict[int, tuple[str, str, str]]) -> None:
    expect(control(page, tab, "networks_on")).to_be_checked(checked=bool(slots), timeout=PATIENCE)
    for slot in range(1, 6):
        for name, value in zip(("net", "unet", "text"), slots.get(slot, ("None", "1", "1")), strict=True):
            expect(control(page, tab, f"{name}_{slot}")).to_have_value(value)


def fill_slot(page: Page, slot: int, name: str, unet: str, text: str) -> None:
    for field, value in ((f"net_{slot}", name), (f"unet_{slot}", unet), (f"text_{slot}", text)):
        entry = control(page, "txt2img", field)
        entry.fill(value)
        entry.press("Enter")


def test_slots_are_sent_with_a_picture_and_come_back_with_its_text(page: Page, network: Path) -> None:
    open_page(page, "txt2img")
    prompt_box(page, "txt2img_prompt").fill("a star")
    page.click("#ti_studio_txt2img_networks > .label-wrap")
    control(page, "txt2img", "networks_on").check()
    filled = {1: ("zqx slot:stop=0.5", "0.8", "0.5"), 3: ("zqx slot", "-0.5", "-0.5")}
    for slot, values in filled.items():
        fill_slot(page, slot, *values)
    page.fill("#txt2img_steps input[type=number]", "1")
    page.click("#txt2img_generate")
    told = page.locator("#html_info_txt2img").first
    expect(told).to_contain_text(
        'Net 1: "zqx slot:0.8:te=0.5:stop=0.5", Net 3: "zqx slot:-0.5"', timeout=PATIENCE
    )
    text = told.inner_text()

    page.click("#txt2img_send_to_img2img")
    expect(prompt_box(page, "img2img_prompt")).to_have_value("a star", timeout=PATIENCE)
    expect_slots(page, "img2img", filled)

    open_page(page, "txt2img")
    prompt_box(page, "txt2img_prompt").fill(PICTURE.removesuffix(", "))
    page.click("#txt2img_tools #paste")
    expect_slots(page, "txt2img", {})
    prompt_box(page, "txt2img_prompt").fill(text)
    page.click("#txt2img_tools #paste")
    expect_slots(page, "txt2img", filled)


def test_what_is_sent_arrives_where_it_belongs(webui: WebUI) -> None:
    """The WebUI sends all fields in one row; one of ours too many would end in another extension's."""
    page = webui.call("/config")
    components = {component["id"]: component["props"] for component in page["components"]}
    (button,) = (id for id, props in components.items() if props.get("elem_id") == "txt2img_send_to_img2img")
    (sent,) = (
        [[components[id]["label"] for id in told[way]] for way in ("inputs", "outputs")]
        for told in page["dependencies"]
        if button in told["targets"] and len(told["outputs"]) > 3
    )
    ours = [label for label in sent[0] if "Network" in label or "networks" in label]
    assert sent[0] == sent[1] and len(ours) == 1 + 5


def test_a_text_of_additional_networks_fills_our_slots_by_name_or_by_hash(
    page: Page, webui: WebUI, network: Path
) -> None:
    open_page(page, "txt2img")
    addnet = "AddNet Enabled: True, AddNet Module 1: LoRA, AddNet Model 1: {}, {}"
    weights = "AddNet Weight A 1: 0.8, AddNet Weight B 1: 0.5"
    for name in ("zqx slot(123456789abc)", "an old name(abcdef012345)"):
        prompt_box(page, "txt2img_prompt").fill(PICTURE + addnet.format(name, weights))
        page.click("#txt2img_tools #paste")
        expect_slots(page, "txt2img", {1: ("zqx slot", "0.8", "0.5")})
        # The built-in extension would call it in the prompt, a second time.
        expect(prompt_box(page, "txt2img_prompt")).to_have_value("a star")
        prompt_box(page, "txt2img_prompt").fill(PICTURE.removesuffix(", "))
        page.click("#txt2img_tools #paste")
        expect_slots(page, "txt2img", {})
    renamed = "a <net:old:0.5>\nNegative prompt: <net:old:start=0.2>\n" + PICTURE.partition("\n")[2]
    prompt_box(page, "txt2img_prompt").fill(renamed + 'Net hashes: "old: abcdef012345"')
    page.click("#txt2img_tools #paste")
    expect(prompt_box(page, "txt2img_prompt")).to_have_value("a <net:zqx slot:0.5>", timeout=PATIENCE)
    expect(prompt_box(page, "txt2img_neg_prompt")).to_have_value("<net:zqx slot:start=0.2>")


def test_cards_are_searched_looked_at_and_clicked(page: Page, webui: WebUI, network: Path) -> None:
    probe(webui, "write_network", name="zqx other", seed=2)
    Image.new("RGB", (8, 8), "red").save(network.with_suffix(".png"))
    own = {"activation text": "zqx", "preferred weight": 0.7, "negative text": "dull", "description": "mine"}
    network.with_suffix(".json").write_text(json.dumps(own))
    open_page(page, "txt2img")
    page.click('#txt2img_extra_tabs > .tab-nav > button:text-is("Networks")')
    page.click("#txt2img_networks_extra_refresh")
    ours, other = (page.locator("#txt2img_networks_cards .card", has_text=name) for name in ("slot", "other"))
    expect(ours).to_contain_text("SD 1.x", timeout=PATIENCE)
    expect(ours).to_contain_text("mine")
    expect(ours.locator("img.preview")).to_have_count(1)
    expect(other).to_be_visible()
    page.fill("#txt2img_networks_extra_search", "zqx slot")
    expect(other).to_be_hidden(timeout=PATIENCE)
    ours.click()
    prompt, negative = (prompt_box(page, f"txt2img_{name}") for name in ("prompt", "neg_prompt"))
    expect(prompt).to_have_value(re.compile(r"^\s*<net:zqx slot:0\.7> zqx$"))
    expect(negative).to_have_value(re.compile(r"^\s*\(dull:1\)$"))
    ours.click()
    expect(prompt).to_have_value(re.compile(r"^\s*$"))
    expect(negative).to_have_value(re.compile(r"^\s*$"))
    # A network without words for it goes where one writes.
    page.fill("#txt2img_networks_extra_search", "zqx other")
    negative.focus()
    other.click()
    expect(negative).to_have_value(re.compile(r"^\s*<net:zqx other:1>$"))
    expect(prompt).to_have_value(re.compile(r"^\s*$"))
