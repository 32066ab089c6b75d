"""Losses in half precision, with parameters, their gradients and the optimizer in float32 all the same."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from lib_ti.core.errors import BadInput

# By the names that settings give them; "model" is none of them.
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Precision:
    """One of "model" (nothing is changed), "bf16" and "fp16"; the last scales losses up before their backward
    pass, or small gradients would vanish (arXiv 1710.03740, section 3.2)."""

    def __init__(self, name: str, device: torch.device) -> None:
        """``device``: of the parameters. Raises BadInput where it has no such precision."""
        self.dtype = DTYPES.get(name)
        self.device = device
        self.scaler = _new_scaler(device) if name == "fp16" else None
        try:
            self.computing()
        except RuntimeError as error:
            raise _unknown(name, device) from error

    def computing(self) -> AbstractContextManager[Any]:
        """Inside, the heavy operations are done in half precision."""
        return torch.autocast(self.device.type, dtype=self.dtype) if self.dtype else nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradients as they are: before anybody clips or measures them."""
        if self.scaler:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer's step; left out where a gradient overflowed, which lowers the scale."""
        if self.scaler:
            self.scaler.step(optimizer)
            self.scaler.update()
        else:
            optimizer.step()

    def state(self) -> dict[str, Any]:
        return self.scaler.state_dict() if self.scaler else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        if self.scaler and state:
            self.scaler.load_state_dict(dict(state))


def _new_scaler(device: torch.device) -> Any:
    """torch's scaler; before torch 2.3 there is one for CUDA alone."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device.type)
    if device.type != "cuda":
        raise _unknown("fp16", device)
    return torch.cuda.amp.GradScaler()


def _unknown(name: str, device: torch.device) -> BadInput:
    return BadInput(f"precision: {name} cannot be trained in on {device.type}; choose bf16 or model.")
