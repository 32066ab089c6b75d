"""Networks at another rank, and the difference of two checkpoints as a network of one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lib_ti.core.files import parse_json
from lib_ti.core.settings import option
from lib_ti.networks.files import Network, read_network
from lib_ti.networks.svd import METHODS, check_method
from lib_ti.networks.tools.describe import counted
from lib_ti.networks.tools.extract import Extraction
from lib_ti.networks.tools.extract import extract as extract_difference
from lib_ti.networks.tools.resize import Resizing, cut_dylora, resized
from lib_ti.networks.tools.saving import metadata_of, precision_of, save_network
from lib_ti.networks.tools.stored import open_checkpoint
from lib_ti.tools import network_options as options
from lib_ti.tools.embedding_files import overwriting
from lib_ti.tools.network_files import device_of, dtype_of, free_file, watched
from lib_ti.tools.tool import Answer, Context, Tool


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
    overwrite: bool = overwriting()


def extract(settings: ExtractSettings, context: Context) -> Answer:
    to = free_file(settings.to, settings.overwrite)
    original, tuned = (open_checkpoint(Path(file)) for file in (settings.original, settings.tuned))
    asked = Extraction(settings.rank, settings.conv_rank, settings.min_diff, settings.clamp)
    found = extract_difference(original, tuned, asked, device_of(settings.device), watched(context))
    comment = f"extracted from {tuned.file.path.stem} - {original.file.path.stem}"
    metadata = metadata_of(
        to, found.updates, original.family, {}, comment=comment, prediction=original.prediction
    )
    # A difference has no precision of its own: it is computed in float32.
    save_network(to, found.updates, dtype_of(settings.save_precision) or torch.float32, metadata)
    which = "U-Net and text encoder" if found.with_text else "U-Net only"
    missed = sum(found.error.values()) / len(found.error)
    told: dict[str, Any] = {
        "modules": len(found.updates),
        "equal": len(found.equal),
        "with text encoder": found.with_text,
        "text encoders differ by": found.text_difference,
        "missed in the mean": round(missed, 6),
    }
    if settings.layers:
        told["layers"] = [{"layer": name, "missed": round(error, 6)} for name, error in found.error.items()]
    sentence = (
        f"Extracted {len(found.updates)} modules ({which}); {len(found.equal)} do not differ; {missed:.1%} "
        f"of the difference is missed in the mean. Wrote {to}."
    )
    notes = [
        f"{each.file.path.name} keeps {each.file.in_eight_bits} weights in float8: their rounding is a part "
        "of the difference."
        for each in (original, tuned)
        if each.file.in_eight_bits
    ]
    return Answer(sentence, told, (to,), notes=tuple(notes))


@dataclass(frozen=True)
class SplitSettings:
    file: str = options.network("The DyLoRA.")
    to: str = options.new_network()
    unit: int = options.rank(0, "The unit that it was trained with; 0: as the file says, or 1.")
    save_precision: str = options.save_precision()
    overwrite: bool = overwriting()


def split(settings: SplitSettings, context: Context) -> Answer:
    network = read_network(Path(settings.file))
    top = max((update.rank or 0) for update in network.updates.values())
    cuts = dict(cut_dylora(network, settings.unit or _unit_of(network)))
    to = free_file(settings.to, overwrite=True)  # nothing is written there itself
    paths = {
        rank: free_file(str(to.with_name(f"{to.stem}-{rank:04d}{to.suffix}")), settings.overwrite)
        for rank in cuts
    }
    for rank, cut in cuts.items():
        comment = f"split from DyLoRA {network.name}, rank {top} to {rank}"
        metadata = metadata_of(paths[rank], cut.updates, network.family, network.metadata, comment=comment)
        save_network(paths[rank], cut.updates, dtype_of(settings.save_precision), metadata)
    names = ", ".join(path.name for path in paths.values())
    return Answer(f"Split {network.name} of rank {top}. Wrote {names}.", {}, tuple(paths.values()))


def _unit_of(network: Network) -> int:
    """As its trainer wrote it; 1 where that is not to be found."""
    try:
        told = parse_json(network.metadata.get("ss_network_args", ""))
    except ValueError:
        return 1
    unit = str(told.get("unit")) if isinstance(told, dict) else ""
    return int(unit) if re.fullmatch("[1-9][0-9]{0,3}", unit) else 1


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
        choices=tuple(METHODS),
    )
    parameter: float = option(0.0, "Of the method; fixed has none.", group="rank", low=0, high=1e6)
    save_precision: str = options.save_precision()
    device: str = options.device()
    layers: bool = options.layers()
    overwrite: bool = overwriting()


def resize(settings: ResizeSettings, context: Context) -> Answer:
    check_method(settings.method, settings.parameter)
    to = free_file(settings.to, settings.overwrite)
    network = read_network(Path(settings.file))
    conv_rank = settings.conv_rank or settings.rank
    resizing = Resizing(settings.rank, conv_rank, settings.method, settings.parameter)
    updates, kept = resized(network, resizing, device_of(settings.device), watched(context))
    how = "" if settings.method == "fixed" else f"{settings.method} {settings.parameter:g}, at most "
    comment = f"resized from {network.name}, {how}rank {settings.rank} (conv {conv_rank})"
    metadata = metadata_of(to, updates, network.family, network.metadata, comment=comment)
    save_network(to, updates, dtype_of(settings.save_precision) or precision_of(network), metadata)
    mean, least = sum(kept.values()) / len(kept), min(kept, key=lambda name: kept[name])
    sentence = (
        f"Resized {network.name}: {mean:.1%} of the norm is kept in the mean, {kept[least]:.1%} of {least}. "
        f"Wrote {to}."
    )
    ranks = {name: update.rank for name, update in updates.items()}
    told: dict[str, Any] = {"ranks": counted(ranks.values()), "kept in the mean": round(mean, 6)}
    if settings.layers:
        told["layers"] = [
            {"layer": name, "rank": rank, "kept": round(kept[name], 6)} for name, rank in ranks.items()
        ]
    return Answer(sentence, told, (to,))


TOOLS = (
    Tool("lora", "extract", "the difference of two checkpoints as a network", ExtractSettings, extract),
    Tool("lora", "split", "a DyLoRA as one file a rank: NAME-0004, NAME-0008", SplitSettings, split),
    Tool(
        "lora",
        "resize",
        "a network at a lower rank, as near to itself as that can be",
        ResizeSettings,
        resize,
    ),
)
