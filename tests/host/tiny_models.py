"""Runs inside a real WebUI: writes checkpoints of the true layouts, of tiny width, with random weights.

The layouts are the WebUI's own: its .yaml of each family, made narrow, is built by its own code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from modules import sd_disable_initialization, sd_models, sd_models_config
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import nn

from lib_ti.formats.ldm import CLIP_HEADS

HEADS = 4  # of every tiny text encoder
CLIP_WIDTH = 64  # of the built-in checkpoint's text encoder, whose files stand in for SDXL's first
OPEN_CLIP = {"tiny-H": (48, 48), "tiny-bigG": (40, 24)}  # name: width, width of what is pooled


def register_architectures(folder: Path) -> None:
    """Make the tiny text encoders known to open_clip, which wants a file of each."""
    folder.mkdir(exist_ok=True)
    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 16, "patch_size": 32}
    for name, (width, pooled) in OPEN_CLIP.items():
        text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": HEADS, "layers": 3}
        told = {"embed_dim": pooled, "vision_cfg": vision, "text_cfg": text}
        (folder / f"{name}.json").write_text(json.dumps(told))
    open_clip.add_model_config(folder)


def write_checkpoint(name: str, folder: Path, clip: Path) -> None:
    """``folder``/``name``.safetensors and .yaml. ``clip``: the built-in text encoder's files."""
    plan = PLANS[name](folder, clip)
    OmegaConf.save(plan, folder / f"{name}.yaml")
    if name == "inpainting":
        weights = widened(load_file(folder / "tinyworld.safetensors"))
    else:
        weights = random_weights(plan)
    save_file(weights, folder / f"{name}.safetensors", metadata={CLIP_HEADS: str(HEADS)})
    sd_models.list_models()


def random_weights(plan: Any) -> dict[str, torch.Tensor]:
    with sd_disable_initialization.DisableInitialization(disable_clip=True):
        model = sd_models.instantiate_from_config(plan.model)
    generator = torch.Generator().manual_seed(1)
    fill(model, generator)
    return {key: value.contiguous().clone() for key, value in model.state_dict().items()}


@torch.no_grad()
def fill(model: nn.Module, generator: torch.Generator) -> None:
    """Weights as after training: the layers that begin at zero would let nothing through."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim >= 2:
            parameter.copy_(noise * 0.6 / (parameter.numel() / len(parameter)) ** 0.5)
        elif name.endswith("bias"):
            # A text encoder's answer needs a mean that is not 0: emphasis divides by it.
            parameter.copy_(noise * 0.3 - 0.1 if "embedders" in name or "cond_stage" in name else noise * 0.1)
        else:
            parameter.copy_(1 + noise * 0.1)


def widened(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The first convolution of a U-Net also reads a mask and four masked latents."""
    key = "model.diffusion_model.input_blocks.0.0.weight"
    first = weights[key]
    more = torch.randn(len(first), 5, 3, 3, generator=torch.Generator().manual_seed(1)) * first.std()
    return {**weights, key: torch.cat([first, more], dim=1)}


def sd2(prediction: str) -> Callable[[Path, Path], Any]:
    def plan(folder: Path, clip: Path) -> Any:
        plan = OmegaConf.load(sd_models_config.config_sd2v)
        params = plan.model.params
        params.parameterization = prediction
        params.cond_stage_config.params.arch = "tiny-H"
        params.unet_config.params.update(
            model_channels=32,
            num_head_channels=16,
            context_dim=48,
            use_fp16=False,
            use_checkpoint=False,
        )
        narrow_vae(params)
        return plan

    return plan


def sdxl(config: str) -> Callable[[Path, Path], Any]:
    def plan(folder: Path, clip: Path) -> Any:
        plan = OmegaConf.load(config)
        params = plan.model.params
        network = params.network_config.params
        encoders = params.conditioner_config.params.emb_models
        context, sizes = 0, 0
        for encoder in encoders:
            kind = encoder.target.rpartition(".")[2]
            if kind == "FrozenCLIPEmbedder":
                encoder.params.update(version=str(clip), layer_idx=3)
                context += CLIP_WIDTH
            elif kind == "FrozenOpenCLIPEmbedder2":
                encoder.params.arch = "tiny-bigG"
                context += OPEN_CLIP["tiny-bigG"][0]
            else:
                numbers = 1 if encoder.input_key == "aesthetic_score" else 2
                sizes += numbers * encoder.params.outdim
        network.update(
            model_channels=32,
            num_head_channels=16,
            num_res_blocks=1,
            channel_mult=[1, 2, 4],
            transformer_depth=[1, 1, 2],
            context_dim=context,
            adm_in_channels=OPEN_CLIP["tiny-bigG"][1] + sizes,
            use_checkpoint=False,
        )
        narrow_vae(params)
        return plan

    return plan


def inpainting(folder: Path, clip: Path) -> Any:
    plan = OmegaConf.load(folder / "tinyworld.yaml")
    plan.model.target = "ldm.models.diffusion.ddpm.LatentInpaintDiffusion"
    plan.model.params.update(conditioning_key="hybrid", finetune_keys=None)
    plan.model.params.unet_config.params.in_channels = 9
    return plan


def narrow_vae(params: Any) -> None:
    params.first_stage_config.params.ddconfig.update(ch=32, ch_mult=[1, 1, 2, 2], num_res_blocks=1)


PLANS = {
    "sd2": sd2("eps"),
    "sd2-v": sd2("v"),
    "sdxl": sdxl(sd_models_config.config_sdxl),
    "sdxl-inpainting": sdxl(sd_models_config.config_sdxl_inpainting),
    "sdxl-refiner": sdxl(sd_models_config.config_sdxl_refiner),
    "inpainting": inpainting,
}
