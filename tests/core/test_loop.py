"""The loop on a small regression whose every number is known."""

from collections.abc import Callable, Mapping

import pytest
import torch

from lib_ti.core.errors import BadInput, JobFailed
from lib_ti.core.job import TrainState
from lib_ti.core.loop import Loop, Progress, check_learning
from lib_ti.core.randomness import generator_at
from lib_ti.core.schedule import parse_learning_rate
from lib_ti.core.train_settings import LearningSettings


class Line:
    """Fit rows of weights to a fixed matrix; batches of (x, y) drawn from seed and step."""

    def __init__(self, batch_size: int = 2, accumulation: int = 2, used_rows: int = 3) -> None:
        self.weights = torch.zeros(3, 4, dtype=torch.float64).requires_grad_()
        self.cut, self.total, self.used = batch_size, batch_size * accumulation, used_rows
        self.poison: Callable[[int], bool] = lambda step: False

    def parameters(self) -> Mapping[str, torch.Tensor]:
        return {"weights": self.weights}

    def draw(self, step: int) -> list[torch.Tensor]:
        x = torch.randn(self.total, 4, generator=generator_at(1, step), dtype=torch.float64)
        if self.poison(step):
            x = x * float("nan")
        return list(x.split(self.cut))

    def losses(self, batch: torch.Tensor) -> torch.Tensor:
        wanted = batch @ torch.arange(12.0, dtype=torch.float64).view(4, 3)[:, : self.used]
        return ((batch @ self.weights[: self.used].T - wanted) ** 2).mean(1)


def run(
    method: Line, steps: int, state: TrainState | None = None, stop_at: int | None = None
) -> tuple[Loop, list[Progress]]:
    loop, seen = Loop(method, parse_learning_rate("0.1:20, 0.02"), state), list[Progress]()
    loop.run(steps, due=lambda step: False, on_progress=seen.append, stopped=lambda: loop.step == stop_at)
    return loop, seen


def test_accumulation_equals_the_larger_batch() -> None:
    gradients = []
    for batch_size, accumulation in ((1, 8), (2, 4), (8, 1)):
        method = Line(batch_size, accumulation)
        Loop(method, parse_learning_rate("0.1"), None).take_step()
        gradients.append(method.weights.grad)
    assert gradients[0] is not None and gradients[0].abs().max() > 0.1
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=0, atol=1e-12)


def test_it_learns_and_tells_every_step_once() -> None:
    loop, seen = run(Line(), 57)
    rows = [row for progress in seen for row in progress.rows]
    assert [row[0] for row in rows] == list(range(1, 58))
    assert rows[-1][1] < rows[0][1] / 2
    assert [row[2] for row in rows] == [0.1] * 20 + [0.02] * 37
    assert loop.step == 57


def test_stop_and_go_on_is_the_same_to_the_bit() -> None:
    whole, _ = run(Line(), 60)
    first, seen = run(Line(), 60, stop_at=33)
    assert seen[-1].step == 33
    second, _ = run(Line(), 60, state=first.snapshot())
    assert torch.equal(whole.parameters["weights"], second.parameters["weights"])


def test_a_loss_that_is_not_finite_goes_back_to_the_last_good_state() -> None:
    method = Line()
    method.poison = lambda step: step == 25
    loop = Loop(method, parse_learning_rate("0.1"), None)
    good: dict[int, torch.Tensor] = {}
    with pytest.raises(JobFailed, match="step 25 is not a finite number; went back to step 20"):
        loop.run(
            60,
            due=lambda step: False,
            on_progress=lambda progress: good.update({progress.step: method.weights.detach().clone()}),
            stopped=lambda: False,
        )
    assert loop.step == 20
    assert torch.equal(method.weights, good[20])


def test_a_vector_without_gradient_stops_the_job_within_ten_steps() -> None:
    method = Line(used_rows=2)
    with pytest.raises(JobFailed, match=r"after 10 steps vector 3 of weights"):
        run(method, 60)


def test_a_job_shorter_than_the_watch_is_watched_too() -> None:
    with pytest.raises(JobFailed, match=r"after 4 steps vector 3"):
        run(Line(used_rows=2), 4)


def test_due_steps_are_reported_at_once() -> None:
    seen: list[int] = []
    loop = Loop(Line(), parse_learning_rate("0.1"), None)
    loop.run(30, due=lambda s: s == 17, on_progress=lambda p: seen.append(p.step), stopped=lambda: False)
    assert seen == [10, 17, 20, 30]


@pytest.mark.parametrize("clip", ["value", "norm"])
def test_gradients_are_clipped_on_their_own_schedule(clip: str) -> None:
    """Plain descent at rate 1 moves by the gradient itself, so the move tells what was left of it."""
    settings = LearningSettings(
        steps=4, optimizer="torch.optim.SGD", clip=clip, clip_at="0.01:0.5, 0.001", learning_rate="1"
    )
    method = Line()
    loop = Loop(method, parse_learning_rate("1"), None, settings)
    for limit in (0.01, 0.01, 0.001, 0.001):
        before = method.weights.detach().clone()
        loop.take_step()
        gradient = method.weights.grad.clone()
        loop.apply_gradients()
        expected = gradient.clamp(-limit, limit) if clip == "value" else gradient * limit / gradient.norm()
        assert gradient.norm() > 1
        torch.testing.assert_close(before - method.weights, expected, rtol=1e-5, atol=1e-9)


def test_a_job_that_shows_its_result_on_the_way_ends_the_same() -> None:
    """Schedule-free learns at one place and evaluates at another."""
    pytest.importorskip("schedulefree")
    settings = LearningSettings(optimizer="AdamWScheduleFree")
    ends = []
    for shows in (False, True):
        method = Line()
        loop = Loop(method, parse_learning_rate("0.1"), None, settings)
        for _ in range(9):
            loop.take_step()
            loop.apply_gradients()
            if shows:
                result = loop.result()["weights"]
                with loop.showing_result():
                    assert torch.equal(method.weights, result)
        ends.append(method.weights)
    assert torch.equal(ends[0], ends[1])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"learning_rate": "fast"}, "learning-rate 'fast'"),
        ({"warmup": "long"}, "warmup: got 'long'"),
        ({"clip_at": "-1"}, "clip-at '-1'"),
        ({"optimizer": "os.system"}, "optimizer: got 'os.system'"),
        ({"optimizer_args": "lr=1"}, "optimizer-args: lr"),
    ],
)
def test_settings_are_checked_before_a_loop_is_made(wrong: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        check_learning(LearningSettings(**wrong))
