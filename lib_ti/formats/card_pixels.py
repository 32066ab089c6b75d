"""Bytes in the pixels of a card's borders, where they outlive what is stripped from a picture's file.

A1111's layout: between two black columns stands the picture; left of them are the low, right of them the
high halves of the bytes, each in the low half of a colour value (row by row, red, green and blue), mixed
with a fixed noise. The high halves of the values are free: here they go on with the picture's edge.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from lib_ti.core import limits
from lib_ti.core.errors import BadInput

Bytes = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom

_HALF = 0x0F
_DARKEST = 0x10  # of a border's values: readers cut black margins off
_NARROWEST = 8  # columns; rows full of noise pack better than a little in every row
_AT_ONCE = 1 << 20  # pixels
_GLANCES = (16, 128)  # rows of a picture that are looked at before all of them


def hide(picture: Image.Image, content: bytes) -> Image.Image:
    """``picture`` (RGB) between borders that hold ``content``."""
    width, height = picture.size
    columns = max(_NARROWEST, -(-len(content) // (3 * height)))
    noise = _noise(columns * height * 3)
    cells = noise << 4 | noise  # what is left over comes out as zeros, which PNG packs well
    cells[: len(content)] = np.frombuffer(content, np.uint8)
    card = Image.new("RGB", (width + 2 * columns + 2, height))
    card.paste(picture, (columns + 1, 0))
    for left, edge, half in ((0, 0, cells & _HALF), (columns + width + 2, width - 1, cells >> 4)):
        free = np.asarray(picture.crop((edge, 0, edge + 1, height))) & ~np.uint8(_HALF)
        border = (half ^ noise).reshape(height, columns, 3) | np.maximum(free, _DARKEST)
        card.paste(Image.fromarray(border), (left, 0))
    return card


def find_hidden(image: Image.Image) -> bytes | None:
    """What the borders of ``image`` hold, followed by what fills them up; None: it has none.

    ``image`` may have got black margins, an alpha channel or a palette since. Most pictures are let go after
    a glance at few rows. Raises BadInput for borders of more than limits.CARD_BORDERS.
    """
    width, height = image.size
    everywhere = (0, 0, width, height)
    if len(_dark_columns(image, everywhere, _GLANCES[0])) < 2:
        return None
    image = image if image.mode == "RGB" else image.convert("RGB")
    box = image.getbbox()
    columns = None if box is None else _border(image, box)
    if box is None or columns is None:
        return None
    left, top, right, bottom = box
    if columns * (bottom - top) * 3 > limits.CARD_BORDERS:
        raise BadInput(f"the picture's borders are {columns} columns wide, more than any embedding fills.")
    low = _cells(image, (left, top, left + columns, bottom))
    high = _cells(image, (right - columns, top, right, bottom))
    noise = _noise(low.size)
    return bytes(((high ^ noise) << 4) | (low ^ noise))


def _noise(count: int) -> Bytes:
    """The low halves of ``count`` values of the generator x -> 1664525 x + 1013904223 (mod 2**32), modulo
    255; it starts at 0. Of the values so far the next as many follow at once."""
    factor, term = 1664525, 1013904223
    values = np.array([term], np.uint32)
    while len(values) < count:
        values = np.concatenate([values, values * np.uint32(factor) + np.uint32(term)])
        factor, term = factor * factor % 2**32, (factor * term + term) % 2**32
    return (values[:count] % 255).astype(np.uint8) & np.uint8(_HALF)


def _cells(image: Image.Image, box: Box) -> Bytes:
    """The low halves of the colour values in ``box``, in the order of reading."""
    return (np.asarray(image.crop(box)) & np.uint8(_HALF)).reshape(-1)


def _dark_columns(image: Image.Image, box: Box, count: int) -> npt.NDArray[np.intp]:
    """The columns of ``box``, from its left, that have only zeros in the low halves of ``count`` rows."""
    left, top, right, bottom = box
    seen = np.zeros(right - left, np.uint8)
    for row in np.unique(np.linspace(top, bottom - 1, count, dtype=int)):
        strip = image.crop((left, row, right, row + 1)).convert("RGB")
        seen |= np.bitwise_or.reduce(np.asarray(strip)[0], axis=1)
    return np.flatnonzero(seen & _HALF == 0)


def _dark_to_the_end(image: Image.Image, box: Box) -> npt.NDArray[np.intp]:
    """The same of all rows, after a glance at some: a picture can have a hundred thousand columns."""
    left, top, right, bottom = box
    if not len(_dark_columns(image, box, _GLANCES[1])):
        return np.empty(0, np.intp)
    seen = np.zeros(right - left, np.uint8)
    step = max(1, _AT_ONCE // (right - left))
    for row in range(top, bottom, step):
        strip = np.asarray(image.crop((left, row, right, min(bottom, row + step))))
        seen |= np.bitwise_or.reduce(np.bitwise_or.reduce(strip, axis=0), axis=1)
    return np.flatnonzero(seen & _HALF == 0)


def _border(image: Image.Image, box: Box) -> int | None:
    """How many columns the left and the right border of ``box`` have; None: there is no such pair that
    could begin a zlib stream."""
    left, top, right, _ = box
    dark = _dark_to_the_end(image, box)
    if len(dark) == 0:
        return None
    ahead, back = int(dark[0]), right - left - 1 - int(dark[-1])
    if not ahead or ahead != back or 2 * ahead + 2 > right - left:
        return None
    low = _cells(image, (left, top, left + 1, top + 1))[:2]
    high = _cells(image, (right - ahead, top, right - ahead + 1, top + 1))[:2]
    noise = _noise(2)
    method, flags = ((high ^ noise) << 4) | (low ^ noise)
    return ahead if method & _HALF == 8 and (int(method) * 256 + int(flags)) % 31 == 0 else None
