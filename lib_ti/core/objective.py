"""The diffusion objective: pure functions, a loss per sample; the caller reduces.

Notation of DDPM (arXiv 2006.11239): x0 the clean latents, eps the noise, abar = alphas_cumprod;
SNR = abar / (1 - abar).
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch

from lib_ti.core.objective_settings import ObjectiveSettings

Prediction = Literal["eps", "v"]
Weighting = Literal["x0", "v", "none", "min-snr", "debiased", "min-snr-debiased"]
HuberSchedule = Literal["constant", "exponential", "snr"]


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
    prediction: Prediction,
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


def zero_terminal_snr(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """The schedule shifted and scaled so that its last timestep is noise alone and its first stays as it
    is (arXiv 2305.08891, algorithm 1), float32."""
    root = alphas_cumprod.double().sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)).square().to(alphas_cumprod.dtype)


def mean_error(errors: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The mean of each sample's errors (b, c, h, w), (b,). ``mask``: what each place counts, (b, 1, h, w),
    with a mean of 1, so that the loss stays as large as without."""
    return (errors if mask is None else errors * mask).flatten(1).mean(1)


def squared_error(
    predicted: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared error of each sample, (b,)."""
    return mean_error((predicted - target).pow(2), mask)


def pseudo_huber(
    predicted: torch.Tensor, target: torch.Tensor, c: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean of 2 c (sqrt(d^2 + c^2) - c) of each sample, (b,): d^2 near zero, 2 c |d| far from it
    (arXiv 2403.16728, eq. 4). ``c``: of each sample, (b,)."""
    square = (predicted - target).pow(2)
    c = c.to(square).view(-1, *(1,) * (square.dim() - 1))
    # sqrt(d^2 + c^2) - c, in the form that loses nothing where d is small.
    return mean_error(2 * c * square / ((square + c.pow(2)).sqrt() + c), mask)


def huber_threshold(
    schedule: HuberSchedule,
    c: float,
    timesteps: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    scale: float = 1.0,
) -> torch.Tensor:
    """The threshold of the pseudo-Huber loss at each timestep, (b,), float32 (arXiv 2403.16728, section 4).

    "exponential" and "snr" fall from about 1 where there is little noise to ``c`` where there is most:
    outliers are forgiven where only the outline of a picture is decided. ``scale`` multiplies the other two,
    as sd-scripts has it.
    """
    if schedule == "constant":
        return torch.full(timesteps.shape, c * scale, dtype=torch.float32, device=timesteps.device)
    if schedule == "exponential":
        return torch.exp(timesteps.float() * (math.log(c) / len(alphas_cumprod))) * scale
    abar = alphas_cumprod.to(timesteps.device)[timesteps].float()
    sigma = ((1 - abar) / abar).sqrt()
    return (1 - c) / (1 + sigma).square() + c


def loss_weight(
    weighting: Weighting,
    prediction: Prediction,
    timesteps: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    gamma: float = 5.0,
    limit: float = 0.0,
) -> torch.Tensor:
    """What each sample's loss is multiplied by, (b,), float32.

    "x0": the squared error then is that of the clean latents the U-Net has in mind (arXiv 2202.00512,
    section 4): 1 / SNR for eps, 1 / (SNR + 1) for v. A plain eps loss hardly hears the noisiest
    timesteps, where colour and layout are decided.
    "v": the squared error then is that of v, (SNR + 1) / SNR for eps: as loud as "x0" where there is most
    noise, and as a plain eps loss where there is least.
    "min-snr": that error, weighted by min(SNR, gamma) (arXiv 2303.09556, section 3.4).
    "debiased": 1 / sqrt(SNR) for eps (arXiv 2310.08442, eq. 11); for v, of which the paper does not
    speak, 1 / (SNR + 1) as other trainers have it. ``limit``: the most that SNR counts there; 0: all.
    "min-snr-debiased": the product of these two, as sd-scripts has it.
    """
    if weighting == "min-snr-debiased":
        both: tuple[Weighting, ...] = ("min-snr", "debiased")
        return torch.stack(
            [loss_weight(one, prediction, timesteps, alphas_cumprod, gamma, limit) for one in both]
        ).prod(0)
    if weighting == "none":
        return torch.ones(len(timesteps), device=timesteps.device)
    abar = alphas_cumprod.to(timesteps.device)[timesteps].float()
    if weighting == "v":
        return 1 / abar if prediction == "eps" else torch.ones_like(abar)
    of_clean = (1 - abar) / abar if prediction == "eps" else 1 - abar
    if weighting == "min-snr":
        # Noise alone has SNR 0 and an eps weight of 0 / 0, whose limit is 1.
        snr = abar / (1 - abar)
        return (gamma / snr).clamp(max=1) if prediction == "eps" else snr.clamp(max=gamma) * of_clean
    if weighting == "debiased" and limit:
        of_clean = of_clean.clamp(min=1 / limit if prediction == "eps" else 1 / (limit + 1))
    if weighting == "debiased" and prediction == "eps":
        return of_clean.sqrt()
    return of_clean


def sample_weight(
    prediction: Prediction,
    timesteps: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    settings: ObjectiveSettings,
) -> torch.Tensor:
    """What each sample's loss is multiplied by as the settings say, (b,), float32.

    ``scale_v_loss`` multiplies by SNR / (SNR + 1), ``v_like_loss`` adds that share of the loss divided by it
    (kohya-ss/sd-scripts, library/custom_train_functions.py).
    """
    weighting, limit = cast(Weighting, settings.weighting), settings.snr_limit
    weight = loss_weight(weighting, prediction, timesteps, alphas_cumprod, settings.min_snr_gamma, limit)
    if not (settings.scale_v_loss or settings.v_like_loss):
        return weight
    share = alphas_cumprod.to(timesteps.device)[timesteps].float()  # SNR / (SNR + 1) is abar itself
    if limit:
        share = share.clamp(max=limit / (limit + 1))
    if settings.scale_v_loss:
        weight = weight * share
    return weight * (1 + settings.v_like_loss / share) if settings.v_like_loss else weight


def weighted_losses(
    predicted: torch.Tensor,
    target: torch.Tensor,
    timesteps: torch.Tensor,
    prediction: Prediction,
    alphas_cumprod: torch.Tensor,
    settings: ObjectiveSettings,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of each sample, (b,), measured and weighted as the settings say. ``mask``: see mean_error."""
    if settings.loss == "l2":
        error = squared_error(predicted, target, mask)
    elif settings.loss == "l1":
        error = mean_error((predicted - target).abs(), mask)
    else:
        schedule = cast(HuberSchedule, settings.huber_schedule)
        c = huber_threshold(schedule, settings.huber_c, timesteps, alphas_cumprod, settings.huber_scale)
        error = pseudo_huber(predicted, target, c, mask)
        if settings.loss == "smooth-l1":
            error = error / c
    return sample_weight(prediction, timesteps, alphas_cumprod, settings) * error
