"""The layers of a model that a network can change: in living modules, and in a checkpoint file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from lib_ti.formats import ldm
from lib_ti.formats.checkpoint import text_encoders, text_width, unet_signs
from lib_ti.formats.family import Encoder, Family, encoder_sign, sign
from lib_ti.formats.family import family_of as family_by_signs
from lib_ti.networks.names import PARTS, Kind, NamedWeight, Part, Scope, name_weights

Parts = Mapping[Part, nn.Module]


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a living model, by the name that network files give it.

    ``scope``: "lierla" layers are what LierLa trains, "c3lier" those that C3Lier adds, "full" the rest
    (norms, the first and the last convolution, time embedding). ``block``: place among sd-scripts' 25
    blocks (SDXL: 23), None in a text encoder. ``rows``: the layer's own in a fused weight.
    """

    name: str
    part: Part
    kind: Kind
    scope: Scope
    block: int | None
    module: nn.Module
    attribute: str = "weight"  # of the module: "weight" or "in_proj_weight"
    rows: slice | None = None
    # torch's MultiheadAttention computes with the weights of its projections itself: calling it is what
    # uses this layer, and no hook on ``module`` would ever run.
    attention: nn.MultiheadAttention | None = None

    @property
    def weight(self) -> torch.Tensor:
        """Of this layer alone: a view where the weight is fused."""
        weight = getattr(self.module, self.attribute)
        return weight if self.rows is None else weight[self.rows]

    @property
    def bias_attribute(self) -> str:
        return "in_proj_bias" if self.attribute == "in_proj_weight" else "bias"

    @property
    def bias(self) -> torch.Tensor | None:
        bias = getattr(self.module, self.bias_attribute)
        return bias if self.rows is None or bias is None else bias[self.rows]


@dataclass(frozen=True)
class StoredLayer:
    """A layer in a checkpoint of the original layout; fields as in ``Layer``."""

    name: str
    part: Part
    kind: Kind
    scope: Scope
    block: int | None
    key: str  # of its weight in the file
    rows: slice | None = None

    @property
    def bias_key(self) -> str:
        """Where its bias is, if it has one."""
        return f"{self.key.removesuffix('weight')}bias"


def find_layers(parts: Parts, family: Family) -> dict[str, Layer]:
    """Name -> layer, of the parts given ("unet" and "te", of SDXL "te1" and "te2"), in whatever layout."""
    layers = {}
    for part, model in parts.items():
        if part not in PARTS[family]:
            raise ValueError(f"{family} has the parts {PARTS[family]}, not {part!r}")
        attentions = {
            f"{path}.out_proj": module
            for path, module in model.named_modules()
            if isinstance(module, nn.MultiheadAttention)
        }
        shapes = {key: parameter.shape for key, parameter in model.named_parameters()}
        for weight in name_weights(shapes, part, family):
            layers[weight.name] = _living(model, weight, attentions)
    return layers


def _living(model: nn.Module, weight: NamedWeight, attentions: Mapping[str, nn.MultiheadAttention]) -> Layer:
    path, _, attribute = weight.key.rpartition(".")
    module = model.get_submodule(path)
    return Layer(
        name=weight.name,
        part=weight.part,
        kind=weight.kind,
        scope=weight.scope,
        block=weight.block,
        module=module,
        attribute=attribute,
        rows=weight.rows,
        attention=module if isinstance(module, nn.MultiheadAttention) else attentions.get(path),
    )


def find_stored_layers(shapes: Mapping[str, Sequence[int]], family: Family) -> dict[str, StoredLayer]:
    """Name -> layer, of a checkpoint file whose tensors are named and shaped as ``shapes`` says."""
    layers = {}
    prefixes = ldm.UNET, *text_encoders(shapes, family)
    for part, prefix in zip(PARTS[family], prefixes, strict=False):
        inside = {key[len(prefix) :]: shape for key, shape in shapes.items() if key.startswith(prefix)}
        for weight in name_weights(inside, part, family):
            layers[weight.name] = StoredLayer(
                name=weight.name,
                part=weight.part,
                kind=weight.kind,
                scope=weight.scope,
                block=weight.block,
                key=prefix + weight.key,
                rows=weight.rows,
            )
    return layers


AnyLayer = TypeVar("AnyLayer", Layer, StoredLayer)


def trained_layers(layers: Mapping[str, AnyLayer], *, conv: bool) -> dict[str, AnyLayer]:
    """Those that LierLa trains; with ``conv`` those that C3Lier does.

    C3Lier's conv rank is for the kind "conv" alone: the 1x1 convolutions and linear layers of residual
    blocks take the rank of LierLa's.
    """
    scopes = ("lierla", "c3lier") if conv else ("lierla",)
    return {name: layer for name, layer in layers.items() if layer.scope in scopes}


def parts_of(model: object) -> Parts:
    """Of a diffusers pipeline, a host, a mapping of parts, or a U-Net or text encoder alone."""
    if isinstance(model, Mapping):
        return model
    if hasattr(model, "parts"):
        return model.parts()
    if isinstance(model, nn.Module):
        is_unet = any(hasattr(model, name) for name in ("down_blocks", "input_blocks"))
        return {"unet" if is_unet else "te": model}
    if not hasattr(model, "unet"):
        raise TypeError(f"a {type(model).__name__} is neither a pipeline, nor a host, nor a model of ours")
    first, second = getattr(model, "text_encoder", None), getattr(model, "text_encoder_2", None)
    names: Sequence[Part] = PARTS["sdxl" if hasattr(model, "text_encoder_2") else "sd1"]
    models = model.unet, first, second
    return {part: found for part, found in zip(names, models, strict=False) if found is not None}


def family_of(parts: Parts, what: str = "the model") -> Family:
    """As the modules tell it; SD1 where they do not. Raises BadInput where they contradict each other."""
    signs = []
    for part, model in parts.items():
        shapes = {key: parameter.shape for key, parameter in model.named_parameters()}
        if part == "unet":
            signs += unet_signs(shapes)
            continue
        encoders: tuple[Encoder, ...] = ("clip_g",) if part == "te2" else ("clip_l", "clip_h")
        signs += encoder_sign(f"its text encoder {part}", encoders, text_width(shapes))
        if part != "te":
            signs.append(sign(f"it has a text encoder {part}", "sdxl"))
        elif any(key.startswith("transformer.resblocks.") for key in shapes):
            signs.append(sign("its text encoder is OpenCLIP's", "sd2", firm=False))
    return family_by_signs(what, signs) or "sd1"
