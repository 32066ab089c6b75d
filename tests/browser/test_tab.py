"""The studio's tab in a real browser: create, train, watch, use; and a page that is loaded again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Locator, Page, expect

from lib_ti.bench.webui import API, WebUI
from lib_ti.formats.embedding import IS_NEGATIVE, Embedding, read_embedding, write_safetensors
from tests.browser.pages import PATIENCE, box, choose, prompt_box
from tests.webui import ended

pytestmark = [pytest.mark.host, pytest.mark.browser]


def panel(page: Page) -> Locator:
    return page.locator("#ti_studio_status .ti-studio-status")


def open_img2img(page: Page) -> None:
    page.click('#tabs > .tab-nav > button:text-is("img2img")')


def back_to_studio(page: Page) -> None:
    page.click('#tabs > .tab-nav > button:text-is("Train")')


def fill(page: Page, values: dict[str, str]) -> None:
    for name, value in values.items():
        box(page, name).fill(value)


def start(page: Page, name: str, pictures: str, **more: str) -> None:
    given = {"name": name, "images": pictures, "steps": "20", "preview_every": "10", **more}
    fill(page, given)
    page.click("#ti_studio_train")


def test_create_train_watch_and_use(page: Page, webui: WebUI, pictures: str) -> None:
    expect(panel(page)).not_to_contain_text("Looking", timeout=PATIENCE)
    fill(page, {"name": "zqx-page", "init_text": "star"})
    page.click("#ti_studio_create")
    expect(page.locator("#ti_studio_said .ti-studio-status")).to_contain_text(
        "zqx-page.safetensors, not trained yet"
    )
    start(page, "zqx-page", pictures, preview_prompt="a [name]")
    expect(panel(page)).to_contain_text("Training: zqx-page", timeout=PATIENCE)
    expect(panel(page)).to_contain_text("left", timeout=PATIENCE)
    expect(panel(page)).to_contain_text("Done: zqx-page", timeout=PATIENCE)
    expect(panel(page)).to_contain_text("Write zqx-page in a prompt")
    expect(page.locator("#ti_studio_previews .thumbnail-item")).to_have_count(4, timeout=PATIENCE)
    # The cards were listed when the page was opened; the new one is there all the same.
    page.click('#tabs > .tab-nav > button:text-is("txt2img")')
    page.click('#txt2img_extra_tabs > .tab-nav > button:text-is("Textual Inversion")')
    card = page.locator("#txt2img_textual_inversion_cards .card", has_text="zqx-page")
    expect(card).to_be_visible(timeout=PATIENCE)
    expect(card.locator("img.preview")).to_have_count(1)
    card.click()
    expect(prompt_box(page, "txt2img_prompt")).to_have_value(re.compile(r"^\s*zqx-page$"))
    # The same from the panel, into a page whose prompt holds something.
    open_img2img(page)
    prompt_box(page, "img2img_prompt").fill("a zqx-pages in the snow, ")
    back_to_studio(page)
    panel(page).get_by_role("button", name="Write it into img2img").click()
    expect(prompt_box(page, "img2img_prompt")).to_be_visible()
    expect(prompt_box(page, "img2img_prompt")).to_have_value("a zqx-pages in the snow, zqx-page")
    expect(prompt_box(page, "img2img_neg_prompt")).to_have_value("")


def test_suggested_words_become_the_init_text(page: Page, pictures: str) -> None:
    fill(page, {"images": pictures})
    page.click("#ti_studio_suggest")
    said = page.locator("#ti_studio_said .ti-studio-status")
    expect(said).to_contain_text("Near to the pictures: ", timeout=PATIENCE)
    words = (said.text_content() or "").partition(": ")[2].partition(".")[0].split(", ")
    assert len(words) == 10
    page.click("#ti_studio_suggested input")
    page.click(f'#ti_studio_suggested li:has-text("{words[1]}")')
    expect(box(page, "init_text")).to_have_value(words[1])


def test_a_reload_finds_the_job_again_and_a_click_stops_it(page: Page, webui: WebUI, pictures: str) -> None:
    start(page, "zqx-again", pictures, steps="100000", preview_every="0")
    expect(panel(page)).to_contain_text("Training: zqx-again", timeout=PATIENCE)
    page.reload()
    page.click('#tabs > .tab-nav > button:text-is("Train")', timeout=PATIENCE)
    page.click('#train_tabs > .tab-nav > button:text-is("TI Studio")')
    expect(panel(page)).to_contain_text("Training: zqx-again", timeout=PATIENCE)
    page.click("#ti_studio_stop_and_save")
    expect(panel(page)).to_contain_text("Stopped: zqx-again", timeout=PATIENCE)
    expect(panel(page)).to_contain_text("What it had learned is saved")
    expect(page.locator("#ti_studio_interrupt")).to_be_disabled()
    expect(page.locator("#ti_studio_resume")).to_be_enabled()
    job = webui.call(f"{API}/jobs")["jobs"][0]
    step = ended(webui, job)["saved_steps"][-1]
    expect(page.locator("#ti_studio_saved_step input")).to_have_value(str(step), timeout=PATIENCE)
    page.click("#ti_studio_use_step")
    expect(page.locator("#ti_studio_said .ti-studio-status")).to_contain_text(f"Step {step} is now")


def test_a_mistake_is_told_in_a_sentence_and_looks_like_one(page: Page) -> None:
    start(page, "zqx-bad", "/nowhere")
    said = page.locator("#ti_studio_said .ti-studio-failed")
    expect(said).to_contain_text("/nowhere", timeout=PATIENCE)
    start(page, "<b>bold</b>", "/nowhere")
    expect(said).to_contain_text("'<b>bold</b>' cannot be a name", timeout=PATIENCE)


def test_previews_can_take_what_txt2img_says(page: Page, webui: WebUI, pictures: str) -> None:
    page.click('#tabs > .tab-nav > button:text-is("txt2img")')
    page.fill("#txt2img_prompt textarea", "a zqx-from and a <lora:strong:0.5> star")
    page.fill("#txt2img_seed input", "77")
    page.click('#tabs > .tab-nav > button:text-is("Train")')
    page.check("#ti_studio_from_txt2img input")
    start(page, "zqx-from", pictures, preview_every="0", steps="2")
    expect(panel(page)).to_contain_text("Done: zqx-from", timeout=PATIENCE)
    told = webui.call(f"{API}/jobs/{webui.call(f'{API}/jobs')['jobs'][0]}")["settings"]
    assert told["preview_prompt"] == "a zqx-from and a <lora:strong:0.5> star"
    assert (told["preview_seed"], told["preview_width"], told["preview_cfg"]) == (77, 512, 7.0)
    assert told["preview_sampler"] == "DPM++ 2M"


def test_dreamartist_shows_its_controls_and_names_both_files(page: Page, webui: WebUI, pictures: str) -> None:
    """The page as textual inversion has it, as DreamArtist has it, and back."""

    def choose(name: str, value: str) -> None:
        page.locator(f"#ti_studio_{name}").get_by_label(value, exact=True).check()

    expect(page.locator("#ti_studio_negative_vectors")).to_be_hidden()
    box(page, "init_text").fill("star")
    choose("method", "DreamArtist")
    expect(page.locator("#ti_studio_negative_vectors")).to_be_visible()
    expect(box(page, "vectors")).to_have_value("3")
    expect(box(page, "init_text")).to_have_value("star")
    choose("preset", "style")
    expect(box(page, "guidance")).to_have_value("5")
    expect(box(page, "steps")).to_have_value("2000")
    start(page, "zqx-artist", pictures, guidance="1.5-3:cos")
    expect(panel(page)).to_contain_text("Done: zqx-artist", timeout=PATIENCE)
    expect(panel(page)).to_contain_text(
        "Write zqx-artist in the prompt and zqx-artist-neg in the negative prompt"
    )
    told = webui.call(f"{API}/jobs/{webui.call(f'{API}/jobs')['jobs'][0]}")
    assert (told["settings"]["guidance"], told["settings"]["learning_rate"]) == ("1.5-3:cos", "0.005")
    assert {"zqx-artist", "zqx-artist-neg"} <= set(webui.call("/sdapi/v1/embeddings")["loaded"])
    panel(page).get_by_role("button", name="Write them into txt2img").click()
    expect(prompt_box(page, "txt2img_prompt")).to_be_visible()
    expect(prompt_box(page, "txt2img_prompt")).to_have_value("zqx-artist")
    expect(prompt_box(page, "txt2img_neg_prompt")).to_have_value("zqx-artist-neg")
    back_to_studio(page)
    choose("method", "Textual inversion")
    expect(page.locator("#ti_studio_negative_vectors")).to_be_hidden()
    expect(box(page, "vectors")).to_have_value("2")
    expect(box(page, "learning_rate")).to_have_value("0.01:0.5, 0.002")  # the preset's went with it
    expect(box(page, "steps")).to_have_value("20")  # that was typed


def write_embedding(webui: WebUI, name: str, **metadata: str) -> None:
    embedding = Embedding(name, {"clip_l": torch.zeros(1, 64)}, metadata=metadata)
    write_safetensors(embedding, webui.data / "embeddings" / f"{name}.safetensors")


def test_a_pair_of_ones_own_is_written_into_both_prompts_and_generated_with(page: Page, webui: WebUI) -> None:
    """What the browser shows is what gradio sends: the picture's text tells."""
    write_embedding(webui, "zqx-own")
    write_embedding(webui, "zqx-own-neg")
    write_embedding(webui, "zqx-bad", **{IS_NEGATIVE: "true"})
    webui.call("/sdapi/v1/refresh-embeddings", {})
    page.click('#tabs > .tab-nav > button:text-is("txt2img")')
    prompt_box(page, "txt2img_prompt").fill("a (zqx-own:1.2) on a table")
    prompt_box(page, "txt2img_neg_prompt").fill("blurry")
    for word in ("zqx-own", "zqx-bad"):
        back_to_studio(page)
        with page.expect_response("**/run/predict*", timeout=PATIENCE):
            page.click("#ti_studio_word_again")
        choice = page.locator("#ti_studio_word input")
        choice.fill(word)
        choice.press("Enter")
        said = page.locator("#ti_studio_word_said .ti-studio-status")
        expect(said).to_contain_text(f"Write {word} in the", timeout=PATIENCE)
        said.get_by_role("button", name="into txt2img").click()
    # The size stays: leaving its boxes ends in an error of the host's own script.
    page.fill("#txt2img_steps input[type=number]", "1")
    page.click("#txt2img_generate")
    told = page.locator("#html_info_txt2img").first
    expect(told).to_contain_text("a (zqx-own:1.2) on a table", timeout=PATIENCE)
    expect(told).to_contain_text("Negative prompt: blurry, zqx-own-neg, zqx-bad")


