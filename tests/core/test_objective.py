"""Against diffusers' own scheduler, which was written by others, and against the papers in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pytest
import torch

from lib_ti.core.objective import (
    HuberSchedule,
    Prediction,
    Weighting,
    huber_threshold,
    loss_weight,
    q_sample,
    squared_error,
    target_of,
    weighted_losses,
    zero_terminal_snr,
)
from lib_ti.core.settings import options_of
from lib_ti.core.train_settings import LearningSettings

if TYPE_CHECKING:
    from diffusers import DDPMScheduler


@pytest.fixture(scope="module")
def scheduler() -> DDPMScheduler:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def _draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(5, 4, 8, 8, generator=generator) for _ in range(2))
    return x0, noise, torch.tensor([0, 1, 250, 700, 999])


def test_q_sample_is_ddpm_equation_4(scheduler: DDPMScheduler) -> None:
    x0, noise, t = _draw()
    expected = scheduler.add_noise(x0, noise, t)
    torch.testing.assert_close(q_sample(x0, noise, t, scheduler.alphas_cumprod), expected)


def test_eps_target_is_the_noise() -> None:
    x0, noise, t = _draw()
    assert target_of("eps", x0, noise, t, torch.linspace(0.999, 0.005, 1000)) is noise


def test_v_target(scheduler: DDPMScheduler) -> None:
    x0, noise, t = _draw()
    expected = scheduler.get_velocity(x0, noise, t)
    torch.testing.assert_close(target_of("v", x0, noise, t, scheduler.alphas_cumprod), expected)


def test_loss_is_per_sample() -> None:
    x0, noise, _ = _draw()
    loss = squared_error(x0, noise)
    assert loss.shape == (5,)
    for i in range(5):
        torch.testing.assert_close(loss[i], torch.nn.functional.mse_loss(x0[i], noise[i]))


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_weightings_give_the_errors_of_the_clean_latents_and_of_v(prediction: Literal["eps", "v"]) -> None:
    """For any answer of the U-Net, against x0 and v solved for from it, in float64."""
    x0, noise, t = (tensor.double() if tensor.is_floating_point() else tensor for tensor in _draw())
    abar = torch.linspace(0.999, 0.005, 1000, dtype=torch.float64)
    noisy = q_sample(x0, noise, t, abar)
    answer = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    signal, sigma = abar[t].sqrt().view(-1, 1, 1, 1), (1 - abar[t]).sqrt().view(-1, 1, 1, 1)
    imagined = (noisy - sigma * answer) / signal if prediction == "eps" else signal * noisy - sigma * answer
    v = signal * answer - sigma * imagined if prediction == "eps" else answer
    error = squared_error(answer, target_of(prediction, x0, noise, t, abar))
    of_v = squared_error(v, target_of("v", x0, noise, t, abar))
    pairs: list[tuple[Weighting, torch.Tensor]] = [("x0", squared_error(imagined, x0)), ("v", of_v)]
    for weighting, wanted in pairs:
        weighted = loss_weight(weighting, prediction, t, abar) * error
        torch.testing.assert_close(weighted, wanted, rtol=1e-4, atol=0)


def test_no_weighting_is_one() -> None:
    weight = loss_weight("none", "eps", torch.tensor([0, 999]), torch.linspace(0.999, 0.005, 1000))
    assert weight.tolist() == [1.0, 1.0]


def test_a_mask_says_where_errors_count() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 2, 4, 8, 8, generator=generator)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :, :4] = 2
    mask[1] = 1
    losses = squared_error(predicted, target, mask)
    left = (predicted - target)[0, :, :, :4].pow(2).mean()
    torch.testing.assert_close(losses, torch.stack([left, squared_error(predicted, target)[1]]))


def losses(
    predicted: torch.Tensor, target: torch.Tensor, prediction: Prediction = "eps", **told: Any
) -> np.ndarray:
    t, settings = torch.tensor([0, 1, 250, 700, 999]), LearningSettings(**{"weighting": "none", **told})
    return weighted_losses(predicted, target, t, prediction, ABAR, settings).numpy()


ABAR = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
T = np.array([0, 1, 250, 700, 999])
SNR = (ABAR.double().numpy() / (1 - ABAR.double().numpy()))[T]


def test_the_settings_offer_what_there_is() -> None:
    told = options_of(LearningSettings)
    assert told["weighting"][1].choices == get_args(Weighting)
    assert told["huber_schedule"][1].choices == get_args(HuberSchedule)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr(gamma: float) -> None:
    """arXiv 2303.09556: min(SNR, gamma) on the error of x0; eps is SNR times that error, v SNR + 1 times."""
    for prediction, parts in (("eps", SNR), ("v", SNR + 1)):
        weight = loss_weight("min-snr", prediction, torch.tensor(T), ABAR, gamma)
        np.testing.assert_allclose(weight, np.minimum(SNR, gamma) / parts, rtol=1e-4)


def test_debiased() -> None:
    """arXiv 2310.08442, eq. 11: 1 / sqrt(SNR) for eps; other trainers' 1 / (SNR + 1) for v."""
    np.testing.assert_allclose(loss_weight("debiased", "eps", torch.tensor(T), ABAR), SNR**-0.5, rtol=1e-4)
    np.testing.assert_allclose(loss_weight("debiased", "v", torch.tensor(T), ABAR), 1 / (SNR + 1), rtol=1e-4)


