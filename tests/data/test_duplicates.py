from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from lib_ti.data.duplicates import Pair, find_pairs, print_of


def smooth(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """As photographs are: neighbours are alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def test_the_same_pixels_are_found_whatever_the_file() -> None:
    one, other = smooth(0), smooth(1)
    again = one.convert("RGBA")
    assert find_pairs([print_of(image) for image in (other, one, again, other)]) == [
        Pair(0, 3, exact=True),
        Pair(1, 2, exact=True),
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: as_jpeg(image, 60),
        lambda image: image.resize((80, 60), Image.Resampling.LANCZOS),
        lambda image: ImageEnhance.Brightness(image).enhance(1.04),
    ],
    ids=["saved anew", "scaled", "lighter"],
)
def test_a_changed_copy_is_alike_and_the_larger_one_stays(change) -> None:
    prints = [print_of(image) for image in (smooth(2), change(smooth(3)), smooth(3))]
    (pair,) = find_pairs(prints)
    assert not pair.exact and {pair.kept, pair.other} == {1, 2}
    assert prints[pair.kept].size >= prints[pair.other].size


def test_different_pictures_are_not_alike() -> None:
    pictures = [smooth(seed) for seed in range(40)]
    pictures += [ImageOps.mirror(picture) for picture in pictures]
    pictures += [Image.new("RGB", (64, 64), colour) for colour in ("red", "white", "black")]
    assert find_pairs([print_of(picture) for picture in pictures]) == []
