"""The loss that every method has in common: how far the model is from seeing through the noise."""

from __future__ import annotations

from dataclasses import replace

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.noise import check_noise, timestep_range
from lib_ti.core.objective import q_sample, target_of, weighted_losses, zero_terminal_snr
from lib_ti.core.train_settings import TrainSettings
from lib_ti.data.samples import Batch
from lib_ti.hosts.base import Condition, Host


def noise_schedule(host: Host, settings: TrainSettings) -> torch.Tensor:
    """The alphas_cumprod of training; noise, target and weights all take them from here.

    Raises BadInput where the settings do not go with the model's schedule.
    """
    info = host.info
    timestep_range(settings, len(info.alphas_cumprod))
    check_noise(settings)
    if settings.scale_v_loss if info.prediction == "eps" else settings.v_like_loss:
        wrong, other = ("scale-v-loss", "v") if info.prediction == "eps" else ("v-like-loss", "noise")
        raise BadInput(
            f"{wrong} belongs to a model that predicts {other}, and {info.name} does not; leave it out, or "
            "load another model."
        )
    if not settings.zero_terminal_snr:
        return info.alphas_cumprod
    if info.prediction == "eps":
        raise BadInput(
            f"zero-terminal-snr: the model {info.name} predicts noise, and a timestep of noise alone would "
            "teach it nothing; leave it out, or load a model that predicts v."
        )
    return zero_terminal_snr(info.alphas_cumprod)


def denoising_losses(
    host: Host, condition: Condition, batch: Batch, alphas_cumprod: torch.Tensor, settings: TrainSettings
) -> torch.Tensor:
    """The loss of each sample of ``batch``, (b,), with the gradient of the model's answer.

    ``alphas_cumprod``: see ``noise_schedule``.
    """
    info = host.info
    latents, noise = batch.latents.to(info.device), batch.noise.to(info.device)
    timesteps = batch.timesteps.to(info.device)
    noisy = q_sample(latents, batch.input_noise.to(info.device), timesteps, alphas_cumprod)
    if batch.sizes is not None:
        condition = replace(condition, sizes=batch.sizes)
    predicted = host.predict_noise(noisy, timesteps, condition).float()
    target = target_of(info.prediction, latents, noise, timesteps, alphas_cumprod)
    mask = None if batch.mask is None else batch.mask.to(info.device)
    losses = weighted_losses(predicted, target, timesteps, info.prediction, alphas_cumprod, settings, mask)
    return batch.weight.to(info.device) * losses
