"""Which vectors of an embedding stay, and in what order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

CRITERIA = ("shortest", "alike")  # which vectors count least


def parse_rows(text: str, count: int) -> list[int]:
    """The rows, from 0, that ``text`` names in its order, from 1: ``3,1,4-6``. Raises ValueError."""
    rows: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low, high = _number(first, count), _number(last if dash else first, count)
        rows += range(low, high + 1) if low <= high else range(low, high - 1, -1)
    if len(set(rows)) < len(rows):
        raise ValueError("it names a vector twice")
    return [row - 1 for row in rows]


def _number(text: str, count: int) -> int:
    if not text.strip().isdecimal() or not 1 <= int(text[:9]) <= count:
        raise ValueError(f"{text.strip()!r} is none of the vectors 1 to {count}")
    return int(text)


def most_important(vectors: Mapping[str, torch.Tensor], drop: int, criterion: str) -> list[int]:
    """The rows that stay, in their order, when the ``drop`` that count least go, one after the other.

    ``shortest``: the smallest Euclidean norm. ``alike``: of the two that point most nearly the same way
    (cosine) the shorter. Of several text encoders all numbers of a vector count, as one.
    """
    whole = torch.cat([rows.double() for rows in vectors.values()], dim=1)
    kept = list(range(len(whole)))
    for _ in range(drop):
        kept.remove(_least(whole, kept, criterion))
    return kept


def _least(whole: torch.Tensor, kept: Sequence[int], criterion: str) -> int:
    norms = whole.norm(dim=1)
    if criterion == "shortest" or len(kept) < 2:
        return min(kept, key=lambda row: float(norms[row]))
    unit = whole / norms.clamp_min(1e-12)[:, None]
    cosines = unit @ unit.T
    pairs = [(one, other) for at, one in enumerate(kept) for other in kept[at + 1 :]]
    pair = max(pairs, key=lambda pair: float(cosines[pair]))
    return min(pair, key=lambda row: float(norms[row]))
