"""New embeddings of the vectors of others: put together, reckoned, left out, put in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from lib_ti.core.errors import BadInput
from lib_ti.core.names import files_inside, find_named
from lib_ti.formats.embedding import Embedding, read_embedding
from lib_ti.formats.suffixes import EMBEDDINGS
from lib_ti.hosts.base import Host
from lib_ti.methods.mixing import Rows, Sources, concatenated, mixed, weighted_sum
from lib_ti.methods.pruning import most_important, parse_rows
from lib_ti.tools.embedding_files import save
from lib_ti.tools.embedding_tools import MergeSettings, MixSettings, PruneSettings
from lib_ti.tools.tool import Answer, Context, each, numbers_for

# What is said of what one file was, and not of what is made of it.
_OWN = {"job", "settings", "modelspec.date", "not_used", "bundled_in", "token", "name"}


def merge(settings: MergeSettings, context: Context) -> Answer:
    embeddings = [read_embedding(Path(file)) for file in each(settings.files)]
    if len(embeddings) < 2:
        raise BadInput(f"files: got {len(embeddings)}; expected two embeddings or more.")
    parts = [rows_of(embedding, settings.short) for embedding in embeddings]
    if settings.how == "join":
        if settings.weights.strip():
            raise BadInput("weights: they belong to a sum; leave them out, or choose sum.")
        made = ", ".join(part.name for part in parts)
    else:
        weights = numbers_for("weights", settings.weights, len(parts)) or [1 / len(parts)] * len(parts)
        made = " + ".join(f"{w:g}*{part.name}" for w, part in zip(weights, parts, strict=True))
    try:
        rows = concatenated(parts) if settings.how == "join" else weighted_sum(parts, weights)
    except ValueError as error:
        raise BadInput(f"merge: {error}.") from None
    return _saved(rows, embeddings, made, settings.to, overwrite=settings.overwrite)


def mix(settings: MixSettings, context: Context) -> Answer:
    """Embeddings are found by name in the folder of embeddings, words in the model's vocabulary."""
    used: dict[str, Embedding] = {}
    there = files_inside(context.folders.embeddings, EMBEDDINGS)

    def embedding(name: str) -> Rows:
        used[name] = found = read_embedding(_find(name, there))
        return Rows(name, found.vectors, settings.short)  # type: ignore[arg-type]

    def words(text: str) -> Rows:
        return Rows(f'"{text}"', _of_words(text, context.look()), settings.short)  # type: ignore[arg-type]

    try:
        rows = mixed(settings.expression, Sources(embedding, words))
    except (ValueError, ArithmeticError) as error:
        raise BadInput(f"expression {settings.expression[:60]!r}: {error}.") from None
    return _saved(
        rows, list(used.values()), settings.expression.strip(), settings.to, overwrite=settings.overwrite
    )


def _find(name: str, there: Mapping[str, Path]) -> Path:
    """By the path below the folder, or by the word that prompts say."""
    stems = [path for path in there.values() if path.stem == name]
    return stems[0] if len(stems) == 1 and name not in there else find_named(name, there, "embeddings")


def _of_words(text: str, host: Host) -> dict[str, torch.Tensor]:
    ids = host.tokenize(text)
    if not ids:
        raise ValueError(f"there is no word in {text!r}")
    return {encoder: host.token_vectors(encoder)[ids].float().cpu() for encoder in host.info.text_encoders}


def prune(settings: PruneSettings, context: Context) -> Answer:
    """Fewer vectors, or the same in another order."""
    embedding = read_embedding(Path(settings.file))
    if bool(settings.keep.strip()) == bool(settings.drop):
        raise BadInput("keep, drop: expected one of them: which vectors to keep, or how many to leave out.")
    if settings.drop >= embedding.count:
        raise BadInput(f"drop: got {settings.drop}; {embedding.name} has {embedding.count} vectors.")
    try:
        if settings.keep.strip():
            kept = parse_rows(settings.keep, embedding.count)
        else:
            kept = most_important(embedding.vectors, settings.drop, settings.criterion)
    except ValueError as error:
        raise BadInput(f"keep: {error}; expected such as 3,1,4-6.") from None
    rows = Rows(embedding.name, {e: v[kept] for e, v in embedding.vectors.items()})
    numbers = [row + 1 for row in kept]
    made = f"{embedding.name}, vectors {', '.join(map(str, numbers))}"
    answer = _saved(rows, [embedding], made, settings.to, overwrite=settings.overwrite)
    left = [n for n in range(1, embedding.count + 1) if n not in numbers]
    return Answer(answer.sentence, {"kept": numbers, "left out": left}, answer.written)


def rows_of(embedding: Embedding, short: str = "refuse") -> Rows:
    return Rows(embedding.name, embedding.vectors, short)  # type: ignore[arg-type]


def _saved(rows: Rows, sources: Sequence[Embedding], made: str, to: str, *, overwrite: bool) -> Answer:
    """``rows`` as a file; it says what all of ``sources`` say alike, and how it was made."""
    common = dict(sources[0].metadata) if sources else {}
    common = {
        key: text
        for key, text in common.items()
        if key not in _OWN and all(one.metadata.get(key) == text for one in sources)
    }
    names = ", ".join(dict.fromkeys(one.name for one in sources))
    metadata = {**common, "made_by": made, **({"modelspec.merged_from": names} if len(sources) > 1 else {})}
    path = save(Embedding(Path(to).stem, rows.vectors, None, metadata), to, overwrite=overwrite)
    count = rows.count
    return Answer(f"Wrote {path}: {count} vector{'s' * (count != 1)}, {made}.", {"vectors": count}, (path,))
