"""Several words in one job of textual inversion: their names, starts, prompts and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.loop import Loop
from lib_ti.core.schedule import parse_learning_rate
from lib_ti.data.dataset import Subset
from lib_ti.data.latents import LatentCache
from lib_ti.data.samples import TrainingSet
from lib_ti.hosts.base import Embeddings
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.methods.kind import Product, Words
from lib_ti.methods.registry import INVERSION, kind_of, read_settings
from lib_ti.methods.starts import from_pictures, initial_vectors
from lib_ti.methods.textual_inversion import (
    TextualInversion,
    as_embeddings,
    initial_words,
    parameters_of,
    preflight,
    vectors_of,
)
from lib_ti.methods.vector_settings import InversionSettings

SETTINGS = InversionSettings(
    name="zqx-cat, zqx dog", init_text="star, heart", batch_size=1, accumulation=1, latents="mean"
)


@pytest.fixture
def lent(host: StandaloneHost) -> Iterator[StandaloneHost]:
    with host.lend():
        yield host


def test_names_are_parted_at_commas() -> None:
    assert SETTINGS.words == Words("zqx-cat", others=("zqx dog",))
    assert SETTINGS.words.all == ("zqx-cat", "zqx dog") and SETTINGS.trigger == "zqx-cat"
    negative = replace(SETTINGS, negative=True)
    assert negative.words.for_negative == negative.words.all == ("zqx-cat", "zqx dog")
    assert negative.words.for_prompt == ()
    assert kind_of(negative).products(negative) == (
        Product("zqx-cat", "negative_embedding"),
        Product("zqx dog", "negative_embedding"),
    )


@pytest.mark.parametrize("name", ["zqx,", ",", "zqx, , zqy", "zqx, ZQX"])
def test_words_that_are_none_or_the_same_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="different ones separated by commas"):
        _ = replace(SETTINGS, name=name).words


@pytest.mark.parametrize("method", ["dreamartist"])
def test_a_pair_is_taught_alone(method: str) -> None:
    settings = read_settings({"method": method, "name": "zqx, zqy"})
    with pytest.raises(BadInput, match="teaches one pair; give one word"):
        kind_of(settings).words(settings)


class TestStart:
    def test_each_word_has_its_text_or_all_have_the_same(self, lent: StandaloneHost) -> None:
        def start(text: str) -> torch.Tensor:
            alone = replace(SETTINGS, name="zqx-cat", init_text=text)
            return initial_vectors(lent, alone)["clip_l"]

        both = initial_words(lent, SETTINGS)
        assert list(both) == ["zqx-cat", "zqx dog"]
        assert torch.equal(both["zqx-cat"]["clip_l"], start("star"))
        assert torch.equal(both["zqx dog"]["clip_l"], start("heart"))
        same = initial_words(lent, replace(SETTINGS, init_text="red star"))
        assert all(torch.equal(same[word]["clip_l"], start("red star")) for word in same)

    def test_a_comma_in_the_text_of_one_word_stays(self, lent: StandaloneHost) -> None:
        alone = replace(SETTINGS, name="zqx-cat", vectors=3)
        rows = lent.token_vectors("clip_l")[lent.tokenize("star, heart")]
        assert torch.equal(initial_words(lent, alone)["zqx-cat"]["clip_l"], rows)

    def test_random_starts_differ_and_the_first_is_that_of_one_word(self, lent: StandaloneHost) -> None:
        settings = replace(SETTINGS, init="random")
        one, other = (vectors["clip_l"] for vectors in initial_words(lent, settings).values())
        assert torch.equal(one, initial_vectors(lent, replace(settings, name="zqx-cat"))["clip_l"])
        assert not torch.equal(one, other)

    def test_another_number_of_texts_is_refused(self, lent: StandaloneHost) -> None:
        with pytest.raises(
            BadInput, match="got 3 texts, expected one for all words or one for each of the 2"
        ):
            initial_words(lent, replace(SETTINGS, init_text="star, heart, circle"))


def know(host: StandaloneHost) -> None:
    host.set_embeddings(initial_words(host, SETTINGS))


def test_every_word_must_be_in_a_prompt(lent: StandaloneHost) -> None:
    know(lent)
    said = preflight(lent, SETTINGS, ["a zqx-cat", "a zqx-cat and a zqx dog", "a star"])
    assert said[0].startswith("trigger 'zqx-cat' found in 2 of 3 prompts")
    assert said[1].startswith("trigger 'zqx dog' found in 1 of 3 prompts")
    with pytest.raises(BadInput, match="trigger 'zqx dog' occurs in none of the 1 prompts"):
        preflight(lent, SETTINGS, ["a zqx-cat"])
    hopeless = preflight(lent, replace(SETTINGS, learning_rate="1e-9"), ["zqx-cat zqx dog"])
    assert len(hopeless) == 3 and hopeless[2].startswith("warning")


def test_parameters_of_words_are_words_of_parameters(lent: StandaloneHost) -> None:
    words = {
        word: {"clip_l": torch.ones(1, 2) * i, "clip_g": torch.ones(1, 3) * i}
        for i, word in enumerate(SETTINGS.words.all)
    }
    parameters = parameters_of(words)
    assert list(parameters) == ["clip_l", "clip_g", "zqx dog clip_l", "zqx dog clip_g"]
    assert vectors_of(parameters, SETTINGS) == words


def method_of(host: StandaloneHost, lines: list[str], words: list[str], **more: Any) -> TextualInversion:
    """A picture for each of ``words``, by which its folder is called."""
    settings = replace(SETTINGS, **more)
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(len(words), 1, 4, 8, 8, generator=generator)
    samples = TrainingSet(
        LatentCache(latents, torch.zeros_like(latents)), words, lines, settings.trigger, settings,
        subsets=[Subset(Path(), class_words=word) for word in words], others=settings.words.others,
    )  # fmt: skip
    return TextualInversion(host, settings, samples)


def gradients(method: TextualInversion, step: int) -> list[str]:
    """The parameters that a step teaches."""
    loop = Loop(method, parse_learning_rate("0.01"), None)
    loop.step = step - 1
    loop.take_step()
    return [name for name, parameter in method.parameters().items() if parameter.grad is not None]


def test_each_word_learns_where_it_occurs(lent: StandaloneHost) -> None:
    method = method_of(lent, ["a photo of a [name]"], ["zqx-cat", "zqx dog"])
    called = {step: method.samples.prompts(step)[0] for step in (1, 2)}
    assert set(called.values()) == {"a photo of a zqx-cat", "a photo of a zqx dog"}
    for step, prompt in called.items():
        own = "zqx dog clip_l" if "dog" in prompt else "clip_l"
        assert gradients(method_of(lent, ["a photo of a [name]"], ["zqx-cat", "zqx dog"]), step) == [own]
    both = method_of(lent, ["a [name] and a [name2]"], ["zqx-cat"])
    assert gradients(both, 1) == ["clip_l", "zqx dog clip_l"]


def test_two_words_in_turn_learn_what_each_learns_alone(lent: StandaloneHost) -> None:
    """Each step teaches one of them: as many steps of its own prompts, noise and times would do the same."""
    sgd = {"optimizer": "torch.optim.SGD"}
    method = method_of(lent, ["a [name]"], ["zqx-cat", "zqx dog"], **sgd)
    steps = range(1, 5)
    mine = [step for step in steps if method.samples.prompts(step) == ["a zqx dog"]]
    assert 0 < len(mine) < len(steps)
    loop = Loop(method, parse_learning_rate("0.01"), None, method.settings)
    for _ in steps:
        loop.take_step()
        loop.apply_gradients()
    alone = replace(SETTINGS, name="zqx dog", init_text="heart", **sgd)
    other = TextualInversion(lent, alone, method.samples)
    other_loop = Loop(other, parse_learning_rate("0.01"), None, alone)
    for step in mine:
        other_loop.step = step - 1
        other_loop.take_step()
        other_loop.apply_gradients()
    torch.testing.assert_close(
        method.vectors["zqx dog clip_l"], other.vectors["clip_l"], rtol=1e-5, atol=1e-7
    )


def test_a_start_from_pictures_is_of_each_word_from_its_own(lent: StandaloneHost) -> None:
    settings = replace(SETTINGS, init="images", init_steps=2)
    samples = method_of(lent, ["a [name]"], ["zqx-cat", "zqx dog"]).samples

    def found(samples: TrainingSet) -> Embeddings:
        start = initial_words(lent, settings)
        made = from_pictures(INVERSION, lent, settings, samples, start, lambda told: None, lambda: False)
        assert made is not None
        return made

    both = found(samples)
    for row, word in enumerate(SETTINGS.words.all):
        assert torch.equal(both[word]["clip_l"], found(samples.only(row))[word]["clip_l"])


def test_each_word_is_exported_by_its_name(lent: StandaloneHost) -> None:
    settings = replace(SETTINGS, negative=True)
    made = as_embeddings(initial_words(lent, settings), lent, settings, 7, "job")
    assert [(e.name, e.step, e.is_negative) for e in made] == [("zqx-cat", 7, True), ("zqx dog", 7, True)]
