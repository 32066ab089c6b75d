"""DreamArtist (arXiv 2211.11337): an embedding for the prompt and one for the negative prompt, trained
together with classifier-free guidance inside the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.randomness import generator_at
from lib_ti.data.samples import Batch, TrainingSet
from lib_ti.data.templates import all_prompts
from lib_ti.formats.embedding import IS_NEGATIVE, Embedding
from lib_ti.hosts.base import Condition, Embeddings, Host, Prediction
from lib_ti.methods import textual_inversion
from lib_ti.methods.dreamartist_settings import NEGATIVE_SUFFIX, DreamArtistSettings
from lib_ti.methods.guidance import is_plain, parse_guidance
from lib_ti.methods.kind import Writer
from lib_ti.methods.starts import initial_vectors, words_left_out
from lib_ti.methods.textual_inversion import TextualInversion, as_embedding, writer_of

_NEGATIVE_NOISE = 0.07  # of the vocabulary's spread: the 1e-3 that DreamArtist adds on SD 1
_NOISE = 1  # the place of that noise beside the random start's numbers
_NEGATIVE = "negative "  # before the names of its parameters


def initial_pair(host: Host, settings: DreamArtistSettings) -> Embeddings:
    """The start of both; noise on the negative one keeps the two from beginning alike. Raises BadInput."""
    words = settings.words
    start = {words.positive: initial_vectors(host, settings)}
    if words.negative:
        start[words.negative] = _initial_negative(host, settings)
    return start


def _initial_negative(host: Host, settings: DreamArtistSettings) -> dict[str, torch.Tensor]:
    """Of an existing pair the second file, which lies beside the first, as it is."""
    weights = _partner(settings.weights)
    if not weights and settings.asks_text and not host.tokenize(settings.negative_init_text):
        raise BadInput("negative-init-text is empty; give a word such as *, or choose --init zero or random.")
    like = replace(
        settings,
        vectors=settings.negative_vectors,
        init_text=settings.negative_init_text,
        weights=weights,
    )
    start = initial_vectors(host, like)
    if weights:
        return start
    for encoder, vectors in start.items():
        generator = generator_at(settings.seed, 0, vectors.shape[1], _NOISE)
        noise = torch.randn(vectors.shape, generator=generator)
        spread = float(host.token_vectors(encoder).std())
        start[encoder] = vectors + (_NEGATIVE_NOISE * spread * noise).to(vectors.device)
    return start


def _partner(weights: str) -> str:
    """The file of the negative embedding beside that of its positive one; "" where there is none."""
    file = Path(weights)
    partner = file.with_name(f"{file.stem}{NEGATIVE_SUFFIX}{file.suffix}") if weights else None
    return str(partner) if partner and partner.is_file() else ""


def negative_lines(lines: Sequence[str], filewords: bool) -> tuple[str, ...]:
    """Template lines of the negative prompts: the others', as a rule without the filewords."""
    if filewords:
        return tuple(lines)
    bare = (line.replace("[filewords]", "").strip(" ,") for line in lines)
    return tuple(line if "[name]" in line else "[name]" for line in bare)


def preflight(
    host: Host, settings: DreamArtistSettings, lines: Sequence[str], captions: Sequence[str]
) -> list[str]:
    """What should be said before the start; the host already knows the words. Raises BadInput where one of
    them occurs in no prompt."""
    words = settings.words
    said = textual_inversion.preflight(host, settings, all_prompts(lines, words.positive, captions))
    if words.negative:
        lines = negative_lines(lines, settings.negative_filewords)
        found = textual_inversion.found_in(host, words.negative, all_prompts(lines, words.negative, captions))
        said.append(f"negative {found}")
        like = replace(settings, vectors=settings.negative_vectors, weights=_partner(settings.weights))
        said += words_left_out(host, "negative-init-text", settings.negative_init_text, like)
    elif settings.negative_vectors:
        said.append("warning: at guidance 1 a negative embedding has nothing to learn, so none is made")
    return said


def clean_of(
    prediction: Prediction,
    noisy: torch.Tensor,
    predicted: torch.Tensor,
    timesteps: torch.Tensor,
    alphas_cumprod: torch.Tensor,
) -> torch.Tensor:
    """The clean latents that an answer to ``noisy`` means: (x_t - sqrt(1 - abar) eps) / sqrt(abar), or
    sqrt(abar) x_t - sqrt(1 - abar) v (arXiv 2202.00512, section 4 and appendix D); (b, c, h, w)."""
    abar = alphas_cumprod.to(noisy.device)[timesteps].to(noisy.dtype).view(-1, 1, 1, 1)
    if prediction == "eps":
        return (noisy - (1 - abar).sqrt() * predicted) / abar.sqrt()
    return abar.sqrt() * noisy - (1 - abar).sqrt() * predicted


class _PairBatch(Batch):
    """A batch of which every sample has two prompts: the negative ones come first, then the others."""

    def __len__(self) -> int:
        return len(self.latents)

    def prompts_of(self, sample: int) -> Sequence[str]:
        return [self.prompts[sample], self.prompts[len(self) + sample]]


class _PairedSamples:
    """The training set, of which every sample has two prompts."""

    def __init__(self, samples: TrainingSet, settings: DreamArtistSettings) -> None:
        self.samples = samples
        self.negative = settings.words.negative
        # The same draws of other lines give each sample its negative prompt.
        self.twin = copy(samples)
        self.twin.lines = negative_lines(samples.lines, settings.negative_filewords)
        self.twin.trigger = self.negative
        # Beside prompts of other things the negative word stands alone, and should do them no harm.
        self.twin.regular_line = "[name]"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.samples, name)

    def draw(self, step: int) -> list[Batch]:
        batches, twins = self.samples.draw(step), self.twin.draw(step)
        return [
            _PairBatch(**{**vars(batch), "prompts": [*self._negatives(twin), *batch.prompts]})
            for batch, twin in zip(batches, twins, strict=True)
        ]

    def _negatives(self, twin: Batch) -> Sequence[str]:
        return twin.prompts if self.negative else [""] * len(twin)


