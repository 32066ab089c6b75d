"""Several networks as one, and networks into a checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.files import new_files, refuse_existing, remove, write_atomically
from lib_ti.formats.embedding import Family
from lib_ti.networks.algebra import Update
from lib_ti.networks.applied import notes_of
from lib_ti.networks.files import read_network
from lib_ti.networks.tools.combine import Term, add, add_at_rank, common_metadata
from lib_ti.networks.tools.into_checkpoint import CheckpointMerge, tell, unmerged
from lib_ti.networks.tools.saving import metadata_of, precision_of, save_network
from lib_ti.networks.tools.stored import open_checkpoint
from lib_ti.tools.network_files import clamped_note, device_of, dtype_of, free_file, watched
from lib_ti.tools.network_tools import MergeIntoSettings, MergeSettings
from lib_ti.tools.tool import Answer, Context, each, numbers_for


def merge(settings: MergeSettings, context: Context) -> Answer:
    _check(settings)
    to = free_file(settings.to, settings.overwrite)
    terms = _terms(settings.files, settings.ratios)
    families = {term.network.family for term in terms if term.network.family is not None}
    if len(families) > 1:
        raise BadInput(f"the networks are of different families: {', '.join(sorted(families))}.")
    if families and any(term.network.family is None for term in terms):
        # One that does not say its own has the layers' names of the others'.
        terms = _terms(settings.files, settings.ratios, *families)
    updates = _sum(settings, terms, context)
    names = [term.network.name for term in terms]
    family = next(iter(families), None)
    metadata = metadata_of(to, updates, family, common_metadata(terms), merged_from=names)
    dtype = dtype_of(settings.save_precision) or precision_of(terms[0].network)
    with new_files([to], overwrite=settings.overwrite):
        save_network(to, updates, dtype, metadata)
    told = f"Merged {' and '.join(names)}: {len(updates)} modules. Wrote {to}."
    whole = "--clamp 1 leaves them whole, and lora merge by itself (--how exact) writes the very sum"
    notes = (*_notes(terms), *clamped_note(settings.clamp, whole))
    return Answer(told, {"modules": len(updates)}, (to,), notes=notes)


def _notes(terms: Sequence[Term]) -> tuple[str, ...]:
    return tuple(note for term in terms for note in notes_of(term.network))


def _check(settings: MergeSettings) -> None:
    if settings.how == "exact" and (settings.rank or settings.conv_rank or settings.clamp != 1):
        raise BadInput("rank, conv-rank and clamp belong to the nearest one; choose that, or leave them out.")
    if settings.how == "nearest" and settings.shuffle:
        raise BadInput("shuffle is for the exact sum; in the nearest one the rows are mixed already.")


def _terms(files: str, ratios: str, family: Family = "sd1") -> list[Term]:
    """``family``: of files that do not say it themselves."""
    paths = each(files)
    numbers = numbers_for("ratios", ratios, len(paths)) or [1.0] * len(paths)
    return [Term(read_network(Path(path), family), ratio) for path, ratio in zip(paths, numbers, strict=True)]


def _sum(settings: MergeSettings, terms: list[Term], context: Context) -> Mapping[str, Update]:
    if settings.how == "exact":
        return add(terms, _by_chance() if settings.shuffle else None)
    return add_at_rank(
        terms,
        settings.rank or None,
        settings.conv_rank or None,
        clamp=settings.clamp,
        device=device_of(settings.device),
        watch=watched(context),
    )


def _by_chance() -> torch.Generator:
    """Not from a seed: whoever knew it could undo the shuffle."""
    generator = torch.Generator()
    generator.seed()
    return generator


def merge_into(settings: MergeIntoSettings, context: Context) -> Answer:
    to = free_file(settings.to, settings.overwrite)
    source = open_checkpoint(Path(settings.checkpoint))
    if to.exists() and to.samefile(source.file.path):
        raise BadInput(f"{to} is read while the new one is written; give the new one another name.")
    # The WebUI reads a checkpoint by the file beside it, so an old one must not stay.
    described, beside = source.file.path.with_suffix(".yaml"), to.with_suffix(".yaml")
    if beside != described:
        refuse_existing([beside], settings.overwrite)
    terms = _terms(settings.files, settings.ratios, source.family)
    new = CheckpointMerge(source, terms, dtype_of(settings.save_precision), device_of(settings.device))
    with new_files({to, beside} - {described}, overwrite=settings.overwrite):
        new.write(to, watched(context))
        if described.is_file():
            write_atomically(beside, lambda temporary: shutil.copyfile(described, temporary))
        else:
            remove(beside)
    told = [f"{applied}." for applied in new.applied]
    if averages := sum(1 for _ in unmerged(source.file)):
        told.append(f"{averages} averaged weights (model_ema) stay as they were.")
    notes = (*_notes(terms), *filter(None, [new.rounding.note()]))
    values = {"networks": tell(new.applied), "lost in rounding": round(new.rounding.lost, 6)}
    return Answer(" ".join([*told, f"Wrote {to}."]), values, (to,), notes=notes)
