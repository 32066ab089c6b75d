"""Where vectors start, on the built-in checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from lib_ti.core.errors import BadInput
from lib_ti.core.loop import Loop
from lib_ti.core.schedule import parse_learning_rate
from lib_ti.data.samples import LatentCache, TrainingSet
from lib_ti.formats.embedding import Embedding, write_pt, write_safetensors
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.methods import dreamartist
from lib_ti.methods.dreamartist_settings import DreamArtistSettings
from lib_ti.methods.registry import DREAMARTIST, INVERSION
from lib_ti.methods.starts import at_usual_length, from_pictures, initial_vectors
from lib_ti.methods.textual_inversion import TextualInversion, as_embedding
from lib_ti.methods.vector_settings import InversionSettings

SETTINGS = InversionSettings(name="zqx-cat", vectors=3, init_text="star", steps=100)
FROM_IMAGES = replace(
    SETTINGS,
    init="images",
    init_steps=3,
    vectors=2,
    accumulation=1,
    learning_rate="0.02:2, 0.5",
    warmup="0.9",
)


@pytest.fixture
def lent(host: StandaloneHost) -> Iterator[StandaloneHost]:
    with host.lend():
        yield host


class TestWords:
    def test_init_text_tokens_take_turns(self, lent: StandaloneHost) -> None:
        vectors = initial_vectors(lent, replace(SETTINGS, vectors=5, init_text="red star"))["clip_l"]
        rows = lent.token_vectors("clip_l")[lent.tokenize("red star")]
        assert torch.equal(vectors, rows[[0, 1, 0, 1, 0]])

    def test_zero(self, lent: StandaloneHost) -> None:
        assert not initial_vectors(lent, replace(SETTINGS, init="zero"))["clip_l"].any()

    def test_random_is_settled_by_the_seed_and_sized_as_the_vocabulary(self, lent: StandaloneHost) -> None:
        settings = replace(SETTINGS, init="random", vectors=75)
        one, again = (initial_vectors(lent, settings)["clip_l"] for _ in range(2))
        other = initial_vectors(lent, replace(settings, seed=2))["clip_l"]
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
        assert one.std() == pytest.approx(float(lent.token_vectors("clip_l").std()), rel=0.1)

    def test_empty_init_text_is_refused(self, lent: StandaloneHost) -> None:
        with pytest.raises(BadInput, match="init-text is empty"):
            initial_vectors(lent, replace(SETTINGS, init_text=" "))


def usual(host: StandaloneHost) -> float:
    return float(host.token_vectors("clip_l").norm(dim=1).median())


class TestCross:
    def test_it_is_the_encoders_answer_at_the_words_places_at_a_words_length(
        self, lent: StandaloneHost
    ) -> None:
        settings = replace(SETTINGS, init="cross", init_text="red star", vectors=2)
        vectors = initial_vectors(lent, settings)["clip_l"]
        with torch.no_grad():
            answer = lent.encode_prompts(["red star"]).hidden[0, 1:3]
        assert_close(vectors / usual(lent), answer / answer.norm(dim=1, keepdim=True))
        assert not vectors.requires_grad

    def test_nothing_in_the_words_is_emphasis(self, lent: StandaloneHost) -> None:
        settings = replace(SETTINGS, init="cross", init_text="(star)", vectors=3)
        vectors = initial_vectors(lent, settings)["clip_l"]
        with torch.no_grad():
            answer = lent.encode_prompts([r"\(star\)"]).hidden[0, 1:4]
        assert_close(vectors / usual(lent), answer / answer.norm(dim=1, keepdim=True))


def pictures(rows: list[int], settings: InversionSettings) -> TrainingSet:
    """Some of four pictures of noise."""
    noise = torch.randn(4, 1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    cache = LatentCache(noise[rows], torch.full((len(rows), 1, 4, 8, 8), 0.1))
    lines = ["a photo of a [name]", "[name], close"]
    return TrainingSet(cache, [""] * len(rows), lines, settings.name, settings)


class TestImages:
    def find(self, host: StandaloneHost, rows: list[int]) -> tuple[torch.Tensor, list[str]]:
        start = {"zqx-cat": initial_vectors(host, FROM_IMAGES)}
        said: list[str] = []
        samples = pictures(rows, FROM_IMAGES)
        found = from_pictures(INVERSION, host, FROM_IMAGES, samples, start, said.append, lambda: False)
        assert found is not None
        return found["zqx-cat"]["clip_l"], said

    def test_it_is_the_mean_of_what_each_picture_teaches_alone(self, lent: StandaloneHost) -> None:
        """At the first stage of the rate, all of it from the first step on."""
        alone = []
        for row in (0, 1, 2):
            method = TextualInversion(lent, FROM_IMAGES, pictures([row], FROM_IMAGES))
            loop = Loop(method, parse_learning_rate("0.02"), None)
            loop.run(3, due=lambda step: False, on_progress=lambda progress: None, stopped=lambda: False)
            alone.append(method.vectors["clip_l"].detach())
        found, said = self.find(lent, [0, 1, 2])
        mean = torch.stack(alone).mean(0)
        assert_close(found, mean / mean.norm(dim=1, keepdim=True) * usual(lent))
        assert [sentence.split(",")[0] for sentence in said] == [
            f"finding the start: picture {i} of 3" for i in (1, 2, 3)
        ]
        assert torch.equal(found, self.find(lent, [0, 1, 2])[0])

    def test_it_can_be_stopped(self, lent: StandaloneHost) -> None:
        start = {"zqx-cat": initial_vectors(lent, FROM_IMAGES)}
        said: list[str] = []
        found = from_pictures(
            INVERSION,
            lent,
            FROM_IMAGES,
            pictures([0, 1], FROM_IMAGES),
            start,
            said.append,
            lambda: len(said) == 2,
        )
        assert found is None and len(said) == 2

    def test_other_starts_stay_as_they_are(self, lent: StandaloneHost) -> None:
        start = {"zqx-cat": initial_vectors(lent, SETTINGS)}
        samples = pictures([0], SETTINGS)
        assert from_pictures(INVERSION, lent, SETTINGS, samples, start, print, lambda: False) is start

    def test_both_words_of_a_pair_start_from_the_pictures(self, lent: StandaloneHost) -> None:
        settings = DreamArtistSettings(name="zqx-cat", init="images", init_steps=1, accumulation=1)
        start = dreamartist.initial_pair(lent, settings)
        samples = pictures([0, 1], settings)
        found = from_pictures(DREAMARTIST, lent, settings, samples, start, lambda told: None, lambda: False)
        assert found is not None
        for word, count in (("zqx-cat", 3), ("zqx-cat-neg", 6)):
            vectors = found[word]["clip_l"]
            assert_close(vectors.norm(dim=1), torch.full((count,), usual(lent)))
            assert not torch.equal(vectors, at_usual_length(lent, start[word])["clip_l"])

    def test_its_steps_are_counted(self) -> None:
        assert FROM_IMAGES.steps_before(5) == 15
        assert FROM_IMAGES.steps_before(500) == 3 * 16
        assert replace(FROM_IMAGES, weights="x.pt").steps_before(5) == SETTINGS.steps_before(5) == 0


class TestFile:
    @pytest.fixture
    def embedding(self, lent: StandaloneHost) -> Embedding:
        return as_embedding(initial_vectors(lent, replace(SETTINGS, init="random")), lent, SETTINGS, 100)

    @pytest.mark.parametrize("kind", ["pt", "safetensors"])
    def test_its_vectors_are_the_start(
        self, kind: str, embedding: Embedding, lent: StandaloneHost, tmp_path: Path
    ) -> None:
        file = tmp_path / f"old.{kind}"
        {"pt": write_pt, "safetensors": write_safetensors}[kind](embedding, file)
        start = initial_vectors(lent, replace(SETTINGS, weights=str(file), init="images"))
        assert torch.equal(start["clip_l"], embedding.vectors["clip_l"])

    def test_what_does_not_fit_is_refused(
        self, embedding: Embedding, lent: StandaloneHost, tmp_path: Path
    ) -> None:
        file = tmp_path / "old.safetensors"
        settings = replace(SETTINGS, weights=str(file))
        write_safetensors(embedding, file)
        with pytest.raises(BadInput, match=r"has 3 vectors, the new word is to have 2; .* to 3"):
            initial_vectors(lent, replace(settings, vectors=2))
        write_safetensors(Embedding("old", {"clip_l": torch.ones(3, 768)}), file)
        with pytest.raises(BadInput, match=r"768 numbers for clip_l, .* reads 64"):
            initial_vectors(lent, settings)
        write_safetensors(Embedding("old", {"clip_h": torch.ones(3, 1024)}), file)
        with pytest.raises(BadInput, match=r"made for sd2, .* is sd1"):
            initial_vectors(lent, settings)
        with pytest.raises(BadInput, match="nowhere"):
            initial_vectors(lent, replace(settings, weights=str(tmp_path / "nowhere.pt")))

    def test_a_pair_goes_on_from_both_files(
        self, embedding: Embedding, lent: StandaloneHost, tmp_path: Path
    ) -> None:
        settings = DreamArtistSettings(
            name="zqx-cat", negative_vectors=2, weights=str(tmp_path / "old.safetensors")
        )
        write_safetensors(embedding, tmp_path / "old.safetensors")
        alone = dreamartist.initial_pair(lent, settings)
        negative = Embedding("old-neg", {"clip_l": torch.ones(2, 64)})
        write_safetensors(negative, tmp_path / "old-neg.safetensors")
        both = dreamartist.initial_pair(lent, settings)
        assert torch.equal(both["zqx-cat"]["clip_l"], embedding.vectors["clip_l"])
        assert torch.equal(both["zqx-cat-neg"]["clip_l"], negative.vectors["clip_l"])
        assert not torch.equal(alone["zqx-cat-neg"]["clip_l"], negative.vectors["clip_l"])

    def test_where_it_lies_is_nobodys_business(
        self, embedding: Embedding, lent: StandaloneHost, tmp_path: Path
    ) -> None:
        settings = replace(SETTINGS, weights=str(tmp_path / "secret.pt"))
        made = as_embedding(embedding.vectors, lent, settings, 1)
        assert "secret" not in str(made.metadata)
