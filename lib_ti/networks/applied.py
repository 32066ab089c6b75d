"""What people are told of a network that was put on a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lib_ti.networks.algebra import LowRank, Update
from lib_ti.networks.layers import Layer


def applied(changed: Iterable[tuple[Layer, Update]], total: int) -> str:
    """Such as "applied 264 of 264 modules (linear 232, conv 32), rank 16, alpha 8"."""
    changed = list(changed)
    kinds = Counter(layer.kind.removesuffix("1x1") for layer, _ in changed)
    listed = ", ".join(f"{kind} {kinds[kind]}" for kind in ("linear", "conv", "norm") if kinds[kind])
    text = f"applied {len(changed)} of {total} modules ({listed})"
    ranks = sorted({update.rank for _, update in changed if update.rank})
    alphas = sorted({update.scale * update.rank for _, update in changed if isinstance(update, LowRank)})
    for name, numbers in (("rank", ranks), ("alpha", alphas)):
        if numbers:
            span = (numbers[0], numbers[-1]) if len(numbers) > 1 else numbers
            text += f", {name} {' to '.join(f'{number:g}' for number in span)}"
    return text
