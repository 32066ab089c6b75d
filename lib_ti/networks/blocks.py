"""Weights of a U-Net's blocks as a list: sd-scripts' own, or those that a prompt's tag may give."""

from __future__ import annotations

from collections.abc import Sequence

from lib_ti.formats.embedding import Family
from lib_ti.networks.names import BLOCKS
from lib_ti.networks.prompt_blocks import Blocks, BlockWeights, parse_blocks


def block_weights(weights: Sequence[float] | str, family: Family) -> BlockWeights:
    """``weights``: 25 numbers (SDXL 23), a preset's name, or a list of ``prompt_blocks``, which begins with
    a number for the text encoders. Raises BadInput."""
    if isinstance(weights, str):
        return parse_blocks(weights).weights(family)
    numbers = tuple(weights)
    if len(numbers) == BLOCKS[family]:
        return BlockWeights(1.0, numbers)
    return Blocks("", numbers).weights(family)
