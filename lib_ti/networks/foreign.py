"""What is no network for Stable Diffusion, or of no algorithm that is supported here, by its own name.

Sources of the keys: kohya-ss/sd-scripts networks/oft.py, LyCORIS lycoris/modules, huggingface/peft
src/peft/tuners, OneTrainer modules/module/LoRAModule.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

SUPPORTED = "LoRA (LoCon, DyLoRA), LoHa, LoKr, (IA)3, full and norm, each with DoRA"

# How a key ends or what it holds -> the algorithm.
_ALGORITHMS: Sequence[tuple[str, str]] = (
    (r"(^|[._])oft_unet_|(^|[._])oft_te\d?_", "OFT (sd-scripts)"),
    (r"(^|\.)(oft_blocks|oft_diag)$", "diag-OFT or BOFT (LyCORIS)"),
    (r"(^|\.)boft_[Rs](\.|$)", "BOFT (PEFT)"),
    (r"(^|\.)oft_[rR](\.|$)", "OFT (PEFT, OneTrainer)"),
    (r"(^|\.)(a1|a2|b1|b2|bm)\.weight$", "GLoRA"),
    (r"(^|\.)vera_(A|B|lambda_[bd])(\.|$)", "VeRA"),
    (r"(^|\.)ia3_l(\.|$)", "(IA)3 as PEFT writes it"),
    (r"(^|\.)lora_E(\.|$)", "AdaLoRA"),
    (r"(^|\.)(hra_u)(\.|$)", "HRA"),
    (r"(^|\.)(bone_|miss_)\w*(\.|$)", "MiSS (Bone)"),
    (r"(^|\.)fourierft_spectrum(\.|$)", "FourierFT"),
    (r"(^|\.)randlora_\w+(\.|$)", "RandLoRA"),
    (r"(^|\.)vblora_\w+(\.|$)", "VB-LoRA"),
    (r"(^|\.)delora_\w+(\.|$)", "DeLoRA"),
    (r"(^|\.)c3a_kernel(\.|$)", "C3A"),
    (r"(^|\.)shira_\w+(\.|$)", "SHiRA"),
    (r"(^|\.)road_\w+(\.|$)", "RoAd"),
)
_COMPILED = tuple((re.compile(pattern), name) for pattern, name in _ALGORITHMS)


def algorithm_of(keys: Iterable[str]) -> str | None:
    """Which unsupported algorithm one of ``keys``, whole or what follows a layer's name, belongs to."""
    keys = list(keys)
    return next((name for pattern, name in _COMPILED if any(map(pattern.search, keys))), None)


_OF_A_NETWORK = re.compile(r"[._](lora|hada|lokr|oft|alpha|dora|diff)", re.IGNORECASE)
_START = re.compile(
    r"(?:lora_unet|lora_te\d?|lora_transformer|lycoris(?:_unet|_te\d?)?|oft_unet)_"
    r"|base_model\.model\.|(?:model\.)?diffusion_model\.|unet\.|transformer\.|text_encoders?(?:_\d)?\."
)
# How the path of a layer begins, with underscores -> the model. The first that is met counts.
_MODELS = (
    (
        r"(txt_in_)?individual_token_refiner|(double|single)_blocks_\d+_\w*(mlp_fc\d|mod_linear)",
        "Hunyuan Video",
    ),
    (r"distilled_guidance_layer", "Chroma"),
    (r"(double|single)_stream_blocks_\d", "HiDream"),
    (r"(double|single)_blocks_\d", "Flux"),
    (r"joint_transformer_blocks_\d|(double|single)_layers_\d", "AuraFlow"),
    (r"single_transformer_blocks_\d", "Flux"),
    (r"joint_blocks_\d", "SD3"),
    (r"transformer_blocks_\d+_(img|txt)_(mlp|mod)", "Qwen-Image"),
    (r"transformer_blocks_\d+_(attn2?_add_|attn2?_to_add_|ff_context|norm1_context)", "SD3 or Qwen-Image"),
    (r"(down|up)_blocks_\d+_\d+_(channelwise|depthwise|mapper|attention|kv_mapper)", "Stable Cascade"),
    (r"blocks_\d+_(attn_(qkv|proj)|cross_attn_(q|kv)_linear)", "PixArt"),
    (r"blocks_\d+_((self|cross)_attn_(norm_)?[qkvo](_img)?(_|$)|attn\d_to_|ffn_)", "Wan"),
    (r"blocks_\d+_attn\d?_(Wqkv|q_proj|kv_proj)", "Hunyuan DiT"),
    (r"(layers|noise_refiner|context_refiner)_\d+_attention_to_", "Z-Image"),
    (r"(layers|noise_refiner|context_refiner)_\d+_(attention_|attn_|feed_forward)", "Lumina 2 or Z-Image"),
    (r"transformer_blocks_\d", "a transformer such as PixArt, Sana or LTX-Video"),
    (r"(down|up)_blocks_\d+_motion_modules", "AnimateDiff"),
    (r"encoder_hid_proj|\w*self_attention_query_key_value", "Kolors"),
    (r"(text_model_)?encoder_block_\d+_layer_\d+_", "SD3 or Flux (its T5 text encoder)"),
)
_PATHS = tuple((re.compile(pattern), name) for pattern, name in _MODELS)
# What trainers write of the model that a network is for.
_VERSIONS = (
    (r"flux", "Flux"),
    (r"chroma", "Chroma"),
    (r"sd_?3|stable-diffusion-v?3", "SD3"),
    (r"stable-?cascade", "Stable Cascade"),
    (r"hunyuan-?_?video|framepack", "Hunyuan Video"),
    (r"hunyuan", "Hunyuan DiT"),
    (r"wan", "Wan"),
    (r"lumina", "Lumina 2"),
    (r"z-?_?image", "Z-Image"),
    (r"qwen", "Qwen-Image"),
    (r"aura-?_?flow", "AuraFlow"),
    (r"pixart", "PixArt"),
    (r"kolors", "Kolors"),
    (r"hidream", "HiDream"),
)


def model_of(keys: Iterable[str], metadata: Mapping[str, str]) -> str | None:
    """The model other than Stable Diffusion 1.x, 2.x and SDXL that a network is for; None where it may be for
    one of these, or where ``keys`` are of no network."""
    keys = list(keys)
    if not any(map(_OF_A_NETWORK.search, keys)):
        return None
    paths = {_START.sub("", key, count=1).replace(".", "_") for key in keys}
    for pattern, name in _PATHS:
        if any(map(pattern.match, paths)):
            return name
    told = (metadata.get("ss_base_model_version"), metadata.get("modelspec.architecture"))
    versions = [version.lower() for version in told if version]
    return next((name for start, name in _VERSIONS for v in versions if re.match(start, v)), None)
