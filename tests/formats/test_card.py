"""Cards: every bit comes back, both carriers alone are enough, and nothing in a picture can do harm."""

from __future__ import annotations

import base64
import io
import json
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_ti.bench.cards import bytes_per_vector, photo, plain_pictures
from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.formats import card as card_module
from lib_ti.formats.card import Card, read_card, write_card
from lib_ti.formats.card_picture import draw_embedding_card
from lib_ti.formats.card_pixels import find_hidden, hide
from lib_ti.formats.embedding import IS_NEGATIVE, Embedding

WIDTHS = {"sd1": {"clip_l": 768}, "sd2": {"clip_h": 1024}, "sdxl": {"clip_l": 768, "clip_g": 1280}}


def make_embedding(name: str = "zqx-cat", family: str = "sd1", count: int = 2, **metadata: str) -> Embedding:
    generator = torch.Generator().manual_seed(count)
    vectors = {
        encoder: 0.02 * torch.randn(count, width, generator=generator)
        for encoder, width in WIDTHS[family].items()
    }
    return Embedding(name, vectors, 1000, {"base_model": "v1-5", "base_model_sha256": "ab" * 32, **metadata})


def written(card: Card, folder: Path) -> bytes:
    file = folder / "card.png"
    write_card(card, draw_embedding_card(photo(256, 256), card), file)
    return file.read_bytes()


def png(image: Image.Image, **texts: str) -> bytes:
    info, file = PngInfo(), io.BytesIO()
    for key, text in texts.items():
        info.add_text(key.replace("_", "-"), text)
    image.save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def chunk_of(data: object) -> str:
    return base64.b64encode(json.dumps(data).encode()).decode()


@pytest.mark.parametrize("family", WIDTHS)
@pytest.mark.parametrize("pair", [False, True])
def test_every_bit_comes_back(family: str, pair: bool, tmp_path: Path) -> None:
    embedding = make_embedding(family=family, settings='{"steps": 1000}')
    negative = make_embedding("zqx-cat-neg", family, 3, **{IS_NEGATIVE: "true"}) if pair else None
    card = read_card(written(Card(embedding, negative), tmp_path), "card.png")
    for wrote, read in ((embedding, card.embedding), (negative, card.negative)):
        if wrote is None or read is None:
            assert wrote is read
            continue
        assert (read.name, read.step, read.family) == (wrote.name, wrote.step, family)
        assert read.metadata == {**wrote.metadata, "family": family}
        assert all(torch.equal(read.vectors[key], wrote.vectors[key]) for key in wrote.vectors)


@pytest.mark.parametrize(
    ("family", "saved_again"), [("sd1", "as it is"), ("sd2", "with alpha"), ("sdxl", "with margins")]
)
def test_the_pixels_alone_keep_four_digits(family: str, saved_again: str, tmp_path: Path) -> None:
    card = Card(make_embedding(family=family), make_embedding("zqx-cat-neg", family, 3))
    image = Image.open(io.BytesIO(written(card, tmp_path)))
    if saved_again == "with alpha":
        image = image.convert("RGBA")
    if saved_again == "with margins":
        image = Image.new("RGB", (image.width + 30, image.height + 40))
        image.paste(Image.open(tmp_path / "card.png"), (10, 20))
    found = read_card(png(Image.fromarray(np.asarray(image))), "other.png")
    assert (found.found_in, found.embedding.name) == ("pixels", "zqx-cat")
    assert found.embedding.metadata["base_model"] == "v1-5"
    assert found.negative is not None and found.negative.name == "zqx-cat-neg"
    for wrote, read in ((card.embedding, found.embedding), (card.negative, found.negative)):
        assert wrote is not None
        for key, vectors in wrote.vectors.items():
            torch.testing.assert_close(read.vectors[key], vectors, rtol=5.1e-4, atol=0)


def test_decimals_give_every_float32_back() -> None:
    bits = np.random.default_rng(0).integers(0, 2**31, 20000, dtype=np.int32)
    numbers = bits.view(np.float32)
    numbers = np.concatenate([numbers, -numbers])[np.isfinite(np.concatenate([numbers, numbers]))]
    rows = card_module._rows(torch.from_numpy(numbers)[None], 0)
    read = torch.tensor(json.loads(json.dumps(rows)), dtype=torch.float64).to(torch.float32)
    assert torch.equal(read[0], torch.from_numpy(numbers))


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_vector_takes_at_most_nine_kilobytes(count: int) -> None:
    assert bytes_per_vector(count) <= 9000


