"""The layout of original Stable Diffusion checkpoints (CompVis' latent-diffusion, "LDM").

diffusers names modules by level and place (``down_blocks.1.resnets.0``); LDM numbers one flat list
(``input_blocks.4.0``). The tables below follow from the block plan, which the key names tell.
Source: ldm/modules/diffusionmodules/{openaimodel,model}.py and v1-inference.yaml of CompVis, and for
SDXL their successors in Stability's generative-models ("SGM") with sd_xl_base.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import yaml

from lib_ti.core.errors import BadInput

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."  # SD1: transformers' CLIPTextModel, under its own names
OPEN_CLIP = "cond_stage_model.model."  # SD2: the text tower of OpenCLIP's ViT-H
CLIP_L = "conditioner.embedders.0.transformer."  # SDXL's first: as SD1's
CLIP_G = "conditioner.embedders.1.model."  # SDXL's second: the text tower of OpenCLIP's ViT-bigG

SD2_TEXT_BLOCKS = 23  # of ViT-H's 24: SD2 conditions on the last but one

# Metadata of our own `.safetensors`: the text encoders' number of heads. No tensor's shape tells it,
# and the `.yaml` has no place for it; without it, heads are 64 wide as in every CLIP ever released.
CLIP_HEADS = "clip_num_attention_heads"

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",  # SDXL: what the pooled prompt and the sizes go through
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "mid_block.attentions.0": "middle_block.1",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "nin_shortcut",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def _count(names: Iterable[str], before: str) -> int:
    """How many different numbers follow ``before`` (a regular expression)."""
    return len({match[1] for name in names if (match := re.match(rf"{before}\.(\d+)\.", name))})


def _inside(modules: Mapping[str, str], parts: Mapping[str, str]) -> dict[str, str]:
    """The parts of every module, under their full names."""
    return {
        f"{module}.{part}": f"{ldm}.{ldm_part}"
        for module, ldm in modules.items()
        for part, ldm_part in parts.items()
    }


@dataclass(frozen=True)
class _UnetPlan:
    layers: int  # residual blocks of a level on the way down
    attended: tuple[bool, ...]  # of each level on the way up: whether it attends to the prompt


def _unet_plan(keys: Sequence[str]) -> _UnetPlan:
    """Of a U-Net whose parameters are named ``keys``, in either layout."""
    downsamplers = [int(key.split(".")[1]) for key in keys if key.endswith(".0.op.weight")]
    if not downsamplers:
        attends = [f"up_blocks.{level}.attentions." for level in range(_count(keys, "up_blocks"))]
        layers = _count(keys, r"down_blocks\.0\.resnets")
    else:
        levels, step = len(downsamplers) + 1, min(downsamplers)
        attends = [f"output_blocks.{step * level}.1.norm." for level in range(levels)]
        layers = step - 1
    return _UnetPlan(layers, tuple(any(key.startswith(start) for key in keys) for start in attends))


def unet_names(keys: Iterable[str]) -> dict[str, str]:
    """diffusers' module names -> LDM's, of the U-Net whose parameters have the names ``keys`` in either."""
    plan = _unet_plan(list(keys))
    layers = plan.layers
    names = dict(_UNET_ENDS)
    resnets = {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
    for level, attends in enumerate(plan.attended):
        first = level * (layers + 1)
        for i in range(layers):  # input_blocks.0 is conv_in
            resnets[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{first + i + 1}.0"
            names[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{first + i + 1}.1"
        names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{first + layers + 1}.0.op"
        for i in range(layers + 1):
            resnets[f"up_blocks.{level}.resnets.{i}"] = f"output_blocks.{first + i}.0"
            names[f"up_blocks.{level}.attentions.{i}"] = f"output_blocks.{first + i}.1"
        upsampler = f"output_blocks.{first + layers}.{2 if attends else 1}.conv"
        names[f"up_blocks.{level}.upsamplers.0.conv"] = upsampler
    return names | _inside(resnets, _UNET_RESNET)


def vae_names(keys: Iterable[str]) -> dict[str, str]:
    """diffusers' module names -> LDM's, of the AutoencoderKL whose parameters are named ``keys``."""
    keys = list(keys)
    layers = _count(keys, r"encoder\.down_blocks\.0\.resnets")
    levels = _count(keys, r"encoder\.down_blocks")
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    resnets: dict[str, str] = {}
    attentions: dict[str, str] = {}
    for half in ("encoder", "decoder"):
        names |= {f"{half}.conv_in": f"{half}.conv_in", f"{half}.conv_out": f"{half}.conv_out"}
        names[f"{half}.conv_norm_out"] = f"{half}.norm_out"
        resnets |= {f"{half}.mid_block.resnets.{i}": f"{half}.mid.block_{i + 1}" for i in range(2)}
        attentions[f"{half}.mid_block.attentions.0"] = f"{half}.mid.attn_1"
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{level}"
        # LDM numbers both halves by resolution, the largest first; diffusers in order of execution.
        ldm_down, ldm_up = f"encoder.down.{level}", f"decoder.up.{levels - 1 - level}"
        resnets |= {f"{down}.resnets.{i}": f"{ldm_down}.block.{i}" for i in range(layers)}
        resnets |= {f"{up}.resnets.{i}": f"{ldm_up}.block.{i}" for i in range(layers + 1)}
        names[f"{down}.downsamplers.0.conv"] = f"{ldm_down}.downsample.conv"
        names[f"{up}.upsamplers.0.conv"] = f"{ldm_up}.upsample.conv"
    return names | _inside(resnets, _VAE_RESNET) | _inside(attentions, _VAE_ATTENTION)


def _renamed(state: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    known = re.compile(rf"({'|'.join(map(re.escape, names))})(\..+)")
    renamed = {}
    for key, tensor in state.items():
        match = known.fullmatch(key)
        if match is None:
            raise BadInput(f"{key!r} has no place in an original checkpoint: its plan has no such module.")
        renamed[names[match[1]] + match[2]] = tensor
    return renamed


def to_ldm(
    unet: Mapping[str, torch.Tensor],
    vae: Mapping[str, torch.Tensor],
    text_encoder: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """State dicts of UNet2DConditionModel, AutoencoderKL and CLIPTextModel (CLIP-L) as one of LDM.

    The tensors are shared, not copied. Raises BadInput at a parameter that SD1's plan does not have.
    """
    first_stage = _renamed(vae, vae_names(vae))
    for key, tensor in first_stage.items():
        if re.search(r"\.attn_1\.\w+\.weight$", key) and tensor.ndim == 2:
            first_stage[key] = tensor[:, :, None, None]  # Linear in diffusers, 1x1 convolution in LDM
    parts = {UNET: _renamed(unet, unet_names(unet)), VAE: first_stage, CLIP: text_encoder}
    return {prefix + key: tensor for prefix, state in parts.items() for key, tensor in state.items()}


Shapes = Mapping[str, Sequence[int]]
Prediction = Literal["eps", "v"]
SGM_SCALINGS: Mapping[Prediction, str] = {"eps": "EpsScaling", "v": "VScaling"}


def _unet_config(shapes: Shapes, heads: int = 8) -> dict[str, Any]:
    sizes = {key[len(UNET) :]: shape for key, shape in shapes.items() if key.startswith(UNET)}
    downsamplers = [int(key.split(".")[1]) for key in sizes if key.endswith(".0.op.weight")]
    step = min(downsamplers)  # input_blocks per level: the residual blocks and the downsampler
    blocks = [1 + step * level for level in range(len(downsamplers) + 1)]
    attended = [level for level, block in enumerate(blocks) if f"input_blocks.{block}.1.norm.weight" in sizes]
    channels = sizes["input_blocks.0.0.weight"][0]
    attention = f"input_blocks.{blocks[attended[0]]}.1"
    linear = len(sizes[f"{attention}.proj_in.weight"]) == 2  # SD2 and SDXL
    widths = [sizes[f"input_blocks.{block}.0.out_layers.3.bias"][0] for block in blocks]
    depths = [max(1, _count(sizes, rf"input_blocks\.{block}\.1\.transformer_blocks")) for block in blocks]
    label = sizes.get("label_emb.0.0.weight")  # SDXL
    return {
        "image_size": 32,  # read by nobody; v1-inference.yaml has it
        "in_channels": sizes["input_blocks.0.0.weight"][1],
        "out_channels": sizes["out.2.weight"][0],
        "model_channels": channels,
        "attention_resolutions": sorted((2**level for level in attended), reverse=True),
        "num_res_blocks": step - 1,
        "channel_mult": [width // channels for width in widths],
        **({"num_head_channels": 64} if linear else {"num_heads": heads}),
        "use_spatial_transformer": True,
        **({"use_linear_in_transformer": True} if linear else {}),
        "transformer_depth": depths if max(depths) > 1 else 1,
        "context_dim": sizes[f"{attention}.transformer_blocks.0.attn2.to_k.weight"][1],
        **({} if label is None else {"num_classes": "sequential", "adm_in_channels": label[1]}),
        "use_checkpoint": False,
        "legacy": False,
    }


def _vae_config(shapes: Shapes, image_size: int) -> dict[str, Any]:
    encoder = f"{VAE}encoder."
    levels = _count(shapes, re.escape(f"{encoder}down"))
    channels = shapes[f"{encoder}conv_in.weight"][0]
    widths = [shapes[f"{encoder}down.{level}.block.0.conv2.bias"][0] for level in range(levels)]
    return {
        "embed_dim": shapes[f"{VAE}post_quant_conv.weight"][1],
        "monitor": "val/rec_loss",
        "ddconfig": {
            "double_z": True,
            "z_channels": shapes[f"{VAE}decoder.conv_in.weight"][1],
            "resolution": image_size << (levels - 1),
            "in_channels": shapes[f"{encoder}conv_in.weight"][1],
            "out_ch": shapes[f"{VAE}decoder.conv_out.weight"][0],
            "ch": channels,
            "ch_mult": [width // channels for width in widths],
            "num_res_blocks": _count(shapes, re.escape(f"{encoder}down.0.block")),
            "attn_resolutions": [],
            "dropout": 0.0,
        },
        "lossconfig": {"target": "torch.nn.Identity"},
    }


def ldm_config(
    shapes: Shapes,
    *,
    heads: int = 8,
    image_size: int = 64,
    parameterization: Prediction = "eps",
    clip_version: str = "openai/clip-vit-large-patch14",
) -> dict[str, Any]:
    """What v1-inference.yaml (v2-inference.yaml for OpenCLIP) would say of a checkpoint.

    ``shapes``: the shape of each tensor by its LDM name. What no shape tells is an argument:
    ``heads`` of each attention of SD1's U-Net, ``image_size`` in latents, ``clip_version`` the hub
    id or folder from which a WebUI takes tokenizer and config of SD1's text encoder.
    Raises KeyError at the first tensor that the plan needs and ``shapes`` lacks.
    """
    open_clip = any(key.startswith(OPEN_CLIP) for key in shapes)
    params = {
        "parameterization": parameterization,
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "timesteps": 1000,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": image_size,
        "channels": shapes[f"{VAE}post_quant_conv.weight"][1],
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "monitor": "val/loss_simple_ema",
        "scale_factor": 0.18215,
        "use_ema": False,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": _unet_config(shapes, heads),
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": _vae_config(shapes, image_size),
        },
        "cond_stage_config": {
            "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
            "params": {"freeze": True, "layer": "penultimate"},
        }
        if open_clip
        else {
            "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
            "params": {"version": clip_version},
        },
    }
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}


def sgm_config(
    shapes: Shapes, *, image_size: int = 128, parameterization: Prediction = "eps"
) -> dict[str, Any]:
    """What sd_xl_base.yaml would say of an SDXL checkpoint, without the part on its text encoders.

    ``shapes`` and errors as in ``ldm_config``.
    """
    denoiser = "sgm.modules.diffusionmodules.denoiser"
    params = {
        "scale_factor": 0.13025,
        "denoiser_config": {
            "target": f"{denoiser}.DiscreteDenoiser",
            "params": {
                "num_idx": 1000,
                "scaling_config": {"target": f"{denoiser}_scaling.{SGM_SCALINGS[parameterization]}"},
                "discretization_config": {
                    "target": "sgm.modules.diffusionmodules.discretizer.LegacyDDPMDiscretization"
                },
            },
        },
        "network_config": {
            "target": "sgm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": _unet_config(shapes),
        },
        "first_stage_config": {
            "target": "sgm.models.autoencoder.AutoencoderKLInferenceWrapper",
            "params": _vae_config(shapes, image_size),
        },
    }
    return {"model": {"target": "sgm.models.diffusion.DiffusionEngine", "params": params}}


def ldm_yaml(config: Mapping[str, Any]) -> str:
    """``ldm_config``'s answer, or ``sgm_config``'s, as the `.yaml` that is read beside the checkpoint."""
    return yaml.safe_dump(config, sort_keys=False)
