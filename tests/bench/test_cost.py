"""The cost is read off where it says, in the units it says, and the stop rules are judged by the copies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_ti.bench.cost import Copy, Curve, judge_rules, unet_passes
from lib_ti.bench.quality import Scores
from lib_ti.cli import main
from lib_ti.methods.registry import read_settings

PICTURES = 20


def copy(step: int, right: int) -> Copy:
    """``right`` of 20 pictures of each kind, where the model's own words have all."""
    scores = Scores([i < right for i in range(PICTURES)], [True] * PICTURES)
    return Copy(step, scores, scores)


def curve(*rights: int, **settings: int) -> Curve:
    """Copies every 100 steps, the first of step 0."""
    chosen = read_settings({"batch_size": 2, "accumulation": 3, **settings})
    return Curve(chosen, [copy(100 * i, right) for i, right in enumerate(rights)], ())


def test_the_cost_is_read_off_between_two_copies() -> None:
    # 0.8 at step 100, 1.0 at step 200: 0.9 is half-way, and a step takes six pictures.
    assert curve(2, 16, 20, 10).reached_at == pytest.approx(150)
    assert curve(2, 16, 20, 10).cost == pytest.approx(150 * 6)


def test_what_is_not_reached_costs_the_whole_length() -> None:
    missed = curve(2, 16, 17)
    assert (missed.reached_at, missed.cost, missed.as_json()["reached"]) == (None, 1200, False)


def test_a_start_that_is_good_costs_a_step() -> None:
    assert curve(19, 20).cost == 6


def test_guidance_in_the_loss_takes_the_unet_twice() -> None:
    assert unet_passes(read_settings({"method": "dreamartist", "guidance": "3"})) == 2
    assert unet_passes(read_settings({"method": "dreamartist", "guidance": "1"})) == 1
    assert unet_passes(read_settings({})) == 1


def test_a_rule_is_judged_by_the_copy_it_keeps() -> None:
    settings = read_settings({"stop_window": 300, "evaluate_every": 100, "stop_threshold": 0.15})
    rights = [0, 10, 18, 16, 16, 16, 16, 20]
    losses = [1.0, 0.5, 0.4, 0.41, 0.41, 0.41, 0.2]
    told = judge_rules(
        Curve(
            settings,
            [copy(100 * i, right) for i, right in enumerate(rights)],
            [(100 * (i + 1), loss) for i, loss in enumerate(losses)],
        )
    )
    # The losses of steps 400 to 600 gain nothing on that of 300, the best until then.
    assert told["plateau"] == {
        "ended": 600,
        "kept": 300,
        "score": 0.8,
        "best": 700,
        "of_best": 0.8,
        "of_best_apart": 0.8,
    }


def test_cost_through_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = "bench cost --json --concepts star --pictures 2 --judged 8 --steps 4 --every 2 --stop-rules"
    arguments += " --webui-steps 5 --stop-window 6 --batch-size 1 --accumulation 1"
    assert main(arguments.split()) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    (star,) = told["concepts"]
    assert [step for step, _ in star["recipe"]["curve"]] == [0, 2, 4]
    assert star["webui"]["curve"][-1][0] <= 5
    assert told["ratio"] == star["ratio"] and set(told["stop_rules"]) == {"dvar", "plateau"}
    assert not list(tmp_path.iterdir()), "a bench leaves nothing behind"
