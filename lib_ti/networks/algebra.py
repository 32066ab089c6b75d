"""The algorithms of the LoRA family: what each makes of a layer's weight W (m x n[, k, k]) and bias.

Each tells its change twice: as a weight, ``delta``, and as what it adds to the layer's answer,
``forward``; the two are equal. Formulas and key names: LoRA arXiv 2106.09685; LoHa, LoKr and the Tucker
forms LyCORIS arXiv 2309.14859; (IA)3 arXiv 2205.05638; DoRA arXiv 2402.09353.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional as F

Node = TypeVar("Node")
Tensors = dict[str, torch.Tensor]


def answer(
    x: torch.Tensor, module: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """What ``module`` would answer with this weight and bias in place of its own.

    Linear in weight and bias, so with a change of both it is the change of the answer.
    """
    if isinstance(module, nn.GroupNorm | nn.LayerNorm):
        weight, bias = weight.float(), None if bias is None else bias.float()
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(x.float(), module.num_groups, weight, bias, module.eps).to(x.dtype)
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x.float(), module.normalized_shape, weight, bias, module.eps).to(x.dtype)
    weight, bias = _as(x, weight), None if bias is None else _as(x, bias)
    if weight.ndim == 4:
        # Its stride and padding, and its padding mode, which programs change to make pictures tile.
        return module._conv_forward(x, weight, bias)  # type: ignore[operator]
    return F.linear(x, weight, bias)


def _weight(module: nn.Module) -> torch.Tensor:
    return cast(torch.Tensor, module.weight)


def _as(x: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """In the type of ``x``, unless autocast is going to choose one for both."""
    return tensor if _autocasts(x.device.type) else tensor.to(x.dtype)


def _autocasts(kind: str) -> bool:
    if hasattr(torch, "get_autocast_dtype"):  # torch 2.4
        return torch.is_autocast_enabled(kind)
    return torch.is_autocast_cpu_enabled() if kind == "cpu" else torch.is_autocast_enabled()


def moved(node: Node, device: torch.device, dtype: torch.dtype | None = None) -> Node:
    """An update, or a part of one, with its tensors on ``device``; in ``dtype`` if one is given."""
    changes: dict[str, Any] = {}
    for item in fields(node):  # type: ignore[arg-type]
        value = getattr(node, item.name)
        if isinstance(value, torch.Tensor):
            changes[item.name] = value.to(device, dtype)
        elif isinstance(value, Update | Product):
            changes[item.name] = moved(value, device, dtype)
    return replace(node, **changes)  # type: ignore[type-var]


def is_trained(node: Any) -> bool:
    """Whether a tensor of an update asks for gradient."""
    values = (getattr(node, item.name) for item in fields(node))
    return any(
        value.requires_grad if isinstance(value, torch.Tensor) else is_trained(value)
        for value in values
        if isinstance(value, torch.Tensor | Update | Product)
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Update:
    """A change of one layer. ``bias``: what is added to the layer's bias, (m,)."""

    bias: torch.Tensor | None = None

    @property
    def rank(self) -> int | None:
        """None where the algorithm has no such number."""
        return None

    @property
    def extent(self) -> tuple[int, int] | None:
        """Rows and columns of the weight that is changed, its kernel among the columns, as far as the tensors
        tell; None where they do not."""
        return None

    @property
    def is_whole(self) -> bool:
        """Whether the tensors fit each other."""
        return True

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a weight of that shape can be changed so, and its bias; nothing is computed."""
        has_bias = self.bias is None or tuple(self.bias.shape) == (shape[0],)
        return has_bias and self.is_whole and self._fits(shape)

    def _fits(self, shape: Sequence[int]) -> bool:
        raise NotImplementedError

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """What is added to the weight, in its shape, float32."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """What is added to the answer of ``module`` to ``x``."""
        return answer(x, module, self.delta(_weight(module)), self.bias)

    def tensors(self) -> Tensors:
        """What ``reading.read_update`` makes this update of; contiguous."""
        found = self._tensors() | ({} if self.bias is None else {"diff_b": self.bias})
        return {key: tensor.detach().contiguous() for key, tensor in found.items()}

    def _tensors(self) -> Tensors:
        raise NotImplementedError


@dataclass(frozen=True, eq=False, kw_only=True)
class LowRank(Update):
    """LoRA, LoCon / C3Lier, DyLoRA: up (m, r[, 1, 1]) times down (r, n[, k, k]), times alpha / r.

    ``mid``: (r, r, k, k), the Tucker form of a convolution, whose ``down`` is (r, n, 1, 1).
    ``alpha``: r where it is None.
    """

    down: torch.Tensor
    up: torch.Tensor
    mid: torch.Tensor | None = None
    alpha: float | None = None

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def truncated(self, rank: int) -> LowRank:
        """The first ``rank`` rows at full strength, as a DyLoRA extracted at that rank is.

        The scale becomes alpha / rank, with which DyLoRA trains that rank (arXiv 2210.07558).
        """
        if self.mid is not None or rank >= self.rank:
            return self
        alpha = float(self.rank) if self.alpha is None else self.alpha
        # As a file would hold it: products of strided matrices may be rounded otherwise.
        return replace(self, down=self.down[:rank], up=self.up[:, :rank].contiguous(), alpha=alpha)

    @property
    def extent(self) -> tuple[int, int]:
        kernel = 1 if self.mid is None else self.mid[0, 0].numel()
        return self.up.shape[0], self.down[0].numel() * kernel

    @property
    def is_whole(self) -> bool:
        rows = self.down.shape[0]
        return (self.rank, rows) == ((rows, rows) if self.mid is None else self.mid.shape[:2])

    def _fits(self, shape: Sequence[int]) -> bool:
        return self.extent == (shape[0], math.prod(shape[1:]))

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        up, down = self.up.float().flatten(1), self.down.float().flatten(1)
        product = up @ down if self.mid is None else tucker(up, self.mid.float(), down)
        return product.reshape(weight.shape) * self.scale

    def forward(self, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        weight = _weight(module)
        down, up = _as(x, self.down), _as(x, self.up)
        bias = None if self.bias is None else _as(x, self.bias)
        if weight.ndim == 2:
            return F.linear(F.linear(x, down.flatten(1)) * self.scale, up.flatten(1), bias)
        if self.mid is None:
            hidden = answer(x, module, down.reshape(len(down), -1, *weight.shape[2:]))
        else:
            hidden = answer(F.conv2d(x, down), module, self.mid)
        return F.conv2d(hidden * self.scale, up.reshape(*up.shape[:2], 1, 1), bias)

    def _tensors(self) -> Tensors:
        mid = {} if self.mid is None else {"lora_mid.weight": self.mid}
        factors = {"lora_down.weight": self.down, "lora_up.weight": self.up}
        return factors | mid | {"alpha": torch.tensor(self.scale * self.rank)}


def tucker(left: torch.Tensor, core: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``left`` (p, r), ``core`` (r, s[, k, k]) and ``right`` (s, q) as one: (p, q[, k, k]).

    In the order in which nothing between is larger than the core or the result, whatever a file says.
    """
    if left.shape[0] < left.shape[1] and right.shape[0] <= right.shape[1]:
        half = torch.einsum("pr,rs...->ps...", left, core)
        return torch.einsum("ps...,sq->pq...", half, right)
    half = torch.einsum("rs...,sq->rq...", core, right)
    return torch.einsum("pr,rq...->pq...", left, half)


