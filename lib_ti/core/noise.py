"""The noise of a training step and the timesteps it stands for, as the field's trainers vary them."""

from __future__ import annotations

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.train_settings import NoiseSettings


def draw_noise(
    latents: torch.Tensor, generator: torch.Generator, settings: NoiseSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise of a batch of ``latents`` (b, c, h, w): what the U-Net is to find, and what it is given.

    The two differ with input perturbation only. With every option off this is one ``randn``.
    """
    shape = latents.shape
    noise = torch.randn(*shape, generator=generator)
    if settings.noise_offset:
        offset = _strength(settings.noise_offset, settings.noise_offset_random, len(latents), generator)
        if settings.adaptive_noise:
            means = latents.mean((2, 3), keepdim=True).abs()
            offset = (offset + settings.adaptive_noise * means).clamp(min=0)
        noise = noise + offset * torch.randn(*shape[:2], 1, 1, generator=generator)
    if settings.multires_iterations:
        noise = multires_noise(noise, generator, settings.multires_iterations, settings.multires_discount)
    if not settings.input_perturbation:
        return noise, noise
    # arXiv 2301.11706, algorithm 1: as if the picture given were not quite the one of training.
    more = _strength(settings.input_perturbation, settings.input_perturbation_random, len(latents), generator)
    return noise, noise + more * torch.randn(*shape, generator=generator)


def _strength(most: float, random: bool, count: int, generator: torch.Generator) -> torch.Tensor | float:
    """As it is; or of each of ``count`` pictures a random share of it, (count, 1, 1, 1)."""
    return most * torch.rand(count, 1, 1, 1, generator=generator) if random else most


def check_noise(settings: NoiseSettings) -> None:
    """Raises BadInput for settings that need another one."""
    for needs, given, other in (
        ("noise-offset", settings.noise_offset_random or settings.adaptive_noise, settings.noise_offset),
        ("input-perturbation", settings.input_perturbation_random, settings.input_perturbation),
    ):
        if given and not other:
            raise BadInput(f"{needs} is 0, which nothing varies; set it, such as to 0.1.")


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
