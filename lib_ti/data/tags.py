"""Captions of a folder edited together: text found and replaced, tags added, removed, sorted, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_ti.core.errors import BadInput
from lib_ti.core.regex import replace_all
from lib_ti.data.captions import check_extension, read_caption, tags_of
from lib_ti.data.images import find_images

SORTS = ("no", "by name", "by frequency")


@dataclass(frozen=True)
class Edit:
    """What is done to every caption, in this order. ``keep``: so many tags at the front are not sorted."""

    find: str = ""
    replace: str = ""
    regex: bool = False
    remove: Sequence[str] = ()
    prepend: Sequence[str] = ()
    add: Sequence[str] = ()
    sort: str = "no"
    keep: int = 0
    separator: str = ","

    @property
    def on_tags(self) -> bool:
        return bool(self.remove or self.prepend or self.add or self.sort != "no")


def captions_in(folder: Path, extension: str = ".txt") -> dict[Path, str]:
    """Text file -> caption, of every picture directly in ``folder``; the file may not be there yet.

    Pictures of one stem share it. Raises BadInput.
    """
    return {sidecar(path, extension): read_caption(path, extension=extension) for path in find_images(folder)}


def sidecar(picture: Path, extension: str = ".txt") -> Path:
    """The text file with the caption of ``picture``. Raises BadInput for an ending that is another file's."""
    check_extension(extension)
    return picture.with_name(picture.stem + extension)


def count_tags(captions: Sequence[str], separator: str = ",") -> dict[str, int]:
    """In how many captions each tag is, the most frequent first."""
    counted = Counter(tag for caption in captions for tag in dict.fromkeys(tags_of(caption, separator)))
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0].casefold())))


def edit_captions(captions: Sequence[str], edit: Edit) -> list[str]:
    """``captions`` after ``edit``. Tags are added where they are not there yet; prose stays as it is unless
    something is done to tags. Raises BadInput for a separator that is none, and for a bad pattern."""
    if not edit.separator.strip():
        raise BadInput("separator: got nothing to split at, expected a sign such as a comma.")
    edited = list(captions)
    if edit.find and edit.regex:
        edited = replace_all(edit.find, edit.replace, edited)
    elif edit.find:
        edited = [caption.replace(edit.find, edit.replace) for caption in edited]
    if not edit.on_tags:
        return edited
    tags = [_with_tags(tags_of(caption, edit.separator), edit) for caption in edited]
    joint = f"{edit.separator} "
    counts = count_tags([joint.join(each) for each in tags], edit.separator)
    return [joint.join(_sorted(each, edit, counts)) for each in tags]


def _with_tags(tags: Sequence[str], edit: Edit) -> list[str]:
    left = [tag for tag in tags if tag not in edit.remove]
    front = [tag for tag in edit.prepend if tag not in left]
    return [*front, *left, *(tag for tag in edit.add if tag not in (*front, *left))]


def _sorted(tags: Sequence[str], edit: Edit, counts: Mapping[str, int]) -> list[str]:
    if edit.sort == "no":
        return list(tags)
    frequent = edit.sort == "by frequency"
    rest = sorted(tags[edit.keep :], key=lambda tag: (-counts[tag] if frequent else 0, tag.casefold()))
    return [*tags[: edit.keep], *rest]
