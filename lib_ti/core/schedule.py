"""Numbers that change over the steps of a job: learning rates above all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.train_settings import LearningSettings

Decay = Literal[
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
]
Rise = Literal["linear", "cosine", "one-minus-sqrt"]

_TIMESCALE = 10_000  # steps
_TO_THE_END = "-1"  # as the WebUI writes the end of a last stage


@dataclass(frozen=True)
class Stage:
    """``value`` up to and including ``until``: a step, a share of all steps (float), None: to the end."""

    value: float
    until: int | float | None


@dataclass(frozen=True)
class Stages:
    """A piecewise constant number, as the WebUI writes it: ``0.005:100, 1e-3:1000, 1e-4``."""

    stages: tuple[Stage, ...]

    def over(self, steps: int) -> Stages:
        """The same in a job of ``steps``: shares become steps. Raises BadInput where stages go backwards."""
        stages: list[Stage] = []
        for stage in self.stages:
            until = _steps_of(stage.until, steps) if isinstance(stage.until, float) else stage.until
            before = stages[-1].until if stages else None
            if until is not None and before is not None and until < before:
                raise BadInput(
                    f"of {steps} steps, stage {stage.value:g}:{stage.until} ends at step {until}, before the "
                    f"one in front of it ({before}); write all stages as steps, or all as shares."
                )
            stages.append(replace(stage, until=until))
        return Stages(tuple(stages))

    def at(self, step: int) -> float:
        """The value at optimizer step ``step`` (from 1). Past the last stage its value holds."""
        for stage in self.stages:
            if isinstance(stage.until, float):
                raise ValueError("a share of the steps has a meaning only in a job: take over(steps) first")
            if stage.until is None or step <= stage.until:
                return stage.value
        return self.stages[-1].value

    def ends(self, steps: int) -> frozenset[int]:
        """The steps, of so many, after which the next stage begins."""
        ends = (stage.until for stage in self.stages[:-1])
        return frozenset(end for end in ends if isinstance(end, int) and 0 < end < steps)


@dataclass(frozen=True)
class Shape:
    """What a rate is multiplied by over ``steps``: a rise, then a decay (a pure function)."""

    decay: Decay
    steps: int
    warmup: int = 0  # steps of the rise
    cycles: int = 1  # of cosine-restarts and cosine-waves
    power: float = 2.0  # of polynomial
    floor: float = 0.0  # what a decay falls to
    over: int = 0  # steps at the end over which it falls; 0: all after the rise
    timescale: int = 0  # of inverse-sqrt, in steps; 0: the rise's, or 10,000
    warmup_from: float = -1.0  # factor of the first step; below 0: 1 / warmup, and the last of the rise has 1
    rise: Rise = "linear"

    def at(self, step: int) -> float:
        """The factor of optimizer step ``step`` (from 1), 0..1.

        The decays are those of the field's schedulers, which count the steps done before this one:
        the first step after the warm-up has factor 1, and the last one is not quite the end.
        """
        if step <= self.warmup:
            return self._rising(step)
        begin = self.steps - self.over if self.over else self.warmup
        if step <= begin or self.decay == "constant":
            return 1.0
        left = self._left(step, begin)
        return left * (1 - self.floor) + self.floor if self.floor else left

    def _rising(self, step: int) -> float:
        done = (step if self.warmup_from < 0 else step - 1) / self.warmup
        if self.rise == "cosine":
            done = 0.5 * (1.0 - math.cos(math.pi * done))
        elif self.rise == "one-minus-sqrt":
            done = 1.0 - math.sqrt(1.0 - done)
        start = max(0.0, self.warmup_from)
        return done * (1 - start) + start if start else done

    def _left(self, step: int, begin: int) -> float:
        """The factor of a decay to zero that begins after step ``begin``."""
        past = step - 1 - begin
        done = min(1.0, past / max(1, self.steps - begin))
        if self.decay == "linear":
            return 1.0 - done
        if self.decay == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        if self.decay == "cosine-restarts":
            return 0.0 if done == 1.0 else 0.5 * (1.0 + math.cos(math.pi * (self.cycles * done % 1.0)))
        if self.decay == "cosine-waves":
            return 0.5 * (1.0 + math.cos(math.pi * self.cycles * done))
        if self.decay == "polynomial":
            return (1.0 - done) ** self.power
        if self.decay == "one-minus-sqrt":
            return 1.0 - math.sqrt(done)
        if self.decay == "inverse-sqrt":
            timescale = self.timescale or self.warmup or _TIMESCALE
            return 1.0 / math.sqrt((past + timescale) / timescale)
        # Adafactor's own (arXiv 1804.04235, section 8), as multiples of 0.01: 1 / sqrt(step) at most.
        rising = step / _TIMESCALE if self.decay == "adafactor-warmup" else 1.0
        return min(rising, math.sqrt(_TIMESCALE / step))


@dataclass(frozen=True)
class LearningRate:
    """The rate of every step: the stages' value, times the shape's factor."""

    stages: Stages
    shape: Shape = Shape("constant", 1)
    after: int = 0  # steps that are left out at a job's beginning: the first rate is that of the next one
    told: Sequence[float] = ()  # the rates themselves, where an lr scheduler's class makes them

    def at(self, step: int) -> float:
        """The rate of optimizer step ``step`` (from 1)."""
        step -= self.after
        if self.told:
            return self.told[min(step, len(self.told)) - 1]
        return self.stages.at(step) * self.shape.at(step)

    @property
    def base(self) -> float:
        """The rate that the first step would have without a warm-up; never 0."""
        return self.stages.at(1)

    @property
    def highest(self) -> float:
        """No step has a higher one."""
        return max(self.told) if self.told else max(stage.value for stage in self.stages.stages)

    def stage_ends(self, steps: int) -> frozenset[int]:
        """The steps, of a job that ends with ``steps``, after which the next stage begins."""
        return frozenset(end + self.after for end in self.stages.ends(steps - self.after))

    def travel(self, steps: int) -> float:
        """The sum of the rates over ``steps``: with Adam, about how far one element can move."""
        return math.fsum(self.at(step) for step in range(self.after + 1, steps + 1))


def learning_rate_of(settings: LearningSettings) -> LearningRate:
    """The learning rate that a job's settings describe. Raises BadInput."""
    stages = parse_stages(settings.learning_rate, "learning rate").over(settings.steps)
    if settings.scheduler:
        return LearningRate(stages, after=settings.initial_step, told=_told(settings, stages))
    shape = Shape(
        cast(Decay, settings.decay),
        settings.steps,
        parse_warmup(settings.warmup, settings.steps),
        settings.decay_cycles,
        settings.decay_power,
        settings.decay_floor,
        parse_warmup(settings.decay_over, settings.steps, "decay-over"),
        settings.decay_timescale,
        settings.warmup_from,
        cast(Rise, settings.warmup_shape),
    )
    return LearningRate(stages, shape, settings.initial_step)


