"""Weights of a U-Net's blocks as a tag in a prompt gives them: a list of numbers, or a preset's name.

Lists are those of ``blocks``, the presets those that users of sd-webui-lora-block-weight know by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import Family
from lib_ti.networks.blocks import BlockWeights, block_weights

_LENGTHS = (17, 25, 26, 12, 20, 23)  # of lists, whatever the family
# Preset -> the blocks with weight 1, as places among SD's 25 (12 inputs, the middle, 12 outputs) and among
# SDXL's 19 of a full list (9, 1, 9). Those that hold attention are the same as in the known lists of 17.
_PRESETS: Mapping[str, tuple[range, range]] = {
    "NONE": (range(0), range(0)),
    "ALL": (range(25), range(19)),
    "INS": (range(3), range(6)),
    "IND": (range(5, 12), range(6, 9)),
    "INALL": (range(12), range(9)),
    "MIDD": (range(5, 20), range(6, 13)),
    "OUTD": (range(13, 20), range(10, 13)),
    "OUTS": (range(20, 25), range(13, 19)),
    "OUTALL": (range(13, 25), range(10, 19)),
}
PRESETS = tuple(_PRESETS)


@dataclass(frozen=True)
class Blocks:
    """What a tag says of the blocks: a preset, or where there is none, a list."""

    preset: str = "ALL"
    numbers: tuple[float, ...] = ()

    def weights(self, family: Family) -> BlockWeights:
        """For a model of ``family``. Raises BadInput where the list is another family's."""
        return block_weights(self.numbers or self._preset(family), family)

    def _preset(self, family: Family) -> list[float]:
        on = _PRESETS[self.preset][family == "sdxl"]
        count = len(_PRESETS["ALL"][family == "sdxl"])
        return [float(self.preset != "NONE"), *(float(place in on) for place in range(count))]


def parse_blocks(text: str) -> Blocks:
    """A preset's name, or numbers with commas between them. Raises BadInput."""
    if text.upper() in _PRESETS:
        return Blocks(text.upper())
    try:
        numbers = tuple(float(item) for item in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in _LENGTHS or not all(map(math.isfinite, numbers)):
        got = f"{len(numbers)} numbers" if len(numbers) > 1 else repr(text)
        raise BadInput(
            f"got {got}, expected 17, 25 or 26 numbers (SD 1.x and 2.x), 12, 20 or 23 (SDXL), or one of "
            f"{', '.join(PRESETS)}."
        )
    return Blocks("", numbers)
