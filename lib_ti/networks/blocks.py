"""Weights of a U-Net's blocks: every list in use, as one number for each of sd-scripts' blocks.

Lists: 25 (SD1, SD2) and 23 (SDXL) of sd-scripts, one number a block; 26 and 17 (SD1, SD2), 20 and 12
(SDXL) of sd-webui-lora-block-weight, which begin with a number for the text encoders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import Family
from lib_ti.networks.names import BLOCKS


@dataclass(frozen=True)
class BlockWeights:
    """``base``: of the text encoders; ``blocks``: 25 numbers, for SDXL 23."""

    base: float
    blocks: tuple[float, ...]

    def of(self, block: int | None) -> float:
        return self.base if block is None else self.blocks[block]


def _sd(ins: Sequence[int], outs: Sequence[int]) -> list[tuple[int, ...]]:
    return [*((k,) for k in ins), (12,), *((13 + k,) for k in outs)]


def _sdxl(ins: Sequence[int], outs: Sequence[int]) -> list[tuple[int, ...]]:
    return [*((1 + k,) for k in ins), (10, 11, 12), *((13 + k,) for k in outs)]


# Family -> length of a list -> the blocks that each number after the first stands for.
_LISTS: Mapping[Family, Mapping[int, list[tuple[int, ...]]]] = {
    "sd1": {26: _sd(range(12), range(12)), 17: _sd((1, 2, 4, 5, 7, 8), range(3, 12))},
    "sdxl": {20: _sdxl(range(9), range(9)), 12: _sdxl((4, 5, 7, 8), range(6))},
}
# Of SDXL's first and last block: time embedding and output, which those lists do not name.
_SDXL_ENDS = (0, 22)


def block_weights(weights: Sequence[float], family: Family) -> BlockWeights:
    """Raises BadInput for a list of another length. A block that a list does not name has weight 0."""
    count, lists = BLOCKS[family], _LISTS["sdxl" if family == "sdxl" else "sd1"]
    if len(weights) == count:
        return BlockWeights(1.0, tuple(weights))
    if len(weights) not in lists:
        known = ", ".join(map(str, sorted([count, *lists])))
        raise BadInput(
            f"{len(weights)} block weights were given; for a model of {family} a list has one of {known}."
        )
    base, *others = weights
    blocks = [0.0] * count
    if family == "sdxl":
        for end in _SDXL_ENDS:
            blocks[end] = base
    for weight, named in zip(others, lists[len(weights)], strict=True):
        for block in named:
            blocks[block] = weight
    return BlockWeights(base, tuple(blocks))
