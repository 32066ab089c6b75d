"""The family of a network file: by its layers' widths, what its trainer wrote, and its layers' names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from lib_ti.formats.family import Encoder, Family, Sign, context_sign, encoder_sign, family_of, sign
from lib_ti.networks.keys import Key, Model

Shapes = Mapping[str, Sequence[int]]

# Which of a layer's tensors is as wide as what the layer reads, in its last dimension.
_READING = ("lora_down.weight", "hada_w1_b", "diff")
_ENCODERS: Mapping[Model, tuple[Encoder, ...]] = {
    "first text encoder": ("clip_l", "clip_h"),
    "second text encoder": ("clip_g",),
}
_TEXT_LAYER = re.compile(r".*layers_\d+_(?:self_attn_[qkv]_proj|mlp_fc1)")
_ARCHITECTURES: Sequence[tuple[str, Family]] = (
    (r"sdxl|stable-diffusion-xl", "sdxl"),
    (r"sd_v2|stable-diffusion-v2", "sd2"),
    (r"sd_v1|stable-diffusion-v1", "sd1"),
)
_DEPTH = re.compile(r"transformer_blocks_(\d+)_")
_FOUR_LEVELS = re.compile(
    r"(down|up)_blocks_3_|down_blocks_0_attentions_|input_blocks_([12]_1|9|1\d)_|output_blocks_(9|1\d)_"
)
_LDM = re.compile(r"(input_blocks|middle_block|output_blocks)_")


def family_by(
    name: str, keys: Mapping[str, Key], shapes: Shapes, metadata: Mapping[str, str]
) -> Family | None:
    """None where nothing tells it. ``name``: of the file. Raises BadInput where its widths contradict each
    other, its names or its metadata."""
    layers = {key: (found, found.path.replace(".", "_")) for key, found in keys.items()}
    return family_of(name, [*_widths(layers, shapes), *_told(metadata), *_names(layers)])


def _widths(layers: Mapping[str, tuple[Key, str]], shapes: Shapes) -> Iterator[Sign]:
    seen: set[tuple[Model, int]] = set()
    for key, (found, path) in layers.items():
        if found.model == "unet":
            is_read = path.endswith(("attn2_to_k", "attn2_to_v"))
        else:
            is_read = bool(_TEXT_LAYER.fullmatch(path))
        if not is_read or (found.model, width := _width_of(key, found, shapes)) in seen:
            continue
        seen.add((found.model, width))
        if found.model == "unet":
            yield from context_sign(width)
        else:
            yield from encoder_sign(f"its {found.model}", _ENCODERS[found.model], width)


def _width_of(key: str, found: Key, shapes: Shapes) -> int:
    """How wide the layer's input is, by this key of it; 0: it does not say."""
    if found.suffix in _READING:
        return shapes[key][1] if len(shapes[key]) > 1 else 0
    if match := re.fullmatch(r"(.*lokr_w)1(_b)?", key):  # a Kronecker product: the widths are multiplied
        others = (shapes.get(f"{match[1]}2{part}", ()) for part in ("", "_b"))
        widths = [shape[1] for shape in (shapes[key], *others) if len(shape) > 1]
        return widths[0] * widths[1] if len(widths) == 2 else 0
    return 0


def _told(metadata: Mapping[str, str]) -> Iterator[Sign]:
    for entry in ("ss_base_model_version", "modelspec.architecture"):
        version = metadata.get(entry, "")
        for pattern, family in _ARCHITECTURES:
            if re.match(pattern, version) and not (family == "sd1" and metadata.get("ss_v2") == "True"):
                yield sign(f"its metadata say {entry} {version[:40]}", family)
    if metadata.get("ss_v2") == "True":
        yield sign("its metadata say ss_v2", "sd2")


def _names(layers: Mapping[str, tuple[Key, str]]) -> Iterator[Sign]:
    if any(found.model == "second text encoder" for found, _ in layers.values()):
        yield sign("it has a second text encoder", "sdxl")
    unet = {key: path for key, (found, path) in layers.items() if found.model == "unet"}
    if any(re.match(r"(label_emb|add_embedding)_", path) for path in unet.values()):
        yield sign("it has layers for sizes of pictures", "sdxl")
    if any(int(match[1]) > 0 for path in unet.values() if (match := _DEPTH.search(path))):
        yield sign("it has several transformer blocks side by side", "sdxl")
    if any(_FOUR_LEVELS.match(path) for path in unet.values()):
        yield sign("its U-Net has four levels", "sd1", "sd2", firm=False)
    if any(re.match(r"(lora|lycoris)_te1_", key) for key in layers):
        yield sign("it names a first text encoder of two", "sdxl", firm=False)
    if any(re.match(r"(lora|lycoris)_te_", key) for key in layers):
        yield sign("it names one text encoder", "sd1", "sd2", firm=False)
    if any(re.match(r"(lora|lycoris)_", key) and _LDM.match(path) for key, path in unet.items()):
        # sd-scripts calls the layers of SDXL alone so.
        yield sign("its U-Net has the original names", "sdxl", firm=False)
