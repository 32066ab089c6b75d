"""What a model's vocabulary says of vectors: how long words are beside them, and which come nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lib_ti.hosts.base import Host

_TINY = 1e-12
_NAMES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "SDXL"}


@dataclass(frozen=True)
class Lengths:
    """Euclidean norms of vectors beside those of all words: ``shares``, of words that are shorter, 0..1."""

    norms: Sequence[float]
    shares: Sequence[float]
    median: float  # of the words
    longest: float


@dataclass(frozen=True)
class _Table:
    """Of one text encoder."""

    norms: torch.Tensor  # of all tokens, (tokens,), rising
    rows: torch.Tensor  # of the words, (words, d)
    unit: torch.Tensor  # the same, each of length 1


class Vocabulary:
    """A model's words, each text encoder's read once."""

    def __init__(self, host: Host) -> None:
        self.host, self._tables = host, dict[str, _Table]()
        self._words = dict(host.words())
        self._names = list(self._words)

    def _table(self, encoder: str) -> _Table:
        if encoder not in self._tables:
            everything = self.host.token_vectors(encoder).float().cpu()
            rows = everything[torch.tensor(list(self._words.values()), dtype=torch.long)]
            self._tables[encoder] = _Table(everything.norm(dim=1).sort().values, rows, _unit(rows))
        return self._tables[encoder]

    def lengths(self, encoder: str, vectors: torch.Tensor) -> Lengths:
        """Of ``vectors``, (n, d), on the CPU."""
        words, norms = self._table(encoder).norms, vectors.norm(dim=1)
        shares = torch.searchsorted(words, norms).double() / len(words)
        return Lengths(norms.tolist(), shares.tolist(), float(words.median()), float(words[-1]))

    def nearest(self, encoder: str, vectors: torch.Tensor, count: int) -> list[list[tuple[str, float]]]:
        """For each of ``vectors``, (n, d), the ``count`` words with the highest cosine, the highest first."""
        cosines = _unit(vectors) @ self._table(encoder).unit.T
        best = cosines.topk(min(count, len(self._names)), dim=1)
        return [
            [(self._names[int(i)], float(cosine)) for i, cosine in zip(row, values, strict=True)]
            for row, values in zip(best.indices, best.values, strict=True)
        ]

    def vectors_of(self, encoder: str, words: Sequence[str]) -> torch.Tensor:
        """(words, d)."""
        return self._table(encoder).rows[[self._names.index(word) for word in words]]

    def word_called(self, name: str) -> str:
        """The word that prompts read ``name`` as; "" where it is more than one token, or no word."""
        ids = self.host.tokenize(name)
        return next((word for word, row in self._words.items() if [row] == list(ids)), "")


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