@dataclass(frozen=True, eq=False, kw_only=True)
class Product:
    """A matrix, given whole or as a product.

    ``a`` alone; ``a`` (p, r) @ ``b`` (r, q); or in the Tucker form ``a`` (r, p), ``b`` (s, q) and
    ``core`` (r, s, k, k).
    """

    a: torch.Tensor
    b: torch.Tensor | None = None
    core: torch.Tensor | None = None

    @property
    def rank(self) -> int | None:
        return None if self.b is None else self.b.shape[0]

    @property
    def rows(self) -> int:
        return self.a.shape[0] if self.core is None else self.a.shape[1]

    @property
    def columns(self) -> int:
        if self.b is None:
            return self.a[0].numel()
        return self.b[0].numel() * (1 if self.core is None else self.core[0, 0].numel())

    @property
    def is_whole(self) -> bool:
        """Whether the factors fit each other."""
        if self.b is None:
            return self.core is None
        outer = self.a.shape[1] if self.core is None else self.a.shape[0]
        inner = (self.b.shape[0],) * 2 if self.core is None else tuple(self.core.shape[:2])
        return (outer, self.b.shape[0]) == inner

    def value(self, rows: slice = slice(None)) -> torch.Tensor:
        """(p, q[, k, k]), float32; of ``rows`` alone."""
        if self.b is None:
            return self.a[rows].float()
        if self.core is None:
            return self.a[rows].float() @ self.b.float()
        return tucker(self.a[:, rows].float().T, self.core.float(), self.b.float())

    def tensors(self, name: str, core: str) -> Tensors:
        if self.b is None:
            return {name: self.a}
        factors = {f"{name}_a": self.a, f"{name}_b": self.b}
        return factors if self.core is None else {**factors, core: self.core}


@dataclass(frozen=True, eq=False, kw_only=True)
class LoHa(Update):
    """Hadamard product of two matrices of low rank, times alpha / r."""

    first: Product
    second: Product
    alpha: float | None = None

    @property
    def rank(self) -> int | None:
        return self.first.rank

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None or self.rank is None else self.alpha / self.rank

    @property
    def extent(self) -> tuple[int, int]:
        return self.first.rows, self.first.columns

    @property
    def is_whole(self) -> bool:
        parts = self.first, self.second
        return all(part.is_whole and (part.rows, part.columns) == self.extent for part in parts)

    def _fits(self, shape: Sequence[int]) -> bool:
        return self.extent == (shape[0], math.prod(shape[1:]))

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        return (self.first.value() * self.second.value()).reshape(weight.shape) * self.scale

    def _tensors(self) -> Tensors:
        factors = self.first.tensors("hada_w1", "hada_t1") | self.second.tensors("hada_w2", "hada_t2")
        return factors | {"alpha": torch.tensor(self.scale * (self.rank or 1))}


