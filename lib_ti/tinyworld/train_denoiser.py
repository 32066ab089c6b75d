"""Train text encoder and U-Net of the built-in checkpoint, together, on cached latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lib_ti.hosts.tokenizer import build_clip_tokenizer
from lib_ti.tinyworld.corpus import CORPUS_SEED, make_corpus, to_pixels
from lib_ti.tinyworld.fit import fit, read_saved, share_of
from lib_ti.tinyworld.world import KNOWN, caption, draw_words

STEPS = 5000
BATCH = 128  # over all processes
SCENES = 48_000
CAPTIONS = 6  # of each scene
EMPTY = 0.1  # share of captions left empty, for classifier-free guidance
# Shapes first: min-SNR weights (arXiv 2303.09556) teach them soonest, but leave the noisiest timesteps
# untrained, and there the colours are decided: a plain background shows through all but the most noise,
# so that elsewhere nothing makes the U-Net listen to the word for it. Then the weights of v prediction.
SHAPES_FIRST = 1500  # steps
MIN_SNR_GAMMA = 5.0
LATENT_SCALE = 0.18215


def new_text_encoder() -> CLIPTextModel:
    """Fresh weights of the built-in text encoder's plan: CLIP-L's, narrower and shorter."""
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            projection_dim=64,
            bos_token_id=49406,
            eos_token_id=49407,
        )
    )


def new_unet() -> UNet2DConditionModel:
    """Fresh weights of the built-in U-Net's plan: SD1's 25 blocks at a tenth of the width."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64, 128, 128),
        cross_attention_dim=64,
        attention_head_dim=4,  # diffusers' old name for the number of heads
    )


def new_scheduler() -> DDPMScheduler:
    """SD1's noise schedule."""
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def _data_file(work: Path) -> Path:
    return work / "denoiser-data.pt"


def prepare(work: Path, vae: AutoencoderKL) -> None:
    """Cache what training reads: latent means and deviations of the corpus, and its caption ids."""
    target = _data_file(work)
    if target.exists():
        return
    corpus = make_corpus(SCENES, CORPUS_SEED + 2, KNOWN)
    means, stds = [], []
    with torch.no_grad():
        for chunk in corpus.pictures.split(128):
            posterior = vae.encode(to_pixels(chunk)).latent_dist
            means.append(posterior.mean * LATENT_SCALE)
            stds.append(posterior.std * LATENT_SCALE)
    rng = np.random.default_rng(CORPUS_SEED + 3)
    captions = [caption(scene, rng, *draw_words(rng)) for scene in corpus.scenes for _ in range(CAPTIONS)]
    tokenizer = build_clip_tokenizer()
    ids = tokenizer(captions, padding="max_length", truncation=True, max_length=77).input_ids
    data = {
        "mean": torch.cat(means),
        "std": torch.cat(stds),
        "ids": torch.tensor(ids, dtype=torch.int32).view(SCENES, CAPTIONS, 77),
        "empty": torch.tensor(tokenizer("", padding="max_length", max_length=77).input_ids),
    }
    torch.save(data, target.with_suffix(".tmp"))
    target.with_suffix(".tmp").replace(target)


def train_denoiser(work: Path, *, seed: int = 2, device: str = "cpu") -> nn.ModuleDict:
    """Epsilon prediction on what ``prepare`` cached; returns the averaged
    ``{text_encoder, unet}``."""
    data = read_saved(_data_file(work))
    torch.manual_seed(seed)
    model = nn.ModuleDict({"text_encoder": new_text_encoder(), "unet": new_unet()}).to(device)
    alphas = new_scheduler().alphas_cumprod
    snr = alphas / (1 - alphas)
    batch = share_of(BATCH)

    def loss_at(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(data["mean"]), (batch,), generator=generator)
        which = torch.randint(CAPTIONS, (batch,), generator=generator)
        ids = data["ids"][rows, which].long()
        ids[torch.rand(batch, generator=generator) < EMPTY] = data["empty"]
        latents = data["mean"][rows]
        if step < SHAPES_FIRST:
            latents = latents + data["std"][rows] * torch.randn(latents.shape, generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        t = torch.randint(1000, (batch,), generator=generator)
        signal, sigma = alphas[t].sqrt().view(-1, 1, 1, 1), (1 - alphas[t]).sqrt().view(-1, 1, 1, 1)
        noisy = signal * latents + sigma * noise
        hidden = model["text_encoder"](ids.to(device)).last_hidden_state
        predicted = model["unet"](noisy.to(device), t.to(device), hidden).sample
        weight = snr[t].clamp(max=MIN_SNR_GAMMA) / snr[t] if step < SHAPES_FIRST else 1 + 1 / snr[t]
        return (weight.to(device) * (predicted - noise.to(device)).pow(2).mean((1, 2, 3))).mean()

    return fit(model, loss_at, steps=STEPS, learning_rate=1e-3, folder=work / "denoiser", seed=seed)
