"""Tiny Stable Diffusion models with random weights, and their checkpoints in the original layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lib_ti.formats import ldm

State = dict[str, torch.Tensor]
SD2_BLOCKS = 24  # of OpenCLIP's ViT-H; SD2 uses all but the last


def write(path: Path, state: State, config: dict[str, Any] | None = None, **metadata: str) -> Path:
    """A `.safetensors`, with the `.yaml` beside it if there is one to write."""
    save_file(state, path, metadata=metadata)
    if config is not None:
        path.with_suffix(".yaml").write_text(ldm.ldm_yaml(config), encoding="utf-8")
    return path


def shapes_of(state: State) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in state.items()}


@torch.no_grad()
def fill(*models: nn.Module) -> None:
    """Weights as after training: every part answers to what it is given, the U-Net to its prompt most
    of all; text states have a mean."""
    generator = torch.Generator().manual_seed(1)
    for model in models:
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "attn2.to_out.0.weight" in name:
                parameter.copy_(noise * 2 / len(parameter) ** 0.5)
            elif parameter.ndim >= 2:
                parameter.copy_(noise * 0.6 / (parameter.numel() / len(parameter)) ** 0.5)
            elif name.endswith("bias"):
                # Emphasis divides by the mean of a text encoder's states.
                parameter.copy_(noise * 0.3 - 0.1 if "text_model" in name else noise * 0.1)
            else:
                parameter.copy_(1 + noise * 0.1)
        model.eval().requires_grad_(False)


def new_vae(scale: float) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        scaling_factor=scale,
    )


def new_sd2() -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    text = CLIPTextConfig(
        hidden_size=64,
        num_hidden_layers=SD2_BLOCKS - 1,
        num_attention_heads=1,
        intermediate_size=128,
        hidden_act="gelu",
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(64, 64, 64, 64),
        attention_head_dim=[1, 1, 1, 1],
        cross_attention_dim=64,
        use_linear_projection=True,
    )
    parts = unet, new_vae(0.18215), CLIPTextModel(text)
    fill(*parts)
    return parts


SdxlParts = tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel, CLIPTextModelWithProjection]
SDXL_WIDTHS = {"clip_l": 64, "clip_g": 128}


def new_sdxl() -> SdxlParts:
    """Heads of 64 channels, and three widths of text that cannot be taken for one another."""
    shape = {"num_hidden_layers": 3, "intermediate_size": 160}
    first = CLIPTextConfig(hidden_size=64, num_attention_heads=1, hidden_act="quick_gelu", **shape)
    second = CLIPTextConfig(
        hidden_size=128, num_attention_heads=2, hidden_act="gelu", projection_dim=96, **shape
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 128),
        attention_head_dim=[1, 1, 2],
        transformer_layers_per_block=[1, 1, 2],
        cross_attention_dim=64 + 128,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=96 + 6 * 256,
    )
    parts = unet, new_vae(0.13025), CLIPTextModel(first), CLIPTextModelWithProjection(second)
    fill(*parts)
    return parts


def sdxl_state(parts: SdxlParts) -> State:
    unet, vae, first, second = parts
    state = ldm.to_ldm(unet.state_dict(), vae.state_dict(), {})
    state |= {ldm.CLIP_L + key: value for key, value in first.state_dict().items()}
    return state | to_open_clip(second, ldm.CLIP_G, second.config.num_hidden_layers)


def to_open_clip(text_encoder: nn.Module, prefix: str, blocks: int) -> State:
    """The names and fused projections of OpenCLIP, with what its files carry and nobody uses.

    A block more than the model has holds a copy of its first.
    """
    state = {key.removeprefix("text_model."): value for key, value in text_encoder.state_dict().items()}
    layers = text_encoder.config.num_hidden_layers
    projection = state.get("text_projection.weight")
    width = text_encoder.config.hidden_size
    fused = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "text_projection": torch.randn(width, width) if projection is None else projection.T.contiguous(),
        "logit_scale": torch.tensor(4.6),
    }
    layer_names = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    for kind in ("weight", "bias"):
        fused[f"ln_final.{kind}"] = state[f"final_layer_norm.{kind}"]
        for block in range(blocks):
            ours, theirs = f"encoder.layers.{block % layers}.", f"transformer.resblocks.{block}."
            attention = [state[f"{ours}self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            fused[f"{theirs}attn.in_proj_{kind}"] = torch.cat(attention)
            fused[f"{theirs}attn.out_proj.{kind}"] = state[f"{ours}self_attn.out_proj.{kind}"].clone()
            for name, open_clip_name in layer_names.items():
                fused[f"{theirs}{open_clip_name}.{kind}"] = state[f"{ours}{name}.{kind}"].clone()
    return {prefix + key: value for key, value in fused.items()}
