"""What a model's vocabulary says of vectors: how long words are beside them, and which come nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lib_ti.hosts.base import Host

_TINY = 1e-12


@dataclass(frozen=True)
class Lengths:
    """Euclidean norms of vectors beside those of all words: ``shares``, of words that are shorter, 0..1."""

    norms: Sequence[float]
    shares: Sequence[float]
    median: float  # of the words
    longest: float


def lengths(vectors: torch.Tensor, vocabulary: torch.Tensor) -> Lengths:
    """``vectors``: (n, d); ``vocabulary``: (words, d)."""
    words = vocabulary.norm(dim=1).sort().values
    norms = vectors.to(words.device).norm(dim=1)
    shorter = torch.searchsorted(words, norms).double() / len(words)
    return Lengths(norms.tolist(), shorter.tolist(), float(words.median()), float(words[-1]))


def nearest_words(
    vectors: torch.Tensor, vocabulary: torch.Tensor, words: Mapping[str, int], count: int
) -> list[list[tuple[str, float]]]:
    """For each of ``vectors``, (n, d), the ``count`` words with the highest cosine, the highest first.
    ``words``: the row of each in ``vocabulary``."""
    if not words:
        return [[] for _ in vectors]
    names = list(words)
    rows = vocabulary[torch.tensor([words[name] for name in names], device=vocabulary.device)]
    cosines = _unit(vectors.to(rows)) @ _unit(rows).T
    best = cosines.topk(min(count, len(names)), dim=1)
    return [
        [(names[int(i)], float(cosine)) for i, cosine in zip(row, values, strict=True)]
        for row, values in zip(best.indices, best.values, strict=True)
    ]


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(_TINY)


def misfit(vectors: Mapping[str, torch.Tensor], family: str, host: Host) -> str:
    """Why the model cannot read ``vectors`` of ``family``, as a sentence; "" where it can."""
    info = host.info
    if family != info.family:
        return (
            f"it was made for {_NAMES[family]}, and the model {info.name} is {_NAMES[info.family]}, which "
            "reads other vectors; programs skip it without a word"
        )
    for encoder, width in info.text_encoders.items():
        if (found := vectors[encoder].shape[1]) != width:
            return f"its vectors have {found} numbers for {encoder}; the model {info.name} reads {width}"
    return ""


_NAMES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "SDXL"}
