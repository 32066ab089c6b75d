"""Networks are trained in a real WebUI, whose built-in extension loads them; nothing else changes."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest

from lib_ti.bench.webui import API, Refused, WebUI
from lib_ti.networks.files import read_network
from tests.host.test_a1111_families import loaded
from tests.host.test_extension import draw
from tests.webui import ended

pytestmark = pytest.mark.host

PROMPT = "a red thing on a white background"


@pytest.fixture
def settings(pictures: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of a short job that learns fast, with a name of its own for each test."""
    return {
        "name": f"net-{zlib.crc32(request.node.name.encode())}",
        "images": pictures,
        "steps": 10,
        "accumulation": 1,
        "rank": 4,
        "learning_rate": "0.02",
        "width": 64,
        "height": 64,
        "preview_every": 5,
        "preview_count": 1,
        "preview_steps": 2,
        "copy_every": 0,
    }


def trained(webui: WebUI, settings: dict[str, Any]) -> dict[str, Any]:
    status = ended(webui, webui.call(f"{API}/jobs", settings)["job"])
    assert status["status"] == "done", status
    assert len(status["previews"]) == 2
    return status


@pytest.mark.parametrize(("method", "layers"), [("lora", 216), ("c3lier", 302), ("dylora", 216)])
def test_a_network_is_trained_and_used(
    webui: WebUI, settings: dict[str, Any], method: str, layers: int
) -> None:
    before = webui.txt2img(PROMPT)
    status = trained(webui, {**settings, "method": method})
    assert webui.txt2img(PROMPT) == before
    file, name = Path(status["network"]), settings["name"]
    assert file.parent.name == "Lora" and status["embedding"] is None
    assert len(read_network(file).updates) == layers
    assert "10 steps on tinyworld" in file.with_suffix(".description.txt").read_text()
    # The built-in extension finds it at once, and applies it.
    assert draw(webui, f"{PROMPT} <lora:{name}:1>") != draw(webui, PROMPT)
    assert webui.txt2img(PROMPT) == before


@pytest.mark.parametrize("checkpoint", ["sd2", "sdxl"])
def test_every_family_learns_and_is_left_as_it_was(
    webui: WebUI, settings: dict[str, Any], checkpoint: str
) -> None:
    """Their text encoders keep three projections in one weight."""
    with loaded(webui, checkpoint):
        before = webui.txt2img(PROMPT)
        status = trained(webui, {**settings, "method": "c3lier", "train_parts": "both"})
        assert webui.txt2img(PROMPT) == before
        network = read_network(Path(status["network"]))
        assert any(name.endswith("self_attn_q_proj") for name in network.updates)
        still = [name for name, update in network.updates.items() if not update.up.any() and "unet" in name]
        # Whom a place attends to, where there is one place only, is no question.
        assert all(name.endswith(("attn1_to_q", "attn1_to_k")) for name in still)
        assert draw(webui, f"{PROMPT} <lora:{settings['name']}:1>") != draw(webui, PROMPT)
        assert webui.txt2img(PROMPT) == before


def test_a_bundle_brings_its_word(webui: WebUI, settings: dict[str, Any]) -> None:
    name = settings["name"]
    word = {"trigger_word": "zqxword", "word_vectors": 2, "init_text": "star", "template": "subject"}
    status = trained(webui, {**settings, **word, "method": "lora"})
    apart = draw(webui, f"a zqxword <lora:{name}:1>")
    assert apart != draw(webui, "a zqxword") != draw(webui, "a star")
    Path(status["embedding"]).unlink()
    webui.call("/sdapi/v1/refresh-embeddings", {})
    alone = draw(webui, "a zqxword")
    assert draw(webui, f"a zqxword <lora:{name}-bundle:1>") == apart != alone
    assert draw(webui, "a zqxword") == alone


def test_there_is_nothing_to_create_before_training(webui: WebUI, settings: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="nothing to create before training"):
        webui.call(f"{API}/embeddings", {**settings, "method": "lora"})
