"""What people are told of a network that was put on a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from lib_ti.networks.algebra import LowRank, Update
from lib_ti.networks.files import Network
from lib_ti.networks.layers import Layer

_NAMED_AT_MOST = 3


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


def listed(reasons: Mapping[str, str]) -> str:
    """Such as "lora_unet_conv_in (it does not fit), ...": the first few, each with its reason."""
    some = [f"{name} ({why})" for name, why in list(reasons.items())[:_NAMED_AT_MOST]]
    return ", ".join([*some, *(["..."] if len(reasons) > _NAMED_AT_MOST else [])])


def notes_of(network: Network) -> tuple[str, ...]:
    """A sentence each for the layers that are not understood and for the keys that are of no use."""
    notes = []
    if network.left_out:
        notes.append(
            f"{network.name}: {len(network.left_out)} of its {network.layers} layers are not understood and "
            f"left out: {listed(network.left_out)}."
        )
    if network.unread:
        notes.append(
            f"{network.name}: {len(network.unread)} of its keys are not used: {listed(network.unread)}."
        )
    return tuple(notes)
