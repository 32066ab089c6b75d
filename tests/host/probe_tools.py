"""Runs inside a real WebUI: what the probe's scripts share."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

import ldm.modules.attention
import ldm.modules.diffusionmodules.model
import networks  # the built-in Lora's
import numpy as np
import sgm.modules.attention
import sgm.modules.diffusionmodules.model
import torch
from modules import processing, sd_hijack, sd_unet, sd_vae, shared

from lib_ti.hosts.a1111 import A1111Host
from lib_ti.hosts.a1111_model import text_models
from lib_ti.hosts.base import SampleRequest

CHECKS: dict[str, Callable[..., Any]] = {}


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    CHECKS[function.__name__] = function
    return function


def digest(*tensors: torch.Tensor) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


ATTENTION = (
    ldm.modules.attention.CrossAttention,
    ldm.modules.diffusionmodules.model.AttnBlock,
    sgm.modules.attention.CrossAttention,
    sgm.modules.diffusionmodules.model.AttnBlock,
)


def surroundings() -> dict[str, Any]:
    """Everything that a job might disturb, by value or by identity."""
    model, hijack = shared.sd_model, sd_hijack.model_hijack
    database = hijack.embedding_db
    state = {k: v for k, v in vars(shared.state).items() if k not in ("time_start", "id_live_preview")}
    return {
        "weights": digest(*model.state_dict().values()),
        "strides": [p.stride() for p in model.parameters()],
        "flags": [p.requires_grad for p in model.parameters()],
        "grads": [p.grad is None for p in model.parameters()],
        "devices": {str(p.device) for p in model.parameters()},
        "apply_model": id(type(model).apply_model),
        "attention": [id(kind.forward) for kind in ATTENTION],
        "model": id(model),
        "text": id(model.cond_stage_model),
        "text encoders": [(id(text), text.is_trainable, sorted(vars(text))) for text in text_models(model)],
        "forwards": [id(vars(m).get("forward")) for m in model.modules()],
        "hooks": [(id(m._forward_pre_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "vae's own": sorted(vars(model.first_stage_model)),
        "token merging": getattr(model, "applied_token_merged_ratio", 0),
        "hijack": {name: id(value) for name, value in vars(hijack).items()},
        "hijack's words": (str(hijack.comments), str(hijack.extra_generation_params)),
        "tiling": {m.padding_mode for m in model.modules() if isinstance(m, torch.nn.Conv2d)},
        "database": sorted(vars(database)),
        "embeddings": {name: id(e) for name, e in database.word_embeddings.items()},
        "lookup": {k: [(ids, id(e)) for ids, e in v] for k, v in database.ids_lookup.items()},
        "hypernetworks": (id(shared.loaded_hypernetworks), list(map(id, shared.loaded_hypernetworks))),
        "loras": (id(networks.loaded_networks), list(map(id, networks.loaded_networks))),
        "unet": (id(sd_unet.current_unet_option)),
        "vae": sd_vae.loaded_vae_file,
        "options": dict(shared.opts.data),
        "command line": dict(vars(shared.cmd_opts)),
        "state": {name: str(value) for name, value in state.items()},
        "random": (
            str(random.getstate()),
            str(np.random.get_state()),  # noqa: NPY002
            digest(torch.get_rng_state()),
        ),
    }


def caches() -> list[Any]:
    txt2img = processing.StableDiffusionProcessingTxt2Img
    return [txt2img.cached_c, txt2img.cached_uc, txt2img.cached_hr_c, txt2img.cached_hr_uc]


def request(prompt: str, seed: int = 3) -> SampleRequest:
    return SampleRequest([prompt, prompt], [seed, seed + 1], steps=3, width=64, height=64)


def live(host: A1111Host, seed: int = 0) -> dict[str, torch.Tensor]:
    """Two vectors for each text encoder, as leaves."""
    generator = torch.Generator().manual_seed(seed)
    widths = host.info.text_encoders
    return {
        name: (torch.randn(2, width, generator=generator) * 0.02).requires_grad_()
        for name, width in widths.items()
    }


def pixels_of(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(image))


def noise_of(host: A1111Host, prompt: str = "a red star") -> torch.Tensor:
    """The U-Net's answer to a fixed question."""
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    return host.predict_noise(latents, torch.tensor([500]), host.encode_prompts([prompt]))
