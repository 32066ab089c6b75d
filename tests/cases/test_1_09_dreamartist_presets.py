"""Row 1.9: what is published for DreamArtist, whole, and what a job's losses advise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from lib_ti.methods.loss_advice import LossAdvice
from lib_ti.methods.registry import KINDS, read_settings
from lib_ti.workshop import Workshop
from tests.place import ended

PLAIN = {"name": "zqx", "weighting": "none"}


@pytest.mark.parametrize(
    ("preset", "rate", "guidance", "steps"),
    [("character", "0.003", "3", 5000), ("style", "0.005", "5", 2000)],
)
def test_a_preset_has_every_published_value(preset: str, rate: str, guidance: str, steps: int) -> None:
    settings: Any = read_settings({"method": "dreamartist", "name": "zqx", "preset": preset})
    assert (settings.learning_rate, settings.guidance, settings.steps) == (rate, guidance, steps)
    assert (settings.ema, settings.clip_skip) == (0.97, 1)
    author: Any = read_settings({"method": "dreamartist", "name": "zqx", "preset": preset, "ema": 0.95})
    assert author.ema == 0.95


def said(method: str, losses: Iterable[float], epoch: int = 5, **values: Any) -> list[str]:
    advice = LossAdvice(
        read_settings({"method": method, **PLAIN, **values}), KINDS[method].failing_loss, epoch
    )
    sentences = []
    for step, loss in enumerate(losses, 1):
        sentences += advice([(step, loss, 0.1)])
    return sentences


@pytest.mark.parametrize(("method", "limit"), [("ti", 0.3), ("lora", 0.3), ("dreamartist", 0.2)])
def test_a_loss_that_promises_nothing_is_told_once(method: str, limit: float) -> None:
    falling = [limit + 0.2 - step / 1000 for step in range(150)]
    (sentence,) = said(method, falling)
    assert f"is {sum(falling[:50]) / 50:.2f} at step 50; above {limit:g}" in sentence
    assert said(method, (loss - 0.2 for loss in falling)) == []


def test_weighted_losses_are_of_another_scale() -> None:
    falling = [1 - step / 1000 for step in range(100)]
    assert said("ti", falling, weighting="x0") == said("ti", falling, loss="l1") == []


def test_ten_epochs_without_a_fall_are_told_once() -> None:
    falls, stays = [0.2 - step / 2000 for step in range(100)], [0.17] * 900
    (sentence,) = said("ti", falls + stays)
    assert "has not fallen for 200 steps, ten epochs or more, at step 300" in sentence
    (sentence,) = said("ti", falls + stays, epoch=60)
    assert "has not fallen for 600 steps" in sentence


def test_a_job_says_it_in_its_result(workshop: Workshop, settings: dict[str, Any]) -> None:
    bright = {**settings, "weighting": "none", "steps": 60, "min_timestep": 0, "max_timestep": 40}
    job = workshop.train({**bright, "preview_every": 0, "learning_rate": "1e-6"})
    status = ended(workshop, job)
    told = [message for message in status.messages if "the mean loss of 50 steps" in message]
    assert (len(told) == 1) == (sum(row[1] for row in workshop.losses(job)[:50]) / 50 > 0.3)
    assert told, "noise in the first timesteps of pictures of noise was to be too hard"
