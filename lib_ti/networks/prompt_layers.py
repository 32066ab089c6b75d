"""Changes of layers that come and go from one forward pass to the next; no weight is written to.

Two ways, of which the cheaper is taken for each layer: the change is added to the layer's answer, for LoRAs
by two small products; or the layer computes with W + dW, kept beside W for as long as both stay the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F

from lib_ti.networks.algebra import LowRank, Update, moved
from lib_ti.networks.layers import Layer

# Of a layer's own products; where the added ones are more, a second weight is kept. 0.1 is rank 16 at 320
# channels.
_DEAR = 0.08


@dataclass(frozen=True)
class SomeRows:
    """``chosen`` ones of a batch of ``total`` pictures."""

    chosen: tuple[int, ...]
    total: int

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """Their places in ``x``, where a picture may be several tiles, one behind the other (Hypertile)."""
        return _places(self.chosen, max(1, len(x) // self.total), x.device)


@lru_cache(maxsize=32)
def _places(chosen: tuple[int, ...], tiles: int, device: torch.device) -> torch.Tensor:
    return torch.tensor([row * tiles + tile for row in chosen for tile in range(tiles)], device=device)


# Where a network acts in a batch: nowhere, everywhere, or on these rows.
Rows: TypeAlias = "bool | SomeRows"


@dataclass(frozen=True)
class Change:
    """What one network does to one layer. ``network``: its place in the list of ``Rows``."""

    network: int
    update: Update
    weight: float

    @property
    def is_product(self) -> bool:
        update = self.update
        return type(update) is LowRank and update.mid is None and update.bias is None

    def cost(self, shape: Sequence[int]) -> float:
        """Of adding it to the answer, in products of a layer with that weight."""
        if not isinstance(self.update, LowRank) or self.update.mid is not None:
            return 1.0
        size = math.prod(shape)
        return self.update.rank * (size / shape[0] + shape[0]) / size


class HungLayers:
    """Hooks on the layers named, until ``remove``."""

    def __init__(
        self,
        changes: Mapping[Layer, Sequence[Change]],
        rows: Sequence[Rows],
        refresh: Callable[[nn.Module], None],
    ) -> None:
        """``rows``: of each network, looked up at every pass. ``refresh(module)``: called before weights are
        read, where somebody else changes them at the moment of their use."""
        targets: dict[int, dict[Layer, Sequence[Change]]] = {}
        for layer, found in changes.items():
            targets.setdefault(id(layer.attention or layer.module), {})[layer] = found
        room = _Room()
        self._targets = [_Target(found, rows, refresh, room) for found in targets.values()]

    def remove(self) -> None:
        for target in self._targets:
            target.remove()
        self._targets = []


class _Room:
    """How many bytes of second weights a device may hold: half of what is free on a card now."""

    def __init__(self) -> None:
        self._left: dict[torch.device, float] = {}

    def take(self, weight: torch.Tensor) -> bool:
        device = weight.device
        if device not in self._left:
            is_card = device.type == "cuda"
            self._left[device] = torch.cuda.mem_get_info(device)[0] / 2 if is_card else math.inf
        size = weight.numel() * weight.element_size()
        if size > self._left[device]:
            return False
        self._left[device] -= size
        return True


class _Target:
    """A module whose calling uses the layers: one of its own, or the projections of an attention."""

    def __init__(
        self,
        layers: Mapping[Layer, Sequence[Change]],
        rows: Sequence[Rows],
        refresh: Callable[[nn.Module], None],
        room: _Room,
    ) -> None:
        self._layers, self._rows, self._refresh = layers, rows, refresh
        first = next(iter(layers))
        self._module = first.attention or first.module
        self._changes = [] if first.attention else layers[first]
        self._must_merge = first.attention is not None
        self._may_merge = self._must_merge or (self._is_dear() and room.take(first.weight))
        self._merged: dict[tuple[nn.Module, str], torch.Tensor] = {}
        self._merged_for: object = None
        self._products: dict[object, tuple[torch.Tensor, torch.Tensor]] = {}
        self._in_place: list[tuple[nn.Module, str]] = []  # what stands in a weight's place now
        # "always_call": an exception must not leave a second weight in the place of the first.
        self._handles = [self._module.register_forward_hook(self._after, always_call=True)]
        if self._may_merge:
            self._handles.append(self._module.register_forward_pre_hook(self._before))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _is_dear(self) -> bool:
        shape = next(iter(self._layers)).weight.shape
        return sum(change.cost(shape) for change in self._changes) > _DEAR

    def _active(self) -> tuple[int, ...]:
        numbers = {change.network for found in self._layers.values() for change in found}
        return tuple(sorted(number for number in numbers if self._rows[number] is not False))

    def _merges(self, active: Sequence[int]) -> bool:
        """What acts on some rows alone is no weight of the layer."""
        return self._may_merge and all(self._rows[number] is True for number in active)

    def _before(self, module: nn.Module, _args: Any) -> None:
        active = self._active()
        if not active or not self._merges(active):
            return
        self._refresh(module)
        weights = [layer.module._parameters[layer.attribute] for layer in self._layers]
        now = active, [(id(w), w.data_ptr(), w._version, w.dtype) for w in weights if w is not None]
        if now != self._merged_for:
            self._merged, self._merged_for = self._merge(active), now
        for (owner, name), tensor in self._merged.items():
            # Found before the parameter of that name, which nobody touches.
            owner.__dict__[name] = tensor
            self._in_place.append((owner, name))

    @torch.no_grad()
    def _merge(self, active: Sequence[int]) -> dict[tuple[nn.Module, str], torch.Tensor]:
        sums: dict[tuple[nn.Module, str], torch.Tensor] = {}
        for layer, changes in self._layers.items():
            for change in changes:
                if change.network in active:
                    update = moved(change.update, layer.weight.device)
                    delta = update.delta(layer.weight) * change.weight
                    _sum(sums, layer, layer.attribute, delta)
                    if update.bias is not None:
                        _sum(sums, layer, layer.bias_attribute, update.bias.float() * change.weight)
        return {(owner, name): _like(owner, name, total) for (owner, name), total in sums.items()}

    def _after(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._in_place:
            for owner, name in self._in_place:
                owner.__dict__.pop(name, None)
            self._in_place = []
            return None
        active = self._active()
        if not active or self._must_merge or output is None:
            return None
        return self._added(module, args[0], output, active)

    def _added(
        self, module: nn.Module, x: torch.Tensor, output: torch.Tensor, active: Sequence[int]
    ) -> torch.Tensor:
        """The answer with every change; into its own memory, where no gradient wants it as it was."""
        together = [c for c in self._changes if c.network in active and self._rows[c.network] is True]
        products = tuple(change.network for change in together if change.is_product)
        if torch.is_grad_enabled():
            output = output.clone()
        if products:
            _add_product(module, x, output, *self._product(products, module, x))
        for change in self._changes:
            rows = self._rows[change.network]
            if rows is False or change.network in products:
                continue
            update = moved(change.update, x.device)
            if not isinstance(rows, SomeRows):
                output += (update.forward(x, module) * change.weight).to(output.dtype)
            else:
                places = rows.of(x)
                added = update.forward(x[places], module) * change.weight
                output[places] = output[places] + added.to(output.dtype)
        return output

    def _product(
        self, networks: tuple[int, ...], module: nn.Module, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All these low-rank updates as one: down (r, n[, k, k]) and up (r, m) or (m, r, 1, 1)."""
        key = networks, x.device, x.dtype
        if key not in self._products:
            weight = module.get_parameter("weight")
            chosen = [(c, c.update) for c in self._changes if c.network in networks]
            downs, ups = [], []
            for change, update in chosen:
                assert isinstance(update, LowRank)
                downs.append(update.down.float().reshape(update.rank, *weight.shape[1:]))
                ups.append(update.up.float().flatten(1) * (update.scale * change.weight))
            down, up = torch.cat(downs), torch.cat(ups, dim=1)
            up = up.t().contiguous() if weight.ndim == 2 else up[:, :, None, None]
            self._products[key] = down.to(x.device, x.dtype), up.to(x.device, x.dtype)
        return self._products[key]


