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
    """Every picture that can be done without, with the one that stays: the larger, else the first."""
    order = sorted(range(len(prints)), key=lambda i: -prints[i].size[0] * prints[i].size[1])
    staying: list[int] = []
    pairs = []
    for place in order:
        pair = _pair(prints, staying, place)
        if pair is None:
            staying.append(place)
        else:
            pairs.append(pair)
    return sorted(pairs, key=lambda pair: (pair.kept, pair.other))


def _pair(prints: Sequence[Print], staying: Sequence[int], place: int) -> Pair | None:
    """With one of ``staying``; the same pixels go before a likeness."""
    one = prints[place]
    for kept in staying:
        if prints[kept].pixels == one.pixels:
            return Pair(kept, place, exact=True)
    if staying:
        bits = np.stack([prints[kept].bits for kept in staying])
        colours = np.stack([prints[kept].colours for kept in staying])
        alike = (bits != one.bits).sum(axis=1) <= _BITS
        alike &= np.abs(colours - one.colours).mean(axis=1) <= _COLOUR
        if alike.any():
            return Pair(staying[int(alike.argmax())], place, exact=False)
    return None
