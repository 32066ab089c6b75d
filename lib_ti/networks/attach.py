"""Networks on a living model: added to the answers of its layers, or merged into its weights.

Added, a network costs a little at every step and can change at any; merged, it costs nothing at a step
but a copy of the weights it changes, which come back from that copy to the byte. Either way every
network sees the original weights, so neither order nor number of networks matters.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import Family
from lib_ti.networks.algebra import Full, LowRank, Update, is_trained, moved, smallest
from lib_ti.networks.applied import applied, listed
from lib_ti.networks.attach_arguments import (
    Multiplier,
    check_blocks,
    check_rank,
    checked_multiplier,
    checked_parts,
)
from lib_ti.networks.blocks import BlockWeights, block_weights
from lib_ti.networks.files import Network, read_network
from lib_ti.networks.layers import Layer, Parts, find_layers
from lib_ti.networks.names import Part

log = logging.getLogger(__name__)

_COMPUTED_IN = (torch.float32, torch.float16, torch.bfloat16)
_RECORD = "_ti_studio_networks"  # attribute of a part's module


@dataclass
class Strength:
    """How strongly a network works; looked up at every call of a layer, so that it may change between
    two steps, or two prompts, by assigning to ``parts``."""

    parts: dict[Part, Multiplier]
    blocks: BlockWeights | None = None

    def of(self, layer: Layer) -> Multiplier:
        multiplier = self.parts.get(layer.part, 0.0)
        return multiplier if self.blocks is None else multiplier * self.blocks.of(layer.block)


@dataclass(eq=False)
class _Record:
    """What is attached to one part of a model."""

    attached: list[Attached] = field(default_factory=list)
    # Of weights and biases that are merged into: as they were, on the CPU; None: there was no bias.
    kept: dict[tuple[nn.Module, str], torch.Tensor | None] = field(default_factory=dict)

    @staticmethod
    def of(model: nn.Module) -> _Record:
        record = model.__dict__.get(_RECORD)
        if record is None:
            # Past torch's own, which would look for parameters in it.
            record = model.__dict__[_RECORD] = _Record()
        return record

    def original(self, layer: Layer, attribute: str) -> torch.Tensor | None:
        """The layer's weight or bias as it is without any network."""
        if (layer.module, attribute) in self.kept:
            whole = self.kept[layer.module, attribute]
        else:
            whole = layer.module._parameters[attribute]
        return whole if layer.rows is None or whole is None else whole[layer.rows]