class _GuidedHost:
    """The host, with an answer that is guided: what an unchanged loss is taken of.

    It is asked with a condition of twice as many prompts as latents, the negative ones first.
    """

    def __init__(self, host: Host, scale: torch.Tensor | None) -> None:
        """``scale``: of each timestep, (timesteps,); None: there is one prompt a latent, and no guidance."""
        self.host = host
        self.scale = scale if scale is None else scale.to(host.info.device)
        self.last: tuple[torch.Tensor, torch.Tensor] | None = None  # what it was asked, and its answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.host, name)

    def predict_noise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        """uncond + s (cond - uncond) (arXiv 2207.12598, eq. 6 with s = w + 1); gradient through both."""
        if self.scale is None:
            answer = self.host.predict_noise(latents, timesteps, condition)
        else:
            twice = torch.cat([latents, latents]), torch.cat([timesteps, timesteps])
            if condition.sizes is not None:
                condition = replace(condition, sizes=torch.cat([condition.sizes, condition.sizes]))
            without, with_prompt = self.host.predict_noise(*twice, condition).chunk(2)
            scale = self.scale[timesteps].view(-1, 1, 1, 1)
            answer = without + scale * (with_prompt - without)
        self.last = latents, answer
        return answer


class DreamArtist(TextualInversion):
    """The method for the training loop: its parameters are the vectors of both embeddings."""

    def __init__(
        self, host: Host, settings: DreamArtistSettings, samples: TrainingSet, start: Embeddings
    ) -> None:
        """``start``: the vectors of each word."""
        self.words = settings.words
        positive = self.words.positive
        super().__init__(host, settings, samples, {positive: start[positive]})
        scale = parse_guidance(settings.guidance, len(host.info.alphas_cumprod))
        self.guided = not is_plain(scale)
        self.asked = _GuidedHost(host, scale if self.guided else None)
        self.host = cast(Host, self.asked)
        self.pair = settings
        # Adam moves every element by its learning rate: a parameter that counts w times moves w times as far.
        self.negative = {
            encoder: (vectors.to(host.info.device) / settings.negative_rate).requires_grad_()
            for encoder, vectors in start.get(self.words.negative, {}).items()
        }
        if self.guided:
            self.samples = cast(TrainingSet, _PairedSamples(samples, settings))
        host.set_embeddings(vectors_of(self.parameters(), settings))

    def parameters(self) -> Mapping[str, torch.Tensor]:
        negative = {f"{_NEGATIVE}{encoder}": vectors for encoder, vectors in self.negative.items()}
        return {**self.vectors, **negative}

    def losses(self, batch: Batch) -> torch.Tensor:
        self.host.set_embeddings(vectors_of(self.parameters(), self.pair))
        losses = super().losses(batch)
        if self.pair.reconstruction:
            losses = losses + self.pair.reconstruction * self._reconstruction_error(batch)
        self.asked.last = None  # it would keep the step's activations in memory
        return losses

    def export(self, parameters: Mapping[str, torch.Tensor], step: int, job: str) -> list[Writer]:
        vectors = vectors_of(parameters, self.pair)
        return [writer_of(embedding) for embedding in as_embeddings(vectors, self.host, self.pair, step, job)]

    def _reconstruction_error(self, batch: Batch) -> torch.Tensor:
        """Mean absolute error of each decoded picture, (b,). The clean latents go through the decoder too:
        what the VAE itself cannot draw is no error of the vectors."""
        assert self.asked.last is not None
        info, (noisy, predicted) = self.host.info, self.asked.last
        timesteps = batch.timesteps.to(info.device)
        clean = clean_of(info.prediction, noisy, predicted.float(), timesteps, self.alphas_cumprod)
        with torch.no_grad():
            target = self.host.decode(batch.latents.to(info.device))
        return (self.host.decode(clean) - target).abs().flatten(1).mean(1)


def vectors_of(parameters: Mapping[str, torch.Tensor], settings: DreamArtistSettings) -> Embeddings:
    """The loop's parameters as the vectors of each word; gradient reaches them."""
    words = settings.words
    positive = {name: p for name, p in parameters.items() if not name.startswith(_NEGATIVE)}
    negative = {
        name.removeprefix(_NEGATIVE): p * settings.negative_rate
        for name, p in parameters.items()
        if name.startswith(_NEGATIVE)
    }
    pair = {words.positive: positive, words.negative: negative}
    return {word: pair[word] for word in words.all}


def as_embeddings(
    vectors: Embeddings, host: Host, settings: DreamArtistSettings, step: int, job: str
) -> list[Embedding]:
    """The pair as its files carry it; each names the other."""
    words = settings.words
    if not words.negative:
        return [as_embedding(vectors[words.positive], host, settings, step, job)]
    told = {
        words.positive: {"negative_embedding": words.negative},
        words.negative: {"positive_embedding": words.positive, IS_NEGATIVE: "true"},
    }
    return [
        as_embedding(vectors[word], host, settings, step, job, name=word, more=told[word])
        for word in words.all
    ]


def untrained(host: Host, settings: DreamArtistSettings) -> list[Writer]:
    """A writer for each half as it starts."""
    pair = initial_pair(host, settings)
    return [writer_of(embedding) for embedding in as_embeddings(pair, host, settings, 0, "")]
