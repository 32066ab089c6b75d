"""What a job asks of its previews, and how it tells its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_ti.job_run import preview_negative, told_files
from lib_ti.methods.kind import ROLES, Product
from lib_ti.methods.registry import read_settings


@pytest.mark.parametrize(
    ("method", "typed", "negative"),
    [
        ("ti", "", ""),
        ("ti", "blurry [name]", "blurry zqx"),
        ("dreamartist", "", "zqx-neg"),
        ("dreamartist", "blurry", "zqx-neg, blurry"),
        ("dreamartist", "blurry, [name]", "blurry, zqx-neg"),
        ("dreamartist", "zqx-neg, blurry", "zqx-neg, blurry"),
    ],
)
def test_the_negative_prompt_calls_the_word_that_is_for_it(method: str, typed: str, negative: str) -> None:
    settings = read_settings({"method": method, "name": "zqx", "preview_negative": typed})
    assert preview_negative(settings) == negative


def test_without_guidance_there_is_no_word_for_it() -> None:
    settings = read_settings({"method": "dreamartist", "name": "zqx", "guidance": "1"})
    assert preview_negative(settings) == ""


def test_files_are_told_by_what_they_are_for() -> None:
    word, other = Product("x", "embedding"), Product("x-neg", "negative_embedding")
    pair, alone = {word: Path("a/x"), other: Path("a/x-neg")}, {Product("x", "network"): Path("b/x")}
    assert set(told_files({})) == set(ROLES) and not any(told_files({}).values())
    assert told_files(pair) == told_files({}) | {"embedding": "a/x", "negative_embedding": "a/x-neg"}
    assert told_files(alone) == told_files({}) | {"network": "b/x"}
