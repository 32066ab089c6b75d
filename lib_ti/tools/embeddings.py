"""The workshop of embeddings: what a file holds, and why it does not do what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.core.names import files_inside
from lib_ti.formats.embedding import Embedding, NotFinite, read_embeddings
from lib_ti.formats.suffixes import EMBEDDINGS
from lib_ti.methods.embedding_check import (
    Finding,
    check_alone,
    check_among,
    check_prompts,
    check_with_model,
)
from lib_ti.methods.vocabulary import Vocabulary, misfit
from lib_ti.tools.embedding_tools import CheckSettings, InspectSettings
from lib_ti.tools.tool import Answer, Context

# What a file says of where it comes from -> how that is told.
_ORIGIN = {
    "base_model": "trained on",
    "base_model_sha256": "checkpoint (sha256)",
    "sd_checkpoint": "checkpoint (hash)",
    "modelspec.implementation": "",
    "modelspec.date": "written",
    "modelspec.author": "author",
    "modelspec.merged_from": "merged from",
    "made_by": "made by",
    "job": "job",
    "positive_embedding": "negative half of",
    "negative_embedding": "positive half of",
    "bundled_in": "bundled in",
    "not_used": "not used",
}


def inspect(settings: InspectSettings, context: Context) -> Answer:
    path = Path(settings.file)
    embeddings = read_embeddings(path)
    vocabulary, why = _vocabulary(context) if settings.words else (None, "")
    found = []
    for embedding in embeddings:
        told = describe(embedding)
        if vocabulary is not None:
            unfit = misfit(embedding.vectors, embedding.family, vocabulary.host)
            told["vectors"] = rows_of(embedding, None if unfit else vocabulary, settings.words)
            told["beside the model"] = unfit or vocabulary.host.info.name
        elif why:
            told["beside the model"] = why
        found.append(told)
    sentence = "; ".join(f"{e.name}: {_vectors(e.count)} for {e.family}" for e in embeddings)
    notes = [
        f"{one.name}: not used of the file are {one.metadata['not_used']}."
        for one in embeddings
        if "not_used" in one.metadata
    ]
    if len(embeddings) > 1 and not any("bundled_in" in one.metadata for one in embeddings):
        notes.append(
            f"{path.name} holds {len(embeddings)} words, and WebUIs want a file for each: 'embedding split' "
            "writes them."
        )
    return Answer(sentence + ".", {"file": path.name, "embeddings": found}, notes=tuple(notes))


def describe(embedding: Embedding) -> dict[str, Any]:
    """What a file says without a model, as JSON values."""
    said = embedding.metadata
    return {
        "name": embedding.name,
        "family": embedding.family,
        "encoders": {name: rows.shape[1] for name, rows in embedding.vectors.items()},
        "step": embedding.step,
        "for the negative prompt": embedding.is_negative,
        **{told: said[key] for key, told in _ORIGIN.items() if told and said.get(key)},
        "vectors": rows_of(embedding),
        "metadata": dict(said),
    }


def rows_of(
    embedding: Embedding, vocabulary: Vocabulary | None = None, words: int = 0
) -> list[dict[str, Any]]:
    """A row of a table for each vector of each text encoder: its Euclidean norm, and beside the model's
    words how long that is and which of them are nearest (cosine)."""
    table = []
    for encoder, rows in embedding.vectors.items():
        told: list[dict[str, Any]] = [
            {"encoder": encoder, "vector": at, "norm": round(float(norm), 4)}
            for at, norm in enumerate(rows.norm(dim=1), 1)
        ]
        if vocabulary is not None:
            beside, nearest = vocabulary.lengths(encoder, rows), vocabulary.nearest(encoder, rows, words)
            for row, norm, share, near in zip(told, beside.norms, beside.shares, nearest, strict=True):
                row["of a word's length"] = round(norm / beside.median, 2)
                row["longer than"] = f"{share:.0%} of the words"
                row["nearest words"] = ", ".join(f"{word} {cosine:.2f}" for word, cosine in near)
        table += told
    return table


def _vocabulary(context: Context) -> tuple[Vocabulary | None, str]:
    """The model's, or why there is none."""
    try:
        return Vocabulary(context.look()), ""
    except BadInput as error:
        return None, str(error)


def _vectors(count: int) -> str:
    return f"{count} vector{'s' * (count != 1)}"


def check(settings: CheckSettings, context: Context) -> Answer:
    """Never fails for a file that cannot be read: that is its finding."""
    folder = context.folders.embeddings
    there = files_inside(folder, EMBEDDINGS)
    names = {path.resolve(): name for name, path in there.items()}
    wanted = [Path(settings.file)] if settings.file else list(there.values())
    if not wanted:
        raise BadInput(f"there is no embedding in {folder}; name the file that is to be looked at.")
    read, broken = _read_all([*wanted, *(path for path in there.values() if path not in wanted)], names)
    vocabulary, why = _vocabulary(context) if settings.compare else (None, "")
    found: list[dict[str, str]] = []
    for done, path in enumerate(wanted, 1):
        name = names.get(path.resolve(), path.name)
        findings = [broken[name]] if name in broken else _findings(settings, name, read, vocabulary)
        found += [{"file": name, "what": one.what, "what to do": one.remedy} for one in findings]
        context.progress(done, len(wanted))
    off = len({one["file"] for one in found})
    return Answer(_summary(len(wanted), off, len(found), why), {"found": found})


def _findings(
    settings: CheckSettings,
    name: str,
    read: dict[str, list[Embedding]],
    vocabulary: Vocabulary | None,
) -> list[Finding]:
    others = {file: one for file, all_ in read.items() if file != name for one in all_}
    found: list[Finding] = []
    for embedding in read[name]:
        found += check_alone(embedding)
        found += check_among(embedding, others)
        if vocabulary is not None:
            found += check_with_model(embedding, vocabulary)
            found += check_prompts(embedding, settings.prompt, settings.negative_prompt, vocabulary.host)
    return found


def _read_all(
    paths: list[Path], names: dict[Path, str]
) -> tuple[dict[str, list[Embedding]], dict[str, Finding]]:
    """What each file holds, and why the others cannot be read."""
    read: dict[str, list[Embedding]] = {}
    broken: dict[str, Finding] = {}
    for path in paths:
        name = names.get(path.resolve(), path.name)
        try:
            read[name] = read_embeddings(path)
        except NotFinite as error:
            remedy = "Take an earlier saved step of the job; train again at a lower rate."
            broken[name] = Finding(f"Its training broke: {error}", remedy)
        except BadInput as error:
            remedy = "Get or copy the file again; if it is another kind of file, move it to its own folder."
            broken[name] = Finding(f"It cannot be read: {error}", remedy)
    return read, broken


def _summary(files: int, off: int, findings: int, why: str) -> str:
    model = f" The model was not asked: {why}" if why else ""
    if not findings:
        which = "it" if files == 1 else f"the {files} embeddings"
        return f"Nothing wrong can be seen in {which}; what is drawn with it is another matter.{model}"
    told = f"{findings} thing{'s' * (findings > 1)} to know"
    return f"{told} of {off} of {files} embeddings.{model}" if files > 1 else f"{told}.{model}"
