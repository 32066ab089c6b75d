"""Section 2: rates above any sense, "to the end", start texts that do not fit, words that fill a chunk."""

from __future__ import annotations

from typing import Any

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.core.loop import check_learning
from lib_ti.core.schedule import parse_learning_rate
from lib_ti.methods.registry import read_settings
from lib_ti.workshop import Workshop
from tests.place import ended


@pytest.mark.parametrize("text", ["0.005:100, 1e-3:-1", "0.005:100,1e-3: -1 "])
def test_the_webuis_to_the_end_is_read(text: str) -> None:
    rate, usual = parse_learning_rate(text), parse_learning_rate("0.005:100, 1e-3")
    assert rate == usual and rate.at(10_000) == 1e-3


def test_only_the_last_stage_lasts_to_the_end() -> None:
    with pytest.raises(BadInput, match=r"'1e-3:-1' is not the last"):
        parse_learning_rate("1e-3:-1, 1e-4:100")


@pytest.mark.parametrize(
    ("optimizer", "rate", "most"),
    [
        ("AdamW", "5", "1"),
        ("AdamW", "0.01:0.5, 1e9:0.6, 0.001", "1"),
        ("Prodigy", "1e9", "1000"),
        ("torch.optim.SGD", "1e9", "1000"),
    ],
)
def test_a_rate_above_any_sense_is_refused(optimizer: str, rate: str, most: str) -> None:
    settings = read_settings({"name": "zqx", "optimizer": optimizer, "learning_rate": rate})
    with pytest.raises(BadInput, match=rf"learning-rate: got .*, expected at most {most} with {optimizer}"):
        check_learning(settings)


@pytest.mark.parametrize(("optimizer", "rate"), [("AdamW", "1"), ("torch.optim.SGD", "5")])
def test_a_rate_that_may_teach_is_taken(optimizer: str, rate: str) -> None:
    check_learning(read_settings({"name": "zqx", "optimizer": optimizer, "learning_rate": rate}))


def messages(workshop: Workshop, settings: dict[str, Any], **more: Any) -> list[str]:
    quick = {"steps": 1, "preview_every": 0, "copy_every": 0, "card": False}
    status = ended(workshop, workshop.train({**settings, **quick, **more}))
    assert status.status == "done", status.error
    return [message for message in status.messages if "left out" in message or "not in the vec" in message]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"init_text": "red star", "vectors": 2}, []),
        ({"init_text": "star", "vectors": 2}, []),
        (
            {"init_text": "big red star", "vectors": 1},
            ["init-text 'big red star' has 3 tokens, and the word 1 vectors: the last 2 are left out"],
        ),
        (
            {"init_text": "red star", "vectors": 2, "init": "zero"},
            ["init-text 'red star' is not in the vectors, whose start is zero"],
        ),
        (
            {"method": "dreamartist", "negative_init_text": "dull grey thing", "negative_vectors": 2},
            ["negative-init-text 'dull grey thing' has 3 tokens, and the word 2 vectors: the last one is"],
        ),
        (
            {
                "name": "zqx-a, zqx-b",
                "init_text": "red star, big blue moon",
                "vectors": 2,
                "template": "captions",
                "caption_prefix": "zqx-a zqx-b",
            },
            ["init-text 'big blue moon' has 3 tokens, and the word 2 vectors: the last one is left out"],
        ),
        (
            {
                "method": "lora",
                "trigger_word": "zqx-net",
                "word_vectors": 1,
                "init_text": "red star",
                "template": "subject",
            },
            ["init-text 'red star' has 2 tokens, and the word 1 vectors: the last one is left out"],
        ),
    ],
)
def test_a_start_that_does_not_fit_is_told(
    more: dict[str, Any], said: list[str], workshop: Workshop, settings: dict[str, Any]
) -> None:
    found = messages(workshop, settings, **more)
    assert len(found) == len(said)
    assert all(expected in sentence for expected, sentence in zip(said, found, strict=True))


def test_a_word_that_fills_a_chunk_is_told(workshop: Workshop, settings: dict[str, Any]) -> None:
    quick = {"steps": 1, "preview_every": 0, "copy_every": 0, "card": False, "vectors": 75}
    status = ended(workshop, workshop.train({**settings, **quick}))
    told = [message for message in status.messages if "no room in its chunk of 75" in message]
    assert status.status == "done" and len(told) == 1 and "75 vectors of 'zqx-cat' leave" in told[0]
