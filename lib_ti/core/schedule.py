"""Learning rates over the steps of a job."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lib_ti.core.errors import BadInput


@dataclass(frozen=True)
class Stage:
    """``rate`` up to and including step ``until``; ``None``: to the end."""

    rate: float
    until: int | None


@dataclass(frozen=True)
class LearningRate:
    """A piecewise constant learning rate, as the WebUI writes it: ``0.005:100, 1e-3:1000, 1e-4``."""

    stages: tuple[Stage, ...]

    def at(self, step: int) -> float:
        """The rate of optimizer step ``step`` (from 1). Past the last stage its rate holds."""
        for stage in self.stages:
            if stage.until is None or step <= stage.until:
                return stage.rate
        return self.stages[-1].rate

    def travel(self, steps: int) -> float:
        """The sum of the rates over ``steps``: with Adam, about how far one element can move."""
        total, done = 0.0, 0
        for i, stage in enumerate(self.stages):
            last = i == len(self.stages) - 1
            until = steps if last or stage.until is None else min(stage.until, steps)
            total += stage.rate * max(0, until - done)
            done = max(done, until)
        return total


def parse_learning_rate(text: str) -> LearningRate:
    """Read ``0.005`` or ``0.005:100, 1e-3:1000, 1e-4``: rate, colon, the last step it holds for.

    Raises BadInput for anything else: unreadable, not positive, or steps that do not grow.
    """

    def refuse(why: str) -> BadInput:
        return BadInput(
            f"learning rate {text!r}: {why}; expected a number such as 0.005, "
            "or stages such as 0.005:100, 1e-3:1000, 1e-4 (rate:last step)."
        )

    stages: list[Stage] = []
    parts = [part.strip() for part in str(text).split(",") if part.strip()]
    if not parts:
        raise refuse("it is empty")
    for position, part in enumerate(parts):
        rate_text, colon, until_text = part.partition(":")
        try:
            rate = float(rate_text)
            until = int(until_text) if colon else None
        except ValueError:
            raise refuse(f"cannot read {part!r}") from None
        if not math.isfinite(rate) or rate <= 0:
            raise refuse(f"the rate {rate_text.strip()} is not a positive number")
        if until is None and position < len(parts) - 1:
            raise refuse(f"only the last stage may leave out its step, {part!r} is not the last")
        if until is not None and until <= (stages[-1].until or 0 if stages else 0):
            raise refuse(f"the step in {part!r} does not come after the one before it")
        stages.append(Stage(rate, until))
    return LearningRate(tuple(stages))
