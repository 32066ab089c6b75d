"""Train the judge on renders."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from lib_ti.tinyworld.corpus import CORPUS_SEED, make_corpus, to_pixels
from lib_ti.tinyworld.fit import fit, share_of
from lib_ti.tinyworld.judge import JudgeNetwork
from lib_ti.tinyworld.world import ATTRIBUTES, VALUES

STEPS = 3000
BATCH = 64


def _worn(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Softened, grainy, a little brighter or darker: a picture that went through a VAE is no render."""
    count = len(pixels)

    def draw(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)

    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pixels = torch.lerp(pixels, soft, draw(0, 1))
    grain = torch.randn(pixels.shape, generator=generator)
    coarse = F.interpolate(
        torch.randn(count, 3, 16, 16, generator=generator), scale_factor=4, mode="bilinear"
    )
    return pixels * draw(0.92, 1.05) + draw(-0.05, 0.05) + grain * draw(0, 0.08) + coarse * draw(0, 0.12)


def train_judge(work: Path, *, seed: int = 3, device: str = "cpu", pictures: int = 40_000) -> JudgeNetwork:
    """Cross-entropy over the six attributes, on renders of the whole world."""
    corpus = make_corpus(pictures, CORPUS_SEED + 1, VALUES)
    torch.manual_seed(seed)
    network = JudgeNetwork().to(device)

    def loss_at(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(pictures, (share_of(BATCH),), generator=generator)
        pixels = _worn(to_pixels(corpus.pictures[rows]), generator).to(device)
        labels = corpus.labels[rows].to(device)
        logits = network(pixels)
        losses = [F.cross_entropy(logits[name], labels[:, i]) for i, name in enumerate(ATTRIBUTES)]
        return torch.stack(losses).sum()

    return fit(network, loss_at, steps=STEPS, learning_rate=2e-3, folder=work / "judge", seed=seed)
