"""What a network's settings mean for each layer of a model: its rank, its rate; and the files they name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lib_ti.formats.embedding import Family
from lib_ti.methods.network_rates import RateSettings
from lib_ti.methods.network_settings import NetworkSettings
from lib_ti.networks.block_numbers import HIGHEST_RANK, block_weights, read_numbers, read_ranks
from lib_ti.networks.layers import Layer, trained_layers
from lib_ti.networks.names import BLOCKS
from lib_ti.networks.trainable import Dropout, Size

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_MULTIPLIER = re.compile(rf"(.*\S)\s*:\s*({_NUMBER})")  # not the colon of C:\net.safetensors


def plan_sizes(layers: Mapping[str, Layer], settings: NetworkSettings, family: Family) -> dict[str, Size]:
    """The layers that the settings have trained, by name, with the size of each update. Raises BadInput."""
    weights = weights_of(settings, family)
    conv = bool(settings.conv_rank or settings.conv_block_dims)
    linear_sizes = _sizes(settings, "", family)
    conv_sizes = _sizes(settings, "conv_", family)
    plan = {}
    for name, layer in trained_layers(layers, conv=conv).items():
        in_unet = layer.part == "unet"
        if settings.train_parts not in ("both", "unet" if in_unet else "text"):
            continue
        if not in_unet:
            size = Size(settings.rank, settings.alpha or settings.rank)
        elif layer.block is None or not weights[layer.block]:
            continue
        else:
            size = (conv_sizes if layer.kind == "conv" else linear_sizes)[layer.block]
        if size.rank:
            plan[name] = size
    return plan


def _sizes(settings: NetworkSettings, prefix: str, family: Family) -> list[Size]:
    """Of each block of the U-Net; ``prefix``: "" or "conv_"."""
    count, flag = BLOCKS[family], prefix.replace("_", "-")
    rank, alpha = (settings.conv_rank, settings.conv_alpha) if prefix else (settings.rank, settings.alpha)
    dims, alphas = getattr(settings, f"{prefix}block_dims"), getattr(settings, f"{prefix}block_alphas")
    ranks = read_ranks(f"{flag}block-dims", dims, family) if dims else [rank] * count
    given = (
        read_numbers(f"{flag}block-alphas", alphas, count, most=HIGHEST_RANK) if alphas else [alpha] * count
    )
    return [Size(rank, alpha or rank) for rank, alpha in zip(ranks, given, strict=True)]


def weights_of(settings: RateSettings, family: Family) -> list[float]:
    """A weight for each of the U-Net's blocks. Raises BadInput."""
    return block_weights(
        settings.down_lr_weight,
        settings.mid_lr_weight,
        settings.up_lr_weight,
        family,
        settings.block_lr_zero_threshold,
    )


def layer_share(layer: Layer, settings: RateSettings, family: Family) -> float:
    """The learning rate of a layer, as a multiple of the job's."""
    if layer.part == "te2":
        return settings.second_text_rate or settings.text_rate
    if layer.block is None:
        return settings.text_rate
    return settings.unet_rate * weights_of(settings, family)[layer.block]


def up_ratio(layer: Layer, settings: RateSettings) -> float:
    """The learning rate of the matrix that starts at zero, as a multiple of the layer's."""
    own = settings.unet_up_rate if layer.part == "unet" else settings.text_up_rate
    return own or settings.up_rate


def dropout_of(settings: NetworkSettings) -> Dropout:
    """What each step leaves out."""
    return Dropout(settings.dropout, settings.rank_dropout, settings.module_dropout)


def base_networks(settings: NetworkSettings) -> list[tuple[Path, float]]:
    """The files of ``base_weights``, each with its multiplier."""
    found = []
    for line in filter(None, map(str.strip, settings.base_weights.splitlines())):
        own = _MULTIPLIER.fullmatch(line)
        file, multiplier = (own[1], float(own[2])) if own else (line, settings.base_multiplier)
        found.append((Path(file).expanduser(), multiplier))
    return found
