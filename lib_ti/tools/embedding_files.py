"""Embedding files in other formats, under other names, and a pair in one file."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lib_ti.core.errors import BadInput
from lib_ti.core.files import new_files, remove, write_atomically
from lib_ti.core.names import folded, named_file, new_path, safe_name
from lib_ti.formats.embedding import (
    IS_NEGATIVE,
    Embedding,
    read_embedding,
    read_embeddings,
    second_file,
)
from lib_ti.formats.embedding_layouts import (
    lost_in,
    renamed,
    targets_of,
    write_bundle,
    write_embedding,
)
from lib_ti.formats.suffixes import EMBEDDINGS
from lib_ti.methods.dreamartist_settings import NEGATIVE_SUFFIX
from lib_ti.tools.embedding_tools import AUTO, ConvertSettings, JoinSettings, RenameSettings, SplitSettings
from lib_ti.tools.tool import Answer, Context

_SUFFIX = ".safetensors"
# What WebUIs keep beside an embedding: its picture, its text, what its card says.
_BESIDE = tuple(f"{kind}.{image}" for kind in (".preview", "") for image in ("png", "jpg", "jpeg", "webp"))
_BESIDE += (".description.txt", ".txt", ".json")


def save(embedding: Embedding, to: str, *, overwrite: bool) -> Path:
    """Write ``embedding`` as ``to``, whose name it takes, in the usual layout. Raises BadInput."""
    path = named_file(Path(to), EMBEDDINGS)
    path = new_path(path.parent, path.name)
    with new_files(targets_of(embedding, path), overwrite=overwrite):
        write_embedding(renamed(embedding, path.stem), path)
    return path


def convert(settings: ConvertSettings, context: Context) -> Answer:
    """Several embeddings in one file become a file each, by their own names."""
    to, layout = named_file(Path(settings.to), EMBEDDINGS), settings.layout if settings.layout != AUTO else ""
    found = read_embeddings(Path(settings.file))
    targets = [to]
    if len(found) > 1:
        targets = [new_path(to.parent, f"{one.name}{to.suffix}") for one in found]
    elif to == second_file(to):  # not called as diffusers does, which keeps the word inside
        found = [renamed(found[0], safe_name(to.stem))]
    pairs = list(zip(found, targets, strict=True))
    written, lost = list[Path](), dict[str, list[str]]()
    new = [file for one, path in pairs for file in targets_of(one, path, layout)]
    with new_files(new, overwrite=settings.overwrite):
        for one, path in pairs:
            files = write_embedding(one, path, layout, settings.precision)
            written += files
            if missing := lost_in(one, files):
                lost[path.name] = missing
    every = dict.fromkeys(one for missing in lost.values() for one in missing)
    kept = f"Not kept in it: {'; '.join(every)}." if every else "It keeps everything."
    return Answer(f"{_wrote(written)} {kept}", {"not kept": lost} if lost else {}, tuple(written))


def _wrote(files: Sequence[Path]) -> str:
    return f"Wrote {', '.join(map(str, files))}."


def rename(settings: RenameSettings, context: Context) -> Answer:
    """As .safetensors, which carry their name inside, with what WebUIs keep beside it; the old files go."""
    path = Path(settings.file)
    moves = {path: _new_name(path, settings.name)}
    partner = partner_of(path) if settings.pair else None
    if partner is not None:
        moves[partner] = _new_name(partner, settings.name + NEGATIVE_SUFFIX)
    embeddings = {old: _alone(old) for old in moves}
    beside = {
        _beside(old, suffix): _beside(new, suffix)
        for old, new in moves.items()
        for suffix in _BESIDE
        if _beside(old, suffix).is_file()
    }
    names = {one.name: moves[old].stem for old, one in embeddings.items()}
    # The same name in other letters is the same file where a system does not tell them apart.
    others = {old: new for old, new in {**moves, **beside}.items() if not _same_file(old, new)}
    with new_files(others.values()):
        for old, new in moves.items():
            write_embedding(calling(renamed(embeddings[old], new.stem), names), new)
        for old, new in beside.items():
            write_atomically(new, partial(shutil.copyfile, old))
    for old in others:
        remove(old)
    said = " and ".join(f"{old} is now {new}" for old, new in names.items())
    return Answer(
        f"{said}. Prompts that say the old name find nothing any more.", written=tuple(moves.values())
    )


def _new_name(path: Path, name: str) -> Path:
    """Beside it; the same name in other capitals is no other file's."""
    if folded(name) == folded(path.stem):
        return path.with_name(safe_name(name + _SUFFIX))
    return new_path(path.parent, name + _SUFFIX)


