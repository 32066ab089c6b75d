"""Networks at another rank, and the difference of two checkpoints as a network of one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lib_ti.core.files import new_files, parse_json
from lib_ti.networks.applied import notes_of
from lib_ti.networks.files import Network, read_network
from lib_ti.networks.svd import check_method
from lib_ti.networks.tools.describe import counted
from lib_ti.networks.tools.extract import Extraction
from lib_ti.networks.tools.extract import extract as extract_difference
from lib_ti.networks.tools.resize import Resizing, cut_dylora, ranks_of_dylora, resized
from lib_ti.networks.tools.saving import metadata_of, precision_of, save_network
from lib_ti.networks.tools.stored import open_checkpoint
from lib_ti.tools.network_files import clamped_note, device_of, dtype_of, free_file, watched
from lib_ti.tools.network_tools import ExtractSettings, ResizeSettings, SplitSettings
from lib_ti.tools.tool import Answer, Context


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
    with new_files([to], overwrite=settings.overwrite):
        save_network(to, found.updates, dtype_of(settings.save_precision) or torch.float32, metadata)
    which = "U-Net and text encoder" if found.with_text else "U-Net only"
    missed = sum(found.error.values()) / len(found.error)
    told: dict[str, Any] = {
        "modules": len(found.updates),
        "equal": len(found.equal),
        "with text encoder": found.with_text,
        "text encoders differ by": found.text_difference,
        "missed in the mean": round(missed, 6),
        "not covered": len(found.uncovered),
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
    cut = clamped_note(settings.clamp, "--clamp 1 leaves them whole")
    return Answer(sentence, told, (to,), notes=(*notes, *cut, *_beyond(found.uncovered)))


def _beyond(uncovered: Sequence[str]) -> tuple[str, ...]:
    """What the models differ in besides, which no such network changes."""
    if not uncovered:
        return ()
    some = ", ".join([*uncovered[:3], *(["..."] if len(uncovered) > 3 else [])])
    told = f"The checkpoints differ in {len(uncovered)} tensors more, which such a network does not change"
    return (f"{told}: {some}.",)


def split(settings: SplitSettings, context: Context) -> Answer:
    network = read_network(Path(settings.file))
    top = max((update.rank or 0) for update in network.updates.values())
    unit = settings.unit or _unit_of(network)
    to = free_file(settings.to, overwrite=True)  # nothing is written there itself
    paths = {
        rank: free_file(str(to.with_name(f"{to.stem}-{rank:04d}{to.suffix}")), settings.overwrite)
        for rank in ranks_of_dylora(network, unit)
    }
    with new_files(paths.values(), overwrite=settings.overwrite):
        for rank, cut in cut_dylora(network, unit):
            comment = f"split from DyLoRA {network.name}, rank {top} to {rank}"
            metadata = metadata_of(
                paths[rank], cut.updates, network.family, network.metadata, comment=comment
            )
            save_network(paths[rank], cut.updates, dtype_of(settings.save_precision), metadata)
    names = ", ".join(path.name for path in paths.values())
    return Answer(
        f"Split {network.name} of rank {top}. Wrote {names}.",
        {},
        tuple(paths.values()),
        notes=notes_of(network),
    )


def _unit_of(network: Network) -> int:
    """As its trainer wrote it; 1 where that is not to be found."""
    try:
        told = parse_json(network.metadata.get("ss_network_args", ""))
    except ValueError:
        return 1
    unit = str(told.get("unit")) if isinstance(told, dict) else ""
    return int(unit) if re.fullmatch("[1-9][0-9]{0,3}", unit) else 1


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
    with new_files([to], overwrite=settings.overwrite):
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
    return Answer(sentence, told, (to,), notes=notes_of(network))
