"""Embedding files that belong together are written together, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from lib_ti.core.files import write_atomically
from lib_ti.formats.embedding import Embedding, write_safetensors


def write_together(files: Mapping[Path, Embedding]) -> None:
    """Every embedding into its safetensors file; what lay there stays if one of them cannot be written."""
    staged = {path: path.with_name(f".{path.name}.new") for path in files}
    try:
        for path, embedding in files.items():
            write_safetensors(embedding, staged[path])
        _replace_all(staged)
    finally:
        for new in staged.values():
            new.unlink(missing_ok=True)


def _replace_all(staged: Mapping[Path, Path]) -> None:
    """Rename each value to its key. Embeddings are small: what they replace is kept in memory meanwhile."""
    before = {path: path.read_bytes() if path.exists() else None for path in staged}
    replaced: list[Path] = []
    try:
        for path, new in staged.items():
            new.replace(path)
            replaced.append(path)
    except OSError:
        _put_back((path, before[path]) for path in replaced)
        raise


def _put_back(files: Iterable[tuple[Path, bytes | None]]) -> None:
    for path, content in files:
        if content is None:
            path.unlink()
        else:
            write_atomically(path, lambda temporary, content=content: temporary.write_bytes(content))  # type: ignore[misc]
