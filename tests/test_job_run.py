"""What a job asks of its previews, and how it tells its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_ti.job_run import preview_negative, preview_prompts, told_files
from lib_ti.methods.kind import ROLES, JobSettings, Product
from lib_ti.methods.registry import read_settings


def settings_of(method: str, **more: str) -> JobSettings:
    chosen = {"method": "ti", "negative": True} if method == "negative" else {"method": method}
    return read_settings({**chosen, "name": "zqx", **more})


@pytest.mark.parametrize(
    ("method", "typed", "negative"),
    [
        ("ti", "", ""),
        ("ti", "blurry [name]", "blurry zqx"),
        ("negative", "", "zqx"),
        ("negative", "blurry", "zqx, blurry"),
        ("dreamartist", "", "zqx-neg"),
        ("dreamartist", "blurry", "zqx-neg, blurry"),
        ("dreamartist", "blurry, [name]", "blurry, zqx-neg"),
        ("dreamartist", "zqx-neg, blurry", "zqx-neg, blurry"),
    ],
)
def test_the_negative_prompt_calls_the_word_that_is_for_it(method: str, typed: str, negative: str) -> None:
    settings = settings_of(method, preview_negative=typed)
    assert preview_negative(settings) == negative


@pytest.mark.parametrize(
    ("method", "typed", "prompt"),
    [
        ("ti", "", "a photo of zqx, by night"),
        ("negative", "", "a photo of, by night"),
        ("negative", "a house", "a house"),
        ("negative", "a [name]", "a zqx"),
        ("dreamartist", "", "a photo of zqx, by night"),
    ],
)
def test_the_prompt_is_without_a_word_for_the_negative_one_unless_told(
    method: str, typed: str, prompt: str
) -> None:
    settings = settings_of(method, preview_prompt=typed)
    assert preview_prompts(settings, ["a photo of [name], [filewords]"], ["by night"], ["zqx"]) == [prompt]


@pytest.mark.parametrize(
    ("typed", "prompts"),
    [
        ("", ["zqx, red", "zqy, blue"]),
        ("a [name]", ["a zqx", "a zqy"]),
        ("a [name2] on a [name]", ["a zqy on a zqx", "a zqy on a zqy"]),
        ("a zqy", ["a zqy"]),
    ],
)
def test_each_of_several_words_has_a_preview_with_a_caption_of_its_own(
    typed: str, prompts: list[str]
) -> None:
    settings = read_settings({"name": "zqx, zqy", "preview_prompt": typed})
    captions, names = ["red", "blue", "green"], ["zqx", "zqy", "zqy"]
    assert preview_prompts(settings, ["[name], [filewords]"], captions, names) == prompts


def test_where_captions_call_the_words_each_preview_has_one_that_does() -> None:
    settings = read_settings({"name": "zqx, zqy", "template": "captions"})
    captions = ["red", "zqy, blue", "zqx, green"]
    found = preview_prompts(settings, ["[filewords]"], captions, ["zqx"] * 3)
    assert found == ["zqx, green", "zqy, blue"]


def test_several_words_for_the_negative_prompt_all_stand_there() -> None:
    settings = read_settings({"name": "zqx, zqy", "negative": True, "preview_negative": "zqy, blurry"})
    assert preview_negative(settings) == "zqx, zqy, blurry"
    assert preview_prompts(settings, ["a [name]"], [""], ["zqx"]) == ["a"]


def test_without_guidance_there_is_no_word_for_it() -> None:
    settings = read_settings({"method": "dreamartist", "name": "zqx", "guidance": "1"})
    assert preview_negative(settings) == ""


def test_files_are_told_by_what_they_are_for() -> None:
    word, other = Product("x", "embedding"), Product("x-neg", "negative_embedding")
    pair, alone = {word: Path("a/x"), other: Path("a/x-neg")}, {Product("x", "network"): Path("b/x")}
    assert set(told_files({})) == {*ROLES, "other_embeddings"} and not any(told_files({}).values())
    assert told_files(pair) == told_files({}) | {"embedding": "a/x", "negative_embedding": "a/x-neg"}
    more = pair | {Product("y", "embedding"): Path("a/y")}
    assert told_files(more) == told_files(pair) | {"other_embeddings": ["a/y"]}
    assert told_files(alone) == told_files({}) | {"network": "b/x"}
