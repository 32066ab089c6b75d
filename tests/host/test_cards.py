"""Cards exchanged with a real WebUI: its code reads ours, ours reads what its code wrote."""

from __future__ import annotations

import base64
import io
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_ti.bench.webui import API, WebUI
from lib_ti.formats.embedding import Embedding, read_embedding, write_safetensors
from lib_ti.tools.tool import DATA_URL
from tests.host.test_a1111_families import SDXL, loaded
from tests.host.test_extension import draw, embeddings
from tests.webui import probe

pytestmark = pytest.mark.host


def refresh(webui: WebUI) -> None:
    webui.call("/sdapi/v1/refresh-embeddings", {})


def draw_anew(webui: WebUI, prompt: str) -> bytes:
    """The WebUI keeps what it has made of the last prompt, whatever became of its words."""
    draw(webui, "a star")
    return draw(webui, prompt)


def without_chunks(card: Path) -> None:
    """As a site that strips text leaves it."""
    with Image.open(card) as image:
        image.load()
        image.save(card, pnginfo=PngInfo())


@pytest.mark.parametrize(("checkpoint", "widths"), [("", {"clip_l": 64}), ("sdxl", SDXL)])
def test_the_webui_draws_from_our_card_what_it_draws_from_the_file(
    webui: WebUI, checkpoint: str, widths: dict[str, int]
) -> None:
    name, folder = f"zqxcard{checkpoint}", webui.data / "embeddings"
    generator = torch.Generator().manual_seed(3)
    vectors = {key: 0.3 * torch.randn(3, width, generator=generator) for key, width in widths.items()}
    file, card = folder / f"{name}.safetensors", folder / f"{name}.png"
    with loaded(webui, checkpoint) if checkpoint else nullcontext():
        unknown = draw_anew(webui, f"a {name}")
        for word in (name, f"{name}-neg"):
            write_safetensors(Embedding(word, vectors, 9), folder / f"{word}.safetensors")
        refresh(webui)
        expected = draw_anew(webui, f"a {name}")
        made = webui.call(f"{API}/tools/card/make", {"embedding": name})
        assert made["partner"] == f"{name}-neg, 3 vectors for the negative prompt"
        for word in (name, f"{name}-neg"):
            (folder / f"{word}.safetensors").unlink()
        refresh(webui)
        assert draw_anew(webui, f"a {name}") == unknown != expected
        try:
            card.write_bytes(Path(made["written"][0]).read_bytes())
            refresh(webui)
            assert draw_anew(webui, f"a {name}") == expected
            without_chunks(card)
            refresh(webui)
            read = probe(webui, "embedding_vectors", name=name)
            for key, value in (read if isinstance(read, dict) else {"clip_l": read}).items():
                torch.testing.assert_close(torch.tensor(value), vectors[key], rtol=5.1e-4, atol=0)
        finally:
            card.unlink()
            refresh(webui)
    assert not file.exists()


@pytest.mark.parametrize("chunk", [True, False])
def test_we_own_the_word_of_a_card_that_the_webui_wrote(webui: WebUI, chunk: bool) -> None:
    stock = probe(webui, "stock_card", name="zqxstock", width=64, chunk=chunk)
    told = webui.call(f"{API}/tools/card/look", {"card": DATA_URL + stock["card"]})
    assert (told["word"], told["trained_on"], told["steps"]) == ("zqxstock", "v1-5-pruned [6ce0161689]", 77)
    name = f"zqxstock{int(chunk)}"
    plain = draw_anew(webui, f"a {name}")
    answer = webui.call(f"{API}/tools/card/import", {"card": DATA_URL + stock["card"], "name": name})
    file = Path(answer["written"][0])
    assert torch.equal(read_embedding(file).vectors["clip_l"], torch.tensor(stock["vectors"]))
    # It is a word at once, its card among the others with the picture it came with.
    assert name in embeddings(webui) and draw_anew(webui, f"a {name}") != plain
    with Image.open(file.with_suffix(".preview.png")) as preview:
        assert preview.size == Image.open(io.BytesIO(base64.b64decode(stock["card"]))).size
