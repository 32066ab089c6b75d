from __future__ import annotations

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.core.lengths import in_steps
from lib_ti.core.schedule import learning_rate_of
from lib_ti.core.train_settings import TrainSettings


def test_every_length_in_epochs_becomes_steps() -> None:
    settings = in_steps(
        TrainSettings(
            epochs=10,
            copy_every_epochs=2,
            preview_every_epochs=1,
            evaluate_every_epochs=1,
            stop_window_epochs=3,
        ),
        7,
    )
    assert (settings.steps, settings.copy_every, settings.preview_every) == (70, 14, 7)
    assert (settings.evaluate_every, settings.stop_window) == (7, 21)
    assert in_steps(settings, 7) == settings  # as a resumed job finds them


def test_what_is_not_given_in_epochs_stays() -> None:
    settings = TrainSettings(steps=33, copy_every=5)
    assert in_steps(settings, 7) is settings
    assert in_steps(TrainSettings(steps=33, preview_every_epochs=2), 7).steps == 33


def test_shares_of_a_learning_rate_are_of_the_steps_that_the_epochs_make() -> None:
    settings = TrainSettings(epochs=4, learning_rate="0.1:0.5, 0.01")
    rate = learning_rate_of(in_steps(settings, 25))
    assert (rate.at(50), rate.at(51)) == (0.1, 0.01)


def test_more_steps_than_a_job_may_have_are_refused() -> None:
    with pytest.raises(BadInput, match=r"steps: got 1100000, expected .* at most"):
        in_steps(TrainSettings(epochs=100), 11_000)