def test_no_control_shares_a_label_or_an_id_with_another(page: Page, webui: WebUI) -> None:
    """The WebUI keeps values by label; the first control of a label speaks for all. Tools, of which one form
    is seen at a time, may use a label again: nothing of ours is kept."""
    components = webui.call("/config")["components"]
    ids = [c["props"].get("elem_id") for c in components if c["props"].get("elem_id")]
    ours = [name for name in ids if name.startswith("ti_studio")]
    assert len(ours) > 30 and all(ids.count(name) == 1 for name in ours)
    kinds = ("textbox", "number", "slider", "checkbox", "radio", "dropdown")
    labels = {
        c["props"]["elem_id"]: c["props"]["label"]
        for c in components
        if c["type"] in kinds and c["props"].get("elem_id") and c["props"].get("label")
    }
    theirs = {label for name, label in labels.items() if name.startswith("train_")}
    # The slots are there twice, once on each page that draws.
    elsewhere = ("ti_studio_txt2img_", "ti_studio_img2img_")
    here = {
        name: label
        for name, label in labels.items()
        if name.startswith("ti_studio") and not name.startswith(elsewhere)
    }
    mine = [label for name, label in here.items() if not name.startswith("ti_studio_tool_")]
    assert len(theirs) > 10 and len(mine) > 30 and len(here) > len(mine) + 30
    assert len(set(mine)) == len(mine) and not theirs & set(mine)
    kept = (Path(webui.data) / "ui-config.json").read_text()
    assert not [label for label in {*here.values()} - theirs if f"train/{label}/" in kept]


