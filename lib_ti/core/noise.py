"""The noise of a training step and the timesteps it stands for, as the field's trainers vary them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.train_settings import NoiseSettings


def draw_noise(
    shape: Sequence[int], generator: torch.Generator, settings: NoiseSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise of a batch (b, c, h, w), which the U-Net is to find, and that which it is given.

    The two differ with input perturbation only. With every option off this is one ``randn``.
    """
    noise = torch.randn(*shape, generator=generator)
    if settings.noise_offset:
        noise = noise + settings.noise_offset * torch.randn(*shape[:2], 1, 1, generator=generator)
    if settings.multires_iterations:
        noise = multires_noise(noise, generator, settings.multires_iterations, settings.multires_discount)
    if not settings.input_perturbation:
        return noise, noise
    # arXiv 2301.11706, algorithm 1: as if the picture given were not quite the one of training.
    return noise, noise + settings.input_perturbation * torch.randn(*shape, generator=generator)


def multires_noise(
    noise: torch.Tensor, generator: torch.Generator, iterations: int, discount: float
) -> torch.Tensor:
    """Noise (b, c, h, w) with coarser and coarser noise on top, scaled back to deviation 1.

    Layer i is smaller by r^i, with r drawn from 2..4 each time, and weighs discount^i.
    """
    height, width = noise.shape[2:]
    for i in range(iterations):
        ratio = 2 + 2 * float(torch.rand((), generator=generator))
        size = max(1, int(height / ratio**i)), max(1, int(width / ratio**i))
        coarse = torch.randn(*noise.shape[:2], *size, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
        noise = noise + discount**i * fine
        if 1 in size:
            break
    return noise / noise.std()


def draw_timesteps(
    count: int, generator: torch.Generator, settings: NoiseSettings, total: int
) -> torch.Tensor:
    """Timesteps (count,), int64, each as likely, of the range that the settings leave of 0..total-1."""
    low, high = timestep_range(settings, total)
    return torch.randint(low, high, (count,), generator=generator)


def timestep_range(settings: NoiseSettings, total: int) -> tuple[int, int]:
    """First timestep, and the one after the last. Raises BadInput where none is left."""
    low, high = settings.min_timestep, min(settings.max_timestep, total)
    if low >= high:
        raise BadInput(
            f"min-timestep {low} and max-timestep {settings.max_timestep} leave none of the model's {total} "
            "timesteps (max-timestep itself is not used); widen the range."
        )
    return low, high
