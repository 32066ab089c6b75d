"""Networks with random weights, for the tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lib_ti.networks.algebra import LowRank, Update
from lib_ti.networks.files import Network
from lib_ti.networks.layers import Layer


def low_rank(layer: Layer, rank: int, generator: torch.Generator, strength: float = 0.3) -> LowRank:
    """Of a size that shows in the layer's answer."""
    m, n, *kernel = layer.weight.shape
    rank = min(rank, m, n)
    down = torch.randn(rank, n, *kernel, generator=generator)
    up = torch.randn(m, rank, *(1 for _ in kernel), generator=generator)
    size = layer.weight.float().norm() / (m * n * down[0, 0].numel()) ** 0.5
    return LowRank(down=down, up=up * size * strength / rank**0.5, alpha=rank / 2)


def random_updates(layers: Mapping[str, Layer], rank: int = 4, seed: int = 1) -> dict[str, Update]:
    generator = torch.Generator().manual_seed(seed)
    return {name: low_rank(layer, rank, generator) for name, layer in layers.items()}


def random_network(layers: Mapping[str, Layer], name: str = "random", seed: int = 1) -> Network:
    return Network(name, None, random_updates(layers, seed=seed))
