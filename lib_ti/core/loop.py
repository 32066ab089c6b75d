"""The training loop: one for every method."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from lib_ti.core.ema import decay_at, update
from lib_ti.core.errors import BadInput, JobFailed
from lib_ti.core.evaluation import Evaluations
from lib_ti.core.job import TrainState
from lib_ti.core.optimizers import (
    WHOLE,
    averages,
    check_rate,
    make_optimizer,
    restore_state,
    result_of,
    set_rate,
    state_of,
)
from lib_ti.core.precision import Precision
from lib_ti.core.schedule import LearningRate, Stages, learning_rate_of, parse_stages
from lib_ti.core.train_settings import LearningSettings

CHECK_EVERY = 10  # steps between looks at the loss: each one waits for the device
GRADIENT_STEPS = 10  # steps within which every row must have had a gradient


class Method(Protocol):
    """What a method brings: parameters, the samples of a step and their losses."""

    def parameters(self) -> Mapping[str, torch.Tensor]:
        """Named leaf tensors, float32, the only ones that require gradient."""

    def draw(self, step: int) -> Sequence[Any]:
        """The micro-batches of optimizer step ``step`` (from 1), from seed and step alone. A ``split()`` of
        one gives its samples, each as a micro-batch."""

    def losses(self, batch: Any) -> torch.Tensor:
        """Loss of each sample of a micro-batch, (b,), with gradient."""


@dataclass(frozen=True)
class Progress:
    """Sent every ``CHECK_EVERY`` steps. ``rows``: (step, loss, learning rate) since the last one."""

    step: int
    steps: int
    rows: Sequence[tuple[int, float, float]]
    seconds_per_step: float
    evaluation: float | None = None  # loss of the fixed batch, where it was due at this step

    @property
    def loss(self) -> float:
        return sum(row[1] for row in self.rows) / len(self.rows)

    @property
    def seconds_left(self) -> float:
        return (self.steps - self.step) * self.seconds_per_step


class _GradientWatch:
    """Has every vector, and any of the other parameters, had a finite, non-zero gradient?"""

    def __init__(self, parameters: Mapping[str, torch.Tensor], vectors: Collection[str]) -> None:
        self.satisfied = False
        self.parameters = parameters
        self.seen = {
            name: torch.zeros(len(parameters[name]), dtype=torch.bool, device=parameters[name].device)
            for name in vectors
        }
        self.reached: set[str] = set()  # by any gradient: a word may be in none of the first prompts
        self.others = [p for name, p in parameters.items() if name not in self.seen]
        self.seen_elsewhere = not self.others

    def look(self) -> None:
        for name, seen in self.seen.items():
            gradient = self.parameters[name].grad
            if gradient is not None:
                self.reached.add(name)
                size = gradient.flatten(1).abs().amax(1)
                seen |= (size > 0) & torch.isfinite(size)
        if not self.seen_elsewhere:
            sizes = [p.grad.abs().amax() for p in self.others if p.grad is not None]
            self.seen_elsewhere = any(bool((size > 0) & torch.isfinite(size)) for size in sizes)

    def require(self, step: int) -> None:
        if not self.seen_elsewhere:
            raise JobFailed(
                f"after {step} steps no finite, non-zero gradient has reached what is trained, so it cannot "
                "learn: the model or its precision blocks it. Try full precision, or another attention or "
                "checkpointing setting."
            )
        for name, seen in self.seen.items():
            if not bool(seen.all()) and (name in self.reached or not self.reached):
                missing = [str(i + 1) for i in (~seen).nonzero().flatten().tolist()]
                raise JobFailed(
                    f"after {step} steps vector {', '.join(missing)} of {name} has had no finite, non-zero "
                    "gradient, so it cannot learn: the model or its precision blocks it. "
                    "Try full precision, or another attention or checkpointing setting."
                )
        self.satisfied = self.reached >= self.seen.keys()


def check_learning(settings: LearningSettings, device: torch.device | None = None) -> LearningRate:
    """The learning rate of the settings, once everything else a loop makes of them is known to be good.

    ``device``: what it will be learned on, where that is known. Raises BadInput.
    """
    if device is not None:
        Precision(settings.precision, device)
    if settings.initial_step >= settings.steps:
        raise BadInput(
            f"initial-step {settings.initial_step} leaves none of the {settings.steps} steps; give a smaller "
            "one, or more steps."
        )
    rate = learning_rate_of(settings)
    check_rate(settings.optimizer, rate.highest)
    _clip_stages(settings)
    Evaluations.of(settings)
    made = make_optimizer(settings.optimizer, settings.optimizer_args, {"": torch.zeros(1, 1)}, rate.base)
    if settings.staircase:
        _check_staircase(settings, rate)
    if settings.ema and averages(made):
        raise BadInput(f"ema: {settings.optimizer} keeps an average of its own; leave one of the two out.")
    return rate


def _check_staircase(settings: LearningSettings, rate: LearningRate) -> None:
    if not settings.evaluate_every:
        raise BadInput(
            "staircase: which vectors were best is told by evaluations alone; set evaluate-every, such as 25."
        )
    if not rate.stage_ends(settings.steps):
        raise BadInput(
            f"staircase: learning-rate {settings.learning_rate!r} has one stage in {settings.steps} steps; "
            "expected several, such as 0.02:0.3, 0.01:0.7, 0.002."
        )


def _clip_stages(settings: LearningSettings) -> Stages:
    return parse_stages(settings.clip_at, "clip-at").over(settings.steps)


class Loop:
    """Optimizer steps from a state to the last one, with a way back to the last good state."""

    def __init__(
        self,
        method: Method,
        rate: LearningRate,
        state: TrainState | None,
        settings: LearningSettings | None = None,
        evaluation: Sequence[Any] = (),
        *,
        vectors: Collection[str] | None = None,
        shares: Mapping[str, float] | None = None,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        """``settings``: of everything but the rate; their defaults if none. ``evaluation``: micro-batches
        of the fixed batch, where one is wanted. ``vectors``: the parameters whose every row is a vector that
        must learn, and is reported on; None: all. ``shares``: see make_optimizer. ``after_step``: called when
        the optimizer has changed the parameters. Raises BadInput."""
        self.settings = settings or LearningSettings()
        self.method = method
        self.rate = rate
        self.evaluation = evaluation
        self.shares = shares
        self.after_step = after_step
        self.clip_at = _clip_stages(self.settings)
        staircase = self.settings.staircase and evaluation
        self.stage_ends = rate.stage_ends(self.settings.steps) if staircase else frozenset()
        self.parameters = dict(method.parameters())
        self.step = self.settings.initial_step
        self.one_by_one = False  # a micro-batch for every sample, whatever the method draws: less memory
        self.optimizer = self._make_optimizer()
        self.precision = Precision(self.settings.precision, next(iter(self.parameters.values())).device)
        self.vectors = [name for name in self.parameters if vectors is None or name in vectors]
        self.start = {name: copy for name, copy in self._copies().items() if name in self.vectors}
        self.average = self._copies() if self.settings.ema else {}
        # Of every vector the sum of its gradients' norms: the report at the end wants their mean.
        self.gradients = {
            name: torch.zeros(len(rows), device=rows.device) for name, rows in self.start.items()
        }
        self.evaluations = Evaluations.of(self.settings)
        if state is not None:
            self.restore(state)
        self.good = self.snapshot()

    def _make_optimizer(self) -> torch.optim.Optimizer:
        settings = self.settings
        return make_optimizer(
            settings.optimizer, settings.optimizer_args, self.parameters, self.rate.base, self.shares
        )

    def snapshot(self) -> TrainState:
        """A copy of everything the next step, or the end, depends on."""
        beside: dict[str, dict[str, Any]] = {name: {} for name in self.parameters}
        for kind, values in self._kept().items():
            for name, value in values.items():
                beside[name][kind] = value.clone()
        beside[WHOLE] = {
            "evaluations": list(self.evaluations.rows),
            "precision": self.precision.state(),
            "one_by_one": self.one_by_one,
        }
        return TrainState(self.step, self._copies(), state_of(self.optimizer, self.parameters), beside)

    def restore(self, state: TrainState) -> None:
        """Go back, or on, to ``state``. Once samples are taken one by one they stay so."""
        self.step = state.step
        self.optimizer.zero_grad(set_to_none=True)  # an error may have left a part of a step's
        self._set(state.parameters)
        restore_state(self.optimizer, self.parameters, state.optimizer)
        whole = state.beside.get(WHOLE, {})
        self.precision.restore(whole.get("precision", {}))
        self.one_by_one = self.one_by_one or bool(whole.get("one_by_one"))
        self.evaluations.rows = [(step, loss) for step, loss in whole.get("evaluations", [])]
        self.evaluations.best = {}
        for kind, values in self._kept().items():
            for name, parameter in self.parameters.items():
                if kind in state.beside.get(name, {}):
                    values[name] = state.beside[name][kind].to(parameter.device, copy=True)

    def _kept(self) -> dict[str, dict[str, torch.Tensor]]:
        """What goes with the parameters, by kind."""
        return {
            "start": self.start,
            "average": self.average,
            "gradients": self.gradients,
            "best": self.evaluations.best,
        }

    def result(self) -> dict[str, torch.Tensor]:
        """Copies of what training has arrived at, which need not be where its next step starts."""
        if self.average:
            return {name: value.clone() for name, value in self.average.items()}
        return result_of(self.optimizer, self.parameters)

    def final(self) -> tuple[int, dict[str, torch.Tensor]]:
        """What the job ends with if it ends now, and the step it is of: with a stop rule or a staircase the
        best that was evaluated, else the result."""
        by_best = self.settings.staircase or self.settings.stop_rule != "none"
        if not by_best or not self.evaluations.rows:
            return self.step, self.result()
        return self.evaluations.best_row[0], dict(self.evaluations.best)

    @contextmanager
    def showing(self, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Inside, the parameters hold ``values``; afterwards they are what they were, to the bit."""
        kept = self._copies()
        try:
            self._set(values)
            yield
        finally:
            self._set(kept)

    def _copies(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def _set(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def _start_stage(self) -> None:
        """Go to the best vectors so far. What the optimizer knows of the gradient it gathered elsewhere, so
        it starts anew, and so does the average."""
        self._set(self.evaluations.best)
        self.optimizer = self._make_optimizer()
        for name, value in self.average.items():
            value.copy_(self.parameters[name].detach())

    def take_step(self) -> torch.Tensor:
        """One optimizer step; returns the mean loss, on the device."""
        self.step += 1
        set_rate(self.optimizer, self.rate.at(self.step))
        batches = self.micro_batches(self.method.draw(self.step))
        count = sum(len(batch) for batch in batches)
        total: torch.Tensor | None = None
        for batch in batches:
            # Divided by the whole step's count, so that accumulation equals the larger batch.
            with self.precision.computing():
                loss = self.method.losses(batch).sum() / count
            if (
                loss.requires_grad
            ):  # not where no prompt has the new word: a dropped caption, another's picture
                self.precision.backward(loss)
            total = loss.detach() if total is None else total + loss.detach()
        if total is None:
            raise ValueError("a step needs at least one micro-batch")
        return total

    def micro_batches(self, batches: Sequence[Any]) -> Sequence[Any]:
        """As they go through the model."""
        return [single for batch in batches for single in batch.split()] if self.one_by_one else batches

    def apply_gradients(self) -> None:
        """Clip, step the optimizer and the average; nothing at all where nothing was taught."""
        if all(p.grad is None for p in self.parameters.values()):
            return
        self.precision.unscale(self.optimizer)
        for name, total in self.gradients.items():
            gradient = self.parameters[name].grad
            if gradient is not None:
                # Overflown gradients take no step either.
                total += gradient.flatten(1).norm(dim=1).nan_to_num(0, 0)
        if self.settings.clip == "value":
            torch.nn.utils.clip_grad_value_(self.parameters.values(), self.clip_at.at(self.step))
        elif self.settings.clip == "norm":
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.clip_at.at(self.step))
        self.precision.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        self.after_step()
        if self.average:
            update(
                self.average,
                self.parameters,
                decay_at(self.settings.ema, self.step - self.settings.initial_step),
            )

    def _evaluate(self, steps: int) -> float | None:
        """The loss of the fixed batch with what training has arrived at, where it is due."""
        if not self._evaluates(self.step, steps):
            return None
        result = self.result()
        with self.showing(result), torch.no_grad(), self.precision.computing():
            batches = self.micro_batches(self.evaluation)
            losses = torch.cat([self.method.losses(batch) for batch in batches])
        loss = float(losses.mean())
        self.evaluations.add(self.step, loss, result)
        return loss

    def run(
        self,
        steps: int,
        *,
        due: Callable[[int], bool],
        on_progress: Callable[[Progress], None],
        stopped: Callable[[], bool],
    ) -> Literal["done", "stopped"]:
        """Train up to step ``steps``.

        Every ``CHECK_EVERY`` steps, at the steps ``due`` names, at evaluations and at the last, the
        losses are looked at; when they are finite the present state becomes ``good`` and ``on_progress``
        is called: whatever it saves is sound. ``stopped`` is asked before each step; a stop rule that is
        satisfied makes the job done.
        Raises JobFailed at a loss that is not finite (after going back to ``good``), or when a
        vector gets no gradient.
        """
        watch = _GradientWatch(self.parameters, self.vectors)
        pending: list[tuple[int, torch.Tensor]] = []
        first, busy, started = self.step, 0.0, time.monotonic()
        while True:
            stopping = self.step >= steps or stopped()
            looks = self.step % CHECK_EVERY == 0 or self._evaluates(self.step, steps)
            if pending and (stopping or looks or due(self.step)):
                rows = self._checked(pending)
                busy += time.monotonic() - started
                if not watch.satisfied and self.step - first >= min(GRADIENT_STEPS, steps - first):
                    watch.require(self.step - first)
                pending.clear()
                evaluation = self._evaluate(steps)
                self.good = self.snapshot()
                on_progress(Progress(self.step, steps, rows, busy / (self.step - first), evaluation))
            if self.step >= steps or self.evaluations.settled:
                return "done"
            if stopping:
                return "stopped"
            if not pending:
                started = time.monotonic()
            if self.step in self.stage_ends:
                self._start_stage()  # only now: what is saved at a stage's end is where the stage has led
            pending.append((self.step + 1, self.take_step()))
            if not watch.satisfied:
                watch.look()
            self.apply_gradients()

    def _evaluates(self, step: int, steps: int) -> bool:
        every = self.settings.evaluate_every if self.evaluation else 0
        return bool(every) and (step % every == 0 or step in self.stage_ends or step >= steps)

    def _checked(self, pending: Sequence[tuple[int, torch.Tensor]]) -> list[tuple[int, float, float]]:
        """Losses as numbers, if they and the parameters are finite."""
        values = torch.stack([loss for _, loss in pending]).tolist()
        rows = [(step, value, self.rate.at(step)) for (step, _), value in zip(pending, values, strict=True)]
        finite = all(bool(torch.isfinite(p).all()) for p in self.parameters.values())
        bad = next((step for step, value, _ in rows if not torch.isfinite(torch.tensor(value))), None)
        if bad is not None or not finite:
            at = bad if bad is not None else self.step
            self.restore(self.good)
            raise JobFailed(
                f"the loss at step {at} is not a finite number; went back to step {self.step}, the last "
                "good one. Try a lower learning rate or full precision."
            )
        return rows
