from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.evaluation import Evaluations, recent_gain, variance_ratio
from lib_ti.core.train_settings import LearningSettings

# Falls at once, then wavers: a curve that has settled after step 100.
CURVE = [(step, math.exp(-step / 20) + 0.01 * math.sin(step)) for step in range(10, 401, 10)]


def test_dvar_is_the_variance_of_the_last_steps_over_that_of_all() -> None:
    losses = np.array([loss for _, loss in CURVE])
    assert variance_ratio(CURVE, 200) == pytest.approx(losses[-20:].var() / losses.var())
    assert variance_ratio([(10, 0.5), (20, 0.5), (30, 0.5)], 10) == 0


def test_the_recent_gain_is_a_share_of_all_that_was_gained() -> None:
    rows = [(10, 1.0), (20, 0.6), (30, 0.7), (40, 0.5)]
    assert recent_gain(rows, 20) == pytest.approx(0.1 / 0.5)
    assert recent_gain(rows, 10) == pytest.approx(0.1 / 0.5)
    assert recent_gain([(10, 1.0), (20, 0.5), (30, 0.6), (40, 0.7)], 20) == 0
    assert recent_gain([(10, 1.0), (20, 2.0), (30, 3.0)], 10) == 0


@pytest.mark.parametrize("rule", ["dvar", "plateau"])
def test_a_rule_waits_for_the_curve_to_settle_and_then_for_a_window(rule: str) -> None:
    settings = LearningSettings(stop_rule=rule, evaluate_every=10, stop_window=100, stop_threshold=0.02)
    known = Evaluations.of(settings)
    settled = []
    for step, loss in CURVE:
        known.add(step, loss, {})
        if known.settled:
            settled.append(step)
    assert 100 < settled[0] < 250
    straight = Evaluations.of(settings)
    for step in range(10, 400, 10):
        straight.add(step, 1 - step / 400, {})
        assert not straight.settled


def test_no_rule_never_stops() -> None:
    known = Evaluations.of(LearningSettings(evaluate_every=10))
    for step in range(10, 1000, 10):
        known.add(step, 0.5, {})
    assert not known.settled


def test_the_first_of_the_best_is_kept() -> None:
    known = Evaluations.of(LearningSettings(evaluate_every=1))
    for step, loss in enumerate((math.nan, 0.5, 0.3, 0.3, math.nan, 0.4), 1):
        known.add(step, loss, {"v": torch.tensor(float(step))})
    assert known.best_row == (3, 0.3)
    assert known.best["v"] == 3


@pytest.mark.parametrize(("every", "window"), [(0, 200), (100, 200)])
def test_a_rule_without_evaluations_is_refused(every: int, window: int) -> None:
    settings = LearningSettings(stop_rule="dvar", evaluate_every=every, stop_window=window)
    with pytest.raises(BadInput, match=f"evaluate-every is {every}, stop-window {window} steps; expected 3"):
        Evaluations.of(settings)
