"""Several networks as one: their sum exactly, at the sum of their ranks, or nearest to it at a given rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lib_ti.core.errors import BadInput
from lib_ti.networks.algebra import LowRank, Update, tucker
from lib_ti.networks.files import Network
from lib_ti.networks.svd import clamped, svd_of_product

Updates = dict[str, LowRank]
Watch = Callable[[int, int], None]  # layers done, of so many


@dataclass(frozen=True)
class Term:
    """A network times a number, which may be negative."""

    network: Network
    ratio: float


def low_rank(update: Update, name: str, network: str) -> LowRank:
    """``update`` as a product of two factors. Raises BadInput where it is none."""
    if not isinstance(update, LowRank):
        raise BadInput(
            f"{network} changes {name} by {type(update).__name__}, which is no product of two factors; "
            "merge it into a checkpoint instead, and extract a LoRA from that if you need one."
        )
    return without_core(update)


def without_core(update: LowRank) -> LowRank:
    """Its Tucker core, where it has one, multiplied into ``down``."""
    if update.mid is None:
        return update
    up, mid, down = update.up.float().flatten(1), update.mid.float(), update.down.float().flatten(1)
    rows = len(up)
    if rows >= update.rank:
        return replace(update, down=torch.einsum("rs...,si->ri...", mid, down), mid=None)
    # Of a rank above the outputs the whole change is smaller than the core with one factor.
    whole, alpha = tucker(up, mid, down), update.scale * rows
    return replace(update, up=torch.eye(rows)[:, :, None, None], down=whole, mid=None, alpha=alpha)


def add(terms: Sequence[Term], shuffle: torch.Generator | None = None) -> Updates:
    """The exact sum: of each layer the factors stand side by side, so ranks add up.

    ``shuffle``: draws an order of the rank's rows, without which each network could be cut out again.
    Raises BadInput for networks that are no LoRA.
    """
    return {name: _sum(own, shuffle) for name, own in _by_layer(terms)}


def _by_layer(terms: Sequence[Term]) -> Iterator[tuple[str, list[tuple[LowRank, float]]]]:
    names = dict.fromkeys(name for term in terms for name in term.network.updates)
    for name in names:
        own = [
            (low_rank(term.network.updates[name], name, term.network.name), term.ratio)
            for term in terms
            if name in term.network.updates
        ]
        shapes = {(update.up.shape[0], update.down.shape[1:].numel()) for update, _ in own}
        if len(shapes) > 1:
            listed = " and ".join(f"{out} x {wide}" for out, wide in sorted(shapes))
            raise BadInput(f"the networks are of different families: {name} is {listed}.")
        yield name, own


def _sum(own: Sequence[tuple[LowRank, float]], shuffle: torch.Generator | None) -> LowRank:
    ups, downs = [], []
    for update, ratio in own:
        # Half of the weight to each factor, so that neither becomes too small for half precision.
        weight = ratio * update.scale
        half = abs(weight) ** 0.5
        ups.append(update.up.float() * half)
        downs.append(update.down.float() * (half if weight > 0 else -half))
    up = torch.cat([factor.flatten(1) for factor in ups], 1)
    down = torch.cat([factor.flatten(1) for factor in downs])
    if shuffle is not None:
        order = torch.randperm(len(down), generator=shuffle)
        up, down = up[:, order], down[order]
    kernel = downs[0].shape[1:]
    return LowRank(
        up=up.reshape(*up.shape, *(1 for _ in kernel[1:])),
        down=down.reshape(-1, *kernel),
        alpha=float(len(down)),
        bias=_bias(own),
    )


def _bias(own: Sequence[tuple[LowRank, float]]) -> torch.Tensor | None:
    biases = [update.bias.float() * ratio for update, ratio in own if update.bias is not None]
    return torch.stack(biases).sum(0) if biases else None


def is_conv(update: LowRank) -> bool:
    """Whether the layer is a convolution that sees more than one pixel."""
    return update.down.ndim == 4 and update.down.shape[2:] != (1, 1)


def add_at_rank(
    terms: Sequence[Term],
    rank: int | None,
    conv_rank: int | None = None,
    *,
    clamp: float = 1.0,
    device: torch.device | None = None,
    watch: Watch = lambda done, of: None,
) -> Updates:
    """What is nearest to the sum at ``rank``; of 3x3 convolutions at ``conv_rank`` (default: ``rank``).

    Where ``rank`` is None each layer takes the largest rank that it has among ``terms``. ``clamp``: as
    ``svd.clamped``.
    """
    layers = dict(_by_layer(terms))
    updates: Updates = {}
    for done, (name, own) in enumerate(layers.items(), 1):
        whole = _sum(own, None)
        wanted = conv_rank if conv_rank is not None and is_conv(whole) else rank
        most = wanted or max(update.rank for update, _ in own)
        up, down = (factor.flatten(1).to(device) for factor in (whole.up, whole.down))
        svd = svd_of_product(up, down)
        up, down = (factor.cpu() for factor in clamped(*svd.factors(min(most, len(svd.s))), clamp))
        updates[name] = with_factors(whole, up, down, alpha=float(len(down)))
        watch(done, len(layers))
    return updates


def with_factors(update: LowRank, up: torch.Tensor, down: torch.Tensor, alpha: float) -> LowRank:
    """``update`` with factors given as matrices, in the shapes that its layer wants."""
    kernel = update.down.shape[1:]
    return replace(
        update,
        up=up.reshape(*up.shape, *(1 for _ in kernel[1:])),
        down=down.reshape(-1, *kernel),
        alpha=alpha,
    )


def common_metadata(terms: Sequence[Term]) -> Mapping[str, str]:
    """What all of the networks say of themselves in the same words."""
    first, *others = (term.network.metadata for term in terms)
    return {key: value for key, value in first.items() if all(o.get(key) == value for o in others)}
