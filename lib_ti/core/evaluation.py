"""The losses of one fixed batch: a curve that can be read, and when it says that a job has learned enough.

The loss of a training step is mostly the luck of its timestep; that of the same pictures, noise,
timesteps and prompts moves with the vectors alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.train_settings import LearningSettings

StopRule = Literal["none", "dvar", "plateau"]
Row = tuple[int, float]  # step, loss

_LEAST = 3  # evaluations in a window: fewer have no variance to speak of


@dataclass
class Evaluations:
    """Every evaluation so far, and the vectors that did best."""

    rule: StopRule
    window: int  # steps
    threshold: float
    rows: list[Row] = field(default_factory=list)
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: LearningSettings) -> Evaluations:
        """Raises BadInput for a rule that has too little to go by."""
        rule = cast(StopRule, settings.stop_rule)
        least = _LEAST * settings.evaluate_every
        if rule != "none" and not 0 < least <= settings.stop_window:
            raise BadInput(
                f"stop-rule {rule}: evaluate-every is {settings.evaluate_every}, stop-window "
                f"{settings.stop_window} steps; expected {_LEAST} evaluations in a window at least."
            )
        return cls(rule, settings.stop_window, settings.stop_threshold)

    def add(self, step: int, loss: float, vectors: Mapping[str, torch.Tensor]) -> None:
        """Take down an evaluation; its vectors are kept where none did as well before."""
        loss = loss if math.isfinite(loss) else math.inf
        if not self.rows or loss < self.best_row[1]:
            self.best = dict(vectors)
        self.rows.append((step, loss))

    @property
    def best_row(self) -> Row:
        """The first of the lowest losses."""
        return min(self.rows, key=lambda row: row[1])

    @property
    def settled(self) -> bool:
        """Whether the rule says that going on is not worth it."""
        if self.rule == "none" or not self.rows or self.rows[-1][0] - self.rows[0][0] < self.window:
            return False
        left = variance_ratio if self.rule == "dvar" else recent_gain
        return left(self.rows, self.window) < self.threshold


def variance_ratio(rows: Sequence[Row], window: int) -> float:
    """DVAR (arXiv 2302.04841, section 4.2): the variance of the losses of the last ``window`` steps, as a
    share of the variance of all. Losses that never changed have settled: 0."""
    whole = float(np.var([loss for _, loss in rows]))
    return float(np.var([loss for _, loss in _split(rows, window)[1]])) / whole if whole else 0.0


def recent_gain(rows: Sequence[Row], window: int) -> float:
    """How much of all that the best loss has fallen since the first, it fell in the last ``window`` steps."""
    before, recent = ([loss for _, loss in part] for part in _split(rows, window))
    fallen = before[0] - min(*before, *recent)
    return max(0.0, min(before) - min(recent)) / fallen if fallen > 0 else 0.0


def _split(rows: Sequence[Row], window: int) -> tuple[Sequence[Row], Sequence[Row]]:
    """The rows before the last ``window`` steps, and those of them."""
    start = rows[-1][0] - window
    return [row for row in rows if row[0] <= start], [row for row in rows if row[0] > start]