def test_networks_of_every_method_are_trained_and_drawn_together(
    page: Page, webui: WebUI, pictures: str
) -> None:
    before = webui.txt2img("a star")
    for title in ("LoRA", "C3Lier (LoCon)", "DyLoRA"):
        name = f"zqx-page-{title.split()[0].lower()}"
        page.locator("#ti_studio_method").get_by_label(title, exact=True).check()
        expect(box(page, "rank")).to_be_visible()
        start(page, name, pictures, preview_every="0")
        expect(panel(page)).to_contain_text(f"Done: {name}", timeout=PATIENCE)
    mixed = "a star <net:zqx-page-lora:1> <net:zqx-page-c3lier:1:te=0.5> <lora:zqx-page-dylora:1>"
    drawn = {webui.txt2img(f"a star {tag}") for tag in mixed.removeprefix("a star ").split(" ")}
    drawn |= {webui.txt2img(mixed), before}
    assert len(drawn) == 5, "each network has a picture of its own, and all together have another"
    assert webui.txt2img("a star") == before


def use_tool(page: Page, tool: str) -> tuple[Locator, Locator]:
    """Press its button; what it said, and what it found."""
    page.click(f"#ti_studio_tool_embedding_{tool}_go")
    said, told = (page.locator(f"#ti_studio_tool_embedding_{tool}_{part}").first for part in ("said", "told"))
    return said, told


