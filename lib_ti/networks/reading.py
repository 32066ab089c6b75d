"""The tensors of one layer of a network file -> the update that they describe.

Key names: sd-scripts, LyCORIS; for what is PEFT's, ``files`` translates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from lib_ti.core.errors import BadInput
from lib_ti.networks.algebra import IA3, DoRA, Full, LoHa, LoKr, LowRank, Product, Tensors, Update
from lib_ti.networks.foreign import SUPPORTED, algorithm_of

# Numbers of a weight, and of its side with the kernel: SDXL's largest is of 1280 x 2560 x 3 x 3.
_MAX_WEIGHT, _MAX_SIDE = 1 << 26, 1 << 16
_NUMBERS = ("alpha", "scale", "scalar")  # of a layer, in whatever type
_KEYS = frozenset(
    (
        *_NUMBERS,
        *("lora_down.weight", "lora_up.weight", "lora_mid.weight", "lora_up.bias"),
        *("hada_w1_a", "hada_w1_b", "hada_t1", "hada_w2_a", "hada_w2_b", "hada_t2"),
        *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_t1", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
        *("weight", "on_input", "diff", "diff_b", "w_norm", "b_norm", "dora_scale"),
    )
)


def beside_factors(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The keys of whole numbers that no algorithm here reads, such as ``rank`` or ``reshape_weight``: a layer
    is the same without them."""
    others = (key for key, tensor in tensors.items() if key not in _KEYS and not tensor.is_floating_point())
    return [key for key in others if algorithm_of([key]) is None]


def read_update(tensors: Mapping[str, torch.Tensor]) -> Update:
    """The update of one layer, from its tensors by what follows the layer's name in a file
    ("lora_down.weight", "hada_w1_a", ...); ``beside_factors`` names those that it leaves.

    Raises BadInput where they are of no algorithm we know, or not all others are of use.
    """
    beside = beside_factors(tensors)
    left = {key: tensor for key, tensor in tensors.items() if key not in beside}
    for key, tensor in left.items():
        if key not in ("on_input", *_NUMBERS) and not tensor.is_floating_point():
            raise BadInput(f"{key} is of type {tensor.dtype}; expected floating point numbers.")
        if not (tensor.ndim and tensor.numel()) and key in ("diff", "w_norm", "dora_scale"):
            raise BadInput(f"{key} has the shape {tuple(tensor.shape)}; expected a number for each output.")
    alpha, magnitude = _number(left, "alpha"), _optional(left, "dora_scale")
    scale, scalar = _number(left, "scale"), _number(left, "scalar")
    bias = next((left.pop(key) for key in ("diff_b", "b_norm") if key in left), None)
    up_bias = _optional(left, "lora_up.bias")  # PEFT's: inside what is scaled
    for keys, read in _READERS:
        if all(key in left for key in keys):
            update = read(left)
            break
    else:
        raise _of_no_algorithm(tensors)
    if left:
        raise BadInput(f"{', '.join(sorted(left))}: not understood beside {type(update).__name__}.")
    _check_size(update, tensors)
    update = _scaled(update, alpha, scale, scalar)
    if up_bias is not None and isinstance(update, LowRank):
        bias = up_bias * update.scale
    update = replace(update, bias=bias)
    return update if magnitude is None else DoRA(direction=update, magnitude=magnitude, bias=bias)


