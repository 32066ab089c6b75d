"""The keys of network files -> a layer's name and what the tensor is to it.

Read are the namings of sd-scripts and LyCORIS (``lora_unet_..._to_q.lora_down.weight``), PEFT and
diffusers (``unet....to_q.lora_A.weight``), diffusers' older ones (``.lora.down.``, attention processors)
and ComfyUI's (``diffusion_model....lora_up.weight``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from lib_ti.formats import ldm
from lib_ti.formats.embedding import Family
from lib_ti.networks.names import PARTS, layer_name, translated

Model = Literal["unet", "first text encoder", "second text encoder"]

# LyCORIS' wrapper and old OFT files have prefixes of their own.
_JOINED = re.compile(r"(?:lora|lycoris|oft)_(unet|te1|te2|te)_([^.]+)\.(.+)")
# LyCORIS' wrapper around a U-Net alone, as SimpleTuner writes it.
_WRAPPED = re.compile(r"lycoris_((?:down_blocks|mid_block|up_blocks|conv_|time_|add_)[^.]+)\.(.+)")
_JOINED_MODELS: Mapping[str, Model] = {
    "unet": "unet",
    "te": "first text encoder",
    "te1": "first text encoder",
    "te2": "second text encoder",
}
# The ends of dotted keys; the first that is found tells where the layer's path ends.
_ENDS = (
    r"[._]lora_(?:A|down)(?:\.\w+)?\.weight",
    r"[._]lora_(?:B|up)(?:\.\w+)?\.(?:weight|bias)",
    r"\.lora_mid\.weight",
    r"\.lora_magnitude_vector(?:\.\w+){0,2}",
    r"(?:\.lora|\.lora_linear_layer|_lora)\.(?:down|up)\.weight",
    r"\.(?:alpha|scale|scalar|dora_scale|diff|diff_b|w_norm|b_norm|on_input|hada_\w+|lokr_\w+)",
)
_DOTTED = re.compile(rf"(.+?)({'|'.join(_ENDS)})")
_MODELS: tuple[tuple[str, Model], ...] = (
    (r"unet\.", "unet"),
    (r"(?:model\.)?diffusion_model\.", "unet"),
    (r"text_encoder\.", "first text encoder"),
    (r"text_encoder_2\.", "second text encoder"),
    (r"(?:text_encoders\.)?clip_[lh]\.transformer\.", "first text encoder"),
    (r"(?:text_encoders\.)?clip_g\.transformer\.", "second text encoder"),
    (r"base_model\.model\.(?=text_model\.)", "first text encoder"),
    (r"(?=text_model\.)", "first text encoder"),
    (r"base_model\.model\.", "unet"),
    (r"(?=(?:down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks)\.)", "unet"),
)
# What stood for a projection before attention processors were given up.
_OLD_PROJECTIONS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_SUFFIXES = (
    (
        re.compile(r".*lora_(?:A|down)(?:\.\w+)?\.weight|.*lora(?:_linear_layer)?\.down\.weight"),
        "lora_down.weight",
    ),
    (re.compile(r".*lora_(?:B|up)(?:\.\w+)?\.weight|.*lora(?:_linear_layer)?\.up\.weight"), "lora_up.weight"),
    (re.compile(r".*lora_(?:B|up)(?:\.\w+)?\.bias"), "lora_up.bias"),
    (re.compile(r".*lora_magnitude_vector(?:\.\w+){0,2}"), "lora_magnitude_vector"),
)


@dataclass(frozen=True)
class Key:
    """What a key of a file says. ``path``: with dots, or with underscores where it came so."""

    model: Model
    path: str
    suffix: str  # in sd-scripts' and LyCORIS' words; PEFT's own is "lora_magnitude_vector"


def parse_key(key: str) -> Key | None:
    """None where it is no key of a network."""
    if match := _JOINED.fullmatch(key):
        return Key(_JOINED_MODELS[match[1]], match[2], _suffix(match[3]))
    if match := _WRAPPED.fullmatch(key):
        return Key("unet", match[1], _suffix(match[2]))
    match = _DOTTED.fullmatch(key)
    if match is None:
        return None
    for start, model in _MODELS:
        if found := re.match(start, match[1]):
            path = _modern(match[1][found.end() :], model)
            return Key(model, path, _suffix(match[2].lstrip("._")))
    return None


def _suffix(suffix: str) -> str:
    return next((ours for pattern, ours in _SUFFIXES if pattern.fullmatch(suffix)), suffix)


def _modern(path: str, model: Model) -> str:
    """The path of the module itself, where an attention processor's was given."""
    start, _, last = path.rpartition(".")
    if model != "unet":
        return f"{start}.{_OLD_PROJECTIONS.get(last, last)}" if start.endswith("self_attn") else path
    path = path.replace(".processor.", ".")
    return f"{path}.0" if path.endswith(".to_out") else path


def name_of(key: Key, family: Family) -> str:
    """sd-scripts' name of the layer, whatever layout the key's path is of."""
    first, *others = PARTS[family][1:]
    if key.model == "first text encoder":
        return layer_name(first, key.path)
    if key.model == "second text encoder":
        return layer_name(others[0] if others else "te2", key.path)
    path = key.path.replace(".", "_")
    return layer_name("unet", translated(path, _standard_paths(family), "_") or path)


@lru_cache
def _standard_paths(family: Family) -> Mapping[str, str]:
    """With underscores: the other layout's path of a U-Net module -> that which the family's names follow.

    For the released models' plan: two residual blocks a level, four levels (SDXL three).
    """
    attends = (True, True, False) if family == "sdxl" else (False, True, True, True)
    keys = [f"down_blocks.0.resnets.{i}.conv1.weight" for i in range(2)]
    keys += [
        f"up_blocks.{level}.{'attentions.0.norm' if attended else 'resnets.0.norm1'}.weight"
        for level, attended in enumerate(attends)
    ]
    pairs = [
        (ours.replace(".", "_"), theirs.replace(".", "_")) for ours, theirs in ldm.unet_names(keys).items()
    ]
    return dict(pairs) if family == "sdxl" else {theirs: ours for ours, theirs in pairs}
