"""Textual inversion (arXiv 2208.01618): n vectors, found by gradient, that a prompt calls by a word."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch

from lib_ti.core import limits
from lib_ti.core.errors import BadInput
from lib_ti.core.names import safe_name
from lib_ti.core.optimizers import KNOWN, known_as
from lib_ti.core.schedule import learning_rate_of
from lib_ti.data.samples import Batch, TrainingSet
from lib_ti.data.templates import all_prompts
from lib_ti.formats.embedding import IS_NEGATIVE, Embedding, write_safetensors
from lib_ti.hosts.base import Embeddings, Host
from lib_ti.methods.denoising import denoising_losses, noise_schedule
from lib_ti.methods.kind import JobSettings, Writer
from lib_ti.methods.starts import initial_vectors, words_left_out
from lib_ti.methods.vector_settings import VectorSettings, split_words


def init_texts(settings: VectorSettings) -> dict[str, str]:
    """The init text of each word. Raises BadInput where they are not as many as the words."""
    words = settings.words.all
    texts = [settings.init_text] * len(words)
    if len(words) > 1 and len(parts := split_words(settings.init_text)) > 1:
        texts = parts
    if len(texts) != len(words):
        raise BadInput(
            f"init-text: got {len(texts)} texts, expected one for all words or one for each of the "
            f"{len(words)} ({', '.join(words)})."
        )
    return dict(zip(words, texts, strict=True))


def initial_words(host: Host, settings: VectorSettings) -> Embeddings:
    """The start of each word, what is random drawn for each anew. Raises BadInput."""
    return {
        word: initial_vectors(
            host, replace(settings, name=word, init_text=text, seed=(settings.seed + i) % 2**32)
        )
        for i, (word, text) in enumerate(init_texts(settings).items())
    }


def check_name(host: Host, name: str) -> None:
    """Raises BadInput where ``name`` is no usable file name, or already a word of the vocabulary."""
    safe_name(name)
    if len(host.tokenize(name)) == 1:
        raise BadInput(
            f"name {name!r} is an ordinary word of the model's vocabulary, every prompt with it would "
            f"change; expected a new word, such as my-{name}."
        )


def relative_travel(host: Host, settings: VectorSettings) -> float:
    """How far the vectors can move, as a share of the vocabulary's median norm.

    Adam moves an element by at most about the learning rate a step, a vector of d by sqrt(d) of it; an
    optimizer that finds its own rate or takes the gradient as it is does not keep to this.
    """
    travel = learning_rate_of(settings).travel(settings.steps)
    shares = []
    for encoder, width in host.info.text_encoders.items():
        norm = float(host.token_vectors(encoder).norm(dim=1).median())
        shares.append(travel * width**0.5 / norm)
    return min(shares)


_INTO_TEMPLATE = "put [name] into the template's lines"


def found_in(host: Host, trigger: str, prompts: Sequence[str], remedy: str = _INTO_TEMPLATE) -> str:
    """In how many of ``prompts`` the host finds ``trigger``, whose vectors it knows. Raises BadInput where it
    is in none: nothing could be learned."""
    found = sum(1 for prompt in prompts if host.count_triggers(prompt).get(trigger))
    return told_found(trigger, found, prompts, remedy)


def told_found(trigger: str, found: int, prompts: Sequence[str], remedy: str) -> str:
    """That ``trigger`` is in ``found`` of ``prompts``. Raises BadInput where it is in none."""
    if not found:
        raise BadInput(
            f"the trigger {trigger!r} occurs in none of the {len(prompts)} prompts "
            f"(first: {prompts[0]!r}); {remedy}."
        )
    said = f"trigger {trigger!r} found in {found} of {len(prompts)} prompts"
    return said if found == len(prompts) else said + "; steps with the others teach it nothing"


def tokens_found(tokens: Sequence[int], word: Sequence[int]) -> int:
    """How often the tokens of ``word`` stand one after the other in ``tokens``."""
    if not word:
        return 0
    return sum(list(tokens[at : at + len(word)]) == list(word) for at in range(len(tokens) - len(word) + 1))


def room_taken(host: Host, word: str, vectors: int, prompts: Sequence[str]) -> list[str]:
    """What to say where a word's vectors leave the other words of a prompt no room in their chunk."""
    own = len(host.tokenize(word))
    beside = [len(host.tokenize(prompt)) - own for prompt in prompts]
    full = sum(0 < count <= limits.VECTORS < count + vectors for count in beside)
    if not full:
        return []
    said = f"warning: {vectors} vectors of {word!r} leave the other words of {full} of {len(prompts)} prompts"
    where = f"no room in its chunk of {limits.VECTORS} tokens, and in another one they are heard less with it"
    return [f"{said} {where}; fewer vectors leave them room"]


