import contextlib
from pathlib import Path

import torch
from torch import nn

from lib_ti.tinyworld import fit as fitting
from lib_ti.tinyworld.fit import fit
from lib_ti.tinyworld.train_autoencoder import new_autoencoder, standardise


def _train(folder: Path, steps_before_kill: int | None) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)

    def loss_at(step: int, generator: torch.Generator) -> torch.Tensor:
        if step == steps_before_kill:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=generator)
        return (module(x) - x[:, :2] * 2).pow(2).mean()

    return fit(module, loss_at, steps=60, learning_rate=0.05, folder=folder, seed=1)


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fitting, "SAVE_SECONDS", 0.0)  # saves after every step
    whole = _train(tmp_path / "whole", None)
    with contextlib.suppress(KeyboardInterrupt):
        _train(tmp_path / "halves", 31)
    again = _train(tmp_path / "halves", None)
    for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_standardised_latents_decode_as_before() -> None:
    torch.manual_seed(0)
    vae = new_autoencoder().eval()
    pixels = torch.rand(6, 3, 64, 64) * 2 - 1
    before, spread = vae(pixels).sample, vae.encode(pixels).latent_dist
    standardise(vae, pixels, 0.18215)
    after = vae.encode(pixels).latent_dist
    scaled = after.mean * 0.18215
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(vae(pixels).sample, before, atol=1e-4, rtol=1e-3)
    # The deviation grew with its mean.
    after_share, before_share = (p.std / p.mean.std((0, 2, 3)).view(-1, 1, 1) for p in (after, spread))
    torch.testing.assert_close(after_share, before_share, atol=1e-3, rtol=1e-3)
