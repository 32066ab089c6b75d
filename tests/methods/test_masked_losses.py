"""What a mask, a weight and a prompt without the new word do to the loss of textual inversion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_ti.core.loop import Loop
from lib_ti.core.schedule import parse_learning_rate
from lib_ti.data.latents import LatentCache
from lib_ti.data.samples import TrainingSet
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.methods.textual_inversion import TextualInversion
from lib_ti.methods.vector_settings import InversionSettings

SETTINGS = InversionSettings(name="zqx-cat", init_text="star", batch_size=2, accumulation=1, latents="mean")


def test_mask_and_weight_scale_the_losses(host: StandaloneHost) -> None:
    latents = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    samples = TrainingSet(
        LatentCache(latents, torch.zeros_like(latents)), ["", ""], ["a zqx-cat"], "zqx-cat", SETTINGS
    )
    half = torch.zeros(2, 1, 8, 8)
    half[:, :, :, :4] = 2
    with host.lend(), torch.no_grad():
        method = TextualInversion(host, SETTINGS, samples)
        (batch,) = samples.draw(1)
        plain, left, right = (
            method.losses(replace(batch, mask=mask)) for mask in (None, half, half.flip(-1))
        )
        torch.testing.assert_close((left + right) / 2, plain)
        assert (left / plain).tolist() != pytest.approx([1, 1], abs=1e-3)
        weighted = method.losses(replace(batch, weight=torch.tensor([0.25, 0.0])))
    torch.testing.assert_close(weighted, plain * torch.tensor([0.25, 0.0]))


def test_prompts_without_the_new_word_teach_nothing(host: StandaloneHost) -> None:
    latents = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    cache = LatentCache(latents, torch.zeros_like(latents))
    with host.lend():
        samples = TrainingSet(cache, ["", ""], ["a star"], "zqx-cat", SETTINGS)
        loop = Loop(TextualInversion(host, SETTINGS, samples), parse_learning_rate("0.1"), None)
        before = loop.result()
        assert float(loop.take_step()) > 0
        loop.apply_gradients()
    assert torch.equal(loop.result()["clip_l"], before["clip_l"])
