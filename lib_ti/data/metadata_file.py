"""Metadata files of sd-scripts: captions and tags of many pictures in one file.

Source of the format: kohya-ss/sd-scripts, library/train_util.py, FineTuningDataset; written by its
finetune/merge_captions_to_metadata.py and merge_dd_tags_to_metadata.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lib_ti.core.errors import BadInput
from lib_ti.core.files import parse_json, read_text
from lib_ti.core.names import below

_MOST = 64 << 20  # bytes


def captions_of(
    file: Path, folder: Path, pictures: list[Path], *, separator: str, lines: bool
) -> dict[Path, str]:
    """Picture -> caption, of the ``pictures`` of ``folder`` that the metadata file names, in their order.

    ``separator``: between a caption and its tags; ``lines``: each line of a caption gets them. A picture is
    named by its path, whole or from ``folder``, with or without its ending.
    Raises BadInput for a file that is none, and for pictures that are not there.
    """
    by_name = {path.stem: path for path in pictures} | {path.name: path for path in pictures}
    found: dict[Path, str] = {}
    gone = []
    for key, told in _entries(file):
        try:
            path = below(folder, key)
        except BadInput as error:
            raise BadInput(f"{file}: a picture's path: {error}") from error
        picture = by_name.get(path.name) if path.parent.resolve() == folder.resolve() else None
        if picture is None:
            gone.append(path.name)
        else:
            found[picture] = _caption(file, told, separator, lines)
    if gone:
        more = f" and {len(gone) - 5} more" if len(gone) > 5 else ""
        raise BadInput(
            f"{file} names pictures that are not in {folder}: {', '.join(gone[:5])}{more}; put them there, "
            "or take them out of the file."
        )
    return {picture: found[picture] for picture in pictures if picture in found}


def _entries(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each picture's path and what is said of it. Raises BadInput."""
    text = read_text(file, _MOST)
    try:
        if file.suffix.lower() == ".jsonl":
            told = [parse_json(line, _MOST) for line in text.splitlines() if line.strip()]
            entries = {entry["image_path"]: entry for entry in told}
        else:
            entries = parse_json(text, _MOST)
        if not isinstance(entries, dict) or not entries:
            raise ValueError
        if not all(isinstance(key, str) and isinstance(value, dict) for key, value in entries.items()):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise BadInput(
            f"{file} is no metadata file; expected JSON such as "
            '{"cat.png": {"caption": "a cat", "tags": "cat, black"}}.'
        ) from None
    yield from entries.items()


def _caption(file: Path, told: Mapping[str, Any], separator: str, lines: bool) -> str:
    caption, tags = told.get("caption") or "", told.get("tags") or ""
    if not isinstance(caption, str) or not isinstance(tags, str):
        raise BadInput(f"{file}: a caption or tags in it are no text; write them in quotes.")
    if not tags:
        return caption
    if lines:
        flat = tags.replace("\n", separator)
        return "\n".join(f"{line}{separator}{flat}" for line in caption.split("\n") if line.strip()) or flat
    return f"{caption}{separator}{tags}" if caption else tags
