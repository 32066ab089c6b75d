"""What a job's losses advise: the rules of thumb that guides to textual inversion and DreamArtist share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lib_ti.methods.kind import JobSettings

_EPOCHS = 10
_STEPS = 50  # whose mean is looked at: the loss of one step says more of its timestep than of the vectors
_LOOKS = 4  # at the least, before a loss is said not to fall


class LossAdvice:
    """Says once that the loss is above ``failing``, which seldom becomes anything (a rule for the plain error
    of the noise alone), and once that it has not fallen for ten epochs, which is when a job may end."""

    def __init__(self, settings: JobSettings, failing: float, steps_of_epoch: int) -> None:
        self._failing = failing if settings.weighting == "none" and settings.loss == "l2" else math.inf
        self._steps = max(_STEPS, steps_of_epoch)  # of a look
        self._looks = max(_LOOKS, math.ceil(_EPOCHS * steps_of_epoch / self._steps))
        self._losses: list[float] = []
        self._best, self._since_best = math.inf, 0  # mean loss of the best look, looks since then

    def __call__(self, rows: Sequence[tuple[int, float, float]]) -> list[str]:
        """What there is to say after these further steps; ``rows``: step, loss and learning rate of each."""
        said = []
        for step, loss, _ in rows:
            self._losses.append(loss)
            if len(self._losses) == self._steps:
                said += self._look(step, sum(self._losses) / self._steps)
                self._losses = []
        return said

    def _look(self, step: int, mean: float) -> list[str]:
        said = []
        if mean > self._failing:
            said.append(
                f"warning: the mean loss of {self._steps} steps is {mean:.2f} at step {step}; above "
                f"{self._failing:g} pictures seldom become good: stop, crop away background, choose better "
                "images, or lower the learning rate"
            )
            self._failing = math.inf
        self._since_best = 0 if mean < self._best else self._since_best + 1
        self._best = min(self._best, mean)
        if self._since_best == self._looks:
            said.append(
                f"the loss has not fallen for {self._looks * self._steps} steps, ten epochs or more, at step "
                f"{step}: the job may be stopped; look at the previews and take the best saved step"
            )
            self._looks = 0
        return said
