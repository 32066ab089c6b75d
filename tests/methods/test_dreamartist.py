"""On the built-in checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.loop import Loop, Progress
from lib_ti.core.objective import q_sample, target_of
from lib_ti.core.schedule import parse_learning_rate
from lib_ti.data.dataset import Subset
from lib_ti.data.samples import Batch, LatentCache, TrainingSet
from lib_ti.formats.embedding import read_embedding, write_safetensors
from lib_ti.hosts.standalone import StandaloneHost
from lib_ti.methods.dreamartist import (
    DreamArtist,
    as_embeddings,
    clean_of,
    initial_pair,
    negative_lines,
    preflight,
    vectors_of,
)
from lib_ti.methods.dreamartist_settings import DreamArtistSettings
from lib_ti.methods.guidance import parse_guidance
from lib_ti.methods.starts import initial_vectors
from lib_ti.methods.textual_inversion import TextualInversion
from lib_ti.methods.vector_settings import InversionSettings, VectorSettings

SETTINGS = DreamArtistSettings(
    name="zqx-cat",
    init_text="star",
    negative_init_text="heart",
    batch_size=3,
    accumulation=1,
    weighting="none",
)
LINES = ["a photo of [name], [filewords]", "[filewords] and a [name]"]
CAPTIONS = ["red, large", "blue, small", "green, [name] on white", "white, left"]
PLAIN = {name: getattr(SETTINGS, name) for name in VectorSettings.__dataclass_fields__}


@pytest.fixture
def lent(host: StandaloneHost) -> Iterator[StandaloneHost]:
    with host.lend():
        yield host


def samples(settings: InversionSettings, lines: Sequence[str] = LINES) -> TrainingSet:
    generator = torch.Generator().manual_seed(3)
    cache = LatentCache(torch.randn(4, 1, 4, 8, 8, generator=generator), torch.full((4, 1, 4, 8, 8), 0.1))
    return TrainingSet(cache, CAPTIONS, lines, settings.name, settings)


def make(host: StandaloneHost, settings: DreamArtistSettings) -> DreamArtist:
    return DreamArtist(host, settings, samples(settings), initial_pair(host, settings))


def train(method: TextualInversion, steps: int = 3, rate: str = "0.01") -> list[float]:
    """The losses of some steps."""
    seen: list[Progress] = []
    loop = Loop(method, parse_learning_rate(rate), None)
    loop.run(steps, due=lambda step: False, on_progress=seen.append, stopped=lambda: False)
    return [row[1] for progress in seen for row in progress.rows]


def guided_by_hand(
    host: StandaloneHost, batch: Batch, prompts: Sequence[tuple[str, str]], scales: Sequence[float]
) -> torch.Tensor:
    """The squared errors of guided answers, one sample and one prompt at a time."""
    abar, losses = host.info.alphas_cumprod, []
    for i, ((negative, positive), scale) in enumerate(zip(prompts, scales, strict=True)):
        t = batch.timesteps[i : i + 1]
        noisy = abar[t].sqrt() * batch.latents[i] + (1 - abar[t]).sqrt() * batch.noise[i]
        without, with_it = (
            host.predict_noise(noisy.reshape(1, 4, 8, 8), t, host.encode_prompts([prompt]))
            for prompt in (negative, positive)
        )
        losses.append((without + scale * (with_it - without) - batch.noise[i]).pow(2).mean())
    return torch.stack(losses)


class TestStart:
    def test_three_and_six_vectors_of_which_the_negative_ones_are_disturbed(
        self, lent: StandaloneHost
    ) -> None:
        pair = initial_pair(lent, SETTINGS)
        vocabulary = lent.token_vectors("clip_l")
        star, heart = (vocabulary[lent.tokenize(word)] for word in ("star", "heart"))
        assert {name: table["clip_l"].shape for name, table in pair.items()} == {
            "zqx-cat": (3, 64),
            "zqx-cat-neg": (6, 64),
        }
        assert torch.equal(pair["zqx-cat"]["clip_l"], star.expand(3, 64))
        noise = pair["zqx-cat-neg"]["clip_l"] - heart
        assert float(noise.std()) == pytest.approx(0.07 * float(vocabulary.std()), rel=0.1)
        assert not torch.equal(noise[0], noise[1])

    def test_the_seed_settles_the_noise(self, lent: StandaloneHost) -> None:
        one, again, other = (
            initial_pair(lent, replace(SETTINGS, seed=seed))["zqx-cat-neg"]["clip_l"] for seed in (1, 1, 2)
        )
        assert torch.equal(one, again) and not torch.equal(one, other)

    def test_an_empty_start_is_refused_by_its_name(self, lent: StandaloneHost) -> None:
        with pytest.raises(BadInput, match="negative-init-text is empty"):
            initial_pair(lent, replace(SETTINGS, negative_init_text=" "))


class TestGuidance:
    @pytest.mark.parametrize("guidance", ["3", "1.5-4:cos", "0.5-2:rate**2"])
    def test_losses_are_those_of_each_sample_guided_alone(self, lent: StandaloneHost, guidance: str) -> None:
        """Also in a batch whose timesteps, and so whose scales, differ."""
        method = make(lent, replace(SETTINGS, guidance=guidance))
        batch = method.draw(1)[0]
        assert len(batch) == 3 and len(set(batch.timesteps.tolist())) == 3
        losses = method.losses(batch)
        gradients = torch.autograd.grad(losses.sum(), list(method.parameters().values()))
        prompts = list(zip(batch.prompts[:3], batch.prompts[3:], strict=True))
        scales = parse_guidance(guidance)[batch.timesteps].tolist()
        lent.set_embeddings(vectors_of(method.parameters(), SETTINGS))
        expected = guided_by_hand(lent, batch, prompts, scales)
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
        by_hand = torch.autograd.grad(expected.sum(), list(method.parameters().values()))
        for one, other in zip(gradients, by_hand, strict=True):
            assert float(one.abs().max()) > 1e-4
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)

    def test_a_scale_of_one_is_plain_inversion_bit_for_bit(self, lent: StandaloneHost) -> None:
        settings = replace(SETTINGS, guidance="1", accumulation=2)
        method = make(lent, settings)
        assert settings.words.all == ("zqx-cat",)
        plain_settings = InversionSettings(**{**PLAIN, "accumulation": 2})
        plain = TextualInversion(lent, plain_settings, samples(plain_settings))
        losses = train(method)
        lent.set_embeddings({"zqx-cat": plain.vectors})
        assert losses == train(plain)
        assert method.parameters().keys() == plain.parameters().keys()
        assert torch.equal(method.vectors["clip_l"], plain.vectors["clip_l"])

    def test_without_a_negative_embedding_the_empty_prompt_takes_its_place(
        self, lent: StandaloneHost
    ) -> None:
        settings = replace(SETTINGS, negative_vectors=0)
        method = make(lent, settings)
        assert settings.words.all == ("zqx-cat",) and method.parameters().keys() == {"clip_l"}
        batch = method.draw(1)[0]
        expected = guided_by_hand(lent, batch, [("", prompt) for prompt in batch.prompts[3:]], [3.0] * 3)
        torch.testing.assert_close(method.losses(batch), expected, rtol=1e-4, atol=1e-5)

    def test_accumulation_counts_every_micro_batch(self, lent: StandaloneHost) -> None:
        gradients = []
        for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
            settings = replace(SETTINGS, batch_size=batch_size, accumulation=accumulation)
            method = make(lent, settings)
            Loop(method, parse_learning_rate("0.005"), None).take_step()
            gradients.append([p.grad for p in method.parameters().values()])
        for others in gradients[1:]:
            for one, other in zip(gradients[0], others, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


class TestPrompts:
    def test_the_negative_prompt_has_the_same_line_without_the_filewords(self, lent: StandaloneHost) -> None:
        method = make(lent, SETTINGS)
        for step in range(1, 5):
            for batch in method.draw(step):
                for negative, positive in zip(batch.prompts[:3], batch.prompts[3:], strict=True):
                    assert negative == (
                        "a photo of zqx-cat-neg" if positive.startswith("a photo") else "and a zqx-cat-neg"
                    )

    def test_with_filewords_both_have_the_same_draw_of_them(self, lent: StandaloneHost) -> None:
        settings = replace(SETTINGS, negative_filewords=True, shuffle_tags=True, drop_tags=0.3)
        method, seen = make(lent, settings), set()
        for step in range(1, 9):
            for batch in method.draw(step):
                for negative, positive in zip(batch.prompts[:3], batch.prompts[3:], strict=True):
                    assert negative == positive.replace("zqx-cat", "zqx-cat-neg")
                    seen.add(positive)
        assert len(seen) > 8

    def test_the_pictures_are_those_of_plain_inversion(self, lent: StandaloneHost) -> None:
        method, plain = make(lent, SETTINGS), samples(SETTINGS)
        for ours, theirs in zip(method.draw(5), plain.draw(5), strict=True):
            assert list(ours.prompts[3:]) == list(theirs.prompts)
            for name in ("latents", "noise", "timesteps"):
                assert torch.equal(getattr(ours, name), getattr(theirs, name))

    def test_a_line_that_only_the_filewords_gave_a_name_keeps_one(self) -> None:
        lines = ["[filewords]", "[name], [filewords]", "a [name]"]
        assert negative_lines(lines, filewords=False) == ("[name]", "[name]", "a [name]")
        assert negative_lines(lines, filewords=True) == tuple(lines)

    def test_both_words_are_looked_for_before_the_start(self, lent: StandaloneHost) -> None:
        make(lent, SETTINGS)
        said = preflight(lent, SETTINGS, LINES, CAPTIONS)
        assert said[0].startswith("trigger 'zqx-cat' found in 8 of 8")
        assert said[-1] == "negative trigger 'zqx-cat-neg' found in 2 of 2 prompts"
        with pytest.raises(BadInput, match="'zqx-cat' occurs in none"):
            preflight(lent, SETTINGS, ["a photo"], ["red"])

    def test_a_pair_that_cannot_become_one_is_warned_of(self, lent: StandaloneHost) -> None:
        settings = replace(SETTINGS, guidance="1")
        make(lent, settings)
        assert preflight(lent, settings, LINES, CAPTIONS)[-1].startswith("warning: at guidance 1")


class TestLearning:
    @pytest.mark.parametrize("weight", [0.5, 1.0, 4.0])
    def test_the_negative_vectors_move_so_many_times_as_far(
        self, lent: StandaloneHost, weight: float
    ) -> None:
        settings = replace(SETTINGS, negative_rate=weight)
        method, start = make(lent, settings), initial_pair(lent, settings)
        train(method, steps=1, rate="0.01")
        moved = {
            word: float((table["clip_l"].detach() - start[word]["clip_l"]).abs().median())
            for word, table in vectors_of(method.parameters(), settings).items()
        }
        assert moved["zqx-cat"] == pytest.approx(0.01, rel=1e-2)  # Adam's first step is the rate itself
        assert moved["zqx-cat-neg"] == pytest.approx(0.01 * weight, rel=1e-2)

    def test_the_guided_loss_falls_on_one_picture(self, lent: StandaloneHost) -> None:
        settings = replace(SETTINGS, batch_size=8, seed=2)
        method = make(lent, settings)
        batch = method.draw(1)[0]
        method.draw = lambda step: [batch]  # type: ignore[method-assign]
        losses = train(method, steps=10)
        assert losses[-1] < 0.9 * losses[0]

    @pytest.mark.parametrize("prediction", ["eps", "v"])
    def test_clean_latents_are_found_again(self, lent: StandaloneHost, prediction: str) -> None:
        generator = torch.Generator().manual_seed(0)
        latents, noise = (torch.randn(4, 4, 8, 8, generator=generator) for _ in range(2))
        timesteps, abar = torch.tensor([0, 300, 700, 990]), lent.info.alphas_cumprod
        noisy = q_sample(latents, noise, timesteps, abar)
        target = target_of(prediction, latents, noise, timesteps, abar)
        found = clean_of(prediction, noisy, target, timesteps, abar)
        torch.testing.assert_close(found, latents, rtol=1e-3, atol=1e-4)

    def test_reconstruction_adds_the_error_of_the_decoded_pictures(self, lent: StandaloneHost) -> None:
        without = make(lent, SETTINGS)
        batch = without.draw(1)[0]
        answer, seen = without.asked.predict_noise, []

        def kept(latents: torch.Tensor, *asked: Any) -> torch.Tensor:
            seen.append((latents, answer(latents, *asked)))
            return seen[-1][1]

        without.asked.predict_noise = kept
        losses = without.losses(batch)
        ((noisy, predicted),) = seen
        abar = lent.info.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
        clean = (noisy - (1 - abar).sqrt() * predicted) / abar.sqrt()
        error = (lent.decode(clean) - lent.decode(batch.latents)).abs().mean((1, 2, 3))
        method = make(lent, replace(SETTINGS, reconstruction=0.5))
        with_it = method.losses(batch)
        torch.testing.assert_close(with_it, losses + 0.5 * error, rtol=1e-4, atol=1e-5)
        parameters = list(method.parameters().values())
        plain = torch.autograd.grad(losses.sum(), list(without.parameters().values()))
        for one, other in zip(torch.autograd.grad(with_it.sum(), parameters), plain, strict=True):
            assert bool(torch.isfinite(one).all()) and not torch.allclose(one, other, rtol=1e-2)


def test_files_say_which_is_which(lent: StandaloneHost, tmp_path: Path) -> None:
    settings = replace(SETTINGS, images="/home/somebody/secret")
    positive, negative = as_embeddings(initial_pair(lent, settings), lent, settings, 50, "a-job")
    for embedding in (positive, negative):
        write_safetensors(embedding, tmp_path / f"{embedding.name}.safetensors")
        assert json.loads(embedding.metadata["settings"])["guidance"] == "3"
        assert embedding.metadata["job"] == "a-job" and "secret" not in str(dict(embedding.metadata))
    kept = read_embedding(tmp_path / "zqx-cat-neg.safetensors")
    assert (kept.name, kept.count, kept.step) == ("zqx-cat-neg", 6, 50)
    assert kept.metadata["modelspec.is_negative_embedding"] == "true"
    assert kept.metadata["positive_embedding"] == "zqx-cat"
    assert positive.metadata["negative_embedding"] == "zqx-cat-neg"
    assert "modelspec.is_negative_embedding" not in positive.metadata


def test_one_embedding_alone_is_a_file_as_any(lent: StandaloneHost) -> None:
    settings = replace(SETTINGS, negative_vectors=0)
    (alone,) = as_embeddings(initial_pair(lent, settings), lent, settings, 5, "")
    assert alone.name == "zqx-cat" and "negative_embedding" not in alone.metadata
    assert torch.equal(alone.vectors["clip_l"], initial_vectors(lent, settings)["clip_l"])


def test_a_regularisation_picture_teaches_the_negative_word_and_the_other_where_it_is_called(
    lent: StandaloneHost,
) -> None:
    """Beside any prompt the negative word should leave the model's own pictures as they are."""
    generator = torch.Generator().manual_seed(3)
    cache = LatentCache(torch.randn(3, 1, 4, 8, 8, generator=generator), torch.zeros(3, 1, 4, 8, 8))
    subsets = [Subset(Path()), *[Subset(Path(), regularisation=True)] * 2]
    settings = replace(SETTINGS, batch_size=2, latents="mean")
    captions = ["red", "a star", "a [name]"]
    gradients: dict[str, list[bool]] = {}
    for row in (1, 2):
        told = TrainingSet(
            LatentCache(cache.mean[[0, row]], cache.std[[0, row]]),
            [captions[0], captions[row]],
            LINES,
            settings.name,
            settings,
            subsets=[subsets[0], subsets[row]],
        )
        method = DreamArtist(lent, settings, told, initial_pair(lent, settings))
        (batch,) = method.draw(1)
        place = next(i for i, latents in enumerate(batch.latents) if torch.equal(latents, cache.mean[row][0]))
        negative, positive = batch.prompts[place], batch.prompts[2 + place]
        assert negative == "zqx-cat-neg"
        loss = method.losses(batch)[place]
        reached = torch.autograd.grad(loss, list(method.parameters().values()), allow_unused=True)
        gradients[positive] = [g is not None and bool(g.abs().max() > 0) for g in reached]
    assert gradients == {"a star": [False, True], "a zqx-cat": [True, True]}
