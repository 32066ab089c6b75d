"""The layouts in which embedding files are written: which tensors under which names, in what container.

The file's suffix says the container, the layout the names. What a file does not keep is found by reading it
back. Sources: as of ``embedding``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.precision import DTYPES
from lib_ti.formats.embedding import (
    Embedding,
    metadata_for,
    pt_content,
    read_embeddings,
    second_file,
)
from lib_ti.formats.pickles import write_torch_pickle
from lib_ti.formats.safetensors_file import write_tensors

Content = Mapping[str, object]


@dataclass(frozen=True)
class Layout:
    """``content``: what is written of an embedding, by name; ``suffixes``: those it goes with."""

    content: Callable[[Embedding], Content]
    suffixes: Sequence[str]


def _alone(key: str, both: Mapping[str, str]) -> Callable[[Embedding], Content]:
    """The one tensor of SD1 and SD2 as ``key``; those of SDXL by the names in ``both``."""

    def content(embedding: Embedding) -> Content:
        if embedding.family == "sdxl":
            return {name: embedding.vectors[encoder] for encoder, name in both.items()}
        return {key: next(iter(embedding.vectors.values()))}

    return content


def _diffusers(embedding: Embedding) -> Content:
    """Of SDXL the first text encoder's; the second one's lies in a file of its own."""
    return {_token(embedding): next(iter(embedding.vectors.values()))}


def _token(embedding: Embedding) -> str:
    return embedding.metadata.get("token") or embedding.name


_SDXL = {"clip_l": "clip_l", "clip_g": "clip_g"}
_COG_SDXL = {"clip_l": "text_encoders_0", "clip_g": "text_encoders_1"}
LAYOUTS: Mapping[str, Layout] = {
    "studio": Layout(_alone("emb_params", _SDXL), (".safetensors",)),
    "a1111": Layout(pt_content, (".pt",)),
    "sd-scripts": Layout(_alone("emb_params", _SDXL), (".pt", ".safetensors")),
    "diffusers": Layout(_diffusers, (".bin", ".safetensors")),
    "cog": Layout(_alone("text_encoders_0", _COG_SDXL), (".safetensors",)),
    "onetrainer": Layout(_alone("emp_params", _SDXL), (".safetensors",)),
}
_USUAL = {".safetensors": "studio", ".pt": "a1111", ".bin": "diffusers"}  # of each suffix


def targets_of(embedding: Embedding, path: Path, layout: str = "") -> list[Path]:
    """The file that ``write_embedding`` writes, or the two. Raises BadInput where the layout does not go
    with the suffix."""
    suffix = path.suffix.lower()
    layout = layout or _USUAL[suffix]
    if suffix not in (known := LAYOUTS[layout].suffixes):
        expected = " or ".join(known)
        raise BadInput(f"layout {layout}: got the name {path.name}; expected one ending in {expected}.")
    if layout != "diffusers" or embedding.family != "sdxl":
        return [path]
    if "learned_embeds" not in path.name:
        raise BadInput(
            f"cannot write {path.name}: diffusers keeps SDXL's two text encoders in two files and finds the "
            f"second by its name; choose one with learned_embeds in it, such as learned_embeds{suffix}."
        )
    return [path, second_file(path)]


def write_embedding(
    embedding: Embedding, path: Path, layout: str = "", precision: str = "fp32"
) -> list[Path]:
    """Write ``embedding``, "": in the usual layout of the suffix; the files that were written. Raises
    BadInput, before anything is written."""
    files = targets_of(embedding, path, layout)
    contents = [LAYOUTS[layout or _USUAL[path.suffix.lower()]].content(embedding)]
    if len(files) > 1:
        contents.append({_token(embedding): embedding.vectors["clip_g"]})
    rounded = [_rounded(content, DTYPES[precision], embedding.name) for content in contents]
    for file, content in zip(files, rounded, strict=True):
        if file.suffix.lower() == ".safetensors":
            tensors = {name: t for name, t in content.items() if isinstance(t, torch.Tensor)}
            write_tensors(tensors, metadata_for(embedding), file)
        else:
            write_torch_pickle(content, file)
    return files


def _rounded(content: Content, dtype: torch.dtype, name: str) -> dict[str, object]:
    """``content`` with its tensors in ``dtype``. Raises BadInput for numbers that it cannot hold."""
    rounded: dict[str, object] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            rounded[key] = _rounded(value, dtype, name)
        elif isinstance(value, torch.Tensor):
            rounded[key] = value = value.to(dtype)
            if not torch.isfinite(value).all():
                raise BadInput(f"{name} has numbers too large for fp16; take bf16 or fp32.")
        else:
            rounded[key] = value
    return rounded


def lost_in(embedding: Embedding, files: Sequence[Path]) -> list[str]:
    """What ``files``, read back, do not tell of the embedding that was written, in words."""
    (again,) = read_embeddings(files[0])
    lost = []
    if embedding.step is not None and again.step is None:
        lost.append("the steps it was trained for")
    if again.family != embedding.family:
        lost.append(f"that it is for {embedding.family}, which its width does not tell")
    missing = sorted(key for key in embedding.metadata if key not in again.metadata)
    if missing:
        lost.append(f"what it says of itself ({', '.join(missing)})")
    pairs = zip(embedding.vectors.values(), again.vectors.values(), strict=True)
    difference = max(float((one - other).norm() / one.norm().clamp_min(1e-12)) for one, other in pairs)
    if difference:
        lost.append(f"precision ({difference:.1e} of the vectors' length)")
    return lost


def write_bundle(embeddings: Sequence[Embedding], path: Path) -> None:
    """Several embeddings in one safetensors file, each under its name, as networks carry them; what each
    says of itself is kept under its name, too."""
    tensors, metadata = dict[str, torch.Tensor](), dict[str, str]()
    for embedding in embeddings:
        start = f"bundle_emb.{embedding.name}."
        for encoder, vectors in embedding.vectors.items():
            tensors[start + (encoder if len(embedding.vectors) > 1 else "string_to_param.*")] = vectors
        metadata |= {start + key: value for key, value in metadata_for(embedding).items()}
    write_tensors(tensors, metadata, path)


def renamed(embedding: Embedding, name: str) -> Embedding:
    """The same under another name, also where it said its old one of itself."""
    own = {"trigger", "token", "name", "modelspec.title", "modelspec.trigger_phrase"}
    metadata = {key: value for key, value in embedding.metadata.items() if key not in own}
    return replace(embedding, name=name, metadata=metadata)
