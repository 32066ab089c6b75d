from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib_ti.core.randomness import generator_at
from lib_ti.core.train_settings import TrainSettings
from lib_ti.data.captions import CaptionRules
from lib_ti.data.dataset import Subset
from lib_ti.data.latents import LatentCache
from lib_ti.data.samples import Batch, TrainingSet

SETTINGS = TrainSettings(batch_size=2, accumulation=2)
LINES = ("a photo of [name]", "[filewords]")


def latents(*sizes: tuple[int, int], views: int = 1) -> LatentCache:
    """Every value of picture i's mean is i."""
    shapes = [(views, 4, height, width) for width, height in sizes]
    return LatentCache(
        [torch.full(shape, float(i)) for i, shape in enumerate(shapes)],
        [torch.ones(shape) for shape in shapes],
    )


def make(
    cache: LatentCache, settings: TrainSettings = SETTINGS, subsets: list[Subset] | None = None
) -> TrainingSet:
    captions = [f"picture {i}" for i in range(len(cache.mean))]
    return TrainingSet(cache, captions, LINES, "zqx", settings, subsets=subsets)


def joined(batches: list[Batch]) -> tuple[list[str], torch.Tensor, torch.Tensor, torch.Tensor]:
    """The batches of one size as one."""
    tensors = [
        torch.cat([getattr(batch, name) for batch in batches]) for name in ("latents", "noise", "timesteps")
    ]
    return [prompt for batch in batches for prompt in batch.prompts], tensors[0], tensors[1], tensors[2]