@dataclass(frozen=True, eq=False, kw_only=True)
class LoKr(Update):
    """Kronecker product of two matrices, times alpha / r; times 1 where neither is a product."""

    first: Product  # (a, b)
    second: Product  # (c, d[, k, k]), with m = a c and n = b d
    alpha: float | None = None

    @property
    def rank(self) -> int | None:
        return self.first.rank if self.first.rank is not None else self.second.rank

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None or self.rank is None else self.alpha / self.rank

    @property
    def extent(self) -> tuple[int, int]:
        return self.first.rows * self.second.rows, self.first.columns * self.second.columns

    @property
    def is_whole(self) -> bool:
        return self.first.is_whole and self.second.is_whole

    def _fits(self, shape: Sequence[int]) -> bool:
        fills = self.extent == (shape[0], math.prod(shape[1:]))
        return fills and self.second.columns % math.prod(shape[2:]) == 0

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        kernel = weight.shape[2:]
        first = self.first.value().flatten(1)
        # torch.kron wants them contiguous
        second = self.second.value().reshape(self.second.rows, -1, *kernel).contiguous()
        product = torch.kron(first.reshape(*first.shape, *(1 for _ in kernel)), second)
        return product.reshape(weight.shape) * self.scale

    def _tensors(self) -> Tensors:
        factors = self.first.tensors("lokr_w1", "lokr_t1") | self.second.tensors("lokr_w2", "lokr_t2")
        return factors | {"alpha": torch.tensor(self.scale * (self.rank or 1))}


@dataclass(frozen=True, eq=False, kw_only=True)
class IA3(Update):
    """A factor for each input (``on_input``) or each output: W (1 + factor)."""

    factor: torch.Tensor  # n or m numbers
    on_input: bool

    def _fits(self, shape: Sequence[int]) -> bool:
        return len(shape) > 1 and self.factor.numel() == shape[1 if self.on_input else 0]

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        shape = [1] * weight.ndim
        shape[1 if self.on_input else 0] = -1
        return weight.float() * self.factor.float().reshape(shape)

    def _tensors(self) -> Tensors:
        return {"weight": self.factor, "on_input": torch.tensor(self.on_input)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Full(Update):
    """The change itself, of a layer of any kind, norms too."""

    diff: torch.Tensor

    @property
    def extent(self) -> tuple[int, int]:
        return self.diff.shape[0], self.diff[0].numel()

    def _fits(self, shape: Sequence[int]) -> bool:
        return self.diff.shape[0] == shape[0] and self.diff.numel() == math.prod(shape)

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        return self.diff.float().reshape(weight.shape)

    def _tensors(self) -> Tensors:
        return {"diff": self.diff}


@dataclass(frozen=True, eq=False, kw_only=True)
class DoRA(Update):
    """The direction from W and another update, the length of each row or column from ``magnitude``.

    Of shape (m, 1, ...) it holds the lengths of rows, which belong to one output each; of shape
    (1, n, ...) those of columns, which belong to one input.
    """

    direction: Update
    magnitude: torch.Tensor

    @property
    def rank(self) -> int | None:
        return self.direction.rank

    @property
    def extent(self) -> tuple[int, int] | None:
        return self.direction.extent

    @property
    def is_whole(self) -> bool:
        return self.direction.is_whole

    def _axis(self, shape: Sequence[int]) -> int:
        return 0 if self.magnitude.shape[0] == shape[0] == self.magnitude.numel() else 1

    def _fits(self, shape: Sequence[int]) -> bool:
        whole = len(shape) > 1 and self.magnitude.numel() == shape[self._axis(shape)]
        return whole and self.direction.fits(shape)

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        original, axis = weight.float(), self._axis(weight.shape)
        changed = original + self.direction.delta(weight)
        others = [dim for dim in range(weight.ndim) if dim != axis]
        length = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
        magnitude = self.magnitude.float().reshape(length.shape)
        return changed * (magnitude / length.clamp(min=torch.finfo(torch.float32).tiny)) - original

    def _tensors(self) -> Tensors:
        return self.direction.tensors() | {"dora_scale": self.magnitude}


def truncated(update: Update, rank: int) -> Update:
    """The first ``rank`` rows of a DyLoRA; what has no such rows is left as it is."""
    if isinstance(update, LowRank):
        return update.truncated(rank)
    if isinstance(update, DoRA):
        return replace(update, direction=truncated(update.direction, rank))
    return update


def smallest(update: Update, weight: torch.Tensor) -> Update:
    """``update`` of a layer with that weight in the form that holds fewest numbers: factors of a LoRA that
    are larger than what they make, as those of a rank above both sides, are multiplied."""
    if not isinstance(update, LowRank) or is_trained(update):
        return update
    factors = (update.up, update.down, update.mid)
    if sum(factor.numel() for factor in factors if factor is not None) <= weight.numel():
        return update
    return Full(diff=update.delta(weight), bias=update.bias)
