"""The benches measure what they say; their figures are not tested here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lib_ti.bench.quality import HIDDEN_BACKGROUNDS, TRIGGER, Exam, Scores, choose_concepts
from lib_ti.bench.step import bench_step, fill_zeros
from lib_ti.cli import main
from lib_ti.tinyworld.concepts import SPLITS, parse_concept


@pytest.mark.parametrize("name", ["star", "purple", "outlined", "comic", "outlined red cross"])
class TestExam:
    def test_training_never_tells_the_concept(self, name: str) -> None:
        exam = Exam(parse_concept(name), 8, 64, 1)
        for scene, text in zip(exam.scenes, exam.captions, strict=True):
            assert "[name]" in text
            told = set(text.replace(",", "").split())
            assert not set(name.split()) - {scene.background} & told
            assert all(getattr(scene, a) == v for a, v in exam.concept.attributes.items())

    def test_edits_ask_for_backgrounds_no_training_picture_has(self, name: str) -> None:
        exam = Exam(parse_concept(name), 8, 64, 1)
        asked = {wanted["background"] for wanted in exam.edited.asked}
        assert len(asked) == HIDDEN_BACKGROUNDS
        assert asked.isdisjoint({scene.background for scene in exam.scenes})

    def test_the_ceiling_has_the_same_prompts_in_the_models_own_words(self, name: str) -> None:
        exam = Exam(parse_concept(name), 8, 64, 1)
        for trial in (exam.plain, exam.edited):
            assert len(trial.prompts) == len(trial.own) == len(trial.asked) == 64
            for prompt, own, asked in zip(trial.prompts, trial.own, trial.asked, strict=True):
                assert prompt.count(TRIGGER) == 1 and TRIGGER not in own
                assert exam.concept.attributes.items() <= asked.items()
                assert set(name.split()) <= set(own.replace(",", "").split())

    def test_the_seed_settles_everything(self, name: str) -> None:
        one, again, other = (Exam(parse_concept(name), 8, 64, seed) for seed in (1, 1, 2))
        assert (one.scenes, one.plain) == (again.scenes, again.plain)
        assert one.scenes != other.scenes


def test_the_ceiling_of_an_unseen_concept_is_the_known_word_that_calls_it() -> None:
    called = Exam(parse_concept("vignette"), 8, 64, 1, trigger="comic")
    assert called.plain.own == called.plain.prompts
    for asked, own in zip(called.plain.asked, called.plain.own_asked, strict=True):
        assert (asked["style"], own["style"]) == ("vignette", "comic")
        assert {**asked, "style": "comic"} == own


@pytest.mark.parametrize(
    ("name", "trigger"), [("vignette", TRIGGER), ("crown", "comic"), ("red crown", "star")]
)
def test_an_unseen_concept_has_no_ceiling_otherwise(name: str, trigger: str) -> None:
    exam = Exam(parse_concept(name), 8, 16, 1, trigger=trigger)
    assert exam.plain.own == [] and len(exam.plain.prompts) == 16


def test_concepts_come_from_the_test_split() -> None:
    drawn = [concept.name for concept in choose_concepts([], 3)]
    assert len(drawn) >= 6 and set(drawn) <= set(SPLITS["test"])
    assert drawn == [concept.name for concept in choose_concepts([], 3)]
    assert drawn != [concept.name for concept in choose_concepts([], 4)]


def test_ratio_is_over_the_ceiling() -> None:
    scores = Scores(learned=[True, False, True, False], ceiling=[True, True, True, False])
    assert scores.ratio() == pytest.approx(2 / 3)
    assert scores.ratio(np.array([0, 0, 2, 3])) == pytest.approx(1.0)


@pytest.mark.parametrize("method", ["ti", "dreamartist"])
def test_quality_through_the_command_line(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, sheet = tmp_path / "here", tmp_path / "sheet.png"
    here.mkdir()
    monkeypatch.chdir(here)
    arguments = [
        "bench",
        "quality",
        "--json",
        "--method",
        method,
        "--concepts",
        "star",
        "--images",
        "2",
        "--judged",
        "8",
        "--steps",
        "3",
        "--sheet",
        str(sheet),
    ]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"ratio", "interval", "success", "editability", "untrained", "concepts"} <= told.keys()
    assert told["concepts"][0]["concept"] == "star" and told["concepts"][0]["steps"] == 3
    assert not list(here.iterdir()), "a bench leaves nothing else behind"
    with Image.open(sheet) as picture:
        assert len(set(picture.getdata())) > 100, "pictures, and not their frames alone"


def test_a_step_is_measured_against_its_floor() -> None:
    told = bench_step("tiny", 64, pairs=2)
    assert told["floor_s"] > 0 and told["step_s"] > 0 and 0 < told["text_share"] < 1
    assert told["floor_peak_mb"] == told["floor_peak_mb"]
    recomputed = bench_step("tiny", 64, pairs=2, checkpointing=True)
    assert 0 < recomputed["foretold_peak_mb"] < told["foretold_peak_mb"]


def test_zeros_are_filled_so_that_gradients_pass() -> None:
    layer = nn.Linear(400, 30)
    nn.init.zeros_(layer.weight)
    fill_zeros(layer, torch.Generator().manual_seed(0))
    assert float(layer.weight.detach().std()) == pytest.approx(0.6 / 400**0.5, rel=0.05)