def preflight(host: Host, settings: VectorSettings, prompts: Sequence[str]) -> list[str]:
    """What should be said before the start; the host already knows the trigger, and the words beside it.

    Raises BadInput where one of them occurs in none of ``prompts``.
    """
    said = [found_in(host, word, prompts) for word in (settings.trigger, *settings.words.others)]
    for text in dict.fromkeys(init_texts(settings).values()):
        said += words_left_out(host, "init-text", text, settings)
    said += room_taken(host, settings.trigger, settings.vectors, prompts)
    known = known_as(settings.optimizer)
    if known is KNOWN["Prodigy"] and learning_rate_of(settings).base < 0.1:
        said.append(
            "warning: Prodigy multiplies the rate it finds by learning-rate, which should be about 1.0"
        )
    if known is None or not known.moves_by_rate:
        return said
    travel = relative_travel(host, settings)
    reach = f"{travel:.0%} of" if travel < 1 else f"{travel:.0f} times"
    said.append(f"vectors can move {reach} a word's usual length")
    if travel < 0.1:
        said[-1] = (
            f"warning: {said[-1]}, too little to learn anything; raise learning-rate "
            f"({settings.learning_rate}) or steps ({settings.steps})"
        )
    return said


class TextualInversion:
    """The method for the training loop: its only parameters are the vectors."""

    def __init__(
        self,
        host: Host,
        settings: VectorSettings,
        samples: TrainingSet,
        start: Embeddings | None = None,
    ) -> None:
        """``start``: vectors by word, instead of those the settings describe."""
        self.host = host
        self.samples = samples
        self.settings = settings
        self.alphas_cumprod = noise_schedule(host, settings)
        given = parameters_of(initial_words(host, settings) if start is None else start)
        device = host.info.device
        self.vectors = {k: v.to(device, copy=True).requires_grad_() for k, v in given.items()}
        host.set_embeddings(vectors_of(self.vectors, settings))

    def parameters(self) -> Mapping[str, torch.Tensor]:
        return self.vectors

    def draw(self, step: int) -> list[Batch]:
        return self.samples.draw(step)

    def losses(self, batch: Batch) -> torch.Tensor:
        condition = self.host.encode_prompts(batch.prompts)
        return denoising_losses(self.host, condition, batch, self.alphas_cumprod, self.settings)

    def shares(self) -> Mapping[str, float]:
        return {}

    def attached(self) -> AbstractContextManager[None]:
        return nullcontext()  # the host knows the vectors

    def after_step(self) -> None:
        pass

    def export(self, parameters: Mapping[str, torch.Tensor], step: int, job: str) -> list[Writer]:
        vectors = vectors_of(parameters, self.settings)
        return [writer_of(e) for e in as_embeddings(vectors, self.host, self.settings, step, job)]


def parameters_of(vectors: Embeddings) -> dict[str, torch.Tensor]:
    """The vectors of each word by names of their own: of the first word that of the text encoder, of the
    others the word and that, such as "my-dog clip_l"."""
    return {
        f"{word} {encoder}" if i else encoder: tensor
        for i, (word, tensors) in enumerate(vectors.items())
        for encoder, tensor in tensors.items()
    }


def vectors_of(parameters: Mapping[str, torch.Tensor], settings: VectorSettings) -> Embeddings:
    """The parameters as the vectors of each word; gradient reaches them."""
    vectors: dict[str, dict[str, torch.Tensor]] = {
        word: {} for word in (settings.trigger, *settings.words.others)
    }
    for name, tensor in parameters.items():
        word, _, encoder = name.rpartition(" ")
        vectors[word or settings.trigger][encoder] = tensor
    return vectors


def as_embedding(
    vectors: Mapping[str, torch.Tensor],
    host: Host,
    settings: JobSettings,
    step: int,
    job: str = "",
    *,
    name: str = "",
    more: Mapping[str, str] | None = None,
) -> Embedding:
    """The vectors as a file will carry them. The settings travel along, the picture folders do not:
    where somebody keeps their pictures is nobody's business. ``job``: the id of the one that made them.
    ``name``: where it is not the settings' own; ``more``: metadata beside the usual ones."""
    metadata = {
        "job": job,
        "base_model": host.info.name,
        "base_model_sha256": host.info.sha256,
        "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "modelspec.prediction_type": {"eps": "epsilon", "v": "v"}[host.info.prediction],
        "settings": json.dumps(settings.for_others, ensure_ascii=False, sort_keys=True),
        **settings.metadata,
        **(more or {}),
    }
    on_cpu = {name: value.detach().float().cpu().clone() for name, value in vectors.items()}
    return Embedding(name=name or settings.name, vectors=on_cpu, step=step, metadata=metadata)


def as_embeddings(
    vectors: Embeddings, host: Host, settings: VectorSettings, step: int, job: str = ""
) -> list[Embedding]:
    """The words as their files carry them."""
    return [
        as_embedding(
            vectors[word],
            host,
            settings,
            step,
            job,
            name=word,
            more={IS_NEGATIVE: "true"} if word in settings.words.for_negative else {},
        )
        for word in settings.words.all
    ]


def writer_of(embedding: Embedding) -> Writer:
    return partial(write_safetensors, embedding)


def check_start(
    host: Host, settings: VectorSettings, lines: Sequence[str], captions: Sequence[str]
) -> list[str]:
    """As ``preflight``, of the prompts that template lines and captions make."""
    return preflight(host, settings, all_prompts(lines, settings.trigger, captions))


def untrained(host: Host, settings: VectorSettings) -> list[Writer]:
    """A writer for each word as it starts."""
    return [
        writer_of(embedding) for embedding in as_embeddings(initial_words(host, settings), host, settings, 0)
    ]