def test_stock_chunks_are_read() -> None:
    """As A1111 writes them: float32 as the long decimals of float64, names beside them."""
    tensor = {"TORCHTENSOR": torch.full((2, 768), 0.1).tolist()}
    data = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": tensor},
        "name": "from-stock",
        "step": 99,
        "sd_checkpoint": "6ce0161689",
        "sd_checkpoint_name": "v1-5-pruned",
    }
    found = read_card(png(photo(64, 64), sd_ti_embedding=chunk_of(data)), "x.png")
    assert (found.embedding.name, found.embedding.step, found.negative) == ("from-stock", 99, None)
    assert found.embedding.metadata["base_model"] == "v1-5-pruned"
    assert torch.equal(found.embedding.vectors["clip_l"], torch.full((2, 768), 0.1))


def test_a_name_that_is_none_is_replaced_by_the_files(tmp_path: Path) -> None:
    data = {"string_to_param": {"*": {"TORCHTENSOR": [[0.5] * 768]}}, "name": "../../etc/passwd"}
    assert read_card(png(photo(64, 64), sd_ti_embedding=chunk_of(data)), "mine.png").embedding.name == "mine"


DEEP = b"[" * 100_000
BOMB = zlib.compress(b" " * 100_000_000, 9)


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        ([[0.1] * 768] * 76, "1 to 75 vectors"),
        ([[0.1] * 5000], "one width"),
        ([[0.1] * 768, [0.1]], "one width"),
        ([["1"] * 768], "not numbers"),
        ([[1e39] * 768], "not finite"),
        ([[float("nan")] * 768], "not finite"),
        ([], "1 to 75 vectors"),
        ("x", "1 to 75 vectors"),
    ],
)
def test_tensors_that_are_none_are_refused(tensor: object, told: str) -> None:
    data = {"string_to_param": {"*": {"TORCHTENSOR": tensor}}}
    with pytest.raises(BadInput, match=told):
        read_card(png(photo(64, 64), sd_ti_embedding=chunk_of(data)), "x.png")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (base64.b64encode(DEEP).decode(), "nested too deep"),
        (base64.b64encode(b"9" * 1_000_000).decode(), "1000000 digits"),
        ("A" * (2 * limits.CARD_JSON), "longer than"),
        ("!", "damaged"),
        (base64.b64encode(b"[1]").decode(), "list"),
        (base64.b64encode(b'{"__import__": "os"}').decode(), "no embedding"),
    ],
)
def test_json_that_does_harm_is_refused(text: str, told: str) -> None:
    begun = time.process_time()
    with pytest.raises(BadInput, match=told):
        read_card(png(photo(64, 64), sd_ti_embedding=text), "x.png")
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("negative", "told"),
    [
        ({"vectors": {"clip_l": "x"}}, "no vectors"),
        ({"vectors": [1]}, "no vectors"),
        ({}, "no vectors"),
        ({"vectors": {"clip_l": {"TORCHTENSOR": [[0.1]]}}}, "different models"),
        ({"vectors": {"clip_x": {"TORCHTENSOR": [[0.1]]}}}, "clip_x"),
    ],
)
def test_a_partner_that_is_none_is_refused(negative: object, told: str) -> None:
    data = {"string_to_param": {"*": {"TORCHTENSOR": [[0.1] * 768]}}}
    record = json.dumps({"name": "a", "metadata": {"b": [1]}, "negative": negative})
    content = png(photo(64, 64), sd_ti_embedding=chunk_of(data), ti_studio_card=record)
    with pytest.raises(BadInput, match=told):
        read_card(content, "x.png")


def test_a_bomb_in_the_pixels_is_refused() -> None:
    with pytest.raises(BadInput, match="longer than"):
        read_card(png(hide(photo(256, 256), BOMB)), "x.png")


def test_more_pixels_than_a_card_has_are_not_read() -> None:
    header = struct.pack(">IIBBBBB", 65_000, 65_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(BadInput):
        read_card(content, "x.png")
    with pytest.raises(BadInput, match=f"at most {limits.CARD_PIXELS}"):
        read_card(png(Image.new("1", (4097, 4096))), "x.png")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_only_png_is_opened(kind: str) -> None:
    file = io.BytesIO()
    photo(64, 64).save(file, format=kind)
    with pytest.raises(BadInput, match="no PNG"):
        read_card(file.getvalue(), "x.png")


def test_a_card_cut_short_is_refused(tmp_path: Path) -> None:
    whole = written(Card(make_embedding()), tmp_path)
    for length in (20, 5000, len(whole) // 2):
        with pytest.raises(BadInput):
            read_card(whole[:length], "x.png")


@pytest.mark.parametrize("kind", plain_pictures(16))
def test_a_plain_picture_is_no_card(kind: str) -> None:
    picture = plain_pictures(256)[kind]
    assert find_hidden(picture) is None
    with pytest.raises(BadInput, match="without an embedding"):
        read_card(png(picture), "x.png")
