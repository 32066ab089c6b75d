"""What a run needs in memory beyond what was there before."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

RESET_PEAK = Path("/proc/self/clear_refs")  # Linux only


class PeakMemory:
    """Peak memory above what was in use before: the device's own count, or this process's pages."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = 0

    def start(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        elif RESET_PEAK.exists():
            # What the last run freed must go back, or the next one would seem to need nothing.
            ctypes.CDLL(None).malloc_trim(0)
            RESET_PEAK.write_text("5")
            self.before = status_bytes("VmRSS")

    def bytes(self) -> float:
        """Since ``start``; NaN where the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        if RESET_PEAK.exists():
            return status_bytes("VmHWM") - self.before
        return float("nan")


def status_bytes(key: str) -> int:
    """Of this process, as Linux tells: "VmRSS", "VmHWM", ..."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) * 1024


def saved_activations(model: nn.Module, forward: Callable[[], torch.Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of ``forward``, without the model's own tensors."""
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # kept alive here, so an address stands for one storage
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    return sum(storage.nbytes() for address, storage in storages.items() if address not in own)
