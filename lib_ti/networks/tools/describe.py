"""What a network is: its family, algorithms, ranks, and how much it changes each layer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lib_ti.networks.algebra import IA3, Full, LoHa, LoKr, LowRank, Update
from lib_ti.networks.files import Network
from lib_ti.networks.tools.norms import norm_of

# What people call them, where that is not the class's name.
_NAMES: Mapping[type[Update], str] = {LowRank: "LoRA", IA3: "(IA)3", Full: "full"}


def describe(network: Network) -> dict[str, Any]:
    """As JSON values. ``norm``: Frobenius, of the change at multiplier 1; None where it depends on the
    weights that are changed."""
    layers = {
        name: {
            "algorithm": _NAMES.get(type(update), type(update).__name__),
            "rank": update.rank,
            "alpha": alpha_of(update),
            "norm": norm_of(update),
        }
        for name, update in network.updates.items()
    }
    return {
        "name": network.name,
        "family": network.family,
        "modules": len(layers),
        "algorithms": counted(layer["algorithm"] for layer in layers.values()),
        "parts": counted(_part(name) for name in layers),
        "ranks": _told(layer["rank"] for layer in layers.values()),
        "alphas": _told(layer["alpha"] for layer in layers.values()),
        "layers": layers,
        "embeddings": list(network.embeddings),
        "not understood": dict(network.left_out),
        "unread": {**network.left_out, **network.unread},
        "metadata": dict(network.metadata),
    }


def counted(values: Any) -> dict[str, int]:
    """The most frequent first."""
    return {str(value): count for value, count in Counter(values).most_common()}


def _told(values: Iterable[object]) -> dict[str, int]:
    return counted(value for value in values if value is not None)


def _part(name: str) -> str:
    found = re.match(r"lora_(unet|te\d?)_", name)
    return found[1] if found else "?"


def alpha_of(update: Update) -> float | None:
    """None where the algorithm has no such number."""
    if isinstance(update, LowRank | LoHa | LoKr) and update.rank is not None:
        return update.scale * update.rank
    return None
