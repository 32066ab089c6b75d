"""One network at other ranks: a DyLoRA cut off, or a LoRA brought nearest to itself by an SVD."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lib_ti.core.errors import BadInput
from lib_ti.networks.algebra import LowRank
from lib_ti.networks.files import Network
from lib_ti.networks.svd import Svd, rank_for, svd_of_product
from lib_ti.networks.tools.combine import Updates, Watch, is_conv, low_rank, with_factors

_MOST_RANKS = 1024  # files that a network is cut into


@dataclass(frozen=True)
class Resizing:
    """``rank``, ``conv_rank`` (of 3x3 convolutions): the most that is kept; ``method`` and ``parameter`` as
    ``svd.rank_for`` takes them."""

    rank: int
    conv_rank: int
    method: str = "fixed"
    parameter: float = 1.0


def resized(
    network: Network,
    resizing: Resizing,
    device: torch.device | None = None,
    watch: Watch = lambda done, of: None,
) -> tuple[Updates, dict[str, float]]:
    """The updates, each at its scale, and the share that is kept of each one's Frobenius norm.

    A layer that loses nothing keeps its very factors. Raises BadInput where ``network`` is no LoRA.
    """
    updates: Updates = {}
    kept: dict[str, float] = {}
    for done, (name, update) in enumerate(network.updates.items(), 1):
        lora = low_rank(update, name, network.name)
        svd = svd_of_product(lora.up.flatten(1).to(device), lora.down.flatten(1).to(device))
        most = resizing.conv_rank if is_conv(lora) else resizing.rank
        rank = rank_for(svd.s, most, resizing.method, resizing.parameter)
        updates[name] = lora if rank == lora.rank else _at_rank(lora, svd, rank)
        whole = svd.s.norm()
        kept[name] = float(svd.s[:rank].norm() / whole) if whole > 0 else 1.0
        watch(done, len(network.updates))
    return updates, kept


def _at_rank(lora: LowRank, svd: Svd, rank: int) -> LowRank:
    up, down = (factor.cpu() for factor in svd.factors(rank))
    return with_factors(lora, up, down, alpha=lora.scale * rank)


def ranks_of_dylora(network: Network, unit: int) -> list[int]:
    """``unit``, twice that, and so on to the top rank. Raises BadInput where there is nothing to cut, or too
    much."""
    top = max(low_rank(update, name, network.name).rank for name, update in network.updates.items())
    if not 1 <= unit <= top:
        raise BadInput(f"unit: got {unit}, expected 1 to {top}, the rank of {network.name}.")
    ranks = [*range(unit, top, unit), top]
    if len(ranks) > _MOST_RANKS:
        raise BadInput(
            f"unit: got {unit}, which cuts {network.name} of rank {top} into {len(ranks)} files; at most "
            f"{_MOST_RANKS} are written, so give a larger unit."
        )
    return ranks


def cut_dylora(network: Network, unit: int) -> Iterator[tuple[int, Network]]:
    """Each rank that a DyLoRA was trained for, and the network cut off there.

    alpha stays, so the scale is alpha / rank, as in training.
    """
    for rank in ranks_of_dylora(network, unit):
        yield rank, network.truncated(rank)
