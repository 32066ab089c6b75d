"""Why an embedding does not do what it should: what can be seen without drawing, and what helps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from lib_ti.core import limits
from lib_ti.core.names import as_prompted
from lib_ti.formats.embedding import Embedding
from lib_ti.hosts.base import Host
from lib_ti.methods.dreamartist_settings import NEGATIVE_SUFFIX
from lib_ti.methods.textual_inversion import tokens_found
from lib_ti.methods.vocabulary import Vocabulary, misfit

_MANY = limits.VECTORS // 3  # vectors that leave little of a chunk to other words
_SAME = 0.999  # cosine of vectors that say the same
_STILL = 0.02  # of a word's length: no further from it means hardly trained
_FAINT = 0.1  # of the usual length: hardly heard
# Of a prompt, what is no token (networks, emphasis), beside brackets that are text.
_SYNTAX = re.compile(r"\\(?P<text>[()\[\]\\])|<[^>]*>|[()\[\]]|:[0-9.]+(?=\))")


@dataclass(frozen=True)
class Finding:
    """``what`` is wrong and what to do about it, a sentence each."""

    what: str
    remedy: str


def check_alone(embedding: Embedding) -> Iterator[Finding]:
    """What the file itself tells."""
    yield from _silent_vectors(embedding)
    yield from _twins(embedding)
    if embedding.count > _MANY:
        yield Finding(
            f"It takes {embedding.count} of the {limits.VECTORS} places that a chunk of a prompt has.",
            "Keep the rest of the prompt short, or keep fewer of its vectors (embedding prune).",
        )
    if unused := embedding.metadata.get("not_used"):
        yield Finding(
            f"The file holds more than the embedding ({unused}), which some programs refuse to read.",
            "Write it anew without (embedding convert).",
        )


def _silent_vectors(embedding: Embedding) -> Iterator[Finding]:
    for encoder, rows in embedding.vectors.items():
        if silent := _rows(rows.norm(dim=1) == 0):
            yield Finding(
                f"{_listed(silent)} of {encoder}: all zeros, so never trained, or not able to learn.",
                "Leave them out (embedding prune), or train again from an init text.",
            )


def _twins(embedding: Embedding) -> Iterator[Finding]:
    """Only where they are the same for every text encoder."""
    count = embedding.count
    alike = torch.ones(count, count, dtype=torch.bool)
    for rows in embedding.vectors.values():
        alike &= torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") == 0
    pairs = [f"{i + 1} and {j + 1}" for i in range(count) for j in range(i + 1, count) if alike[i, j]]
    if pairs:
        yield Finding(
            f"Vectors {', '.join(pairs)} are the same, so one of them only takes room.",
            "Keep one of each (embedding prune); next time train with fewer vectors or a longer init text.",
        )


def check_with_model(embedding: Embedding, vocabulary: Vocabulary) -> Iterator[Finding]:
    """What a model tells beside it."""
    if unfit := misfit(embedding.vectors, embedding.family, vocabulary.host):
        yield Finding(
            f"{unfit[0].upper()}{unfit[1:]}.", "Load a model of its kind, or train it for this one."
        )
        return
    for encoder, rows in embedding.vectors.items():
        yield from _lengths(encoder, rows, vocabulary)
    yield from _plain_words(embedding, vocabulary)
    if word := vocabulary.word_called(embedding.name):
        yield Finding(
            f"Its name is the word {word!r}, so every prompt with that word means the embedding.",
            "Give it a name that is no word (embedding rename).",
        )


def _lengths(encoder: str, rows: torch.Tensor, vocabulary: Vocabulary) -> Iterator[Finding]:
    found = vocabulary.lengths(encoder, rows)
    norms = torch.tensor(found.norms)
    if long := _rows(norms > found.longest):
        times = float(norms.max()) / found.median
        yield Finding(
            f"{_listed(long)} of {encoder}: longer than any word, up to {times:.1f} times the usual length, "
            "which drowns the rest of a prompt (trained too long or at too high a rate).",
            "Write it with less weight, (NAME:0.7); take an earlier saved step; or shorten it "
            "(embedding mix, 0.5*NAME).",
        )
    if faint := _rows((norms < _FAINT * found.median) & (norms > 0)):
        yield Finding(
            f"{_listed(faint)} of {encoder}: shorter than a tenth of a usual word, so hardly heard (never "
            "trained, or scaled down).",
            "Train longer or at a higher rate; or leave them out (embedding prune).",
        )


def _plain_words(embedding: Embedding, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Vectors that are still the word they started from, for every text encoder."""
    still: dict[int, str] | None = None
    for encoder, rows in embedding.vectors.items():
        near = [found[0][0] for found in vocabulary.nearest(encoder, rows, 1)]
        starts = vocabulary.vectors_of(encoder, near)
        same = (rows - starts).norm(dim=1) < _STILL * starts.norm(dim=1)
        here = {number: near[number - 1] for number in _rows(same)}
        still = here if still is None else {n: word for n, word in still.items() if here.get(n) == word}
    if still:
        words_told = ", ".join(map(repr, still.values()))
        yield Finding(
            f"{_listed(list(still))}: still the vocabulary's own {words_told}, so hardly trained.",
            "Train longer or at a higher rate.",
        )


