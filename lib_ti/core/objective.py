"""The diffusion objective: pure functions, a loss per sample; the caller reduces.

Notation of DDPM (arXiv 2006.11239): x0 the clean latents, eps the noise, abar = alphas_cumprod.
"""

from __future__ import annotations

from typing import Literal

import torch

Weighting = Literal["x0", "none"]


def _at(values: torch.Tensor, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``values[timesteps]`` in the dtype and on the device of ``like``, shaped (b, 1, 1, 1)."""
    picked = values.to(like.device)[timesteps.to(like.device)]
    return picked.to(like.dtype).view(-1, *(1,) * (like.dim() - 1))


def q_sample(
    x0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """x_t = sqrt(abar) x0 + sqrt(1 - abar) eps (DDPM, eq. 4); (b, c, h, w)."""
    abar = _at(alphas_cumprod, timesteps, x0)
    return abar.sqrt() * x0 + (1 - abar).sqrt() * noise


def target_of(
    prediction: Literal["eps", "v"],
    x0: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    alphas_cumprod: torch.Tensor,
) -> torch.Tensor:
    """What the U-Net should answer: eps, or v = sqrt(abar) eps - sqrt(1 - abar) x0
    (arXiv 2202.00512, section 4)."""
    if prediction == "eps":
        return noise
    abar = _at(alphas_cumprod, timesteps, x0)
    return abar.sqrt() * noise - (1 - abar).sqrt() * x0


def mean_error(errors: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The mean of each sample's errors (b, c, h, w), (b,). ``mask``: what each place counts, (b, 1, h, w),
    with a mean of 1, so that the loss stays as large as without."""
    return (errors if mask is None else errors * mask).flatten(1).mean(1)


def squared_error(
    predicted: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared error of each sample, (b,)."""
    return mean_error((predicted - target).pow(2), mask)


def loss_weight(
    weighting: Weighting,
    prediction: Literal["eps", "v"],
    timesteps: torch.Tensor,
    alphas_cumprod: torch.Tensor,
) -> torch.Tensor:
    """What each sample's loss is multiplied by, (b,), float32.

    "x0": the squared error then is that of the clean latents the U-Net has in mind (arXiv 2202.00512,
    section 4): 1 / SNR for eps, 1 / (SNR + 1) for v. A plain eps loss hardly hears the noisiest
    timesteps, where colour and layout are decided.
    """
    if weighting == "none":
        return torch.ones(len(timesteps), device=timesteps.device)
    abar = alphas_cumprod.to(timesteps.device)[timesteps].float()
    return (1 - abar) / abar if prediction == "eps" else 1 - abar
