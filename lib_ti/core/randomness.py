"""Random numbers that depend on seed and place alone, so that nothing random need be saved."""

from __future__ import annotations

import numpy as np
import torch


def generator_at(seed: int, *place: int) -> torch.Generator:
    """A CPU generator for one place of a job (a step, an epoch); the same on every machine."""
    words = np.random.SeedSequence([seed, *place]).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))
