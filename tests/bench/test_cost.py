"""The cost is read off where it says, in the units it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_ti.bench.cost import ConceptCost, Course, unet_passes
from lib_ti.cli import main
from lib_ti.methods.registry import read_settings
from lib_ti.tinyworld.concepts import parse_concept


def course(*ratios: float) -> Course:
    """Jobs of 100, 200, 400, ... passes."""
    return Course([(100 * 2**i, ratio) for i, ratio in enumerate(ratios)])


def test_the_length_is_read_off_between_two_jobs() -> None:
    # 0.8 at 200 passes and 1.0 at 400: 0.9 is half-way, on a scale on which a step doubles.
    assert course(0.1, 0.8, 1, 1).first == pytest.approx(200 * 2**0.5)
    assert course(0.1, 0.8, 1, 1).for_good == pytest.approx(200 * 2**0.5)


def test_what_falls_again_was_not_reached_for_good() -> None:
    fell = course(0.1, 1, 0.5, 1)
    assert fell.first == pytest.approx(100 * 2 ** (0.8 / 0.9))
    assert fell.for_good == pytest.approx(400 * 2 ** (0.4 / 0.5))
    assert course(0.1, 1, 0.5).for_good is None
    assert course(0.1, 0.2, 0.5).first is None
    assert course(1, 1).first == course(1, 1).for_good == 100


def test_what_never_comes_there_costs_the_longest_job() -> None:
    star = parse_concept("star")
    assert ConceptCost(star, course(1, 1), course(0.1, 0.2)).ratio("first") == pytest.approx(100 / 200)
    assert ConceptCost(star, course(0.1, 0.2), course(1, 0.2)).ratio("for_good") == 1


def test_the_mean_course_is_read_off_like_any_other() -> None:
    mean = Course.mean([course(0.2, 1.0, 0.8), course(0.4, 0.6, 1.2)])
    assert mean.jobs == [(100, pytest.approx(0.3)), (200, pytest.approx(0.8)), (400, pytest.approx(1.0))]
    assert mean.first == pytest.approx(200 * 2**0.5)


def test_guidance_in_the_loss_takes_the_unet_twice() -> None:
    assert unet_passes(read_settings({"method": "dreamartist", "guidance": "3"})) == 2
    assert unet_passes(read_settings({"method": "dreamartist", "guidance": "1"})) == 1
    assert unet_passes(read_settings({})) == 1


def test_cost_through_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        main(
            [
                "bench",
                "cost",
                "--json",
                "--concepts",
                "star",
                "--pictures",
                "2",
                "--judged",
                "8",
                "--lengths",
                "4,8",
            ]
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    (star,) = told["concepts"]
    for recipe in ("recipe", "webui"):
        assert [passes for passes, _ in star[recipe]["jobs"]] == [4, 8]
    assert (
        told["first"]["not_reached"].keys() == told["for_good"]["not_reached"].keys() == {"recipe", "webui"}
    )
    assert not list(tmp_path.iterdir()), "a bench leaves nothing behind"


@pytest.mark.parametrize("lengths", ["", "0,4", "8,4", "4,4", "4,x"])
def test_lengths_rise(lengths: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "cost", "--lengths", lengths]) == 2
    assert "rising whole numbers" in capsys.readouterr().err
