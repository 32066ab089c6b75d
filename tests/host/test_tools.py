"""The workshop of embeddings over a real WebUI's HTTP: what it writes, the WebUI reads and draws with."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lib_ti.bench.webui import API, Refused, WebUI
from lib_ti.formats.embedding import Embedding, write_safetensors
from lib_ti.formats.embedding_layouts import LAYOUTS

pytestmark = pytest.mark.host


def use(webui: WebUI, verb: str, **values: Any) -> dict[str, Any]:
    return webui.call(f"{API}/tools/embedding/{verb}", values)


@pytest.fixture
def folder(webui: WebUI) -> Path:
    return webui.data / "embeddings"


@pytest.fixture
def word(webui: WebUI, folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A word with a negative half in the WebUI's folder; of its own for each test, because the WebUI keeps
    what a prompt said when a file changes behind its back."""
    folder.mkdir(exist_ok=True)
    before = set(folder.iterdir())
    word = f"zq{zlib.crc32(request.node.name.encode())}"
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(1)) * 0.05
    for name, rows in ((word, vectors), (f"{word}-neg", -vectors)):
        write_safetensors(Embedding(name, {"clip_l": rows}, 5), folder / f"{name}.safetensors")
    webui.call("/sdapi/v1/refresh-embeddings", {})
    yield word
    for path in set(folder.iterdir()) - before:
        path.unlink()
    webui.call("/sdapi/v1/refresh-embeddings", {})


def draw(webui: WebUI, prompt: str, negative: str = "") -> bytes:
    """The pixels of a picture, without the text that comes with it, in which a file's hash may be."""
    return Image.open(io.BytesIO(webui.txt2img(prompt, negative_prompt=negative))).tobytes()


def test_the_webui_reads_every_layout(webui: WebUI, folder: Path, word: str) -> None:
    """By the picture, which is the same to the pixel."""
    meant, without = draw(webui, f"a {word}"), draw(webui, "a zqlayout")
    assert meant != without
    for layout in LAYOUTS:
        for suffix in LAYOUTS[layout].suffixes:
            name = f"zqlayout{suffix}"
            use(webui, "convert", file=f"{word}.safetensors", to=name, layout=layout)
            assert draw(webui, "a zqlayout") == meant, (layout, suffix)
            (folder / name).unlink()
            webui.call("/sdapi/v1/refresh-embeddings", {})


def test_a_renamed_pair_is_called_by_its_new_name(webui: WebUI, folder: Path, word: str) -> None:
    meant = draw(webui, f"a {word}", f"{word}-neg")
    use(webui, "rename", file=word, name="zqnew")
    assert draw(webui, "a zqnew", "zqnew-neg") == meant
    assert draw(webui, f"a {word}", f"{word}-neg") != meant
    assert sorted(path.stem for path in folder.glob("zqnew*.safetensors")) == ["zqnew", "zqnew-neg"]
    assert not [*folder.glob(f"{word}*")]


def test_a_joined_pair_brings_both_words(webui: WebUI, folder: Path, word: str) -> None:
    pair = (f"a {word}", f"{word}-neg")
    meant, other = draw(webui, *pair), draw(webui, "a red star")
    use(webui, "join", file=word, to="zqboth")
    for path in folder.glob(f"{word}*"):
        path.unlink()
    webui.call("/sdapi/v1/refresh-embeddings", {})
    assert draw(webui, *pair) != meant
    assert draw(webui, f"{pair[0]}<lora:zqboth:1>", pair[1]) == meant
    assert draw(webui, "a red star<lora:zqboth:1>") == other
    # The WebUI forgets a network's words at the next picture, also those that lie in the folder by then.
    assert draw(webui, "a red star") == other
    use(webui, "split", file="zqboth")
    assert draw(webui, *pair) == meant


def test_the_model_is_asked_and_paths_are_not(webui: WebUI, folder: Path, word: str) -> None:
    (told,) = use(webui, "inspect", file=word)["embeddings"]
    assert all(row["nearest words"] for row in told["vectors"])
    use(webui, "mix", expression=f'0.5*{word} + 0.5*"red star"', to="zqmixed")
    assert draw(webui, "a zqmixed") != draw(webui, f"a {word}")
    for values in ({"file": "../config.json"}, {"file": word, "to": "../x"}, {"file": str(folder)}):
        with pytest.raises(Refused) as error:
            use(webui, "prune", **{"to": "zqx", "keep": "1", **values})
        assert error.value.status == 422
