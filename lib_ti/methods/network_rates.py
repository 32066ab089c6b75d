"""Who learns how fast: learning rates of a network's parts, as multiples of the job's."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.settings import option
from lib_ti.formats.embedding import Family
from lib_ti.networks.block_numbers import block_weights
from lib_ti.networks.layers import Layer

SLOWEST, FASTEST = 1e-6, 1e6  # rates of parts, as multiples of the job's


@dataclass(frozen=True)
class RateSettings:
    """Who learns how fast."""

    unet_rate: float = option(
        1.0,
        "Learning rate of the U-Net's layers, as a multiple of the job's.",
        group="network",
        low=SLOWEST,
        high=FASTEST,
        label="U-Net learning rate weight",
    )
    text_rate: float = option(
        0.5,
        "Learning rate of the text encoder's layers, as a multiple of the job's.",
        group="network",
        low=SLOWEST,
        high=FASTEST,
        label="Text encoder learning rate weight",
    )
    second_text_rate: float = option(
        0.0,
        "The same of SDXL's second text encoder; 0: as the first.",
        group="network",
        low=0,
        high=FASTEST,
        label="Second text encoder learning rate weight",
    )
    up_rate: float = option(
        1.0,
        "Learning rate of the matrices that start at zero, as a multiple of the others' (LoRA+, which "
        "advises 16).",
        group="network",
        low=0.01,
        high=1000,
        label="LoRA+ ratio",
    )
    unet_up_rate: float = option(
        0.0,
        "That ratio in the U-Net alone; 0: the one above.",
        group="network",
        low=0,
        high=1000,
        label="LoRA+ ratio of the U-Net",
    )
    text_up_rate: float = option(
        0.0,
        "That ratio in the text encoder alone; 0: the one above.",
        group="network",
        low=0,
        high=1000,
        label="LoRA+ ratio of the text encoder",
    )
    down_lr_weight: str = option(
        "",
        "Learning rates of the U-Net's down blocks, as multiples: 12 numbers (9 for SDXL), or sine, cosine, "
        "linear, reverse_linear, zeros, with +0.25 to add that; empty: 1. At 0 a block is left as it is.",
        group="network",
        label="Down blocks' learning rate weights",
    )
    mid_lr_weight: str = option(
        "",
        "The same of the middle block: 1 number (3 for SDXL).",
        group="network",
        label="Middle block's learning rate weight",
    )
    up_lr_weight: str = option(
        "",
        "The same of the up blocks: 12 numbers (9 for SDXL), or a name as above.",
        group="network",
        label="Up blocks' learning rate weights",
    )
    block_lr_zero_threshold: float = option(
        0.0,
        "Such a weight counts as 0 up to this.",
        group="network",
        low=0,
        high=1000,
        label="Block weight threshold",
    )


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