def _alone(path: Path) -> Embedding:
    if second_file(path) != path and second_file(path).is_file():
        raise BadInput(f"{path.name} lies in two files, as diffusers keeps SDXL; convert it to one first.")
    return replace(read_embedding(path), name=path.stem)


def calling(embedding: Embedding, names: dict[str, str]) -> Embedding:
    """With the new name of its other half."""
    halves = ("positive_embedding", "negative_embedding")
    changed = {k: names.get(v, v) if k in halves else v for k, v in embedding.metadata.items()}
    return replace(embedding, metadata=changed)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.stem + suffix)


def _same_file(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def partner_of(path: Path) -> Path | None:
    """The negative half beside an embedding, whatever its suffix."""
    for suffix in (path.suffix, _SUFFIX, ".pt", ".bin"):
        if (beside := path.with_name(path.stem + NEGATIVE_SUFFIX + suffix)).is_file():
            return beside
    return None


def join(settings: JoinSettings, context: Context) -> Answer:
    """In the layout of a LoRA's bundled embeddings, without a LoRA: the WebUI's (1.7 and later) reads it."""
    first, to = Path(settings.file), named_file(Path(settings.to), EMBEDDINGS)
    second = Path(settings.negative) if settings.negative else partner_of(first)
    if second is None:
        raise BadInput(
            f"{first.stem}{NEGATIVE_SUFFIX} does not lie beside {first.name}; name the negative half."
        )
    if to.suffix.lower() != _SUFFIX:
        raise BadInput(f"cannot write {to.name}: two embeddings go into a .safetensors file only.")
    if "." in first.stem:
        raise BadInput(f"{first.stem} has a dot, at which WebUIs cut it in such a file; rename it first.")
    words = first.stem, first.stem + NEGATIVE_SUFFIX
    positive, negative = (
        renamed(read_embedding(file), word) for file, word in zip((first, second), words, strict=True)
    )
    positive = _saying(positive, negative_embedding=words[1])
    negative = _saying(negative, positive_embedding=words[0], **{IS_NEGATIVE: "true"})
    if positive.family != negative.family:
        raise BadInput(
            f"{words[0]} is for {positive.family} and {second.stem} for {negative.family}; no pair."
        )
    with new_files([to], overwrite=settings.overwrite):
        write_bundle([positive, negative], to)
    use = f"Write <lora:{to.stem}:1> and {words[0]} into the prompt and {words[1]} into the negative prompt."
    return Answer(f"{_wrote([to])} {use}", {"words": list(words)}, (to,))


def _saying(embedding: Embedding, **more: str) -> Embedding:
    return replace(embedding, metadata={**embedding.metadata, **more})


def split(settings: SplitSettings, context: Context) -> Answer:
    """Each embedding as a file of its own, in the folder where prompts find it."""
    path = Path(settings.file)
    found = sorted(read_embeddings(path), key=lambda one: one.name)
    names = [one.name for one in found]
    new = []
    for one in found:
        origin = {key: text for key, text in one.metadata.items() if key != "bundled_in"}
        if one.name.endswith(NEGATIVE_SUFFIX) and one.name.removesuffix(NEGATIVE_SUFFIX) in names:
            origin[IS_NEGATIVE] = "true"
        new.append(replace(one, metadata=origin))
    files = [new_path(context.folders.embeddings, name + _SUFFIX) for name in names]
    with new_files(files, overwrite=settings.overwrite):
        for one, file in zip(new, files, strict=True):
            write_embedding(one, file)
    return Answer(_wrote(files), {"words": names}, tuple(files))
