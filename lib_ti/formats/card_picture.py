"""What a card looks like: the picture, the word, its vectors as a band of colour, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from lib_ti.formats.card import Card

FONT = Path(__file__).with_name("fonts") / "Roboto-Medium.ttf"

_SIDES = (512, 1024)  # pixels: the shorter one of a picture at least, the longer one at most
_PAPER, _TITLE, _NOTE, _FOOTER = (20, 22, 30), (244, 244, 248), (176, 182, 200), (138, 144, 164)
_BELOW, _NONE, _ABOVE = (38, 166, 190), (28, 31, 42), (255, 146, 72)  # numbers under, at and over 0
_LONGEST = 100  # characters of a text that are drawn; a font asks for time and memory for each
_SHARPER = 4  # times as large corners are drawn before they are shrunk

FAMILIES = {"sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL"}

Values = npt.NDArray[np.float32]


def draw_embedding_card(picture: Image.Image | None, card: Card) -> Image.Image:
    """The front of ``card``; without a picture, one made of its numbers."""
    embedding, negative = card.embedding, card.negative
    note = "for the negative prompt" if embedding.is_negative else ""
    if negative is not None:
        note = f"with {negative.name} in the negative prompt"
    count, step = embedding.count, embedding.step
    length = f"{count} vector{'s' if count > 1 else ''}" + (f", {step} steps" if step else "")
    family = FAMILIES[embedding.family]
    footers = (embedding.metadata.get("base_model", ""), family, length)
    vectors = torch.cat([v / v.std().clamp(min=1e-12) for v in embedding.vectors.values()], dim=1)
    return draw_card(picture, embedding.name, note, footers, vectors.numpy())


def draw_card(
    picture: Image.Image | None, title: str, note: str, footers: Sequence[str], vectors: Values
) -> Image.Image:
    """The front of a card, RGB. ``footers``: what stands left, in the middle and right of the last line;
    ``vectors``: (n, d), of which the band is, and the picture too where there is none."""
    picture = _sized(_portrait(vectors) if picture is None else picture.convert("RGB"))
    unit = picture.width / 512
    edge, line = round(16 * unit), round(10 * unit)
    band = round(26 * unit)
    heights = [picture.height, round(46 * unit), round(26 * unit) if note else 0, band, round(17 * unit)]
    card = Image.new("RGB", (picture.width + 2 * edge, sum(heights) + 2 * edge + 4 * line), _PAPER)
    draw = ImageDraw.Draw(card)
    left, right, y = edge, card.width - edge, edge
    card.paste(picture, (left, y), _rounded(picture.size, round(12 * unit)))
    y += heights[0] + line
    font = _fitting(title, 44 * unit, right - left)
    draw.text((left, y + heights[1] // 2), title[:_LONGEST], _TITLE, font, anchor="lm")
    y += heights[1]
    if note:
        _text(draw, note, (left, y + heights[2] // 2), "lm", 16 * unit, right - left, _NOTE)
    y += heights[2] + line
    card.paste(
        _band(vectors, (right - left, band)), (left, y), _rounded((right - left, band), round(6 * unit))
    )
    y += band + line + heights[4] // 2
    for text, (x, anchor) in zip(
        footers, ((left, "lm"), (card.width // 2, "mm"), (right, "rm")), strict=True
    ):
        _text(draw, text, (x, y), anchor, 15 * unit, (right - left) // 3, _FOOTER)
    return card


def _text(
    draw: ImageDraw.ImageDraw,
    text: str,
    place: tuple[int, int],
    anchor: str,
    size: float,
    width: int,
    colour: tuple[int, int, int],
) -> None:
    draw.text(place, text[:_LONGEST], colour, _fitting(text, size, width), anchor=anchor)


def _fitting(text: str, size: float, width: int) -> ImageFont.FreeTypeFont:
    """The font at ``size`` pixels, or so small that ``text`` is at most ``width`` wide."""
    font = ImageFont.truetype(str(FONT), round(size))
    taken = font.getlength(text[:_LONGEST])
    return font if taken <= width else ImageFont.truetype(str(FONT), max(6, int(size * width / taken)))


def _sized(picture: Image.Image) -> Image.Image:
    shorter, longer = sorted(picture.size)
    scale = max(1.0, _SIDES[0] / shorter)
    scale = min(scale, _SIDES[1] / longer)
    if scale == 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _rounded(size: tuple[int, int], radius: int) -> Image.Image:
    """A mask, smooth at the corners."""
    mask = Image.new("L", (size[0] * _SHARPER, size[1] * _SHARPER))
    corner = (mask.width - 1, mask.height - 1)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, *corner), radius * _SHARPER, fill=255)
    return mask.resize(size, Image.Resampling.BOX)


def _band(vectors: Values, size: tuple[int, int]) -> Image.Image:
    """The vectors from top to bottom, their numbers from left to right: no two words look the same."""
    scaled = Image.fromarray(vectors / (3 * vectors.std() + 1e-12))
    values = np.clip(np.asarray(scaled.resize(size, Image.Resampling.BOX)), -1, 1)[..., None]
    ends = np.where(values < 0, np.array(_BELOW), np.array(_ABOVE))
    colours = np.array(_NONE) + np.abs(values) ** 0.7 * (ends - np.array(_NONE))
    return Image.fromarray(colours.round().astype(np.uint8))


def _portrait(vectors: Values) -> Image.Image:
    """Clouds of colour made of the numbers alone."""
    values = np.resize(vectors.reshape(-1), (5, 5, 3))
    ranks = values.reshape(-1).argsort().argsort().reshape(values.shape)
    colours = (50 + 150 * ranks / (ranks.size - 1)).astype(np.uint8)
    return Image.fromarray(colours).resize((512, 512), Image.Resampling.BICUBIC)
