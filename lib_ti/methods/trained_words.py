"""The words whose embeddings lie in a folder, and which prompt each of them is for."""

from __future__ import annotations

from pathlib import Path

from lib_ti.core.errors import BadInput
from lib_ti.core.nearest import nearest
from lib_ti.formats.embedding import read_embedding
from lib_ti.formats.suffixes import EMBEDDINGS
from lib_ti.methods.dreamartist_settings import NEGATIVE_SUFFIX
from lib_ti.methods.kind import Words


def list_words(folder: Path) -> list[str]:
    """Every word, a pair by the one for the prompt alone."""
    files = _files(folder)
    return [word for word in files if not _is_second(word, files)]


def find_words(folder: Path, word: str) -> Words:
    """``word`` with its partner, if it has one, by the prompts they are for. Raises BadInput where there is
    no such embedding.

    Names tell a pair, as they do in prompts: a file that was renamed is called by its new name.
    """
    files = _files(folder)
    if word not in files:
        raise BadInput(f"there is no embedding {word!r} in {folder}{nearest(word, files)}.")
    if (partner := word + NEGATIVE_SUFFIX) in files:
        return Words(word, partner)
    if word.endswith(NEGATIVE_SUFFIX) or read_embedding(files[word]).is_negative:
        return Words("", word)
    return Words(word)


def _files(folder: Path) -> dict[str, Path]:
    """The file of each word, in the words' order; a file's stem is its word."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in EMBEDDINGS)
    return {path.stem: path for path in sorted(found, key=lambda path: path.stem.lower())}


def _is_second(word: str, files: dict[str, Path]) -> bool:
    return word.endswith(NEGATIVE_SUFFIX) and word.removesuffix(NEGATIVE_SUFFIX) in files
