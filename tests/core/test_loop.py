"""The loop on a small regression whose every number is known."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib_ti.core.ema import decay_at
from lib_ti.core.errors import BadInput, JobFailed
from lib_ti.core.job import Job, TrainState
from lib_ti.core.loop import Loop, Progress, check_learning
from lib_ti.core.randomness import generator_at
from lib_ti.core.schedule import learning_rate_of, parse_learning_rate
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


class Two(Line):
    """A second matrix, which alone is taught from step 25 on."""

    def __init__(self, other_rows: int) -> None:
        super().__init__()
        self.step, self.other_rows = 0, other_rows
        self.other = torch.zeros(3, 4, dtype=torch.float64).requires_grad_()

    def parameters(self) -> Mapping[str, torch.Tensor]:
        return {"weights": self.weights, "other": self.other}

    def draw(self, step: int) -> list[torch.Tensor]:
        self.step = step
        return super().draw(step)

    def losses(self, batch: torch.Tensor) -> torch.Tensor:
        if self.step < 25:
            return super().losses(batch)
        return ((batch @ self.other[: self.other_rows].T - 1) ** 2).mean(1)


def test_what_no_batch_has_called_yet_is_waited_for() -> None:
    loop, _ = run(Two(other_rows=3), 40)
    assert loop.step == 40
    with pytest.raises(JobFailed, match=r"after 30 steps vector 2, 3 of other"):
        run(Two(other_rows=1), 40)


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
                with loop.showing(loop.result()):
                    assert torch.equal(method.weights, result)
        ends.append(method.weights)
    assert torch.equal(ends[0], ends[1])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"learning_rate": "fast"}, "learning rate 'fast'"),
        ({"warmup": "long"}, "warmup: got 'long'"),
        ({"clip_at": "-1"}, "clip-at '-1'"),
        ({"optimizer": "os.system"}, "optimizer: got 'os.system'"),
        ({"optimizer_args": "lr=1"}, "optimizer-args: lr"),
    ],
)
def test_settings_are_checked_before_a_loop_is_made(wrong: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        check_learning(LearningSettings(**wrong))


FIXED = [torch.randn(3, 4, generator=generator_at(9, 9), dtype=torch.float64)]
WATCHED = LearningSettings(steps=60, ema=0.9, evaluate_every=7, stop_rule="plateau", stop_window=21)


def watched(
    state: TrainState | None, stop_at: int | None, settings: LearningSettings = WATCHED
) -> tuple[Loop, list[Progress]]:
    loop, seen = Loop(Line(), parse_learning_rate("0.1"), state, settings, FIXED), list[Progress]()
    loop.run(60, due=lambda step: False, on_progress=seen.append, stopped=lambda: loop.step == stop_at)
    return loop, seen


@pytest.mark.parametrize("stop_at", [13, 21, 33])
def test_average_evaluations_and_best_go_on_to_the_bit(stop_at: int, tmp_path: Path) -> None:
    whole, _ = watched(None, None)
    first, _ = watched(None, stop_at)
    job = Job(tmp_path)
    job.save_state(first.snapshot())
    second, _ = watched(job.load_state(), None)
    assert whole.evaluations.rows == second.evaluations.rows
    assert whole.final()[0] == second.final()[0]
    for one, other in ((whole.final()[1], second.final()[1]), (whole.result(), second.result())):
        assert torch.equal(one["weights"], other["weights"])
    for kind, values in whole._kept().items():
        assert torch.equal(values["weights"], second._kept()[kind]["weights"])


def test_evaluations_come_every_n_steps_and_at_the_end() -> None:
    _, seen = watched(None, None, replace(WATCHED, stop_rule="none"))
    assert [p.step for p in seen if p.evaluation is not None] == [7, 14, 21, 28, 35, 42, 49, 56, 60]


def test_an_evaluation_is_of_the_average_and_changes_nothing() -> None:
    settings = replace(WATCHED, stop_rule="none")
    loop, seen = watched(None, None, settings)
    plain, _ = watched(None, None, replace(settings, evaluate_every=0, ema=0.0))
    assert torch.equal(loop.parameters["weights"], plain.parameters["weights"])
    shown = Line()
    shown.weights.data.copy_(loop.result()["weights"])
    assert seen[-1].evaluation == shown.losses(FIXED[0]).mean().item()
    assert not torch.equal(loop.result()["weights"], loop.parameters["weights"])


def test_a_stop_rule_ends_the_job_with_the_best_and_not_the_last() -> None:
    settings = replace(WATCHED, ema=0.0, stop_threshold=0.01)
    method, seen = Line(), list[Progress]()
    loop = Loop(method, parse_learning_rate("2"), None, settings, FIXED)  # far too fast: it overshoots
    end = loop.run(500, due=lambda step: False, on_progress=seen.append, stopped=lambda: False)
    assert end == "done" and loop.step < 500
    step, vectors = loop.final()
    losses = {p.step: p.evaluation for p in seen if p.evaluation is not None}
    assert losses[step] == min(losses.values()) and step < loop.step
    method.weights.data.copy_(vectors["weights"])
    assert method.losses(FIXED[0]).mean().item() == losses[step]
    # Resumed after a kill, it does not go on.
    again = Loop(Line(), parse_learning_rate("2"), loop.snapshot(), settings, FIXED)
    assert again.run(500, due=lambda s: False, on_progress=seen.append, stopped=lambda: False) == "done"
    assert again.step == loop.step


CLIMB = LearningSettings(
    steps=60, staircase=True, evaluate_every=7, ema=0.9, learning_rate="2:0.35, 0.1:0.7, 0.02"
)


class Astray(Line):
    """Steps 15 to 21 teach the opposite, so the first stage ends worse than it has been."""

    def draw(self, step: int) -> list[torch.Tensor]:
        self.wrong = 14 < step <= 21
        return super().draw(step)

    def losses(self, batch: torch.Tensor) -> torch.Tensor:
        wanted = batch @ torch.arange(12.0, dtype=torch.float64).view(4, 3)
        wrong = self.wrong and len(batch) == self.cut  # the fixed batch is larger
        return ((batch @ self.weights.T - (-wanted if wrong else wanted)) ** 2).mean(1)


def climb(
    state: TrainState | None = None,
    stop_at: int | None = None,
    settings: LearningSettings = CLIMB,
    on_progress: Callable[[Loop, Progress], None] = lambda loop, progress: None,
) -> Loop:
    """Stages that end at steps 21 and 42."""
    loop = Loop(Astray(), learning_rate_of(settings), state, settings, FIXED)
    loop.run(
        60,
        due=lambda step: False,
        on_progress=lambda progress: on_progress(loop, progress),
        stopped=lambda: loop.step == stop_at,
    )
    return loop


@pytest.mark.parametrize("stop_at", [6, 7, 40])
def test_a_scheduler_by_its_class_and_steps_left_out_go_on_to_the_bit(stop_at: int, tmp_path: Path) -> None:
    settings = LearningSettings(
        steps=60,
        learning_rate="0.1",
        scheduler="CosineAnnealingWarmRestarts",
        scheduler_args="T_0=9 eta_min=0.01",
        initial_step=5,
    )
    whole = climb(settings=settings)
    assert whole.step == 60 and whole.rate.at(6) == 0.1 and whole.rate.at(15) == 0.1
    job = Job(tmp_path)
    job.save_state(climb(stop_at=stop_at, settings=settings).snapshot())
    again = climb(job.load_state(), settings=settings)
    assert torch.equal(again.result()["weights"], whole.result()["weights"])


def test_a_rate_above_any_sense_is_refused_of_a_scheduler_too() -> None:
    wild = LearningSettings(
        steps=9, learning_rate="0.1", scheduler="OneCycleLR",
        scheduler_args="max_lr=1e9 total_steps=9 cycle_momentum=False",
    )  # fmt: skip
    with pytest.raises(BadInput, match="expected at most 1"):
        check_learning(wild)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_each_stage_starts_from_the_best_so_far(ema: float) -> None:
    """And with a fresh optimizer: the first step of Adam moves every element by the rate itself."""
    settings = replace(CLIMB, ema=ema)
    for stage, rate in ((21, 0.1), (42, 0.02)):
        ended = climb(stop_at=stage, settings=settings)
        step, best = ended.final()
        assert ended.evaluations.rows[-1][0] == stage
        assert step == 14 or stage > 21  # the first stage's end is not its best
        begun = climb(ended.snapshot(), stop_at=stage + 1, settings=settings)
        moved = (begun.parameters["weights"].detach() - best["weights"]).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-4, atol=0)
        if ema:
            left = 1 - decay_at(ema, stage + 1)
            gone = (begun.average["weights"] - best["weights"]).abs()
            torch.testing.assert_close(gone, left * moved, rtol=1e-6, atol=0)


def test_a_staircase_evaluates_where_a_stage_ends_and_ends_with_the_best() -> None:
    settings = replace(CLIMB, learning_rate="2:20, 0.1:40, 0.02")
    loop = climb(settings=settings)
    assert {20, 40, 60} <= dict(loop.evaluations.rows).keys()
    step, vectors = loop.final()
    assert dict(loop.evaluations.rows)[step] == min(loss for _, loss in loop.evaluations.rows)
    assert torch.equal(vectors["weights"], loop.evaluations.best["weights"])


def test_the_optimizer_starts_anew_with_a_stage() -> None:
    counts: dict[int, float] = {}
    climb(
        on_progress=lambda loop, progress: counts.update(
            {progress.step: float(loop.optimizer.state[loop.parameters["weights"]]["step"])}
        )
    )
    assert (counts[21], counts[28], counts[42], counts[60]) == (21, 7, 21, 18)


@pytest.mark.parametrize("stop_at", [20, 21, 22, 42, 50])
def test_a_staircase_goes_on_to_the_bit(stop_at: int, tmp_path: Path) -> None:
    whole, job = climb(), Job(tmp_path)
    job.save_state(climb(stop_at=stop_at).snapshot())
    again = climb(job.load_state())
    assert again.evaluations.rows == whole.evaluations.rows
    for one, other in ((again.final()[1], whole.final()[1]), (again.result(), whole.result())):
        assert torch.equal(one["weights"], other["weights"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (replace(CLIMB, evaluate_every=0, learning_rate="0.1:0.5, 0.02"), "staircase: .* set evaluate-every"),
        (replace(CLIMB, learning_rate="0.01"), "has one stage in 60 steps; expected several"),
        (replace(CLIMB, learning_rate="0.01:300, 0.002"), "has one stage in 60 steps; expected several"),
    ],
)
def test_a_staircase_without_stages_or_evaluations_is_refused(
    settings: LearningSettings, sentence: str
) -> None:
    with pytest.raises(BadInput, match=sentence):
        check_learning(settings)


def test_gradients_are_summed_for_the_report() -> None:
    method = Line()
    loop, norms = Loop(method, parse_learning_rate("0.1"), None), torch.zeros(3)
    for _ in range(5):
        loop.take_step()
        norms += method.weights.grad.norm(dim=1)
        loop.apply_gradients()
    torch.testing.assert_close(loop.gradients["weights"], norms)


def test_two_averages_are_one_too_many() -> None:
    pytest.importorskip("schedulefree")
    with pytest.raises(BadInput, match="keeps an average of its own"):
        check_learning(LearningSettings(optimizer="AdamWScheduleFree", ema=0.9))


class Pair(Line):
    """With a matrix beside the vectors, of which a row is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.ones(2, 4, dtype=torch.float64).requires_grad_()

    def parameters(self) -> Mapping[str, torch.Tensor]:
        return {"weights": self.weights, "matrix": self.matrix}

    def losses(self, batch: torch.Tensor) -> torch.Tensor:
        return super().losses(batch * self.matrix[0])


def test_only_vectors_must_have_every_row_taught(tmp_path: Path) -> None:
    def train(vectors: list[str] | None) -> Loop:
        loop = Loop(Pair(), parse_learning_rate("0.1"), None, vectors=vectors)
        loop.run(20, due=lambda step: False, on_progress=lambda p: None, stopped=lambda: False)
        return loop

    with pytest.raises(JobFailed, match="vector 2 of matrix"):
        train(None)
    loop = train(["weights"])
    assert [*loop.start] == [*loop.gradients] == ["weights"]
    resumed = Loop(Pair(), parse_learning_rate("0.1"), loop.snapshot(), vectors=["weights"])
    assert torch.equal(resumed.start["weights"], loop.start["weights"])


def test_something_that_no_gradient_reaches_cannot_learn() -> None:
    class Deaf(Line):
        def losses(self, batch: torch.Tensor) -> torch.Tensor:
            return super().losses(batch * 0)

    loop = Loop(Deaf(), parse_learning_rate("0.1"), None, vectors=[])
    with pytest.raises(JobFailed, match="no finite, non-zero gradient has reached what is trained"):
        loop.run(20, due=lambda step: False, on_progress=lambda p: None, stopped=lambda: False)
