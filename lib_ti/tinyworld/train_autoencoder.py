"""Train the VAE of the built-in checkpoint: AutoencoderKL, factor 8, 4 channels."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from lib_ti.tinyworld.corpus import CORPUS_SEED, make_corpus, to_pixels
from lib_ti.tinyworld.fit import fit, share_of
from lib_ti.tinyworld.world import VALUES

CHANNELS = (32, 32, 64, 128)
STEPS = 6000
BATCH = 16
KL_WEIGHT = 5e-3  # large for a VAE: the decoder must forgive what a tiny U-Net gets slightly wrong


def new_autoencoder() -> AutoencoderKL:
    """Fresh weights of the built-in VAE's plan."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
    )


def _edges(pixels: torch.Tensor) -> torch.Tensor:
    """(b, 1, h, w): 0 on flat ground, up to 1 where something is drawn (local contrast)."""
    spread = F.max_pool2d(pixels, 5, 1, 2) + F.max_pool2d(-pixels, 5, 1, 2)
    return spread.mean(1, keepdim=True).clamp(max=1)


def train_autoencoder(
    work: Path, *, seed: int = 1, device: str = "cpu", pictures: int = 40_000
) -> AutoencoderKL:
    """L1 (edges count four times) + KL; all values of the world, the unseen ones too."""
    corpus = make_corpus(pictures, CORPUS_SEED, VALUES)
    torch.manual_seed(seed)
    vae = new_autoencoder().to(device)

    def loss_at(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(corpus.scenes), (share_of(BATCH),), generator=generator)
        pixels = to_pixels(corpus.pictures[rows]).to(device)
        posterior = vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        difference = (decoded - pixels).abs() * (1 + 3 * _edges(pixels))
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return difference.mean() + KL_WEIGHT * min(1.0, step / 500) * kl

    return fit(vae, loss_at, steps=STEPS, learning_rate=1.5e-3, folder=work / "autoencoder", seed=seed)


@torch.no_grad()
def standardise(vae: AutoencoderKL, pixels: torch.Tensor, latent_scale: float) -> None:
    """Shift and scale the latents' channels, inside the weights, so that ``latent_scale`` times a
    latent has mean 0 and deviation 1 over ``pixels``: every host's fixed 0.18215 is then right.

    ``quant_conv`` gives mean and log variance of each channel, ``post_quant_conv`` takes the sample.
    """
    latents = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in pixels.split(128)])
    mean = latents.mean((0, 2, 3))
    factor = 1 / (latents.std((0, 2, 3)) * latent_scale)
    channels = len(mean)
    out, back = vae.quant_conv, vae.post_quant_conv
    out.weight[:channels] *= factor.view(-1, 1, 1, 1)
    out.bias[:channels] = (out.bias[:channels] - mean) * factor
    out.bias[channels:] += 2 * factor.log()
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight /= factor.view(1, -1, 1, 1)
