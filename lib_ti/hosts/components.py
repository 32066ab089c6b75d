"""What a Stable Diffusion model is once it is loaded, wherever it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lib_ti.hosts.base import Family, Prediction

KNOWN = "SD1.x, SD2.x or SDXL"


@dataclass
class Components:
    """A loaded model: on the CPU, in evaluation mode, without gradients."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    family: Family
    prediction: Prediction
    alphas_cumprod: torch.Tensor  # float32, (1000,)
    name: str
    native_size: int  # pixels
    file: Path | None  # None where the model is not one file
    prediction_told: str = ""  # a sentence: by what it is known
    text_encoder_2: CLIPTextModelWithProjection | None = None  # SDXL's; it has the same vocabulary

    @cached_property
    def sha256(self) -> str:
        """Of the checkpoint file, in hexadecimal; "" where the model is not one file."""
        if self.file is None:
            return ""
        digest = hashlib.sha256()
        with self.file.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()


def vae_dtype(family: Family, dtype: torch.dtype) -> torch.dtype:
    """The precision to load a VAE in: SDXL's overflows in half precision, its pictures come out black."""
    return torch.float32 if family == "sdxl" else dtype


def kind_by_channels(channels: int) -> str:
    """What a U-Net with so many input channels belongs to, where they are not 4."""
    kind = "an inpainting model" if channels == 9 else "a model"
    return f"{kind} with {channels} input channels instead of 4"


def pixels_per_latent(vae_config: Mapping[str, Any]) -> int:
    return 2 ** (len(vae_config["block_out_channels"]) - 1)


def alphas_cumprod_of(beta_start: float, beta_end: float, schedule: str, zero_snr: bool) -> torch.Tensor:
    """float32, (1000,)"""
    scheduler = DDPMScheduler(
        beta_start=beta_start, beta_end=beta_end, beta_schedule=schedule, rescale_betas_zero_snr=zero_snr
    )
    return scheduler.alphas_cumprod
