from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_ti.core.train_settings import TrainSettings
from lib_ti.data.evaluation import evaluation_batches
from lib_ti.data.samples import Batch, LatentCache, TrainingSet

SETTINGS = TrainSettings(steps=20, batch_size=2, accumulation=1, evaluate_pictures=8, shuffle_tags=True)


def samples(settings: TrainSettings) -> TrainingSet:
    cache = LatentCache(torch.zeros(3, 1, 4, 8, 8), torch.ones(3, 1, 4, 8, 8))
    return TrainingSet(cache, ["a, b, c", "d, e, f", "g"], ["[name], [filewords]"], "word", settings)


def evaluation_of(settings: TrainSettings) -> list[Batch]:
    return evaluation_batches(samples(settings).draw, settings, 1000)


def same(one: Batch, other: Batch) -> bool:
    tensors = ("latents", "noise", "input_noise", "timesteps")
    return one.prompts == other.prompts and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in tensors
    )


def test_it_is_the_same_whenever_it_is_asked_for() -> None:
    first, second = (evaluation_of(SETTINGS) for _ in range(2))
    assert all(same(one, other) for one, other in zip(first, second, strict=True))
    other = evaluation_of(replace(SETTINGS, seed=2))
    assert not torch.equal(other[0].noise, first[0].noise)


@pytest.mark.parametrize(("wanted", "found"), [(8, 8), (7, 8), (1, 2)])
def test_it_has_the_pictures_wanted_in_batches_that_fit(wanted: int, found: int) -> None:
    batches = evaluation_of(replace(SETTINGS, evaluate_pictures=wanted))
    assert [len(batch) for batch in batches] == [2] * (found // 2)


def test_no_step_trains_on_its_noise() -> None:
    known = samples(SETTINGS)
    trained = torch.cat([batch.noise for step in range(1, 21) for batch in known.draw(step)]).flatten(1)
    evaluated = torch.cat([batch.noise for batch in evaluation_of(SETTINGS)]).flatten(1)
    assert torch.cdist(evaluated, trained).min() > 1


def test_its_timesteps_are_spread_over_the_range() -> None:
    batches = evaluation_of(SETTINGS)
    assert torch.cat([b.timesteps for b in batches]).tolist() == [62, 187, 312, 437, 562, 687, 812, 937]
    narrow = evaluation_of(replace(SETTINGS, min_timestep=100, max_timestep=108))
    assert torch.cat([b.timesteps for b in narrow]).tolist() == list(range(100, 108))
