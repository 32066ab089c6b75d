"""The scale of classifier-free guidance (arXiv 2207.12598) in the loss: one number, or one a timestep."""

from __future__ import annotations

import math
import re

import torch

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.methods.expression import Expression, parse_expression

# DreamArtist's curves over rate, the timestep as a share of the last: 0 almost clean, 1 all noise.
_CURVES: dict[str, Expression] = {
    "": lambda rate: rate,
    "cos": lambda rate: math.cos((rate - 1) * math.pi / 2),
    "cos2": lambda rate: 1 - math.cos(rate * math.pi / 2),
}
MAX_SCALE = 100.0

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_GUIDANCE = re.compile(rf"\s*({_NUMBER})\s*(?:-\s*({_NUMBER})\s*(?::\s*(.*?)\s*)?)?", re.ASCII | re.DOTALL)


def parse_guidance(text: str, timesteps: int = 1000) -> torch.Tensor:
    """The scale of each timestep, (timesteps,), float32.

    ``3`` is the same for all; ``1.5-3`` rises from 1.5 at the cleanest to 3 at the noisiest timestep,
    ``1.5-3:cos`` early, ``1.5-3:cos2`` late, ``1.5-3:sqrt(rate)`` as the expression over ``rate`` says.
    Raises BadInput for anything else, and where a scale is not between 0 and 100.
    """

    def refuse(why: str) -> BadInput:
        return BadInput(
            f"guidance {text!r}: {why}; expected a scale such as 3, a range such as 1.5-3, or a range with "
            "a curve: 1.5-3:cos, 1.5-3:cos2, 1.5-3:sqrt(rate)."
        )

    if len(text) > 2 * limits.EXPRESSION:
        raise BadInput(f"guidance: it has {len(text)} characters; at most {2 * limits.EXPRESSION} are read.")
    match = _GUIDANCE.fullmatch(text)
    if match is None:
        raise refuse("cannot be read")
    low = float(match[1])
    high = float(match[2] or low)
    curve = match[3] or ""
    try:
        shape = _CURVES[curve] if curve in _CURVES else parse_expression(curve, "rate")
        rates = [shape(i / max(1, timesteps - 1)) for i in range(timesteps)]
    except (ValueError, ArithmeticError) as error:
        raise refuse(str(error)) from None
    scales = [low + (high - low) * rate for rate in rates]
    # Written so that nan fails: it is neither above nor below anything.
    wrong = next((scale for scale in scales if not 0 <= scale <= MAX_SCALE), None)
    if wrong is not None:
        raise refuse(f"a scale of {wrong:g} is not between 0 and {MAX_SCALE:g}")
    return torch.tensor(scales, dtype=torch.float32)


def is_plain(guidance: torch.Tensor) -> bool:
    """Whether there is no guidance at all: with a scale of 1 the negative prompt has no say."""
    return bool((guidance == 1).all())
