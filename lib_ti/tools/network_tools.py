"""What is done with networks, and what each of it is told."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.later import Later
from lib_ti.core.settings import option
from lib_ti.tools import network_options as options
from lib_ti.tools.tool import Tool

# What carries it out.
_FILES = "lib_ti.tools.networks"
_MERGING = "lib_ti.tools.network_merging"
_RANKS = "lib_ti.tools.network_ranks"

_RATIOS = "How strong each is, such as 0.8, -0.5; empty: 1. Negative ones take away."


@dataclass(frozen=True)
class InspectSettings:
    file: str = options.network("The network to look into.")
    layers: bool = options.layers()


@dataclass(frozen=True)
class MetadataSettings:
    file: str = options.network("The network whose metadata are changed.")
    metadata: str = option(
        "", "All of them, as one JSON object; empty: only tell what they are now.", group="file"
    )


@dataclass(frozen=True)
class MergeSettings:
    files: str = options.network("The networks to merge.", several=True, label="Networks")
    to: str = options.new_network()
    ratios: str = option("", _RATIOS, group="merge")
    how: str = option(
        "exact",
        "Exact: the very sum, the ranks add up. Nearest: the one of a given rank that comes nearest to it.",
        group="merge",
        choices=("exact", "nearest"),
    )
    rank: int = options.rank(0, "Of the nearest one; 0: the largest that each layer has among the files.")
    conv_rank: int = options.conv_rank("as the rank")
    clamp: float = options.clamp()
    shuffle: bool = option(
        False,
        "Of the exact sum: an order by chance, so that none of the files can be cut out again.",
        group="merge",
    )
    save_precision: str = options.save_precision()
    device: str = options.device()
    overwrite: bool = options.overwriting()


@dataclass(frozen=True)
class MergeIntoSettings:
    checkpoint: str = options.checkpoint("The checkpoint; it stays as it is.")
    files: str = options.network("The networks to merge into it.", several=True, label="Networks")
    to: str = options.new_checkpoint()
    ratios: str = option("", _RATIOS, group="merge")
    save_precision: str = options.save_precision()
    device: str = options.device()
    overwrite: bool = options.overwriting()


@dataclass(frozen=True)
class ExtractSettings:
    original: str = options.checkpoint("The checkpoint that the network will be used with.")
    tuned: str = options.checkpoint("The checkpoint that it shall come near to.")
    to: str = options.new_network()
    rank: int = options.rank(4, "Of the network.", low=1)
    conv_rank: int = options.conv_rank("they are left out")
    min_diff: float = option(
        0.01,
        "Text encoders in which no number differs by more are the same: U-Net only.",
        group="rank",
        low=0,
        label="Smallest difference of text encoders",
    )
    clamp: float = options.clamp()
    save_precision: str = options.save_precision()
    device: str = options.device()
    layers: bool = options.layers()
    overwrite: bool = options.overwriting()


@dataclass(frozen=True)
class SplitSettings:
    file: str = options.network("The DyLoRA.")
    to: str = options.new_network()
    unit: int = options.rank(0, "The unit that it was trained with; 0: as the file says, or 1.")
    save_precision: str = options.save_precision()
    overwrite: bool = options.overwriting()


@dataclass(frozen=True)
class ResizeSettings:
    file: str = options.network("The network.")
    to: str = options.new_network()
    rank: int = options.rank(4, "The most that is kept.", low=1)
    conv_rank: int = options.conv_rank("as the rank")
    method: str = option(
        "fixed",
        "Which singular values of each layer are kept. Fixed: as many as the rank. sv_ratio: those above the "
        "largest divided by the parameter. sv_cumulative: as few as sum to that share. sv_fro: as few as "
        "hold that share of the Frobenius norm.",
        group="rank",
        choices=("fixed", "sv_ratio", "sv_cumulative", "sv_fro"),
    )
    parameter: float = option(0.0, "Of the method; fixed has none.", group="rank", low=0, high=1e6)
    save_precision: str = options.save_precision()
    device: str = options.device()
    layers: bool = options.layers()
    overwrite: bool = options.overwriting()


TOOLS = (
    Tool(
        "lora",
        "inspect",
        "what a network file holds",
        InspectSettings,
        Later(_FILES, "inspect"),
    ),
    Tool(
        "lora",
        "edit-metadata",
        "what a network file says of itself",
        MetadataSettings,
        Later(_FILES, "edit_metadata"),
    ),
    Tool(
        "lora",
        "merge",
        "several networks as one",
        MergeSettings,
        Later(_MERGING, "merge"),
    ),
    Tool(
        "lora",
        "merge-into-checkpoint",
        "networks into a checkpoint, which then draws as it does with them",
        MergeIntoSettings,
        Later(_MERGING, "merge_into"),
    ),
    Tool(
        "lora",
        "extract",
        "the difference of two checkpoints as a network",
        ExtractSettings,
        Later(_RANKS, "extract"),
    ),
    Tool(
        "lora",
        "split",
        "a DyLoRA as one file a rank: NAME-0004, NAME-0008",
        SplitSettings,
        Later(_RANKS, "split"),
    ),
    Tool(
        "lora",
        "resize",
        "a network at a lower rank, as near to itself as that can be",
        ResizeSettings,
        Later(_RANKS, "resize"),
    ),
)