def _add_product(
    module: nn.Module, x: torch.Tensor, output: torch.Tensor, down: torch.Tensor, up: torch.Tensor
) -> None:
    if down.ndim == 2:
        hidden, up = F.linear(x, down).to(output.dtype), up.to(output.dtype)
        if output.is_contiguous():
            output.view(-1, output.shape[-1]).addmm_(hidden.flatten(0, -2), up)
        else:
            output += hidden @ up
    else:
        # Its stride and padding, and its padding mode, which programs change to make pictures tile.
        hidden = module._conv_forward(x, down, None)  # type: ignore[operator]
        output += F.conv2d(hidden, up).to(output.dtype)


def _sum(
    sums: dict[tuple[nn.Module, str], torch.Tensor], layer: Layer, name: str, change: torch.Tensor
) -> None:
    """Into ``sums``, which begin as the whole weights or biases of the layers' modules in float32."""
    key = layer.module, name
    if key not in sums:
        before = layer.module._parameters[name]
        sums[key] = torch.zeros_like(change) if before is None else before.detach().float().clone()
    part = sums[key] if layer.rows is None else sums[key][layer.rows]
    part += change.to(part.device)


def _like(owner: nn.Module, name: str, total: torch.Tensor) -> torch.Tensor:
    """In the type of the parameter in whose place it stands."""
    parameter = owner._parameters[name]
    return total.to(next(owner.parameters()).dtype if parameter is None else parameter.dtype)
