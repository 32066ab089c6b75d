"""Pictures that are not trained on: their loss tells whether a job learns, or learns by heart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.randomness import generator_at

T = TypeVar("T")
LOOKS = 4  # timesteps at which each of them is looked at; so many sd-scripts takes
_PLACE = (0, 2)  # of their random numbers: steps count from 1


def held_out(pictures: Sequence[T], share: float, seed: int, where: str) -> list[T]:
    """Of ``pictures`` so large a share, at random from ``seed`` alone. What is left is rounded up, as
    sd-scripts has it.

    Raises BadInput, by ``where``, for a share that leaves none on one of the two sides.
    """
    if not share:
        return []
    count = len(pictures) - math.ceil(round(len(pictures) * (1 - share), 6))
    if not 0 < count < len(pictures):
        side = "to learn from" if count else "to hold out"
        raise BadInput(
            f"validation-split {share:g} leaves none of the {len(pictures)} pictures in {where} {side}."
        )
    order = torch.randperm(len(pictures), generator=generator_at(seed, *_PLACE)).tolist()
    return [pictures[place] for place in sorted(order[:count])]
