"""Whether a job fits into memory, said before it starts; and what is done where it does not."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lib_ti.core.errors import StudioError
from lib_ti.core.loop import Loop
from lib_ti.core.memory import Recording, extrapolated_peak, record
from lib_ti.core.memory_settings import MemorySettings
from lib_ti.data.samples import Batch
from lib_ti.hosts.base import Economy, Host

log = logging.getLogger(__name__)

# Sides of the latents of the two runs that tell what a step needs; smaller ones end in a single place.
_SIDES = (16, 24)
_WARM_UP = 8
# Of every trained number: two moments of an optimizer, and the last good state's copy of them.
_COPIES = 4
# A CPU's C library keeps much of what was freed, and oneDNN copies weights: a process grows by so many times
# the tensors' peak, and the largest convolution's weights; measured (BENCHMARKS.md). By checkpointing.
_CPU_LAW = {False: (1.27, 1.1), True: (1.78, 3.0)}
_MEMINFO = Path("/proc/meminfo")  # Linux only

MEMORY_REMEDY = (
    "there is not enough memory; take fewer pictures at once (batch-size, preview-count) or smaller ones "
    "(width, height), or close what else uses the device."
)


# What a CPU, Apple's cards, and CUDA outside PyTorch's own allocator say.
_NO_MEMORY = (
    "can't allocate memory",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def economy_of(settings: MemorySettings) -> Economy:
    """How the model is to run by the settings alone."""
    return Economy(checkpointing=settings.checkpointing, attention=settings.attention)


def out_of_memory(error: BaseException) -> bool:
    told = str(error)
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in told for sign in _NO_MEMORY)
    )


def free_bytes(device: torch.device) -> int | None:
    """What can still be allocated on ``device``; None where nobody tells."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    try:
        import psutil
    except ImportError:
        return _linux_available()
    return psutil.virtual_memory().available


def _linux_available() -> int | None:
    lines = _MEMINFO.read_text().splitlines() if _MEMINFO.exists() else []
    found = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((int(kilobytes) * 1024 for kilobytes in found), None)


class Memory:
    """What one job does without; a rung of the ladder further down each time memory is too small."""

    def __init__(self, host: Host, settings: MemorySettings, loop: Loop, say: Callable[[str], None]) -> None:
        self.host, self.loop, self.say = host, loop, say
        self.consent = settings.fit_memory
        self.economy = economy_of(settings)

    def fit(self) -> None:
        """Say what a step needs and what is free; with consent go down until it fits."""
        while (need := self.foretell()) is not None:
            free = free_bytes(self.host.info.device)
            there = "" if free is None else f", {_told(free)} are free"
            self.say(f"memory: a step needs about {_told(need)} beside the loaded model{there}")
            if free is None or need <= free:
                return
            if not self.consent:
                self.say("warning: that may be too little; fit-memory would see to it")
                return
            if not self.step_down():
                self.say("warning: that may be too little, and nothing is left to save")
                return

    def relieve(self) -> bool:
        """After an out-of-memory error: whether the job can be tried again, one rung further down."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self.consent and self.step_down()

    def step_down(self) -> bool:
        """One rung down, and say which; False at the foot of the ladder."""
        if not self.economy.vae_away and self.host.info.device.type != "cpu":
            self.economy = replace(self.economy, vae_away=True)
            done = "the VAE leaves the device"
        elif not self.economy.checkpointing:
            self.economy = replace(self.economy, checkpointing=True)
            done = "checkpointing is on, which takes more time"
        elif not self.loop.one_by_one and len(self._largest()) > 1:
            self.loop.one_by_one = True
            done = "pictures are taken one by one, as many a step as before"
        else:
            return False
        self.host.economise(self.economy)
        self.say(f"to fit into memory: {done}")
        return True

    def _largest(self) -> Batch:
        """The next step's batch that takes most."""
        batches: Sequence[Batch] = self.loop.micro_batches(self.loop.method.draw(self.loop.step + 1))
        return max(batches, key=lambda batch: batch.latents.numel())

    def foretell(self) -> float | None:
        """Bytes that a step needs beside what is there; None where that cannot be foreseen."""
        batch = self._largest()
        places = batch.latents[0, 0].numel()
        most: float | None
        try:
            # What is made once and kept, such as a prompt's answer, is no step's.
            self._rehearse(batch.resized(_WARM_UP))
            if places <= _SIDES[1] ** 2:
                run = self._record(batch)
                most = run.peak
            else:
                run, large = (self._record(batch.resized(side)) for side in _SIDES)
                area = _SIDES[0] ** 2
                most = extrapolated_peak(run, large, _SIDES[1] ** 2 / area, places / area)
        except (RuntimeError, MemoryError, StudioError) as error:
            log.debug("memory cannot be foreseen: %s", error)
            return None
        if most is None:
            return None
        if self.host.info.device.type == "cpu":
            share, copies = _CPU_LAW[self.economy.checkpointing]
            most = share * most + copies * run.widest
        return most + _COPIES * sum(p.numel() * p.element_size() for p in self.loop.parameters.values())

    def _record(self, batch: Batch) -> Recording:
        return record(lambda: self._rehearse(batch), self.host.info.device)

    def _rehearse(self, batch: Batch) -> None:
        """Forward and backward as a step does them; it changes nothing."""
        with self.loop.precision.computing():
            loss = self.loop.method.losses(batch).sum()
        if loss.requires_grad:
            torch.autograd.grad(loss, list(self.loop.parameters.values()), allow_unused=True)


def _told(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
