"""Captions by the real WebUI's interrogators; only the weights, which cannot be had, are stand-ins."""

from __future__ import annotations

from typing import Any

import pytest

from lib_ti.bench.webui import WebUI
from tests.webui import probe

pytestmark = pytest.mark.host


@pytest.mark.parametrize(
    ("asked", "caption"),
    [
        ({"threshold": 0.75}, r"1girl, hat \(red\), bangs"),
        ({"threshold": 0.5, "by_score": False}, r"1girl, bangs, grass, hat \(red\)"),
        ({"threshold": 0.78, "spaces": False, "escape": False}, "1girl, hat_(red)"),
    ],
)
def test_tags_as_they_are_asked_for(webui: WebUI, asked: dict[str, Any], caption: str) -> None:
    before = probe(webui, "interrogator_options")
    assert probe(webui, "describe", by="deepbooru", **asked) == caption
    assert probe(webui, "interrogator_options") == before


def test_a_sentence(webui: WebUI) -> None:
    assert probe(webui, "describe", by="blip") == "a picture with a redness of 1.9"


def test_what_cannot_be_loaded_is_a_sentence(webui: WebUI) -> None:
    said = probe(webui, "describe_without_weights", by="deepbooru")
    assert said.startswith("deepbooru cannot be loaded (") and "connected" in said
