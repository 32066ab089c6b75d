"""Against diffusers' own scheduler, which was written by others from the same papers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest
import torch

from lib_ti.core.objective import loss_weight, q_sample, squared_error, target_of

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
def test_x0_weighting_gives_the_error_of_the_clean_latents(prediction: Literal["eps", "v"]) -> None:
    """For any answer of the U-Net, against x0 solved for from it, in float64."""
    x0, noise, t = (tensor.double() if tensor.is_floating_point() else tensor for tensor in _draw())
    abar = torch.linspace(0.999, 0.005, 1000, dtype=torch.float64)
    noisy = q_sample(x0, noise, t, abar)
    answer = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    signal, sigma = abar[t].sqrt().view(-1, 1, 1, 1), (1 - abar[t]).sqrt().view(-1, 1, 1, 1)
    imagined = (noisy - sigma * answer) / signal if prediction == "eps" else signal * noisy - sigma * answer
    weighted = loss_weight("x0", prediction, t, abar) * squared_error(
        answer, target_of(prediction, x0, noise, t, abar)
    )
    torch.testing.assert_close(weighted, squared_error(imagined, x0), rtol=1e-4, atol=0)


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
