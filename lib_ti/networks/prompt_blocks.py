"""Weights by the U-Net's block, as lists of 17, 26, 12 or 20 numbers or by a preset's name.

The lists are those that users of sd-webui-lora-block-weight write: BASE, then blocks from the input to the
output. The short ones name the blocks with attention only; the others then have no weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lib_ti.core.errors import BadInput


def _names(kind: str, *numbers: int) -> list[str]:
    return [f"{kind}{number:02}" for number in numbers]


BASE = "BASE"  # the text encoder, and what belongs to no block
_SD = [*_names("IN", *range(12)), "M00", *_names("OUT", *range(12))]
_SDXL = [*_names("IN", *range(9)), "M00", *_names("OUT", *range(9))]
# Numbers in a list -> the blocks that they are for, after BASE.
_SD_LISTS = {17: [*_names("IN", 1, 2, 4, 5, 7, 8), "M00", *_names("OUT", *range(3, 12))], 26: _SD}
_SDXL_LISTS = {12: [*_names("IN", 4, 5, 7, 8), "M00", *_names("OUT", *range(6))], 20: _SDXL}
# sd-scripts' place of each block: its first is SD's IN00, and SDXL's embeddings; SDXL's middle has three.
_PLACES: Mapping[str, tuple[str, ...]] = {
    "sd1": tuple(_SD),
    "sd2": tuple(_SD),
    "sdxl": (BASE, *_SDXL[:9], "M00", "M00", "M00", *_SDXL[10:], BASE),
}
# Preset -> first and last of each run of blocks with weight 1; for SD, and for SDXL.
_PRESETS: Mapping[str, tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]] = {
    "NONE": ((), ()),
    "ALL": ((("IN00", "OUT11"),), (("IN00", "OUT08"),)),
    "INS": ((("IN00", "IN02"),), (("IN00", "IN05"),)),
    "IND": ((("IN05", "IN11"),), (("IN06", "IN08"),)),
    "INALL": ((("IN00", "IN11"),), (("IN00", "IN08"),)),
    "MIDD": ((("IN05", "OUT06"),), (("IN06", "OUT02"),)),
    "OUTD": ((("OUT00", "OUT06"),), (("OUT00", "OUT02"),)),
    "OUTS": ((("OUT07", "OUT11"),), (("OUT03", "OUT08"),)),
    "OUTALL": ((("OUT00", "OUT11"),), (("OUT00", "OUT08"),)),
}
PRESETS = tuple(_PRESETS)


@dataclass(frozen=True)
class Blocks:
    """What a tag says of the blocks: a preset, or as many numbers as one of the lists has."""

    preset: str = "ALL"
    numbers: tuple[float, ...] = ()

    def weights(self, family: str) -> BlockWeights:
        """For a model of ``family``. Raises BadInput where the list is another family's."""
        of = self._listed(family) if self.numbers else self._preset(family)
        return BlockWeights(of[BASE], tuple(of[name] for name in _PLACES[family]))

    def _preset(self, family: str) -> dict[str, float]:
        blocks = _SDXL if family == "sdxl" else _SD
        runs = _PRESETS[self.preset][family == "sdxl"]
        on = {name for first, last in runs for name in blocks[blocks.index(first) : blocks.index(last) + 1]}
        return {BASE: float(self.preset != "NONE"), **{name: float(name in on) for name in blocks}}

    def _listed(self, family: str) -> dict[str, float]:
        blocks, lists = (_SDXL, _SDXL_LISTS) if family == "sdxl" else (_SD, _SD_LISTS)
        names = lists.get(len(self.numbers))
        if names is None:
            raise BadInput(
                f"blocks: got a list of {len(self.numbers)} numbers, expected one of "
                f"{' or '.join(map(str, lists))} for this model, or a preset such as OUTALL."
            )
        return dict.fromkeys(blocks, 0.0) | dict(zip([BASE, *names], self.numbers, strict=True))


@dataclass(frozen=True)
class BlockWeights:
    """``blocks``: by the place in sd-scripts' 25 blocks (SDXL: 23)."""

    base: float
    blocks: tuple[float, ...]

    def of(self, block: int | None) -> float:
        return self.base if block is None else self.blocks[block]


def parse_blocks(text: str) -> Blocks:
    """A preset's name, or numbers with commas between them. Raises BadInput."""
    if text.upper() in _PRESETS:
        return Blocks(text.upper())
    try:
        numbers = tuple(float(item) for item in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in {*_SD_LISTS, *_SDXL_LISTS} or not all(map(math.isfinite, numbers)):
        got = f"{len(numbers)} numbers" if len(numbers) > 1 else repr(text)
        raise BadInput(
            f"got {got}, expected 17 or 26 numbers (SD 1.x and 2.x), 12 or 20 (SDXL), or one of "
            f"{', '.join(PRESETS)}."
        )
    return Blocks("", numbers)
