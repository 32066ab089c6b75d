"""Weights that are no plain numbers: those with a scale beside them are read and written as what they stand
for, those that are packed into integers are refused by name.

A scaled weight is what is stored times its scale, which is one number or one for each output. Spellings:
ComfyUI's ``scale_weight`` with a mark ``scaled_fp8``, and its later ``weight_scale`` with ``comfy_quant`` or
an entry in the metadata; DeepSeek-V3's ``weight_scale_inv``, which is multiplied by, too. ``scale_input``
and ``input_scale`` are for activations. Packed weights: bitsandbytes, GPTQ, AWQ, quanto, compressed-tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch

from lib_ti.core.errors import BadInput
from lib_ti.formats.streaming import Plan, TensorFile, meta, open_tensors

_SCALE = re.compile(r"(.+)\.(?:scale_weight|weight_scale|weight_scale_inv)")
# What says how weights are stored, and is none.
_MARK = re.compile(r"(?:.+\.)?(?:scaled_fp8|scale_input|input_scale|comfy_quant)")
_MARK_IN_METADATA = "_quantization_metadata"
_PACKED = (
    (r"quant_state\.bitsandbytes__\w+|(?:nested_)?(?:absmax|quant_map)", "4-bit weights of bitsandbytes"),
    (r"SCB|weight_format", "8-bit weights of bitsandbytes (int8)"),
    (r"qweight|qzeros|g_idx", "packed weights of GPTQ, AWQ or their like"),
    (r"weight_scale_2", "4-bit weights (NVFP4)"),
    (r"weight_packed", "packed weights of compressed-tensors"),
    (r"weight\._data", "packed weights of quanto"),
)
_WEIGHT = re.compile(r"(?:.+\.)?(?:in_proj_)?weight")  # and not a layer's reshape_weight, which is a shape
_KINDS = tuple((re.compile(rf"(?:.+\.)?(?:{pattern})"), kind) for pattern, kind in _PACKED)


@dataclass(frozen=True)
class WeightFile(TensorFile):
    """A file of weights as the numbers they stand for: those with a scale in float32, the others as they
    are stored, and no tensor that is no weight.

    ``stored``: the file as it is. ``scales``: a weight that has a scale -> the name of that tensor.
    """

    stored: TensorFile
    scales: Mapping[str, str]

    def scale(self, weight: str) -> torch.Tensor:
        """float32, of a shape that is broadcast over the weight. Raises BadInput where it is not finite."""
        return _read_scale(self.stored, weight, self.scales[weight])

    @property
    def in_eight_bits(self) -> int:
        """How many weights are stored in float8."""
        return sum(1 for entry in self.stored.plan.values() if is_float8(entry.dtype) and entry.ndim > 1)


def is_float8(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype.itemsize == 1


def converted(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``tensor`` in ``dtype``; from float8 by way of float32, since torch converts it to few types."""
    return (tensor.float() if is_float8(tensor.dtype) else tensor).to(dtype)


def open_weights(path: Path) -> WeightFile:
    """As ``open_tensors``. Raises BadInput for packed weights, too, and for scales that we cannot read."""
    stored = open_tensors(path)
    refuse_packed(path, stored.plan)
    scales = _scales(stored)
    beside = {*scales.values(), *(name for name in stored.plan if _MARK.fullmatch(name))}

    def read(name: str) -> torch.Tensor:
        tensor = stored.read(name)
        return tensor.float() * _read_scale(stored, name, scales[name]) if name in scales else tensor

    return WeightFile(
        path=path,
        plan={
            name: meta(entry.shape, torch.float32) if name in scales else entry
            for name, entry in stored.plan.items()
            if name not in beside
        },
        metadata={key: text for key, text in stored.metadata.items() if key != _MARK_IN_METADATA},
        read=read,
        stored=stored,
        scales=scales,
    )


def refuse_packed(path: Path, plan: Plan) -> None:
    """Raises BadInput, by the kind, where weights are packed into integers."""
    named = ((kind, name) for name in plan for pattern, kind in _KINDS if pattern.fullmatch(name))
    typed = (
        (f"weights in {str(entry.dtype).removeprefix('torch.')}", name)
        for name, entry in plan.items()
        if _WEIGHT.fullmatch(name) and not entry.is_floating_point()
    )
    if found := next(chain(named, typed), None):
        raise BadInput(
            f"{path.name} holds {found[0]}, such as {found[1]}; expected weights in float32, float16, "
            "bfloat16 or float8: take the file that it was made from."
        )


def refuse_scaled(path: Path, names: Iterable[str], why: str) -> None:
    """Raises BadInput where weights have scales, for a reader that would not apply them: ``why``."""
    if found := next((name for name in names if _SCALE.fullmatch(name) or _MARK.fullmatch(name)), ""):
        raise BadInput(f"{path.name} holds scaled weights ({found}), whose scales {why}.")


def _scales(file: TensorFile) -> dict[str, str]:
    scales: dict[str, str] = {}
    for name, entry in file.plan.items():
        if not (match := _SCALE.fullmatch(name)):
            continue
        weight = file.plan.get(f"{match[1]}.weight")
        if weight is None:
            raise BadInput(f"{file.path.name} has the scale {name} and no weight that it belongs to.")
        if f"{match[1]}.weight" in scales:
            raise BadInput(f"{file.path.name} has two scales of {match[1]}.weight; expected one.")
        each = weight.ndim > 0 and entry.numel() == len(weight) and entry.shape[:1] == weight.shape[:1]
        if not entry.is_floating_point() or not (entry.numel() == 1 or each):
            raise BadInput(
                f"{file.path.name}: the scale {name} is {entry.dtype} of the shape {tuple(entry.shape)}; "
                f"expected one floating point number, or one for each output of {tuple(weight.shape)}."
            )
        scales[f"{match[1]}.weight"] = name
    return scales


def _read_scale(file: TensorFile, weight: str, name: str) -> torch.Tensor:
    scale, shape = file.read(name).float(), file.plan[weight].shape
    if not (torch.isfinite(scale).all() and (scale >= 0).all()):
        raise BadInput(f"{file.path.name}: the scale {name} is not finite, or below 0.")
    rows = 1 if scale.numel() == 1 else len(scale)
    return scale.reshape(rows, *(1 for _ in shape[1:])) if shape else scale.reshape(())


def scale_for(weight: torch.Tensor, scale: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
    """The scale to store ``weight``, float32, with: ``scale``, or where a number would not fit in ``stored``
    the least that it fits with. So numbers that do not change keep their bits."""
    rows = weight.reshape(scale.numel(), -1) if weight.numel() else weight.new_zeros(scale.numel(), 1)
    least = rows.abs().amax(dim=1).reshape(scale.shape) / torch.finfo(stored).max
    return torch.where(least > scale, least, scale)


def divided(weight: torch.Tensor, scale: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
    """What is stored of ``weight``, float32, beside ``scale``."""
    most = torch.finfo(stored).max
    # A scale of 0 is that of zeros.
    return (weight / torch.where(scale == 0, 1.0, scale)).clamp(-most, most).to(stored)
