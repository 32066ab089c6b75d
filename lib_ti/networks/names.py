"""How networks of the LoRA family name the layers of a model, whatever layout the model has.

A name is that of sd-scripts: a prefix for the part, then the layer's path with underscores; the path is
diffusers' for SD1 and SD2 and the original one (LDM) for SDXL's U-Net, transformers' for every text
encoder. ``name_weights`` tells the names of the weights of one part from their keys and shapes, so that
it serves living modules and checkpoint files alike.
Sources: kohya-ss/sd-scripts networks/lora.py; LDM and OpenCLIP layouts as in ``formats.ldm``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lib_ti.formats import ldm
from lib_ti.formats.family import Family

Part = Literal["unet", "te", "te1", "te2"]
Kind = Literal["linear", "conv1x1", "conv", "norm"]
# Which networks cover a layer: LierLa those of the transformer blocks, C3Lier also those of the residual
# blocks and between resolutions; "full": the others, which LyCORIS' full preset and its like reach.
Scope = Literal["lierla", "c3lier", "full"]

PREFIXES: Mapping[Part, str] = {
    "unet": "lora_unet",
    "te": "lora_te",
    "te1": "lora_te1",
    "te2": "lora_te2",
}
PARTS: Mapping[Family, tuple[Part, ...]] = {
    "sd1": ("unet", "te"),
    "sd2": ("unet", "te"),
    "sdxl": ("unet", "te1", "te2"),
}
BLOCKS: Mapping[Family, int] = {"sd1": 25, "sd2": 25, "sdxl": 23}  # of sd-scripts' block weights

_OPEN_CLIP_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_OPEN_CLIP_NAMES = {
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
}
_CLIP_PATH = re.compile(r"(?:text_model\.)?(encoder\.layers\.(\d+)\..+|final_layer_norm)")


@dataclass(frozen=True)
class NamedWeight:
    """A weight that a network can change. ``block``: its place among sd-scripts' 25 blocks of the U-Net
    (SDXL: 23), None in a text encoder. ``rows``: where it stands in a fused weight, None for all of it."""

    name: str
    part: Part
    kind: Kind
    scope: Scope
    block: int | None
    key: str  # as it was given
    rows: slice | None = None


def name_weights(shapes: Mapping[str, Sequence[int]], part: Part, family: Family) -> Iterator[NamedWeight]:
    """The named weights of one part, whose parameters are named and shaped as ``shapes`` says.

    A U-Net may have diffusers' layout or LDM's, a text encoder transformers' or OpenCLIP's.
    """
    return _unet_weights(shapes, family) if part == "unet" else _text_weights(shapes, part, family)


def _kind(shape: Sequence[int]) -> Kind:
    if len(shape) == 4:
        return "conv1x1" if tuple(shape[2:]) == (1, 1) else "conv"
    return "linear" if len(shape) == 2 else "norm"


def layer_name(part: Part, path: str) -> str:
    """``path``: with dots, in the layout that the names of the family follow."""
    return f"{PREFIXES[part]}_{path.replace('.', '_')}"


def _unet_weights(shapes: Mapping[str, Sequence[int]], family: Family) -> Iterator[NamedWeight]:
    to_ldm = ldm.unet_names(shapes)
    to_diffusers = {theirs: ours for ours, theirs in to_ldm.items()}
    is_ldm = any(key.startswith("input_blocks.") for key in shapes)
    for key, shape in shapes.items():
        path, _, attribute = key.rpartition(".")
        other = translated(path, to_diffusers if is_ldm else to_ldm)
        if attribute != "weight" or other is None:
            continue
        diffusers, original = (other, path) if is_ldm else (path, other)
        kind = _kind(shape)
        yield NamedWeight(
            name=layer_name("unet", original if family == "sdxl" else diffusers),
            part="unet",
            kind=kind,
            scope=_unet_scope(diffusers, kind),
            block=_block(original, family),
            key=key,
        )


def translated(path: str, modules: Mapping[str, str], dot: str = ".") -> str | None:
    """``path`` with its longest beginning that is in ``modules`` replaced; None where there is none."""
    start = path
    while start:
        if start in modules:
            return modules[start] + path[len(start) :]
        start = start.rpartition(dot)[0]
    return None


def _unet_scope(path: str, kind: Kind) -> Scope:
    if kind == "norm":
        return "full"
    if ".attentions." in path:
        return "lierla"
    beside = any(f".{group}." in path for group in ("resnets", "downsamplers", "upsamplers"))
    return "c3lier" if beside else "full"


def _block(path: str, family: Family) -> int:
    """``path``: LDM's."""
    first, number, *_ = path.split(".")
    sdxl = family == "sdxl"
    if first == "input_blocks":
        return int(number) + sdxl
    if first == "middle_block":
        return 10 + int(number) if sdxl else 12
    if first == "output_blocks":
        return 13 + int(number)
    return BLOCKS[family] - 1 if first == "out" else 0


def _text_weights(shapes: Mapping[str, Sequence[int]], part: Part, family: Family) -> Iterator[NamedWeight]:
    used = _used_blocks(shapes, family)
    for key, shape in shapes.items():
        if match := _OPEN_CLIP_BLOCK.fullmatch(key):
            if int(match[1]) < used:
                yield from _open_clip_weights(match, shape, part)
            continue
        path, _, attribute = key.rpartition(".")
        path = {"ln_final": "final_layer_norm"}.get(path, path)
        if attribute != "weight":
            continue
        if found := _CLIP_PATH.fullmatch(path):
            if int(found[2] or 0) < used:
                yield _text_weight(part, f"text_model.{found[1]}", shape, key)
        elif path == "text_projection":
            yield _text_weight(part, path, shape, key)


def _used_blocks(shapes: Mapping[str, Sequence[int]], family: Family) -> int:
    """SD2 listens to OpenCLIP's last block but one, and trainers leave the last one out. Where that goes by
    transformers' names it may be gone already."""
    if family != "sd2":
        return sys.maxsize
    last = max((int(match[1]) for key in shapes if (match := _OPEN_CLIP_BLOCK.fullmatch(key))), default=None)
    return ldm.SD2_TEXT_BLOCKS if last is None else last


def _open_clip_weights(match: re.Match[str], shape: Sequence[int], part: Part) -> Iterator[NamedWeight]:
    """Of one key of a residual block: three where the attention's projections are fused."""
    block = f"text_model.encoder.layers.{match[1]}"
    path, _, attribute = match[2].rpartition(".")
    if match[2] == "attn.in_proj_weight":
        third = shape[0] // 3
        for place, letter in enumerate("qkv"):
            rows = slice(place * third, (place + 1) * third)
            yield _text_weight(part, f"{block}.self_attn.{letter}_proj", shape, match[0], rows)
    elif attribute == "weight" and path in _OPEN_CLIP_NAMES:
        yield _text_weight(part, f"{block}.{_OPEN_CLIP_NAMES[path]}", shape, match[0])


def _text_weight(
    part: Part, path: str, shape: Sequence[int], key: str, rows: slice | None = None
) -> NamedWeight:
    kind = _kind(shape)
    inside = ".self_attn." in path or ".mlp." in path
    scope: Scope = "lierla" if inside and kind != "norm" else "full"
    return NamedWeight(layer_name(part, path), part, kind, scope, None, key, rows)
