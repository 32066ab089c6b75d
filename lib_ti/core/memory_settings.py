"""The settings that trade time for memory."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.settings import option


@dataclass(frozen=True)
class MemorySettings:
    """What a job does without, to fit on its device."""

    checkpointing: bool = option(
        False,
        "Compute what lies inside the model's blocks again in the backward pass in place of keeping it: the "
        "same result with much less memory, in about a third more time.",
        group="memory",
        label="Gradient checkpointing",
    )
    attention: str = option(
        "model",
        "model: as the program has it; sdpa: PyTorch's own; sliced: one head after the other, which saves "
        "memory where PyTorch has no fused attention; xformers, where that is installed.",
        group="memory",
        choices=("model", "sdpa", "sliced", "xformers"),
    )
    fit_memory: bool = option(
        True,
        "Where memory is too small, and only there, send the VAE off the device, then turn on checkpointing, "
        "then take pictures one by one; a step stays the same step. Also when memory runs out on the way.",
        group="memory",
        label="Fit into memory",
    )
