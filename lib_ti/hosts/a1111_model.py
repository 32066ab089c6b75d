"""What AUTOMATIC1111's WebUI has loaded: its family, its text encoders, whether it can be trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lib_ti.core.errors import BadInput
from lib_ti.formats.content import content_of
from lib_ti.formats.embedding import Family
from lib_ti.formats.quantised import refuse_packed, refuse_scaled
from lib_ti.formats.streaming import open_tensors
from lib_ti.hosts.base import Conditioning, ModelInfo
from lib_ti.networks.layers import Parts
from lib_ti.networks.names import PARTS

# The WebUI's classes of text encoders, in a checkpoint's order. Not told by its flags alone, which call
# a model with another encoder SD1, and the SDXL refiner SDXL.
_FAMILIES: Mapping[tuple[str, ...], Family] = {
    ("FrozenCLIPEmbedderWithCustomWords",): "sd1",
    ("FrozenOpenCLIPEmbedderWithCustomWords",): "sd2",
    ("FrozenCLIPEmbedderForSDXLWithCustomWords", "FrozenOpenCLIPEmbedder2WithCustomWords"): "sdxl",
}
_MASK_CHANNELS = 1


def text_models(model: Any) -> list[Any]:
    """The WebUI's wrappers of the text encoders; those of SDXL stand among embedders of sizes."""
    from modules.sd_hijack_clip import TextConditionalModel

    text = model.cond_stage_model
    return [part for part in getattr(text, "embedders", [text]) if isinstance(part, TextConditionalModel)]


def family_of(model: Any) -> Family | None:
    """None for a family that cannot be trained here."""
    family = _FAMILIES.get(tuple(type(text).__name__ for text in text_models(model)))
    return family if family and getattr(model, f"is_{family}") else None


def parts_of(model: Any, family: Family) -> Parts:
    """The living U-Net and text encoders, whose layers a network changes."""
    # OpenCLIP's wrapper keeps its model under another name than transformers' does.
    texts = [getattr(text.wrapped, "transformer", None) or text.wrapped.model for text in text_models(model)]
    return dict(zip(PARTS[family], (model.model.diffusion_model, *texts), strict=True))


def token_layers(model: Any) -> dict[str, Any]:
    """Text encoder name -> the layer where the WebUI puts embeddings among the tokens."""
    from modules.sd_hijack import EmbeddingsWithFixes

    layers = [part for part in model.cond_stage_model.modules() if isinstance(part, EmbeddingsWithFixes)]
    # The key of SD2's is that of SD1's.
    return {"clip_h" if model.is_sd2 else layer.textual_inversion_key: layer for layer in layers}


def wants_mask(model: Any) -> bool:
    """Made for inpainting: the U-Net also reads a mask and the latents of what it leaves of the picture."""
    return model.is_sdxl_inpaint or model.model.conditioning_key == "hybrid"


def read_info(model: Any) -> ModelInfo:
    """Raises BadInput for a model that cannot be trained."""
    from modules import devices, processing

    family = _require_trainable(model)
    checkpoint = model.sd_checkpoint_info
    return ModelInfo(
        name=checkpoint.name_for_extra,
        sha256=checkpoint.sha256 or "",
        family=family,
        prediction=model.parameterization,
        # The model's other buffers are rounded to its precision, and settings change alphas_cumprod.
        alphas_cumprod=model.alphas_cumprod_original.detach().float().cpu(),
        text_encoders={name: layer.wrapped.weight.shape[1] for name, layer in token_layers(model).items()},
        latent_channels=model.latent_channels,
        latent_scale=float(model.scale_factor),
        pixels_per_latent=processing.opt_f,
        native_size=_native_latents(model, family) * processing.opt_f,
        device=torch.device(devices.device),
        dtype=next(model.model.parameters()).dtype,
    )


def _native_latents(model: Any, family: Family) -> int:
    """The side of the latents that the model was trained on."""
    if family == "sdxl":
        return 128
    # Stability's own .yaml says 64 of the model they trained at 768 pixels.
    return 96 if family == "sd2" and model.parameterization == "v" else model.image_size


def _require_trainable(model: Any) -> Family:
    if model is None:
        raise BadInput("The WebUI has no checkpoint loaded; choose one at the top of its page and try again.")
    name, family = model.sd_checkpoint_info.name_for_extra, family_of(model)
    if family is None:
        raise BadInput(
            f"The checkpoint {name} is none of SD 1.x, SD 2.x and SDXL (base), the families that can be "
            "trained here; choose another one."
        )
    mask = _MASK_CHANNELS + model.latent_channels if wants_mask(model) else 0
    channels = model.model.diffusion_model.in_channels
    if (
        model.model.conditioning_key not in ("crossattn", "hybrid")
        or channels != model.latent_channels + mask
    ):
        raise BadInput(
            f"The checkpoint {name} wants more than a prompt and a mask (it is made for depth, editing, "
            "upscaling or variations); choose a plain one or one for inpainting."
        )
    if model.parameterization not in ("eps", "v"):
        raise BadInput(
            f"The checkpoint {name} predicts {model.parameterization!r}; only eps and v can be trained."
        )
    refuse_quantised(Path(model.sd_checkpoint_info.filename))
    return family


def refuse_quantised(file: Path) -> None:
    """Raises BadInput where the weights are not plain: the WebUI takes what is stored for them."""
    if file.is_file() and content_of(file)[0] == "safetensors":
        plan = open_tensors(file).plan
        refuse_packed(file, plan)
        refuse_scaled(file, plan, "the WebUI does not apply: choose a checkpoint that is not quantised")


def refuse_conditioning(conditioning: Conditioning) -> None:
    """Raises BadInput for what the WebUI does not do, by the setting's name."""
    asked = {
        "emphasis sd-scripts": conditioning.emphasis == "sd-scripts",
        "max-token-length": bool(conditioning.max_token_length),
        "size-conditioning sd-scripts": conditioning.own_sizes,
    }
    for setting, wanted in asked.items():
        if wanted:
            raise BadInput(
                f"{setting}: the WebUI's own text encoding and sizes cannot do that; leave it out, or train "
                "on the command line, python studio.py train."
            )


def refuse_memory_settings() -> None:
    """Raises BadInput where the WebUI was started with --lowvram or keeps weights in 8 bits."""
    from modules import devices, shared

    if shared.cmd_opts.lowvram:
        raise BadInput(
            "The WebUI was started with --lowvram, which keeps no two layers of the U-Net in reach at once; "
            "start it with --medvram to train."
        )
    if devices.fp8:
        raise BadInput(
            "The weights are kept in 8 bits, through which no gradient flows; "
            'set "FP8 weight" to Disable under Settings, Optimizations, to train.'
        )
