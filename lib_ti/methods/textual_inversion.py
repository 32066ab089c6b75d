"""Textual inversion (arXiv 2208.01618): n vectors, found by gradient, that a prompt calls by a word."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.optimizers import KNOWN, known_as
from lib_ti.core.picture_settings import PRIVATE
from lib_ti.core.schedule import learning_rate_of
from lib_ti.core.settings import option
from lib_ti.data.samples import Batch, TrainingSet
from lib_ti.data.templates import all_prompts
from lib_ti.formats.embedding import Embedding, safe_name, write_safetensors
from lib_ti.hosts.base import Host
from lib_ti.methods.denoising import denoising_losses, noise_schedule
from lib_ti.methods.kind import JobSettings, Kind, Words, Writer
from lib_ti.methods.starts import from_pictures, initial_vectors


@dataclass(frozen=True)
class InversionSettings(JobSettings):
    """What textual inversion is told beside what every method is."""

    init_text: str = option(
        "*",
        "Words whose vectors are the start, in turn; say what kind of thing it is.",
        group="embedding",
        basic=True,
    )
    vectors: int = option(
        2,
        "Vectors the word stands for; each takes one of a prompt's 75 places.",
        group="embedding",
        low=1,
        high=75,
        basic=True,
    )
    init: str = option(
        "text",
        "Where the vectors start: text is the init text, cross what the text encoder makes of it, images the "
        "mean of what each picture teaches alone.",
        group="embedding",
        choices=("text", "cross", "images", "zero", "random"),
        label="Start from",
    )
    init_steps: int = option(
        20,
        "Steps in which each picture teaches alone, for a start from images.",
        group="embedding",
        low=1,
        high=10_000,
        unit="steps",
        label="Steps of the start",
    )
    weights: str = option(
        "",
        "File of an existing embedding, of as many vectors, to go on from; it goes before any other start.",
        group="embedding",
        label="Start from file",
    )

    @property
    def asks_text(self) -> bool:
        """Whether the start is made of words."""
        return self.init not in ("zero", "random") and not self.weights

    @property
    def start_asks_model(self) -> bool:
        return self.init == "cross" and not self.weights


def check_name(host: Host, name: str) -> None:
    """Raises BadInput where ``name`` is no usable file name, or already a word of the vocabulary."""
    safe_name(name)
    if len(host.tokenize(name)) == 1:
        raise BadInput(
            f"name {name!r} is an ordinary word of the model's vocabulary, every prompt with it would "
            f"change; expected a new word, such as my-{name}."
        )


def relative_travel(host: Host, settings: InversionSettings) -> float:
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


def found_in(host: Host, trigger: str, prompts: Sequence[str]) -> str:
    """In how many of ``prompts`` the host finds ``trigger``. Raises BadInput where it is in none: nothing
    could be learned."""
    found = sum(1 for prompt in prompts if host.count_triggers(prompt).get(trigger))
    if not found:
        raise BadInput(
            f"the trigger {trigger!r} occurs in none of the {len(prompts)} prompts "
            f"(first: {prompts[0]!r}); put [name] into the template's lines."
        )
    said = f"trigger {trigger!r} found in {found} of {len(prompts)} prompts"
    return said if found == len(prompts) else said + "; steps with the others teach nothing"


def preflight(host: Host, settings: InversionSettings, prompts: Sequence[str]) -> list[str]:
    """What should be said before the start; the host already knows the trigger.

    Raises BadInput where the trigger occurs in none of ``prompts``.
    """
    said = [found_in(host, settings.name, prompts)]
    known = known_as(settings.optimizer)
    if known is KNOWN["Prodigy"] and learning_rate_of(settings).at(1) < 0.1:
        said.append(
            "warning: Prodigy multiplies the rate it finds by learning-rate, which should be about 1.0"
        )
    if known is None or not known.moves_by_rate:
        return said
    travel = relative_travel(host, settings)
    reach = f"{travel:.0%} of" if travel < 1 else f"{travel:.0f} times"
    said.append(f"vectors can move {reach} a word's usual length")
    if travel < 0.1:
        said[1] = (
            f"warning: {said[1]}, too little to learn anything; raise learning-rate "
            f"({settings.learning_rate}) or steps ({settings.steps})"
        )
    return said


class TextualInversion:
    """The method for the training loop: its only parameters are the vectors."""

    def __init__(
        self,
        host: Host,
        settings: InversionSettings,
        samples: TrainingSet,
        start: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """``start``: vectors by text encoder, instead of those the settings describe."""
        self.host = host
        self.samples = samples
        self.settings = settings
        self.alphas_cumprod = noise_schedule(host, settings)
        given = initial_vectors(host, settings) if start is None else start
        device = host.info.device
        self.vectors = {k: v.to(device, copy=True).requires_grad_() for k, v in given.items()}
        host.set_embeddings({settings.name: self.vectors})

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
        return [writer_of(as_embedding(parameters, self.host, self.settings, step, job))]


def as_embedding(
    vectors: Mapping[str, torch.Tensor],
    host: Host,
    settings: InversionSettings,
    step: int,
    job: str = "",
    *,
    name: str = "",
    more: Mapping[str, str] | None = None,
) -> Embedding:
    """The vectors as a file will carry them. The settings travel along, the picture folders do not:
    where somebody keeps their pictures is nobody's business. ``job``: the id of the one that made them.
    ``name``: where it is not the settings' own; ``more``: metadata beside the usual ones."""
    told = {key: value for key, value in asdict(settings).items() if key not in PRIVATE}
    metadata = {
        "job": job,
        "base_model": host.info.name,
        "base_model_sha256": host.info.sha256,
        "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "modelspec.prediction_type": {"eps": "epsilon", "v": "v"}[host.info.prediction],
        "settings": json.dumps(told, ensure_ascii=False, sort_keys=True),
        **(more or {}),
    }
    on_cpu = {name: value.detach().float().cpu().clone() for name, value in vectors.items()}
    return Embedding(name=name or settings.name, vectors=on_cpu, step=step, metadata=metadata)


def writer_of(embedding: Embedding) -> Writer:
    return partial(write_safetensors, embedding)


KIND: Kind = Kind(
    name="ti",
    title="Textual inversion",
    settings=InversionSettings,
    words=lambda settings: Words(settings.name),
    start=lambda host, settings: {settings.name: initial_vectors(host, settings)},
    make=lambda host, settings, samples, start: TextualInversion(
        host, settings, samples, start[settings.name]
    ),
    preflight=lambda host, settings, lines, captions: preflight(
        host, settings, all_prompts(lines, settings.name, captions)
    ),
    vectors=lambda parameters, settings: {settings.name: parameters},
    refine=lambda *given: from_pictures(KIND, *given),
    create=lambda host, settings: [
        writer_of(as_embedding(initial_vectors(host, settings), host, settings, 0))
    ],
)
