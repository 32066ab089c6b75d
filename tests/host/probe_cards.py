"""Runs inside a real WebUI: cards as its own code makes them. See probe.py."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from modules import sd_hijack
from modules.textual_inversion import image_embedding
from PIL import Image, PngImagePlugin
from probe_tools import check


@check
def stock_card(name: str, width: int, chunk: bool) -> dict[str, Any]:
    """A card with two vectors in the pixels, and in the chunk too; its bytes as base64, and the vectors."""
    vectors = 0.1 * torch.randn(2, width, generator=torch.Generator().manual_seed(1))
    data = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": vectors},
        "name": name,
        "step": 77,
        "sd_checkpoint": "6ce0161689",
        "sd_checkpoint_name": "v1-5-pruned",
    }
    info = PngImagePlugin.PngInfo()
    if chunk:
        info.add_text("sd-ti-embedding", image_embedding.embedding_to_b64(data))
    picture = Image.radial_gradient("L").resize((256, 256)).convert("RGBA")
    captioned = image_embedding.caption_image_overlay(picture, f"<{name}>", "v1-5", "[6ce0]", "2v 77s")
    file = io.BytesIO()
    image_embedding.insert_image_data_embed(captioned, data).save(file, "PNG", pnginfo=info)
    return {"card": base64.b64encode(file.getvalue()).decode(), "vectors": vectors.tolist()}


@check
def embedding_vectors(name: str) -> Any:
    """What the WebUI has read for a word."""
    found = sd_hijack.model_hijack.embedding_db.word_embeddings[name].vec
    if isinstance(found, dict):
        return {key: value.tolist() for key, value in found.items()}
    return found.tolist()
