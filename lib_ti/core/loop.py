"""The training loop: one for every method."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from lib_ti.core.errors import JobFailed
from lib_ti.core.job import TrainState
from lib_ti.core.optimizers import make_optimizer, restore_state, result_of, state_of
from lib_ti.core.schedule import LearningRate, Stages, learning_rate_of, parse_stages
from lib_ti.core.train_settings import LearningSettings

CHECK_EVERY = 10  # steps between looks at the loss: each one waits for the device
GRADIENT_STEPS = 10  # steps within which every row must have had a gradient


class Method(Protocol):
    """What a method brings: parameters, the samples of a step and their losses."""

    def parameters(self) -> Mapping[str, torch.Tensor]:
        """Named leaf tensors, float32, the only ones that require gradient."""

    def draw(self, step: int) -> Sequence[Any]:
        """The micro-batches of optimizer step ``step`` (from 1), from seed and step alone."""

    def losses(self, batch: Any) -> torch.Tensor:
        """Loss of each sample of a micro-batch, (b,), with gradient."""


@dataclass(frozen=True)
class Progress:
    """Sent every ``CHECK_EVERY`` steps. ``rows``: (step, loss, learning rate) since the last one."""

    step: int
    steps: int
    rows: Sequence[tuple[int, float, float]]
    seconds_per_step: float

    @property
    def loss(self) -> float:
        return sum(row[1] for row in self.rows) / len(self.rows)

    @property
    def seconds_left(self) -> float:
        return (self.steps - self.step) * self.seconds_per_step


class _GradientWatch:
    """Has every row of every parameter had a finite, non-zero gradient?"""

    def __init__(self, parameters: Mapping[str, torch.Tensor]) -> None:
        self.satisfied = False
        self.parameters = parameters
        self.seen = {
            name: torch.zeros(len(p), dtype=torch.bool, device=p.device) for name, p in parameters.items()
        }

    def look(self) -> None:
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                size = parameter.grad.flatten(1).abs().amax(1)
                self.seen[name] |= (size > 0) & torch.isfinite(size)

    def require(self, step: int) -> None:
        for name, seen in self.seen.items():
            if not bool(seen.all()):
                missing = [str(i + 1) for i in (~seen).nonzero().flatten().tolist()]
                raise JobFailed(
                    f"after {step} steps vector {', '.join(missing)} of {name} has had no finite, non-zero "
                    "gradient, so it cannot learn: the model or its precision blocks it. "
                    "Try full precision, or another attention or checkpointing setting."
                )
        self.satisfied = True


def check_learning(settings: LearningSettings) -> LearningRate:
    """The learning rate of the settings, once everything else a loop makes of them is known to be good.

    Raises BadInput.
    """
    rate = learning_rate_of(settings)
    _clip_stages(settings)
    make_optimizer(settings.optimizer, settings.optimizer_args, {"": torch.zeros(1, 1)}, rate.at(1))
    return rate


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
    ) -> None:
        """``settings``: of optimizer and clipping; their defaults if none. Raises BadInput."""
        self.settings = settings or LearningSettings()
        self.method = method
        self.rate = rate
        self.clip_at = _clip_stages(self.settings)
        self.parameters = dict(method.parameters())
        self.step = 0
        self.optimizer = make_optimizer(
            self.settings.optimizer, self.settings.optimizer_args, self.parameters, rate.at(1)
        )
        if state is not None:
            self.restore(state)
        self.good = self.snapshot()

    def snapshot(self) -> TrainState:
        """A copy of everything the next step depends on."""
        return TrainState(
            self.step,
            {name: p.detach().clone() for name, p in self.parameters.items()},
            state_of(self.optimizer, self.parameters),
        )

    def restore(self, state: TrainState) -> None:
        """Go back, or on, to ``state``."""
        self.step = state.step
        self._set(state.parameters)
        restore_state(self.optimizer, self.parameters, state.optimizer)

    def result(self) -> dict[str, torch.Tensor]:
        """Copies of what training has arrived at, which need not be where its next step starts."""
        return result_of(self.optimizer, self.parameters)

    @contextmanager
    def showing_result(self) -> Iterator[None]:
        """Inside, the parameters hold the result; afterwards they are what they were, to the bit."""
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        try:
            self._set(self.result())
            yield
        finally:
            self._set(kept)

    @torch.no_grad()
    def _set(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def take_step(self) -> torch.Tensor:
        """One optimizer step; returns the mean loss, on the device."""
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate.at(self.step)
        batches = self.method.draw(self.step)
        count = sum(len(batch) for batch in batches)
        total: torch.Tensor | None = None
        for batch in batches:
            # Divided by the whole step's count, so that accumulation equals the larger batch.
            loss = self.method.losses(batch).sum() / count
            loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        if total is None:
            raise ValueError("a step needs at least one micro-batch")
        return total

    def apply_gradients(self) -> None:
        if self.settings.clip == "value":
            torch.nn.utils.clip_grad_value_(self.parameters.values(), self.clip_at.at(self.step))
        elif self.settings.clip == "norm":
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.clip_at.at(self.step))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def run(
        self,
        steps: int,
        *,
        due: Callable[[int], bool],
        on_progress: Callable[[Progress], None],
        stopped: Callable[[], bool],
    ) -> Literal["done", "stopped"]:
        """Train up to step ``steps``.

        Every ``CHECK_EVERY`` steps, at the steps ``due`` names and at the last, the losses are
        looked at; when they are finite the present state becomes ``good`` and ``on_progress`` is
        called: whatever it saves is sound. ``stopped`` is asked before each step.
        Raises JobFailed at a loss that is not finite (after going back to ``good``), or when a
        vector gets no gradient.
        """
        watch = _GradientWatch(self.parameters)
        pending: list[tuple[int, torch.Tensor]] = []
        first, busy, started = self.step, 0.0, time.monotonic()
        while True:
            stopping = self.step >= steps or stopped()
            if pending and (stopping or self.step % CHECK_EVERY == 0 or due(self.step)):
                rows = self._checked(pending)
                busy += time.monotonic() - started
                if not watch.satisfied and self.step - first >= min(GRADIENT_STEPS, steps - first):
                    watch.require(self.step - first)
                pending.clear()
                on_progress(Progress(self.step, steps, rows, busy / (self.step - first)))
            if stopping:
                return "done" if self.step >= steps else "stopped"
            if not pending:
                started = time.monotonic()
            pending.append((self.step + 1, self.take_step()))
            if not watch.satisfied:
                watch.look()
            self.apply_gradients()

    def _checked(self, pending: Sequence[tuple[int, torch.Tensor]]) -> list[tuple[int, float, float]]:
        """Losses as numbers, if all are finite; then the present state is the good one."""
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
        self.good = self.snapshot()
        return rows
