"""Who learns how fast: learning rates of a network's parts, as multiples of the job's."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.settings import option

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
