"""The judge: reads shape, colour, background, fill, size and style off a picture.

It was trained on renders alone, never on a picture that a model generated, and it knows the values
that text encoder and U-Net never met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from lib_ti.tinyworld.corpus import to_pixels
from lib_ti.tinyworld.render import SIDE
from lib_ti.tinyworld.world import ATTRIBUTES, VALUES

WEIGHTS = Path(__file__).parent / "weights" / "judge.safetensors"


class JudgeNetwork(nn.Module):
    """(b, 3, 64, 64) pixels in -1..1 -> for each attribute the logits of its values."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 80, 96)
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, 2, 1), nn.GroupNorm(8, wide), nn.SiLU()]
            layers += [nn.Conv2d(wide, wide, 3, 1, 1), nn.GroupNorm(8, wide), nn.SiLU()]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 16, 128), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(VALUES[name])) for name in ATTRIBUTES})

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.features(pixels)
        return {name: head(features) for name, head in self.heads.items()}


@dataclass(frozen=True)
class Verdict:
    """Of many pictures: ``success``: share in which everything asked for is right; ``per_attribute``:
    share right among the pictures that were asked for that attribute; ``right``: one flag a picture."""

    success: float
    per_attribute: dict[str, float]
    right: list[bool]


class Judge:
    """The trained judge, on the CPU."""

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self.network = JudgeNetwork()
        self.network.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
        self.network.eval().requires_grad_(False)

    def read(self, pictures: Sequence[Image.Image]) -> list[dict[str, str]]:
        """The value of every attribute in each picture (any size; read at 64 x 64)."""
        found: list[dict[str, str]] = []
        for start in range(0, len(pictures), 256):
            batch = [p.convert("RGB").resize((SIDE, SIDE)) for p in pictures[start : start + 256]]
            stack = torch.from_numpy(np.stack([np.asarray(p) for p in batch])).permute(0, 3, 1, 2)
            best = {name: logits.argmax(1) for name, logits in self.network(to_pixels(stack)).items()}
            found += [
                {name: VALUES[name][int(best[name][i])] for name in ATTRIBUTES} for i in range(len(batch))
            ]
        return found

    def verdict(self, pictures: Sequence[Image.Image], asked: Sequence[Mapping[str, str]]) -> Verdict:
        """Compare each picture with the attribute values it was asked for."""
        hits: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
        right = []
        for found, wanted in zip(self.read(pictures), asked, strict=True):
            for name, value in wanted.items():
                hits[name].append(found[name] == value)
            right.append(all(found[name] == value for name, value in wanted.items()))
        return Verdict(
            success=sum(right) / len(right),
            per_attribute={name: sum(flags) / len(flags) for name, flags in hits.items() if flags},
            right=right,
        )
