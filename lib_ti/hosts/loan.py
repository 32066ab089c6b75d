"""What a loan changes on any host, each as a context that undoes it, after an error too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def moved(module: nn.Module, device: torch.device) -> Iterator[None]:
    """``module`` on ``device``, then back where it was."""
    before = next(module.parameters()).device
    module.to(device)
    try:
        yield
    finally:
        module.to(before)
