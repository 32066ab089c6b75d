"""How far each vector went, how long it is beside the vocabulary's, and what gradient it had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lib_ti.hosts.base import Host

_HARDLY = 0.01  # of a word's usual length


@dataclass(frozen=True)
class VectorReport:
    """Lengths are multiples of a word's usual one, the median of the vocabulary."""

    name: str  # of the parameter, such as clip_l
    vector: int  # from 1
    moved: float
    length: float
    longest_word: float
    gradient: float  # mean norm over the steps


def measure(
    host: Host,
    result: Mapping[str, torch.Tensor],
    start: Mapping[str, torch.Tensor],
    gradients: Mapping[str, torch.Tensor],
) -> list[VectorReport]:
    """A report of every vector. ``gradients``: mean gradient norms, (n,); a parameter's name ends with that
    of its text encoder."""
    reports = []
    for name, vectors in result.items():
        encoder = next(encoder for encoder in host.info.text_encoders if name.endswith(encoder))
        norms = host.token_vectors(encoder).norm(dim=1)
        usual, longest = float(norms.median()), float(norms.max())
        rows = zip(
            (vectors - start[name]).norm(dim=1).tolist(),
            vectors.norm(dim=1).tolist(),
            gradients[name].tolist(),
            strict=True,
        )
        reports += [
            VectorReport(name, i, moved / usual, length / usual, longest / usual, gradient)
            for i, (moved, length, gradient) in enumerate(rows, 1)
        ]
    return reports


def told(reports: Sequence[VectorReport]) -> list[str]:
    """What people should know of the reports, in sentences."""
    moved, lengths = [r.moved for r in reports], [r.length for r in reports]
    longest = max(r.longest_word for r in reports)
    reach = f"moved {_range(moved)} of a word's usual length and are now {_range(lengths)} of it"
    said = [f"vectors {reach} (words: up to {longest:.2g})"]
    long = [f"{r.vector} of {r.name}" for r in reports if r.length > r.longest_word]
    if long:
        said.append(
            f"vector {', '.join(long)} is longer than any word: should pictures follow little else of a "
            "prompt, try fewer steps or a lower learning-rate"
        )
    still = [f"{r.vector} of {r.name}" for r in reports if r.moved < _HARDLY]
    if still:
        said.append(
            f"warning: vector {', '.join(still)} hardly moved; try a higher learning-rate or more steps"
        )
    return said


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return low if low == high else f"{low} to {high}"
