"""The decays against diffusers' own, which were written by others."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.schedule import (
    Decay,
    Shape,
    learning_rate_of,
    parse_learning_rate,
    parse_stages,
    parse_warmup,
)
from lib_ti.core.settings import options_of
from lib_ti.core.train_settings import LearningSettings

SETTINGS = LearningSettings(steps=100, learning_rate="0.1:0.2, 0.01:0.5, 0.001")


def test_a_plain_number_holds_for_ever() -> None:
    rate = parse_learning_rate("0.005")
    assert rate.at(1) == rate.at(10**6) == 0.005


def test_stages_end_at_their_step() -> None:
    rate = parse_learning_rate(" 0.005:100, 1e-3:1000 ,1e-4")
    assert [rate.at(step) for step in (1, 100, 101, 1000, 1001, 9999)] == [5e-3, 5e-3, 1e-3, 1e-3, 1e-4, 1e-4]


def test_the_last_rate_holds_past_its_step() -> None:
    assert parse_learning_rate("0.1:10, 0.01:20").at(500) == 0.01


@pytest.mark.parametrize("text", ["0.005", "0.005:100, 1e-3:1000, 1e-4", "0.1:10, 0.01:20"])
@pytest.mark.parametrize("steps", [1, 10, 57, 100, 101, 3000])
def test_travel_is_the_sum_of_the_rates(text: str, steps: int) -> None:
    rate = parse_learning_rate(text)
    assert rate.travel(steps) == pytest.approx(sum(rate.at(step) for step in range(1, steps + 1)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fast",
        "0.1:",
        "0.1:ten",
        "-1",
        "0",
        "nan",
        "inf",
        "0.1, 0.2",
        "0.1:10, 0.2:10",
        "0.1:10, 0.2:5",
        "0.1:0, 1",
        "0.1:1.5, 1",
        "0.1:0.0, 1",
        "0.1:0.5, 0.2:0.5",
        "0.1:1e2, 1",
    ],
)
def test_what_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadInput, match=r"0\.005:100"):
        parse_learning_rate(text)


def test_an_end_with_a_point_is_a_share_of_all_steps() -> None:
    rate = learning_rate_of(SETTINGS)
    assert [rate.at(step) for step in (1, 20, 21, 50, 51, 100)] == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    whole = learning_rate_of(replace(SETTINGS, learning_rate="0.1:1.0"))
    step = learning_rate_of(replace(SETTINGS, learning_rate="0.1:1, 0.2"))
    assert (whole.at(100), step.at(1), step.at(2)) == (0.1, 0.1, 0.2)


def test_shares_and_steps_mix_where_they_do_not_go_backwards() -> None:
    mixed = parse_stages("0.1:10, 0.01:0.5, 0.001", "rate")
    assert [mixed.over(100).at(step) for step in (10, 11, 50, 51)] == [0.1, 0.01, 0.01, 0.001]
    with pytest.raises(BadInput, match=r"of 10 steps, stage 0.01:0.5 ends at step 5, before .* \(10\)"):
        mixed.over(10)
    with pytest.raises(ValueError, match="a share"):
        parse_learning_rate("0.1:0.5, 0.2").at(1)


def test_a_share_of_a_short_job_may_be_no_step_at_all() -> None:
    stages = parse_stages("0.1:0.1, 0.01:0.5, 0.001", "rate").over(3)
    assert [stages.at(step) for step in (1, 2, 3)] == [0.01, 0.01, 0.001]


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize(
    ("shape", "name", "more"),
    [
        (Shape("constant", 100), "constant_with_warmup", {}),
        (Shape("linear", 100), "linear", {}),
        (Shape("cosine", 100), "cosine", {}),
        (Shape("cosine-restarts", 100, cycles=3), "cosine_with_restarts", {"num_cycles": 3}),
        (Shape("polynomial", 100, power=2.5), "polynomial", {"power": 2.5}),
    ],
)
def test_decays_are_those_of_diffusers(shape: Shape, name: str, more: dict[str, float], warmup: int) -> None:
    optimization = pytest.importorskip("diffusers.optimization")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = optimization.get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=100, **more
    ).lr_lambdas[0]
    shape = replace(shape, warmup=warmup)
    # Theirs begins with a step of rate 0, ours with the first that moves anything.
    assert [shape.at(step) for step in range(1, warmup + 1)] == [
        theirs(step) for step in range(1, warmup + 1)
    ]
    for step in range(warmup + 1, 101):
        assert shape.at(step) == pytest.approx(theirs(step - 1), abs=2e-7)


def test_every_decay_is_offered() -> None:
    assert options_of(LearningSettings)["decay"][1].choices == get_args(Decay)


@pytest.mark.parametrize("decay", get_args(Decay))
def test_travel_counts_decay_and_warmup(decay: str) -> None:
    """The integrals of the shapes, on a constant rate: what a step is worth on average."""
    rate = learning_rate_of(
        replace(SETTINGS, steps=10_000, learning_rate="0.1", decay=decay, warmup="0.1", decay_cycles=2)
    )
    mean = {
        "constant": 1,
        "linear": 1 / 2,
        "cosine": 1 / 2,
        "cosine-restarts": 1 / 2,
        "polynomial": 1 / 3,
        "cosine-waves": 1 / 2,
        "one-minus-sqrt": 1 / 3,
        "inverse-sqrt": 2 / 9 * (10**0.5 - 1),
        "adafactor": 1,
        "adafactor-warmup": 0.55,
    }
    assert rate.travel(10_000) == pytest.approx(0.1 * (500 + 9000 * mean[decay]), rel=1e-3)


def test_a_decay_may_begin_late_and_end_above_zero() -> None:
    told = {"decay": "linear", "decay_over": "0.2", "decay_floor": 0.5}
    rate = learning_rate_of(replace(SETTINGS, learning_rate="0.1", **told))
    assert [rate.at(step) for step in (1, 80, 81, 91, 101)] == pytest.approx([0.1, 0.1, 0.1, 0.075, 0.05])


def test_steps_that_are_left_out_at_the_beginning_leave_the_rates_as_they_are() -> None:
    whole = learning_rate_of(SETTINGS)
    later = learning_rate_of(replace(SETTINGS, initial_step=30))
    assert [later.at(step) for step in range(31, 101)] == [whole.at(step) for step in range(1, 71)]
    assert later.stage_ends(100) == {50, 80} and later.travel(100) == pytest.approx(whole.travel(70))


def test_past_the_last_step_a_decay_stays_at_its_end() -> None:
    for decay, end in (("linear", 0.0), ("cosine", 0.0), ("cosine-restarts", 0.0), ("constant", 0.1)):
        assert learning_rate_of(replace(SETTINGS, learning_rate="0.1", decay=decay)).at(150) == pytest.approx(
            end
        )


def test_a_warmup_is_steps_or_a_share() -> None:
    assert [parse_warmup(text, 200) for text in ("0", "30", "200", "0.1", "1.0")] == [0, 30, 200, 20, 200]


@pytest.mark.parametrize("text", ["", "soon", "-1", "201", "1.5", "-0.1"])
def test_a_warmup_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="warmup: got"):
        parse_warmup(text, 200)
