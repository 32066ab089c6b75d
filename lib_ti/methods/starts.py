"""Where the vectors start: at words, at what the text encoder makes of them, at an existing embedding, or at
what the pictures say one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.loop import Loop
from lib_ti.core.randomness import generator_at
from lib_ti.core.schedule import learning_rate_of
from lib_ti.data.samples import TrainingSet
from lib_ti.formats.embedding import read_embedding
from lib_ti.hosts.base import Embeddings, Host
from lib_ti.methods.kind import Kind
from lib_ti.methods.vector_settings import MOST_PICTURES, VectorSettings

_INIT = 0  # the place of the random numbers of a random start; steps count from 1
Vectors = dict[str, torch.Tensor]  # text encoder -> (n, d)


def initial_vectors(host: Host, settings: VectorSettings) -> Vectors:
    """The start before any picture is seen, per text encoder: (n, d), float32, on the CPU or where the
    vocabulary is. Raises BadInput for an empty init text, or for a file that does not fit."""
    if settings.weights:
        return _from_file(host, Path(settings.weights), settings.vectors)
    if settings.init == "zero":
        return {name: torch.zeros(settings.vectors, d) for name, d in host.info.text_encoders.items()}
    if settings.init == "random":
        return {name: _random(host, name, settings) for name in host.info.text_encoders}
    ids = host.tokenize(settings.init_text)
    if not ids:
        raise BadInput('init-text is empty; give a word such as "dog", or choose --init zero or random.')
    rows = [ids[i % len(ids)] for i in range(settings.vectors)]
    words = {name: host.token_vectors(name)[rows].clone() for name in host.info.text_encoders}
    return _through_encoder(host, settings.trigger, words) if settings.init == "cross" else words


def words_left_out(host: Host, option: str, text: str, settings: VectorSettings) -> list[str]:
    """What of ``text``, which ``option`` gives for the start, is not in the vectors: "*" stands for nothing
    said."""
    if text in ("", "*"):
        return []
    if not settings.asks_text:
        start = "an existing file" if settings.weights else settings.init
        return [f"{option} {text!r} is not in the vectors, whose start is {start}"]
    count = len(host.tokenize(text))
    if count <= settings.vectors:
        return []
    left = "last one is" if count == settings.vectors + 1 else f"last {count - settings.vectors} are"
    said = f"warning: {option} {text!r} has {count} tokens, and the word {settings.vectors} vectors"
    return [f"{said}: the {left} left out of the start; {count} vectors would hold them all"]


def _random(host: Host, encoder: str, settings: VectorSettings) -> torch.Tensor:
    vocabulary = host.token_vectors(encoder)
    width = vocabulary.shape[1]
    noise = torch.randn(settings.vectors, width, generator=generator_at(settings.seed, _INIT, width))
    return vocabulary.mean(0).cpu() + noise * vocabulary.std(0).cpu()


def _through_encoder(host: Host, trigger: str, words: Vectors) -> Vectors:
    """Cross initialisation (arXiv 2312.15905): what the text encoder answers to ``words``, at their places.

    The answer is the U-Net's condition, with the host's clip skip and, where the family has one, the final
    norm; of SDXL the part of each encoder, which lie side by side in the order of the families' encoders.
    The paper takes it as it is, many times longer than any word's vector; here each vector is scaled to the
    vocabulary's median norm.
    """
    # As vectors of the new word they stand right after the start mark, and nothing in them is emphasis.
    host.set_embeddings({trigger: words})
    count = len(next(iter(words.values())))
    with torch.no_grad():
        hidden = host.encode_prompts([trigger]).hidden[0, 1 : 1 + count].float()
    parts = hidden.split(list(host.info.text_encoders.values()), dim=1)
    return at_usual_length(host, dict(zip(host.info.text_encoders, parts, strict=True)))


def _from_file(host: Host, file: Path, count: int) -> Vectors:
    """The vectors of an embedding that was made for this family, as many as the word is to have."""
    found, info = read_embedding(file), host.info
    if found.family != info.family:
        raise BadInput(
            f"weights: {file.name} was made for {found.family}, the model {info.name} is {info.family}; "
            "give an embedding of its family."
        )
    for encoder, width in info.text_encoders.items():
        if found.vectors[encoder].shape[1] != width:
            raise BadInput(
                f"weights: the vectors of {file.name} have {found.vectors[encoder].shape[1]} numbers for "
                f"{encoder}, the model {info.name} reads {width}; give an embedding made for it."
            )
    if found.count != count:
        raise BadInput(
            f"weights: {file.name} has {found.count} vectors, the new word is to have {count}; "
            f"set the number of vectors to {found.count}."
        )
    return dict(found.vectors)


def at_usual_length(host: Host, vectors: Mapping[str, torch.Tensor]) -> Vectors:
    """Every vector scaled to the median norm of its text encoder's vocabulary."""
    scaled = {}
    for encoder, rows in vectors.items():
        usual = host.token_vectors(encoder).norm(dim=1).median().to(rows.device)
        scaled[encoder] = rows * (usual / rows.norm(dim=1, keepdim=True).clamp_min(1e-12))
    return scaled


def from_pictures(
    kind: Kind,
    host: Host,
    settings: VectorSettings,
    samples: TrainingSet,
    start: Embeddings,
    say: Callable[[str], None],
    stopped: Callable[[], bool],
) -> Embeddings | None:
    """The mean of what each picture teaches alone, at a word's usual length; None if stopped on the way.

    Every picture, or ``MOST_PICTURES`` of them, is inverted by itself for ``init_steps`` steps from
    ``start``, with the job's seed, batch, loss and first stage of its learning rate. A job that starts
    elsewhere keeps its ``start``.
    """
    if not settings.starts_from_pictures:
        return start
    alone = replace(
        settings, decay="constant", warmup="0", scheduler="", initial_step=0, ema=0.0, stop_rule="none"
    )
    rate = learning_rate_of(alone).base
    alone = replace(alone, steps=settings.init_steps, learning_rate=f"{rate}")
    rows = _spread(samples.pictures, MOST_PICTURES)
    found = list[Embeddings]()
    for number, row in enumerate(rows, 1):
        say(f"finding the start: picture {number} of {len(rows)}, {alone.steps} steps")
        method = kind.make(host, alone, samples.only(row), start)
        loop = Loop(method, learning_rate_of(alone), None, alone)
        ended = loop.run(
            alone.steps, due=lambda step: False, on_progress=lambda progress: None, stopped=stopped
        )
        if ended == "stopped":
            return None
        found.append(kind.vectors(loop.result(), alone))
    return {word: at_usual_length(host, _mean(_taught(word, found, start))) for word in start}


def _taught(word: str, found: Sequence[Embeddings], start: Embeddings) -> list[Mapping[str, torch.Tensor]]:
    """What the pictures whose prompts have the word made of it."""
    moved = [
        one[word]
        for one in found
        if any(not torch.equal(rows, start[word][encoder].to(rows)) for encoder, rows in one[word].items())
    ]
    return moved or [start[word]]


def _mean(found: Sequence[Mapping[str, torch.Tensor]]) -> Vectors:
    return {encoder: torch.stack([vectors[encoder] for vectors in found]).mean(0) for encoder in found[0]}


def _spread(rows: Sequence[int], most: int) -> list[int]:
    """At most so many of ``rows``, evenly spread."""
    count = min(len(rows), most)
    return [rows[i * len(rows) // count] for i in range(count)]