def _check_size(update: Update, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises BadInput where the factors fit no layer at all: nothing is made of them before this is known."""
    if not update.is_whole:
        shapes = ", ".join(f"{key} {tuple(t.shape)}" for key, t in sorted(tensors.items()) if t.ndim > 1)
        raise BadInput(f"the factors do not fit each other: {shapes}.")
    rows, columns = update.extent or (0, 0)
    if max(rows, columns) > _MAX_SIDE or rows * columns > _MAX_WEIGHT:
        raise BadInput(
            f"it would change a layer of {rows} x {columns} numbers; no layer of these models has more than "
            f"{_MAX_WEIGHT}, or {_MAX_SIDE} on a side."
        )


def _of_no_algorithm(keys: Iterable[str]) -> BadInput:
    listed, algorithm = ", ".join(sorted(keys)), algorithm_of(keys)
    if algorithm is not None:
        return BadInput(f"{listed}: of the algorithm {algorithm}, which is not supported ({SUPPORTED} are).")
    return BadInput(f"{listed}: of no algorithm we know ({SUPPORTED}).")


def _optional(left: Tensors, key: str) -> torch.Tensor | None:
    return left.pop(key) if key in left else None


def _number(left: Tensors, key: str) -> float | None:
    tensor = _optional(left, key)
    if tensor is None:
        return None
    if tensor.numel() != 1 or tensor.is_complex() or not math.isfinite(tensor.item()):
        raise BadInput(f"{key} must be one finite number, not a tensor of shape {tuple(tensor.shape)}.")
    return float(tensor)


def _scaled(update: Update, alpha: float | None, scale: float | None, scalar: float | None) -> Update:
    """``alpha`` 0 means the rank, as in sd-scripts; ``scale`` stands for alpha / rank; ``scalar`` is
    LyCORIS' learned factor."""
    if isinstance(update, LowRank | LoHa | LoKr) and update.rank is not None:
        alpha = alpha or float(update.rank)
        if scale is not None:
            alpha = scale * update.rank
        return replace(update, alpha=alpha * (1.0 if scalar is None else scalar))
    factor = (1.0 if scale is None else scale) * (1.0 if scalar is None else scalar)
    if factor == 1.0:
        return update
    if isinstance(update, LoKr):
        return replace(update, first=Product(a=update.first.a.float() * factor))
    if isinstance(update, IA3):
        return replace(update, factor=update.factor.float() * factor)
    assert isinstance(update, Full)
    return replace(update, diff=update.diff.float() * factor)


def _read_low_rank(left: Tensors) -> Update:
    down, up = left.pop("lora_down.weight"), left.pop("lora_up.weight")
    mid = _kernel(left, "lora_mid.weight")
    _check_ndim(down, up)
    _check_kernel("lora_up.weight", up)
    if mid is not None:
        _check_kernel("lora_down.weight", down)
    return LowRank(down=down, up=up, mid=mid)


def _read_loha(left: Tensors) -> Update:
    first, second = _product(left, "hada_w1", "hada_t1"), _product(left, "hada_w2", "hada_t2")
    return LoHa(first=first, second=second)


def _read_lokr(left: Tensors) -> Update:
    return LoKr(first=_product(left, "lokr_w1", "lokr_t1"), second=_product(left, "lokr_w2", "lokr_t2"))


def _product(left: Tensors, name: str, core: str) -> Product:
    if name in left:
        whole = left.pop(name)
        _check_ndim(whole)
        return Product(a=whole)
    a, b = _optional(left, f"{name}_a"), _optional(left, f"{name}_b")
    if a is None or b is None:
        raise BadInput(f"{name}_a and {name}_b belong together; one of them is missing.")
    _check_ndim(a, b)
    _check_kernel(f"{name}_a", a)
    # OneTrainer's factors of a convolution are (p, r, 1, 1) and (r, q, k, k), LyCORIS' (p, r) and (r, q k k).
    return Product(a=a.flatten(1), b=b.flatten(1), core=_kernel(left, core))


def _kernel(left: Tensors, name: str) -> torch.Tensor | None:
    """Between two factors, in a Tucker form."""
    kernel = _optional(left, name)
    if kernel is not None and (kernel.ndim < 3 or not kernel.numel()):
        raise BadInput(f"{name} has the shape {tuple(kernel.shape)}; expected a kernel.")
    return kernel


def _check_ndim(*tensors: torch.Tensor) -> None:
    for tensor in tensors:
        if tensor.ndim not in (2, 4) or tensor.numel() == 0:
            raise BadInput(f"a factor has the shape {tuple(tensor.shape)}; expected a matrix or a kernel.")


def _check_kernel(name: str, tensor: torch.Tensor) -> None:
    """Raises BadInput where a factor that mixes channels alone sees more than one pixel."""
    if tensor[0, 0].numel() != 1:
        raise BadInput(
            f"{name} has the shape {tuple(tensor.shape)}; expected a matrix, or a kernel of 1 x 1."
        )


def _read_ia3(left: Tensors) -> Update:
    return IA3(factor=left.pop("weight"), on_input=bool(left.pop("on_input").any()))


def _read_full(left: Tensors) -> Update:
    return Full(diff=left.pop("diff"))


def _read_norm(left: Tensors) -> Update:
    return Full(diff=left.pop("w_norm"))


_READERS: Sequence[tuple[Sequence[str], Callable[[Tensors], Update]]] = (
    (("lora_down.weight", "lora_up.weight"), _read_low_rank),
    (("hada_w1_a",), _read_loha),
    (("lokr_w1",), _read_lokr),
    (("lokr_w1_a",), _read_lokr),
    (("weight", "on_input"), _read_ia3),
    (("diff",), _read_full),
    (("w_norm",), _read_norm),
)
