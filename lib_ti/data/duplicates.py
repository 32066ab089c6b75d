"""Pictures that are there twice: they would be learned twice as much."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lib_ti.data.buckets import Size
from lib_ti.data.images import flatten

# Chosen so that a picture saved as JPEG, scaled, or made a little lighter counts as the same one.
_BITS = 12  # that may differ, of 128
_COLOUR = 8.0  # mean distance of 8 x 8 colours, of 255


@dataclass(frozen=True)
class Print:
    """What a picture is known by. ``bits``: (128,), its difference hash; ``colours``: (192,), 0..255."""

    pixels: str  # SHA-256 of size and pixels
    size: Size
    bits: np.ndarray
    colours: np.ndarray


@dataclass(frozen=True)
class Pair:
    """Places of two pictures that are one: of the two, ``other`` can be done without."""

    kept: int
    other: int
    exact: bool  # to the pixel


def print_of(image: Image.Image) -> Print:
    """Of an upright picture. The bits say where it grows lighter, to the right and downwards, at a size of
    9 x 9 (dHash, both ways)."""
    plain = flatten(image)
    whole = plain if image.mode.startswith("I") else image.convert("RGBA")
    digest = hashlib.sha256(f"{whole.mode} {whole.size}".encode() + whole.tobytes()).hexdigest()
    grey = np.asarray(plain.convert("L").resize((9, 9), Image.Resampling.BOX), dtype=np.int16)
    bits = [np.diff(grey[:8], axis=1) > 0, np.diff(grey[:, :8], axis=0) > 0]
    colours = np.asarray(plain.resize((8, 8), Image.Resampling.BOX), dtype=np.int16)
    return Print(digest, image.size, np.concatenate([part.ravel() for part in bits]), colours.ravel())


def find_pairs(prints: Sequence[Print]) -> list[Pair]:
    """Every picture that can be done without, with the one that stays: the larger, else the first.

    The same pixels go before a likeness.
    """
    if not prints:
        return []
    order = sorted(range(len(prints)), key=lambda i: -prints[i].size[0] * prints[i].size[1])
    bits = np.stack([prints[i].bits for i in order])
    colours = np.stack([prints[i].colours for i in order])
    stays = np.zeros(len(order), dtype=bool)
    pixels: dict[str, int] = {}  # of those that stay -> their places
    pairs = []
    for row, place in enumerate(order):
        same = pixels.get(prints[place].pixels)
        alike = stays[:row] & ((bits[:row] != bits[row]).sum(axis=1) <= _BITS)
        alike &= np.abs(colours[:row] - colours[row]).mean(axis=1) <= _COLOUR
        if same is not None:
            pairs.append(Pair(same, place, exact=True))
        elif alike.any():
            pairs.append(Pair(order[int(alike.argmax())], place, exact=False))
        else:
            stays[row] = True
            pixels[prints[place].pixels] = place
    return sorted(pairs, key=lambda pair: (pair.kept, pair.other))
