"""The options' own distributions, and that without them nothing changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.noise import draw_noise, draw_timesteps, multires_noise
from lib_ti.core.train_settings import NoiseSettings

SHAPE = (3, 4, 8, 8)


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_with_everything_off_the_random_stream_is_as_it_always_was() -> None:
    ours, plain = generator(), generator()
    noise, given = draw_noise(torch.zeros(SHAPE), ours, NoiseSettings())
    timesteps = draw_timesteps(3, ours, NoiseSettings(), 1000)
    assert torch.equal(noise, torch.randn(SHAPE, generator=plain)) and given is noise
    assert torch.equal(timesteps, torch.randint(1000, (3,), generator=plain))
    assert torch.equal(ours.get_state(), plain.get_state())


def test_noise_offset_moves_every_channel_of_every_picture_as_a_whole() -> None:
    noise, given = draw_noise(torch.zeros(500, 4, 8, 8), generator(), NoiseSettings(noise_offset=0.5))
    assert given is noise
    offset = (noise - torch.randn(500, 4, 8, 8, generator=generator())).numpy()
    np.testing.assert_allclose(offset, offset[:, :, :1, :1] * np.ones((1, 1, 8, 8)), atol=1e-6)
    assert offset[:, :, 0, 0].std() == pytest.approx(0.5, rel=0.05)
    assert np.corrcoef(offset[:, 0, 0, 0], offset[:, 1, 0, 0])[0, 1] == pytest.approx(0, abs=0.1)


def test_input_perturbation_is_given_and_not_asked_for() -> None:
    """Algorithm 1 of arXiv 2301.11706: y = x0 sqrt(abar) + (eps + gamma xi) sqrt(1 - abar), target eps."""
    asked, given = draw_noise(torch.zeros(200, 4, 8, 8), generator(), NoiseSettings(input_perturbation=0.1))
    assert torch.equal(asked, torch.randn(200, 4, 8, 8, generator=generator()))
    extra = (given - asked).numpy()
    assert extra.std() == pytest.approx(0.1, rel=0.02)
    assert np.corrcoef(extra.ravel(), asked.numpy().ravel())[0, 1] == pytest.approx(0, abs=0.02)


def bilinear(coarse: np.ndarray, height: int, width: int) -> np.ndarray:
    """(b, c, h, w) enlarged, pixel centres on pixel centres, edges held."""

    def weights(small: int, large: int) -> np.ndarray:
        matrix = np.zeros((large, small))
        for row in range(large):
            centre = min(max((row + 0.5) * small / large - 0.5, 0), small - 1)
            low = int(centre)
            matrix[row, low] += 1 - (centre - low)
            matrix[row, min(low + 1, small - 1)] += centre - low
        return matrix

    return np.einsum(
        "yi,bcij,xj->bcyx", weights(coarse.shape[2], height), coarse, weights(coarse.shape[3], width)
    )


def test_multires_noise_is_its_definition() -> None:
    """In numpy: layers of size dim / r^i, enlarged, weighing discount^i; all divided by the deviation."""
    first = torch.randn(2, 4, 16, 24, generator=generator(1))
    ours = multires_noise(first, generator(), 6, 0.7)
    stream, expected, layers = generator(), first.double().numpy(), 0
    for i in range(6):
        r = 2 + 2 * float(torch.rand((), generator=stream))
        height, width = max(1, int(16 / r**i)), max(1, int(24 / r**i))
        coarse = torch.randn(2, 4, height, width, generator=stream).double().numpy()
        expected = expected + 0.7**i * bilinear(coarse, 16, 24)
        layers += 1
        if height == 1 or width == 1:
            break
    assert 2 <= layers < 6
    np.testing.assert_allclose(ours.numpy(), expected / expected.std(ddof=1), rtol=0, atol=1e-5)


def test_multires_noise_has_more_of_the_low_frequencies_and_deviation_one() -> None:
    plain, _ = draw_noise(torch.zeros(50, 4, 16, 16), generator(), NoiseSettings())
    coarse, _ = draw_noise(
        torch.zeros(50, 4, 16, 16), generator(), NoiseSettings(multires_iterations=8, multires_discount=0.8)
    )
    assert float(coarse.std()) == pytest.approx(1, abs=1e-5)
    assert coarse.mean((2, 3)).std() > 2 * plain.mean((2, 3)).std()


def test_timesteps_stay_in_their_range_and_reach_its_ends() -> None:
    settings = NoiseSettings(min_timestep=200, max_timestep=204)
    drawn = draw_timesteps(500, generator(), settings, 1000)
    assert sorted(set(drawn.tolist())) == [200, 201, 202, 203]
    assert drawn.dtype == torch.int64


def test_a_model_with_fewer_timesteps_has_no_others() -> None:
    assert int(draw_timesteps(500, generator(), NoiseSettings(), 10).max()) == 9


@pytest.mark.parametrize(("low", "high", "total"), [(500, 500, 1000), (600, 500, 1000), (100, 1000, 100)])
def test_an_empty_range_is_refused(low: int, high: int, total: int) -> None:
    with pytest.raises(
        BadInput, match=f"min-timestep {low} and max-timestep {high} leave none of the model's {total}"
    ):
        draw_timesteps(1, generator(), NoiseSettings(min_timestep=low, max_timestep=high), total)
