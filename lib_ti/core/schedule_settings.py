"""The settings of the learning rate over the steps."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.settings import option


@dataclass(frozen=True)
class ScheduleSettings:
    """How the learning rate changes over a job."""

    learning_rate: str = option(
        "0.01:0.5, 0.002",
        "A rate, or stages as rate:last step, e.g. 0.005:100, 1e-3:1000, 1e-4. An end with a point is a "
        "share of all steps: 0.1:0.2, 0.01:0.5, 0.001.",
        group="learning",
        basic=True,
    )
    staircase: bool = option(
        False,
        "Start each stage of the learning rate from the vectors that did best so far, by evaluate-every, and "
        "end with the best. The optimizer starts anew with each.",
        group="learning",
        label="Each stage from the best",
    )
    decay: str = option(
        "constant",
        "How the learning rate falls over the job, on top of its stages. adafactor is that optimizer's own, "
        "for a rate of 0.01: held for 10,000 steps, or rising over them, then as inverse-sqrt.",
        group="learning",
        choices=(
            "constant",
            "linear",
            "cosine",
            "cosine-restarts",
            "cosine-waves",
            "polynomial",
            "inverse-sqrt",
            "one-minus-sqrt",
            "adafactor",
            "adafactor-warmup",
        ),
        label="Learning rate decay",
    )
    warmup: str = option(
        "0",
        "Steps over which the learning rate rises from zero; with a point a share of all steps, e.g. 0.1.",
        group="learning",
        label="Learning rate warm-up",
    )
    decay_cycles: int = option(
        1,
        "Falls of cosine-restarts; of cosine-waves, falls and rises in turn.",
        group="learning",
        low=1,
        high=1000,
        label="Cosine restarts",
    )
    decay_power: float = option(
        2.0, "Exponent of polynomial.", group="learning", low=0.1, high=10, label="Polynomial power"
    )
    decay_floor: float = option(
        0.0,
        "Share of the learning rate that is left at the end of a decay, which falls to it, not to zero.",
        group="learning",
        low=0,
        high=1,
        label="Learning rate floor",
    )
    decay_over: str = option(
        "0",
        "Steps at the end over which the learning rate falls, held until then; with a point a share of all "
        "steps, e.g. 0.2; 0: it falls from the warm-up on.",
        group="learning",
        label="Learning rate decay over",
    )
    decay_timescale: int = option(
        0,
        "Steps after which inverse-sqrt has fallen to 0.71; 0: as many as the warm-up has, or 10,000.",
        group="learning",
        low=0,
        high=100_000_000,
        unit="steps",
        label="Inverse square root over",
    )
    warmup_from: float = option(
        -1.0,
        "Share of the learning rate that the warm-up's first step has; full is then the step after its last. "
        "Below 0: the first step has one part of as many as the warm-up has steps, the last one all.",
        group="learning",
        low=-1,
        high=1,
        label="Warm-up from",
    )
    warmup_shape: str = option(
        "linear",
        "How the learning rate rises.",
        group="learning",
        choices=("linear", "cosine", "one-minus-sqrt"),
        label="Warm-up shape",
    )
    scheduler: str = option(
        "",
        "In place of decay and warm-up: an lr scheduler by its full name, e.g. "
        "torch.optim.lr_scheduler.CosineAnnealingLR, or a get_..._schedule of transformers.optimization or "
        "diffusers.optimization.",
        group="learning",
        label="Scheduler class",
    )
    scheduler_args: str = option(
        "",
        "What it is told, e.g. T_max=1000 eta_min=1e-5, or a JSON object.",
        group="learning",
        label="Scheduler arguments",
    )
