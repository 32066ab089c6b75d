"""What ``attach`` is given, looked at before anything of it reaches a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, get_args

import torch
from torch import nn

from lib_ti.core.errors import BadInput
from lib_ti.core.nearest import perhaps
from lib_ti.formats.embedding import Family
from lib_ti.networks.layers import family_of, parts_of
from lib_ti.networks.names import PARTS, Part

# One number, or one for each sample of a batch: (b,).
Multiplier = float | torch.Tensor


def checked_parts(model: object, family: Family | None) -> tuple[dict[Part, nn.Module], Family]:
    """The model's parts by name, and its family where none is given. Raises BadInput."""
    parts = dict(parts_of(model))
    for part, module in parts.items():
        if not isinstance(module, nn.Module):
            raise BadInput(
                f"model: got {module!r} as {part}, expected a U-Net or a text encoder; leave it out."
            )
    if not parts:
        raise BadInput("model: got no part, expected a U-Net, a text encoder, or both.")
    if family is None:
        family = family_of(parts)
    elif family not in get_args(Family):
        raise BadInput(f"family: got {family!r}, expected one of {', '.join(get_args(Family))}.")
    if strange := [part for part in parts if part not in PARTS[family]]:
        raise BadInput(f"model: {family} has no part {strange[0]!r}, only {', '.join(PARTS[family])}.")
    return parts, family


def checked_multiplier(multiplier: Any, known: Sequence[Part]) -> dict[Part, Multiplier]:
    """Of each part; one that a mapping does not name is not in the answer. Raises BadInput."""
    if not isinstance(multiplier, Mapping):
        return dict.fromkeys(known, _checked("multiplier", multiplier))
    if unknown := [str(part) for part in multiplier if part not in known]:
        raise BadInput(
            f"there is no part {', '.join(sorted(unknown))}; the model has {[*known]}"
            f"{perhaps(min(unknown), map(str, known))}."
        )
    return {part: _checked(f"multiplier of {part}", value) for part, value in multiplier.items()}


def _checked(name: str, value: Any) -> Multiplier:
    if isinstance(value, torch.Tensor):
        if value.ndim < 2 and value.numel() and not value.is_complex() and bool(value.isfinite().all()):
            return value
        raise BadInput(
            f"{name}: got a tensor of {tuple(value.shape)}, expected a finite number for each sample."
        )
    if not _is_number(value):
        raise BadInput(f"{name}: got {value!r}, expected a number such as 0.8.")
    return float(value)


def check_blocks(blocks: Any) -> None:
    """Raises BadInput; how many there may be, ``block_weights`` knows."""
    is_list = isinstance(blocks, Sequence) and not isinstance(blocks, str)
    if not is_list or not all(map(_is_number, blocks)):
        raise BadInput(f"blocks: got {blocks!r}, expected a list of numbers.")


def check_rank(rank: Any) -> None:
    """Raises BadInput."""
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise BadInput(f"rank: got {rank!r}, expected a whole number of at least 1.")


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
