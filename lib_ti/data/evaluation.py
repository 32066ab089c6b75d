"""The fixed batch that a job's vectors are evaluated on."""

from __future__ import annotations

from dataclasses import replace

import torch

from lib_ti.core.noise import timestep_range
from lib_ti.data.samples import Batch, TrainingSet


def evaluation_batches(samples: TrainingSet) -> list[Batch]:
    """The micro-batches of at least ``evaluate_pictures`` samples, the same ones for a job's whole life.

    They are what the steps after the job's last would have been, so no step trains on their noise; their
    timesteps are spread evenly over the range, from little noise to much.
    """
    settings, batches = samples.settings, list[Batch]()
    step = settings.steps
    while sum(map(len, batches)) < settings.evaluate_pictures:
        step += 1
        batches += samples.draw(step)
    count = sum(map(len, batches))
    low, high = timestep_range(settings, samples.timesteps)
    spread = (low + (torch.arange(count) + 0.5) / count * (high - low)).long()
    parts = spread.split([len(batch) for batch in batches])
    return [replace(batch, timesteps=part) for batch, part in zip(batches, parts, strict=True)]
