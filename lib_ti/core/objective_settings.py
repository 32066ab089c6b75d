"""The settings of the loss."""

from __future__ import annotations

from dataclasses import dataclass

from lib_ti.core.settings import option


@dataclass(frozen=True)
class ObjectiveSettings:
    """How errors are measured and weighed."""

    weighting: str = option(
        "x0",
        "x0 measures the error of the clean picture the model has in mind, none that of the noise, v both; "
        "min-snr and debiased lie between the two; min-snr-debiased is the product of both.",
        group="learning",
        choices=("x0", "v", "none", "min-snr", "debiased", "min-snr-debiased"),
        label="Loss weighting",
    )
    min_snr_gamma: float = option(
        5.0,
        "Ratio of signal to noise above which min-snr gives no more weight.",
        group="learning",
        low=0.01,
        high=100,
        label="Min-SNR gamma",
    )
    snr_limit: float = option(
        0.0,
        "Ratio of signal to noise above which debiased and the two settings below see no more; 0: none.",
        group="learning",
        low=0,
        high=1e6,
        label="SNR limit",
    )
    scale_v_loss: bool = option(
        False,
        "Of a model that predicts v: weigh its losses as those of one that predicts noise.",
        group="learning",
        label="Scale v losses as noise",
    )
    v_like_loss: float = option(
        0.0,
        "Of a model that predicts noise: add the loss of one that predicts v, so many times.",
        group="learning",
        low=0,
        high=1000,
        label="Added v loss",
    )
    loss: str = option(
        "l2",
        "How an error is measured: squared (l2), absolute (l1), or squared while small, then absolute.",
        group="learning",
        choices=("l2", "l1", "huber", "smooth-l1"),
        label="Loss type",
    )
    huber_c: float = option(
        0.1,
        "Where huber and smooth-l1 bend; with a schedule, at the noisiest timestep.",
        group="learning",
        low=1e-4,
        high=10,
        label="Huber threshold",
    )
    huber_schedule: str = option(
        "snr",
        "How that threshold depends on the timestep.",
        group="learning",
        choices=("constant", "exponential", "snr"),
    )
    huber_scale: float = option(
        1.0,
        "Multiplies that threshold, but not that of the schedule snr.",
        group="learning",
        low=1e-4,
        high=1e4,
    )
