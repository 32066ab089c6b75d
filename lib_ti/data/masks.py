"""Loss masks: which parts of a picture count, and how much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lib_ti.core.errors import BadInput
from lib_ti.data.images import cut_box, open_numbers


def load_mask(
    image: Image.Image, path: Path, file: Path | None, alpha: bool, *, linear: bool = False
) -> Image.Image | None:
    """The weight of each pixel of ``image``, which was read from ``path``; mode F. None: all count alike.

    ``file``: a grey picture on DreamArtist's scale, black 0, the middle 1, white 5 times; ``linear``: as
    sd-scripts takes it, its red from black 0 to white 1. ``alpha``: the
    image's own alpha channel, 0..1. Where there are both they are multiplied.
    Raises BadInput where nothing is left that counts.
    """
    scaled = _linear if linear else _scaled
    weights = [scaled(open_numbers(file), image.size)] if file else []
    if alpha and ("A" in image.getbands() or "transparency" in image.info):
        weights.append(np.asarray(image.convert("RGBA").getchannel("A"), dtype=np.float32) / 255)
    if not weights:
        return None
    product = np.prod(weights, axis=0)
    if not product.any():
        where = f"{file} is black" if file else f"{path} is transparent"
        raise BadInput(
            f"{where} all over, so nothing of {path.name} would count; mend the mask or remove it."
        )
    return Image.fromarray(product.astype(np.float32))


def _scaled(grey: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """0..255 as weights: v / 127 up to 127, from there 1 + 4 (v - 127) / 128."""
    values = np.asarray(grey.convert("L").resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
    return np.where(values <= 127, values / 127, 1 + 4 * (values - 127) / 128)


def _linear(mask: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """The red of 0..255 as weights 0..1."""
    red = mask.convert("RGB").getchannel("R").resize(size, Image.Resampling.BILINEAR)
    return np.asarray(red, dtype=np.float32) / 255


def to_grey(mask: Image.Image) -> Image.Image:
    """Weights 0..5 as the grey picture that ``load_mask`` reads them from; mode L."""
    weights = np.asarray(mask, dtype=np.float32)
    values = np.where(weights <= 1, weights * 127, 127 + (weights - 1) * 32)
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def to_weights(
    mask: Image.Image, width: int, height: int, place: tuple[float, float], *, normalised: bool = True
) -> torch.Tensor:
    """The mask at the size of latents, cut as ``to_pixels`` cuts the picture.

    ``normalised``: with a mean of 1, so that a small mask makes no small steps: the loss is the weighted
    mean of the errors. A cut in which nothing counts stays 0. Returns (1, height, width), float32.
    """
    box = cut_box(mask.size, (width, height), place)
    cut = mask.resize((width, height), Image.Resampling.BOX, box)
    weights = torch.from_numpy(np.array(cut, dtype=np.float32))[None].clamp(min=0)
    mean = weights.mean()
    return weights / mean if normalised and mean > 0 else weights
