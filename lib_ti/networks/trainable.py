"""Networks that learn: LoRA (LierLa, C3Lier; arXiv 2106.09685) and DyLoRA (arXiv 2210.07558)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.nn import functional as F

from lib_ti.core.randomness import generator_at
from lib_ti.networks.algebra import LowRank, answer
from lib_ti.networks.layers import Layer

_START = 0  # the place of the random numbers of the start; steps count from 1


@dataclass(frozen=True)
class Size:
    """Of one layer's update: its rank, and alpha, which divided by the rank is its scale."""

    rank: int
    alpha: float


@dataclass(frozen=True)
class Dropout:
    """Shares of what is left out of a forward pass, at random: numbers between the two matrices, rows of
    the rank for a whole sample, whole layers."""

    numbers: float = 0.0
    rows: float = 0.0
    layers: float = 0.0


@dataclass
class Turn:
    """What holds in every layer while gradients are recorded; whoever else asks gets the whole network."""

    rank: int | None = None  # only the first so many rows take part; None: all
    learned: int | None = None  # of those the last so many learn; None: all
    place: tuple[int, ...] = ()  # seed and place of dropout's random numbers; (): nothing is left out


@dataclass(frozen=True, eq=False, kw_only=True)
class Learning(LowRank):
    """An update whose matrices learn. They are float32, whatever the model is."""

    turn: Turn = field(default_factory=Turn)
    dropout: Dropout = Dropout()
    number: int = 0  # of the layer, which has random numbers of its own

    @classmethod
    def begin(cls, layer: Layer, size: Size, seed: int, turn: Turn, dropout: Dropout) -> Learning:
        """The identity: ``up`` is zero, ``down`` uniform within 1 / sqrt(n) (Kaiming's, a = sqrt(5))."""
        outputs, inputs, *kernel = layer.weight.shape
        number, device = zlib.crc32(layer.name.encode()), layer.weight.device
        bound = 1 / math.sqrt(inputs * math.prod(kernel))
        down = torch.empty(size.rank, inputs, *kernel)
        down.uniform_(-bound, bound, generator=generator_at(seed, _START, number))
        return cls(
            down=down.to(device).requires_grad_(),
            up=torch.zeros(outputs, size.rank, *(1 for _ in kernel), device=device).requires_grad_(),
            alpha=size.alpha,
            turn=turn,
            dropout=dropout,
            number=number,
        )

    def now(self) -> LowRank:
        """What takes part in this turn; alpha over the rank of the turn is its scale."""
        if self.turn.rank is None or not torch.is_grad_enabled():
            return LowRank(down=self.down, up=self.up, alpha=self.alpha)
        rank = self.turn.rank
        down, up = self.down[:rank], self.up[:, :rank]
        if self.turn.learned is not None:
            known = rank - self.turn.learned
            down = torch.cat([down[:known].detach(), down[known:]])
            up = torch.cat([up[:, :known].detach(), up[:, known:]], dim=1)
        return LowRank(down=down, up=up, alpha=self.alpha)

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight knows no samples, and nothing of what is between the matrices: rows, where any are left
        out, are so for all samples, and numbers are not left out."""
        now = self.now()
        if self._drops:
            device = now.down.device
            kept = self._kept(self.dropout.rows, [len(now.down)], device, 1) * self._layer_kept(device)
            now = replace(now, down=now.down * kept.view(-1, *(1 for _ in now.down.shape[1:])))
        return now.delta(weight)

    def forward(self, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        now = self.now()
        if not self._drops:
            return now.forward(x, module)
        hidden, dropout, device = answer(x, module, now.down), self.dropout, x.device
        is_conv = now.up.ndim == 4
        # (samples, rank, height, width) or (samples, ..., rank): a row is left out of a sample everywhere.
        rows = [1] * hidden.ndim
        rows[0], rows[1 if is_conv else -1] = len(hidden), len(now.down)
        kept = self._kept(dropout.numbers, hidden.shape, device, 0)
        kept = kept * self._kept(dropout.rows, rows, device, 1)
        kept = kept * self._layer_kept(device)
        hidden = hidden * (kept * now.scale).to(hidden.dtype)
        return (F.conv2d if is_conv else F.linear)(hidden, now.up.to(hidden.dtype))

    @property
    def _drops(self) -> bool:
        return bool(self.turn.place) and self.dropout != Dropout() and torch.is_grad_enabled()

    def _layer_kept(self, device: torch.device) -> torch.Tensor:
        """0 or 1: a layer that takes part does so at its usual strength."""
        return self._kept(self.dropout.layers, [1], device, 2) * (1 - self.dropout.layers)

    def _kept(self, share: float, shape: Sequence[int], device: torch.device, which: int) -> torch.Tensor:
        """0 for what is left out, 1 / (1 - share) for the rest. A forward pass that is computed again, as
        checkpointing does, leaves out the same."""
        if not share:
            return torch.ones(1, device=device)
        place = generator_at(*self.turn.place, self.number, which)
        generator = torch.Generator(device).manual_seed(place.initial_seed())
        kept = torch.rand(list(shape), generator=generator, device=device) >= share
        return kept / (1 - share)

    @torch.no_grad()
    def limit_norm(self, limit: float) -> None:
        """Shrink both matrices alike where the change of the weight has a larger norm than ``limit``."""
        up, down = self.up.flatten(1), self.down.flatten(1)
        # |U D|^2 = tr(U^T U D D^T), without ever making U D.
        norm = ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt() * abs(self.scale)
        factor = (limit / norm.clamp(min=limit)).sqrt()
        self.up.mul_(factor)
        self.down.mul_(factor)


def rank_of_step(seed: int, step: int, rank: int, unit: int) -> int:
    """DyLoRA's rank of a step: a multiple of ``unit`` up to ``rank``, each as likely (section 3.1)."""
    draw = torch.randint(rank // unit, (1,), generator=generator_at(seed, step, _START))
    return (int(draw) + 1) * unit
