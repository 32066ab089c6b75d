"""The workshop of embeddings: what a file holds, and other files made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.core.settings import option
from lib_ti.formats.embedding import Embedding, read_embeddings, write_pt, write_safetensors
from lib_ti.tools.tool import Answer, Context, Tool, refuse_existing

_WRITERS = {".safetensors": write_safetensors, ".pt": write_pt}


@dataclass(frozen=True)
class InspectSettings:
    file: str = option("", "the embedding to look into", group="file", file="embedding", needed=True)


def describe(embedding: Embedding) -> dict[str, Any]:
    """What a file holds, as JSON values; norms are Euclidean, one per vector."""
    return {
        "name": embedding.name,
        "family": embedding.family,
        "vectors": embedding.count,
        "step": embedding.step,
        "negative": embedding.is_negative,
        "encoders": {
            name: {"width": v.shape[1], "norms": [round(float(n), 4) for n in v.norm(dim=1)]}
            for name, v in embedding.vectors.items()
        },
        "metadata": dict(embedding.metadata),
    }


def inspect(settings: InspectSettings, context: Context) -> Answer:
    path = Path(settings.file)
    found = [describe(embedding) for embedding in read_embeddings(path)]
    told = [f"{one['name']}: {one['vectors']} vectors for {one['family']}" for one in found]
    return Answer("; ".join(told) + ".", {"file": str(path), "embeddings": found})


@dataclass(frozen=True)
class ConvertSettings:
    file: str = option("", "the embedding to convert", group="file", file="embedding", needed=True)
    to: str = option(
        "",
        "the new file's name, ending in .safetensors (all programs) or .pt (the WebUI's own)",
        group="file",
        file="new-embedding",
        needed=True,
    )
    overwrite: bool = option(False, "replace a file of that name", group="file")


def convert(settings: ConvertSettings, context: Context) -> Answer:
    """Several embeddings in one file become a file each, by their own names."""
    to = Path(settings.to)
    write = _WRITERS.get(to.suffix.lower())
    if write is None:
        raise BadInput(f"cannot write {to.name}: expected a name ending in {' or '.join(_WRITERS)}.")
    embeddings = read_embeddings(Path(settings.file))
    targets = [to] if len(embeddings) == 1 else [to.with_name(f"{e.name}{to.suffix}") for e in embeddings]
    refuse_existing(targets, settings.overwrite)
    for embedding, target in zip(embeddings, targets, strict=True):
        write(embedding, target)
    return Answer(f"Wrote {', '.join(map(str, targets))}.", written=tuple(targets))


TOOLS = (
    Tool("embedding", "inspect", "what a file holds", InspectSettings, inspect),
    Tool("embedding", "convert", "write a file in another format", ConvertSettings, convert),
)
