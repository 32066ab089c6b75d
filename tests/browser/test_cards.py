"""Cards in a real browser: drop one, own its word, use it in txt2img; drag one out as it was made."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect

from lib_ti.bench.webui import API, WebUI
from lib_ti.formats.embedding import Embedding, write_safetensors
from tests.browser.pages import PATIENCE, box, prompt_box

pytestmark = [pytest.mark.host, pytest.mark.browser]

SAID = "#ti_studio_card_said .ti-studio-status"
# What a hand does: the file is in the hand over the place, and let go there.
DROP = """([zone, name, base64]) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name, {type: "image/png"}));
    for (const kind of ["dragover", "drop"]) {
        zone.dispatchEvent(new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true}));
    }
}"""
# A picture of the gallery, as the browser gives it to whom it is dragged to.
FETCH = """async (image) => {
    const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
    return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}"""


@pytest.fixture
def card(webui: WebUI) -> Path:
    """Of a word that is not there any more."""
    word = webui.data / "embeddings" / "zqxdropped.safetensors"
    vectors = 0.3 * torch.randn(2, 64, generator=torch.Generator().manual_seed(4))
    write_safetensors(Embedding("zqxdropped", {"clip_l": vectors}, 12, {"base_model": "tinyworld"}), word)
    told = webui.call(f"{API}/tools/card/make", {"embedding": "zqxdropped", "overwrite": True})
    word.unlink()
    webui.call("/sdapi/v1/refresh-embeddings", {})
    return Path(told["written"][0])


def drop(page: Page, name: str, content: bytes) -> None:
    zone = page.locator(".ti-studio-drop").element_handle()
    page.evaluate(DROP, [zone, name, base64.b64encode(content).decode()])


def test_drop_a_card_own_its_word_and_use_it(page: Page, webui: WebUI, card: Path) -> None:
    page.click('#ti_studio > .tab-nav > button:text-is("Cards")')
    plain = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(plain, format="PNG")
    drop(page, "plain.png", plain.getvalue())
    expect(page.locator(SAID).first).to_contain_text("without an embedding", timeout=PATIENCE)
    expect(page.locator("#ti_studio_card_add")).to_be_hidden()

    drop(page, "found.png", card.read_bytes())
    expect(page.locator(SAID).first).to_contain_text(
        "zqxdropped, 2 vectors for SD 1.x, trained 12 steps on tinyworld", timeout=PATIENCE
    )
    expect(box(page, "card_name")).to_have_value("zqxdropped")
    assert "zqxdropped" not in webui.call("/sdapi/v1/embeddings")["loaded"]  # nobody has said so yet
    box(page, "card_name").fill("con")
    page.click("#ti_studio_card_add")
    expect(page.locator(SAID).first).to_contain_text(
        "choose another name, such as 'my-con'", timeout=PATIENCE
    )
    box(page, "card_name").fill("zqxowned")
    page.click("#ti_studio_card_add")
    expect(page.locator(SAID).first).to_contain_text("You own zqxowned now", timeout=PATIENCE)

    page.get_by_role("button", name="Write it into txt2img").last.click()
    page.click('#tabs > .tab-nav > button:text-is("Train")')

    # The gallery's picture is the file itself, with all that it carries.
    page.click("#ti_studio_cards_again")
    picture = page.locator("#ti_studio_cards_gallery img[src*='zqxdropped']").first
    expect(picture).to_be_visible(timeout=PATIENCE)
    assert base64.b64decode(page.evaluate(FETCH, picture.element_handle())) == card.read_bytes()
    # Dragged back to where cards are dropped it is a card.
    page.set_viewport_size(
        {"width": 1400, "height": 1600}
    )  # both in sight: a hand does not scroll as it drags
    picture.drag_to(page.locator(".ti-studio-drop"))
    expect(page.locator(SAID).first).to_contain_text("Import it as zqxdropped", timeout=PATIENCE)

    page.click('#tabs > .tab-nav > button:text-is("txt2img")')
    expect(prompt_box(page, "txt2img_prompt")).to_have_value("zqxowned")
    # Its word is found: the WebUI says in a picture's text which embeddings it has used.
    info = webui.call("/sdapi/v1/txt2img", {"prompt": "a zqxowned", "steps": 2, "width": 64, "height": 64})
    assert "zqxowned" in info["info"].partition("TI hashes")[2]