def test_a_tool_answers_beside_its_form_and_the_next_one_offers_what_it_wrote(
    page: Page, webui: WebUI
) -> None:
    folder = Path(webui.data) / "embeddings"
    folder.mkdir(exist_ok=True)
    vectors = torch.eye(64)[:2]
    write_safetensors(Embedding("zqform", {"clip_l": vectors}), folder / "zqform.safetensors")
    page.click('#ti_studio > .tab-nav > button:text-is("Embeddings")')
    choose(page, "tool_embedding_inspect_file", "zqform.safetensors")
    said, told = use_tool(page, "inspect")
    expect(said).to_contain_text("zqform: 2 vectors for sd1", timeout=PATIENCE)
    expect(told.locator("table.ti-studio-rows tr")).to_have_count(3)
    expect(told.locator("table.ti-studio-rows")).to_contain_text("nearest words")

    page.click('#ti_studio_tools_of_embedding > .tab-nav > button:text-is("Mix")')
    fill(page, {"tool_embedding_mix_expression": '0.5*zqform, "red"', "tool_embedding_mix_to": "zqmade"})
    said, _ = use_tool(page, "mix")
    expect(said).to_contain_text("3 vectors", timeout=PATIENCE)

    page.click('#ti_studio_tools_of_embedding > .tab-nav > button:text-is("Prune")')
    choose(page, "tool_embedding_prune_file", "zqmade.safetensors")
    fill(page, {"tool_embedding_prune_keep": "2,1", "tool_embedding_prune_to": "../zqout"})
    said, _ = use_tool(page, "prune")
    expect(said.locator(".ti-studio-failed")).to_contain_text("cannot be a name", timeout=PATIENCE)
    fill(page, {"tool_embedding_prune_to": "zqless"})
    said, _ = use_tool(page, "prune")
    expect(said.locator(".ti-studio-done")).to_contain_text("2 vectors", timeout=PATIENCE)
    found = read_embedding(folder / "zqless.safetensors").vectors["clip_l"]
    assert torch.equal(found, 0.5 * vectors.flip(0))
