"""The fixed batch that a job's vectors are evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from lib_ti.core.noise import timestep_range
from lib_ti.core.train_settings import TrainSettings
from lib_ti.data.holding_out import LOOKS
from lib_ti.data.samples import Batch


def evaluation_batches(
    draw: Callable[[int], Sequence[Batch]], settings: TrainSettings, timesteps: int, held: int = 0
) -> list[Batch]:
    """The micro-batches of at least ``evaluate_pictures`` samples, the same ones for a job's whole life.

    With 0 of them, and none held out, there is none.
    ``held``: how many pictures are held out and looked at, each of them at ``LOOKS`` timesteps.

    ``draw``: the batches of a step, as a method draws them; ``timesteps``: how many the model has.
    What comes back are the steps after the job's last, so no step trains on their noise; their timesteps
    are spread evenly over the range, from little noise to much.
    """
    wanted = held * LOOKS or settings.evaluate_pictures
    batches, step = list[Batch](), settings.steps
    while sum(map(len, batches)) < wanted:
        step += 1
        batches += draw(step)
    count = sum(map(len, batches))
    low, high = timestep_range(settings, timesteps)
    spread = (low + (torch.arange(count) + 0.5) / count * (high - low)).long()
    parts = spread.split([len(batch) for batch in batches])
    return [replace(batch, timesteps=part) for batch, part in zip(batches, parts, strict=True)]