class _Change:
    """What a network does to one layer."""

    def __init__(self, layer: Layer, update: Update, strength: Strength, record: _Record) -> None:
        self.layer, self.update, self.strength, self.record = layer, update, strength, record
        self._ready: Update = update
        self._device: torch.device | None = None

    def added(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> Any:
        """A forward hook."""
        multiplier = self.strength.of(self.layer)
        if isinstance(multiplier, torch.Tensor):
            x = inputs[0]
            multiplier = multiplier.to(x.device, output.dtype).reshape(-1, *(1 for _ in output.shape[1:]))
            return output + self._at(x.device).forward(x, module).to(output.dtype) * multiplier
        if multiplier == 0:
            return None
        x = inputs[0]
        return torch.add(output, self._at(x.device).forward(x, module).to(output.dtype), alpha=multiplier)

    def _at(self, device: torch.device) -> Update:
        """The update where the layer computes, in the form that is fastest there."""
        if self._device != device:
            self._ready = self._prepared(device)
            self._device = device
        return self._ready

    @torch.inference_mode(False)  # what is made here may serve a training later
    def _prepared(self, device: torch.device) -> Update:
        if is_trained(self.update):
            return self.update
        weight = cast(torch.Tensor, self.record.original(self.layer, self.layer.attribute))
        dtype = weight.dtype if weight.dtype in _COMPUTED_IN else torch.float16
        update = smallest(moved(self.update, device), weight)
        if not isinstance(update, LowRank | Full):
            with torch.no_grad():
                update = Full(diff=update.delta(weight.to(device)), bias=update.bias)
        return moved(update, device, dtype)

    def shadowed(self, _module: nn.Module, _inputs: object) -> None:
        """A forward pre-hook of torch's attention: other weights lie over its own for this call."""
        multiplier = self.single()
        if multiplier == 0:
            return
        module = self.layer.module
        for attribute, delta in self.deltas():
            whole = getattr(module, attribute)
            if whole is None:
                raise BadInput(f"{self.layer.name} has no bias that could be changed.")
            change = (delta * multiplier).to(whole.dtype)
            module.__dict__[attribute] = _changed(whole, self.layer.rows, change)

    def unshadowed(self, _module: nn.Module, _inputs: object, _output: object) -> None:
        for attribute in (self.layer.attribute, self.layer.bias_attribute):
            self.layer.module.__dict__.pop(attribute, None)

    def single(self) -> float:
        """The multiplier, where one weight serves all samples."""
        multiplier = self.strength.of(self.layer)
        if isinstance(multiplier, torch.Tensor):
            if not torch.equal(multiplier, multiplier.flatten()[:1].expand_as(multiplier)):
                raise ValueError(f"{self.layer.name} is changed in its weight, which is one for all samples")
            return float(multiplier.flatten()[0])
        return multiplier

    def deltas(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Attribute -> what is added to it, before the multiplier; float32, where the layer's weight is."""
        layer = self.layer
        device = cast(torch.Tensor, layer.module._parameters[layer.attribute]).device
        update = self.update if is_trained(self.update) else moved(self.update, device)
        weight = cast(torch.Tensor, self.record.original(layer, layer.attribute))
        yield layer.attribute, update.delta(weight.to(device))
        if update.bias is not None:
            yield layer.bias_attribute, update.bias.float()


def _changed(whole: torch.Tensor, rows: slice | None, change: torch.Tensor) -> torch.Tensor:
    if rows is None:
        return whole + change
    return torch.cat([whole[: rows.start], whole[rows] + change, whole[rows.stop :]])


class Attached:
    """A network on a model; ``attach`` makes it. As a context it is removed at the end."""

    def __init__(self, network: Network, source: object, layers: Mapping[str, Layer], models: Parts) -> None:
        self.network = network
        self.source = source  # what tells whether two are the same network
        self.strength = Strength({})
        self.merged = False
        self.unmatched: dict[str, str] = {}  # layer name of the file -> why it is not applied
        self._records = {part: _Record.of(model) for part, model in models.items()}
        self._changes: list[_Change] = []
        self._handles: list[RemovableHandle] = []
        for name, update in network.updates.items():
            layer = layers.get(name)
            if layer is None:
                self.unmatched[name] = "the model has no such layer"
            elif not update.fits(layer.weight.shape):
                self.unmatched[name] = f"it does not fit the layer's weight of {tuple(layer.weight.shape)}"
            else:
                self._changes.append(_Change(layer, update, self.strength, self._records[layer.part]))

    def __repr__(self) -> str:
        return f"<{self.network.name}: {self.report}>"

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def report(self) -> str:
        """Such as "applied 264 of 266 modules (linear 232, conv 32), rank 16, alpha 8; not understood:
        lora_unet_conv_in (why); not applied: lora_unet_conv_out (why)"."""
        changed = ((change.layer, change.update) for change in self._changes)
        told = [applied(changed, self.network.layers)]
        for what, reasons in (("not understood", self.network.left_out), ("not applied", self.unmatched)):
            if reasons:
                told.append(f"{what}: {listed(reasons)}")
        return "; ".join(told)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Those that are changed."""
        return tuple(change.layer for change in self._changes)

    def set_multiplier(
        self, multiplier: float | Mapping[Part, Multiplier] = 1.0, blocks: BlockWeights | None = None
    ) -> None:
        """For every part, or for each by name; a part that is not named is left unchanged by the network.

        Raises BadInput.
        """
        parts = checked_multiplier(multiplier, [*self._records])
        before = self.strength.parts, self.strength.blocks
        self.strength.parts, self.strength.blocks = parts, blocks
        if self.merged:
            try:
                self._check_single()
            except ValueError:
                self.strength.parts, self.strength.blocks = before
                raise
            self._rewrite()

    def merge(self) -> None:
        """From now on in the weights; a change of the multiplier writes them anew."""
        if not self.merged:
            self._check_single()
            self._unhook()
            self.merged = True
            self._rewrite()

    def unmerge(self) -> None:
        """From now on added to the answers; the weights are again as they were, to the byte."""
        if self.merged:
            self.merged = False
            self._rewrite()
            self._hook()

    def remove(self) -> None:
        """The model is again as it was, to the byte. More than once does no harm."""
        self._unhook()
        for record in self._records.values():
            with suppress(ValueError):
                record.attached.remove(self)
        if self.merged:
            self.merged = False
            self._rewrite()

    def _begin(self, *, merged: bool) -> None:
        """Take the place of the same network if it is attached already. Raises ValueError, and attaches
        nothing, where it is to be merged and the multiplier is one for each sample."""
        if merged:
            self._check_single()
        for record in self._records.values():
            for other in [other for other in record.attached if other.source == self.source]:
                other.remove()
            record.attached.append(self)
        self._hook()
        if merged:
            self.merge()

    def _check_single(self) -> None:
        """Raises ValueError for a multiplier for each sample, which no weight can have."""
        for change in self._changes:
            change.single()

    def _hook(self) -> None:
        for change in self._changes:
            attention = change.layer.attention
            if attention is None:
                self._handles.append(change.layer.module.register_forward_hook(change.added))
            else:
                self._handles.append(attention.register_forward_pre_hook(change.shadowed))
                # After an exception too.
                self._handles.append(attention.register_forward_hook(change.unshadowed, always_call=True))

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _rewrite(self) -> None:
        """Every weight that this network changes, from its kept copy and all networks that are merged."""
        merged: dict[nn.Module, list[_Change]] = {change.layer.module: [] for change in self._changes}
        # One network is in the record of every part; each layer is to be met once.
        records = self._records.values()
        others = dict.fromkeys(other for record in records for other in record.attached if other.merged)
        for change in (change for other in others for change in other._changes):
            if change.layer.module in merged:
                merged[change.layer.module].append(change)
        for change in self._changes:
            if change.layer.module in merged:  # a fused weight is one for several layers
                _write(change.record, change.layer, merged.pop(change.layer.module))


@torch.no_grad()
def _write(record: _Record, layer: Layer, changes: Sequence[_Change]) -> None:
    """The original weight and bias of a module with ``changes``; where there is none of them, the
    original, byte by byte."""
    module = layer.module
    totals: dict[str, torch.Tensor] = {}
    for change in changes:
        for attribute, delta in change.deltas():
            if attribute not in totals:
                totals[attribute] = _start(record, layer, attribute)
            totals[attribute][change.layer.rows or slice(None)] += delta * change.single()
    for attribute in (layer.attribute, layer.bias_attribute):
        present = module._parameters.get(attribute)
        if attribute in totals and present is not None:
            present.copy_(totals[attribute])
        elif attribute in totals:
            dtype = cast(torch.Tensor, module._parameters[layer.attribute]).dtype
            module._parameters[attribute] = nn.Parameter(totals[attribute].to(dtype), requires_grad=False)
        elif (module, attribute) in record.kept:
            original = record.kept.pop((module, attribute))
            if original is None or present is None:
                module._parameters[attribute] = None
            else:
                present.copy_(original)


def _start(record: _Record, layer: Layer, attribute: str) -> torch.Tensor:
    """The original in float32; it is kept before it is changed for the first time."""
    place, present = (layer.module, attribute), layer.module._parameters.get(attribute)
    weight = cast(torch.Tensor, layer.module._parameters[layer.attribute])
    if place not in record.kept:
        record.kept[place] = None if present is None else present.detach().to("cpu", copy=True)
    kept = record.kept[place]
    if kept is None:
        return torch.zeros(len(weight), device=weight.device)
    return kept.to(weight.device, torch.float32, copy=True)


def attach(
    model: object,
    network: str | Path | Network,
    multiplier: float | Mapping[Part, Multiplier] = 1.0,
    *,
    blocks: Sequence[float] | None = None,
    rank: int | None = None,
    merged: bool = False,
    family: Family | None = None,
) -> Attached:
    """Let ``network`` change ``model`` until it is removed; one that is attached already is replaced.

    ``model``: a diffusers pipeline, a host, its parts by name ("unet", "te"; of SDXL "te1", "te2"), or a
    U-Net or text encoder alone. ``multiplier``: for all parts, or for each; ``blocks``: a list as
    ``blocks.block_weights`` takes it; ``rank``: of a DyLoRA; ``family``: of the model, where its modules
    are not to be asked. Raises BadInput for an argument that is none of these, and where nothing of the
    network fits the model.
    """
    parts, family = checked_parts(model, family)
    multipliers = checked_multiplier(multiplier, [*parts])
    if blocks is not None:
        check_blocks(blocks)
    if rank is not None:
        check_rank(rank)
    source: object = network
    if not isinstance(network, Network):
        source = Path(network).resolve()
        network = read_network(source, family)
    if network.family is not None and network.family != family:
        raise BadInput(f"{network.name} was made for {network.family}, this model is {family}.")
    if rank is not None:
        network = network.truncated(rank)
    attached = Attached(network, source, find_layers(parts, family), parts)
    if not attached.layers:
        name, why = next(iter(attached.unmatched.items()))
        raise BadInput(
            f"{network.name} changes nothing in this model ({family}): of its {len(network.updates)} layers "
            f"none fits; {name}: {why}."
        )
    attached.set_multiplier(multipliers, None if blocks is None else block_weights(blocks, family))
    attached._begin(merged=merged)
    log.info("%s: %s", network.name, attached.report)
    for name, why in attached.unmatched.items():
        log.warning("%s: %s is not applied: %s", network.name, name, why)
    return attached
