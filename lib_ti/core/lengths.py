"""Lengths that were given in epochs, as steps."""

from __future__ import annotations

from typing import TypeVar

from lib_ti.core.settings import as_dict, build
from lib_ti.core.train_settings import TrainSettings

S = TypeVar("S", bound=TrainSettings)

# The setting in epochs, and the one in steps that it stands for.
_STANDS_FOR = {
    "epochs": "steps",
    "initial_epochs": "initial_step",
    "copy_every_epochs": "copy_every",
    "preview_every_epochs": "preview_every",
    "evaluate_every_epochs": "evaluate_every",
    "stop_window_epochs": "stop_window",
}


def in_steps(settings: S, epoch: int) -> S:
    """The settings with every length in steps; ``epoch``: the steps of one. What comes back may come in.

    Raises BadInput where so many epochs are more steps than a job may have.
    """
    values = as_dict(settings)
    given: dict[str, int] = {}
    if values["copy_count"]:
        epochs = values["epochs"] or -(-values["steps"] // epoch)
        given["copy_every"] = max(1, epochs // values["copy_count"]) * epoch
        values["copy_every_epochs"] = 0
    given |= {steps: values[epochs] * epoch for epochs, steps in _STANDS_FOR.items() if values[epochs]}
    return build(type(settings), {**values, **given}) if given else settings
