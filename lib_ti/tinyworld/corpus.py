"""The training pictures of the tiny world, rendered once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from lib_ti.tinyworld.render import SIDE, render
from lib_ti.tinyworld.world import ATTRIBUTES, VALUES, Scene, random_scene

# Seeds: the corpus, the held-out renders that judge and VAE are measured on, and everything a
# bench draws come from ranges that never meet.
CORPUS_SEED = 1_000_000
HELD_OUT_SEED = 2_000_000
BENCH_SEED = 3_000_000


@dataclass(frozen=True)
class Corpus:
    """``pictures``: uint8, (n, 3, 64, 64); ``labels``: int64, (n, 6), positions in ``VALUES``."""

    scenes: list[Scene]
    pictures: torch.Tensor
    labels: torch.Tensor


def to_pixels(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 -> float -1..1."""
    return pictures.float() / 127.5 - 1


def label(scene: Scene) -> list[int]:
    """The position of each attribute's value in ``VALUES``."""
    return [VALUES[attribute].index(getattr(scene, attribute)) for attribute in ATTRIBUTES]


def make_corpus(count: int, seed: int, values: Mapping[str, tuple[str, ...]]) -> Corpus:
    """``count`` scenes drawn evenly from ``values``; the same for the same seed."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, values) for _ in range(count)]
    pictures = torch.empty(count, 3, SIDE, SIDE, dtype=torch.uint8)
    for i, scene in enumerate(scenes):
        pictures[i] = torch.from_numpy(np.asarray(render(scene)).copy()).permute(2, 0, 1)
    return Corpus(scenes, pictures, torch.tensor([label(scene) for scene in scenes]))
