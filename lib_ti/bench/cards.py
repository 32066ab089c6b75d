"""What cards cost: the time to see that a picture is none, and the bytes that a vector takes."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from lib_ti.formats.card import Card, card_image
from lib_ti.formats.card_picture import draw_embedding_card
from lib_ti.formats.card_pixels import find_hidden
from lib_ti.formats.embedding import Embedding

_LIMIT_MS = 20


def bench_cards(side: int, repeats: int, stopped: Callable[[], bool]) -> dict[str, Any]:
    """Medians in milliseconds of decoding a plain picture and of looking for an embedding in it, in turn;
    bytes of a card beyond its picture's, for each vector of SD1."""
    scans = {}
    for name, picture in plain_pictures(side).items():
        content = _png(picture)
        decoding, looking = [], []
        for _ in range(repeats):
            if stopped():
                break
            begun = time.perf_counter()
            image = Image.open(io.BytesIO(content), formats=("PNG",))
            image.load()
            decoded = time.perf_counter()
            if find_hidden(image) is not None:
                raise AssertionError(f"an embedding in a plain picture: {name}")
            decoding.append(1000 * (decoded - begun))
            looking.append(1000 * (time.perf_counter() - decoded))
        if decoding:
            scans[name] = {"decode": statistics.median(decoding), "look": statistics.median(looking)}
    sizes = {count: bytes_per_vector(count) for count in (1, 2, 9, 75)}
    good = all(scan["look"] < _LIMIT_MS for scan in scans.values())
    return {"status": "done", "side": side, "good": good, "milliseconds": scans, "bytes_per_vector": sizes}


def plain_pictures(side: int) -> dict[str, Image.Image]:
    """Pictures that carry nothing; the last ones have columns in which an embedding could begin."""
    picture = photo(side, side)
    half, letterbox = picture.copy(), picture.copy()
    half.paste((32, 32, 32), (side // 2, 0, side, side))
    letterbox.paste(0, (0, 0, side // 8, side))
    letterbox.paste(0, (side - side // 8, 0, side, side))
    return {
        "photo": picture,
        "transparent": picture.convert("RGBA"),
        "grey": picture.convert("L"),
        "palette": picture.quantize(64),
        "black": Image.new("RGB", (side, side)),
        "flat": Image.new("RGB", (side, side), (32, 64, 128)),
        "letterbox": letterbox,
        "half": half,
    }


def photo(width: int, height: int) -> Image.Image:
    """Soft shapes with the grain of a photograph."""
    generator = np.random.default_rng(0)
    soft = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((width, height))
    grain = generator.normal(0, 3, (height, width, 3))
    return Image.fromarray((np.asarray(soft) + grain).clip(0, 255).astype(np.uint8))


def bytes_per_vector(count: int) -> int:
    """What a card's file has beyond its picture's, saved alike."""
    vectors = 0.02 * torch.randn(count, 768, generator=torch.Generator().manual_seed(count))
    told = {"base_model": "v1-5-pruned-emaonly", "base_model_sha256": "ab" * 32, "job": "20260101-zqx"}
    card = Card(Embedding("zqx-cat", {"clip_l": vectors}, 1000, told))
    picture = draw_embedding_card(photo(512, 512), card)
    image, info = card_image(card, picture)
    return round((len(_png(image, info)) - len(_png(picture))) / count)


def _png(image: Image.Image, info: Any = None) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=info, compress_level=9)
    return file.getvalue()