@pytest.mark.parametrize("weighting", get_args(Weighting))
@pytest.mark.parametrize("prediction", get_args(Prediction))
def test_a_weight_multiplies_the_loss(weighting: Weighting, prediction: Prediction) -> None:
    x0, noise, t = _draw()
    told = losses(x0, noise, prediction, weighting=weighting, min_snr_gamma=2.0)
    weight = loss_weight(weighting, prediction, t, ABAR, 2.0).numpy()
    np.testing.assert_allclose(told, weight * ((x0 - noise) ** 2).mean((1, 2, 3)).numpy(), rtol=1e-6)


def thresholds(schedule: str, c: float) -> np.ndarray:
    """arXiv 2403.16728, section 4."""
    if schedule == "constant":
        return np.full(5, c)
    if schedule == "exponential":
        return np.exp(np.log(c) / 1000 * T)
    sigma = SNR**-0.5
    return (1 - c) / (1 + sigma) ** 2 + c


@pytest.mark.parametrize("schedule", get_args(HuberSchedule))
@pytest.mark.parametrize("c", [0.1, 0.01])
def test_huber_and_smooth_l1(schedule: HuberSchedule, c: float) -> None:
    x0, noise, t = _draw()
    expected = thresholds(schedule, c)
    np.testing.assert_allclose(huber_threshold(schedule, c, t, ABAR), expected, rtol=1e-4)
    d, bend = (x0 - noise).double().numpy(), expected.reshape(-1, 1, 1, 1)
    distance = np.sqrt(d**2 + bend**2) - bend
    told = {"huber_schedule": schedule, "huber_c": c}
    np.testing.assert_allclose(
        losses(x0, noise, loss="huber", **told), (2 * bend * distance).mean((1, 2, 3)), rtol=1e-4
    )
    np.testing.assert_allclose(
        losses(x0, noise, loss="smooth-l1", **told), (2 * distance).mean((1, 2, 3)), rtol=1e-4
    )


def test_l1_and_l2() -> None:
    x0, noise, _ = _draw()
    np.testing.assert_allclose(losses(x0, noise, loss="l1"), (x0 - noise).abs().mean((1, 2, 3)), rtol=1e-6)
    assert (losses(x0, noise) == squared_error(x0, noise).numpy()).all()


def test_zero_terminal_snr_is_that_of_diffusers_and_the_papers() -> None:
    """Algorithm 1 of arXiv 2305.08891 in numpy, on the betas; diffusers' on the same."""
    ddim = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    theirs = torch.cumprod(1 - ddim.rescale_zero_terminal_snr(betas), 0)
    root = np.sqrt(np.cumprod(1 - betas.numpy()))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    ours = zero_terminal_snr(torch.cumprod(1 - betas, 0).float())
    assert ours.dtype == torch.float32
    assert float(ours[-1]) == 0.0
    np.testing.assert_allclose(ours, root**2, atol=1e-6)
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weighting", get_args(Weighting))
@pytest.mark.parametrize("loss", ["l2", "huber"])
def test_v_losses_are_finite_where_there_is_noise_alone(weighting: str, loss: str) -> None:
    x0, noise, t = _draw()
    settings = LearningSettings(weighting=weighting, loss=loss)
    assert torch.isfinite(weighted_losses(x0, noise, t, "v", zero_terminal_snr(ABAR), settings)).all()


@pytest.mark.parametrize("loss", ["l1", "l2", "huber", "smooth-l1"])
def test_what_a_mask_leaves_out_is_no_error(loss: str) -> None:
    x0, noise, t = _draw()
    mask = torch.zeros(5, 1, 8, 8)
    mask[..., :4] = 2.0
    settings = LearningSettings(loss=loss, weighting="none")
    masked = weighted_losses(x0, noise, t, "eps", ABAR, settings, mask)
    left = weighted_losses(x0[..., :4], noise[..., :4], t, "eps", ABAR, settings)
    torch.testing.assert_close(masked, left)
