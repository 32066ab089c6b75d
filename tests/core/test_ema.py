from __future__ import annotations

import pytest
import torch

from lib_ti.core.ema import decay_at, update


def test_a_young_average_forgets_faster() -> None:
    assert [decay_at(0.99, step) for step in (1, 2, 10)] == [2 / 11, 3 / 12, 11 / 20]
    assert decay_at(0.99, 10_000) == 0.99


def test_the_average_is_the_sum_of_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(30, 2, 3, generator=generator, dtype=torch.float64)
    average = {"v": values[0].clone()}
    for step in range(1, 30):
        update(average, {"v": values[step]}, decay_at(0.8, step))
    weights = [1.0]  # of each value: what is left of it after all later decays
    for step in range(1, 30):
        decay = min(0.8, (1 + step) / (10 + step))
        weights = [weight * decay for weight in weights] + [1 - decay]
    assert sum(weights) == pytest.approx(1)
    expected = sum(weight * value for weight, value in zip(weights, values, strict=True))
    torch.testing.assert_close(average["v"], expected, rtol=0, atol=1e-12)
