"""Numbers for the blocks of a U-Net: learning rates, ranks and alphas, written as sd-scripts writes them.

Source: kohya-ss/sd-scripts networks/lora.py (down_lr_weight, mid_lr_weight, up_lr_weight, block_dims, ...).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import Family
from lib_ti.networks.names import BLOCKS

# Down, middle and up blocks; of SDXL the first and the last of the 23 stand apart.
_SIDES: Mapping[Family, tuple[int, int, int]] = {"sd1": (12, 1, 12), "sd2": (12, 1, 12), "sdxl": (9, 3, 9)}
_EDGES: Mapping[Family, int] = {"sd1": 0, "sd2": 0, "sdxl": 1}

# A weight by the place among the blocks of a side, 0..1.
_PRESETS: Mapping[str, Callable[[float], float]] = {
    "sine": lambda place: math.sin(math.pi / 2 * place),
    "cosine": lambda place: math.sin(math.pi / 2 * (1 - place)),
    "linear": lambda place: place,
    "reverse_linear": lambda place: 1 - place,
    "zeros": lambda place: 0.0,
}
_PRESET = re.compile(rf"({'|'.join(_PRESETS)})\s*(?:\+\s*(\S+))?")


_SIDE_NAMES = ("down-lr-weight", "mid-lr-weight", "up-lr-weight")
_FASTEST = 1e6  # weights of learning rates
HIGHEST_RANK = 1024  # and alpha, as of the settings for all blocks


def block_weights(down: str, middle: str, up: str, family: Family, least: float = 0.0) -> list[float]:
    """A weight for each block, 1 where a text is empty; one of at most ``least`` becomes 0.

    A text is a number for each block of its side, from the shallow ones to the deep (``up``: from the deep
    ones to the shallow), or sine, cosine, linear, reverse_linear or zeros, to which +0.25 adds. As in
    sd-scripts a list may be short, the rest being 1, and an empty item is 0. Raises BadInput.
    """
    edge = [1.0] * _EDGES[family]
    sides = [
        _weights(name, text.strip(), count)
        for name, text, count in zip(_SIDE_NAMES, (down, middle, up), _SIDES[family], strict=True)
    ]
    return [0.0 if weight <= least else weight for weight in (*edge, *sides[0], *sides[1], *sides[2], *edge)]


def filled_up(down: str, middle: str, up: str, family: Family) -> list[str]:
    """What to say of lists that leave weights out."""
    said = []
    for name, text, count in zip(_SIDE_NAMES, (down, middle, up), _SIDES[family], strict=True):
        parts = [part.strip() for part in text.split(",")]
        if not text.strip() or _PRESET.fullmatch(text.strip()):
            continue
        if len(parts) < count:
            said.append(f"{name}: {len(parts)} of {count} numbers are given; the other blocks' weight is 1")
        if "" in parts:
            said.append(f"{name}: an empty item counts as 0, so its block is left as it is")
    return said


def _weights(name: str, text: str, count: int) -> list[float]:
    if not text:
        return [1.0] * count
    preset = _PRESET.fullmatch(text)
    if preset is None or count == 1:
        presets = f"{', '.join(_PRESETS)} or " if count > 3 else ""
        parts = text.split(",")
        # One number alone would be a preset's name to sd-scripts, but in the middle.
        if len(parts) < count and (len(parts) > 1 or not presets):
            parts += ["1"] * (count - len(parts))
        return read_numbers(name, ",".join(part.strip() or "0" for part in parts), count, presets, given=text)
    (more,) = read_numbers(name, preset[2] or "0", 1)
    return [_PRESETS[preset[1]](i / (count - 1)) + more for i in range(count)]


def read_numbers(
    name: str, text: str, count: int, or_else: str = "", *, most: float = _FASTEST, given: str = ""
) -> list[float]:
    """``text`` as so many numbers between commas, of 0 to ``most``; ``given``: what the user typed.
    Raises BadInput."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(0 <= number <= most for number in numbers):
        raise BadInput(
            f"{name}: got {(given or text)!r}, expected {or_else}{count} numbers of 0 to {most:g}, "
            "such as 1,0.5,0."
        )
    return numbers


def read_ranks(name: str, text: str, family: Family) -> list[int]:
    """A whole number for each block of the U-Net; 0: the block is left as it is. Raises BadInput."""
    numbers = read_numbers(name, text, BLOCKS[family], most=HIGHEST_RANK)
    if not all(number.is_integer() for number in numbers):
        raise BadInput(f"{name}: got {text!r}, expected whole numbers.")
    return [int(number) for number in numbers]
