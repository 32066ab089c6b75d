"""A stop rule is judged by the copy it keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_ti.bench.cost import Point
from lib_ti.bench.quality import Scores
from lib_ti.bench.stop_rules import Watched, judge_rules
from lib_ti.cli import main
from lib_ti.methods.registry import read_settings

PICTURES = 20


def test_a_rule_is_judged_by_the_copy_it_keeps() -> None:
    settings = read_settings({"stop_window": 300, "evaluate_every": 100, "stop_threshold": 0.15})
    rights = [10, 18, 16, 16, 16, 16, 20]
    losses = [1.0, 0.5, 0.4, 0.41, 0.41, 0.41, 0.2]
    scores = [Scores([i < right for i in range(PICTURES)], [True] * PICTURES) for right in rights]
    copies = {100 * (i + 1): Point(0, score, score) for i, score in enumerate(scores)}
    watched = Watched(settings, copies, list(zip(copies, losses, strict=True)))
    # The losses of steps 400 to 600 gain nothing on that of 300, the best until then.
    assert judge_rules(watched)["plateau"] == {
        "ended": 600,
        "kept": 300,
        "score": 0.8,
        "best": 700,
        "of_best": 0.8,
        "of_best_apart": 0.8,
    }


def test_through_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = "bench stop-rules --json --concepts star --pictures 2 --judged 8 --steps 4 --every 2"
    arguments += " --stop-window 6 --batch-size 1 --accumulation 1"
    assert main(arguments.split()) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    (star,) = told["concepts"]
    assert [step for step, _ in star["curve"]] == [2, 4]
    assert set(told["rules"]) == set(star["rules"]) == {"dvar", "plateau"}
    assert not list(tmp_path.iterdir()), "a bench leaves nothing behind"
