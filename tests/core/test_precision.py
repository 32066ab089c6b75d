"""On the CPU, where torch can do both; the scaler is the one that CUDA uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.job import Job
from lib_ti.core.loop import Loop, Progress, check_learning
from lib_ti.core.precision import Precision
from lib_ti.core.randomness import generator_at
from lib_ti.core.schedule import parse_learning_rate
from lib_ti.core.train_settings import LearningSettings

FP16 = LearningSettings(steps=40, precision="fp16")
needs_scaler = pytest.mark.skipif(
    not hasattr(torch.amp, "GradScaler"), reason="no scaler for the CPU before 2.3"
)


class Small:
    """A linear fit whose gradients are far below fp16's smallest number."""

    def __init__(self) -> None:
        self.weights = torch.zeros(3, 4).requires_grad_()
        self.seen: set[torch.dtype] = set()

    def parameters(self) -> Mapping[str, torch.Tensor]:
        return {"weights": self.weights}

    def draw(self, step: int) -> list[torch.Tensor]:
        return [torch.randn(8, 4, generator=generator_at(1, step))]

    def losses(self, batch: torch.Tensor) -> torch.Tensor:
        answer = batch @ self.weights.T
        self.seen.add(answer.dtype)
        wanted = batch @ torch.linspace(-1, 1, 12).view(4, 3)
        return ((answer - wanted.to(answer.dtype)) * 1e-4).float().pow(2).mean(1)


def run(settings: LearningSettings, loop: Loop | None = None) -> Loop:
    loop = loop or Loop(Small(), parse_learning_rate("0.1"), None, settings)
    loop.run(40, due=lambda step: False, on_progress=lambda progress: None, stopped=lambda: False)
    return loop


@needs_scaler
@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_losses_are_computed_in_half_and_everything_else_in_float32(
    precision: str, dtype: torch.dtype
) -> None:
    method = Small()
    settings = replace(FP16, precision=precision)
    loop = run(settings, Loop(method, parse_learning_rate("0.1"), None, settings))
    assert method.seen == {dtype}
    assert method.weights.dtype == torch.float32
    assert {v.dtype for v in loop.optimizer.state[method.weights].values()} == {torch.float32}
    full = run(replace(FP16, precision="model")).parameters["weights"]
    torch.testing.assert_close(method.weights, full, rtol=0, atol=0.1)
    assert full.abs().max() > 0.5


@needs_scaler
def test_without_the_scaler_these_gradients_would_vanish() -> None:
    method = Small()
    loop = Loop(method, parse_learning_rate("0.1"), None, FP16)
    loop.precision.scaler = None
    loop.take_step()
    assert not method.weights.grad.any()


@needs_scaler
def test_clipping_sees_the_gradients_unscaled() -> None:
    """Plain descent at rate 1: the move is what clipping left."""
    moves = []
    for precision in ("model", "fp16"):
        settings = replace(
            FP16, precision=precision, optimizer="torch.optim.SGD", clip="value", clip_at="1e-9"
        )
        loop = Loop(Small(), parse_learning_rate("1"), None, settings)
        loop.take_step()
        loop.apply_gradients()
        moves.append((loop.parameters["weights"].detach().clone(), loop.gradients["weights"]))
    for one, other in zip(*moves, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0)
    assert moves[1][0].abs().max() == pytest.approx(1e-9)


@needs_scaler
def test_an_overflow_takes_no_step_and_lowers_the_scale() -> None:
    loop = Loop(Small(), parse_learning_rate("0.1"), None, FP16)
    loop.precision.restore({**loop.precision.state(), "scale": 1e30})
    loop.take_step()
    loop.apply_gradients()
    assert not loop.parameters["weights"].any()
    assert loop.precision.state()["scale"] == pytest.approx(0.5e30)
    assert torch.isfinite(loop.gradients["weights"]).all()


@needs_scaler
def test_a_resumed_job_has_its_scale_again(tmp_path: Path) -> None:
    first = Loop(Small(), parse_learning_rate("0.1"), None, FP16)
    first.precision.restore({**first.precision.state(), "scale": 2.0**34, "growth_interval": 7})
    seen: list[Progress] = []
    first.run(20, due=lambda step: False, on_progress=seen.append, stopped=lambda: False)
    job = Job(tmp_path)
    job.save_state(first.snapshot())
    second = Loop(Small(), parse_learning_rate("0.1"), job.load_state(), FP16)
    assert second.precision.state() == first.precision.state()
    assert torch.equal(run(FP16, first).parameters["weights"], run(FP16, second).parameters["weights"])
    assert second.precision.state() == first.precision.state()


def test_without_a_scaler_for_the_device_fp16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.amp, "GradScaler", raising=False)
    with pytest.raises(BadInput, match="fp16 cannot be trained in on cpu; choose bf16"):
        check_learning(FP16, torch.device("cpu"))


def test_the_models_own_precision_changes_nothing() -> None:
    plain = Precision("model", torch.device("cpu"))
    assert plain.scaler is None and plain.state() == {}
    with plain.computing():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
