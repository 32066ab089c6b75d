"""How much memory a computation will need, told by two small runs of it.

A program of tensor operations is the same at every size of picture: what it allocates, and when that is
freed, comes in the same order, and each allocation grows with a power of the picture's area (0: weights and
text, 1: activations, 2: attention's scores). Two sizes tell the powers; the order tells the peak.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

_RECENT = 64  # allocations: the youngest die first, forward and backward


@dataclass
class Allocation:
    """``end``: how many allocations had been made when it was found to be free."""

    bytes: int
    end: int | None = None


@dataclass
class Recording:
    """What a computation allocated, in that order. ``widest``: bytes of the largest convolution's weights."""

    made: list[Allocation] = field(default_factory=list)
    widest: int = 0

    @property
    def peak(self) -> float:
        """Bytes."""
        return peak(self.made, [allocation.bytes for allocation in self.made])


class _Recorder(TorchDispatchMode):
    """Notes what the operations inside allocate on one kind of device, and until when it is used."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.recording = Recording()
        self._alive: list[tuple[Allocation, StorageWeakRef]] = []
        # Weak references keep the addresses from being used again.
        self._seen: dict[int, StorageWeakRef] = {}
        self._calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._calls += 1
        self._bury(0 if self._calls % _RECENT == 0 else max(0, len(self._alive) - _RECENT))
        if func is torch.ops.aten.convolution.default:
            self.recording.widest = max(self.recording.widest, args[1].numel() * args[1].element_size())
        out = func(*args, **(kwargs or {}))
        values = out if isinstance(out, tuple) else (out,)
        for told, value in zip(func._schema.returns, values, strict=False):
            # A view, or what was changed in place, is no new memory.
            if told.alias_info is None:
                for tensor in value if isinstance(value, list) else [value]:
                    self._add(tensor)
        return out

    def _add(self, tensor: Any) -> None:
        if not torch.is_tensor(tensor) or tensor.device.type != self.device.type:
            return
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference.cdata not in self._seen:
            self._seen[reference.cdata] = reference
            allocation = Allocation(storage.nbytes())
            self.recording.made.append(allocation)
            self._alive.append((allocation, reference))

    def _bury(self, start: int) -> None:
        """Look from ``start`` on for what is no longer used."""
        alive = []
        for allocation, reference in self._alive[start:]:
            if reference.expired():
                allocation.end = len(self.recording.made)
            else:
                alive.append((allocation, reference))
        self._alive[start:] = alive


def record(run: Callable[[], object], device: torch.device) -> Recording:
    """What ``run`` allocates on ``device`` beside what is there."""
    with _Recorder(device) as recorder:
        run()
    return recorder.recording


def peak(allocations: Sequence[Allocation], sizes: Sequence[float]) -> float:
    """The largest sum of ``sizes`` in use at once, when they come and go as ``allocations`` do."""
    freed = [0.0] * (len(sizes) + 1)
    now = most = 0.0
    for i, (allocation, size) in enumerate(zip(allocations, sizes, strict=True)):
        now += size - freed[i]
        most = max(most, now)
        if allocation.end is not None:
            freed[allocation.end] += size
    return most


def extrapolated_peak(small: Recording, large: Recording, growth: float, area: float) -> float | None:
    """Peak bytes at ``area``, where the areas are 1 in the ``small`` and ``growth`` in the ``large`` run.

    None where the two did different things, as code does that looks at its free memory.
    """
    if len(small.made) != len(large.made):
        return None
    sizes = []
    for one, other in zip(small.made, large.made, strict=True):
        power = math.log(other.bytes / one.bytes, growth) if one.bytes and other.bytes else 0.0
        sizes.append(one.bytes * area**power)
    return peak(large.made, sizes)
