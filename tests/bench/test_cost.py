"""The cost is read off where it says, in the units it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_ti.bench.cost import ConceptCost, Course, Point, unet_passes
from lib_ti.bench.quality import Scores
from lib_ti.cli import main
from lib_ti.methods.registry import read_settings
from lib_ti.tinyworld.concepts import parse_concept

PICTURES = 20


def point(passes: float, right: int) -> Point:
    """``right`` of 20 pictures of each kind, where the model's own words have all."""
    scores = Scores([i < right for i in range(PICTURES)], [True] * PICTURES)
    return Point(passes, scores, scores)


def course(*rights: int) -> Course:
    """Jobs of 100, 200, 400, ... passes."""
    return Course([point(100 * 2**i, right) for i, right in enumerate(rights)])


def test_the_length_is_read_off_between_two_jobs() -> None:
    # 0.8 at 200 passes and 1.0 at 400: 0.9 is half-way, on a scale on which a step doubles.
    assert course(2, 16, 20, 20).first == pytest.approx(200 * 2**0.5)
    assert course(2, 16, 20, 20).for_good == pytest.approx(200 * 2**0.5)


def test_what_falls_again_was_not_reached_for_good() -> None:
    fell = course(2, 20, 10, 20)
    assert fell.first == pytest.approx(100 * 2 ** (0.8 / 0.9))
    assert fell.for_good == pytest.approx(400 * 2 ** (0.4 / 0.5))
    assert course(2, 20, 10).for_good is None
    assert course(2, 4, 10).first is None
    assert course(20, 20).first == course(20, 20).for_good == 100


def test_what_never_comes_there_costs_the_longest_job() -> None:
    star = parse_concept("star")
    assert ConceptCost(star, course(20, 20), course(2, 4)).ratio("first") == pytest.approx(100 / 200)
    assert ConceptCost(star, course(2, 4), course(20, 4)).ratio("for_good") == 1


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
        assert [passes for passes, _ in star[recipe]["course"]] == [4, 8]
    assert (
        told["first"]["not_reached"].keys() == told["for_good"]["not_reached"].keys() == {"recipe", "webui"}
    )
    assert not list(tmp_path.iterdir()), "a bench leaves nothing behind"


@pytest.mark.parametrize("lengths", ["", "0,4", "8,4", "4,4", "4,x"])
def test_lengths_rise(lengths: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "cost", "--lengths", lengths]) == 2
    assert "rising whole numbers" in capsys.readouterr().err
