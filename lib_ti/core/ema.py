"""An exponential moving average of parameters: what a job ends with, instead of its last step's."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def decay_at(decay: float, step: int) -> float:
    """The decay at optimizer step ``step`` (from 1): young averages forget faster, so that a short job does
    not end where it began."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(average: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor], decay: float) -> None:
    """In place: average <- decay * average + (1 - decay) * parameter."""
    for name, value in average.items():
        value.lerp_(parameters[name], 1 - decay)