def check_among(embedding: Embedding, others: Mapping[str, Embedding]) -> Iterator[Finding]:
    """What the other embeddings of a folder tell, by their files."""
    named = [file for file, other in others.items() if other.name.lower() == embedding.name.lower()]
    if named:
        yield Finding(
            f"{', '.join(named)} has the same name; only one of them is heard, and which is by chance.",
            "Rename or remove one of them.",
        )
    same = [file for file, other in others.items() if file not in named and _same(embedding, other)]
    if same:
        yield Finding(f"{', '.join(same)} holds the same vectors under another name.", "Remove one of them.")
    if embedding.name.endswith(NEGATIVE_SUFFIX):
        positive = embedding.name.removesuffix(NEGATIVE_SUFFIX)
        if all(other.name != positive for other in others.values()):
            yield Finding(
                f"It is the negative half of a pair whose other half, {positive}, is not in the folder.",
                f"Put {positive} beside it, or use it in negative prompts alone.",
            )


def check_prompts(embedding: Embedding, prompt: str, negative: str, host: Host) -> Iterator[Finding]:
    """What the prompts tell that it is used in; empty ones are not looked at."""
    for_negative = embedding.is_negative or embedding.name.endswith(NEGATIVE_SUFFIX)
    ids = host.tokenize(embedding.name)
    places = {"prompt": prompt, "negative prompt": negative}
    said = {place: host.tokenize(_plain(text)) for place, text in places.items() if text.strip()}
    found = {place: tokens_found(tokens, ids) for place, tokens in said.items()}
    if found and not any(found.values()):
        yield _not_called(embedding.name, places)
    if for_negative and found.get("prompt"):
        yield Finding(
            "It is for the negative prompt, and stands in the prompt: pictures get what it should keep away.",
            "Write it into the negative prompt.",
        )
    for place, times in found.items():
        tokens = len(said[place]) + times * (embedding.count - len(ids))
        if times and tokens > limits.VECTORS:
            yield Finding(
                f"With it the {place} has {tokens} tokens, more than the {limits.VECTORS} of one chunk; what "
                "stands in another chunk is heard less together with it.",
                "Shorten the prompt, or write BREAK where it may be cut.",
            )


def _plain(prompt: str) -> str:
    """Its text alone: a blank for each part of its syntax."""
    return _SYNTAX.sub(lambda part: part["text"] or " ", prompt)


def _not_called(name: str, prompts: Mapping[str, str]) -> Finding:
    """``prompts``: by what they are for, those that are looked at not empty."""
    if missed := why_missed(name, "\n".join(prompts.values())):
        return missed
    where = " or the ".join(place for place, text in prompts.items() if text.strip())
    return Finding(f"{name} is not in the {where}.", f"Write it there as {as_prompted(name)}.")


def why_missed(name: str, prompt: str) -> Finding | None:
    """Why ``prompt``, in which an embedding was not found, does not call it though its name stands there;
    None where it does not stand there."""
    written = as_prompted(name)
    if written in prompt and not name[-1].isalnum():
        return Finding(
            f"{name} is not called: its last sign and the one that follows are one token to the model.",
            f"Write a blank after {written}.",
        )
    if written != name and name in prompt:
        return Finding(
            f"{name} is not called: without backslashes the brackets of its name are emphasis.",
            f"Write {written} there; or give it a name without brackets (embedding rename).",
        )
    return None


def _same(one: Embedding, other: Embedding) -> bool:
    if {e: v.shape for e, v in one.vectors.items()} != {e: v.shape for e, v in other.vectors.items()}:
        return False
    cosines = [torch.cosine_similarity(v, other.vectors[e]).min() for e, v in one.vectors.items()]
    return float(min(cosines)) > _SAME


def _rows(found: torch.Tensor) -> list[int]:
    """The numbers, from 1, of the rows that are true."""
    return [int(row) + 1 for row in found.nonzero().flatten()]


def _listed(numbers: Sequence[int]) -> str:
    """The vectors of these numbers."""
    return f"Vector{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