def test_every_epoch_shows_every_picture_once() -> None:
    samples = make(latents(*[(8, 8)] * 7))
    shown = [row for step in range(1, 8) for row in samples.rows(step)]  # 28 places: four epochs
    epochs = [shown[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_step_may_be_longer_than_an_epoch() -> None:
    rows = make(latents(*[(8, 8)] * 3), replace(SETTINGS, accumulation=6)).rows(2)
    assert Counter(rows) == {0: 4, 1: 4, 2: 4}


def test_repeats_show_a_picture_more_often() -> None:
    subsets = [Subset(Path(), repeats=3), Subset(Path()), Subset(Path(), repeats=4)]
    samples = make(latents(*[(8, 8)] * 3), subsets=subsets)
    shown = Counter(row for step in range(1, 5) for row in samples.rows(step))  # 16 places: two epochs
    assert shown == {0: 6, 1: 2, 2: 8}


def test_a_step_of_one_size_is_drawn_from_its_seed_in_this_order() -> None:
    """Prompts, views, latents, noise, timesteps: the order is part of what a seed means."""
    cache = latents(*[(8, 8)] * 5, views=2)
    step, generator = 3, generator_at(SETTINGS.seed, 3)
    order = [
        torch.randperm(5, generator=generator_at(SETTINGS.seed, 0, epoch)).tolist() for epoch in range(3)
    ]
    rows = [row for epoch in order for row in epoch][8:12]
    lines = [int(torch.randint(2, (1,), generator=generator)) for _ in rows]
    torch.randint(2, (4,), generator=generator)  # the views, here all alike
    expected = torch.tensor(rows).view(4, 1, 1, 1) + torch.randn(4, 4, 8, 8, generator=generator)
    noise = torch.randn(4, 4, 8, 8, generator=generator)
    timesteps = torch.randint(1000, (4,), generator=generator)
    drawn = joined(make(cache).draw(step))
    assert drawn[0] == [
        ["a photo of zqx", f"picture {row}"][line] for row, line in zip(rows, lines, strict=True)
    ]
    assert all(
        torch.equal(one, other) for one, other in zip(drawn[1:], (expected, noise, timesteps), strict=True)
    )


def test_batches_hold_one_size_and_a_step_every_picture_that_was_drawn() -> None:
    settings = replace(SETTINGS, latents="mean", batch_size=3)
    samples = make(latents((8, 8), (8, 12), (8, 8), (12, 8), (8, 12), (8, 8), (8, 8)), settings)
    for step in range(1, 20):
        batches = samples.draw(step)
        assert sum(map(len, batches)) == 6
        assert all(len(batch) <= 3 and batch.noise.shape == batch.latents.shape for batch in batches)
        shown = [int(value) for batch in batches for value in batch.latents[:, 0, 0, 0]]
        assert sorted(shown) == sorted(samples.rows(step))
    assert {tuple(batch.latents.shape[2:]) for step in range(1, 9) for batch in samples.draw(step)} == {
        (8, 8),
        (12, 8),
        (8, 12),
    }


def test_accumulation_sees_what_the_larger_batch_would_whatever_the_sizes() -> None:
    cache = latents((8, 8), (8, 12), (8, 8), (8, 12), (8, 12), (8, 8), (8, 8), views=2)
    for step in range(1, 6):
        steps = []
        for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
            settings = replace(SETTINGS, batch_size=batch_size, accumulation=accumulation)
            by_size: dict[torch.Size, list[Batch]] = {}
            for batch in make(cache, settings).draw(step):
                by_size.setdefault(batch.latents.shape[1:], []).append(batch)
            steps.append({size: joined(batches) for size, batches in by_size.items()})
        for other in steps[1:]:
            assert other.keys() == steps[0].keys()
            for size, (prompts, *tensors) in other.items():
                assert prompts == steps[0][size][0]
                assert all(torch.equal(a, b) for a, b in zip(tensors, steps[0][size][1:], strict=True))


def test_the_prompts_of_a_step_are_those_it_is_drawn_with() -> None:
    samples = make(latents(*[(8, 8)] * 5), replace(SETTINGS, shuffle_tags=True))
    assert samples.steps_of_epoch == 2
    for step in range(1, 5):
        assert samples.prompts(step) == joined(samples.draw(step))[0]


def test_a_step_needs_nothing_but_its_number() -> None:
    """A resumed job draws what the whole one would have drawn."""
    cache = latents((8, 8), (8, 12), (8, 8), views=2)
    samples = make(cache)
    for step in range(1, 5):
        samples.draw(step)
    fresh = make(cache).draw(5)
    assert all(
        torch.equal(one.noise, other.noise) and one.prompts == other.prompts
        for one, other in zip(samples.draw(5), fresh, strict=True)
    )


def test_every_view_of_a_picture_is_shown() -> None:
    cache = LatentCache([torch.arange(3.0).view(3, 1, 1, 1).expand(3, 4, 8, 8)], [torch.zeros(3, 4, 8, 8)])
    samples = make(cache)
    shown = Counter(
        int(value)
        for step in range(1, 76)
        for batch in samples.draw(step)
        for value in batch.latents[:, 0, 0, 0]
    )
    assert set(shown) == {0, 1, 2} and min(shown.values()) > 70


def test_one_permutation_serves_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = make(latents(*[(1, 1)] * 1000), replace(SETTINGS, batch_size=64, accumulation=4))
    permute, drawn = torch.randperm, []
    monkeypatch.setattr(
        torch, "randperm", lambda *args, **kwargs: drawn.append(1) or permute(*args, **kwargs)
    )
    assert len(samples.rows(2)) == 256
    assert len(drawn) == 1


def test_captions_are_varied_as_their_subset_says() -> None:
    subsets = [Subset(Path()), Subset(Path(), captions=CaptionRules(wildcards=True))]
    samples = TrainingSet(
        latents((8, 8), (8, 8)), ["{a|b}", "{c|d}"], ["[filewords]"], "zqx", SETTINGS, subsets=subsets
    )
    prompts = {prompt for step in range(1, 20) for batch in samples.draw(step) for prompt in batch.prompts}
    assert prompts == {"{a|b}", "c", "d"}
    assert samples.captions == ["{a|b}", "c"]


def test_epochs_without_captions_are_counted_by_picture_and_not_by_step() -> None:
    """Three pictures, two at a step: an epoch ends in the middle of one."""
    settings = replace(SETTINGS, batch_size=2, accumulation=1, drop_captions_every=2)
    samples = TrainingSet(latents(*[(8, 8)] * 3), list("abc"), ["[filewords]"], "zqx", settings)
    prompts = [prompt for step in range(1, 7) for prompt in samples.prompts(step)]
    assert [sorted(prompts[i : i + 3]) for i in (0, 6)] == [list("abc")] * 2
    assert prompts[3:6] == prompts[9:12] == [""] * 3


def test_regularisation_pictures_take_turns_with_the_others() -> None:
    settings = replace(SETTINGS, prior_weight=0.25, latents="mean")
    subsets = [Subset(Path())] * 2 + [Subset(Path(), regularisation=True)] * 3
    samples = make(latents(*[(8, 8)] * 5), settings, subsets)
    assert samples.steps_of_epoch == 1
    for step in range(1, 7):
        batches = samples.draw(step)  # a step is an epoch
        rows = [int(value) for batch in batches for value in batch.latents[:, 0, 0, 0]]
        assert sorted(row for row in rows if row < 2) == [0, 1]
        weights = [float(value) for batch in batches for value in batch.weight]
        assert weights == [1.0 if row < 2 else 0.25 for row in rows]
        prompts = [prompt for batch in batches for prompt in batch.prompts]
        assert all(prompt == f"picture {row}" for prompt, row in zip(prompts, rows, strict=True) if row >= 2)
    shown = Counter(row for step in range(1, 7) for row in samples.rows(step))
    assert shown == {0: 6, 1: 6, 2: 4, 3: 4, 4: 4}


def test_a_batch_has_a_mask_where_one_of_its_pictures_has() -> None:
    cache = latents((8, 8), (8, 8), (4, 4))
    mask = torch.rand(1, 1, 8, 8)
    samples = make(LatentCache(cache.mean, cache.std, {1: mask}), replace(SETTINGS, latents="mean"))
    for step in range(1, 6):
        for batch in samples.draw(step):
            rows = [int(value) for value in batch.latents[:, 0, 0, 0]]
            if rows[0] == 2:
                assert batch.mask is None
            elif batch.mask is not None:
                assert batch.mask.shape == (len(batch), 1, 8, 8)
                assert all(
                    torch.equal(given, mask[0] if row == 1 else torch.ones(1, 8, 8))
                    for given, row in zip(batch.mask, rows, strict=True)
                )
            else:
                assert 1 not in rows


def test_pictures_whose_folder_is_called_by_another_word_call_that() -> None:
    """Such as 10_zqy of sd-scripts, or 10_zqy dog."""
    words = ("zqx", "zqy", "zqy dog", "dog", None)
    subsets = [Subset(Path(), class_words=word) for word in words]
    samples = TrainingSet(
        latents(*[(8, 8)] * 5), ["[name2]"] * 5, ["[name]: [filewords]"], "zqx", SETTINGS,
        subsets=subsets, others=("zqy",),
    )  # fmt: skip
    names = ["zqx", "zqy", "zqy", "zqx", "zqx"]
    assert samples.names == names
    rows = [row for step in (1, 2) for row in samples.rows(step)]
    prompts = [prompt for step in (1, 2) for prompt in samples.prompts(step)]
    drawn = dict(zip(rows, prompts, strict=True))
    assert drawn == {row: f"{name}: zqy" for row, name in enumerate(names)}
