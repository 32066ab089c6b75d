"""Networks at work in a model while it draws: which of them acts where, at which step, on which pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from lib_ti.core.errors import BadInput
from lib_ti.formats.embedding import Family
from lib_ti.networks.algebra import Update, smallest
from lib_ti.networks.applied import applied, notes_of
from lib_ti.networks.files import Network, read_network
from lib_ti.networks.layers import Layer, Parts, find_layers
from lib_ti.networks.names import Part
from lib_ti.networks.prompt import NetworkCall
from lib_ti.networks.prompt_files import stamp
from lib_ti.networks.prompt_layers import Change, HungLayers, Rows, SomeRows

_UNET: Part = "unet"
_KEPT = 4  # networks that stay in memory when they are not used


@dataclass(frozen=True)
class Called:
    """A call with the file that it means, as this was when it was called."""

    call: NetworkCall
    file: Path
    stamp: tuple[int, int]
    negative: bool  # in the negative prompt: it acts on the unconditional half alone

    @classmethod
    def of(cls, call: NetworkCall, file: Path, *, negative: bool = False) -> Called:
        return cls(call, file, stamp(file), negative)


class PromptNetworks:
    """What prompts call, hung into a model until ``remove``; silent until told what is read or drawn."""

    def __init__(
        self,
        parts: Parts,
        family: Family,
        calls: Sequence[Called],
        refresh: Callable[[nn.Module], None] = lambda module: None,
    ) -> None:
        """``refresh(module)``: called before a module's weights are read, where somebody else writes to them
        at the moment of their use. ``refused`` and ``told`` then say in sentences which networks cannot be
        used and what is missing of others; the rest is used, as ``reports`` says of each."""
        self.refused: list[str] = []
        self.told: list[str] = []
        self.reports: dict[Called, str] = {}
        self._parts = dict(parts)
        self._calls = list(calls)
        self._rows: list[Rows] = [False] * len(calls)  # of each call, now
        self._acting: list[bool] = []  # of each call, while it is drawn
        self._negative: list[bool] = []  # of the batch that is drawn; the U-Net may get it in pieces
        self._taken = 0
        layers = find_layers(parts, family)
        changes: dict[Layer, list[Change]] = {}
        for number, called in enumerate(calls):
            try:
                for name, update, weight in self._changes(called, layers, family):
                    changes.setdefault(layers[name], []).append(Change(number, update, weight))
            except BadInput as error:
                self.refused.append(f"{called.call.name} is not used: {error}")
        self._layers = HungLayers(changes, self._rows, refresh)
        self._handle = parts[_UNET].register_forward_pre_hook(self._before_unet, with_kwargs=True)

    def _changes(
        self, called: Called, layers: Mapping[str, Layer], family: Family
    ) -> Iterator[tuple[str, Update, float]]:
        """Layer, what changes there, and how much of it. Raises BadInput for a network of no use here."""
        call, network = called.call, _read(called.file, called.stamp, family)
        if network.family not in (family, None):
            raise BadInput(f"it was made for {network.family}, and the checkpoint is {family}.")
        if call.rank:
            network = network.truncated(call.rank)
        blocks = call.blocks.weights(family)
        fitting = {
            name: update
            for name, update in network.updates.items()
            if name in layers and update.fits(layers[name].weight.shape)
        }
        missing = sorted(network.updates.keys() - fitting.keys())
        if not fitting:
            raise BadInput(f"none of its {len(missing)} layers, such as {missing[0]}, is in the checkpoint.")
        if missing:
            self.told.append(
                f"{call.name}: {len(missing)} of {len(network.updates)} layers are not in the checkpoint, "
                f"or of another size: {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}."
            )
        self.told += notes_of(network)
        changed = ((layers[name], update) for name, update in fitting.items())
        self.reports[called] = f"{call.name}: {applied(changed, network.layers)}"
        for name, update in fitting.items():
            layer = layers[name]
            weight = call.unet if layer.part == _UNET else call.text
            if weight := weight * blocks.of(layer.block):
                yield name, smallest(update, layer.weight), weight

    def hangs_in(self, parts: Parts) -> bool:
        """Whether these are the very modules it was made for."""
        return self._parts.keys() == parts.keys() and all(self._parts[k] is part for k, part in parts.items())

    @contextmanager
    def reading(self, *, negative: bool, hires: bool = False) -> Iterator[tuple[object, ...]]:
        """While prompts, or negative ones, are read. Gives what acts, for those who keep conditions: of two
        equal texts read with equal keys one is enough."""
        acting = [
            called.call.text != 0
            and called.call.acts_in(hires_pass=hires)
            and (negative or not called.negative)
            for called in self._calls
        ]
        self._rows[:] = acting
        try:
            yield tuple(called for called, acts in zip(self._calls, acting, strict=True) if acts)
        finally:
            self.rest()

    def denoise(self, share: float, negative: Sequence[bool], *, hires: bool = False) -> None:
        """From now on the U-Net draws: ``share`` of the steps is done; ``negative``: which rows of the
        batch are the negative prompt's. The U-Net may be given them in several pieces."""
        self._acting = [
            called.call.acts_in(hires_pass=hires) and called.call.acts_at(share) for called in self._calls
        ]
        self._negative, self._taken = list(negative), 0

    def rest(self) -> None:
        """Nothing acts until it is told what is read or drawn next."""
        self._rows[:] = [False] * len(self._calls)
        self._negative = []

    def remove(self) -> None:
        self._handle.remove()
        self._layers.remove()

    def _before_unet(self, _unet: nn.Module, args: Any, named: Mapping[str, Any]) -> None:
        if not self._negative:
            return
        x = next(iter(args or named.values()))
        rows = [self._negative[(self._taken + i) % len(self._negative)] for i in range(len(x))]
        self._taken += len(x)
        for number, (called, acts) in enumerate(zip(self._calls, self._acting, strict=True)):
            self._rows[number] = acts and (not called.negative or _where(rows))


def _where(rows: Sequence[bool]) -> Rows:
    if all(rows) or not any(rows):
        return all(rows)
    return SomeRows(tuple(i for i, chosen in enumerate(rows) if chosen), len(rows))


@lru_cache(maxsize=_KEPT)
def _read(file: Path, _stamp: tuple[int, int], model: Family) -> Network:
    return read_network(file, model)