def _told(settings: LearningSettings, stages: Stages) -> Sequence[float]:
    """The rates that the named lr scheduler makes. Raises BadInput."""
    from lib_ti.core.scheduler_classes import rates_of  # which imports torch: settings are read without it

    if settings.decay != "constant" or parse_warmup(settings.warmup, settings.steps):
        raise BadInput(
            f"scheduler {settings.scheduler} takes the place of decay and warm-up; leave out decay "
            f"{settings.decay} and warmup {settings.warmup}."
        )
    if len(stages.stages) > 1:
        raise BadInput(
            f"learning-rate {settings.learning_rate!r}: the scheduler {settings.scheduler} begins at one "
            "rate; expected a number such as 0.005."
        )
    return rates_of(settings.scheduler, settings.scheduler_args, stages.at(1), settings.steps)


def parse_learning_rate(text: str) -> LearningRate:
    """The constant or staged rate that ``text`` describes, see ``parse_stages``. Raises BadInput."""
    return LearningRate(parse_stages(text, "learning rate"))


def parse_stages(text: str, what: str) -> Stages:
    """Read ``0.005`` or ``0.005:100, 1e-3:1000, 1e-4``: value, colon, the last step it holds for.

    An end with a decimal point is a share of the job's steps: ``0.1:0.2, 0.01:0.5, 0.001``. The last stage
    lasts to the job's end, whether it says nothing of it or, as in the WebUI, ``1e-4:-1``.
    Raises BadInput for anything else: unreadable, not positive, or ends that do not grow.
    """

    def refuse(why: str) -> BadInput:
        return BadInput(
            f"{what} {text!r}: {why}; expected a number such as 0.005, stages such as "
            "0.005:100, 1e-3:1000, 1e-4 (value:last step), or with shares of all steps, 0.1:0.2, 0.01."
        )

    if len(str(text)) > limits.ARGUMENTS:
        raise BadInput(f"{what}: it has {len(str(text))} characters; at most {limits.ARGUMENTS} are read.")
    stages: list[Stage] = []
    parts = [part.strip() for part in str(text).split(",") if part.strip()]
    if not parts:
        raise refuse("it is empty")
    for position, part in enumerate(parts):
        value_text, colon, until_text = part.partition(":")
        try:
            value = float(value_text)
            until = _step_or_share(until_text) if colon and until_text.strip() != _TO_THE_END else None
        except ValueError:
            raise refuse(f"cannot read {part!r}") from None
        if not math.isfinite(value) or value <= 0:
            raise refuse(f"{value_text.strip()} is not a positive number")
        if until is None and position < len(parts) - 1:
            raise refuse(f"only the last stage may leave out its end, {part!r} is not the last")
        if isinstance(until, float) and not 0 < until <= 1:
            raise refuse(f"{until_text.strip()} has a point, so it is a share, and not one of 0 to 1")
        if until is not None and not _grows(stages, until):
            raise refuse(f"the end in {part!r} does not come after the one before it")
        stages.append(Stage(value, until))
    return Stages(tuple(stages))


def parse_warmup(text: str, steps: int, setting: str = "warmup") -> int:
    """Steps of a warm-up, or of what ``setting`` names: a whole number, or with a decimal point a share of
    ``steps``. Raises BadInput."""
    try:
        given = _step_or_share(text)
    except ValueError:
        given = -1
    limit = 1 if isinstance(given, float) else steps
    if not 0 <= given <= limit:
        raise BadInput(
            f"{setting}: got {text!r}, expected a number of steps of at most {steps}, such as 100, "
            "or a share of them with a decimal point, such as 0.1."
        )
    return _steps_of(given, steps) if isinstance(given, float) else given


def _step_or_share(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def _steps_of(share: float, steps: int) -> int:
    return round(share * steps)


def _grows(stages: list[Stage], until: int | float) -> bool:
    """Whether ``until`` comes after the last end of its kind; across kinds only a job can tell."""
    before = stages[-1].until if stages else None
    if before is None or type(before) is not type(until):
        return until > 0
    return until > before
